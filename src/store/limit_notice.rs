//! Of whose limits administrators were told when: once an hour and subject. Written by relays, in the transaction that
//! queues what they tell.

use sqlx::PgExecutor;
use time::{Duration, OffsetDateTime};

use super::{Result, volume};
use crate::{
    mail::{
        Mailbox,
        id::{AccountId, OrganizationId},
    },
    policy::{limit::Level, volume::Subject},
};

/// What is told again at the earliest after this.
const AGAIN: Duration = Duration::HOUR;

/// Notes that administrators are told of it at `now`. False if they were within the last hour.
pub async fn note_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    subject: &Subject,
    level: Level,
    now: OffsetDateTime,
) -> Result<bool> {
    let (kind, subject) = volume::columns(subject);
    let noted = sqlx::query!(
        r#"
        insert into limit_notice (organization_id, kind, subject, level, noticed_at) values ($1, $2, $3, $4, $5)
        on conflict (organization_id, kind, subject, level) do update set noticed_at = excluded.noticed_at
        where limit_notice.noticed_at <= $6
        "#,
        organization as OrganizationId,
        kind,
        subject,
        level as Level,
        now,
        now - AGAIN,
    );
    noted.execute(db).await.map(|noted| noted.rows_affected() == 1)
}

/// An organization's name for people and its slug, and the User ID of one of its accounts.
pub async fn names_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    account: Option<AccountId>,
) -> Result<(String, String, Option<Mailbox>)> {
    sqlx::query!(
        r#"
        select organization.name, organization.slug, account.user_id as "user_id?: Mailbox"
        from organization
        left join mail_account account on account.organization_id = organization.id and account.id = $2
        where organization.id = $1
        "#,
        organization as OrganizationId,
        account as Option<AccountId>,
    )
    .map(|row| (row.name, row.slug, row.user_id))
    .fetch_one(db)
    .await
}
