//! A change of a gateway's record that goes live when the gateway has passed its verification: how that goes, and the
//! buttons *Check again*, *Use it anyway* and *Give it up*. Shown by the gateway's page.

use axum::{extract::State, response::Response};
use serde::Deserialize;

use super::{
    App, Route,
    error::{PageError, see_other},
    form::Form,
    gateway,
    named::Named,
    pending_gateway::{advice, in_words},
    session::InOrganization,
    status, verification,
    wording::{self, ShownAddress},
};
use crate::{
    mail::id::GatewayId,
    store::{
        self,
        gateway::Set,
        pending_gateway::Check,
        pending_record::PendingRecord,
        verification::{Asked, Wanted},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/gateways/{gateway}/pending-record";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, gateway::lead_here), Route::post(PATH, decide)]
}

/// The change as the gateway's page shows it.
#[derive(Debug)]
pub struct ShownPendingRecord {
    pub revision: i64,
    pub is_under_way: bool,
    /// How its verification goes.
    pub words: &'static str,
    /// What to do, at the step that failed first.
    pub advice: Option<(&'static str, String)>,
    /// Where mail keeps leaving through, if that is another server.
    pub live: Option<ShownAddress>,
    pub live_revision: String,
    /// Who saved it, and when.
    pub saved: String,
    /// The page of what was found.
    pub page: Option<String>,
    /// Where the buttons send the form.
    pub action: String,
}

impl ShownPendingRecord {
    pub fn of(pending: &PendingRecord, slug: &str) -> Self {
        let verification = pending.verification.as_ref();
        Self {
            revision: pending.revision,
            is_under_way: matches!(pending.check(), Check::UnderWay | Check::Passed),
            words: in_words(pending.check(), verification),
            advice: advice(verification),
            live: (pending.live != pending.address).then(|| (&pending.live).into()),
            live_revision: wording::number(pending.live_revision),
            saved: format!("Saved {} by {}.", wording::moment(pending.since), pending.saved_by),
            page: verification.map(|(id, _)| verification::link(slug, *id).build()),
            action: format!("{}/pending-record", gateway::link(slug, pending.gateway).build()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionForm {
    /// Which change: another one that is pending by now is left alone.
    revision: i64,
    /// `verify`, `use` or `give-up`.
    action: String,
}

async fn decide(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<GatewayId>,
    Form(form): Form<DecisionForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may decide about this change. Ask one of your organization.",
        ));
    }
    let back = gateway::link(&inside.access.slug, id);
    let actor = &inside.access.email;
    if form.action == "verify" {
        ask(&app, &inside, id).await?;
        return Ok(see_other(&back.build()));
    }
    let transaction = app.store.begin(&inside.access).await?;
    let set = match form.action.as_str() {
        "use" => store::pending_record::use_anyway(transaction, id, form.revision, actor).await?,
        "give-up" => store::pending_record::give_up(transaction, id, form.revision, actor).await?,
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

/// Has what is pending there verified once more; what is not pending any more needs nothing.
async fn ask(app: &App, inside: &InOrganization, id: GatewayId) -> Result<(), PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let Some(pending) = store::pending_record::list(&mut transaction, organization, Some(id)).await?.pop() else {
        return Ok(());
    };
    let by = &inside.access.email;
    let wanted = Wanted { is_pending: true, ..Wanted::of(Some(id), &pending.address, by) };
    // Where several are under way, it is asked by the next look.
    if let Asked::Asked(_) = store::verification::ask(&mut transaction, organization, &wanted).await? {
        transaction.commit().await?;
        app.going_live.ring();
    }
    Ok(())
}
