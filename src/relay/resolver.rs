//! Look-ups in the DNS: the addresses of gateways and mail servers, and which servers take a
//! domain's mail. What may be connected to is decided where the connection is made.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{op::ResponseCode, rr::RData},
};
use mail_auth::MessageAuthenticator;
use rand::seq::SliceRandom;

/// At most this many servers of one domain are tried (RFC 5321 §5.1 wants at least two).
const MAX_EXCHANGES: usize = 10;

/// Answers look-ups, from the DNS or from a table.
pub enum Resolver {
    Dns(Box<TokioResolver>),
    Fixed(FixedNames),
}

/// Names that are known beforehand: what tests resolve with.
#[derive(Debug, Clone, Default)]
pub struct FixedNames {
    pub addresses: HashMap<String, Vec<IpAddr>>,
    /// Mail exchangers with their preference; one exchanger `.` is a null MX.
    pub exchanges: HashMap<String, Vec<(u16, String)>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookUpError {
    #[error("the name {0} does not exist or has no address")]
    NotFound(String),
    #[error("the name {0} could not be looked up: {1}")]
    Unavailable(String, String),
}

/// Who takes a domain's mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchanges {
    /// The most preferred first, equal ones in any order.
    Hosts(Vec<Exchange>),
    /// RFC 7505: the domain says that it takes none.
    Null,
}

/// One of a domain's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The lowest is tried first.
    pub preference: u16,
    pub host: String,
}

impl Resolver {
    /// On the machine's own DNS configuration, with five seconds for each of two tries.
    pub fn from_system() -> Result<Self, NetError> {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(5);
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(Self::Dns(Box::new(builder.build()?)))
    }

    /// On one name server, with `patience` for each of two tries.
    pub fn at(server: SocketAddr, patience: Duration) -> Result<Self, NetError> {
        let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
        (udp.port, tcp.port) = (server.port(), server.port());
        let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = patience;
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(Self::Dns(Box::new(builder.build()?)))
    }

    /// For what a library asks the DNS by itself; `None` on a table.
    pub fn authenticator(&self) -> Option<MessageAuthenticator> {
        match self {
            Self::Dns(dns) => Some(MessageAuthenticator((**dns).clone())),
            Self::Fixed(_) => None,
        }
    }

    /// The TXT records of a name, the strings of each put together (RFC 7208 §3.3).
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, LookUpError> {
        let Self::Dns(dns) = self else { return Ok(Vec::new()) };
        let found = found(dns.txt_lookup(absolute(name)).await, name)?;
        Ok(found.iter().flat_map(Lookup::answers).filter_map(|record| text(&record.data)).collect())
    }

    /// All addresses of a host, IPv4 first.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookUpError> {
        let mut addresses: Vec<IpAddr> = match self {
            Self::Fixed(names) => names.addresses.get(host).cloned().unwrap_or_default(),
            Self::Dns(dns) => match found(dns.lookup_ip(absolute(host)).await, host)? {
                Some(found) => found.iter().collect(),
                // Of two look-ups that fail only the one for IPv4 is told: the other one may just not have been answered.
                None => ipv6_addresses(dns, host).await?,
            },
        };
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses.dedup();
        if addresses.is_empty() { Err(LookUpError::NotFound(host.to_owned())) } else { Ok(addresses) }
    }

    /// The servers of a domain by preference; without an MX record the
    /// domain itself (RFC 5321 §5.1).
    pub async fn exchanges(&self, domain: &str) -> Result<Exchanges, LookUpError> {
        let mut found = match self {
            Self::Fixed(names) => names.exchanges.get(domain).cloned().unwrap_or_default(),
            Self::Dns(dns) => {
                let found = found(dns.mx_lookup(absolute(domain)).await, domain)?;
                found.iter().flat_map(Lookup::answers).filter_map(|record| exchange(&record.data)).collect()
            }
        };
        if found.is_empty() {
            return Ok(Exchanges::Hosts(vec![Exchange { preference: 0, host: domain.to_owned() }]));
        }
        // RFC 7505 §3: a null MX stands alone; beside others it is a mistake and says nothing.
        if found.len() == 1 && found[0].1 == "." {
            return Ok(Exchanges::Null);
        }
        found.retain(|(_, host)| host != ".");
        // RFC 5321 §5.1: equal ones share the load.
        found.shuffle(&mut rand::rng());
        found.sort_by_key(|(preference, _)| *preference);
        found.truncate(MAX_EXCHANGES);
        let exchange = |(preference, host)| Exchange { preference, host };
        Ok(Exchanges::Hosts(found.into_iter().map(exchange).collect()))
    }
}

async fn ipv6_addresses(dns: &TokioResolver, host: &str) -> Result<Vec<IpAddr>, LookUpError> {
    let address = |data: &RData| match data {
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    let found = found(dns.ipv6_lookup(absolute(host)).await, host)?;
    Ok(found.iter().flat_map(Lookup::answers).filter_map(|record| address(&record.data)).collect())
}

/// What the DNS says of a name; `None`: for sure that there is nothing.
fn found<T>(said: Result<T, NetError>, name: &str) -> Result<Option<T>, LookUpError> {
    match said {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_definite(&error) => Ok(None),
        Err(error) => Err(LookUpError::Unavailable(name.to_owned(), error.to_string())),
    }
}

fn text(data: &RData) -> Option<String> {
    let RData::TXT(txt) = data else { return None };
    Some(txt.txt_data.iter().map(|piece| String::from_utf8_lossy(piece)).collect())
}

fn exchange(data: &RData) -> Option<(u16, String)> {
    let RData::MX(mx) = data else { return None };
    let host = mx.exchange.to_ascii();
    let host = if host == "." { host } else { host.trim_end_matches('.').to_lowercase() };
    Some((mx.preference, host))
}

/// With a final dot the search list of this machine is left out.
fn absolute(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}

/// The DNS answered and has nothing, as opposed to: it did not answer.
fn is_definite(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
        }
        _ => false,
    }
}
