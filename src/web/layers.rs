//! What holds for every response, so that no page has to remember it: a request id, the security
//! headers, the limits, and a page of ours for every error, wherever it arose.

use std::time::Duration;

use askama::Template;
use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{Html, IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    csrf::ProtectionError,
    limit::RequestBodyLimitLayer,
    normalize_path::NormalizePath,
    timeout::{RequestBodyDeadlineLayer, TimeoutLayer},
};
use tracing::Instrument;
use uuid::Uuid;

use super::{App, draft, error::Words, session};

/// How much a request may bring, and how long it may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// In bytes.
    body: usize,
    /// For the whole body to arrive.
    arrival: Duration,
    /// For the whole answer to be ready, the arrival included. Nothing here takes long but the store.
    answer: Duration,
}

/// Our largest form is a list of addresses.
const OF_FORMS: Limits = Limits { body: 64 * 1024, arrival: Duration::from_secs(10), answer: Duration::from_secs(20) };
/// A million accounts, over a slow line.
const OF_FILES: Limits =
    Limits { body: 64 * 1024 * 1024, arrival: Duration::from_secs(300), answer: Duration::from_secs(320) };

/// On every response. Scripts and styles come from our own files only, never from a page.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // With `no-referrer` browsers send `Origin: null` with our own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Puts the layers around the pages, and around those that take files.
pub fn wrap(pages: Router, files: Router, app: &App) -> Router {
    let pages = within(OF_FORMS, pages, app).merge(within(OF_FILES, files, app));
    // Has to stand in front of the router, which chooses the page by the path.
    Router::new()
        .fallback_service(NormalizePath::trim_trailing_slash(pages))
        .layer(from_fn_with_state(app.clone(), answer))
        .layer(CompressionLayer::new())
}

/// The layers that know how large a request may be, the outermost last.
fn within(limits: Limits, pages: Router, app: &App) -> Router {
    pages
        .layer(from_fn(draft::keep))
        .layer(session::layer(app.store.clone()))
        .layer(app.csrf.clone())
        .layer(DefaultBodyLimit::max(limits.body))
        .layer(RequestBodyLimitLayer::new(limits.body))
        .layer(RequestBodyDeadlineLayer::new(limits.arrival))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, limits.answer))
        .layer(CatchPanicLayer::new())
}

/// Gives the request its id, and finishes the response.
async fn answer(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = Uuid::now_v7();
    let span = tracing::info_span!("request", %id, method = %request.method(), path = request.uri().path());
    let response = next.run(request).instrument(span.clone()).await;
    tracing::debug!(parent: &span, status = response.status().as_u16(), "answered");
    let mut response = with_page(response, id);
    set_headers(response.headers_mut(), &app, id);
    response
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    words: Words,
    request_id: Uuid,
}

/// Replaces the body of an error that is not a page. The page is the same for everybody, signed in
/// or not, so that it tells nobody anything.
fn with_page(mut response: Response, request_id: Uuid) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_page =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    if !is_error || is_page {
        return response;
    }
    let words = match response.extensions().get::<Words>() {
        Some(words) => *words,
        None if response.extensions().get::<ProtectionError>().is_some() => Words {
            title: "This request came from another site",
            explanation: "Your browser says that another site sent this form, so nothing was changed. If you sent it \
                          yourself, go to your organization and fill in the form there. If this happens on every \
                          page, a proxy in between changes the Host or Origin header: tell the operator.",
        },
        None => Words::for_status(status),
    };
    let page = ErrorPage { words, request_id }.render().unwrap_or_else(|_| words.title.to_owned());
    let body = Html(page).into_response();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().extend(body.headers().clone());
    *response.body_mut() = Body::new(body.into_body());
    response
}

fn set_headers(headers: &mut HeaderMap, app: &App, request_id: Uuid) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if app.is_https() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    remove_cookie_as_it_was_set(headers);
}

/// Browsers ignore a `__Host-` cookie without `Secure` (RFC 6265bis §5.7), a removing one as well,
/// and the session layer removes without it.
fn remove_cookie_as_it_was_set(headers: &mut HeaderMap) {
    let removes = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.strip_prefix(session::COOKIE).is_some_and(|rest| rest.starts_with("=;")))
    };
    if headers.get(header::SET_COOKIE).is_some_and(removes) {
        let removal = format!("{}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax", session::COOKIE);
        if let Ok(value) = HeaderValue::from_str(&removal) {
            headers.insert(header::SET_COOKIE, value);
        }
    }
}
