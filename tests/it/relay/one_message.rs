//! To how many one message may go: beyond one bound it is refused for good, beyond another it waits for approval, and
//! splitting it does not help. What pages set is `web::limits`'s.

use nix::sys::signal::Signal;
use outgate::{
    policy::{
        Role,
        limit::{Kind, Limit, SetAt, Whose, Window},
        volume::Unit,
    },
    store::{self, OrganizationTransaction, gateway::PointerScope, limit, outbound_queue::Wish},
};
use sqlx::PgPool;
use time::Duration;
use tokio::time::timeout;

use super::{
    approval::text,
    outbound_queue::wish,
    sending_limits::{self, told},
};
use crate::support::{
    Gateway, Installation, Sending, SmtpClient,
    gateway::{At, Fault, HAPPENS_WITHIN},
    outgate::RelayProcess,
};

const REFUSED: Kind = Kind { whose: Whose::Each, window: Window::Message, unit: Unit::Recipients };
const APPROVED: Kind = Kind { whose: Whose::Each, window: Window::Approval, unit: Unit::Recipients };

/// A relay whose mail of ann's goes to this gateway, in an organization that lets one message go to 20, and to 50 with
/// approval.
async fn through(gateway: &Gateway, owner: PgPool) -> Sending {
    let sending = sending_limits::through(gateway, owner).await;
    sending.set_limits(|limits| {
        let set = limits.set.entry(SetAt::Organization).or_default();
        for (kind, most) in [(APPROVED, 20), (REFUSED, 50)] {
            set.insert(kind, Limit { most: Some(most), action: kind.window.default_action() });
        }
    });
    sending
}

/// What ann's client hears of a message, or a part of one, to so many.
async fn send_part(sending: &Sending, message_id: &str, recipients: usize, minutes: i64) -> String {
    let to: Vec<String> = (0..recipients).map(|place| format!("r{place}@elsewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let mut message = sending.message(&to);
    message.message_id = Some(message_id.to_owned());
    message.accepted_at = sending.now + Duration::minutes(minutes);
    sending.transfer.accept(message).await.to_string()
}

const TAKEN: &str = "250 2.0.0 kept as 4711";
const REFUSAL: &str = "recipients in one message, at most 50 are allowed; send it to a distribution list";

#[sqlx::test]
async fn a_message_to_too_many_is_refused_for_good_with_what_to_do(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let reply = send_part(&sending, "one@acme.example", 51, 0).await;
    assert!(reply.starts_with(&format!("550 5.5.3 51 {REFUSAL}")), "{reply}");
    assert_eq!(send_part(&sending, "two@acme.example", 20, 0).await, TAKEN);
    assert_eq!(gateway.received(1).await.len(), 1);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn the_parts_of_a_split_message_count_together_for_a_quarter_of_an_hour(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    assert_eq!(send_part(&sending, "one@acme.example", 20, 0).await, TAKEN);
    assert_eq!(send_part(&sending, "other@acme.example", 20, 0).await, TAKEN, "another message");
    let reply = send_part(&sending, "one@acme.example", 20, 1).await;
    assert!(reply.contains("held until an administrator approves it: 40 recipients in one message"), "{reply}");
    let reply = send_part(&sending, "one@acme.example", 11, 2).await;
    assert!(reply.starts_with(&format!("550 5.5.3 51 {REFUSAL}")), "{reply}");

    let mut of_ben = sending.message(&["bob@elsewhere.example"; 20]);
    (of_ben.sender, of_ben.envelope.reverse_path) = ("ben@acme.example".to_owned(), "ben@acme.example".to_owned());
    of_ben.message_id = Some("one@acme.example".to_owned());
    assert_eq!(sending.transfer.accept(of_ben).await.to_string(), TAKEN, "another sender's");
    assert_eq!(send_part(&sending, "one@acme.example", 20, 17).await, TAKEN, "it is over");
}

#[sqlx::test]
async fn what_was_not_accepted_does_not_count_when_it_comes_again(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    gateway.fails(At::Dot, Fault::Says("554 5.7.1 not now".to_owned()));
    for _ in 0..3 {
        let reply = send_part(&sending, "one@acme.example", 20, 0).await;
        assert!(reply.starts_with("554 5.7.1"), "{reply}");
    }
    gateway.works_again();
    assert_eq!(send_part(&sending, "one@acme.example", 20, 0).await, TAKEN);
}

#[sqlx::test]
async fn what_needs_approval_waits_and_leaves_when_it_is_released(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone()).await;
    let (admin, role) = ("admin@acme.example".parse().unwrap(), Role::Administrator);
    store::administrator::create(&owner, &admin, "not a hash", sending.organization, role).await.unwrap();
    let reply = send_part(&sending, "one@acme.example", 21, 0).await;
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let words = "held until an administrator approves it: 21 recipients in one message, more than 20 need approval";
    assert!(reply.contains(words), "{reply}");
    // A relay that reads its facts anew, and time, do not let it go.
    sending.queue.step(sending.now + Duration::hours(47)).await.unwrap();
    assert!(gateway.so_far().is_empty());
    assert_eq!(sending.queue.tell_of_limits(&sending.meter, sending.now).await.unwrap(), 0);
    assert_eq!(sending.queue.tell_of_approvals(sending.now).await.unwrap(), 1);
    let notice = text(&told(&sending).await[0]);
    assert!(notice.contains("Subject: 1 message waits for approval"), "{notice}");
    assert!(notice.contains("21 recipients in one message, more than 20 need approval"), "{notice}");
    sqlx::query("delete from queued_message where sender is null").execute(&owner).await.unwrap();

    wish(&sending, Wish::Release).await;
    sending.queue.step(sending.now + Duration::hours(47)).await.unwrap();
    assert_eq!(gateway.received(1).await[0].recipients.len(), 21, "whole");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn what_nobody_approves_returns_after_two_days(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    send_part(&sending, "one@acme.example", 21, 0).await;
    sending.queue.step(sending.now + Duration::hours(48) - Duration::MINUTE).await.unwrap();
    assert_eq!(sending.waiting().await.len(), 1);
    sending.queue.step(sending.now + Duration::hours(48) + Duration::MINUTE).await.unwrap();
    let report = text(&told(&sending).await[0]);
    assert!(report.contains("No administrator of your organization let it go within 2 days."), "{report}");
    assert!(report.contains("21 recipients in one message, more than 20"), "{report}");
    assert!(report.contains("Action: failed"), "{report}");
    assert!(gateway.so_far().is_empty());
}

#[sqlx::test]
async fn parts_are_known_by_the_message_id_in_what_a_client_sends(owner: PgPool) {
    let gateway = Gateway::start().await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let transaction = OrganizationTransaction::begin(&owner, acme.id).await.unwrap();
    let limit = Limit { most: Some(30), action: REFUSED.window.default_action() };
    let set = limit::set(transaction, &SetAt::Organization, REFUSED, Some(limit), "operator").await.unwrap();
    let limit::Set::Changed(_) = set else { panic!("{set:?}") };
    let relay = RelayProcess::start(&owner, "one", |outgate| outgate).await;
    let mut smtp = SmtpClient::greeted(relay.submission).await;
    let mut submit = async |id: &str| {
        assert!(smtp.say("MAIL FROM:<ann@acme.example>").await.starts_with("250 "));
        for place in 0..20 {
            assert!(smtp.say(&format!("RCPT TO:<r{place}@elsewhere.example>")).await.starts_with("250 "));
        }
        assert!(smtp.say("DATA").await.starts_with("354 "));
        smtp.say(&format!("Subject: news\r\nMessage-ID: <{id}>\r\n\r\nHello.\r\n.")).await
    };
    let replies = timeout(HAPPENS_WITHIN, async {
        [submit("a@acme.example").await, submit("b@acme.example").await, submit("a@acme.example").await]
    });
    let [first, other, second] = replies.await.unwrap();
    assert!(first.starts_with("250 ") && other.starts_with("250 "), "{first}{other}");
    assert!(second.starts_with("550 5.5.3 40 recipients in one message, at most 30 are allowed"), "{second}");
    relay.signal(Signal::SIGTERM);
    assert!(relay.ended().await.success());
}
