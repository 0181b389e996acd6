//! What stands in the way of an undo: things that are no longer as the change left them, and what is
//! needed again and is gone or taken. Asked once the undo's items are written, before anything is restored.

use serde_json::Value;
use sqlx::PgConnection;

use super::lists;
use crate::{
    mail::id::{ChangeId, OrganizationId},
    store::{
        Result,
        change::{self, LastChange},
    },
};

/// Everything that stands in the way.
#[derive(Debug, Default)]
pub struct Obstacles {
    pub count: i64,
    /// The first few.
    pub first: Vec<Obstacle>,
}

/// One thing that stands in the way.
#[derive(Debug)]
pub struct Obstacle {
    /// Whose it is: `all users`, a mail domain, a User ID.
    pub subject: String,
    pub what: What,
    /// The last change of the subject that is newer than the one to be taken back, where one is recorded.
    pub since: Option<LastChange>,
}

/// How a thing stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is no longer as the change left it, or was deleted or added again since.
    Changed,
    /// An address that would be its own again belongs to another account, by its User ID, or to a distribution list.
    AddressTaken { address: String, by: String },
    /// The mail domain of an address is not the organization's any more.
    DomainGone(String),
    /// The gateway that it pointed at is gone.
    GatewayGone,
    /// Messages to the list would need approval, which this relay, of a former version, does not know.
    FormerRelay(String),
    /// A gateway that was removed has been made anew since.
    GatewayThere,
}

/// How many obstacles are named.
const NAMED: i64 = 10;

pub(super) async fn find(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
) -> Result<Obstacles> {
    let mut obstacles = Obstacles::default();
    changed(db, organization, change, new, &mut obstacles).await?;
    if obstacles.count == 0 {
        addresses_taken(db, organization, change, new, &mut obstacles).await?;
    }
    if obstacles.count == 0 {
        gone(db, organization, change, new, &mut obstacles).await?;
    }
    if obstacles.count == 0 {
        made_anew(db, organization, change, new, &mut obstacles).await?;
    }
    if obstacles.count == 0 {
        obstacles.first = lists::obstacles(db, organization, change, new).await?;
        obstacles.count = obstacles.first.len() as i64;
    }
    Ok(obstacles)
}

/// What is not as the change left it.
async fn changed(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
    obstacles: &mut Obstacles,
) -> Result<()> {
    let rows = sqlx::query!(
        r#"
        select subject, subject_key as key, count(*) over () as "count!",
               case when was_after ?| '{sending_limit,sender_control}' then was_after end as limited,
               coalesce(before ->> 'user_id', was_after ->> 'user_id', was_before ->> 'user_id') as user_id
        from (
            -- Each item of the undo with the item that it mirrors. Sorted side by side, since a join of rows
            -- that were written just now is planned as if they were few.
            select position, change_id, subject, subject_key, before,
                   lag(before) over pair as was_before, lag(after) over pair as was_after
            from change_item
            where organization_id = $1 and change_id in ($2, $3)
              and (subject <> 'gateway' or change_id = $3 or before is not null)
            window pair as (partition by position order by change_id = $3)
        ) item
        where change_id = $3
          and case when was_after is null then before is not null
                   else before is null or before || was_after <> before end
        order by position limit $4
        "#,
        organization as OrganizationId,
        change as ChangeId,
        new as ChangeId,
        NAMED,
    )
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        obstacles.count = row.count;
        let thing = (row.subject.as_str(), row.key.as_str());
        obstacles.first.push(match row.limited {
            Some(limited) => limited_since(db, organization, change, &limited).await?,
            None => named(db, organization, change, thing, row.user_id, What::Changed).await?,
        });
    }
    Ok(())
}

/// A limit, or what was said of a sender, that was changed since: whose it is.
async fn limited_since(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    limited: &Value,
) -> Result<Obstacle> {
    let text = |object: &str, field: &str| limited.get(object)?.get(field)?.as_str();
    let account = match text("sending_limit", "kind") {
        Some("account") => text("sending_limit", "subject"),
        _ => text("sender_control", "account"),
    };
    let subject = match (account, text("sending_limit", "subject").unwrap_or_default()) {
        (Some(account), _) => {
            change::user_id_of(db, organization, account).await?.unwrap_or_else(|| account.to_owned())
        }
        (None, "") => "all users".to_owned(),
        (None, domain) => domain.to_owned(),
    };
    let since = change::last_of_limit(db, organization, limited, change).await?;
    Ok(Obstacle { subject, what: What::Changed, since })
}

/// Addresses that distribution lists have got since.
async fn addresses_of_lists(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
    obstacles: &mut Obstacles,
) -> Result<()> {
    let rows = sqlx::query!(
        r#"
        select item.subject_key as key, item.after ->> 'user_id' as user_id, list.address, list.name,
               list.id::text as "list_key!"
        from change_item item
        cross join lateral jsonb_array_elements_text(item.after -> 'addresses') wanted (address)
        join distribution_list list on list.organization_id = $1 and list.address = wanted.address
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'account' and item.after ? 'addresses'
        order by list.address limit $3
        "#,
        organization as OrganizationId,
        new as ChangeId,
        NAMED,
    )
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        obstacles.count += 1;
        let what = What::AddressTaken { address: row.address, by: format!("the distribution list {}", row.name) };
        let mut obstacle = named(db, organization, change, ("account", row.key.as_str()), row.user_id, what).await?;
        obstacle.since = change::last_of(db, organization, ("list", &row.list_key), Some(change)).await?;
        obstacles.first.push(obstacle);
    }
    Ok(())
}

/// Addresses and User IDs that belong to accounts which the undo does not take them from.
async fn addresses_taken(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
    obstacles: &mut Obstacles,
) -> Result<()> {
    let rows = sqlx::query!(
        r#"
        with wanted as materialized (
            select item.subject_key as key, item.after ->> 'user_id' as user_id, address.value as address
            from change_item item
            cross join lateral (
                select value from jsonb_array_elements_text(item.after -> 'addresses')
                union select item.after ->> 'user_id'
            ) address
            where item.organization_id = $1 and item.change_id = $2 and item.subject = 'account'
              and (item.after ? 'addresses' or item.after ? 'user_id')
        )
        select wanted.key, wanted.user_id, wanted.address as "address!", owner.user_id as owner,
               owner.id::text as "owner_key!", count(*) over () as "count!"
        from wanted
        join mail_address there on there.organization_id = $1 and there.address = wanted.address
        join mail_account owner on owner.organization_id = $1 and owner.id = there.account_id
        left join change_item theirs on theirs.organization_id = $1 and theirs.change_id = $2
             and theirs.subject = 'account' and theirs.subject_key = owner.id::text
        where owner.id::text <> wanted.key
          and case when theirs.change_id is null then true
                   when theirs.after is null then false
                   when theirs.after ? 'addresses' then theirs.after -> 'addresses' ? wanted.address
                   else true end
        order by wanted.address limit $3
        "#,
        organization as OrganizationId,
        new as ChangeId,
        NAMED,
    )
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        obstacles.count = row.count;
        let what = What::AddressTaken { address: row.address, by: row.owner };
        let mut obstacle = named(db, organization, change, ("account", row.key.as_str()), row.user_id, what).await?;
        obstacle.since = change::last_of(db, organization, ("account", &row.owner_key), Some(change)).await?;
        obstacles.first.push(obstacle);
    }
    addresses_of_lists(db, organization, change, new, obstacles).await
}

/// Mail domains and gateways that would be needed again.
async fn gone(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
    obstacles: &mut Obstacles,
) -> Result<()> {
    let rows = sqlx::query!(
        r#"
        with item as materialized (
            select position, subject, subject_key, after from change_item where organization_id = $1 and change_id = $2
        ), missing as (
            select item.position, split_part(address, '@', -1) as domain
            from item, jsonb_array_elements_text(item.after -> 'addresses') as address
            where split_part(address, '@', -1) not in (select name from mail_domain where organization_id = $1)
            union
            select item.position, null from item
            where item.after ->> 'outbound_gateway' is not null
              and (item.after ->> 'outbound_gateway')::uuid not in (select id from gateway where organization_id = $1)
            union
            select item.position, null from item
            where item.after ->> 'pending_gateway' is not null
              and (item.after ->> 'pending_gateway')::uuid not in (select id from gateway where organization_id = $1)
            union
            -- The backups of a record.
            select item.position, null from item
            join change_item undone on undone.organization_id = $1 and undone.change_id = $4
                                   and undone.position = item.position and undone.subject = 'gateway'
            join gateway_revision said on said.organization_id = $1 and said.gateway_id::text = item.subject_key
                                      and said.revision = (undone.before ->> 'revision')::bigint
            where exists (select from unnest(said.backups) backup
                          where backup not in (select id from gateway where organization_id = $1))
        )
        select item.subject, item.subject_key as key, item.after ->> 'user_id' as user_id, missing.domain,
               count(*) over () as "count!"
        from missing join item using (position)
        order by item.position limit $3
        "#,
        organization as OrganizationId,
        new as ChangeId,
        NAMED,
        change as ChangeId,
    )
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        obstacles.count = row.count;
        let what = row.domain.map_or(What::GatewayGone, What::DomainGone);
        let thing = (row.subject.as_str(), row.key.as_str());
        let obstacle = named(db, organization, change, thing, row.user_id, what).await?;
        obstacles.first.push(obstacle);
    }
    Ok(())
}

/// Gateways that were removed, or got another address, and that somebody has typed again since.
async fn made_anew(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
    obstacles: &mut Obstacles,
) -> Result<()> {
    let there = sqlx::query!(
        r#"
        select gateway.id::text as "key!", gateway.address
        from change_item item
        join gateway on gateway.organization_id = $1 and gateway.address = item.after ->> 'address'
                    and gateway.id::text <> item.subject_key
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'gateway'
        order by item.position
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .fetch_all(&mut *db)
    .await?;
    for gateway in there {
        obstacles.count += 1;
        let since = change::last_of(db, organization, ("gateway", &gateway.key), Some(change)).await?;
        obstacles.first.push(Obstacle { subject: gateway.address, what: What::GatewayThere, since });
    }
    Ok(())
}

/// With the name that people know it by, and who changed it last.
async fn named(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    (subject, key): (&str, &str),
    user_id: Option<String>,
    what: What,
) -> Result<Obstacle> {
    let name = match (subject, user_id) {
        ("organization", _) => "all users".to_owned(),
        ("gateway", _) => sqlx::query_scalar!(
            "select address from gateway where organization_id = $1 and id::text = $2",
            organization as OrganizationId,
            key,
        )
        .fetch_optional(&mut *db)
        .await?
        .unwrap_or_else(|| key.to_owned()),
        ("account", Some(user_id)) => user_id,
        ("list", _) => list_named(db, organization, key).await?.unwrap_or_else(|| key.to_owned()),
        ("credential", _) => credential_named(db, organization, key).await?.unwrap_or_else(|| key.to_owned()),
        ("account", None) => change::user_id_of(db, organization, key).await?.unwrap_or_else(|| key.to_owned()),
        _ => key.to_owned(),
    };
    let since = change::last_of(db, organization, (subject, key), Some(change)).await?;
    Ok(Obstacle { subject: name, what, since })
}

/// The address of a list that is there.
async fn list_named(db: &mut PgConnection, organization: OrganizationId, key: &str) -> Result<Option<String>> {
    sqlx::query_scalar!(
        "select address from distribution_list where organization_id = $1 and id = $2::text::uuid",
        organization as OrganizationId,
        key,
    )
    .fetch_optional(db)
    .await
}

/// The user name of a credential; its record is never gone.
async fn credential_named(db: &mut PgConnection, organization: OrganizationId, key: &str) -> Result<Option<String>> {
    sqlx::query_scalar!(
        "select user_name from relay_credential where organization_id = $1 and id = $2::text::uuid",
        organization as OrganizationId,
        key,
    )
    .fetch_optional(db)
    .await
}
