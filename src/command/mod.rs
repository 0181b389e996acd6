//! The command line's rooms: one file for each noun. Only `main` uses them; what they do to the
//! store is the store's.

pub mod accounts;
pub mod administrator;
pub mod credential;
pub mod demo;
pub mod domain;
pub mod gateway;
pub mod gateway_record;
pub mod limit;
pub mod metrics;
pub mod organization;
pub mod relay;
pub mod route;
pub mod secret_key;
pub mod sender;
pub mod serve;
pub mod store;
pub mod up;
pub mod verify;
pub mod volume;

use anyhow::Context;
use outgate::{
    config::PlatformSettings,
    mail::id::{ChangeId, OrganizationId},
    policy::gateway_network::AllowedNetworks,
    store::{self as facts, OrganizationTransaction},
};
use sqlx::PgPool;

/// Who an audit entry names for what was done on the command line.
pub const OPERATOR: &str = "operator";

/// The organization that a command names.
pub async fn organization(owner: &PgPool, slug: &str) -> anyhow::Result<OrganizationId> {
    facts::organization::by_slug_across_tenants(owner, slug)
        .await?
        .with_context(|| format!("there is no organization “{slug}”"))
}

/// A transaction in the organization that a command names.
pub async fn begin(owner: &PgPool, slug: &str) -> anyhow::Result<OrganizationTransaction> {
    let organization = organization(owner, slug).await?;
    Ok(OrganizationTransaction::begin(owner, organization).await?)
}

/// Has verified what a change has set, unless that was verified already: relays begin by themselves.
pub async fn verify_after(owner: &PgPool, slug: &str, change: ChangeId) -> anyhow::Result<()> {
    let mut transaction = begin(owner, slug).await?;
    let organization = transaction.organization();
    facts::verification::ask_after_change(&mut transaction, organization, change, OPERATOR).await?;
    Ok(transaction.commit().await?)
}

/// The networks and ports that the operator opened to gateways.
pub fn allowed(platform: &PlatformSettings) -> AllowedNetworks {
    AllowedNetworks {
        networks: platform.allowed_gateway_networks.0.clone(),
        listeners: Vec::new(),
        ports: platform.gateway_ports.clone(),
    }
}

/// The same with what he opened to one organization alone.
pub async fn allowed_within(
    transaction: &mut OrganizationTransaction,
    allowed: &AllowedNetworks,
) -> anyhow::Result<AllowedNetworks> {
    let organization = transaction.organization();
    let own = facts::organization::gateway_networks(transaction, organization).await?;
    Ok(allowed.with(&own).into_owned())
}

/// The threads that everything asynchronous runs on.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
