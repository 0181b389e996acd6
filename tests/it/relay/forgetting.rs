//! What a relay remembers of gateways and credentials does not grow with all that there ever were.
//! The day that it takes is the test's to say.

use std::{net::Ipv4Addr, time::Duration};

use outgate::{
    mail::id::{CredentialId, GatewayId, OrganizationId},
    policy::{
        facts::TlsMode,
        gateway_settings::GatewaySettings,
        relay_credential::{Limits, RelayCredential, SecretHash},
    },
    relay::submission::sign_in::SignIns,
};
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::support::{Gateway, Sending};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[sqlx::test]
async fn gateways_and_former_revisions_that_nobody_uses_for_a_day_are_forgotten_unless_they_fail(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let health = sending.handover.health();
    let address = gateway.address.to_string();
    let id = GatewayId::new();
    for revision in 1..=5 {
        sending.set_record(id, revision, &address, TlsMode::WhenOffered, GatewaySettings::default());
        assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    }
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    let remembered = || (health.known(), sending.handover.dialer().known.count());
    assert_eq!(remembered(), (6, 5));

    let now = std::time::Instant::now();
    sending.handover.forget_unused(now + 23 * HOUR);
    assert_eq!(remembered(), (6, 5), "not yet");
    sending.handover.forget_unused(now + 25 * HOUR);
    assert_eq!(remembered(), (1, 0));
    assert_eq!(health.failing_gateways().len(), 1, "trouble is never forgotten by itself");

    // What was forgotten is found out again.
    sending.set_record(id, 6, &address, TlsMode::WhenOffered, GatewaySettings::default());
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(remembered(), (2, 1));
}

#[test]
fn the_rates_of_credentials_that_nobody_uses_for_a_day_are_forgotten() {
    let (sign_ins, now) = (SignIns::default(), OffsetDateTime::UNIX_EPOCH);
    let credential = |rate| RelayCredential {
        organization: OrganizationId::new(),
        id: CredentialId::new(),
        user_name: "acme-server".to_owned(),
        secret: SecretHash::of("opensesame"),
        limits: Limits { messages_per_minute: rate, ..Limits::default() },
    };
    let busy = credential(Some(1));
    for credential in [&credential(Some(1)), &credential(Some(5)), &credential(None), &busy] {
        sign_ins.note_use(credential, Ipv4Addr::LOCALHOST.into(), now);
        assert!(sign_ins.take_allowance(credential, now));
    }
    assert_eq!(sign_ins.rates(), 3, "of those that have one");
    let later = now + 25 * time::Duration::HOUR;
    assert!(sign_ins.take_allowance(&busy, later));
    sign_ins.forget_unused(now + 23 * time::Duration::HOUR);
    assert_eq!(sign_ins.rates(), 3);
    sign_ins.forget_unused(later);
    assert_eq!(sign_ins.rates(), 1);
    assert!(!sign_ins.take_allowance(&busy, later), "what was taken still counts");
}
