//! A message between the end of its submission and its hand-over or the queue.
//! Made by `submission`, taken by `transfer`.

use std::{fs::File, net::IpAddr, sync::Arc};

use bytes::Bytes;
use time::OffsetDateTime;

use super::{memory::InFlight, routing_table::Decided};
use crate::mail::{Envelope, id::QueueId};

/// A message that was read whole. Nothing has been promised for it yet.
#[derive(Debug, Clone)]
pub struct Message {
    /// In our `Received` field, in the log, and in `queued as` if it has to wait.
    pub id: QueueId,
    pub envelope: Envelope,
    /// The address that decides the route: the reverse-path, or what the header says where that is null.
    pub sender: String,
    /// Where its mail goes, as far as that was decided already.
    pub decided: Decided,
    /// By it parts of one message are known that a client or server has split; only of what goes to
    /// [many](crate::policy::limit::PART).
    pub message_id: Option<String>,
    /// Our `Received` field in front, then every byte as it was sent, transparency dots removed.
    pub content: Content,
    pub accepted_at: OffsetDateTime,
    pub client: Client,
}

/// Who gave us a message.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: IpAddr,
    /// By TLS, by a credential or by the operator's word: nobody else can use its address.
    pub is_proven: bool,
    /// The id under which this message passed here before, as our own `Received` field in it says.
    pub first_pass: Option<String>,
}

/// The bytes of a message: small ones in memory, large ones in a file that has no name any more.
#[derive(Debug, Clone)]
pub enum Content {
    Memory(Bytes),
    /// In memory, in several [buffers](super::memory::BUFFER), all full but the last.
    Parts {
        parts: Arc<[Bytes]>,
        size: u64,
        /// A line may begin with a dot.
        has_dots: bool,
        in_flight: Option<Arc<InFlight>>,
    },
    /// Read with positioned reads, so that clones do not disturb each other.
    Spooled {
        file: Arc<File>,
        size: u64,
        in_flight: Option<Arc<InFlight>>,
    },
}

impl Content {
    /// In bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Parts { size, .. } | Self::Spooled { size, .. } => *size,
        }
    }

    /// What is in memory, in order.
    pub fn in_memory(&self) -> Option<&[Bytes]> {
        match self {
            Self::Memory(bytes) => Some(std::slice::from_ref(bytes)),
            Self::Parts { parts, .. } => Some(parts),
            Self::Spooled { .. } => None,
        }
    }
}
