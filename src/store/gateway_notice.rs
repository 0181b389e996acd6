//! Which gateways' troubles administrators know of: told once when one begins that lasts, and once when it is over.
//! Written by relays, in the transaction that queues what they tell.

use sqlx::PgExecutor;
use time::OffsetDateTime;

use super::Result;
use crate::mail::{
    GatewayAddress,
    id::{GatewayId, OrganizationId},
};

/// A gateway that there is something to tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToTell {
    pub organization: OrganizationId,
    /// The organization's name for people.
    pub name: String,
    pub slug: String,
    pub gateway: GatewayId,
    pub address: GatewayAddress,
    pub news: News,
}

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Failing(Trouble),
    /// It takes mail again.
    Well,
    Certificate(Ending),
    /// Mail that was encrypted goes to it in clear, since then.
    InClear(OffsetDateTime),
    /// It is encrypted again.
    Encrypted,
}

/// A certificate after whose end mail waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub at: OffsetDateTime,
    /// Which of the times before the end this is: 30, 7 or 1.
    pub days: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub since: OffsetDateTime,
    pub words: String,
    /// Where mail goes meanwhile.
    pub backup: Option<GatewayAddress>,
}

/// Gateways that have been failing since before `lasting` and nobody was told of.
pub async fn failing_across_tenants(db: impl PgExecutor<'_>, lasting: OffsetDateTime) -> Result<Vec<ToTell>> {
    let rows = sqlx::query!(
        r#"
        select distinct on (seen.organization_id, seen.gateway_id)
               seen.organization_id as "organization: OrganizationId", organization.name, organization.slug,
               seen.gateway_id as "gateway: GatewayId", gateway.address as "address: GatewayAddress",
               seen.failing_since as "since!", coalesce(seen.last_failure, '') as "words!",
               backup.address as "backup?: GatewayAddress"
        from gateway_health seen
        join gateway on gateway.organization_id = seen.organization_id and gateway.id = seen.gateway_id
                    and gateway.revision = seen.revision
        join organization on organization.id = seen.organization_id
        join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                  and relay.last_seen_at > now() - interval '60 seconds'
        left join gateway backup on backup.organization_id = seen.organization_id and backup.id = seen.backup_id
        where seen.failing_since is not null and seen.failing_since <= $1
          and not exists (select from gateway_notice told
                          where told.organization_id = seen.organization_id and told.gateway_id = seen.gateway_id)
        order by seen.organization_id, seen.gateway_id, seen.failing_since
        limit 100
        "#,
        lasting,
    )
    .fetch_all(db)
    .await?;
    let to_tell = rows.into_iter().map(|row| ToTell {
        organization: row.organization,
        name: row.name,
        slug: row.slug,
        gateway: row.gateway,
        address: row.address,
        news: News::Failing(Trouble { since: row.since, words: row.words, backup: row.backup }),
    });
    Ok(to_tell.collect())
}

/// Gateways whose trouble administrators know of, and which have taken mail since and fail nowhere.
pub async fn well_across_tenants(db: impl PgExecutor<'_>) -> Result<Vec<ToTell>> {
    sqlx::query!(
        r#"
        select told.organization_id as "organization: OrganizationId", organization.name, organization.slug,
               told.gateway_id as "gateway: GatewayId", gateway.address as "address: GatewayAddress"
        from gateway_notice told
        join gateway on gateway.organization_id = told.organization_id and gateway.id = told.gateway_id
        join organization on organization.id = told.organization_id
        where exists (select from gateway_health seen
                      where seen.organization_id = told.organization_id and seen.gateway_id = told.gateway_id
                        and seen.revision = gateway.revision and seen.last_accepted_at > told.noticed_at)
          and not exists (select from gateway_health seen
                          join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                                    and relay.last_seen_at > now() - interval '60 seconds'
                          where seen.organization_id = told.organization_id and seen.gateway_id = told.gateway_id
                            and seen.revision = gateway.revision and seen.failing_since is not null)
        limit 100
        "#,
    )
    .map(|row| ToTell {
        organization: row.organization,
        name: row.name,
        slug: row.slug,
        gateway: row.gateway,
        address: row.address,
        news: News::Well,
    })
    .fetch_all(db)
    .await
}

/// Gateways in use whose certificates end within 30 days of `now`, and of which nobody was told since the last of the
/// times for that.
pub async fn ending_across_tenants(db: impl PgExecutor<'_>, now: OffsetDateTime) -> Result<Vec<ToTell>> {
    sqlx::query!(
        r#"
        select seen.organization_id as "organization: OrganizationId", organization.name, organization.slug,
               seen.gateway_id as "gateway: GatewayId", gateway.address as "address: GatewayAddress",
               seen.ends_at as "ends_at!", step.days as "days!"
        from (
            select organization_id, gateway_id, revision, min(certificate_ends_at) as ends_at
            from gateway_health one
            where certificate_ends_at <= $1::timestamptz + interval '30 days' and last_accepted_at > $1::timestamptz - interval '7 days'
              and exists (select from relay where relay.id = one.relay_id and relay.signed_off_at is null
                          and relay.last_seen_at > now() - interval '60 seconds')
            group by organization_id, gateway_id, revision
        ) seen
        join gateway on gateway.organization_id = seen.organization_id and gateway.id = seen.gateway_id
                    and gateway.revision = seen.revision
        join organization on organization.id = seen.organization_id
        cross join lateral (select min(days) as days from unnest('{1,7,30}'::integer[]) days
                            where seen.ends_at <= $1::timestamptz + days * interval '1 day') step
        where not exists (select from certificate_notice told
                          where told.organization_id = seen.organization_id and told.gateway_id = seen.gateway_id
                            and told.ends_at = seen.ends_at and told.days <= step.days)
        limit 100
        "#,
        now,
    )
    .map(|row| ToTell {
        organization: row.organization,
        name: row.name,
        slug: row.slug,
        gateway: row.gateway,
        address: row.address,
        news: News::Certificate(Ending { at: row.ends_at, days: row.days }),
    })
    .fetch_all(db)
    .await
}

/// Gateways that have been spoken to in clear since before `lasting`, were encrypted before that and by nobody since,
/// and nobody was told of.
pub async fn in_clear_across_tenants(db: impl PgExecutor<'_>, lasting: OffsetDateTime) -> Result<Vec<ToTell>> {
    sqlx::query!(
        r#"
        select distinct on (seen.organization_id, seen.gateway_id)
               seen.organization_id as "organization: OrganizationId", organization.name, organization.slug,
               seen.gateway_id as "gateway: GatewayId", gateway.address as "address: GatewayAddress",
               seen.clear_since as "since!"
        from gateway_health seen
        join gateway on gateway.organization_id = seen.organization_id and gateway.id = seen.gateway_id
                    and gateway.revision = seen.revision
        join organization on organization.id = seen.organization_id
        join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                  and relay.last_seen_at > now() - interval '60 seconds'
        where seen.clear_since > seen.encrypted_at and seen.clear_since <= $1
          and not exists (select from gateway_health other
                          where other.organization_id = seen.organization_id and other.gateway_id = seen.gateway_id
                            and other.revision = seen.revision and other.encrypted_at >= seen.clear_since)
          and not exists (select from encryption_notice told
                          where told.organization_id = seen.organization_id and told.gateway_id = seen.gateway_id)
        order by seen.organization_id, seen.gateway_id, seen.clear_since
        limit 100
        "#,
        lasting,
    )
    .map(|row| ToTell {
        organization: row.organization,
        name: row.name,
        slug: row.slug,
        gateway: row.gateway,
        address: row.address,
        news: News::InClear(row.since),
    })
    .fetch_all(db)
    .await
}

/// Gateways of which administrators know that mail went to them in clear, and which are spoken to encrypted again, by
/// all relays that have had to do with them since.
pub async fn encrypted_across_tenants(db: impl PgExecutor<'_>) -> Result<Vec<ToTell>> {
    sqlx::query!(
        r#"
        select told.organization_id as "organization: OrganizationId", organization.name, organization.slug,
               told.gateway_id as "gateway: GatewayId", gateway.address as "address: GatewayAddress"
        from encryption_notice told
        join gateway on gateway.organization_id = told.organization_id and gateway.id = told.gateway_id
        join organization on organization.id = told.organization_id
        where (select max(seen.encrypted_at) from gateway_health seen
               where seen.organization_id = told.organization_id and seen.gateway_id = told.gateway_id
                 and seen.revision = gateway.revision)
            > greatest(told.noticed_at,
                       (select max(seen.clear_since) from gateway_health seen
                        join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                                  and relay.last_seen_at > now() - interval '60 seconds'
                        where seen.organization_id = told.organization_id and seen.gateway_id = told.gateway_id
                          and seen.revision = gateway.revision))
        limit 100
        "#,
    )
    .map(|row| ToTell {
        organization: row.organization,
        name: row.name,
        slug: row.slug,
        gateway: row.gateway,
        address: row.address,
        news: News::Encrypted,
    })
    .fetch_all(db)
    .await
}

/// Notes that administrators are told at `now`. Returns whether they have not been: another relay may be faster.
pub async fn note_across_tenants(db: impl PgExecutor<'_>, told: &ToTell, now: OffsetDateTime) -> Result<bool> {
    let done = match told.news {
        News::Failing(_) => {
            sqlx::query!(
                "insert into gateway_notice (organization_id, gateway_id, noticed_at) values ($1, $2, $3)
                 on conflict do nothing",
                told.organization as OrganizationId,
                told.gateway as GatewayId,
                now,
            )
            .execute(db)
            .await?
        }
        News::Certificate(ending) => {
            sqlx::query!(
                "insert into certificate_notice (organization_id, gateway_id, ends_at, days) values ($1, $2, $3, $4)
                 on conflict (organization_id, gateway_id) do update
                 set ends_at = excluded.ends_at, days = excluded.days
                 where (certificate_notice.ends_at, certificate_notice.days) is distinct from
                       (excluded.ends_at, excluded.days)",
                told.organization as OrganizationId,
                told.gateway as GatewayId,
                ending.at,
                ending.days,
            )
            .execute(db)
            .await?
        }
        News::InClear(_) => {
            sqlx::query!(
                "insert into encryption_notice (organization_id, gateway_id, noticed_at) values ($1, $2, $3)
                 on conflict do nothing",
                told.organization as OrganizationId,
                told.gateway as GatewayId,
                now,
            )
            .execute(db)
            .await?
        }
        News::Encrypted => {
            sqlx::query!(
                "delete from encryption_notice where organization_id = $1 and gateway_id = $2",
                told.organization as OrganizationId,
                told.gateway as GatewayId,
            )
            .execute(db)
            .await?
        }
        News::Well => {
            sqlx::query!(
                "delete from gateway_notice where organization_id = $1 and gateway_id = $2",
                told.organization as OrganizationId,
                told.gateway as GatewayId,
            )
            .execute(db)
            .await?
        }
    };
    Ok(done.rows_affected() == 1)
}

/// Whom to tell: the active Administrators of the organization.
pub async fn administrators_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
) -> Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select email as "email!" from administrators_to_tell($1) as email"#,
        organization as OrganizationId
    )
    .fetch_all(db)
    .await
}
