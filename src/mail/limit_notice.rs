//! What administrators, and if they want it the sender, are told of somebody who sends much: that a limit is near, or exceeded, and what happens now.
//! Text alone; sent by the relay's queue, like notifications.

use std::fmt::Write;

use time::OffsetDateTime;

use super::{
    dsn::one_line,
    own_message::{OwnMessage, own_message},
};

/// One message to who sends much.
#[derive(Debug, Clone)]
pub struct SenderNotice<'a> {
    pub envelope: OwnMessage<'a>,
    /// The organization's name.
    pub organization: &'a str,
    /// How far it is, as the end of a sentence: is near a limit.
    pub how: &'a str,
    /// What was counted and what is allowed.
    pub counted: &'a str,
    /// What happens to further mail, a sentence.
    pub happens: &'a str,
    pub at: OffsetDateTime,
}

impl SenderNotice<'_> {
    /// The message, ready to be sent with a null reverse-path.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = format!(
            "Your mail account {} of {} {}, at {}:\r\n\r\n    {}\r\n\r\n{}\r\n\r\n\
             If it was not you who sent this, somebody may have your password: change it at once. Your administrators \
             are told, too; ask them if you have to send more.\r\n",
            one_line(self.envelope.to),
            one_line(self.organization),
            self.how,
            super::dsn::rfc2822(self.at),
            self.counted,
            self.happens,
        );
        own_message(&self.envelope, format!("Your mail account {}", self.how), text)
    }
}

/// One message to one administrator.
#[derive(Debug, Clone)]
pub struct LimitNotice<'a> {
    pub envelope: OwnMessage<'a>,
    /// The organization's name.
    pub organization: &'a str,
    /// Who sends much.
    pub whose: &'a str,
    /// How far it is, as the end of a sentence: is near a limit.
    pub how: &'a str,
    /// What was counted and what is allowed.
    pub counted: &'a str,
    /// What happens to mail beyond the limit, a sentence.
    pub happens: &'a str,
    pub at: OffsetDateTime,
}

impl LimitNotice<'_> {
    /// The message, ready to be sent with a null reverse-path.
    pub fn to_bytes(&self) -> Vec<u8> {
        own_message(&self.envelope, format!("{} {}", one_line(self.whose), self.how), self.text())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let (whose, organization) = (one_line(self.whose), one_line(self.organization));
        let _ = write!(
            text,
            "{whose} of {organization} {}, at {}:\r\n\r\n    {}\r\n\r\n{}\r\n\r\n",
            self.how,
            super::dsn::rfc2822(self.at),
            self.counted,
            self.happens,
        );
        text.push_str(
            "What to do: open Administration > Manage Organization > Web Mail Cloud > Outbound Volume. It shows who \
             sends how much and what waits, which can be sent at once there; a sender who should not send can be \
             blocked, and the limits be changed. You hear of the same once an hour at most.\r\n",
        );
        text
    }
}
