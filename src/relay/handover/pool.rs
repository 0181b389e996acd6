//! Warm connections, kept by gateway and revision, and never more at once than a server is given: how
//! many that is, [`policy::connections`](crate::policy::connections) says as messages go.
//! Between the hand-over, which borrows from it, and the dialer, which it asks for new ones.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    connection::Connection,
    peer::{Peer, PeerKey},
    turns::Turns,
};
use crate::{
    mail::id::{GatewayId, OrganizationId},
    policy::{
        connections::Window,
        pace::{Pace, Turn},
    },
    store::queue::Sender,
};

/// Servers commonly close what was idle for longer.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Pool {
    /// A std lock: held for look-ups only, never across an await.
    peers: Mutex<HashMap<PeerKey, Arc<PeerPool>>>,
}

#[derive(Debug)]
struct PeerPool {
    permits: Arc<Semaphore>,
    /// Permits that are out and not to come back: the window has shrunk under them.
    surplus: AtomicUsize,
    /// Asked when somebody waits or the server pushes back; not for every message.
    window: Mutex<Window>,
    /// How many wait for a connection.
    waiting: AtomicUsize,
    /// Who of them is next.
    turns: Turns,
    /// Somebody has waited for a connection in vain, and none has been free since.
    is_crowded: AtomicBool,
    /// The most recently used last.
    idle: Mutex<Vec<(Connection, Instant)>>,
    /// Only used where the record has a pace.
    pace: Mutex<Pace>,
}

/// The right to have one connection to a server.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<PeerPool>,
    /// There until the slot is dropped.
    permit: Option<OwnedSemaphorePermit>,
    /// Messages that may go over one connection.
    messages_per_connection: u32,
}

/// Whoever waits is counted, also if it gives up.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Waits until one more connection to this server may be used. Senders take turns; without one it is us who ask.
    pub async fn slot(&self, peer: &Peer, sender: Option<Sender>) -> Slot {
        let pool = self.of(peer);
        let permit = match pool.permits.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let _waiter = Waiter::new(&pool.waiting);
                let _turn = match sender {
                    Some(sender) => Some(pool.turns.come_forward(sender).await),
                    None => None,
                };
                // The semaphore is never closed.
                pool.permits.clone().acquire_owned().await.ok()
            }
        };
        Slot { pool, permit, messages_per_connection: peer.limits.messages_per_connection }
    }

    /// Nobody else has to find out that all connections to this server are in use for long.
    pub fn waited_in_vain(&self, peer: &Peer) {
        self.of(peer).is_crowded.store(true, Ordering::Relaxed);
    }

    /// Whether waiting for a connection to this server has been in vain, and there still is none.
    pub fn is_crowded(&self, peer: &Peer) -> bool {
        let pool = self.of(peer);
        let has_none = pool.permits.available_permits() == 0;
        pool.is_crowded.fetch_and(has_none, Ordering::Relaxed) && has_none
    }

    /// Takes a turn at a server whose record says how many messages a minute it gets, or says when there is one. It is
    /// one of so many relays that share them: each has the same part, whatever comes to it.
    pub fn take_turn(&self, peer: &Peer, turn: Turn, relays: u32, now: OffsetDateTime) -> Result<(), OffsetDateTime> {
        let Some(per_minute) = peer.limits.messages_per_minute else { return Ok(()) };
        lock(&self.of(peer).pace).take((per_minute / relays.max(1)).max(1), turn, now)
    }

    /// Mail that waits for this gateway asks for its turns anew: what it was promised would only leave gaps.
    pub fn promise_turns_anew(&self, organization: OrganizationId, gateway: GatewayId) {
        for (key, pool) in &*lock(&self.peers) {
            if matches!(key, PeerKey::Gateway(of, id, _) if (*of, *id) == (organization, gateway)) {
                lock(&pool.pace).promise_anew();
            }
        }
    }

    /// How many connections this server is given now.
    pub fn limit(&self, peer: &Peer) -> usize {
        lock(&self.of(peer).window).limit()
    }

    fn of(&self, peer: &Peer) -> Arc<PeerPool> {
        let mut peers = lock(&self.peers);
        if let Some(pool) = peers.get(&peer.key) {
            return pool.clone();
        }
        let pool = Arc::new(PeerPool::new(Window::new(peer.limits.connections)));
        peers.insert(peer.key.clone(), pool.clone());
        pool
    }

    /// Closes what was idle for a minute at `now`, and forgets servers that nobody uses.
    pub async fn sweep(&self, now: Instant, at: OffsetDateTime) {
        let mut closing = Vec::new();
        lock(&self.peers).retain(|_, pool| {
            let mut idle = pool.idle();
            let stale = idle.iter().take_while(|(_, since)| now.saturating_duration_since(*since) >= IDLE).count();
            closing.extend(idle.drain(..stale).map(|(connection, _)| connection));
            !idle.is_empty() || Arc::strong_count(pool) > 1 || !lock(&pool.pace).is_over(at)
        });
        for connection in closing {
            connection.quit().await;
        }
    }

    /// Closes every idle connection.
    pub async fn close(&self) {
        let pools: Vec<_> = lock(&self.peers).values().cloned().collect();
        for pool in pools {
            let idle = std::mem::take(&mut *pool.idle());
            for (connection, _) in idle {
                connection.quit().await;
            }
        }
    }
}

impl PeerPool {
    fn new(window: Window) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(window.limit())),
            surplus: AtomicUsize::new(0),
            window: Mutex::new(window),
            waiting: AtomicUsize::new(0),
            turns: Turns::default(),
            is_crowded: AtomicBool::new(false),
            idle: Mutex::default(),
            pace: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        lock(&self.idle)
    }

    /// How many slots are out.
    fn in_use(&self, window: &Window) -> usize {
        let surplus = self.surplus.load(Ordering::Acquire);
        (window.limit() + surplus).saturating_sub(self.permits.available_permits())
    }

    fn grow(&self) {
        let mut window = lock(&self.window);
        let before = window.limit();
        *window = window.taken_while_others_wait();
        for _ in before..window.limit() {
            // One that was to go may stay instead.
            if !self.pay_surplus() {
                self.permits.add_permits(1);
            }
        }
    }

    fn shrink(&self, now: Instant) {
        let mut window = lock(&self.window);
        let (before, in_use) = (window.limit(), self.in_use(&window));
        *window = window.pushed_back(in_use, now);
        let fewer = before.saturating_sub(window.limit());
        let forgotten = self.permits.forget_permits(fewer);
        self.surplus.fetch_add(fewer - forgotten, Ordering::AcqRel);
        // What is open and idle counts for the server as well.
        let mut idle = self.idle();
        let too_many = idle.len().saturating_sub(window.limit().saturating_sub(in_use));
        for (connection, _) in idle.drain(..too_many) {
            tokio::spawn(connection.quit());
        }
    }

    /// Takes one off the surplus, if there is any.
    fn pay_surplus(&self) -> bool {
        let less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }
}

impl Slot {
    /// A warm connection that looks open.
    pub fn warm(&self) -> Option<Connection> {
        loop {
            let (connection, since) = self.pool.idle().pop()?;
            if connection.looks_alive() && since.elapsed() < IDLE {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next message, unless it has carried what one may carry or there are too many.
    pub fn keep(&self, connection: Connection) {
        if !connection.looks_alive() {
            return;
        }
        let is_one_too_many = self.pool.surplus.load(Ordering::Acquire) > 0;
        if is_one_too_many || connection.messages >= self.messages_per_connection {
            // Whoever waits for the next connection does not wait for this one's farewell.
            tokio::spawn(connection.quit());
        } else {
            self.pool.idle().push((connection, Instant::now()));
        }
    }

    /// The server has taken a message.
    pub fn taken(&self) {
        if self.pool.waiting.load(Ordering::Relaxed) > 0 {
            self.pool.grow();
        }
    }

    /// The server says that it has too much.
    pub fn pushed_back(&self) {
        self.pool.shrink(Instant::now());
    }

    /// Whether others have connections to this server at this moment: it is there, and has too many of ours.
    pub fn has_company(&self) -> bool {
        let in_use = self.pool.in_use(&lock(&self.pool.window));
        in_use > 1 || !self.pool.idle().is_empty()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.pool.surplus.load(Ordering::Acquire) > 0
            && self.pool.pay_surplus()
        {
            permit.forget();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
