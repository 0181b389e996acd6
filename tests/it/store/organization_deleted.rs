//! An organization that the operator deletes: nothing of it is left in any table, nothing of another's is touched, and
//! no mail that was accepted is lost by it.

use std::collections::BTreeSet;

use outgate::{
    policy::{Role, relay_credential::Limits},
    store::{self, OrganizationTransaction, gateway::PointerScope},
};
use sqlx::{AssertSqlSafe, PgPool};
use time::OffsetDateTime;

use crate::{
    support::{
        Installation, SmtpClient, Tenant,
        outgate::Outgate,
        world::{World, until_live},
    },
    web::{distribution_list, message_trace},
};

const DELETE: [&str; 5] = ["organization", "delete", "acme", "--confirm", "acme"];

/// As if the organization had been suspended two hours ago.
async fn two_hours_later(owner: &PgPool) {
    sqlx::query("update change set committed_at = committed_at - interval '2 hours'").execute(owner).await.unwrap();
}

/// What an organization has after a while, made by commands and pages' own functions.
async fn furnish(installation: &Installation, tenant: &Tenant) {
    let slug = &tenant.slug;
    let ann = installation.account(tenant, &format!("ann@{slug}.example"), &[&format!("a@{slug}.example")]).await;
    for (scope, host) in [
        (PointerScope::Organization, "all"),
        (PointerScope::Domain(tenant.domain.parse().unwrap()), "domain"),
        (PointerScope::Account(ann), "user"),
    ] {
        installation.set_gateway(tenant, &scope, &format!("{host}.{slug}.example")).await;
    }
    installation.set_gateway(tenant, &PointerScope::Account(ann), "").await;
    installation.administrator(tenant, &format!("admin@{slug}.example"), "unusable", Role::Administrator).await;
    installation.credential(tenant, Limits::default()).await;
    let terms = distribution_list::of(&["bob@far.example"]);
    installation.list(tenant, &format!("all@{slug}.example"), terms).await;
    let file = format!("user_id,name,outbound_gateway\nbea@{slug}.example,Bea,bea.example.com\n");
    installation.staged_import(tenant, &file).await;
}

/// A row in every table that has none of this organization, whatever the table says about rows. A table that is added
/// later gets one too.
async fn fill(owner: &PgPool, tenant: &Tenant, tables: &[String]) {
    let mut connection = owner.acquire().await.unwrap();
    sqlx::query("set session_replication_role = replica").execute(&mut *connection).await.unwrap();
    let checks = "select format('alter table %s drop constraint %I', conrelid::regclass, conname) from pg_constraint
                  where contype = 'c' and connamespace = 'public'::regnamespace";
    let checks: Vec<String> = sqlx::query_scalar(checks).fetch_all(&mut *connection).await.unwrap();
    for statement in checks {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await.unwrap();
    }
    for table in tables.iter().map(String::as_str) {
        if count(owner, table, tenant).await > 0 {
            continue;
        }
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select quote_ident(attname), format_type(atttypid, null) from pg_attribute
             where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''
               and attidentity = '' and attname <> 'organization_id' and attnotnull and not atthasdef order by attnum",
        )
        .bind(table)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        let values: Vec<String> = columns.iter().map(|(column, kind)| value(table, column, kind)).collect();
        let names: Vec<&str> = columns.iter().map(|(column, _)| column.as_str()).collect();
        let (names, values) = (with_commas(&names), with_commas(&values));
        let statement = format!("insert into {table} (organization_id {names}) values ($1 {values})");
        let inserted = sqlx::query(AssertSqlSafe(statement)).bind(tenant.id.0).execute(&mut *connection).await;
        inserted.unwrap_or_else(|error| panic!("{table} cannot be filled: {error}"));
    }
    sqlx::query("reset session_replication_role").execute(&mut *connection).await.unwrap();
}

fn with_commas(words: &[impl AsRef<str>]) -> String {
    words.iter().map(|word| format!(", {}", word.as_ref())).collect()
}

/// Something that a column of this type can have.
fn value(table: &str, column: &str, kind: &str) -> String {
    match kind {
        "uuid" => "gen_random_uuid()",
        "text" => "gen_random_uuid()::text",
        "smallint" => "1",
        // Revisions are unique over all organizations.
        "bigint" | "integer" => "floor(random() * 1000000000)",
        "boolean" => "false",
        "timestamp with time zone" => "now()",
        "bytea" => "sha256(gen_random_uuid()::text::bytea)",
        "jsonb" => "'{}'",
        "tsvector" => "''",
        _ if kind.ends_with("[]") => "'{}'",
        _ => panic!("{table}.{column} is a {kind}: say here what one looks like"),
    }
    .to_owned()
}

async fn count(owner: &PgPool, table: &str, tenant: &Tenant) -> i64 {
    let statement = format!("select count(*) from {table} where organization_id = $1");
    sqlx::query_scalar(AssertSqlSafe(statement)).bind(tenant.id.0).fetch_one(owner).await.unwrap()
}

/// The rows of the tables that belong to no organization, and of organizations.
async fn everybodys(owner: &PgPool) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for table in ["organization", "administrator", "session"] {
        let statement = format!("select '{table} ' || to_jsonb(t)::text from {table} t");
        rows.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(statement)).fetch_all(owner).await.unwrap());
    }
    rows
}

#[sqlx::test]
async fn nothing_is_left_of_it_in_any_table_and_nothing_of_anothers_is_touched(owner: PgPool) {
    let (installation, outgate) = (Installation::on(owner.clone()), Outgate::on(&owner));
    let (acme, birch) = (installation.organization("acme").await, installation.organization("birch").await);
    for tenant in [&acme, &birch] {
        furnish(&installation, tenant).await;
    }
    // One of birch's administrators is acme's as well.
    sqlx::query(
        "insert into administrator_role (organization_id, administrator_id, role)
                 select $1, administrator_id, role from administrator_role where organization_id = $2",
    )
    .bind(acme.id.0)
    .bind(birch.id.0)
    .execute(&owner)
    .await
    .unwrap();
    outgate.succeeds(&["organization", "suspend", "acme"]).await;
    two_hours_later(&owner).await;
    let tables = installation.tenant_tables().await;
    for tenant in [&acme, &birch] {
        fill(&owner, tenant, &tables).await;
        for table in &tables {
            assert!(count(&owner, table, tenant).await > 0, "{table} has nothing of {}", tenant.slug);
        }
    }
    let (of_birch, of_all) = (installation.everything_of(&birch).await, everybodys(&owner).await);

    assert!(outgate.run(&DELETE).await.refusal().starts_with("acme has 1 message waiting, and nothing that was"));
    sqlx::query("delete from queued_message where organization_id = $1").bind(acme.id.0).execute(&owner).await.unwrap();
    let said = outgate.succeeds(&DELETE).await;
    assert!(said.starts_with("acme is deleted for good, with its audit log, message trace and volume."), "{said}");
    for words in ["Free for others: acme.example. Administrators deleted: 1.", "mail_account 1, ", "message_trace 1, "]
    {
        assert!(said.contains(words), "{words}: {said}");
    }

    // A relay may still have a line of it to write down, beside those of others.
    let gateway = installation.gateway_of(&birch, "all.birch.example").await;
    let line = message_trace::handed_over(OffsetDateTime::now_utc(), "ann@acme.example", &["b@x.example"], gateway);
    message_trace::write_down(&installation, acme.id, &[line]).await;
    for table in &tables {
        assert_eq!(count(&owner, table, &acme).await, 0, "{table}");
    }
    assert_eq!(installation.everything_of(&birch).await, of_birch);
    let gone: Vec<String> = of_all.difference(&everybodys(&owner).await).cloned().collect();
    let is_acmes = |row: &String| row.contains("admin@acme.example") || row.contains(&acme.id.to_string());
    assert!(gone.len() == 2 && gone.iter().all(is_acmes), "{gone:?}");
    let remembered = outgate.succeeds(&["organization", "deleted"]).await;
    assert!(
        remembered.starts_with("acme\tacme\t") && remembered.contains("\tby operator\tacme.example\t"),
        "{remembered}"
    );
    outgate.succeeds(&["organization", "create", "acme", "--name", "Another", "--domain", "acme.example"]).await;
    assert!(outgate.run(&DELETE).await.refusal().starts_with("acme is not suspended"));
}

#[sqlx::test]
async fn it_is_refused_as_long_as_mail_could_be_lost_or_nobody_is_certain(owner: PgPool) {
    let (installation, outgate) = (Installation::on(owner.clone()), Outgate::on(&owner));
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    let refusal = async |command: &[&str]| outgate.run(command).await.refusal().to_owned();
    let before = installation.everything_of(&acme).await;
    let nobody = ["organization", "delete", "nobody", "--confirm", "nobody"];
    assert_eq!(refusal(&nobody).await, "there is no organization “nobody”");
    assert_eq!(refusal(&DELETE).await, "acme is not suspended: suspend it first, and delete it an hour later");
    assert_eq!(installation.everything_of(&acme).await, before);

    // A relay that was cut off before the suspension.
    let relay = outgate::mail::id::RelayId::new();
    store::relay::sign_on(&owner, "far", relay, outgate::mail::id::Revision(0)).await.unwrap();
    outgate.succeeds(&["organization", "suspend", "acme"]).await;
    assert!(refusal(&DELETE).await.starts_with("the relay far has not confirmed that acme is suspended: start it"));
    outgate.succeeds(&["relay", "forget", "far"]).await;
    assert!(refusal(&DELETE).await.starts_with("acme was suspended a moment ago, and mail that was under way"));
    two_hours_later(&owner).await;
    installation.message(&acme, None, None, None, Some("gateway-taken-away")).await;
    assert!(refusal(&DELETE).await.starts_with("acme has 1 message waiting"));
    sqlx::query("delete from queued_message").execute(&owner).await.unwrap();

    let before = installation.everything_of(&acme).await;
    let unconfirmed = refusal(&DELETE[..3]).await;
    assert_eq!(
        unconfirmed,
        "nothing was deleted: to delete acme (acme.example) for good, with its audit log, message trace and volume, \
         say --confirm acme"
    );
    let mistyped = refusal(&["organization", "delete", "acme", "--confirm", "acne"]).await;
    assert_eq!(mistyped, "--confirm says acne, not acme: nothing was deleted");
    assert_eq!(installation.everything_of(&acme).await, before);
    assert_eq!(outgate.succeeds(&["organization", "deleted"]).await, "No organization was deleted.\n");
    outgate.succeeds(&DELETE).await;
}

#[sqlx::test]
async fn running_relays_forget_it_and_its_addresses_and_mail_of_others_flows(owner: PgPool) {
    let (installation, outgate) = (Installation::on(owner.clone()), Outgate::on(&owner));
    let (acme, birch) = (installation.organization("acme").await, installation.organization("birch").await);
    installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&birch, "bea@birch.example", &[]).await;
    let world = World::start(&installation).await;
    let live = async || until_live(&installation, installation.latest_revision().await).await;
    let mut smtp = SmtpClient::greeted(world.submission).await;
    let content = "Subject: hello\r\n\r\nHello.\r\n";
    assert!(smtp.submit("ann@acme.example", "bob@elsewhere.example", content).await.starts_with("250"));
    outgate.succeeds(&["organization", "suspend", "acme"]).await;
    live().await;
    two_hours_later(&owner).await;
    outgate.succeeds(&DELETE).await;
    live().await;

    let mut smtp = SmtpClient::greeted(world.submission).await;
    let sends = async |smtp: &mut SmtpClient, from: &str| {
        let reply = smtp.say(&format!("MAIL FROM:<{from}>")).await;
        smtp.say("RSET").await;
        reply
    };
    let reply = sends(&mut smtp, "ann@acme.example").await;
    assert!(reply.starts_with("550 5.7.1"), "{reply}");
    // The domain is another's now, who takes no mail from addresses that no account has.
    let domains = ["acme.example".parse().unwrap()];
    let id = store::organization::create(&owner, &"next".parse().unwrap(), "Next", &domains).await.unwrap();
    let next = Tenant { id, slug: "next".to_owned(), domain: acme.domain };
    installation.account(&next, "nia@acme.example", &[]).await;
    let transaction = OrganizationTransaction::begin(&owner, next.id).await.unwrap();
    store::organization::set_unknown_senders(transaction, true, "operator").await.unwrap();
    live().await;
    for (sender, reply) in [("ann@acme.example", "550"), ("nia@acme.example", "250"), ("bea@birch.example", "250")] {
        let said = sends(&mut smtp, sender).await;
        assert!(said.starts_with(reply), "{sender}: {said}");
    }
    let reply = smtp.submit("bea@birch.example", "bob@elsewhere.example", content).await;
    assert!(reply.starts_with("250"), "{reply}");
    world.stop().await;
    let traced = "select count(*) from message_trace where organization_id = $1";
    let traced: i64 = sqlx::query_scalar(traced).bind(birch.id.0).fetch_one(&owner).await.unwrap();
    assert!(traced > 0, "what happened to birch's mail is written down, whatever the relay knew of acme's");
}
