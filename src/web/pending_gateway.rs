//! A gateway that was saved and goes live when it has passed its verification: how that goes, and the buttons *Use it
//! anyway* and *Give it up*. Shown by the Outbound Gateway form of all users and of a mail domain.

use axum::{extract::State, response::Response};
use serde::Deserialize;

use super::{
    App, Route, domain_manager,
    error::{PageError, see_other},
    form::Form,
    gateway,
    link::Link,
    outbound_mail_gateway,
    session::InOrganization,
    status, verification,
    wording::{self, ShownAddress},
};
use crate::{
    mail::id::{GatewayId, VerificationId},
    policy::verification as found,
    store::{
        self,
        gateway::{PointerScope, Set},
        pending_gateway::{Check, Pending},
        verification::Verification,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/pending-gateway";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// What the form calls all users. No mail domain is called so.
const ALL: &str = "all";

/// A pending gateway as the form that it was saved by shows it.
#[derive(Debug)]
pub struct ShownPending {
    pub address: ShownAddress,
    /// Whose it is to be, and which it is, as the form names them.
    pub of: String,
    pub gateway: String,
    pub is_under_way: bool,
    /// How its verification goes.
    pub words: &'static str,
    /// What to do, at the step that failed first.
    pub advice: Option<(&'static str, String)>,
    /// What becomes of mail until it is live.
    pub until: Until,
    /// Who saved it, and when.
    pub saved: String,
    /// The page of what was found.
    pub page: Option<String>,
    /// Where it is verified again.
    pub verify: String,
    /// Where the buttons send the form.
    pub action: String,
}

/// What becomes of mail until a pending gateway is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    Through(ShownAddress),
    /// By a wider scope, or by the platform's default.
    AsNow,
    /// There is nothing that it may leave through.
    Waits,
}

impl Until {
    pub fn of(pending: &Pending) -> Self {
        match (&pending.instead_of, &pending.scope) {
            (Some(address), _) => Self::Through(address.into()),
            (None, PointerScope::Organization) => Self::Waits,
            (None, _) => Self::AsNow,
        }
    }
}

/// How the verification of a pending gateway goes, in the middle of a sentence that its address begins.
pub fn in_brief(pending: &Pending) -> &'static str {
    match pending.check() {
        Check::UnderWay | Check::Passed => "is being checked",
        Check::Refused => "has not passed its check",
        Check::NotAnswered => "was not checked by every relay",
    }
}

impl ShownPending {
    pub fn of(pending: &Pending, slug: &str) -> Self {
        let check = pending.check();
        let by = pending.saved_by.as_deref().unwrap_or("somebody");
        Self {
            address: (&pending.address).into(),
            of: match &pending.scope {
                PointerScope::Domain(name) => name.to_string(),
                PointerScope::Organization | PointerScope::Account(_) => ALL.to_owned(),
            },
            gateway: pending.gateway.to_string(),
            is_under_way: matches!(check, Check::UnderWay | Check::Passed),
            words: in_words(check, pending.verification.as_ref()),
            advice: advice(pending.verification.as_ref()),
            until: Until::of(pending),
            saved: format!("Saved {} by {by}.", wording::moment(pending.since)),
            page: pending.verification.as_ref().map(|(id, _)| verification::link(slug, *id).build()),
            verify: format!("{}/verify", gateway::link(slug, pending.gateway).build()),
            action: Link::to(format!("/{slug}/web-mail-cloud/pending-gateway")).build(),
        }
    }
}

/// How the verification of what is pending goes, in a sentence.
pub fn in_words(check: Check, verification: Option<&(VerificationId, Verification)>) -> &'static str {
    let no_answer = verification.is_some_and(|(_, found)| found.answers.is_empty());
    match check {
        Check::UnderWay | Check::Passed => "It is being checked.",
        Check::Refused => "It has not passed its check: it does not accept our mail yet.",
        Check::NotAnswered if no_answer => "No relay has answered. Ask the operator whether one runs.",
        Check::NotAnswered => "Not every relay has answered.",
    }
}

/// What to do at the step that failed first.
pub fn advice(verification: Option<&(VerificationId, Verification)>) -> Option<(&'static str, String)> {
    let (_, verification) = verification?;
    let (step, advice) = found::failed(verification.answers.iter().flat_map(|answer| &answer.steps))?;
    Some((step, advice.to_owned()))
}

/// The buttons stand on other pages.
async fn show(inside: InOrganization) -> Response {
    see_other(&outbound_mail_gateway::here(&inside.access.slug).build())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PendingForm {
    /// `all`, or a mail domain.
    of: String,
    /// Which one: another that is pending there by now is left alone.
    gateway: GatewayId,
    /// `use` or `give-up`.
    action: String,
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<PendingForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may decide about this gateway. Ask one of your organization.",
        ));
    }
    let slug = &inside.access.slug;
    let (scope, back) = match form.of.as_str() {
        ALL => (PointerScope::Organization, outbound_mail_gateway::here(slug)),
        of => {
            let domain = of.parse().map_err(|_| PageError::NotFound)?;
            let row = domain_manager::link_to_row(slug, &domain);
            (PointerScope::Domain(domain), row)
        }
    };
    let transaction = app.store.begin(&inside.access).await?;
    let (gateway, actor) = (form.gateway, &inside.access.email);
    let set = match form.action.as_str() {
        "use" => store::pending_gateway::use_anyway(transaction, &scope, gateway, actor).await?,
        "give-up" => store::pending_gateway::give_up(transaction, &scope, gateway, actor).await?,
        _ => return Err(PageError::Malformed("action is not known here".to_owned())),
    };
    match set {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(see_other(&back.with("unchanged", "decided").build())),
        Set::Changed(committed) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            Ok(see_other(&back.with("change", &committed.id.to_string()).build()))
        }
    }
}
