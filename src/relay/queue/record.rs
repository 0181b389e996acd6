//! Writes down what became of an attempt: delivered recipients are never asked for again, refused ones
//! are reported to the sender in the same transaction.

use std::time::Duration;

use time::OffsetDateTime;

use super::{
    Entry, Queue, commit,
    verdict::{Attempted, Verdict},
};
use crate::{
    mail::{
        dsn::{Cause, Failure},
        envelope::RecipientState,
    },
    policy::{
        retry,
        waiting::{Choice, HeldBecause},
    },
    relay::notification::notification,
    store::{
        self,
        queue::{QueuedMessage, State},
    },
};

/// How often recording is tried again while the store is away, a second apart. The lease runs on: if
/// somebody else takes the message meanwhile, it may arrive twice.
const TRIES: u32 = 600;

/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 1024;

/// A message after an attempt.
pub struct Recorded {
    pub message: QueuedMessage,
    /// Recipients given up in this attempt.
    pub failures: Vec<Failure>,
}

impl Recorded {
    /// Nobody waits for the message any more.
    fn is_finished(&self) -> bool {
        self.message.recipients.iter().all(|recipient| recipient.state != RecipientState::Waiting)
    }
}

impl Queue {
    /// Records the outcome until the store has taken it.
    pub(super) async fn record(&self, entry: &Entry, attempted: &Attempted, now: OffsetDateTime) {
        let recorded = after(&entry.message, attempted, now);
        log(&recorded, attempted);
        log_if_ambiguous(&recorded.message, attempted);
        for _ in 0..TRIES {
            match self.write(entry, &recorded, now).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(queue_id = %entry.message.id, %error, "an outcome could not be recorded yet")
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tracing::error!(queue_id = %entry.message.id, "an outcome could not be recorded, the message is tried again");
    }

    async fn write(&self, entry: &Entry, recorded: &Recorded, now: OffsetDateTime) -> store::Result<()> {
        let message = &recorded.message;
        let Some(lease) = entry.message.lease else { return Ok(()) };
        let (db, hostname) = (&self.shared.db, &self.shared.settings.hostname);
        let notification = notification(hostname, message, &entry.source, &recorded.failures, now).await;
        let mut transaction = db.begin().await?;
        let is_ours = match recorded.is_finished() {
            true => {
                let (organization, id) = (message.organization, message.id);
                store::queue::remove_across_tenants(&mut *transaction, organization, id, lease.token).await?
            }
            false => {
                let known_choice = entry.message.choice;
                store::queue::record_across_tenants(&mut *transaction, message, lease.token, known_choice).await?
            }
        };
        if !is_ours {
            tracing::warn!(queue_id = %message.id, "another relay has taken the message, nothing is recorded");
            return Ok(());
        }
        let notifies = notification.is_some();
        if let Some((message, source)) = notification {
            commit::insert_entries(&mut transaction, &[&Entry { message, source }]).await?;
        }
        transaction.commit().await?;
        if notifies {
            self.shared.wake.notify_one();
        }
        Ok(())
    }
}

/// A message that may arrive twice can be found in the log.
pub fn log_if_ambiguous(message: &QueuedMessage, attempted: &Attempted) {
    if attempted.is_ambiguous {
        let reason = message.last_reply.as_deref().unwrap_or_default();
        tracing::warn!(queue_id = %message.id, possible_duplicate = true, reason, "no answer to a message sent whole");
    }
}

fn log(recorded: &Recorded, attempted: &Attempted) {
    let message = &recorded.message;
    if !attempted.is_answered && !attempted.charged && !recorded.is_finished() {
        tracing::debug!(queue_id = %message.id, next_attempt_at = %message.next_attempt_at, "goes on waiting");
        return;
    }
    let count = |state| message.recipients.iter().filter(|recipient| recipient.state == state).count();
    tracing::info!(
        organization = %message.organization,
        queue_id = %message.id,
        sender = message.sender.as_deref().unwrap_or_default(),
        delivered = count(RecipientState::Delivered),
        refused = count(RecipientState::Refused),
        waiting = count(RecipientState::Waiting),
        state = ?message.state,
        attempts = message.attempts,
        reply = message.last_reply.as_deref().unwrap_or_default(),
        next_attempt_at = %message.next_attempt_at,
        "attempted",
    );
}

/// What a message is after an attempt. Pure, so that every outcome can be looked at by itself.
pub fn after(before: &QueuedMessage, attempted: &Attempted, now: OffsetDateTime) -> Recorded {
    let mut message = before.clone();
    let mut failures = Vec::new();
    for (place, verdict) in &attempted.verdicts {
        let Some(recipient) = message.recipients.get_mut(*place) else { continue };
        let (state, reason) = match verdict {
            Verdict::Delivered(reason) => (RecipientState::Delivered, reason),
            Verdict::Refused(reason) => (RecipientState::Refused, reason),
            Verdict::Waiting(reason) => (RecipientState::Waiting, reason),
        };
        let reason = printable(reason);
        if state == RecipientState::Refused {
            failures.push(Failure { recipient: recipient.to.clone(), reason: reason.clone(), cause: Cause::Refused });
        }
        recipient.state = state;
        recipient.reply = Some(reason);
    }
    if let Some(reason) = telling_reason(&attempted.verdicts) {
        message.last_reply = Some(printable(reason));
    }
    message.choice = what_remains_of_choice(before, attempted);
    if !before.waits().is_some_and(|waits| waits.is_handed_back()) {
        (message.waits_for, message.waits_by) = (attempted.waits_for, attempted.waits_by);
    }
    message.attempts += i32::from(attempted.charged);
    schedule(&mut message, attempted, now);
    if attempted.is_returned {
        failures.extend(give_up(&mut message, Cause::Returned));
    } else if message.expires_at <= now {
        let days = (message.expires_at - message.accepted_at).whole_days();
        failures.extend(give_up(&mut message, Cause::Expired(days)));
    }
    Recorded { message, failures }
}

/// A choice is carried out once the message waits for something else than before, or by another pointer, which
/// somebody may empty who has not been asked about it. While it does not, the facts
/// may be older than the choice, or only the choice lets it go at all.
fn what_remains_of_choice(before: &QueuedMessage, attempted: &Attempted) -> Option<Choice> {
    let waits_by_another = attempted.waits_for.is_some() && attempted.waits_by != before.waits_by;
    let is_carried_out =
        attempted.waits_for != before.waits_for || waits_by_another || attempted.held == Some(HeldBecause::NoGateway);
    before.choice.filter(|_| !is_carried_out)
}

/// When it is tried again, or until when it is held.
fn schedule(message: &mut QueuedMessage, attempted: &Attempted, now: OffsetDateTime) {
    let spread = spread(message.id.0.as_u128());
    message.held_because = attempted.held;
    if let Some(because) = attempted.held {
        message.state = State::Held;
        message.expires_at = message.accepted_at + retry::HELD_LIFETIME;
        message.last_reply = Some(because.words().to_owned());
        message.next_attempt_at = message.expires_at;
        return;
    }
    message.state = State::Waiting;
    if let Some(turn) = attempted.turn {
        message.next_attempt_at = turn.min(message.expires_at.max(now));
        return;
    }
    message.next_attempt_at = match attempted.charged {
        true => retry::next_attempt(now, message.attempts.unsigned_abs(), spread),
        false => {
            // A gateway is asked by one message for all that wait for it; the others look again more and
            // more seldom, and at once when it takes mail again. For the platform's default nobody does that.
            let longest = if message.waits_for.is_some() { time::Duration::HOUR } else { 5 * time::Duration::MINUTE };
            retry::next_look(now, message.accepted_at, attempted.until, longest, spread)
        }
    };
    message.next_attempt_at = message.next_attempt_at.min(message.expires_at.max(now));
}

/// Gives up everybody who still waits.
fn give_up(message: &mut QueuedMessage, cause: Cause) -> Vec<Failure> {
    let mut failures = Vec::new();
    for recipient in &mut message.recipients {
        if recipient.state != RecipientState::Waiting {
            continue;
        }
        recipient.state = RecipientState::Refused;
        let reason = match (message.state, cause) {
            (State::Held, _) | (_, Cause::Returned) => message.last_reply.clone(),
            (State::Waiting | State::AnswerAwaited, _) => recipient.reply.clone(),
        };
        let reason = reason.unwrap_or_else(|| "it was never attempted".to_owned());
        failures.push(Failure { recipient: recipient.to.clone(), reason, cause });
    }
    failures
}

/// Why the message still waits; if it does not, what was said last.
fn telling_reason(verdicts: &[(usize, Verdict)]) -> Option<&str> {
    let waiting = verdicts.iter().find(|(_, verdict)| matches!(verdict, Verdict::Waiting(_)));
    waiting.or(verdicts.last()).map(|(_, verdict)| verdict.reason())
}

/// A reason as the store takes it, which has no NUL in texts, and as logs and terminals can show it.
fn printable(reason: &str) -> String {
    let end = reason.floor_char_boundary(MAX_REASON);
    reason[..end].chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// A number from 0 to 1 that is the same for one message and different for others.
fn spread(id: u128) -> f64 {
    (id & 0xffff) as f64 / 65536.0
}
