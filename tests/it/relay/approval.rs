//! A message to a distribution list that needs approval: nothing but an administrator's decision lets it go, whatever
//! changes meanwhile, and administrators are told. Which messages those are is `distribution_list`'s.

use outgate::{
    mail::notify::Wishes,
    policy::{
        Role,
        gateway_settings::{GatewaySettings, Returning},
        limit::{Action, Kind, Limit, SetAt, Whose, Window},
        routing::PlatformDefault,
        volume::Unit,
        waiting::Choice,
    },
    relay::message::{Client, Message},
    store::{self, OrganizationTransaction, gateway::PointerScope, outbound_queue::Wish},
};
use sqlx::PgPool;
use time::Duration;

use super::{
    outbound_queue::wish,
    sending_limits::{self, told},
};
use crate::support::{
    Gateway, Installation, Sending,
    sending::{Options, Pointers},
};

const LIST: &str = "all@acme.example";
const NEEDS: &str = "a message to the distribution list all@acme.example needs approval";

/// A message of ann's to a list that stands for these, whose messages need approval.
fn to_list(sending: &Sending, members: &[&str]) -> Message {
    let mut message = sending.message(members);
    (message.envelope.named, message.envelope.to_approve) = (Some(1), vec![LIST.to_owned()]);
    message
}

const MEMBERS: [&str; 2] = ["bob@elsewhere.example", "eve@far.example"];

async fn held_because(sending: &Sending) -> Vec<Option<String>> {
    let held = "select held_because from queued_message where sender is not null order by id";
    sqlx::query_scalar(held).fetch_all(&sending.owner).await.unwrap()
}

/// A message of ours as people read it.
pub(super) fn text(raw: &str) -> String {
    raw.replace("=\r\n", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[sqlx::test]
async fn nothing_lets_it_go_but_an_administrator(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = sending_limits::through(&gateway, owner.clone()).await;
    let reply = sending.transfer.accept(to_list(&sending, &MEMBERS)).await.to_string();
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    assert!(reply.contains(&format!("; held until an administrator approves it: {NEEDS} [")), "{reply}");

    // Facts that are read anew, another gateway, a gateway that takes mail again, another relay, and a start.
    sending.queue.step(sending.now + Duration::HOUR).await.unwrap();
    let other = Gateway::start().await;
    let all = sending.set_gateway(Some(&other.address.to_string()));
    sending.point(Pointers { all, ..Pointers::default() });
    sending.another().queue.step(sending.now + Duration::hours(2)).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    sending.another().queue.take_up(&stop).await;
    // An attempt that is wanted is no release.
    wish(&sending, Wish::Retry).await;
    sending.queue.step(sending.now + Duration::hours(47)).await.unwrap();
    assert_eq!((gateway.so_far().len(), other.so_far().len()), (0, 0));
    assert_eq!(held_because(&sending).await, [Some("needs-approval".to_owned())]);
    let why = sending.waiting().await[0].last_reply.clone();
    assert_eq!(why, Some(format!("held until an administrator approves it: {NEEDS}")), "it is still said which list");

    wish(&sending, Wish::Release).await;
    sending.queue.step(sending.now + Duration::hours(47)).await.unwrap();
    assert_eq!(other.received(1).await[0].recipients, MEMBERS, "whole, by what applies now");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn what_is_released_while_its_gateway_is_down_does_not_go_around_it_when_that_is_taken_away(owner: PgPool) {
    let sending = Sending::on(owner).await;
    sending.set_limits(|_| {});
    let archive = Gateway::start().await;
    let all = Some(sending.add_gateway(archive.address));
    let own = sending.add_gateway(Gateway::free_address().await);
    sending.point(Pointers { user: Some(own), all, ..Pointers::default() });
    sending.transfer.accept(to_list(&sending, &MEMBERS)).await;
    assert_eq!(held_because(&sending).await, [Some("needs-approval".to_owned())]);

    wish(&sending, Wish::Release).await;
    sending.queue.step(sending.now + Duration::HOUR).await.unwrap();
    assert_eq!(held_because(&sending).await, [None], "it is let go, and waits for the gateway");
    sending.point(Pointers { all, ..Pointers::default() });
    sending.queue.step(sending.now + Duration::hours(30)).await.unwrap();
    assert_eq!(held_because(&sending).await, [Some("gateway-taken-away".to_owned())]);
    assert!(archive.so_far().is_empty(), "who released it was not asked about that");
}

#[sqlx::test]
async fn a_release_lets_nothing_go_whose_gateway_was_taken_away_before(owner: PgPool) {
    let sending = Sending::on(owner).await;
    sending.set_limits(|_| {});
    let archive = Gateway::start().await;
    let all = Some(sending.add_gateway(archive.address));
    let own = sending.add_gateway(Gateway::free_address().await);
    sending.point(Pointers { user: Some(own), all, ..Pointers::default() });
    sending.transfer.accept(to_list(&sending, &MEMBERS)).await;
    sending.point(Pointers { all, ..Pointers::default() });
    wish(&sending, Wish::Release).await;
    sending.queue.step(sending.now + Duration::HOUR).await.unwrap();
    assert_eq!(held_because(&sending).await, [Some("gateway-taken-away".to_owned())]);
    assert!(archive.so_far().is_empty());
}

#[sqlx::test]
async fn mail_that_has_no_gateway_yet_is_not_let_go_by_setting_one(owner: PgPool) {
    let sending = Sending::on(owner).await;
    sending.point(Pointers { must_use_gateway: true, ..Pointers::default() });
    sending.set_limits(|_| {});
    sending.transfer.accept(to_list(&sending, &MEMBERS)).await;
    assert_eq!(held_because(&sending).await, [Some("needs-approval".to_owned())]);
    let gateway = Gateway::start().await;
    let all = sending.set_gateway(Some(&gateway.address.to_string()));
    sending.point(Pointers { all, must_use_gateway: true, ..Pointers::default() });
    sending.queue.step(sending.now + Duration::HOUR).await.unwrap();
    assert!(gateway.so_far().is_empty());

    wish(&sending, Wish::Release).await;
    sending.queue.step(sending.now + Duration::HOUR).await.unwrap();
    assert_eq!(gateway.received(1).await.len(), 1);
}

#[sqlx::test]
async fn what_becomes_of_a_gateways_mail_decides_nothing_about_it(owner: PgPool) {
    let gateway = Gateway::start().await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let id = installation.gateway_of(&acme, &gateway.address.to_string()).await;
    for because in [None, Some("needs-approval"), Some("over-limit"), Some("gateway-taken-away")] {
        installation.message(&acme, None, Some("organization"), Some(id), because).await;
    }
    let begin = async || OrganizationTransaction::begin(&owner, acme.id).await.unwrap();
    let all = PointerScope::Organization;
    let mut transaction = begin().await;
    let asked = store::held_mail::count_by_pointer(&mut transaction, acme.id, &all, id).await.unwrap();
    drop(transaction);
    assert_eq!(asked, 2, "of the others it is not even asked");
    store::gateway::set_choosing(begin().await, &all, None, Some(Choice::Send), "admin").await.unwrap();
    let chosen = "select held_because from queued_message where choice = 'send' order by held_because nulls first";
    let chosen: Vec<Option<String>> = sqlx::query_scalar(chosen).fetch_all(&owner).await.unwrap();
    assert_eq!(chosen, [None, Some("gateway-taken-away".to_owned())]);
}

#[sqlx::test]
async fn what_the_gateway_hands_back_was_approved_before(owner: PgPool) {
    let (screen, smarthost) = (Gateway::start().await, Gateway::start().await);
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let sending = Sending::with(owner, Options { default, ..Options::default() }).await;
    let returning_networks = vec!["192.0.2.0/29".parse().unwrap()];
    let settings = GatewaySettings { returning: Returning::Onward, returning_networks, ..GatewaySettings::default() };
    sending.set_gateway_having(&screen.address.to_string(), settings);
    let client = Client { address: "192.0.2.7".parse().unwrap(), is_proven: true, first_pass: None };
    let back = Message { client, ..to_list(&sending, &[LIST]) };
    assert_eq!(sending.transfer.accept(back).await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(smarthost.received(1).await[0].recipients, [LIST]);
}

#[sqlx::test]
async fn what_is_beyond_a_limit_too_waits_for_one_decision_and_says_both(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = sending_limits::through(&gateway, owner).await;
    let a_day = Kind { whose: Whose::Each, window: Window::Day, unit: Unit::External };
    let a_minute = Kind { whose: Whose::Each, window: Window::Minute, unit: Unit::External };
    let set = |kind, action| {
        sending.set_limits(|limits| {
            limits.set.entry(SetAt::Organization).or_default().insert(kind, Limit { most: Some(1), action });
        });
    };
    set(a_minute, Action::Delay);
    sending.transfer.accept(to_list(&sending, &MEMBERS)).await;
    let throttled = "select throttled_until is null from queued_message";
    assert!(sqlx::query_scalar::<_, bool>(throttled).fetch_one(&sending.owner).await.unwrap());
    set(a_day, Action::Hold);
    let reply = sending.transfer.accept(to_list(&sending, &MEMBERS)).await.to_string();
    assert!(reply.contains(&format!("{NEEDS}; 4 external recipients in a day, at most 1 are allowed [")), "{reply}");
    wish(&sending, Wish::Release).await;
    sending.queue.step(sending.now + Duration::MINUTE).await.unwrap();
    assert_eq!(gateway.received(2).await.len(), 2);
    // What is not taken at all is not taken for a list either.
    set(a_day, Action::Refuse);
    let reply = sending.transfer.accept(to_list(&sending, &MEMBERS)).await.to_string();
    assert!(reply.starts_with("550 5.7.1 6 external recipients in a day"), "{reply}");
}

#[sqlx::test]
async fn administrators_are_told_of_what_waits_and_later_of_what_has_come_since(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = sending_limits::through(&gateway, owner.clone()).await;
    let (admin, role) = ("admin@acme.example".parse().unwrap(), Role::Administrator);
    store::administrator::create(&owner, &admin, "not a hash", sending.organization, role).await.unwrap();
    let webhook = "insert into webhook (organization_id, url, secret) values ($1, 'https://x.example/', sha256('x'))";
    sqlx::query(webhook).bind(sending.organization.0).execute(&owner).await.unwrap();
    let tell =
        async |minutes: i64| sending.queue.tell_of_approvals(sending.now + Duration::minutes(minutes)).await.unwrap();
    let send = async |minutes: i64| {
        let mut message = to_list(&sending, &MEMBERS);
        message.accepted_at = sending.now + Duration::minutes(minutes);
        sending.transfer.accept(message).await
    };
    assert_eq!(tell(0).await, 0);
    send(0).await;
    assert_eq!((tell(1).await, tell(2).await), (1, 0));
    let other = sending.another();
    assert_eq!(other.queue.tell_of_approvals(sending.now + Duration::minutes(2)).await.unwrap(), 0, "nor does another");
    assert_eq!(tell(60).await, 0, "nothing has come since");
    for minutes in [61, 62, 63, 64, 65] {
        send(minutes).await;
    }
    assert_eq!(tell(66).await, 1);
    send(67).await;
    assert_eq!((tell(80).await, tell(81).await), (0, 1), "a quarter of an hour later");
    let notices: Vec<String> = told(&sending).await.iter().map(|raw| text(raw)).collect();
    assert!(notices[0].contains("Subject: 1 message waits for approval"), "{}", notices[0]);
    assert!(notices[0].contains(NEEDS) && notices[0].contains("ann@acme.example"), "{}", notices[0]);
    assert!(notices[1].contains("6 messages wait for approval of acme"), "{}", notices[1]);
    assert!(notices[1].contains("and 1 more, which came before"), "{}", notices[1]);
    let outbox: Vec<(String, String)> =
        sqlx::query_as("select kind, body from webhook_notice order by noted_at").fetch_all(&owner).await.unwrap();
    assert_eq!(outbox.len(), 3);
    assert_eq!(outbox[0].0, "approval.wanted");
    assert!(outbox[0].1.contains("1 message waits for approval; the latest is of ann@acme.example"), "{outbox:?}");

    // What somebody has decided about waits no more.
    sqlx::query("delete from queued_message where sender is null").execute(&owner).await.unwrap();
    wish(&sending, Wish::Return).await;
    send(82).await;
    assert_eq!(tell(120).await, 1);
    assert!(text(&told(&sending).await[0]).contains("1 message waits for approval"));
}

#[sqlx::test]
async fn what_comes_back_says_that_nobody_let_it_go(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = sending_limits::through(&gateway, owner.clone()).await;
    sending.transfer.accept(to_list(&sending, &["bob@elsewhere.example"])).await;
    wish(&sending, Wish::Return).await;
    sending.queue.step(sending.now + Duration::HOUR).await.unwrap();
    let report = text(&told(&sending).await[0]);
    for words in [
        "An administrator of your organization did not let it go.",
        "Why it was held: Held until an administrator approves it: a message to the distribution list",
        "Ask your administrator, then send the message again, or to fewer recipients.",
        "Action: failed Status: 5.7.1",
    ] {
        assert!(report.contains(words), "{words} in {report}");
    }
    sqlx::query("delete from queued_message").execute(&owner).await.unwrap();
    // Who does not want to hear of it does not.
    let mut message = to_list(&sending, &["bob@elsewhere.example"]);
    message.envelope.wishes = vec![Wishes { notify: Some("NEVER".parse().unwrap()), original: None }];
    sending.transfer.accept(message).await;
    sending.queue.step(sending.now + Duration::days(2) + Duration::MINUTE).await.unwrap();
    assert!(sending.waiting().await.is_empty());
    assert!(gateway.so_far().is_empty());
}
