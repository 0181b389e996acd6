//! Notices: the webhook's form and secret, and what a relay tells there.
//! The page `notices` in `src/web`, with `relay::webhook` behind it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode as Status, Uri},
    response::IntoResponse,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use outgate::{
    policy::{Role, gateway_network::AllowedNetworks, webhook::WebhookSecret},
    relay::{resolver::Resolver, webhook::Webhooks},
};
use reqwest::StatusCode;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::page_of;
use crate::support::{
    Browser, Installation, Page, Tenant,
    browser::{PASSWORD, PASSWORD_HASH},
    world::World,
};

/// What a receiver got.
#[derive(Debug, Clone)]
struct Post {
    path: String,
    headers: HeaderMap,
    body: String,
}

/// A server that answers every notice with a status.
struct Receiver {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
    status: Arc<Mutex<Status>>,
}

impl Receiver {
    async fn start() -> Self {
        let (posts, status): (Arc<Mutex<Vec<Post>>>, _) = (Arc::default(), Arc::new(Mutex::new(Status::NO_CONTENT)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (kept, answer) = (Arc::clone(&posts), Arc::clone(&status));
        let receive = async move |uri: Uri, headers: HeaderMap, body: Bytes| {
            let body = String::from_utf8(body.to_vec()).unwrap();
            kept.lock().unwrap().push(Post { path: uri.to_string(), headers, body });
            let status = *answer.lock().unwrap();
            (status, [("location", "http://127.0.0.1:1/elsewhere")], "secret words of a server").into_response()
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(receive)).await.unwrap() });
        Self { address, posts, status }
    }

    fn url(&self) -> String {
        format!("http://{}/outgate?x=1", self.address)
    }

    fn says(&self, status: Status) {
        *self.status.lock().unwrap() = status;
    }

    fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }
}

struct Scene {
    installation: Installation,
    acme: Tenant,
    world: World,
    admin: Browser,
    page: String,
    webhooks: Arc<Webhooks>,
}

/// Pages that take webhooks on this machine, and a relay's part that is stepped by hand: the relay that runs may open none,
/// so that it posts nothing.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::with_settings(&installation, installation.relay_pool().await, |settings| {
        settings.webhook_networks = loopback();
    })
    .await;
    let admin = Browser::at(world.pages.trim_start_matches("http://").parse().unwrap());
    admin.sign_in("admin@acme.example", PASSWORD).await;
    let resolver = Resolver::from_system().unwrap();
    let webhooks = Webhooks::new(installation.relay_pool().await, resolver, loopback()).unwrap();
    let page = page_of(&acme, "notices");
    Scene { installation, acme, world, admin, page, webhooks }
}

fn loopback() -> AllowedNetworks {
    AllowedNetworks { networks: vec!["127.0.0.0/8".parse().unwrap()], ..Default::default() }
}

impl Scene {
    async fn save(&self, url: &str, seen: &str) -> Page {
        self.admin.submit(&self.page, &[("webhook", url), ("seen", seen)]).await
    }

    /// Until the receiver has so many notices, whichever relay posts them.
    async fn until_told(&self, receiver: &Receiver, count: usize) -> Vec<Post> {
        let told = async {
            while receiver.posts().len() < count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            receiver.posts()
        };
        tokio::time::timeout(Duration::from_secs(10), told).await.expect("it is told")
    }

    async fn until_said(&self, words: &str) -> Page {
        let looking = async {
            loop {
                let page = self.admin.get(&self.page).await;
                if page.text().contains(words) {
                    return page;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), looking).await.unwrap_or_else(|_| panic!("it says {words}"))
    }
}

#[sqlx::test]
async fn a_webhook_is_told_with_a_signature_that_its_secret_verifies(db: PgPool) {
    let (scene, receiver) = (scene(db).await, Receiver::start().await);
    let saved = scene.save(&receiver.url(), "").await;
    assert!(saved.text().contains("Saved. What happens from now on is told there, too."), "{}", saved.text());
    let tested = scene.admin.submit(&format!("{}/test", scene.page), &[]).await;
    assert!(tested.text().contains("A relay sends a test notice within seconds"), "{}", tested.text());

    let post = scene.until_told(&receiver, 1).await.remove(0);
    assert_eq!(
        (post.path.as_str(), &post.headers["content-type"]),
        ("/outgate?x=1", &"application/json".parse().unwrap())
    );
    let body: serde_json::Value = serde_json::from_str(&post.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["organization"]), (&"test".into(), &"acme".into()));
    let header = |name: &str| post.headers[name].to_str().unwrap().to_owned();
    let timestamp: i64 = header("webhook-timestamp").parse().unwrap();
    assert!((OffsetDateTime::now_utc().unix_timestamp() - timestamp).abs() < 60);
    let page = scene.until_said("taken: 204 No Content").await;
    let shown = page.field("secret");
    let secret = WebhookSecret::from_words(&shown).unwrap();
    assert_eq!(header("webhook-signature"), secret.signature(&header("webhook-id"), timestamp, &post.body));
    assert_eq!(BASE64_STANDARD.decode(shown.trim_start_matches("whsec_")).unwrap(), secret.0);

    let renewed = scene.admin.submit(&format!("{}/secret", scene.page), &[("secret", &shown)]).await;
    assert!(renewed.text().contains("Notices are signed with the new secret from now on"));
    let new = renewed.field("secret");
    assert_ne!(new, shown);
    let again = scene.admin.submit(&format!("{}/secret", scene.page), &[("secret", &shown)]).await;
    assert!(again.text().contains("The secret was replaced before.") && again.field("secret") == new, "sent twice");
    scene.world.stop().await;
}

#[sqlx::test]
async fn what_a_webhook_does_not_take_is_tried_again_and_nothing_it_says_is_shown(db: PgPool) {
    let (scene, receiver) = (scene(db).await, Receiver::start().await);
    scene.world.stop().await;
    let (installation, webhooks) = (scene.installation, scene.webhooks);
    let pages = crate::support::Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &scene.acme, Role::Administrator).await;
    let noted = "insert into webhook (organization_id, url, secret) values ($1, $2, sha256('x'))";
    sqlx::query(noted).bind(scene.acme.id.0).bind(receiver.url()).execute(&installation.owner).await.unwrap();
    receiver.says(Status::FOUND);
    admin.submit(&format!("{}/test", scene.page), &[]).await;

    let now = OffsetDateTime::now_utc() + time::Duration::seconds(1);
    assert_eq!(Arc::clone(&webhooks).step(now).await.unwrap(), 1);
    let page = admin.get(&scene.page).await;
    assert!(page.text().contains("it answered 302 Found; again"), "{}", page.text());
    assert!(!page.text().contains("secret words"), "{}", page.text());
    assert_eq!(receiver.posts().len(), 1, "it is not followed elsewhere");
    assert_eq!(Arc::clone(&webhooks).step(now).await.unwrap(), 0, "not at once");

    receiver.says(Status::INTERNAL_SERVER_ERROR);
    assert_eq!(Arc::clone(&webhooks).step(now + time::Duration::seconds(31)).await.unwrap(), 1);
    receiver.says(Status::OK);
    assert_eq!(Arc::clone(&webhooks).step(now + time::Duration::seconds(95)).await.unwrap(), 1);
    let page = admin.get(&scene.page).await;
    assert!(page.text().contains("3 attempts taken: 200 OK"), "{}", page.text());
    let ids: Vec<_> = receiver.posts().iter().map(|post| post.headers["webhook-id"].clone()).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "known again by its id: {ids:?}");

    // One that closes as soon as it has answered, in the way of old servers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let old = format!("http://{}/", listener.local_addr().unwrap());
    sqlx::query("update webhook set url = $1").bind(old).execute(&installation.owner).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.0 202 Accepted\r\n\r\n").await.unwrap();
    });
    admin.submit(&format!("{}/test", scene.page), &[]).await;
    Arc::clone(&webhooks).step(OffsetDateTime::now_utc() + time::Duration::minutes(3)).await.unwrap();
    let page = admin.get(&scene.page).await;
    assert!(page.text().contains("taken: 202 Accepted"), "{}", page.text());
    sqlx::query("update webhook set url = $1").bind(receiver.url()).execute(&installation.owner).await.unwrap();

    receiver.says(Status::GONE);
    admin.submit(&format!("{}/test", scene.page), &[]).await;
    Arc::clone(&webhooks).step(OffsetDateTime::now_utc() + time::Duration::minutes(3)).await.unwrap();
    let page = admin.get(&scene.page).await;
    assert!(page.text().contains("given up: it answered 410 Gone"), "{}", page.text());
}

#[sqlx::test]
async fn what_is_no_address_for_a_webhook_is_refused_beside_the_field(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = crate::support::Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, "notices");
    for (typed, words) in [
        ("hooks.example.com", "is not a web address"),
        ("http://hooks.example.com/", "use https"),
        ("https://10.0.0.7/", "is a private address"),
        ("https://127.0.0.1:8080/", "is an address of this machine itself"),
        ("https://hooks.example.com:25/", "Port 25 is not one of a web server"),
        ("https://ann:secret@hooks.example.com/", "user name in it"),
    ] {
        let refused = admin.submit(&page, &[("webhook", typed), ("seen", "")]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed}");
        assert!(refused.text().contains(words) && refused.field("webhook") == typed, "{typed}: {}", refused.text());
    }
    let test = admin.submit(&format!("{page}/test"), &[]).await;
    assert!(test.text().contains("There is no webhook. Enter its address first."), "{}", test.text());

    let (first, second) = ("https://one.example.com/", "https://two.example.com/");
    admin.submit(&page, &[("webhook", first), ("seen", "")]).await;
    let conflict = admin.submit(&page, &[("webhook", second), ("seen", "")]).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    assert!(conflict.text().contains("Somebody has changed it meanwhile") && conflict.field("seen") == first);
    let user_admin = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    let shown = user_admin.get(&page).await;
    assert!(shown.text().contains(first) && !shown.html.contains("whsec_"), "{}", shown.html);
    let deleted = admin.submit(&page, &[("webhook", ""), ("seen", first)]).await;
    assert!(deleted.text().contains("There is no webhook any more"), "{}", deleted.text());
    let log = admin.get("/acme/administration/audit-log").await;
    assert!(log.text().contains("deleted the webhook of the organization"), "{}", log.text());
}

#[sqlx::test]
async fn a_webhook_that_hangs_holds_up_nobody_elses_notices(db: PgPool) {
    let installation = Installation::on(db);
    let (slow, other) = (installation.organization("slow").await, installation.organization("other").await);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = Receiver::start().await;
    let resolver = Resolver::from_system().unwrap();
    let webhooks = Webhooks::new(installation.relay_pool().await, resolver, loopback()).unwrap();
    let silent_url = format!("http://{}/", silent.local_addr().unwrap());
    for (tenant, url) in [(&slow, silent_url), (&other, receiver.url())] {
        let set = "insert into webhook (organization_id, url, secret) values ($1, $2, sha256('x'))";
        sqlx::query(set).bind(tenant.id.0).bind(url).execute(&installation.owner).await.unwrap();
    }
    let note = async |tenant: &Tenant| {
        let noted =
            "insert into webhook_notice (organization_id, id, kind, body) values ($1, gen_random_uuid(), 'test', '{}')";
        sqlx::query(noted).bind(tenant.id.0).execute(&installation.owner).await.unwrap();
    };
    note(&slow).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(webhooks.run(stop.clone()));
    let _hangs = silent.accept().await.unwrap();
    let begun = std::time::Instant::now();
    note(&slow).await;
    note(&other).await;
    while receiver.posts().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it waits for the other");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = tokio::time::timeout(Duration::from_secs(3), silent.accept()).await;
    assert!(again.is_err(), "one at a time of an organization");
    stop.cancel();
    running.await.unwrap();
}
