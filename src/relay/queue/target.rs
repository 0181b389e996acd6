//! Where a waiting message goes now: routed anew, and held if what it waited for was taken away.
//! Asked by every attempt, again after each wait.

use std::time::Instant;

use time::{Duration, OffsetDateTime};

use super::Queue;
use crate::{
    mail::envelope::domain_of,
    policy::{
        routing::{NextHop, PlatformDefault},
        waiting::{Choice, HeldBecause, Onward},
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
    /// Nowhere until an administrator chooses or the facts change; why.
    Held(HeldBecause),
    /// Not sent on, as an administrator chose.
    Returned,
    /// Nowhere as far as is known here, but the message may be newer than that.
    Unknown,
}

impl Queue {
    /// Where the message goes by the facts of this moment. Asked of held mail too: what it was held for may be over.
    pub(super) fn target(&self, message: &QueuedMessage, now: OffsetDateTime) -> Target {
        if message.choice.is_some_and(Choice::ends_it) {
            return Target::Returned;
        }
        let Some(waits) = message.waits() else { return self.to_inbound_host(message) };
        // Facts do not let it go: an administrator does.
        if let (Some(because), None) = (message.held_because, message.choice)
            && because.is_for_an_administrator()
        {
            return Target::Held(because);
        }
        let route = match self.shared.table.onward(&waits) {
            Onward::Route(sender) => sender.route,
            Onward::Return => return Target::Returned,
            Onward::Held(because) => {
                let is_certain = message.state == State::Held || self.knows_what_was_known(message, now);
                return if is_certain { Target::Held(because) } else { Target::Unknown };
            }
        };
        match route.next_hop {
            NextHop::Gateway(gateway) => Target::Peer(self.shared.table.peer(&gateway, route.set_by)),
            NextHop::Platform(default) => by_default(&default),
            NextHop::Nowhere => Target::Held(HeldBecause::NoGateway),
        }
    }

    /// Our own notifications go to the inbound host of their recipient's domain; where none is set, like other mail
    /// of the platform.
    fn to_inbound_host(&self, message: &QueuedMessage) -> Target {
        let recipient = message.recipients.first().and_then(|recipient| domain_of(&recipient.to));
        let domain = recipient.and_then(|domain| domain.parse().ok());
        let inbound = domain.and_then(|domain| self.shared.table.inbound(&domain));
        match inbound.and_then(|inbound| Some(Peer::inbound_host(inbound.organization, &inbound.host?))) {
            Some(host) => Target::Peer(self.shared.table.within_networks(host)),
            None => by_default(&self.shared.settings.default),
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
