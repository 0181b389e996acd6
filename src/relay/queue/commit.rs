//! Writes new messages to the queue and removes those that are done with, many in one statement: whoever comes
//! while one is under way goes with the next.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgDatabaseError, PgSeverity},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Entry, Queue};
use crate::{
    mail::id::QueueId,
    relay::{handover::source::Source, memory::BUFFER},
    store::{
        self,
        pool::{Quick, in_time},
        queue::{Leased, Piece, Written},
    },
};

/// Statements at once: one is carried out while the other reaches the disk.
const STATEMENTS: usize = 2;
/// What goes into one statement, in messages and bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// How large a body may be that goes into it, in bytes.
const SMALL: u64 = 256 * 1024;
/// How much of a larger one goes into one statement, in bytes.
const STATEMENT_BYTES: usize = 4 * BUFFER;
/// How long a client waits for a commit before it is told to try again.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the removal of messages waits for new ones to go with: nobody waits for it. If the relay is killed
/// meanwhile, these messages arrive twice.
const COMPANY: Duration = Duration::from_millis(5);
/// How many removals have to be there before that: a few make new messages wait for longer, one by one.
const WORTH_TAKING_ALONG: usize = 8;

/// How long one look for messages may take whose answer to COMMIT got lost.
const LOOK: Duration = Duration::from_secs(5);
/// Between two such looks: until the store is back, and until a COMMIT that was still on its way has arrived.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// The messages are not known to be in the queue: nothing may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message could not be stored")]
pub struct NotCommitted;

/// What is written together or not at all.
enum Work {
    New(Vec<Entry>),
    Done(Leased),
}

/// Work that somebody waits for.
struct Pending {
    work: Work,
    /// Whether it was written: a message that another relay has taken is not removed.
    written: oneshot::Sender<Result<bool, NotCommitted>>,
}

impl Queue {
    /// Commits messages, all or none. After `Ok` they survive whatever happens to this process.
    pub(crate) async fn commit(&self, entries: Vec<Entry>) -> Result<(), NotCommitted> {
        let is_free = entries.iter().any(|entry| entry.message.lease.is_none());
        timeout(PATIENCE, self.write_down(Work::New(entries))).await.unwrap_or(Err(NotCommitted))?;
        if is_free {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Removes a message that is done with. Returns whether the lease still held: if not, somebody else has it.
    pub(super) async fn remove(&self, leased: Leased) -> Result<bool, NotCommitted> {
        self.write_down(Work::Done(leased)).await
    }

    async fn write_down(&self, work: Work) -> Result<bool, NotCommitted> {
        let (written, outcome) = oneshot::channel();
        self.shared.commits.send(Pending { work, written }).await?;
        outcome.await.map_err(|_| NotCommitted)?
    }
}

/// Where what is to be written is put. Large messages go a way of their own, with statements of their own: one takes as long
/// as hundreds of small ones, which must not wait for it.
pub struct Commits {
    small: mpsc::Sender<Pending>,
    large: mpsc::Sender<Pending>,
}

impl Commits {
    /// Starts the tasks that gather what is to be written; they end when this is dropped.
    pub fn start(db: &PgPool) -> Self {
        Self { small: gather(db.clone()), large: gather(db.clone()) }
    }

    async fn send(&self, pending: Pending) -> Result<(), NotCommitted> {
        let is_large = pending.entries().iter().any(|entry| small(entry).is_none());
        let way = if is_large { &self.large } else { &self.small };
        way.send(pending).await.map_err(|_| NotCommitted)
    }
}

fn gather(db: PgPool) -> mpsc::Sender<Pending> {
    let (sender, receiver) = mpsc::channel::<Pending>(BATCH * 4);
    tokio::spawn(async move {
        let db = Quick::of(&db, STATEMENTS);
        let statements = Arc::new(Semaphore::new(STATEMENTS));
        let mut gathering = Gathering { receiver, done: Vec::new(), since: Instant::now() };
        // Gathering goes on until a statement may begin.
        while let Ok(permit) = statements.clone().acquire_owned().await {
            let Some(batch) = gathering.next().await else { break };
            let db = db.clone();
            tokio::spawn(async move { write_batch(&db, batch, permit).await });
        }
    });
    sender
}

/// What there is to write, put together to batches.
struct Gathering {
    receiver: mpsc::Receiver<Pending>,
    /// Removals that have come, and go with what is next.
    done: Vec<Pending>,
    /// When the first of them came.
    since: Instant,
}

impl Gathering {
    /// As soon as there is something that somebody waits for; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Pending>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        loop {
            while batch.len() + self.done.len() < BATCH && bytes < BATCH_BYTES {
                let Ok(pending) = self.receiver.try_recv() else { break };
                bytes += pending.bytes();
                self.sort(pending, &mut batch);
            }
            let due = self.since + COMPANY;
            let is_due = !self.done.is_empty() && due <= Instant::now();
            if !batch.is_empty() || is_due || self.done.len() >= BATCH {
                if is_due || self.done.len() >= WORTH_TAKING_ALONG {
                    batch.append(&mut self.done);
                }
                return Some(batch);
            }
            let next = match self.done.is_empty() {
                true => self.receiver.recv().await,
                false => match timeout_at(due, self.receiver.recv()).await {
                    Ok(next) => next,
                    Err(_) => continue,
                },
            };
            match next {
                Some(pending) => {
                    bytes += pending.bytes();
                    self.sort(pending, &mut batch);
                }
                None if self.done.is_empty() => return None,
                None => return Some(std::mem::take(&mut self.done)),
            }
        }
    }

    fn sort(&mut self, pending: Pending, batch: &mut Vec<Pending>) {
        if pending.is_urgent() {
            batch.push(pending);
            return;
        }
        if self.done.is_empty() {
            self.since = Instant::now();
        }
        self.done.push(pending);
    }
}

impl Pending {
    fn bytes(&self) -> u64 {
        self.entries().iter().map(|entry| entry.source.size()).sum()
    }

    fn is_urgent(&self) -> bool {
        matches!(self.work, Work::New(_))
    }

    fn entries(&self) -> &[Entry] {
        match &self.work {
            Work::New(entries) => entries,
            Work::Done(_) => &[],
        }
    }

    fn done(&self) -> Option<Leased> {
        match self.work {
            Work::New(_) => None,
            Work::Done(leased) => Some(leased),
        }
    }
}

/// Why it is not known that a batch was written.
enum Unwritten {
    /// It was not, and will not be.
    Refused(sqlx::Error),
    /// The answer to COMMIT got lost: it may have been.
    Unknown(sqlx::Error),
}

impl From<sqlx::Error> for Unwritten {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error)
    }
}

/// What was removed of a batch that was written.
enum Removed {
    These(HashSet<QueueId>),
    /// The store did not say it; whatever still held is removed.
    WhatHeld,
}

async fn write_batch(db: &Quick, mut batch: Vec<Pending>, permit: OwnedSemaphorePermit) {
    match write_together(db, &mut batch).await {
        // One bad row fails its statement, but not the others' messages.
        Err(Unwritten::Refused(error @ (sqlx::Error::Database(_) | sqlx::Error::Encode(_)))) if batch.len() > 1 => {
            tracing::warn!(%error, messages = batch.len(), "messages were refused together, trying them one by one");
            for pending in batch {
                let mut alone = vec![pending];
                let written = write_together(db, &mut alone).await;
                end(db, alone, written).await;
            }
        }
        written => {
            drop(permit);
            end(db, batch, written).await;
        }
    }
}

async fn end(db: &Quick, batch: Vec<Pending>, written: Result<Vec<QueueId>, Unwritten>) {
    let written = match written {
        Ok(removed) => Ok(Removed::These(removed.into_iter().collect())),
        Err(Unwritten::Refused(error)) => Err(error),
        Err(Unwritten::Unknown(error)) => {
            tracing::warn!(%error, messages = batch.len(), "the answer to a COMMIT got lost, looking for its messages");
            if are_stored(db.pool(), &batch).await { Ok(Removed::WhatHeld) } else { Err(error) }
        }
    };
    answer(batch, written);
}

/// Whoever does not wait any more has told its client to try again: its messages are left out.
async fn write_together(db: &Quick, batch: &mut Vec<Pending>) -> Result<Vec<QueueId>, Unwritten> {
    let mut connection = db.acquire().await?;
    batch.retain(|pending| !pending.written.is_closed());
    let entries: Vec<&Entry> = batch.iter().flat_map(Pending::entries).collect();
    let done: Vec<Leased> = batch.iter().filter_map(Pending::done).collect();
    let removed = if entries.is_empty() && done.is_empty() {
        Vec::new()
    } else if entries.iter().all(|entry| small(entry).is_some()) {
        // A statement is a transaction of its own, and its answer the one to its COMMIT.
        write(&mut connection, &entries, &done).await.map_err(after_commit)?
    } else {
        let mut transaction = in_time(connection.begin()).await?;
        let removed = write(&mut transaction, &entries, &done).await?;
        in_time(transaction.commit()).await.map_err(after_commit)?;
        // They are as large as what went through them.
        connection.shrink_buffers();
        removed
    };
    connection.keep();
    Ok(removed)
}

fn after_commit(error: sqlx::Error) -> Unwritten {
    match is_said_by_store(&error) || matches!(error, sqlx::Error::Encode(_)) {
        true => Unwritten::Refused(error),
        false => Unwritten::Unknown(error),
    }
}

/// Whether the store has answered, and goes on with the connection. When it ends it, as a server does that is being
/// stopped, it may have committed before.
fn is_said_by_store(error: &sqlx::Error) -> bool {
    let said = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    said.is_some_and(|error| error.severity() == PgSeverity::Error)
}

/// Looks for what was committed together until the store answers or nobody waits any more. One message tells of all.
async fn are_stored(db: &PgPool, batch: &[Pending]) -> bool {
    let key = |entry: &Entry| (entry.message.organization, entry.message.id);
    let messages: Vec<_> = batch.iter().flat_map(Pending::entries).map(key).collect();
    let mut looks = 0;
    while looks < 2 && !messages.is_empty() && !batch.iter().all(|pending| pending.written.is_closed()) {
        match timeout(LOOK, store::queue::is_any_stored_across_tenants(db, &messages)).await {
            Ok(Ok(true)) => return true,
            Ok(Ok(false)) => looks += 1,
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(BETWEEN_LOOKS).await;
    }
    false
}

fn answer(batch: Vec<Pending>, written: store::Result<Removed>) {
    if let Err(error) = &written {
        tracing::error!(%error, messages = batch.len(), "messages could not be stored");
    }
    for pending in batch {
        let outcome = match (&written, pending.done()) {
            (Err(_), _) => Err(NotCommitted),
            (Ok(Removed::These(removed)), Some(done)) => Ok(removed.contains(&done.id)),
            (Ok(_), _) => Ok(true),
        };
        // Whoever has gone in this moment gets the message twice rather than not at all.
        let _ = pending.written.send(outcome);
    }
}

/// Adds messages with their bodies inside a transaction of the caller's.
pub async fn insert_entries(db: &mut PgConnection, entries: &[&Entry]) -> store::Result<()> {
    write(db, entries, &[]).await.map(drop)
}

async fn write(db: &mut PgConnection, entries: &[&Entry], done: &[Leased]) -> store::Result<Vec<QueueId>> {
    let small_bodies = entries.iter().filter_map(|entry| Some(pieces(entry, 0, small(entry)?)));
    let written = Written {
        messages: entries.iter().map(|entry| &entry.message).collect(),
        pieces: small_bodies.flatten().collect(),
        done,
    };
    let removed = in_time(store::queue::write_across_tenants(&mut *db, &written)).await?;
    for entry in entries {
        if small(entry).is_none() {
            insert_body(db, entry).await?;
        }
    }
    Ok(removed)
}

/// A body that goes into one statement with others. What is larger is written piece by piece, or all connections
/// would have room for it.
fn small(entry: &Entry) -> Option<&[Bytes]> {
    match &entry.source {
        Source::Content(content) if content.size() <= SMALL => content.in_memory(),
        _ => None,
    }
}

/// Parts of a body, of which all but its last are cut to whole pieces; the first of them is number `first`.
fn pieces<'a>(entry: &Entry, first: i32, parts: &'a [Bytes]) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    for part in parts {
        let number = first + pieces.len() as i32;
        pieces.extend(Piece::cut((entry.message.organization, entry.message.id), number, part));
    }
    pieces
}

/// A body that is read piece by piece.
async fn insert_body(db: &mut PgConnection, entry: &Entry) -> store::Result<()> {
    let mut reader = entry.source.reader();
    let (mut first, mut parts) = (0, Vec::<Bytes>::new());
    loop {
        // That a message cannot be read is its own trouble, not the store's.
        let next = reader.next().await.map_err(|error| sqlx::Error::Encode(error.into()))?;
        let is_last = next.is_none();
        parts.extend(next);
        let bytes = parts.iter().map(Bytes::len).sum::<usize>();
        if bytes >= STATEMENT_BYTES || is_last && bytes > 0 {
            let pieces = pieces(entry, first, &parts);
            in_time(store::queue::insert_pieces_across_tenants(&mut *db, &pieces)).await?;
            first += pieces.len() as i32;
            parts.clear();
        }
        if is_last {
            return Ok(());
        }
    }
}
