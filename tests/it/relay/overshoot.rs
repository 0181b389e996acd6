//! By how much two relays exceed a limit together that both are sent mail for as fast as it goes. A measurement, run by
//! `benches/overshoot`; that relays count together is tested in `sending_limits`.

use std::time::{Duration, Instant};

use outgate::{
    policy::{
        limit::{Action, Kind, Limit, SetAt, Whose, Window},
        volume::Unit,
    },
    store::{OrganizationTransaction, gateway::PointerScope, limit},
};
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::support::{Gateway, Installation, SmtpClient, outgate::RelayProcess};

/// How many messages an hour.
const MOST: u32 = 4000;
/// How many clients each relay has, in each round.
const ROUNDS: [usize; 6] = [1, 1, 4, 4, 16, 16];
/// A client gives up that was put off for so long: twice what it may take until a relay knows of the other's.
const GIVES_UP: Duration = Duration::from_secs(8);

#[sqlx::test]
#[ignore = "a measurement: benches/overshoot"]
async fn by_how_much_two_relays_exceed_one_limit(owner: PgPool) {
    let gateway = Gateway::start().await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    for round in 0..ROUNDS.len() {
        installation.account(&acme, &format!("u{round}@acme.example"), &[]).await;
    }
    let kind = Kind { whose: Whose::Each, window: Window::Hour, unit: Unit::Messages };
    let limit = Limit { most: Some(MOST), action: Action::Defer };
    let transaction = OrganizationTransaction::begin(&owner, acme.id).await.unwrap();
    limit::set(transaction, &SetAt::Organization, kind, Some(limit), "operator").await.unwrap();
    // The platform's stop is at five times these, and would end the round.
    let external = Kind { unit: Unit::External, ..kind };
    let unlimited = Limit { most: None, action: Action::Alert };
    let transaction = OrganizationTransaction::begin(&owner, acme.id).await.unwrap();
    limit::set(transaction, &SetAt::Organization, external, Some(unlimited), "operator").await.unwrap();
    let one = RelayProcess::start(&owner, "one", |outgate| outgate).await;
    let other = RelayProcess::start(&owner, "other", |outgate| outgate).await;
    for (round, clients) in ROUNDS.into_iter().enumerate() {
        let begun = Instant::now();
        let mut sending = JoinSet::new();
        for client in 0..clients * 2 {
            let relay = [one.submission, other.submission][client % 2];
            let sender = format!("u{round}@acme.example");
            sending.spawn(async move { (client % 2, until_it_is_put_off(relay, &sender).await) });
        }
        let (mut accepted, mut last) = ([0_u32; 2], begun);
        while let Some(sent) = sending.join_next().await {
            let (relay, (of_client, until)) = sent.unwrap();
            accepted[relay] += of_client;
            last = last.max(until);
        }
        let (sum, seconds) = (accepted[0] + accepted[1], (last - begun).as_secs_f64());
        let a_second = f64::from(sum) / seconds / 2.0;
        let beyond = f64::from(sum) - f64::from(MOST);
        println!(
            "{clients} clients each: {a_second:.0}/s at each relay, {sum} accepted of {MOST}: {beyond:.0} too many, \
             {:.1} % or {:.1} s of one relay's",
            beyond / f64::from(MOST) * 100.0,
            beyond / a_second
        );
    }
}

/// Sends as fast as it goes; how many were taken, and when the last of them.
async fn until_it_is_put_off(relay: std::net::SocketAddr, sender: &str) -> (u32, Instant) {
    let mut smtp = SmtpClient::greeted(relay).await;
    let (mut accepted, mut last) = (0, Instant::now());
    while last.elapsed() < GIVES_UP {
        let reply = smtp.submit(sender, "bob@elsewhere.example", "Subject: x\r\n\r\nx").await;
        match reply.starts_with("250 ") {
            true => (accepted, last) = (accepted + 1, Instant::now()),
            // Too many refusals would end the connection.
            false => {
                assert!(reply.starts_with("451 "), "{reply}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    (accepted, last)
}
