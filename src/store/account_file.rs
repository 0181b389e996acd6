//! Many accounts at once: in from a file, row by row, and out to one.
//! What the file's cells mean stands in [`account_file`](crate::policy::account_file), what becomes of the rows in
//! [`account_import`](super::account_import).

use std::io::Read;

use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::mpsc;

use super::Result;
use crate::{
    mail::{
        Mailbox,
        id::{AccountId, ImportId, OrganizationId},
    },
    policy::{
        account_file::{AccountFile, AccountRow, Cell, RowMistake, harmless},
        gateway_network::{self, AllowedNetworks},
    },
};

/// Rows that are written with one statement: large enough to be fast, small enough that memory stays flat.
const BATCH: usize = 2_000;

/// Mistakes that are named before the rest is only counted.
pub const NAMED_MISTAKES: usize = 100;

/// What a file is imported as.
#[derive(Debug, Clone)]
pub struct NewImport {
    pub id: ImportId,
    /// As its sender calls it; empty if it has no name.
    pub file_name: String,
    /// Whether accounts that no row names are removed.
    pub remove_missing: bool,
    /// The administrator's address, or `operator`.
    pub started_by: String,
    /// Where gateways may be.
    pub allowed: AllowedNetworks,
}

/// What was found in a file: how many rows can be read, and what is wrong with the others.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub rows: i64,
    /// The first of them.
    pub mistakes: Vec<RowMistake>,
    /// All of them.
    pub mistake_count: i64,
}

impl Findings {
    /// One more mistake.
    pub fn note(&mut self, mistake: RowMistake) {
        self.note_some(vec![mistake], 1);
    }

    /// The first few of `count` more mistakes.
    pub fn note_some(&mut self, some: Vec<RowMistake>, count: i64) {
        self.mistake_count += count;
        self.mistakes.extend(some);
        self.mistakes.sort_by_key(|mistake| mistake.line);
        self.mistakes.truncate(NAMED_MISTAKES);
    }
}

/// Begins an import. Those of former days are forgotten.
pub(super) async fn begin(db: &mut PgConnection, organization: OrganizationId, import: &NewImport) -> Result<()> {
    let former = sqlx::query_scalar!(
        r#"
        select id as "id: ImportId" from account_import
        where organization_id = $1 and started_at < now() - interval '1 day'
        "#,
        organization as OrganizationId,
    )
    .fetch_all(&mut *db)
    .await?;
    for former in former {
        forget_rows(db, organization, former).await?;
        forget(db, organization, former).await?;
    }
    sqlx::query!(
        r#"
        insert into account_import (organization_id, id, file_name, remove_missing, started_by)
        values ($1, $2, $3, $4, $5)
        "#,
        organization as OrganizationId,
        import.id as ImportId,
        import.file_name,
        import.remove_missing,
        import.started_by,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Deletes what was read and planned.
pub(super) async fn forget_rows(db: &mut PgConnection, organization: OrganizationId, import: ImportId) -> Result<()> {
    sqlx::query!(
        "delete from account_import_row where organization_id = $1 and import_id = $2",
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "delete from account_import_change where organization_id = $1 and import_id = $2",
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Deletes an import without its rows.
pub(super) async fn forget(db: &mut PgConnection, organization: OrganizationId, import: ImportId) -> Result<()> {
    sqlx::query!(
        "delete from account_import where organization_id = $1 and id = $2",
        organization as OrganizationId,
        import as ImportId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Writes the rows of a file down while it is read, and says what is wrong with those that cannot be.
/// `report` is told how many lines are behind.
pub(super) async fn stage(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: &NewImport,
    file: impl Read + Send + 'static,
    report: impl Fn(i64),
) -> Result<Findings> {
    let (sender, mut batches) = mpsc::channel(1);
    let allowed = import.allowed.clone();
    // Files and CSV are read where waiting is no harm; the store writes one batch while the next is read.
    let reading = tokio::task::spawn_blocking(move || read(file, &allowed, &sender));
    let mut findings = Findings::default();
    while let Some(batch) = batches.recv().await {
        insert(db, organization, import.id, &batch).await?;
        findings.rows += batch.len() as i64;
        report(findings.rows);
    }
    let mistakes = reading.await.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
    findings.note_some(mistakes.mistakes, mistakes.mistake_count);
    Ok(findings)
}

/// Sends the rows on in batches and keeps the mistakes. Ends early if nobody takes the rows any more.
fn read(file: impl Read, allowed: &AllowedNetworks, batches: &mpsc::Sender<Vec<AccountRow>>) -> Findings {
    let mut findings = Findings::default();
    let rows = match AccountFile::open(file) {
        Ok(rows) => rows,
        Err(mistake) => {
            findings.note(mistake);
            return findings;
        }
    };
    let mut batch = Vec::with_capacity(BATCH);
    for row in rows {
        match row.and_then(|row| within_networks(row, allowed)) {
            Ok(row) => batch.push(row),
            Err(mistake) => findings.note(mistake),
        }
        if batch.len() == BATCH
            && batches.blocking_send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).is_err()
        {
            return findings;
        }
    }
    if !batch.is_empty() {
        // Whoever does not take it has failed for a reason of its own.
        let _ = batches.blocking_send(batch);
    }
    findings
}

fn within_networks(row: AccountRow, allowed: &AllowedNetworks) -> Result<AccountRow, RowMistake> {
    match &row.outbound_gateway {
        Cell::Set(address) => match gateway_network::check_address(address, allowed) {
            Ok(()) => Ok(row),
            Err(refusal) => Err(RowMistake::new(row.line, refusal.to_string())),
        },
        Cell::Leave | Cell::Delete => Ok(row),
    }
}

/// What a cell becomes in array parameters: whether it says something, and what.
fn said<T: ToString>(cell: &Cell<T>) -> (bool, Option<String>) {
    match cell {
        Cell::Leave => (false, None),
        Cell::Delete => (true, None),
        Cell::Set(value) => (true, Some(value.to_string())),
    }
}

/// All addresses that a row names, the User ID included, sorted as the store sorts them; one a line, which no
/// address contains.
fn addresses(row: &AccountRow) -> String {
    let aliases: &[Mailbox] = match &row.aliases {
        Cell::Set(aliases) => aliases,
        Cell::Leave | Cell::Delete => &[],
    };
    let mut addresses: Vec<String> = std::iter::once(&row.user_id).chain(aliases).map(ToString::to_string).collect();
    addresses.sort();
    addresses.join("\n")
}

async fn insert(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    batch: &[AccountRow],
) -> Result<()> {
    let lines: Vec<i64> = batch.iter().map(|row| row.line as i64).collect();
    let user_ids: Vec<String> = batch.iter().map(|row| row.user_id.to_string()).collect();
    let ids: Vec<AccountId> = batch.iter().map(|_| AccountId::new()).collect();
    let (names_said, names): (Vec<bool>, Vec<Option<String>>) = batch.iter().map(|row| said(&row.name)).unzip();
    let addresses_said: Vec<bool> = batch.iter().map(|row| row.aliases != Cell::Leave).collect();
    let addresses: Vec<String> = batch.iter().map(addresses).collect();
    let statuses: Vec<Option<String>> = batch
        .iter()
        .map(|row| row.suspended.map(|suspended| if suspended { "suspended" } else { "active" }.to_owned()))
        .collect();
    let (gateways_said, gateways): (Vec<bool>, Vec<Option<String>>) =
        batch.iter().map(|row| said(&row.outbound_gateway)).unzip();
    let (external_said, external): (Vec<bool>, Vec<Option<String>>) =
        batch.iter().map(|row| said(&row.external_id)).unzip();
    sqlx::query!(
        r#"
        insert into account_import_row (organization_id, import_id, line, user_id, new_id, name_said, name,
                                        addresses_said, addresses, status, gateway_said, gateway,
                                        external_id_said, external_id)
        select $1, $2, line, user_id, new_id, name_said, name, addresses_said, string_to_array(addresses, e'\n'),
               status, gateway_said, gateway, external_id_said, external_id
        from unnest($3::bigint[], $4::text[], $5::uuid[], $6::boolean[], $7::text[], $8::boolean[], $9::text[],
                    $10::text[], $11::boolean[], $12::text[], $13::boolean[], $14::text[])
             as row (line, user_id, new_id, name_said, name, addresses_said, addresses, status, gateway_said, gateway,
                     external_id_said, external_id)
        "#,
        organization as OrganizationId,
        import as ImportId,
        &lines,
        &user_ids,
        &ids as &[AccountId],
        &names_said,
        &names as &[Option<String>],
        &addresses_said,
        &addresses,
        &statuses as &[Option<String>],
        &gateways_said,
        &gateways as &[Option<String>],
        &external_said,
        &external as &[Option<String>],
    )
    .execute(db)
    .await
    .map(drop)
}

/// Keeps what was found in a file with its import.
pub(super) async fn keep(
    db: &mut PgConnection,
    organization: OrganizationId,
    import: ImportId,
    findings: &Findings,
) -> Result<()> {
    let mistakes: Vec<_> =
        findings.mistakes.iter().map(|mistake| json!({ "line": mistake.line, "what": mistake.what })).collect();
    sqlx::query!(
        "update account_import set rows = $3, mistakes = $4, mistake_count = $5 where organization_id = $1 and id = $2",
        organization as OrganizationId,
        import as ImportId,
        findings.rows,
        json!(mistakes),
        findings.mistake_count,
    )
    .execute(db)
    .await
    .map(drop)
}

/// One account as an export has it.
#[derive(Debug, Clone)]
pub struct ExportedAccount {
    pub user_id: String,
    pub name: String,
    /// Further addresses, apart by blanks.
    pub aliases: String,
    pub status: String,
    /// The account's own gateway; empty where it follows its domain or organization.
    pub outbound_gateway: String,
    pub external_id: String,
}

impl ExportedAccount {
    /// In the order of the columns, with nothing in them that a spreadsheet would run.
    pub fn cells(&self) -> [String; 6] {
        [&self.user_id, &self.name, &self.aliases, &self.status, &self.outbound_gateway, &self.external_id]
            .map(|cell| harmless(cell))
    }
}

/// All accounts of an organization in the order of their User IDs, one after the other, so that
/// memory stays flat.
pub fn export(
    db: &mut PgConnection,
    organization: OrganizationId,
) -> impl futures_core::Stream<Item = Result<ExportedAccount>> {
    sqlx::query_as!(
        ExportedAccount,
        r#"
        select account.user_id, account.name, account.status,
               coalesce(gateway.address, '') as "outbound_gateway!",
               coalesce(account.external_id, '') as "external_id!",
               coalesce((
                   select string_agg(mail_address.address, ' ' order by mail_address.address)
                   from mail_address
                   where mail_address.organization_id = account.organization_id
                     and mail_address.account_id = account.id and mail_address.address <> account.user_id
               ), '') as "aliases!"
        from mail_account account
        left join gateway on gateway.organization_id = account.organization_id
                         and gateway.id = account.outbound_gateway_id
        where account.organization_id = $1
        order by account.user_id
        "#,
        organization as OrganizationId,
    )
    .fetch(db)
}
