//! Outbound Mail Gateway: the gateway of all users, and who follows it.
//! The same form as for one user stands here for everybody.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route, audit_log,
    console::Console,
    draft::Draft,
    error::PageError,
    form::{Form, Query},
    gateway_form::{self, GatewayField, GatewayForm, GatewayMistake, Pointed},
    held_mail::ShownGroup,
    link::Link,
    page,
    pending_gateway::{ShownPending, Until},
    probe_sender::ProbeSenderCard,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    mail::id::ChangeId,
    policy::{
        routing::{PlatformDefault, SenderGateways},
        waiting::HeldBecause,
    },
    store::{
        self, OrganizationTransaction, change::Subject, domain::ListedDomain, gateway::PointerScope,
        organization::Summary, pending_gateway::Pending, tenant::Access,
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Outbound Mail Gateway";

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// How many mail domains with a gateway of their own are named before the rest are only counted.
const NAMED_DOMAINS: usize = 5;

#[derive(Template)]
#[template(path = "outbound_mail_gateway.html")]
struct OutboundMailGateway {
    console: Console,
    status: Option<StatusLine>,
    /// Held mail, by what it is held for.
    held: Vec<ShownGroup>,
    /// All of it leaves by itself once the pending gateway has passed.
    held_for_pending: bool,
    field: GatewayField,
    summary: Summary,
    route: ShownRoute,
    /// Where mail without a gateway goes as long as it may.
    platform: ShownRoute,
    /// The first few mail domains with a gateway of their own.
    domains: Vec<(String, ShownAddress)>,
    more_domains: usize,
    probe: ProbeSenderCard,
}

impl OutboundMailGateway {
    /// Which gateways may have to pass a verification before they go live, and what that means.
    const BEFORE_LIVE: [(&str, &str, &str); 3] = [
        ("never", "None", "what is saved is live at once"),
        ("replacing", "Those that replace a gateway that works", "the first one is live at once"),
        ("always", "All of them", "where there is no other gateway until then, mail waits"),
    ];

    fn is_chosen(&self, choice: &str) -> bool {
        self.summary.verify_before_live.to_string() == choice
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AfterSave {
    change: Option<String>,
    unchanged: Option<String>,
    /// The change of the choice that mail must leave through a gateway.
    required: Option<String>,
    /// The change of the choice that senders that no account has are refused.
    senders: Option<String>,
    /// The change of whom verifications come from.
    probe: Option<String>,
    /// The change of which gateways have to pass a verification first.
    before_live: Option<String>,
    /// Why what was saved is live at once.
    at_once: Option<String>,
    /// The decision about held mail; `nothing` where there was none.
    decided: Option<String>,
    /// One of the offered gateways, to stand in the field.
    gateway: Option<String>,
    /// The verification whose address is to stand in the field.
    verified: Option<String>,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(after): Query<AfterSave>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, &after).await?;
    look.field = look.field.restored(&draft);
    page(&look)
}

/// This page.
pub fn here(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/outbound-mail-gateway"))
}

/// The page with what the store has.
async fn look(app: &App, inside: &InOrganization, after: &AfterSave) -> Result<OutboundMailGateway, PageError> {
    let organization = inside.access.organization();
    let default = &app.settings.platform_default;
    let mut transaction = app.store.begin(&inside.access).await?;
    let summary = store::organization::summary(&mut transaction, organization).await?;
    let domains = store::domain::list(&mut transaction, organization).await?;
    let held = store::held_mail::groups(&mut transaction, organization).await?;
    let pending =
        store::pending_gateway::list(&mut transaction, organization, Some(&PointerScope::Organization)).await?.pop();
    let status = status(&mut transaction, &inside.access, after, &summary, pending.as_ref(), default).await?;
    let read_only = (!inside.access.role.may_set_organization_gateway())
        .then_some("Only an Administrator may change the gateway of all users. You can see it.");
    let field = GatewayField::of(
        &mut transaction,
        organization,
        summary.pending.as_ref().or(summary.gateway.as_ref()),
        "Host name or IP address of the server that all users' mail leaves through. Leave empty for none.",
        read_only,
        &inside.access.slug,
    )
    .await?
    .offering(&here(&inside.access.slug), after.gateway.as_deref())
    .with_waiting(&mut transaction, organization, &PointerScope::Organization)
    .await?
    .back_from(&mut transaction, organization, after.verified.as_deref())
    .await?
    .with_pending(pending.as_ref().map(|pending| ShownPending::of(pending, &inside.access.slug)));
    drop(transaction);
    let awaits = summary.gateway.is_none() && pending.is_some();
    let domains = with_gateway(&domains);
    Ok(OutboundMailGateway {
        console: Console::new(inside, LABEL),
        status,
        held_for_pending: awaits && held.iter().all(|group| group.held_for.because == HeldBecause::NoGateway),
        held: held.into_iter().map(|group| ShownGroup::of(group, awaits)).collect(),
        field,
        platform: ShownRoute::of(
            SenderGateways { held_until: None, organization: None, ..summary.gateways() },
            default,
        ),
        route: ShownRoute::of(summary.gateways(), default),
        probe: ProbeSenderCard::of(inside, &summary),
        summary,
        more_domains: domains.len().saturating_sub(NAMED_DOMAINS),
        domains: domains.into_iter().take(NAMED_DOMAINS).collect(),
    })
}

/// What was just saved here.
async fn status(
    transaction: &mut OrganizationTransaction,
    access: &Access,
    after: &AfterSave,
    summary: &Summary,
    pending: Option<&Pending>,
    default: &PlatformDefault,
) -> Result<Option<StatusLine>, PageError> {
    let organization = transaction.organization();
    match after.unchanged.as_deref() {
        Some("unknown-senders") => return Ok(Some(status::unchanged_unknown_senders(summary))),
        Some("probe-sender") => return Ok(Some(status::unchanged_probe_sender(summary))),
        Some("must-use") => return Ok(Some(status::unchanged_must_use(summary))),
        Some("before-live") => return Ok(Some(status::unchanged_verify_before_live(summary))),
        Some("pending") if let Some(pending) = pending => return Ok(Some(status::still_pending(pending))),
        Some("decided") => return Ok(Some(status::decided_already())),
        Some(_) => return Ok(Some(status::unchanged_organization(summary))),
        None => {}
    }
    if let Some(decided) = &after.decided {
        return Ok(match decided.parse::<ChangeId>() {
            Ok(change) => store::held_mail::recent(transaction, organization, change)
                .await?
                .map(|chosen| status::of_held_mail(Some(&chosen))),
            Err(_) => Some(status::of_held_mail(None)),
        });
    }
    let change = after.required.as_deref().or(after.senders.as_deref()).or(after.probe.as_deref());
    let change = change.or(after.before_live.as_deref()).or(after.change.as_deref());
    let Some(change) = change.and_then(|change| change.parse::<ChangeId>().ok()) else { return Ok(None) };
    let key = organization.to_string();
    let Some(change) = store::change::recent(transaction, organization, change, Subject::Organization, &key).await?
    else {
        return Ok(None);
    };
    let scope = PointerScope::Organization;
    let (change, passed) = status::as_it_went_on(transaction, &scope, change).await?;
    let progress = store::change::progress(transaction, change.revision).await?;
    let undo = undo::link(&access.slug, change.id);
    let line = match (&after.required, &summary.gateway) {
        (None, _) if after.probe.is_some() => status::of_probe_sender(&change, summary),
        (None, _) if after.before_live.is_some() => status::of_verify_before_live(&change, summary),
        (None, _) if after.senders.is_some() => status::of_unknown_senders(&change, summary, &progress),
        (Some(_), _) => status::of_must_use(&change, summary, default, &progress),
        (None, _) if let Some(line) = status::of_pending(&change, pending, &progress) => line,
        (None, None) if summary.must_use_gateway && change.after.is_none() => {
            status::of_organization_that_must_use_one(&change, summary, &progress)
        }
        (None, _) => {
            let messages = status::taking_new_way(transaction, &scope, &change).await?;
            status::of_organization(&change, summary, default, &progress)
                .because(if passed { Some(status::PASSED) } else { after.at_once.as_deref() })
                .taking(messages)
                .what_left(&access.slug, &scope, &change)
                .leading_to(status::SINCE, audit_log::entry_link(&access.slug, change.id))
        }
    };
    Ok(Some(line.undoable(access.role.may_set_organization_gateway(), undo)))
}

fn with_gateway(domains: &[ListedDomain]) -> Vec<(String, ShownAddress)> {
    let named = |domain: &ListedDomain| Some((domain.name.to_unicode(), domain.gateway.as_ref()?.into()));
    domains.iter().filter_map(named).collect()
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<GatewayForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may change the gateway of all users. Ask one of your organization.",
        ));
    }
    let allowed = gateway_form::allowed_networks(&app, &inside.access).await?;
    match form.parse(&allowed) {
        Ok(address) if form.verify.is_some() => {
            let scope = PointerScope::Organization;
            match gateway_form::verify(&app, &inside.access, &scope, &form, address.as_ref(), |link| link).await? {
                Ok(answer) => Ok(answer),
                Err(mistake) => again(&app, &inside, form, mistake).await,
            }
        }
        Ok(address) => {
            let back = here(&inside.access.slug);
            let scope = PointerScope::Organization;
            match gateway_form::point(&app, &inside.access, &scope, &form, address.as_ref(), back).await? {
                Pointed::Answer(answer) => Ok(answer),
                Pointed::Conflict(conflict) => {
                    let mut look = look(&app, &inside, &AfterSave::default()).await?;
                    look.field = look.field.in_conflict(conflict);
                    Ok((StatusCode::CONFLICT, page(&look)?).into_response())
                }
            }
        }
        Err(mistake) => again(&app, &inside, form, mistake).await,
    }
}

async fn again(
    app: &App,
    inside: &InOrganization,
    form: GatewayForm,
    mistake: GatewayMistake,
) -> Result<Response, PageError> {
    let mut look = look(app, inside, &AfterSave::default()).await?;
    let status = mistake.status();
    look.field = look.field.again(form, mistake);
    Ok((status, page(&look)?).into_response())
}
