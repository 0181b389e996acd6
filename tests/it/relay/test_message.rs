//! Test messages that come back: who may bring them, what is told of their way, and what they are never taken for.
//! `relay::test_message` and its part of the session.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::proto::op::ResponseCode;
use outgate::{
    mail::{ReturnAddress, id::TestMessageId, return_address::TokenKey},
    policy::arrival::{Spf, SpfOf},
    relay::{resolver::Resolver, test_message::spf},
};

use crate::support::{
    dns::{Dns, DnsFault},
    relay::Desk,
};

fn key() -> TokenKey {
    TokenKey::new([7; 32])
}

fn address_of(id: TestMessageId) -> String {
    "return@probe.example".parse::<ReturnAddress>().unwrap().of(id, &key())
}

fn stranger() -> Desk {
    let mut desk = Desk::returning("203.0.113.7".parse::<IpAddr>().unwrap(), key());
    assert!(desk.feed(b"EHLO mx.archive.example\r\n").starts_with("250-"));
    desk
}

#[test]
fn a_stranger_brings_a_test_message_back_and_nothing_else() {
    let (mut desk, id) = (stranger(), TestMessageId::new());
    assert_eq!(desk.feed(b"MAIL FROM:<SRS0=x@archive.example>\r\n"), "250 2.1.0 Sender accepted\r\n");
    let elsewhere = desk.feed(b"RCPT TO:<bob@far.example>\r\n");
    assert!(elsewhere.starts_with("550 5.7.1 "), "{elsewhere}");
    let own = desk.feed(b"RCPT TO:<ann@acme.example>\r\n");
    assert!(own.starts_with("550 5.7.1 "), "{own}");
    assert!(desk.feed(b"DATA\r\n").starts_with("554 5.5.1 "));

    assert!(desk.feed(format!("RCPT TO:<{}>\r\n", address_of(id).to_uppercase()).as_bytes()).starts_with("250 "));
    let beside = desk.feed(b"RCPT TO:<bob@far.example>\r\n");
    assert!(beside.starts_with("452 4.5.3 "), "{beside}");
    assert!(desk.feed(format!("RCPT TO:<{}>\r\n", address_of(id)).as_bytes()).starts_with("452 4.5.3 "));
    assert!(desk.feed(b"DATA\r\n").starts_with("354 "));
    let reply = desk.feed(b"Subject: Test\r\n\r\n..dot\r\n.\r\n");
    assert!(reply.starts_with("250 "), "{reply}");

    assert!(desk.accepted.is_empty(), "it is nobody's mail");
    let [returned] = &desk.returned[..] else { panic!("{:?}", desk.returned) };
    let content = String::from_utf8(returned.content.clone()).unwrap();
    assert_eq!((returned.id, returned.client_is_ours), (id, false));
    assert!(content.starts_with("Received: from mx.archive.example ([203.0.113.7])"), "{content}");
    assert!(content.ends_with("\r\nSubject: Test\r\n\r\n.dot\r\n"), "{content}");
    assert!(desk.feed(b"MAIL FROM:<>\r\n").starts_with("250 "), "a server may bring another one");
}

#[test]
fn what_is_no_token_of_ours_is_refused_and_whoever_guesses_is_sent_away() {
    let mut desk = stranger();
    assert!(desk.feed(b"MAIL FROM:<x@archive.example>\r\n").starts_with("250 "));
    let forged =
        "return@probe.example".parse::<ReturnAddress>().unwrap().of(TestMessageId::new(), &TokenKey::new([8; 32]));
    let mut replies = String::new();
    for _ in 0..10 {
        replies = desk.feed(format!("RCPT TO:<{forged}>\r\n").as_bytes());
        assert!(replies.starts_with("550 5.1.1 "), "{replies}");
    }
    assert!(replies.contains("421 ") && desk.closed, "{replies}");
}

#[test]
fn a_large_message_is_no_test_message_whatever_it_says_of_its_size() {
    let size = 300 * 1024;
    let mut desk = stranger();
    let announced = desk.feed(format!("MAIL FROM:<x@archive.example> SIZE={size}\r\n").as_bytes());
    assert!(announced.starts_with("550 5.7.1 "), "{announced}");
    desk.feed(b"MAIL FROM:<x@archive.example>\r\n");
    assert!(desk.feed(format!("RCPT TO:<{}>\r\n", address_of(TestMessageId::new())).as_bytes()).starts_with("250 "));
    assert!(desk.feed(b"DATA\r\n").starts_with("354 "));
    let reply = desk.feed_in_pieces(format!("{}\r\n.\r\n", "a line\r\n".repeat(size / 8)).as_bytes(), 32 * 1024);
    assert!(reply.starts_with("552 5.3.4 ") && desk.returned.is_empty(), "{reply}");
}

#[test]
fn without_a_return_address_a_stranger_hears_at_once_that_nothing_is_taken() {
    let (mut desk, _) = Desk::for_client("203.0.113.7".parse().unwrap());
    desk.feed(b"EHLO mx.archive.example\r\n");
    let reply = desk.feed(b"MAIL FROM:<x@archive.example>\r\n");
    assert!(reply.starts_with("550 5.7.1 "), "{reply}");
}

#[test]
fn the_platforms_own_servers_bring_one_back_and_still_send_their_mail() {
    let mut desk = Desk::returning("127.0.0.1".parse().unwrap(), key());
    desk.feed(b"EHLO mx.platform.example\r\n");
    // The sender has an account here, so this could be mail of theirs.
    assert!(desk.feed(b"MAIL FROM:<ann@acme.example>\r\n").starts_with("250 "));
    let id = TestMessageId::new();
    assert!(desk.feed(format!("RCPT TO:<{}>\r\nDATA\r\n", address_of(id)).as_bytes()).contains("354 "));
    assert!(desk.feed(b"Subject: Test\r\n\r\n.\r\n").starts_with("250 "));
    assert!(desk.returned[0].client_is_ours && desk.returned[0].id == id);

    desk.feed(b"MAIL FROM:<ann@acme.example>\r\nRCPT TO:<bob@probe.example>\r\n");
    assert!(desk.feed(b"DATA\r\n").starts_with("354 "));
    assert!(desk.feed(b"Subject: Mail\r\n\r\n.\r\n").starts_with("250 "));
    assert_eq!((desk.accepted.len(), desk.returned.len()), (1, 1), "other addresses of that domain are mail");
}

#[tokio::test]
async fn what_spf_says_of_each_domain_is_found_in_the_dns() {
    let dns = Dns::start(&[
        ("covered.example", "TXT v=spf1 ip4:203.0.113.0/24 -all"),
        ("included.example", "TXT v=spf1 include:covered.example ~all"),
        ("elsewhere.example", "TXT google-site-verification=abc"),
        ("elsewhere.example", "TXT v=spf1 mx -all"),
        ("elsewhere.example", "MX 10 mx.elsewhere.example"),
        ("mx.elsewhere.example", "A 198.51.100.1"),
        ("without.example", "A 198.51.100.1"),
        ("twice.example", "TXT v=spf1 -all"),
        ("twice.example", "TXT v=spf1 +all"),
        ("v4.example", "TXT v=spf10 -all"),
    ])
    .await;
    let resolver = Resolver::at(dns.address, Duration::from_secs(2)).unwrap();
    let names = ["covered", "included", "elsewhere", "without", "twice", "v4", "nowhere"];
    let domains: Vec<String> = names.map(|name| format!("{name}.example")).into();
    let found = spf::look(&resolver, domains.clone(), "203.0.113.7".parse().unwrap()).await;
    let verdicts: Vec<Spf> = found.iter().map(|spf| spf.verdict).collect();
    use Spf::{Covers, DoesNotCover, Invalid, NoRecord};
    assert_eq!(verdicts, [Covers, Covers, DoesNotCover, NoRecord, Invalid, NoRecord, NoRecord], "{found:?}");
    assert_eq!(found.iter().map(|spf| spf.domain.clone()).collect::<Vec<_>>(), domains);
    assert_eq!(found[2].record.as_deref(), Some("v=spf1 mx -all"));

    dns.fails(Some(DnsFault::Says(ResponseCode::ServFail)));
    let found = spf::look(&resolver, vec!["covered.example".to_owned()], "203.0.113.7".parse().unwrap()).await;
    let expected = SpfOf { domain: "covered.example".to_owned(), verdict: Spf::NoAnswer, record: None };
    assert_eq!(found, [expected]);
}
