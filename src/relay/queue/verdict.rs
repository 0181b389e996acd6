//! What an attempt came to, recipient by recipient.
//! Between the attempt and what is recorded of it.

use time::OffsetDateTime;

use crate::{
    mail::{Reply, id::GatewayId},
    policy::{
        fault::{Fault, Stage, takes_no_more_recipients},
        routing::{HeldUntil, Scope},
        waiting::HeldBecause,
    },
    relay::handover::{Failed, RecipientAnswer, connection::Through, peer::Peer},
    store::queue::QueuedMessage,
};

/// What became of one recipient, with the words that decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered(String),
    /// The same, by a server that does not tell senders what they asked to be told.
    Relayed(String),
    Refused(String),
    Waiting(String),
}

impl Verdict {
    /// The words that decided it.
    pub fn reason(&self) -> &str {
        match self {
            Self::Delivered(reason) | Self::Relayed(reason) | Self::Refused(reason) | Self::Waiting(reason) => reason,
        }
    }

    /// Another server is responsible now.
    pub fn is_delivered(&self) -> bool {
        matches!(self, Self::Delivered(_) | Self::Relayed(_))
    }
}

/// What became of a message in one attempt.
#[derive(Debug, Default)]
pub struct Attempted {
    /// For recipients by their place in the message; who is missing was not asked about.
    pub verdicts: Vec<(usize, Verdict)>,
    /// The server that it was about; `None` where several were asked, or none.
    pub peer: Option<Peer>,
    /// The connection that it was asked on.
    pub through: Option<Through>,
    /// The gateway that it goes on waiting for.
    pub waits_for: Option<GatewayId>,
    /// The scope whose pointer led to that gateway.
    pub waits_by: Option<Scope>,
    /// Why nobody may send it.
    pub held: Option<HeldBecause>,
    /// What it waits for where it has no gateway.
    pub held_until: Option<HeldUntil>,
    /// An administrator returned it to its sender, or deleted it.
    pub is_returned: bool,
    /// The server said something about the message or its recipients.
    pub is_answered: bool,
    /// Where it goes was found out, and whoever takes it was asked or is known not to take mail now. Without that
    /// nothing is given up, however long it has waited.
    pub is_tried: bool,
    /// The attempt counts: it is not the gateway that was at fault.
    pub charged: bool,
    /// Not to be tried before.
    pub until: Option<OffsetDateTime>,
    /// When it is its turn at a gateway that gets so many messages a minute.
    pub turn: Option<OffsetDateTime>,
    /// Recipients whom a server that took the message takes in another transaction only, by their place.
    pub cut_off: Vec<usize>,
    /// A server has the whole message and did not say whether it takes it.
    pub is_ambiguous: bool,
    /// The server is ourselves.
    pub is_loop: bool,
    /// Another relay has the message, or may have it: nothing is written down here.
    pub is_lost: bool,
}

impl Attempted {
    /// Nobody was asked, and the message waits for what it waited for.
    pub fn waits_on(message: &QueuedMessage) -> Self {
        Self { waits_for: message.waits_for, waits_by: message.waits_by, ..Self::default() }
    }

    /// Nobody was asked, and nobody may be.
    pub fn held(message: &QueuedMessage, because: HeldBecause) -> Self {
        match because {
            // Whatever is set later is what it waits for.
            HeldBecause::NoGateway => Self { held: Some(because), is_tried: true, ..Self::default() },
            _ => Self { held: Some(because), is_tried: true, ..Self::waits_on(message) },
        }
    }

    /// Nobody was asked: mail must leave through a gateway, and until then the sender has none.
    pub fn without_gateway(message: &QueuedMessage, held_until: Option<HeldUntil>) -> Self {
        Self { held_until, ..Self::held(message, HeldBecause::NoGateway) }
    }

    /// Why it is held, in words that go on with a sentence.
    pub fn why_held(&self) -> Option<&'static str> {
        Some(match (self.held?, self.held_until) {
            (HeldBecause::NoGateway, Some(until)) => until.reason(),
            (because, _) => because.words(),
        })
    }

    /// Adds what became of others, or of the same in a later transaction.
    pub fn add(&mut self, later: Self) {
        self.verdicts.retain(|(place, _)| later.verdicts.iter().all(|(other, _)| other != place));
        self.verdicts.extend(later.verdicts);
        self.verdicts.sort_by_key(|(place, _)| *place);
        let is_waited_for = later.waits_for.is_some();
        if is_waited_for {
            (self.waits_for, self.waits_by) = (later.waits_for, later.waits_by);
        }
        self.held = later.held.or(self.held);
        self.held_until = later.held_until.or(self.held_until);
        self.through = later.through.or(self.through);
        self.is_answered |= later.is_answered;
        self.is_tried |= later.is_tried;
        self.charged |= later.charged;
        self.is_ambiguous |= later.is_ambiguous;
        self.until = later.until.or(self.until);
        self.turn = later.turn.or(self.turn);
        self.cut_off = later.cut_off;
    }

    /// Whether the recipient at this place still waits.
    pub fn is_waiting(&self, place: usize) -> bool {
        self.verdicts.iter().any(|(at, verdict)| *at == place && matches!(verdict, Verdict::Waiting(_)))
    }

    /// Whether the recipient at this place was refused for good.
    pub fn is_refused(&self, place: usize) -> bool {
        self.verdicts.iter().any(|(at, verdict)| *at == place && matches!(verdict, Verdict::Refused(_)))
    }
}

/// The verdicts of a transaction in which somebody was accepted, once it has ended. `tells`: the server tells senders
/// what they asked to be told.
pub fn of_transaction(
    peer: &Peer,
    tells: bool,
    answers: &[RecipientAnswer],
    places: &[usize],
    end: &Result<Reply, Failed>,
) -> Attempted {
    let mut attempted = of_answers(peer, answers, places);
    for ((_, verdict), answer) in attempted.verdicts.iter_mut().zip(answers) {
        if *answer != RecipientAnswer::Accepted {
            continue;
        }
        *verdict = match end {
            Ok(reply) if tells => Verdict::Delivered(format!("{peer} said: {reply}")),
            Ok(reply) => Verdict::Relayed(format!("{peer} said: {reply}")),
            Err(failed) => of_failure(failed),
        };
    }
    match end {
        Ok(_) => attempted.cut_off = cut_off(answers, places),
        Err(failed) => {
            attempted.charged = failed.fault != Fault::Gateway;
            attempted.until = failed.until;
            attempted.is_ambiguous = failed.is_ambiguous();
        }
    }
    attempted
}

fn cut_off(answers: &[RecipientAnswer], places: &[usize]) -> Vec<usize> {
    let is_cut_off = |answer: &RecipientAnswer| match answer {
        RecipientAnswer::Deferred(reply) => takes_no_more_recipients(reply),
        RecipientAnswer::Accepted | RecipientAnswer::Refused(_) => false,
    };
    answers.iter().zip(places).filter(|(answer, _)| is_cut_off(answer)).map(|(_, place)| *place).collect()
}

/// The verdicts of a transaction before its message was sent. Who was accepted waits for that.
pub fn of_answers(peer: &Peer, answers: &[RecipientAnswer], places: &[usize]) -> Attempted {
    let verdict = |answer: &RecipientAnswer| match answer {
        RecipientAnswer::Accepted => Verdict::Waiting(format!("{peer} has not answered yet")),
        RecipientAnswer::Deferred(reply) => Verdict::Waiting(format!("{peer} said: {reply}")),
        RecipientAnswer::Refused(reply) => Verdict::Refused(format!("{peer} said: {reply}")),
    };
    Attempted {
        verdicts: places.iter().copied().zip(answers.iter().map(verdict)).collect(),
        peer: Some(peer.clone()),
        waits_for: peer.waits_for,
        waits_by: peer.set_by,
        charged: true,
        is_answered: true,
        is_tried: true,
        ..Attempted::default()
    }
}

/// The same verdict for all.
pub fn of_failed(failed: &Failed, places: &[usize]) -> Attempted {
    Attempted {
        verdicts: places.iter().map(|place| (*place, of_failure(failed))).collect(),
        peer: Some(failed.peer.clone()),
        through: failed.through,
        waits_for: failed.peer.waits_for,
        waits_by: failed.peer.set_by,
        charged: failed.fault != Fault::Gateway,
        until: failed.until,
        is_answered: failed.reply.is_some() && failed.stage >= Stage::Mail,
        is_tried: true,
        is_ambiguous: failed.is_ambiguous(),
        is_loop: failed.is_loop(),
        ..Attempted::default()
    }
}

fn of_failure(failed: &Failed) -> Verdict {
    match failed.fault {
        Fault::Message | Fault::Recipient => Verdict::Refused(failed.reason.clone()),
        Fault::Gateway | Fault::Transient => Verdict::Waiting(failed.reason.clone()),
    }
}

/// It is not this message's turn yet; everybody waits for that.
pub fn paced(peer: &Peer, turn: OffsetDateTime, places: &[usize]) -> Attempted {
    let per_minute = peer.limits.messages_per_minute.unwrap_or_default();
    let reason = format!("{peer} gets at most {per_minute} messages a minute; this one has its turn later");
    Attempted { turn: Some(turn), ..waiting(peer, &reason, turn, places) }
}

/// The server is known not to take mail now; everybody waits.
pub fn waiting(peer: &Peer, reason: &str, until: OffsetDateTime, places: &[usize]) -> Attempted {
    Attempted {
        verdicts: places.iter().map(|place| (*place, Verdict::Waiting(reason.to_owned()))).collect(),
        peer: Some(peer.clone()),
        waits_for: peer.waits_for,
        waits_by: peer.set_by,
        until: Some(until),
        is_tried: true,
        ..Attempted::default()
    }
}
