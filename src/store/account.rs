//! Mail accounts and their addresses.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject},
};
use crate::mail::{
    Mailbox,
    id::{AccountId, OrganizationId},
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
