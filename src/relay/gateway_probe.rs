//! Finds out how gateways do that nobody sends mail to just now: now and then a relay connects, as mail would, as far as
//! signing in, and leaves again. Beside the mail; what it finds is `handover::health`'s.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    handover::{
        Handover,
        peer::{Peer, PeerKey},
    },
    routing_table::{Knowledge, RoutingTable},
};
use crate::policy::{facts::Gateway, routing::Scope};

/// Between two probes of one relay, whichever gateways they are of.
const APART: Duration = Duration::from_millis(500);
/// How many may be under way at a time.
const AT_A_TIME: usize = 16;
/// A server that takes longer gives its place to others, and is waited for beside them, as patiently as mail would.
const PROMPT: Duration = Duration::from_secs(60);
/// How many are waited for so. Of one more nothing is known: it may still take mail.
const SLOW: usize = 256;
/// How often it is looked who is due.
const EVERY: Duration = Duration::from_secs(60);

/// Until `stop`; a gateway is probed when it has had neither mail nor a probe for `quiet`.
pub async fn run(handover: Arc<Handover>, table: Arc<RoutingTable>, quiet: Duration, stop: CancellationToken) {
    let prober = Prober::new(handover, PROMPT);
    while stop.run_until_cancelled(sleep(EVERY.min(quiet))).await.is_some() {
        if table.knowledge(std::time::Instant::now()) == Knowledge::Usable {
            stop.run_until_cancelled(prober.look(&table, quiet, APART, OffsetDateTime::now_utc())).await;
        }
    }
}

/// Probes gateways. Those that hang keep nobody from being probed.
pub struct Prober {
    handover: Arc<Handover>,
    /// After so long a server counts as slow.
    prompt: Duration,
    places: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    /// A std lock: held for a moment.
    under_way: Arc<Mutex<HashSet<PeerKey>>>,
    probes: TaskTracker,
}

impl Prober {
    pub fn new(handover: Arc<Handover>, prompt: Duration) -> Self {
        Self {
            handover,
            prompt,
            places: Arc::new(Semaphore::new(AT_A_TIME)),
            slow: Arc::new(Semaphore::new(SLOW)),
            under_way: Arc::default(),
            probes: TaskTracker::new(),
        }
    }

    /// Begins to probe those that are due at `now`. Returns how many.
    pub async fn look(&self, table: &RoutingTable, quiet: Duration, apart: Duration, now: OffsetDateTime) -> usize {
        let mut probed = 0;
        let gateways = table.gateways_in_use();
        let key = |gateway: &Arc<Gateway>| PeerKey::Gateway(gateway.organization, gateway.id, gateway.revision);
        self.handover.health().leave_alone_but(&gateways.iter().map(key).collect());
        for gateway in gateways {
            let peer = table.peer(&gateway, Scope::Organization);
            let is_due = self.handover.health().is_quiet(&peer, quiet, now);
            if !is_due || !lock(&self.under_way).insert(peer.key.clone()) {
                continue;
            }
            self.probe(peer, now).await;
            probed += 1;
            sleep(apart).await;
        }
        probed
    }

    /// Until nothing is under way any more.
    pub async fn wait(&self) {
        self.probes.close();
        self.probes.wait().await;
        self.probes.reopen();
    }

    /// Begins when there is a place.
    async fn probe(&self, peer: Peer, now: OffsetDateTime) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let (handover, prompt) = (Arc::clone(&self.handover), self.prompt);
        let (slow, under_way) = (Arc::clone(&self.slow), Arc::clone(&self.under_way));
        self.probes.spawn(async move {
            {
                let mut probing = std::pin::pin!(handover.probe_quietly(&peer, now));
                if timeout(prompt, &mut probing).await.is_err() {
                    drop(place);
                    match slow.try_acquire() {
                        Ok(_one_of_the_slow) => probing.await,
                        Err(_) => handover.health().looked_at(&peer),
                    }
                }
            }
            lock(&under_way).remove(&peer.key);
        });
    }
}

fn lock(under_way: &Mutex<HashSet<PeerKey>>) -> MutexGuard<'_, HashSet<PeerKey>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
