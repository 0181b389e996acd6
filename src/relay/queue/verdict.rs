//! What an attempt came to, recipient by recipient.
//! Between the attempt and what is recorded of it.

use time::OffsetDateTime;

use crate::{
    mail::{Reply, id::GatewayId},
    policy::{
        fault::{Fault, Stage},
        routing::Scope,
        waiting::HeldBecause,
    },
    relay::handover::{Failed, RecipientAnswer, peer::Peer},
    store::queue::QueuedMessage,
};

/// What became of one recipient, with the words that decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered(String),
    Refused(String),
    Waiting(String),
}

impl Verdict {
    /// The words that decided it.
    pub fn reason(&self) -> &str {
        match self {
            Self::Delivered(reason) | Self::Refused(reason) | Self::Waiting(reason) => reason,
        }
    }
}

/// What became of a message in one attempt.
#[derive(Debug, Default)]
pub struct Attempted {
    /// For recipients by their place in the message; who is missing was not asked about.
    pub verdicts: Vec<(usize, Verdict)>,
    /// The gateway that it goes on waiting for.
    pub waits_for: Option<GatewayId>,
    /// The scope whose pointer led to that gateway.
    pub waits_by: Option<Scope>,
    /// Why nobody may send it.
    pub held: Option<HeldBecause>,
    /// An administrator returned it to its sender.
    pub is_returned: bool,
    /// The server said something about the message or its recipients.
    pub is_answered: bool,
    /// The attempt counts: it is not the gateway that was at fault.
    pub charged: bool,
    /// Not to be tried before.
    pub until: Option<OffsetDateTime>,
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
            HeldBecause::NoGateway => Self { held: Some(because), ..Self::default() },
            _ => Self { held: Some(because), ..Self::waits_on(message) },
        }
    }

    /// Whether the recipient at this place was refused for good.
    pub fn is_refused(&self, place: usize) -> bool {
        self.verdicts.iter().any(|(at, verdict)| *at == place && matches!(verdict, Verdict::Refused(_)))
    }
}

/// The verdicts of a transaction in which somebody was accepted, once it has ended.
pub fn of_transaction(
    peer: &Peer,
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
            Ok(reply) => Verdict::Delivered(format!("{peer} said: {reply}")),
            Err(failed) => of_failure(failed),
        };
    }
    if let Err(failed) = end {
        attempted.charged = failed.fault != Fault::Gateway;
        attempted.until = failed.until;
    }
    attempted
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
        waits_for: peer.gateway_id(),
        waits_by: peer.set_by,
        charged: true,
        is_answered: true,
        ..Attempted::default()
    }
}

/// The same verdict for all.
pub fn of_failed(failed: &Failed, places: &[usize]) -> Attempted {
    Attempted {
        verdicts: places.iter().map(|place| (*place, of_failure(failed))).collect(),
        waits_for: failed.peer.gateway_id(),
        waits_by: failed.peer.set_by,
        charged: failed.fault != Fault::Gateway,
        until: failed.until,
        is_answered: failed.reply.is_some() && failed.stage >= Stage::Mail,
        ..Attempted::default()
    }
}

fn of_failure(failed: &Failed) -> Verdict {
    match failed.fault {
        Fault::Message | Fault::Recipient => Verdict::Refused(failed.reason.clone()),
        Fault::Gateway | Fault::Transient => Verdict::Waiting(failed.reason.clone()),
    }
}

/// Nobody was asked; everybody waits.
pub fn waiting(peer: &Peer, reason: &str, until: OffsetDateTime, places: &[usize]) -> Attempted {
    Attempted {
        verdicts: places.iter().map(|place| (*place, Verdict::Waiting(reason.to_owned()))).collect(),
        waits_for: peer.gateway_id(),
        waits_by: peer.set_by,
        until: Some(until),
        ..Attempted::default()
    }
}
