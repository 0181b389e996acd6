//! When waiting mail and failing gateways are tried again, when its sender is told that it is late, and when mail is
//! given up (RFC 5321 §4.5.4.1). Pure functions of the operator's settings, the moment and the failures so far.

use time::{Duration, OffsetDateTime};

/// How long a gateway may take to answer the final dot before the message is tried again
/// (RFC 5321 §4.5.3.2.6): trying earlier makes duplicates.
pub const ANSWER_WAIT: Duration = Duration::minutes(10);

/// The operator's settings. Mail keeps those that held when it was accepted or held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// `OUTGATE_QUEUE_LIFETIME`: how long mail waits before it returns to its sender.
    pub lifetime: Duration,
    /// `OUTGATE_HELD_LIFETIME`: how long held mail waits: longer, since an administrator has to act.
    pub held_lifetime: Duration,
    /// `OUTGATE_DELAY_NOTICE`: after how long its sender is told that it waits; `None`: never.
    pub delay_notice: Option<Duration>,
    /// `OUTGATE_RETRY_FIRST`: between the first attempt and the second.
    pub first_retry: Duration,
    /// `OUTGATE_RETRY_LONGEST`: the longest between two attempts.
    pub longest_retry: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            lifetime: Duration::days(5),
            held_lifetime: Duration::days(7),
            delay_notice: Some(Duration::hours(4)),
            first_retry: Duration::minutes(1),
            longest_retry: Duration::hours(1),
        }
    }
}

impl Schedule {
    /// The next attempt after `attempts` failed ones: soon at first, since most troubles are short, then after twice as
    /// long each time. `spread` in 0.0..1.0 moves it by up to a tenth, so that a thousand messages that failed
    /// together do not all come back in the same second.
    pub fn next_attempt(&self, now: OffsetDateTime, attempts: u32, spread: f64) -> OffsetDateTime {
        let doublings = attempts.saturating_sub(1).min(20);
        let pause = self.first_retry.saturating_mul(1 << doublings).min(self.longest_retry);
        now + spread_out(pause, spread)
    }

    /// When the sender is to be told that a message waits; `None`: never.
    pub fn notice_at(&self, accepted_at: OffsetDateTime) -> Option<OffsetDateTime> {
        accepted_at.checked_add(self.delay_notice?)
    }

    /// No message that waits for its next attempt waits longer than until this: what does was scheduled by a clock
    /// that was ahead.
    pub fn latest_attempt(&self, now: OffsetDateTime) -> OffsetDateTime {
        now + self.longest_retry.max(Duration::HOUR) * 1.1 + ANSWER_WAIT
    }
}

/// For how long nobody asks a failing gateway: the operator's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// `OUTGATE_GATEWAY_RETRY_FIRST`: after the first failure.
    pub first: Duration,
    /// `OUTGATE_GATEWAY_RETRY_LONGEST`: however often it has failed.
    pub longest: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { first: Duration::seconds(10), longest: Duration::minutes(5) }
    }
}

impl BackOff {
    /// When a gateway that has failed `failures` times in a row is tried again, by one message for all
    /// that wait for it: twice as long each time.
    pub fn next_probe(&self, now: OffsetDateTime, failures: u32) -> OffsetDateTime {
        let doublings = failures.saturating_sub(1).min(20);
        now + self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

/// When a message looks again whether the server that it waits for takes mail: not before `until`, and
/// after a pause that grows with its age, from a minute up to `longest`.
pub fn next_look(
    now: OffsetDateTime,
    accepted_at: OffsetDateTime,
    until: Option<OffsetDateTime>,
    longest: Duration,
    spread: f64,
) -> OffsetDateTime {
    let pause = (now - accepted_at).min(longest).max(Duration::MINUTE);
    let look = now + spread_out(pause, spread);
    until.map_or(look, |until| look.max(until))
}

fn spread_out(pause: Duration, spread: f64) -> Duration {
    pause * (1.0 + spread.clamp(0.0, 1.0) / 10.0)
}
