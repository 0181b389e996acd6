//! The envelope of a message: who sent it, who gets it, and what the submitting client said about
//! its content. Everything here goes on to the next server as it came.

use serde::{Deserialize, Serialize};

/// RFC 5321 §2.3.1: the part of a message that is not in its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// As given in MAIL, without angle brackets; empty for the null reverse-path.
    pub reverse_path: String,
    /// As given in RCPT, without angle brackets, in the order given.
    pub forward_paths: Vec<String>,
    pub parameters: MailParameters,
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
}
