//! Whose fault it is when a transfer does not succeed: the recipient's, the message's, the gateway's
//! or nobody's for long. What the relay does next follows from this alone.

use crate::mail::{EnhancedStatus, Reply};

/// How far a transfer came, in the order in which it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Finding the server's addresses.
    LookUp,
    Connect,
    Greeting,
    /// EHLO, or HELO.
    Hello,
    /// STARTTLS and the handshake.
    Tls,
    /// AUTH.
    SignIn,
    Mail,
    Recipient,
    /// The answer to DATA itself.
    Data,
    /// The message's bytes.
    Content,
    /// The answer to the final dot.
    Dot,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A server that was chosen for us: it has to take our mail.
    Gateway {
        /// It has taken a message since its last change.
        has_accepted: bool,
    },
    /// A recipient's own server, found by MX: it owes us nothing.
    RecipientsServer,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This recipient will never get this message.
    Recipient,
    /// Nobody will get this message by this way.
    Message,
    /// The server cannot take anything now, or refuses us as such: its mail waits, and no attempt is charged.
    Gateway,
    /// The same may succeed later.
    Transient,
}

/// Whose fault a reply that is not positive is, or the lack of any (`None`: closed, timed out, garbage).
pub fn fault(stage: Stage, reply: Option<&Reply>, peer: Peer) -> Fault {
    let gateway = matches!(peer, Peer::Gateway { .. });
    let Some(reply) = reply else {
        // Whoever breaks off inside a message may do so because of that message: it holds up no others by itself.
        return if gateway && stage < Stage::Content { Fault::Gateway } else { Fault::Transient };
    };
    // RFC 5321 §3.8: 421 closes the channel, whatever was asked.
    if reply.code == 421 {
        return if gateway { Fault::Gateway } else { Fault::Transient };
    }
    if !reply.is_permanent() {
        return if gateway && stage < Stage::Mail { Fault::Gateway } else { Fault::Transient };
    }
    match (stage, peer) {
        // RFC 5321 §5.1: another server of the domain, or this one later, may not refuse us.
        (_, Peer::RecipientsServer) if stage < Stage::Mail => Fault::Transient,
        (_, Peer::Gateway { .. }) if stage < Stage::Mail => Fault::Gateway,
        (Stage::Mail, Peer::Gateway { .. }) if !is_about_the_message(reply) => Fault::Gateway,
        (Stage::Recipient, Peer::Gateway { has_accepted: false }) if is_relay_denied(reply) => Fault::Gateway,
        (Stage::Recipient, _) => Fault::Recipient,
        _ => Fault::Message,
    }
}

/// Whether a refusal of a recipient is only about how many there are in this transaction: the others follow in
/// the next (RFC 5321 §4.5.3.1.10). To be asked where some were accepted.
pub fn takes_no_more_recipients(reply: &Reply) -> bool {
    match reply.enhanced {
        Some(EnhancedStatus(4 | 5, detail_of, detail)) => (detail_of, detail) == (5, 3),
        _ => matches!(reply.code, 452 | 552),
    }
}

/// Whether a server that puts one message after the other off with this may do so whatever they are, and takes none. What
/// is said of a mailbox, of content or of policy (RFC 3463 §3: 1, 2, 6 and 7), of size (RFC 1870 §6.1) or of what the
/// message needs is about the message; so may be what is said of a recipient but of the server itself, as servers do that
/// want to be asked twice or look at where it leads.
pub fn may_be_about_itself(stage: Stage, reply: Option<&Reply>) -> bool {
    let Some(reply) = reply else { return true };
    match reply.enhanced {
        Some(EnhancedStatus(_, 3, detail)) => !matches!(detail, 3 | 4),
        Some(EnhancedStatus(_, subject, _)) => stage != Stage::Recipient && matches!(subject, 0 | 4 | 5),
        None => stage != Stage::Recipient && reply.code != 452,
    }
}

/// A refusal of size (RFC 1870 §6.1) or of content (RFC 3463 §3.7).
fn is_about_the_message(reply: &Reply) -> bool {
    match reply.enhanced {
        Some(EnhancedStatus(_, 3, 4) | EnhancedStatus(_, 6, _)) => true,
        Some(_) => false,
        None => reply.code == 552,
    }
}

/// A refusal of us: what a gateway says that does not know this platform.
fn is_relay_denied(reply: &Reply) -> bool {
    match reply.enhanced {
        Some(EnhancedStatus(_, 7, 1)) => true,
        Some(EnhancedStatus(_, 1, _)) => false,
        _ => reply.lines.iter().any(|line| line.to_ascii_lowercase().contains("relay")),
    }
}
