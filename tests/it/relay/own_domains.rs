//! Mail to the organization's own domains: through the gateway with all other, or to the domains' inbound hosts.
//! Each recipient goes one of both ways, and what became of it is known for each.

use outgate::policy::{
    facts::DomainFacts,
    gateway_settings::{GatewaySettings, OwnDomains},
};
use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault},
    sending::{Options, names},
};

const MIXED: [&str; 3] = ["bob@elsewhere.example", "bea@acme.example", "carl@branch.example"];

/// A gateway that mail to own domains goes around: acme.example has an inbound host, branch.example an MX record.
async fn around_gateway(db: PgPool) -> (Sending, Gateway, Gateway, Gateway) {
    let (gateway, inbound, exchanger) = (Gateway::start().await, Gateway::start().await, Gateway::start().await);
    let names = names(&[("mx.branch.example", "127.0.0.1")], &[("branch.example", 10, "mx.branch.example")]);
    let sending = Sending::with(db, Options { mx_port: exchanger.address.port(), names, ..Options::default() }).await;
    let own_domains = OwnDomains::Inbound;
    sending.set_gateway_having(&gateway.address.to_string(), GatewaySettings { own_domains, ..Default::default() });
    let organization = sending.organization;
    let host = Some(inbound.address.to_string().parse().unwrap());
    sending.table.change(|facts| {
        let domain =
            |inbound_host| Some(DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host });
        facts.set_domain("acme.example".parse().unwrap(), domain(host));
        facts.set_domain("branch.example".parse().unwrap(), domain(None));
    });
    (sending, gateway, inbound, exchanger)
}

#[sqlx::test]
async fn mail_to_own_domains_goes_through_the_gateway_unless_the_record_says_otherwise(db: PgPool) {
    let (sending, gateway, inbound, _) = around_gateway(db).await;
    sending.set_gateway_having(&gateway.address.to_string(), GatewaySettings::default());
    let reply = sending.transfer.accept(sending.message(&MIXED)).await;
    assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(gateway.received(1).await[0].recipients, MIXED);
    assert_eq!(inbound.connections(), 0);
}

#[sqlx::test]
async fn a_message_to_both_is_split_after_it_is_committed(db: PgPool) {
    let (sending, gateway, inbound, exchanger) = around_gateway(db).await;

    let reply = sending.transfer.accept(sending.message(&MIXED)).await;

    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    assert_eq!(gateway.received(1).await[0].recipients, ["bob@elsewhere.example"]);
    assert_eq!(inbound.received(1).await[0].recipients, ["bea@acme.example"]);
    assert_eq!(exchanger.received(1).await[0].recipients, ["carl@branch.example"]);
    sending.queue.settled().await;
    assert!(sending.waiting().await.is_empty());
    // Mail to others only is handed over as ever.
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
}

#[sqlx::test]
async fn what_waits_on_one_way_does_not_go_the_other_and_nobody_gets_it_twice(db: PgPool) {
    let (sending, gateway, inbound, exchanger) = around_gateway(db).await;
    gateway.fails(At::Greeting, Fault::Closes);
    inbound.fails(At::Rcpt, Fault::Says("450 4.2.1 mailbox busy".into()));

    sending.transfer.accept(sending.message(&MIXED)).await;
    sending.queue.settled().await;

    let waiting = sending.waiting().await.remove(0);
    assert_eq!(waiting.recipients.matches(r#""state": "waiting""#).count(), 2, "{}", waiting.recipients);
    assert_eq!(waiting.recipients.matches(r#""state": "delivered""#).count(), 1, "{}", waiting.recipients);
    gateway.works_again();
    sending.step_after(5).await;
    assert_eq!(gateway.received(1).await[0].recipients, ["bob@elsewhere.example"]);
    // The gateway is done with it: taking it away concerns the others no more.
    sending.set_gateway(None);
    inbound.works_again();
    sending.step_after(30).await;
    assert_eq!(inbound.received(1).await[0].recipients, ["bea@acme.example"]);
    assert_eq!((gateway.so_far().len(), exchanger.so_far().len()), (1, 1));
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_domain_of_another_organization_is_not_an_own_one(db: PgPool) {
    let (sending, gateway, inbound, _) = around_gateway(db).await;
    let host = Some(inbound.address.to_string().parse().unwrap());
    sending.table.change(|facts| {
        let organization = outgate::mail::id::OrganizationId::new();
        let other = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: host };
        facts.set_domain("other.example".parse().unwrap(), Some(other));
    });
    let reply = sending.transfer.accept(sending.message(&["dan@other.example"])).await;
    assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(gateway.received(1).await[0].recipients, ["dan@other.example"]);
    assert_eq!(inbound.connections(), 0);
}
