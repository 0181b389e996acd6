//! Who may do what: every role on every form.
//! Across pages, so that a form that forgets to ask is found.

use outgate::{policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Installation, Pages};

#[sqlx::test]
async fn a_role_saves_what_it_may_and_is_told_what_it_may_not(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let of_all = page_of(&acme, "outbound-mail-gateway");
    let of_ann = page_of(&acme, &format!("mail-account-manager/{ann}/outbound-gateway"));

    for (role, may_set_all, may_set_ann) in [
        (Role::Administrator, true, true),
        (Role::UserAdministrator, false, true),
        (Role::AdminAssistant, false, false),
    ] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        for (form, allowed) in [(&of_all, may_set_all), (&of_ann, may_set_ann)] {
            let shown = browser.get(form).await;
            assert_eq!(shown.status, StatusCode::OK, "{role} reads {form}");
            assert_eq!(shown.html.contains(">Save</button>"), allowed, "{role} {form}");
            assert_eq!(shown.html.contains(" readonly"), !allowed, "{role} {form}");
            let before = revision(&installation).await;
            let address = format!("{role}.example.com");
            let saved = browser.submit(form, &[("outbound_gateway", &address)]).await;
            assert_eq!(saved.status, if allowed { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{role} {form}");
            assert_eq!(revision(&installation).await != before, allowed, "{role} {form}");
            if !allowed {
                assert!(saved.text().contains("Your role does not allow this"), "{}", saved.text());
            }
        }
    }
}

#[sqlx::test]
async fn the_delete_action_is_only_offered_to_who_may_use_it(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;
    let pages = Pages::of(&installation).await;
    for (role, offered) in [(Role::UserAdministrator, true), (Role::AdminAssistant, false)] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let page = browser.get(&page_of(&acme, "mail-account-manager")).await;
        assert_eq!(page.html.contains("Delete own gateway"), offered, "{role}");
        let confirmation = page_of(&acme, &format!("mail-account-manager/{ann}/outbound-gateway?delete=1"));
        assert_eq!(browser.get(&confirmation).await.html.contains(">Delete</button>"), offered, "{role}");
    }
}

async fn revision(installation: &Installation) -> i64 {
    sqlx::query_scalar("select revision from installation").fetch_one(&installation.owner).await.unwrap()
}
