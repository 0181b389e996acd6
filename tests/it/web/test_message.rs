//! Test messages, from the button to what came back, and the page that a message in a mailbox leads to.
//! The page `test_message` in `src/web`; what has no part of the pages is `relay::test_message`'s.

use std::time::Duration;

use outgate::{
    mail::id::{RelayId, TestMessageId},
    policy::{
        Role,
        arrival::{SenderPolicies, Spf, SpfOf},
    },
    relay::{resolver::Resolver, test_message::Pasted},
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        verification::{Asked, TestMessage, Wanted},
    },
};
use reqwest::StatusCode;
use sqlx::PgPool;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::page_of;
use crate::support::{
    Browser, Gateway, Installation, Page, Pages, SmtpClient, Tenant,
    browser::{PASSWORD, PASSWORD_HASH},
    dns::Dns,
    gateway::{At, HAPPENS_WITHIN, Received},
    world::World,
};

/// The address of a gateway that nobody here knows.
const STRANGER: &str = "127.0.0.9:0";

struct Scene {
    installation: Installation,
    world: World,
    gateway: Gateway,
    /// The gateway's page.
    page: String,
    admin: Browser,
}

/// An organization with a gateway, at pages and a relay that have a return address; only this machine's own address may
/// submit mail.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let id = installation.gateway_of(&acme, &gateway.address.to_string()).await;
    let world = World::with_settings(&installation, installation.relay_pool().await, |settings| {
        settings.return_address = Some("return@probe.example".parse().unwrap());
        settings.trusted_networks = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let admin = Browser::at(world.pages.trim_start_matches("http://").parse().unwrap());
    admin.sign_in("admin@acme.example", PASSWORD).await;
    let page = page_of(&acme, &format!("gateways/{id}"));
    Scene { installation, world, gateway, page, admin }
}

impl Scene {
    async fn send(&self, to: &str) -> Page {
        self.admin.submit(&format!("{}/test-message", self.page), &[("to", to)]).await
    }

    /// The page once it says so.
    async fn until_said(&self, page: &Page, words: &str) -> Page {
        let looking = async {
            loop {
                let page = self.admin.get(&page.path).await;
                if page.text().contains(words) {
                    return page;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(HAPPENS_WITHIN, looking).await.unwrap_or_else(|_| panic!("it says {words}"))
    }

    /// Brings a message to the relay as a server of the world does; the last reply.
    async fn bring(&self, recipient: &str, content: &str) -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(STRANGER.parse().unwrap()).unwrap();
        let stream: TcpStream = socket.connect(self.world.submission).await.unwrap();
        let mut smtp = SmtpClient::over(stream);
        assert!(smtp.reply().await.starts_with("220 "));
        assert!(smtp.say("EHLO mx-out.archive.example").await.starts_with("250-"));
        assert!(smtp.say("MAIL FROM:<bounce@archive.example>").await.starts_with("250 "));
        let reply = smtp.say(&format!("RCPT TO:<{recipient}>")).await;
        if !reply.starts_with("250 ") {
            return reply;
        }
        assert!(smtp.say("DATA").await.starts_with("354 "));
        smtp.send(content.as_bytes()).await;
        smtp.say(".").await
    }
}

fn content_of(received: &Received) -> String {
    String::from_utf8(received.content.clone()).unwrap()
}

#[sqlx::test]
async fn a_test_message_goes_all_of_the_way_and_its_page_says_what_the_way_was(db: PgPool) {
    let scene = scene(db).await;
    assert!(scene.admin.get(&scene.page).await.html.contains(">Send and let it come back</button>"));

    let asked = scene.send("return").await;
    let sent = scene.gateway.received(1).await.remove(0);
    let page = scene.until_said(&asked, "Message passed").await;
    for words in
        ["Each relay sends a test message from postmaster@acme.example", "Arrival under way", "on its way to return+"]
    {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert!(page.html.contains(r#"http-equiv="refresh" content="5""#), "it is waited for");
    assert_eq!(sent.reverse_path, "postmaster@acme.example");

    // The gateway writes a footer below it, and its server in the world brings it here.
    let hop = "Received: from relay.test ([192.0.2.1]) by archive.example.com with ESMTPS; Mon, 23 Nov 2026 10:00:01 +0000\r\n";
    let changed = format!("{hop}{}-- \r\nScanned.\r\n", content_of(&sent));
    let reply = scene.bring(&sent.recipients[0], &changed).await;
    assert!(reply.starts_with("250 2.0.0 The test message has come back"), "{reply}");
    let page = scene.admin.get(&asked.path).await;
    for words in [
        "Arrival passed, after",
        "archive.example.com, from relay.test (192.0.2.1), by TLS, 10:00:01 UTC",
        "relay.test, from mx-out.archive.example (127.0.0.9), in clear",
        "Signature failed",
        "The text was changed on the way, as by a footer",
        "it left from 127.0.0.9",
        "That is a private address",
    ] {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert!(!page.html.contains("http-equiv=\"refresh\""), "nothing more is waited for");

    let before = page.text();
    let again = scene.bring(&sent.recipients[0], &content_of(&sent)).await;
    assert!(again.starts_with("250 2.0.0 This test message has come back before"), "{again}");
    assert_eq!(scene.admin.get(&asked.path).await.text(), before, "the first time counts");
    let queued = sqlx::query_scalar::<_, i64>("select count(*) from queued_message");
    assert_eq!(queued.fetch_one(&scene.installation.owner).await.unwrap(), 0, "it is no mail");
    assert_eq!(scene.gateway.so_far().len(), 1);
    scene.world.stop().await;
}

#[sqlx::test]
async fn a_message_that_nobody_touches_comes_back_with_its_signature(db: PgPool) {
    let scene = scene(db).await;
    let asked = scene.send("return").await;
    let sent = scene.gateway.received(1).await.remove(0);
    scene.until_said(&asked, "Message passed").await;
    assert!(content_of(&sent).starts_with("DKIM-Signature: "), "{}", content_of(&sent));
    assert!(scene.bring(&sent.recipients[0], &content_of(&sent)).await.starts_with("250 "));
    scene.until_said(&asked, "A DKIM signature survives").await;

    let forged = sent.recipients[0].replace("return+0", "return+1");
    let refused = scene.bring(&forged, &content_of(&sent)).await;
    assert!(refused.starts_with("550 5.1.1 "), "{refused}");
    sqlx::query("delete from verification").execute(&scene.installation.owner).await.unwrap();
    let refused = scene.bring(&sent.recipients[0], &content_of(&sent)).await;
    assert!(refused.starts_with("550 5.1.1 Nobody waits for this test message any more"), "{refused}");
    scene.world.stop().await;
}

#[sqlx::test]
async fn a_test_message_in_a_mailbox_leads_to_the_page_at_which_its_reader_says_so(db: PgPool) {
    let scene = scene(db).await;
    let asked = scene.send("me").await;
    let sent = scene.gateway.received(1).await.remove(0);
    let content = content_of(&sent).replace("=\r\n", "");
    assert_eq!(sent.recipients, ["admin@acme.example"]);
    assert!(!content.contains("DKIM-Signature"), "no server would find its key: {content}");
    scene.until_said(&asked, "on its way to admin@acme.example").await;

    let (_, link) = content.split_once(&format!("{}/", scene.world.pages)).expect("a link");
    let link = format!("/{}", link.split_whitespace().next().unwrap());
    let page = scene.admin.get(&link).await;
    assert!(page.text().contains("Has the test message arrived?") && page.html.contains(">It has arrived</button>"));
    assert!(!scene.admin.get(&asked.path).await.text().contains("Arrival passed"), "a filter that looks says nothing");
    let said = scene.admin.submit(&link, &[]).await;
    assert_eq!(said.path, asked.path);
    assert!(said.text().contains("Arrival passed, after"), "{}", said.text());
    assert!(said.text().contains("admin@acme.example says so"), "{}", said.text());
    assert!(!said.html.contains("http-equiv=\"refresh\""));
    assert!(scene.admin.get(&link).await.text().contains("You or somebody else has said so"));
    scene.world.stop().await;
}

#[sqlx::test]
async fn a_gateway_that_takes_the_recipient_and_not_the_message_is_told_with_what_to_do(db: PgPool) {
    let scene = scene(db).await;
    scene.gateway.says(At::Dot, "550 5.7.1 looks like spam");
    let asked = scene.send("return").await;
    let page = scene.until_said(&asked, "It does not accept our mail yet.").await;
    for words in ["Message failed", "550 5.7.1 looks like spam", "It takes the recipient and not the message"] {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert!(!page.text().contains("Arrival"), "nothing is on its way");
    scene.world.stop().await;
}

#[sqlx::test]
async fn an_organization_has_a_dozen_test_messages_an_hour(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let id = installation.gateway_of(&acme, "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, &format!("gateways/{id}"));
    assert!(!admin.get(&page).await.html.contains("let it come back"), "nothing comes back to these pages");
    let malformed = admin.submit(&format!("{page}/test-message"), &[("to", "return")]).await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
    for number in 0..12 {
        let sent = admin.submit(&format!("{page}/test-message"), &[("to", "me")]).await;
        assert!(sent.path.contains("/verifications/"), "{number}: {}", sent.text());
        sqlx::query("update verification set requested_at = requested_at - interval '1 minute'")
            .execute(&installation.owner)
            .await
            .unwrap();
    }
    let refused = admin.submit(&format!("{page}/test-message"), &[("to", "me")]).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.text().contains("12 test messages sent within the last hour"), "{}", refused.text());
    let verified = admin.submit(&format!("{page}/verify"), &[]).await;
    assert!(verified.path.contains("/verifications/"), "what sends nothing is not counted: {}", verified.text());
}

/// Servers between our relay and a mailbox, the last first.
fn hops(out: &str) -> String {
    [
        "Received: from mx.home.example by store.home.example with LMTP; Mon, 23 Nov 2099 10:00:09 +0000",
        &format!("Received: from out.archive.example ([{out}]) by mx.home.example with ESMTPS; Mon, 23 Nov 2099 10:00:07 +0000"),
        "Received: from relay.test ([127.0.0.1]) by archive.example.com with ESMTP; Mon, 23 Nov 2099 10:00:01 +0000",
        "",
    ]
    .join("\r\n")
}

#[sqlx::test]
async fn the_source_that_is_pasted_shows_the_way_of_a_message_in_a_mailbox(db: PgPool) {
    let scene = scene(db).await;
    let asked = scene.send("me").await;
    let sent = scene.gateway.received(1).await.remove(0);
    let page = scene.until_said(&asked, "on its way to admin@acme.example").await;
    let link = page.link("Has it arrived, and by what way?");
    assert!(scene.admin.get(&link).await.text().contains("Test messages to a mailbox are not signed (DKIM)"));
    let paste = format!("{link}/source");
    let large = "x".repeat(300 * 1024);
    let other = content_of(&sent).replace(link.rsplit('/').next().unwrap(), "0199f3a0-0000-7000-8000-000000000001");
    for (source, words) in [
        ("", "Paste the source of the message here"),
        ("Dear Ann, it has arrived", "There is no “Received” field in it"),
        (&large, "It is larger than 256 KiB. Paste the header alone"),
        (&"%".repeat(300 * 1024), "It is larger than 256 KiB. Paste the header alone"),
        (&format!("{}{other}", hops("10.0.0.7")), "This is another message"),
    ] {
        let refused = scene.admin.submit(&paste, &[("source", source)]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{words}");
        assert!(refused.text().contains(words), "{words} in {}", refused.text());
        let stands = format!("\n{source}</textarea>");
        assert!(!source.starts_with("Dear") || refused.html.contains(&stands), "it stands there again");
    }
    let untouched = "select count(*) from test_message where arrived_at is null and pasted is null";
    let untouched = sqlx::query_scalar::<_, i64>(untouched).fetch_one(&scene.installation.owner).await.unwrap();
    assert_eq!(untouched, 1, "nothing of that was kept");

    let shown = scene.admin.submit(&paste, &[("source", &format!("{}{}", hops("10.0.0.7"), content_of(&sent)))]).await;
    assert_eq!(shown.path, asked.path);
    for words in [
        "Arrival passed, after",
        "archive.example.com, from relay.test (127.0.0.1), in clear, 10:00:01 UTC",
        "mx.home.example, from out.archive.example (10.0.0.7), by TLS, 10:00:07 UTC",
        "admin@acme.example says so",
        "Test messages to a mailbox are not signed",
        "it left from 10.0.0.7",
        "That is a private address",
    ] {
        assert!(shown.text().contains(words), "{words} in {}", shown.text());
    }
    assert!(!shown.html.contains("http-equiv=\"refresh\""), "nothing more is waited for");
    let again = scene.admin.submit(&paste, &[("source", &format!("{}{}", hops("10.0.0.8"), content_of(&sent)))]).await;
    assert!(again.text().contains("it left from 10.0.0.8") && !again.text().contains("10.0.0.7"), "{}", again.text());
    scene.world.stop().await;
}

#[sqlx::test]
async fn of_a_source_that_is_pasted_a_relay_asks_the_dns_what_spf_says(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let id = in_mailbox(&installation, &acme, "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let page = page_of(&acme, &format!("test-messages/{id}"));
    let source = format!("{}Message-ID: <{id}@relay.test>\r\n\r\n", hops("203.0.113.7"));
    let reader = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    assert!(!reader.get(&page).await.html.contains("<textarea"));
    let refused = reader.submit(&format!("{page}/source"), &[("source", &source)]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);

    let admin = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    let shown = admin.submit(&format!("{page}/source"), &[("source", &source)]).await;
    let taken = "update test_message set taken_at = now()";
    sqlx::query(taken).execute(&installation.owner).await.unwrap();
    let waits = admin.get(&shown.path).await;
    assert!(waits.text().contains("Sender policy (SPF) under way it left from 203.0.113.7"), "{}", waits.text());
    assert!(waits.html.contains("http-equiv=\"refresh\""));

    let dns = Dns::start(&[("acme.example", "TXT v=spf1 mx -all")]).await;
    let resolver = Resolver::at(dns.address, Duration::from_secs(2)).unwrap();
    let pasted = Pasted::new(installation.relay_pool().await, resolver);
    assert_eq!((pasted.step().await.unwrap(), pasted.step().await.unwrap()), (1, 0), "once");
    let found = admin.get(&shown.path).await;
    for words in [
        "Sender policy (SPF) failed",
        "acme.example: The record does not have the address",
        "acme.example. TXT \"v=spf1 mx ip4:203.0.113.7 -all\"",
    ] {
        assert!(found.text().contains(words), "{words} in {}", found.text());
    }
    // What was found of another source is not told of this one.
    admin.submit(&format!("{page}/source"), &[("source", &source)]).await;
    let relays = installation.relay_pool().await;
    let late = store::test_message::take_pasted_across_tenants(&relays, 9).await.unwrap().remove(0);
    admin.submit(&format!("{page}/source"), &[("source", &source.replace("203.0.113.7", "198.51.100.7"))]).await;
    let spf = vec![SpfOf { domain: "late.example".to_owned(), verdict: Spf::Covers, record: None }];
    let policies = SenderPolicies { spf, spf_more: 0 };
    store::test_message::looked_at_across_tenants(&relays, &late, &policies).await.unwrap();
    assert!(!admin.get(&shown.path).await.text().contains("late.example"));
    assert_eq!(pasted.step().await.unwrap(), 1, "it is still looked at");
}

/// A test message that was sent to somebody's mailbox.
pub async fn in_mailbox(installation: &Installation, acme: &Tenant, address: &str) -> TestMessageId {
    let gateway = installation.gateway_of(acme, address).await;
    let address = address.parse().unwrap();
    let mut transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let test = Some(TestMessage::ToRecipient { link: None });
    let wanted =
        Wanted { recipient: Some("ann@acme.example"), test, ..Wanted::of(Some(gateway), &address, "operator") };
    let asked = store::verification::ask(&mut transaction, acme.id, &wanted).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(matches!(asked, Asked::Asked(_)), "{asked:?}");
    let (relays, id) = (installation.relay_pool().await, TestMessageId::new());
    let taken = store::verification::take_across_tenants(&relays, RelayId::new(), "one").await.unwrap();
    let taken = taken.iter().find(|taken| taken.organization == acme.id && taken.test.is_some()).unwrap();
    store::test_message::note_across_tenants(&relays, taken, id, "one", "ann@acme.example", None).await.unwrap();
    id
}

#[sqlx::test]
async fn of_more_domains_than_are_looked_at_it_is_said_how_many_there_are(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let gateway = installation.gateway_of(&acme, "archive.example.com").await;
    let more = "insert into mail_domain (organization_id, name)
                select $1, 'd' || number || '.example' from generate_series(1, 61) as number";
    sqlx::query(more).bind(acme.id.0).execute(&installation.owner).await.unwrap();
    let relays = installation.relay_pool().await;
    let (names, more) = store::test_message::domains_across_tenants(&relays, acme.id, gateway).await.unwrap();
    assert_eq!((names.len(), more), (50, 12));

    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let id = in_mailbox(&installation, &acme, "archive.example.com").await;
    let page = page_of(&acme, &format!("test-messages/{id}"));
    let source = format!("{}Message-ID: <{id}@relay.test>\r\n\r\n", hops("203.0.113.7"));
    let shown = admin.submit(&format!("{page}/source"), &[("source", &source)]).await;
    sqlx::query("update test_message set taken_at = now()").execute(&installation.owner).await.unwrap();
    let late = store::test_message::take_pasted_across_tenants(&relays, 9).await.unwrap().remove(0);
    let spf = vec![SpfOf { domain: "acme.example".to_owned(), verdict: Spf::Covers, record: None }];
    let policies = SenderPolicies { spf, spf_more: more };
    store::test_message::looked_at_across_tenants(&relays, &late, &policies).await.unwrap();
    let text = admin.get(&shown.path).await.text();
    assert!(
        text.contains("The records of 12 more mail domains were not looked at: compare them with these."),
        "{text}"
    );
}
