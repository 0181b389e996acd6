//! Gathers what happens to messages and writes it down in batches, behind the answers to clients and never in their
//! way. While the store is away lines stand in a file of bounded size.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::journal::Journal;
use super::metrics::METRICS;
use crate::{
    mail::id::{OrganizationId, QuickMap, RelayId},
    store::{
        self,
        message_trace::{Chunk, Event, Gap, Gathering},
    },
};

mod journal;
pub mod upkeep;

/// How long lines are gathered: all are in the store within a second.
const GATHERED: Duration = Duration::from_millis(700);
/// How often a store that was away is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The last chunks of a relay that stops.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// Memory for lines, in bytes: what messages in flight bring within a second, many times over.
const MOST_MEMORY: usize = 32 * 1024 * 1024;
/// Memory that is kept for the next lines, in bytes: what ten busy organizations bring until it is taken.
const MOST_SPARE: usize = 4 * 1024 * 1024;
/// The most that the journal takes, in bytes: some two million messages.
pub const MOST_JOURNAL: u64 = 256 * 1024 * 1024;
/// Bytes in one statement, about.
const BATCH: usize = 4 * 1024 * 1024;

/// What one relay has to write down.
#[derive(Debug)]
pub struct Trace {
    relay: RelayId,
    most_memory: usize,
    /// A std lock: held for the time of one line.
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    open: QuickMap<OrganizationId, Gathering>,
    full: Vec<(OrganizationId, Gathering)>,
    /// Of all of them, in bytes.
    size: usize,
    /// Empty, and their memory to be used again.
    spare: Vec<Gathering>,
    /// What they take, in bytes.
    spare_size: usize,
    lost: HashMap<OrganizationId, Lost>,
}

/// Lines that there was no room for.
#[derive(Debug, Clone, Copy)]
struct Lost {
    first_at: OffsetDateTime,
    last_at: OffsetDateTime,
    lines: i64,
}

impl Gathered {
    fn add(&mut self, organization: OrganizationId, event: &Event<'_>, most_memory: usize) {
        if self.size >= most_memory {
            METRICS.trace_lines_lost.add(1);
            self.lose(organization, (event.at, event.at), 1);
            return;
        }
        let open = self.open.entry(organization).or_insert_with(|| {
            let spare = self.spare.pop().unwrap_or_default();
            self.spare_size -= spare.capacity();
            spare
        });
        let before = open.size();
        open.add(event);
        self.size += open.size() - before;
        if open.is_full() {
            self.full.extend(self.open.remove(&organization).map(|full| (organization, full)));
        }
    }

    /// Keeps its memory for the next lines, as far as that may be.
    fn keep_spare(&mut self, empty: Gathering) {
        if self.spare_size + empty.capacity() <= MOST_SPARE {
            self.spare_size += empty.capacity();
            self.spare.push(empty);
        }
    }

    fn lose(
        &mut self,
        organization: OrganizationId,
        (first_at, last_at): (OffsetDateTime, OffsetDateTime),
        lines: i64,
    ) {
        let lost = self.lost.entry(organization).or_insert(Lost { first_at, last_at, lines: 0 });
        lost.lines += lines;
        lost.first_at = lost.first_at.min(first_at);
        lost.last_at = lost.last_at.max(last_at);
    }
}

impl Trace {
    pub fn new(relay: RelayId) -> Self {
        Self::bounded(relay, MOST_MEMORY)
    }

    /// Lines that are not written down yet take so many bytes at most.
    pub fn bounded(relay: RelayId, most_memory: usize) -> Self {
        Self { relay, most_memory, gathered: Mutex::default() }
    }

    /// Adds a line to a message's story.
    pub fn add(&self, organization: OrganizationId, event: &Event<'_>) {
        self.lock().add(organization, event, self.most_memory);
    }

    /// Everything that was gathered so far, closed.
    fn take(&self) -> Vec<Chunk> {
        let gathered = {
            let mut gathered = self.lock();
            gathered.size = 0;
            let mut full = std::mem::take(&mut gathered.full);
            full.extend(gathered.open.drain());
            full
        };
        let close = |(organization, mut lines): (OrganizationId, Gathering)| {
            let chunk = lines.close(organization, self.relay, Uuid::now_v7());
            self.lock().keep_spare(lines);
            chunk
        };
        gathered.into_iter().filter_map(close).collect()
    }

    fn take_gaps(&self) -> Vec<Gap> {
        let lost = std::mem::take(&mut self.lock().lost);
        let gap = |(organization, lost): (OrganizationId, Lost)| Gap {
            organization,
            id: Uuid::now_v7(),
            relay: self.relay,
            first_at: lost.first_at,
            last_at: lost.last_at,
            lines: lost.lines,
        };
        lost.into_iter().map(gap).collect()
    }

    fn lose(&self, organization: OrganizationId, times: (OffsetDateTime, OffsetDateTime), lines: i32) {
        METRICS.trace_lines_lost.add(lines.unsigned_abs().into());
        self.lock().lose(organization, times, lines.into());
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts what a relay has gathered into the store.
pub struct Writer<'a> {
    trace: &'a Trace,
    pool: &'a PgPool,
    journal: Journal,
    /// Closed, and neither in the store nor in the journal yet.
    pending: Vec<Chunk>,
    /// Whether the store answered the last time.
    store_answers: bool,
}

impl<'a> Writer<'a> {
    /// What a former run of this relay left in the journal comes first. `journal` is its file, which takes so many
    /// bytes at most.
    pub fn new(trace: &'a Trace, pool: &'a PgPool, journal: PathBuf, most_bytes: u64) -> Self {
        let mut journal = Journal::new(journal, most_bytes);
        if let Some(torn) = journal.mend() {
            trace.lose(torn.organization, (torn.first_at, torn.last_at), torn.lines);
        }
        Self { trace, pool, pending: Vec::new(), store_answers: !journal.has_lines(), journal }
    }

    /// Until `stop`, and then what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = if self.store_answers { GATHERED } else { AGAIN };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
            self.step().await;
        }
        if timeout(LAST_PATIENCE, self.step()).await.is_err() {
            self.pending.extend(self.trace.take());
            self.keep();
        }
    }

    /// Writes what there is: to the store, else to the journal.
    pub async fn step(&mut self) {
        self.pending.extend(self.trace.take());
        if !self.store_answers {
            self.keep();
        }
        let written = self.write_all().await;
        if written.is_err() {
            self.keep();
        }
        self.note(&written);
    }

    async fn write_all(&mut self) -> store::Result<()> {
        while let Some(chunks) = if self.store_answers { None } else { self.journal.next(BATCH) } {
            self.write(&chunks).await?;
            self.journal.done();
        }
        while !self.pending.is_empty() {
            let mut bytes = 0;
            let fits = |chunk: &&Chunk| {
                bytes += chunk.content.len() + chunk.keys.len();
                bytes <= BATCH
            };
            let count = self.pending.iter().take_while(fits).count().max(1);
            self.write(&self.pending[..count]).await?;
            self.pending.drain(..count);
        }
        self.write_gaps().await
    }

    async fn write_gaps(&self) -> store::Result<()> {
        let gaps = self.trace.take_gaps();
        if gaps.is_empty() {
            return Ok(());
        }
        match within(store::message_trace::insert_gaps_across_tenants(self.pool, &gaps)).await {
            Err(error) if is_about_a_row(&error) => tracing::error!(%error, "that lines were lost is not written down"),
            Err(error) => {
                let mut gathered = self.trace.lock();
                for gap in &gaps {
                    gathered.lose(gap.organization, (gap.first_at, gap.last_at), gap.lines);
                }
                return Err(error);
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// As much as one statement should take.
    async fn write(&self, chunks: &[Chunk]) -> store::Result<()> {
        match within(store::message_trace::insert_across_tenants(self.pool, chunks)).await {
            Err(error) if is_about_a_row(&error) => self.write_one_by_one(chunks).await,
            result => result,
        }
    }

    /// One that the store will never take must not keep the others from it.
    async fn write_one_by_one(&self, chunks: &[Chunk]) -> store::Result<()> {
        for chunk in chunks {
            let written = within(store::message_trace::insert_across_tenants(self.pool, std::slice::from_ref(chunk)));
            match written.await {
                Err(error) if is_about_a_row(&error) => {
                    let (organization, lines) = (chunk.organization, chunk.lines);
                    tracing::error!(%error, %organization, lines, "what happened to messages is not written down");
                    METRICS.trace_lines_lost.add(chunk.lines.unsigned_abs().into());
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// What the store did not take is not lost before the journal is full.
    fn keep(&mut self) {
        for chunk in std::mem::take(&mut self.pending) {
            if let Err(error) = self.journal.add(&chunk) {
                tracing::error!(%error, lines = chunk.lines, "what happened to messages cannot be kept");
                self.trace.lose(chunk.organization, (chunk.first_at, chunk.last_at), chunk.lines);
            }
        }
    }

    fn note<T>(&mut self, result: &store::Result<T>) {
        match (result, self.store_answers) {
            (Err(error), true) => {
                tracing::warn!(%error, "what happens to messages is kept in a file until the store answers again");
            }
            (Ok(_), false) => tracing::info!("what happened to messages meanwhile is in the store"),
            _ => {}
        }
        self.store_answers = result.is_ok();
    }
}

/// What the store says of the values themselves (SQLSTATE classes 22 and 23).
fn is_about_a_row(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

async fn within<T>(write: impl Future<Output = store::Result<T>>) -> store::Result<T> {
    timeout(PATIENCE, write).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
