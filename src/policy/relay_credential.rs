//! Relay credentials: who signs in to submit mail, for which organization, and within which limits.
//! Facts of routing like gateways, so that signing in works while the store is away.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use super::{facts::Found, sender};
use crate::mail::{
    DomainName, Mailbox,
    id::{CredentialId, OrganizationId},
};

/// One credential that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayCredential {
    pub organization: OrganizationId,
    pub id: CredentialId,
    pub user_name: String,
    pub secret: SecretHash,
    pub limits: Limits,
}

/// What a credential is limited to. What is empty limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Addresses that it may send from, besides those at `domains`.
    pub addresses: Vec<Mailbox>,
    pub domains: Vec<DomainName>,
    /// Where clients may be.
    pub networks: Vec<IpNet>,
    pub messages_per_minute: Option<u32>,
    /// A line feed without carriage return is made CR LF instead of refused: the one exception to the promise that
    /// messages are not touched.
    pub allow_bare_line_feeds: bool,
}

impl Limits {
    pub fn permit_client(&self, client: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&client))
    }

    /// Whether mail with this reverse-path, whose sender was found, is within the limits. The organization is not
    /// asked about here.
    pub fn permit_sender(&self, reverse_path: &str, found: &Found) -> bool {
        if self.addresses.is_empty() && self.domains.is_empty() {
            return true;
        }
        let candidates = sender::candidates(reverse_path);
        let Some(given) = candidates.first() else { return false };
        // A bounce form may name an address at another domain: both have to be allowed.
        let by_domain = self.domains.contains(given.domain()) && self.domains.contains(found.sender.domain());
        by_domain || self.addresses.contains(&found.sender) || {
            // What is sent with a tag follows its address, also where no account has that.
            found.account.is_none() && candidates.iter().any(|candidate| self.addresses.contains(candidate))
        }
    }
}

/// SHA-256 of a secret. The secret has 130 random bits: a slow hash would only cost time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether it was made from this secret. Takes as long whatever the answer is.
    pub fn is_of(&self, secret: &str) -> bool {
        let given = Self::of(secret);
        self.0.iter().zip(given.0).fold(0, |differences, (own, given)| differences | (own ^ given)) == 0
    }
}

/// Says nothing of what it holds.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

/// How many characters a secret has: five bits each.
const SECRET_LENGTH: usize = 26;
/// How many random characters stand at the end of a user name.
const NAME_LENGTH: usize = 8;

/// Letters and digits that nobody takes for each other.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A secret from 17 random bytes.
pub fn secret(random: &[u8; 17]) -> String {
    token(random, SECRET_LENGTH)
}

/// A user name in an organization: `acme-7k2m9q4x`.
pub fn user_name(slug: &str, random: &[u8; 5]) -> String {
    format!("{slug}-{}", token(random, NAME_LENGTH))
}

fn token(random: &[u8], length: usize) -> String {
    let bit = |at: usize| (random[at / 8] >> (7 - at % 8)) & 1;
    let character = |place: usize| (0..5).fold(0, |value, at| value << 1 | usize::from(bit(place * 5 + at)));
    (0..length).map(|place| char::from(ALPHABET[character(place)])).collect()
}

/// A user name as clients may give it: without regard to letter case, and with anything that looks like a
/// domain behind it, since some devices demand a mail address.
pub fn canonical_user_name(given: &str) -> String {
    given.split('@').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// How many messages may still be sent: refilled with time, at most to a minute's worth.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    left: f64,
    at: OffsetDateTime,
}

impl Allowance {
    pub fn full(messages_per_minute: u32, now: OffsetDateTime) -> Self {
        Self { left: f64::from(messages_per_minute), at: now }
    }

    /// Whether nobody has taken anything out for a day: it has long been full again.
    pub fn is_unused(&self, now: OffsetDateTime) -> bool {
        now - self.at >= Duration::DAY
    }

    /// Takes one message out; false if there is none left.
    pub fn take(&mut self, messages_per_minute: u32, now: OffsetDateTime) -> bool {
        let most = f64::from(messages_per_minute);
        let passed = (now - self.at).max(Duration::ZERO).as_seconds_f64();
        self.left = (self.left + most * passed / 60.0).min(most);
        self.at = now;
        let there_is_one = self.left >= 1.0;
        if there_is_one {
            self.left -= 1.0;
        }
        there_is_one
    }
}

/// The most entries that a credential is limited to by its addresses, domains or networks.
pub const MOST_ENTRIES: usize = 200;

/// Addresses and mail domains as people type them: `ann@example.com`, `example.com`, apart by blanks, commas or lines.
pub fn senders(typed: &str) -> Result<(Vec<Mailbox>, Vec<DomainName>), String> {
    let (mut addresses, mut domains) = (Vec::new(), Vec::new());
    for entry in entries(typed) {
        match entry.contains('@') {
            true => addresses.push(entry.parse::<Mailbox>().map_err(|mistake| mistake.to_string())?),
            false => domains.push(entry.parse::<DomainName>().map_err(|mistake| mistake.to_string())?),
        }
    }
    addresses.sort();
    addresses.dedup();
    domains.sort();
    domains.dedup();
    match addresses.len() + domains.len() <= MOST_ENTRIES {
        true => Ok((addresses, domains)),
        false => Err(format!("These are too many: at most {MOST_ENTRIES} addresses and domains.")),
    }
}

/// Networks as people type them; a single address is a network of one.
pub fn networks(typed: &str) -> Result<Vec<IpNet>, String> {
    let mut networks = entries(typed).map(network).collect::<Result<Vec<_>, _>>()?;
    networks.sort();
    networks.dedup();
    match networks.len() <= MOST_ENTRIES {
        true => Ok(networks),
        false => Err(format!("These are too many networks: at most {MOST_ENTRIES}.")),
    }
}

fn network(typed: &str) -> Result<IpNet, String> {
    let parsed = IpNet::from_str(typed).ok().or_else(|| typed.parse::<IpAddr>().ok().map(IpNet::from));
    parsed
        .map(|network| network.trunc())
        .ok_or_else(|| format!("“{typed}” is not a network. Use an address or a network, such as 192.0.2.0/24."))
}

fn entries(typed: &str) -> impl Iterator<Item = &str> {
    typed
        .split(|character: char| character.is_whitespace() || matches!(character, ',' | ';'))
        .filter(|entry| !entry.is_empty())
}

/// A name as people type it: not empty, so that one knows later what the credential is for.
pub fn name(typed: &str) -> Result<String, String> {
    match super::account_file::name(typed)?.as_str() {
        "" => Err("Enter a name, so that you know later what the credential is for.".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// The most messages a minute that can be typed.
pub const MOST_PER_MINUTE: u32 = 1_000_000;

/// A rate as people type it; empty is none.
pub fn messages_per_minute(typed: &str) -> Result<Option<u32>, String> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Ok(None);
    }
    match typed.parse::<u32>() {
        Ok(rate @ 1..=MOST_PER_MINUTE) => Ok(Some(rate)),
        _ => {
            Err(format!("“{typed}” is not a number of messages. Use a number from 1 to {MOST_PER_MINUTE}, or nothing."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_a_token_is_made_from_five_bits() {
        assert_eq!(secret(&[0; 17]), "0".repeat(26));
        assert_eq!(secret(&[0xff; 17]), "z".repeat(26));
        assert_eq!(token(&[0x08, 0x86, 0x42, 0x98, 0xe8], 8), "12345678");
    }

    #[test]
    fn an_allowance_is_refilled_with_time_and_never_beyond_a_minute() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let mut allowance = Allowance::full(2, start);
        let mut taken = |seconds: i64| allowance.take(2, start + Duration::seconds(seconds));
        assert_eq!(
            [taken(0), taken(0), taken(0), taken(29), taken(30), taken(30)],
            [true, true, false, false, true, false]
        );
        assert_eq!([taken(3_600), taken(3_600), taken(3_600)], [true, true, false]);
        assert!(!taken(0), "a clock that is set back gives nothing");
    }
}
