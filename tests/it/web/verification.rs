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
