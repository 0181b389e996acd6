//! How much memory the messages in flight may take together. Beyond it they go to the spool early, so that memory stays
//! flat however many and large they are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use super::metrics::METRICS;

/// One for a relay.
#[derive(Debug)]
pub struct Memory {
    /// In bytes.
    budget: usize,
    taken: AtomicUsize,
}

/// What is left of the memory for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// More than three quarters.
    Plenty,
    Enough,
    /// Messages have all that they may have.
    Scarce,
}

/// Memory that a message takes, until this is dropped.
#[derive(Debug)]
pub struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    pub fn of(budget: usize) -> Arc<Self> {
        Arc::new(Self { budget, taken: AtomicUsize::new(0) })
    }

    /// How much there is for one message more.
    pub fn supply(&self) -> Supply {
        match self.taken() {
            taken if taken >= self.budget => Supply::Scarce,
            taken if taken >= self.budget / 4 => Supply::Enough,
            _ => Supply::Plenty,
        }
    }

    /// In bytes.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Begins to count for one message.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held { memory: Arc::clone(self), bytes: 0 }
    }
}

impl Held {
    /// It takes this much by now.
    pub fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        // Wraps around where it gets less: what was taken comes out right.
        self.memory.taken.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        METRICS.in_memory.add(bytes as i64 - self.bytes as i64);
        self.bytes = bytes;
    }

    /// The bytes, which count until the last that has them is gone.
    pub fn keep(mut self, content: Vec<u8>) -> Bytes {
        self.set(content.capacity());
        Bytes::from_owner(Kept { content, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

struct Kept {
    content: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}
