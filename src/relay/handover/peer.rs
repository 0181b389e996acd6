//! A server that mail is handed to: a tenant's gateway, the platform's smarthost, or a recipient's own server.
//! The key of pool and health is here: never shared between tenants or revisions.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use ipnet::IpNet;

use crate::{
    mail::{
        DomainName, GatewayAddress, GatewayHost,
        id::{GatewayId, OrganizationId},
    },
    policy::{
        facts::{Gateway, TlsMode},
        gateway_settings::{GatewayLimits, MOST_CONNECTIONS, OwnDomains},
        routing::Scope,
    },
};

/// What connections are pooled by and troubles are counted by. A new revision of a gateway is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerKey {
    Gateway(OrganizationId, GatewayId, i64),
    Smarthost(GatewayAddress),
    RecipientsServer(GatewayAddress),
    /// Where an organization's administrators said that mail to a mail domain of theirs is delivered.
    InboundHost(OrganizationId, GatewayAddress),
}

/// Everything that a connection to it needs.
#[derive(Debug, Clone)]
pub struct Peer {
    pub key: PeerKey,
    pub address: GatewayAddress,
    pub tls: TlsMode,
    /// The scope whose pointer led here; none leads to the platform's and the recipients' servers.
    pub set_by: Option<Scope>,
    /// The record of a tenant's gateway: how its certificate is verified, whom to sign in as.
    pub record: Option<Arc<Gateway>>,
    pub limits: Limits,
    /// The gateway that mail waits for when it goes here; another one if this is its backup.
    pub waits_for: Option<GatewayId>,
    /// Who stands in while this one is out of reach, the first to be asked first.
    pub backups: Arc<[Peer]>,
    /// Whether mail to the organization's own domains goes here as well.
    pub own_domains: OwnDomains,
    /// Private networks of its organization's own that it may be in.
    pub networks: Arc<[IpNet]>,
}

/// How much a server is given by this relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At once.
    pub connections: usize,
    pub messages_per_connection: u32,
    pub messages_per_minute: Option<u32>,
    /// In bytes.
    pub largest_message: Option<u64>,
}

impl Limits {
    /// The platform's smarthost: as a gateway whose record says nothing.
    const SMARTHOST: Self = Self {
        connections: MOST_CONNECTIONS as usize,
        messages_per_connection: u32::MAX,
        messages_per_minute: None,
        largest_message: None,
    };

    fn of(limits: &GatewayLimits) -> Self {
        Self {
            connections: limits.connections.into(),
            messages_per_connection: limits.messages_per_connection.unwrap_or(u32::MAX),
            messages_per_minute: limits.messages_per_minute,
            largest_message: limits.largest_message,
        }
    }

    /// A recipient's own server: it never asked for us.
    const RECIPIENTS_SERVER: Self =
        Self { connections: 5, messages_per_connection: 100, messages_per_minute: None, largest_message: None };
}

impl Peer {
    pub fn gateway(gateway: &Arc<Gateway>, set_by: Scope) -> Self {
        Self {
            key: PeerKey::Gateway(gateway.organization, gateway.id, gateway.revision),
            address: gateway.address.clone(),
            tls: gateway.tls,
            set_by: Some(set_by),
            record: Some(gateway.clone()),
            limits: Limits::of(&gateway.settings.limits),
            waits_for: Some(gateway.id),
            backups: no_backups(),
            own_domains: gateway.settings.own_domains,
            networks: Arc::default(),
        }
    }

    /// Where its organization's own networks are these. Said before its backups are.
    pub fn within(self, networks: Arc<[IpNet]>) -> Self {
        Self { networks, ..self }
    }

    /// With these gateways standing in for it, the first to be asked first.
    pub fn with_backups<'a>(self, backups: impl Iterator<Item = &'a Arc<Gateway>>) -> Self {
        let backup = |gateway| Self {
            set_by: self.set_by,
            waits_for: self.waits_for,
            networks: self.networks.clone(),
            ..Self::gateway(gateway, Scope::Organization)
        };
        let backups = backups.map(backup).collect();
        Self { backups, ..self }
    }

    /// Whether mail for this one may go there: it is this one or one of its backups.
    pub fn includes(&self, key: &PeerKey) -> bool {
        self.key == *key || self.backups.iter().any(|backup| backup.key == *key)
    }

    pub fn smarthost(address: &GatewayAddress) -> Self {
        Self::of_platform(PeerKey::Smarthost(address.clone()), address.clone(), Limits::SMARTHOST)
    }

    pub fn recipients_server(host: GatewayHost, port: u16) -> Self {
        let address = GatewayAddress::new(host, port);
        Self::of_platform(PeerKey::RecipientsServer(address.clone()), address, Limits::RECIPIENTS_SERVER)
    }

    /// Where an administrator said that mail to a mail domain is delivered. It is checked like a gateway, and asked
    /// like the server that an MX record names, but never over a connection that somebody else's mail was given: it may
    /// be in networks of this organization alone.
    pub fn inbound_host(organization: OrganizationId, address: &GatewayAddress) -> Self {
        let key = PeerKey::InboundHost(organization, address.clone());
        Self::of_platform(key, address.clone(), Limits::RECIPIENTS_SERVER)
    }

    fn of_platform(key: PeerKey, address: GatewayAddress, limits: Limits) -> Self {
        let tls = TlsMode::WhenOffered;
        let own_domains = OwnDomains::Gateway;
        Self {
            key,
            address,
            tls,
            set_by: None,
            record: None,
            limits,
            waits_for: None,
            backups: no_backups(),
            own_domains,
            networks: Arc::default(),
        }
    }

    /// Whose choice it is, if it is an organization's.
    pub fn organization(&self) -> Option<OrganizationId> {
        match self.key {
            PeerKey::Gateway(organization, ..) | PeerKey::InboundHost(organization, _) => Some(organization),
            PeerKey::Smarthost(_) | PeerKey::RecipientsServer(_) => None,
        }
    }

    /// Of a tenant's gateway.
    pub fn gateway_id(&self) -> Option<GatewayId> {
        match &self.key {
            PeerKey::Gateway(_, gateway, _) => Some(*gateway),
            _ => None,
        }
    }

    /// The revision of a tenant's gateway.
    pub fn revision(&self) -> Option<i64> {
        match self.key {
            PeerKey::Gateway(_, _, revision) => Some(revision),
            _ => None,
        }
    }

    /// Whether addresses are checked before they are connected to: all but the operator's own choice.
    pub fn is_checked(&self) -> bool {
        !matches!(self.key, PeerKey::Smarthost(_))
    }

    /// Found by MX rather than chosen, or asked as if it were.
    pub fn is_recipients_server(&self) -> bool {
        matches!(self.key, PeerKey::RecipientsServer(_) | PeerKey::InboundHost(..))
    }

    /// The name to find addresses by; `None` for an address.
    pub fn name(&self) -> Option<&DomainName> {
        match self.address.host() {
            GatewayHost::Name(name) => Some(name),
            GatewayHost::Ip(_) => None,
        }
    }
}

/// One for all that have none: a copy costs nothing.
fn no_backups() -> Arc<[Peer]> {
    static NONE: LazyLock<Arc<[Peer]>> = LazyLock::new(|| Arc::new([]));
    NONE.clone()
}

/// As in `gateway mail.example.com said: …`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.key {
            PeerKey::Gateway(..) => "gateway",
            PeerKey::Smarthost(_) => "smarthost",
            PeerKey::RecipientsServer(_) | PeerKey::InboundHost(..) => "mail server",
        };
        write!(f, "{kind} {}", self.address)
    }
}
