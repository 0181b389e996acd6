//! The choice that senders which no account has are refused: a form of its own on Outbound Mail Gateway.
//! What follows from it is said by the relay at MAIL.

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
use crate::store::{self, gateway::Set};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway/unknown-senders";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// What is sent: a box that is not checked is not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnknownSendersForm {
    refuse_unknown_senders: Option<String>,
    /// How it stood when the form was shown: who did not change it does not undo what another has changed since.
    seen: String,
}

/// The form stands on another page.
async fn show(inside: InOrganization) -> Response {
    see_other(&outbound_mail_gateway::here(&inside.access.slug).build())
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<UnknownSendersForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may say whose mail is taken. Ask one of your organization.",
        ));
    }
    let back = outbound_mail_gateway::here(&inside.access.slug);
    let wanted = form.refuse_unknown_senders.is_some();
    if wanted == (form.seen == "yes") {
        return Ok(see_other(&back.with("unchanged", "unknown-senders").build()));
    }
    let transaction = app.store.begin(&inside.access).await?;
    match store::gateway::set_unknown_senders(transaction, wanted, &inside.access.email).await? {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(see_other(&back.with("unchanged", "unknown-senders").build())),
        Set::Changed(committed) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            Ok(see_other(&back.with("senders", &committed.id.to_string()).build()))
        }
    }
}
