//! What happened to a message at one moment: the lines that a message's story is made of. Written by relays,
//! read by pages.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    mail::{
        ShortText,
        id::{AccountId, GatewayId, QueueId},
        json_text::{field, number, quote, word},
    },
    policy::routing::Scope,
};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Its gateway took it while its client waited.
    HandedOver,
    /// It is committed and waits.
    Queued,
    /// It was refused for good, or nobody has it and its client is to try again.
    Refused,
    /// An attempt from the queue after which it goes on waiting.
    Attempt,
    /// Somebody has taken it from the queue.
    Delivered,
    /// Its sender is told who will not get it.
    Returned,
    /// The same of a message that has no sender to be told.
    GivenUp,
    /// An administrator had it removed, and nobody is told.
    Deleted,
}

impl Step {
    /// As logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HandedOver => "handed over",
            Self::Queued => "queued",
            Self::Refused => "refused",
            Self::Attempt => "attempt",
            Self::Delivered => "delivered",
            Self::Returned => "returned",
            Self::GivenUp => "given up",
            Self::Deleted => "deleted",
        }
    }

    /// As lines name it.
    fn word(self) -> &'static str {
        match self {
            Self::HandedOver => "handed_over",
            Self::GivenUp => "given_up",
            _ => self.as_str(),
        }
    }

    /// Of every message one of these comes first, and only once.
    pub fn begins(self) -> bool {
        matches!(self, Self::HandedOver | Self::Queued | Self::Refused)
    }

    /// Whether it ends what was queued, for some recipients at least.
    pub fn ends(self) -> bool {
        matches!(self, Self::Delivered | Self::Returned | Self::GivenUp | Self::Deleted)
    }
}

/// One line. Texts are borrowed where it is written and owned where it was read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event<'a> {
    /// Whole microseconds: more is not kept.
    #[serde(deserialize_with = "microseconds::deserialize")]
    pub at: OffsetDateTime,
    #[serde(rename = "m")]
    pub message: QueueId,
    #[serde(rename = "s")]
    pub step: Step,
    /// The address that decides the route; empty for our own notifications.
    #[serde(rename = "f")]
    pub sender: Cow<'a, str>,
    /// As the client gave it, where that is another one.
    #[serde(rename = "p", default)]
    pub reverse_path: Option<Cow<'a, str>>,
    /// Those that it is about.
    #[serde(rename = "to", default)]
    pub recipients: Vec<Told<'a>>,
    /// In bytes.
    #[serde(rename = "size", default)]
    pub size: Option<u64>,
    /// Who submitted it, where that is still known.
    #[serde(rename = "by", default)]
    pub client: Option<IpAddr>,
    /// The id under which it passed here before, as its own header says.
    #[serde(rename = "was", default)]
    pub first_pass: Option<QueueId>,
    #[serde(rename = "acc", default)]
    pub account: Option<AccountId>,
    /// The scope whose pointer decided; none for the platform's default.
    #[serde(rename = "sc", default, deserialize_with = "scope_word::deserialize")]
    pub scope: Option<Scope>,
    /// What it went to, or waits for.
    #[serde(rename = "gw", default)]
    pub gateway: Option<GatewayId>,
    #[serde(rename = "rev", default)]
    pub revision: Option<i64>,
    /// As it was set: host and port of a gateway, of the platform's server or of a recipient's.
    #[serde(rename = "host", default)]
    pub address: Option<Cow<'a, str>>,
    /// The address that was connected to.
    #[serde(rename = "ip", default)]
    pub server: Option<SocketAddr>,
    /// Such as `TLS 1.3`; none in clear.
    #[serde(rename = "tls", default)]
    pub tls: Option<Cow<'a, str>>,
    /// What the server said, or why it was not asked.
    #[serde(rename = "re", default)]
    pub reply: Cow<'a, str>,
    #[serde(rename = "n", default)]
    pub attempts: Option<i32>,
    #[serde(rename = "next", default, deserialize_with = "maybe_microseconds::deserialize")]
    pub next_attempt: Option<OffsetDateTime>,
}

impl Event<'_> {
    /// A line of which nothing is known yet but the least.
    pub fn new(step: Step, message: QueueId, at: OffsetDateTime) -> Self {
        Self {
            at,
            message,
            step,
            sender: Cow::Borrowed(""),
            reverse_path: None,
            recipients: Vec::new(),
            size: None,
            client: None,
            first_pass: None,
            account: None,
            scope: None,
            gateway: None,
            revision: None,
            address: None,
            server: None,
            tls: None,
            reply: Cow::Borrowed(""),
            attempts: None,
            next_attempt: None,
        }
    }

    /// Writes it as JSON, under the names by which it is read. What lines before it said, too, is copied.
    pub fn write(&self, to: &mut String, repeated: &mut Repeated) {
        to.push_str("{\"at\":");
        number(to, microseconds::of(self.at));
        id(to, field!("m"), self.message.0);
        to.push_str(field!("s"));
        word(to, self.step.word());
        text(to, field!("f"), &self.sender);
        if let Some(reverse_path) = &self.reverse_path {
            text(to, field!("p"), reverse_path);
        }
        if !self.recipients.is_empty() {
            to.push_str(field!("to"));
            write_recipients(to, &self.recipients);
        }
        if let Some(size) = self.size {
            to.push_str(field!("size"));
            number(to, size as i64);
        }
        if let Some(client) = self.client {
            repeated.write_client(client, to);
        }
        if let Some(first_pass) = self.first_pass {
            id(to, field!("was"), first_pass.0);
        }
        if let Some(account) = self.account {
            id(to, field!("acc"), account.0);
        }
        repeated.write_way(self, to);
        if !self.reply.is_empty() {
            text(to, field!("re"), &self.reply);
        }
        if let Some(attempts) = self.attempts {
            to.push_str(field!("n"));
            number(to, attempts.into());
        }
        if let Some(next_attempt) = self.next_attempt {
            to.push_str(field!("next"));
            number(to, microseconds::of(next_attempt));
        }
        to.push('}');
    }

    fn write_way(&self, to: &mut String) {
        if let Some(scope) = self.scope {
            to.push_str(field!("sc"));
            word(to, scope.as_str());
        }
        if let Some(gateway) = self.gateway {
            id(to, field!("gw"), gateway.0);
        }
        if let Some(revision) = self.revision {
            to.push_str(field!("rev"));
            number(to, revision);
        }
        if let Some(address) = &self.address {
            text(to, field!("host"), address);
        }
        if let Some(server) = self.server {
            to.push_str(field!("ip"));
            word(to, &ShortText::of_socket(server));
        }
        if let Some(tls) = &self.tls {
            text(to, field!("tls"), tls);
        }
    }

    /// What is kept for longest: who sent by which way, and how it ended. Recipients, sizes and clients are not.
    pub fn without_details(self) -> Self {
        Self { reverse_path: None, recipients: Vec::new(), size: None, client: None, next_attempt: None, ..self }
    }
}

/// What many lines say alike, as it was written: where the last message came from, and the ways that the first went.
#[derive(Debug, Default)]
pub struct Repeated {
    client: Option<(IpAddr, String)>,
    ways: Vec<(Way, String)>,
}

/// How many ways are kept: most mail of an organization goes a few.
const WAYS: usize = 16;

/// Those fields of a line that [`Event::write_way`] writes.
#[derive(Debug)]
struct Way {
    scope: Option<Scope>,
    gateway: Option<GatewayId>,
    revision: Option<i64>,
    address: Option<String>,
    server: Option<SocketAddr>,
    tls: Option<String>,
}

impl Way {
    fn of(event: &Event<'_>) -> Self {
        Self {
            scope: event.scope,
            gateway: event.gateway,
            revision: event.revision,
            address: event.address.as_deref().map(str::to_owned),
            server: event.server,
            tls: event.tls.as_deref().map(str::to_owned),
        }
    }

    fn is_of(&self, event: &Event<'_>) -> bool {
        (self.gateway, self.scope, self.revision) == (event.gateway, event.scope, event.revision)
            && self.server == event.server
            && self.address.as_deref() == event.address.as_deref()
            && self.tls.as_deref() == event.tls.as_deref()
    }
}

impl Repeated {
    fn write_client(&mut self, client: IpAddr, to: &mut String) {
        if self.client.as_ref().is_none_or(|(last, _)| *last != client) {
            let mut text = String::new();
            text.push_str(field!("by"));
            word(&mut text, &ShortText::of_ip(client));
            self.client = Some((client, text));
        }
        self.client.iter().for_each(|(_, text)| to.push_str(text));
    }

    fn write_way(&mut self, event: &Event<'_>, to: &mut String) {
        if let Some((_, text)) = self.ways.iter().find(|(way, _)| way.is_of(event)) {
            to.push_str(text);
            return;
        }
        let begun = to.len();
        event.write_way(to);
        if self.ways.len() < WAYS {
            self.ways.push((Way::of(event), to[begun..].to_owned()));
        }
    }
}

fn text(to: &mut String, field: &str, value: &str) {
    to.push_str(field);
    quote(to, value);
}

fn id(to: &mut String, field: &str, id: Uuid) {
    to.push_str(field);
    word(to, id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
}

fn write_recipients(to: &mut String, recipients: &[Told<'_>]) {
    for (place, recipient) in recipients.iter().enumerate() {
        to.push(if place == 0 { '[' } else { ',' });
        match recipient {
            Told::Alike(address) => quote(to, address),
            Told::Apart(address, reply) => {
                to.push('[');
                quote(to, address);
                to.push(',');
                quote(to, reply);
                to.push(']');
            }
        }
    }
    to.push(']');
}

/// A recipient, with a reply of its own where that is not the one of all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Told<'a> {
    Alike(Cow<'a, str>),
    Apart(Cow<'a, str>, Cow<'a, str>),
}

impl Told<'_> {
    /// The forward-path.
    pub fn address(&self) -> &str {
        match self {
            Self::Alike(address) | Self::Apart(address, _) => address,
        }
    }

    /// What was said about this one alone.
    pub fn own_reply(&self) -> Option<&str> {
        match self {
            Self::Alike(_) => None,
            Self::Apart(_, reply) => Some(reply),
        }
    }
}

/// Times as numbers: microseconds since 1970, as PostgreSQL has them.
mod microseconds {
    use serde::{Deserialize, Deserializer, de::Error};
    use time::OffsetDateTime;

    pub fn of(time: OffsetDateTime) -> i64 {
        time.unix_timestamp() * 1_000_000 + i64::from(time.microsecond())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
        let microseconds = i64::deserialize(deserializer)?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1000).map_err(D::Error::custom)
    }
}

mod maybe_microseconds {
    use serde::{Deserialize, Deserializer};
    use time::OffsetDateTime;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
        let microseconds = Option::<i64>::deserialize(deserializer)?;
        Ok(microseconds
            .and_then(|microseconds| OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1000).ok()))
    }
}

mod scope_word {
    use serde::{Deserialize, Deserializer, de::Error};

    use crate::policy::routing::Scope;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Scope>, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?;
        word.map(|word| word.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    /// One of which everything is known.
    fn full(step: Step) -> Event<'static> {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_780_000_000_000_001_000).unwrap();
        Event {
            sender: r#""ann\a"@acme.example"#.into(),
            reverse_path: Some("bär@acme.example".into()),
            recipients: vec![Told::Alike("a@dest.example".into()), Told::Apart("b@dest.example".into(), "no\t".into())],
            size: Some(4096),
            client: Some("2001:db8::7".parse().unwrap()),
            first_pass: Some(QueueId(Uuid::from_u128(2))),
            account: Some(AccountId(Uuid::from_u128(3))),
            scope: Some(Scope::User),
            gateway: Some(GatewayId(Uuid::from_u128(4))),
            revision: Some(-5),
            address: Some("mail.acme.example:25".into()),
            server: Some("[2001:db8::8]:25".parse().unwrap()),
            tls: Some("TLS 1.3".into()),
            reply: r#"250 2.0.0 "ok""#.into(),
            attempts: Some(6),
            next_attempt: Some(at + Duration::microseconds(7)),
            ..Event::new(step, QueueId(Uuid::from_u128(1)), at)
        }
    }

    fn written(event: &Event<'_>) -> String {
        let mut line = String::new();
        event.write(&mut line, &mut Repeated::default());
        line
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let (ended, others) = ([Step::Delivered, Step::Returned, Step::GivenUp, Step::Deleted], [Step::Attempt]);
        let begun = [Step::HandedOver, Step::Queued, Step::Refused];
        for step in begun.into_iter().chain(others).chain(ended) {
            let least = Event::new(step, QueueId::new(), OffsetDateTime::UNIX_EPOCH - Duration::microseconds(3));
            for event in [full(step), least] {
                let line = written(&event);
                assert_eq!(serde_json::from_str::<Event<'_>>(&line).unwrap(), event, "{line}");
            }
        }
    }

    #[test]
    fn a_line_does_not_depend_on_those_before_it() {
        let full = || full(Step::HandedOver);
        let changed = [
            Event { scope: Some(Scope::Domain), ..full() },
            Event { scope: None, ..full() },
            Event { gateway: None, ..full() },
            Event { gateway: Some(GatewayId(Uuid::from_u128(5))), ..full() },
            Event { revision: Some(5), ..full() },
            Event { address: Some("mail.acme.example:26".into()), ..full() },
            Event { server: Some("[2001:db8::8]:26".parse().unwrap()), ..full() },
            Event { server: None, ..full() },
            Event { tls: None, ..full() },
            Event { tls: Some("TLS 1.2".into()), ..full() },
            Event { client: Some("192.0.2.7".parse().unwrap()), ..full() },
            Event { client: None, ..full() },
            Event::new(Step::Queued, QueueId(Uuid::from_u128(9)), OffsetDateTime::UNIX_EPOCH),
        ];
        // More ways than are kept, and each once more.
        let others = (0..2 * WAYS as i64).map(|revision| Event { revision: Some(revision), ..full() });
        let events: Vec<_> = std::iter::once(full()).chain(changed).chain(others).collect();
        let mut repeated = Repeated::default();
        for event in events.iter().chain(&events).chain([&full(), &full()]) {
            let mut line = String::from("before");
            event.write(&mut line, &mut repeated);
            assert_eq!(line.strip_prefix("before"), Some(&*written(event)));
        }
    }

    #[test]
    fn a_line_is_as_former_versions_wrote_it() {
        let line = concat!(
            r#"{"at":1780000000000001,"m":"00000000-0000-0000-0000-000000000001","s":"handed_over","#,
            r#""f":"\"ann\\a\"@acme.example","p":"bär@acme.example","#,
            r#""to":["a@dest.example",["b@dest.example","no\u0009"]],"#,
            r#""size":4096,"by":"2001:db8::7","was":"00000000-0000-0000-0000-000000000002","#,
            r#""acc":"00000000-0000-0000-0000-000000000003","sc":"user","#,
            r#""gw":"00000000-0000-0000-0000-000000000004","rev":-5,"#,
            r#""host":"mail.acme.example:25","ip":"[2001:db8::8]:25","tls":"TLS 1.3","re":"250 2.0.0 \"ok\"","n":6,"#,
            r#""next":1780000000000008}"#,
        );
        assert_eq!(written(&full(Step::HandedOver)), line);
    }
}
