//! The leases that this relay holds, so that those of long attempts can be renewed.
//! The rows with them are the store's; `run` renews them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::store::queue::Leased;

#[derive(Debug, Default)]
pub struct Leases {
    /// A std lock: held for a look-up only, never across an await.
    held: Mutex<HashSet<Leased>>,
}

/// A lease that is renewed until this is dropped.
#[derive(Debug)]
pub struct HeldLease {
    leases: Arc<Leases>,
    leased: Leased,
}

impl Leases {
    pub fn hold(self: &Arc<Self>, leased: Leased) -> HeldLease {
        self.held().insert(leased);
        HeldLease { leases: self.clone(), leased }
    }

    pub fn all(&self) -> Vec<Leased> {
        self.held().iter().copied().collect()
    }

    fn held(&self) -> MutexGuard<'_, HashSet<Leased>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.held().remove(&self.leased);
    }
}
