//! Administrators: who signs in, and what they may do where.
//! Installation-wide, unlike what they administer; sign-in reads it through one listed function.

use sqlx::{PgExecutor, PgPool};

use super::{OrganizationTransaction, Result, WebStore, change::AuditEntry};
use crate::{
    mail::{
        Mailbox,
        id::{AdministratorId, OrganizationId},
    },
    policy::Role,
};

/// What sign-in checks a password against.
#[derive(Debug, Clone)]
pub struct SigningIn {
    pub id: AdministratorId,
    /// In PHC format.
    pub password_hash: String,
    pub suspended: bool,
}

impl WebStore {
    /// The administrator with this address; before any organization is known.
    pub async fn administrator_signing_in(&self, email: &Mailbox) -> Result<Option<SigningIn>> {
        sqlx::query!(
            r#"
            select id as "id!: AdministratorId", password_hash as "password_hash!",
                   status = 'suspended' as "suspended!"
            from administrator_signing_in($1)
            "#,
            email.to_string(),
        )
        .map(|row| SigningIn { id: row.id, password_hash: row.password_hash, suspended: row.suspended })
        .fetch_optional(self.pool())
        .await
    }
}

/// Makes an administrator of one organization, or gives one that exists a role there (then the
/// password stays as it is). Returns whether the administrator is new. For the operator.
pub async fn create(
    owner: &PgPool,
    email: &Mailbox,
    password_hash: &str,
    organization: OrganizationId,
    role: Role,
) -> Result<bool> {
    let mut transaction = OrganizationTransaction::begin(owner, organization).await?;
    let created = sqlx::query_scalar!(
        r#"
        insert into administrator (id, email, password_hash) values ($1, $2, $3)
        on conflict (email) do nothing
        returning id as "id: AdministratorId"
        "#,
        AdministratorId::new() as AdministratorId,
        email.to_string(),
        password_hash,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    sqlx::query!(
        r#"
        insert into administrator_role (organization_id, administrator_id, role)
        select $1, id, $3 from administrator where email = $2
        on conflict (organization_id, administrator_id) do update set role = excluded.role
        "#,
        organization as OrganizationId,
        email.to_string(),
        role.to_string(),
    )
    .execute(&mut *transaction)
    .await?;
    let audit = AuditEntry {
        actor: "operator".to_owned(),
        action: "administrator.create",
        subject: email.to_string(),
        before: None,
        after: Some(role.to_string()),
    };
    // No item: what relays route by is as it was.
    transaction.commit_change(&[], audit).await?;
    Ok(created.is_some())
}

/// Sets a password and ends all sessions of the administrator, in one transaction. Returns whether
/// there is such an administrator. For the operator.
pub async fn set_password(owner: &PgPool, email: &Mailbox, password_hash: &str) -> Result<bool> {
    let mut transaction = owner.begin().await?;
    let changed =
        sqlx::query!("update administrator set password_hash = $2 where email = $1", email.to_string(), password_hash,)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
    sqlx::query!(
        "delete from session using administrator where administrator.id = session.administrator_id and email = $1",
        email.to_string(),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(changed == 1)
}

/// Suspends an administrator and ends all their sessions, or lets them sign in again: what they have done and what
/// they may do stays. Their organizations' histories say so. Returns whether that changed anything; `None`: there is no
/// such administrator. For the operator.
pub async fn set_suspended(owner: &PgPool, email: &Mailbox, suspended: bool) -> Result<Option<bool>> {
    let (email, word) = (email.to_string(), if suspended { "suspended" } else { "active" });
    let organizations = sqlx::query_scalar!(
        r#"
        select r.organization_id as "organization: OrganizationId" from administrator_role r
        join administrator who on who.id = r.administrator_id where who.email = $1
        "#,
        email,
    )
    .fetch_all(owner)
    .await?;
    let mut transaction = owner.begin().await?;
    let before = sqlx::query_scalar!("select status from administrator where email = $1 for update", email)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(before) = before else { return Ok(None) };
    if before == word {
        return Ok(Some(false));
    }
    sqlx::query!("update administrator set status = $2 where email = $1", email, word)
        .execute(&mut *transaction)
        .await?;
    if suspended {
        sqlx::query!(
            "delete from session using administrator who where who.id = session.administrator_id and who.email = $1",
            email,
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    for organization in organizations {
        let transaction = OrganizationTransaction::begin(owner, organization).await?;
        let audit = AuditEntry {
            actor: "operator".to_owned(),
            action: if suspended { "administrator.suspend" } else { "administrator.resume" },
            subject: email.clone(),
            before: Some(before.clone()),
            after: Some(word.to_owned()),
        };
        // No item: what relays route by is as it was.
        transaction.commit_change(&[], audit).await?;
    }
    Ok(Some(true))
}

/// Whether anybody has this address. For the operator.
pub async fn exists_across_tenants(db: impl PgExecutor<'_>, email: &Mailbox) -> Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from administrator where email = $1) as "exists!""#, email.to_string())
        .fetch_one(db)
        .await
}
