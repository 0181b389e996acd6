//! Submission over TLS: where it begins, what was said before it, the certificate, and who signs in.
//! The words of a session are asked for in `submission_dialogs`.

use std::{sync::Arc, time::Duration};

use outgate::{
    policy::{facts::RoutingFacts, routing::PlatformDefault, sign_in_limit::MOST_OF_NAME},
    relay::{routing_table::RoutingTable, settings::Settings},
};
use tokio::io::AsyncReadExt;

use crate::support::{
    Certificate, SmtpClient,
    relay::{Reception, known_table, queued},
};

/// Nobody is trusted by address; otherwise as adjusted.
async fn reception(certificate: &Certificate, adjust: impl FnOnce(&mut Settings)) -> (Reception, Arc<RoutingTable>) {
    let table = known_table();
    let tls = Some(certificate.server());
    let settings = |settings: &mut Settings| {
        settings.tls = tls;
        settings.trusted_networks = Vec::new();
        adjust(settings);
    };
    (Reception::with(Arc::clone(&table), settings, || async { queued() }).await, table)
}

#[tokio::test]
async fn mail_is_submitted_by_who_signs_in_over_tls_however_it_begins() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |_| {}).await;
    let tls = certificate.client();

    let mut starttls = SmtpClient::encrypted(reception.address, &tls).await;
    assert_eq!(starttls.sign_in("acme-server", "opensesame").await, "235 2.7.0 Signed in\r\n");
    assert_eq!(starttls.submit("ann@acme.example", "bob@far.example", "one").await, "250 2.0.0 queued\r\n");

    let connection = SmtpClient::connect(reception.encrypted.unwrap()).await;
    let mut at_once = connection.encrypt(&tls).await.unwrap();
    assert!(at_once.reply().await.starts_with("220 relay.example "));
    assert!(at_once.say("EHLO client.example").await.ends_with("250 AUTH PLAIN LOGIN\r\n"));
    assert_eq!(at_once.sign_in("other-server", "closesesame").await, "235 2.7.0 Signed in\r\n");
    assert!(at_once.submit("ann@acme.example", "bob@far.example", "x").await.starts_with("550 5.7.1 "));
    assert_eq!(at_once.submit("x@other.example", "bob@far.example", "two").await, "250 2.0.0 queued\r\n");

    let accepted = reception.accepted();
    assert_eq!([&accepted[0].content[..], &accepted[1].content], [b"one\r\n", b"two\r\n"]);
    assert!(accepted.iter().all(|message| message.received.contains(" with ESMTPSA id ")), "{accepted:?}");
}

#[tokio::test]
async fn a_large_message_arrives_over_tls_as_it_was_sent() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |_| {}).await;
    let mut client = SmtpClient::encrypted(reception.address, &certificate.client()).await;
    assert_eq!(client.sign_in("acme-server", "opensesame").await, "235 2.7.0 Signed in\r\n");
    let content: String = (0..40_000).map(|line| format!("line. {line}\r\n\r\n")).collect();

    let said = client.submit("ann@acme.example", "bob@far.example", content.trim_end()).await;

    assert_eq!(said, "250 2.0.0 queued\r\n");
    let accepted = reception.accepted();
    assert!(accepted[0].content == format!("{}\r\n", content.trim_end()).as_bytes(), "{}", accepted[0].content.len());
}

#[tokio::test]
async fn a_relay_that_cannot_serve_yet_says_so_behind_the_handshake_and_closes() {
    let certificate = Certificate::new();
    let table = Arc::new(RoutingTable::following(PlatformDefault::Mx, Duration::from_secs(3600)));
    let tls = Some(certificate.server());
    let reception = Reception::with(table, |settings| settings.tls = tls, || async { queued() }).await;
    let connection = SmtpClient::connect(reception.encrypted.unwrap()).await;
    let mut client = connection.encrypt(&certificate.client()).await.unwrap();
    let said = client.reply().await;
    assert!(said.starts_with("421 4.3.2 "), "{said}");
    assert_eq!(client.reply().await, "", "it does not wait for anything more");
}

#[tokio::test]
async fn a_renewed_certificate_counts_from_the_next_handshake_on_and_a_broken_one_never() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |_| {}).await;
    let first = certificate.client();
    let mut before = SmtpClient::encrypted(reception.address, &first).await;

    certificate.renew();
    let second = certificate.client();
    SmtpClient::encrypted(reception.address, &second).await;
    let mut refusing = SmtpClient::greeted(reception.address).await;
    refusing.say("STARTTLS").await;
    assert!(refusing.encrypt(&first).await.is_err(), "the former certificate is not shown any more");
    assert!(
        before.say("NOOP").await.starts_with("250 "),
        "a connection goes on with the certificate that it began with"
    );

    certificate.write("certificate.pem", b"not a certificate");
    SmtpClient::encrypted(reception.address, &second).await;
    let other = Certificate::new();
    certificate.write("certificate.pem", &std::fs::read(other.file()).unwrap());
    SmtpClient::encrypted(reception.address, &second).await;
    certificate.write("key.pem", &std::fs::read(other.key()).unwrap());
    SmtpClient::encrypted(reception.address, &other.client()).await;
    certificate.write("key.pem", b"");
    SmtpClient::encrypted(reception.address, &other.client()).await;
}

#[tokio::test]
async fn bytes_in_the_clear_behind_starttls_are_never_executed() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |settings| {
        settings.trusted_networks = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let smuggled = b"MAIL FROM:<ann@acme.example>\r\nRCPT TO:<bob@far.example>\r\nDATA\r\n.\r\n";

    let mut at_once = SmtpClient::greeted(reception.address).await;
    at_once.send(&[b"STARTTLS\r\n", &smuggled[..]].concat()).await;
    assert_eq!(at_once.reply().await, "554 5.5.0 Wait for the reply before sending more\r\n");
    assert_eq!(at_once.reply().await, "");

    let mut later = SmtpClient::greeted(reception.address).await;
    assert!(later.say("STARTTLS").await.starts_with("220 "));
    later.send(smuggled).await;
    let said = later.reply().await;
    assert!(said.is_empty() || !said.starts_with(['2', '3', '4', '5']), "only an alert of TLS: {said:?}");
    assert!(reception.accepted().is_empty());
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_is_sent_away() {
    let certificate = Certificate::new();
    let (reception, _) =
        reception(&certificate, |settings| settings.limits.handshake = Duration::from_millis(50)).await;
    let mut starttls = SmtpClient::greeted(reception.address).await;
    starttls.say("STARTTLS").await;
    starttls.send(b"\x16\x03\x01").await;
    assert_eq!(starttls.reply().await, "");

    let mut at_once = tokio::net::TcpStream::connect(reception.encrypted.unwrap()).await.unwrap();
    assert_eq!(at_once.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn who_signs_in_a_byte_at_a_time_is_sent_away() {
    let certificate = Certificate::new();
    let soon = |settings: &mut Settings| settings.limits.idle = Duration::from_millis(150);
    let (reception, _) = reception(&certificate, soon).await;
    for question in ["AUTH PLAIN", "AUTH LOGIN"] {
        let mut client = SmtpClient::encrypted(reception.address, &certificate.client()).await;
        let asked = client.say(question).await;
        assert!(asked.starts_with("334 "), "{asked}");
        let said = client.trickle().await;
        assert_eq!(said, "421 4.4.2 relay.example has waited too long and closes the connection\r\n", "{question}");
    }
}

#[tokio::test]
async fn a_credential_that_is_revoked_sends_nothing_more_on_a_connection_that_is_open() {
    let certificate = Certificate::new();
    let (reception, table) = reception(&certificate, |_| {}).await;
    let mut client = SmtpClient::encrypted(reception.address, &certificate.client()).await;
    client.sign_in("acme-server", "opensesame").await;
    assert_eq!(client.submit("ann@acme.example", "bob@far.example", "x").await, "250 2.0.0 queued\r\n");

    let id = table.credential_named("acme-server").unwrap().id;
    table.change(|facts: &mut RoutingFacts| facts.set_credential(id, None));

    let said = client.say("MAIL FROM:<ann@acme.example>").await;
    assert!(said.starts_with("421 4.7.0 The relay credential was revoked "), "{said}");
    assert_eq!(client.reply().await, "");
    let mut again = SmtpClient::encrypted(reception.address, &certificate.client()).await;
    assert!(again.sign_in("acme-server", "opensesame").await.starts_with("535 5.7.8 "));
}

#[tokio::test]
async fn an_organization_with_all_its_connections_takes_none_of_anothers() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |settings| settings.limits.connections_of_organization = 2).await;
    let tls = certificate.client();
    let mut clients = Vec::new();
    for user_name in ["acme-server", "acme-server"] {
        let mut client = SmtpClient::encrypted(reception.address, &tls).await;
        assert!(client.sign_in(user_name, "opensesame").await.starts_with("235 "));
        clients.push(client);
    }
    let mut third = SmtpClient::encrypted(reception.address, &tls).await;
    assert_eq!(
        third.sign_in("acme-printer", "paperjam").await,
        "421 4.7.0 Your organization has too many connections at a time, try again later\r\n"
    );
    let mut other = SmtpClient::encrypted(reception.address, &tls).await;
    assert!(other.sign_in("other-server", "closesesame").await.starts_with("235 "));

    clients[0].say("QUIT").await;
    assert_eq!(clients.remove(0).reply().await, "");
    let signed_in = async {
        loop {
            let mut again = SmtpClient::encrypted(reception.address, &tls).await;
            if again.sign_in("acme-server", "opensesame").await.starts_with("235 ") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), signed_in).await.expect("the place is free again");
}

#[tokio::test]
async fn organizations_that_take_all_connections_they_can_get_leave_room_for_another_one() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |settings| settings.limits.connections = 8).await;
    let tls = certificate.client();
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = SmtpClient::encrypted(reception.address, &tls).await;
        let said = client.sign_in("acme-server", "opensesame").await;
        if !said.starts_with("235 ") {
            break said;
        }
        clients.push(client);
    };
    assert!(refused.starts_with("421 4.7.0 Your organization has too many connections"), "{refused}");
    assert_eq!(clients.len(), 4, "as many as are left for others");
    let mut other = SmtpClient::encrypted(reception.address, &tls).await;
    assert!(other.sign_in("other-server", "closesesame").await.starts_with("235 "));
}

#[tokio::test]
async fn a_stranger_who_does_not_say_whose_mail_it_is_holds_a_connection_for_a_minute_only() {
    let certificate = Certificate::new();
    let at_once = Duration::from_millis(1);
    let (reception, _) = reception(&certificate, |settings| settings.limits.introduction = at_once).await;
    let mut idle = SmtpClient::connect(reception.address).await;
    idle.reply().await;
    assert!(idle.reply().await.starts_with("421 4.4.2 "), "nothing is waited for any longer");
}

#[tokio::test]
async fn who_has_signed_in_leaves_room_for_others_at_the_same_address() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |settings| settings.limits.connections_of_other_client = 1).await;
    let tls = certificate.client();
    let mut signed_in = SmtpClient::encrypted(reception.address, &tls).await;
    let mut one_too_many = SmtpClient::connect(reception.address).await;
    assert!(one_too_many.reply().await.starts_with("421 4.7.0 "));

    signed_in.sign_in("acme-server", "opensesame").await;
    let mut other = SmtpClient::greeted(reception.address).await;
    let mut one_too_many = SmtpClient::connect(reception.address).await;
    assert!(one_too_many.reply().await.starts_with("421 4.7.0 "));
    assert!(other.say("NOOP").await.starts_with("250 "));
    assert_eq!(signed_in.submit("ann@acme.example", "bob@far.example", "x").await, "250 2.0.0 queued\r\n");
}

#[tokio::test]
async fn who_guesses_has_to_wait_even_with_the_right_password() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |_| {}).await;
    let tls = certificate.client();
    for _ in 0..MOST_OF_NAME {
        let mut client = SmtpClient::encrypted(reception.address, &tls).await;
        assert!(client.sign_in("acme-server", "guess").await.starts_with("535 5.7.8 "));
    }
    let mut client = SmtpClient::encrypted(reception.address, &tls).await;
    assert_eq!(
        client.sign_in("acme-server", "opensesame").await,
        "421 4.7.0 relay.example has seen too many sign-ins fail, try again in a quarter of an hour\r\n"
    );
    assert_eq!(client.reply().await, "");
    let mut client = SmtpClient::encrypted(reception.address, &tls).await;
    assert!(client.sign_in("acme-printer", "paperjam").await.starts_with("235 "), "another name is looked at");
}

#[tokio::test]
async fn a_sign_in_has_room_for_twelve_kilobytes_and_no_more() {
    let certificate = Certificate::new();
    let (reception, _) = reception(&certificate, |_| {}).await;
    let mut client = SmtpClient::encrypted(reception.address, &certificate.client()).await;
    assert!(client.say("AUTH PLAIN").await.starts_with("334 "));
    assert_eq!(client.say(&"A".repeat(12_288)).await, "500 5.5.6 The line is too long for a sign-in\r\n");
    let long = client.say(&format!("AUTH PLAIN {}", "A".repeat(12_000))).await;
    assert!(long.starts_with("501 5.5.2 "), "it is read: {long}");
    assert!(client.say(&format!("AUTH PLAIN {}", "A".repeat(12_288))).await.starts_with("500 5.5.2 "));
    assert!(client.say(&format!("NOOP {}", "A".repeat(2_000))).await.starts_with("500 5.5.2 "));
    assert_eq!(client.sign_in("acme-server", "opensesame").await, "235 2.7.0 Signed in\r\n", "still in step");
}
