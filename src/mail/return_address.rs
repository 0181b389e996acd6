//! The address whose mail comes back to this installation, and the signed token that makes it one test message's own.
//! Verifications write to it; `relay::submission` knows by it what has come back.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use super::{DomainName, Mailbox, id::TestMessageId};

/// An address at a domain whose mail leads to the relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnAddress(Mailbox);

/// Why an address cannot be that, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReturnAddressError {
    #[error("{0}")]
    NoMailbox(#[from] super::mailbox::MailboxError),
    #[error(
        "“{0}” cannot have a token behind it: take at most {LONGEST_LOCAL_PART} letters and digits before the @, such as \
         return@probe.example.com."
    )]
    NoRoom(String),
}

/// What tokens are signed with: the same at all relays of an installation.
#[derive(Clone)]
pub struct TokenKey([u8; TokenKey::LENGTH]);

/// What somebody wrote to who used the return address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// We have made it.
    Genuine(TestMessageId),
    /// Nobody here has.
    Unknown,
}

/// Of the signature, in bytes: who guesses has one chance in 2^80.
const SIGNATURE: usize = 10;
/// In hexadecimal digits, which survive servers that change the case of letters.
const TOKEN: usize = 2 * (16 + SIGNATURE);
/// RFC 5321 §4.5.3.1.1 leaves 64 octets for all of it.
const LONGEST_LOCAL_PART: usize = 64 - 1 - TOKEN;

impl TokenKey {
    /// In bytes.
    pub const LENGTH: usize = 32;

    pub fn new(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    fn mac(&self, id: Uuid) -> Hmac<Sha256> {
        // RFC 2104 §2: shorter keys are filled up with zeros.
        let mut block = [0; 64];
        block[..Self::LENGTH].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(b"outgate test message ");
        mac.update(id.as_bytes());
        mac
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl ReturnAddress {
    pub fn domain(&self) -> &DomainName {
        self.0.domain()
    }

    /// The address that one test message is sent to.
    pub fn of(&self, test: TestMessageId, key: &TokenKey) -> String {
        let signature = key.mac(test.0).finalize().into_bytes();
        let signature: String = signature[..SIGNATURE].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}+{}{signature}@{}", self.0.local_part(), test.0.simple(), self.0.domain())
    }

    /// The token of a forward-path; `None` if that is not the return address, whatever stands behind its plus sign.
    pub fn token(&self, forward_path: &str, key: &TokenKey) -> Option<Token> {
        let mailbox: Mailbox = forward_path.parse().ok()?;
        if mailbox.domain() != self.0.domain() {
            return None;
        }
        let behind = mailbox.local_part().strip_prefix(self.0.local_part())?;
        if behind.is_empty() {
            return Some(Token::Unknown);
        }
        let token = behind.strip_prefix('+')?;
        Some(genuine(token, key).map_or(Token::Unknown, Token::Genuine))
    }
}

fn genuine(token: &str, key: &TokenKey) -> Option<TestMessageId> {
    if token.len() != TOKEN || !token.is_ascii() {
        return None;
    }
    let (id, signature) = token.split_at(32);
    let id = Uuid::try_parse(id).ok()?;
    let bytes: Vec<u8> = (0..SIGNATURE)
        .map(|place| u8::from_str_radix(&signature[2 * place..2 * place + 2], 16).ok())
        .collect::<Option<_>>()?;
    // In constant time: how far a guess is right must not be measurable.
    key.mac(id).verify_truncated_left(&bytes).ok()?;
    Some(TestMessageId(id))
}

impl std::str::FromStr for ReturnAddress {
    type Err = ReturnAddressError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let mailbox: Mailbox = typed.parse()?;
        let local_part = mailbox.local_part();
        let fits =
            local_part.len() <= LONGEST_LOCAL_PART && local_part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if fits { Ok(Self(mailbox)) } else { Err(ReturnAddressError::NoRoom(typed.to_owned())) }
    }
}

impl fmt::Display for ReturnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> ReturnAddress {
        "return@probe.example".parse().expect("an address")
    }

    #[test]
    fn a_token_is_known_again_in_any_case_of_letters_and_with_its_own_key_only() {
        let (id, key) = (TestMessageId::new(), TokenKey::new([7; 32]));
        let made = address().of(id, &key);
        assert!(made.parse::<Mailbox>().is_ok(), "{made}");
        for written in [made.clone(), made.to_uppercase()] {
            assert_eq!(address().token(&written, &key), Some(Token::Genuine(id)), "{written}");
        }
        assert_eq!(address().token(&made, &TokenKey::new([8; 32])), Some(Token::Unknown));
        let other = address().of(TestMessageId::new(), &key);
        let mixed = format!("{}{}", &made[..39], &other[39..]);
        assert_eq!(address().token(&mixed, &key), Some(Token::Unknown), "the signature of another one");
    }

    #[test]
    fn other_addresses_are_nobodys_tokens() {
        let key = TokenKey::new([7; 32]);
        for (forward_path, expected) in [
            ("return@probe.example", Some(Token::Unknown)),
            ("return+@probe.example", Some(Token::Unknown)),
            ("return+short@probe.example", Some(Token::Unknown)),
            ("returned@probe.example", None),
            ("postmaster@probe.example", None),
            ("return@elsewhere.example", None),
            ("not an address", None),
        ] {
            assert_eq!(address().token(forward_path, &key), expected, "{forward_path}");
        }
    }

    #[test]
    fn an_address_that_leaves_no_room_for_a_token_is_refused() {
        for typed in
            ["a-rather-long-name@probe.example", "re+turn@probe.example", "rück@probe.example", "probe.example"]
        {
            assert!(typed.parse::<ReturnAddress>().is_err(), "{typed}");
        }
        let longest: ReturnAddress = "elevenchars@probe.example".parse().expect("an address");
        let made = longest.of(TestMessageId::new(), &TokenKey::new([7; 32]));
        assert_eq!(made.split('@').next().map(str::len), Some(64));
    }

    proptest! {
        #[test]
        fn no_guess_is_genuine(guess in "[0-9a-fA-F]{52}|\\PC{0,60}") {
            let forward_path = format!("return+{guess}@probe.example");
            let token = address().token(&forward_path, &TokenKey::new([7; 32]));
            prop_assert!(!matches!(token, Some(Token::Genuine(_))));
        }
    }
}
