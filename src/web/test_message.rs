//! Test messages: sent through a gateway from its page, to whoever asks or back to this installation. The page here is
//! the one that a message in a mailbox leads to; what it has shown stands on `verification`'s.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    form::Form,
    gateway, gateways,
    named::Named,
    page,
    session::InOrganization,
    verification,
    wording::{self, ShownAddress},
};
use crate::{
    mail::id::{GatewayId, TestMessageId},
    store::{
        self,
        test_message::InMailbox,
        verification::{Asked, TestMessage, Wanted},
    },
};

const SEND: &str = "/{organization}/web-mail-cloud/gateways/{gateway}/test-message";
const PATH: &str = "/{organization}/web-mail-cloud/test-messages/{test_message}";

pub fn routes() -> Vec<Route> {
    vec![Route::get(SEND, send_first), Route::post(SEND, send), Route::get(PATH, show), Route::post(PATH, arrived)]
}

/// The button stands on the gateway's page.
async fn send_first(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<GatewayId>,
) -> Result<Response, PageError> {
    let look = gateway::look(&app, &inside, id).await;
    look.map(|_| see_other(&gateway::link(&inside.access.slug, id).build()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendForm {
    to: To,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum To {
    /// To whoever asks.
    Me,
    /// Back to this installation.
    Return,
}

async fn send(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<GatewayId>,
    Form(form): Form<SendForm>,
) -> Result<Response, PageError> {
    verification::may_ask(&inside)?;
    let (organization, slug, email) = (inside.access.organization(), &inside.access.slug, &inside.access.email);
    if form.to == To::Return && app.settings.return_address.is_none() {
        return Err(PageError::Malformed("to is return, and nothing comes back to this installation".to_owned()));
    }
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::gateway::overview(&mut transaction, organization, Some(id)).await?.pop();
    let found = found.ok_or(PageError::NotFound)?;
    let link = app
        .settings
        .public_url
        .as_ref()
        .map(|url| format!("{}/{slug}/web-mail-cloud/test-messages/", url.to_string().trim_end_matches('/')));
    let asked = Wanted::of(Some(id), &found.address, email);
    let wanted = match form.to {
        To::Me => {
            Wanted { recipient: Some(email), test: Some(TestMessage::ToRecipient { link: link.as_deref() }), ..asked }
        }
        To::Return => Wanted { test: Some(TestMessage::ToReturn), ..asked },
    };
    match store::verification::ask(&mut transaction, organization, &wanted).await? {
        Asked::Asked(verification) => {
            transaction.commit().await?;
            app.going_live.ring();
            Ok(see_other(&verification::link(slug, verification).build()))
        }
        Asked::NotFound => Err(PageError::NotFound),
        too_many @ (Asked::TooMany | Asked::TooManyTests) => {
            drop(transaction);
            let look = gateway::look(&app, &inside, id).await?;
            let look = match too_many {
                Asked::TooManyTests => look.with_too_many_tests(),
                _ => look.with_verifications_under_way(),
            };
            Ok((StatusCode::TOO_MANY_REQUESTS, page(&look)?).into_response())
        }
    }
}

#[derive(Template)]
#[template(path = "test_message.html")]
struct TestMessagePage {
    console: Console,
    address: ShownAddress,
    message: InMailbox,
    sent: String,
    /// When somebody has said that it is there.
    arrived: Option<String>,
    may_say: bool,
    /// Where all of it stands.
    verification: String,
    here: String,
    list: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<TestMessageId>,
) -> Result<Response, PageError> {
    let slug = &inside.access.slug;
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::test_message::in_mailbox(&mut *transaction, inside.access.organization(), id).await?;
    let message = found.ok_or(PageError::NotFound)?;
    page(&TestMessagePage {
        console: Console::new(&inside, gateways::LABEL),
        address: (&message.address).into(),
        sent: wording::exact(message.sent_at),
        arrived: message.arrived_at.map(wording::exact),
        may_say: inside.access.role.may_set_account_gateway(),
        verification: verification::link(slug, message.verification).build(),
        here: format!("/{slug}/web-mail-cloud/test-messages/{id}"),
        list: gateways::link(slug).build(),
        message,
    })
}

/// Nothing is sent: what has arrived stands in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArrivedForm {}

/// A click and not the link alone: filters open the links of messages that they look through.
async fn arrived(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<TestMessageId>,
    Form(ArrivedForm {}): Form<ArrivedForm>,
) -> Result<Response, PageError> {
    verification::may_ask(&inside)?;
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::test_message::in_mailbox(&mut *transaction, organization, id).await?;
    let message = found.ok_or(PageError::NotFound)?;
    store::test_message::seen(&mut *transaction, organization, id, &inside.access.email).await?;
    transaction.commit().await?;
    Ok(see_other(&verification::link(&inside.access.slug, message.verification).build()))
}
