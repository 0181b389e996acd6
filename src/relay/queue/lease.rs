//! The leases that this relay holds and when they end, so that those of long attempts can be renewed.
//! The rows with them are the store's; `run` renews them, and `claim` before it takes more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use crate::store::queue::Leased;

/// Between two renewals, unless leases are short.
const LONGEST_RENEWAL_PAUSE: Duration = Duration::from_secs(20);
/// How long before its end a lease counts as ended: the store keeps times less exactly.
const ENDING: time::Duration = time::Duration::MILLISECOND;

#[derive(Debug, Default)]
pub struct Leases {
    /// A std lock: held for a look-up only, never across an await.
    held: Mutex<HashMap<Leased, End>>,
}

/// When a lease ends.
#[derive(Debug, Clone, Copy)]
struct End {
    at: OffsetDateTime,
    /// How far the time by which that was said is ahead of this machine's clock: as the store's is, and where time is
    /// passed in.
    ahead: time::Duration,
}

impl End {
    fn at(at: OffsetDateTime, now: OffsetDateTime) -> Self {
        Self { at, ahead: now - OffsetDateTime::now_utc() }
    }

    /// By the clock, which goes on while this process or its machine is paused.
    fn is_over(self) -> bool {
        self.at <= OffsetDateTime::now_utc() + self.ahead
    }
}

/// How this relay could reach the store of late. While nobody could, leases have ended whose messages are still under
/// way: they are not taken over before their holders had the time to renew them.
#[derive(Debug, Default, Clone, Copy)]
pub enum Reach {
    #[default]
    Lost,
    /// It answers again since then.
    Back(OffsetDateTime),
    /// It answered then, as often as it was asked.
    Steady(Instant),
}

impl Reach {
    /// To be called when the store is asked, at `asked` by the clock that never jumps and at `now` by the other.
    /// Returns whether leases of others count as they stand.
    pub fn is_steady(&mut self, lease: Duration, asked: Instant, now: OffsetDateTime) -> bool {
        *self = match *self {
            Self::Lost => Self::Back(now),
            Self::Steady(last) if asked.saturating_duration_since(last) > lease / 4 * 3 => Self::Back(now),
            Self::Back(since) if now - since < renewal_pause(lease) * 2 => Self::Back(since),
            Self::Back(_) | Self::Steady(_) => Self::Steady(asked),
        };
        matches!(self, Self::Steady(_))
    }
}

/// How often leases are renewed.
pub fn renewal_pause(lease: Duration) -> Duration {
    LONGEST_RENEWAL_PAUSE.min(lease / 4)
}

/// A lease that is renewed until this is dropped.
#[derive(Debug)]
pub struct HeldLease {
    leases: Arc<Leases>,
    leased: Leased,
}

impl Leases {
    /// Holds one that ends at `until` in the store, as was said at `now`. Each is held once.
    pub fn hold(self: &Arc<Self>, leased: Leased, until: OffsetDateTime, now: OffsetDateTime) -> HeldLease {
        self.held().insert(leased, End::at(until, now));
        HeldLease { leases: self.clone(), leased }
    }

    pub fn all(&self) -> Vec<Leased> {
        self.held().keys().copied().collect()
    }

    /// Those that have ended at `now`, as they do while the store is away or this process is paused.
    pub fn ended(&self, now: OffsetDateTime) -> Vec<Leased> {
        self.held().iter().filter(|(_, end)| end.at <= now + ENDING).map(|(leased, _)| *leased).collect()
    }

    /// Whether this one has ended by now: another relay may have the message.
    pub fn has_ended(&self, leased: &Leased) -> bool {
        self.held().get(leased).is_some_and(|end| end.is_over())
    }

    /// Notes that the store has moved the end of these.
    pub fn renewed(&self, leases: &[Leased], until: OffsetDateTime, now: OffsetDateTime) {
        let mut held = self.held();
        for leased in leases {
            held.entry(*leased).and_modify(|end| *end = End::at(until, now));
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Leased, End>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.held().remove(&self.leased);
    }
}
