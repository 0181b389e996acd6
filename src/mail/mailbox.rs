//! Mailboxes: the addresses of users and senders, in the one form in which they are compared.
//! Above [`DomainName`]; accounts, senders and administrators are known by it.

use std::{fmt, str::FromStr};

use super::DomainName;

/// A mail address in canonical form: local part in lower case, domain as [`DomainName`].
///
/// RFC 5321 §2.4 lets a host treat local parts of different letter case as different mailboxes;
/// here they are one, as every administrator expects. Envelopes keep addresses as they came.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox {
    local_part: String,
    domain: DomainName,
}

/// Why something is not a mail address, in words for who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    #[error("Enter a mail address, such as ann@example.com.")]
    Empty,
    #[error("“{0}” is not a mail address. Use a name, an @ and a domain, such as ann@example.com.")]
    Malformed(String),
    #[error("“{0}” is too long for a mail address: at most 64 characters before the @ and 254 in all.")]
    TooLong(String),
}

impl Mailbox {
    /// A mailbox from parts that are known to be well-formed; the local part is lower-cased.
    pub fn from_parts(local_part: &str, domain: DomainName) -> Self {
        Self { local_part: local_part.to_lowercase(), domain }
    }

    pub fn local_part(&self) -> &str {
        &self.local_part
    }

    pub fn domain(&self) -> &DomainName {
        &self.domain
    }
}

impl FromStr for Mailbox {
    type Err = MailboxError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let typed = typed.trim();
        if typed.is_empty() {
            return Err(MailboxError::Empty);
        }
        let malformed = || MailboxError::Malformed(typed.to_owned());
        let (local_part, domain) = typed.rsplit_once('@').ok_or_else(malformed)?;
        let local_part = &canonical_local_part(local_part).ok_or_else(malformed)?;
        let domain: DomainName = domain.parse().map_err(|_| malformed())?;
        let mailbox = Self::from_parts(local_part, domain);
        // RFC 5321 §4.5.3.1.1 and §4.5.3.1.3, in octets of the form that is kept: some small letters take more.
        let length = mailbox.local_part.len();
        if length > 64 || length + 1 + mailbox.domain.as_str().len() > 254 {
            return Err(MailboxError::TooLong(typed.to_owned()));
        }
        Ok(mailbox)
    }
}

/// RFC 5321 §4.1.2: a dot-string or a quoted string. Quotes and backslashes that are not needed are left out: they do
/// not make another mailbox of it, and a sender must not get past the facts of an account by writing `"ann"@`.
fn canonical_local_part(local_part: &str) -> Option<String> {
    let Some(quoted) = local_part.strip_prefix('"') else {
        return is_dot_string(local_part).then(|| local_part.to_owned());
    };
    let content = unquoted(quoted.strip_suffix('"')?)?;
    if is_dot_string(&content) {
        return Some(content);
    }
    Some(format!("\"{}\"", content.replace('\\', r"\\").replace('"', r#"\""#)))
}

/// RFC 6531 §3.3 adds everything beyond ASCII.
fn is_dot_string(local_part: &str) -> bool {
    local_part.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character))
}

fn is_atom_character(character: char) -> bool {
    match character {
        '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '+' | '-' | '/' | '=' | '?' | '^' | '_' | '`' | '{' | '|' | '}'
        | '~' => true,
        _ if character.is_ascii() => character.is_ascii_alphanumeric(),
        _ => !character.is_control() && !character.is_whitespace() && !is_mark_of_direction_or_width(character),
    }
}

/// Nothing that is seen, so two mailboxes with and without it would look the same. Joiners are letters' parts in some
/// scripts.
fn is_mark_of_direction_or_width(character: char) -> bool {
    matches!(
        character,
        '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

/// What a quoted string stands for; `None` if it is malformed.
fn unquoted(content: &str) -> Option<String> {
    let mut plain = String::with_capacity(content.len());
    let mut characters = content.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => characters.next().filter(|escaped| matches!(escaped, ' '..='~'))?,
            '"' => return None,
            _ if character.is_control() => return None,
            _ => character,
        });
    }
    Some(plain)
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        [&self.local_part, "@", self.domain.as_str()].into_iter().try_for_each(|part| f.write_str(part))
    }
}
