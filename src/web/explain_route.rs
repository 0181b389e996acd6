//! Explain Route: for any sender, what is asked about, which gateway applies and why.
//! In the words of `outgate route explain`, from the decision that the relay makes.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    error::PageError,
    form::Query,
    gateway_state::{self, ShownCheck, ShownState},
    page,
    route_steps::verdict,
    session::InOrganization,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{Mailbox, mailbox::MailboxError},
    policy::{
        distribution_list::Permitted,
        explanation::{Explanation, Layer, Leads, Told},
        facts::{Decision, RoutingFacts},
        routing::{NextHop, Scope},
        sender::candidates,
    },
    store,
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
            let typed = asked.sender.trim();
            let mut transaction = app.store.begin(&inside.access).await?;
            let organization = inside.access.organization();
            let mut facts = store::routing_facts::for_sender(&mut transaction, organization, typed).await?;
            if let Some(recipient) = recipient {
                let spellings = candidates(&recipient.to_string()).iter().map(ToString::to_string).collect::<Vec<_>>();
                store::routing_facts::load_lists_reached_from(&mut transaction, organization, &spellings, &mut facts)
                    .await?;
            }
            let of_list = recipient.as_ref().and_then(|recipient| of_list(&facts, typed, recipient));
            let explanation = facts.explain(typed, &app.settings.platform_default);
            let gateway = match (explanation.leaves(), &explanation.decision) {
                (true, Decision::Route(found)) => match &found.route.next_hop {
                    NextHop::Gateway(gateway) => Some(gateway),
                    NextHop::Platform(_) | NextHop::Nowhere => None,
                },
                _ => None,
            };
            let pending = store::pending_gateway::notes(&mut transaction, &explanation).await?;
            let slug = &inside.access.slug;
            let facts = match gateway {
                Some(gateway) => gateway_state::facts(&mut transaction, organization, &gateway.address, slug).await?,
                None => None,
            };
            drop(transaction);
            let mut answer = answer(&explanation, recipient.as_ref());
            answer.notes.extend(pending);
            answer.notes.extend(of_list.filter(|_| explanation.is_taken()));
            Some(Answer { facts, ..answer })
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

/// What becomes of a message to a distribution list.
fn of_list(facts: &RoutingFacts, sender: &str, recipient: &Mailbox) -> Option<String> {
    let list = wording::user_id(recipient);
    Some(match facts.ask_list((sender, false), &recipient.to_string())? {
        Ok(Permitted { members, to_approve }) => {
            let becomes = match members {
                Some(members) => {
                    let members = wording::counted(members.len() as i64, "recipient", "recipients");
                    format!("{list} is a distribution list: a message to it goes to {members} in its place")
                }
                None => {
                    format!("{list} is a distribution list that takes mail of this sender and is expanded elsewhere")
                }
            };
            match to_approve {
                Some(_) => format!("{becomes}, once an administrator has approved it."),
                None => format!("{becomes}."),
            }
        }
        Err(refusal) => format!("But a message to {list} is refused: {refusal}."),
    })
}

fn answer(explanation: &Explanation, recipient: Option<&Mailbox>) -> Answer {
    Answer {
        sentence: explanation.sentence(recipient, Told::Administrator),
        is_refused: !explanation.leaves(),
        notes: explanation.notes(recipient),
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
