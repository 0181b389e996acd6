//! Where a waiting message goes now: routed anew, and held if what it waited for was taken away.
//! Asked by every attempt, again after each wait.

use std::time::Instant;

use time::{Duration, OffsetDateTime};

use super::Queue;
use crate::{
    policy::{
        facts::Decision,
        routing::{NextHop, PlatformDefault},
    },
    relay::handover::peer::Peer,
    store::queue::{QueuedMessage, State},
};

/// How much older than a message facts may be said to be by another relay's clock.
const CLOCK_DIFFERENCE: Duration = Duration::minutes(1);

/// Where to.
pub enum Target {
    /// A gateway or the platform's smarthost.
    Peer(Peer),
    /// The recipients' own servers.
    Mx,
    /// Nowhere until an administrator chooses; why.
    Held(&'static str),
    /// Nowhere as far as is known here, but the message may be newer than that.
    Unknown,
}

impl Queue {
    /// Where the message goes by the facts of this moment. Mail that waited for a gateway never goes
    /// around it because the gateway was taken away: who chose that gateway may rely on it.
    pub(super) fn target(&self, message: &QueuedMessage, now: OffsetDateTime) -> Target {
        if message.state == State::Held {
            return Target::Held("it is held until an administrator decides");
        }
        let Some(sender) = &message.sender else { return by_default(&self.shared.settings.default) };
        let held = |reason| match self.knows_what_was_known(message, now) {
            true => Target::Held(reason),
            false => Target::Unknown,
        };
        let route = match self.shared.table.decide(sender) {
            Decision::Route(route) if route.organization == message.organization => route.route,
            Decision::Route(_) => return held("the sender's domain belongs to another organization now"),
            Decision::UnknownDomain => return held("the sender's domain was removed"),
            Decision::OrganizationSuspended => return held("the organization is suspended"),
            Decision::AccountSuspended => return held("the sender's account is suspended"),
        };
        match route.next_hop {
            NextHop::Gateway(gateway) => Target::Peer(Peer::gateway(&gateway)),
            NextHop::Platform(_) if message.waits_for.is_some() => {
                held("the gateway that it waited for was taken away")
            }
            NextHop::Platform(default) => by_default(&default),
        }
    }

    /// Whether the facts are newer than the message: the relay that accepted it may have followed faster
    /// than this one, and what is missing here was then not taken away.
    fn knows_what_was_known(&self, message: &QueuedMessage, now: OffsetDateTime) -> bool {
        let age = Duration::try_from(self.shared.table.age(Instant::now())).unwrap_or(Duration::MAX);
        now.checked_sub(age).is_some_and(|known_at| known_at >= message.accepted_at + CLOCK_DIFFERENCE)
    }
}

fn by_default(default: &PlatformDefault) -> Target {
    match default {
        PlatformDefault::Mx => Target::Mx,
        PlatformDefault::Smarthost(address) => Target::Peer(Peer::smarthost(address)),
    }
}
