//! How much was sent: counted by relays, added up here by minute and hour, shown by pages and commands.
//! What is counted is `policy::volume`'s, when it is written `relay::volume`'s.

use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Result;
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{AccountId, OrganizationId, RelayId},
    },
    policy::volume::{Count, Subject, Unit},
};

/// What one subject sent in one minute, as one relay counted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub organization: OrganizationId,
    pub subject: Subject,
    /// When it begins.
    pub minute: OffsetDateTime,
    pub count: Count,
}

/// The words of a subject in its two columns.
pub fn columns(subject: &Subject) -> (&'static str, String) {
    match subject {
        Subject::Organization => ("organization", String::new()),
        Subject::Domain(name) => ("domain", name.to_string()),
        Subject::Account(account) => ("account", account.to_string()),
        Subject::NoAccount(domain) => ("no-account", domain.to_string()),
    }
}

/// The subject that these words stand for.
pub fn subject_of(kind: &str, subject: &str) -> Result<Subject> {
    let unreadable = |error: String| sqlx::Error::Decode(format!("{kind} {subject}: {error}").into());
    Ok(match kind {
        "account" => Subject::Account(subject.parse().map_err(|error| unreadable(format!("{error}")))?),
        "domain" => Subject::Domain(subject.parse().map_err(|error| unreadable(format!("{error}")))?),
        "no-account" => Subject::NoAccount(subject.parse().map_err(|error| unreadable(format!("{error}")))?),
        _ => Subject::Organization,
    })
}

/// Adds what a relay counted, in minutes and hours, all of it or nothing. `batch` is a new id for it: a batch that the
/// store has is not added again, so that it can be tried again when it is not known what came of it. Returns whether it
/// was added now. Rows are written in the order of their keys, so that relays wait for one another and never both.
pub async fn add_across_tenants(
    db: &mut PgConnection,
    relay: RelayId,
    batch: Uuid,
    counted: &[Counted],
) -> Result<bool> {
    let mut transaction = db.begin().await?;
    let noted = sqlx::query!(
        "insert into volume_batch (relay_id, batch) values ($1, $2)
         on conflict (relay_id) do update set batch = excluded.batch where volume_batch.batch <> excluded.batch",
        relay as RelayId,
        batch,
    )
    .execute(&mut *transaction)
    .await?;
    if noted.rows_affected() == 0 {
        return Ok(false);
    }
    let columns = Columns::of(counted);
    columns.add_to_minutes(&mut *transaction).await?;
    columns.add_to_hours(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

/// The last batch that the store has of a relay.
pub async fn last_batch_across_tenants(db: impl PgExecutor<'_>, relay: RelayId) -> Result<Option<Uuid>> {
    sqlx::query_scalar!("select batch from volume_batch where relay_id = $1", relay as RelayId).fetch_optional(db).await
}

/// The same rows as arrays.
struct Columns {
    organizations: Vec<Uuid>,
    kinds: Vec<&'static str>,
    subjects: Vec<String>,
    minutes: Vec<OffsetDateTime>,
    messages: Vec<i64>,
    recipients: Vec<i64>,
    external: Vec<i64>,
}

impl Columns {
    fn of(counted: &[Counted]) -> Self {
        let (kinds, subjects) = counted.iter().map(|counted| columns(&counted.subject)).unzip();
        Self {
            organizations: counted.iter().map(|counted| counted.organization.0).collect(),
            kinds,
            subjects,
            minutes: counted.iter().map(|counted| counted.minute).collect(),
            messages: counted.iter().map(|counted| counted.count.messages).collect(),
            recipients: counted.iter().map(|counted| counted.count.recipients).collect(),
            external: counted.iter().map(|counted| counted.count.external).collect(),
        }
    }

    /// What was counted of an organization that is gone is left out.
    async fn add_to_minutes(&self, db: impl PgExecutor<'_>) -> Result<()> {
        sqlx::query!(
            r#"
            insert into volume_minute (organization_id, kind, subject, minute, messages, recipients, external)
            select new.organization, new.kind, new.subject, new.minute, new.messages, new.recipients, new.external
            from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[])
                 as new (organization, kind, subject, minute, messages, recipients, external)
            join organization on organization.id = new.organization
            order by new.organization, new.kind collate "C", new.subject collate "C", new.minute
            on conflict (organization_id, kind, subject, minute) do update
            set messages = volume_minute.messages + excluded.messages,
                recipients = volume_minute.recipients + excluded.recipients,
                external = volume_minute.external + excluded.external
            "#,
            &self.organizations,
            &self.kinds as &[&str],
            &self.subjects,
            &self.minutes,
            &self.messages,
            &self.recipients,
            &self.external,
        )
        .execute(db)
        .await
        .map(drop)
    }

    async fn add_to_hours(&self, db: impl PgExecutor<'_>) -> Result<()> {
        sqlx::query!(
            r#"
            insert into volume_hour (organization_id, kind, subject, hour, messages, recipients, external)
            select new.organization, new.kind, new.subject, date_trunc('hour', new.minute, 'UTC'),
                   sum(new.messages), sum(new.recipients), sum(new.external)
            from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[])
                 as new (organization, kind, subject, minute, messages, recipients, external)
            join organization on organization.id = new.organization
            group by 1, 2, 3, 4
            order by new.organization, new.kind collate "C", new.subject collate "C", 4
            on conflict (organization_id, kind, subject, hour) do update
            set messages = volume_hour.messages + excluded.messages,
                recipients = volume_hour.recipients + excluded.recipients,
                external = volume_hour.external + excluded.external
            "#,
            &self.organizations,
            &self.kinds as &[&str],
            &self.subjects,
            &self.minutes,
            &self.messages,
            &self.recipients,
            &self.external,
        )
        .execute(db)
        .await
        .map(drop)
    }
}

/// Hands over what was counted in each minute from `since` on, one after the other: there may be very many.
pub async fn for_each_minute_across_tenants(
    db: &PgPool,
    since: OffsetDateTime,
    mut take: impl FnMut(Counted),
) -> Result<()> {
    let mut rows = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", kind, subject, minute, messages, recipients, external
        from volume_minute where minute >= $1
        "#,
        since,
    )
    .fetch(db);
    while let Some(row) = rows.try_next().await? {
        take(Counted {
            organization: row.organization,
            subject: subject_of(&row.kind, &row.subject)?,
            minute: row.minute,
            count: Count { messages: row.messages, recipients: row.recipients, external: row.external },
        });
    }
    Ok(())
}

/// When somebody began to send, as far as is kept, and what was counted in some hours, or on some days.
pub type Hours = (Option<OffsetDateTime>, Vec<InHour>);

/// What was counted in an hour, or on a day.
type InHour = (OffsetDateTime, Count);

/// What each of these has sent in each of these hours, in their order; hours without mail are not there.
pub async fn hours_across_tenants(
    db: impl PgExecutor<'_>,
    whose: &[(OrganizationId, Subject)],
    hours: &[OffsetDateTime],
) -> Result<Vec<Hours>> {
    let organizations: Vec<Uuid> = whose.iter().map(|(organization, _)| organization.0).collect();
    let (kinds, subjects): (Vec<&str>, Vec<String>) = whose.iter().map(|(_, subject)| columns(subject)).unzip();
    let rows = sqlx::query!(
        r#"
        select asked.position as "position!", first.hour as "first!", counted.hour as "hour?",
               counted.messages as "messages?", counted.recipients as "recipients?", counted.external as "external?"
        from unnest($1::uuid[], $2::text[], $3::text[]) with ordinality
             as asked (organization_id, kind, subject, position)
        cross join lateral (
            select hour from volume_hour
            where organization_id = asked.organization_id and kind = asked.kind and subject = asked.subject
            order by hour limit 1
        ) as first
        left join lateral (
            select hour, messages, recipients, external from volume_hour
            where organization_id = asked.organization_id and kind = asked.kind and subject = asked.subject
              and hour = any($4)
        ) as counted on true
        "#,
        &organizations,
        &kinds as &[&str],
        &subjects,
        hours,
    );
    let rows = rows.map(|row| {
        let count = counted(row.hour, (row.messages, row.recipients, row.external));
        (row.position, row.first, count)
    });
    Ok(by_position(rows.fetch_all(db).await?, whose.len()))
}

/// A count, where there is one at that time.
fn counted(
    at: Option<OffsetDateTime>,
    (messages, recipients, external): (Option<i64>, Option<i64>, Option<i64>),
) -> Option<InHour> {
    Some((at?, Count { messages: messages?, recipients: recipients?, external: external? }))
}

/// Of each of so many that were asked for, by their position, when they began and what was counted.
fn by_position(rows: Vec<(i64, OffsetDateTime, Option<InHour>)>, asked: usize) -> Vec<Hours> {
    let mut found = vec![(None, Vec::new()); asked];
    for (position, began, count) in rows {
        let place = usize::try_from(position - 1).ok().and_then(|place| found.get_mut(place));
        if let Some((first, counts)) = place {
            *first = Some(began);
            counts.extend(count);
        }
    }
    found
}

/// What each of these has sent on each day from `since` on (UTC), in their order; days without mail are not there.
pub async fn days_across_tenants(
    db: impl PgExecutor<'_>,
    whose: &[(OrganizationId, Subject)],
    since: OffsetDateTime,
) -> Result<Vec<Hours>> {
    let organizations: Vec<Uuid> = whose.iter().map(|(organization, _)| organization.0).collect();
    let (kinds, subjects): (Vec<&str>, Vec<String>) = whose.iter().map(|(_, subject)| columns(subject)).unzip();
    let rows = sqlx::query!(
        r#"
        select asked.position as "position!", first.hour as "first!", counted.day as "day?",
               counted.messages as "messages?", counted.recipients as "recipients?", counted.external as "external?"
        from unnest($1::uuid[], $2::text[], $3::text[]) with ordinality
             as asked (organization_id, kind, subject, position)
        cross join lateral (
            select hour from volume_hour
            where organization_id = asked.organization_id and kind = asked.kind and subject = asked.subject
            order by hour limit 1
        ) as first
        left join lateral (
            select date_trunc('day', hour, 'UTC') as day, sum(messages)::bigint as messages,
                   sum(recipients)::bigint as recipients, sum(external)::bigint as external
            from volume_hour
            where organization_id = asked.organization_id and kind = asked.kind and subject = asked.subject
              and hour >= $4
            group by day
        ) as counted on true
        "#,
        &organizations,
        &kinds as &[&str],
        &subjects,
        since,
    );
    let rows = rows.map(|row| {
        let count = counted(row.day, (row.messages, row.recipients, row.external));
        (row.position, row.first, count)
    });
    Ok(by_position(rows.fetch_all(db).await?, whose.len()))
}

/// How many rows of one organization go in one statement.
const FORGOTTEN_AT_ONCE: i64 = 1000;

/// Forgets minutes from before `minutes_before` and hours from before `hours_before`, some at a time: returns whether
/// more may be left. What another relay is just forgetting is passed over.
pub async fn forget_across_tenants(
    db: &mut PgConnection,
    minutes_before: OffsetDateTime,
    hours_before: OffsetDateTime,
) -> Result<bool> {
    let minutes = sqlx::query!(
        r#"
        with old as (
            select oldest.* from organization cross join lateral (
                select organization_id, kind, subject, minute from volume_minute
                where organization_id = organization.id and minute < $1
                order by minute limit $2 for update skip locked
            ) as oldest
        )
        delete from volume_minute using old
        where volume_minute.organization_id = old.organization_id and volume_minute.kind = old.kind
          and volume_minute.subject = old.subject and volume_minute.minute = old.minute
        "#,
        minutes_before,
        FORGOTTEN_AT_ONCE,
    )
    .execute(&mut *db)
    .await?;
    let hours = sqlx::query!(
        r#"
        with old as (
            select oldest.* from organization cross join lateral (
                select organization_id, kind, subject, hour from volume_hour
                where organization_id = organization.id and hour < $1
                order by hour limit $2 for update skip locked
            ) as oldest
        )
        delete from volume_hour using old
        where volume_hour.organization_id = old.organization_id and volume_hour.kind = old.kind
          and volume_hour.subject = old.subject and volume_hour.hour = old.hour
        "#,
        hours_before,
        FORGOTTEN_AT_ONCE,
    )
    .execute(&mut *db)
    .await?;
    let most = FORGOTTEN_AT_ONCE.unsigned_abs();
    Ok(minutes.rows_affected() >= most || hours.rows_affected() >= most)
}

/// What a subject sent, by minute, from `since` on; minutes without mail are not there.
pub(super) async fn by_minute(
    db: &mut PgConnection,
    organization: OrganizationId,
    subject: &Subject,
    since: OffsetDateTime,
) -> Result<Vec<(OffsetDateTime, Count)>> {
    let (kind, subject) = columns(subject);
    sqlx::query!(
        r#"
        select minute, messages, recipients, external from volume_minute
        where organization_id = $1 and kind = $2 and subject = $3 and minute >= $4
        order by minute
        "#,
        organization as OrganizationId,
        kind,
        subject,
        since,
    )
    .map(|row| (row.minute, Count { messages: row.messages, recipients: row.recipients, external: row.external }))
    .fetch_all(db)
    .await
}

/// What a subject sent, by hour, from `since` on; hours without mail are not there.
pub async fn by_hour(
    db: &mut PgConnection,
    organization: OrganizationId,
    subject: &Subject,
    since: OffsetDateTime,
) -> Result<Vec<(OffsetDateTime, Count)>> {
    let (kind, subject) = columns(subject);
    sqlx::query!(
        r#"
        select hour, messages, recipients, external from volume_hour
        where organization_id = $1 and kind = $2 and subject = $3 and hour >= $4
        order by hour
        "#,
        organization as OrganizationId,
        kind,
        subject,
        since,
    )
    .map(|row| (row.hour, Count { messages: row.messages, recipients: row.recipients, external: row.external }))
    .fetch_all(db)
    .await
}

/// The first hour in which a subject sent something, as far as is kept.
pub async fn first(
    db: &mut PgConnection,
    organization: OrganizationId,
    subject: &Subject,
) -> Result<Option<OffsetDateTime>> {
    let (kind, subject) = columns(subject);
    sqlx::query_scalar!(
        "select hour from volume_hour where organization_id = $1 and kind = $2 and subject = $3 order by hour limit 1",
        organization as OrganizationId,
        kind,
        subject,
    )
    .fetch_optional(db)
    .await
}

/// What a subject sent from `since` on.
pub async fn total(
    db: &mut PgConnection,
    organization: OrganizationId,
    subject: &Subject,
    since: OffsetDateTime,
) -> Result<Count> {
    let (kind, subject) = columns(subject);
    sqlx::query_as!(
        Count,
        r#"
        select coalesce(sum(messages), 0)::bigint as "messages!", coalesce(sum(recipients), 0)::bigint as "recipients!",
               coalesce(sum(external), 0)::bigint as "external!"
        from volume_hour
        where organization_id = $1 and kind = $2 and subject = $3 and hour >= $4
        "#,
        organization as OrganizationId,
        kind,
        subject,
        since,
    )
    .fetch_one(db)
    .await
}

/// One of those who sent most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub whose: Whose,
    pub count: Count,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    Account(AccountId, Mailbox),
    /// An account that is deleted.
    Deleted(AccountId),
    /// Senders of a mail domain that no account has, together.
    NoAccount(DomainName),
}

/// Who sent most since `since`, counted in this unit; who sent nothing is not there.
pub async fn top_senders(
    db: &mut PgConnection,
    organization: OrganizationId,
    since: OffsetDateTime,
    unit: Unit,
    limit: i64,
) -> Result<Vec<Sender>> {
    sqlx::query!(
        r#"
        with sent as materialized (
            select kind, subject, sum(messages)::bigint as messages, sum(recipients)::bigint as recipients,
                   sum(external)::bigint as external
            from volume_hour
            where organization_id = $1 and hour >= $2 and kind in ('account', 'no-account')
            group by kind, subject
        ), most as materialized (
            select sent.*, case $3 when 'messages' then messages when 'recipients' then recipients else external end as n
            from sent order by n desc, kind, subject limit $4
        )
        select most.kind as "kind!", most.subject as "subject!", messages as "messages!", recipients as "recipients!",
               external as "external!", account.user_id as "user_id?: Mailbox"
        from most
        -- Kept from being turned around: the accounts are many.
        left join lateral (
            select user_id from mail_account
            where organization_id = $1 and id = case when most.kind = 'account' then most.subject::uuid end offset 0
        ) as account on true
        where n > 0
        order by n desc, kind, subject
        "#,
        organization as OrganizationId,
        since,
        unit.as_str(),
        limit,
    )
    .try_map(|row| {
        let wrong = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
        let whose = match (row.kind.as_str(), row.user_id) {
            ("account", found) => {
                let account = row.subject.parse().map_err(|error: uuid::Error| wrong(error.into()))?;
                found.map_or(Whose::Deleted(account), |user_id| Whose::Account(account, user_id))
            }
            _ => Whose::NoAccount(row.subject.parse().map_err(|error: crate::mail::domain_name::DomainNameError| {
                wrong(error.into())
            })?),
        };
        let count = Count { messages: row.messages, recipients: row.recipients, external: row.external };
        Ok(Sender { whose, count })
    })
    .fetch_all(db)
    .await
}

/// The domains that sent most since `since`, counted in this unit, and whether each still is the organization's.
pub async fn top_domains(
    db: &mut PgConnection,
    organization: OrganizationId,
    since: OffsetDateTime,
    unit: Unit,
    limit: i64,
) -> Result<Vec<(DomainName, bool, Count)>> {
    sqlx::query!(
        r#"
        with sent as materialized (
            select subject, sum(messages)::bigint as messages, sum(recipients)::bigint as recipients,
                   sum(external)::bigint as external
            from volume_hour
            where organization_id = $1 and hour >= $2 and kind = 'domain'
            group by subject
        ), most as materialized (
            select sent.*, case $3 when 'messages' then messages when 'recipients' then recipients else external end as n
            from sent order by n desc, subject limit $4
        )
        select most.subject as "subject!: DomainName", messages as "messages!", recipients as "recipients!",
               external as "external!", domain.name is not null as "is_there!"
        from most
        left join mail_domain domain on domain.organization_id = $1 and domain.name = most.subject
        where n > 0
        order by n desc, subject
        "#,
        organization as OrganizationId,
        since,
        unit.as_str(),
        limit,
    )
    .map(|row| {
        let count = Count { messages: row.messages, recipients: row.recipients, external: row.external };
        (row.subject, row.is_there, count)
    })
    .fetch_all(db)
    .await
}
