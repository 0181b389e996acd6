//! A relay's memory that follows a test's store, on connections as the relay has them.
//! For tests of following alone, without listeners or gateways.

use std::{sync::Arc, time::Duration};

use outgate::{
    mail::id::{RelayId, Revision},
    policy::routing::PlatformDefault,
    relay::{
        follow::{self, FollowError, KnownAs},
        routing_table::RoutingTable,
    },
    store::change::Progress,
};
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::Installation;

const FOLLOW_WAIT: Duration = Duration::from_secs(20);

pub struct Following {
    pub table: Arc<RoutingTable>,
    pub stop: CancellationToken,
    pub signed_on: watch::Receiver<Option<RelayId>>,
    pub running: JoinHandle<Result<(), FollowError>>,
}

impl Following {
    /// Starts under a name, and waits for nothing.
    pub async fn start(installation: &Installation, name: &'static str) -> Self {
        Self::on(installation.relay_pool().await, name)
    }

    /// The same; the pool says how to connect.
    pub fn on(pool: PgPool, name: &'static str) -> Self {
        let table = Arc::new(RoutingTable::following(PlatformDefault::Mx, Duration::from_secs(3600)));
        let stop = CancellationToken::new();
        let (sender, signed_on) = watch::channel(None);
        let (followed, token) = (Arc::clone(&table), stop.clone());
        let running = tokio::spawn(async move {
            follow::run(KnownAs { name, outbound: &[], hands_over: true }, &pool, &followed, &sender, token).await
        });
        Self { table, stop, signed_on, running }
    }

    /// Waits until the memory has the store's latest revision and the relay has confirmed it.
    pub async fn until_live(&self, installation: &Installation) -> Progress {
        let latest = installation.latest_revision().await;
        let mut applied = self.table.applied();
        timeout(FOLLOW_WAIT, applied.wait_for(|applied| *applied >= Some(latest))).await.expect("is applied").unwrap();
        let confirmed = async {
            loop {
                let live = installation.live(latest).await;
                if live.confirmed == live.relays {
                    return live;
                }
            }
        };
        timeout(FOLLOW_WAIT, confirmed).await.expect("is confirmed")
    }

    /// Stops it in good order.
    pub async fn stop(self) {
        self.stop.cancel();
        timeout(FOLLOW_WAIT, self.running).await.expect("it ends").unwrap().unwrap();
    }
}

impl Installation {
    pub async fn latest_revision(&self) -> Revision {
        Revision(sqlx::query_scalar("select revision from installation").fetch_one(&self.owner).await.unwrap())
    }

    pub async fn live(&self, revision: Revision) -> Progress {
        let mut db = self.owner.acquire().await.unwrap();
        outgate::store::change::progress(&mut db, revision).await.unwrap()
    }
}
