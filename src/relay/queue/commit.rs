//! Commits messages to the queue, many in one transaction: whoever comes while a transaction is under
//! way goes with the next one. Nobody waits for company.

use std::{sync::Arc, time::Duration};

use sqlx::{
    PgConnection, PgPool,
    postgres::{PgDatabaseError, PgSeverity},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{Entry, Queue};
use crate::{
    relay::{handover::source::Source, message::Content},
    store::{
        self,
        queue::{PIECE, QueuedMessage},
    },
};

/// Transactions at once.
const TRANSACTIONS: usize = 2;
/// What goes into one transaction, in messages and bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// How long a client waits for a commit before it is told to try again.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one look for messages may take whose answer to COMMIT got lost.
const LOOK: Duration = Duration::from_secs(5);
/// Between two such looks: until the store is back, and until a COMMIT that was still on its way has arrived.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// The messages are not known to be in the queue: nothing may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message could not be stored")]
pub struct NotCommitted;

/// Messages that are committed together or not at all.
pub struct Pending {
    entries: Vec<Entry>,
    done: oneshot::Sender<Result<(), NotCommitted>>,
}

impl Queue {
    /// Commits messages, all or none. After `Ok` they survive whatever happens to this process.
    pub(crate) async fn commit(&self, entries: Vec<Entry>) -> Result<(), NotCommitted> {
        let is_free = entries.iter().any(|entry| entry.message.lease.is_none());
        let (done, committed) = oneshot::channel();
        let pending = Pending { entries, done };
        let outcome = timeout(PATIENCE, async {
            self.shared.commits.send(pending).await.map_err(|_| NotCommitted)?;
            committed.await.map_err(|_| NotCommitted)?
        });
        outcome.await.unwrap_or(Err(NotCommitted))?;
        if is_free {
            self.shared.wake.notify_one();
        }
        Ok(())
    }
}

/// Starts the task that gathers commits; it ends when the last sender is gone.
pub fn start(db: PgPool) -> mpsc::Sender<Pending> {
    let (sender, mut receiver) = mpsc::channel::<Pending>(BATCH * 4);
    tokio::spawn(async move {
        let transactions = Arc::new(Semaphore::new(TRANSACTIONS));
        // Gathering goes on until a transaction is free.
        while let Ok(permit) = transactions.clone().acquire_owned().await {
            let Some(first) = receiver.recv().await else { break };
            let batch = gather(first, &mut receiver);
            let db = db.clone();
            tokio::spawn(async move { commit_batch(&db, batch, permit).await });
        }
    });
    sender
}

fn gather(first: Pending, receiver: &mut mpsc::Receiver<Pending>) -> Vec<Pending> {
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        let Ok(pending) = receiver.try_recv() else { break };
        bytes += pending.bytes();
        batch.push(pending);
    }
    batch
}

impl Pending {
    fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.source.size()).sum()
    }
}

/// Why messages are not known to be stored.
enum Uncommitted {
    /// They are not, and will not be.
    Refused(sqlx::Error),
    /// The answer to COMMIT got lost: they may be.
    Unknown(sqlx::Error),
}

impl From<sqlx::Error> for Uncommitted {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error)
    }
}

async fn commit_batch(db: &PgPool, mut batch: Vec<Pending>, permit: OwnedSemaphorePermit) {
    match commit_together(db, &mut batch).await {
        // One bad row fails its transaction, but not the others' messages.
        Err(Uncommitted::Refused(error @ (sqlx::Error::Database(_) | sqlx::Error::Encode(_)))) if batch.len() > 1 => {
            tracing::warn!(%error, messages = batch.len(), "a transaction was refused, trying its messages one by one");
            for pending in batch {
                let mut alone = vec![pending];
                let committed = commit_together(db, &mut alone).await;
                end(db, alone, committed).await;
            }
        }
        committed => {
            drop(permit);
            end(db, batch, committed).await;
        }
    }
}

async fn end(db: &PgPool, batch: Vec<Pending>, committed: Result<(), Uncommitted>) {
    let committed = match committed {
        Ok(()) => Ok(()),
        Err(Uncommitted::Refused(error)) => Err(error),
        Err(Uncommitted::Unknown(error)) => {
            tracing::warn!(%error, messages = batch.len(), "the answer to a COMMIT got lost, looking for its messages");
            if are_stored(db, &batch).await { Ok(()) } else { Err(error) }
        }
    };
    answer(batch, committed);
}

/// Whoever does not wait any more has told its client to try again: its messages are left out.
async fn commit_together(db: &PgPool, batch: &mut Vec<Pending>) -> Result<(), Uncommitted> {
    let mut transaction = db.begin().await?;
    batch.retain(|pending| !pending.done.is_closed());
    let entries: Vec<&Entry> = batch.iter().flat_map(|pending| &pending.entries).collect();
    if entries.is_empty() {
        return Ok(());
    }
    insert_entries(&mut transaction, &entries).await?;
    transaction.commit().await.map_err(|error| match is_said_by_store(&error) {
        true => Uncommitted::Refused(error),
        false => Uncommitted::Unknown(error),
    })
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
    let messages: Vec<_> = batch.iter().flat_map(|pending| &pending.entries).map(key).collect();
    let mut looks = 0;
    while looks < 2 && !batch.iter().all(|pending| pending.done.is_closed()) {
        match timeout(LOOK, store::queue::is_any_stored_across_tenants(db, &messages)).await {
            Ok(Ok(true)) => return true,
            Ok(Ok(false)) => looks += 1,
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(BETWEEN_LOOKS).await;
    }
    false
}

fn answer(batch: Vec<Pending>, committed: store::Result<()>) {
    if let Err(error) = &committed {
        tracing::error!(%error, messages = batch.len(), "messages could not be stored");
    }
    let committed = committed.map_err(|_| NotCommitted);
    for pending in batch {
        // Whoever has gone in this moment gets the message twice rather than not at all.
        let _ = pending.done.send(committed);
    }
}

/// Adds messages with their bodies inside a transaction of the caller's.
pub async fn insert_entries(db: &mut PgConnection, entries: &[&Entry]) -> store::Result<()> {
    let messages: Vec<&QueuedMessage> = entries.iter().map(|entry| &entry.message).collect();
    store::queue::insert_across_tenants(db, &messages).await?;
    let mut small = Vec::new();
    for entry in entries {
        match &entry.source {
            Source::Content(Content::Memory(bytes)) if bytes.len() <= PIECE => {
                small.push((entry.message.organization, entry.message.id, bytes.as_ref()));
            }
            _ => insert_pieces(db, entry).await?,
        }
    }
    if small.is_empty() { Ok(()) } else { store::queue::insert_bodies_across_tenants(db, &small).await }
}

async fn insert_pieces(db: &mut PgConnection, entry: &Entry) -> store::Result<()> {
    let mut reader = entry.source.reader();
    let mut piece = 0;
    // That a message cannot be read is its own trouble, not the store's.
    while let Some(chunk) = reader.next().await.map_err(|error| sqlx::Error::Encode(error.into()))? {
        for content in chunk.chunks(PIECE) {
            let (organization, id) = (entry.message.organization, entry.message.id);
            store::queue::insert_piece_across_tenants(&mut *db, organization, id, piece, content).await?;
            piece += 1;
        }
    }
    Ok(())
}
