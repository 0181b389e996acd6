//! Takes messages for this relay: what is due, and one message for each failing gateway that may be
//! asked again.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::atomic::Ordering,
    time::Instant,
};

use futures_util::TryStreamExt;
use time::OffsetDateTime;

use super::{Entry, Queue, lease::Reach};
use crate::{
    mail::id::{GatewayId, OrganizationId},
    policy::{
        facts::Decision,
        routing::{NextHop, Route},
        waiting::Onward,
    },
    relay::handover::{
        peer::{Peer, PeerKey},
        source::Source,
    },
    store::{self, queue::QueuedMessage},
};

/// How much of what waits for a gateway is made due at a time, of all senders in turn: it cannot all leave at once, and to
/// find out whose turn it is all that waits is looked at.
const MADE_DUE: i64 = 4_000;

fn gateway_of(key: &PeerKey) -> Option<(OrganizationId, GatewayId)> {
    match key {
        PeerKey::Gateway(organization, gateway, _) => Some((*organization, *gateway)),
        _ => None,
    }
}

impl Queue {
    /// Up to `limit` messages that are due at `now` or probe a failing gateway, now leased to this relay. What it
    /// still attempts is not among them: where leases have ended meanwhile, they are renewed first.
    pub(super) async fn claim(&self, limit: usize, now: OffsetDateTime) -> store::Result<Vec<Entry>> {
        let claimed = self.claim_due(limit, now).await;
        if claimed.is_err() {
            *self.reach() = Reach::Lost;
        }
        claimed
    }

    async fn claim_due(&self, limit: usize, now: OffsetDateTime) -> store::Result<Vec<Entry>> {
        self.renew(&self.shared.leases.ended(now + self.shared.clock.store_ahead()), now).await?;
        let waited_for = self.make_due_what_changed(now).await?;
        let until = self.lease_end(now);
        let (db, relay, full) = (&self.shared.db, self.shared.settings.relay, self.shared.permits.full());
        let is_steady = self.reach().is_steady(self.shared.settings.lease, Instant::now(), now);
        // By a clock that is fast all leases would seem to have ended.
        let fast = -self.shared.clock.store_ahead();
        let takes_over = is_steady && fast < self.shared.settings.lease / 4;
        let due = store::queue::claim_due_across_tenants(db, relay, limit as i64, &full, now, until, takes_over);
        let mut claimed = due.await?;
        self.ask_again_as_wished(&claimed, now);
        for (key, failing) in self.shared.handover.health().failing_gateways() {
            let Some(waiting) = gateway_of(&key) else { continue };
            let gateway = waiting.1;
            let has_one = claimed.iter().any(|message| message.waits_for == Some(gateway));
            let is_worth_it = waited_for.contains(&waiting) && failing.may_be_asked(now);
            if is_worth_it && !has_one && claimed.len() < limit {
                match store::queue::claim_probe_across_tenants(db, relay, waiting, now, until, takes_over).await {
                    Ok(probe) => claimed.extend(probe),
                    // What is claimed already is not given up for it.
                    Err(error) => tracing::warn!(%error, %gateway, "a failing gateway could not be probed"),
                }
            }
        }
        Ok(claimed.into_iter().map(|message| self.with_source(message)).collect())
    }

    /// An administrator who wants another attempt now has perhaps just mended what was wrong: the gateway is asked
    /// although it is failing, once for all who wait for it.
    fn ask_again_as_wished(&self, claimed: &[QueuedMessage], now: OffsetDateTime) {
        let mut wished = HashMap::new();
        for message in claimed {
            let (Some(gateway), Some(at)) = (message.waits_for, message.retry_wished_at) else { continue };
            let latest = wished.entry((message.organization, gateway)).or_insert(at);
            *latest = at.max(*latest);
        }
        for (gateway, at) in wished {
            self.shared.handover.health().ask_again(gateway, at, now);
        }
    }

    fn with_source(&self, message: QueuedMessage) -> Entry {
        let source = Source::Stored {
            db: self.shared.db.clone(),
            organization: message.organization,
            id: message.id,
            size: message.size.try_into().unwrap_or_default(),
        };
        Entry { message, source, client: None, first_pass: None }
    }

    /// Mail does not wait out its pause if what it waits for has changed: its gateway takes mail
    /// again, or its senders have another route now.
    ///
    /// Returns those of the failing gateways that mail waits for. There may be thousands that none waits for: they are looked
    /// up together.
    async fn make_due_what_changed(&self, now: OffsetDateTime) -> store::Result<HashSet<(OrganizationId, GatewayId)>> {
        self.make_due_what_recovered(now).await?;
        let health = self.shared.handover.health();
        let facts = self.shared.table.generation();
        let facts_changed = self.shared.asked_by.load(Ordering::Relaxed) != facts;
        let mut failing = health.failing_gateways();
        failing.retain(|(_, failing)| facts_changed || failing.may_be_asked(now));
        let gateways: Vec<_> = failing.iter().filter_map(|(key, _)| gateway_of(key)).collect();
        let waited_for = match gateways.is_empty() {
            true => HashSet::new(),
            false => store::queue::waited_for_across_tenants(&self.shared.db, &gateways).await?,
        };
        for (key, _) in failing {
            let Some(gateway) = gateway_of(&key) else { continue };
            match waited_for.contains(&gateway) {
                true => self.let_go_who_leads_elsewhere(&key, gateway, now).await?,
                // Whoever is next finds out how it is.
                false => health.forget_failing(&key, now),
            }
        }
        if facts_changed {
            self.let_go_what_is_held_no_more(now).await?;
        }
        self.shared.asked_by.store(facts, Ordering::Relaxed);
        Ok(waited_for)
    }

    /// A gateway is set again, a suspended account sends again: what was held for it goes on by itself.
    async fn let_go_what_is_held_no_more(&self, now: OffsetDateTime) -> store::Result<()> {
        let db = &self.shared.db;
        let mut held = pin!(store::queue::held_alike_across_tenants(db));
        while let Some(alike) = held.try_next().await? {
            if !matches!(self.shared.table.onward(&alike.waits()), Onward::Held(_)) {
                store::queue::let_go(db, &alike, now).await?;
            }
        }
        Ok(())
    }

    async fn make_due_what_recovered(&self, now: OffsetDateTime) -> store::Result<()> {
        let health = self.shared.handover.health();
        let full = self.shared.permits.full();
        let mut outcome = Ok(());
        for (organization, gateway) in health.take_recovered() {
            let mut is_done = false;
            if outcome.is_ok() && !full.contains(&(organization, Some(gateway))) {
                let db = &self.shared.db;
                let made = store::queue::make_due(db, organization, gateway, None, MADE_DUE, now).await;
                self.shared.handover.pool().promise_turns_anew(organization, gateway);
                is_done = made.as_ref().is_ok_and(|made| *made < MADE_DUE.unsigned_abs());
                outcome = made.map(drop);
                if is_done {
                    // The next outage is another one.
                    let waited_for = gateway.to_string();
                    outcome = store::delay_notice::forget_across_tenants(db, organization, &waited_for).await.map(drop);
                }
            }
            if !is_done {
                // There may be more, it has its share for now, or the store is away: for the next time.
                health.has_recovered(organization, gateway);
            }
        }
        outcome
    }

    /// Asks of everybody who waits for a failing gateway whether they still should.
    async fn let_go_who_leads_elsewhere(
        &self,
        key: &PeerKey,
        (organization, gateway): (OrganizationId, GatewayId),
        now: OffsetDateTime,
    ) -> store::Result<()> {
        let db = &self.shared.db;
        let mut is_waited_for = false;
        let mut elsewhere = Vec::new();
        let mut senders = pin!(store::queue::senders_waiting_for(db, organization, gateway));
        while let Some(sender) = senders.try_next().await? {
            match self.leads_to(&sender, key) {
                true => is_waited_for = true,
                false => elsewhere.push(sender),
            }
        }
        if !elsewhere.is_empty() {
            store::queue::make_due(db, organization, gateway, Some(&elsewhere), i64::MAX, now).await?;
        }
        if !is_waited_for {
            self.shared.handover.health().forget_failing(key, now);
        }
        Ok(())
    }

    fn leads_to(&self, sender: &str, key: &PeerKey) -> bool {
        match self.shared.table.decide(sender) {
            Decision::Route(route) => match route.route {
                Route { next_hop: NextHop::Gateway(gateway), set_by } => Peer::gateway(&gateway, set_by).key == *key,
                Route { next_hop: NextHop::Platform(_) | NextHop::Nowhere, .. } => false,
            },
            _ => false,
        }
    }
}
