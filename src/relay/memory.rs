//! How much memory the messages in flight may take together, and the buffers that they stand in. Beyond it they go to
//! the spool early, so that memory stays flat however many and large they are.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::{message::Content, metrics::METRICS};
use crate::{mail::id::OrganizationId, store::queue::PIECE};

/// The largest buffer, in bytes: a whole number of the pieces in which the queue keeps a message.
pub const BUFFER: usize = 8 * PIECE;
/// The smallest: most messages have room in it.
const SMALL: usize = PIECE;
/// How many of these are kept.
const MOST_SPARE: usize = 64;

/// One for a relay.
#[derive(Debug)]
pub struct Memory {
    /// In bytes.
    budget: usize,
    taken: AtomicUsize,
    /// Buffers that came free. A std lock: held to put one in or take one out.
    spare: Mutex<Spare>,
    /// Those of whose large messages any is in flight. A std lock: held for a look-up.
    shares: Mutex<HashMap<OrganizationId, Weak<Share>>>,
}

/// Buffers for the next messages.
#[derive(Debug, Default)]
struct Spare {
    /// Pages that the kernel has to clear first cost more than what is copied into them.
    large: Vec<Vec<u8>>,
    /// The allocator is a place where threads meet.
    small: Vec<Vec<u8>>,
}

/// What the large messages in flight of one organization take, in memory and on disk.
#[derive(Debug, Default)]
struct Share {
    bytes: AtomicU64,
}

/// A large message in its organization's share, until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    share: Arc<Share>,
    bytes: u64,
}

/// What is left of the memory for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// More than two thirds.
    Plenty,
    Enough,
    /// Messages have all that they may have.
    Scarce,
}

impl Memory {
    pub fn of(budget: usize) -> Arc<Self> {
        let (taken, spare, shares) = Default::default();
        Arc::new(Self { budget, taken, spare, shares })
    }

    /// How much there is for one message more; for a large one, whose organization may have half of everything.
    pub fn supply(&self, in_flight: Option<&InFlight>) -> Supply {
        match self.taken() {
            _ if in_flight.is_some_and(|it| it.of_organization() > self.budget as u64 / 2) => Supply::Scarce,
            taken if taken >= self.budget => Supply::Scarce,
            taken if taken >= self.plenty() => Supply::Enough,
            _ => Supply::Plenty,
        }
    }

    /// In bytes.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// So much may be taken while there is plenty, in bytes.
    fn plenty(&self) -> usize {
        self.budget / 16 * 5
    }

    /// Begins to count a large message of this organization.
    pub fn in_flight(&self, organization: OrganizationId) -> InFlight {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.strong_count() > 0);
        let share = shares.get(&organization).and_then(Weak::upgrade).unwrap_or_default();
        shares.insert(organization, Arc::downgrade(&share));
        InFlight { share, bytes: 0 }
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for so many bytes, or as much as the largest buffer has.
    fn room(&self, size: usize) -> Vec<u8> {
        let capacity = match size {
            ..=SMALL => SMALL,
            _ => size.min(BUFFER),
        };
        let spare = match capacity {
            SMALL => self.spare().small.pop(),
            BUFFER => self.spare().large.pop(),
            _ => None,
        };
        spare.unwrap_or_else(|| Vec::with_capacity(capacity))
    }

    /// Keeps a buffer for the next message: a large one as long as what is kept and what is taken are less than what
    /// there is plenty of.
    fn give_back(&self, mut bytes: Vec<u8>) {
        let capacity = bytes.capacity();
        if capacity != SMALL && capacity != BUFFER {
            return;
        }
        bytes.clear();
        let Spare { large, small } = &mut *self.spare();
        match capacity {
            SMALL if small.len() < MOST_SPARE => small.push(bytes),
            BUFFER if self.taken() + large.len() * BUFFER < self.plenty() => large.push(bytes),
            _ => {}
        }
    }
}

impl InFlight {
    /// It has this many bytes by now.
    pub fn set(&mut self, bytes: u64) {
        // Wraps around where it gets less: the sum comes out right.
        self.share.bytes.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// What all large messages in flight of its organization have, in bytes.
    pub fn of_organization(&self) -> u64 {
        self.share.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A part of a message, whose memory counts until this is dropped.
#[derive(Debug)]
struct Buffer {
    memory: Arc<Memory>,
    bytes: Vec<u8>,
    /// What it counts for.
    counted: usize,
}

impl Buffer {
    /// An empty one for so many bytes, or the largest.
    fn of(memory: &Arc<Memory>, size: usize) -> Self {
        let mut buffer = Self { memory: Arc::clone(memory), bytes: memory.room(size), counted: 0 };
        buffer.count();
        buffer
    }

    /// Takes as many of the bytes as it may become large.
    fn fill(&mut self, bytes: &mut &[u8]) {
        let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.bytes.len()));
        let needed = self.bytes.len() + now.len();
        if needed > self.bytes.capacity() {
            self.grow(needed.max(2 * self.bytes.capacity()).min(BUFFER));
        }
        self.bytes.extend_from_slice(now);
        *bytes = later;
        self.count();
    }

    /// By way of one that is there already: else there would be one more with each large message.
    fn grow(&mut self, capacity: usize) {
        let mut larger = self.memory.room(capacity);
        larger.extend_from_slice(&self.bytes);
        self.memory.give_back(std::mem::replace(&mut self.bytes, larger));
    }

    fn count(&mut self) {
        let (before, now) = (self.counted, self.bytes.capacity());
        if now != before {
            // Wraps around where it gets less: what was taken comes out right.
            self.memory.taken.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
            METRICS.in_memory.add(now as i64 - before as i64);
            self.counted = now;
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.count();
        self.memory.give_back(bytes);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of a message while they come: a small one in a buffer of its size, a large one in many of the largest.
#[derive(Debug)]
pub struct Growing {
    memory: Arc<Memory>,
    /// All but the last are full.
    buffers: Vec<Buffer>,
    length: usize,
}

impl Growing {
    /// Nothing yet; `expected` bytes are likely to come.
    pub fn new(memory: &Arc<Memory>, expected: usize) -> Self {
        Self { memory: Arc::clone(memory), buffers: vec![Buffer::of(memory, expected)], length: 0 }
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn extend_from_slice(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        loop {
            if let Some(last) = self.buffers.last_mut() {
                last.fill(&mut bytes);
            }
            if bytes.is_empty() {
                return;
            }
            self.buffers.push(Buffer::of(&self.memory, BUFFER));
        }
    }

    /// The last buffer of a large message, to read more into it behind what is there: so a large message is copied once
    /// less. `None` where fewer than `least` bytes have room. To be given back with [`take_in`](Self::take_in).
    pub fn lend(&mut self, least: usize) -> Option<Vec<u8>> {
        let last = self.buffers.last()?;
        if last.bytes.capacity() != BUFFER {
            return None;
        }
        if last.bytes.len() == BUFFER {
            self.buffers.push(Buffer::of(&self.memory, BUFFER));
        }
        let last = self.buffers.last_mut()?;
        (BUFFER - last.bytes.len() >= least).then(|| std::mem::take(&mut last.bytes))
    }

    /// What was lent, with more of the message behind what it had.
    pub fn take_in(&mut self, bytes: Vec<u8>) {
        if let Some(last) = self.buffers.last_mut() {
            last.bytes = bytes;
        }
        self.length = self.parts().map(<[u8]>::len).sum();
    }

    /// Forgets what has come, and takes no memory for it any more.
    pub fn clear(&mut self) {
        self.buffers.clear();
        self.length = 0;
    }

    /// Everything that has come, in order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.iter().map(AsRef::as_ref)
    }

    /// What has come in one piece, at least as far as the end of the header section; copied together only where that
    /// is long.
    pub fn header(&self) -> Cow<'_, [u8]> {
        match self.buffers.as_slice() {
            [] => Cow::Borrowed(&[]),
            [first] => Cow::Borrowed(&first.bytes),
            [first, ..] if memchr::memmem::find(&first.bytes, b"\r\n\r\n").is_some() => Cow::Borrowed(&first.bytes),
            _ => Cow::Owned(self.to_vec()),
        }
    }

    /// Copied together.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts().collect::<Vec<_>>().concat()
    }

    /// Counts until the last that has it is gone. `has_dots`: a line may begin with one.
    pub fn into_content(mut self, has_dots: bool, in_flight: Option<InFlight>) -> Content {
        if self.buffers.len() > 1 {
            let parts = self.buffers.into_iter().map(Bytes::from_owner).collect();
            return Content::Parts { parts, size: self.length as u64, has_dots, in_flight: in_flight.map(Arc::new) };
        }
        Content::Memory(self.buffers.pop().map(Bytes::from_owner).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_one_after_the_other_stand_in_the_same_buffers() {
        let memory = Memory::of(64 * 1024 * 1024);
        let piece = [b'x'; 32 * 1024];
        for _ in 0..100 {
            let mut growing = Growing::new(&memory, 4096);
            (0..5).for_each(|_| growing.extend_from_slice(&piece));
            assert_eq!((growing.len(), growing.parts().map(<[u8]>::len).sum::<usize>()), (163_840, 163_840));
            drop(growing.into_content(true, None));
        }
        let Spare { large, small } = &*memory.spare();
        assert_eq!((memory.taken(), large.len(), small.len()), (0, 3, 1));
    }

    #[test]
    fn what_is_read_into_a_lent_buffer_stands_behind_what_was_there() {
        let memory = Memory::of(64 * 1024 * 1024);
        let mut growing = Growing::new(&memory, BUFFER);
        growing.extend_from_slice(b"Received: ");
        let mut message = b"Received: ".to_vec();
        while message.len() < 3 * BUFFER {
            let mut lent = growing.lend(1000).unwrap();
            let more = vec![message.len() as u8; (lent.capacity() - lent.len()).min(31_000)];
            lent.extend_from_slice(&more);
            message.extend_from_slice(&more);
            growing.take_in(lent);
            assert_eq!(growing.len(), message.len());
        }
        assert!(growing.to_vec() == message);
        assert_eq!((memory.taken(), growing.parts().count()), (3 * BUFFER, 3), "each but the last is full");
        growing.extend_from_slice(&vec![b'x'; BUFFER - 999]);
        assert!(growing.lend(1000).is_none(), "there is no room");
        assert_eq!(growing.len(), message.len() + BUFFER - 999);
        assert!(Growing::new(&memory, 4096).lend(1000).is_none(), "a small message is not worth it");
    }

    #[test]
    fn a_few_buffers_of_small_messages_are_kept() {
        let memory = Memory::of(64 * 1024 * 1024);
        let small = |bytes: usize| {
            let mut growing = Growing::new(&memory, 100);
            growing.extend_from_slice(&vec![b'x'; bytes]);
            growing.into_content(true, None)
        };
        let one = small(SMALL);
        assert_eq!(memory.taken(), SMALL);
        drop(one);
        let (again, larger) = (small(10), small(SMALL + 1));
        assert_eq!((again.size(), larger.size(), memory.taken()), (10, SMALL as u64 + 1, 3 * SMALL));
        drop((again, larger));
        drop((0..2 * MOST_SPARE).map(|_| small(10)).collect::<Vec<_>>());
        assert_eq!((memory.taken(), memory.spare().small.len()), (0, MOST_SPARE));
    }
}
