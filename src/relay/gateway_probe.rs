//! Finds out how gateways do that nobody sends mail to just now: now and then a relay connects, as mail would, as far as
//! signing in, and leaves again. Beside the mail; what it finds is `handover::health`'s.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    handover::Handover,
    routing_table::{Knowledge, RoutingTable},
};
use crate::policy::routing::Scope;

/// Between two probes of one relay, whichever gateways they are of.
const APART: Duration = Duration::from_millis(500);
/// How often it is looked who is due.
const EVERY: Duration = Duration::from_secs(30);

/// Until `stop`; a gateway is probed when it has had neither mail nor a probe for `quiet`.
pub async fn run(handover: Arc<Handover>, table: Arc<RoutingTable>, quiet: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(EVERY.min(quiet))).await.is_some() {
        if table.knowledge(std::time::Instant::now()) == Knowledge::Usable {
            stop.run_until_cancelled(look(&handover, &table, quiet, APART, OffsetDateTime::now_utc())).await;
        }
    }
}

/// Probes those that are due at `now`, one after the other. Returns how many.
pub async fn look(
    handover: &Handover,
    table: &RoutingTable,
    quiet: Duration,
    apart: Duration,
    now: OffsetDateTime,
) -> usize {
    let mut probed = 0;
    for gateway in table.gateways_in_use() {
        let peer = table.peer(&gateway, Scope::Organization);
        if !handover.health().is_quiet(&peer, quiet, now) {
            continue;
        }
        handover.probe_quietly(&peer, now).await;
        probed += 1;
        sleep(apart).await;
    }
    probed
}
