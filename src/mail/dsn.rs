//! Delivery status notifications (RFC 3464): what a sender gets when mail that was accepted is not delivered, is
//! late, or was passed to a server that tells nobody. Says what happened, which server said it and what to do.

use std::fmt::Write;

use mail_builder::{
    MessageBuilder,
    headers::{content_type::ContentType, raw::Raw},
    mime::MimePart,
};
use mail_parser::MessageParser;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc2822};

use super::{
    notify::{EnvelopeId, OriginalRecipient, in_ascii},
    short_id::{MessageLinks, ShortId},
};

/// Everything that a notification says.
#[derive(Debug, Clone)]
pub struct Notification<'a> {
    /// How messages are named to people.
    pub links: &'a MessageLinks,
    /// Our own name.
    pub hostname: &'a str,
    /// Whoever sent the message: its reverse-path.
    pub to: &'a str,
    /// Its own id, which nobody has heard of before.
    pub own_id: &'a str,
    /// The id under which our log and queue know the message that is reported on.
    pub id: &'a str,
    /// By what its sender knows it.
    pub envid: Option<&'a EnvelopeId>,
    pub accepted_at: OffsetDateTime,
    pub now: OffsetDateTime,
    /// One or more, all with the same [`Action`].
    pub reports: &'a [Report],
    pub original: Original<'a>,
}

/// What comes back of the message.
#[derive(Debug, Clone, Copy)]
pub enum Original<'a> {
    /// The header section, with or without its last empty line.
    Header(&'a [u8]),
    Whole(&'a [u8]),
}

/// What became of the message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub recipient: String,
    pub original: Option<OriginalRecipient>,
    /// Which server said what, in one line: `gateway mail.example.com said: 550 5.7.1 no`.
    pub reason: String,
    pub cause: Cause,
}

/// Why there is something to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Refused,
    /// It waited for so long.
    Expired(Duration),
    /// An administrator of the sender's organization returned it while it was held.
    Returned,
    /// The same while it was held for a decision about it.
    Declined,
    /// Nobody has decided about it for so long.
    Undecided(Duration),
    /// An administrator returned it while it waited for its next attempt.
    Withdrawn,
    /// It waits, and is given up at this time.
    Delayed(OffsetDateTime),
    /// It is held for an administrator of the sender's organization, until this time.
    Held(OffsetDateTime),
    /// The same, and nothing else lets it go than that somebody decides about this message.
    ToDecide(OffsetDateTime),
    /// It waits because its sender has sent more than a limit allows.
    Throttled {
        leaves: OffsetDateTime,
        /// When the last leaves that the sender has sent so far.
        last: OffsetDateTime,
        /// Until then it would be tried.
        until: OffsetDateTime,
    },
    /// A server has taken it that does not tell senders what they asked to be told (RFC 3461 §5.2.2).
    Relayed,
}

/// RFC 3464 §2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Failed,
    Delayed,
    Relayed,
}

impl Cause {
    pub fn action(self) -> Action {
        match self {
            Self::Refused
            | Self::Expired(_)
            | Self::Returned
            | Self::Declined
            | Self::Undecided(_)
            | Self::Withdrawn => Action::Failed,
            Self::Delayed(_) | Self::Held(_) | Self::ToDecide(_) | Self::Throttled { .. } => Action::Delayed,
            Self::Relayed => Action::Relayed,
        }
    }
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

impl Notification<'_> {
    /// The message, ready to be sent with a null reverse-path.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A boundary that nobody can have written into the message.
        let report = ContentType::new("multipart/report")
            .attribute("report-type", "delivery-status")
            .attribute("boundary", format!("report-{}", self.own_id));
        // RFC 6533 §3: a part with addresses beyond ASCII has a type of its own.
        let status_type = match self.is_ascii() {
            true => "message/delivery-status",
            false => "message/global-delivery-status",
        };
        let parts = vec![
            MimePart::new(ContentType::new("text/plain").attribute("charset", "utf-8"), self.text()),
            raw_part(status_type, self.status().into_bytes()),
            self.returned(),
        ];
        let from = format!("Mail Delivery System <MAILER-DAEMON@{}>", self.hostname);
        let mut message = MessageBuilder::new()
            .header("From", Raw::new(from))
            .header("To", Raw::new(format!("<{}>", one_line(self.to))))
            .subject(self.subject())
            .header("Date", Raw::new(rfc2822(self.now)))
            .message_id(format!("{}@{}", self.own_id, self.hostname))
            // RFC 3834 §5: nobody's automatic answer answers this.
            .header("Auto-Submitted", Raw::new("auto-replied"));
        if let Some(id) = self.message_id() {
            message = message.header("In-Reply-To", Raw::new(id.clone())).header("References", Raw::new(id));
        }
        let mut bytes = Vec::new();
        message.body(MimePart::new(report, parts)).serialize(&mut bytes);
        bytes
    }

    /// Whether the notification itself needs nothing beyond ASCII of the servers it passes.
    pub fn is_ascii(&self) -> bool {
        self.to.is_ascii() && self.reports.iter().all(|report| report.recipient.is_ascii())
    }

    fn cause(&self) -> Cause {
        self.reports.first().map_or(Cause::Refused, |report| report.cause)
    }

    fn subject(&self) -> String {
        let what = match self.cause() {
            Cause::Refused
            | Cause::Expired(_)
            | Cause::Returned
            | Cause::Declined
            | Cause::Undecided(_)
            | Cause::Withdrawn => "Not delivered",
            Cause::Delayed(_) => "Delayed, still trying",
            Cause::Held(_) | Cause::ToDecide(_) => "Held, not lost",
            Cause::Throttled { .. } => "Waits for a limit, not lost",
            Cause::Relayed => "Passed on",
        };
        match self.reports {
            [one] => format!("{what}: {}", shown(&one.recipient)),
            all => format!("{what}: {} recipients", all.len()),
        }
    }

    /// For people: what happened first, then to whom, who said so, and what to do.
    fn text(&self) -> String {
        let to_whom = match self.reports {
            [one] => format!("to {} ", shown(&one.recipient)),
            _ => String::new(),
        };
        let became = match self.cause() {
            Cause::Refused
            | Cause::Expired(_)
            | Cause::Returned
            | Cause::Declined
            | Cause::Undecided(_)
            | Cause::Withdrawn => "was not delivered",
            Cause::Delayed(_) => "is delayed. It is not lost, and you need not send it again",
            Cause::Held(_) | Cause::ToDecide(_) => "is held. It is not lost, and you need not send it again",
            Cause::Throttled { .. } => "waits for a limit. It is not lost, and you need not send it again",
            Cause::Relayed => "was passed on to a server that does not report deliveries",
        };
        let mut text = wrapped("", &format!("Your message {to_whom}{became}."));
        for report in self.reports {
            text.push('\n');
            if self.reports.len() > 1 {
                text.push_str(&format!("{}\n", shown(&report.recipient)));
            }
            for (label, words) in paragraphs(report) {
                text.push_str(&wrapped("  ", &format!("{label}: {words}")));
            }
        }
        text.push_str("\nThe message:\n");
        if let Some(subject) = self.header_field(|header| header.subject().map(str::to_owned)) {
            text.push_str(&wrapped("  ", &format!("Subject: {}", shown(&subject))));
        }
        let attached = match self.original {
            Original::Header(_) => "Its header is attached.",
            Original::Whole(_) => "It is attached.",
        };
        let accepted = rfc2822(self.accepted_at);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  Accepted: {accepted}\n  Known here as: {}", self.id);
        if let Ok(id) = self.id.parse() {
            // Where administrators find what happened to it.
            let _ = writeln!(text, "  In Message Trace: {}", self.links.of(ShortId::of(id)));
        }
        let _ = writeln!(text, "  {attached}");
        text
    }

    /// RFC 3464 §2.2 and §2.3.
    fn status(&self) -> String {
        let mut status = Fields { text: String::new(), is_ascii: self.is_ascii() };
        status.add("Reporting-MTA", &format!("dns; {}", self.hostname));
        if let Some(envid) = self.envid {
            status.add("Original-Envelope-Id", &envid.decoded());
        }
        status.add("Arrival-Date", &rfc2822(self.accepted_at));
        for report in self.reports {
            status.text.push_str("\r\n");
            self.add_recipient(report, &mut status);
        }
        status.text
    }

    fn add_recipient(&self, report: &Report, status: &mut Fields) {
        if let Some(original) = &report.original {
            let decoded = original.decoded();
            // RFC 6533 §3: other characters stand in a report that is not in UTF-8 as utf-8-addr-xtext.
            let address = if self.is_ascii() { in_ascii(&decoded) } else { decoded };
            status.add("Original-Recipient", &format!("{}; {address}", original.kind()));
        }
        let kind = if report.recipient.is_ascii() { "rfc822" } else { "utf-8" };
        status.add("Final-Recipient", &format!("{kind}; {}", report.recipient));
        status.add("Action", report.cause.action().as_str());
        status.add("Status", &status_code(report));
        let said = Said::of(&report.reason);
        if let Some(server) = said.server {
            status.add("Remote-MTA", &format!("dns; {}", mta_name(server)));
        }
        let kind = if said.is_reply { "smtp" } else { "x-outgate" };
        status.add("Diagnostic-Code", &format!("{kind}; {}", said.words));
        status.add("Last-Attempt-Date", &rfc2822(self.now));
        if let Cause::Delayed(until) | Cause::Held(until) | Cause::ToDecide(until) | Cause::Throttled { until, .. } =
            report.cause
        {
            status.add("Will-Retry-Until", &rfc2822(until));
        }
    }

    fn returned(&self) -> MimePart<'static> {
        match self.original {
            Original::Whole(message) if self.is_ascii() || message.is_ascii() => {
                raw_part("message/rfc822", message.to_vec())
            }
            Original::Whole(message) => raw_part("message/global", message.to_vec()),
            // Where only the header is beyond ASCII, a readable notification is worth more than an exact copy.
            Original::Header(header) if self.is_ascii() => {
                raw_part("text/rfc822-headers", returned_header(header, true).into_bytes())
            }
            Original::Header(header) => raw_part("message/global-headers", returned_header(header, false).into_bytes()),
        }
    }

    fn header_field<T>(&self, field: impl Fn(&mail_parser::Message<'_>) -> Option<T>) -> Option<T> {
        let (Original::Header(header) | Original::Whole(header)) = self.original;
        field(&MessageParser::new().parse_headers(header)?)
    }

    /// With its brackets, if it is one that a header of ours can carry.
    fn message_id(&self) -> Option<String> {
        let id = self.header_field(|header| header.message_id().map(str::to_owned))?;
        let is_plain = id.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'\\' | b'"'));
        (is_plain && id.len() <= 200).then(|| format!("<{id}>"))
    }
}

/// What the text says about one recipient, each with what it is.
fn paragraphs(report: &Report) -> Vec<(&'static str, String)> {
    let said = Said::of(&report.reason);
    let words = shown(said.words);
    let its_words = if said.is_reply { "It said" } else { "The trouble" };
    let mut told = Vec::new();
    match report.cause {
        Cause::Refused if said.is_reply => {
            told.push(("What happened", format!("{} refused it.", said.whose())));
            told.push(("It said", words));
        }
        Cause::Refused => {
            // Our own words: their codes are for programs.
            let words =
                words.trim_start_matches(|character: char| character.is_ascii_digit() || " .".contains(character));
            told.push(("What happened", sentence(&format!("{}{words}", said.prefix()))));
        }
        Cause::Expired(waited) => {
            told.push(("What happened", format!("It could not be delivered within {}.", in_words(waited))));
            told.push(("The last trouble", sentence(&shown(&report.reason))));
        }
        Cause::Returned => {
            let happened = "An administrator of your organization returned it while it was held.";
            told.push(("What happened", happened.to_owned()));
            told.push(("Why it was held", sentence(&words)));
        }
        Cause::Declined => {
            told.push(("What happened", "An administrator of your organization did not let it go.".to_owned()));
            told.push(("Why it was held", sentence(&words)));
        }
        Cause::Undecided(waited) => {
            let happened = format!("No administrator of your organization let it go within {}.", in_words(waited));
            told.push(("What happened", happened));
            told.push(("Why it was held", sentence(&words)));
        }
        Cause::Withdrawn => {
            let happened = "An administrator of your organization returned it while it waited.";
            told.push(("What happened", happened.to_owned()));
            told.push(("Why it waited", sentence(&shown(&report.reason))));
        }
        Cause::Delayed(until) => {
            told.push(("What happened", format!("{} has not taken it yet.", said.whose())));
            told.push((its_words, words));
            told.push(("What happens next", format!("It is tried again until {}.", rfc2822(until))));
        }
        Cause::Held(until) => {
            told.push(("Why it is held", sentence(&words)));
            let next = "It leaves by itself once an administrator of your organization has set where it goes. If nobody does, it returns to you on";
            told.push(("What happens next", format!("{next} {}.", rfc2822(until))));
        }
        Cause::ToDecide(until) => {
            told.push(("Why it is held", sentence(&words)));
            let next =
                "It leaves once an administrator of your organization lets it go. If nobody does, it returns to you on";
            told.push(("What happens next", format!("{next} {}.", rfc2822(until))));
        }
        Cause::Throttled { leaves, last, .. } => {
            told.push(("Why it waits", sentence(&words)));
            let mut next = format!("It leaves by itself on {}.", rfc2822(leaves));
            if last > leaves {
                next.push_str(&format!(" The last of what you have sent so far leaves on {}.", rfc2822(last)));
            }
            told.push(("What happens next", next));
        }
        Cause::Relayed => {
            told.push(("What happened", format!("{} has taken it.", said.whose())));
            told.push(("It said", words));
            told.push(("What that means", "Whether it has reached the mailbox is not known here.".to_owned()));
        }
    }
    told.extend(advice(report).map(|advice| ("What to do", advice.to_owned())));
    told
}

fn advice(report: &Report) -> Option<&'static str> {
    let status = status_code(report);
    Some(match (report.cause, status.as_str()) {
        (Cause::Delayed(_) | Cause::Held(_) | Cause::ToDecide(_) | Cause::Throttled { .. }, _) => {
            "Nothing. If it is urgent, reach the recipient by another way, or ask your administrator."
        }
        (Cause::Relayed, _) => return None,
        (Cause::Declined | Cause::Undecided(_), _) => {
            "Ask your administrator, then send the message again, or to fewer recipients."
        }
        (Cause::Returned | Cause::Withdrawn, _) => {
            "Ask your administrator which route your mail takes now, then send the message again."
        }
        (Cause::Expired(_), _) => "Send the message again, or ask your administrator what is wrong with this route.",
        (_, "5.3.4" | "5.2.3") => "Send a smaller message, or a link to what it carries.",
        (_, "5.1.1" | "5.1.2" | "5.1.3" | "5.1.10") => "Check the address for mistakes and send the message again.",
        (_, "5.2.2") => "Ask the recipient to make room in the mailbox and send the message again later.",
        (_, "5.4.6") => "Show this notification to your administrator: the mail goes in circles.",
        (_, "5.6.7") => "Use an address without letters beyond a to z, or ask your administrator.",
        (_, status) if status.starts_with("5.7.") => {
            "The server does not let this message pass. Ask your administrator, and show this notification."
        }
        _ => "If the words above do not help, ask your administrator, and show this notification.",
    })
}

/// A reason taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said<'a> {
    kind: &'static str,
    /// The address of the server.
    server: Option<&'a str>,
    /// Its reply where it gave one, else what we say about it.
    words: &'a str,
    is_reply: bool,
}

/// How servers are named in reasons, and by their senders.
const KINDS: [(&str, &str); 3] = [
    ("gateway ", "Your organization's mail gateway"),
    ("smarthost ", "The mail platform's server"),
    ("mail server ", "The recipient's mail server"),
];

impl<'a> Said<'a> {
    fn of(reason: &'a str) -> Self {
        let unnamed = Self { kind: "The server", server: None, words: reason, is_reply: false };
        let Some((prefix, kind)) = KINDS.into_iter().find(|(prefix, _)| reason.starts_with(prefix)) else {
            return unnamed;
        };
        let rest = &reason[prefix.len()..];
        // Addresses have no blanks: what follows is ours, whatever the server put into its reply.
        let Some((server, words)) = rest.split_once(' ') else { return unnamed };
        match (server.strip_suffix(':'), words.strip_prefix("said: ")) {
            (_, Some(reply)) => Self { kind, server: Some(server), words: reply, is_reply: true },
            (Some(server), None) => Self { kind, server: Some(server), words, is_reply: false },
            (None, None) => Self { kind, server: Some(server), words, is_reply: false },
        }
    }

    fn whose(&self) -> String {
        self.server.map_or_else(|| self.kind.to_owned(), |server| format!("{} {server}", self.kind))
    }

    fn prefix(&self) -> String {
        self.server.map(|_| format!("{}: ", self.whose())).unwrap_or_default()
    }
}

/// A server's address without its port, as RFC 3464 §2.3.5 and RFC 5321 §4.1.3 have it.
fn mta_name(server: &str) -> String {
    use super::{GatewayAddress, GatewayHost};
    match server.parse::<GatewayAddress>().map(|address| address.host().clone()) {
        Ok(GatewayHost::Ip(ip @ std::net::IpAddr::V4(_))) => format!("[{ip}]"),
        Ok(GatewayHost::Ip(ip)) => format!("[IPv6:{ip}]"),
        Ok(GatewayHost::Name(name)) => name.to_string(),
        Err(_) => server.to_owned(),
    }
}

/// RFC 3463: the status that the reply has, else that of its class.
fn status_code(report: &Report) -> String {
    match report.cause {
        // RFC 3463 §3.5: delivery time expired.
        Cause::Expired(_) => return "5.4.7".to_owned(),
        // RFC 3463 §3.5: something about the route that has no code of its own.
        Cause::Returned | Cause::Withdrawn => return "5.4.0".to_owned(),
        // RFC 3463 §3.8: what the organization allows.
        Cause::Declined | Cause::Undecided(_) => return "5.7.1".to_owned(),
        Cause::Held(_) => return "4.4.0".to_owned(),
        Cause::ToDecide(_) | Cause::Throttled { .. } => return "4.7.1".to_owned(),
        Cause::Refused | Cause::Delayed(_) | Cause::Relayed => {}
    }
    let class = match report.cause.action() {
        Action::Failed => "5",
        Action::Delayed => "4",
        Action::Relayed => "2",
    };
    let words = Said::of(&report.reason).words;
    let enhanced = words.split_whitespace().take(5).find(|word| {
        let mut parts = word.split('.');
        parts.next() == Some(class) && parts.clone().count() == 2 && parts.all(|part| part.parse::<u16>().is_ok())
    });
    match (enhanced, class, words.starts_with("552")) {
        (Some(enhanced), ..) => enhanced.to_owned(),
        (None, "5", true) => "5.3.4".to_owned(),
        // RFC 3463 §3.5: no answer from the host.
        (None, "4", _) => "4.4.1".to_owned(),
        (None, ..) => format!("{class}.0.0"),
    }
}

/// The fields of a delivery status.
struct Fields {
    text: String,
    is_ascii: bool,
}

impl Fields {
    /// Adds a field; whatever its value is, it stays one field.
    fn add(&mut self, name: &str, value: &str) {
        let value = one_line(value);
        let value = if self.is_ascii { only_ascii(&value) } else { value };
        self.text.push_str(&format!("{name}: {}\r\n", folded(&value)));
    }
}

/// A part in the clear: its readers are programs.
fn raw_part(content_type: &'static str, content: Vec<u8>) -> MimePart<'static> {
    let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
    MimePart::new(content_type, content).transfer_encoding(encoding)
}

/// Header sections come with their empty line, which a part does not need. No line is longer than RFC 5322 §2.1.1 has it.
fn returned_header(header: &[u8], is_ascii: bool) -> String {
    const LONGEST: usize = 998;
    let header = String::from_utf8_lossy(header);
    let header = if is_ascii { only_ascii(&header) } else { header.into_owned() };
    header.trim_end().split("\r\n").fold(String::with_capacity(header.len()), |mut returned, line| {
        returned.push_str(&line[..line.floor_char_boundary(LONGEST)]);
        returned.push_str("\r\n");
        returned
    })
}

fn only_ascii(text: &str) -> String {
    text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect()
}

/// Nothing in it ends a line or moves a cursor.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// The same for people, not too long, and without marks that turn the rest of a line around.
fn shown(text: &str) -> String {
    const LONGEST: usize = 500;
    let is_mark = |character: char| matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let mut shown: String = one_line(text).chars().filter(|character| !is_mark(*character)).take(LONGEST).collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    shown
}

/// Begins with a capital and ends with a full stop.
fn sentence(words: &str) -> String {
    let mut characters = words.trim_end_matches('.').chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", characters.as_str())
}

/// `5 days`, `36 hours`.
fn in_words(length: Duration) -> String {
    let counted = |count: i64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match length {
        length if length >= Duration::DAY && length.whole_hours() % 24 == 0 => counted(length.whole_days(), "day"),
        length if length >= Duration::HOUR => counted(length.whole_hours(), "hour"),
        length => counted(length.whole_minutes(), "minute"),
    }
}

/// Lines of a text for people, with an indent; within one, what follows the first stands two further in.
fn wrapped(indent: &str, text: &str) -> String {
    const LONGEST: usize = 76;
    let further = if indent.is_empty() { String::new() } else { format!("{indent}  ") };
    let mut lines = String::from(indent);
    let mut length = indent.len();
    for (index, word) in text.split_whitespace().enumerate() {
        let width = word.chars().count();
        if index > 0 && length + 1 + width > LONGEST {
            lines.push_str(&format!("\n{further}"));
            length = further.len();
        } else if index > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += width;
    }
    lines + "\n"
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

pub(super) fn rfc2822(at: OffsetDateTime) -> String {
    at.format(&Rfc2822).unwrap_or_default()
}
