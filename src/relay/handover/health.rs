//! What is known of the servers: which have taken mail, and which are failing and when one message
//! may try again for all that wait.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::peer::{Peer, PeerKey};
use crate::{
    mail::{
        GatewayAddress,
        id::{GatewayId, OrganizationId, QuickMap},
    },
    policy::{
        fault::Stage,
        retry::BackOff,
        throughput::{MINUTES, Throughput},
    },
    store::gateway_health::{Encryption, Seen},
};

/// Shared by hand-over and queue. Recipients' own servers are not kept: there are too many.
#[derive(Debug)]
pub struct Health {
    /// Since when anything can be known.
    began: Instant,
    back_off: BackOff,
    /// A std lock: held for look-ups only, never across an await.
    peers: Mutex<QuickMap<PeerKey, State>>,
    recovered: Mutex<Vec<(OrganizationId, GatewayId)>>,
    /// Something was added to `recovered`.
    recovery: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When it last took a message since its last change, as far as this relay has seen.
    accepted_at: Option<Instant>,
    /// It refused a verification's recipient since then: that it took mail says nothing any more.
    refuses_us: bool,
    /// When it accepted a verification's recipient though it had refused another.
    vouched_at: Option<Instant>,
    failing: Option<Failing>,
    /// What it has put off since it decided about a message last.
    put_off: Option<PutOff>,
    last_failure: Option<(OffsetDateTime, String)>,
    /// When it was last reached without mail.
    reached_at: Option<Instant>,
    /// When anything of this changed last.
    touched_at: Option<Instant>,
    /// The backup that its mail goes to while it is failing.
    backup: Option<PeerKey>,
    /// Until when its certificate is valid, where mail stops after that; as of the last connection.
    certificate_ends_at: Option<OffsetDateTime>,
    encryption: Encryption,
    /// `None` as long as nothing was counted.
    traffic: Option<Box<Counted>>,
}

/// What is counted of a gateway.
#[derive(Debug)]
struct Counted {
    traffic: Traffic,
    throughput: Throughput,
    /// When anything was counted last.
    at: Instant,
}

/// A gateway whose mail goes to one of its backups.
#[derive(Debug, Clone)]
pub struct BackupInUse {
    pub gateway: PeerKey,
    pub backup: PeerKey,
    /// Why the gateway itself cannot take mail.
    pub failing: Failing,
}

/// What a tenant's gateway has done of late.
#[derive(Debug, Clone)]
pub struct Traffic {
    pub organization: OrganizationId,
    pub gateway: GatewayId,
    pub revision: i64,
    pub address: GatewayAddress,
    /// Messages that it took.
    pub accepted: u64,
    /// Times that it could not take mail.
    pub failures: u64,
    pub is_failing: bool,
}

impl State {
    fn touch(&mut self) {
        self.touched_at = Some(Instant::now());
    }

    fn was_touched_within(&self, time: Duration) -> bool {
        self.touched_at.is_some_and(|at| at.elapsed() < time)
    }

    fn count(&mut self, peer: &Peer, count: impl FnOnce(&mut Counted)) {
        let PeerKey::Gateway(organization, gateway, revision) = peer.key else { return };
        let now = Instant::now();
        let traffic = self.traffic.get_or_insert_with(|| {
            let address = peer.address.clone();
            let (accepted, failures, is_failing) = (0, 0, false);
            let traffic = Traffic { organization, gateway, revision, address, accepted, failures, is_failing };
            Box::new(Counted { traffic, throughput: Throughput::default(), at: now })
        });
        count(traffic);
        traffic.at = now;
    }
}

/// Messages that were put off in a row.
#[derive(Debug, Clone, Copy)]
struct PutOff {
    since: OffsetDateTime,
    messages: u32,
}

/// Who puts off so many messages in a row, for so long, does so whatever they are.
const PUT_OFF_IN_A_ROW: u32 = 10;
const PUT_OFF_FOR: time::Duration = time::Duration::MINUTE;
/// After so long without traffic a gateway is not shown any more.
const QUIET: Duration = Duration::from_secs(60 * 60);
/// For so long a gateway is not asked again whether it takes our mail.
const VOUCHED: Duration = Duration::from_secs(60);
/// After so long nothing is remembered of a server that is not failing and that nobody has used or probed.
pub(super) const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);
/// As long as a message may take from its failed attempt into the queue, and a little more.
const ON_ITS_WAY: time::Duration = time::Duration::seconds(30);

/// A server that could not take mail.
#[derive(Debug, Clone)]
pub struct Failing {
    pub since: OffsetDateTime,
    /// In a row.
    pub failures: u32,
    /// Nobody asks it before.
    pub until: OffsetDateTime,
    /// In words.
    pub reason: String,
    /// How far the last conversation came.
    pub stage: Stage,
    /// The longest that nobody asks it.
    longest: time::Duration,
    /// One message is asking now.
    probing: bool,
    /// Found without mail: it is looked after without mail, too.
    is_quiet: bool,
}

impl Failing {
    /// Whether it is time to ask again; also if `until` is so far away that the clock was set back.
    pub fn may_be_asked(&self, now: OffsetDateTime) -> bool {
        self.until <= now || self.until - now > self.longest
    }

    /// The same, unless somebody is asking now.
    pub fn may_be_probed(&self, now: OffsetDateTime) -> bool {
        self.may_be_asked(now) && !self.probing
    }

    /// Whether a backup may stand in: nobody was let as far as to say anything about a message.
    pub fn is_out_of_reach(&self) -> bool {
        self.stage < Stage::Mail
    }
}

/// Leave to ask a server. While one that was failing is probed nobody else gets one.
#[derive(Debug)]
pub struct Leave {
    health: Arc<Health>,
    probed: Option<PeerKey>,
}

impl Health {
    /// Nothing is known yet.
    pub fn new(back_off: BackOff) -> Self {
        let (peers, recovered, recovery) = Default::default();
        Self { began: Instant::now(), back_off, peers, recovered, recovery }
    }

    fn peers(&self) -> MutexGuard<'_, QuickMap<PeerKey, State>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server may be asked now; if not, why.
    pub fn leave(self: &Arc<Self>, peer: &Peer, now: OffsetDateTime) -> Result<Leave, Failing> {
        let mut peers = self.peers();
        let failing = peers.get_mut(&peer.key).and_then(|state| state.failing.as_mut());
        let probed = match failing {
            None => None,
            Some(failing) if failing.may_be_probed(now) => {
                failing.probing = true;
                Some(peer.key.clone())
            }
            Some(failing) => return Err(failing.clone()),
        };
        Ok(Leave { health: self.clone(), probed })
    }

    /// Why the server is failing, if it is.
    pub fn failing(&self, key: &PeerKey) -> Option<Failing> {
        self.peers().get(key).and_then(|state| state.failing.clone())
    }

    /// Every tenant's gateway that is failing.
    pub fn failing_gateways(&self) -> Vec<(PeerKey, Failing)> {
        let peers = self.peers();
        let failing = peers.iter().filter_map(|(key, state)| match (key, &state.failing) {
            (PeerKey::Gateway(..), Some(failing)) => Some((key.clone(), failing.clone())),
            _ => None,
        });
        failing.collect()
    }

    /// Whether it has taken a message since its last change, as far as this relay has seen.
    pub fn has_accepted(&self, key: &PeerKey) -> bool {
        self.peers().get(key).is_some_and(|state| state.accepted_at.is_some() && !state.refuses_us)
    }

    /// Whether it is worth asking if it still takes our mail: it did, and has not said so just now.
    pub fn may_have_changed_its_mind(&self, key: &PeerKey) -> bool {
        let is_known = |state: &State| state.vouched_at.is_some_and(|at| at.elapsed() < VOUCHED);
        self.peers().get(key).is_some_and(|state| state.accepted_at.is_some() && !is_known(state))
    }

    /// It was asked, and would take mail for somebody else or not.
    pub fn looked_again(&self, key: &PeerKey, takes_others: bool) {
        if let Some(state) = self.peers().get_mut(key) {
            state.refuses_us = !takes_others;
            state.vouched_at = takes_others.then(Instant::now);
        }
    }

    /// It has taken a message, so long after its first byte: whatever was wrong is over.
    pub fn accepted(&self, peer: &Peer, took: Duration) {
        if peer.is_recipients_server() {
            return;
        }
        let mut peers = self.peers();
        let state = match peers.get_mut(&peer.key) {
            Some(state) => state,
            None => peers.entry(peer.key.clone()).or_default(),
        };
        state.accepted_at = Some(Instant::now());
        state.refuses_us = false;
        state.put_off = None;
        state.touched_at = state.accepted_at;
        state.count(peer, |counted| {
            counted.traffic.accepted += 1;
            counted.throughput.note(minute(), took);
        });
        if state.failing.is_some() {
            self.recover(peer, state);
        }
    }

    /// It has put a message off, or broken off inside of it. Returns how many in a row if that is no longer about any of
    /// them, as it takes none and is failing; none where it was failing before. Each message counts once, the first time
    /// that it is tried: however often one is tried again, it makes no row.
    pub fn put_off(&self, peer: &Peer, is_first: bool, now: OffsetDateTime) -> Option<u32> {
        // Whom organizations share, one of them could have taken for failing.
        let PeerKey::Gateway(..) = peer.key else { return None };
        let mut peers = self.peers();
        let state = peers.entry(peer.key.clone()).or_default();
        let mut row = state.put_off.unwrap_or(PutOff { since: now, messages: 0 });
        row.messages = row.messages.saturating_add(is_first.into());
        row.since = row.since.min(now);
        state.put_off = Some(row);
        let PutOff { since, messages } = row;
        if messages >= PUT_OFF_IN_A_ROW && now - since >= PUT_OFF_FOR {
            return Some(messages);
        }
        // The one that asks for all others has heard what they would.
        state.failing.as_ref().is_some_and(|failing| !failing.is_out_of_reach()).then_some(0)
    }

    /// It has refused a message or a recipient for good: it looks at each.
    pub fn decides(&self, peer: &Peer) {
        if let Some(state) = self.peers().get_mut(&peer.key) {
            state.put_off = None;
        }
    }

    /// A connection was made to it, with a certificate that is valid as long as this.
    pub fn showed_certificate(&self, peer: &Peer, ends_at: Option<OffsetDateTime>) {
        if peer.is_recipients_server() {
            return;
        }
        let mut peers = self.peers();
        match peers.get_mut(&peer.key) {
            Some(state) if state.certificate_ends_at == ends_at => {}
            None if ends_at.is_none() => {}
            _ => {
                let state = peers.entry(peer.key.clone()).or_default();
                state.certificate_ends_at = ends_at;
                state.touch();
            }
        }
    }

    /// A connection was made to it, encrypted or in clear. That mail for it goes in clear though it was encrypted before is
    /// told once, and does not keep the mail.
    pub fn spoke(&self, peer: &Peer, encrypted: bool, now: OffsetDateTime) {
        if peer.is_recipients_server() {
            return;
        }
        let mut peers = self.peers();
        let state = peers.entry(peer.key.clone()).or_default();
        let before = state.encryption;
        state.encryption = before.after(encrypted, now);
        match (before.has_ended(), state.encryption.has_ended()) {
            (false, true) => {
                tracing::warn!(%peer, alert = "gateway stopped offering TLS", "mail goes to it in clear now");
            }
            (true, false) => tracing::info!(%peer, "mail to it is encrypted again"),
            _ => {}
        }
        state.touch();
    }

    /// It can be reached again, as far as one can tell without a message.
    pub fn reached(&self, peer: &Peer) {
        if let Some(state) = self.peers().get_mut(&peer.key)
            && state.failing.as_ref().is_some_and(Failing::is_out_of_reach)
        {
            self.recover(peer, state);
        }
    }

    /// Whether it had neither mail nor a probe for so long; one whose trouble was found without mail, whether it may
    /// be asked again.
    pub fn is_quiet(&self, peer: &Peer, quiet: Duration, now: OffsetDateTime) -> bool {
        match self.peers().get(&peer.key) {
            None => self.began.elapsed() >= quiet,
            Some(state) => match &state.failing {
                Some(failing) => failing.is_quiet && failing.may_be_probed(now),
                None => state.touched_at.unwrap_or(self.began).elapsed() >= quiet,
            },
        }
    }

    /// It was reached without mail, and is not known to fail.
    pub fn reached_quietly(&self, peer: &Peer) {
        self.reached(peer);
        let mut peers = self.peers();
        let state = peers.entry(peer.key.clone()).or_default();
        state.reached_at = Some(Instant::now());
        state.touch();
    }

    /// Nobody points at other gateways than these: trouble of theirs that was found without mail is no longer looked
    /// after, and forgotten like any.
    pub fn leave_alone_but(&self, in_use: &HashSet<PeerKey>) {
        for (_, state) in self.peers().iter_mut().filter(|(key, _)| !in_use.contains(key)) {
            if let Some(failing) = &mut state.failing {
                failing.is_quiet = false;
            }
        }
    }

    /// It was looked at, and nothing was found out.
    pub fn looked_at(&self, peer: &Peer) {
        self.peers().entry(peer.key.clone()).or_default().touch();
    }

    /// What [`failed`](Self::failed) has just noted was found without mail: as long as nobody sends any, it is not
    /// forgotten for that.
    pub fn failed_quietly(&self, peer: &Peer) {
        if let Some(failing) = self.peers().get_mut(&peer.key).and_then(|state| state.failing.as_mut()) {
            failing.is_quiet = true;
        }
    }

    fn recover(&self, peer: &Peer, state: &mut State) {
        (state.failing, state.backup) = (None, None);
        state.touch();
        tracing::info!(%peer, "takes mail again");
        if let PeerKey::Gateway(organization, gateway, _) = peer.key {
            self.has_recovered(organization, gateway);
        }
        self.recovery.notify_one();
    }

    /// Its mail goes to a backup now.
    pub fn stands_in(&self, peer: &Peer, backup: &Peer) {
        let mut peers = self.peers();
        let Some(state) = peers.get_mut(&peer.key) else { return };
        let Some(failing) = state.failing.as_ref().filter(|_| state.backup.as_ref() != Some(&backup.key)) else {
            return;
        };
        let reason = &failing.reason;
        tracing::warn!(%peer, %backup, reason, alert = "gateway backup in use", "mail goes to a backup");
        state.backup = Some(backup.key.clone());
        state.touch();
    }

    /// The gateways whose mail goes to a backup.
    pub fn backups_in_use(&self) -> Vec<BackupInUse> {
        let peers = self.peers();
        let in_use = peers.iter().filter_map(|(key, state)| {
            let (failing, backup) = (state.failing.clone()?, state.backup.clone()?);
            Some(BackupInUse { gateway: key.clone(), backup, failing })
        });
        in_use.collect()
    }

    /// It could not take a message. Returns when it is asked again. Several messages that fail
    /// together count once.
    pub fn failed(&self, peer: &Peer, stage: Stage, reason: &str, now: OffsetDateTime) -> OffsetDateTime {
        if peer.is_recipients_server() {
            return self.back_off.next_probe(now, 1);
        }
        let mut peers = self.peers();
        let state = peers.entry(peer.key.clone()).or_default();
        state.count(peer, |counted| counted.traffic.failures += 1);
        let failing = state.failing.get_or_insert_with(|| {
            tracing::warn!(%peer, reason, alert = "gateway failing", "is failing");
            Failing {
                since: now,
                failures: 0,
                until: now,
                reason: String::new(),
                stage,
                longest: self.back_off.longest,
                probing: false,
                is_quiet: false,
            }
        });
        if failing.may_be_asked(now) {
            failing.failures += 1;
            failing.until = self.back_off.next_probe(now, failing.failures);
        }
        reason.clone_into(&mut failing.reason);
        failing.stage = stage;
        let until = failing.until;
        state.last_failure = Some((now, reason.to_owned()));
        state.touch();
        until
    }

    /// Somebody wants a gateway to be asked at once though it is failing: one message may, unless one has since then.
    pub fn ask_again(
        &self,
        (organization, gateway): (OrganizationId, GatewayId),
        wished_at: OffsetDateTime,
        now: OffsetDateTime,
    ) {
        let is_it = |key: &PeerKey| matches!(key, PeerKey::Gateway(of, id, _) if (*of, *id) == (organization, gateway));
        for (_, state) in self.peers().iter_mut().filter(|(key, _)| is_it(key)) {
            let was_asked = state.last_failure.as_ref().is_some_and(|(at, _)| *at >= wished_at);
            if let Some(failing) = state.failing.as_mut().filter(|_| !was_asked) {
                failing.until = failing.until.min(now);
            }
        }
    }

    /// What the tenants' gateways have done of late, at `now`.
    pub fn traffic(&self, now: Instant) -> Vec<Traffic> {
        let peers = self.peers();
        let recent = peers.values().filter_map(|state| {
            let Counted { traffic, at, .. } = state.traffic.as_deref()?;
            let is_recent = now.saturating_duration_since(*at) < QUIET;
            is_recent.then(|| Traffic { is_failing: state.failing.is_some(), ..traffic.clone() })
        });
        recent.collect()
    }

    /// What there is to write down of the tenants' gateways of which something has changed within this time, each in
    /// the latest revision that mail has gone to.
    pub fn seen(&self, now: OffsetDateTime, within: Duration) -> Vec<Seen> {
        let mut seen: HashMap<(OrganizationId, GatewayId), Seen> = HashMap::new();
        for (key, state) in &*self.peers() {
            let PeerKey::Gateway(organization, gateway, revision) = *key else { continue };
            if !state.was_touched_within(within) {
                continue;
            }
            if seen.get(&(organization, gateway)).is_some_and(|other| other.revision > revision) {
                continue;
            }
            let backup = state.backup.as_ref().and_then(|backup| match backup {
                PeerKey::Gateway(_, backup, _) => Some(*backup),
                _ => None,
            });
            let of_this = Seen {
                organization,
                gateway,
                revision,
                last_accepted_at: state.accepted_at.map(|at| now - at.elapsed()),
                last_failure: state.last_failure.clone(),
                failing_since: state.failing.as_ref().map(|failing| failing.since),
                backup,
                certificate_ends_at: state.certificate_ends_at,
                last_reached_at: state.reached_at.map(|at| now - at.elapsed()),
                throughput: state.traffic.as_ref().and_then(|counted| counted.throughput.figures(minute())),
                encryption: state.encryption,
            };
            seen.insert((organization, gateway), of_this);
        }
        seen.into_values().collect()
    }

    /// Nobody waits for it any more at `now`: its troubles are not worth knowing, unless mail goes to a backup because
    /// of them. A probe that is under way ends first, and what has only just met the trouble may still be on its way
    /// to the queue.
    pub fn forget_failing(&self, key: &PeerKey, now: OffsetDateTime) {
        if let Some(state) = self.peers().get_mut(key).filter(|state| state.backup.is_none()) {
            let is_over = |failing: &mut Failing| {
                !failing.probing && !failing.is_quiet && (now - failing.since).abs() >= ON_ITS_WAY
            };
            if state.failing.take_if(is_over).is_some() {
                state.touch();
            }
        }
    }

    /// Forgets what nobody has used or probed for a day at `now`, such as former revisions. Trouble is never forgotten
    /// here.
    pub fn forget_unused(&self, now: Instant) {
        let mut peers = self.peers();
        peers.retain(|_, state| {
            let is_unused = |at| now.saturating_duration_since(at) >= UNUSED;
            state.failing.is_some() || state.backup.is_some() || !is_unused(state.touched_at.unwrap_or(self.began))
        });
        peers.shrink_to_fit();
    }

    /// Of how many servers anything is known.
    pub fn known(&self) -> usize {
        self.peers().len()
    }

    /// Mail that waits for it may leave.
    pub fn has_recovered(&self, organization: OrganizationId, gateway: GatewayId) {
        self.recovered.lock().unwrap_or_else(PoisonError::into_inner).push((organization, gateway));
    }

    /// Waits until a server takes mail again.
    pub async fn recovery(&self) {
        self.recovery.notified().await;
    }

    /// The gateways that take mail again since this was last asked.
    pub fn take_recovered(&self) -> Vec<(OrganizationId, GatewayId)> {
        std::mem::take(&mut *self.recovered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(key) = &self.probed else { return };
        if let Some(failing) = self.health.peers().get_mut(key).and_then(|state| state.failing.as_mut()) {
            failing.probing = false;
        }
    }
}

/// The minute that it is, counted from the relay's start.
fn minute() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Not the first places' own number.
    BEGAN.elapsed().as_secs() / 60 + MINUTES as u64
}
