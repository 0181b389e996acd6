//! How much may be sent: what each scope says, and what was said of single senders. What it means is `policy::limit`'s;
//! who is slowed down by it is in `throttle`.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::{OffsetDateTime, UtcOffset, macros::format_description};

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject as Changed},
    correspondents, volume,
};
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{AccountId, ChangeId, OrganizationId, Revision},
    },
    policy::{
        limit::{Action, BusyDay, Kind, Limit, Limits, OrganizationLimits, SenderControl, SetAt, Whose, Window},
        usual,
        volume::{Subject, Unit},
        words,
    },
};

/// The words of a scope in its two columns.
fn columns(at: &SetAt) -> (&'static str, String) {
    match at {
        SetAt::Organization => ("organization", String::new()),
        SetAt::Domain(name) => ("domain", name.to_string()),
        SetAt::Account(account) => ("account", account.to_string()),
    }
}

struct LimitRow {
    organization: OrganizationId,
    kind: String,
    subject: String,
    whose: Whose,
    window: Window,
    unit: Unit,
    most: Option<i32>,
    action: Action,
}

/// The scope that two columns name.
pub(super) fn set_at(kind: &str, subject: &str) -> Result<SetAt> {
    let unreadable = |error: String| sqlx::Error::Decode(format!("limit of {subject}: {error}").into());
    Ok(match kind {
        "account" => SetAt::Account(subject.parse().map_err(|error| unreadable(format!("{error}")))?),
        "domain" => SetAt::Domain(subject.parse().map_err(|error| unreadable(format!("{error}")))?),
        _ => SetAt::Organization,
    })
}

impl LimitRow {
    fn add_to(self, set: &mut HashMap<SetAt, Limits>) -> Result<()> {
        let kind = Kind { whose: self.whose, window: self.window, unit: self.unit };
        let limit = Limit { most: self.most.map(i32::cast_unsigned), action: self.action };
        set.entry(set_at(&self.kind, &self.subject)?).or_default().insert(kind, limit);
        Ok(())
    }
}

/// What relays know of all organizations, or of these.
pub async fn facts_across_tenants(
    db: &mut PgConnection,
    only: Option<&[OrganizationId]>,
) -> Result<Vec<(OrganizationId, OrganizationLimits)>> {
    let acting = sqlx::query!(
        r#"select id as "id: OrganizationId", limits_act_from from organization where $1::uuid[] is null or id = any($1)"#,
        only as Option<&[OrganizationId]>,
    );
    let platform = Arc::new(platform(&mut *db).await?);
    let of = |acts_from| OrganizationLimits { platform: Arc::clone(&platform), ..OrganizationLimits::new(acts_from) };
    let acting = acting.map(|row| (row.id, row.limits_act_from)).fetch_all(&mut *db).await?;
    let acting = acting.into_iter().map(|(id, acts_from)| (id, of(acts_from)));
    let mut all: HashMap<_, _> = acting.collect();
    let rows = sqlx::query_as!(
        LimitRow,
        r#"
        select organization_id as "organization: OrganizationId", kind, subject, whose as "whose: Whose",
               time_window as "window: Window", unit as "unit: Unit", most, action as "action: Action"
        from sending_limit
        where $1::uuid[] is null or organization_id = any($1)
        "#,
        only as Option<&[OrganizationId]>,
    );
    for row in rows.fetch_all(&mut *db).await? {
        if let Some(limits) = all.get_mut(&row.organization) {
            row.add_to(&mut limits.set)?;
        }
    }
    let rows = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", account_id as "account: AccountId", service,
               exempt_until, blocked
        from sender_control
        where $1::uuid[] is null or organization_id = any($1)
        "#,
        only as Option<&[OrganizationId]>,
    );
    for row in rows.fetch_all(&mut *db).await? {
        if let Some(limits) = all.get_mut(&row.organization) {
            let (is_service, exempt_until, is_blocked) = (row.service, row.exempt_until, row.blocked);
            limits.senders.insert(row.account, SenderControl { is_service, exempt_until, is_blocked });
        }
    }
    Ok(all.into_iter().collect())
}

/// The limits that may hold for an account or a mail domain, or for the organization where neither is named: its own,
/// and those of the wider scopes. What was said of the account is there too.
pub async fn reaching(
    db: &mut PgConnection,
    organization: OrganizationId,
    domain: Option<&DomainName>,
    account: Option<AccountId>,
) -> Result<OrganizationLimits> {
    let acts_from =
        sqlx::query_scalar!("select limits_act_from from organization where id = $1", organization as OrganizationId,);
    let mut limits = OrganizationLimits::new(acts_from.fetch_one(&mut *db).await?);
    limits.platform = Arc::new(platform(&mut *db).await?);
    let rows = sqlx::query_as!(
        LimitRow,
        r#"
        select organization_id as "organization: OrganizationId", kind, subject, whose as "whose: Whose",
               time_window as "window: Window", unit as "unit: Unit", most, action as "action: Action"
        from sending_limit
        where organization_id = $1
          and (kind = 'organization' or (kind = 'domain' and subject = $2) or (kind = 'account' and subject = $3))
        "#,
        organization as OrganizationId,
        domain.map(DomainName::as_str),
        account.map(|account| account.to_string()),
    );
    for row in rows.fetch_all(&mut *db).await? {
        row.add_to(&mut limits.set)?;
    }
    if let Some(account) = account {
        let control = control(db, organization, account).await?;
        limits.senders.insert(account, control);
    }
    Ok(limits)
}

/// What an account sends on its busy days.
pub async fn busy_day(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
    now: OffsetDateTime,
) -> Result<BusyDay> {
    let of = [(organization, Subject::Account(account))];
    let found = volume::days_across_tenants(&mut *db, &of, usual::busy_days_since(now)).await?;
    let (known, from) = correspondents::of_account(db, organization, account).await?;
    Ok(BusyDay {
        count: found.into_iter().next().and_then(|(first, days)| usual::busy_day(&days, first, now)),
        first_time: known.busy_day(from, now),
    })
}

/// What the operator has set for every organization.
pub async fn platform(db: impl PgExecutor<'_>) -> Result<Limits> {
    let rows = sqlx::query!(
        r#"
        select whose as "whose: Whose", time_window as "window: Window", unit as "unit: Unit", most,
               action as "action: Action"
        from platform_limit
        "#
    );
    let limits = rows.map(|row| {
        let kind = Kind { whose: row.whose, window: row.window, unit: row.unit };
        (kind, Limit { most: row.most.map(i32::cast_unsigned), action: row.action })
    });
    Ok(limits.fetch_all(db).await?.into_iter().collect())
}

/// Whether the operator has set another limit since this revision: relays read the limits of all organizations anew.
pub(super) async fn is_platform_changed_since(db: impl PgExecutor<'_>, after: Revision) -> Result<bool> {
    sqlx::query_scalar!(r#"select platform_limits_revision > $1 as "changed!" from installation"#, after as Revision,)
        .fetch_one(db)
        .await
}

/// Sets a limit for every organization, or takes it away (`None`), so that what is built in holds again. `None`: it was
/// so already. For the operator.
pub async fn set_platform(owner: &PgPool, kind: Kind, limit: Option<Limit>) -> Result<Option<Revision>> {
    let mut transaction = owner.begin().await?;
    // Of two at once the second sees what the first has set.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('outgate platform limits', 0))")
        .execute(&mut *transaction)
        .await?;
    if platform(&mut *transaction).await?.get(&kind).copied() == limit {
        return Ok(None);
    }
    sqlx::query!(
        "delete from platform_limit where whose = $1 and time_window = $2 and unit = $3",
        kind.whose as Whose,
        kind.window as Window,
        kind.unit as Unit,
    )
    .execute(&mut *transaction)
    .await?;
    if let Some(limit) = limit {
        sqlx::query!(
            "insert into platform_limit (whose, time_window, unit, most, action) values ($1, $2, $3, $4, $5)",
            kind.whose as Whose,
            kind.window as Window,
            kind.unit as Unit,
            limit.most.map(u32::cast_signed),
            limit.action as Action,
        )
        .execute(&mut *transaction)
        .await?;
    }
    let revision = sqlx::query_scalar!(
        r#"
        with taken as (
            update installation set revision = revision + 1, platform_limits_revision = revision + 1 returning revision
        )
        select revision as "revision!: Revision" from taken, pg_notify('outgate_change', taken.revision::text)
        "#
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(revision))
}

/// What was said of an account.
pub async fn control(db: &mut PgConnection, organization: OrganizationId, account: AccountId) -> Result<SenderControl> {
    let said = sqlx::query!(
        "select service, exempt_until, blocked from sender_control where organization_id = $1 and account_id = $2",
        organization as OrganizationId,
        account as AccountId,
    );
    let said = said
        .map(|row| SenderControl { is_service: row.service, exempt_until: row.exempt_until, is_blocked: row.blocked })
        .fetch_optional(db)
        .await?;
    Ok(said.unwrap_or_default())
}

/// How many accounts an organization has: the platform's limit for all of it grows with them.
pub async fn accounts(db: impl PgExecutor<'_>, organization: OrganizationId) -> Result<u64> {
    let accounts = sqlx::query_scalar!(
        r#"select coalesce(sum(accounts), 0)::bigint as "count!" from account_count where organization_id = $1"#,
        organization as OrganizationId,
    );
    accounts.fetch_one(db).await.map(i64::unsigned_abs)
}

/// The same of all organizations that have any.
pub async fn accounts_across_tenants(db: impl PgExecutor<'_>) -> Result<HashMap<OrganizationId, u64>> {
    let accounts = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", sum(accounts)::bigint as "count!"
        from account_count group by organization_id
        "#
    );
    let accounts = accounts.map(|row| (row.organization, row.count.unsigned_abs())).fetch_all(db).await?;
    Ok(accounts.into_iter().collect())
}

/// What became of setting something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// There is no such account or mail domain.
    NotFound,
    Unchanged,
    Changed(Committed),
}

/// A limit in the words of the audit log: at most 500 external recipients an hour, else delay.
pub fn in_words(kind: Kind, limit: Limit) -> String {
    let (_, many) = kind.unit.words();
    let window = kind.window.words();
    match (limit.most.map(|most| words::number(most.into())), kind.window) {
        (Some(floor), Window::Usual) => {
            let factor = kind.factor();
            format!("at most {factor} times the usual {many} in {window} or {floor}, beyond it {}", limit.action)
        }
        (Some(most), Window::FirstTime) => {
            format!("at most {most} {many} never written to before in {window}, beyond it {}", limit.action)
        }
        (None, Window::FirstTime) => format!("any number of {many} never written to before in {window}"),
        (None, Window::Usual) => format!("any number of {many} in {window}, however unusual"),
        (Some(most), Window::Approval) => format!("at most {most} {many} in {window} without approval"),
        (None, Window::Approval) => format!("any number of {many} in {window} without approval"),
        (Some(most), _) => format!("at most {most} {many} in {window}, beyond it {}", limit.action),
        (None, _) => format!("any number of {many} in {window}"),
    }
}

/// Sets a limit, or takes it away (`None`), as one change.
///
/// # Panics
/// If the scope [takes](SetAt::takes) no such limit.
pub async fn set(
    mut transaction: OrganizationTransaction,
    at: &SetAt,
    kind: Kind,
    limit: Option<Limit>,
    actor: &str,
) -> Result<Set> {
    assert!(at.takes(kind.whose), "{at:?} has no such limit");
    let organization = transaction.organization();
    let Some(name) = lock(&mut transaction, at).await? else { return Ok(Set::NotFound) };
    let (scope, subject) = columns(at);
    let before = sqlx::query!(
        r#"
        select most, action as "action: Action" from sending_limit
        where organization_id = $1 and kind = $2 and subject = $3 and whose = $4 and time_window = $5 and unit = $6
        "#,
        organization as OrganizationId,
        scope,
        subject,
        kind.whose as Whose,
        kind.window as Window,
        kind.unit as Unit,
    );
    let before = before.map(|row| Limit { most: row.most.map(i32::cast_unsigned), action: row.action });
    let before = before.fetch_optional(&mut *transaction).await?;
    if before == limit {
        return Ok(Set::Unchanged);
    }
    match limit {
        Some(limit) => write(&mut transaction, (scope, &subject), kind, limit).await?,
        None => remove(&mut transaction, (scope, &subject), kind).await?,
    }
    let words = |limit: Option<Limit>| limit.map(|limit| in_words(kind, limit));
    let value = |limit: Option<Limit>| Some(json!({ "sending_limit": LimitItem::of((scope, &subject), kind, limit) }));
    let item = ChangeItem {
        // Relays read all limits of an organization anew: so one of the former version goes on too.
        subject: Changed::Organization,
        key: organization.to_string(),
        before: value(before),
        after: value(limit),
    };
    let whose = match (at, kind.whose) {
        (SetAt::Account(_), _) => "",
        (_, Whose::Each) => ", each account",
        (_, Whose::Service) => ", each service account",
        (_, Whose::Total) => ", all together",
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if limit.is_some() { "limit.set" } else { "limit.delete" },
        subject: format!("{name}{whose}"),
        before: words(before),
        after: words(limit),
    };
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// Locks what is set at, and says what it is called; `None` if it is not there.
pub(super) async fn lock(transaction: &mut OrganizationTransaction, at: &SetAt) -> Result<Option<String>> {
    let organization = transaction.organization();
    match at {
        SetAt::Organization => {
            sqlx::query!("select from organization where id = $1 for no key update", organization as OrganizationId)
                .fetch_one(&mut **transaction)
                .await?;
            Ok(Some("all users".to_owned()))
        }
        SetAt::Domain(name) => {
            let found = sqlx::query_scalar!(
                "select name from mail_domain where organization_id = $1 and name = $2 for no key update",
                organization as OrganizationId,
                name as &DomainName,
            );
            found.fetch_optional(&mut **transaction).await
        }
        SetAt::Account(account) => {
            let found = sqlx::query_scalar!(
                "select user_id from mail_account where organization_id = $1 and id = $2 for no key update",
                organization as OrganizationId,
                account as &AccountId,
            );
            found.fetch_optional(&mut **transaction).await
        }
    }
}

async fn write(
    transaction: &mut OrganizationTransaction,
    (scope, subject): (&str, &str),
    kind: Kind,
    limit: Limit,
) -> Result<()> {
    let organization = transaction.organization();
    sqlx::query!(
        r#"
        insert into sending_limit (organization_id, kind, subject, whose, time_window, unit, most, action)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (organization_id, kind, subject, whose, time_window, unit) do update
        set most = excluded.most, action = excluded.action
        "#,
        organization as OrganizationId,
        scope,
        subject,
        kind.whose as Whose,
        kind.window as Window,
        kind.unit as Unit,
        limit.most.map(u32::cast_signed),
        limit.action as Action,
    )
    .execute(&mut **transaction)
    .await
    .map(drop)
}

async fn remove(transaction: &mut OrganizationTransaction, (scope, subject): (&str, &str), kind: Kind) -> Result<()> {
    let organization = transaction.organization();
    sqlx::query!(
        r#"
        delete from sending_limit
        where organization_id = $1 and kind = $2 and subject = $3 and whose = $4 and time_window = $5 and unit = $6
        "#,
        organization as OrganizationId,
        scope,
        subject,
        kind.whose as Whose,
        kind.window as Window,
        kind.unit as Unit,
    )
    .execute(&mut **transaction)
    .await
    .map(drop)
}

/// Says what becomes of mail of one account, as one change: `action` names it in the audit log.
pub async fn set_control(
    mut transaction: OrganizationTransaction,
    account: AccountId,
    action: &'static str,
    change: impl FnOnce(&mut SenderControl),
    actor: &str,
) -> Result<Set> {
    let Some((name, before)) = lock_sender(&mut transaction, account).await? else { return Ok(Set::NotFound) };
    let mut after = before;
    change(&mut after);
    if before == after {
        return Ok(Set::Unchanged);
    }
    let item = write_control(&mut transaction, account, before, after).await?;
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action,
        subject: name,
        before: Some(control_in_words(before)),
        after: Some(control_in_words(after)),
    };
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// Blocks several accounts, as one change; those that are blocked already are left as they are. None is if one of them
/// is not there.
pub async fn block(mut transaction: OrganizationTransaction, accounts: &[AccountId], actor: &str) -> Result<Set> {
    let (mut names, mut items) = (Vec::new(), Vec::new());
    for account in accounts {
        let Some((name, before)) = lock_sender(&mut transaction, *account).await? else { return Ok(Set::NotFound) };
        if !before.is_blocked {
            let after = SenderControl { is_blocked: true, ..before };
            items.push(write_control(&mut transaction, *account, before, after).await?);
            names.push(name);
        }
    }
    if items.is_empty() {
        return Ok(Set::Unchanged);
    }
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "sender.block",
        subject: names.join(", "),
        before: None,
        after: Some("blocked".to_owned()),
    };
    transaction.commit_change(&items, audit).await.map(Set::Changed)
}

/// Locks an account, and says what it is called and what was said of it.
async fn lock_sender(
    transaction: &mut OrganizationTransaction,
    account: AccountId,
) -> Result<Option<(String, SenderControl)>> {
    let Some(name) = lock(transaction, &SetAt::Account(account)).await? else { return Ok(None) };
    let organization = transaction.organization();
    Ok(Some((name, control(transaction, organization, account).await?)))
}

/// Writes what is said of an account from now on, and makes the change's item of it.
async fn write_control(
    transaction: &mut OrganizationTransaction,
    account: AccountId,
    before: SenderControl,
    after: SenderControl,
) -> Result<ChangeItem> {
    let organization = transaction.organization();
    sqlx::query!(
        r#"
        insert into sender_control (organization_id, account_id, service, exempt_until, blocked)
        values ($1, $2, $3, $4, $5)
        on conflict (organization_id, account_id) do update
        set service = excluded.service, exempt_until = excluded.exempt_until, blocked = excluded.blocked
        "#,
        organization as OrganizationId,
        account as AccountId,
        after.is_service,
        after.exempt_until,
        after.is_blocked,
    )
    .execute(&mut **transaction)
    .await?;
    Ok(ChangeItem {
        subject: Changed::Organization,
        key: organization.to_string(),
        before: Some(json!({ "sender_control": ControlItem::of(account, before) })),
        after: Some(json!({ "sender_control": ControlItem::of(account, after) })),
    })
}

/// A limit as it stands in the items of changes, with all by which it is found: `store::undo` reads and writes the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitItem {
    kind: String,
    subject: String,
    whose: String,
    window: String,
    unit: String,
    limit: Option<LimitValue>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LimitValue {
    most: Option<u32>,
    action: String,
}

impl LimitItem {
    fn of((scope, subject): (&str, &str), kind: Kind, limit: Option<Limit>) -> Self {
        Self {
            kind: scope.to_owned(),
            subject: subject.to_owned(),
            whose: kind.whose.to_string(),
            window: kind.window.to_string(),
            unit: kind.unit.to_string(),
            limit: limit.map(|limit| LimitValue { most: limit.most, action: limit.action.to_string() }),
        }
    }

    /// For people; empty where none was set.
    pub fn in_words(&self) -> String {
        let read = || {
            let said = self.limit.as_ref()?;
            let (whose, window, unit) = (self.whose.parse().ok()?, self.window.parse().ok()?, self.unit.parse().ok()?);
            let limit = Limit { most: said.most, action: said.action.parse().ok()? };
            Some(in_words(Kind { whose, window, unit }, limit))
        };
        read().unwrap_or_default()
    }
}

/// What was said of a sender, in the same way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControlItem {
    account: AccountId,
    service: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    exempt_until: Option<OffsetDateTime>,
    blocked: bool,
}

impl ControlItem {
    fn of(account: AccountId, control: SenderControl) -> Self {
        let SenderControl { is_service, exempt_until, is_blocked } = control;
        // As `store::undo` reads it: to the second.
        let exempt_until = exempt_until.map(|until| until.to_offset(UtcOffset::UTC).truncate_to_second());
        Self { account, service: is_service, exempt_until, blocked: is_blocked }
    }

    /// For people.
    pub fn in_words(&self) -> String {
        let (is_service, is_blocked) = (self.service, self.blocked);
        control_in_words(SenderControl { is_service, exempt_until: self.exempt_until, is_blocked })
    }
}

fn control_in_words(control: SenderControl) -> String {
    let class = if control.is_service { "service account" } else { "ordinary account" };
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    let in_words = |until: OffsetDateTime| until.to_offset(UtcOffset::UTC).format(format).unwrap_or_default();
    let exempt = control.exempt_until.map(|until| format!(", exempt from limits until {}", in_words(until)));
    let blocked = if control.is_blocked { ", blocked" } else { "" };
    format!("{class}{}{blocked}", exempt.unwrap_or_default())
}

/// A change of a limit or of what was said of a sender, or of taking one back, as the page that made it reports on it.
#[derive(Debug, Clone)]
pub struct RecentEdit {
    pub revision: Revision,
    /// What was done, such as `limit.set`.
    pub action: String,
    /// To what, as the audit log has it.
    pub subject: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// Such a change that the organization made within the last ten minutes: later a page has nothing to report.
pub async fn recent(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
) -> Result<Option<RecentEdit>> {
    sqlx::query_as!(
        RecentEdit,
        r#"
        select change.revision as "revision: Revision", audit_entry.action, audit_entry.subject, audit_entry.before,
               audit_entry.after
        from change
        join audit_entry on audit_entry.organization_id = change.organization_id and audit_entry.change_id = change.id
        where change.organization_id = $1 and change.id = $2
          and change.committed_at > now() - interval '10 minutes'
          and (audit_entry.action like 'limit.%' or audit_entry.action like 'sender.%'
               or exists (select from change_item item
                          where item.organization_id = $1 and item.change_id = $2
                            and item.after ?| '{sending_limit,sender_control}'))
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_optional(db)
    .await
}

/// A mail domain or an account for which something else holds than for all.
#[derive(Debug, Clone)]
pub struct Exception {
    pub at: SetAt,
    /// The User ID of an account.
    pub user_id: Option<Mailbox>,
    /// How many limits are set for it.
    pub limits: i64,
    pub control: SenderControl,
}

/// The mail domains that have limits of their own, and the accounts that have some or of whom something is said, so many
/// at most: domains first.
pub async fn exceptions(
    db: &mut PgConnection,
    organization: OrganizationId,
    now: OffsetDateTime,
    most: i64,
) -> Result<Vec<Exception>> {
    sqlx::query!(
        r#"
        with own as materialized (
            select kind, subject, count(*) as limits from sending_limit
            where organization_id = $1 and kind in ('domain', 'account') group by kind, subject
        ), said as materialized (
            select account_id::text as subject, service, exempt_until, blocked from sender_control
            where organization_id = $1 and (service or blocked or exempt_until > $2)
        ), named as materialized (
            select coalesce(own.kind, 'account') as kind, coalesce(own.subject, said.subject) as subject,
                   coalesce(limits, 0) as limits, coalesce(service, false) as service, exempt_until,
                   coalesce(blocked, false) as blocked
            from own full join said on said.subject = own.subject and own.kind = 'account'
        )
        select named.kind as "kind!", named.subject as "subject!", limits as "limits!", service as "service!",
               exempt_until, blocked as "blocked!", account.user_id as "user_id?: Mailbox"
        from named
        left join lateral (
            select user_id from mail_account
            where organization_id = $1 and id = case when named.kind = 'account' then named.subject::uuid end offset 0
        ) as account on true
        -- What was said of an account that is deleted stays, for Undo.
        where account.user_id is not null
           or exists (select from mail_domain where organization_id = $1 and named.kind = 'domain' and name = named.subject)
        order by named.kind = 'account', coalesce(account.user_id, named.subject)
        limit $3
        "#,
        organization as OrganizationId,
        now,
        most,
    )
    .try_map(|row| {
        let at = set_at(&row.kind, &row.subject)?;
        let control =
            SenderControl { is_service: row.service, exempt_until: row.exempt_until, is_blocked: row.blocked };
        Ok(Exception { at, user_id: row.user_id, limits: row.limits, control })
    })
    .fetch_all(db)
    .await
}

/// How limits stand in an organization.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// How many are set, at whatever scope.
    pub set: i64,
    /// How many accounts, domains and the like are slowed down.
    pub throttled: i64,
    /// How many accounts are blocked.
    pub blocked: i64,
}

pub async fn numbers(db: &mut PgConnection, organization: OrganizationId, now: OffsetDateTime) -> Result<Numbers> {
    sqlx::query_as!(
        Numbers,
        r#"
        select (select count(*) from sending_limit where organization_id = $1) as "set!",
               (select count(distinct (kind, subject)) from throttle
                where organization_id = $1 and turn_at > $2) as "throttled!",
               (select count(*) from sender_control control
                where control.organization_id = $1 and blocked
                  and exists (select from mail_account
                              where organization_id = $1 and id = control.account_id)) as "blocked!"
        "#,
        organization as OrganizationId,
        now,
    )
    .fetch_one(db)
    .await
}
