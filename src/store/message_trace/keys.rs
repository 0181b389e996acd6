//! What a chunk of lines is found by, without looking into it: a Bloom filter of senders, recipients, messages and
//! kinds of lines. It may say yes where the answer is no, one time in a hundred, and never the other way round.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::event::{Event, Step};
use crate::mail::{Mailbox, short_id::ShortId};

/// Among so many that were added last is looked for a key that many lines share: steps and domains.
const LAST: usize = 12;
/// Places of the filter for each key, and places that one key sets: `has_trace_key` reads as many.
const BITS_PER_KEY: usize = 10;
const PLACES: u64 = 4;
/// The smallest filter, in bytes.
const LEAST: usize = 16;

/// Something that lines are searched by. The hash is kept in the store, so it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// A sender's address, or `@` and a domain; [`canonical`].
    pub fn sender(address: &str) -> Self {
        Self::of('s', address.as_bytes())
    }

    /// A recipient's address, or `@` and a domain; [`canonical`].
    pub fn recipient(address: &str) -> Self {
        Self::of('r', address.as_bytes())
    }

    /// The same for a message's long id and its short one.
    pub fn message(message: ShortId) -> Self {
        Self::of('m', &message.to_bytes())
    }

    /// The end of a queued message.
    pub fn end(message: ShortId) -> Self {
        Self::of('e', &message.to_bytes())
    }

    pub fn step(step: Step) -> Self {
        Self::of('t', step.as_str().as_bytes())
    }

    fn of(kind: char, what: &[u8]) -> Self {
        Self(xxh3_64_with_seed(what, kind.into()))
    }

    /// The two numbers that its places are made from, as the store takes them.
    pub fn halves(self) -> (i64, i64) {
        ((self.0 & 0x7fff_ffff) as i64, (((self.0 >> 32) & 0x7fff_ffff) | 1) as i64)
    }
}

/// An address as it is searched for: small letters, the domain in ASCII.
pub fn canonical(address: &str) -> Cow<'_, str> {
    // Most are written so.
    let is_plain = |byte: u8| byte.is_ascii() & (byte != b'"') & !byte.is_ascii_uppercase();
    if address.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        return Cow::Borrowed(address);
    }
    if address.is_ascii() && !address.contains('"') {
        return Cow::Owned(address.to_ascii_lowercase());
    }
    let mailbox = address.parse().map(|mailbox: Mailbox| mailbox.to_string());
    Cow::Owned(mailbox.map_or_else(|_| address.to_lowercase(), |mailbox| mailbox.to_lowercase()))
}

/// Adds the keys of one line.
pub fn of(event: &Event<'_>, keys: &mut Vec<Key>) {
    let message = ShortId::of(event.message);
    keys.push(Key::message(message));
    add_once(Key::step(event.step), keys);
    if event.step.ends() {
        keys.push(Key::end(message));
    }
    add_address(&event.sender, Key::sender, keys);
    if let Some(given) = &event.reverse_path {
        add_address(given, Key::sender, keys);
    }
    for recipient in &event.recipients {
        add_address(recipient.address(), Key::recipient, keys);
    }
}

fn add_address(address: &str, key: fn(&str) -> Key, keys: &mut Vec<Key>) {
    if address.is_empty() {
        return;
    }
    let address = canonical(address);
    keys.push(key(&address));
    if let Some(at) = memchr::memrchr(b'@', address.as_bytes()) {
        add_once(key(&address[at..]), keys);
    }
}

/// Adds it unless lines before had it, too. Nothing depends on that but how much there is to sort.
fn add_once(key: Key, keys: &mut Vec<Key>) {
    let (_, last) = keys.split_at(keys.len().saturating_sub(LAST));
    if !last.contains(&key) {
        keys.push(key);
    }
}

/// The filter of these keys.
pub fn filter(keys: &mut Vec<Key>) -> Vec<u8> {
    keys.sort_unstable();
    keys.dedup();
    let mut filter = vec![0_u8; (keys.len() * BITS_PER_KEY).div_ceil(8).max(LEAST)];
    let bits = filter.len() as u64 * 8;
    for key in keys.iter() {
        let (first, step) = key.halves();
        for place in 0..PLACES {
            let place = (first as u64 + place * step as u64) % bits;
            filter[(place / 8) as usize] |= 1 << (place % 8);
        }
    }
    filter
}
