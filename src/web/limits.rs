//! Limits: how much may be sent, at three scopes: what holds and where it comes from, and the form that sets a limit once
//! it has said what that would have done. What else is said of one sender is `sender_control`'s.

use askama::Template;
use axum::{
    extract::{FromRequestParts, RawPathParams, RawQuery, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    domain_manager,
    draft::Draft,
    error::{PageError, see_other},
    form::{Form, Query},
    limit_form::{LimitForm, Typed, in_trial},
    limit_table::{Group, Standing},
    link::Link,
    mail_account_manager, page,
    sender_control::SenderCard,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo, wording,
};
use crate::{
    mail::{
        DomainName,
        id::{AccountId, ChangeId},
    },
    policy::{
        Role,
        limit::{BusyDay, Limits, OrganizationLimits, SenderControl, SetAt},
    },
    store::{
        self, OrganizationTransaction,
        limit::{Exception, Set},
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Limits";

const OF_ALL: &str = "/{organization}/web-mail-cloud/limits";
const OF_DOMAIN: &str = "/{organization}/web-mail-cloud/domain-manager/{domain}/limits";
const OF_ACCOUNT: &str = "/{organization}/web-mail-cloud/mail-account-manager/{account}/limits";

/// How many mail domains and accounts are named that have limits of their own.
const EXCEPTIONS: i64 = 50;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(OF_ALL, show),
        Route::post(OF_ALL, save),
        Route::get("/{organization}/web-mail-cloud/limits/delete", back),
        Route::post("/{organization}/web-mail-cloud/limits/delete", delete),
        Route::get(OF_DOMAIN, show),
        Route::post(OF_DOMAIN, save),
        Route::get("/{organization}/web-mail-cloud/domain-manager/{domain}/limits/delete", back),
        Route::post("/{organization}/web-mail-cloud/domain-manager/{domain}/limits/delete", delete),
        Route::get(OF_ACCOUNT, show),
        Route::post(OF_ACCOUNT, save),
        Route::get("/{organization}/web-mail-cloud/mail-account-manager/{account}/limits/delete", back),
        Route::post("/{organization}/web-mail-cloud/mail-account-manager/{account}/limits/delete", delete),
    ]
}

/// The page of one scope.
pub fn link(slug: &str, at: &SetAt) -> Link {
    Link::to(match at {
        SetAt::Organization => format!("/{slug}/web-mail-cloud/limits"),
        SetAt::Domain(name) => format!("/{slug}/web-mail-cloud/domain-manager/{name}/limits"),
        SetAt::Account(account) => format!("/{slug}/web-mail-cloud/mail-account-manager/{account}/limits"),
    })
}

/// What the path names: one mail domain or account, else the organization. One that cannot be is not found.
pub(super) struct Of(pub SetAt);

impl<S: Send + Sync> FromRequestParts<S> for Of {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| PageError::NotFound)?;
        let named = params.iter().find(|(name, _)| *name != "organization");
        let at = match named {
            None => Some(SetAt::Organization),
            Some(("account", named)) => named.parse().ok().map(SetAt::Account),
            Some((_, named)) => {
                named.parse::<DomainName>().ok().filter(|name| name.as_str() == named).map(SetAt::Domain)
            }
        };
        at.map(Self).ok_or(PageError::NotFound)
    }
}

/// Whether a role may change what is set there.
pub(super) fn may_change(role: Role, at: &SetAt) -> bool {
    match at {
        SetAt::Organization | SetAt::Domain(_) => role.may_set_limits(),
        SetAt::Account(_) => role.may_control_senders(),
    }
}

fn refusal(at: &SetAt) -> &'static str {
    match at {
        SetAt::Organization | SetAt::Domain(_) => {
            "Only an Administrator may limit the organization and its mail domains. Ask one of your organization."
        }
        SetAt::Account(_) => "Your role reads only. Ask an Administrator or a User Administrator of your organization.",
    }
}

/// What the limits of a page are about.
pub(super) struct Place {
    pub at: SetAt,
    /// For people; empty for the organization.
    pub name: String,
    /// Of a mail domain itself, and of an account that of its User ID.
    pub domain: Option<DomainName>,
}

impl Place {
    async fn find(transaction: &mut OrganizationTransaction, at: &SetAt) -> Result<Self, PageError> {
        let organization = transaction.organization();
        let (name, domain) = match at {
            SetAt::Organization => (String::new(), None),
            SetAt::Domain(name) => {
                let found = store::domain::overview(transaction, organization, Some(name)).await?;
                found.first().ok_or(PageError::NotFound)?;
                (name.to_unicode(), Some(name.clone()))
            }
            SetAt::Account(id) => {
                let found = store::account::by_id(transaction, organization, *id).await?.ok_or(PageError::NotFound)?;
                (wording::user_id(&found.user_id), Some(found.user_id.domain().clone()))
            }
        };
        Ok(Self { at: at.clone(), name, domain })
    }

    /// Where it stands among the pages, and where it leads back to.
    fn crumbs(&self, slug: &str) -> Vec<(String, String)> {
        match &self.at {
            SetAt::Organization => vec![],
            SetAt::Domain(name) => {
                vec![(domain_manager::LABEL.to_owned(), domain_manager::link_to_row(slug, name).build())]
            }
            SetAt::Account(account) => vec![
                (mail_account_manager::LABEL.to_owned(), format!("/{slug}/web-mail-cloud/mail-account-manager")),
                (self.name.clone(), account_page(slug, *account)),
            ],
        }
    }

    fn account(&self) -> Option<AccountId> {
        match self.at {
            SetAt::Account(account) => Some(account),
            SetAt::Organization | SetAt::Domain(_) => None,
        }
    }

    /// The page in the navigation that this one belongs to.
    fn label(&self) -> &'static str {
        match self.at {
            SetAt::Organization => LABEL,
            SetAt::Domain(_) => domain_manager::LABEL,
            SetAt::Account(_) => mail_account_manager::LABEL,
        }
    }
}

/// The page of an account itself.
pub(super) fn account_page(slug: &str, account: AccountId) -> String {
    format!("/{slug}/web-mail-cloud/mail-account-manager/{account}")
}

#[derive(Template)]
#[template(path = "limits.html")]
pub(super) struct LimitsPage {
    console: Console,
    pub status: Option<StatusLine>,
    pub mistakes: Vec<(&'static str, String)>,
    /// Whose limits, where it is not the organization.
    name: String,
    crumbs: Vec<(String, String)>,
    /// This page, from where the paths of the forms begin.
    here: String,
    /// Until when the platform's figures only alert.
    alerts_until: Option<String>,
    groups: Vec<Group>,
    form: Option<LimitForm>,
    /// Said to who may not change anything here.
    read_only: Option<&'static str>,
    is_draft: bool,
    /// Limits were changed since the form was shown.
    changed_meanwhile: bool,
    pub sender: Option<SenderCard>,
    /// Who has other limits, with the page of each.
    exceptions: Vec<(String, String, String)>,
    /// There are more of them.
    has_more_exceptions: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LimitsQuery {
    whose: String,
    window: String,
    unit: String,
    most: String,
    unlimited: String,
    action: String,
    /// What the limit in the form would have done is asked.
    check: String,
    /// Whether to ask for the sender's block to be confirmed.
    pub block: String,
    /// The change that was just saved.
    change: String,
    unchanged: String,
}

impl LimitsQuery {
    fn typed(&self) -> Option<Typed> {
        let named = [&self.whose, &self.window, &self.unit].iter().any(|word| !word.is_empty());
        named.then(|| Typed {
            whose: self.whose.clone(),
            window: self.window.clone(),
            unit: self.unit.clone(),
            most: self.most.clone(),
            is_unlimited: !self.unlimited.is_empty(),
            action: self.action.clone(),
        })
    }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Of(at): Of,
    Query(query): Query<LimitsQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, &at, &query).await?;
    if let Some(sender) = &mut look.sender {
        look.is_draft |= sender.restore(&draft);
    }
    let Some(form) = &mut look.form else { return page(&look) };
    if let Some(typed) = Typed::of_draft(&draft) {
        form.put(&typed, &at);
        look.is_draft = true;
        return page(&look);
    }
    if query.check.is_empty() {
        return page(&look);
    }
    let typed = query.typed().unwrap_or_default();
    let Some(kind) = typed.kind(&at) else {
        return Err(PageError::Malformed("no limit that the form has".to_owned()));
    };
    match typed.limit(kind) {
        Err(mistake) => {
            form.most.again(typed.most, mistake);
            again(look, StatusCode::UNPROCESSABLE_ENTITY)
        }
        Ok(limit) => {
            let mut transaction = app.store.begin(&inside.access).await?;
            let now = OffsetDateTime::now_utc();
            let tried = match limit.most {
                Some(most) => {
                    let (organization, limit) = (inside.access.organization(), (most, limit.action));
                    let tried = (&at, kind, limit);
                    Some(store::limit_trial::try_out(&mut transaction, organization, tried, now).await?)
                }
                None => None,
            };
            form.trial = Some(in_trial(&inside.access.slug, (&at, kind, limit), tried));
            page(&look)
        }
    }
}

/// The page with its mistakes.
pub(super) fn again(mut look: LimitsPage, status: StatusCode) -> Result<Response, PageError> {
    if let Some(form) = &look.form {
        look.mistakes.extend(super::text_field::mistakes(&[&form.most]));
    }
    Ok((status, page(&look)?).into_response())
}

/// Who comes to the path of a form, after signing in again for example, is led to the page.
pub(super) async fn back(
    State(app): State<App>,
    inside: InOrganization,
    Of(at): Of,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    Place::find(&mut transaction, &at).await?;
    drop(transaction);
    let page = link(&inside.access.slug, &at).build();
    Ok(see_other(&match query {
        Some(query) if !query.is_empty() => format!("{page}?{query}"),
        _ => page,
    }))
}

/// The page with what the store has.
pub(super) async fn look(
    app: &App,
    inside: &InOrganization,
    at: &SetAt,
    query: &LimitsQuery,
) -> Result<LimitsPage, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let now = OffsetDateTime::now_utc();
    let may_change = may_change(inside.access.role, at);
    let mut transaction = app.store.begin(&inside.access).await?;
    let place = Place::find(&mut transaction, at).await?;
    let limits = store::limit::reaching(&mut transaction, organization, place.domain.as_ref(), place.account()).await?;
    let accounts = store::organization::summary(&mut transaction, organization).await?.accounts.unsigned_abs();
    let status = status(&mut transaction, query).await?;
    let status = status.map(|(line, change)| match change {
        Some(change) => line.undoable(may_change, undo::link(slug, change)),
        None => line,
    });
    let busy_day = match place.account() {
        Some(account) => store::limit::busy_day(&mut transaction, organization, account, now).await?,
        None => BusyDay::default(),
    };
    let exceptions = match at {
        SetAt::Organization => store::limit::exceptions(&mut transaction, organization, now, EXCEPTIONS + 1).await?,
        SetAt::Domain(_) | SetAt::Account(_) => Vec::new(),
    };
    let sender = match place.account() {
        Some(account) => Some(SenderCard::of(&mut transaction, inside, account, &limits, query).await?),
        None => None,
    };
    drop(transaction);
    let mut form = may_change.then(|| LimitForm::of(at, &place.name, own(&limits, at)));
    if let (Some(form), Some(typed)) = (&mut form, query.typed()) {
        form.put(&typed, at);
    }
    let standing = Standing { place: &place, limits: &limits, busy_day, accounts, now, slug };
    Ok(LimitsPage {
        console: Console::new(inside, place.label()),
        status,
        mistakes: Vec::new(),
        crumbs: place.crumbs(slug),
        here: link(slug, at).build(),
        alerts_until: limits.only_alerts_until(now).map(wording::moment),
        groups: standing.groups(may_change),
        form,
        read_only: (!may_change).then(|| refusal(at)),
        is_draft: false,
        changed_meanwhile: false,
        sender,
        has_more_exceptions: exceptions.len() as i64 > EXCEPTIONS,
        exceptions: exceptions.iter().take(EXCEPTIONS as usize).map(|one| exception(one, slug, now)).collect(),
        name: place.name,
    })
}

/// The limits that are set there itself.
fn own<'a>(limits: &'a OrganizationLimits, at: &SetAt) -> Option<&'a Limits> {
    limits.set.get(at)
}

/// Who it is, the page of its limits, and what is different.
fn exception(exception: &Exception, slug: &str, now: OffsetDateTime) -> (String, String, String) {
    let name = match (&exception.at, &exception.user_id) {
        (_, Some(user_id)) => wording::user_id(user_id),
        (SetAt::Domain(name), None) => name.to_unicode(),
        (SetAt::Account(id), None) => id.to_string(),
        (SetAt::Organization, None) => String::new(),
    };
    let SenderControl { is_service, exempt_until, is_blocked } = exception.control;
    let mut words = Vec::new();
    if is_blocked {
        words.push("blocked".to_owned());
    }
    if is_service {
        words.push("service account".to_owned());
    }
    words.extend(exempt_until.filter(|until| *until > now).map(|until| {
        let until = wording::moment(until);
        format!("exempt until {until}")
    }));
    if exception.limits > 0 {
        words.push(wording::counted(exception.limits, "limit of its own", "limits of its own"));
    }
    (name, link(slug, &exception.at).build(), words.join(", "))
}

/// What was just saved, with the change that did it.
async fn status(
    transaction: &mut OrganizationTransaction,
    query: &LimitsQuery,
) -> Result<Option<(StatusLine, Option<ChangeId>)>, PageError> {
    let Ok(change) = query.change.parse::<ChangeId>() else {
        return Ok((!query.unchanged.is_empty()).then(|| (status::unchanged_limit(), None)));
    };
    let organization = transaction.organization();
    let Some(edit) = store::limit::recent(transaction, organization, change).await? else { return Ok(None) };
    let progress = store::change::progress(transaction, edit.revision).await?;
    Ok(Some((status::of_limit(&edit, &progress), Some(change))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaveForm {
    whose: String,
    window: String,
    unit: String,
    most: String,
    unlimited: Option<String>,
    action: String,
    /// The limits that were set there when the form was shown.
    seen: String,
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Of(at): Of,
    Form(form): Form<SaveForm>,
) -> Result<Response, PageError> {
    may(&inside, &at)?;
    let SaveForm { whose, window, unit, most, unlimited, action, seen } = form;
    let typed = Typed { whose, window, unit, most, is_unlimited: unlimited.is_some(), action };
    let Some(kind) = typed.kind(&at) else {
        return Err(PageError::Malformed("no limit that the form has".to_owned()));
    };
    let limit = match typed.limit(kind) {
        Ok(limit) => limit,
        Err(mistake) => {
            let mut look = look(&app, &inside, &at, &LimitsQuery::default()).await?;
            if let Some(form) = &mut look.form {
                form.put(&typed, &at);
                form.most.again(typed.most, mistake);
            }
            return again(look, StatusCode::UNPROCESSABLE_ENTITY);
        }
    };
    let mut transaction = app.store.begin(&inside.access).await?;
    let present = present(&mut transaction, &at).await?;
    if present.get(&kind) != Some(&limit) && LimitForm::seen(Some(&present)) != seen {
        drop(transaction);
        return changed_meanwhile(&app, &inside, &at, Some(&typed)).await;
    }
    let set = store::limit::set(transaction, &at, kind, Some(limit), &inside.access.email).await?;
    answer(&app, &inside, &at, set).await
}

fn may(inside: &InOrganization, at: &SetAt) -> Result<(), PageError> {
    if may_change(inside.access.role, at) { Ok(()) } else { Err(PageError::Forbidden(refusal(at))) }
}

/// What is set there now.
async fn present(transaction: &mut OrganizationTransaction, at: &SetAt) -> store::Result<Limits> {
    let organization = transaction.organization();
    let (domain, account) = match at {
        SetAt::Organization => (None, None),
        SetAt::Domain(name) => (Some(name), None),
        SetAt::Account(account) => (None, Some(*account)),
    };
    let mut limits = store::limit::reaching(transaction, organization, domain, account).await?;
    Ok(limits.set.remove(at).unwrap_or_default())
}

/// The page as it is now, with what was to be saved.
async fn changed_meanwhile(
    app: &App,
    inside: &InOrganization,
    at: &SetAt,
    typed: Option<&Typed>,
) -> Result<Response, PageError> {
    let mut look = look(app, inside, at, &LimitsQuery::default()).await?;
    look.changed_meanwhile = true;
    if let (Some(form), Some(typed)) = (&mut look.form, typed) {
        form.put(typed, at);
    }
    again(look, StatusCode::CONFLICT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteForm {
    whose: String,
    window: String,
    unit: String,
    /// The limit as it was shown.
    seen: String,
}

async fn delete(
    State(app): State<App>,
    inside: InOrganization,
    Of(at): Of,
    Form(form): Form<DeleteForm>,
) -> Result<Response, PageError> {
    may(&inside, &at)?;
    let DeleteForm { whose, window, unit, seen } = form;
    let typed = Typed { whose, window, unit, ..Typed::default() };
    let Some(kind) = typed.kind(&at) else {
        return Err(PageError::Malformed("no limit that the page has".to_owned()));
    };
    let mut transaction = app.store.begin(&inside.access).await?;
    let present = present(&mut transaction, &at).await?;
    if present.get(&kind).is_some_and(|limit| store::limit::in_words(kind, *limit) != seen) {
        drop(transaction);
        return changed_meanwhile(&app, &inside, &at, None).await;
    }
    let set = store::limit::set(transaction, &at, kind, None, &inside.access.email).await?;
    answer(&app, &inside, &at, set).await
}

/// On to what became of a save.
pub(super) async fn answer(app: &App, inside: &InOrganization, at: &SetAt, set: Set) -> Result<Response, PageError> {
    let page = link(&inside.access.slug, at);
    match set {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(see_other(&page.with("unchanged", "1").build())),
        Set::Changed(committed) => {
            status::wait_until_live(app, &inside.access, committed.revision).await;
            Ok(see_other(&page.with("change", &committed.id.to_string()).build()))
        }
    }
}
