//! Where a sender's mail goes and why, layer by layer: one explanation, from which the page Explain Route and
//! `outgate route explain` both speak.

use std::sync::Arc;

use super::{
    distribution_list::Permitted,
    facts::{Decision, Found, Gateway, RoutingFacts},
    routing::{HeldUntil, NextHop, PlatformDefault, Scope, route},
    words::number,
};
use crate::mail::{GatewayAddress, Mailbox};

/// Everything that there is to say about one sender.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// As it was asked for.
    pub sender: String,
    pub decision: Decision,
    /// Whose mail it is; `None` if the domain is nobody's.
    pub found: Option<Found>,
    /// What is asked about, nearest first. Empty if the domain is nobody's.
    pub layers: Vec<Layer>,
    /// Until when the organization's mail is held that has no gateway.
    held_until: Option<HeldUntil>,
    /// What has to pass is the gateway of the sender's mail domain.
    awaits_own: bool,
    /// No account has the address, and the organization takes mail of accounts only.
    is_unknown: bool,
}

/// One scope that may decide where mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub scope: Scope,
    /// Whose it is: the address, the mail domain, all users.
    pub whose: String,
    /// Where it leads; `None`: nothing is set there.
    pub leads: Option<Leads>,
    /// This is the layer that decides.
    pub decides: bool,
}

/// Where a layer leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leads {
    Through(GatewayAddress),
    Directly,
    /// Mail is held: it must leave through a gateway, and none is set or has passed.
    Nowhere(HeldUntil),
}

/// Who is told: an operator knows of all organizations, an administrator of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Operator,
    Administrator,
}

impl RoutingFacts {
    /// Explains what [`decide`](Self::decide) says about the same sender.
    pub fn explain(&self, sender: &str, default: &PlatformDefault) -> Explanation {
        let found = self.find(sender);
        let gateways = found.as_ref().map(|found| self.gateways(found));
        let held_until = gateways.as_ref().and_then(|gateways| gateways.held_until);
        let awaits_own = found.as_ref().is_some_and(|found| self.awaits_own_gateway(found));
        let layers = match (&found, gateways) {
            (Some(found), Some(gateways)) => {
                let decides = route(gateways.clone(), default).set_by;
                let through =
                    |gateway: Option<Arc<Gateway>>| gateway.map(|gateway| Leads::Through(gateway.address.clone()));
                let layer = |scope, whose: String, leads| Layer { scope, whose, leads, decides: scope == decides };
                let of_organization = through(gateways.organization).or(held_until.map(Leads::Nowhere));
                let of_platform = match default {
                    PlatformDefault::Mx => Leads::Directly,
                    PlatformDefault::Smarthost(address) => Leads::Through(address.clone()),
                };
                vec![
                    layer(Scope::User, shown(&found.sender), through(gateways.user)),
                    layer(Scope::Domain, found.sender.domain().to_unicode(), through(gateways.domain)),
                    layer(Scope::Organization, "all users".to_owned(), of_organization),
                    layer(Scope::Platform, "without a gateway".to_owned(), Some(of_platform)),
                ]
            }
            _ => Vec::new(),
        };
        let decision = self.decide(sender, default);
        let is_unknown = self.refuses_unknown(sender);
        Explanation { sender: sender.to_owned(), decision, found, layers, held_until, awaits_own, is_unknown }
    }
}

impl Leads {
    /// What stands there instead of an address; `None`: there is one.
    pub fn words(&self) -> Option<&'static str> {
        match self {
            Self::Through(_) => None,
            Self::Directly => Some("directly to the recipients' servers"),
            Self::Nowhere(HeldUntil::OneIsSet) => Some("none, so mail is held"),
            Self::Nowhere(HeldUntil::OneHasPassed) => {
                Some("none yet, so mail is held until the new gateway has passed its verification")
            }
        }
    }
}

impl Explanation {
    /// Whether mail of this sender is taken and leaves.
    pub fn leaves(&self) -> bool {
        !self.is_unknown && matches!(&self.decision, Decision::Route(found) if found.route.next_hop != NextHop::Nowhere)
    }

    /// Whether mail of this sender is taken, though it may be held.
    pub fn is_taken(&self) -> bool {
        !self.is_unknown && matches!(self.decision, Decision::Route(_))
    }

    /// What becomes of the mail, then why, in one sentence.
    pub fn sentence(&self, recipient: Option<&Mailbox>, told: Told) -> String {
        let sender = &self.sender;
        let found = match &self.decision {
            Decision::UnknownDomain => {
                let why = match told {
                    Told::Operator => "no organization has this domain",
                    Told::Administrator => "its domain is not one of your organization's mail domains",
                };
                return format!("Mail from {sender} is refused: {why}.");
            }
            Decision::OrganizationSuspended => {
                return format!("Mail from {sender} is refused: the organization is suspended.");
            }
            Decision::AccountSuspended => return format!("Mail from {sender} is refused: the account is suspended."),
            Decision::Route(_) if self.is_unknown => {
                return format!("Mail from {sender} is refused: no account has this address.");
            }
            Decision::Route(found) => found,
        };
        let whose = match found.route.set_by {
            Scope::User => format!("the own gateway of {}", shown(&found.sender)),
            Scope::Domain => format!("the gateway of the mail domain {}", found.sender.domain().to_unicode()),
            Scope::Organization => "the organization's gateway for all users".to_owned(),
            Scope::Platform => "the platform's default, since no gateway is set".to_owned(),
        };
        let next_hop = match (&found.route.next_hop, recipient) {
            (NextHop::Gateway(gateway), _) => {
                format!("through {} (revision {})", gateway.address.with_port_in_words(), gateway.revision)
            }
            (NextHop::Platform(PlatformDefault::Smarthost(address)), _) => {
                format!("through {}", address.with_port_in_words())
            }
            (NextHop::Platform(PlatformDefault::Mx), Some(recipient)) => {
                format!("directly to the servers of {}", recipient.domain().to_unicode())
            }
            (NextHop::Platform(PlatformDefault::Mx), None) => "directly to the recipients' servers".to_owned(),
            (NextHop::Nowhere, _) if self.held_until == Some(HeldUntil::OneHasPassed) => {
                let whose = match self.awaits_own {
                    true => format!("the mail domain {}", found.sender.domain().to_unicode()),
                    false => "all users".to_owned(),
                };
                return format!(
                    "Mail from {sender} is held: the gateway of {whose} has not passed its verification yet."
                );
            }
            (NextHop::Nowhere, _) => {
                return format!("Mail from {sender} is held: it must leave through a gateway, and none is set.");
            }
        };
        format!("Mail from {sender} leaves {next_hop}: {whose}.")
    }

    /// What else there is to know, each in a sentence.
    pub fn notes(&self, recipient: Option<&Mailbox>) -> Vec<String> {
        let mut notes = Vec::new();
        let Some(found) = &self.found else { return notes };
        let given = self.sender.parse::<Mailbox>().ok();
        if self.is_unknown {
            notes.push("This organization takes mail of its accounts only.".to_owned());
        } else if found.account.is_none() {
            notes.push("No account has this address; it follows its domain.".to_owned());
        } else if given.as_ref() != Some(&found.sender) {
            notes.push(format!("It is an address of {} with something added to it.", shown(&found.sender)));
        }
        if self.held_until == Some(HeldUntil::OneIsSet) {
            notes.push("This organization's mail must leave through a gateway; without one it is held.".to_owned());
        }
        if recipient.is_some() {
            notes.push("The recipient makes no difference to which gateway is taken.".to_owned());
        }
        notes
    }
}

/// What becomes of a message to a distribution list; `None`: the recipient is none.
pub fn of_list(facts: &RoutingFacts, sender: &str, recipient: &Mailbox) -> Option<String> {
    let list = shown(recipient);
    Some(match facts.ask_list((sender, false), &recipient.to_string())? {
        Ok(Permitted { members, to_approve }) => {
            let becomes = match members {
                Some(members) => {
                    let noun = if members.len() == 1 { "recipient" } else { "recipients" };
                    let members = number(i64::try_from(members.len()).unwrap_or(i64::MAX));
                    format!("{list} is a distribution list: a message to it goes to {members} {noun} in its place")
                }
                None => {
                    format!("{list} is a distribution list that takes mail of this sender and is expanded elsewhere")
                }
            };
            match to_approve {
                Some(_) => format!("{becomes}, once an administrator has approved it."),
                None => format!("{becomes}."),
            }
        }
        Err(refusal) => format!("But a message to {list} is refused: {refusal}."),
    })
}

fn shown(mailbox: &Mailbox) -> String {
    format!("{}@{}", mailbox.local_part(), mailbox.domain().to_unicode())
}
