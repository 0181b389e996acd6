//! Inbound Host of one mail domain: where mail to the domain itself is delivered, first of all the notifications
//! to its senders. A card on the domain's page, and a page of its own for what was mistyped.

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
    domain_manager::{self, link_to_row},
    domain_outbound_gateway::OfDomain,
    draft::Draft,
    error::{PageError, see_other},
    form::Form,
    gateway_form::{self, GatewayForm},
    link::Link,
    page,
    session::InOrganization,
    status,
    text_field::{self, TextField},
    wording::ShownAddress,
};
use crate::{
    mail::{DomainName, GatewayAddress},
    policy::routing::PlatformDefault,
    store::{
        self,
        domain::{DomainOverview, InboundHostMeanwhile},
        gateway::Set,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/domain-manager/{domain}/inbound-host";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// The form as it is shown, here and on the domain's page.
#[derive(Debug)]
pub struct InboundHostCard {
    /// The domain for people.
    pub name: String,
    pub entry: TextField,
    /// The address that it is shown with, empty for none.
    pub seen: String,
    /// Where it is sent to.
    pub action: String,
    /// The list of domains.
    pub list: String,
    pub may_save: bool,
    pub now: Option<ShownAddress>,
    /// The platform's server, by which mail goes without an inbound host; `None`: where the MX records say.
    pub by_default: Option<ShownAddress>,
}

impl InboundHostCard {
    pub fn of(app: &App, inside: &InOrganization, domain: &DomainOverview) -> Self {
        let slug = &inside.access.slug;
        let seen = domain.inbound_host.as_ref().map(ToString::to_string).unwrap_or_default();
        Self {
            name: domain.name.to_unicode(),
            entry: TextField {
                id: "inbound_host",
                label: "Inbound Host",
                hint: "Host name or IP address, with a port if it is not 25. Leave empty to use the domain's MX records.",
                direction: "ltr",
                typed: seen.clone(),
                ..TextField::default()
            },
            seen,
            action: Link::to(format!("/{slug}/web-mail-cloud/domain-manager/{}/inbound-host", domain.name)).build(),
            list: link_to_row(slug, &domain.name).build(),
            may_save: inside.access.role.may_set_organization_gateway(),
            now: domain.inbound_host.as_ref().map(ShownAddress::from),
            by_default: match &app.settings.platform_default {
                PlatformDefault::Mx => None,
                PlatformDefault::Smarthost(address) => Some(address.into()),
            },
        }
    }

    /// With what was typed, and what somebody else has set meanwhile.
    fn in_conflict(mut self, typed: String, theirs: &InboundHostMeanwhile) -> Self {
        let by = theirs.by.as_ref().map_or("Somebody else", |by| by.actor.as_str());
        self.entry.again(typed, format!("{by} has changed it meanwhile. Save again to put yours in its place."));
        self.entry.theirs = Some(theirs.host.as_ref().map(ToString::to_string).unwrap_or_default());
        self
    }
}

#[derive(Template)]
#[template(path = "inbound_host.html")]
struct InboundHostPage {
    console: Console,
    inbound: InboundHostCard,
    mistakes: Vec<(&'static str, String)>,
    is_draft: bool,
}

/// What is sent. Nothing else is accepted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InboundHostForm {
    inbound_host: String,
    seen: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    OfDomain(domain): OfDomain,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut inbound = card(&app, &inside, &domain).await?;
    let now = inbound.seen.clone();
    let is_draft = inbound.entry.restore(&draft, draft.field("seen"), &now);
    page(&InboundHostPage {
        console: Console::new(&inside, domain_manager::LABEL),
        inbound,
        mistakes: vec![],
        is_draft,
    })
}

async fn card(app: &App, inside: &InOrganization, domain: &DomainName) -> Result<InboundHostCard, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::domain::overview(&mut transaction, organization, Some(domain)).await?.pop();
    let domain = found.ok_or(PageError::NotFound)?;
    Ok(InboundHostCard::of(app, inside, &domain))
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    OfDomain(domain): OfDomain,
    Form(form): Form<InboundHostForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may change the inbound host of a mail domain. Ask one of your organization.",
        ));
    }
    // What may be connected to for a gateway may be for an inbound host.
    let typed = GatewayForm { outbound_gateway: form.inbound_host.clone(), seen: None, verify: None };
    let allowed = gateway_form::allowed_networks(&app, &inside.access).await?;
    match typed.parse(&allowed) {
        Ok(host) => save_parsed(&app, &inside, &domain, form, host.as_ref()).await,
        Err(mistake) => {
            let mut inbound = card(&app, &inside, &domain).await?;
            inbound.entry.again(form.inbound_host, mistake.to_string());
            again(&inside, inbound, StatusCode::UNPROCESSABLE_ENTITY)
        }
    }
}

async fn save_parsed(
    app: &App,
    inside: &InOrganization,
    domain: &DomainName,
    form: InboundHostForm,
    host: Option<&GatewayAddress>,
) -> Result<Response, PageError> {
    let access = &inside.access;
    let mut transaction = app.store.begin(access).await?;
    let (seen, actor) = (form.seen.trim(), &access.email);
    let theirs = store::domain::inbound_host_changed_meanwhile(&mut transaction, domain, seen, host, actor).await?;
    if let Some(theirs) = theirs {
        drop(transaction);
        let inbound = card(app, inside, domain).await?.in_conflict(form.inbound_host, &theirs);
        return again(inside, inbound, StatusCode::CONFLICT);
    }
    let back = link_to_row(&access.slug, domain);
    match store::domain::set_inbound_host(transaction, domain, host, actor).await? {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(see_other(&back.with("unchanged", "inbound-host").build())),
        Set::Changed(committed) => {
            status::wait_until_live(app, access, committed.revision).await;
            Ok(see_other(&back.with("inbound", &committed.id.to_string()).build()))
        }
    }
}

fn again(inside: &InOrganization, inbound: InboundHostCard, status: StatusCode) -> Result<Response, PageError> {
    let look = InboundHostPage {
        console: Console::new(inside, domain_manager::LABEL),
        mistakes: text_field::mistakes(&[&inbound.entry]),
        inbound,
        is_draft: false,
    };
    Ok((status, page(&look)?).into_response())
}
