//! The facts that routing decides from, held in memory: by the relay for all tenants, by
//! `outgate route explain` for one sender. A look-up costs the same however many accounts there are.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    address_map::AddressMap,
    distribution_list::{DistributionList, Lists},
    gateway_settings::{GatewaySettings, Returning, secret_context},
    limit::{OrganizationLimits, SenderControl},
    relay_credential::{Limits, RelayCredential},
    routing::{HeldUntil, PlatformDefault, Route, SenderGateways, route},
    sender,
    volume::Subject,
};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, CredentialId, GatewayId, ListId, OrganizationId, QuickMap},
    },
    secret::Context,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub organization: OrganizationId,
    pub id: GatewayId,
    pub revision: i64,
    pub address: GatewayAddress,
    pub tls: TlsMode,
    /// Everything else; shared by all that say nothing.
    pub settings: Arc<GatewaySettings>,
}

impl Gateway {
    /// What the password is sealed for, where one is signed in with.
    pub fn secret_context(&self) -> Option<Context> {
        let user = &self.settings.sign_in.as_ref()?.user;
        Some(secret_context(self.organization, self.id, &self.address, self.tls, user))
    }
}

/// What routing needs to know of an organization.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrganizationFacts {
    pub suspended: bool,
    pub gateway: Option<GatewayId>,
    /// A sender without a gateway is held instead of following the platform's default.
    pub must_use_gateway: bool,
    /// There is none, and one that was saved goes live when it has passed its verification: until then mail is held.
    pub awaits_gateway: bool,
    /// New mail from an address that no account has is refused instead of following its domain.
    pub refuse_unknown_senders: bool,
    /// A distribution list with more recipients is large; `None`: none is.
    pub large_list: Option<u32>,
    /// Private networks that its gateways may be in, besides those that the operator opened to all.
    pub gateway_networks: Arc<[IpNet]>,
}

/// What routing needs to know of a mail domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainFacts {
    pub organization: OrganizationId,
    pub gateway: Option<GatewayId>,
    /// There is none, and one that was saved goes live when it has passed its verification.
    pub awaits_gateway: bool,
    /// Where mail to the domain itself is delivered; `None`: where its MX records say.
    pub inbound_host: Option<GatewayAddress>,
}

/// A mail domain of some organization as the one that mail goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    pub organization: OrganizationId,
    /// What an administrator set; `None`: where the domain's MX records say.
    pub host: Option<GatewayAddress>,
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
    organizations: QuickMap<OrganizationId, OrganizationFacts>,
    domains: QuickMap<DomainName, DomainFacts>,
    gateways: QuickMap<GatewayId, Arc<Gateway>>,
    /// Only those that hand mail back to us: few do.
    handing_back: QuickMap<OrganizationId, Vec<Arc<Gateway>>>,
    /// Canonical address to account. A domain has one organization, so an address has one account.
    addresses: AddressMap,
    /// Only accounts with a gateway of their own or that are suspended: most have neither.
    accounts: QuickMap<AccountId, AccountFacts>,
    credentials: HashMap<CredentialId, Arc<RelayCredential>>,
    /// User name to credential.
    credential_names: HashMap<Box<str>, CredentialId>,
    lists: Lists,
    limits: QuickMap<OrganizationId, Arc<OrganizationLimits>>,
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

/// Whose mail it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub organization: OrganizationId,
    /// The address that decides, in canonical form.
    pub sender: Arc<Mailbox>,
    /// `None`: an address of the domain that no account has.
    pub account: Option<AccountId>,
}

impl Found {
    /// Whose mail counts together with this sender's own.
    pub fn subject(&self) -> Subject {
        match self.account {
            Some(account) => Subject::Account(account),
            None => Subject::NoAccount(self.sender.domain().clone()),
        }
    }
}

/// Whose mail it is and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderRoute {
    pub organization: OrganizationId,
    /// `None`: an address of the domain that no account has.
    pub account: Option<AccountId>,
    /// The address that decided, in canonical form.
    pub sender: Arc<Mailbox>,
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
        let gateway = gateway.map(Arc::new);
        let of_before = self.gateways.get(&id).map(|before| before.organization);
        if let Some(alike) = of_before.and_then(|organization| self.handing_back.get_mut(&organization)) {
            alike.retain(|before| before.id != id);
        }
        if let Some(gateway) = gateway.as_ref().filter(|gateway| !gateway.settings.returning_networks.is_empty()) {
            self.handing_back.entry(gateway.organization).or_default().push(gateway.clone());
        }
        replace(&mut self.gateways, id, gateway);
    }

    /// The gateway of an organization that hands mail back from this address.
    pub fn hands_back(&self, organization: OrganizationId, client: IpAddr) -> Option<&Arc<Gateway>> {
        let client = client.to_canonical();
        let is_there = |gateway: &&Arc<Gateway>| {
            gateway.settings.returning_networks.iter().any(|network| network.contains(&client))
        };
        self.handing_back.get(&organization)?.iter().find(is_there)
    }

    /// Whether any organization's gateway hands mail back from this address, for us to deliver.
    pub fn any_hands_back(&self, client: IpAddr) -> bool {
        self.handing_back.keys().any(|organization| {
            self.hands_back(*organization, client)
                .is_some_and(|gateway| gateway.settings.returning == Returning::Onward)
        })
    }

    /// Every gateway that somebody points at, of organizations that may send, each once.
    pub fn gateways_in_use(&self) -> Vec<Arc<Gateway>> {
        let of_organizations = self.organizations.values().filter_map(|facts| facts.gateway);
        let of_domains = self.domains.values().filter_map(|facts| facts.gateway);
        let of_accounts = self.accounts.values().filter(|facts| !facts.suspended).filter_map(|facts| facts.gateway);
        let mut in_use: HashSet<GatewayId> = of_organizations.chain(of_domains).chain(of_accounts).collect();
        // A backup is to be found out of order before it is needed.
        let first: Vec<&Arc<Gateway>> = in_use.iter().filter_map(|id| self.gateways.get(id)).collect();
        in_use.extend(first.iter().flat_map(|gateway| &gateway.settings.backups));
        let may_send = |gateway: &&Arc<Gateway>| {
            self.organizations.get(&gateway.organization).is_some_and(|facts| !facts.suspended)
        };
        in_use.iter().filter_map(|id| self.gateways.get(id)).filter(may_send).cloned().collect()
    }

    /// Whether mail to this domain is mail inside the organization.
    pub fn is_own(&self, organization: OrganizationId, domain: &str) -> bool {
        self.domains.get(domain).is_some_and(|facts| facts.organization == organization)
    }

    /// An account without anything of its own takes no room.
    pub fn set_account(&mut self, id: AccountId, facts: Option<AccountFacts>) {
        let facts = facts.filter(|facts| facts.suspended || facts.gateway.is_some());
        replace(&mut self.accounts, id, facts);
    }

    pub fn set_address(&mut self, address: &str, account: Option<AccountId>) {
        self.addresses.set(address, account);
    }

    /// Only valid credentials: one that was revoked is forgotten.
    pub fn set_credential(&mut self, id: CredentialId, credential: Option<RelayCredential>) {
        if let Some(credential) = &credential {
            self.credential_names.insert(credential.user_name.as_str().into(), id);
        } else if let Some(former) = self.credentials.get(&id) {
            self.credential_names.remove(former.user_name.as_str());
        }
        replace(&mut self.credentials, id, credential.map(Arc::new));
    }

    pub fn set_list(&mut self, id: ListId, list: Option<DistributionList>) {
        self.lists.set(id, list);
    }

    /// All distribution lists.
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// See [`OrganizationFacts::large_list`].
    pub fn large_list(&self, organization: OrganizationId) -> Option<u32> {
        self.organizations.get(&organization)?.large_list
    }

    /// See [`OrganizationFacts::gateway_networks`].
    pub fn gateway_networks(&self, organization: OrganizationId) -> Arc<[IpNet]> {
        let facts = self.organizations.get(&organization);
        facts.map(|facts| facts.gateway_networks.clone()).unwrap_or_default()
    }

    pub fn credential(&self, id: CredentialId) -> Option<Arc<RelayCredential>> {
        self.credentials.get(&id).cloned()
    }

    pub fn credential_named(&self, user_name: &str) -> Option<Arc<RelayCredential>> {
        self.credential(*self.credential_names.get(user_name)?)
    }

    /// The sender of a message that somebody of this organization has given without one and whose header tells
    /// nothing: an address at one of its mail domains, without an account, that goes the organization's way where
    /// one does. Looks at all domains: only for the rare message.
    pub fn nobody_of(&self, organization: OrganizationId, limits: &Limits) -> Option<Mailbox> {
        let own = self.domains.iter().filter(|(_, facts)| facts.organization == organization);
        let permitted = own.filter(|(name, _)| {
            (limits.domains.is_empty() && limits.addresses.is_empty()) || limits.domains.contains(name)
        });
        let (name, _) = permitted.min_by_key(|(name, facts)| (facts.gateway.is_some(), *name))?;
        Some(Mailbox::from_parts("null-reverse-path", name.clone()))
    }

    /// Forgets every address of these accounts, by looking at all addresses: only for the rare
    /// change that does not say which addresses it took away.
    pub fn forget_addresses_of(&mut self, accounts: &HashSet<AccountId>) {
        self.addresses.forget(accounts);
    }

    /// The account that has exactly this address.
    pub fn account_of(&self, address: &Mailbox) -> Option<AccountId> {
        self.account_with(&address.to_string())
    }

    /// The same of an address in canonical form.
    pub fn account_with(&self, address: &str) -> Option<AccountId> {
        self.addresses.get(address)
    }

    /// Where mail to an address at this domain is delivered; `None` if it is no organization's.
    pub fn inbound(&self, domain: &DomainName) -> Option<Inbound> {
        let facts = self.domains.get(domain)?;
        Some(Inbound { organization: facts.organization, host: facts.inbound_host.clone() })
    }

    /// How many addresses are known.
    pub fn address_count(&self) -> usize {
        self.addresses.len()
    }

    /// Decides for one reverse-path.
    pub fn decide(&self, reverse_path: &str, default: &PlatformDefault) -> Decision {
        match self.find(reverse_path) {
            Some(found) => self.decide_for(found, default),
            None => Decision::UnknownDomain,
        }
    }

    /// Whose mail a reverse-path is; `None` if its domain is nobody's. The organization is that of its domain; an
    /// address that a bounce form was made from counts only within that organization, so that nobody takes
    /// another tenant's route by spelling its address inside one of his own.
    pub fn find(&self, reverse_path: &str) -> Option<Found> {
        let mut candidates = sender::candidates(reverse_path);
        let given = candidates.first()?;
        let organization = self.domains.get(given.domain())?.organization;
        let known = candidates.iter().enumerate().find_map(|(place, candidate)| {
            let domain = self.domains.get(candidate.domain())?;
            (domain.organization == organization).then(|| Some((place, self.account_of(candidate)?)))?
        });
        let (place, account) = known.map_or((0, None), |(place, account)| (place, Some(account)));
        Some(Found { organization, sender: candidates.swap_remove(place).into(), account })
    }

    fn decide_for(&self, found: Found, default: &PlatformDefault) -> Decision {
        if self.is_suspended(found.organization) {
            return Decision::OrganizationSuspended;
        }
        if self.is_account_suspended(found.account) {
            return Decision::AccountSuspended;
        }
        let route = route(self.gateways(&found), default);
        let Found { organization, sender, account } = found;
        Decision::Route(SenderRoute { organization, account, sender, route })
    }

    /// The gateways that apply to a sender, whether or not it may send.
    pub fn gateways(&self, found: &Found) -> SenderGateways<Arc<Gateway>> {
        let of_account = found.account.and_then(|account| self.accounts.get(&account));
        let of_domain = self.domains.get(found.sender.domain());
        let of_all = self.gateways_of_all(found.organization);
        SenderGateways {
            user: self.pointed_at(of_account.and_then(|facts| facts.gateway)),
            domain: self.pointed_at(of_domain.and_then(|facts| facts.gateway)),
            held_until: of_all.held_until.map(|until| match of_domain {
                Some(DomainFacts { awaits_gateway: true, .. }) => HeldUntil::OneHasPassed,
                _ => until,
            }),
            ..of_all
        }
    }

    /// Whether mail of this sender that is held until a gateway has passed waits for its mail domain's own.
    pub fn awaits_own_gateway(&self, found: &Found) -> bool {
        self.domains.get(found.sender.domain()).is_some_and(|facts| facts.awaits_gateway)
    }

    /// Until when mail of this sender is held that has no gateway, now that it has none.
    pub fn held_until(&self, organization: OrganizationId, sender: &str) -> Option<HeldUntil> {
        match self.find(sender).filter(|found| found.organization == organization) {
            Some(found) => self.gateways(&found).held_until,
            None => self.gateways_of_all(organization).held_until,
        }
    }

    /// What applies to everybody in an organization.
    pub fn gateways_of_all(&self, organization: OrganizationId) -> SenderGateways<Arc<Gateway>> {
        let facts = self.organizations.get(&organization);
        SenderGateways {
            user: None,
            domain: None,
            organization: self.pointed_at(facts.and_then(|facts| facts.gateway)),
            held_until: facts.and_then(|facts| HeldUntil::of(facts.must_use_gateway, facts.awaits_gateway)),
        }
    }

    fn pointed_at(&self, id: Option<GatewayId>) -> Option<Arc<Gateway>> {
        self.gateway(id?).cloned()
    }

    /// A gateway as it is now.
    pub fn gateway(&self, id: GatewayId) -> Option<&Arc<Gateway>> {
        self.gateways.get(&id)
    }

    /// Whether new mail with this reverse-path is refused because no account has the address: its organization
    /// chose so. What was accepted before goes its way.
    pub fn refuses_unknown(&self, reverse_path: &str) -> bool {
        let refuses = |found: Found| found.account.is_none() && self.takes_accounts_only(found.organization);
        self.find(reverse_path).is_some_and(refuses)
    }

    fn takes_accounts_only(&self, organization: OrganizationId) -> bool {
        self.organizations.get(&organization).is_some_and(|facts| facts.refuse_unknown_senders)
    }

    /// How much an organization lets be sent.
    pub fn limits(&self, organization: OrganizationId) -> Option<&Arc<OrganizationLimits>> {
        self.limits.get(&organization)
    }

    pub fn set_limits(&mut self, organization: OrganizationId, limits: Option<OrganizationLimits>) {
        replace(&mut self.limits, organization, limits.map(Arc::new));
    }

    /// What was said of a sender.
    pub fn sender_control(&self, organization: OrganizationId, account: Option<AccountId>) -> SenderControl {
        self.limits.get(&organization).map(|limits| limits.sender(account)).unwrap_or_default()
    }

    /// Whether an organization sends nothing. One that is unknown does not either.
    pub fn is_suspended(&self, organization: OrganizationId) -> bool {
        self.organizations.get(&organization).is_none_or(|facts| facts.suspended)
    }

    fn is_account_suspended(&self, account: Option<AccountId>) -> bool {
        account.and_then(|account| self.accounts.get(&account)).is_some_and(|facts| facts.suspended)
    }
}

fn replace<K: Hash + Eq, V, S: BuildHasher>(map: &mut HashMap<K, V, S>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
