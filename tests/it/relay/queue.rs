//! Waiting mail: who has it, when it is tried, and what happens when facts change under it.
//! The queue is stepped and given the time; nothing here waits for a clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outgate::{
    mail::{
        id::{RelayId, Revision},
        short_id::MessageLinks,
    },
    policy::{facts::OrganizationFacts, gateway_settings::GatewayLimits, retry::Schedule, routing::PlatformDefault},
    relay::{
        message::Message,
        queue::{Attempted, Queue, QueueSettings, Verdict, after},
        routing_table::RoutingTable,
        settings::QueueLimits,
    },
    store::{self, OrganizationTransaction, queue::Written},
};
use sqlx::PgPool;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Gateway, Installation, Sending,
    gateway::{At, Fault, HAPPENS_WITHIN},
    sending::Options,
};

#[sqlx::test]
async fn mail_for_a_dead_gateway_arrives_when_it_is_back(db: PgPool) {
    let address = Gateway::free_address().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&address.to_string()));
    let reply = sending.send().await;
    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");

    assert_eq!(sending.step_after(0).await, 0, "nobody asks again at once");
    let gateway = Gateway::start_on(address).await;
    assert_eq!(sending.step_after(5).await, 1);

    assert_eq!(gateway.received(1).await[0].content, b"Subject: hello\r\n\r\nHello.\r\n");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn one_message_asks_a_failing_gateway_for_all_that_wait(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.says(At::Greeting, "554 5.3.2 not today");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for _ in 0..30 {
        assert_eq!(sending.send().await.code, 250);
    }
    assert_eq!(gateway.connections(), 1);

    sending.queue.step(sending.now + time::Duration::seconds(15)).await.unwrap();
    assert_eq!(gateway.connections(), 2);
    sending.step_after(3).await;
    assert_eq!(gateway.connections(), 3);
    assert!(sending.waiting().await.iter().all(|row| row.attempts == 0), "its own fault costs no message an attempt");

    gateway.works_again();
    sending.queue.step(sending.now + time::Duration::seconds(225)).await.unwrap();
    assert!(!gateway.so_far().is_empty());
    sending.queue.step(sending.now + time::Duration::seconds(226)).await.unwrap();
    assert_eq!(gateway.received(30).await.len(), 30);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_gateway_that_puts_everything_off_is_failing_and_one_message_asks_it_for_all(db: PgPool) {
    let sending = Sending::on(db).await;
    for (at, said) in
        [(At::Mail, "451 4.3.2 the archive is full"), (At::Dot, "452 4.3.1 no room"), (At::Rcpt, "451 4.3.5 no")]
    {
        let gateway = Gateway::start().await;
        gateway.says(at, said);
        sending.set_gateway(Some(&gateway.address.to_string()));
        let health = sending.handover.health();
        let failing = || {
            let of = |reason: String| reason.starts_with(&format!("gateway {} ", gateway.address)).then_some(reason);
            health.failing_gateways().into_iter().find_map(|(_, failing)| of(failing.reason))
        };
        for _ in 0..12 {
            assert_eq!(sending.send().await.code, 250);
        }
        assert_eq!(failing(), None, "a moment says little");
        sending.step_after(3).await;
        let reason = failing().unwrap();
        assert!(reason.contains(said) && reason.contains("; it puts everything off, 1"), "{reason}");

        let attempts = async || sending.waiting().await.iter().map(|row| row.attempts).sum::<i32>();
        let charged = attempts().await;
        for minutes in [10, 20, 60, 120] {
            sending.step_after(minutes).await;
        }
        assert_eq!(attempts().await, charged, "no message is to blame");
        gateway.works_again();
        sending.step_after(200).await;
        sending.step_after(201).await;
        assert_eq!(gateway.received(12).await.len(), 12, "{said}");
        assert_eq!(failing(), None);
    }
}

#[sqlx::test]
async fn a_gateway_that_refuses_some_for_good_is_not_failing_though_it_puts_all_others_off(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.says(At::Dot, "451 4.3.0 the scanner is busy");
    gateway.answers_recipient("nobody@elsewhere.example", "550 5.1.1 no such user");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for to in
        ["bob@elsewhere.example"; 9].iter().chain(&["nobody@elsewhere.example"]).chain(&["bob@elsewhere.example"; 9])
    {
        sending.transfer.accept(sending.message(&[to])).await;
    }
    sending.step_after(3).await;
    assert!(sending.handover.health().failing_gateways().is_empty());
    sending.send().await;
    sending.step_after(10).await;
    assert_eq!(sending.handover.health().failing_gateways().len(), 1, "ten since then");
}

#[sqlx::test]
async fn what_is_put_off_for_itself_holds_up_no_other_mail_however_often(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.answers_recipient("bob@elsewhere.example", "450 4.2.2 his mailbox is full");
    gateway.answers_recipient("cy@elsewhere.example", "451 4.7.1 greylisted");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for to in ["bob@elsewhere.example", "cy@elsewhere.example"].repeat(10) {
        sending.transfer.accept(sending.message(&[to])).await;
    }
    for minutes in [2, 5, 12] {
        sending.step_after(minutes).await;
    }
    assert!(sending.handover.health().failing_gateways().is_empty());
    let reply = sending.transfer.accept(sending.message(&["dora@elsewhere.example"])).await;
    assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
}

#[sqlx::test]
async fn a_few_messages_that_break_their_gateway_are_no_failing_gateway(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Closes);
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for _ in 0..3 {
        sending.send().await;
    }
    for minutes in [2, 5, 10, 20, 40, 80, 150, 220, 300, 370, 440, 510, 580] {
        sending.step_after(minutes).await;
    }
    assert!(sending.waiting().await[0].attempts > 10);
    assert!(sending.handover.health().failing_gateways().is_empty());
}

#[sqlx::test]
async fn the_lease_of_a_message_is_renewed_as_long_as_its_attempt_takes(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    let options = Options { lease: Duration::from_millis(400), handover: false, ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let (one, other) = (sending.queue.clone(), sending.another().queue);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { tokio::join!(one.run(stop.clone()), other.run(stop)) }
    });
    assert_eq!(sending.send().await.code, 250);
    gateway.stalled(1).await;
    let ends = async || -> time::OffsetDateTime {
        let ends = "select next_attempt_at from queued_message where lease_token is not null";
        sqlx::query_scalar(ends).fetch_one(&sending.owner).await.unwrap()
    };
    let first = ends().await;
    // Three times as long as the lease was.
    let renewed = async { while ends().await < first + time::Duration::milliseconds(1200) {} };
    timeout(HAPPENS_WITHIN, renewed).await.expect("the lease is renewed");
    gateway.works_again();
    gateway.go_on();
    let is_done = async { while !sending.waiting().await.is_empty() {} };
    timeout(HAPPENS_WITHIN, is_done).await.expect("it is recorded");
    assert_eq!(gateway.received(1).await.len(), 1, "nobody else has sent it meanwhile");
    stop.cancel();
    running.await.unwrap();
}

#[sqlx::test]
async fn new_mail_is_handed_over_again_once_the_gateway_works(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Greeting, Fault::Closes);
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.send().await;
    gateway.works_again();
    sending.step_after(1).await;
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
}

#[sqlx::test]
async fn mail_whose_gateway_was_taken_away_is_held_and_never_sent(db: PgPool) {
    let smarthost = Gateway::start().await;
    let address = smarthost.address.to_string().parse().unwrap();
    let options = Options { default: PlatformDefault::Smarthost(address), ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;

    sending.set_gateway(None);
    sending.step_after(5).await;

    let waiting = sending.waiting().await;
    assert_eq!(waiting[0].state, "held");
    assert_eq!(waiting[0].last_reply.as_deref(), Some("the gateway that it waited for was taken away"));
    sending.step_after(60 * 24 * 6).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    assert!(smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn mail_of_a_removed_domain_or_a_suspended_organization_is_held(db: PgPool) {
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    sending.send().await;
    sending.table.change(|facts| {
        facts.set_organization(
            sending.organization,
            Some(OrganizationFacts { suspended: true, gateway: None, must_use_gateway: false, ..Default::default() }),
        );
    });
    sending.step_after(2).await;
    assert!(sending.waiting().await.iter().all(|row| row.state == "held"));
    assert_eq!(sending.waiting().await[0].last_reply.as_deref(), Some("the organization is suspended"));
}

#[sqlx::test]
async fn a_relay_that_lags_behind_holds_nothing_for_lack_of_facts(db: PgPool) {
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let table = Arc::new(RoutingTable::following(PlatformDefault::Mx, Duration::from_secs(3600)));
    let settings = QueueSettings {
        relay: RelayId::new(),
        hostname: "relay.outgate.example".to_owned(),
        links: MessageLinks::default(),
        default: PlatformDefault::Mx,
        mx_port: 25,
        lease: Duration::from_secs(120),
        limits: QueueLimits::default(),
        schedule: Schedule::default(),
    };
    let other = Queue::new(sending.db.clone(), settings, table.clone(), sending.another().handover);

    // Its facts are ten minutes old, and the message is not.
    table.mark_current(Revision(1), Instant::now() - Duration::from_secs(600));
    other.step(sending.now + time::Duration::minutes(5)).await.unwrap();
    let waiting = &sending.waiting().await[0];
    assert_eq!((waiting.state.as_str(), waiting.leased), ("waiting", false));

    table.mark_current(Revision(2), Instant::now());
    other.step(sending.now + time::Duration::minutes(20)).await.unwrap();
    let waiting = &sending.waiting().await[0];
    assert_eq!(waiting.state, "held");
    assert_eq!(waiting.last_reply.as_deref(), Some("the sender's domain was removed"));
}

#[sqlx::test]
async fn waiting_mail_goes_to_the_gateway_that_applies_now(db: PgPool) {
    let new = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    for _ in 0..3 {
        sending.send().await;
    }

    sending.set_gateway(Some(&new.address.to_string()));
    // Not due yet: that its senders have another route is enough.
    assert_eq!(sending.queue.step(sending.now + time::Duration::seconds(1)).await.unwrap(), 3);

    assert_eq!(new.received(3).await.len(), 3);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn two_relays_share_the_queue_and_deliver_each_message_once(db: PgPool) {
    let address = Gateway::free_address().await;
    let one = Sending::on(db).await;
    one.set_gateway(Some(&address.to_string()));
    for _ in 0..40 {
        one.send().await;
    }
    let other = one.another();
    let gateway = Gateway::start_on(address).await;
    let now = one.now + time::Duration::hours(1);

    let (first, second) = tokio::join!(one.queue.step(now), other.queue.step(now));

    assert_eq!(first.unwrap() + second.unwrap(), 40);
    one.queue.step(now).await.unwrap();
    assert_eq!(gateway.received(40).await.len(), 40);
    assert!(one.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_message_whose_client_has_waited_for_long_is_leased_from_when_it_is_committed(db: PgPool) {
    let options = Options { handover: false, ..Options::default() };
    let sending = Sending::with(db, options).await;
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    sending.set_gateway(Some(&gateway.address.to_string()));
    let accepted_at = sending.now - time::Duration::minutes(10);
    let message = Message { accepted_at, ..sending.message(&["bob@elsewhere.example"]) };
    assert!(sending.transfer.accept(message).await.to_string().starts_with("250 2.0.0 queued as "));
    gateway.stalled(1).await;
    let left = "select next_attempt_at > now() + interval '1 minute' from queued_message where lease_token is not null";
    let is_leased: bool = sqlx::query_scalar(left).fetch_one(&sending.owner).await.unwrap();
    assert!(is_leased, "nobody else takes it up meanwhile");
    gateway.go_on();
    gateway.received(1).await;
    sending.queue.settled().await;
}

#[sqlx::test]
async fn what_somebody_else_has_taken_over_while_it_waited_for_a_connection_is_not_begun(db: PgPool) {
    let options = Options { lease: Duration::from_millis(300), handover: false, ..Options::default() };
    let sending = Sending::with(db, options).await;
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    let limits = GatewayLimits { connections: 1, ..GatewayLimits::default() };
    sending.set_gateway_limited(gateway.address, limits);
    sending.send().await;
    gateway.stalled(1).await;
    // It waits for the one connection, and this relay is paused meanwhile: for others its lease has ended.
    sending.send().await;
    let taken = "update queued_message set lease_token = gen_random_uuid(), next_attempt_at = now() + interval '1 hour'
                 where id = (select max(id::text)::uuid from queued_message) and next_attempt_at < now()";
    while sqlx::query(taken).execute(&sending.owner).await.unwrap().rows_affected() == 0 {
        tokio::task::yield_now().await;
    }
    gateway.go_on();
    gateway.received(1).await;
    gateway.works_again();
    sending.queue.settled().await;
    assert_eq!(gateway.so_far().len(), 1, "who has it now sends it");
    assert_eq!(sending.waiting().await.len(), 1);
}

#[sqlx::test]
async fn a_relay_whose_lease_has_ended_records_nothing_over_the_new_owner(db: PgPool) {
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let now = sending.now + time::Duration::minutes(5);
    let until = now + time::Duration::minutes(2);
    let claim = async |relay, now, until| sending.claimed_by(relay, 10, now, until).await;
    let paused = claim(RelayId::new(), now, until).await.remove(0);
    assert!(claim(RelayId::new(), now, until).await.is_empty(), "while the lease holds nobody else gets it");
    let later = until + time::Duration::minutes(2);
    let owner = claim(RelayId::new(), until, later).await.remove(0);

    let token = paused.lease.unwrap().token;
    assert!(!store::queue::record_across_tenants(&sending.db, &paused, token, None).await.unwrap());
    let remove = async |leased| {
        let done = Written { done: &[leased], ..Written::default() };
        store::queue::write_across_tenants(&sending.db, &done).await.unwrap()
    };
    assert!(remove(paused.leased().unwrap()).await.is_empty());
    assert!(sending.waiting().await[0].leased);

    assert_eq!(remove(owner.leased().unwrap()).await, [owner.id]);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn the_queue_wakes_by_itself_and_takes_up_what_its_previous_life_had(db: PgPool) {
    let address = Gateway::free_address().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&address.to_string()));
    sending.send().await;
    // The relay is killed in the middle of an attempt, long before its lease ends.
    let relay = RelayId::new();
    let (now, until) = (sending.now + time::Duration::minutes(5), sending.now + time::Duration::days(1));
    sending.claimed_by(relay, 1, now, until).await;
    assert!(sending.waiting().await[0].leased);

    let gateway = Gateway::start_on(address).await;
    let again = sending.another();
    let settings = QueueSettings {
        relay,
        hostname: "relay.outgate.example".to_owned(),
        links: MessageLinks::default(),
        default: PlatformDefault::Mx,
        mx_port: 25,
        lease: Duration::from_secs(120),
        limits: QueueLimits::default(),
        schedule: Schedule::default(),
    };
    let queue = Queue::new(again.db.clone(), settings, again.table.clone(), again.handover.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (queue, stop) = (queue.clone(), stop.clone());
        async move {
            queue.take_up(&stop).await;
            queue.run(stop).await;
        }
    });

    assert_eq!(gateway.received(1).await.len(), 1);
    stop.cancel();
    timeout(HAPPENS_WITHIN, running).await.expect("the queue did not stop in time").unwrap();
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn no_reason_keeps_an_outcome_from_being_written_down(db: PgPool) {
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let (now, until) = (sending.now + time::Duration::minutes(5), sending.now + time::Duration::minutes(7));
    let claimed = sending.claimed_by(RelayId::new(), 1, now, until).await.remove(0);

    let verdict = Verdict::Waiting("it broke: \0\x1b[31m\r\nno\u{9b}".to_owned() + &"é".repeat(2_000));
    let attempted = Attempted { verdicts: vec![(0, verdict)], charged: true, ..Attempted::default() };
    let recorded = after(&claimed, &attempted, &Schedule::default(), true, now).message;

    let token = claimed.lease.unwrap().token;
    assert!(store::queue::record_across_tenants(&sending.db, &recorded, token, None).await.unwrap());
    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert!(reason.starts_with("it broke: ??[31m??no?é"), "{reason}");
    assert!(reason.len() <= 1024);
}

#[sqlx::test]
async fn the_reason_for_waiting_is_that_of_a_recipient_who_waits(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.answers_recipient("later@elsewhere.example", "450 4.2.1 mailbox busy");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let to = ["later@elsewhere.example", "bob@elsewhere.example"];

    sending.transfer.accept(sending.message(&to)).await;
    sending.queue.settled().await;

    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert_eq!(reason, format!("gateway {} said: 450 4.2.1 mailbox busy", gateway.address));
}

#[sqlx::test]
async fn a_stopping_queue_gives_its_leases_back(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Mail, Fault::Stalls);
    let sending = Sending::with(db, Options { handover: false, ..Options::default() }).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let stop = CancellationToken::new();
    let queue = sending.queue.clone();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { queue.run(stop).await }
    });
    sending.send().await;
    gateway.stalled(1).await;
    assert!(sending.waiting().await[0].leased);

    stop.cancel();
    gateway.go_on();
    timeout(HAPPENS_WITHIN, running).await.expect("the queue did not stop in time").unwrap();

    assert_eq!(gateway.so_far().len(), 1, "what is under way is ended first");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn without_hand_over_everything_is_committed_first(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::with(db, Options { handover: false, ..Options::default() }).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let message = sending.message(&["bob@elsewhere.example"]);
    let id = message.id;

    let reply = sending.transfer.accept(message).await;

    assert_eq!(reply.to_string(), format!("250 2.0.0 queued as {id}"));
    assert_eq!(gateway.received(1).await.len(), 1);
    sending.queue.settled().await;
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_large_message_comes_out_of_the_queue_as_it_went_in(db: PgPool) {
    let address = Gateway::free_address().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&address.to_string()));
    let mut content = b"Subject: large\r\n\r\n".to_vec();
    for line in 0..60_000 {
        content.extend_from_slice(format!(".{line} is a line that begins with a dot or two\r\n..\r\n").as_bytes());
    }
    let message = sending.message_with(&["bob@elsewhere.example"], &content);
    sending.transfer.accept(message).await;
    let pieces = sqlx::query_scalar!(r#"select count(*) as "count!" from queued_body"#);
    assert_eq!(pieces.fetch_one(&sending.owner).await.unwrap() as usize, content.len().div_ceil(store::queue::PIECE));

    let gateway = Gateway::start_on(address).await;
    sending.step_after(5).await;

    assert!(gateway.received(1).await[0].content == content);
}

#[sqlx::test]
async fn a_message_that_is_deferred_is_tried_later_and_later(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.says(At::Rcpt, "450 4.2.1 mailbox busy");
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    sending.send().await;
    assert_eq!(sending.waiting().await[0].attempts, 1);

    for (minutes, attempts) in [(2, 2), (3, 2), (5, 3), (20, 4)] {
        sending.step_after(minutes).await;
        assert_eq!(sending.waiting().await[0].attempts, attempts, "after {minutes} minutes");
    }
    gateway.works_again();
    sending.step_after(60).await;
    assert_eq!(gateway.received(1).await.len(), 1);
}

#[sqlx::test]
async fn pages_see_the_state_of_waiting_mail_in_their_organization_and_never_its_content(db: PgPool) {
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    sending.send().await;
    let web = Installation::on(sending.owner.clone()).pool_as(store::roles::WEB).await;
    let seen = sqlx::query_scalar!(r#"select count(*) as "count!" from queued_message"#);
    assert_eq!(seen.fetch_one(&web).await.unwrap(), 0, "outside an organization no waiting mail is seen");
    let mut transaction = OrganizationTransaction::begin(&web, sending.organization).await.unwrap();
    let seen = sqlx::query_scalar!(r#"select count(*) as "count!" from queued_message"#);
    assert_eq!(seen.fetch_one(&mut *transaction).await.unwrap(), 1);
    let bodies = sqlx::query_scalar!(r#"select count(*) as "count!" from queued_body"#);
    assert!(bodies.fetch_one(&mut *transaction).await.is_err());
}
