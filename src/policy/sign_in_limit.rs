//! How many sign-ins may fail before no more are looked at: by client, and by client and name.
//! Counted in memory by each relay; what others counted comes in between by way of the store.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

/// Failures are forgotten so long after the first of them.
pub const WINDOW: Duration = Duration::minutes(15);
/// After so many with one name a client has to wait.
pub const MOST_OF_NAME: u32 = 10;
/// After so many with any names.
pub const MOST_OF_CLIENT: u32 = 50;
/// How many clients and names are counted; beyond that the oldest are forgotten.
const MOST_COUNTED: usize = 50_000;

/// Failures of one client, or of one client with one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    failures: u32,
    since: OffsetDateTime,
    /// How many of them the store does not know yet.
    unreported: u32,
}

/// What failed, by who tried.
#[derive(Debug, Default)]
pub struct Failures {
    by: HashMap<String, Count>,
}

/// What all relays together have counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub who: String,
    pub failures: u32,
    pub since: OffsetDateTime,
}

impl Failures {
    /// Whether a sign-in of this client is looked at.
    pub fn permit(&self, client: IpAddr, name: &str, now: OffsetDateTime) -> bool {
        let [of_client, of_name] = who(client, name);
        self.of(&of_client, now) < MOST_OF_CLIENT && self.of(&of_name, now) < MOST_OF_NAME
    }

    fn of(&self, who: &str, now: OffsetDateTime) -> u32 {
        self.by.get(who).filter(|count| now - count.since < WINDOW).map_or(0, |count| count.failures)
    }

    /// Notes that a sign-in failed.
    pub fn add(&mut self, client: IpAddr, name: &str, now: OffsetDateTime) {
        if self.by.len() >= MOST_COUNTED {
            self.make_room(now);
        }
        for who in who(client, name) {
            let fresh = Count { failures: 0, since: now, unreported: 0 };
            let count = self.by.entry(who).or_insert(fresh);
            if now - count.since >= WINDOW {
                *count = fresh;
            }
            count.failures += 1;
            count.unreported += 1;
        }
    }

    fn make_room(&mut self, now: OffsetDateTime) {
        self.by.retain(|_, count| now - count.since < WINDOW);
        if self.by.len() >= MOST_COUNTED {
            let mut ages: Vec<OffsetDateTime> = self.by.values().map(|count| count.since).collect();
            let (_, middle, _) = ages.select_nth_unstable(MOST_COUNTED / 2);
            let middle = *middle;
            self.by.retain(|_, count| count.since > middle);
        }
    }

    /// What the store does not know yet; from here on it counts as told.
    pub fn take_unreported(&mut self) -> Vec<(String, u32)> {
        let taken = self.by.iter_mut().filter(|(_, count)| count.unreported > 0);
        taken.map(|(who, count)| (who.clone(), std::mem::take(&mut count.unreported))).collect()
    }

    /// The store could not be told after all.
    pub fn give_back(&mut self, unreported: Vec<(String, u32)>) {
        for (who, failures) in unreported {
            if let Some(count) = self.by.get_mut(&who) {
                count.unreported += failures;
            }
        }
    }

    /// Takes over what all relays together have counted.
    pub fn learn(&mut self, counted: Vec<Counted>) {
        for Counted { who, failures, since } in counted {
            let known = self.by.get(&who).copied();
            let unreported = known.map_or(0, |count| count.unreported);
            self.by.insert(who, Count { failures: failures + unreported, since, unreported });
        }
    }
}

/// What counts as one client. One of IPv6 has a network of its own, and can have another address in it for each try
/// (RFC 6177).
pub fn one_client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

fn who(client: IpAddr, name: &str) -> [String; 2] {
    let client = match one_client(client) {
        IpAddr::V4(client) => client.to_string(),
        IpAddr::V6(network) => format!("{network}/64"),
    };
    let hash = Sha256::digest(name);
    let of_name =
        format!("{client} {:02x}{:02x}{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3], hash[4], hash[5]);
    [client, of_name]
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_host_that_has_a_network_to_itself_is_one_client() {
        let one = |address: &str| one_client(ip(address));
        assert_eq!(one("2001:db8:0:1::7"), one("2001:db8:0:1:ffff::9"));
        assert_ne!(one("2001:db8:0:1::7"), one("2001:db8:0:2::7"));
        assert_ne!(one("192.0.2.7"), one("192.0.2.8"));
    }

    #[test]
    fn a_client_that_guesses_has_to_wait_and_nobody_else() {
        let mut failures = Failures::default();
        for _ in 0..MOST_OF_NAME {
            assert!(failures.permit(ip("192.0.2.1"), "acme", START));
            failures.add(ip("192.0.2.1"), "acme", START);
        }
        assert!(!failures.permit(ip("192.0.2.1"), "acme", START));
        assert!(failures.permit(ip("192.0.2.1"), "birch", START), "another name from the same address");
        assert!(failures.permit(ip("192.0.2.2"), "acme", START), "the same name from elsewhere");
        for name in 0..MOST_OF_CLIENT {
            failures.add(ip("192.0.2.1"), &name.to_string(), START);
        }
        assert!(!failures.permit(ip("192.0.2.1"), "birch", START));
        assert!(failures.permit(ip("192.0.2.1"), "acme", START + WINDOW));
    }

    #[test]
    fn a_client_with_a_network_of_its_own_is_one_client() {
        let mut failures = Failures::default();
        for last in 0..MOST_OF_NAME {
            failures.add(ip(&format!("2001:db8::{last}")), "acme", START);
        }
        assert!(!failures.permit(ip("2001:db8::ffff"), "acme", START));
        assert!(failures.permit(ip("2001:db8:0:1::"), "acme", START));
    }

    #[test]
    fn what_is_counted_stays_bounded() {
        let mut failures = Failures::default();
        for client in 0..60_000_u32 {
            failures.add(IpAddr::V4(client.into()), "acme", START + Duration::milliseconds(i64::from(client)));
        }
        assert!(failures.by.len() <= MOST_COUNTED + 2, "{}", failures.by.len());
    }
}
