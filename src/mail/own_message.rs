//! A message that Outgate itself writes, whatever it is about: its headers, and text alone. Notices are sent by the
//! relay's queue, like notifications; test messages through the gateway that they are for.

use mail_builder::{
    MessageBuilder,
    headers::{content_type::ContentType, raw::Raw},
    mime::MimePart,
};
use time::OffsetDateTime;

use super::dsn::{one_line, rfc2822};

/// Who a message of our own is from and for.
#[derive(Debug, Clone)]
pub struct OwnMessage<'a> {
    /// Our own name.
    pub hostname: &'a str,
    pub own_id: &'a str,
    pub to: &'a str,
    pub now: OffsetDateTime,
}

/// The message, ready to be sent with a null reverse-path.
pub fn own_message(own: &OwnMessage<'_>, subject: String, text: String) -> Vec<u8> {
    own_message_from(format!("Outgate <MAILER-DAEMON@{}>", own.hostname), own, subject, text)
}

/// One that stands for another's mail; `from` is a whole header field's value.
pub fn own_message_from(from: String, own: &OwnMessage<'_>, subject: String, text: String) -> Vec<u8> {
    let mut bytes = Vec::new();
    MessageBuilder::new()
        .header("From", Raw::new(from))
        .header("To", Raw::new(format!("<{}>", one_line(own.to))))
        .subject(subject)
        .header("Date", Raw::new(rfc2822(own.now)))
        .message_id(format!("{}@{}", own.own_id, own.hostname))
        // RFC 3834 §5: nobody's automatic answer answers this.
        .header("Auto-Submitted", Raw::new("auto-generated"))
        .body(MimePart::new(ContentType::new("text/plain").attribute("charset", "utf-8"), text))
        .serialize(&mut bytes);
    bytes
}
