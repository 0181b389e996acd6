//! Watches the clock of this machine beside one that only runs forward: mail is not given up, and not forgotten,
//! because somebody has set the time.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use time::{Duration, OffsetDateTime};

/// How far both may be apart: clocks are slowed and hurried all the time.
const TOLERANCE: Duration = Duration::minutes(2);
/// After a start, and after a jump, nothing is given up for so long. Everybody who can take mail is asked meanwhile.
const SETTLING: Duration = Duration::minutes(15);

/// Looked at by the queue's loop; steps that tests make do not look.
#[derive(Debug, Default)]
pub struct ClockWatch {
    /// A std lock: held for a look only, never across an await.
    seen: Mutex<Option<Seen>>,
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

    /// Whether it has run long enough without a jump to give mail up by it.
    pub fn is_steady(&self, at: Instant) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_none_or(|seen| at.saturating_duration_since(seen.steady_since) >= SETTLING)
    }
}
