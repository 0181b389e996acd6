//! What a sender wants to be told about a message (RFC 3461): ENVID and RET of MAIL, NOTIFY and ORCPT of RCPT.
//! Parsed where mail is received, kept with the message, passed on to whoever offers DSN.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// RFC 3461 §4.4.
const LONGEST_ENVID: usize = 100;
/// RFC 3461 §4.2.
const LONGEST_ORCPT: usize = 500;

/// A value that the parameter cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” is not a value of this parameter")]
pub struct ParameterError(String);

/// NOTIFY (RFC 3461 §4.1): about what the sender wants to be told. Nothing of it is NEVER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    /// Nothing at all.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };
}

impl FromStr for Notify {
    type Err = ParameterError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        if value.eq_ignore_ascii_case("NEVER") {
            return Ok(Self::NEVER);
        }
        let mut notify = Self::NEVER;
        for word in value.split(',') {
            match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => notify.success = true,
                "FAILURE" => notify.failure = true,
                "DELAY" => notify.delay = true,
                // NEVER stands alone.
                _ => return Err(ParameterError(value.to_owned())),
            }
        }
        Ok(notify)
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let wanted: Vec<&str> = words.iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, word)| *word).collect();
        if wanted.is_empty() { f.write_str("NEVER") } else { f.write_str(&wanted.join(",")) }
    }
}

/// RET (RFC 3461 §4.3): what comes back with the report of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ret {
    #[serde(rename = "FULL")]
    Full,
    #[serde(rename = "HDRS")]
    Headers,
}

impl FromStr for Ret {
    type Err = ParameterError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value.to_ascii_uppercase().as_str() {
            "FULL" => Ok(Self::Full),
            "HDRS" => Ok(Self::Headers),
            _ => Err(ParameterError(value.to_owned())),
        }
    }
}

impl fmt::Display for Ret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

/// ENVID (RFC 3461 §4.4): by what the sender knows the message. `Display` is the xtext as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvelopeId(String);

impl EnvelopeId {
    /// As the sender means it: printable ASCII.
    pub fn decoded(&self) -> String {
        decoded(&self.0).unwrap_or_default()
    }
}

impl FromStr for EnvelopeId {
    type Err = ParameterError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let is_one =
            !value.is_empty() && value.len() <= LONGEST_ENVID && decoded(value).is_some_and(|id| id.is_ascii());
        if is_one { Ok(Self(value.to_owned())) } else { Err(ParameterError(value.to_owned())) }
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// ORCPT (RFC 3461 §4.2): whom the sender wrote to, whatever the address has become on the way. `Display` is the
/// value as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OriginalRecipient(String);

impl OriginalRecipient {
    /// The type of the address, `rfc822` or another.
    pub fn kind(&self) -> &str {
        self.0.split_once(';').map_or("rfc822", |(kind, _)| kind)
    }

    /// The address as the sender means it: nothing in it is a control character.
    pub fn decoded(&self) -> String {
        let address = self.0.split_once(';').map_or("", |(_, address)| address);
        let address = decoded(address).unwrap_or_default();
        if self.is_utf8() { with_embedded_characters(&address) } else { address }
    }

    /// RFC 6533 §3.
    fn is_utf8(&self) -> bool {
        self.kind().eq_ignore_ascii_case("utf-8")
    }

    /// The same for a server that takes ASCII only.
    pub fn in_ascii(&self) -> String {
        in_ascii(&self.0)
    }
}

/// With every other character embedded (RFC 6533 §3: utf-8-addr-xtext).
pub fn in_ascii(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut ascii, character| {
        match character.is_ascii() {
            true => ascii.push(character),
            false => ascii.push_str(&format!("\\x{{{:X}}}", u32::from(character))),
        }
        ascii
    })
}

impl FromStr for OriginalRecipient {
    type Err = ParameterError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let mistake = || ParameterError(value.to_owned());
        let (kind, address) = value.split_once(';').ok_or_else(mistake)?;
        let is_atom = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let given = Self(value.to_owned());
        let is_address = !address.is_empty()
            && decoded(address).is_some_and(|address| address.is_ascii() || given.is_utf8())
            && !given.decoded().chars().any(char::is_control);
        if is_atom && is_address && value.len() <= LONGEST_ORCPT { Ok(given) } else { Err(mistake()) }
    }
}

impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is kept as it was written.
macro_rules! kept_as_text {
    ($($type:ty),+) => {$(
        impl TryFrom<String> for $type {
            type Error = ParameterError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )+};
}

kept_as_text!(Notify, EnvelopeId, OriginalRecipient);

/// RFC 3461 §4: `xtext`. `None` if it is not that, or if what it stands for has control characters: both parameters
/// consist of printable ones. Characters beyond ASCII stand for themselves (RFC 6533 §3: unitext).
fn decoded(xtext: &str) -> Option<String> {
    let mut decoded = String::with_capacity(xtext.len());
    let mut rest = xtext.chars();
    while let Some(character) = rest.next() {
        let meant = match character {
            '+' => char::from(hexadecimal(rest.next()?)? << 4 | hexadecimal(rest.next()?)?),
            '=' => return None,
            '!'..='~' => character,
            _ if character.is_ascii() || character.is_control() => return None,
            _ => character,
        };
        if meant.is_control() {
            return None;
        }
        decoded.push(meant);
    }
    Some(decoded)
}

/// Upper case only, as the grammar has it.
fn hexadecimal(digit: char) -> Option<u8> {
    match digit {
        '0'..='9' | 'A'..='F' => digit.to_digit(16).and_then(|value| value.try_into().ok()),
        _ => None,
    }
}

/// RFC 6533 §3: `\x{2014}` is the character with this number.
fn with_embedded_characters(text: &str) -> String {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x{") {
        let embedded = after.split_once('}').and_then(|(digits, behind)| {
            let character = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)?;
            Some((character, behind))
        });
        whole.push_str(before);
        match embedded {
            Some((character, behind)) => {
                whole.push(character);
                rest = behind;
            }
            None => {
                whole.push_str("\\x{");
                rest = after;
            }
        }
    }
    whole + rest
}

/// Something that a sender may want to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The message was delivered, or passed to a server that tells nobody.
    Success,
    Failure,
    Delay,
}

/// What RCPT said about notifications of one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    pub notify: Option<Notify>,
    pub original: Option<OriginalRecipient>,
}

impl Wishes {
    /// Nothing was said.
    pub fn is_empty(&self) -> bool {
        self.notify.is_none() && self.original.is_none()
    }
}

/// Whether the sender wants to be told of it. Without NOTIFY failures are reported, and delays (RFC 3461 §4.1).
pub fn wants(notify: Option<Notify>, event: Event) -> bool {
    match (notify, event) {
        (Some(notify), Event::Success) => notify.success,
        (Some(notify), Event::Failure) => notify.failure,
        (Some(notify), Event::Delay) => notify.delay,
        (None, Event::Success) => false,
        (None, Event::Failure | Event::Delay) => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn never_stands_alone_and_the_other_words_in_any_order() {
        for (value, canonical) in
            [("NEVER", "NEVER"), ("never", "NEVER"), ("delay,Success", "SUCCESS,DELAY"), ("FAILURE", "FAILURE")]
        {
            assert_eq!(value.parse::<Notify>().map(|notify| notify.to_string()).as_deref(), Ok(canonical));
        }
        for value in ["", ",", "NEVER,FAILURE", "SUCCESS,", "ALWAYS", "SUCCESS FAILURE"] {
            assert!(value.parse::<Notify>().is_err(), "{value}");
        }
    }

    #[test]
    fn an_envelope_id_is_xtext_of_printable_characters() {
        let id: EnvelopeId = "QQ314159+2B+3D+20x".parse().expect("an id");
        assert_eq!((id.decoded().as_str(), id.to_string().as_str()), ("QQ314159+= x", "QQ314159+2B+3D+20x"));
        let long = "x".repeat(100);
        assert!(long.parse::<EnvelopeId>().is_ok());
        for value in ["", "a=b", "a b", "+", "+4", "+4g", "+4a", "é", "x+0D+0Ay", "+00", "+E9", &format!("{long}x")] {
            assert!(value.parse::<EnvelopeId>().is_err(), "{value}");
        }
    }

    #[test]
    fn an_original_recipient_is_a_type_and_an_address() {
        for (value, kind, address) in [
            ("rfc822;Bob+2Bnews@elsewhere.example", "rfc822", "Bob+news@elsewhere.example"),
            ("utf-8;b\\x{f6}b@elsewhere.example", "utf-8", "böb@elsewhere.example"),
            ("UTF-8;böb@elsewhere.example", "UTF-8", "böb@elsewhere.example"),
            ("utf-8;\\x{110000}\\x{", "utf-8", "\\x{110000}\\x{"),
            ("x400;/c=us".replace('=', "+3D").as_str(), "x400", "/c=us"),
        ] {
            let original: OriginalRecipient = value.parse().expect("an original recipient");
            assert_eq!((original.kind(), original.decoded().as_str()), (kind, address));
            assert!(original.in_ascii().is_ascii());
            assert_eq!(original.in_ascii().parse::<OriginalRecipient>().map(|same| same.decoded()), Ok(address.into()));
        }
        let long = format!("rfc822;{}", "x".repeat(494));
        for value in
            ["", "rfc822", "rfc822;", ";bob@x", "rfc 822;bob", "rfc822;bob+0Abcc@x", "utf-8;\\x{A}", "rfc822;é", &long]
        {
            assert!(value.parse::<OriginalRecipient>().is_err(), "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_never_holds_a_control_character(value in "(utf-8;|rfc822;)?\\PC{0,40}(\\+0[0-9A-F]|\\\\x\\{[0-9a-f]{1,4}\\})?") {
            if let Ok(original) = value.parse::<OriginalRecipient>() {
                prop_assert!(!original.decoded().chars().any(char::is_control));
                prop_assert!(original.to_string() == value && original.in_ascii().is_ascii());
            }
            if let Ok(id) = value.parse::<EnvelopeId>() {
                prop_assert!(id.decoded().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
