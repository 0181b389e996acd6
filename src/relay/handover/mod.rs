//! Gateway connections: one message is passed on at a time, over a warm connection, by the route
//! that holds once a connection is free. Knows no queue and no client.

pub mod connection;
pub mod dialer;
pub mod health;
pub mod peer;
pub mod pool;
mod reply_reader;
mod sign_in;
pub mod source;
pub mod tls;
pub mod transaction;
mod transparency;
pub mod trouble;

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;

use self::{
    connection::Connection,
    dialer::Dialer,
    health::{Failing, Health, Leave},
    peer::Peer,
    pool::{Pool, Slot},
    source::Source,
    transaction::Request,
    trouble::{Answer, Failure, Trouble},
};
use crate::{
    mail::Reply,
    policy::fault::{self, Fault, Stage, fault},
};

/// Passes messages on. One for the whole relay: pool and health are shared by all.
pub struct Handover {
    dialer: Dialer,
    pool: Pool,
    health: Arc<Health>,
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
    /// At least one recipient is accepted, and the server waits for the message.
    Open(Box<Transaction>),
    /// No recipient is accepted.
    Answered(Peer, Vec<RecipientAnswer>),
    Failed(Failed),
}

/// A transfer that ended without success for all its recipients.
#[derive(Debug)]
pub struct Failed {
    pub peer: Peer,
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
}

impl Handover {
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, pool: Pool::default(), health: Arc::default() }
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
        let mut peer = match route() {
            Ok(peer) => peer,
            Err(detour) => return Begun::Detour(detour),
        };
        // Known without waiting for a connection.
        if let Some(failing) = self.health.failing(&peer.key).filter(|failing| !failing.may_be_asked(now)) {
            return Begun::Failing(peer, failing);
        }
        let mut has_slot = false;
        let asking = self.ask(request, &mut route, &mut peer, &mut has_slot, now);
        match tokio::time::timeout(patience, asking).await {
            Ok(begun) => begun,
            Err(_) if !has_slot => {
                self.pool.waited_in_vain(&peer);
                Begun::Busy(peer)
            }
            Err(_) => {
                let failure = Failure::trouble(Stage::Mail, Trouble::TimedOut(patience));
                Begun::Failed(self.failed(&peer, failure, now))
            }
        }
    }

    async fn ask<R>(
        &self,
        request: Request<'_>,
        route: &mut impl FnMut() -> Result<Peer, R>,
        peer: &mut Peer,
        has_slot: &mut bool,
        now: OffsetDateTime,
    ) -> Begun<R> {
        let mut fresh = false;
        loop {
            *has_slot = false;
            let slot = self.pool.slot(peer).await;
            *has_slot = true;
            let leave = match self.health.leave(peer, now) {
                Ok(leave) => leave,
                Err(failing) => return Begun::Failing(peer.clone(), failing),
            };
            let warm = if fresh { None } else { slot.warm() };
            let reused = warm.is_some();
            let mut connection = match warm {
                Some(connection) => connection,
                None => match self.dialer.dial(peer).await {
                    Ok(connection) => connection,
                    Err(failure) => return Begun::Failed(self.failed(peer, failure, now)),
                },
            };
            match route() {
                Ok(next) if next.key == peer.key => {}
                Ok(next) => {
                    slot.keep(connection);
                    *peer = next;
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
                Err(failure) => return Begun::Failed(self.failed(peer, failure, now)),
                Ok(answers) => {
                    let health = self.health.clone();
                    let transaction =
                        Transaction { peer: peer.clone(), recipients: vec![], connection, slot, health, leave };
                    return self.answered(transaction, answers, now);
                }
            }
        }
    }

    fn answered<R>(&self, mut transaction: Transaction, answers: Vec<Reply>, now: OffsetDateTime) -> Begun<R> {
        let side = side(&transaction.peer, &self.health);
        let answer = |reply: Reply| match reply.is_positive() {
            true => RecipientAnswer::Accepted,
            false => match fault(Stage::Recipient, Some(&reply), side) {
                Fault::Recipient | Fault::Message => RecipientAnswer::Refused(reply),
                Fault::Gateway | Fault::Transient => RecipientAnswer::Deferred(reply),
            },
        };
        let against_us =
            answers.iter().find(|reply| fault(Stage::Recipient, Some(reply), side) == Fault::Gateway).cloned();
        transaction.recipients = answers.into_iter().map(answer).collect();
        if transaction.recipients.contains(&RecipientAnswer::Accepted) {
            return Begun::Open(Box::new(transaction));
        }
        transaction.slot.keep(transaction.connection);
        let refused = transaction.recipients.iter().any(|answer| matches!(answer, RecipientAnswer::Refused(_)));
        match against_us {
            Some(reply) if !refused => {
                let failure = Failure::reply(Stage::Recipient, reply);
                Begun::Failed(self.failed(&transaction.peer, failure, now))
            }
            _ => Begun::Answered(transaction.peer, transaction.recipients),
        }
    }

    fn failed(&self, peer: &Peer, failure: Failure, now: OffsetDateTime) -> Failed {
        failed(&self.health, peer, failure, now)
    }
}

impl Failed {
    /// What the client of a refused message hears, with whose words they are.
    pub fn refusal(&self) -> Option<Reply> {
        let reply = self.reply.as_ref()?;
        let peer = self.peer.to_string();
        Some(if self.is_ours { reply.about(&peer) } else { reply.said_by(&peer) })
    }

    /// The server refused the whole message in good order, and takes the next one on the same connection.
    pub fn is_answer_to_message(&self) -> bool {
        self.stage == Stage::Dot && self.reply.as_ref().is_some_and(|reply| reply.code != 421)
    }
}

impl Transaction {
    /// Sends the message; [`answer`](Self::answer) follows.
    pub async fn send(&mut self, source: &Source, now: OffsetDateTime) -> Result<(), Failed> {
        let sent = self.connection.send(source).await;
        sent.map_err(|failure| failed(&self.health, &self.peer, failure, now))
    }

    /// The same, given up after `limit`: whoever waits for the answer does not do so for ever.
    pub async fn send_within(&mut self, limit: Duration, source: &Source, now: OffsetDateTime) -> Result<(), Failed> {
        let sent = tokio::time::timeout(limit, self.connection.send(source)).await;
        let sent = sent.unwrap_or_else(|_| Err(Failure::trouble(Stage::Content, Trouble::TimedOut(limit))));
        sent.map_err(|failure| failed(&self.health, &self.peer, failure, now))
    }

    /// What the server says to the whole message. May be dropped while it waits and called again.
    pub async fn answer(&mut self, now: OffsetDateTime) -> Result<Reply, Failed> {
        match self.connection.answer().await {
            Ok(reply) => {
                self.health.accepted(&self.peer);
                Ok(reply)
            }
            Err(failure) => Err(failed(&self.health, &self.peer, failure, now)),
        }
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

fn failed(health: &Health, peer: &Peer, failure: Failure, now: OffsetDateTime) -> Failed {
    let Failure { stage, answer } = failure;
    let side = side(peer, health);
    let is_ours = matches!(answer, Answer::Ours(_));
    let (fault, reply, reason) = match answer {
        Answer::Reply(reply) => {
            (fault(stage, Some(&reply), side), Some(reply.clone()), format!("{peer} said: {reply}"))
        }
        Answer::Ours(reply) => (Fault::Message, Some(reply.clone()), format!("{peer}: {reply}")),
        // Our own trouble says nothing about the server.
        Answer::Trouble(trouble @ Trouble::Unreadable(_)) => (Fault::Transient, None, trouble.to_string()),
        Answer::Trouble(trouble) => (fault(stage, None, side), None, format!("{peer}: {trouble}")),
    };
    let until = (fault == Fault::Gateway).then(|| health.failed(peer, &reason, now));
    Failed { peer: peer.clone(), fault, stage, reply, is_ours, reason, until }
}
