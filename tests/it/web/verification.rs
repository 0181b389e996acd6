//! Verification, from the button to what a relay found, and its command.
//! The page `verification` in `src/web`; what is found in which setup is `relay::verification`'s.

use std::time::Duration;

use outgate::{
    mail::id::{RelayId, Revision},
    policy::Role,
    store::{self, gateway::PointerScope},
};
use reqwest::StatusCode;
use sqlx::PgPool;
use tokio::time::timeout;

use super::page_of;
use crate::support::{
    Browser, Gateway, Installation, Page, Pages,
    browser::{PASSWORD, PASSWORD_HASH},
    gateway::{At, HAPPENS_WITHIN},
    world::World,
};

/// The page once all relays have answered.
async fn ended(browser: &Browser, page: Page) -> Page {
    let looking = async {
        let mut page = page;
        while page.html.contains("http-equiv=\"refresh\"") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            page = browser.get(&page.path).await;
        }
        page
    };
    timeout(HAPPENS_WITHIN, looking).await.expect("the verification ends")
}

#[sqlx::test]
async fn a_gateway_is_verified_by_the_relay_and_its_page_says_how_that_went(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let world = World::start(&installation).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let id = installation.gateway_of(&acme, &gateway.address.to_string()).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, &format!("gateways/{id}"));
    assert!(admin.get(&page).await.text().contains("Not checked since the last change"));

    gateway.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let asked = admin.submit(&format!("{page}/verify"), &[]).await;
    let found = ended(&admin, asked).await.text();
    for words in [
        "It does not accept our mail yet.",
        "relay-1 It does not accept our mail",
        "Recipient failed",
        "554 5.7.1 Relay access denied",
        "let the server relay for 127.0.0.1",
        "Asked",
        "revision 1",
    ] {
        assert!(found.contains(words), "{words} in {found}");
    }
    assert!(admin.get(&page).await.text().contains("revision 1: it does not accept our mail"));

    gateway.works_again();
    let asked = admin.submit(&format!("{page}/verify"), &[]).await;
    let found = ended(&admin, asked).await;
    assert!(found.text().contains("It accepts our mail. Every relay that runs has found it so."), "{}", found.text());
    assert!(gateway.so_far().is_empty(), "nothing was sent");
    for path in [&page, &page_of(&acme, "gateways")] {
        assert!(admin.get(path).await.text().contains("revision 1: it accepts our mail"));
    }
    drop(world);
}

/// Who has not signed in yet, at the pages that may use gateways on this machine.
fn browser_of(world: &World) -> Browser {
    Browser::at(world.pages.trim_start_matches("http://").parse().unwrap())
}

#[sqlx::test]
async fn what_is_typed_is_verified_before_it_is_saved_at_every_scope(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    let admin = browser_of(&world);
    admin.sign_in("admin@acme.example", PASSWORD).await;
    for (form, subject, saved) in [
        ("outbound-mail-gateway", "all users", "now sends through"),
        ("domain-manager/acme.example/outbound-gateway", "acme.example", "leaves through"),
        (&format!("mail-account-manager/{ann}/outbound-gateway?q=ann"), "ann@acme.example", "now leaves through"),
    ] {
        let (form, gateway) = (page_of(&acme, form), Gateway::start().await);
        let typed = gateway.address.to_string();
        let revision = store::change::current_revision(&installation.owner).await.unwrap();
        assert!(admin.get(&form).await.html.contains(r#"<button name="verify" value="1">Verify</button>"#), "{form}");
        gateway.says(At::Rcpt, "554 5.7.1 Relay access denied");
        let asked = admin.submit(&form, &[("outbound_gateway", &typed), ("seen", ""), ("verify", "1")]).await;
        let found = ended(&admin, asked).await;
        for words in ["It does not accept our mail yet.", "Nothing is saved yet", subject] {
            assert!(found.text().contains(words), "{words} in {}", found.text());
        }
        assert_eq!(store::change::current_revision(&installation.owner).await.unwrap(), revision, "nothing is saved");

        let again = admin.get(&found.link("Back to the form")).await;
        assert!(again.path.starts_with(&form), "{} {form}", again.path);
        assert_eq!((again.field("outbound_gateway"), again.field("seen")), (typed.clone(), String::new()));

        gateway.works_again();
        let asked = admin.submit(&form, &[("outbound_gateway", &typed), ("seen", ""), ("verify", "1")]).await;
        let found = ended(&admin, asked).await;
        assert!(found.text().contains("It accepts our mail."), "{}", found.text());
        assert_eq!((found.field("outbound_gateway"), found.field("seen")), (typed.clone(), String::new()));
        assert!(found.html.contains(&format!(r#"action="{form}""#)), "{}", found.html);
        let page = admin.submit(&form, &[("outbound_gateway", &typed), ("seen", "")]).await;
        assert!(page.text().contains(saved) && page.text().contains("Saved."), "{}", page.text());
        let found = admin.get(&found.path).await;
        assert!(!found.html.contains("Nothing is saved yet"), "it is saved: {}", found.text());
        assert!(gateway.so_far().is_empty(), "nothing was sent");
    }
    world.stop().await;
}

#[sqlx::test]
async fn what_cannot_be_saved_cannot_be_verified_either(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let of_all = page_of(&acme, "outbound-mail-gateway");
    for form in [
        of_all.clone(),
        page_of(&acme, "domain-manager/acme.example/outbound-gateway"),
        page_of(&acme, &format!("mail-account-manager/{ann}/outbound-gateway")),
    ] {
        for (typed, words) in [
            ("mail_host", "is not a host name"),
            ("10.0.0.1", "is a private address"),
            (" ", "Enter the address that is to be verified."),
        ] {
            let page = admin.submit(&form, &[("outbound_gateway", typed), ("seen", ""), ("verify", "1")]).await;
            assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{form} {typed}");
            assert!(page.text().contains(words) && page.field("outbound_gateway") == typed, "{}", page.text());
        }
    }
    let asked = sqlx::query_scalar::<_, i64>("select count(*) from verification");
    assert_eq!(asked.fetch_one(&installation.owner).await.unwrap(), 0);

    let fields = |number: usize| [("outbound_gateway", format!("{number}.example.com")), ("verify", "1".to_owned())];
    for number in 0..6 {
        let [address, verify] = fields(number);
        let page = admin.submit(&of_all, &[(address.0, &address.1), (verify.0, &verify.1)]).await;
        let expected = if number < 5 { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
        assert_eq!(page.status, expected, "{number}");
        let form_again = page.text().contains("Several verifications of your organization are under way.");
        assert_eq!(form_again && page.field("outbound_gateway") == address.1, number == 5, "{}", page.text());
    }

    let may_save_ann = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    let refused = may_save_ann.submit(&of_all, &[("outbound_gateway", "a.example.com"), ("verify", "1")]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[sqlx::test]
async fn the_action_column_verifies_the_gateway_that_applies_for_mail_of_this_user(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "mail-account-manager");
    let button = r#"aria-label="Verify" aria-describedby="u1""#;
    let before = admin.get(&list).await;
    assert!(!before.html.contains(r#"aria-label="Verify""#), "nothing to verify: {}", before.html);

    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let shown = admin.get(&format!("{list}?q=ann")).await.html;
    let row = shown.split("<tr").find(|row| row.contains("ann@acme.example")).unwrap();
    assert!(row.contains(button), "{row}");
    let action = row.split("formaction=\"").nth(1).unwrap().split('"').next().unwrap();
    let asked = admin.submit(&page_of(&acme, action), &[]).await;
    for words in ["Does archive.example.com port 25 accept our mail?", "a message from ann@acme.example"] {
        assert!(asked.text().contains(words), "{words} in {}", asked.text());
    }
    let back = admin.get(&asked.link("Back to the list")).await;
    assert!(back.path.starts_with(&format!("{list}?q=ann&selected=")), "{}", back.path);

    let assistant = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    assert!(!assistant.get(&list).await.html.contains(r#"aria-label="Verify""#));
    assert_eq!(assistant.submit(&page_of(&acme, action), &[]).await.status, StatusCode::FORBIDDEN);
}

#[sqlx::test]
async fn without_a_relay_it_is_under_way_and_several_at_a_time_are_enough(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let mut forms = Vec::new();
    for number in 0..6 {
        let address = format!("archive{number}.example.com");
        installation.set_gateway(&acme, &PointerScope::Organization, &address).await;
        let id = installation.gateway_of(&acme, &address).await;
        forms.push(page_of(&acme, &format!("gateways/{id}/verify")));
    }
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let stranger = pages.signed_in(&installation, &other, Role::Administrator).await;
    let mut last = None;
    for form in &forms[..5] {
        let asked = admin.submit(form, &[]).await;
        assert!(asked.text().contains("Under way."), "{}", asked.text());
        assert_eq!(admin.submit(form, &[]).await.path, asked.path, "two clicks ask once");
        last = Some(asked.path);
    }
    let refused = admin.submit(&forms[5], &[]).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.text().contains("Several verifications of your organization are under way."));
    let last = last.unwrap();
    let theirs = page_of(&other, last.split("web-mail-cloud/").last().unwrap());
    assert_eq!(stranger.get(&theirs).await.status, StatusCode::NOT_FOUND);

    let relays = installation.relay_pool().await;
    for name in ["one", "two"] {
        store::relay::sign_on(&relays, name, RelayId::new(), Revision(0)).await.unwrap();
    }
    let one = RelayId::new();
    for taken in store::verification::take_across_tenants(&relays, one, "one").await.unwrap() {
        store::verification::report_across_tenants(&relays, one, &taken, &[], Some(true)).await.unwrap();
    }
    let partly = admin.get(&last).await;
    assert!(partly.text().contains("Under way.") && partly.text().contains("2 relays have not answered yet."));
    let later = sqlx::query("update verification set requested_at = now() - interval '46 seconds'");
    later.execute(&installation.owner).await.unwrap();
    assert!(admin.get(&last).await.text().contains("Not every relay has answered."));

    sqlx::query("delete from verification_result").execute(&installation.owner).await.unwrap();
    let aged = sqlx::query("update verification set requested_at = now() - interval '1 hour'");
    aged.execute(&installation.owner).await.unwrap();
    assert!(admin.get(&last).await.text().contains("No relay has answered."));
}
