//! Test messages: sent through a gateway from its page, to whoever asks or back to this installation. The page here is
//! the one that a message in a mailbox leads to, and where its source is pasted; what it has shown stands on
//! `verification`'s.

use askama::Template;
use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use http_body_util::LengthLimitError;
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    draft::Draft,
    error::{PageError, see_other},
    form::{self, Form},
    gateway, gateways,
    link::Link,
    named::Named,
    page,
    session::InOrganization,
    text_field::{self, TextField},
    verification,
    wording::{self, ShownAddress},
};
use crate::{
    mail::id::{GatewayId, TestMessageId},
    policy::arrival::{Arrival, LARGEST_SOURCE, SourceMistake, UNSIGNED},
    store::{
        self,
        test_message::InMailbox,
        verification::{Asked, TestMessage, Wanted},
    },
};

const SEND: &str = "/{organization}/web-mail-cloud/gateways/{gateway}/test-message";
const PATH: &str = "/{organization}/web-mail-cloud/test-messages/{test_message}";
const SOURCE: &str = "/{organization}/web-mail-cloud/test-messages/{test_message}/source";

/// How large the form with a source may be as browsers send it: each byte may take three.
const LARGEST_FORM: usize = 3 * LARGEST_SOURCE + 1024;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(SEND, gateway::lead_here),
        Route::post(SEND, send),
        Route::get(PATH, show),
        Route::post(PATH, arrived),
        Route::get(SOURCE, show_first),
        Route::upload(SOURCE, paste),
    ]
}

/// The page at which somebody says that it has arrived, and shows its source.
pub fn link(slug: &str, id: TestMessageId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/test-messages/{id}"))
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
        Asked::NotFound => {
            drop(transaction);
            let look = gateway::look(&app, &inside, id).await?.without_domain();
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
        }
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
    source: TextField,
    mistakes: Vec<(&'static str, String)>,
    /// Where all of it stands.
    verification: String,
    here: String,
    list: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<TestMessageId>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id).await?;
    look.source.restore(&draft, None, "");
    page(&look)
}

async fn look(app: &App, inside: &InOrganization, id: TestMessageId) -> Result<TestMessagePage, PageError> {
    let slug = &inside.access.slug;
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::test_message::in_mailbox(&mut *transaction, inside.access.organization(), id).await?;
    let message = found.ok_or(PageError::NotFound)?;
    Ok(TestMessagePage {
        console: Console::new(inside, gateways::LABEL),
        address: (&message.address).into(),
        sent: wording::exact(message.sent_at),
        arrived: message.arrived_at.map(wording::exact),
        may_say: inside.access.role.may_set_account_gateway(),
        source: TextField {
            id: "source",
            label: "Source of the message",
            hint: "Your mail program has it as “Show original”, “View source” or “Internet headers”. The header alone is enough.",
            lines: 8,
            direction: "ltr",
            ..TextField::default()
        },
        mistakes: Vec::new(),
        verification: verification::link(slug, message.verification).build(),
        here: link(slug, id).build(),
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

/// The form stands on the message's page.
async fn show_first(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<TestMessageId>,
) -> Result<Response, PageError> {
    look(&app, &inside, id).await.map(|_| see_other(&link(&inside.access.slug, id).build()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceForm {
    source: String,
}

/// What stands in the source is read at once and kept; the source is not. A relay asks the DNS about it.
async fn paste(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<TestMessageId>,
    request: Request,
) -> Result<Response, PageError> {
    verification::may_ask(&inside)?;
    let organization = inside.access.organization();
    let typed = source(&app, request).await?;
    let read = match &typed {
        Some(typed) => Arrival::of_source(typed, id),
        None => Err(SourceMistake::TooLarge),
    };
    let mut look = look(&app, &inside, id).await?;
    let arrival = match read {
        Ok(arrival) => arrival,
        Err(mistake) => {
            // What is too large for us is too large for the page as well.
            let typed = typed.filter(|_| mistake != SourceMistake::TooLarge).unwrap_or_default();
            look.source.again(typed, mistake.to_string());
            look.mistakes = text_field::mistakes(&[&look.source]);
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response());
        }
    };
    let mut transaction = app.store.begin(&inside.access).await?;
    store::test_message::pasted(&mut *transaction, organization, id, &arrival, &inside.access.email).await?;
    transaction.commit().await?;
    Ok(see_other(&look.verification))
}

/// What was pasted; `None`: it is too large.
async fn source(app: &App, request: Request) -> Result<Option<String>, PageError> {
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, LARGEST_FORM).await {
        Ok(body) => body,
        Err(error) if form::came_too_slowly(&error) => return Err(PageError::Status(StatusCode::REQUEST_TIMEOUT)),
        Err(error) if is_too_large(&error) => return Ok(None),
        Err(_) => return Err(PageError::Status(StatusCode::BAD_REQUEST)),
    };
    let Form(SourceForm { source }) = Form::from_request(Request::from_parts(parts, Body::from(body)), app).await?;
    Ok(Some(source))
}

fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_large)
}
