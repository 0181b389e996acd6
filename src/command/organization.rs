//! `outgate organization`: the operator makes tenants.
//! Called by `main`; the change itself is the store's.

use clap::Subcommand;
use ipnet::IpNet;
use outgate::{
    config,
    mail::DomainName,
    policy::gateway_network,
    store::{
        self,
        deleted_organization::{self, Obstacle},
        gateway::Set,
        organization::Slug,
    },
    web::wording,
};
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;

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
    /// Let this organization's gateways be in a private network, besides OUTGATE_ALLOWED_GATEWAY_NETWORKS, which is for all
    AllowNetwork {
        /// The organization's slug
        slug: String,
        /// Such as 10.0.0.0/8; a single address counts as a network of one
        #[arg(value_parser = network)]
        network: IpNet,
        /// Take the network back: what is only there is not connected to any more, and its mail waits
        #[arg(long)]
        remove: bool,
    },
    /// Delete a suspended organization with all that is its own: accounts, gateways, mail domains, audit log, message trace
    /// and volume, and administrators who have no other. It cannot be taken back. Without --confirm nothing is deleted,
    /// and it is said what would be
    Delete {
        /// The organization's slug
        slug: String,
        /// The slug once more
        #[arg(long, value_name = "SLUG")]
        confirm: Option<String>,
    },
    /// List the organizations that were deleted, the last one first, with what was deleted with each
    Deleted,
    /// Show an organization: whether it is suspended, its mail domains and the private networks of its gateways
    Show {
        /// The organization's slug
        slug: String,
    },
}

fn network(typed: &str) -> Result<IpNet, String> {
    let network = config::network(typed)?;
    gateway_network::check_network(&network).map_err(|refusal| refusal.to_string())?;
    Ok(network)
}

pub async fn run(command: Organization, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        Organization::Create { slug, name, domains } => create(owner, &slug, &name, &domains).await,
        Organization::Suspend { slug } => set_suspended(owner, &slug, true).await,
        Organization::Resume { slug } => set_suspended(owner, &slug, false).await,
        Organization::AllowNetwork { slug, network, remove } => allow_network(owner, &slug, network, !remove).await,
        Organization::Delete { slug, confirm } => delete(owner, &slug, confirm.as_deref()).await,
        Organization::Deleted => deleted(owner).await,
        Organization::Show { slug } => show(owner, &slug).await,
    }
}

async fn allow_network(owner: &PgPool, slug: &str, network: IpNet, allowed: bool) -> anyhow::Result<()> {
    let transaction = super::begin(owner, slug).await?;
    match store::organization::allow_network(transaction, network, allowed, super::OPERATOR).await? {
        Set::NotFound => {
            anyhow::bail!("{slug} has no private network {network} of its own: see “outgate organization show {slug}”")
        }
        Set::Unchanged => println!("Nothing changed: it was so already."),
        Set::Changed(committed) if allowed => println!(
            "Gateways of {slug} may now be in {network}. Mail that waits for one goes when it is tried again. Revision {}.",
            committed.revision
        ),
        Set::Changed(committed) => println!(
            "Gateways of {slug} may no longer be in {network}, unless it is open to all: mail for one that is waits. \
             Revision {}.",
            committed.revision
        ),
    }
    Ok(())
}

async fn delete(owner: &PgPool, slug: &str, confirm: Option<&str>) -> anyhow::Result<()> {
    let transaction = super::begin(owner, slug).await?;
    let deletable = match deleted_organization::look(transaction).await? {
        Ok(deletable) => deletable,
        Err(obstacle) => anyhow::bail!(in_the_way(slug, obstacle)?),
    };
    let domains = match deletable.domains() {
        [] => "no mail domain".to_owned(),
        domains => domains.join(", "),
    };
    match confirm {
        Some(confirmed) if confirmed == slug => {}
        Some(other) => anyhow::bail!("--confirm says {other}, not {slug}: nothing was deleted"),
        None => anyhow::bail!(
            "nothing was deleted: to delete {slug} ({domains}) for good, with its audit log, message trace and volume, \
             say --confirm {slug}"
        ),
    }
    let deleted = deleted_organization::delete(deletable, super::OPERATOR).await?;
    let rows: Vec<String> = deleted.rows.iter().map(|(table, count)| format!("{table} {count}")).collect();
    tracing::info!(
        slug,
        domains,
        administrators = deleted.administrators,
        rows = rows.join(", "),
        "organization deleted"
    );
    println!(
        "{slug} is deleted for good, with its audit log, message trace and volume. Free for others: {domains}. \
         Administrators deleted: {}. Rows deleted: {}. Revision {}.",
        deleted.administrators,
        rows.join(", "),
        deleted.revision
    );
    Ok(())
}

fn in_the_way(slug: &str, obstacle: Obstacle) -> anyhow::Result<String> {
    Ok(match obstacle {
        Obstacle::NotSuspended => format!("{slug} is not suspended: suspend it first, and delete it an hour later"),
        Obstacle::JustSuspended(from) => format!(
            "{slug} was suspended a moment ago, and mail that was under way may still come to wait: it can be deleted \
             from {} on",
            from.replace_nanosecond(0)?.format(&Rfc3339)?
        ),
        Obstacle::NotConfirmed(relay) => format!(
            "the relay {relay} has not confirmed that {slug} is suspended: start it, or say that it will not come back \
             (outgate relay forget {relay})"
        ),
        Obstacle::MailWaits(count) => format!(
            "{slug} has {} waiting, and nothing that was accepted is lost: let {slug} go on (outgate organization resume \
             {slug}) until nothing waits, or wait until what is held has returned to its senders",
            wording::counted(count, "message", "messages")
        ),
    })
}

async fn deleted(owner: &PgPool) -> anyhow::Result<()> {
    let all = deleted_organization::list(owner).await?;
    if all.is_empty() {
        println!("No organization was deleted.");
    }
    for one in all {
        let (at, domains) = (one.deleted_at.replace_nanosecond(0)?.format(&Rfc3339)?, one.domains.join(", "));
        println!("{}\t{}\t{at}\tby {}\t{domains}\t{}", one.slug, one.name, one.actor, one.deleted);
    }
    Ok(())
}

async fn show(owner: &PgPool, slug: &str) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let organization = transaction.organization();
    let shown = store::organization::shown(&mut transaction, organization).await?;
    let domains = store::domain::list(&mut transaction, organization).await?;
    let domains: Vec<String> = domains.iter().map(|domain| domain.name.to_unicode()).collect();
    let networks: Vec<String> = shown.gateway_networks.iter().map(ToString::to_string).collect();
    let or_none = |words: Vec<String>| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    println!("{slug} ({}) is {}.", shown.name, if shown.suspended { "suspended" } else { "active" });
    println!("Mail domains: {}", or_none(domains));
    println!("Private networks of its own: {}", or_none(networks));
    Ok(())
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
