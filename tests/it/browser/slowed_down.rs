//! Who is slowed down is found, understood and released by somebody who has the pages only, with real mail at each step.

use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::PgPool;

use crate::support::{
    Installation,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    world::World,
};

#[sqlx::test]
async fn who_is_slowed_down_is_found_understood_and_released_by_who_has_only_the_pages(owner: PgPool) {
    walk(owner, Chromium::start().await).await;
}

#[sqlx::test]
async fn the_same_with_script_switched_off(owner: PgPool) {
    walk(owner, Chromium::start_with_script_switched_off().await).await;
}

async fn walk(owner: PgPool, admin: Chromium) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    // What administrators are told leaves another way.
    let gateway = world.gateway().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.typed()).await;
    admin.client.goto(&world.pages).await.unwrap();
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;
    admin.click("DisclosureTriangle", "Administration").await;
    admin.click("link", "Manage Organization").await;
    admin.click_in_main("Web Mail Cloud").await;
    admin.click_in_main("Limits").await;
    admin.find("heading", "Limits").await;
    admin.fill("At most", "2").await;
    admin.click("button", "Save").await;
    admin.wait_for_text("at most 2 recipients in an hour, beyond it delay").await;
    admin.wait_for_text("Live on 1 of 1 relays.").await;

    // Of ann's mail two go and two wait; bob's goes past them.
    for subject in ["ann's first", "ann's second", "ann's third", "ann's fourth"] {
        world.send("ann@acme.example", subject).await;
    }
    assert_eq!(gateway.next_subject().await, "ann's first");
    assert_eq!(gateway.next_subject().await, "ann's second");
    world.send("bob@acme.example", "bob's").await;
    assert_eq!(gateway.next_subject().await, "bob's");

    // Found: from where every administrator begins.
    admin.click("link", "Web Mail Cloud").await;
    admin.wait_for_text("1 sender is slowed down").await;
    admin.click_in_main("Outbound Volume").await;
    // Understood: who, by which limit, how much waits, and until when.
    admin.find("heading", "Slowed down").await;
    let page = admin.text().await;
    for words in ["ann@acme.example", "2 recipients in an hour", "2 messages", "The last leaves"] {
        assert!(page.contains(words), "{words} in {page}");
    }
    admin.click("link", "2 messages").await;
    admin.find("heading", "Outbound Queue").await;
    admin.wait_for_text("3 recipients in an hour, at most 2 are allowed").await;
    admin.client.back().await.unwrap();
    // Released.
    admin.click("button", "Send waiting mail now").await;
    admin.wait_for_text("2 messages waited for a limit. They leave at once.").await;
    let mut released = [gateway.next_subject().await, gateway.next_subject().await];
    released.sort();
    assert_eq!(released, ["ann's fourth", "ann's third"]);
    admin.click("link", "Outbound Volume").await;
    admin.find("heading", "Outbound Volume").await;
    assert!(!admin.text().await.contains("Slowed down"), "{}", admin.text().await);
    assert!(gateway.is_empty().await, "nothing arrived twice");
    admin.stop().await;
    world.stop().await;
}
