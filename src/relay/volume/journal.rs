//! What was counted while the store is away, in a file of bounded size: batch by batch, each under the id by which the
//! store knows whether it has it.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    mail::id::OrganizationId,
    policy::volume::Count,
    relay::journal_file,
    store::volume::{Counted, columns, subject_of},
};

/// What was counted, and the id of it.
pub type Batch = (Uuid, Vec<Counted>);

/// A batch as it stands in a line.
#[derive(Serialize, Deserialize)]
struct Line {
    batch: Uuid,
    rows: Vec<Row>,
}

/// Organization, kind and subject, the minute in seconds since 1970, and the numbers.
#[derive(Serialize, Deserialize)]
struct Row(OrganizationId, String, String, i64, [i64; 3]);

impl From<&Counted> for Row {
    fn from(counted: &Counted) -> Self {
        let (kind, subject) = columns(&counted.subject);
        let Count { messages, recipients, external } = counted.count;
        let minute = counted.minute.unix_timestamp();
        Self(counted.organization, kind.to_owned(), subject, minute, [messages, recipients, external])
    }
}

impl Row {
    /// `None`: nothing that we have written.
    fn read(self) -> Option<Counted> {
        let Self(organization, kind, subject, minute, [messages, recipients, external]) = self;
        Some(Counted {
            organization,
            subject: subject_of(&kind, &subject).ok()?,
            minute: OffsetDateTime::from_unix_timestamp(minute).ok()?,
            count: Count { messages, recipients, external },
        })
    }
}

/// The file, and how far it is in the store.
#[derive(Debug)]
pub struct Journal {
    file: PathBuf,
    /// In bytes.
    most: u64,
    done: u64,
}

impl Journal {
    pub fn new(file: PathBuf, most: u64) -> Self {
        Self { file, most, done: 0 }
    }

    pub fn has_batches(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.len() > self.done)
    }

    /// Cuts off what a kill has left half written at its end: nothing behind it could be read.
    ///
    /// # Errors
    /// If the file is there and cannot be changed.
    pub fn mend(&mut self) -> io::Result<()> {
        let opened = journal_file::open(&self.file, OpenOptions::new().read(true).write(true));
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            tracing::warn!(file = %self.file.display(), "the last seconds of what was sent are not counted");
            file.set_len(whole as u64)?;
        }
        Ok(())
    }

    /// # Errors
    /// If the file is full or cannot be written.
    pub fn add(&mut self, (batch, rows): &Batch) -> io::Result<()> {
        let mut file = journal_file::open(&self.file, OpenOptions::new().create(true).append(true))?;
        let before = file.metadata()?.len();
        let mut line = serde_json::to_vec(&Line { batch: *batch, rows: rows.iter().map(Row::from).collect() })?;
        line.push(b'\n');
        if before + line.len() as u64 > self.most {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the journal is full"));
        }
        let written = file.write_all(&line);
        if written.is_err() {
            file.set_len(before)?;
        }
        written
    }

    /// The next batch, and where it ends; `None`: there is none. What cannot be read is passed over.
    pub fn next(&self) -> Option<(Batch, u64)> {
        let mut file = BufReader::new(journal_file::open(&self.file, OpenOptions::new().read(true)).ok()?);
        let mut end = file.seek(SeekFrom::Start(self.done)).ok()?;
        loop {
            let mut line = Vec::new();
            let length = file.read_until(b'\n', &mut line).ok()? as u64;
            if length == 0 {
                return None;
            }
            end += length;
            let read = serde_json::from_slice::<Line>(&line).ok();
            let rows =
                read.and_then(|read| Some((read.batch, read.rows.into_iter().map(Row::read).collect::<Option<_>>()?)));
            match rows {
                Some(batch) => return Some((batch, end)),
                None => tracing::error!(file = %self.file.display(), "a part of what was sent is not counted"),
            }
        }
    }

    /// The store has everything up to there.
    pub fn done(&mut self, end: u64) {
        self.done = end;
    }

    /// Passes over what the store had before a restart: all up to the batch that it took last, if that is there.
    pub fn skip_to(&mut self, last: Option<Uuid>) {
        let (begin, Some(last)) = (self.done, last) else { return };
        while let Some(((batch, _), end)) = self.next() {
            self.done = end;
            if batch == last {
                return;
            }
        }
        self.done = begin;
    }

    /// All of it is in the store.
    pub fn clear(&mut self) {
        match std::fs::remove_file(&self.file) {
            Ok(()) => self.done = 0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.done = 0,
            Err(error) => {
                tracing::error!(%error, file = %self.file.display(), "the journal of what was sent cannot be removed");
            }
        }
    }
}
