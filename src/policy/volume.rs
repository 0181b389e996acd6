//! How much mail is sent, and by whom: what is counted, for whom, and the periods in which it is shown. Relays count by
//! it, pages and commands show by it.

use std::{collections::BTreeMap, ops::AddAssign};

use time::{Duration, OffsetDateTime, UtcOffset};

use super::words::words;
use crate::mail::{DomainName, envelope::domain_of, id::AccountId};

/// How long the counts of a minute are kept.
pub const MINUTES_KEPT: Duration = Duration::days(1);
/// How long the counts of an hour are kept: two years, one of them a leap year.
pub const HOURS_KEPT: Duration = Duration::days(731);

/// What was accepted, in all three units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub messages: i64,
    /// As they were named: a distribution list that a relay expands is one, whoever may send to it is for the list to
    /// say.
    pub recipients: i64,
    /// Recipients whose domain is not one of the sender's organization, members of lists among them.
    pub external: i64,
}

impl Count {
    /// One message to so many recipients, so many of them external.
    pub fn of_message(recipients: usize, external: usize) -> Self {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Self { messages: 1, recipients: number(recipients), external: number(external) }
    }

    pub fn get(&self, unit: Unit) -> i64 {
        match unit {
            Unit::Messages => self.messages,
            Unit::Recipients => self.recipients,
            Unit::External => self.external,
        }
    }
}

/// Those of these recipients whose domain is not one of the organization's. One without a domain that can be one of them
/// (an address literal, for one) is external.
pub fn external<'a>(
    forward_paths: &'a [String],
    is_own: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = &'a str> + 'a {
    let is_external = move |forward_path: &&'a str| {
        let domain = domain_of(forward_path).and_then(|domain| DomainName::canonical(domain).ok());
        domain.is_none_or(|domain| !is_own(&domain))
    };
    forward_paths.iter().map(String::as_str).filter(is_external)
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.external += other.external;
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut total, count| {
            total += count;
            total
        })
    }
}

/// What is counted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    #[default]
    Messages,
    Recipients,
    External,
}

impl Unit {
    pub const ALL: [Self; 3] = [Self::Messages, Self::Recipients, Self::External];

    /// Where it stands among [all](Self::ALL).
    pub fn place(self) -> usize {
        self as usize
    }

    /// What one is called, and what several are.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Messages => ("message", "messages"),
            Self::Recipients => ("recipient", "recipients"),
            Self::External => ("external recipient", "external recipients"),
        }
    }
}

words!(Unit: "messages" = Messages, "recipients" = Recipients, "external" = External);

/// Whose mail is counted. Each message counts for its organization, for the domain of its sender, and for the account
/// that has the sender's address or, where none has, for all such senders of the domain together: of these anybody may
/// invent as many as he likes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Organization,
    Domain(DomainName),
    Account(AccountId),
    /// Senders of the domain that no account has.
    NoAccount(DomainName),
}

impl Subject {
    /// Whether it is many senders, who are counted for themselves besides.
    pub fn is_many(&self) -> bool {
        matches!(self, Self::Organization | Self::Domain(_))
    }
}

/// A stretch of time that is shown, in equal steps. Times are UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Period {
    /// The present day, by hour.
    #[default]
    Today,
    /// The present day and the 27 before it, by day.
    FourWeeks,
}

impl Period {
    pub const ALL: [Self; 2] = [Self::Today, Self::FourWeeks];

    /// The word for it in addresses of pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Today => "today",
            Self::FourWeeks => "four-weeks",
        }
    }

    /// How many steps there are.
    pub fn steps(self) -> u16 {
        match self {
            Self::Today => 24,
            Self::FourWeeks => 28,
        }
    }

    /// How long one is.
    pub fn step(self) -> Duration {
        match self {
            Self::Today => Duration::HOUR,
            Self::FourWeeks => Duration::DAY,
        }
    }

    /// When it begins.
    pub fn beginning(self, now: OffsetDateTime) -> OffsetDateTime {
        let today = start_of(Duration::DAY, now);
        match self {
            Self::Today => today,
            Self::FourWeeks => today - Duration::DAY * (self.steps() - 1),
        }
    }

    /// Every step with what was counted in it, the oldest first, empty ones too. What lies outside is left out.
    pub fn by_step(
        self,
        now: OffsetDateTime,
        counts: impl IntoIterator<Item = (OffsetDateTime, Count)>,
    ) -> Vec<(OffsetDateTime, Count)> {
        let beginning = self.beginning(now);
        let mut steps: Vec<_> =
            (0..self.steps()).map(|step| (beginning + self.step() * step, Count::default())).collect();
        for (at, count) in counts {
            let step = (at - beginning).whole_seconds().div_euclid(self.step().whole_seconds());
            if let Some((_, total)) = usize::try_from(step).ok().and_then(|step| steps.get_mut(step)) {
                *total += count;
            }
        }
        steps
    }
}

/// The minute that a moment lies in.
pub fn minute_of(moment: OffsetDateTime) -> OffsetDateTime {
    start_of(Duration::MINUTE, moment)
}

/// The hour that a moment lies in.
pub fn hour_of(moment: OffsetDateTime) -> OffsetDateTime {
    start_of(Duration::HOUR, moment)
}

/// Whether a moment lies in the hour that begins at `hour`.
pub fn is_in_hour(hour: OffsetDateTime, moment: OffsetDateTime) -> bool {
    (0..Duration::HOUR.whole_seconds()).contains(&(moment.unix_timestamp() - hour.unix_timestamp()))
}

/// The step of this length that a moment lies in, counted from midnight UTC.
pub(super) fn start_of(step: Duration, moment: OffsetDateTime) -> OffsetDateTime {
    // In seconds: this is asked several times for a message, and a date takes longer to reckon with.
    let second = moment.unix_timestamp();
    let start = OffsetDateTime::from_unix_timestamp(second - second.rem_euclid(step.whole_seconds()));
    start.unwrap_or_else(|_| moment.to_offset(UtcOffset::UTC))
}

/// What was counted on each day (UTC), of counts in the order of time.
pub fn by_day(counts: impl IntoIterator<Item = (OffsetDateTime, Count)>) -> Vec<(OffsetDateTime, Count)> {
    let mut days: Vec<(OffsetDateTime, Count)> = Vec::new();
    for (at, count) in counts {
        let day = start_of(Duration::DAY, at);
        match days.last_mut() {
            Some((last, total)) if *last == day => *total += count,
            _ => days.push((day, count)),
        }
    }
    days
}

/// What is sent on a usual day: of the days before the present one on which something was sent, the one in the middle.
/// `None` if there is none.
pub fn usual_day(
    counts: impl IntoIterator<Item = (OffsetDateTime, Count)>,
    unit: Unit,
    now: OffsetDateTime,
) -> Option<i64> {
    let mut days = BTreeMap::new();
    for (at, count) in counts.into_iter().filter(|(at, _)| *at < start_of(Duration::DAY, now)) {
        *days.entry(start_of(Duration::DAY, at)).or_default() += count.get(unit);
    }
    let mut counts: Vec<i64> = days.into_values().filter(|count| *count > 0).collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied()
}

/// The top of a scale on which values up to `highest` find room: it and its half are round.
pub fn scale(highest: i64) -> i64 {
    let powers = std::iter::successors(Some(1_i64), |power| power.checked_mul(10));
    let tops = powers.flat_map(|power| [2, 4, 6, 8, 10].map(|step| power.saturating_mul(step)));
    tops.into_iter().find(|top| *top >= highest).unwrap_or(highest)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn external_is_whoever_is_not_at_a_domain_of_the_organization() {
        let own = |domain: &str| ["acme.example", "xn--bcher-kva.example"].contains(&domain);
        let to = ["ann@ACME.example", "a@bücher.example", "b@sub.acme.example", "c@[192.0.2.7]", "postmaster"];
        let to = to.map(str::to_owned);
        let outside: Vec<&str> = external(&to, own).collect();
        assert_eq!(outside, ["b@sub.acme.example", "c@[192.0.2.7]", "postmaster"]);
        assert_eq!(Count::of_message(5, 3), Count { messages: 1, recipients: 5, external: 3 });
    }

    #[test]
    fn a_day_is_shown_by_hour_and_four_weeks_by_day_in_utc() {
        let now = datetime!(2026-03-01 14:59:59.5 +02:00);
        let count = |messages| Count { messages, ..Count::default() };
        let counted = [
            (datetime!(2026-02-01 23:00 UTC), count(1)),
            (datetime!(2026-02-02 00:00 UTC), count(2)),
            (datetime!(2026-02-28 23:00 UTC), count(4)),
            (datetime!(2026-03-01 00:00 UTC), count(8)),
            (datetime!(2026-03-01 12:00 UTC), count(16)),
        ];
        let shown = |period: Period| -> Vec<_> {
            let steps = period.by_step(now, counted).into_iter().enumerate();
            steps.filter(|(_, (_, count))| count.messages > 0).map(|(i, (at, count))| (i, at, count.messages)).collect()
        };
        assert_eq!(
            shown(Period::Today),
            [(0, datetime!(2026-03-01 00:00 UTC), 8), (12, datetime!(2026-03-01 12:00 UTC), 16)]
        );
        assert_eq!(
            shown(Period::FourWeeks),
            [
                (0, datetime!(2026-02-02 00:00 UTC), 2),
                (26, datetime!(2026-02-28 00:00 UTC), 4),
                (27, datetime!(2026-03-01 00:00 UTC), 24)
            ]
        );
        assert_eq!(minute_of(now), datetime!(2026-03-01 12:59 UTC));
        assert_eq!(hour_of(now), datetime!(2026-03-01 12:00 UTC));
        assert!(is_in_hour(hour_of(now), now) && !is_in_hour(datetime!(2026-03-01 11:00 UTC), now));
        assert!(!is_in_hour(datetime!(2026-03-01 13:00 UTC), now));
        assert_eq!(minute_of(datetime!(1969-12-31 23:59:30 UTC)), datetime!(1969-12-31 23:59 UTC));
    }

    #[test]
    fn a_usual_day_is_the_one_in_the_middle_of_those_with_mail() {
        let count = |messages| Count { messages, ..Count::default() };
        let counted = [
            (datetime!(2026-03-01 08:00 UTC), count(4)),
            (datetime!(2026-03-01 23:00 UTC), count(6)),
            (datetime!(2026-03-02 00:00 UTC), count(3)),
            (datetime!(2026-03-04 09:00 UTC), count(5000)),
            (datetime!(2026-03-05 09:00 UTC), count(7)),
        ];
        let now = datetime!(2026-03-05 10:00 UTC);
        assert_eq!(usual_day(counted, Unit::Messages, now), Some(10), "today is not over");
        assert_eq!(usual_day(counted, Unit::External, now), None);
        assert_eq!(usual_day([], Unit::Messages, now), None);
    }

    #[test]
    fn a_scale_ends_with_a_round_number() {
        for (highest, top) in
            [(0, 2), (1, 2), (2, 2), (3, 4), (9, 10), (11, 20), (101, 200), (999, 1000), (61_000, 80_000)]
        {
            assert_eq!(scale(highest), top, "{highest}");
        }
        assert_eq!(scale(i64::MAX), i64::MAX);
    }
}
