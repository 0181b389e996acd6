//! Who was told that mail is late. Kept in the store, so that a restart or another relay does not tell them again;
//! written in the transaction that records the wait.

use sqlx::PgExecutor;
use time::OffsetDateTime;

use super::Result;
use crate::{
    mail::id::{OrganizationId, QueueId},
    policy::waiting::HeldBecause,
};

/// Notes that a sender is told at `now` that its mail waits for something. Returns whether that is the first time since
/// what it waits for has taken mail; a notice from before `stale_before` counts no more.
pub async fn note_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (sender, waits_for): (&str, &str),
    now: OffsetDateTime,
    stale_before: OffsetDateTime,
) -> Result<bool> {
    let done = sqlx::query!(
        r#"
        insert into delay_notice (organization_id, sender, waits_for, noticed_at) values ($1, $2, $3, $4)
        on conflict (organization_id, sender, waits_for) do update set noticed_at = excluded.noticed_at
        where delay_notice.noticed_at < $5
        "#,
        organization as OrganizationId,
        sender,
        waits_for,
        now,
        stale_before,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether another message of a sender waits for a decision likewise, of which it was told or need not be.
pub async fn is_told_of_another_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (sender, because): (&str, HeldBecause),
    message: QueueId,
) -> Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from queued_message
                       where organization_id = $1 and sender = $2 and held_because = $3 and state = 'held'
                         and delay_noticed and id <> $4) as "is_told!"
        "#,
        organization as OrganizationId,
        sender,
        because as HeldBecause,
        message as QueueId,
    )
    .fetch_one(db)
    .await
}

/// Forgets what senders were told about limits and decisions before then: nothing that waits is as old.
pub async fn forget_old_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    before: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        r#"
        delete from delay_notice
        where organization_id = $1 and waits_for in ('limit', 'over-limit', 'needs-approval') and noticed_at < $2
        "#,
        organization as OrganizationId,
        before,
    )
    .execute(db)
    .await
    .map(drop)
}

/// What mail waited for takes it again: the next time that it does not, its senders are told again.
pub async fn forget_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    waits_for: &str,
) -> Result<u64> {
    let done = sqlx::query!(
        "delete from delay_notice where organization_id = $1 and waits_for = $2",
        organization as OrganizationId,
        waits_for,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
