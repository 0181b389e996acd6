//! What would become of a message of a sender just now, and how the gateway does that decides: what there is to say besides
//! the route, for the page Explain Route and for `outgate route explain`. `store::explanation` reads what it is made of.

use time::OffsetDateTime;

use super::{
    explanation::Explanation,
    facts::Decision,
    limit::{Exceeded, Judged, STOP, Window},
    routing::{NextHop, PlatformDefault},
    words::{ago, moment, number},
};
use crate::mail::GatewayAddress;

/// What is known at one moment of those who take part in sending a message.
#[derive(Debug, Clone)]
pub struct Present {
    pub now: OffsetDateTime,
    /// Of the gateway that decides; `None`: none does.
    pub gateway: Option<GatewayState>,
    /// The relays at work, and whether each passes messages on while their client waits.
    pub relays: Vec<(String, bool)>,
    /// What the sender's limits say of a message to one recipient.
    pub judged: Judged,
    /// When the last leaves that waits for a limit of the sender's: nothing passes it.
    pub slowed_until: Option<OffsetDateTime>,
    /// A message to more recipients needs an administrator's approval.
    pub approved_beyond: Option<u32>,
}

/// How a gateway does, as all relays see it together since its last change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayState {
    pub last_accepted_at: Option<OffsetDateTime>,
    pub failing_since: Option<OffsetDateTime>,
    pub last_failure: Option<String>,
    /// Where its mail goes while it fails.
    pub backup: Option<GatewayAddress>,
    pub check: Option<Check>,
}

/// What the last verification of its present revision has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    pub at: OffsetDateTime,
    pub revision: i64,
    /// `None`: not every relay has answered.
    pub accepts: Option<bool>,
    /// Nobody waits any more for those that have not.
    pub is_over: bool,
}

/// What its mail says of a gateway.
pub fn mail_in_words(
    failing_since: Option<OffsetDateTime>,
    last_accepted_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> String {
    match (failing_since, last_accepted_at) {
        (Some(since), _) => format!("Failing since {}", moment(since)),
        (None, Some(accepted)) => format!("Last accepted mail {}", ago(accepted, now)),
        (None, None) => "No mail since its last change".to_owned(),
    }
}

/// What the last verification says of a gateway.
pub fn check_in_words(check: Option<Check>) -> String {
    let Some(Check { at, revision, accepts, is_over }) = check else {
        return "Not checked since the last change".to_owned();
    };
    let found = match accepts {
        None if !is_over => return "A check is under way".to_owned(),
        None => "not every relay has answered",
        Some(true) => "it accepts our mail",
        Some(false) => "it does not accept our mail",
    };
    format!("Checked {}, revision {}: {found}", moment(at), number(revision))
}

impl GatewayState {
    /// How it does, one thing a line.
    pub fn in_words(&self, now: OffsetDateTime) -> Vec<String> {
        let why = self.last_failure.clone().filter(|_| self.failing_since.is_some());
        let mail = mail_in_words(self.failing_since, self.last_accepted_at, now);
        std::iter::once(mail).chain(why).chain([check_in_words(self.check)]).collect()
    }
}

impl Explanation {
    /// What would become of a message just now, each thing in a sentence. Of mail that is refused or held whatever happens
    /// the sentence about its route says all.
    pub fn of_message_now(&self, present: &Present) -> Vec<String> {
        let Decision::Route(decided) = &self.decision else { return Vec::new() };
        if !self.is_taken() {
            return Vec::new();
        }
        let mut sentences = Vec::new();
        match present.kept_back() {
            Some(sentence) => sentences.push(sentence),
            None if decided.route.next_hop == NextHop::Nowhere => {}
            None => sentences.push(present.on_its_way(&decided.route.next_hop)),
        }
        if let Some(most) = present.approved_beyond.filter(|_| present.judged != Judged::Blocked) {
            let most = number(most.into());
            sentences
                .push(format!("A message to more than {most} recipients waits until an administrator approves it."));
        }
        sentences
    }
}

impl Present {
    /// What the sender's own sending does to a message; `None`: nothing.
    fn kept_back(&self) -> Option<String> {
        let sentence = match &self.judged {
            Judged::Blocked => "A message now would be refused: an administrator has blocked this sender.".to_owned(),
            Judged::Stopped(exceeded) => format!(
                "A message now would be refused: {}, and beyond {STOP} times as many nothing is accepted.",
                exceeded.words()
            ),
            Judged::Refused(exceeded) => {
                format!("A message now would be refused: {}{}.", exceeded.words(), resumes(exceeded))
            }
            Judged::Deferred(exceeded) => {
                format!("A message now would stay with its client (451): {}{}.", exceeded.words(), resumes(exceeded))
            }
            Judged::Held(exceeded) => {
                let decides = if exceeded.applied.kind.window == Window::Approval { "approves" } else { "releases" };
                let words = exceeded.words();
                format!("A message now would be held until an administrator {decides} it: {words}.")
            }
            Judged::Delayed(exceeded) => {
                let first = exceeded.first();
                let turn = self.slowed_until.or(first.and_then(|first| first.resumes));
                let until = turn.map(|turn| format!(" until about {}", moment(turn))).unwrap_or_default();
                let why = first.map(|first| format!(": {}", first.words())).unwrap_or_default();
                format!("A message now would wait in the queue{until}{why}.")
            }
            Judged::Goes => {
                let turn = moment(self.slowed_until?);
                format!(
                    "The sender is slowed down: a message now would wait behind what waits for a limit, until about {turn}."
                )
            }
        };
        Some(sentence)
    }

    fn on_its_way(&self, next_hop: &NextHop<std::sync::Arc<super::facts::Gateway>>) -> String {
        let state = match next_hop {
            NextHop::Platform(PlatformDefault::Mx) | NextHop::Nowhere => {
                return "A message now would go to the queue, and from there to the recipients' servers.".to_owned();
            }
            NextHop::Platform(PlatformDefault::Smarthost(_)) => None,
            NextHop::Gateway(_) => self.gateway.as_ref(),
        };
        let server = if state.is_some() { "the gateway" } else { "the platform's server" };
        match state {
            Some(GatewayState { failing_since: Some(_), backup: None, .. }) => {
                return "A message now would wait in the queue until the gateway takes mail again.".to_owned();
            }
            Some(GatewayState { failing_since: Some(_), backup: Some(backup), .. }) => {
                return format!("A message now would go to the backup {}.", backup.with_port_in_words());
            }
            _ => {}
        }
        let queueing: Vec<&str> =
            self.relays.iter().filter(|(_, hands_over)| !hands_over).map(|(name, _)| name.as_str()).collect();
        match queueing.as_slice() {
            _ if self.relays.is_empty() => {
                "No relay is at work: a message now would find nobody to take it.".to_owned()
            }
            [] => format!("A message now would go to {server} at once."),
            all if all.len() == self.relays.len() => format!(
                "A message now would go to the queue first, as the operator has set it, and from there to {server}."
            ),
            some => format!(
                "A message now would go to {server} at once, but from {} to the queue first, as the operator has set it.",
                some.join(", ")
            ),
        }
    }
}

fn resumes(exceeded: &Exceeded) -> String {
    exceeded.resumes.map(|at| format!("; sending resumes at {}", moment(at))).unwrap_or_default()
}
