//! The grid: at every stage of a gateway's conversation everything that can go wrong, and what comes of it.
//! One table says what is expected; one test walks it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::proto::op::ResponseCode;
use outgate::{
    mail::id::GatewayId,
    policy::{
        facts::TlsMode,
        gateway_settings::{GatewaySettings, SignIn, Trust, secret_context},
    },
    relay::handover::{connection::TimeLimits, peer::PeerKey},
    secret::{Password, key_file},
};
use sqlx::PgPool;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    Gateway, Sending,
    authority::Certified,
    dns::{Dns, DnsFault},
    gateway::{At, Fault, HAPPENS_WITHIN},
    sending::{Options, names},
};

const USER: &str = "acme";
const PASSWORD: &str = "canary-4711";

/// What is expected, where TLS is required of the gateway, and in the row AUTH signing in as well:
///
/// | word | the client hears | the message | whose fault | later mail |
/// |---|---|---|---|---|
/// | handed | the gateway's 250 | is delivered | nobody's | is handed over |
/// | waits | 250 queued | waits, and no attempt is charged | the gateway's | is queued, until one message or connection has shown that the gateway is back |
/// | later | 250 queued | waits for an attempt of its own | nobody's for long | is handed over |
/// | refused | the gateway's refusal | is the client's again | the message's | is handed over |
///
/// `-`: there is no such thing.
const GRID: &str = "
    stage         4yz      5yz      closes   stalls   garbage  endless  slow     TLS
    DNS           waits    waits    waits    waits    waits    waits    handed   -
    connect       -        -        waits    waits    -        -        -        -
    greeting      waits    waits    waits    waits    waits    waits    handed   waits
    EHLO          waits    waits    waits    waits    waits    waits    handed   waits
    STARTTLS      waits    waits    waits    waits    waits    waits    handed   waits
    handshake     -        -        waits    waits    waits    waits    handed   waits
    EHLO-in-TLS   waits    handed   waits    waits    waits    waits    handed   waits
    AUTH          waits    waits    waits    waits    waits    waits    handed   waits
    MAIL          later    waits    waits    waits    waits    waits    handed   waits
    RCPT          later    refused  waits    waits    waits    waits    handed   waits
    DATA          later    refused  waits    waits    waits    waits    handed   waits
    body          later    refused  later    later    later    later    handed   later
    dot           later    refused  later    later    later    later    handed   later
    QUIT          handed   handed   handed   handed   handed   handed   handed   handed
";

/// One cell of the grid.
#[derive(Debug, Clone)]
struct Cell {
    stage: &'static str,
    fault: &'static str,
    expected: &'static str,
}

fn cells() -> Vec<Cell> {
    let mut lines = GRID.lines().filter(|line| !line.trim().is_empty());
    let faults: Vec<&str> = lines.next().unwrap().split_whitespace().skip(1).collect();
    let mut cells = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let stage = words.next().unwrap();
        let of_stage = faults.iter().zip(words).map(|(fault, expected)| Cell { stage, fault, expected });
        cells.extend(of_stage.filter(|cell| cell.expected != "-"));
    }
    cells
}

impl Cell {
    fn at(&self) -> At {
        match self.stage {
            "greeting" => At::Greeting,
            "EHLO" => At::Ehlo,
            "STARTTLS" => At::StartTls,
            "handshake" => At::Handshake,
            "EHLO-in-TLS" => At::EhloInTls,
            "AUTH" => At::SignIn,
            "MAIL" => At::Mail,
            "RCPT" => At::Rcpt,
            "DATA" => At::Data,
            "body" => At::Content,
            "dot" => At::Dot,
            "QUIT" => At::Quit,
            stage => panic!("{stage} is not a stage of a gateway's"),
        }
    }

    fn fault(&self) -> Fault {
        match self.fault {
            "4yz" => Fault::Says("450 4.2.0 not now".to_owned()),
            "5yz" => Fault::Says("550 5.1.1 never".to_owned()),
            "closes" => Fault::Closes,
            "stalls" => Fault::Stalls,
            "garbage" => Fault::Says("hello?".to_owned()),
            "endless" => Fault::NeverEnds,
            "slow" => Fault::Slowly,
            "TLS" => Fault::BreaksTls,
            fault => panic!("{fault} is not a fault"),
        }
    }

    fn dns_fault(&self) -> Option<DnsFault> {
        match self.fault {
            "4yz" => Some(DnsFault::Says(ResponseCode::ServFail)),
            "5yz" => Some(DnsFault::Says(ResponseCode::NXDomain)),
            "stalls" => Some(DnsFault::Silent),
            "garbage" => Some(DnsFault::Garbage),
            "endless" => Some(DnsFault::TooLong),
            "slow" => Some(DnsFault::Slow),
            _ => None,
        }
    }

    /// Only what a stall runs into is short, so that nothing else depends on how fast this machine is.
    fn limits(&self) -> TimeLimits {
        let (short, limits) = (Duration::from_secs(1), TimeLimits::default());
        match (self.fault, self.stage) {
            ("stalls", "connect") => TimeLimits { connect: short, ..limits },
            ("stalls", "DATA") => TimeLimits { data: short, ..limits },
            ("stalls", "body") => TimeLimits { block: short, ..limits },
            ("stalls", "dot") => TimeLimits { dot: short, ..limits },
            ("stalls", "QUIT") => limits,
            ("stalls", _) => TimeLimits { command: short, ..limits },
            _ => limits,
        }
    }

    /// A stall in the middle of the message has to come before the network has swallowed the rest.
    fn content(&self) -> String {
        let lines = if (self.stage, self.fault) == ("body", "stalls") { 300_000 } else { 1 };
        format!("Subject: hello\r\n\r\n{}", "There is nothing in this line that matters to anybody.\r\n".repeat(lines))
    }
}

/// The server of one cell, which can be mended.
struct Server {
    gateway: Option<Gateway>,
    /// Where it is, and what holds its port until it is mended.
    address: SocketAddr,
    silent: Option<(TcpListener, TcpStream)>,
    dns: Option<Dns>,
    /// Its certificate, where one has to sign in.
    certified: Option<Certified>,
}

impl Server {
    async fn of(cell: &Cell) -> Self {
        let (mut silent, mut dns) = (None, None);
        let gateway = match (cell.stage, cell.fault) {
            ("connect", "closes") => None,
            ("connect", "stalls") => {
                silent = Some(full_listener().await);
                None
            }
            _ => Some(Gateway::start().await),
        };
        let address = match (&gateway, &silent) {
            (Some(gateway), _) => gateway.address,
            (None, Some((listener, _))) => listener.local_addr().unwrap(),
            (None, None) => Gateway::free_address().await,
        };
        match cell.stage {
            "DNS" => {
                let server = Dns::start(&[("gateway.elsewhere.example", "A 127.0.0.1")]).await;
                server.fails(cell.dns_fault());
                dns = Some(server);
            }
            "connect" => {}
            _ => gateway.as_ref().unwrap().fails(cell.at(), cell.fault()),
        }
        gateway.iter().for_each(Gateway::offers_tls);
        let certified = (cell.stage == "AUTH").then(|| Certified::by_itself("gateway.example"));
        if let (Some(gateway), Some(certified)) = (&gateway, &certified) {
            gateway.behave(|behaviour| {
                behaviour.tls = Some(certified.acceptor());
                behaviour.extensions.push("AUTH PLAIN");
                behaviour.sign_in = Some((USER, PASSWORD));
            });
        }
        Self { gateway, address, silent, dns, certified }
    }

    /// The gateway's address as an administrator gave it.
    fn name(&self) -> String {
        match &self.dns {
            Some(_) => format!("gateway.elsewhere.example:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }

    async fn mend(&mut self) {
        self.silent = None;
        if let Some(dns) = &self.dns {
            dns.fails(None);
        }
        match &self.gateway {
            Some(gateway) => gateway.works_again(),
            None => {
                let gateway = Gateway::start_on(self.address).await;
                gateway.offers_tls();
                self.gateway = Some(gateway);
            }
        }
    }

    fn received(&self) -> usize {
        self.gateway.as_ref().map_or(0, |gateway| gateway.so_far().len())
    }
}

/// One whose queue of connections is full: nobody else gets an answer.
async fn full_listener() -> (TcpListener, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let in_queue = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener, in_queue)
}

/// Gives a gateway's record a password, which goes to whoever has this certificate.
fn sign_in(sending: &Sending, id: GatewayId, certified: &Certified) {
    let key = key_file::read(sending.options.keys.as_ref().unwrap()).unwrap().0.pop().unwrap().public();
    sending.table.change(|facts| {
        let mut gateway = facts.gateway(id).unwrap().as_ref().clone();
        gateway.tls = TlsMode::Verified;
        let context = secret_context(gateway.organization, id, &gateway.address, gateway.tls, USER);
        let secret = key.seal(&Password::new(PASSWORD.to_owned()).unwrap(), &context).unwrap();
        let trust = Trust::Fingerprint(certified.fingerprint());
        let sign_in = Some(SignIn { user: USER.to_owned(), secret });
        gateway.settings = GatewaySettings { trust, sign_in, ..GatewaySettings::default() }.shared();
        facts.set_gateway(id, Some(gateway));
    });
}

/// A cell with its relay, sender and server.
struct Case {
    cell: Cell,
    server: Server,
    sending: Sending,
    sender: String,
    gateway: GatewayId,
}

impl Case {
    async fn of(number: usize, cell: Cell, all: &Sending) -> Self {
        let server = Server::of(&cell).await;
        let nobody = Gateway::free_address().await;
        let dns = server.dns.as_ref().map(|dns| if cell.fault == "closes" { nobody } else { dns.address });
        let keys = all.options.keys.clone();
        let sending = all.another_with(Options { limits: cell.limits(), dns, keys, ..Options::default() });
        let sender = format!("cell{number}@acme.example");
        let gateway = sending.give_account(&sender, &server.name(), TlsMode::Required);
        if let Some(certified) = &server.certified {
            sign_in(&sending, gateway, certified);
        }
        Self { cell, server, sending, sender, gateway }
    }

    async fn send(&self, content: &str) -> String {
        let mut message = self.sending.message_with(&["bob@elsewhere.example"], content);
        message.envelope.reverse_path = self.sender.clone();
        message.sender = self.sender.clone();
        self.sending.transfer.accept(message).await.to_string()
    }

    /// What becomes of a message in this cell, as a word of the grid.
    async fn outcome(&self) -> &'static str {
        let heard = self.send(&self.cell.content()).await;
        self.sending.queue.settled().await;
        let row = sqlx::query_as::<_, (String, i32, bool)>(
            "select state, attempts, lease_token is not null from queued_message where sender = $1",
        );
        let row = row.bind(&self.sender).fetch_optional(&self.sending.owner).await.unwrap();
        let key = PeerKey::Gateway(self.sending.organization, self.gateway, 1);
        let is_failing = self.sending.handover.health().failing(&key).is_some();
        match (heard.as_str(), row, is_failing) {
            ("250 2.0.0 kept as 4711" | "250 2.0.0 kept", None, false) => "handed",
            (queued, Some((state, 0, false)), true) if is_queued(queued) && state == "waiting" => "waits",
            (queued, Some((state, 1, false)), false) if is_queued(queued) && state == "waiting" => "later",
            (refusal, None, false) if refusal.starts_with("550 5.1.1 gateway 127.0.0.1:") => "refused",
            other => panic!("{:?}: {other:?}", self.cell),
        }
    }

    /// Walks the cell: the message, the farewell, and the mail that comes after the gateway is mended.
    async fn walk(mut self) -> (Self, &'static str) {
        let outcome = self.outcome().await;
        let goodbye = timeout(HAPPENS_WITHIN, self.sending.handover.pool().close()).await;
        goodbye.unwrap_or_else(|_| panic!("{:?}: no gateway holds us up when we leave", self.cell));
        self.server.mend().await;
        let heard = self.send("Subject: hello again\r\n\r\nHello.\r\n").await;
        match outcome {
            "waits" => assert!(is_queued(&heard), "{:?}: {heard}", self.cell),
            _ => assert_eq!(heard, "250 2.0.0 kept as 4711", "{:?}", self.cell),
        }
        (self, outcome)
    }
}

fn is_queued(reply: &str) -> bool {
    reply.starts_with("250 2.0.0 queued as ")
}

#[sqlx::test]
async fn whatever_a_gateway_does_at_any_stage_has_the_outcome_that_the_grid_says(db: PgPool) {
    let names = names(&[("gateway.elsewhere.example", "127.0.0.1")], &[]);
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let keys = folder.path().join("secret-key");
    key_file::create(&keys).unwrap();
    let all = Arc::new(Sending::with(db, Options { names, keys: Some(keys), ..Options::default() }).await);
    let mut walking = JoinSet::new();
    for (number, cell) in cells().into_iter().enumerate() {
        let all = all.clone();
        walking.spawn(async move { Case::of(number, cell, &all).await.walk().await });
    }
    let cases = walking.join_all().await;
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(case, outcome)| case.cell.expected != *outcome)
        .map(|(case, outcome)| format!("{:?} was {outcome}", case.cell))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    // Every gateway works now. All that waits arrives, and nothing arrives twice.
    for minutes in [10, 11, 12] {
        all.step_after(minutes).await;
    }
    for (case, outcome) in &cases {
        let expected = if *outcome == "refused" { 1 } else { 2 };
        assert_eq!(case.server.received(), expected, "{:?}", case.cell);
    }
    assert_eq!(cases.len(), cells().len());
}
