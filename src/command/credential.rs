//! `outgate credential`: relay credentials, as on the administrators' page. The secret is printed once, when it
//! is made; what is kept is its hash.

use clap::Subcommand;
use ipnet::IpNet;
use outgate::{
    mail::{DomainName, Mailbox, id::CredentialId},
    policy::relay_credential::{self, Limits, SecretHash},
    store::{
        self,
        relay_credential::{Edited, Made, NewCredential, Terms},
    },
};
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Subcommand)]
pub enum Credential {
    /// Make a credential with which clients sign in to submit an organization's mail, and print it
    Create {
        /// The organization's slug
        slug: String,
        /// What it is for, such as “Mail server in Lisbon”
        #[arg(long, value_parser = name)]
        name: String,
        /// An address that it may send from; may be given several times
        #[arg(long = "address")]
        addresses: Vec<Mailbox>,
        /// A mail domain that it may send from; may be given several times
        #[arg(long = "domain")]
        domains: Vec<DomainName>,
        /// A network that it may be used from; may be given several times
        #[arg(long = "network", value_parser = network)]
        networks: Vec<IpNet>,
        /// How many messages it may send in a minute
        #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u32).range(1..=i64::from(relay_credential::MOST_PER_MINUTE)))]
        per_minute: Option<u32>,
        /// Make line feeds without carriage return CR LF instead of refusing the message
        #[arg(long)]
        allow_bare_line_feeds: bool,
    },
    /// List an organization's credentials
    List {
        /// The organization's slug
        slug: String,
    },
    /// Revoke a credential: it is refused at once, on open connections too
    Revoke {
        /// The organization's slug
        slug: String,
        /// Its user name
        user_name: String,
    },
}

fn name(typed: &str) -> Result<String, String> {
    relay_credential::name(typed)
}

fn network(typed: &str) -> Result<IpNet, String> {
    let mut networks = relay_credential::networks(typed)?;
    match (networks.pop(), networks.is_empty()) {
        (Some(network), true) => Ok(network),
        _ => Err("Give one network, and --network again for another.".to_owned()),
    }
}

pub async fn run(command: Credential, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        Credential::Create { slug, name, addresses, domains, networks, per_minute, allow_bare_line_feeds } => {
            let limits =
                Limits { addresses, domains, networks, messages_per_minute: per_minute, allow_bare_line_feeds };
            create(owner, &slug, Terms { name, limits }).await
        }
        Credential::List { slug } => list(owner, &slug).await,
        Credential::Revoke { slug, user_name } => revoke(owner, &slug, &user_name).await,
    }
}

async fn create(owner: &PgPool, slug: &str, terms: Terms) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let organization = transaction.organization();
    let own: Vec<DomainName> =
        store::domain::list(&mut transaction, organization).await?.into_iter().map(|domain| domain.name).collect();
    let of_addresses = terms.limits.addresses.iter().map(Mailbox::domain);
    if let Some(foreign) = of_addresses.chain(&terms.limits.domains).find(|domain| !own.contains(domain)) {
        anyhow::bail!("{} is not a mail domain of {slug}", foreign.to_unicode());
    }
    let secret = relay_credential::secret(&rand::random());
    let user_name = relay_credential::user_name(slug, &rand::random());
    let new =
        NewCredential { id: CredentialId::new(), user_name: user_name.clone(), secret: SecretHash::of(&secret), terms };
    match store::relay_credential::create(transaction, &new, super::OPERATOR).await? {
        Made::Made(committed) => {
            println!("User name: {user_name}");
            println!("Password:  {secret}");
            println!("The password is not shown again. Revision {}.", committed.revision);
            Ok(())
        }
        Made::Already | Made::TooMany => anyhow::bail!(
            "{slug} has {} valid relay credentials, which is the most: revoke one first",
            store::relay_credential::MOST_VALID
        ),
    }
}

async fn list(owner: &PgPool, slug: &str) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let organization = transaction.organization();
    for credential in store::relay_credential::list(&mut transaction, organization, true).await? {
        let state = if credential.revoked { "revoked" } else { "valid" };
        let used = credential
            .last_used_at
            .map_or("never used".to_owned(), |at| format!("last used {}", at.format(&Rfc3339).unwrap_or_default()));
        let limits = credential.terms.limits_in_words();
        let limits = if limits.is_empty() { "no limits" } else { &limits };
        println!("{}\t{state}\t{used}\t{}\t{limits}", credential.user_name, credential.terms.name);
    }
    Ok(())
}

async fn revoke(owner: &PgPool, slug: &str, user_name: &str) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let organization = transaction.organization();
    let found = store::relay_credential::by_user_name(&mut transaction, organization, user_name).await?;
    let Some(found) = found else { anyhow::bail!("{slug} has no relay credential {user_name}") };
    match store::relay_credential::revoke(transaction, found.id, super::OPERATOR).await? {
        Edited::Changed(committed) => println!("{user_name} is revoked. Revision {}.", committed.revision),
        Edited::Unchanged | Edited::NotFound | Edited::ChangedMeanwhile => {
            println!("Nothing changed: it was revoked already.");
        }
    }
    Ok(())
}
