//! The settings: flags, then environment, then the default. Read by `main`, which passes on what each part
//! needs; nothing below `main` reads a setting by itself.

use std::{
    env, fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::anyhow;
use clap::{
    ArgAction, Args, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
use ipnet::IpNet;
use nix::unistd::{geteuid, gethostname};
use sqlx::postgres::PgConnectOptions;

use crate::{
    mail::{DomainName, Mailbox, ReturnAddress},
    policy::{
        gateway_network::Ports,
        retry::{BackOff, Schedule},
        routing::PlatformDefault,
    },
};

/// Where the store is. Every subcommand finds it the same way.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreSettings {
    /// PostgreSQL to use, as the owner of the database; without it a private one runs in the data directory
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = database_url)]
    pub database_url: Option<PgConnectOptions>,
    /// The same database as the role of the pages, which owns nothing
    #[arg(long, env = "OUTGATE_WEB_DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = database_url)]
    pub web_database_url: Option<PgConnectOptions>,
    /// The same database as the role of the relay, which owns nothing
    #[arg(long, env = "OUTGATE_RELAY_DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = database_url)]
    pub relay_database_url: Option<PgConnectOptions>,
    /// Where the private PostgreSQL and large messages are kept [default: ./outgate-data; as root /var/lib/outgate]
    #[arg(long, env = "OUTGATE_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// The folder with PostgreSQL's initdb, pg_ctl and postgres, if they are not found by themselves
    #[arg(long, env = "OUTGATE_PG_BIN", value_name = "FOLDER")]
    pub pg_bin: Option<PathBuf>,
}

impl StoreSettings {
    /// The data directory as an absolute path.
    ///
    /// # Errors
    /// If it is relative and there is no current directory to start from.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        let by_default = if geteuid().is_root() { "/var/lib/outgate" } else { "outgate-data" };
        let folder = self.data_dir.as_deref().unwrap_or(Path::new(by_default));
        std::path::absolute(folder)
            .map_err(|error| anyhow!("OUTGATE_DATA_DIR is {}, which leads nowhere: {error}.", folder.display()))
    }
}

/// What the pages and the relay must agree on.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Platform")]
pub struct PlatformSettings {
    /// Where mail goes if no gateway is set: mx (directly to the recipients' servers) or the address of a server
    #[arg(long, env = "OUTGATE_DEFAULT_ROUTE", value_name = "ROUTE", value_parser = default_route)]
    pub default_route: Option<PlatformDefault>,
    /// Private networks that every organization's gateways may be in, separated by commas [default: none]
    #[arg(
        long,
        env = "OUTGATE_ALLOWED_GATEWAY_NETWORKS",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub allowed_gateway_networks: Networks,
    /// Ports that gateways may use: numbers and ranges, separated by commas
    #[arg(long, env = "OUTGATE_GATEWAY_PORTS", value_name = "PORTS", default_value = Ports::USUAL)]
    pub gateway_ports: Ports,
    /// Private networks that webhooks may be in, separated by commas; whatever serves web requests there, tenants can ask it [default: none]
    #[arg(
        long,
        env = "OUTGATE_ALLOWED_WEBHOOK_NETWORKS",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub allowed_webhook_networks: Networks,
    /// How browsers reach the pages, such as https://outgate.example.com [default: http:// and the address that the pages listen at; relays then name messages without a link]
    #[arg(long, env = "OUTGATE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<PublicUrl>,
    /// Where test messages come back to: an address at a domain whose mail leads to the relays [default: nowhere]
    #[arg(long, env = "OUTGATE_RETURN_ADDRESS", value_name = "ADDRESS")]
    pub return_address: Option<ReturnAddress>,
}

impl PlatformSettings {
    /// The operator's choice, which has no default: a wrong guess would send mail past an archive or a screen.
    ///
    /// # Errors
    /// If it was not made.
    pub fn required_default_route(&self) -> anyhow::Result<PlatformDefault> {
        self.default_route.clone().ok_or_else(|| {
            anyhow!(
                "OUTGATE_DEFAULT_ROUTE is not set: set it to mx, to send mail without a gateway directly to the \
                 recipients' servers, or to the address of the server that shall take it, such as mail.example.com."
            )
        })
    }
}

/// The admin pages.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pages")]
pub struct WebSettings {
    /// Where the pages are served
    #[arg(long, env = "OUTGATE_HTTP_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = listener)]
    pub http_listen: SocketAddr,
    /// Networks of the proxies in front of the pages, whose word on the client's address counts [default: none]
    #[arg(
        long,
        env = "OUTGATE_TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub trusted_proxies: Networks,
    /// How many members a distribution list has at most: 1 to 500
    #[arg(long, env = "OUTGATE_LIST_MEMBERS", value_name = "COUNT", default_value = "200", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub list_members: u16,
}

impl WebSettings {
    /// As set, else where the pages are served.
    pub fn public_url(&self, platform: &PlatformSettings) -> PublicUrl {
        platform.public_url.clone().unwrap_or_else(|| PublicUrl::of_listener(self.http_listen))
    }
}

/// The relay.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Relay")]
pub struct RelaySettings {
    /// Where mail is accepted; several addresses are separated by commas
    #[arg(long, env = "OUTGATE_SMTP_LISTEN", value_name = "ADDRESSES", default_value = "127.0.0.1:2525")]
    pub smtp_listen: Listeners,
    /// Where mail is accepted on connections that begin with TLS; several addresses are separated by commas [default: nowhere]
    #[arg(long, env = "OUTGATE_SMTPS_LISTEN", value_name = "ADDRESSES", default_value = "", hide_default_value = true, value_parser = listeners_or_none)]
    pub smtps_listen: Listeners,
    /// The relay's certificate and those that lead to its authority, in PEM format; without it nobody can sign in
    #[arg(long, env = "OUTGATE_SMTP_CERTIFICATE_FILE", value_name = "FILE")]
    pub smtp_certificate_file: Option<PathBuf>,
    /// The certificate's private key, in PEM format
    #[arg(long, env = "OUTGATE_SMTP_KEY_FILE", value_name = "FILE")]
    pub smtp_key_file: Option<PathBuf>,
    /// Networks of the proxies in front of the relay, which say in a PROXY header whose connection it is [default: none]
    #[arg(
        long,
        env = "OUTGATE_PROXY_NETWORKS",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub proxy_networks: Networks,
    /// The name that the relay gives itself in SMTP [default: this machine's]
    #[arg(long, env = "OUTGATE_HOSTNAME", value_name = "NAME")]
    pub hostname: Option<DomainName>,
    /// The name under which administrators see this relay; no two may share one [default: the host name]
    #[arg(long, env = "OUTGATE_RELAY_NAME", value_name = "NAME", value_parser = relay_name)]
    pub relay_name: Option<String>,
    /// Networks whose mail servers may submit for every organization without signing in, separated by commas
    #[arg(long, env = "OUTGATE_TRUSTED_NETWORKS", value_name = "NETWORKS", default_value = "127.0.0.0/8,::1/128")]
    pub trusted_networks: Networks,
    /// on: hand over to the gateway while the client waits; off: commit everything to the queue first
    #[arg(long, env = "OUTGATE_HANDOVER", value_name = "ON|OFF", default_value = "on", action = ArgAction::Set, value_parser = on_or_off)]
    pub handover: bool,
    /// How long the client may wait for the gateway's answer before the message is queued
    #[arg(long, env = "OUTGATE_HANDOVER_WAIT", value_name = "TIME", default_value = "20s", value_parser = handover_wait)]
    pub handover_wait: Duration,
    /// How long a relay that cannot reach the store goes on with what it knows
    #[arg(long, env = "OUTGATE_MAX_STALENESS", value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub max_staleness: Duration,
    /// An address outside, which a verification asks gateways to take mail for [default: postmaster at the host name]
    #[arg(long, env = "OUTGATE_PROBE_RECIPIENT", value_name = "ADDRESS")]
    pub probe_recipient: Option<Mailbox>,
    /// Where the relay's connections are seen to come from, which gateways have to accept: addresses and networks, separated by commas; needed behind address translation (NAT) [default: this machine's own addresses]
    #[arg(
        long,
        env = "OUTGATE_OUTBOUND_ADDRESSES",
        value_name = "ADDRESSES",
        default_value = "",
        hide_default_value = true,
        value_parser = outbound_addresses
    )]
    pub outbound_addresses: Networks,
    /// After how long without mail a gateway is connected to, to know how it does, or never
    #[arg(long, env = "OUTGATE_PROBE_GATEWAYS", value_name = "TIME", default_value = "10m")]
    pub probe_gateways: OrNever,
    /// A file of authorities' certificates (PEM) that are trusted besides those that browsers trust
    #[arg(long, env = "OUTGATE_GATEWAY_AUTHORITIES", value_name = "FILE")]
    pub gateway_authorities: Option<PathBuf>,
    /// How many messages one organization may have waiting
    #[arg(long, env = "OUTGATE_QUEUE_MESSAGES", value_name = "COUNT", default_value = "200000")]
    pub queue_messages: u64,
    /// How large all messages together may be that one organization has waiting
    #[arg(long, env = "OUTGATE_QUEUE_BYTES", value_name = "SIZE", default_value = "20g", value_parser = size)]
    pub queue_bytes: u64,
    /// How much memory messages may take while they are in flight; beyond it they are kept on disk
    #[arg(long, env = "OUTGATE_MESSAGE_MEMORY", value_name = "SIZE", default_value = "36m", value_parser = size)]
    pub message_memory: u64,
    /// Where large messages are kept while they are received [default: the system's folder for temporary files]
    #[arg(long, env = "OUTGATE_SPOOL_DIR", value_name = "FOLDER")]
    pub spool_dir: Option<PathBuf>,
    /// After how long another relay takes over the messages of one that is gone
    #[arg(long, env = "OUTGATE_LEASE", value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub lease: Duration,
    /// How long the relay may take to stop; mail in flight has all of it but the last five seconds
    #[arg(long, env = "OUTGATE_STOP_WITHIN", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub stop_within: Duration,
    /// Where Prometheus finds the relay's numbers, such as 127.0.0.1:9325 [default: nowhere]
    #[arg(long, env = "OUTGATE_METRICS_LISTEN", value_name = "ADDRESS", value_parser = listener)]
    pub metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub keys: SecretKeySettings,
    /// How long mail waits before it returns to its sender
    #[arg(long, env = "OUTGATE_QUEUE_LIFETIME", value_name = "TIME", default_value = "5d", value_parser = lifetime)]
    pub queue_lifetime: Duration,
    /// How long mail that is held waits for an administrator before it returns to its sender
    #[arg(long, env = "OUTGATE_HELD_LIFETIME", value_name = "TIME", default_value = "7d", value_parser = lifetime)]
    pub held_lifetime: Duration,
    /// After how long a sender is told that mail waits, or never
    #[arg(long, env = "OUTGATE_DELAY_NOTICE", value_name = "TIME", default_value = "4h")]
    pub delay_notice: OrNever,
    /// Between the first attempt and the second; each time after that is twice as long
    #[arg(long, env = "OUTGATE_RETRY_FIRST", value_name = "TIME", default_value = "1m", value_parser = lifetime)]
    pub retry_first: Duration,
    /// The longest between two attempts
    #[arg(long, env = "OUTGATE_RETRY_LONGEST", value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    pub retry_longest: Duration,
    /// How long a gateway is left alone after it has failed; each time after that twice as long
    #[arg(long, env = "OUTGATE_GATEWAY_RETRY_FIRST", value_name = "TIME", default_value = "10s", value_parser = pause)]
    pub gateway_retry_first: Duration,
    /// The longest that a failing gateway is left alone
    #[arg(long, env = "OUTGATE_GATEWAY_RETRY_LONGEST", value_name = "TIME", default_value = "5m", value_parser = pause)]
    pub gateway_retry_longest: Duration,
    /// How long it is kept who sent a message by which way, and how it ended
    #[arg(long, env = "OUTGATE_TRACE_KEPT", value_name = "TIME", default_value = "400d", value_parser = kept)]
    pub trace_kept: Duration,
    /// How long recipients, size and client of a message are kept with that
    #[arg(long, env = "OUTGATE_TRACE_DETAILS_KEPT", value_name = "TIME", default_value = "90d", value_parser = kept)]
    pub trace_details_kept: Duration,
}

/// What passwords of gateways are opened with.
#[derive(Debug, Clone, Args)]
pub struct SecretKeySettings {
    /// The file with the keys that open passwords of gateways, which only its owner may read [default: secret-key in the data directory, if it is there]
    #[arg(long, env = "OUTGATE_SECRET_KEY_FILE", value_name = "FILE")]
    pub secret_key_file: Option<PathBuf>,
}

impl SecretKeySettings {
    /// Takes the file in the data directory, if it is there and no other is set.
    ///
    /// # Errors
    /// If the data directory leads nowhere.
    pub fn find(&mut self, store: &StoreSettings) -> anyhow::Result<()> {
        let file = self.file(store)?;
        if self.secret_key_file.is_none() && file.exists() {
            self.secret_key_file = Some(file);
        }
        Ok(())
    }

    /// As set, else in the data directory, whether it is there or not.
    ///
    /// # Errors
    /// If the data directory leads nowhere.
    pub fn file(&self, store: &StoreSettings) -> anyhow::Result<PathBuf> {
        match &self.secret_key_file {
            Some(file) => Ok(file.clone()),
            None => Ok(store.data_dir()?.join("secret-key")),
        }
    }
}

/// After how long something is done; `None`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrNever(pub Option<Duration>);

impl FromStr for OrNever {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed.trim() {
            "never" => Ok(Self(None)),
            typed => lifetime(typed).map(|length| Self(Some(length))).map_err(|mistake| format!("{mistake} Or never.")),
        }
    }
}

impl RelaySettings {
    /// How long mail waits, and when it is tried again.
    ///
    /// # Errors
    /// If the settings contradict each other.
    pub fn schedule(&self) -> anyhow::Result<Schedule> {
        let length = |length: Duration| time::Duration::try_from(length).unwrap_or(time::Duration::MAX);
        if self.retry_first > self.retry_longest {
            anyhow::bail!("OUTGATE_RETRY_FIRST is longer than OUTGATE_RETRY_LONGEST: make it shorter.");
        }
        Ok(Schedule {
            lifetime: length(self.queue_lifetime),
            held_lifetime: length(self.held_lifetime),
            delay_notice: self.delay_notice.0.map(length),
            first_retry: length(self.retry_first),
            longest_retry: length(self.retry_longest),
        })
    }

    /// When a gateway that fails is asked again.
    ///
    /// # Errors
    /// If the settings contradict each other.
    pub fn back_off(&self) -> anyhow::Result<BackOff> {
        let length = |length: Duration| time::Duration::try_from(length).unwrap_or(time::Duration::MAX);
        if self.gateway_retry_first > self.gateway_retry_longest {
            anyhow::bail!("OUTGATE_GATEWAY_RETRY_FIRST is longer than OUTGATE_GATEWAY_RETRY_LONGEST: make it shorter.");
        }
        Ok(BackOff { first: length(self.gateway_retry_first), longest: length(self.gateway_retry_longest) })
    }

    /// The relay's own name, for greeting, EHLO and `Received`.
    ///
    /// # Errors
    /// If none is set and this machine's own is not a host name.
    pub fn hostname(&self) -> anyhow::Result<DomainName> {
        if let Some(name) = &self.hostname {
            return Ok(name.clone());
        }
        let own = gethostname().unwrap_or_default().to_string_lossy().into_owned();
        own.parse().map_err(|_| {
            anyhow!("OUTGATE_HOSTNAME is not set, and this machine's own name “{own}” is not a host name: set it.")
        })
    }

    /// The name that administrators see, given the relay's own name.
    pub fn relay_name(&self, hostname: &DomainName) -> String {
        self.relay_name.clone().unwrap_or_else(|| hostname.to_string())
    }
}

/// Networks, written `10.0.0.0/8,2001:db8::/32`; a single address counts as a network of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<IpNet>);

impl Networks {
    pub fn contain(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        items(typed).map(network).collect::<Result<_, _>>().map(Self)
    }
}

/// What administrators let their gateways accept: nothing that belongs to others as well.
fn outbound_addresses(typed: &str) -> Result<Networks, String> {
    let address = |typed: &str| {
        let network = network(typed)
            .map_err(|_| format!("“{typed}” is not an address: write 203.0.113.7, or a network as 203.0.113.0/29."))?;
        let (address, least) = (network.addr(), if network.addr().is_ipv4() { 16 } else { 32 });
        match network.prefix_len() < least {
            _ if address.is_unspecified() || address.is_loopback() || address.is_multicast() => {
                Err(format!("“{typed}” is not an address that a connection comes from: write 203.0.113.7."))
            }
            true => Err(format!("“{typed}” is larger than a network of one's own: write 203.0.113.0/29.")),
            false => Ok(network),
        }
    };
    items(typed).map(address).collect::<Result<_, _>>().map(Networks)
}

/// A network, or a single address as a network of one.
pub fn network(typed: &str) -> Result<IpNet, String> {
    let parsed = typed.parse::<IpNet>().ok().or_else(|| typed.parse::<IpAddr>().ok().map(IpNet::from));
    parsed.map(|network| network.trunc()).ok_or_else(|| format!("“{typed}” is not a network: write it as 10.0.0.0/8."))
}

/// Addresses to listen on, written `127.0.0.1:2525,[::1]:2525`; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners(pub Vec<SocketAddr>);

impl FromStr for Listeners {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let listeners: Vec<SocketAddr> = items(typed).map(listener).collect::<Result<_, _>>()?;
        if listeners.is_empty() { Err(no_listener(typed)) } else { Ok(Self(listeners)) }
    }
}

fn listeners_or_none(typed: &str) -> Result<Listeners, String> {
    if typed.trim().is_empty() { Ok(Listeners(Vec::new())) } else { typed.parse() }
}

fn items(typed: &str) -> impl Iterator<Item = &str> {
    typed.split([',', ' ']).filter(|item| !item.is_empty())
}

fn listener(typed: &str) -> Result<SocketAddr, String> {
    typed.trim().parse().map_err(|_| no_listener(typed))
}

fn no_listener(typed: &str) -> String {
    format!("“{typed}” is not an address to listen on: write an IP address and a port, such as 127.0.0.1:2525.")
}

/// How browsers reach the pages: scheme, host and port, nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of_listener(listener: SocketAddr) -> Self {
        let ip = match listener.ip() {
            // One cannot go to “every address of this machine”.
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Self(format!("http://{}", SocketAddr::new(ip, listener.port())))
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let mistake = || {
            format!(
                "“{typed}” is not the URL of a server: write scheme and host only, such as https://outgate.example.com."
            )
        };
        let url: hyper::Uri = typed.trim().parse().map_err(|_| mistake())?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (url.scheme_str(), url.authority()) else {
            return Err(mistake());
        };
        let only_a_server = url.path() == "/" && url.query().is_none() && !authority.as_str().contains('@');
        if only_a_server && !authority.host().is_empty() {
            Ok(Self(format!("{scheme}://{}", authority.as_str().to_ascii_lowercase())))
        } else {
            Err(mistake())
        }
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was typed is not repeated: there may be a password in it.
fn database_url(typed: &str) -> Result<PgConnectOptions, String> {
    let mistake = "this is not the URL of a PostgreSQL database: write it as postgres://user:password@host/database.";
    if !typed.starts_with("postgres://") && !typed.starts_with("postgresql://") {
        return Err(mistake.to_owned());
    }
    typed.parse().map_err(|_| mistake.to_owned())
}

fn default_route(typed: &str) -> Result<PlatformDefault, String> {
    if typed.trim().eq_ignore_ascii_case("mx") {
        return Ok(PlatformDefault::Mx);
    }
    typed.parse().map(PlatformDefault::Smarthost).map_err(|mistake| format!("{mistake} Or write mx."))
}

fn relay_name(typed: &str) -> Result<String, String> {
    let name = typed.trim();
    let printable = !name.is_empty() && name.len() <= 100 && !name.chars().any(char::is_control);
    if printable { Ok(name.to_owned()) } else { Err(format!("“{typed}” is not a name: use up to 100 characters.")) }
}

fn on_or_off(typed: &str) -> Result<bool, String> {
    match typed.trim() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("“{typed}” is neither on nor off.")),
    }
}

/// `20` and `20s` are seconds; `m`, `h` and `d` are minutes, hours and days. Zero is no time.
fn duration(typed: &str) -> Result<Duration, String> {
    let mistake = || format!("“{typed}” is not a length of time: write 20s, 5m, 24h or 7d.");
    let trimmed = typed.trim();
    let digits = trimmed.find(|character: char| !character.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| mistake())?;
    let seconds = match unit.trim_start() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(mistake()),
    };
    match number.checked_mul(seconds).map(Duration::from_secs) {
        None | Some(Duration::ZERO) => Err(mistake()),
        // Added to a date, it is one still.
        Some(length) if length > Duration::from_secs(3650 * 24 * 60 * 60) => {
            Err(format!("“{typed}” is more than 3650d."))
        }
        Some(length) => Ok(length),
    }
}

/// How long mail waits: a year at most.
fn lifetime(typed: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    match duration(typed)? {
        length if length > LONGEST => Err(format!("“{typed}” is more than 365d.")),
        length => Ok(length),
    }
}

/// Seventeen of them may pass until a client has its answer, and clients give up after ten minutes (RFC 5321 §4.5.3.2.6).
fn handover_wait(typed: &str) -> Result<Duration, String> {
    match duration(typed)? {
        length if length > Duration::from_secs(35) => {
            Err(format!("“{typed}” is more than 35s: clients give up first."))
        }
        length => Ok(length),
    }
}

/// `64m` is 64 MiB; `k`, `m` and `g`, or bytes without a unit.
fn size(typed: &str) -> Result<u64, String> {
    let mistake = || format!("“{typed}” is not a size: write 512k, 64m or 20g.");
    let trimmed = typed.trim();
    let digits = trimmed.find(|character: char| !character.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| mistake())?;
    let unit = match unit.trim_start() {
        "" => 1,
        "k" => 1024,
        "m" => 1024 * 1024,
        "g" => 1024 * 1024 * 1024,
        _ => return Err(mistake()),
    };
    number.checked_mul(unit).ok_or_else(mistake)
}

/// How long something is left alone: a day at most.
fn pause(typed: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    match duration(typed)? {
        length if length > DAY => Err(format!("“{typed}” is more than 1d.")),
        length => Ok(length),
    }
}

/// How long something is kept: a day at least, and ten years at most.
fn kept(typed: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 60 * 60;
    match duration(typed)? {
        length if length.as_secs() < DAY => Err(format!("“{typed}” is less than 1d.")),
        length if length.as_secs() > 3650 * DAY => Err(format!("“{typed}” is more than 3650d.")),
        length => Ok(length),
    }
}

/// One sentence for a wrong value, which names the setting as whoever made it knows it: by its flag if that was
/// used, by its variable otherwise. `None` for everything else that the command line can be wrong in.
pub fn wrong_setting(error: &clap::Error, command: &Command) -> Option<String> {
    let reason = match error.kind() {
        ErrorKind::ValueValidation => std::error::Error::source(error)?.to_string(),
        ErrorKind::InvalidValue
            if error.get(ContextKind::InvalidValue) == Some(&ContextValue::String(String::new())) =>
        {
            "it is empty: give it a value, or leave it out.".to_owned()
        }
        _ => return None,
    };
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = argument.split(' ').next()?;
    let flag_was_used = env::args().any(|used| used.split('=').next() == Some(flag));
    let variable = variable_of(command, flag).filter(|_| !flag_was_used);
    Some(format!("{}: {reason}", variable.as_deref().unwrap_or(flag)))
}

fn variable_of(command: &Command, flag: &str) -> Option<String> {
    let own =
        command.get_arguments().find(|own| own.get_long() == flag.strip_prefix("--")).and_then(|own| own.get_env());
    own.map(|name| name.to_string_lossy().into_owned())
        .or_else(|| command.get_subcommands().find_map(|subcommand| variable_of(subcommand, flag)))
}
