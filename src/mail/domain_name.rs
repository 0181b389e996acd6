//! Domain names as mail uses them: kept in ASCII, shown in Unicode. Sits under [`Mailbox`](super::Mailbox)
//! and [`GatewayAddress`](super::GatewayAddress).

use std::{fmt, str::FromStr};

/// A fully qualified domain name in its canonical form: ASCII (IDNA), lower case, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

/// Why something is not a domain name, in words for who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” is not a domain name. Use letters, digits, hyphens and dots, such as example.com.")]
pub struct DomainNameError(pub String);

impl DomainName {
    /// The canonical form: what the store keeps and comparisons use.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form to show to people: A-labels turned back into Unicode.
    pub fn to_unicode(&self) -> String {
        match idna::domain_to_unicode(&self.0) {
            (unicode, Ok(())) => unicode,
            (_, Err(_)) => self.0.clone(),
        }
    }
}

impl FromStr for DomainName {
    type Err = DomainNameError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let mistake = || DomainNameError(typed.to_owned());
        let name = typed.strip_suffix('.').unwrap_or(typed);
        let ascii = idna::domain_to_ascii_strict(name).map_err(|_| mistake())?;
        // RFC 1035 §2.3.4: 255 octets on the wire, which are 253 characters here.
        let well_formed = !ascii.is_empty()
            && ascii.len() <= 253
            && ascii.split('.').all(is_label)
            // A last label of digits alone is an IPv4 address, or a mistyped one.
            && !ascii.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if well_formed { Ok(Self(ascii)) } else { Err(mistake()) }
    }
}

/// RFC 1123 §2.1: letters, digits and inner hyphens, at most 63 characters.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
