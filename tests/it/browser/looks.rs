//! Every page in every state, wide and narrow, light and dark: photographed, without a finding of
//! axe, and nothing scrolls sideways. The pictures are for people to look at: `target/screenshots`.

use std::path::PathBuf;

use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::PgPool;

use crate::support::{
    Installation,
    chromium::{Chromium, DESKTOP, Look},
    world::World,
};

const PASSWORD: &str = "correct horse battery";
const PHONE: Look = Look { width: 360, height: 800, ..DESKTOP };

#[sqlx::test]
async fn every_page_is_sound_on_a_desktop_in_the_light(owner: PgPool) {
    photograph(owner, "desktop-light", DESKTOP).await;
}

#[sqlx::test]
async fn every_page_is_sound_on_a_desktop_in_the_dark(owner: PgPool) {
    photograph(owner, "desktop-dark", Look { dark: true, ..DESKTOP }).await;
}

#[sqlx::test]
async fn every_page_is_sound_on_a_phone_in_the_light(owner: PgPool) {
    photograph(owner, "phone-light", PHONE).await;
}

#[sqlx::test]
async fn every_page_is_sound_on_a_phone_in_the_dark(owner: PgPool) {
    photograph(owner, "phone-dark", Look { dark: true, ..PHONE }).await;
}

/// Someone looking at one page after the other.
struct Photographer {
    browser: Chromium,
    pages: String,
    folder: PathBuf,
    axe: String,
}

impl Photographer {
    async fn go(&self, path: &str) {
        self.browser.client.goto(&format!("{}{path}", self.pages)).await.unwrap();
    }

    async fn save(&self, address: &str) {
        self.browser.fill("Outbound Gateway", address).await;
        self.browser.click("button", "Save").await;
    }

    /// Takes the picture of what is shown now, and looks for what is wrong with it.
    async fn look(&self, state: &str) {
        let client = &self.browser.client;
        self.browser.screenshot(&self.folder.join(format!("{state}.png"))).await;
        let sideways = client
            .execute("return document.documentElement.scrollWidth - document.documentElement.clientWidth", Vec::new())
            .await
            .unwrap();
        assert_eq!(sideways, 0, "{state} scrolls sideways");
        client.execute(&self.axe, Vec::new()).await.unwrap();
        let found = client
            .execute_async(
                "const done = arguments[0];
                 axe.run().then(result => done(result.violations.map(violation =>
                     `${violation.id}: ${violation.nodes.map(node => node.html).join(' | ')}`)))",
                Vec::new(),
            )
            .await
            .unwrap();
        assert_eq!(found, serde_json::json!([]), "axe on {state}");
    }
}

async fn photograph(owner: PgPool, name: &str, look: Look) {
    let installation = Installation::on(owner);
    let hash = outgate::web::password::hash(PASSWORD).unwrap();
    fill(&installation, &hash).await;
    let world = World::start(&installation).await;
    let photographer = Photographer {
        browser: Chromium::start(look).await,
        pages: world.pages.clone(),
        folder: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots").join(name),
        axe: axe(),
    };
    sign_in(&photographer).await;
    pages_of_acme(&photographer).await;
    pages_of_an_empty_organization(&photographer).await;
    if name == "desktop-light" {
        picture_for_the_readme(&photographer).await;
    }
    photographer.browser.stop().await;
    world.stop().await;
}

fn axe() -> String {
    let path = std::env::var("OUTGATE_TEST_AXE").expect("OUTGATE_TEST_AXE names axe.min.js; bin/test gets it");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Two pages of accounts, gateways at every scope, long and foreign names.
async fn fill(installation: &Installation, hash: &str) {
    let acme = installation.organization("acme").await;
    let empty = installation.organization("empty").await;
    for index in 0..60 {
        installation.account(&acme, &format!("user{index:02}@acme.example"), &[]).await;
    }
    let long = "georg.baumgartner-oesterreicher.von.der.hohen.warte@acme.example";
    let accounts = [
        installation.account(&acme, "ann.adams@acme.example", &["a@acme.example"]).await,
        installation.account(&acme, long, &[]).await,
        installation.account(&acme, "aaron.<b>bold</b>@acme.example".replace(['<', '>'], "-").as_str(), &[]).await,
    ];
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.acme.example").await;
    installation.set_gateway(&acme, &PointerScope::Account(accounts[0]), "dlp-eu.acme.example:587").await;
    let far = "a-very-long-name-of-a-gateway.in-a-subdomain.of-the-department.europe.acme.example:2525";
    installation.set_gateway(&acme, &PointerScope::Account(accounts[1]), far).await;
    sqlx::query("update mail_account set status = 'suspended' where user_id = 'user03@acme.example'")
        .execute(&installation.owner)
        .await
        .unwrap();
    for tenant in [&acme, &empty] {
        installation.administrator(tenant, "admin@acme.example", hash, Role::Administrator).await;
    }
}

async fn sign_in(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go("/").await;
    photographer.look("sign-in").await;
    browser.fill("Mail address", "nobody@acme.example").await;
    browser.fill("Password", "wrong").await;
    browser.click("button", "Sign in").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("sign-in-refused").await;
    browser.fill("Mail address", "admin@acme.example").await;
    browser.fill("Password", PASSWORD).await;
    browser.click("button", "Sign in").await;
    browser.find("button", "Sign out").await;
    photographer.look("choice-of-organizations").await;
}

async fn pages_of_acme(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go("/acme/administration").await;
    photographer.look("manage-organization").await;
    photographer.go("/acme/web-mail-cloud").await;
    photographer.look("web-mail-cloud").await;
    photographer.go("/acme/web-mail-cloud/outbound-mail-gateway").await;
    photographer.look("outbound-mail-gateway").await;
    photographer.save("smtp://mail.example.com").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("outbound-mail-gateway-mistake").await;
    photographer.save("archive.acme.example:587").await;
    browser.wait_for_text("Saved.").await;
    photographer.look("outbound-mail-gateway-saved").await;
    photographer.go("/acme/web-mail-cloud/mail-account-manager").await;
    photographer.look("mail-account-manager").await;
    photographer.go("/acme/web-mail-cloud/mail-account-manager?q=nobody").await;
    photographer.look("mail-account-manager-nothing-found").await;
    photographer.go("/acme/web-mail-cloud/mail-account-manager?q=ann").await;
    let row = browser.row_with("ann.adams@acme.example").await;
    browser.find_in(&row, "link", "Outbound Gateway").await.click().await.unwrap();
    browser.find("heading", "Outbound Gateway").await;
    photographer.look("outbound-gateway").await;
    photographer.save("10.0.0.1").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("outbound-gateway-mistake").await;
    photographer.save("dlp.acme.example:587").await;
    browser.wait_for_text("Saved.").await;
    photographer.look("mail-account-manager-saved").await;
    photographer.go("/acme/nothing/here").await;
    photographer.look("not-found").await;
}

async fn pages_of_an_empty_organization(photographer: &Photographer) {
    photographer.go("/empty/web-mail-cloud").await;
    photographer.look("empty-web-mail-cloud").await;
    photographer.go("/empty/web-mail-cloud/outbound-mail-gateway").await;
    photographer.look("empty-outbound-mail-gateway").await;
    photographer.go("/empty/web-mail-cloud/mail-account-manager").await;
    photographer.look("empty-mail-account-manager").await;
}

/// Written into the repository only when asked for: `OUTGATE_TEST_README=1 bin/test desktop_in_the_light`.
async fn picture_for_the_readme(photographer: &Photographer) {
    if std::env::var_os("OUTGATE_TEST_README").is_none() {
        return;
    }
    photographer.go("/acme/web-mail-cloud/mail-account-manager").await;
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/mail-account-manager.png");
    photographer.browser.screenshot(&docs).await;
}
