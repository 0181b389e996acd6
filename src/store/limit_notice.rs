//! Of whose limits administrators were told when: once an hour and subject. Written by relays, in the transaction that
//! queues what they tell.

use sqlx::{PgConnection, PgExecutor};
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

/// Notes that administrators are told of it at `now`, and with which words: what was counted, and what happens. False if
/// they were within the last hour, or if one of them has said that the subject stays slowed down; that it is stopped they
/// are told all the same.
pub async fn note_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (subject, level): (&Subject, Level),
    (counted, happens): (&str, &str),
    now: OffsetDateTime,
) -> Result<bool> {
    let (kind, subject) = volume::columns(subject);
    let noted = sqlx::query!(
        r#"
        insert into limit_notice (organization_id, kind, subject, level, noticed_at, said_at, counted, happens)
        select $1, $2, $3, $4, $5::timestamptz, $5, $7, $8
        where $4 = 'stopped' or not exists (
            select from throttle
            where organization_id = $1 and kind = $2 and subject = $3 and kept_at is not null and turn_at > $5)
        on conflict (organization_id, kind, subject, level) do update
        set noticed_at = excluded.noticed_at, said_at = excluded.said_at, counted = excluded.counted,
            happens = excluded.happens
        where limit_notice.noticed_at <= $6
        "#,
        organization as OrganizationId,
        kind,
        subject,
        level as Level,
        now,
        now - AGAIN,
        counted,
        happens,
    );
    noted.execute(db).await.map(|noted| noted.rows_affected() == 1)
}

/// Somebody whom administrators were told of.
#[derive(Debug, Clone)]
pub struct Noticed {
    pub subject: Subject,
    /// The account's User ID, where it is one that is still there.
    pub user_id: Option<Mailbox>,
    pub level: Level,
    pub at: OffsetDateTime,
    /// What was counted, and what is allowed.
    pub counted: String,
    /// What happens to further mail.
    pub happens: String,
}

/// Whom administrators were told of since then, the latest first, so many at most.
pub async fn noticed(
    db: &mut PgConnection,
    organization: OrganizationId,
    since: OffsetDateTime,
    most: i64,
) -> Result<Vec<Noticed>> {
    sqlx::query!(
        r#"
        select notice.kind, notice.subject, level as "level: Level", said_at as "at!", counted, happens,
               account.user_id as "user_id?: Mailbox"
        from limit_notice notice
        left join mail_account account on account.organization_id = $1
             and account.id = case when notice.kind = 'account' then notice.subject::uuid end
        where notice.organization_id = $1 and said_at > $2
        order by said_at desc, notice.kind, notice.subject, level
        limit $3
        "#,
        organization as OrganizationId,
        since,
        most,
    )
    .try_map(|row| {
        Ok(Noticed {
            subject: volume::subject_of(&row.kind, &row.subject)?,
            user_id: row.user_id,
            level: row.level,
            at: row.at,
            counted: row.counted,
            happens: row.happens,
        })
    })
    .fetch_all(db)
    .await
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
