//! `outgate gateway`: what the form at three scopes does, for scripts and for the operator.
//! Called by `main`; shares parser, network check and change with the pages.

use clap::{Args, Subcommand, ValueEnum};
use outgate::{
    mail::{DomainName, GatewayAddress, Mailbox},
    policy::{
        gateway_network::{self, AllowedNetworks},
        going_live::VerifyBeforeLive,
        waiting::Choice,
    },
    store::{
        self, OrganizationTransaction,
        gateway::{PointerScope, Set},
        pending_gateway::Saved,
    },
};
use sqlx::PgPool;

use super::{
    gateway_record::{self, Edit},
    verify::{self, Question},
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
        /// Go live when the organization's pages would: what has to be verified first goes live when it has passed
        #[arg(long)]
        when_verified: bool,
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
    /// Find out whether a gateway accepts our mail: every relay tries, and nothing is sent without --send. Exit status 0 only if it does
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
        /// Send a test message: to the recipient of --to, else back to this installation. Then exit status 0 only if
        /// it comes back, too
        #[arg(long)]
        send: bool,
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
    /// Say which gateways that are saved have to pass a verification before they go live
    VerifyBeforeLive {
        /// The organization's slug
        slug: String,
        #[arg(value_enum)]
        wanted: BeforeLive,
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

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum BeforeLive {
    /// None
    Never,
    /// Those that replace a gateway which works
    Replacing,
    /// All of the organization and its mail domains; without another gateway mail waits until then
    Always,
}

impl From<BeforeLive> for VerifyBeforeLive {
    fn from(wanted: BeforeLive) -> Self {
        match wanted {
            BeforeLive::Never => Self::Never,
            BeforeLive::Replacing => Self::Replacing,
            BeforeLive::Always => Self::Always,
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

impl Whose {
    fn in_words(&self) -> String {
        match (&self.user, &self.domain) {
            (Some(user), _) => user.to_string(),
            (None, Some(domain)) => domain.to_unicode(),
            (None, None) => "all users".to_owned(),
        }
    }
}

pub async fn run(command: Gateway, owner: &PgPool, allowed: &AllowedNetworks) -> anyhow::Result<()> {
    let (slug, whose, address, waiting) = match command {
        Gateway::Set { slug, whose, address, when_verified } => {
            let mut transaction = super::begin(owner, &slug).await?;
            let allowed = super::allowed_within(&mut transaction, allowed).await?;
            gateway_network::check_address(&address, &allowed)?;
            drop(transaction);
            if when_verified {
                return set_when_verified(owner, &slug, &whose, &address).await;
            }
            (slug, whose, Some(address), None)
        }
        Gateway::Delete { slug, whose, waiting } => (slug, whose, None, waiting.choice()),
        Gateway::Verify { slug, whose, address, from, to, send } => {
            let mut transaction = super::begin(owner, &slug).await?;
            let scope = scope(&mut transaction, &slug, &whose).await?;
            let question = Question { user: whose.user.as_ref(), from: from.as_ref(), to: to.as_ref(), send };
            return verify::run(transaction, owner, &scope, address, &question).await;
        }
        Gateway::Show { slug, address } => return gateway_record::show(owner, &slug, &address).await,
        Gateway::Edit { slug, address, edit } => {
            return gateway_record::edit(owner, &slug, &address, &edit, allowed).await;
        }
        Gateway::VerifyBeforeLive { slug, wanted } => return verify_before_live(owner, &slug, wanted.into()).await,
        Gateway::Require { slug, required } => return require(owner, &slug, required == YesNo::Yes).await,
    };
    let mut transaction = super::begin(owner, &slug).await?;
    let scope = scope(&mut transaction, &slug, &whose).await?;
    let set = store::gateway::set_choosing(transaction, &scope, address.as_ref(), waiting, super::OPERATOR).await?;
    live_at_once(owner, &slug, &whose, address.as_ref(), &set).await
}

/// Says what is live, and has it verified.
async fn live_at_once(
    owner: &PgPool,
    slug: &str,
    whose: &Whose,
    address: Option<&GatewayAddress>,
    set: &Set,
) -> anyhow::Result<()> {
    say_what_is_live(slug, whose, address, set)?;
    match set {
        Set::Changed(committed) => super::verify_after(owner, slug, committed.id).await,
        Set::NotFound | Set::Unchanged => Ok(()),
    }
}

fn say_what_is_live(slug: &str, whose: &Whose, address: Option<&GatewayAddress>, set: &Set) -> anyhow::Result<()> {
    let of = whose.in_words();
    match (set, address) {
        (Set::NotFound, _) => anyhow::bail!("{slug} has no {of}"),
        (Set::Unchanged, _) => println!("Nothing changed: it was so already."),
        (Set::Changed(committed), Some(address)) => {
            let (address, revision) = (address.with_port_in_words(), committed.revision);
            println!("Mail of {of} now leaves through {address}. Revision {revision}.");
        }
        (Set::Changed(committed), None) => {
            println!("The gateway of {of} is deleted. Revision {}.", committed.revision);
        }
    }
    Ok(())
}

/// As the pages do: at once, or when it has passed its verification. The web processes look after what is pending.
async fn set_when_verified(owner: &PgPool, slug: &str, whose: &Whose, address: &GatewayAddress) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let scope = scope(&mut transaction, slug, whose).await?;
    match store::pending_gateway::set(transaction, &scope, Some(address), super::OPERATOR).await? {
        Saved::AtOnce(set, _) => live_at_once(owner, slug, whose, Some(address), &set).await,
        Saved::Already => {
            println!("Nothing changed: it goes live when it has passed its verification.");
            Ok(())
        }
        Saved::Pending(committed) => {
            println!(
                "{} is being checked. Until it has passed, mail of {} leaves as before. Revision {}.",
                address.with_port_in_words(),
                whose.in_words(),
                committed.revision
            );
            Ok(())
        }
    }
}

async fn verify_before_live(owner: &PgPool, slug: &str, wanted: VerifyBeforeLive) -> anyhow::Result<()> {
    let transaction = super::begin(owner, slug).await?;
    match store::organization::set_verify_before_live(transaction, wanted, super::OPERATOR).await? {
        Set::NotFound | Set::Unchanged => println!("Nothing changed: it was so already."),
        Set::Changed(committed) => {
            let which = match wanted {
                VerifyBeforeLive::Never => "no gateway",
                VerifyBeforeLive::Replacing => "a gateway that replaces one which works",
                VerifyBeforeLive::Always => "every gateway of all users or a mail domain",
            };
            println!("Of {slug}, {which} has to pass before it goes live. Revision {}.", committed.revision);
        }
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
