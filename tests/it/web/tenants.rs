//! Tenants are apart: every route, tried with another organization's slug and ids.
//! A route without such a case fails the test.

use outgate::{
    mail::{
        id::{
            AccountId, ChangeId, CredentialId, GatewayId, ImportId, JobId, ListId, QueueId, TestMessageId,
            VerificationId,
        },
        short_id::ShortId,
    },
    policy::{Role, relay_credential::Limits},
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        job::About,
        message_trace::Event,
        verification::{Asked, Wanted},
    },
    web,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use sqlx::PgPool;
use time::OffsetDateTime;

use super::{message_trace, page_of};
use crate::support::{Browser, Installation, Page, Pages, Queued, Tenant};

/// Routes that name no organization, and so have nothing of another one to show.
const WITHOUT_ORGANIZATION: [(&str, &str); 9] = [
    ("GET", "/"),
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/static/outgate.css"),
    ("GET", "/static/outgate.js"),
    ("GET", "/static/icon.svg"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
];

#[sqlx::test]
async fn no_route_shows_or_changes_anything_of_another_organization(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let theirs = installation.account(&other, "secret@other.example", &[]).await;
    installation.set_gateway(&other, &PointerScope::Account(theirs), "canary.other.example").await;
    let gateway = installation.gateway_of(&other, "canary.other.example").await;
    let change = sqlx::query_scalar("select id from change where organization_id = $1 order by revision desc limit 1");
    let change = ChangeId(change.bind(other.id.0).fetch_one(&installation.owner).await.unwrap());
    let import = installation.staged_import(&other, "user_id\nnew@other.example\n").await;
    let (credential, ..) = installation.credential(&other, Limits::default()).await;
    let (list, _) = installation.list(&other, "canary-list@other.example", super::distribution_list::of(&[])).await;
    let (account, job, domain) = (theirs, JobId::new(), other.domain.clone());
    let address = "canary.other.example".parse().unwrap();
    let wanted = Wanted::of(Some(gateway), &address, "operator");
    let mut transaction = OrganizationTransaction::begin(&installation.owner, other.id).await.unwrap();
    let asked = store::verification::ask(&mut transaction, other.id, &wanted).await.unwrap();
    let Asked::Asked(verification) = asked else { panic!("{asked:?}") };
    transaction.commit().await.unwrap();
    let test_message = super::test_message::in_mailbox(&installation, &other, "canary.other.example").await;
    let message = installation.queued(&other, Queued { gateway: Some(gateway), ..Queued::default() }).await;
    let line = message_trace::handed_over(OffsetDateTime::now_utc(), "secret@other.example", &["b@x.example"], gateway);
    message_trace::write_down(&installation, other.id, &[Event { message, ..line }]).await;
    let theirs =
        Theirs { account, job, domain, gateway, change, import, credential, verification, test_message, message, list };
    let mut transaction = OrganizationTransaction::begin(&installation.owner, other.id).await.unwrap();
    store::job::start(&mut transaction, other.id, theirs.job, ("canary", About::Accounts), 1, "operator")
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let nowhere = browser.get("/acme/no-such-page").await;
    let before = everything_of(&installation, &other).await;

    let mut tried = 0;
    for route in web::routes() {
        if WITHOUT_ORGANIZATION.contains(&(route.method.as_str(), route.path)) {
            assert!(!route.path.contains('{'), "{} takes something", route.path);
            continue;
        }
        let cases = cases(route.path, &theirs);
        assert!(!cases.is_empty(), "no case for {} {}: write one", route.method, route.path);
        for path in cases {
            let request = match route.method {
                Method::POST => browser.request(Method::POST, &path).form(&fields(route.path)),
                _ => browser.request(route.method.clone(), &path),
            };
            let page = browser.once(request, &path).await;
            assert_eq!(page.status, StatusCode::NOT_FOUND, "{} {path}", route.method);
            assert_eq!(without_id(&page), without_id(&nowhere), "the same page as for what does not exist: {path}");
            assert_eq!(headers_of(&page), headers_of(&nowhere), "and the same headers: {path}");
            tried += 1;
        }
    }
    assert!(tried >= 15, "{tried}");
    assert_eq!(everything_of(&installation, &other).await, before, "nothing of theirs was changed");
}

/// The path of a route with what is not this organization's in every place, alone and together.
fn cases(route: &str, theirs: &Theirs) -> Vec<String> {
    let unknown = AccountId::new().to_string();
    let mut cases = Vec::new();
    let within = route.replace("{organization}", "acme");
    if let Some((_, place)) = within.split_once('{') {
        let place = place.split_once('}').unwrap().0;
        for value in [theirs.value_for(place).as_str(), &unknown, "nonsense", "%00", "%ff"] {
            cases.push(within.replace(&format!("{{{place}}}"), value));
        }
    }
    for slug in ["other", "nobody", "ACME", "%ff"] {
        let path = route.replace("{organization}", slug);
        cases.push(match path.split_once('{') {
            Some((_, place)) => {
                let place = place.split_once('}').unwrap().0.to_owned();
                path.replace(&format!("{{{place}}}"), &theirs.value_for(&place))
            }
            None => path,
        });
    }
    assert!(cases.iter().all(|path| !path.contains('{')), "a second place in {route}: name cases for it");
    cases
}

/// What the other organization has, for every place that a path of ours has.
struct Theirs {
    account: AccountId,
    job: JobId,
    domain: String,
    gateway: GatewayId,
    change: ChangeId,
    import: ImportId,
    credential: CredentialId,
    verification: VerificationId,
    test_message: TestMessageId,
    message: QueueId,
    list: ListId,
}

impl Theirs {
    fn value_for(&self, place: &str) -> String {
        match place {
            "account" => self.account.to_string(),
            "test_message" => self.test_message.to_string(),
            "job" => self.job.to_string(),
            "domain" => self.domain.clone(),
            "gateway" => self.gateway.to_string(),
            "change" => self.change.to_string(),
            "import" => self.import.to_string(),
            "credential" => self.credential.to_string(),
            "verification" => self.verification.to_string(),
            "message" => self.message.to_string(),
            "list" => self.list.to_string(),
            "short" => ShortId::of(self.message).to_string(),
            _ => panic!("a new kind of place, {place}: name what the other organization has there"),
        }
    }
}

/// The id of a change that nobody has made.
const CHANGE: &str = "0199f3a0-0000-7000-8000-000000000000";

/// What is posted to a route.
fn fields(route: &str) -> Vec<(&'static str, &'static str)> {
    if ["/gateways/{gateway}", "/revoke", "/verify", "/let-go", "/{test_message}", "/notices/test"]
        .iter()
        .any(|end| route.ends_with(end))
    {
        return vec![];
    }
    if route.ends_with("/record") {
        return super::gateway_record::FIELDS.into_iter().chain([("seen", "1"), ("change", CHANGE)]).collect();
    }
    if route.ends_with("/distribution-list/{list}") {
        return super::distribution_list::FIELDS.into_iter().chain([("seen", "x")]).collect();
    }
    if route.ends_with("/relay-credentials/{credential}") {
        let fields = ["name", "senders", "networks", "messages_per_minute", "seen"];
        return fields.map(|field| (field, if field == "name" { "Mallory" } else { "" })).to_vec();
    }
    let kind = [("whose", "each"), ("window", "hour"), ("unit", "messages")];
    if route.ends_with("/limits") {
        return [&kind[..], &[("most", "5"), ("action", "refuse"), ("seen", "")]].concat();
    }
    if route.ends_with("/limits/delete") {
        return [&kind[..], &[("seen", "")]].concat();
    }
    match route.rsplit('/').next().unwrap() {
        "source" => vec![("source", "Received: from evil ([10.0.0.7]) by x; never")],
        "service-account" => vec![("service", "1"), ("seen", "no")],
        "exempt" => vec![("until", ""), ("seen", "2026-11-01")],
        "block" => vec![("blocked", "yes")],
        "name" => vec![("name", "Mallory"), ("seen", "secret")],
        "user-id" => vec![("user_id", "mallory@acme.example"), ("seen", "secret@other.example")],
        "addresses" => vec![("addresses", ""), ("seen", "")],
        "inbound-host" => vec![("inbound_host", "evil.example.com"), ("seen", "")],
        "pending-gateway" => vec![("of", "other.example"), ("gateway", CHANGE), ("action", "use")],
        "pending-record" => vec![("revision", "2"), ("action", "use")],
        "verify-before-live" => vec![("verify_before_live", "always"), ("seen", "replacing")],
        "probe-sender" => vec![("probe_sender", ""), ("seen", "")],
        "notices" => vec![("webhook", "https://evil.example.com/"), ("seen", "")],
        "senders" => vec![("tell_senders", "1"), ("seen", "no")],
        "secret" => vec![("secret", "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")],
        "test-message" => vec![("to", "me")],
        "require-tls" => vec![("change", CHANGE)],
        "status" => vec![("status", "suspended")],
        "delete" => vec![("seen", "secret@other.example")],
        "{import}" => vec![("added", "1"), ("changed", "0"), ("removed", "0")],
        _ => vec![("outbound_gateway", "evil.example.com")],
    }
}

#[sqlx::test]
async fn what_a_query_names_of_another_organization_is_as_if_it_did_not_exist(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    installation.account(&acme, "ann@acme.example", &[]).await;
    let theirs = installation.account(&other, "secret@other.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let ours = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let them = pages.signed_in(&installation, &other, Role::Administrator).await;
    let form = page_of(&other, &format!("mail-account-manager/{theirs}/outbound-gateway"));
    let saved = them.submit(&form, &[("outbound_gateway", "canary.example.com")]).await;
    assert!(saved.text().contains("Saved."));

    let (_, query) = saved.path.split_once('?').unwrap();
    for page in ["mail-account-manager", "outbound-mail-gateway"] {
        let path = page_of(&acme, page);
        let plain = ours.get(&path).await;
        let asked = ours.get(&format!("{path}?{query}")).await;
        assert_eq!(plain.text(), asked.text());
    }
    for search in ["secret", "other.example", "canary"] {
        let page = ours.get(&page_of(&acme, &format!("mail-account-manager?q={search}"))).await;
        assert!(page.rows().is_empty(), "{search}: {:?}", page.rows());
    }
}

#[sqlx::test]
async fn fields_that_no_form_has_are_refused_and_change_nothing(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let form = page_of(&acme, "outbound-mail-gateway");
    let address = ("outbound_gateway", "mail.example.com");
    let before = (everything_of(&installation, &acme).await, everything_of(&installation, &other).await);
    let id = other.id.to_string();
    for fields in [
        vec![address, ("organization_id", id.as_str())],
        vec![address, ("role", "administrator")],
        vec![address, address],
        vec![],
    ] {
        assert_eq!(browser.submit(&form, &fields).await.status, StatusCode::BAD_REQUEST, "{fields:?}");
    }
    assert_eq!((everything_of(&installation, &acme).await, everything_of(&installation, &other).await), before);
}

#[sqlx::test]
async fn a_suspended_organization_shows_nothing_and_changes_nothing(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let browser = pages.signed_in(&installation, &acme, Role::Administrator).await;
    sqlx::query("update organization set status = 'suspended'").execute(&installation.owner).await.unwrap();
    let form = page_of(&acme, "outbound-mail-gateway");
    for page in [browser.get(&form).await, browser.submit(&form, &[("outbound_gateway", "a.example.com")]).await] {
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        assert!(page.text().contains("This organization is suspended"), "{}", page.text());
    }
    let gateways: i64 =
        sqlx::query_scalar("select count(*) from gateway").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(gateways, 0);
}

fn without_id(page: &Page) -> String {
    let id = page.headers["x-request-id"].to_str().unwrap();
    assert!(page.html.contains(id), "{}", page.html);
    page.html.replace(id, "")
}

/// The headers without those that differ from request to request.
fn headers_of(page: &Page) -> HeaderMap {
    let mut headers = page.headers.clone();
    for differs in ["date", "x-request-id"] {
        headers.remove(differs);
    }
    headers
}

/// All of an organization's rows as one text.
async fn everything_of(installation: &Installation, tenant: &Tenant) -> String {
    sqlx::query_scalar(
        "select concat(
             (select jsonb_agg(organization order by id) from organization where id = $1),
             (select jsonb_agg(mail_domain order by name) from mail_domain where organization_id = $1),
             (select jsonb_agg(mail_account order by id) from mail_account where organization_id = $1),
             (select jsonb_agg(gateway order by id) from gateway where organization_id = $1),
             (select jsonb_agg(relay_credential order by id) from relay_credential where organization_id = $1),
             (select jsonb_agg(sending_limit) from sending_limit where organization_id = $1),
             (select jsonb_agg(sender_control) from sender_control where organization_id = $1),
             (select jsonb_agg(change order by id) from change where organization_id = $1))",
    )
    .bind(tenant.id.0)
    .fetch_one(&installation.owner)
    .await
    .unwrap()
}

#[sqlx::test]
async fn two_organizations_in_one_browser_pool_never_mix(db: PgPool) {
    let installation = Installation::on(db);
    let mut browsers: Vec<(Tenant, Browser)> = Vec::new();
    let pages = Pages::of(&installation).await;
    for slug in ["acme", "other"] {
        let tenant = installation.organization(slug).await;
        installation.account(&tenant, &format!("canary-{slug}@{slug}.example"), &[]).await;
        let browser = pages.signed_in(&installation, &tenant, Role::Administrator).await;
        browsers.push((tenant, browser));
    }
    for _ in 0..20 {
        let mut shown = Vec::new();
        for (tenant, browser) in &browsers {
            shown.push(browser.get(&page_of(tenant, "mail-account-manager")).await);
        }
        assert!(shown[0].html.contains("canary-acme") && !shown[0].html.contains("canary-other"));
        assert!(shown[1].html.contains("canary-other") && !shown[1].html.contains("canary-acme"));
    }
}
