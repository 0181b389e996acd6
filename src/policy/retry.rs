//! When waiting mail is tried again and when it is given up (RFC 5321 §4.5.4.1).

use time::{Duration, OffsetDateTime};

/// How long mail waits before it returns to its sender.
pub const LIFETIME: Duration = Duration::days(5);

/// How long held mail waits: longer, since an administrator has to act.
pub const HELD_LIFETIME: Duration = Duration::days(7);

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
