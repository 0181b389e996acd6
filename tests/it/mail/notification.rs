//! Notifications as other servers get them.
//! Asked of the bytes, as the next server reads them.

use outgate::mail::dsn::{Cause, Failure, Notification};
use time::OffsetDateTime;

#[test]
fn the_lines_of_a_notification_are_as_short_and_as_well_ended_as_servers_take_them() {
    let failure =
        |reason: String| Failure { recipient: "bob@elsewhere.example".to_owned(), reason, cause: Cause::Refused };
    let failures = [
        failure(format!("gateway mail.example.com said: 550 5.7.1 {}", "x".repeat(2_000))),
        failure(format!("gateway mail.example.com said: 550 5.7.1 {}", "é".repeat(1_000))),
    ];
    let notification = Notification {
        hostname: "relay.example",
        to: "ann@acme.example",
        id: "1",
        accepted_at: OffsetDateTime::UNIX_EPOCH,
        now: OffsetDateTime::UNIX_EPOCH,
        failures: &failures,
        header: "Subject: h\u{e9}llo\r\nX-Long: 1\r\n 2\r\n\r\n".as_bytes(),
    };
    let bytes = notification.to_bytes();
    // RFC 5321 section 2.3.8: CR and LF occur together only.
    let text = String::from_utf8(bytes.clone()).unwrap().replace("\r\n", "");
    assert!(!text.contains(['\r', '\n']), "{text:?}");
    // RFC 5322 section 2.1.1.
    let longest = bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest < Some(999), "{longest:?}");
}
