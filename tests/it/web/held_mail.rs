//! Held mail on Outbound Mail Gateway.
//! The section of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    page: String,
    form: String,
    gateway: String,
}

/// Three messages held for a gateway that a user had, one of a suspended account, one without any gateway.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "").await;
    let gateway = installation.gateway_of(&acme, "dlp.example.com").await;
    for _ in 0..3 {
        installation.message(&acme, Some(ann), Some("user"), Some(gateway), Some("gateway-taken-away")).await;
    }
    installation.message(&acme, Some(ann), None, None, Some("account-suspended")).await;
    installation.message(&acme, Some(ann), None, None, Some("no-gateway")).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let (page, form) = (page_of(&acme, "outbound-mail-gateway"), page_of(&acme, "outbound-mail-gateway/held-mail"));
    Scene { installation, acme, pages, admin, page, form, gateway: gateway.to_string() }
}

#[sqlx::test]
async fn held_mail_is_shown_by_what_it_is_held_for(db: PgPool) {
    let Scene { admin, page, acme, .. } = scene(db).await;
    let text = admin.get(&page).await.text();
    for words in [
        "3 messages since",
        "The sender's own gateway was taken away: dlp.example.com port 25 From ann@acme.example.",
        "The sender's account is suspended.",
        "Mail must leave through a gateway, and the sender has none.",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(text.matches("Send by what now applies").count(), 2, "not where nothing applies");
    let overview = admin.get(&format!("/{}/web-mail-cloud", acme.slug)).await.text();
    assert!(overview.contains("5 messages are held and wait for your decision"), "{overview}");
}

#[sqlx::test]
async fn an_administrator_decides_about_one_group_once(db: PgPool) {
    let Scene { installation, admin, form, gateway, .. } = scene(db).await;
    let group = [("held_because", "gateway-taken-away"), ("waits_by", "user"), ("waits_for", gateway.as_str())];
    let with = |waiting| [&group[..], &[("waiting", waiting)]].concat();
    let kept = admin.submit(&form, &with("keep")).await;
    assert!(kept.text().contains("Nothing changed. The mail goes on waiting"), "{}", kept.text());

    let sent = admin.submit(&form, &with("send")).await;
    assert!(sent.text().contains("Saved. 3 held messages: on the way by what applies now."), "{}", sent.text());
    assert!(!sent.text().contains("dlp.example.com port 25 From"), "{}", sent.text());
    let again = admin.submit(&form, &with("return")).await;
    assert!(again.text().contains("Nothing changed."), "{}", again.text());
    let mut choices = installation.choices().await;
    choices.sort();
    let send = (Some("send".to_owned()), true);
    assert_eq!(choices, [(None, false), (None, false), send.clone(), send.clone(), send]);
    let audit: Vec<(String, String, String)> =
        sqlx::query_as("select actor, action, subject from audit_entry where action like 'mail.%'")
            .fetch_all(&installation.owner)
            .await
            .unwrap();
    let expected = ("administrator@acme.example", "mail.release", "3 held messages");
    assert_eq!(audit, [(expected.0.to_owned(), expected.1.to_owned(), expected.2.to_owned())]);

    let suspended = [("held_because", "account-suspended"), ("waits_by", ""), ("waits_for", ""), ("waiting", "return")];
    let returned = admin.submit(&form, &suspended).await;
    assert!(returned.text().contains("Saved. 1 held message: on the way back to the senders."), "{}", returned.text());
}

#[sqlx::test]
async fn a_message_that_a_relay_has_stays_with_it(db: PgPool) {
    let Scene { installation, admin, form, .. } = scene(db).await;
    sqlx::query("update queued_message set lease_relay_id = gen_random_uuid(), lease_token = gen_random_uuid()")
        .execute(&installation.owner)
        .await
        .unwrap();
    let group = [("held_because", "account-suspended"), ("waits_by", ""), ("waits_for", ""), ("waiting", "send")];
    admin.submit(&form, &group).await;
    assert!(installation.choices().await.contains(&(Some("send".to_owned()), false)));
}

#[sqlx::test]
async fn other_roles_see_held_mail_and_decide_nothing(db: PgPool) {
    let Scene { installation, acme, pages, page, form, .. } = scene(db).await;
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let shown = browser.get(&page).await;
        assert!(shown.text().contains("3 messages since") && !shown.html.contains("name=\"waiting\""), "{role}");
        let fields = [("held_because", "no-gateway"), ("waits_by", ""), ("waits_for", ""), ("waiting", "return")];
        assert_eq!(browser.submit(&form, &fields).await.status, StatusCode::FORBIDDEN, "{role}");
    }
    let malformed = pages.browser();
    malformed.sign_in("administrator@acme.example", crate::support::browser::PASSWORD).await;
    for (because, waiting) in [("because", "send"), ("no-gateway", "burn")] {
        let fields = [("held_because", because), ("waits_by", ""), ("waits_for", ""), ("waiting", waiting)];
        assert_eq!(malformed.submit(&form, &fields).await.status, StatusCode::BAD_REQUEST);
    }
}
