//! The routing facts of all tenants in memory, shared by every session and every attempt.
//! [`follow`](super::follow) keeps them as the store has them.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    mail::{
        DomainName, Envelope, Mailbox,
        envelope::domain_of,
        id::{CredentialId, GatewayId, OrganizationId, Revision},
    },
    policy::{
        correspondents::Print,
        distribution_list::{Permitted, Refusal},
        explanation::Explanation,
        facts::{Decision, Found, Gateway, Inbound, RoutingFacts, SenderRoute},
        limit::OrganizationLimits,
        relay_credential::{Limits, RelayCredential},
        routing::{HeldUntil, PlatformDefault, Scope},
        volume::{Count, external},
        waiting::{self, Onward, Waits},
    },
    relay::handover::peer::Peer,
};

/// What every route is decided from. A decision made after [`change`](Self::change) returned
/// never uses older facts: that is what confirming a revision rests on.
#[derive(Debug)]
pub struct RoutingTable {
    /// A std lock: it is held for look-ups of nanoseconds, never across an await.
    facts: RwLock<RoutingFacts>,
    /// How often the facts were changed.
    generation: AtomicU64,
    default: PlatformDefault,
    /// How old the facts are; for who only reads the clock of it, apart from the facts.
    age: RwLock<Age>,
    /// The revision that the facts are of; none before they were loaded.
    applied: watch::Sender<Option<Revision>>,
    max_staleness: Duration,
    /// How many relays are at work with these facts.
    relays: AtomicU32,
}

/// Where mail of one sender goes, as it was decided last. What is asked at MAIL, at the end of the content and once more
/// when a connection is there, is nearly always the same: to find it anew each time took a twentieth of what a message
/// costs a relay.
#[derive(Debug, Default)]
pub struct Decided(Mutex<Option<LastDecision>>);

impl Decided {
    /// Whose mail it is, where it goes anywhere.
    pub fn organization(&self) -> Option<OrganizationId> {
        match &self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.decision {
            Decision::Route(route) => Some(route.organization),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct LastDecision {
    sender: String,
    /// The table's, before it was decided.
    generation: u64,
    decision: Decision,
}

impl Clone for Decided {
    /// Nothing is decided of a copy yet.
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[derive(Debug, Clone, Copy)]
enum Age {
    NotLoaded,
    /// The facts are given and follow nothing.
    Fixed,
    /// When the store last said that nothing newer is known.
    Following(Instant),
}

/// Whether the facts may be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// The relay has started and not yet reached the store.
    NotLoaded,
    Usable,
    /// The store has been out of reach for longer than the operator allows.
    Stale,
}

impl RoutingTable {
    /// Facts that are complete and follow nothing.
    pub fn new(facts: RoutingFacts, default: PlatformDefault) -> Self {
        Self { facts: RwLock::new(facts), age: RwLock::new(Age::Fixed), ..Self::following(default, Duration::MAX) }
    }

    /// Without facts yet; those to come may be used for `max_staleness` after the store was last heard.
    pub fn following(default: PlatformDefault, max_staleness: Duration) -> Self {
        Self {
            facts: RwLock::default(),
            generation: AtomicU64::default(),
            default,
            age: RwLock::new(Age::NotLoaded),
            applied: watch::Sender::new(None),
            max_staleness,
            relays: AtomicU32::new(1),
        }
    }

    /// How many relays are at work, as far as the store was heard: each has its part of what all of them may do.
    pub fn relays(&self) -> u32 {
        self.relays.load(Ordering::Relaxed)
    }

    /// So many relays are at work, with this one.
    pub fn set_relays(&self, relays: u32) {
        self.relays.store(relays.max(1), Ordering::Relaxed);
    }

    /// Where mail without a gateway goes.
    pub fn default(&self) -> &PlatformDefault {
        &self.default
    }

    /// Where mail of this sender goes now.
    pub fn decide(&self, sender: &str) -> Decision {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).decide(sender, &self.default)
    }

    /// The same as [`decide`](Self::decide) says, without looking it up where the facts are as they were when it was
    /// decided last.
    pub fn decide_again(&self, sender: &str, decided: &Decided) -> Decision {
        self.with_decision(sender, decided, Decision::clone)
    }

    /// The same as [`find`](Self::find) says, likewise.
    pub fn find_again(&self, sender: &str, decided: &Decided) -> Option<Found> {
        let of_route = |decision: &Decision| match decision {
            Decision::Route(SenderRoute { organization, sender, account, .. }) => {
                Some(Found { organization: *organization, sender: Arc::clone(sender), account: *account })
            }
            _ => None,
        };
        self.with_decision(sender, decided, of_route).or_else(|| self.find(sender))
    }

    fn with_decision<T>(&self, sender: &str, decided: &Decided, take: impl FnOnce(&Decision) -> T) -> T {
        // Before the facts are looked at: a change that comes in between makes it be decided once more.
        let generation = self.generation();
        let mut last = decided.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.generation == generation && last.sender == sender) {
            return take(&last.decision);
        }
        let decision = self.decide(sender);
        take(&last.insert(LastDecision { sender: sender.to_owned(), generation, decision }).decision)
    }

    /// See [`RoutingFacts::refuses_unknown`].
    pub fn refuses_unknown(&self, reverse_path: &str) -> bool {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).refuses_unknown(reverse_path)
    }

    /// See [`RoutingFacts::ask_list`].
    pub fn ask_list(&self, sender: (&str, bool), forward_path: &str) -> Option<Result<Permitted, Refusal>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).ask_list(sender, forward_path)
    }

    /// What [`decide`](Self::decide) says, with its reasons.
    pub fn explain(&self, sender: &str) -> Explanation {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).explain(sender, &self.default)
    }

    /// Where mail that waits goes now, or why it is held.
    pub fn onward(&self, waits: &Waits<'_>) -> Onward {
        waiting::onward(&self.facts.read().unwrap_or_else(PoisonError::into_inner), waits, &self.default)
    }

    /// What mail of this sender waits for where it must leave through a gateway and has none.
    pub fn held_until(&self, organization: OrganizationId, sender: &str) -> Option<HeldUntil> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).held_until(organization, sender)
    }

    /// Whose mail this is, wherever it goes.
    pub fn find(&self, sender: &str) -> Option<Found> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).find(sender)
    }

    /// The address that decides for a sender; the sender itself where nobody has it.
    pub fn deciding(&self, sender: &str) -> String {
        self.find(sender).map_or_else(|| sender.to_owned(), |found| found.sender.to_string())
    }

    /// How much an organization lets be sent.
    pub fn limits(&self, organization: OrganizationId) -> Option<Arc<OrganizationLimits>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).limits(organization).cloned()
    }

    /// A credential, as long as it is valid.
    pub fn credential(&self, id: CredentialId) -> Option<Arc<RelayCredential>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).credential(id)
    }

    /// The credential with this user name.
    pub fn credential_named(&self, user_name: &str) -> Option<Arc<RelayCredential>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).credential_named(user_name)
    }

    /// See [`RoutingFacts::nobody_of`].
    pub fn nobody_of(&self, organization: OrganizationId, limits: &Limits) -> Option<Mailbox> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).nobody_of(organization, limits)
    }

    /// Where mail to an address at this domain is delivered; `None` if the domain is no organization's.
    pub fn inbound(&self, domain: &DomainName) -> Option<Inbound> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).inbound(domain)
    }

    /// See [`RoutingFacts::any_hands_back`].
    pub fn any_hands_back(&self, client: IpAddr) -> bool {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).any_hands_back(client)
    }

    /// The gateway of an organization that hands mail back from this address.
    pub fn hands_back(&self, organization: OrganizationId, client: IpAddr) -> Option<Arc<Gateway>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).hands_back(organization, client).cloned()
    }

    /// A gateway as it is now.
    pub fn gateway(&self, id: GatewayId) -> Option<Arc<Gateway>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).gateway(id).cloned()
    }

    /// See [`RoutingFacts::gateways_in_use`].
    pub fn gateways_in_use(&self) -> Vec<Arc<Gateway>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).gateways_in_use()
    }

    /// Whether a forward-path is one inside the organization.
    pub fn is_own(&self, organization: OrganizationId, forward_path: &str) -> bool {
        let domain = domain_of(forward_path).and_then(|domain| DomainName::canonical(domain).ok());
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        domain.is_some_and(|domain| facts.is_own(organization, &domain))
    }

    /// How much this sender's organization lets be sent, what a message of it counts, and who is outside of those it goes
    /// to, where an account sends it.
    pub fn measure(&self, sender: &Found, envelope: &Envelope) -> (Arc<OrganizationLimits>, Count, Vec<Print>) {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        let outside = external(&envelope.forward_paths, |domain| facts.is_own(sender.organization, domain));
        let (prints, external) = match sender.account {
            Some(account) => {
                let prints: Vec<_> = outside.map(|forward_path| Print::of(account, forward_path)).collect();
                let external = prints.len();
                (prints, external)
            }
            None => (Vec::new(), outside.count()),
        };
        let named = envelope.named.unwrap_or(envelope.forward_paths.len());
        let limits = facts.limits(sender.organization).cloned().unwrap_or_default();
        (limits, Count::of_message(named, external), prints)
    }

    /// A gateway as it is connected to, with those that stand in for it.
    pub fn peer(&self, gateway: &Arc<Gateway>, set_by: Scope) -> Peer {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        let peer = Peer::gateway(gateway, set_by).within(facts.gateway_networks(gateway.organization));
        if gateway.settings.backups.is_empty() {
            return peer;
        }
        let backups = gateway.settings.backups.iter().filter_map(|id| facts.gateway(*id));
        peer.with_backups(
            backups.filter(|backup| backup.organization == gateway.organization && backup.id != gateway.id),
        )
    }

    /// A server with the networks that its organization's own may be in now.
    pub fn within_networks(&self, peer: Peer) -> Peer {
        let Some(organization) = peer.organization() else { return peer };
        let networks = self.facts.read().unwrap_or_else(PoisonError::into_inner).gateway_networks(organization);
        peer.within(networks)
    }

    /// Changes facts, all at once for every reader.
    pub fn change(&self, apply: impl FnOnce(&mut RoutingFacts)) {
        apply(&mut self.facts.write().unwrap_or_else(PoisonError::into_inner));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// A number that is another one whenever the facts were changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Notes that the facts were those of `revision` at `at`, and that the store had nothing newer then.
    pub fn mark_current(&self, revision: Revision, at: Instant) {
        *self.age.write().unwrap_or_else(PoisonError::into_inner) = Age::Following(at);
        self.applied.send_if_modified(|applied| applied.replace(revision) != Some(revision));
    }

    /// The revision that the facts are of, as it changes.
    pub fn applied(&self) -> watch::Receiver<Option<Revision>> {
        self.applied.subscribe()
    }

    /// How old the facts may be: for so long the store was not heard to have nothing newer.
    pub fn age(&self, now: Instant) -> Duration {
        match *self.age.read().unwrap_or_else(PoisonError::into_inner) {
            Age::NotLoaded => Duration::MAX,
            Age::Following(at) => now.saturating_duration_since(at),
            Age::Fixed => Duration::ZERO,
        }
    }

    /// Whether a decision made at `now` may be used.
    pub fn knowledge(&self, now: Instant) -> Knowledge {
        match *self.age.read().unwrap_or_else(PoisonError::into_inner) {
            Age::NotLoaded => Knowledge::NotLoaded,
            Age::Following(at) if now.saturating_duration_since(at) > self.max_staleness => Knowledge::Stale,
            Age::Fixed | Age::Following(_) => Knowledge::Usable,
        }
    }
}
