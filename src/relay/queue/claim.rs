//! Takes messages for this relay: what is due, and one message for each failing gateway that may be
//! asked again.

use time::OffsetDateTime;

use super::{Entry, LEASE, Queue};
use crate::{
    policy::{
        facts::Decision,
        routing::{NextHop, Route},
    },
    relay::handover::{
        peer::{Peer, PeerKey},
        source::Source,
    },
    store::{
        self,
        queue::{QueuedMessage, Wanted},
    },
};

impl Queue {
    /// Up to `limit` messages that are due at `now`, now leased to this relay, and the probes.
    pub(super) async fn claim(&self, limit: usize, now: OffsetDateTime) -> store::Result<Vec<Entry>> {
        self.make_due_what_changed(now).await?;
        let until = now + LEASE;
        let (db, relay) = (&self.shared.db, self.shared.settings.relay);
        let mut claimed = store::queue::claim_across_tenants(db, relay, Wanted::Due(limit as i64), now, until).await?;
        for (key, ask_after) in self.shared.handover.health().failing_gateways() {
            let PeerKey::Gateway(organization, gateway, _) = key else { continue };
            let has_one = claimed.iter().any(|message| message.waits_for == Some(gateway));
            if ask_after <= now && !has_one {
                let wanted = Wanted::Probe(organization, gateway);
                claimed.extend(store::queue::claim_across_tenants(db, relay, wanted, now, until).await?);
            }
        }
        Ok(claimed.into_iter().map(|message| self.with_source(message)).collect())
    }

    fn with_source(&self, message: QueuedMessage) -> Entry {
        let source = Source::Stored {
            db: self.shared.db.clone(),
            organization: message.organization,
            id: message.id,
            size: message.size.try_into().unwrap_or_default(),
        };
        Entry { message, source }
    }

    /// Mail does not wait out its pause if what it waits for has changed: its gateway takes mail
    /// again, or its senders have another route now.
    async fn make_due_what_changed(&self, now: OffsetDateTime) -> store::Result<()> {
        let health = self.shared.handover.health();
        for (organization, gateway) in health.take_recovered() {
            store::queue::make_due(&self.shared.db, organization, gateway, None, now).await?;
        }
        for (key, _) in health.failing_gateways() {
            let PeerKey::Gateway(organization, gateway, _) = key else { continue };
            let mut senders = store::queue::senders_waiting_for(&self.shared.db, organization, gateway).await?;
            senders.retain(|sender| !self.leads_to(sender, &key));
            if !senders.is_empty() {
                store::queue::make_due(&self.shared.db, organization, gateway, Some(&senders), now).await?;
            }
        }
        Ok(())
    }

    fn leads_to(&self, sender: &str, key: &PeerKey) -> bool {
        match self.shared.table.decide(sender) {
            Decision::Route(route) => match route.route {
                Route { next_hop: NextHop::Gateway(gateway), .. } => Peer::gateway(&gateway).key == *key,
                Route { next_hop: NextHop::Platform(_), .. } => false,
            },
            _ => false,
        }
    }
}
