//! The routing facts of all tenants in memory, shared by every session and every attempt.

use std::sync::{PoisonError, RwLock};

use crate::policy::{
    facts::{Decision, RoutingFacts},
    routing::PlatformDefault,
};

/// What every route is decided from. A decision made after [`change`](Self::change) returned
/// never uses older facts: that is what confirming a revision rests on.
#[derive(Debug)]
pub struct RoutingTable {
    /// A std lock: it is held for look-ups of nanoseconds, never across an await.
    facts: RwLock<RoutingFacts>,
    default: PlatformDefault,
}

impl RoutingTable {
    pub fn new(facts: RoutingFacts, default: PlatformDefault) -> Self {
        Self { facts: RwLock::new(facts), default }
    }

    /// Where mail of this sender goes now.
    pub fn decide(&self, sender: &str) -> Decision {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).decide(sender, &self.default)
    }

    /// Changes facts, all at once for every reader.
    pub fn change(&self, apply: impl FnOnce(&mut RoutingFacts)) {
        apply(&mut self.facts.write().unwrap_or_else(PoisonError::into_inner));
    }
}
