//! Whose mail it is: from the reverse-path as a client gives it to the addresses under which an
//! account may be known.

use crate::mail::Mailbox;

/// The mailboxes to look up for a reverse-path, best first: the address itself; without its tag
/// (`ann+news@` is `ann@` unless it is an address of its own); and what SRS, BATV and VERP forms
/// were made from. The first that an account has is the sender; if none is, the mail follows the
/// route of the domain of the first.
///
/// Empty if the reverse-path is null or not a mail address.
pub fn candidates(reverse_path: &str) -> Vec<Mailbox> {
    let Ok(given) = reverse_path.parse::<Mailbox>() else { return Vec::new() };
    let mut candidates = vec![given.clone()];
    let mut add = |mailbox: Option<Mailbox>| {
        if let Some(mailbox) = mailbox
            && !candidates.contains(&mailbox)
        {
            candidates.push(mailbox);
        }
    };
    let original = without_wrapping(&given);
    add(original.clone());
    add(without_tag(original.as_ref().unwrap_or(&given)));
    add(without_tag(&given));
    candidates
}

/// `ann+news@example.com` → `ann@example.com` (RFC 5233).
fn without_tag(mailbox: &Mailbox) -> Option<Mailbox> {
    let (user, _tag) = mailbox.local_part().split_once('+')?;
    with_local_part(mailbox, user)
}

/// The address under which a bounce address was made, at the same domain:
/// BATV `prvs=0123abcdef=ann@`, and VERP `ann+bob=example.org@`, which is a tag.
/// SRS (`SRS0=hash=tt=other.example=ann@`) names an address of another domain, which is rewritten so
/// that the forwarder answers for it: the forwarder's own domain stays the sender's.
fn without_wrapping(mailbox: &Mailbox) -> Option<Mailbox> {
    let local_part = mailbox.local_part();
    if let Some(tagged) = local_part.strip_prefix("prvs=") {
        let (_key, user) = tagged.split_once('=')?;
        return with_local_part(mailbox, user);
    }
    if local_part.starts_with("srs0") || local_part.starts_with("srs1") {
        let mut parts = local_part.rsplitn(3, '=');
        let (user, domain) = (parts.next()?, parts.next()?);
        return format!("{user}@{domain}").parse().ok();
    }
    None
}

fn with_local_part(mailbox: &Mailbox, local_part: &str) -> Option<Mailbox> {
    format!("{local_part}@{}", mailbox.domain()).parse().ok()
}
