//! Outbound Volume: how much is sent, when and by whom; who is slowed down or held for a limit, and whom administrators
//! were told of. Of the organization, of one mail domain or of one account. What is counted is `policy::volume`'s; relays
//! count it.

use askama::Template;
use axum::{extract::State, response::Response};
use serde::Deserialize;
use time::{Duration, OffsetDateTime, macros::format_description};

use super::{
    App, Route,
    console::Console,
    error::PageError,
    form::Query,
    limits,
    link::Link,
    outbound_queue, page, selected_senders,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo,
    volume_chart::Charted,
    wording,
};
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{AccountId, ChangeId, OrganizationId},
    },
    policy::{
        Role,
        limit::{self, BusyDay, Holding, Level, SetAt, Window},
        usual::{busy_day, busy_days_since},
        volume::{Count, Period, Subject, Unit, by_day},
    },
    store::{
        self, OrganizationTransaction,
        limit_notice::Noticed,
        throttle::{HeldSender, Throttled},
        volume::Whose,
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Outbound Volume";

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/outbound-volume", show)]
}

/// The page of the whole organization.
pub fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/outbound-volume"))
}

/// The page of one account.
pub fn link_to_account(slug: &str, account: AccountId) -> Link {
    link(slug).with("account", &account.to_string())
}

/// In the address of the page: what was wanted of senders was so already.
pub(super) const SO_ALREADY: &str = "so";

/// How many of those who send most are shown.
const TOP: i64 = 20;
/// For how long is shown whom administrators were told of, and of how many.
const TOLD_WITHIN: Duration = Duration::DAY;
const TOLD: i64 = 50;

/// What the address of the page says. A unit or period that is none is the first of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct VolumeQuery {
    unit: String,
    period: String,
    /// Only of this account, by its id.
    account: String,
    /// Only of this mail domain.
    domain: String,
    /// The change that was just made of what waits for a limit.
    change: String,
    unchanged: String,
}

impl VolumeQuery {
    fn unit(&self) -> Unit {
        Unit::ALL.into_iter().find(|unit| unit.as_str() == self.unit).unwrap_or_default()
    }

    fn period(&self) -> Period {
        Period::ALL.into_iter().find(|period| period.as_str() == self.period).unwrap_or_default()
    }

    /// Whose volume is asked for. What is not there, or not this organization's, is not found.
    async fn whose(&self, transaction: &mut OrganizationTransaction, slug: &str) -> Result<Option<Of>, PageError> {
        let organization = transaction.organization();
        if !self.account.is_empty() {
            let id = self.account.parse().map_err(|_| PageError::NotFound)?;
            let account = store::account::by_id(transaction, organization, id).await?.ok_or(PageError::NotFound)?;
            return Ok(Some(Of {
                subject: Subject::Account(id),
                field: ("account", id.to_string()),
                name: wording::user_id(&account.user_id),
                page: account_page(slug, id),
                domain: Some(account.user_id.domain().clone()),
            }));
        }
        if !self.domain.is_empty() {
            let name: DomainName = self.domain.parse().map_err(|_| PageError::NotFound)?;
            let found = store::domain::overview(transaction, organization, Some(&name)).await?;
            found.first().ok_or(PageError::NotFound)?;
            return Ok(Some(Of {
                field: ("domain", name.to_string()),
                name: name.to_unicode(),
                page: format!("/{slug}/web-mail-cloud/domain-manager"),
                domain: None,
                subject: Subject::Domain(name),
            }));
        }
        Ok(None)
    }
}

fn account_page(slug: &str, account: AccountId) -> String {
    format!("/{slug}/web-mail-cloud/mail-account-manager/{account}")
}

/// Whose volume is shown, where it is not the whole organization's.
struct Of {
    subject: Subject,
    /// How the address of the page says it.
    field: (&'static str, String),
    name: String,
    page: String,
    /// Of an account the mail domain of its User ID.
    domain: Option<DomainName>,
}

#[derive(Template)]
#[template(path = "outbound_volume.html")]
struct OutboundVolume {
    console: Console,
    status: Option<StatusLine>,
    of: Option<Of>,
    /// The value in the address, the words, and whether it is chosen.
    units: Vec<(&'static str, String, bool)>,
    periods: Vec<(&'static str, &'static str, bool)>,
    /// What the unit is called, and at the beginning of a sentence.
    unit_words: &'static str,
    unit_label: String,
    is_today: bool,
    /// The days that are shown, in words.
    days: String,
    /// All of them in all three units.
    total: String,
    is_empty: bool,
    charted: Charted,
    throttled: Vec<SlowedDown>,
    held: Vec<Held>,
    told: Vec<Told>,
    /// Where ticked senders are sent to; `None`: there is nobody to tick.
    selected: Option<String>,
    senders: Vec<Top>,
    domains: Vec<Top>,
    /// The page of the whole organization, with the same unit and period.
    whole: String,
    /// The page of the same with the longer period.
    four_weeks: String,
}

/// One of those who sent most.
struct Top {
    name: String,
    /// `None` where there is no page of it any more.
    link: Option<String>,
    note: &'static str,
    count: i64,
}

/// Whom something is said of in a list: whose mail is counted together, with the pages about it.
struct Named {
    name: String,
    /// What it is, where the name does not say it.
    note: &'static str,
    /// Of the limits that hold there.
    limits: String,
    /// The same of an account that is there: what is said of it besides stands there, too.
    account: Option<String>,
    /// By which a tick names it; empty where the reader may not decide about it.
    tick: String,
    /// Of its mail in the queue, with the words of the filter.
    sender: String,
}

impl Named {
    fn of(subject: &Subject, user_id: Option<&Mailbox>, slug: &str, role: Role) -> Self {
        let limits_of = |at: SetAt| limits::link(slug, &at).build();
        let of_domain = |domain: &DomainName| limits_of(SetAt::Domain(domain.clone()));
        let (name, limits, note, sender) = match (subject, user_id) {
            (Subject::Account(id), Some(user_id)) => {
                (wording::user_id(user_id), limits_of(SetAt::Account(*id)), "", user_id.to_string())
            }
            (Subject::Account(id), None) => {
                (id.to_string(), limits_of(SetAt::Organization), "account that was deleted", String::new())
            }
            (Subject::Domain(domain), _) => {
                (domain.to_unicode(), of_domain(domain), "all of the mail domain together", format!("@{domain}"))
            }
            (Subject::NoAccount(domain), _) => {
                (domain.to_unicode(), of_domain(domain), "senders that no account has", format!("@{domain}"))
            }
            (Subject::Organization, _) => {
                let name = "All of the organization together".to_owned();
                (name, limits_of(SetAt::Organization), "", String::new())
            }
        };
        let is_there = user_id.is_some() || !matches!(subject, Subject::Account(_));
        let may_decide = is_there && selected_senders::may_decide(role, subject);
        Self {
            name,
            note,
            account: matches!((subject, user_id), (Subject::Account(_), Some(_))).then(|| limits.clone()),
            limits,
            tick: if may_decide { selected_senders::tick(subject) } else { String::new() },
            sender,
        }
    }
}

/// Somebody who is slowed down.
struct SlowedDown {
    who: Named,
    limit: String,
    since: String,
    until: String,
    messages: i64,
    /// Those in the queue.
    queue: String,
    /// Who has said that it stays so, and when.
    kept: Option<(String, String)>,
}

impl SlowedDown {
    fn of(throttled: &Throttled, slug: &str, role: Role) -> Self {
        let who = Named::of(&throttled.subject, throttled.user_id.as_ref(), slug, role);
        Self {
            queue: outbound_queue::link_to_sender(slug, &who.sender).build(),
            who,
            limit: {
                let most = in_words(throttled.most.into(), throttled.unit);
                match throttled.window {
                    Window::Usual => format!("{most} in an hour, by what is usual"),
                    Window::FirstTime => format!("{most} never written to before in a day"),
                    window => format!("{most} in {}", window.words()),
                }
            },
            since: wording::moment(throttled.since),
            until: wording::moment(throttled.until),
            messages: throttled.messages,
            kept: throttled.kept.as_ref().map(|(by, at)| (by.clone(), wording::moment(*at))),
        }
    }
}

/// A sender of whom mail is held for a limit.
struct Held {
    who: Named,
    messages: i64,
    since: String,
    why: String,
    /// Those in the queue, where they are released.
    queue: String,
}

impl Held {
    fn of(held: &HeldSender, slug: &str, role: Role) -> Self {
        let who = Named::of(&held.subject, held.user_id.as_ref(), slug, role);
        // As it was said to its client: behind what is said here of all.
        let why = held.why.strip_prefix("held until an administrator releases it: ").unwrap_or(&held.why);
        Self {
            queue: outbound_queue::link_to_held_of(slug, &who.sender).build(),
            who,
            messages: held.messages,
            since: wording::moment(held.since),
            why: why.to_owned(),
        }
    }
}

/// Somebody whom administrators were told of.
struct Told {
    who: Named,
    state: &'static str,
    /// What the styles know that by.
    class: &'static str,
    at: String,
    counted: String,
    happens: String,
}

impl Told {
    fn of(noticed: &Noticed, slug: &str, role: Role) -> Self {
        let (state, class) = match noticed.level {
            Level::Near => ("Near a limit", "is-unknown"),
            Level::Beyond => ("Beyond a limit", "is-failing"),
            Level::Stopped => ("Stopped", "is-failing"),
        };
        Self {
            who: Named::of(&noticed.subject, noticed.user_id.as_ref(), slug, role),
            state,
            class,
            at: wording::moment(noticed.at),
            counted: noticed.counted.clone(),
            happens: noticed.happens.clone(),
        }
    }
}

/// `1,240 external recipients`.
pub fn in_words(count: i64, unit: Unit) -> String {
    let (one, many) = unit.words();
    wording::counted(count, one, many)
}

/// `1,240 messages, 1,300 recipients, 900 external recipients`.
pub fn all_in_words(count: &Count) -> String {
    Unit::ALL.map(|unit| in_words(count.get(unit), unit)).join(", ")
}

/// What a unit is called where nothing stands before it.
pub fn label(unit: Unit) -> String {
    let (_, many) = unit.words();
    let mut letters = many.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<VolumeQuery>,
) -> Result<Response, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let (unit, period, now) = (query.unit(), query.period(), OffsetDateTime::now_utc());
    let since = period.beginning(now);
    let mut transaction = app.store.begin(&inside.access).await?;
    let of = query.whose(&mut transaction, slug).await?;
    let subject = of.as_ref().map_or(Subject::Organization, |of| of.subject.clone());
    let looked_back = since - Charted::looks_back();
    let hours = store::volume::by_hour(&mut transaction, organization, &subject, looked_back).await?;
    let first = store::volume::first(&mut transaction, organization, &subject).await?;
    let holding = limits_holding(&mut transaction, organization, &subject, of.as_ref(), now).await?;
    let count = match &subject {
        // What all send together is raised for nobody.
        Subject::Account(_) => {
            let since = busy_days_since(now);
            busy_day(&by_day(hours.iter().copied().filter(|(at, _)| *at >= since)), first, now)
        }
        _ => None,
    };
    let busy_day = BusyDay { count, ..BusyDay::default() };
    let holding: Vec<_> = holding.into_iter().map(|holding| holding.raised_by(busy_day)).collect();
    let charted = Charted::of(&subject, (&hours, first), &holding, (unit, period), now);
    let (senders, domains) = match &of {
        None => top(&mut transaction, organization, since, &query, slug).await?,
        Some(_) => (Vec::new(), Vec::new()),
    };
    let mut throttled = store::throttle::throttled(&mut transaction, organization, now).await?;
    throttled.retain(|one| of.is_none() || one.subject == subject);
    let mut held = store::throttle::held(&mut transaction, organization).await?;
    held.retain(|one| of.is_none() || one.subject == subject);
    let mut told = store::limit_notice::noticed(&mut transaction, organization, now - TOLD_WITHIN, TOLD).await?;
    told.retain(|one| of.is_none() || one.subject == subject);
    let status = status(&mut transaction, &query, inside.access.role, slug).await?;
    drop(transaction);
    let here = match &of {
        Some(Of { field: (name, value), .. }) => link(slug).with(name, value),
        None => link(slug),
    };
    let (total, role) = (charted.total(), inside.access.role);
    let throttled: Vec<_> = throttled.iter().map(|one| SlowedDown::of(one, slug, role)).collect();
    let held: Vec<_> = held.iter().map(|one| Held::of(one, slug, role)).collect();
    let listed = throttled.iter().map(|one| &one.who).chain(held.iter().map(|one| &one.who));
    let has_ticks = listed.into_iter().any(|who| !who.tick.is_empty());
    page(&OutboundVolume {
        console: Console::new(&inside, LABEL),
        status,
        throttled,
        held,
        told: told.iter().map(|one| Told::of(one, slug, role)).collect(),
        selected: has_ticks.then(|| selected_senders::link(slug).build()),
        units: Unit::ALL.map(|one| (one.as_str(), label(one), one == unit)).to_vec(),
        periods: Period::ALL.map(|one| (one.as_str(), period_in_words(one), one == period)).to_vec(),
        unit_words: unit.words().1,
        unit_label: label(unit),
        is_today: period == Period::Today,
        days: days(since, now),
        total: all_in_words(&total),
        is_empty: total.messages == 0,
        charted,
        senders,
        domains,
        whole: choosing(link(slug), unit, period).build(),
        four_weeks: choosing(here, unit, Period::FourWeeks).build(),
        of,
    })
}

/// The limits that hold for the mail that is shown.
async fn limits_holding(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    subject: &Subject,
    of: Option<&Of>,
    now: OffsetDateTime,
) -> Result<Vec<Holding>, PageError> {
    let (at, domain, account) = match subject {
        Subject::Account(id) => (SetAt::Account(*id), of.and_then(|of| of.domain.as_ref()), Some(*id)),
        Subject::Domain(name) => (SetAt::Domain(name.clone()), Some(name), None),
        Subject::Organization | Subject::NoAccount(_) => (SetAt::Organization, None, None),
    };
    let limits = store::limit::reaching(transaction, organization, domain, account).await?;
    let whose = match account {
        None => limit::Whose::Total,
        Some(_) if limits.sender(account).is_service => limit::Whose::Service,
        Some(_) => limit::Whose::Each,
    };
    let accounts = store::limit::accounts(&mut **transaction, organization).await?;
    Ok(limits.holding(&at, domain, whose, accounts, now))
}

/// What was just decided about senders.
async fn status(
    transaction: &mut OrganizationTransaction,
    query: &VolumeQuery,
    role: Role,
    slug: &str,
) -> Result<Option<StatusLine>, PageError> {
    let Ok(change) = query.change.parse::<ChangeId>() else {
        return Ok(match query.unchanged.as_str() {
            "" => None,
            SO_ALREADY => Some(status::unchanged_limit()),
            _ => Some(status::nothing_let_go()),
        });
    };
    let organization = transaction.organization();
    let Some(edit) = store::limit::recent(transaction, organization, change).await? else { return Ok(None) };
    let progress = store::change::progress(transaction, edit.revision).await?;
    // What has left cannot be brought back.
    let can_be_undone = edit.action == "sender.block" && role.may_control_senders();
    Ok(Some(status::of_limit(&edit, &progress).undoable(can_be_undone, undo::link(slug, change))))
}

fn choosing(link: Link, unit: Unit, period: Period) -> Link {
    link.with("unit", unit.as_str()).with("period", period.as_str())
}

fn period_in_words(period: Period) -> &'static str {
    match period {
        Period::Today => "Today, by hour",
        Period::FourWeeks => "Last four weeks, by day",
    }
}

/// `29 November 2026`, or from then to now.
fn days(since: OffsetDateTime, now: OffsetDateTime) -> String {
    let format = format_description!("[day padding:none] [month repr:long] [year]");
    let [since, now] = [since, now].map(|moment| moment.format(format).unwrap_or_default());
    if since == now { now } else { format!("{since} to {now}") }
}

/// Who sent most, and from which domains.
async fn top(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    since: OffsetDateTime,
    query: &VolumeQuery,
    slug: &str,
) -> Result<(Vec<Top>, Vec<Top>), PageError> {
    let (unit, period) = (query.unit(), query.period());
    let senders = store::volume::top_senders(transaction, organization, since, unit, TOP).await?;
    let senders = senders.into_iter().map(|sender| {
        let count = sender.count.get(unit);
        match sender.whose {
            Whose::Account(id, user_id) => {
                Top { name: wording::user_id(&user_id), link: Some(account_page(slug, id)), note: "", count }
            }
            Whose::Deleted(id) => Top { name: id.to_string(), link: None, note: "account that was deleted", count },
            Whose::NoAccount(domain) => {
                Top { name: domain.to_unicode(), link: None, note: "senders that no account has", count }
            }
        }
    });
    let senders = senders.collect();
    let domains = store::volume::top_domains(transaction, organization, since, unit, TOP).await?;
    let domains = domains.into_iter().map(|(name, is_there, count)| Top {
        link: is_there.then(|| choosing(link(slug).with("domain", name.as_str()), unit, period).build()),
        name: name.to_unicode(),
        note: if is_there { "" } else { "no longer your organization's" },
        count: count.get(unit),
    });
    Ok((senders, domains.collect()))
}
