//! `outgate route explain`: where a sender's mail goes and why, from the same decision that the
//! relay acts on.

use clap::Subcommand;
use outgate::{
    mail::Mailbox,
    policy::{
        facts::Decision,
        routing::{NextHop, PlatformDefault, Scope},
    },
    store,
};
use sqlx::PgPool;

#[derive(Debug, Subcommand)]
pub enum Route {
    /// Say which gateway a sender's mail takes, and why
    Explain {
        /// The address in MAIL FROM
        sender: String,
        /// The address in RCPT TO; it makes no difference to which gateway is taken
        recipient: Option<Mailbox>,
    },
}

pub async fn run(command: Route, owner: &PgPool, default: &PlatformDefault) -> anyhow::Result<()> {
    let Route::Explain { sender, recipient } = command;
    if sender.parse::<Mailbox>().is_err() {
        anyhow::bail!("“{sender}” is not a mail address");
    }
    let facts = store::routing_facts::for_sender_across_tenants(owner, &sender).await?;
    println!("{}", in_words(&sender, recipient.as_ref(), facts.decide(&sender, default)));
    Ok(())
}

/// A decision for a person: what becomes of the mail comes first, then why.
pub fn in_words(sender: &str, recipient: Option<&Mailbox>, decision: Decision) -> String {
    match decision {
        Decision::UnknownDomain => format!("Mail from {sender} is refused: no organization has this domain."),
        Decision::OrganizationSuspended => format!("Mail from {sender} is refused: the organization is suspended."),
        Decision::AccountSuspended => format!("Mail from {sender} is refused: the account is suspended."),
        Decision::Route(found) => {
            let whose = match found.route.set_by {
                Scope::User => format!("the own gateway of {}", found.sender),
                Scope::Domain => format!("the gateway of the mail domain {}", found.sender.domain().to_unicode()),
                Scope::Organization => "the organization's gateway for all users".to_owned(),
                Scope::Platform => "the platform's default, since no gateway is set".to_owned(),
            };
            let next_hop = match (found.route.next_hop, recipient) {
                (NextHop::Gateway(gateway), _) => {
                    format!("through {} (revision {})", gateway.address.with_port_in_words(), gateway.revision)
                }
                (NextHop::Platform(PlatformDefault::Smarthost(address)), _) => {
                    format!("through {}", address.with_port_in_words())
                }
                (NextHop::Platform(PlatformDefault::Mx), Some(recipient)) => {
                    format!("directly to the servers of {}", recipient.domain().to_unicode())
                }
                (NextHop::Platform(PlatformDefault::Mx), None) => "directly to the recipients' servers".to_owned(),
            };
            let unknown =
                if found.account.is_none() { " No account has this address; it follows its domain." } else { "" };
            format!("Mail from {sender} leaves {next_hop}: {whose}.{unknown}")
        }
    }
}
