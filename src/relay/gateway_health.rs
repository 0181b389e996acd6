//! Writes down how the gateways do, for the pages. Never in the path of mail; without the store it waits.
//! What is written is what `handover::health` knows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::handover::health::Health;
use crate::{
    mail::id::{GatewayId, OrganizationId, RelayId},
    store::{
        self,
        gateway_health::{Encryption, Seen},
    },
};

/// How often it is looked whether there is something to write.
const EVERY: Duration = Duration::from_secs(1);
/// How much later a gateway has to have taken mail for that alone to be written.
const LATER: time::Duration = time::Duration::seconds(10);
/// Of which gateways something may be new: as long as the last time that one took mail may wait to be written, and
/// more. After the store was away it is looked at all of them.
const RECENTLY: Duration = Duration::from_secs(60);
/// Gateways in one statement.
const STEP: usize = 1000;
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was written down, to tell what is new.
#[derive(Debug, Default)]
pub struct Written(HashMap<(OrganizationId, GatewayId), Seen>);

/// From when the relay has signed on until `stop`.
pub async fn run(pool: &PgPool, health: Arc<Health>, id: watch::Receiver<Option<RelayId>>, stop: CancellationToken) {
    let (mut written, mut known_as, mut store_answers) = (Written::default(), None, true);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let Some(relay) = *id.borrow() else { continue };
        let now = OffsetDateTime::now_utc();
        let recorded = async {
            if known_as != Some(relay) {
                store::gateway_health::forget_across_tenants(pool, relay).await?;
                (known_as, written) = (Some(relay), Written::default());
            }
            let within = if store_answers && !written.0.is_empty() { RECENTLY } else { Duration::MAX };
            record(pool, relay, &health, &mut written, now, within).await
        };
        let result = timeout(PATIENCE, recorded).await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
        if let (Err(error), true) = (&result, store_answers) {
            tracing::warn!(%error, "how gateways do is not written down until the store answers again");
        }
        store_answers = result.is_ok();
    }
}

/// Writes down what is new.
pub async fn record(
    pool: &PgPool,
    relay: RelayId,
    health: &Health,
    written: &mut Written,
    now: OffsetDateTime,
    within: Duration,
) -> store::Result<()> {
    let new: Vec<Seen> = health.seen(now, within).into_iter().filter(|seen| written.lacks(seen)).collect();
    for step in new.chunks(STEP) {
        store::gateway_health::record_across_tenants(pool, relay, step).await?;
        written.0.extend(step.iter().map(|seen| ((seen.organization, seen.gateway), seen.clone())));
    }
    Ok(())
}

impl Written {
    /// That a gateway takes mail as before is told every few seconds, everything else at once.
    fn lacks(&self, seen: &Seen) -> bool {
        let Some(before) = self.0.get(&(seen.organization, seen.gateway)) else { return true };
        let encryption = Encryption { encrypted_at: before.encryption.encrypted_at, ..seen.encryption };
        let as_before = Seen {
            last_accepted_at: before.last_accepted_at,
            throughput: before.throughput,
            encryption,
            ..seen.clone()
        };
        let is_much_later = |before: Option<OffsetDateTime>, now: Option<OffsetDateTime>| match (before, now) {
            (Some(before), Some(now)) => now - before >= LATER,
            (before, now) => before != now,
        };
        *before != as_before
            || is_much_later(before.last_accepted_at, seen.last_accepted_at)
            || is_much_later(before.encryption.encrypted_at, seen.encryption.encrypted_at)
    }
}
