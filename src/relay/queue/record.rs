//! Writes down what became of an attempt: delivered recipients are never asked for again, refused ones
//! are reported to the sender in the same transaction.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use super::{
    Entry, Queue, commit,
    verdict::{Attempted, Verdict},
};
use crate::{
    mail::{
        dsn::{Action, Cause, Report},
        envelope::{Recipient, RecipientState},
        notify::Event,
    },
    policy::{
        retry::{self, Schedule},
        routing::PlatformDefault,
        waiting::{APPROVED_WITHIN, Choice, HeldBecause, after_sending_on},
    },
    relay::{limits::LEAVES_AT, message_log::Line, metrics::METRICS, notification::notifications, trace::Trace},
    store::{
        self,
        message_trace::{Step, Told},
        queue::{QueuedMessage, State, Written},
        throttle::Standing,
    },
};

/// How often recording is tried again while the store is away, a second apart. The lease runs on: if
/// somebody else takes the message meanwhile, it may arrive twice.
const TRIES: u32 = 600;

/// How long the store may take for one of them, with what is told of it.
const WRITTEN_WITHIN: Duration = Duration::from_secs(120);

/// What a sender's mail waits for that is slowed down, as notices are noted.
const LIMIT: &str = "limit";

/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 1024;

/// A message after an attempt.
pub struct Recorded {
    pub message: QueuedMessage,
    /// What the sender wants to be told of this attempt: recipients given up, or passed to a server that tells nobody.
    pub reports: Vec<Report>,
    /// What is said if the sender has not heard yet that mail waits for the same.
    pub delayed: Vec<Report>,
    /// Recipients given up in this attempt whose sender is not there to be told.
    pub given_up: Vec<Report>,
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
        let (schedule, is_steady) = (&self.shared.settings.schedule, self.shared.clock.is_steady(Instant::now()));
        if attempted.is_lost {
            return log_taken(&entry.message);
        }
        let mut recorded = after(&entry.message, attempted, schedule, is_steady, now);
        self.keep_what_was_chosen(&entry.message, &mut recorded.message);
        let sender = self.shared.table.deciding(entry.message.sender.as_deref().unwrap_or_default());
        log(&self.shared.trace, &sender, &recorded, attempted, now);
        log_if_ambiguous(&recorded.message, attempted);
        for _ in 0..TRIES {
            match timeout(WRITTEN_WITHIN, self.write(entry, attempted, &recorded, now)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::warn!(queue_id = %entry.message.id, %error, "an outcome could not be recorded yet")
                }
                Err(_) => tracing::warn!(queue_id = %entry.message.id, "an outcome could not be recorded in time"),
            }
            sleep(Duration::from_secs(1)).await;
        }
        tracing::error!(queue_id = %entry.message.id, "an outcome could not be recorded, the message is tried again");
    }

    async fn write(
        &self,
        entry: &Entry,
        attempted: &Attempted,
        recorded: &Recorded,
        now: OffsetDateTime,
    ) -> anyhow::Result<()> {
        let message = &recorded.message;
        let Some(leased) = entry.message.leased() else { return Ok(()) };
        let settings = &self.shared.settings;
        let mut told = notifications(settings, message, &entry.source, &recorded.reports, now).await;
        let delayed = self.with_the_last_that_leaves(&recorded.delayed, message, now).await?;
        let late = notifications(settings, message, &entry.source, &delayed, now).await;
        let has_recovered =
            entry.message.delay_noticed && attempted.verdicts.iter().any(|(_, verdict)| verdict.is_delivered());
        if recorded.is_finished() && told.is_empty() && !has_recovered {
            match self.remove(leased).await? {
                true => self.shared.room.give_back(message.organization, message.size),
                false => log_taken(message),
            }
            return Ok(());
        }
        let mut transaction = self.shared.db.begin().await?;
        let is_ours = match recorded.is_finished() {
            true => {
                let done = Written { done: &[leased], ..Written::default() };
                !store::queue::write_across_tenants(&mut *transaction, &done).await?.is_empty()
            }
            false => {
                let known_choice = entry.message.choice;
                store::queue::record_across_tenants(&mut *transaction, message, leased.token, known_choice).await?
            }
        };
        if !is_ours {
            log_taken(message);
            return Ok(());
        }
        if !late.is_empty() && self.is_first_notice(&mut transaction, message, now).await? {
            told.extend(late);
        }
        if has_recovered {
            for waited_for in [&entry.message, message] {
                self.forget_notices(&mut transaction, waited_for).await?;
            }
        }
        if !told.is_empty() {
            commit::insert_entries(&mut transaction, &told.iter().collect::<Vec<_>>()).await?;
        }
        transaction.commit().await?;
        if recorded.is_finished() {
            self.shared.room.give_back(message.organization, message.size);
        }
        // The message itself, or what is told of it, is due at a time that nobody was waiting for.
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Queue {
    /// *Send* that was carried out is forgotten, so that it is no leave to go around what is taken away later; what it was
    /// about, an account or a domain that is gone, is not held up again at the next attempt.
    fn keep_what_was_chosen(&self, before: &QueuedMessage, message: &mut QueuedMessage) {
        let is_carried_out = before.choice == Some(Choice::Send) && !before.is_released() && message.choice.is_none();
        let Some(sender) = message.sender.as_deref().filter(|_| is_carried_out) else { return };
        let found = self.shared.table.find(sender).filter(|found| found.organization == message.organization);
        (message.sender_account, message.choice) = after_sending_on(found.as_ref(), message.sender_account);
    }

    /// Whether the sender is told for the first time that its mail waits for this: noted in the same transaction.
    async fn is_first_notice(
        &self,
        db: &mut PgConnection,
        message: &QueuedMessage,
        now: OffsetDateTime,
    ) -> store::Result<bool> {
        let schedule = &self.shared.settings.schedule;
        let oldest = now - schedule.lifetime.max(schedule.held_lifetime);
        let (organization, sender) = (message.organization, message.sender.as_deref().unwrap_or(&message.reverse_path));
        let (waits_for, stale_before) = if message.throttled(now).is_some() {
            // That a sender is slowed down again is another time.
            let standing = standing(&mut *db, message, now).await?;
            (LIMIT.to_owned(), standing.map_or(now, |standing| standing.since))
        } else if let Some(because) = message.held_because.filter(|because| because.is_for_an_administrator()) {
            let of = (sender, because);
            let id = message.id;
            if store::delay_notice::is_told_of_another_across_tenants(&mut *db, organization, of, id).await? {
                return Ok(false);
            }
            (because.to_string(), message.accepted_at)
        } else {
            // Each of the recipients' own servers is an outage of its own.
            let Some(waits_for) = self.waits_for_in_words(message) else { return Ok(true) };
            let about = (sender, waits_for.as_str());
            return store::delay_notice::note_across_tenants(db, organization, about, now, oldest).await;
        };
        store::delay_notice::forget_old_across_tenants(&mut *db, organization, oldest).await?;
        let about = (sender, waits_for.as_str());
        store::delay_notice::note_across_tenants(db, organization, about, now, stale_before).await
    }

    /// The reports, with when the last leaves of what the sender has sent, of those that wait for a limit.
    async fn with_the_last_that_leaves(
        &self,
        delayed: &[Report],
        message: &QueuedMessage,
        now: OffsetDateTime,
    ) -> store::Result<Vec<Report>> {
        let mut delayed = delayed.to_vec();
        if delayed.iter().any(|report| matches!(report.cause, Cause::Throttled { .. }))
            && let Some(standing) = standing(&self.shared.db, message, now).await?
        {
            for report in &mut delayed {
                if let Cause::Throttled { last, .. } = &mut report.cause {
                    *last = standing.until.max(*last);
                }
            }
        }
        Ok(delayed)
    }

    /// What the message waited for takes mail again.
    async fn forget_notices(&self, db: &mut PgConnection, message: &QueuedMessage) -> store::Result<()> {
        let Some(waits_for) = self.waits_for_in_words(message) else { return Ok(()) };
        store::delay_notice::forget_across_tenants(db, message.organization, &waits_for).await.map(drop)
    }

    fn waits_for_in_words(&self, message: &QueuedMessage) -> Option<String> {
        match (message.waits_for, message.state, &self.shared.settings.default) {
            (Some(gateway), ..) => Some(gateway.to_string()),
            (None, State::Held, _) => Some("held".to_owned()),
            (None, _, PlatformDefault::Smarthost(_)) => Some("platform".to_owned()),
            (None, _, PlatformDefault::Mx) => None,
        }
    }
}

/// Since when and until when the message's sender is slowed down.
async fn standing(
    db: impl PgExecutor<'_>,
    message: &QueuedMessage,
    now: OffsetDateTime,
) -> store::Result<Option<Standing>> {
    let of = (message.sender_account, message.sender_domain.as_ref());
    store::throttle::standing_across_tenants(db, message.organization, of, now).await
}

fn log_taken(message: &QueuedMessage) {
    tracing::warn!(queue_id = %message.id, "another relay has taken the message, nothing is recorded");
}

/// A message that may arrive twice can be found in the log.
pub fn log_if_ambiguous(message: &QueuedMessage, attempted: &Attempted) {
    if attempted.is_ambiguous {
        let reason = message.last_reply.as_deref().unwrap_or_default();
        tracing::warn!(queue_id = %message.id, possible_duplicate = true, reason, "no answer to a message sent whole");
    }
}

/// Says and counts what became of a message.
fn log(trace: &Trace, sender: &str, recorded: &Recorded, attempted: &Attempted, now: OffsetDateTime) {
    let message = &recorded.message;
    // RFC 5321 §4.5.5: mail without a sender is never answered; somebody should know of it all the same.
    for report in &recorded.given_up {
        tracing::error!(
            organization = %message.organization,
            queue_id = %message.id,
            recipient = report.recipient,
            reason = report.reason,
            is_notification = message.sender.is_none(),
            "a message without a sender was given up, and nobody is told",
        );
    }
    let reply = message.last_reply.as_deref().unwrap_or_default();
    let write = |step, recipients, next_attempt| {
        let (gateway, through) = (attempted.peer.as_ref(), attempted.through);
        let line =
            Line { gateway, through, attempts: Some(message.attempts), next_attempt, ..Line::of(message, reply) };
        Line { sender, recipients, ..line }.write(trace, step);
    };
    let delivered = attempted.verdicts.iter().filter(|(_, verdict)| verdict.is_delivered());
    let delivered: Vec<Told<'_>> =
        delivered.filter_map(|(place, _)| message.recipients.get(*place).map(|it| told_of(it, reply))).collect();
    if !delivered.is_empty() {
        METRICS.delivered.add(1);
        METRICS.delivery.observe((now - message.accepted_at).try_into().unwrap_or_default());
        write(Step::Delivered, delivered, None);
    }
    let returned = recorded.reports.iter().filter(|report| report.cause.action() == Action::Failed);
    let returned: Vec<Told<'_>> = returned.map(|report| told(&report.recipient, &report.reason, reply)).collect();
    if !returned.is_empty() {
        METRICS.returned.add(1);
        write(Step::Returned, returned, None);
    }
    let given_up = recorded.given_up.iter().map(|report| told(&report.recipient, &report.reason, reply));
    let given_up: Vec<Told<'_>> = given_up.collect();
    if !given_up.is_empty() {
        write(Step::GivenUp, given_up, None);
    }
    if recorded.is_finished() {
        if attempted.is_returned && message.choice == Some(Choice::Delete) {
            write(Step::Deleted, message.recipients.iter().map(|recipient| told_of(recipient, reply)).collect(), None);
        }
        return;
    }
    METRICS.attempts_deferred.add(1);
    if attempted.is_answered || attempted.charged {
        let waiting = message.recipients.iter().filter(|recipient| recipient.state == RecipientState::Waiting);
        let waiting = waiting.map(|recipient| told_of(recipient, reply)).collect();
        write(Step::Attempt, waiting, Some(message.next_attempt_at));
    } else {
        tracing::debug!(queue_id = %message.id, next_attempt_at = %message.next_attempt_at, "goes on waiting");
    }
}

/// A recipient with what was said of it, where that is not what is said of all.
fn told<'a>(recipient: &'a str, own: &'a str, reply: &str) -> Told<'a> {
    match own == reply || own.is_empty() {
        true => Told::Alike(Cow::Borrowed(recipient)),
        false => Told::Apart(Cow::Borrowed(recipient), Cow::Borrowed(own)),
    }
}

/// A recipient of the queue's.
pub fn told_of<'a>(recipient: &'a Recipient, reply: &str) -> Told<'a> {
    told(&recipient.to, recipient.reply.as_deref().unwrap_or_default(), reply)
}

/// What a message is after an attempt. Pure, so that every outcome can be looked at by itself. While the clock is not
/// known to be steady nothing is given up for its age.
pub fn after(
    before: &QueuedMessage,
    attempted: &Attempted,
    schedule: &Schedule,
    is_steady: bool,
    now: OffsetDateTime,
) -> Recorded {
    let mut message = before.clone();
    let mut reports = Vec::new();
    for (place, verdict) in &attempted.verdicts {
        let Some(recipient) = message.recipients.get_mut(*place) else { continue };
        let (state, reason) = match verdict {
            Verdict::Delivered(reason) | Verdict::Relayed(reason) => (RecipientState::Delivered, reason),
            Verdict::Refused(reason) => (RecipientState::Refused, reason),
            Verdict::Waiting(reason) => (RecipientState::Waiting, reason),
        };
        let reason = printable(reason);
        match verdict {
            Verdict::Refused(_) => reports.push(report(recipient, reason.clone(), Cause::Refused)),
            Verdict::Relayed(_) if recipient.wants(Event::Success) => {
                reports.push(report(recipient, reason.clone(), Cause::Relayed));
            }
            Verdict::Relayed(_) | Verdict::Delivered(_) | Verdict::Waiting(_) => {}
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
    let is_to_decide = before.held_because.is_some_and(HeldBecause::is_for_an_administrator);
    let returned = match before.state {
        State::Held if is_to_decide => Cause::Declined,
        State::Held => Cause::Returned,
        State::Waiting | State::AnswerAwaited => Cause::Withdrawn,
    };
    set_time(&mut message, attempted, schedule, now);
    if attempted.is_returned {
        let given_up = give_up(&mut message, returned);
        if before.choice != Some(Choice::Delete) {
            reports.extend(given_up);
        }
    } else if message.expires_at <= now && attempted.is_tried && is_steady {
        let waited = message.expires_at - message.accepted_at;
        let cause = if is_to_decide { Cause::Undecided(waited) } else { Cause::Expired(waited) };
        reports.extend(give_up(&mut message, cause));
    }
    let delayed = delayed(&mut message, attempted, schedule, now);
    let (given_up, reports) = match message.reverse_path.is_empty() {
        true => (reports.into_iter().filter(|report| report.cause.action() == Action::Failed).collect(), Vec::new()),
        false => (Vec::new(), wanted(&message, reports)),
    };
    Recorded { message, reports, delayed, given_up }
}

fn report(recipient: &Recipient, reason: String, cause: Cause) -> Report {
    Report { recipient: recipient.to.clone(), original: recipient.orcpt.clone(), reason, cause }
}

/// Without those that their sender does not want to hear of.
fn wanted(message: &QueuedMessage, mut reports: Vec<Report>) -> Vec<Report> {
    reports.retain(|report| {
        let event = match report.cause.action() {
            Action::Failed => Event::Failure,
            Action::Delayed => Event::Delay,
            Action::Relayed => Event::Success,
        };
        message.recipients.iter().any(|recipient| recipient.to == report.recipient && recipient.wants(event))
    });
    reports
}

/// What the sender is told of a message that has waited for long, once.
fn delayed(
    message: &mut QueuedMessage,
    attempted: &Attempted,
    schedule: &Schedule,
    now: OffsetDateTime,
) -> Vec<Report> {
    let is_due = schedule.notice_at(message.accepted_at).is_some_and(|at| at <= now);
    let waiting: Vec<&Recipient> =
        message.recipients.iter().filter(|recipient| recipient.state == RecipientState::Waiting).collect();
    let throttled = message.throttled(now).filter(|_| !attempted.is_tried);
    let is_known = attempted.is_tried || throttled.is_some();
    if !is_due || message.delay_noticed || !is_known || waiting.is_empty() {
        return Vec::new();
    }
    let until = message.expires_at;
    let cause = match (throttled, message.held_because) {
        (Some(leaves), _) => Cause::Throttled { leaves, last: leaves, until },
        (None, Some(because)) if because.is_for_an_administrator() => Cause::ToDecide(until),
        (None, Some(_)) => Cause::Held(until),
        (None, None) => Cause::Delayed(until),
    };
    let told = waiting.into_iter().filter(|recipient| recipient.wants(Event::Delay));
    let why = |recipient: &Recipient| match throttled {
        Some(_) => beyond_which_limit(message),
        None => why_it_waits(message, recipient),
    };
    let reports = told.map(|recipient| report(recipient, why(recipient), cause)).collect();
    message.delay_noticed = true;
    reports
}

/// The limit that a message waits for, without when it leaves.
fn beyond_which_limit(message: &QueuedMessage) -> String {
    let said = message.last_reply.as_deref().unwrap_or("the sender has sent more than a limit allows");
    said.split_once(LEAVES_AT).map_or(said, |(limit, _)| limit).to_owned()
}

fn why_it_waits(message: &QueuedMessage, recipient: &Recipient) -> String {
    let reason = match message.state {
        State::Held => message.last_reply.clone(),
        State::Waiting | State::AnswerAwaited => recipient.reply.clone(),
    };
    reason.unwrap_or_else(|| "it was never attempted".to_owned())
}

/// A choice is carried out once the message waits for something else than before, or by another pointer, which
/// somebody may empty who has not been asked about it. While it does not, the facts
/// may be older than the choice, or only the choice lets it go at all.
fn what_remains_of_choice(before: &QueuedMessage, attempted: &Attempted) -> Option<Choice> {
    let waits_by_another = attempted.waits_for.is_some() && attempted.waits_by != before.waits_by;
    let is_carried_out = attempted.waits_for != before.waits_for
        || waits_by_another
        || attempted.held == Some(HeldBecause::NoGateway)
        || before.is_released();
    before.choice.filter(|_| !is_carried_out)
}

/// When it is tried again, or until when it is held; in between its sender is to be told that it waits.
fn set_time(message: &mut QueuedMessage, attempted: &Attempted, schedule: &Schedule, now: OffsetDateTime) {
    // Never at once: what cannot be given up yet goes on waiting.
    let end = |message: &QueuedMessage| message.expires_at.max(now + time::Duration::MINUTE);
    let notice = schedule.notice_at(message.accepted_at);
    let notice = notice.filter(|at| *at > now && !message.delay_noticed && !message.reverse_path.is_empty());
    let spread = spread(message.id.0.as_u128());
    let was_held_because = std::mem::replace(&mut message.held_because, attempted.held);
    if let (Some(because), Some(why)) = (attempted.held, attempted.why_held()) {
        message.state = State::Held;
        let kept = match because {
            HeldBecause::NeedsApproval => APPROVED_WITHIN.min(schedule.held_lifetime),
            _ => schedule.held_lifetime,
        };
        message.expires_at = message.accepted_at + kept;
        // What only an administrator lets go was told more exactly when it was held.
        if !because.is_for_an_administrator() || was_held_because != attempted.held {
            message.last_reply = Some(why.to_owned());
        }
        message.next_attempt_at = notice.map_or(end(message), |notice| notice.min(end(message)));
        return;
    }
    message.state = State::Waiting;
    if let Some(turn) = attempted.turn {
        // Of what waits for a limit nobody has been asked; its sender is told meanwhile.
        let first = notice.filter(|_| !attempted.is_tried).map_or(turn, |notice| notice.min(turn));
        message.next_attempt_at = first.min(end(message));
        return;
    }
    message.next_attempt_at = match attempted.charged {
        true => schedule.next_attempt(now, message.attempts.unsigned_abs(), spread),
        false => {
            // A gateway is asked by one message for all that wait for it; the others look again more and
            // more seldom, and at once when it takes mail again. For the platform's default nobody does that.
            let longest = if message.waits_for.is_some() { time::Duration::MAX } else { 5 * time::Duration::MINUTE };
            let longest = longest.min(schedule.longest_retry);
            retry::next_look(now, message.accepted_at, attempted.until, longest, spread)
        }
    };
    let first = notice.map_or(end(message), |notice| notice.min(end(message)));
    message.next_attempt_at = message.next_attempt_at.min(first);
}

/// Gives up everybody who still waits.
fn give_up(message: &mut QueuedMessage, cause: Cause) -> Vec<Report> {
    let mut reports = Vec::new();
    for recipient in &mut message.recipients {
        if recipient.state != RecipientState::Waiting {
            continue;
        }
        recipient.state = RecipientState::Refused;
        let reason = match (message.state, cause) {
            (State::Held, _) | (_, Cause::Returned | Cause::Declined) => message.last_reply.clone(),
            (State::Waiting | State::AnswerAwaited, _) => {
                recipient.reply.clone().or_else(|| message.last_reply.clone())
            }
        };
        let reason = reason.unwrap_or_else(|| "it was never attempted".to_owned());
        reports.push(report(recipient, reason, cause));
    }
    reports
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
