//! Gateway connections: one message is passed on at a time, over a warm connection, by the route
//! that holds once a connection is free. Knows no queue and no client.

pub mod connection;
pub mod dialer;
pub mod health;
pub mod peer;
pub mod pool;
mod reply_reader;
pub mod second_look;
mod sign_in;
pub mod source;
pub mod tls;
pub mod transaction;
mod transparency;
pub mod trouble;
pub mod turns;
pub mod witness;

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use self::{
    connection::{Connection, Through},
    dialer::Dialer,
    health::{Failing, Health, Leave},
    peer::Peer,
    peer::PeerKey,
    pool::{Pool, Slot},
    second_look::SecondLook,
    source::Source,
    transaction::Request,
    trouble::{Answer, Failure, Trouble},
};
use crate::{
    mail::Reply,
    policy::{
        connections::asks_for_fewer,
        fault::{self, Fault, Stage, fault, may_be_about_itself, takes_no_more_recipients},
        retry::BackOff,
    },
};

/// How long a server that nobody sends mail to may take to be reached.
const PROBING: Duration = Duration::from_secs(10 * 60);

/// Passes messages on. One for the whole relay: pool and health are shared by all.
pub struct Handover {
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
    health: Arc<Health>,
    second_look: Option<SecondLook>,
}

/// A gateway, and which of its backups is asked instead of it.
struct Asked {
    first: Peer,
    backup: Option<usize>,
}

impl Asked {
    fn peer(&self) -> &Peer {
        self.backup.map_or(&self.first, |place| &self.first.backups[place])
    }

    /// Whether that is the gateway which the route leads to now.
    fn is_what(&self, next: &Peer) -> bool {
        next.key == self.first.key && next.includes(&self.peer().key) && next.networks == self.first.networks
    }
}

/// How far a message has come that asks for its recipients.
#[derive(Debug, Clone, Copy)]
enum Progress {
    /// For a connection.
    Waiting,
    Dialing,
    Asking,
}

/// What a server said to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientAnswer {
    Accepted,
    /// Not now.
    Deferred(Reply),
    /// Never.
    Refused(Reply),
}

/// How far a message came before its bytes are sent.
pub enum Begun<R> {
    /// The route leads elsewhere, as the caller's decision said.
    Detour(R),
    /// The server is known to be failing; it was not asked.
    Failing(Peer, Failing),
    /// All connections were in use for as long as the caller had patience.
    Busy(Peer),
    /// The gateway gets so many messages a minute, and this one's turn is later.
    Paced(Peer, OffsetDateTime),
    /// At least one recipient is accepted, and the server waits for the message.
    Open(Box<Transaction>),
    /// No recipient is accepted.
    Answered(Peer, Through, Vec<RecipientAnswer>),
    Failed(Failed),
}

/// A transfer that ended without success for all its recipients.
#[derive(Debug)]
pub struct Failed {
    pub peer: Peer,
    /// The connection on which it failed, if there was one.
    pub through: Option<Through>,
    pub fault: Fault,
    pub stage: Stage,
    /// What the server said, or what we found out before asking it.
    pub reply: Option<Reply>,
    /// The reply is ours, not the server's.
    is_ours: bool,
    /// In one line, with whose words they are.
    pub reason: String,
    /// When a server that is at fault is asked again.
    pub until: Option<OffsetDateTime>,
}

/// A transaction whose recipients have their answers, waiting for the message.
pub struct Transaction {
    pub peer: Peer,
    /// In the order in which they were asked for.
    pub recipients: Vec<RecipientAnswer>,
    connection: Connection,
    slot: Slot,
    health: Arc<Health>,
    leave: Leave,
    /// When its bytes began to be sent.
    sending_since: Instant,
    clock: Clock,
    /// Nobody has tried the message before.
    is_first: bool,
}

/// What time it is, for something that began at a time that was passed in: attempts take minutes, and what is found out at
/// their end holds from then on. To the second.
#[derive(Debug, Clone, Copy)]
struct Clock {
    began_at: OffsetDateTime,
    since: Instant,
}

impl Clock {
    fn began(at: OffsetDateTime) -> Self {
        Self { began_at: at, since: Instant::now() }
    }

    fn now(self) -> OffsetDateTime {
        self.began_at + time::Duration::seconds(self.since.elapsed().as_secs().try_into().unwrap_or_default())
    }
}

/// What came of opening a connection.
enum Opened {
    /// The second: it was used before.
    Ready(Connection, bool),
    /// To be begun anew, with another server or another connection.
    Elsewhere,
    Failed(Failed),
}

impl Handover {
    pub fn new(dialer: Dialer, back_off: BackOff) -> Self {
        let health = Arc::new(Health::new(back_off));
        Self { dialer: Arc::new(dialer), pool: Arc::default(), health, second_look: None }
    }

    /// One that looks again when a gateway that has taken mail says what one says that does not know us.
    pub fn looking_again(self, second_look: SecondLook) -> Self {
        Self { second_look: Some(second_look), ..self }
    }

    /// Forgets, at `now`, what was not used for a day and is in no trouble: memory does not grow by every revision that
    /// a gateway ever had.
    pub fn forget_unused(&self, now: Instant) {
        self.health.forget_unused(now);
        self.dialer.known.forget_unused(now);
    }

    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Asks for the recipients. `route` is called again whenever time has passed, the last time right
    /// before MAIL, so that no transfer begins on a route that was changed meanwhile. Gives up after
    /// `patience`: nothing has been promised to anybody until the message's bytes are sent.
    pub async fn begin<R>(
        &self,
        request: Request<'_>,
        mut route: impl FnMut() -> Result<Peer, R>,
        patience: Duration,
        now: OffsetDateTime,
    ) -> Begun<R> {
        let mut asked = match route() {
            Ok(first) => Asked { first, backup: None },
            Err(detour) => return Begun::Detour(detour),
        };
        let clock = Clock::began(now);
        self.choose(&mut asked, now);
        // Known without waiting for a connection.
        if let Some(failing) = self.health.failing(&asked.peer().key).filter(|failing| !failing.may_be_asked(now)) {
            return Begun::Failing(asked.first, failing);
        }
        let mut progress = Progress::Waiting;
        let asking = self.ask(request, &mut route, &mut asked, &mut progress, clock);
        let stage = match (tokio::time::timeout(patience, asking).await, progress) {
            (Ok(begun), _) => return begun,
            (Err(_), Progress::Waiting) => {
                self.pool.waited_in_vain(asked.peer());
                return Begun::Busy(asked.first);
            }
            (Err(_), Progress::Dialing) => Stage::Connect,
            (Err(_), Progress::Asking) => Stage::Mail,
        };
        let failure = Failure::trouble(stage, Trouble::TimedOut(patience));
        Begun::Failed(failed(&self.health, asked.peer(), (failure, request.is_first()), clock.now()))
    }

    async fn ask<R>(
        &self,
        request: Request<'_>,
        route: &mut impl FnMut() -> Result<Peer, R>,
        asked: &mut Asked,
        progress: &mut Progress,
        clock: Clock,
    ) -> Begun<R> {
        let mut fresh = false;
        let mut has_turn_at = None;
        loop {
            *progress = Progress::Waiting;
            match self.admit(request, asked, &mut has_turn_at, clock.now()) {
                ControlFlow::Break(Some(begun)) => return begun,
                ControlFlow::Break(None) => continue,
                ControlFlow::Continue(()) => {}
            }
            let slot = self.pool.slot(asked.peer(), request.sender).await;
            *progress = Progress::Dialing;
            let leave = match self.health.leave(asked.peer(), clock.now()) {
                Ok(leave) => leave,
                Err(failing) => match self.has_another(asked, clock.now()) {
                    true => continue,
                    false => return Begun::Failing(asked.first.clone(), failing),
                },
            };
            let (mut connection, reused) = match self.open(asked, &slot, fresh, clock).await {
                Opened::Ready(connection, reused) => (connection, reused),
                Opened::Elsewhere => continue,
                Opened::Failed(failed) => return Begun::Failed(failed),
            };
            *progress = Progress::Asking;
            match route() {
                Ok(next) if asked.is_what(&next) => {}
                Ok(next) => {
                    slot.keep(connection);
                    asked.first = next;
                    self.choose(asked, clock.now());
                    continue;
                }
                Err(detour) => {
                    slot.keep(connection);
                    return Begun::Detour(detour);
                }
            }
            match connection.envelope(request).await {
                // It was closed while it was idle; nothing was promised on it.
                Err(failure) if reused && failure.is_dead_connection() => fresh = true,
                Err(failure) => {
                    if failure.asks_for_fewer() {
                        slot.pushed_back();
                    }
                    let failed = failed(&self.health, asked.peer(), (failure, request.is_first()), clock.now());
                    let failed = failed.on(&connection);
                    if let Some(begun) = self.unless_a_backup(asked, failed, clock.now()) {
                        return begun;
                    }
                }
                Ok(answers) => {
                    if asked.backup.is_some() {
                        self.health.stands_in(&asked.first, asked.peer());
                    }
                    let (peer, health) = (asked.peer().clone(), self.health.clone());
                    let is_first = request.is_first();
                    let transaction = Transaction::begun(peer, (connection, slot), (health, leave), clock, is_first);
                    return self.answered(transaction, answers, clock.now()).await;
                }
            }
        }
    }

    /// Whether a connection is to be waited for: not for a message that is too large, nor before it is its turn. `None`: who
    /// is asked is another one now.
    fn admit<R>(
        &self,
        request: Request<'_>,
        asked: &mut Asked,
        has_turn_at: &mut Option<PeerKey>,
        now: OffsetDateTime,
    ) -> ControlFlow<Option<Begun<R>>> {
        if let Some(refused) = self.too_large(request, asked.peer(), now) {
            return ControlFlow::Break(self.unless_a_backup(asked, refused, now));
        }
        let peer = asked.peer();
        if peer.limits.messages_per_minute.is_some() && has_turn_at.as_ref() != Some(&peer.key) {
            match self.pool.take_turn(peer, request.turn, request.relays, now) {
                Ok(()) => *has_turn_at = Some(peer.key.clone()),
                Err(turn) => return ControlFlow::Break(Some(Begun::Paced(peer.clone(), turn))),
            }
        }
        ControlFlow::Continue(())
    }

    /// A connection to who is asked: a warm one unless it has to be fresh.
    async fn open(&self, asked: &mut Asked, slot: &Slot, fresh: bool, clock: Clock) -> Opened {
        while !fresh && let Some(warm) = slot.warm() {
            if self.dialer.may_use(asked.peer(), warm.server()) {
                return Opened::Ready(warm, true);
            }
            tokio::spawn(warm.quit());
        }
        let dialed = Box::pin(self.dialer.dial(asked.peer())).await;
        let now = clock.now();
        match dialed {
            Ok(connection) => {
                self.connected(asked.peer(), &connection, now);
                Opened::Ready(connection, false)
            }
            // It is there, and has too many of ours: this one waits until another is free.
            Err(failure) if failure.asks_for_fewer() && slot.has_company() => {
                slot.pushed_back();
                Opened::Elsewhere
            }
            Err(failure) => {
                let failed = self.failed(asked.peer(), failure, now);
                let is_out_of_reach = failed.fault == Fault::Gateway && failed.stage < Stage::Mail;
                if is_out_of_reach && self.has_another(asked, now) { Opened::Elsewhere } else { Opened::Failed(failed) }
            }
        }
    }

    /// What a new connection tells of the server.
    fn connected(&self, peer: &Peer, connection: &Connection, now: OffsetDateTime) {
        let session = connection.tls_session();
        let ends_at = session.and_then(|session| tls::certificate_ends_at(session, peer));
        self.health.showed_certificate(peer, ends_at);
        self.health.spoke(peer, connection.is_encrypted(), now);
    }

    /// Chooses who is asked: the gateway itself, and while it is out of reach the first of its backups that is
    /// not. Then nobody waits to see whether the gateway is back: that is found out beside the mail.
    fn choose(&self, asked: &mut Asked, now: OffsetDateTime) {
        asked.backup = None;
        let first = &asked.first;
        if first.backups.is_empty() {
            return;
        }
        let Some(failing) = self.health.failing(&first.key).filter(Failing::is_out_of_reach) else { return };
        let is_usable = |backup: &Peer| self.health.failing(&backup.key).is_none_or(|it| it.may_be_probed(now));
        let Some(place) = first.backups.iter().position(is_usable) else { return };
        if failing.may_be_probed(now) {
            self.probe(first, now);
        }
        asked.backup = Some(place);
    }

    /// Whether somebody else can be asked now that one could not.
    fn has_another(&self, asked: &mut Asked, now: OffsetDateTime) -> bool {
        let one = asked.peer().key.clone();
        self.choose(asked, now);
        asked.backup.is_some() && asked.peer().key != one
    }

    /// What came of it, unless it is a backup that cannot take this message, as we know of it: that says nothing of the
    /// gateway. Then the next one is asked (`None`), or the gateway is waited for.
    fn unless_a_backup<R>(&self, asked: &mut Asked, failed: Failed, now: OffsetDateTime) -> Option<Begun<R>> {
        let Some(place) = asked.backup.filter(|_| failed.is_ours) else { return Some(Begun::Failed(failed)) };
        let first = &asked.first;
        let is_usable = |backup: &Peer| self.health.failing(&backup.key).is_none_or(|it| it.may_be_probed(now));
        asked.backup = (place + 1..first.backups.len()).find(|next| is_usable(&first.backups[*next]));
        let waited_for = self.health.failing(&first.key).filter(|_| asked.backup.is_none())?;
        Some(Begun::Failing(first.clone(), waited_for))
    }

    /// Finds out in the background whether a server can be reached again.
    fn probe(&self, peer: &Peer, now: OffsetDateTime) {
        let Ok(leave) = self.health.leave(peer, now) else { return };
        let (dialer, pool, health, peer) = (self.dialer.clone(), self.pool.clone(), self.health.clone(), peer.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let slot = pool.slot(&peer, None).await;
            match dialer.dial(&peer).await {
                Ok(connection) => {
                    health.spoke(&peer, connection.is_encrypted(), now + started.elapsed());
                    slot.keep(connection);
                    health.reached(&peer);
                }
                Err(failure) => drop(failed(&health, &peer, (failure, false), now + started.elapsed())),
            }
            drop(leave);
        });
    }

    /// Finds out whether a server that nobody sends mail to can be reached, and signed in to.
    pub async fn probe_quietly(&self, peer: &Peer, now: OffsetDateTime) {
        let Ok(leave) = self.health.leave(peer, now) else { return };
        let started = Instant::now();
        // As patient as mail, so that what is found is what mail would find; but not at each of its many steps.
        let Ok(dialed) = tokio::time::timeout(PROBING, self.dialer.dial(peer)).await else {
            return self.health.looked_at(peer);
        };
        match dialed {
            Ok(connection) => {
                self.connected(peer, &connection, now);
                connection.quit().await;
                self.health.reached_quietly(peer);
            }
            Err(failure) => {
                let failed = self.failed(peer, failure, now + started.elapsed());
                match failed.fault {
                    Fault::Gateway => self.health.failed_quietly(peer),
                    _ => self.health.looked_at(peer),
                }
            }
        }
        drop(leave);
    }

    /// A message that is larger than the gateway's record allows is not sent there to find out.
    fn too_large(&self, request: Request<'_>, peer: &Peer, now: OffsetDateTime) -> Option<Failed> {
        let refusal = transaction::fits(request.source.size(), peer.limits.largest_message?).err()?;
        let failure = Failure { stage: Stage::Mail, answer: Answer::Ours(refusal) };
        Some(self.failed(peer, failure, now))
    }

    async fn answered<R>(&self, mut transaction: Transaction, answers: Vec<Reply>, now: OffsetDateTime) -> Begun<R> {
        self.look_again(&mut transaction, &answers).await;
        let side = side(&transaction.peer, &self.health);
        let is_any_accepted = answers.iter().any(Reply::is_positive);
        let answer = |reply: Reply| match reply.is_positive() {
            true => RecipientAnswer::Accepted,
            // RFC 5321 §4.5.3.1.10: also where a server says it with a code that refuses for good.
            false if is_any_accepted && takes_no_more_recipients(&reply) => RecipientAnswer::Deferred(reply),
            false => match fault(Stage::Recipient, Some(&reply), side) {
                Fault::Recipient | Fault::Message => RecipientAnswer::Refused(reply),
                Fault::Gateway | Fault::Transient => RecipientAnswer::Deferred(reply),
            },
        };
        let against_us =
            answers.iter().find(|reply| fault(Stage::Recipient, Some(reply), side) == Fault::Gateway).cloned();
        if answers.iter().any(|reply| asks_for_fewer(Stage::Recipient, reply)) {
            transaction.slot.pushed_back();
        }
        let put_off = answers.first().cloned();
        transaction.recipients = answers.into_iter().map(answer).collect();
        if transaction.recipients.contains(&RecipientAnswer::Accepted) {
            return Begun::Open(Box::new(transaction));
        }
        let through = transaction.through();
        transaction.slot.keep(transaction.connection);
        let refused = transaction.recipients.iter().any(|answer| matches!(answer, RecipientAnswer::Refused(_)));
        if refused {
            self.health.decides(&transaction.peer);
        }
        if let Some(reply) = against_us.or(put_off).filter(|_| !refused) {
            let failure = Failure::reply(Stage::Recipient, reply);
            let failed = failed(&self.health, &transaction.peer, (failure, transaction.is_first), now);
            if failed.fault == Fault::Gateway {
                return Begun::Failed(Failed { through: Some(through), ..failed });
            }
        }
        Begun::Answered(transaction.peer, through, transaction.recipients)
    }

    /// A gateway that has taken mail and now refuses every recipient as a server does that does not know us: perhaps it
    /// does not any more, and then nothing that waits for it is refused.
    async fn look_again(&self, transaction: &mut Transaction, answers: &[Reply]) {
        let key = &transaction.peer.key;
        let (Some(second_look), PeerKey::Gateway(organization, ..)) = (&self.second_look, key) else { return };
        let unknown = fault::Peer::Gateway { has_accepted: false };
        let are_against_us =
            answers.iter().all(|reply| fault(Stage::Recipient, Some(reply), unknown) == Fault::Gateway);
        // On one that DATA was pipelined on for nobody, nothing more can be asked.
        if !are_against_us || transaction.connection.is_closing() || !self.health.may_have_changed_its_mind(key) {
            return;
        }
        if let Some(takes_others) = second_look.takes_others(&mut transaction.connection, *organization).await {
            self.health.looked_again(key, takes_others);
        }
    }

    fn failed(&self, peer: &Peer, failure: Failure, now: OffsetDateTime) -> Failed {
        failed(&self.health, peer, (failure, false), now)
    }
}

impl Failed {
    /// What the client of a refused message hears, with whose words they are.
    pub fn refusal(&self) -> Option<Reply> {
        let reply = self.reply.as_ref()?;
        let peer = self.peer.to_string();
        Some(if self.is_ours { reply.about(&peer) } else { reply.said_by(&peer) })
    }

    fn on(self, connection: &Connection) -> Self {
        Self { through: Some(connection.through()), ..self }
    }

    /// The server has the whole message and did not say whether it takes it: it may arrive twice.
    pub fn is_ambiguous(&self) -> bool {
        self.stage == Stage::Dot && self.reply.is_none()
    }

    /// There is no other server behind this address than ourselves.
    pub fn is_loop(&self) -> bool {
        self.stage < Stage::Mail && self.is_ours
    }

    /// The server refused the whole message in good order, and takes the next one on the same connection.
    pub fn is_answer_to_message(&self) -> bool {
        self.stage == Stage::Dot && self.reply.as_ref().is_some_and(|reply| reply.code != 421)
    }
}

impl Transaction {
    fn begun(
        peer: Peer,
        (connection, slot): (Connection, Slot),
        (health, leave): (Arc<Health>, Leave),
        clock: Clock,
        is_first: bool,
    ) -> Self {
        let (recipients, sending_since) = (Vec::new(), Instant::now());
        Self { peer, recipients, connection, slot, health, leave, sending_since, clock, is_first }
    }

    /// Sends the message; [`answer`](Self::answer) follows.
    pub async fn send(&mut self, source: &Source) -> Result<(), Failed> {
        self.sending_since = Instant::now();
        let sent = self.connection.send(source).await;
        sent.map_err(|failure| self.failed(failure))
    }

    /// The same, given up after `limit`: whoever waits for the answer does not do so for ever.
    pub async fn send_within(&mut self, limit: Duration, source: &Source) -> Result<(), Failed> {
        self.sending_since = Instant::now();
        let sent = tokio::time::timeout(limit, self.connection.send(source)).await;
        let sent = sent.unwrap_or_else(|_| Err(Failure::trouble(Stage::Content, Trouble::TimedOut(limit))));
        sent.map_err(|failure| self.failed(failure))
    }

    /// What the server says to the whole message. May be dropped while it waits and called again.
    pub async fn answer(&mut self) -> Result<Reply, Failed> {
        match self.connection.answer().await {
            Ok(reply) => {
                self.health.accepted(&self.peer, self.sending_since.elapsed());
                self.slot.taken();
                Ok(reply)
            }
            Err(failure) => {
                if failure.asks_for_fewer() {
                    self.slot.pushed_back();
                }
                Err(self.failed(failure))
            }
        }
    }

    fn failed(&self, failure: Failure) -> Failed {
        failed(&self.health, &self.peer, (failure, self.is_first), self.clock.now()).on(&self.connection)
    }

    /// Which server it is with.
    pub fn through(&self) -> Through {
        self.connection.through()
    }

    /// Whether the server tells senders what they asked to be told (RFC 3461).
    pub fn tells_senders(&self) -> bool {
        self.connection.extensions.dsn
    }

    /// Keeps the connection for the next message, after an answer. Without this it is closed, and
    /// whatever was sent of the message is void.
    pub fn finish(self) {
        self.slot.keep(self.connection);
        drop(self.leave);
    }
}

fn side(peer: &Peer, health: &Health) -> fault::Peer {
    match peer.is_recipients_server() {
        true => fault::Peer::RecipientsServer,
        false => fault::Peer::Gateway { has_accepted: health.has_accepted(&peer.key) },
    }
}

/// `is_first`: nobody has tried the message before.
fn failed(health: &Health, peer: &Peer, (failure, is_first): (Failure, bool), now: OffsetDateTime) -> Failed {
    let Failure { stage, answer } = failure;
    let side = side(peer, health);
    let is_ours = matches!(answer, Answer::Ours(_));
    let says_nothing = is_ours || matches!(&answer, Answer::Trouble(trouble) if trouble.is_ours());
    let (fault, reply, reason) = match answer {
        Answer::Reply(reply) => {
            (fault(stage, Some(&reply), side), Some(reply.clone()), format!("{peer} said: {reply}"))
        }
        Answer::Ours(reply) => (Fault::Message, Some(reply.clone()), format!("{peer}: {reply}")),
        // Our own trouble says nothing about the server.
        Answer::Trouble(trouble) if trouble.is_ours() => (Fault::Transient, None, trouble.to_string()),
        Answer::Trouble(trouble) if stage == Stage::Dot => {
            let reason = format!("{peer}: {trouble}; it may have taken the message, which then arrives twice");
            (fault(stage, None, side), None, reason)
        }
        Answer::Trouble(trouble) => (fault(stage, None, side), None, format!("{peer}: {trouble}")),
    };
    if matches!(fault, Fault::Message | Fault::Recipient) && !is_ours {
        health.decides(peer);
    }
    // What every message hears is about none of them.
    let is_put_off = fault == Fault::Transient && !says_nothing && may_be_about_itself(stage, reply.as_ref());
    let (fault, reason) = match is_put_off.then(|| health.put_off(peer, is_first, now)).flatten() {
        Some(0) => (Fault::Gateway, reason),
        Some(messages) => (Fault::Gateway, format!("{reason}; it puts everything off, {messages} messages in a row")),
        None => (fault, reason),
    };
    let until = (fault == Fault::Gateway).then(|| health.failed(peer, stage, &reason, now));
    Failed { peer: peer.clone(), through: None, fault, stage, reply, is_ours, reason, until }
}
