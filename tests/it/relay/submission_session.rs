//! Sessions under everything that can be sent: random input, ends in every state, slow clients.
//! `OUTGATE_TEST_CASES` says how many random sessions are tried.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use outgate::{
    mail::{EnhancedStatus, Reply, short_id::ShortId},
    relay::settings::Settings,
};
use proptest::prelude::*;

use crate::support::{
    SmtpClient,
    cases::cases,
    relay::{Desk, Reception, known_table, queued},
};

const WORDS: [&str; 30] = [
    "EHLO x\r\n",
    "HELO x\r\n",
    "STARTTLS\r\n",
    "AUTH PLAIN AGFjbWUtc2VydmVyAG9wZW5zZXNhbWU=\r\n",
    "AUTH PLAIN AGFjbWUtcHJpbnRlcgBwYXBlcmphbQ==\r\n",
    "AUTH PLAIN\r\n",
    "AUTH LOGIN\r\n",
    "AUTH LOGIN =\r\n",
    "YWNtZS1zZXJ2ZXI=\r\n",
    "b3BlbnNlc2FtZQ==\r\n",
    "*\r\n",
    "MAIL FROM:<ann@acme.example>\r\n",
    "MAIL FROM:<x@other.example> SIZE=1 BODY=8BITMIME SMTPUTF8 AUTH=<>\r\n",
    "MAIL FROM:<>\r\n",
    "RCPT TO:<b@far.example>\r\n",
    "RCPT TO:<\"b c\"@[192.0.2.1]>\r\n",
    "DATA\r\n",
    ".\r\n",
    "\r\n.\r\n",
    "\n.\n",
    "RSET\r\n",
    "QUIT\r\n",
    "From: x@acme.example\r\n",
    "PROXY TCP4 192.0.2.1 192.0.2.1 1 2\r\n",
    "\"<@\\>",
    "\0",
    "\r",
    "\n",
    " ",
    "\u{e9}",
];

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn no_input_breaks_a_session_or_sends_mail_of_another_organization(
        trusted in any::<bool>(),
        encrypts in any::<bool>(),
        begins in any::<bool>(),
        size in prop_oneof![Just(usize::MAX), 1..7usize],
        pieces in prop::collection::vec(
            prop_oneof![
                1 => prop::collection::vec(any::<u8>(), 0..40),
                8 => prop::sample::select(&WORDS[..]).prop_map(|text| text.as_bytes().to_vec()),
            ], 0..30),
    ) {
        let client = if trusted { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(192, 0, 2, 9) };
        let (mut desk, _) = Desk::with(known_table(), client.into(), encrypts);
        let mut pieces = pieces;
        if begins {
            // Most random words lead nowhere: half of all sessions begin as far as they can.
            pieces.splice(0..0, WORDS[..4].iter().filter(|word| !word.starts_with("HELO")).map(|word| word.as_bytes().to_vec()));
            pieces.insert(2, b"EHLO x\r\n".to_vec());
        }
        let mut signed_in = false;
        for piece in pieces {
            let said = desk.feed_in_pieces(&piece, size.min(piece.len().max(1)));
            prop_assert!(said.is_empty() || said.ends_with("\r\n"));
            prop_assert!(said.is_ascii());
            prop_assert!(said.lines().all(|line| line.len() <= 512));
            signed_in |= said.lines().any(|line| line == "235 2.7.0 Signed in");
        }
        for message in &desk.accepted {
            prop_assert!(trusted || signed_in, "{message:?}");
            // Who says HELO after signing in leaves no trace of it, and is held to the organization all the same.
            let by_credential = !trusted || message.received.contains("SA id ");
            prop_assert!(!by_credential || message.sender.contains("@acme."), "{message:?}");
        }
    }
}

#[test]
fn a_group_of_ten_thousand_recipients_takes_bounded_memory_and_never_a_message_more() {
    let mut desk = Desk::trusted();
    desk.feed(b"EHLO client.example\r\n");
    let mut group = b"MAIL FROM:<ann@acme.example>\r\n".to_vec();
    for number in 0..10_000 {
        group.extend(format!("RCPT TO:<r{}@far.example>\r\n", number / 2).into_bytes());
    }
    let said = desk.feed(&group);
    assert_eq!(said.matches("250 2.1.5 ").count(), 1_000);
    assert_eq!(said.matches("452 4.5.3 ").count(), 9_000, "never for good: the client sends it again for the others");
    desk.feed(b"DATA\r\n");
    assert_eq!(desk.feed(b".\r\n"), "250 2.0.0 queued\r\n");
    assert_eq!(desk.accepted[0].forward_paths.len(), 1_000);
}

#[tokio::test]
async fn a_client_may_leave_in_every_state_and_nothing_is_accepted_of_it() {
    let reception = Reception::start().await;
    let steps = ["MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@far.example>", "DATA", "half a message"];
    for leaves_after in 0..=steps.len() {
        let mut client = SmtpClient::greeted(reception.address).await;
        for step in &steps[..leaves_after] {
            client.send(format!("{step}\r\n").as_bytes()).await;
            if !step.starts_with("half") {
                client.reply().await;
            }
        }
    }
    for quit in ["QUIT", "RSET"] {
        let mut client = SmtpClient::greeted(reception.address).await;
        client.say("MAIL FROM:<ann@acme.example>").await;
        client.say("RCPT TO:<bob@far.example>").await;
        assert!(client.say(quit).await.starts_with('2'));
        assert!(!client.say("DATA").await.starts_with('3'));
    }
    let mut client = SmtpClient::greeted(reception.address).await;
    assert_eq!(client.submit("ann@acme.example", "bob@far.example", "x").await, "250 2.0.0 queued\r\n");
    drop(client);
    assert_eq!(reception.accepted().len(), 1);
    reception.stop().await;
}

#[tokio::test]
async fn a_client_that_vanishes_after_the_dot_has_its_message_accepted_once() {
    let reception = Reception::start().await;
    let mut client = SmtpClient::greeted(reception.address).await;
    for command in ["MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@far.example>", "DATA"] {
        client.say(command).await;
    }
    client.send(b"whole\r\n.\r\n").await;
    drop(client);
    let accepted = async {
        while reception.accepted().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), accepted).await.unwrap();
    assert_eq!(reception.accepted().len(), 1);
    reception.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_a_byte_now_and_then_is_sent_away_in_every_state() {
    let soon = |settings: &mut Settings| {
        settings.limits.idle = Duration::from_millis(150);
        settings.limits.bytes_per_second = u64::MAX;
    };
    let reception = Reception::with(known_table(), soon, || async { queued() }).await;
    let steps = ["EHLO client.example", "MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@far.example>", "DATA"];
    for slow_after in 0..=steps.len() {
        let mut client = SmtpClient::connect(reception.address).await;
        client.reply().await;
        for step in &steps[..slow_after] {
            client.say(step).await;
        }
        let said = client.trickle().await;
        assert_eq!(
            said, "421 4.4.2 relay.example has waited too long and closes the connection\r\n",
            "after {slow_after}"
        );
    }
    assert!(reception.accepted().is_empty());
}

#[test]
fn a_refusal_of_mail_that_an_organization_has_is_told_of_under_the_id_at_its_end() {
    let mut desk = Desk::trusted().noting_refusals();
    desk.feed(b"EHLO client.example\r\n");
    let at_mail = desk.feed(b"MAIL FROM:<carl@acme.example>\r\n");
    desk.feed(b"MAIL FROM:<ann@acme.example>\r\nRCPT TO:<bob@far.example>\r\nDATA\r\n");
    let at_dot = desk.feed(b"Subject: x\r\n\r\na\rb\r\n.\r\n");

    let refusals = desk.take_refusals();
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    for (refused, reply) in refusals.iter().zip([&at_mail, &at_dot]) {
        assert_eq!(*reply, format!("{} [{}]\r\n", refused.reply, ShortId::of(refused.id)));
        assert!(reply.starts_with("550 5."), "{reply}");
    }
    assert_eq!((&*refusals[0].reverse_path, refusals[0].recipients.len()), ("carl@acme.example", 0));
    assert_eq!((&*refusals[1].reverse_path, &*refusals[1].recipients[0]), ("ann@acme.example", "bob@far.example"));
    assert!(desk.take_refusals().is_empty());
}

#[test]
fn a_stranger_writes_nothing_into_the_trace_of_an_organization() {
    let (desk, _) = Desk::for_client("192.0.2.1".parse().unwrap());
    let mut desk = desk.noting_refusals();
    desk.feed(b"EHLO client.example\r\n");
    let reply = desk.feed(b"MAIL FROM:<ann@acme.example>\r\n");
    assert!(reply.starts_with("550 5.7.1 192.0.2.1 may not send mail here") && !reply.contains('['), "{reply}");
    let mut trusted = Desk::trusted().noting_refusals();
    trusted.feed(b"EHLO client.example\r\n");
    let reply = trusted.feed(b"MAIL FROM:<ann@nowhere.example>\r\n");
    assert!(reply.starts_with("550 5.7.1 No organization here") && !reply.contains('['), "{reply}");
    assert!(desk.take_refusals().is_empty() && trusted.take_refusals().is_empty());
}

#[test]
fn a_recipient_that_is_refused_is_told_of_and_of_many_too_many_the_first() {
    let mut desk = Desk::trusted().noting_refusals();
    desk.feed(b"EHLO client.example\r\n");
    desk.feed(b"MAIL FROM:<ann@acme.example> SIZE=70\r\n");
    let replies =
        ["b\u{f6}b@far.example", "bob", "postmaster"].map(|to| desk.feed(format!("RCPT TO:<{to}>\r\n").as_bytes()));
    let refusals = desk.take_refusals();
    let codes =
        ["553 5.6.7 An address beyond ASCII", "501 5.1.3 The recipient is not", "550 5.1.1 There are no mailboxes"];
    assert_eq!(refusals.len(), 3, "{replies:?}");
    for ((refused, reply), code) in refusals.iter().zip(&replies).zip(codes) {
        assert!(reply.starts_with(code), "{reply}");
        assert_eq!(*reply, format!("{} [{}]\r\n", refused.reply, ShortId::of(refused.id)));
        assert_eq!((&*refused.reverse_path, refused.size), ("ann@acme.example", 70));
    }
    assert_eq!(refusals[0].recipients, ["b\u{f6}b@far.example"]);

    for number in 0..1000 {
        let reply = desk.feed(format!("RCPT TO:<b{number}@far.example>\r\n").as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
    }
    let further: Vec<String> =
        (0..20).map(|number| desk.feed(format!("RCPT TO:<c{number}@far.example>\r\n").as_bytes())).collect();
    let refusals = desk.take_refusals();
    assert_eq!((refusals.len(), &*refusals[0].recipients[0]), (1, "c0@far.example"));
    let words = format!("{} [{}]\r\n", refusals[0].reply, ShortId::of(refusals[0].id));
    assert!(further.iter().all(|reply| *reply == words) && words.starts_with("452 4.5.3 "), "{further:?}");
    desk.feed(b"RSET\r\nMAIL FROM:<>\r\n");
    let reply = desk.feed(b"RCPT TO:<bob>\r\n");
    assert!(!reply.contains('[') && desk.take_refusals().is_empty(), "it is not known whose mail it is: {reply}");
}

#[test]
fn a_message_that_cannot_be_kept_and_a_credential_that_is_revoked_are_told_of() {
    let mut desk = Desk::trusted().noting_refusals();
    desk.keeps_nothing = Some(Reply::new(451, EnhancedStatus(4, 3, 0), "not kept"));
    desk.feed(b"EHLO client.example\r\n");
    desk.feed(b"MAIL FROM:<ann@acme.example>\r\nRCPT TO:<bob@far.example>\r\nDATA\r\n");
    let reply = desk.feed(b"Subject: x\r\n\r\n.\r\n");
    let refused = desk.take_refusals().remove(0);
    assert_eq!(reply, format!("451 4.3.0 not kept [{}]\r\n", ShortId::of(refused.id)));
    assert_eq!(refused.recipients, ["bob@far.example"]);

    let table = known_table();
    let (desk, _) = Desk::with(Arc::clone(&table), "192.0.2.1".parse().unwrap(), true);
    let mut desk = desk.noting_refusals();
    for line in ["EHLO x", "STARTTLS", "EHLO x", "AUTH PLAIN AGFjbWUtc2VydmVyAG9wZW5zZXNhbWU="] {
        desk.feed(format!("{line}\r\n").as_bytes());
    }
    let credential = table.credential_named("acme-server").unwrap();
    table.change(|facts| facts.set_credential(credential.id, None));
    let reply = desk.feed(b"MAIL FROM:<ann@acme.example>\r\n");
    let refused = desk.take_refusals().remove(0);
    assert_eq!(refused.organization, credential.organization);
    assert_eq!(reply, format!("{} [{}]\r\n", refused.reply, ShortId::of(refused.id)));
    assert!(reply.starts_with("421 4.7.0 The relay credential was revoked") && desk.closed, "{reply}");
}
