//! How a gateway does, as its mail says: from the relay that carries it to the pages.
//! Shown by `gateways`, `gateway` and `web_mail_cloud` in `src/web`.

use std::{collections::HashSet, time::Duration};

use outgate::{
    mail::id::{GatewayId, RelayId, Revision},
    policy::Role,
    store::{
        self,
        gateway::PointerScope,
        gateway_health::{Encryption, Seen},
    },
};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::page_of;
use crate::support::{
    Browser, Gateway, Installation, Pages, Sending, SmtpClient,
    gateway::{At, HAPPENS_WITHIN},
    world::World,
};

/// Looks until the page says so.
async fn until(browser: &Browser, path: &str, words: &str) {
    let mut text = String::new();
    let says_so = async {
        loop {
            text = browser.get(path).await.text();
            if text.contains(words) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(HAPPENS_WITHIN, says_so).await.is_err() {
        panic!("{words} in {text}");
    }
}

#[sqlx::test]
async fn what_mail_says_of_a_gateway_stands_on_the_pages_within_seconds(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let world = World::start(&installation).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let of_gateway = installation.gateway_of(&acme, &gateway.address.to_string()).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let (list, page) = (page_of(&acme, "gateways"), page_of(&acme, &format!("gateways/{of_gateway}")));
    assert!(admin.get(&list).await.text().contains("No mail since its last change"));

    world.send("ann@acme.example", "one").await;
    for path in [&list, &page] {
        until(&admin, path, "Last accepted mail").await;
    }
    gateway.says(At::Mail, "550 5.7.1 we do not know you");
    world.send("ann@acme.example", "two").await;
    for path in [&list, &page] {
        until(&admin, path, "Failing since").await;
        until(&admin, path, "said: 550 5.7.1 we do not know you").await;
    }
    until(&admin, &page_of(&acme, ""), "1 gateway is failing").await;
    let explain = page_of(&acme, "explain-route?sender=ann@acme.example");
    let explained = admin.get(&explain).await.text();
    let words = "A message now would wait in the queue until the gateway takes mail again.";
    assert!(explained.contains(words) && explained.contains("said: 550 5.7.1 we do not know you"), "{explained}");

    gateway.works_again();
    until(&admin, &list, "Last accepted mail").await;
    until(&admin, &list, " in five minutes, each taken after ").await;
    assert!(!admin.get(&page_of(&acme, "")).await.text().contains("failing"));
    assert!(admin.get(&explain).await.text().contains("A message now would go to the gateway at once."));
}

#[sqlx::test]
async fn the_table_and_the_users_form_say_how_the_gateway_does_that_applies(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    let relays = installation.relay_pool().await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "mail-account-manager");
    let form = |account| page_of(&acme, &format!("mail-account-manager/{account}/outbound-gateway"));
    assert!(!admin.get(&list).await.html.contains("<small"), "nothing of the platform's default");

    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Account(bob), "dlp.example.com").await;
    let words = "Not checked since its change No mail yet";
    for row in admin.get(&list).await.rows() {
        assert!(row.contains(words), "{row}");
    }

    let now = OffsetDateTime::now_utc();
    let relay = store::relay::sign_on(&relays, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    let archive = installation.gateway_of(&acme, "archive.example.com").await;
    let dlp = installation.gateway_of(&acme, "dlp.example.com").await;
    let seen = |gateway, failure: Option<&str>| Seen {
        organization: acme.id,
        gateway,
        revision: 1,
        last_accepted_at: Some(now - time::Duration::minutes(3)),
        last_failure: failure.map(|words| (now, words.to_owned())),
        failing_since: failure.map(|_| now),
        backup: None,
        certificate_ends_at: None,
        last_reached_at: None,
        throughput: None,
        encryption: Encryption::default(),
    };
    let both =
        [seen(archive, None), seen(dlp, Some("dlp said: 550 5.7.1 we do not know you, whoever you may be, go away"))];
    store::gateway_health::record_across_tenants(&relays, relay, &both).await.unwrap();
    for (gateway, accepts) in [(archive, true), (dlp, false)] {
        admin.submit(&page_of(&acme, &format!("gateways/{gateway}/verify")), &[]).await;
        for taken in store::verification::take_across_tenants(&relays, relay, "one").await.unwrap() {
            store::verification::report_across_tenants(&relays, relay, &taken, &[], Some(accepts)).await.unwrap();
        }
    }
    let shown = admin.get(&list).await;
    let rows = shown.rows();
    let day = now.format(time::macros::format_description!("[day padding:none] [month repr:short]")).unwrap();
    assert!(rows[0].contains(&format!("Checked {day}, revision 1 Took mail 3 min ago")), "{}", rows[0]);
    let time = now.format(time::macros::format_description!("[hour]:[minute] UTC")).unwrap();
    // What is to be looked after comes first, as far as there is room for it.
    let failing = format!(
        "Failing since {time}: dlp said: 550 5.7.1 we do not know you, whoever you may be,… Check failed {day}, revision 1"
    );
    assert!(rows[1].contains(&failing), "{} {failing}", rows[1]);
    for mark in ["<small class=\"is-good\">", "<small class=\"is-failing\">"] {
        assert_eq!(shown.html.matches(mark).count(), 2, "{mark} {}", shown.html);
    }

    for (account, words) in [
        (ann, "How it does Last accepted mail 3 min ago Checked"),
        (ann, "revision 1: it accepts our mail"),
        (bob, "dlp said: 550 5.7.1 we do not know you, whoever you may be, go away"),
        (bob, "revision 1: it does not accept our mail"),
    ] {
        let form = admin.get(&form(account)).await.text();
        assert!(form.contains(words), "{words} {form}");
        assert_eq!(form.contains("How it does"), account == ann, "of an own gateway the form itself says it");
    }
    store::relay::sign_off(&relays, relay).await.unwrap();
    assert!(admin.get(&list).await.rows()[1].contains("Took mail 3 min ago"), "a relay that is gone");
}

#[sqlx::test]
async fn a_relay_that_is_gone_tells_of_no_trouble_and_an_earlier_revision_of_nothing(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relays = installation.relay_pool().await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let gateway = installation.gateway_of(&acme, "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "gateways");
    let now = OffsetDateTime::now_utc();
    let seen = |revision, gateway| Seen {
        organization: acme.id,
        gateway,
        revision,
        last_accepted_at: Some(now - time::Duration::hours(2)),
        last_failure: Some((now, "it said no".to_owned())),
        failing_since: Some(now),
        backup: None,
        certificate_ends_at: None,
        last_reached_at: None,
        throughput: None,
        encryption: Encryption::default(),
    };
    let one = store::relay::sign_on(&relays, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    let of_nobody = seen(1, GatewayId::new());
    store::gateway_health::record_across_tenants(&relays, one, &[seen(1, gateway), of_nobody]).await.unwrap();
    assert!(admin.get(&list).await.text().contains("Failing since"));

    store::relay::sign_off(&relays, one).await.unwrap();
    assert!(admin.get(&list).await.text().contains("Last accepted mail 2 h ago"));
    store::relay::sign_on(&relays, "one", RelayId::new(), Revision(0)).await.unwrap();
    assert!(admin.get(&list).await.text().contains("Failing since"));
    store::gateway_health::forget_across_tenants(&relays, one).await.unwrap();
    assert!(admin.get(&list).await.text().contains("Last accepted mail 2 h ago"));
    store::gateway_health::record_across_tenants(&relays, one, &[seen(2, gateway)]).await.unwrap();
    assert!(admin.get(&list).await.text().contains("No mail since its last change"));
    store::gateway_health::record_across_tenants(&relays, one, &[seen(1, gateway)]).await.unwrap();
    assert!(admin.get(&list).await.text().contains("No mail since its last change"), "the later revision stays");
}

#[sqlx::test]
async fn every_page_says_that_a_gateway_fails_as_long_as_it_does_once_administrators_were_told(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let rival = installation.organization("rival").await;
    for address in ["archive.example.com", "dlp.example.com"] {
        installation.set_gateway(&acme, &PointerScope::Organization, address).await;
    }
    let archive = installation.gateway_of(&acme, "archive.example.com").await;
    let dlp = installation.gateway_of(&acme, "dlp.example.com").await;
    let relays = installation.relay_pool().await;
    let relay = store::relay::sign_on(&relays, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    let pages = Pages::of(&installation).await;
    let ours = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let theirs = pages.signed_in(&installation, &rival, Role::Administrator).await;
    let now = OffsetDateTime::now_utc();
    let see = async |gateway, failing_since: Option<OffsetDateTime>| {
        let seen = Seen {
            organization: acme.id,
            gateway,
            revision: 1,
            last_accepted_at: None,
            last_failure: failing_since.map(|since| (since, "554 5.7.1 go away".to_owned())),
            failing_since,
            backup: None,
            certificate_ends_at: None,
            last_reached_at: None,
            throughput: None,
            encryption: Encryption::default(),
        };
        store::gateway_health::record_across_tenants(&relays, relay, &[seen]).await.unwrap();
    };
    let tell = async || {
        for told in store::gateway_notice::failing_across_tenants(&relays, now).await.unwrap() {
            store::gateway_notice::note_across_tenants(&relays, &told, now).await.unwrap();
        }
    };
    let paths = ["", "mail-account-manager", "explain-route", "outbound-queue"];
    let banner = async |browser: &Browser, path: &str| {
        let page = browser.get(path).await;
        page.html.split_once("banner\">").map(|(_, rest)| rest.split_once("</p>").unwrap().0.to_owned())
    };

    see(archive, Some(now)).await;
    assert_eq!(banner(&ours, &page_of(&acme, "")).await, None, "it may be over in a moment");
    tell().await;
    for path in paths {
        let said = banner(&ours, &page_of(&acme, path)).await.unwrap_or_else(|| panic!("nothing on {path}"));
        assert!(said.contains("archive.example.com port 25</bdi> does not take mail."), "{said}");
    }
    assert_eq!(banner(&theirs, &page_of(&rival, "")).await, None);

    see(dlp, Some(now)).await;
    tell().await;
    let said = banner(&ours, &page_of(&acme, "")).await.unwrap();
    assert!(said.contains("2 gateways do not take mail."), "{said}");

    see(dlp, None).await;
    let said = banner(&ours, &page_of(&acme, "")).await.unwrap();
    assert!(said.contains("archive.example.com"), "{said}");
    sqlx::query("update relay set last_seen_at = now() - interval '2 minutes'")
        .execute(&installation.owner)
        .await
        .unwrap();
    assert_eq!(banner(&ours, &page_of(&acme, "")).await, None, "who saw it fail is gone");
}

/// What a client sends, each message with its number.
async fn submit(submission: std::net::SocketAddr, client: usize, clients: usize, messages: usize) {
    let mut smtp = SmtpClient::greeted(submission).await;
    for number in (client..messages).step_by(clients) {
        let content = format!("Subject: {number}\r\n\r\nThis must arrive.\r\n");
        let reply = smtp.submit("ann@works.example", "bob@elsewhere.example", &content).await;
        assert!(reply.starts_with("250 2.0.0 "), "{number}: {reply}");
    }
}

#[sqlx::test]
async fn a_gateway_that_begins_to_refuse_in_the_middle_of_traffic_costs_nobody_a_message_and_is_told_of_once(
    db: PgPool,
) {
    const CLIENTS: usize = 4;
    const MESSAGES: usize = 200;
    let installation = Installation::on(db.clone());
    let works = installation.organization("works").await;
    let world = World::start(&installation).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&works, &PointerScope::Organization, &gateway.address.to_string()).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &works, Role::Administrator).await;
    let front = page_of(&works, "");
    let webhook = "insert into webhook (organization_id, url, secret) values ($1, 'https://x.example/', sha256('x'))";
    sqlx::query(webhook).bind(works.id.0).execute(&installation.owner).await.unwrap();
    // By it administrators are told as if minutes had passed.
    let telling = Sending::on(db).await;
    let tell = async || telling.queue.tell_of_gateways(OffsetDateTime::now_utc() + time::Duration::minutes(2)).await;

    let sending: Vec<_> =
        (0..CLIENTS).map(|client| tokio::spawn(submit(world.submission, client, CLIENTS, MESSAGES))).collect();
    gateway.received(MESSAGES / 4).await;
    gateway.says(At::Mail, "554 5.7.1 we do not know you");
    for client in sending {
        client.await.expect("every message was answered with 250");
    }
    let kept = gateway.so_far().len();
    assert!(kept < MESSAGES, "it began to refuse before the end");
    until(&admin, &page_of(&works, "gateways"), "Failing since").await;
    assert_eq!(tell().await.unwrap(), 1);
    until(&admin, &front, "does not take mail.").await;
    // Those minutes have not passed for the relay.
    sqlx::query("update gateway_notice set noticed_at = now()").execute(&installation.owner).await.unwrap();

    gateway.works_again();
    let subjects: HashSet<String> = gateway
        .received_within(MESSAGES, Duration::from_secs(60))
        .await
        .iter()
        .map(|message| {
            String::from_utf8_lossy(&message.content)
                .split("\r\n")
                .find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned))
                .unwrap()
        })
        .collect();
    assert_eq!((subjects.len(), gateway.so_far().len()), (MESSAGES, MESSAGES), "each once");
    until(&admin, &page_of(&works, "gateways"), "no mail waits").await;
    until(&admin, &page_of(&works, "gateways"), "Last accepted mail").await;
    assert!(!admin.get(&front).await.text().contains("does not take mail."), "the banner is gone");
    // The relay may have told it already.
    tell().await.unwrap();
    assert_eq!(tell().await.unwrap(), 0);
    let told = sqlx::query_scalar::<_, String>("select kind from webhook_notice order by id");
    assert_eq!(told.fetch_all(&installation.owner).await.unwrap(), ["gateway.failing", "gateway.well"], "each once");
    world.stop().await;
}

#[sqlx::test]
async fn that_mail_goes_in_clear_which_was_encrypted_stands_on_the_pages_until_it_is_again(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let gateway = Gateway::start().await;
    gateway.offers_tls();
    let address = gateway.address.to_string();
    installation.set_gateway(&acme, &PointerScope::Organization, &address).await;
    let world = World::start(&installation).await;
    let of_gateway = installation.gateway_of(&acme, &address).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, &format!("gateways/{of_gateway}"));
    let words = "It has stopped offering TLS: mail goes to it in clear since ";

    world.send("ann@acme.example", "one").await;
    until(&admin, &page, "Last accepted mail").await;
    assert!(!admin.get(&page).await.text().contains(words));
    gateway.behave(|behaviour| {
        behaviour.tls = None;
        // The next message comes over a new connection.
        behaviour.one_message_only = true;
    });
    world.send("ann@acme.example", "two").await;
    until(&admin, &page, words).await;
    until(&admin, &page_of(&acme, "gateways"), words).await;
    gateway.offers_tls();
    world.send("ann@acme.example", "three").await;
    let mut text = String::new();
    let is_over = async {
        while text.is_empty() || text.contains(words) {
            text = admin.get(&page).await.text();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HAPPENS_WITHIN, is_over).await.unwrap_or_else(|_| panic!("it is encrypted again"));
    world.stop().await;
}

#[sqlx::test]
async fn a_gateways_page_says_when_it_last_took_mail_while_it_fails_and_what_its_last_failure_was_while_it_works(
    db: PgPool,
) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relays = installation.relay_pool().await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let gateway = installation.gateway_of(&acme, "archive.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, &format!("gateways/{gateway}"));
    let now = OffsetDateTime::now_utc();
    let ago = |hours| now - time::Duration::hours(hours);
    let record = async |name: &str, accepted: Option<i64>, failed: (i64, &str), is_failing: bool| {
        let relay = store::relay::sign_on(&relays, name, RelayId::new(), Revision(0)).await.unwrap().id;
        let seen = Seen {
            organization: acme.id,
            gateway,
            revision: 1,
            last_accepted_at: accepted.map(ago),
            last_failure: Some((ago(failed.0), failed.1.to_owned())),
            failing_since: is_failing.then(|| ago(failed.0)),
            backup: None,
            certificate_ends_at: None,
            last_reached_at: None,
            throughput: None,
            encryption: Encryption::default(),
        };
        store::gateway_health::record_across_tenants(&relays, relay, &[seen]).await.unwrap();
        admin.get(&page).await.text()
    };
    let text = record("one", None, (3, "it said: 451 4.3.2 not now"), true).await;
    assert!(text.contains("it said: 451 4.3.2 not now It has accepted no mail since its last change."), "{text}");
    let text = record("one", Some(2), (1, "it said: 451 4.3.2 not now"), true).await;
    assert!(text.contains("it said: 451 4.3.2 not now Last accepted mail 2 h ago."), "{text}");
    let text = record("one", Some(0), (1, "it said: 451 4.3.2 not now"), false).await;
    let moment = ago(1).format(time::macros::format_description!("[hour]:[minute] UTC")).unwrap();
    let words = format!("{moment}: it said: 451 4.3.2 not now");
    assert!(text.contains("Last failure") && text.contains(&words), "{words} in {text}");

    // Of two relays the time and the words belong together.
    let text = record("two", Some(0), (5, "it said: 550 5.7.1 go away"), false).await;
    assert!(text.contains(&words), "the latest: {text}");
    let text = record("two", Some(0), (5, "it said: 550 5.7.1 go away"), true).await;
    assert!(text.contains("it said: 550 5.7.1 go away") && !text.contains("not now"), "{text}");
}
