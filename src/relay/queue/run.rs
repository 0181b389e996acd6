//! The queue at work: claims when something is due, renews leases, and gives them back at the end.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{AttemptPermit, LEASE, Queue};
use crate::store;

/// The longest sleep: what another relay committed is found without being told.
const LONGEST: Duration = Duration::from_secs(30);
/// As long as a gateway is failing.
const WHILE_FAILING: Duration = Duration::from_secs(5);
/// Between two looks at messages that another relay is just taking.
const SHORTEST: Duration = Duration::from_millis(200);
/// After the store could not be asked.
const STORE_AWAY: Duration = Duration::from_secs(1);
/// How often leases are renewed and idle connections closed.
const UPKEEP: Duration = Duration::from_secs(20);
/// How long attempts under way may take to end when the relay stops.
const GRACE: Duration = Duration::from_secs(25);

impl Queue {
    /// Works until `stop`; then ends what is under way, within a bound, and gives the rest back.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::join!(self.deliver(stop.clone()), self.upkeep(stop));
        self.shared.tasks.close();
        if timeout(GRACE, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(attempts = self.shared.tasks.len(), "attempts did not end in time");
        }
        self.shared.handover.pool().close().await;
        self.release(&[]).await;
    }

    async fn deliver(&self, stop: CancellationToken) {
        while !stop.is_cancelled() && !self.take_up().await {
            sleep(STORE_AWAY).await;
        }
        while !stop.is_cancelled() {
            let pause = self.turn().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the queue could not be asked");
                STORE_AWAY
            });
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.shared.wake.notified() => {}
                () = self.shared.handover.health().recovery() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Begins where the previous life of this relay ended: what it had is nobody's, and what its
    /// failing gateways were is not known. Returns whether the store has done it.
    async fn take_up(&self) -> bool {
        let released = self.release(&self.shared.leases.tokens()).await;
        let due = store::queue::make_all_due_across_tenants(&self.shared.db, OffsetDateTime::now_utc()).await;
        released && due.inspect_err(|error| tracing::warn!(%error, "waiting mail could not be made due")).is_ok()
    }

    /// Starts as many attempts as may be under way. Returns how long there is nothing more to do.
    async fn turn(&self) -> store::Result<Duration> {
        let now = OffsetDateTime::now_utc();
        let free = self.shared.attempts.available_permits();
        if free == 0 {
            return Ok(LONGEST);
        }
        let claimed = self.claim(free, now).await?;
        for entry in claimed {
            // Probes may be one more than was free.
            let Ok(permit) = self.shared.attempts.clone().acquire_owned().await else { continue };
            self.attempt_now(entry, AttemptPermit(permit), now);
        }
        let due = store::queue::next_due_across_tenants(&self.shared.db).await?;
        let pause = due.map_or(LONGEST, |due| (due - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO));
        let failing = !self.shared.handover.health().failing_gateways().is_empty();
        Ok(pause.clamp(SHORTEST, if failing { WHILE_FAILING } else { LONGEST }))
    }

    async fn upkeep(&self, stop: CancellationToken) {
        let mut ticks = interval(UPKEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.shared.handover.pool().sweep(std::time::Instant::now()).await;
            let tokens = self.shared.leases.tokens();
            if tokens.is_empty() {
                continue;
            }
            let until = OffsetDateTime::now_utc() + LEASE;
            let (db, relay) = (&self.shared.db, self.shared.settings.relay);
            if let Err(error) = store::queue::renew_across_tenants(db, relay, &tokens, until).await {
                tracing::warn!(%error, leases = tokens.len(), "leases could not be renewed");
            }
        }
    }

    /// Gives back the leases that this relay has in the store, except those of what is under way.
    /// Returns whether the store has done it.
    async fn release(&self, except: &[Uuid]) -> bool {
        let now = OffsetDateTime::now_utc();
        let (db, relay) = (&self.shared.db, self.shared.settings.relay);
        match store::queue::release_across_tenants(db, relay, except, now).await {
            Ok(messages) => {
                tracing::info!(messages, "leases given back");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be given back");
                false
            }
        }
    }
}
