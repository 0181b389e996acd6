//! One server's troubles stay its own: the mail of others goes on.
//! What is slow or dead here belongs to one tenant, what must not suffer to another.

use std::{sync::Arc, time::Duration};

use outgate::{
    mail::id::{AccountId, GatewayId},
    policy::facts::{DomainFacts, Gateway as GatewayFacts, TlsMode},
    relay::message::Message,
    store::{self, gateway::PointerScope},
};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Gateway, Installation, Sending, SmtpClient,
    gateway::{At, Fault},
    sending::{Options, names},
    world::World,
};

/// Gives the mail domain fast.acme.example a gateway of its own.
fn point_domain(sending: &Sending, gateway: &Gateway) {
    let organization = sending.organization;
    let facts = GatewayFacts {
        organization,
        id: GatewayId::new(),
        revision: 1,
        address: gateway.address.to_string().parse().unwrap(),
        tls: TlsMode::WhenOffered,
        settings: Arc::default(),
    };
    sending.table.change(|known| {
        let gateway = Some(facts.id);
        known.set_gateway(facts.id, Some(facts));
        known.set_domain(
            "fast.acme.example".parse().unwrap(),
            Some(DomainFacts { organization, gateway, awaits_gateway: false, inbound_host: None }),
        );
    });
}

#[sqlx::test]
async fn a_client_in_the_middle_of_a_message_holds_no_connection_to_its_gateway(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let world = World::start(&installation).await;
    let mut slow = SmtpClient::greeted(world.submission).await;
    for command in ["EHLO slow.example", "MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@far.example>", "DATA"] {
        assert!(slow.say(command).await.starts_with(['2', '3']));
    }
    slow.send(b"Subject: half\r\n\r\nHalf of it").await;
    let mut quick = SmtpClient::greeted(world.submission).await;
    assert_eq!(gateway.connections(), 0);
    assert!(quick.submit("ann@acme.example", "bob@far.example", "x").await.starts_with("250 "));
    assert_eq!(gateway.connections(), 1, "the one that is used again");
    slow.send(b"\r\n.\r\n").await;
    assert!(slow.reply().await.starts_with("250 "));
    assert_eq!((gateway.received(2).await.len(), gateway.connections()), (2, 1));
    world.stop().await;
}

#[sqlx::test]
async fn a_gateway_that_answers_slowly_does_not_hold_up_mail_that_waits_for_others(db: PgPool) {
    let (slow, fast) = (Gateway::start().await, Gateway::start().await);
    slow.fails(At::Mail, Fault::Stalls);
    let sending = Arc::new(Sending::with(db, Options { handover: false, ..Options::default() }).await);
    sending.set_gateway(Some(&slow.address.to_string()));
    point_domain(&sending, &fast);
    let mut clients = JoinSet::new();
    for _ in 0..250 {
        let sending = sending.clone();
        clients.spawn(async move { sending.send().await.code });
    }
    assert!(clients.join_all().await.iter().all(|code| *code == 250));
    let running = tokio::spawn({
        let queue = sending.queue.clone();
        async move { queue.run(CancellationToken::new()).await }
    });
    slow.stalled(4).await;

    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.sender = "bea@fast.acme.example".to_owned();
    assert_eq!(sending.transfer.accept(message).await.code, 250);

    fast.received(1).await;
    running.abort();
}

/// Makes bea@acme.example an account of its own.
fn know_bea(sending: &Sending) -> &'static str {
    let bea = "bea@acme.example";
    sending.table.change(|facts| {
        facts.set_address("ann@acme.example", Some(sending.account));
        facts.set_address(bea, Some(AccountId::new()));
    });
    bea
}

fn from(sender: &str, sending: &Sending) -> Message {
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.sender = sender.to_owned();
    message.envelope.reverse_path = sender.to_owned();
    message
}

#[sqlx::test]
async fn whoever_sends_one_message_is_served_in_the_midst_of_a_burst_of_a_colleague(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Mail, Fault::Stalls);
    let sending = Arc::new(Sending::with(db, Options { handover: false, ..Options::default() }).await);
    sending.set_gateway(Some(&gateway.address.to_string()));
    let bea = know_bea(&sending);
    let mut clients = JoinSet::new();
    for _ in 0..300 {
        let sending = sending.clone();
        clients.spawn(async move { sending.transfer.accept(from("ann@acme.example", &sending)).await.code });
    }
    assert!(clients.join_all().await.iter().all(|code| *code == 250));
    let running = tokio::spawn({
        let queue = sending.queue.clone();
        async move { queue.run(CancellationToken::new()).await }
    });
    gateway.stalled(4).await;

    assert_eq!(sending.transfer.accept(from(bea, &sending)).await.code, 250);
    gateway.works_again();
    (0..4).for_each(|_| gateway.go_on());

    let received = gateway.received(301).await;
    let place = received.iter().position(|message| message.reverse_path == bea);
    assert!(place < Some(30), "{place:?} of 301");
    running.abort();
}

#[sqlx::test]
async fn when_a_gateway_is_back_its_senders_take_turns(db: PgPool) {
    let sending = Sending::with(db, Options { handover: false, ..Options::default() }).await;
    let gateway = sending.set_gateway(Some(&Gateway::free_address().await.to_string())).unwrap();
    let bea = know_bea(&sending);
    for sender in ["ann@acme.example", "ann@acme.example", "ann@acme.example", bea] {
        assert_eq!(sending.transfer.accept(from(sender, &sending)).await.code, 250);
        sending.queue.settled().await;
    }
    let later = sending.now - Duration::from_secs(60);
    let due = "select sender from queued_message where next_attempt_at = $1 order by sender";
    assert_eq!(store::queue::make_due(&sending.db, sending.organization, gateway, None, 2, later).await.unwrap(), 2);
    let due: Vec<String> = sqlx::query_scalar(due).bind(later).fetch_all(&sending.owner).await.unwrap();
    assert_eq!(due, ["ann@acme.example", bea]);
}

#[sqlx::test]
async fn a_failing_gateway_that_nobody_waits_for_is_forgotten(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    for _ in 0..3 {
        sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
        sending.send().await;
    }
    assert_eq!(sending.handover.health().failing_gateways().len(), 3);

    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.step_after(1).await;
    sending.step_after(10).await;

    assert_eq!(gateway.received(3).await.len(), 3);
    assert!(sending.handover.health().failing_gateways().is_empty());
}

#[sqlx::test]
async fn a_slow_server_of_one_domain_holds_up_no_other_and_what_is_delivered_is_written_down(db: PgPool) {
    let server = Gateway::start().await;
    let port = server.address.port();
    let slow = Gateway::start_on(format!("127.0.0.2:{port}").parse().unwrap()).await;
    slow.fails(At::Greeting, Fault::Stalls);
    let names = names(&[("first.example", "127.0.0.2"), ("second.example", "127.0.0.1")], &[]);
    let sending = Sending::with(db, Options { mx_port: port, names, ..Options::default() }).await;
    let to = ["a@first.example", "b@second.example"];
    assert_eq!(sending.transfer.accept(sending.message(&to)).await.code, 250);
    slow.stalled(1).await;

    assert_eq!(server.received(1).await[0].recipients, ["b@second.example"]);
    // A relay that is killed now does not send it again.
    let written_down = async {
        while !sending.waiting().await[0].recipients.contains(r#""state": "delivered""#) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::gateway::HAPPENS_WITHIN, written_down).await.expect("it is written down");
    slow.go_on();
    slow.received(1).await;
    sending.queue.settled().await;
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn of_a_name_with_very_many_addresses_only_some_are_tried(db: PgPool) {
    let gateway = Gateway::start_on("127.0.0.40:0".parse().unwrap()).await;
    let addresses: Vec<String> = (2..=40).map(|last| format!("127.0.0.{last}")).collect();
    let addresses: Vec<(&str, &str)> =
        addresses.iter().map(|address| ("many.elsewhere.example", address.as_str())).collect();
    let sending = Sending::with(db, Options { names: names(&addresses, &[]), ..Options::default() }).await;
    sending.set_gateway(Some(&format!("many.elsewhere.example:{}", gateway.address.port())));

    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    assert_eq!(gateway.connections(), 0);
}

#[sqlx::test]
async fn a_gateway_that_reads_slowly_does_not_keep_its_client_waiting(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Content, Fault::Stalls);
    let options = Options { handover_wait: Duration::from_millis(100), ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    // More than the network between the two takes by itself.
    let content = format!("Subject: large\r\n\r\n{}", "0123456789abcdef\r\n".repeat(1_500_000));

    let message = sending.message_with(&["bob@elsewhere.example"], content);
    let sent = tokio::time::timeout(crate::support::gateway::HAPPENS_WITHIN, sending.transfer.accept(message)).await;

    assert!(sent.expect("the client has an answer").to_string().starts_with("250 2.0.0 queued as "));
    assert_eq!(sending.waiting().await[0].attempts, 1);
}

#[sqlx::test]
async fn only_the_first_clients_wait_for_a_gateway_whose_connections_are_all_in_use(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    let options = Options { handover_wait: Duration::from_secs(2), ..Options::default() };
    let sending = Arc::new(Sending::with(db, options).await);
    sending.set_gateway(Some(&gateway.address.to_string()));
    let mut clients = JoinSet::new();
    for _ in 0..21 {
        let sending = sending.clone();
        clients.spawn(async move { sending.send().await.code });
    }
    assert!(clients.join_all().await.iter().all(|code| *code == 250));

    // Four still have the connections, and others have waited in vain for all who come now.
    let reply = tokio::time::timeout(Duration::from_secs(1), sending.send()).await.expect("an answer at once");
    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
}

#[sqlx::test]
async fn a_clock_that_is_set_back_does_not_keep_a_gateway_failing(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Greeting, Fault::Closes);
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.accepted_at += time::Duration::days(40);
    assert_eq!(sending.transfer.accept(message).await.code, 250);
    gateway.works_again();

    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
}
