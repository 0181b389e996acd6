//! Add account: one account with its addresses and, if it has one, its own gateway.
//! Opened from `mail_account_manager`; many at once come by `account_file`.

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
    error::{PageError, see_other},
    form::{Form, Query},
    gateway_form::{self, GatewayForm},
    mail_account::{READ_ONLY, addresses_field, name_field},
    mail_account_manager::{self, ListQuery},
    page,
    session::InOrganization,
    status,
    text_field::{self, TextField},
    verification,
};
use crate::{
    mail::{GatewayAddress, Mailbox, id::ChangeId},
    policy::{account_file, gateway_network::AllowedNetworks},
    store::{
        self,
        account::{AccountError, NewAccount},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/mail-account-manager/new";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

#[derive(Template)]
#[template(path = "new_account.html")]
struct NewAccountPage {
    console: Console,
    /// The part of the list that this page was opened from.
    list: String,
    /// Of the change that the form becomes, so that sent twice it adds one account.
    change: ChangeId,
    mistakes: Vec<(&'static str, String)>,
    user_id: TextField,
    name: TextField,
    addresses: TextField,
    outbound_gateway: TextField,
    /// Whether the fields hold what was typed before the session ended.
    is_draft: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAccountForm {
    user_id: String,
    name: String,
    addresses: String,
    outbound_gateway: String,
    change: String,
}

async fn show(inside: InOrganization, Query(query): Query<ListQuery>, draft: Draft) -> Result<Response, PageError> {
    may_add(&inside)?;
    let mut look = look(&inside, &query, ChangeId::new());
    for field in [&mut look.user_id, &mut look.name, &mut look.addresses, &mut look.outbound_gateway] {
        look.is_draft |= field.restore(&draft, None, "");
    }
    page(&look)
}

fn may_add(inside: &InOrganization) -> Result<(), PageError> {
    if inside.access.role.may_manage_accounts() { Ok(()) } else { Err(PageError::Forbidden(READ_ONLY)) }
}

/// The empty form.
fn look(inside: &InOrganization, query: &ListQuery, change: ChangeId) -> NewAccountPage {
    NewAccountPage {
        console: Console::new(inside, mail_account_manager::LABEL),
        list: query.link_here(&inside.access.slug).build(),
        change,
        mistakes: Vec::new(),
        user_id: TextField {
            id: "user_id",
            label: "User ID",
            hint: "The primary mail address, in one of your organization's mail domains, such as ann@example.com.",
            lines: 1,
            direction: "ltr",
            ..TextField::default()
        },
        name: name_field(""),
        addresses: addresses_field(""),
        outbound_gateway: TextField {
            id: "outbound_gateway",
            label: "Outbound Gateway",
            hint: "Only if this user's mail is to leave through another server than the domain's or the organization's.",
            lines: 1,
            direction: "ltr",
            ..TextField::default()
        },
        is_draft: false,
    }
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<ListQuery>,
    Form(form): Form<NewAccountForm>,
) -> Result<Response, PageError> {
    may_add(&inside)?;
    let change: ChangeId =
        form.change.parse().map_err(|_| PageError::Malformed("change is not the id of a change".to_owned()))?;
    let mut look = look(&inside, &query, change);
    let allowed = gateway_form::allowed_networks(&app, &inside.access).await?;
    let Some((account, gateway)) = parse(&allowed, &form, &mut look) else { return again(look) };
    let transaction = app.store.begin(&inside.access).await?;
    let email = &inside.access.email;
    let (id, revision, change) =
        match store::account::add_as(transaction, change, &account, gateway.as_ref(), email).await {
            Ok((id, committed)) => (id, committed.revision, committed.id),
            Err(AccountError::Store(error)) => return Err(error.into()),
            Err(mistake) => {
                // The same form, sent twice: what the first did is the answer to both.
                let mut transaction = app.store.begin(&inside.access).await?;
                let organization = inside.access.organization();
                let added = store::account::added_by(&mut transaction, organization, change, &account.user_id).await?;
                drop(transaction);
                match added {
                    Some((id, revision)) => (id, revision, change),
                    None => {
                        explain(&mut look, &account, &mistake);
                        // The id may belong to another account by now: the next attempt is another change.
                        look.change = ChangeId::new();
                        return again(look);
                    }
                }
            }
        };
    if gateway.is_some() {
        verification::begin_after(&app, &inside.access, change).await;
    }
    status::wait_until_live(&app, &inside.access, revision).await;
    Ok(see_other(&query.link_to_account(&inside.access.slug, id).with("change", &change.to_string()).build()))
}

/// The account that the form describes, or `None` with the fields' mistakes. All fields keep what was typed.
fn parse(
    allowed: &AllowedNetworks,
    form: &NewAccountForm,
    look: &mut NewAccountPage,
) -> Option<(NewAccount, Option<GatewayAddress>)> {
    let user_id =
        kept(&mut look.user_id, &form.user_id, |typed| typed.parse::<Mailbox>().map_err(|mistake| mistake.to_string()));
    let name = kept(&mut look.name, &form.name, account_file::name);
    let aliases = kept(&mut look.addresses, &form.addresses, |typed| text_field::addresses(typed, user_id.as_ref()));
    let gateway = kept(&mut look.outbound_gateway, &form.outbound_gateway, |typed| {
        let form = GatewayForm { outbound_gateway: typed.to_owned(), seen: None, verify: None };
        form.parse(allowed).map_err(|mistake| mistake.to_string())
    });
    Some((NewAccount { user_id: user_id?, name: name?, aliases: aliases? }, gateway?))
}

/// What a field says; the field keeps what was typed, and why that cannot be.
fn kept<T>(field: &mut TextField, typed: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    field.typed = typed.to_owned();
    parse(typed).map_err(|mistake| field.mistake = Some(mistake)).ok()
}

/// Puts what the store refused beside the field that it is about.
fn explain(look: &mut NewAccountPage, account: &NewAccount, mistake: &AccountError) {
    let about = match mistake {
        AccountError::AddressTaken { address, .. }
        | AccountError::AddressOfList(address)
        | AccountError::ForeignDomain(address) => address,
        AccountError::Store(_) => return,
    };
    let field = if *about == account.user_id { &mut look.user_id } else { &mut look.addresses };
    field.mistake = Some(mistake.to_string());
}

fn again(mut look: NewAccountPage) -> Result<Response, PageError> {
    look.mistakes = text_field::mistakes(&[&look.user_id, &look.name, &look.addresses, &look.outbound_gateway]);
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
}
