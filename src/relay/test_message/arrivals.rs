//! Test messages that have come back: noted once, with what they say of their way. Called by `submission` for what
//! has a genuine token in its recipient.

use std::{net::IpAddr, sync::Arc};

use sqlx::PgPool;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{LOOKING, PATIENCE, seal, spf};
use crate::{
    mail::{
        EnhancedStatus, Reply,
        envelope::domain_of,
        id::{GatewayId, OrganizationId, TestMessageId},
    },
    policy::arrival::{Arrival, Signature},
    relay::resolver::Resolver,
    store::{self, test_message::Sent},
};

/// How many are looked at at a time.
const AT_A_TIME: usize = 4;

/// A message that somebody has brought for the recipient of a test message.
#[derive(Debug, Clone)]
pub struct Returned {
    pub id: TestMessageId,
    /// Our own `Received` field in front.
    pub content: Vec<u8>,
    pub client: IpAddr,
    /// The client is a server of the platform's own, which has it from somebody else.
    pub client_is_ours: bool,
}

/// Takes test messages in.
pub struct Arrivals {
    db: PgPool,
    resolver: Resolver,
    places: Semaphore,
    looking: TaskTracker,
    stop: CancellationToken,
}

impl Arrivals {
    /// What is being looked up when `stop` comes is given up.
    pub fn new(db: PgPool, resolver: Resolver, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { db, resolver, places: Semaphore::new(AT_A_TIME), looking: TaskTracker::new(), stop })
    }

    /// Notes one, and says so to whoever has brought it.
    pub async fn take(self: Arc<Self>, returned: Returned) -> Reply {
        let later = |text| Reply::new(451, EnhancedStatus(4, 3, 0), text);
        let Ok(_place) = self.places.try_acquire() else {
            return later("Other test messages come back just now, try again later");
        };
        let id = returned.id;
        let sent = match timeout(PATIENCE, store::test_message::sent_across_tenants(&self.db, id)).await {
            Ok(Ok(Some(sent))) => sent,
            Ok(Ok(None)) => {
                return Reply::new(550, EnhancedStatus(5, 1, 1), "Nobody waits for this test message any more");
            }
            Ok(Err(_)) | Err(_) => return later("The store is out of reach, try again later"),
        };
        if sent.has_arrived {
            return Reply::new(250, EnhancedStatus(2, 0, 0), "This test message has come back before");
        }
        let signature = self.signature(&sent, &returned.content).await;
        let arrival = Arrival::of(&returned.content, returned.client, returned.client_is_ours, signature);
        let noting = store::test_message::arrived_across_tenants(&self.db, sent.organization, id, &arrival);
        match timeout(PATIENCE, noting).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return later("The store is out of reach, try again later"),
        }
        tracing::info!(test_message = %id, left_from = ?arrival.left_from, "a test message has come back");
        let left_from = arrival.left_from.filter(|_| arrival.asks_dns());
        if let (Some(left_from), Some(gateway)) = (left_from, sent.gateway) {
            let arrivals = Arc::clone(&self);
            let looking = async move { arrivals.look_at_spf(sent.organization, id, gateway, left_from).await };
            self.looking.spawn(self.stop.clone().run_until_cancelled_owned(timeout(LOOKING, looking)));
        }
        Reply::new(250, EnhancedStatus(2, 0, 0), "The test message has come back")
    }

    async fn signature(&self, sent: &Sent, content: &[u8]) -> Signature {
        match (&sent.public_key, domain_of(&sent.sender), self.resolver.authenticator()) {
            (Some(key), Some(domain), Some(authenticator)) => seal::look(content, domain, key, &authenticator).await,
            _ => Signature::Removed,
        }
    }

    /// Nobody waits for it: the page says so as long as it is not there.
    async fn look_at_spf(
        &self,
        organization: OrganizationId,
        id: TestMessageId,
        gateway: GatewayId,
        left_from: IpAddr,
    ) {
        let noted = async {
            let found = spf::of_gateway(&self.db, &self.resolver, (organization, gateway), left_from).await?;
            store::test_message::add_spf_across_tenants(&self.db, organization, id, &found).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(%error, "what SPF says of a test message could not be noted");
        }
    }
}
