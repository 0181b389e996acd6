//! Chunks of lines in a file while the store is away. It is bounded, and what a kill leaves half written at its
//! end is cut off and told.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    mail::id::{OrganizationId, RelayId},
    relay::journal_file,
    store::message_trace::Chunk,
};

/// No chunk is larger than this.
const LARGEST: usize = 32 * 1024 * 1024;
/// Nor what stands before it.
const LONGEST_HEAD: u64 = 64 * 1024;

/// What stands before the bytes of a chunk, in one line.
#[derive(Serialize, Deserialize)]
struct Head {
    organization: OrganizationId,
    id: Uuid,
    relay: RelayId,
    #[serde(with = "time::serde::timestamp::microseconds")]
    first_at: time::OffsetDateTime,
    #[serde(with = "time::serde::timestamp::microseconds")]
    last_at: time::OffsetDateTime,
    lines: i32,
    keys: usize,
    content: usize,
    /// A relay of the former version writes none.
    #[serde(default)]
    ways: Option<Vec<Uuid>>,
}

/// The file, and how far it was read.
#[derive(Debug)]
pub struct Journal {
    file: PathBuf,
    /// In bytes.
    most: u64,
    read: u64,
    /// Where what was read last ends.
    reading: u64,
}

impl Journal {
    pub fn new(file: PathBuf, most: u64) -> Self {
        Self { file, most, read: 0, reading: 0 }
    }

    pub fn has_lines(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.len() > 0)
    }

    /// # Errors
    /// If the file is full or cannot be written.
    pub fn add(&mut self, chunk: &Chunk) -> io::Result<()> {
        let mut file = journal_file::open(&self.file, OpenOptions::new().create(true).append(true))?;
        let before = file.metadata()?.len();
        let head = Head {
            organization: chunk.organization,
            id: chunk.id,
            relay: chunk.relay,
            first_at: chunk.first_at,
            last_at: chunk.last_at,
            lines: chunk.lines,
            keys: chunk.keys.len(),
            content: chunk.content.len(),
            ways: chunk.ways.clone(),
        };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.extend(&chunk.keys);
        bytes.extend(&chunk.content);
        if before + bytes.len() as u64 > self.most {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the journal is full"));
        }
        let written = file.write_all(&bytes);
        if written.is_err() {
            // Nothing behind half a chunk could be read.
            file.set_len(before)?;
        }
        written
    }

    /// The next chunks, about as many bytes as these; `None`: there are none, and the file is gone.
    pub fn next(&mut self, bytes: usize) -> Option<Vec<Chunk>> {
        let mut chunks = Vec::new();
        if let Ok(file) = journal_file::open(&self.file, OpenOptions::new().read(true)) {
            let mut file = BufReader::new(file);
            self.reading = file.seek(SeekFrom::Start(self.read)).unwrap_or_default();
            let mut size = 0;
            while size < bytes
                && let Some((chunk, length)) = next(&mut file)
            {
                size += chunk.content.len() + chunk.keys.len();
                self.reading += length;
                chunks.push(chunk);
            }
        }
        if chunks.is_empty() {
            if self.has_lines() && std::fs::remove_file(&self.file).is_err() {
                tracing::error!(file = %self.file.display(), "the journal of what happened to messages cannot be removed");
            }
            (self.read, self.reading) = (0, 0);
            return None;
        }
        Some(chunks)
    }

    /// Cuts off the chunk that a kill has left half written at its end: nothing behind it could be read. Returns what is
    /// missing with it, as far as that is known.
    pub fn mend(&mut self) -> Option<Torn> {
        let mut file = journal_file::open(&self.file, OpenOptions::new().read(true).write(true)).ok()?;
        let length = file.metadata().ok()?.len();
        let mut whole = 0;
        let torn = loop {
            if whole >= length {
                return None;
            }
            let (head, ends) = head_at(&mut file, whole);
            if head.is_none() || ends > length {
                break head;
            }
            whole = ends;
        };
        if let Err(error) = file.set_len(whole) {
            tracing::error!(%error, file = %self.file.display(), "the journal of what happened to messages cannot be mended");
        }
        if torn.is_none() {
            tracing::error!(file = %self.file.display(), "lines of what happened to messages are lost");
        }
        torn.map(|Head { organization, first_at, last_at, lines, .. }| Torn { organization, first_at, last_at, lines })
    }

    /// What was read last is in the store.
    pub fn done(&mut self) {
        self.read = self.reading;
    }
}

/// Lines that are missing, since a chunk was not written to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    pub organization: OrganizationId,
    pub first_at: time::OffsetDateTime,
    pub last_at: time::OffsetDateTime,
    pub lines: i32,
}

/// What stands before the chunk at this place, if that is whole, and where the chunk has to end.
fn head_at(file: &mut File, place: u64) -> (Option<Head>, u64) {
    let mut line = Vec::new();
    let mut read = BufReader::new(file);
    let found =
        read.seek(SeekFrom::Start(place)).and_then(|_| read.by_ref().take(LONGEST_HEAD).read_until(b'\n', &mut line));
    let head = found.ok().and_then(|_| serde_json::from_slice::<Head>(&line).ok());
    let head = head.filter(|head| head.keys <= LARGEST && head.content <= LARGEST);
    let ends = head.as_ref().map_or(place, |head| place + (line.len() + head.keys + head.content) as u64);
    (head, ends)
}

/// A chunk, and how many bytes it takes; `None` at the end, or where half a chunk begins.
fn next(file: &mut impl BufRead) -> Option<(Chunk, u64)> {
    let mut line = Vec::new();
    file.read_until(b'\n', &mut line).ok()?;
    let head: Head = serde_json::from_slice(&line).ok()?;
    if head.keys > LARGEST || head.content > LARGEST {
        return None;
    }
    let (mut keys, mut content) = (vec![0; head.keys], vec![0; head.content]);
    file.read_exact(&mut keys).ok()?;
    file.read_exact(&mut content).ok()?;
    let length = (line.len() + keys.len() + content.len()) as u64;
    let Head { organization, id, relay, first_at, last_at, lines, ways, .. } = head;
    Some((Chunk { organization, id, relay, first_at, last_at, lines, keys, content, ways }, length))
}
