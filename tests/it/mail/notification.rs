//! Notifications as other servers get them.

use outgate::mail::dsn::{Cause, Failure, Notification};
use time::OffsetDateTime;

#[test]
fn no_line_of_a_notification_is_longer_than_servers_take() {
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
        header: b"Subject: hello\r\n\r\n",
    };
    let bytes = notification.to_bytes();
    // RFC 5322 section 2.1.1.
    let longest = bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest < Some(999), "{longest:?}");
}
