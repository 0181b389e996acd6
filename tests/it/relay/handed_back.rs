//! Mail that comes back: a screen hands it back to us for delivery, or a loop brings it here again and again.
//! Known by where it comes from, never by what stands in it.

use std::{net::IpAddr, sync::Arc};

use outgate::{
    mail::id::{ChangeId, GatewayId, OrganizationId},
    policy::{
        facts::{DomainFacts, Gateway as GatewayFacts, OrganizationFacts, RoutingFacts, TlsMode},
        gateway_record::GatewayRecord,
        gateway_settings::{GatewaySettings, Returning},
        relay_credential::Limits,
        routing::PlatformDefault,
    },
    relay::{
        message::{Client, Message},
        routing_table::RoutingTable,
        settings::Settings,
    },
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        gateway_record::{self, Saved},
    },
};
use sqlx::PgPool;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    Certificate, Gateway, Installation, Sending, SmtpClient, Tenant,
    gateway::{At, Fault},
    relay::Desk,
    sending::Options,
    world::World,
};

/// The screen's address in these tests; the clients of all others are elsewhere.
const SCREEN: &str = "192.0.2.7";

/// A screen that hands mail back from its own address, and the smarthost that mail without a gateway goes to.
async fn with_screen(db: PgPool, returning: Returning) -> (Gateway, Gateway, Sending) {
    let (screen, smarthost) = (Gateway::start().await, Gateway::start().await);
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    let returning_networks = vec!["192.0.2.0/29".parse().unwrap()];
    let settings = GatewaySettings { returning, returning_networks, ..GatewaySettings::default() };
    sending.set_gateway_having(&screen.address.to_string(), settings);
    (screen, smarthost, sending)
}

fn message_from(sending: &Sending, address: &str, is_proven: bool) -> Message {
    let address: IpAddr = address.parse().unwrap();
    let client = Client { address, is_proven, first_pass: None };
    Message { client, ..sending.message(&["bob@elsewhere.example"]) }
}

#[sqlx::test]
async fn mail_that_the_gateway_hands_back_is_refused_in_words_by_default(db: PgPool) {
    let (screen, smarthost, sending) = with_screen(db, Returning::Refuse).await;

    let reply = sending.transfer.accept(message_from(&sending, SCREEN, true)).await.to_string();

    let said = format!("550 5.7.1 gateway {} hands this message back instead of delivering it; ", screen.address);
    assert!(reply.starts_with(&said), "{reply}");
    assert_eq!((screen.connections(), smarthost.connections()), (0, 0));
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn mail_that_the_gateway_hands_back_goes_on_by_the_platforms_default_and_never_there_again(db: PgPool) {
    let (screen, smarthost, sending) = with_screen(db, Returning::Onward).await;
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(screen.received(1).await.len(), 1);

    let reply = sending.transfer.accept(message_from(&sending, SCREEN, true)).await;
    assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(smarthost.received(1).await.len(), 1);

    // The same if it has to wait, whatever becomes of the gateway meanwhile.
    smarthost.fails(At::Mail, Fault::Says("451 4.3.0 later".into()));
    let reply = sending.transfer.accept(message_from(&sending, SCREEN, true)).await;
    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    sending.step_after(2).await;
    smarthost.works_again();
    sending.step_after(30).await;
    assert_eq!(smarthost.received(2).await.len(), 2);
    assert_eq!(screen.so_far().len(), 1);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn with_hand_over_off_it_goes_on_all_the_same(db: PgPool) {
    let (screen, smarthost, sending) = with_screen(db, Returning::Onward).await;
    let sending = sending.another_with(Options { handover: false, ..sending.options.clone() });
    sending.transfer.accept(message_from(&sending, SCREEN, true)).await;
    assert_eq!(smarthost.received(1).await.len(), 1);
    sending.queue.settled().await;
    assert!(sending.waiting().await.is_empty());
    assert_eq!(screen.connections(), 0);
}

#[sqlx::test]
async fn mail_from_elsewhere_or_from_somebody_unproven_is_routed_as_ever(db: PgPool) {
    let (screen, smarthost, sending) = with_screen(db, Returning::Onward).await;
    let mut with_our_field = message_from(&sending, "192.0.2.8", true);
    with_our_field.client.first_pass = Some("019ab3c4-0000-7000-8000-000000000000".to_owned());
    for message in [message_from(&sending, SCREEN, false), with_our_field] {
        assert_eq!(sending.transfer.accept(message).await.to_string(), "250 2.0.0 kept as 4711");
    }
    assert_eq!(screen.so_far().len(), 2);
    assert_eq!(smarthost.connections(), 0);
}

/// Somebody at an address who says EHLO and encrypts if wanted. The screen is acme's.
fn desk_of(returning: Returning, client: &str, encrypts: bool) -> Desk {
    let (organization, gateway) = (OrganizationId::new(), GatewayId::new());
    let mut facts = RoutingFacts::default();
    let returning_networks = vec!["192.0.2.0/29".parse().unwrap()];
    let settings = GatewaySettings { returning, returning_networks, ..GatewaySettings::default() }.shared();
    let (address, tls) = ("screen.elsewhere.example".parse().unwrap(), TlsMode::WhenOffered);
    facts.set_gateway(gateway, Some(GatewayFacts { organization, id: gateway, revision: 1, address, tls, settings }));
    let of_all =
        OrganizationFacts { suspended: false, gateway: Some(gateway), must_use_gateway: false, ..Default::default() };
    facts.set_organization(organization, Some(of_all));
    let other = OrganizationId::new();
    facts.set_organization(
        other,
        Some(OrganizationFacts { suspended: false, gateway: None, must_use_gateway: false, ..Default::default() }),
    );
    for (name, organization) in [("acme.example", organization), ("other.example", other)] {
        let domain = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: None };
        facts.set_domain(name.parse().unwrap(), Some(domain));
    }
    let table = Arc::new(RoutingTable::new(facts, PlatformDefault::Mx));
    let (mut desk, _) = Desk::with(table, client.parse().unwrap(), true);
    desk.feed(b"EHLO screen.elsewhere.example\r\n");
    if encrypts {
        desk.feed(b"STARTTLS\r\n");
        desk.feed(b"EHLO screen.elsewhere.example\r\n");
    }
    desk
}

/// What is said to who begins a message of a sender's.
fn reply_to_mail(returning: Returning, client: &str, encrypts: bool, sender: &str) -> String {
    desk_of(returning, client, encrypts).feed(format!("MAIL FROM:<{sender}>\r\n").as_bytes())
}

#[test]
fn a_screen_may_hand_mail_of_its_organization_back_over_tls_and_nothing_else() {
    let may =
        |returning, client, encrypts, sender| reply_to_mail(returning, client, encrypts, sender).starts_with("250 ");
    assert!(may(Returning::Onward, SCREEN, true, "ann@acme.example"));
    for (returning, client, encrypts, sender) in [
        (Returning::Refuse, SCREEN, true, "ann@acme.example"),
        (Returning::Onward, SCREEN, false, "ann@acme.example"),
        (Returning::Onward, "192.0.2.8", true, "ann@acme.example"),
        (Returning::Onward, SCREEN, true, "bea@other.example"),
        (Returning::Onward, SCREEN, true, "x@unknown.example"),
        // Of mail without a sender its header says whose it is.
        (Returning::Refuse, SCREEN, true, ""),
        (Returning::Onward, SCREEN, false, ""),
        (Returning::Onward, "192.0.2.8", true, ""),
    ] {
        let reply = reply_to_mail(returning, client, encrypts, sender);
        assert!(reply.starts_with("550 5.7.1 ") || reply.starts_with("530 "), "{client} {encrypts} {sender}: {reply}");
    }
}

#[test]
fn a_screen_may_hand_mail_without_a_sender_back_that_is_its_organizations_by_the_header() {
    let mut desk = desk_of(Returning::Onward, SCREEN, true);
    for (from, expected) in [
        ("ann@acme.example", "250 "),
        ("bea@other.example", "550 5.7.1 A message without a sender needs one From address"),
        ("x@unknown.example", "550 5.7.1 "),
    ] {
        assert!(desk.feed(b"MAIL FROM:<>\r\n").starts_with("250 "));
        assert!(desk.feed(b"RCPT TO:<bob@elsewhere.example>\r\n").starts_with("250 "));
        assert!(desk.feed(b"DATA\r\n").starts_with("354 "));
        let reply = desk.feed(format!("From: {from}\r\nSubject: away\r\n\r\nI am away.\r\n.\r\n").as_bytes());
        assert!(reply.starts_with(expected), "{from}: {reply}");
    }
    let accepted: Vec<&str> = desk.accepted.iter().map(|message| message.sender.as_str()).collect();
    assert_eq!(accepted, ["ann@acme.example"]);
}

#[test]
fn a_message_that_comes_through_here_again_and_again_is_refused() {
    let passes = |count: usize| {
        let mut desk = Desk::after_354();
        let field = "Received: from a (b)\r\n\tby relay.example with ESMTP id 019ab3c4-0000-7000-8000-000000000000;\r\n\tFri\r\n";
        desk.feed(format!("{}Subject: by relay.example\r\n\r\nHello.\r\n.\r\n", field.repeat(count)).as_bytes())
    };
    assert_eq!(passes(4), "250 2.0.0 queued\r\n");
    let refusal = passes(5);
    assert!(refusal.starts_with("554 5.4.6 "), "{refusal}");
}

#[sqlx::test]
async fn a_gateway_that_is_this_relay_itself_is_never_connected_to(db: PgPool) {
    let listener = Gateway::start().await;
    let port = listener.address.port();
    let all = Sending::on(db).await;
    for (listens, gateway) in [
        (listener.address, format!("127.0.0.1:{port}")),
        (listener.address, format!("0.0.0.0:{port}")),
        (listener.address, format!("[::ffff:127.0.0.1]:{port}")),
        (format!("0.0.0.0:{port}").parse().unwrap(), format!("127.0.0.1:{port}")),
        (format!("[::]:{port}").parse().unwrap(), format!("127.0.0.1:{port}")),
        (listener.address, format!("ourselves.elsewhere.example:{port}")),
    ] {
        let names = crate::support::sending::names(&[("ourselves.elsewhere.example", "127.0.0.1")], &[]);
        let options = Options { listeners: vec![listens], names, ..Options::default() };
        let sending = all.another_with(options);
        sending.set_gateway(Some(&gateway));

        let reply = sending.send().await.to_string();

        assert!(reply.starts_with("554 5.4.6 gateway "), "{gateway}: {reply}");
        assert!(reply.contains("it is this relay itself"), "{gateway}: {reply}");
        assert!(sending.waiting().await.is_empty());
    }
    assert_eq!(listener.connections(), 0);
}

#[sqlx::test]
async fn a_gateway_that_submits_everything_back_to_us_is_stopped_after_five_rounds(owner: PgPool) {
    for handover in [true, false] {
        let installation = Installation::on(owner.clone());
        sqlx::raw_sql("truncate organization cascade").execute(&owner).await.unwrap();
        let acme = installation.organization("acme").await;
        let gateway = Gateway::start().await;
        installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
        let relay = installation.relay_pool().await;
        let world = World::with_settings(&installation, relay, |settings| settings.handover = handover).await;
        let mut smtp = SmtpClient::greeted(world.submission).await;
        let mut reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", "Subject: round\r\n\r\nHello.").await;
        let mut rounds = 0;
        while reply.starts_with("250 ") && rounds < 20 {
            rounds += 1;
            let received = gateway.received(rounds).await.pop().unwrap();
            let own = "Received: from relay.test by gateway.example with ESMTP id 1; Mon, 23 Nov 2026 10:00:00 +0000";
            let content = format!("{own}\r\n{}", String::from_utf8(received.content).unwrap());
            let content = content.strip_suffix("\r\n").unwrap();
            reply = smtp.submit(&received.reverse_path, &received.recipients[0], content).await;
        }
        assert!(reply.starts_with("554 5.4.6 "), "{reply}");
        assert_eq!((rounds, gateway.so_far().len()), (5, 5), "hand-over {handover}");
        world.stop().await;
        let waiting: i64 = sqlx::query_scalar("select count(*) from queued_message").fetch_one(&owner).await.unwrap();
        assert_eq!(waiting, 0);
    }
}

/// The record of the only gateway says that it hands mail back from here.
async fn hands_back_from(installation: &Installation, tenant: &Tenant, network: &str) {
    let web = installation.pool_as(store::roles::WEB).await;
    let mut transaction = OrganizationTransaction::begin(&web, tenant.id).await.unwrap();
    let id = sqlx::query_scalar("select id from gateway").fetch_one(&mut *transaction).await.map(GatewayId).unwrap();
    let before = gateway_record::stored(&mut transaction, tenant.id, id).await.unwrap().unwrap();
    let returning_networks = vec![network.parse().unwrap()];
    let record = GatewayRecord { returning: Returning::Onward, returning_networks, ..before.record.clone() };
    let (change, at_once) = (ChangeId::new(), true);
    let edit = gateway_record::Edit { change, record: &record, password: None, at_once, actor: "ann" };
    let saved = gateway_record::save(transaction, id, &edit).await.unwrap();
    assert!(matches!(saved, Saved::Changed(_)), "{saved:?}");
}

/// Somebody at an address of this machine who has signed in over TLS.
async fn signed_in_at(
    address: &str,
    (submission, tls): (std::net::SocketAddr, &TlsConnector),
    (user_name, secret): (&str, &str),
) -> SmtpClient<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let mut client = SmtpClient::over(socket.connect(submission).await.unwrap());
    client.reply().await;
    client.say("EHLO screen.example").await;
    assert!(client.say("STARTTLS").await.starts_with("220 "));
    let mut client = client.encrypt(tls).await.unwrap();
    client.say("EHLO screen.example").await;
    assert!(client.sign_in(user_name, secret).await.starts_with("235 "));
    client
}

#[sqlx::test]
async fn a_screen_that_signs_in_hands_mail_back_from_its_own_address_and_is_a_client_like_any_elsewhere(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let screen = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &screen.address.to_string()).await;
    hands_back_from(&installation, &acme, "127.0.0.7/32").await;
    let (_, user_name, secret) = installation.credential(&acme, Limits::default()).await;
    let (_, of_other, others_secret) = installation.credential(&other, Limits::default()).await;
    let certificate = Certificate::new();
    let (tls, server) = (certificate.client(), certificate.server());
    let adjust = |settings: &mut Settings| {
        settings.tls = Some(server);
        // Nobody is trusted for where he is.
        settings.trusted_networks = Vec::new();
    };
    let world = World::with_settings(&installation, installation.relay_pool().await, adjust).await;
    let at = (world.submission, &tls);
    let back = "Subject: handed back\r\n\r\nHello.";

    let mut client = signed_in_at("127.0.0.8", at, (&user_name, &secret)).await;
    let reply = client.submit("ann@acme.example", "bob@elsewhere.example", "Subject: new\r\n\r\nHello.").await;
    assert_eq!(reply, "250 2.0.0 kept as 4711\r\n");
    assert_eq!(screen.so_far().len(), 1, "with the same credential, and from elsewhere");

    let mut client = signed_in_at("127.0.0.7", at, (&user_name, &secret)).await;
    let reply = client.submit("ann@acme.example", "bob@elsewhere.example", back).await;
    assert!(reply.starts_with("250 "), "{reply}");
    assert_eq!(world.default.next_subject().await, "handed back");

    let mut client = signed_in_at("127.0.0.7", at, (&of_other, &others_secret)).await;
    let reply = client.submit("ann@acme.example", "bob@elsewhere.example", back).await;
    assert!(reply.starts_with("550 5.7.1 "), "with another organization's credential: {reply}");
    assert_eq!(screen.so_far().len(), 1);
    world.stop().await;
}
