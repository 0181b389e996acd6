//! Direct delivery to the recipients' own servers, for mail without a gateway.
//! Names are looked up in a table of the test's, never in the DNS.

use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
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
    assert!(reason.contains("127.0.0.1 is an address of this machine itself"), "{reason}");
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
