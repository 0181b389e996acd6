//! Direct delivery to the recipients' own servers, for mail without a gateway.
//! Names are looked up in a table of the test's, never in the DNS.

use std::collections::HashSet;

use hickory_resolver::proto::{op::ResponseCode, rr::RecordType};
use outgate::relay::resolver::{Exchanges, FixedNames, Resolver};
use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
    dns::{Dns, DnsFault},
    gateway::{At, Fault},
    sending::{Options, names},
};

/// One server stands for the mail servers of all domains.
async fn with_server(db: PgPool, addresses: &[(&str, &str)], exchanges: &[(&str, u16, &str)]) -> (Gateway, Sending) {
    let server = Gateway::start().await;
    let options = Options { mx_port: server.address.port(), names: names(addresses, exchanges), ..Options::default() };
    (server, Sending::with(db, options).await)
}

#[sqlx::test]
async fn mail_without_a_gateway_goes_to_the_recipients_servers_by_domain(db: PgPool) {
    let addresses = [("mx.one.example", "127.0.0.1"), ("two.example", "127.0.0.1")];
    let (server, sending) = with_server(db, &addresses, &[("one.example", 10, "mx.one.example")]).await;
    let to = ["a@one.example", "b@two.example", "c@ONE.example"];

    let reply = sending.transfer.accept(sending.message(&to)).await;

    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    let mut recipients: Vec<_> = server.received(2).await.into_iter().map(|received| received.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, [vec!["a@one.example", "c@ONE.example"], vec!["b@two.example"]]);
    sending.queue.settled().await;
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn servers_are_tried_in_the_order_of_their_preference(db: PgPool) {
    let addresses = [("first.one.example", "127.0.0.7"), ("second.one.example", "127.0.0.1")];
    let exchanges = [("one.example", 20, "second.one.example"), ("one.example", 10, "first.one.example")];
    let (server, sending) = with_server(db, &addresses, &exchanges).await;
    let reply = sending.transfer.accept(sending.message(&["a@one.example"])).await;
    assert_eq!(reply.code, 250);
    assert_eq!(server.received(1).await.len(), 1);
}

#[sqlx::test]
async fn a_domain_that_accepts_no_mail_is_reported_at_once(db: PgPool) {
    let addresses = [("acme.example", "127.0.0.1")];
    let (server, sending) = with_server(db, &addresses, &[("quiet.example", 0, ".")]).await;
    sending.transfer.accept(sending.message(&["a@quiet.example", "b@nowhere.example"])).await;
    sending.queue.settled().await;
    sending.step_after(1).await;

    // The notification goes to the inbound host of the sender's domain.
    let notification = server.received(1).await.remove(0);
    assert_eq!(notification.recipients, ["ann@acme.example"]);
    let text = String::from_utf8(notification.content).unwrap();
    assert!(text.contains("Status: 5.1.10"), "{text}");
    assert!(text.contains("Status: 5.1.2"), "{text}");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_server_that_is_away_is_tried_again_and_costs_attempts(db: PgPool) {
    let (server, sending) = with_server(db, &[("one.example", "127.0.0.1")], &[]).await;
    server.fails(At::Greeting, Fault::Closes);
    sending.transfer.accept(sending.message(&["a@one.example"])).await;
    sending.queue.settled().await;
    assert_eq!(sending.waiting().await[0].attempts, 1);
    server.works_again();
    sending.step_after(5).await;
    assert_eq!(server.received(1).await.len(), 1);
}

#[sqlx::test]
async fn a_domain_that_points_into_our_own_network_is_not_connected_to(db: PgPool) {
    let server = Gateway::start().await;
    let names = names(&[("one.example", "127.0.0.1")], &[]);
    let options = Options { mx_port: server.address.port(), names, allowed: "192.0.2.0/24", ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.transfer.accept(sending.message(&["a@one.example"])).await;
    sending.queue.settled().await;
    assert_eq!(server.connections(), 0);
    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert!(reason.contains("The name leads to where no gateway may be.") && !reason.contains("127.0.0.1"), "{reason}");
}

#[sqlx::test]
async fn mail_that_waits_for_a_server_goes_through_a_gateway_that_is_set_meanwhile(db: PgPool) {
    let (server, sending) = with_server(db, &[("one.example", "127.0.0.1")], &[]).await;
    server.fails(At::Greeting, Fault::Closes);
    sending.transfer.accept(sending.message(&["a@one.example"])).await;
    sending.queue.settled().await;
    let gateway = Gateway::start().await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.step_after(5).await;
    assert_eq!(gateway.received(1).await.len(), 1);
}

#[sqlx::test]
async fn a_look_up_that_was_not_answered_is_no_domain_that_does_not_exist(db: PgPool) {
    let dns = Dns::start(&[("six.example", "AAAA ::1")]).await;
    let options = Options { dns: Some(dns.address), ..Options::default() };
    let sending = Sending::with(db, options).await;
    for kind in [RecordType::AAAA, RecordType::A, RecordType::MX] {
        dns.fails(Some(DnsFault::SaysOf(kind, ResponseCode::ServFail)));
        sending.transfer.accept(sending.message(&["a@six.example"])).await;
        sending.queue.settled().await;
    }
    let waiting = sending.waiting().await;
    assert_eq!(waiting.len(), 3, "{waiting:?}");
    let of_it = |reply: &Option<String>| reply.as_deref().is_some_and(|reply| reply.contains("six.example"));
    assert!(waiting.iter().all(|row| row.state == "waiting" && of_it(&row.last_reply)), "{waiting:?}");
}

#[sqlx::test]
async fn the_dns_says_where_mail_goes(db: PgPool) {
    let records = [
        ("one.example", "MX 20 second.one.example"),
        ("one.example", "MX 10 first.one.example"),
        ("first.one.example", "CNAME host.one.example"),
        ("host.one.example", "A 127.0.0.1"),
        ("second.one.example", "A 127.0.0.9"),
        // Without an MX record the domain itself (RFC 5321 §5.1).
        ("implicit.example", "A 127.0.0.1"),
        ("quiet.example", "MX 0 ."),
        ("acme.example", "A 127.0.0.1"),
    ];
    let (dns, server) = (Dns::start(&records).await, Gateway::start().await);
    let options = Options { mx_port: server.address.port(), dns: Some(dns.address), ..Options::default() };
    let sending = Sending::with(db, options).await;
    let to = ["a@one.example", "b@implicit.example", "c@quiet.example", "d@nowhere.example", "e@one.example"];

    sending.transfer.accept(sending.message(&to)).await;
    sending.queue.settled().await;
    sending.step_after(1).await;

    let mut received = server.received(3).await;
    received.sort_by(|one, other| one.recipients.cmp(&other.recipients));
    let recipients: Vec<_> = received.iter().map(|received| received.recipients.clone()).collect();
    let expected = [vec!["a@one.example", "e@one.example"], vec!["ann@acme.example"], vec!["b@implicit.example"]];
    assert_eq!(recipients, expected);
    let notification = String::from_utf8(received[1].content.clone()).unwrap();
    assert!(notification.contains("Status: 5.1.10") && notification.contains("Status: 5.1.2"), "{notification}");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_recipient_who_waits_keeps_the_others_delivered(db: PgPool) {
    let (server, sending) = with_server(db, &[("one.example", "127.0.0.1"), ("two.example", "127.0.0.1")], &[]).await;
    server.answers_recipient("b@one.example", "450 4.2.1 mailbox busy");
    sending.transfer.accept(sending.message(&["a@one.example", "b@one.example", "c@two.example"])).await;
    sending.queue.settled().await;
    assert_eq!(server.so_far().len(), 2);

    server.behave(|behaviour| behaviour.recipients.clear());
    sending.step_after(5).await;

    assert_eq!(server.received(3).await[2].recipients, ["b@one.example"]);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_domain_whose_server_we_are_is_reported_as_a_loop(db: PgPool) {
    let addresses =
        [("acme.example", "127.0.0.1"), ("relay.outgate.example", "127.0.0.1"), ("us.example", "127.0.0.3")];
    let exchanges = [
        ("by-name.example", 10, "Relay.Outgate.Example"),
        ("by-name.example", 20, "acme.example"),
        ("by-address.example", 10, "us.example"),
        ("by-address.example", 20, "acme.example"),
    ];
    let server = Gateway::start().await;
    let port = server.address.port();
    let listeners = vec![format!("127.0.0.3:{port}").parse().unwrap()];
    let options = Options { mx_port: port, names: names(&addresses, &exchanges), listeners, ..Options::default() };
    let sending = Sending::with(db, options).await;

    sending.transfer.accept(sending.message(&["a@by-name.example", "b@by-address.example"])).await;
    sending.queue.settled().await;
    sending.step_after(1).await;

    // One notification, and nothing to the servers behind us.
    let received = server.received(1).await;
    let text = String::from_utf8(received[0].content.clone()).unwrap();
    assert_eq!(text.matches("Status: 5.4.6").count(), 2, "{text}");
    assert_eq!(server.so_far().len(), 1);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn servers_before_us_are_waited_for_and_those_behind_us_never_asked(db: PgPool) {
    let addresses =
        [("first.example", "127.0.0.8"), ("relay.outgate.example", "127.0.0.1"), ("last.example", "127.0.0.1")];
    let exchanges = [
        ("one.example", 10, "first.example"),
        ("one.example", 20, "relay.outgate.example"),
        ("one.example", 30, "last.example"),
    ];
    let (server, sending) = with_server(db, &addresses, &exchanges).await;
    sending.transfer.accept(sending.message(&["a@one.example"])).await;
    sending.queue.settled().await;
    assert_eq!(server.connections(), 0);
    let waiting = sending.waiting().await.remove(0);
    assert_eq!((waiting.state.as_str(), waiting.attempts), ("waiting", 1));
}

#[tokio::test]
async fn servers_of_the_same_preference_share_the_mail() {
    let exchanges =
        [("one.example", 10, "a.example"), ("one.example", 10, "b.example"), ("one.example", 20, "c.example")];
    let resolver = Resolver::Fixed(FixedNames { exchanges: names(&[], &exchanges).exchanges, ..FixedNames::default() });
    let mut first = HashSet::new();
    for _ in 0..200 {
        let Ok(Exchanges::Hosts(hosts)) = resolver.exchanges("one.example").await else { panic!("no servers") };
        assert_eq!(hosts[2].host, "c.example");
        first.insert(hosts[0].host.clone());
    }
    assert_eq!(first.len(), 2);
}

#[sqlx::test]
async fn a_server_that_offers_tls_gets_mail_encrypted(db: PgPool) {
    let (server, sending) = with_server(db, &[("one.example", "127.0.0.1")], &[]).await;
    server.offers_tls();
    sending.transfer.accept(sending.message(&["a@one.example"])).await;
    assert!(server.received(1).await[0].encrypted);
}

#[sqlx::test]
async fn a_server_whose_tls_fails_gets_mail_in_clear_where_nobody_asked_for_tls(db: PgPool) {
    let (server, sending) = with_server(db, &[("one.example", "127.0.0.1")], &[]).await;
    server.offers_tls();
    server.says(At::StartTls, "454 4.7.0 not now");
    sending.transfer.accept(sending.message(&["a@one.example"])).await;
    let received = server.received(1).await.remove(0);
    sending.queue.settled().await;
    assert_eq!((received.encrypted, server.connections()), (false, 2), "over a second connection");
    assert!(sending.waiting().await.is_empty());
}
