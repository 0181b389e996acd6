//! From which addresses mail reaches a gateway, which has to accept it from each of them: one list for pages and command.
//! Relays say them, `store::relay` keeps them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

/// The addresses that the connections of one relay are seen from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundAddresses {
    /// Its name.
    pub relay: String,
    pub addresses: Vec<IpNet>,
    /// The operator has named them. Else they are those of the relay's machine, which address translation may hide.
    pub are_set: bool,
}

/// One line of what a gateway has to accept, and the relays whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToAllow {
    pub address: String,
    pub relays: Vec<String>,
}

/// What a gateway has to accept: each address once, IPv4 first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressesToAllow {
    pub lines: Vec<ToAllow>,
    /// Relays that only know the addresses of their own machine.
    pub unsure: Vec<String>,
}

impl AddressesToAllow {
    /// Of all relays together.
    pub fn of(relays: &[OutboundAddresses]) -> Self {
        let mut of_address = BTreeMap::<IpNet, Vec<String>>::new();
        for relay in relays {
            for address in &relay.addresses {
                let relays = of_address.entry(*address).or_default();
                if !relays.contains(&relay.relay) {
                    relays.push(relay.relay.clone());
                }
            }
        }
        let unsure = relays.iter().filter(|relay| !relay.are_set && !relay.addresses.is_empty());
        Self {
            unsure: unsure.map(|relay| relay.relay.clone()).collect(),
            lines: of_address
                .iter()
                .map(|(net, relays)| ToAllow { address: written(net), relays: relays.clone() })
                .collect(),
        }
    }

    /// Of the relays as a gateway has seen them: where the operator has set nothing, the address counts that a relay's
    /// connection to it came from.
    pub fn as_seen(relays: Vec<OutboundAddresses>, from: impl Fn(&str) -> Option<IpAddr>) -> Self {
        let as_seen = |relay: OutboundAddresses| match from(&relay.relay).filter(|_| !relay.are_set) {
            Some(from) => OutboundAddresses { addresses: vec![from.to_canonical().into()], ..relay },
            None => relay,
        };
        Self::of(&relays.into_iter().map(as_seen).collect::<Vec<_>>())
    }

    /// One address a line, as the settings of mail servers take them.
    pub fn block(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(|line| line.address.as_str()).collect();
        lines.join("\n")
    }

    /// How many lines that are.
    pub fn height(&self) -> usize {
        self.lines.len().clamp(1, MOST_LINES)
    }
}

/// How many lines are seen at once.
const MOST_LINES: usize = 12;

/// A single address stands without the length of its network.
pub fn written(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}

/// What to name to whoever is to accept a connection that came from `local`: as the operator has set it, of the same
/// version of IP where there is one.
pub fn seen_from(set: &[IpNet], local: Option<IpAddr>) -> Vec<IpNet> {
    let Some(local) = local.map(|local| local.to_canonical()) else { return set.to_vec() };
    let of_version: Vec<IpNet> =
        set.iter().filter(|network| network.addr().is_ipv4() == local.is_ipv4()).copied().collect();
    match (set, of_version.is_empty()) {
        ([], _) => vec![local.into()],
        (set, true) => set.to_vec(),
        (_, false) => of_version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(relay: &str, addresses: &[&str], are_set: bool) -> OutboundAddresses {
        let one = |typed: &&str| typed.parse().or_else(|_| typed.parse::<IpAddr>().map(IpNet::from)).unwrap();
        OutboundAddresses { relay: relay.to_owned(), addresses: addresses.iter().map(one).collect(), are_set }
    }

    #[test]
    fn each_address_is_named_once_with_every_relay_that_it_belongs_to() {
        let relays =
            [of("one", &["2001:db8::7", "203.0.113.7"], true), of("two", &["203.0.113.7", "203.0.113.8/29"], false)];
        let to_allow = AddressesToAllow::of(&relays);
        assert_eq!(to_allow.block(), "203.0.113.7\n203.0.113.8/29\n2001:db8::7");
        assert_eq!(to_allow.lines[0].relays, ["one", "two"]);
        assert_eq!(to_allow.unsure, ["two"]);
        assert_eq!(AddressesToAllow::of(&[]).block(), "");
        let seen = AddressesToAllow::as_seen(relays.to_vec(), |_| Some("::ffff:10.0.0.7".parse().unwrap()));
        assert_eq!(seen.block(), "10.0.0.7\n203.0.113.7\n2001:db8::7", "what the operator has set counts");
    }

    #[test]
    fn who_refuses_a_connection_is_told_the_addresses_of_its_own_version_of_ip() {
        let set = of("one", &["203.0.113.7", "2001:db8::7"], true).addresses;
        let local = |typed: &str| Some(typed.parse().unwrap());
        let names = |set: &[IpNet], local| seen_from(set, local).iter().map(written).collect::<Vec<_>>();
        assert_eq!(names(&set, local("10.0.0.1")), ["203.0.113.7"]);
        assert_eq!(names(&set, local("::ffff:10.0.0.1")), ["203.0.113.7"]);
        assert_eq!(names(&set[..1], local("fd00::1")), ["203.0.113.7"]);
        assert_eq!(names(&set, None), ["203.0.113.7", "2001:db8::7"]);
        assert_eq!(names(&[], local("10.0.0.1")), ["10.0.0.1"]);
        assert!(seen_from(&[], None).is_empty());
    }
}
