//! The record of a gateway: TLS, sign-in, limits and the rest, in one form that makes a revision.
//! The form `gateway_record` on the page `gateway` in `src/web`.

use outgate::{
    mail::id::GatewayId,
    policy::{Role, facts::Gateway, gateway_settings::Trust},
    secret::{PrivateKey, PrivateKeys},
    store::{gateway::PointerScope, routing_facts},
};
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant, authority::Authority, browser::PASSWORD};

/// A form that is filled in right, but for revision and change.
pub const FIELDS: [(&str, &str); 16] = [
    ("address", "archive.example.com"),
    ("tls", "required"),
    ("certificate_name", ""),
    ("trust", "platform"),
    ("authority", ""),
    ("fingerprint", ""),
    ("sign_in_user", ""),
    ("password", ""),
    ("connections", "20"),
    ("messages_per_connection", ""),
    ("messages_per_minute", ""),
    ("largest_message", ""),
    ("backups", ""),
    ("returning_mail", "refuse"),
    ("returning_networks", ""),
    ("own_domains", "gateway"),
];

const CANARY: &str = "canary-4711";
const SIGNING_IN: [(&str, &str); 3] = [("tls", "verified"), ("sign_in_user", "acme"), ("password", CANARY)];

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    gateway: GatewayId,
    page: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "backup.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let gateway = installation.gateway_of(&acme, "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, &format!("gateways/{gateway}"));
    Scene { installation, acme, pages, admin, gateway, page }
}

impl Scene {
    /// Sends the form as it was shown, with these fields otherwise.
    async fn send(&self, browser: &Browser, shown: &Page, fields: &[(&str, &str)]) -> Page {
        let (seen, change) = (shown.field("seen"), shown.field("change"));
        let own = [("seen", seen.as_str()), ("change", change.as_str())];
        let of = |name| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
        let fields: Vec<_> =
            FIELDS.iter().chain(&own).map(|(name, value)| (*name, of(*name).unwrap_or(value))).collect();
        browser.submit(&format!("{}/record", self.page), &fields).await
    }

    async fn save(&self, fields: &[(&str, &str)]) -> Page {
        self.send(&self.admin, &self.admin.get(&self.page).await, fields).await
    }

    /// As relays know it.
    async fn facts(&self) -> Gateway {
        let mut relay = self.installation.relay_pool().await.acquire().await.unwrap();
        let (_, facts) = routing_facts::load_all_across_tenants(&mut relay).await.unwrap();
        Gateway::clone(facts.gateway(self.gateway).unwrap())
    }

    async fn opened(&self, key: &PrivateKey) -> String {
        let gateway = self.facts().await;
        let secret = &gateway.settings.sign_in.as_ref().unwrap().secret;
        let opened = PrivateKeys(vec![key.clone()]).open(secret, &gateway.secret_context().unwrap());
        opened.unwrap().reveal().to_owned()
    }

    async fn undo(&self, saved: &Page) -> Page {
        self.admin.submit(&undo_of(saved), &[]).await
    }
}

/// Where the button of the status line sends its form.
fn undo_of(saved: &Page) -> String {
    let (_, path) = saved.html.split_once(r#"action="/acme/web-mail-cloud/undo/"#).expect("an undo button");
    format!("/acme/web-mail-cloud/undo/{}", path.split_once('"').unwrap().0)
}

#[sqlx::test]
async fn everything_is_saved_as_a_new_revision_and_taken_back_whole(db: PgPool) {
    let scene = scene(db).await;
    let before = scene.facts().await;
    let authority = Authority::new();
    let with_key = format!("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{}", authority.pem);
    let saved = scene
        .save(&[
            ("address", "archive.example.com:587"),
            ("tls", "verified"),
            ("certificate_name", "mx.example.com"),
            ("trust", "authority"),
            ("authority", &with_key.replace('\n', "\r\n")),
            ("connections", "7"),
            ("messages_per_connection", "1,000"),
            ("messages_per_minute", "600"),
            ("largest_message", "25"),
            ("backups", "backup.example.com"),
            ("returning_mail", "onward"),
            ("returning_networks", "192.0.2.0/24\r\n2001:db8::1"),
            ("own_domains", "inbound"),
        ])
        .await;
    let line = "Saved. Mail for archive.example.com port 587 leaves by revision 2 of its record.";
    assert!(saved.text().contains(line), "{}", saved.text());
    let after = scene.facts().await;
    assert_eq!((after.revision, after.address.to_string().as_str()), (2, "archive.example.com:587"));
    assert_eq!(after.settings.trust, Trust::Authority(authority.pem.replace("\r\n", "\n").into()));
    assert_eq!(after.settings.limits.largest_message, Some(25 * 1024 * 1024));
    assert_eq!(after.settings.limits.messages_per_connection, Some(1000));
    assert_eq!(after.settings.backups, [scene.installation.gateway_of(&scene.acme, "backup.example.com").await]);
    assert_eq!(after.settings.returning_networks.len(), 2);

    let shown = scene.admin.get(&scene.page).await;
    assert_eq!((shown.field("connections"), shown.field("largest_message")), ("7".into(), "25".into()));
    assert!(shown.html.contains(r#"name="tls" value="verified" checked"#), "{}", shown.html);
    let log = scene.admin.get("/acme/administration/audit-log").await.text();
    assert!(log.contains("changed the gateway"), "{log}");
    assert!(log.contains("TLS when offered") && log.contains("TLS required and verified"), "{log}");
    // The backup stays while it is one.
    let backup = scene.installation.gateway_of(&scene.acme, "backup.example.com").await;
    let of_backup = scene.admin.get(&page_of(&scene.acme, &format!("gateways/{backup}"))).await;
    assert!(of_backup.text().contains("archive.example.com port 587, as a backup"), "{}", of_backup.text());
    assert!(!of_backup.html.contains(">Remove<"));

    let undone = scene.undo(&saved).await;
    assert!(undone.text().contains("Taken back. Mail for archive.example.com port 25"), "{}", undone.text());
    assert_eq!(scene.facts().await, Gateway { revision: 3, ..before });
    let redone = scene.undo(&undone).await;
    assert!(redone.text().contains("Brought back."), "{}", redone.text());
    assert_eq!(scene.facts().await, Gateway { revision: 4, ..after });
    assert!(scene.save(&[]).await.text().contains("Saved."));
    let late = scene.admin.submit(&undo_of(&redone), &[]).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
}

#[sqlx::test]
async fn a_password_is_kept_for_exactly_what_it_was_entered_for_and_shown_to_nobody(db: PgPool) {
    let scene = scene(db).await;
    let refused = scene.save(&SIGNING_IN).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text().contains("No relay can keep passwords yet."), "{}", refused.text());
    let key = scene.installation.secret_key().await;
    let saved = scene.save(&SIGNING_IN).await;
    assert!(saved.text().contains("leaves by revision 2") && saved.text().contains("Set on "), "{}", saved.text());
    assert_eq!(scene.opened(&key).await, CANARY);

    // Left empty it is kept, and only for the same address, TLS mode and user name.
    let kept = [("tls", "verified"), ("sign_in_user", "acme"), ("connections", "9")];
    assert!(scene.save(&kept).await.text().contains("leaves by revision 3"));
    assert_eq!(scene.opened(&key).await, CANARY);
    for changed in [("address", "evil.example.com"), ("address", "archive.example.com:2525"), ("sign_in_user", "root")]
    {
        let fields = [changed, ("tls", "verified"), ("sign_in_user", "acme")];
        let asked = scene.save(&fields).await;
        assert_eq!(asked.status, StatusCode::UNPROCESSABLE_ENTITY, "{changed:?}");
        assert!(asked.text().contains("Enter the password."), "{changed:?}: {}", asked.text());
    }
    let other = [("tls", "verified"), ("sign_in_user", "acme"), ("password", "another"), ("address", "b.example.com")];
    let moved = scene.save(&other).await;
    assert_eq!(scene.opened(&key).await, "another");
    scene.undo(&moved).await;
    assert_eq!((scene.facts().await.revision, scene.opened(&key).await.as_str()), (5, CANARY));
    // Without signing in nothing of it is left in the record, until that is taken back.
    let without = scene.save(&[]).await;
    assert_eq!(scene.facts().await.settings.sign_in, None);
    scene.undo(&without).await;
    assert_eq!(scene.opened(&key).await, CANARY);

    // A form whose session has ended is kept, its password is not.
    let shown = scene.admin.get(&scene.page).await;
    sqlx::query("delete from session").execute(&scene.installation.owner).await.unwrap();
    let sign_in = scene.send(&scene.admin, &shown, &[("password", CANARY), ("connections", "33")]).await;
    let (next, draft) = (sign_in.field("next"), sign_in.field("draft"));
    let fields = [("email", "administrator@acme.example"), ("password", PASSWORD), ("next", &next), ("draft", &draft)];
    let again = scene.admin.submit("/sign-in", &fields).await;
    assert_eq!(again.field("connections"), "33");

    let mut seen: Vec<String> =
        vec![refused, saved, moved, without, sign_in, again].into_iter().map(|p| p.html).collect();
    seen.push(scene.admin.get("/acme/administration/audit-log").await.html);
    seen.extend(scene.installation.everything_of(&scene.acme).await);
    let sessions = sqlx::query_scalar("select data::text from session").fetch_all(&scene.installation.owner);
    seen.extend::<Vec<String>>(sessions.await.unwrap());
    assert!(seen.iter().all(|text| !text.contains(CANARY) && !text.contains("63616e617279")), "the password is shown");
}

#[sqlx::test]
async fn every_mistake_stands_beside_its_field_and_in_the_summary_and_nothing_is_saved(db: PgPool) {
    let scene = scene(db).await;
    let pinned = format!("sha256 Fingerprint={}", ["AB"; 32].join(":"));
    for (field, fields, sentence) in [
        ("address", &[("address", "no host")][..], "contains a blank"),
        ("address", &[("address", "")], "Enter a host name or an IP address, such as"),
        ("address", &[("address", "127.0.0.1")], "is an address of this machine itself"),
        ("address", &[("address", "backup.example.com")], "Another gateway of your organization has this address."),
        ("tls", &[("tls", "sometimes")], "Choose when TLS is used."),
        ("tls", &[("sign_in_user", "acme"), ("password", "x")], "With a user name, choose “required and verified”"),
        ("certificate_name", &[("certificate_name", "a b")], "is not a domain name"),
        (
            "certificate_name",
            &[("address", "192.0.2.7"), ("tls", "verified")],
            "Enter the name that stands in the certificate",
        ),
        ("authority", &[("trust", "authority")], "Paste the certificate of your authority"),
        (
            "authority",
            &[("trust", "authority"), ("authority", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")],
            "cannot be read",
        ),
        (
            "fingerprint",
            &[("trust", "fingerprint"), ("fingerprint", "12:34")],
            "Enter the certificate's SHA-256 fingerprint",
        ),
        ("sign_in_user", &[("password", "x")], "Enter the user name that the password belongs to."),
        (
            "password",
            &[("tls", "verified"), ("sign_in_user", "acme"), ("password", "a\nb")],
            "This cannot be a password",
        ),
        ("connections", &[("connections", "51")], "Enter a number of connections from 1 to 50."),
        ("messages_per_minute", &[("messages_per_minute", "many")], "“many” is not a number"),
        ("largest_message", &[("largest_message", "-1")], "is not a number"),
        ("backups", &[("backups", "nowhere.example.com")], "is no other gateway of your organization"),
        ("backups", &[("backups", "archive.example.com:25")], "cannot stand in for itself"),
        ("returning_networks", &[("returning_mail", "onward")], "Enter the networks that the gateway sends from"),
        (
            "returning_networks",
            &[("returning_mail", "onward"), ("returning_networks", "::/0")],
            "::/0 is too wide, at least a /32 is needed",
        ),
    ] {
        let page = scene.save(fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields:?}");
        let in_summary = format!(r##"<a href="#{field}">"##);
        assert!(
            page.html.contains(&in_summary) && page.text().matches(sentence).count() == 2,
            "{fields:?}: {}",
            page.text()
        );
        assert!(page.html.contains(&format!(r#"id="{field}-mistake""#)), "{field}");
        assert!(page.html.contains(r#"name="password" type="password" value="""#));
    }
    let hostile = scene.save(&[("sign_in_user", "<script>alert(1)</script>"), ("connections", "\"><b>")]).await;
    assert!(!hostile.html.contains("<script>alert") && !hostile.html.contains("\"><b>"), "{}", hostile.html);
    assert_eq!(scene.facts().await.revision, 1);
    // A fingerprint needs no name, and is taken as openssl prints it.
    let pinned = [("address", "192.0.2.7"), ("tls", "verified"), ("trust", "fingerprint"), ("fingerprint", &*pinned)];
    assert!(scene.save(&pinned).await.text().contains("Saved."));
    assert_eq!(scene.facts().await.settings.trust, Trust::Fingerprint([0xab; 32]));
}

#[sqlx::test]
async fn what_somebody_else_has_saved_meanwhile_is_not_overwritten_unseen(db: PgPool) {
    let scene = scene(db).await;
    let email = "bea@acme.example";
    scene
        .installation
        .administrator(&scene.acme, email, &crate::support::browser::PASSWORD_HASH, Role::Administrator)
        .await;
    let bea = scene.pages.browser();
    bea.sign_in(email, PASSWORD).await;
    let shown = scene.admin.get(&scene.page).await;
    scene.send(&bea, &bea.get(&scene.page).await, &[("connections", "3"), ("own_domains", "inbound")]).await;

    let conflict = scene.send(&scene.admin, &shown, &[("connections", "44")]).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    for words in
        ["Somebody else has changed it meanwhile", email, "Saved now: 3", "Saved now: To the domain's inbound host"]
    {
        assert!(conflict.text().contains(words), "{words} in {}", conflict.text());
    }
    assert_eq!(conflict.field("connections"), "44");
    assert_eq!(scene.facts().await.settings.limits.connections, 3);
    let saved = scene.send(&scene.admin, &conflict, &[("connections", "44")]).await;
    assert!(saved.text().contains("leaves by revision 3"), "{}", saved.text());
    // One's own earlier save is nobody else's.
    assert!(scene.send(&scene.admin, &scene.admin.get(&scene.page).await, &[]).await.text().contains("revision 4"));
    let old = scene.send(&scene.admin, &saved, &[("connections", "45")]).await;
    assert!(old.text().contains("revision 5"), "{}", old.text());
    assert!(scene.save(&[("connections", "45")]).await.text().contains("Nothing changed."));
}

#[sqlx::test]
async fn who_may_not_change_it_reads_it_in_words(db: PgPool) {
    let scene = scene(db).await;
    scene.save(&[("largest_message", "25"), ("backups", "backup.example.com")]).await;
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let reader = scene.pages.signed_in(&scene.installation, &scene.acme, role).await;
        let page = reader.get(&scene.page).await;
        assert!(!page.html.contains(">Save<"), "{role}");
        for words in ["TLS required", "20 connections", "messages up to 25 MB", "backups: backup.example.com port 25"] {
            assert!(page.text().contains(words), "{role}: {words} in {}", page.text());
        }
        let path = format!("{}/record", scene.page);
        let fields: Vec<_> =
            FIELDS.into_iter().chain([("seen", "2"), ("change", "0199f3a0-0000-7000-8000-000000000000")]).collect();
        let refused = reader.once(reader.request(Method::POST, &path).form(&fields), &path).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{role}");
    }
}
