//! SMTP replies: the three digits, the enhanced status and the words (RFC 5321 §4.2, RFC 3463).
//! Spoken by `relay::submission`, heard by `relay::handover`, shown everywhere.

use std::fmt;

use super::ShortText;

/// RFC 3463: class, subject and detail, as in 5.7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedStatus(pub u8, pub u16, pub u16);

impl EnhancedStatus {
    fn to_text(self) -> ShortText {
        let mut text = ShortText::of_number(self.0.into());
        for number in [self.1, self.2] {
            text.byte(b'.');
            text.number(number);
        }
        text
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// One reply of an SMTP server, ours or another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub enhanced: Option<EnhancedStatus>,
    /// The lines without code, enhanced status and line ends; never empty.
    pub lines: Vec<String>,
}

impl Reply {
    /// A reply of one line with an enhanced status.
    pub fn new(code: u16, enhanced: EnhancedStatus, text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(enhanced), lines: vec![text.into()] }
    }

    /// The reply with its words marked as another server's: `gateway mail.example.com said: No such user`.
    pub fn said_by(&self, who: &str) -> Self {
        self.beginning_with(&format!("{who} said: "))
    }

    /// Our own reply about another server: `gateway mail.example.com: it does not take …`.
    pub fn about(&self, who: &str) -> Self {
        self.beginning_with(&format!("{who}: "))
    }

    fn beginning_with(&self, words: &str) -> Self {
        let mut reply = self.clone();
        if let Some(first) = reply.lines.first_mut() {
            first.insert_str(0, words);
        }
        // RFC 3463 §3.1: where the server gave no detail, the class alone is known.
        reply.enhanced = self.enhanced.or(Some(EnhancedStatus((self.code / 100) as u8, 0, 0)));
        reply
    }

    /// The reply as a client may get it: lines of at most 512 octets (RFC 5321 §4.5.3.1.5), and
    /// nothing beyond ASCII unless the client has asked for SMTPUTF8 (RFC 6531 §3.7.4.1).
    pub fn for_client(mut self, smtputf8: bool) -> Self {
        // Code, enhanced status and line end take some of them.
        const LONGEST: usize = 480;
        for line in &mut self.lines {
            if !smtputf8 && !line.is_ascii() {
                *line = line.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect();
            }
            line.truncate(line.floor_char_boundary(LONGEST));
        }
        self
    }

    /// With the id under which administrators find the message at the end.
    pub fn known_as(mut self, id: &str) -> Self {
        // Of 512 octets, with code, enhanced status, blank, brackets and line end (RFC 5321 §4.5.3.1.5).
        const LONGEST: usize = 482;
        if let Some(last) = self.lines.last_mut() {
            last.truncate(last.floor_char_boundary(LONGEST.saturating_sub(id.len())));
            last.push_str(&format!(" [{id}]"));
        }
        self
    }

    /// 2yz: the request was carried out (RFC 5321 §4.2.1).
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 3yz: the server waits for more, as after DATA.
    pub fn is_intermediate(&self) -> bool {
        (300..400).contains(&self.code)
    }

    /// 4yz: the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5yz: the same request will never succeed.
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// The reply as bytes on the wire, one CRLF-ended line for each line of text.
    pub fn to_wire(&self) -> String {
        // Code, enhanced status, blanks and line end take some twenty bytes.
        let length = self.lines.iter().map(|line| line.len() + 20).sum();
        let (mut wire, code) = (String::with_capacity(length), ShortText::of_number(self.code));
        for (index, line) in self.lines.iter().enumerate() {
            let separator = if index + 1 == self.lines.len() { ' ' } else { '-' };
            wire.push_str(&code);
            wire.push(separator);
            if let Some(enhanced) = self.enhanced {
                wire.push_str(&enhanced.to_text());
                wire.push(' ');
            }
            wire.push_str(line);
            wire.push_str("\r\n");
        }
        wire
    }
}

/// One line, for pages, logs and notifications: `550 5.7.1 relaying denied`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ShortText::of_number(self.code))?;
        if let Some(enhanced) = self.enhanced {
            f.write_str(" ")?;
            f.write_str(&enhanced.to_text())?;
        }
        self.lines.iter().try_for_each(|line| {
            f.write_str(" ")?;
            f.write_str(line)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_message_is_known_as_the_line_stays_as_short_as_every_client_reads() {
        let reply = Reply::new(550, EnhancedStatus(5, 7, 1), "x".repeat(600));
        let link = format!("https://{}/message/0k8x-3f7ab-c9def", "a".repeat(200));
        for known_as in ["0k8x-3f7ab-c9def", &link] {
            let wire = reply.clone().known_as(known_as).to_wire();
            assert!(wire.len() <= 512 && wire.ends_with(&format!("x [{known_as}]\r\n")), "{wire}");
        }
    }
}
