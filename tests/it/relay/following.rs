//! How a relay's memory follows the store: nothing that was saved is missed, and nothing is said
//! to be live before it is.

use std::time::Duration;

use outgate::{
    mail::id::{AccountId, RelayId, Revision},
    policy::{
        facts::{Decision, RoutingFacts},
        routing::{NextHop, PlatformDefault},
    },
    relay::{
        follow::FollowError,
        routing_table::{Knowledge, RoutingTable},
    },
    store::{
        self, OrganizationTransaction,
        change::{AuditEntry, ChangeItem, Subject},
        gateway::PointerScope,
    },
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{Installation, Tenant, following::Following, store_door::StoreDoor};

/// Where mail of a sender goes: the gateway's address, or why not.
fn way(decision: &Decision) -> String {
    match decision {
        Decision::Route(sender) => match &sender.route.next_hop {
            NextHop::Gateway(gateway) => gateway.address.to_string(),
            NextHop::Platform(_) => "platform".to_owned(),
            NextHop::Nowhere => "nowhere".to_owned(),
        },
        refused => format!("{refused:?}"),
    }
}

fn way_of(table: &RoutingTable, sender: &str) -> String {
    way(&table.decide(sender))
}

/// Changes an account by statements, as one change with one item.
async fn change_account(
    installation: &Installation,
    tenant: &Tenant,
    account: AccountId,
    statements: &[&'static str],
    before: Value,
) {
    let mut transaction = OrganizationTransaction::begin(&installation.owner, tenant.id).await.unwrap();
    for statement in statements {
        sqlx::query(*statement).bind(account.0).execute(&mut *transaction).await.unwrap();
    }
    let item = ChangeItem { subject: Subject::Account, key: account.to_string(), before: Some(before), after: None };
    let audit = AuditEntry {
        actor: "operator".into(),
        action: "account.change",
        subject: "an account".into(),
        before: None,
        after: None,
    };
    transaction.commit_change(&[item], audit).await.unwrap();
}

/// Ends every connection that relays have in this test's database.
async fn disconnect_relays(installation: &Installation) {
    let ended: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity
         where datname = current_database() and usename = 'outgate_relay'",
    )
    .fetch_all(&installation.owner)
    .await
    .unwrap();
    assert!(!ended.is_empty());
}

#[sqlx::test]
async fn a_saved_gateway_is_used_at_once_and_confirmed(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["ann.lee@acme.example"]).await;
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "platform");

    let domain = PointerScope::Domain("acme.example".parse().unwrap());
    let steps = [
        (PointerScope::Organization, "all.example"),
        (domain, "domain.example:587"),
        (PointerScope::Account(ann), "ann.example"),
        (PointerScope::Account(ann), ""),
    ];
    let ways = ["all.example", "domain.example:587", "ann.example", "domain.example:587"];
    for ((scope, address), expected) in steps.iter().zip(ways) {
        installation.set_gateway(&acme, scope, address).await;
        let live = relay.until_live(&installation).await;
        assert_eq!((live.relays, live.confirmed, live.silent.len()), (1, 1, 0));
        assert_eq!(way_of(&relay.table, "Ann.Lee+x@acme.example"), expected);
    }
    relay.stop().await;
}

#[sqlx::test]
async fn what_is_added_while_a_relay_runs_is_known(db: PgPool) {
    let installation = Installation::on(db);
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;

    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "ann.example").await;
    relay.until_live(&installation).await;

    assert_eq!(way_of(&relay.table, "ann@acme.example"), "ann.example");
    assert_eq!(way_of(&relay.table, "bob@acme.example"), "platform");
    assert_eq!(way_of(&relay.table, "ann@other.example"), "UnknownDomain");
    relay.stop().await;
}

#[sqlx::test]
async fn a_save_while_the_listening_connection_is_lost_is_followed(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;
    let id = *relay.signed_on.borrow();

    for round in 0..5 {
        disconnect_relays(&installation).await;
        let gateway = format!("gateway{round}.example");
        installation.set_gateway(&acme, &PointerScope::Organization, &gateway).await;
        relay.until_live(&installation).await;
        assert_eq!(way_of(&relay.table, "ann@acme.example"), gateway);
    }
    assert_eq!(*relay.signed_on.borrow(), id);
    relay.stop().await;
}

#[sqlx::test]
async fn mail_is_routed_on_what_is_known_while_the_store_is_away(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "all.example").await;
    let mut door = StoreDoor::before(&installation.owner);
    let relay = Following::on(door.pool_as(store::roles::RELAY), "one");
    relay.until_live(&installation).await;

    door.shut().await;
    installation.set_gateway(&acme, &PointerScope::Organization, "later.example").await;
    assert_eq!(relay.table.knowledge(std::time::Instant::now()), Knowledge::Usable);
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "all.example");
    assert_eq!(installation.live(installation.latest_revision().await).await.confirmed, 0);

    door.open();
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "later.example");
    relay.stop().await;
}

#[sqlx::test]
async fn a_relay_that_starts_without_the_store_knows_nothing_until_it_is_there(db: PgPool) {
    let installation = Installation::on(db);
    installation.organization("acme").await;
    let mut door = StoreDoor::before(&installation.owner);
    door.shut().await;

    let relay = Following::on(door.pool_as(store::roles::RELAY), "one");
    tokio::task::yield_now().await;
    assert_eq!(relay.table.knowledge(std::time::Instant::now()), Knowledge::NotLoaded);

    door.open();
    relay.until_live(&installation).await;
    assert_eq!(relay.table.knowledge(std::time::Instant::now()), Knowledge::Usable);
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "platform");
    relay.stop().await;
}

#[sqlx::test]
async fn suspended_accounts_and_organizations_are_refused_at_once(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;

    let suspend = "update mail_account set status = 'suspended' where id = $1";
    change_account(&installation, &acme, ann, &[suspend], json!({ "status": "active" })).await;
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "a@acme.example"), "AccountSuspended");

    let mut transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    sqlx::query("update organization set status = 'suspended'").execute(&mut *transaction).await.unwrap();
    let item = ChangeItem { subject: Subject::Organization, key: acme.id.to_string(), before: None, after: None };
    let audit = AuditEntry {
        actor: "operator".into(),
        action: "organization.suspend",
        subject: "acme".into(),
        before: None,
        after: None,
    };
    transaction.commit_change(&[item], audit).await.unwrap();
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "bob@acme.example"), "OrganizationSuspended");
    relay.stop().await;
}

#[sqlx::test]
async fn addresses_that_an_account_loses_lead_to_it_no_longer(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relay = Following::start(&installation, "one").await;
    // The change says which addresses there were, says something else, or says nothing.
    let befores = [json!({ "addresses": ["u@acme.example", "x@acme.example"] }), json!({ "else": "u" }), json!(1)];
    for before in befores {
        let user = installation.account(&acme, "u@acme.example", &["x@acme.example"]).await;
        installation.set_gateway(&acme, &PointerScope::Account(user), "own.example").await;
        relay.until_live(&installation).await;
        assert_eq!(way_of(&relay.table, "x@acme.example"), "own.example");

        let rename = [
            "update mail_account set user_id = 'renamed@acme.example' where id = $1",
            "delete from mail_address where account_id = $1 and address in ('u@acme.example', 'x@acme.example')",
            "insert into mail_address (organization_id, address, account_id)
             select organization_id, user_id, id from mail_account where id = $1",
        ];
        change_account(&installation, &acme, user, &rename, before.clone()).await;
        relay.until_live(&installation).await;
        assert_eq!(way_of(&relay.table, "renamed@acme.example"), "own.example");
        assert_eq!(way_of(&relay.table, "u@acme.example"), "platform");
        assert_eq!(way_of(&relay.table, "x@acme.example"), "platform");

        let before = match before {
            Value::Object(_) if before.get("addresses").is_some() => json!({ "addresses": ["renamed@acme.example"] }),
            other => other,
        };
        change_account(&installation, &acme, user, &["delete from mail_account where id = $1"], before).await;
        relay.until_live(&installation).await;
        assert_eq!(way_of(&relay.table, "renamed@acme.example"), "platform");
    }
    relay.stop().await;
}

#[sqlx::test]
async fn a_renamed_account_keeps_its_route_at_both_addresses_and_a_deleted_one_loses_it(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "ann.example").await;
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;
    let begin = async || OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();

    let new = "ann.lee@acme.example".parse().unwrap();
    store::account::rename(begin().await, ann, &new, None, "operator").await.unwrap();
    relay.until_live(&installation).await;
    for address in ["ann.lee@acme.example", "ann@acme.example", "a@acme.example"] {
        assert_eq!(way_of(&relay.table, address), "ann.example", "{address}");
    }
    store::account::set_addresses(begin().await, ann, &[], None, "operator").await.unwrap();
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "ann.lee@acme.example"), "ann.example");
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "platform");

    store::account::set_status(begin().await, ann, true, "operator").await.unwrap();
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "ann.lee@acme.example"), "AccountSuspended");
    store::account::set_status(begin().await, ann, false, "operator").await.unwrap();
    store::account::delete(begin().await, ann, None, "operator").await.unwrap();
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "ann.lee@acme.example"), "platform");
    relay.stop().await;
}

#[sqlx::test]
async fn an_alias_that_an_import_takes_away_or_moves_is_followed(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["sales@acme.example", "news@acme.example"]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "ann.example").await;
    installation.set_gateway(&acme, &PointerScope::Account(bob), "bob.example").await;
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "news@acme.example"), "ann.example");

    let file = "user_id,aliases\nann@acme.example,-\nbob@acme.example,sales@acme.example\n";
    installation.import(&acme, file, false, None).await.unwrap();
    relay.until_live(&installation).await;

    assert_eq!(way_of(&relay.table, "news@acme.example"), "platform");
    assert_eq!(way_of(&relay.table, "sales@acme.example"), "bob.example");
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "ann.example");
    relay.stop().await;
}

#[sqlx::test]
async fn a_second_relay_of_the_same_name_is_refused(db: PgPool) {
    let installation = Installation::on(db);
    let first = Following::start(&installation, "one").await;
    first.until_live(&installation).await;

    let second = Following::start(&installation, "one").await;
    let refusal = second.running.await.unwrap().unwrap_err();

    assert!(matches!(refusal, FollowError::NameTaken(_)));
    assert_eq!(
        refusal.to_string(),
        "a relay named “one” is running already; give this one another name, or stop that one first"
    );
    let third = Following::start(&installation, "two").await;
    assert_eq!(third.until_live(&installation).await.relays, 2);
    first.stop().await;
    third.stop().await;
}

#[sqlx::test]
async fn a_relay_whose_name_another_one_has_taken_over_ends(db: PgPool) {
    let installation = Installation::on(db);
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;
    // Whoever waits for the name has it as soon as the relay's connection is lost.
    let mut other = installation.owner.acquire().await.unwrap();
    let taking = tokio::spawn(async move {
        sqlx::query("select pg_advisory_lock(hashtextextended('outgate relay one', 0))")
            .execute(&mut *other)
            .await
            .unwrap();
        store::relay::sign_on(&mut *other, "one", RelayId::new(), Revision(0)).await.unwrap();
        other
    });
    let waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted
                                and database = (select oid from pg_database where datname = current_database()))";
    while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&installation.owner).await.unwrap() {}
    disconnect_relays(&installation).await;

    let _holds_the_name = taking.await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), relay.running).await.expect("it ends");
    assert!(matches!(ended.unwrap(), Err(FollowError::NameTaken(_))));
}

#[sqlx::test]
async fn a_relay_does_not_start_on_a_store_that_may_lose_what_it_has_committed(db: PgPool) {
    let installation = Installation::on(db);
    let name = (*installation.owner.connect_options()).get_database().unwrap().to_owned();
    let statement = format!("alter database \"{name}\" set synchronous_commit = off");
    sqlx::query(AssertSqlSafe(statement)).execute(&installation.owner).await.unwrap();

    let relay = Following::start(&installation, "one").await;

    let ended = tokio::time::timeout(Duration::from_secs(20), relay.running).await.expect("it ends");
    assert_eq!(
        ended.unwrap().unwrap_err().to_string(),
        "synchronous_commit is off in the store: mail that was accepted could be lost; set it to on"
    );
}

#[sqlx::test]
async fn a_store_that_has_lost_changes_is_followed_back(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "lost.example").await;
    relay.until_live(&installation).await;
    let lost = installation.latest_revision().await;

    // As after a restart from a copy that lags behind.
    sqlx::raw_sql(
        "update organization set outbound_gateway_id = null;
         delete from change_item; delete from change; delete from audit_entry; delete from gateway;
         update relay set confirmed_revision = confirmed_revision - 1;
         update installation set revision = revision - 1",
    )
    .execute(&installation.owner)
    .await
    .unwrap();
    let mut applied = relay.table.applied();
    let back = applied.wait_for(|applied| applied.is_some_and(|applied| applied < lost));
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("it goes back").unwrap();
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "platform");

    installation.set_gateway(&acme, &PointerScope::Organization, "new.example").await;
    relay.until_live(&installation).await;
    assert_eq!(way_of(&relay.table, "ann@acme.example"), "new.example");
    relay.stop().await;
}

#[sqlx::test]
async fn a_killed_relay_comes_back_under_its_name(db: PgPool) {
    let installation = Installation::on(db);
    let killed = Following::start(&installation, "one").await;
    killed.until_live(&installation).await;
    let id = *killed.signed_on.borrow();
    killed.running.abort();

    let back = Following::start(&installation, "one").await;
    assert_eq!(back.until_live(&installation).await.relays, 1);
    assert_eq!(*back.signed_on.borrow(), id);
    back.stop().await;
}

#[sqlx::test]
async fn a_relay_that_stopped_is_not_waited_for_and_one_that_vanished_is(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let stopped = Following::start(&installation, "stopped").await;
    stopped.until_live(&installation).await;
    stopped.stop().await;
    let vanished = Following::start(&installation, "vanished").await;
    vanished.until_live(&installation).await;
    vanished.running.abort();
    assert!(vanished.running.await.unwrap_err().is_cancelled());
    sqlx::query("update relay set last_seen_at = now() - interval '61 s'").execute(&installation.owner).await.unwrap();

    installation.set_gateway(&acme, &PointerScope::Organization, "all.example").await;

    let latest = installation.latest_revision().await;
    let live = installation.live(latest).await;
    assert_eq!((live.relays, live.confirmed, live.silent.len()), (1, 0, 1));
    let relays = store::relay::list(&installation.owner).await.unwrap();
    let shown: Vec<_> =
        relays.iter().map(|relay| (relay.name.as_str(), relay.signed_off_at.is_some(), relay.silent)).collect();
    assert_eq!(shown, [("stopped", true, false), ("vanished", false, true)]);

    assert!(store::relay::forget(&installation.owner, "vanished").await.unwrap());
    assert!(!store::relay::forget(&installation.owner, "vanished").await.unwrap());
    assert_eq!(installation.live(latest).await.relays, 0);
}

#[sqlx::test]
async fn relays_know_how_many_of_them_are_at_work(db: PgPool) {
    let installation = Installation::on(db);
    let one = Following::start(&installation, "one").await;
    let other = Following::start(&installation, "other").await;
    // With the next heartbeat of the first.
    tokio::time::timeout(Duration::from_secs(20), async {
        while (one.table.relays(), other.table.relays()) != (2, 2) {
            tokio::task::yield_now().await;
        }
        other.stop().await;
        while one.table.relays() != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("they hear of each other");
    one.stop().await;
}

#[sqlx::test]
async fn a_relay_that_was_forgotten_while_it_runs_counts_again(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relay = Following::start(&installation, "one").await;
    relay.until_live(&installation).await;
    let id = *relay.signed_on.borrow();

    store::relay::forget(&installation.owner, "one").await.unwrap();
    installation.set_gateway(&acme, &PointerScope::Organization, "all.example").await;

    while relay.until_live(&installation).await.relays == 0 {}
    assert_eq!(*relay.signed_on.borrow(), id);
    relay.stop().await;
}

#[sqlx::test]
async fn the_facts_of_one_sender_decide_as_all_facts_do(db: PgPool) {
    let installation = Installation::on(db);
    for slug in ["acme", "other"] {
        let tenant = installation.organization(slug).await;
        let domain = PointerScope::Domain(tenant.domain.parse().unwrap());
        let ann = installation.account(&tenant, &format!("ann@{slug}.example"), &[&format!("a@{slug}.example")]).await;
        let bob = installation.account(&tenant, &format!("bob@{slug}.example"), &[]).await;
        installation.set_gateway(&tenant, &PointerScope::Organization, "all.example").await;
        installation.set_gateway(&tenant, &PointerScope::Account(ann), "ann.example").await;
        if slug == "other" {
            installation.set_gateway(&tenant, &domain, "domain.example").await;
            let suspend = "update mail_account set status = 'suspended' where id = $1";
            change_account(&installation, &tenant, bob, &[suspend], json!({ "status": "active" })).await;
        }
    }
    let mut db = installation.owner.acquire().await.unwrap();
    let (_, all) = store::routing_facts::load_all_across_tenants(&mut db).await.unwrap();
    let mut answers = Vec::new();
    for sender in [
        "ann@acme.example",
        "A+x@Acme.Example",
        "bob@acme.example",
        "nobody@other.example",
        "bob@other.example",
        "prvs=1a=ann@other.example",
        "srs0=x=y=other.example=ann@acme.example",
        "ann@elsewhere.example",
        "",
    ] {
        let some: RoutingFacts =
            store::routing_facts::for_sender_across_tenants(&installation.owner, sender).await.unwrap();
        let decision = some.decide(sender, &PlatformDefault::Mx);
        assert_eq!(decision, all.decide(sender, &PlatformDefault::Mx), "{sender}");
        assert!(some.address_count() <= 4, "{sender}");
        answers.push(way(&decision));
    }
    let expected = [
        "ann.example",
        "ann.example",
        "all.example",
        "domain.example",
        "AccountSuspended",
        "ann.example",
        "all.example",
        "UnknownDomain",
        "UnknownDomain",
    ];
    assert_eq!(answers, expected);
}

#[sqlx::test]
async fn when_a_relay_confirmed_what_is_kept_for_a_day(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relay = Following::start(&installation, "one").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "a.example.com").await;
    let live = relay.until_live(&installation).await;
    assert_eq!(live.confirmations.len(), 1, "{live:?}");
    assert_eq!(live.confirmations[0].relay, "one");
    assert!(live.confirmations[0].at >= live.saved_at.unwrap(), "{live:?}");

    let id = relay.signed_on.borrow().unwrap();
    let count = "select count(*) from relay_confirmation";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&installation.owner).await.unwrap();
    assert!(before >= 1);
    let pool = installation.relay_pool().await;
    store::relay::forget_confirmations(&pool, id).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&installation.owner).await.unwrap(), before);
    sqlx::query("update relay_confirmation set confirmed_at = now() - interval '25 hours'")
        .execute(&installation.owner)
        .await
        .unwrap();
    store::relay::forget_confirmations(&pool, id).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&installation.owner).await.unwrap(), 0);
    relay.stop().await;
}
