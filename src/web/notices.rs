//! Notices: how administrators hear of gateways and limits. By mail always, and besides at a webhook that is set here;
//! what it was told is listed.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    draft::Draft,
    error::{PageError, see_other},
    form::{Form, Query},
    link::Link,
    page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    text_field::{self, TextField},
    wording,
};
use crate::{
    policy::webhook::{Kind, WebhookNotice, WebhookSecret, WebhookUrl},
    store::{
        self,
        webhook::{Listed, Saved, Webhook},
    },
};

/// The page's name.
pub const LABEL: &str = "Notices";

const PATH: &str = "/{organization}/web-mail-cloud/notices";
const SECRET: &str = "/{organization}/web-mail-cloud/notices/secret";
const SENDERS: &str = "/{organization}/web-mail-cloud/notices/senders";
const TEST: &str = "/{organization}/web-mail-cloud/notices/test";

/// How many notices are listed.
const LISTED: i64 = 20;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::post(PATH, save),
        Route::get(SENDERS, back),
        Route::post(SENDERS, save_senders),
        Route::get(SECRET, back),
        Route::post(SECRET, renew_secret),
        Route::get(TEST, back),
        Route::post(TEST, send_test),
    ]
}

fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/notices"))
}

#[derive(Template)]
#[template(path = "notices.html")]
struct NoticesPage {
    console: Console,
    status: Option<StatusLine>,
    mistakes: Vec<(&'static str, String)>,
    is_draft: bool,
    entry: TextField,
    /// The address that the form is shown with, empty for none.
    seen: String,
    /// For who may see it.
    secret: Option<String>,
    notices: Vec<ShownNotice>,
    /// Senders are told of their own limits.
    tells_senders: bool,
    may_save: bool,
    here: String,
}

struct ShownNotice {
    kind: String,
    noted: String,
    attempts: String,
    outcome: String,
    /// What the styles know it by.
    class: &'static str,
}

impl From<Listed> for ShownNotice {
    fn from(notice: Listed) -> Self {
        let outcome = notice.outcome.unwrap_or_else(|| "not tried yet".to_owned());
        let (class, outcome) = match notice.next_at {
            Some(next) => ("is-unknown", format!("{outcome}; again {}", wording::exact(next))),
            None if notice.taken => ("is-good", outcome),
            None => ("is-failing", format!("given up: {outcome}")),
        };
        Self {
            kind: notice.kind,
            noted: wording::exact(notice.noted_at),
            attempts: wording::counted(i64::from(notice.attempts), "attempt", "attempts"),
            outcome,
            class,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageQuery {
    /// What was just done.
    done: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<PageQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside).await?;
    let now = look.seen.clone();
    look.is_draft = look.may_save && look.entry.restore(&draft, draft.field("seen"), &now);
    look.status = status::of_webhook(&query.done, &now);
    page(&look)
}

async fn look(app: &App, inside: &InOrganization) -> Result<NoticesPage, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let webhook = store::webhook::of(&mut *transaction, organization).await?;
    let notices = store::webhook::list(&mut *transaction, organization, LISTED).await?;
    let tells_senders = store::limit_notice::tells_senders(&mut *transaction, organization).await?;
    drop(transaction);
    let may_save = inside.access.role.may_set_organization_gateway();
    let seen = webhook.as_ref().map(|webhook| webhook.url.to_string()).unwrap_or_default();
    let secret = webhook.filter(|_| may_save).map(|Webhook { secret, .. }| secret.in_words());
    Ok(NoticesPage {
        console: Console::new(inside, LABEL),
        status: None,
        mistakes: Vec::new(),
        is_draft: false,
        entry: TextField {
            id: "webhook",
            label: "Webhook",
            hint: "A web address that takes POST requests, such as https://hooks.example.com/outgate. Leave empty for none.",
            direction: "ltr",
            typed: seen.clone(),
            ..TextField::default()
        },
        seen,
        secret,
        notices: notices.into_iter().map(ShownNotice::from).collect(),
        tells_senders,
        may_save,
        here: link(&inside.access.slug).build(),
    })
}

/// The buttons stand on the page.
async fn back(inside: InOrganization) -> Response {
    see_other(&link(&inside.access.slug).build())
}

fn may_save(inside: &InOrganization) -> Result<(), PageError> {
    match inside.access.role.may_set_organization_gateway() {
        true => Ok(()),
        false => {
            Err(PageError::Forbidden("Only an Administrator may change who is told. Ask one of your organization."))
        }
    }
}

/// What is sent. Nothing else is accepted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookForm {
    webhook: String,
    seen: String,
}

impl WebhookForm {
    /// An emptied field deletes it.
    fn parse(&self, app: &App) -> Result<Option<WebhookUrl>, String> {
        if self.webhook.trim().is_empty() {
            return Ok(None);
        }
        let url: WebhookUrl = self.webhook.parse().map_err(|mistake| format!("{mistake}"))?;
        url.check(&app.settings.webhook_networks).map_err(|mistake| mistake.to_string())?;
        Ok(Some(url))
    }
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<WebhookForm>,
) -> Result<Response, PageError> {
    may_save(&inside)?;
    let url = match form.parse(&app) {
        Ok(url) => url,
        Err(mistake) => return again(&app, &inside, form, mistake, StatusCode::UNPROCESSABLE_ENTITY).await,
    };
    let transaction = app.store.begin(&inside.access).await?;
    let here = link(&inside.access.slug);
    match store::webhook::set(transaction, url.as_ref(), form.seen.trim(), &inside.access.email).await? {
        Saved::Changed(_) => Ok(see_other(&here.with("done", "saved").build())),
        Saved::Unchanged => Ok(see_other(&here.with("done", "unchanged").build())),
        Saved::Meanwhile => {
            let mistake = "Somebody has changed it meanwhile. Save again to put yours in its place.".to_owned();
            again(&app, &inside, form, mistake, StatusCode::CONFLICT).await
        }
    }
}

/// With what was typed, and what is wrong with it.
async fn again(
    app: &App,
    inside: &InOrganization,
    form: WebhookForm,
    mistake: String,
    status: StatusCode,
) -> Result<Response, PageError> {
    let mut look = look(app, inside).await?;
    match status {
        StatusCode::CONFLICT => look.entry.theirs = Some(look.seen.clone()),
        // A save of somebody else is still to be noticed.
        _ => look.seen = form.seen,
    }
    look.entry.again(form.webhook, mistake);
    look.mistakes = text_field::mistakes(&[&look.entry]);
    Ok((status, page(&look)?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendersForm {
    tell_senders: Option<String>,
    /// How it stood when the form was shown.
    seen: String,
}

async fn save_senders(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<SendersForm>,
) -> Result<Response, PageError> {
    may_save(&inside)?;
    let (wanted, was) = (form.tell_senders.is_some(), form.seen == "yes");
    let here = link(&inside.access.slug);
    let transaction = app.store.begin(&inside.access).await?;
    // Who did not touch the box does not undo what another has changed since.
    let changed = match wanted == was {
        true => None,
        false => store::limit_notice::set_tells_senders(transaction, wanted, &inside.access.email).await?,
    };
    let done = if changed.is_some() { "senders" } else { "senders-unchanged" };
    Ok(see_other(&here.with("done", done).build()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretForm {
    /// The secret that is to be replaced: sent twice it is replaced once.
    secret: String,
}

async fn renew_secret(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<SecretForm>,
) -> Result<Response, PageError> {
    may_save(&inside)?;
    let malformed = || PageError::Malformed("secret is not what the form was shown with".to_owned());
    let seen = WebhookSecret::from_words(&form.secret).ok_or_else(malformed)?;
    let transaction = app.store.begin(&inside.access).await?;
    let here = link(&inside.access.slug);
    match store::webhook::renew_secret(transaction, &seen, &inside.access.email).await? {
        Saved::Changed(_) => Ok(see_other(&here.with("done", "secret").build())),
        Saved::Unchanged => Ok(see_other(&here.with("done", "secret-unchanged").build())),
        Saved::Meanwhile => Ok(see_other(&here.with("done", "none").build())),
    }
}

/// Nothing is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestForm {}

async fn send_test(
    State(app): State<App>,
    inside: InOrganization,
    Form(TestForm {}): Form<TestForm>,
) -> Result<Response, PageError> {
    may_save(&inside)?;
    let (organization, now) = (inside.access.organization(), OffsetDateTime::now_utc());
    let notice = WebhookNotice {
        kind: Kind::Test,
        at: now,
        organization: inside.access.slug.clone(),
        subject: inside.access.email.clone(),
        text: format!("{} has asked for a test notice.", inside.access.email),
    };
    let mut transaction = app.store.begin(&inside.access).await?;
    let done = match store::webhook::has_enough_tests(&mut *transaction, organization).await? {
        true => "enough",
        false if store::webhook::note(&mut *transaction, organization, &notice, now).await? => "test",
        false => "none",
    };
    transaction.commit().await?;
    Ok(see_other(&link(&inside.access.slug).with("done", done).build()))
}
