//! Reads the database's catalogue and holds the schema's rule true: in every tenant table the
//! organization comes first, and row level security is enabled and forced.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, PgPool};

/// Tables that are no tenant's. Row level security is forced on them all the same.
const INSTALLATION_WIDE: [&str; 12] = [
    "administrator",
    "deleted_organization",
    "installation",
    "organization",
    "platform_limit",
    "relay",
    "relay_confirmation",
    "secret_key",
    "session",
    "sign_in_failure",
    "token_key",
    "volume_batch",
];

/// Unique keys that do not begin with the organization, each with its reason.
const UNIQUE_ACROSS_TENANTS: [&str; 3] = [
    // A mail domain has one owner; only the operator adds domains.
    "mail_domain.name",
    // Revisions are numbered over the whole installation; nobody chooses one.
    "change.revision",
    // What clients sign in with. Made by us; nobody chooses one.
    "relay_credential.user_name",
];

/// Functions that run as the owner: the reads before an organization is known, the search, whose index is not
/// used behind row level security, whom relays tell how gateways do, and whose gateways go live by themselves.
const SECURITY_DEFINER: [&str; 7] = [
    "accounts_found",
    "administrator_access",
    "administrator_signing_in",
    "administrators_to_tell",
    "organizations_with_pending_gateway",
    "signed_in",
    "signed_in_and_failing",
];

#[sqlx::test]
async fn every_table_view_function_and_foreign_key_keeps_the_rule(owner: PgPool) {
    assert_eq!(violations(&owner).await, Vec::<String>::new());
}

#[sqlx::test]
async fn the_front_doors_roles_own_nothing_and_bypass_nothing(owner: PgPool) {
    let strong: Vec<String> = sqlx::query_scalar(
        "select rolname::text from pg_roles where rolname in ('outgate_web', 'outgate_relay')
         and (rolsuper or rolbypassrls or rolcreatedb or rolcreaterole or rolreplication)",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    assert_eq!(strong, Vec::<String>::new());
    let owned: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class join pg_roles on pg_roles.oid = relowner
         where rolname in ('outgate_web', 'outgate_relay')",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    assert_eq!(owned, Vec::<String>::new());
    let excessive: Vec<String> = sqlx::query_scalar(
        "select grantee || ' may ' || privilege_type || ' ' || table_name from information_schema.table_privileges
         where table_schema = 'public'
           and (grantee = 'PUBLIC' or privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER') and grantee like 'outgate_%'
                or grantee = 'outgate_web' and table_name in ('administrator', 'queued_body')
                or grantee = 'outgate_web' and privilege_type in ('UPDATE', 'DELETE')
                   and table_name in ('audit_entry', 'change', 'change_item', 'gateway_revision', 'gateway_secret')
                or grantee = 'outgate_web' and privilege_type = 'SELECT' and table_name = 'gateway_secret'
                or grantee = 'outgate_relay' and table_name in ('administrator', 'administrator_role', 'audit_entry', 'session'))
           and grantee <> (select current_user)",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    assert_eq!(excessive, Vec::<String>::new());
    let columns: Vec<String> = sqlx::query_scalar(
        "select privilege_type || ' ' || column_name from information_schema.column_privileges
         where table_name = 'gateway_secret' and (grantee = 'outgate_web' and privilege_type <> 'INSERT'
                or grantee = 'outgate_relay' and privilege_type <> 'SELECT') order by 1",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    // The pages see that there is a password, the relays seal it anew.
    let expected = ["SELECT gateway_id", "SELECT id", "SELECT organization_id", "SELECT set_at", "UPDATE sealed"];
    assert_eq!(columns, expected);
}

#[sqlx::test]
async fn nothing_that_a_large_change_writes_is_checked_while_it_holds_the_lock_of_all_changes(owner: PgPool) {
    let deferred: Vec<String> = sqlx::query_scalar("select conname::text from pg_constraint where condeferrable")
        .fetch_all(&owner)
        .await
        .unwrap();
    assert_eq!(deferred, ["gateway_current_revision"]);
}

#[sqlx::test]
async fn the_catalogue_test_notices_every_way_to_break_the_rule(owner: PgPool) {
    let ways = [
        ("drop policy web on mail_account", "mail_account has no policy for outgate_web"),
        ("alter table gateway disable row level security", "gateway does not force row level security"),
        ("alter table gateway no force row level security", "gateway does not force row level security"),
        (
            "create table note (id uuid primary key, body text)",
            "note does not begin its primary key with organization_id",
        ),
        (
            "create policy web_all on mail_account to outgate_web using (true)",
            "the policy web_all on mail_account does not ask for the organization",
        ),
        ("create policy everybody on gateway using (true)", "the policy everybody on gateway is for everybody"),
        ("create view every_account as select * from mail_account", "every_account is a view without security_invoker"),
        ("create materialized view all_accounts as select * from mail_account", "all_accounts is a materialized view"),
        (
            "create function peek() returns bigint language sql security definer as 'select count(*) from mail_account'",
            "peek runs as its owner",
        ),
        ("create unique index on mail_account (user_id)", "mail_account.user_id is unique across tenants"),
        (
            "create unique index gateway_id on gateway (id);
             alter table mail_account add foreign key (outbound_gateway_id) references gateway (id)",
            "mail_account has a foreign key without organization_id",
        ),
    ];
    for (way, noticed) in ways {
        sqlx::raw_sql(AssertSqlSafe(format!("create schema aside; begin; {way}; commit")))
            .execute(&owner)
            .await
            .unwrap();
        let found = violations(&owner).await;
        assert!(found.iter().any(|violation| violation.contains(noticed)), "after “{way}”: {found:?}");
        reset(&owner).await;
    }
}

/// Puts the schema back as the migrations make it.
async fn reset(owner: &PgPool) {
    sqlx::raw_sql("drop schema public cascade; drop schema aside; create schema public").execute(owner).await.unwrap();
    outgate::store::MIGRATOR.run(owner).await.unwrap();
}

async fn violations(owner: &PgPool) -> Vec<String> {
    let mut found = Vec::new();
    for part in [tables(owner).await, policies(owner).await, unique_keys(owner).await, foreign_keys(owner).await] {
        found.extend(part);
    }
    found.extend(views_and_functions(owner).await);
    found
}

async fn tables(owner: &PgPool) -> Vec<String> {
    let rows: Vec<(String, bool, Option<String>, bool)> = sqlx::query_as(
        "select c.relname::text, c.relrowsecurity and c.relforcerowsecurity,
                (select a.attname::text from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
                 where i.indrelid = c.oid and i.indisprimary),
                exists (select from pg_policies p where p.tablename = c.relname and 'outgate_web' = any (p.roles))
         from pg_class c
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname <> '_sqlx_migrations'",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    assert!(rows.len() >= 10, "the catalogue was read: {rows:?}");
    let known: BTreeSet<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    let mut found: Vec<String> = INSTALLATION_WIDE
        .iter()
        .filter(|table| !known.contains(*table))
        .map(|table| format!("{table} is gone"))
        .collect();
    for (table, forced, first_key, for_web) in rows {
        if !forced {
            found.push(format!("{table} does not force row level security"));
        }
        if INSTALLATION_WIDE.contains(&table.as_str()) {
            continue;
        }
        if first_key.as_deref() != Some("organization_id") {
            found.push(format!("{table} does not begin its primary key with organization_id"));
        }
        if !for_web {
            found.push(format!("{table} has no policy for outgate_web"));
        }
    }
    found
}

async fn policies(owner: &PgPool) -> Vec<String> {
    type Policy = (String, String, Vec<String>, String, Option<String>, Option<String>);
    let rows: Vec<Policy> = sqlx::query_as(
        "select tablename::text, policyname::text, roles::text[], cmd, qual, with_check from pg_policies where schemaname = 'public'",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    let mut found = Vec::new();
    for (table, policy, roles, command, using, check) in rows {
        if roles.iter().any(|role| role == "public") {
            found.push(format!("the policy {policy} on {table} is for everybody"));
        }
        let asks = |expression: Option<&str>| expression.is_some_and(|text| text.contains("current_organization()"));
        let tenant = table == "organization" || !INSTALLATION_WIDE.contains(&table.as_str());
        let asked = asks(using.as_deref()) && (command == "SELECT" || asks(check.as_deref()));
        if tenant && roles.iter().any(|role| role == "outgate_web") && !asked {
            found.push(format!("the policy {policy} on {table} does not ask for the organization"));
        }
    }
    found
}

async fn unique_keys(owner: &PgPool) -> Vec<String> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select c.relname::text, a.attname::text
         from pg_index i
         join pg_class c on c.oid = i.indrelid
         join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
         where c.relnamespace = 'public'::regnamespace and i.indisunique and c.relname <> '_sqlx_migrations'",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    rows.into_iter()
        .filter(|(table, column)| column != "organization_id" && !INSTALLATION_WIDE.contains(&table.as_str()))
        .map(|(table, column)| format!("{table}.{column}"))
        .filter(|key| !UNIQUE_ACROSS_TENANTS.contains(&key.as_str()))
        .map(|key| format!("{key} is unique across tenants"))
        .collect()
}

async fn foreign_keys(owner: &PgPool) -> Vec<String> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "select c.conrelid::regclass::text, c.confrelid::regclass::text,
                (select a.attname::text from pg_attribute a where a.attrelid = c.conrelid and a.attnum = c.conkey[1])
         from pg_constraint c where c.contype = 'f' and c.connamespace = 'public'::regnamespace",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    rows.into_iter()
        .filter(|(from, to, first)| {
            let within_a_tenant = !INSTALLATION_WIDE.contains(&to.as_str());
            // An organization's own row is the tenant: its id is the organization.
            within_a_tenant && first != "organization_id" && !(from == "organization" && first == "id")
        })
        .map(|(from, to, _)| format!("{from} has a foreign key without organization_id to {to}"))
        .collect()
}

async fn views_and_functions(owner: &PgPool) -> Vec<String> {
    let views: Vec<(String, String, bool)> = sqlx::query_as(
        "select relname::text, relkind::text, coalesce('security_invoker=true' = any (reloptions), false)
         from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm')",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    let functions: Vec<(String, bool, bool)> = sqlx::query_as(
        "select proname::text, coalesce(array_to_string(proconfig, ',') like 'search_path=%', false),
                has_function_privilege('public', oid, 'execute')
         from pg_proc where pronamespace = 'public'::regnamespace and prosecdef",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    let views = views.into_iter().filter_map(|(view, kind, invoker)| match kind.as_str() {
        "m" => Some(format!("{view} is a materialized view")),
        _ if !invoker => Some(format!("{view} is a view without security_invoker")),
        _ => None,
    });
    let functions = functions.into_iter().filter_map(|(function, search_path, public)| {
        let listed = SECURITY_DEFINER.contains(&function.as_str());
        (!listed || !search_path || public).then(|| format!("{function} runs as its owner"))
    });
    views.chain(functions).collect()
}
