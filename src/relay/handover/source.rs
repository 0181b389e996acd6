//! Where the bytes of a message are read from while it goes out: memory, a spool file, or the queue.
//! Read by the transaction piece by piece, so that a large message is never whole in memory.

use std::{io, os::unix::fs::FileExt};

use bytes::Bytes;
use sqlx::{Connection, PgPool};

use crate::{
    mail::id::{OrganizationId, QueueId},
    relay::message::Content,
    store::{self, pool::in_time},
};

/// What is read of a message at a time, in bytes: a whole number of the pieces that the queue keeps it in.
const CHUNK: u64 = 32 * store::queue::PIECE as u64;

/// The next pieces. A connection that the pieces of a large message came by does not keep the room for them.
async fn read_pieces(
    db: &PgPool,
    (organization, id): (OrganizationId, QueueId),
    first: i32,
    size: u64,
) -> sqlx::Result<(Vec<u8>, i64)> {
    let mut connection = db.acquire().await?;
    let read = store::queue::pieces_across_tenants(&mut *connection, organization, id, first).await;
    if size > CHUNK {
        connection.shrink_buffers();
    }
    read
}

/// A message's bytes. Reading begins at the front as often as wanted.
#[derive(Debug, Clone)]
pub enum Source {
    Content(Content),
    /// In the queue, in pieces.
    Stored {
        db: PgPool,
        organization: OrganizationId,
        id: QueueId,
        size: u64,
    },
}

/// One reading from front to end.
#[derive(Debug)]
pub struct Reader {
    source: Source,
    read: u64,
    /// The next piece or part, where it is stored in such.
    piece: i32,
}

impl Source {
    /// In bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Content(content) => content.size(),
            Self::Stored { size, .. } => *size,
        }
    }

    /// Whether no line begins with a dot, as far as that is known without looking.
    pub fn has_no_dots(&self) -> bool {
        matches!(self, Self::Content(Content::Parts { has_dots: false, .. }))
    }

    pub fn reader(&self) -> Reader {
        Reader { source: self.clone(), read: 0, piece: 0 }
    }

    /// The header section with the empty line that ends it, at most `limit` bytes of it.
    pub async fn header(&self, limit: usize) -> io::Result<Vec<u8>> {
        let mut header = Vec::new();
        let mut reader = self.reader();
        while let Some(chunk) = reader.next().await? {
            let searched = header.len().saturating_sub(3);
            header.extend_from_slice(&chunk);
            if let Some(end) = header[searched..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                header.truncate(searched + end + 4);
                break;
            }
            if header.len() > limit {
                break;
            }
        }
        header.truncate(limit);
        Ok(header)
    }

    /// Whether any byte is beyond ASCII.
    pub async fn has_eight_bit_bytes(&self) -> io::Result<bool> {
        let mut reader = self.reader();
        while let Some(chunk) = reader.next().await? {
            if !chunk.is_ascii() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Reader {
    /// The next bytes; `None` at the end. An error if fewer come than there should be: a message is
    /// never sent in part.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let size = self.source.size();
        if self.read == size {
            return Ok(None);
        }
        let mut pieces = 1;
        let (offset, length) = (self.read, CHUNK.min(size - self.read) as usize);
        let chunk = match &self.source {
            Source::Content(Content::Memory(bytes)) => bytes.slice(offset as usize..offset as usize + length),
            Source::Content(Content::Parts { parts, .. }) => {
                let part = parts.get(self.piece as usize).cloned();
                part.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            Source::Content(Content::Spooled { file, .. }) => {
                let file = file.clone();
                tokio::task::spawn_blocking(move || {
                    let mut chunk = vec![0; length];
                    file.read_exact_at(&mut chunk, offset).map(|()| Bytes::from(chunk))
                })
                .await
                .map_err(io::Error::other)??
            }
            Source::Stored { db, organization, id, .. } => {
                let read = in_time(read_pieces(db, (*organization, *id), self.piece, size)).await;
                let (content, read) = read.map_err(io::Error::other)?;
                if content.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                pieces = i32::try_from(read).map_err(io::Error::other)?;
                Bytes::from(content)
            }
        };
        self.piece += pieces;
        self.read += chunk.len() as u64;
        if self.read > size {
            return Err(io::Error::other("more bytes are stored than the message has"));
        }
        Ok(Some(chunk))
    }
}
