//! Gateways that stand in for one that is out of reach: in the order of the list, never outside it, and never
//! for a message that was refused.

use std::net::SocketAddr;

use outgate::{
    mail::id::GatewayId,
    policy::{
        facts::TlsMode,
        gateway_settings::{GatewayLimits, GatewaySettings},
        routing::PlatformDefault,
    },
};
use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault, HAPPENS_WITHIN},
    log::Log,
    sending::Options,
};

/// The organization's gateway, for which these stand in.
fn set_gateway(sending: &Sending, first: SocketAddr, backups: &[SocketAddr]) {
    let backups = backups.iter().map(|backup| sending.add_gateway(*backup)).collect();
    sending.set_gateway_having(&first.to_string(), GatewaySettings { backups, ..GatewaySettings::default() });
}

#[sqlx::test]
async fn mail_goes_to_the_first_backup_that_takes_it_while_the_gateway_is_out_of_reach(db: PgPool) {
    let log = Log::capture();
    let (dead, backup) = (Gateway::free_address().await, Gateway::start().await);
    let sending = Sending::on(db).await;
    set_gateway(&sending, dead, &[Gateway::free_address().await, backup.address]);

    for _ in 0..3 {
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    }

    assert_eq!(backup.so_far().len(), 3);
    assert!(sending.waiting().await.is_empty());
    let alerts = log.with("alert=\"gateway backup in use\"");
    assert_eq!(alerts.len(), 1, "once a fall: {alerts:?}");
    let in_use = sending.handover.health().backups_in_use();
    assert_eq!(in_use.len(), 1, "{in_use:?}");
    assert!(in_use[0].failing.reason.starts_with(&format!("gateway {dead}: the connection failed")), "{in_use:?}");
}

#[sqlx::test]
async fn every_way_of_being_out_of_reach_leads_to_the_backup(db: PgPool) {
    let backup = Gateway::start().await;
    let sending = Sending::on(db).await;
    let faults = [
        (At::Greeting, Fault::Says("554 5.3.2 not today".into())),
        (At::Greeting, Fault::Says("421 4.3.2 shutting down".into())),
        (At::Greeting, Fault::Closes),
        (At::Ehlo, Fault::Says("garbage".into())),
        (At::Ehlo, Fault::BreaksTls),
    ];
    for (index, (at, fault)) in faults.into_iter().enumerate() {
        let first = Gateway::start().await;
        first.fails(at, fault.clone());
        set_gateway(&sending, first.address, &[backup.address]);
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711", "{at:?} {fault:?}");
        assert_eq!(backup.so_far().len(), index + 1);
    }
    // TLS is each record's own affair.
    let first = Gateway::start().await;
    let backups = vec![sending.add_gateway(backup.address)];
    let id = sending.set_gateway_having(&first.address.to_string(), GatewaySettings { backups, ..Default::default() });
    sending.table.change(|facts| {
        let mut gateway = facts.gateway(id).unwrap().as_ref().clone();
        gateway.tls = TlsMode::Required;
        facts.set_gateway(id, Some(gateway));
    });
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!((first.so_far().len(), backup.so_far().len()), (0, 6));
}

#[sqlx::test]
async fn a_backup_that_cannot_take_a_message_says_nothing_of_the_gateway_which_is_waited_for(db: PgPool) {
    let (first, small, large) = (Gateway::free_address().await, Gateway::start().await, Gateway::start().await);
    let sending = Sending::on(db).await;
    let limits = GatewayLimits { largest_message: Some(10), ..GatewayLimits::default() };
    let small_id = sending.set_gateway_limited(small.address, limits);
    let large_id = sending.add_gateway(large.address);
    let set = |backups: Vec<GatewayId>| {
        sending.set_gateway_having(&first.to_string(), GatewaySettings { backups, ..GatewaySettings::default() })
    };
    set(vec![small_id, large_id]);
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711", "the next backup takes it");
    assert_eq!((small.so_far().len(), large.so_far().len()), (0, 1));

    set(vec![small_id]);
    let reply = sending.send().await.to_string();
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    sending.step_after(2).await;
    assert_eq!(sending.waiting().await.len(), 1, "it is not returned");
    let first = Gateway::start_on(first).await;
    // That it is back is found out beside the mail.
    for minutes in 20..200 {
        sending.step_after(minutes).await;
    }
    assert_eq!(first.received(1).await.len(), 1);
    assert!(sending.waiting().await.is_empty() && small.so_far().is_empty());
}

#[sqlx::test]
async fn waiting_mail_goes_to_a_backup_too_and_nowhere_outside_the_list(db: PgPool) {
    let smarthost = Gateway::start().await;
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    let (first, backup) = (Gateway::free_address().await, Gateway::free_address().await);
    set_gateway(&sending, first, &[backup]);
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    sending.step_after(2).await;
    assert_eq!(sending.waiting().await[0].attempts, 0);

    let backup = Gateway::start_on(backup).await;
    sending.step_after(10).await;

    assert_eq!(backup.received(1).await.len(), 1);
    assert!(sending.waiting().await.is_empty());
    assert!(smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn what_the_gateway_refuses_is_never_tried_at_a_backup(db: PgPool) {
    let (first, backup) = (Gateway::start().await, Gateway::start().await);
    let sending = Sending::on(db).await;
    set_gateway(&sending, first.address, &[backup.address]);
    let faults = [
        (At::Dot, "554 5.7.1 no"),
        (At::Rcpt, "550 5.1.1 no"),
        (At::Mail, "550 5.7.1 not you"),
        (At::Data, "451 4.3.0 no"),
    ];
    for (at, said) in faults {
        first.says(at, said);
        let reply = sending.send().await.to_string();
        assert!(!reply.contains("kept as"), "{at:?}: {reply}");
        sending.step_after(1).await;
        sending.step_after(5).await;
    }
    assert_eq!(backup.connections(), 0);
}

#[sqlx::test]
async fn mail_returns_to_the_gateway_once_it_is_back_and_no_client_waits_to_find_out(db: PgPool) {
    let (first, backup) = (Gateway::start().await, Gateway::start().await);
    first.fails(At::Greeting, Fault::Closes);
    let sending = Sending::on(db).await;
    set_gateway(&sending, first.address, &[backup.address]);
    sending.send().await;
    assert_eq!((first.connections(), backup.so_far().len()), (1, 1));

    // Nobody asks it before its time.
    sending.send().await;
    assert_eq!((first.connections(), backup.so_far().len()), (1, 2));
    // Then one connection does, beside the mail.
    first.fails(At::Greeting, Fault::Stalls);
    let at = |seconds| {
        let mut message = sending.message(&["bob@elsewhere.example"]);
        message.accepted_at += time::Duration::seconds(seconds);
        message
    };
    for _ in 0..3 {
        assert_eq!(sending.transfer.accept(at(15)).await.to_string(), "250 2.0.0 kept as 4711");
    }
    assert_eq!(backup.so_far().len(), 5);
    first.stalled(1).await;
    assert_eq!(first.connections(), 2);

    first.works_again();
    first.go_on();
    tokio::time::timeout(HAPPENS_WITHIN, sending.handover.health().recovery()).await.expect("it is found out");
    assert!(sending.handover.health().backups_in_use().is_empty());
    assert_eq!(sending.transfer.accept(at(16)).await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!((first.so_far().len(), first.connections(), backup.so_far().len()), (1, 2, 5));
}

#[sqlx::test]
async fn mail_that_a_backup_did_not_take_goes_on_waiting_for_the_gateway(db: PgPool) {
    let (dead, backup) = (Gateway::free_address().await, Gateway::start().await);
    backup.says(At::Dot, "451 4.3.0 later");
    let sending = Sending::on(db).await;
    set_gateway(&sending, dead, &[backup.address]);
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    // Its pointer is emptied: it waited by that, and is held.
    sending.set_gateway(None);
    backup.works_again();
    sending.step_after(5).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    assert!(backup.so_far().is_empty());
}
