//! Two walls between tenants, each shown to stand alone: the conditions in our statements, and
//! row level security behind them.

use std::{future::poll_fn, pin::pin, task::Poll};

use outgate::{
    mail::id::OrganizationId,
    store::{
        OrganizationTransaction,
        gateway::{self, PointerScope, Set},
    },
};
use sqlx::{AssertSqlSafe, PgPool, Row};

use crate::support::{Installation, Tenant};

/// Two organizations, each with an account and a gateway at every scope.
async fn two_tenants(installation: &Installation) -> [Tenant; 2] {
    let mut tenants = Vec::new();
    for slug in ["acme", "birch"] {
        let tenant = installation.organization(slug).await;
        let account = installation.account(&tenant, &format!("ann@{slug}.example"), &[]).await;
        installation.set_gateway(&tenant, &PointerScope::Organization, &format!("all.{slug}.example")).await;
        let domain = PointerScope::Domain(tenant.domain.parse().unwrap());
        installation.set_gateway(&tenant, &domain, &format!("domain.{slug}.example")).await;
        installation.set_gateway(&tenant, &PointerScope::Account(account), &format!("user.{slug}.example")).await;
        tenants.push(tenant);
    }
    tenants.try_into().unwrap()
}

#[sqlx::test]
async fn a_statement_that_forgot_its_condition_still_sees_one_organization_only(owner: PgPool) {
    let installation = Installation::on(owner);
    let [acme, _] = two_tenants(&installation).await;
    let web = installation.pool_as("outgate_web").await;
    for table in installation.tenant_tables().await {
        if table == "queued_body" {
            continue; // The pages' role may not read it at all.
        }
        let mut transaction = OrganizationTransaction::begin(&web, acme.id).await.unwrap();
        let rows = sqlx::query(AssertSqlSafe(format!("select organization_id from {table}")))
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
        assert!(
            rows.iter().all(|row| OrganizationId(row.get(0)) == acme.id),
            "{table} shows another organization's rows"
        );
        let outside = sqlx::query(AssertSqlSafe(format!("select organization_id from {table}"))).fetch_all(&web).await;
        assert_eq!(outside.unwrap().len(), 0, "{table} shows rows outside of an organization");
    }
}

#[sqlx::test]
async fn a_connection_that_served_one_organization_carries_nothing_to_the_next_use(owner: PgPool) {
    let installation = Installation::on(owner);
    let [acme, birch] = two_tenants(&installation).await;
    let options = (*installation.owner.connect_options()).clone().username("outgate_web");
    let one_connection = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    for round in 0..50 {
        let (tenant, other) = if round % 2 == 0 { (&acme, &birch) } else { (&birch, &acme) };
        let mut transaction = OrganizationTransaction::begin(&one_connection, tenant.id).await.unwrap();
        let seen: Vec<String> =
            sqlx::query_scalar("select user_id from mail_account").fetch_all(&mut *transaction).await.unwrap();
        assert_eq!(seen, [format!("ann@{}", tenant.domain)]);
        assert!(!seen[0].contains(&other.domain));
        // Dropped in the middle, as when a browser goes away.
        drop(transaction);
        let outside: i64 =
            sqlx::query_scalar("select count(*) from mail_account").fetch_one(&one_connection).await.unwrap();
        assert_eq!(outside, 0);
    }
}

#[sqlx::test]
async fn a_transaction_that_is_given_up_while_it_begins_is_not_left_open(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let options = (*installation.owner.connect_options()).clone().username("outgate_web");
    let one_connection = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    for polls in 0..12 {
        // As when a browser goes away, earlier or later.
        given_up_after(polls, OrganizationTransaction::begin(&one_connection, acme.id)).await;
        let left_behind: Option<String> = sqlx::query_scalar("select current_setting('outgate.organization', true)")
            .fetch_one(&one_connection)
            .await
            .unwrap();
        assert_eq!(left_behind.unwrap_or_default(), "", "given up after {polls} steps");
    }
}

async fn given_up_after<T>(polls: usize, future: impl Future<Output = T>) {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        future.as_mut().poll(context).map(drop)
    })
    .await;
}

#[sqlx::test]
async fn without_row_level_security_the_conditions_alone_keep_tenants_apart(owner: PgPool) {
    let installation = Installation::on(owner);
    let [acme, birch] = two_tenants(&installation).await;
    for table in installation.tenant_tables().await.iter().map(String::as_str).chain(["organization"]) {
        let statement = format!("alter table {table} disable row level security");
        sqlx::query(AssertSqlSafe(statement)).execute(&installation.owner).await.unwrap();
    }
    assert_apart(&installation, &acme, &birch).await;
}

#[sqlx::test]
async fn with_row_level_security_nothing_of_another_organization_can_be_read_or_set(owner: PgPool) {
    let installation = Installation::on(owner);
    let [acme, birch] = two_tenants(&installation).await;
    assert_apart(&installation, &acme, &birch).await;
}

/// Acts in one organization with the other's ids: nothing is found and nothing changes.
async fn assert_apart(installation: &Installation, acme: &Tenant, birch: &Tenant) {
    let web = installation.pool_as("outgate_web").await;
    let foreign_account = outgate::mail::id::AccountId(
        sqlx::query_scalar("select id from mail_account where organization_id = $1")
            .bind(birch.id.0)
            .fetch_one(&installation.owner)
            .await
            .unwrap(),
    );
    let before = installation.everything_of(birch).await;
    for scope in [PointerScope::Account(foreign_account), PointerScope::Domain(birch.domain.parse().unwrap())] {
        let mut transaction = OrganizationTransaction::begin(&web, acme.id).await.unwrap();
        let read = gateway::pointer(&mut transaction, acme.id, &scope).await.unwrap();
        assert!(read.is_none(), "{scope:?} was read: {read:?}");
        let address = "thief.acme.example".parse().unwrap();
        let set = gateway::set(transaction, &scope, Some(&address), "mallory@acme.example").await.unwrap();
        assert!(matches!(set, Set::NotFound), "{scope:?}: {set:?}");
    }
    let mut transaction = OrganizationTransaction::begin(&web, acme.id).await.unwrap();
    let known = gateway::known_addresses(&mut transaction, acme.id).await.unwrap();
    assert!(known.iter().all(|address| address.to_string().ends_with("acme.example")), "{known:?}");
    drop(transaction);
    assert_eq!(installation.everything_of(birch).await, before);
}
