//! The leases that this relay holds, so that those of long attempts can be renewed.
//! The rows with them are the store's; `run` renews them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

#[derive(Debug, Default)]
pub struct Leases {
    /// A std lock: held for a look-up only, never across an await.
    tokens: Mutex<HashSet<Uuid>>,
}

/// A lease that is renewed until this is dropped.
#[derive(Debug)]
pub struct HeldLease {
    leases: Arc<Leases>,
    token: Uuid,
}

impl Leases {
    pub fn hold(self: &Arc<Self>, token: Uuid) -> HeldLease {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
        HeldLease { leases: self.clone(), token }
    }

    pub fn tokens(&self) -> Vec<Uuid> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}
