//! The log lines that tell a message's story, and the names of their fields, which operators search by. Never content,
//! never a secret.

use std::{fmt::Display, net::IpAddr};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::handover::peer::Peer;
use crate::{
    mail::id::{OrganizationId, QueueId},
    policy::routing::Scope,
    store::queue::QueuedMessage,
};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its gateway took it while its client waited.
    HandedOver,
    /// It is committed and waits.
    Queued,
    /// It was refused for good, or nobody has it and its client is to try again.
    Refused,
    /// An attempt from the queue after which it goes on waiting.
    Attempt,
    /// Somebody has taken it from the queue.
    Delivered,
    /// Its sender is told who will not get it.
    Returned,
    /// An administrator had it removed, and nobody is told.
    Deleted,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::HandedOver => "handed over",
            Self::Queued => "queued",
            Self::Refused => "refused",
            Self::Attempt => "attempt",
            Self::Delivered => "delivered",
            Self::Returned => "returned",
            Self::Deleted => "deleted",
        }
    }
}

/// One line.
pub struct Line<'a> {
    pub organization: OrganizationId,
    pub queue_id: QueueId,
    /// The address that decides the route; empty for our own notifications.
    pub sender: &'a str,
    /// Those that the event is about.
    pub recipients: usize,
    /// In bytes.
    pub size: u64,
    /// Who submitted it, where that is still known.
    pub client: Option<IpAddr>,
    /// The scope whose pointer decided.
    pub scope: Option<Scope>,
    pub gateway: Option<&'a Peer>,
    /// What the server said, or why it was not asked.
    pub reply: &'a dyn Display,
    pub attempts: Option<i32>,
    pub next_attempt: Option<OffsetDateTime>,
    pub received: OffsetDateTime,
}

impl<'a> Line<'a> {
    /// What the queue knows of a message.
    pub fn of(message: &'a QueuedMessage, recipients: usize, reply: &'a dyn Display) -> Self {
        Self {
            organization: message.organization,
            queue_id: message.id,
            sender: message.sender.as_deref().unwrap_or_default(),
            recipients,
            size: message.size.try_into().unwrap_or_default(),
            client: None,
            scope: message.waits_by,
            gateway: None,
            reply,
            attempts: None,
            next_attempt: None,
            received: message.accepted_at,
        }
    }

    /// Writes it. What a field says is put together only if somebody wants the line.
    pub fn write(&self, step: Step) {
        let text = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
        tracing::info!(
            target: "outgate::message",
            organization = %self.organization,
            queue_id = %self.queue_id,
            sender = self.sender,
            recipients = self.recipients,
            size = self.size,
            client = self.client.map(tracing::field::display),
            scope = self.scope.map(tracing::field::display),
            gateway = self.gateway.map(|peer| tracing::field::display(&peer.address)),
            revision = self.gateway.and_then(Peer::revision),
            reply = %self.reply,
            attempts = self.attempts,
            next_attempt = self.next_attempt.map(text),
            received = text(self.received),
            waited_ms = (OffsetDateTime::now_utc() - self.received).whole_milliseconds().max(0) as u64,
            "{}",
            step.as_str(),
        );
    }
}
