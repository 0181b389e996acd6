//! Private networks that the operator opened to one organization: its gateways, their backups and its inbound hosts
//! may be there, and nobody else's, whoever has a warm connection.

use outgate::{
    mail::{
        Reply,
        id::{GatewayId, OrganizationId},
    },
    policy::{
        facts::{DomainFacts, Gateway as GatewayFacts, OrganizationFacts, TlsMode},
        gateway_settings::GatewaySettings,
    },
};
use sqlx::PgPool;

use crate::support::{
    Gateway, Installation, Sending,
    sending::{Options, names},
};

const REFUSED: &str = "127.0.0.1 is an address of this machine itself";
const NAME_REFUSED: &str = "The name leads to where no gateway may be.";

/// Where the operator has opened a network to all, in which nobody is.
fn options() -> Options {
    Options { allowed: "192.0.2.0/24", ..Options::default() }
}

/// Says what an organization's own networks are; all of its mail goes through this gateway.
fn set_networks(sending: &Sending, organization: OrganizationId, gateway: Option<GatewayId>, networks: &[&str]) {
    let gateway_networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    let facts = OrganizationFacts { gateway, gateway_networks, ..OrganizationFacts::default() };
    sending.table.change(|known| known.set_organization(organization, Some(facts)));
}

/// Another organization, whose `olga@other.example` sends.
async fn add_other(sending: &Sending) -> OrganizationId {
    let organization = Installation::on(sending.owner.clone()).organization("other").await.id;
    set_networks(sending, organization, None, &[]);
    let domain = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: None };
    sending.table.change(|facts| facts.set_domain("other.example".parse().unwrap(), Some(domain)));
    organization
}

async fn send(sending: &Sending, from: &str, to: &str) -> Reply {
    let mut message = sending.message(&[to]);
    (message.envelope.reverse_path, message.sender) = (from.to_owned(), from.to_owned());
    let reply = sending.transfer.accept(message).await;
    sending.queue.settled().await;
    reply
}

/// Why what waits does.
async fn reasons(sending: &Sending) -> Vec<String> {
    sending.waiting().await.into_iter().map(|waiting| waiting.last_reply.unwrap_or_default()).collect()
}

#[sqlx::test]
async fn a_gateway_may_be_in_a_network_of_its_own_organization_only_and_only_as_long_as_it_is_one(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::with(db, options()).await;
    let other = add_other(&sending).await;
    let theirs = GatewayFacts {
        organization: other,
        id: GatewayId::new(),
        revision: 1,
        address: gateway.address.to_string().parse().unwrap(),
        tls: TlsMode::WhenOffered,
        settings: GatewaySettings::default().shared(),
    };
    let their_id = theirs.id;
    sending.table.change(|facts| facts.set_gateway(their_id, Some(theirs)));
    set_networks(&sending, other, Some(their_id), &[]);
    let ours = sending.add_gateway(gateway.address);

    set_networks(&sending, sending.organization, Some(ours), &["127.0.0.0/8"]);
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    let reply = send(&sending, "olga@other.example", "bob@elsewhere.example").await;
    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    let waiting = reasons(&sending).await;
    assert!(waiting.len() == 1 && waiting[0].contains(REFUSED), "{waiting:?}");

    set_networks(&sending, sending.organization, Some(ours), &["10.0.0.0/8"]);
    let reply = sending.send().await;
    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "the warm connection is not used: {reply}");
    sending.queue.settled().await;
    let waiting = reasons(&sending).await;
    assert!(waiting.len() == 2 && waiting.iter().all(|reason| reason.contains(REFUSED)), "{waiting:?}");
    assert_eq!((gateway.so_far().len(), gateway.connections()), (1, 1));

    set_networks(&sending, sending.organization, Some(ours), &["127.0.0.0/8"]);
    sending.step_after(60).await;
    assert_eq!(gateway.received(2).await.len(), 2);
    assert_eq!(sending.waiting().await.len(), 1, "the other organization's message waits on");
}

#[sqlx::test]
async fn a_backup_may_be_there_as_well(db: PgPool) {
    let (dead, backup) = (Gateway::free_address().await, Gateway::start().await);
    let sending = Sending::with(db, options()).await;
    let backups = vec![sending.add_gateway(backup.address)];
    let settings = GatewaySettings { backups, ..GatewaySettings::default() };
    let first = sending.set_gateway_having(&dead.to_string(), settings);
    set_networks(&sending, sending.organization, Some(first), &["127.0.0.0/8"]);
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(backup.so_far().len(), 1);
}

#[sqlx::test]
async fn an_inbound_host_may_be_there_and_what_others_or_the_dns_name_may_not(db: PgPool) {
    let inbound = Gateway::start().await;
    let names = names(&[("inside.example", "127.0.0.1")], &[]);
    let sending = Sending::with(db, Options { mx_port: inbound.address.port(), names, ..options() }).await;
    let (own, other) = (sending.organization, add_other(&sending).await);
    // A name of the same server: what it resolves to is what counts.
    let host = format!("inside.example:{}", inbound.address.port());
    for (name, organization) in [("acme.example", own), ("other.example", other)] {
        let inbound_host = Some(host.parse().unwrap());
        let facts = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host };
        sending.table.change(|known| known.set_domain(name.parse().unwrap(), Some(facts)));
    }
    set_networks(&sending, own, None, &["127.0.0.0/8"]);
    send(&sending, "ann@acme.example", "bea@acme.example").await;
    assert_eq!(inbound.received(1).await[0].recipients, ["bea@acme.example"]);
    assert!(sending.waiting().await.is_empty());

    send(&sending, "olga@other.example", "ova@other.example").await;
    send(&sending, "ann@acme.example", "x@inside.example").await;
    let waiting = reasons(&sending).await;
    assert!(waiting.len() == 2 && waiting.iter().all(|reason| reason.contains(NAME_REFUSED)), "{waiting:?}");
    assert_eq!((inbound.so_far().len(), inbound.connections()), (1, 1));

    set_networks(&sending, own, None, &[]);
    send(&sending, "ann@acme.example", "bea@acme.example").await;
    assert_eq!((sending.waiting().await.len(), inbound.so_far().len()), (3, 1), "the warm connection is not used");
}
