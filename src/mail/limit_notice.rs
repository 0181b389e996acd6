//! What administrators, and if they want it the sender, are told of somebody who sends much: that a limit is near, or
//! exceeded, and what happens now. Text alone; sent by the relay's queue, like notifications.

use time::OffsetDateTime;

use super::{
    dsn::{one_line, rfc2822},
    own_message::{OwnMessage, own_message},
};

/// One message to one reader.
#[derive(Debug, Clone)]
pub struct LimitNotice<'a> {
    pub envelope: OwnMessage<'a>,
    /// The organization's name.
    pub organization: &'a str,
    pub reader: Reader<'a>,
    /// How far it is, as the end of a sentence: is near a limit.
    pub how: &'a str,
    /// What was counted and what is allowed.
    pub counted: &'a str,
    /// What happens to further mail, a sentence.
    pub happens: &'a str,
    pub at: OffsetDateTime,
}

/// Who is told.
#[derive(Debug, Clone, Copy)]
pub enum Reader<'a> {
    Administrator {
        /// Who sends much.
        whose: &'a str,
        /// The page that shows it, where it is known where the pages are.
        page: Option<&'a str>,
    },
    /// Who sends much.
    Sender,
}

impl LimitNotice<'_> {
    /// The message, ready to be sent with a null reverse-path.
    pub fn to_bytes(&self) -> Vec<u8> {
        let subject = match self.reader {
            Reader::Administrator { whose, .. } => one_line(whose),
            Reader::Sender => "Your mail account".into(),
        };
        own_message(&self.envelope, format!("{subject} {}", self.how), self.text())
    }

    fn text(&self) -> String {
        let (whose, advice) = match self.reader {
            Reader::Administrator { whose, .. } => (
                one_line(whose).to_string(),
                "What to do: open Administration > Manage Organization > Web Mail Cloud > Outbound Volume. It shows \
                 who sends how much and what waits, which can be sent at once there; a sender who should not send can \
                 be blocked, and the limits be changed. You hear of the same once an hour at most.",
            ),
            Reader::Sender => (
                format!("Your mail account {}", one_line(self.envelope.to)),
                "If it was not you who sent this, somebody may have your password: change it at once. Your \
                 administrators are told, too; ask them if you have to send more.",
            ),
        };
        let page = match self.reader {
            Reader::Administrator { page: Some(page), .. } => format!("\r\n    {page}\r\n"),
            Reader::Administrator { page: None, .. } | Reader::Sender => String::new(),
        };
        format!(
            "{whose} of {} {}, at {}:\r\n\r\n    {}\r\n\r\n{}\r\n\r\n{advice}\r\n{page}",
            one_line(self.organization),
            self.how,
            rfc2822(self.at),
            self.counted,
            self.happens,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_is_led_to_the_page_and_the_sender_is_not() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let envelope = OwnMessage { hostname: "relay.example", own_id: "1", to: "ann@acme.example", now };
        let text = |reader| {
            let (how, counted, happens) = ("is stopped", "12 messages", "Nothing new is accepted.");
            LimitNotice { envelope: envelope.clone(), organization: "acme", reader, how, counted, happens, at: now }
                .text()
        };
        let page = Some("https://outgate.example/acme/web-mail-cloud/outbound-volume");
        let whose = "ben@acme.example";
        let told = text(Reader::Administrator { whose, page });
        assert!(
            told.ends_with("\r\n\r\n    https://outgate.example/acme/web-mail-cloud/outbound-volume\r\n"),
            "{told}"
        );
        for reader in [Reader::Administrator { whose, page: None }, Reader::Sender] {
            assert!(!text(reader).contains("https://"));
        }
    }
}
