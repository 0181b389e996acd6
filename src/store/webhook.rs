//! Webhooks and what is to be told there: set by pages, filled by whoever has something to tell in the transaction that
//! notes it, and emptied by relays.

use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{OrganizationTransaction, Result, change::AuditEntry};
use crate::{
    mail::id::{ChangeId, OrganizationId},
    policy::webhook::{WebhookNotice, WebhookSecret, WebhookUrl},
};

/// Where an organization is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: WebhookUrl,
    pub secret: WebhookSecret,
}

/// The organization's webhook, if it has one.
pub async fn of(db: impl PgExecutor<'_>, organization: OrganizationId) -> Result<Option<Webhook>> {
    sqlx::query!(
        r#"select url as "url: WebhookUrl", secret from webhook where organization_id = $1"#,
        organization as OrganizationId
    )
    .try_map(|row| Ok(Webhook { url: row.url, secret: secret(row.secret)? }))
    .fetch_optional(db)
    .await
}

fn secret(bytes: Vec<u8>) -> Result<WebhookSecret> {
    let bytes = bytes.try_into().map_err(|_| sqlx::Error::Decode("a webhook's secret has 32 bytes".into()))?;
    Ok(WebhookSecret(bytes))
}

/// What became of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    Changed(ChangeId),
    Unchanged,
    /// It is not any more what the form was shown with.
    Meanwhile,
}

/// Sets the organization's webhook, or deletes it. Its secret stays as it is while there is one.
pub async fn set(
    mut transaction: OrganizationTransaction,
    url: Option<&WebhookUrl>,
    seen: &str,
    actor: &str,
) -> Result<Saved> {
    let organization = transaction.organization();
    let before = locked(&mut transaction).await?;
    if before.as_ref() == url {
        return Ok(Saved::Unchanged);
    }
    let before = before.map(|url| url.to_string());
    if before.as_deref().unwrap_or_default() != seen {
        return Ok(Saved::Meanwhile);
    }
    match url {
        Some(url) => {
            sqlx::query!(
                r#"
                insert into webhook (organization_id, url, secret) values ($1, $2, $3)
                on conflict (organization_id) do update set url = excluded.url, set_at = now()
                "#,
                organization as OrganizationId,
                url as &WebhookUrl,
                &rand::random::<[u8; 32]>()[..],
            )
            .execute(&mut *transaction)
            .await?
        }
        None => {
            sqlx::query!("delete from webhook where organization_id = $1", organization as OrganizationId)
                .execute(&mut *transaction)
                .await?
        }
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if url.is_some() { "webhook.set" } else { "webhook.delete" },
        subject: "the organization".to_owned(),
        before,
        after: url.map(ToString::to_string),
    };
    transaction.commit_change(&[], audit).await.map(|committed| Saved::Changed(committed.id))
}

/// Gives the webhook a new secret, unless it is not the one any more that the form was shown with. What is sent from
/// then on is signed with it.
pub async fn renew_secret(
    mut transaction: OrganizationTransaction,
    seen: &WebhookSecret,
    actor: &str,
) -> Result<Saved> {
    let organization = transaction.organization();
    let Some(url) = locked(&mut transaction).await? else { return Ok(Saved::Meanwhile) };
    let renewed = sqlx::query!(
        "update webhook set secret = $2 where organization_id = $1 and secret = $3",
        organization as OrganizationId,
        &rand::random::<[u8; 32]>()[..],
        &seen.0[..],
    )
    .execute(&mut *transaction)
    .await?;
    if renewed.rows_affected() == 0 {
        return Ok(Saved::Unchanged);
    }
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "webhook.secret",
        subject: url.to_string(),
        before: None,
        after: None,
    };
    transaction.commit_change(&[], audit).await.map(|committed| Saved::Changed(committed.id))
}

async fn locked(transaction: &mut OrganizationTransaction) -> Result<Option<WebhookUrl>> {
    let organization = transaction.organization();
    // The organization's row, so that two who set the first one take turns.
    sqlx::query!("select id from organization where id = $1 for no key update", organization as OrganizationId)
        .fetch_one(&mut **transaction)
        .await?;
    sqlx::query_scalar!(
        r#"select url as "url: WebhookUrl" from webhook where organization_id = $1"#,
        organization as OrganizationId
    )
    .fetch_optional(&mut **transaction)
    .await
}

/// How many test notices may be waiting or just sent, in a minute.
const TESTS_A_MINUTE: i64 = 3;

/// Notes what is to be told, if the organization has a webhook.
pub async fn note(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    notice: &WebhookNotice,
    now: OffsetDateTime,
) -> Result<bool> {
    let noted = sqlx::query!(
        r#"
        insert into webhook_notice (organization_id, id, kind, body, noted_at, next_at)
        select $1, $2, $3, $4, $5, $5 where exists (select from webhook where organization_id = $1)
        "#,
        organization as OrganizationId,
        Uuid::now_v7(),
        notice.kind.as_str(),
        notice.body(),
        now,
    )
    .execute(db)
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// Whether there were so many test notices within a minute that no more are noted.
pub async fn has_enough_tests(db: impl PgExecutor<'_>, organization: OrganizationId) -> Result<bool> {
    sqlx::query_scalar!(
        r#"
        select count(*) >= $2 as "enough!" from webhook_notice
        where organization_id = $1 and kind = 'test' and noted_at > now() - interval '1 minute'
        "#,
        organization as OrganizationId,
        TESTS_A_MINUTE,
    )
    .fetch_one(db)
    .await
}

/// A notice that is due, with where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub organization: OrganizationId,
    pub id: Uuid,
    pub body: String,
    pub noted_at: OffsetDateTime,
    /// This one counted.
    pub attempts: i32,
    pub webhook: Webhook,
}

/// Takes what is due at `now`, of each organization the oldest alone: a server that does not answer holds up its own
/// organization. Another relay may take it up after `lease`. At most so many, and none of organizations that wait here
/// for an answer (`but`).
pub async fn take_across_tenants(
    db: &PgPool,
    now: OffsetDateTime,
    lease: time::Duration,
    but: &[OrganizationId],
    most: i64,
) -> Result<Vec<Due>> {
    sqlx::query!(
        r#"
        with due as (
            select organization_id, id from webhook_notice one
            where ended_at is null and next_at <= $1 and organization_id <> all ($3)
              and not exists (select from webhook_notice earlier
                              where earlier.organization_id = one.organization_id and earlier.ended_at is null
                                and earlier.next_at <= $1 and earlier.id < one.id)
            order by next_at limit $4
            for update skip locked
        ), taken as (
            update webhook_notice set next_at = $2, attempts = attempts + 1
            from due where webhook_notice.organization_id = due.organization_id and webhook_notice.id = due.id
            returning webhook_notice.*
        )
        select taken.organization_id as "organization: OrganizationId", taken.id, taken.body, taken.noted_at,
               taken.attempts, webhook.url as "url: WebhookUrl", webhook.secret
        from taken
        join webhook on webhook.organization_id = taken.organization_id
        "#,
        now,
        now + lease,
        but as &[OrganizationId],
        most,
    )
    .try_map(|row| {
        Ok(Due {
            organization: row.organization,
            id: row.id,
            body: row.body,
            noted_at: row.noted_at,
            attempts: row.attempts,
            webhook: Webhook { url: row.url, secret: secret(row.secret)? },
        })
    })
    .fetch_all(db)
    .await
}

/// Notes what came of an attempt, and when it is tried again; `None`: it is done with. Old ones are forgotten.
pub async fn attempted_across_tenants(
    db: &mut PgConnection,
    due: &Due,
    taken: bool,
    outcome: &str,
    again: Option<OffsetDateTime>,
) -> Result<()> {
    sqlx::query!(
        r#"
        update webhook_notice
        set outcome = $3, taken = $4, next_at = coalesce($5, next_at), ended_at = case when $5::timestamptz is null then now() end
        where organization_id = $1 and id = $2 and attempts = $6
        "#,
        due.organization as OrganizationId,
        due.id,
        outcome,
        taken,
        again,
        due.attempts,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "delete from webhook_notice where organization_id = $1 and noted_at < now() - interval '30 days'",
        due.organization as OrganizationId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// What nobody is to be told any more: their organization has no webhook.
pub async fn forget_unwanted_across_tenants(db: &PgPool) -> Result<()> {
    sqlx::query!(
        r#"
        update webhook_notice set ended_at = now(), outcome = 'the webhook was deleted'
        where ended_at is null
          and not exists (select from webhook where webhook.organization_id = webhook_notice.organization_id)
        "#
    )
    .execute(db)
    .await
    .map(drop)
}

/// A notice as the page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub kind: String,
    pub noted_at: OffsetDateTime,
    pub attempts: i32,
    pub outcome: Option<String>,
    /// When it is tried next; `None`: it is done with.
    pub next_at: Option<OffsetDateTime>,
    pub taken: bool,
}

/// The newest of the organization first.
pub async fn list(db: impl PgExecutor<'_>, organization: OrganizationId, most: i64) -> Result<Vec<Listed>> {
    sqlx::query_as!(
        Listed,
        r#"
        select kind, noted_at, attempts, outcome, case when ended_at is null then next_at end as next_at, taken
        from webhook_notice where organization_id = $1 order by id desc limit $2
        "#,
        organization as OrganizationId,
        most,
    )
    .fetch_all(db)
    .await
}
