//! The choice that senders which no account has are refused: a form of its own on Outbound Mail Gateway.
//! What follows from it is said by the relay at MAIL.

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

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway/unknown-senders";

const CHOICE: Choice = Choice {
    forbidden: "Only an Administrator may say whose mail is taken. Ask one of your organization.",
    unchanged: "unknown-senders",
    changed: "senders",
};

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// What is sent: a box that is not checked is not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnknownSendersForm {
    refuse_unknown_senders: Option<String>,
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
    Form(form): Form<UnknownSendersForm>,
) -> Result<Response, PageError> {
    let wanted = form.refuse_unknown_senders.is_some();
    CHOICE.save(&app, &inside, (wanted, wanted == (form.seen == "yes")), store::organization::set_unknown_senders).await
}
