//! Makes connections ready for mail: look-up, the check of where it leads, greeting, EHLO and TLS.
//! Below the pool, which keeps what is made here.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    connection::{Connection, TimeLimits},
    peer::Peer,
    reply_reader::{Extensions, parse_extensions},
    sign_in::Credential,
    tls::{self, Tls},
    trouble::{Failure, Trouble},
};
use crate::{
    mail::GatewayHost,
    policy::{
        facts::TlsMode,
        fault::Stage,
        gateway_network::{self, AllowedNetworks},
    },
    relay::{resolver::Resolver, secret_keys::SecretKeys},
};

/// At most this many addresses of one name are tried: whoever has the name chooses how many there are.
const MOST_ADDRESSES: usize = 10;

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
}

/// How a connection is made when TLS is wanted only where it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Tried,
    /// The handshake has just failed, and the mode lets mail go in clear.
    GivenUp,
}

impl Dialer {
    /// A connection on which MAIL can follow; the addresses of the name are tried in turn.
    pub async fn dial(&self, peer: &Peer) -> Result<Connection, Failure> {
        let credential = Credential::of(peer.record.as_deref(), &self.keys)?;
        let mut last = None;
        for ip in self.addresses(peer).await?.into_iter().take(MOST_ADDRESSES) {
            match self.open(peer, SocketAddr::new(ip, peer.address.port())).await {
                Ok(mut connection) => {
                    if let Some(credential) = &credential {
                        credential.sign_in(&mut connection, peer.tls).await?;
                    }
                    return Ok(connection);
                }
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| Failure::trouble(Stage::Connect, Trouble::Closed)))
    }

    /// The addresses that may be connected to. The check is made on exactly what is connected to, so
    /// that a name which answers differently the next time gains nothing.
    async fn addresses(&self, peer: &Peer) -> Result<Vec<IpAddr>, Failure> {
        let found = match peer.address.host() {
            GatewayHost::Ip(ip) => vec![*ip],
            GatewayHost::Name(name) => {
                let found = self.resolver.addresses(name.as_str()).await;
                found.map_err(|error| Failure::trouble(Stage::LookUp, error.into()))?
            }
        };
        if !peer.is_checked() {
            return Ok(found);
        }
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len());
        for ip in found {
            match gateway_network::check(ip, peer.address.port(), &self.allowed) {
                Ok(()) => allowed.push(ip),
                Err(refusal) => refused = Some(refusal),
            }
        }
        match refused {
            Some(refusal) if allowed.is_empty() => Err(Failure::trouble(Stage::Connect, Trouble::Forbidden(refusal))),
            _ => Ok(allowed),
        }
    }

    async fn open(&self, peer: &Peer, address: SocketAddr) -> Result<Connection, Failure> {
        match self.open_with(peer, address, Encryption::Tried).await {
            // RFC 7435 §3: a failed handshake is no reason to wait where clear text is allowed.
            Err(failure) if failure.stage == Stage::Tls && peer.tls == TlsMode::WhenOffered => {
                tracing::info!(%peer, reason = ?failure.answer, "TLS failed, trying without");
                self.open_with(peer, address, Encryption::GivenUp).await
            }
            opened => opened,
        }
    }

    async fn open_with(&self, peer: &Peer, address: SocketAddr, wish: Encryption) -> Result<Connection, Failure> {
        let connected = Connection::connect(address, self.limits).await;
        let mut connection = connected.map_err(|trouble| Failure::trouble(Stage::Connect, trouble))?;
        let greeting = connection.reply(self.limits.command).await;
        let greeting = greeting.map_err(|trouble| Failure::trouble(Stage::Greeting, trouble))?;
        if !greeting.is_positive() {
            return Err(Failure::reply(Stage::Greeting, greeting));
        }
        self.hello(&mut connection).await?;
        match (connection.extensions.starttls, wish, peer.tls) {
            (true, Encryption::Tried, _) => self.encrypt(connection, peer).await,
            (_, _, TlsMode::WhenOffered) => Ok(connection),
            _ => Err(Failure::trouble(Stage::Tls, Trouble::TlsNotOffered)),
        }
    }

    /// EHLO, or HELO to a server that does not know it (RFC 5321 §3.2).
    async fn hello(&self, connection: &mut Connection) -> Result<(), Failure> {
        let trouble = |trouble| Failure::trouble(Stage::Hello, trouble);
        connection.output.extend_from_slice(format!("EHLO {}\r\n", self.hostname).as_bytes());
        connection.flush(self.limits.command).await.map_err(trouble)?;
        let (reply, raw) = connection.raw_reply(self.limits.command).await.map_err(trouble)?;
        if reply.is_positive() {
            connection.extensions = parse_extensions(&raw);
            return Ok(());
        }
        if !reply.is_permanent() {
            return Err(Failure::reply(Stage::Hello, reply));
        }
        connection.extensions = Extensions::default();
        connection.output.extend_from_slice(format!("HELO {}\r\n", self.hostname).as_bytes());
        connection.flush(self.limits.command).await.map_err(trouble)?;
        let reply = connection.reply(self.limits.command).await.map_err(trouble)?;
        if reply.is_positive() { Ok(()) } else { Err(Failure::reply(Stage::Hello, reply)) }
    }

    async fn encrypt(&self, mut connection: Connection, peer: &Peer) -> Result<Connection, Failure> {
        let trouble = |trouble| Failure::trouble(Stage::Tls, trouble);
        connection.output.extend_from_slice(b"STARTTLS\r\n");
        connection.flush(self.limits.command).await.map_err(trouble)?;
        let reply = connection.reply(self.limits.command).await.map_err(trouble)?;
        if !reply.is_positive() {
            return Err(Failure::reply(Stage::Tls, reply));
        }
        let name = tls::expected_name(peer).map_err(trouble)?;
        let connector = self.tls.connector(peer).map_err(trouble)?;
        let mut connection = connection.encrypt(&connector, name).await.map_err(trouble)?;
        // RFC 3207 §4.2: what was offered in clear counts no more.
        self.hello(&mut connection).await?;
        Ok(connection)
    }
}
