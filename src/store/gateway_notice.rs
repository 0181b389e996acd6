//! Which gateways' troubles administrators know of: told once when one begins that lasts, and once when it is over; and
//! once of each that is to go live and has not passed. Written by relays, in the transaction that queues what they tell.

use sqlx::{PgExecutor, postgres::PgQueryResult, types::Json};
use time::OffsetDateTime;

use super::{Result, change::Subject, gateway::PointerScope};
use crate::{
    mail::{
        DomainName, GatewayAddress,
        id::{GatewayId, OrganizationId},
    },
    policy::verification::{self, Step},
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
    /// It was to go live once it had passed its verification, and a relay was refused.
    NotPassed(NotPassed),
    /// Mail that was encrypted goes to it in clear, since then.
    InClear(OffsetDateTime),
    /// It is encrypted again.
    Encrypted,
}

/// A gateway that is pending and has not passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPassed {
    /// Whose it is to be; `None`: it is a change of its own record.
    pub scope: Option<PointerScope>,
    pub since: OffsetDateTime,
    /// Which step failed, and what to do.
    pub failed: String,
    /// What mail of that scope leaves through meanwhile.
    pub instead_of: Option<GatewayAddress>,
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
    backup_id: Option<GatewayId>,
}

/// A row of any of the queries below, with its news.
macro_rules! to_tell {
    ($row:ident, $news:expr) => {
        ToTell {
            organization: $row.organization,
            name: $row.name,
            slug: $row.slug,
            gateway: $row.gateway,
            address: $row.address,
            news: $news,
        }
    };
}

/// Gateways that have been failing since before `lasting` and nobody was told of, or not that their mail goes to a backup.
pub async fn failing_across_tenants(db: impl PgExecutor<'_>, lasting: OffsetDateTime) -> Result<Vec<ToTell>> {
    let rows = sqlx::query!(
        r#"
        select distinct on (seen.organization_id, seen.gateway_id)
               seen.organization_id as "organization: OrganizationId", organization.name, organization.slug,
               seen.gateway_id as "gateway: GatewayId", gateway.address as "address: GatewayAddress",
               seen.failing_since as "since!", coalesce(seen.last_failure, '') as "words!",
               backup.address as "backup?: GatewayAddress", backup.id as "backup_id?: GatewayId"
        from gateway_health seen
        join gateway on gateway.organization_id = seen.organization_id and gateway.id = seen.gateway_id
                    and gateway.revision = seen.revision
        join organization on organization.id = seen.organization_id
        join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                  and relay.last_seen_at > now() - interval '60 seconds'
        left join gateway backup on backup.organization_id = seen.organization_id and backup.id = seen.backup_id
        where seen.failing_since is not null and seen.failing_since <= $1
          and not exists (select from gateway_notice told
                          where told.organization_id = seen.organization_id and told.gateway_id = seen.gateway_id
                            and (backup.id is null or told.backup_id is not null))
        -- A backup that one relay has fallen to is what there is to tell.
        order by seen.organization_id, seen.gateway_id, backup.id is null, seen.failing_since
        limit 100
        "#,
        lasting,
    )
    .fetch_all(db)
    .await?;
    let to_tell = rows.into_iter().map(|row| {
        let trouble = Trouble { since: row.since, words: row.words, backup: row.backup, backup_id: row.backup_id };
        to_tell!(row, News::Failing(trouble))
    });
    Ok(to_tell.collect())
}

/// Gateways whose trouble administrators know of, and which have taken mail since, or were reached without mail by who found
/// them failing so, and have failed nowhere since `lasting`.
pub async fn well_across_tenants(db: impl PgExecutor<'_>, lasting: OffsetDateTime) -> Result<Vec<ToTell>> {
    sqlx::query!(
        r#"
        select told.organization_id as "organization: OrganizationId", organization.name, organization.slug,
               told.gateway_id as "gateway: GatewayId", gateway.address as "address: GatewayAddress"
        from gateway_notice told
        join gateway on gateway.organization_id = told.organization_id and gateway.id = told.gateway_id
        join organization on organization.id = told.organization_id
        where exists (select from gateway_health seen
                      where seen.organization_id = told.organization_id and seen.gateway_id = told.gateway_id
                        and seen.revision = gateway.revision
                        and greatest(seen.last_accepted_at, seen.last_reached_at) > told.noticed_at)
          and not exists (select from gateway_health seen
                          join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                                    and relay.last_seen_at > now() - interval '60 seconds'
                          where seen.organization_id = told.organization_id and seen.gateway_id = told.gateway_id
                            and seen.revision = gateway.revision
                            and (seen.failing_since is not null or seen.last_failed_at > $1))
        limit 100
        "#,
        lasting,
    )
    .map(|row| to_tell!(row, News::Well))
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
            where certificate_ends_at <= $1::timestamptz + interval '30 days'
              and greatest(last_accepted_at, last_reached_at) > $1::timestamptz - interval '7 days'
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
    .map(|row| to_tell!(row, News::Certificate(Ending { at: row.ends_at, days: row.days })))
    .fetch_all(db)
    .await
}

/// For so long relays may take to find out whether a gateway passes.
pub const UNANSWERED: time::Duration = time::Duration::minutes(15);

/// Gateways that are pending and were refused by a verification that counts (see
/// [`pending_gateway`](super::pending_gateway)) and began before `lasting`, or are still pending [`UNANSWERED`] after
/// that, where nobody was told of that change.
pub async fn not_passed_across_tenants(db: impl PgExecutor<'_>, lasting: OffsetDateTime) -> Result<Vec<ToTell>> {
    let rows = sqlx::query!(
        r#"
        select pending.organization_id as "organization!: OrganizationId", organization.name, organization.slug,
               pending.subject as "subject!", pending.domain as "domain: DomainName", gateway.id as "gateway: GatewayId",
               wanted.address as "address: GatewayAddress", live.address as "instead_of?: GatewayAddress",
               pending.since as "since!", refused.steps as "steps?: Json<Vec<Step>>"
        from (select id as organization_id, 'organization' as subject, id::text as key, null::text as domain,
                     pending_gateway_id as gateway, null::bigint as revision, outbound_gateway_id as live,
                     pending_since as since
              from organization where pending_gateway_id is not null
              union all
              select organization_id, 'domain', name, name, pending_gateway_id, null, outbound_gateway_id, pending_since
              from mail_domain where pending_gateway_id is not null
              union all
              select organization_id, 'gateway', id::text, null, id, pending_revision, id, pending_since
              from gateway where pending_revision is not null) pending
        join organization on organization.id = pending.organization_id
        join gateway on gateway.organization_id = pending.organization_id and gateway.id = pending.gateway
        join gateway_revision wanted on wanted.organization_id = pending.organization_id and wanted.gateway_id = gateway.id
                                    and wanted.revision = coalesce(pending.revision, gateway.revision)
        left join gateway live on live.organization_id = pending.organization_id and live.id = pending.live
        left join lateral (
            select asked.id, asked.requested_at from verification asked
            where asked.organization_id = pending.organization_id and asked.gateway_id = pending.gateway
              and asked.revision = wanted.revision and asked.recipient is null and asked.test_message is null
              and asked.requested_at >= pending.since
            order by asked.requested_at desc limit 1
        ) last on true
        left join lateral (
            select steps from verification_result result
            where result.organization_id = pending.organization_id and result.verification_id = last.id
              and not result.accepts
            order by result.relay limit 1
        ) refused on true
        where (refused.steps is not null and last.requested_at <= $1 or pending.since <= $2)
          and not exists (select from pending_gateway_notice told
                          where told.organization_id = pending.organization_id and told.subject = pending.subject
                            and told.subject_key = pending.key and told.gateway_id = pending.gateway
                            and told.since = pending.since)
        order by pending.organization_id, pending.domain nulls first
        limit 100
        "#,
        lasting,
        lasting - UNANSWERED,
    )
    .fetch_all(db)
    .await?;
    let to_tell = rows.into_iter().map(|row| {
        to_tell!(
            row,
            News::NotPassed(NotPassed {
                scope: (row.subject != "gateway")
                    .then(|| row.domain.map_or(PointerScope::Organization, PointerScope::Domain)),
                since: row.since,
                failed: failed(row.steps.as_deref()),
                instead_of: row.instead_of,
            })
        )
    });
    Ok(to_tell.collect())
}

/// Which step failed, and what to do; without steps, that nobody knows.
fn failed(steps: Option<&Vec<Step>>) -> String {
    match steps {
        Some(steps) => {
            verification::failed(steps).map(|(step, advice)| format!("{step}: {advice}")).unwrap_or_default()
        }
        None => "No answer: not every relay has found out yet whether it accepts our mail.".to_owned(),
    }
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
    .map(|row| to_tell!(row, News::InClear(row.since)))
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
    .map(|row| to_tell!(row, News::Encrypted))
    .fetch_all(db)
    .await
}

/// Notes that administrators are told at `now`. Returns whether they have not been: another relay may be faster.
/// What is not pending any more is not told.
pub async fn note_across_tenants(db: impl PgExecutor<'_>, told: &ToTell, now: OffsetDateTime) -> Result<bool> {
    let done = match &told.news {
        News::NotPassed(not_passed) => note_not_passed(db, told, not_passed, now).await?,
        News::Failing(trouble) => {
            sqlx::query!(
                "insert into gateway_notice (organization_id, gateway_id, noticed_at, backup_id) values ($1, $2, $3, $4)
                 on conflict (organization_id, gateway_id) do update set backup_id = excluded.backup_id
                 where excluded.backup_id is not null and gateway_notice.backup_id is null",
                told.organization as OrganizationId,
                told.gateway as GatewayId,
                now,
                trouble.backup_id as Option<GatewayId>,
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

/// Only while it is pending there since then: it may have been given up a moment ago.
async fn note_not_passed(
    db: impl PgExecutor<'_>,
    told: &ToTell,
    not_passed: &NotPassed,
    now: OffsetDateTime,
) -> Result<PgQueryResult> {
    let (subject, key) = match &not_passed.scope {
        Some(scope) => (scope.subject(), scope.key(told.organization)),
        None => (Subject::Gateway, told.gateway.to_string()),
    };
    sqlx::query!(
        r#"
        insert into pending_gateway_notice (organization_id, subject, subject_key, gateway_id, since, noticed_at)
        select $1, $2, $3, $4, $5, $6
        where exists (select from organization
                      where $2 = 'organization' and id = $1 and pending_gateway_id = $4 and pending_since = $5)
           or exists (select from mail_domain
                      where $2 = 'domain' and organization_id = $1 and name = $3
                        and pending_gateway_id = $4 and pending_since = $5)
           or exists (select from gateway
                      where $2 = 'gateway' and organization_id = $1 and id = $4 and pending_since = $5)
        on conflict (organization_id, subject, subject_key) do update
        set gateway_id = excluded.gateway_id, since = excluded.since, noticed_at = excluded.noticed_at
        where (pending_gateway_notice.gateway_id, pending_gateway_notice.since) is distinct from
              (excluded.gateway_id, excluded.since)
        "#,
        told.organization as OrganizationId,
        subject.as_str(),
        key,
        told.gateway as GatewayId,
        not_passed.since,
        now,
    )
    .execute(db)
    .await
}

/// Forgets trouble that administrators know of and that has ended without anybody seeing the gateway take mail, as where it
/// was put aside: relays that run since before `lasting` have not seen it fail since. The next is told again.
pub async fn forget_ended_across_tenants(db: impl PgExecutor<'_>, lasting: OffsetDateTime) -> Result<u64> {
    let forgotten = sqlx::query!(
        r#"
        delete from gateway_notice told
        using gateway
        where gateway.organization_id = told.organization_id and gateway.id = told.gateway_id and told.noticed_at <= $1
          and exists (select from relay where relay.signed_off_at is null and relay.started_at <= $1
                                          and relay.last_seen_at > now() - interval '60 seconds')
          and not exists (select from gateway_health seen
                          join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                                    and relay.last_seen_at > now() - interval '60 seconds'
                          where seen.organization_id = told.organization_id and seen.gateway_id = told.gateway_id
                            and seen.revision = gateway.revision
                            and (seen.failing_since is not null or seen.last_failed_at > $1))
        "#,
        lasting,
    )
    .execute(db)
    .await?;
    Ok(forgotten.rows_affected())
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
