//! Outbound Gateway of one user.
//! The page of the same name in `src/web`.

use outgate::{mail::id::AccountId, policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant, browser};

const FIELD: &str = "outbound_gateway";

struct Scene {
    installation: Installation,
    acme: Tenant,
    ann: AccountId,
    admin: Browser,
    list: String,
    form: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "mail-account-manager");
    let form = format!("{list}/{ann}/outbound-gateway");
    Scene { installation, acme, ann, admin, list, form }
}

#[sqlx::test]
async fn the_icon_in_the_action_column_opens_the_form_and_save_leads_back_to_the_marked_row(db: PgPool) {
    let Scene { admin, list, form, .. } = scene(db).await;

    let icon = admin.get(&format!("{list}?q=ann")).await.link("Outbound Gateway");
    assert_eq!(icon, format!("{form}?q=ann"));
    let page = admin.get(&icon).await;
    assert!(page.html.contains("<h1>Outbound Gateway</h1>"), "{}", page.html);
    assert!(page.text().contains("ann@acme.example"), "{}", page.text());

    let page = admin.submit(&icon, &[(FIELD, "dlp.example.com:587")]).await;
    assert!(page.path.starts_with(&format!("{list}?q=ann&selected=")), "the same search: {}", page.path);
    assert!(
        page.text().contains("Saved. Mail from ann@acme.example now leaves through dlp.example.com port 587."),
        "{}",
        page.text()
    );
    let row = page.rows().concat();
    assert!(row.starts_with("ann@acme.example ann dlp.example.com port 587 own ") && row.ends_with(" Active"), "{row}");
    assert!(page.html.contains("class=\"marked\""), "{}", page.html);
    assert_eq!(admin.get(&icon).await.field(FIELD), "dlp.example.com:587");
}

#[sqlx::test]
async fn emptying_the_field_deletes_the_users_own_and_says_which_one_now_applies(db: PgPool) {
    let Scene { installation, acme, ann, admin, form, .. } = scene(db).await;
    let own = PointerScope::Account(ann);
    let begins = "Saved. ann@acme.example has no gateway of its own any more and ";

    installation.set_gateway(&acme, &own, "own.example.com").await;
    let text = admin.submit(&form, &[(FIELD, " ")]).await.text();
    assert!(text.contains(&format!("{begins}sends directly to recipients' servers.")), "{text}");

    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    installation.set_gateway(&acme, &own, "own.example.com").await;
    let text = admin.submit(&form, &[(FIELD, "")]).await.text();
    assert!(
        text.contains(&format!("{begins}follows the organization's gateway archive.example.com port 25.")),
        "{text}"
    );

    installation.set_gateway(&acme, &PointerScope::Domain("acme.example".parse().unwrap()), "192.0.2.7").await;
    installation.set_gateway(&acme, &own, "own.example.com").await;
    let text = admin.submit(&form, &[(FIELD, "")]).await.text();
    assert!(text.contains(&format!("{begins}follows the domain's gateway 192.0.2.7 port 25.")), "{text}");

    let text = admin.submit(&form, &[(FIELD, "")]).await.text();
    assert!(text.contains("Nothing changed. ann@acme.example has no gateway of its own to delete."), "{text}");
}

#[sqlx::test]
async fn the_platforms_server_is_named_where_it_is_the_default(db: PgPool) {
    let Scene { installation, acme, ann, form, .. } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;
    let settings = browser::settings_with_smarthost("smart.platform.example");
    let pages = Pages::with(installation.web_store().await, settings).await;
    let admin = pages.browser();
    admin.sign_in("administrator@acme.example", browser::PASSWORD).await;
    let text = admin.submit(&form, &[(FIELD, "")]).await.text();
    assert!(text.contains("sends through the platform's server smart.platform.example port 25."), "{text}");
}

#[sqlx::test]
async fn the_delete_action_asks_first_and_works_without_script(db: PgPool) {
    let Scene { installation, acme, ann, admin, list, .. } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;

    let delete = admin.get(&list).await.link("Delete own gateway");
    let page = admin.get(&delete).await;
    for words in
        ["Delete this user's gateway?", "own.example.com port 25 now", "archive.example.com port 25 organization"]
    {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert_eq!(page.field(FIELD), "", "the confirmation sends the form with the field emptied");
    let page = admin.submit(&delete, &[(FIELD, "")]).await;
    assert!(page.rows()[0].contains("archive.example.com port 25 organization"), "{:?}", page.rows());
}

#[sqlx::test]
async fn a_mistyped_address_is_kept_in_the_form_with_the_reason(db: PgPool) {
    let Scene { admin, form, .. } = scene(db).await;
    for typed in ["mail_host", "127.0.0.1"] {
        let page = admin.submit(&form, &[(FIELD, typed)]).await;
        assert_eq!((page.status, page.field(FIELD).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, typed));
        assert!(page.html.contains("<title>Error: Outbound Gateway of ann@acme.example"), "{}", page.html);
        assert!(page.text().contains("There is a problem"), "{}", page.text());
    }
}

#[sqlx::test]
async fn beside_the_form_stands_which_scope_decides(db: PgPool) {
    let Scene { installation, acme, ann, admin, form, .. } = scene(db).await;
    let text = admin.get(&form).await.text();
    assert!(text.contains("Platform directly to recipients' servers applies now"), "{text}");
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let text = admin.get(&form).await.text();
    assert!(text.contains("User none Domain acme.example none"), "{text}");
    assert!(text.contains("Organization archive.example.com port 25 applies now"), "{text}");
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;
    let text = admin.get(&form).await.text();
    assert!(text.contains("User own.example.com port 25 applies now"), "{text}");
}

#[sqlx::test]
async fn one_users_gateway_is_nobody_elses(db: PgPool) {
    let Scene { admin, list, form, .. } = scene(db).await;
    admin.submit(&form, &[(FIELD, "own.example.com")]).await;
    let rows = admin.get(&list).await.rows();
    assert_eq!(rows[1], "bob@acme.example bob Directly to recipients' servers platform Active");
}
