//! Explain Route: for any sender, what is asked about, which gateway applies and why.
//! In the words of `outgate route explain`, from the decision that the relay makes.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    error::PageError,
    form::Query,
    gateway_state::{self, ShownCheck, ShownState},
    page,
    route_steps::verdict,
    session::InOrganization,
    wording::ShownAddress,
};
use crate::{
    mail::{Mailbox, mailbox::MailboxError},
    policy::{
        explanation::{Layer, Leads, Told},
        routing::Scope,
    },
    store::{self, explanation::Explained},
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Explain Route";

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/explain-route", show)]
}

#[derive(Template)]
#[template(path = "explain_route.html")]
struct ExplainRoute {
    console: Console,
    sender: Field,
    recipient: Field,
    answer: Option<Answer>,
}

/// A field with what was typed and what is wrong with it.
struct Field {
    typed: String,
    mistake: Option<MailboxError>,
}

struct Answer {
    sentence: String,
    /// Mail of this sender does not leave.
    is_refused: bool,
    /// What would become of a message now.
    now: Vec<String>,
    notes: Vec<String>,
    /// What is said of the layer that decides.
    verdict: &'static str,
    /// What the gateway's mail and its last check say.
    facts: Option<(ShownState, ShownCheck)>,
    layers: Vec<ShownLayer>,
}

struct ShownLayer {
    scope: &'static str,
    whose: String,
    address: Option<ShownAddress>,
    /// Where it leads if not to an address.
    words: &'static str,
    decides: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    sender: String,
    recipient: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(asked): Query<Asked>,
) -> Result<Response, PageError> {
    let is_asked = !asked.sender.trim().is_empty() || !asked.recipient.trim().is_empty();
    let sender = asked.sender.parse::<Mailbox>();
    let recipient = match asked.recipient.trim() {
        "" => Ok(None),
        typed => typed.parse::<Mailbox>().map(Some),
    };
    let answer = match (&sender, &recipient) {
        (Ok(_), Ok(recipient)) => {
            let (typed, organization) = (asked.sender.trim(), inside.access.organization());
            let mut transaction = app.store.begin(&inside.access).await?;
            let (default, now) = (&app.settings.platform_default, OffsetDateTime::now_utc());
            let about = (typed, recipient.as_ref());
            let explained = store::explanation::explain(&mut transaction, organization, about, default, now).await?;
            let facts = match explained.gateway {
                Some((gateway, _)) => {
                    Some(gateway_state::of(&mut transaction, organization, gateway, &inside.access.slug).await?)
                }
                None => None,
            };
            drop(transaction);
            Some(Answer { facts, ..answer(explained, recipient.as_ref()) })
        }
        _ => None,
    };
    let status = if is_asked && answer.is_none() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let page = page(&ExplainRoute {
        console: Console::new(&inside, LABEL),
        sender: Field { typed: asked.sender, mistake: sender.err().filter(|_| is_asked) },
        recipient: Field { typed: asked.recipient, mistake: recipient.err() },
        answer,
    })?;
    Ok((status, page).into_response())
}

fn answer(explained: Explained, recipient: Option<&Mailbox>) -> Answer {
    let Explained { explanation, now, notes, .. } = explained;
    Answer {
        sentence: explanation.sentence(recipient, Told::Administrator),
        is_refused: !explanation.leaves(),
        now,
        notes,
        verdict: verdict(explanation.is_taken()),
        facts: None,
        layers: explanation.layers.iter().map(shown).collect(),
    }
}

fn shown(layer: &Layer) -> ShownLayer {
    let (address, words) = match &layer.leads {
        None => (None, "none"),
        Some(Leads::Through(address)) => (Some(address.into()), ""),
        Some(leads) => (None, leads.words().unwrap_or_default()),
    };
    let scope = match layer.scope {
        Scope::User => "User",
        Scope::Domain => "Domain",
        Scope::Organization => "Organization",
        Scope::Platform => "Platform",
    };
    ShownLayer { scope, whose: layer.whose.clone(), address, words, decides: layer.decides }
}
