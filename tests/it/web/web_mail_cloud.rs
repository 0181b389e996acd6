//! Web Mail Cloud.
//! The page of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::PgPool;

use crate::support::{Installation, Pages};

#[sqlx::test]
async fn every_link_says_how_things_stand(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = browser.get("/acme/web-mail-cloud").await;
    assert!(page.text().contains("None. Mail goes directly to recipients' servers"), "{}", page.text());
    assert!(page.text().contains("0 accounts, 0 with a gateway of their own"), "{}", page.text());

    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp.example.com:587").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;

    let page = browser.get("/acme/web-mail-cloud").await;
    assert!(page.text().contains("archive.example.com port 25, followed by 1 account"), "{}", page.text());
    assert!(page.text().contains("2 accounts, 1 with a gateway of their own"), "{}", page.text());
    assert!(page.text().contains("1 mail domain, 0 with a gateway of their own"), "{}", page.text());
    assert!(page.text().contains("Gateways 2 gateways"), "{}", page.text());
    for name in [
        "Outbound Mail Gateway",
        "Mail Account Manager",
        "Domain Manager",
        "Gateways",
        "Distribution List",
        "Outbound Volume",
        "Relay Credentials",
        "Explain Route",
    ] {
        assert_eq!(browser.get(&page.link(name)).await.status, 200, "{name}");
    }
}
