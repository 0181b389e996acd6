//! Relay credentials from the store to the wire: made, limited, revoked, used while the store is away, and what
//! is written down about them.

use std::{net::Ipv4Addr, path::Path, process::Stdio, time::Duration};

use outgate::{
    policy::{
        relay_credential::{Limits, RelayCredential, SecretHash},
        sign_in_limit::{MOST_OF_NAME, WINDOW},
    },
    relay::{sign_in_records, submission::sign_in::SignIns},
    store::{self, OrganizationTransaction, gateway::PointerScope, relay_credential::Edited, undo::Undo},
};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::{
    Certificate, Gateway, Installation, SmtpClient, Tenant,
    postfix::Postfix,
    store_door::StoreDoor,
    world::{World, until_live},
};

/// A relay that encrypts and trusts nobody by address, and the organization acme with a gateway.
async fn scene(owner: PgPool, certificate: &Certificate) -> (Installation, Tenant, Gateway, World) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let world = encrypted_world(&installation, certificate, installation.relay_pool().await).await;
    (installation, acme, gateway, world)
}

async fn encrypted_world(installation: &Installation, certificate: &Certificate, pool: PgPool) -> World {
    let tls = Some(certificate.server());
    World::with_settings(installation, pool, |settings| {
        settings.tls = tls;
        settings.trusted_networks = Vec::new();
    })
    .await
}

async fn transaction(installation: &Installation, tenant: &Tenant) -> OrganizationTransaction {
    OrganizationTransaction::begin(&installation.owner, tenant.id).await.unwrap()
}

#[sqlx::test]
async fn a_credential_counts_as_soon_as_its_change_is_live(owner: PgPool) {
    let certificate = Certificate::new();
    let (installation, acme, gateway, world) = scene(owner, &certificate).await;
    let tls = certificate.client();
    let (id, user_name, secret) = installation.credential(&acme, Limits::default()).await;
    until_live(&installation, installation.latest_revision().await).await;

    let mut client = SmtpClient::encrypted(world.submission, &tls).await;
    assert_eq!(client.sign_in(&user_name, &secret).await, "235 2.7.0 Signed in\r\n");
    assert!(client.submit("ann@acme.example", "bob@far.example", "x").await.starts_with("250 "));
    assert_eq!(gateway.received(1).await.len(), 1);

    // A limit holds on connections that are open.
    let present = store::relay_credential::find(&mut *transaction(&installation, &acme).await, acme.id, id).await;
    let mut terms = present.unwrap().unwrap().terms;
    let seen = terms.seen();
    terms.limits.addresses.push("printer@acme.example".parse().unwrap());
    let edited =
        store::relay_credential::set_terms(transaction(&installation, &acme).await, id, &terms, &seen, "operator")
            .await;
    let Edited::Changed(limited) = edited.unwrap() else { panic!("it was not limited") };
    until_live(&installation, limited.revision).await;
    assert!(client.say("MAIL FROM:<ann@acme.example>").await.starts_with("550 5.7.1 This relay credential may not "));

    let revoked = store::relay_credential::revoke(transaction(&installation, &acme).await, id, "operator").await;
    let Edited::Changed(revoked) = revoked.unwrap() else { panic!("it was not revoked") };
    until_live(&installation, revoked.revision).await;
    assert!(client.say("MAIL FROM:<printer@acme.example>").await.starts_with("421 4.7.0 "));
    let mut client = SmtpClient::encrypted(world.submission, &tls).await;
    assert!(client.sign_in(&user_name, &secret).await.starts_with("535 5.7.8 "));

    // Both changes come back, the later first.
    for change in [revoked.id, limited.id] {
        let undone = store::undo::undo(transaction(&installation, &acme).await, change, "operator").await.unwrap();
        let Undo::Done(undone) = undone else { panic!("{undone:?}") };
        until_live(&installation, undone.revision).await;
    }
    let mut client = SmtpClient::encrypted(world.submission, &tls).await;
    assert_eq!(client.sign_in(&user_name, &secret).await, "235 2.7.0 Signed in\r\n");
    assert!(client.submit("ann@acme.example", "bob@far.example", "x").await.starts_with("250 "));

    // What undoes the making revokes.
    let made = outgate::mail::id::ChangeId(id.0);
    let undone = store::undo::undo(transaction(&installation, &acme).await, made, "operator").await.unwrap();
    let Undo::Done(undone) = undone else { panic!("{undone:?}") };
    until_live(&installation, undone.revision).await;
    assert!(client.say("MAIL FROM:<ann@acme.example>").await.starts_with("421 4.7.0 "));
    world.stop().await;
}

#[sqlx::test]
async fn a_dot_between_bare_line_feeds_that_are_made_whole_ends_no_message_at_the_gateway(owner: PgPool) {
    let certificate = Certificate::new();
    let (installation, acme, gateway, world) = scene(owner, &certificate).await;
    let limits = Limits { allow_bare_line_feeds: true, ..Limits::default() };
    let (_, user_name, secret) = installation.credential(&acme, limits).await;
    until_live(&installation, installation.latest_revision().await).await;
    let mut client = SmtpClient::encrypted(world.submission, &certificate.client()).await;
    assert_eq!(client.sign_in(&user_name, &secret).await, "235 2.7.0 Signed in\r\n");
    // A small one, and one that stands in several buffers.
    for (place, padding) in [String::new(), "some words of a line\n".repeat(7000)].into_iter().enumerate() {
        for command in ["MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@far.example>", "DATA"] {
            assert!(client.say(command).await.starts_with(['2', '3']));
        }
        let content = format!("Subject: x\n\n{padding}first\n.\nMAIL FROM:<eve@acme.example>\n..\nlast\n");
        client.send(format!("{}\r\n.\r\n", content.trim_end()).as_bytes()).await;
        assert!(client.reply().await.starts_with("250 "));
        assert!(client.say("NOOP").await.starts_with("250 "));
        let received = gateway.received(place + 1).await;
        assert_eq!((received.len(), &received[place].reverse_path[..]), (place + 1, "ann@acme.example"));
        let arrived = String::from_utf8_lossy(&received[place].content);
        assert!(arrived.ends_with(&content.replace('\n', "\r\n")), "{place}: {}", &arrived[arrived.len() - 200..]);
    }
    world.stop().await;
}

#[sqlx::test]
async fn one_signs_in_and_sends_while_the_store_is_away(owner: PgPool) {
    let certificate = Certificate::new();
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let (_, user_name, secret) = installation.credential(&acme, Limits::default()).await;
    let door = StoreDoor::before(&owner);
    let world = encrypted_world(&installation, &certificate, door.pool_as(store::roles::RELAY)).await;

    let submit = async || {
        let mut client = SmtpClient::encrypted(world.submission, &certificate.client()).await;
        assert_eq!(client.sign_in(&user_name, &secret).await, "235 2.7.0 Signed in\r\n");
        client.submit("ann@acme.example", "bob@far.example", "x").await
    };
    assert!(submit().await.starts_with("250 "));

    door.shut().await;

    assert!(submit().await.starts_with("250 "));
    assert_eq!(gateway.received(2).await.len(), 2);
}

#[sqlx::test]
async fn the_last_use_of_a_credential_is_written_in_a_batch(owner: PgPool) {
    let installation = Installation::on(owner);
    let (acme, pool) = (installation.organization("acme").await, installation.relay_pool().await);
    let (id, user_name, secret) = installation.credential(&acme, Limits::default()).await;
    let (other, ..) = installation.credential(&acme, Limits::default()).await;
    let secret = SecretHash::of(&secret);
    let credential = RelayCredential { organization: acme.id, id, user_name, secret, limits: Limits::default() };
    let sign_ins = SignIns::default();
    let first = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    for seconds in [0, 5, 10] {
        sign_ins.note_use(&credential, Ipv4Addr::LOCALHOST.into(), first + Duration::from_secs(seconds));
    }

    sign_in_records::write_uses(&pool, &sign_ins).await.unwrap();

    let mut transaction = transaction(&installation, &acme).await;
    let found = store::relay_credential::find(&mut transaction, acme.id, id).await.unwrap().unwrap();
    assert_eq!(found.last_used_at, Some(first + Duration::from_secs(10)));
    assert_eq!(found.last_used_from.as_deref(), Some("127.0.0.1"));
    let unused = store::relay_credential::find(&mut transaction, acme.id, other).await.unwrap().unwrap();
    assert_eq!(unused.last_used_at, None);
    assert!(sign_ins.take_uses().is_empty(), "each use is written once");
}

#[sqlx::test]
async fn relays_count_failed_sign_ins_together(owner: PgPool) {
    let pool = Installation::on(owner.clone()).relay_pool().await;
    let (one, two) = (SignIns::default(), SignIns::default());
    let (client, now) = (Ipv4Addr::new(192, 0, 2, 9).into(), OffsetDateTime::now_utc());
    for number in 0..MOST_OF_NAME {
        let relay = if number % 2 == 0 { &one } else { &two };
        relay.note_failure(client, "acme-server", now);
    }
    assert!(one.permit(client, "acme-server", now) && two.permit(client, "acme-server", now));

    sign_in_records::share_failures(&pool, &one).await.unwrap();
    sign_in_records::share_failures(&pool, &two).await.unwrap();
    sign_in_records::share_failures(&pool, &one).await.unwrap();

    for relay in [&one, &two] {
        assert!(!relay.permit(client, "acme-server", now));
        assert!(relay.permit(client, "acme-printer", now));
        assert!(relay.permit(client, "acme-server", now + WINDOW + Duration::from_secs(60)));
    }
    let written: String =
        sqlx::query_scalar("select string_agg(who, ' ') from sign_in_failure").fetch_one(&owner).await.unwrap();
    assert!(!written.contains("acme"), "people type their password where the user name goes: {written}");
    sqlx::query("update sign_in_failure set since = now() - interval '1 hour'").execute(&owner).await.unwrap();
    sign_in_records::share_failures(&pool, &one).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from sign_in_failure").fetch_one(&owner).await.unwrap();
    assert_eq!(left, 0);
}

/// Runs a client; whether it was content, and what it said.
async fn run(mut command: Command, input: &str) -> (bool, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let ended = child.wait_with_output().await.unwrap();
    let said = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (ended.status.success(), said)
}

fn curl(url: &str, certificate: &Path, user: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-v", "--max-time", "20", "--mail-from", "ann@acme.example", "--upload-file", "-"]);
    command
        .args(["--mail-rcpt", "bob@far.example", "--ssl-reqd", "--user", user, "--cacert"])
        .arg(certificate)
        .arg(url);
    command
}

#[sqlx::test]
async fn curl_signs_in_over_starttls_and_where_tls_comes_first(owner: PgPool) {
    let certificate = Certificate::new();
    let (installation, acme, gateway, world) = scene(owner, &certificate).await;
    let (_, user_name, secret) = installation.credential(&acme, Limits::default()).await;
    until_live(&installation, installation.latest_revision().await).await;
    let user = format!("{user_name}:{secret}");
    let message = "From: ann@acme.example\r\nSubject: by curl\r\n\r\nHello.\r\n";

    for url in [format!("smtp://{}", world.submission), format!("smtps://{}", world.encrypted.unwrap())] {
        let (content, said) = run(curl(&url, &certificate.file(), &user), message).await;
        assert!(content, "{said}");
        assert!(said.contains("< 250 2.0.0 kept as 4711"), "the gateway's own words: {said}");
        let (content, said) = run(curl(&url, &certificate.file(), &format!("{user_name}:wrong")), message).await;
        assert!(!content && said.contains("< 535 5.7.8 "), "{said}");
    }
    let received = gateway.received(2).await;
    assert!(received.iter().all(|message| String::from_utf8_lossy(&message.content).contains(" with ESMTPSA id ")));
    world.stop().await;
}

#[sqlx::test]
async fn swaks_signs_in_by_either_mechanism(owner: PgPool) {
    let certificate = Certificate::new();
    let (installation, acme, gateway, world) = scene(owner, &certificate).await;
    let (_, user_name, secret) = installation.credential(&acme, Limits::default()).await;
    until_live(&installation, installation.latest_revision().await).await;
    for (mechanism, port, way) in
        [("PLAIN", world.submission.port(), "--tls"), ("LOGIN", world.encrypted.unwrap().port(), "--tls-on-connect")]
    {
        let mut command = Command::new("swaks");
        command.args(["--server", "127.0.0.1", "--port", &port.to_string(), way, "--auth", mechanism]);
        command.args(["--auth-user", &user_name, "--auth-password", &secret, "--ehlo", "client.example"]);
        command.args(["--from", "ann@acme.example", "--to", "bob@far.example", "--data", "-"]);
        let (content, dialog) = run(command, "Subject: by swaks\n\nHello.\n").await;
        assert!(content && dialog.contains("235 2.7.0 Signed in"), "{dialog}");
    }
    assert_eq!(gateway.received(2).await.len(), 2);
    world.stop().await;
}

/// The settings of the recipe in `docs/connect.md`, for this relay and this credential.
fn recipe(world: &World, certificate: &Certificate, folder: &Path, user: &str) -> Vec<String> {
    let text = include_str!("../../../docs/connect.md");
    let begins = text.find("    relayhost = ").expect("the recipe for Postfix");
    let lines = text[begins..].lines().take_while(|line| line.starts_with("    ")).map(str::trim);
    let passwords = folder.join("sasl_passwd");
    std::fs::write(&passwords, format!("[127.0.0.1]:{} {user}\n", world.submission.port())).unwrap();
    let replaced = lines.map(|line| {
        line.replace("[relay.example.com]:587", &format!("[127.0.0.1]:{}", world.submission.port()))
            .replace("hash:/etc/postfix/sasl_passwd", &format!("texthash:{}", passwords.display()))
            .replace("/etc/ssl/certs/ca-certificates.crt", &certificate.file().display().to_string())
            .replace("= secure", "= secure\nsmtp_tls_secure_cert_match = relay.example")
    });
    replaced.collect()
}

#[sqlx::test]
async fn postfix_submits_by_the_recipe_signed_in_over_verified_tls(owner: PgPool) {
    let certificate = Certificate::new();
    let (installation, acme, gateway, world) = scene(owner, &certificate).await;
    let (_, user_name, secret) = installation.credential(&acme, Limits::default()).await;
    until_live(&installation, installation.latest_revision().await).await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let settings = recipe(&world, &certificate, folder.path(), &format!("{user_name}:{secret}"));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    assert!(settings.len() >= 5, "{settings:?}");
    let postfix = Postfix::relaying_to(world.submission, &settings).await;

    let mut smtp = SmtpClient::greeted(postfix.address).await;
    let reply = smtp.submit("ann@acme.example", "bob@far.example", "Subject: by Postfix\r\n\r\nHello.").await;

    assert!(reply.starts_with("250 "), "{reply}");
    let received = gateway.received(1).await.remove(0);
    let content = String::from_utf8(received.content).unwrap();
    assert!(
        content.starts_with("Received: from archive.example ") && content.contains(" with ESMTPSA id "),
        "{content}"
    );
    world.stop().await;
}
