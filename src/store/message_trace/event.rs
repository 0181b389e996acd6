//! What happened to a message at one moment: the lines that a message's story is made of. Written by relays,
//! read by pages.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;

use crate::{
    mail::{
        ShortText,
        id::{AccountId, GatewayId, QueueId},
    },
    policy::routing::Scope,
};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event<'a> {
    /// Whole microseconds: more is not kept.
    #[serde(with = "microseconds")]
    pub at: OffsetDateTime,
    #[serde(rename = "m")]
    pub message: QueueId,
    #[serde(rename = "s")]
    pub step: Step,
    /// The address that decides the route; empty for our own notifications.
    #[serde(rename = "f")]
    pub sender: Cow<'a, str>,
    /// As the client gave it, where that is another one.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub reverse_path: Option<Cow<'a, str>>,
    /// Those that it is about.
    #[serde(rename = "to", default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Told<'a>>,
    /// In bytes.
    #[serde(rename = "size", default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Who submitted it, where that is still known.
    #[serde(rename = "by", default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// The id under which it passed here before, as its own header says.
    #[serde(rename = "was", default, skip_serializing_if = "Option::is_none")]
    pub first_pass: Option<QueueId>,
    #[serde(rename = "acc", default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// The scope whose pointer decided; none for the platform's default.
    #[serde(rename = "sc", default, skip_serializing_if = "Option::is_none", with = "scope_word")]
    pub scope: Option<Scope>,
    /// What it went to, or waits for.
    #[serde(rename = "gw", default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayId>,
    #[serde(rename = "rev", default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// As it was set: host and port of a gateway, of the platform's server or of a recipient's.
    #[serde(rename = "host", default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Cow<'a, str>>,
    /// The address that was connected to.
    #[serde(rename = "ip", default, skip_serializing_if = "Option::is_none", serialize_with = "socket")]
    pub server: Option<SocketAddr>,
    /// Such as `TLS 1.3`; none in clear.
    #[serde(rename = "tls", default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Cow<'a, str>>,
    /// What the server said, or why it was not asked.
    #[serde(rename = "re", default, skip_serializing_if = "str::is_empty")]
    pub reply: Cow<'a, str>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    #[serde(rename = "next", default, skip_serializing_if = "Option::is_none", with = "maybe_microseconds")]
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

    /// What is kept for longest: who sent by which way, and how it ended. Recipients, sizes and clients are not.
    pub fn without_details(self) -> Self {
        Self { reverse_path: None, recipients: Vec::new(), size: None, client: None, next_attempt: None, ..self }
    }
}

/// A recipient, with a reply of its own where that is not the one of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Written for every message.
fn socket<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.serialize_some(&*ShortText::of_socket(*address)),
        None => serializer.serialize_none(),
    }
}

/// Times as numbers: microseconds since 1970, as PostgreSQL has them.
mod microseconds {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::OffsetDateTime;

    pub fn serialize<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64((time.unix_timestamp_nanos() / 1000) as i64)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
        let microseconds = i64::deserialize(deserializer)?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1000).map_err(D::Error::custom)
    }
}

mod maybe_microseconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use time::OffsetDateTime;

    use super::microseconds;

    pub fn serialize<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => microseconds::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
        let microseconds = Option::<i64>::deserialize(deserializer)?;
        Ok(microseconds
            .and_then(|microseconds| OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1000).ok()))
    }
}

mod scope_word {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::policy::routing::Scope;

    pub fn serialize<S: Serializer>(scope: &Option<Scope>, serializer: S) -> Result<S::Ok, S::Error> {
        match scope {
            Some(scope) => serializer.collect_str(scope),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Scope>, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?;
        word.map(|word| word.parse().map_err(D::Error::custom)).transpose()
    }
}
