//! Domain names as mail uses them: kept in ASCII, shown in Unicode. Sits under [`Mailbox`](super::Mailbox)
//! and [`GatewayAddress`](super::GatewayAddress).

use std::{
    borrow::{Borrow, Cow},
    fmt,
    str::FromStr,
};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

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

    /// The canonical form of what somebody wrote, without a copy where that is it already.
    ///
    /// # Errors
    /// If it is not a domain name.
    pub fn canonical(typed: &str) -> Result<Cow<'_, str>, DomainNameError> {
        let mistake = || DomainNameError(typed.to_owned());
        let name = typed.strip_suffix('.').unwrap_or(typed);
        let look = look(name);
        if look.is_plain {
            return if look.is_well_formed { Ok(Cow::Borrowed(name)) } else { Err(mistake()) };
        }
        // Hyphens are judged below: names such as `r3---a.example.com` are in use.
        let ascii = Uts46::new()
            .to_ascii(name.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow, DnsLength::Verify)
            .map_err(|_| mistake())?;
        let well_formed =
            self::look(&ascii).is_well_formed && !idna::domain_to_unicode(&ascii).0.contains(is_punctuation_or_symbol);
        if well_formed { Ok(Cow::Owned(ascii.into_owned())) } else { Err(mistake()) }
    }

    /// The form to show to people: A-labels turned back into Unicode.
    pub fn to_unicode(&self) -> String {
        if look(&self.0).is_plain {
            return self.0.clone();
        }
        match idna::domain_to_unicode(&self.0) {
            (unicode, Ok(())) => unicode,
            (_, Err(_)) => self.0.clone(),
        }
    }
}

impl FromStr for DomainName {
    type Err = DomainNameError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        Self::canonical(typed).map(|name| Self(name.into_owned()))
    }
}

/// Names are looked up by their canonical form, which hashes and compares as they do.
impl Borrow<str> for DomainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a look at a name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    /// It is its own ASCII and its own Unicode form, as nearly all are: nothing is mapped in it, and no label stands for
    /// another script (RFC 5890 §2.3.2.1).
    is_plain: bool,
    /// Of ASCII: it can be a name.
    is_well_formed: bool,
}

/// One pass over a name, since each message has several and lists have very many.
fn look(name: &str) -> Look {
    let bytes = name.as_bytes();
    // RFC 1035 §2.3.4: 255 octets on the wire, which are 253 characters here.
    let mut look = Look { is_plain: true, is_well_formed: bytes.len() <= 253 };
    let (mut begun, mut is_number) = (0, true);
    let end = |look: &mut Look, label: &[u8]| {
        // RFC 1123 §2.1: letters, digits and inner hyphens, at most 63 characters.
        look.is_well_formed &=
            (1..=63).contains(&label.len()) && label.first() != Some(&b'-') && label.last() != Some(&b'-');
        look.is_plain &= !label.starts_with(b"xn--");
    };
    for (place, byte) in bytes.iter().enumerate() {
        match byte {
            b'.' => {
                end(&mut look, &bytes[begun..place]);
                (begun, is_number) = (place + 1, true);
            }
            b'0'..=b'9' => {}
            b'a'..=b'z' | b'-' => is_number = false,
            _ => {
                is_number = false;
                look.is_plain = false;
                look.is_well_formed &= byte.is_ascii_alphabetic();
            }
        }
    }
    end(&mut look, &bytes[begun..]);
    // A last label of digits alone is an IPv4 address, or a mistyped one.
    look.is_well_formed &= !is_number;
    look
}

/// RFC 5892 has letters, digits and marks in names; the mapping that came before it (UTS 46) lets through the
/// quotation marks that a name was pasted with. The middle dot is a letter's part in Catalan.
fn is_punctuation_or_symbol(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{b6}' | '\u{b8}'..='\u{bf}' | '\u{2000}'..='\u{2bff}' | '\u{2e00}'..='\u{2e7f}'
            | '\u{3000}'..='\u{3004}' | '\u{3008}'..='\u{3020}' | '\u{fe10}'..='\u{fe6f}' | '\u{1f000}'..='\u{1faff}'
    )
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    proptest! {
        #![proptest_config(cases(2000))]

        #[test]
        fn one_look_tells_what_the_rules_say_one_by_one(
            name in "(xn--)?[a-z0-9-]{0,5}(\\.(xn--)?[a-z0-9A-Z_\u{e9}-]{0,4}){0,3}|a{60,66}(\\.[0-9]{1,2}|(\\.b{61}){3,4}){0,2}",
        ) {
            let is_plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
                && !name.split('.').any(|label| label.starts_with("xn--"));
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            let ends_in_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
            let is_well_formed = name.len() <= 253 && name.split('.').all(is_label) && !ends_in_number;
            prop_assert_eq!(look(&name), Look { is_plain, is_well_formed });
        }
    }
}
