//! A relay's reception without the rest: a session fed by hand, or a listener on a port of its own.
//! What is accepted lands here, with the reply that the test chose.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use outgate::{
    mail::{
        EnhancedStatus, Reply,
        id::{AccountId, CredentialId, GatewayId, OrganizationId},
        return_address::TokenKey,
        short_id::MessageLinks,
    },
    policy::{
        facts::{AccountFacts, DomainFacts, Gateway, OrganizationFacts, RoutingFacts, TlsMode},
        relay_credential::{Limits, RelayCredential, SecretHash},
        routing::PlatformDefault,
    },
    relay::{
        memory::Memory,
        message::{Content, Message},
        routing_table::RoutingTable,
        settings::Settings,
        submission::{
            self, Accept, OnRefusal, Refused, Takers, Terms,
            session::{Action, Session},
        },
        test_message::{ReturnTokens, Returned},
    },
};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a client on the loopback interface may submit in the dialogs.
pub const MAX_MESSAGE_SIZE: u64 = 100_000;
pub const HOSTNAME: &str = "relay.example";

/// What a credential of the dialogs may do.
fn limited_to(user_name: &str) -> Limits {
    match user_name {
        "acme-printer" => Limits {
            addresses: vec!["printer@acme.example".parse().unwrap()],
            domains: vec!["acme.test".parse().unwrap()],
            messages_per_minute: Some(2),
            allow_bare_line_feeds: true,
            ..Limits::default()
        },
        "acme-elsewhere" => Limits { networks: vec!["198.51.100.0/24".parse().unwrap()], ..Limits::default() },
        _ => Limits::default(),
    }
}

/// Whom the dialogs know: the organizations of acme.example (and acme.test), other.example, strict.example, which takes
/// mail of its accounts only, and, suspended, closed.example, with a few relay credentials; ann@acme.example, who is also ann.lee@; carl@acme.example, suspended.
pub fn known_facts() -> RoutingFacts {
    let mut facts = RoutingFacts::default();
    for (domains, suspended) in [
        (&["acme.example", "acme.test"][..], false),
        (&["other.example"], false),
        (&["strict.example"], false),
        (&["closed.example"], true),
    ] {
        let (organization, gateway) = (OrganizationId::new(), GatewayId::new());
        facts.set_gateway(
            gateway,
            Some(Gateway {
                organization,
                id: gateway,
                revision: 1,
                address: domains[0].parse().unwrap(),
                tls: TlsMode::WhenOffered,
                settings: Arc::default(),
            }),
        );
        facts.set_organization(
            organization,
            Some(OrganizationFacts {
                suspended,
                gateway: Some(gateway),
                must_use_gateway: false,
                refuse_unknown_senders: domains[0] == "strict.example",
                ..Default::default()
            }),
        );
        let credentials = match domains[0] {
            "acme.example" => {
                &[("acme-server", "opensesame"), ("acme-printer", "paperjam"), ("acme-elsewhere", "faraway")][..]
            }
            "other.example" => &[("other-server", "closesesame")],
            _ => &[],
        };
        for (user_name, secret) in credentials {
            let id = CredentialId::new();
            let credential = RelayCredential {
                organization,
                id,
                user_name: (*user_name).to_owned(),
                secret: SecretHash::of(secret),
                limits: limited_to(user_name),
            };
            facts.set_credential(id, Some(credential));
        }
        for domain in domains {
            facts.set_domain(
                domain.parse().unwrap(),
                Some(DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: None }),
            );
        }
    }
    facts.set_address("eve@strict.example", Some(AccountId::new()));
    let (ann, carl) = (AccountId::new(), AccountId::new());
    facts.set_address("ann@acme.example", Some(ann));
    facts.set_address("ann.lee@acme.example", Some(ann));
    facts.set_address("carl@acme.example", Some(carl));
    facts.set_account(carl, Some(AccountFacts { suspended: true, gateway: None }));
    facts
}

pub fn known_table() -> Arc<RoutingTable> {
    Arc::new(RoutingTable::new(known_facts(), PlatformDefault::Mx))
}

pub fn queued() -> Reply {
    Reply::new(250, EnhancedStatus(2, 0, 0), "queued")
}

/// A message as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub sender: String,
    pub reverse_path: String,
    pub forward_paths: Vec<String>,
    /// What MAIL and RCPT said about notifications: `MAIL …`, and `<bob@far.example> …` for each recipient.
    pub asks: Vec<String>,
    /// Our own field and the rest, as bytes are.
    pub received: String,
    pub content: Vec<u8>,
    pub spooled: bool,
}

impl Accepted {
    fn new(sender: String, envelope: outgate::mail::Envelope, whole: &[u8], spooled: bool) -> Self {
        // Our field is folded over three lines.
        let end = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 + 1;
        Self {
            sender,
            asks: asks(&envelope),
            reverse_path: envelope.reverse_path,
            forward_paths: envelope.forward_paths,
            received: String::from_utf8(whole[..end].to_vec()).unwrap(),
            content: whole[end..].to_vec(),
            spooled,
        }
    }
}

fn asks(envelope: &outgate::mail::Envelope) -> Vec<String> {
    let parameter =
        |name: &str, value: Option<String>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
    let said = &envelope.parameters;
    let ret = parameter("RET", said.ret.map(|ret| ret.to_string()));
    let mut asks = vec![format!("MAIL{ret}{}", parameter("ENVID", said.envid.as_ref().map(ToString::to_string)))];
    for (to, wishes) in envelope.forward_paths.iter().zip(&envelope.wishes) {
        let notify = parameter("NOTIFY", wishes.notify.map(|notify| notify.to_string()));
        let original = parameter("ORCPT", wishes.original.as_ref().map(ToString::to_string));
        asks.push(format!("<{to}>{notify}{original}"));
    }
    asks
}

fn terms(table: Arc<RoutingTable>, encrypts: bool) -> Terms {
    Terms {
        hostname: HOSTNAME.to_owned(),
        links: MessageLinks::default(),
        trusted_networks: vec!["127.0.0.0/8".parse().unwrap()],
        max_message_size: MAX_MESSAGE_SIZE,
        table,
        memory: Memory::of(usize::MAX),
        spool_room: Arc::new(AtomicU64::new(u64::MAX)),
        encrypts,
        sign_ins: Arc::default(),
        connections_of_organization: 500,
        connections: 2000,
        returns: None,
    }
}

/// A session without a network.
pub struct Desk {
    session: Session,
    spool: Vec<u8>,
    pub accepted: Vec<Accepted>,
    /// Test messages that have come back.
    pub returned: Vec<Returned>,
    pub closed: bool,
    /// What is said of each message that was read whole, as if it could not be kept.
    pub keeps_nothing: Option<Reply>,
}

impl Desk {
    /// For a client at this address; greeted already.
    pub fn for_client(client: IpAddr) -> (Self, String) {
        Self::on(known_table(), client)
    }

    pub fn on(table: Arc<RoutingTable>, client: IpAddr) -> (Self, String) {
        Self::with(table, client, false)
    }

    /// The same where there may be a certificate.
    pub fn with(table: Arc<RoutingTable>, client: IpAddr, encrypts: bool) -> (Self, String) {
        Self::of(terms(table, encrypts), client)
    }

    /// For a client that brings test messages back, or pretends to: to `return@probe.example`, with this key.
    pub fn returning(client: IpAddr, key: TokenKey) -> Self {
        let returns = ReturnTokens::with_key("return@probe.example".parse().unwrap(), key);
        let returns = Some(Arc::new(returns));
        let max_message_size = 10 * MAX_MESSAGE_SIZE;
        Self::of(Terms { returns, max_message_size, ..terms(known_table(), false) }, client).0
    }

    /// Sessions of one relay that has so much room for messages in memory, and as much on disk.
    pub fn with_room(room: u32) -> impl Fn() -> Self {
        let terms = Arc::new(Terms {
            memory: Memory::of(room as usize),
            spool_room: Arc::new(AtomicU64::new(room.into())),
            max_message_size: 10 * MAX_MESSAGE_SIZE,
            ..terms(known_table(), false)
        });
        move || Self::at(terms.clone(), Ipv4Addr::LOCALHOST.into()).0
    }

    fn of(terms: Terms, client: IpAddr) -> (Self, String) {
        Self::at(Arc::new(terms), client)
    }

    fn at(terms: Arc<Terms>, client: IpAddr) -> (Self, String) {
        let mut session = Session::new(terms, client);
        session.greet();
        let mut desk = Self {
            session,
            spool: Vec::new(),
            accepted: Vec::new(),
            returned: Vec::new(),
            closed: false,
            keeps_nothing: None,
        };
        let greeting = desk.feed(b"");
        (desk, greeting)
    }

    /// The same for a client that is told of when it is refused.
    pub fn noting_refusals(self) -> Self {
        Self { session: self.session.noting_refusals(), ..self }
    }

    pub fn take_refusals(&mut self) -> Vec<Refused> {
        self.session.take_refusals()
    }

    pub fn trusted() -> Self {
        Self::for_client(Ipv4Addr::LOCALHOST.into()).0
    }

    /// A session in which EHLO, MAIL, RCPT and DATA were accepted.
    pub fn after_354() -> Self {
        let mut desk = Self::trusted();
        desk.feed(b"EHLO client.example\r\n");
        desk.feed(b"MAIL FROM:<ann@acme.example>\r\nRCPT TO:<bob@far.example>\r\n");
        let reply = desk.feed(b"DATA\r\n");
        assert!(reply.starts_with("354 "), "{reply}");
        desk
    }

    /// Gives the session bytes as one piece, or into what it lends as a connection does; what it says to them.
    pub fn feed(&mut self, mut input: &[u8]) -> String {
        let mut said = String::new();
        while !input.is_empty()
            && let Some(mut lent) = self.session.lend()
        {
            let before = lent.len();
            let (read, later) = input.split_at(input.len().min(lent.capacity() - before));
            lent.extend_from_slice(read);
            let rest = self.session.take_in(lent, before);
            said += &self.take(&rest);
            input = later;
        }
        said + &self.take(input)
    }

    fn take(&mut self, mut input: &[u8]) -> String {
        while !self.closed {
            match self.session.on(&mut input, OffsetDateTime::UNIX_EPOCH) {
                Action::Read => break,
                Action::Close => self.closed = true,
                // As if the handshake took no time.
                Action::StartTls => self.session.encrypted(),
                Action::Spool(piece) => self.spool.extend(piece.to_vec()),
                Action::Accept(submitted) if self.keeps_nothing.is_some() => {
                    let reply = self.keeps_nothing.clone().unwrap();
                    let reply = self.session.not_kept(submitted.id, submitted.envelope, reply);
                    self.session.answer(&reply);
                }
                Action::Accept(submitted) => {
                    let mut whole = std::mem::take(&mut self.spool);
                    let spooled = !whole.is_empty();
                    whole.extend(submitted.rest.to_vec());
                    self.accepted.push(Accepted::new(submitted.sender, submitted.envelope, &whole, spooled));
                    self.session.answer(&queued());
                }
                Action::TakeBack(returned) => {
                    self.returned.push(*returned);
                    self.session.answer(&queued());
                }
            }
        }
        let said = String::from_utf8(self.session.output().to_vec()).unwrap();
        self.session.sent();
        said
    }

    pub fn feed_in_pieces(&mut self, input: &[u8], size: usize) -> String {
        input.chunks(size).map(|piece| self.feed(piece)).collect()
    }
}

/// A listening reception.
pub struct Reception {
    pub address: SocketAddr,
    /// Where connections begin with TLS, if there is a certificate.
    pub encrypted: Option<SocketAddr>,
    pub stop: CancellationToken,
    pub accepted: Arc<Mutex<Vec<Accepted>>>,
    pub listening: JoinHandle<()>,
}

impl Reception {
    /// Answers every message as [`queued`].
    pub async fn start() -> Self {
        Self::with(known_table(), |_| {}, || async { queued() }).await
    }

    /// With settings of one's own, and an answer that may take its time.
    pub async fn with<F>(
        table: Arc<RoutingTable>,
        adjust: impl FnOnce(&mut Settings),
        answer: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::telling(table, adjust, answer, None).await
    }

    /// The same, and somebody is told of what is refused.
    pub async fn telling<F>(
        table: Arc<RoutingTable>,
        adjust: impl FnOnce(&mut Settings),
        answer: impl Fn() -> F + Send + Sync + 'static,
        refused: Option<OnRefusal>,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let mut settings = Settings::new("test", HOSTNAME, PlatformDefault::Mx);
        settings.smtp_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        adjust(&mut settings);
        if settings.tls.is_some() {
            settings.smtps_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        }
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&accepted);
        let accept: Accept = Arc::new(move |message: Message| {
            keep.lock().unwrap().push(taken(message));
            Box::pin(answer())
        });
        let listeners = submission::bind(&settings).unwrap();
        let address = listeners[0].socket.local_addr().unwrap();
        let encrypted = listeners.get(1).map(|listener| listener.socket.local_addr().unwrap());
        let sign_ins = Arc::default();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let takers = Takers { accept, refused, returns: None };
        let listening =
            tokio::spawn(async move { submission::listen(listeners, &settings, table, takers, sign_ins, token).await });
        Self { address, encrypted, stop, accepted, listening }
    }

    pub fn accepted(&self) -> Vec<Accepted> {
        self.accepted.lock().unwrap().clone()
    }

    /// Ends it, and fails if it does not end.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.listening).await.expect("the reception ends").unwrap();
    }
}

fn taken(message: Message) -> Accepted {
    let (whole, spooled) = match message.content {
        Content::Memory(bytes) => (bytes.to_vec(), false),
        Content::Parts { parts, .. } => (parts.concat(), false),
        Content::Spooled { file, size, .. } => {
            let mut whole = vec![0; size as usize];
            file.read_exact_at(&mut whole, 0).unwrap();
            (whole, true)
        }
    };
    Accepted::new(message.sender, message.envelope, &whole, spooled)
}
