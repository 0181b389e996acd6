//! What was typed into a form whose session had ended: it goes along through Sign in, inside the page and never in
//! an address, and stands in the form again afterwards. A layer keeps it; pages show it by taking a [`Draft`].

use std::collections::HashMap;

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, Query, Request},
    http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tower_sessions::Session;

use super::{App, error::PageError, form, session, sign_in};

/// In bytes. Our forms are a few lines; what is longer has to be entered again.
pub const LIMIT: usize = 16 * 1024;

const KEY: &str = "draft";

/// The field in the query of the page that is to look for a draft. It says only that; what was typed is in the session.
const MARK: &str = "draft";

/// Marks the answer to a form that was not saved because nobody is signed in.
#[derive(Debug, Clone)]
pub struct NotSignedIn {
    /// Where the form is shown.
    pub next: String,
}

/// Answers a form without a session with Sign in, which keeps what was sent. Forms of who is signed in only
/// pass by here: whether there is a session is for the page to find out.
pub async fn keep(request: Request, next: Next) -> Response {
    let is_kept =
        request.method() == Method::POST && is_small_form(request.headers()) && !sign_in::is_path(request.uri().path());
    if !is_kept {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    // Of a body that does not come whole or in time nothing is kept, and the page gets no field of it.
    let body = match to_bytes(body, LIMIT).await {
        Ok(body) => body,
        Err(error) => return refused(&error).into_response(),
    };
    let sent = body.clone();
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    match response.extensions().get::<NotSignedIn>() {
        Some(refused) => sign_in::keeping(&refused.next, as_text(sent)).unwrap_or(response),
        None => response,
    }
}

fn refused(error: &axum::Error) -> PageError {
    let is_slow = form::came_too_slowly(error);
    PageError::Status(if is_slow { StatusCode::REQUEST_TIMEOUT } else { StatusCode::BAD_REQUEST })
}

fn is_small_form(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_form =
        text(header::CONTENT_TYPE).is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
    let length = text(header::CONTENT_LENGTH).and_then(|value| value.parse::<usize>().ok());
    is_form && length.is_some_and(|length| length <= LIMIT)
}

/// Without passwords: those are never kept, nor shown again.
fn as_text(sent: Bytes) -> String {
    let form = String::from_utf8(sent.into()).unwrap_or_default();
    let is_password = |field: &&str| field.split('=').next().is_some_and(|name| name.contains("password"));
    form.split('&').filter(|field| !is_password(field)).collect::<Vec<_>>().join("&")
}

/// What a session keeps of it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    path: String,
    /// As the form sent it.
    form: String,
}

/// Puts it into the session of who has signed in now, if `next` is a page of an organization that they may see.
/// Returns where to go.
pub async fn remember(app: &App, session: &Session, next: String, form: String) -> Result<String, PageError> {
    let path = next.split(['?', '#']).next().unwrap_or_default();
    let slug = path.split('/').nth(1).unwrap_or_default();
    let Some(administrator) = session::administrator(session).await? else { return Ok(next) };
    let may_see = app.store.access(administrator).await?.iter().any(|access| access.slug == slug && !access.suspended);
    if !may_see || form.is_empty() || form.len() > LIMIT {
        return Ok(next);
    }
    session.insert(KEY, Kept { path: path.to_owned(), form }).await?;
    Ok(format!("{next}{}{MARK}", if next.contains('?') { '&' } else { '?' }))
}

/// What was typed into the form of this page before the session ended; shown once.
#[derive(Debug, Default)]
pub struct Draft(Option<HashMap<String, String>>);

impl Draft {
    /// What stood in a field; `None` if there is nothing to be shown again.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Draft {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PageError> {
        // Sign in leads here with this mark; without it nobody has to look into the session.
        if !parts.uri.query().is_some_and(|query| query.split('&').any(|field| field == MARK)) {
            return Ok(Self::default());
        }
        let Some(session) = parts.extensions.get::<Session>() else { return Ok(Self::default()) };
        let kept = session.get::<Kept>(KEY).await?.filter(|kept| is_of(kept, parts.uri.path()));
        let Some(kept) = kept else { return Ok(Self::default()) };
        session.remove::<Kept>(KEY).await?;
        Ok(Self(fields(&kept.form)))
    }
}

/// Whether it was typed on this page: forms are sent to the page's own path or to one below it.
fn is_of(kept: &Kept, page: &str) -> bool {
    kept.path.strip_prefix(page).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A form's body is written as a query is.
fn fields(form: &str) -> Option<HashMap<String, String>> {
    let query: Uri = format!("/?{form}").parse().ok()?;
    Query::<HashMap<String, String>>::try_from_uri(&query).ok().map(|Query(fields)| fields)
}
