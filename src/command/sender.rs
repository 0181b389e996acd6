//! `outgate sender`: what is said of one sender besides its limits, as the account's page of Limits does it.
//! Called by `main`; what it means is `policy::limit`'s.

use clap::Subcommand;
use outgate::{
    mail::{Mailbox, id::AccountId},
    policy::{
        limit::{SenderControl, exempt_until},
        volume::Subject,
    },
    store::{self, OrganizationTransaction, gateway::PointerScope, limit::Set, throttle::Decided},
};
use sqlx::PgPool;
use time::OffsetDateTime;

use super::gateway::YesNo;

#[derive(Debug, Subcommand)]
pub enum Sender {
    /// Say whether an account is a program's: then the limits of service accounts hold for it
    Service {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
        #[arg(value_enum)]
        is_service: YesNo,
    },
    /// Let no limit of its own hold for an account until the end of a day
    Exempt {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
        /// The day (UTC), within a year: 2027-01-31; without it the exemption ends
        until: Option<String>,
    },
    /// Refuse new mail of an account, and hold what waits of it
    Block {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
    },
    /// Take its mail again
    Unblock {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
    },
    /// Send at once what waits or is held of an account for a limit
    LetGo {
        /// The organization's slug
        slug: String,
        user_id: Mailbox,
    },
}

pub async fn run(command: Sender, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        Sender::Service { slug, user_id, is_service } => {
            let is_service = is_service == YesNo::Yes;
            change(owner, (&slug, &user_id), "sender.class", |control| control.is_service = is_service).await
        }
        Sender::Exempt { slug, user_id, until } => {
            let until = exempt_until(until.as_deref().unwrap_or_default(), OffsetDateTime::now_utc());
            let until = until.map_err(anyhow::Error::msg)?;
            change(owner, (&slug, &user_id), "sender.exempt", |control| control.exempt_until = until).await
        }
        Sender::Block { slug, user_id } => {
            change(owner, (&slug, &user_id), "sender.block", |control| control.is_blocked = true).await
        }
        Sender::Unblock { slug, user_id } => {
            change(owner, (&slug, &user_id), "sender.unblock", |control| control.is_blocked = false).await
        }
        Sender::LetGo { slug, user_id } => let_go(owner, &slug, &user_id).await,
    }
}

async fn change(
    owner: &PgPool,
    (slug, user_id): (&str, &Mailbox),
    action: &'static str,
    change: impl FnOnce(&mut SenderControl),
) -> anyhow::Result<()> {
    let (transaction, account) = account(owner, slug, user_id).await?;
    match store::limit::set_control(transaction, account, action, change, super::OPERATOR).await? {
        Set::NotFound => anyhow::bail!("there is no account {user_id}"),
        Set::Unchanged => println!("It is so already."),
        Set::Changed(committed) => println!("Saved. Revision {}.", committed.revision),
    }
    Ok(())
}

async fn let_go(owner: &PgPool, slug: &str, user_id: &Mailbox) -> anyhow::Result<()> {
    let (transaction, account) = account(owner, slug, user_id).await?;
    let of = [Subject::Account(account)];
    match store::throttle::let_go(transaction, &of, OffsetDateTime::now_utc(), super::OPERATOR).await? {
        Decided::NotFound => anyhow::bail!("there is no account {user_id}"),
        Decided::Nothing => println!("Nothing of it waits for a limit."),
        Decided::Changed(messages, committed) => {
            println!("{messages} messages leave now. Revision {}.", committed.revision);
        }
    }
    Ok(())
}

async fn account(
    owner: &PgPool,
    slug: &str,
    user_id: &Mailbox,
) -> anyhow::Result<(OrganizationTransaction, AccountId)> {
    let mut transaction = super::begin(owner, slug).await?;
    let whose = super::gateway::Whose { domain: None, user: Some(user_id.clone()) };
    match super::gateway::scope(&mut transaction, slug, &whose).await? {
        PointerScope::Account(account) => Ok((transaction, account)),
        PointerScope::Organization | PointerScope::Domain(_) => anyhow::bail!("there is no account {user_id}"),
    }
}
