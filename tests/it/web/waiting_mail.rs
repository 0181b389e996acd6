//! What becomes of mail that waits for a gateway: asked before its pointer is emptied, at every scope.
//! The page of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    /// The form and the scope of the user, the domain and all users, each with two waiting messages.
    scopes: Vec<(String, PointerScope, &'static str)>,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    let scopes = vec![
        (page_of(&acme, &format!("mail-account-manager/{ann}/outbound-gateway")), PointerScope::Account(ann), "user"),
        (
            page_of(&acme, "domain-manager/acme.example/outbound-gateway"),
            PointerScope::Domain("acme.example".parse().unwrap()),
            "domain",
        ),
        (page_of(&acme, "outbound-mail-gateway"), PointerScope::Organization, "organization"),
    ];
    for (_, scope, by) in &scopes {
        installation.set_gateway(&acme, scope, "archive.example.com").await;
        for _ in 0..2 {
            installation.waiting_message(&acme, Some(ann), by, "archive.example.com").await;
        }
    }
    // Another user's, by the same gateway.
    installation.waiting_message(&acme, Some(bob), "user", "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    Scene { installation, acme, pages, admin, scopes }
}

async fn answer(browser: &Browser, question: &Page, waiting: &str) -> Page {
    let fields: Vec<(&str, String)> =
        ["scope", "of", "back", "gateway"].into_iter().map(|name| (name, question.field(name))).collect();
    let mut fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fields.push(("waiting", waiting));
    let path = question.path.split('?').next().unwrap().to_owned();
    browser.submit(&path, &fields).await
}

#[sqlx::test]
async fn emptying_a_gateway_asks_what_becomes_of_mail_that_waits_for_it_and_does_it_together(db: PgPool) {
    let Scene { installation, admin, scopes, .. } = scene(db).await;
    for ((form, _, by), waiting) in scopes.iter().zip(["send", "return", "keep"]) {
        let question = admin.submit(form, &[("outbound_gateway", "")]).await;
        let words = "2 messages wait for archive.example.com port 25";
        assert!(question.text().contains(words), "{by}: {}", question.text());
        assert_eq!(admin.get(form).await.field("outbound_gateway"), "archive.example.com", "nothing is deleted yet");

        let answered = answer(&admin, &question, waiting).await;
        assert_eq!(answered.status, StatusCode::OK, "{by}: {}", answered.text());
        assert!(answered.path.contains("change="), "{by}: {}", answered.path);
        assert_eq!(admin.get(form).await.field("outbound_gateway"), "", "{by}");
        let again = answer(&admin, &question, waiting).await;
        assert!(again.path.contains("unchanged="), "{by} a second time: {}", again.path);
        let chosen: Vec<(Option<String>, bool)> = sqlx::query_as(
            "select choice, next_attempt_at <= now() from queued_message
             where waits_by = $1 and sender_account = (select id from mail_account where user_id like 'ann%')",
        )
        .bind(by)
        .fetch_all(&installation.owner)
        .await
        .unwrap();
        let expected = if waiting == "keep" { (None, false) } else { (Some(waiting.to_owned()), true) };
        assert_eq!(chosen, vec![expected; 2], "{by}");
    }
    let of_bob: i64 = sqlx::query_scalar(
        "select count(*) from queued_message where choice is null
         and sender_account = (select id from mail_account where user_id like 'bob%')",
    )
    .fetch_one(&installation.owner)
    .await
    .unwrap();
    assert_eq!(of_bob, 1, "another user's mail is not decided about");
    let log = admin.get("/acme/administration/audit-log").await;
    for words in [
        "released the mail of 2 waiting messages",
        "returned the mail of 2 waiting messages",
        "kept waiting the mail of 2 waiting messages",
        "waiting for archive.example.com, the gateway of ann@acme.example",
    ] {
        assert!(log.text().contains(words), "{words} in {}", log.text());
    }
}

#[sqlx::test]
async fn another_gateway_or_none_that_is_waited_for_asks_nothing(db: PgPool) {
    let Scene { installation, admin, scopes, .. } = scene(db).await;
    for (form, _, by) in &scopes {
        let saved = admin.submit(form, &[("outbound_gateway", "other.example.com")]).await;
        assert!(saved.text().contains("Saved."), "{by}: {}", saved.text());
        let saved = admin.submit(form, &[("outbound_gateway", "")]).await;
        assert!(saved.path.contains("change="), "{by}: {}", saved.path);
    }
    assert!(installation.choices().await.iter().all(|(choice, _)| choice.is_none()));
}

#[sqlx::test]
async fn a_question_about_a_gateway_that_was_changed_meanwhile_is_asked_again(db: PgPool) {
    let Scene { installation, acme, admin, scopes, .. } = scene(db).await;
    let (form, scope, _) = &scopes[2];
    let question = admin.submit(form, &[("outbound_gateway", "")]).await;
    installation.set_gateway(&acme, scope, "other.example.com").await;
    let answered = answer(&admin, &question, "send").await;
    assert_eq!(answered.status, StatusCode::CONFLICT);
    assert!(answered.text().contains("0 messages wait for other.example.com port 25"), "{}", answered.text());
    assert_eq!(admin.get(form).await.field("outbound_gateway"), "other.example.com");
}

#[sqlx::test]
async fn a_role_decides_about_what_it_may_set_and_a_link_leads_nowhere_else(db: PgPool) {
    let Scene { installation, acme, pages, admin, scopes } = scene(db).await;
    let question = admin.submit(&scopes[2].0, &[("outbound_gateway", "")]).await;
    let browser = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    assert_eq!(answer(&browser, &question, "send").await.status, StatusCode::FORBIDDEN);
    let question = browser.submit(&scopes[0].0, &[("outbound_gateway", "")]).await;
    assert_eq!(question.status, StatusCode::OK);
    for evil in
        ["//evil.example", "https://evil.example/", "/other/web-mail-cloud/x", "/acme/web-mail-cloud/%0d%0a\r\nX: y"]
    {
        let path = format!("{}&back={evil}", question.path.split("&back=").next().unwrap());
        assert_eq!(browser.get(&path).await.field("back"), "/acme/web-mail-cloud", "{evil}");
    }
}
