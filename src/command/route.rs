//! `outgate route explain`: where a sender's mail goes and why, from the same decision that the
//! relay acts on and in the same words as the page Explain Route.

use clap::Subcommand;
use outgate::{
    mail::Mailbox,
    policy::{
        explanation::{Layer, Leads, Told},
        routing::PlatformDefault,
    },
    store,
};
use sqlx::PgPool;
use time::OffsetDateTime;

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
    let now = OffsetDateTime::now_utc();
    let asked = (sender.as_str(), recipient.as_ref());
    let explained = store::explanation::explain_across_tenants(owner, asked, default, now).await?;
    let explanation = &explained.explanation;
    println!("{}", explanation.sentence(recipient.as_ref(), Told::Operator));
    let state = explained.gateway.iter().flat_map(|(_, state)| state.in_words(now));
    for line in explained.notes.iter().chain(&explained.now).cloned().chain(state) {
        println!("{line}");
    }
    for layer in &explanation.layers {
        println!("  {}", in_words(layer));
    }
    Ok(())
}

/// One layer as a line; the one that decides is marked.
fn in_words(layer: &Layer) -> String {
    let leads = match &layer.leads {
        None => "none".to_owned(),
        Some(Leads::Through(address)) => address.with_port_in_words(),
        Some(leads) => leads.words().unwrap_or_default().to_owned(),
    };
    let decides = if layer.decides { " (applies)" } else { "" };
    format!("{}, {}: {leads}{decides}", layer.scope, layer.whose)
}
