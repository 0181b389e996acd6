//! A scripted SMTP gateway: records every message that it accepted with envelope and bytes, and can
//! misbehave at a chosen stage.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::authority::Certified;

/// How long a test waits for what has to happen.
pub const HAPPENS_WITHIN: Duration = Duration::from_secs(20);

/// A message that the gateway answered with 250.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub reverse_path: String,
    /// What MAIL said behind the reverse-path.
    pub parameters: String,
    /// Those that were accepted.
    pub recipients: Vec<String>,
    /// What RCPT said behind each of them.
    pub wishes: Vec<String>,
    /// Transparency dots removed.
    pub content: Vec<u8>,
    pub encrypted: bool,
    /// As whom the client has signed in.
    pub user: Option<String>,
}

/// Where a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Greeting,
    Ehlo,
    StartTls,
    /// Instead of the TLS handshake.
    Handshake,
    /// EHLO after the handshake.
    EhloInTls,
    SignIn,
    Mail,
    Rcpt,
    Data,
    /// In the middle of the message.
    Content,
    Dot,
    Quit,
}

/// What happens there.
#[derive(Debug, Clone)]
pub enum Fault {
    /// These lines instead of the usual answer; CRLF is added.
    Says(String),
    Closes,
    /// Nothing, until [`Gateway::go_on`]; then as usual.
    Stalls,
    /// One line after the other, for ever.
    NeverEnds,
    /// The usual answer, byte by byte.
    Slowly,
    /// A TLS alert that nobody expects, under the encryption if there is one; then it closes.
    BreaksTls,
}

/// How the gateway behaves now.
#[derive(Clone)]
pub struct Behaviour {
    pub fault: Option<(At, Fault)>,
    /// Answers to RCPT for single recipients.
    pub recipients: HashMap<String, String>,
    pub extensions: Vec<&'static str>,
    pub tls: Option<TlsAcceptor>,
    /// Lines in clear right behind the answer to STARTTLS, as somebody on the way may put them there.
    pub behind_go_ahead: &'static str,
    /// 421 to the second message on a connection.
    pub one_message_only: bool,
    /// Who may send mail here, and the password; `None`: everybody. What is offered is among the extensions.
    pub sign_in: Option<(&'static str, &'static str)>,
    /// 421 to whoever connects while so many others are connected.
    pub most_connections: usize,
    /// 452 to the recipients beyond so many of one message.
    pub most_recipients: usize,
}

pub struct Gateway {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    received: watch::Sender<Vec<Received>>,
    connections: AtomicUsize,
    /// Of a session that was resumed.
    resumed: AtomicUsize,
    /// Every line that came before TLS.
    clear: Mutex<String>,
    /// At this moment.
    connected: AtomicUsize,
    stalled: watch::Sender<usize>,
    go_on: Notify,
}

impl Gateway {
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let behaviour = Behaviour {
            fault: None,
            recipients: HashMap::new(),
            extensions: vec!["PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"],
            tls: None,
            behind_go_ahead: "",
            one_message_only: false,
            sign_in: None,
            most_connections: usize::MAX,
            most_recipients: usize::MAX,
        };
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            received: watch::Sender::new(Vec::new()),
            connections: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            clear: Mutex::default(),
            connected: AtomicUsize::new(0),
            stalled: watch::Sender::new(0),
            go_on: Notify::new(),
        });
        let served = shared.clone();
        let listener = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                served.connections.fetch_add(1, Ordering::SeqCst);
                let shared = served.clone();
                sessions.spawn(async move {
                    shared.connected.fetch_add(1, Ordering::SeqCst);
                    serve(stream, shared.clone()).await;
                    shared.connected.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared, listener }
    }

    /// An address at which nothing listens, for a gateway to be started there later.
    pub async fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock().unwrap());
    }

    pub fn fails(&self, at: At, fault: Fault) {
        self.behave(|behaviour| behaviour.fault = Some((at, fault)));
    }

    pub fn says(&self, at: At, line: &str) {
        self.fails(at, Fault::Says(line.to_owned()));
    }

    pub fn works_again(&self) {
        self.behave(|behaviour| behaviour.fault = None);
    }

    pub fn offers_tls(&self) {
        self.behave(|behaviour| behaviour.tls = Some(Certified::by_itself("gateway.example").acceptor()));
    }

    pub fn offers(&self, extension: &'static str) {
        self.behave(|behaviour| behaviour.extensions.insert(0, extension));
    }

    pub fn answers_recipient(&self, recipient: &str, line: &str) {
        self.behave(|behaviour| {
            behaviour.recipients.insert(recipient.to_owned(), line.to_owned());
        });
    }

    /// Waits until this many messages have arrived, and returns them all.
    pub async fn received(&self, count: usize) -> Vec<Received> {
        self.received_within(count, HAPPENS_WITHIN).await
    }

    /// The same for many messages.
    pub async fn received_within(&self, count: usize, patience: Duration) -> Vec<Received> {
        let mut watched = self.shared.received.subscribe();
        let arrived = timeout(patience, watched.wait_for(|received| received.len() >= count)).await;
        arrived.expect("the messages did not arrive in time").unwrap().clone()
    }

    /// What has arrived so far.
    pub fn so_far(&self) -> Vec<Received> {
        self.shared.received.borrow().clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many of them went on with the TLS session of an earlier one.
    pub fn resumed(&self) -> usize {
        self.shared.resumed.load(Ordering::SeqCst)
    }

    /// Everything that was sent in clear since this was last asked.
    pub fn take_clear(&self) -> String {
        std::mem::take(&mut self.shared.clear.lock().unwrap())
    }

    /// Waits until this many conversations have stalled.
    pub async fn stalled(&self, count: usize) {
        let mut watched = self.shared.stalled.subscribe();
        let stalled = timeout(HAPPENS_WITHIN, watched.wait_for(|stalled| *stalled >= count)).await;
        stalled.expect("nobody came as far as the stall in time").unwrap();
    }

    /// Lets a stalled conversation go on.
    pub fn go_on(&self) {
        self.shared.go_on.notify_one();
    }

    /// Closes everything, as a machine that loses power.
    pub async fn stop(self) -> SocketAddr {
        self.listener.abort();
        let _ = self.listener.await;
        self.address
    }
}

fn decoded(text: &str) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap()
}

/// Whether the conversation goes on.
type Going = Option<()>;

/// A client's connection, which can be made to crawl.
struct Line {
    stream: TcpStream,
    crawls: bool,
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = if self.crawls { &bytes[..bytes.len().min(1)] } else { bytes };
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A stream with a line at its end.
trait OverLine: AsyncRead + AsyncWrite + Unpin {
    fn line(&mut self) -> &mut Line;
}

impl OverLine for Line {
    fn line(&mut self) -> &mut Line {
        self
    }
}

impl OverLine for TlsStream<Line> {
    fn line(&mut self) -> &mut Line {
        self.get_mut().0
    }
}

/// TLS 1.2 and 1.3: a fatal alert, unexpected_message.
const ALERT: &[u8] = b"\x15\x03\x03\x00\x02\x02\x0a";

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let line = Line { stream, crawls: false };
    let mut session = Session { stream: BufReader::new(line), shared, encrypted: false, user: None, messages: 0 };
    if session.greet().await.is_none() {
        return;
    }
    let Some(true) = session.converse().await else { return };
    // What is said instead of it ends it: clients throw away what comes in clear behind the answer to STARTTLS.
    if session.misbehave(At::Handshake, "").await != Some(true) {
        return;
    }
    let Session { stream, shared, messages, .. } = session;
    let acceptor = shared.behaviour.lock().unwrap().tls.clone().unwrap();
    let mut line = stream.into_inner();
    line.crawls = matches!(shared.behaviour.lock().unwrap().fault, Some((At::Handshake, Fault::Slowly)));
    let Ok(mut stream) = acceptor.accept(line).await else { return };
    stream.line().crawls = false;
    let is_resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    shared.resumed.fetch_add(usize::from(is_resumed), Ordering::SeqCst);
    Session { stream: BufReader::new(stream), shared, encrypted: true, user: None, messages }.converse().await;
}

struct Session<S> {
    stream: BufReader<S>,
    shared: Arc<Shared>,
    encrypted: bool,
    user: Option<String>,
    messages: usize,
}

impl<S: OverLine> Session<S> {
    fn behaviour(&self) -> Behaviour {
        self.shared.behaviour.lock().unwrap().clone()
    }

    async fn say(&mut self, lines: &str) -> Going {
        let text: String = lines.lines().map(|line| format!("{line}\r\n")).collect();
        self.stream.get_mut().write_all(text.as_bytes()).await.ok()?;
        self.stream.get_mut().flush().await.ok()
    }

    /// The fault that is set for this stage, or the usual answer. Returns whether it was the usual one.
    async fn answer(&mut self, at: At, usual: &str) -> Option<bool> {
        let is_usual = self.misbehave(at, usual).await?;
        if is_usual {
            self.say(usual).await?;
        }
        self.stream.get_mut().line().crawls = false;
        Some(is_usual)
    }

    /// The fault that is set for this stage. Returns whether the usual answer is still to come.
    async fn misbehave(&mut self, at: At, usual: &str) -> Option<bool> {
        let fault = self.behaviour().fault.filter(|(stage, _)| *stage == at);
        match fault.map(|(_, fault)| fault) {
            None => Some(true),
            Some(Fault::Closes) => None,
            Some(Fault::Says(lines)) => self.say(&lines).await.map(|()| false),
            Some(Fault::Stalls) => {
                self.shared.stalled.send_modify(|stalled| *stalled += 1);
                self.shared.go_on.notified().await;
                Some(true)
            }
            Some(Fault::NeverEnds) => {
                let code = usual.get(..3).unwrap_or("250");
                loop {
                    self.say(&format!("{code}-and so on")).await?;
                }
            }
            Some(Fault::Slowly) => {
                self.stream.get_mut().line().crawls = true;
                Some(true)
            }
            Some(Fault::BreaksTls) => {
                let _ = self.stream.get_mut().line().stream.write_all(ALERT).await;
                None
            }
        }
    }

    async fn greet(&mut self) -> Going {
        if self.shared.connected.load(Ordering::SeqCst) > self.behaviour().most_connections {
            self.say("421 4.7.0 too many connections").await?;
            return None;
        }
        self.answer(At::Greeting, "220 gateway.example ESMTP").await.map(drop)
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line).await.ok()?;
        if !self.encrypted {
            self.shared.clear.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
        }
        (read > 0).then_some(line)
    }

    /// Returns `Some(true)` when the client wants TLS.
    async fn converse(&mut self) -> Option<bool> {
        let mut envelope: Option<Received> = None;
        loop {
            let line = String::from_utf8_lossy(&self.line().await?).trim_end().to_owned();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let mut offers = self.behaviour().extensions;
                    if self.behaviour().tls.is_some() && !self.encrypted {
                        offers.push("STARTTLS");
                    }
                    let lines: Vec<String> = std::iter::once("gateway.example")
                        .chain(offers.iter().copied())
                        .enumerate()
                        .map(|(index, offer)| format!("250{}{offer}", if index == offers.len() { ' ' } else { '-' }))
                        .collect();
                    let at = if self.encrypted { At::EhloInTls } else { At::Ehlo };
                    self.answer(at, &lines.join("\n")).await?;
                }
                "HELO" | "NOOP" => self.say("250 gateway.example").await?,
                "STARTTLS" => {
                    let usual = format!("220 go ahead\n{}", self.behaviour().behind_go_ahead);
                    if self.answer(At::StartTls, &usual).await? {
                        return Some(true);
                    }
                }
                "MAIL" => {
                    if self.behaviour().one_message_only && self.messages > 0 {
                        self.say("421 4.3.2 one message only").await?;
                        return None;
                    }
                    if self.behaviour().sign_in.is_some() && self.user.is_none() {
                        self.say("530 5.7.0 sign in first").await?;
                        continue;
                    }
                    envelope = self.answer(At::Mail, "250 2.1.0 sender ok").await?.then(|| self.mail(&line));
                }
                "AUTH" => self.auth(&line).await?,
                "RCPT" => self.rcpt(&line, envelope.as_mut()).await?,
                "DATA" => self.data(&mut envelope).await?,
                "RSET" => {
                    envelope = None;
                    self.say("250 2.0.0 reset").await?;
                }
                "QUIT" => {
                    self.answer(At::Quit, "221 2.0.0 bye").await?;
                    return None;
                }
                _ => self.say("500 5.5.2 what?").await?,
            }
        }
    }

    /// PLAIN with or without what it begins with, and LOGIN (RFC 4954).
    async fn auth(&mut self, line: &str) -> Going {
        let words: Vec<&str> = line.split(' ').collect();
        let given = match (words[1], words.get(2)) {
            ("PLAIN", Some(given)) => decoded(given),
            ("PLAIN", None) => self.asked("").await?,
            ("LOGIN", _) => format!("\0{}\0{}", self.asked("VXNlcm5hbWU6").await?, self.asked("UGFzc3dvcmQ6").await?),
            _ => return self.say("504 5.5.4 no such way").await,
        };
        let wanted = self.behaviour().sign_in.map(|(user, password)| format!("\0{user}\0{password}"));
        if self.answer(At::SignIn, "235 2.7.0 welcome").await? && wanted.as_ref() == Some(&given) {
            self.user = given.split('\0').nth(1).map(str::to_owned);
        }
        Some(())
    }

    async fn asked(&mut self, challenge: &str) -> Option<String> {
        self.say(&format!("334 {challenge}")).await?;
        Some(decoded(String::from_utf8_lossy(&self.line().await?).trim_end()))
    }

    fn mail(&self, line: &str) -> Received {
        let (reverse_path, parameters) = line[line.find('<').unwrap() + 1..].split_once('>').unwrap();
        Received {
            reverse_path: reverse_path.to_owned(),
            parameters: parameters.trim().to_owned(),
            recipients: vec![],
            wishes: vec![],
            content: vec![],
            encrypted: self.encrypted,
            user: self.user.clone(),
        }
    }

    async fn rcpt(&mut self, line: &str, envelope: Option<&mut Received>) -> Going {
        let Some(envelope) = envelope else { return self.say("503 5.5.1 MAIL first").await };
        let recipient = line[line.find('<').unwrap() + 1..line.rfind('>').unwrap()].to_owned();
        if let Some(answer) = self.behaviour().recipients.get(&recipient).cloned() {
            return self.say(&answer).await;
        }
        if envelope.recipients.len() >= self.behaviour().most_recipients {
            return self.say("452 4.5.3 too many recipients").await;
        }
        if self.answer(At::Rcpt, "250 2.1.5 recipient ok").await? {
            envelope.recipients.push(recipient);
            envelope.wishes.push(line[line.rfind('>').unwrap() + 1..].trim().to_owned());
        }
        Some(())
    }

    async fn data(&mut self, envelope: &mut Option<Received>) -> Going {
        let ready = envelope.as_ref().is_some_and(|envelope| !envelope.recipients.is_empty());
        if !ready {
            return self.say("554 5.5.1 no valid recipients").await;
        }
        if !self.answer(At::Data, "354 end with a dot").await? {
            return Some(());
        }
        let mut content = Vec::new();
        loop {
            let line = self.line().await?;
            if !self.misbehave(At::Content, "250 2.0.0 kept").await? {
                return None;
            }
            if line == b".\r\n" && (content.is_empty() || content.ends_with(b"\r\n")) {
                break;
            }
            let after_line_end = content.is_empty() || content.ends_with(b"\r\n");
            let dot = usize::from(after_line_end && line.starts_with(b"."));
            content.extend_from_slice(&line[dot..]);
        }
        self.messages += 1;
        let mut received = envelope.take().unwrap();
        received.content = content;
        // Recorded before the answer, as a gateway that takes responsibility does.
        let fault = self.behaviour().fault.filter(|(at, _)| *at == At::Dot);
        if fault.is_none() {
            self.shared.received.send_modify(|all| all.push(received));
            return self.say("250 2.0.0 kept as 4711").await;
        }
        if self.answer(At::Dot, "250 2.0.0 kept as 4711").await? {
            self.shared.received.send_modify(|all| all.push(received));
        }
        Some(())
    }
}
