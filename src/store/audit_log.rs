//! The Audit Log: every change of an organization, newest first, and what each touched.
//! Written by `change`; nothing here changes anything.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::Result;
use crate::mail::id::{AccountId, ChangeId, OrganizationId, Revision};

/// How many entries are on one page.
pub const PAGE_SIZE: i64 = 50;

/// One change as the log lists it.
#[derive(Debug, Clone)]
pub struct ListedChange {
    pub id: ChangeId,
    pub revision: Revision,
    pub committed_at: OffsetDateTime,
    /// The administrator's address, or `operator`.
    pub actor: String,
    /// What was done, such as `gateway.set`.
    pub action: String,
    pub subject: String,
    pub before: Option<String>,
    pub after: Option<String>,
    /// Who has taken it back.
    pub undone_by: Option<String>,
}

/// Which entries are asked for; `None` leaves all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub actor: Option<String>,
    pub action: Option<String>,
    /// Entries about what begins so.
    pub subject: Option<String>,
    /// Only these, such as those [`touching`] an account.
    pub changes: Option<Vec<ChangeId>>,
    pub from: Option<OffsetDateTime>,
    /// The first moment that is too late.
    pub until: Option<OffsetDateTime>,
}

/// The changes that touched an account, whatever it was called then and however many others were touched too; the
/// latest ten thousand.
pub async fn touching(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
) -> Result<Vec<ChangeId>> {
    sqlx::query_scalar!(
        r#"
        select change_id as "id: ChangeId" from change_item
        where organization_id = $1 and subject = 'account' and subject_key = $2
        order by change_id desc limit 10000
        "#,
        organization as OrganizationId,
        account.to_string(),
    )
    .fetch_all(db)
    .await
}

/// Up to `limit` entries, the newest first; with `before`, those that are older than that one.
pub async fn list(
    db: &mut PgConnection,
    organization: OrganizationId,
    filter: &Filter,
    before: Option<Revision>,
    limit: i64,
) -> Result<Vec<ListedChange>> {
    // Each question is planned by what it asks for: one plan for all of them could only read everything.
    sqlx::query!("select set_config('plan_cache_mode', 'force_custom_plan', true)").fetch_one(&mut *db).await?;
    // What begins with a text sorts from it up to it with the last of all characters behind it.
    let beyond = filter.subject.as_ref().map(|subject| format!("{subject}\u{10FFFF}"));
    sqlx::query_as!(
        ListedChange,
        r#"
        select change.id as "id: ChangeId", change.revision as "revision: Revision", change.committed_at, audit.actor,
               audit.action, audit.subject, audit.before, audit.after, by_whom.actor as "undone_by?"
        from change
        join audit_entry audit on audit.organization_id = $1 and audit.change_id = change.id
        left join change later on later.organization_id = $1 and later.undoes = change.id
        left join audit_entry by_whom on by_whom.organization_id = $1 and by_whom.change_id = later.id
        where change.organization_id = $1
          and ($2::bigint is null or change.revision < $2)
          and ($3::text is null or audit.actor = $3) and ($4::text is null or audit.action = $4)
          and ($5::text is null or audit.subject collate "C" >= $5 and audit.subject collate "C" < $6)
          and ($7::uuid[] is null or change.id = any ($7))
          and ($8::timestamptz is null or change.committed_at >= $8)
          and ($9::timestamptz is null or change.committed_at < $9)
        order by change.revision desc limit $10
        "#,
        organization as OrganizationId,
        before as Option<Revision>,
        filter.actor,
        filter.action,
        filter.subject,
        beyond,
        filter.changes.as_deref() as Option<&[ChangeId]>,
        filter.from,
        filter.until,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Who has changed anything, and what kinds of change there are: what can be asked for.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    pub actors: Vec<String>,
    pub actions: Vec<String>,
}

/// By jumping from one to the next in their indexes, so that it costs the same however long the log is.
pub async fn choices(db: &mut PgConnection, organization: OrganizationId) -> Result<Choices> {
    let row = sqlx::query!(
        r#"
        with recursive actor as (
            (select audit.actor as name from audit_entry audit where organization_id = $1 order by audit.actor limit 1)
            union all
            select (select audit.actor from audit_entry audit
                    where organization_id = $1 and audit.actor > actor.name order by audit.actor limit 1)
            from actor where actor.name is not null
        ), action as (
            (select audit.action as name from audit_entry audit where organization_id = $1 order by audit.action limit 1)
            union all
            select (select audit.action from audit_entry audit
                    where organization_id = $1 and audit.action > action.name order by audit.action limit 1)
            from action where action.name is not null
        )
        select array(select name from actor where name is not null order by name) as "actors!",
               array(select name from action where name is not null order by name) as "actions!"
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await?;
    Ok(Choices { actors: row.actors, actions: row.actions })
}

/// One thing that a change touched.
#[derive(Debug, Clone)]
pub struct Item {
    /// `organization`, `domain`, `account` or `gateway`.
    pub subject: String,
    pub key: String,
    /// What it is called now; `None` if there is no such account now.
    pub name: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The first things that a change touched, how many there are, and the addresses of the gateways in them.
#[derive(Debug, Clone, Default)]
pub struct Items {
    pub first: Vec<Item>,
    pub count: i64,
    pub gateways: BTreeMap<String, String>,
}

/// What a change of the organization touched, at most `limit` things of it.
pub async fn items(db: &mut PgConnection, organization: OrganizationId, change: ChangeId, limit: i64) -> Result<Items> {
    let first = sqlx::query_as!(
        Item,
        r#"
        select item.subject, item.subject_key as key, item.before, item.after,
               case item.subject when 'account' then (
                   select user_id from mail_account where organization_id = $1 and id = item.subject_key::uuid)
               when 'credential' then (
                   select user_name from relay_credential where organization_id = $1 and id = item.subject_key::uuid)
               when 'list' then (
                   select address from distribution_list where organization_id = $1 and id = item.subject_key::uuid)
               when 'domain' then item.subject_key
               when 'organization' then coalesce(
                   (select user_id from mail_account
                    where organization_id = $1 and id = coalesce(
                        case when item.after -> 'sending_limit' ->> 'kind' = 'account'
                             then item.after -> 'sending_limit' ->> 'subject' end,
                        item.after -> 'sender_control' ->> 'account')::uuid),
                   nullif(item.after -> 'sending_limit' ->> 'subject', '')) end as name
        from change_item item where organization_id = $1 and change_id = $2 order by position limit $3
        "#,
        organization as OrganizationId,
        change as ChangeId,
        limit,
    )
    .fetch_all(&mut *db)
    .await?;
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from change_item where organization_id = $1 and change_id = $2"#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_one(&mut *db)
    .await?;
    let pointed = first.iter().flat_map(|item| [&item.before, &item.after]).flatten();
    let ids: Vec<String> = pointed
        .flat_map(|fields| ["outbound_gateway", "pending_gateway"].map(|field| fields.get(field)))
        .filter_map(|id| id.and_then(Value::as_str).map(str::to_owned))
        .chain(first.iter().filter(|item| item.subject == "gateway").map(|item| item.key.clone()))
        .collect();
    let gateways = sqlx::query!(
        r#"select id::text as "id!", address from gateway where organization_id = $1 and id = any ($2::text[]::uuid[])"#,
        organization as OrganizationId,
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(Items { first, count, gateways: gateways.into_iter().map(|row| (row.id, row.address)).collect() })
}
