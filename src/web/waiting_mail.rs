//! What becomes of mail that waits for a gateway which is about to be taken away: asked before it is, and
//! carried out together with it. Mail that is held already is `held_mail`'s.

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
    error::{PageError, see_other},
    form::{Form, Query},
    held_mail,
    link::Link,
    page,
    session::InOrganization,
    status,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    mail::{DomainName, GatewayAddress, id::GatewayId},
    policy::routing::SenderGateways,
    store::{
        self, OrganizationTransaction,
        gateway::{PointerScope, Set},
        tenant::Access,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/waiting-mail";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// Leads to the question what becomes of mail that waits by a pointer which is about to be emptied; `None` if
/// there is nothing to ask.
pub async fn ask(
    transaction: &mut OrganizationTransaction,
    access: &Access,
    scope: &PointerScope,
    back: &Link,
) -> Result<Option<Response>, PageError> {
    let organization = access.organization();
    let pointer = store::gateway::pointer(transaction, organization, scope).await?;
    let Some(gateway) = pointer.and_then(|pointer| pointer.gateway) else { return Ok(None) };
    let waiting = store::held_mail::count_by_pointer(transaction, organization, scope, gateway).await?;
    if waiting == 0 {
        return Ok(None);
    }
    let whose = Whose::of(scope);
    let question = Link::to(format!("/{}/web-mail-cloud/waiting-mail", access.slug))
        .with("scope", &whose.scope)
        .with("of", &whose.of)
        .with("back", &back.clone().build());
    Ok(Some(see_other(&question.build())))
}

/// A pointer as a form and an address name it, and where to go afterwards.
#[derive(Debug, Clone, Deserialize)]
struct Whose {
    scope: String,
    /// The mail domain or the account; empty for all users.
    #[serde(default)]
    of: String,
    #[serde(default)]
    back: String,
}

impl Whose {
    fn of(scope: &PointerScope) -> Self {
        let (scope, of) = match scope {
            PointerScope::Organization => ("organization", String::new()),
            PointerScope::Domain(name) => ("domain", name.to_string()),
            PointerScope::Account(account) => ("user", account.to_string()),
        };
        Self { scope: scope.to_owned(), of, back: String::new() }
    }

    /// What cannot be is not found, like what is not there.
    fn parse(&self) -> Result<PointerScope, PageError> {
        match self.scope.as_str() {
            "organization" => Ok(PointerScope::Organization),
            "domain" => self.of.parse::<DomainName>().map(PointerScope::Domain).map_err(|_| PageError::NotFound),
            "user" => self.of.parse().map(PointerScope::Account).map_err(|_| PageError::NotFound),
            _ => Err(PageError::NotFound),
        }
    }

    /// Only to a page of this organization, whoever made the link.
    fn back(&self, slug: &str) -> String {
        let pages = format!("/{slug}/web-mail-cloud/");
        let is_ours = self.back.starts_with(&pages) && self.back.bytes().all(|byte| byte.is_ascii_graphic());
        if is_ours { self.back.clone() } else { format!("/{slug}/web-mail-cloud") }
    }

    /// The same with one more field in its query.
    fn back_with(&self, slug: &str, field: &str, value: &str) -> String {
        let back = self.back(slug);
        let separator = if back.contains('?') { '&' } else { '?' };
        format!("{back}{separator}{field}={value}")
    }
}

#[derive(Template)]
#[template(path = "waiting_mail.html")]
struct WaitingMail {
    console: Console,
    whose: Whose,
    /// Whose gateway it is: a User ID, a mail domain; empty for all users.
    subject: String,
    gateway: GatewayId,
    address: ShownAddress,
    messages: i64,
    /// What applies without it.
    without: ShownRoute,
    back: String,
    /// It is another gateway than the one that was asked about.
    was_changed: bool,
}

fn may_set(access: &Access, scope: &PointerScope) -> Result<(), PageError> {
    let (may, sentence) = match scope {
        PointerScope::Account(_) => (
            access.role.may_set_account_gateway(),
            "Your role reads only. Ask an Administrator or a User Administrator of your organization.",
        ),
        PointerScope::Organization | PointerScope::Domain(_) => (
            access.role.may_set_organization_gateway(),
            "Only an Administrator may change this gateway. Ask one of your organization.",
        ),
    };
    if may { Ok(()) } else { Err(PageError::Forbidden(sentence)) }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(whose): Query<Whose>,
) -> Result<Response, PageError> {
    let scope = whose.parse()?;
    may_set(&inside.access, &scope)?;
    let mut transaction = app.store.begin(&inside.access).await?;
    match look(&app, &inside, &mut transaction, &scope, whose.clone()).await? {
        Some(question) => page(&question),
        // Somebody has answered meanwhile.
        None => Ok(see_other(&whose.back(&inside.access.slug))),
    }
}

/// The question with what the store has; `None` if there is no gateway to delete.
async fn look(
    app: &App,
    inside: &InOrganization,
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    whose: Whose,
) -> Result<Option<WaitingMail>, PageError> {
    let organization = transaction.organization();
    let pointer = store::gateway::pointer(transaction, organization, scope).await?.ok_or(PageError::NotFound)?;
    let (Some(gateway), Some(address)) = (pointer.gateway, &pointer.address) else { return Ok(None) };
    let messages = store::held_mail::count_by_pointer(transaction, organization, scope, gateway).await?;
    let (subject, without) = without(transaction, scope).await?;
    Ok(Some(WaitingMail {
        console: Console::new(inside, super::outbound_mail_gateway::LABEL),
        back: whose.back(&inside.access.slug),
        whose,
        subject,
        gateway,
        address: address.into(),
        messages,
        without: ShownRoute::of(without, &app.settings.platform_default),
        was_changed: false,
    }))
}

/// Whose pointer it is, and the gateways that apply once it is empty.
async fn without(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
) -> Result<(String, SenderGateways<GatewayAddress>), PageError> {
    let organization = transaction.organization();
    Ok(match scope {
        PointerScope::Organization => {
            let gateways = store::organization::summary(transaction, organization).await?.gateways();
            (String::new(), SenderGateways { organization: None, ..gateways })
        }
        PointerScope::Domain(name) => {
            let found = store::domain::overview(transaction, organization, Some(name)).await?.pop();
            let gateways = found.ok_or(PageError::NotFound)?.gateways;
            (name.to_unicode(), SenderGateways { domain: None, ..gateways })
        }
        PointerScope::Account(account) => {
            let found = store::account::by_id(transaction, organization, *account).await?;
            let account = found.ok_or(PageError::NotFound)?;
            (wording::user_id(&account.user_id), SenderGateways { user: None, ..account.gateways })
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    scope: String,
    of: String,
    back: String,
    /// The gateway that was asked about.
    gateway: GatewayId,
    /// `keep`, `send` or `return`.
    waiting: String,
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(answer): Form<Answered>,
) -> Result<Response, PageError> {
    let Answered { scope, of, back, gateway, waiting } = answer;
    let whose = Whose { scope, of, back };
    let scope = whose.parse()?;
    may_set(&inside.access, &scope)?;
    let choice = held_mail::choice(&waiting)?;
    let slug = &inside.access.slug;
    let mut transaction = app.store.begin(&inside.access).await?;
    let organization = transaction.organization();
    let pointer = store::gateway::pointer_for_update(&mut transaction, organization, &scope).await?;
    match pointer.ok_or(PageError::NotFound)?.gateway {
        None => return Ok(see_other(&whose.back_with(slug, "unchanged", "1"))),
        Some(now) if now != gateway => {
            let question = look(&app, &inside, &mut transaction, &scope, whose).await?.ok_or(PageError::NotFound)?;
            let question = WaitingMail { was_changed: true, ..question };
            return Ok((StatusCode::CONFLICT, page(&question)?).into_response());
        }
        Some(_) => {}
    }
    match store::gateway::set_choosing(transaction, &scope, None, choice, &inside.access.email).await? {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(see_other(&whose.back_with(slug, "unchanged", "1"))),
        Set::Changed(committed) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            Ok(see_other(&whose.back_with(slug, "change", &committed.id.to_string())))
        }
    }
}
