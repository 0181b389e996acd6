//! What a gateway's record says besides address and TLS mode. Most say nothing, and share one value:
//! facts of hundreds of thousands of gateways stay small.

use std::sync::{Arc, LazyLock};

use ipnet::IpNet;

use super::facts::TlsMode;
use crate::{
    mail::{
        DomainName, GatewayAddress,
        id::{GatewayId, OrganizationId},
    },
    secret::{Context, SealedSecret},
};

/// One revision's settings. The default is what a gateway has whose page nobody has filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The name to expect in the certificate instead of the host.
    pub certificate_name: Option<DomainName>,
    pub trust: Trust,
    /// Always together with [`TlsMode::Verified`](super::facts::TlsMode::Verified).
    pub sign_in: Option<SignIn>,
    pub limits: GatewayLimits,
    /// Other gateways of the organization, the first to be tried first. Each is a record of its own.
    pub backups: Vec<GatewayId>,
    pub returning: Returning,
    /// Where mail that comes back comes from.
    pub returning_networks: Vec<IpNet>,
    pub own_domains: OwnDomains,
}

/// What vouches for the certificate where it is verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// The roots that browsers trust.
    #[default]
    Platform,
    /// The organization's own certificate authority, in PEM; several certificates are alternatives.
    Authority(Arc<str>),
    /// The SHA-256 of the certificate itself, whatever name and dates are in it.
    Fingerprint([u8; 32]),
}

/// Whom to sign in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    pub user: String,
    pub secret: SealedSecret,
}

/// How much a gateway is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayLimits {
    /// At once, from each relay: 1 to [`MOST_CONNECTIONS`].
    pub connections: u8,
    pub messages_per_connection: Option<u32>,
    pub messages_per_minute: Option<u32>,
    /// In bytes.
    pub largest_message: Option<u64>,
}

/// The most connections that a gateway can be given at once.
pub const MOST_CONNECTIONS: u8 = 50;

/// What becomes of mail that a gateway hands back to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Returning {
    #[default]
    Refuse,
    /// It is delivered by the platform's default.
    Onward,
}

/// Where mail to the organization's own domains goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OwnDomains {
    /// Through the gateway, as all other mail.
    #[default]
    Gateway,
    /// To the domain's inbound host.
    Inbound,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            connections: MOST_CONNECTIONS,
            messages_per_connection: None,
            messages_per_minute: None,
            largest_message: None,
        }
    }
}

impl GatewaySettings {
    /// In the shared form: the default takes no memory of its own.
    pub fn shared(self) -> Arc<Self> {
        static DEFAULT: LazyLock<Arc<GatewaySettings>> = LazyLock::new(Arc::default);
        if self == **DEFAULT { DEFAULT.clone() } else { Arc::new(self) }
    }
}

/// What a password is sealed for: it opens for nothing else, whatever row it is put into.
pub fn secret_context(
    organization: OrganizationId,
    gateway: GatewayId,
    address: &GatewayAddress,
    tls: TlsMode,
    user: &str,
) -> Context {
    // The address is host and port in canonical form.
    Context::new(&[
        "gateway password",
        &organization.to_string(),
        &gateway.to_string(),
        &address.to_string(),
        &tls.to_string(),
        user,
    ])
}
