//! Message Trace: what happened to every message, found by sender, recipient, time and state.
//! The search; the story of one message is `traced_message`'s.

use std::collections::HashMap;

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime, UtcOffset, macros::format_description};
use uuid::Uuid;

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    form::Query,
    link::Link,
    page,
    session::InOrganization,
    traced_message,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, OrganizationId, QueueId},
        short_id::ShortId,
    },
    policy::routing::Scope,
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        message_trace::{ByGateway, Event, Fate, Found, Position, Sought, Step},
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Message Trace";

/// How many messages a page shows.
const PAGE_SIZE: usize = 50;
/// How many recipients of each.
const NAMED: usize = 2;

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/message-trace", show)]
}

/// The search.
pub fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/message-trace"))
}

/// What happened from one moment to another, by the seconds that they lie in.
pub fn link_to_time(slug: &str, from: OffsetDateTime, to: OffsetDateTime) -> Link {
    let second = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let words = |at: OffsetDateTime| at.to_offset(UtcOffset::UTC).format(second).unwrap_or_default();
    link(slug).with("from", &words(from)).with("to", &words(to))
}

/// Mail that went by what a pointer said in this time: the gateway's address, or that it had none. The pointer of all
/// users and those of mail domains decide for whoever has nothing nearer.
pub fn link_to_way(
    slug: &str,
    (from, to): (OffsetDateTime, OffsetDateTime),
    scope: &PointerScope,
    gateway: Option<&str>,
) -> Link {
    let of_gateway = |link: Link, scope| match gateway {
        Some(address) => link.with("gateway", address).with("scope", scope),
        None => link,
    };
    let link = link_to_time(slug, from, to);
    match scope {
        PointerScope::Organization if gateway.is_none() => link.with("gateway", WITHOUT),
        PointerScope::Organization => of_gateway(link, "organization"),
        PointerScope::Domain(name) => of_gateway(link.with("sender", name.as_str()), "domain"),
        PointerScope::Account(account) => of_gateway(link, "user").with("account", &account.to_string()),
    }
}

/// Mail that went to a gateway in this time.
pub fn link_to_gateway(slug: &str, (from, to): (OffsetDateTime, OffsetDateTime), address: &str) -> Link {
    link_to_time(slug, from, to).with("gateway", address)
}

/// What an account has sent in this time.
pub fn link_to_account(slug: &str, time: (OffsetDateTime, OffsetDateTime), account: AccountId) -> Link {
    link_to_time(slug, time.0, time.1).with("account", &account.to_string())
}

/// What stands in the field for mail that has no gateway.
const WITHOUT: &str = "none";

/// What a sender, an address or a domain, has sent from then on.
pub fn link_to_sender(slug: &str, sender: &str, from: OffsetDateTime) -> Link {
    let minute = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    let from = from.to_offset(UtcOffset::UTC).format(minute).unwrap_or_default();
    link(slug).with("sender", sender).with("from", &from)
}

/// What can be searched for besides the beginning of every message: the word in the address, and the words for people.
const STATES: [(Step, &str, &str); 8] = [
    (Step::HandedOver, "handed-over", "handed over at once"),
    (Step::Queued, "queued", "queued"),
    (Step::Refused, "refused", "refused"),
    (Step::Attempt, "attempt", "tried again in vain"),
    (Step::Delivered, "delivered", "delivered from the queue"),
    (Step::Returned, "returned", "returned to the sender"),
    (Step::GivenUp, "given-up", "given up, and nobody to tell"),
    (Step::Deleted, "deleted", "deleted from the queue"),
];

/// What happened, in the words of the list of states.
pub fn words(step: Step) -> &'static str {
    STATES.iter().find(|(one, ..)| *one == step).map(|(.., words)| *words).unwrap_or_default()
}

/// Where the pointer was set that decided, with its word in the address and its words for people.
const SCOPES: [(Scope, &str, &str); 4] = [
    (Scope::User, "user", "the user's own gateway"),
    (Scope::Domain, "domain", "the mail domain's gateway"),
    (Scope::Organization, "organization", "the gateway of all users"),
    (Scope::Platform, "platform", "no gateway"),
];

fn step(name: &str) -> Option<Step> {
    STATES.iter().find(|(_, one, _)| *one == name).map(|(step, ..)| *step)
}

/// What the address of the page asks for. Times are UTC.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Asked {
    sender: String,
    recipient: String,
    state: String,
    from: String,
    to: String,
    /// An address, or [`WITHOUT`].
    gateway: String,
    /// The scope whose pointer decided.
    scope: String,
    /// The id of one account, where a page has led here.
    account: String,
    /// The id of one message, in either form.
    id: String,
    /// Where the page before ended.
    before: String,
}

/// What is wrong with what was asked for, field by field.
#[derive(Debug, Default)]
struct Mistakes {
    sender: Option<String>,
    recipient: Option<String>,
    from: Option<String>,
    to: Option<String>,
    gateway: Option<String>,
    id: Option<String>,
}

impl Mistakes {
    /// With the fields' ids, for the top of the page.
    fn list(&self) -> Vec<(&'static str, &String)> {
        let fields = [
            ("gateway", &self.gateway),
            ("sender", &self.sender),
            ("recipient", &self.recipient),
            ("from", &self.from),
            ("to", &self.to),
            ("id", &self.id),
        ];
        fields.into_iter().filter_map(|(field, mistake)| Some((field, mistake.as_ref()?))).collect()
    }

    fn mark(&self, field: &str) -> bool {
        self.list().iter().any(|(name, _)| *name == field)
    }

    fn words(&self, field: &str) -> Option<&String> {
        self.list().into_iter().find(|(name, _)| *name == field).map(|(_, words)| words)
    }
}

impl Asked {
    /// Name, label, type and value of each field.
    fn fields(&self) -> [(&'static str, &'static str, &'static str, &str); 4] {
        [
            ("sender", "Sender (address or domain)", "text", &self.sender),
            ("recipient", "Recipient (address or domain)", "text", &self.recipient),
            ("from", "From", "datetime-local", &self.from),
            ("to", "To", "datetime-local", &self.to),
        ]
    }

    /// Name, words, and whether it is chosen.
    fn states(&self) -> [(&'static str, &'static str, bool); 8] {
        STATES.map(|(_, name, words)| (name, words, self.state == name))
    }

    fn with(&self, link: Link) -> Link {
        link.with("sender", self.sender.trim())
            .with("recipient", self.recipient.trim())
            .with("state", self.state.trim())
            .with("from", self.from.trim())
            .with("to", self.to.trim())
            .with("gateway", self.gateway.trim())
            .with("scope", self.scope.trim())
            .with("account", self.account.trim())
    }

    /// Word, label, and whether it is chosen.
    fn scopes(&self) -> [(&'static str, &'static str, bool); 4] {
        SCOPES.map(|(_, name, words)| (name, words, self.scope == name))
    }

    /// The gateways that have or had the address that was typed.
    async fn by_gateway(
        &self,
        transaction: &mut OrganizationTransaction,
        organization: OrganizationId,
        mistakes: &mut Mistakes,
    ) -> store::Result<Option<ByGateway>> {
        let address = match self.gateway.trim() {
            "" => return Ok(None),
            typed if typed.eq_ignore_ascii_case(WITHOUT) => return Ok(Some(ByGateway::Without)),
            typed => typed.parse::<GatewayAddress>(),
        };
        match address {
            Err(mistake) => mistakes.gateway = Some(format!("{mistake} Or type none.")),
            Ok(address) => {
                let gateways = store::gateway::ever_with_address(transaction, organization, &address).await?;
                if !gateways.is_empty() {
                    return Ok(Some(ByGateway::OneOf(gateways)));
                }
                let address = address.with_port_in_words();
                mistakes.gateway = Some(format!("No gateway of your organization has or had the address {address}."));
            }
        }
        Ok(None)
    }

    fn sought(&self, mistakes: &mut Mistakes) -> Sought {
        let from = moment(&self.from, Edge::Start);
        let to = moment(&self.to, Edge::End);
        let mistaken_time = || Some("Type a day and a time in UTC, such as 2026-11-24T09:30.".to_owned());
        mistakes.from = from.is_err().then(mistaken_time).flatten();
        mistakes.to = to.is_err().then(mistaken_time).flatten();
        let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            mistakes.to =
                Some("This is before the beginning: choose a later time, or an earlier one above.".to_owned());
        }
        Sought {
            sender: addressed(&self.sender).unwrap_or_else(|mistake| {
                mistakes.sender = Some(mistake);
                None
            }),
            recipient: addressed(&self.recipient).unwrap_or_else(|mistake| {
                mistakes.recipient = Some(mistake);
                None
            }),
            step: step(self.state.trim()),
            gateway: None,
            scope: SCOPES.iter().find(|(_, name, _)| *name == self.scope.trim()).map(|(scope, ..)| *scope),
            account: self.account.trim().parse().ok(),
            from,
            to,
            before: position(&self.before),
        }
    }
}

/// An address, or a domain with or without `@`, as it is searched for; nothing if nothing was typed.
fn addressed(typed: &str) -> Result<Option<String>, String> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Ok(None);
    }
    let domain = typed.strip_prefix('@').unwrap_or(typed);
    if !domain.contains('@') {
        let mistake =
            || format!("“{typed}” is neither a mail address nor a domain. Type ann@example.com or example.com.");
        return domain.parse::<DomainName>().map(|name| Some(format!("@{name}"))).map_err(|_| mistake());
    }
    typed.parse::<Mailbox>().map(|mailbox| Some(mailbox.to_string())).map_err(|mistake| mistake.to_string())
}

/// Which end of a minute or a day is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    Start,
    End,
}

/// `2026-11-24T09:30` as browsers send it, or a day; nothing if nothing was typed.
fn moment(typed: &str, edge: Edge) -> Result<Option<OffsetDateTime>, time::Error> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Ok(None);
    }
    let day =
        Date::parse(typed, format_description!("[year]-[month]-[day]")).map(|day| (day.midnight(), Duration::DAY));
    let minute = || {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]");
        PrimitiveDateTime::parse(typed, format).map(|minute| (minute, Duration::MINUTE))
    };
    let second = || {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
        PrimitiveDateTime::parse(typed, format).map(|second| (second, Duration::SECOND))
    };
    let (start, length) = day.or_else(|_| minute()).or_else(|_| second())?;
    let length = if edge == Edge::End { length } else { Duration::ZERO };
    Ok(start.assume_utc().checked_add(length))
}

/// `1795939200000000-0199f3a0-…`: microseconds since 1970, and a message. Something else is the beginning.
fn position(typed: &str) -> Option<Position> {
    let (microseconds, message) = typed.split_once('-')?;
    let at = OffsetDateTime::from_unix_timestamp_nanos(microseconds.parse::<i128>().ok()?.checked_mul(1000)?).ok()?;
    Some(Position { at, message: QueueId(message.parse::<Uuid>().ok()?) })
}

fn position_in_words(position: Position) -> String {
    format!("{}-{}", position.at.unix_timestamp_nanos() / 1000, position.message)
}

#[derive(Template)]
#[template(path = "message_trace.html")]
struct MessageTrace {
    console: Console,
    asked: Asked,
    /// The account that it is about, where a page has led here.
    account: Option<String>,
    /// Addresses to choose from.
    gateways: Vec<String>,
    mistakes: Mistakes,
    messages: Vec<ShownMessage>,
    is_filtered: bool,
    everything: String,
    /// The file for auditors.
    report: String,
    newest: Option<String>,
    older: Option<String>,
    /// How far the search came that had looked at enough.
    came_to: Option<String>,
    gaps: Vec<ShownGap>,
}

/// A message as it stands in the list.
struct ShownMessage {
    link: String,
    sender: String,
    recipients: Vec<String>,
    more: i64,
    state: &'static str,
    is_trouble: bool,
    address: Option<ShownAddress>,
    reply: String,
    when: String,
}

/// Lines that are nowhere.
pub struct ShownGap {
    pub from: String,
    pub to: String,
    pub lines: i64,
}

impl ShownGap {
    /// What is missing in this time.
    pub async fn in_time(
        transaction: &mut OrganizationTransaction,
        organization: OrganizationId,
        (from, to): (OffsetDateTime, OffsetDateTime),
    ) -> store::Result<Vec<Self>> {
        let gaps = store::message_trace::gaps(transaction, organization, (from, to)).await?;
        let shown = |(from, to, lines)| Self { from: wording::exact(from), to: wording::exact(to), lines };
        Ok(gaps.into_iter().map(shown).collect())
    }
}

/// Where a message went, where that can be shown in two parts.
pub fn shown_address(event: &Event<'_>) -> Option<ShownAddress> {
    let address = event.address.as_deref()?.parse::<GatewayAddress>().ok()?;
    Some(ShownAddress::from(&address))
}

/// The sender as it is shown: our own notifications have none.
pub fn shown_sender(event: &Event<'_>) -> String {
    match (&*event.sender, event.reverse_path.as_deref()) {
        ("", None | Some("")) => "this relay".to_owned(),
        ("", Some(given)) => given.to_owned(),
        (sender, _) => unicode(sender),
    }
}

/// An address with its domain in its own script.
pub fn unicode(address: &str) -> String {
    address.parse::<Mailbox>().map_or_else(|_| address.to_owned(), |mailbox| wording::user_id(&mailbox))
}

impl ShownMessage {
    fn of(slug: &str, event: &Event<'_>, fates: &HashMap<QueueId, Fate>) -> Self {
        let fate = fates.get(&event.message).filter(|_| event.step == Step::Queued);
        let (state, is_trouble) = match fate {
            Some(Fate::Waits) => ("waits in the queue", true),
            Some(Fate::Ended(Step::Delivered)) => (words(Step::Delivered), false),
            Some(Fate::Ended(step)) => (words(*step), true),
            None => (words(event.step), !matches!(event.step, Step::HandedOver | Step::Delivered | Step::Queued)),
        };
        Self {
            link: traced_message::link(slug, event.message).build(),
            sender: shown_sender(event),
            recipients: event.recipients.iter().take(NAMED).map(|told| unicode(told.address())).collect(),
            more: event.recipients.len().saturating_sub(NAMED).try_into().unwrap_or(i64::MAX),
            state,
            is_trouble,
            address: shown_address(event),
            reply: event.reply.clone().into_owned(),
            when: wording::exact(event.at),
        }
    }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(asked): Query<Asked>,
) -> Result<Response, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let mut mistakes = Mistakes::default();
    let mut sought = asked.sought(&mut mistakes);
    let mut transaction = app.store.begin(&inside.access).await?;
    sought.gateway = asked.by_gateway(&mut transaction, organization, &mut mistakes).await?;
    if !asked.id.trim().is_empty() {
        match named(&mut transaction, organization, &asked.id).await? {
            Some(message) => return Ok(see_other(&traced_message::link(slug, message).build())),
            None => {
                mistakes.id = Some("No message of your organization has this id. Look whether it is whole.".to_owned())
            }
        }
    }
    let is_mistaken = !mistakes.list().is_empty();
    let (found, fates, gaps) = match is_mistaken {
        true => (Found::default(), HashMap::new(), Vec::new()),
        false => search(&mut transaction, organization, &sought).await?,
    };
    let gateways = store::gateway::known_addresses(&mut transaction, organization).await?;
    let account = match sought.account {
        Some(account) => store::account::by_id(&mut transaction, organization, account).await?,
        None => None,
    };
    drop(transaction);
    let here = || asked.with(link(slug));
    let next = found.next.map(|next| here().with("before", &position_in_words(next)).build());
    let page = page(&MessageTrace {
        console: Console::new(&inside, LABEL),
        account: sought.account.map(|id| account.map_or(id.to_string(), |account| wording::user_id(&account.user_id))),
        gateways: gateways.iter().map(ToString::to_string).collect(),
        mistakes,
        messages: found.events.iter().map(|event| ShownMessage::of(slug, event, &fates)).collect(),
        is_filtered: here().build() != link(slug).build(),
        everything: link(slug).build(),
        report: super::route_report::link(slug).build(),
        newest: sought.before.map(|_| here().build()),
        older: next,
        came_to: found.next.filter(|_| found.was_cut_short).map(|next| wording::exact(next.at)),
        gaps,
        asked: asked.clone(),
    })?;
    let status = if is_mistaken { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, page).into_response())
}

/// The message with this id, in either form.
async fn named(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    typed: &str,
) -> Result<Option<QueueId>, PageError> {
    if let Ok(message) = typed.trim().parse::<QueueId>() {
        let story = store::message_trace::story(transaction, organization, message).await?;
        return Ok((!story.events.is_empty()).then_some(message));
    }
    let Ok(short) = typed.parse::<ShortId>() else { return Ok(None) };
    Ok(store::message_trace::by_short_id(transaction, organization, short).await?)
}

async fn search(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    sought: &Sought,
) -> Result<(Found, HashMap<QueueId, Fate>, Vec<ShownGap>), PageError> {
    let found = store::message_trace::search(transaction, organization, sought, PAGE_SIZE).await?;
    let queued = found.events.iter().filter(|event| event.step == Step::Queued).map(|event| event.message);
    let fates = store::message_trace::fates(transaction, organization, &queued.collect::<Vec<_>>()).await?;
    // Of the time that this page tells of.
    let from = found.next.map(|next| next.at).or(sought.from).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let to = sought.before.map(|before| before.at).or(sought.to).unwrap_or_else(OffsetDateTime::now_utc);
    let gaps = ShownGap::in_time(transaction, organization, (from, to)).await?;
    Ok((found, fates, gaps))
}
