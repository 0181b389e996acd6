//! Watches the clock of this machine beside one that only runs forward: mail is not given up, and not forgotten,
//! because somebody has set the time.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use time::{Duration, OffsetDateTime};

/// How far both may be apart: clocks are slowed and hurried all the time.
const TOLERANCE: Duration = Duration::minutes(2);
/// After a start, and after a jump, nothing is given up for so long. Everybody who can take mail is asked meanwhile.
const SETTLING: Duration = Duration::minutes(15);

/// A difference to the store's clock that is none: as long as the store may take to answer.
const NOTHING: Duration = Duration::seconds(1);
/// One that somebody should know of.
const WORTH_TELLING: Duration = Duration::seconds(5);

/// Looked at by the queue's loop; steps that tests make do not look.
#[derive(Debug, Default)]
pub struct ClockWatch {
    /// A std lock: held for a look only, never across an await.
    seen: Mutex<Option<Seen>>,
    /// How far the store's clock is ahead of this one, in milliseconds; less than none where it is behind.
    store_ahead: AtomicI64,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    time: OffsetDateTime,
    steady_since: Instant,
}

/// What somebody has done to the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    Forward(Duration),
    Backward(Duration),
}

impl ClockWatch {
    /// Whether the clock has jumped since the last look.
    pub fn look(&self, at: Instant, time: OffsetDateTime) -> Option<Jump> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let jump = seen.and_then(|seen| {
            let ahead =
                (time - seen.time) - Duration::try_from(at.saturating_duration_since(seen.at)).unwrap_or_default();
            match ahead {
                ahead if ahead > TOLERANCE => Some(Jump::Forward(ahead)),
                ahead if ahead < -TOLERANCE => Some(Jump::Backward(-ahead)),
                _ => None,
            }
        });
        let steady_since = seen.filter(|_| jump.is_none()).map_or(at, |seen| seen.steady_since);
        *seen = Some(Seen { at, time, steady_since });
        jump
    }

    /// Notes that the store's clock stood at `theirs` between two looks at this one. Returns how far it is ahead, if that is
    /// more than clocks that are kept differ by and was not so before.
    pub fn compare(&self, theirs: OffsetDateTime, ours: (OffsetDateTime, OffsetDateTime)) -> Option<Duration> {
        let ahead: Duration = theirs - (ours.0 + (ours.1 - ours.0) / 2);
        let ahead = if ahead.abs() < NOTHING { Duration::ZERO } else { ahead };
        let milliseconds = ahead.whole_milliseconds().try_into().unwrap_or_default();
        let before = Duration::milliseconds(self.store_ahead.swap(milliseconds, Ordering::Relaxed));
        (ahead.abs() >= WORTH_TELLING && before.abs() < WORTH_TELLING).then_some(ahead)
    }

    /// How far the store's clock is ahead of this one. Leases are kept in the store's time, which all relays share.
    pub fn store_ahead(&self) -> Duration {
        Duration::milliseconds(self.store_ahead.load(Ordering::Relaxed))
    }

    /// Whether it has run long enough without a jump to give mail up by it.
    pub fn is_steady(&self, at: Instant) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_none_or(|seen| at.saturating_duration_since(seen.steady_since) >= SETTLING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_differs_from_the_stores_is_told_once_and_reckoned_with() {
        let (watch, now) = (ClockWatch::default(), OffsetDateTime::UNIX_EPOCH + Duration::days(20_000));
        let at = |ahead: Duration| watch.compare(now + ahead, (now - Duration::SECOND, now + Duration::SECOND));
        assert_eq!(at(Duration::milliseconds(400)), None);
        assert_eq!(watch.store_ahead(), Duration::ZERO, "as much as the answer may have taken");
        assert_eq!(at(-Duration::minutes(3)), Some(-Duration::minutes(3)));
        assert_eq!(at(-Duration::minutes(3)), None, "that is known");
        assert_eq!(watch.store_ahead(), -Duration::minutes(3));
        assert_eq!(at(Duration::ZERO), None);
        assert_eq!(watch.store_ahead(), Duration::ZERO);
    }
}
