//! Signing in and out, and what a session is worth.
//! The page of the same name in `src/web`, and the sessions behind it.

use outgate::{policy::Role, web};
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use crate::support::{
    Installation, Pages,
    browser::{PASSWORD, PASSWORD_HASH},
};

const REFUSED: &str = "The mail address or the password is not right. Check both and try again.";

#[sqlx::test]
async fn an_administrator_signs_in_and_stands_before_the_organization(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "ada@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let pages = Pages::of(&installation).await;

    let page = pages.browser().get("/").await;
    assert_eq!(page.path, "/sign-in");
    assert!(page.html.contains("<h1>Sign in</h1>"), "{}", page.html);

    let browser = pages.browser();
    let page = browser.sign_in("  Ada@ACME.example ", PASSWORD).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/acme/administration"));
    assert!(page.text().contains("ada@acme.example"), "{}", page.text());
}

#[sqlx::test]
async fn every_refusal_looks_the_same_whoever_has_the_address(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    for email in ["ada@acme.example", "gone@acme.example"] {
        installation.administrator(&acme, email, &PASSWORD_HASH, Role::Administrator).await;
    }
    sqlx::query("update administrator set status = 'suspended' where email = 'gone@acme.example'")
        .execute(&installation.owner)
        .await
        .unwrap();
    let pages = Pages::of(&installation).await;

    let mut shown = Vec::new();
    for (email, password) in [
        ("ada@acme.example", "wrong"),
        ("nobody@acme.example", PASSWORD),
        ("gone@acme.example", PASSWORD),
        ("no address at all", PASSWORD),
        ("ada@acme.example", &"x".repeat(web::password::MAXIMUM_LENGTH + 1)),
    ] {
        let browser = pages.browser();
        let page = browser.sign_in(email, password).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{email}");
        assert!(page.text().contains(REFUSED), "{}", page.text());
        assert!(page.html.contains("<title>Error: Sign in"), "{}", page.html);
        assert_eq!(page.field("email"), email, "what was typed stays");
        assert_eq!(browser.cookie(), None, "{email} got a session");
        shown.push(page.html.replace(email, ""));
    }
    shown.dedup();
    assert_eq!(shown.len(), 1, "{shown:#?}");
}

#[tokio::test]
async fn an_unknown_address_costs_as_much_work_as_a_known_one() {
    let verifier = web::password::Verifier::with_cores(1).unwrap();
    let took = async |hash: Option<String>| {
        let started = std::time::Instant::now();
        assert!(!verifier.verify("wrong".to_owned(), hash).await.unwrap());
        started.elapsed()
    };
    // Without the work the answer takes microseconds, however often it is asked for; others on the machine slow
    // down the one or the other, but not always.
    let (mut known, mut unknown) = (std::time::Duration::MAX, std::time::Duration::MAX);
    for _ in 0..100 {
        known = known.min(took(Some(PASSWORD_HASH.clone())).await);
        unknown = unknown.min(took(None).await);
        if unknown * 3 > known {
            return;
        }
    }
    panic!("known {known:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn more_sign_ins_than_can_be_checked_are_turned_away_at_once() {
    let verifier = web::password::Verifier::with_cores(1).unwrap();
    let attempts: Vec<_> = (0..64)
        .map(|_| {
            let verifier = verifier.clone();
            tokio::spawn(async move { verifier.verify("wrong".to_owned(), None).await })
        })
        .collect();
    let mut busy = 0;
    for attempt in attempts {
        busy += usize::from(attempt.await.unwrap() == Err(web::password::Busy));
    }
    assert!((1..64).contains(&busy), "{busy} of 64 were turned away");
    assert_eq!(verifier.verify("wrong".to_owned(), None).await, Ok(false), "afterwards there is room again");
}

#[sqlx::test]
async fn an_empty_field_says_what_to_enter(db: PgPool) {
    let pages = Pages::of(&Installation::on(db)).await;
    let page = pages.browser().sign_in(" ", "").await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    for words in ["There is a problem", "Enter your mail address.", "Enter your password."] {
        assert!(page.text().contains(words), "{}", page.text());
    }
}

#[sqlx::test]
async fn signing_in_leads_on_to_the_page_that_was_asked_for_but_never_to_another_site(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "ada@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let pages = Pages::of(&installation).await;

    let asked = "/acme/web-mail-cloud/mail-account-manager?q=ann%40acme";
    let page = pages.browser().get(asked).await;
    assert_eq!(page.field("next"), asked);

    for (next, expected) in [
        (asked, asked),
        ("/sign-makers/administration", "/sign-makers/administration"),
        ("/", "/"),
        ("", "/"),
        ("//evil.example", "/"),
        ("///evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("https://evil.example", "/"),
        ("https:evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("evil.example", "/"),
        ("@evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("/sign-out", "/"),
        ("/sign-in?next=/", "/"),
        ("/acme\r\nset-cookie: a=b", "/"),
    ] {
        let browser = pages.browser();
        let fields = [("email", "ada@acme.example"), ("password", PASSWORD), ("next", next)];
        let page = browser.once(browser.request(Method::POST, "/sign-in").form(&fields), "/sign-in").await;
        assert_eq!((page.status, page.location()), (StatusCode::SEE_OTHER, expected), "{next:?}");
    }
}

#[sqlx::test]
async fn where_a_browser_would_not_keep_the_session_the_page_says_what_to_do(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "ada@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let pages = Pages::of(&installation).await;
    for (host, scheme, keeps) in [
        ("outgate.acme.example:8080", "http", false),
        ("192.0.2.7", "http", false),
        ("[2001:db8::7]:8080", "http", false),
        ("outgate.acme.example", "https", true),
        ("localhost:8080", "http", true),
        ("127.0.0.1:8080", "http", true),
        ("[::1]:8080", "http", true),
        ("outgate.localhost", "http", true),
    ] {
        let browser = pages.browser();
        let request = browser
            .request(Method::POST, "/sign-in")
            .header("host", host)
            .header("origin", format!("{scheme}://{host}"))
            .form(&[("email", "ada@acme.example"), ("password", PASSWORD)]);
        let page = browser.once(request, "/sign-in").await;
        if keeps {
            assert_eq!(page.status, StatusCode::SEE_OTHER, "{scheme}://{host}");
        } else {
            assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{scheme}://{host}");
            assert!(page.text().contains("open these pages with https://"), "{}", page.text());
            assert_eq!(browser.cookie(), None);
        }
    }
}

#[sqlx::test]
async fn looking_around_without_signing_in_leaves_no_session_behind(db: PgPool) {
    let installation = Installation::on(db);
    let pages = Pages::of(&installation).await;
    let browser = pages.browser();
    for path in ["/", "/sign-in", "/acme/administration", "/healthz"] {
        browser.get(path).await;
    }
    assert_eq!(browser.cookie(), None);
    assert_eq!(sessions(&installation).await, 0);
}

#[sqlx::test]
async fn the_store_keeps_only_the_hash_of_a_session_and_the_cookie_is_well_guarded(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "ada@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let pages = Pages::of(&installation).await;
    let browser = pages.browser();

    let fields = [("email", "ada@acme.example"), ("password", PASSWORD)];
    let page = browser.once(browser.request(Method::POST, "/sign-in").form(&fields), "/sign-in").await;

    let cookie = page.headers["set-cookie"].to_str().unwrap();
    for part in ["__Host-outgate=", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    let id = browser.cookie().unwrap().split_once('=').unwrap().1.to_owned();
    let rows: Vec<String> =
        sqlx::query_scalar("select session::text from session").fetch_all(&installation.owner).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert!(!rows[0].contains(&id), "{}", rows[0]);
    let length: i32 =
        sqlx::query_scalar("select length(id_hash) from session").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(length, 32);
}

#[sqlx::test]
async fn signing_in_gives_a_new_session_and_signing_out_ends_it(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let first = browser.cookie();

    browser.sign_in("administrator@acme.example", PASSWORD).await;
    let second = browser.cookie();
    assert_ne!(first, second, "a session that was planted is worth nothing");
    assert_eq!(sessions(&installation).await, 1, "the one before is gone");
    let thief = pages.browser();
    thief.set_cookie(first);
    assert_eq!(thief.get("/acme/administration").await.path, "/sign-in?next=%2Facme%2Fadministration");

    let page = browser.submit("/sign-out", &[]).await;
    assert!(page.text().contains("You are signed out."), "{}", page.text());
    assert_eq!((browser.cookie(), sessions(&installation).await), (None, 0));
    thief.set_cookie(second);
    assert_eq!(thief.get("/").await.path, "/sign-in");
}

#[sqlx::test]
async fn a_removed_cookie_is_removed_in_the_form_that_browsers_accept(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = browser.once(browser.request(Method::POST, "/sign-out"), "/sign-out").await;
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    assert_eq!(cookie, "__Host-outgate=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
}

#[sqlx::test]
async fn a_session_ends_after_half_an_hour_unused_and_after_twelve_hours_in_any_case(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;

    age(&installation, "touched_at = touched_at - interval '29 minutes'").await;
    assert_eq!(browser.get("/").await.path, "/acme/administration", "using it keeps it");
    age(&installation, "touched_at = touched_at - interval '29 minutes'").await;
    assert_eq!(browser.get("/").await.path, "/acme/administration");
    age(&installation, "touched_at = touched_at - interval '31 minutes'").await;
    let cookie = browser.cookie();
    assert_eq!(browser.get("/").await.path, "/sign-in");

    age(&installation, "touched_at = now()").await;
    browser.set_cookie(cookie);
    assert_eq!(browser.get("/").await.path, "/acme/administration");
    age(&installation, "expires_at = expires_at - interval '12 hours'").await;
    assert_eq!(browser.get("/").await.path, "/sign-in");
}

#[sqlx::test]
async fn use_is_written_down_at_most_once_a_minute(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let version = || async {
        sqlx::query_scalar::<_, String>("select xmin::text from session").fetch_one(&installation.owner).await.unwrap()
    };

    let before = version().await;
    for _ in 0..3 {
        browser.get("/acme/administration").await;
    }
    assert_eq!(version().await, before);
    age(&installation, "touched_at = now() - interval '61 seconds'").await;
    let before = version().await;
    browser.get("/acme/administration").await;
    assert_ne!(version().await, before);
}

#[sqlx::test]
async fn a_suspended_administrator_is_out_at_once(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;

    sqlx::query("update administrator set status = 'suspended'").execute(&installation.owner).await.unwrap();

    assert_eq!(browser.get("/acme/administration").await.path, "/sign-in?next=%2Facme%2Fadministration");
    assert_eq!(sessions(&installation).await, 0);
}

#[sqlx::test]
async fn what_is_sent_after_the_session_ended_is_not_saved_and_the_page_says_so(db: PgPool) {
    let installation = Installation::on(db);
    installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let form = "/acme/web-mail-cloud/outbound-mail-gateway";
    let page = pages.browser().submit(form, &[("outbound_gateway", "mail.example.com")]).await;
    assert!(page.text().contains("You had been signed out, so nothing was saved."), "{}", page.text());
    assert_eq!(page.field("next"), form);
}

#[sqlx::test]
async fn who_looks_after_several_organizations_chooses_one(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    for tenant in [&acme, &other] {
        installation.administrator(tenant, "ada@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    }
    let pages = Pages::of(&installation).await;
    let browser = pages.browser();
    let page = browser.sign_in("ada@acme.example", PASSWORD).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/"));
    assert_eq!(page.link("other"), "/other/administration");
    assert_eq!(browser.get("/other/administration").await.link("Change organization"), "/");
}

async fn sessions(installation: &Installation) -> i64 {
    sqlx::query_scalar("select count(*) from session").fetch_one(&installation.owner).await.unwrap()
}

async fn age(installation: &Installation, how: &'static str) {
    let statement = sqlx::AssertSqlSafe(format!("update session set {how}"));
    sqlx::query(statement).execute(&installation.owner).await.unwrap();
}
