//! What a file of accounts would change, and the change itself: computed by the store from the rows that
//! [`account_file`](super::account_file) wrote down, so that memory stays flat.

use std::io::Read;

use serde_json::Value;
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    account::{lock_alone, plan_anew},
    account_file::{self, Findings, NAMED_MISTAKES, NewImport},
    change::{AuditEntry, Committed},
    gateway,
};
use crate::{
    mail::{
        GatewayAddress,
        id::{ChangeId, ImportId, OrganizationId},
    },
    policy::account_file::RowMistake,
};

/// What would become of the organization's accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub added: i64,
    pub changed: i64,
    pub removed: i64,
}

impl Counts {
    /// In the words of commands and audit entries: `3 added, 1 changed, 0 removed`.
    pub fn in_words(self) -> String {
        format!("{} added, {} changed, {} removed", self.added, self.changed, self.removed)
    }

    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// An import that waits to be looked at or applied.
#[derive(Debug, Clone)]
pub struct Staged {
    pub id: ImportId,
    pub file_name: String,
    pub remove_missing: bool,
    pub findings: Findings,
    /// How many accounts there were when the counts were made.
    pub accounts: i64,
    pub counts: Counts,
    /// The gateways that would be made.
    pub new_gateways: Vec<String>,
    /// The change that it became.
    pub change: Option<ChangeId>,
}

impl Staged {
    /// How many rows change nothing.
    pub fn unchanged(&self) -> i64 {
        self.findings.rows - self.counts.added - self.counts.changed
    }

    /// Whether so many accounts would be removed that somebody has to say how many are meant: more than one in twenty.
    pub fn removes_many(&self) -> bool {
        self.counts.removed * 20 > self.accounts
    }
}

/// The most gateways that one file may make.
const MOST_NEW_GATEWAYS: usize = 1_000;

/// What one row, or the lack of one, would do to an account.
#[derive(Debug, Clone)]
pub struct PlannedChange {
    pub user_id: String,
    /// The fields that change, as a change item has them; a gateway is its address here.
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The kinds of planned changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Added,
    Changed,
    Removed,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// Reads a file, writes its rows down, and computes what importing them would change. Commits nothing.
pub async fn stage(
    transaction: &mut OrganizationTransaction,
    import: &NewImport,
    file: impl Read + Send + 'static,
    report: impl Fn(i64),
) -> Result<Staged> {
    let organization = transaction.organization();
    account_file::begin(transaction, organization, import).await?;
    let findings = account_file::stage(transaction, organization, import, file, report).await?;
    compute(transaction, import.id, import.remove_missing, findings).await?;
    let staged = staged(transaction, organization, import.id).await?.ok_or(sqlx::Error::RowNotFound)?;
    if staged.findings.mistake_count > 0 {
        account_file::forget_rows(transaction, organization, import.id).await?;
    }
    Ok(staged)
}

/// An import of the last day; another tenant's is simply not found.
pub async fn staged(db: &mut PgConnection, organization: OrganizationId, id: ImportId) -> Result<Option<Staged>> {
    let row = sqlx::query!(
        r#"
        select file_name, remove_missing, rows, mistakes, mistake_count, accounts, added, changed, removed, new_gateways,
               change_id as "change: ChangeId"
        from account_import where organization_id = $1 and id = $2 and started_at > now() - interval '1 day'
        "#,
        organization as OrganizationId,
        id as ImportId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Staged {
        id,
        file_name: row.file_name,
        remove_missing: row.remove_missing,
        findings: Findings { rows: row.rows, mistakes: mistakes(&row.mistakes), mistake_count: row.mistake_count },
        accounts: row.accounts,
        counts: Counts { added: row.added, changed: row.changed, removed: row.removed },
        new_gateways: row.new_gateways,
        change: row.change,
    }))
}

fn mistakes(kept: &Value) -> Vec<RowMistake> {
    let of = |kept: &Value| {
        let what = kept["what"].as_str().unwrap_or_default();
        RowMistake::new(kept["line"].as_u64().unwrap_or_default(), what)
    };
    kept.as_array().into_iter().flatten().map(of).collect()
}

/// The first few changes of one kind, in the order of the file; removals by User ID.
pub async fn first_planned(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    kind: Kind,
    limit: i64,
) -> Result<Vec<PlannedChange>> {
    sqlx::query_as!(
        PlannedChange,
        r#"
        select user_id, before, after from account_import_change
        where organization_id = $1 and import_id = $2 and kind = $3
        order by position limit $4
        "#,
        organization as OrganizationId,
        import as ImportId,
        kind.as_str(),
        limit,
    )
    .fetch_all(db)
    .await
}

/// Forgets an import and its rows.
pub async fn discard(db: &mut PgConnection, organization: OrganizationId, import: ImportId) -> Result<()> {
    account_file::forget_rows(db, organization, import).await?;
    account_file::forget(db, organization, import).await
}

/// What whoever applies an import agreed to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Consent {
    /// The counts that were shown; `None`: whatever they are.
    pub shown: Option<Counts>,
    /// How many accounts may be removed at most, where it is more than one in twenty.
    pub removals: Option<i64>,
}

/// What became of an import.
#[derive(Debug)]
pub enum Applied {
    /// There is none, or not any more.
    NotFound,
    /// It cannot be applied as it is, or it would do something else than was shown: what it has now is kept with it.
    Different(Box<Staged>),
    /// More accounts would be removed than was agreed to.
    TooManyRemovals(Box<Staged>),
    /// Everything was as the file says already.
    Unchanged(Box<Staged>),
    /// Applied now, or by the same form that was sent before.
    Done(Box<Staged>, Committed),
    Before(ChangeId),
}

/// Applies an import as one change: all of it or nothing. What it changes is computed again, since accounts may have
/// changed since it was looked at. `report` is told how many of seven steps are done.
pub async fn apply(
    mut transaction: OrganizationTransaction,
    import: ImportId,
    consent: Consent,
    actor: &str,
    report: impl Fn(i64),
) -> Result<Applied> {
    let organization = transaction.organization();
    // One import of an organization after the other, and none beside a change of one account.
    lock_alone(&mut transaction, organization).await?;
    let Some(shown) = staged(&mut transaction, organization, import).await? else { return Ok(Applied::NotFound) };
    if let Some(change) = shown.change {
        return Ok(Applied::Before(change));
    }
    conclude(transaction, import, shown.remove_missing, read_again(&shown), consent, actor, report).await
}

/// Computes what the rows change while nobody can change the accounts, and makes the change.
async fn conclude(
    mut transaction: OrganizationTransaction,
    import: ImportId,
    remove_missing: bool,
    findings: Findings,
    consent: Consent,
    actor: &str,
    report: impl Fn(i64),
) -> Result<Applied> {
    let organization = transaction.organization();
    lock_accounts(&mut transaction, organization, import, remove_missing).await?;
    report(1);
    let looked_at = fingerprint(&mut transaction, organization, import).await?;
    compute(&mut transaction, import, remove_missing, findings).await?;
    let is_other = looked_at != fingerprint(&mut transaction, organization, import).await?;
    let now = staged(&mut transaction, organization, import).await?.ok_or(sqlx::Error::RowNotFound)?;
    let now = Box::new(now);
    report(2);
    if now.findings.mistake_count > 0 || consent.shown.is_some_and(|counts| is_other || counts != now.counts) {
        // Kept for whoever looks at it again. A file that was to be imported at one go leaves nothing behind.
        if consent.shown.is_some() {
            transaction.commit().await?;
        }
        return Ok(Applied::Different(now));
    }
    if now.removes_many() && consent.removals.is_none_or(|allowed| now.counts.removed > allowed) {
        return Ok(Applied::TooManyRemovals(now));
    }
    if now.counts.is_nothing() {
        discard(&mut transaction, organization, import).await?;
        transaction.commit().await?;
        return Ok(Applied::Unchanged(now));
    }
    let committed = write(transaction, &now, actor, report).await?;
    Ok(Applied::Done(now, committed))
}

/// Of what is planned: the same number of changes may be other ones, since somebody has changed an account.
async fn fingerprint(db: &mut PgConnection, organization: OrganizationId, import: ImportId) -> Result<Option<String>> {
    sqlx::query_scalar!(
        r#"
        select sum(hashtextextended(concat_ws(' ', kind, account_id, before, after), 0))::text as fingerprint
        from account_import_change where organization_id = $1 and import_id = $2
        "#,
        organization as OrganizationId,
        import as ImportId,
    )
    .fetch_one(db)
    .await
}

/// What the file itself was found to have; what its rows mean together is looked at again.
fn read_again(shown: &Staged) -> Findings {
    Findings { rows: shown.findings.rows, ..Findings::default() }
}

/// The gateways, and the accounts that the file names, or all, in one order: whoever changes one of them at the same moment is waited
/// for, and then seen.
async fn lock_accounts(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    remove_missing: bool,
) -> Result<()> {
    large_statements(db).await?;
    plan_anew(db).await?;
    gateway::keep_all(db, organization).await?;
    sqlx::query_scalar!(
        r#"
        with locked as (
            select 1 from mail_account
            where organization_id = $1
              and ($3 or user_id in (select user_id from account_import_row
                                     where organization_id = $1 and import_id = $2))
            order by id
            for no key update
        )
        select count(*) as "count!" from locked
        "#,
        organization as OrganizationId,
        import as ImportId,
        remove_missing,
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// Nobody has counted the rows that were just written, so the planner takes them for few; joining row by row would
/// then take hours for a large file. For this transaction only.
async fn large_statements(db: &mut PgConnection) -> Result<()> {
    sqlx::query!(
        r#"
        select set_config('enable_nestloop', 'off', true) as a, set_config('jit', 'off', true) as b,
               set_config('work_mem', '64MB', true) as c
        "#
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// Looks at all rows together and keeps what was found; if nothing is wrong with them, what they would change.
async fn compute(
    transaction: &mut OrganizationTransaction,
    import: ImportId,
    remove_missing: bool,
    mut findings: Findings,
) -> Result<()> {
    let organization = transaction.organization();
    large_statements(transaction).await?;
    foreign_domains(transaction, organization, import, &mut findings).await?;
    given_twice(transaction, organization, import, &mut findings).await?;
    taken(transaction, organization, import, remove_missing, &mut findings).await?;
    sqlx::query!(
        "delete from account_import_change where organization_id = $1 and import_id = $2",
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(&mut **transaction)
    .await?;
    if findings.mistake_count == 0 {
        plan(transaction, organization, import, remove_missing).await?;
        count(transaction, organization, import, &mut findings).await?;
    }
    account_file::keep(transaction, organization, import, &findings).await
}

/// The first of some mistakes of one kind, and how many there are.
fn noted(findings: &mut Findings, found: Vec<(i64, String, i64)>) {
    let count = found.first().map_or(0, |(_, _, count)| *count);
    let mistakes = found.into_iter().map(|(line, what, _)| RowMistake::new(line.unsigned_abs(), what)).collect();
    findings.note_some(mistakes, count);
}

async fn foreign_domains(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    findings: &mut Findings,
) -> Result<()> {
    let found = sqlx::query!(
        r#"
        select given.line, given.address as "address!", split_part(given.address, '@', -1) as "domain!",
               count(*) over () as "count!"
        from (select line, unnest(addresses) as address from account_import_row
              where organization_id = $1 and import_id = $2) given
        where split_part(given.address, '@', -1) not in (select name from mail_domain where organization_id = $1)
        order by given.line, given.address limit $3
        "#,
        organization as OrganizationId,
        import as ImportId,
        NAMED_MISTAKES as i64,
    )
    .fetch_all(db)
    .await?;
    let words = |address: &str, domain: &str| format!("{address}: {domain} is not a mail domain of the organization");
    noted(findings, found.into_iter().map(|row| (row.line, words(&row.address, &row.domain), row.count)).collect());
    Ok(())
}

async fn given_twice(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    findings: &mut Findings,
) -> Result<()> {
    let found = sqlx::query!(
        r#"
        select line as "line!", address as "address!", first as "first!", count(*) over () as "count!"
        from (select line, address, min(line) over (partition by address) as first
              from (select line, unnest(addresses) as address from account_import_row
                    where organization_id = $1 and import_id = $2) given) numbered
        where line > first
        order by line, address limit $3
        "#,
        organization as OrganizationId,
        import as ImportId,
        NAMED_MISTAKES as i64,
    )
    .fetch_all(db)
    .await?;
    let words = |address: &str, first: i64| format!("{address} stands in line {first} already");
    noted(findings, found.into_iter().map(|row| (row.line, words(&row.address, row.first), row.count)).collect());
    Ok(())
}

/// Addresses of accounts that keep them. One that its account loses by the same file may move.
async fn taken(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    remove_missing: bool,
    findings: &mut Findings,
) -> Result<()> {
    let found = sqlx::query!(
        r#"
        select given.line as "line!", given.address as "address!", owner.user_id as owner, count(*) over () as "count!"
        from (select line, user_id, unnest(addresses) as address from account_import_row
              where organization_id = $1 and import_id = $2) given
        join mail_address held on held.organization_id = $1 and held.address = given.address
        join mail_account owner on owner.organization_id = $1 and owner.id = held.account_id
        left join account_import_row of_owner on of_owner.organization_id = $1 and of_owner.import_id = $2
                                             and of_owner.user_id = owner.user_id
        where owner.user_id <> given.user_id
          and not case when of_owner.line is null then $3
                       else of_owner.addresses_said and given.address <> owner.user_id end
        order by given.line, given.address limit $4
        "#,
        organization as OrganizationId,
        import as ImportId,
        remove_missing,
        NAMED_MISTAKES as i64,
    )
    .fetch_all(&mut *db)
    .await?;
    let words = |address: &str, owner: &str| format!("{address} belongs to {owner} already");
    noted(findings, found.into_iter().map(|row| (row.line, words(&row.address, &row.owner), row.count)).collect());
    let of_lists = sqlx::query!(
        r#"
        select given.line as "line!", given.address as "address!", count(*) over () as "count!"
        from (select line, unnest(addresses) as address from account_import_row
              where organization_id = $1 and import_id = $2) given
        join distribution_list list on list.organization_id = $1 and list.address = given.address
        order by given.line, given.address limit $3
        "#,
        organization as OrganizationId,
        import as ImportId,
        NAMED_MISTAKES as i64,
    )
    .fetch_all(&mut *db)
    .await?;
    let words = |address: &str| format!("{address} is the address of a distribution list");
    noted(findings, of_lists.into_iter().map(|row| (row.line, words(&row.address), row.count)).collect());
    Ok(())
}

/// Writes down, for every account that changes, the fields that do: before and after.
async fn plan(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    remove_missing: bool,
) -> Result<()> {
    sqlx::query!(
        r#"
        insert into account_import_change (organization_id, import_id, position, kind, account_id, user_id, before, after)
        with present as (
            select account.id, account.user_id, account.name, account.status, account.external_id,
                   gateway.address as gateway, held.addresses
            from mail_account account
            join (select account_id, array_agg(address order by address) as addresses from mail_address
                  where organization_id = $1 group by account_id) held on held.account_id = account.id
            left join gateway on gateway.organization_id = $1 and gateway.id = account.outbound_gateway_id
            where account.organization_id = $1
        ),
        file as (
            select * from account_import_row where organization_id = $1 and import_id = $2
        ),
        compared as (
            select file.line, present.id as present_id, coalesce(present.id, file.new_id) as id,
                   coalesce(present.user_id, file.user_id) as user_id,
                   present.name as old_name,
                   case when file.name_said then coalesce(file.name, '') else coalesce(present.name, '') end as new_name,
                   present.status as old_status,
                   coalesce(file.status, present.status, 'active') as new_status,
                   present.external_id as old_external_id,
                   case when file.external_id_said then file.external_id else present.external_id end as new_external_id,
                   present.gateway as old_gateway,
                   case when file.gateway_said then file.gateway else present.gateway end as new_gateway,
                   present.addresses as old_addresses,
                   case when file.addresses_said or present.id is null then file.addresses
                        else present.addresses end as new_addresses,
                   present.id is null or file.line is null as whole
            from present full join file on file.user_id = present.user_id
            where file.line is not null or $3
        ),
        differing as (
            select *, whole or old_name <> new_name as name_differs,
                   whole or old_status <> new_status as status_differs,
                   whole or old_external_id is distinct from new_external_id as external_id_differs,
                   whole or old_gateway is distinct from new_gateway as gateway_differs,
                   whole or old_addresses <> new_addresses as addresses_differ
            from compared
        )
        select $1, $2, row_number() over (order by line, user_id),
               case when present_id is null then 'added' when line is null then 'removed' else 'changed' end,
               id, user_id,
               case when present_id is not null then
                   case when whole then jsonb_build_object('user_id', user_id) else '{}' end
                   || case when name_differs then jsonb_build_object('name', old_name) else '{}' end
                   || case when status_differs then jsonb_build_object('status', old_status) else '{}' end
                   || case when external_id_differs then jsonb_build_object('external_id', old_external_id) else '{}' end
                   || case when gateway_differs then jsonb_build_object('outbound_gateway', old_gateway) else '{}' end
                   || case when addresses_differ then jsonb_build_object('addresses', old_addresses) else '{}' end
               end,
               case when line is not null then
                   case when whole then jsonb_build_object('user_id', user_id) else '{}' end
                   || case when name_differs then jsonb_build_object('name', new_name) else '{}' end
                   || case when status_differs then jsonb_build_object('status', new_status) else '{}' end
                   || case when external_id_differs then jsonb_build_object('external_id', new_external_id) else '{}' end
                   || case when gateway_differs then jsonb_build_object('outbound_gateway', new_gateway) else '{}' end
                   || case when addresses_differ then jsonb_build_object('addresses', new_addresses) else '{}' end
               end
        from differing
        where name_differs or status_differs or external_id_differs or gateway_differs or addresses_differ
        "#,
        organization as OrganizationId,
        import as ImportId,
        remove_missing,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Counts what is planned, and names the gateways that it needs.
async fn count(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    findings: &mut Findings,
) -> Result<()> {
    let new_gateways: Vec<String> = sqlx::query_scalar!(
        r#"
        select distinct after ->> 'outbound_gateway' as "address!"
        from account_import_change
        where organization_id = $1 and import_id = $2 and after ->> 'outbound_gateway' is not null
          and after ->> 'outbound_gateway' not in (select address from gateway where organization_id = $1)
        order by 1 limit $3
        "#,
        organization as OrganizationId,
        import as ImportId,
        MOST_NEW_GATEWAYS as i64 + 1,
    )
    .fetch_all(&mut *db)
    .await?;
    if new_gateways.len() > MOST_NEW_GATEWAYS {
        findings.note(RowMistake::new(1, format!("the file names more than {MOST_NEW_GATEWAYS} new gateways")));
    }
    sqlx::query!(
        r#"
        update account_import
        set accounts = (select count(*) from mail_account where organization_id = $1),
            added = planned.added, changed = planned.changed, removed = planned.removed, new_gateways = $3
        from (select count(*) filter (where kind = 'added') as added,
                     count(*) filter (where kind = 'changed') as changed,
                     count(*) filter (where kind = 'removed') as removed
              from account_import_change where organization_id = $1 and import_id = $2) planned
        where account_import.organization_id = $1 and account_import.id = $2
        "#,
        organization as OrganizationId,
        import as ImportId,
        &new_gateways,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Makes the planned changes, as one change with one item each.
async fn write(
    mut transaction: OrganizationTransaction,
    import: &Staged,
    actor: &str,
    report: impl Fn(i64),
) -> Result<Committed> {
    let (organization, id) = (transaction.organization(), import.id);
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "accounts.import",
        subject: match import.counts.added + import.counts.changed + import.counts.removed {
            1 => "1 account".to_owned(),
            several => format!("{several} accounts"),
        },
        before: None,
        after: Some(import.counts.in_words()),
    };
    let mut change = transaction.open_change(ChangeId::new(), audit).await?;
    let mut items = Vec::new();
    for address in &import.new_gateways {
        let address: GatewayAddress = address.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        gateway::find_or_create(&mut transaction, organization, &address, &mut items).await?;
    }
    transaction.add_items(&mut change, &items).await?;
    add_items(&mut transaction, organization, id, change.id, items.len() as i64).await?;
    report(3);
    remove(&mut transaction, organization, id).await?;
    report(4);
    write_accounts(&mut transaction, organization, id).await?;
    report(5);
    // By now there are as many accounts as there will be.
    plan_anew(&mut transaction).await?;
    write_addresses(&mut transaction, organization, id).await?;
    report(6);
    keep_change(&mut transaction, organization, id, change.id).await?;
    report(7);
    transaction.finish_change(change, None).await
}

/// The items that undo restores from: as planned, with gateways by their ids.
async fn add_items(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    change: ChangeId,
    preceding: i64,
) -> Result<()> {
    sqlx::query!(
        r#"
        insert into change_item (organization_id, change_id, position, subject, subject_key, before, after)
        select $1, $3, $4 + planned.position, 'account', planned.account_id::text,
               case when planned.before ? 'outbound_gateway'
                    then planned.before || jsonb_build_object('outbound_gateway', old.id) else planned.before end,
               case when planned.after ? 'outbound_gateway'
                    then planned.after || jsonb_build_object('outbound_gateway', new.id) else planned.after end
        from account_import_change planned
        left join gateway old on old.organization_id = $1 and old.address = planned.before ->> 'outbound_gateway'
        left join gateway new on new.organization_id = $1 and new.address = planned.after ->> 'outbound_gateway'
        where planned.organization_id = $1 and planned.import_id = $2
        "#,
        organization as OrganizationId,
        import as ImportId,
        change as ChangeId,
        preceding,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Addresses that accounts lose, so that others may have them, and accounts that are removed.
async fn remove(db: &mut PgConnection, organization: OrganizationId, import: ImportId) -> Result<()> {
    sqlx::query!(
        r#"
        delete from mail_address using account_import_change planned
        where planned.organization_id = $1 and planned.import_id = $2 and planned.before ? 'addresses'
          and mail_address.organization_id = $1 and mail_address.account_id = planned.account_id
          and not coalesce(planned.after -> 'addresses' ? mail_address.address, false)
        "#,
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        delete from mail_account using account_import_change planned
        where planned.organization_id = $1 and planned.import_id = $2 and planned.kind = 'removed'
          and mail_account.organization_id = $1 and mail_account.id = planned.account_id
        "#,
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn write_accounts(db: &mut PgConnection, organization: OrganizationId, import: ImportId) -> Result<()> {
    sqlx::query!(
        r#"
        update mail_account
        set name = coalesce(planned.after ->> 'name', mail_account.name),
            status = coalesce(planned.after ->> 'status', mail_account.status),
            external_id = case when planned.after ? 'external_id' then planned.after ->> 'external_id'
                               else mail_account.external_id end,
            outbound_gateway_id = case when planned.after ? 'outbound_gateway' then gateway.id
                                       else mail_account.outbound_gateway_id end
        from account_import_change planned
        left join gateway on gateway.organization_id = $1 and gateway.address = planned.after ->> 'outbound_gateway'
        where planned.organization_id = $1 and planned.import_id = $2 and planned.kind = 'changed'
          and mail_account.organization_id = $1 and mail_account.id = planned.account_id
        "#,
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        insert into mail_account (organization_id, id, user_id, name, status, external_id, outbound_gateway_id)
        select $1, planned.account_id, planned.user_id, planned.after ->> 'name', planned.after ->> 'status',
               planned.after ->> 'external_id', gateway.id
        from account_import_change planned
        left join gateway on gateway.organization_id = $1 and gateway.address = planned.after ->> 'outbound_gateway'
        where planned.organization_id = $1 and planned.import_id = $2 and planned.kind = 'added'
        "#,
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn write_addresses(db: &mut PgConnection, organization: OrganizationId, import: ImportId) -> Result<()> {
    sqlx::query!(
        r#"
        insert into mail_address (organization_id, address, account_id)
        select $1, given.address, given.account_id
        from (select account_id, before, jsonb_array_elements_text(after -> 'addresses') as address
              from account_import_change
              where organization_id = $1 and import_id = $2 and after ? 'addresses') given
        where not coalesce(given.before -> 'addresses' ? given.address, false)
        "#,
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// What is left of an applied import is which change it became, so that the same form sent again leads there.
async fn keep_change(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    change: ChangeId,
) -> Result<()> {
    account_file::forget_rows(db, organization, import).await?;
    sqlx::query!(
        "update account_import set change_id = $3 where organization_id = $1 and id = $2",
        organization as OrganizationId,
        import as ImportId,
        change as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Why a file was not imported. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{} of the file's rows cannot be imported", .0.mistake_count)]
    Rows(Findings),
    #[error("{} of {} accounts would be removed", .0.counts.removed, .0.accounts)]
    TooManyRemovals(Box<Staged>),
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}

/// Reads and applies a file at one go. `removals`: how many accounts may be removed at most, where it is more than
/// one in twenty.
pub async fn import(
    mut transaction: OrganizationTransaction,
    import: &NewImport,
    file: impl Read + Send + 'static,
    removals: Option<i64>,
) -> Result<(Staged, Option<Committed>), ImportError> {
    let organization = transaction.organization();
    lock_alone(&mut transaction, organization).await?;
    account_file::begin(&mut transaction, organization, import).await?;
    let findings = account_file::stage(&mut transaction, organization, import, file, |_| {}).await?;
    let consent = Consent { shown: None, removals };
    let (id, remove_missing, actor) = (import.id, import.remove_missing, &import.started_by);
    match conclude(transaction, id, remove_missing, findings, consent, actor, |_| {}).await? {
        Applied::Done(done, committed) => Ok((*done, Some(committed))),
        Applied::Unchanged(staged) => Ok((*staged, None)),
        Applied::TooManyRemovals(staged) => Err(ImportError::TooManyRemovals(staged)),
        Applied::Different(staged) => Err(ImportError::Rows(staged.findings)),
        Applied::NotFound | Applied::Before(_) => Err(ImportError::Store(sqlx::Error::RowNotFound)),
    }
}
