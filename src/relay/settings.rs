//! What the operator decides about a relay. A plain value: flags and environment are `config`'s,
//! and every part of the relay is given the settings that it needs.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{handover::tls::Authorities, submission::tls::ServerTls, trace::upkeep::Kept};
use crate::{
    mail::{ReturnAddress, short_id::MessageLinks},
    policy::{
        gateway_network::AllowedNetworks,
        retry::{BackOff, Schedule},
        routing::PlatformDefault,
    },
};

/// Everything that a relay is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Under which it signs on: one running relay a name.
    pub name: String,
    /// Its host name in greetings, replies and `Received` fields.
    pub hostname: String,
    /// `OUTGATE_PUBLIC_URL`: how messages are named in refusals and notifications.
    pub links: MessageLinks,
    /// `OUTGATE_SMTP_LISTEN`.
    pub smtp_listen: Vec<SocketAddr>,
    /// `OUTGATE_SMTPS_LISTEN`: where a connection begins with TLS.
    pub smtps_listen: Vec<SocketAddr>,
    /// `OUTGATE_SMTP_CERTIFICATE_FILE` and `OUTGATE_SMTP_KEY_FILE`; without them clients can neither encrypt nor sign in.
    pub tls: Option<Arc<ServerTls>>,
    /// `OUTGATE_PROXY_NETWORKS`: who says in a PROXY header whose connection it passes on, and must.
    pub proxy_networks: Vec<IpNet>,
    /// `OUTGATE_TRUSTED_NETWORKS`: clients here submit for every organization without signing in.
    pub trusted_networks: Vec<IpNet>,
    /// `OUTGATE_DEFAULT_ROUTE`.
    pub default: PlatformDefault,
    /// `OUTGATE_HANDOVER`: pass messages on while their client waits; else everything is queued first.
    pub handover: bool,
    /// `OUTGATE_HANDOVER_WAIT`: how long a client waits for the gateway's answer.
    pub handover_wait: Duration,
    /// Networks that are not public and may hold gateways all the same.
    pub allowed: AllowedNetworks,
    /// `OUTGATE_ALLOWED_WEBHOOK_NETWORKS`: the same for webhooks.
    pub webhook_networks: AllowedNetworks,
    /// In bytes, as SIZE announces it.
    pub max_message_size: u64,
    /// `OUTGATE_MAX_STALENESS`: how long mail is routed on what was known before the store went away.
    pub max_staleness: Duration,
    /// Where messages that are too large for memory stand while they are received.
    pub spool_dir: PathBuf,
    /// Memory that messages in flight may take together, in bytes; beyond it they are spooled early.
    pub message_memory: usize,
    /// What one organization may have waiting.
    pub queue_limits: QueueLimits,
    /// After how long another relay takes over the messages of one that is gone.
    pub lease: Duration,
    /// How long the relay may take to stop: mail in flight has all of it but the last five seconds.
    pub stop_within: Duration,
    /// `OUTGATE_PROBE_RECIPIENT`: an outside address that a verification asks gateways to take mail for.
    pub probe_recipient: String,
    /// `OUTGATE_OUTBOUND_ADDRESSES`: where its connections are seen to come from; none: from this machine's own addresses.
    pub outbound_addresses: Vec<IpNet>,
    /// `OUTGATE_PROBE_GATEWAYS`: after how long without mail a gateway is connected to; `None`: never.
    pub probe_gateways: Option<Duration>,
    /// `OUTGATE_GATEWAY_AUTHORITIES`: who is trusted besides those that browsers trust, where a certificate is verified.
    pub authorities: Authorities,
    /// `OUTGATE_RETURN_ADDRESS`: where test messages come back to, at a domain whose mail leads to the relays.
    pub return_address: Option<ReturnAddress>,
    /// How long mail waits, and when it is tried again.
    pub schedule: Schedule,
    /// When failing gateways are asked again.
    pub back_off: BackOff,
    /// How long it is kept what happened to messages.
    pub trace_kept: Kept,
    pub limits: SubmissionLimits,
    /// `OUTGATE_SECRET_KEY_FILE`: the keys that passwords of gateways are opened with.
    pub secret_key_file: Option<PathBuf>,
}

/// What one organization may have in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    pub messages: u64,
    pub bytes: u64,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { messages: 200_000, bytes: 20 * 1024 * 1024 * 1024 }
    }
}

/// What a stopping relay keeps for giving leases back and signing off.
const LAST_STEPS: Duration = Duration::from_secs(5);

impl Settings {
    /// A relay on the default port of the loopback interface, with the default of everything.
    pub fn new(name: impl Into<String>, hostname: impl Into<String>, default: PlatformDefault) -> Self {
        let hostname = hostname.into();
        Self {
            name: name.into(),
            probe_recipient: format!("postmaster@{hostname}"),
            links: MessageLinks::default(),
            return_address: None,
            outbound_addresses: Vec::new(),
            probe_gateways: Some(Duration::from_secs(10 * 60)),
            hostname,
            smtp_listen: vec![SocketAddr::from(([127, 0, 0, 1], 2525))],
            smtps_listen: Vec::new(),
            tls: None,
            proxy_networks: Vec::new(),
            trusted_networks: loopback(),
            default,
            handover: true,
            handover_wait: Duration::from_secs(20),
            allowed: AllowedNetworks::default(),
            webhook_networks: AllowedNetworks::default(),
            max_message_size: 50 * 1024 * 1024,
            max_staleness: Duration::from_secs(24 * 60 * 60),
            spool_dir: std::env::temp_dir(),
            message_memory: 36 * 1024 * 1024,
            queue_limits: QueueLimits::default(),
            lease: Duration::from_secs(2 * 60),
            stop_within: Duration::from_secs(30),
            schedule: Schedule::default(),
            back_off: BackOff::default(),
            trace_kept: Kept::default(),
            limits: SubmissionLimits::default(),
            secret_key_file: None,
            authorities: Authorities::default(),
        }
    }

    /// How long mail in flight may take when the relay stops.
    pub fn finishing(&self) -> Duration {
        self.stop_within.saturating_sub(LAST_STEPS).max(Duration::from_secs(1))
    }

    /// How long clients have of that: attempts at what they have submitted may follow.
    pub fn finishing_of_clients(&self) -> Duration {
        self.limits.stopping.min(self.finishing() * 4 / 5)
    }
}

/// 127.0.0.0/8 and ::1.
fn loopback() -> Vec<IpNet> {
    vec![IpNet::new_assert([127, 0, 0, 0].into(), 8), IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128)]
}

/// What one client may take of what all clients share.
#[derive(Debug, Clone)]
pub struct SubmissionLimits {
    /// Connections at a time, of all clients together.
    pub connections: usize,
    /// Connections at a time of one client address in a trusted network.
    pub connections_of_trusted_client: usize,
    /// Connections at a time of any other client address.
    pub connections_of_other_client: usize,
    /// Connections at a time of all clients that have signed in for one organization.
    pub connections_of_organization: usize,
    /// How long who is not in a trusted network may take to sign in, or to begin a message that is taken without it.
    pub introduction: Duration,
    /// Between two commands, or two pieces of a message (RFC 5321 §4.5.3.2.7 asks for five minutes at least).
    pub idle: Duration,
    /// From MAIL to the end of the message, so that a client that sends a byte a minute ends too.
    pub transaction: Duration,
    /// How fast a message has to come on the whole, once it has taken longer than `idle`.
    pub bytes_per_second: u64,
    /// How long a TLS handshake, or a proxy's header, may take.
    pub handshake: Duration,
    /// How long a message in flight may still take at most when the relay stops.
    pub stopping: Duration,
    /// Room that the spool's file system has to have left, in bytes, for large messages to be taken.
    pub least_free_space: u64,
}

impl Default for SubmissionLimits {
    fn default() -> Self {
        Self {
            connections: 2000,
            connections_of_trusted_client: 1000,
            connections_of_other_client: 10,
            connections_of_organization: 500,
            introduction: Duration::from_secs(60),
            idle: Duration::from_secs(5 * 60),
            transaction: Duration::from_secs(30 * 60),
            bytes_per_second: 500,
            handshake: Duration::from_secs(30),
            stopping: Duration::from_secs(30),
            least_free_space: 10 * 1024 * 1024,
        }
    }
}
