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
    /// Refuse an organization's mail, hold what waits, and let nobody sign in to it; nothing is lost
    Suspend {
        /// The organization's slug
        slug: String,
    },
    /// Let a suspended organization go on
    Resume {
        /// The organization's slug
        slug: String,
    },
}

pub async fn run(command: Organization, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        Organization::Create { slug, name, domains } => create(owner, &slug, &name, &domains).await,
        Organization::Suspend { slug } => set_suspended(owner, &slug, true).await,
        Organization::Resume { slug } => set_suspended(owner, &slug, false).await,
    }
}

async fn set_suspended(owner: &PgPool, slug: &str, suspended: bool) -> anyhow::Result<()> {
    let transaction = super::begin(owner, slug).await?;
    match store::organization::set_suspended(transaction, suspended, super::OPERATOR).await? {
        None => println!("Nothing changed: it was so already."),
        Some(committed) if suspended => println!(
            "{slug} is suspended: its mail is refused, what waits is held, and nobody signs in to it. Revision {}.",
            committed.revision
        ),
        Some(committed) => {
            println!("{slug} goes on, and so does mail that was held for it. Revision {}.", committed.revision)
        }
    }
    Ok(())
}

async fn create(owner: &PgPool, slug: &Slug, name: &str, domains: &[DomainName]) -> anyhow::Result<()> {
    let name = name.trim();
    if name.is_empty() || name.contains('\0') {
        anyhow::bail!("--name must say what the organization is called");
    }
    store::organization::create(owner, slug, name, domains).await?;
    let domains: Vec<String> = domains.iter().map(DomainName::to_unicode).collect();
    println!("Made the organization {slug} with {}.", domains.join(", "));
    Ok(())
}
