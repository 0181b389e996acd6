//! Inbound Host of one mail domain: where mail to the domain itself is delivered.
//! The page `inbound_host` in `src/web`, which stands on the domain's page too.

use outgate::{
    policy::Role,
    store::{self, OrganizationTransaction},
};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Installation, Pages};

const FIELD: &str = "inbound_host";

#[sqlx::test]
async fn an_administrator_says_where_mail_to_a_domain_goes_and_takes_it_back(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let domain = page_of(&acme, "domain-manager/acme.example/outbound-gateway");
    let form = page_of(&acme, "domain-manager/acme.example/inbound-host");
    let shown = admin.get(&domain).await;
    assert_eq!(shown.field(FIELD), "", "the field stands on the domain's page");
    assert!(shown.text().contains("they go to the servers that the domain's MX records name."), "{}", shown.text());

    let mistyped = admin.submit(&form, &[(FIELD, "in box"), ("seen", "")]).await;
    assert_eq!((mistyped.status, mistyped.field(FIELD).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "in box"));
    assert!(mistyped.text().contains("There is a problem"), "{}", mistyped.text());
    let metadata = admin.submit(&form, &[(FIELD, "169.254.169.254"), ("seen", "")]).await;
    assert!(metadata.text().contains("can never be a gateway"), "{}", metadata.text());

    let saved = admin.submit(&form, &[(FIELD, "Mail.acme.example:2525"), ("seen", "")]).await;
    let words = "Saved. Notifications to senders of acme.example now go to mail.acme.example port 2525. No relay";
    assert!(saved.text().contains(words), "{}", saved.text());
    assert_eq!(admin.get(&domain).await.field(FIELD), "mail.acme.example:2525");
    let again = admin.submit(&form, &[(FIELD, "mail.acme.example:2525"), ("seen", "")]).await;
    assert!(again.text().contains("Nothing changed. Notifications to senders of"), "{}", again.text());

    let undo = page_of(&acme, &format!("undo/{}", saved.path.rsplit('=').next().unwrap()));
    let undone = admin.submit(&undo, &[]).await;
    let words = "Taken back. Notifications to senders of acme.example now go to the servers that its MX records name.";
    assert!(undone.text().contains(words), "{} {}", undone.path, undone.text());
    let history = admin.get("/acme/administration/audit-log").await;
    assert!(history.text().contains("set the inbound host of acme.example"), "{}", history.text());
    let kept: Vec<serde_json::Value> =
        sqlx::query_scalar("select after from change_item where after ? 'inbound_host' order by change_id")
            .fetch_all(&installation.owner)
            .await
            .unwrap();
    let expected = [Some("mail.acme.example:2525"), None].map(|host| serde_json::json!({ FIELD: host }));
    assert_eq!(kept, expected);
}

#[sqlx::test]
async fn what_somebody_else_has_set_is_never_overwritten_unseen(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let form = page_of(&acme, "domain-manager/acme.example/inbound-host");
    let mut transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let host = "theirs.example.com".parse().unwrap();
    let name = acme.domain.parse().unwrap();
    store::domain::set_inbound_host(transaction, &name, Some(&host), "other@acme.example").await.unwrap();

    let page = admin.submit(&form, &[(FIELD, "mine.example.com"), ("seen", "")]).await;
    assert_eq!((page.status, page.field(FIELD).as_str()), (StatusCode::CONFLICT, "mine.example.com"));
    assert!(page.text().contains("other@acme.example has changed it meanwhile."), "{}", page.text());
    assert_eq!(page.field("seen"), "theirs.example.com");
    let saved = admin.submit(&form, &[(FIELD, "mine.example.com"), ("seen", "theirs.example.com")]).await;
    assert!(saved.text().contains("now go to mine.example.com port 25."), "{}", saved.text());
    transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    assert!(store::domain::set_inbound_host(transaction, &name, None, "operator").await.is_ok());
}

#[sqlx::test]
async fn other_roles_see_the_inbound_host_and_cannot_change_it(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let form = page_of(&acme, "domain-manager/acme.example/inbound-host");
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let saved = browser.submit(&form, &[(FIELD, "a.example.com"), ("seen", "")]).await;
        assert_eq!(saved.status, StatusCode::FORBIDDEN, "{role}");
        let shown = browser.get(&form).await;
        assert!(shown.text().contains("Inbound Host: none Only an Administrator may change it."), "{}", shown.text());
        assert!(!shown.html.contains("Save inbound host"));
    }
}
