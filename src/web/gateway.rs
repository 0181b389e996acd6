//! One gateway: its address and revisions, who uses it, what waits for it; removed when nobody does.
//! Opened from `gateways`.

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
    domain_manager,
    error::{PageError, see_other},
    form::{Form, Query},
    gateways::{self, unicode},
    link::Link,
    page,
    session::InOrganization,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{DomainName, id::GatewayId},
    store::{
        self,
        gateway::{GatewayOverview, Removed, Revision},
        held_mail::WaitingForGateway,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/gateways/{gateway}";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, remove)]
}

/// The page of one gateway.
pub fn link(slug: &str, gateway: GatewayId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/gateways/{gateway}"))
}

/// The gateway that the path names. One that cannot be is not found, like one that is not there.
struct Named(GatewayId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| PageError::NotFound)?;
        let gateway = params.iter().find(|(name, _)| *name == "gateway").and_then(|(_, id)| id.parse().ok());
        gateway.map(Self).ok_or(PageError::NotFound)
    }
}

/// How many accounts are named before the rest are only counted.
const NAMED_ACCOUNTS: i64 = 50;

#[derive(Template)]
#[template(path = "gateway.html")]
struct GatewayPage {
    console: Console,
    address: ShownAddress,
    gateway: GatewayOverview,
    revisions: Vec<Revision>,
    /// Name and form of each mail domain that points at it.
    domains: Vec<(String, String)>,
    /// User ID and form of the first accounts that have it as their own.
    accounts: Vec<(String, String)>,
    waiting: WaitingForGateway,
    /// When the oldest of it was accepted.
    since: Option<String>,
    may_remove: bool,
    /// Whether to ask for the removal to be confirmed.
    removing: bool,
    /// It is in use after all.
    refused: bool,
    list: String,
    here: String,
}

impl GatewayPage {
    fn can_be_removed(&self) -> bool {
        self.gateway.is_unused() && self.waiting.messages == 0
    }

    fn made(&self, revision: &Revision) -> String {
        wording::moment(revision.created_at)
    }

    fn more_accounts(&self) -> i64 {
        (self.gateway.accounts - NAMED_ACCOUNTS).max(0)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageQuery {
    remove: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(gateway): Named,
    Query(query): Query<PageQuery>,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, gateway).await?;
    look.removing = !query.remove.is_empty() && look.may_remove && look.can_be_removed();
    page(&look)
}

async fn look(app: &App, inside: &InOrganization, id: GatewayId) -> Result<GatewayPage, PageError> {
    let organization = inside.access.organization();
    let slug = &inside.access.slug;
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::gateway::overview(&mut transaction, organization, Some(id)).await?.pop();
    let gateway = found.ok_or(PageError::NotFound)?;
    let revisions = store::gateway::revisions(&mut transaction, organization, id).await?;
    let accounts = store::gateway::first_accounts(&mut transaction, organization, id, NAMED_ACCOUNTS).await?;
    let waiting = store::held_mail::waiting_for(&mut transaction, organization, id).await?;
    drop(transaction);
    let of_account = |account| format!("/{slug}/web-mail-cloud/mail-account-manager/{account}/outbound-gateway");
    let of_domain = |name: &String| {
        let form = name.parse::<DomainName>().map(|name| domain_manager::link_to_form(slug, &name).build());
        (unicode(name), form.unwrap_or_default())
    };
    Ok(GatewayPage {
        console: Console::new(inside, gateways::LABEL),
        address: (&gateway.address).into(),
        revisions,
        domains: gateway.domains.iter().map(of_domain).collect(),
        accounts: accounts.iter().map(|(account, user_id)| (wording::user_id(user_id), of_account(account))).collect(),
        since: waiting.since.map(wording::moment),
        waiting,
        gateway,
        may_remove: inside.access.role.may_set_organization_gateway(),
        removing: false,
        refused: false,
        list: gateways::link(slug).build(),
        here: link(slug, id).build(),
    })
}

/// Nothing is sent: what is removed stands in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveForm {}

async fn remove(
    State(app): State<App>,
    inside: InOrganization,
    Named(gateway): Named,
    Form(RemoveForm {}): Form<RemoveForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden("Only an Administrator may remove a gateway. Ask one of your organization."));
    }
    let transaction = app.store.begin(&inside.access).await?;
    match store::gateway::remove(transaction, gateway, &inside.access.email).await? {
        // Sent twice: both lead to the same.
        Removed::NotFound => {
            let organization = inside.access.organization();
            let mut transaction = app.store.begin(&inside.access).await?;
            let thing = ("gateway", &*gateway.to_string());
            let last = store::change::last_of(&mut transaction, organization, thing, None).await?;
            let own = last.filter(|last| last.actor == inside.access.email).ok_or(PageError::NotFound)?;
            Ok(see_other(&gateways::link(&inside.access.slug).with("removed", &own.change.to_string()).build()))
        }
        Removed::Removed(_, change) => {
            Ok(see_other(&gateways::link(&inside.access.slug).with("removed", &change.id.to_string()).build()))
        }
        Removed::InUse => {
            let look = GatewayPage { refused: true, ..look(&app, &inside, gateway).await? };
            Ok((StatusCode::CONFLICT, page(&look)?).into_response())
        }
    }
}
