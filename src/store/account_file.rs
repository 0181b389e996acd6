//! Many accounts at once: in from a file, all rows as one change or none of them, and out to one.
//! What the file's cells mean stands in [`account_file`](crate::policy::account_file).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject},
    gateway,
};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, GatewayId, OrganizationId},
    },
    policy::account_file::{AccountRow, Cell, RowMistake},
};

/// Rows that are written with one statement: large enough to be fast, small enough to stay in cache.
const BATCH: usize = 10_000;

/// What an import did.
#[derive(Debug, Clone, Copy)]
pub struct Imported {
    pub added: usize,
    pub changed: usize,
    /// `None`: everything was as the file says already.
    pub committed: Option<Committed>,
}

/// Why an import did nothing.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{} of the file's rows cannot be imported", .0.len())]
    Rows(Vec<RowMistake>),
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}

/// Adds the accounts that are new and changes those that are there, as the rows say. What no row
/// names stays as it is.
pub async fn import(
    mut transaction: OrganizationTransaction,
    rows: &[AccountRow],
    actor: &str,
) -> Result<Imported, ImportError> {
    let organization = transaction.organization();
    let mistakes = foreign_domains(&mut transaction, organization, rows).await?;
    if !mistakes.is_empty() {
        return Err(ImportError::Rows(mistakes));
    }
    let mut items = Vec::new();
    let gateways = gateways_of(&mut transaction, organization, rows, &mut items).await?;
    let mut touched = Touched::default();
    for batch in rows.chunks(BATCH) {
        add_accounts(&mut transaction, organization, batch, &mut touched).await?;
        change_accounts(&mut transaction, organization, batch, &gateways, &mut touched).await?;
    }
    // Removed aliases first, so that an address may move from one account of the file to another.
    for batch in rows.chunks(BATCH) {
        remove_aliases(&mut transaction, organization, batch, &mut touched).await?;
    }
    let mut mistakes = Vec::new();
    for batch in rows.chunks(BATCH) {
        mistakes.extend(write_addresses(&mut transaction, organization, batch, &mut touched).await?);
    }
    if !mistakes.is_empty() {
        return Err(ImportError::Rows(mistakes));
    }
    let (added, changed) = (touched.added.len(), touched.changed().count());
    items.extend(touched.items());
    if items.is_empty() {
        return Ok(Imported { added, changed, committed: None });
    }
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "accounts.import",
        subject: format!("{} accounts", rows.len()),
        before: None,
        after: Some(format!("{added} added, {changed} changed")),
    };
    let committed = Some(transaction.commit_change(&items, audit).await?);
    Ok(Imported { added, changed, committed })
}

#[derive(Default)]
struct Touched {
    added: BTreeSet<AccountId>,
    /// Accounts that were written to, and the addresses that each has lost.
    written: BTreeMap<AccountId, Vec<String>>,
}

impl Touched {
    fn wrote(&mut self, accounts: Vec<AccountId>) {
        for account in accounts {
            self.written.entry(account).or_default();
        }
    }

    /// Those that were there before.
    fn changed(&self) -> impl Iterator<Item = (&AccountId, &Vec<String>)> {
        self.written.iter().filter(|(account, _)| !self.added.contains(account))
    }

    /// Relays forget the addresses that an item names as former ones.
    fn items(&self) -> Vec<ChangeItem> {
        let item = |account: &AccountId, before: Option<Value>, imported: &str| ChangeItem {
            subject: Subject::Account,
            key: account.to_string(),
            before,
            after: Some(json!({ "imported": imported })),
        };
        let added = self.added.iter().map(|account| item(account, None, "added"));
        let changed =
            self.changed().map(|(account, lost)| item(account, Some(json!({ "addresses": lost })), "changed"));
        added.chain(changed).collect()
    }
}

/// The addresses of a row that the file names: the User ID, then its aliases.
fn addresses(row: &AccountRow) -> impl Iterator<Item = &Mailbox> {
    let aliases = match &row.aliases {
        Cell::Set(aliases) => aliases.as_slice(),
        Cell::Leave | Cell::Delete => &[],
    };
    std::iter::once(&row.user_id).chain(aliases)
}

async fn foreign_domains(
    db: &mut PgConnection,
    organization: OrganizationId,
    rows: &[AccountRow],
) -> Result<Vec<RowMistake>> {
    let own: BTreeSet<DomainName> = sqlx::query_scalar!(
        r#"select name as "name: DomainName" from mail_domain where organization_id = $1"#,
        organization as OrganizationId,
    )
    .fetch_all(db)
    .await?
    .into_iter()
    .collect();
    let mistakes = rows.iter().flat_map(|row| addresses(row).map(move |address| (row.line, address)));
    Ok(mistakes
        .filter(|(_, address)| !own.contains(address.domain()))
        .map(|(line, address)| {
            RowMistake::new(line, format!("{address}: {} is not a mail domain of the organization", address.domain()))
        })
        .collect())
}

async fn gateways_of(
    db: &mut PgConnection,
    organization: OrganizationId,
    rows: &[AccountRow],
    items: &mut Vec<ChangeItem>,
) -> Result<BTreeMap<GatewayAddress, GatewayId>> {
    let mut gateways = BTreeMap::new();
    for row in rows {
        if let Cell::Set(address) = &row.outbound_gateway
            && !gateways.contains_key(address)
        {
            let id = gateway::find_or_create(db, organization, address, items).await?;
            gateways.insert(address.clone(), id);
        }
    }
    Ok(gateways)
}

/// What a text cell becomes in an array parameter: whether it says something, and what.
fn said<T: Clone>(cell: &Cell<T>) -> (bool, Option<T>) {
    match cell {
        Cell::Leave => (false, None),
        Cell::Delete => (true, None),
        Cell::Set(value) => (true, Some(value.clone())),
    }
}

fn user_ids(batch: &[AccountRow]) -> Vec<String> {
    batch.iter().map(|row| row.user_id.to_string()).collect()
}

/// Adds those that are missing; what else their rows say follows.
async fn add_accounts(
    db: &mut PgConnection,
    organization: OrganizationId,
    batch: &[AccountRow],
    touched: &mut Touched,
) -> Result<()> {
    let ids: Vec<AccountId> = batch.iter().map(|_| AccountId::new()).collect();
    let added = sqlx::query_scalar!(
        r#"
        insert into mail_account (organization_id, id, user_id)
        select $1, id, user_id from unnest($2::uuid[], $3::text[]) as row (id, user_id)
        on conflict (organization_id, user_id) do nothing
        returning id as "id: AccountId"
        "#,
        organization as OrganizationId,
        &ids as &[AccountId],
        &user_ids(batch),
    )
    .fetch_all(db)
    .await?;
    touched.added.extend(added);
    Ok(())
}

async fn change_accounts(
    db: &mut PgConnection,
    organization: OrganizationId,
    batch: &[AccountRow],
    gateways: &BTreeMap<GatewayAddress, GatewayId>,
    touched: &mut Touched,
) -> Result<()> {
    let (names_said, names): (Vec<bool>, Vec<Option<String>>) = batch.iter().map(|row| said(&row.name)).unzip();
    let (external_said, external): (Vec<bool>, Vec<Option<String>>) =
        batch.iter().map(|row| said(&row.external_id)).unzip();
    let (gateway_said, gateway): (Vec<bool>, Vec<Option<GatewayAddress>>) =
        batch.iter().map(|row| said(&row.outbound_gateway)).unzip();
    let gateway: Vec<Option<GatewayId>> =
        gateway.into_iter().map(|address| address.and_then(|address| gateways.get(&address).copied())).collect();
    let status: Vec<Option<String>> = batch
        .iter()
        .map(|row| row.suspended.map(|suspended| if suspended { "suspended" } else { "active" }.to_owned()))
        .collect();
    let changed = sqlx::query_scalar!(
        r#"
        update mail_account
        set name = new.name, status = new.status, external_id = new.external_id,
            outbound_gateway_id = new.outbound_gateway_id
        from (
            select account.id,
                   case when row.name_said then coalesce(row.name, '') else account.name end as name,
                   coalesce(row.status, account.status) as status,
                   case when row.external_said then row.external_id else account.external_id end as external_id,
                   case when row.gateway_said then row.gateway else account.outbound_gateway_id end as outbound_gateway_id
            from unnest($2::text[], $3::boolean[], $4::text[], $5::text[], $6::boolean[], $7::text[], $8::boolean[], $9::uuid[])
                 as row (user_id, name_said, name, status, external_said, external_id, gateway_said, gateway)
            join mail_account account on account.organization_id = $1 and account.user_id = row.user_id
        ) new
        where mail_account.organization_id = $1 and mail_account.id = new.id
          and (mail_account.name, mail_account.status, mail_account.external_id, mail_account.outbound_gateway_id)
              is distinct from (new.name, new.status, new.external_id, new.outbound_gateway_id)
        returning mail_account.id as "id: AccountId"
        "#,
        organization as OrganizationId,
        &user_ids(batch),
        &names_said,
        &names as &[Option<String>],
        &status as &[Option<String>],
        &external_said,
        &external as &[Option<String>],
        &gateway_said,
        &gateway as &[Option<GatewayId>],
    )
    .fetch_all(db)
    .await?;
    touched.wrote(changed);
    Ok(())
}

/// Removes the aliases that a row's list no longer has.
async fn remove_aliases(
    db: &mut PgConnection,
    organization: OrganizationId,
    batch: &[AccountRow],
    touched: &mut Touched,
) -> Result<()> {
    let listed: Vec<&AccountRow> = batch.iter().filter(|row| row.aliases != Cell::Leave).collect();
    let user_ids: Vec<String> = listed.iter().map(|row| row.user_id.to_string()).collect();
    let (kept_by, kept): (Vec<String>, Vec<String>) = listed
        .iter()
        .flat_map(|row| addresses(row).map(move |address| (row.user_id.to_string(), address.to_string())))
        .unzip();
    let removed = sqlx::query!(
        r#"
        delete from mail_address using mail_account account
        where account.organization_id = $1 and account.user_id = any ($2::text[])
          and mail_address.organization_id = $1 and mail_address.account_id = account.id
          and not exists (
              select from unnest($3::text[], $4::text[]) as kept (user_id, address)
              where kept.user_id = account.user_id and kept.address = mail_address.address
          )
        returning mail_address.account_id as "account: AccountId", mail_address.address
        "#,
        organization as OrganizationId,
        &user_ids,
        &kept_by,
        &kept,
    )
    .fetch_all(db)
    .await?;
    for row in removed {
        touched.written.entry(row.account).or_default().push(row.address);
    }
    Ok(())
}

/// Adds what is missing; an address that another account has is a mistake of its row.
async fn write_addresses(
    db: &mut PgConnection,
    organization: OrganizationId,
    batch: &[AccountRow],
    touched: &mut Touched,
) -> Result<Vec<RowMistake>> {
    let mut lines = HashMap::new();
    let (mut user_ids, mut given) = (Vec::new(), Vec::new());
    for (row, address) in batch.iter().flat_map(|row| addresses(row).map(move |address| (row, address))) {
        lines.insert(address.to_string(), row.line);
        user_ids.push(row.user_id.to_string());
        given.push(address.to_string());
    }
    let added = sqlx::query_scalar!(
        r#"
        insert into mail_address (organization_id, address, account_id)
        select $1, row.address, account.id
        from unnest($2::text[], $3::text[]) as row (user_id, address)
        join mail_account account on account.organization_id = $1 and account.user_id = row.user_id
        on conflict (organization_id, address) do nothing
        returning account_id as "id: AccountId"
        "#,
        organization as OrganizationId,
        &user_ids,
        &given,
    )
    .fetch_all(&mut *db)
    .await?;
    touched.wrote(added);
    let taken = sqlx::query!(
        r#"
        select row.address as "address!", owner.user_id as owner
        from unnest($2::text[], $3::text[]) as row (user_id, address)
        join mail_address on mail_address.organization_id = $1 and mail_address.address = row.address
        join mail_account owner on owner.organization_id = $1 and owner.id = mail_address.account_id
        where owner.user_id <> row.user_id
        "#,
        organization as OrganizationId,
        &user_ids,
        &given,
    )
    .fetch_all(db)
    .await?;
    Ok(taken
        .into_iter()
        .map(|row| {
            let line = lines.get(&row.address).copied().unwrap_or_default();
            RowMistake::new(line, format!("{} belongs to {} already", row.address, row.owner))
        })
        .collect())
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
