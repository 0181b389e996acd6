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

/// A sender's mail does not wait for this any more: if it comes to it again, the sender is told again.
pub async fn forget_sender_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (sender, waits_for): (&str, &str),
) -> Result<()> {
    sqlx::query!(
        "delete from delay_notice where organization_id = $1 and sender = $2 and waits_for = $3",
        organization as OrganizationId,
        sender,
        waits_for,
    )
    .execute(db)
    .await
    .map(drop)
}

/// An administrator has decided about a message that was held for a decision: unless others of its sender wait for one
/// likewise, the sender is told again when one comes to it.
pub async fn forget_decided_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (sender, because): (&str, HeldBecause),
    decided: QueueId,
) -> Result<()> {
    sqlx::query!(
        r#"
        delete from delay_notice
        where organization_id = $1 and sender = $2 and waits_for = $3
          and not exists (select from queued_message other
                          where other.organization_id = $1 and other.sender = $2 and other.held_because = $3
                            and other.id <> $4)
        "#,
        organization as OrganizationId,
        sender,
        because as HeldBecause,
        decided as QueueId,
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
