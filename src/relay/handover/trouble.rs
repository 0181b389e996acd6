//! What goes wrong in a conversation with another server when no reply says it.
//! Turned into whose fault it is by `policy::fault`.

use std::{io, time::Duration};

use nix::errno::Errno;

use crate::{
    mail::Reply,
    policy::{connections, fault::Stage, gateway_network::Refusal},
    relay::resolver::LookUpError,
    secret::OpenError,
};

/// No usable answer, in words for whoever looks why mail waits.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    LookUp(#[from] LookUpError),
    /// Every address that the name leads to is one where no gateway may be.
    #[error("{0}")]
    Forbidden(Refusal),
    #[error("the connection failed: {0}")]
    Connect(io::Error),
    #[error("no answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    #[error("the connection was closed")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("the answer is not SMTP")]
    Garbage,
    #[error("the answer is longer than 64 KiB or 1,000 lines")]
    ReplyTooLong,
    #[error("TLS is required and not offered")]
    TlsNotOffered,
    #[error("signing in is required, and neither PLAIN nor LOGIN is offered")]
    SignInNotOffered,
    /// Before anything was sent.
    #[error("{0}")]
    Secret(OpenError),
    /// What its record says cannot be used.
    #[error("the certificate authority in the gateway's record cannot be read: enter it again")]
    Authority,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// Our own side: the message could not be read. Nothing of it was completed.
    #[error("the message could not be read: {0}")]
    Unreadable(io::Error),
}

impl Trouble {
    /// Whether this machine is at fault: it cannot read the message, or has no file descriptor or memory left for a
    /// connection.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Unreadable(_) => true,
            Self::Connect(error) => matches!(
                error.raw_os_error().map(Errno::from_raw),
                Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
            ),
            _ => false,
        }
    }
}

/// Why a conversation, or one message in it, ended without success.
#[derive(Debug)]
pub struct Failure {
    pub stage: Stage,
    pub answer: Answer,
}

/// What there is to show for it.
#[derive(Debug)]
pub enum Answer {
    /// The server said so.
    Reply(Reply),
    /// We found out before asking: the server lacks what the content needs.
    Ours(Reply),
    Trouble(Trouble),
}

impl Failure {
    pub fn trouble(stage: Stage, trouble: Trouble) -> Self {
        Self { stage, answer: Answer::Trouble(trouble) }
    }

    pub fn reply(stage: Stage, reply: Reply) -> Self {
        Self { stage, answer: Answer::Reply(reply) }
    }

    /// Whether the server says that it has too much at a time.
    pub fn asks_for_fewer(&self) -> bool {
        matches!(&self.answer, Answer::Reply(reply) if connections::asks_for_fewer(self.stage, reply))
    }

    /// Whether a connection that was used before had been given up by the server in the meantime.
    pub fn is_dead_connection(&self) -> bool {
        match &self.answer {
            Answer::Trouble(trouble) => matches!(trouble, Trouble::Closed | Trouble::Broken(_)),
            // RFC 5321 §3.8: what a server sends that closes an idle connection.
            Answer::Reply(reply) => reply.code == 421,
            Answer::Ours(_) => false,
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}
