//! Looks up what SPF says of test messages whose source somebody has pasted from a mailbox: pages read the source, and
//! have no DNS.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{LOOKING, PATIENCE, spf};
use crate::{
    policy::arrival::SenderPolicies,
    relay::resolver::Resolver,
    store::{self, test_message::ToLookAt},
};

/// How often it is looked whether there is one.
const EVERY: Duration = Duration::from_secs(2);
/// How many are looked at at a time.
const AT_A_TIME: usize = 4;

/// Looks at what was pasted.
pub struct Pasted {
    db: PgPool,
    resolver: Resolver,
    looking: TaskTracker,
}

impl Pasted {
    pub fn new(db: PgPool, resolver: Resolver) -> Arc<Self> {
        Arc::new(Self { db, resolver, looking: TaskTracker::new() })
    }

    /// Until `stop`; what is being looked up then another relay looks up.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.begin(&stop)).await {
                tracing::warn!(%error, "test messages in mailboxes are not looked at");
            }
        }
    }

    /// Looks at what waits for it, and waits for what comes of it. Returns how many there were.
    pub async fn step(self: &Arc<Self>) -> store::Result<usize> {
        let begun = self.begin(&CancellationToken::new()).await;
        self.looking.close();
        self.looking.wait().await;
        self.looking.reopen();
        begun
    }

    async fn begin(self: &Arc<Self>, stop: &CancellationToken) -> store::Result<usize> {
        let most = AT_A_TIME.saturating_sub(self.looking.len()) as i64;
        let taking = store::test_message::take_pasted_across_tenants(&self.db, most);
        let taken = timeout(PATIENCE, taking).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        let begun = taken.len();
        for one in taken {
            let pasted = Arc::clone(self);
            let looking = async move { timeout(LOOKING, pasted.look(&one)).await };
            self.looking.spawn(stop.clone().run_until_cancelled_owned(looking));
        }
        Ok(begun)
    }

    async fn look(&self, one: &ToLookAt) {
        let noted = async {
            let found = match (one.gateway, one.left_from) {
                (Some(gateway), Some(left_from)) => {
                    spf::of_gateway(&self.db, &self.resolver, (one.organization, gateway), left_from).await?
                }
                _ => SenderPolicies::default(),
            };
            store::test_message::looked_at_across_tenants(&self.db, one, &found).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(%error, "what SPF says of a test message could not be noted");
        }
    }
}
