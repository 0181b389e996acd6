//! The end of a message's wait: delivered, or reported to its sender.
//! The queue is stepped and given the time; nothing here waits for a clock.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use outgate::policy::routing::PlatformDefault;
use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Received},
    sending::Options,
};

/// An organization's dead gateway, and the smarthost that notifications leave by.
async fn with_smarthost(db: PgPool) -> (Gateway, Sending) {
    let smarthost = Gateway::start().await;
    let address = smarthost.address.to_string().parse().unwrap();
    let options = Options { default: PlatformDefault::Smarthost(address), ..Options::default() };
    (smarthost, Sending::with(db, options).await)
}

fn text_of(notification: &Received) -> String {
    let text = String::from_utf8(notification.content.clone()).unwrap().replace("=\r\n", "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[sqlx::test]
async fn a_refusal_after_250_is_reported_to_the_sender(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db).await;
    let address = Gateway::free_address().await;
    sending.set_gateway(Some(&address.to_string()));
    sending.send().await;
    let gateway = Gateway::start_on(address).await;
    gateway.says(At::Dot, "554 5.7.1 looks like <b>spam</b>");

    sending.step_after(5).await;
    sending.step_after(6).await;

    let notification = smarthost.received(1).await.remove(0);
    assert_eq!(notification.reverse_path, "");
    assert_eq!(notification.recipients, ["ann@acme.example"]);
    let text = text_of(&notification);
    assert!(text.contains("Subject: Not delivered: bob@elsewhere.example"), "{text}");
    assert!(text.contains("Your message to bob@elsewhere.example was not delivered."), "{text}");
    let happened = format!("What happened: Your organization's mail gateway {address} refused it.");
    assert!(text.contains(&format!("{happened} It said: 554 5.7.1 looks like <b>spam</b>")), "{text}");
    assert!(text.contains("Ask your administrator, and show this notification."), "{text}");
    assert!(text.contains("Auto-Submitted: auto-replied"), "{text}");
    assert!(!text.contains("Hello."), "only the header of the message comes back: {text}");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_notification_is_a_delivery_report_that_programs_understand(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db).await;
    let gateway = Gateway::start().await;
    gateway.answers_recipient("nobody@elsewhere.example", "550 5.1.1 no such user");
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.transfer.accept(sending.message(&["bob@elsewhere.example", "nobody@elsewhere.example"])).await;
    sending.queue.settled().await;
    sending.step_after(1).await;

    let notification = smarthost.received(1).await.remove(0);
    let parsed = MessageParser::default().parse(&notification.content).unwrap();
    let kind = parsed.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let types: Vec<String> = parsed.parts[1..]
        .iter()
        .filter_map(|part| part.content_type())
        .map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap()))
        .collect();
    assert_eq!(types, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    let status = parsed.parts.iter().find_map(|part| match (&part.body, part.content_type()) {
        (PartType::Text(text), Some(kind)) if kind.subtype() == Some("delivery-status") => Some(text.to_string()),
        (PartType::Binary(bytes), Some(kind)) if kind.subtype() == Some("delivery-status") => {
            Some(String::from_utf8(bytes.to_vec()).unwrap())
        }
        _ => None,
    });
    let status = status.unwrap();
    for field in [
        "Reporting-MTA: dns; relay.outgate.example",
        "Final-Recipient: rfc822; nobody@elsewhere.example",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user",
    ] {
        assert!(status.contains(field), "{field} in {status}");
    }
    assert!(!status.contains("bob@"), "who got the message is not reported: {status}");
}

#[sqlx::test]
async fn mail_that_waited_for_five_days_returns_to_its_sender(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;

    sending.step_after(60 * 24 * 5 - 1).await;
    assert_eq!(sending.waiting().await.len(), 1);
    sending.step_after(60 * 24 * 5 + 1).await;
    sending.step_after(60 * 24 * 5 + 2).await;

    let text = text_of(&smarthost.received(1).await[0]);
    assert!(text.contains("It could not be delivered within 5 days. The last trouble: Gateway 127.0.0.1:"), "{text}");
    assert!(text.contains("Status: 5.4.7"), "{text}");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn held_mail_returns_after_seven_days(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    sending.set_gateway(None);
    sending.step_after(5).await;

    sending.step_after(60 * 24 * 7 - 1).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    sending.step_after(60 * 24 * 7 + 1).await;
    sending.step_after(60 * 24 * 7 + 2).await;

    let text = text_of(&smarthost.received(1).await[0]);
    assert!(text.contains("within 7 days. The last trouble: The gateway that it waited for was taken away."), "{text}");
    assert_eq!(smarthost.so_far().len(), 1);
}

#[sqlx::test]
async fn a_null_reverse_path_is_never_answered(db: PgPool) {
    let (smarthost, sending) = with_smarthost(db).await;
    let address = Gateway::free_address().await;
    sending.set_gateway(Some(&address.to_string()));
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.envelope.reverse_path = String::new();
    sending.transfer.accept(message).await;
    let gateway = Gateway::start_on(address).await;
    gateway.says(At::Dot, "554 5.7.1 no");

    sending.step_after(5).await;
    sending.step_after(6).await;

    assert!(sending.waiting().await.is_empty());
    assert!(smarthost.so_far().is_empty());
}
