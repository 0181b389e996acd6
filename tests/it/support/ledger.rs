//! The books of a test in which everything may be killed: what clients were promised with 250, and what arrived at
//! gateways that drop, delay and refuse at random.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::random;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

const HAPPENS_WITHIN: Duration = Duration::from_secs(60);
/// After this a client counts its message as not answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// How long before a kill a message may have arrived that was still in flight there: its outcome is recorded a moment
/// later, and tried again each second while the store is away.
const STILL_IN_FLIGHT: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Ledger {
    last: AtomicU64,
    books: Mutex<Books>,
    /// Gateways misbehave.
    wild: AtomicBool,
    /// Gateways put every recipient off.
    deferring: AtomicBool,
    /// Clients go on sending.
    open: AtomicBool,
}

#[derive(Debug, Default)]
struct Books {
    /// With what the relay said.
    promised: HashMap<u64, String>,
    /// Given to the relay and not answered.
    unanswered: HashSet<u64>,
    arrivals: HashMap<u64, Vec<Instant>>,
    /// Taken by a gateway that closed instead of saying so.
    dropped_after_dot: HashMap<u64, usize>,
    returned: HashSet<u64>,
    /// From the kill until nobody was left who could write down what had happened before.
    kills: Vec<(Instant, Instant)>,
}

/// What the books say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    pub promised: usize,
    pub arrived: usize,
    pub returned: usize,
    pub in_flight_at_kills: usize,
    pub dropped_after_dot: usize,
    pub lost: Vec<u64>,
    /// Arrivals beyond the first, each explained by a kill or a gateway that dropped after the dot.
    pub duplicates: usize,
    /// Those that nothing explains.
    pub unexplained: Vec<u64>,
}

impl Ledger {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Lets gateways misbehave, or not any more.
    pub fn set_wild(&self, wild: bool) {
        self.wild.store(wild, Ordering::SeqCst);
    }

    /// Lets gateways put everybody off, or not any more.
    pub fn set_deferring(&self, deferring: bool) {
        self.deferring.store(deferring, Ordering::SeqCst);
    }

    /// Notes that a relay was killed at this time, or paused, and that by now it has ended or goes on.
    pub fn killed(&self, at: Instant) {
        self.books().kills.push((at, Instant::now()));
    }

    /// Starts so many clients; each ends by itself when [`close`](Self::close) was called.
    pub fn open(
        self: &Arc<Self>,
        clients: usize,
        submission: SocketAddr,
        senders: &'static [&'static str],
    ) -> Vec<JoinHandle<()>> {
        self.open.store(true, Ordering::SeqCst);
        let client = |number: usize| {
            let ledger = Arc::clone(self);
            tokio::spawn(async move {
                while ledger.is_open() {
                    // Whatever ends a connection: the next one begins with another message.
                    if ledger.send_over_one_connection(submission, senders[number % senders.len()]).await.is_none() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        };
        (0..clients).map(client).collect()
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// No client begins another message.
    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    async fn send_over_one_connection(&self, submission: SocketAddr, sender: &str) -> Option<()> {
        let mut smtp = Conversation::with(TcpStream::connect(submission).await.ok()?);
        smtp.expect("220").await?;
        smtp.say("EHLO client.example").await?;
        smtp.expect("250").await?;
        while self.is_open() {
            smtp.say(&format!("MAIL FROM:<{sender}>\r\nRCPT TO:<bob@elsewhere.example>\r\nDATA")).await?;
            smtp.expect("250").await?;
            smtp.expect("250").await?;
            smtp.expect("354").await?;
            let token = self.last.fetch_add(1, Ordering::SeqCst);
            self.books().unanswered.insert(token);
            smtp.say(&format!("Subject: token {token}\r\n\r\nThis must not be lost.\r\n.")).await?;
            let reply = smtp.reply().await?;
            let mut books = self.books();
            books.unanswered.remove(&token);
            if reply.starts_with("250") {
                books.promised.insert(token, reply);
            }
        }
        Some(())
    }

    /// Starts a gateway; it runs as long as the test.
    pub async fn gateway(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move { ledger.serve(stream).await });
            }
        });
        address
    }

    /// True in so many of a thousand times, while gateways misbehave.
    fn fate(&self, per_mille: u32) -> bool {
        self.wild.load(Ordering::SeqCst) && random::<u32>() % 1000 < per_mille
    }

    /// One connection of a gateway; `None` when it is closed, by whomever.
    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut smtp = Conversation::with(stream);
        if self.fate(5) {
            return None;
        }
        smtp.say("220 gateway.example ESMTP").await?;
        let mut is_notification = false;
        loop {
            let line = smtp.line().await?;
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => smtp.say("250-gateway.example\r\n250-PIPELINING\r\n250 8BITMIME").await?,
                "MAIL" if self.fate(3) => smtp.say("451 4.3.0 not now").await?,
                "MAIL" => {
                    is_notification = line.contains("<>");
                    smtp.say("250 2.1.0 ok").await?;
                }
                "RCPT" if self.deferring.load(Ordering::SeqCst) || self.fate(3) => {
                    smtp.say("450 4.2.0 not now").await?
                }
                "DATA" if self.fate(2) => return None,
                "DATA" => {
                    smtp.say("354 go on").await?;
                    self.take(&mut smtp, is_notification).await?;
                }
                "QUIT" => return smtp.say("221 bye").await,
                _ => smtp.say("250 2.0.0 ok").await?,
            }
        }
    }

    async fn take(&self, smtp: &mut Conversation, is_notification: bool) -> Option<()> {
        let mut token = None;
        loop {
            let line = smtp.line().await?;
            if line == "." {
                break;
            }
            token = token.or_else(|| line.strip_prefix("Subject: token ")?.parse::<u64>().ok());
        }
        // After 354 without a recipient there is only the dot.
        let token = token?;
        // From here on it may count as taken, whatever becomes of the connection.
        let arrived = Instant::now();
        match () {
            () if self.fate(5) => return None,
            () if self.fate(5) => return smtp.say("451 4.3.0 not now").await,
            // Of a notification that is refused for good nobody is told any more: its message would count as lost.
            () if !is_notification && self.fate(3) => return smtp.say("550 5.7.1 never").await,
            () if self.fate(50) => tokio::time::sleep(Duration::from_millis(random::<u64>() % 200)).await,
            () => {}
        }
        let is_dropped = self.fate(5);
        {
            let mut books = self.books();
            if is_notification {
                books.returned.insert(token);
            } else {
                books.arrivals.entry(token).or_default().push(arrived);
                *books.dropped_after_dot.entry(token).or_default() += usize::from(is_dropped);
            }
        }
        if is_dropped { None } else { smtp.say("250 2.0.0 kept").await }
    }

    /// Waits until the books say so.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Balance) -> bool) {
        let so = async {
            while !is_so(&self.balance()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(HAPPENS_WITHIN, so).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.balance()));
    }

    /// What the relay said when it promised this message.
    pub fn promise_of(&self, token: u64) -> String {
        self.books().promised[&token].clone()
    }

    /// What the books say now.
    pub fn balance(&self) -> Balance {
        let books = self.books();
        let is_here = |token: &&u64| books.arrivals.contains_key(token) || books.returned.contains(token);
        let mut balance = Balance {
            promised: books.promised.len(),
            arrived: books.arrivals.len(),
            returned: books.returned.len(),
            in_flight_at_kills: books.unanswered.len(),
            dropped_after_dot: books.dropped_after_dot.values().sum(),
            lost: books.promised.keys().filter(|token| !is_here(token)).copied().collect(),
            ..Balance::default()
        };
        for (token, arrivals) in books.arrivals.iter().filter(|(_, arrivals)| arrivals.len() > 1) {
            balance.duplicates += arrivals.len() - 1;
            // An arrival before a kill and the next one after it: the relay did not live to write the first down.
            let by_kills = arrivals.windows(2).filter(|pair| {
                let is_between = |(at, ended): &(Instant, Instant)| {
                    pair[0] < *ended && *ended < pair[1] && at.saturating_duration_since(pair[0]) < STILL_IN_FLIGHT
                };
                books.kills.iter().any(is_between)
            });
            if arrivals.len() - 1 > by_kills.count() + books.dropped_after_dot.get(token).copied().unwrap_or_default() {
                balance.unexplained.push(*token);
            }
        }
        balance
    }
}

struct Conversation(BufReader<TcpStream>);

impl Conversation {
    fn with(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self(BufReader::new(stream))
    }

    async fn say(&mut self, text: &str) -> Option<()> {
        self.0.get_mut().write_all(format!("{text}\r\n").as_bytes()).await.ok()
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(ANSWERED_WITHIN, self.0.read_line(&mut line)).await.ok()?.ok()?;
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn reply(&mut self) -> Option<String> {
        loop {
            let line = self.line().await?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }

    async fn expect(&mut self, code: &str) -> Option<()> {
        self.reply().await?.starts_with(code).then_some(())
    }
}
