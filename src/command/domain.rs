//! `outgate domain`: the operator says which mail domains an organization has.
//! Called by `main`; the change itself is the store's.

use clap::Subcommand;
use outgate::{mail::DomainName, store};
use sqlx::PgPool;

#[derive(Debug, Subcommand)]
pub enum Domain {
    /// Give an organization one more mail domain
    Add {
        /// The organization's slug
        slug: String,
        domain: DomainName,
    },
}

pub async fn run(command: Domain, owner: &PgPool) -> anyhow::Result<()> {
    let Domain::Add { slug, domain } = command;
    let organization = super::organization(owner, &slug).await?;
    store::domain::add(owner, organization, &domain).await?;
    println!("{} is now a mail domain of {slug}.", domain.to_unicode());
    Ok(())
}
