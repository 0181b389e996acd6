//! Finds out whether a gateway accepts our mail, with the code that carries it: asked by pages and command through the
//! store, answered by every relay. Beside the mail, and never in its way.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use sqlx::PgPool;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::certificate::Certificate;
use super::{
    handover::{
        connection::{Connection, TimeLimits},
        dialer::Dialer,
        peer::Peer,
        source::Source,
        tls,
        trouble::{Answer, Failure, Trouble},
        witness::{Nobody, Sight, Witness},
    },
    message::Content,
    resolver::LookUpError,
    routing_table::RoutingTable,
    test_message::{self, Prepared, ReturnTokens},
};
use crate::{
    mail::{
        Reply,
        id::{GatewayId, OrganizationId, RelayId},
    },
    policy::{
        facts::{Gateway, TlsMode},
        fault::Stage,
        gateway_settings::GatewaySettings,
        outbound_address,
        routing::Scope,
        verification::{self, About, Failing, Outcome, Probe, Step},
    },
    store::{self, verification::Taken},
};

mod certificate;

/// How often it is looked whether somebody asks.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is told how far a verification is.
const TOLD: Duration = Duration::from_millis(300);
/// After so long it is known whether the gateway accepts, whatever the server does.
pub const PATIENCE: Duration = Duration::from_secs(23);
/// How long what could be better is looked for after that, on connections of its own.
const LOOKING_FURTHER: Duration = Duration::from_secs(5);
// Pages promise an answer in half a minute.
const _: () = assert!(EVERY.as_secs() + PATIENCE.as_secs() + LOOKING_FURTHER.as_secs() < 30);
/// Verifications at a time, and of one organization, as many as it may ask for: none waits for its own, nor for another's
/// gateways that hang.
const AT_A_TIME: usize = 32;
const OF_ORGANIZATION: usize = store::verification::AT_A_TIME;
/// How long the store may take.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// Shorter than those of mail: somebody is waiting.
pub const LIMITS: TimeLimits = TimeLimits {
    connect: Duration::from_secs(8),
    command: Duration::from_secs(12),
    data: Duration::from_secs(12),
    block: Duration::from_secs(12),
    dot: Duration::from_secs(12),
};
/// How long a relay takes at most to hear of a gateway that was saved a moment ago.
const HEARS_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOKS: Duration = Duration::from_millis(50);
/// How much of a server's answer is shown, in characters.
const SHOWN: usize = 512;
/// How long a server is given to begin TLS at once.
const TLS_AT_ONCE: Duration = Duration::from_secs(5);

/// Verifies what it is asked to.
pub struct Verifier {
    /// With [`LIMITS`].
    pub dialer: Dialer,
    /// [`PATIENCE`].
    pub patience: Duration,
    pub table: Arc<RoutingTable>,
    /// An outside address, for whom nobody names one.
    pub recipient: String,
    pub relay_name: String,
    /// The largest message that this relay takes, in bytes.
    pub largest: u64,
    /// Where test messages come back to.
    pub returns: Option<Arc<ReturnTokens>>,
    /// Where the operator says that connections are seen to come from.
    pub outbound: Vec<IpNet>,
}

impl Verifier {
    /// From when the relay has signed on until `stop`.
    pub async fn run(self, pool: &PgPool, id: watch::Receiver<Option<RelayId>>, stop: CancellationToken) {
        let (verifier, places) = (Arc::new(self), Arc::new(Semaphore::new(AT_A_TIME)));
        let mut of_organizations = HashMap::<OrganizationId, Arc<Semaphore>>::new();
        while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
            let Some(relay) = *id.borrow() else { continue };
            let taking = store::verification::take_across_tenants(pool, relay, &verifier.relay_name);
            let Ok(Ok(taken)) = timeout(STORE_PATIENCE, taking).await else { continue };
            for taken in taken {
                let (verifier, places, pool) = (Arc::clone(&verifier), Arc::clone(&places), pool.clone());
                let stop = stop.clone();
                let own = of_organizations.entry(taken.organization);
                let own = Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(OF_ORGANIZATION))));
                tokio::spawn(async move {
                    let _own = own.acquire_owned().await;
                    let _place = places.acquire_owned().await;
                    stop.run_until_cancelled(verifier.answer(&pool, relay, &taken)).await
                });
            }
            // Whoever waits for a place, or has one, holds it too.
            of_organizations.retain(|_, places| Arc::strong_count(places) > 1);
        }
    }

    /// Verifies, and tells meanwhile how far it is.
    async fn answer(&self, pool: &PgPool, relay: RelayId, taken: &Taken) {
        let watched = Watched::default();
        let mut told = 0;
        let message = match self.prepare(pool, taken).await {
            Ok(message) => message,
            Err(advice) => {
                watched.begins(Stage::LookUp);
                watched.advises(advice);
                watched.ends(Outcome::Failed);
                return tell(pool, relay, taken, &watched.steps(), Some(false)).await;
            }
        };
        let pending = if taken.is_pending { as_it_is_to_be(pool, taken).await } else { None };
        let mut verifying = std::pin::pin!(self.verify(taken, pending, message.as_ref(), &watched));
        let accepts = loop {
            match timeout(TOLD, &mut verifying).await {
                Ok(accepts) => break accepts,
                Err(_) => {
                    let steps = watched.steps();
                    if steps.len() != told {
                        tell(pool, relay, taken, &steps, None).await;
                        told = steps.len();
                    }
                }
            }
        };
        if let Some(message) = message.as_ref().filter(|_| accepts) {
            test_message::taken(pool, taken, message).await;
        }
        tell(pool, relay, taken, &watched.steps(), Some(accepts)).await;
    }

    /// The test message, if one is asked for. The error says what to do.
    async fn prepare(&self, pool: &PgPool, taken: &Taken) -> Result<Option<Prepared>, String> {
        let Some(destination) = taken.test else { return Ok(None) };
        let hostname = &self.dialer.hostname;
        let from = test_message::From { hostname, relay: &self.relay_name, returns: self.returns.as_ref() };
        test_message::prepare(pool, taken, destination, from).await.map(Some)
    }

    /// Whether the gateway accepts the recipient and, if there is one, the message.
    /// `pending`: the gateway with a change of its record that is not live yet, where that is asked about.
    pub async fn verify(
        &self,
        taken: &Taken,
        pending: Option<Arc<Gateway>>,
        message: Option<&Prepared>,
        watched: &Watched,
    ) -> bool {
        watched.begins(Stage::LookUp);
        let until = Instant::now() + self.patience;
        let Some(peer) = self.peer(taken, pending).await else {
            watched.advises("This relay does not know the gateway yet: try again in a moment.".to_owned());
            watched.ends(Outcome::Failed);
            return false;
        };
        let of_message = message.map(|message| message.recipient.clone());
        let recipient = of_message.or_else(|| taken.recipient.clone()).unwrap_or_else(|| self.recipient.clone());
        let probe = Probe { sender: taken.sender.clone(), recipient };
        let walking = async {
            match self.walk(&peer, &probe, message, watched).await {
                Ok(is_encrypted) => Ok(is_encrypted),
                Err(failure) => Err(self.failing(&peer, failure, watched).await),
            }
        };
        match timeout_at(until.into(), walking).await.unwrap_or_else(|_| Err((watched.stage(), Failing::TimedOut))) {
            Ok(is_encrypted) => {
                // Whatever the server does now, it has accepted.
                let _ = timeout(LOOKING_FURTHER, self.look_further(&peer, &probe, is_encrypted, watched)).await;
                watched.ends(Outcome::Passed);
                true
            }
            Err((stage, failing)) => {
                self.explain(&peer, &probe, watched, stage, &failing);
                false
            }
        }
    }

    /// Says at the step that failed what to do.
    fn explain(&self, peer: &Peer, probe: &Probe, watched: &Watched, stage: Stage, failing: &Failing) {
        let from = outbound_address::seen_from(&self.outbound, watched.from());
        let about = About {
            address: &peer.address,
            from: &from,
            hostname: &self.dialer.hostname,
            probe,
            signs_in: peer.record.as_ref().is_some_and(|gateway| gateway.settings.sign_in.is_some()),
            is_encrypted: watched.lock().is_encrypted,
        };
        if watched.stage() != stage {
            watched.begins(stage);
        }
        if let Failing::Said(reply) = failing {
            watched.said(reply);
        }
        watched.advises(verification::advice(stage, failing, &about));
        watched.ends(Outcome::Failed);
    }

    /// The gateway as mail would use it, or one that nobody has saved; `None`: this relay has not heard of it.
    async fn peer(&self, taken: &Taken, pending: Option<Arc<Gateway>>) -> Option<Peer> {
        let gateway = match taken.gateway {
            Some(_) if pending.is_some() => pending?,
            Some(id) => {
                let wanted = taken.revision.unwrap_or_default();
                let is_wanted =
                    |saved: &Arc<Gateway>| saved.organization == taken.organization && saved.revision >= wanted;
                let known = async {
                    loop {
                        match self.table.gateway(id).filter(is_wanted) {
                            Some(gateway) => return gateway,
                            None => sleep(LOOKS).await,
                        }
                    }
                };
                timeout(HEARS_WITHIN, known).await.ok()?
            }
            None => Arc::new(Gateway {
                organization: taken.organization,
                id: GatewayId::new(),
                revision: 0,
                address: taken.address.clone(),
                tls: TlsMode::WhenOffered,
                settings: GatewaySettings::default().shared(),
            }),
        };
        Some(self.table.within_networks(Peer::gateway(&gateway, Scope::Organization)))
    }

    /// As far as mail goes. Returns whether it is encrypted.
    async fn walk(
        &self,
        peer: &Peer,
        probe: &Probe,
        message: Option<&Prepared>,
        watched: &Watched,
    ) -> Result<bool, Failure> {
        let mut connection = self.dialer.dial_before(peer, watched).await?;
        let is_encrypted = connection.tls_session().is_some();
        ask(&mut connection, probe, watched).await?;
        if let Some(message) = message {
            send(&mut connection, message, watched).await?;
        } else {
            // What it answers is of no interest any more.
            let _ = connection.ask("RSET").await;
        }
        if !is_encrypted {
            watched.remarks(Stage::Hello, "Mail goes to it in clear: turn TLS on at the server.".to_owned());
        }
        // What its record says is known: such a message is refused here, in words.
        let known = peer.limits.largest_message.unwrap_or(u64::MAX);
        if let Some(most) = connection.largest_message()
            && let Some(remark) = verification::too_small(most, self.largest.min(known))
        {
            watched.remarks(Stage::Hello, remark);
        }
        connection.quit().await;
        Ok(is_encrypted)
    }

    /// Looks for what could be better, on connections of its own.
    async fn look_further(&self, peer: &Peer, probe: &Probe, is_encrypted: bool, watched: &Watched) {
        if is_encrypted && peer.tls != TlsMode::Verified {
            self.ask_certificate(peer, watched).await;
        }
        if let Some(without) = without_sign_in(peer)
            && let Ok(mut connection) = self.dialer.dial(&without).await
            && ask(&mut connection, probe, &Nobody).await.is_ok()
        {
            let _ = connection.ask("RSET").await;
            watched.remarks(Stage::SignIn, "It accepts us without the user name and the password as well.".to_owned());
            connection.quit().await;
        }
    }

    /// Says whether it would be connected to as well if its record said “required and verified”, as all of the record says,
    /// and what would be wrong.
    async fn ask_certificate(&self, peer: &Peer, watched: &Watched) {
        let verified = Peer { tls: TlsMode::Verified, ..peer.clone() };
        match self.dialer.dial(&verified).await {
            Ok(connection) => {
                watched.would_verify();
                connection.quit().await;
            }
            Err(failure) => {
                if let Answer::Trouble(trouble) = failure.answer
                    && let Failing::Certificate(fault) = self.of_trouble(&verified, trouble).await
                {
                    watched.remarks(Stage::Tls, verification::would_not_verify(&fault, &peer.address));
                }
            }
        }
    }

    async fn failing(&self, peer: &Peer, failure: Failure, watched: &Watched) -> (Stage, Failing) {
        let stage = failure.stage;
        let failing = match failure.answer {
            Answer::Reply(reply) => Failing::Said(reply),
            Answer::Ours(reply) => Failing::Ours(sentence(&reply.lines.join(" "))),
            Answer::Trouble(trouble) => self.of_trouble(peer, trouble).await,
        };
        let is_silent = matches!(failing, Failing::TimedOut | Failing::Closed | Failing::NotSmtp);
        let connected = watched.lock().connected.filter(|_| stage == Stage::Greeting && is_silent);
        match connected {
            Some(address) if self.speaks_tls_at_once(peer, address).await => (stage, Failing::SpeaksTlsAtOnce),
            _ => (stage, failing),
        }
    }

    async fn of_trouble(&self, peer: &Peer, trouble: Trouble) -> Failing {
        match trouble {
            Trouble::LookUp(LookUpError::NotFound(_)) => Failing::NoSuchName,
            Trouble::LookUp(LookUpError::Unavailable(_, why)) => Failing::NameNotAnswered(why),
            Trouble::Forbidden(refusal) => Failing::Ours(refusal.to_string()),
            Trouble::Connect(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Failing::PortClosed,
            Trouble::TimedOut(_) => Failing::TimedOut,
            Trouble::Closed | Trouble::Broken(_) => Failing::Closed,
            Trouble::Garbage | Trouble::ReplyTooLong => Failing::NotSmtp,
            Trouble::TlsNotOffered => Failing::TlsNotOffered,
            Trouble::SignInNotOffered => Failing::SignInNotOffered,
            Trouble::Secret(error) => Failing::Ours(sentence(&error.to_string())),
            Trouble::Authority => Failing::Ours(sentence(&Trouble::Authority.to_string())),
            Trouble::Handshake(error) => match certificate::error_of(&error) {
                Some(fault) => Failing::Certificate(certificate::fault(fault, self.certificate(peer).await.as_ref())),
                None => Failing::Other(format!("the TLS handshake failed: {error}")),
            },
            Trouble::Connect(error) | Trouble::Unreadable(error) => Failing::Other(error.to_string()),
        }
    }

    /// The certificate that was not accepted, seen by a connection that accepts any, on which nothing is sent.
    async fn certificate(&self, peer: &Peer) -> Option<Certificate> {
        let any = Peer { tls: TlsMode::Required, record: None, ..peer.clone() };
        let connection = timeout(LIMITS.command, self.dialer.dial(&any)).await.ok()?.ok()?;
        let certificate = Certificate::of(connection.tls_session()?);
        connection.quit().await;
        certificate
    }

    /// On the address that was just connected to: nothing is looked up again.
    async fn speaks_tls_at_once(&self, peer: &Peer, address: SocketAddr) -> bool {
        let any = Peer { tls: TlsMode::Required, record: None, ..peer.clone() };
        let (Ok(connector), Ok(name)) = (self.dialer.tls.connector(&any), tls::expected_name(&any)) else {
            return false;
        };
        let handshake = async { Connection::connect(address, LIMITS).await?.encrypt(&connector, name).await };
        matches!(timeout(TLS_AT_ONCE, handshake).await, Ok(Ok(_)))
    }
}

/// DATA, the message and the answer to its dot, as mail goes.
async fn send(connection: &mut Connection, message: &Prepared, witness: &dyn Witness) -> Result<(), Failure> {
    witness.begins(Stage::Dot);
    let reply = connection.ask("DATA").await.map_err(|trouble| Failure::trouble(Stage::Dot, trouble))?;
    let answered = match reply.is_intermediate() {
        true => {
            connection.send(&Source::Content(Content::Memory(message.content.clone()))).await?;
            connection.answer().await
        }
        false => Err(Failure::reply(Stage::Dot, reply)),
    };
    match &answered {
        Ok(reply) | Err(Failure { answer: Answer::Reply(reply), .. }) => witness.sees(Sight::Reply(reply)),
        Err(_) => {}
    }
    answered.map(drop)
}

/// MAIL and RCPT. Nothing is sent.
async fn ask(connection: &mut Connection, probe: &Probe, witness: &dyn Witness) -> Result<(), Failure> {
    // RFC 6531 §3.4.
    let smtputf8 = if probe.sender.is_ascii() && probe.recipient.is_ascii() { "" } else { " SMTPUTF8" };
    let commands = [
        (Stage::Mail, format!("MAIL FROM:<{}>{smtputf8}", probe.sender)),
        (Stage::Recipient, format!("RCPT TO:<{}>", probe.recipient)),
    ];
    for (stage, command) in commands {
        witness.begins(stage);
        let reply = connection.ask(&command).await.map_err(|trouble| Failure::trouble(stage, trouble))?;
        witness.sees(Sight::Reply(&reply));
        if !reply.is_positive() {
            return Err(Failure::reply(stage, reply));
        }
    }
    Ok(())
}

/// The gateway with the change of its record that is not live yet, which no mail is routed by.
async fn as_it_is_to_be(pool: &PgPool, taken: &Taken) -> Option<Arc<Gateway>> {
    let (id, revision) = taken.gateway.zip(taken.revision)?;
    let reading = async {
        let mut db = pool.acquire().await?;
        store::routing_facts::gateway_as_of_across_tenants(&mut db, taken.organization, id, revision).await
    };
    timeout(STORE_PATIENCE, reading).await.ok()?.ok()?.map(Arc::new)
}

/// The same gateway without its sign-in, if it has one.
fn without_sign_in(peer: &Peer) -> Option<Peer> {
    let gateway = peer.record.as_ref()?;
    gateway.settings.sign_in.as_ref()?;
    let settings = GatewaySettings { sign_in: None, ..(*gateway.settings).clone() }.shared();
    Some(Peer { record: Some(Arc::new(Gateway { settings, ..(**gateway).clone() })), ..peer.clone() })
}

async fn tell(pool: &PgPool, relay: RelayId, taken: &Taken, steps: &[Step], accepts: Option<bool>) {
    let telling = store::verification::report_across_tenants(pool, relay, taken, steps, accepts);
    match timeout(STORE_PATIENCE, telling).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "what a verification found could not be told"),
        Err(_) => tracing::warn!("what a verification found could not be told in time"),
    }
}

/// What was said in the middle of a sentence, as one.
fn sentence(words: &str) -> String {
    let mut characters = words.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}{}", characters.as_str(), if words.ends_with('.') { "" } else { "." })
}

/// As much of it as is shown.
fn shown(reply: &Reply) -> String {
    reply.to_string().chars().take(SHOWN).collect()
}

/// The steps of a verification that is under way.
#[derive(Debug, Default)]
pub struct Watched(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    steps: Vec<Step>,
    begun: Option<Instant>,
    connected: Option<SocketAddr>,
    from: Option<IpAddr>,
    is_encrypted: bool,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So far.
    pub fn steps(&self) -> Vec<Step> {
        self.lock().steps.clone()
    }

    fn stage(&self) -> Stage {
        self.lock().steps.last().map_or(Stage::LookUp, |step| step.stage)
    }

    fn from(&self) -> Option<IpAddr> {
        self.lock().from
    }

    /// The words by which a step failed, which its witness may have heard before.
    fn said(&self, reply: &Reply) {
        if let Some(step) = self.lock().steps.last_mut() {
            let shown = shown(reply);
            if step.saw.last() != Some(&shown) {
                step.saw.push(shown);
            }
        }
    }

    fn advises(&self, advice: String) {
        if let Some(step) = self.lock().steps.last_mut() {
            step.advice = Some(advice);
        }
    }

    fn remarks(&self, stage: Stage, remark: String) {
        if let Some(step) = self.lock().steps.iter_mut().find(|step| step.stage == stage) {
            step.advice = Some(match step.advice.take() {
                Some(advice) => format!("{advice} {remark}"),
                None => remark,
            });
        }
    }

    fn would_verify(&self) {
        let remark = "Its certificate is valid: you can choose “required and verified” on the gateway's page.";
        self.remarks(Stage::Tls, remark.to_owned());
        if let Some(step) = self.lock().steps.iter_mut().find(|step| step.stage == Stage::Tls) {
            step.would_verify = true;
        }
    }

    fn ends(&self, outcome: Outcome) {
        let mut seen = self.lock();
        let took = seen.begun.take().map_or(0, |begun| u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX));
        if let Some(step) = seen.steps.last_mut().filter(|step| step.outcome == Outcome::UnderWay) {
            (step.outcome, step.took) = (outcome, took);
        }
    }
}

impl Witness for Watched {
    fn begins(&self, stage: Stage) {
        let is_same = self.lock().steps.last().is_some_and(|step| step.stage == stage);
        if is_same {
            return;
        }
        self.ends(Outcome::Passed);
        let mut seen = self.lock();
        seen.begun = Some(Instant::now());
        let (outcome, saw) = (Outcome::UnderWay, Vec::new());
        seen.steps.push(Step { stage, outcome, took: 0, saw, advice: None, would_verify: false, from: None });
    }

    fn sees(&self, sight: Sight<'_>) {
        let mut seen = self.lock();
        let (mut saw, mut advice) = (Vec::new(), None);
        match sight {
            Sight::Addresses(addresses) => saw.extend(addresses.iter().map(|address| address.ip().to_string())),
            Sight::Connected(address, connection) => {
                seen.connected = Some(address);
                seen.from = connection.local_address().map(|from| from.ip());
                saw.push(match seen.from {
                    Some(from) => format!("{address} from {from}"),
                    None => address.to_string(),
                });
            }
            Sight::Reply(reply) => saw.push(shown(reply)),
            Sight::Encrypted(connection) => {
                seen.is_encrypted = true;
                saw = certificate::seen(connection);
            }
            Sight::GoesOnInClear => {
                advice =
                    Some("The TLS handshake fails, and mail goes in clear: look into the server's log.".to_owned());
            }
        }
        let from = seen.from;
        let Some(step) = seen.steps.last_mut() else { return };
        step.saw.extend(saw);
        if step.stage == Stage::Connect {
            step.from = from;
        }
        step.advice = advice.or(step.advice.take());
    }
}
