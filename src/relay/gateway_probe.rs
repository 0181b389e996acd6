//! Finds out how gateways do that nobody sends mail to just now: now and then a relay connects, as mail would, as far as
//! signing in, and leaves again. Beside the mail; what it finds is `handover::health`'s.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    handover::{Handover, peer::PeerKey},
    routing_table::{Knowledge, RoutingTable},
};
use crate::policy::{facts::Gateway, routing::Scope};

/// Between two probes of one relay, whichever gateways they are of.
const APART: Duration = Duration::from_millis(500);
/// How many may be under way at a time: servers that hang are no hindrance to others.
const AT_A_TIME: usize = 16;
/// How often it is looked who is due.
const EVERY: Duration = Duration::from_secs(60);

/// Until `stop`; a gateway is probed when it has had neither mail nor a probe for `quiet`.
pub async fn run(handover: Arc<Handover>, table: Arc<RoutingTable>, quiet: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(EVERY.min(quiet))).await.is_some() {
        if table.knowledge(std::time::Instant::now()) == Knowledge::Usable {
            stop.run_until_cancelled(look(&handover, &table, quiet, APART, OffsetDateTime::now_utc())).await;
        }
    }
}

/// Probes those that are due at `now`, and waits for what comes of it. Returns how many.
pub async fn look(
    handover: &Arc<Handover>,
    table: &RoutingTable,
    quiet: Duration,
    apart: Duration,
    now: OffsetDateTime,
) -> usize {
    let (mut probed, probes, places) = (0, TaskTracker::new(), Arc::new(Semaphore::new(AT_A_TIME)));
    let gateways = table.gateways_in_use();
    let key = |gateway: &Arc<Gateway>| PeerKey::Gateway(gateway.organization, gateway.id, gateway.revision);
    handover.health().leave_alone_but(&gateways.iter().map(key).collect());
    for gateway in gateways {
        let peer = table.peer(&gateway, Scope::Organization);
        if !handover.health().is_quiet(&peer, quiet, now) {
            continue;
        }
        let (handover, place) = (Arc::clone(handover), Arc::clone(&places).acquire_owned().await);
        probes.spawn(async move {
            handover.probe_quietly(&peer, now).await;
            drop(place);
        });
        probed += 1;
        sleep(apart).await;
    }
    probes.close();
    probes.wait().await;
    probed
}
