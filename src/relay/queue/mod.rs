//! Waiting mail: committed to PostgreSQL before anybody hears 250, delivered from there by whichever
//! relay claims it. A step is claim, route, attempt, record.

mod approval_notice;
mod attempt;
mod claim;
mod clock;
mod commit;
mod direct;
mod gateway_notice;
mod lease;
mod limit_notice;
mod permit;
mod record;
mod room;
mod run;
mod target;
mod verdict;

use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use self::clock::{ClockWatch, Jump};
pub use self::{
    attempt::conclude,
    commit::NotCommitted,
    record::{Recorded, after, log_if_ambiguous, told_of},
    room::Full,
    verdict::{Attempted, Verdict, of_answers, of_failed, of_transaction, paced, waiting},
};
use self::{
    lease::{HeldLease, Leases, Reach},
    permit::{AttemptPermit, Permits},
    room::Room,
};
use super::{
    handover::{Handover, source::Source},
    message::Content,
    routing_table::RoutingTable,
    settings::QueueLimits,
    trace::Trace,
};
use crate::{
    mail::{
        envelope::{MailParameters, Recipient},
        id::{OrganizationId, QueueId, RelayId},
        short_id::MessageLinks,
    },
    policy::{facts::Found, limit::Exceeded, retry::Schedule, routing::PlatformDefault},
    store::{
        self,
        queue::{Lease, Leased, QueuedMessage, State},
    },
};

/// Attempts at once, over all gateways.
const ATTEMPTS: usize = 200;

/// What a queue has to know about the relay that works on it.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    pub relay: RelayId,
    /// Our own name, in notifications.
    pub hostname: String,
    /// How messages are named to people there.
    pub links: MessageLinks,
    /// Where notifications go, and mail without a gateway.
    pub default: PlatformDefault,
    /// 25, except in tests.
    pub mx_port: u16,
    /// How long a claim holds before another relay may take the message; renewed while the attempt goes on.
    pub lease: std::time::Duration,
    /// What one organization may have waiting.
    pub limits: QueueLimits,
    pub schedule: Schedule,
}

/// The queue as one relay works on it. Clones are the same queue.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    db: PgPool,
    settings: QueueSettings,
    table: Arc<RoutingTable>,
    handover: Arc<Handover>,
    trace: Arc<Trace>,
    commits: commit::Commits,
    leases: Arc<Leases>,
    /// A std lock: held for a look only, never across an await.
    reach: Mutex<Reach>,
    permits: Arc<Permits>,
    room: Room,
    /// The facts by which it was last asked whose mail leads elsewhere now.
    asked_by: AtomicU64,
    clock: ClockWatch,
    tasks: TaskTracker,
    /// What is under way is not gone on with: the relay ends.
    abandoned: CancellationToken,
    /// Something may be due now.
    wake: Notify,
    /// Something may be due for which there was no place: the end of an attempt makes one.
    wants_places: AtomicBool,
}

/// When a message beyond limits may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    At(OffsetDateTime),
    /// So much waits already that it would be too late.
    None {
        /// When there is room for it.
        room_at: OffsetDateTime,
    },
}

/// A message with its bytes.
#[derive(Debug, Clone)]
pub struct Entry {
    pub message: QueuedMessage,
    pub source: Source,
    /// Who submitted it; not known any more of what is taken up from the queue.
    pub client: Option<IpAddr>,
    /// The id under which it passed here before; known as long.
    pub first_pass: Option<QueueId>,
}

impl Entry {
    /// A message of our own to one recipient, with a null reverse-path: nobody answers it (RFC 5321 §4.5.5).
    pub(super) fn of_ours(
        organization: OrganizationId,
        id: QueueId,
        to: String,
        content: Vec<u8>,
        smtputf8: bool,
        (now, expires_at): (OffsetDateTime, OffsetDateTime),
    ) -> Self {
        let parameters = MailParameters { eight_bit: !content.is_ascii(), smtputf8, ..MailParameters::default() };
        let message = QueuedMessage {
            organization,
            id,
            state: State::Waiting,
            sender: None,
            sender_account: None,
            sender_domain: None,
            reverse_path: String::new(),
            recipients: vec![Recipient::waiting(to)],
            parameters,
            size: content.len() as i64,
            waits_for: None,
            waits_by: None,
            held_because: None,
            throttled_until: None,
            choice: None,
            retry_wished_at: None,
            attempts: 0,
            last_reply: None,
            delay_noticed: false,
            accepted_at: now,
            next_attempt_at: now,
            expires_at,
            lease: None,
        };
        Self { message, source: Source::Content(Content::Memory(content.into())), client: None, first_pass: None }
    }
}

impl Queue {
    /// Inside a runtime: commits are gathered by a task that ends with the queue.
    pub fn new(db: PgPool, settings: QueueSettings, table: Arc<RoutingTable>, handover: Arc<Handover>) -> Self {
        let commits = commit::Commits::start(&db);
        let room = Room::new(settings.limits);
        let trace = Arc::new(Trace::new(settings.relay));
        let shared = Shared {
            db,
            settings,
            table,
            handover,
            trace,
            commits,
            leases: Arc::default(),
            reach: Mutex::default(),
            permits: Arc::new(Permits::new(ATTEMPTS)),
            room,
            asked_by: AtomicU64::default(),
            clock: ClockWatch::default(),
            tasks: TaskTracker::new(),
            abandoned: CancellationToken::new(),
            wake: Notify::new(),
            wants_places: AtomicBool::new(true),
        };
        Self { shared: Arc::new(shared) }
    }

    /// One step: takes what is due at `now`, attempts it, and records what became of it. Returns how
    /// many messages were attempted.
    pub async fn step(&self, now: OffsetDateTime) -> store::Result<usize> {
        let claimed = self.claim(ATTEMPTS, now).await?;
        let count = claimed.len();
        let mut attempts = JoinSet::new();
        for entry in claimed {
            let queue = self.clone();
            let held = self.hold(&entry.message, now);
            attempts.spawn(async move {
                queue.work(entry, now).await;
                drop(held);
            });
        }
        attempts.join_all().await;
        Ok(count)
    }

    /// Waits until nothing is under way that was begun here, outside a step.
    pub async fn settled(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.tasks.reopen();
    }

    /// What it was told about this relay.
    pub fn settings(&self) -> &QueueSettings {
        &self.shared.settings
    }

    /// Where it is said what happens to messages.
    pub fn trace(&self) -> Arc<Trace> {
        Arc::clone(&self.shared.trace)
    }

    /// Gives a message its turn at each limit that it goes beyond: the last of them. Where it would not leave within
    /// `latest` at one of them, it takes none at the others either.
    pub(super) async fn turn_at_limits(
        &self,
        organization: OrganizationId,
        exceeded: &[Exceeded],
        now: OffsetDateTime,
        latest: OffsetDateTime,
        mut note: impl FnMut(&Exceeded, OffsetDateTime),
    ) -> store::Result<Turn> {
        // In one order, so that two messages wait for one another and never both.
        let mut exceeded: Vec<&Exceeded> = exceeded.iter().collect();
        exceeded.sort_by(|one, other| {
            let key = |exceeded: &Exceeded| (exceeded.applied.subject.clone(), exceeded.applied.kind);
            key(one).cmp(&key(other))
        });
        let mut transaction = self.shared.db.begin().await?;
        let mut turns = Vec::with_capacity(exceeded.len());
        for exceeded in exceeded {
            let of = (organization, exceeded);
            match store::throttle::take_turn_across_tenants(&mut *transaction, of, now, latest).await? {
                Some(turn) => turns.push((exceeded, turn)),
                None => {
                    let turn = store::throttle::turn_across_tenants(&mut *transaction, of, now).await?;
                    return Ok(Turn::None { room_at: now + (turn - latest) });
                }
            }
        }
        transaction.commit().await?;
        turns.iter().for_each(|(exceeded, turn)| note(exceeded, *turn));
        Ok(Turn::At(turns.into_iter().map(|(_, turn)| turn).fold(now, OffsetDateTime::max)))
    }

    /// Holds what waits of a sender who is stopped, for whatever. Returns how many messages that were.
    pub(super) async fn hold_waiting(&self, sender: &Found, words: &str) -> store::Result<u64> {
        let of = (sender.account, sender.sender.domain());
        let held = (words, self.shared.settings.schedule.held_lifetime);
        store::throttle::hold_across_tenants(&self.shared.db, sender.organization, of, held).await
    }

    /// What organizations have waiting.
    pub(super) fn room(&self) -> &Room {
        &self.shared.room
    }

    /// Leave to attempt this message now; `None` if enough of its account's or its lane's are under way.
    pub(super) fn permit(&self, message: &QueuedMessage) -> Option<AttemptPermit> {
        self.shared.permits.take(message.lane(), message.sender_account)
    }

    /// Leases a message that is about to be committed to this relay, for so long or as long as leases last, and longer while
    /// the value is held. That counts from now: its client may have waited for a while since it was accepted.
    pub(super) fn lease(&self, message: &mut QueuedMessage, lasts: Option<time::Duration>) -> HeldLease {
        let now = OffsetDateTime::now_utc();
        let until = lasts.map_or_else(|| self.lease_end(now), |lasts| now + lasts + self.shared.clock.store_ahead());
        let token = Uuid::new_v4();
        message.lease = Some(Lease { relay: self.shared.settings.relay, token });
        message.next_attempt_at = until;
        self.shared.leases.hold(
            Leased { organization: message.organization, id: message.id, token },
            until,
            now + self.shared.clock.store_ahead(),
        )
    }

    /// Holds the lease of a claimed message.
    fn hold(&self, message: &QueuedMessage, now: OffsetDateTime) -> Option<HeldLease> {
        message.leased().map(|leased| {
            self.shared.leases.hold(leased, message.next_attempt_at, now + self.shared.clock.store_ahead())
        })
    }

    /// How the store could be reached of late.
    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.shared.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a lease that begins now ends, unless it is renewed: by the store's clock.
    pub(super) fn lease_end(&self, now: OffsetDateTime) -> OffsetDateTime {
        now + self.shared.settings.lease + self.shared.clock.store_ahead()
    }

    /// Attempts a committed message whose lease this relay holds, in the background.
    pub(super) fn attempt_now(
        &self,
        entry: Entry,
        held: Option<HeldLease>,
        permit: AttemptPermit,
        now: OffsetDateTime,
    ) {
        let queue = self.clone();
        self.shared.tasks.spawn(async move {
            let mut work = pin!(queue.work(entry, now));
            queue.shared.abandoned.run_until_cancelled(&mut work).await;
            drop((held, permit));
            if queue.shared.wants_places.load(Ordering::SeqCst) {
                queue.shared.wake.notify_one();
            }
        });
    }

    /// Goes on in the background with something that a committed message waits for, and records the outcome.
    pub(super) fn conclude<F>(&self, entry: Entry, held: HeldLease, now: OffsetDateTime, outcome: F)
    where
        F: Future<Output = Attempted> + Send + 'static,
    {
        let queue = self.clone();
        let started = Instant::now();
        self.shared.tasks.spawn(async move {
            let mut outcome = pin!(outcome);
            let Some(attempted) = queue.shared.abandoned.run_until_cancelled(&mut outcome).await else { return };
            queue.record(&entry, &attempted, now + started.elapsed()).await;
            drop(held);
        });
    }

    /// One claimed message: routed anew, attempted, recorded.
    async fn work(&self, entry: Entry, now: OffsetDateTime) {
        let started = Instant::now();
        let attempted = self.attempt(&entry, now).await;
        self.record(&entry, &attempted, now + started.elapsed()).await;
    }
}
