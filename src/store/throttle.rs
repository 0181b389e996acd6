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
    (organization, exceeded): (OrganizationId, &Exceeded),
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
            -- What an administrator has said of it is over with it.
            kept_at = case when throttle.turn_at >= $7::timestamptz then throttle.kept_at end,
            kept_by = case when throttle.turn_at >= $7::timestamptz then throttle.kept_by end,
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

/// When that turn would be, however late.
pub async fn turn_across_tenants(
    db: impl PgExecutor<'_>,
    (organization, exceeded): (OrganizationId, &Exceeded),
    now: OffsetDateTime,
) -> Result<OffsetDateTime> {
    let (kind, subject) = volume::columns(&exceeded.applied.subject);
    let last = sqlx::query_scalar!(
        r#"
        select turn_at from throttle
        where organization_id = $1 and kind = $2 and subject = $3 and time_window = $4 and unit = $5
        "#,
        organization as OrganizationId,
        kind,
        subject,
        exceeded.applied.kind.window as Window,
        exceeded.applied.kind.unit as Unit,
    );
    let last = last.fetch_optional(db).await?;
    Ok(last.map_or(now, |last| last.max(now)) + exceeded.takes().max(Duration::ZERO))
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
    /// How many messages wait now: of the account; of the domain or the organization those whose sender is not slowed down
    /// by a limit of its own.
    pub messages: i64,
    /// Who has said that it stays so, and when.
    pub kept: Option<(String, OffsetDateTime)>,
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
               account.user_id as "user_id?: Mailbox", kept_at, kept_by,
               (select count(*) from queued_message message
                where message.organization_id = $1 and message.throttled_until > $2 and message.state = 'waiting'
                  and case kind
                      when 'account' then message.sender_account::text = throttle.subject
                      when 'no-account' then message.sender_account is null and message.sender_domain = throttle.subject
                      else (kind = 'organization' or message.sender_domain = throttle.subject) and not exists (
                          select from throttle own
                          where own.organization_id = $1 and own.turn_at > $2
                            and case own.kind when 'account' then own.subject = message.sender_account::text
                                              when 'no-account' then message.sender_account is null
                                                                     and own.subject = message.sender_domain
                                              else own.kind = 'domain' and throttle.kind = 'organization'
                                                   and own.subject = message.sender_domain end)
                      end) as "messages!"
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
            kept: row.kept_by.zip(row.kept_at),
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

/// How many messages were let go, or stay, and the change that said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    NotFound,
    /// None of these waits for a limit.
    Nothing,
    Changed(i64, Committed),
}

/// Locks what mail is counted together of, and says what it is called; `None` if it is not there.
async fn name(transaction: &mut OrganizationTransaction, subject: &Subject) -> Result<Option<String>> {
    Ok(match subject {
        Subject::Organization => lock(transaction, &SetAt::Organization).await?,
        Subject::Domain(name) => lock(transaction, &SetAt::Domain(name.clone())).await?,
        Subject::Account(account) => lock(transaction, &SetAt::Account(*account)).await?,
        Subject::NoAccount(domain) => {
            let name = lock(transaction, &SetAt::Domain(domain.clone())).await?;
            name.map(|name| format!("senders of {name} without an account"))
        }
    })
}

/// What they are called together; `None` if one of them is not there.
async fn names(transaction: &mut OrganizationTransaction, subjects: &[Subject]) -> Result<Option<String>> {
    let mut names = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let Some(name) = name(transaction, subject).await? else { return Ok(None) };
        names.push(name);
    }
    Ok(Some(names.join(", ")))
}

/// Lets everything go that waits for a limit of these, as one change without items: nothing that routes is another. Of a
/// domain and the organization that is what waits for their own limits alone, see [`Throttled::messages`]. Nothing is let
/// go if one of them is not there.
pub async fn let_go(
    mut transaction: OrganizationTransaction,
    subjects: &[Subject],
    now: OffsetDateTime,
    actor: &str,
) -> Result<Decided> {
    let Some(names) = names(&mut transaction, subjects).await? else { return Ok(Decided::NotFound) };
    let mut messages = 0;
    for subject in subjects {
        messages += let_one_go(&mut transaction, subject, now).await?;
    }
    if messages == 0 {
        return Ok(Decided::Nothing);
    }
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "limit.let-go",
        subject: names,
        before: Some(match messages {
            1 => "1 message waited for a limit".to_owned(),
            _ => format!("{messages} messages waited for a limit"),
        }),
        after: Some("sent now".to_owned()),
    };
    let committed = transaction.commit_change(&[], audit).await?;
    Ok(Decided::Changed(messages, committed))
}

async fn let_one_go(transaction: &mut OrganizationTransaction, subject: &Subject, now: OffsetDateTime) -> Result<i64> {
    let organization = transaction.organization();
    let (kind, subject) = volume::columns(subject);
    let done = sqlx::query!(
        r#"
        update queued_message message
        set throttled_until = null,
            next_attempt_at = case when lease_token is null then $4 else next_attempt_at end
        where organization_id = $1 and throttled_until > $4 and state = 'waiting'
          and case $2::text
              when 'account' then sender_account::text = $3
              when 'no-account' then sender_account is null and sender_domain = $3
              else ($2 = 'organization' or sender_domain = $3) and not exists (
                  select from throttle own
                  where own.organization_id = $1 and own.turn_at > $4
                    and case own.kind when 'account' then own.subject = message.sender_account::text
                                      when 'no-account' then message.sender_account is null
                                                             and own.subject = message.sender_domain
                                      else own.kind = 'domain' and $2 = 'organization'
                                           and own.subject = message.sender_domain end)
              end
        "#,
        organization as OrganizationId,
        kind,
        subject,
        now,
    );
    let messages = i64::try_from(done.execute(&mut **transaction).await?.rows_affected()).unwrap_or(i64::MAX);
    if messages > 0 {
        sqlx::query!(
            "delete from throttle where organization_id = $1 and kind = $2 and subject = $3",
            organization as OrganizationId,
            kind,
            subject,
        )
        .execute(&mut **transaction)
        .await?;
    }
    Ok(messages)
}

/// Says that these stay slowed down: administrators are not told of them again until that is over. Of whom it was said
/// already it is not said again.
pub async fn keep(
    mut transaction: OrganizationTransaction,
    subjects: &[Subject],
    now: OffsetDateTime,
    actor: &str,
) -> Result<Decided> {
    let organization = transaction.organization();
    let Some(names) = names(&mut transaction, subjects).await? else { return Ok(Decided::NotFound) };
    let mut limits = 0;
    for subject in subjects {
        let (kind, subject) = volume::columns(subject);
        let done = sqlx::query!(
            r#"
            update throttle set kept_at = $4, kept_by = $5
            where organization_id = $1 and kind = $2 and subject = $3 and turn_at > $4 and kept_at is null
            "#,
            organization as OrganizationId,
            kind,
            subject,
            now,
            actor,
        );
        limits += i64::try_from(done.execute(&mut *transaction).await?.rows_affected()).unwrap_or(i64::MAX);
    }
    if limits == 0 {
        return Ok(Decided::Nothing);
    }
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "limit.keep",
        subject: names,
        before: None,
        after: Some("stays slowed down".to_owned()),
    };
    let committed = transaction.commit_change(&[], audit).await?;
    Ok(Decided::Changed(limits, committed))
}

/// A sender of whom mail is held for a limit.
#[derive(Debug, Clone)]
pub struct HeldSender {
    /// An account, or all senders of a domain that no account has.
    pub subject: Subject,
    /// The account's User ID, where it is one that is still there.
    pub user_id: Option<Mailbox>,
    pub messages: i64,
    /// When the first of them was accepted.
    pub since: OffsetDateTime,
    /// Why the latest is held.
    pub why: String,
}

/// Of whom mail is held for a limit and nobody has decided about it, who has most first.
pub async fn held(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<HeldSender>> {
    sqlx::query!(
        r#"
        with held as (
            select sender_account, case when sender_account is null then sender_domain end as domain,
                   count(*) as messages, min(accepted_at) as since,
                   (array_agg(last_reply order by accepted_at desc))[1] as why
            from queued_message
            where organization_id = $1 and held_because = 'over-limit' and choice is null
            group by 1, 2
        )
        select held.sender_account as "account: AccountId", coalesce(held.domain, '') as "domain!",
               held.messages as "messages!", held.since as "since!", coalesce(held.why, '') as "why!",
               account.user_id as "user_id?: Mailbox"
        from held
        left join mail_account account on account.organization_id = $1 and account.id = held.sender_account
        order by held.messages desc, held.since
        limit 100
        "#,
        organization as OrganizationId,
    )
    .try_map(|row| {
        let subject = match row.account {
            Some(account) => Subject::Account(account),
            None => volume::subject_of("no-account", &row.domain)?,
        };
        Ok(HeldSender { subject, user_id: row.user_id, messages: row.messages, since: row.since, why: row.why })
    })
    .fetch_all(db)
    .await
}

/// Holds everything of a sender that waits, for a limit or for its gateway, until an administrator decides: of an account
/// from whichever of its addresses. Returns how many messages there were.
pub async fn hold_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    (account, domain): (Option<AccountId>, &DomainName),
    (words, held_for): (&str, Duration),
) -> Result<u64> {
    let done = sqlx::query!(
        r#"
        update queued_message
        set state = 'held', held_because = 'over-limit', last_reply = $4, throttled_until = null,
            expires_at = accepted_at + make_interval(secs => $5), next_attempt_at = accepted_at + make_interval(secs => $5)
        where organization_id = $1 and sender is not null and sender_account is not distinct from $2
          and ($2::uuid is not null or sender_domain = $3)
          and state = 'waiting' and lease_token is null and choice is null and retry_wished_at is null
        "#,
        organization as OrganizationId,
        account as Option<AccountId>,
        domain as &DomainName,
        words,
        held_for.as_seconds_f64(),
    );
    done.execute(db).await.map(|done| done.rows_affected())
}
