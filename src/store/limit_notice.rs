//! Of whose limits administrators were told when: once an hour and subject. Written by relays, in the transaction that
//! queues what they tell.

use sqlx::PgExecutor;
use time::{Duration, OffsetDateTime};

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, Committed},
    volume,
};
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

/// Who is told of what.
#[derive(Debug, Clone)]
pub struct Names {
    /// The organization's for people.
    pub organization: String,
    pub slug: String,
    /// Whether senders are told, too.
    pub tell_senders: bool,
    /// Of the account, if it is about one that is still there.
    pub user_id: Option<Mailbox>,
}

/// Of an organization and one of its accounts.
pub async fn names_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    account: Option<AccountId>,
) -> Result<Names> {
    sqlx::query_as!(
        Names,
        r#"
        select organization.name as organization, organization.slug, organization.tell_senders, account.user_id as "user_id?: Mailbox"
        from organization
        left join mail_account account on account.organization_id = organization.id and account.id = $2
        where organization.id = $1
        "#,
        organization as OrganizationId,
        account as Option<AccountId>,
    )
    .fetch_one(db)
    .await
}

/// Whether the organization's senders are told, too.
pub async fn tells_senders(db: impl PgExecutor<'_>, organization: OrganizationId) -> Result<bool> {
    sqlx::query_scalar!("select tell_senders from organization where id = $1", organization as OrganizationId)
        .fetch_one(db)
        .await
}

/// Says whether senders are told. `None`: it was so already.
pub async fn set_tells_senders(
    mut transaction: OrganizationTransaction,
    wanted: bool,
    actor: &str,
) -> Result<Option<Committed>> {
    let changed = sqlx::query!(
        "update organization set tell_senders = $2 where id = $1 and tell_senders <> $2",
        transaction.organization() as OrganizationId,
        wanted,
    )
    .execute(&mut *transaction)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(None);
    }
    let word = |yes: bool| Some(if yes { "yes" } else { "no" }.to_owned());
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "notices.senders",
        subject: "the organization".to_owned(),
        before: word(!wanted),
        after: word(wanted),
    };
    transaction.commit_change(&[], audit).await.map(Some)
}
