//! What a test message says that has come back, or whose source somebody has pasted from a mailbox: which servers it has
//! passed, whether they changed it, from which address it left, and whether the domains' SPF records have that address.
//! Pure: `relay::test_message` asks the DNS, pages and command show the findings.

use std::net::IpAddr;

use mail_parser::{Host, Message, MessageParser, Protocol, Received};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, UtcOffset};

use super::{gateway_network, verification::Outcome, words::number};
use crate::mail::id::TestMessageId;

/// A test message that has come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// The address that the last server before us sent it from; `None`: our own servers took it in and did not say.
    pub left_from: Option<IpAddr>,
    /// The servers that have written into it, the first of them first and our own last.
    pub hops: Vec<Hop>,
    /// `None`: it went to somebody's mailbox, and so without one.
    pub signature: Option<Signature>,
    /// Of each mail domain whose mail leaves through the gateway; empty while the DNS is being asked.
    #[serde(default)]
    pub spf: Vec<SpfOf>,
    /// Of how many more mail domains it was not looked at.
    #[serde(default)]
    pub spf_more: i64,
}

/// What the SPF records of the mail domains say that use a gateway, as it is put into an [`Arrival`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SenderPolicies {
    pub spf: Vec<SpfOf>,
    /// Of how many more mail domains it was not looked at.
    pub spf_more: i64,
}

/// What one server's `Received` field says (RFC 5321 §4.4). Anybody can write such a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    pub by: String,
    /// The server before it, as that one has named itself or as its address was seen.
    pub from: Option<String>,
    pub ip: Option<IpAddr>,
    #[serde(with = "time::serde::timestamp::option")]
    pub at: Option<OffsetDateTime>,
    /// It says that the message came to it by TLS (RFC 3848).
    pub encrypted: bool,
}

/// What has become of the DKIM signature that the message was sent with (RFC 6376).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signature {
    Good,
    /// Something was written into the text, or taken out of it.
    BodyChanged,
    /// From, To, Subject, Date or Message-ID are not as they were.
    HeaderChanged,
    Removed,
}

/// Whether a mail domain's SPF record has the address that mail left from (RFC 7208).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpfOf {
    /// In ASCII.
    pub domain: String,
    pub verdict: Spf,
    /// What is published now.
    pub record: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spf {
    Covers,
    /// There is a record, and it does not name the address.
    DoesNotCover,
    NoRecord,
    /// There are two records, or one that nobody can follow.
    Invalid,
    /// The DNS gave no answer.
    NoAnswer,
}

/// Why something is not the source of a test message, in words for who has pasted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceMistake {
    #[error("Paste the source of the message here, or its header alone.")]
    Empty,
    #[error("It is larger than 256 KiB. Paste the header alone, which ends at the first empty line.")]
    TooLarge,
    #[error(
        "There is no “Received” field in it, which says what way a message came. Paste the whole header, as “Show \
         original” or “View source” has it."
    )]
    NoWay,
    #[error("This is another message: that of this page has {0} in its Message-ID. Look for it in your mailbox.")]
    AnotherMessage(TestMessageId),
}

/// How large a source may be, in bytes.
pub const LARGEST_SOURCE: usize = 256 * 1024;

/// How many hops are kept.
const MOST_HOPS: usize = 30;
/// How much of a name that a stranger has written, in characters.
const LONGEST_NAME: usize = 100;

impl Arrival {
    /// Of a message with our own `Received` field in front, which `client` has brought. Where that is a server of our
    /// own, the field behind ours says whence it has the message.
    pub fn of(content: &[u8], client: IpAddr, client_is_ours: bool, signature: Signature) -> Self {
        let parsed = MessageParser::new().parse_headers(content);
        let fields: Vec<&Received<'_>> =
            parsed.iter().flat_map(|message| message.received_all()).take(MOST_HOPS).collect();
        let left_from = match client_is_ours {
            false => Some(client),
            true => fields.get(1).and_then(|field| field.from_ip),
        };
        let hops = fields.into_iter().rev().map(Hop::of).collect();
        Self { left_from, hops, signature: Some(signature), spf: Vec::new(), spf_more: 0 }
    }

    /// Of the source of this message, as somebody has found it in their mailbox: a header is enough. Anybody can have
    /// written anything into it, so it counts for no more than who pastes it.
    ///
    /// # Errors
    /// If it cannot be that; what to paste instead.
    pub fn of_source(source: &str, id: TestMessageId) -> Result<Self, SourceMistake> {
        // An empty line in front would be the end of the header.
        let (source, id_in_words) = (source.trim_start(), id.to_string());
        if source.is_empty() {
            return Err(SourceMistake::Empty);
        }
        if source.len() > LARGEST_SOURCE {
            return Err(SourceMistake::TooLarge);
        }
        let parsed = MessageParser::new().parse_headers(source.as_bytes()).ok_or(SourceMistake::NoWay)?;
        let mut fields: Vec<&Received<'_>> = parsed.received_all().take(MOST_HOPS).collect();
        fields.reverse();
        if fields.is_empty() {
            return Err(SourceMistake::NoWay);
        }
        // A gateway may give it another Message-ID. The link in its text has the id as well.
        if !source.to_ascii_lowercase().contains(&id_in_words) {
            return Err(SourceMistake::AnotherMessage(id));
        }
        let relay = parsed.message_id().and_then(|own| own.strip_prefix(&id_in_words)?.strip_prefix('@'));
        let left_from = left_from(&fields, relay, &parsed);
        let hops = fields.into_iter().map(Hop::of).collect();
        Ok(Self { left_from, hops, signature: None, spf: Vec::new(), spf_more: 0 })
    }

    /// When the last server took it, by its own clock.
    fn taken_at(&self) -> Option<OffsetDateTime> {
        self.hops.iter().rev().find_map(|hop| hop.at)
    }

    /// The mail domains whose record should have the address and does not.
    pub fn uncovered(&self) -> impl Iterator<Item = &SpfOf> {
        self.spf.iter().filter(|spf| matches!(spf.verdict, Spf::DoesNotCover | Spf::NoRecord | Spf::Invalid))
    }
}

/// The address from which the world had it: a server behind the first that says it had it from our relay has written
/// down whom it had it from. Servers that take it to the mailbox come after that, and those that a gateway passes it on
/// to within its network have private addresses. Where the recipient's server says what it asked SPF about, that is it.
fn left_from(fields: &[&Received<'_>], relay: Option<&str>, message: &Message<'_>) -> Option<IpAddr> {
    let is_relay = |host: &Option<Host<'_>>| match (host, relay) {
        (Some(Host::Name(name)), Some(relay)) => name.eq_ignore_ascii_case(relay),
        _ => false,
    };
    let from_us = fields.iter().rposition(|field| is_relay(&field.from) || is_relay(&field.helo));
    let (seen_as, onward) = match from_us {
        Some(place) => (fields[place].from_ip, &fields[place + 1..]),
        None => (None, fields),
    };
    let addresses = || onward.iter().filter_map(|field| field.from_ip);
    let asked_about = client_ip(message).filter(|ip| Some(*ip) != seen_as);
    let public = addresses().find(|ip| gateway_network::is_public(*ip));
    asked_about.or(public).or_else(|| addresses().next()).or(seen_as)
}

/// `client-ip` of the last server's `Received-SPF` (RFC 7208 §9.1).
fn client_ip(message: &Message<'_>) -> Option<IpAddr> {
    let (_, value) = message.headers_raw().find(|(name, _)| name.eq_ignore_ascii_case("Received-SPF"))?;
    let (_, behind) = value.split_once("client-ip=")?;
    let written = behind.split(|end: char| end == ';' || end.is_whitespace()).next()?;
    written.trim_matches('"').parse().ok()
}

impl Hop {
    /// `archive.example.com, from relay.example (192.0.2.1), in clear, 10:00:01 UTC`.
    fn in_words(&self) -> String {
        let mut words = self.by.clone();
        match (&self.from, self.ip) {
            (Some(from), Some(ip)) => words.push_str(&format!(", from {from} ({ip})")),
            (Some(from), None) => words.push_str(&format!(", from {from}")),
            (None, Some(ip)) => words.push_str(&format!(", from {ip}")),
            (None, None) => {}
        }
        words.push_str(if self.encrypted { ", by TLS" } else { ", in clear" });
        if let Some(at) = self.at.map(|at| at.to_offset(UtcOffset::UTC)) {
            words.push_str(&format!(", {:02}:{:02}:{:02} UTC", at.hour(), at.minute(), at.second()));
        }
        words
    }

    fn of(field: &Received<'_>) -> Self {
        let by = field.by.as_ref().map_or_else(|| "unknown".to_owned(), name);
        let from = field.from.as_ref().or(field.helo.as_ref()).map(name);
        let at = field.date.as_ref().and_then(|date| OffsetDateTime::from_unix_timestamp(date.to_timestamp()).ok());
        let by_tls = matches!(
            field.with,
            Some(Protocol::ESMTPS | Protocol::ESMTPSA | Protocol::UTF8SMTPS | Protocol::UTF8SMTPSA)
        );
        Self { by, from, ip: field.from_ip, at, encrypted: by_tls || field.tls_version.is_some() }
    }
}

fn name(host: &Host<'_>) -> String {
    let name = match host {
        Host::Name(name) => name.to_string(),
        Host::IpAddr(address) => address.to_string(),
    };
    name.chars().filter(|character| !character.is_control()).take(LONGEST_NAME).collect()
}

/// How far a test message has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    pub sent_at: OffsetDateTime,
    pub arrived_at: Option<OffsetDateTime>,
    /// What it said when it came back.
    pub arrival: Option<&'a Arrival>,
    /// What its source has shown that somebody has pasted, and when.
    pub pasted: Option<(&'a Arrival, OffsetDateTime)>,
    /// Who has said that it is in their mailbox.
    pub seen_by: Option<&'a str>,
    pub recipient: &'a str,
    pub now: OffsetDateTime,
}

/// One thing that a test message has shown, in the form of a verification's step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub title: &'static str,
    pub outcome: Outcome,
    /// How long it took.
    pub took: Option<Duration>,
    pub saw: Vec<String>,
    /// What to do.
    pub advice: Option<String>,
}

/// For how long it is waited for a message; servers on the way may put it off.
pub const PATIENCE: Duration = Duration::minutes(10);
/// What is said of the signature of a message to a mailbox.
pub const UNSIGNED: &str = "Test messages to a mailbox are not signed (DKIM): its server would look for their key in the \
                            DNS, and hold it against them that there is none. One that comes back shows whether \
                            signatures survive.";
/// For how long it is waited for what the DNS says.
const DNS_PATIENCE: Duration = Duration::minutes(2);

impl Progress<'_> {
    /// Whether something may still come.
    pub fn is_awaited(&self) -> bool {
        match (self.arrived_at, self.shown()) {
            (None, _) => self.now - self.sent_at < PATIENCE,
            (Some(_), Some((arrival, at))) => {
                arrival.asks_dns() && arrival.spf.is_empty() && self.now - at < DNS_PATIENCE
            }
            (Some(_), None) => false,
        }
    }

    /// What is known of its way, and since when.
    fn shown(&self) -> Option<(&Arrival, OffsetDateTime)> {
        self.arrival.zip(self.arrived_at).or(self.pasted)
    }

    /// Of a message that the gateway has taken.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.arriving()];
        if let Some((arrival, _)) = self.shown() {
            findings.extend(arrival.signature.map(Signature::finding));
            findings.extend(arrival.sender_policy(self.is_awaited()));
        }
        findings
    }

    fn arriving(&self) -> Finding {
        let shown = self.shown().map(|(arrival, _)| arrival);
        let hops = shown.iter().flat_map(|arrival| &arrival.hops).map(Hop::in_words);
        // Servers write their time to the second.
        let took = match shown.filter(|_| self.arrival.is_none()) {
            Some(pasted) => pasted.taken_at().map(|at| (at - self.sent_at).max(Duration::SECOND)),
            None => self.arrived_at.map(|at| (at - self.sent_at).max(Duration::ZERO)),
        };
        let unsigned = shown.is_some_and(|arrival| arrival.signature.is_none());
        let seen = self.seen_by.map(|by| format!("{by} says so"));
        let finding = Finding {
            title: "Arrival",
            outcome: Outcome::UnderWay,
            took,
            saw: hops.chain(seen).collect(),
            advice: None,
        };
        match self.arrived_at {
            Some(_) => {
                let advice = unsigned.then(|| UNSIGNED.to_owned());
                Finding { outcome: Outcome::Passed, advice, ..finding }
            }
            None if self.is_awaited() => Finding { saw: vec![format!("on its way to {}", self.recipient)], ..finding },
            None => Finding {
                outcome: Outcome::Failed,
                saw: vec![format!("sent to {}", self.recipient)],
                advice: Some(
                    "It has not arrived: look into the gateway's log for what became of it. A filter may hold it, or \
                     the gateway cannot deliver to that address."
                        .to_owned(),
                ),
                ..finding
            },
        }
    }
}

impl Arrival {
    /// Whether SPF says something of the address that it left from: the world does not see a private one.
    pub fn asks_dns(&self) -> bool {
        self.left_from.is_some_and(gateway_network::is_public)
    }

    fn sender_policy(&self, is_awaited: bool) -> Option<Finding> {
        let finding = |outcome, saw, advice| Finding { title: "Sender policy (SPF)", outcome, took: None, saw, advice };
        let Some(left_from) = self.left_from else {
            let words = "No server has written down from which address it had the message: SPF cannot be looked at.";
            return self.signature.is_none().then(|| finding(Outcome::Failed, Vec::new(), Some(words.to_owned())));
        };
        let mut saw = vec![format!("it left from {left_from}")];
        if !self.asks_dns() {
            let words = "That is a private address: the world sees another one, which SPF has to have. It cannot be \
                         seen from here.";
            return Some(finding(Outcome::Passed, saw, Some(words.to_owned())));
        }
        if self.spf.is_empty() {
            let outcome = if is_awaited { Outcome::UnderWay } else { Outcome::Failed };
            let words = "It could not be looked at: have the gateway saved and used by a mail domain, and send again.";
            return Some(finding(outcome, saw, (!is_awaited).then(|| words.to_owned())));
        }
        for spf in &self.spf {
            saw.push(format!("{}: {}", spf.domain, spf.in_words()));
            if let Some(record) = spf.to_publish(left_from) {
                saw.push(format!("{}. TXT \"{record}\"", spf.domain));
            }
        }
        if self.spf_more > 0 {
            let domains = if self.spf_more == 1 { "mail domain" } else { "mail domains" };
            let more = number(self.spf_more);
            saw.push(format!("The records of {more} more {domains} were not looked at: compare them with these."));
        }
        let is_good = self.uncovered().next().is_none();
        let words = "Publish the records that stand here in the DNS: recipients then know that this mail is yours.";
        let outcome = if is_good { Outcome::Passed } else { Outcome::Failed };
        Some(finding(outcome, saw, (!is_good).then(|| words.to_owned())))
    }
}

impl Signature {
    fn finding(self) -> Finding {
        let (is_good, words) = (self == Self::Good, self.in_words().to_owned());
        Finding {
            title: "Signature",
            outcome: if is_good { Outcome::Passed } else { Outcome::Failed },
            took: None,
            saw: is_good.then(|| words.clone()).into_iter().collect(),
            advice: (!is_good).then_some(words),
        }
    }

    /// In a sentence.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Good => "A DKIM signature survives: nothing that is signed was changed on the way.",
            Self::BodyChanged => {
                "The text was changed on the way, as by a footer: DKIM signatures that are made before the gateway are \
                 broken. Have the gateway sign, or leave the text alone."
            }
            Self::HeaderChanged => {
                "From, To, Subject, Date or Message-ID were changed on the way: DKIM signatures that are made before \
                 the gateway are broken. Have the gateway sign, or leave these fields alone."
            }
            Self::Removed => {
                "The DKIM signature was removed on the way: have the gateway keep signatures, or sign by itself."
            }
        }
    }
}

impl SpfOf {
    /// The record to publish, so that mail from there is the domain's own; `None` where nothing has to be published or
    /// nobody can say what.
    pub fn to_publish(&self, left_from: IpAddr) -> Option<String> {
        let mechanism = match left_from {
            IpAddr::V4(address) => format!("ip4:{address}"),
            IpAddr::V6(address) => format!("ip6:{address}"),
        };
        match (self.verdict, &self.record) {
            (Spf::NoRecord, _) => Some(format!("v=spf1 {mechanism} ~all")),
            (Spf::DoesNotCover, Some(record)) => Some(with(record, &mechanism)),
            _ => None,
        }
    }

    /// In a sentence.
    pub fn in_words(&self) -> &'static str {
        match self.verdict {
            Spf::Covers => "The record has the address.",
            Spf::DoesNotCover => "The record does not have the address: recipients may take mail for forged.",
            Spf::NoRecord => "There is no record: recipients cannot tell this mail from a forgery.",
            Spf::Invalid => "The record cannot be followed: see that there is one only, and that it is well-formed.",
            Spf::NoAnswer => "The DNS gave no answer.",
        }
    }
}

/// In front of what stands last because nothing behind it counts (RFC 7208 §5.1, §6.1).
fn with(record: &str, mechanism: &str) -> String {
    let is_last = |term: &&str| {
        let term = term.to_ascii_lowercase();
        term.trim_start_matches(['+', '-', '~', '?']) == "all" || term.starts_with("redirect=")
    };
    let mut terms: Vec<&str> = record.split_ascii_whitespace().collect();
    let place = terms.iter().position(is_last).unwrap_or(terms.len());
    terms.insert(place, mechanism);
    terms.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "Received: from mx-out.archive.example ([203.0.113.7])\r\n\tby relay.example with ESMTPS id 2;\r\n\t\
         Mon, 23 Nov 2026 10:00:05 +0000\r\n\
         Received: from relay.example (relay.example [192.0.2.1])\r\n\tby archive.example.com (Postfix) with ESMTP id 1\r\n\t\
         for <x@y>; Mon, 23 Nov 2026 11:00:01 +0100 (CET)\r\n\
         Subject: Test\r\n\r\nReceived: from nobody by nobody; never\r\n";

    fn ip(address: &str) -> IpAddr {
        address.parse().expect("an address")
    }

    #[test]
    fn the_way_is_told_from_its_beginning_with_times_and_tls() {
        let arrival = Arrival::of(MESSAGE.as_bytes(), ip("203.0.113.7"), false, Signature::Good);
        let told: Vec<_> =
            arrival.hops.iter().map(|hop| (hop.by.as_str(), hop.from.as_deref(), hop.encrypted)).collect();
        let expected = [
            ("archive.example.com", Some("relay.example"), false),
            ("relay.example", Some("mx-out.archive.example"), true),
        ];
        assert_eq!(told, expected);
        let seconds: Vec<_> = arrival.hops.iter().filter_map(|hop| hop.at).map(|at| at.second()).collect();
        assert_eq!(seconds, [1, 5]);
        assert_eq!(arrival.hops[0].ip, Some(ip("192.0.2.1")));
    }

    #[test]
    fn it_left_from_whoever_brought_it_and_of_our_own_server_from_whom_that_has_it() {
        let of = |ours| Arrival::of(MESSAGE.as_bytes(), ip("198.51.100.9"), ours, Signature::Good).left_from;
        assert_eq!(of(false), Some(ip("198.51.100.9")));
        assert_eq!(of(true), Some(ip("192.0.2.1")));
        assert_eq!(Arrival::of(b"Subject: x\r\n\r\n", ip("198.51.100.9"), true, Signature::Removed).left_from, None);
    }

    #[test]
    fn what_strangers_write_is_bounded_and_breaks_nothing() {
        let long = format!("Received: from {} by x; never\r\n", "a".repeat(5000)).repeat(100);
        let arrival = Arrival::of(format!("{long}\r\n").as_bytes(), ip("::1"), false, Signature::Good);
        assert!(arrival.hops.len() == MOST_HOPS && arrival.hops.iter().all(|hop| hop.at.is_none()));
        assert!(arrival.hops.iter().all(|hop| hop.from.as_ref().is_none_or(|from| from.len() <= LONGEST_NAME)));
        for content in [&b""[..], b"\xff\xfe", b"Received:\r\n\r\n", b"Received: by \x00\r\n\r\n"] {
            Arrival::of(content, ip("::1"), true, Signature::Good);
        }
    }

    const ID: &str = "0199f3a0-0000-7000-8000-000000000001";

    fn pasted(source: &str) -> Result<Arrival, SourceMistake> {
        Arrival::of_source(source, ID.parse().expect("an id"))
    }

    /// As it stands in a mailbox: the gateway, its way out, the recipient's server and the one with the mailbox.
    fn source(spf: &str) -> String {
        format!(
            "Received: from mx.home.example (2002:a05::1) by store.home.example with LMTP; Mon, 23 Nov 2026 10:00:09 +0000\r\n\
             {spf}\
             Received: from out.archive.example (out.archive.example [203.0.113.7])\r\n\tby mx.home.example with ESMTPS id 3;\r\n\t\
             Mon, 23 Nov 2026 10:00:07 +0000\r\n\
             Received: from scan.archive.example ([10.0.0.9]) by out.archive.example with ESMTP; Mon, 23 Nov 2026 10:00:05 +0000\r\n\
             Received: from relay.example (unknown [192.0.2.1]) by archive.example.com with ESMTPS; Mon, 23 Nov 2026 10:00:01 +0000\r\n\
             Subject: Test message\r\nMessage-ID: <{ID}@relay.example>\r\n\r\n"
        )
    }

    #[test]
    fn a_source_from_a_mailbox_tells_the_way_and_from_which_address_the_world_had_it() {
        let arrival = pasted(&format!("\r\n\r\n{}", source(""))).expect("a source");
        let by: Vec<&str> = arrival.hops.iter().map(|hop| hop.by.as_str()).collect();
        assert_eq!(by, ["archive.example.com", "out.archive.example", "mx.home.example", "store.home.example"]);
        assert_eq!((arrival.left_from, arrival.signature), (Some(ip("203.0.113.7")), None));
        let said = "Received-SPF: pass (home.example: allowed) client-ip=198.51.100.2; envelope-from=x\r\n";
        assert_eq!(pasted(&source(said)).expect("a source").left_from, Some(ip("198.51.100.2")));
        let of_gateway = "Received-SPF: none client-ip=192.0.2.1\r\n";
        assert_eq!(pasted(&source(of_gateway)).expect("a source").left_from, Some(ip("203.0.113.7")), "that is us");
        // The gateway has the mailbox itself, or has taken out what our relay has to do with it.
        let alone = format!(
            "Received: from relay.example ([192.0.2.1]) by x; never\r\nMessage-ID: <{ID}@relay.example>\r\n\r\n"
        );
        assert_eq!(pasted(&alone).expect("a source").left_from, Some(ip("192.0.2.1")));
        let hidden = alone.replace("from relay.example ([192.0.2.1])", "from out.archive.example ([203.0.113.7])");
        assert_eq!(pasted(&hidden).expect("a source").left_from, Some(ip("203.0.113.7")));
    }

    #[test]
    fn what_is_no_source_of_the_message_is_told_with_what_to_paste() {
        assert_eq!(pasted(" \r\n"), Err(SourceMistake::Empty));
        assert_eq!(pasted("Dear Ann,\r\n\r\nhello"), Err(SourceMistake::NoWay));
        assert_eq!(pasted(&format!("Message-ID: <{ID}@x>\r\n\r\n")), Err(SourceMistake::NoWay));
        let other = source("").replace(ID, "0199f3a0-0000-7000-8000-000000000002");
        assert_eq!(pasted(&other), Err(SourceMistake::AnotherMessage(ID.parse().expect("an id"))));
        let rewritten = source("").replace(&format!("<{ID}@relay.example>"), "<1@archive.example>") + ID;
        assert!(pasted(&rewritten).is_ok(), "its text has the id too");
        assert_eq!(pasted(&(source("") + &"x".repeat(LARGEST_SOURCE))), Err(SourceMistake::TooLarge));
        for hostile in
            ["Received:", "\0Received: \u{feff}", "Received: from [999.1.1.1] by ; x\r\nReceived-SPF: client-ip=\r\n"]
        {
            let _ = pasted(&format!("{hostile}\r\n{ID}"));
        }
    }

    #[test]
    fn what_a_source_shows_is_told_as_of_a_message_that_is_back_but_for_the_signature() {
        let mut arrival = pasted(&source("")).expect("a source");
        let sent = arrival.hops[0].at.expect("a time") - Duration::SECOND;
        let of = |arrival: &Arrival, now| {
            let (arrived_at, pasted) = (Some(sent + Duration::HOUR), Some((arrival, sent + Duration::HOUR)));
            let (seen_by, recipient) = (Some("ann"), "ann@home.example");
            let progress =
                Progress { sent_at: sent, arrived_at, arrival: None, pasted, seen_by, recipient, now: sent + now };
            (progress.is_awaited(), progress.findings())
        };
        use Outcome::{Failed, Passed, UnderWay};
        let outcomes = |found: &[Finding]| found.iter().map(|found| (found.title, found.outcome)).collect::<Vec<_>>();
        let (is_awaited, found) = of(&arrival, Duration::HOUR);
        assert!(is_awaited);
        assert_eq!(outcomes(&found), [("Arrival", Passed), ("Sender policy (SPF)", UnderWay)]);
        assert_eq!(found[0].took, Some(Duration::seconds(9)), "by the servers' clocks, whenever it was pasted");
        assert!(found[0].advice.as_deref().is_some_and(|advice| advice.contains("are not signed")));
        let (is_awaited, found) = of(&arrival, Duration::HOUR + Duration::minutes(3));
        assert!(!is_awaited && found[1].outcome == Failed);
        arrival.spf = vec![SpfOf { domain: "a.example".to_owned(), verdict: Spf::Covers, record: None }];
        assert_eq!(of(&arrival, Duration::HOUR).1[1].outcome, Passed);
        arrival.left_from = None;
        assert_eq!(of(&arrival, Duration::HOUR).1[1].outcome, Failed);
    }

    fn progress(arrived: Option<i64>, arrival: Option<&Arrival>, now: i64) -> Vec<Finding> {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds);
        let (arrived_at, recipient) = (arrived.map(at), "return@probe.example");
        Progress { sent_at: at(0), arrived_at, arrival, pasted: None, seen_by: None, recipient, now: at(now) }
            .findings()
    }

    #[test]
    fn a_message_is_on_its_way_for_ten_minutes_and_then_missing() {
        let of = |now| progress(None, None, now).remove(0);
        assert_eq!((of(599).outcome, of(599).advice), (Outcome::UnderWay, None));
        assert_eq!(of(600).outcome, Outcome::Failed);
        assert!(of(600).advice.is_some_and(|advice| advice.contains("has not arrived")));
    }

    #[test]
    fn what_a_message_shows_that_is_back_comes_with_what_to_do() {
        let mut arrival = Arrival::of(MESSAGE.as_bytes(), ip("203.0.113.7"), false, Signature::BodyChanged);
        arrival.left_from = Some(ip("9.9.9.9"));
        let titles = |found: &[Finding]| found.iter().map(|found| (found.title, found.outcome)).collect::<Vec<_>>();
        use Outcome::{Failed, Passed, UnderWay};
        let found = progress(Some(6), Some(&arrival), 7);
        assert_eq!(titles(&found), [("Arrival", Passed), ("Signature", Failed), ("Sender policy (SPF)", UnderWay)]);
        assert_eq!(found[0].took, Some(Duration::seconds(6)));
        let first = "archive.example.com, from relay.example (192.0.2.1), in clear, 10:00:01 UTC";
        assert_eq!(found[0].saw.first().map(String::as_str), Some(first));
        assert!(found[1].advice.as_ref().is_some_and(|advice| advice.contains("as by a footer")));

        let of = |domain: &str, verdict| SpfOf { domain: domain.to_owned(), verdict, record: None };
        arrival.spf = vec![of("a.example", Spf::Covers), of("b.example", Spf::NoRecord)];
        arrival.signature = Some(Signature::Good);
        let found = progress(Some(6), Some(&arrival), 7);
        assert_eq!(titles(&found)[1..], [("Signature", Passed), ("Sender policy (SPF)", Failed)]);
        assert_eq!(found[2].saw.last().map(String::as_str), Some("b.example. TXT \"v=spf1 ip4:9.9.9.9 ~all\""));
        arrival.spf.pop();
        assert_eq!(progress(Some(6), Some(&arrival), 7)[2].outcome, Passed);

        arrival.left_from = Some(ip("10.0.0.7"));
        let private = progress(Some(6), Some(&arrival), 7).remove(2);
        assert!(private.advice.is_some_and(|advice| advice.contains("private address")));
    }

    #[test]
    fn the_record_to_publish_keeps_what_is_published_and_names_the_address_before_the_end() {
        let of = |verdict, record: Option<&str>, from| {
            SpfOf { domain: "acme.example".to_owned(), verdict, record: record.map(str::to_owned) }.to_publish(ip(from))
        };
        for (record, expected) in [
            ("v=spf1 mx -all", "v=spf1 mx ip4:203.0.113.7 -all"),
            ("v=spf1  include:a.example ~ALL", "v=spf1 include:a.example ip4:203.0.113.7 ~ALL"),
            ("v=spf1 redirect=b.example", "v=spf1 ip4:203.0.113.7 redirect=b.example"),
            ("v=spf1 mx", "v=spf1 mx ip4:203.0.113.7"),
        ] {
            assert_eq!(of(Spf::DoesNotCover, Some(record), "203.0.113.7").as_deref(), Some(expected));
        }
        assert_eq!(of(Spf::NoRecord, None, "2001:db8::7").as_deref(), Some("v=spf1 ip6:2001:db8::7 ~all"));
        for verdict in [Spf::Covers, Spf::Invalid, Spf::NoAnswer] {
            assert_eq!(of(verdict, Some("v=spf1 -all"), "203.0.113.7"), None);
        }
    }
}
