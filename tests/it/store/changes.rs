//! A change, its audit entry, its revision and one notification are one transaction.
//! What relays, pages and the audit log rely on.

use outgate::{
    mail::{GatewayAddress, id::Revision},
    store::{
        OrganizationTransaction,
        gateway::{self, PointerScope, Set},
    },
};
use sqlx::{PgPool, postgres::PgListener};

use crate::support::{Installation, Tenant};

async fn set_as_page(installation: &Installation, tenant: &Tenant, address: &str) -> Set {
    let web = installation.pool_as("outgate_web").await;
    let address: Option<GatewayAddress> = (!address.is_empty()).then(|| address.parse().unwrap());
    let transaction = OrganizationTransaction::begin(&web, tenant.id).await.unwrap();
    gateway::set(transaction, &PointerScope::Organization, address.as_ref(), "ann@acme.example").await.unwrap()
}

async fn revision(owner: &PgPool) -> i64 {
    sqlx::query_scalar("select revision from installation").fetch_one(owner).await.unwrap()
}

#[sqlx::test]
async fn a_save_takes_one_revision_writes_one_audit_entry_and_notifies_once(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let before = revision(&installation.owner).await;
    let mut listener = PgListener::connect_with(&installation.owner).await.unwrap();
    listener.listen("outgate_change").await.unwrap();

    let set = set_as_page(&installation, &acme, "Archive.Example.com:587").await;

    let Set::Changed(committed) = set else { panic!("{set:?}") };
    assert_eq!(committed.revision, Revision(before + 1));
    assert_eq!(revision(&installation.owner).await, before + 1);
    assert_eq!(listener.recv().await.unwrap().payload(), (before + 1).to_string());
    assert!(listener.next_buffered().is_none(), "one notification a change");
    let entry: (String, String, String, Option<String>, Option<String>) = sqlx::query_as(
        "select actor, action, subject, before, after from audit_entry where organization_id = $1 and change_id = $2",
    )
    .bind(acme.id.0)
    .bind(committed.id.0)
    .fetch_one(&installation.owner)
    .await
    .unwrap();
    let after = Some("archive.example.com:587".to_owned());
    assert_eq!(entry, ("ann@acme.example".into(), "gateway.set".into(), "all users".into(), None, after));
}

#[sqlx::test]
async fn saving_what_is_already_so_changes_nothing(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    set_as_page(&installation, &acme, "archive.example.com").await;
    let before = revision(&installation.owner).await;

    let again = set_as_page(&installation, &acme, "archive.example.com").await;

    assert!(matches!(again, Set::Unchanged), "{again:?}");
    assert_eq!(revision(&installation.owner).await, before);
}

#[sqlx::test]
async fn a_change_whose_audit_entry_cannot_be_written_is_no_change(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    sqlx::query("alter table audit_entry add check (actor <> 'ann@acme.example')")
        .execute(&installation.owner)
        .await
        .unwrap();
    let before = revision(&installation.owner).await;

    let web = installation.pool_as("outgate_web").await;
    let transaction = OrganizationTransaction::begin(&web, acme.id).await.unwrap();
    let address: GatewayAddress = "archive.example.com".parse().unwrap();
    let refused = gateway::set(transaction, &PointerScope::Organization, Some(&address), "ann@acme.example").await;

    assert!(refused.is_err());
    assert_eq!(revision(&installation.owner).await, before);
    let gateways: i64 =
        sqlx::query_scalar("select count(*) from gateway").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(gateways, 0);
}

#[sqlx::test]
async fn two_scopes_with_one_address_share_one_gateway(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let domain = PointerScope::Domain(acme.domain.parse().unwrap());
    installation.set_gateway(&acme, &domain, "archive.example.com:25").await;

    let gateways: i64 =
        sqlx::query_scalar("select count(*) from gateway").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(gateways, 1);
}

#[sqlx::test]
async fn revisions_are_in_the_order_of_their_commits(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let birch = installation.organization("birch").await;
    let save = |tenant: Tenant, installation: &Installation| {
        let pool = installation.owner.clone();
        async move {
            for round in 0..20 {
                let transaction = OrganizationTransaction::begin(&pool, tenant.id).await.unwrap();
                let address: GatewayAddress = format!("gw{round}.example.com").parse().unwrap();
                gateway::set(transaction, &PointerScope::Organization, Some(&address), "operator").await.unwrap();
            }
        }
    };
    tokio::join!(save(acme, &installation), save(birch, &installation));
    let out_of_order: i64 = sqlx::query_scalar(
        "select count(*) from change a join change b on a.revision < b.revision and a.committed_at > b.committed_at",
    )
    .fetch_one(&installation.owner)
    .await
    .unwrap();
    assert_eq!(out_of_order, 0);
    let (changes, last): (i64, i64) =
        sqlx::query_as("select count(*), max(revision) from change").fetch_one(&installation.owner).await.unwrap();
    assert_eq!((changes, last), (42, 42));
}
