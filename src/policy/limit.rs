//! How much may be sent within a time: limits, where one is inherited from, and what happens to mail beyond it. Relays
//! judge by it when the end of DATA has come, pages and commands explain by it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime, UtcOffset, macros::format_description};

use super::{
    correspondents::{self, Correspondents},
    facts::Found,
    recent::Recent,
    routing::Scope,
    usual::{FACTOR, FACTOR_OF_ALL, MOST_RAISED, RAISED, RAISED_FIRST_TIME},
    volume::{Count, Subject, Unit},
    words::{number, words},
};
use crate::mail::{DomainName, id::AccountId};

/// For how long the platform's own figures only alert in an organization that is new, in days.
pub const ONLY_ALERTS: i64 = 14;

/// Beyond so many times an hour's limit a sender is stopped, whatever else was chosen: who has taken an account over
/// must not get his mail out slowly.
pub const STOP: i64 = 5;

/// How much of one sender may wait for a limit, or be held for it: what the limit lets leave in this time.
pub const SURPLUS: Duration = Duration::DAY;

/// For how long mail has to wait, or more to be sent than is usual, before administrators are told of mail that is delayed
/// for that: most of those who are a little beyond it are only busy, and their mail is gone before anybody could look.
pub const TOLD_AFTER: Duration = Duration::minutes(10);
/// Of so many beyond it they are told at once.
pub const TOLD_BEYOND: i64 = 100;

/// The most that can be set.
pub const MOST: u32 = 100_000_000;

/// The time in which is counted: always the one that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    Minute,
    Hour,
    /// An hour too, compared with what is usual at that time: the limit is [some times](Kind::factor) that,
    /// and never below the figure that is set, or [a part of it](quiet) where nothing is usual.
    Usual,
    Day,
    /// A day, in which only those count to whom the account had not written before.
    FirstTime,
    /// One message, with all its parts where it was split: beyond it an administrator has to approve it.
    Approval,
    /// One message: beyond it it is refused.
    Message,
}

/// A message to so many recipients is remembered for [`PARTS_KEPT`], and what comes with the same Message-ID from the
/// same sender counts as a part of it: servers split what goes to many.
pub const PART: usize = 10;
/// For how long.
pub const PARTS_KEPT: Duration = Duration::minutes(15);

impl Window {
    pub const ALL: [Self; 7] =
        [Self::Minute, Self::Hour, Self::Usual, Self::Day, Self::FirstTime, Self::Approval, Self::Message];

    /// Whether it is about one message, and not about what is sent within a time.
    pub fn is_one_message(self) -> bool {
        matches!(self, Self::Approval | Self::Message)
    }

    pub fn length(self) -> Duration {
        match self {
            Self::Minute => Duration::MINUTE,
            Self::Hour | Self::Usual => Duration::HOUR,
            Self::Day | Self::FirstTime => Duration::DAY,
            Self::Approval | Self::Message => PARTS_KEPT,
        }
    }

    /// What happens beyond a limit for which nothing was chosen.
    pub fn default_action(self) -> Action {
        match self {
            Self::Minute | Self::Hour | Self::Usual => Action::Delay,
            Self::Day | Self::Approval => Action::Hold,
            // Who has a new trade is no thief.
            Self::FirstTime => Action::Alert,
            Self::Message => Action::Refuse,
        }
    }

    /// With its article: … in an hour.
    pub fn words(self) -> &'static str {
        match self {
            Self::Minute => "a minute",
            Self::Hour | Self::Usual => "an hour",
            Self::Day | Self::FirstTime => "a day",
            Self::Approval | Self::Message => "one message",
        }
    }
}

/// Whose mail a limit counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// Each account for itself, service accounts apart.
    Each,
    /// Each service account for itself, and what no account of a mail domain has sent, together.
    Service,
    /// All of the mail domain or of the organization together.
    Total,
}

/// What happens to mail beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Administrators are told, and it goes its way.
    Alert,
    /// It waits in the queue and leaves at the pace of the limit.
    Delay,
    /// It waits until an administrator releases it.
    Hold,
    /// 451: whoever submits it keeps it and tries again.
    Defer,
    /// 550.
    Refuse,
}

impl Action {
    pub const ALL: [Self; 5] = [Self::Alert, Self::Delay, Self::Hold, Self::Defer, Self::Refuse];
}

/// How far somebody is with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Four fifths of it are counted, of a limit for an hour or a day.
    Near,
    Beyond,
    /// So far beyond it that nothing is taken any more.
    Stopped,
}

words!(Level: "near" = Near, "beyond" = Beyond, "stopped" = Stopped);
words!(Window: "minute" = Minute, "hour" = Hour, "usual" = Usual, "day" = Day, "first-time" = FirstTime,
       "approval" = Approval, "message" = Message);
words!(Whose: "each" = Each, "service" = Service, "total" = Total);
words!(Action: "alert" = Alert, "delay" = Delay, "hold" = Hold, "defer" = Defer, "refuse" = Refuse);

/// What a limit is about: there is one of a kind at most at each scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    pub whose: Whose,
    pub window: Window,
    pub unit: Unit,
}

impl Kind {
    /// What happens beyond a limit of the platform.
    pub fn default_action(self) -> Action {
        match (self.whose, self.window) {
            // Nobody waits because all together send more than usual.
            (Whose::Total, Window::Usual) => Action::Alert,
            (_, window) => window.default_action(),
        }
    }
}

impl Kind {
    /// Whether there can be a limit of this kind: one message is nobody's total, and is not many messages; to whom
    /// somebody has written before is known of accounts, and of recipients outside.
    pub fn is_possible(self) -> bool {
        match self.window {
            Window::Approval | Window::Message => self.whose != Whose::Total && self.unit != Unit::Messages,
            Window::FirstTime => self.whose != Whose::Total && self.unit == Unit::External,
            Window::Minute | Window::Hour | Window::Usual | Window::Day => true,
        }
    }

    /// The most that can be set.
    pub fn most(self) -> u32 {
        match self.window {
            // No more are known of any account.
            Window::FirstTime => correspondents::MOST as u32 - 1,
            _ => MOST,
        }
    }

    /// Beyond so many times the usual is unusual.
    pub fn factor(self) -> u32 {
        match self.whose {
            Whose::Total => FACTOR_OF_ALL,
            Whose::Each | Whose::Service => FACTOR,
        }
    }

    /// Whether the platform's figure of this kind is raised for an account that usually sends more.
    fn can_be_raised(self) -> bool {
        self.whose != Whose::Total && matches!(self.window, Window::Day | Window::FirstTime)
    }
}

/// A limit as it is set at some scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// How many; `None`: as many as one likes, whatever a wider scope says.
    pub most: Option<u32>,
    pub action: Action,
}

/// Where a limit is set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetAt {
    Organization,
    Domain(DomainName),
    Account(AccountId),
}

impl SetAt {
    pub fn scope(&self) -> Scope {
        match self {
            Self::Organization => Scope::Organization,
            Self::Domain(_) => Scope::Domain,
            Self::Account(_) => Scope::User,
        }
    }

    /// Which limits can be set here: an account is one sender, whatever its class.
    pub fn takes(&self, whose: Whose) -> bool {
        !matches!((self, whose), (Self::Account(_), Whose::Total | Whose::Service))
    }
}

/// The limits of one scope.
pub type Limits = BTreeMap<Kind, Limit>;

/// What an administrator has said of one sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SenderControl {
    /// A program that sends for many: other figures hold.
    pub is_service: bool,
    /// No limit of its own holds until then.
    pub exempt_until: Option<OffsetDateTime>,
    /// Nothing new is accepted from it.
    pub is_blocked: bool,
}

impl SenderControl {
    /// Whether no limit of its own holds at `now`.
    fn is_exempt(&self, now: OffsetDateTime) -> bool {
        self.exempt_until.is_some_and(|until| until > now)
    }
}

/// All that an organization has said about how much may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationLimits {
    /// Until then the platform's own figures only alert.
    pub default_acts_from: OffsetDateTime,
    /// What the operator has set for every organization, in place of the figures that are [built in](platform).
    pub platform: Arc<Limits>,
    pub set: HashMap<SetAt, Limits>,
    /// Only of those of whom something is said.
    pub senders: HashMap<AccountId, SenderControl>,
}

/// What the platform sets for each account. Figures of others that stand behind it: 500 external recipients an hour,
/// 1,000 recipients a day and 200 in a day that are written to for the first time, for a person.
const EACH: [(Kind, u32); 6] = [
    (Kind { whose: Whose::Each, window: Window::Minute, unit: Unit::Recipients }, 60),
    (Kind { whose: Whose::Each, window: Window::Hour, unit: Unit::External }, 500),
    (Kind { whose: Whose::Each, window: Window::Usual, unit: Unit::Recipients }, 250),
    (Kind { whose: Whose::Each, window: Window::Day, unit: Unit::Recipients }, 1000),
    (Kind { whose: Whose::Each, window: Window::FirstTime, unit: Unit::External }, 200),
    (Kind { whose: Whose::Each, window: Window::Message, unit: Unit::Recipients }, 500),
];

/// And for each service account: 2,000 messages in ten minutes and 10,000 a day for what sends in bulk.
const SERVICE: [(Kind, u32); 3] = [
    (Kind { whose: Whose::Service, window: Window::Minute, unit: Unit::Recipients }, 200),
    (Kind { whose: Whose::Service, window: Window::Usual, unit: Unit::Recipients }, 1000),
    (Kind { whose: Whose::Service, window: Window::Day, unit: Unit::Recipients }, 10_000),
];

/// And for all of an organization together, whatever its size.
const TOTAL: (Kind, u32) = (Kind { whose: Whose::Total, window: Window::Usual, unit: Unit::Recipients }, 1000);

/// What the platform sets for everybody where its operator has set nothing else; the total is that of an organization with
/// so many accounts.
pub fn platform(whose: Whose, accounts: u64) -> impl Iterator<Item = (Kind, Limit)> {
    let fixed: &'static [(Kind, u32)] = match whose {
        Whose::Each => &EACH,
        Whose::Service => &SERVICE,
        Whose::Total => &[],
    };
    let day = Kind { whose, window: Window::Day, unit: Unit::External };
    // Asked for every message: the power is taken where it is needed only.
    let totals = (whose == Whose::Total).then(|| [TOTAL, (day, of_accounts(accounts))]);
    let figures = fixed.iter().copied().chain(totals.into_iter().flatten());
    figures.map(|(kind, most)| (kind, Limit { most: Some(most), action: kind.default_action() }))
}

/// What an organization with so many accounts sends outside in a day at most: it grows with them, but slower.
fn of_accounts(accounts: u64) -> u32 {
    let most = 500.0 * (accounts.max(1) as f64).powf(0.7) + 9500.0;
    (most.min(f64::from(MOST)) as u32).next_multiple_of(10)
}

/// A limit that holds for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub kind: Kind,
    pub limit: Limit,
    pub set_by: Scope,
    /// Whose mail is counted.
    pub subject: Subject,
}

impl Default for OrganizationLimits {
    /// As if the organization were new for ever.
    fn default() -> Self {
        Self::new(PrimitiveDateTime::MAX.assume_utc())
    }
}

impl OrganizationLimits {
    /// An organization of which nothing else is known.
    pub fn new(default_acts_from: OffsetDateTime) -> Self {
        let (platform, set, senders) = (Arc::default(), HashMap::new(), HashMap::new());
        Self { default_acts_from, platform, set, senders }
    }

    /// What was said of a sender.
    pub fn sender(&self, account: Option<AccountId>) -> SenderControl {
        account.and_then(|account| self.senders.get(&account)).copied().unwrap_or_default()
    }

    /// Whose limits hold for this sender by itself; `None`: nobody's at `now`, it is exempt.
    pub(super) fn class_of(&self, sender: &Found, now: OffsetDateTime) -> Option<Whose> {
        let control = self.sender(sender.account);
        let is_person = sender.account.is_some() && !control.is_service;
        (!control.is_exempt(now)).then_some(if is_person { Whose::Each } else { Whose::Service })
    }

    /// Whether anything is set for this sender or its mail domain, and not for the organization as a whole.
    pub(super) fn is_set_apart(&self, sender: &Found) -> bool {
        sender.account.is_some_and(|account| self.set.contains_key(&SetAt::Account(account)))
            || self.set.contains_key(&SetAt::Domain(sender.sender.domain().clone()))
    }

    /// The limits that hold for mail of this sender at `now`, in an organization of so many accounts. Of each kind the
    /// nearest scope's holds for the sender itself; those of a whole domain and of the whole organization hold besides.
    pub fn applied(&self, sender: &Found, accounts: u64, now: OffsetDateTime) -> Vec<Applied> {
        // Most organizations leave it at the platform's figures: nothing is looked up then.
        let domain = (!self.set.is_empty()).then(|| SetAt::Domain(sender.sender.domain().clone()));
        let mut applied = Vec::with_capacity(EACH.len() + 2);
        if let Some(whose) = self.class_of(sender, now) {
            let subject = sender.subject();
            let own = sender.account.map(SetAt::Account);
            let scopes = [own.as_ref(), domain.as_ref(), Some(&SetAt::Organization)];
            self.add(&mut applied, whose, &subject, scopes.into_iter().flatten(), accounts, now);
        }
        // Beyond the domain there is nothing to inherit: the organization's total is another one.
        if let Some(limits) = domain.as_ref().and_then(|domain| self.set.get(domain)) {
            add_total(&mut applied, limits, Scope::Domain, &Subject::Domain(sender.sender.domain().clone()));
        }
        let scopes = std::iter::once(&SetAt::Organization);
        self.add(&mut applied, Whose::Total, &Subject::Organization, scopes, accounts, now);
        applied
    }

    /// Adds, of each kind, what the first of these scopes that says something says, and at last the platform.
    fn add<'a>(
        &self,
        applied: &mut Vec<Applied>,
        whose: Whose,
        subject: &Subject,
        scopes: impl Iterator<Item = &'a SetAt>,
        accounts: u64,
        now: OffsetDateTime,
    ) {
        let begun = applied.len();
        let mut add = |kind: Kind, limit: Limit, set_by: Scope| {
            if !applied[begun..].iter().any(|other| other.kind == kind) {
                applied.push(Applied { kind, limit, set_by, subject: subject.clone() });
            }
        };
        for scope in scopes {
            let limits = self.set.get(scope).into_iter().flatten();
            // What is set at an account is set for it, of whatever class it is.
            let is_own = matches!(scope, SetAt::Account(_));
            for (kind, limit) in limits.filter(|(kind, _)| kind.whose == whose || is_own) {
                add(Kind { whose, ..*kind }, *limit, scope.scope());
            }
        }
        let of_operator = self.platform.iter().filter(|(kind, _)| kind.whose == whose);
        for (kind, limit) in of_operator.map(|(kind, limit)| (*kind, *limit)).chain(platform(whose, accounts)) {
            let action = if now < self.default_acts_from { Action::Alert } else { limit.action };
            add(kind, Limit { action, ..limit }, Scope::Platform);
        }
    }
}

/// A limit that holds at a scope, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    pub kind: Kind,
    pub limit: Limit,
    pub set_by: Scope,
    /// Why that is more than the platform says.
    pub raised: Option<Raised>,
}

/// A figure of the platform that is raised for one account, since it usually sends much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised {
    /// What the platform says.
    pub from: u32,
    /// What the account sends on its busy days.
    pub busy_day: i64,
}

impl Raised {
    /// It usually sends up to 900 a day.
    pub fn words(&self, kind: Kind) -> String {
        let busy_day = number(self.busy_day);
        match kind.window {
            Window::FirstTime => format!("it usually writes to up to {busy_day} new ones a day"),
            _ => format!("it usually sends up to {busy_day} a day"),
        }
    }
}

/// What a limit allows an account that sends so much on its busy days, where that is known: a figure of the platform is
/// raised to [`RAISED`] times that ([`RAISED_FIRST_TIME`] of strangers), and to [`MOST_RAISED`] times itself at most. One
/// that somebody has set is not.
fn raised(kind: Kind, most: u32, set_by: Scope, busy_day: Option<i64>) -> (u32, Option<Raised>) {
    let Some(busy_day) = busy_day.filter(|_| kind.can_be_raised() && set_by == Scope::Platform) else {
        return (most, None);
    };
    let times = if kind.window == Window::FirstTime { RAISED_FIRST_TIME } else { RAISED };
    let wanted = u32::try_from(busy_day.saturating_mul(times.into())).unwrap_or(MOST);
    match wanted.min(most.saturating_mul(MOST_RAISED)) {
        higher if higher > most => (higher, Some(Raised { from: most, busy_day })),
        _ => (most, None),
    }
}

/// What an account sends on its busy days, and to how many for the first time, where that is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct BusyDay {
    pub count: Option<Count>,
    pub first_time: Option<i64>,
}

impl Holding {
    /// The same as it holds for mail of this subject.
    pub fn applied(&self, subject: &Subject) -> Applied {
        let Self { kind, limit, set_by, .. } = *self;
        Applied { kind, limit, set_by, subject: subject.clone() }
    }

    /// Whether so many, with a message that is to be judged, are so far from it that nothing is to be asked and nothing
    /// comes of it, whatever is usual: they are not half of the least that it allows.
    pub fn is_far(&self, counted: i64) -> bool {
        self.least().is_none_or(|least| !is_half_way(counted, least))
    }

    /// The least that it allows, whatever is usual.
    pub fn least(&self) -> Option<u32> {
        let most = self.limit.most?;
        Some(if self.kind.window == Window::Usual { quiet(most) } else { most })
    }

    /// With what holds for an account with such busy days.
    pub fn raised_by(self, busy_day: BusyDay) -> Self {
        let busy_day = match self.kind.window {
            Window::FirstTime => busy_day.first_time,
            _ => busy_day.count.map(|count| count.get(self.kind.unit)),
        };
        let Some(most) = self.limit.most else { return self };
        let (most, raised) = raised(self.kind, most, self.set_by, busy_day);
        Self { limit: Limit { most: Some(most), ..self.limit }, raised, ..self }
    }
}

impl OrganizationLimits {
    /// The limits that hold at `now` for whose mail at a scope, its own and what it inherits, one of a kind and in the
    /// order of kinds. `domain` is the account's. An account has no total; that of a domain and that of the organization
    /// hold side by side, so neither inherits the other.
    pub fn holding(
        &self,
        at: &SetAt,
        domain: Option<&DomainName>,
        whose: Whose,
        accounts: u64,
        now: OffsetDateTime,
    ) -> Vec<Holding> {
        let mut applied = Vec::new();
        // Whose it is says the caller.
        let subject = Subject::Organization;
        match (whose, at) {
            (Whose::Total, SetAt::Organization) => {
                self.add(&mut applied, whose, &subject, std::iter::once(at), accounts, now);
            }
            (Whose::Total, _) => {
                let limits = self.set.get(at);
                limits.into_iter().for_each(|limits| add_total(&mut applied, limits, at.scope(), &subject));
            }
            _ => {
                let domain = domain.cloned().map(SetAt::Domain);
                let scopes = [Some(at), domain.as_ref(), Some(&SetAt::Organization)];
                self.add(&mut applied, whose, &subject, scopes.into_iter().flatten(), accounts, now);
            }
        }
        let holding = applied.into_iter().map(|Applied { kind, limit, set_by, .. }| Holding {
            kind,
            limit,
            set_by,
            raised: None,
        });
        let mut holding: Vec<_> = holding.collect();
        holding.sort_by_key(|holding| holding.kind);
        holding
    }

    /// What happens beyond a limit of the platform once it acts.
    pub fn action_of_platform(&self, kind: Kind) -> Action {
        self.platform.get(&kind).map_or_else(|| kind.default_action(), |limit| limit.action)
    }

    /// Until when the platform's own figures only alert, while they do.
    pub fn only_alerts_until(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        Some(self.default_acts_from).filter(|until| *until > now)
    }
}

fn add_total(applied: &mut Vec<Applied>, limits: &Limits, set_by: Scope, subject: &Subject) {
    let totals = limits.iter().filter(|(kind, _)| kind.whose == Whose::Total);
    applied.extend(totals.map(|(kind, limit)| Applied {
        kind: *kind,
        limit: *limit,
        set_by,
        subject: subject.clone(),
    }));
}

/// A limit that one more message goes beyond, or near to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub applied: Applied,
    /// How many are allowed now.
    pub most: u32,
    /// What is usual at this time, of a limit that goes by that.
    pub usual: Option<i64>,
    /// Why that is more than the platform says.
    pub raised: Option<Raised>,
    /// When that was so.
    pub at: OffsetDateTime,
    /// How many there are with this message.
    pub counted: i64,
    /// How many this message is beyond the limit with: all of it, unless it was the first beyond.
    pub surplus: i64,
    /// When as many are left again as this message has, if nothing else comes meanwhile; `None`: never, it has more
    /// than the limit allows by itself, or nothing has to resume, since it is not exceeded yet or only alerts.
    pub resumes: Option<OffsetDateTime>,
    /// [`Near`](Level::Near): it is not exceeded yet.
    pub level: Level,
}

/// What is known of those whose mail is counted. What it takes the store to know is asked of those only who are half way
/// to a limit, and may be known a moment later.
pub trait Known {
    /// What was sent of late.
    fn recent(&self, subject: &Subject) -> Option<&Recent>;
    /// What is usually sent in an hour at this time.
    fn usual(&self, subject: &Subject) -> Option<Count>;
    /// What is sent on busy days.
    fn busy_day(&self, subject: &Subject) -> Option<Count>;
    /// To whom the account has written, which this limit asks.
    fn first_time(&self, applied: &Applied) -> Option<FirstTime<'_>>;
}

/// Whom an account has written to, and wants to write to now.
#[derive(Debug, Clone, Copy)]
pub struct FirstTime<'a> {
    pub known: &'a Correspondents,
    /// How many it writes to for the first time on its busy days, where that is known.
    pub busy_day: Option<i64>,
    /// How many of the message's recipients are not among them.
    pub wanted: i64,
}

/// What is counted towards one limit.
struct Counted {
    /// By the message, and before it.
    wanted: i64,
    before: i64,
    most: u32,
    usual: Option<i64>,
    raised: Option<Raised>,
}

/// The limits that a message goes beyond, or near to, which its sender wants to send at `now`. `earlier` are the
/// recipients of the same message that came before, in other parts of it.
pub fn exceeded<'a>(
    applied: impl IntoIterator<Item = &'a Applied>,
    known: &impl Known,
    (message, earlier): (Count, Count),
    now: OffsetDateTime,
) -> Vec<Exceeded> {
    let exceeded = applied.into_iter().filter_map(|applied| {
        let Kind { window, unit, .. } = applied.kind;
        let counted = count(applied, known, (message, earlier), now).filter(|counted| counted.wanted > 0)?;
        let (wanted, limit) = (counted.wanted, i64::from(counted.most));
        let falls_to = |most| match window {
            Window::FirstTime => known.first_time(applied).map_or(now, |known| known.known.falls_to(most, now)),
            _ => known.recent(&applied.subject).map_or(now, |recent| recent.falls_to(window, unit, most, now)),
        };
        let exceeded = beyond(applied, &counted, now)?;
        let stops = exceeded.level > Level::Near && applied.limit.action != Action::Alert;
        let resumes = (stops && wanted <= limit && !window.is_one_message()).then(|| falls_to(limit - wanted));
        Some(Exceeded { resumes, ..exceeded })
    });
    exceeded.collect()
}

/// Whether an account has written to more for the first time than a limit allows, while no message of it is there: to be
/// asked when it has just become known whom it knows.
pub fn exceeded_already(applied: &Applied, first_time: FirstTime<'_>, now: OffsetDateTime) -> Option<Exceeded> {
    beyond(applied, &count_first_time(applied, applied.limit.most?, first_time, now), now)
}

fn beyond(applied: &Applied, counted: &Counted, now: OffsetDateTime) -> Option<Exceeded> {
    let Counted { wanted, before, most, usual, raised } = *counted;
    let (limit, counted) = (i64::from(most), before.saturating_add(wanted));
    let level = level(applied.kind, limit, counted)?;
    let surplus = wanted.min(counted - limit).max(0);
    Some(Exceeded { applied: applied.clone(), most, usual, raised, at: now, counted, surplus, resumes: None, level })
}

/// What is counted towards a limit; `None` where that is far from it or not known yet.
fn count(
    applied: &Applied,
    known: &impl Known,
    (message, earlier): (Count, Count),
    now: OffsetDateTime,
) -> Option<Counted> {
    let Applied { kind, limit, subject, set_by } = applied;
    let Kind { window, unit, .. } = *kind;
    let (most, wanted) = (limit.most?, message.get(unit));
    let before = match window.is_one_message() {
        true => earlier.get(unit),
        false => known.recent(subject).map_or(0, |recent| recent.within(window, unit, now)),
    };
    let is_half_way = |most: u32| is_half_way(before.saturating_add(wanted), most);
    let plain = Counted { wanted, before, most, usual: None, raised: None };
    match window {
        Window::Minute | Window::Hour | Window::Approval | Window::Message => Some(plain),
        Window::Usual if !is_half_way(quiet(most)) => None,
        Window::Usual => {
            let usual = known.usual(subject)?.get(unit);
            Some(Counted { most: unusual_beyond(*kind, most, usual), usual: Some(usual), ..plain })
        }
        Window::Day if !kind.can_be_raised() || *set_by != Scope::Platform || !is_half_way(most) => Some(plain),
        Window::Day => {
            let busy_day = known.busy_day(subject).map(|busy_day| busy_day.get(unit));
            let (most, raised) = raised(*kind, most, *set_by, busy_day);
            Some(Counted { most, raised, ..plain })
        }
        // Who has written to few has written to few for the first time.
        Window::FirstTime if !is_half_way(most) => None,
        Window::FirstTime => Some(count_first_time(applied, most, known.first_time(applied)?, now)),
    }
}

/// Whether so many are half of what a limit allows, or more.
pub fn is_half_way(counted: i64, most: u32) -> bool {
    counted.saturating_mul(2) >= i64::from(most)
}

fn count_first_time(applied: &Applied, most: u32, first_time: FirstTime<'_>, now: OffsetDateTime) -> Counted {
    let FirstTime { known, busy_day, wanted } = first_time;
    let (most, raised) = raised(applied.kind, most, applied.set_by, busy_day);
    Counted { wanted, before: known.first_within_day(now), most, usual: None, raised }
}

/// What a limit that is set to `floor` allows at an hour at which nothing is usual: two fifths, since who takes an
/// account over does it by night, and a person who works then sends little.
pub fn quiet(floor: u32) -> u32 {
    (floor / 5 * 2 + floor % 5 * 2 / 5).max(1)
}

/// Beyond how many it is unusual, where this is usual and the limit is set to `floor`.
pub fn unusual_beyond(kind: Kind, floor: u32, usual: i64) -> u32 {
    if usual <= 0 {
        return quiet(floor);
    }
    let times = usual.saturating_mul(kind.factor().into());
    floor.max(u32::try_from(times).unwrap_or(MOST).min(MOST))
}

/// How far somebody is of whom so many are counted; `None`: far from the limit.
fn level(kind: Kind, limit: i64, counted: i64) -> Option<Level> {
    let stops = kind.whose != Whose::Total && kind.window == Window::Hour;
    match counted {
        _ if stops && counted > limit.saturating_mul(STOP) => Some(Level::Stopped),
        _ if counted > limit => Some(Level::Beyond),
        // Within a minute nobody could do anything about it, and what is nearly unusual is not unusual.
        _ if matches!(kind.window, Window::Hour | Window::Day)
            && counted.saturating_mul(5) >= limit.saturating_mul(4) =>
        {
            Some(Level::Near)
        }
        _ => None,
    }
}

impl Exceeded {
    /// Whether administrators are told of it as of a limit: not of who waits a few minutes, for that they could do
    /// nothing about it, and of what waits for their approval they are told otherwise. `since` is when more than is
    /// usual began to be sent without a break.
    pub fn is_told(&self, since: OffsetDateTime, now: OffsetDateTime) -> bool {
        let Applied { kind, limit, set_by, .. } = &self.applied;
        let goes_by_itself = limit.action == Action::Delay || *set_by == Scope::Platform;
        match kind.window {
            Window::Minute => !goes_by_itself,
            Window::Usual if limit.action == Action::Delay => {
                let beyond = self.counted - i64::from(self.most);
                beyond >= TOLD_BEYOND || self.waits(beyond) >= TOLD_AFTER || now - since >= TOLD_AFTER
            }
            Window::Approval => false,
            _ => true,
        }
    }

    /// How long it takes at the pace of the limit until so many are gone.
    fn waits(&self, beyond: i64) -> Duration {
        self.applied.kind.window.length() * (beyond as f64 / f64::from(self.most.max(1)))
    }

    /// Whether so much of one sender is held already that more stays with its client: as much as the limit lets leave in
    /// a day. What is more than the limit by itself is held all the same, since it would be put off for ever.
    pub fn is_enough_held(&self) -> bool {
        let kind = self.applied.kind;
        let in_a_day = f64::from(self.most) * (SURPLUS / kind.window.length());
        let is_of_one = kind.whose != Whose::Total && !kind.window.is_one_message();
        is_of_one && self.resumes.is_some() && (self.counted - i64::from(self.most)) as f64 > in_a_day
    }

    /// How long the surplus takes at the pace of the limit.
    pub fn takes(&self) -> Duration {
        self.waits(self.surplus)
    }

    /// What was counted, and what is allowed: 612 external recipients in an hour, at most 500 are allowed; 1,850
    /// recipients in a day, at most 1,800 are allowed: it usually sends up to 900 a day. Or what is usual: 412 recipients
    /// since 14:00 UTC, usually at most 60 in an hour at this time.
    pub fn words(&self) -> String {
        let Kind { window, unit, .. } = self.applied.kind;
        let (one, many) = unit.words();
        let noun = if self.counted == 1 { one } else { many };
        let whose = match &self.applied.subject {
            Subject::Organization => "of the organization ",
            Subject::Domain(_) => "of the mail domain ",
            Subject::NoAccount(_) => "of senders without an account ",
            Subject::Account(_) => "",
        };
        let why = self.raised.map(|raised| format!(": {}", raised.words(self.applied.kind))).unwrap_or_default();
        match self.usual {
            None if window == Window::Approval => {
                format!("{} {noun} in one message, more than {} need approval", self.counted, self.most)
            }
            None if window == Window::FirstTime => {
                let since = "that it never wrote to before, in a day";
                format!("{} {noun} {since}; at most {} are allowed{why}", self.counted, self.most)
            }
            None => {
                let time = window.words();
                format!("{} {noun} {whose}in {time}, at most {} are allowed{why}", self.counted, self.most)
            }
            Some(usual) => {
                let since = (self.at - window.length()).to_offset(UtcOffset::UTC);
                let (hour, minute) = (since.hour(), since.minute());
                let usually = if usual == 0 { "none".to_owned() } else { format!("at most {usual}") };
                format!(
                    "{} {noun} {whose}since {hour:02}:{minute:02} UTC, usually {usually} in an hour at this time",
                    self.counted
                )
            }
        }
    }
}

/// What is to become of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It goes its way; limits that only alert may be exceeded.
    Goes,
    /// It waits until it is its turn at each of these.
    Delayed(Vec<Exceeded>),
    /// It waits for an administrator.
    Held(Exceeded),
    /// Its client keeps it.
    Deferred(Exceeded),
    Refused(Exceeded),
    /// The sender is far beyond an hour's limit: it is refused, and what waits is held.
    Stopped(Exceeded),
    /// An administrator has blocked the sender.
    Blocked,
}

/// What happens where several limits are exceeded: the hardest. `waits_behind` says of a limit that is not whether
/// somebody waits for it whom this message must not pass.
pub fn judge(
    applied: &[Applied],
    exceeded: &[Exceeded],
    waits_behind: impl Fn(&Applied) -> Option<Exceeded>,
) -> Judged {
    let beyond = || exceeded.iter().filter(|exceeded| exceeded.level > Level::Near);
    if let Some(hardest) = beyond().max_by_key(|exceeded| (exceeded.level, exceeded.applied.limit.action)) {
        match (hardest.level, hardest.applied.limit.action) {
            (Level::Stopped, _) => return Judged::Stopped(hardest.clone()),
            (_, Action::Refuse) => return Judged::Refused(hardest.clone()),
            // What is more than the limit by itself would be put off for ever.
            (_, Action::Defer) if hardest.resumes.is_none() => return Judged::Refused(hardest.clone()),
            (_, Action::Defer) => return Judged::Deferred(hardest.clone()),
            (_, Action::Hold) if hardest.is_enough_held() => return Judged::Deferred(hardest.clone()),
            (_, Action::Hold) => return Judged::Held(hardest.clone()),
            (_, Action::Delay | Action::Alert) => {}
        }
    }
    let is_beyond = |applied: &&Applied| beyond().any(|exceeded| exceeded.applied == **applied);
    let behind = applied.iter().filter(|applied| !is_beyond(applied)).filter_map(waits_behind);
    let delayed = beyond().filter(|exceeded| exceeded.applied.limit.action == Action::Delay).cloned();
    let delayed: Vec<_> = delayed.chain(behind).collect();
    if delayed.is_empty() { Judged::Goes } else { Judged::Delayed(delayed) }
}

/// For how long a sender may be exempt at most: who is so for good has limits without a number.
const LONGEST_EXEMPTION: Duration = Duration::days(366);

/// Until when a sender is exempt for whom somebody has typed a day; nothing ends it.
///
/// # Errors
/// What to type.
pub fn exempt_until(typed: &str, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, &'static str> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Ok(None);
    }
    let day = Date::parse(typed, format_description!("[year]-[month]-[day]"))
        .map_err(|_| "Enter a day as year, month and day: 2027-01-31.")?;
    match day.next_day().map(|next| next.midnight().assume_utc()) {
        Some(until) if until <= now => Err("Choose a day that is not over yet."),
        Some(until) if until <= now + LONGEST_EXEMPTION => Ok(Some(until)),
        _ => Err("Choose a day within a year. For longer, set limits of its own."),
    }
}
