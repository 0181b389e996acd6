//! Verification, from the button to what a relay found, and its command.
//! The page `verification` in `src/web`; what is found in which setup is `relay::verification`'s.

use std::time::Duration;

use outgate::{
    mail::id::{RelayId, Revision, VerificationId},
    policy::{
        Role,
        fault::Stage,
        verification::{Outcome, Step},
    },
    relay::verification::LIMITS,
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        relay::SetUp,
        verification::{Asked, Wanted},
    },
};
use reqwest::StatusCode;
use sqlx::PgPool;
use tokio::time::timeout;

use super::{account_file::confirm, page_of};
use crate::support::{
    Browser, Gateway, Installation, Page, Pages, Tenant,
    browser::{PASSWORD, PASSWORD_HASH},
    gateway::{At, Fault, HAPPENS_WITHIN},
    outgate::Outgate,
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

    // The last result of what has not changed is kept, others are not: one with a recipient of one's own counts for less.
    let with_own_recipient = "insert into verification
            (organization_id, id, gateway_id, revision, address, sender, recipient, requested_by)
        select organization_id, gen_random_uuid(), gateway_id, revision, address, sender, 'a@elsewhere.example', 'ann'
        from verification order by requested_at desc limit 1";
    sqlx::query(with_own_recipient).execute(&installation.owner).await.unwrap();
    let long_ago = "update verification set requested_at = requested_at - interval '31 days'";
    sqlx::query(long_ago).execute(&installation.owner).await.unwrap();
    let other = Gateway::start().await;
    installation
        .set_gateway(&acme, &PointerScope::Domain(acme.domain.parse().unwrap()), &other.address.to_string())
        .await;
    let id = installation.gateway_of(&acme, &other.address.to_string()).await;
    ended(&admin, admin.submit(&page_of(&acme, &format!("gateways/{id}/verify")), &[]).await).await;
    assert!(admin.get(&page).await.text().contains("revision 1: it accepts our mail"));
    let kept: i64 =
        sqlx::query_scalar("select count(*) from verification").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(kept, 2);
    drop(world);
}

#[sqlx::test]
async fn gateways_that_hang_hold_up_no_other_organizations_verification(db: PgPool) {
    let installation = Installation::on(db);
    let mut tarpits = Vec::new();
    for slug in ["one", "other"] {
        let hanging = installation.organization(slug).await;
        for _ in 0..5 {
            let tarpit = Gateway::start().await;
            tarpit.fails(At::Greeting, Fault::Stalls);
            asked_of(&installation, &hanging, &tarpit).await;
            tarpits.push(tarpit);
        }
    }
    let world = World::start(&installation).await;
    let hang = async {
        while tarpits.iter().any(|tarpit| tarpit.connections() == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMITS.command, hang)
        .await
        .expect("the others are being verified, none after another one has been given up");

    let (acme, gateway) = (installation.organization("acme").await, Gateway::start().await);
    let asked = asked_of(&installation, &acme, &gateway).await;
    let answered = async {
        let mut db = installation.owner.acquire().await.unwrap();
        while !store::verification::by_id(&mut db, acme.id, asked).await.unwrap().unwrap().accepts() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Each of the others takes twelve seconds and more.
    timeout(Duration::from_secs(8), answered).await.expect("its own answer does not wait for theirs");
    world.stop().await;
}

/// Whether this gateway accepts mail, which nobody has saved.
async fn asked_of(installation: &Installation, tenant: &Tenant, gateway: &Gateway) -> VerificationId {
    let web = installation.pool_as(store::roles::WEB).await;
    let mut transaction = OrganizationTransaction::begin(&web, tenant.id).await.unwrap();
    let address = gateway.address.to_string().parse().unwrap();
    let asked =
        store::verification::ask(&mut transaction, tenant.id, &Wanted::of(None, &address, "ann")).await.unwrap();
    transaction.commit().await.unwrap();
    match asked {
        Asked::Asked(id) => id,
        other => panic!("{other:?}"),
    }
}

/// Who has not signed in yet, at the pages that may use gateways on this machine.
fn browser_of(world: &World) -> Browser {
    Browser::at(world.pages.trim_start_matches("http://").parse().unwrap())
}

#[sqlx::test]
async fn what_is_typed_is_verified_before_it_is_saved_at_every_scope(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    let admin = browser_of(&world);
    admin.sign_in("admin@acme.example", PASSWORD).await;
    for (form, subject, saved) in [
        ("outbound-mail-gateway", "all users", "now sends through"),
        ("domain-manager/acme.example/outbound-gateway", "acme.example", "now sends through"),
        (&format!("mail-account-manager/{ann}/outbound-gateway?q=ann"), "ann@acme.example", "now leaves through"),
    ] {
        let (form, gateway) = (page_of(&acme, form), Gateway::start().await);
        let typed = gateway.address.to_string();
        let revision = store::change::current_revision(&installation.owner).await.unwrap();
        assert!(admin.get(&form).await.html.contains(r#"<button name="verify" value="1">Verify</button>"#), "{form}");
        gateway.says(At::Rcpt, "554 5.7.1 Relay access denied");
        let asked = admin.submit(&form, &[("outbound_gateway", &typed), ("seen", ""), ("verify", "1")]).await;
        let found = ended(&admin, asked).await;
        for words in ["It does not accept our mail yet.", "Nothing is saved yet", subject] {
            assert!(found.text().contains(words), "{words} in {}", found.text());
        }
        assert_eq!(store::change::current_revision(&installation.owner).await.unwrap(), revision, "nothing is saved");

        let again = admin.get(&found.link("Back to the form")).await;
        assert!(again.path.starts_with(&form), "{} {form}", again.path);
        assert_eq!((again.field("outbound_gateway"), again.field("seen")), (typed.clone(), String::new()));

        gateway.works_again();
        let asked = admin.submit(&form, &[("outbound_gateway", &typed), ("seen", ""), ("verify", "1")]).await;
        let found = ended(&admin, asked).await;
        assert!(found.text().contains("It accepts our mail."), "{}", found.text());
        assert_eq!((found.field("outbound_gateway"), found.field("seen")), (typed.clone(), String::new()));
        assert!(found.html.contains(&format!(r#"action="{form}""#)), "{}", found.html);
        let page = admin.submit(&form, &[("outbound_gateway", &typed), ("seen", "")]).await;
        assert!(page.text().contains(saved) && page.text().contains("Saved."), "{}", page.text());
        let found = admin.get(&found.path).await;
        assert!(!found.html.contains("Nothing is saved yet"), "it is saved: {}", found.text());
        assert!(gateway.so_far().is_empty(), "nothing was sent");
    }
    world.stop().await;
}

#[sqlx::test]
async fn what_cannot_be_saved_cannot_be_verified_either(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let of_all = page_of(&acme, "outbound-mail-gateway");
    for form in [
        of_all.clone(),
        page_of(&acme, "domain-manager/acme.example/outbound-gateway"),
        page_of(&acme, &format!("mail-account-manager/{ann}/outbound-gateway")),
    ] {
        for (typed, words) in [
            ("mail_host", "is not a host name"),
            ("10.0.0.1", "is a private address"),
            (" ", "Enter the address that is to be verified."),
        ] {
            let page = admin.submit(&form, &[("outbound_gateway", typed), ("seen", ""), ("verify", "1")]).await;
            assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{form} {typed}");
            assert!(page.text().contains(words) && page.field("outbound_gateway") == typed, "{}", page.text());
        }
    }
    let asked = sqlx::query_scalar::<_, i64>("select count(*) from verification");
    assert_eq!(asked.fetch_one(&installation.owner).await.unwrap(), 0);

    let fields = |number: usize| [("outbound_gateway", format!("{number}.example.com")), ("verify", "1".to_owned())];
    for number in 0..6 {
        let [address, verify] = fields(number);
        let page = admin.submit(&of_all, &[(address.0, &address.1), (verify.0, &verify.1)]).await;
        let expected = if number < 5 { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
        assert_eq!(page.status, expected, "{number}");
        let form_again = page.text().contains("Several verifications of your organization are under way");
        assert_eq!(form_again && page.field("outbound_gateway") == address.1, number == 5, "{}", page.text());
    }

    let may_save_ann = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    let refused = may_save_ann.submit(&of_all, &[("outbound_gateway", "a.example.com"), ("verify", "1")]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[sqlx::test]
async fn the_action_column_verifies_the_gateway_that_applies_for_mail_of_this_user(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "mail-account-manager");
    let button = r#"aria-label="Verify" aria-describedby="u1""#;
    let before = admin.get(&list).await;
    assert!(!before.html.contains(r#"aria-label="Verify""#), "nothing to verify: {}", before.html);

    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let shown = admin.get(&format!("{list}?q=ann")).await.html;
    let row = shown.split("<tr").find(|row| row.contains("ann@acme.example")).unwrap();
    assert!(row.contains(button), "{row}");
    let action = row.split("formaction=\"").nth(1).unwrap().split('"').next().unwrap();
    let asked = admin.submit(&page_of(&acme, action), &[]).await;
    for words in ["Does archive.example.com port 25 accept our mail?", "a message from ann@acme.example"] {
        assert!(asked.text().contains(words), "{words} in {}", asked.text());
    }
    let back = admin.get(&asked.link("Back to the list")).await;
    assert!(back.path.starts_with(&format!("{list}?q=ann&selected=")), "{}", back.path);

    let assistant = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    assert!(!assistant.get(&list).await.html.contains(r#"aria-label="Verify""#));
    assert_eq!(assistant.submit(&page_of(&acme, action), &[]).await.status, StatusCode::FORBIDDEN);
}

/// A verification of a gateway that offers TLS with a certificate which would be verified.
pub async fn with_tls(installation: &Installation, acme: &Tenant) -> VerificationId {
    let address = "tls.example.com".parse().unwrap();
    let scope = PointerScope::Domain(acme.domain.parse().unwrap());
    installation.set_gateway(acme, &scope, "tls.example.com").await;
    let gateway = Some(installation.gateway_of(acme, "tls.example.com").await);
    let transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    // The gateway stays.
    store::gateway::set(transaction, &scope, None, "operator").await.unwrap();
    let mut transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let wanted = Wanted::of(gateway, &address, "operator");
    let asked = store::verification::ask(&mut transaction, acme.id, &wanted).await.unwrap();
    transaction.commit().await.unwrap();
    let Asked::Asked(id) = asked else { panic!("{asked:?}") };
    let (relays, relay) = (installation.relay_pool().await, RelayId::new());
    let step = Step {
        stage: Stage::Tls,
        outcome: Outcome::Passed,
        took: 1,
        saw: vec![],
        advice: Some("Its certificate is valid".to_owned()),
        would_verify: true,
        from: None,
    };
    for taken in store::verification::take_across_tenants(&relays, relay, "one").await.unwrap() {
        let steps = std::slice::from_ref(&step);
        store::verification::report_across_tenants(&relays, relay, &taken, steps, Some(true)).await.unwrap();
    }
    id
}

/// Waits until this address is being verified by itself, and forgets that it was.
async fn asked_by_itself(installation: &Installation, address: &str) {
    let asked = async {
        let forgotten = "delete from verification where address = $1";
        while sqlx::query(forgotten).bind(address).execute(&installation.owner).await.unwrap().rows_affected() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HAPPENS_WITHIN, asked).await.unwrap_or_else(|_| panic!("{address} is not verified by itself"));
}

#[sqlx::test]
async fn whichever_page_saves_a_gateway_it_is_verified_by_itself(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let manager = page_of(&acme, "mail-account-manager");
    let set = async |path: &str, address: &str| {
        let saved = admin.submit(path, &[("outbound_gateway", address)]).await;
        asked_by_itself(&installation, address).await;
        saved
    };
    set(&page_of(&acme, "outbound-mail-gateway"), "all.example.com").await;
    set(&page_of(&acme, &format!("domain-manager/{}/outbound-gateway", acme.domain)), "domain.example.com").await;
    let own = format!("{manager}/{ann}/outbound-gateway");
    set(&own, "user.example.com").await;
    let replaced = set(&own, "other.example.com").await;
    let undo = page_of(&acme, &format!("undo/{}", replaced.path.rsplit_once("change=").unwrap().1));
    assert!(admin.submit(&undo, &[]).await.text().contains("Taken back."));
    asked_by_itself(&installation, "user.example.com").await;

    let new = admin.get(&format!("{manager}/new")).await;
    let fields = [
        ("user_id", "bob@acme.example"),
        ("name", "Bob"),
        ("addresses", ""),
        ("outbound_gateway", "new.example.com"),
        ("change", &new.field("change")),
    ];
    let added = admin.submit(&format!("{manager}/new"), &fields).await;
    assert!(added.text().contains("new.example.com"), "{}", added.text());
    asked_by_itself(&installation, "new.example.com").await;
    let selected = [("action", "set"), ("all", "1"), ("confirmed", "2"), ("outbound_gateway", "selected.example.com")];
    admin.submit(&format!("{manager}/selected"), &selected).await;
    asked_by_itself(&installation, "selected.example.com").await;
    let file = "user_id,name,outbound_gateway\nann@acme.example,Ann,file.example.com\n";
    let preview = admin.upload(&format!("{manager}/import"), file.as_bytes(), &[]).await;
    confirm(&admin, &preview, None).await;
    asked_by_itself(&installation, "file.example.com").await;
}

#[sqlx::test]
async fn whichever_command_saves_a_gateway_it_is_verified_by_itself(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("accounts.csv");
    std::fs::write(&file, "user_id,name,outbound_gateway\nann@acme.example,Ann,file.example.com\n").unwrap();
    let command = Outgate::on(&installation.owner);
    for (words, address) in [
        (&["gateway", "set", "acme", "all.example.com"][..], "all.example.com"),
        // Live at once, since nothing works that it replaces.
        (&["gateway", "set", "acme", "first.example.com", "--when-verified"], "first.example.com"),
        (&["gateway", "set", "acme", "--domain", &acme.domain, "domain.example.com"], "domain.example.com"),
        (&["gateway", "set", "acme", "--user", "ann@acme.example", "user.example.com"], "user.example.com"),
        (&["gateway", "edit", "acme", "user.example.com", "--new-address", "edited.example.com"], "edited.example.com"),
        (&["accounts", "add", "acme", "bob@acme.example", "--outbound-gateway", "new.example.com"], "new.example.com"),
        (&["accounts", "import", "acme", file.to_str().unwrap()], "file.example.com"),
    ] {
        command.succeeds(words).await;
        asked_by_itself(&installation, address).await;
    }
}

#[sqlx::test]
async fn a_valid_certificate_is_required_by_one_click(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let user_admin = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    let page = page_of(&acme, &format!("verifications/{}", with_tls(&installation, &acme).await));
    let form = format!("{page}/require-tls");
    let question = "It offers TLS with a valid certificate: require it?";
    assert!(!user_admin.get(&page).await.text().contains(question), "whose role may not change a gateway");

    let shown = admin.get(&page).await;
    assert!(shown.text().contains(question), "{}", shown.text());
    let change = shown.field("change");
    let saved = admin.submit(&form, &[("change", &change)]).await;
    assert!(saved.text().contains("leaves by revision 2 of its record."), "{}", saved.text());
    assert!(saved.text().contains("Undo") && saved.path.contains("/gateways/"), "{} {}", saved.path, saved.text());
    assert_eq!(admin.submit(&form, &[("change", &change)]).await.path, saved.path, "two clicks change it once");
    let tls: Vec<String> = sqlx::query_scalar("select tls from gateway_revision order by revision")
        .fetch_all(&installation.owner)
        .await
        .unwrap();
    assert_eq!(tls, ["when-offered", "verified"]);
    let verified_anew = async {
        let asked = "select exists (select from verification where revision = 2)";
        while !sqlx::query_scalar::<_, bool>(asked).fetch_one(&installation.owner).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HAPPENS_WITHIN, verified_anew).await.expect("the new revision is verified by itself");
    let other = uuid::Uuid::now_v7().to_string();
    let again = admin.submit(&form, &[("change", &other)]).await;
    assert!(again.text().contains("Nothing changed. The record said so already."), "{}", again.text());
    assert!(!admin.get(&page).await.text().contains(question), "it was verified as it was before");

    let undo = page_of(&acme, &format!("undo/{change}"));
    let undone = admin.submit(&undo, &[]).await;
    assert!(undone.text().contains("Taken back."), "{}", undone.text());
    let late = admin.submit(&form, &[("change", &uuid::Uuid::now_v7().to_string())]).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "that it was verified once says nothing of revision 3");
    assert!(late.text().contains("Nothing was changed. The gateway is no longer as it was verified here."));
    let history = admin.get("/acme/administration/audit-log").await.text();
    assert!(history.contains("changed the gateway tls.example.com"), "{history}");
}

#[sqlx::test]
async fn nothing_is_required_of_a_certificate_that_a_relay_has_not_seen_to_be_valid(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let id = with_tls(&installation, &acme).await;
    let page = page_of(&acme, &format!("verifications/{id}"));
    let execute = async |statement: &'static str| {
        sqlx::query(statement).execute(&installation.owner).await.unwrap();
        admin.get(&page).await.text().contains("require it?")
    };
    for (statement, back) in [
        // One more relay, which has seen another certificate.
        (
            "insert into verification_result (organization_id, verification_id, relay_id, relay, accepts, ended_at)
             select organization_id, verification_id, gen_random_uuid(), 'two', true, now() from verification_result",
            "delete from verification_result where relay = 'two'",
        ),
        // As a relay of the former version tells it.
        (
            "update verification_result set steps = jsonb_build_array((steps -> 0) - 'would_verify')",
            "update verification_result set steps = jsonb_set(steps, '{0,would_verify}', 'true')",
        ),
        ("update verification_result set accepts = false", "update verification_result set accepts = true"),
        (
            "update verification_result set accepts = null, ended_at = null",
            "update verification_result set accepts = true, ended_at = now()",
        ),
    ] {
        assert!(!execute(statement).await, "{statement}");
        let sent = admin.submit(&format!("{page}/require-tls"), &[("change", &uuid::Uuid::now_v7().to_string())]).await;
        assert_eq!(sent.status, StatusCode::CONFLICT, "{statement}");
        assert!(execute(back).await, "{back}");
    }
    let revisions = sqlx::query_scalar::<_, i64>("select max(revision) from gateway_revision");
    assert_eq!(revisions.fetch_one(&installation.owner).await.unwrap(), 1);
}

#[sqlx::test]
async fn clicks_at_the_same_moment_ask_no_more_than_a_few_times(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let mut forms = Vec::new();
    for number in 0..6 {
        let address = format!("archive{number}.example.com");
        installation.set_gateway(&acme, &PointerScope::Organization, &address).await;
        let id = installation.gateway_of(&acme, &address).await;
        forms.push(page_of(&acme, &format!("gateways/{id}/verify")));
    }
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let click = |number: usize| admin.submit(&forms[number], &[]);
    let pages = tokio::join!(click(0), click(0), click(1), click(1), click(2), click(3), click(4), click(5));
    assert_eq!((&pages.0.path, &pages.2.path), (&pages.1.path, &pages.3.path), "two clicks ask once");
    let asked = sqlx::query_scalar::<_, i64>("select count(*) from verification");
    assert_eq!(asked.fetch_one(&installation.owner).await.unwrap(), 5);
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
    assert!(refused.text().contains("Several verifications of your organization are under way"));
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
    assert!(partly.text().contains("Under way.") && partly.text().contains("one, two have not answered yet."));
    let later = sqlx::query("update verification set requested_at = now() - interval '46 seconds'");
    later.execute(&installation.owner).await.unwrap();
    assert!(admin.get(&last).await.text().contains("Nothing was heard in time of one, two."));

    sqlx::query("delete from verification_result").execute(&installation.owner).await.unwrap();
    let aged = sqlx::query("update verification set requested_at = now() - interval '1 hour'");
    aged.execute(&installation.owner).await.unwrap();
    assert!(admin.get(&last).await.text().contains("No relay has answered."));
}

/// As a relay that runs elsewhere has signed on.
async fn sign_on(installation: &Installation, name: &str, address: &str, addresses_are_set: bool) -> RelayId {
    let relays = installation.relay_pool().await;
    let id = store::relay::sign_on(&relays, name, RelayId::new(), Revision(0)).await.unwrap().id;
    let outbound_addresses = vec![format!("{address}/32").parse().unwrap()];
    let set_up = SetUp { outbound_addresses, addresses_are_set, hands_over: true };
    store::relay::tell_set_up(&relays, id, &set_up).await.unwrap();
    id
}

#[sqlx::test]
async fn the_addresses_that_a_gateway_has_to_accept_stand_ready_to_be_copied(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let behind_nat = |settings: &mut outgate::relay::Settings| {
        settings.outbound_addresses = vec!["203.0.113.7/32".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
    };
    let world = World::with_settings(&installation, installation.relay_pool().await, behind_nat).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let id = installation.gateway_of(&acme, &gateway.address.to_string()).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, &format!("gateways/{id}"));

    gateway.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let found = ended(&admin, admin.submit(&format!("{page}/verify"), &[]).await).await;
    assert!(found.text().contains("let the server relay for 203.0.113.7 (in Postfix"), "{}", found.text());
    for shown in [&found, &admin.get(&page).await, &admin.get(&page_of(&acme, "")).await] {
        assert!(shown.html.contains(">\n203.0.113.7\n2001:db8::/64</textarea>"), "{}", shown.html);
        assert!(shown.text().contains("203.0.113.7: relay-1 2001:db8::/64: relay-1"), "{}", shown.text());
        assert!(!shown.text().contains("own machine"), "the operator has said so: {}", shown.text());
    }
    sign_on(&installation, "elsewhere", "198.51.100.2", false).await;
    let shown = admin.get(&page).await;
    assert!(shown.html.contains(">\n198.51.100.2\n203.0.113.7\n2001:db8::/64</textarea>"), "{}", shown.html);
    assert!(shown.text().contains("elsewhere knows its own machine's address only"), "{}", shown.text());
    world.stop().await;
    let yesterday = "update relay set signed_off_at = now() - interval '25 hours' where name = 'relay-1'";
    sqlx::query(yesterday).execute(&installation.owner).await.unwrap();
    let shown = admin.get(&page).await;
    assert!(shown.html.contains(">\n198.51.100.2</textarea>"), "a relay that is gone: {}", shown.html);
}

#[sqlx::test]
async fn where_nobody_has_named_addresses_the_one_counts_that_the_gateway_saw(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let world = World::start(&installation).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let id = installation.gateway_of(&acme, &gateway.address.to_string()).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let asked = admin.submit(&page_of(&acme, &format!("gateways/{id}/verify")), &[]).await;
    let found = ended(&admin, asked).await;
    assert!(found.html.contains(">\n127.0.0.1</textarea>"), "{}", found.html);
    assert!(found.text().contains("relay-1 knows its own machine's address only"), "{}", found.text());
    world.stop().await;
}

#[sqlx::test]
async fn no_more_than_ten_are_asked_for_in_a_minute(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let theirs = pages.signed_in(&installation, &other, Role::Administrator).await;
    let relays = installation.relay_pool().await;
    let relay = RelayId::new();
    let ask = async |admin: &Browser, tenant: &Tenant, number: usize| {
        let address = format!("{number}.example.com");
        let fields = [("outbound_gateway", address.as_str()), ("verify", "1")];
        let page = admin.submit(&page_of(tenant, "outbound-mail-gateway"), &fields).await;
        for taken in store::verification::take_across_tenants(&relays, relay, "one").await.unwrap() {
            store::verification::report_across_tenants(&relays, relay, &taken, &[], Some(true)).await.unwrap();
        }
        page.status
    };
    for number in 0..10 {
        assert_eq!(ask(&admin, &acme, number).await, StatusCode::OK, "{number}");
    }
    assert_eq!(ask(&admin, &acme, 10).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask(&theirs, &other, 10).await, StatusCode::OK, "an organization's own");
    // What is saved is verified by itself, and counts as well.
    admin.submit(&page_of(&acme, "outbound-mail-gateway"), &[("outbound_gateway", "saved.example.com")]).await;
    let count = "select count(*) from verification where organization_id = $1";
    let count = sqlx::query_scalar::<_, i64>(count).bind(acme.id.0).fetch_one(&installation.owner).await.unwrap();
    assert_eq!(count, 10);

    let later = "update verification set requested_at = requested_at - interval '61 seconds'";
    sqlx::query(later).execute(&installation.owner).await.unwrap();
    assert_eq!(ask(&admin, &acme, 10).await, StatusCode::OK);
}

#[sqlx::test]
async fn the_command_prints_each_step_as_it_ends_and_fails_where_the_gateway_refuses(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let world = World::start(&installation).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let outgate = Outgate::on(&installation.owner).with("OUTGATE_ALLOWED_GATEWAY_NETWORKS", "127.0.0.0/8");

    gateway.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let refused = outgate.run(&["gateway", "verify", "acme"]).await;
    assert_eq!(refused.status, Some(1), "{refused:?}");
    let address = gateway.address.to_string().replace(':', " port ");
    assert_eq!(refused.error, format!("outgate: {address} does not accept our mail\n"));
    for line in [
        "relay-1: Sender: ok (",
        "relay-1: Recipient: FAILED (",
        "554 5.7.1 Relay access denied",
        "relay-1:   It does not relay for us: let the server relay for 127.0.0.1",
        "Addresses to allow at the gateway",
        "127.0.0.1\trelay-1",
    ] {
        assert!(refused.output.contains(line), "{line} in {}", refused.output);
    }

    gateway.works_again();
    gateway.fails(At::Rcpt, Fault::Stalls);
    let (mut child, mut lines) = outgate.begin(&["gateway", "verify", "acme"]);
    let printed =
        async { while !lines.next_line().await.unwrap().expect("it goes on").starts_with("relay-1: Sender: ok") {} };
    timeout(HAPPENS_WITHIN, printed).await.expect("what has ended is printed while the gateway thinks");
    assert!(child.try_wait().unwrap().is_none(), "it is not over");
    child.kill().await.unwrap();

    // Of a relay that is silent nothing is known: that is no refusal.
    gateway.works_again();
    sqlx::query("delete from verification").execute(&installation.owner).await.unwrap();
    sign_on(&installation, "silent", "198.51.100.2", false).await;
    let asked = outgate.run(&["gateway", "verify", "acme"]);
    let time_passes = async {
        let accepted = "select exists (select from verification_result where accepts)";
        while !sqlx::query_scalar::<_, bool>(accepted).fetch_one(&installation.owner).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let later = "update verification set requested_at = requested_at - interval '46 seconds'";
        sqlx::query(later).execute(&installation.owner).await.unwrap();
    };
    let (unknown, ()) = tokio::join!(asked, time_passes);
    assert_eq!(unknown.status, Some(1), "{unknown:?}");
    let words = "accepts our mail from every relay: silent has not answered in time";
    assert!(unknown.error.contains(words) && !unknown.error.contains("does not accept"), "{unknown:?}");
    world.stop().await;
}
