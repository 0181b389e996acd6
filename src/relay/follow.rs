//! Keeps the routing table as the store has it (promise: a saved change is live at once). Listens before it
//! loads, applies every change, and confirms a revision once no route can be decided from older facts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use sqlx::{
    Acquire, ConnectOptions, PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{outbound_address, routing_table::RoutingTable};
use crate::{
    mail::id::{RelayId, Revision},
    store::{
        self,
        relay::{SetUp, SignedOn},
    },
};

/// What `commit_change` notifies.
const CHANNEL: &str = "outgate_change";
/// How often the relay says that it is alive and asks whether it missed a notification.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// After this long without an answer the store counts as gone.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long loading all facts may take.
const LOADING_WAIT: Duration = Duration::from_secs(120);
/// How long a relay that starts waits for its name: one that was killed leaves it within moments.
const NAME_WAIT: Duration = Duration::from_secs(5);
/// Half a minute after a relay's machine has vanished the store ends its connection, and its name is free
/// again; the default of most systems is two hours.
const KEEPALIVE: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "15"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];
/// Between two tries to reach the store.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("a relay named “{0}” is running already; give this one another name, or stop that one first")]
    NameTaken(String),
    #[error("synchronous_commit is off in the store: mail that was accepted could be lost; set it to on")]
    CommitsMayBeLost,
}

/// Why following broke off.
enum BrokenOff {
    NameTaken,
    /// Another relay has signed on under the name meanwhile: what it confirms is not true of this one.
    Superseded,
    CommitsMayBeLost,
    Disconnected,
    Store(sqlx::Error),
    NoAnswer,
}

impl From<sqlx::Error> for BrokenOff {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

impl From<tokio::time::error::Elapsed> for BrokenOff {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::NoAnswer
    }
}

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NameTaken => f.write_str("the relay's name is still taken"),
            Self::Superseded => f.write_str("another relay has taken over the name"),
            Self::CommitsMayBeLost => f.write_str("synchronous_commit is off"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Store(error) => error.fmt(f),
            Self::NoAnswer => f.write_str("no answer"),
        }
    }
}

/// As what a relay signs on.
#[derive(Debug, Clone, Copy)]
pub struct KnownAs<'a> {
    pub name: &'a str,
    /// Where the operator says that its connections are seen to come from; none: from this machine's own addresses.
    pub outbound: &'a [IpNet],
    /// It passes messages on while their client waits.
    pub hands_over: bool,
}

/// Follows the store until `stop`, then signs off. The id under which the relay signed on goes to
/// `signed_on`; it stays the same however often the store is lost and found again.
///
/// The pool only says how to connect: a connection of its own listens, asks and holds the name.
pub async fn run(
    known_as: KnownAs<'_>,
    pool: &PgPool,
    table: &Arc<RoutingTable>,
    signed_on: &watch::Sender<Option<RelayId>>,
    stop: CancellationToken,
) -> Result<(), FollowError> {
    let name = known_as.name;
    let mut follower = Follower { known_as, table, signed_on, as_what: None, applied: None };
    let mut backoff = BACKOFF[0];
    loop {
        let broken_off = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            connected = follower.connect(pool) => match connected {
                Ok((own_pool, mut listener)) => {
                    backoff = BACKOFF[0];
                    let ended = follower.follow(&mut listener, &stop).await;
                    drop(listener);
                    close(own_pool).await;
                    match ended {
                        Ok(()) => return Ok(()),
                        Err(broken_off) => broken_off,
                    }
                }
                Err(broken_off) => broken_off,
            },
        };
        match broken_off {
            BrokenOff::CommitsMayBeLost => return Err(FollowError::CommitsMayBeLost),
            BrokenOff::Superseded => return Err(FollowError::NameTaken(name.to_owned())),
            BrokenOff::NameTaken if follower.as_what.is_none() => return Err(FollowError::NameTaken(name.to_owned())),
            _ => {}
        }
        tracing::warn!(relay = name, %broken_off, "lost the store; routing on what is known");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF[1]);
    }
}

/// Ends the listening connection, and with it the lock on the name.
async fn close(pool: PgPool) {
    // A connection that no longer answers is left to the operating system.
    let _ = timeout(ANSWER_WAIT, pool.close()).await;
}

struct Follower<'a> {
    known_as: KnownAs<'a>,
    table: &'a RoutingTable,
    signed_on: &'a watch::Sender<Option<RelayId>>,
    /// How it has signed on the last time.
    as_what: Option<SignedOn>,
    /// The revision that the table has.
    applied: Option<Revision>,
}

impl Follower<'_> {
    /// A connection that listens and has the name. Listening comes before loading, so that no
    /// change falls between the two.
    async fn connect(&mut self, pool: &PgPool) -> Result<(PgPool, PgListener), BrokenOff> {
        // Loading takes as long as there are facts: that is no slow statement to be warned of.
        let options = (*pool.connect_options()).clone().disable_statement_logging().options(KEEPALIVE);
        let own_pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(ANSWER_WAIT)
            .connect_with(options)
            .await?;
        let mut listener = PgListener::connect_with(&own_pool).await?;
        // A connection made again by itself would lack the lock, and notifications would be missing.
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        if self.as_what.is_none() {
            // Asked of the pool's own connections: they may be set otherwise than the server.
            if !timeout(ANSWER_WAIT, store::relay::keeps_commits(pool)).await?? {
                return Err(BrokenOff::CommitsMayBeLost);
            }
            if !timeout(ANSWER_WAIT, store::relay::survives_power_loss(&mut listener)).await?? {
                tracing::warn!("fsync is off in the store: a loss of power would lose mail that was accepted");
            }
        }
        timeout(ANSWER_WAIT, listener.listen(CHANNEL)).await??;
        self.take_name(&mut listener).await?;
        Ok((own_pool, listener))
    }

    async fn take_name(&self, listener: &mut PgListener) -> Result<(), BrokenOff> {
        let give_up = Instant::now() + NAME_WAIT;
        while !timeout(ANSWER_WAIT, store::relay::try_lock_name(&mut *listener, self.known_as.name)).await?? {
            if Instant::now() > give_up {
                return Err(self.why_name_taken(listener).await?);
            }
            tokio::time::sleep(BACKOFF[0]).await;
        }
        Ok(())
    }

    /// By a connection of this relay that the store has not noticed to be gone, or by another relay.
    async fn why_name_taken(&self, listener: &mut PgListener) -> Result<BrokenOff, BrokenOff> {
        let Some(signed_on) = self.as_what else { return Ok(BrokenOff::NameTaken) };
        let superseded =
            timeout(ANSWER_WAIT, store::relay::is_superseded(listener, self.known_as.name, signed_on)).await??;
        Ok(if superseded { BrokenOff::Superseded } else { BrokenOff::NameTaken })
    }

    /// From here on the relay counts: a change is live only when it has confirmed it. A relay that
    /// has not loaded yet has confirmed nothing, and accepts nothing.
    async fn sign_on(&mut self, listener: &mut PgListener) -> Result<(), BrokenOff> {
        let id = self.id().unwrap_or_default();
        let applied = self.applied.unwrap_or(Revision(0));
        let signed_on =
            timeout(ANSWER_WAIT, store::relay::sign_on(&mut *listener, self.known_as.name, id, applied)).await??;
        self.as_what = Some(signed_on);
        let id = signed_on.id;
        timeout(ANSWER_WAIT, store::relay::tell_set_up(listener, id, &self.set_up())).await??;
        self.signed_on.send_if_modified(|signed_on| signed_on.replace(id) != Some(id));
        Ok(())
    }

    fn set_up(&self) -> SetUp {
        let KnownAs { outbound, hands_over, .. } = self.known_as;
        let outbound_addresses =
            if outbound.is_empty() { outbound_address::of_this_machine() } else { outbound.to_vec() };
        SetUp { outbound_addresses, addresses_are_set: !outbound.is_empty(), hands_over }
    }

    async fn follow(&mut self, listener: &mut PgListener, stop: &CancellationToken) -> Result<(), BrokenOff> {
        self.sign_on(listener).await?;
        self.catch_up(listener).await?;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.sign_off(listener).await,
                notified = listener.try_recv() => {
                    if notified?.is_none() {
                        return Err(BrokenOff::Disconnected);
                    }
                    // One reading answers all that have come so far.
                    while listener.next_buffered().is_some() {}
                    self.catch_up(listener).await?;
                }
                _ = heartbeat.tick() => self.beat(listener).await?,
            }
        }
    }

    /// Brings the table to the store's latest revision, then confirms it.
    async fn catch_up(&mut self, listener: &mut PgListener) -> Result<(), BrokenOff> {
        let asked_at = Instant::now();
        let applied = self.applied;
        let mut revision = match applied {
            None => self.load_all(listener).await?,
            Some(applied) => self.load_changes(listener, applied).await?,
        };
        let went_back = applied.is_some_and(|applied| revision < applied);
        if went_back {
            // As after a restart from a copy that lags behind: what was confirmed may never have been.
            tracing::warn!(%revision, ?applied, "the store has lost changes, reading all facts again");
            revision = self.load_all(listener).await?;
        }
        self.applied = Some(revision);
        self.table.mark_current(revision, asked_at);
        if went_back { self.sign_on(listener).await } else { self.confirm(listener, revision).await }
    }

    async fn load_all(&self, listener: &mut PgListener) -> Result<Revision, BrokenOff> {
        let loading = store::routing_facts::load_all_across_tenants(listener.acquire().await?);
        let (revision, facts) = timeout(LOADING_WAIT, loading).await??;
        tracing::info!(%revision, addresses = facts.address_count(), "routing facts loaded");
        self.table.change(|known| *known = facts);
        Ok(revision)
    }

    async fn load_changes(&self, listener: &mut PgListener, applied: Revision) -> Result<Revision, BrokenOff> {
        let loading = store::routing_facts::load_changes_across_tenants(listener.acquire().await?, applied);
        let Some((revision, changes)) = timeout(LOADING_WAIT, loading).await?? else {
            tracing::info!("an organization was deleted, reading all facts again");
            return self.load_all(listener).await;
        };
        self.table.change(|known| changes.apply(known));
        Ok(revision)
    }

    async fn confirm(&mut self, listener: &mut PgListener, revision: Revision) -> Result<(), BrokenOff> {
        let Some(id) = self.id() else { return Ok(()) };
        let known = timeout(ANSWER_WAIT, store::relay::confirm(&mut *listener, id, revision)).await??;
        if known { Ok(()) } else { self.sign_on(listener).await }
    }

    /// Says that the relay is alive; a notification that got lost shows here.
    async fn beat(&mut self, listener: &mut PgListener) -> Result<(), BrokenOff> {
        let Some(id) = self.id() else { return Ok(()) };
        let asked_at = Instant::now();
        let heard = timeout(ANSWER_WAIT, store::relay::heartbeat(&mut *listener, id)).await??;
        if let Some(heard) = heard {
            self.table.set_relays(u32::try_from(heard.relays).unwrap_or(1));
        }
        match heard.map(|heard| heard.revision) {
            None => self.sign_on(listener).await,
            Some(latest) if Some(latest) == self.applied => {
                self.table.mark_current(latest, asked_at);
                // While nothing else is to be done.
                Ok(timeout(ANSWER_WAIT, store::relay::forget_confirmations(&mut *listener, id)).await??)
            }
            Some(_) => self.catch_up(listener).await,
        }
    }

    fn id(&self) -> Option<RelayId> {
        *self.signed_on.borrow()
    }

    async fn sign_off(&self, listener: &mut PgListener) -> Result<(), BrokenOff> {
        if let Some(id) = self.id() {
            timeout(ANSWER_WAIT, store::relay::sign_off(listener, id)).await??;
        }
        Ok(())
    }
}
