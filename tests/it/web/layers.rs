//! What holds on every path: headers, limits, error pages, and no request from another site.
//! Asked of every route that the application has, so that a new page cannot forget them.

use std::time::Duration;

use outgate::{policy::Role, web};
use reqwest::{Method, StatusCode, header};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, browser};

const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                   form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

#[sqlx::test]
async fn every_response_carries_the_security_headers(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;

    for (browser, who) in [(&pages.browser(), "nobody"), (&browser, "an administrator")] {
        for route in web::routes() {
            if route.path == "/sign-out" {
                continue;
            }
            let path = route.path.replace("{organization}", "acme").replace("{account}", &ann.to_string());
            let page = browser.once(browser.request(route.method.clone(), &path), &path).await;
            guarded(&page, &format!("{} {path} as {who}", route.method));
        }
        for (method, path, status) in [
            (Method::GET, "/no/such/page", StatusCode::NOT_FOUND),
            (Method::PUT, "/sign-in", StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/sign-out", StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let page = browser.once(browser.request(method, path), path).await;
            assert_eq!(page.status, status, "{path}");
            guarded(&page, path);
            assert!(page.html.contains("Go to your organization"), "{path}: {}", page.html);
        }
    }
}

fn guarded(page: &Page, what: &str) {
    let header = |name: &str| page.headers.get(name).map_or("", |value| value.to_str().unwrap());
    assert_eq!(header("content-security-policy"), CSP, "{what}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header("referrer-policy"), "same-origin", "{what}");
    assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{what}");
    assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{what}");
    assert!(header("permissions-policy").contains("camera=()"), "{what}");
    let kept = what.contains("/static/");
    assert_eq!(header("cache-control"), if kept { "no-cache" } else { "no-store" }, "{what}");
    for inline in [" style=", "<style", " onclick=", "javascript:"] {
        assert!(!page.html.contains(inline) || kept, "{inline} in {what}");
    }
}

#[sqlx::test]
async fn browsers_are_told_to_insist_on_https_only_where_there_is_https(db: PgPool) {
    let installation = Installation::on(db);
    let store = installation.web_store().await;
    for (url, expected) in
        [(None, false), (Some("http://outgate.example"), false), (Some("https://outgate.example"), true)]
    {
        let settings = web::Settings { public_url: url.map(|url| url.parse().unwrap()), ..browser::settings() };
        let pages = Pages::with(store.clone(), settings).await;
        let page = pages.browser().get("/sign-in").await;
        assert_eq!(page.headers.contains_key(header::STRICT_TRANSPORT_SECURITY), expected, "{url:?}");
    }
}

#[sqlx::test]
async fn a_form_that_another_site_sends_is_refused(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::with(
        installation.web_store().await,
        web::Settings { public_url: Some("https://Outgate.Example:443/".parse().unwrap()), ..browser::settings() },
    )
    .await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let form = page_of(&acme, "outbound-mail-gateway");
    let own = format!("http://{}", pages.address);
    for (name, value, status) in [
        ("sec-fetch-site", "cross-site", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "same-site", StatusCode::FORBIDDEN),
        ("origin", "https://evil.example", StatusCode::FORBIDDEN),
        ("origin", "null", StatusCode::FORBIDDEN),
        ("origin", own.as_str(), StatusCode::SEE_OTHER),
        ("origin", "https://outgate.example", StatusCode::SEE_OTHER),
        ("sec-fetch-site", "same-origin", StatusCode::SEE_OTHER),
    ] {
        for path in [form.as_str(), "/sign-in"] {
            let fields: &[(&str, &str)] = match path {
                "/sign-in" => &[("email", "administrator@acme.example"), ("password", browser::PASSWORD)],
                _ => &[("outbound_gateway", "mail.example.com")],
            };
            let request = browser.request(Method::POST, path).header(name, value).form(fields);
            let page = browser.once(request, path).await;
            assert_eq!(page.status, status, "{path} {name}: {value}");
            if status == StatusCode::FORBIDDEN {
                assert!(page.text().contains("This request came from another site"), "{}", page.text());
                guarded(&page, "a refused request");
            }
        }
    }
    let request = browser.request(Method::POST, "/sign-out").header("sec-fetch-site", "cross-site");
    assert_eq!(browser.once(request, "/sign-out").await.status, StatusCode::FORBIDDEN, "nor may it sign anybody out");
    assert_eq!(browser.get("/").await.path, "/acme/administration");
}

#[sqlx::test]
async fn only_forms_of_a_sensible_size_are_taken(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let form = page_of(&acme, "outbound-mail-gateway");
    let large = "x".repeat(70_000);
    let page = browser.submit(&form, &[("outbound_gateway", &large)]).await;
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(page.text().contains("That is too much"), "{}", page.text());

    let text =
        browser.request(Method::POST, &form).header(header::CONTENT_TYPE, "text/plain").body("outbound_gateway=a");
    let page = browser.once(text, &form).await;
    assert_eq!(page.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(page.text().contains("That is not a form"), "{}", page.text());
}

#[sqlx::test]
async fn a_slash_at_the_end_is_forgiven(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    assert_eq!(browser.get("/acme/web-mail-cloud/").await.status, StatusCode::OK);
    assert_eq!(browser.get("/acme/").await.path, "/acme/administration");
}

#[sqlx::test]
async fn files_beside_the_pages_may_be_kept_for_ever_under_their_hash(db: PgPool) {
    let pages = Pages::of(&Installation::on(db)).await;
    let browser = pages.browser();
    let page = browser.get("/sign-in").await;
    for file in ["/static/outgate.css", "/static/outgate.js", "/static/icon.svg"] {
        let start = page.html.find(file).expect(file);
        let url = page.html[start..].split_once('"').unwrap().0;
        let got = browser.get(url).await;
        assert_eq!(got.status, StatusCode::OK, "{url}");
        assert_eq!(got.headers[header::CACHE_CONTROL], "public, max-age=31536000, immutable", "{url}");
        let other = browser.get(&format!("{file}?0000")).await;
        assert_eq!(other.headers[header::CACHE_CONTROL], "no-cache", "another version is not kept");
    }
}

#[sqlx::test]
async fn pages_are_compressed_for_who_takes_it(db: PgPool) {
    let pages = Pages::of(&Installation::on(db)).await;
    let browser = pages.browser();
    let request = browser.request(Method::GET, "/static/outgate.css").header(header::ACCEPT_ENCODING, "gzip");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
}

#[sqlx::test]
async fn health_says_that_the_process_is_up_and_readiness_that_the_store_answers(db: PgPool) {
    let installation = Installation::on(db);
    let pool = installation.pool_as("outgate_web").await;
    let pages = Pages::with(outgate::store::WebStore::new(pool.clone()), browser::settings()).await;
    let browser = pages.browser();
    assert_eq!(browser.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(browser.get("/readyz").await.status, StatusCode::OK);

    pool.close().await;

    assert_eq!(browser.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(browser.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    browser.set_cookie(Some(format!("__Host-outgate={}", "A".repeat(22))));
    let page = browser.get("/acme/administration").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.text().contains("Outgate cannot answer right now"), "{}", page.text());
    guarded(&page, "a page without the store");
}

#[sqlx::test]
async fn a_failure_of_ours_shows_a_number_and_nothing_else(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    sqlx::query("alter table mail_account rename to lost").execute(&installation.owner).await.unwrap();
    let page = browser.get(&page_of(&acme, "mail-account-manager")).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(page.text().contains("Something went wrong"), "{}", page.text());
    assert!(page.text().contains(page.headers["x-request-id"].to_str().unwrap()), "{}", page.text());
    assert!(!page.html.contains("mail_account") && !page.html.contains("relation"), "{}", page.html);
    guarded(&page, "a failure");
}

#[sqlx::test]
async fn a_page_that_panics_shows_what_any_failure_shows(db: PgPool) {
    let store = Installation::on(db).web_store().await;
    let app = web::App::new(browser::settings(), store).unwrap();
    let broken =
        axum::Router::new().route("/broken", axum::routing::get(async || -> &'static str { panic!("a secret") }));
    let request = axum::http::Request::get("/broken").body(axum::body::Body::empty()).unwrap();
    let response =
        tower::ServiceExt::oneshot(web::layers::wrap(broken, axum::Router::new(), &app), request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()["content-security-policy"], CSP);
    let body = axum::body::to_bytes(response.into_body(), 100_000).await.unwrap();
    let html = String::from_utf8_lossy(&body);
    assert!(html.contains("Something went wrong") && !html.contains("a secret"), "{html}");
}

#[sqlx::test]
async fn a_client_that_never_finishes_its_request_is_cut_off(db: PgPool) {
    let pages = Pages::of(&Installation::on(db)).await;
    let body = "POST /sign-in HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 100\r\n\r\nemail=";
    let unfinished = [("a header", "GET / HTTP/1.1\r\nhost: a\r\nx-slow: "), ("a body", body)];
    let attempts = unfinished.map(|(what, bytes)| async move {
        let mut stream = tokio::net::TcpStream::connect(pages.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await.expect(what).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains("200 OK"), "{what}: {answer}");
        answer
    });
    let [header, body] = attempts;
    let (_, body) = tokio::join!(header, body);
    assert!(body.starts_with("HTTP/1.1 408 ") && body.contains("The request did not arrive in time."), "{body}");
}

#[sqlx::test]
async fn a_header_larger_than_any_browser_sends_is_refused(db: PgPool) {
    let pages = Pages::of(&Installation::on(db)).await;
    let browser = pages.browser();
    for (bytes, status) in [(8_000, StatusCode::OK), (300_000, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)] {
        let request = browser.request(Method::GET, "/sign-in").header("x-large", "a".repeat(bytes));
        assert_eq!(request.send().await.unwrap().status(), status, "{bytes}");
    }
}

#[tokio::test]
async fn a_store_that_hangs_is_a_page_that_says_so() {
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(100))
        .connect_lazy(&format!("postgres://nobody@{}/none", hangs.local_addr().unwrap()))
        .unwrap();
    let pages = Pages::with(outgate::store::WebStore::new(store), browser::settings()).await;
    let browser = pages.browser();
    browser.set_cookie(Some(format!("__Host-outgate={}", "A".repeat(22))));
    for path in ["/", "/sign-in", "/acme/administration", "/readyz"] {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(page.text().contains("Its store does not answer."), "{}", page.text());
        assert!(!page.text().contains("Nothing was changed"), "nobody knows: {}", page.text());
        guarded(&page, path);
    }
}

#[sqlx::test]
async fn a_cookie_that_is_no_session_is_no_trouble(db: PgPool) {
    let installation = Installation::on(db);
    let pages = Pages::of(&installation).await;
    for value in ["", "x", "AAAAAAAAAAAAAAAAAAAAAA", "%00", &"A".repeat(3000)] {
        let browser: Browser = pages.browser();
        browser.set_cookie(Some(format!("__Host-outgate={value}")));
        assert_eq!(browser.get("/").await.path, "/sign-in", "{value:?}");
    }
}
