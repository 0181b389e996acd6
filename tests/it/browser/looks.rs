//! Every page in every state, wide and narrow, light and dark: without a finding of axe, every place of the focus to be
//! seen, and nothing scrolls sideways. With `OUTGATE_TEST_PICTURES` set to anything they are photographed too, for people
//! to look at: `target/screenshots`.

use std::path::PathBuf;

use outgate::{
    mail::id::{AccountId, OrganizationId, RelayId},
    policy::{Role, volume::Subject},
    store::{
        gateway::PointerScope,
        message_trace::{Event, Gap, Step, Told, insert_gaps_across_tenants},
    },
};
use sqlx::{AssertSqlSafe, PgPool};
use time::{Duration, OffsetDateTime};

use super::{keyboard::hidden_places, markup::unsound};
use crate::support::{
    Gateway, Installation, Queued, Tenant,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    gateway::{At, Fault},
    world::World,
};
use crate::web::message_trace::{handed_over, write_down};

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
const CLOUD: &str = "/acme/web-mail-cloud";
const LONG_GATEWAY: &str = "a-very-long-name-of-a-gateway.in-a-subdomain.of-the-department.europe.acme.example:2525";

/// Markup, as nobody is called.
const HOSTILE: &str = "'><img src=x onerror=alert(1)><svg onload=alert(1)>{{7*7}}";

/// Someone looking at one page after the other.
struct Photographer {
    browser: Chromium,
    installation: Installation,
    world: World,
    axe: String,
}

// Several walks, so that they go side by side.

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
async fn the_pages_of_domains_gateways_and_routes_are_sound_in_every_look(owner: PgPool) {
    let photographer = Photographer::signed_in(owner, "admin@acme.example").await;
    domains(&photographer).await;
    gateways(&photographer).await;
    relay_credentials(&photographer).await;
    notices(&photographer).await;
    explanations(&photographer).await;
    a_pending_gateway(&photographer).await;
    photographer.stop().await;
}

#[sqlx::test]
async fn the_pages_of_mail_and_its_volume_are_sound_in_every_look(owner: PgPool) {
    let photographer = Photographer::signed_in(owner, "admin@acme.example").await;
    the_queue(&photographer).await;
    approvals(&photographer).await;
    traced_messages(&photographer).await;
    held_mail(&photographer).await;
    volume(&photographer).await;
    limits(&photographer).await;
    distribution_lists(&photographer).await;
    photographer.stop().await;
}

#[sqlx::test]
async fn the_pages_of_history_are_sound_in_every_look(owner: PgPool) {
    let photographer = Photographer::signed_in(owner, "admin@acme.example").await;
    the_audit_log(&photographer).await;
    undo(&photographer).await;
    two_administrators(&photographer).await;
    photographer.stop().await;
}

#[sqlx::test]
async fn the_pages_that_manage_accounts_are_sound_in_every_look(owner: PgPool) {
    let photographer = Photographer::signed_in(owner, "admin@acme.example").await;
    one_account(&photographer).await;
    adding_an_account(&photographer).await;
    a_file_of_accounts(&photographer).await;
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

    async fn acme(&self) -> Tenant {
        let id = sqlx::query_scalar("select id from organization where slug = 'acme'");
        let id = OrganizationId(id.fetch_one(&self.installation.owner).await.unwrap());
        Tenant { id, slug: "acme".to_owned(), domain: "acme.example".to_owned() }
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
            if std::env::var_os("OUTGATE_TEST_PICTURES").is_some() {
                let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots").join(look);
                self.browser.screenshot(&folder.join(format!("{state}.png"))).await;
            }
            // In the dark nothing is different but the colours.
            self.axe_finds_nothing(
                &format!("{state} in {look}"),
                if dark { ", runOnly: ['color-contrast']" } else { "" },
            )
            .await;
            assert_eq!(hidden_places(&self.browser).await, serde_json::json!([]), "{state} in {look}");
        }
        assert_eq!(self.browser.trespasses().await, Vec::<String>::new(), "{state}");
        assert_eq!(unsound(&self.browser).await, serde_json::json!([]), "{state}");
    }

    async fn fits(&self, what: &str) {
        let sideways = "const page = document.documentElement; return page.scrollWidth - page.clientWidth";
        assert_eq!(self.script(sideways).await, 0, "{what} scrolls sideways");
    }

    async fn axe_finds_nothing(&self, what: &str, options: &str) {
        let script = format!(
            "const done = arguments[0];
             axe.run({{ resultTypes: ['violations']{options} }}).then(result => done(result.violations.map(violation =>
                 `${{violation.id}}: ${{violation.nodes.map(node => node.html).join(' | ')}}`)))"
        );
        let found = self.browser.client.execute_async(&script, Vec::new()).await.unwrap();
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

async fn the_audit_log(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go("/acme/administration/audit-log").await;
    photographer.look("audit-log").await;
    browser.client.find(fantoccini::Locator::Css(".deed a")).await.unwrap().click().await.unwrap();
    browser.find("heading", "A change").await;
    photographer.look("audit-log-entry").await;
    photographer.go("/acme/administration/audit-log?subject=nobody&from=2026-01-01").await;
    photographer.look("audit-log-nothing-found").await;
}

async fn undo(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go("/acme/web-mail-cloud/outbound-mail-gateway").await;
    photographer.save("new.acme.example").await;
    browser.wait_for_text("Saved.").await;
    browser.click("DisclosureTriangle", "When each relay confirmed it").await;
    photographer.look("outbound-mail-gateway-saved-and-confirmed").await;
    let change = browser.client.current_url().await.unwrap();
    let change = change.query().unwrap().trim_start_matches("change=").split('&').next().unwrap().to_owned();
    photographer.go(&format!("/acme/web-mail-cloud/undo/{change}")).await;
    photographer.look("undo").await;
    photographer.execute("update audit_entry set actor = 'bea@acme.example' where actor = 'admin@acme.example'").await;
    photographer.execute("update organization set outbound_gateway_id = null where slug = 'acme'").await;
    browser.click("button", "Undo").await;
    browser.wait_for_text("Something newer stands in the way").await;
    photographer.look("undo-in-the-way").await;
}

async fn two_administrators(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go("/acme/web-mail-cloud/outbound-mail-gateway").await;
    let theirs = "update organization set outbound_gateway_id = (select id from gateway order by address limit 1) where slug = 'acme'";
    photographer.execute(theirs).await;
    photographer.save("yours.acme.example:587").await;
    browser.find("alert", "Somebody else has changed it meanwhile").await;
    photographer.look("outbound-mail-gateway-conflict").await;
}

async fn the_table(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(TABLE).await;
    photographer.look("mail-account-manager").await;
    let all = photographer.row_heights(1280).await;
    assert!(all.len() > 45 && all.iter().all(|height| (44.0..=49.0).contains(height)), "{all:?}");
    let three_lines = photographer.row_heights(360).await;
    assert!(three_lines.iter().all(|height| *height <= 100.0), "{three_lines:?}");
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
    photographer.go(&format!("{TABLE}?q=user2")).await;
    browser.click("checkbox", "All 10 that match").await;
    browser.click("button", "Delete gateway").await;
    browser.wait_for_text("There is nothing to delete.").await;
    photographer.look("selected-accounts-nothing-to-delete").await;
    let own = "update mail_account set outbound_gateway_id =
         (select id from gateway where organization_id = mail_account.organization_id order by address limit 1)
         where user_id like 'user1%'";
    photographer.execute(own).await;
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
    photographer.save("screen.acme.example:587").await;
    browser.wait_for_text("Saved.").await;
    photographer.look("mail-account-manager-saved").await;
    let row = browser.row_with("ann.adams@acme.example").await;
    browser.find_in(&row, "link", "Delete own gateway").await.click().await.unwrap();
    browser.find("heading", "Delete this user's gateway?").await;
    photographer.look("outbound-gateway-delete").await;
}

async fn domains(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer
        .execute(
            "insert into mail_domain (organization_id, name)
        select id, 'xn--bcher-kva.example' from organization where slug = 'acme'",
        )
        .await;
    photographer.go(&format!("{CLOUD}/domain-manager")).await;
    photographer.look("domain-manager").await;
    let row = browser.row_with("bücher.example xn--bcher-kva.example").await;
    browser.find_in(&row, "link", "Outbound Gateway").await.click().await.unwrap();
    browser.find("heading", "Outbound Gateway").await;
    photographer.look("domain-outbound-gateway").await;
    photographer.save("a b").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("domain-outbound-gateway-mistake").await;
    photographer.save(LONG_GATEWAY).await;
    browser.wait_for_text("Saved.").await;
    photographer.look("domain-manager-saved").await;
    photographer.go(&format!("{CLOUD}/domain-manager/xn--bcher-kva.example/inbound-host")).await;
    browser.fill("Inbound Host", "in box").await;
    browser.click("button", "Save inbound host").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("inbound-host-mistake").await;
    browser.fill("Inbound Host", "inbound.acme.example").await;
    browser.click("button", "Save inbound host").await;
    browser.wait_for_text("Saved.").await;
    photographer.look("inbound-host-saved").await;
    let row = browser.row_with("bücher.example xn--bcher-kva.example").await;
    browser.find_in(&row, "link", "Delete own gateway").await.click().await.unwrap();
    browser.find("heading", "Delete this domain's gateway?").await;
    photographer.look("domain-outbound-gateway-delete").await;
}

async fn gateways(photographer: &Photographer) {
    let browser = &photographer.browser;
    let installation = &photographer.installation;
    let acme = photographer.acme().await;
    installation.set_gateway(&acme, &PointerScope::Organization, "mistyped.acme.example").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.acme.example").await;
    photographer.go(&format!("{CLOUD}/gateways")).await;
    photographer.look("gateways").await;
    browser.click("link", "archive.acme.example port 25").await;
    browser.find("heading", "archive.acme.example port 25").await;
    photographer.look("gateway").await;
    browser.fill("User name", HOSTILE).await;
    browser.fill("Connections at once", "0").await;
    browser.click("button", "Save").await;
    browser.find("heading", "There is a problem").await;
    photographer.look("gateway-mistakes").await;
    browser.fill("User name", "").await;
    browser.fill("Connections at once", "7").await;
    browser.fill("Backups", "mistyped.acme.example").await;
    browser.click("button", "Save").await;
    browser.wait_for_text("leaves by revision 2 of its record").await;
    photographer.look("gateway-saved").await;
    browser.click("button", "Undo").await;
    browser.wait_for_text("leaves by revision 3 of its record").await;
    verifications(photographer).await;
    test_messages(photographer).await;
    photographer.go(&format!("{CLOUD}/gateways")).await;
    browser.click("link", "mistyped.acme.example port 25").await;
    browser.click("link", "Remove").await;
    browser.find("heading", "Remove this gateway?").await;
    photographer.look("gateway-remove").await;
    browser.click("button", "Remove").await;
    browser.wait_for_text("Removed.").await;
    photographer.look("gateways-removed").await;
}

async fn verifications(photographer: &Photographer) {
    let browser = &photographer.browser;
    let gateway = Gateway::start().await;
    gateway.fails(At::Mail, Fault::Stalls);
    photographer.go(&format!("{CLOUD}/outbound-mail-gateway")).await;
    browser.fill("Outbound Gateway", &gateway.address.to_string()).await;
    browser.click("button", "Verify").await;
    browser.wait_for_text("Sender under way").await;
    gateway.says(At::Rcpt, "554 5.7.1 Relay access denied");
    gateway.go_on();
    browser.wait_for_text("does not accept our mail yet").await;
    photographer.look("verification-failed").await;
    gateway.works_again();
    browser.click("link", "Back to the form").await;
    browser.click("button", "Verify").await;
    browser.wait_for_text("It accepts our mail.").await;
    photographer.look("verification-passed").await;
    photographer.go(&format!("{CLOUD}/outbound-mail-gateway")).await;
    browser.fill("Probe Sender", "probe@elsewhere.example").await;
    browser.click("button", "Save probe sender").await;
    browser.wait_for_text("is not a mail domain of your organization").await;
    photographer.look("probe-sender-mistake").await;
}

/// The page that a message in a mailbox leads to, and what its source shows.
async fn test_messages(photographer: &Photographer) {
    let browser = &photographer.browser;
    let (acme, gateway) = (photographer.acme().await, Gateway::start().await);
    let address = gateway.address.to_string();
    let domain = PointerScope::Domain("acme.example".parse().unwrap());
    photographer.installation.set_gateway(&acme, &domain, &address).await;
    let id = photographer.installation.gateway_of(&acme, &address).await;
    photographer.go(&format!("{CLOUD}/gateways/{id}")).await;
    browser.click("button", "Send to admin@acme.example").await;
    let sent = String::from_utf8(gateway.received(1).await.remove(0).content).unwrap();
    browser.wait_for_text("on its way to admin@acme.example").await;
    browser.click("link", "Has it arrived, and by what way?").await;
    browser.find("heading", "Has the test message arrived?").await;
    photographer.look("test-message").await;
    browser.fill("Source of the message", HOSTILE).await;
    browser.click("button", "Show its way").await;
    browser.find("heading", "There is a problem").await;
    photographer.look("test-message-mistake").await;
    let header = sent.split("\r\n\r\n").next().unwrap().replace('\r', "");
    let hops = "Received: from out.archive.example ([10.0.0.7]) by mx.home.example with ESMTPS; Mon, 23 Nov 2026 10:00:05 +0000\n\
         Received: from relay.test ([127.0.0.1]) by a-very-long-name-of-a-gateway.in-a-subdomain.of-the-department.example \
         with ESMTP; Mon, 23 Nov 2026 10:00:01 +0000\n";
    browser.fill("Source of the message", &format!("{hops}{header}")).await;
    browser.click("button", "Show its way").await;
    browser.wait_for_text("it left from 10.0.0.7").await;
    photographer.look("test-message-way").await;
    photographer.installation.set_gateway(&acme, &domain, "").await;
}

async fn notices(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(&format!("{CLOUD}/notices")).await;
    photographer.look("notices-none").await;
    browser.fill("Webhook", "hooks.example.com").await;
    browser.click("button", "Save").await;
    browser.wait_for_text("is not a web address").await;
    photographer.look("notices-mistake").await;
    browser.fill("Webhook", "https://hooks.example.com/outgate").await;
    browser.click("button", "Save").await;
    browser.wait_for_text("What happens from now on is told there, too.").await;
    photographer.look("notices").await;
}

async fn relay_credentials(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(&format!("{CLOUD}/relay-credentials")).await;
    photographer.look("relay-credentials-none").await;
    browser.click("link", "New relay credential").await;
    browser.find("heading", "New relay credential").await;
    photographer.look("relay-credential-new").await;
    browser.fill("May send from", "elsewhere.example").await;
    browser.click("button", "Create").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("relay-credential-mistake").await;
    browser.fill("Name", HOSTILE).await;
    browser.fill("May send from", "acme.example").await;
    browser.click("button", "Create").await;
    browser.wait_for_text("Created.").await;
    photographer.look("relay-credential-made").await;
    browser.click("link", "Revoke").await;
    browser.find("heading", "Revoke this credential?").await;
    photographer.look("relay-credential-revoke").await;
    photographer.go(&format!("{CLOUD}/relay-credentials")).await;
    photographer.look("relay-credentials").await;
}

async fn distribution_lists(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(&format!("{CLOUD}/distribution-list")).await;
    photographer.look("distribution-list-none").await;
    browser.click("link", "Add Distribution List").await;
    browser.find("heading", "Add Distribution List").await;
    photographer.look("distribution-list-new").await;
    browser.fill("Members", "nobody").await;
    browser.click("button", "Create New List").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("distribution-list-mistake").await;
    browser.fill("Address", "everybody@acme.example").await;
    browser.fill("Name", HOSTILE).await;
    browser.fill("Members", "one@acme.example, two@elsewhere.example").await;
    browser.click("button", "Create New List").await;
    browser.wait_for_text("Created.").await;
    photographer.look("distribution-list-made").await;
    browser.click("link", "Delete").await;
    browser.find("heading", "Delete this list?").await;
    photographer.look("distribution-list-delete").await;
    photographer.go(&format!("{CLOUD}/distribution-list")).await;
    photographer.look("distribution-list").await;
}

async fn explanations(photographer: &Photographer) {
    let page = format!("{CLOUD}/explain-route");
    photographer.go(&page).await;
    photographer.look("explain-route").await;
    for (state, query) in [
        ("explain-route-answered", "sender=ann.adams%2Bnews@acme.example&recipient=x@elsewhere.example"),
        ("explain-route-refused", "sender=user03@acme.example"),
        ("explain-route-elsewhere", "sender=nobody@elsewhere.example"),
        ("explain-route-mistake", "sender=%22%3E%3Cscript%3E&recipient=bob"),
    ] {
        photographer.go(&format!("{page}?{query}")).await;
        photographer.look(state).await;
    }
}

/// A search that finds hostile and long words, with a gap; the story of a message with attempts; a mistake.
async fn traced_messages(photographer: &Photographer) {
    let page = format!("{CLOUD}/message-trace");
    photographer.go(&page).await;
    photographer.look("message-trace-empty").await;
    let (acme, now) = (photographer.acme().await, OffsetDateTime::now_utc());
    let gateway = photographer.installation.gateway_of(&acme, "dlp-eu.acme.example:587").await;
    let to = ["bob@elsewhere.example", "grüße@xn--mnchen-3ya.example", "c@elsewhere.example"];
    let taken = handed_over(now, "ann.adams@acme.example", &to, gateway);
    let queued = Event {
        step: Step::Queued,
        address: Some(LONG_GATEWAY.into()),
        reply: format!("gateway {LONG_GATEWAY} said: 451 4.7.1 {HOSTILE} {}", "x".repeat(300)).into(),
        ..handed_over(now - Duration::HOUR, "user00@acme.example", &to[..1], gateway)
    };
    let attempt = Event {
        step: Step::Attempt,
        at: now - Duration::MINUTE,
        attempts: Some(2),
        next_attempt: Some(now),
        recipients: vec![Told::Apart(to[0].into(), format!("550 {HOSTILE}").into())],
        ..queued.clone()
    };
    let story = format!("{page}/{}", queued.message);
    write_down(&photographer.installation, acme.id, &[taken, queued, attempt]).await;
    let gap = Gap {
        organization: acme.id,
        id: uuid::Uuid::now_v7(),
        relay: RelayId::new(),
        first_at: now - Duration::HOUR,
        last_at: now,
        lines: 12_400,
    };
    insert_gaps_across_tenants(&photographer.installation.owner, &[gap]).await.unwrap();
    for (state, path) in [
        ("message-trace", page.as_str()),
        ("route-report", &format!("{page}/report")),
        ("route-report-mistakes", &format!("{page}/report.csv?gateway=%3Cb%3E&from=never&to=2026-01-01&accounts=no")),
        ("message-trace-nothing", &format!("{page}?sender=nobody@acme.example&state=refused")),
        ("message-trace-mistakes", &format!("{page}?sender=%22%3E%3Cscript%3E&from=never&id=4711")),
        ("traced-message", story.as_str()),
    ] {
        photographer.go(path).await;
        photographer.look(state).await;
    }
    a_report(photographer, &format!("{page}/report")).await;
}

/// The answer on the page, also after its file was made.
async fn a_report(photographer: &Photographer, page: &str) {
    let browser = &photographer.browser;
    photographer.go(page).await;
    browser.fill("Gateway", "dlp-eu.acme.example:587").await;
    browser.click("button", "Make the file (CSV)").await;
    // One is made at a time.
    for _ in 0..100 {
        browser.click("button", "Show the report").await;
        browser.find("button", "Show the report").await;
        if !browser.text().await.contains("Another report of your organization is being made") {
            break;
        }
    }
    browser.wait_for_text("Accounts that sent nothing stand in the file only.").await;
    photographer.look("route-report-shown").await;
}

/// Two groups of held mail, mail that waits, and the choice that mail must leave through a gateway.
async fn the_queue(photographer: &Photographer) {
    let (browser, installation) = (&photographer.browser, &photographer.installation);
    let acme = photographer.acme().await;
    let queue = format!("{CLOUD}/outbound-queue");
    photographer.go(&queue).await;
    photographer.look("outbound-queue-empty").await;
    let gateway = Some(installation.gateway_of(&acme, "dlp-eu.acme.example:587").await);
    let reply = "gateway dlp-eu.acme.example port 587 said: 451 4.3.0 <script>alert(1)</script> try again later";
    let waiting = || Queued { gateway, attempts: 3, last_reply: Some(reply), ..Queued::default() };
    let longest = format!("{}@department-of-{}.acme.example", "georg.von.der.hohen.warte-".repeat(2), "x".repeat(40));
    let to: Vec<&str> = vec!["bob@elsewhere.example", longest.as_str(), HOSTILE];
    let message = installation.queued(&acme, Queued { sender: Some(&longest), to: &to, ..waiting() }).await;
    let held = Queued { state: "held", held_because: Some("gateway-taken-away"), ..waiting() };
    installation.queued(&acme, held).await;
    installation.queued(&acme, Queued { state: "answer_awaited", leased: true, ..waiting() }).await;
    installation.queued(&acme, Queued { sender: None, to: &["ann.adams@acme.example"], ..Queued::default() }).await;
    for _ in 0..60 {
        installation.queued(&acme, waiting()).await;
    }
    photographer.go(&queue).await;
    photographer.look("outbound-queue").await;
    browser.click("button", "Delete (no report)").await;
    photographer.look("selected-messages-none").await;
    photographer.go(&format!("{queue}/{message}")).await;
    photographer.look("queued-message").await;
    browser.click("button", "Return (sends a report)").await;
    photographer.look("selected-messages-return").await;
    browser.click("button", "Return 1 message").await;
    browser.wait_for_text("on the way back with a report").await;
    photographer.look("outbound-queue-decided").await;
    photographer.execute("delete from queued_message").await;
}

async fn volume(photographer: &Photographer) {
    let (acme, ann) = (photographer.acme().await, account_id(photographer, "ann.adams%").await);
    let (georg, now) = (account_id(photographer, "georg%").await, OffsetDateTime::now_utc());
    for days in 0..28 {
        let subjects = [&ann, &georg].map(|id| Subject::Account(AccountId(id.parse().unwrap())));
        let domain = Subject::Domain(acme.domain.parse().unwrap());
        let count = (123_456 * (days % 7 + 1), 345_678 * (days % 5 + 1), 1_234_567 * (days % 3));
        let at = now - Duration::days(days);
        photographer.installation.sent(&acme, at, &[&subjects[..], &[domain]].concat(), count).await;
    }
    photographer.installation.sent(&acme, now, &[Subject::NoAccount(acme.domain.parse().unwrap())], (7, 7, 7)).await;
    let page = format!("{CLOUD}/outbound-volume");
    photographer.go(&page).await;
    photographer.look("outbound-volume").await;
    photographer.go(&format!("{page}?period=four-weeks&unit=external")).await;
    photographer.browser.click("DisclosureTriangle", "All figures as a table").await;
    photographer.look("outbound-volume-of-four-weeks").await;
    photographer.go(&format!("{page}?account={georg}&period=four-weeks")).await;
    photographer.look("outbound-volume-of-an-account").await;
}

/// With what `volume` says was sent.
async fn limits(photographer: &Photographer) {
    let (browser, page) = (&photographer.browser, format!("{CLOUD}/limits"));
    let georg = account_id(photographer, "georg%").await;
    photographer.go(&page).await;
    photographer.look("limits").await;
    browser.fill("At most", "many").await;
    browser.click("button", "Save").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("limits-mistake").await;
    browser.fill("At most", "5000").await;
    browser.click("button", "Check").await;
    browser.find("heading", "What it would have done").await;
    photographer.look("limits-checked").await;
    browser.click("button", "Save").await;
    browser.wait_for_text("Saved.").await;
    photographer.look("limits-saved").await;
    photographer.go(&format!("{CLOUD}/domain-manager/acme.example/limits")).await;
    photographer.look("limits-of-a-domain").await;
    let of_georg = format!("{TABLE}/{georg}/limits");
    photographer.go(&of_georg).await;
    browser.click("checkbox", "Service account").await;
    browser.click("button", "Save class").await;
    browser.wait_for_text("Saved.").await;
    photographer.look("limits-of-an-account").await;
    browser.click("link", "Block sender").await;
    browser.find("heading", "Block this sender?").await;
    photographer.look("limits-block").await;
    browser.click("button", "Block sender").await;
    browser.wait_for_text("Blocked.").await;
    photographer.look("limits-blocked").await;
    photographer.go(&format!("{TABLE}/{georg}")).await;
    photographer.look("mail-account-blocked").await;
    photographer.go(&page).await;
    photographer.look("limits-exceptions").await;
    for (kind, subject) in [("account", georg.as_str()), ("domain", "acme.example")] {
        photographer
            .execute(&format!(
                "insert into throttle (organization_id, kind, subject, time_window, unit, most, since, turn_at)
                 select id, '{kind}', '{subject}', 'hour', 'external', 1500, now(), now() + interval '2 hours'
                 from organization where slug = 'acme'"
            ))
            .await;
    }
    photographer.go(&format!("{CLOUD}/outbound-volume")).await;
    photographer.look("outbound-volume-slowed-down").await;
    held_for_a_limit(photographer, &georg).await;
    photographer.execute("delete from throttle").await;
    photographer.execute("update sender_control set blocked = false").await;
}

/// Of who is slowed down already.
async fn held_for_a_limit(photographer: &Photographer, georg: &str) {
    let (browser, acme) = (&photographer.browser, photographer.acme().await);
    let why = "held until an administrator releases it: 1,412 recipients in a day, at most 1,000 are allowed";
    let account = Some(AccountId(georg.parse().unwrap()));
    let held = Queued { account, state: "held", held_because: Some("over-limit"), ..Queued::default() };
    photographer.installation.queued(&acme, Queued { last_reply: Some(why), ..held }).await;
    photographer
        .execute(&format!(
            "insert into limit_notice (organization_id, kind, subject, level, noticed_at, said_at, counted, happens)
             select id, 'account', '{georg}', level, now(), now(),
                    '412 recipients since 14:00 UTC, usually at most 60 in an hour at this time',
                    'Nothing new is accepted, and what waits of this sender is held until you decide.'
             from organization, (values ('near'), ('stopped')) as levels (level) where slug = 'acme'"
        ))
        .await;
    let page = format!("{CLOUD}/outbound-volume");
    photographer.go(&page).await;
    browser.click("button", "Keep throttling selected").await;
    browser.find("heading", "No sender is selected").await;
    photographer.look("selected-senders-none").await;
    photographer.go(&page).await;
    browser.click("checkbox", "Select acme.example").await;
    browser.click("button", "Keep throttling selected").await;
    browser.wait_for_text("Kept.").await;
    photographer.look("outbound-volume-held").await;
    browser.click("checkbox", "Select all of these senders").await;
    browser.click("button", "Block selected").await;
    browser.find("heading", "Block 1 sender?").await;
    photographer.look("selected-senders-block").await;
    photographer.execute("delete from queued_message").await;
    photographer.execute("delete from limit_notice").await;
}

/// What an administrator has to approve: in the list, by itself, and asked once more.
async fn approvals(photographer: &Photographer) {
    let (browser, acme) = (&photographer.browser, photographer.acme().await);
    let why = "held until an administrator approves it: a message to the distribution list everybody@acme.example needs \
               approval; all its recipients wait";
    let to: Vec<String> = (0..40).map(|place| format!("reader-{place}@elsewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let held = Queued { to: &to, state: "held", held_because: Some("needs-approval"), ..Queued::default() };
    let message = photographer.installation.queued(&acme, Queued { last_reply: Some(why), ..held }).await;
    photographer.execute("update queued_message set expires_at = now() + interval '2 days'").await;
    let queue = format!("{CLOUD}/outbound-queue");
    photographer.go(&queue).await;
    photographer.look("outbound-queue-approval").await;
    photographer.go(&format!("{queue}/{message}")).await;
    photographer.look("queued-message-approval").await;
    browser.click("button", "Release").await;
    browser.find("heading", "Release 1 message?").await;
    photographer.look("selected-messages-release").await;
    photographer.execute("delete from queued_message").await;
}

async fn held_mail(photographer: &Photographer) {
    let browser = &photographer.browser;
    let installation = &photographer.installation;
    let acme = photographer.acme().await;
    let gateway = installation.gateway_of(&acme, "dlp-eu.acme.example:587").await;
    for _ in 0..3 {
        installation.message(&acme, None, Some("user"), Some(gateway), Some("gateway-taken-away")).await;
    }
    installation.message(&acme, None, None, None, Some("no-gateway")).await;
    photographer.go(&format!("{CLOUD}/outbound-mail-gateway")).await;
    photographer.look("held-mail").await;
    photographer.go(CLOUD).await;
    photographer.look("web-mail-cloud-held-mail").await;
    photographer.go(&format!("{CLOUD}/outbound-mail-gateway")).await;
    // A relay runs: what waits for long may be tried.
    for _ in 0..3 {
        installation.waiting_message(&acme, None, "organization", "archive.acme.example").await;
    }
    photographer.save("").await;
    browser.find("heading", "Mail waits for this gateway").await;
    photographer.look("waiting-mail").await;
    browser.click("button", "Delete the gateway").await;
    browser.wait_for_text("No gateway.").await;
    browser.click("checkbox", "Mail must leave through a gateway").await;
    browser
        .client
        .find(fantoccini::Locator::Css("[action$=must-use-gateway] button"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser.wait_for_text("Mail must leave through a gateway.").await;
    photographer.look("must-use-gateway").await;
    photographer.go(TABLE).await;
    photographer.look("mail-account-manager-must-use-gateway").await;
}

async fn a_pending_gateway(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.execute("update organization set verify_before_live = 'always' where slug = 'acme'").await;
    let gateway = Gateway::start().await;
    gateway.fails(At::Mail, Fault::Stalls);
    let form = format!("{CLOUD}/domain-manager/acme.example/outbound-gateway");
    photographer.go(&form).await;
    photographer.save(&gateway.address.to_string()).await;
    browser.wait_for_text("is being checked").await;
    photographer.look("domain-manager-pending").await;
    photographer.go(&form).await;
    photographer.look("domain-outbound-gateway-pending").await;
    gateway.says(At::Rcpt, "550 5.7.1 We do not know you");
    gateway.go_on();
    photographer.go(&format!("{CLOUD}/outbound-mail-gateway")).await;
    photographer.save(&gateway.address.to_string()).await;
    browser.wait_for_text("It has not passed its check").await;
    photographer.look("outbound-mail-gateway-refused").await;
    photographer.go(CLOUD).await;
    photographer.look("web-mail-cloud-refused").await;
    photographer.go(&form).await;
    browser.click("button", "Give it up").await;
    browser.wait_for_text("Given up.").await;

    let acme = photographer.acme().await;
    let archive = photographer.installation.gateway_of(&acme, "archive.acme.example").await;
    let refusing = Gateway::start().await;
    refusing.says(At::Rcpt, "550 5.7.1 We do not know you");
    photographer.go(&format!("{CLOUD}/gateways/{archive}")).await;
    browser.fill("Address", &refusing.address.to_string()).await;
    browser.click("button", "Save").await;
    browser.wait_for_text("It has not passed its check").await;
    photographer.look("gateway-pending-record").await;
    browser.click("button", "Give it up").await;
    browser.wait_for_text("Given up.").await;
}

async fn account_id(photographer: &Photographer, user_id: &str) -> String {
    sqlx::query_scalar("select id::text from mail_account where user_id like $1")
        .bind(user_id)
        .fetch_one(&photographer.installation.owner)
        .await
        .unwrap()
}

async fn one_account(photographer: &Photographer) {
    let browser = &photographer.browser;
    let georg = account_id(photographer, "georg%").await;
    photographer.go(&format!("{TABLE}/{georg}")).await;
    photographer.look("mail-account-long").await;
    let ann = account_id(photographer, "ann.adams%").await;
    let page = format!("{TABLE}/{ann}");
    photographer.go(&page).await;
    photographer.look("mail-account").await;
    browser.fill("Name", HOSTILE).await;
    browser.click("button", "Save name").await;
    browser.wait_for_text("Saved.").await;
    photographer.look("mail-account-saved").await;
    browser.fill("User ID", "nobody").await;
    browser.click("button", "Rename").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("mail-account-mistake").await;
    photographer.go(&page).await;
    photographer.execute("update mail_account set name = 'Theirs'").await;
    browser.fill("Name", "Mine").await;
    browser.click("button", "Save name").await;
    browser.wait_for_text("Saved now: Theirs").await;
    photographer.look("mail-account-conflict").await;
    browser.click("button", "Suspend").await;
    browser.wait_for_text("is suspended: its mail is refused.").await;
    photographer.look("mail-account-suspended").await;
    browser.click("link", "Delete").await;
    browser.find("heading", "Delete this account?").await;
    photographer.look("mail-account-delete").await;
    browser.click("button", "Delete").await;
    browser.wait_for_text("is deleted.").await;
    photographer.look("mail-account-manager-deleted").await;
}

async fn adding_an_account(photographer: &Photographer) {
    let browser = &photographer.browser;
    photographer.go(&format!("{TABLE}/new")).await;
    photographer.look("new-account").await;
    browser.fill("Name", HOSTILE).await;
    browser.fill("Outbound Gateway", "10.0.0.1").await;
    browser.click("button", "Add account").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("new-account-mistakes").await;
    browser.fill("User ID", "zoe@acme.example").await;
    browser.fill("Outbound Gateway", "").await;
    browser.click("button", "Add account").await;
    browser.wait_for_text("is added.").await;
    photographer.look("new-account-added").await;
}

async fn a_file_of_accounts(photographer: &Photographer) {
    let browser = &photographer.browser;
    let choose = async |content: &str, remove: bool| {
        let (folder, path) = crate::support::outgate::file_with(content);
        photographer.go(&format!("{TABLE}/import")).await;
        let file = browser.client.find(fantoccini::Locator::Id("file")).await.unwrap();
        file.send_keys(path.to_str().unwrap()).await.unwrap();
        if remove {
            browser.click("checkbox", "Remove accounts that are not in the file").await;
        }
        browser.click("button", "See what would change").await;
        folder
    };
    photographer.go(&format!("{TABLE}/import")).await;
    photographer.look("account-file").await;
    browser.click("button", "See what would change").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("account-file-mistake").await;
    let _mistaken = choose(&format!("user_id,name\n{HOSTILE},x\nnew@nowhere.example,\"{HOSTILE}\"\n"), false).await;
    browser.find("heading", "The file cannot be imported").await;
    photographer.look("account-import-mistakes").await;
    let file =
        format!("user_id,name,outbound_gateway\nuser00@acme.example,{HOSTILE},{LONG_GATEWAY}\nnew@acme.example,New,\n");
    let _file = choose(&file, true).await;
    browser.find("heading", "What the import would change").await;
    photographer.look("account-import").await;
    browser.click("button", "Import").await;
    browser.find("alert", "There is a problem").await;
    photographer.look("account-import-removals").await;
    let _small = choose("user_id,name\nuser00@acme.example,Zero\n", false).await;
    browser.find("heading", "What the import would change").await;
    browser.click("button", "Import").await;
    browser.wait_for_text("The file is imported:").await;
    photographer.look("mail-account-manager-imported").await;
}

async fn an_empty_organization(photographer: &Photographer) {
    photographer.go("/empty/web-mail-cloud").await;
    photographer.look("empty-web-mail-cloud").await;
    photographer.go("/empty/web-mail-cloud/outbound-mail-gateway").await;
    photographer.look("empty-outbound-mail-gateway").await;
    photographer.go("/empty/web-mail-cloud/gateways").await;
    photographer.look("empty-gateways").await;
    photographer.go("/empty/web-mail-cloud/outbound-volume").await;
    photographer.look("empty-outbound-volume").await;
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
    let ann = account_id(photographer, "ann.adams%").await;
    photographer.go(&format!("{TABLE}/{ann}")).await;
    photographer.look("mail-account-read-only").await;
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
    photographer.sign_in("assistant@acme.example").await;
    browser.wait_for_text("This is what you typed: nothing is saved yet.").await;
    photographer.look("outbound-mail-gateway-after-session-ended").await;
    photographer.execute("delete from session").await;
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
