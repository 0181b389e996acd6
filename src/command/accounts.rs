//! `outgate accounts`: mail accounts one by one, in from a CSV file and out to one.
//! The file's cells are [`account_file`]'s to read, its rows the store's to write.

use std::{fs::File, io, path::PathBuf};

use anyhow::Context;
use clap::Subcommand;
use futures_util::TryStreamExt;
use outgate::{
    mail::{
        GatewayAddress, Mailbox,
        id::{AccountId, ChangeId, ImportId},
    },
    policy::{
        account_file,
        gateway_network::{self, AllowedNetworks},
    },
    store::{
        self, OrganizationTransaction,
        account::{Edited, NewAccount},
        account_file::{Findings, NewImport},
        account_import::{self, ImportError, Staged},
        change::Committed,
    },
};
use sqlx::PgPool;

#[derive(Debug, Subcommand)]
pub enum Accounts {
    /// Add and change accounts as a CSV file says; what it does not name stays
    Import {
        /// The organization's slug
        slug: String,
        /// Header user_id,name plus any of aliases,status,outbound_gateway,external_id
        file: PathBuf,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        /// Remove the accounts that the file does not name
        #[arg(long)]
        sync: bool,
        /// How many accounts may be removed at most, where it is more than one in twenty
        #[arg(long, value_name = "N", requires = "sync", value_parser = clap::value_parser!(i64).range(0..))]
        allow_removals: Option<i64>,
        #[arg(skip)]
        opened: Option<File>,
    },
    /// Print all accounts as CSV, in the form that import reads
    Export {
        /// The organization's slug
        slug: String,
    },
    /// Add an account
    Add {
        /// The organization's slug
        slug: String,
        /// The account's primary mail address
        user_id: Mailbox,
        /// What the user is called
        #[arg(long, default_value = "")]
        name: String,
        /// A further address; may be repeated
        #[arg(long = "alias", value_name = "ADDRESS")]
        aliases: Vec<Mailbox>,
        /// A gateway of the user's own
        #[arg(long, value_name = "ADDRESS")]
        outbound_gateway: Option<GatewayAddress>,
    },
    /// Give an account another User ID; the old one stays as a further address
    Rename {
        /// The organization's slug
        slug: String,
        /// The User ID as it is
        old: Mailbox,
        /// The User ID as it is to be
        new: Mailbox,
    },
    /// Refuse an account's mail
    Suspend {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
    },
    /// Take an account's mail again
    Activate {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
    },
    /// Delete an account with its addresses
    Delete {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
    },
}

/// Mistakes that are printed before the rest is only counted.
const PRINTED_MISTAKES: usize = 20;

impl Accounts {
    /// Opens the file that the command reads, while whoever gave the command is who we are: to use the
    /// private cluster root becomes a user who may not read it.
    pub fn open_file(&mut self) -> anyhow::Result<()> {
        if let Self::Import { file, opened, .. } = self {
            *opened = Some(File::open(&*file).with_context(|| format!("{} cannot be opened", file.display()))?);
        }
        Ok(())
    }
}

pub async fn run(command: Accounts, owner: &PgPool, allowed: &AllowedNetworks) -> anyhow::Result<()> {
    match command {
        Accounts::Import { slug, file, dry_run, sync, allow_removals, opened } => {
            let opened = opened.with_context(|| format!("{} was not opened", file.display()))?;
            let mut transaction = super::begin(owner, &slug).await?;
            let import = NewImport {
                id: ImportId::new(),
                file_name: file.display().to_string(),
                remove_missing: sync,
                started_by: super::OPERATOR.to_owned(),
                allowed: super::allowed_within(&mut transaction, allowed).await?,
            };
            if dry_run {
                try_out(transaction, &import, opened).await
            } else {
                match import_file(transaction, &import, opened, allow_removals).await? {
                    Some(committed) => super::verify_after(owner, &slug, committed.id).await,
                    None => Ok(()),
                }
            }
        }
        Accounts::Export { slug } => {
            let transaction = super::begin(owner, &slug).await?;
            export(transaction, io::stdout().lock()).await
        }
        Accounts::Add { slug, user_id, name, aliases, outbound_gateway } => {
            let name = account_file::name(&name).map_err(anyhow::Error::msg)?;
            let transaction = super::begin(owner, &slug).await?;
            let change = add(transaction, NewAccount { user_id, name, aliases }, outbound_gateway, allowed).await?;
            super::verify_after(owner, &slug, change).await
        }
        Accounts::Rename { slug, old, new } => {
            let (transaction, account) = of_account(owner, &slug, &old).await?;
            let edited = store::account::rename(transaction, account, &new, None, super::OPERATOR).await?;
            said(edited, &format!("{old} is now {new}, and stays as a further address."))
        }
        Accounts::Suspend { slug, user_id } => {
            let (transaction, account) = of_account(owner, &slug, &user_id).await?;
            let edited = store::account::set_status(transaction, account, true, super::OPERATOR).await?;
            said(edited, &format!("{user_id} is suspended: its mail is refused."))
        }
        Accounts::Activate { slug, user_id } => {
            let (transaction, account) = of_account(owner, &slug, &user_id).await?;
            let edited = store::account::set_status(transaction, account, false, super::OPERATOR).await?;
            said(edited, &format!("{user_id} is active: it may send mail."))
        }
        Accounts::Delete { slug, user_id } => {
            let (transaction, account) = of_account(owner, &slug, &user_id).await?;
            let edited = store::account::delete(transaction, account, Some(&user_id), super::OPERATOR).await?;
            said(edited, &format!("{user_id} is deleted. Mail from its addresses follows their domain."))
        }
    }
}

async fn add(
    mut transaction: OrganizationTransaction,
    account: NewAccount,
    outbound_gateway: Option<GatewayAddress>,
    allowed: &AllowedNetworks,
) -> anyhow::Result<ChangeId> {
    if let Some(address) = &outbound_gateway {
        let allowed = super::allowed_within(&mut transaction, allowed).await?;
        gateway_network::check_address(address, &allowed)?;
    }
    let (change, gateway) = (ChangeId::new(), outbound_gateway.as_ref());
    let (_, committed) = store::account::add_as(transaction, change, &account, gateway, super::OPERATOR).await?;
    println!("{} is added. Revision {}.", account.user_id, committed.revision);
    Ok(committed.id)
}

/// The account that has an address, as User ID or further address.
async fn of_account(
    owner: &PgPool,
    slug: &str,
    user_id: &Mailbox,
) -> anyhow::Result<(OrganizationTransaction, AccountId)> {
    let mut transaction = super::begin(owner, slug).await?;
    let organization = transaction.organization();
    let account = store::account::by_address(&mut transaction, organization, user_id).await?;
    Ok((transaction, account.with_context(|| format!("{slug} has no account {user_id}"))?))
}

fn said(edited: Edited, sentence: &str) -> anyhow::Result<()> {
    match edited {
        Edited::Changed(Committed { revision, .. }) => println!("{sentence} Revision {revision}."),
        Edited::Unchanged => println!("Nothing changed: it was so already."),
        Edited::Conflict(account) => anyhow::bail!("this is a further address of {}, not a User ID", account.user_id),
        Edited::NotFound => anyhow::bail!("somebody else has just changed this account"),
    }
    Ok(())
}

async fn import_file(
    transaction: OrganizationTransaction,
    import: &NewImport,
    file: File,
    allow_removals: Option<i64>,
) -> anyhow::Result<Option<Committed>> {
    let (staged, committed) =
        account_import::import(transaction, import, file, allow_removals).await.map_err(in_words)?;
    println!("{}", counted(&staged));
    Ok(committed)
}

async fn try_out(mut transaction: OrganizationTransaction, import: &NewImport, file: File) -> anyhow::Result<()> {
    let staged = account_import::stage(&mut transaction, import, file, |_| {}).await?;
    if staged.findings.mistake_count > 0 {
        return Err(in_words(ImportError::Rows(staged.findings)));
    }
    println!("Nothing was changed. The import would come to: {}", counted(&staged));
    for address in &staged.new_gateways {
        println!("New gateway: {address}");
    }
    Ok(())
}

fn counted(staged: &Staged) -> String {
    let (counts, unchanged) = (staged.counts, staged.unchanged());
    let removed = if staged.remove_missing { format!(" {} removed,", counts.removed) } else { String::new() };
    let added = if counts.added == 1 { "account" } else { "accounts" };
    format!("{} {added} added, {} changed,{removed} {unchanged} as they were.", counts.added, counts.changed)
}

/// Mistakes of a file as one error: each is a line that names its row.
fn in_words(error: ImportError) -> anyhow::Error {
    match error {
        ImportError::Rows(findings) => mistakes_in_words(&findings),
        ImportError::TooManyRemovals(staged) => anyhow::anyhow!(
            "nothing was imported: {} of {} accounts would be removed, say --allow-removals {} if they are meant",
            staged.counts.removed,
            staged.accounts,
            staged.counts.removed,
        ),
        ImportError::Store(error) => error.into(),
    }
}

fn mistakes_in_words(findings: &Findings) -> anyhow::Error {
    let mut words = String::from("nothing was imported");
    for mistake in findings.mistakes.iter().take(PRINTED_MISTAKES) {
        words.push_str(&format!("\n  {mistake}"));
    }
    let printed = findings.mistakes.len().min(PRINTED_MISTAKES) as i64;
    if findings.mistake_count > printed {
        words.push_str(&format!("\n  and {} more", findings.mistake_count - printed));
    }
    anyhow::Error::msg(words)
}

async fn export(mut transaction: OrganizationTransaction, out: impl io::Write) -> anyhow::Result<()> {
    let organization = transaction.organization();
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(account_file::COLUMNS)?;
    let mut accounts = std::pin::pin!(store::account_file::export(&mut transaction, organization));
    while let Some(account) = accounts.try_next().await? {
        writer.write_record(account.cells())?;
    }
    writer.flush()?;
    Ok(())
}
