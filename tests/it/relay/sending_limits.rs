//! Who sends more than a limit allows is slowed down, held or refused, and nobody else is. What is counted is
//! `relay::volume`'s; what pages show and set is `web::limits`'s.

use std::{sync::Arc, time::Duration as Std};

use nix::sys::signal::Signal;
use outgate::{
    mail::{Reply, id::RelayId},
    policy::{
        Role,
        facts::DomainFacts,
        limit::{Action, Kind, Limit, OrganizationLimits, SenderControl, SetAt, Whose, Window},
        volume::{Subject, Unit},
    },
    relay::volume::Writer,
    store::{self, OrganizationTransaction, gateway::PointerScope, limit},
};
use sqlx::PgPool;
use time::Duration;
use tokio::time::timeout;

use crate::support::{
    Gateway, Installation, Sending, SmtpClient,
    gateway::{At, Fault, HAPPENS_WITHIN},
    outgate::RelayProcess,
    sending::Pointers,
};

/// A relay whose mail of ann's goes to this gateway, in an organization for which everything is allowed.
pub(super) async fn through(gateway: &Gateway, owner: PgPool) -> Sending {
    let sending = Sending::on(owner).await;
    let all = sending.set_gateway(Some(&gateway.address.to_string()));
    sending.point(Pointers { all, ..Pointers::default() });
    sending.set_limits(|limits| limits.default_acts_from = sending.now + Duration::days(9999));
    sending
}

fn kind(whose: Whose, window: Window, unit: Unit) -> Kind {
    Kind { whose, window, unit }
}

const MESSAGES_A_MINUTE: Kind = Kind { whose: Whose::Each, window: Window::Minute, unit: Unit::Messages };

fn set(limits: &mut OrganizationLimits, at: SetAt, kind: Kind, most: u32, action: Action) {
    limits.set.entry(at).or_default().insert(kind, Limit { most: Some(most), action });
}

/// Two messages a minute for each account.
fn two_a_minute(sending: &Sending, action: Action) {
    sending.set_limits(|limits| set(limits, SetAt::Organization, MESSAGES_A_MINUTE, 2, action));
}

/// What ann's client hears of a message that comes so many seconds after the start.
async fn send_after(sending: &Sending, seconds: i64) -> String {
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.accepted_at = sending.now + Duration::seconds(seconds);
    sending.transfer.accept(message).await.to_string()
}

async fn step_at(sending: &Sending, seconds: i64) {
    sending.queue.step(sending.now + Duration::seconds(seconds)).await.unwrap();
}

const TAKEN: &str = "250 2.0.0 kept as 4711";

async fn is_taken(sending: &Sending, seconds: i64) -> bool {
    send_after(sending, seconds).await == TAKEN
}

#[sqlx::test]
async fn the_surplus_waits_in_the_queue_and_leaves_at_the_pace_of_the_limit(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone()).await;
    two_a_minute(&sending, Action::Delay);
    assert!(is_taken(&sending, 0).await && is_taken(&sending, 1).await);
    for _ in 0..3 {
        let reply = send_after(&sending, 2).await;
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
        assert!(reply.contains(" messages in a minute, at most 2 are allowed; it leaves at "), "{reply}");
    }
    // One each half a minute, and none sooner.
    for (seconds, there) in [(31, 2), (32, 3), (61, 3), (62, 4), (91, 4), (92, 5)] {
        step_at(&sending, seconds).await;
        assert_eq!(gateway.received(there).await.len(), there, "{seconds} s");
    }
    // What waits for a limit does not grow old.
    assert!(sending.waiting().await.is_empty());
    assert!(is_taken(&sending, 93 + 60).await, "the surplus has left, and the minute is over");
}

#[sqlx::test]
async fn nobody_else_waits_for_one_senders_surplus(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Delay);
    for _ in 0..20 {
        send_after(&sending, 0).await;
    }
    let mut of_ben = sending.message(&["bob@elsewhere.example"]);
    (of_ben.sender, of_ben.envelope.reverse_path) = ("ben@acme.example".to_owned(), "ben@acme.example".to_owned());
    assert_eq!(sending.transfer.accept(of_ben).await.to_string(), TAKEN);
    assert_eq!(gateway.received(3).await.len(), 3);
    assert_eq!(sending.waiting().await.len(), 18);
}

#[sqlx::test]
async fn new_mail_does_not_pass_what_waits_of_the_same_sender(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Delay);
    for _ in 0..8 {
        send_after(&sending, 0).await;
    }
    // The minute is over, and the last of the surplus leaves three minutes after the start.
    let reply = send_after(&sending, 80).await;
    assert!(reply.contains("queued as "), "{reply}");
    step_at(&sending, 181).await;
    assert_eq!(gateway.received(8).await.len(), 8);
    step_at(&sending, 211).await;
    assert_eq!(gateway.received(9).await.len(), 9);
}

#[sqlx::test]
async fn a_message_to_many_at_once_leaves_when_its_surplus_would_have(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let recipients = kind(Whose::Each, Window::Minute, Unit::Recipients);
    sending.set_limits(|limits| set(limits, SetAt::Organization, recipients, 60, Action::Delay));
    let to: Vec<String> = (0..300).map(|place| format!("r{place}@elsewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let reply = sending.transfer.accept(sending.message(&to)).await.to_string();
    assert!(reply.contains("300 recipients in a minute, at most 60 are allowed"), "{reply}");
    step_at(&sending, 239).await;
    assert_eq!(sending.waiting().await.len(), 1);
    step_at(&sending, 240).await;
    assert_eq!(gateway.received(1).await[0].recipients.len(), 300, "whole, as archives need it");
}

#[sqlx::test]
async fn a_gateway_that_takes_mail_again_does_not_let_go_what_waits_for_a_limit(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Delay);
    gateway.fails(At::Mail, Fault::Says("421 4.3.2 later".to_owned()));
    for _ in 0..4 {
        send_after(&sending, 0).await;
    }
    gateway.works_again();
    for seconds in [11, 12, 13, 14] {
        step_at(&sending, seconds).await;
    }
    assert_eq!(gateway.received(2).await.len(), 2);
    assert_eq!(sending.waiting().await.len(), 2);
    // A relay that starts makes due what waits for gateways, and not this.
    let another = sending.another();
    another.queue.take_up(&tokio_util::sync::CancellationToken::new()).await;
    step_at(&another, 15).await;
    assert_eq!(sending.waiting().await.len(), 2);
    // An administrator lets it go: at once.
    sqlx::query("update queued_message set retry_wished_at = now(), next_attempt_at = now() - interval '1 hour'")
        .execute(&sending.owner)
        .await
        .unwrap();
    step_at(&sending, 16).await;
    assert_eq!(gateway.received(4).await.len(), 4);
}

#[sqlx::test]
async fn what_is_held_for_a_limit_waits_for_an_administrator_whatever_else_changes(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Hold);
    assert!(is_taken(&sending, 0).await && is_taken(&sending, 0).await);
    let reply = send_after(&sending, 0).await;
    assert!(reply.contains("held until an administrator releases it: 3 messages in a minute"), "{reply}");
    let held = &sending.waiting().await[0];
    assert_eq!(held.state, "held");
    assert!(held.last_reply.as_ref().is_some_and(|words| words.contains("at most 2 are allowed")), "{held:?}");
    // Other facts let nothing go.
    sending.set_limits(|limits| limits.set.clear());
    step_at(&sending, 3600).await;
    sqlx::query("update queued_message set next_attempt_at = now() - interval '1 hour'")
        .execute(&sending.owner)
        .await
        .unwrap();
    step_at(&sending, 3601).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    sqlx::query("update queued_message set choice = 'send', next_attempt_at = now() - interval '1 hour'")
        .execute(&sending.owner)
        .await
        .unwrap();
    step_at(&sending, 3602).await;
    assert_eq!(gateway.received(3).await.len(), 3);
}

#[sqlx::test]
async fn mail_beyond_a_limit_is_put_off_or_refused_where_an_administrator_says_so(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    for (action, begins) in [(Action::Defer, "451 4.7.1 3 messages"), (Action::Refuse, "550 5.7.1 3 messages")] {
        two_a_minute(&sending, action);
        let start = if action == Action::Defer { 0 } else { 600 };
        assert!(is_taken(&sending, start).await && is_taken(&sending, start).await);
        for _ in 0..5 {
            // What is not taken does not count.
            let reply = send_after(&sending, start + 5).await;
            assert!(reply.starts_with(begins), "{reply}");
            assert!(reply.contains("at most 2 are allowed; sending resumes at "), "{reply}");
        }
        assert!(is_taken(&sending, start + 70).await, "{action}");
    }
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn what_a_gateway_refuses_does_not_count_towards_a_limit(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Defer);
    gateway.says(At::Dot, "554 5.7.1 spam");
    for _ in 0..4 {
        assert!(send_after(&sending, 0).await.starts_with("554 "));
    }
    gateway.works_again();
    assert!(is_taken(&sending, 1).await && is_taken(&sending, 1).await);
    assert!(send_after(&sending, 1).await.starts_with("451 "));
}

#[sqlx::test]
async fn a_limit_that_only_alerts_delays_nothing(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Alert);
    for _ in 0..5 {
        assert!(is_taken(&sending, 0).await);
    }
}

/// How many external recipients ann reaches in one hour before something else happens than that it is taken.
async fn taken_at_once(sending: &Sending, to_each: usize, most: usize) -> (usize, Reply) {
    let to: Vec<String> = (0..to_each).map(|place| format!("r{place}@elsewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    for taken in 0..most {
        let mut message = sending.message(&to);
        // Not within one minute.
        message.accepted_at = sending.now + Duration::seconds(90 * i64::try_from(taken).unwrap());
        let reply = sending.transfer.accept(message).await;
        if reply.to_string() != TAKEN {
            return (taken * to_each, reply);
        }
    }
    panic!("everything was taken");
}

#[sqlx::test]
async fn the_platforms_figures_only_alert_in_a_new_organization_besides_the_stop(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    // 2,500 an hour are five times the limit.
    let (taken, reply) = taken_at_once(&sending, 100, 40).await;
    assert_eq!(taken, 2500);
    let said = reply.to_string();
    assert!(
        said.starts_with("550 5.7.1 2600 external recipients in an hour, at most 500 are allowed; beyond 5 times"),
        "{said}"
    );
}

#[sqlx::test]
async fn the_platforms_figures_hold_where_nobody_has_said_anything_else(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    sending.set_limits(|limits| limits.default_acts_from = sending.now);
    let (taken, reply) = taken_at_once(&sending, 50, 40).await;
    assert_eq!((taken, reply.is_positive()), (500, true), "500 external recipients an hour");
    assert!(reply.to_string().contains("550 external recipients in an hour, at most 500 are allowed"), "{reply}");
}

#[sqlx::test]
async fn the_operators_figures_hold_in_place_of_those_that_are_built_in(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let limit = Limit { most: Some(2), action: Action::Refuse };
    sending.set_limits(|limits| limits.platform = Arc::new([(MESSAGES_A_MINUTE, limit)].into()));
    for _ in 0..4 {
        assert!(is_taken(&sending, 0).await, "in an organization that is new they only alert");
    }
    sending.set_limits(|limits| limits.default_acts_from = sending.now);
    let reply = send_after(&sending, 120).await;
    assert_eq!(reply, TAKEN);
    assert!(is_taken(&sending, 121).await);
    let reply = send_after(&sending, 122).await;
    assert!(reply.starts_with("550 5.7.1 3 messages in a minute, at most 2 are allowed"), "{reply}");
    sending.set_limits(|limits| set(limits, SetAt::Organization, MESSAGES_A_MINUTE, 3, Action::Refuse));
    assert!(is_taken(&sending, 123).await, "the nearest scope decides");
}

#[sqlx::test]
async fn a_sender_far_beyond_the_limit_is_stopped_and_what_waits_of_it_is_held(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let an_hour = kind(Whose::Each, Window::Hour, Unit::Messages);
    sending.set_limits(|limits| set(limits, SetAt::Organization, an_hour, 2, Action::Delay));
    for place in 0..10 {
        assert!(send_after(&sending, place).await.starts_with("250 "), "{place}");
    }
    let reply = send_after(&sending, 20).await;
    assert!(reply.starts_with("550 5.7.1 11 messages in an hour, at most 2 are allowed; beyond 5 times"), "{reply}");
    let waiting = sending.waiting().await;
    assert_eq!((waiting.len(), waiting.iter().all(|waiting| waiting.state == "held")), (8, true));
    sending.queue.step(sending.now + Duration::DAY).await.unwrap();
    assert_eq!(gateway.received(2).await.len(), 2, "nothing leaks out slowly");
}

/// Makes ann@second.example another address of ann's.
fn give_ann_a_second_domain(sending: &Sending) {
    let organization = sending.organization;
    sending.table.change(|facts| {
        let domain = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: None };
        facts.set_domain("second.example".parse().unwrap(), Some(domain));
        facts.set_address("ann@acme.example", Some(sending.account));
        facts.set_address("ann@second.example", Some(sending.account));
    });
}

async fn send_from(sending: &Sending, sender: &str, seconds: i64) -> String {
    let mut message = sending.message(&["bob@elsewhere.example"]);
    message.accepted_at = sending.now + Duration::seconds(seconds);
    (message.sender, message.envelope.reverse_path) = (sender.to_owned(), sender.to_owned());
    sending.transfer.accept(message).await.to_string()
}

#[sqlx::test]
async fn of_who_is_stopped_mail_is_held_from_each_of_its_addresses_whatever_it_waits_for(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    give_ann_a_second_domain(&sending);
    let an_hour = kind(Whose::Each, Window::Hour, Unit::Messages);
    sending.set_limits(|limits| set(limits, SetAt::Organization, an_hour, 2, Action::Delay));
    // The first two wait for their gateway, all others for the limit; one of ben's waits for the gateway, too.
    gateway.fails(At::Mail, Fault::Says("451 4.3.0 later".to_owned()));
    assert!(send_from(&sending, "ben@acme.example", 0).await.contains("queued as "));
    for (place, sender) in ["ann@acme.example", "ann@second.example"].into_iter().cycle().take(10).enumerate() {
        assert!(send_from(&sending, sender, place as i64).await.contains("queued as "), "{place}");
    }
    sending.queue.settled().await;
    gateway.works_again();
    let reply = send_from(&sending, "ann@acme.example", 20).await;
    assert!(reply.starts_with("550 5.7.1 11 messages in an hour, at most 2 are allowed; beyond 5 times"), "{reply}");

    let waiting = sending.waiting().await;
    let held: Vec<_> = waiting.iter().filter(|waiting| waiting.state == "held").collect();
    assert_eq!((waiting.len(), held.len()), (11, 10), "{waiting:?}");
    assert!(held.iter().all(|held| held.sender.as_deref() != Some("ben@acme.example")));
    sending.queue.step(sending.now + Duration::DAY).await.unwrap();
    assert_eq!(gateway.received(1).await[0].reverse_path, "ben@acme.example");
}

#[sqlx::test]
async fn a_message_that_was_judged_before_its_sender_was_stopped_and_is_there_after_is_held_too(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Delay);
    assert!(is_taken(&sending, 0).await && is_taken(&sending, 0).await);
    let ann = sending.table.find("ann@acme.example").unwrap();
    // What another connection did between the two.
    assert!(sending.meter.note_stopped(&ann, "held: far too much", sending.now + Duration::seconds(1)));
    assert!(send_after(&sending, 1).await.contains("; it leaves at "));
    let waiting = sending.waiting().await;
    assert_eq!((waiting.len(), waiting[0].state.as_str()), (1, "held"));
    assert_eq!(waiting[0].last_reply.as_deref(), Some("held: far too much"));
    // What comes later is judged anew.
    assert!(send_after(&sending, 2).await.contains("; it leaves at "));
    assert_eq!(sending.waiting().await.iter().filter(|waiting| waiting.state == "held").count(), 1);
}

#[sqlx::test]
async fn the_nearest_scope_says_how_much_a_sender_may_send(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Defer);
    let domain = SetAt::Domain("acme.example".parse().unwrap());
    sending.set_limits(|limits| set(limits, domain.clone(), MESSAGES_A_MINUTE, 3, Action::Defer));
    for _ in 0..3 {
        assert!(is_taken(&sending, 0).await);
    }
    assert!(send_after(&sending, 0).await.starts_with("451 4.7.1 4 messages in a minute, at most 3"));
    let own = SetAt::Account(sending.account);
    sending.set_limits(|limits| set(limits, own.clone(), MESSAGES_A_MINUTE, 4, Action::Refuse));
    assert!(is_taken(&sending, 0).await);
    assert!(send_after(&sending, 0).await.starts_with("550 5.7.1 5 messages in a minute, at most 4"));
    sending.set_limits(|limits| {
        limits.set.entry(own).or_default().insert(MESSAGES_A_MINUTE, Limit { most: None, action: Action::Refuse });
    });
    assert!(is_taken(&sending, 0).await, "as many as it likes, whatever a wider scope says");
}

#[sqlx::test]
async fn a_domain_and_the_organization_have_limits_for_all_together(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let total = kind(Whose::Total, Window::Hour, Unit::Messages);
    sending.set_limits(|limits| {
        set(limits, SetAt::Domain("acme.example".parse().unwrap()), total, 2, Action::Defer);
    });
    let from = async |user: &str| {
        let mut message = sending.message(&["bob@elsewhere.example"]);
        (message.sender, message.envelope.reverse_path) = (user.to_owned(), user.to_owned());
        sending.transfer.accept(message).await.to_string()
    };
    assert_eq!(from("ann@acme.example").await, TAKEN);
    assert_eq!(from("ben@acme.example").await, TAKEN);
    let reply = from("cy@acme.example").await;
    assert!(reply.starts_with("451 4.7.1 3 messages of the mail domain in an hour, at most 2"), "{reply}");
    sending.set_limits(|limits| {
        limits.set.clear();
        set(limits, SetAt::Organization, total, 2, Action::Defer);
    });
    let reply = from("cy@acme.example").await;
    assert!(reply.starts_with("451 4.7.1 3 messages of the organization in an hour, at most 2"), "{reply}");
}

#[sqlx::test]
async fn service_accounts_have_figures_of_their_own_and_an_exempt_sender_has_none(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Defer);
    sending.set_limits(|limits| {
        let service = Kind { whose: Whose::Service, ..MESSAGES_A_MINUTE };
        set(limits, SetAt::Organization, service, 4, Action::Defer);
        limits.senders.insert(sending.account, SenderControl { is_service: true, ..SenderControl::default() });
    });
    for _ in 0..4 {
        assert!(is_taken(&sending, 0).await);
    }
    assert!(send_after(&sending, 0).await.starts_with("451 4.7.1 5 messages in a minute, at most 4"));
    let exempt_until = Some(sending.now + Duration::seconds(30));
    sending.set_limits(|limits| {
        limits.senders.insert(sending.account, SenderControl { exempt_until, ..SenderControl::default() });
    });
    assert!(is_taken(&sending, 29).await);
    assert!(send_after(&sending, 30).await.starts_with("451 4.7.1 6 messages in a minute, at most 2"));
}

#[sqlx::test]
async fn of_a_blocked_sender_nothing_new_is_taken_and_what_waits_is_held_until_it_may_send_again(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    gateway.fails(At::Mail, Fault::Says("451 4.3.0 later".to_owned()));
    assert!(send_after(&sending, 0).await.contains("queued as "));
    gateway.works_again();
    let blocked = |is_blocked| {
        sending.set_limits(|limits| {
            limits.senders.insert(sending.account, SenderControl { is_blocked, ..SenderControl::default() });
        });
    };
    blocked(true);
    let reply = send_after(&sending, 1).await;
    assert!(reply.starts_with("550 5.7.1 an administrator has blocked this sender"), "{reply}");
    step_at(&sending, 3600).await;
    assert_eq!(sending.waiting().await[0].last_reply.as_deref(), Some("the sender is blocked"));
    assert_eq!(sending.waiting().await[0].state, "held");
    blocked(false);
    step_at(&sending, 3601).await;
    assert_eq!(gateway.received(1).await.len(), 1);
}

pub(super) async fn relay(owner: &PgPool, id: RelayId) {
    sqlx::query(
        "insert into relay (id, name, started_at, last_seen_at, confirmed_revision) values ($1, $2, now(), now(), 0)",
    )
    .bind(id.0)
    .bind(id.to_string())
    .execute(owner)
    .await
    .unwrap();
}

#[sqlx::test]
async fn relays_count_together_and_each_message_once(owner: PgPool) {
    let gateway = Gateway::start().await;
    let one = through(&gateway, owner.clone()).await;
    let other = Sending { account: one.account, now: one.now, ..one.another() };
    one.set_limits(|limits| {
        set(limits, SetAt::Organization, kind(Whose::Each, Window::Hour, Unit::Messages), 6, Action::Defer)
    });
    let ids = [RelayId::new(), RelayId::new()];
    for id in ids {
        relay(&owner, id).await;
    }
    let mut writers =
        [&one, &other].map(|sending| Writer::of(&sending.volume, &sending.meter, &sending.db).looking_each(Std::ZERO));
    for (writer, id) in writers.iter_mut().zip(ids) {
        writer.turn(id).await.unwrap();
    }
    for _ in 0..2 {
        assert!(is_taken(&one, 0).await && is_taken(&other, 0).await);
        for (writer, id) in writers.iter_mut().zip(ids) {
            writer.turn(id).await.unwrap();
        }
    }
    for (writer, id) in writers.iter_mut().zip(ids) {
        writer.turn(id).await.unwrap();
    }
    // Four are counted at both, and not the own ones twice.
    assert!(is_taken(&one, 1).await && is_taken(&one, 1).await);
    let reply = send_after(&one, 1).await;
    assert!(reply.starts_with("451 4.7.1 7 messages in an hour, at most 6"), "{reply}");
    assert!(is_taken(&other, 1).await, "what has not been written down is not known yet");
    for (writer, id) in writers.iter_mut().zip(ids) {
        writer.turn(id).await.unwrap();
    }
    writers[1].turn(ids[1]).await.unwrap();
    let reply = send_after(&other, 1).await;
    assert!(reply.starts_with("451 4.7.1 8 messages in an hour, at most 6"), "{reply}");
}

#[sqlx::test]
async fn what_others_took_while_the_store_was_away_counts_once_they_have_written_it_down(owner: PgPool) {
    let gateway = Gateway::start().await;
    let one = through(&gateway, owner.clone()).await;
    let other = Sending { account: one.account, now: one.now, ..one.another() };
    one.set_limits(|limits| {
        set(limits, SetAt::Organization, kind(Whose::Each, Window::Hour, Unit::Messages), 3, Action::Defer)
    });
    let ids = [RelayId::new(), RelayId::new()];
    for id in ids {
        relay(&owner, id).await;
    }
    let [mut writer, mut of_other] =
        [&one, &other].map(|sending| Writer::of(&sending.volume, &sending.meter, &sending.db).looking_each(Std::ZERO));
    let long_ago = one.now - Duration::minutes(20);
    writer.turn_at(ids[0], long_ago).await.unwrap();
    of_other.turn_at(ids[1], long_ago).await.unwrap();
    // Neither reaches the store now, and each takes something.
    assert!(is_taken(&one, -600).await);
    assert!(is_taken(&other, -660).await && is_taken(&other, -300).await);
    writer.turn_at(ids[0], one.now).await.unwrap();
    of_other.turn_at(ids[1], one.now).await.unwrap();
    for seconds in [2, 4, 6] {
        writer.turn_at(ids[0], one.now + Duration::seconds(seconds)).await.unwrap();
    }
    let reply = send_after(&one, 7).await;
    assert!(reply.starts_with("451 4.7.1 4 messages in an hour, at most 3"), "each once: {reply}");
}

#[sqlx::test]
async fn a_relay_that_starts_knows_what_was_sent_before(owner: PgPool) {
    let gateway = Gateway::start().await;
    let before = through(&gateway, owner.clone()).await;
    two_a_minute(&before, Action::Defer);
    assert!(is_taken(&before, 0).await && is_taken(&before, 0).await);
    let id = RelayId::new();
    relay(&owner, id).await;
    Writer::of(&before.volume, &before.meter, &before.db).turn(id).await.unwrap();

    let after = Sending { account: before.account, now: before.now, ..before.another() };
    let mut writer = Writer::of(&after.volume, &after.meter, &after.db);
    writer.turn(id).await.unwrap();
    let reply = send_after(&after, 1).await;
    assert!(reply.starts_with("451 4.7.1 3 messages in a minute, at most 2"), "{reply}");
}

#[sqlx::test]
async fn several_relays_give_one_pace(owner: PgPool) {
    let gateway = Gateway::start().await;
    let one = through(&gateway, owner).await;
    let other = Sending { account: one.account, now: one.now, ..one.another() };
    two_a_minute(&one, Action::Delay);
    for sending in [&one, &other] {
        for _ in 0..4 {
            send_after(sending, 0).await;
        }
    }
    // Each has let two go before it knew of the other's; the four others leave one each half a minute, whoever took them.
    for (seconds, there) in [(29, 4), (30, 5), (60, 6), (90, 7), (120, 8)] {
        step_at(&one, seconds).await;
        assert_eq!(gateway.received(there).await.len(), there, "{seconds} s");
    }
}

#[sqlx::test]
async fn no_more_waits_for_a_limit_than_may_leave_in_a_day(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let a_day = kind(Whose::Each, Window::Day, Unit::Messages);
    sending.set_limits(|limits| set(limits, SetAt::Organization, a_day, 3, Action::Delay));
    for place in 0..6 {
        assert!(send_after(&sending, place).await.starts_with("250 "), "{place}");
    }
    let reply = send_after(&sending, 7).await;
    assert!(
        reply.starts_with("451 4.7.1 7 messages in a day, at most 3 are allowed; as much waits already"),
        "{reply}"
    );
    assert_eq!(sending.waiting().await.len(), 3);
    // Each takes eight hours: the last leaves a day after the fourth came, and there is room eight hours after that one.
    assert!(reply.contains(", there is room for this at "), "{reply}");
    let room_at = (sending.now + Duration::seconds(3) + Duration::hours(8)).to_offset(time::UtcOffset::UTC);
    let day = if room_at.date() == sending.now.date() { String::new() } else { format!("{} ", room_at.date()) };
    assert!(reply.contains(&format!("{day}{:02}:{:02}", room_at.hour(), room_at.minute())), "{reply}");
}

#[sqlx::test]
async fn a_message_that_one_limit_has_no_room_for_takes_no_turn_at_another(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    two_a_minute(&sending, Action::Delay);
    let a_day = kind(Whose::Each, Window::Day, Unit::Messages);
    sending.set_limits(|limits| set(limits, SetAt::Organization, a_day, 3, Action::Delay));
    for place in 0..6 {
        assert!(send_after(&sending, place).await.starts_with("250 "), "{place}");
    }
    let turns = "select time_window, turn_at from throttle order by time_window";
    let turns = async || sqlx::query_as::<_, (String, time::OffsetDateTime)>(turns).fetch_all(&sending.owner).await;
    let before = turns().await.unwrap();
    assert_eq!(before.len(), 2, "{before:?}");
    for _ in 0..5 {
        assert!(send_after(&sending, 7).await.starts_with("451 4.7.1 "));
    }
    assert_eq!(turns().await.unwrap(), before);
}

#[sqlx::test]
async fn what_would_wait_for_more_than_a_day_by_itself_is_refused_and_not_put_off_for_ever(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let a_day = kind(Whose::Each, Window::Day, Unit::Recipients);
    sending.set_limits(|limits| set(limits, SetAt::Organization, a_day, 2, Action::Delay));
    let to = ["a@far.example", "b@far.example", "c@far.example", "d@far.example", "e@far.example"];
    let reply = sending.transfer.accept(sending.message(&to)).await.to_string();
    let words = "550 5.7.1 5 recipients in a day, at most 2 are allowed; send it to fewer at once";
    assert!(reply.starts_with(words), "{reply}");
    let reply = sending.transfer.accept(sending.message(&to[..4])).await.to_string();
    assert!(reply.starts_with("250 ") && reply.contains("; it leaves at "), "{reply}");
}

#[sqlx::test]
async fn no_more_of_a_sender_is_held_than_may_leave_in_a_day(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let a_day = kind(Whose::Each, Window::Day, Unit::Messages);
    sending.set_limits(|limits| set(limits, SetAt::Organization, a_day, 3, Action::Hold));
    for place in 0..6 {
        assert_eq!(send_after(&sending, place).await.contains("; held until "), place > 2, "{place}");
    }
    let reply = send_after(&sending, 7).await;
    assert!(reply.starts_with("451 4.7.1 7 messages in a day, at most 3 are allowed; sending resumes at "), "{reply}");
    assert_eq!(sending.waiting().await.len(), 3);
    // All together are no sender: what is beyond their limit is held, however much that is.
    sending.set_limits(|limits| {
        limits.set.clear();
        set(limits, SetAt::Organization, kind(Whose::Total, Window::Day, Unit::Messages), 1, Action::Hold);
    });
    assert!(send_after(&sending, 8).await.contains("; held until "));
}

#[sqlx::test]
async fn of_who_is_kept_slowed_down_administrators_are_not_told_again_until_it_is_over_or_stopped(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone()).await;
    let (admin, role) = ("admin@acme.example".parse().unwrap(), Role::Administrator);
    store::administrator::create(&owner, &admin, "not a hash", sending.organization, role).await.unwrap();
    let account = "insert into mail_account (organization_id, id, user_id) values ($1, $2, 'ann@acme.example')";
    sqlx::query(account).bind(sending.organization.0).bind(sending.account.0).execute(&owner).await.unwrap();
    let an_hour = kind(Whose::Each, Window::Hour, Unit::Messages);
    sending.set_limits(|limits| set(limits, SetAt::Organization, an_hour, 2, Action::Delay));
    let tell = async |seconds: i64| {
        let now = sending.now + Duration::seconds(seconds);
        sending.queue.tell_of_limits(&sending.meter, now).await.unwrap()
    };
    for _ in 0..4 {
        send_after(&sending, 0).await;
    }
    assert_eq!(tell(0).await, 2, "near and beyond");
    let transaction = OrganizationTransaction::begin(&owner, sending.organization).await.unwrap();
    let whom = [Subject::Account(sending.account)];
    let kept = store::throttle::keep(transaction, &whom, sending.now, "ann").await.unwrap();
    assert!(matches!(kept, store::throttle::Decided::Changed(1, _)), "{kept:?}");

    // The third and the fourth leave within the hour, and more comes after it.
    for _ in 0..5 {
        send_after(&sending, 3590).await;
    }
    assert_eq!(tell(3700).await, 0, "it is still slowed down");
    for place in 0..20 {
        send_after(&sending, 3700 + place).await;
    }
    assert_eq!(tell(3800).await, 1);
    assert!(told(&sending).await.pop().unwrap().contains("Subject: ann@acme.example is stopped"));
    // What was said of it is over with it.
    let kept = "select count(*) from throttle where kept_at is not null";
    let kept = async || sqlx::query_scalar::<_, i64>(kept).fetch_one(&owner).await.unwrap();
    assert_eq!(kept().await, 1);
    for _ in 0..4 {
        send_after(&sending, 100_000).await;
    }
    assert_eq!(kept().await, 0);
    assert_eq!(tell(100_001).await, 2);
}

/// What an administrator is told: subject and body of each message in the queue that is addressed so.
/// What administrators were told, the oldest first.
pub(super) async fn told(sending: &Sending) -> Vec<String> {
    let bodies = "select string_agg(convert_from(content, 'UTF8'), '' order by piece) from queued_body body
                  join queued_message message on message.id = message_id and sender is null
                  group by message_id order by message_id";
    sqlx::query_scalar(bodies).fetch_all(&sending.owner).await.unwrap()
}

#[sqlx::test]
async fn administrators_are_told_once_an_hour_who_is_near_a_limit_and_who_is_beyond_it(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone()).await;
    let (admin, role) = ("admin@acme.example".parse().unwrap(), Role::Administrator);
    store::administrator::create(&owner, &admin, "not a hash", sending.organization, role).await.unwrap();
    let webhook = "insert into webhook (organization_id, url, secret) values ($1, 'https://x.example/', sha256('x'))";
    sqlx::query(webhook).bind(sending.organization.0).execute(&owner).await.unwrap();
    let an_hour = kind(Whose::Each, Window::Hour, Unit::Messages);
    sending.set_limits(|limits| set(limits, SetAt::Organization, an_hour, 5, Action::Alert));
    let tell = async |minutes: i64| {
        let now = sending.now + Duration::minutes(minutes);
        sending.queue.tell_of_limits(&sending.meter, now).await.unwrap()
    };
    for _ in 0..3 {
        assert!(is_taken(&sending, 0).await);
    }
    assert_eq!(tell(0).await, 0);
    assert!(is_taken(&sending, 0).await);
    assert_eq!(tell(0).await, 1);
    let near = told(&sending).await.remove(0);
    assert!(near.contains("Subject: ann@acme.example is near a limit"), "{near}");
    assert!(near.contains("4 messages in an hour, at most 5 are allowed"), "{near}");
    for _ in 0..4 {
        assert!(is_taken(&sending, 0).await);
    }
    assert_eq!((tell(1).await, tell(1).await), (1, 0), "that the limit is exceeded is told once");
    let beyond = told(&sending).await.remove(1);
    assert!(beyond.contains("Subject: ann@acme.example has sent more than is allowed"), "{beyond}");
    assert!(beyond.contains("Nothing is delayed: you are told, and mail goes its way."), "{beyond}");

    // Another relay sees the same, and tells nothing a second time within the hour.
    let other = Sending { account: sending.account, now: sending.now, ..sending.another() };
    for _ in 0..6 {
        assert!(is_taken(&other, 0).await);
    }
    assert_eq!(other.queue.tell_of_limits(&other.meter, sending.now + Duration::minutes(2)).await.unwrap(), 0);
    for _ in 0..6 {
        assert!(is_taken(&sending, 4200).await);
    }
    assert_eq!(tell(70).await, 2);
    let told: Vec<(String, String)> =
        sqlx::query_as("select kind, body from webhook_notice order by id").fetch_all(&owner).await.unwrap();
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds[..2], ["limit.near", "limit.beyond"], "{told:?}");
    assert!(told.len() == 4 && told[1].1.contains("ann@acme.example has sent more than is allowed: "), "{told:?}");
}

#[sqlx::test]
async fn a_sender_whose_mail_waits_is_told_where_its_organization_wants_that(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone()).await;
    let account = "insert into mail_account (organization_id, id, user_id) values ($1, $2, 'ann@acme.example')";
    sqlx::query(account).bind(sending.organization.0).bind(sending.account.0).execute(&owner).await.unwrap();
    let an_hour = kind(Whose::Each, Window::Hour, Unit::Messages);
    let tell = async |minutes: i64| {
        let now = sending.now + Duration::minutes(minutes);
        sending.queue.tell_of_limits(&sending.meter, now).await.unwrap()
    };
    sending.set_limits(|limits| set(limits, SetAt::Organization, an_hour, 2, Action::Delay));
    for _ in 0..3 {
        send_after(&sending, 0).await;
    }
    assert_eq!(tell(0).await, 0, "nobody has said that senders want to know, and there is no administrator");

    sqlx::query("update organization set tell_senders = true").execute(&owner).await.unwrap();
    for _ in 0..3 {
        send_after(&sending, 4200).await;
    }
    assert_eq!(tell(70).await, 2);
    let told = told(&sending).await;
    let [near, notice] = &told[..] else { panic!("{told:?}") };
    assert!(near.contains("Subject: Your mail account is near a limit"), "{near}");
    for words in [
        "Subject: Your mail account has sent more than is allowed",
        "To: <ann@acme.example>",
        "Further mail waits and leaves at the limit's pace. None is lost.",
        "somebody may have your password: change it at once",
    ] {
        assert!(notice.replace("=\r\n", "").contains(words), "{words} in {notice}");
    }
}

#[sqlx::test]
async fn a_limit_that_is_saved_is_live_on_the_relays_and_its_refusal_names_the_message(owner: PgPool) {
    let gateway = Gateway::start().await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let relay = RelayProcess::start(&owner, "one", |outgate| outgate).await;
    let mut smtp = SmtpClient::greeted(relay.submission).await;
    let mut submit = async || smtp.submit("ann@acme.example", "bob@elsewhere.example", "Subject: x\r\n\r\nx").await;
    assert!(submit().await.starts_with("250 "));

    let transaction = OrganizationTransaction::begin(&owner, acme.id).await.unwrap();
    let limit = Limit { most: Some(2), action: Action::Defer };
    let set = limit::set(transaction, &SetAt::Account(ann), MESSAGES_A_MINUTE, Some(limit), "operator").await.unwrap();
    let limit::Set::Changed(committed) = set else { panic!("{set:?}") };
    let is_live = async {
        loop {
            let live = installation.live(committed.revision).await;
            if live.confirmed == live.relays {
                break;
            }
        }
    };
    timeout(HAPPENS_WITHIN, is_live).await.expect("the limit is not live in time");

    // What was sent before the limit was set counts.
    assert!(submit().await.starts_with("250 "));
    let reply = submit().await;
    assert!(
        reply.starts_with("451 4.7.1 3 messages in a minute, at most 2 are allowed; sending resumes at "),
        "{reply}"
    );
    assert!(reply.trim_end().ends_with(']'), "the short id is at its end: {reply}");
    relay.signal(Signal::SIGTERM);
    assert!(relay.ended().await.success());
}
