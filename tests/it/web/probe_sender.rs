//! Probe Sender: whom verifications of an organization's gateways come from.
//! The page `probe_sender` in `src/web`, which stands on Outbound Mail Gateway too.

use outgate::{
    policy::Role,
    store::{self, OrganizationTransaction, gateway::PointerScope},
};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Installation, Pages};

const FIELD: &str = "probe_sender";

#[sqlx::test]
async fn verifications_come_from_the_address_that_an_administrator_names(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    store::domain::add(&installation.owner, acme.id, &"longer.acme.example".parse().unwrap()).await.unwrap();
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let id = installation.gateway_of(&acme, "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let of_all = page_of(&acme, "outbound-mail-gateway");
    let form = format!("{of_all}/probe-sender");
    let verify = page_of(&acme, &format!("gateways/{id}/verify"));
    let shown = admin.get(&of_all).await;
    assert_eq!(shown.field(FIELD), "", "the field stands on Outbound Mail Gateway");
    assert!(shown.text().contains("It asks for mail from postmaster@acme.example now"), "{}", shown.text());
    let asked = admin.submit(&verify, &[]).await;
    assert!(asked.text().contains("a message from postmaster@acme.example as far"), "{}", asked.text());

    let saved = admin.submit(&form, &[(FIELD, "Probe@longer.acme.example"), ("seen", "")]).await;
    let words = "Saved. Verifications now ask for mail from probe@longer.acme.example. Undo";
    assert!(saved.text().contains(words), "{}", saved.text());
    assert_eq!(admin.get(&of_all).await.field(FIELD), "probe@longer.acme.example");
    let asked = admin.submit(&verify, &[]).await;
    assert!(asked.text().contains("a message from probe@longer.acme.example as far"), "{}", asked.text());
    let again = admin.submit(&form, &[(FIELD, "probe@longer.acme.example"), ("seen", "")]).await;
    assert!(again.text().contains("Nothing changed. Verifications already ask for mail from"), "{}", again.text());

    let undo = page_of(&acme, &format!("undo/{}", saved.path.rsplit('=').next().unwrap()));
    let undone = admin.submit(&undo, &[]).await;
    let words = "Taken back. Verifications now ask for mail from postmaster@acme.example. Undo";
    assert!(undone.text().contains(words), "{} {}", undone.path, undone.text());
    let brought_back = page_of(&acme, &format!("undo/{}", undone.path.rsplit('=').next().unwrap()));
    let page = admin.submit(&brought_back, &[]).await;
    assert!(page.text().contains("Brought back. Verifications now ask for mail from probe@"), "{}", page.text());
    let history = admin.get("/acme/administration/audit-log").await;
    assert!(history.text().contains("set the probe sender of the organization"), "{}", history.text());

    sqlx::query("delete from mail_domain where name = 'longer.acme.example'")
        .execute(&installation.owner)
        .await
        .unwrap();
    let shown = admin.get(&of_all).await;
    assert!(shown.text().contains("It asks for mail from postmaster@acme.example now"), "{}", shown.text());
    let emptied = admin.submit(&form, &[(FIELD, " "), ("seen", "probe@longer.acme.example")]).await;
    assert!(emptied.text().contains("Saved. Verifications now ask for mail from postmaster@"), "{}", emptied.text());
}

#[sqlx::test]
async fn an_address_that_is_not_the_organizations_is_not_taken(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.organization("other").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let form = page_of(&acme, "outbound-mail-gateway/probe-sender");
    for (typed, words) in [
        ("probe", "“probe” is not a mail address."),
        ("probe@other.example", "“other.example” is not a mail domain of your organization."),
        ("probe@deeper.acme.example", "“deeper.acme.example” is not a mail domain of your organization."),
        ("prüfer@acme.example", "Use letters from a to z before the @."),
        ("a\"b>c@acme.example", "is not a mail address."),
        ("probe@acme.example> SIZE=1", "is not a mail address."),
    ] {
        let page = admin.submit(&form, &[(FIELD, typed), ("seen", "")]).await;
        assert_eq!((page.status, page.field(FIELD).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, typed));
        assert!(page.text().contains("There is a problem") && page.text().contains(words), "{}", page.text());
        assert!(page.html.contains("<title>Error: Probe Sender"), "{}", page.html);
    }
    let set = sqlx::query_scalar::<_, i64>("select count(*) from organization where probe_sender is not null");
    assert_eq!(set.fetch_one(&installation.owner).await.unwrap(), 0);
}

#[sqlx::test]
async fn whom_somebody_else_has_named_is_never_overwritten_unseen(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let form = page_of(&acme, "outbound-mail-gateway/probe-sender");
    let transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let theirs = "theirs@acme.example".parse().unwrap();
    store::organization::set_probe_sender(transaction, Some(&theirs), "", "other@acme.example").await.unwrap();

    let page = admin.submit(&form, &[(FIELD, "mine@acme.example"), ("seen", "")]).await;
    assert_eq!((page.status, page.field(FIELD).as_str()), (StatusCode::CONFLICT, "mine@acme.example"));
    assert!(page.text().contains("other@acme.example has changed it meanwhile."), "{}", page.text());
    assert!(page.text().contains("Saved now: theirs@acme.example"), "{}", page.text());
    assert_eq!(page.field("seen"), "theirs@acme.example");
    let saved = admin.submit(&form, &[(FIELD, "mine@acme.example"), ("seen", "theirs@acme.example")]).await;
    assert!(saved.text().contains("Verifications now ask for mail from mine@acme.example."), "{}", saved.text());
}

#[sqlx::test]
async fn other_roles_see_whom_verifications_come_from_and_cannot_change_it(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let form = page_of(&acme, "outbound-mail-gateway/probe-sender");
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let saved = browser.submit(&form, &[(FIELD, "a@acme.example"), ("seen", "")]).await;
        assert_eq!(saved.status, StatusCode::FORBIDDEN, "{role}");
        let shown = browser.get(&form).await;
        assert!(shown.text().contains("It asks for mail from postmaster@acme.example now"), "{}", shown.text());
        assert!(!shown.html.contains("Save probe sender"), "{role}");
    }
}
