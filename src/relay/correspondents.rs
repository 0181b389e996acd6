//! Knows to whom accounts write, beside the mail: gathered in memory, written down within a minute, and at once of those
//! whom a limit is asked for, as long as another relay may ask, too. So the path of mail looks nothing up, and a million
//! accounts that write to few need no memory.
//!
//! What is not written down yet is forgotten when a relay is killed: whom an account wrote to in that minute is new once
//! more. What other relays have written is known when this one writes the next of the same account.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::meter::Meter;
use crate::{
    mail::id::{AccountId, OrganizationId, QuickMap},
    policy::correspondents::Written,
    store::{self, correspondents::New, pool::within},
};

/// How often it is looked whom a limit is asked for.
const EVERY: Duration = Duration::from_secs(1);
/// How often everything is written down.
const ALL: Duration = Duration::from_secs(60);
/// Accounts in one transaction.
const STEP: usize = 500;
/// How many of those that may wait are written each time, so that it takes a part of the time only.
const STEPS: usize = 4;
/// How long the store may take for one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last of them may take together when the relay stops.
const LAST: Duration = Duration::from_secs(3);
/// How often the oldest are looked for.
const FORGETTING: Duration = Duration::from_secs(600);
/// Of how many accounts it waits in memory at most; it takes some hundred bytes for each. While the store is away longer
/// whom others write to is not noted.
const MOST: usize = 100_000;
/// And how many recipients of each.
const MOST_OF_EACH: usize = 5000;
/// So few are not looked through for one who is there twice.
const FEW: usize = 16;
/// How many are gathered before they are put to their accounts, together: those are memory that is far apart, and to
/// touch it for one message alone costs more.
const TOGETHER: usize = 1024;

type Account = (OrganizationId, AccountId);

/// To whom accounts have written since that was written down.
#[derive(Debug, Default)]
pub struct Gathered {
    /// A std lock: held for adding some numbers only, never across an await.
    noted: Mutex<Noted>,
}

/// By account, but for the last.
#[derive(Debug, Default)]
struct Noted {
    accounts: QuickMap<Account, Vec<Written>>,
    /// What came last, not put to its account yet.
    last: Vec<(Account, Written)>,
}

impl Noted {
    /// Puts what came last to its accounts, as far as there is room.
    fn put_together(&mut self) {
        for (account, written) in self.last.drain(..) {
            if self.accounts.len() >= MOST && !self.accounts.contains_key(&account) {
                continue;
            }
            let known = self.accounts.entry(account).or_default();
            if known.len() == known.capacity() && known.len() >= FEW {
                make_room(known);
            }
            if known.len() < MOST_OF_EACH {
                known.push(written);
            }
        }
    }
}

impl Gathered {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With everything put to its account.
    fn put_together(&self) -> MutexGuard<'_, Noted> {
        let mut noted = self.noted();
        noted.put_together();
        noted
    }

    /// Notes to whom an account has written.
    pub fn add(&self, account: Account, written: impl IntoIterator<Item = Written>) {
        let mut written = written.into_iter().peekable();
        if written.peek().is_none() {
            return;
        }
        let mut noted = self.noted();
        noted.last.extend(written.map(|written| (account, written)));
        if noted.last.len() >= TOGETHER {
            noted.put_together();
        }
    }

    /// Gathers again what could not be written down.
    fn put_back(&self, some: impl IntoIterator<Item = New>) {
        some.into_iter().for_each(|(account, written)| self.add(account, written));
    }

    /// Takes what was gathered of these.
    fn take(&self, of: impl IntoIterator<Item = Account>) -> Vec<New> {
        let accounts = &mut self.put_together().accounts;
        of.into_iter().filter_map(|account| accounts.remove_entry(&account)).collect()
    }

    fn take_all(&self) -> QuickMap<Account, Vec<Written>> {
        std::mem::take(&mut self.put_together().accounts)
    }

    fn is_full(&self) -> bool {
        self.put_together().accounts.len() >= MOST
    }
}

/// Keeps everybody once; if that leaves little room, there will be twice as much.
fn make_room(known: &mut Vec<Written>) {
    known.sort_unstable_by_key(|written| (written.to, written.minute()));
    known.dedup_by_key(|written| written.to);
    if known.len() > known.capacity() / 4 * 3 {
        known.reserve(known.capacity());
    }
}

/// Writes down to whom accounts write, and looks up to whom they have written of whom that is asked, until `stop`; then
/// what is left is written once more.
pub async fn run(meter: &Meter, pool: &PgPool, stop: CancellationToken) {
    let mut keeper = Keeper::of(meter, pool);
    let (mut store_answers, mut forgets_at) = (true, Instant::now() + FORGETTING);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let now = OffsetDateTime::now_utc();
        let result = keeper.turn(now).await;
        if let (Err(error), true) = (&result, store_answers) {
            tracing::warn!(%error, "to whom accounts write is kept in memory until the store answers again");
        }
        store_answers = result.is_ok();
        if store_answers && Instant::now() >= forgets_at {
            let is_more = forget(pool, now).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "to whom accounts wrote long ago could not be forgotten");
                false
            });
            forgets_at = Instant::now() + if is_more { EVERY } else { FORGETTING };
        }
    }
    if let Err(error) = within(LAST, keeper.write_all(OffsetDateTime::now_utc())).await {
        tracing::error!(%error, "to whom accounts wrote last could not be written down");
    }
}

/// Forgets what is too old at `now`. Returns whether more may be left.
pub async fn forget(pool: &PgPool, now: OffsetDateTime) -> store::Result<bool> {
    within(PATIENCE, store::correspondents::forget_across_tenants(pool, now)).await
}

/// Takes what was gathered to the store, and what the store knows to the meter.
pub struct Keeper<'a> {
    meter: &'a Meter,
    pool: &'a PgPool,
    /// What is on its way, and nobody waits for.
    pending: HashMap<Account, Vec<Written>>,
    all_at: Instant,
}

impl<'a> Keeper<'a> {
    pub fn of(meter: &'a Meter, pool: &'a PgPool) -> Self {
        Self { meter, pool, pending: HashMap::new(), all_at: Instant::now() + ALL }
    }

    /// Looks up whom a limit is asked for, and writes down what those have written who are known to write to many, where
    /// another relay may ask; of all others some, once a minute.
    ///
    /// # Errors
    /// If the store does not answer in time: then it is tried again the next time.
    pub async fn turn(&mut self, now: OffsetDateTime) -> store::Result<()> {
        let wanted = self.meter.wanted_correspondents();
        // A relay that is alone knows itself what those have written who are known.
        let followed = if self.meter.is_alone() { Vec::new() } else { self.meter.followed() };
        let soon: HashSet<Account> = wanted.iter().copied().chain(followed).collect();
        self.meter.written.put_back(soon.iter().filter_map(|account| self.pending.remove_entry(account)));
        let mut new = self.meter.written.take(soon);
        let known: HashSet<Account> = new.iter().map(|(account, _)| *account).collect();
        new.extend(wanted.into_iter().filter(|account| !known.contains(account)).map(|account| (account, Vec::new())));
        while !new.is_empty() {
            let rest = new.split_off(new.len().min(STEP));
            if let Err(error) = self.write(new, now).await {
                self.meter.written.put_back(rest);
                return Err(error);
            }
            new = rest;
        }
        if Instant::now() >= self.all_at || self.meter.written.is_full() {
            self.take_all();
        }
        self.write_pending(STEPS, now).await
    }

    fn take_all(&mut self) {
        for (account, written) in self.meter.written.take_all() {
            self.pending.entry(account).or_default().extend(written);
        }
        self.all_at = Instant::now() + ALL;
    }

    /// Writes down everything that was gathered.
    ///
    /// # Errors
    /// If the store does not take it in time; what is left is tried again the next time.
    pub async fn write_all(&mut self, now: OffsetDateTime) -> store::Result<()> {
        self.take_all();
        self.write_pending(usize::MAX, now).await
    }

    async fn write_pending(&mut self, steps: usize, now: OffsetDateTime) -> store::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let followed: HashSet<Account> = self.meter.followed().into_iter().collect();
        for _ in 0..steps {
            let some: Vec<Account> = self.pending.keys().take(STEP).copied().collect();
            if some.is_empty() {
                break;
            }
            let some: Vec<New> = some.into_iter().filter_map(|account| self.pending.remove_entry(&account)).collect();
            let (known, others): (Vec<New>, Vec<New>) =
                some.into_iter().partition(|(account, _)| followed.contains(account));
            if !known.is_empty()
                && let Err(error) = self.write(known, now).await
            {
                self.meter.written.put_back(others);
                return Err(error);
            }
            if !others.is_empty() {
                self.note(others, now).await?;
            }
        }
        Ok(())
    }

    /// Writes some, and tells the meter. What cannot be written is gathered again.
    async fn write(&self, some: Vec<New>, now: OffsetDateTime) -> store::Result<()> {
        let writing = async {
            let mut connection = self.pool.acquire().await?;
            store::correspondents::add_across_tenants(&mut connection, &some, now).await
        };
        match within(PATIENCE, writing).await {
            Ok(known) => {
                for ((account, _), (correspondents, from)) in some.iter().zip(known) {
                    self.meter.note_correspondents(*account, &correspondents, from, now);
                }
                Ok(())
            }
            Err(error) => {
                self.meter.written.put_back(some);
                Err(error)
            }
        }
    }

    /// Writes some of whom nobody asks. What cannot be written is gathered again.
    async fn note(&self, some: Vec<New>, now: OffsetDateTime) -> store::Result<()> {
        let writing = async {
            let mut connection = self.pool.acquire().await?;
            store::correspondents::note_across_tenants(&mut connection, &some, now).await
        };
        within(PATIENCE, writing).await.inspect_err(|_| self.meter.written.put_back(some))
    }
}
