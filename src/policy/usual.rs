//! What somebody usually sends within an hour at this time, found from the hours that are kept of the last four weeks.
//! Limits of [`Window::Usual`](super::limit::Window::Usual) go by it, pages show it.

use time::{Duration, OffsetDateTime};

use super::volume::{Count, Subject, Unit, hour_of, start_of};

/// How many weeks are looked back at.
pub const WEEKS: u8 = 4;
/// For how long somebody must have sent before anything is said to be usual.
pub const HISTORY: Duration = Duration::weeks(2);
/// Beyond so many times the usual is unusual of one sender. The form of Limits and the command's help say it in words.
pub const FACTOR: u32 = 4;
/// And of many together, who are never all busy at once.
pub const FACTOR_OF_ALL: u32 = 2;
/// The platform's figure of a day is raised, for one account, to as many times what it sends on its busy days as is
/// usual in an hour.
pub const RAISED: u32 = FACTOR;
/// That of those who are written to for the first time less: nothing else tells so surely who has taken an account over.
pub const RAISED_FIRST_TIME: u32 = 2;
/// And each to so many times itself at most.
pub const MOST_RAISED: u32 = 3;

/// How many days are looked back at.
const DAYS: usize = WEEKS as usize * 7;

/// The hours that say what is usual at `now`: of each of the last days the same one, and those beside it, since a
/// meeting that moves makes nobody suspicious, nor does the change to summer time.
pub fn hours(now: OffsetDateTime) -> impl Iterator<Item = OffsetDateTime> {
    let hour = hour_of(now);
    let days = (1..=DAYS as i64).map(move |day| hour - Duration::days(day));
    days.flat_map(|hour| [hour - Duration::HOUR, hour, hour + Duration::HOUR])
}

/// What somebody usually sends within an hour at `now` at most, in each unit. `counts` are those of [`hours`], in any
/// order and others among them; `first` is the hour of the first mail that is known of. `None` before [`HISTORY`] is
/// known.
pub fn usual(
    subject: &Subject,
    counts: &[(OffsetDateTime, Count)],
    first: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<Count> {
    if subject.is_many() { usual_of_many(counts, first, now) } else { usual_of_one(counts, first, now) }
}

/// [`usual`] of many together: of that hour of the last four weeks the second highest, so that one week that was not as
/// usual counts for nothing; the highest while fewer weeks are known.
pub fn usual_of_many(
    counts: &[(OffsetDateTime, Count)],
    first: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<Count> {
    let weeks = weeks_known(first, now)?;
    Some(of_this_day(&by_day_ago(counts, now), weeks))
}

/// [`usual`] of one sender. At an hour of the week at which it usually sends anything, that is what it sends at that time
/// on the busiest day of a week, of four weeks the second highest likewise: a Tuesday's hour alone says too little of a
/// person, who may be busy on any day. At other hours it is nothing: who has taken an account over does it by night.
pub fn usual_of_one(
    counts: &[(OffsetDateTime, Count)],
    first: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<Count> {
    let weeks = weeks_known(first, now)?;
    let days = by_day_ago(counts, now);
    let of_hour = of_this_day(&days, weeks);
    let of_any_day =
        of_weeks(days.chunks(7).take(weeks).map(|week| week.iter().copied().fold(Count::default(), most)).collect());
    let unless_none = |unit| if of_hour.get(unit) > 0 { of_any_day.get(unit) } else { 0 };
    Some(Count {
        messages: unless_none(Unit::Messages),
        recipients: unless_none(Unit::Recipients),
        external: unless_none(Unit::External),
    })
}

/// Of how many of the last weeks this hour is known; `None` before [`HISTORY`] is.
fn weeks_known(first: Option<OffsetDateTime>, now: OffsetDateTime) -> Option<usize> {
    let first = first.filter(|first| *first <= now - HISTORY)?;
    let weeks = (1..=i64::from(WEEKS)).map(|week| hour_of(now) - Duration::weeks(week));
    Some(weeks.take_while(|hour| *hour + Duration::HOUR >= first).count())
}

/// The most of this hour and of those beside it, on each of the last days, yesterday first.
fn by_day_ago(counts: &[(OffsetDateTime, Count)], now: OffsetDateTime) -> [Count; DAYS] {
    let mut days = [Count::default(); DAYS];
    for (at, count) in counts {
        // From one hour after it on, so that it begins a day.
        let ago = (hour_of(now) + Duration::HOUR - *at).whole_hours();
        let day = usize::try_from(ago / 24 - 1).ok().and_then(|day| days.get_mut(day));
        if let (Some(day), 0..=2) = (day, ago.rem_euclid(24)) {
            *day = most(*day, *count);
        }
    }
    days
}

/// Of so many of the last weeks, on the day of the week that it is now.
fn of_this_day(days: &[Count; DAYS], weeks: usize) -> Count {
    of_weeks(days.iter().skip(6).step_by(7).take(weeks).copied().collect())
}

/// What is usually sent on such a day of the week at most, found likewise from the same day of the four weeks before it.
pub fn usual_on(
    counts: &[(OffsetDateTime, Count)],
    first: Option<OffsetDateTime>,
    day: OffsetDateTime,
) -> Option<Count> {
    let day = start_of(Duration::DAY, day);
    let first = first.map(|first| start_of(Duration::DAY, first)).filter(|first| *first <= day - HISTORY)?;
    let known = (1..=i64::from(WEEKS)).map(|week| day - Duration::weeks(week)).filter(|day| *day >= first);
    let on = |day: OffsetDateTime| {
        let end = day + Duration::DAY;
        counts.iter().filter(|(at, _)| *at >= day && *at < end).map(|(_, count)| *count).sum()
    };
    Some(of_weeks(known.map(on).collect()))
}

/// What is sent on busy days: the most of a day in each of the last four weeks that are over, and of those what was
/// reached [in most](in_most_weeks). `days` says what was sent on which day, in any order; `first` is when the first mail
/// was sent that is known of. `None` before [`HISTORY`] is known.
pub fn busy_day(days: &[(OffsetDateTime, Count)], first: Option<OffsetDateTime>, now: OffsetDateTime) -> Option<Count> {
    let (first, today) = (start_of(Duration::DAY, first?), start_of(Duration::DAY, now));
    let busiest = |unit: Unit| {
        let weeks = (0..i64::from(WEEKS))
            .map(|week| today - Duration::weeks(week))
            .filter(|end| first + Duration::WEEK <= *end);
        let of = |end: OffsetDateTime| {
            let of_week = days.iter().filter(|(day, _)| *day < end && *day >= end - Duration::WEEK);
            of_week.map(|(_, count)| count.get(unit)).max().unwrap_or_default()
        };
        in_most_weeks(weeks.map(of).collect())
    };
    let (messages, recipients, external) =
        (busiest(Unit::Messages)?, busiest(Unit::Recipients)?, busiest(Unit::External)?);
    Some(Count { messages, recipients, external })
}

/// From when on days are asked for [`busy_day`].
pub fn busy_days_since(now: OffsetDateTime) -> OffsetDateTime {
    start_of(Duration::DAY, now) - Duration::weeks(WEEKS.into())
}

/// What was reached in three weeks of four, or in each of them while fewer are known: who has taken an account over has
/// to send much for weeks before it is usual. `None` of less than two weeks.
pub(super) fn in_most_weeks(mut weeks: Vec<i64>) -> Option<i64> {
    weeks.sort_unstable_by(|one, other| other.cmp(one));
    if weeks.len() < 2 { None } else { weeks.get(weeks.len().min(3) - 1).copied() }
}

/// What is usual where so much was sent in the last weeks.
fn of_weeks(weeks: Vec<Count>) -> Count {
    let of = |count: fn(&Count) -> i64| {
        let mut weeks: Vec<i64> = weeks.iter().map(count).collect();
        weeks.sort_unstable_by(|one, other| other.cmp(one));
        let place = usize::from(weeks.len() >= usize::from(WEEKS));
        weeks.get(place).copied().unwrap_or_default()
    };
    Count {
        messages: of(|count| count.messages),
        recipients: of(|count| count.recipients),
        external: of(|count| count.external),
    }
}

/// The most of both, in each unit.
fn most(one: Count, other: Count) -> Count {
    Count {
        messages: one.messages.max(other.messages),
        recipients: one.recipients.max(other.recipients),
        external: one.external.max(other.external),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::mail::id::AccountId;

    /// A Monday.
    const NOW: OffsetDateTime = datetime!(2026-11-30 14:25 UTC);

    fn sent(weeks_ago: i64, hours: i64, recipients: i64) -> (OffsetDateTime, Count) {
        let at = datetime!(2026-11-30 14:00 UTC) - Duration::weeks(weeks_ago) + Duration::hours(hours);
        (at, Count { messages: 1, recipients, external: recipients / 2 })
    }

    /// Of all of an organization together.
    fn usual_of(counts: &[(OffsetDateTime, Count)]) -> Option<i64> {
        let first = counts.iter().map(|(at, _)| *at).min();
        usual(&Subject::Organization, counts, first, NOW).map(|usual| usual.recipients)
    }

    /// Of one account.
    fn usual_of_ann(counts: &[(OffsetDateTime, Count)]) -> Option<i64> {
        let (ann, first) = (Subject::Account(AccountId::new()), counts.iter().map(|(at, _)| *at).min());
        usual(&ann, counts, first, NOW).map(|usual| usual.recipients)
    }

    #[test]
    fn one_week_that_was_not_as_usual_counts_for_nothing() {
        let weeks = [sent(4, 0, 40), sent(3, 0, 60), sent(2, 0, 5000), sent(2, 1, 900), sent(1, 0, 30)];
        assert_eq!((usual_of(&weeks), usual_of_ann(&weeks)), (Some(60), Some(60)));
        let usual = usual(&Subject::Organization, &weeks, Some(weeks[0].0), NOW).unwrap();
        assert_eq!(usual, Count { messages: 1, recipients: 60, external: 30 }, "each unit for itself");
    }

    #[test]
    fn of_many_the_same_hour_of_the_week_counts_and_those_beside_it_and_no_others() {
        let beside = [sent(4, 1, 40), sent(3, -1, 60), sent(2, 0, 10), sent(1, 0, 10)];
        assert_eq!(usual_of(&beside), Some(40));
        let elsewhere = [sent(4, 2, 40), sent(3, -2, 60), sent(2, 24, 90), sent(1, -24, 90), sent(0, -1, 90)];
        assert_eq!(usual_of(&elsewhere), Some(0));
        let asked: Vec<_> = hours(NOW).collect();
        assert!(beside.iter().all(|(at, _)| asked.contains(at)));
        assert_eq!(asked.len(), 28 * 3);
    }

    #[test]
    fn of_one_sender_that_time_counts_on_every_day_where_it_sends_at_that_hour_of_the_week() {
        // A Monday's hour, and more on other days at that time, of which one week was not as usual.
        let monday = [sent(4, 0, 5), sent(3, 0, 5), sent(2, 0, 5), sent(1, 0, 5)];
        let others = [sent(4, 24, 60), sent(3, 49, 80), sent(2, 71, 5000), sent(0, -24, 70)];
        let all = [monday, others].concat();
        assert_eq!((usual_of_ann(&all), usual_of(&all)), (Some(80), Some(5)));
        assert_eq!(usual_of_ann(&others), Some(0), "never on a Monday");
        let at_other_times = [sent(4, 26, 60), sent(3, 46, 60), sent(2, 12, 60), sent(1, -3, 60), sent(0, -2, 60)];
        assert_eq!(usual_of_ann(&[&monday[..], &at_other_times[..]].concat()), Some(5));
        // Who has sent to few within the organization alone has sent nothing outside.
        let inside = Count { messages: 1, recipients: 9, external: 0 };
        let counts = [(monday[0].0, inside), (monday[1].0, inside), others[0], others[1]];
        let ann = usual_of_one(&counts, Some(monday[0].0), NOW).unwrap();
        assert_eq!((ann.recipients, ann.external), (60, 0));
    }

    #[test]
    fn a_day_is_compared_with_the_same_day_of_the_weeks_before() {
        let day = datetime!(2026-11-30 00:00 UTC);
        let on = |weeks, hour, recipients| {
            (day - Duration::weeks(weeks) + Duration::hours(hour), { Count { messages: 1, recipients, external: 0 } })
        };
        let counts = [on(4, 9, 10), on(4, 23, 20), on(3, 0, 15), on(2, 12, 900), on(2, 24, 4000), on(1, -1, 4000)];
        assert_eq!(usual_on(&counts, Some(counts[0].0), NOW).unwrap().recipients, 30);
        assert_eq!(usual_on(&counts[2..], Some(counts[2].0), NOW).unwrap().recipients, 900, "of three the highest");
        assert_eq!(usual_on(&counts, Some(day - Duration::days(13)), NOW), None);
    }

    #[test]
    fn a_busy_day_is_one_that_came_in_three_weeks_of_four() {
        let today = datetime!(2026-11-30 00:00 UTC);
        let on = |ago, recipients| (today - Duration::days(ago), Count { messages: 1, recipients, external: ago });
        // The busiest days of the weeks: 900, 5000, 800 and 850. Today is not over.
        let days = [on(0, 9000), on(1, 900), on(3, 20), on(9, 5000), on(10, 6), on(15, 800), on(22, 700), on(28, 850)];
        let long_ago = Some(today - Duration::days(90));
        let busy = |first| busy_day(&days, first, NOW).map(|busy| busy.recipients);
        assert_eq!(busy(long_ago), Some(850));
        assert_eq!(busy(Some(today - Duration::days(21))), Some(800), "of three weeks what was reached in each");
        assert_eq!(busy(Some(today - Duration::days(20))), Some(900), "of two likewise");
        assert_eq!(busy(Some(today - Duration::days(13))), None);
        assert_eq!(busy_day(&days, long_ago, NOW).unwrap().external, 10, "each unit for itself");
        assert!(days.iter().all(|(day, _)| *day >= busy_days_since(NOW)));
    }

    #[test]
    fn nothing_is_usual_before_two_weeks_are_known() {
        assert_eq!(usual_of(&[]), None);
        assert_eq!(usual_of(&[sent(1, 0, 40)]), None);
        assert_eq!(usual_of(&[sent(2, 1, 40), sent(1, 0, 40)]), None, "two weeks are not over yet");
        assert_eq!(usual_of(&[sent(2, 0, 40), sent(1, 0, 30)]), Some(40));
        // With fewer than four weeks the highest: the second highest of two is the lower one.
        assert_eq!(usual_of(&[sent(3, 0, 40), sent(2, 0, 70), sent(1, 0, 30)]), Some(70));
        // Who sent something years ago is known for long.
        let long_ago = Some(NOW - Duration::days(400));
        assert_eq!(usual_of_many(&[], long_ago, NOW), Some(Count::default()));
        assert_eq!(usual_of_one(&[], long_ago, NOW), Some(Count::default()));
    }
}
