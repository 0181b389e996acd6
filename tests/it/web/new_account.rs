//! Add account.
//! The page of the same name in `src/web`.

use outgate::policy::Role;
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant};

async fn scene(db: PgPool) -> (Installation, Tenant, Pages, Browser, String) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    let form = page_of(&acme, "mail-account-manager/new");
    (installation, acme, pages, admin, form)
}

/// The form filled in.
fn fields<'a>(user_id: &'a str, addresses: &'a str, gateway: &'a str, change: &'a str) -> [(&'a str, &'a str); 5] {
    [("user_id", user_id), ("name", "Ann"), ("addresses", addresses), ("outbound_gateway", gateway), ("change", change)]
}

async fn accounts(installation: &Installation) -> i64 {
    sqlx::query_scalar("select count(*) from mail_account").fetch_one(&installation.owner).await.unwrap()
}

#[sqlx::test]
async fn an_account_is_added_with_its_addresses_and_its_own_gateway(db: PgPool) {
    let (installation, acme, _pages, admin, form) = scene(db).await;
    let empty = admin.get(&form).await;
    let change = empty.field("change");
    let typed = fields(" Ann@ACME.example ", "a@acme.example\r\nann.lee@acme.example", "dlp.example.com:587", &change);
    let added = admin.submit(&form, &typed).await;
    let text = added.text();
    for words in [
        "Saved. ann@acme.example is added.",
        "Further addresses a@acme.example ann.lee@acme.example",
        "User dlp.example.com port 587 applies now",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(admin.get(&page_of(&acme, "mail-account-manager")).await.rows().len(), 1);
    let items: i64 = sqlx::query_scalar("select count(*) from change_item where change_id = $1::uuid")
        .bind(&change)
        .fetch_one(&installation.owner)
        .await
        .unwrap();
    assert_eq!(items, 2, "the account and its new gateway are one change");
}

#[sqlx::test]
async fn a_form_that_is_sent_twice_adds_one_account(db: PgPool) {
    let (installation, _, _pages, admin, form) = scene(db).await;
    let change = admin.get(&form).await.field("change");
    let typed = fields("ann@acme.example", "", "", &change);
    let (first, second) = tokio::join!(admin.submit(&form, &typed), admin.submit(&form, &typed));
    let third = admin.submit(&form, &typed).await;
    for page in [&first, &second, &third] {
        assert!(page.text().contains("Saved. ann@acme.example is added."), "{}", page.text());
        assert_eq!(page.path, first.path);
    }
    assert_eq!(accounts(&installation).await, 1);
    // Who went back and typed somebody else adds somebody else.
    let other = admin.submit(&form, &fields("bob@acme.example", "", "", &change)).await;
    assert!(other.text().contains("Saved. bob@acme.example is added."), "{}", other.text());
}

#[sqlx::test]
async fn mistakes_stand_at_the_top_and_beside_their_fields_and_the_input_is_kept(db: PgPool) {
    let (installation, acme, _pages, admin, form) = scene(db).await;
    installation.account(&acme, "bob@acme.example", &["b@acme.example"]).await;
    let change = admin.get(&form).await.field("change");
    for (user_id, addresses, gateway, mistake) in [
        ("", "", "", "Enter a mail address, such as ann@example.com."),
        ("ann@elsewhere.example", "", "", "elsewhere.example is not a mail domain of your organization."),
        ("b@acme.example", "", "", "b@acme.example belongs to bob@acme.example already."),
        ("ann@acme.example", "b@acme.example", "", "b@acme.example belongs to bob@acme.example already."),
        ("ann@acme.example", "x@", "", "“x@” is not a mail address."),
        ("ann@acme.example", "", "10.0.0.1", "10.0.0.1 is a private address."),
        ("ann@acme.example", "", "mail_host", "“mail_host” is not a host name"),
    ] {
        let refused = admin.submit(&form, &fields(user_id, addresses, gateway, &change)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{mistake}");
        assert_eq!(refused.text().matches(mistake).count(), 2, "{mistake} in {}", refused.text());
        assert_eq!((refused.field("user_id").as_str(), refused.field("name").as_str()), (user_id, "Ann"));
        assert_eq!(refused.field("outbound_gateway"), gateway);
        assert!(refused.html.contains("<title>Error: "));
    }
    assert_eq!(accounts(&installation).await, 1);
}

#[sqlx::test]
async fn who_may_only_read_adds_nothing(db: PgPool) {
    let (installation, acme, pages, admin, form) = scene(db).await;
    let change = admin.get(&form).await.field("change");
    let assistant = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    assert_eq!(assistant.get(&form).await.status, StatusCode::FORBIDDEN);
    let refused = assistant.submit(&form, &fields("ann@acme.example", "", "", &change)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(accounts(&installation).await, 0);
}
