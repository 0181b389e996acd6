//! Hand-over while the client waits: what the gateway says is what the client hears.
//! Against a gateway that fails at the stage of one's choice.

use std::{io::Write, sync::Arc, time::Duration};

use outgate::{
    policy::{facts::TlsMode, routing::PlatformDefault},
    relay::{
        handover::connection::TimeLimits,
        message::{Content, Message},
    },
};
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault, Received},
    log::Log,
    sending::{Options, PROBE_RECIPIENT, names},
};

#[sqlx::test]
async fn a_message_is_handed_over_while_the_client_waits(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    let reply = sending.send().await;

    assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
    let received = gateway.received(1).await.remove(0);
    assert_eq!(received.reverse_path, "ann@acme.example");
    assert_eq!(received.recipients, ["bob@elsewhere.example"]);
    assert_eq!(received.content, b"Subject: hello\r\n\r\nHello.\r\n");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_refused_message_goes_back_to_the_client_in_the_gateways_words(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for (at, said) in [(At::Dot, "554 5.7.1 spam"), (At::Data, "554 5.6.0 no"), (At::Mail, "552 5.3.4 too big")] {
        gateway.says(at, said);
        let reply = sending.send().await;
        let (code, words) = said.split_at(said.rfind(' ').unwrap());
        let words = words.trim();
        let expected = match at {
            At::Mail => format!("552 5.3.4 gateway {} said: too big", gateway.address),
            _ => format!("{code} gateway {} said: {words}", gateway.address),
        };
        assert_eq!(reply.to_string(), expected, "{at:?}");
    }
    assert!(sending.waiting().await.is_empty());
    assert!(gateway.so_far().is_empty());
}

#[sqlx::test]
async fn a_gateway_that_cannot_take_mail_is_waited_for(db: PgPool) {
    let faults = [
        (At::Greeting, Fault::Says("554 5.7.1 go away".into())),
        (At::Greeting, Fault::Closes),
        (At::Ehlo, Fault::Says("421 4.3.2 shutting down".into())),
        (At::Ehlo, Fault::Says("garbage".into())),
        (At::Mail, Fault::Says("550 5.7.1 who are you".into())),
        (At::Mail, Fault::Closes),
        (At::Rcpt, Fault::Says("550 5.7.1 relaying denied".into())),
        (At::Rcpt, Fault::Says("450 4.2.1 later".into())),
        (At::Data, Fault::Says("451 4.3.0 later".into())),
        (At::Content, Fault::Closes),
        (At::Dot, Fault::Says("451 4.3.0 later".into())),
        (At::Dot, Fault::Closes),
    ];
    let sending = Sending::on(db).await;
    for (index, (at, fault)) in faults.into_iter().enumerate() {
        let gateway = Gateway::start().await;
        sending.set_gateway(Some(&gateway.address.to_string()));
        gateway.fails(at, fault.clone());
        let reply = sending.send().await;
        assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{at:?} {fault:?}: {reply}");
        assert_eq!(sending.waiting().await.len(), index + 1, "{at:?} {fault:?}");
    }
    assert!(sending.waiting().await.iter().all(|row| row.state == "waiting" && !row.leased));
}

#[sqlx::test]
async fn a_gateway_without_pipelining_is_asked_step_by_step(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.extensions = vec![]);
    gateway.answers_recipient("nobody@elsewhere.example", "550 5.1.1 no such user");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    let refused = sending.transfer.accept(sending.message(&["nobody@elsewhere.example"])).await;
    let accepted = sending.send().await;

    assert_eq!(refused.to_string(), format!("550 5.1.1 gateway {} said: no such user", gateway.address));
    assert_eq!(accepted.code, 250);
    assert_eq!(gateway.received(1).await[0].parameters, "");
    assert_eq!(gateway.connections(), 1, "a refused message does not cost the connection");
}

#[sqlx::test]
async fn a_refused_recipient_does_not_cost_the_connection(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.answers_recipient("nobody@elsewhere.example", "550-5.1.1 no such usér\n550 5.1.1 here");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for _ in 0..2 {
        let refused = sending.transfer.accept(sending.message(&["nobody@elsewhere.example"])).await;
        assert_eq!(refused.to_string(), format!("550 5.1.1 gateway {} said: no such us?r here", gateway.address));
    }
    assert_eq!(sending.send().await.code, 250);
    assert_eq!(gateway.connections(), 1);
}

#[sqlx::test]
async fn mixed_answers_are_committed_before_the_message_is_sent(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.answers_recipient("later@elsewhere.example", "450 4.2.1 mailbox busy");
    gateway.answers_recipient("nobody@elsewhere.example", "550 5.1.1 no such user");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let to = ["bob@elsewhere.example", "later@elsewhere.example", "nobody@elsewhere.example"];

    let reply = sending.transfer.accept(sending.message(&to)).await;

    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    assert_eq!(gateway.received(1).await[0].recipients, ["bob@elsewhere.example"]);
    sending.queue.settled().await;
    let waiting = sending.waiting().await;
    assert_eq!(waiting.len(), 2, "the message for whom it is deferred, and the notification: {waiting:?}");
    let message = waiting.iter().find(|row| row.sender.is_some()).unwrap();
    assert!(message.recipients.contains(r#"kept as 4711", "state": "delivered""#), "{}", message.recipients);
    assert!(message.recipients.contains(r#"mailbox busy", "state": "waiting""#), "{}", message.recipients);
    assert!(message.recipients.contains(r#"no such user", "state": "refused""#), "{}", message.recipients);

    gateway.behave(|behaviour| behaviour.recipients.clear());
    sending.step_after(10).await;
    assert_eq!(gateway.received(2).await[1].recipients, ["later@elsewhere.example"]);
}

#[sqlx::test]
async fn mixed_answers_that_cannot_be_committed_give_the_transaction_up(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.answers_recipient("nobody@elsewhere.example", "550 5.1.1 no such user");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.db.close().await;

    let reply = sending.transfer.accept(sending.message(&["bob@elsewhere.example", "nobody@elsewhere.example"])).await;

    assert_eq!(reply.to_string(), "451 4.3.0 the message could not be stored, try again later");
    assert!(gateway.so_far().is_empty());
}

#[sqlx::test]
async fn without_gateway_and_store_the_client_is_told_to_try_again(db: PgPool) {
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.db.close().await;
    assert_eq!(sending.send().await.to_string(), "451 4.3.0 the message could not be stored, try again later");
}

#[sqlx::test]
async fn with_the_store_away_mail_still_flows_through_gateways_that_work(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.db.close().await;
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
}

#[sqlx::test]
async fn a_late_answer_to_the_final_dot_is_awaited_on_the_same_connection(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    let options = Options { handover_wait: Duration::from_millis(300), ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    let reply = sending.send().await;

    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    assert_eq!(sending.waiting().await[0].state, "answer_awaited");
    assert_eq!(sending.step_after(9).await, 0, "nobody tries again while the answer may still come");
    gateway.go_on();
    sending.queue.settled().await;
    assert!(sending.waiting().await.is_empty());
    assert_eq!(gateway.received(1).await.len(), 1);
    assert_eq!(gateway.connections(), 1);
}

#[sqlx::test]
async fn a_client_does_not_wait_for_a_gateway_that_says_nothing(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Greeting, Fault::Stalls);
    let options = Options { handover_wait: Duration::from_millis(100), ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    assert_eq!(gateway.connections(), 1, "a gateway that is known to be failing gets no hand-over");
    assert_eq!(sending.waiting().await.len(), 2);
}

#[sqlx::test]
async fn connections_are_used_again_and_replaced_unnoticed(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for _ in 0..3 {
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    }
    assert_eq!(gateway.connections(), 1);

    gateway.behave(|behaviour| behaviour.one_message_only = true);
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(gateway.connections(), 2);
    assert_eq!(gateway.so_far().len(), 4);
}

#[sqlx::test]
async fn tls_is_used_where_it_is_offered_and_given_up_where_it_fails(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.offers_tls();
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    assert_eq!(sending.send().await.code, 250);
    assert!(gateway.received(1).await[0].encrypted);

    sending.set_gateway(Some(&gateway.address.to_string()));
    gateway.says(At::StartTls, "454 4.7.0 not now");
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert!(!gateway.received(2).await[1].encrypted);
}

#[sqlx::test]
async fn required_tls_is_never_done_without(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway_with(Some(&gateway.address.to_string()), TlsMode::Required);
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert_eq!(reason, format!("gateway {}: TLS is required and not offered", gateway.address));

    gateway.offers_tls();
    sending.set_gateway_with(Some(&gateway.address.to_string()), TlsMode::Required);
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert!(gateway.received(1).await[0].encrypted);

    sending.set_gateway_with(Some(&gateway.address.to_string()), TlsMode::Verified);
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "), "a certificate of nobody");
    assert_eq!(gateway.so_far().len(), 1);
}

#[sqlx::test]
async fn content_that_the_gateway_cannot_take_is_refused_and_never_converted(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.extensions = vec!["PIPELINING"]);
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    let mut international = sending.message_with(&["bob@elsewhere.example"], "Subject: grüße\r\n\r\nHello.\r\n");
    international.envelope.parameters.smtputf8 = true;
    let reply = sending.transfer.accept(international).await;
    let about = format!("gateway {}: it does not take", gateway.address);
    assert!(reply.to_string().starts_with(&format!("554 5.6.7 {about} internationalized mail")), "{reply}");

    let mut addressed = sending.message(&["böb@elsewhere.example"]);
    addressed.envelope.parameters.smtputf8 = true;
    let reply = sending.transfer.accept(addressed).await;
    assert!(reply.to_string().starts_with(&format!("554 5.6.7 {about} internationalized mail")), "{reply}");

    let eight_bit = sending.message_with(&["bob@elsewhere.example"], "Subject: hello\r\n\r\nGrüße.\r\n");
    let reply = sending.transfer.accept(eight_bit).await;
    assert!(reply.to_string().starts_with(&format!("554 5.6.3 {about} 8-bit content")), "{reply}");

    let mut plain = sending.message(&["bob@elsewhere.example"]);
    plain.envelope.parameters.smtputf8 = true;
    plain.envelope.parameters.eight_bit = true;
    assert_eq!(sending.transfer.accept(plain).await.code, 250, "what the content does not need is left off");
    assert_eq!(gateway.received(1).await[0].parameters, "");
}

/// Two messages that a server without 8BITMIME and SMTPUTF8 cannot take as they are.
fn beyond_ascii(sending: &Sending, to: &str) -> [Message; 2] {
    let mut international = sending.message_with(&[to], "Subject: grüße\r\n\r\nHello.\r\n");
    international.envelope.parameters.smtputf8 = true;
    [international, sending.message_with(&[to], "Subject: hello\r\n\r\nGrüße.\r\n")]
}

/// Both came back as notifications with these codes, which are what RFC 3463 §3.7 says.
fn both_came_back(notifications: Vec<Received>) {
    let texts: Vec<String> =
        notifications.into_iter().map(|it| String::from_utf8_lossy(&it.content).replace("=\r\n", "")).collect();
    for status in ["Status: 5.6.7", "Status: 5.6.3"] {
        let with_it = texts.iter().filter(|text| text.contains(status) && text.contains("Action: failed")).count();
        assert_eq!(with_it, 1, "{status} in {texts:#?}");
    }
}

#[sqlx::test]
async fn what_waited_for_a_gateway_that_cannot_take_its_content_returns_to_its_sender_and_is_never_converted(
    db: PgPool,
) {
    let (smarthost, address) = (Gateway::start().await, Gateway::free_address().await);
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    sending.set_gateway(Some(&address.to_string()));
    for message in beyond_ascii(&sending, "bob@elsewhere.example") {
        let reply = sending.transfer.accept(message).await.to_string();
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    }
    let gateway = Gateway::start_on(address).await;
    gateway.behave(|behaviour| behaviour.extensions = vec!["PIPELINING"]);
    // The first finds out that the gateway is back; the other follows, and then what is told of them.
    for minutes in [5, 10, 15, 20] {
        sending.step_after(minutes).await;
    }
    both_came_back(smarthost.received(2).await);
    assert!(gateway.so_far().is_empty() && sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn what_the_recipients_server_cannot_take_returns_to_its_sender_and_is_never_converted(db: PgPool) {
    let server = Gateway::start().await;
    let port = server.address.port();
    let inbound = Gateway::start_on(format!("127.0.0.2:{port}").parse().unwrap()).await;
    server.behave(|behaviour| behaviour.extensions = vec!["PIPELINING"]);
    let names = names(&[("elsewhere.example", "127.0.0.1"), ("acme.example", "127.0.0.2")], &[]);
    let sending = Sending::with(db, Options { mx_port: port, names, ..Options::default() }).await;
    for message in beyond_ascii(&sending, "bob@elsewhere.example") {
        let reply = sending.transfer.accept(message).await.to_string();
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
        sending.queue.settled().await;
    }
    sending.step_after(1).await;
    both_came_back(inbound.received(2).await);
    assert!(server.so_far().is_empty() && sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn what_stands_in_clear_behind_the_go_ahead_to_tls_is_thrown_away(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.offers_tls();
    // As an answer to the EHLO that follows under TLS it would have every message refused.
    gateway.behave(|behaviour| behaviour.behind_go_ahead = "250-gateway.example\n250 SIZE 1");
    let sending = Sending::on(db).await;
    for tls in [TlsMode::WhenOffered, TlsMode::Required] {
        sending.set_gateway_with(Some(&gateway.address.to_string()), tls);
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711", "{tls:?}");
    }
    assert!(gateway.so_far().iter().all(|received| received.encrypted));
    assert_eq!(gateway.connections(), 2, "each at the first try");
}

#[sqlx::test]
async fn what_the_client_said_about_the_content_goes_on(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.envelope.parameters.smtputf8 = true;
    message.envelope.parameters.eight_bit = true;
    sending.transfer.accept(message).await;
    assert_eq!(gateway.received(1).await[0].parameters, "SIZE=26 BODY=8BITMIME SMTPUTF8");
}

#[sqlx::test]
async fn a_gateway_at_an_address_that_is_not_allowed_is_not_connected_to(db: PgPool) {
    let gateway = Gateway::start().await;
    let names = names(&[("gateway.elsewhere.example", "127.0.0.1")], &[]);
    let options = Options { allowed: "192.0.2.0/24", names, ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.set_gateway(Some(&format!("gateway.elsewhere.example:{}", gateway.address.port())));

    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    assert_eq!(gateway.connections(), 0);
    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert!(reason.contains("The name leads to where no gateway may be.") && !reason.contains("127.0.0.1"), "{reason}");
}

#[sqlx::test]
async fn the_route_is_decided_again_after_waiting_for_a_connection(db: PgPool) {
    let (old, new) = (Gateway::start().await, Gateway::start().await);
    old.fails(At::Dot, Fault::Stalls);
    let sending = Arc::new(Sending::on(db).await);
    sending.set_gateway(Some(&old.address.to_string()));
    let mut clients = JoinSet::new();
    for _ in 0..5 {
        let sending = sending.clone();
        clients.spawn(async move { sending.send().await });
    }
    // Four have all connections that a gateway gets at first; the last one waits for one of them.
    old.stalled(4).await;

    sending.set_gateway(Some(&new.address.to_string()));
    for _ in 0..4 {
        old.go_on();
        clients.join_next().await.unwrap().unwrap();
    }
    clients.join_next().await.unwrap().unwrap();

    assert_eq!((old.so_far().len(), new.so_far().len()), (4, 1));
}

#[sqlx::test]
async fn one_bad_message_does_not_fail_those_committed_with_it(db: PgPool) {
    let sending = Arc::new(Sending::on(db).await);
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let mut clients = JoinSet::new();
    for index in 0..40 {
        let mut message = sending.message(&["bob@elsewhere.example"]);
        if index == 20 {
            // No text column takes this.
            message.envelope.forward_paths = vec!["b\0b@elsewhere.example".to_owned()];
        }
        let sending = sending.clone();
        clients.spawn(async move { sending.transfer.accept(message).await.code });
    }
    let codes = clients.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == 451).count(), 1);
    assert_eq!(codes.iter().filter(|code| **code == 250).count(), 39);
    assert_eq!(sending.waiting().await.len(), 40);
}

#[sqlx::test]
async fn a_message_that_can_no_longer_be_read_does_not_fail_those_committed_with_it(db: PgPool) {
    let sending = Arc::new(Sending::on(db).await);
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let mut clients = JoinSet::new();
    for index in 0..40 {
        let mut message = sending.message(&["bob@elsewhere.example"]);
        if index == 20 {
            // The spool has lost it.
            message.content =
                Content::Spooled { file: Arc::new(tempfile::tempfile().unwrap()), size: 1_000, in_flight: None };
        }
        let sending = sending.clone();
        clients.spawn(async move { sending.transfer.accept(message).await.code });
    }
    let codes = clients.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == 451).count(), 1);
    assert_eq!(sending.waiting().await.len(), 40);
}

#[sqlx::test]
async fn a_gateway_that_dies_between_two_messages_is_waited_for(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    let address = gateway.stop().await;
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    let gateway = Gateway::start_on(address).await;
    sending.step_after(1).await;
    assert_eq!(gateway.received(1).await.len(), 1);
}

#[sqlx::test]
async fn a_spooled_message_arrives_as_it_came(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let content: Vec<u8> = (0..40_000).flat_map(|line| format!(".{line}\r\n..\r\n").into_bytes()).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.content = Content::Spooled { file: Arc::new(file), size: content.len() as u64, in_flight: None };

    assert_eq!(sending.transfer.accept(message).await.code, 250);

    assert!(gateway.received(1).await[0].content == content);
}

#[sqlx::test]
async fn a_spooled_message_that_cannot_be_read_to_its_end_is_not_taken_and_never_sent_in_part(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&b"Half of it.\r\n".repeat(40_000)).unwrap();
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.content = Content::Spooled { file: Arc::new(file), size: 1_000_000, in_flight: None };

    let reply = sending.transfer.accept(message).await;

    assert_eq!(reply.to_string(), "451 4.3.0 the message could not be stored, try again later");
    assert!(gateway.so_far().is_empty() && sending.waiting().await.is_empty());
    assert!(sending.handover.health().failing_gateways().is_empty(), "it is not the gateway's fault");
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
}

/// A gateway that has taken mail, then refuses bob, and answers what a verification asks for with `line`.
async fn refusing_bob(db: PgPool, line: &str) -> (Gateway, Sending) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.send().await;
    gateway.answers_recipient("bob@elsewhere.example", "554 5.7.1 relaying is not for you");
    gateway.answers_recipient(PROBE_RECIPIENT, line);
    (gateway, sending)
}

#[sqlx::test]
async fn a_refusal_of_a_recipient_is_believed_of_a_gateway_that_takes_our_mail_for_others(db: PgPool) {
    let (gateway, sending) = refusing_bob(db, "250 2.1.5 ok").await;
    for _ in 0..2 {
        let reply = sending.send().await;
        let said = format!("554 5.7.1 gateway {} said: relaying is not for you", gateway.address);
        assert_eq!(reply.to_string(), said);
    }
    let others = sending.message(&["cat@elsewhere.example"]);
    assert_eq!(sending.transfer.accept(others).await.code, 250);
    // Nothing was sent to find that out.
    assert_eq!(gateway.received(2).await.len(), 2);
    assert!(sending.handover.health().failing_gateways().is_empty());
}

#[sqlx::test]
async fn mail_waits_for_a_gateway_that_took_it_and_does_not_know_us_any_more(db: PgPool) {
    let (gateway, sending) = refusing_bob(db, "554 5.7.1 relaying is not for you").await;
    let reply = sending.send().await;
    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    assert_eq!(sending.handover.health().failing_gateways().len(), 1);
    sending.step_after(60).await;
    assert_eq!((sending.waiting().await.len(), sending.waiting().await[0].attempts), (1, 0));

    gateway.behave(|behaviour| behaviour.recipients.clear());
    sending.step_after(600).await;
    assert_eq!(gateway.received(2).await.len(), 2);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_message_that_may_arrive_twice_is_tried_once_more_and_can_be_found_in_the_log(db: PgPool) {
    let log = Log::capture();
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Closes);
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    let said = log.with("possible_duplicate=true");
    assert_eq!(said.len(), 1, "{said:?}");
    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert!(reason.ends_with("it may have taken the message, which then arrives twice"), "{reason}");
    gateway.works_again();
    sending.step_after(5).await;
    assert_eq!(gateway.received(1).await.len(), 1);
    assert!(sending.waiting().await.is_empty());
}

/// RFC 5321 §4.5.3.2: a server may take this long, and whoever is less patient makes duplicates.
#[test]
fn no_server_is_given_less_time_than_it_may_take() {
    let limits = TimeLimits::default();
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    assert!(limits.command >= minutes(5) && limits.data >= minutes(2) && limits.block >= minutes(3));
    assert!(limits.dot >= minutes(10));
}

#[sqlx::test]
async fn connections_that_a_gateway_closed_meanwhile_cost_nobody_an_attempt(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Arc::new(Sending::on(db).await);
    sending.set_gateway(Some(&gateway.address.to_string()));
    gateway.fails(At::Dot, Fault::Stalls);
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        let sending = sending.clone();
        clients.spawn(async move { sending.send().await.to_string() });
    }
    gateway.stalled(3).await;
    gateway.works_again();
    for _ in 0..3 {
        gateway.go_on();
    }
    clients.join_all().await;

    // All three are idle, and then gone: at the next command, or without a word.
    let address = gateway.stop().await;
    let gateway = Gateway::start_on(address).await;
    for _ in 0..3 {
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    }
    gateway.behave(|behaviour| behaviour.one_message_only = true);
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_gateway_that_stops_offering_tls_raises_an_alert(db: PgPool) {
    let log = Log::capture();
    let gateway = Gateway::start().await;
    gateway.offers_tls();
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    assert_eq!(sending.send().await.code, 250);
    assert!(log.with("alert").is_empty());

    gateway.behave(|behaviour| behaviour.tls = None);
    for _ in 0..3 {
        sending.handover.pool().close().await;
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    }
    assert_eq!(log.with("gateway stopped offering TLS").len(), 1);
}
