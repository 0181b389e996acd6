//! A gateway's record as it is typed: what each field means, what is wrong with it, and what a change of it is in
//! words. Shared by the gateway's page and the operator's command.

use ipnet::IpNet;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{
    facts::TlsMode,
    gateway_network::{self, AllowedNetworks},
    gateway_settings::{GatewayLimits, MOST_CONNECTIONS, OwnDomains, Returning, Trust},
};
use crate::mail::{DomainName, GatewayAddress, GatewayHost};

/// Everything that a record says, except the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayRecord {
    pub address: GatewayAddress,
    pub tls: TlsMode,
    pub certificate_name: Option<DomainName>,
    pub trust: Trust,
    pub sign_in_user: Option<String>,
    pub limits: GatewayLimits,
    /// By address, the first to be tried first.
    pub backups: Vec<GatewayAddress>,
    pub returning: Returning,
    pub returning_networks: Vec<IpNet>,
    pub own_domains: OwnDomains,
}

/// The same as fields have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed {
    pub address: String,
    pub tls: String,
    pub certificate_name: String,
    /// `platform`, `authority` or `fingerprint`.
    pub trust: String,
    pub authority: String,
    pub fingerprint: String,
    pub sign_in_user: String,
    pub connections: String,
    pub messages_per_connection: String,
    pub messages_per_minute: String,
    /// In megabytes.
    pub largest_message: String,
    pub backups: String,
    pub returning_mail: String,
    pub returning_networks: String,
    pub own_domains: String,
}

/// What is wrong: the field, and what to type instead.
pub type Mistakes = Vec<(&'static str, String)>;

/// A megabyte, as people count the size of a message.
const MEGABYTE: u64 = 1024 * 1024;
const MOST_BACKUPS: usize = 10;
const MOST_NETWORKS: usize = 100;
/// The widest networks that mail may come back from: whoever sends from there with a credential of the organization, or
/// encrypted, is taken for the gateway. The largest mail services announce no wider ones.
const LEAST_PREFIX_4: u8 = 12;
const LEAST_PREFIX_6: u8 = 32;
/// In bytes; a user name is as short as an address.
const LONGEST_USER: usize = 254;
/// In bytes: a chain of a few certificates.
const LONGEST_AUTHORITY: usize = 12 * 1024;

impl Typed {
    /// As it stands in the fields at first.
    pub fn of(record: &GatewayRecord) -> Self {
        let (trust, authority, fingerprint) = match &record.trust {
            Trust::Platform => ("platform", String::new(), String::new()),
            Trust::Authority(authority) => ("authority", authority.to_string(), String::new()),
            Trust::Fingerprint(fingerprint) => ("fingerprint", String::new(), hex(fingerprint)),
        };
        let optional = |count: Option<u32>| count.map(|count| count.to_string()).unwrap_or_default();
        let lines = |items: Vec<String>| items.join("\n");
        Self {
            address: record.address.to_string(),
            tls: record.tls.to_string(),
            certificate_name: record.certificate_name.as_ref().map(DomainName::to_unicode).unwrap_or_default(),
            trust: trust.to_owned(),
            authority,
            fingerprint,
            sign_in_user: record.sign_in_user.clone().unwrap_or_default(),
            connections: record.limits.connections.to_string(),
            messages_per_connection: optional(record.limits.messages_per_connection),
            messages_per_minute: optional(record.limits.messages_per_minute),
            largest_message: record.limits.largest_message.map(megabytes).unwrap_or_default(),
            backups: lines(record.backups.iter().map(ToString::to_string).collect()),
            returning_mail: record.returning.to_string(),
            returning_networks: lines(record.returning_networks.iter().map(ToString::to_string).collect()),
            own_domains: record.own_domains.to_string(),
        }
    }

    /// The record that it describes.
    ///
    /// # Errors
    /// Every field that is wrong, in the order of the form.
    pub fn parse(&self, allowed: &AllowedNetworks) -> Result<GatewayRecord, Mistakes> {
        let mut mistakes = Mistakes::new();
        let address = kept(&mut mistakes, "address", address(&self.address, allowed));
        let tls = kept(&mut mistakes, "tls", choice::<TlsMode>(&self.tls, "when TLS is used"));
        let certificate_name = kept(&mut mistakes, "certificate_name", name(&self.certificate_name));
        let trust = self.trust(&mut mistakes);
        let sign_in_user = kept(&mut mistakes, "sign_in_user", user(&self.sign_in_user));
        let limits = self.limits(&mut mistakes);
        let backups = kept(&mut mistakes, "backups", backups(&self.backups, address.as_ref()));
        let returning = choice::<Returning>(&self.returning_mail, "what becomes of mail that comes back");
        let returning = kept(&mut mistakes, "returning_mail", returning);
        let networks = networks(&self.returning_networks, returning == Some(Returning::Onward));
        let returning_networks = kept(&mut mistakes, "returning_networks", networks);
        let own_domains = choice::<OwnDomains>(&self.own_domains, "where mail to your own domains goes");
        let own_domains = kept(&mut mistakes, "own_domains", own_domains);
        let record = (|| {
            Some(GatewayRecord {
                address: address?,
                tls: tls?,
                certificate_name: certificate_name?,
                trust: trust?,
                sign_in_user: sign_in_user?,
                limits: limits?,
                backups: backups?,
                returning: returning?,
                returning_networks: returning_networks?,
                own_domains: own_domains?,
            })
        })();
        match record {
            Some(record) if mistakes.is_empty() => record.consistent(),
            _ => Err(mistakes),
        }
    }

    fn trust(&self, mistakes: &mut Mistakes) -> Option<Trust> {
        match self.trust.as_str() {
            "platform" => Some(Trust::Platform),
            "authority" => kept(mistakes, "authority", authority(&self.authority)),
            "fingerprint" => kept(mistakes, "fingerprint", fingerprint(&self.fingerprint)),
            _ => kept(mistakes, "trust", Err("Choose who vouches for the certificate.".to_owned())),
        }
    }

    fn limits(&self, mistakes: &mut Mistakes) -> Option<GatewayLimits> {
        let connections = number(&self.connections)
            .ok()
            .flatten()
            .and_then(|count| u8::try_from(count).ok())
            .filter(|count| (1..=MOST_CONNECTIONS).contains(count))
            .ok_or_else(|| format!("Enter a number of connections from 1 to {MOST_CONNECTIONS}."));
        let connections = kept(mistakes, "connections", connections);
        let messages_per_connection = kept(mistakes, "messages_per_connection", number(&self.messages_per_connection));
        let messages_per_minute = kept(mistakes, "messages_per_minute", number(&self.messages_per_minute));
        let largest = number(&self.largest_message).map(|count| count.map(|count| u64::from(count) * MEGABYTE));
        let largest_message = kept(mistakes, "largest_message", largest);
        Some(GatewayLimits {
            connections: connections?,
            messages_per_connection: messages_per_connection?,
            messages_per_minute: messages_per_minute?,
            largest_message: largest_message?,
        })
    }
}

fn kept<T>(mistakes: &mut Mistakes, field: &'static str, parsed: Result<T, String>) -> Option<T> {
    parsed.map_err(|mistake| mistakes.push((field, mistake))).ok()
}

impl GatewayRecord {
    /// What only shows where fields meet.
    fn consistent(self) -> Result<Self, Mistakes> {
        let verified = self.tls == TlsMode::Verified;
        let mut mistakes = Mistakes::new();
        if self.sign_in_user.is_some() && !verified {
            let sentence =
                "With a user name, choose “required and verified”: else the password could be asked for by anybody.";
            mistakes.push(("tls", sentence.to_owned()));
        }
        let is_pinned = matches!(self.trust, Trust::Fingerprint(_));
        if verified
            && !is_pinned
            && self.certificate_name.is_none()
            && matches!(self.address.host(), GatewayHost::Ip(_))
        {
            let sentence = "Enter the name that stands in the certificate: the gateway's address is a number.";
            mistakes.push(("certificate_name", sentence.to_owned()));
        }
        if mistakes.is_empty() { Ok(self) } else { Err(mistakes) }
    }

    /// Whether a password that was stored for `self` may be used for `other` too.
    pub fn shares_password_with(&self, other: &Self) -> bool {
        let bound = |record: &Self| (record.address.clone(), record.tls, record.sign_in_user.clone());
        bound(self) == bound(other)
    }

    /// Whether the same server is spoken to in the same way: what a verification of one has found holds for the other.
    pub fn is_reached_as(&self, other: &Self) -> bool {
        let trusts = |record: &Self| (record.certificate_name.clone(), record.trust.clone());
        self.shares_password_with(other) && trusts(self) == trusts(other)
    }

    /// What differs from an earlier record, in words: how it was, and how it is.
    pub fn differences(&self, before: &Self, new_password: bool) -> (String, String) {
        let (was, is) = (before.in_words(), self.in_words());
        let mut pairs: Vec<(String, String)> = was.into_iter().zip(is).filter(|(was, is)| was != is).collect();
        if new_password {
            pairs.push(("the password as before".to_owned(), "a new password".to_owned()));
        }
        let (was, is): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        (was.join(", "), is.join(", "))
    }

    /// One phrase for each thing, always in the same order.
    pub fn in_words(&self) -> [String; 12] {
        let limit = |what: &str, count: Option<u32>| match count {
            Some(count) => format!("{count} messages a {what}"),
            None => format!("any number of messages a {what}"),
        };
        let list =
            |items: Vec<String>, none: &str| if items.is_empty() { none.to_owned() } else { items.join(" and ") };
        [
            self.address.with_port_in_words(),
            format!("TLS {}", tls_in_words(self.tls)),
            match &self.certificate_name {
                Some(name) => format!("a certificate for {name}"),
                None => "a certificate for the host".to_owned(),
            },
            match &self.trust {
                Trust::Platform => "public authorities vouch".to_owned(),
                Trust::Authority(_) => "your own authority vouches".to_owned(),
                Trust::Fingerprint(fingerprint) => format!("only the certificate {}", hex(fingerprint)),
            },
            match &self.sign_in_user {
                Some(user) => format!("signing in as {user}"),
                None => "without signing in".to_owned(),
            },
            format!("{} connections", self.limits.connections),
            limit("connection", self.limits.messages_per_connection),
            limit("minute", self.limits.messages_per_minute),
            match self.limits.largest_message {
                Some(bytes) => format!("messages up to {} MB", megabytes(bytes)),
                None => "messages of any size".to_owned(),
            },
            format!("backups: {}", list(self.backups.iter().map(GatewayAddress::with_port_in_words).collect(), "none")),
            match self.returning {
                Returning::Refuse => "mail that comes back is refused".to_owned(),
                Returning::Onward => format!(
                    "mail that comes back from {} is delivered onward",
                    list(self.returning_networks.iter().map(ToString::to_string).collect(), "nowhere")
                ),
            },
            match self.own_domains {
                OwnDomains::Gateway => "mail to own domains through the gateway".to_owned(),
                OwnDomains::Inbound => "mail to own domains to their inbound host".to_owned(),
            },
        ]
    }
}

/// As pages and history say it.
pub fn tls_in_words(tls: TlsMode) -> &'static str {
    match tls {
        TlsMode::WhenOffered => "when offered",
        TlsMode::Required => "required",
        TlsMode::Verified => "required and verified",
    }
}

fn megabytes(bytes: u64) -> String {
    (bytes / MEGABYTE).max(1).to_string()
}

/// As `openssl x509 -fingerprint` writes it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

fn address(typed: &str, allowed: &AllowedNetworks) -> Result<GatewayAddress, String> {
    let address: GatewayAddress = typed.parse().map_err(|error| format!("{error}"))?;
    gateway_network::check_address(&address, allowed).map_err(|refusal| refusal.to_string())?;
    Ok(address)
}

fn choice<T: std::str::FromStr>(typed: &str, what: &str) -> Result<T, String> {
    typed.parse().map_err(|_| format!("Choose {what}."))
}

fn name(typed: &str) -> Result<Option<DomainName>, String> {
    match typed.trim() {
        "" => Ok(None),
        typed => typed.parse().map(Some).map_err(|error: crate::mail::domain_name::DomainNameError| error.to_string()),
    }
}

fn user(typed: &str) -> Result<Option<String>, String> {
    let typed = typed.trim();
    if typed.len() > LONGEST_USER || typed.chars().any(char::is_control) {
        return Err(format!("This is not a user name: use up to {LONGEST_USER} letters, digits and signs."));
    }
    Ok((!typed.is_empty()).then(|| typed.to_owned()))
}

/// A positive number; empty for none. Thousands may be set apart.
fn number(typed: &str) -> Result<Option<u32>, String> {
    let digits: String = typed.chars().filter(|character| !matches!(character, ',' | ' ' | '\u{a0}' | '’')).collect();
    match digits.as_str() {
        "" => Ok(None),
        digits => match digits.parse::<u32>() {
            // The store counts with signed numbers.
            Ok(count) if count > 0 && i32::try_from(count).is_ok() => Ok(Some(count)),
            _ => Err(format!("“{}” is not a number: write digits only, or leave it empty for no limit.", typed.trim())),
        },
    }
}

fn authority(typed: &str) -> Result<Trust, String> {
    const HOW: &str =
        "Paste the certificate of your authority, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----.";
    if typed.len() > LONGEST_AUTHORITY {
        return Err("This is too long: paste the certificate of your authority alone.".to_owned());
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(typed.as_bytes()) {
        let certificate = certificate.map_err(|_| HOW.to_owned())?;
        roots.add(certificate).map_err(|_| "This certificate cannot be read. Paste it again, whole.".to_owned())?;
    }
    if roots.is_empty() {
        return Err(HOW.to_owned());
    }
    // What stands around the certificates is nobody's business; a private key pasted by mistake is not kept.
    let mut pem = String::new();
    let mut inside = false;
    for line in typed.lines().map(str::trim) {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            pem.push_str(line);
            pem.push('\n');
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    Ok(Trust::Authority(pem.into()))
}

/// 64 hexadecimal digits, with or without colons, also as `openssl x509 -fingerprint -sha256` prints them.
fn fingerprint(typed: &str) -> Result<Trust, String> {
    let mistake =
        || "Enter the certificate's SHA-256 fingerprint: 64 hexadecimal digits, with or without colons.".to_owned();
    let digits = typed.rsplit('=').next().unwrap_or(typed);
    let digits: Vec<u8> = digits
        .chars()
        .filter(|character| !matches!(character, ':' | ' '))
        .map(|character| character.to_digit(16).map(|digit| digit as u8).ok_or_else(mistake))
        .collect::<Result<_, _>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    if digits.len() != 64 {
        return Err(mistake());
    }
    bytes.try_into().map(Trust::Fingerprint).map_err(|_| mistake())
}

fn backups(typed: &str, own: Option<&GatewayAddress>) -> Result<Vec<GatewayAddress>, String> {
    let mut backups: Vec<GatewayAddress> = Vec::new();
    for typed in typed.split([',', ' ', '\n', '\r', '\t']).filter(|typed| !typed.is_empty()) {
        let backup: GatewayAddress = typed.parse().map_err(|error| format!("{error}"))?;
        if own == Some(&backup) {
            return Err(format!("{backup} is this gateway itself: it cannot stand in for itself."));
        }
        if !backups.contains(&backup) {
            backups.push(backup);
        }
    }
    if backups.len() > MOST_BACKUPS { Err(format!("These are too many: at most {MOST_BACKUPS}.")) } else { Ok(backups) }
}

fn networks(typed: &str, needed: bool) -> Result<Vec<IpNet>, String> {
    let mut networks: Vec<IpNet> = Vec::new();
    for typed in typed.split([',', ' ', '\n', '\r', '\t']).filter(|typed| !typed.is_empty()) {
        let parsed = typed.parse::<IpNet>().ok().or_else(|| typed.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        let network = parsed.map(|network| network.trunc());
        let network = network.ok_or_else(|| format!("“{typed}” is not a network: write it as 192.0.2.0/24."))?;
        let least = if network.addr().is_ipv4() { LEAST_PREFIX_4 } else { LEAST_PREFIX_6 };
        if network.prefix_len() < least {
            return Err(format!(
                "{network} is too wide, at least a /{least} is needed: name only the networks of the gateway's own servers."
            ));
        }
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    if networks.len() > MOST_NETWORKS {
        return Err(format!("These are too many: at most {MOST_NETWORKS}."));
    }
    if needed && networks.is_empty() {
        return Err("Enter the networks that the gateway sends from: mail that comes back is known by them.".to_owned());
    }
    Ok(networks)
}
