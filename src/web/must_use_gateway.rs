//! The choice that mail must leave through a gateway: a form of its own on Outbound Mail Gateway.
//! What follows from it is `policy::routing`'s.

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
use crate::store;

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway/must-use-gateway";

const CHOICE: Choice = Choice {
    forbidden: "Only an Administrator may say that mail must leave through a gateway. Ask one of your organization.",
    unchanged: "must-use",
    changed: "required",
};

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// What is sent: a box that is not checked is not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MustUseForm {
    must_use_gateway: Option<String>,
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
    Form(form): Form<MustUseForm>,
) -> Result<Response, PageError> {
    let wanted = form.must_use_gateway.is_some();
    CHOICE.save(&app, &inside, (wanted, wanted == (form.seen == "yes")), store::gateway::set_must_use).await
}
