//! Which route a sender has: every combination of scopes, aliases, domains, spellings and letter
//! case, against an expectation that is worked out in another way.

use std::sync::Arc;

use outgate::{
    mail::id::{AccountId, GatewayId, OrganizationId},
    policy::{
        facts::{AccountFacts, Decision, DomainFacts, Gateway, OrganizationFacts, RoutingFacts, TlsMode},
        routing::{NextHop, PlatformDefault},
    },
};
use proptest::prelude::*;

const LOCAL_PARTS: [&str; 4] = ["ann", "ann+x", "bob", "eve"];
const DOMAINS: [[&str; 2]; 2] = [["a.example", "a.test"], ["b.example", "xn--bcher-kva.example"]];

#[derive(Debug, Clone)]
struct World {
    organizations: [Organization; 2],
}

#[derive(Debug, Clone)]
struct Organization {
    suspended: bool,
    gateway: bool,
    must_use: bool,
    domains: [bool; 2],
    /// With a gateway of its own, suspended.
    accounts: [(bool, bool); 2],
    /// Which account has the address with this local part at this domain.
    addresses: [[Option<usize>; 2]; 4],
}

/// How a reverse-path is written.
#[derive(Debug, Clone)]
enum Spelling {
    Plain,
    /// The local part gets this behind a plus sign.
    Tagged(&'static str),
    /// BATV.
    Signed,
    SignedAndTagged,
    /// SRS, by the domain with these numbers.
    Forwarded(usize, usize),
}

#[derive(Debug, Clone)]
struct Sender {
    organization: usize,
    domain: usize,
    local_part: usize,
    spelling: Spelling,
    /// Which letters are capital, over and over.
    capitals: Vec<bool>,
}

fn organization() -> impl Strategy<Value = Organization> {
    let account = prop::option::of(0..2usize);
    (
        prop::bool::weighted(0.1),
        any::<bool>(),
        any::<bool>(),
        any::<[bool; 2]>(),
        [(any::<bool>(), prop::bool::weighted(0.2)), (any::<bool>(), prop::bool::weighted(0.2))],
        prop::array::uniform4([account.clone(), account]),
    )
        .prop_map(|(suspended, gateway, must_use, domains, accounts, addresses)| Organization {
            suspended,
            gateway,
            must_use,
            domains,
            accounts,
            addresses,
        })
}

fn sender() -> impl Strategy<Value = Sender> {
    let spelling = prop_oneof![
        Just(Spelling::Plain),
        Just(Spelling::Tagged("x")),
        Just(Spelling::Tagged("news=b.example")),
        Just(Spelling::Signed),
        Just(Spelling::SignedAndTagged),
        (0..2usize, 0..2usize).prop_map(|(organization, domain)| Spelling::Forwarded(organization, domain)),
    ];
    (0..2usize, 0..2usize, 0..4usize, spelling, prop::collection::vec(any::<bool>(), 1..7)).prop_map(
        |(organization, domain, local_part, spelling, capitals)| Sender {
            organization,
            domain,
            local_part,
            spelling,
            capitals,
        },
    )
}

impl Sender {
    fn written(&self) -> String {
        let (local_part, domain) = (LOCAL_PARTS[self.local_part], DOMAINS[self.organization][self.domain]);
        let written = match &self.spelling {
            Spelling::Plain => format!("{local_part}@{domain}"),
            Spelling::Tagged(tag) => format!("{local_part}+{tag}@{domain}"),
            Spelling::Signed => format!("prvs=12ab={local_part}@{domain}"),
            Spelling::SignedAndTagged => format!("prvs=12ab={local_part}+y@{domain}"),
            Spelling::Forwarded(organization, by) => {
                format!("SRS0=ab=cd={domain}={local_part}@{}", DOMAINS[*organization][*by])
            }
        };
        let capitals = self.capitals.iter().cycle();
        written.chars().zip(capitals).map(|(c, capital)| if *capital { c.to_ascii_uppercase() } else { c }).collect()
    }
}

impl World {
    /// What an administrator would say, asked where this sender's mail goes.
    fn expected(&self, sender: &Sender) -> String {
        let name = LOCAL_PARTS[sender.local_part];
        let untagged = name.split('+').next().unwrap();
        // The local parts under which the sender may be known, the most exact first; and the place of
        // the domain that was used, which is also where unknown senders belong.
        let (known_as, used): (Vec<String>, (usize, usize)) = match &sender.spelling {
            Spelling::Plain | Spelling::Signed => {
                (vec![name.into(), untagged.into()], (sender.organization, sender.domain))
            }
            Spelling::Tagged(tag) => {
                (vec![format!("{name}+{tag}"), untagged.into()], (sender.organization, sender.domain))
            }
            Spelling::SignedAndTagged => {
                (vec![format!("{name}+y"), untagged.into()], (sender.organization, sender.domain))
            }
            Spelling::Forwarded(organization, domain) => (vec![name.into(), untagged.into()], (*organization, *domain)),
        };
        let organization = &self.organizations[used.0];
        if organization.suspended {
            return "organization suspended".into();
        }
        let account = (used.0 == sender.organization)
            .then(|| {
                known_as.iter().find_map(|known_as| {
                    let place = LOCAL_PARTS.iter().position(|local_part| local_part == known_as)?;
                    organization.addresses[place][sender.domain]
                })
            })
            .flatten();
        let of_domain = if account.is_some() { sender.domain } else { used.1 };
        if let Some(account) = account {
            if organization.accounts[account].1 {
                return "account suspended".into();
            }
            if organization.accounts[account].0 {
                return format!("user {}-user-{account}", used.0);
            }
        }
        match (organization.domains[of_domain], organization.gateway) {
            (true, _) => format!("domain {}-domain-{of_domain}", used.0),
            (false, true) => format!("organization {}-organization", used.0),
            (false, false) if organization.must_use => "nowhere".into(),
            (false, false) => "platform".into(),
        }
    }

    fn facts(&self) -> RoutingFacts {
        let mut facts = RoutingFacts::default();
        for (number, organization) in self.organizations.iter().enumerate() {
            let id = OrganizationId::new();
            let gateway = |facts: &mut RoutingFacts, name: String| {
                let gateway = Gateway {
                    organization: id,
                    id: GatewayId::new(),
                    revision: 1,
                    address: format!("{number}-{name}.gateway.example").parse().unwrap(),
                    tls: TlsMode::WhenOffered,
                    settings: Arc::default(),
                };
                facts.set_gateway(gateway.id, Some(gateway.clone()));
                gateway.id
            };
            let own = organization.gateway.then(|| gateway(&mut facts, "organization".into()));
            let Organization { suspended, must_use: must_use_gateway, .. } = *organization;
            facts.set_organization(
                id,
                Some(OrganizationFacts { suspended, gateway: own, must_use_gateway, ..Default::default() }),
            );
            for (place, with_gateway) in organization.domains.iter().enumerate() {
                let own = with_gateway.then(|| gateway(&mut facts, format!("domain-{place}")));
                let name = DOMAINS[number][place].parse().unwrap();
                facts.set_domain(
                    name,
                    Some(DomainFacts { organization: id, gateway: own, awaits_gateway: false, inbound_host: None }),
                );
            }
            let accounts = [AccountId::new(), AccountId::new()];
            for (place, (with_gateway, suspended)) in organization.accounts.into_iter().enumerate() {
                let own = with_gateway.then(|| gateway(&mut facts, format!("user-{place}")));
                facts.set_account(accounts[place], Some(AccountFacts { suspended, gateway: own }));
            }
            for (local_part, at) in LOCAL_PARTS.iter().zip(organization.addresses) {
                for (domain, account) in DOMAINS[number].iter().zip(at) {
                    facts.set_address(&format!("{local_part}@{domain}"), account.map(|account| accounts[account]));
                }
            }
        }
        facts
    }
}

fn said(decision: &Decision) -> String {
    match decision {
        Decision::UnknownDomain => "unknown domain".into(),
        Decision::OrganizationSuspended => "organization suspended".into(),
        Decision::AccountSuspended => "account suspended".into(),
        Decision::Route(sender) => match &sender.route.next_hop {
            NextHop::Gateway(gateway) => {
                let name = gateway.address.to_string();
                format!("{} {}", sender.route.set_by, name.trim_end_matches(".gateway.example"))
            }
            NextHop::Platform(_) => sender.route.set_by.to_string(),
            NextHop::Nowhere => "nowhere".into(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_nearest_gateway_wins_however_the_sender_is_written(
        world in [organization(), organization()].prop_map(|organizations| World { organizations }),
        sender in sender(),
    ) {
        let decision = world.facts().decide(&sender.written(), &PlatformDefault::Mx);
        prop_assert_eq!(said(&decision), world.expected(&sender), "{}", sender.written());
    }
}

#[test]
fn a_sender_of_no_domain_known_here_has_no_route() {
    let world = World {
        organizations: [0, 1].map(|_| Organization {
            suspended: false,
            gateway: true,
            must_use: false,
            domains: [true; 2],
            accounts: [(true, false); 2],
            addresses: [[Some(0); 2]; 4],
        }),
    };
    let facts = world.facts();
    for sender in
        ["", "ann", "@a.example", "ann@", "ann@a.example.org", "ann@sub.a.example", "ann@example", "ann@[192.0.2.1]"]
    {
        assert_eq!(facts.decide(sender, &PlatformDefault::Mx), Decision::UnknownDomain, "{sender}");
    }
}
