//! The procedure as the administrator's handbook has it, walked by role and name only, with a
//! message after each step that is found at the right one of four gateways.

use outgate::policy::Role;
use sqlx::PgPool;

use crate::support::{Installation, chromium::Chromium, world::World};

const PASSWORD: &str = "correct horse battery";

#[sqlx::test]
async fn an_administrator_says_where_mail_goes_and_it_goes_there(owner: PgPool) {
    walk(owner, Chromium::start().await).await;
}

#[sqlx::test]
async fn the_same_with_script_switched_off(owner: PgPool) {
    walk(owner, Chromium::start_with_script_switched_off().await).await;
}

async fn walk(owner: PgPool, admin: Chromium) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let birch = installation.organization("birch").await;
    installation.account(&acme, "ann@acme.example", &["a.adams@acme.example"]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    installation.account(&birch, "bea@birch.example", &[]).await;
    let hash = outgate::web::password::hash(PASSWORD).unwrap();
    installation.administrator(&acme, "admin@acme.example", &hash, Role::Administrator).await;
    let world = World::start(&installation).await;
    let (for_all, for_ann, of_birch) = (world.gateway().await, world.gateway().await, world.gateway().await);
    let everybody = outgate::store::gateway::PointerScope::Organization;
    installation.set_gateway(&birch, &everybody, &of_birch.typed()).await;
    let birch_before = installation.everything_of(&birch).await;

    admin.client.goto(&world.pages).await.unwrap();
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;

    // Click Administration > Manage Organization; click Web Mail Cloud; click Outbound Mail Gateway.
    admin.click("DisclosureTriangle", "Administration").await;
    admin.click("link", "Manage Organization").await;
    admin.click_in_main("Web Mail Cloud").await;
    admin.click_in_main("Outbound Mail Gateway").await;
    // Enter the address of the mail gateway in Outbound Gateway.
    admin.fill("Outbound Gateway", &for_all.typed()).await;
    admin.click("button", "Save").await;
    admin
        .wait_for_text(&format!("Saved. 2 accounts now send through {}. Live on 1 of 1 relays.", for_all.shown()))
        .await;
    world.send("ann@acme.example", "ann follows all").await;
    assert_eq!(for_all.next_subject().await, "ann follows all");

    // Click Mail Account Manager, click the Outbound Gateway icon in the Action column of a User ID.
    admin.click("link", "Mail Account Manager").await;
    admin.find("heading", "Mail Account Manager").await;
    let row = admin.row_with("ann@acme.example").await;
    admin.find_in(&row, "link", "Outbound Gateway").await.click().await.unwrap();
    admin.find("heading", "Outbound Gateway").await;
    // Enter the address of the outbound gateway server, click Save.
    admin.fill("Outbound Gateway", &for_ann.typed()).await;
    admin.click("button", "Save").await;
    let saved =
        format!("Saved. Mail from ann@acme.example now leaves through {}. Live on 1 of 1 relays.", for_ann.shown());
    admin.wait_for_text(&saved).await;
    world.send("Ann+news@ACME.example", "ann has her own").await;
    assert_eq!(for_ann.next_subject().await, "ann has her own");
    world.send("a.adams@acme.example", "by her alias too").await;
    assert_eq!(for_ann.next_subject().await, "by her alias too");
    world.send("bob@acme.example", "bob follows all").await;
    assert_eq!(for_all.next_subject().await, "bob follows all");

    // To delete, delete the address, click Save.
    let row = admin.row_with("ann@acme.example").await;
    admin.find_in(&row, "link", "Outbound Gateway").await.click().await.unwrap();
    admin.find("heading", "Outbound Gateway").await;
    admin.fill("Outbound Gateway", "").await;
    admin.click("button", "Save").await;
    admin.wait_for_text("has no gateway of its own any more and follows the organization's gateway").await;
    world.send("ann@acme.example", "ann follows all again").await;
    assert_eq!(for_all.next_subject().await, "ann follows all again");

    // To delete the gateway for all users, delete the address.
    admin.click("link", "Outbound Mail Gateway").await;
    admin.find("heading", "Outbound Mail Gateway").await;
    admin.fill("Outbound Gateway", "").await;
    admin.click("button", "Save").await;
    admin.wait_for_text("No gateway. 2 accounts now send").await;
    world.send("ann@acme.example", "no gateway").await;
    assert_eq!(world.default.next_subject().await, "no gateway");

    // The other organization: everything it has and its mail are as they were. That its gateway takes mail is written
    // down a moment after the mail, so it is looked at first.
    assert_eq!(installation.everything_of(&birch).await, birch_before);
    world.send("bea@birch.example", "birch all along").await;
    assert_eq!(of_birch.next_subject().await, "birch all along");
    for inbox in [&for_all, &for_ann, &of_birch, &world.default] {
        assert!(inbox.is_empty().await, "nothing arrived twice or where it should not");
    }
    admin.click("button", "Sign out").await;
    admin.find("button", "Sign in").await;
    admin.stop().await;
    world.stop().await;
}
