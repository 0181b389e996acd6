//! Delivery status notifications (RFC 3464): what a sender gets when mail that was accepted could
//! not be delivered. Says what happened, which server said it and what to do.

use mail_builder::{
    MessageBuilder,
    headers::{content_type::ContentType, raw::Raw},
    mime::MimePart,
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// Everything that a notification says.
#[derive(Debug, Clone)]
pub struct Notification<'a> {
    /// Our own name.
    pub hostname: &'a str,
    /// Whoever sent the message: its reverse-path.
    pub to: &'a str,
    /// The id under which our log and queue know the message that is reported on.
    pub id: &'a str,
    pub accepted_at: OffsetDateTime,
    pub now: OffsetDateTime,
    pub failures: &'a [Failure],
    /// The header section of that message, with or without its last empty line.
    pub header: &'a [u8],
}

/// One recipient who will not get the message.
#[derive(Debug, Clone)]
pub struct Failure {
    pub recipient: String,
    /// Which server said what, in one line.
    pub reason: String,
    pub cause: Cause,
}

/// Why it was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Refused,
    /// It waited for so many days.
    Expired(i64),
    /// An administrator of the sender's organization returned it while it was held.
    Returned,
}

impl Notification<'_> {
    /// The message, ready to be sent with a null reverse-path.
    pub fn to_bytes(&self) -> Vec<u8> {
        let original = String::from_utf8_lossy(self.header);
        // RFC 6533 §3: parts with addresses or headers beyond ASCII have types of their own. Where only
        // the header is beyond ASCII, a readable notification is worth more than an exact copy.
        let (status_type, header_type, original) = match self.is_ascii() {
            true => ("message/delivery-status", "text/rfc822-headers", only_ascii(&original)),
            false => ("message/global-delivery-status", "message/global-headers", original.into_owned()),
        };
        let report = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
        let parts = vec![
            MimePart::new(ContentType::new("text/plain").attribute("charset", "utf-8"), self.text()),
            raw_part(status_type, self.status()),
            raw_part(header_type, with_one_line_end(&original)),
        ];
        let from = format!("Mail Delivery System <MAILER-DAEMON@{}>", self.hostname);
        let mut bytes = Vec::new();
        MessageBuilder::new()
            .header("From", Raw::new(from))
            .header("To", Raw::new(format!("<{}>", self.to)))
            .subject("Your message could not be delivered")
            .header("Date", Raw::new(rfc2822(self.now)))
            .message_id(format!("{}.notification@{}", self.id, self.hostname))
            // RFC 3834 §5: nobody's automatic answer answers this.
            .header("Auto-Submitted", Raw::new("auto-replied"))
            .body(MimePart::new(report, parts))
            .serialize(&mut bytes);
        bytes
    }

    /// Whether the notification itself needs nothing beyond ASCII of the servers it passes.
    pub fn is_ascii(&self) -> bool {
        self.to.is_ascii() && self.failures.iter().all(|failure| failure.recipient.is_ascii())
    }

    fn text(&self) -> String {
        let mut text = String::from("Your message could not be delivered to these recipients:\n\n");
        for failure in self.failures {
            text.push_str(&format!("  {}\n    {}\n    {}\n\n", failure.recipient, happened(failure), advice(failure)));
        }
        text.push_str(&format!(
            "The message was accepted on {} and is known here as {}.\nIts header is attached.\n",
            rfc2822(self.accepted_at),
            self.id
        ));
        text
    }

    /// RFC 3464 §2.2 and §2.3.
    fn status(&self) -> String {
        let mut status =
            format!("Reporting-MTA: dns; {}\r\nArrival-Date: {}\r\n", self.hostname, rfc2822(self.accepted_at));
        let recipient_type = if self.is_ascii() { "rfc822" } else { "utf-8" };
        for failure in self.failures {
            status.push_str(&format!(
                "\r\nFinal-Recipient: {recipient_type}; {}\r\nAction: failed\r\nStatus: {}\r\nDiagnostic-Code: {}; {}\r\n",
                failure.recipient,
                status_code(failure),
                if quoted_reply(&failure.reason).is_some() { "smtp" } else { "x-outgate" },
                folded(quoted_reply(&failure.reason).unwrap_or(&failure.reason)),
            ));
        }
        status
    }
}

fn happened(failure: &Failure) -> String {
    match failure.cause {
        Cause::Refused => format!("It was refused: {}", failure.reason),
        Cause::Expired(days) => {
            format!("It could not be delivered within {days} days. The last trouble was: {}", failure.reason)
        }
        Cause::Returned => {
            format!("An administrator of your organization returned it while it was held: {}", failure.reason)
        }
    }
}

fn advice(failure: &Failure) -> &'static str {
    let status = status_code(failure);
    match (failure.cause, status.as_str()) {
        (Cause::Returned, _) => "Ask your administrator which route your mail takes now, then send the message again.",
        (Cause::Expired(_), _) => "Send the message again, or ask your administrator what is wrong with this route.",
        (_, "5.3.4" | "5.2.3") => "Send a smaller message, or a link to what it carries.",
        (_, "5.1.1" | "5.1.2" | "5.1.3" | "5.1.10") => "Check the address for mistakes and send the message again.",
        (_, "5.2.2") => "Ask the recipient to make room in the mailbox and send the message again later.",
        (_, status) if status.starts_with("5.7.") => {
            "The server does not let this message pass. Ask your administrator, and show this notification."
        }
        _ => "If the words above do not help, ask your administrator, and show this notification.",
    }
}

/// The server's own reply where a reason repeats one: what follows `said: `.
fn quoted_reply(reason: &str) -> Option<&str> {
    let (_, reply) = reason.split_once(" said: ")?;
    Some(reply)
}

/// RFC 3463: the status that the reply has, else that of its class.
fn status_code(failure: &Failure) -> String {
    match failure.cause {
        // RFC 3463 §3.5: delivery time expired.
        Cause::Expired(_) => return "5.4.7".to_owned(),
        // RFC 3463 §3.5: something about the route that has no code of its own.
        Cause::Returned => return "5.4.0".to_owned(),
        Cause::Refused => {}
    }
    let reply = quoted_reply(&failure.reason).unwrap_or(&failure.reason);
    let enhanced = reply.split_whitespace().take(5).find(|word| {
        let mut parts = word.split('.');
        word.starts_with("5.") && parts.clone().count() == 3 && parts.all(|part| part.parse::<u16>().is_ok())
    });
    match (enhanced, reply.starts_with("552")) {
        (Some(enhanced), _) => enhanced.to_owned(),
        (None, true) => "5.3.4".to_owned(),
        (None, false) => "5.0.0".to_owned(),
    }
}

/// A part in the clear: its readers are programs.
fn raw_part(content_type: &'static str, content: String) -> MimePart<'static> {
    let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
    MimePart::new(content_type, content.into_bytes()).transfer_encoding(encoding)
}

fn only_ascii(text: &str) -> String {
    text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect()
}

/// Header sections come with their empty line, which a MIME part does not need.
fn with_one_line_end(header: &str) -> String {
    format!("{}\r\n", header.trim_end())
}

/// RFC 5322 §2.1.1: no line is longer than 998 octets, and better none longer than 78.
fn folded(text: &str) -> String {
    const LONGEST: usize = 70;
    let mut folded = String::new();
    let mut length = 0;
    for mut word in text.split_whitespace() {
        if length > 0 && length + word.len() > LONGEST {
            folded.push_str("\r\n    ");
            length = 0;
        } else if length > 0 {
            folded.push(' ');
        }
        while word.len() > LONGEST {
            let (piece, rest) = word.split_at(word.floor_char_boundary(LONGEST));
            folded.push_str(piece);
            folded.push_str("\r\n    ");
            word = rest;
        }
        folded.push_str(word);
        length += word.len() + 1;
    }
    folded
}

fn rfc2822(at: OffsetDateTime) -> String {
    at.format(&Rfc2822).unwrap_or_default()
}
