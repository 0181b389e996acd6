//! What the relay says to submitting clients, in one place: the codes of RFC 5321 §4.2 and RFC 3463,
//! and words that say what to do.

use std::net::IpAddr;

use crate::{
    mail::{EnhancedStatus, Mailbox, Reply, envelope::domain_of},
    policy::{
        distribution_list::{Refusal, Why},
        facts::Decision,
    },
};

pub(super) const MOST_RECIPIENTS: usize = 1000;
pub(super) const MOST_HOPS: usize = 50;
/// How often a message may come through here: a screen hands it back once, and its recipients may forward it.
pub(super) const MOST_OWN_HOPS: usize = 4;

/// RFC 2034 §3: neither the greeting nor the reply to EHLO has an enhanced status.
fn plain(code: u16, lines: Vec<String>) -> Reply {
    Reply { code, enhanced: None, lines }
}

fn reply(code: u16, enhanced: (u8, u16, u16), text: impl Into<String>) -> Reply {
    Reply::new(code, EnhancedStatus(enhanced.0, enhanced.1, enhanced.2), text)
}

/// Replies are ASCII (RFC 5321 §4.2), and what a client sent may not be.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(254).collect()
}

pub(super) fn greeting(hostname: &str) -> Reply {
    plain(220, vec![format!("{hostname} ESMTP Outgate")])
}

/// Whether a connection is encrypted, or can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// There is no certificate.
    Unavailable,
    Offered,
    Active,
}

pub(super) fn ehlo(hostname: &str, max_message_size: u64, encryption: Encryption) -> Reply {
    let mut lines = vec![
        hostname.to_owned(),
        "PIPELINING".to_owned(),
        format!("SIZE {max_message_size}"),
        "8BITMIME".to_owned(),
        "SMTPUTF8".to_owned(),
        "DSN".to_owned(),
        "ENHANCEDSTATUSCODES".to_owned(),
        // RFC 9422.
        format!("LIMITS RCPTMAX={MOST_RECIPIENTS}"),
    ];
    match encryption {
        Encryption::Unavailable => {}
        Encryption::Offered => lines.push("STARTTLS".to_owned()),
        // RFC 4954 §9: passwords are asked for over TLS only.
        Encryption::Active => lines.push("AUTH PLAIN LOGIN".to_owned()),
    }
    plain(250, lines)
}

pub(super) fn helo(hostname: &str) -> Reply {
    plain(250, vec![hostname.to_owned()])
}

pub(super) fn sender_accepted() -> Reply {
    reply(250, (2, 1, 0), "Sender accepted")
}

pub(super) fn recipient_accepted() -> Reply {
    reply(250, (2, 1, 5), "Recipient accepted")
}

pub(super) fn no_test_message() -> Reply {
    reply(550, (5, 1, 1), "No test message is on its way to this address")
}

pub(super) fn tests_not_known_yet() -> Reply {
    reply(451, (4, 3, 0), "The relay cannot tell yet whose test message this is, try again later")
}

pub(super) fn test_message_alone() -> Reply {
    reply(452, (4, 5, 3), "A test message has one recipient: send to the others on their own")
}

pub(super) fn send_message() -> Reply {
    plain(354, vec!["Send the message, and end it with a line that holds a dot only".to_owned()])
}

pub(super) fn reset() -> Reply {
    reply(250, (2, 0, 0), "Nothing is kept of the message so far")
}

pub(super) fn noop() -> Reply {
    reply(250, (2, 0, 0), "Done")
}

/// RFC 5321 §3.5.3.
pub(super) fn cannot_verify() -> Reply {
    reply(252, (2, 1, 5), "Cannot verify recipients, but takes messages for them")
}

pub(super) fn help() -> Reply {
    plain(214, vec!["EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, RSET, NOOP, VRFY, HELP, QUIT: see RFC 5321".to_owned()])
}

pub(super) fn goodbye(hostname: &str) -> Reply {
    reply(221, (2, 0, 0), format!("{hostname} closes the connection"))
}

pub(super) fn stopping(hostname: &str) -> Reply {
    reply(421, (4, 3, 2), format!("{hostname} is stopping, try again in a moment"))
}

pub(super) fn given_up() -> Reply {
    reply(451, (4, 3, 2), "The relay is stopping and does not know yet what becomes of the message, send it again")
}

pub(super) fn not_loaded(hostname: &str) -> Reply {
    reply(421, (4, 3, 2), format!("{hostname} has just started and has not reached its store yet, try again later"))
}

pub(super) fn stale() -> Reply {
    reply(451, (4, 3, 0), "The store has been out of reach for too long to route mail, try again later")
}

pub(super) fn too_many_connections(hostname: &str) -> Reply {
    reply(421, (4, 7, 0), format!("{hostname} has too many connections, try again later"))
}

pub(super) fn too_many_mistakes(hostname: &str) -> Reply {
    reply(421, (4, 7, 0), format!("{hostname} has seen too many mistakes and closes the connection"))
}

pub(super) fn timed_out(hostname: &str) -> Reply {
    reply(421, (4, 4, 2), format!("{hostname} has waited too long and closes the connection"))
}

pub(super) fn talked_early() -> Reply {
    reply(554, (5, 5, 0), "Wait for the reply before sending more")
}

pub(super) fn unknown_command() -> Reply {
    reply(500, (5, 5, 1), "Not a command that is known here")
}

pub(super) fn not_mail() -> Reply {
    reply(500, (5, 5, 1), "This is a mail server: begin with EHLO")
}

pub(super) fn line_too_long() -> Reply {
    reply(500, (5, 5, 2), "The line is too long")
}

pub(super) fn bare_line_end() -> Reply {
    reply(500, (5, 5, 2), "End lines with CR LF, neither with CR nor with LF alone")
}

pub(super) fn not_text() -> Reply {
    reply(501, (5, 5, 2), "A command holds neither control characters nor malformed UTF-8")
}

pub(super) fn syntax(syntax: &str) -> Reply {
    reply(501, (5, 5, 2), format!("Use the form {syntax}"))
}

pub(super) fn takes_no_argument() -> Reply {
    reply(501, (5, 5, 4), "This command takes no argument")
}

pub(super) fn not_offered(command: &str) -> Reply {
    reply(502, (5, 5, 1), format!("{command} is not offered here"))
}

pub(super) fn parameter_value(keyword: &str) -> Reply {
    reply(501, (5, 5, 4), format!("The value of {} is not one that it can have", shown(keyword)))
}

/// RFC 5321 §4.1.1.11.
pub(super) fn parameter_not_offered(keyword: &str) -> Reply {
    reply(555, (5, 5, 4), format!("The parameter {} is not offered here", shown(keyword)))
}

pub(super) fn say_hello_first() -> Reply {
    reply(503, (5, 5, 1), "Send EHLO first")
}

pub(super) fn one_sender() -> Reply {
    reply(503, (5, 5, 1), "The sender was given already; RSET begins anew")
}

pub(super) fn sender_first() -> Reply {
    reply(503, (5, 5, 1), "Give the sender with MAIL first")
}

pub(super) fn recipient_first() -> Reply {
    reply(554, (5, 5, 1), "No recipient was accepted, so there is no message to send")
}

pub(super) fn malformed_sender() -> Reply {
    reply(
        501,
        (5, 1, 7),
        "The sender is not a mail address such as <ann@example.com>, with at most 64 octets before the @",
    )
}

pub(super) fn malformed_recipient() -> Reply {
    reply(501, (5, 1, 3), "The recipient is not a mail address such as <ann@example.com>")
}

pub(super) fn no_mailboxes_here() -> Reply {
    reply(550, (5, 1, 1), "There are no mailboxes here: give the recipient with its domain")
}

/// RFC 6531 §3.5.
pub(super) fn needs_smtputf8() -> Reply {
    reply(553, (5, 6, 7), "An address beyond ASCII needs the parameter SMTPUTF8 in MAIL")
}

/// RFC 5321 §4.5.3.1.10.
pub(super) fn too_many_recipients() -> Reply {
    reply(452, (4, 5, 3), format!("At most {MOST_RECIPIENTS} recipients a message: send it again for the others"))
}

/// RFC 1870 §6.
pub(super) fn too_large(max_message_size: u64) -> Reply {
    reply(552, (5, 3, 4), format!("The message is too large: at most {max_message_size} bytes are accepted"))
}

pub(super) fn bare_carriage_return() -> Reply {
    reply(550, (5, 6, 0), "The message has a CR without LF; send it with CR LF at the end of each line")
}

pub(super) fn bare_line_feed() -> Reply {
    reply(550, (5, 6, 0), "The message has an LF without CR; send it with CR LF at the end of each line")
}

pub(super) fn nul() -> Reply {
    reply(550, (5, 6, 0), "The message has a NUL character; encode binary content as base64")
}

pub(super) fn no_room() -> Reply {
    reply(452, (4, 3, 1), "There is no room for the message now, try again later")
}

pub(super) fn not_kept() -> Reply {
    reply(451, (4, 3, 0), "The message could not be written to disk here, try again later")
}

pub(super) fn going_in_circles() -> Reply {
    reply(554, (5, 4, 6), format!("The message has passed more than {MOST_HOPS} servers, so it is going in circles"))
}

pub(super) fn coming_back() -> Reply {
    let text = format!("The message has passed this server more than {MOST_OWN_HOPS} times, so it is going in circles");
    reply(554, (5, 4, 6), text)
}

pub(super) fn not_trusted(client: IpAddr, encryption: Encryption) -> Reply {
    let what_to_do = match encryption {
        Encryption::Unavailable => "ask the operator to add it to the trusted networks",
        Encryption::Offered => "begin TLS with STARTTLS and sign in with a relay credential of your organization",
        Encryption::Active => "sign in with a relay credential of your organization",
    };
    reply(550, (5, 7, 1), format!("{client} may not send mail here; {what_to_do}"))
}

/// RFC 3207 §4.
pub(super) fn ready_for_tls() -> Reply {
    reply(220, (2, 0, 0), "Begin TLS now")
}

pub(super) fn encrypted_already() -> Reply {
    reply(503, (5, 5, 1), "The connection is encrypted already")
}

/// RFC 4954 §6.
pub(super) fn encrypt_first() -> Reply {
    reply(538, (5, 7, 11), "Sign in over TLS only: begin it with STARTTLS")
}

pub(super) fn mechanism_not_offered() -> Reply {
    reply(504, (5, 5, 4), "Sign in with PLAIN or LOGIN")
}

pub(super) fn signed_in_already() -> Reply {
    reply(503, (5, 5, 1), "You are signed in already")
}

pub(super) fn not_while_sending() -> Reply {
    reply(503, (5, 5, 1), "Sign in before the message, not in it; RSET gives it up")
}

/// RFC 4954 §4: what is asked for, in base64.
pub(super) fn challenge(base64: &str) -> Reply {
    plain(334, vec![base64.to_owned()])
}

pub(super) fn sign_in_cancelled() -> Reply {
    reply(501, (5, 7, 0), "The sign-in is given up")
}

pub(super) fn malformed_sign_in() -> Reply {
    reply(501, (5, 5, 2), "That is not base64 of a user name and a password as the mechanism has them")
}

pub(super) fn sign_in_too_long() -> Reply {
    reply(500, (5, 5, 6), "The line is too long for a sign-in")
}

pub(super) fn signed_in() -> Reply {
    reply(235, (2, 7, 0), "Signed in")
}

/// The same for a user name that nobody has.
pub(super) fn wrong_credential() -> Reply {
    reply(
        535,
        (5, 7, 8),
        "The user name or the password is not right; an administrator of your organization can make a new relay credential",
    )
}

pub(super) fn on_behalf_of_nobody() -> Reply {
    reply(535, (5, 7, 8), "Nobody signs in on behalf of somebody else here: leave the authorization identity empty")
}

/// Only said to who has the secret.
pub(super) fn not_from_here(client: IpAddr) -> Reply {
    reply(
        535,
        (5, 7, 8),
        format!("This relay credential may not be used from {client}; ask an administrator to add its network"),
    )
}

pub(super) fn too_many_tries(hostname: &str) -> Reply {
    reply(421, (4, 7, 0), format!("{hostname} has seen too many sign-ins fail, try again in a quarter of an hour"))
}

pub(super) fn organization_has_too_many_connections() -> Reply {
    reply(421, (4, 7, 0), "Your organization has too many connections at a time, try again later")
}

pub(super) fn credential_revoked() -> Reply {
    reply(421, (4, 7, 0), "The relay credential was revoked or may no longer be used from here; sign in anew")
}

pub(super) fn credential_revoked_since() -> Reply {
    reply(451, (4, 7, 0), "The relay credential was revoked while the message was sent; sign in anew and send it again")
}

pub(super) fn too_fast(messages_per_minute: u32) -> Reply {
    reply(
        451,
        (4, 7, 0),
        format!("This relay credential may send {messages_per_minute} messages a minute, try again in a moment"),
    )
}

/// RFC 3463: 5.2.1 is a mailbox that is disabled, 5.2.4 a list that cannot be expanded.
pub(super) fn list_refuses(refusal: &Refusal) -> Reply {
    let enhanced = match refusal.why {
        Why::Disabled => (5, 2, 1),
        Why::NoMembers | Why::TooMany => (5, 2, 4),
        Why::OnlyNamed | Why::OnlyNamedOfLarge | Why::OnlyMembers | Why::Nobody | Why::NoSender => (5, 7, 1),
    };
    let mut words = refusal.to_string();
    if refusal.within.is_none()
        && let Some(first) = words.get_mut(..1)
    {
        first.make_ascii_uppercase();
    }
    reply(550, enhanced, words)
}

pub(super) fn not_your_organization(reverse_path: &str) -> Reply {
    let domain = domain_of(reverse_path).unwrap_or_default();
    reply(
        550,
        (5, 7, 1),
        format!(
            "{} is not a mail domain of your organization; send from one that is, or ask the operator to add it",
            shown(domain)
        ),
    )
}

pub(super) fn not_within_limits(sender: &str) -> Reply {
    reply(
        550,
        (5, 7, 1),
        format!(
            "This relay credential may not send from {}; ask an administrator to add the address or its domain",
            shown(sender)
        ),
    )
}

/// Said to a listed proxy.
pub(super) fn proxy_header_missing() -> Reply {
    reply(554, (5, 5, 0), "A PROXY header is expected from this address first")
}

pub(super) fn undecidable_sender() -> Reply {
    reply(
        550,
        (5, 7, 1),
        "A message without a sender needs one From address, or to be a delivery report, of a mail domain known here",
    )
}

/// Its organization takes mail of accounts only.
pub(super) fn unknown_sender(sender: &str) -> Reply {
    let text = format!(
        "No mail account has the address {}, and its organization takes mail of accounts only; correct the sender, or \
         ask an administrator to add the address",
        shown(sender)
    );
    reply(550, (5, 7, 1), text)
}

/// Why mail of a sender is not accepted; `None` if it has a route.
pub(super) fn refusal(decision: &Decision, sender: &str) -> Option<Reply> {
    let mailbox = || sender.parse::<Mailbox>().ok();
    let domain = || mailbox().map(|mailbox| mailbox.domain().to_string()).unwrap_or_default();
    let text = match decision {
        Decision::Route(_) => return None,
        Decision::UnknownDomain => format!(
            "No organization here has the mail domain {}; correct the sender, or ask the operator to add the domain",
            domain()
        ),
        Decision::OrganizationSuspended => {
            format!("The organization that has the mail domain {} is suspended; ask the operator", domain())
        }
        Decision::AccountSuspended => format!(
            "The mail account {} is suspended; ask an administrator of its organization",
            shown(&mailbox().map(|mailbox| mailbox.to_string()).unwrap_or_default())
        ),
    };
    Some(reply(550, (5, 7, 1), text))
}
