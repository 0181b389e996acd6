//! Notifications as senders and other servers get them, whole.
//! Asked of the bytes, and of what a library reads in them.

use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use std::sync::LazyLock;

use outgate::mail::{
    dsn::{Cause, Notification, Original, Report},
    short_id::MessageLinks,
};
use time::{Duration, OffsetDateTime, macros::datetime};

static LINKS: LazyLock<MessageLinks> = LazyLock::new(MessageLinks::default);

const ACCEPTED: OffsetDateTime = datetime!(2026-11-25 03:00:00 UTC);
const HEADER: &[u8] = b"From: Ann <ann@acme.example>\r\nTo: bob@elsewhere.example\r\nSubject: The offer\r\n\
    Message-ID: <17@acme.example>\r\n\r\n";

fn report(recipient: &str, reason: &str, cause: Cause) -> Report {
    Report { recipient: recipient.to_owned(), original: None, reason: reason.to_owned(), cause }
}

fn notification<'a>(reports: &'a [Report], original: Original<'a>) -> Notification<'a> {
    Notification {
        links: &LINKS,
        hostname: "relay.example",
        to: "ann@acme.example",
        own_id: "019f2d52-0000-7000-8000-000000000002",
        id: "019f2d52-0000-7000-8000-000000000001",
        envid: None,
        accepted_at: ACCEPTED,
        now: ACCEPTED + Duration::hours(5),
        reports,
        original,
    }
}

/// As text, once every way to read it was tried.
fn artefact(notification: &Notification<'_>) -> String {
    let bytes = notification.to_bytes();
    reads_well(&bytes);
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

/// A library reads it as a report of three parts, each line well ended and short enough.
fn reads_well(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "");
    // RFC 5321 section 2.3.8: CR and LF occur together only.
    assert!(!text.contains(['\r', '\n']), "{text:?}");
    // RFC 5322 section 2.1.1.
    let longest = bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest <= Some(999), "{longest:?}");
    let parsed = MessageParser::default().parse(bytes).unwrap();
    let kind = parsed.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    assert_eq!(parsed.parts[0].sub_parts().map(<[_]>::len), Some(3));
    for name in ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"] {
        assert_eq!(parsed.headers().iter().filter(|header| header.name() == name).count(), 1, "{name}");
    }
    let own = ["Auto-Submitted", "In-Reply-To", "References"].len() + 7;
    assert!(parsed.headers().len() <= own, "nothing else stands in its header: {:?}", parsed.headers());
}

/// The fields of the delivery status, block by block.
fn status(parsed: &Message<'_>) -> Vec<Vec<(String, String)>> {
    let part = parsed.parts.iter().find(|part| {
        part.content_type().is_some_and(|kind| kind.subtype().is_some_and(|kind| kind.ends_with("delivery-status")))
    });
    let text = match &part.unwrap().body {
        PartType::Text(text) => text.to_string(),
        PartType::Binary(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    let unfolded = text.replace("\r\n    ", " ");
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    unfolded.trim_end().split("\r\n\r\n").map(|block| block.lines().map(field).collect()).collect()
}

#[test]
fn a_refusal_says_who_refused_it_and_what_to_do() {
    let reports = [Report {
        original: Some("rfc822;Bob+2Bnews@elsewhere.example".parse().unwrap()),
        ..report(
            "bob@elsewhere.example",
            "gateway mail.example.com:587 said: 550 5.1.1 No such user here",
            Cause::Refused,
        )
    }];
    let envid = "QQ314159+20x".parse().unwrap();
    let one = Notification { envid: Some(&envid), ..notification(&reports, Original::Header(HEADER)) };
    insta::assert_snapshot!("refused", artefact(&one));
    let parsed_from = one.to_bytes();
    let status = status(&MessageParser::default().parse(&parsed_from).unwrap());
    let names: Vec<&str> = status[1].iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "Original-Recipient",
        "Final-Recipient",
        "Action",
        "Status",
        "Remote-MTA",
        "Diagnostic-Code",
        "Last-Attempt-Date",
    ];
    assert_eq!(names, expected);
}

#[test]
fn several_recipients_stand_each_with_its_own_words() {
    let reports = [
        report("bob@elsewhere.example", "mail server 192.0.2.7 said: 552 too big", Cause::Refused),
        report(
            "carla@elsewhere.example",
            "gateway [2001:db8::7]:2525: no answer within 300 seconds",
            Cause::Expired(Duration::days(5)),
        ),
        report(
            "dan@nowhere.example",
            "550 5.1.2 the recipient's domain does not exist or has no mail server",
            Cause::Refused,
        ),
        report("eve@elsewhere.example", "the gateway that it waited for was taken away", Cause::Returned),
    ];
    insta::assert_snapshot!("several", artefact(&notification(&reports, Original::Header(HEADER))));
}

#[test]
fn a_delay_says_that_nothing_is_lost() {
    let until = ACCEPTED + Duration::days(5);
    let waits = "gateway mail.example.com: the connection failed: Connection refused (os error 111)";
    let reports = [report("bob@elsewhere.example", waits, Cause::Delayed(until))];
    insta::assert_snapshot!("delayed", artefact(&notification(&reports, Original::Header(HEADER))));
    let held = "the gateway that it waited for was taken away";
    let reports = [report("bob@elsewhere.example", held, Cause::Held(ACCEPTED + Duration::days(7)))];
    insta::assert_snapshot!("held", artefact(&notification(&reports, Original::Header(HEADER))));
}

#[test]
fn what_was_passed_on_is_not_said_to_be_delivered() {
    let reports = [report("bob@elsewhere.example", "gateway mail.example.com said: 250 2.0.0 kept", Cause::Relayed)];
    insta::assert_snapshot!("relayed", artefact(&notification(&reports, Original::Header(HEADER))));
}

#[test]
fn a_whole_message_comes_back_as_it_was() {
    let message = [HEADER, "Größe: 10 m\r\n.\r\n--report-\r\n".as_bytes()].concat();
    let reports = [report("bob@elsewhere.example", "gateway mail.example.com said: 554 no", Cause::Refused)];
    let one = notification(&reports, Original::Whole(&message));
    insta::assert_snapshot!("whole", artefact(&one));
    let bytes = one.to_bytes();
    assert!(bytes.windows(message.len()).any(|window| window == message));
}

#[test]
fn an_address_beyond_ascii_is_reported_as_it_is() {
    let reports =
        [report("böb@elsewhere.example", "mail server mx.elsewhere.example said: 550 5.1.1 böb?", Cause::Refused)];
    let header = "Subject: grüße\r\nTo: böb@elsewhere.example\r\n\r\n".as_bytes();
    let one = notification(&reports, Original::Header(header));
    assert!(!one.is_ascii());
    insta::assert_snapshot!("internationalized", artefact(&one));
}

#[test]
fn hostile_words_stay_words() {
    let reply = format!(
        "gateway mail.example.com said: 550 5.7.1 <script>alert(1)</script> {{{{7*7}}}} \x1b[31m\r\nBcc: x@y.example\0 \
         said: 250 2.0.0 fine \u{202e}evil {}",
        "x".repeat(2_000)
    );
    let hostile = "\"a> b\\\"\u{7f}<script>\"@elsewhere.example";
    let header = b"Subject: =?utf-8?q?hello=0D=0ABcc:_x@y.example?=\r\nMessage-ID: <a\"\\> <b@c>\r\nX-Long: \xff";
    let header = [&header[..], &b"y".repeat(3_000), b"\r\n\r\n--report-\r\n\r\n"].concat();
    let reports =
        [report(hostile, &reply, Cause::Refused), report(hostile, &reply, Cause::Expired(Duration::minutes(1)))];
    for reports in [&reports[..1], &reports[..]] {
        let one = Notification { to: "ann\r\nbcc@acme.example", ..notification(reports, Original::Header(&header)) };
        let bytes = one.to_bytes();
        reads_well(&bytes);
        let parsed = MessageParser::default().parse(&bytes).unwrap();
        let status = status(&parsed);
        assert_eq!(status.len(), 1 + reports.len());
        let (name, code) = &status[1][4];
        assert_eq!(name, "Diagnostic-Code");
        assert!(code.starts_with("smtp; 550 5.7.1 <script>"), "{code}");
        assert!(code.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{code}");
        let text = parsed.body_text(0).unwrap();
        assert!(!text.chars().any(|character| character.is_control() && !"\r\n".contains(character)), "{text:?}");
        assert!(!text.contains('\u{202e}') && text.contains("Subject: hello"), "{text}");
    }
}

#[test]
fn where_the_operator_says_where_the_pages_are_a_notification_leads_to_the_messages_story() {
    let reports = [report("bob@elsewhere.example", "550 5.1.1 nobody", Cause::Refused)];
    let links = MessageLinks::to("https://outgate.example.com/");
    let one = Notification { links: &links, ..notification(&reports, Original::Header(HEADER)) };
    let text = String::from_utf8(one.to_bytes()).unwrap().replace("=\r\n", "");
    let link = "In Message Trace: https://outgate.example.com/message/06fj-tmg00-00001";
    assert!(text.contains(link), "{text}");
}
