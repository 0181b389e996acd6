//! `outgate organization`: the operator makes tenants.
//! Called by `main`; the change itself is the store's.

use clap::Subcommand;
use outgate::{
    mail::DomainName,
    store::{self, organization::Slug},
};
use sqlx::PgPool;

#[derive(Debug, Subcommand)]
pub enum Organization {
    /// Make an organization with its mail domains
    Create {
        /// What it is called in paths and commands, such as acme
        slug: Slug,
        /// Its name for people
        #[arg(long)]
        name: String,
        /// A mail domain that belongs to it; may be given several times
        #[arg(long = "domain", required = true)]
        domains: Vec<DomainName>,
    },
}

pub async fn run(command: Organization, owner: &PgPool) -> anyhow::Result<()> {
    let Organization::Create { slug, name, domains } = command;
    let name = name.trim();
    if name.is_empty() || name.contains('\0') {
        anyhow::bail!("--name must say what the organization is called");
    }
    store::organization::create(owner, &slug, name, &domains).await?;
    let domains: Vec<String> = domains.iter().map(DomainName::to_unicode).collect();
    println!("Made the organization {slug} with {}.", domains.join(", "));
    Ok(())
}
