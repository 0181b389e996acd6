//! The leases that this relay holds and when they end, so that those of long attempts can be renewed.
//! The rows with them are the store's; `run` renews them, and `claim` before it takes more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;

use crate::store::queue::Leased;

/// How long before its end a lease counts as ended: the store keeps times less exactly.
const ENDING: time::Duration = time::Duration::MILLISECOND;

#[derive(Debug, Default)]
pub struct Leases {
    /// A std lock: held for a look-up only, never across an await.
    held: Mutex<HashMap<Leased, OffsetDateTime>>,
}

/// A lease that is renewed until this is dropped.
#[derive(Debug)]
pub struct HeldLease {
    leases: Arc<Leases>,
    leased: Leased,
}

impl Leases {
    /// Holds one that ends at `until` in the store. Each is held once.
    pub fn hold(self: &Arc<Self>, leased: Leased, until: OffsetDateTime) -> HeldLease {
        self.held().insert(leased, until);
        HeldLease { leases: self.clone(), leased }
    }

    pub fn all(&self) -> Vec<Leased> {
        self.held().keys().copied().collect()
    }

    /// Those that have ended at `now`, as they do while the store is away or this process is paused.
    pub fn ended(&self, now: OffsetDateTime) -> Vec<Leased> {
        self.held().iter().filter(|(_, until)| **until <= now + ENDING).map(|(leased, _)| *leased).collect()
    }

    /// Notes that the store has moved the end of these.
    pub fn renewed(&self, leases: &[Leased], until: OffsetDateTime) {
        let mut held = self.held();
        for leased in leases {
            held.entry(*leased).and_modify(|end| *end = until);
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Leased, OffsetDateTime>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.held().remove(&self.leased);
    }
}
