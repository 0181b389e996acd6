//! Where a sender's mail goes, and why. One pure function, which the relay, the pages and
//! `outgate route explain` all call.

use super::words::words;
use crate::mail::GatewayAddress;

/// Where the pointer that decides was set, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    User,
    Domain,
    Organization,
    /// No gateway is set at any scope: the platform's default applies.
    Platform,
}

words!(Scope: "user" = User, "domain" = Domain, "organization" = Organization, "platform" = Platform);

/// The gateways that apply to one sender, where set. `G` is whatever the caller knows a gateway by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderGateways<G> {
    pub user: Option<G>,
    pub domain: Option<G>,
    pub organization: Option<G>,
    /// Without any of them mail is held until then; `None`: it goes by the platform's default.
    pub held_until: Option<HeldUntil>,
}

/// What mail without a gateway waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldUntil {
    /// The organization's mail must leave through one.
    OneIsSet,
    /// One is set for all users, and goes live when it has passed its verification.
    OneHasPassed,
}

impl HeldUntil {
    /// `holds`: mail without a gateway is held at all; `awaits`: a gateway of all users is pending, and there is no other.
    pub fn of(holds: bool, awaits: bool) -> Option<Self> {
        match (holds, awaits) {
            (_, true) => Some(Self::OneHasPassed),
            (true, false) => Some(Self::OneIsSet),
            (false, false) => None,
        }
    }

    /// The end of a sentence: mail is held …
    pub fn words(self) -> &'static str {
        match self {
            Self::OneIsSet => "until a gateway is set",
            Self::OneHasPassed => "until the new gateway has passed its verification",
        }
    }

    /// Why a message is held: the end of a sentence in its log, trace and reports.
    pub fn reason(self) -> &'static str {
        match self {
            Self::OneIsSet => "mail must leave through a gateway, and the sender has none",
            Self::OneHasPassed => "the sender's new gateway has not passed its verification yet",
        }
    }
}

impl<G> SenderGateways<G> {
    /// The gateway that applies, and which scope set it.
    pub fn nearest(self) -> Option<(G, Scope)> {
        [(self.user, Scope::User), (self.domain, Scope::Domain), (self.organization, Scope::Organization)]
            .into_iter()
            .find_map(|(gateway, scope)| Some((gateway?, scope)))
    }
}

/// Where mail without a gateway goes: the operator's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlatformDefault {
    /// Directly to the recipients' servers (RFC 5321 §5.1).
    Mx,
    /// Through the platform's own smarthost.
    Smarthost(GatewayAddress),
}

/// Where a message goes now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextHop<G> {
    Gateway(G),
    Platform(PlatformDefault),
    /// Nowhere: the organization's mail must leave through a gateway, and none is set or has passed. It is held.
    Nowhere,
}

/// The next hop, and which scope decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<G> {
    pub next_hop: NextHop<G>,
    pub set_by: Scope,
}

/// The nearest gateway wins.
///
/// A gateway that is down is waited for, never bypassed: organizations route mail through archives
/// and data-loss screens, and going around one would break what they rely on.
pub fn route<G>(gateways: SenderGateways<G>, default: &PlatformDefault) -> Route<G> {
    let is_held = gateways.held_until.is_some();
    match gateways.nearest() {
        Some((gateway, set_by)) => Route { next_hop: NextHop::Gateway(gateway), set_by },
        // Who must use a gateway never goes by the default: that choice is the organization's.
        None if is_held => Route { next_hop: NextHop::Nowhere, set_by: Scope::Organization },
        None => Route { next_hop: NextHop::Platform(default.clone()), set_by: Scope::Platform },
    }
}
