//! What senders are told of their mail, and where that goes: by their wishes (RFC 3461), never without end.
//! The queue is stepped and given the time; nothing here waits for a clock.

use mail_parser::{MessageParser, MimeHeaders};
use outgate::{
    mail::{envelope::MailParameters, notify::Wishes},
    policy::{facts::DomainFacts, routing::PlatformDefault},
    relay::message::{Content, Message},
};
use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Received},
    log::Log,
    sending::Options,
};

/// Where notifications go, and an organization with no gateway yet.
async fn with_smarthost(db: PgPool, handover: bool) -> (Gateway, Sending) {
    let smarthost = Gateway::start().await;
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    (smarthost, Sending::with(db, Options { default, handover, ..Options::default() }).await)
}

/// A message to these recipients, each with NOTIFY and ORCPT where they are not empty.
fn wishing(sending: &Sending, to: &[(&str, &str, &str)], parameters: &str) -> Message {
    let mut message = sending.message(&to.iter().map(|(to, ..)| *to).collect::<Vec<_>>());
    let wishes = |(_, notify, original): &(&str, &str, &str)| Wishes {
        notify: (!notify.is_empty()).then(|| notify.parse().unwrap()),
        original: (!original.is_empty()).then(|| original.parse().unwrap()),
    };
    message.envelope.wishes = to.iter().map(wishes).collect();
    let value = |name: &str| parameters.split(' ').find_map(|parameter| parameter.strip_prefix(name));
    message.envelope.parameters = MailParameters {
        ret: value("RET=").map(|ret| ret.parse().unwrap()),
        envid: value("ENVID=").map(|envid| envid.parse().unwrap()),
        ..MailParameters::default()
    };
    message
}

/// The text of a notification, every run of blanks as one.
fn text_of(notification: &Received) -> String {
    let text = String::from_utf8_lossy(&notification.content).replace("=\r\n", "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const BOB: &str = "bob@elsewhere.example";
const CARLA: &str = "carla@elsewhere.example";

#[sqlx::test]
async fn a_gateway_that_offers_dsn_gets_what_the_sender_wants_to_be_told_and_is_responsible(db: PgPool) {
    for handover in [true, false] {
        sqlx::raw_sql("truncate organization cascade").execute(&db).await.unwrap();
        let (smarthost, sending) = with_smarthost(db.clone(), handover).await;
        let gateway = Gateway::start().await;
        gateway.offers("DSN");
        sending.set_gateway(Some(&gateway.address.to_string()));
        let to =
            [(BOB, "SUCCESS,FAILURE", "rfc822;bob+2Bx@elsewhere.example"), (CARLA, "", "utf-8;c\\x{e4}@x.example")];
        let message = wishing(&sending, &to, "RET=HDRS ENVID=QQ+2B1");
        assert_eq!(sending.transfer.accept(message).await.code, 250);
        sending.queue.settled().await;

        let received = gateway.received(1).await.remove(0);
        assert!(received.parameters.ends_with(" RET=HDRS ENVID=QQ+2B1"), "{}", received.parameters);
        assert_eq!(
            received.wishes,
            ["NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob+2Bx@elsewhere.example", "ORCPT=utf-8;c\\x{e4}@x.example"]
        );
        sending.step_after(1).await;
        assert!(smarthost.so_far().is_empty(), "the next server tells the sender");
    }
}

#[sqlx::test]
async fn who_asks_for_success_hears_that_mail_was_passed_to_a_server_that_tells_nobody(db: PgPool) {
    for handover in [true, false] {
        sqlx::raw_sql("truncate organization cascade").execute(&db).await.unwrap();
        let (smarthost, sending) = with_smarthost(db.clone(), handover).await;
        let gateway = Gateway::start().await;
        sending.set_gateway(Some(&gateway.address.to_string()));
        let to = [(BOB, "success", "rfc822;robert@elsewhere.example"), (CARLA, "", ""), ("dan@x.example", "NEVER", "")];
        let message = wishing(&sending, &to, "RET=FULL ENVID=QQ1");
        assert_eq!(sending.transfer.accept(message).await.code, 250);
        sending.queue.settled().await;
        let received = gateway.received(1).await.remove(0);
        assert!(!received.parameters.contains("RET") && !received.parameters.contains("ENVID"), "left off");
        assert_eq!(received.wishes, ["", "", ""]);

        sending.step_after(1).await;
        let notification = smarthost.received(1).await.remove(0);
        assert_eq!((notification.reverse_path.as_str(), notification.recipients.len()), ("", 1));
        let text = text_of(&notification);
        for words in [
            "Your message to bob@elsewhere.example was passed on to a server that does not report deliveries.",
            "Original-Envelope-Id: QQ1",
            "Original-Recipient: rfc822; robert@elsewhere.example Final-Recipient: rfc822; bob@elsewhere.example",
            "Action: relayed Status: 2.0.0 Remote-MTA: dns; [127.0.0.1] Diagnostic-Code: smtp; 250 2.0.0 kept as 4711",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(!text.contains("Hello."), "RET=FULL is about failures: {text}");
        assert!(!text.contains("carla@") && !text.contains("dan@"), "{text}");
        assert!(sending.waiting().await.is_empty());
    }
}

#[sqlx::test]
async fn who_wants_to_hear_nothing_hears_nothing(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db, false).await;
    let gateway = Gateway::start().await;
    gateway.says(At::Dot, "554 5.7.1 no");
    sending.set_gateway(Some(&gateway.address.to_string()));
    let to = [(BOB, "NEVER", ""), (CARLA, "SUCCESS,DELAY", ""), ("dan@elsewhere.example", "FAILURE", "")];
    sending.transfer.accept(wishing(&sending, &to, "")).await;
    sending.queue.settled().await;
    sending.step_after(1).await;

    let text = text_of(&smarthost.received(1).await[0]);
    assert!(text.contains("Your message to dan@elsewhere.example was not delivered."), "{text}");
    assert!(!text.contains("bob@") && !text.contains("carla@"), "{text}");
    sending.transfer.accept(wishing(&sending, &to[..2], "")).await;
    sending.queue.settled().await;
    sending.step_after(2).await;
    assert!(sending.waiting().await.is_empty());
    assert_eq!(smarthost.so_far().len(), 1);
}

#[sqlx::test]
async fn the_whole_message_comes_back_if_the_sender_asks_for_it_and_it_is_not_too_large(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db, false).await;
    let gateway = Gateway::start().await;
    gateway.says(At::Dot, "554 5.7.1 no");
    sending.set_gateway(Some(&gateway.address.to_string()));
    let body = |body: &str| format!("Subject: hello\r\nMessage-ID: <1@acme.example>\r\n\r\n{body}\r\n");
    let contents = [body("Grüße."), body(&"0123456789abcdef\r\n".repeat(70_000)), body(&"x".repeat(2_000))];
    for (number, (content, whole)) in contents.iter().zip([true, false, false]).enumerate() {
        let mut message = wishing(&sending, &[(BOB, "", "")], "RET=FULL");
        message.content = Content::Memory(content.clone().into_bytes().into());
        sending.transfer.accept(message).await;
        sending.queue.settled().await;
        sending.step_after(number as i64 + 1).await;
        let notification = smarthost.received(number + 1).await.remove(number);
        let parsed = MessageParser::default().parse(&notification.content).unwrap();
        let last = parsed.parts.iter().rev().find_map(|part| part.content_type()).unwrap();
        assert_eq!(parsed.in_reply_to().as_text(), Some("1@acme.example"));
        let returned = String::from_utf8_lossy(&notification.content).contains(content.as_str());
        assert_eq!(returned, whole, "{number}: {last:?}");
        assert_eq!(notification.parameters.contains("BODY=8BITMIME"), whole, "{}", notification.parameters);
    }
}

#[sqlx::test]
async fn notifications_go_to_the_inbound_host_of_the_senders_domain(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db, true).await;
    let inbound = Gateway::start().await;
    let organization = sending.organization;
    let set_inbound_host = |host: &str| {
        let inbound_host = Some(host.parse().unwrap());
        sending.table.change(|facts| {
            let domain = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host };
            facts.set_domain("acme.example".parse().unwrap(), Some(domain));
        });
    };
    set_inbound_host(&inbound.address.to_string());
    let gateway = Gateway::start().await;
    gateway.answers_recipient(BOB, "550 5.1.1 no such user");
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.transfer.accept(sending.message(&[BOB, CARLA])).await;
    sending.queue.settled().await;
    sending.step_after(1).await;
    assert_eq!(inbound.received(1).await[0].recipients, ["ann@acme.example"]);

    // Where no gateway may be, no inbound host may be either.
    set_inbound_host("169.254.169.254");
    sending.transfer.accept(sending.message(&[BOB, CARLA])).await;
    sending.queue.settled().await;
    sending.step_after(2).await;
    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert!(reason.contains("can never be a gateway"), "{reason}");
    assert!(smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn a_notification_that_nobody_takes_or_that_comes_back_to_us_ends_there(db: PgPool) {
    let log = Log::capture();
    let addresses = crate::support::sending::names(&[("acme.example", "127.0.0.1")], &[]);
    let mx = Gateway::start().await;
    let options = Options { mx_port: mx.address.port(), names: addresses, ..Options::default() };
    let sending = Sending::with(db, options).await;
    let gateway = Gateway::start().await;
    gateway.answers_recipient(BOB, "550 5.1.1 no such user");
    sending.set_gateway(Some(&gateway.address.to_string()));
    for (answer, at) in [("250 RELAY.outgate.example", At::Ehlo), ("550 5.1.1 ann has left", At::Rcpt)] {
        mx.says(at, answer);
        sending.transfer.accept(sending.message(&[BOB, CARLA])).await;
        sending.queue.settled().await;
        let before = mx.connections();
        assert_eq!(sending.waiting().await.len(), 1);
        sending.step_after(1).await;
        assert!(sending.waiting().await.is_empty(), "{answer}: {:?}", sending.waiting().await);
        assert!(mx.connections() <= before + 1 && mx.so_far().is_empty());
    }
    let said = log.with("a message without a sender was given up");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.iter().all(|line| line.contains(&format!("organization={}", sending.organization))), "{said:?}");
}

#[sqlx::test]
async fn an_address_beyond_ascii_is_reported_to_a_server_that_takes_it(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db, false).await;
    let gateway = Gateway::start().await;
    gateway.says(At::Dot, "550 5.7.1 \u{1b}[31mb\u{f6}se\u{202e}");
    sending.set_gateway(Some(&gateway.address.to_string()));
    let mut message = sending.message(&["b\u{f6}b@elsewhere.example"]);
    message.envelope.parameters.smtputf8 = true;
    sending.transfer.accept(message).await;
    sending.queue.settled().await;
    sending.step_after(1).await;
    let notification = smarthost.received(1).await.remove(0);
    assert!(notification.parameters.contains("SMTPUTF8"), "{}", notification.parameters);
    let text = text_of(&notification);
    for words in ["message/global-delivery-status", "Final-Recipient: utf-8; böb@elsewhere.example"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
