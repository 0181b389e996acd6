//! One attempt at a waiting message: route anew, ask, send. All its recipients go to a gateway in one
//! transaction; archives need the whole envelope.

use std::time::Duration;

use time::OffsetDateTime;

use super::{
    Entry, Queue,
    direct::Delivered,
    target::Target,
    verdict::{self, Attempted},
};
use crate::{
    mail::{envelope::RecipientState, notify::Wishes},
    policy::{gateway_settings::OwnDomains, pace::Turn, waiting::HeldBecause},
    relay::handover::{Begun, Transaction, peer::Peer, transaction::Request},
    store::queue::QueuedMessage,
};

/// Longer than all time limits before the message's bytes together: a backstop.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Queue {
    /// Attempts every recipient who still waits.
    pub(super) async fn attempt(&self, entry: &Entry, now: OffsetDateTime) -> Attempted {
        let message = &entry.message;
        let waiting = |(place, recipient): (usize, &crate::mail::envelope::Recipient)| {
            (recipient.state == RecipientState::Waiting).then_some(place)
        };
        let places: Vec<usize> = message.recipients.iter().enumerate().filter_map(waiting).collect();
        if places.is_empty() {
            return Attempted::waits_on(message);
        }
        if let Some(until) = message.throttled(now) {
            return Attempted { turn: Some(until), ..Attempted::waits_on(message) };
        }
        loop {
            if !self.holds(message, now).await {
                return Attempted { is_lost: true, ..Attempted::waits_on(message) };
            }
            let attempted = match self.target(message, now) {
                Target::Unknown => Some(Attempted::waits_on(message)),
                Target::Held(HeldBecause::NoGateway) => {
                    let until = self
                        .shared
                        .table
                        .held_until(message.organization, message.sender.as_deref().unwrap_or_default());
                    Some(Attempted::without_gateway(message, until))
                }
                Target::Held(because) => Some(Attempted::held(message, because)),
                Target::Returned => Some(Attempted { is_returned: true, ..Attempted::waits_on(message) }),
                Target::Mx => Some(self.attempt_directly(entry, &places, now).await),
                Target::Peer(peer) if peer.own_domains == OwnDomains::Inbound => {
                    self.attempt_apart(entry, &places, now).await
                }
                Target::Peer(_) => self.attempt_by(entry, &places, self.route_of(message, now), now).await,
            };
            // None: the route changed while the attempt waited for a connection.
            if let Some(attempted) = attempted {
                return attempted;
            }
        }
    }

    /// Whether the message is this relay's still: where its lease has ended while it waited for a connection, as it does
    /// while this process is paused or cut off from the store, another relay may have it.
    async fn holds(&self, message: &QueuedMessage, now: OffsetDateTime) -> bool {
        let Some(leased) = message.leased().filter(|leased| self.shared.leases.has_ended(leased)) else { return true };
        let renewed = self.renew(&[leased], now.max(OffsetDateTime::now_utc())).await;
        renewed.is_ok() && !self.shared.leases.has_ended(&leased)
    }

    /// Mail to the organization's own domains goes to their inbound hosts, all other through the gateway.
    async fn attempt_apart(&self, entry: &Entry, places: &[usize], now: OffsetDateTime) -> Option<Attempted> {
        let message = &entry.message;
        let is_own = |place: &usize| self.shared.table.is_own(message.organization, &message.recipients[*place].to);
        let (own, others): (Vec<usize>, Vec<usize>) = places.iter().partition(|place| is_own(place));
        if own.is_empty() {
            return self.attempt_by(entry, places, self.route_of(message, now), now).await;
        }
        let mut attempted = self.attempt_directly(entry, &own, now).await;
        if others.is_empty() {
            return Some(attempted);
        }
        // That mail inside has arrived says nothing about the gateway.
        attempted.charged &= own.iter().any(|place| attempted.is_waiting(*place));
        let mut delivered = Delivered::of(entry);
        delivered.add(&attempted.verdicts);
        delivered.write_down(&self.shared.db, message).await;
        if let Some(by_gateway) = self.attempt_by(entry, &others, self.route_of(message, now), now).await {
            let is_waited_for = others.iter().any(|place| by_gateway.is_waiting(*place));
            attempted.add(by_gateway);
            if !is_waited_for {
                (attempted.waits_for, attempted.waits_by) = (None, None);
            }
        } else {
            (attempted.waits_for, attempted.waits_by) = (message.waits_for, message.waits_by);
        }
        Some(attempted)
    }

    /// One message for the server that `route` says; `None` if it says that there is none.
    pub(super) async fn attempt_by(
        &self,
        entry: &Entry,
        places: &[usize],
        mut route: impl FnMut() -> Result<Peer, ()>,
        now: OffsetDateTime,
    ) -> Option<Attempted> {
        let attempted = self.transact(entry, places, &mut route, now).await?;
        Some(self.attempt_rest(entry, attempted, route, now).await)
    }

    /// The same for a message whose first transaction was begun while its client waited.
    pub(in crate::relay) async fn attempt_those_cut_off(
        &self,
        entry: &Entry,
        attempted: Attempted,
        now: OffsetDateTime,
    ) -> Attempted {
        self.attempt_rest(entry, attempted, self.route_of(&entry.message, now), now).await
    }

    /// Who the message goes to now, asked again whenever time has passed; none if nobody or several.
    fn route_of<'a>(
        &'a self,
        message: &'a QueuedMessage,
        now: OffsetDateTime,
    ) -> impl FnMut() -> Result<Peer, ()> + 'a {
        move || match self.target(message, now) {
            Target::Peer(peer) => Ok(peer),
            Target::Mx | Target::Held(_) | Target::Returned | Target::Unknown => Err(()),
        }
    }

    /// Whom a server took no more of in one transaction it gets in the next, at once (RFC 5321 §4.5.3.1.10).
    pub(super) async fn attempt_rest(
        &self,
        entry: &Entry,
        mut attempted: Attempted,
        mut route: impl FnMut() -> Result<Peer, ()>,
        now: OffsetDateTime,
    ) -> Attempted {
        if attempted.cut_off.is_empty() {
            return attempted;
        }
        let mut delivered = Delivered::of(entry);
        while !attempted.cut_off.is_empty() {
            let rest = std::mem::take(&mut attempted.cut_off);
            // Should this relay be killed now, nobody of those who have the message gets it twice.
            delivered.add(&attempted.verdicts);
            delivered.write_down(&self.shared.db, &entry.message).await;
            match self.transact(entry, &rest, &mut route, now).await {
                Some(next) => attempted.add(next),
                None => break,
            }
        }
        attempted
    }

    /// One transaction with the server that `route` says; `None` if it says that there is none.
    async fn transact(
        &self,
        entry: &Entry,
        places: &[usize],
        mut route: impl FnMut() -> Result<Peer, ()>,
        now: OffsetDateTime,
    ) -> Option<Attempted> {
        let message = &entry.message;
        let leased = message.leased();
        // Asked right before MAIL, too: who does not have the message any more begins nothing.
        let route = || match leased.is_some_and(|leased| self.shared.leases.has_ended(&leased)) {
            true => Err(()),
            false => route(),
        };
        let recipients: Vec<String> = places.iter().map(|place| message.recipients[*place].to.clone()).collect();
        let wishes: Vec<Wishes> = places.iter().map(|place| message.recipients[*place].wishes()).collect();
        let request = Request {
            reverse_path: &message.reverse_path,
            recipients: &recipients,
            wishes: if wishes.iter().all(Wishes::is_empty) { &[] } else { &wishes },
            parameters: &message.parameters,
            source: &entry.source,
            // What has been said about it before is why it waits.
            turn: if message.last_reply.is_some() { Turn::Waited } else { Turn::New },
            relays: self.shared.table.relays(),
            sender: Some(message.taking_turns()),
        };
        Some(match self.shared.handover.begin(request, route, PATIENCE, now).await {
            Begun::Detour(()) => return None,
            Begun::Failing(peer, failing) => verdict::waiting(&peer, &failing.reason, failing.until, places),
            Begun::Busy(peer) => {
                let waiting = verdict::waiting(&peer, "all connections are in use", now, places);
                Attempted { is_tried: false, ..waiting }
            }
            Begun::Paced(peer, turn) => verdict::paced(&peer, turn, places),
            Begun::Answered(peer, through, answers) => {
                Attempted { through: Some(through), ..verdict::of_answers(&peer, &answers, places) }
            }
            Begun::Failed(failed) => verdict::of_failed(&failed, places),
            Begun::Open(mut transaction) => {
                let sent = transaction.send(&entry.source).await;
                conclude(*transaction, sent, places).await
            }
        })
    }
}

/// Waits for the answer to a message that was sent.
pub async fn conclude(
    mut transaction: Transaction,
    sent: Result<(), crate::relay::handover::Failed>,
    places: &[usize],
) -> Attempted {
    let end = match sent {
        Ok(()) => transaction.answer().await,
        Err(failed) => Err(failed),
    };
    let tells = transaction.tells_senders();
    let attempted = verdict::of_transaction(&transaction.peer, tells, &transaction.recipients, places, &end);
    let attempted = Attempted { through: Some(transaction.through()), ..attempted };
    if end.as_ref().map_or_else(|failed| failed.is_answer_to_message(), |_| true) {
        transaction.finish();
    }
    attempted
}
