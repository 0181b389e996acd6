//! What becomes of a message whose sender sends much: it goes, waits for its turn, is held, or stays with its client.
//! Part of [`Transfer`]; who has sent how much is the [`meter`](super::meter)'s to know.

use time::{OffsetDateTime, UtcOffset, macros::format_description};

use super::{
    message::Message,
    meter::Measured,
    metrics::METRICS,
    queue::{Attempted, Entry, Turn},
    transfer::{Answer, Transfer, WaitsFor, Way, not_stored, waits_for},
};
use crate::{
    mail::{EnhancedStatus, Reply, short_id::ShortId},
    policy::{
        facts::{Found, SenderRoute},
        limit::{self, Exceeded, Judged, SURPLUS, Window},
        waiting::HeldBecause,
    },
};

/// Between the limit that a message waits for and when it leaves, in what is said of it.
pub(super) const LEAVES_AT: &str = "; it leaves at ";

impl Transfer {
    /// Takes a message as far as limits let it, and counts it.
    pub(super) async fn take_within_limits(&self, message: &Message, sender: &Found) -> Answer {
        let now = message.accepted_at;
        let (limits, count, outside) = self.table.measure(sender, &message.envelope);
        let measured = Measured { count, message_id: message.message_id.as_deref(), outside: &outside };
        let judged = self.meter.judge(&limits, sender, measured, now);
        let answer = match (judged, lists_to_approve(message)) {
            (Judged::Goes, None) => self.take(message).await,
            (Judged::Delayed(exceeded), None) => Box::pin(self.delay(message, &exceeded, now)).await,
            (Judged::Held(exceeded), None) => {
                let because = match exceeded.applied.kind.window {
                    Window::Approval => HeldBecause::NeedsApproval,
                    _ => HeldBecause::OverLimit,
                };
                Box::pin(self.hold(message, because, &exceeded.words(), now)).await
            }
            // Whoever lets it go has seen it: it waits for no limit besides.
            (Judged::Goes | Judged::Delayed(_), Some(lists)) => {
                Box::pin(self.hold(message, HeldBecause::NeedsApproval, &lists, now)).await
            }
            (Judged::Held(exceeded), Some(lists)) => {
                let words = format!("{lists}; {}", exceeded.words());
                Box::pin(self.hold(message, HeldBecause::NeedsApproval, &words, now)).await
            }
            (Judged::Deferred(exceeded), _) => return put_off(&exceeded, now).into(),
            (Judged::Refused(exceeded), _) => return refused(&exceeded, now).into(),
            (Judged::Stopped(exceeded), _) => return Box::pin(self.stop(sender, &exceeded, now)).await.into(),
            (Judged::Blocked, _) => return blocked().into(),
        };
        match answer.reply.is_positive() {
            true => {
                self.volume.add(sender, now, count);
                // Where the sender was stopped meanwhile, what of it waits was held before this message was there.
                if let Some(words) = self.meter.note_accepted(sender, &outside, now) {
                    Box::pin(self.hold_waiting(sender, &words)).await;
                }
            }
            false => self.meter.take_back(sender, now, measured),
        }
        answer
    }

    /// Commits a message that waits for its turn. Where it goes is decided when it has it; but what nobody would take
    /// now is refused now.
    async fn delay(&self, message: &Message, exceeded: &[Exceeded], now: OffsetDateTime) -> Answer {
        let Some((whose, waits)) = self.waiting(message) else { return self.take(message).await };
        let organization = whose.organization;
        let note = |exceeded: &Exceeded, turn| self.meter.note_turn(organization, exceeded, turn);
        // What takes longer by itself would be put off for ever.
        if let Some(too_large) = exceeded.iter().find(|one| one.resumes.is_none() && one.takes() > SURPLUS) {
            return refused(too_large, now).into();
        }
        let until = match self.queue.turn_at_limits(organization, exceeded, now, now + SURPLUS, note).await {
            Ok(Turn::At(until)) => until,
            Ok(Turn::None { room_at }) => return too_much_waits(exceeded, room_at, now).into(),
            Err(error) => {
                tracing::warn!(%error, "a message beyond a limit could not be given its turn");
                return not_stored().into();
            }
        };
        METRICS.delayed_by_limits.add(1);
        let mut entry = self.entry(message, &whose);
        let queued = &mut entry.message;
        (queued.waits_for, queued.waits_by) = waits;
        // In between its sender is told that it waits.
        let notice = self.queue.settings().schedule.notice_at(now).filter(|_| !queued.reverse_path.is_empty());
        (queued.throttled_until, queued.next_attempt_at) =
            (Some(until), notice.map_or(until, |notice| notice.min(until)));
        // Waiting for a limit does not make it older.
        queued.expires_at += until - now;
        let why = format!("{}{LEAVES_AT}{}", in_words(exceeded), clock(until, now));
        queued.last_reply = Some(why.clone());
        self.store_saying(entry, &why).await
    }

    /// Commits a message that an administrator has to let go, and nobody else: it goes to those who were members of its
    /// lists when it was accepted, whom the administrator sees.
    async fn hold(&self, message: &Message, because: HeldBecause, words: &str, now: OffsetDateTime) -> Answer {
        let (whose, waits) = match self.way(message) {
            Way::Peer(whose, peer) => (whose, waits_for(&peer)),
            Way::Queue(whose, waits) => (whose, waits),
            // A gateway that is set later does not let it go.
            Way::Held(whose) => (whose, (None, None)),
            Way::Refused(_) => return self.take(message).await,
        };
        let mut entry = self.entry(message, &whose);
        (entry.message.waits_for, entry.message.waits_by) = waits;
        let held = Attempted::held(&entry.message, because);
        entry.message = self.after(&entry, &held, now).message;
        let decides = match because {
            HeldBecause::NeedsApproval => {
                METRICS.held_for_approval.add(1);
                "approves"
            }
            _ => {
                METRICS.held_by_limits.add(1);
                "releases"
            }
        };
        let why = format!("held until an administrator {decides} it: {words}");
        entry.message.last_reply = Some(why.clone());
        self.store_saying(entry, &why).await
    }

    /// Whose a message is that could wait, and for what; `None` of one that is refused or held whoever sends much.
    fn waiting(&self, message: &Message) -> Option<(SenderRoute, WaitsFor)> {
        match self.way(message) {
            Way::Peer(whose, peer) => Some((whose, waits_for(&peer))),
            Way::Queue(whose, waits) => Some((whose, waits)),
            Way::Held(_) | Way::Refused(_) => None,
        }
    }

    async fn store_saying(&self, entry: Entry, why: &str) -> Answer {
        let id = entry.message.id;
        match self.store(vec![entry], (None, None)).await {
            Ok(_) => {
                let reply = Reply::new(250, EnhancedStatus(2, 0, 0), format!("queued as {id}; {why}"));
                reply.known_as(&self.queue.settings().links.of(ShortId::of(id))).into()
            }
            Err(reply) => reply.into(),
        }
    }

    /// Refuses a message of a sender who is far beyond an hour's limit, and holds what of him waits.
    async fn stop(&self, sender: &Found, exceeded: &Exceeded, now: OffsetDateTime) -> Reply {
        METRICS.refused_by_limits.add(1);
        let words = exceeded.words();
        let why = format!("held until an administrator releases it: {words}");
        if self.meter.note_stopped(sender, &why, now) {
            let organization = sender.organization;
            tracing::error!(%organization, sender = %sender.sender, words, "a sender is stopped: it has sent far too much");
            self.hold_waiting(sender, &why).await;
        }
        let times = limit::STOP;
        let text = format!("{words}; beyond {times} times as many nothing is accepted, ask an administrator");
        Reply::new(550, EnhancedStatus(5, 7, 1), text)
    }

    /// Holds what waits of a sender who is stopped.
    async fn hold_waiting(&self, sender: &Found, words: &str) {
        let organization = sender.organization;
        match self.queue.hold_waiting(sender, words).await {
            Ok(messages) => {
                tracing::warn!(%organization, sender = %sender.sender, messages, "its waiting mail is held")
            }
            Err(error) => {
                self.meter.forget_stopped(sender);
                tracing::error!(%organization, sender = %sender.sender, %error, "its waiting mail is not held");
            }
        }
    }
}

/// For which distribution lists a message needs approval, in words; `None`: for none.
fn lists_to_approve(message: &Message) -> Option<String> {
    let envelope = &message.envelope;
    let first = envelope.to_approve.first()?;
    let more = match envelope.to_approve.len() - 1 {
        0 => String::new(),
        1 => " and another one".to_owned(),
        more => format!(" and {more} others"),
    };
    // Archives need the whole envelope: nobody gets it sooner.
    let is_alone = envelope.named.unwrap_or(envelope.forward_paths.len()) == 1;
    let all = if is_alone { "" } else { "; all its recipients wait" };
    Some(format!("a message to the distribution list {first}{more} needs approval{all}"))
}

/// 451: whoever submits it keeps it.
fn put_off(exceeded: &Exceeded, now: OffsetDateTime) -> Reply {
    METRICS.refused_by_limits.add(1);
    Reply::new(451, EnhancedStatus(4, 7, 1), format!("{}{}", exceeded.words(), resumes(exceeded, now)))
}

fn refused(exceeded: &Exceeded, now: OffsetDateTime) -> Reply {
    METRICS.refused_by_limits.add(1);
    if exceeded.applied.kind.window == Window::Message {
        // RFC 3463 §3.6, 5.5.3: too many recipients. For good: to a 452 clients answer by splitting it.
        let text = format!("{}; send it to a distribution list, or ask an administrator", exceeded.words());
        return Reply::new(550, EnhancedStatus(5, 5, 3), text);
    }
    let when = match exceeded.resumes {
        Some(_) => resumes(exceeded, now),
        None => "; send it to fewer at once".to_owned(),
    };
    Reply::new(550, EnhancedStatus(5, 7, 1), format!("{}{when}", exceeded.words()))
}

fn too_much_waits(exceeded: &[Exceeded], room_at: OffsetDateTime, now: OffsetDateTime) -> Reply {
    METRICS.refused_by_limits.add(1);
    let (words, room_at) = (in_words(exceeded), clock(room_at, now));
    let text = format!("{words}; as much waits already as may leave in a day, there is room for this at {room_at}");
    Reply::new(451, EnhancedStatus(4, 7, 1), text)
}

fn blocked() -> Reply {
    METRICS.refused_by_limits.add(1);
    let text = "an administrator has blocked this sender; ask one before sending again";
    Reply::new(550, EnhancedStatus(5, 7, 1), text)
}

fn in_words(exceeded: &[Exceeded]) -> String {
    exceeded.first().map(Exceeded::words).unwrap_or_default()
}

fn resumes(exceeded: &Exceeded, now: OffsetDateTime) -> String {
    exceeded.resumes.map(|at| format!("; sending resumes at {}", clock(at, now))).unwrap_or_default()
}

/// A time for clients' logs, with its day where that is another.
fn clock(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let (at, now) = (at.to_offset(UtcOffset::UTC), now.to_offset(UtcOffset::UTC));
    let written = match at.date() == now.date() {
        true => at.format(format_description!("[hour]:[minute]:[second] UTC")),
        false => at.format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC")),
    };
    written.unwrap_or_default()
}
