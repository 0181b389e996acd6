//! How much one organization may have waiting: the others' mail and the store must not suffer from a flood of one. What
//! its gateways take at once is not counted.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Queue;
use crate::{
    mail::id::OrganizationId,
    relay::{metrics::METRICS, settings::QueueLimits},
    store::{
        self,
        queue::{State, Total},
    },
};

/// Between two looks at what the whole queue holds. In between each relay counts what it commits and removes itself,
/// so what an organization has waiting is off by at most what other relays do in this time.
const LOOK: Duration = Duration::from_secs(5);
/// How long one look may take: a store may be gone without a word.
const COUNTED_WITHIN: Duration = Duration::from_secs(300);
/// Looking takes at most one part in so many of a connection's time, however long the queue is.
const SHARE: u32 = 20;

/// What each organization has in the queue, as far as is known here.
#[derive(Debug, Default)]
pub struct Room {
    limits: QueueLimits,
    /// A std lock: held for counting only, never across an await.
    taken: Mutex<HashMap<OrganizationId, Taken>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    messages: u64,
    bytes: u64,
}

/// One more message would be too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    pub messages: u64,
}

impl Room {
    pub fn new(limits: QueueLimits) -> Self {
        Self { limits, taken: Mutex::default() }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<OrganizationId, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for one message of this size, if the organization has it left.
    pub fn take(&self, organization: OrganizationId, size: i64) -> Result<(), Full> {
        let size = size.try_into().unwrap_or_default();
        let mut all = self.taken();
        let taken = all.entry(organization).or_default();
        if taken.messages >= self.limits.messages || taken.bytes.saturating_add(size) > self.limits.bytes {
            return Err(Full { messages: taken.messages });
        }
        taken.messages += 1;
        taken.bytes += size;
        Ok(())
    }

    /// A message is done.
    pub fn give_back(&self, organization: OrganizationId, size: i64) {
        if let Some(taken) = self.taken().get_mut(&organization) {
            taken.messages = taken.messages.saturating_sub(1);
            taken.bytes = taken.bytes.saturating_sub(size.try_into().unwrap_or_default());
        }
    }

    fn set(&self, totals: &[Total]) {
        let mut all: HashMap<OrganizationId, Taken> = HashMap::new();
        for total in totals {
            let taken = all.entry(total.organization).or_default();
            taken.messages += total.messages.unsigned_abs();
            taken.bytes += total.bytes.unsigned_abs();
        }
        *self.taken() = all;
    }
}

impl Queue {
    /// Looks now and then at what waits, until `stop`.
    pub(super) async fn keep_count(&self, stop: CancellationToken) {
        loop {
            let begun = Instant::now();
            match timeout(COUNTED_WITHIN, self.count()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the queue could not be counted"),
                Err(_) => tracing::debug!("the queue could not be counted in time"),
            }
            let pause = LOOK.max(begun.elapsed() * SHARE);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Counts what the whole queue holds.
    pub async fn count(&self) -> store::Result<()> {
        let totals = store::queue::totals_across_tenants(&self.shared.db).await?;
        self.shared.room.set(&totals);
        let of = |state: &dyn Fn(State) -> bool| {
            totals.iter().filter(|total| state(total.state)).map(|total| total.messages).sum()
        };
        METRICS.held.set(of(&|state| state == State::Held));
        METRICS.waiting.set(of(&|state| state != State::Held));
        METRICS.queue_bytes.set(totals.iter().map(|total| total.bytes).sum());
        let oldest = totals.iter().map(|total| total.oldest).min();
        METRICS.oldest_accepted_at.set(oldest.map_or(0, OffsetDateTime::unix_timestamp));
        Ok(())
    }
}
