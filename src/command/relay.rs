//! `outgate relay list|forget`: which relays there are and how far each has followed.
//! Called by `main`; running a relay is `serve`'s.

use clap::Subcommand;
use outgate::store;
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Subcommand)]
pub enum RelayCommand {
    /// List the relays, what each has confirmed and when it was last heard from
    List,
    /// Forget a relay that will not come back, so that nothing waits for its confirmation
    Forget { name: String },
}

pub async fn run(command: RelayCommand, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        RelayCommand::List => {
            let relays = store::relay::list(owner).await?;
            if relays.is_empty() {
                println!("No relay has signed on yet.");
            }
            for relay in relays {
                let state = match relay.signed_off_at {
                    Some(at) => format!("signed off {}", at.format(&Rfc3339)?),
                    None if relay.silent => format!("silent since {}", relay.last_seen_at.format(&Rfc3339)?),
                    None => format!("last seen {}", relay.last_seen_at.format(&Rfc3339)?),
                };
                println!("{}\trevision {}\t{state}", relay.name, relay.confirmed);
            }
        }
        RelayCommand::Forget { name } => {
            if !store::relay::forget(owner, &name).await? {
                anyhow::bail!("there is no relay “{name}”");
            }
            println!("{name} is forgotten.");
        }
    }
    Ok(())
}
