//! What is done with accounts, with script switched off: many at once, one by one, from a file, and
//! taken back. Beside `journey`, which walks the handbook's procedure that way.

use fantoccini::Locator;
use outgate::policy::Role;
use sqlx::PgPool;

use crate::support::{
    Installation,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    outgate::file_with,
    world::World,
};

const TABLE: &str = "/acme/web-mail-cloud/mail-account-manager";

#[sqlx::test]
async fn accounts_are_managed_with_script_switched_off(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    for user in ["ann", "bob", "cy"] {
        installation.account(&acme, &format!("{user}@acme.example"), &[]).await;
    }
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    let admin = Chromium::start_with_script_switched_off().await;
    admin.client.goto(&format!("{}{TABLE}", world.pages)).await.unwrap();
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;

    many_at_once(&admin).await;
    one_by_one(&admin).await;
    from_a_file(&admin).await;
    admin.stop().await;
    world.stop().await;
}

async fn many_at_once(admin: &Chromium) {
    admin.find("heading", "Mail Account Manager").await;
    admin.click("checkbox", "Select ann@acme.example").await;
    admin.click("checkbox", "Select cy@acme.example").await;
    admin.click("button", "Set gateway").await;
    admin.fill("Outbound Gateway", "dlp.acme.example").await;
    admin.click("button", "Set gateway of 2 accounts").await;
    admin.wait_for_text("Saved. 2 accounts now send through dlp.acme.example port 25.").await;
    admin.click("button", "Undo").await;
    admin.wait_for_text("Taken back.").await;
    admin.click("link", "Mail Account Manager").await;
    let row = admin.row_with("ann@acme.example").await;
    assert!(!row.text().await.unwrap().contains("dlp.acme.example"));
}

async fn one_by_one(admin: &Chromium) {
    admin.click("link", "Mail Account Manager").await;
    admin.click("link", "Add account").await;
    admin.fill("User ID", "dee@acme.example").await;
    admin.fill("Name", "Dee").await;
    admin.click("button", "Add account").await;
    admin.wait_for_text("dee@acme.example is added.").await;
    admin.fill("Name", "Dee Dee").await;
    admin.click("button", "Save name").await;
    admin.wait_for_text("Saved.").await;
    admin.click("button", "Suspend").await;
    admin.wait_for_text("is suspended: its mail is refused.").await;
    admin.click("button", "Undo").await;
    admin.wait_for_text("Taken back.").await;
    admin.click("link", "Back to the list").await;
    admin.click("link", "dee@acme.example").await;
    admin.click("link", "Delete").await;
    admin.find("heading", "Delete this account?").await;
    admin.click("button", "Delete").await;
    admin.wait_for_text("is deleted.").await;
}

async fn from_a_file(admin: &Chromium) {
    admin.click("link", "Import from a file").await;
    let (_folder, path) = file_with("user_id,name\nann@acme.example,Ann Lee\nnew@acme.example,New\n");
    let file = admin.client.find(Locator::Id("file")).await.unwrap();
    file.send_keys(path.to_str().unwrap()).await.unwrap();
    admin.click("button", "See what would change").await;
    admin.find("heading", "What the import would change").await;
    admin.click("button", "Import").await;
    admin.wait_for_text("The file is imported:").await;
    admin.row_with("new@acme.example").await;
}
