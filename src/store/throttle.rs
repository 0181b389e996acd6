//! Who is slowed down: the turns that relays give to mail beyond a limit, and letting go or holding what waits for one.
//! What a limit is stands in `limit`; relays judge by it, `relay::meter`.

use sqlx::{PgConnection, PgExecutor};
use time::{Duration, OffsetDateTime};

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, Committed},
    limit::lock,
    volume,
};
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{AccountId, OrganizationId},
    },
    policy::{
        limit::{Exceeded, SetAt, Window},
        volume::{Subject, Unit},
    },
};

/// Gives a message its turn behind everybody who is slowed down by the same limit: when it may leave. `None`: so much
/// waits already that it would be later than `latest`, and no turn was given.
pub async fn take_turn_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    exceeded: &Exceeded,
    now: OffsetDateTime,
    latest: OffsetDateTime,
) -> Result<Option<OffsetDateTime>> {
    let (kind, subject) = volume::columns(&exceeded.applied.subject);
    let takes = exceeded.takes().max(Duration::ZERO).as_seconds_f64();
    sqlx::query_scalar!(
        r#"
        insert into throttle (organization_id, kind, subject, time_window, unit, most, since, turn_at)
        select $1, $2, $3, $4, $5, $6, $7::timestamptz, $7::timestamptz + make_interval(secs => $8)
        where $7::timestamptz + make_interval(secs => $8) <= $9::timestamptz
        on conflict (organization_id, kind, subject, time_window, unit) do update
        set most = excluded.most,
            since = case when throttle.turn_at < $7::timestamptz then $7::timestamptz else throttle.since end,
            turn_at = greatest(throttle.turn_at, $7::timestamptz) + make_interval(secs => $8)
        where greatest(throttle.turn_at, $7::timestamptz) + make_interval(secs => $8) <= $9::timestamptz
        returning turn_at
        "#,
        organization as OrganizationId,
        kind,
        subject,
        exceeded.applied.kind.window as Window,
        exceeded.applied.kind.unit as Unit,
        exceeded.most.cast_signed(),
        now,
        takes,
        latest,
    )
    .fetch_optional(db)
    .await
}

/// Somebody who is slowed down.
#[derive(Debug, Clone)]
pub struct Throttled {
    /// Whose mail is counted together.
    pub subject: Subject,
    /// The account's User ID, where it is one that is still there.
    pub user_id: Option<Mailbox>,
    pub window: Window,
    pub unit: Unit,
    pub most: u32,
    pub since: OffsetDateTime,
    /// When the last that waits for it leaves.
    pub until: OffsetDateTime,
    /// How many messages wait now: of the account, of the domain, of the organization.
    pub messages: i64,
}

/// Everybody who is slowed down at `now`, who is so for the longest first.
pub async fn throttled(
    db: &mut PgConnection,
    organization: OrganizationId,
    now: OffsetDateTime,
) -> Result<Vec<Throttled>> {
    sqlx::query!(
        r#"
        select kind, throttle.subject, time_window as "window: Window", unit as "unit: Unit", most, since, turn_at,
               account.user_id as "user_id?: Mailbox",
               (select count(*) from queued_message message
                where message.organization_id = $1 and message.throttled_until > $2 and message.state = 'waiting'
                  and case kind
                      when 'account' then message.sender_account::text = throttle.subject
                      when 'domain' then message.sender_domain = throttle.subject
                      when 'no-account' then message.sender_account is null and message.sender_domain = throttle.subject
                      else true end) as "messages!"
        from throttle
        left join mail_account account on account.organization_id = $1
             and account.id = case when kind = 'account' then throttle.subject::uuid end
        where throttle.organization_id = $1 and turn_at > $2
        order by since, kind, throttle.subject, time_window, unit
        limit 100
        "#,
        organization as OrganizationId,
        now,
    )
    .try_map(|row| {
        Ok(Throttled {
            subject: volume::subject_of(&row.kind, &row.subject)?,
            user_id: row.user_id,
            window: row.window,
            unit: row.unit,
            most: row.most.cast_unsigned(),
            since: row.since,
            until: row.turn_at,
            messages: row.messages,
        })
    })
    .fetch_all(db)
    .await
}

/// How long somebody is slowed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub since: OffsetDateTime,
    /// When the last leaves that waits.
    pub until: OffsetDateTime,
}

/// Since when and until when a sender is slowed down, by limits of its own or of all together; `None`: it is not, or not
/// any more.
pub async fn standing_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (account, domain): (Option<AccountId>, Option<&DomainName>),
    now: OffsetDateTime,
) -> Result<Option<Standing>> {
    let found = sqlx::query!(
        r#"
        select min(since) as since, max(turn_at) as until from throttle
        where organization_id = $1 and turn_at > $4
          and case kind when 'account' then subject = $2::uuid::text
                        when 'no-account' then $2::uuid is null and subject = $3
                        when 'domain' then subject = $3
                        else true end
        "#,
        organization as OrganizationId,
        account as Option<AccountId>,
        domain as Option<&DomainName>,
        now,
    )
    .fetch_one(db)
    .await?;
    Ok(found.since.zip(found.until).map(|(since, until)| Standing { since, until }))
}

/// How many messages of an account were let go, and the change that did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetGo {
    NotFound,
    /// Nothing of it waits for a limit.
    Nothing,
    Changed(i64, Committed),
}

/// Lets everything of an account go that waits for a limit, as one change without items: nothing that routes is another.
pub async fn let_go(
    mut transaction: OrganizationTransaction,
    account: AccountId,
    now: OffsetDateTime,
    actor: &str,
) -> Result<LetGo> {
    let organization = transaction.organization();
    let Some(name) = lock(&mut transaction, &SetAt::Account(account)).await? else { return Ok(LetGo::NotFound) };
    let done = sqlx::query!(
        r#"
        update queued_message
        set throttled_until = null,
            next_attempt_at = case when lease_token is null then $3 else next_attempt_at end
        where organization_id = $1 and sender_account = $2 and throttled_until > $3 and state = 'waiting'
        "#,
        organization as OrganizationId,
        account as AccountId,
        now,
    );
    let messages = i64::try_from(done.execute(&mut *transaction).await?.rows_affected()).unwrap_or(i64::MAX);
    if messages == 0 {
        return Ok(LetGo::Nothing);
    }
    sqlx::query!(
        "delete from throttle where organization_id = $1 and kind = 'account' and subject = $2",
        organization as OrganizationId,
        account.to_string(),
    )
    .execute(&mut *transaction)
    .await?;
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "limit.let-go",
        subject: name,
        before: Some(format!("{messages} messages waited for a limit")),
        after: Some("sent now".to_owned()),
    };
    let committed = transaction.commit_change(&[], audit).await?;
    Ok(LetGo::Changed(messages, committed))
}

/// Holds everything of a sender that waits for a limit, until an administrator decides. Returns how many there were.
pub async fn hold_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (account, domain): (Option<AccountId>, &DomainName),
    (words, held_for): (&str, Duration),
    now: OffsetDateTime,
) -> Result<u64> {
    let done = sqlx::query!(
        r#"
        update queued_message
        set state = 'held', held_because = 'over-limit', last_reply = $5, throttled_until = null,
            expires_at = accepted_at + make_interval(secs => $6), next_attempt_at = accepted_at + make_interval(secs => $6)
        where organization_id = $1 and sender_account is not distinct from $2 and sender_domain = $3
          and throttled_until > $4 and state = 'waiting' and lease_token is null and choice is null
        "#,
        organization as OrganizationId,
        account as Option<AccountId>,
        domain as &DomainName,
        now,
        words,
        held_for.as_seconds_f64(),
    );
    done.execute(db).await.map(|done| done.rows_affected())
}
