//! How both front doors keep connections to the store.
//! What else a relay's connections need is `relay`'s.

use std::{
    io::ErrorKind,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How long the store may take to answer a statement. One whose machine is gone, without a word, never does, and there is
/// nothing in the connection that would notice.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What the store answers, unless it takes too long. The connection is not used again then.
///
/// # Errors
/// Those of the statement, or `TimedOut`: whether it was carried out is not known.
pub fn in_time<T>(statement: impl Future<Output = sqlx::Result<T>>) -> impl Future<Output = sqlx::Result<T>> {
    within(ANSWERS_WITHIN, statement)
}

/// The same for what takes several statements.
///
/// # Errors
/// Likewise.
pub fn within<T>(
    limit: Duration,
    statements: impl Future<Output = sqlx::Result<T>>,
) -> impl Future<Output = sqlx::Result<T>> {
    // Boxed: each caller that only waits for it would be larger by all that it needs.
    let mut statements = Box::pin(statements);
    async move {
        timeout(limit, &mut statements).await.unwrap_or_else(|_| {
            // Before the connection comes back that nothing was answered on.
            *DOUBTED_AT.write().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            Err(sqlx::Error::Io(ErrorKind::TimedOut.into()))
        })
    }
}

/// When the store last did not answer in time. A std lock: held for a look only.
static DOUBTED_AT: RwLock<Option<Instant>> = RwLock::new(None);
/// For so long after that every connection that comes back is in doubt.
const IN_DOUBT: Duration = Duration::from_secs(300);

/// Asks a connection that comes back while the store is in doubt whether all that was begun on it has been answered, and
/// gives it up if not: sqlx asks, too, but waits for ever, with the connection's place in the pool.
pub async fn is_of_use(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let doubted_at = *DOUBTED_AT.read().unwrap_or_else(PoisonError::into_inner);
    if doubted_at.is_some_and(|at| at.elapsed() < IN_DOUBT) {
        in_time(connection.ping()).await?;
    }
    Ok(true)
}

/// After how long a connection is asked whether it is still there before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// Without the question before every use: a connection that was in use a moment ago is still there.
pub fn options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).test_before_acquire(false).before_acquire(|connection, usage| {
        Box::pin(async move {
            if usage.idle_for > IDLE {
                connection.ping().await?;
            }
            Ok(true)
        })
    })
}

/// A few connections that go from one statement to the next without a question in between: before sqlx gives one out
/// again it has the server answer that all is well, which takes as long as a small statement does.
#[derive(Debug, Clone)]
pub struct Quick {
    pool: PgPool,
    ready: Arc<Mutex<Vec<Ready>>>,
    turns: Arc<Semaphore>,
    /// Whether others take connections from the same pool.
    is_shared: bool,
}

/// One that has answered all that it was asked.
#[derive(Debug)]
struct Ready {
    connection: PoolConnection<Postgres>,
    since: Instant,
    /// How many times it has been given out since sqlx had it.
    uses: u32,
}

/// After so many uses sqlx gets a connection back, to see whether it has become too old.
const USES: u32 = 1000;

impl Quick {
    /// With connections like those of this pool, opened when they are needed. Inside a runtime.
    pub fn like(pool: &PgPool, connections: u32) -> Self {
        let options = pool.options().clone().min_connections(0).max_connections(connections);
        let pool = options.connect_lazy_with(pool.connect_options().as_ref().clone());
        let turns = Arc::new(Semaphore::new(connections as usize));
        Self { pool, ready: Arc::default(), turns, is_shared: false }
    }

    /// With so many connections of this pool itself, which has them back soon after their last use, and when it is
    /// closed. Inside a runtime.
    pub fn of(pool: &PgPool, connections: usize) -> Self {
        let ready: Arc<Mutex<Vec<Ready>>> = Arc::default();
        let (mut closing, kept) = (pool.close_event(), Arc::downgrade(&ready));
        tokio::spawn(async move {
            let mut is_closed = false;
            while !is_closed {
                is_closed = timeout(IDLE, &mut closing).await.is_ok();
                let Some(kept) = kept.upgrade() else { return };
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.retain(|ready| !is_closed && ready.since.elapsed() < IDLE);
            }
        });
        Self { pool: pool.clone(), ready, turns: Arc::new(Semaphore::new(connections)), is_shared: true }
    }

    /// For statements that are not in a hurry.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection, in the order in which they were asked for. The error is that none came in time.
    pub async fn acquire(&self) -> sqlx::Result<Lent> {
        let patience = self.pool.options().get_acquire_timeout();
        let turn = timeout(patience, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (connection, uses) = match ready.filter(|ready| ready.since.elapsed() < IDLE && ready.uses < USES) {
            Some(ready) => (ready.connection, ready.uses),
            None => (self.pool.acquire().await?, 0),
        };
        Ok(Lent { connection, uses, quick: self.clone(), _turn: turn })
    }

    /// Unless the pool is closed, or being closed, or others may be waiting for a connection: then sqlx gets it.
    fn keep(&self, connection: Ready) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let is_needed = self.is_shared && self.pool.size() >= self.pool.options().get_max_connections();
        // Asked under the lock: whoever closes the pool after that finds the connection here.
        if !self.pool.is_closed() && (!is_needed || self.pool.num_idle() > 0) {
            ready.push(connection);
        }
    }
}

/// Dropped without [`keep`](Self::keep), as after an error or where nobody waits for the answer any more, it goes
/// back to sqlx, which sees whether it is still of use.
#[derive(Debug)]
pub struct Lent {
    connection: PoolConnection<Postgres>,
    uses: u32,
    quick: Quick,
    _turn: OwnedSemaphorePermit,
}

impl Lent {
    /// Gives it back after statements that have all been answered.
    pub fn keep(self) {
        let Self { connection, uses, quick, _turn } = self;
        quick.keep(Ready { connection, since: Instant::now(), uses: uses + 1 });
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
