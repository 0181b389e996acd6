//! What a relay says to its clients when the store fails it: 250 only for what is known to be committed.
//! The store's own faults; those of gateways are `handover`'s and `queue`'s.

use std::{sync::Arc, time::Duration};

use outgate::{mail::Reply, store};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{task::JoinHandle, time::timeout};

use crate::support::{
    Gateway, Installation, Sending,
    following::Following,
    gateway::{At, Fault},
    sending::Options,
    store_door::{Fate, StoreDoor},
};

const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// A relay whose mail waits for a dead gateway, behind a door to its store.
async fn behind_door(owner: PgPool) -> (Arc<Sending>, StoreDoor) {
    let door = StoreDoor::before(&owner);
    let sending = Sending::on_pool(owner, door.pool_as(store::roles::RELAY), Options::default()).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    (Arc::new(sending), door)
}

fn send(sending: &Arc<Sending>) -> JoinHandle<Reply> {
    let sending = Arc::clone(sending);
    tokio::spawn(async move { sending.send().await })
}

async fn reply(sent: JoinHandle<Reply>) -> String {
    timeout(ANSWERED_WITHIN, sent).await.expect("the client is answered").unwrap().to_string()
}

#[sqlx::test]
async fn a_message_whose_answer_to_commit_got_lost_is_looked_for_and_then_promised(owner: PgPool) {
    let (sending, mut door) = behind_door(owner).await;

    door.next_commit(Fate::AnswerLost);
    let said = reply(send(&sending)).await;
    assert!(said.starts_with("250 2.0.0 queued as "), "{said}");
    assert_eq!(sending.waiting().await.len(), 1);

    // The same while the store is away for a moment.
    door.next_commit(Fate::AnswerLost);
    let sent = send(&sending);
    door.met().await;
    door.met().await;
    door.shut().await;
    door.open();
    let said = reply(sent).await;
    assert!(said.starts_with("250 2.0.0 queued as "), "{said}");
    assert_eq!(sending.waiting().await.len(), 2);
}

#[sqlx::test]
async fn a_message_whose_commit_got_lost_is_looked_for_and_not_promised(owner: PgPool) {
    let (sending, door) = behind_door(owner).await;
    door.next_commit(Fate::Lost);

    let said = reply(send(&sending)).await;

    assert_eq!(said, "451 4.3.0 the message could not be stored, try again later");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn nobody_hears_250_before_the_store_has_answered_the_commit(owner: PgPool) {
    let (sending, door) = behind_door(owner).await;
    door.next_commit(Fate::AnswerLate);
    let sent = send(&sending);

    door.met().await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!sent.is_finished());

    door.go_on();
    let said = reply(sent).await;
    assert!(said.starts_with("250 2.0.0 queued as "), "{said}");
}

#[sqlx::test]
async fn a_store_that_is_gone_without_a_word_holds_up_the_mail_for_half_a_minute_and_not_for_ever(owner: PgPool) {
    let (sending, door) = behind_door(owner).await;
    let mut lost = Vec::new();
    // As many as are written at a time: their connections stay open, and nothing ever comes back on them.
    for _ in 0..2 {
        door.next_commit(Fate::AnswerLate);
        lost.push(send(&sending));
        door.met().await;
    }
    for sent in lost {
        assert_eq!(reply(sent).await, "451 4.3.0 the message could not be stored, try again later");
    }
    let again = async { while !reply(send(&sending)).await.starts_with("250 2.0.0 queued as ") {} };
    timeout(Duration::from_secs(90), again).await.expect("the store that is there now is asked");
}

#[sqlx::test]
async fn what_a_relay_still_attempts_stays_its_own_when_the_store_was_away_for_longer_than_a_lease(owner: PgPool) {
    let mut door = StoreDoor::before(&owner);
    let options = Options { handover: false, ..Options::default() };
    let sending = Arc::new(Sending::on_pool(owner, door.pool_as(store::roles::RELAY), options).await);
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    sending.queue.settled().await;
    // Of two messages one was taken from the queue, the other from its client, and the gateway has both whole.
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    sending.set_gateway(Some(&gateway.address.to_string()));
    let step = tokio::spawn({
        let (queue, soon) = (sending.queue.clone(), sending.now + time::Duration::SECOND);
        async move { queue.step(soon).await.unwrap() }
    });
    gateway.stalled(1).await;
    sending.send().await;
    gateway.stalled(2).await;

    let after_leases = sending.now + time::Duration::minutes(5);
    let other = sending.another();
    door.shut().await;
    for relay in [&*sending, &other] {
        assert!(relay.queue.step(after_leases).await.is_err());
    }
    door.open();
    assert_eq!(other.step_after(5).await, 0, "whoever is still at it may renew its leases first");
    assert_eq!(sending.step_after(5).await, 0, "it takes nothing again that it has");
    assert_eq!(other.step_after(6).await, 0, "which it has renewed");

    for arrived in [1, 2] {
        gateway.go_on();
        gateway.received(arrived).await;
    }
    assert_eq!(step.await.unwrap(), 1);
    sending.queue.settled().await;
    assert!(sending.waiting().await.is_empty());
    assert_eq!(gateway.so_far().len(), 2);
}

#[sqlx::test]
async fn every_connection_of_a_relay_waits_for_the_disk_whatever_the_store_is_set_to(owner: PgPool) {
    let installation = Installation::on(owner);
    let options = (*installation.owner.connect_options()).clone().username(store::roles::RELAY);
    let name = options.get_database().unwrap().to_owned();
    for (set, is) in
        [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
    {
        let statement = format!("alter database \"{name}\" set synchronous_commit = {set}");
        sqlx::query(AssertSqlSafe(statement)).execute(&installation.owner).await.unwrap();
        let pool = store::relay::pool(2, options.clone());
        let (mut one, mut other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        for connection in [&mut one, &mut other] {
            let shown: String =
                sqlx::query_scalar("show synchronous_commit").fetch_one(&mut **connection).await.unwrap();
            assert_eq!(shown, is, "where {set} is set");
        }
        drop((one, other));

        let relay = Following::on(pool, "one");
        relay.until_live(&installation).await;
        relay.stop().await;
    }
}
