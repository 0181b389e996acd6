//! What administrators are told of mail that waits for their approval: whose it is, why it waits, and where they decide.
//! Text alone; sent by the relay's queue, like notifications.

use time::OffsetDateTime;

use super::{
    dsn::{one_line, rfc2822},
    own_message::{OwnMessage, own_message},
};

/// One message to one administrator.
#[derive(Debug, Clone)]
pub struct ApprovalNotice<'a> {
    pub envelope: OwnMessage<'a>,
    /// The organization's name.
    pub organization: &'a str,
    /// How many wait.
    pub messages: i64,
    /// The latest of them.
    pub latest: &'a [Waiting],
}

/// A message that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub sender: String,
    /// Why it needs approval: a message to the distribution list all@example.com needs approval.
    pub why: String,
    pub since: OffsetDateTime,
    /// Where it is found: a link, or its short id.
    pub link: String,
}

impl ApprovalNotice<'_> {
    /// The message, ready to be sent with a null reverse-path.
    pub fn to_bytes(&self) -> Vec<u8> {
        own_message(&self.envelope, in_words(self.messages), self.text())
    }

    fn text(&self) -> String {
        let mut text = format!("{} of {}:\r\n", in_words(self.messages), one_line(self.organization));
        for waiting in self.latest {
            text.push_str(&format!(
                "\r\n    {}, {}\r\n    {}\r\n    {}\r\n",
                one_line(&waiting.sender),
                rfc2822(waiting.since),
                one_line(&waiting.why),
                waiting.link,
            ));
        }
        let more = self.messages - i64::try_from(self.latest.len()).unwrap_or(i64::MAX);
        if more > 0 {
            text.push_str(&format!("\r\n    and {more} more, which came before\r\n"));
        }
        text.push_str(
            "\r\nNothing of it has left. What nobody decides about returns to its sender two days after it came.\r\n\r\n\
             What to do: open Administration > Manage Organization > Web Mail Cloud > Outbound Queue, or the message \
             by its link or id in Message Trace. Release lets it go, Return gives it back with a report, Delete \
             removes it. You hear of further messages a quarter of an hour later at the earliest.\r\n",
        );
        text
    }
}

/// `1 message waits for approval`.
pub fn in_words(messages: i64) -> String {
    match messages {
        1 => "1 message waits for approval".to_owned(),
        messages => format!("{messages} messages wait for approval"),
    }
}
