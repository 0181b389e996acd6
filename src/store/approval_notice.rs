//! What waits for an administrator's approval, for who tells of it, and when administrators were told last. Written by
//! relays, in the transaction that queues what they tell.

use sqlx::PgExecutor;
use time::{Duration, OffsetDateTime};

use super::Result;
use crate::mail::id::{OrganizationId, QueueId};

/// Administrators are told again at the earliest after this, and of what has come since.
pub const AGAIN: Duration = Duration::minutes(15);
/// By so much the clocks of relays may differ: what was accepted within this before a notice may be told of again.
const CLOCK_DIFFERENCE: Duration = Duration::MINUTE;
/// How many messages of an organization are named.
pub const NAMED: i64 = 5;

/// One organization's mail that waits for approval.
#[derive(Debug, Clone)]
pub struct ToApprove {
    pub organization: OrganizationId,
    /// How many messages there are, older ones too.
    pub messages: i64,
}

/// Organizations with mail that has come to wait for approval since their administrators were told last.
pub async fn to_tell_across_tenants(db: impl PgExecutor<'_>, now: OffsetDateTime) -> Result<Vec<ToApprove>> {
    sqlx::query_as!(
        ToApprove,
        r#"
        select organization_id as "organization!: OrganizationId", count(*) as "messages!"
        from queued_message
        left join approval_notice notice using (organization_id)
        where held_because = 'needs-approval' and choice is null and (noticed_at is null or noticed_at <= $1)
        group by organization_id, noticed_at
        having noticed_at is null or max(accepted_at) > noticed_at - make_interval(secs => $2)
        "#,
        now - AGAIN,
        CLOCK_DIFFERENCE.as_seconds_f64(),
    )
    .fetch_all(db)
    .await
}

/// Notes that administrators are told of it at `now`. False if they were of late.
pub async fn note_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    now: OffsetDateTime,
) -> Result<bool> {
    let noted = sqlx::query!(
        r#"
        insert into approval_notice (organization_id, noticed_at) values ($1, $2)
        on conflict (organization_id) do update set noticed_at = excluded.noticed_at
        where approval_notice.noticed_at <= $3
        "#,
        organization as OrganizationId,
        now,
        now - AGAIN,
    );
    noted.execute(db).await.map(|noted| noted.rows_affected() == 1)
}

/// A message that waits for approval.
#[derive(Debug, Clone)]
pub struct Awaiting {
    pub id: QueueId,
    pub sender: String,
    /// Why it needs approval.
    pub why: String,
    pub accepted_at: OffsetDateTime,
}

/// The latest of them, the latest first.
pub async fn awaiting_across_tenants(db: impl PgExecutor<'_>, organization: OrganizationId) -> Result<Vec<Awaiting>> {
    sqlx::query_as!(
        Awaiting,
        r#"
        select id as "id: QueueId", coalesce(sender, '') as "sender!", coalesce(last_reply, '') as "why!", accepted_at
        from queued_message
        where organization_id = $1 and held_because = 'needs-approval' and choice is null
        order by accepted_at desc, id desc limit $2
        "#,
        organization as OrganizationId,
        NAMED,
    )
    .fetch_all(db)
    .await
}
