//! Counts what is sent: each message in memory when the end of its DATA is answered 250, and what all of them came to in
//! the store about once a second. Never in the path of mail.
//!
//! So what the relays of an installation have counted together is at most two seconds behind while the store answers, and
//! a relay that is killed forgets its last second or two. A relay that is alone has nobody to share with: it writes down
//! an account that sends to few once the minute is over, which is one row for all of it, and one that sends to many each
//! time that it has sent to as many once more; a kill forgets the rest of that minute. While the store is away counts are kept in a file, which is read first after a restart, and in memory where that
//! is full, see [`MOST_ROWS`].

use std::{
    collections::{VecDeque, hash_map::Entry},
    hash::Hash,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::journal::{Batch, Journal};
use super::{
    meter::{Meter, Reader},
    metrics::METRICS,
};
use crate::{
    mail::{
        DomainName,
        id::{AccountId, OrganizationId, QuickMap, RelayId},
    },
    policy::{
        facts::Found,
        volume::{Count, HOURS_KEPT, MINUTES_KEPT, Subject, minute_of},
    },
    store::{self, pool::within, volume::Counted},
};

mod journal;

/// How often what was counted is written.
const EVERY: Duration = Duration::from_secs(1);
/// An account that sends to so many recipients within a minute is written down at once, whoever else is there: as many as
/// the platform lets one send in a minute, so that pages know of everybody who has come to that limit. After that it is
/// written whenever as many have come as are written.
const MANY: i64 = 60;
/// How many messages are gathered before they are added to the counts of their senders, together: those are memory that
/// is far apart, and to touch it for one message alone costs more.
const TOGETHER: usize = 1024;
/// Rows in one transaction.
const STEP: usize = 2000;
/// Rows of accounts whose minute is over that are written at a time, so that it takes a part of the time only.
const OVER_AT_ONCE: usize = 4 * STEP;
/// How long the store may take for one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to tell what others have counted; a whole day of it when a relay starts.
const READING: Duration = Duration::from_secs(60);
/// How long the last of them may take together when the relay stops.
const LAST: Duration = Duration::from_secs(3);
/// How often the oldest counts are looked for.
const FORGETTING: Duration = Duration::from_secs(60);

/// The most that the file takes, in bytes: some four hundred thousand counts.
pub const MOST_JOURNAL: u64 = 64 * 1024 * 1024;
/// How often it is written while the store is away: a relay that is killed then forgets so much.
const KEPT: Duration = Duration::from_secs(5);

/// How many counts wait in memory at most while the store is away and the file takes no more, of accounts and of the rest
/// each; one is for one subject in one minute and takes about a hundred bytes, and what is just being written may be as much
/// again. With a thousand accounts that send each minute that is an hour and a half. Beyond it nothing is counted for
/// further accounts while organizations and domains still are: their totals stay right the longest.
pub const MOST_ROWS: usize = 100_000;

/// What was counted and is not written yet.
#[derive(Debug)]
pub struct Volume {
    /// A std lock: held for adding numbers only, never across an await.
    gathered: Mutex<Gathered>,
    most: usize,
}

#[derive(Debug, Default)]
struct Gathered {
    /// What came last and in which minute, not added up yet.
    last: Vec<(Found, OffsetDateTime, Count)>,
    minutes: QuickMap<(OrganizationId, OffsetDateTime), OfMinute>,
    /// How many rows of accounts and of everything else there are.
    of_accounts: usize,
    of_others: usize,
    /// Something was not counted for lack of room.
    is_full: bool,
}

/// What one organization sent in one minute.
#[derive(Debug, Default)]
struct OfMinute {
    all: Count,
    domains: QuickMap<DomainName, Count>,
    accounts: QuickMap<AccountId, OfAccount>,
    /// Those of them that are to be written down before the minute is over.
    busy: Vec<AccountId>,
    no_account: QuickMap<DomainName, Count>,
}

/// What one account sent in one minute.
#[derive(Debug, Default)]
struct OfAccount {
    unwritten: Count,
    /// To how many recipients it has sent that is written down.
    written: i64,
}

impl OfAccount {
    /// Returns whether it is to be written down now: once, when it becomes so.
    fn add(&mut self, count: Count) -> bool {
        let before = self.unwritten.recipients;
        self.unwritten += count;
        let most = MANY.max(self.written);
        before < most && self.unwritten.recipients >= most
    }

    fn take(&mut self) -> Count {
        self.written += self.unwritten.recipients;
        std::mem::take(&mut self.unwritten)
    }
}

impl OfMinute {
    /// What is counted of everybody but accounts.
    fn take_others(&mut self) -> impl Iterator<Item = (Subject, Count)> + use<> {
        let all = std::mem::take(&mut self.all);
        let domains = std::mem::take(&mut self.domains).into_iter().map(|(name, count)| (Subject::Domain(name), count));
        let no_account = std::mem::take(&mut self.no_account).into_iter();
        let no_account = no_account.map(|(domain, count)| (Subject::NoAccount(domain), count));
        (all != Count::default()).then_some((Subject::Organization, all)).into_iter().chain(domains).chain(no_account)
    }

    /// Accounts, so many at most.
    fn take_accounts(&mut self, most: usize) -> Vec<(Subject, Count)> {
        let accounts = self.accounts.extract_if(|_, _| true).take(most);
        let rows = accounts.map(|(account, of_account)| (Subject::Account(account), of_account.unwritten));
        // Some are written to the last.
        rows.filter(|(_, count)| *count != Count::default()).collect()
    }

    /// Accounts that send to many, which stay until the minute is over.
    fn take_busy(&mut self) -> Vec<(Subject, Count)> {
        let busy = self.busy.drain(..);
        let rows =
            busy.filter_map(|account| Some((Subject::Account(account), self.accounts.get_mut(&account)?.take())));
        rows.collect()
    }
}

impl Default for Volume {
    fn default() -> Self {
        Self::of(MOST_ROWS)
    }
}

impl Volume {
    /// With room for another number of rows than [`MOST_ROWS`].
    pub fn of(most: usize) -> Self {
        Self { gathered: Mutex::default(), most }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With everything added up.
    fn added_up(&self) -> MutexGuard<'_, Gathered> {
        let mut gathered = self.gathered();
        gathered.add_up(self.most);
        gathered
    }

    /// Counts a message of this sender that was accepted at `at`.
    pub fn add(&self, sender: &Found, at: OffsetDateTime, count: Count) {
        let mut gathered = self.gathered();
        gathered.last.push((sender.clone(), minute_of(at), count));
        if gathered.last.len() >= TOGETHER {
            gathered.add_up(self.most);
        }
    }

    /// What was gathered; from here on it begins anew.
    fn take(&self) -> Vec<Counted> {
        let gathered = std::mem::take(&mut *self.added_up());
        gathered.into_rows()
    }

    /// The same without those accounts that have sent to few in this minute, which begins at `minute`: they are taken
    /// when it is over, some at a time, or when they become too many.
    fn take_due(&self, minute: OffsetDateTime) -> Vec<Counted> {
        let mut gathered = self.added_up();
        if gathered.of_accounts < self.most / 2 {
            return gathered.take_due(minute);
        }
        drop(gathered);
        self.take()
    }
}

impl Gathered {
    fn into_rows(self) -> Vec<Counted> {
        let mut rows = Vec::with_capacity(self.of_accounts + self.of_others);
        for ((organization, minute), mut of_minute) in self.minutes {
            let subjects = of_minute.take_others().chain(of_minute.take_accounts(usize::MAX));
            rows.extend(subjects.map(|(subject, count)| Counted { organization, subject, minute, count }));
        }
        rows
    }

    fn take_due(&mut self, this_minute: OffsetDateTime) -> Vec<Counted> {
        let (mut rows, mut room) = (Vec::new(), OVER_AT_ONCE);
        for ((organization, minute), of_minute) in &mut self.minutes {
            let (organization, minute) = (*organization, *minute);
            // A clock that was set back has left minutes that are to come.
            let accounts = match minute != this_minute {
                true => of_minute.take_accounts(room),
                false => of_minute.take_busy(),
            };
            room = room.saturating_sub(accounts.len());
            let subjects = of_minute.take_others().chain(accounts);
            rows.extend(subjects.map(|(subject, count)| Counted { organization, subject, minute, count }));
        }
        self.minutes.retain(|_, of_minute| !of_minute.accounts.is_empty());
        self.of_accounts = self.minutes.values().map(|of_minute| of_minute.accounts.len()).sum();
        self.of_others = self.minutes.len();
        self.is_full = false;
        rows
    }

    /// Adds what came last to the counts of its senders, as far as there is room.
    fn add_up(&mut self, most: usize) {
        let mut last = std::mem::take(&mut self.last);
        for (sender, minute, count) in last.drain(..) {
            if !self.add(&sender, minute, count, most) {
                METRICS.volume_not_counted.add(1);
            }
        }
        self.last = last;
    }

    /// Returns whether there was room to count it for everybody that it counts for.
    fn add(&mut self, sender: &Found, minute: OffsetDateTime, count: Count, most: usize) -> bool {
        let of_minute = match self.minutes.entry((sender.organization, minute)) {
            Entry::Occupied(of_minute) => of_minute.into_mut(),
            Entry::Vacant(_) if self.of_others >= most => return self.full(),
            Entry::Vacant(room) => {
                self.of_others += 1;
                room.insert(OfMinute::default())
            }
        };
        of_minute.all += count;
        let (accounts, others) = ((&mut self.of_accounts, most), (&mut self.of_others, most));
        let domain = sender.sender.domain();
        let has_room = match sender.account {
            Some(account) => {
                let is_busy = in_row(&mut of_minute.accounts, &account, accounts, |of_account| of_account.add(count));
                of_minute.busy.extend(is_busy.filter(|is_busy| *is_busy).map(|_| account));
                is_busy.is_some()
            }
            None => in_row(&mut of_minute.no_account, domain, accounts, |sum| *sum += count).is_some(),
        };
        let of_domain = in_row(&mut of_minute.domains, domain, others, |sum| *sum += count);
        if has_room && of_domain.is_some() { true } else { self.full() }
    }

    /// Says so once until it is written down.
    fn full(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!("the store was away for too long: not all mail is counted for its account any more");
        }
        false
    }
}

/// Changes a row, which is made if there is room for one more; `None` if there is none.
fn in_row<K: Hash + Eq + Clone, V: Default, R>(
    rows: &mut QuickMap<K, V>,
    key: &K,
    (there, most): (&mut usize, usize),
    change: impl FnOnce(&mut V) -> R,
) -> Option<R> {
    match rows.get_mut(key) {
        Some(row) => Some(change(row)),
        None if *there >= most => None,
        None => {
            *there += 1;
            Some(change(rows.entry(key.clone()).or_default()))
        }
    }
}

/// Writes down what is counted, from when the relay has signed on until `stop`, when nothing more is accepted; then what
/// is left is written once more. Forgets what is too old. Reads in between what others have counted.
pub async fn run(mut writer: Writer<'_>, id: watch::Receiver<Option<RelayId>>, stop: CancellationToken) {
    let pool = writer.pool;
    let (mut store_answers, mut forgets_at) = (true, Instant::now() + FORGETTING);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let Some(relay) = *id.borrow() else { continue };
        let result = writer.turn(relay).await;
        if let (Err(error), true) = (&result, store_answers) {
            tracing::warn!(%error, "what is sent is counted in a file until the store answers again");
        }
        store_answers = result.is_ok();
        if store_answers && Instant::now() >= forgets_at {
            let is_more = forget(pool, OffsetDateTime::now_utc()).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "counts that are too old could not be removed");
                false
            });
            forgets_at = Instant::now() + if is_more { EVERY } else { FORGETTING };
        }
    }
    let Some(relay) = *id.borrow() else { return };
    let result = within(LAST, writer.write(relay)).await;
    if let Err(error) = result {
        writer.keep(relay);
        match writer.left() {
            0 => tracing::warn!(%error, "what was sent last is counted in the store after the next start"),
            messages => tracing::error!(%error, messages, "what was sent last could not be counted in the store"),
        }
    }
}

/// Forgets what is too old at `now`. Returns whether more may be left.
pub async fn forget(pool: &PgPool, now: OffsetDateTime) -> store::Result<bool> {
    let forgetting = async {
        let mut connection = pool.acquire().await?;
        store::volume::forget_across_tenants(&mut connection, now - MINUTES_KEPT, now - HOURS_KEPT).await
    };
    within(PATIENCE, forgetting).await
}

/// Takes what was gathered to the store.
pub struct Writer<'a> {
    volume: &'a Volume,
    meter: &'a Meter,
    pool: &'a PgPool,
    reader: Reader<'a>,
    /// Whether accounts that send to few may wait for the end of their minute while no other relay is there.
    lets_wait: bool,
    /// What is on its way, with the id under which the store knows it: it may have it though it did not say so.
    pending: VecDeque<Batch>,
    /// Where what the store does not take is kept, if anywhere.
    folder: Option<&'a Path>,
    journal: Option<Journal>,
    kept_at: Option<Instant>,
}

impl<'a> Writer<'a> {
    pub fn of(volume: &'a Volume, meter: &'a Meter, pool: &'a PgPool) -> Self {
        let reader = Reader::of(meter, pool);
        let (pending, lets_wait) = (VecDeque::new(), false);
        Self { volume, meter, pool, reader, lets_wait, pending, folder: None, journal: None, kept_at: None }
    }

    /// Accounts that send to few are written once their minute is over, while no other relay is there.
    pub fn letting_wait(self) -> Self {
        Self { lets_wait: true, ..self }
    }

    /// With another time than [`EVERY`](super::meter::EVERY) between two looks at what others have counted.
    pub fn looking_each(mut self, pause: Duration) -> Self {
        self.reader.pause = pause;
        self
    }

    /// What the store does not take is kept in a file in this folder.
    pub fn keeping(self, folder: &'a Path) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// Takes what a former run of this relay has kept to the store, reads what was sent before this one began and what
    /// others have counted, and writes what it has itself, whether or not that could be read.
    ///
    /// # Errors
    /// If the store does not take it, or does not tell it, in time.
    pub async fn turn(&mut self, relay: RelayId) -> store::Result<()> {
        self.turn_at(relay, OffsetDateTime::now_utc()).await
    }

    /// The same at another time than now.
    ///
    /// # Errors
    /// Likewise.
    pub async fn turn_at(&mut self, relay: RelayId, now: OffsetDateTime) -> store::Result<()> {
        // Before the past is read: it belongs to it.
        self.take_up(relay).await?;
        let read = self.read(relay, now).await;
        if read.is_err() && !self.reader.is_loaded() {
            // What is written before the past was read would be read as others'.
            return read;
        }
        let waits_in = (self.lets_wait && self.meter.is_alone()).then(|| minute_of(now));
        self.write_but(relay, waits_in).await.and(read)
    }

    async fn read(&mut self, relay: RelayId, now: OffsetDateTime) -> store::Result<()> {
        within(READING, self.reader.read(relay, now)).await
    }

    async fn take_up(&mut self, relay: RelayId) -> store::Result<()> {
        let Some(folder) = self.folder.filter(|_| self.journal.is_none()) else { return Ok(()) };
        let mut journal = Journal::new(folder.join(format!("outgate-volume-{relay}.journal")), MOST_JOURNAL);
        if let Err(error) = journal.mend() {
            tracing::error!(%error, "what was sent before the last stop is not counted");
        }
        if journal.has_batches() {
            let last = within(PATIENCE, store::volume::last_batch_across_tenants(self.pool, relay)).await?;
            journal.skip_to(last);
            while let Some(((batch, rows), end)) = journal.next() {
                self.add(relay, batch, &rows).await?;
                journal.done(end);
            }
            tracing::info!("what was sent before the last stop is counted in the store");
        }
        journal.clear();
        self.journal = Some(journal);
        Ok(())
    }

    /// Writes what was left of the last time, then what was gathered since. What cannot be written is kept.
    ///
    /// # Errors
    /// If the store does not take it in time.
    pub async fn write(&mut self, relay: RelayId) -> store::Result<()> {
        self.write_but(relay, None).await
    }

    /// The same without what may wait in this minute.
    async fn write_but(&mut self, relay: RelayId, waits_in: Option<OffsetDateTime>) -> store::Result<()> {
        let written = self.write_all(relay, waits_in).await;
        match written.is_ok() {
            true => METRICS.volume_written_at.set(OffsetDateTime::now_utc().unix_timestamp()),
            false if self.kept_at.is_none_or(|kept_at| kept_at.elapsed() >= KEPT) => self.keep(relay),
            false => {}
        }
        written
    }

    /// What was counted first comes first: a batch is known by being the last one that the store has.
    async fn write_all(&mut self, relay: RelayId, waits_in: Option<OffsetDateTime>) -> store::Result<()> {
        while let Some(((batch, rows), end)) = self.journal.as_ref().and_then(Journal::next) {
            self.add(relay, batch, &rows).await?;
            self.reader.note_written(&rows);
            if let Some(journal) = &mut self.journal {
                journal.done(end);
            }
        }
        if let Some(journal) = self.journal.as_mut().filter(|_| self.kept_at.is_some()) {
            journal.clear();
            self.kept_at = None;
        }
        self.write_pending(relay).await?;
        self.pend(waits_in);
        self.write_pending(relay).await
    }

    async fn write_pending(&mut self, relay: RelayId) -> store::Result<()> {
        while let Some((batch, rows)) = self.pending.front() {
            self.add(relay, *batch, rows).await?;
            if let Some((_, rows)) = self.pending.pop_front() {
                self.reader.note_written(&rows);
            }
        }
        Ok(())
    }

    /// Puts what was gathered on its way, but for what may wait in this minute.
    fn pend(&mut self, waits_in: Option<OffsetDateTime>) {
        let mut gathered =
            waits_in.map_or_else(|| self.volume.take(), |minute| self.volume.take_due(minute)).into_iter();
        while gathered.len() > 0 {
            self.pending.push_back((Uuid::now_v7(), gathered.by_ref().take(STEP).collect()));
        }
    }

    async fn add(&self, relay: RelayId, batch: Uuid, rows: &[Counted]) -> store::Result<bool> {
        within(PATIENCE, async {
            let mut connection = self.pool.acquire().await?;
            store::volume::add_across_tenants(&mut connection, relay, batch, rows).await
        })
        .await
    }

    /// Keeps what the store did not take, as far as there is room: the rest stays in memory.
    pub fn keep(&mut self, relay: RelayId) {
        let Some(mut journal) = self.journal.take() else { return };
        self.kept_at = Some(Instant::now());
        let mut kept = keep_all(&mut self.pending, &mut journal);
        if kept.is_ok() {
            self.pend(None);
            kept = keep_all(&mut self.pending, &mut journal);
        }
        if let Err(error) = kept {
            tracing::error!(%error, %relay, "what is sent is counted in memory only");
        }
        self.journal = Some(journal);
    }

    /// How many messages are not written.
    fn left(&mut self) -> i64 {
        let rows = self.pending.iter().flat_map(|(_, rows)| rows.iter().cloned()).chain(self.volume.take());
        rows.filter(|row| row.subject == Subject::Organization).map(|row| row.count.messages).sum()
    }
}

/// The oldest first; what finds no room stays.
fn keep_all(pending: &mut VecDeque<Batch>, journal: &mut Journal) -> io::Result<()> {
    while let Some(batch) = pending.front() {
        journal.add(batch)?;
        pending.pop_front();
    }
    Ok(())
}
