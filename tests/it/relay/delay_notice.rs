//! A sender hears once in an outage that mail is late, and that nothing is lost.
//! The queue is stepped and given the time; nothing here waits for a clock.

use outgate::{
    mail::notify::Wishes,
    policy::{
        facts::DomainFacts,
        limit::{Action, Kind, Limit, SetAt, Whose, Window},
        retry::Schedule,
        volume::Unit,
    },
    relay::message::Message,
    store::outbound_queue::Wish,
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use time::Duration;

use super::outbound_queue::wish;
use crate::support::{
    Gateway, Sending,
    gateway::Received,
    sending::{Options, Pointers},
};

/// Notices as the inbound host of the sender's domain gets them.
async fn with_inbound_host(db: PgPool, schedule: Schedule) -> (Gateway, Sending) {
    let inbound = Gateway::start().await;
    let sending = Sending::with(db, Options { schedule, ..Options::default() }).await;
    let (organization, inbound_host) = (sending.organization, Some(inbound.address.to_string().parse().unwrap()));
    sending.table.change(|facts| {
        let domain = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host };
        facts.set_domain("acme.example".parse().unwrap(), Some(domain));
    });
    (inbound, sending)
}

fn text_of(notification: &Received) -> String {
    let text = String::from_utf8_lossy(&notification.content).replace("=\r\n", "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn notices(sending: &Sending) -> i64 {
    sqlx::query_scalar("select count(*) from delay_notice").fetch_one(&sending.owner).await.unwrap()
}

/// What waits beside notifications.
async fn mail(sending: &Sending) -> usize {
    sending.waiting().await.iter().filter(|row| row.sender.is_some()).count()
}

#[sqlx::test]
async fn in_an_outage_a_sender_gets_one_notice_until_the_gateway_takes_mail_again(db: PgPool) {
    let (inbound, sending) = with_inbound_host(db, Schedule::default()).await;
    let address = Gateway::free_address().await;
    sending.set_gateway(Some(&address.to_string()));
    for _ in 0..20 {
        sending.send().await;
    }
    let mut other_sender = sending.message(&["bob@elsewhere.example"]);
    other_sender.envelope.reverse_path = "carl@acme.example".to_owned();
    other_sender.sender = "carl@acme.example".to_owned();
    sending.transfer.accept(other_sender).await;
    sending.step_after(239).await;
    assert_eq!((notices(&sending).await, inbound.so_far().len()), (0, 0), "not before its time");

    // Two relays come to it at once, and a third later.
    let other = sending.another();
    let (now, later) = (sending.now + Duration::minutes(241), sending.now + Duration::minutes(500));
    let (one, two) = tokio::join!(sending.queue.step(now), other.queue.step(now));
    assert!(one.unwrap() + two.unwrap() >= 21);
    sending.queue.step(now + Duration::SECOND).await.unwrap();
    sending.another().queue.step(later).await.unwrap();
    sending.another().queue.step(later + Duration::HOUR).await.unwrap();
    let told = inbound.received(2).await;
    let mut to: Vec<&str> = told.iter().map(|told| told.recipients[0].as_str()).collect();
    to.sort_unstable();
    assert_eq!((to, notices(&sending).await), (vec!["ann@acme.example", "carl@acme.example"], 2));
    let text = text_of(&told[0]);
    for words in [
        "Subject: Delayed, still trying: bob@elsewhere.example",
        "is delayed. It is not lost, and you need not send it again.",
        &format!("Your organization's mail gateway {address} has not taken it yet."),
        "Action: delayed Status: 4.4.1 Remote-MTA: dns; [127.0.0.1]",
        "Will-Retry-Until: ",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }

    let gateway = Gateway::start_on(address).await;
    sending.another().queue.step(later + Duration::hours(3)).await.unwrap();
    sending.another().queue.step(later + Duration::hours(4)).await.unwrap();
    assert_eq!(gateway.received(21).await.len(), 21);
    assert_eq!((mail(&sending).await, notices(&sending).await), (0, 0), "the next outage is another one");
    gateway.stop().await;
    let again = sending.another();
    let mut message = again.message(&["bob@elsewhere.example"]);
    message.accepted_at = later + Duration::hours(10);
    again.transfer.accept(message).await;
    again.queue.step(later + Duration::hours(15)).await.unwrap();
    again.queue.step(later + Duration::hours(15) + Duration::SECOND).await.unwrap();
    assert_eq!(inbound.received(3).await.len(), 3);
}

#[sqlx::test]
async fn only_who_wants_to_hear_of_delays_does(db: PgPool) {
    let (inbound, sending) = with_inbound_host(db, Schedule::default()).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    for notify in ["NEVER", "FAILURE", "SUCCESS"] {
        let mut message = sending.message(&["bob@elsewhere.example"]);
        message.envelope.wishes = vec![Wishes { notify: Some(notify.parse().unwrap()), original: None }];
        sending.transfer.accept(message).await;
    }
    let mut null = sending.message(&["bob@elsewhere.example"]);
    null.envelope.reverse_path = String::new();
    sending.transfer.accept(null).await;
    sending.step_after(300).await;
    sending.step_after(301).await;
    assert_eq!((mail(&sending).await, notices(&sending).await), (4, 0));

    let mut message = sending.message(&["bob@elsewhere.example", "carla@elsewhere.example"]);
    let delay = Wishes { notify: Some("DELAY".parse().unwrap()), original: None };
    let never = Wishes { notify: Some("NEVER".parse().unwrap()), original: None };
    message.envelope.wishes = vec![never, delay];
    sending.transfer.accept(message).await;
    sending.step_after(302).await;
    sending.step_after(303).await;
    let text = text_of(&inbound.received(1).await[0]);
    assert!(text.contains("carla@elsewhere.example") && !text.contains("bob@"), "{text}");
}

#[sqlx::test]
async fn who_waits_for_an_administrator_hears_that_nothing_need_be_done(db: PgPool) {
    let (inbound, sending) = with_inbound_host(db, Schedule::default()).await;
    let inbound_host = Some(inbound.address.to_string().parse().unwrap());
    sending.point(Pointers { must_use_gateway: true, ..Pointers::default() });
    let organization = sending.organization;
    sending.table.change(|facts| {
        let domain = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host };
        facts.set_domain("acme.example".parse().unwrap(), Some(domain));
    });
    sending.send().await;
    sending.send().await;
    assert_eq!(sending.step_after(239).await, 0);
    assert_eq!(sending.step_after(240).await, 2);
    sending.step_after(241).await;
    let told = inbound.received(1).await;
    let text = text_of(&told[0]);
    for words in [
        "Subject: Held, not lost: bob@elsewhere.example",
        "is held. It is not lost, and you need not send it again.",
        "Why it is held: Mail must leave through a gateway, and the sender has none.",
        "It leaves by itself once an administrator of your organization has set where it goes.",
        "What to do: Nothing.",
        "Action: delayed Status: 4.4.0 Diagnostic-Code: x-outgate; mail must leave",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(sending.step_after(60 * 24 * 6).await, 0, "they wait for the administrator again");
    assert_eq!(told.len(), 1);
    assert!(sending.waiting().await.iter().all(|row| row.state == "held"));
}

#[sqlx::test]
async fn without_the_setting_nobody_is_told_and_another_time_is_kept_to(db: PgPool) {
    let never = Schedule { delay_notice: None, ..Schedule::default() };
    let (inbound, sending) = with_inbound_host(db.clone(), never).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    sending.step_after(60 * 24 * 4).await;
    sending.step_after(60 * 24 * 4 + 1).await;
    assert_eq!((notices(&sending).await, inbound.so_far().len()), (0, 0));

    sqlx::raw_sql("truncate organization cascade").execute(&db).await.unwrap();
    let soon = Schedule { delay_notice: Some(Duration::minutes(10)), ..Schedule::default() };
    let (inbound, sending) = with_inbound_host(db, soon).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    sending.step_after(10).await;
    sending.step_after(11).await;
    assert_eq!(inbound.received(1).await.len(), 1);
}

/// Where one recipient a minute is allowed to each account.
async fn slowed_down(db: PgPool) -> (Gateway, Gateway, Sending) {
    let (inbound, sending) = with_inbound_host(db, Schedule::default()).await;
    let gateway = Gateway::start().await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    slow_down(&sending);
    (inbound, gateway, sending)
}

fn slow_down(sending: &Sending) {
    let kind = Kind { whose: Whose::Each, window: Window::Minute, unit: Unit::Recipients };
    sending.set_limits(|limits| {
        limits.default_acts_from = sending.now + Duration::days(9999);
        let limit = Limit { most: Some(1), action: Action::Delay };
        limits.set.entry(SetAt::Organization).or_default().insert(kind, limit);
    });
}

/// A message of ann's to so many, so many minutes after the start.
fn to_many(sending: &Sending, recipients: usize, minutes: i64) -> Message {
    let to: Vec<String> = (0..recipients).map(|place| format!("r{place}@elsewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let accepted_at = sending.now + Duration::minutes(minutes);
    Message { accepted_at, ..sending.message(&to) }
}

#[sqlx::test]
async fn who_waits_for_a_limit_hears_once_which_one_and_when_the_last_of_it_leaves(db: PgPool) {
    let (inbound, gateway, sending) = slowed_down(db).await;
    // It leaves after 299 minutes, the others a minute later each.
    sending.transfer.accept(to_many(&sending, 300, 0)).await;
    for minutes in [1, 2, 3] {
        sending.transfer.accept(to_many(&sending, 1, minutes)).await;
    }
    sending.step_after(239).await;
    assert_eq!((notices(&sending).await, inbound.so_far().len()), (0, 0), "not before its time");
    assert_eq!(sending.step_after(240).await, 1, "it alone has waited for so long");
    let other = sending.another();
    let now = sending.now + Duration::minutes(244);
    let (one, two) = tokio::join!(sending.queue.step(now), other.queue.step(now));
    assert!(one.unwrap() + two.unwrap() >= 3);
    sending.step_after(245).await;
    let told = inbound.received(1).await;
    let text = text_of(&told[0]);
    for words in [
        "Subject: Waits for a limit, not lost: 300 recipients",
        "waits for a limit. It is not lost, and you need not send it again.",
        "Why it waits: 300 recipients in a minute, at most 1 are allowed. What happens next: It leaves by itself on",
        "The last of what you have sent so far leaves on",
        "What to do: Nothing.",
        "Action: delayed Status: 4.7.1 Diagnostic-Code: x-outgate; 300 recipients",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(gateway.so_far().is_empty(), "nothing leaves sooner");
    sending.step_after(298).await;
    assert!(gateway.so_far().is_empty());
    for minutes in [299, 300, 301, 302] {
        sending.step_after(minutes).await;
    }
    assert_eq!((gateway.received(4).await.len(), inbound.so_far().len()), (4, 1), "once for all of them");

    // Slowed down again, it is told again.
    sending.transfer.accept(to_many(&sending, 300, 600)).await;
    sending.step_after(841).await;
    sending.step_after(842).await;
    assert_eq!(inbound.received(2).await.len(), 2);
}

#[sqlx::test]
async fn to_tell_who_waits_for_a_limit_takes_no_second_connection_to_the_store(owner: PgPool) {
    let relay = (*owner.connect_options()).clone().username(outgate::store::roles::RELAY);
    let only = PgPoolOptions::new().max_connections(1).acquire_timeout(std::time::Duration::from_secs(2));
    let options = Options { schedule: Schedule::default(), ..Options::default() };
    let sending = Sending::on_pool(owner, only.connect_lazy_with(relay), options).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    slow_down(&sending);
    let reply = sending.transfer.accept(to_many(&sending, 300, 0)).await.to_string();
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let told = tokio::time::timeout(std::time::Duration::from_secs(10), sending.step_after(241)).await;
    assert_eq!(told, Ok(1), "many at once would each hold one and wait for another");
    assert_eq!(notices(&sending).await, 1);
}

#[sqlx::test]
async fn waiting_for_a_limit_does_not_make_a_message_older(db: PgPool) {
    let (inbound, gateway, sending) = slowed_down(db).await;
    sending.transfer.accept(to_many(&sending, 1200, 0)).await;
    sending.step_after(241).await;
    let expires: bool = sqlx::query_scalar(
        "select abs(extract(epoch from expires_at - accepted_at - interval '5 days 1199 minutes')) < 1
         from queued_message where sender is not null",
    )
    .fetch_one(&sending.owner)
    .await
    .unwrap();
    assert!(expires);
    sending.step_after(242).await;
    let text = text_of(&inbound.received(1).await[0]);
    assert!(!text.contains("The last of what you have sent"), "it is the last itself: {text}");
    sending.step_after(1199).await;
    assert_eq!(gateway.received(1).await.len(), 1);
}

#[sqlx::test]
async fn who_waits_for_approval_hears_once_until_all_of_it_is_decided(db: PgPool) {
    let (inbound, sending) = with_inbound_host(db, Schedule::default()).await;
    let gateway = Gateway::start().await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let to_list = async |minutes: i64| {
        let mut message = to_many(&sending, 2, minutes);
        message.envelope.to_approve = vec!["all@acme.example".to_owned()];
        sending.transfer.accept(message).await
    };
    to_list(0).await;
    to_list(1).await;
    sending.step_after(241).await;
    sending.step_after(242).await;
    let text = text_of(&inbound.received(1).await[0]);
    for words in [
        "Subject: Held, not lost: 2 recipients",
        "Why it is held: Held until an administrator approves it: a message to the distribution list all@acme.example",
        "It leaves once an administrator of your organization lets it go. If nobody does, it returns to you on",
        "Action: delayed Status: 4.7.1",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    to_list(250).await;
    sending.step_after(491).await;
    sending.step_after(492).await;
    assert_eq!(inbound.so_far().len(), 1, "as long as some of it waits");

    wish(&sending, Wish::Delete).await;
    sending.step_after(493).await;
    assert_eq!(mail(&sending).await, 0);
    to_list(500).await;
    sending.step_after(741).await;
    sending.step_after(742).await;
    assert_eq!(inbound.received(2).await.len(), 2);
    assert!(gateway.so_far().is_empty());
}
