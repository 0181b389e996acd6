//! What becomes of mail that waits when the facts change under it: it goes on, it is held, or it returns to
//! its sender. The relay asks at every attempt; the pages say why mail is held and take the choice.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::{
    facts::{Decision, Found, Gateway, RoutingFacts, SenderRoute},
    routing::{HeldUntil, NextHop, PlatformDefault, Route, Scope, route},
    words::words,
};
use crate::mail::{
    Mailbox,
    id::{AccountId, GatewayId, OrganizationId},
};

/// What an administrator chose for mail that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// By whatever applies now.
    Send,
    /// Back to its sender, with a notification.
    Return,
    /// It is removed, and nobody is told.
    Delete,
}

impl Choice {
    /// Whether it is not to be sent on, to whomever.
    pub fn ends_it(self) -> bool {
        matches!(self, Self::Return | Self::Delete)
    }
}

/// Until when mail is not to be sent because its sender sent too much; `None` if it may go now, or if an administrator has
/// decided about it since, or wants it tried.
pub fn throttled(
    until: Option<OffsetDateTime>,
    choice: Option<Choice>,
    retry_wished_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    until.filter(|until| *until > now && choice.is_none() && retry_wished_at.is_none())
}

/// Why mail is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeldBecause {
    /// The pointer was emptied that led to the gateway which the mail waits for.
    GatewayTakenAway,
    /// The organization's mail must leave through a gateway, and the sender has none.
    NoGateway,
    AccountSuspended,
    AccountRemoved,
    DomainRemoved,
    OrganizationSuspended,
    /// The sender has sent more than a limit allows.
    OverLimit,
    /// An administrator has blocked the sender.
    SenderBlocked,
    /// It goes to so many, or to a distribution list, that an administrator has to approve it.
    NeedsApproval,
}

/// How long mail waits for approval before it returns.
pub const APPROVED_WITHIN: Duration = Duration::days(2);

impl HeldBecause {
    /// Whether only an administrator lets it go, whatever the facts are.
    pub fn is_for_an_administrator(self) -> bool {
        matches!(self, Self::OverLimit | Self::NeedsApproval)
    }

    /// The end of a sentence: it is held because …
    pub fn words(self) -> &'static str {
        match self {
            Self::GatewayTakenAway => "the gateway that it waited for was taken away",
            Self::NoGateway => HeldUntil::OneIsSet.reason(),
            Self::AccountSuspended => "the sender's account is suspended",
            Self::AccountRemoved => "the sender's account or address was removed",
            Self::DomainRemoved => "the sender's domain was removed",
            Self::OrganizationSuspended => "the organization is suspended",
            Self::OverLimit => "the sender has sent more than a limit allows",
            Self::SenderBlocked => "the sender is blocked",
            Self::NeedsApproval => "no administrator has approved it yet",
        }
    }
}

words!(Choice: "send" = Send, "return" = Return, "delete" = Delete);
words!(HeldBecause:
    "gateway-taken-away" = GatewayTakenAway,
    "no-gateway" = NoGateway,
    "account-suspended" = AccountSuspended,
    "account-removed" = AccountRemoved,
    "domain-removed" = DomainRemoved,
    "organization-suspended" = OrganizationSuspended,
    "over-limit" = OverLimit,
    "sender-blocked" = SenderBlocked,
    "needs-approval" = NeedsApproval,
);

/// What a message waits for, as it was when it was last routed.
#[derive(Debug, Clone, Copy)]
pub struct Waits<'a> {
    pub organization: OrganizationId,
    /// The address that decides the route.
    pub sender: &'a str,
    /// The account that the sender was when the message was accepted.
    pub account: Option<AccountId>,
    /// `None`: the platform's default, or nothing yet.
    pub gateway: Option<GatewayId>,
    /// The scope whose pointer led to that gateway. The platform's, without a gateway: it was handed back.
    pub by: Option<Scope>,
    pub choice: Option<Choice>,
    /// Whether it is held at present.
    pub is_held: bool,
}

impl Waits<'_> {
    /// Its gateway has handed it back for delivery. It goes on by the platform's default: to that gateway it must
    /// not go again, whatever points there.
    pub fn is_handed_back(&self) -> bool {
        self.gateway.is_none() && self.by == Some(Scope::Platform)
    }
}

/// What becomes of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Onward {
    Route(SenderRoute),
    Held(HeldBecause),
    /// Not at all: an administrator chose so.
    Return,
}

/// Where waiting mail goes by these facts.
///
/// Mail that waited for a gateway never goes around it because its pointer was emptied: who set it relies on
/// it. It goes on where the same scope, or a nearer one, points now; a wider one is an administrator's choice.
pub fn onward(facts: &RoutingFacts, waits: &Waits<'_>, default: &PlatformDefault) -> Onward {
    match waits.choice {
        Some(choice) if choice.ends_it() => return Onward::Return,
        _ if waits.is_handed_back() => return by_default(facts, waits, default),
        Some(_) => return whatever_applies(facts, waits, default),
        None => {}
    }
    let route = match facts.decide(waits.sender, default) {
        Decision::Route(route) if route.organization == waits.organization => route,
        // That it is somebody else's now is not for its former organization to know.
        Decision::Route(_) | Decision::UnknownDomain => return Onward::Held(HeldBecause::DomainRemoved),
        Decision::OrganizationSuspended => return Onward::Held(HeldBecause::OrganizationSuspended),
        Decision::AccountSuspended => return Onward::Held(HeldBecause::AccountSuspended),
    };
    if route.account.is_none() && waits.account.is_some() {
        return Onward::Held(HeldBecause::AccountRemoved);
    }
    if facts.sender_control(route.organization, route.account).is_blocked {
        return Onward::Held(HeldBecause::SenderBlocked);
    }
    match leads_where_it_waits(waits, &route.route) {
        true => unless_nowhere(route),
        false => Onward::Held(HeldBecause::GatewayTakenAway),
    }
}

fn leads_where_it_waits(waits: &Waits<'_>, route: &Route<Arc<Gateway>>) -> bool {
    let Some(gateway) = waits.gateway else { return true };
    match &route.next_hop {
        NextHop::Gateway(now) => now.id == gateway || route.set_by <= waits.by.unwrap_or(Scope::Organization),
        NextHop::Platform(_) | NextHop::Nowhere => false,
    }
}

fn unless_nowhere(route: SenderRoute) -> Onward {
    match route.route.next_hop {
        NextHop::Nowhere => Onward::Held(HeldBecause::NoGateway),
        NextHop::Gateway(_) | NextHop::Platform(_) => Onward::Route(route),
    }
}

fn by_default(facts: &RoutingFacts, waits: &Waits<'_>, default: &PlatformDefault) -> Onward {
    let (organization, account) = (waits.organization, waits.account);
    match waits.sender.parse::<Mailbox>().map(Arc::new) {
        Ok(sender) if !facts.is_suspended(organization) => {
            let route = Route { next_hop: NextHop::Platform(default.clone()), set_by: Scope::Platform };
            Onward::Route(SenderRoute { organization, account, sender, route })
        }
        Ok(_) => Onward::Held(HeldBecause::OrganizationSuspended),
        Err(_) => Onward::Held(HeldBecause::DomainRemoved),
    }
}

/// What is kept of the choice to send by what applies once it has been carried out: whose mail it is by then, and whether
/// the choice is needed still. An account that is gone was decided about, and is not asked about again; without the
/// choice a domain that is gone would hold the mail.
pub fn after_sending_on(found: Option<&Found>, account: Option<AccountId>) -> (Option<AccountId>, Option<Choice>) {
    match found {
        Some(found) => (account.filter(|_| found.account.is_some()), None),
        None => (account, Some(Choice::Send)),
    }
}

/// An administrator has let it go: whatever became of its account or domain, it leaves by what applies in the
/// organization that it was accepted for.
fn whatever_applies(facts: &RoutingFacts, waits: &Waits<'_>, default: &PlatformDefault) -> Onward {
    if facts.is_suspended(waits.organization) {
        return Onward::Held(HeldBecause::OrganizationSuspended);
    }
    let found = facts.find(waits.sender).filter(|found| found.organization == waits.organization);
    let gateways = match &found {
        Some(found) => facts.gateways(found),
        None => facts.gateways_of_all(waits.organization),
    };
    let now = route(gateways, default);
    // Its domain is gone and the choice has led it here: that nothing points here any more was not chosen.
    if found.is_none() && !waits.is_held && !leads_where_it_waits(waits, &now) {
        return Onward::Held(HeldBecause::GatewayTakenAway);
    }
    let Route { next_hop, set_by } = now;
    let (sender, account) = match found {
        Some(Found { sender, account, .. }) => (sender, account),
        // Its domain is gone: there is nothing nearer than the organization.
        None => match waits.sender.parse::<Mailbox>() {
            Ok(sender) => (sender.into(), None),
            Err(_) => return Onward::Held(HeldBecause::DomainRemoved),
        },
    };
    let organization = waits.organization;
    unless_nowhere(SenderRoute { organization, account, sender, route: Route { next_hop, set_by } })
}
