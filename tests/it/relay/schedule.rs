//! When mail is tried again and when it is given up: by the operator's settings, and by no clock that has jumped.
//! The queue is stepped and given the time; nothing here waits for a clock.

use std::time::Instant;

use outgate::{
    policy::{
        retry::{BackOff, Schedule},
        routing::PlatformDefault,
    },
    relay::queue::{Attempted, ClockWatch, Jump, Verdict, after},
};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};

use crate::support::{Gateway, Sending, sending::Options};

fn text(content: &[u8]) -> String {
    String::from_utf8_lossy(content).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn attempts_come_after_twice_as_long_each_time_up_to_the_longest() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let pauses = |schedule: Schedule| {
        [0, 1, 2, 3, 6, 7, 100].map(|attempts| (schedule.next_attempt(now, attempts, 0.0) - now).whole_minutes())
    };
    assert_eq!(pauses(Schedule::default()), [1, 1, 2, 4, 32, 60, 60]);
    let slow =
        Schedule { first_retry: Duration::minutes(5), longest_retry: Duration::days(365), ..Schedule::default() };
    assert_eq!(pauses(slow), [5, 5, 10, 20, 160, 320, 365 * 24 * 60]);
    let late = Schedule::default().next_attempt(now, 1, 0.99) - now;
    assert!(late > Duration::seconds(65) && late <= Duration::seconds(66), "{late}");
}

#[sqlx::test]
async fn the_operator_says_how_long_mail_waits_and_how_long_it_is_held(db: PgPool) {
    let smarthost = Gateway::start().await;
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let schedule = Schedule {
        lifetime: Duration::hours(36),
        held_lifetime: Duration::hours(1),
        delay_notice: None,
        ..Schedule::default()
    };
    let sending = Sending::with(db, Options { default, schedule, ..Options::default() }).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    sending.step_after(60 * 36 - 1).await;
    assert_eq!(sending.waiting().await.len(), 1);
    sending.step_after(60 * 36).await;
    sending.step_after(60 * 36 + 1).await;
    let returned = text(&smarthost.received(1).await[0].content);
    assert!(returned.contains("It could not be delivered within 36 hours."), "{returned}");

    sending.send().await;
    sending.set_gateway(None);
    sending.step_after(5).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    sending.step_after(59).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    sending.step_after(60).await;
    sending.step_after(61).await;
    let returned = text(&smarthost.received(2).await[1].content);
    assert!(returned.contains("It could not be delivered within 1 hour."), "{returned}");
}

#[sqlx::test]
async fn one_notification_names_everybody_for_whom_the_time_is_over(db: PgPool) {
    let smarthost = Gateway::start().await;
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.transfer.accept(sending.message(&["bob@elsewhere.example", "carla@elsewhere.example"])).await;
    sending.step_after(60 * 24 * 5).await;
    sending.step_after(60 * 24 * 5 + 1).await;
    let returned = text(&smarthost.received(1).await[0].content);
    for words in ["Subject: Not delivered: 2 recipients", "bob@elsewhere.example", "carla@elsewhere.example"] {
        assert!(returned.contains(words), "{words} in {returned}");
    }
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn mail_that_looks_too_old_after_the_clock_jumped_is_tried_before_it_is_given_up(db: PgPool) {
    let address = Gateway::free_address().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&address.to_string()));
    for _ in 0..30 {
        sending.send().await;
    }
    // The relay starts again, forty days later by its clock.
    let (again, now) = (sending.another(), sending.now + Duration::days(40));
    let gateway = Gateway::start_on(address).await;
    again.queue.step(now).await.unwrap();
    again.queue.step(now + Duration::minutes(2)).await.unwrap();
    assert_eq!(gateway.received(30).await.len(), 30);
    assert!(sending.waiting().await.is_empty(), "nobody was told that it could not be delivered");
}

#[sqlx::test]
async fn nothing_is_given_up_that_nobody_tried_to_send_or_while_the_clock_is_not_to_be_trusted(db: PgPool) {
    let sending = Sending::on(db).await;
    let gateway = sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let (now, until) = (sending.now + Duration::days(40), sending.now + Duration::days(41));
    let relay = outgate::mail::id::RelayId::new();
    let message = sending.claimed_by(relay, 1, now, until).await.remove(0);
    let busy = || Attempted {
        verdicts: vec![(0, Verdict::Waiting("all connections are in use".to_owned()))],
        waits_for: gateway,
        ..Attempted::default()
    };
    let asked = || Attempted { is_tried: true, ..busy() };
    let schedule = Schedule::default();
    for (attempted, is_steady, is_given_up) in [(busy(), true, false), (asked(), false, false), (asked(), true, true)] {
        let recorded = after(&message, &attempted, &schedule, is_steady, now);
        assert_eq!(recorded.reports.len(), usize::from(is_given_up));
        // It is looked at again soon, but not in the same moment.
        let pause = recorded.message.next_attempt_at - now;
        assert!(pause >= Duration::MINUTE && pause <= Duration::minutes(2), "{pause}");
    }
}

#[sqlx::test]
async fn mail_that_a_clock_which_was_ahead_has_scheduled_is_due_at_once(db: PgPool) {
    let address = Gateway::free_address().await;
    let schedule = Schedule { lifetime: Duration::days(365), delay_notice: None, ..Schedule::default() };
    let sending = Sending::with(db, Options { schedule, ..Options::default() }).await;
    sending.set_gateway(Some(&address.to_string()));
    sending.send().await;
    sending.step_after(60 * 24 * 40).await;
    let gateway = Gateway::start_on(address).await;
    assert_eq!(sending.another().step_after(60).await, 0, "it waits for a day that is far away");

    let again = sending.another();
    again.queue.mind_clock_set_back(sending.now + Duration::HOUR).await.unwrap();
    assert_eq!(again.step_after(60).await, 1);
    assert_eq!(gateway.received(1).await.len(), 1);
}

#[test]
fn a_clock_that_jumps_is_noticed_and_trusted_again_a_quarter_of_an_hour_later() {
    let (watch, start) = (ClockWatch::default(), Instant::now());
    let time = OffsetDateTime::UNIX_EPOCH;
    let look = |seconds: u64, time| watch.look(start + std::time::Duration::from_secs(seconds), time);
    let is_steady = |seconds: u64| watch.is_steady(start + std::time::Duration::from_secs(seconds));
    assert!(is_steady(0), "nobody has looked");
    assert_eq!(look(0, time), None);
    assert!(!is_steady(899) && is_steady(900), "not just after a start");
    assert_eq!(look(900, time + Duration::seconds(910)), None, "clocks are hurried and slowed");
    assert!(is_steady(900));
    let ahead = time + Duration::days(40);
    assert_eq!(look(930, ahead), Some(Jump::Forward(Duration::days(40) - Duration::seconds(940))));
    assert!(!is_steady(1_829) && is_steady(1_830));
    assert_eq!(look(960, ahead - Duration::HOUR), Some(Jump::Backward(Duration::seconds(3_630))));
    assert!(!is_steady(1_859) && is_steady(1_860));
}

#[sqlx::test]
async fn how_long_a_failing_gateway_is_left_alone_is_the_operators_to_say(db: PgPool) {
    let back_off = BackOff { first: Duration::minutes(2), longest: Duration::minutes(7) };
    let sending = Sending::with(db, Options { back_off, ..Options::default() }).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let left_alone_until = || {
        let failing = sending.handover.health().failing_gateways();
        (failing[0].1.until - sending.now).whole_minutes()
    };
    assert_eq!(left_alone_until(), 2);
    // Each time one message asks for all, not before.
    for (minutes, until) in [(1, 2), (2, 6), (5, 6), (6, 13), (13, 20)] {
        sending.step_after(minutes).await;
        assert_eq!(left_alone_until(), until, "at {minutes} minutes");
    }
}

#[test]
fn a_gateway_is_left_alone_for_ten_seconds_and_twice_as_long_each_time_up_to_five_minutes() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let pauses =
        [0, 1, 2, 3, 5, 6, 100].map(|failures| (BackOff::default().next_probe(now, failures) - now).whole_seconds());
    assert_eq!(pauses, [10, 10, 20, 40, 160, 300, 300]);
}
