//! Numbers, routes and moments in the words that pages use for them.
//! What is said is each page's; how figures look is decided once, here.

use std::borrow::Borrow;

use time::{Duration, OffsetDateTime, macros::format_description};

use crate::{
    mail::{GatewayAddress, Mailbox},
    policy::{
        routing::{HeldUntil, NextHop, PlatformDefault, Route, Scope, SenderGateways, route},
        words,
    },
};

// Templates pass references, everything else values.

/// `1240` → `1,240`.
pub fn number(count: impl Borrow<i64>) -> String {
    words::number(*count.borrow())
}

/// `1 account`, `1,240 accounts`.
pub fn counted(count: impl Borrow<i64>, one: &str, many: &str) -> String {
    let count = *count.borrow();
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// A number of bytes: `320 bytes`, `12 kB`, `1.4 MB`.
pub fn size(bytes: impl Borrow<i64>) -> String {
    match *bytes.borrow() {
        bytes @ ..1_000 => counted(bytes, "byte", "bytes"),
        bytes @ 1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        bytes => format!("{:.1} MB", bytes as f64 / 1_000_000.0),
    }
}

/// A moment with its zone, to the minute: `23 November 2026, 14:02 UTC`.
pub fn moment(moment: OffsetDateTime) -> String {
    words::moment(moment)
}

/// A moment with its zone, to the second: `23 November 2026, 14:02:07 UTC`.
pub fn exact(moment: OffsetDateTime) -> String {
    let format = format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute]:[second] UTC");
    moment.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_else(|_| moment.to_string())
}

/// The time of a moment to the second, where the day is known: `14:02:07 UTC`.
pub fn second(moment: OffsetDateTime) -> String {
    let format = format_description!("[hour]:[minute]:[second] UTC");
    moment.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_else(|_| moment.to_string())
}

/// How long something took: `under 1 ms`, `12 ms`, `6.2 s`, `3 min 20 s`.
pub fn took(length: Duration) -> String {
    words::took(length)
}

/// How long ago something was, as long as that says more than when: `12 s ago`, `5 min ago`, `3 h ago`; then the moment.
pub fn ago(moment_then: OffsetDateTime, now: OffsetDateTime) -> String {
    words::ago(moment_then, now)
}

/// The same as short as a list has room for: the time of today, else the day, of another year with the year.
pub fn brief(moment: OffsetDateTime, now: OffsetDateTime) -> String {
    let (moment, now) = (moment.to_offset(time::UtcOffset::UTC), now.to_offset(time::UtcOffset::UTC));
    match moment.date() == now.date() {
        true => moment.format(format_description!("[hour]:[minute] UTC")).unwrap_or_else(|_| moment.to_string()),
        false => day(moment, now),
    }
}

/// A day, of another year with the year: `3 Nov`.
pub fn day(moment: OffsetDateTime, now: OffsetDateTime) -> String {
    let (moment, now) = (moment.to_offset(time::UtcOffset::UTC), now.to_offset(time::UtcOffset::UTC));
    let written = match moment.year() == now.year() {
        true => moment.format(format_description!("[day padding:none] [month repr:short]")),
        false => moment.format(format_description!("[day padding:none] [month repr:short] [year]")),
    };
    written.unwrap_or_else(|_| moment.to_string())
}

/// A User ID for people: its domain in its own script.
pub fn user_id(mailbox: &Mailbox) -> String {
    format!("{}@{}", mailbox.local_part(), mailbox.domain().to_unicode())
}

/// A gateway address in the two parts that pages set apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownAddress {
    pub host: String,
    pub port: u16,
}

impl From<&GatewayAddress> for ShownAddress {
    fn from(address: &GatewayAddress) -> Self {
        Self { host: address.host().to_string(), port: address.port() }
    }
}

/// Where mail goes, and which scope says so, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownRoute {
    /// `None`: directly to the recipients' servers.
    pub address: Option<ShownAddress>,
    /// Nowhere: mail must leave through a gateway, and there is none. Until when it is held, as the end of a sentence.
    pub held: Option<&'static str>,
    pub set_by: Scope,
}

impl ShownRoute {
    /// The same decision that the relay makes.
    pub fn of(gateways: SenderGateways<GatewayAddress>, default: &PlatformDefault) -> Self {
        let held_until = gateways.held_until;
        let Route { next_hop, set_by } = route(gateways, default);
        let address = match &next_hop {
            NextHop::Gateway(address) | NextHop::Platform(PlatformDefault::Smarthost(address)) => Some(address.into()),
            NextHop::Platform(PlatformDefault::Mx) | NextHop::Nowhere => None,
        };
        let held = held_until.filter(|_| next_hop == NextHop::Nowhere).map(HeldUntil::words);
        Self { address, held, set_by }
    }

    /// The tag beside the address.
    pub fn tag(&self) -> &'static str {
        match self.set_by {
            Scope::User => "own",
            Scope::Domain => "domain",
            Scope::Organization => "organization",
            Scope::Platform => "platform",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (count, expected) in
            [(0_i64, "0"), (999, "999"), (1240, "1,240"), (1_000_000, "1,000,000"), (-1240, "-1,240")]
        {
            assert_eq!(number(count), expected);
        }
        assert_eq!(counted(1_i64, "account", "accounts"), "1 account");
        assert_eq!(counted(0_i64, "account", "accounts"), "0 accounts");
        for (bytes, expected) in [(1_i64, "1 byte"), (999, "999 bytes"), (12_345, "12 kB"), (1_440_000, "1.4 MB")] {
            assert_eq!(size(bytes), expected);
        }
    }
}
