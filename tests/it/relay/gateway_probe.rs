//! Gateways that nobody sends mail to: each is connected to now and then, and its trouble known before the next message.
//! The relay's `gateway_probe`, stepped by hand.

use std::{sync::Arc, time::Duration};

use outgate::relay::{gateway_probe::Prober, handover::connection::TimeLimits};
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault},
    sending::Options,
};

const AT_ONCE: Duration = Duration::ZERO;

/// How many were probed of those that had neither mail nor a probe for `quiet`.
async fn look(sending: &Sending, quiet: Duration, now: OffsetDateTime) -> usize {
    let prober = Prober::new(Arc::clone(&sending.handover), Duration::from_secs(60));
    let probed = prober.look(&sending.table, quiet, AT_ONCE, now).await;
    prober.wait().await;
    probed
}

#[sqlx::test]
async fn a_gateway_without_mail_is_connected_to_and_gets_none(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let now = OffsetDateTime::now_utc();
    assert_eq!(look(&sending, AT_ONCE, now).await, 0, "nobody points at a gateway");
    sending.set_gateway(Some(&gateway.address.to_string()));

    assert_eq!(look(&sending, Duration::from_secs(600), now).await, 0, "the relay has only just started");
    assert_eq!(look(&sending, AT_ONCE, now).await, 1);
    assert_eq!((gateway.connections(), gateway.so_far().len()), (1, 0));
    let seen = sending.handover.health().seen(now, Duration::MAX).remove(0);
    assert!(seen.last_reached_at.is_some() && seen.last_accepted_at.is_none() && seen.failing_since.is_none());
    assert_eq!(look(&sending, Duration::from_secs(600), now).await, 0, "it was reached a moment ago");

    assert!(sending.send().await.is_positive());
    let seen = sending.handover.health().seen(now, Duration::MAX).remove(0);
    assert_eq!(seen.throughput.map(|figures| figures.messages), Some(1));
    assert_eq!(look(&sending, Duration::from_secs(600), now).await, 0, "mail says how it does");
}

#[sqlx::test]
async fn trouble_that_a_probe_finds_lasts_until_the_gateway_is_reached_again_though_nobody_waits(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    gateway.fails(At::Greeting, Fault::Says("554 5.7.1 go away".to_owned()));
    let now = OffsetDateTime::now_utc();
    assert_eq!(look(&sending, AT_ONCE, now).await, 1);
    let failing = || sending.handover.health().failing_gateways();
    assert!(failing()[0].1.reason.contains("554 5.7.1 go away"), "{:?}", failing());

    for minutes in 1..4 {
        sending.queue.step(now + time::Duration::minutes(minutes)).await.unwrap();
    }
    assert_eq!(failing().len(), 1, "as long as nobody has seen it well");
    assert_eq!(look(&sending, AT_ONCE, now).await, 0, "it is not asked again at once");
    let later = failing()[0].1.until;
    assert_eq!((look(&sending, Duration::from_secs(600), later).await, failing().len()), (1, 1));

    // Nobody points at it for a while: then nobody is told of it either.
    sending.set_gateway(None);
    assert_eq!(look(&sending, AT_ONCE, later).await, 0);
    sending.queue.step(now + time::Duration::minutes(9)).await.unwrap();
    assert_eq!(failing().len(), 0);
    sending.set_gateway(Some(&gateway.address.to_string()));
    assert_eq!((look(&sending, AT_ONCE, later).await, failing().len()), (1, 1));

    gateway.works_again();
    let later = failing()[0].1.until;
    assert_eq!((look(&sending, Duration::from_secs(600), later).await, failing().len()), (1, 0));
}

#[sqlx::test]
async fn a_gateway_that_hangs_is_waited_for_as_mail_would_and_found_failing(db: PgPool) {
    let gateway = Gateway::start().await;
    let limits = TimeLimits { command: Duration::from_millis(500), ..TimeLimits::default() };
    let sending = Sending::with(db, Options { limits, ..Options::default() }).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    gateway.fails(At::Greeting, Fault::Stalls);
    let (now, prompt) = (OffsetDateTime::now_utc(), Duration::from_millis(1));
    let prober = Prober::new(Arc::clone(&sending.handover), prompt);
    assert_eq!(prober.look(&sending.table, AT_ONCE, AT_ONCE, now).await, 1);
    gateway.stalled(1).await;
    assert_eq!(prober.look(&sending.table, AT_ONCE, AT_ONCE, now).await, 0, "it is being waited for");
    let failing = || sending.handover.health().failing_gateways();
    assert!(failing().is_empty(), "it may still answer");
    prober.wait().await;
    assert_eq!((failing().len(), gateway.connections()), (1, 1));
}
