//! Domain Manager and the gateway of one mail domain.
//! The pages `domain_manager` and `domain_outbound_gateway` in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant};

const FIELD: &str = "outbound_gateway";
const BUECHER: &str = "xn--bcher-kva.example";

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    list: String,
    form: String,
}

/// An organization with two domains; one account at each, one of them suspended.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    outgate::store::domain::add(&installation.owner, acme.id, &"bücher.example".parse().unwrap()).await.unwrap();
    installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&acme, "bob@bücher.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let (list, form) =
        (page_of(&acme, "domain-manager"), page_of(&acme, &format!("domain-manager/{BUECHER}/outbound-gateway")));
    Scene { installation, acme, pages, admin, list, form }
}

#[sqlx::test]
async fn every_domain_stands_with_its_accounts_and_the_gateway_that_applies(db: PgPool) {
    let Scene { installation, acme, admin, list, .. } = scene(db).await;
    assert_eq!(
        admin.get(&list).await.rows(),
        [
            "acme.example 1 account Directly to recipients' servers platform",
            "bücher.example xn--bcher-kva.example 1 account Directly to recipients' servers platform"
        ]
    );
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Domain(BUECHER.parse().unwrap()), "192.0.2.7:2525").await;
    assert_eq!(
        admin.get(&list).await.rows(),
        [
            "acme.example 1 account archive.example.com port 25 organization",
            "bücher.example xn--bcher-kva.example 1 account 192.0.2.7 port 2525 domain"
        ]
    );
}

#[sqlx::test]
async fn an_administrator_sets_the_gateway_of_a_domain_and_deletes_it_again(db: PgPool) {
    let Scene { admin, list, form, .. } = scene(db).await;
    let listed = admin.get(&list).await;
    assert!(listed.html.contains(&format!(r#"href="{form}" aria-label="Outbound Gateway""#)), "{}", listed.html);
    assert!(!listed.html.contains("Delete own gateway"));

    let saved = admin.submit(&form, &[(FIELD, "Archive.example.com:587")]).await;
    assert!(saved.path.starts_with(&format!("{list}?selected={BUECHER}&change=")), "{}", saved.path);
    let words =
        "Saved. 1 account of bücher.example now sends through archive.example.com port 587. No relay is running";
    assert!(saved.text().contains(words), "{}", saved.text());
    assert_eq!(saved.html.matches("aria-current=\"true\"").count(), 1);
    assert_eq!(admin.get(&form).await.field(FIELD), "archive.example.com:587");
    let again = admin.submit(&form, &[(FIELD, "archive.example.com:587")]).await;
    assert!(again.text().contains("Nothing changed. Mail from bücher.example leaves through"), "{}", again.text());

    let asked = admin.get(&again.link("Delete own gateway")).await;
    assert!(asked.text().contains("Delete this domain's gateway?"), "{}", asked.text());
    let deleted = admin.submit(&form, &[(FIELD, "")]).await;
    let words = "bücher.example has no gateway of its own any more and sends directly to recipients' servers.";
    assert!(deleted.text().contains(words), "{}", deleted.text());
}

#[sqlx::test]
async fn a_mistyped_address_stays_in_the_form_of_the_domain(db: PgPool) {
    let Scene { admin, form, .. } = scene(db).await;
    let page = admin.submit(&form, &[(FIELD, "mail_host")]).await;
    assert_eq!((page.status, page.field(FIELD).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "mail_host"));
    assert!(page.text().contains("There is a problem"), "{}", page.text());
}

#[sqlx::test]
async fn only_an_administrator_changes_the_gateway_of_a_domain(db: PgPool) {
    let Scene { installation, acme, pages, list, form, .. } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Domain(BUECHER.parse().unwrap()), "a.example.com").await;
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        assert!(!browser.get(&list).await.html.contains("Delete own gateway"));
        let shown = browser.get(&form).await;
        assert!(shown.html.contains(" readonly") && !shown.html.contains(">Save</button>"));
        assert_eq!(browser.submit(&form, &[(FIELD, "b.example.com")]).await.status, StatusCode::FORBIDDEN);
    }
}

#[sqlx::test]
async fn five_hundred_domains_stand_on_one_page(db: PgPool) {
    let Scene { installation, acme, admin, list, .. } = scene(db).await;
    sqlx::query("insert into mail_domain (organization_id, name) select $1, 'd' || n || '.example' from generate_series(1, 498) n")
        .bind(acme.id.0)
        .execute(&installation.owner)
        .await
        .unwrap();
    assert_eq!(admin.get(&list).await.rows().len(), 500);
}

#[sqlx::test]
async fn a_domain_has_one_address_and_others_are_not_found(db: PgPool) {
    let Scene { admin, acme, .. } = scene(db).await;
    for name in ["XN--BCHER-KVA.example", "b%C3%BCcher.example", "xn--bcher-kva.example.", "elsewhere.example"] {
        let form = page_of(&acme, &format!("domain-manager/{name}/outbound-gateway"));
        assert_eq!(admin.get(&form).await.status, StatusCode::NOT_FOUND, "{name}");
    }
}
