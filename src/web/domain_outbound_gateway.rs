//! Outbound Gateway of one mail domain: the same form, and what applies without it.
//! Opened from the Action column of `domain_manager`.

use askama::Template;
use axum::{
    extract::{FromRequestParts, RawPathParams, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    domain_manager::{self, link_to_form, link_to_row},
    draft::Draft,
    error::PageError,
    form::{Form, Query},
    gateway_form::{self, GatewayField, GatewayForm, GatewayMistake, Pointed},
    inbound_host::InboundHostCard,
    limits, page,
    pending_gateway::{ShownPending, Until},
    session::InOrganization,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    mail::DomainName,
    policy::{limit::SetAt, routing::SenderGateways},
    store::{self, gateway::PointerScope},
};

const PATH: &str = "/{organization}/web-mail-cloud/domain-manager/{domain}/outbound-gateway";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// The mail domain that the path names in ASCII. One that cannot be is not found, like one that is not there.
pub(super) struct OfDomain(pub DomainName);

impl<S: Send + Sync> FromRequestParts<S> for OfDomain {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| PageError::NotFound)?;
        let named = params.iter().find(|(name, _)| *name == "domain").map(|(_, domain)| domain);
        let domain = named.and_then(|named| named.parse::<DomainName>().ok().filter(|domain| domain.as_str() == named));
        domain.map(Self).ok_or(PageError::NotFound)
    }
}

#[derive(Template)]
#[template(path = "domain_outbound_gateway.html")]
struct DomainOutboundGateway {
    console: Console,
    field: GatewayField,
    name: String,
    /// In ASCII, where that is not the same.
    ascii: Option<String>,
    accounts: i64,
    following: i64,
    /// The list of domains.
    list: String,
    /// Whether to ask for the deletion to be confirmed.
    deleting: bool,
    own: Option<ShownAddress>,
    without_own: ShownRoute,
    inbound: InboundHostCard,
    /// The page of its limits.
    limits: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FormQuery {
    delete: String,
    /// One of the offered gateways, to stand in the field.
    gateway: String,
    /// The verification whose address is to stand in the field.
    verified: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    OfDomain(domain): OfDomain,
    Query(query): Query<FormQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, &domain, &query).await?;
    look.field = look.field.restored(&draft);
    page(&look)
}

/// The page with what the store has.
async fn look(
    app: &App,
    inside: &InOrganization,
    name: &DomainName,
    query: &FormQuery,
) -> Result<DomainOutboundGateway, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::domain::overview(&mut transaction, organization, Some(name)).await?.pop();
    let domain = found.ok_or(PageError::NotFound)?;
    let may_save = inside.access.role.may_set_organization_gateway();
    let own = domain.gateways.domain.as_ref();
    let scope = PointerScope::Domain(name.clone());
    let pending = store::pending_gateway::list(&mut transaction, organization, Some(&scope)).await?.pop();
    let inbound = InboundHostCard::of(app, inside, &domain);
    let mut field = GatewayField::of(
        &mut transaction,
        organization,
        pending.as_ref().map(|pending| &pending.address).or(own),
        "Host name or IP address of the server that mail of this domain leaves through. Leave empty for none.",
        (!may_save).then_some("Only an Administrator may change the gateway of a mail domain. You can see it."),
        &inside.access.slug,
    )
    .await?
    .offering(&link_to_form(&inside.access.slug, name), Some(query.gateway.as_str()))
    .with_waiting(&mut transaction, organization, &scope)
    .await?
    .back_from(&mut transaction, organization, Some(query.verified.as_str()))
    .await?
    .with_pending(pending.as_ref().map(|pending| ShownPending::of(pending, &inside.access.slug)));
    drop(transaction);
    field.way_back = link_to_row(&inside.access.slug, name).build();
    let shown = name.to_unicode();
    Ok(DomainOutboundGateway {
        console: Console::new(inside, domain_manager::LABEL),
        inbound,
        limits: limits::link(&inside.access.slug, &SetAt::Domain(name.clone())).build(),
        list: field.way_back.clone(),
        field,
        ascii: (shown != name.as_str()).then(|| name.to_string()),
        name: shown,
        accounts: domain.accounts,
        following: domain.following,
        deleting: !query.delete.is_empty() && may_save && own.is_some(),
        own: own.map(ShownAddress::from),
        without_own: ShownRoute::of(SenderGateways { domain: None, ..domain.gateways }, &app.settings.platform_default),
    })
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    OfDomain(domain): OfDomain,
    Form(form): Form<GatewayForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may change the gateway of a mail domain. Ask one of your organization.",
        ));
    }
    let allowed = gateway_form::allowed_networks(&app, &inside.access).await?;
    match form.parse(&allowed) {
        Ok(address) if form.verify.is_some() => {
            let scope = PointerScope::Domain(domain.clone());
            match gateway_form::verify(&app, &inside.access, &scope, &form, address.as_ref(), |link| link).await? {
                Ok(answer) => Ok(answer),
                Err(mistake) => again(&app, &inside, &domain, form, mistake).await,
            }
        }
        Ok(address) => {
            let back = link_to_row(&inside.access.slug, &domain);
            let scope = PointerScope::Domain(domain.clone());
            match gateway_form::point(&app, &inside.access, &scope, &form, address.as_ref(), back).await? {
                Pointed::Answer(answer) => Ok(answer),
                Pointed::Conflict(conflict) => {
                    let mut look = look(&app, &inside, &domain, &FormQuery::default()).await?;
                    look.field = look.field.in_conflict(conflict);
                    Ok((StatusCode::CONFLICT, page(&look)?).into_response())
                }
            }
        }
        Err(mistake) => again(&app, &inside, &domain, form, mistake).await,
    }
}

async fn again(
    app: &App,
    inside: &InOrganization,
    domain: &DomainName,
    form: GatewayForm,
    mistake: GatewayMistake,
) -> Result<Response, PageError> {
    let mut look = look(app, inside, domain, &FormQuery::default()).await?;
    let status = mistake.status();
    look.field = look.field.again(form, mistake);
    Ok((status, page(&look)?).into_response())
}
