//! The choice which gateways have to pass a verification before they go live: a form of its own on Outbound Mail
//! Gateway. What follows from it is `policy::going_live`'s.

use axum::{extract::State, response::Response};
use serde::Deserialize;

use super::{
    App, Route,
    choice::Choice,
    error::{PageError, see_other},
    form::Form,
    outbound_mail_gateway,
    session::InOrganization,
};
use crate::{policy::going_live::VerifyBeforeLive, store};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway/verify-before-live";

const CHOICE: Choice = Choice {
    forbidden: "Only an Administrator may say what is verified before it goes live. Ask one of your organization.",
    unchanged: "before-live",
    changed: "before_live",
};

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeforeLiveForm {
    verify_before_live: String,
    /// How it stood when the form was shown.
    seen: String,
}

/// The form stands on another page.
async fn show(inside: InOrganization) -> Response {
    see_other(&outbound_mail_gateway::here(&inside.access.slug).build())
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<BeforeLiveForm>,
) -> Result<Response, PageError> {
    let wanted: VerifyBeforeLive = form
        .verify_before_live
        .parse()
        .map_err(|_| PageError::Malformed("verify_before_live is not known here".to_owned()))?;
    let is_untouched = form.verify_before_live == form.seen;
    CHOICE.save(&app, &inside, (wanted, is_untouched), store::organization::set_verify_before_live).await
}
