//! The store fails over: its primary is killed under load, the standby takes over, and the relay goes on with it.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use outgate::store::gateway::PointerScope;

use crate::support::{Installation, ledger::Ledger, outgate::RelayProcess, standby::Replicated};

const CLIENTS: usize = 8;
const SENDERS: [&str; 1] = ["ann@acme.example"];
/// Promised before it fails over, and after that.
const MESSAGES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_promised_outlives_the_primary_and_the_relay_goes_on_with_the_standby() {
    let store = Replicated::start().await;
    let ledger = Ledger::new();
    // Nothing leaves before the primary is gone: all of it is in the store.
    ledger.set_deferring(true);
    let gateway: SocketAddr = ledger.gateway().await;
    let installation = Installation::on(store.owner());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.to_string()).await;
    let relay = RelayProcess::start(&store.owner(), "one", |outgate| outgate.with("OUTGATE_HANDOVER", "off")).await;

    let clients = ledger.open(CLIENTS, relay.submission, &SENDERS);
    ledger.until("mail is taken", |balance| balance.promised >= MESSAGES).await;
    store.fail_over().await;
    let before = ledger.balance().promised;
    ledger.until("mail is taken again", |balance| balance.promised >= before + MESSAGES).await;
    ledger.close();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(ledger.balance().arrived, 0);

    // All of it is due, and another relay sends it.
    relay.signal(Signal::SIGTERM);
    assert!(relay.ended().await.success());
    ledger.set_deferring(false);
    let due = sqlx::query("update queued_message set next_attempt_at = now()").execute(&installation.owner).await;
    assert!(due.unwrap().rows_affected() >= (before + MESSAGES) as u64);
    let other = RelayProcess::start(&store.owner(), "two", |outgate| outgate).await;
    ledger.until("it arrives", |balance| balance.arrived >= balance.promised).await;
    other.signal(Signal::SIGTERM);
    assert!(other.ended().await.success());

    let balance = ledger.balance();
    assert_eq!((&balance.lost[..], &balance.unexplained[..]), (&[][..], &[][..]), "{balance:?}");
}
