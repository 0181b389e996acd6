//! How gateways do, as the relays that use them see it: written by relays, shown by pages.
//! What a relay knows itself, and decides by, is its own `handover::health`.

use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Result;
use crate::{
    mail::{
        GatewayAddress,
        id::{GatewayId, OrganizationId, RelayId},
    },
    policy::throughput::Figures,
};

/// What one relay has seen of one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub organization: OrganizationId,
    pub gateway: GatewayId,
    /// Of the gateway.
    pub revision: i64,
    pub last_accepted_at: Option<OffsetDateTime>,
    pub last_failure: Option<(OffsetDateTime, String)>,
    pub failing_since: Option<OffsetDateTime>,
    /// The gateway that its mail goes to meanwhile.
    pub backup: Option<GatewayId>,
    /// Until when its certificate is valid, where mail stops after that.
    pub certificate_ends_at: Option<OffsetDateTime>,
    /// Without mail.
    pub last_reached_at: Option<OffsetDateTime>,
    /// Of the last minutes, if there was mail.
    pub throughput: Option<Figures>,
    pub encryption: Encryption,
}

/// How a gateway was spoken to; as far as one relay has seen since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encryption {
    /// When a connection was last encrypted.
    pub encrypted_at: Option<OffsetDateTime>,
    /// Since when they are not, if the last one was not.
    pub clear_since: Option<OffsetDateTime>,
}

impl Encryption {
    /// After one more connection at `now`.
    pub fn after(self, encrypted: bool, now: OffsetDateTime) -> Self {
        match encrypted {
            true => Self { encrypted_at: Some(now), clear_since: None },
            false => {
                // Connections are not always made in the order in which they were wanted.
                let since = self.encrypted_at.map_or(now, |at| now.max(at + time::Duration::MICROSECOND));
                Self { clear_since: self.clear_since.or(Some(since)), ..self }
            }
        }
    }

    /// Whether it was encrypted, and is not any more.
    pub fn has_ended(self) -> bool {
        self.encrypted_at.is_some() && self.clear_since.is_some()
    }
}

/// Writes down what changed. What was seen of gateways that are gone is left out.
pub async fn record_across_tenants(db: impl PgExecutor<'_>, relay: RelayId, seen: &[Seen]) -> Result<()> {
    let organizations: Vec<Uuid> = seen.iter().map(|seen| seen.organization.0).collect();
    let gateways: Vec<Uuid> = seen.iter().map(|seen| seen.gateway.0).collect();
    let revisions: Vec<i64> = seen.iter().map(|seen| seen.revision).collect();
    let accepted: Vec<Option<OffsetDateTime>> = seen.iter().map(|seen| seen.last_accepted_at).collect();
    let failed: Vec<Option<OffsetDateTime>> =
        seen.iter().map(|seen| seen.last_failure.as_ref().map(|(at, _)| *at)).collect();
    let failures: Vec<Option<&str>> =
        seen.iter().map(|seen| seen.last_failure.as_ref().map(|(_, words)| words.as_str())).collect();
    let failing: Vec<Option<OffsetDateTime>> = seen.iter().map(|seen| seen.failing_since).collect();
    let backups: Vec<Option<Uuid>> = seen.iter().map(|seen| seen.backup.map(|backup| backup.0)).collect();
    let certificates: Vec<Option<OffsetDateTime>> = seen.iter().map(|seen| seen.certificate_ends_at).collect();
    let reached: Vec<Option<OffsetDateTime>> = seen.iter().map(|seen| seen.last_reached_at).collect();
    let messages: Vec<Option<i32>> = seen
        .iter()
        .map(|seen| seen.throughput.map(|figures| i32::try_from(figures.messages).unwrap_or(i32::MAX)))
        .collect();
    let taken_after: Vec<Option<i32>> = seen
        .iter()
        .map(|seen| seen.throughput.map(|it| i32::try_from(it.taken_after.as_millis()).unwrap_or(i32::MAX)))
        .collect();
    let encrypted: Vec<Option<OffsetDateTime>> = seen.iter().map(|seen| seen.encryption.encrypted_at).collect();
    let in_clear: Vec<Option<OffsetDateTime>> = seen.iter().map(|seen| seen.encryption.clear_since).collect();
    sqlx::query!(
        r#"
        insert into gateway_health (organization_id, gateway_id, relay_id, revision, last_accepted_at, last_failed_at,
                                    last_failure, failing_since, backup_id, certificate_ends_at, last_reached_at,
                                    messages, taken_after_ms, encrypted_at, clear_since)
        select seen.organization, seen.gateway, $1, seen.revision, seen.accepted, seen.failed, seen.failure,
               seen.failing, seen.backup, seen.certificate, seen.reached, seen.messages, seen.taken_after,
               seen.encrypted, seen.in_clear
        from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::text[],
                    $8::timestamptz[], $9::uuid[], $10::timestamptz[], $11::timestamptz[], $12::integer[], $13::integer[],
                    $14::timestamptz[], $15::timestamptz[])
             as seen (organization, gateway, revision, accepted, failed, failure, failing, backup, certificate, reached,
                      messages, taken_after, encrypted, in_clear)
        join gateway on gateway.organization_id = seen.organization and gateway.id = seen.gateway
        on conflict (organization_id, gateway_id, relay_id) do update
        set revision = excluded.revision,
            -- A relay that has begun anew has seen less than it has written down.
            last_accepted_at = coalesce(excluded.last_accepted_at, case when gateway_health.revision = excluded.revision
                                                                   then gateway_health.last_accepted_at end),
            last_failed_at = coalesce(excluded.last_failed_at, case when gateway_health.revision = excluded.revision
                                                               then gateway_health.last_failed_at end),
            last_failure = coalesce(excluded.last_failure, case when gateway_health.revision = excluded.revision
                                                           then gateway_health.last_failure end),
            failing_since = excluded.failing_since, backup_id = excluded.backup_id,
            certificate_ends_at = excluded.certificate_ends_at,
            last_reached_at = coalesce(excluded.last_reached_at, case when gateway_health.revision = excluded.revision
                                                                 then gateway_health.last_reached_at end),
            messages = excluded.messages, taken_after_ms = excluded.taken_after_ms,
            encrypted_at = coalesce(excluded.encrypted_at, case when gateway_health.revision = excluded.revision
                                                           then gateway_health.encrypted_at end),
            -- Only a connection since then tells something else.
            clear_since = case when excluded.encrypted_at is null and gateway_health.revision = excluded.revision
                               then coalesce(gateway_health.clear_since, excluded.clear_since)
                               else excluded.clear_since end
        -- A message may end on an earlier revision after mail has gone to a later one.
        where gateway_health.revision <= excluded.revision
        "#,
        relay as RelayId,
        &organizations,
        &gateways,
        &revisions,
        &accepted as &[Option<OffsetDateTime>],
        &failed as &[Option<OffsetDateTime>],
        &failures as &[Option<&str>],
        &failing as &[Option<OffsetDateTime>],
        &backups as &[Option<Uuid>],
        &certificates as &[Option<OffsetDateTime>],
        &reached as &[Option<OffsetDateTime>],
        &messages as &[Option<i32>],
        &taken_after as &[Option<i32>],
        &encrypted as &[Option<OffsetDateTime>],
        &in_clear as &[Option<OffsetDateTime>],
    )
    .execute(db)
    .await
    .map(drop)
}

/// A relay begins anew, and knows of no trouble.
pub async fn forget_across_tenants(db: impl PgExecutor<'_>, relay: RelayId) -> Result<()> {
    sqlx::query!(
        "update gateway_health set failing_since = null, backup_id = null
         where relay_id = $1 and (failing_since is not null or backup_id is not null)",
        relay as RelayId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// How a gateway does, as all relays see it together. Only what was seen of its present revision counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub gateway: GatewayId,
    pub last_accepted_at: Option<OffsetDateTime>,
    /// The latest; while it fails, the latest of a relay that cannot pass mail to it.
    pub last_failed_at: Option<OffsetDateTime>,
    pub last_failure: Option<String>,
    /// A relay that runs cannot pass mail to it.
    pub failing_since: Option<OffsetDateTime>,
    /// Where mail goes meanwhile.
    pub backup: Option<GatewayAddress>,
    /// Until when the certificate is valid that was shown last, where mail stops after that.
    pub certificate_ends_at: Option<OffsetDateTime>,
    /// When it was last reached without mail.
    pub last_reached_at: Option<OffsetDateTime>,
    /// How many messages it has taken of late, from all relays, and after how many milliseconds on average.
    pub messages: Option<i64>,
    pub taken_after_ms: Option<i64>,
    /// Since when mail goes to it in clear that was encrypted before.
    pub in_clear_since: Option<OffsetDateTime>,
}

/// Of the organization's gateways that had mail; only of one if it is named. What a relay says that has stopped, or
/// was not heard from for a minute, tells of no trouble.
pub async fn of(db: &mut PgConnection, organization: OrganizationId, only: Option<GatewayId>) -> Result<Vec<Health>> {
    sqlx::query_as!(
        Health,
        r#"
        select seen.gateway_id as "gateway!: GatewayId", max(seen.last_accepted_at) as last_accepted_at,
               (array_agg(seen.last_failed_at order by relay.id is not null and seen.failing_since is not null desc,
                                                       seen.last_failed_at desc nulls last))[1] as last_failed_at,
               (array_agg(seen.last_failure order by relay.id is not null and seen.failing_since is not null desc,
                                                     seen.last_failed_at desc nulls last))[1] as last_failure,
               min(seen.failing_since) filter (where relay.id is not null) as failing_since,
               min(backup.address) filter (where relay.id is not null) as "backup: GatewayAddress",
               min(seen.certificate_ends_at) filter (where relay.id is not null) as certificate_ends_at,
               max(seen.last_reached_at) as last_reached_at,
               sum(seen.messages) filter (where relay.id is not null and seen.last_accepted_at > now() - interval '5 minutes')
                   as messages,
               (sum(seen.taken_after_ms::bigint * seen.messages)
                    filter (where relay.id is not null and seen.last_accepted_at > now() - interval '5 minutes')
                / nullif(sum(seen.messages)
                    filter (where relay.id is not null and seen.last_accepted_at > now() - interval '5 minutes'), 0))::bigint
                   as taken_after_ms,
               case when max(seen.clear_since) filter (where relay.id is not null and seen.clear_since > seen.encrypted_at)
                         > max(seen.encrypted_at)
                    then min(seen.clear_since) filter (where relay.id is not null and seen.clear_since > seen.encrypted_at)
               end as in_clear_since
        from gateway_health seen
        join gateway on gateway.organization_id = seen.organization_id and gateway.id = seen.gateway_id
                    and gateway.revision = seen.revision
        left join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                       and relay.last_seen_at > now() - interval '60 seconds'
        left join gateway backup on backup.organization_id = seen.organization_id and backup.id = seen.backup_id
        where seen.organization_id = $1 and ($2::uuid is null or seen.gateway_id = $2)
        group by seen.gateway_id
        "#,
        organization as OrganizationId,
        only as Option<GatewayId>,
    )
    .fetch_all(db)
    .await
}

/// How many of the organization's gateways are failing, as [`of`] says it.
pub async fn failing(db: &mut PgConnection, organization: OrganizationId) -> Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(distinct seen.gateway_id) as "failing!"
        from gateway_health seen
        join gateway on gateway.organization_id = seen.organization_id and gateway.id = seen.gateway_id
                    and gateway.revision = seen.revision
        join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                  and relay.last_seen_at > now() - interval '60 seconds'
        where seen.organization_id = $1 and seen.failing_since is not null
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}
