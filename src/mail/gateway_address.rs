//! The address of an outbound gateway as administrators type it: one parser for pages, command
//! line and settings. What networks may be used is [`gateway_network`](crate::policy::gateway_network)'s question.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use super::{DomainName, ShortText};

/// The port of a gateway address that names none (RFC 5321 §4.5.4.2).
pub const SMTP_PORT: u16 = 25;

/// Where to relay: a host name or IP address, with a port when it is not 25.
///
/// `mail.example.com`, `mail.example.com:587`, `192.0.2.7`, `[2001:db8::7]:2525`. No MX look-up is
/// made for it. `Display` is the canonical form, which the store keeps and which parses back to the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayAddress {
    host: GatewayHost,
    port: u16,
}

/// The host part of a [`GatewayAddress`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayHost {
    Name(DomainName),
    /// Never an IPv4-mapped IPv6 address: those are IPv4 here.
    Ip(IpAddr),
}

/// Each message stands beside the field, so it says what to type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayAddressError {
    #[error("Enter a host name or an IP address, such as mail.example.com or 192.0.2.7.")]
    Empty,
    #[error("“{0}” is not a host name. Use letters, digits, hyphens and dots, such as mail.example.com.")]
    HostName(String),
    #[error("“{0}” is not a port. Use a number from 1 to 65535, such as mail.example.com:587.")]
    Port(String),
    #[error("“{0}” looks like a web address. Enter only the host name, such as mail.example.com.")]
    Scheme(String),
    #[error("“{0}” has a path. Enter only the host name, such as mail.example.com.")]
    Path(String),
    #[error("“{0}” is a mail address. Enter the name of the server, such as mail.example.com.")]
    MailAddress(String),
    #[error(
        "“{0}” is not an IPv4 address. Use four decimal numbers from 0 to 255 without leading zeros, such as 192.0.2.7."
    )]
    Ipv4(String),
    #[error("“{0}” is not an IPv6 address. Use a form such as 2001:db8::7, or [2001:db8::7]:587 with a port.")]
    Ipv6(String),
    #[error("“{0}” has a zone. Enter an address that every relay can reach, such as 2001:db8::7.")]
    Zone(String),
    #[error("“{0}” contains a blank. Enter one host name or IP address, such as mail.example.com.")]
    Blank(String),
    #[error("“{0}” contains a character that cannot be seen. Type the address instead of copying it.")]
    Invisible(String),
    #[error("“{0}” has brackets around a name. Enter it without them, such as mail.example.com:587.")]
    Brackets(String),
    #[error("This is too long for a host name: at most 253 characters.")]
    TooLong,
}

impl GatewayAddress {
    /// From parts that are known to be well-formed.
    pub fn new(host: GatewayHost, port: u16) -> Self {
        let host = match host {
            GatewayHost::Ip(ip) => GatewayHost::Ip(ip.to_canonical()),
            name => name,
        };
        Self { host, port }
    }

    pub fn host(&self) -> &GatewayHost {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The form for pages, which always show the port that is used: `mail.example.com port 25`.
    pub fn with_port_in_words(&self) -> String {
        format!("{} port {}", self.host, self.port)
    }
}

impl FromStr for GatewayAddress {
    type Err = GatewayAddressError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let typed = typed.trim_matches(|character| is_invisible(character) || character.is_whitespace());
        if typed.is_empty() {
            return Err(GatewayAddressError::Empty);
        }
        // The longest that is well-formed: a name of 253 characters, a trailing dot, a port.
        if typed.chars().count() > 260 {
            return Err(GatewayAddressError::TooLong);
        }
        refuse_what_is_no_address(typed)?;
        if let Some(bracketed) = typed.strip_prefix('[') {
            return parse_bracketed(typed, bracketed);
        }
        let Some((host, port)) = typed.split_once(':') else {
            return Ok(Self { host: parse_host(typed)?, port: SMTP_PORT });
        };
        // An IPv6 address is all colons, so it is tried before any port is split off.
        if port.contains(':') && !is_surely_a_host(host) {
            return Ok(Self { host: GatewayHost::Ip(parse_ipv6(typed)?), port: SMTP_PORT });
        }
        if host.is_empty() {
            return Err(GatewayAddressError::HostName(shown(typed)));
        }
        let port = parse_port(port)?;
        Ok(Self { host: parse_host(host)?, port })
    }
}

/// What copying from a page or a mail brings along: soft hyphens, joiners, marks of the writing direction.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{00ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

/// Names of protocols that people put in front with one colon, as in Postfix's `smtp:[mail.example.com]`.
const PROTOCOLS: [&str; 8] = ["smtp", "smtps", "lmtp", "relay", "submission", "submissions", "http", "https"];

/// What people paste instead of a host name, each with an answer of its own.
fn refuse_what_is_no_address(typed: &str) -> Result<(), GatewayAddressError> {
    let shown = || shown(typed);
    if typed.contains("://") || has_protocol(typed) {
        return Err(GatewayAddressError::Scheme(shown()));
    }
    if typed.contains('@') {
        return Err(GatewayAddressError::MailAddress(shown()));
    }
    if typed.contains(['/', '\\']) {
        return Err(GatewayAddressError::Path(shown()));
    }
    if typed.contains(char::is_whitespace) {
        return Err(GatewayAddressError::Blank(shown()));
    }
    if typed.contains(is_invisible) {
        return Err(GatewayAddressError::Invisible(shown()));
    }
    if typed.contains('%') && typed.contains(':') {
        return Err(GatewayAddressError::Zone(shown()));
    }
    Ok(())
}

/// `smtp:mail.example.com`; not `smtp:25`, which is a host of that name.
fn has_protocol(typed: &str) -> bool {
    typed.split_once(':').is_some_and(|(protocol, rest)| {
        PROTOCOLS.iter().any(|known| protocol.eq_ignore_ascii_case(known)) && rest.contains(['.', '['])
    })
}

/// Whether what stands before the first of several colons cannot be the beginning of an IPv6 address.
fn is_surely_a_host(head: &str) -> bool {
    !head.bytes().all(|byte| byte.is_ascii_hexdigit()) && !head.eq_ignore_ascii_case("ipv6") && parse_host(head).is_ok()
}

/// `[2001:db8::7]`, `[2001:db8::7]:587`, `[IPv6:2001:db8::7]`, `[192.0.2.7]:25` (RFC 5321 §4.1.3).
fn parse_bracketed(typed: &str, bracketed: &str) -> Result<GatewayAddress, GatewayAddressError> {
    let ipv6_mistake = || GatewayAddressError::Ipv6(shown(typed));
    let (literal, rest) = bracketed.split_once(']').ok_or_else(ipv6_mistake)?;
    let port = match rest.strip_prefix(':') {
        Some(port) => parse_port(port)?,
        None if rest.is_empty() => SMTP_PORT,
        None => return Err(ipv6_mistake()),
    };
    let tagged = literal.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    let ip = if tagged {
        parse_ipv6(&literal[5..])?
    } else if literal.contains(':') {
        parse_ipv6(literal)?
    } else if literal.is_empty() {
        return Err(ipv6_mistake());
    } else {
        match parse_host(literal)? {
            GatewayHost::Ip(ip) => ip,
            GatewayHost::Name(_) => return Err(GatewayAddressError::Brackets(shown(typed))),
        }
    };
    Ok(GatewayAddress { host: GatewayHost::Ip(ip), port })
}

fn parse_ipv6(typed: &str) -> Result<IpAddr, GatewayAddressError> {
    let ip: Ipv6Addr = typed.parse().map_err(|_| GatewayAddressError::Ipv6(shown(typed)))?;
    Ok(IpAddr::V6(ip).to_canonical())
}

fn parse_port(typed: &str) -> Result<u16, GatewayAddressError> {
    let mistake = || GatewayAddressError::Port(shown(typed));
    // `u16::from_str` takes a plus sign.
    if typed.is_empty() || !typed.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(mistake());
    }
    match typed.parse() {
        Ok(0) | Err(_) => Err(mistake()),
        Ok(port) => Ok(port),
    }
}

fn parse_host(typed: &str) -> Result<GatewayHost, GatewayAddressError> {
    if let Ok(ip) = typed.parse() {
        return Ok(GatewayHost::Ip(IpAddr::V4(ip)));
    }
    // `127.1`, `0x7f.0.0.1`, `0177.0.0.1`, `2130706433` and full-width digits are read as addresses
    // by some resolvers and as names by others; here they are neither.
    let ascii = idna::domain_to_ascii(typed).unwrap_or_else(|_| typed.to_lowercase());
    let name = ascii.trim_end_matches('.');
    if name.rsplit('.').next().is_some_and(is_number) {
        return Err(GatewayAddressError::Ipv4(shown(typed)));
    }
    if name.len() > 253 {
        return Err(GatewayAddressError::TooLong);
    }
    typed.parse().map(GatewayHost::Name).map_err(|_| GatewayAddressError::HostName(shown(typed)))
}

/// Whether a resolver could take this last label for a number: then the whole is an IPv4 address in disguise.
fn is_number(label: &str) -> bool {
    let hexadecimal =
        label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || (!label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What was typed, short and printable enough to be repeated in a message.
fn shown(typed: &str) -> String {
    let printable: String =
        typed.chars().filter(|character| !character.is_control() && !is_invisible(*character)).take(60).collect();
    if typed.chars().count() > 60 { printable + "…" } else { printable }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (host, SMTP_PORT) => host.fmt(f),
            (GatewayHost::Ip(ip), port) => f.write_str(&ShortText::of_socket((*ip, port).into())),
            (GatewayHost::Name(name), port) => {
                f.write_str(name.as_str())?;
                f.write_str(":")?;
                f.write_str(&ShortText::of_number(port))
            }
        }
    }
}

impl fmt::Display for GatewayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(ip) => f.pad(&ShortText::of_ip(*ip)),
        }
    }
}
