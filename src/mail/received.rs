//! The one header field that the relay adds to a message (RFC 5321 §4.4): the trace of our hop.
//! Made when a message has been read whole, put in front of it by `relay::submission`.

use std::net::IpAddr;

use time::{OffsetDateTime, format_description::well_known::Rfc2822};

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
        let helo: String = self
            .helo
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_'))
            .collect();
        let helo = if helo.is_empty() { "unknown" } else { helo.as_str() };
        let client = match self.client {
            IpAddr::V4(client) => format!("[{client}]"),
            IpAddr::V6(client) => format!("[IPv6:{client}]"),
        };
        let at = self.at.format(&Rfc2822).unwrap_or_default();
        format!(
            "Received: from {helo} ({client})\r\n\tby {by} with {with} id {id};\r\n\t{at}\r\n",
            by = self.by,
            with = self.with,
            id = self.id,
        )
    }
}
