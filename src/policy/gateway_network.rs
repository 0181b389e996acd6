//! Which IP addresses and ports a gateway may have. A gateway address is typed by a tenant and connected to by our
//! relay, so without this it would be a way into the platform's own network.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use ipnet::IpNet;

use crate::mail::{GatewayAddress, GatewayHost};

/// What the operator opened: networks whose addresses are not public, and ports.
#[derive(Debug, Clone, Default)]
pub struct AllowedNetworks {
    /// `OUTGATE_ALLOWED_GATEWAY_NETWORKS`.
    pub networks: Vec<IpNet>,
    /// Single listeners: the demonstration's own gateways.
    pub listeners: Vec<SocketAddr>,
    /// Of public addresses as well.
    pub ports: Ports,
}

impl AllowedNetworks {
    /// With the networks that the operator opened to one organization alone: what a check for that organization is
    /// made with.
    pub fn with(&self, own: &[IpNet]) -> Cow<'_, Self> {
        if own.is_empty() {
            return Cow::Borrowed(self);
        }
        let networks = self.networks.iter().chain(own).copied().collect();
        Cow::Owned(Self { networks, ..self.clone() })
    }
}

/// Whether opening a network to gateways would open anything: no setting opens a cloud platform's own services.
pub fn check_network(network: &IpNet) -> Result<(), Refusal> {
    let sole = (network.prefix_len() == network.max_prefix_len()).then(|| network.addr().to_canonical());
    match sole {
        Some(ip) if METADATA.contains(&ip) => Err(Refusal::Metadata(ip)),
        _ => Ok(()),
    }
}

/// `OUTGATE_GATEWAY_PORTS`: the ports that gateways may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Default for Ports {
    fn default() -> Self {
        Self(vec![25..=25, 465..=465, 587..=587, 1024..=65535])
    }
}

impl Ports {
    /// [`Ports::default`], as the operator would write it: those of mail, and those that no service of a system has.
    /// Whoever may enter a gateway cannot make us talk to anything else.
    pub const USUAL: &str = "25,465,587,1024-65535";

    fn contain(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for Ports {
    type Err = String;

    /// Ports and ranges of ports, separated by commas.
    fn from_str(typed: &str) -> Result<Self, String> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = port(first)?..=port(last)?;
            (!range.is_empty()).then_some(range)
        };
        let ranges: Result<Vec<_>, String> = typed
            .split(',')
            .map(|text| {
                range(text).ok_or_else(|| {
                    format!("“{}” is neither a port nor a range of ports, such as 587 or 1024-65535", text.trim())
                })
            })
            .collect();
        ranges.map(Self)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}–{last}")?,
            }
        }
        Ok(())
    }
}

/// Why a gateway may not be at an address, in words for who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Port {port} is not one that gateways may use. Enter another, usually 25 or 587; allowed are {allowed}.")]
    Port { port: u16, allowed: Ports },
    #[error("{0} is an address of this machine itself. Enter an address that is reached over the network.")]
    Loopback(IpAddr),
    #[error("{0} is a private address. Enter a public one, or ask the operator to allow your network.")]
    Private(IpAddr),
    #[error("{0} is a link-local address. Enter an address that is reached over the network.")]
    LinkLocal(IpAddr),
    #[error("{0} belongs to a cloud platform's own services and can never be a gateway.")]
    Metadata(IpAddr),
    #[error("{0} is not the address of a single server.")]
    NotAServer(IpAddr),
    /// Where to is not said: our own network may know names that nobody outside is to learn about.
    #[error("The name leads to where no gateway may be. Enter another, or ask the operator to allow your network.")]
    OfName,
}

/// Services of cloud platforms that hand out credentials or configuration to whoever asks from inside.
/// No setting allows them.
const METADATA: [IpAddr; 11] = [
    // Amazon, Google, Microsoft, Oracle and most others; Amazon's for containers and pods.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23)),
    // Google.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)),
    // Alibaba, Azure, Oracle.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Scaleway.
    IpAddr::V4(Ipv4Addr::new(169, 254, 42, 42)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x42)),
];

/// Whether an address may be saved: a literal is checked now, a name on every address that it
/// resolves to when a relay connects.
pub fn check_address(address: &GatewayAddress, allowed: &AllowedNetworks) -> Result<(), Refusal> {
    check_port(address.port(), allowed)?;
    match address.host() {
        GatewayHost::Name(_) => Ok(()),
        GatewayHost::Ip(ip) => check(*ip, address.port(), allowed),
    }
}

/// Whether a gateway may use this port.
pub fn check_port(port: u16, allowed: &AllowedNetworks) -> Result<(), Refusal> {
    match allowed.ports.contain(port) {
        true => Ok(()),
        false => Err(Refusal::Port { port, allowed: allowed.ports.clone() }),
    }
}

/// Whether a relay may connect to `ip` and `port` for a tenant.
pub fn check(ip: IpAddr, port: u16, allowed: &AllowedNetworks) -> Result<(), Refusal> {
    let reached = [Some(ip.to_canonical()), embedded_ipv4(ip).map(IpAddr::V4)];
    for ip in reached.into_iter().flatten() {
        if METADATA.contains(&ip) {
            return Err(Refusal::Metadata(ip));
        }
        let open = allowed.networks.iter().any(|network| network.contains(&ip))
            || allowed.listeners.contains(&SocketAddr::new(ip, port));
        if let Some(refusal) = refusal(ip)
            && !open
        {
            return Err(refusal);
        }
    }
    Ok(())
}

/// Whether who connects to `ip` and `port` reaches one of our own listeners. `is_of_this_machine` says whether
/// an address is one of the machine that we run on.
pub fn is_ourselves(
    ip: IpAddr,
    port: u16,
    listeners: &[SocketAddr],
    is_of_this_machine: impl Fn(IpAddr) -> bool,
) -> bool {
    let reached = [Some(ip.to_canonical()), embedded_ipv4(ip).map(IpAddr::V4)];
    let reaches = |ip: IpAddr, listener: &SocketAddr| {
        let at = listener.ip().to_canonical();
        // The unspecified address leads to this machine itself.
        at == ip
            || (ip.is_unspecified() && (at.is_loopback() || at.is_unspecified()))
            || (at.is_unspecified()
                // Most systems take IPv4 on a listener for all IPv6 addresses as well.
                && (at.is_ipv6() || ip.is_ipv4())
                && (ip.is_loopback() || is_of_this_machine(ip)))
    };
    let on_port = listeners.iter().filter(|listener| listener.port() == port);
    on_port.into_iter().any(|listener| reached.into_iter().flatten().any(|ip| reaches(ip, listener)))
}

/// Whether the world sees this address.
pub fn is_public(ip: IpAddr) -> bool {
    refusal(ip.to_canonical()).is_none()
}

fn refusal(ip: IpAddr) -> Option<Refusal> {
    let (loopback, private, link_local, no_server) = match ip {
        IpAddr::V4(v4) => (
            v4.is_loopback() || v4.octets()[0] == 0,
            // RFC 1918, RFC 6598 (100.64.0.0/10), RFC 2544 (198.18.0.0/15), RFC 6890 (192.0.0.0/24).
            v4.is_private()
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
                || (v4.octets()[0] == 198 && v4.octets()[1] & 0xfe == 18)
                || v4.octets()[..3] == [192, 0, 0],
            v4.is_link_local(),
            v4.is_multicast() || v4.octets()[0] >= 240,
        ),
        IpAddr::V6(v6) => (
            v6.is_loopback() || v6.is_unspecified(),
            // RFC 4193 (fc00::/7), the site-local addresses that RFC 3879 deprecated (fec0::/10), and
            // the prefix of translators inside a network (64:ff9b:1::/48, RFC 8215).
            v6.is_unique_local() || v6.segments()[0] & 0xffc0 == 0xfec0 || v6.segments()[..3] == [0x64, 0xff9b, 1],
            v6.is_unicast_link_local(),
            v6.is_multicast(),
        ),
    };
    match () {
        () if loopback => Some(Refusal::Loopback(ip)),
        () if private => Some(Refusal::Private(ip)),
        () if link_local => Some(Refusal::LinkLocal(ip)),
        () if no_server => Some(Refusal::NotAServer(ip)),
        () => None,
    }
}

/// The IPv4 address that an IPv6 address leads to through a translator or tunnel: IPv4-compatible
/// (::/96), translated (::ffff:0:0:0/96, RFC 2765), NAT64 (64:ff9b::/96, RFC 6052), 6to4 (2002::/16,
/// RFC 3056), Teredo (2001::/32, RFC 4380; the address is stored inverted), ISATAP (RFC 5214).
fn embedded_ipv4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        // The unspecified and the loopback address are what they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(from(!high, !low)),
        _ => None,
    }
}
