//! Outbound Gateway of one user: the same form, and what applies without it.
//! Opened from the Action column of `mail_account_manager`.

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
    draft::Draft,
    error::PageError,
    form::{Form, Query},
    gateway_form::{self, GatewayField, GatewayForm, GatewayMistake, Pointed},
    gateway_state::{self, ShownCheck, ShownState},
    mail_account_manager::{self, ListQuery},
    named::Named,
    page,
    route_steps::{Step, steps},
    session::InOrganization,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    mail::id::AccountId,
    policy::routing::{Scope, SenderGateways},
    store::{self, gateway::PointerScope},
};

const PATH: &str = "/{organization}/web-mail-cloud/mail-account-manager/{account}/outbound-gateway";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

#[derive(Template)]
#[template(path = "outbound_gateway.html")]
struct OutboundGateway {
    console: Console,
    field: GatewayField,
    user_id: String,
    name: String,
    suspended: bool,
    /// The list of accounts, from where the form was opened.
    list: String,
    /// What is asked about at each scope, nearest first.
    steps: Vec<Step>,
    /// Whether to ask for the deletion to be confirmed.
    deleting: bool,
    own: Option<ShownAddress>,
    without_own: ShownRoute,
    /// How the gateway does that applies, where it is not the user's own: of that the form says it.
    applying: Option<(ShownState, ShownCheck)>,
}

#[derive(Deserialize)]
struct FormQuery {
    #[serde(flatten)]
    list: ListQuery,
    delete: Option<String>,
    /// One of the offered gateways, to stand in the field.
    gateway: Option<String>,
    /// The verification whose address is to stand in the field.
    verified: Option<String>,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<FormQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, account, &query).await?;
    look.field = look.field.restored(&draft);
    page(&look)
}

/// The page with what the store has.
async fn look(
    app: &App,
    inside: &InOrganization,
    account: AccountId,
    query: &FormQuery,
) -> Result<OutboundGateway, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let Some(account) = store::account::by_id(&mut transaction, organization, account).await? else {
        return Err(PageError::NotFound);
    };
    let may_save = inside.access.role.may_set_account_gateway();
    let mut field = GatewayField::of(
        &mut transaction,
        organization,
        account.gateways.user.as_ref(),
        "Host name or IP address of the server that this user's mail leaves through. Leave empty for none.",
        (!may_save).then_some("Your role reads only. An Administrator or a User Administrator may change this."),
        &inside.access.slug,
    )
    .await?
    .offering(&query.list.link_to_form(&inside.access.slug, account.id), query.gateway.as_deref())
    .with_waiting(&mut transaction, organization, &PointerScope::Account(account.id))
    .await?
    .back_from(&mut transaction, organization, query.verified.as_deref())
    .await?;
    let applying = match account.gateways.clone().nearest() {
        Some((address, Scope::Domain | Scope::Organization)) => {
            gateway_state::facts(&mut transaction, organization, &address, &inside.access.slug).await?
        }
        _ => None,
    };
    drop(transaction);
    field.way_back = query.list.link_to_row(&inside.access.slug, account.id).build();
    let default = &app.settings.platform_default;
    let without_own = SenderGateways { user: None, ..account.gateways.clone() };
    Ok(OutboundGateway {
        console: Console::new(inside, mail_account_manager::LABEL),
        list: field.way_back.clone(),
        field,
        user_id: wording::user_id(&account.user_id),
        steps: steps(&account, default),
        applying,
        deleting: query.delete.is_some() && may_save && account.gateways.user.is_some(),
        own: account.gateways.user.as_ref().map(ShownAddress::from),
        without_own: ShownRoute::of(without_own, default),
        suspended: account.suspended,
        name: account.name,
    })
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<FormQuery>,
    Form(form): Form<GatewayForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_account_gateway() {
        return Err(PageError::Forbidden(
            "Your role reads only. Ask an Administrator or a User Administrator of your organization.",
        ));
    }
    let allowed = gateway_form::allowed_networks(&app, &inside.access).await?;
    match form.parse(&allowed) {
        Ok(address) if form.verify.is_some() => {
            let scope = PointerScope::Account(account);
            let page = |link| query.list.place_below(link);
            match gateway_form::verify(&app, &inside.access, &scope, &form, address.as_ref(), page).await? {
                Ok(answer) => Ok(answer),
                Err(mistake) => again(&app, &inside, account, query, form, mistake).await,
            }
        }
        Ok(address) => {
            let back = query.list.link_to_row(&inside.access.slug, account);
            let scope = PointerScope::Account(account);
            match gateway_form::point(&app, &inside.access, &scope, &form, address.as_ref(), back).await? {
                Pointed::Answer(answer) => Ok(answer),
                Pointed::Conflict(conflict) => {
                    let mut look = look(&app, &inside, account, &FormQuery { delete: None, ..query }).await?;
                    look.field = look.field.in_conflict(conflict);
                    Ok((StatusCode::CONFLICT, page(&look)?).into_response())
                }
            }
        }
        Err(mistake) => again(&app, &inside, account, query, form, mistake).await,
    }
}

async fn again(
    app: &App,
    inside: &InOrganization,
    account: AccountId,
    query: FormQuery,
    form: GatewayForm,
    mistake: GatewayMistake,
) -> Result<Response, PageError> {
    let mut look = look(app, inside, account, &FormQuery { delete: None, ..query }).await?;
    let status = mistake.status();
    look.field = look.field.again(form, mistake);
    Ok((status, page(&look)?).into_response())
}
