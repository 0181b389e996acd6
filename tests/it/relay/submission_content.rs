//! What comes after DATA: where it ends, what it may not contain, whose it is.
//! Every table is sent whole and byte by byte.

use outgate::relay::submission::{data::DataReader, null_sender};
use proptest::prelude::*;

use crate::support::{
    cases::cases,
    relay::{Desk, MAX_MESSAGE_SIZE},
};

const SECOND_ENVELOPE: &str = "MAIL FROM:<ann@acme.example>\r\nRCPT TO:<victim@far.example>\r\nDATA\r\n";

/// Ways to end a message that some server somewhere takes for the end, and ours must not.
const NOT_AN_END: [&str; 16] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\n",
    "\r.\r\n",
    "\n.\r",
    "\r\n.\r",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n. \r\n",
    "\r\n.\r\0\n",
    "\r\n..\r\n",
    "\n\n.\n\n",
];

fn smuggle(before: &str, end: &str, piece: usize) -> (Desk, String) {
    let mut desk = Desk::after_354();
    let mut said = desk.feed_in_pieces(format!("{before}{end}{SECOND_ENVELOPE}").as_bytes(), piece);
    said += &desk.feed_in_pieces(b"Subject: smuggled\r\n\r\ntext\r\n.\r\n", piece);
    (desk, said)
}

#[test]
fn nothing_but_cr_lf_dot_cr_lf_ends_a_message() {
    let too_large = "x".repeat(MAX_MESSAGE_SIZE as usize + 1);
    for end in NOT_AN_END {
        for before in ["Subject: x\r\n\r\ntext", "", "bare\nline", too_large.as_str()] {
            let pieces: &[usize] = if before.len() > 1000 { &[usize::MAX, 4096] } else { &[usize::MAX, 1, 2, 3, 5] };
            for &piece in pieces {
                let (desk, said) = smuggle(before, end, piece);
                assert!(desk.accepted.len() <= 1, "{end:?} in pieces of {piece}: {:?}", desk.accepted);
                assert_eq!(said.lines().count(), 1, "{end:?} in pieces of {piece} was answered {said}");
                let answer = said.get(..3).unwrap_or_default();
                assert!(["250", "550", "552"].contains(&answer), "{end:?} in pieces of {piece}: {said}");
            }
        }
    }
}

#[test]
fn cr_lf_dot_cr_lf_ends_a_message_and_commands_go_on() {
    for piece in [usize::MAX, 1] {
        let (desk, said) = smuggle("Subject: x\r\n\r\ntext", "\r\n.\r\n", piece);
        assert_eq!(desk.accepted.len(), 2, "{said}");
        // At once after 354 the CR LF of the DATA command counts.
        let (desk, said) = smuggle("", ".\r\n", piece);
        assert_eq!(desk.accepted.len(), 2, "{said}");
        assert_eq!(desk.accepted[0].content, b"");
    }
}

#[test]
fn a_refused_message_leaves_the_connection_in_step() {
    let too_large = "x".repeat(MAX_MESSAGE_SIZE as usize + 1);
    let cases = [
        ("a\nb", "550 5.6.0 The message has an LF without CR; send it with CR LF at the end of each line\r\n"),
        ("a\rb", "550 5.6.0 The message has a CR without LF; send it with CR LF at the end of each line\r\n"),
        ("a\0b", "550 5.6.0 The message has a NUL character; encode binary content as base64\r\n"),
        (&too_large, "552 5.3.4 The message is too large: at most 100000 bytes are accepted\r\n"),
    ];
    for (content, refusal) in cases {
        for piece in [usize::MAX, 7, 1] {
            let mut desk = Desk::after_354();
            let said = desk.feed_in_pieces(format!("{content}\r\n.\r\n").as_bytes(), piece);
            assert_eq!(said, refusal, "pieces of {piece}");
            let said = desk.feed(SECOND_ENVELOPE.as_bytes());
            assert!(said.ends_with("a dot only\r\n"), "{said}");
            assert_eq!(desk.feed(b"good\r\n.\r\n"), "250 2.0.0 queued\r\n");
            assert_eq!(desk.accepted.len(), 1);
        }
    }
}

#[test]
fn a_message_of_exactly_the_announced_size_is_accepted() {
    let mut desk = Desk::after_354();
    let content = "x".repeat(MAX_MESSAGE_SIZE as usize - 2);
    assert_eq!(desk.feed(format!("{content}\r\n.\r\n").as_bytes()), "250 2.0.0 queued\r\n");
    assert_eq!(desk.accepted[0].content.len() as u64, MAX_MESSAGE_SIZE);

    let mut desk = Desk::after_354();
    assert!(desk.feed(format!("x{content}\r\n.\r\n").as_bytes()).starts_with("552 5.3.4 "));
}

#[test]
fn the_thousandth_recipient_is_the_last() {
    let mut desk = Desk::trusted();
    desk.feed(b"EHLO client.example\r\n");
    desk.feed(b"MAIL FROM:<ann@acme.example>\r\n");
    for number in 1..=1000 {
        let said = desk.feed(format!("RCPT TO:<r{number}@far.example>\r\n").as_bytes());
        assert!(said.starts_with("250 2.1.5 "), "{number}: {said}");
    }
    let said = desk.feed(b"RCPT TO:<r1001@far.example>\r\n");
    assert_eq!(said, "452 4.5.3 At most 1000 recipients a message: send it again for the others\r\n");
    desk.feed(b"DATA\r\n");
    desk.feed(b".\r\n");
    assert_eq!(desk.accepted[0].forward_paths.len(), 1000);
}

#[test]
fn a_message_that_has_passed_more_than_fifty_servers_goes_in_circles() {
    let passed = |servers: usize| {
        let mut desk = Desk::after_354();
        let trace = "received: from a by b\r\n\tfor c; now\r\n".repeat(servers);
        desk.feed(format!("{trace}Subject: x\r\n\r\nReceived: not a field\r\n.\r\n").as_bytes())
    };
    assert_eq!(passed(50), "250 2.0.0 queued\r\n");
    assert_eq!(passed(51), "554 5.4.6 The message has passed more than 50 servers, so it is going in circles\r\n");
}

/// Submits without a reverse-path; the reply and the sender that decides the route.
fn submit_null(content: &str) -> (String, Option<String>) {
    let mut desk = Desk::trusted();
    desk.feed(b"EHLO client.example\r\n");
    desk.feed(b"MAIL FROM:<>\r\nRCPT TO:<bob@far.example>\r\n");
    desk.feed(b"DATA\r\n");
    let said = desk.feed(format!("{content}\r\n.\r\n").as_bytes());
    (said, desk.accepted.pop().map(|message| message.sender))
}

fn report(from: &str, status: &str) -> String {
    format!(
        "From: {from}\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/REPORT; report-type=\"delivery-status\";\r\n boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nFinal-Recipient: rfc822; text@other.example\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.acme.example\r\n\r\n{status}\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\nFrom: eve@other.example\r\n\r\ntext\r\n--b--\r\n"
    )
}

#[test]
fn a_delivery_report_goes_the_way_of_the_address_that_it_reports_on() {
    let status = "Final-Recipient: rfc822; ANN@acme.example\r\nAction: failed\r\nStatus: 5.2.2\r\n";
    let (said, sender) = submit_null(&report("MAILER-DAEMON@other.example", status));
    assert_eq!((said.as_str(), sender.as_deref()), ("250 2.0.0 queued\r\n", Some("ANN@acme.example")));

    // What the world wrote to comes before what it led to, and what is unknown here decides nothing.
    let status = "Original-Recipient: rfc822;<ann@acme.example>\r\nFinal-Recipient: rfc822; x@other.example\r\n";
    assert_eq!(submit_null(&report("x@other.example", status)).1.as_deref(), Some("ann@acme.example"));
    let status = "Original-Recipient: rfc822;ann@far.example\r\nFinal-Recipient: rfc822; x@other.example\r\n";
    assert_eq!(submit_null(&report("x@acme.example", status)).1.as_deref(), Some("x@other.example"));
    let status = "Final-Recipient: rfc822; x@far.example\r\nAction: failed\r\n";
    assert_eq!(
        submit_null(&report("MAILER-DAEMON@acme.example", status)).1.as_deref(),
        Some("MAILER-DAEMON@acme.example")
    );
}

#[test]
fn other_mail_without_a_sender_goes_the_way_of_its_single_author() {
    let (said, sender) =
        submit_null("From: \"Lee, Ann\" <ann.lee@acme.example>\r\nAuto-Submitted: auto-replied\r\n\r\nAway");
    assert_eq!((said.as_str(), sender.as_deref()), ("250 2.0.0 queued\r\n", Some("ann.lee@acme.example")));
}

#[test]
fn mail_without_a_sender_that_cannot_be_told_whose_it_is_is_refused() {
    let undecidable = "550 5.7.1 A message without a sender needs one From address, or to be a delivery report, \
                       of a mail domain known here\r\n";
    for content in [
        "",
        "text",
        "Subject: x\r\n\r\nFrom: ann@acme.example",
        "From: ann@acme.example, x@other.example\r\n\r\n",
        "From: ann@acme.example\r\nFrom: x@other.example\r\n\r\n",
        "From: eve@far.example\r\n\r\n",
        "Sender: ann@acme.example\r\n\r\n",
        &report("eve@far.example", "Final-Recipient: rfc822; x@far.example\r\n"),
    ] {
        assert_eq!(submit_null(content), (undecidable.to_owned(), None), "{content}");
    }
    let (said, _) = submit_null("From: carl@acme.example\r\n\r\n");
    assert_eq!(
        said,
        "550 5.7.1 The mail account carl@acme.example is suspended; ask an administrator of its organization\r\n"
    );
}

/// What a client does to content (RFC 5321 §4.5.2).
fn stuffed(content: &str) -> String {
    let lines = content.split_inclusive("\r\n");
    lines.map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() }).collect()
}

fn content() -> impl Strategy<Value = String> {
    let short = prop::sample::select(vec!["\r\n", ".", "..", "x", "text", "\r\n.\r\n", " "]).prop_map(str::to_owned);
    prop::collection::vec(prop_oneof![9 => short, 1 => long()], 0..60).prop_map(|parts| parts.concat() + "\r\n")
}

/// Text that is looked at in blocks.
fn long() -> impl Strategy<Value = String> {
    (1..40usize, 1..80usize).prop_map(|(lines, width)| format!("{:width$}\r\n", "x").repeat(lines) + "x")
}

/// Where content is cut: within and beyond such a block.
fn cut() -> impl Strategy<Value = usize> {
    prop_oneof![1..9usize, 250..1_200usize]
}

/// Whoever reads a large message has a buffer that ends somewhere: here in the middle of a line that is a dot.
#[test]
fn a_dot_line_across_the_border_of_two_buffers_is_read_at_every_position() {
    for (lines, ends) in [("\r\n..\r\n..x\r\n...\r\n", false), ("\r\n.\r\n", true), ("\r\nx\r\n..\r\n.\r\n", true)] {
        for buffer in [64_000, 64 * 1024, 32 * 1024] {
            for before in 0..=lines.len() {
                let wire = "x".repeat(buffer - before) + lines;
                let (mut reader, mut content, mut ended) = (DataReader::new(), Vec::new(), false);
                for mut piece in wire.as_bytes().chunks(buffer) {
                    ended |= reader.read(&mut piece, |bytes| content.extend_from_slice(bytes));
                    assert!(piece.is_empty(), "{before} bytes before the border of {buffer}");
                }
                let whole = wire.strip_suffix(".\r\n").filter(|_| ends).unwrap_or(&wire).replace("\r\n.", "\r\n");
                assert_eq!((ended, reader.fault()), (ends, None), "{before} bytes before the border of {buffer}");
                assert!(content == whole.as_bytes(), "{before} bytes before the border of {buffer}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_large_message_arrives_to_the_byte_however_it_is_cut(
        before in 65_000..66_500_usize,
        content in content(),
        cuts in prop::collection::vec(cut(), 1..40),
    ) {
        let content = format!("Subject: x\r\n\r\n{}\r\n{content}", "x".repeat(before));
        let wire = stuffed(&content) + ".\r\nNOOP\r\n";
        let (mut desk, mut said) = (Desk::after_354(), String::new());
        let (large, mut rest) = wire.as_bytes().split_at(before);
        said += &desk.feed_in_pieces(large, 32 * 1024);
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            said += &desk.feed(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(said, "250 2.0.0 queued\r\n250 2.0.0 Done\r\n");
        prop_assert!(desk.accepted[0].content == content.as_bytes());
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn content_arrives_to_the_byte_however_it_is_cut(content in content(), cuts in prop::collection::vec(cut(), 1..40)) {
        let wire = stuffed(&content) + ".\r\n" + "NOOP\r\n";
        let (mut reader, mut arrived, mut ended) = (DataReader::new(), Vec::new(), false);
        let mut rest = wire.as_bytes();
        let mut cuts = cuts.iter().cycle();
        while !ended {
            let (mut piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            ended = reader.read(&mut piece, |bytes| arrived.extend_from_slice(bytes));
            rest = &rest[rest.len() - after.len() - piece.len()..];
        }
        prop_assert_eq!(String::from_utf8(arrived).unwrap(), content);
        prop_assert_eq!(reader.fault(), None);
        prop_assert_eq!(rest, b"NOOP\r\n");
    }

    #[test]
    fn any_bytes_are_read_alike_however_they_are_cut(
        parts in prop::collection::vec(
            prop_oneof![
                30 => prop::sample::select(vec!["\r", "\n", ".", "\0", "a", "x"]).prop_map(str::to_owned),
                1 => long(),
            ],
            0..80,
        ),
        size in cut(),
    ) {
        let bytes = parts.concat().into_bytes();
        // `passes`: what is content as it stands is kept where it is.
        let read = |size: usize, passes: bool| {
            let (mut reader, mut content) = (DataReader::new(), Vec::new());
            let mut consumed = 0;
            for piece in bytes.chunks(size) {
                let (passed, mut rest) = piece.split_at(if passes { reader.pass(piece) } else { 0 });
                content.extend_from_slice(passed);
                let ended = reader.read(&mut rest, |bytes| content.extend_from_slice(bytes));
                consumed += piece.len() - rest.len();
                if ended {
                    return (true, consumed, content, reader.fault());
                }
            }
            (false, consumed, content, reader.fault())
        };
        let (ended, consumed, content, fault) = read(bytes.len().max(1), false);
        prop_assert_eq!(read(size, false), (ended, consumed, content.clone(), fault));
        prop_assert_eq!(read(size, true), (ended, consumed, content, fault));
        let end = [b"\r\n", &bytes[..]].concat().windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 3);
        prop_assert_eq!(end, ended.then_some(consumed));
    }

    #[test]
    fn no_bytes_break_a_session(pieces in prop::collection::vec(
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::sample::select(vec![
                "EHLO x\r\n", "MAIL FROM:<ann@acme.example>\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<b@far.example>\r\n",
                "DATA\r\n", ".\r\n", "\r\n.\r\n", "RSET\r\n", "From: x\r\n", "\"<@\\>", "QUIT", " ",
            ]).prop_map(|text| text.as_bytes().to_vec()),
        ], 0..30))
    {
        let mut desk = Desk::trusted();
        for piece in pieces {
            let said = desk.feed(&piece);
            prop_assert!(said.is_empty() || said.ends_with("\r\n"));
            prop_assert!(said.is_ascii());
        }
    }

    #[test]
    fn no_header_breaks_the_search_for_a_sender(header in "(?s).{0,200}", status in "(?s).{0,100}") {
        null_sender::candidates(header.as_bytes());
        null_sender::candidates(report(&header, &status).as_bytes());
    }
}
