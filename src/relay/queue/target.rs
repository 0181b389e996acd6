//! Where a waiting message goes now: routed anew, and held if what it waited for was taken away.

use super::Queue;
use crate::{
    policy::{
        facts::Decision,
        routing::{NextHop, PlatformDefault},
    },
    relay::handover::peer::Peer,
    store::queue::{QueuedMessage, State},
};

/// Where to.
pub enum Target {
    /// A gateway or the platform's smarthost.
    Peer(Peer),
    /// The recipients' own servers.
    Mx,
    /// Nowhere until an administrator chooses; why.
    Held(&'static str),
}

impl Queue {
    /// Where the message goes by the facts of this moment. Mail that waited for a gateway never goes
    /// around it because the gateway was taken away: who chose that gateway may rely on it.
    pub(super) fn target(&self, message: &QueuedMessage) -> Target {
        if message.state == State::Held {
            return Target::Held("it is held until an administrator decides");
        }
        let Some(sender) = &message.sender else { return by_default(&self.shared.settings.default) };
        let route = match self.shared.table.decide(sender) {
            Decision::Route(route) if route.organization == message.organization => route.route,
            Decision::Route(_) => return Target::Held("the sender's domain belongs to another organization now"),
            Decision::UnknownDomain => return Target::Held("the sender's domain was removed"),
            Decision::OrganizationSuspended => return Target::Held("the organization is suspended"),
            Decision::AccountSuspended => return Target::Held("the sender's account is suspended"),
        };
        match route.next_hop {
            NextHop::Gateway(gateway) => Target::Peer(Peer::gateway(&gateway)),
            NextHop::Platform(_) if message.waits_for.is_some() => {
                Target::Held("the gateway that it waited for was taken away")
            }
            NextHop::Platform(default) => by_default(&default),
        }
    }
}

fn by_default(default: &PlatformDefault) -> Target {
    match default {
        PlatformDefault::Mx => Target::Mx,
        PlatformDefault::Smarthost(address) => Target::Peer(Peer::smarthost(address)),
    }
}
