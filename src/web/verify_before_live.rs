//! The choice which gateways have to pass a verification before they go live: a form of its own on Outbound Mail
//! Gateway. What follows from it is `policy::going_live`'s.

use axum::{extract::State, response::Response};
use serde::Deserialize;

use super::{
    App, Route,
    error::{PageError, see_other},
    form::Form,
    outbound_mail_gateway,
    session::InOrganization,
    status,
};
use crate::{
    policy::going_live::VerifyBeforeLive,
    store::{self, gateway::Set},
};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway/verify-before-live";

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
    let access = &inside.access;
    if !access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may say what is verified before it goes live. Ask one of your organization.",
        ));
    }
    let wanted: VerifyBeforeLive = form
        .verify_before_live
        .parse()
        .map_err(|_| PageError::Malformed("verify_before_live is not known here".to_owned()))?;
    let back = outbound_mail_gateway::here(&access.slug);
    // Who did not touch it does not undo what another has changed since.
    if form.verify_before_live == form.seen {
        return Ok(see_other(&back.with("unchanged", "before-live").build()));
    }
    let transaction = app.store.begin(access).await?;
    match store::organization::set_verify_before_live(transaction, wanted, &access.email).await? {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(see_other(&back.with("unchanged", "before-live").build())),
        Set::Changed(committed) => {
            status::wait_until_live(&app, access, committed.revision).await;
            Ok(see_other(&back.with("before_live", &committed.id.to_string()).build()))
        }
    }
}
