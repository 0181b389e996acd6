//! The status line after a save: what now happens, and where it is live.

use std::time::Duration;

use super::{
    App,
    error::PageError,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    mail::{GatewayAddress, id::Revision},
    policy::routing::{PlatformDefault, Scope},
    store::{
        self,
        change::{Progress, RecentChange},
        organization::Summary,
        tenant::Access,
    },
};

/// How long a save waits for the relays before the page says how far they are.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// A piece of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Words(String),
    /// Something that a tenant named, set apart so that its direction does not turn the sentence around.
    Name(String),
}

/// One line above the page.
#[derive(Debug, Clone)]
pub struct StatusLine {
    /// Its first words, in bold.
    pub lead: &'static str,
    pub parts: Vec<Part>,
    /// Whether something is still to come or missing.
    pub is_warning: bool,
}

impl StatusLine {
    fn new(lead: &'static str, words: impl Into<String>) -> Self {
        Self { lead, parts: vec![Part::Words(words.into())], is_warning: false }
    }

    /// Begins with something that a tenant named.
    fn about(lead: &'static str, before: &str, name: &str, after: impl Into<String>) -> Self {
        let parts = vec![Part::Words(before.to_owned()), Part::Name(name.to_owned()), Part::Words(after.into())];
        Self { lead, parts, is_warning: false }
    }

    fn live(mut self, progress: &Progress) -> Self {
        self.is_warning = progress.relays == 0 || progress.confirmed < progress.relays;
        self.parts.push(Part::Words(format!(" {}", live(progress))));
        self
    }
}

/// Waits until every relay routes by the change, but not long, and not for one that has vanished.
pub async fn wait_until_live(app: &App, access: &Access, revision: Revision) -> Result<(), PageError> {
    let settled = async {
        loop {
            // A transaction of its own each time: none is held while waiting.
            let mut transaction = app.store.begin(access).await?;
            if store::change::progress(&mut transaction, revision).await?.is_settled() {
                return Ok(());
            }
            drop(transaction);
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.unwrap_or(Ok(()))
}

/// `Live on 2 of 2 relays.`, and what there is to know about those that are missing.
fn live(progress: &Progress) -> String {
    if progress.relays == 0 {
        return "No relay is running: it applies as soon as one starts.".to_owned();
    }
    let mut sentence = format!("Live on {} of {} relays.", progress.confirmed, progress.relays);
    for relay in &progress.silent {
        let since = wording::moment(relay.last_seen_at);
        sentence.push_str(&format!(" {} has not been heard from since {since}.", relay.name));
    }
    if !progress.is_settled() {
        sentence.push_str(" The rest follow within seconds: load this page again to see.");
    }
    sentence
}

/// After a change of the gateway of all users.
pub fn of_organization(
    change: &RecentChange,
    summary: &Summary,
    default: &PlatformDefault,
    progress: &Progress,
) -> StatusLine {
    if let Some(superseded) = superseded(change, summary.gateway.as_ref()) {
        return superseded;
    }
    let count = summary.following;
    let line = match &summary.gateway {
        Some(gateway) => StatusLine::new("Saved.", now_through(count, summary.accounts, gateway)),
        None if count == 0 => {
            let words = format!("Accounts without another gateway send {}.", by_default(default));
            StatusLine::new("No gateway.", words)
        }
        None => StatusLine::new("No gateway.", format!("{} {}.", now_send(count), by_default(default))),
    };
    line.live(progress)
}

/// A save that set what was set already.
pub fn unchanged_organization(summary: &Summary) -> StatusLine {
    match &summary.gateway {
        Some(gateway) => {
            StatusLine::new("Nothing changed.", format!("The gateway is {} already.", gateway.with_port_in_words()))
        }
        None => StatusLine::new("Nothing changed.", "There is no gateway to delete."),
    }
}

/// After a change of one user's gateway. `own` is the user's gateway now, `route` what now applies.
pub fn of_account(
    change: &RecentChange,
    user_id: &str,
    own: Option<&GatewayAddress>,
    route: &ShownRoute,
    progress: &Progress,
) -> StatusLine {
    if let Some(superseded) = superseded(change, own) {
        return superseded;
    }
    let line = match own {
        Some(gateway) => {
            let now = format!(" now leaves through {}.", gateway.with_port_in_words());
            StatusLine::about("Saved.", "Mail from ", user_id, now)
        }
        None => {
            let now = format!(" has no gateway of its own any more and {}.", follows(route));
            StatusLine::about("Saved.", "", user_id, now)
        }
    };
    line.live(progress)
}

/// A save of one user's gateway that set what was set already.
pub fn unchanged_account(user_id: &str, own: Option<&GatewayAddress>) -> StatusLine {
    match own {
        Some(gateway) => {
            let already = format!(" leaves through {} already.", gateway.with_port_in_words());
            StatusLine::about("Nothing changed.", "Mail from ", user_id, already)
        }
        None => StatusLine::about("Nothing changed.", "", user_id, " has no gateway of its own to delete."),
    }
}

/// Somebody has changed it again since: the page below is right, the sentence would not be.
fn superseded(change: &RecentChange, now: Option<&GatewayAddress>) -> Option<StatusLine> {
    (change.after != now.map(ToString::to_string))
        .then(|| StatusLine::new("Saved.", "It was changed again since: this page shows what applies now."))
}

fn now_send(count: i64) -> String {
    format!("{} now {}", wording::counted(count, "account", "accounts"), if count == 1 { "sends" } else { "send" })
}

fn now_through(following: i64, accounts: i64, gateway: &GatewayAddress) -> String {
    let gateway = gateway.with_port_in_words();
    match (following, accounts) {
        (0, 0) => format!("There are no accounts yet: those that are added will send through {gateway}."),
        (0, _) => format!("No account sends through {gateway} now: each has a nearer gateway or is suspended."),
        _ => format!("{} through {gateway}.", now_send(following)),
    }
}

fn by_default(default: &PlatformDefault) -> String {
    match default {
        PlatformDefault::Mx => "directly to recipients' servers".to_owned(),
        PlatformDefault::Smarthost(address) => {
            format!("through the platform's server {}", address.with_port_in_words())
        }
    }
}

fn follows(route: &ShownRoute) -> String {
    match (route.set_by, &route.address) {
        (_, None) => "sends directly to recipients' servers".to_owned(),
        (Scope::Platform, Some(address)) => format!("sends through the platform's server {}", in_words(address)),
        (scope, Some(address)) => format!("follows the {scope}'s gateway {}", in_words(address)),
    }
}

fn in_words(address: &ShownAddress) -> String {
    format!("{} port {}", address.host, address.port)
}
