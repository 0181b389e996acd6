//! Reads replies off a connection: bounded, tolerant of what harmless servers do, and with nothing
//! in the text that could end a log line or move a cursor.

use bytes::{Buf, BytesMut};
use smtp_proto::{
    AUTH_LOGIN, AUTH_PLAIN, EXT_8BIT_MIME, EXT_DSN, EXT_PIPELINING, EXT_SIZE, EXT_SMTP_UTF8, EXT_START_TLS,
    EhloResponse, response::parser::ResponseReceiver,
};

use super::trouble::Trouble;
use crate::mail::{EnhancedStatus, Reply};

const MAX_BYTES: usize = 64 * 1024;
const MAX_LINES: usize = 1_000;
/// What of one line is kept; the rest of it is read and forgotten.
const MAX_LINE: usize = 1_024;
/// How many lines of a reply are kept.
const MAX_KEPT_LINES: usize = 20;

/// What a server offers in answer to EHLO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    /// The largest message in bytes; 0: the server does not say (RFC 1870 §3).
    pub size: Option<u64>,
    pub starttls: bool,
    /// Whoever offers it tells the sender what was asked for (RFC 3461).
    pub dsn: bool,
    pub sign_in: SignInMethods,
}

/// The ways to sign in that we know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SignInMethods {
    pub plain: bool,
    pub login: bool,
}

/// How far the whole reply reaches into `input`; `None` while it is not complete. A bare LF ends a
/// line here as well: servers that send it mean the same.
pub fn complete_reply(input: &[u8]) -> Result<Option<usize>, Trouble> {
    let mut start = 0;
    for _ in 0..MAX_LINES {
        let Some(length) = input[start..].iter().position(|byte| *byte == b'\n') else {
            return if input.len() > MAX_BYTES { Err(Trouble::ReplyTooLong) } else { Ok(None) };
        };
        let line = &input[start..start + length];
        start += length + 1;
        if start > MAX_BYTES {
            return Err(Trouble::ReplyTooLong);
        }
        if line.get(3) != Some(&b'-') {
            return Ok(Some(start));
        }
        // `SSH-2.0` is not followed by anything: waiting for it would be in vain.
        if !line[..3].iter().all(u8::is_ascii_digit) {
            return Err(Trouble::Garbage);
        }
    }
    Err(Trouble::ReplyTooLong)
}

/// Takes one whole reply of `length` bytes from the front of `input`.
pub fn take_reply(input: &mut BytesMut, length: usize) -> Result<Reply, Trouble> {
    let reply = parse_reply(&input[..length]);
    input.advance(length);
    reply
}

fn parse_reply(bytes: &[u8]) -> Result<Reply, Trouble> {
    let mut code = None;
    let mut enhanced = None;
    let mut lines = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let parsed = parse_line(line)?;
        if code.is_some_and(|code| code != parsed.code) {
            return Err(Trouble::Garbage);
        }
        code = Some(parsed.code);
        if parsed.esc[0] != 0 {
            enhanced = Some(EnhancedStatus(parsed.esc[0], parsed.esc[1].into(), parsed.esc[2].into()));
        }
        if lines.len() < MAX_KEPT_LINES {
            lines.push(printable(parsed.message));
        }
    }
    // RFC 5321 §4.2: the first digit is 2 to 5.
    let code = code.filter(|code| (200..600).contains(code)).ok_or(Trouble::Garbage)?;
    Ok(Reply { code, enhanced, lines })
}

/// Parses one line as if it were the last of its reply.
fn parse_line(line: &[u8]) -> Result<smtp_proto::Response<String>, Trouble> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (code, rest) = line.split_at_checked(3).ok_or(Trouble::Garbage)?;
    let text = match rest {
        [] => rest,
        [b' ' | b'-', text @ ..] => &text[..text.len().min(MAX_LINE)],
        _ => return Err(Trouble::Garbage),
    };
    let mut receiver = ResponseReceiver::default();
    // The parser asks for more after each part but the last.
    let _ = receiver.parse(&mut code.iter());
    let _ = receiver.parse(&mut b" ".iter());
    let _ = receiver.parse(&mut text.iter());
    receiver.parse(&mut b"\r\n".iter()).map_err(|_| Trouble::Garbage)
}

/// Without control characters: the text goes into logs, pages, notifications and replies of ours.
fn printable(mut text: String) -> String {
    text.truncate(text.trim_end().len());
    match text.contains(char::is_control) {
        true => text.replace(char::is_control, "?"),
        false => text,
    }
}

/// What a positive answer to EHLO offers. Lines that are not understood are offers that we do not use.
pub fn parse_extensions(bytes: &[u8]) -> Extensions {
    let mut extensions = Extensions::default();
    // Line by line, so that one malformed offer does not hide the others.
    for line in bytes.split_inclusive(|byte| *byte == b'\n').skip(1) {
        let Some(offer) = line.get(4..) else { continue };
        let alone = [b"250-host\r\n250 ", offer].concat();
        let Ok(offered) = EhloResponse::parse(&mut alone.iter()) else { continue };
        extensions.pipelining |= offered.has_capability(EXT_PIPELINING);
        extensions.eight_bit_mime |= offered.has_capability(EXT_8BIT_MIME);
        extensions.smtputf8 |= offered.has_capability(EXT_SMTP_UTF8);
        extensions.sign_in.plain |= offered.auth_mechanisms & AUTH_PLAIN != 0;
        extensions.sign_in.login |= offered.auth_mechanisms & AUTH_LOGIN != 0;
        if offered.has_capability(EXT_SIZE) {
            extensions.size = Some(offered.size as u64);
        }
        extensions.starttls |= offered.has_capability(EXT_START_TLS);
        extensions.dsn |= offered.has_capability(EXT_DSN);
    }
    extensions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn reply(wire: &str) -> Result<Reply, Trouble> {
        let mut input = BytesMut::from(wire.as_bytes());
        let length = complete_reply(&input)?.ok_or(Trouble::Closed)?;
        take_reply(&mut input, length)
    }

    #[test]
    fn a_reply_of_several_lines_is_one_reply() {
        let reply = reply("550-5.7.1 First\r\n550 5.7.1 second\r\n250 next\r\n").expect("a reply");
        assert_eq!(reply.to_string(), "550 5.7.1 First second");
    }

    #[test]
    fn replies_without_text_or_with_bare_line_feeds_are_understood() {
        assert_eq!(reply("250\r\n").expect("a reply").code, 250);
        assert_eq!(reply("250-a\n250 b\n").expect("a reply").lines, ["a", "b"]);
    }

    #[test]
    fn control_characters_do_not_get_into_the_text() {
        let reply = reply("550 \x1b[31mred\x07 <script>\r\n").expect("a reply");
        assert_eq!(reply.lines, ["?[31mred? <script>"]);
    }

    #[test]
    fn what_is_not_a_reply_is_refused() {
        for garbage in
            ["hello\r\n", "25\r\n", "999 what\r\n", "100 what\r\n", "250_x\r\n", "250-a\r\n550 b\r\n", "\r\n"]
        {
            assert!(matches!(reply(garbage), Err(Trouble::Garbage)), "{garbage:?}");
        }
    }

    #[test]
    fn a_reply_that_never_ends_is_cut_off() {
        assert!(matches!(complete_reply(&vec![b'a'; 70_000]), Err(Trouble::ReplyTooLong)));
        assert!(matches!(complete_reply("250-a\r\n".repeat(1_001).as_bytes()), Err(Trouble::ReplyTooLong)));
    }

    #[test]
    fn extensions_are_found_beside_ones_that_are_malformed() {
        let found = parse_extensions(b"250-mx\r\n250-SIZE lots\r\n250-PIPELINING\r\n250-=AUTH=\r\n250 8bitmime\r\n");
        assert!(found.pipelining && found.eight_bit_mime && !found.smtputf8 && !found.starttls);
        assert_eq!(found.size, Some(0));
        for (offer, size) in [("SIZE", 0), ("SIZE 0", 0), ("SIZE 35882577", 35_882_577)] {
            assert_eq!(parse_extensions(format!("250-mx\r\n250 {offer}\r\n").as_bytes()).size, Some(size), "{offer}");
        }
    }

    /// Bytes of all kinds, and what looks like a reply more often than those do.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::sample::select(vec![
            "250",
            "354 ",
            "421-",
            "550-5.7.1 ",
            "250 2.1.5 ",
            "999",
            "-",
            " ",
            "\r\n",
            "\n",
            "\r",
            "SIZE 1",
            "SIZE ",
            "AUTH PLAIN LOGIN",
            "=",
            "STARTTLS",
            "\u{e9}",
            "5.999.99999999999 ",
        ]);
        let pieces = prop_oneof![
            1 => prop::collection::vec(any::<u8>(), 0..40),
            4 => words.prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(cases(1_000))]

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in bytes()) {
            let mut input = BytesMut::from(bytes.as_slice());
            if let Ok(Some(length)) = complete_reply(&input) {
                let _ = take_reply(&mut input, length);
            }
            parse_extensions(&bytes);
        }
    }
}
