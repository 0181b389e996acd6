//! How gateways do that a list names by their addresses: what their mail says, and what the last verification.
//! All of it in one look; of one gateway, or of all, the two are asked for apart.

use sqlx::PgConnection;

use super::{Result, gateway_health::Health, verification::Checked};
use crate::mail::{
    GatewayAddress,
    id::{GatewayId, OrganizationId, VerificationId},
};

/// Both facts of one gateway, as far as there are any of its present revision.
#[derive(Debug, Clone)]
pub struct GatewayFacts {
    pub address: GatewayAddress,
    pub health: Health,
    pub checked: Option<Checked>,
}

/// Of these gateways of the organization. Sets the organization by itself, as the list of accounts does that it is
/// for; what counts is what [`of`](super::gateway_health::of) and [`checked`](super::verification::checked) say.
pub async fn of(
    db: &mut PgConnection,
    organization: OrganizationId,
    addresses: &[GatewayAddress],
) -> Result<Vec<GatewayFacts>> {
    let rows = sqlx::query!(
        r#"
        select one.id as "id!: GatewayId", one.address as "address!: GatewayAddress", one.revision as "revision!", health.*,
               checked.id as "verification?: VerificationId", checked.requested_at as "requested_at?", checked.accepts,
               coalesce(checked.requested_at < now() - interval '45 seconds', false) as "is_over!"
        from in_organization($1) o (id)
        cross join lateral (select id, address, revision from gateway
                            where organization_id = o.id and address = any ($2) offset 0) one
        cross join lateral (
            select max(seen.last_accepted_at) as last_accepted_at, max(seen.last_failed_at) as last_failed_at,
                   (array_agg(seen.last_failure order by relay.id is null, seen.last_failed_at desc nulls last))[1]
                       as last_failure,
                   min(seen.failing_since) filter (where relay.id is not null) as failing_since
            from gateway_health seen
            left join relay on relay.id = seen.relay_id and relay.signed_off_at is null
                           and relay.last_seen_at > now() - interval '60 seconds'
            where seen.organization_id = o.id and seen.gateway_id = one.id and seen.revision = one.revision
        ) health
        left join lateral (
            select asked.id, asked.requested_at,
                   verdict(o.id, asked.id, asked.requested_at) as accepts
            from verification asked
            where asked.organization_id = o.id and asked.gateway_id = one.id and asked.revision = one.revision
              and asked.recipient is null and asked.test_message is null
            order by asked.requested_at desc limit 1
        ) checked on true
        "#,
        organization as OrganizationId,
        addresses as &[GatewayAddress],
    )
    .fetch_all(db)
    .await?;
    let facts = rows.into_iter().map(|row| GatewayFacts {
        address: row.address,
        health: Health {
            gateway: row.id,
            last_accepted_at: row.last_accepted_at,
            last_failed_at: row.last_failed_at,
            last_failure: row.last_failure,
            failing_since: row.failing_since,
            backup: None,
            certificate_ends_at: None,
            last_reached_at: None,
            messages: None,
            taken_after_ms: None,
            in_clear_since: None,
        },
        checked: row.verification.zip(row.requested_at).map(|(id, at)| Checked {
            gateway: row.id,
            id,
            revision: row.revision,
            at,
            accepts: row.accepts,
            is_over: row.is_over,
        }),
    });
    Ok(facts.collect())
}
