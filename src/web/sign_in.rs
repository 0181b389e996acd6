//! Sign in, and Sign out. Every refusal looks the same and takes as long, whoever has the address,
//! so that nobody learns here who is an administrator.

use std::net::IpAddr;

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tower_sessions::Session;

use super::{
    App, Route,
    client_address::ClientAddress,
    draft::{self, NotSignedIn},
    error::{PageError, see_other},
    form::{Form, Query},
    link::Link,
    page,
    password::{self, Busy},
    session,
};
use crate::mail::{Mailbox, id::AdministratorId};

const PATH: &str = "/sign-in";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, sign_in), Route::post("/sign-out", sign_out)]
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    email: String,
    next: String,
    /// What was sent without a session, to be shown again.
    draft: String,
    notice: Option<&'static str>,
    mistakes: Vec<Mistake>,
}

/// What is wrong with a field, and what to type.
struct Mistake {
    field: &'static str,
    words: &'static str,
}

impl SignIn {
    /// The mistake of one field, to stand beside it.
    fn mistake(&self, field: &str) -> Option<&'static str> {
        self.mistakes.iter().find(|mistake| mistake.field == field).map(|mistake| mistake.words)
    }
}

#[derive(Deserialize)]
struct SignInQuery {
    #[serde(default)]
    next: String,
    unsaved: Option<String>,
    #[serde(rename = "signed-out")]
    signed_out: Option<String>,
}

/// To Sign in, and from there on to `next`. `unsaved`: something was sent that is now lost, unless the layer in
/// [`draft`] keeps it.
pub fn redirect(next: &str, unsaved: bool) -> Response {
    let path = if next == "/" { "" } else { next };
    let mut response =
        see_other(&Link::to(PATH).with("next", path).with("unsaved", if unsaved { "1" } else { "" }).build());
    if unsaved {
        response.extensions_mut().insert(NotSignedIn { next: next.to_owned() });
    }
    response
}

/// Whether what is sent there is about signing in or out, and is never kept.
pub fn is_path(path: &str) -> bool {
    matches!(path.trim_end_matches('/'), PATH | "/sign-out")
}

/// Sign in, with what was sent to `next`; `None` if there is nothing to keep.
pub fn keeping(next: &str, draft: String) -> Option<Response> {
    let notice = "You had been signed out, so nothing was saved. Sign in: what you typed is kept and shown again.";
    let sign_in =
        SignIn { email: String::new(), next: own_path(next), draft, notice: Some(notice), mistakes: Vec::new() };
    let page = page(&sign_in).ok().filter(|_| !sign_in.draft.is_empty())?;
    Some((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
}

async fn show(
    State(app): State<App>,
    session: Session,
    Query(query): Query<SignInQuery>,
) -> Result<Response, PageError> {
    let next = own_path(&query.next);
    if let Some(administrator) = session::administrator(&session).await?
        && !app.store.access(administrator).await?.is_empty()
    {
        return Ok(see_other(&next));
    }
    let notice = if query.unsaved.is_some() {
        Some("You had been signed out, so nothing was saved. Sign in, then enter it again.")
    } else if query.signed_out.is_some() {
        Some("You are signed out.")
    } else {
        None
    };
    page(&SignIn { email: String::new(), next, draft: String::new(), notice, mistakes: Vec::new() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignInForm {
    email: String,
    password: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    draft: String,
}

async fn sign_in(
    State(app): State<App>,
    session: Session,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    Form(form): Form<SignInForm>,
) -> Result<Response, PageError> {
    if !keeps_the_session(&headers) {
        let words = "Browsers keep nobody signed in over http://. To sign in, open these pages with https://, or on \
                     this machine itself at http://127.0.0.1. Your password was not checked.";
        return again(form, StatusCode::UNPROCESSABLE_ENTITY, vec![Mistake { field: "email", words }]);
    }
    let missing = missing(&form);
    if !missing.is_empty() {
        return again(form, StatusCode::UNPROCESSABLE_ENTITY, missing);
    }
    match check(&app, &form.email, &form.password).await? {
        Ok(Some(administrator)) => {
            session::sign_in(&session, administrator).await?;
            tracing::info!(administrator.id = %administrator, client = client.map(tracing::field::display), "signed in");
            let next = own_path(&form.next);
            Ok(see_other(&draft::remember(&app, &session, next, form.draft).await?))
        }
        Ok(None) => {
            // Not what was typed: people type their password there.
            tracing::info!(client = client.map(tracing::field::display), "a sign-in was refused");
            let words = "The mail address or the password is not right. Check both and try again.";
            again(form, StatusCode::UNPROCESSABLE_ENTITY, vec![Mistake { field: "email", words }])
        }
        Err(Busy) => {
            let words = "Too many people are signing in. Your password was not checked: wait a moment and try again.";
            let mut response =
                again(form, StatusCode::SERVICE_UNAVAILABLE, vec![Mistake { field: "password", words }])?;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            Ok(response)
        }
    }
}

/// Whether the browser will bring the session's cookie back, which it does to trustworthy origins
/// only (W3C Secure Contexts §3.1): https, or the machine that it runs on.
fn keeps_the_session(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()?.parse::<Uri>().ok());
    let Some(origin) = origin.filter(|origin| origin.scheme_str() == Some("http")) else { return true };
    let host = origin.host().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn missing(form: &SignInForm) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if form.email.trim().is_empty() {
        mistakes.push(Mistake { field: "email", words: "Enter your mail address." });
    }
    if form.password.is_empty() {
        mistakes.push(Mistake { field: "password", words: "Enter your password." });
    }
    mistakes
}

fn again(form: SignInForm, status: StatusCode, mistakes: Vec<Mistake>) -> Result<Response, PageError> {
    let next = own_path(&form.next);
    let page = page(&SignIn { email: form.email, next, draft: form.draft, notice: None, mistakes })?;
    Ok((status, page).into_response())
}

/// Who this is; `None` if the password is not theirs, if nobody has the address, or if there is
/// nothing that they may see. Always hashes once.
async fn check(app: &App, email: &str, password: &str) -> Result<Result<Option<AdministratorId>, Busy>, PageError> {
    if password.len() > password::MAXIMUM_LENGTH {
        return Ok(Ok(None));
    }
    let found = match email.parse::<Mailbox>() {
        Ok(email) => app.store.administrator_signing_in(&email).await?,
        Err(_) => None,
    };
    let hash = found.as_ref().map(|found| found.password_hash.clone());
    let verified = match app.passwords.verify(password.to_owned(), hash).await {
        Ok(verified) => verified,
        Err(busy) => return Ok(Err(busy)),
    };
    let Some(found) = found.filter(|found| verified && !found.suspended) else { return Ok(Ok(None)) };
    let lets_in = !app.store.access(found.id).await?.is_empty();
    Ok(Ok(lets_in.then_some(found.id)))
}

async fn sign_out(session: Session) -> Result<Response, PageError> {
    session.flush().await?;
    Ok(see_other("/sign-in?signed-out"))
}

/// `next` if it is a path of this site; `/` for anything that a browser could take for another one.
fn own_path(next: &str) -> String {
    let first_segment = next.trim_start_matches('/').split(['/', '?', '#']).next();
    let is_own = next.starts_with('/')
        && !next.starts_with("//")
        && !matches!(first_segment, Some("sign-in" | "sign-out"))
        && next.len() <= 2048
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_own { next.to_owned() } else { "/".to_owned() }
}
