//! The choice that senders which no account has are refused, on Outbound Mail Gateway.
//! The form of the same name in `src/web`; what the relay does by it is here too.

use outgate::policy::Role;
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Installation, Pages, following::Following};

#[sqlx::test]
async fn an_administrator_has_senders_refused_that_no_account_has_and_takes_it_back(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    let relay = Following::start(&installation, "one").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let form = page_of(&acme, "outbound-mail-gateway/unknown-senders");
    let explain =
        async |sender: &str| admin.get(&page_of(&acme, &format!("explain-route?sender={sender}"))).await.text();
    relay.until_live(&installation).await;
    assert!(!relay.table.refuses_unknown("printer@acme.example"));
    assert!(explain("printer@acme.example").await.contains("it follows its domain"));

    let saved = admin.submit(&form, &[("refuse_unknown_senders", "yes"), ("seen", "no")]).await;
    assert!(
        saved.text().contains("New mail from an address that no account has is refused. Live on"),
        "{}",
        saved.text()
    );
    assert!(saved.html.contains("name=\"refuse_unknown_senders\" value=\"yes\" checked"));
    relay.until_live(&installation).await;
    for (sender, is_refused) in [
        ("printer@acme.example", true),
        ("ann@acme.example", false),
        ("A@acme.example", false),
        ("ann+news@acme.example", false),
        ("prvs=1234567890=ann@acme.example", false),
        ("printer@elsewhere.example", false),
    ] {
        assert_eq!(relay.table.refuses_unknown(sender), is_refused, "{sender}");
    }
    let explained = explain("printer@acme.example").await;
    assert!(
        explained.contains("Mail from printer@acme.example is refused: no account has this address."),
        "{explained}"
    );
    assert!(explained.contains("would apply") && explained.contains("takes mail of its accounts only"), "{explained}");
    let again = admin.submit(&form, &[("refuse_unknown_senders", "yes"), ("seen", "no")]).await;
    assert!(again.text().contains("Nothing changed. Senders that no account has are refused already."));

    let off = admin.submit(&form, &[("seen", "yes")]).await;
    assert!(off.text().contains("Saved. Mail from an address that no account has follows its mail domain."));
    relay.until_live(&installation).await;
    assert!(!relay.table.refuses_unknown("printer@acme.example"));
    relay.stop().await;
}

#[sqlx::test]
async fn other_roles_see_who_is_refused_and_cannot_change_it(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let form = page_of(&acme, "outbound-mail-gateway/unknown-senders");
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let saved = browser.submit(&form, &[("refuse_unknown_senders", "yes"), ("seen", "no")]).await;
        assert_eq!(saved.status, StatusCode::FORBIDDEN, "{role}");
        let shown = browser.get(&form).await;
        assert!(shown.html.contains("name=\"refuse_unknown_senders\" value=\"yes\" disabled"), "{}", shown.html);
    }
}
