//! Warm connections, kept by gateway and revision, and never more at once than a server is given.
//! Between the hand-over, which borrows from it, and the dialer, which it asks for new ones.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    connection::Connection,
    peer::{Peer, PeerKey},
};

/// Connections to one gateway at once.
const PER_GATEWAY: usize = 20;
/// Connections to one server of a recipient at once: it never asked for us.
const PER_RECIPIENTS_SERVER: usize = 5;
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
    size: usize,
    /// Somebody has waited for a connection in vain, and none has been free since.
    is_crowded: AtomicBool,
    /// The most recently used last.
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// The right to have one connection to a server.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<PeerPool>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// Waits until one more connection to this server may be used.
    pub async fn slot(&self, peer: &Peer) -> Slot {
        let pool = self.of(peer);
        loop {
            // The semaphore is never closed.
            if let Ok(permit) = pool.permits.clone().acquire_owned().await {
                return Slot { pool, _permit: permit };
            }
        }
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

    fn of(&self, peer: &Peer) -> Arc<PeerPool> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = peers.get(&peer.key) {
            return pool.clone();
        }
        let size = if peer.is_recipients_server() { PER_RECIPIENTS_SERVER } else { PER_GATEWAY };
        let pool = PeerPool {
            permits: Arc::new(Semaphore::new(size)),
            size,
            is_crowded: AtomicBool::new(false),
            idle: Mutex::default(),
        };
        peers.entry(peer.key.clone()).or_insert_with(|| Arc::new(pool)).clone()
    }

    /// Closes what was idle for a minute at `now`, and forgets servers that nobody uses.
    pub async fn sweep(&self, now: Instant) {
        let mut closing = Vec::new();
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, pool| {
            let mut idle = pool.idle();
            let stale = idle.iter().take_while(|(_, since)| now.saturating_duration_since(*since) >= IDLE).count();
            closing.extend(idle.drain(..stale).map(|(connection, _)| connection));
            let unused = idle.is_empty() && pool.permits.available_permits() == pool.size;
            !unused || Arc::strong_count(pool) > 1
        });
        for connection in closing {
            connection.quit().await;
        }
    }

    /// Closes every idle connection.
    pub async fn close(&self) {
        let pools: Vec<_> = self.peers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for pool in pools {
            let idle = std::mem::take(&mut *pool.idle());
            for (connection, _) in idle {
                connection.quit().await;
            }
        }
    }
}

impl PeerPool {
    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Keeps a connection for the next message.
    pub fn keep(&self, connection: Connection) {
        if connection.looks_alive() {
            self.pool.idle().push((connection, Instant::now()));
        }
    }
}
