//! The message that shows whether mail arrives which leaves through a gateway: to an administrator, or back to this
//! installation. Text alone; made and sent by `relay::test_message`.

use std::fmt::Write;

use time::OffsetDateTime;

use super::{
    GatewayAddress,
    dsn::{one_line, rfc2822},
    id::TestMessageId,
    own_message::{OwnMessage, own_message_from},
};

/// One test message.
#[derive(Debug, Clone)]
pub struct TestMessage<'a> {
    pub id: TestMessageId,
    /// The relay's own name.
    pub hostname: &'a str,
    /// Whose mail it stands for: an address of the organization.
    pub sender: &'a str,
    pub recipient: &'a str,
    /// The organization's name.
    pub organization: &'a str,
    pub gateway: &'a GatewayAddress,
    /// Who wants to know.
    pub by: &'a str,
    /// Where its recipient says that it has arrived; `None`: nobody has to.
    pub link: Option<&'a str>,
    pub now: OffsetDateTime,
}

/// The fields that a signature covers: those that everybody signs (RFC 6376 §5.4.1).
pub const SIGNED: [&str; 5] = ["From", "To", "Subject", "Date", "Message-ID"];

impl TestMessage<'_> {
    /// The message, ready to be signed or sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let own =
            OwnMessage { hostname: self.hostname, own_id: &self.id.to_string(), to: self.recipient, now: self.now };
        let from = format!("Outgate test <{}>", one_line(self.sender));
        own_message_from(from, &own, format!("Test message through {}", self.gateway), self.text())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "This is a test message. {} wants to know whether mail of {} arrives that leaves through {}.\r\n\r\n\
             The relay {} sent it {}.\r\n",
            one_line(self.by),
            one_line(self.organization),
            self.gateway.with_port_in_words(),
            self.hostname,
            rfc2822(self.now),
        );
        let _ = match self.link {
            Some(link) => write!(
                text,
                "\r\nIt has arrived: open this page and say so, and Outgate knows that all of the way is \
                 good.\r\n\r\n    {}\r\n",
                one_line(link)
            ),
            None => write!(text, "\r\nNobody has to answer it.\r\n"),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(link: Option<&str>) -> String {
        let gateway = "archive.example.com".parse().expect("an address");
        let test = TestMessage {
            id: TestMessageId::default(),
            hostname: "relay.example",
            sender: "postmaster@acme.example",
            recipient: "ann@acme.example",
            organization: "Acme\r\nBcc: all@acme.example",
            gateway: &gateway,
            by: "ann@acme.example",
            link,
            now: OffsetDateTime::UNIX_EPOCH,
        };
        String::from_utf8(test.to_bytes()).expect("text")
    }

    #[test]
    fn it_says_who_wants_to_know_what_and_where_to_say_that_it_has_arrived() {
        let unfolded = message(Some("https://outgate.example/acme/x")).replace("=\r\n", "");
        for words in [
            "From: Outgate test <postmaster@acme.example>",
            "To: <ann@acme.example>",
            "Subject: Test message through archive.example.com",
            "Auto-Submitted: auto-generated",
            "ann@acme.example wants to know whether mail of Acme",
            "archive.example.com port 25",
            "https://outgate.example/acme/x",
        ] {
            assert!(unfolded.contains(words), "{words} in {unfolded}");
        }
        assert!(!unfolded.contains("\r\nBcc:"), "{unfolded}");
        assert!(message(None).contains("Nobody has to answer it."));
    }
}
