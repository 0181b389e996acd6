//! Mail accounts and their addresses.
//! One account at a time; pages of the list are `account_list`'s, whole files `account_file`'s.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject},
};
use crate::{
    mail::{
        GatewayAddress, Mailbox,
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
    let item = ChangeItem { subject: Subject::Account, key: id.to_string(), before: None, after: Some(added(account)) };
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

/// All fields of a new account, as its change has them.
fn added(account: &NewAccount) -> Value {
    json!({
        "user_id": account.user_id.to_string(),
        "name": account.name,
        "status": "active",
        "external_id": null,
        "outbound_gateway": null,
        "addresses": addresses(account),
    })
}

/// The User ID and the further addresses, sorted.
fn addresses(account: &NewAccount) -> Vec<String> {
    let mut addresses: Vec<String> =
        std::iter::once(&account.user_id).chain(&account.aliases).map(ToString::to_string).collect();
    addresses.sort();
    addresses
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
    sqlx::query!(
        r#"
        insert into mail_address (organization_id, address, account_id)
        select $1, address, $2 from unnest($3::text[]) as address
        "#,
        organization as OrganizationId,
        id as AccountId,
        &addresses(account),
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
    must_use_gateway: bool,
}

impl From<Row> for ListedAccount {
    fn from(row: Row) -> Self {
        let gateways = SenderGateways {
            user: row.user_gateway,
            domain: row.domain_gateway,
            organization: row.organization_gateway,
            must_use: row.must_use_gateway,
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
pub(super) async fn with_gateways(
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
               of_all.address as "organization_gateway?: GatewayAddress", organization.must_use_gateway
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
