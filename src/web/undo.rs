//! Undo: takes a change back, from the status line of its save or from the Audit Log.
//! A page that asks first, for the log and for links; the status line's button sends the form at once.

use askama::Template;
use axum::{
    extract::{FromRequestParts, RawPathParams, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};

use super::{
    App, Route, audit_log,
    console::Console,
    distribution_list, distribution_lists, domain_manager,
    error::{PageError, see_other},
    form::Query,
    gateway, gateways,
    job::{self, Failed},
    limits,
    link::Link,
    mail_account_manager::ListQuery,
    outbound_mail_gateway, page, relay_credential,
    session::InOrganization,
    status, verification, wording,
};
use crate::{
    mail::{
        DomainName,
        id::{AccountId, ChangeId, CredentialId, GatewayId, ListId},
    },
    policy::Role,
    store::{
        self,
        job::About,
        tenant::Access,
        undo::{Entry, Extent, Impossible, Obstacle, Obstacles, Undo, Undone, What},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/undo/{change}";

/// From how many things on the work is done behind a page that shows its progress.
const MANY: i64 = 1_000;

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, take_back)]
}

/// Where a change is taken back, by a form that is sent there.
pub fn link(slug: &str, change: ChangeId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/undo/{change}"))
}

/// The change that the path names. One that cannot be is not found, like one that is not there.
pub(super) struct OfChange(pub ChangeId);

impl<S: Send + Sync> FromRequestParts<S> for OfChange {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| PageError::NotFound)?;
        let change = params.iter().find(|(name, _)| *name == "change").and_then(|(_, id)| id.parse().ok());
        change.map(Self).ok_or(PageError::NotFound)
    }
}

/// Why somebody may not take a change back, if so: whoever may change everything that it changed may.
pub(super) fn forbidden(role: Role, extent: &Extent) -> Option<&'static str> {
    if extent.credentials && !role.may_manage_relay_credentials() {
        return Some("Only an Administrator may take back what was done to a relay credential.");
    }
    if extent.is_of_organization() && !role.may_set_organization_gateway() {
        return Some("Only an Administrator may take back what was set for the organization or a mail domain.");
    }
    if extent.is_of_senders() && !role.may_control_senders() {
        return Some("Your role reads only. An Administrator or a User Administrator may take this back.");
    }
    let may = if extent.is_of_whole_accounts() { role.may_manage_accounts() } else { role.may_set_account_gateway() };
    (!may).then_some("Your role reads only. An Administrator or a User Administrator may take this back.")
}

#[derive(Template)]
#[template(path = "undo.html")]
struct UndoPage {
    console: Console,
    entry: audit_log::ShownEntry,
    outlook: Outlook,
    /// The entry in the Audit Log.
    log: String,
    here: String,
}

/// Whether it can be taken back, as the page says it.
enum Outlook {
    Ready,
    /// Nothing can be done about it: why.
    Never(&'static str),
    /// Somebody has done it already: who, when, and the entry of that.
    Already(String, String, String),
    InTheWay(Vec<ShownObstacle>, i64),
}

struct ShownObstacle {
    subject: String,
    what: String,
    /// Who changed it, and when.
    since: Option<(String, String)>,
}

impl ShownObstacle {
    fn of(obstacle: &Obstacle) -> Self {
        let what = match &obstacle.what {
            What::Changed => "changed since".to_owned(),
            What::AddressTaken { address, by } => format!("had the address {address}, which {by} has now"),
            What::DomainGone(domain) => {
                format!("had an address at {domain}, which is no longer a mail domain of yours")
            }
            What::GatewayGone => "had a gateway that is no longer there".to_owned(),
            What::GatewayThere => "is there again already".to_owned(),
            What::FormerRelay(relay) => {
                format!("needed approval of messages, which the relay {relay} of a former version does not know")
            }
        };
        let since = obstacle.since.as_ref().map(|since| (since.actor.clone(), wording::moment(since.at)));
        Self { subject: obstacle.subject.clone(), what, since }
    }
}

fn never(why: Impossible) -> &'static str {
    match why {
        Impossible::OfOperator => {
            "Which organizations, mail domains and private networks there are is the operator's to say, so this cannot be taken back here."
        }
        Impossible::NothingToRestore => {
            "It changed no gateway that mail leaves through, no account, no limit and no list, so there is nothing to take back."
        }
        Impossible::NotRecorded => "What was there before was not written down, so this cannot be taken back.",
    }
}

fn already(slug: &str, undone: &Undone) -> Outlook {
    let entry = audit_log::entry_link(slug, undone.change).build();
    Outlook::Already(undone.by.clone(), wording::moment(undone.at), entry)
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    OfChange(change): OfChange,
    Query(query): Query<ListQuery>,
) -> Result<Response, PageError> {
    let entry = entry(&app, &inside.access, change).await?;
    let outlook = match (&entry.undone, entry.impossible(), forbidden(inside.access.role, &entry.extent)) {
        (Some(undone), _, _) => already(&inside.access.slug, undone),
        (_, Some(why), _) => Outlook::Never(never(why)),
        (_, _, Some(sentence)) => Outlook::Never(sentence),
        _ => Outlook::Ready,
    };
    page(&undo_page(&inside, &query, entry, outlook))
}

async fn entry(app: &App, access: &Access, change: ChangeId) -> Result<Entry, PageError> {
    let mut transaction = app.store.begin(access).await?;
    store::undo::entry(&mut transaction, access.organization(), change).await?.ok_or(PageError::NotFound)
}

fn undo_page(inside: &InOrganization, query: &ListQuery, entry: Entry, outlook: Outlook) -> UndoPage {
    UndoPage {
        console: Console::new(inside, audit_log::LABEL),
        log: audit_log::entry_link(&inside.access.slug, entry.id).build(),
        here: query.link_to_undo(&inside.access.slug, entry.id).build(),
        entry: audit_log::ShownEntry::of_undoable(&inside.access.slug, &entry),
        outlook,
    }
}

async fn take_back(
    State(app): State<App>,
    inside: InOrganization,
    OfChange(change): OfChange,
    Query(query): Query<ListQuery>,
) -> Result<Response, PageError> {
    let entry = entry(&app, &inside.access, change).await?;
    if let Some(sentence) = forbidden(inside.access.role, &entry.extent) {
        return Err(PageError::Forbidden(sentence));
    }
    if entry.extent.things >= MANY && entry.undone.is_none() && entry.impossible().is_none() {
        return take_back_many(&app, &inside.access, entry, query).await;
    }
    let refused = |entry, outlook| {
        let page = page(&undo_page(&inside, &query, entry, outlook))?;
        Ok((StatusCode::CONFLICT, page).into_response())
    };
    match undo(&app, &inside.access, change).await? {
        Undo::NotFound => Err(PageError::NotFound),
        Undo::Impossible(why) => refused(entry, Outlook::Never(never(why))),
        // Sent twice: both lead to the same.
        Undo::Already(undone) if undone.by == inside.access.email => {
            Ok(see_other(&way_back(&app, &inside.access, &entry.extent, &query, undone.change).await?.build()))
        }
        Undo::Already(undone) => refused(entry, already(&inside.access.slug, &undone)),
        Undo::InTheWay(obstacles) => refused(entry, in_the_way(&obstacles)),
        Undo::Done(committed) => {
            verification::begin_after(&app, &inside.access, committed.id).await;
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            Ok(see_other(&way_back(&app, &inside.access, &entry.extent, &query, committed.id).await?.build()))
        }
    }
}

fn in_the_way(obstacles: &Obstacles) -> Outlook {
    let shown: Vec<ShownObstacle> = obstacles.first.iter().map(ShownObstacle::of).collect();
    let more = obstacles.count - i64::try_from(shown.len()).unwrap_or(i64::MAX);
    Outlook::InTheWay(shown, more)
}

/// An address that somebody else takes in this very moment is seen by the second try.
async fn undo(app: &App, access: &Access, change: ChangeId) -> store::Result<Undo> {
    let first = store::undo::undo(app.store.begin(access).await?, change, &access.email).await;
    match first {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() || error.is_foreign_key_violation() => {
            store::undo::undo(app.store.begin(access).await?, change, &access.email).await
        }
        first => first,
    }
}

async fn take_back_many(app: &App, access: &Access, entry: Entry, query: ListQuery) -> Result<Response, PageError> {
    let title = format!("Take back a change of {}", wording::counted(entry.extent.things, "thing", "things"));
    let (doing, who, things) = (app.clone(), access.clone(), entry.extent.things);
    job::run(app, access, (title, About::Accounts), things, async move |progress| {
        let undone = undo(&doing, &who, entry.id).await?;
        progress.set(things);
        match undone {
            Undo::Done(committed) => Ok(way_back(&doing, &who, &entry.extent, &query, committed.id).await?),
            Undo::Already(undone) if undone.by == who.email => {
                Ok(way_back(&doing, &who, &entry.extent, &query, undone.change).await?)
            }
            Undo::Already(undone) => Err(Failed::Because(format!(
                "{} has taken it back already, {}.",
                undone.by,
                wording::moment(undone.at)
            ))),
            Undo::InTheWay(obstacles) => Err(Failed::Because(obstacles_in_words(&obstacles))),
            Undo::Impossible(why) => Err(Failed::Because(never(why).to_owned())),
            Undo::NotFound => Err(Failed::Page(PageError::NotFound)),
        }
    })
    .await
}

fn obstacles_in_words(obstacles: &Obstacles) -> String {
    let mut words = format!("{} in the way:", wording::counted(obstacles.count, "thing stands", "things stand"));
    for obstacle in &obstacles.first {
        let shown = ShownObstacle::of(obstacle);
        words.push_str(&format!(" {}: {}", shown.subject, shown.what));
        if let Some((by, when)) = shown.since {
            words.push_str(&format!(", by {by}, {when}"));
        }
        words.push('.');
    }
    words
}

/// Where it is shown what a change that took another one back has done: the page of the only thing, the list for
/// accounts, else the entry in the Audit Log.
async fn way_back(
    app: &App,
    access: &Access,
    extent: &Extent,
    query: &ListQuery,
    change: ChangeId,
) -> Result<Link, PageError> {
    let (slug, id) = (&access.slug, change.to_string());
    let sole = extent.sole.as_ref();
    let of = sole.map(|thing| (thing.subject.as_str(), thing.key.as_str(), thing.pointer_only));
    Ok(match of {
        Some(("organization", _, _)) if let Some(at) = sole.and_then(|thing| thing.limited.as_ref()) => {
            limits::link(slug, at).with("change", &id)
        }
        Some(("organization", _, true)) => outbound_mail_gateway::here(slug).with("change", &id),
        Some(("organization", _, _)) if sole.is_some_and(|thing| thing.requirement_only) => {
            outbound_mail_gateway::here(slug).with("required", &id)
        }
        Some(("organization", _, _)) if sole.is_some_and(|thing| thing.verify_before_live_only) => {
            outbound_mail_gateway::here(slug).with("before_live", &id)
        }
        Some(("organization", _, _)) if sole.is_some_and(|thing| thing.unknown_senders_only) => {
            outbound_mail_gateway::here(slug).with("senders", &id)
        }
        Some(("organization", _, _)) if sole.is_some_and(|thing| thing.probe_sender_only) => {
            outbound_mail_gateway::here(slug).with("probe", &id)
        }
        Some(("organization", _, _)) if sole.is_some_and(|thing| thing.large_list_only) => {
            distribution_lists::link(slug).with("change", &id)
        }
        Some(("list", key, _)) if let Ok(list) = key.parse::<ListId>() => {
            of_list(app, access, list).await?.with("change", &id)
        }
        Some(("gateway", key, _))
            if sole.is_some_and(|thing| thing.record_only)
                && let Ok(gateway) = key.parse::<GatewayId>() =>
        {
            gateway::link(slug, gateway).with("change", &id)
        }
        Some(("gateway", _, _)) => gateways::link(slug).with("removed", &id),
        Some(("credential", key, _)) if let Ok(credential) = key.parse::<CredentialId>() => {
            relay_credential::link(slug, credential).with("change", &id)
        }
        Some(("domain", key, true)) if let Ok(domain) = key.parse::<DomainName>() => {
            domain_manager::link_to_row(slug, &domain).with("change", &id)
        }
        Some(("domain", key, false))
            if let Ok(domain) = key.parse::<DomainName>()
                && sole.is_some_and(|thing| thing.inbound_host_only) =>
        {
            domain_manager::link_to_row(slug, &domain).with("inbound", &id)
        }
        Some(("account", key, pointer_only)) if let Ok(account) = key.parse::<AccountId>() => {
            of_account(app, access, query, account, pointer_only).await?.with("change", &id)
        }
        _ if extent.is_of_accounts() => query.link_here(slug).with("change", &id),
        _ => audit_log::entry_link(slug, change).with("done", "1"),
    })
}

/// The page of a list, or the table if it is gone.
async fn of_list(app: &App, access: &Access, list: ListId) -> Result<Link, PageError> {
    let mut transaction = app.store.begin(access).await?;
    let found = store::distribution_list::find(&mut transaction, access.organization(), list).await?;
    Ok(match found {
        Some(_) => distribution_list::link(&access.slug, list),
        None => distribution_lists::link(&access.slug),
    })
}

/// The row of an account whose gateway it was, its page if more of it changed, or the list if it is gone.
async fn of_account(
    app: &App,
    access: &Access,
    query: &ListQuery,
    account: AccountId,
    pointer_only: bool,
) -> Result<Link, PageError> {
    let slug = &access.slug;
    if pointer_only {
        return Ok(query.link_to_row(slug, account));
    }
    let mut transaction = app.store.begin(access).await?;
    let is_there = store::account::details(&mut transaction, access.organization(), account).await?.is_some();
    Ok(if is_there { query.link_to_account(slug, account) } else { query.link_here(slug) })
}
