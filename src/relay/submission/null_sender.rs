//! Whose mail a message without reverse-path is: of a delivery report the address that it reports
//! on, else the single From mailbox (RFC 3464 §2.3, RFC 5322 §3.6.2).

use mail_parser::{HeaderName, Message, MessageParser, MimeHeaders};

/// The addresses that may decide the route, best first. `beginning` is the message without the
/// fields that we add, as far as it is in memory.
///
/// A report names the address that the client's own mail server could not or did deliver to: a
/// user, or what a user's address leads to. `Original-Recipient` is what the world wrote to, so it comes first.
pub fn candidates(beginning: &[u8]) -> Vec<String> {
    let Some(message) = MessageParser::new().parse(beginning) else { return Vec::new() };
    let mut candidates = reported_on(&message);
    candidates.extend(single_author(&message));
    candidates
}

fn reported_on(message: &Message<'_>) -> Vec<String> {
    let is_report = message.content_type().is_some_and(|content_type| {
        content_type.ctype().eq_ignore_ascii_case("multipart")
            && content_type.subtype().is_some_and(|subtype| subtype.eq_ignore_ascii_case("report"))
            && content_type.attribute("report-type").is_some_and(|kind| kind.eq_ignore_ascii_case("delivery-status"))
    });
    if !is_report {
        return Vec::new();
    }
    // RFC 6533 §4 has the second form.
    let status = message.parts.iter().find(|part| {
        part.is_content_type("message", "delivery-status") || part.is_content_type("message", "global-delivery-status")
    });
    status.map(|part| recipients(&String::from_utf8_lossy(part.contents()))).unwrap_or_default()
}

/// The recipients that the fields of a delivery status name, block by block.
fn recipients(status: &str) -> Vec<String> {
    let mut originals = Vec::new();
    let mut finals = Vec::new();
    for line in status.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let address = || value.split_once(';').map(|(_kind, address)| without_brackets(address).to_owned());
        if name.trim().eq_ignore_ascii_case("original-recipient") {
            originals.extend(address());
        } else if name.trim().eq_ignore_ascii_case("final-recipient") {
            finals.extend(address());
        }
    }
    originals.append(&mut finals);
    originals
}

fn without_brackets(address: &str) -> &str {
    let address = address.trim();
    address.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(address)
}

/// The From mailbox if there is exactly one, in exactly one From field.
fn single_author(message: &Message<'_>) -> Option<String> {
    let mut fields = message.header_values(HeaderName::From);
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let mut authors = field.as_address()?.iter();
    let (Some(author), None) = (authors.next(), authors.next()) else { return None };
    author.address().map(str::to_owned)
}
