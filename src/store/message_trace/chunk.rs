//! Lines as they stand in the store: many in one row, compressed, with a filter of what they are found by. A row
//! for each line with an index for each way to search would cost a message more than its hand-over does.

use std::collections::BTreeSet;

use lz4_flex::block::{compress_prepend_size, decompress_size_prepended};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    event::{Event, Repeated},
    keys::{self, Key},
};
use crate::mail::id::{OrganizationId, RelayId};

/// A chunk is closed once it has so many lines, keys (a row of the store is a page at most, and the filter stays in
/// the row) or bytes.
pub const MOST_LINES: u32 = 1000;
const MOST_KEYS: usize = 4500;
const MOST_BYTES: usize = 1024 * 1024;

/// Lines of one organization, in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub organization: OrganizationId,
    /// Made when it was closed, so that chunks sort by the time of their last lines.
    pub id: Uuid,
    pub relay: RelayId,
    pub first_at: OffsetDateTime,
    pub last_at: OffsetDateTime,
    pub lines: i32,
    /// The filter.
    pub keys: Vec<u8>,
    /// The lines, compressed.
    pub content: Vec<u8>,
    /// The gateways that its lines name, and [`WITHOUT`] for lines that name none; `None`: too many, or not known.
    pub ways: Option<Vec<Uuid>>,
}

/// Stands for a gateway in lines that name none.
pub const WITHOUT: Uuid = Uuid::nil();
/// How many gateways are noted of one chunk: its row stays in a page.
const MOST_WAYS: usize = 48;

/// Lines that are being gathered.
#[derive(Debug, Default)]
pub struct Gathering {
    text: String,
    repeated: Repeated,
    keys: Vec<Key>,
    lines: u32,
    /// The gateways that they name, and others once there are too many.
    ways: BTreeSet<Uuid>,
    /// When the first and the last of them were written.
    span: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl Gathering {
    /// Adds a line.
    pub fn add(&mut self, event: &Event<'_>) {
        event.write(&mut self.text, &mut self.repeated);
        self.count(event);
    }

    /// Adds a line as it was written, which says this.
    pub fn add_line(&mut self, line: &str, event: &Event<'_>) {
        self.text.push_str(line);
        self.count(event);
    }

    /// Ends the line, and notes what it is found by.
    fn count(&mut self, event: &Event<'_>) {
        self.text.push('\n');
        keys::of(event, &mut self.keys);
        self.lines += 1;
        if self.ways.len() <= MOST_WAYS {
            self.ways.insert(event.gateway.map_or(WITHOUT, |gateway| gateway.0));
        }
        let (first, last) = self.span.unwrap_or((event.at, event.at));
        self.span = Some((first.min(event.at), last.max(event.at)));
    }

    /// Whether it is to be closed.
    pub fn is_full(&self) -> bool {
        self.lines >= MOST_LINES || self.keys.len() >= MOST_KEYS || self.text.len() >= MOST_BYTES
    }

    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Memory that it takes, in bytes.
    pub fn size(&self) -> usize {
        self.text.len() + self.keys.len() * size_of::<Key>()
    }

    /// Memory that it keeps when it is empty, in bytes.
    pub fn capacity(&self) -> usize {
        self.text.capacity() + self.keys.capacity() * size_of::<Key>()
    }

    /// A chunk of what was gathered; `None` if that is nothing. It is empty then, and keeps its memory for other lines.
    pub fn close(&mut self, organization: OrganizationId, relay: RelayId, id: Uuid) -> Option<Chunk> {
        let (first_at, last_at) = self.span.take()?;
        let ways = std::mem::take(&mut self.ways);
        let chunk = Chunk {
            organization,
            id,
            relay,
            first_at,
            last_at,
            lines: std::mem::take(&mut self.lines) as i32,
            keys: keys::filter(&mut self.keys),
            content: compress_prepend_size(self.text.as_bytes()),
            ways: (ways.len() <= MOST_WAYS).then(|| ways.into_iter().collect()),
        };
        self.text.clear();
        self.keys.clear();
        self.repeated = Repeated::default();
        Some(chunk)
    }
}

/// The lines of a chunk, as far as they can be read: a later version may write what this one does not know.
pub fn lines(content: &[u8], is_sought: impl Fn(&[u8]) -> bool) -> Vec<Event<'static>> {
    let text = text(content);
    let sought = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && is_sought(line));
    sought.filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// All lines of a chunk, each as it was written and as it was read; `None` if not all of these can be read.
pub fn whole(content: &[u8], lines: i32) -> Option<Vec<(String, Event<'static>)>> {
    let text = String::from_utf8(text(content)).ok()?;
    let read = text.split('\n').filter(|line| !line.is_empty());
    let read: Option<Vec<_>> = read.map(|line| Some((line.to_owned(), serde_json::from_str(line).ok()?))).collect();
    read.filter(|read| i32::try_from(read.len()) == Ok(lines))
}

fn text(content: &[u8]) -> Vec<u8> {
    // What is longer was not written by us.
    let length = content.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    if length > 16 * MOST_BYTES {
        return Vec::new();
    }
    decompress_size_prepended(content).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mail::id::{GatewayId, QueueId},
        store::message_trace::event::Step,
    };

    fn event(number: u128, sender: &'static str) -> Event<'static> {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(number as i64);
        let gateway = Some(GatewayId(Uuid::from_u128(number + 1000)));
        Event { sender: sender.into(), gateway, ..Event::new(Step::HandedOver, QueueId(Uuid::from_u128(number)), at) }
    }

    #[test]
    fn a_chunk_says_nothing_of_the_one_whose_memory_it_stands_in() {
        let organization = OrganizationId(Uuid::from_u128(1));
        let (relay, id) = (RelayId(Uuid::from_u128(2)), Uuid::from_u128(3));
        let close = |lines: &mut Gathering| lines.close(organization, relay, id);
        let mut again = Gathering::default();
        (10..100).for_each(|number| again.add(&event(number, "ann@acme.example")));
        let first = close(&mut again).unwrap();
        assert_eq!((first.lines, lines(&first.content, |_| true).len()), (90, 90));
        let kept = again.capacity();
        assert!(kept > 0 && again.size() == 0 && again.lines() == 0 && close(&mut again).is_none());

        let mut fresh = Gathering::default();
        for lines in [&mut again, &mut fresh] {
            lines.add(&event(7, "ben@acme.example"));
        }
        assert_eq!(again.capacity(), kept, "it is the same memory");
        assert_eq!(close(&mut again), close(&mut fresh));
    }
}
