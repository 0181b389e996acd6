//! `outgate administrator`: the operator says who may sign in. Passwords come by standard input,
//! so that they stand in no process list and no shell history.

use std::io::Read;

use clap::Subcommand;
use outgate::{mail::Mailbox, policy::Role, store, web::password};
use sqlx::PgPool;

#[derive(Debug, Subcommand)]
pub enum Administrator {
    /// Make an administrator, or give one that exists a role in one more organization
    Create {
        email: Mailbox,
        /// The organization's slug
        #[arg(long)]
        organization: String,
        /// administrator, user-administrator or admin-assistant
        #[arg(long)]
        role: Role,
        /// Read the password from standard input
        #[arg(long, required = true)]
        password_stdin: bool,
    },
    /// Set an administrator's password and end all of their sessions
    SetPassword {
        email: Mailbox,
        /// Read the password from standard input
        #[arg(long, required = true)]
        password_stdin: bool,
    },
    /// Let an administrator sign in no more, and end all of their sessions
    Suspend { email: Mailbox },
    /// Let a suspended administrator sign in again
    Resume { email: Mailbox },
}

pub async fn run(command: Administrator, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        Administrator::Create { email, organization: slug, role, password_stdin: _ } => {
            let organization = super::organization(owner, &slug).await?;
            let hash = password::hash(&read_password()?)?;
            let new = store::administrator::create(owner, &email, &hash, organization, role).await?;
            println!("{email} is now {} of {slug}.", role.label());
            if !new {
                println!("They have signed in before: their password stays as it was.");
            }
        }
        Administrator::SetPassword { email, password_stdin: _ } => {
            let hash = password::hash(&read_password()?)?;
            if !store::administrator::set_password(owner, &email, &hash).await? {
                anyhow::bail!("there is no administrator {email}");
            }
            println!("{email} has a new password, and all their sessions have ended.");
        }
        Administrator::Suspend { email } => set_suspended(owner, &email, true).await?,
        Administrator::Resume { email } => set_suspended(owner, &email, false).await?,
    }
    Ok(())
}

async fn set_suspended(owner: &PgPool, email: &Mailbox, suspended: bool) -> anyhow::Result<()> {
    match store::administrator::set_suspended(owner, email, suspended).await? {
        None => anyhow::bail!("there is no administrator {email}"),
        Some(false) => println!("Nothing changed: it was so already."),
        Some(true) if suspended => println!("{email} signs in no more, and all their sessions have ended."),
        Some(true) => println!("{email} may sign in again."),
    }
    Ok(())
}

/// At least as long as a password has to be (OWASP ASVS 5.0, 6.2.1).
fn read_password() -> anyhow::Result<String> {
    let password = line_of_stdin()?;
    match password.chars().count() {
        0..12 => anyhow::bail!("the password must have at least 12 characters"),
        _ if password.len() > 1024 => anyhow::bail!("the password must have at most 1,024 bytes"),
        _ => Ok(password),
    }
}

/// The one line that a password is.
pub(super) fn line_of_stdin() -> anyhow::Result<String> {
    let mut typed = String::new();
    std::io::stdin().take(64 * 1024).read_to_string(&mut typed)?;
    let password = typed.strip_suffix('\n').unwrap_or(&typed);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.contains('\n') {
        anyhow::bail!("the password on standard input has more than one line");
    }
    Ok(password.to_owned())
}
