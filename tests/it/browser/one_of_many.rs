//! One user among many: how light the list is, and how few actions lead to a saved gateway.
//! The list is `web::mail_account_manager`'s.

use fantoccini::key::Key;
use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::PgPool;

use crate::support::{
    Installation,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    world::World,
};

const TABLE: &str = "/acme/web-mail-cloud/mail-account-manager";

const FIRST_NAMES: [&str; 10] =
    ["Maximiliane", "Alexander", "Ngozi", "Björn", "Siobhán", "Wei", "Fatima", "Christopher", "Aleksandra", "Jean-Luc"];
const LAST_NAMES: [&str; 6] =
    ["Featherstonehaugh", "Okonkwo-Baptiste", "Papadopoulos", "von Hohenstein", "Ångström", "Nakamura"];

/// Sixty people with the names that people have; every fifth has a gateway of its own.
async fn signed_in(owner: PgPool) -> (World, Chromium) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.eu-central.acme.example").await;
    for index in 0..60 {
        let (first, last) = (FIRST_NAMES[index % 10], LAST_NAMES[index / 10]);
        let ascii = |name: &str| name.to_lowercase().replace(|letter: char| !letter.is_ascii_lowercase(), "");
        let user_id = format!("{}.{}@acme.example", ascii(first), ascii(last));
        let account = installation.account(&acme, &user_id, &[]).await;
        sqlx::query("update mail_account set name = $1 where user_id = $2")
            .bind(format!("{first} {last}"))
            .bind(&user_id)
            .execute(&installation.owner)
            .await
            .unwrap();
        if index % 5 == 0 {
            installation.set_gateway(&acme, &PointerScope::Account(account), "dlp-frankfurt.acme.example:587").await;
        }
    }
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    let admin = Chromium::start().await;
    admin.client.goto(&format!("{}{TABLE}", world.pages)).await.unwrap();
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;
    admin.find("heading", "Mail Account Manager").await;
    (world, admin)
}

#[sqlx::test]
async fn a_page_of_the_list_is_light(owner: PgPool) {
    let (world, admin) = signed_in(owner).await;
    let weigh = "const page = performance.getEntriesByType('navigation')[0];
        const others = performance.getEntriesByType('resource').map(entry => entry.name);
        const named = [...document.querySelectorAll('link[href], script[src]')].map(node => node.href || node.src);
        return [document.querySelectorAll('tbody tr').length, page.decodedBodySize, page.encodedBodySize,
                document.querySelectorAll('*').length, 1 + new Set([...others, ...named]).size]";
    for query in ["", "?q=acme"] {
        admin.client.goto(&format!("{}{TABLE}{query}", world.pages)).await.unwrap();
        let weight = admin.client.execute(weigh, Vec::new()).await.unwrap();
        let [rows, bytes, carried, elements, requests]: [usize; 5] = serde_json::from_value(weight).unwrap();
        assert_eq!(rows, 50);
        assert!(bytes <= 56_000, "{bytes} bytes of HTML for {query}");
        assert!(carried <= 10_000, "{carried} bytes on the way for {query}");
        assert!(elements <= 1_500, "{elements} elements for {query}");
        assert!(requests <= 4, "{requests} requests for {query}");
    }
    admin.stop().await;
    world.stop().await;
}

#[sqlx::test]
async fn from_the_search_result_two_actions_save_a_users_gateway(owner: PgPool) {
    let (world, admin) = signed_in(owner).await;
    // Beside the search: from the list, without a hand on the mouse.
    admin.press("/").await;
    admin.press("okonkwo").await;
    admin.press(&Key::Enter.to_string()).await;
    admin.wait_for_text("10 found").await;

    // One: the icon of the row.
    let user = "christopher.okonkwobaptiste@acme.example";
    let row = admin.row_with(user).await;
    admin.find_in(&row, "link", "Outbound Gateway").await.click().await.unwrap();
    admin.find("heading", "Outbound Gateway").await;
    // Two: the address, and Enter.
    let field = admin.find("textbox", "Outbound Gateway").await;
    field.send_keys(&format!("mail.example.com{}", Key::Enter)).await.unwrap();

    let saved = format!("Saved. Mail from {user} now leaves through mail.example.com port 25.");
    admin.wait_for_text(&saved).await;
    admin.wait_for_text("10 found").await;
    let row = admin.row_with(user).await;
    assert!(
        row.text().await.unwrap().contains("mail.example.com"),
        "the search is as it was, and shows what was saved"
    );
    admin.stop().await;
    world.stop().await;
}
