//! Mail accounts and their addresses.
//! One account at a time; pages of the list are `account_list`'s, whole files `account_file`'s.

use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject},
    gateway,
};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, ChangeId, GatewayId, OrganizationId, Revision},
    },
    policy::routing::{HeldUntil, SenderGateways},
};

/// An account to be added.
#[derive(Debug, Clone)]
pub struct NewAccount {
    pub user_id: Mailbox,
    pub name: String,
    /// Further addresses, without the User ID.
    pub aliases: Vec<Mailbox>,
}

/// Why an account cannot be as it is wished, in words for who asked for it. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("{address} belongs to {owner} already. Use another address, or take it from that account first.")]
    AddressTaken { address: Mailbox, owner: Mailbox },
    #[error("{0} is the address of a distribution list. Use another address, or delete the list first.")]
    AddressOfList(Mailbox),
    /// Whether another organization has the domain is not ours to tell.
    #[error("{} is not a mail domain of your organization. Use an address of one that is.", .0.domain().to_unicode())]
    ForeignDomain(Mailbox),
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}

/// What became of a change of one account.
#[derive(Debug, Clone)]
pub enum Edited {
    /// The organization has no such account; nothing was changed.
    NotFound,
    /// It was so already; nothing was changed.
    Unchanged,
    /// Somebody else has changed it since it was shown; nothing was changed. The account as it is now.
    Conflict(Box<Account>),
    Changed(Committed),
}

/// One account with everything that stands in the store about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub user_id: Mailbox,
    pub name: String,
    pub suspended: bool,
    pub external_id: Option<String>,
    pub outbound_gateway: Option<GatewayId>,
    /// All of them, the User ID included, sorted.
    pub addresses: Vec<Mailbox>,
}

impl Account {
    /// The addresses beside the User ID, sorted.
    pub fn further_addresses(&self) -> Vec<Mailbox> {
        self.addresses.iter().filter(|address| **address != self.user_id).cloned().collect()
    }
}

/// Every change of accounts takes this lock before anything else: those of one account share it, an import has it
/// alone, so that neither sees the other half done and neither waits for the other for ever.
pub(super) async fn lock_shared(db: &mut PgConnection, organization: OrganizationId) -> Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock_shared(hashtextextended('outgate accounts ' || $1, 0))",
        organization.to_string(),
    )
    .execute(db)
    .await
    .map(drop)
}

/// The same lock, for who changes many accounts.
pub(super) async fn lock_alone(db: &mut PgConnection, organization: OrganizationId) -> Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('outgate accounts ' || $1, 0))",
        organization.to_string(),
    )
    .execute(db)
    .await
    .map(drop)
}

/// Forgets the plans that this connection keeps, those of triggers and foreign keys included. Kept from a time when
/// there was a handful of accounts, they would go through all accounts once for each of a hundred thousand.
pub(super) async fn plan_anew(db: &mut PgConnection) -> Result<()> {
    sqlx::query("discard plans").execute(db).await.map(drop)
}

/// Adds one account with its addresses, as one change.
pub async fn add(
    transaction: OrganizationTransaction,
    account: &NewAccount,
    actor: &str,
) -> Result<(AccountId, Committed), AccountError> {
    add_as(transaction, ChangeId::new(), account, None, actor).await
}

/// The same as the change with this id, so that a form which is sent twice adds one account; and with a gateway of
/// its own, if it has one.
pub async fn add_as(
    mut transaction: OrganizationTransaction,
    change: ChangeId,
    account: &NewAccount,
    outbound_gateway: Option<&GatewayAddress>,
    actor: &str,
) -> Result<(AccountId, Committed), AccountError> {
    let organization = transaction.organization();
    lock_shared(&mut transaction, organization).await?;
    let addresses = sorted(&account.user_id, &account.aliases);
    refuse_foreign(&mut transaction, organization, &addresses).await?;
    refuse_taken(&mut transaction, organization, &addresses).await?;
    let change = unused(&mut transaction, organization, change).await?;
    let mut items = Vec::new();
    let gateway = match outbound_gateway {
        Some(address) => Some(gateway::find_or_create(&mut transaction, organization, address, &mut items).await?),
        None => None,
    };
    let added = Account {
        id: AccountId::new(),
        user_id: account.user_id.clone(),
        name: account.name.clone(),
        suspended: false,
        external_id: None,
        outbound_gateway: gateway,
        addresses,
    };
    insert(&mut transaction, organization, &added).await?;
    items.push(ChangeItem {
        subject: Subject::Account,
        key: added.id.to_string(),
        before: None,
        after: Some(fields(&added)),
    });
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "account.add",
        subject: account.user_id.to_string(),
        before: None,
        after: Some(account.name.clone()),
    };
    let mut open = transaction.open_change(change, audit).await?;
    transaction.add_items(&mut open, &items).await?;
    Ok((added.id, transaction.finish_change(open, None).await?))
}

/// The id, or another one if there is such a change already: whoever went back to a form may fill it in anew.
async fn unused(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<ChangeId> {
    let used = super::change::is_there(db, organization, change).await?;
    Ok(if used { ChangeId::new() } else { change })
}

/// The account that a change with this id added, if its User ID is this one: the same form was sent before.
pub async fn added_by(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    user_id: &Mailbox,
) -> Result<Option<(AccountId, Revision)>> {
    let added = sqlx::query!(
        r#"
        select account.id as "id: AccountId", change.revision as "revision: Revision"
        from change
        join audit_entry on audit_entry.organization_id = change.organization_id and audit_entry.change_id = change.id
        join change_item item on item.organization_id = change.organization_id and item.change_id = change.id
        join mail_account account on account.organization_id = change.organization_id
                                 and account.id::text = item.subject_key
        where change.organization_id = $1 and change.id = $2 and audit_entry.action = 'account.add'
          and item.subject = 'account' and item.before is null and account.user_id = $3
        "#,
        organization as OrganizationId,
        change as ChangeId,
        user_id as &Mailbox,
    )
    .fetch_optional(db)
    .await?;
    Ok(added.map(|added| (added.id, added.revision)))
}

/// Gives an account another User ID. The old one stays as a further address; gateway, name, id and history stay. The
/// new one may be one of its further addresses.
pub async fn rename(
    mut transaction: OrganizationTransaction,
    account: AccountId,
    user_id: &Mailbox,
    seen: Option<&Mailbox>,
    actor: &str,
) -> Result<Edited, AccountError> {
    let Some(before) = for_update(&mut transaction, account).await? else { return Ok(Edited::NotFound) };
    if before.user_id == *user_id {
        return Ok(Edited::Unchanged);
    }
    if seen.is_some_and(|seen| *seen != before.user_id) {
        return Ok(Edited::Conflict(Box::new(before)));
    }
    let addresses = sorted(user_id, &before.addresses);
    let after = Account { user_id: user_id.clone(), addresses, ..before.clone() };
    let audit = entry(actor, "account.rename", &before, Some(before.user_id.to_string()), Some(user_id.to_string()));
    write(transaction, &before, &after, audit).await
}

/// Gives an account another name; an empty one is none.
pub async fn set_name(
    mut transaction: OrganizationTransaction,
    account: AccountId,
    name: &str,
    seen: Option<&str>,
    actor: &str,
) -> Result<Edited, AccountError> {
    let Some(before) = for_update(&mut transaction, account).await? else { return Ok(Edited::NotFound) };
    if before.name == name {
        return Ok(Edited::Unchanged);
    }
    if seen.is_some_and(|seen| seen != before.name) {
        return Ok(Edited::Conflict(Box::new(before)));
    }
    let after = Account { name: name.to_owned(), ..before.clone() };
    let audit = entry(actor, "account.name", &before, Some(before.name.clone()), Some(name.to_owned()));
    write(transaction, &before, &after, audit).await
}

/// Suspends an account, whose mail is refused from then on, or lets it send again.
pub async fn set_status(
    mut transaction: OrganizationTransaction,
    account: AccountId,
    suspended: bool,
    actor: &str,
) -> Result<Edited, AccountError> {
    let Some(before) = for_update(&mut transaction, account).await? else { return Ok(Edited::NotFound) };
    if before.suspended == suspended {
        return Ok(Edited::Unchanged);
    }
    let after = Account { suspended, ..before.clone() };
    let action = if suspended { "account.suspend" } else { "account.activate" };
    let audit = entry(actor, action, &before, Some(status(&before).to_owned()), Some(status(&after).to_owned()));
    write(transaction, &before, &after, audit).await
}

/// Gives an account exactly these addresses beside its User ID. `seen` are those that were shown.
pub async fn set_addresses(
    mut transaction: OrganizationTransaction,
    account: AccountId,
    further: &[Mailbox],
    seen: Option<&str>,
    actor: &str,
) -> Result<Edited, AccountError> {
    let Some(before) = for_update(&mut transaction, account).await? else { return Ok(Edited::NotFound) };
    let addresses = sorted(&before.user_id, further);
    if before.addresses == addresses {
        return Ok(Edited::Unchanged);
    }
    if seen.is_some_and(|seen| seen != in_one_line(&before.further_addresses())) {
        return Ok(Edited::Conflict(Box::new(before)));
    }
    let after = Account { addresses, ..before.clone() };
    let further = |account: &Account| Some(in_one_line(&account.further_addresses()));
    let audit = entry(actor, "account.addresses", &before, further(&before), further(&after));
    write(transaction, &before, &after, audit).await
}

/// Deletes an account with its addresses. Mail from them follows their domain from then on.
pub async fn delete(
    mut transaction: OrganizationTransaction,
    account: AccountId,
    seen: Option<&Mailbox>,
    actor: &str,
) -> Result<Edited, AccountError> {
    let organization = transaction.organization();
    let Some(before) = for_update(&mut transaction, account).await? else { return Ok(Edited::NotFound) };
    if seen.is_some_and(|seen| *seen != before.user_id) {
        return Ok(Edited::Conflict(Box::new(before)));
    }
    remove_addresses(&mut transaction, organization, account, &before.addresses).await?;
    sqlx::query!(
        "delete from mail_account where organization_id = $1 and id = $2",
        organization as OrganizationId,
        account as AccountId,
    )
    .execute(&mut *transaction)
    .await?;
    let item =
        ChangeItem { subject: Subject::Account, key: account.to_string(), before: Some(fields(&before)), after: None };
    let was = [before.name.as_str(), &in_one_line(&before.further_addresses()), status(&before)];
    let was = was.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    let audit = entry(actor, "account.delete", &before, Some(was), None);
    Ok(Edited::Changed(transaction.commit_change(&[item], audit).await?))
}

/// Addresses as audit entries and forms compare them.
pub fn in_one_line(addresses: &[Mailbox]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn status(account: &Account) -> &'static str {
    if account.suspended { "suspended" } else { "active" }
}

/// The User ID and the further addresses, sorted as the store sorts them, each once.
fn sorted(user_id: &Mailbox, further: &[Mailbox]) -> Vec<Mailbox> {
    let mut addresses: Vec<Mailbox> = std::iter::once(user_id).chain(further).cloned().collect();
    addresses.sort_by_cached_key(ToString::to_string);
    addresses.dedup();
    addresses
}

/// All fields of an account, as a change has them that adds or deletes it.
fn fields(account: &Account) -> Value {
    json!({
        "user_id": account.user_id.to_string(),
        "name": account.name,
        "status": status(account),
        "external_id": account.external_id,
        "outbound_gateway": account.outbound_gateway,
        "addresses": account.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The fields of `of` that are different in `other`.
fn differing(of: &Account, other: &Account) -> Value {
    let (Value::Object(fields), others) = (fields(of), fields(other)) else { return Value::Null };
    Value::Object(fields.into_iter().filter(|(name, value)| others[name] != *value).collect::<Map<_, _>>())
}

fn entry(
    actor: &str,
    action: &'static str,
    account: &Account,
    before: Option<String>,
    after: Option<String>,
) -> AuditEntry {
    AuditEntry { actor: actor.to_owned(), action, subject: account.user_id.to_string(), before, after }
}

/// Makes of an account what it is to be, as one change.
async fn write(
    mut transaction: OrganizationTransaction,
    before: &Account,
    after: &Account,
    audit: AuditEntry,
) -> Result<Edited, AccountError> {
    let organization = transaction.organization();
    let only_in = |one: &Account, other: &Account| -> Vec<Mailbox> {
        one.addresses.iter().filter(|address| !other.addresses.contains(address)).cloned().collect()
    };
    let (added, removed) = (only_in(after, before), only_in(before, after));
    refuse_foreign(&mut transaction, organization, &added).await?;
    refuse_taken(&mut transaction, organization, &added).await?;
    // The User ID before the addresses, as an account that is added has them: so two that want the same
    // address wait for each other and never both.
    let updated = sqlx::query!(
        "update mail_account set user_id = $3, name = $4, status = $5 where organization_id = $1 and id = $2",
        organization as OrganizationId,
        before.id as AccountId,
        &after.user_id as &Mailbox,
        after.name,
        status(after),
    )
    .execute(&mut *transaction)
    .await;
    match updated {
        // Somebody has given it to an account in this moment.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            return Err(AccountError::AddressTaken { address: after.user_id.clone(), owner: after.user_id.clone() });
        }
        updated => updated?,
    };
    remove_addresses(&mut transaction, organization, before.id, &removed).await?;
    insert_addresses(&mut transaction, organization, before.id, &added).await?;
    let item = ChangeItem {
        subject: Subject::Account,
        key: before.id.to_string(),
        before: Some(differing(before, after)),
        after: Some(differing(after, before)),
    };
    Ok(Edited::Changed(transaction.commit_change(&[item], audit).await?))
}

/// One account of the organization with all its addresses; another tenant's is simply not found.
pub async fn details(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
) -> Result<Option<Account>> {
    let row = sqlx::query!(
        r#"
        select id as "id: AccountId", user_id as "user_id: Mailbox", name, status = 'suspended' as "suspended!",
               external_id, outbound_gateway_id as "outbound_gateway: GatewayId",
               array(select address from mail_address
                     where mail_address.organization_id = $1 and mail_address.account_id = $2
                     order by address) as "addresses!: Vec<Mailbox>"
        from mail_account where organization_id = $1 and id = $2
        "#,
        organization as OrganizationId,
        account as AccountId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Account {
        id: row.id,
        user_id: row.user_id,
        name: row.name,
        suspended: row.suspended,
        external_id: row.external_id,
        outbound_gateway: row.outbound_gateway,
        addresses: row.addresses,
    }))
}

/// The same, with the row locked, so that two changes of one account come one after the other.
async fn for_update(transaction: &mut OrganizationTransaction, account: AccountId) -> Result<Option<Account>> {
    let organization = transaction.organization();
    lock_shared(transaction, organization).await?;
    sqlx::query_scalar!(
        "select 1 as one from mail_account where organization_id = $1 and id = $2 for no key update",
        organization as OrganizationId,
        account as AccountId,
    )
    .fetch_optional(&mut **transaction)
    .await?;
    details(transaction, organization, account).await
}

async fn refuse_foreign(
    db: &mut PgConnection,
    organization: OrganizationId,
    addresses: &[Mailbox],
) -> Result<(), AccountError> {
    let domains: Vec<String> = addresses.iter().map(|address| address.domain().to_string()).collect();
    let own = sqlx::query_scalar!(
        r#"select name as "name: DomainName" from mail_domain where organization_id = $1 and name = any($2)"#,
        organization as OrganizationId,
        &domains,
    )
    .fetch_all(db)
    .await?;
    match addresses.iter().find(|address| !own.contains(address.domain())) {
        Some(foreign) => Err(AccountError::ForeignDomain(foreign.clone())),
        None => Ok(()),
    }
}

/// The first of these addresses that an account or a distribution list has.
async fn refuse_taken(
    db: &mut PgConnection,
    organization: OrganizationId,
    addresses: &[Mailbox],
) -> Result<(), AccountError> {
    let taken = sqlx::query!(
        r#"
        select mail_address.address as "address: Mailbox", owner.user_id as "owner: Mailbox"
        from mail_address
        join mail_account owner on owner.organization_id = $1 and owner.id = mail_address.account_id
        where mail_address.organization_id = $1 and mail_address.address = any($2)
        order by mail_address.address
        limit 1
        "#,
        organization as OrganizationId,
        &addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    )
    .fetch_optional(&mut *db)
    .await?;
    if let Some(taken) = taken {
        return Err(AccountError::AddressTaken { address: taken.address, owner: taken.owner });
    }
    match super::distribution_list::first_among(db, organization, addresses).await? {
        Some(list) => Err(AccountError::AddressOfList(list)),
        None => Ok(()),
    }
}

async fn insert(db: &mut PgConnection, organization: OrganizationId, account: &Account) -> Result<(), AccountError> {
    // Whoever adds the same account at the same moment is waited for, and then has it.
    let inserted = sqlx::query!(
        r#"
        insert into mail_account (organization_id, id, user_id, name, outbound_gateway_id) values ($1, $2, $3, $4, $5)
        on conflict (organization_id, user_id) do nothing
        "#,
        organization as OrganizationId,
        account.id as AccountId,
        &account.user_id as &Mailbox,
        account.name,
        account.outbound_gateway as Option<GatewayId>,
    )
    .execute(&mut *db)
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(AccountError::AddressTaken { address: account.user_id.clone(), owner: account.user_id.clone() });
    }
    insert_addresses(db, organization, account.id, &account.addresses).await
}

/// In one order, so that two that give the same addresses wait for each other and never both.
async fn insert_addresses(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
    addresses: &[Mailbox],
) -> Result<(), AccountError> {
    let typed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let inserted = sqlx::query!(
        r#"
        insert into mail_address (organization_id, address, account_id)
        select $1, address, $2 from unnest($3::text[]) with ordinality as given (address, position) order by position
        on conflict (organization_id, address) do nothing
        "#,
        organization as OrganizationId,
        account as AccountId,
        &typed,
    )
    .execute(&mut *db)
    .await?;
    if inserted.rows_affected() == typed.len() as u64 {
        return Ok(());
    }
    // Somebody else was faster: it is theirs, as the next look shows.
    let own = details(db, organization, account).await?.map(|account| account.addresses).unwrap_or_default();
    let missing: Vec<Mailbox> = addresses.iter().filter(|address| !own.contains(address)).cloned().collect();
    refuse_taken(db, organization, &missing).await?;
    Err(AccountError::Store(sqlx::Error::RowNotFound))
}

async fn remove_addresses(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
    addresses: &[Mailbox],
) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "delete from mail_address where organization_id = $1 and account_id = $2 and address = any($3)",
        organization as OrganizationId,
        account as AccountId,
        &addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    )
    .execute(db)
    .await
    .map(drop)
}

/// A change of accounts, as the page that made it reports on it.
#[derive(Debug, Clone)]
pub struct RecentEdit {
    pub revision: Revision,
    pub action: String,
    /// The User ID, as it was; of several accounts, in words how many.
    pub subject: String,
    pub before: Option<String>,
    pub after: Option<String>,
    /// How many accounts it touched.
    pub accounts: i64,
    /// The User ID of one that it deleted, as taking an addition back does.
    pub gone: Option<String>,
    /// Whether the account was changed again since.
    pub superseded: bool,
}

/// A change that the organization made within the last ten minutes, of this account where one is given. Another
/// tenant's change is simply not found.
pub async fn recent_edit(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    account: Option<AccountId>,
) -> Result<Option<RecentEdit>> {
    sqlx::query_as!(
        RecentEdit,
        r#"
        select change.revision as "revision: Revision", entry.action, entry.subject, entry.before, entry.after,
               (select count(*) from change_item item
                where item.organization_id = $1 and item.change_id = $2 and item.subject = 'account') as "accounts!",
               (select item.before ->> 'user_id' from change_item item
                where item.organization_id = $1 and item.change_id = $2 and item.subject = 'account'
                  and item.after is null limit 1) as gone,
               exists (select from change_item item
                       join change later on later.organization_id = item.organization_id and later.id = item.change_id
                       where item.organization_id = $1 and item.subject = 'account' and item.subject_key = $3
                         and later.revision > change.revision) as "superseded!"
        from change
        join audit_entry entry on entry.organization_id = change.organization_id and entry.change_id = change.id
        where change.organization_id = $1 and change.id = $2
          and change.committed_at > now() - interval '10 minutes'
          and exists (select from change_item
                      where change_item.organization_id = $1 and change_item.change_id = $2
                        and change_item.subject = 'account' and ($3::text is null or change_item.subject_key = $3))
        "#,
        organization as OrganizationId,
        change as ChangeId,
        account.map(|account| account.to_string()),
    )
    .fetch_optional(db)
    .await
}

/// The account that has an address, as User ID or alias.
pub async fn by_address(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &Mailbox,
) -> Result<Option<AccountId>> {
    sqlx::query_scalar!(
        r#"
        select account_id as "id: AccountId" from mail_address where organization_id = $1 and address = $2
        "#,
        organization as OrganizationId,
        address as &Mailbox,
    )
    .fetch_optional(db)
    .await
}

/// One account as the pages list it, with the facts that its route is decided from.
#[derive(Debug, Clone)]
pub struct ListedAccount {
    pub id: AccountId,
    pub user_id: Mailbox,
    pub name: String,
    pub suspended: bool,
    pub gateways: SenderGateways<GatewayAddress>,
}

/// A row of the query behind [`ListedAccount`].
struct Row {
    id: AccountId,
    user_id: Mailbox,
    name: String,
    suspended: bool,
    user_gateway: Option<GatewayAddress>,
    domain_gateway: Option<GatewayAddress>,
    organization_gateway: Option<GatewayAddress>,
    holds_without_gateway: bool,
    /// One of all users or of the domain is pending, and there is no other.
    awaits_gateway: bool,
}

impl From<Row> for ListedAccount {
    fn from(row: Row) -> Self {
        let gateways = SenderGateways {
            user: row.user_gateway,
            domain: row.domain_gateway,
            organization: row.organization_gateway,
            held_until: HeldUntil::of(row.holds_without_gateway, row.awaits_gateway),
        };
        Self { id: row.id, user_id: row.user_id, name: row.name, suspended: row.suspended, gateways }
    }
}

/// One account of the organization; another tenant's is simply not found.
pub async fn by_id(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
) -> Result<Option<ListedAccount>> {
    // The account first: with the conditions of row level security beside ours the planner takes an
    // organization's rows for far fewer than they are, and would go through all of a domain's.
    let row = sqlx::query_as!(
        Row,
        r#"
        with account as materialized (select * from mail_account where organization_id = $1 and id = $2)
        select account.id as "id!: AccountId", account.user_id as "user_id!: Mailbox", account.name as "name!",
               account.status = 'suspended' as "suspended!",
               own.address as "user_gateway?: GatewayAddress",
               of_domain.address as "domain_gateway?: GatewayAddress",
               of_all.address as "organization_gateway?: GatewayAddress", organization.holds_without_gateway,
               organization.outbound_gateway_id is null and (organization.pending_gateway_id is not null
                   or organization.holds_without_gateway and domain.outbound_gateway_id is null
                      and domain.pending_gateway_id is not null) as "awaits_gateway!"
        from account
        join organization on organization.id = $1
        join mail_domain domain on domain.organization_id = $1 and domain.name = account.domain
        left join gateway own on own.organization_id = $1 and own.id = account.outbound_gateway_id
        left join gateway of_domain on of_domain.organization_id = $1 and of_domain.id = domain.outbound_gateway_id
        left join gateway of_all on of_all.organization_id = $1 and of_all.id = organization.outbound_gateway_id
        "#,
        organization as OrganizationId,
        account as AccountId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(ListedAccount::from))
}
