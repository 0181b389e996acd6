//! `outgate gateway`: what the form at three scopes does, for scripts and for the operator.
//! Called by `main`; shares parser, network check and change with the pages.

use clap::{Args, Subcommand, ValueEnum};
use outgate::{
    mail::{DomainName, GatewayAddress, Mailbox},
    policy::{
        gateway_network::{self, AllowedNetworks},
        waiting::Choice,
    },
    store::{
        self, OrganizationTransaction,
        gateway::{PointerScope, Set},
    },
};
use sqlx::PgPool;

use super::{
    gateway_record::{self, Edit},
    verify,
};

#[derive(Debug, Subcommand)]
pub enum Gateway {
    /// Send mail of all users, of one mail domain or of one user through a gateway
    Set {
        /// The organization's slug
        slug: String,
        #[command(flatten)]
        whose: Whose,
        /// A host name or IP address, with a port if it is not 25
        address: GatewayAddress,
    },
    /// Delete the gateway of all users, of one mail domain or of one user
    Delete {
        /// The organization's slug
        slug: String,
        #[command(flatten)]
        whose: Whose,
        /// What becomes of mail that waits for it
        #[arg(long, value_enum, default_value_t = Waiting::Keep)]
        waiting: Waiting,
    },
    /// Find out whether a gateway accepts our mail: every relay tries, and nothing is sent. Exit status 0 only if it does
    Verify {
        /// The organization's slug
        slug: String,
        #[command(flatten)]
        whose: Whose,
        /// Instead of the gateway that is set: a host name or IP address, with a port if it is not 25
        address: Option<GatewayAddress>,
        /// The sender [default: the user, else the postmaster of a mail domain]
        #[arg(long, value_name = "SENDER")]
        from: Option<Mailbox>,
        /// The recipient, outside [default: as the relays are set]
        #[arg(long, value_name = "RECIPIENT")]
        to: Option<Mailbox>,
    },
    /// Show what a gateway has besides its address
    Show {
        /// The organization's slug
        slug: String,
        address: GatewayAddress,
    },
    /// Change what a gateway has, as a new revision; what is not named stays
    Edit {
        /// The organization's slug
        slug: String,
        address: GatewayAddress,
        #[command(flatten)]
        edit: Box<Edit>,
    },
    /// Say whether mail must leave through a gateway: then a sender without one is held, never sent directly
    Require {
        /// The organization's slug
        slug: String,
        #[arg(value_enum)]
        required: YesNo,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Waiting {
    /// It stays until there is a gateway again
    Keep,
    /// By whatever applies now
    Send,
    /// Back to its sender
    Return,
}

impl Waiting {
    fn choice(self) -> Option<Choice> {
        match self {
            Self::Keep => None,
            Self::Send => Some(Choice::Send),
            Self::Return => Some(Choice::Return),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum YesNo {
    Yes,
    No,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Whose {
    /// Only for this mail domain
    #[arg(long)]
    pub domain: Option<DomainName>,
    /// Only for this user
    #[arg(long)]
    pub user: Option<Mailbox>,
}

pub async fn run(command: Gateway, owner: &PgPool, allowed: &AllowedNetworks) -> anyhow::Result<()> {
    let (slug, whose, address, waiting) = match command {
        Gateway::Set { slug, whose, address } => {
            gateway_network::check_address(&address, allowed)?;
            (slug, whose, Some(address), None)
        }
        Gateway::Delete { slug, whose, waiting } => (slug, whose, None, waiting.choice()),
        Gateway::Verify { slug, whose, address, from, to } => {
            let mut transaction = super::begin(owner, &slug).await?;
            let scope = scope(&mut transaction, &slug, &whose).await?;
            let (user, from, to) = (whose.user.as_ref(), from.as_ref(), to.as_ref());
            return verify::run(transaction, owner, &scope, address, user, from, to).await;
        }
        Gateway::Show { slug, address } => return gateway_record::show(owner, &slug, &address).await,
        Gateway::Edit { slug, address, edit } => {
            return gateway_record::edit(owner, &slug, &address, &edit, allowed).await;
        }
        Gateway::Require { slug, required } => return require(owner, &slug, required == YesNo::Yes).await,
    };
    let mut transaction = super::begin(owner, &slug).await?;
    let scope = scope(&mut transaction, &slug, &whose).await?;
    let of = match (&whose.user, &whose.domain) {
        (Some(user), _) => user.to_string(),
        (None, Some(domain)) => domain.to_unicode(),
        (None, None) => "all users".to_owned(),
    };
    match store::gateway::set_choosing(transaction, &scope, address.as_ref(), waiting, super::OPERATOR).await? {
        Set::NotFound => anyhow::bail!("{slug} has no {of}"),
        Set::Unchanged => println!("Nothing changed: it was so already."),
        Set::Changed(committed) => match address {
            Some(address) => {
                println!(
                    "Mail of {of} now leaves through {}. Revision {}.",
                    address.with_port_in_words(),
                    committed.revision
                );
            }
            None => println!("The gateway of {of} is deleted. Revision {}.", committed.revision),
        },
    }
    Ok(())
}

async fn require(owner: &PgPool, slug: &str, required: bool) -> anyhow::Result<()> {
    let transaction = super::begin(owner, slug).await?;
    match store::gateway::set_must_use(transaction, required, super::OPERATOR).await? {
        Set::NotFound | Set::Unchanged => println!("Nothing changed: it was so already."),
        Set::Changed(committed) if required => {
            println!("Mail of {slug} must now leave through a gateway. Revision {}.", committed.revision);
        }
        Set::Changed(committed) => {
            println!("Mail of {slug} may now leave without a gateway. Revision {}.", committed.revision);
        }
    }
    Ok(())
}

pub async fn scope(
    transaction: &mut OrganizationTransaction,
    slug: &str,
    whose: &Whose,
) -> anyhow::Result<PointerScope> {
    if let Some(user) = &whose.user {
        let organization = transaction.organization();
        let account = store::account::by_address(transaction, organization, user).await?;
        return match account {
            Some(account) => Ok(PointerScope::Account(account)),
            None => anyhow::bail!("{slug} has no account {user}"),
        };
    }
    Ok(match &whose.domain {
        Some(domain) => PointerScope::Domain(domain.clone()),
        None => PointerScope::Organization,
    })
}
