//! The envelope of a message: who sent it, who gets it, and what the submitting client said about
//! its content. Everything here goes on to the next server as it came.

use serde::{Deserialize, Serialize};

use super::notify::{self, EnvelopeId, Event, Notify, OriginalRecipient, Ret, Wishes};

/// RFC 5321 §2.3.1: the part of a message that is not in its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// As given in MAIL, without angle brackets; empty for the null reverse-path.
    pub reverse_path: String,
    /// As given in RCPT, without angle brackets, in the order given.
    pub forward_paths: Vec<String>,
    /// How many recipients were named, where distribution lists among them gave way to their members.
    pub named: Option<usize>,
    /// Distribution lists among the recipients, or in them, for which an administrator has to approve the message.
    pub to_approve: Vec<String>,
    /// What RCPT said about notifications, for each forward-path. Empty if it said nothing about any.
    pub wishes: Vec<Wishes>,
    pub parameters: MailParameters,
}

impl Envelope {
    /// Whether the sender wants to be told of it for any recipient.
    pub fn wants(&self, event: Event) -> bool {
        self.wishes.iter().any(|wishes| notify::wants(wishes.notify, event))
    }
}

/// What MAIL says beside the reverse-path and what must reach the next server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailParameters {
    /// BODY=8BITMIME (RFC 6152).
    #[serde(default)]
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    #[serde(default)]
    pub smtputf8: bool,
    /// RET (RFC 3461).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// ENVID (RFC 3461).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<EnvelopeId>,
}

/// One recipient of a waiting message, and what became of it so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// As given in RCPT, without angle brackets.
    pub to: String,
    pub state: RecipientState,
    /// What the last server that was asked said about this recipient, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// NOTIFY (RFC 3461).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// ORCPT (RFC 3461).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<OriginalRecipient>,
}

/// What became of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientState {
    /// Still to be delivered.
    Waiting,
    Delivered,
    /// Refused for good; the sender has a notification.
    Refused,
}

impl Recipient {
    /// A recipient that nobody was asked about yet.
    pub fn waiting(to: impl Into<String>) -> Self {
        Self { to: to.into(), state: RecipientState::Waiting, reply: None, notify: None, orcpt: None }
    }

    /// The same with what RCPT said about notifications.
    pub fn wishing(self, wishes: &Wishes) -> Self {
        Self { notify: wishes.notify, orcpt: wishes.original.clone(), ..self }
    }

    /// What RCPT said about notifications.
    pub fn wishes(&self) -> Wishes {
        Wishes { notify: self.notify, original: self.orcpt.clone() }
    }

    /// Whether the sender wants to be told of it.
    pub fn wants(&self, event: Event) -> bool {
        notify::wants(self.notify, event)
    }
}

/// The domain of a forward-path, or the address in brackets of an address literal; `None` where there is none.
pub fn domain_of(forward_path: &str) -> Option<&str> {
    forward_path.rsplit_once('@').map(|(_, domain)| domain).filter(|domain| !domain.is_empty())
}
