//! Among mail servers that others have written: Postfix as gateway, and as client.
//! `bin/test` unpacks it beside the tests; it is never installed.

use std::{collections::HashSet, net::SocketAddr};

use outgate::{
    mail::id::{ChangeId, GatewayId},
    policy::{
        facts::TlsMode,
        gateway_record::GatewayRecord,
        gateway_settings::{GatewaySettings, Trust, secret_context},
    },
    relay::secret_keys::SecretKeys,
    secret::{Password, key_file},
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        gateway_record::{self, Saved},
    },
};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tokio::process::Command;

use super::verification::verify_program;
use crate::support::{
    Gateway, Installation, SmtpClient, Tenant,
    log::Log,
    postfix::{Postfix, program},
    world::{World, until_live},
};

/// Signed, with everything that servers like to tidy up.
fn signed_message() -> String {
    [
        "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=acme.example; s=mail;",
        "\tb=AbCdEf0123456789+/=",
        "Received: from  desk ([192.0.2.1]) by mail.acme.example; Mon, 23 Nov 2026 10:00:00 +0000",
        "From: \"Adams, Ann\" <ann@acme.example>",
        "To:bob@elsewhere.example,",
        "   undisclosed:;",
        "Subject:   blanks   and\ttabs   ",
        "Date: Mon, 23 Nov 2026 10:00:00 +0000",
        "Message-ID: <1@acme.example>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        ".a dot",
        "..two",
        "",
        "blanks at the end   ",
        "Grüße",
        &"x".repeat(998),
        "From here on",
        "",
        "",
        "",
    ]
    .join("\r\n")
}

/// The organization acme, whose mail leaves through this gateway.
async fn world_through(installation: &Installation, gateway: SocketAddr) -> World {
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.to_string()).await;
    World::start(installation).await
}

async fn submit(world: &World, content: &str) -> String {
    let stuffed = content.strip_suffix("\r\n").unwrap_or(content).replace("\r\n.", "\r\n..");
    let mut smtp = SmtpClient::greeted(world.submission).await;
    smtp.submit("ann@acme.example", "bob@elsewhere.example", &stuffed).await
}

/// Who waits in the queue and why: sender (none: a notification), state, the last answer.
async fn waiting(owner: &PgPool) -> Vec<(Option<String>, String, Option<String>)> {
    sqlx::query_as("select sender, state, last_reply from queued_message").fetch_all(owner).await.unwrap()
}

#[sqlx::test]
async fn a_message_goes_through_postfix_untouched_but_for_the_trace(owner: PgPool) {
    let behind = Gateway::start().await;
    let postfix = Postfix::relaying_to(behind.address, &[]).await;
    let world = world_through(&Installation::on(owner), postfix.address).await;

    let reply = submit(&world, &signed_message()).await;

    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "Postfix's own words: {reply}");
    let received = behind.received(1).await.remove(0);
    assert_eq!(
        (received.reverse_path.as_str(), &received.recipients[..]),
        ("ann@acme.example", &["bob@elsewhere.example".to_owned()][..])
    );
    let content = String::from_utf8(received.content).unwrap();
    let trace = content.strip_suffix(&signed_message()).unwrap_or_else(|| panic!("{content}"));
    let fields: Vec<&str> = trace.lines().filter(|line| !line.starts_with(['\t', ' '])).collect();
    assert_eq!(fields.len(), 2, "{trace}");
    assert!(fields[0].starts_with("Received: from relay.test "), "Postfix's: {trace}");
    assert!(trace.contains("\tby archive.example (Postfix) with ESMTP id "), "{trace}");
    assert!(fields[1].starts_with("Received: from client.example ([127.0.0.1])"), "ours: {trace}");
    world.stop().await;
}

#[sqlx::test]
async fn a_message_that_is_too_large_for_postfix_is_refused_in_words(owner: PgPool) {
    let behind = Gateway::start().await;
    let postfix = Postfix::relaying_to(behind.address, &["message_size_limit = 20000"]).await;
    let world = world_through(&Installation::on(owner.clone()), postfix.address).await;

    let reply = submit(&world, &format!("Subject: large\r\n\r\n{}", "x\r\n".repeat(10_000))).await;

    let said =
        format!("552 5.3.4 gateway {}: it takes messages of at most 20.00 kB, and this one has 30.", postfix.address);
    assert!(reply.starts_with(&said), "{reply}");
    assert_eq!(waiting(&owner).await, []);
    assert!(submit(&world, "Subject: small\r\n\r\nHello.\r\n").await.starts_with("250 2.0.0 Ok: queued as "));
    assert_eq!(behind.received(1).await.len(), 1);
    world.stop().await;
}

#[sqlx::test]
async fn a_postfix_that_takes_mail_over_tls_only_gets_it_so(owner: PgPool) {
    let behind = Gateway::start().await;
    let certified = rcgen::generate_simple_self_signed(vec!["archive.example".to_owned()]).unwrap();
    let chain_file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    std::fs::write(chain_file.path(), certified.signing_key.serialize_pem() + &certified.cert.pem()).unwrap();
    let chain = format!("smtpd_tls_chain_files = {}", chain_file.path().display());
    let settings = ["smtpd_tls_security_level = encrypt", "smtpd_tls_received_header = yes", &chain];
    let postfix = Postfix::relaying_to(behind.address, &settings).await;
    let world = world_through(&Installation::on(owner), postfix.address).await;

    let reply = submit(&world, &signed_message()).await;

    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "Postfix's own words: {reply}");
    let content = String::from_utf8(behind.received(1).await.remove(0).content).unwrap();
    assert!(content.contains("(using TLSv1.3 with cipher ") && content.contains(" with ESMTPS id "), "{content}");
    assert!(content.ends_with(&signed_message()), "{content}");
    world.stop().await;
}

/// The gateway's record says that one signs in there as `acme` with this password, to whoever shows this certificate.
pub async fn sign_in(installation: &Installation, tenant: &Tenant, certificate: &[u8], password: &str) {
    let web = installation.pool_as(store::roles::WEB).await;
    let mut transaction = OrganizationTransaction::begin(&web, tenant.id).await.unwrap();
    let id = sqlx::query_scalar("select id from gateway").fetch_one(&mut *transaction).await.map(GatewayId).unwrap();
    let before = gateway_record::stored(&mut transaction, tenant.id, id).await.unwrap().unwrap();
    let trust = Trust::Fingerprint(Sha256::digest(certificate).into());
    let sign_in_user = Some("acme".to_owned());
    let record = GatewayRecord { tls: TlsMode::Verified, trust, sign_in_user, ..before.record.clone() };
    let key = store::secret_key::newest(&mut transaction).await.unwrap().unwrap();
    let context = secret_context(tenant.id, id, &record.address, record.tls, "acme");
    let sealed = key.seal(&Password::new(password.to_owned()).unwrap(), &context).unwrap();
    let (change, at_once) = (ChangeId::new(), true);
    let edit = gateway_record::Edit { change, record: &record, password: Some(&sealed), at_once, actor: "ann" };
    let saved = gateway_record::save(transaction, id, &edit).await.unwrap();
    assert!(matches!(saved, Saved::Changed(_)), "{saved:?}");
}

#[sqlx::test]
async fn a_postfix_with_sasl_gets_the_right_password_and_with_a_wrong_one_mail_waits_with_an_alert(owner: PgPool) {
    let log = Log::capture();
    let behind = Gateway::start().await;
    let certified = rcgen::generate_simple_self_signed(vec!["archive.example".to_owned()]).unwrap();
    let chain_file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    std::fs::write(chain_file.path(), certified.signing_key.serialize_pem() + &certified.cert.pem()).unwrap();
    let chain = format!("smtpd_tls_chain_files = {}", chain_file.path().display());
    let settings = ["smtpd_tls_security_level = encrypt", &chain];
    let postfix = Postfix::relaying_for(("acme", "right"), behind.address, &settings).await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &postfix.address.to_string()).await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let key_file = folder.path().join("secret-key");
    key_file::create(&key_file).unwrap();
    let relay = installation.relay_pool().await;
    SecretKeys::from_file(Some(key_file.clone())).unwrap().seal_anew(&relay).await.unwrap();
    sign_in(&installation, &acme, certified.cert.der(), "wrong").await;
    let world = World::with_settings(&installation, relay, |settings| settings.secret_key_file = Some(key_file)).await;

    let reply = submit(&world, &signed_message()).await;

    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let said = format!("gateway {} said: 535 5.7.8 Error: authentication failed: ", postfix.address);
    let queued = waiting(&owner).await;
    assert_eq!((queued.len(), queued[0].1.as_str()), (1, "waiting"));
    assert!(queued[0].2.as_ref().is_some_and(|reply| reply.starts_with(&said)), "{queued:?}");
    let alerts = log.with("alert=\"gateway failing\"");
    assert!(alerts.len() == 1 && alerts[0].contains(&said), "{alerts:?}");

    sign_in(&installation, &acme, certified.cert.der(), "right").await;
    until_live(&installation, installation.latest_revision().await).await;
    let reply = submit(&world, &signed_message()).await;
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    for received in behind.received(2).await {
        let content = String::from_utf8(received.content).unwrap();
        assert!(
            content.contains("(Authenticated sender: acme@archive.example)") && content.ends_with(&signed_message()),
            "{content}"
        );
    }
    world.stop().await;
    assert_eq!(waiting(&owner).await, []);
}

#[sqlx::test]
async fn mail_for_a_postfix_that_does_not_relay_for_us_waits(owner: PgPool) {
    let behind = Gateway::start().await;
    for (restrictions, code) in [("reject_unauth_destination", "554 5.7.1"), ("defer_unauth_destination", "454 4.7.1")]
    {
        let restrictions = format!("smtpd_relay_restrictions = permit_mynetworks, {restrictions}");
        let postfix = Postfix::relaying_to(behind.address, &["mynetworks = 192.0.2.0/24", &restrictions]).await;
        let installation = Installation::on(owner.clone());
        let slug = format!("with-{}", &code[..3]);
        let organization = installation.organization(&slug).await;
        installation.set_gateway(&organization, &PointerScope::Organization, &postfix.address.to_string()).await;
        let world = World::start(&installation).await;
        let mut smtp = SmtpClient::greeted(world.submission).await;

        let sender = format!("ann@{slug}.example");
        let reply = smtp.submit(&sender, "bob@elsewhere.example", "Subject: x\r\n\r\nHello.\r\n").await;

        assert!(reply.starts_with("250 2.0.0 queued as "), "{code}: {reply}");
        let queued = waiting(&owner).await;
        let own: Vec<_> = queued.iter().filter(|(of, ..)| of.as_ref() == Some(&sender)).collect();
        let said = format!("gateway {} said: {code} <bob@elsewhere.example>: Relay access denied", postfix.address);
        assert_eq!(own, [&(Some(sender.clone()), "waiting".to_owned(), Some(said))], "{code}");
        assert!(queued.iter().all(|(of, ..)| of.is_some()), "nothing is returned to the sender: {queued:?}");
        world.stop().await;
    }
    let certified = rcgen::generate_simple_self_signed(vec!["archive.example".to_owned()]).unwrap();
    let chain_file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    std::fs::write(chain_file.path(), certified.signing_key.serialize_pem() + &certified.cert.pem()).unwrap();
    let chain = format!("smtpd_tls_chain_files = {}", chain_file.path().display());
    let settings = ["smtpd_tls_security_level = encrypt", &chain];
    let postfix = Postfix::relaying_for(("acme", "right"), behind.address, &settings).await;
    let self_signed = verify_program(postfix.address, TlsMode::Verified, GatewaySettings::default()).await;
    assert!(self_signed.last().1.contains("or this one's fingerprint"), "{}", self_signed.all());
    let wants_sign_in = verify_program(postfix.address, TlsMode::Required, GatewaySettings::default()).await;
    assert!(wants_sign_in.last().1.contains("give the gateway a user name"), "{}", wants_sign_in.all());
    assert!(behind.so_far().is_empty());
}

#[sqlx::test]
async fn two_hundred_messages_of_postfix_over_eight_connections_all_arrive(owner: PgPool) {
    let gateway = Gateway::start().await;
    let world = world_through(&Installation::on(owner), gateway.address).await;
    let mut source = Command::from(program("usr/sbin/smtp-source"));
    source.args(["-d", "-N", "-s", "8", "-m", "200", "-l", "4000", "-M", "client.example"]);
    source.args(["-f", "ann@acme.example", "-t", "bob@elsewhere.example", &world.submission.to_string()]);

    let ended = source.kill_on_drop(true).output().await.unwrap();

    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let received = gateway.received(200).await;
    let recipients: HashSet<&str> =
        received.iter().flat_map(|message| &message.recipients).map(String::as_str).collect();
    assert_eq!((received.len(), recipients.len()), (200, 200));
    world.stop().await;
}

#[tokio::test]
async fn a_postfix_set_up_right_is_verified_and_one_set_up_wrong_gets_its_sentence() {
    let behind = Gateway::start().await;
    for (settings, tls, words) in [
        (vec![], TlsMode::WhenOffered, ""),
        (
            vec!["mynetworks = 192.0.2.0/24"],
            TlsMode::WhenOffered,
            "let the server relay for 127.0.0.1 (in Postfix: mynetworks)",
        ),
        (vec![], TlsMode::Required, "It does not offer TLS"),
        (
            vec!["smtpd_client_restrictions = reject", "smtpd_delay_reject = no"],
            TlsMode::WhenOffered,
            "It refuses connections from 127.0.0.1",
        ),
        (vec!["smtpd_sender_restrictions = reject"], TlsMode::WhenOffered, "let the server"),
        (
            vec!["smtpd_helo_restrictions = reject", "smtpd_delay_reject = no"],
            TlsMode::WhenOffered,
            "our name relay.example",
        ),
    ] {
        let postfix = Postfix::relaying_to(behind.address, &settings).await;
        let found = verify_program(postfix.address, tls, GatewaySettings::default()).await;
        assert_eq!(found.accepts, words.is_empty(), "{settings:?}: {}", found.all());
        assert!(words.is_empty() || found.last().1.contains(words), "{settings:?}: {}", found.all());
    }
    assert!(behind.so_far().is_empty());
}
