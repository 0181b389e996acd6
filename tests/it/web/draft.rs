//! What was typed into a form whose session had ended is not lost.
//! Of forms at every scope; signing in itself is `sign_in`'s.

use outgate::policy::Role;
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use super::page_of;
use crate::support::{
    Browser, Installation, Page, Pages,
    browser::{PASSWORD, PASSWORD_HASH},
};

const FIELD: &str = "outbound_gateway";
const TYPED: &str = "a.example.com:587 & <b>";
const NOTICE: &str = "You had been signed out. This is what you typed: nothing is saved yet.";

struct Scene {
    installation: Installation,
    pages: Pages,
    browser: Browser,
    forms: [String; 2],
}

/// A browser whose session has ended, and the forms of all users and of one.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    end_sessions(&installation).await;
    let forms = ["outbound-mail-gateway".to_owned(), format!("mail-account-manager/{ann}/outbound-gateway?q=a%26b")];
    Scene { installation, pages, browser, forms: forms.map(|form| page_of(&acme, &form)) }
}

async fn end_sessions(installation: &Installation) {
    sqlx::query("delete from session").execute(&installation.owner).await.unwrap();
}

/// Signs in on the page that a form was answered with.
async fn sign_in_there(browser: &Browser, page: &Page, email: &str, password: &str) -> Page {
    let (next, draft) = (page.field("next"), page.field("draft"));
    let fields = [("email", email), ("password", password), ("next", next.as_str()), ("draft", draft.as_str())];
    browser.submit("/sign-in", &fields).await
}

#[sqlx::test]
async fn after_signing_in_again_the_form_shows_what_was_typed_once_and_nothing_was_saved(db: PgPool) {
    let Scene { installation, browser, forms, .. } = scene(db).await;
    for form in &forms {
        end_sessions(&installation).await;
        let page = browser.submit(form, &[(FIELD, TYPED), ("seen", "")]).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(page.text().contains("You had been signed out, so nothing was saved."), "{}", page.text());
        assert_eq!(&page.field("next"), form);

        let page = sign_in_there(&browser, &page, "administrator@acme.example", PASSWORD).await;
        assert_eq!(page.path.replace("?draft", "").replace("&draft", ""), *form);
        assert_eq!(page.field(FIELD), TYPED);
        assert!(page.text().contains(NOTICE), "{}", page.text());

        let again = browser.get(&page.path).await;
        assert_eq!(again.field(FIELD), "", "once");
        assert!(!again.text().contains(NOTICE));
    }
    let gateways: i64 =
        sqlx::query_scalar("select count(*) from gateway").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(gateways, 0);
}

#[sqlx::test]
async fn a_mistyped_password_does_not_lose_it_either(db: PgPool) {
    let Scene { browser, forms, .. } = scene(db).await;
    let page = browser.submit(&forms[0], &[(FIELD, TYPED), ("seen", "")]).await;
    let page = sign_in_there(&browser, &page, "administrator@acme.example", "wrong").await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = sign_in_there(&browser, &page, "administrator@acme.example", PASSWORD).await;
    assert_eq!(page.field(FIELD), TYPED);
}

#[sqlx::test]
async fn a_form_without_a_session_leaves_none_behind_and_a_password_is_never_kept(db: PgPool) {
    let Scene { installation, pages, forms, .. } = scene(db).await;
    let stranger = pages.browser();
    stranger.submit(&forms[0], &[(FIELD, TYPED)]).await;
    let page = stranger.sign_in("administrator@acme.example", "my secret").await;
    assert!(!page.html.contains("my secret") && !page.html.contains("name=\"draft\""), "{}", page.html);
    assert_eq!(stranger.cookie(), None);
    let sessions: i64 =
        sqlx::query_scalar("select count(*) from session").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(sessions, 0);
}

#[sqlx::test]
async fn who_may_not_see_the_organization_gets_nothing_of_it(db: PgPool) {
    let Scene { installation, pages, browser, forms, .. } = scene(db).await;
    let other = installation.organization("other").await;
    installation.administrator(&other, "eve@other.example", &PASSWORD_HASH, Role::Administrator).await;
    let page = browser.submit(&forms[0], &[(FIELD, TYPED)]).await;
    let page = sign_in_there(&pages.browser(), &page, "eve@other.example", PASSWORD).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    let kept: i64 = sqlx::query_scalar("select count(*) from session where data::text like '%example.com%'")
        .fetch_one(&installation.owner)
        .await
        .unwrap();
    assert_eq!(kept, 0);
    // Who may only read sees the form as it is.
    let page = browser.submit(&forms[0], &[(FIELD, TYPED)]).await;
    sqlx::query("update administrator_role set role = 'admin-assistant'").execute(&installation.owner).await.unwrap();
    let page = sign_in_there(&browser, &page, "administrator@acme.example", PASSWORD).await;
    assert_eq!(page.field(FIELD), "");
}

#[sqlx::test]
async fn what_is_too_long_or_no_plain_form_has_to_be_sent_again(db: PgPool) {
    let Scene { browser, forms, .. } = scene(db).await;
    let long = browser.submit(&forms[0], &[(FIELD, &"x".repeat(17 * 1024))]).await;
    assert!(long.text().contains("so nothing was saved. Sign in, then enter it again."), "{}", long.text());
    let upload = browser
        .request(Method::POST, &forms[0])
        .header("content-type", "multipart/form-data; boundary=x")
        .body("--x--");
    let upload = browser.once(upload, &forms[0]).await;
    assert_eq!(upload.status, StatusCode::SEE_OTHER);
    assert!(upload.location().ends_with("&unsaved=1"), "{}", upload.location());
}

#[sqlx::test]
async fn the_forms_of_accounts_show_again_what_was_typed_and_what_changed_meanwhile(db: PgPool) {
    let Scene { installation, browser, .. } = scene(db).await;
    let ann: uuid::Uuid =
        sqlx::query_scalar("select id from mail_account").fetch_one(&installation.owner).await.unwrap();
    let account = format!("/acme/web-mail-cloud/mail-account-manager/{ann}");
    let page = browser.submit(&format!("{account}/name?q=ann"), &[("name", "Anna"), ("seen", "ann")]).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    sqlx::query("update mail_account set name = 'Theirs'").execute(&installation.owner).await.unwrap();
    let page = sign_in_there(&browser, &page, "administrator@acme.example", PASSWORD).await;
    assert_eq!(page.path, format!("{account}?q=ann&draft"));
    assert_eq!(page.field("name"), "Anna");
    assert!(page.text().contains(NOTICE) && page.text().contains("Saved now: Theirs"), "{}", page.text());

    end_sessions(&installation).await;
    let new = "/acme/web-mail-cloud/mail-account-manager/new";
    let typed = [
        ("user_id", "new@acme.example"),
        ("name", "New"),
        ("addresses", ""),
        ("outbound_gateway", "a.example.com"),
        ("change", "00000000-0000-7000-8000-000000000001"),
    ];
    let page = browser.submit(new, &typed).await;
    let page = sign_in_there(&browser, &page, "administrator@acme.example", PASSWORD).await;
    for (field, value) in [("user_id", "new@acme.example"), ("name", "New"), (FIELD, "a.example.com")] {
        assert_eq!(page.field(field), value);
    }
    assert!(page.text().contains(NOTICE), "{}", page.text());
}
