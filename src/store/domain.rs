//! Mail domains: each belongs to exactly one organization, and only the operator assigns them.
//! Its pointer to a gateway is `gateway`'s.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::{
    OrganizationTransaction, Result,
    change::{self, AuditEntry, ChangeItem, Committed, LastChange, Subject},
    gateway::Set,
    organization::{CreateError, is_unique_violation},
};
use crate::{
    mail::{
        DomainName, GatewayAddress,
        id::{GatewayId, OrganizationId},
    },
    policy::routing::{HeldUntil, SenderGateways},
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

/// What became of removing a mail domain.
#[derive(Debug)]
pub enum Removed {
    /// The organization has no such mail domain.
    NotFound,
    /// So many addresses of accounts and distribution lists are of this domain; nothing was changed.
    InUse(i64),
    Removed(Committed),
}

/// Takes a mail domain from an organization, unless accounts have addresses there. Mail from it is refused from then on,
/// and what waits is held. For the operator.
pub async fn remove(mut transaction: OrganizationTransaction, name: &DomainName, actor: &str) -> Result<Removed> {
    let organization = transaction.organization();
    let before = sqlx::query!(
        r#"
        select outbound_gateway_id as "gateway: GatewayId", inbound_host from mail_domain
        where organization_id = $1 and name = $2 for update
        "#,
        organization as OrganizationId,
        name as &DomainName,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(before) = before else { return Ok(Removed::NotFound) };
    // Nobody adds one meanwhile: that would need the row which is locked here.
    let addresses = sqlx::query_scalar!(
        r#"
        select (select count(*) from mail_address where organization_id = $1 and domain = $2)
             + (select count(*) from distribution_list where organization_id = $1 and domain = $2) as "addresses!"
        "#,
        organization as OrganizationId,
        name as &DomainName,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if addresses > 0 {
        return Ok(Removed::InUse(addresses));
    }
    sqlx::query!(
        "delete from mail_domain where organization_id = $1 and name = $2",
        organization as OrganizationId,
        name as &DomainName,
    )
    .execute(&mut *transaction)
    .await?;
    let item = ChangeItem {
        subject: Subject::Domain,
        key: name.to_string(),
        before: Some(json!({ "outbound_gateway": before.gateway, "inbound_host": before.inbound_host })),
        after: None,
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "domain.remove",
        subject: name.to_string(),
        before: None,
        after: None,
    };
    transaction.commit_change(&[item], audit).await.map(Removed::Removed)
}

/// A mail domain as the pages list it.
#[derive(Debug, Clone)]
pub struct ListedDomain {
    pub name: DomainName,
    pub gateway: Option<GatewayAddress>,
}

/// Whether mail to this domain is mail inside the organization.
pub(super) async fn is_own(db: &mut PgConnection, organization: OrganizationId, name: &DomainName) -> Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from mail_domain where organization_id = $1 and name = $2) as "is_own!""#,
        organization as OrganizationId,
        name.as_str(),
    )
    .fetch_one(db)
    .await
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
    /// Where mail to the domain itself is delivered; `None`: where its MX records say.
    pub inbound_host: Option<GatewayAddress>,
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
               of_all.address as "of_all?: GatewayAddress", organization.holds_without_gateway,
               organization.outbound_gateway_id is null and (organization.pending_gateway_id is not null
                   or organization.holds_without_gateway and domain.outbound_gateway_id is null
                      and domain.pending_gateway_id is not null) as "awaits_gateway!",
               domain.inbound_host as "inbound_host: GatewayAddress"
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
            held_until: HeldUntil::of(row.holds_without_gateway, row.awaits_gateway),
        },
        inbound_host: row.inbound_host,
    })
    .fetch_all(db)
    .await
}

/// Says where mail to a mail domain itself is delivered, as one change; `None`: where its MX records say.
pub async fn set_inbound_host(
    mut transaction: OrganizationTransaction,
    name: &DomainName,
    host: Option<&GatewayAddress>,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let Some(before) = inbound_host_for_update(&mut transaction, organization, name).await? else {
        return Ok(Set::NotFound);
    };
    if before.as_ref() == host {
        return Ok(Set::Unchanged);
    }
    sqlx::query!(
        "update mail_domain set inbound_host = $3 where organization_id = $1 and name = $2",
        organization as OrganizationId,
        name as &DomainName,
        host as Option<&GatewayAddress>,
    )
    .execute(&mut *transaction)
    .await?;
    let written = |host: Option<&GatewayAddress>| host.map(ToString::to_string);
    let value = |host: Option<&GatewayAddress>| Some(json!({ "inbound_host": written(host) }));
    let item = ChangeItem {
        subject: Subject::Domain,
        key: name.to_string(),
        before: value(before.as_ref()),
        after: value(host),
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if host.is_some() { "inbound-host.set" } else { "inbound-host.delete" },
        subject: name.to_string(),
        before: written(before.as_ref()),
        after: written(host),
    };
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// The outer `None`: the organization has no such domain. The row is locked, so that two changes come one after
/// the other.
async fn inbound_host_for_update(
    db: &mut PgConnection,
    organization: OrganizationId,
    name: &DomainName,
) -> Result<Option<Option<GatewayAddress>>> {
    sqlx::query_scalar!(
        r#"
        select inbound_host as "inbound_host: GatewayAddress" from mail_domain
        where organization_id = $1 and name = $2 for no key update
        "#,
        organization as OrganizationId,
        name as &DomainName,
    )
    .fetch_optional(db)
    .await
}

/// What somebody else has set since a form was shown.
#[derive(Debug, Clone)]
pub struct InboundHostMeanwhile {
    pub host: Option<GatewayAddress>,
    pub by: Option<LastChange>,
}

/// Whether somebody else has set another inbound host than the form was shown with (`seen`, empty for none) and
/// than is wanted. One's own earlier save is not somebody else's.
pub async fn inbound_host_changed_meanwhile(
    transaction: &mut OrganizationTransaction,
    name: &DomainName,
    seen: &str,
    wanted: Option<&GatewayAddress>,
    actor: &str,
) -> Result<Option<InboundHostMeanwhile>> {
    let organization = transaction.organization();
    let Some(host) = inbound_host_for_update(transaction, organization, name).await? else { return Ok(None) };
    if host.as_ref().map(ToString::to_string).unwrap_or_default() == seen || host.as_ref() == wanted {
        return Ok(None);
    }
    let by = change::last_of(transaction, organization, (Subject::Domain.as_str(), name.as_str()), None).await?;
    let by_themselves = by.as_ref().is_some_and(|by| by.actor == actor);
    Ok((!by_themselves).then_some(InboundHostMeanwhile { host, by }))
}
