//! One relay credential: its secret where it was just made, its limits, its last use; revoked here.
//! Opened from `relay_credentials`.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tower_sessions::Session;

use super::{
    App, Route,
    console::Console,
    draft::Draft,
    error::{PageError, see_other},
    form::{Form, Query},
    link::Link,
    named::Named,
    page,
    relay_credentials::{self, READ_ONLY, TermsFields, Typed, may_manage, own_domains, take_secret},
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo, wording,
};
use crate::{
    mail::id::{ChangeId, CredentialId},
    policy::relay_credential::SecretHash,
    store::{
        self, OrganizationTransaction,
        change::Committed,
        relay_credential::{Credential, Edited},
        tenant::Access,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/relay-credentials/{credential}";
const REVOKE_PATH: &str = "/{organization}/web-mail-cloud/relay-credentials/{credential}/revoke";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::post(PATH, save),
        Route::get(REVOKE_PATH, ask_to_revoke),
        Route::post(REVOKE_PATH, revoke),
    ]
}

/// The page of one credential.
pub fn link(slug: &str, credential: CredentialId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/relay-credentials/{credential}"))
}

#[derive(Template)]
#[template(path = "relay_credential.html")]
struct RelayCredentialPage {
    console: Console,
    status: Option<StatusLine>,
    credential: Credential,
    /// Shown once.
    secret: Option<String>,
    mistakes: Vec<(&'static str, String)>,
    fields: TermsFields,
    is_draft: bool,
    /// Somebody else has changed it meanwhile.
    changed_meanwhile: bool,
    may_manage: bool,
    revoking: bool,
    list: String,
    here: String,
}

impl RelayCredentialPage {
    fn made(&self) -> String {
        wording::moment(self.credential.created_at)
    }

    fn last_use(&self) -> Option<String> {
        let at = wording::moment(self.credential.last_used_at?);
        Some(match &self.credential.last_used_from {
            Some(client) => format!("{at}, from {client}"),
            None => at,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageQuery {
    /// The change that was just saved.
    change: String,
    unchanged: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<CredentialId>,
    Query(query): Query<PageQuery>,
    session: Session,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id, &query).await?;
    if look.may_manage && !look.credential.revoked {
        let now = TermsFields::of(&look.credential.terms);
        look.is_draft = look.fields.restore(&draft, &now);
    }
    if look.may_manage
        && !query.change.is_empty()
        && let Some(secret) = take_secret(&session, id).await?
    {
        let organization = inside.access.organization();
        let mut transaction = app.store.begin(&inside.access).await?;
        let hash = SecretHash::of(&secret);
        let is_its = store::relay_credential::is_fresh(&mut transaction, organization, id, &hash).await?;
        look.secret = is_its.then_some(secret);
    }
    page(&look)
}

async fn look(
    app: &App,
    inside: &InOrganization,
    id: CredentialId,
    query: &PageQuery,
) -> Result<RelayCredentialPage, PageError> {
    let organization = inside.access.organization();
    let slug = &inside.access.slug;
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::relay_credential::find(&mut transaction, organization, id).await?;
    let credential = found.ok_or(PageError::NotFound)?;
    let status = status(&mut transaction, &inside.access, &credential, query).await?;
    drop(transaction);
    Ok(RelayCredentialPage {
        console: Console::new(inside, relay_credentials::LABEL),
        status,
        secret: None,
        mistakes: Vec::new(),
        fields: TermsFields::of(&credential.terms),
        is_draft: false,
        changed_meanwhile: false,
        may_manage: inside.access.role.may_manage_relay_credentials(),
        revoking: false,
        list: relay_credentials::link(slug).build(),
        here: link(slug, id).build(),
        credential,
    })
}

async fn status(
    transaction: &mut OrganizationTransaction,
    access: &Access,
    credential: &Credential,
    query: &PageQuery,
) -> Result<Option<StatusLine>, PageError> {
    let Ok(change) = query.change.parse::<ChangeId>() else {
        return Ok((!query.unchanged.is_empty()).then(|| status::unchanged_credential(credential)));
    };
    let organization = transaction.organization();
    let Some(edit) = store::relay_credential::recent(transaction, organization, change, credential.id).await? else {
        return Ok(None);
    };
    let progress = store::change::progress(transaction, edit.revision).await?;
    let line = status::of_credential(&edit.action, credential, &progress);
    Ok(Some(line.undoable(access.role.may_manage_relay_credentials(), undo::link(&access.slug, change))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TermsForm {
    name: String,
    senders: String,
    networks: String,
    messages_per_minute: String,
    allow_bare_line_feeds: Option<String>,
    /// The terms that the form was shown with.
    seen: String,
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<CredentialId>,
    Form(form): Form<TermsForm>,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id, &PageQuery::default()).await?;
    may_manage(&inside)?;
    let typed = Typed {
        name: &form.name,
        senders: &form.senders,
        networks: &form.networks,
        messages_per_minute: &form.messages_per_minute,
        allow_bare_line_feeds: form.allow_bare_line_feeds.is_some(),
    };
    let Some(terms) = look.fields.take(&typed, &own_domains(&app, &inside).await?) else {
        look.mistakes = look.fields.mistakes();
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response());
    };
    let transaction = app.store.begin(&inside.access).await?;
    match store::relay_credential::set_terms(transaction, id, &terms, &form.seen, &inside.access.email).await? {
        Edited::ChangedMeanwhile => {
            look.changed_meanwhile = true;
            Ok((StatusCode::CONFLICT, page(&look)?).into_response())
        }
        edited => answer(&app, &inside, id, edited).await,
    }
}

/// To the page, which says what was done.
async fn answer(app: &App, inside: &InOrganization, id: CredentialId, edited: Edited) -> Result<Response, PageError> {
    let page = link(&inside.access.slug, id);
    match edited {
        Edited::NotFound => Err(PageError::NotFound),
        Edited::Unchanged | Edited::ChangedMeanwhile => Ok(see_other(&page.with("unchanged", "1").build())),
        Edited::Changed(Committed { id: change, revision }) => {
            status::wait_until_live(app, &inside.access, revision).await;
            Ok(see_other(&page.with("change", &change.to_string()).build()))
        }
    }
}

async fn ask_to_revoke(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<CredentialId>,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id, &PageQuery::default()).await?;
    look.revoking = look.may_manage && !look.credential.revoked;
    page(&look)
}

/// Nothing is sent: what is revoked stands in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeForm {}

async fn revoke(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<CredentialId>,
    Form(RevokeForm {}): Form<RevokeForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_manage_relay_credentials() {
        return Err(PageError::Forbidden(READ_ONLY));
    }
    let transaction = app.store.begin(&inside.access).await?;
    let edited = store::relay_credential::revoke(transaction, id, &inside.access.email).await?;
    answer(&app, &inside, id, edited).await
}
