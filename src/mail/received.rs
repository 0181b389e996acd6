//! The one header field that the relay adds to a message (RFC 5321 §4.4): the trace of our hop.
//! Made when a message has been read whole, put in front of it by `relay::submission`.

use std::{borrow::Cow, net::IpAddr};

use memchr::memchr;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use super::{ShortText, id::QueueId};

/// What a `Received` field says.
#[derive(Debug, Clone)]
pub struct Received<'a> {
    /// The name that the client gave in EHLO or HELO, believed or not.
    pub helo: &'a str,
    pub client: IpAddr,
    /// Our own name.
    pub by: &'a str,
    /// `ESMTP`, `SMTP`, `UTF8SMTP`, … (RFC 3848, RFC 6531 §4.3).
    pub with: &'static str,
    /// The id under which our log and queue know the message.
    pub id: &'a str,
    pub at: OffsetDateTime,
}

impl Received<'_> {
    /// The whole field with its line ends. The client's name is data of a stranger: what could end
    /// the line or close the comment is left out.
    pub fn to_field(&self) -> String {
        let is_harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
        let helo: Cow<'_, str> = match self.helo.chars().all(is_harmless) {
            true => self.helo.into(),
            false => self.helo.chars().filter(|c| is_harmless(*c)).collect(),
        };
        let helo = if helo.is_empty() { "unknown" } else { &*helo };
        let family = if self.client.is_ipv6() { "IPv6:" } else { "" };
        let at = self.at.format(&Rfc2822).unwrap_or_default();
        let (client, by, with, id) = (ShortText::of_ip(self.client), self.by, self.with, self.id);
        let from = ["Received: from ", helo, " ([", family, &client, "])\r\n"].concat();
        [&from, "\tby ", by, " with ", with, " id ", id, ";\r\n\t", &at, "\r\n"].concat()
    }
}

/// What the `Received` fields of a message say about the way that it has come (RFC 5321 §6.3). Anybody can write such
/// fields: they end loops and explain, and decide nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// How many servers it has passed.
    pub hops: usize,
    /// How many of those were we.
    pub own: usize,
    /// The id that it had here the last time.
    pub first_pass: Option<String>,
}

impl Trace {
    /// Reads the header section at the front of a message.
    pub fn of(message: &[u8], own_name: &str) -> Self {
        let mut trace = Self::default();
        let (mut rest, mut is_received, mut is_own) = (message, false, false);
        while let Some(length) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(length + 1);
            rest = after;
            let is_folded = matches!(line.first(), Some(b' ' | b'\t'));
            if !is_folded {
                if line == b"\r\n" || line == b"\n" {
                    break;
                }
                is_own = false;
                is_received = line.get(..FIELD.len()).is_some_and(|name| name.eq_ignore_ascii_case(FIELD));
                trace.hops += usize::from(is_received);
            }
            if is_received {
                trace.read(line, own_name, &mut is_own);
            }
        }
        trace
    }

    /// Reads one line of a `Received` field.
    fn read(&mut self, line: &[u8], own_name: &str, is_own: &mut bool) {
        let mut words = line.split(|byte| byte.is_ascii_whitespace() || *byte == b';').filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(b"by") && !*is_own {
                *is_own = words.next().is_some_and(|name| name.eq_ignore_ascii_case(own_name.as_bytes()));
                self.own += usize::from(*is_own);
            } else if word.eq_ignore_ascii_case(b"id") && *is_own && self.first_pass.is_none() {
                let id = words.next().and_then(|id| std::str::from_utf8(id).ok());
                self.first_pass = id.filter(|id| id.parse::<QueueId>().is_ok()).map(str::to_owned);
            }
        }
    }
}

const FIELD: &[u8] = b"received:";

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "019ab3c4-0000-7000-8000-000000000000";

    fn own_field() -> String {
        let client = IpAddr::from([192, 0, 2, 7]);
        let (by, at) = ("relay.example", OffsetDateTime::UNIX_EPOCH);
        Received { helo: "by relay.example", client, by, with: "ESMTP", id: ID, at }.to_field()
    }

    #[test]
    fn a_message_that_was_here_before_is_known_by_our_own_field() {
        let header =
            format!("Received: from a by mx.other.example id 7\r\n{}Subject: by relay.example\r\n", own_field());
        let message = format!("{header}\r\nReceived: by relay.example\r\n");
        let trace = Trace::of(message.as_bytes(), "Relay.Example");
        assert_eq!(trace, Trace { hops: 2, own: 1, first_pass: Some(ID.to_owned()) });
        assert_eq!(Trace::of(message.as_bytes(), "relay2.example"), Trace { hops: 2, own: 0, first_pass: None });
    }

    #[test]
    fn fields_that_nobody_understands_only_count() {
        let message =
            b"RECEIVED: by\r\nReceived:\r\n\tby relay.example with id id;\r\nreceived: \xff by\n\nReceived: x\r\n";
        assert_eq!(Trace::of(message, "relay.example"), Trace { hops: 3, own: 1, first_pass: None });
        assert_eq!(Trace::of(b"", "relay.example"), Trace::default());
        assert_eq!(Trace::of(b"Received: without an end", "relay.example"), Trace::default());
    }
}
