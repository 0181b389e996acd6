//! Gateways and the pointers to them: what the one form at three scopes reads and writes.
//! Pages and the command line change them here and nowhere else.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    change::{self, AuditEntry, ChangeItem, Committed, LastChange, Subject},
};
use crate::mail::{
    DomainName, GatewayAddress, Mailbox,
    id::{AccountId, GatewayId, OrganizationId},
};

/// Where a pointer is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointerScope {
    Organization,
    Domain(DomainName),
    Account(AccountId),
}

/// What a pointer said before a change, and whose it is.
#[derive(Debug, Clone)]
pub struct Pointer {
    /// In words: `all users`, the mail domain, the User ID.
    pub subject: String,
    pub gateway: Option<GatewayId>,
    pub address: Option<GatewayAddress>,
}

/// What became of setting a pointer.
#[derive(Debug, Clone)]
pub enum Set {
    /// The organization has no such domain or account; nothing was changed.
    NotFound,
    /// It already said so; nothing was changed.
    Unchanged,
    Changed(Committed),
}

/// Points a scope at the organization's gateway with this address, made if it is new; `None`
/// deletes the pointer. The gateway itself stays: other scopes may use it, and its history is kept.
pub async fn set(
    mut transaction: OrganizationTransaction,
    scope: &PointerScope,
    address: Option<&GatewayAddress>,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let Some(before) = pointer_for_update(&mut transaction, organization, scope).await? else {
        return Ok(Set::NotFound);
    };
    if before.address.as_ref() == address {
        return Ok(Set::Unchanged);
    }
    let mut items = Vec::new();
    let gateway = match address {
        Some(address) => Some(find_or_create(&mut transaction, organization, address, &mut items).await?),
        None => None,
    };
    point(&mut transaction, organization, scope, gateway).await?;
    items.push(ChangeItem {
        subject: scope.subject(),
        key: scope.key(organization),
        before: Some(pointer_value(before.gateway)),
        after: Some(pointer_value(gateway)),
    });
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if address.is_some() { "gateway.set" } else { "gateway.delete" },
        subject: before.subject,
        before: before.address.map(|address| address.to_string()),
        after: address.map(|address| address.to_string()),
    };
    transaction.commit_change(&items, audit).await.map(Set::Changed)
}

impl PointerScope {
    fn subject(&self) -> Subject {
        match self {
            Self::Organization => Subject::Organization,
            Self::Domain(_) => Subject::Domain,
            Self::Account(_) => Subject::Account,
        }
    }

    fn key(&self, organization: OrganizationId) -> String {
        match self {
            Self::Organization => organization.to_string(),
            Self::Domain(name) => name.to_string(),
            Self::Account(account) => account.to_string(),
        }
    }
}

fn pointer_value(gateway: Option<GatewayId>) -> Value {
    json!({ "outbound_gateway": gateway })
}

/// What a scope points at now; `None` if the organization has no such domain or account.
pub async fn pointer(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
) -> Result<Option<Pointer>> {
    let found = match scope {
        PointerScope::Organization => of_organization(db, organization).await?,
        PointerScope::Domain(name) => of_domain(db, organization, name).await?,
        PointerScope::Account(account) => of_account(db, organization, *account).await?,
    };
    Ok(found.map(|(subject, gateway, address)| Pointer { subject, gateway, address }))
}

/// The same, with the row locked, so that two changes of one pointer come one after the other.
async fn pointer_for_update(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
) -> Result<Option<Pointer>> {
    match scope {
        PointerScope::Organization => {
            sqlx::query_scalar!(
                "select 1 as one from organization where id = $1 for no key update",
                organization as OrganizationId
            )
            .fetch_optional(&mut *db)
            .await?
        }
        PointerScope::Domain(name) => {
            sqlx::query_scalar!(
                "select 1 as one from mail_domain where organization_id = $1 and name = $2 for no key update",
                organization as OrganizationId,
                name as &DomainName,
            )
            .fetch_optional(&mut *db)
            .await?
        }
        PointerScope::Account(account) => {
            sqlx::query_scalar!(
                "select 1 as one from mail_account where organization_id = $1 and id = $2 for no key update",
                organization as OrganizationId,
                *account as AccountId,
            )
            .fetch_optional(&mut *db)
            .await?
        }
    };
    pointer(db, organization, scope).await
}

type Found = Option<(String, Option<GatewayId>, Option<GatewayAddress>)>;

async fn of_organization(db: &mut PgConnection, organization: OrganizationId) -> Result<Found> {
    let row = sqlx::query!(
        r#"
        select organization.outbound_gateway_id as "gateway: GatewayId", gateway.address as "address?: GatewayAddress"
        from organization
        left join gateway on gateway.organization_id = organization.id and gateway.id = organization.outbound_gateway_id
        where organization.id = $1
        "#,
        organization as OrganizationId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| ("all users".to_owned(), row.gateway, row.address)))
}

async fn of_domain(db: &mut PgConnection, organization: OrganizationId, name: &DomainName) -> Result<Found> {
    let row = sqlx::query!(
        r#"
        select mail_domain.name, mail_domain.outbound_gateway_id as "gateway: GatewayId",
               gateway.address as "address?: GatewayAddress"
        from mail_domain
        left join gateway on gateway.organization_id = mail_domain.organization_id
                         and gateway.id = mail_domain.outbound_gateway_id
        where mail_domain.organization_id = $1 and mail_domain.name = $2
        "#,
        organization as OrganizationId,
        name as &DomainName,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.name, row.gateway, row.address)))
}

async fn of_account(db: &mut PgConnection, organization: OrganizationId, account: AccountId) -> Result<Found> {
    let row = sqlx::query!(
        r#"
        select mail_account.user_id as "user_id: Mailbox", mail_account.outbound_gateway_id as "gateway: GatewayId",
               gateway.address as "address?: GatewayAddress"
        from mail_account
        left join gateway on gateway.organization_id = mail_account.organization_id
                         and gateway.id = mail_account.outbound_gateway_id
        where mail_account.organization_id = $1 and mail_account.id = $2
        "#,
        organization as OrganizationId,
        account as AccountId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.user_id.to_string(), row.gateway, row.address)))
}

async fn point(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
    gateway: Option<GatewayId>,
) -> Result<()> {
    match scope {
        PointerScope::Organization => {
            sqlx::query!(
                "update organization set outbound_gateway_id = $2 where id = $1",
                organization as OrganizationId,
                gateway as Option<GatewayId>,
            )
            .execute(db)
            .await?
        }
        PointerScope::Domain(name) => {
            sqlx::query!(
                "update mail_domain set outbound_gateway_id = $3 where organization_id = $1 and name = $2",
                organization as OrganizationId,
                name as &DomainName,
                gateway as Option<GatewayId>,
            )
            .execute(db)
            .await?
        }
        PointerScope::Account(account) => {
            sqlx::query!(
                "update mail_account set outbound_gateway_id = $3 where organization_id = $1 and id = $2",
                organization as OrganizationId,
                *account as AccountId,
                gateway as Option<GatewayId>,
            )
            .execute(db)
            .await?
        }
    };
    Ok(())
}

/// The organization's gateway with this address. A new one gets revision 1 and an item in the change.
pub(super) async fn find_or_create(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
    items: &mut Vec<ChangeItem>,
) -> Result<GatewayId> {
    // Two administrators may type the same new address at once: the second waits here for the
    // first and then finds its gateway.
    let created = sqlx::query_scalar!(
        r#"
        insert into gateway (organization_id, id, address, revision) values ($1, $2, $3, 1)
        on conflict (organization_id, address) do nothing
        returning id as "id: GatewayId"
        "#,
        organization as OrganizationId,
        GatewayId::new() as GatewayId,
        address as &GatewayAddress,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(id) = created else {
        return sqlx::query_scalar!(
            r#"select id as "id: GatewayId" from gateway where organization_id = $1 and address = $2"#,
            organization as OrganizationId,
            address as &GatewayAddress,
        )
        .fetch_one(db)
        .await;
    };
    sqlx::query!(
        "insert into gateway_revision (organization_id, gateway_id, revision, address) values ($1, $2, 1, $3)",
        organization as OrganizationId,
        id as GatewayId,
        address as &GatewayAddress,
    )
    .execute(db)
    .await?;
    items.push(ChangeItem {
        subject: Subject::Gateway,
        key: id.to_string(),
        before: None,
        after: Some(json!({ "address": address.to_string(), "revision": 1 })),
    });
    Ok(id)
}

/// The addresses of the organization's gateways, for the field's suggestions.
pub async fn known_addresses(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<GatewayAddress>> {
    sqlx::query_scalar!(
        r#"
        select address as "address: GatewayAddress" from gateway where organization_id = $1 order by address limit 50
        "#,
        organization as OrganizationId,
    )
    .fetch_all(db)
    .await
}

/// What a pointer says, where that is neither what an administrator saw nor what is to be set.
#[derive(Debug, Clone)]
pub struct ChangedMeanwhile {
    pub address: Option<GatewayAddress>,
    /// Who set it, and when, where that is recorded.
    pub by: Option<LastChange>,
}

/// Whether somebody else has changed a pointer since `actor` saw it say `seen`, which is empty for nothing. Locks the
/// pointer, so that it still holds when the pointer is set in the same transaction. `None` too if there is no such
/// pointer.
pub async fn changed_meanwhile(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    seen: &str,
    address: Option<&GatewayAddress>,
    actor: &str,
) -> Result<Option<ChangedMeanwhile>> {
    let organization = transaction.organization();
    let Some(now) = pointer_for_update(transaction, organization, scope).await? else { return Ok(None) };
    let shown = now.address.as_ref().map(ToString::to_string).unwrap_or_default();
    if shown == seen || now.address.as_ref() == address {
        return Ok(None);
    }
    let by =
        change::last_of(transaction, organization, (scope.subject().as_str(), &scope.key(organization)), None).await?;
    let by_themselves = by.as_ref().is_some_and(|by| by.actor == actor);
    Ok((!by_themselves).then_some(ChangedMeanwhile { address: now.address, by }))
}
