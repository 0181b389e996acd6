//! Mail accounts and their addresses.
//! One account at a time, and pages of the list; whole files are `account_file`'s.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject},
};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, OrganizationId},
    },
    policy::routing::SenderGateways,
};

/// An account to be added.
#[derive(Debug, Clone)]
pub struct NewAccount {
    pub user_id: Mailbox,
    pub name: String,
    /// Further addresses, without the User ID.
    pub aliases: Vec<Mailbox>,
}

/// Adds one account with its addresses, as one change.
pub async fn add(
    mut transaction: OrganizationTransaction,
    account: &NewAccount,
    actor: &str,
) -> Result<(AccountId, Committed)> {
    let organization = transaction.organization();
    let id = insert(&mut transaction, organization, account).await?;
    let item = ChangeItem {
        subject: Subject::Account,
        key: id.to_string(),
        before: None,
        after: Some(json!({ "user_id": account.user_id.to_string() })),
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "account.add",
        subject: account.user_id.to_string(),
        before: None,
        after: Some(account.name.clone()),
    };
    let committed = transaction.commit_change(&[item], audit).await?;
    Ok((id, committed))
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

async fn insert(db: &mut PgConnection, organization: OrganizationId, account: &NewAccount) -> Result<AccountId> {
    let id = AccountId::new();
    sqlx::query!(
        "insert into mail_account (organization_id, id, user_id, name) values ($1, $2, $3, $4)",
        organization as OrganizationId,
        id as AccountId,
        &account.user_id as &Mailbox,
        account.name,
    )
    .execute(&mut *db)
    .await?;
    let addresses: Vec<String> =
        std::iter::once(&account.user_id).chain(&account.aliases).map(ToString::to_string).collect();
    sqlx::query!(
        r#"
        insert into mail_address (organization_id, address, account_id)
        select $1, address, $2 from unnest($3::text[]) as address
        "#,
        organization as OrganizationId,
        id as AccountId,
        &addresses,
    )
    .execute(db)
    .await?;
    Ok(id)
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
}

impl From<Row> for ListedAccount {
    fn from(row: Row) -> Self {
        let gateways = SenderGateways {
            user: row.user_gateway,
            domain: row.domain_gateway,
            organization: row.organization_gateway,
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
    Ok(with_gateways(db, organization, &[account]).await?.pop())
}

/// These accounts with the three gateways that may apply to each, in the order of their User IDs.
async fn with_gateways(
    db: &mut PgConnection,
    organization: OrganizationId,
    accounts: &[AccountId],
) -> Result<Vec<ListedAccount>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select account.id as "id: AccountId", account.user_id as "user_id: Mailbox", account.name,
               account.status = 'suspended' as "suspended!",
               own.address as "user_gateway?: GatewayAddress",
               of_domain.address as "domain_gateway?: GatewayAddress",
               of_all.address as "organization_gateway?: GatewayAddress"
        from mail_account account
        join organization on organization.id = account.organization_id
        join mail_domain domain on domain.organization_id = account.organization_id and domain.name = account.domain
        left join gateway own
               on own.organization_id = account.organization_id and own.id = account.outbound_gateway_id
        left join gateway of_domain
               on of_domain.organization_id = account.organization_id and of_domain.id = domain.outbound_gateway_id
        left join gateway of_all
               on of_all.organization_id = account.organization_id and of_all.id = organization.outbound_gateway_id
        where account.organization_id = $1 and account.id = any($2)
        order by account.user_id
        "#,
        organization as OrganizationId,
        accounts as &[AccountId],
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(ListedAccount::from).collect())
}

/// How many accounts are on one page of the list.
pub const PAGE_SIZE: usize = 50;

/// Where a page of the list begins: by User ID, so that accounts which come or go meanwhile
/// neither repeat a row nor skip one.
#[derive(Debug, Clone, Copy, Default)]
pub enum Position<'a> {
    #[default]
    First,
    /// The rows that follow this User ID.
    After(&'a str),
    /// The rows that come before this User ID.
    Before(&'a str),
}

/// One page of the list.
#[derive(Debug, Clone)]
pub struct AccountPage {
    pub accounts: Vec<ListedAccount>,
    /// How many accounts the search finds, on all pages.
    pub total: i64,
    /// How many of them come before this page; 0 if the page is empty.
    pub preceding: i64,
}

impl AccountPage {
    /// Whether a page follows.
    pub fn has_next(&self) -> bool {
        self.preceding + (self.accounts.len() as i64) < self.total
    }
}

/// One page of the organization's accounts in the order of their User IDs. With a search, those
/// whose User ID, name or further address contains it, whatever the letter case.
pub async fn page(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&str>,
    position: Position<'_>,
) -> Result<AccountPage> {
    let search = search.map(Search::new);
    let on_page = match position {
        Position::First => following(db, organization, search.as_ref(), "").await?,
        Position::After(user_id) => following(db, organization, search.as_ref(), user_id).await?,
        Position::Before(user_id) => {
            let on_page = preceding(db, organization, search.as_ref(), user_id).await?;
            // So close to the beginning, the first page is meant.
            if on_page.len() < PAGE_SIZE { following(db, organization, search.as_ref(), "").await? } else { on_page }
        }
    };
    let accounts = with_gateways(db, organization, &on_page).await?;
    let first = accounts.first().map(|account| account.user_id.to_string());
    let (total, preceding) = count(db, organization, search.as_ref(), first.as_deref()).await?;
    Ok(AccountPage { accounts, total, preceding })
}

/// What was typed into the search field, in the form in which the store has it.
struct Search {
    /// Part of a name, as it was typed: PostgreSQL makes one lower case of it and of the names.
    name: String,
    /// Part of an address, in lower case and with its domain in ASCII.
    address: String,
}

impl Search {
    fn new(typed: &str) -> Self {
        let lower = typed.to_lowercase();
        let address = match lower.rsplit_once('@') {
            Some((local_part, domain)) => format!("{local_part}@{}", in_ascii(domain)),
            None => in_ascii(&lower),
        };
        Self { name: typed.to_owned(), address }
    }
}

/// A whole domain name in other scripts as the store has it; anything else as it is.
fn in_ascii(typed: &str) -> String {
    match typed.parse::<DomainName>() {
        Ok(domain) if !typed.is_ascii() => domain.to_string(),
        _ => typed.to_owned(),
    }
}

// `strpos` takes what was typed as it is: no character in it is a wildcard. Under row level security
// an index on parts of words would not be used; one organization's addresses are read instead.

/// The accounts with the next User IDs behind this one.
async fn following(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&Search>,
    user_id: &str,
) -> Result<Vec<AccountId>> {
    sqlx::query_scalar!(
        r#"
        select id as "id: AccountId" from mail_account
        where organization_id = $1
          and user_id > $2
          and ($3::text is null
               or strpos(lower(name), lower($3)) > 0
               or id in (select account_id from mail_address where organization_id = $1 and strpos(address, $4) > 0))
        order by user_id
        limit $5
        "#,
        organization as OrganizationId,
        user_id,
        search.map(|search| search.name.as_str()),
        search.map(|search| search.address.as_str()),
        PAGE_SIZE as i64,
    )
    .fetch_all(db)
    .await
}

/// The accounts with the last User IDs before this one.
async fn preceding(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&Search>,
    user_id: &str,
) -> Result<Vec<AccountId>> {
    sqlx::query_scalar!(
        r#"
        select id as "id: AccountId" from mail_account
        where organization_id = $1
          and user_id < $2
          and ($3::text is null
               or strpos(lower(name), lower($3)) > 0
               or id in (select account_id from mail_address where organization_id = $1 and strpos(address, $4) > 0))
        order by user_id desc
        limit $5
        "#,
        organization as OrganizationId,
        user_id,
        search.map(|search| search.name.as_str()),
        search.map(|search| search.address.as_str()),
        PAGE_SIZE as i64,
    )
    .fetch_all(db)
    .await
}

/// How many accounts the search finds, and how many of them come before `first`.
async fn count(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&Search>,
    first: Option<&str>,
) -> Result<(i64, i64)> {
    let counted = sqlx::query!(
        r#"
        select count(*) as "total!", count(*) filter (where user_id < $2) as "preceding!"
        from mail_account
        where organization_id = $1
          and ($3::text is null
               or strpos(lower(name), lower($3)) > 0
               or id in (select account_id from mail_address where organization_id = $1 and strpos(address, $4) > 0))
        "#,
        organization as OrganizationId,
        first,
        search.map(|search| search.name.as_str()),
        search.map(|search| search.address.as_str()),
    )
    .fetch_one(db)
    .await?;
    Ok((counted.total, counted.preceding))
}
