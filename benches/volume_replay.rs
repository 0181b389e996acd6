//! Replays four weeks of mail of a thousand accounts, and incidents planted in it, through the meter that relays judge
//! with: when is what noticed, and how often is somebody suspected who does what he does? `cargo bench --bench volume_replay`;
//! seeds may follow, `-- 1 2 3`: each is a world of other people.
//!
//! Everything is made from a seed, the time too, so that a change of limits can be compared with what was before.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use outgate::{
    mail::id::{AccountId, OrganizationId},
    policy::{
        correspondents::{Correspondents, Print, Written},
        facts::Found,
        limit::{Action, Judged, Level, Limit, OrganizationLimits, SetAt, Whose, Window, platform},
        usual::{busy_day, hours, usual},
        volume::{Count, Subject, by_day, hour_of},
    },
    relay::meter::{Measured, Meter, News},
};
use time::{Duration, OffsetDateTime, Weekday, macros::datetime};
use uuid::Uuid;

/// A Monday; four weeks are learnt from, and the four after them judged.
const START: OffsetDateTime = datetime!(2026-09-07 00:00 UTC);
const LEARNT: i64 = 4;
const JUDGED: i64 = 4;
const PEOPLE: usize = 1000;
/// Programs, besides.
const SERVICES: usize = 5;
const ALL: usize = PEOPLE + SERVICES;

/// Where no seed is given.
const SEED: u64 = 2026;

/// Splitmix64: the same numbers on every machine.
struct Chance(u64);

impl Chance {
    /// Of one person in a world, so that what else happens there does not depend on it.
    fn of(seed: u64, who: usize) -> Self {
        Self((seed - SEED.min(seed)) << 20 | who as u64)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn is(&mut self, probability: f64) -> bool {
        self.part() < probability
    }

    fn between(&mut self, least: i64, most: i64) -> i64 {
        least + (self.part() * (most - least + 1) as f64) as i64
    }

    /// About nought, in standard deviations: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.part()).sum::<f64>() - 6.0
    }
}

/// A message that somebody sends.
#[derive(Clone)]
struct Sent {
    at: OffsetDateTime,
    who: usize,
    /// In all.
    recipients: i64,
    /// Those outside, by a number for each.
    outside: Rc<[u64]>,
    prints: Rc<[Print]>,
}

impl Sent {
    fn count(&self) -> Count {
        Count { messages: 1, recipients: self.recipients, external: self.outside.len() as i64 }
    }
}

/// To people of the same organization, and to these outside.
fn sent(at: OffsetDateTime, who: usize, inside: i64, outside: impl IntoIterator<Item = u64>) -> Sent {
    let outside: Rc<[u64]> = outside.into_iter().collect();
    let print = |recipient| Print::of(account(who), &format!("r{recipient}@elsewhere.example"));
    let prints = outside.iter().map(print).collect();
    Sent { at, who, recipients: inside + outside.len() as i64, outside, prints }
}

/// The same id each time, so that nothing differs.
fn account(who: usize) -> AccountId {
    AccountId(Uuid::from_u64_pair(who as u64, 0x2026))
}

/// Strangers whom nobody has ever written to, of one incident.
fn strangers(from: i64, many: i64) -> impl Iterator<Item = u64> {
    (from..from + many).map(|stranger| 1 << 60 | stranger as u64)
}

/// Whom one person writes to outside.
struct Circle {
    /// In the order in which they came to know each other.
    acquaintances: Vec<u64>,
    /// How often somebody new is written to, of each hundred recipients outside.
    new: f64,
    next: u64,
    /// Of its own, so that how much is sent does not depend on it.
    chance: Chance,
}

impl Circle {
    /// People who write more know more; one in twenty answers strangers all day.
    fn of(mut chance: Chance, who: usize, rate: f64) -> Self {
        let known = 10 + (rate * 4.0) as u64;
        let new = if chance.is(0.05) { 0.3 + 0.3 * chance.part() } else { 0.02 + 0.1 * chance.part() };
        let base = (who as u64 + 1) << 32;
        Self { acquaintances: (base..base + known).collect(), new, next: base + known, chance }
    }

    fn stranger(&mut self) -> u64 {
        self.next += 1;
        self.acquaintances.push(self.next);
        self.next
    }

    /// Somebody: mostly one of those who are written to often, who stand first, and of late ones.
    fn somebody(&mut self) -> u64 {
        if self.chance.is(self.new) {
            return self.stranger();
        }
        let (chance, all) = (&mut self.chance, self.acquaintances.len());
        let among = chance.part() * chance.part() * chance.part();
        let place = ((among * all as f64) as usize).min(all - 1);
        let place = if chance.is(0.3) { all - 1 - place.min(30) } else { place };
        self.acquaintances[place]
    }
}

/// What everybody sends who does what he does.
fn ordinary(seed: u64) -> Vec<Sent> {
    let (mut chance, mut traffic) = (Chance(seed), Vec::new());
    for who in 0..PEOPLE {
        person(&mut chance, Chance::of(seed, who), who, &mut traffic);
    }
    for who in PEOPLE..ALL {
        service(&mut chance, Chance::of(seed, who), who, &mut traffic);
    }
    traffic
}

fn person(chance: &mut Chance, of_circle: Chance, who: usize, traffic: &mut Vec<Sent>) {
    // Eight messages on a working day in the middle of all; one in six sends three times as many.
    let rate = 8.0 * chance.normal().exp();
    let mut circle = Circle::of(of_circle, who, rate);
    // Where he lives, by his hours.
    let begins = chance.between(6, 9) + if chance.is(0.03) { 12 } else { 0 };
    let (works_weekends, away) = (chance.is(0.1), if chance.is(0.1) { chance.between(0, 7) } else { -1 });
    // A report that goes to many each week at the same time.
    let report = chance.is(0.03).then(|| (chance.between(0, 4), chance.between(9, 15), chance.between(60, 150)));
    // To the same ones, but for a few who are new to it each week.
    let mut readers: Vec<u64> =
        report.map(|(.., to)| (0..to / 2).map(|_| circle.stranger()).collect()).unwrap_or_default();
    // Invoices on the last working day of a month, to customers of whom a few are new.
    let invoices = chance.is(0.02).then(|| chance.between(40, 90));
    let mut customers: Vec<u64> =
        invoices.map(|many| (0..many).map(|_| circle.stranger()).collect()).unwrap_or_default();
    for day in 0..(LEARNT + JUDGED) * 7 {
        let midnight = START + Duration::days(day);
        let is_weekend = matches!(midnight.weekday(), Weekday::Saturday | Weekday::Sunday);
        if (is_weekend && !works_weekends) || day / 7 == away {
            continue;
        }
        let busy = if chance.is(0.02) { 3.0 } else { 1.0 } * if is_weekend { 0.2 } else { 1.0 };
        let messages = (rate * busy * (0.6 * chance.normal()).exp()).round() as i64;
        for _ in 0..messages {
            // Nine hours, with most mail in their middle.
            let into = (chance.part() + chance.part()) / 2.0 * 9.0 * 3600.0;
            let at = midnight + Duration::hours(begins) + Duration::seconds(into as i64);
            let recipients = recipients(chance);
            let external = (0..recipients).filter(|_| chance.is(0.6)).count() as i64;
            let outside: Vec<u64> = (0..external).map(|_| circle.somebody()).collect();
            traffic.push(sent(at, who, recipients - external, outside));
        }
        if let Some((_, hour, to)) = report.filter(|(weekday, ..)| day % 7 == *weekday) {
            let at = midnight + Duration::hours(hour) + Duration::minutes(chance.between(0, 40));
            let inside = to - to / 2 + chance.between(-5, 5);
            for _ in 0..2 {
                let place = circle.chance.between(0, readers.len() as i64 - 1) as usize;
                readers[place] = circle.stranger();
            }
            traffic.push(sent(at, who, inside, readers.iter().copied()));
        }
        if invoices.is_some() && (midnight + Duration::DAY).day() == 1 {
            for customer in &mut customers {
                let at = midnight + Duration::hours(begins + 2) + Duration::seconds(chance.between(0, 5400));
                if circle.chance.is(0.1) {
                    *customer = circle.stranger();
                }
                traffic.push(sent(at, who, 0, [*customer]));
            }
        }
    }
}

/// To how many a message of a person goes.
fn recipients(chance: &mut Chance) -> i64 {
    match chance.part() {
        one if one < 0.75 => 1,
        few if few < 0.90 => chance.between(2, 3),
        some if some < 0.98 => chance.between(4, 10),
        many if many < 0.998 => chance.between(11, 30),
        _ => chance.between(31, 80),
    }
}

/// A program that sends all day, at a rate of its own, mostly to people it has not written to before.
fn service(chance: &mut Chance, mut whom: Chance, who: usize, traffic: &mut Vec<Sent>) {
    let a_day = chance.between(500, 3000);
    for day in 0..(LEARNT + JUDGED) * 7 {
        for _ in 0..a_day {
            let at = START + Duration::days(day) + Duration::seconds(chance.between(0, 86_399));
            let customer = (who as u64 + 1) << 32 | whom.between(0, 200_000) as u64;
            traffic.push(sent(at, who, 0, [customer]));
        }
    }
}

/// Something that should be noticed, or should not.
struct Incident {
    name: &'static str,
    /// From when on it is looked for.
    begins: OffsetDateTime,
    traffic: Vec<Sent>,
}

/// In the third of the judged weeks. Who has taken an account over writes to strangers; so does who merges mail, and a
/// newsletter goes to readers of whom the program has written to most. A new address is announced to those one knows.
fn incidents(ordinary: &[Sent]) -> Vec<Incident> {
    let monday = START + Duration::weeks(LEARNT + 2);
    let tuesday = monday + Duration::DAY;
    let night = tuesday + Duration::hours(2);
    let every = |name, who, begins: OffsetDateTime, seconds: i64, times: i64, recipients| Incident {
        name,
        begins,
        traffic: (0..times)
            .map(|n| sent(begins + Duration::seconds(n * seconds), who, 0, strangers(n * recipients, recipients)))
            .collect(),
    };
    let rise = (0..14).flat_map(|day| {
        let a_day = (20.0 * 1.4_f64.powi(day)) as i64;
        let before = (0..day).map(|day| (20.0 * 1.4_f64.powi(day)) as i64).sum::<i64>();
        let morning = monday - Duration::weeks(1) + Duration::days(day.into()) + Duration::hours(8);
        (0..a_day).map(move |n| sent(morning + Duration::seconds(n * 28_800 / a_day), 17, 0, strangers(before + n, 1)))
    });
    let known = known_by(ordinary, tuesday);
    let everybody = (0..PEOPLE).flat_map(|who| {
        let begins = tuesday + Duration::hours(8) + Duration::minutes(who as i64 % 240);
        let known = known[who].clone();
        (0..4).map(move |n| {
            let outside = (n * 12..n * 12 + 12).map(|place| {
                let stranger = (who as u64 + 1) << 32 | 1 << 31 | place as u64;
                known.get(place as usize).copied().unwrap_or(stranger)
            });
            sent(begins + Duration::minutes(n * 20), who, 3, outside)
        })
    });
    vec![
        every("hijacked by night, 20 recipients each half minute", 11, night, 30, 960, 20),
        every("hijacked by night, ten recipients a minute", 12, night, 60, 480, 10),
        every("hijacked by night, one message each 30 seconds", 13, night, 30, 960, 1),
        every("hijacked by day, 20 recipients each half minute", 14, tuesday + Duration::hours(11), 30, 960, 20),
        every("hijacked and careful: 80 recipients an hour", 15, night, 45, 1600, 1),
        Incident {
            name: "slow rise, 1.4 times as many each day",
            begins: monday - Duration::weeks(1),
            traffic: rise.collect(),
        },
        every("newsletter of a program: 5,000 at once", PEOPLE, tuesday + Duration::hours(10), 1, 5000, 1),
        every("mail merge of 300 by a person", 16, tuesday + Duration::hours(10), 4, 300, 1),
        Incident {
            name: "everybody announces a new address to 60",
            begins: tuesday + Duration::hours(8),
            traffic: everybody.collect(),
        },
    ]
}

/// Whom everybody has written to before, those first whom he wrote to first.
fn known_by(ordinary: &[Sent], before: OffsetDateTime) -> Vec<Vec<u64>> {
    let mut known = vec![Vec::new(); ALL];
    for sent in ordinary.iter().filter(|sent| sent.at < before && sent.who < PEOPLE) {
        for recipient in sent.outside.iter() {
            if !known[sent.who].contains(recipient) {
                known[sent.who].push(*recipient);
            }
        }
    }
    known
}

/// An organization's relay.
struct Relay {
    accounts: Vec<Found>,
    limits: Arc<OrganizationLimits>,
    meter: Meter,
    /// Of each account, and at last of all together.
    by_hour: Vec<BTreeMap<OffsetDateTime, Count>>,
    /// To whom each account has written.
    correspondents: Vec<Correspondents>,
    looks_up_at: OffsetDateTime,
}

impl Relay {
    fn new(compares_with_usual: bool) -> Self {
        let organization = OrganizationId::new();
        let found = |who: usize| Found {
            organization,
            sender: Arc::new(format!("user{who}@acme.example").parse().expect("an address")),
            account: Some(account(who)),
        };
        let accounts: Vec<Found> = (0..ALL).map(found).collect();
        let mut limits = OrganizationLimits::new(START);
        for service in &accounts[PEOPLE..] {
            let account = service.account.expect("all are accounts");
            limits.senders.entry(account).or_default().is_service = true;
        }
        if !compares_with_usual {
            let set = limits.set.entry(SetAt::Organization).or_default();
            for whose in [Whose::Each, Whose::Service, Whose::Total] {
                let learnt = [Window::Usual, Window::FirstTime];
                let off = platform(whose, ALL as u64).filter(|(kind, _)| learnt.contains(&kind.window));
                set.extend(off.map(|(kind, _)| (kind, Limit { most: None, action: Action::Alert })));
                // Set, and so not raised.
                let fixed = platform(whose, ALL as u64).filter(|(kind, _)| kind.window == Window::Day);
                set.extend(fixed);
            }
        }
        let (by_hour, correspondents) = (vec![BTreeMap::new(); ALL + 1], vec![Correspondents::default(); ALL]);
        let meter = Meter::default();
        meter.tidy(&HashMap::from([(organization, ALL as u64)]), START);
        Self { accounts, limits: Arc::new(limits), meter, by_hour, correspondents, looks_up_at: START }
    }

    fn count(&mut self, sent: &Sent) {
        for who in [sent.who, ALL] {
            *self.by_hour[who].entry(hour_of(sent.at)).or_default() += sent.count();
        }
        // Of programs nobody asks it.
        if sent.who >= PEOPLE {
            return;
        }
        self.correspondents[sent.who].write(sent.prints.iter().map(|print| Written::new(*print, sent.at)));
    }

    /// Whose place it is, the last for all together.
    fn place(subject: &Subject) -> usize {
        match subject {
            Subject::Account(account) => account.0.as_u64_pair().0 as usize,
            _ => ALL,
        }
    }

    /// What relays do every second or two.
    fn look_up(&mut self, now: OffsetDateTime) {
        if now < self.looks_up_at {
            return;
        }
        self.looks_up_at = now + Duration::seconds(2);
        for (organization, subject) in self.meter.wanted() {
            let known = &self.by_hour[Self::place(&subject)];
            let counts: Vec<_> = hours(now).filter_map(|hour| Some((hour, *known.get(&hour)?))).collect();
            let first = known.keys().next().copied();
            let usual = usual(&subject, &counts, first, now);
            self.meter.note_usual(organization, subject, usual, now);
        }
        for (organization, subject) in self.meter.wanted_days() {
            let known = &self.by_hour[Self::place(&subject)];
            let days = by_day(known.iter().map(|(hour, count)| (*hour, *count)));
            let first = known.keys().next().copied();
            self.meter.note_busy_day(organization, subject, busy_day(&days, first, now), now);
        }
        for (_, account) in self.meter.wanted_correspondents() {
            self.tell(account, now);
        }
    }

    /// To whom an account has written, if a limit has asked for it: known two weeks after the start.
    fn tell(&self, account: AccountId, now: OffsetDateTime) {
        let place = Self::place(&Subject::Account(account));
        let (organization, from) = (self.accounts[place].organization, START + Duration::weeks(2));
        self.meter.note_correspondents((organization, account), &self.correspondents[place], from, now);
    }

    /// Judges a message. Returns whether it went its way, and what administrators would be told.
    fn judge(&mut self, sent: &Sent) -> (bool, Vec<News>) {
        self.look_up(sent.at);
        let measured = Measured { count: sent.count(), message_id: None, outside: &sent.prints };
        let judged = self.meter.judge(&self.limits, &self.accounts[sent.who], measured, sent.at);
        if matches!(judged, Judged::Goes | Judged::Delayed(_) | Judged::Held(_)) {
            self.count(sent);
            self.tell(account(sent.who), sent.at);
        }
        (judged == Judged::Goes, self.meter.take_news())
    }
}

/// What came of a replay.
#[derive(Default)]
struct Outcome {
    /// The notices that somebody is beyond a limit: whose, by the limit's window, and when.
    alarms: Vec<(Subject, Window, OffsetDateTime)>,
    /// How many there were that somebody is near one.
    near: usize,
    /// Of the incident: when it was noticed first, after how many recipients, and by which limit.
    noticed: Option<(OffsetDateTime, i64, String)>,
    /// How many recipients of the incident went their way at once, of how many.
    went: i64,
    of: i64,
}

fn replay(ordinary: &[Sent], incident: Option<&Incident>, compares_with_usual: bool) -> Outcome {
    let mut relay = Relay::new(compares_with_usual);
    let planted = incident.map_or(&[][..], |incident| &incident.traffic);
    let mut traffic: Vec<(&Sent, bool)> =
        ordinary.iter().map(|sent| (sent, false)).chain(planted.iter().map(|sent| (sent, true))).collect();
    traffic.sort_by_key(|(sent, is_planted)| (sent.at, sent.who, *is_planted));
    let culprits: HashSet<usize> = planted.iter().map(|sent| sent.who).collect();
    let subjects: HashSet<Subject> =
        culprits.iter().filter_map(|who| relay.accounts[*who].account.map(Subject::Account)).collect();
    // What came long before an incident is learnt only, and what comes after it is left out: it would take long.
    let judged_from = incident.map_or(START + Duration::weeks(LEARNT), |incident| incident.begins - Duration::DAY * 2);
    let judged_to = planted.iter().map(|sent| sent.at).max();
    let mut outcome = Outcome { of: planted.iter().map(|sent| sent.recipients).sum(), ..Outcome::default() };
    let mut so_far = 0;
    for (sent, is_planted) in traffic {
        if judged_to.is_some_and(|end| sent.at > end) {
            break;
        }
        if sent.at < judged_from {
            relay.count(sent);
            continue;
        }
        let (went, news) = relay.judge(sent);
        if is_planted {
            so_far += sent.recipients;
            outcome.went += if went { sent.recipients } else { 0 };
        }
        let (near, beyond): (Vec<_>, Vec<_>) = news.into_iter().partition(|news| news.exceeded.level == Level::Near);
        outcome.near += near.len();
        for news in beyond {
            let applied = &news.exceeded.applied;
            let is_about = subjects.contains(&applied.subject) || applied.subject == Subject::Organization;
            if incident.is_some_and(|incident| sent.at >= incident.begins) && is_about && outcome.noticed.is_none() {
                outcome.noticed = Some((sent.at, so_far, news.exceeded.words()));
            }
            if std::env::var_os("OUTGATE_REPLAY_SAYS_ALL").is_some() {
                println!("{} user{} ({}): {}", sent.at, sent.who, applied.kind.window, news.exceeded.words());
            }
            outcome.alarms.push((applied.subject.clone(), applied.kind.window, sent.at));
        }
    }
    outcome
}

fn main() {
    // cargo calls every bench with --bench; cargo test does not, and would wait for it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let seeds: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    for seed in if seeds.is_empty() { vec![SEED] } else { seeds } {
        world(seed);
    }
}

/// Everything in the world of one seed.
fn world(seed: u64) {
    let mut ordinary = ordinary(seed);
    ordinary.sort_by_key(|sent| (sent.at, sent.who));
    let judged = ordinary.iter().filter(|sent| sent.at >= START + Duration::weeks(LEARNT)).count();
    println!(
        "Seed {seed}: {} messages of {PEOPLE} people and {SERVICES} programs, {judged} of them in the judged weeks",
        ordinary.len()
    );
    println!(
        "| incident | shipped limits: noticed | recipients until then | went at once | fixed limits alone: noticed | recipients until then | went at once |"
    );
    println!("|---|---|---|---|---|---|---|");
    // How often somebody is suspected who does what he does, alone: it takes a tenth of the time.
    let is_quiet = std::env::var_os("OUTGATE_REPLAY_QUIET").is_some();
    for incident in if is_quiet { Vec::new() } else { incidents(&ordinary) } {
        let cells = [true, false].map(|compares| {
            let outcome = replay(&ordinary, Some(&incident), compares);
            let went = format!("{} of {}", outcome.went, outcome.of);
            match outcome.noticed {
                Some((at, recipients, words)) => {
                    format!("after {} min: {words} | {recipients} | {went}", (at - incident.begins).whole_minutes())
                }
                None => format!("never | | {went}"),
            }
        });
        println!("| {} | {} |", incident.name, cells.join(" | "));
    }
    let rules = [("shipped limits", true), ("fixed limits alone", false)];
    for (name, compares) in rules.into_iter().filter(|(_, compares)| *compares || !is_quiet) {
        let outcome = replay(&ordinary, None, compares);
        let mut by_window: HashMap<Window, usize> = HashMap::new();
        // Those of one sender that come within a day of one another are about one matter.
        let (mut last, mut matters) = (HashMap::new(), 0);
        for (subject, window, at) in &outcome.alarms {
            *by_window.entry(*window).or_default() += 1;
            let before = last.insert(subject, *at);
            matters += usize::from(before.is_none_or(|before: OffsetDateTime| *at - before > Duration::DAY));
        }
        let a_week = |many: usize| many as f64 / JUDGED as f64 * 1000.0 / PEOPLE as f64;
        println!(
            "{name}, nothing planted: {matters} matters of {} senders in {} notices ({by_window:?}), {} that somebody is near \
             a limit: {:.2}, {:.2} and {:.2} per 1,000 accounts and week",
            last.len(),
            outcome.alarms.len(),
            outcome.near,
            a_week(matters),
            a_week(outcome.alarms.len()),
            a_week(outcome.near),
        );
    }
}
