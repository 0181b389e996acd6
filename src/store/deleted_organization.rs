//! Deletes an organization with every row that is its own, and keeps what is to be known of it afterwards.
//! Which tables there are is read from the catalogue, so that one that is added later is not forgotten.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor};
use time::{Duration, OffsetDateTime};

use super::{OrganizationTransaction, Result};
use crate::mail::id::{OrganizationId, Revision};

/// For so long an organization has been suspended before it is deleted. What relays had under way by then has come to
/// its end: they wait ten minutes for the answer to a message, and longer only for very large ones to be sent.
pub const SUSPENDED_FOR: Duration = Duration::HOUR;

/// Why an organization cannot be deleted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    NotSuspended,
    /// What was under way then may still come to wait; from when on it may be deleted.
    JustSuspended(OffsetDateTime),
    /// This relay may still take mail by what it knew before.
    NotConfirmed(String),
    /// So many messages wait.
    MailWaits(i64),
}

/// An organization that may be deleted. Its row is locked, so that nothing is added to it.
pub struct Deletable {
    transaction: OrganizationTransaction,
    slug: String,
    name: String,
    domains: Vec<String>,
}

impl Deletable {
    pub fn domains(&self) -> &[String] {
        &self.domains
    }
}

/// What is deleted: how many rows of each table there were.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// By table; those without any are left out.
    pub rows: BTreeMap<String, u64>,
    /// Administrators who had no other organization.
    pub administrators: u64,
    pub revision: Revision,
}

/// Looks whether the organization of the transaction may be deleted. For the operator.
pub async fn look(mut transaction: OrganizationTransaction) -> Result<Result<Deletable, Obstacle>> {
    let organization = transaction.organization();
    let row = sqlx::query!(
        r#"
        select slug, name, status = 'suspended' as "suspended!" from organization where id = $1 for update
        "#,
        organization as OrganizationId,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !row.suspended {
        return Ok(Err(Obstacle::NotSuspended));
    }
    if let Some(obstacle) = accepts_mail(&mut transaction, organization).await? {
        return Ok(Err(obstacle));
    }
    let waiting = sqlx::query_scalar!(
        r#"select count(*) as "count!" from queued_message where organization_id = $1"#,
        organization as OrganizationId,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if waiting > 0 {
        return Ok(Err(Obstacle::MailWaits(waiting)));
    }
    let domains = sqlx::query_scalar!(
        "select name from mail_domain where organization_id = $1 order by name",
        organization as OrganizationId,
    )
    .fetch_all(&mut *transaction)
    .await?;
    Ok(Ok(Deletable { transaction, slug: row.slug, name: row.name, domains }))
}

/// Why mail of a suspended organization may still come to wait.
async fn accepts_mail(db: &mut PgConnection, organization: OrganizationId) -> Result<Option<Obstacle>> {
    let suspended = sqlx::query!(
        r#"
        select change.revision as "revision: Revision", change.committed_at, now() as "now!"
        from audit_entry
        join change on change.organization_id = audit_entry.organization_id and change.id = audit_entry.change_id
        where audit_entry.organization_id = $1 and audit_entry.action = 'organization.suspend'
        order by change.revision desc limit 1
        "#,
        organization as OrganizationId,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(suspended) = suspended else { return Ok(Some(Obstacle::NotSuspended)) };
    let behind = sqlx::query_scalar!(
        "select name from relay where signed_off_at is null and confirmed_revision < $1 order by name limit 1",
        suspended.revision as Revision,
    )
    .fetch_optional(db)
    .await?;
    if let Some(relay) = behind {
        return Ok(Some(Obstacle::NotConfirmed(relay)));
    }
    let from = suspended.committed_at + SUSPENDED_FOR;
    Ok((suspended.now < from).then_some(Obstacle::JustSuspended(from)))
}

/// Deletes it with all that is its own, as one change: audit log, message trace and volume too, and administrators who
/// have no other organization. Its mail domains are free for others afterwards.
pub async fn delete(deletable: Deletable, actor: &str) -> Result<Deleted> {
    let Deletable { mut transaction, slug, name, domains } = deletable;
    let organization = transaction.organization();
    let administrators = sqlx::query!(
        r#"
        delete from administrator
        where id in (select administrator_id from administrator_role where organization_id = $1)
          and not exists (select from administrator_role other
                          where other.administrator_id = administrator.id and other.organization_id <> $1)
        "#,
        organization as OrganizationId,
    )
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    // Its own row is the last one, and points at gateways.
    sqlx::query!(
        "update organization set outbound_gateway_id = null, pending_gateway_id = null where id = $1",
        organization as OrganizationId,
    )
    .execute(&mut *transaction)
    .await?;
    let mut rows = BTreeMap::new();
    for table in tables(&mut transaction).await? {
        // The name is the catalogue's own, quoted where it has to be.
        let statement = AssertSqlSafe(format!("delete from {table} where organization_id = $1"));
        let deleted = sqlx::query(statement).bind(organization).execute(&mut *transaction).await?.rows_affected();
        if deleted > 0 {
            rows.insert(table, deleted);
        }
    }
    sqlx::query!("delete from organization where id = $1", organization as OrganizationId)
        .execute(&mut *transaction)
        .await?;
    let counts = json!({ "administrators": administrators, "rows": rows });
    let revision = sqlx::query_scalar!(
        r#"
        with taken as (
            update installation set revision = revision + 1 returning revision
        ), kept as (
            insert into deleted_organization (id, slug, name, domains, deleted, actor, revision)
            select $1, $2, $3, $4, $5, $6, revision from taken
            returning revision
        )
        select revision as "revision!: Revision" from kept, pg_notify('outgate_change', kept.revision::text)
        "#,
        organization as OrganizationId,
        slug,
        name,
        &domains,
        counts,
        actor,
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Deleted { rows, administrators, revision })
}

/// Every table whose rows belong to organizations, those first whose rows point at others'.
async fn tables(db: &mut PgConnection) -> Result<Vec<String>> {
    let mut left: BTreeSet<String> = sqlx::query_scalar!(
        r#"
        select c.oid::regclass::text as "name!"
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
        "#,
    )
    .fetch_all(&mut *db)
    .await?
    .into_iter()
    .collect();
    // Those that are looked at when the transaction commits are in nobody's way.
    let mut keys: Vec<(String, String)> = sqlx::query!(
        r#"
        select conrelid::regclass::text as "from!", confrelid::regclass::text as "to!" from pg_constraint
        where contype = 'f' and not condeferred and conrelid <> confrelid
        "#,
    )
    .map(|key| (key.from, key.to))
    .fetch_all(db)
    .await?;
    let mut ordered = Vec::new();
    while !left.is_empty() {
        keys.retain(|(from, _)| left.contains(from));
        let free = left.iter().find(|table| keys.iter().all(|(_, to)| to != *table)).cloned();
        let table =
            free.ok_or_else(|| sqlx::Error::Protocol("tenant tables point at each other in a circle".into()))?;
        left.remove(&table);
        ordered.push(table);
    }
    Ok(ordered)
}

/// Whether an organization was deleted after a revision: who follows has to read all facts anew.
pub(super) async fn is_any_since(db: impl PgExecutor<'_>, after: Revision) -> Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from deleted_organization where revision > $1) as "is_any!""#,
        after as Revision,
    )
    .fetch_one(db)
    .await
}

/// A deleted organization, as it is remembered.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub slug: String,
    pub name: String,
    pub domains: Vec<String>,
    pub actor: String,
    pub deleted_at: OffsetDateTime,
    /// As [`Deleted`] says, in JSON.
    pub deleted: serde_json::Value,
}

/// All that were deleted, the last one first. For the operator.
pub async fn list(owner: impl PgExecutor<'_>) -> Result<Vec<Remembered>> {
    sqlx::query_as!(
        Remembered,
        "select slug, name, domains, actor, deleted_at, deleted from deleted_organization order by revision desc",
    )
    .fetch_all(owner)
    .await
}
