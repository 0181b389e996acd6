//! The story of one message, from its acceptance to its end: what was decided, each attempt, and who said what.
//! Opened from Message Trace, or by the short id that an SMTP reply or a notification names.

use askama::Template;
use axum::{extract::State, response::Response};
use time::{Duration, OffsetDateTime};

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    gateway,
    link::Link,
    message_trace::{self, LABEL, ShownGap, shown_address, shown_sender, unicode, words},
    named::Named,
    page,
    session::{InOrganization, SignedIn},
    wording::{self, ShownAddress},
};
use crate::{
    mail::{id::QueueId, short_id::ShortId},
    policy::routing::Scope,
    store::{
        self,
        message_trace::{Event, Fate, Step},
    },
};

/// How many recipients a step names before the rest are only counted.
const NAMED: usize = 100;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/{organization}/web-mail-cloud/message-trace/{message}", show),
        Route::get("/message/{short}", find),
    ]
}

/// The story of one message.
pub fn link(slug: &str, message: QueueId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/message-trace/{message}"))
}

#[derive(Template)]
#[template(path = "traced_message.html")]
struct TracedMessage {
    console: Console,
    search: String,
    short: ShortId,
    id: QueueId,
    sender: String,
    /// As the client gave it, where that is another one.
    reverse_path: Option<String>,
    recipients: Vec<String>,
    more: i64,
    size: Option<String>,
    client: Option<String>,
    /// It came back: how it was known the first time, and that story where there is one.
    first_pass: Option<(ShortId, Option<String>)>,
    /// The sender's account, by its page.
    account: Option<String>,
    /// Recipients, size and client were kept for a shorter time, which is over.
    without_details: bool,
    steps: Vec<ShownStep>,
    waits: bool,
    /// It was not looked further than this.
    until: Option<String>,
    gaps: Vec<ShownGap>,
}

/// One thing that happened.
struct ShownStep {
    when: String,
    words: &'static str,
    is_trouble: bool,
    decided_by: &'static str,
    address: Option<ShownAddress>,
    /// The gateway's page.
    gateway: Option<String>,
    revision: Option<i64>,
    server: Option<String>,
    tls: Option<String>,
    reply: String,
    /// Where they are not all.
    recipients: Vec<(String, Option<String>)>,
    more: i64,
    attempts: Option<i64>,
    next_attempt: Option<String>,
}

impl ShownStep {
    /// `of_all`: how many recipients the message has.
    fn of(slug: &str, event: &Event<'_>, of_all: usize) -> Self {
        let is_apart =
            event.recipients.len() != of_all || event.recipients.iter().any(|told| told.own_reply().is_some());
        let named = event.recipients.iter().take(if is_apart { NAMED } else { 0 });
        let more = if is_apart { event.recipients.len().saturating_sub(NAMED) } else { 0 };
        Self {
            when: wording::exact(event.at),
            words: words(event.step),
            is_trouble: !matches!(event.step, Step::HandedOver | Step::Delivered | Step::Queued),
            decided_by: decided_by(event),
            address: shown_address(event),
            gateway: event.gateway.map(|gateway| gateway::link(slug, gateway).build()),
            revision: event.revision,
            server: event.server.map(|server| format!("{} port {}", server.ip(), server.port())),
            tls: event.server.map(|_| event.tls.as_deref().unwrap_or("not encrypted").to_owned()),
            reply: event.reply.clone().into_owned(),
            recipients: named.map(|told| (unicode(told.address()), told.own_reply().map(str::to_owned))).collect(),
            more: more.try_into().unwrap_or(i64::MAX),
            attempts: event.attempts.map(i64::from).filter(|attempts| *attempts > 0),
            next_attempt: event.next_attempt.map(wording::exact),
        }
    }
}

/// Whose pointer led where the message went.
fn decided_by(event: &Event<'_>) -> &'static str {
    match event.scope {
        // Before anybody asked where it goes.
        _ if event.step == Step::Refused && event.address.is_none() => "",
        Some(Scope::User) => "the sender's own gateway",
        Some(Scope::Domain) => "the gateway of the sender's domain",
        Some(Scope::Organization) => "the organization's gateway",
        Some(Scope::Platform) | None if event.gateway.is_none() => "the platform's default",
        Some(Scope::Platform) | None => "",
    }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(message): Named<QueueId>,
) -> Result<Response, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let mut transaction = app.store.begin(&inside.access).await?;
    let story = store::message_trace::story(&mut transaction, organization, message).await?;
    let Some(first) = story.events.first() else { return Err(PageError::NotFound) };
    let fates = store::message_trace::fates(&mut transaction, organization, &[message]).await?;
    let waits = first.step == Step::Queued && fates.get(&message) == Some(&Fate::Waits);
    let account = match first.account {
        Some(account) if store::account::by_id(&mut transaction, organization, account).await?.is_some() => {
            Some(format!("/{slug}/web-mail-cloud/mail-account-manager/{account}"))
        }
        _ => None,
    };
    let first_pass = match first.first_pass {
        Some(id) if store::message_trace::is_known(&mut transaction, organization, id).await? => {
            Some((ShortId::of(id), Some(link(slug, id).build())))
        }
        Some(id) => Some((ShortId::of(id), None)),
        None => None,
    };
    let last = if waits { OffsetDateTime::now_utc() } else { story.events.last().unwrap_or(first).at };
    let around = (first.at - Duration::MINUTE, last + Duration::MINUTE);
    let gaps = ShownGap::in_time(&mut transaction, organization, around).await?;
    drop(transaction);
    let of_all = first.recipients.len();
    page(&TracedMessage {
        console: Console::new(&inside, LABEL),
        search: message_trace::link(slug).build(),
        short: ShortId::of(message),
        id: message,
        sender: shown_sender(first),
        reverse_path: first
            .reverse_path
            .as_deref()
            .map(|given| if given.is_empty() { "none" } else { given }.to_owned()),
        recipients: first.recipients.iter().take(NAMED).map(|told| unicode(told.address())).collect(),
        more: of_all.saturating_sub(NAMED).try_into().unwrap_or(i64::MAX),
        size: first.size.map(|size| wording::counted(i64::try_from(size).unwrap_or(i64::MAX), "byte", "bytes")),
        client: first.client.map(|client| client.to_string()),
        first_pass,
        account,
        without_details: first.size.is_none() && first.client.is_none(),
        steps: story.events.iter().map(|event| ShownStep::of(slug, event, of_all)).collect(),
        waits,
        until: story.until.filter(|_| waits || !story.events.iter().any(|event| event.step.ends())).map(wording::exact),
        gaps,
    })
}

/// Leads whoever has a short id to the message, if one of their organizations has it.
async fn find(
    State(app): State<App>,
    signed_in: SignedIn,
    Named(short): Named<ShortId>,
) -> Result<Response, PageError> {
    for (access, _) in signed_in.organizations.iter().filter(|(access, _)| !access.suspended) {
        let mut transaction = app.store.begin(access).await?;
        if let Some(message) = store::message_trace::by_short_id(&mut transaction, access.organization(), short).await?
        {
            return Ok(see_other(&link(&access.slug, message).build()));
        }
    }
    Err(PageError::NotFound)
}
