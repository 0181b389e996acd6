//! Tells senders what could not be delivered: builds the notification as one more waiting message,
//! which is committed together with what it reports.

use time::OffsetDateTime;

use super::{handover::source::Source, message::Content};
use crate::{
    mail::{
        dsn::{Failure, Notification},
        envelope::{MailParameters, Recipient},
        id::QueueId,
    },
    policy::retry,
    store::queue::{QueuedMessage, State},
};

/// What of a header section is returned with a notification.
const MAX_HEADER: usize = 64 * 1024;

/// The notification of failures of one message; `None` if nobody is to be told: a notification is
/// never answered with another (RFC 5321 §4.5.5).
pub async fn notification(
    hostname: &str,
    message: &QueuedMessage,
    source: &Source,
    failures: &[Failure],
    now: OffsetDateTime,
) -> Option<(QueuedMessage, Source)> {
    if message.reverse_path.is_empty() || failures.is_empty() {
        return None;
    }
    // Without the header a notification still says what matters.
    let header = source.header(MAX_HEADER).await.unwrap_or_else(|error| {
        tracing::warn!(queue_id = %message.id, %error, "the header could not be read for a notification");
        Vec::new()
    });
    let report = Notification {
        hostname,
        to: &message.reverse_path,
        id: &message.id.to_string(),
        accepted_at: message.accepted_at,
        now,
        failures,
        header: &header,
    };
    let bytes = report.to_bytes();
    let parameters = MailParameters { eight_bit: !bytes.is_ascii(), smtputf8: !report.is_ascii() };
    let notification = QueuedMessage {
        organization: message.organization,
        id: QueueId::new(),
        state: State::Waiting,
        sender: None,
        sender_account: None,
        sender_domain: None,
        reverse_path: String::new(),
        recipients: vec![Recipient::waiting(message.reverse_path.clone())],
        parameters,
        size: bytes.len() as i64,
        waits_for: None,
        waits_by: None,
        held_because: None,
        choice: None,
        attempts: 0,
        last_reply: None,
        accepted_at: now,
        next_attempt_at: now,
        expires_at: now + retry::LIFETIME,
        lease: None,
    };
    Some((notification, Source::Content(Content::Memory(bytes.into()))))
}
