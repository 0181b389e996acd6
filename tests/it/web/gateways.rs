//! Gateways, and the page of each.
//! The pages `gateways` and `gateway` in `src/web`.

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
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    Scene { installation, acme, pages, admin }
}

#[sqlx::test]
async fn every_gateway_says_who_uses_it_and_what_waits_for_it(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let list = page_of(&acme, "gateways");
    assert!(admin.get(&list).await.text().contains("No gateways yet"));
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    let domain = PointerScope::Domain("acme.example".parse().unwrap());
    for (scope, address) in [
        (PointerScope::Organization, "mistyped.example.com"),
        (PointerScope::Organization, "archive.example.com"),
        (domain, "archive.example.com"),
        (PointerScope::Account(ann), "archive.example.com"),
        (PointerScope::Account(bob), "[2001:db8::7]:587"),
    ] {
        installation.set_gateway(&acme, &scope, address).await;
    }
    for _ in 0..2 {
        installation.waiting_message(&acme, Some(bob), "user", "[2001:db8::7]:587").await;
    }

    let page = admin.get(&list).await;
    assert_eq!(
        page.rows(),
        [
            "2001:db8::7 port 587 2 messages wait No mail since its last change Not checked since the last change 1 account",
            "archive.example.com port 25 no mail waits No mail since its last change Not checked since the last change all users, acme.example and 1 account",
            "mistyped.example.com port 25 no mail waits No mail since its last change Not checked since the last change nobody",
        ]
    );
    let gateway = admin.get(&page.link("2001:db8::7 port 587")).await;
    for words in
        ["bob@acme.example", "1: [2001:db8::7]:587", "2 messages since", "It can be removed when nobody uses it"]
    {
        assert!(gateway.text().contains(words), "{words} in {}", gateway.text());
    }
}

#[sqlx::test]
async fn a_gateway_that_nobody_uses_is_removed_after_asking_and_is_not_offered_any_more(db: PgPool) {
    let Scene { installation, acme, pages, admin } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "mistyped.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let mistyped = installation.gateway_of(&acme, "mistyped.example.com").await;
    let used = installation.gateway_of(&acme, "archive.example.com").await;
    let page_of_mistyped = page_of(&acme, &format!("gateways/{mistyped}"));
    let assistant = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    assert!(!assistant.get(&page_of_mistyped).await.html.contains(">Remove<"));
    assert_eq!(assistant.submit(&page_of_mistyped, &[]).await.status, StatusCode::FORBIDDEN);

    // What was found out about it goes with it.
    let verification = admin.submit(&format!("{page_of_mistyped}/verify"), &[]).await;
    assert_eq!(verification.status, StatusCode::OK);
    let asked = admin.get(&admin.get(&page_of_mistyped).await.link("Remove")).await;
    assert!(asked.text().contains("Remove this gateway?"), "{}", asked.text());
    let removed = admin.submit(&page_of_mistyped, &[]).await;
    assert!(removed.text().contains("Removed. The gateway mistyped.example.com port 25"), "{}", removed.text());
    assert_eq!(removed.rows().len(), 1);
    assert_eq!(admin.submit(&page_of_mistyped, &[]).await.path, removed.path, "sent twice, it is one removal");
    assert_eq!(admin.get(&page_of_mistyped).await.status, StatusCode::NOT_FOUND);
    assert_eq!(admin.get(&verification.path).await.status, StatusCode::NOT_FOUND);
    let (item, revisions): (serde_json::Value, i64) = sqlx::query_as(
        "select before, (select count(*) from gateway_revision) from change_item
         where subject = 'gateway' and after is null",
    )
    .fetch_one(&installation.owner)
    .await
    .unwrap();
    assert_eq!((item, revisions), (serde_json::json!({ "address": "mistyped.example.com", "revision": 1 }), 2));

    let refused = admin.submit(&page_of(&acme, &format!("gateways/{used}")), &[]).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text().contains("It was not removed"), "{}", refused.text());
}

#[sqlx::test]
async fn a_gateway_for_which_mail_waits_is_not_removed(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "a.example.com").await;
    installation.waiting_message(&acme, None, "organization", "a.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "b.example.com").await;
    let page = page_of(&acme, &format!("gateways/{}", installation.gateway_of(&acme, "a.example.com").await));
    assert_eq!(admin.submit(&page, &[]).await.status, StatusCode::CONFLICT);
}
