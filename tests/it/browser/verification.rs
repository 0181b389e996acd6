//! A verification before an administrator's eyes: step by step with script, without a reload, and without script by
//! reloading.

use outgate::policy::Role;
use serde_json::Value;
use sqlx::PgPool;

use crate::support::{
    Gateway, Installation,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    gateway::{At, Fault},
    world::World,
};

#[sqlx::test]
async fn steps_appear_one_by_one_on_the_page_that_stays(owner: PgPool) {
    seen_by(owner, Chromium::start().await, true).await;
}

#[sqlx::test]
async fn without_script_the_page_reloads_until_it_has_ended(owner: PgPool) {
    seen_by(owner, Chromium::start_with_script_switched_off().await, false).await;
}

async fn seen_by(owner: PgPool, admin: Chromium, with_script: bool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    let gateway = Gateway::start().await;
    gateway.fails(At::Rcpt, Fault::Stalls);
    if with_script {
        admin.watch_for_trespasses().await;
    }
    admin.client.goto(&format!("{}/acme/web-mail-cloud/outbound-mail-gateway", world.pages)).await.unwrap();
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;
    admin.fill("Outbound Gateway", &gateway.address.to_string()).await;
    admin.click("button", "Verify").await;
    admin.wait_for_text("Under way.").await;
    if with_script {
        script(&admin, "window.stays = 'here'; document.querySelector('main a').focus()").await;
    }
    gateway.stalled(1).await;
    admin.wait_for_text("Sender passed").await;
    admin.wait_for_text("Recipient under way").await;
    gateway.works_again();
    gateway.go_on();
    admin.wait_for_text("It accepts our mail. Every relay that runs has found it so.").await;
    admin.find("button", "Save").await;
    admin.find("link", "Back to the form").await;
    if with_script {
        assert_eq!(script(&admin, "return window.stays").await, "here", "the page was not loaded again");
        let live = "return document.querySelector('main [aria-live=polite]').textContent.includes('Recipient')";
        assert_eq!(script(&admin, live).await, true);
        assert_eq!(script(&admin, "return document.activeElement.localName").await, "a", "the focus stays");
        assert_eq!(admin.trespasses().await, Vec::<String>::new());
    }
    admin.click("button", "Save").await;
    admin.wait_for_text("Saved.").await;
    admin.stop().await;
    world.stop().await;
}

#[sqlx::test]
async fn the_page_that_saved_a_gateway_says_by_itself_how_its_check_went(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let (world, admin) = (World::start(&installation).await, Chromium::start().await);
    let (first, second) = (Gateway::start().await, Gateway::start().await);
    for gateway in [&first, &second] {
        gateway.fails(At::Rcpt, Fault::Stalls);
    }
    admin.client.goto(&format!("{}/acme/web-mail-cloud/outbound-mail-gateway", world.pages)).await.unwrap();
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;
    admin.fill("Outbound Gateway", &first.address.to_string()).await;
    admin.click("button", "Save").await;
    admin.wait_for_text("Saved.").await;
    admin.wait_for_text("A check is under way").await;
    first.stalled(1).await;
    script(&admin, "window.stays = 'here'").await;
    first.works_again();
    first.go_on();
    admin.wait_for_text("revision 1: it accepts our mail").await;
    assert_eq!(script(&admin, "return window.stays").await, "here", "the page was not loaded again");

    // The same of a change that has to pass first, on the gateway's own page.
    let id = installation.gateway_of(&acme, &first.address.to_string()).await;
    admin.client.goto(&format!("{}/acme/web-mail-cloud/gateways/{id}", world.pages)).await.unwrap();
    admin.fill("Address", &second.address.to_string()).await;
    admin.click("button", "Save").await;
    admin.wait_for_text("It is being checked.").await;
    second.stalled(1).await;
    script(&admin, "window.stays = 'here'").await;
    second.works_again();
    second.go_on();
    admin.wait_for_text("leaves by revision 2 of its record").await;
    assert_eq!(script(&admin, "return window.stays").await, "here", "the page was not loaded again");
    assert!(!admin.text().await.contains("A change is not live yet"));
    admin.stop().await;
    world.stop().await;
}

async fn script(admin: &Chromium, script: &str) -> Value {
    admin.client.execute(script, Vec::new()).await.unwrap()
}
