//! Makes connections ready for mail: look-up, the check of where it leads, greeting, EHLO and TLS.
//! Below the pool, which keeps what is made here.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use super::{
    connection::{Connection, TimeLimits},
    health::UNUSED,
    peer::{Peer, PeerKey},
    reply_reader::{Extensions, parse_extensions},
    sign_in::Credential,
    tls::{self, Tls},
    trouble::{Answer, Failure, Trouble},
    witness::{Nobody, Sight, Witness},
};
use crate::{
    mail::{EnhancedStatus, GatewayHost, Reply},
    policy::{
        facts::TlsMode,
        fault::Stage,
        gateway_network::{self, AllowedNetworks},
    },
    relay::{resolver::Resolver, secret_keys::SecretKeys},
};

/// At most this many addresses of one name are tried: whoever has the name chooses how many there are.
const MOST_ADDRESSES: usize = 10;

/// How long one address is tried alone before the next one of the name is tried as well (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How long the greeting of one address is waited for while there are others. Servers that make strangers
/// wait do so for less.
const GREETING_AMONG_OTHERS: Duration = Duration::from_secs(10);

/// What all connections are made with.
pub struct Dialer {
    pub resolver: Resolver,
    pub tls: Tls,
    /// What passwords of gateways are opened with.
    pub keys: Arc<SecretKeys>,
    pub allowed: AllowedNetworks,
    /// Our name in EHLO.
    pub hostname: String,
    pub limits: TimeLimits,
    /// Where we listen: mail that went there would go round in circles.
    pub listeners: Vec<SocketAddr>,
    pub known: Known,
}

/// What is remembered of gateways and the smarthost from one connection to the next.
#[derive(Debug, Default)]
pub struct Known {
    /// A std lock: held for a look-up only, never across an await.
    peers: Mutex<HashMap<PeerKey, Last>>,
}

/// How it went the last time that it went well.
#[derive(Debug, Clone, Copy)]
struct Last {
    ip: IpAddr,
    at: Instant,
}

impl Known {
    fn peers(&self) -> MutexGuard<'_, HashMap<PeerKey, Last>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self, peer: &Peer) -> Option<Last> {
        self.peers().get(&peer.key).copied()
    }

    /// Forgets whoever was not connected to for a day at `now`.
    pub fn forget_unused(&self, now: Instant) {
        let mut peers = self.peers();
        peers.retain(|_, last| now.saturating_duration_since(last.at) < UNUSED);
        peers.shrink_to_fit();
    }

    /// How many servers are remembered.
    pub fn count(&self) -> usize {
        self.peers().len()
    }

    fn remember(&self, peer: &Peer, last: Last) {
        if peer.is_recipients_server() {
            return;
        }
        self.peers().insert(peer.key.clone(), last);
    }
}

/// How a connection is made when TLS is wanted only where it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Tried,
    /// The handshake has just failed, and the mode lets mail go in clear.
    GivenUp,
}

impl Dialer {
    /// A connection on which MAIL can follow. The addresses of the name are tried in turn, the one that
    /// worked the last time first.
    pub async fn dial(&self, peer: &Peer) -> Result<Connection, Failure> {
        self.dial_before(peer, &Nobody).await
    }

    /// The same before somebody's eyes.
    pub async fn dial_before(&self, peer: &Peer, witness: &dyn Witness) -> Result<Connection, Failure> {
        let credential = Credential::of(peer.record.as_deref(), &self.keys)?;
        witness.begins(Stage::LookUp);
        let mut untried = self.addresses(peer).await?;
        witness.sees(Sight::Addresses(&untried));
        let mut last = Failure::trouble(Stage::Connect, Trouble::Closed);
        while !untried.is_empty() {
            witness.begins(Stage::Connect);
            let (address, connection) = match self.connect_to_one_of(&mut untried).await {
                Ok(connected) => connected,
                Err(trouble) => return Err(Failure::trouble(Stage::Connect, trouble)),
            };
            witness.sees(Sight::Connected(address, &connection));
            match self.open(peer, address, connection, !untried.is_empty(), witness).await {
                Ok(mut connection) => {
                    if let Some(credential) = &credential {
                        witness.begins(Stage::SignIn);
                        let reply = credential.sign_in(&mut connection, peer.tls).await?;
                        witness.sees(Sight::Reply(&reply));
                    }
                    self.known.remember(peer, Last { ip: address.ip(), at: Instant::now() });
                    return Ok(connection);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Connects to the first of these addresses that answers, and leaves those that may still be tried. One
    /// that is dead costs the next one its head start, not the time until it is given up.
    async fn connect_to_one_of(&self, untried: &mut Vec<SocketAddr>) -> Result<(SocketAddr, Connection), Trouble> {
        if let [only] = untried[..] {
            untried.clear();
            return Ok((only, Connection::connect(only, self.limits).await?));
        }
        let (mut next, mut under_way) = (untried.clone().into_iter().peekable(), JoinSet::new());
        let mut last = Trouble::Closed;
        loop {
            if let Some(address) = next.next() {
                let limits = self.limits;
                under_way.spawn(async move { (address, Connection::connect(address, limits).await) });
            }
            let joined = tokio::select! {
                joined = under_way.join_next() => joined,
                () = sleep(HEAD_START), if next.peek().is_some() => continue,
            };
            match joined {
                None => return Err(last),
                Some(Err(error)) => tracing::error!(%error, "an attempt to connect broke off"),
                Some(Ok((address, connected))) => {
                    untried.retain(|other| *other != address);
                    match connected {
                        Ok(connection) => return Ok((address, connection)),
                        Err(trouble) => last = trouble,
                    }
                }
            }
        }
    }

    /// The addresses that may be connected to, in the order in which they are tried. The check is made on exactly
    /// what is connected to, so that a name which answers differently the next time gains nothing.
    async fn addresses(&self, peer: &Peer) -> Result<Vec<SocketAddr>, Failure> {
        let port = peer.address.port();
        let found_by_mx = peer.is_recipients_server() && port == 25;
        if peer.is_checked()
            && !found_by_mx
            && let Err(refusal) = gateway_network::check_port(port, &self.allowed)
        {
            return Err(Failure::trouble(Stage::Connect, Trouble::Forbidden(refusal)));
        }
        let found = match peer.address.host() {
            GatewayHost::Ip(ip) => vec![*ip],
            GatewayHost::Name(name) => {
                let found = self.resolver.addresses(name.as_str()).await;
                found.map_err(|error| Failure::trouble(Stage::LookUp, error.into()))?
            }
        };
        let mut refusal = None;
        let mut addresses = Vec::with_capacity(found.len());
        for ip in found {
            match self.check(peer, ip, port) {
                Ok(()) => addresses.push(SocketAddr::new(ip, port)),
                Err(failure) => refusal = Some(failure),
            }
        }
        if let (true, Some(refusal)) = (addresses.is_empty(), refusal) {
            return Err(match (peer.address.host(), &refusal.answer) {
                (GatewayHost::Name(_), Answer::Trouble(Trouble::Forbidden(_))) => {
                    Failure::trouble(Stage::Connect, Trouble::Forbidden(gateway_network::Refusal::OfName))
                }
                _ => refusal,
            });
        }
        if let Some(last) = self.known.last(peer) {
            // Stable: the others stay in their order.
            addresses.sort_by_key(|address| address.ip() != last.ip);
        }
        addresses.truncate(MOST_ADDRESSES);
        Ok(addresses)
    }

    fn check(&self, peer: &Peer, ip: IpAddr, port: u16) -> Result<(), Failure> {
        if gateway_network::is_ourselves(ip, port, &self.listeners, is_of_this_machine) {
            let text = "it is this relay itself: mail would go round in circles; an administrator has to change it";
            let reply = Reply::new(554, EnhancedStatus(5, 4, 6), text);
            return Err(Failure { stage: Stage::Connect, answer: Answer::Ours(reply) });
        }
        if !peer.is_checked() {
            return Ok(());
        }
        let checked = gateway_network::check(ip, port, &self.allowed.with(&peer.networks));
        checked.map_err(|refusal| Failure::trouble(Stage::Connect, Trouble::Forbidden(refusal)))
    }

    /// Whether mail for this server may still go over a connection that leads to this address: what its organization may
    /// reach can have been narrowed since it was made.
    pub fn may_use(&self, peer: &Peer, connected: SocketAddr) -> bool {
        let allowed = self.allowed.with(&peer.networks);
        !peer.is_checked() || gateway_network::check(connected.ip(), connected.port(), &allowed).is_ok()
    }

    async fn open(
        &self,
        peer: &Peer,
        address: SocketAddr,
        connection: Connection,
        has_others: bool,
        witness: &dyn Witness,
    ) -> Result<Connection, Failure> {
        match self.open_with(peer, connection, Encryption::Tried, has_others, witness).await {
            // RFC 7435 §3: a failed handshake is no reason to wait where clear text is allowed.
            Err(failure) if failure.stage == Stage::Tls && peer.tls == TlsMode::WhenOffered => {
                tracing::info!(%peer, reason = ?failure.answer, "TLS failed, trying without");
                witness.sees(Sight::GoesOnInClear);
                witness.begins(Stage::Connect);
                let again = Connection::connect(address, self.limits).await;
                let again = again.map_err(|trouble| Failure::trouble(Stage::Connect, trouble))?;
                witness.sees(Sight::Connected(address, &again));
                self.open_with(peer, again, Encryption::GivenUp, has_others, witness).await
            }
            opened => opened,
        }
    }

    async fn open_with(
        &self,
        peer: &Peer,
        mut connection: Connection,
        wish: Encryption,
        has_others: bool,
        witness: &dyn Witness,
    ) -> Result<Connection, Failure> {
        let limit = self.limits.command;
        let limit = if has_others { limit.min(GREETING_AMONG_OTHERS) } else { limit };
        witness.begins(Stage::Greeting);
        let greeting = connection.reply(limit).await;
        let greeting = greeting.map_err(|trouble| Failure::trouble(Stage::Greeting, trouble))?;
        witness.sees(Sight::Reply(&greeting));
        if !greeting.is_positive() {
            return Err(Failure::reply(Stage::Greeting, greeting));
        }
        witness.begins(Stage::Hello);
        witness.sees(Sight::Reply(&self.hello(&mut connection, peer).await?));
        match (connection.extensions.starttls, wish, peer.tls) {
            (true, Encryption::Tried, _) => self.encrypt(connection, peer, witness).await,
            (_, _, TlsMode::WhenOffered) => Ok(connection),
            _ => Err(Failure::trouble(Stage::Tls, Trouble::TlsNotOffered)),
        }
    }

    /// Whoever is found by a name and gives our own is this relay, by a way that we do not know: what it would get
    /// would come back to it (RFC 5321 §6.3).
    fn unless_ourselves(&self, reply: &Reply, peer: &Peer) -> Result<(), Failure> {
        let name = reply.lines.first().and_then(|line| line.split(' ').next()).unwrap_or_default();
        if !peer.is_recipients_server() || !name.eq_ignore_ascii_case(&self.hostname) {
            return Ok(());
        }
        let ourselves = Reply::new(554, EnhancedStatus(5, 4, 6), "it is this relay itself: mail would go in circles");
        Err(Failure { stage: Stage::Hello, answer: Answer::Ours(ourselves) })
    }

    /// EHLO, or HELO to a server that does not know it (RFC 5321 §3.2).
    async fn hello(&self, connection: &mut Connection, peer: &Peer) -> Result<Reply, Failure> {
        let trouble = |trouble| Failure::trouble(Stage::Hello, trouble);
        connection.output.extend_from_slice(format!("EHLO {}\r\n", self.hostname).as_bytes());
        connection.flush(self.limits.command).await.map_err(trouble)?;
        let (reply, raw) = connection.raw_reply(self.limits.command).await.map_err(trouble)?;
        if reply.is_positive() {
            connection.extensions = parse_extensions(&raw);
            return self.unless_ourselves(&reply, peer).map(|()| reply);
        }
        if !reply.is_permanent() {
            return Err(Failure::reply(Stage::Hello, reply));
        }
        connection.extensions = Extensions::default();
        let reply = connection.ask(&format!("HELO {}", self.hostname)).await.map_err(trouble)?;
        if reply.is_positive() { Ok(reply) } else { Err(Failure::reply(Stage::Hello, reply)) }
    }

    async fn encrypt(
        &self,
        mut connection: Connection,
        peer: &Peer,
        witness: &dyn Witness,
    ) -> Result<Connection, Failure> {
        let trouble = |trouble| Failure::trouble(Stage::Tls, trouble);
        witness.begins(Stage::Tls);
        let reply = connection.ask("STARTTLS").await.map_err(trouble)?;
        if !reply.is_positive() {
            return Err(Failure::reply(Stage::Tls, reply));
        }
        let name = tls::expected_name(peer).map_err(trouble)?;
        let connector = self.tls.connector(peer).map_err(trouble)?;
        let mut connection = connection.encrypt(&connector, name).await.map_err(trouble)?;
        witness.sees(Sight::Encrypted(&connection));
        // RFC 3207 §4.2: what was offered in clear counts no more.
        self.hello(&mut connection, peer).await?;
        Ok(connection)
    }
}

/// Whether an address is one of this machine's: only those can be bound to.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}
