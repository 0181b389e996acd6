//! `outgate accounts`: mail accounts in from a CSV file and out to one.
//! The file's cells are [`account_file`]'s to read, its rows the store's to write.

use std::{fs::File, io, path::PathBuf};

use anyhow::Context;
use clap::Subcommand;
use futures_util::TryStreamExt;
use outgate::{
    policy::{
        account_file::{self, AccountRow, Cell, RowMistake},
        gateway_network::{self, AllowedNetworks},
    },
    store::{self, OrganizationTransaction, account_file::ImportError},
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
        #[arg(skip)]
        opened: Option<File>,
    },
    /// Print all accounts as CSV, in the form that import reads
    Export {
        /// The organization's slug
        slug: String,
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
        Accounts::Import { slug, file, opened } => {
            let opened = opened.with_context(|| format!("{} was not opened", file.display()))?;
            let rows = account_file::read(io::BufReader::new(opened)).map_err(in_words)?;
            refuse_closed_networks(&rows, allowed)?;
            let transaction = super::begin(owner, &slug).await?;
            let imported =
                store::account_file::import(transaction, &rows, super::OPERATOR).await.map_err(
                    |error| match error {
                        ImportError::Rows(mistakes) => in_words(mistakes),
                        ImportError::Store(error) => error.into(),
                    },
                )?;
            let unchanged = rows.len() - imported.added - imported.changed;
            println!("{} accounts added, {} changed, {unchanged} as they were.", imported.added, imported.changed);
        }
        Accounts::Export { slug } => {
            let transaction = super::begin(owner, &slug).await?;
            export(transaction, io::stdout().lock()).await?;
        }
    }
    Ok(())
}

/// The mistakes of a file as one error: each is a line that names its row.
fn in_words(mut mistakes: Vec<RowMistake>) -> anyhow::Error {
    mistakes.sort_by_key(|mistake| mistake.line);
    let mut words = String::from("nothing was imported");
    for mistake in mistakes.iter().take(PRINTED_MISTAKES) {
        words.push_str(&format!("\n  {mistake}"));
    }
    if let Some(more) = mistakes.len().checked_sub(PRINTED_MISTAKES).filter(|more| *more > 0) {
        words.push_str(&format!("\n  and {more} more"));
    }
    anyhow::Error::msg(words)
}

fn refuse_closed_networks(rows: &[AccountRow], allowed: &AllowedNetworks) -> anyhow::Result<()> {
    let mistakes: Vec<RowMistake> = rows
        .iter()
        .filter_map(|row| {
            let Cell::Set(address) = &row.outbound_gateway else { return None };
            let refusal = gateway_network::check_address(address, allowed).err()?;
            Some(RowMistake::new(row.line, refusal.to_string()))
        })
        .collect();
    if mistakes.is_empty() { Ok(()) } else { Err(in_words(mistakes)) }
}

async fn export(mut transaction: OrganizationTransaction, out: impl io::Write) -> anyhow::Result<()> {
    let organization = transaction.organization();
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(account_file::COLUMNS)?;
    let mut accounts = std::pin::pin!(store::account_file::export(&mut transaction, organization));
    while let Some(account) = accounts.try_next().await? {
        writer.write_record([
            account.user_id,
            account_file::harmless(&account.name),
            account.aliases,
            account.status,
            account.outbound_gateway,
            account_file::harmless(&account.external_id),
        ])?;
    }
    writer.flush()?;
    Ok(())
}
