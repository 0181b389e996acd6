//! How much a gateway is given: connections, messages on each, messages a minute, and how large they may be.
//! What the record says, and what the gateway itself says.

use std::sync::Arc;

use outgate::{
    policy::gateway_settings::GatewayLimits,
    relay::handover::peer::{Peer, PeerKey},
};
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault},
    sending::{Options, Pointers, names},
};

/// Sends so many messages at the same time.
fn all_at_once(sending: &Arc<Sending>, count: usize) -> JoinSet<String> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let sending = sending.clone();
        clients.spawn(async move { sending.send().await.to_string() });
    }
    clients
}

#[sqlx::test]
async fn a_gateway_gets_few_connections_at_first_and_more_while_mail_waits(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    let sending = Arc::new(Sending::on(db).await);
    sending.set_gateway(Some(&gateway.address.to_string()));
    let clients = all_at_once(&sending, 24);
    gateway.stalled(4).await;
    assert_eq!(gateway.connections(), 4);

    // Each that is done makes room for two, as long as mail waits.
    for done in 1..=4 {
        gateway.go_on();
        gateway.stalled(4 + 2 * done).await;
    }
    assert_eq!(gateway.connections(), 8);
    gateway.works_again();
    for _ in 0..8 {
        gateway.go_on();
    }
    assert!(clients.join_all().await.iter().all(|reply| reply == "250 2.0.0 kept as 4711"));
    assert_eq!(gateway.so_far().len(), 24);
}

#[sqlx::test]
async fn a_gateway_is_never_given_more_connections_than_its_record_says(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.most_connections = 2);
    let sending = Arc::new(Sending::on(db).await);
    sending.set_gateway_limited(gateway.address, GatewayLimits { connections: 2, ..GatewayLimits::default() });

    let replies = all_at_once(&sending, 30).join_all().await;

    assert!(replies.iter().all(|reply| reply == "250 2.0.0 kept as 4711"), "{replies:?}");
    assert_eq!(gateway.connections(), 2);
}

#[sqlx::test]
async fn a_gateway_that_says_it_has_too_many_connections_gets_fewer_and_is_not_taken_for_dead(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.most_connections = 2);
    let sending = Arc::new(Sending::on(db).await);
    sending.set_gateway(Some(&gateway.address.to_string()));
    // The first is open already when the others come.
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");

    let replies = all_at_once(&sending, 30).join_all().await;

    assert!(replies.iter().all(|reply| reply == "250 2.0.0 kept as 4711"), "{replies:?}");
    assert!(sending.handover.health().failing_gateways().is_empty());
}

#[sqlx::test]
async fn a_gateway_that_says_it_has_too_much_gets_fewer_connections(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Arc::new(Sending::on(db).await);
    let id = sending.set_gateway(Some(&gateway.address.to_string())).unwrap();
    let peer = sending.table.decide("ann@acme.example");
    let outgate::policy::facts::Decision::Route(route) = peer else { panic!("{peer:?}") };
    let outgate::policy::routing::NextHop::Gateway(facts) = route.route.next_hop else { panic!("no gateway") };
    let peer = Peer::gateway(&facts, route.route.set_by);
    assert_eq!(peer.key, PeerKey::Gateway(sending.organization, id, 1));
    gateway.fails(At::Dot, Fault::Stalls);
    let clients = all_at_once(&sending, 4);
    gateway.stalled(4).await;
    assert_eq!(sending.handover.pool().limit(&peer), 4);

    gateway.says(At::Mail, "452 4.3.1 too busy");
    for _ in 0..4 {
        gateway.go_on();
    }
    clients.join_all().await;
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    assert!(sending.handover.pool().limit(&peer) < 4);
    gateway.works_again();
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711", "it is busy, not dead");
}

#[sqlx::test]
async fn a_connection_carries_as_many_messages_as_the_record_says(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let limits = GatewayLimits { messages_per_connection: Some(2), ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);
    for _ in 0..5 {
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    }
    assert_eq!(gateway.connections(), 3);
}

#[sqlx::test]
async fn the_surplus_over_the_messages_a_minute_waits_for_its_turn(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let limits = GatewayLimits { messages_per_minute: Some(6), ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);
    let after = |seconds| sending.now + time::Duration::seconds(seconds);

    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    for _ in 0..3 {
        assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    }

    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert!(reason.ends_with("gets at most 6 messages a minute; this one has its turn later"), "{reason}");
    for (seconds, arrived) in [(9, 1), (10, 2), (19, 2), (20, 3), (29, 3), (31, 4)] {
        sending.queue.step(after(seconds)).await.unwrap();
        assert_eq!(gateway.so_far().len(), arrived, "after {seconds} seconds");
    }
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn relays_share_the_messages_a_minute_that_a_gateway_gets(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let limits = GatewayLimits { messages_per_minute: Some(6), ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);
    // As the store says it to each of them.
    sending.table.set_relays(3);
    for _ in 0..3 {
        assert_eq!(sending.send().await.code, 250);
    }
    // A third of six a minute: one in half a minute.
    for (seconds, arrived) in [(1, 1), (29, 1), (30, 2), (59, 2), (60, 3)] {
        sending.queue.step(sending.now + time::Duration::seconds(seconds)).await.unwrap();
        assert_eq!(gateway.so_far().len(), arrived, "after {seconds} seconds");
    }
}

#[sqlx::test]
async fn waiting_for_a_turn_costs_no_attempt_and_new_mail_does_not_pass_it(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let limits = GatewayLimits { messages_per_minute: Some(6), ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);
    sending.send().await;
    sending.send().await;
    assert_eq!(sending.waiting().await[0].attempts, 0);

    let mut later = sending.message(&["carl@elsewhere.example"]);
    later.accepted_at += time::Duration::milliseconds(9_999);
    assert!(sending.transfer.accept(later).await.to_string().starts_with("250 2.0.0 queued as "));

    sending.queue.step(sending.now + time::Duration::seconds(10)).await.unwrap();
    assert_eq!(gateway.received(2).await[1].recipients, ["bob@elsewhere.example"]);
    sending.queue.step(sending.now + time::Duration::seconds(20)).await.unwrap();
    assert_eq!(gateway.received(3).await[2].recipients, ["carl@elsewhere.example"]);
}

#[sqlx::test]
async fn what_waited_for_its_turn_when_the_gateway_failed_leaves_without_gaps_when_it_is_back(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let limits = GatewayLimits { messages_per_minute: Some(6), ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);
    let step_after = async |seconds| sending.queue.step(sending.now + time::Duration::seconds(seconds)).await.unwrap();
    for _ in 0..12 {
        sending.send().await;
    }
    gateway.says(At::Mail, "554 5.3.2 not today");
    step_after(10).await;
    assert_eq!((gateway.so_far().len(), sending.handover.health().failing_gateways().len()), (1, 1));

    gateway.works_again();
    step_after(20).await;
    step_after(21).await;

    for (seconds, arrived) in [(29, 2), (30, 3), (40, 4), (50, 5), (60, 6), (70, 7), (80, 8)] {
        step_after(seconds).await;
        assert_eq!(gateway.so_far().len(), arrived, "after {seconds} seconds");
    }
}

#[sqlx::test]
async fn a_message_that_is_larger_than_the_record_allows_is_returned_at_once_and_not_sent_there(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let limits = GatewayLimits { largest_message: Some(1_000_000), ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);
    let large = format!("Subject: large\r\n\r\n{}", "0123456789abcdef\r\n".repeat(100_000));

    let reply = sending.transfer.accept(sending.message_with(&["bob@elsewhere.example"], large)).await;

    let said = format!(
        "552 5.3.4 gateway {}: it takes messages of at most 1.00 MB, and this one has 1.80 MB; ",
        gateway.address
    );
    assert!(reply.to_string().starts_with(&said), "{reply}");
    assert_eq!(gateway.connections(), 0);
    assert!(sending.waiting().await.is_empty());
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
}

#[sqlx::test]
async fn a_message_that_is_larger_than_the_gateway_takes_is_returned_at_once(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.extensions = vec!["PIPELINING", "SIZE 20"]);
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    let reply = sending.send().await.to_string();

    assert!(
        reply.starts_with(&format!(
            "552 5.3.4 gateway {}: it takes messages of at most 20 bytes, and this one has 26 bytes; ",
            gateway.address
        )),
        "{reply}"
    );
    assert!(sending.waiting().await.is_empty());
    // RFC 1870 §3: no number, or 0, is no limit.
    for size in ["SIZE", "SIZE 0"] {
        sending.handover.pool().close().await;
        gateway.behave(|behaviour| behaviour.extensions = vec!["PIPELINING", size]);
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711", "{size}");
    }
}

#[sqlx::test]
async fn a_waiting_message_that_is_too_large_goes_back_to_its_sender(db: PgPool) {
    let smarthost = Gateway::start().await;
    let default = outgate::policy::routing::PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let gateway = Gateway::start().await;
    let limits = GatewayLimits { largest_message: Some(10), ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);

    sending.step_after(5).await;
    sending.step_after(6).await;

    let text = String::from_utf8(smarthost.received(1).await.remove(0).content).unwrap().replace("=\r\n", "");
    assert!(text.contains("Status: 5.3.4"), "{text}");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn recipients_beyond_what_a_gateway_takes_at_a_time_follow_at_once_and_nobody_gets_it_twice(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.most_recipients = 2);
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let to: Vec<String> = (1..=5).map(|number| format!("user{number}@elsewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();

    let reply = sending.transfer.accept(sending.message(&to)).await;

    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    sending.queue.settled().await;
    let recipients: Vec<_> = gateway.so_far().into_iter().map(|received| received.recipients).collect();
    assert_eq!(recipients, [to[..2].to_vec(), to[2..4].to_vec(), to[4..].to_vec()]);
    assert!(sending.waiting().await.is_empty());

    // The same for mail that comes out of the queue, here because the gateway was away.
    gateway.fails(At::Greeting, Fault::Closes);
    sending.handover.pool().close().await;
    sending.transfer.accept(sending.message(&to)).await;
    gateway.works_again();
    sending.step_after(5).await;
    assert_eq!(gateway.so_far().len(), 6);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_gateway_that_leaves_in_the_middle_of_the_recipients_has_none_of_them(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.answers_recipient("two@elsewhere.example", "421 4.3.2 shutting down");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let to = ["one@elsewhere.example", "two@elsewhere.example", "three@elsewhere.example"];

    let reply = sending.transfer.accept(sending.message(&to)).await;

    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    let waiting = sending.waiting().await.remove(0);
    assert_eq!(waiting.attempts, 0, "that it leaves is not the message's fault");
    assert_eq!(waiting.recipients.matches(r#""state": "waiting""#).count(), 3, "{}", waiting.recipients);
    assert!(gateway.so_far().is_empty());
    gateway.behave(|behaviour| behaviour.recipients.clear());
    sending.step_after(5).await;
    assert_eq!(gateway.received(1).await[0].recipients, to);
}

#[sqlx::test]
async fn a_server_of_a_recipient_gets_few_connections_whatever_waits(db: PgPool) {
    let server = Gateway::start().await;
    server.fails(At::Dot, Fault::Stalls);
    let names = names(&[("one.example", "127.0.0.1")], &[]);
    let options = Options { mx_port: server.address.port(), names, ..Options::default() };
    let sending = Arc::new(Sending::with(db, options).await);
    sending.point(Pointers::default());
    for number in 0..12 {
        let message = sending.message(&[&format!("user{number}@one.example")]);
        assert_eq!(sending.transfer.accept(message).await.code, 250);
    }
    server.stalled(4).await;
    server.go_on();
    server.stalled(6).await;
    server.works_again();
    for _ in 0..5 {
        server.go_on();
    }
    assert_eq!(server.received(12).await.len(), 12);
    assert_eq!(server.connections(), 5);
    sending.queue.settled().await;
}
