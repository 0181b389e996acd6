//! A relay that comes back takes up what waited, by the facts of the store and not before it has them.

use outgate::store::gateway::PointerScope;
use sqlx::PgPool;

use crate::support::{Installation, SmtpClient, world::World};

#[sqlx::test]
async fn mail_that_waited_over_a_restart_is_delivered_and_not_held_for_facts_that_are_not_loaded_yet(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let world = World::start(&installation).await;
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    installation.set_gateway(&acme, &PointerScope::Organization, &dead).await;
    world.until_followed(&installation).await;
    let mut smtp = SmtpClient::greeted(world.submission).await;
    for number in 0..20 {
        let content = format!("Subject: waiting {number}\r\n\r\nHello.\r\n");
        let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", &content).await;
        assert!(reply.starts_with("250 2.0.0 queued as"), "{reply}");
    }
    drop(smtp);
    world.stop().await;
    // Enough for the facts to take a moment to load.
    sqlx::query(
        "insert into mail_account (organization_id, id, user_id)
         select $1, gen_random_uuid(), 'user' || number || '@acme.example' from generate_series(1, 40000) as number",
    )
    .bind(acme.id.0)
    .execute(&installation.owner)
    .await
    .unwrap();
    sqlx::query(
        "insert into mail_address (organization_id, address, account_id) select organization_id, user_id, id from mail_account",
    )
    .execute(&installation.owner)
    .await
    .unwrap();

    let world = World::start(&installation).await;
    let gateway = world.gateway().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.typed()).await;
    for _ in 0..20 {
        assert!(gateway.next_subject().await.starts_with("waiting"));
    }
    world.stop().await;
}
