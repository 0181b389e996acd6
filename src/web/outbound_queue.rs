//! Outbound Queue: what waits, for which gateway and why, and when it is tried again.
//! The list; one message is `queued_message`'s, and what is done about many `selected_messages`'.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::State, response::Response};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    error::PageError,
    form::Query,
    link::Link,
    page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    wording::{self, ShownAddress},
};
use crate::{
    mail::id::{ChangeId, QueueId},
    policy::{
        routing::{HeldUntil, PlatformDefault},
        waiting::{Choice, HeldBecause, throttled},
    },
    store::{
        self, OrganizationTransaction,
        outbound_queue::{COUNTED, Counted, Filter, Listed, Messages, Position, WaitsFor, Why},
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Outbound Queue";

/// The last segment of the page's path.
const LIST: &str = "outbound-queue";

/// The word for mail that waits for no gateway, in the address of the page.
const NO_GATEWAY: &str = "none";

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/outbound-queue", show)]
}

/// The list as it is opened.
pub fn list(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/{LIST}"))
}

/// What waits of one sender.
pub fn link_to_sender(slug: &str, sender: &str) -> Link {
    list(slug).with("sender", sender)
}

/// What is held.
pub fn link_to_held(slug: &str) -> Link {
    link_to_held_of(slug, "")
}

/// What is held of one sender.
pub fn link_to_held_of(slug: &str, sender: &str) -> Link {
    link_to_sender(slug, sender).with("state", Why::Held.as_str())
}

/// What the address of the page says: which part of the list, and what was just decided.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct QueueQuery {
    /// A part of the sender's address.
    sender: String,
    /// A part of a recipient's address.
    recipient: String,
    /// The id of a gateway, or `none`.
    gateway: String,
    /// One of the words of [`Why`].
    state: String,
    /// A message: the page behind it.
    after: String,
    /// A message: the page before it.
    before: String,
    /// The decision that was just made; `nothing` where there was none of the mail any more.
    decided: String,
}

impl QueueQuery {
    /// The place in the list that a form brought along, as [`fields`](Self::fields) gave it to it.
    pub fn take(fields: &mut HashMap<String, String>) -> Self {
        let mut field = |name| fields.remove(name).unwrap_or_default();
        Self {
            sender: field("sender"),
            recipient: field("recipient"),
            gateway: field("gateway"),
            state: field("state"),
            after: field("after"),
            before: field("before"),
            decided: String::new(),
        }
    }

    /// What is asked for; what cannot be asks for nothing.
    pub fn filter(&self) -> Filter {
        let part = |typed: &str| Some(typed_part(typed)).filter(|part| !part.is_empty());
        Filter {
            sender: part(&self.sender),
            recipient: part(&self.recipient),
            waits_for: match self.gateway.as_str() {
                NO_GATEWAY => Some(WaitsFor::NoGateway),
                gateway => gateway.parse().ok().map(WaitsFor::Gateway),
            },
            why: Why::ALL.into_iter().find(|why| why.as_str() == self.state),
        }
    }

    fn position(&self) -> Position {
        match (self.after.parse(), self.before.parse()) {
            (Ok(after), _) => Position::After(after),
            (_, Ok(before)) => Position::Before(before),
            _ => Position::First,
        }
    }

    fn filter_on(&self, link: Link) -> Link {
        let filter = self.filter();
        link.with("sender", filter.sender.as_deref().unwrap_or_default())
            .with("recipient", filter.recipient.as_deref().unwrap_or_default())
            .with("gateway", &word_of(filter.waits_for))
            .with("state", filter.why.map(Why::as_str).unwrap_or_default())
    }

    fn place_on(&self, link: Link) -> Link {
        match self.position() {
            Position::First => link,
            Position::After(id) => link.with("after", &id.to_string()),
            Position::Before(id) => link.with("before", &id.to_string()),
        }
    }

    /// The list with the same filter, from its beginning.
    fn link(&self, slug: &str) -> Link {
        self.filter_on(list(slug))
    }

    /// The same part of the list.
    pub fn link_here(&self, slug: &str) -> Link {
        self.place_on(self.link(slug))
    }

    /// The page of one message, which leads back here.
    fn link_to_message(&self, slug: &str, id: QueueId) -> Link {
        self.place_on(self.filter_on(Link::to(format!("/{slug}/web-mail-cloud/{LIST}/{id}"))))
    }

    /// This place in the list as the fields of a form.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let filter = self.filter();
        let (after, before) = match self.position() {
            Position::First => (String::new(), String::new()),
            Position::After(id) => (id.to_string(), String::new()),
            Position::Before(id) => (String::new(), id.to_string()),
        };
        [
            ("sender", filter.sender.unwrap_or_default()),
            ("recipient", filter.recipient.unwrap_or_default()),
            ("gateway", word_of(filter.waits_for)),
            ("state", filter.why.map(Why::as_str).unwrap_or_default().to_owned()),
            ("after", after),
            ("before", before),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
    }
}

fn word_of(waits_for: Option<WaitsFor>) -> String {
    match waits_for {
        None => String::new(),
        Some(WaitsFor::NoGateway) => NO_GATEWAY.to_owned(),
        Some(WaitsFor::Gateway(gateway)) => gateway.to_string(),
    }
}

/// PostgreSQL text holds no NUL, and no address holds a control character.
fn typed_part(typed: &str) -> String {
    let printable: String = typed.chars().filter(|character| !character.is_control()).collect();
    printable.trim().chars().take(254).collect()
}

/// The filter in words, for confirmations and the audit log.
pub async fn filter_in_words(transaction: &mut OrganizationTransaction, filter: &Filter) -> store::Result<String> {
    let mut words = Vec::new();
    words.extend(filter.sender.as_ref().map(|part| format!("the sender has “{part}”")));
    words.extend(filter.recipient.as_ref().map(|part| format!("a recipient has “{part}”")));
    match filter.waits_for {
        None => {}
        Some(WaitsFor::NoGateway) => words.push("no gateway is waited for".to_owned()),
        Some(WaitsFor::Gateway(id)) => {
            let organization = transaction.organization();
            words.push(match store::outbound_queue::gateway_address(transaction, organization, id).await? {
                Some(address) => format!("{} is waited for", address.with_port_in_words()),
                None => "a gateway that is gone is waited for".to_owned(),
            });
        }
    }
    words.extend(filter.why.map(|why| format!("the state is “{}”", label_of(why))));
    Ok(if words.is_empty() { "everything in the queue".to_owned() } else { words.join(", ") })
}

fn label_of(why: Why) -> &'static str {
    match why {
        Why::Waiting => "Waiting",
        Why::Held => "Held",
        Why::AnswerAwaited => "Answer awaited",
        Why::BeingTried => "Being tried now",
    }
}

/// One message, ready to be shown.
#[derive(Debug, Clone)]
pub struct ShownMessage {
    pub id: QueueId,
    /// Its sender; what it is where it has none.
    pub sender: String,
    /// It is a report of our own.
    pub is_report: bool,
    /// The first recipient who still waits, and how many do besides.
    pub recipient: String,
    pub more: i64,
    pub size: String,
    pub since: String,
    /// The server that it waits for; `None` where the words say it all.
    pub address: Option<ShownAddress>,
    /// What that is.
    pub target: &'static str,
    /// Why it waits, in words.
    pub why: String,
    pub is_held: bool,
    /// Only an administrator lets it go.
    pub is_to_be_released: bool,
    pub is_being_tried: bool,
    /// What was said last.
    pub reply: Option<String>,
    pub next: String,
    pub until: String,
}

impl ShownMessage {
    pub fn of(message: Listed, default: &PlatformDefault, now: OffsetDateTime) -> Self {
        let (address, target) = target(&message, default);
        Self {
            id: message.id,
            is_report: message.sender.is_none(),
            address,
            target,
            why: why(&message),
            is_held: message.why == Why::Held,
            is_to_be_released: message.held_because.is_some_and(HeldBecause::is_for_an_administrator),
            is_being_tried: matches!(message.why, Why::BeingTried | Why::AnswerAwaited),
            next: next(&message, now),
            since: wording::moment(message.accepted_at),
            until: wording::moment(message.expires_at),
            size: wording::size(message.size),
            sender: message.sender.unwrap_or_else(|| "Delivery report".to_owned()),
            recipient: message.recipient.unwrap_or_default(),
            more: (message.recipients - 1).max(0),
            // Of held mail, why says it already.
            reply: message.last_reply.filter(|_| message.why != Why::Held),
        }
    }
}

/// The server that a message waits for, and what that is.
fn target(message: &Listed, default: &PlatformDefault) -> (Option<ShownAddress>, &'static str) {
    if let Some(gateway) = &message.gateway {
        return (Some(gateway.into()), "");
    }
    let is_report = message.sender.is_none();
    match (&message.inbound_host, default) {
        (Some(host), _) if is_report => (Some(host.into()), "inbound host"),
        (Some(host), PlatformDefault::Mx) => (Some(host.into()), "inbound host"),
        _ if message.why == Why::Held && message.awaits_gateway => (None, "No gateway yet"),
        _ if message.why == Why::Held => (None, "No gateway"),
        (_, PlatformDefault::Mx) => (None, "Recipients' own servers"),
        (_, PlatformDefault::Smarthost(server)) => (Some(server.into()), "platform"),
    }
}

fn why(message: &Listed) -> String {
    let wish = match (message.choice, message.retry_wished_at) {
        (Some(Choice::Delete), _) => Some("to be deleted"),
        (Some(Choice::Return), _) => Some("to be returned"),
        (Some(Choice::Send), _) => Some("released: it leaves by what applies now"),
        (None, Some(_)) => Some("to be tried again at once"),
        (None, None) => None,
    };
    let state = match (message.why, message.held_because) {
        (Why::Held, Some(HeldBecause::NoGateway)) if message.awaits_gateway => {
            format!("Held {}", HeldUntil::OneHasPassed.words())
        }
        (Why::Held, Some(because)) => match held_in_words(message, because) {
            Some(words) => format!("Held {words}"),
            None => format!("Held: {}", because.words()),
        },
        (Why::Waiting, _) if message.attempts > 0 => {
            format!("Waiting after {}", wording::counted(i64::from(message.attempts), "attempt", "attempts"))
        }
        (Why::AnswerAwaited, _) => "Answer awaited: a server has all of it".to_owned(),
        (why, _) => label_of(why).to_owned(),
    };
    match wish {
        Some(wish) => format!("{state}; {wish}"),
        None => state,
    }
}

/// What was said when it was held, where that says for which limit or list: until an administrator approves it …
fn held_in_words(message: &Listed, because: HeldBecause) -> Option<&str> {
    let said = message.last_reply.as_deref().filter(|_| because.is_for_an_administrator())?;
    said.strip_prefix("held ")
}

fn next(message: &Listed, now: OffsetDateTime) -> String {
    match message.why {
        Why::BeingTried => "Now".to_owned(),
        Why::AnswerAwaited => "Once the server has answered".to_owned(),
        Why::Held if message.awaits_gateway && message.held_because == Some(HeldBecause::NoGateway) => {
            "When the new gateway has passed".to_owned()
        }
        Why::Held if message.choice.is_none() => "When it is decided, or may leave again".to_owned(),
        // In between its sender is told; nobody is asked to take it.
        Why::Waiting
            if let Some(until) = throttled(message.throttled_until, message.choice, message.retry_wished_at, now) =>
        {
            wording::moment(until)
        }
        Why::Held | Why::Waiting if message.next_attempt_at <= now => "Due now".to_owned(),
        Why::Held | Why::Waiting => wording::moment(message.next_attempt_at),
    }
}

#[derive(Template)]
#[template(path = "outbound_queue.html")]
struct OutboundQueue {
    console: Console,
    status: Option<StatusLine>,
    query: QueueQuery,
    /// The value in the address and the words for each gateway that mail waits for, and whether it is chosen.
    gateways: Vec<(String, String, bool)>,
    /// The same for the states.
    states: Vec<(&'static str, &'static str, bool)>,
    is_filtered: bool,
    /// Each message with its page.
    rows: Vec<(ShownMessage, String)>,
    is_first: bool,
    /// How many there are, in words.
    count: String,
    everything: String,
    /// The first page with the same filter.
    beginning: String,
    previous: Option<String>,
    next: Option<String>,
    /// What can be done with many messages, for who may.
    bulk: Option<Bulk>,
}

/// The form around the table.
struct Bulk {
    action: String,
    /// What of the list is meant by all.
    fields: Vec<(&'static str, String)>,
    all: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<QueueQuery>,
) -> Result<Response, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let filter = query.filter();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::outbound_queue::list(&mut transaction, organization, &filter, query.position()).await?;
    let is_all = !found.has_previous && !found.has_next;
    // What stands on one page need not be counted.
    let counted = match is_all {
        true => Counted { messages: found.rows.len() as i64, ..Counted::default() },
        false => {
            store::outbound_queue::count(&mut transaction, organization, &Messages::Matching(filter.clone())).await?
        }
    };
    let gateways = gateways(&mut transaction, &filter).await?;
    let status = status(&mut transaction, &query).await?;
    drop(transaction);
    let now = OffsetDateTime::now_utc();
    let turn = |to: &str, row: Option<&Listed>| Some(query.link(slug).with(to, &row?.id.to_string()).build());
    let is_filtered = filter != Filter::default();
    let count = count(counted);
    page(&OutboundQueue {
        console: Console::new(&inside, LABEL),
        status,
        gateways,
        states: Why::ALL.map(|why| (why.as_str(), label_of(why), filter.why == Some(why))).to_vec(),
        is_filtered,
        is_first: query.position() == Position::First,
        previous: turn("before", found.rows.first().filter(|_| found.has_previous)),
        next: turn("after", found.rows.last().filter(|_| found.has_next)),
        bulk: inside.access.role.may_decide_about_mail().then(|| Bulk {
            action: list(slug).build() + "/selected",
            fields: query.fields(),
            all: format!("All {}{}", count_for_all(counted), if is_filtered { " that match" } else { "" }),
        }),
        count,
        everything: list(slug).build(),
        beginning: query.link(slug).build(),
        rows: found
            .rows
            .into_iter()
            .map(|row| {
                let link = query.link_to_message(slug, row.id).build();
                (ShownMessage::of(row, &app.settings.platform_default, now), link)
            })
            .collect(),
        query,
    })
}

/// How many messages there are, as far as they are counted.
pub fn count(counted: Counted) -> String {
    match counted.is_more() {
        true => format!("More than {} messages", wording::number(COUNTED)),
        false => wording::counted(counted.messages, "message", "messages"),
    }
}

fn count_for_all(counted: Counted) -> String {
    match counted.is_more() {
        true => "messages".to_owned(),
        false => wording::counted(counted.messages, "message", "messages"),
    }
}

/// The gateways that can be filtered by; the one that is filtered by is among them though nothing waits for it.
async fn gateways(
    transaction: &mut OrganizationTransaction,
    filter: &Filter,
) -> Result<Vec<(String, String, bool)>, PageError> {
    let organization = transaction.organization();
    let mut known = store::outbound_queue::gateways(transaction, organization).await?;
    if let Some(WaitsFor::Gateway(chosen)) = filter.waits_for
        && known.iter().all(|(id, _)| *id != chosen)
    {
        let found = store::outbound_queue::gateway_address(transaction, organization, chosen).await?;
        known.extend(found.map(|address| (chosen, address)));
    }
    let mut offered: Vec<(String, String, bool)> = known
        .into_iter()
        .map(|(id, address)| {
            let is_chosen = filter.waits_for == Some(WaitsFor::Gateway(id));
            (id.to_string(), address.with_port_in_words(), is_chosen)
        })
        .collect();
    let is_chosen = filter.waits_for == Some(WaitsFor::NoGateway);
    offered.push((NO_GATEWAY.to_owned(), "No gateway: the platform's default".to_owned(), is_chosen));
    Ok(offered)
}

/// What was just decided.
async fn status(
    transaction: &mut OrganizationTransaction,
    query: &QueueQuery,
) -> Result<Option<StatusLine>, PageError> {
    if query.decided.is_empty() {
        return Ok(None);
    }
    let organization = transaction.organization();
    Ok(match query.decided.parse::<ChangeId>() {
        Ok(change) => store::outbound_queue::recent(transaction, organization, change)
            .await?
            .map(|wish| status::of_queue(Some(&wish))),
        Err(_) => Some(status::of_queue(None)),
    })
}
