//! What a verification of a gateway found, step by step, and what to do where it did not go well.
//! Pure values and sentences: the relay fills them, pages and command show them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{fault::Stage, outbound_address::written};
use crate::mail::{EnhancedStatus, GatewayAddress, Reply};

/// One step towards a message that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub stage: Stage,
    pub outcome: Outcome,
    /// In milliseconds.
    pub took: u32,
    /// What the server said, and what else there is to see.
    pub saw: Vec<String>,
    /// What to do: after a failure always, else where it could be better.
    pub advice: Option<String>,
    /// The certificate is one that “required and verified” would accept, and the record does not ask for it.
    #[serde(default)]
    pub would_verify: bool,
    /// The address of ours that the connection came from, as this machine knows it.
    #[serde(default)]
    pub from: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    UnderWay,
    Passed,
    Failed,
}

/// Where a test message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To whoever is named as the recipient.
    Recipient,
    /// Back to this installation.
    Return,
}

/// Who is asked whether the gateway accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub sender: String,
    pub recipient: String,
}

/// What somebody has to know who puts a failure right.
#[derive(Debug, Clone)]
pub struct About<'a> {
    pub address: &'a GatewayAddress,
    /// Where our connection is seen to come from, as far as that is known.
    pub from: &'a [IpNet],
    /// The relay's name in EHLO.
    pub hostname: &'a str,
    pub probe: &'a Probe,
    pub signs_in: bool,
    pub is_encrypted: bool,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failing {
    Said(Reply),
    NoSuchName,
    /// The DNS gave no answer.
    NameNotAnswered(String),
    /// Our own rules, or what the record says, in a sentence for whoever typed it.
    Ours(String),
    PortClosed,
    TimedOut,
    Closed,
    NotSmtp,
    /// It speaks TLS from the start, which we do not.
    SpeaksTlsAtOnce,
    TlsNotOffered,
    Certificate(CertificateFault),
    SignInNotOffered,
    Other(String),
}

/// Why a certificate does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFault {
    /// It is for these names.
    OtherName(Vec<String>),
    Expired(Option<OffsetDateTime>),
    NotYetValid,
    /// Nobody vouches for it who is trusted. Its issuer and its SHA-256.
    Unknown {
        issuer: String,
        fingerprint: String,
    },
    Other(String),
}

/// What the step is called.
pub fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::LookUp => "Find its addresses",
        Stage::Connect => "Connect",
        Stage::Greeting => "Greeting",
        Stage::Hello => "EHLO",
        Stage::Tls => "TLS",
        Stage::SignIn => "Sign in",
        Stage::Mail => "Sender",
        Stage::Recipient => "Recipient",
        Stage::Data | Stage::Content | Stage::Dot => "Message",
    }
}

/// What the first step that failed is called, and what to do about it.
pub fn failed<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Option<(&'static str, &'a str)> {
    let failed = steps.into_iter().find(|step| step.outcome == Outcome::Failed)?;
    Some((title(failed.stage), failed.advice.as_deref()?))
}

/// What to do about a server that takes messages of so many bytes at most, where we take them up to `largest`; `None` if
/// that is about the same.
pub fn too_small(most: u64, largest: u64) -> Option<String> {
    (most < largest / 10 * 9).then(|| {
        format!(
            "It takes messages of up to {} only, and we take them up to {}: what is larger returns to its sender. Raise \
             the server's limit (in Postfix: message_size_limit), or enter it on the gateway's page.",
            size(most),
            size(largest)
        )
    })
}

fn size(bytes: u64) -> String {
    match bytes {
        ..1_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// One sentence of what to do.
pub fn advice(stage: Stage, failing: &Failing, about: &About<'_>) -> String {
    let (host, port) = (about.address.host(), about.address.port());
    match failing {
        Failing::NoSuchName => {
            format!("The name {host} has no address: correct the name, or add it to your DNS.")
        }
        Failing::NameNotAnswered(why) => format!(
            "The DNS does not answer for {host} ({why}): try again, and if it stays so ask whoever runs your DNS."
        ),
        Failing::Ours(sentence) => sentence.clone(),
        Failing::PortClosed => format!(
            "Port {port} of {host} is closed: correct the port, or start the mail server there and open its firewall."
        ),
        Failing::TimedOut if stage == Stage::Connect => format!(
            "{host} does not answer on port {port}: a firewall may drop our connections. Let this relay through, or \
             correct the address."
        ),
        Failing::TimedOut if stage == Stage::Greeting => format!(
            "Something answers on port {port} and never greets, as a mail server does: correct the port, which is usually \
             25 or 587, or look into the server's log."
        ),
        Failing::TimedOut => "It stopped answering: look into its log, and try again.".to_owned(),
        Failing::Closed if stage == Stage::Greeting => {
            format!("It closes the connection before it says anything: let it accept connections from {}.", from(about))
        }
        Failing::Closed => "It closed the connection: look into its log for the reason.".to_owned(),
        Failing::NotSmtp => {
            format!("What answers on port {port} is not a mail server: correct the port, which is usually 25 or 587.")
        }
        Failing::SpeaksTlsAtOnce => format!(
            "Port {port} speaks TLS from the start, as port 465 does: use the server's port with STARTTLS, which is \
             usually 587 or 25."
        ),
        Failing::TlsNotOffered => "It does not offer TLS (STARTTLS): turn TLS on at the server, or choose “when \
                                   offered” on the gateway's page."
            .to_owned(),
        Failing::Certificate(fault) => certificate(fault, about.address),
        Failing::SignInNotOffered => "It does not offer to sign in by PLAIN or LOGIN: turn one of them on at the \
                                      server, or remove the user name from the gateway's page."
            .to_owned(),
        Failing::Said(reply) => of_reply(stage, reply, about),
        Failing::Other(why) => format!("It failed: {why}. Look into the server's log, and try again."),
    }
}

/// What is to be said of a certificate that nobody verifies.
pub fn would_not_verify(fault: &CertificateFault, address: &GatewayAddress) -> String {
    format!("Nobody verifies its certificate as TLS is set, and it would not pass. {}", certificate(fault, address))
}

fn certificate(fault: &CertificateFault, address: &GatewayAddress) -> String {
    match fault {
        CertificateFault::OtherName(names) => format!(
            "Its certificate is for another name ({}): enter that name on the gateway's page, or give the server a \
             certificate for {}.",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            address.host()
        ),
        CertificateFault::Expired(at) => format!(
            "Its certificate has expired{}: renew it on the server.",
            at.map(|at| format!(" on {}", at.date())).unwrap_or_default()
        ),
        CertificateFault::NotYetValid => {
            "Its certificate is not valid yet: set the server's clock, or wait until it is.".to_owned()
        }
        CertificateFault::Unknown { issuer, fingerprint } => format!(
            "Nobody who is trusted vouches for its certificate (issued by {issuer}): enter your authority's certificate \
             or this one's fingerprint {fingerprint} on the gateway's page, or give the server one of a public authority."
        ),
        CertificateFault::Other(why) => {
            format!("Its certificate cannot be used ({why}): give the server another one.")
        }
    }
}

fn of_reply(stage: Stage, reply: &Reply, about: &About<'_>) -> String {
    let from = from(about);
    let wants_tls = reply.lines.iter().any(|line| line.to_ascii_uppercase().contains("STARTTLS"));
    match stage {
        Stage::Greeting => format!("It refuses connections from {from}: let the server accept them."),
        Stage::Hello => format!(
            "It refuses our name {}: let the server accept it, and see that the name leads to {from} and back.",
            about.hostname
        ),
        Stage::Tls => "It does not begin TLS although it offers it: look into its log.".to_owned(),
        Stage::SignIn => {
            "It does not take the user name and the password: enter both anew on the gateway's page.".to_owned()
        }
        Stage::Mail | Stage::Recipient if wants_tls && !about.is_encrypted => {
            "It wants TLS first and does not offer it to us: turn STARTTLS on at the server, and look into its log if it is on."
                .to_owned()
        }
        Stage::Mail | Stage::Recipient if wants_sign_in(reply) => match about.signs_in {
            true => "It wants a sign-in although we have signed in: look into its log.".to_owned(),
            false => "It wants us to sign in: enter a user name and a password on the gateway's page, or let it relay \
                      for our addresses."
                .to_owned(),
        },
        Stage::Mail | Stage::Recipient if is_about_size(reply) => {
            "It says that a message is too large, though none was sent: raise its limit (in Postfix: \
             message_size_limit), or see that its disk has room."
                .to_owned()
        }
        Stage::Mail => format!(
            "It refuses the sender {}: let the server take mail from your mail domains from {from}.",
            about.probe.sender
        ),
        // Postfix says so with 454 unless it is told otherwise.
        Stage::Recipient if reply.is_transient() && !says_relay_denied(reply) => format!(
            "It puts us off for now: try again in some minutes, and exempt {from} from greylisting at the server."
        ),
        Stage::Recipient if is_relay_denied(reply) => format!(
            "It does not relay for us: let the server relay for {from} (in Postfix: mynetworks), or give the gateway a \
             user name and a password."
        ),
        Stage::Data | Stage::Content | Stage::Dot => format!(
            "It takes the recipient and not the message: see its words, and let it pass mail from {} that comes from \
             {from}.",
            about.probe.sender
        ),
        _ => format!(
            "It refuses the recipient {}: let the server relay to other domains for {from}.",
            about.probe.recipient
        ),
    }
}

fn wants_sign_in(reply: &Reply) -> bool {
    let says = |word: &str| reply.lines.iter().any(|line| line.to_ascii_lowercase().contains(word));
    // RFC 4954 §6.
    reply.code == 530 || says("authentication required") || says("must authenticate")
}

/// RFC 1870 §6, RFC 3463 §3.4.
fn is_about_size(reply: &Reply) -> bool {
    reply.code == 552 || matches!(reply.enhanced, Some(EnhancedStatus(_, 3, 4)))
}

fn is_relay_denied(reply: &Reply) -> bool {
    says_relay_denied(reply) || matches!(reply.enhanced, Some(EnhancedStatus(_, 7, _)))
}

/// In the words of Postfix, Exim, Sendmail and Exchange. The recipient, which stands beside them, may have the word in
/// its own name.
fn says_relay_denied(reply: &Reply) -> bool {
    let words =
        ["relay access denied", "relay not permitted", "relaying denied", "unable to relay", "not permitted to relay"];
    let says = |line: &String| words.iter().any(|words| line.to_ascii_lowercase().contains(words));
    reply.lines.iter().any(says)
}

fn from(about: &About<'_>) -> String {
    match about.from {
        [] => "this relay".to_owned(),
        from => from.iter().map(written).collect::<Vec<_>>().join(" and "),
    }
}
