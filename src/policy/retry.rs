//! When waiting mail and failing gateways are tried again, and when mail is given up (RFC 5321 §4.5.4.1).
//! Pure functions of the moment and the failures so far; the relay's queue and health ask them.

use time::{Duration, OffsetDateTime};

/// How long mail waits before it returns to its sender.
pub const LIFETIME: Duration = Duration::days(5);

/// How long held mail waits: longer, since an administrator has to act.
pub const HELD_LIFETIME: Duration = Duration::days(7);

/// How long a gateway may take to answer the final dot before the message is tried again
/// (RFC 5321 §4.5.3.2.6): trying earlier makes duplicates.
pub const ANSWER_WAIT: Duration = Duration::minutes(10);

/// The next attempt after `attempts` failed ones: soon at first, since most troubles are short,
/// then at growing distances up to an hour. `spread` in 0.0..1.0 moves it by up to a tenth, so that
/// a thousand messages that failed together do not all come back in the same second.
pub fn next_attempt(now: OffsetDateTime, attempts: u32, spread: f64) -> OffsetDateTime {
    let minutes = match attempts {
        0 | 1 => 1.0,
        2 => 2.0,
        3 => 5.0,
        4 => 10.0,
        5 => 20.0,
        6 => 40.0,
        _ => 60.0,
    };
    now + Duration::seconds_f64(minutes * 60.0 * (1.0 + spread.clamp(0.0, 1.0) / 10.0))
}

/// The longest that nobody asks a failing gateway.
pub const LONGEST_PROBE: Duration = Duration::minutes(5);

/// When a gateway that has failed `failures` times in a row is tried again, by one message for all
/// that wait for it: after ten seconds, then twice as long each time, up to five minutes.
pub fn next_probe(now: OffsetDateTime, failures: u32) -> OffsetDateTime {
    let doublings = failures.saturating_sub(1).min(5);
    now + Duration::seconds(10 << doublings).min(LONGEST_PROBE)
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
    let pause = (now - accepted_at).clamp(Duration::minutes(1), longest);
    let look = now + pause * (1.0 + spread.clamp(0.0, 1.0) / 10.0);
    until.map_or(look, |until| look.max(until))
}
