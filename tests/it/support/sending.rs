//! The sending half of a relay, without its listeners: routing facts set by hand, a queue on the
//! test's database.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use outgate::{
    mail::{
        Envelope, GatewayAddress, Reply,
        envelope::MailParameters,
        id::{AccountId, GatewayId, OrganizationId, QueueId, RelayId},
        short_id::MessageLinks,
    },
    policy::{
        facts::{AccountFacts, DomainFacts, Gateway as GatewayFacts, OrganizationFacts, RoutingFacts, TlsMode},
        gateway_network::AllowedNetworks,
        gateway_settings::{GatewayLimits, GatewaySettings},
        limit::OrganizationLimits,
        retry::{BackOff, Schedule},
        routing::PlatformDefault,
    },
    relay::{
        handover::{
            Handover,
            connection::TimeLimits,
            dialer::{Dialer, Known},
            second_look::SecondLook,
            tls::{Authorities, Tls},
        },
        message::{Client, Content, Message},
        meter::Meter,
        queue::{Queue, QueueSettings},
        resolver::{FixedNames, Resolver},
        routing_table::{Decided, RoutingTable},
        secret_keys::SecretKeys,
        settings::QueueLimits,
        transfer::{Transfer, TransferSettings},
        volume::{self, Volume},
    },
    store::{
        self,
        queue::{PassedOver, QueuedMessage},
    },
};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{Installation, gateway::HAPPENS_WITHIN};

/// Whom a gateway is asked for that has refused somebody.
pub const PROBE_RECIPIENT: &str = "postmaster@probe.example";

/// What a test may want otherwise.
#[derive(Clone)]
pub struct Options {
    pub default: PlatformDefault,
    pub handover: bool,
    pub handover_wait: Duration,
    pub names: FixedNames,
    pub limits: TimeLimits,
    pub mx_port: u16,
    /// Networks, with blanks between them.
    pub allowed: &'static str,
    pub limits_of_queue: QueueLimits,
    pub schedule: Schedule,
    pub back_off: BackOff,
    /// Where the relay itself is said to listen.
    pub listeners: Vec<SocketAddr>,
    /// Instead of the table of names.
    pub dns: Option<SocketAddr>,
    /// What passwords of gateways are opened with.
    pub keys: Option<PathBuf>,
    /// How many counts of volume wait in memory at most.
    pub volume_rows: usize,
    /// How long a message is this relay's, unless that is renewed.
    pub lease: Duration,
}

impl Options {
    fn keys(&self) -> SecretKeys {
        SecretKeys::from_file(self.keys.clone()).unwrap()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default: PlatformDefault::Mx,
            handover: true,
            handover_wait: Duration::from_secs(20),
            names: FixedNames::default(),
            limits: TimeLimits::default(),
            mx_port: 25,
            allowed: "127.0.0.0/8",
            limits_of_queue: QueueLimits::default(),
            // Tests that are about notices ask for them.
            schedule: Schedule { delay_notice: None, ..Schedule::default() },
            back_off: BackOff::default(),
            keys: None,
            volume_rows: volume::MOST_ROWS,
            lease: Duration::from_secs(2 * 60),
            listeners: vec![],
            dns: None,
        }
    }
}

pub struct Sending {
    pub owner: PgPool,
    /// As the relay's role.
    pub db: PgPool,
    pub options: Options,
    pub organization: OrganizationId,
    /// That of `ann@acme.example`, once [`Sending::point`] was called.
    pub account: AccountId,
    pub table: Arc<RoutingTable>,
    pub handover: Arc<Handover>,
    pub queue: Queue,
    pub volume: Arc<Volume>,
    pub meter: Arc<Meter>,
    pub transfer: Transfer,
    pub now: OffsetDateTime,
}

/// Where the three scopes point, and what else is asked about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pointers {
    pub user: Option<GatewayId>,
    pub domain: Option<GatewayId>,
    pub all: Option<GatewayId>,
    pub must_use_gateway: bool,
    /// The account.
    pub suspended: bool,
}

/// A row of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub state: String,
    pub sender: Option<String>,
    pub recipients: String,
    pub last_reply: Option<String>,
    pub attempts: i32,
    pub leased: bool,
}

impl Sending {
    pub async fn on(owner: PgPool) -> Self {
        Self::with(owner, Options::default()).await
    }

    pub async fn with(owner: PgPool, options: Options) -> Self {
        let db = Installation::on(owner.clone()).relay_pool().await;
        Self::on_pool(owner, db, options).await
    }

    /// The relay reaches the store through a pool of the test's.
    pub async fn on_pool(owner: PgPool, db: PgPool, options: Options) -> Self {
        let installation = Installation::on(owner.clone());
        let organization = installation.organization("acme").await.id;
        let mut facts = RoutingFacts::default();
        facts.set_organization(
            organization,
            Some(OrganizationFacts { suspended: false, gateway: None, must_use_gateway: false, ..Default::default() }),
        );
        facts.set_domain(
            "acme.example".parse().unwrap(),
            Some(DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: None }),
        );
        let table = Arc::new(RoutingTable::new(facts, options.default.clone()));
        Self::assembled(owner, db, options, organization, table)
    }

    /// Another relay on the same store with the same facts.
    pub fn another(&self) -> Self {
        let (organization, table) = (self.organization, self.table.clone());
        Self::assembled(self.owner.clone(), self.db.clone(), self.options.clone(), organization, table)
    }

    /// The same with other options.
    pub fn another_with(&self, options: Options) -> Self {
        Self::assembled(self.owner.clone(), self.db.clone(), options, self.organization, self.table.clone())
    }

    fn assembled(
        owner: PgPool,
        db: PgPool,
        options: Options,
        organization: OrganizationId,
        table: Arc<RoutingTable>,
    ) -> Self {
        // Shown with the output of a test that fails.
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("outgate=debug").try_init();
        let second_look = SecondLook { pool: db.clone(), recipient: PROBE_RECIPIENT.to_owned() };
        let dialer = Dialer {
            resolver: match options.dns {
                Some(server) => Resolver::at(server, Duration::from_millis(500)).unwrap(),
                None => Resolver::Fixed(options.names.clone()),
            },
            tls: Tls::trusting(&Authorities::default()).unwrap(),
            keys: Arc::new(options.keys()),
            allowed: AllowedNetworks {
                networks: options.allowed.split(' ').map(|network| network.parse().unwrap()).collect(),
                listeners: vec![],
                ..Default::default()
            },
            hostname: "relay.outgate.example".to_owned(),
            limits: options.limits,
            listeners: options.listeners.clone(),
            known: Known::default(),
        };
        let handover = Arc::new(Handover::new(dialer, options.back_off).looking_again(second_look));
        let settings = QueueSettings {
            relay: RelayId::new(),
            hostname: "relay.outgate.example".to_owned(),
            links: MessageLinks::default(),
            default: options.default.clone(),
            mx_port: options.mx_port,
            lease: options.lease,
            limits: options.limits_of_queue,
            schedule: options.schedule,
        };
        let queue = Queue::new(db.clone(), settings, table.clone(), handover.clone());
        let settings = TransferSettings { handover: options.handover, handover_wait: options.handover_wait };
        let volume = Arc::new(Volume::of(options.volume_rows));
        let meter = Arc::new(Meter::default());
        let counting = (volume.clone(), meter.clone());
        let transfer = Transfer::new(table.clone(), handover.clone(), queue.clone(), counting, settings);
        let now = OffsetDateTime::now_utc();
        let account = AccountId::new();
        Self { owner, db, options, organization, account, table, handover, queue, volume, meter, transfer, now }
    }

    /// Points the organization at a gateway; `None` deletes the pointer.
    pub fn set_gateway(&self, address: Option<&str>) -> Option<GatewayId> {
        self.set_gateway_with(address, TlsMode::WhenOffered)
    }

    pub fn set_gateway_with(&self, address: Option<&str>, tls: TlsMode) -> Option<GatewayId> {
        let organization = self.organization;
        let gateway = address.map(|address| GatewayFacts {
            organization,
            id: GatewayId::new(),
            revision: 1,
            address: address.parse::<GatewayAddress>().unwrap(),
            tls,
            settings: Arc::default(),
        });
        let id = gateway.as_ref().map(|gateway| gateway.id);
        self.table.change(|facts| {
            if let Some(gateway) = gateway {
                facts.set_gateway(gateway.id, Some(gateway));
            }
            facts.set_organization(
                organization,
                Some(OrganizationFacts {
                    suspended: false,
                    gateway: id,
                    must_use_gateway: false,
                    ..Default::default()
                }),
            );
        });
        id
    }

    /// Points the organization at revision `revision` of this gateway: what its record says, whole.
    pub fn set_record(
        &self,
        id: GatewayId,
        revision: i64,
        address: &str,
        tls: TlsMode,
        settings: GatewaySettings,
    ) -> Arc<GatewayFacts> {
        let (organization, settings) = (self.organization, settings.shared());
        let gateway = GatewayFacts { organization, id, revision, address: address.parse().unwrap(), tls, settings };
        let facts =
            OrganizationFacts { suspended: false, gateway: Some(id), must_use_gateway: false, ..Default::default() };
        self.table.change(|known| {
            known.set_gateway(id, Some(gateway.clone()));
            known.set_organization(organization, Some(facts));
        });
        Arc::new(gateway)
    }

    /// Points the organization at a gateway whose record says this.
    pub fn set_gateway_having(&self, address: &str, settings: GatewaySettings) -> GatewayId {
        let (organization, id, address) = (self.organization, GatewayId::new(), address.parse().unwrap());
        let (tls, settings) = (TlsMode::WhenOffered, settings.shared());
        let gateway = GatewayFacts { organization, id, revision: 1, address, tls, settings };
        self.table.change(|facts| facts.set_gateway(id, Some(gateway)));
        self.point(Pointers { all: Some(id), ..Pointers::default() });
        id
    }

    /// The same with limits.
    pub fn set_gateway_limited(&self, address: SocketAddr, limits: GatewayLimits) -> GatewayId {
        self.set_gateway_having(&address.to_string(), GatewaySettings { limits, ..GatewaySettings::default() })
    }

    /// A gateway of the organization that nothing points at yet.
    pub fn add_gateway(&self, address: SocketAddr) -> GatewayId {
        let (organization, id) = (self.organization, GatewayId::new());
        let address = address.to_string().parse().unwrap();
        let gateway = GatewayFacts {
            organization,
            id,
            revision: 1,
            address,
            tls: TlsMode::WhenOffered,
            settings: Arc::default(),
        };
        self.table.change(|facts| facts.set_gateway(id, Some(gateway)));
        id
    }

    /// Another organization, whose `olga@other.example` sends through this gateway; without one her mail is held.
    pub async fn add_neighbour(&self, gateway: Option<SocketAddr>) {
        let organization = Installation::on(self.owner.clone()).organization("other").await.id;
        let gateway = gateway.map(|address| GatewayFacts {
            organization,
            id: GatewayId::new(),
            revision: 1,
            address: address.to_string().parse().unwrap(),
            tls: TlsMode::WhenOffered,
            settings: Arc::default(),
        });
        let id = gateway.as_ref().map(|gateway| gateway.id);
        self.table.change(|facts| {
            if let Some(gateway) = gateway {
                facts.set_gateway(gateway.id, Some(gateway));
            }
            let of_all =
                OrganizationFacts { suspended: false, gateway: id, must_use_gateway: true, ..Default::default() };
            facts.set_organization(organization, Some(of_all));
            let domain = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: None };
            facts.set_domain("other.example".parse().unwrap(), Some(domain));
        });
    }

    /// Makes an account of the organization that has this gateway for itself.
    pub fn give_account(&self, user_id: &str, address: &str, tls: TlsMode) -> GatewayId {
        let (organization, id, account) = (self.organization, GatewayId::new(), AccountId::new());
        let settings = Arc::default();
        let gateway = GatewayFacts { organization, id, revision: 1, address: address.parse().unwrap(), tls, settings };
        self.table.change(|facts| {
            facts.set_gateway(id, Some(gateway));
            facts.set_address(user_id, Some(account));
            facts.set_account(account, Some(AccountFacts { suspended: false, gateway: Some(id) }));
        });
        id
    }

    /// Makes the facts these: `ann@acme.example` is an account, and pointers stand at the three scopes.
    pub fn point(&self, pointers: Pointers) {
        let Pointers { user, domain, all, must_use_gateway, suspended } = pointers;
        let (organization, account) = (self.organization, self.account);
        self.table.change(|facts| {
            let of_all = OrganizationFacts { suspended: false, gateway: all, must_use_gateway, ..Default::default() };
            facts.set_organization(organization, Some(of_all));
            facts.set_domain(
                "acme.example".parse().unwrap(),
                Some(DomainFacts { organization, gateway: domain, awaits_gateway: false, inbound_host: None }),
            );
            facts.set_address("ann@acme.example", Some(account));
            facts.set_account(account, Some(AccountFacts { suspended, gateway: user }));
        });
    }

    /// Says how much may be sent, in an organization that is not new any more.
    pub fn set_limits(&self, change: impl FnOnce(&mut OrganizationLimits)) {
        let (organization, account) = (self.organization, self.account);
        self.table.change(|facts| {
            let known = facts.limits(organization).map(|limits| OrganizationLimits::clone(limits));
            let mut limits = known.unwrap_or_else(|| OrganizationLimits::new(self.now - time::Duration::DAY));
            change(&mut limits);
            facts.set_limits(organization, Some(limits));
            facts.set_address("ann@acme.example", Some(account));
        });
    }

    pub fn message(&self, to: &[&str]) -> Message {
        self.message_with(to, "Subject: hello\r\n\r\nHello.\r\n")
    }

    pub fn message_with(&self, to: &[&str], content: impl AsRef<[u8]>) -> Message {
        Message {
            id: QueueId::new(),
            envelope: Envelope {
                reverse_path: "ann@acme.example".to_owned(),
                forward_paths: to.iter().map(|to| (*to).to_owned()).collect(),
                named: None,
                to_approve: Vec::new(),
                wishes: Vec::new(),
                parameters: MailParameters::default(),
            },
            decided: Decided::default(),
            sender: "ann@acme.example".to_owned(),
            message_id: None,
            content: Content::Memory(content.as_ref().to_vec().into()),
            accepted_at: self.now,
            client: Client { address: Ipv4Addr::LOCALHOST.into(), is_proven: true, first_pass: None },
        }
    }

    /// A message to one recipient, and the reply that its client gets.
    pub async fn send(&self) -> Reply {
        self.transfer.accept(self.message(&["bob@elsewhere.example"])).await
    }

    pub async fn step_after(&self, minutes: i64) -> usize {
        let step = self.queue.step(self.now + time::Duration::minutes(minutes));
        timeout(HAPPENS_WITHIN, step).await.expect("the step did not end in time").unwrap()
    }

    /// Up to so many messages that are due at `now`, as another relay takes them: until then, and over from whoever lets
    /// its lease end.
    pub async fn claimed_by(
        &self,
        relay: RelayId,
        most: i64,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Vec<QueuedMessage> {
        let nobody = PassedOver::default();
        store::queue::claim_due_across_tenants(&self.db, relay, most, &nobody, now, until, true).await.unwrap()
    }

    pub async fn waiting(&self) -> Vec<Waiting> {
        let rows = sqlx::query!(
            r#"
            select state, sender, recipients::text as "recipients!", last_reply, attempts,
                   lease_token is not null as "leased!"
            from queued_message order by accepted_at, id
            "#
        );
        let waiting = rows.map(|row| Waiting {
            state: row.state,
            sender: row.sender,
            recipients: row.recipients,
            last_reply: row.last_reply,
            attempts: row.attempts,
            leased: row.leased,
        });
        waiting.fetch_all(&self.owner).await.unwrap()
    }
}

/// Names for a resolver that answers from a table.
pub fn names(addresses: &[(&str, &str)], exchanges: &[(&str, u16, &str)]) -> FixedNames {
    let mut names = FixedNames::default();
    for (host, ip) in addresses {
        names.addresses.entry((*host).to_owned()).or_default().push(ip.parse::<IpAddr>().unwrap());
    }
    for (domain, preference, host) in exchanges {
        names.exchanges.entry((*domain).to_owned()).or_default().push((*preference, (*host).to_owned()));
    }
    names
}
