//! Every page in every state, wide and narrow, light and dark: photographed, without a finding of
//! axe, and nothing scrolls sideways. The pictures are for people to look at: `target/screenshots`.

use std::path::PathBuf;

use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{
    Installation,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    world::World,
};

/// The folder of its pictures, width, height, and whether it is dark.
const LOOKS: [(&str, u32, u32, bool); 4] = [
    ("desktop-dark", 1280, 900, true),
    ("phone-dark", 360, 800, true),
    ("phone-light", 360, 800, false),
    ("desktop-light", 1280, 900, false),
];

/// The narrowest screen, and a window of 1280 at 200 % (WCAG 2.2, 1.4.10 and 1.4.4).
const REFLOWS: [u32; 2] = [320, 640];

const TABLE: &str = "/acme/web-mail-cloud/mail-account-manager";
const LONG_GATEWAY: &str = "a-very-long-name-of-a-gateway.in-a-subdomain.of-the-department.europe.acme.example:2525";

/// Someone looking at one page after the other.
struct Photographer {
    browser: Chromium,
    installation: Installation,
    world: World,
    axe: String,
}

// Three walks, so that they go side by side.

#[sqlx::test]
async fn the_pages_of_all_users_are_sound_in_every_look(owner: PgPool) {
    let photographer = Photographer::signed_in(owner, "admin@acme.example").await;
    photographer.look("choice-of-organizations").await;
    all_users(&photographer).await;
    an_empty_organization(&photographer).await;
    photographer.stop().await;
}

#[sqlx::test]
async fn the_pages_of_one_user_are_sound_in_every_look(owner: PgPool) {
    let photographer = Photographer::signed_in(owner, "admin@acme.example").await;
    the_table(&photographer).await;
    many_users(&photographer).await;
    one_user(&photographer).await;
    picture_for_the_readme(&photographer).await;
    photographer.stop().await;
}

#[sqlx::test]
async fn every_refusal_is_sound_in_every_look(owner: PgPool) {
    let photographer = Photographer::signed_in(owner, "assistant@acme.example").await;
    reading_only(&photographer).await;
    signed_out_meanwhile(&photographer).await;
    suspended(&photographer).await;
    photographer.stop().await;
}

impl Photographer {
    async fn signed_in(owner: PgPool, email: &str) -> Self {
        let installation = Installation::on(owner);
        fill(&installation).await;
        let world = World::start(&installation).await;
        let photographer = Self { browser: Chromium::start().await, installation, world, axe: axe() };
        photographer.browser.watch_for_trespasses().await;
        photographer.go("/").await;
        photographer.sign_in(email).await;
        photographer
    }

    async fn stop(self) {
        self.browser.stop().await;
        self.world.stop().await;
    }

    async fn go(&self, path: &str) {
        self.browser.client.goto(&format!("{}{path}", self.world.pages)).await.unwrap();
    }

    async fn sign_in(&self, email: &str) {
        self.browser.fill("Mail address", email).await;
        self.browser.fill("Password", PASSWORD).await;
        self.browser.click("button", "Sign in").await;
        self.browser.find("button", "Sign out").await;
    }

    async fn save(&self, address: &str) {
        self.browser.fill("Outbound Gateway", address).await;
        self.browser.click("button", "Save").await;
    }

    async fn execute(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement)).execute(&self.installation.owner).await.unwrap();
    }

    async fn script(&self, script: &str) -> serde_json::Value {
        self.browser.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Takes the pictures of what is shown now, and looks for what is wrong with it.
    async fn look(&self, state: &str) {
        self.script(&format!("if (!window.axe) {{ {} }}", self.axe)).await;
        for width in REFLOWS {
            self.browser.appear(width, 800, false).await;
            self.fits(&format!("{state} at {width}")).await;
        }
        for (look, width, height, dark) in LOOKS {
            self.browser.appear(width, height, dark).await;
            self.fits(&format!("{state} in {look}")).await;
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots").join(look);
            self.browser.screenshot(&folder.join(format!("{state}.png"))).await;
            self.axe_finds_nothing(&format!("{state} in {look}")).await;
        }
        assert_eq!(self.browser.trespasses().await, Vec::<String>::new(), "{state}");
    }

    async fn fits(&self, what: &str) {
        let sideways = "const page = document.documentElement; return page.scrollWidth - page.clientWidth";
        assert_eq!(self.script(sideways).await, 0, "{what} scrolls sideways");
    }

    async fn axe_finds_nothing(&self, what: &str) {
        let script = "const done = arguments[0];
             axe.run({ resultTypes: ['violations'] }).then(result => done(result.violations.map(violation =>
                 `${violation.id}: ${violation.nodes.map(node => node.html).join(' | ')}`)))";
        let found = self.browser.client.execute_async(script, Vec::new()).await.unwrap();
        assert_eq!(found, serde_json::json!([]), "axe on {what}");
    }

    /// How many CSS pixels high the table's rows are that nothing was asked of.
    async fn row_heights(&self, width: u32) -> Vec<f64> {
        self.browser.appear(width, 900, false).await;
        let heights = "return [...document.querySelectorAll('tbody tr:not(.marked, .is-notable)')]
             .map(row => row.getBoundingClientRect().height)";
        serde_json::from_value(self.script(heights).await).unwrap()
    }
}

fn axe() -> String {
    let path = std::env::var("OUTGATE_TEST_AXE").expect("OUTGATE_TEST_AXE names axe.min.js; bin/test gets it");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Two pages of accounts, gateways at every scope, long and foreign names.
async fn fill(installation: &Installation) {
    let acme = installation.organization("acme").await;
    let empty = installation.organization("empty").await;
    for index in 0..60 {
        installation.account(&acme, &format!("user{index:02}@acme.example"), &[]).await;
    }
    let longest = format!(
        "{}@{}.acme.example",
        "georg.von.der.hohen.warte-".repeat(3).trim_end_matches('-').get(..64).unwrap(),
        "department-of-".repeat(4).trim_end_matches('-')
    );
    let (_, domain) = longest.split_once('@').unwrap();
    outgate::store::domain::add(&installation.owner, acme.id, &domain.parse().unwrap()).await.unwrap();
    let ann = installation.account(&acme, "ann.adams@acme.example", &["a@acme.example"]).await;
    let georg = installation.account(&acme, &longest, &[]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.acme.example").await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp-eu.acme.example:587").await;
    installation.set_gateway(&acme, &PointerScope::Account(georg), LONG_GATEWAY).await;
    for statement in [
        "update mail_account set status = 'suspended' where user_id = 'user03@acme.example'",
        "update mail_account set name = 'Ann Adams' where user_id = 'ann.adams@acme.example'",
        "update mail_account set name = 'عبد الرحمن بن عوف' where user_id = 'user01@acme.example'",
    ] {
        sqlx::query(statement).execute(&installation.owner).await.unwrap();
    }
    for tenant in [&acme, &empty] {
        installation.administrator(tenant, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    }
    installation.administrator(&acme, "assistant@acme.example", &PASSWORD_HASH, Role::AdminAssistant).await;
}

async fn all_users(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go("/acme/administration").await;
    photographer.look("manage-organization").await;
    browser.click("DisclosureTriangle", "Administration").await;
    photographer.look("menu").await;
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
    photographer
        .execute(
            "insert into relay (id, name, started_at, last_seen_at, confirmed_revision)
             values (gen_random_uuid(), 'relay-2', now(), now() - interval '5 minutes', 0)",
        )
        .await;
    browser.client.refresh().await.unwrap();
    photographer.look("outbound-mail-gateway-saved-not-everywhere").await;
    photographer.execute("delete from relay where name = 'relay-2'").await;
}

async fn the_table(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(TABLE).await;
    photographer.look("mail-account-manager").await;
    let one_line = photographer.row_heights(1280).await;
    assert!(one_line.len() > 45 && one_line.iter().all(|height| (44.0..=49.0).contains(height)), "{one_line:?}");
    let two_lines = photographer.row_heights(360).await;
    assert!(two_lines.iter().all(|height| *height <= 80.0), "{two_lines:?}");
    photographer.browser.appear(1280, 900, false).await;
    browser.client.find(fantoccini::Locator::Css("[rel=next]")).await.unwrap().click().await.unwrap();
    browser.wait_for_text("62 accounts").await;
    photographer.look("mail-account-manager-second-page").await;
    photographer.go(&format!("{TABLE}?q=nobody")).await;
    photographer.look("mail-account-manager-nothing-found").await;
    photographer.go(&format!("{TABLE}?q=georg")).await;
    let tick = browser.client.find(fantoccini::Locator::Css("tbody input")).await.unwrap();
    let account = tick.prop("value").await.unwrap().unwrap();
    photographer.go(&format!("{TABLE}?q=georg&selected={account}")).await;
    photographer.look("mail-account-manager-marked").await;
    photographer.go(&format!("{TABLE}?sort=-name")).await;
    photographer.look("mail-account-manager-by-name").await;
    photographer.go(&format!("{TABLE}?show=own")).await;
    photographer.look("mail-account-manager-own-gateway").await;
    photographer.go(&format!("{TABLE}?show=attention")).await;
    photographer.look("mail-account-manager-needs-no-attention").await;
    photographer
        .execute(
            "insert into queued_message (organization_id, id, state, sender, reverse_path, recipients, parameters, size,
                                         last_reply, accepted_at, next_attempt_at, expires_at)
             select organization_id, gen_random_uuid(), state, user_id, user_id, '[]', '[]', 1, '451 busy', now(), now(), now()
             from mail_account, (values ('held'), ('waiting'), ('waiting')) as states (state)
             where user_id in ('user02@acme.example', 'user03@acme.example', 'ann.adams@acme.example')",
        )
        .await;
    photographer.go(&format!("{TABLE}?show=attention")).await;
    photographer.look("mail-account-manager-needs-attention").await;
}

async fn many_users(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(TABLE).await;
    browser.click("checkbox", "Select ann.adams@acme.example").await;
    browser.click("checkbox", "Select user00@acme.example").await;
    photographer.look("mail-account-manager-ticked").await;
    browser.click("button", "Set gateway").await;
    browser.find("heading", "Set gateway of 2 accounts").await;
    photographer.look("selected-accounts").await;
    browser.click("button", "Set gateway of 2 accounts").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("selected-accounts-mistake").await;
    browser.fill("Outbound Gateway", "bulk.acme.example:587").await;
    browser.click("button", "Set gateway of 2 accounts").await;
    browser.wait_for_text("Saved. 2 accounts now send through bulk.acme.example port 587.").await;
    photographer.look("mail-account-manager-many-saved").await;
    browser.click("button", "Delete gateway").await;
    browser.find("heading", "No account is selected").await;
    photographer.look("selected-accounts-none").await;
    photographer.go(&format!("{TABLE}?q=user1")).await;
    browser.click("checkbox", "All 10 that match").await;
    browser.click("button", "Delete gateway").await;
    browser.find("heading", "Delete gateway of 10 accounts").await;
    photographer.look("selected-accounts-delete").await;
    photographer.execute("update mail_account set name = 'user1' where user_id = 'user02@acme.example'").await;
    browser.click("button", "Delete gateway of 10 accounts").await;
    browser.find("alert", "The number of accounts has changed").await;
    photographer.look("selected-accounts-another-number").await;
}

async fn one_user(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(&format!("{TABLE}?q=ann")).await;
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
    let row = browser.row_with("ann.adams@acme.example").await;
    browser.find_in(&row, "link", "Delete own gateway").await.click().await.unwrap();
    browser.find("heading", "Delete this user's gateway?").await;
    photographer.look("outbound-gateway-delete").await;
}

async fn an_empty_organization(photographer: &Photographer) {
    photographer.go("/empty/web-mail-cloud").await;
    photographer.look("empty-web-mail-cloud").await;
    photographer.go("/empty/web-mail-cloud/outbound-mail-gateway").await;
    photographer.look("empty-outbound-mail-gateway").await;
    photographer.go("/empty/web-mail-cloud/mail-account-manager").await;
    photographer.look("empty-mail-account-manager").await;
}

async fn reading_only(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go("/acme/web-mail-cloud/outbound-mail-gateway").await;
    photographer.look("outbound-mail-gateway-read-only").await;
    photographer.go(&format!("{TABLE}?q=ann")).await;
    let row = browser.row_with("ann.adams@acme.example").await;
    browser.find_in(&row, "link", "Outbound Gateway").await.click().await.unwrap();
    browser.find("heading", "Outbound Gateway").await;
    photographer.look("outbound-gateway-read-only").await;
    photographer.go("/acme/nothing/here").await;
    photographer.look("not-found").await;
    // Whose role was taken back while the form was open.
    photographer.execute("update administrator_role set role = 'administrator'").await;
    photographer.go("/acme/web-mail-cloud/outbound-mail-gateway").await;
    photographer.execute("update administrator_role set role = 'admin-assistant'").await;
    photographer.save("mail.example.com").await;
    browser.find("heading", "Your role does not allow this").await;
    photographer.look("not-allowed").await;
}

async fn signed_out_meanwhile(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.execute("update administrator_role set role = 'administrator'").await;
    photographer.go("/acme/web-mail-cloud/outbound-mail-gateway").await;
    photographer.execute("delete from session").await;
    photographer.save("mail.example.com").await;
    browser.wait_for_text("You had been signed out, so nothing was saved.").await;
    photographer.look("sign-in-after-session-ended").await;
    photographer.go("/sign-in").await;
    photographer.look("sign-in").await;
    browser.fill("Mail address", "nobody@acme.example").await;
    browser.fill("Password", "wrong").await;
    browser.click("button", "Sign in").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("sign-in-refused").await;
    photographer.sign_in("assistant@acme.example").await;
}

async fn suspended(photographer: &Photographer) {
    photographer.execute("update organization set status = 'suspended'").await;
    photographer.go("/acme/administration").await;
    photographer.look("organization-suspended").await;
}

/// Written into the repository only when asked for: `OUTGATE_TEST_README=1 bin/test pages_of_one_user`.
async fn picture_for_the_readme(photographer: &Photographer) {
    if std::env::var_os("OUTGATE_TEST_README").is_none() {
        return;
    }
    photographer.go(TABLE).await;
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/mail-account-manager.png");
    photographer.browser.screenshot(&docs).await;
}
