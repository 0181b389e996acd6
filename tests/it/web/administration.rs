//! Manage Organization.
//! The page of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::PgPool;

use crate::support::{Installation, Pages, browser};

#[sqlx::test]
async fn the_menu_administration_leads_to_the_organization_at_a_glance(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;

    let page = browser.get("/").await;
    assert!(page.html.contains("<summary>Administration"), "{}", page.html);
    let page = browser.get(&page.link("Manage Organization")).await;

    assert!(page.html.contains("<h1>Manage Organization</h1>"), "{}", page.html);
    let text = page.text();
    for fact in ["Mail accounts 1", "acme.example", "archive.example.com port 25 organization", "you are Administrator"]
    {
        assert!(text.contains(fact), "{fact} in {text}");
    }
    assert_eq!(page.link("Web Mail Cloud"), "/acme/web-mail-cloud");
}

#[sqlx::test]
async fn without_a_gateway_the_page_says_what_the_platform_does(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let administrator = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let text = administrator.get("/acme/administration").await.text();
    assert!(text.contains("Directly to recipients' servers platform"), "{text}");

    let settings = browser::settings_with_smarthost("smart.platform.example:587");
    let pages = Pages::with(installation.web_store().await, settings).await;
    let assistant = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let text = assistant.get("/acme/administration").await.text();
    assert!(text.contains("smart.platform.example port 587 platform"), "{text}");
}
