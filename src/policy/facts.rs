//! The facts that routing decides from, held in memory: by the relay for all tenants, by
//! `outgate route explain` for one sender. A look-up costs the same however many accounts there are.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    routing::{PlatformDefault, Route, SenderGateways, route},
    sender,
};
use crate::mail::{
    DomainName, GatewayAddress, Mailbox,
    id::{AccountId, GatewayId, OrganizationId},
};

/// When a connection to a gateway is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// STARTTLS where the gateway offers it.
    WhenOffered,
    /// Never without TLS; the certificate may be anyone's.
    Required,
    /// Never without TLS, and the certificate must be the gateway's.
    Verified,
}

/// One immutable revision of an organization's gateway: what an attempt uses, always together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub organization: OrganizationId,
    pub id: GatewayId,
    pub revision: i64,
    pub address: GatewayAddress,
    pub tls: TlsMode,
}

/// What routing needs to know of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationFacts {
    pub suspended: bool,
    pub gateway: Option<GatewayId>,
}

/// What routing needs to know of a mail domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainFacts {
    pub organization: OrganizationId,
    pub gateway: Option<GatewayId>,
}

/// What routing needs to know of an account that is not like all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountFacts {
    pub suspended: bool,
    pub gateway: Option<GatewayId>,
}

/// All facts. Each setter replaces what was known of one thing; `None` forgets it.
#[derive(Debug, Clone, Default)]
pub struct RoutingFacts {
    organizations: HashMap<OrganizationId, OrganizationFacts>,
    domains: HashMap<DomainName, DomainFacts>,
    gateways: HashMap<GatewayId, Arc<Gateway>>,
    /// Canonical address to account. A domain has one organization, so an address has one account.
    addresses: HashMap<Box<str>, AccountId>,
    /// Only accounts with a gateway of their own or that are suspended: most have neither.
    accounts: HashMap<AccountId, AccountFacts>,
}

/// What becomes of mail with a given reverse-path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No organization has this domain, or the reverse-path is null or malformed.
    UnknownDomain,
    OrganizationSuspended,
    AccountSuspended,
    Route(SenderRoute),
}

/// Whose mail it is and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderRoute {
    pub organization: OrganizationId,
    /// `None`: an address of the domain that no account has.
    pub account: Option<AccountId>,
    /// The address that decided, in canonical form.
    pub sender: Mailbox,
    pub route: Route<Arc<Gateway>>,
}

impl RoutingFacts {
    pub fn set_organization(&mut self, id: OrganizationId, facts: Option<OrganizationFacts>) {
        replace(&mut self.organizations, id, facts);
    }

    pub fn set_domain(&mut self, name: DomainName, facts: Option<DomainFacts>) {
        replace(&mut self.domains, name, facts);
    }

    pub fn set_gateway(&mut self, id: GatewayId, gateway: Option<Gateway>) {
        replace(&mut self.gateways, id, gateway.map(Arc::new));
    }

    /// An account without anything of its own takes no room.
    pub fn set_account(&mut self, id: AccountId, facts: Option<AccountFacts>) {
        let facts = facts.filter(|facts| facts.suspended || facts.gateway.is_some());
        replace(&mut self.accounts, id, facts);
    }

    pub fn set_address(&mut self, address: &str, account: Option<AccountId>) {
        replace(&mut self.addresses, address.into(), account);
    }

    /// Forgets every address of these accounts, by looking at all addresses: only for the rare
    /// change that does not say which addresses it took away.
    pub fn forget_addresses_of(&mut self, accounts: &HashSet<AccountId>) {
        self.addresses.retain(|_, account| !accounts.contains(account));
    }

    /// The account that has exactly this address.
    pub fn account_of(&self, address: &Mailbox) -> Option<AccountId> {
        self.addresses.get(address.to_string().as_str()).copied()
    }

    /// How many addresses are known.
    pub fn address_count(&self) -> usize {
        self.addresses.len()
    }

    /// Decides for one reverse-path. The organization is that of its domain; an address that a
    /// bounce form was made from counts only within that organization, so that nobody takes
    /// another tenant's route by spelling its address inside one of his own.
    pub fn decide(&self, reverse_path: &str, default: &PlatformDefault) -> Decision {
        let candidates = sender::candidates(reverse_path);
        let Some(given) = candidates.first() else { return Decision::UnknownDomain };
        let Some(organization) = self.domains.get(given.domain()).map(|domain| domain.organization) else {
            return Decision::UnknownDomain;
        };
        let known = candidates.iter().find_map(|candidate| {
            let domain = self.domains.get(candidate.domain())?;
            (domain.organization == organization).then(|| Some((candidate, self.account_of(candidate)?)))?
        });
        let (sender, account) = match known {
            Some((sender, account)) => (sender.clone(), Some(account)),
            None => (given.clone(), None),
        };
        self.decide_for(organization, sender, account, default)
    }

    fn decide_for(
        &self,
        organization: OrganizationId,
        sender: Mailbox,
        account: Option<AccountId>,
        default: &PlatformDefault,
    ) -> Decision {
        let of_organization = self.organizations.get(&organization);
        if of_organization.is_none_or(|facts| facts.suspended) {
            return Decision::OrganizationSuspended;
        }
        let of_account = account.and_then(|account| self.accounts.get(&account));
        if of_account.is_some_and(|facts| facts.suspended) {
            return Decision::AccountSuspended;
        }
        let gateway = |id: Option<GatewayId>| id.and_then(|id| self.gateways.get(&id).cloned());
        let gateways = SenderGateways {
            user: gateway(of_account.and_then(|facts| facts.gateway)),
            domain: gateway(self.domains.get(sender.domain()).and_then(|facts| facts.gateway)),
            organization: gateway(of_organization.and_then(|facts| facts.gateway)),
        };
        Decision::Route(SenderRoute { organization, account, sender, route: route(gateways, default) })
    }
}

fn replace<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
