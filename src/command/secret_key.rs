//! `outgate secret-key`: the keys that relays open passwords of gateways with. Called by `main`; relays follow the
//! file by themselves.

use std::path::Path;

use clap::Subcommand;
use outgate::{secret::key_file, store};
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Subcommand)]
pub enum SecretKey {
    /// Make the file with a first key; copy it to every relay
    Create,
    /// Add a newer key, which seals from now on; copy the file to every relay at once
    Rotate,
    /// List the keys that relays have made known, the newest last, and how many passwords each seals
    List,
    /// Remove a key that seals no password any more
    Remove {
        /// As the list shows it
        id: String,
    },
}

pub async fn run(command: SecretKey, file: &Path, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        SecretKey::Create => {
            let id = key_file::create(file)?;
            println!("{} has the key {id}. Relays with OUTGATE_SECRET_KEY_FILE set to it use it.", file.display());
        }
        SecretKey::Rotate => {
            let id = key_file::rotate(file)?;
            println!("{} has the new key {id}. Relays that have the file use it within a minute.", file.display());
        }
        SecretKey::List => list(owner).await?,
        SecretKey::Remove { id } => remove(&id, file, owner).await?,
    }
    Ok(())
}

async fn list(owner: &PgPool) -> anyhow::Result<()> {
    let keys = store::secret_key::list(owner).await?;
    if keys.is_empty() {
        println!("No relay has made a key known yet.");
    }
    for key in keys {
        let state = match key.retired_at {
            Some(at) => format!("removed {}", at.format(&Rfc3339)?),
            None => format!("known since {}", key.published_at.format(&Rfc3339)?),
        };
        println!("{}\t{} passwords\t{state}", key.id, key.passwords);
    }
    Ok(())
}

async fn remove(id: &str, file: &Path, owner: &PgPool) -> anyhow::Result<()> {
    let removable = key_file::removable(file, id)?;
    let passwords = store::secret_key::retire(owner, &removable).await?;
    anyhow::ensure!(
        passwords == 0,
        "{passwords} passwords are still sealed with {id}: relays that have a newer key seal them anew within a minute"
    );
    key_file::remove(file, &removable)?;
    println!("{} has the key {id} no more.", file.display());
    Ok(())
}
