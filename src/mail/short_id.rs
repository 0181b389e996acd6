//! The id of a message in a form that fits into an SMTP reply and into somebody's note: when it was received and
//! enough of the rest to tell it from the others of that millisecond.

use std::{fmt, str::FromStr, sync::Arc};

use super::id::QueueId;

/// 48 bits of time and 22 of chance, written as 14 characters: `0k8x-3f7ab-c9def`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortId(u128);

/// Something else was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id of a message has 14 letters and digits")]
pub struct ShortIdError;

/// Crockford's digits: without those that are read as another.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: u32 = 14;
const CHANCE: u32 = 22;

impl ShortId {
    pub fn of(message: QueueId) -> Self {
        // RFC 9562 §5.7: the first 48 bits are the time, the last ones chance.
        let id = message.0.as_u128();
        Self((id >> 80) << CHANCE | id & ((1 << CHANCE) - 1))
    }

    /// When the message was received, since 1970.
    pub fn milliseconds(self) -> u64 {
        (self.0 >> CHANCE) as u64
    }

    /// How the long form begins.
    pub fn start_of_uuid(self) -> String {
        let hexadecimal = format!("{:012x}", self.milliseconds());
        let (first, second) = hexadecimal.split_at(8);
        format!("{first}-{second}")
    }

    /// The same for the same message in all versions.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in 0..LENGTH {
            if place == 4 || place == 9 {
                f.write_str("-")?;
            }
            let digit = (self.0 >> (5 * (LENGTH - 1 - place))) as usize & 31;
            write!(f, "{}", DIGITS[digit] as char)?;
        }
        Ok(())
    }
}

impl FromStr for ShortId {
    type Err = ShortIdError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let (mut number, mut length) = (0_u128, 0);
        for character in typed.trim().chars().filter(|character| *character != '-') {
            let digit = match character.to_ascii_lowercase() {
                'o' => b'0',
                'i' | 'l' => b'1',
                other => u8::try_from(other).map_err(|_| ShortIdError)?,
            };
            let value = DIGITS.iter().position(|known| *known == digit).ok_or(ShortIdError)?;
            length += 1;
            if length > LENGTH {
                return Err(ShortIdError);
            }
            number = number << 5 | value as u128;
        }
        if length < LENGTH { Err(ShortIdError) } else { Ok(Self(number)) }
    }
}

/// How a message is named to people: by the page that says what happened to it, or by the id alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageLinks {
    /// Where the pages are, without a slash at the end.
    pages: Option<Arc<str>>,
}

impl MessageLinks {
    /// To pages that browsers reach there.
    pub fn to(pages: &str) -> Self {
        Self { pages: Some(pages.trim_end_matches('/').into()) }
    }

    /// For one message.
    pub fn of(&self, id: ShortId) -> String {
        match &self.pages {
            Some(pages) => format!("{pages}/message/{id}"),
            None => id.to_string(),
        }
    }

    /// A page by its path; `None` where nobody has said where the pages are.
    pub fn page(&self, path: &str) -> Option<String> {
        self.pages.as_ref().map(|pages| format!("{pages}{path}"))
    }
}
