//! JSON as lines about messages are written in it, in the log and in the trace, without a serializer: every message has
//! one in each, and the library's way to them took a quarter of what the relay itself computes for a message.

use super::short_text::{MOST_DIGITS, digits};

/// The name of a field behind another one, as it stands in an object. A word of ours, which needs no escapes.
macro_rules! field {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(crate) use field;

/// A text of ours, which needs no escapes.
pub fn word(to: &mut String, word: &str) {
    to.push('"');
    to.push_str(word);
    to.push('"');
}

/// A string with its quotation marks.
pub fn quote(to: &mut String, text: &str) {
    to.push('"');
    escape(to, text);
    to.push('"');
}

/// RFC 8259 §7: quotation mark, reverse solidus and control characters.
pub fn escape(to: &mut String, text: &str) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut rest = text;
    while let Some(place) = special(rest.as_bytes()) {
        let (before, from) = rest.split_at(place);
        to.push_str(before);
        match from.as_bytes()[0] {
            byte @ (b'"' | b'\\') => {
                to.push('\\');
                to.push(byte.into());
            }
            byte => {
                to.push_str("\\u00");
                to.push(HEX[usize::from(byte >> 4)]);
                to.push(HEX[usize::from(byte & 15)]);
            }
        }
        rest = &from[1..];
    }
    to.push_str(rest);
}

/// Where the first byte is that cannot stand in a string: eight are looked at together.
fn special(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    let is_special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    let (eights, _) = bytes.as_chunks::<8>();
    let has_special = |eight: &[u8; 8]| {
        let word = u64::from_ne_bytes(*eight);
        let has_zero = |word: u64| word.wrapping_sub(EACH) & !word & HIGH;
        let has_control = word.wrapping_sub(EACH * u64::from(b' ')) & !word & HIGH;
        has_control | has_zero(word ^ (EACH * u64::from(b'"'))) | has_zero(word ^ (EACH * u64::from(b'\\'))) != 0
    };
    let passed = eights.iter().take_while(|eight| !has_special(eight)).count() * 8;
    bytes[passed..].iter().position(|byte| is_special(*byte)).map(|place| passed + place)
}

/// In decimal.
pub fn number(to: &mut String, number: i64) {
    if number < 0 {
        to.push('-');
    }
    let mut room = [0; MOST_DIGITS];
    to.push_str(std::str::from_utf8(digits(number.unsigned_abs(), &mut room)).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    proptest! {
        #![proptest_config(cases(2000))]

        #[test]
        fn texts_and_numbers_are_read_as_they_were(
            text in "([a-z]|[\u{0}-\u{ff}]|\\PC|[\"\\\\\n]){0,40}",
            value in any::<i64>(),
        ) {
            let mut line = String::from("{\"text\":");
            quote(&mut line, &text);
            line.push_str(field!("number"));
            number(&mut line, value);
            line.push('}');
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read, serde_json::json!({ "text": text, "number": value }));
        }
    }
}
