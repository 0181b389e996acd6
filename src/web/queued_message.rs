//! One message in the queue: every recipient's state, what was said last, and what can be done about it. Never what
//! is in the message. Opened from `outbound_queue`.

use askama::Template;
use axum::{extract::State, response::Response};
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    error::PageError,
    form::Query,
    named::Named,
    outbound_queue::{self, QueueQuery, ShownMessage},
    page,
    session::InOrganization,
};
use crate::{
    mail::{
        envelope::{Recipient, RecipientState},
        id::QueueId,
    },
    store,
};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-queue/{message}";

/// How many recipients are shown before the rest are only counted.
const SHOWN_RECIPIENTS: usize = 200;

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show)]
}

#[derive(Template)]
#[template(path = "queued_message.html")]
struct QueuedMessage {
    console: Console,
    message: ShownMessage,
    recipients: Vec<ShownRecipient>,
    more_recipients: usize,
    /// The list, from where the message was opened.
    list: String,
    /// Where the buttons' form goes, for who may.
    action: Option<String>,
    /// The place in the list.
    fields: Vec<(&'static str, String)>,
}

/// What became of one recipient so far.
struct ShownRecipient {
    address: String,
    state: &'static str,
    is_waiting: bool,
    reply: Option<String>,
}

impl From<Recipient> for ShownRecipient {
    fn from(recipient: Recipient) -> Self {
        Self {
            address: recipient.to,
            state: match recipient.state {
                RecipientState::Waiting => "Waiting",
                RecipientState::Delivered => "Has it",
                RecipientState::Refused => "Refused; the sender was told",
            },
            is_waiting: recipient.state == RecipientState::Waiting,
            reply: recipient.reply,
        }
    }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<QueueId>,
    Query(query): Query<QueueQuery>,
) -> Result<Response, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::outbound_queue::message(&mut transaction, organization, id).await?;
    drop(transaction);
    let (message, mut recipients) = found.ok_or(PageError::NotFound)?;
    let more_recipients = recipients.len().saturating_sub(SHOWN_RECIPIENTS);
    recipients.truncate(SHOWN_RECIPIENTS);
    let may = inside.access.role.may_decide_about_mail();
    page(&QueuedMessage {
        console: Console::new(&inside, outbound_queue::LABEL),
        message: ShownMessage::of(message, &app.settings.platform_default, OffsetDateTime::now_utc()),
        recipients: recipients.into_iter().map(ShownRecipient::from).collect(),
        more_recipients,
        list: query.link_here(slug).build(),
        action: may.then(|| outbound_queue::list(slug).build() + "/selected"),
        fields: query.fields(),
    })
}
