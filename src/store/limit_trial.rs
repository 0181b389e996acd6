//! What a limit would have done: whom it would have been about, and what they sent in the time that is looked back at.
//! What that comes to is `policy::limit_trial`'s.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Result, correspondents, volume};
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{AccountId, OrganizationId},
    },
    policy::{
        correspondents::Correspondents,
        limit::{Action, Kind, SetAt, Whose, Window, quiet},
        limit_trial::{Sent, Trials, counts_since, first_time, since, trial},
        volume::{Count, Subject, Unit},
    },
};

/// How many of an organization's accounts a limit is tried with at most: those who sent most at a time.
pub const MOST_TRIED: usize = 1000;
/// How many are read at a time.
const AT_ONCE: usize = 100;

/// Whom a limit would have been about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    Account(AccountId, Mailbox),
    /// Senders of a mail domain that no account has, together.
    NoAccount(DomainName),
    /// All of what the limit is set at, together.
    All,
}

/// What a limit would have done, and whether that was found out of everybody.
#[derive(Debug)]
pub struct Tried {
    pub trials: Trials<Sender>,
    pub is_all: bool,
}

/// Tries a limit with what was sent until `now` by those for whom it would hold: not by accounts and mail domains that
/// have one of the kind themselves.
pub async fn try_out(
    db: &mut PgConnection,
    organization: OrganizationId,
    (at, kind, (most, action)): (&SetAt, Kind, (u32, Action)),
    now: OffsetDateTime,
) -> Result<Tried> {
    if kind.window == Window::FirstTime {
        return try_first_time(db, organization, (at, kind, most), now).await;
    }
    if kind.window.is_one_message() {
        // Counts are of minutes and hours.
        return Ok(Tried { trials: Trials::default(), is_all: true });
    }
    let since = since(kind.window, now);
    let mut senders: Vec<(Subject, Sender)> = match (at, kind.whose) {
        (SetAt::Organization, Whose::Total) => vec![(Subject::Organization, Sender::All)],
        (SetAt::Domain(name), Whose::Total) => vec![(Subject::Domain(name.clone()), Sender::All)],
        (SetAt::Account(account), _) => vec![(Subject::Account(*account), Sender::All)],
        (SetAt::Organization, _) => accounts(db, organization, (None, kind, most), since).await?,
        (SetAt::Domain(name), _) => accounts(db, organization, (Some(name), kind, most), since).await?,
    };
    let is_all = senders.len() <= MOST_TRIED;
    senders.truncate(MOST_TRIED);
    if kind.whose == Whose::Service && !matches!(at, SetAt::Account(_)) {
        senders.extend(without_account(db, organization, at, kind).await?);
    }
    let mut trials = Trials::default();
    for some in senders.chunks(AT_ONCE) {
        let sent = sent(db, organization, some, (kind, counts_since(kind.window, now))).await?;
        for ((_, sender), sent) in some.iter().zip(sent) {
            trials.add(sender.clone(), trial(kind, (most, action), &sent, since));
        }
    }
    Ok(Tried { trials, is_all })
}

/// The same of a limit of those who are written to for the first time.
async fn try_first_time(
    db: &mut PgConnection,
    organization: OrganizationId,
    (at, kind, most): (&SetAt, Kind, u32),
    now: OffsetDateTime,
) -> Result<Tried> {
    let accounts = match at {
        SetAt::Account(account) => vec![(*account, Sender::All)],
        SetAt::Domain(name) => knowing_many(db, organization, (Some(name), kind, most)).await?,
        SetAt::Organization => knowing_many(db, organization, (None, kind, most)).await?,
    };
    let mut trials = Trials::default();
    for some in accounts[..accounts.len().min(MOST_TRIED)].chunks(AT_ONCE) {
        let asked: Vec<_> = some.iter().map(|(account, _)| ((organization, *account), Vec::new())).collect();
        let known = correspondents::known(db, &asked).await?;
        for ((_, sender), (known, from)) in some.iter().zip(known) {
            trials.add(sender.clone(), first_time(most, &known, from, since(kind.window, now)));
        }
    }
    Ok(Tried { trials, is_all: accounts.len() <= MOST_TRIED })
}

/// The accounts that know more than so many, one more than are tried at most.
async fn knowing_many(
    db: &mut PgConnection,
    organization: OrganizationId,
    (domain, kind, most): (Option<&DomainName>, Kind, u32),
) -> Result<Vec<(AccountId, Sender)>> {
    let found = sqlx::query!(
        r#"
        select account.id as "id!: AccountId", account.user_id as "user_id!: Mailbox"
        from correspondents
        join mail_account account on account.organization_id = $1 and account.id = correspondents.account_id
        where correspondents.organization_id = $1 and octet_length(known) > $2
          and ($3::text is null or account.domain = $3)
          and $4 = exists (select from sender_control
                           where organization_id = $1 and account_id = account.id and service)
          and not exists (
              select from sending_limit own
              where own.organization_id = $1 and own.time_window = $5 and own.unit = $6
                and ((own.kind = 'account' and own.subject = account.id::text)
                     or ($3::text is null and own.kind = 'domain' and own.subject = account.domain and own.whose = $7)))
        order by octet_length(known) desc, account.user_id
        limit $8
        "#,
        organization as OrganizationId,
        i32::try_from(Correspondents::bytes_of(most)).unwrap_or(i32::MAX),
        domain as Option<&DomainName>,
        kind.whose == Whose::Service,
        kind.window as Window,
        kind.unit as Unit,
        kind.whose as Whose,
        MOST_TRIED as i64 + 1,
    );
    found.map(|row| (row.id, Sender::Account(row.id, row.user_id))).fetch_all(db).await
}

/// The accounts that may have exceeded a limit, one more than are tried at most. Any day of 24 hours lies in two days of
/// the calendar, and has half of it in one of them.
async fn accounts(
    db: &mut PgConnection,
    organization: OrganizationId,
    (domain, kind, most): (Option<&DomainName>, Kind, u32),
    since: OffsetDateTime,
) -> Result<Vec<(Subject, Sender)>> {
    let parts = if kind.window == Window::Day { 2 } else { 1 };
    let (step, most) = match kind.window {
        Window::Usual => (Window::Hour, quiet(most)),
        window => (window, most),
    };
    let found = sqlx::query!(
        r#"
        with counted as (
            select subject, date_trunc($11, hour, 'UTC') as step, messages, recipients, external
            from volume_hour where $3 <> 'minute' and organization_id = $1 and hour >= $2 and kind = 'account'
            union all
            select subject, minute, messages, recipients, external
            from volume_minute where $3 = 'minute' and organization_id = $1 and minute >= $2 and kind = 'account'
        ), exceeding as materialized (
            select subject, step,
                   sum(case $4 when 'messages' then messages when 'recipients' then recipients else external end) as n
            from counted group by subject, step
            having sum(case $4 when 'messages' then messages when 'recipients' then recipients else external end)
                   * $5::bigint > $6::bigint
        ), sent as materialized (
            select subject, max(n) as n from exceeding group by subject
        )
        select account.id as "id!: AccountId", account.user_id as "user_id!: Mailbox"
        from sent
        -- Kept from being turned around: the accounts are many.
        join lateral (
            select id, user_id, domain from mail_account where organization_id = $1 and id = sent.subject::uuid offset 0
        ) as account on true
        where ($7::text is null or account.domain = $7)
          and $8 = exists (select from sender_control
                           where organization_id = $1 and account_id = account.id and service)
          and not exists (
              select from sending_limit own
              where own.organization_id = $1 and own.time_window = $3 and own.unit = $4
                and ((own.kind = 'account' and own.subject = sent.subject)
                     or ($7::text is null and own.kind = 'domain' and own.subject = account.domain and own.whose = $9)))
        order by sent.n desc, account.user_id
        limit $10
        "#,
        organization as OrganizationId,
        since,
        kind.window as Window,
        kind.unit as Unit,
        i64::from(parts),
        i64::from(most),
        domain as Option<&DomainName>,
        kind.whose == Whose::Service,
        kind.whose as Whose,
        MOST_TRIED as i64 + 1,
        step as Window,
    );
    let found = found.map(|row| (Subject::Account(row.id), Sender::Account(row.id, row.user_id)));
    found.fetch_all(db).await
}

/// The mail domains whose senders without an account a limit of service accounts would have been about.
async fn without_account(
    db: &mut PgConnection,
    organization: OrganizationId,
    at: &SetAt,
    kind: Kind,
) -> Result<Vec<(Subject, Sender)>> {
    let only = match at {
        SetAt::Domain(name) => Some(name),
        SetAt::Organization | SetAt::Account(_) => None,
    };
    let found = sqlx::query_scalar!(
        r#"
        select name as "name: DomainName" from mail_domain
        where organization_id = $1 and ($2::text is null or name = $2)
          and ($2::text is not null or not exists (
              select from sending_limit own
              where own.organization_id = $1 and own.kind = 'domain' and own.subject = name
                and own.whose = 'service' and own.time_window = $3 and own.unit = $4))
        order by name limit $5
        "#,
        organization as OrganizationId,
        only as Option<&DomainName>,
        kind.window as Window,
        kind.unit as Unit,
        MOST_TRIED as i64,
    );
    let found = found.fetch_all(db).await?;
    Ok(found.into_iter().map(|name| (Subject::NoAccount(name.clone()), Sender::NoAccount(name))).collect())
}

/// What each of these has sent since then, in their order.
async fn sent(
    db: &mut PgConnection,
    organization: OrganizationId,
    senders: &[(Subject, Sender)],
    (kind, since): (Kind, OffsetDateTime),
) -> Result<Vec<Sent>> {
    let (kinds, subjects): (Vec<&str>, Vec<String>) =
        senders.iter().map(|(subject, _)| volume::columns(subject)).unzip();
    let rows = sqlx::query!(
        r#"
        select sender.position as "position!", counted.at as "at!", counted.messages as "messages!",
               counted.recipients as "recipients!", counted.external as "external!", first.hour as "first?"
        from unnest($2::text[], $3::text[]) with ordinality as sender (kind, subject, position)
        cross join lateral (
            select hour as at, messages, recipients, external from volume_hour
            where $5 <> 'minute' and organization_id = $1 and kind = sender.kind and subject = sender.subject
              and hour >= $4
            union all
            select minute, messages, recipients, external from volume_minute
            where $5 = 'minute' and organization_id = $1 and kind = sender.kind and subject = sender.subject
              and minute >= $4
        ) as counted
        left join lateral (
            select hour from volume_hour
            where $5 = 'usual' and organization_id = $1 and kind = sender.kind and subject = sender.subject
            order by hour limit 1
        ) as first on true
        order by sender.position, counted.at
        "#,
        organization as OrganizationId,
        &kinds as &[&str],
        &subjects,
        since,
        kind.window as Window,
    );
    let mut sent = vec![Sent::default(); senders.len()];
    for row in rows.fetch_all(db).await? {
        let sender = usize::try_from(row.position - 1).ok().and_then(|sender| sent.get_mut(sender));
        let count = Count { messages: row.messages, recipients: row.recipients, external: row.external };
        if let Some(sender) = sender {
            sender.first = row.first;
            sender.counts.push((row.at, count));
        }
    }
    Ok(sent)
}
