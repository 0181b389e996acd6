//! Held mail on Outbound Mail Gateway: how much, since when, what it is held for, and what is to become of it.
//! Asking beforehand, when a gateway is emptied, is `waiting_mail`'s.

use axum::{extract::State, response::Response};
use serde::Deserialize;

use super::{
    App, Route,
    error::{PageError, see_other},
    form::Form,
    outbound_mail_gateway,
    session::InOrganization,
    wording::{self, ShownAddress},
};
use crate::{
    mail::DomainName,
    policy::{
        routing::Scope,
        waiting::{Choice, HeldBecause},
    },
    store::{
        self,
        held_mail::{HeldFor, HeldGroup},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway/held-mail";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// Held mail that is decided about together, ready to be shown.
#[derive(Debug)]
pub struct ShownGroup {
    pub messages: i64,
    /// Why it is held, in words that go on with the address.
    pub why: &'static str,
    pub address: Option<ShownAddress>,
    /// Mail domains whose mail leaves by itself when their new gateway has passed, where that is not said of all.
    pub awaiting_domains: Option<String>,
    pub since: String,
    pub until: String,
    /// Some senders, and how many there are besides.
    pub senders: Vec<String>,
    pub more_senders: i64,
    /// The group, as the form names it.
    pub because: String,
    pub waits_by: String,
    pub waits_for: String,
    /// Whether sending it is a choice at all.
    pub can_be_sent: bool,
}

impl ShownGroup {
    /// `awaits`: the gateway of all users has not passed its verification yet, and there is no other.
    pub fn of(group: HeldGroup, awaits: bool) -> Self {
        let HeldFor { because, waits_by, waits_for } = group.held_for;
        let named = i64::try_from(group.first_senders.len()).unwrap_or(i64::MAX);
        Self {
            messages: group.messages,
            why: match (because, waits_by) {
                (HeldBecause::GatewayTakenAway, Some(Scope::User)) => "The sender's own gateway was taken away:",
                (HeldBecause::GatewayTakenAway, Some(Scope::Domain)) => "The mail domain's gateway was taken away:",
                (HeldBecause::GatewayTakenAway, _) => "The gateway of all users was taken away:",
                (HeldBecause::NoGateway, _) if awaits => {
                    "The gateway of all users has not passed its verification yet. Then the mail leaves by itself."
                }
                (HeldBecause::NoGateway, _) => "Mail must leave through a gateway, and the sender has none.",
                (HeldBecause::AccountSuspended, _) => "The sender's account is suspended.",
                (HeldBecause::AccountRemoved, _) => "The sender's account or address was removed.",
                (HeldBecause::DomainRemoved, _) => "The sender's mail domain was removed.",
                (HeldBecause::OrganizationSuspended, _) => "The organization was suspended.",
                (HeldBecause::OverLimit, _) => "The sender has sent more than a limit allows.",
                (HeldBecause::SenderBlocked, _) => "The sender is blocked.",
                (HeldBecause::NeedsApproval, _) => {
                    "It needs approval, as it goes to many or to a distribution list; after two days it returns."
                }
            },
            awaiting_domains: awaiting(&group.awaiting_domains)
                .filter(|_| because == HeldBecause::NoGateway && !awaits),
            address: group.address.as_ref().filter(|_| because == HeldBecause::GatewayTakenAway).map(Into::into),
            since: wording::moment(group.since),
            until: wording::moment(group.until),
            more_senders: group.senders - named,
            senders: group.first_senders,
            because: because.to_string(),
            waits_by: waits_by.map(|scope| scope.to_string()).unwrap_or_default(),
            waits_for: waits_for.map(|gateway| gateway.to_string()).unwrap_or_default(),
            can_be_sent: because != HeldBecause::NoGateway,
        }
    }
}

/// The names, as a list in a sentence; `None` without any.
fn awaiting(domains: &[DomainName]) -> Option<String> {
    let names: Vec<String> = domains.iter().map(DomainName::to_unicode).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldForm {
    held_because: String,
    waits_by: String,
    waits_for: String,
    /// `keep`, `send` or `return`.
    waiting: String,
}

impl HeldForm {
    /// What no form of ours sends is refused.
    fn parse(&self) -> Result<(HeldFor, Option<Choice>), PageError> {
        let malformed = |what: &str| PageError::Malformed(format!("{what} is not known here"));
        let held_for = HeldFor {
            because: self.held_because.parse().map_err(|_| malformed("held_because"))?,
            waits_by: parsed(&self.waits_by).map_err(|()| malformed("waits_by"))?,
            waits_for: parsed(&self.waits_for).map_err(|()| malformed("waits_for"))?,
        };
        Ok((held_for, choice(&self.waiting)?))
    }
}

/// An empty field is none.
fn parsed<T: std::str::FromStr>(typed: &str) -> Result<Option<T>, ()> {
    if typed.is_empty() { Ok(None) } else { typed.parse().map(Some).map_err(|_| ()) }
}

/// What becomes of mail, as a form says it; `None`: it goes on waiting.
pub fn choice(typed: &str) -> Result<Option<Choice>, PageError> {
    match typed {
        "keep" => Ok(None),
        "send" => Ok(Some(Choice::Send)),
        "return" => Ok(Some(Choice::Return)),
        _ => Err(PageError::Malformed("waiting is not known here".to_owned())),
    }
}

/// The form stands on another page.
async fn show(inside: InOrganization) -> Response {
    see_other(&outbound_mail_gateway::here(&inside.access.slug).build())
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<HeldForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may decide about held mail. Ask one of your organization.",
        ));
    }
    let (held_for, choice) = form.parse()?;
    let transaction = app.store.begin(&inside.access).await?;
    let chosen = match choice {
        Some(choice) => store::held_mail::choose(transaction, held_for, choice, &inside.access.email).await?,
        None => None,
    };
    let back = outbound_mail_gateway::here(&inside.access.slug);
    Ok(see_other(&match chosen {
        Some((_, change)) => back.with("decided", &change.id.to_string()).build(),
        None => back.with("decided", "nothing").build(),
    }))
}
