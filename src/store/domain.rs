//! Mail domains: each belongs to exactly one organization, and only the operator assigns them.
//! Its pointer to a gateway is `gateway`'s.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Subject},
    organization::{CreateError, is_unique_violation},
};
use crate::{
    mail::{DomainName, GatewayAddress, id::OrganizationId},
    policy::routing::SenderGateways,
};

/// Adds a mail domain to an organization, as one change. For the operator.
pub async fn add(owner: &PgPool, organization: OrganizationId, name: &DomainName) -> Result<(), CreateError> {
    let mut transaction = OrganizationTransaction::begin(owner, organization).await?;
    insert(&mut transaction, organization, name).await.map_err(|error| match is_unique_violation(&error) {
        true => CreateError::DomainTaken(name.clone()),
        false => error.into(),
    })?;
    let audit = AuditEntry {
        actor: "operator".to_owned(),
        action: "domain.add",
        subject: name.to_string(),
        before: None,
        after: None,
    };
    transaction.commit_change(&[added(name)], audit).await?;
    Ok(())
}

pub(super) async fn insert(db: &mut PgConnection, organization: OrganizationId, name: &DomainName) -> Result<()> {
    sqlx::query!(
        "insert into mail_domain (organization_id, name) values ($1, $2)",
        organization as OrganizationId,
        name as &DomainName,
    )
    .execute(db)
    .await
    .map(drop)
}

pub(super) fn added(name: &DomainName) -> ChangeItem {
    ChangeItem { subject: Subject::Domain, key: name.to_string(), before: None, after: Some(json!({})) }
}

/// A mail domain as the pages list it.
#[derive(Debug, Clone)]
pub struct ListedDomain {
    pub name: DomainName,
    pub gateway: Option<GatewayAddress>,
}

/// The mail domains of the organization, by name.
pub async fn list(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<ListedDomain>> {
    sqlx::query_as!(
        ListedDomain,
        r#"
        select mail_domain.name as "name: DomainName", gateway.address as "gateway?: GatewayAddress"
        from mail_domain
        left join gateway on gateway.organization_id = mail_domain.organization_id
                         and gateway.id = mail_domain.outbound_gateway_id
        where mail_domain.organization_id = $1
        order by mail_domain.name
        "#,
        organization as OrganizationId,
    )
    .fetch_all(db)
    .await
}

/// A mail domain with its users and the gateways that may apply to them.
#[derive(Debug, Clone)]
pub struct DomainOverview {
    pub name: DomainName,
    pub accounts: i64,
    /// Active accounts without a gateway of their own.
    pub following: i64,
    pub gateways: SenderGateways<GatewayAddress>,
}

/// The mail domains of the organization with their users, by name; only one of them if it is named.
pub async fn overview(
    db: &mut PgConnection,
    organization: OrganizationId,
    only: Option<&DomainName>,
) -> Result<Vec<DomainOverview>> {
    sqlx::query!(
        r#"
        select domain.name as "name: DomainName", coalesce(used.accounts, 0) as "accounts!",
               coalesce(used.following, 0) as "following!", own.address as "own?: GatewayAddress",
               of_all.address as "of_all?: GatewayAddress", organization.must_use_gateway
        from mail_domain domain
        join organization on organization.id = domain.organization_id
        left join gateway own on own.organization_id = domain.organization_id and own.id = domain.outbound_gateway_id
        left join gateway of_all
               on of_all.organization_id = domain.organization_id and of_all.id = organization.outbound_gateway_id
        left join (select account.domain, count(*) as accounts,
                          count(*) filter (where status = 'active' and outbound_gateway_id is null) as following
                   from mail_account account
                   where organization_id = $1 and ($2::text is null or domain = $2)
                   group by account.domain) as used on used.domain = domain.name
        where domain.organization_id = $1 and ($2::text is null or domain.name = $2)
        order by domain.name
        "#,
        organization as OrganizationId,
        only as Option<&DomainName>,
    )
    .map(|row| DomainOverview {
        name: row.name,
        accounts: row.accounts,
        following: row.following,
        gateways: SenderGateways {
            user: None,
            domain: row.own,
            organization: row.of_all,
            must_use: row.must_use_gateway,
        },
    })
    .fetch_all(db)
    .await
}
