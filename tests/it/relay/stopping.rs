//! How relays come and go while mail flows: one is told to stop, one is paused, one is of another version.
//! The program as people run it, on the test's own store.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use outgate::store::gateway::PointerScope;
use sqlx::PgPool;
use tokio::time::timeout;

use crate::support::{
    Gateway, Installation, Sending, SmtpClient, Tenant,
    gateway::{At, Fault, HAPPENS_WITHIN},
    outgate::{Outgate, RelayProcess},
};

/// What the relay under test is told.
const STOPS_WITHIN: Duration = Duration::from_secs(6);

/// What a machine that has much else to do may take longer.
const BUSY_MACHINE: Duration = Duration::from_secs(15);

/// The organization acme, whose mail leaves through this gateway.
async fn acme_through(owner: &PgPool, gateway: &Gateway) -> (Installation, Tenant) {
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    (installation, acme)
}

async fn after_354(relay: &RelayProcess) -> SmtpClient {
    let mut client = SmtpClient::greeted(relay.submission).await;
    for command in ["MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@elsewhere.example>", "DATA"] {
        client.say(command).await;
    }
    client
}

/// A message passes through it to a gateway that has none yet, and it ends as it is told.
async fn does_its_work(relay: RelayProcess, gateway: &Gateway) {
    let mut client = after_354(&relay).await;
    client.send(b"Subject: x\r\n\r\nx").await;
    assert!(client.say("\r\n.").await.starts_with("250 "));
    gateway.received(1).await;
    relay.signal(Signal::SIGTERM);
    assert!(relay.ended().await.success());
}

/// How many messages wait, and how many of them a relay has.
async fn queue(owner: &PgPool) -> (i64, i64) {
    sqlx::query_as("select count(*), count(lease_token) from queued_message").fetch_one(owner).await.unwrap()
}

#[sqlx::test]
async fn a_relay_that_is_told_to_stop_is_gone_in_the_time_that_it_states(owner: PgPool) {
    let gateway = Gateway::start().await;
    let (_installation, _acme) = acme_through(&owner, &gateway).await;
    let stop_within = |outgate: Outgate| {
        outgate.with("OUTGATE_STOP_WITHIN", format!("{}s", STOPS_WITHIN.as_secs())).with("OUTGATE_HANDOVER_WAIT", "1s")
    };
    let relay = RelayProcess::start(&owner, "one", stop_within).await;
    // One message is committed, and its gateway never answers.
    gateway.fails(At::Dot, Fault::Stalls);
    let mut queued = after_354(&relay).await;
    queued.send(b"Subject: queued\r\n\r\nx").await;
    assert!(queued.say("\r\n.").await.starts_with("250 2.0.0 queued as "));
    assert_eq!(queue(&owner).await, (1, 1));
    // One client waits for a gateway that takes its time, one is in the middle of its message, one has nothing to do.
    gateway.fails(At::Mail, Fault::Stalls);
    let mut waiting = after_354(&relay).await;
    let mut sending = after_354(&relay).await;
    sending.send(b"Subject: half").await;
    let mut idle = SmtpClient::greeted(relay.submission).await;
    waiting.send(b"Subject: waiting\r\n\r\nx\r\n.\r\n").await;
    gateway.stalled(2).await;

    let told = Instant::now();
    relay.signal(Signal::SIGTERM);

    let stopping = "421 4.3.2 relay.example is stopping, try again in a moment\r\n";
    assert_eq!(idle.reply().await, stopping);
    assert_eq!(sending.reply().await, stopping);
    // Either nobody has it, or it is stored: never neither.
    let reply = waiting.reply().await;
    let is_stored = reply.starts_with("250 2.0.0 queued as ");
    assert!(is_stored || reply.starts_with("451 4.3.2 The relay is stopping "), "{reply}");
    assert!(relay.ended().await.success());
    let took = told.elapsed();
    assert!(took < STOPS_WITHIN + BUSY_MACHINE, "{took:?}");

    // What it had is given back, and the next relay sends it.
    assert_eq!(queue(&owner).await, (if is_stored { 2 } else { 1 }, 0));
    gateway.works_again();
    let next = RelayProcess::start(&owner, "two", |outgate| outgate).await;
    let received = gateway.received(if is_stored { 2 } else { 1 }).await;
    assert!(received.iter().any(|message| message.content.ends_with(b"Subject: queued\r\n\r\nx\r\n")));
    next.signal(Signal::SIGTERM);
    assert!(next.ended().await.success());
}

#[sqlx::test]
async fn a_relay_that_stops_gives_back_whatever_is_still_under_way(owner: PgPool) {
    const MESSAGES: usize = 40;
    let gateway = Gateway::start().await;
    let (_installation, _acme) = acme_through(&owner, &gateway).await;
    let stop_soon = |outgate: Outgate| outgate.with("OUTGATE_STOP_WITHIN", "6s").with("OUTGATE_HANDOVER", "off");
    let relay = RelayProcess::start(&owner, "one", stop_soon).await;
    gateway.fails(At::Dot, Fault::Stalls);
    let mut client = SmtpClient::greeted(relay.submission).await;
    for _ in 0..MESSAGES {
        for command in ["MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@elsewhere.example>", "DATA"] {
            client.say(command).await;
        }
        assert!(client.say("Subject: x\r\n\r\nx\r\n.").await.starts_with("250 2.0.0 queued as "));
    }
    // All are leased: those that the gateway has no answer for yet, and those that wait for a connection to it.
    assert_eq!(queue(&owner).await, (MESSAGES as i64, MESSAGES as i64));

    relay.signal(Signal::SIGTERM);
    assert!(relay.ended().await.success());

    assert_eq!(queue(&owner).await, (MESSAGES as i64, 0));
}

#[sqlx::test]
async fn a_paused_relay_loses_its_messages_to_another_and_records_nothing_over_it(owner: PgPool) {
    let gateway = Gateway::start().await;
    let (_installation, _acme) = acme_through(&owner, &gateway).await;
    let short_lease = |outgate: Outgate| outgate.with("OUTGATE_LEASE", "1s").with("OUTGATE_HANDOVER", "off");
    let paused = RelayProcess::start(&owner, "paused", short_lease).await;
    let other = RelayProcess::start(&owner, "other", short_lease).await;
    gateway.fails(At::Dot, Fault::Stalls);
    let mut client = after_354(&paused).await;
    client.send(b"Subject: once\r\n\r\nx").await;
    assert!(client.say("\r\n.").await.starts_with("250 2.0.0 queued as "));
    gateway.stalled(1).await;

    paused.signal(Signal::SIGSTOP);
    gateway.works_again();
    // Another one, which has nothing else to do, takes the message over when its lease has ended.
    gateway.received(1).await;
    let done = async { while queue(&owner).await.0 > 0 {} };
    timeout(HAPPENS_WITHIN, done).await.expect("it is recorded");

    // The gateway answers the paused relay, too: the one duplicate that there may be.
    gateway.go_on();
    paused.signal(Signal::SIGCONT);
    let noticed = async {
        while !paused.log().contains("another relay has taken the message") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HAPPENS_WITHIN, noticed).await.expect("it notices");
    assert_eq!((gateway.received(2).await.len(), queue(&owner).await), (2, (0, 0)));

    // It goes on working.
    let mut client = after_354(&paused).await;
    client.send(b"Subject: next\r\n\r\nx").await;
    assert!(client.say("\r\n.").await.starts_with("250 2.0.0 queued as "));
    assert_eq!(gateway.received(3).await.len(), 3);
    for relay in [paused, other] {
        relay.signal(Signal::SIGTERM);
        assert!(relay.ended().await.success());
    }
}

#[sqlx::test]
async fn a_relay_that_is_newer_than_its_store_takes_no_mail_until_that_is_migrated(owner: PgPool) {
    let gateway = Gateway::start().await;
    let (_installation, _acme) = acme_through(&owner, &gateway).await;
    sqlx::query("alter table relay_credential rename to not_yet_made").execute(&owner).await.unwrap();
    let relay = RelayProcess::starting(&owner, "newer", |outgate| outgate);
    let found_out = async {
        while !relay.log().contains("does not exist") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HAPPENS_WITHIN, found_out).await.expect("it finds out");
    relay.greets("421 4.3.2 ").await;

    sqlx::query("alter table not_yet_made rename to relay_credential").execute(&owner).await.unwrap();

    relay.greets("220 ").await;
    does_its_work(relay, &gateway).await;
}

#[sqlx::test]
async fn an_older_version_goes_on_with_a_store_that_a_newer_one_has_migrated(owner: PgPool) {
    let gateway = Gateway::start().await;
    let (_installation, _acme) = acme_through(&owner, &gateway).await;
    sqlx::raw_sql(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (29991231000000, 'newer', true, '', 0);
         create table newer_than_this (organization_id uuid, id uuid);
         alter table gateway_revision add column newer text not null default 'x'",
    )
    .execute(&owner)
    .await
    .unwrap();
    let outgate = Outgate::on(&owner).with("OUTGATE_DEFAULT_ROUTE", "mx");

    // As every start of `outgate up` does.
    outgate.succeeds(&["migrate"]).await;
    let explained = outgate.succeeds(&["route", "explain", "ann@acme.example"]).await;
    assert!(explained.contains("127.0.0.1"), "{explained}");
    let relay = RelayProcess::start(&owner, "older", |outgate| outgate).await;

    does_its_work(relay, &gateway).await;
}

#[sqlx::test]
async fn what_a_newer_version_adds_to_the_queue_is_no_hindrance_to_an_older_one(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(owner.clone()).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    // Columns, fields and tables that this version does not know.
    sqlx::raw_sql(
        "alter table queued_message add column newer text not null default 'x', add column priority integer;
         create table newer_than_this (organization_id uuid, id uuid);
         update queued_message
         set recipients = (select jsonb_agg(recipient || '{\"newer\": {\"a\": [1]}}') from jsonb_array_elements(recipients) recipient),
             parameters = parameters || '{\"newer\": true}'",
    )
    .execute(&owner)
    .await
    .unwrap();

    // It is read, a new one is put beside it, and both are sent and removed.
    sending.send().await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.step_after(1).await;
    sending.step_after(2).await;
    assert_eq!(gateway.received(2).await.len(), 2);
    assert!(sending.waiting().await.is_empty());
}
