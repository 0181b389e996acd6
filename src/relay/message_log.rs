//! The lines that tell a message's story, in the log and in the store, and the names of the log's fields, which
//! operators search by. Never content, never a secret.

use std::{
    borrow::Cow,
    fmt::{self, Display, Formatter},
    net::IpAddr,
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    handover::{connection::Through, peer::Peer},
    trace::Trace,
};
use crate::{
    mail::{
        ShortText,
        id::{AccountId, GatewayId, OrganizationId, QueueId},
    },
    policy::routing::Scope,
    store::{
        message_trace::{Event, Step, Told},
        queue::QueuedMessage,
    },
};

/// What lines about messages are found by among all others.
pub const TARGET: &str = "outgate::message";

/// What is kept of a reply, in bytes.
const MAX_REPLY: usize = 1024;
/// How many recipients a line of the log names; more are only counted.
const NAMED: usize = 10;

/// The first recipients, and how many there are beyond them.
struct Named<'a>(&'a [Told<'a>]);

impl Display for Named<'_> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        for (place, told) in self.0.iter().take(NAMED).enumerate() {
            if place > 0 {
                to.write_str(", ")?;
            }
            to.write_str(&printable(told.address()))?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(to, " and {more} more"),
        }
    }
}

/// A reply as pages can show it.
fn printable(reply: &str) -> Cow<'_, str> {
    let reply = &reply[..reply.floor_char_boundary(MAX_REPLY)];
    match reply.contains(char::is_control) {
        true => Cow::Owned(reply.replace(char::is_control, "?")),
        false => Cow::Borrowed(reply),
    }
}

/// One line.
pub struct Line<'a> {
    pub organization: OrganizationId,
    pub queue_id: QueueId,
    /// The address that decides the route; empty for our own notifications.
    pub sender: &'a str,
    /// As the client gave it.
    pub reverse_path: &'a str,
    pub account: Option<AccountId>,
    /// Those that the event is about.
    pub recipients: Vec<Told<'a>>,
    /// In bytes; 0 where it is not known.
    pub size: u64,
    /// Who submitted it, where that is still known.
    pub client: Option<IpAddr>,
    /// The id under which it passed here before, as its own header says.
    pub first_pass: Option<QueueId>,
    /// The scope whose pointer decided.
    pub scope: Option<Scope>,
    pub gateway: Option<&'a Peer>,
    /// What it waits for, where no server was asked.
    pub waits_for: Option<GatewayId>,
    /// The connection that it was sent on.
    pub through: Option<Through>,
    /// What the server said, or why it was not asked.
    pub reply: &'a str,
    pub attempts: Option<i32>,
    pub next_attempt: Option<OffsetDateTime>,
    pub received: OffsetDateTime,
}

impl<'a> Line<'a> {
    /// What the queue knows of a message, for nobody in particular.
    pub fn of(message: &'a QueuedMessage, reply: &'a str) -> Self {
        Self {
            organization: message.organization,
            queue_id: message.id,
            sender: message.sender.as_deref().unwrap_or_default(),
            reverse_path: &message.reverse_path,
            account: message.sender_account,
            recipients: Vec::new(),
            size: message.size.try_into().unwrap_or_default(),
            client: None,
            first_pass: None,
            scope: message.waits_by,
            gateway: None,
            waits_for: message.waits_for,
            through: None,
            reply,
            attempts: None,
            next_attempt: None,
            received: message.accepted_at,
        }
    }

    /// Writes it to the log and to the message's story. What a field of the log says is put together only if somebody
    /// wants the line.
    pub fn write(self, trace: &Trace, step: Step) {
        let now = OffsetDateTime::now_utc();
        let client = self.client.map(ShortText::of_ip);
        let server = self.through.map(|through| ShortText::of_socket(through.server));
        let address = self.gateway.map(|peer| peer.address.to_string());
        let text = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
        tracing::info!(
            target: TARGET,
            organization = %self.organization,
            queue_id = %self.queue_id,
            sender = self.sender,
            recipients = self.recipients.len(),
            to = %Named(&self.recipients),
            size = self.size,
            client = client.as_deref(),
            first_pass = self.first_pass.map(tracing::field::display),
            scope = self.scope.map(tracing::field::display),
            gateway = address.as_deref(),
            revision = self.gateway.and_then(Peer::revision),
            server = server.as_deref(),
            tls = self.through.map(|through| through.tls.unwrap_or("none")),
            reply = self.reply,
            attempts = self.attempts,
            next_attempt = self.next_attempt.map(text),
            received = text(self.received),
            waited_ms = (now - self.received).whole_milliseconds().max(0) as u64,
            message = step.as_str(),
        );
        trace.add(self.organization, &self.event(step, address, now));
    }

    fn event(self, step: Step, address: Option<String>, at: OffsetDateTime) -> Event<'a> {
        let gateway = self.gateway;
        Event {
            sender: Cow::Borrowed(self.sender),
            reverse_path: (self.reverse_path != self.sender).then_some(Cow::Borrowed(self.reverse_path)),
            recipients: self.recipients,
            size: (self.size > 0).then_some(self.size),
            client: self.client,
            first_pass: self.first_pass,
            account: self.account,
            scope: self.scope,
            gateway: gateway.and_then(Peer::gateway_id).or(self.waits_for),
            revision: gateway.and_then(Peer::revision),
            address: address.map(Cow::Owned),
            server: self.through.map(|through| through.server),
            tls: self.through.and_then(|through| through.tls).map(Cow::Borrowed),
            reply: printable(self.reply),
            attempts: self.attempts,
            next_attempt: self.next_attempt,
            ..Event::new(step, self.queue_id, at)
        }
    }
}
