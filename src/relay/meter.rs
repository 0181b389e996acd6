//! Knows what everybody has sent of late, by all relays together, and judges by it whether more may be sent now. In
//! memory: asked for every message, at the end of its DATA.
//!
//! What this relay accepts counts at once; what others accept is read from the store about every two seconds, and so is
//! what was sent before a start. So relays that share a limit may exceed it together by what comes to the others
//! within [`EVERY`] and the second in which they write it down.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::PgPool;
use time::{Date, OffsetDateTime};
use tokio::time::Instant;

use super::correspondents::Gathered;
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{AccountId, OrganizationId, QuickMap, RelayId},
    },
    policy::{
        common_limits::{CommonLimits, ToJudge},
        correspondents::{Correspondents, Print, Written},
        facts::Found,
        limit::{
            self, Action, Applied, Exceeded, FirstTime, Judged, Kind, Level, OrganizationLimits, PARTS_KEPT, Window,
            judge,
        },
        recent::Recent,
        usual::{self, busy_day, usual},
        volume::{Count, MINUTES_KEPT, Subject, hour_of, is_in_hour, minute_of},
    },
    store::{self, volume::Counted},
};

/// How often what other relays have counted is looked at.
pub const EVERY: Duration = Duration::from_secs(2);
/// Looking takes at most one part in so many of the time, however many senders there are.
const SHARE: u32 = 20;
/// How long after its minute another relay may write what it has counted.
const LATE: time::Duration = time::Duration::minutes(3);
/// Of how many messages to many is remembered what has come of them, in each organization.
const MOST_PARTS: usize = 5000;
/// Of how many it is found out at a time what they usually send.
const USUAL_AT_ONCE: usize = 500;
/// For how long what was usual in an hour is good enough while that of the present one is not known.
const UPKEEP_OF_USUAL: time::Duration = time::Duration::hours(3);
/// For how long what is sent on busy days is good enough: it changes with the day.
const UPKEEP_OF_DAYS: time::Duration = time::Duration::DAY;
/// How many recipients are kept in memory of those accounts that write to many, all together; each takes twelve bytes.
/// One organization has as many as are left for all others.
const MOST_FOLLOWED: usize = 4_000_000;
/// How often organizations' accounts are counted, and what is over is forgotten.
const UPKEEP: Duration = Duration::from_secs(600);

/// What everybody has sent within a day.
#[derive(Debug, Default)]
pub struct Meter {
    /// A std lock: held for adding up some numbers, never across an await.
    known: Mutex<Known>,
    part_keys: PartKeys,
    /// Whether no other relay was heard of when that was looked at last: then nobody has to know at once what this one
    /// counts.
    is_alone: AtomicBool,
    /// To whom everybody has written since that was written down.
    pub(super) written: Gathered,
}

/// A message as it is judged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured<'a> {
    pub count: Count,
    /// Of what goes to many.
    pub message_id: Option<&'a str>,
    /// Its recipients outside, where an account sends it.
    pub outside: &'a [Print],
}

/// By which the parts of one message are known: a number of sender and Message-ID, since clients choose how long that
/// is. Nobody outside can find two with one number.
#[derive(Debug, Default)]
struct PartKeys(RandomState);

impl PartKeys {
    fn of(&self, sender: &Found, message_id: Option<&str>) -> Option<u64> {
        message_id.map(|message_id| self.0.hash_one((&sender.sender, message_id)))
    }
}

#[derive(Debug, Default)]
struct Known {
    organizations: QuickMap<OrganizationId, OfOrganization>,
    /// How many recipients are followed, about.
    followed: usize,
}

/// What one organization has sent.
#[derive(Debug, Default)]
struct OfOrganization {
    /// How many accounts it has.
    users: u64,
    /// What held for most of its senders when the last message was judged.
    common: Option<CommonLimits>,
    all: Recent,
    domains: QuickMap<DomainName, Recent>,
    accounts: QuickMap<AccountId, Recent>,
    no_account: QuickMap<DomainName, Recent>,
    /// The last turn that was given to whom a limit slows down, and what that was beyond: who comes before that turn
    /// waits behind it.
    turns: HashMap<(Subject, Kind), (OffsetDateTime, Exceeded)>,
    /// What somebody usually sends at which hour, `None` where nothing is usual yet; only of those who send much.
    usual: QuickMap<Subject, (OffsetDateTime, Option<Count>)>,
    /// Of whom it has to be found out.
    wanted: HashSet<Subject>,
    /// The same of what somebody sends on busy days, and of which day that is known.
    busy_days: QuickMap<Subject, (OffsetDateTime, Option<Count>)>,
    wanted_days: HashSet<Subject>,
    /// To whom those have written who write to many.
    followed: QuickMap<AccountId, Followed>,
    /// How many recipients that is, about.
    recipients_followed: usize,
    /// Of whom it has to be found out, and for which limit and whose mail.
    wanted_correspondents: HashMap<AccountId, Asked>,
    /// What has come of messages to many that may be split, by [`PartKeys::of`], and when the last of it.
    parts: HashMap<u64, (OffsetDateTime, Count)>,
    /// Whose waiting mail was held when, because he has sent far too much, and in which words.
    stopped: HashMap<Subject, (OffsetDateTime, String)>,
    /// What administrators are to be told, and when something was put there last.
    news: Vec<News>,
    noted: QuickMap<(Subject, Level), OffsetDateTime>,
    /// Who sends more than is usual: since when without a break, and when last.
    unusual: QuickMap<(Subject, Kind), (OffsetDateTime, OffsetDateTime)>,
}

/// An account that writes to many.
#[derive(Debug)]
struct Followed {
    known: Correspondents,
    /// From when on whom it knows is known: before that it is not judged.
    from: OffsetDateTime,
    /// How many it writes to for the first time on its busy days.
    busy_day: Option<i64>,
    /// Of which day that is known.
    of_day: Date,
}

impl Followed {
    /// Nobody is known to have been written to.
    fn nobody(from: OffsetDateTime, now: OffsetDateTime) -> Self {
        Self { known: Correspondents::default(), from, busy_day: None, of_day: now.date() }
    }

    /// What it is asked for a message that goes to so many whom it does not know.
    fn first_time(&self, wanted: i64) -> FirstTime<'_> {
        FirstTime { known: &self.known, busy_day: self.busy_day, wanted }
    }
}

/// Why it is asked to whom an account has written.
#[derive(Debug, Clone)]
struct Asked {
    applied: Applied,
    sender: Mailbox,
}

/// Somebody is near a limit or beyond it: administrators are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub organization: OrganizationId,
    pub exceeded: Exceeded,
    /// Whose message it was that made it so.
    pub sender: Mailbox,
    pub at: OffsetDateTime,
}

impl Meter {
    /// Whether there is no other relay that would have to know what this one counts.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a message that comes at `now`, and counts it unless it is not taken.
    pub fn judge(
        &self,
        limits: &Arc<OrganizationLimits>,
        sender: &Found,
        message: Measured<'_>,
        now: OffsetDateTime,
    ) -> Judged {
        if limits.sender(sender.account).is_blocked {
            return Judged::Blocked;
        }
        let part = self.part_keys.of(sender, message.message_id);
        let mut known = self.known();
        let known = known.organizations.entry(sender.organization).or_default();
        let earlier = part.map_or_else(Count::default, |part| known.earlier_parts(part, now));
        let subject = sender.subject();
        let common = known.common.take().filter(|common| common.are_of(limits, known.users, now));
        let common = common.unwrap_or_else(|| CommonLimits::of(limits, known.users, now));
        let of_sender = known.recent(&subject);
        let recent = [of_sender, Some(&known.all)];
        let to_judge = ToJudge { sender, subject: &subject, recent, message: message.count, earlier, now };
        let applied = known.near(&common, to_judge);
        let view = View {
            known: &*known,
            sender: (&subject, of_sender),
            outside: message.outside,
            now,
            wanted: RefCell::default(),
        };
        let exceeded = limit::exceeded(&applied, &view, (message.count, earlier), now);
        let judged = judge(&applied, &exceeded, |applied| view.waits_behind(applied, message.count));
        let wanted = view.wanted.into_inner();
        known.common = Some(common);
        known.want(wanted, &sender.sender);
        known.note_unusual(&applied, &exceeded, now);
        for exceeded in exceeded {
            known.note(exceeded, sender.organization, &sender.sender, now);
        }
        if matches!(judged, Judged::Goes | Judged::Delayed(_) | Judged::Held(_)) {
            known.add(sender, now, message.count);
            known.write(sender.account, message.outside, now);
            if let Some(part) = part {
                known.add_part(part, now, message.count);
            }
        }
        judged
    }

    /// Notes to whom a message went that was judged at `at` and is accepted now. Returns the words with which its sender's
    /// waiting mail was held since then: this message was perhaps not there yet.
    pub fn note_accepted(&self, sender: &Found, outside: &[Print], at: OffsetDateTime) -> Option<String> {
        if let Some(account) = sender.account {
            let written = outside.iter().map(|print| Written::new(*print, at));
            self.written.add((sender.organization, account), written);
        }
        let mut known = self.known();
        let known = known.organizations.get_mut(&sender.organization)?;
        // It may be followed since the message was judged; what is known already is not noted twice.
        known.write(sender.account, outside, at);
        // Nearly always nobody is stopped.
        let (when, words) = (!known.stopped.is_empty()).then(|| known.stopped.get(&sender.subject()))??;
        (*when >= at).then(|| words.clone())
    }

    /// Takes back a message that was counted at `at` and not accepted after all.
    pub fn take_back(&self, sender: &Found, at: OffsetDateTime, message: Measured<'_>) {
        let Count { messages, recipients, external } = message.count;
        let less = Count { messages: -messages, recipients: -recipients, external: -external };
        let part = self.part_keys.of(sender, message.message_id);
        let mut known = self.known();
        let known = known.organizations.entry(sender.organization).or_default();
        known.add(sender, at, less);
        if let Some(followed) = sender.account.and_then(|account| known.followed.get_mut(&account)) {
            followed.known.take_back(message.outside, at);
        }
        // What was not noted for lack of room is not taken back either.
        if let Some((_, sum)) = part.and_then(|part| known.parts.get_mut(&part)) {
            *sum += less;
        }
    }

    /// Notes the turn that a message was given.
    pub fn note_turn(&self, organization: OrganizationId, exceeded: &Exceeded, turn: OffsetDateTime) {
        let Applied { subject, kind, .. } = &exceeded.applied;
        let mut known = self.known();
        let turns = &mut known.organizations.entry(organization).or_default().turns;
        turns.insert((subject.clone(), *kind), (turn, exceeded.clone()));
    }

    /// Notes that this sender is stopped and what of it waits is to be held with these words. False if that was so within
    /// the last minute.
    pub fn note_stopped(&self, sender: &Found, words: &str, now: OffsetDateTime) -> bool {
        let mut known = self.known();
        let stopped = &mut known.organizations.entry(sender.organization).or_default().stopped;
        let subject = sender.subject();
        if stopped.get(&subject).is_some_and(|(before, _)| now - *before < time::Duration::MINUTE) {
            return false;
        }
        stopped.insert(subject, (now, words.to_owned()));
        true
    }

    /// Forgets that this sender was stopped: what of it waits could not be held, and the next message tries again.
    pub fn forget_stopped(&self, sender: &Found) {
        if let Some(known) = self.known().organizations.get_mut(&sender.organization) {
            known.stopped.remove(&sender.subject());
        }
    }

    /// What administrators are to be told since it was asked last.
    pub fn take_news(&self) -> Vec<News> {
        self.known().organizations.values_mut().flat_map(|known| std::mem::take(&mut known.news)).collect()
    }

    /// Puts back what could not be told yet.
    pub fn put_back(&self, news: Vec<News>) {
        let mut known = self.known();
        for news in news {
            known.organizations.entry(news.organization).or_default().news.push(news);
        }
    }

    /// Of whom it has to be found out what they usually send.
    pub fn wanted(&self) -> Vec<(OrganizationId, Subject)> {
        let known = self.known();
        let of = |(organization, known): (&OrganizationId, &OfOrganization)| {
            known.wanted.iter().map(|subject| (*organization, subject.clone())).collect::<Vec<_>>()
        };
        known.organizations.iter().flat_map(of).collect()
    }

    /// Notes what this subject usually sends in the hour of `now`.
    pub fn note_usual(
        &self,
        organization: OrganizationId,
        subject: Subject,
        usual: Option<Count>,
        now: OffsetDateTime,
    ) {
        let mut known = self.known();
        let known = known.organizations.entry(organization).or_default();
        known.wanted.remove(&subject);
        known.usual.insert(subject, (hour_of(now), usual));
    }

    /// Of whom it has to be found out what they send on busy days.
    pub fn wanted_days(&self) -> Vec<(OrganizationId, Subject)> {
        let known = self.known();
        let of = |(organization, known): (&OrganizationId, &OfOrganization)| {
            known.wanted_days.iter().map(|subject| (*organization, subject.clone())).collect::<Vec<_>>()
        };
        known.organizations.iter().flat_map(of).collect()
    }

    /// Notes what this subject sends on busy days, on the day of `now`.
    pub fn note_busy_day(
        &self,
        organization: OrganizationId,
        subject: Subject,
        busy_day: Option<Count>,
        now: OffsetDateTime,
    ) {
        let mut known = self.known();
        let known = known.organizations.entry(organization).or_default();
        known.wanted_days.remove(&subject);
        known.busy_days.insert(subject, (now, busy_day));
    }

    /// Of whom it has to be found out to whom they have written.
    pub fn wanted_correspondents(&self) -> Vec<(OrganizationId, AccountId)> {
        let known = self.known();
        let of = |(organization, known): (&OrganizationId, &OfOrganization)| {
            known.wanted_correspondents.keys().map(|account| (*organization, *account)).collect::<Vec<_>>()
        };
        known.organizations.iter().flat_map(of).collect()
    }

    /// Of whom it is known to whom they have written.
    pub(super) fn followed(&self) -> Vec<(OrganizationId, AccountId)> {
        let known = self.known();
        let of = |(organization, known): (&OrganizationId, &OfOrganization)| {
            known.followed.keys().map(|account| (*organization, *account)).collect::<Vec<_>>()
        };
        known.organizations.iter().flat_map(of).collect()
    }

    /// Notes whom an account has written to, by all relays, as far as that was asked; it is known whom it writes to from
    /// `from` on. Who is beyond the limit already is noted, so that one message to very many is not overlooked.
    pub fn note_correspondents(
        &self,
        (organization, account): (OrganizationId, AccountId),
        found: &Correspondents,
        from: OffsetDateTime,
        now: OffsetDateTime,
    ) {
        let mut known = self.known();
        let Known { organizations, followed: all } = &mut *known;
        let known = organizations.entry(organization).or_default();
        let asked = known.wanted_correspondents.remove(&account);
        if asked.is_none() && !known.followed.contains_key(&account) {
            return;
        }
        let has_room = known.recipients_followed + found.len() <= MOST_FOLLOWED.saturating_sub(*all);
        let followed = known.followed.entry(account).or_insert_with(|| Followed::nobody(from, now));
        if !has_room {
            tracing::warn!(%organization, %account, "too many write to very many: for a day this account's are not told apart");
            *followed = Followed::nobody(now + time::Duration::DAY, now);
            return;
        }
        let before = followed.known.len();
        followed.known.take_in(found);
        followed.from = from;
        // It changes with the day, and takes longer than a message should.
        if before == 0 || followed.of_day != now.date() {
            (followed.busy_day, followed.of_day) = (followed.known.busy_day(from, now), now.date());
        }
        let more = followed.known.len().saturating_sub(before);
        (*all, known.recipients_followed) = (*all + more, known.recipients_followed + more);
        let first_time = followed.first_time(0);
        let exceeded = asked
            .filter(|_| from <= now)
            .and_then(|Asked { applied, sender }| Some((limit::exceeded_already(&applied, first_time, now)?, sender)));
        if let Some((exceeded, sender)) = exceeded {
            known.note(exceeded, organization, &sender, now);
        }
    }

    /// Adds what others have counted.
    fn add(&self, counted: &Counted, at: OffsetDateTime, count: Count) {
        let mut known = self.known();
        known.organizations.entry(counted.organization).or_default().add_to(&counted.subject, at, count);
    }

    /// Notes how many accounts each organization has, and forgets what is over.
    pub fn tidy(&self, accounts: &HashMap<OrganizationId, u64>, now: OffsetDateTime) {
        let mut known = self.known();
        for (organization, users) in accounts {
            known.organizations.entry(*organization).or_default().users = *users;
        }
        for known in known.organizations.values_mut() {
            known.domains.retain(|_, recent| !recent.is_over(now));
            known.accounts.retain(|_, recent| !recent.is_over(now));
            known.no_account.retain(|_, recent| !recent.is_over(now));
            known.parts.retain(|_, (at, _)| now - *at < PARTS_KEPT);
            known.turns.retain(|_, (turn, _)| *turn > now);
            known.usual.retain(|_, (hour, _)| now - *hour < UPKEEP_OF_USUAL);
            known.busy_days.retain(|_, (day, _)| now - *day < UPKEEP_OF_DAYS);
            let accounts = &known.accounts;
            known.followed.retain(|account, _| accounts.contains_key(account));
            known.recipients_followed = known.followed.values().map(|followed| followed.known.len()).sum();
            known.wanted_correspondents.retain(|account, _| accounts.contains_key(account));
            known.stopped.retain(|_, (at, _)| now - *at < time::Duration::MINUTE);
            known.noted.retain(|_, at| now - *at < time::Duration::HOUR);
            known.unusual.retain(|_, (_, last)| now - *last < time::Duration::HOUR);
        }
        known.organizations.retain(|_, known| known.users > 0 || !known.all.is_over(now) || !known.news.is_empty());
        known.followed = known.organizations.values().map(|known| known.recipients_followed).sum();
    }
}

/// What a message that is judged may ask for, of what is not known.
enum Wanted {
    Usual(Subject),
    BusyDay(Subject),
    Correspondents(AccountId, Applied),
}

/// What is known of an organization's senders while one message is judged.
struct View<'a> {
    known: &'a OfOrganization,
    /// Whom most limits are about, and what it has sent.
    sender: (&'a Subject, Option<&'a Recent>),
    outside: &'a [Print],
    now: OffsetDateTime,
    wanted: RefCell<Vec<Wanted>>,
}

impl limit::Known for View<'_> {
    fn recent(&self, subject: &Subject) -> Option<&Recent> {
        let (sender, of_sender) = self.sender;
        if subject == sender { of_sender } else { self.known.recent(subject) }
    }

    /// Where it is not known for this hour, what was usual an hour ago still is.
    fn usual(&self, subject: &Subject) -> Option<Count> {
        let found = self.known.usual.get(subject);
        if found.is_none_or(|(hour, _)| !is_in_hour(*hour, self.now)) && !self.known.wanted.contains(subject) {
            self.wanted.borrow_mut().push(Wanted::Usual(subject.clone()));
        }
        found.and_then(|(_, usual)| *usual)
    }

    fn busy_day(&self, subject: &Subject) -> Option<Count> {
        let found = self.known.busy_days.get(subject);
        if found.is_none_or(|(day, _)| day.date() != self.now.date()) && !self.known.wanted_days.contains(subject) {
            self.wanted.borrow_mut().push(Wanted::BusyDay(subject.clone()));
        }
        found.and_then(|(_, busy_day)| *busy_day)
    }

    fn first_time(&self, applied: &Applied) -> Option<FirstTime<'_>> {
        let Subject::Account(account) = &applied.subject else { return None };
        let Some(followed) = self.known.followed.get(account) else {
            if !self.known.wanted_correspondents.contains_key(account) {
                self.wanted.borrow_mut().push(Wanted::Correspondents(*account, applied.clone()));
            }
            return None;
        };
        let wanted = followed.known.new_among(self.outside);
        (followed.from <= self.now).then_some(followed.first_time(wanted))
    }
}

impl View<'_> {
    /// What a message is beyond a limit with that it does not exceed, but before whose surplus it must not leave.
    fn waits_behind(&self, applied: &Applied, message: Count) -> Option<Exceeded> {
        if self.known.turns.is_empty() || applied.limit.action != Action::Delay {
            return None;
        }
        let most = applied.limit.most?;
        let Kind { window, unit, .. } = applied.kind;
        let (turn, exceeded) = self.known.turns.get(&(applied.subject.clone(), applied.kind))?;
        let wanted = match window {
            Window::FirstTime => limit::Known::first_time(self, applied)?.wanted,
            _ => message.get(unit),
        };
        // What counts nothing for the limit waits for nobody.
        if *turn <= self.now || wanted == 0 {
            return None;
        }
        let before = match window {
            Window::FirstTime => limit::Known::first_time(self, applied)?.known.first_within_day(self.now),
            _ => limit::Known::recent(self, &applied.subject).map_or(0, |recent| recent.within(window, unit, self.now)),
        };
        Some(Exceeded {
            applied: applied.clone(),
            // What is usual now may not be known yet.
            most: exceeded.usual.map_or(most, |usual| limit::unusual_beyond(applied.kind, most, usual)),
            usual: exceeded.usual,
            raised: exceeded.raised,
            at: self.now,
            counted: before + wanted,
            surplus: wanted,
            resumes: Some(*turn),
            level: Level::Beyond,
        })
    }
}

impl OfOrganization {
    fn recent(&self, subject: &Subject) -> Option<&Recent> {
        match subject {
            Subject::Organization => Some(&self.all),
            Subject::Domain(name) => self.domains.get(name),
            Subject::Account(account) => self.accounts.get(account),
            Subject::NoAccount(domain) => self.no_account.get(domain),
        }
    }

    /// The limits by which a message is judged, in this organization.
    fn near(&self, common: &CommonLimits, message: ToJudge<'_>) -> Vec<Applied> {
        common.near(message, |subject, kind| {
            let key = || (subject.clone(), kind);
            (!self.turns.is_empty() && self.turns.contains_key(&key()))
                || (kind.window == Window::Usual && !self.unusual.is_empty() && self.unusual.contains_key(&key()))
        })
    }

    fn add_to(&mut self, subject: &Subject, at: OffsetDateTime, count: Count) {
        match subject {
            Subject::Organization => self.all.add(at, count),
            Subject::Domain(name) => add(&mut self.domains, name, at, count),
            Subject::Account(account) => self.accounts.entry(*account).or_default().add(at, count),
            Subject::NoAccount(domain) => add(&mut self.no_account, domain, at, count),
        }
    }

    /// What has come of this message before, in other parts.
    fn earlier_parts(&self, part: u64, now: OffsetDateTime) -> Count {
        let known = self.parts.get(&part).filter(|(at, _)| now - *at < PARTS_KEPT);
        known.map_or_else(Count::default, |(_, count)| *count)
    }

    fn add_part(&mut self, part: u64, at: OffsetDateTime, count: Count) {
        let earlier = self.earlier_parts(part, at);
        if self.parts.len() >= MOST_PARTS {
            self.parts.retain(|_, (last, _)| at - *last < PARTS_KEPT);
        }
        if self.parts.len() < MOST_PARTS || self.parts.contains_key(&part) {
            self.parts.insert(part, (at, [earlier, count].into_iter().sum()));
        }
    }

    /// Notes what has to be found out, of mail of this sender.
    fn want(&mut self, wanted: Vec<Wanted>, sender: &Mailbox) {
        for wanted in wanted {
            match wanted {
                Wanted::Usual(subject) => drop(self.wanted.insert(subject)),
                Wanted::BusyDay(subject) => drop(self.wanted_days.insert(subject)),
                Wanted::Correspondents(account, applied) => {
                    self.wanted_correspondents.insert(account, Asked { applied, sender: sender.clone() });
                }
            }
        }
    }

    /// Notes whom an account that is followed writes to.
    fn write(&mut self, account: Option<AccountId>, outside: &[Print], at: OffsetDateTime) {
        if self.followed.is_empty() || outside.is_empty() {
            return;
        }
        if let Some(followed) = account.and_then(|account| self.followed.get_mut(&account)) {
            followed.known.write(outside.iter().map(|print| Written::new(*print, at)));
        }
    }

    /// Notes whether what is unusual is exceeded with a message that was judged by these limits, or not any more.
    fn note_unusual(&mut self, applied: &[Applied], exceeded: &[Exceeded], now: OffsetDateTime) {
        for applied in applied.iter().filter(|applied| applied.kind.window == Window::Usual) {
            let is_beyond = exceeded.iter().any(|exceeded| exceeded.applied == *applied);
            if is_beyond {
                let (since, last) = self.unusual.entry((applied.subject.clone(), applied.kind)).or_insert((now, now));
                // Who was silent for longer than is counted begins anew.
                *since = if now - *last > applied.kind.window.length() { now } else { *since };
                *last = now;
            } else if !self.unusual.is_empty() {
                self.unusual.remove(&(applied.subject.clone(), applied.kind));
            }
        }
    }

    /// Notes what administrators are to be told, once an hour.
    fn note(&mut self, exceeded: Exceeded, organization: OrganizationId, sender: &Mailbox, now: OffsetDateTime) {
        let noted = (exceeded.applied.subject.clone(), exceeded.level);
        if self.noted.get(&noted).is_some_and(|at| now - *at < time::Duration::HOUR) {
            return;
        }
        let key = (exceeded.applied.subject.clone(), exceeded.applied.kind);
        let since = self.unusual.get(&key).map_or(now, |(since, _)| *since);
        if !exceeded.is_told(since, now) {
            return;
        }
        self.noted.insert(noted, now);
        self.news.push(News { organization, exceeded, sender: sender.clone(), at: now });
    }

    fn add(&mut self, sender: &Found, at: OffsetDateTime, count: Count) {
        self.all.add(at, count);
        let domain = sender.sender.domain();
        add(&mut self.domains, domain, at, count);
        match sender.account {
            Some(account) => self.accounts.entry(account).or_default().add(at, count),
            None => add(&mut self.no_account, domain, at, count),
        }
    }
}

/// Copies the name for what is not there yet only: this is done for every message.
fn add(map: &mut QuickMap<DomainName, Recent>, name: &DomainName, at: OffsetDateTime, count: Count) {
    match map.get_mut(name) {
        Some(recent) => recent.add(at, count),
        None => map.entry(name.clone()).or_default().add(at, count),
    }
}

type Key = (OrganizationId, Subject, OffsetDateTime);

/// Keeps a meter up to date with what the store knows of other relays.
pub struct Reader<'a> {
    meter: &'a Meter,
    pool: &'a PgPool,
    /// What this relay has written of the last minutes.
    written: HashMap<Key, Count>,
    /// What is known of others' in the last minutes.
    others: HashMap<Key, Count>,
    is_loaded: bool,
    /// When others' counts were read last.
    read_at: Option<OffsetDateTime>,
    /// From when on they are read again, and until when that is so: after the store was away.
    catching_up: Option<(OffsetDateTime, OffsetDateTime)>,
    pub(super) pause: Duration,
    next: Instant,
    tidies_at: Instant,
}

impl<'a> Reader<'a> {
    pub fn of(meter: &'a Meter, pool: &'a PgPool) -> Self {
        let now = Instant::now();
        Self {
            meter,
            pool,
            written: HashMap::new(),
            others: HashMap::new(),
            is_loaded: false,
            read_at: None,
            catching_up: None,
            pause: EVERY,
            next: now,
            tidies_at: now,
        }
    }

    /// Whether it knows of what was sent before it began.
    pub(super) fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Notes what has just been written for this relay.
    pub fn note_written(&mut self, rows: &[Counted]) {
        for row in rows {
            *self.written.entry((row.organization, row.subject.clone(), row.minute)).or_default() += row.count;
        }
    }

    /// Looks at what others have counted, if it is time for that: of a whole day the first time, before this relay has
    /// written anything. To be called when everything that was noted is written.
    ///
    /// # Errors
    /// If the store does not answer: then it is tried again the next time.
    pub async fn read(&mut self, relay: RelayId, now: OffsetDateTime) -> store::Result<()> {
        let begun = Instant::now();
        if begun >= self.tidies_at {
            let accounts = store::limit::accounts_across_tenants(self.pool).await?;
            self.meter.tidy(&accounts, now);
            self.tidies_at = begun + UPKEEP;
        }
        self.look_up_usual(now).await?;
        if begun < self.next {
            return Ok(());
        }
        let since = self.since(now);
        let is_alone = !store::relay::are_others_heard_across_tenants(self.pool, relay).await?;
        self.meter.is_alone.store(is_alone, Ordering::Relaxed);
        if is_alone && self.is_loaded {
            self.forget_before(minute_of(now - LATE));
            (self.next, self.read_at) = (begun + self.pause, Some(now));
            return Ok(());
        }
        self.read_since(since, now).await?;
        (self.is_loaded, self.read_at) = (true, Some(now));
        let rest = if self.pause.is_zero() { Duration::ZERO } else { self.pause.max(begun.elapsed() * SHARE) };
        self.next = Instant::now() + rest;
        Ok(())
    }

    /// Finds out what those usually send of whom that was asked, some at a time.
    async fn look_up_usual(&self, now: OffsetDateTime) -> store::Result<()> {
        let hours: Vec<_> = usual::hours(now).collect();
        for wanted in self.meter.wanted().chunks(USUAL_AT_ONCE) {
            let found = store::volume::hours_across_tenants(self.pool, wanted, &hours).await?;
            for ((organization, subject), (first, counts)) in wanted.iter().zip(found) {
                self.meter.note_usual(*organization, subject.clone(), usual(subject, &counts, first, now), now);
            }
        }
        for wanted in self.meter.wanted_days().chunks(USUAL_AT_ONCE) {
            let found = store::volume::days_across_tenants(self.pool, wanted, usual::busy_days_since(now)).await?;
            for ((organization, subject), (first, days)) in wanted.iter().zip(found) {
                self.meter.note_busy_day(*organization, subject.clone(), busy_day(&days, first, now), now);
            }
        }
        Ok(())
    }

    /// From when on minutes are read. Where nothing could be read for a while others could not write either, and write
    /// down what they have counted meanwhile only now.
    fn since(&mut self, now: OffsetDateTime) -> OffsetDateTime {
        let Some(read_at) = self.read_at else { return now - MINUTES_KEPT - time::Duration::HOUR };
        if now - read_at > LATE {
            let from = minute_of(read_at - LATE);
            let from = self.catching_up.map_or(from, |(earlier, _)| from.min(earlier));
            self.catching_up = Some((from, now + LATE));
        }
        self.catching_up = self.catching_up.filter(|(_, until)| *until > now);
        self.catching_up.map_or(minute_of(now - LATE), |(from, _)| from)
    }

    fn forget_before(&mut self, recent: OffsetDateTime) {
        self.written.retain(|(_, _, minute), _| *minute >= recent);
        self.others.retain(|(_, _, minute), _| *minute >= recent);
    }

    async fn read_since(&mut self, since: OffsetDateTime, now: OffsetDateTime) -> store::Result<()> {
        // Of a day that is read once nothing has to be known the next time but the last minutes.
        let recent = if self.is_loaded { since } else { minute_of(now - LATE) };
        self.forget_before(recent);
        let (meter, written, others) = (self.meter, &self.written, &mut self.others);
        store::volume::for_each_minute_across_tenants(self.pool, since, |counted| {
            let key = (counted.organization, counted.subject.clone(), counted.minute);
            let own = written.get(&key).copied().unwrap_or_default();
            let known = others.get(&key).copied().unwrap_or_default();
            let new = less(less(counted.count, own), known);
            if new == Count::default() {
                return;
            }
            // It was sent within the minute: as late as it can have been, so that nothing is let go too soon.
            let at = (counted.minute + time::Duration::seconds(59)).min(now);
            meter.add(&counted, at, new);
            if counted.minute >= recent {
                *others.entry(key).or_default() += new;
            }
        })
        .await
    }
}

fn less(count: Count, by: Count) -> Count {
    Count {
        messages: count.messages - by.messages,
        recipients: count.recipients - by.recipients,
        external: count.external - by.external,
    }
}
