//! What a limit would have done to mail of the past, told before it is saved: by the counts that are kept of minutes and
//! hours, and as exactly as those allow. The store finds whom it would have been about.

use std::{cmp::Reverse, collections::VecDeque};

use time::{Duration, OffsetDateTime};

use super::{
    correspondents::Correspondents,
    limit::{Action, Kind, Whose, Window, quiet, unusual_beyond},
    usual::{WEEKS, usual_of_many, usual_of_one},
    volume::{Count, MINUTES_KEPT, start_of},
};

/// How far is looked back.
pub const LOOKED_BACK: Duration = Duration::days(30);

/// How many of those are named whom a limit would have held up most.
pub const NAMED: usize = 10;

/// From when on the counts are asked that a limit of this window is tried with: minutes are kept for a day only.
pub fn since(window: Window, now: OffsetDateTime) -> OffsetDateTime {
    match window {
        Window::Minute => now - MINUTES_KEPT,
        _ => start_of(Duration::HOUR, now) - LOOKED_BACK,
    }
}

/// From when on the counts are needed for that: what is usual is found from the weeks before.
pub fn counts_since(window: Window, now: OffsetDateTime) -> OffsetDateTime {
    match window {
        Window::Usual => since(window, now) - Duration::weeks(WEEKS.into()) - Duration::HOUR,
        _ => since(window, now),
    }
}

/// What a limit would have done to one sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trial {
    /// In how many minutes, hours or days (UTC), by the limit's window, more was sent than it allows.
    pub times: i64,
    /// How many messages were beyond it; recipients, of a limit of those who are written to for the first time.
    pub messages: i64,
}

/// What one sender has sent: by the minute for a limit by the minute, else by the hour, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// When it began to send, as far as is kept.
    pub first: Option<OffsetDateTime>,
    pub counts: Vec<(OffsetDateTime, Count)>,
}

impl Sent {
    /// How many were allowed at that time, if anything was limited.
    fn allowed(&self, kind: Kind, most: u32, at: OffsetDateTime) -> Option<i64> {
        let allowed = match kind.window {
            Window::Usual => {
                let usual = if kind.whose == Whose::Total { usual_of_many } else { usual_of_one };
                unusual_beyond(kind, most, usual(&self.counts, self.first, at)?.get(kind.unit))
            }
            _ => most,
        };
        Some(allowed.into())
    }
}

/// Tries a limit with what one sender has sent from `since` on. What would have been refused does not count for what comes
/// later; what would have waited, or gone its way, counts as it would have.
pub fn trial(kind: Kind, (most, action): (u32, Action), sent: &Sent, since: OffsetDateTime) -> Trial {
    let length = kind.window.length();
    let mut taken: VecDeque<(OffsetDateTime, i64)> = VecDeque::new();
    let (mut within, mut exceeded_last) = (0, None);
    let mut trial = Trial::default();
    for (at, count) in sent.counts.iter().copied().filter(|(at, _)| *at >= since) {
        while let Some((_, left)) = taken.pop_front_if(|(before, _)| *before <= at - length) {
            within -= left;
        }
        let wanted = count.get(kind.unit).max(0);
        let surely = if kind.window == Window::Usual { quiet(most) } else { most };
        let left = match within + wanted <= i64::from(surely) {
            true => wanted,
            false => sent.allowed(kind, most, at).map_or(wanted, |allowed| (allowed - within).max(0)),
        };
        let allowed = wanted.min(left);
        let accepted = if matches!(action, Action::Defer | Action::Refuse) { allowed } else { wanted };
        taken.push_back((at, accepted));
        within += accepted;
        if wanted > allowed {
            trial.messages += share(count.messages, wanted - allowed, wanted);
            let when = Some(start_of(length, at));
            trial.times += i64::from(when != exceeded_last);
            exceeded_last = when;
        }
    }
    trial
}

/// Tries a limit of those who are written to for the first time with whom an account has written to from `since` on, as
/// far as that was known `from` then on, day by day (UTC). Told is how many recipients were beyond it.
pub fn first_time(most: u32, known: &Correspondents, from: OffsetDateTime, since: OffsetDateTime) -> Trial {
    let days = known.first_by_day(since.max(from)).into_values();
    days.map(|first| first - i64::from(most))
        .filter(|beyond| *beyond > 0)
        .fold(Trial::default(), |trial, beyond| Trial { times: trial.times + 1, messages: trial.messages + beyond })
}

/// How many of the messages that surplus is: a message that is beyond the limit in part is beyond it.
fn share(messages: i64, surplus: i64, of: i64) -> i64 {
    let (messages, surplus, of) = (i128::from(messages.max(0)), i128::from(surplus), i128::from(of.max(1)));
    i64::try_from((messages * surplus + of - 1) / of).unwrap_or(i64::MAX)
}

/// What a limit would have done to all whom it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trials<Sender> {
    /// How many would have exceeded it.
    pub senders: i64,
    pub total: Trial,
    /// Those with most messages beyond it, and they first.
    pub most: Vec<(Sender, Trial)>,
}

impl<Sender> Default for Trials<Sender> {
    fn default() -> Self {
        Self { senders: 0, total: Trial::default(), most: Vec::new() }
    }
}

impl<Sender> Trials<Sender> {
    /// Counts one sender; who would not have exceeded the limit is not counted.
    pub fn add(&mut self, sender: Sender, trial: Trial) {
        if trial.times == 0 {
            return;
        }
        self.senders += 1;
        self.total.times += trial.times;
        self.total.messages += trial.messages;
        let place = self.most.partition_point(|(_, other)| Reverse(other.messages) <= Reverse(trial.messages));
        if place < NAMED {
            self.most.insert(place, (sender, trial));
            self.most.truncate(NAMED);
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::{
        mail::id::AccountId,
        policy::{
            correspondents::{Print, Written},
            volume::Unit,
        },
    };

    const START: OffsetDateTime = datetime!(2026-11-02 09:00 UTC);

    fn kind(window: Window, unit: Unit) -> Kind {
        Kind { whose: Whose::Each, window, unit }
    }

    fn tried(kind: Kind, most: u32, counts: impl IntoIterator<Item = (OffsetDateTime, Count)>) -> Trial {
        acting(kind, (most, Action::Refuse), counts)
    }

    fn acting(kind: Kind, limit: (u32, Action), counts: impl IntoIterator<Item = (OffsetDateTime, Count)>) -> Trial {
        let counts: Vec<_> = counts.into_iter().collect();
        trial(kind, limit, &Sent { first: counts.first().map(|(at, _)| *at), counts }, START)
    }

    /// So many messages to two recipients each, one of them external, so many hours later.
    fn sent(hours: i64, messages: i64) -> (OffsetDateTime, Count) {
        (START + Duration::hours(hours), Count { messages, recipients: 2 * messages, external: messages })
    }

    #[test]
    fn each_hour_is_looked_at_for_itself_and_what_is_beyond_is_told_in_messages() {
        let counts = [sent(0, 50), sent(1, 51), sent(2, 10), sent(30, 500)];
        let limit = kind(Window::Hour, Unit::Recipients);
        assert_eq!(tried(limit, 100, counts), Trial { times: 2, messages: 1 + 450 });
        assert_eq!(tried(limit, 1000, counts), Trial::default());
        assert_eq!(tried(limit, 101, [sent(0, 51)]), Trial { times: 1, messages: 1 }, "in part is beyond it");
        assert_eq!(tried(kind(Window::Hour, Unit::Messages), 50, counts), Trial { times: 2, messages: 451 });
        assert_eq!(tried(limit, 1, []), Trial::default());
    }

    #[test]
    fn a_day_is_any_twenty_four_hours_and_what_was_refused_does_not_count_for_later() {
        let limit = kind(Window::Day, Unit::Messages);
        // 15 hours later it is the next day by the clock, and within the same 24 hours.
        let over_midnight = [sent(0, 80), sent(15, 40)];
        assert_eq!(tried(limit, 100, over_midnight), Trial { times: 1, messages: 20 });
        assert_eq!(tried(limit, 100, [sent(0, 80), sent(24, 40)]), Trial::default());
        // 900 of the first are beyond it: after a day nothing of it counts.
        assert_eq!(tried(limit, 100, [sent(0, 1000), sent(24, 100)]), Trial { times: 1, messages: 900 });
        // A day after the first nothing is left of it, and all that was taken of what came ten hours later.
        let busy = [sent(0, 80), sent(10, 1000), sent(25, 80)];
        for action in Action::ALL {
            let of_the_last = if matches!(action, Action::Defer | Action::Refuse) { 0 } else { 80 };
            let times = if of_the_last > 0 { 2 } else { 1 };
            let expected = Trial { times, messages: 980 + of_the_last };
            assert_eq!(acting(limit, (100, action), busy), expected, "{action}");
        }
        // Two hours of one day are one day.
        assert_eq!(tried(limit, 100, [sent(0, 150), sent(1, 10)]), Trial { times: 1, messages: 60 });
    }

    #[test]
    fn what_is_usual_is_found_from_the_weeks_before_and_only_what_is_beyond_it_is_unusual() {
        let limit = kind(Window::Usual, Unit::Recipients);
        let week = 7 * 24;
        // 100 recipients each Monday at nine, then 390, then 410; at night nothing is usual, and 40 are allowed.
        let mut counts: Vec<_> = (-4..=-1).map(|weeks| sent(weeks * week, 50)).collect();
        counts.extend([sent(0, 195), sent(12, 60), sent(week, 205)]);
        assert_eq!(tried(limit, 100, counts.clone()), Trial { times: 2, messages: 40 + 5 });
        assert_eq!(tried(limit, 500, counts.clone()), Trial::default());
        // Whom nobody knows yet nobody calls unusual.
        let new = Sent { first: Some(START - Duration::days(3)), counts };
        assert_eq!(trial(limit, (100, Action::Delay), &new, START).times, 0);
        assert_eq!(counts_since(Window::Usual, START), since(Window::Usual, START) - Duration::hours(4 * week + 1));
    }

    #[test]
    fn a_busy_day_at_that_time_is_usual_of_each_and_not_of_all_together() {
        let each = kind(Window::Usual, Unit::Recipients);
        let week = 7 * 24;
        // 30 each Monday at nine and 300 each Tuesday, then 250 on a Monday.
        let mondays = (-4..=-1).map(|weeks| sent(weeks * week, 30));
        let mut counts: Vec<_> = mondays.chain((-4..=-1).map(|weeks| sent(weeks * week + 24, 300))).collect();
        counts.sort_by_key(|(at, _)| *at);
        counts.push(sent(0, 250));
        assert_eq!(tried(each, 40, counts.clone()), Trial::default());
        assert!(tried(Kind { whose: Whose::Total, ..each }, 40, counts).messages > 0);
    }

    #[test]
    fn who_was_written_to_for_the_first_time_is_counted_by_the_day_from_when_it_was_known() {
        let mut known = Correspondents::default();
        for (day, many) in [(0, 30), (1, 10), (2, 25)] {
            let at = START + Duration::days(day);
            let print = |place| Print::of(AccountId(uuid::Uuid::nil()), &format!("r{day}.{place}@elsewhere.example"));
            known.write((0..many).map(|place| Written::new(print(place), at)));
        }
        let long_ago = START - Duration::days(90);
        assert_eq!(first_time(20, &known, long_ago, START), Trial { times: 2, messages: 15 });
        assert_eq!(first_time(20, &known, START + Duration::DAY, START), Trial { times: 1, messages: 5 });
        assert_eq!(first_time(30, &known, long_ago, START), Trial::default());
    }

    #[test]
    fn those_are_named_who_would_have_been_held_up_most() {
        let mut trials = Trials::default();
        for sender in 0..25 {
            trials.add(sender, Trial { times: 1, messages: sender % 13 });
        }
        trials.add(99, Trial::default());
        assert_eq!((trials.senders, trials.total.times), (25, 25));
        let named: Vec<_> = trials.most.iter().map(|(sender, _)| *sender).collect();
        assert_eq!(named, [12, 11, 24, 10, 23, 9, 22, 8, 21, 7]);
    }

    #[test]
    fn minutes_are_looked_at_for_a_day_and_hours_for_thirty() {
        assert_eq!(since(Window::Minute, START), START - Duration::DAY);
        assert_eq!(since(Window::Day, START + Duration::minutes(59)), START - Duration::days(30));
    }
}
