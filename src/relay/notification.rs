//! Tells senders what became of their mail: builds notifications as more waiting messages, which are committed
//! together with what they report. Never an answer to a message without a sender (RFC 5321 §4.5.5).

use time::OffsetDateTime;

use super::{
    handover::source::Source,
    queue::{Entry, QueueSettings},
};
use crate::{
    mail::{
        dsn::{Action, Notification, Original, Report},
        id::QueueId,
        notify::Ret,
    },
    store::queue::QueuedMessage,
};

/// What of a header section is returned with a notification.
const MAX_HEADER: usize = 64 * 1024;
/// A larger message does not come back whole, whatever its sender asked for.
const MAX_WHOLE: u64 = 1024 * 1024;

/// The notifications of one message, one for each kind of report; none if nobody is to be told.
pub async fn notifications(
    settings: &QueueSettings,
    message: &QueuedMessage,
    source: &Source,
    reports: &[Report],
    now: OffsetDateTime,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    if message.reverse_path.is_empty() {
        return entries;
    }
    for action in [Action::Failed, Action::Delayed, Action::Relayed] {
        let alike: Vec<Report> = reports.iter().filter(|report| report.cause.action() == action).cloned().collect();
        if !alike.is_empty() {
            entries.push(notification(settings, message, source, action, &alike, now).await);
        }
    }
    entries
}

async fn notification(
    settings: &QueueSettings,
    message: &QueuedMessage,
    source: &Source,
    action: Action,
    reports: &[Report],
    now: OffsetDateTime,
) -> Entry {
    // RFC 3461 §4.3: RET is about failures only.
    let wants_whole = action == Action::Failed && message.parameters.ret == Some(Ret::Full);
    let (returned, is_whole) = match wants_whole {
        true => whole_or_header(source, &message.id).await,
        false => (header(source, &message.id).await, false),
    };
    let id = QueueId::new();
    let report = Notification {
        hostname: &settings.hostname,
        links: &settings.links,
        to: &message.reverse_path,
        own_id: &id.to_string(),
        id: &message.id.to_string(),
        envid: message.parameters.envid.as_ref(),
        accepted_at: message.accepted_at,
        now,
        reports,
        original: if is_whole { Original::Whole(&returned) } else { Original::Header(&returned) },
    };
    let ends = (now, now + settings.schedule.lifetime);
    Entry::of_ours(message.organization, id, message.reverse_path.clone(), report.to_bytes(), !report.is_ascii(), ends)
}

async fn header(source: &Source, id: &QueueId) -> Vec<u8> {
    // Without the header a notification still says what matters.
    source.header(MAX_HEADER).await.unwrap_or_else(|error| {
        tracing::warn!(queue_id = %id, %error, "the header could not be read for a notification");
        Vec::new()
    })
}

/// The second value: it is the whole message. A line that is too long for the part that it would stand in
/// (RFC 5322 §2.1.1) may be anywhere in it.
async fn whole_or_header(source: &Source, id: &QueueId) -> (Vec<u8>, bool) {
    const LONGEST_LINE: usize = 998;
    if source.size() <= MAX_WHOLE {
        match whole(source).await {
            Ok(whole) if whole.split(|byte| *byte == b'\n').all(|line| line.len() <= LONGEST_LINE + 1) => {
                return (whole, true);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(queue_id = %id, %error, "the message could not be read for a notification"),
        }
    }
    (header(source, id).await, false)
}

async fn whole(source: &Source) -> std::io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    let mut reader = source.reader();
    while let Some(chunk) = reader.next().await? {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}
