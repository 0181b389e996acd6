//! Audit Log: who changed what and when, what was before and after, and the way to take it back.
//! The list with its filters, the same as a file, and one entry with everything that it touched.

use askama::Template;
use axum::{extract::State, response::Response};
use serde::Deserialize;
use serde_json::Value;
use time::{Date, Duration, OffsetDateTime, macros::format_description};

use super::{
    App, Route,
    console::Console,
    csv_file,
    error::PageError,
    form::Query,
    link::Link,
    message_trace, page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo::{self, OfChange},
    wording,
};
use crate::{
    mail::{
        Mailbox,
        id::{ChangeId, GatewayId, Revision},
    },
    policy::account_file::harmless,
    store::{
        self, OrganizationTransaction,
        audit_log::{Filter, Item, Items, ListedChange, PAGE_SIZE},
        gateway::PointerScope,
        limit::{ControlItem, LimitItem},
        message_trace::since::{Changed, Gone},
        pending_gateway, pending_record,
        tenant::Access,
        undo::{Entry, REDO, UNDO},
    },
};

/// The page's name.
pub const LABEL: &str = "Audit Log";

const PATH: &str = "/{organization}/administration/audit-log";
const CSV_PATH: &str = "/{organization}/administration/audit-log.csv";
const ENTRY_PATH: &str = "/{organization}/administration/audit-log/{change}";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::get(CSV_PATH, download), Route::get(ENTRY_PATH, show_entry)]
}

/// How many things an entry's page shows.
const SHOWN_ITEMS: i64 = 100;
/// How many entries of the file are read at once.
const PIECE: i64 = 1_000;

/// One entry.
pub fn entry_link(slug: &str, change: ChangeId) -> Link {
    Link::to(format!("/{slug}/administration/audit-log/{change}"))
}

/// What was done, in words that the subject follows.
fn did(action: &str) -> String {
    let words = match action {
        "organization.create" => "created the organization",
        "organization.suspend" => "suspended",
        "organization.resume" => "let go on",
        "administrator.suspend" => "suspended the administrator",
        "administrator.resume" => "let sign in again the administrator",
        "network.allow" => "opened a private network to gateways of",
        "network.remove" => "closed a private network to gateways of",
        "domain.remove" => "removed the mail domain",
        "domain.add" => "added the mail domain",
        "administrator.create" => "added the administrator",
        "gateway.set" => "set the gateway of",
        "gateway.delete" => "deleted the gateway of",
        "gateway.remove" => "removed the gateway",
        "gateway.edit" => "changed the gateway",
        pending_gateway::PENDING => "set, to go live once verified, the gateway of",
        pending_gateway::LIVE => "made live, since it has passed its verification, the gateway of",
        pending_gateway::USED_ANYWAY => "made live, although it has not passed a verification, the gateway of",
        pending_gateway::GIVEN_UP => "gave up, before it had passed its verification, a gateway of",
        pending_record::PENDING => "changed, to go live once verified, the gateway",
        pending_record::LIVE => "made live, since it has passed its verification, a change of the gateway",
        pending_record::USED_ANYWAY => "made live, although it has not passed a verification, a change of the gateway",
        pending_record::GIVEN_UP => "gave up, before it was live, a change of the gateway",
        "gateway.verify-before-live" => "said which gateways are verified before they go live, for",
        "gateway.require" => "said whether mail must leave through a gateway, for",
        "senders.unknown" => "said whether senders that no account has are refused, for",
        "limit.set" => "set a limit for",
        "limit.delete" => "deleted a limit of",
        "limit.let-go" => "sent at once what waited for a limit of",
        "limit.keep" => "kept slowed down",
        "sender.class" => "said whether this is a service account:",
        "sender.exempt" => "said until when no limit of its own holds for",
        "sender.block" => "blocked",
        "sender.unblock" => "let send again",
        "probe-sender.set" => "set the probe sender of",
        "probe-sender.delete" => "deleted the probe sender of",
        "notices.senders" => "said whether senders are told of their limits, too, for",
        "webhook.set" => "set the webhook of",
        "webhook.delete" => "deleted the webhook of",
        "webhook.secret" => "made a new secret for the webhook",
        "credential.create" => "made the relay credential",
        "credential.limit" => "limited the relay credential",
        "credential.revoke" => "revoked the relay credential",
        "list.create" => "made the distribution list",
        "list.edit" => "changed the distribution list",
        "list.delete" => "deleted the distribution list",
        "list.large" => "said from which size on lists are large, for",
        "inbound-host.set" => "set the inbound host of",
        "inbound-host.delete" => "deleted the inbound host of",
        "account.add" => "added the account",
        "account.name" => "named the account",
        "account.rename" => "renamed the account",
        "account.suspend" => "suspended the account",
        "account.activate" => "activated the account",
        "account.addresses" => "changed the addresses of",
        "account.delete" => "deleted the account",
        "accounts.import" => "imported",
        "mail.release" => "released the mail of",
        "mail.return" => "returned the mail of",
        "mail.keep" => "kept waiting the mail of",
        "queue.retry" => "had tried at once",
        "queue.release" => "released",
        "queue.return" => "returned to the senders",
        "queue.delete" => "deleted without a report",
        UNDO => "took back a change of",
        REDO => "brought back a change of",
        _ => return action.to_owned(),
    };
    words.to_owned()
}

/// A change as the pages show it.
#[derive(Debug)]
pub struct ShownEntry {
    pub link: String,
    pub revision: i64,
    pub when: String,
    pub who: String,
    pub did: String,
    pub subject: String,
    pub before: String,
    pub after: String,
    pub undone_by: Option<String>,
    /// Where it is taken back.
    pub undo: String,
}

impl ShownEntry {
    fn of(slug: &str, change: &ListedChange) -> Self {
        Self {
            link: entry_link(slug, change.id).build(),
            revision: change.revision.0,
            when: wording::moment(change.committed_at),
            who: change.actor.clone(),
            did: did(&change.action),
            subject: change.subject.clone(),
            before: change.before.clone().unwrap_or_default(),
            after: change.after.clone().unwrap_or_default(),
            undone_by: change.undone_by.clone(),
            undo: undo::link(slug, change.id).build(),
        }
    }

    /// The same of a change that was looked up to be taken back.
    pub fn of_undoable(slug: &str, entry: &Entry) -> Self {
        Self {
            link: entry_link(slug, entry.id).build(),
            revision: entry.revision.0,
            when: wording::moment(entry.committed_at),
            who: entry.actor.clone(),
            did: did(&entry.action),
            subject: entry.subject.clone(),
            before: entry.before.clone().unwrap_or_default(),
            after: entry.after.clone().unwrap_or_default(),
            undone_by: entry.undone.as_ref().map(|undone| undone.by.clone()),
            undo: undo::link(slug, entry.id).build(),
        }
    }
}

/// What the address of the page asks for. Dates are days in UTC, as date fields send them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LogQuery {
    who: String,
    what: String,
    subject: String,
    from: String,
    to: String,
    /// A revision: the page behind it.
    before: String,
}

impl LogQuery {
    fn with(&self, link: Link) -> Link {
        link.with("who", printable(&self.who).trim())
            .with("what", printable(&self.what).trim())
            .with("subject", printable(&self.subject).trim())
            .with("from", printable(&self.from).trim())
            .with("to", printable(&self.to).trim())
    }

    fn before(&self) -> Option<Revision> {
        self.before.parse().ok().map(Revision)
    }

    /// A User ID or another address of an account leads to everything that touched the account.
    async fn filter(&self, transaction: &mut OrganizationTransaction) -> store::Result<Filter> {
        let set = |typed: &str| Some(printable(typed).trim().to_owned()).filter(|typed| !typed.is_empty());
        let mut subject = set(&self.subject);
        let mut changes = None;
        if let Some(Ok(address)) = subject.as_ref().map(|subject| subject.parse::<Mailbox>()) {
            let organization = transaction.organization();
            subject = Some(address.to_string());
            if let Some(account) = store::account::by_address(transaction, organization, &address).await? {
                changes = Some(store::audit_log::touching(transaction, organization, account).await?);
                subject = None;
            }
        }
        Ok(Filter {
            actor: set(&self.who),
            action: set(&self.what),
            subject,
            changes,
            from: day(&self.from).map(|day| day.midnight().assume_utc()),
            until: day(&self.to)
                .and_then(|day| day.checked_add(Duration::days(1)))
                .map(|day| day.midnight().assume_utc()),
        })
    }
}

fn printable(typed: &str) -> String {
    typed.chars().filter(|character| !character.is_control()).take(254).collect()
}

/// `2026-11-24`; what is no day asks for nothing.
fn day(typed: &str) -> Option<Date> {
    Date::parse(typed.trim(), format_description!("[year]-[month]-[day]")).ok()
}

#[derive(Template)]
#[template(path = "audit_log.html")]
struct AuditLog {
    console: Console,
    query: LogQuery,
    actors: Vec<String>,
    /// The word in the address, and the words for people.
    actions: Vec<(String, String)>,
    entries: Vec<ShownEntry>,
    is_filtered: bool,
    everything: String,
    newest: Option<String>,
    older: Option<String>,
    csv: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<LogQuery>,
) -> Result<Response, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let filter = query.filter(&mut transaction).await?;
    let mut entries =
        store::audit_log::list(&mut transaction, organization, &filter, query.before(), PAGE_SIZE + 1).await?;
    let choices = store::audit_log::choices(&mut transaction, organization).await?;
    drop(transaction);
    let slug = &inside.access.slug;
    let here = || Link::to(format!("/{slug}/administration/audit-log"));
    let has_older = entries.len() > PAGE_SIZE as usize;
    entries.truncate(PAGE_SIZE as usize);
    let last = entries.last().filter(|_| has_older).map(|entry| entry.revision.to_string());
    page(&AuditLog {
        console: Console::new(&inside, LABEL),
        actors: choices.actors,
        actions: choices
            .actions
            .into_iter()
            .map(|action| (did(&action), action))
            .map(|(did, name)| (name, did))
            .collect(),
        is_filtered: query.with(here()).build() != here().build(),
        everything: here().build(),
        newest: query.before().map(|_| query.with(here()).build()),
        older: last.map(|last| query.with(here()).with("before", &last).build()),
        csv: query.with(Link::to(format!("/{slug}/administration/audit-log.csv"))).build(),
        entries: entries.iter().map(|entry| ShownEntry::of(slug, entry)).collect(),
        query,
    })
}

/// The same entries as a file, read and sent piece by piece.
async fn download(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<LogQuery>,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let filter = query.filter(&mut transaction).await?;
    drop(transaction);
    let name = format!("audit-log-{}.csv", inside.access.slug);
    let begin = Place { app, access: inside.access, filter, before: None, is_first: true };
    Ok(csv_file::answer(&name, begin, Place::piece))
}

/// How far a file was sent. Each piece is read in a transaction of its own: a browser that reads slowly holds none.
struct Place {
    app: App,
    access: Access,
    filter: Filter,
    before: Option<Revision>,
    is_first: bool,
}

impl Place {
    /// The next piece, and where to go on; a failure cuts the file off, so that nobody takes it for whole.
    async fn piece(mut self) -> anyhow::Result<(Vec<u8>, Option<Self>)> {
        let mut transaction = self.app.store.begin(&self.access).await?;
        let organization = self.access.organization();
        let entries = store::audit_log::list(&mut transaction, organization, &self.filter, self.before, PIECE).await?;
        drop(transaction);
        let piece = rows(&entries, self.is_first)?;
        let Some(last) = entries.last().filter(|_| entries.len() as i64 == PIECE) else { return Ok((piece, None)) };
        self.before = Some(last.revision);
        self.is_first = false;
        Ok((piece, Some(self)))
    }
}

fn rows(entries: &[ListedChange], with_header: bool) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if with_header {
        writer.write_record(["when", "revision", "who", "what", "subject", "before", "after", "taken_back_by"])?;
    }
    let second = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    for entry in entries {
        writer.write_record([
            entry.committed_at.to_offset(time::UtcOffset::UTC).format(second)?,
            entry.revision.to_string(),
            harmless(&entry.actor),
            entry.action.clone(),
            harmless(&entry.subject),
            harmless(entry.before.as_deref().unwrap_or_default()),
            harmless(entry.after.as_deref().unwrap_or_default()),
            harmless(entry.undone_by.as_deref().unwrap_or_default()),
        ])?;
    }
    Ok(writer.into_inner()?)
}

#[derive(Template)]
#[template(path = "audit_entry.html")]
struct AuditEntryPage {
    console: Console,
    status: Option<StatusLine>,
    entry: ShownEntry,
    /// The change that this one took back.
    undoes: Option<String>,
    /// The change that took this one back.
    undone: Option<String>,
    /// Whether it can be taken back, by who looks at it.
    may_undo: bool,
    things: Vec<ShownThing>,
    count: i64,
    /// How mail has gone since, where the change was about one gateway or pointer.
    since: Option<Since>,
    /// What went by the change that this one took back.
    left: Option<String>,
    log: String,
}

/// How mail has gone since a change.
struct Since {
    gone: Gone,
    /// The first hour is over: what is counted does not change any more.
    is_over: bool,
    trace: String,
}

/// How long after a change mail is counted that it is about.
const COUNTED: Duration = Duration::hours(1);

/// One thing that a change touched, field by field.
struct ShownThing {
    subject: &'static str,
    name: String,
    /// What else became of it.
    fate: &'static str,
    fields: Vec<ShownField>,
    /// Its own history.
    history: Option<String>,
}

struct ShownField {
    name: &'static str,
    before: String,
    after: String,
}

#[derive(Deserialize)]
struct EntryQuery {
    done: Option<String>,
}

async fn show_entry(
    State(app): State<App>,
    inside: InOrganization,
    OfChange(change): OfChange,
    Query(query): Query<EntryQuery>,
) -> Result<Response, PageError> {
    let access = &inside.access;
    let mut transaction = app.store.begin(access).await?;
    let entry = store::undo::entry(&mut transaction, access.organization(), change).await?;
    let entry = entry.ok_or(PageError::NotFound)?;
    let items = store::audit_log::items(&mut transaction, access.organization(), change, SHOWN_ITEMS).await?;
    let progress = store::change::progress(&mut transaction, entry.revision).await?;
    let since = since(&mut transaction, access, &entry, &items).await?;
    let left = link_to_left(&mut transaction, access, &entry, &items).await?;
    drop(transaction);
    let is_undone = entry.undone.is_some();
    let may_undo = !is_undone && entry.impossible().is_none() && undo::forbidden(access.role, &entry.extent).is_none();
    let slug = &access.slug;
    // Reported as long as the other pages report a save.
    let is_fresh = OffsetDateTime::now_utc() - entry.committed_at < Duration::minutes(10);
    let lead = if entry.action == REDO { "Brought back." } else { "Taken back." };
    let status = (query.done.is_some() && entry.undoes.is_some() && is_fresh && !is_undone).then(|| {
        let things = wording::counted(entry.extent.things, "thing is", "things are");
        let line = StatusLine::new(lead).words(format!("{things} as before.")).live(&progress);
        let line = match left.clone() {
            Some(left) => line.leading_to(status::LEFT, left),
            None => line,
        };
        line.undoable(may_undo, undo::link(slug, change))
    });
    page(&AuditEntryPage {
        console: Console::new(&inside, LABEL),
        // One button is enough.
        may_undo: may_undo && status.is_none(),
        status,
        entry: ShownEntry::of_undoable(slug, &entry),
        undoes: entry.undoes.map(|undoes| entry_link(slug, undoes).build()),
        undone: entry.undone.map(|undone| entry_link(slug, undone.change).build()),
        count: items.count,
        since,
        left: left.map(Link::build),
        things: items.first.iter().map(|item| thing(slug, item, &items)).collect(),
        log: format!("/{slug}/administration/audit-log"),
    })
}

/// How mail has gone in the hour after a change of one pointer or one gateway's record.
async fn since(
    transaction: &mut OrganizationTransaction,
    access: &Access,
    entry: &Entry,
    items: &Items,
) -> store::Result<Option<Since>> {
    let mut all = items.first.iter().filter_map(changed);
    let found = match (all.next(), all.next(), items.count <= SHOWN_ITEMS) {
        (None, ..) => None,
        (Some(one), None, true) => Some(one),
        // Of a selection or a file, which point nobody but accounts somewhere else.
        (Some(first), second, _) => {
            let are_accounts = [Some(first), second].into_iter().flatten().chain(all).all(|one| is_of_account(&one));
            match are_accounts {
                true => store::message_trace::since::accounts_of(transaction, access.organization(), entry.id).await?,
                false => None,
            }
        }
    };
    let Some(changed) = found else { return Ok(None) };
    let (from, now) = (entry.committed_at, OffsetDateTime::now_utc());
    let to = (from + COUNTED).min(now);
    let trace = link_to_mail(&access.slug, (from, to), &changed, items).build();
    let gone = store::message_trace::since::since(transaction, access.organization(), changed, (from, to)).await?;
    Ok(Some(Since { gone, is_over: now - from >= COUNTED, trace }))
}

fn is_of_account(changed: &Changed) -> bool {
    matches!(changed, Changed::OfAccount(..))
}

/// The mail that a change is about, by either way.
fn link_to_mail(slug: &str, time: (OffsetDateTime, OffsetDateTime), changed: &Changed, items: &Items) -> Link {
    let account;
    let scope = match changed {
        Changed::OfDomain(name, _) => PointerScope::Domain(name.clone()),
        Changed::OfAccount(id, _) => {
            account = *id;
            PointerScope::Account(account)
        }
        Changed::Record(gateway, _) => {
            return match items.gateways.get(&gateway.to_string()) {
                Some(address) => message_trace::link_to_gateway(slug, time, address),
                None => message_trace::link_to_time(slug, time.0, time.1),
            };
        }
        // Who has nothing nearer had a gateway before, or has one now, but not always both.
        Changed::OfAll(_) | Changed::OfAccounts(_) => return message_trace::link_to_time(slug, time.0, time.1),
    };
    message_trace::link_to_way(slug, time, &scope, None)
}

/// Leads to the mail that went by what a change said until this one took it back; `None`: it took nothing back that
/// decides where mail goes.
async fn link_to_left(
    transaction: &mut OrganizationTransaction,
    access: &Access,
    entry: &Entry,
    items: &Items,
) -> store::Result<Option<Link>> {
    let Some(undoes) = entry.undoes else { return Ok(None) };
    let Some(undone) = store::undo::entry(transaction, access.organization(), undoes).await? else { return Ok(None) };
    let (slug, time) = (&access.slug, (undone.committed_at, entry.committed_at));
    let address = |gateway: Option<GatewayId>| items.gateways.get(&gateway?.to_string()).map(String::as_str);
    let mut all = items.first.iter().filter_map(changed);
    // What was so until now is what the change had said.
    Ok(match (all.next(), all.next(), items.count <= SHOWN_ITEMS) {
        (None, ..) => None,
        (Some(Changed::OfAll(former)), None, true) => {
            Some(message_trace::link_to_way(slug, time, &PointerScope::Organization, address(former)))
        }
        (Some(Changed::OfDomain(name, former)), None, true) => {
            Some(message_trace::link_to_way(slug, time, &PointerScope::Domain(name), address(former)))
        }
        (Some(Changed::OfAccount(account, former)), None, true) => {
            Some(message_trace::link_to_way(slug, time, &PointerScope::Account(account), address(former)))
        }
        (Some(one @ Changed::Record(..)), None, true) => Some(link_to_mail(slug, time, &one, items)),
        // A selection or a file that pointed all of them at one gateway.
        (Some(Changed::OfAccount(_, Some(first))), second, _) => {
            let alike = |one: &Changed| matches!(one, Changed::OfAccount(_, Some(gateway)) if *gateway == first);
            let is_one = second.into_iter().chain(all).all(|one| alike(&one)) && items.count <= SHOWN_ITEMS;
            let link = message_trace::link_to_time(slug, time.0, time.1).with("scope", "user");
            Some(match address(Some(first)).filter(|_| is_one) {
                Some(address) => link.with("gateway", address),
                None => link,
            })
        }
        (Some(_), ..) => Some(message_trace::link_to_time(slug, time.0, time.1)),
    })
}

/// The same of a change that is not at hand.
pub(super) async fn left_in_between(
    transaction: &mut OrganizationTransaction,
    access: &Access,
    change: ChangeId,
) -> store::Result<Option<Link>> {
    let organization = access.organization();
    let Some(entry) = store::undo::entry(transaction, organization, change).await? else { return Ok(None) };
    let items = store::audit_log::items(transaction, organization, change, SHOWN_ITEMS).await?;
    link_to_left(transaction, access, &entry, &items).await
}

/// What of where mail goes was changed, if anything.
fn changed(item: &Item) -> Option<Changed> {
    let before = |field: &str| item.before.as_ref()?.get(field);
    let former = || before("outbound_gateway")?.as_str()?.parse().ok();
    let is_pointer = before("outbound_gateway").is_some();
    match item.subject.as_str() {
        "organization" if is_pointer => Some(Changed::OfAll(former())),
        "domain" if is_pointer => Some(Changed::OfDomain(item.key.parse().ok()?, former())),
        "account" if is_pointer => Some(Changed::OfAccount(item.key.parse().ok()?, former())),
        // One that was only added is in the way of no mail that went before.
        "gateway" if item.before.is_some() => {
            let revision = item.after.as_ref()?.get("revision")?.as_i64()?;
            Some(Changed::Record(item.key.parse().ok()?, revision))
        }
        _ => None,
    }
}

fn thing(slug: &str, item: &Item, items: &Items) -> ShownThing {
    let text = |fields: &Option<Value>, field: &str| Some(fields.as_ref()?.get(field)?.as_str()?.to_owned());
    let (subject, name) = match item.subject.as_str() {
        "organization" => {
            let subject = if is_of_limits(item) { "Limits" } else { "Organization" };
            (subject, item.name.clone().unwrap_or_else(|| "all users".to_owned()))
        }
        "domain" => ("Mail domain", item.key.clone()),
        "gateway" => {
            ("Gateway", text(&item.after, "address").or_else(|| text(&item.before, "address")).unwrap_or_default())
        }
        "credential" => ("Relay credential", item.name.clone().unwrap_or_else(|| item.key.clone())),
        "list" => {
            let former = || text(&item.after, "address").or_else(|| text(&item.before, "address"));
            ("Distribution list", item.name.clone().or_else(former).unwrap_or_else(|| item.key.clone()))
        }
        _ => {
            let known =
                item.name.clone().or_else(|| text(&item.after, "user_id")).or_else(|| text(&item.before, "user_id"));
            ("Account", known.unwrap_or_else(|| item.key.clone()))
        }
    };
    let history = matches!(subject, "Mail domain" | "Account" | "Relay credential" | "Distribution list")
        .then(|| Link::to(format!("/{slug}/administration/audit-log")).with("subject", &name).build());
    ShownThing {
        subject,
        name,
        fate: match (&item.before, &item.after) {
            (None, _) => "added",
            (_, None) => "deleted",
            _ => "changed",
        },
        fields: FIELDS.iter().filter_map(|field| shown_field(*field, item, items)).collect(),
        history,
    }
}

/// The fields of items and their names for people, in the order in which they are shown.
const FIELDS: [(&str, &str); 32] = [
    ("user_id", "User ID"),
    ("name", "Name"),
    ("status", "Status"),
    ("outbound_gateway", "Outbound Gateway"),
    ("pending_gateway", "Outbound Gateway once verified"),
    ("verify_before_live", "Verify before it goes live"),
    ("must_use_gateway", "Mail must leave through a gateway"),
    ("refuse_unknown_senders", "Refuse senders that no account has"),
    ("probe_sender", "Probe Sender"),
    ("inbound_host", "Inbound Host"),
    ("addresses", "Addresses"),
    ("external_id", "External id"),
    ("address", "Address"),
    ("revision", "Revision"),
    ("domains", "Mail domains"),
    ("networks", "Networks"),
    ("messages_per_minute", "Messages a minute"),
    ("allow_bare_line_feeds", "Bare line feeds allowed"),
    ("revoked", "Revoked"),
    ("may_send", "Who may send"),
    ("senders", "Named senders"),
    ("approval", "Whose messages need approval"),
    ("expands", "Expanded by the relay"),
    ("large_allowed", "Open although it is large"),
    ("members", "Members"),
    ("large_list", "Largest list that is not large"),
    ("gateway_networks", "Private networks of gateways"),
    ("of", "Of"),
    ("limit", "Limit"),
    ("sender", "Sender"),
    ("sending_limit", "Limit"),
    ("sender_control", "Sender"),
];

/// Whether an item is about a limit, or about what was said of a sender.
fn is_of_limits(item: &Item) -> bool {
    let has = |field| item.after.as_ref().is_some_and(|after| after.get(field).is_some());
    has("sending_limit") || has("sender_control")
}

fn shown_field((field, name): (&str, &'static str), item: &Item, items: &Items) -> Option<ShownField> {
    let value = |fields: &Option<Value>| fields.as_ref().and_then(|fields| fields.get(field).cloned());
    let (before, after) = (value(&item.before), value(&item.after));
    (before.is_some() || after.is_some()).then(|| ShownField {
        name,
        before: field_in_words(field, before.as_ref(), items),
        after: field_in_words(field, after.as_ref(), items),
    })
}

/// What stands in a field, for people.
fn field_in_words(field: &str, value: Option<&Value>, items: &Items) -> String {
    let read = match (field, value) {
        ("sending_limit", Some(value)) => LimitItem::deserialize(value).map(|limit| limit.in_words()).ok(),
        ("sender_control", Some(value)) => ControlItem::deserialize(value).map(|control| control.in_words()).ok(),
        _ => None,
    };
    read.unwrap_or_else(|| in_words(value, items))
}

/// A value for people: a gateway's id as its address, addresses one after the other.
fn in_words(value: Option<&Value>, items: &Items) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => items.gateways.get(text).unwrap_or(text).clone(),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        Some(Value::Array(values)) => {
            values.iter().map(|value| in_words(Some(value), items)).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
    }
}
