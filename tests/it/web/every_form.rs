//! Every form of the pages: who may send it, and what becomes of one that is sent twice.
//! A route that takes a form and has no case here fails the test.

use outgate::{
    mail::id::{AccountId, ImportId},
    policy::{Role, relay_credential::Limits, webhook::WebhookSecret},
    store::{self, gateway::PointerScope},
    web,
};
use reqwest::{Method, StatusCode};
use sqlx::{AssertSqlSafe, PgPool};

use super::page_of;
use crate::support::{Browser, Installation, Pages, Queued, Tenant};

/// Nobody is asked for a role there.
const WITHOUT_ROLE: [&str; 2] = ["/sign-in", "/sign-out"];

/// Who may send a form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Administrator,
    UserAdministrator,
}

/// A form as it is sent, and who may.
struct Case {
    /// The end of the route.
    route: &'static str,
    path: String,
    fields: Vec<(&'static str, String)>,
    may: May,
}

/// One organization with everything that a form could be about.
struct Scene {
    installation: Installation,
    acme: Tenant,
    ann: AccountId,
    bob: AccountId,
    import: ImportId,
    cases: Vec<Case>,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "all.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "taken-back.example.com").await;
    let import = installation.staged_import(&acme, "user_id\nnew@acme.example\n").await;
    let mut scene = Scene { installation, acme, ann, bob, import, cases: Vec::new() };
    scene.cases = scene.cases().await;
    scene
}

impl Scene {
    /// In an order in which none stands in the way of another.
    async fn cases(&self) -> Vec<Case> {
        let (ann, bob) = (self.ann, self.bob);
        let unused = self.installation.gateway_of(&self.acme, "all.example.com").await;
        let last = sqlx::query_scalar("select id from change order by revision desc limit 1");
        let change: uuid::Uuid = last.fetch_one(&self.installation.owner).await.unwrap();
        self.installation.message(&self.acme, Some(ann), Some("user"), None, Some("gateway-taken-away")).await;
        self.installation.set_gateway(&self.acme, &PointerScope::Account(bob), "bob.example.com").await;
        let of_bob = self.installation.gateway_of(&self.acme, "bob.example.com").await;
        let gateway_of_bob = of_bob;
        for pending in [
            "insert into gateway_revision (organization_id, gateway_id, revision, address)
             select organization_id, id, 2, 'moved.example.com' from gateway where id = $1",
            "update gateway set pending_revision = 2, pending_change_id = gen_random_uuid() where id = $1",
        ] {
            sqlx::query(pending).bind(of_bob.0).execute(&self.installation.owner).await.unwrap();
        }
        self.installation.waiting_message(&self.acme, Some(bob), "user", "bob.example.com").await;
        let (credential, ..) = self.installation.credential(&self.acme, Limits::default()).await;
        let new_change = uuid::Uuid::now_v7().to_string();
        let record_change = uuid::Uuid::now_v7().to_string();
        let bulk_change = uuid::Uuid::now_v7().to_string();
        let throttled = Queued { account: Some(ann), ..Queued::default() };
        let throttled = self.installation.queued(&self.acme, throttled).await;
        sqlx::query("update queued_message set throttled_until = now() + interval '1 hour' where id = $1")
            .bind(throttled.0)
            .execute(&self.installation.owner)
            .await
            .unwrap();
        let manager = |page: &str| format!("mail-account-manager/{page}");
        let mut cases = Vec::new();
        let mut case = |may, route, path: String, fields: Vec<(&'static str, String)>| {
            cases.push(Case { route, path: page_of(&self.acme, &path), fields, may });
        };
        let text = |text: &str| text.to_owned();
        use May::{Administrator, UserAdministrator};
        let pending =
            |of: &str, action: &str| vec![("of", text(of)), ("gateway", of_bob.to_string()), ("action", text(action))];
        case(Administrator, "/pending-gateway", "pending-gateway".to_owned(), pending("all", "give-up"));
        case(Administrator, "undo/{change}", format!("undo/{change}"), vec![]);
        case(
            Administrator,
            "/outbound-mail-gateway",
            "outbound-mail-gateway".to_owned(),
            vec![("outbound_gateway", text("new.example.com")), ("seen", text("all.example.com"))],
        );
        case(
            Administrator,
            "/pending-record",
            format!("gateways/{of_bob}/pending-record"),
            vec![("revision", text("2")), ("action", text("give-up"))],
        );
        case(Administrator, "/gateways/{gateway}", format!("gateways/{unused}"), vec![]);
        let mut record: Vec<_> = super::gateway_record::FIELDS.map(|(name, value)| (name, text(value))).into();
        record.extend([("seen", text("1")), ("change", record_change)]);
        case(UserAdministrator, "/gateways/{gateway}/verify", format!("gateways/{of_bob}/verify"), vec![]);
        case(UserAdministrator, "/mail-account-manager/{account}/verify", manager(&format!("{bob}/verify")), vec![]);
        case(
            UserAdministrator,
            "/gateways/{gateway}/test-message",
            format!("gateways/{of_bob}/test-message"),
            vec![("to", text("me"))],
        );
        let arrived = super::test_message::in_mailbox(&self.installation, &self.acme, "bob.example.com").await;
        case(UserAdministrator, "/test-messages/{test_message}", format!("test-messages/{arrived}"), vec![]);
        let source =
            format!("Received: from relay.test ([10.0.0.7]) by x; never\r\nMessage-ID: <{arrived}@relay.test>\r\n\r\n");
        let path = format!("test-messages/{arrived}/source");
        case(UserAdministrator, "/test-messages/{test_message}/source", path, vec![("source", source)]);
        let (url, secret) = ("https://hooks.example.com/outgate", WebhookSecret([7; 32]));
        sqlx::query("insert into webhook (organization_id, url, secret) values ($1, $2, $3)")
            .bind(self.acme.id.0)
            .bind(url)
            .bind(&secret.0[..])
            .execute(&self.installation.owner)
            .await
            .unwrap();
        let senders = vec![("tell_senders", text("1")), ("seen", text("no"))];
        case(Administrator, "/notices/senders", "notices/senders".to_owned(), senders);
        case(Administrator, "/notices/test", "notices/test".to_owned(), vec![]);
        case(Administrator, "/notices/secret", "notices/secret".to_owned(), vec![("secret", secret.in_words())]);
        let other = "https://hooks.example.com/other";
        case(Administrator, "/notices", "notices".to_owned(), vec![("webhook", text(other)), ("seen", text(url))]);
        case(Administrator, "/gateways/{gateway}/record", format!("gateways/{of_bob}/record"), record);
        case(
            Administrator,
            "/must-use-gateway",
            "outbound-mail-gateway/must-use-gateway".to_owned(),
            vec![("must_use_gateway", text("1")), ("seen", text("no"))],
        );
        case(
            Administrator,
            "/verify-before-live",
            "outbound-mail-gateway/verify-before-live".to_owned(),
            vec![("verify_before_live", text("never")), ("seen", text("replacing"))],
        );
        case(
            Administrator,
            "/unknown-senders",
            "outbound-mail-gateway/unknown-senders".to_owned(),
            vec![("refuse_unknown_senders", text("1")), ("seen", text("no"))],
        );
        case(
            Administrator,
            "/probe-sender",
            "outbound-mail-gateway/probe-sender".to_owned(),
            vec![("probe_sender", text("probe@acme.example")), ("seen", String::new())],
        );
        case(
            Administrator,
            "/verifications/{verification}/require-tls",
            format!(
                "verifications/{}/require-tls",
                super::verification::with_tls(&self.installation, &self.acme).await
            ),
            vec![("change", uuid::Uuid::now_v7().to_string())],
        );
        case(
            Administrator,
            "/held-mail",
            "outbound-mail-gateway/held-mail".to_owned(),
            vec![
                ("held_because", text("gateway-taken-away")),
                ("waits_by", text("user")),
                ("waits_for", String::new()),
                ("waiting", text("return")),
            ],
        );
        case(Administrator, "/pending-gateway", "pending-gateway".to_owned(), pending("acme.example", "use"));
        case(
            Administrator,
            "/domain-manager/{domain}/outbound-gateway",
            "domain-manager/acme.example/outbound-gateway".to_owned(),
            vec![("outbound_gateway", text("domain.example.com")), ("seen", String::new())],
        );
        let terms = |change_or_seen: (&'static str, String)| {
            vec![
                ("name", text("A server")),
                ("senders", text("acme.example")),
                ("networks", text("192.0.2.0/24")),
                ("messages_per_minute", text("60")),
                change_or_seen,
            ]
        };
        let mut new_credential = terms(("change", uuid::Uuid::now_v7().to_string()));
        new_credential.push(("nonce", "0123456789abcdef".repeat(2)));
        case(Administrator, "/relay-credentials/new", "relay-credentials/new".to_owned(), new_credential);
        let seen = store::relay_credential::Terms { name: text("a server"), limits: Limits::default() }.seen();
        let of_credential = format!("relay-credentials/{credential}");
        case(Administrator, "/relay-credentials/{credential}", of_credential.clone(), terms(("seen", seen)));
        let large = vec![("large_list", text("7")), ("seen", text("100"))];
        case(Administrator, "/large-list", "distribution-list/large-list".to_owned(), large);
        let fields = || super::distribution_list::FIELDS.map(|(name, value)| (name, text(value)));
        let mut new_list = fields().to_vec();
        new_list.extend([("address", text("fresh@acme.example")), ("change", uuid::Uuid::now_v7().to_string())]);
        case(Administrator, "/distribution-list/new", "distribution-list/new".to_owned(), new_list);
        let terms = super::distribution_list::of(&["bob@far.example"]);
        let (list, _) = self.installation.list(&self.acme, "all@acme.example", terms.clone()).await;
        let mut edited = fields().to_vec();
        edited.push(("seen", terms.seen()));
        case(Administrator, "/distribution-list/{list}", format!("distribution-list/{list}"), edited);
        let (deleted, _) = self.installation.list(&self.acme, "old@acme.example", terms.clone()).await;
        let seen = vec![("seen", terms.seen())];
        case(Administrator, "/distribution-list/{list}/delete", format!("distribution-list/{deleted}/delete"), seen);
        case(Administrator, "/revoke", format!("{of_credential}/revoke"), vec![]);
        case(
            Administrator,
            "/domain-manager/{domain}/inbound-host",
            "domain-manager/acme.example/inbound-host".to_owned(),
            vec![("inbound_host", text("mx.example.com")), ("seen", String::new())],
        );
        case(
            UserAdministrator,
            "/waiting-mail",
            "waiting-mail".to_owned(),
            vec![
                ("scope", text("user")),
                ("of", bob.to_string()),
                ("back", page_of(&self.acme, "mail-account-manager")),
                ("gateway", of_bob.to_string()),
                ("waiting", text("send")),
            ],
        );
        case(
            Administrator,
            "/outbound-queue/selected",
            "outbound-queue/selected".to_owned(),
            vec![
                ("action", text("delete")),
                ("all", text("1")),
                ("state", text("held")),
                ("confirmed", text("1")),
                ("last", text("ffffffff-ffff-ffff-ffff-ffffffffffff")),
                ("change", uuid::Uuid::now_v7().to_string()),
            ],
        );
        let kind = [("whose", text("each")), ("window", text("hour")), ("unit", text("recipients"))];
        let mut limit = kind.to_vec();
        limit.extend([("most", text("500")), ("action", text("delay")), ("seen", String::new())]);
        let mut deleted = kind.to_vec();
        deleted.push(("seen", text("at most 500 recipients in an hour, beyond it delay")));
        for (may, below, path) in [
            (Administrator, "/web-mail-cloud", String::new()),
            (Administrator, "/domain-manager/{domain}", text("domain-manager/acme.example/")),
            (UserAdministrator, "/mail-account-manager/{account}", manager(&format!("{bob}/"))),
        ] {
            case(may, format!("{below}/limits").leak(), format!("{path}limits"), limit.clone());
            case(may, format!("{below}/limits/delete").leak(), format!("{path}limits/delete"), deleted.clone());
        }
        let class = vec![("service", text("1")), ("seen", text("no"))];
        let today = time::OffsetDateTime::now_utc().date().to_string();
        let exempt = vec![("until", today), ("seen", String::new())];
        let of_sender = |segment: &str| manager(&format!("{bob}/limits/{segment}"));
        case(UserAdministrator, "/limits/service-account", of_sender("service-account"), class);
        case(UserAdministrator, "/limits/exempt", of_sender("exempt"), exempt);
        case(UserAdministrator, "/limits/block", of_sender("block"), vec![("blocked", text("yes"))]);
        case(UserAdministrator, "/limits/let-go", manager(&format!("{ann}/limits/let-go")), vec![]);
        let ticked = vec![("action", text("block")), ("selected", format!("account:{ann}")), ("confirmed", text("1"))];
        case(UserAdministrator, "/outbound-volume/selected", "outbound-volume/selected".to_owned(), ticked);
        case(
            UserAdministrator,
            "/mail-account-manager/{account}/outbound-gateway",
            manager(&format!("{ann}/outbound-gateway")),
            vec![("outbound_gateway", text("ann.example.com")), ("seen", String::new())],
        );
        case(
            UserAdministrator,
            "/mail-account-manager/selected",
            manager("selected"),
            vec![
                ("action", text("delete")),
                ("all", text("1")),
                ("show", text("own")),
                ("confirmed", text("1")),
                ("change", bulk_change),
            ],
        );
        case(
            UserAdministrator,
            "/new",
            manager("new"),
            vec![
                ("user_id", text("dan@acme.example")),
                ("name", text("Dan")),
                ("addresses", String::new()),
                ("outbound_gateway", String::new()),
                ("change", new_change),
            ],
        );
        case(
            UserAdministrator,
            "/import/{import}",
            manager(&format!("import/{}", self.import)),
            vec![("added", text("1")), ("changed", text("0")), ("removed", text("0"))],
        );
        let of_bob = |segment: &str| manager(&format!("{bob}/{segment}"));
        case(UserAdministrator, "/name", of_bob("name"), vec![("name", text("Bob B.")), ("seen", text("bob"))]);
        case(
            UserAdministrator,
            "/user-id",
            of_bob("user-id"),
            vec![("user_id", text("rob@acme.example")), ("seen", text("bob@acme.example"))],
        );
        case(
            UserAdministrator,
            "/addresses",
            of_bob("addresses"),
            vec![("addresses", text("news@acme.example")), ("seen", text("bob@acme.example"))],
        );
        case(UserAdministrator, "/status", of_bob("status"), vec![("status", text("suspended"))]);
        case(UserAdministrator, "/delete", of_bob("delete"), vec![("seen", text("rob@acme.example"))]);
        for table in ["organization", "mail_domain"] {
            let pending = AssertSqlSafe(format!("update {table} set pending_gateway_id = $1"));
            sqlx::query(pending).bind(gateway_of_bob.0).execute(&self.installation.owner).await.unwrap();
        }
        // It is verified already, so that nothing happens by itself.
        store::pending_gateway::look(&self.installation.web_store().await).await.unwrap();
        cases
    }

    async fn revision(&self) -> i64 {
        sqlx::query_scalar("select revision from installation").fetch_one(&self.installation.owner).await.unwrap()
    }

    /// Every row of the organization.
    async fn everything(&self) -> Vec<String> {
        self.installation.everything_of(&self.acme).await
    }

    async fn send(&self, browser: &Browser, case: &Case) -> (StatusCode, String) {
        let request = browser.request(Method::POST, &case.path).form(&case.fields);
        let page = browser.once(request, &case.path).await;
        let next = if page.status.is_redirection() { page.location().to_owned() } else { page.html };
        (page.status, next)
    }
}

#[sqlx::test]
async fn every_form_has_a_case(db: PgPool) {
    let scene = scene(db).await;
    for route in web::routes().into_iter().filter(|route| route.method == Method::POST) {
        // Whole files are tried below; who has a report made changes nothing, and everybody may.
        let is_of_files = ["/import", "/report", "/report.csv"].iter().any(|end| route.path.ends_with(end));
        if WITHOUT_ROLE.contains(&route.path) || is_of_files {
            continue;
        }
        let named = scene.cases.iter().filter(|case| route.path.ends_with(case.route)).count();
        assert!(named > 0, "no case for {}: write one", route.path);
    }
}

#[sqlx::test]
async fn who_may_not_send_a_form_is_told_so_and_changes_nothing(db: PgPool) {
    let scene = scene(db).await;
    let pages = Pages::of(&scene.installation).await;
    for (role, refused) in [
        (Role::AdminAssistant, &[May::Administrator, May::UserAdministrator][..]),
        (Role::UserAdministrator, &[May::Administrator][..]),
    ] {
        let browser = pages.signed_in(&scene.installation, &scene.acme, role).await;
        let before = scene.everything().await;
        for case in scene.cases.iter().filter(|case| refused.contains(&case.may)) {
            let (status, html) = scene.send(&browser, case).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{role} {}", case.path);
            assert!(html.contains("Your role does not allow this"), "{role} {}: {html}", case.path);
        }
        let import = page_of(&scene.acme, "mail-account-manager/import");
        if role == Role::AdminAssistant {
            let page = browser.upload(&import, b"user_id\nx@acme.example\n", &[]).await;
            assert_eq!(page.status, StatusCode::FORBIDDEN);
        }
        assert_eq!(scene.everything().await, before, "{role}");
    }
}

#[sqlx::test]
async fn a_form_that_is_sent_twice_changes_once_and_both_lead_on(db: PgPool) {
    each_twice(db, Role::Administrator).await;
}

#[sqlx::test]
async fn a_user_administrator_sends_the_forms_of_accounts(db: PgPool) {
    each_twice(db, Role::UserAdministrator).await;
}

async fn each_twice(db: PgPool, role: Role) {
    let scene = scene(db).await;
    let pages = Pages::of(&scene.installation).await;
    let browser = pages.signed_in(&scene.installation, &scene.acme, role).await;
    let may = |case: &&Case| role == Role::Administrator || case.may == May::UserAdministrator;
    for case in scene.cases.iter().filter(may) {
        let before = scene.revision().await;
        let (status, first) = scene.send(&browser, case).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{role} {}: {first}", case.path);
        let after = scene.revision().await;
        // Who verifies changes nothing, and asks once.
        let is_question =
            ["/verify", "/test-message", "/notices/test", "/test-messages/{test_message}", "/{test_message}/source"]
                .iter()
                .any(|end| case.route.ends_with(end));
        assert!(after > before || is_question, "{role} {} changed something: {first}", case.path);
        let (status, second) = scene.send(&browser, case).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{role} {} again: {second}", case.path);
        assert_eq!(scene.revision().await, after, "{role} {} again", case.path);
        assert!(first == second || !is_question, "{role} {}: {first}, {second}", case.path);
        for led_to in [first, second] {
            let page = browser.get(&led_to).await;
            assert_eq!(page.status, StatusCode::OK, "{role} {} {led_to}", case.path);
            assert!(page.html.contains(r#"role="status""#), "{role} {} {led_to}: {}", case.path, page.text());
        }
    }
}
