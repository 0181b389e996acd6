//! Exim as a gateway, a mail server that others have written, and not Postfix. `bin/test` unpacks it beside the tests.

use outgate::{
    policy::{facts::TlsMode, gateway_settings::GatewaySettings},
    relay::secret_keys::SecretKeys,
    secret::key_file,
    store::gateway::PointerScope,
};
use sqlx::PgPool;

use super::{postfix::sign_in, verification::verify_program};
use crate::support::{
    Gateway, Installation, SmtpClient,
    exim::Exim,
    world::{World, until_live},
};

async fn submit(world: &World, content: &str) -> String {
    let mut smtp = SmtpClient::greeted(world.submission).await;
    smtp.submit("ann@acme.example", "bob@elsewhere.example", content).await
}

#[sqlx::test]
async fn a_message_goes_through_exim_untouched_but_for_the_trace(owner: PgPool) {
    let behind = Gateway::start().await;
    let exim = Exim::relaying_to(behind.address, "message_size_limit = 20000").await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &exim.address.to_string()).await;
    let world = World::start(&installation).await;

    let content = "DKIM-Signature: v=1;\tb=AbC+/=\r\nFrom: \"Adams, Ann\" <ann@acme.example>\r\nSubject:   blanks  \r\n\
                   Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@acme.example>\r\n\r\n..a dot\r\nlast line  ";
    let reply = submit(&world, content).await;

    assert!(reply.starts_with("250 OK id="), "Exim's own words: {reply}");
    let received = behind.received(1).await.remove(0);
    assert_eq!(received.recipients, ["bob@elsewhere.example"]);
    let arrived = String::from_utf8(received.content).unwrap();
    let sent = format!("{}\r\n", content.replace("\r\n..", "\r\n."));
    let trace = arrived.strip_suffix(&sent).unwrap_or_else(|| panic!("{arrived}"));
    let fields: Vec<&str> = trace.lines().filter(|line| !line.starts_with(['\t', ' '])).collect();
    assert_eq!(fields.len(), 2, "{trace}");
    assert!(fields[0].starts_with("Received: from [127.0.0.1] (helo=relay.test)"), "Exim's: {trace}");
    assert!(fields[1].starts_with("Received: from client.example ([127.0.0.1])"), "ours: {trace}");

    // What is larger than it says that it takes is refused at once.
    let reply = submit(&world, &format!("Subject: large\r\n\r\n{}", "x\r\n".repeat(10_000))).await;
    let said = format!("552 5.3.4 gateway {}: it takes messages of at most 20.00 kB", exim.address);
    assert!(reply.starts_with(&said), "{reply}");
    let waiting: i64 = sqlx::query_scalar("select count(*) from queued_message").fetch_one(&owner).await.unwrap();
    assert_eq!(waiting, 0);
    world.stop().await;
}

/// A certificate for it and its key, in PEM, and the certificate's bytes.
fn certificate() -> (String, String, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["router.example".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().to_vec())
}

#[sqlx::test]
async fn an_exim_that_takes_mail_over_tls_only_gets_it_so(owner: PgPool) {
    let behind = Gateway::start().await;
    let (certificate, key, _) = certificate();
    let exim = Exim::relaying_over_tls(behind.address, (&certificate, &key)).await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &exim.address.to_string()).await;
    let world = World::start(&installation).await;

    let reply = submit(&world, "Subject: x\r\n\r\nHello.").await;

    assert!(reply.starts_with("250 OK id="), "{reply}");
    let content = String::from_utf8(behind.received(1).await.remove(0).content).unwrap();
    let trace = content.split("Received: from client.example").next().unwrap();
    assert!(trace.contains("esmtps") && trace.contains("TLS1.3"), "Exim's own field: {trace}");
    world.stop().await;

    // Exim itself means it: nothing is taken in clear.
    let mut in_clear = SmtpClient::connect(exim.address).await;
    in_clear.reply().await;
    in_clear.say("EHLO client.example").await;
    assert_eq!(in_clear.say("MAIL FROM:<ann@acme.example>").await, "530 5.7.0 TLS first\r\n");
}

#[sqlx::test]
async fn an_exim_that_wants_a_sign_in_gets_the_right_password_and_with_a_wrong_one_mail_waits(owner: PgPool) {
    let behind = Gateway::start().await;
    let (certificate, key, der) = certificate();
    let exim = Exim::relaying_for(("acme", "right"), behind.address, (&certificate, &key)).await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &exim.address.to_string()).await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let key_file = folder.path().join("secret-key");
    key_file::create(&key_file).unwrap();
    let relay = installation.relay_pool().await;
    SecretKeys::from_file(Some(key_file.clone())).unwrap().seal_anew(&relay).await.unwrap();
    sign_in(&installation, &acme, &der, "wrong").await;
    let world = World::with_settings(&installation, relay, |settings| settings.secret_key_file = Some(key_file)).await;

    let reply = submit(&world, "Subject: x\r\n\r\nHello.").await;

    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let waiting: Vec<String> =
        sqlx::query_scalar("select last_reply from queued_message").fetch_all(&owner).await.unwrap();
    let said = format!("gateway {} said: 535 ", exim.address);
    assert!(waiting.len() == 1 && waiting[0].starts_with(&said), "{waiting:?}");
    assert!(behind.so_far().is_empty());

    sign_in(&installation, &acme, &der, "right").await;
    until_live(&installation, installation.latest_revision().await).await;
    let reply = submit(&world, "Subject: y\r\n\r\nHello.").await;
    assert!(reply.starts_with("250 OK id="), "{reply}");
    for received in behind.received(2).await {
        let content = String::from_utf8(received.content).unwrap();
        assert!(content.contains("esmtpsa"), "signed in, Exim says: {content}");
    }
    world.stop().await;
}

#[sqlx::test]
async fn mail_for_an_exim_that_does_not_relay_for_us_waits(owner: PgPool) {
    let behind = Gateway::start().await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    let exim = Exim::relaying_to(behind.address, "acl_smtp_rcpt = deny message = relay not permitted").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &exim.address.to_string()).await;
    let world = World::start(&installation).await;

    let reply = submit(&world, "Subject: x\r\n\r\nHello.").await;

    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let waiting: Vec<(Option<String>, String)> =
        sqlx::query_as("select sender, last_reply from queued_message").fetch_all(&owner).await.unwrap();
    let said = format!("gateway {} said: 550 relay not permitted", exim.address);
    assert_eq!(waiting, [(Some("ann@acme.example".to_owned()), said)]);
    assert!(behind.so_far().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn an_exim_set_up_right_is_verified_and_one_set_up_wrong_gets_its_sentence() {
    let behind = Gateway::start().await;
    for (settings, words) in [
        ("", ""),
        ("acl_smtp_rcpt = deny message = relay not permitted", "let the server relay for 127.0.0.1"),
        ("acl_smtp_mail = deny message = 5.7.1 not you", "It refuses the sender postmaster@acme.example"),
        ("acl_smtp_connect = drop message = go away", "It refuses connections from 127.0.0.1"),
        ("acl_smtp_helo = deny message = who is that", "It refuses our name relay.example"),
    ] {
        let exim = Exim::relaying_to(behind.address, settings).await;
        let found = verify_program(exim.address, TlsMode::WhenOffered, GatewaySettings::default()).await;
        assert_eq!(found.accepts, words.is_empty(), "{settings}: {}", found.all());
        assert!(words.is_empty() || found.last().1.contains(words), "{settings}: {}", found.all());
    }
    assert!(behind.so_far().is_empty());
}
