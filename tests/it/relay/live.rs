//! "Live on n of n relays" is a promise: no message accepted after it takes the old route. And what
//! a relay does while it cannot reach the store.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use outgate::store::{
    self, OrganizationTransaction,
    gateway::{PointerScope, Set},
};
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::support::{
    Gateway, Installation, SmtpClient, Tenant,
    store_door::StoreDoor,
    world::{Inbox, World, until_live},
};

const SAVES: usize = 200;
const CLIENTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the queue is looked at while nothing may happen there: for longer than a relay takes to begin.
const LOOKS: usize = 500;

/// Saves as the page does, and waits until the page could say that it is live.
async fn save_until_live(installation: &Installation, web: &PgPool, tenant: &Tenant, gateway: &Inbox) {
    let transaction = OrganizationTransaction::begin(web, tenant.id).await.unwrap();
    let address = gateway.typed().parse().unwrap();
    let set = store::gateway::set(transaction, &PointerScope::Organization, Some(&address), "admin@acme.example").await;
    let Set::Changed(committed) = set.unwrap() else { panic!("nothing was saved") };
    until_live(installation, committed.revision).await;
}

#[sqlx::test]
async fn of_200_saves_under_traffic_none_is_bypassed_once_it_is_live(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let world = World::start(&installation).await;
    let gateways = [world.gateway().await, world.gateway().await];
    let web = installation.pool_as("outgate_web").await;
    save_until_live(&installation, &web, &acme, &gateways[0]).await;

    // How many saves are live, and how many have begun: equal only between two saves.
    let (live, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let (certain, mut certainties) = mpsc::unbounded_channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (live, begun, done) = (Arc::clone(&live), Arc::clone(&begun), Arc::clone(&done));
            let (submission, certain) = (world.submission, certain.clone());
            tokio::spawn(async move {
                let mut smtp = SmtpClient::greeted(submission).await;
                let mut expected = HashMap::new();
                for number in 0.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let subject = format!("{client}-{number}");
                    let live_before = live.load(Ordering::SeqCst);
                    let content = format!("Subject: {subject}\r\n\r\nHello.\r\n");
                    let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", &content).await;
                    assert!(reply.starts_with("250"), "{reply}");
                    // Certain only if no save began before the answer came.
                    if begun.load(Ordering::SeqCst) == live_before {
                        expected.insert(subject, live_before % 2);
                        let _ = certain.send(live_before);
                    }
                }
                expected
            })
        })
        .collect();
    for save in 1..=SAVES {
        begun.store(save, Ordering::SeqCst);
        save_until_live(&installation, &web, &acme, &gateways[save % 2]).await;
        live.store(save, Ordering::SeqCst);
        // Each save is lived with for as many messages as there are clients.
        for _ in 0..CLIENTS {
            while tokio::time::timeout(PATIENCE, certainties.recv()).await.expect("traffic flows") != Some(save) {}
        }
    }
    done.store(true, Ordering::SeqCst);

    let mut expected = HashMap::new();
    for client in clients {
        expected.extend(client.await.unwrap());
    }
    assert!(expected.len() >= SAVES * CLIENTS);
    let mut arrived = HashMap::new();
    for (index, gateway) in gateways.iter().enumerate() {
        while let Some(subject) = gateway.subject_at_once().await {
            assert!(arrived.insert(subject.clone(), index).is_none(), "{subject} arrived twice");
        }
    }
    for (subject, gateway) in expected {
        assert_eq!(arrived.get(&subject), Some(&gateway), "{subject}");
    }
    world.stop().await;
}

#[sqlx::test]
async fn with_postgresql_stopped_mail_for_known_gateways_still_flows(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let (acme, birch) = (installation.organization("acme").await, installation.organization("birch").await);
    let mut door = StoreDoor::before(&owner);
    let world = World::with_relay_on(&installation, door.pool_as("outgate_relay")).await;
    let gateway = world.gateway().await;
    let web = installation.pool_as("outgate_web").await;
    save_until_live(&installation, &web, &acme, &gateway).await;
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    installation.set_gateway(&birch, &PointerScope::Organization, &dead).await;
    until_live(&installation, installation.latest_revision().await).await;

    door.shut().await;
    let mut smtp = SmtpClient::greeted(world.submission).await;
    let content = "Subject: without the store\r\n\r\nHello.\r\n";
    let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", content).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(gateway.next_subject().await, "without the store");
    let reply = smtp.submit("bea@birch.example", "bob@elsewhere.example", content).await;
    assert!(reply.starts_with("451 4.3.0"), "what can neither be handed over nor queued is not accepted: {reply}");

    door.open();
    installation.set_gateway(&birch, &PointerScope::Organization, &gateway.typed()).await;
    until_live(&installation, installation.latest_revision().await).await;
    let reply = smtp.submit("bea@birch.example", "bob@elsewhere.example", "Subject: back\r\n\r\nHello.\r\n").await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(gateway.next_subject().await, "back");
    world.stop().await;
}

#[sqlx::test]
async fn a_relay_that_starts_touches_no_waiting_mail_before_it_knows_where_it_goes(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    let dead = Gateway::free_address().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &dead.to_string()).await;
    let world = World::start(&installation).await;
    let mut smtp = SmtpClient::greeted(world.submission).await;
    let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", "Subject: waits\r\n\r\nHello.\r\n").await;
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    world.stop().await;
    let gateway = Gateway::start_on(dead).await;

    // Nobody can read the facts until this ends.
    let mut slow = owner.begin().await.unwrap();
    sqlx::query("lock table mail_domain in access exclusive mode").execute(&mut *slow).await.unwrap();
    let waits_for_facts = async {
        let waiting = "select exists (select from pg_locks where not granted and relation = 'mail_domain'::regclass
                       and database = (select oid from pg_database where datname = current_database()))";
        while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut *slow).await.unwrap() {}
        let untouched = "select state = 'waiting' and lease_token is null from queued_message";
        for _ in 0..LOOKS {
            assert!(sqlx::query_scalar::<_, bool>(untouched).fetch_one(&mut *slow).await.unwrap());
        }
        slow.commit().await.unwrap();
    };
    let (world, ()) = tokio::join!(World::start(&installation), waits_for_facts);

    assert_eq!(gateway.received(1).await.len(), 1);
    world.stop().await;
}
