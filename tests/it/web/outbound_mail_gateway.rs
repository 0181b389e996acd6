//! Outbound Mail Gateway: the gateway of all users.
//! The page of the same name in `src/web`.

use std::cell::Cell;

use outgate::{policy::Role, store::gateway::PointerScope};
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant, browser};

const FIELD: &str = "outbound_gateway";

struct Scene {
    installation: Installation,
    acme: Tenant,
    admin: Browser,
    path: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let path = page_of(&acme, "outbound-mail-gateway");
    Scene { installation, acme, admin, path }
}

#[sqlx::test]
async fn an_administrator_sets_the_gateway_of_all_users_and_deletes_it_again(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    for user in ["ann", "bob"] {
        installation.account(&acme, &format!("{user}@acme.example"), &[]).await;
    }
    relay(&installation, "relay-1", i64::MAX, "0 seconds").await;
    relay(&installation, "relay-2", i64::MAX, "0 seconds").await;

    let page = admin.submit(&path, &[(FIELD, " Archive.EXAMPLE.com. ")]).await;
    assert_eq!(page.field(FIELD), "archive.example.com", "{}", page.html);
    assert!(
        page.text().contains("Saved. 2 accounts now send through archive.example.com port 25. Live on 2 of 2 relays."),
        "{}",
        page.text()
    );

    let page = admin.submit(&path, &[(FIELD, "")]).await;
    assert_eq!(page.field(FIELD), "");
    assert!(
        page.text().contains("No gateway. 2 accounts now send directly to recipients' servers. Live on 2 of 2 relays."),
        "{}",
        page.text()
    );
    let actors: Vec<String> = sqlx::query_scalar("select actor from audit_entry where action like 'gateway.%'")
        .fetch_all(&installation.owner)
        .await
        .unwrap();
    assert_eq!(actors, ["administrator@acme.example"; 2]);
}

#[sqlx::test]
async fn a_mistyped_address_is_kept_in_the_form_with_the_reason(db: PgPool) {
    let Scene { installation, admin, path, .. } = scene(db).await;
    let before = state(&installation).await;

    for (typed, words) in [
        ("mail_host", "“mail_host” is not a host name."),
        ("smtp://mail.example.com", "looks like a web address"),
        ("mail.example.com:99999", "“99999” is not a port."),
        ("ann@example.com", "is a mail address"),
        ("\"><script>alert(1)</script>", "“\"><script>alert(1)"),
        ("a\0b.example", "is not a host name"),
    ] {
        let page = admin.submit(&path, &[(FIELD, typed)]).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed}");
        assert_eq!(page.field(FIELD), typed);
        assert_eq!(page.text().matches(words).count(), 2, "in the summary and beside the field: {}", page.text());
        for part in ["<title>Error: Outbound Mail Gateway", r##"href="#outbound_gateway""##, r#"aria-invalid="true""#] {
            assert!(page.html.contains(part), "{part} in {}", page.html);
        }
        assert!(!page.html.contains("<script>alert"), "{}", page.html);
    }
    assert_eq!(state(&installation).await, before, "nothing was changed");
}

#[sqlx::test]
async fn an_address_inside_the_platform_is_refused_unless_the_operator_opened_the_network(db: PgPool) {
    let Scene { installation, admin, path, .. } = scene(db).await;
    for (typed, words) in [
        ("127.0.0.1:2525", "is an address of this machine itself"),
        ("10.1.2.3", "is a private address"),
        ("[::ffff:192.168.0.1]:25", "is a private address"),
        ("169.254.169.254", "can never be a gateway"),
    ] {
        let page = admin.submit(&path, &[(FIELD, typed)]).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed}");
        assert!(page.text().contains(words), "{}", page.text());
    }

    let mut settings = browser::settings();
    settings.allowed_networks.networks = vec!["10.0.0.0/8".parse().unwrap()];
    settings.allowed_networks.listeners = vec!["127.0.0.1:2525".parse().unwrap()];
    let pages = Pages::with(installation.web_store().await, settings).await;
    let admin = {
        let browser = pages.browser();
        browser.sign_in("administrator@acme.example", browser::PASSWORD).await;
        browser
    };
    for (typed, status) in [("10.1.2.3", 200), ("127.0.0.1:2525", 200), ("127.0.0.1:2526", 422), ("192.168.0.1", 422)] {
        assert_eq!(admin.submit(&path, &[(FIELD, typed)]).await.status, status, "{typed}");
    }
}

#[sqlx::test]
async fn saving_what_is_set_already_changes_nothing_and_says_so(db: PgPool) {
    let Scene { installation, admin, path, .. } = scene(db).await;
    let page = admin.submit(&path, &[(FIELD, "")]).await;
    assert!(page.text().contains("Nothing changed. There is no gateway to delete."), "{}", page.text());
    admin.submit(&path, &[(FIELD, "mail.example.com")]).await;
    let before = state(&installation).await;

    let page = admin.submit(&path, &[(FIELD, "MAIL.example.com:25")]).await;

    assert!(
        page.text().contains("Nothing changed. The gateway is mail.example.com port 25 already."),
        "{}",
        page.text()
    );
    assert_eq!(state(&installation).await, before);
}

#[sqlx::test]
async fn the_status_line_says_which_relays_are_behind(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    installation.account(&acme, "ann@acme.example", &[]).await;

    let page = admin.submit(&path, &[(FIELD, "a.example.com")]).await;
    assert!(
        page.text().contains("Saved. 1 account now sends through a.example.com port 25. No relay is running"),
        "{}",
        page.text()
    );

    relay(&installation, "relay-1", i64::MAX, "0 seconds").await;
    relay(&installation, "vanished", 0, "61 seconds").await;
    let page = admin.submit(&path, &[(FIELD, "b.example.com")]).await;
    assert!(page.text().contains("Live on 1 of 2 relays. vanished has not been heard from since "), "{}", page.text());
    assert!(page.text().contains(" UTC. If it still runs, mail that it takes leaves as before."), "{}", page.text());

    relay(&installation, "slow", 0, "0 seconds").await;
    let page = admin.submit(&path, &[(FIELD, "c.example.com")]).await;
    assert!(page.text().contains("Live on 1 of 3 relays."), "{}", page.text());
    assert!(page.text().contains(" slow is behind since "), "{}", page.text());
    assert!(page.text().contains("load this page again to see"), "{}", page.text());
    sqlx::query("update relay set confirmed_revision = 1000000").execute(&installation.owner).await.unwrap();
    let page = admin.get(&page.path).await;
    assert!(page.text().contains("Live on 3 of 3 relays."), "{}", page.text());

    sqlx::query("update relay set signed_off_at = now() where name <> 'relay-1'")
        .execute(&installation.owner)
        .await
        .unwrap();
    assert!(admin.get(&page.path).await.text().contains("Live on 1 of 1 relays."));
}

#[sqlx::test]
async fn the_status_line_says_when_each_relay_confirmed_the_save(db: PgPool) {
    let Scene { installation, admin, path, .. } = scene(db).await;
    relay(&installation, "relay-1", i64::MAX, "0 seconds").await;
    let saved = admin.submit(&path, &[(FIELD, "a.example.com")]).await;
    // One before the save, the first that has it, and a later one.
    sqlx::query(
        "insert into relay_confirmation (relay_id, revision, confirmed_at)
         select relay.id, change.revision + more.revisions, change.committed_at + more.later
         from relay, change, (values (-1, interval '-1 second'), (1, interval '0.25 seconds'), (2, interval '9 seconds'))
                             as more (revisions, later)
         where change.id::text = $1",
    )
    .bind(saved.path.split_once("change=").unwrap().1)
    .execute(&installation.owner)
    .await
    .unwrap();
    let text = admin.get(&saved.path).await.text();
    assert!(text.contains("Live on 1 of 1 relays."), "{text}");
    assert!(text.contains("relay-1 confirmed ") && text.contains(" UTC, 0.25 s after the save"), "{text}");
}

#[sqlx::test]
async fn a_save_waits_a_moment_for_the_relays_to_confirm(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    relay(&installation, "relay-1", 0, "0 seconds").await;
    let confirmed = Cell::new(false);
    let looks = async {
        looked_at_relays(&installation, || "select 1").await;
        looked_at_relays(&installation, || {
            confirmed.set(true);
            "update relay set confirmed_revision = (select revision from installation)"
        })
        .await;
    };
    let saving = async {
        let request = admin.request(Method::POST, &path).form(&[(FIELD, "a.example.com")]);
        let page = admin.once(request, &path).await;
        assert!(confirmed.get(), "the save was answered before the relay had confirmed it: {}", page.text());
        page
    };

    let ((), saved) = tokio::join!(looks, saving);
    let page = admin.get(saved.location()).await;

    assert!(page.text().contains("Live on 1 of 1 relays."), "{}", page.text());
}

/// Waits until a page wants to know how far the relays are, does this before it is told, and lets it.
async fn looked_at_relays(installation: &Installation, meanwhile: impl FnOnce() -> &'static str) {
    let mut transaction = installation.owner.begin().await.unwrap();
    sqlx::query("lock table relay in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let wants_to_know = "select exists (select from pg_locks where not granted and relation = 'relay'::regclass
                         and database = (select oid from pg_database where datname = current_database()))";
    while !sqlx::query_scalar::<_, bool>(wants_to_know).fetch_one(&mut *transaction).await.unwrap() {}
    sqlx::query(meanwhile()).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

#[sqlx::test]
async fn what_was_saved_is_never_reported_as_a_failure(db: PgPool) {
    let Scene { installation, admin, path, .. } = scene(db).await;
    sqlx::query("alter table relay rename to lost").execute(&installation.owner).await.unwrap();
    let request = admin.request(Method::POST, &path).form(&[(FIELD, "a.example.com")]);
    let page = admin.once(request, &path).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text());
    sqlx::query("alter table lost rename to relay").execute(&installation.owner).await.unwrap();
    assert_eq!(admin.get(&path).await.field(FIELD), "a.example.com");
}

#[sqlx::test]
async fn a_status_line_never_says_what_is_no_longer_so(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    let saved = admin.submit(&path, &[(FIELD, "a.example.com")]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "b.example.com").await;
    let page = admin.get(&saved.path).await;
    assert!(page.text().contains("Saved. It was changed again since"), "{}", page.text());

    sqlx::query("update change set committed_at = now() - interval '11 minutes'")
        .execute(&installation.owner)
        .await
        .unwrap();
    assert!(!admin.get(&saved.path).await.html.contains("role=\"status\""), "an old bookmark reports nothing");
    assert_eq!(admin.get(&format!("{path}?change=nonsense")).await.status, StatusCode::OK);
}

#[sqlx::test]
async fn who_follows_the_gateway_stands_beside_it(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    assert!(admin.get(&path).await.text().contains("There are no mail accounts yet."));
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    installation.account(&acme, "eve@acme.example", &[]).await;
    outgate::store::domain::add(&installation.owner, acme.id, &"bücher.example".parse().unwrap()).await.unwrap();
    installation.account(&acme, "cy@bücher.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp.example.com").await;
    let domain = PointerScope::Domain("bücher.example".parse().unwrap());
    installation.set_gateway(&acme, &domain, "192.0.2.25").await;
    sqlx::query("update mail_account set status = 'suspended' where user_id like 'eve%'")
        .execute(&installation.owner)
        .await
        .unwrap();
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;

    let text = admin.get(&path).await.text();

    for line in [
        "1 account uses this gateway",
        "1 account has its own",
        "1 account follows its domain's",
        "bücher.example has its own: 192.0.2.25 port 25",
        "1 suspended account sends nothing",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[sqlx::test]
async fn known_gateways_are_offered(db: PgPool) {
    let Scene { admin, path, .. } = scene(db).await;
    admin.submit(&path, &[(FIELD, "a.example.com:587")]).await;
    let page = admin.submit(&path, &[(FIELD, "[2001:db8::7]:2525")]).await;
    assert_eq!(page.html.matches("?gateway=").count(), 1, "not the present one: {}", page.html);
    let chosen = admin.get(&page.link("a.example.com:587")).await;
    assert_eq!(chosen.field(FIELD), "a.example.com:587", "one click puts it into the field");
    let foreign = admin.get(&format!("{path}?gateway=evil.example.com")).await;
    assert_eq!(foreign.field(FIELD), "[2001:db8::7]:2525", "a link cannot bring an address of its own");
    assert!(page.text().contains("through 2001:db8::7 port 2525"), "{}", page.text());
}

/// A relay that has confirmed a revision and was last heard from so long ago.
async fn relay(installation: &Installation, name: &str, confirmed: i64, ago: &str) {
    sqlx::query(
        "insert into relay (id, name, started_at, last_seen_at, confirmed_revision)
         values (gen_random_uuid(), $1, now(), now() - $2::text::interval, $3)",
    )
    .bind(name)
    .bind(ago)
    .bind(confirmed)
    .execute(&installation.owner)
    .await
    .unwrap();
}

/// The revision and how many gateways there are: what any change would change.
async fn state(installation: &Installation) -> (i64, i64) {
    sqlx::query_as("select revision, (select count(*) from gateway) from installation")
        .fetch_one(&installation.owner)
        .await
        .unwrap()
}
