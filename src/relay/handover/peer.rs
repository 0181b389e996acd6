//! A server that mail is handed to: a tenant's gateway, the platform's smarthost, or a recipient's own server.
//! The key of pool and health is here: never shared between tenants or revisions.

use std::{fmt, sync::Arc};

use crate::{
    mail::{
        DomainName, GatewayAddress, GatewayHost,
        id::{GatewayId, OrganizationId},
    },
    policy::{
        facts::{Gateway, TlsMode},
        routing::Scope,
    },
};

/// What connections are pooled by and troubles are counted by. A new revision of a gateway is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerKey {
    Gateway(OrganizationId, GatewayId, i64),
    Smarthost(GatewayAddress),
    RecipientsServer(GatewayAddress),
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
}

impl Peer {
    pub fn gateway(gateway: &Arc<Gateway>, set_by: Scope) -> Self {
        Self {
            key: PeerKey::Gateway(gateway.organization, gateway.id, gateway.revision),
            address: gateway.address.clone(),
            tls: gateway.tls,
            set_by: Some(set_by),
            record: Some(gateway.clone()),
        }
    }

    pub fn smarthost(address: &GatewayAddress) -> Self {
        let key = PeerKey::Smarthost(address.clone());
        Self { key, address: address.clone(), tls: TlsMode::WhenOffered, set_by: None, record: None }
    }

    pub fn recipients_server(host: GatewayHost, port: u16) -> Self {
        let address = GatewayAddress::new(host, port);
        let key = PeerKey::RecipientsServer(address.clone());
        Self { key, address, tls: TlsMode::WhenOffered, set_by: None, record: None }
    }

    /// The gateway of a tenant that this is.
    pub fn gateway_id(&self) -> Option<GatewayId> {
        match self.key {
            PeerKey::Gateway(_, id, _) => Some(id),
            PeerKey::Smarthost(_) | PeerKey::RecipientsServer(_) => None,
        }
    }

    /// The revision of a tenant's gateway.
    pub fn revision(&self) -> Option<i64> {
        match self.key {
            PeerKey::Gateway(_, _, revision) => Some(revision),
            PeerKey::Smarthost(_) | PeerKey::RecipientsServer(_) => None,
        }
    }

    /// Whether addresses are checked before they are connected to: all but the operator's own choice.
    pub fn is_checked(&self) -> bool {
        !matches!(self.key, PeerKey::Smarthost(_))
    }

    /// Found by MX rather than chosen.
    pub fn is_recipients_server(&self) -> bool {
        matches!(self.key, PeerKey::RecipientsServer(_))
    }

    /// The name to find addresses by; `None` for an address.
    pub fn name(&self) -> Option<&DomainName> {
        match self.address.host() {
            GatewayHost::Name(name) => Some(name),
            GatewayHost::Ip(_) => None,
        }
    }
}

/// As in `gateway mail.example.com said: …`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.key {
            PeerKey::Gateway(..) => "gateway",
            PeerKey::Smarthost(_) => "smarthost",
            PeerKey::RecipientsServer(_) => "mail server",
        };
        write!(f, "{kind} {}", self.address)
    }
}
