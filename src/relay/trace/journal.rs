//! Chunks of lines in a file while the store is away. It is bounded, and what a kill leaves half written at its
//! end is ignored.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use nix::{fcntl::OFlag, unistd::geteuid};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    mail::id::{OrganizationId, RelayId},
    store::message_trace::Chunk,
};

/// No chunk is larger than this.
const LARGEST: usize = 32 * 1024 * 1024;

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
        let mut file = self.open(OpenOptions::new().create(true).append(true))?;
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
        if let Ok(file) = self.open(OpenOptions::new().read(true)) {
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

    /// Only the owner reads it: it says who writes to whom. In a folder of all users somebody else's file, or a link to
    /// another one, is not ours.
    fn open(&self, options: &mut OpenOptions) -> io::Result<File> {
        let file = options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&self.file)?;
        match file.metadata()?.uid() == geteuid().as_raw() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the journal is somebody else's file")),
        }
    }

    /// What was read last is in the store.
    pub fn done(&mut self) {
        self.read = self.reading;
    }
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
