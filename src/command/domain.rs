//! `outgate domain`: the operator says which mail domains an organization has, and where mail to them is delivered.
//! Called by `main`; the change itself is the store's.

use clap::Subcommand;
use outgate::{
    mail::{DomainName, GatewayAddress},
    policy::gateway_network::{self, AllowedNetworks},
    store::{self, OrganizationTransaction, domain::Removed, gateway::Set},
};
use sqlx::PgPool;

#[derive(Debug, Subcommand)]
pub enum Domain {
    /// Give an organization one more mail domain
    Add {
        /// The organization's slug
        slug: String,
        domain: DomainName,
    },
    /// Take a mail domain from an organization: its mail is refused from then on, and what waits is held
    Remove {
        /// The organization's slug
        slug: String,
        domain: DomainName,
    },
    /// Say where mail to a mail domain itself is delivered
    Set {
        /// The organization's slug
        slug: String,
        domain: DomainName,
        /// A host name or IP address, with a port if it is not 25; - for where the domain's MX records say
        #[arg(long, value_name = "ADDRESS", value_parser = host, allow_hyphen_values = true)]
        inbound_host: Host,
    },
}

/// `None`: where the domain's MX records say.
#[derive(Debug, Clone)]
pub struct Host(Option<GatewayAddress>);

fn host(typed: &str) -> Result<Host, String> {
    match typed.trim() {
        "-" => Ok(Host(None)),
        typed => typed.parse().map(|host| Host(Some(host))).map_err(|mistake| format!("{mistake} Or write -.")),
    }
}

pub async fn run(command: Domain, owner: &PgPool, allowed: &AllowedNetworks) -> anyhow::Result<()> {
    match command {
        Domain::Add { slug, domain } => add(owner, &slug, &domain).await,
        Domain::Remove { slug, domain } => remove(owner, &slug, &domain).await,
        Domain::Set { slug, domain, inbound_host: Host(host) } => {
            let mut transaction = super::begin(owner, &slug).await?;
            if let Some(host) = &host {
                let allowed = super::allowed_within(&mut transaction, allowed).await?;
                gateway_network::check_address(host, &allowed)?;
            }
            set_inbound_host(transaction, &slug, &domain, host.as_ref()).await
        }
    }
}

async fn set_inbound_host(
    transaction: OrganizationTransaction,
    slug: &str,
    domain: &DomainName,
    host: Option<&GatewayAddress>,
) -> anyhow::Result<()> {
    let name = domain.to_unicode();
    match store::domain::set_inbound_host(transaction, domain, host, super::OPERATOR).await? {
        Set::NotFound => anyhow::bail!("{slug} has no mail domain {name}"),
        Set::Unchanged => println!("Nothing changed: it was so already."),
        Set::Changed(committed) => {
            let host =
                host.map_or("the servers that its MX records name".to_owned(), GatewayAddress::with_port_in_words);
            println!("Mail to {name} now goes to {host}. Revision {}.", committed.revision);
        }
    }
    Ok(())
}

async fn remove(owner: &PgPool, slug: &str, domain: &DomainName) -> anyhow::Result<()> {
    let transaction = super::begin(owner, slug).await?;
    let name = domain.to_unicode();
    match store::domain::remove(transaction, domain, super::OPERATOR).await? {
        Removed::NotFound => anyhow::bail!("{slug} has no mail domain {name}"),
        Removed::InUse(1) => {
            anyhow::bail!(
                "an account or a distribution list has an address of {name}: delete it, or give the account another one first"
            )
        }
        Removed::InUse(addresses) => {
            anyhow::bail!(
                "accounts and distribution lists have {addresses} addresses of {name}: delete them, or give accounts others first"
            )
        }
        Removed::Removed(committed) => {
            println!("{name} is no mail domain of {slug} any more. Revision {}.", committed.revision);
            Ok(())
        }
    }
}

async fn add(owner: &PgPool, slug: &str, domain: &DomainName) -> anyhow::Result<()> {
    let organization = super::organization(owner, slug).await?;
    store::domain::add(owner, organization, domain).await?;
    println!("{} is now a mail domain of {slug}.", domain.to_unicode());
    Ok(())
}
