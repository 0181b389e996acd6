//! The choice that mail must leave through a gateway, on Outbound Mail Gateway.
//! The form of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Installation, Pages};

#[sqlx::test]
async fn an_administrator_says_that_mail_must_leave_through_a_gateway_and_takes_it_back(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, "outbound-mail-gateway");
    let form = page_of(&acme, "outbound-mail-gateway/must-use-gateway");
    assert!(admin.get(&page).await.text().contains("1 account has no gateway now."));

    let saved = admin.submit(&form, &[("must_use_gateway", "yes"), ("seen", "no")]).await;
    let words =
        "Saved. Mail must leave through a gateway. 1 account has none: its mail is held until a gateway is set.";
    assert!(saved.text().contains(words), "{}", saved.text());
    assert!(saved.html.contains("value=\"yes\" checked"));
    let table = admin.get(&page_of(&acme, "mail-account-manager")).await;
    assert!(table.rows()[1].contains("Held until a gateway is set organization"), "{:?}", table.rows());
    let of_bob = admin.get(&table.link("bob@acme.example")).await.text();
    assert!(of_bob.contains("Organization none, so mail is held applies now"), "{of_bob}");
    let again = admin.submit(&form, &[("must_use_gateway", "yes"), ("seen", "no")]).await;
    assert!(again.text().contains("Nothing changed. Mail must leave through a gateway already."), "{}", again.text());
    let stale = admin.submit(&form, &[("seen", "no")]).await;
    assert!(stale.text().contains("Nothing changed."), "who did not touch the box changes nothing: {}", stale.text());

    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let emptied = admin.submit(&page, &[("outbound_gateway", "")]).await;
    assert!(emptied.text().contains("Mail from 1 account is held until a gateway is set."), "{}", emptied.text());

    let off = admin.submit(&form, &[("seen", "yes")]).await;
    let words = "Saved. Mail without a gateway leaves directly to recipients' servers.";
    assert!(off.text().contains(words), "{}", off.text());
    let items: Vec<serde_json::Value> =
        sqlx::query_scalar("select after from change_item where after ? 'must_use_gateway' order by change_id")
            .fetch_all(&installation.owner)
            .await
            .unwrap();
    assert_eq!(items, [true, false].map(|must| serde_json::json!({ "must_use_gateway": must })));
}

#[sqlx::test]
async fn other_roles_see_the_choice_and_cannot_make_it(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let form = page_of(&acme, "outbound-mail-gateway/must-use-gateway");
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let saved = browser.submit(&form, &[("must_use_gateway", "yes"), ("seen", "no")]).await;
        assert_eq!(saved.status, StatusCode::FORBIDDEN, "{role}");
        let shown = browser.get(&form).await;
        assert!(shown.html.contains("value=\"yes\" disabled"), "{}", shown.html);
    }
}
