//! A gateway for `outgate up --demo`: an SMTP server that takes every message, tells what arrived and
//! why it came here, and keeps nothing. Stands where an organization's archive would stand.

use std::{
    fmt::{self, Write},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use mail_parser::MessageParser;
use smtp_proto::{
    Error, Request,
    request::receiver::{DataReceiver, RequestReceiver},
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    handover::{
        connection::{Connection, TimeLimits},
        source::Source,
    },
    message::Content,
};
use crate::mail::{EnhancedStatus, Envelope, Reply, envelope::MailParameters, received::Received};

/// The largest message it takes, in bytes: they are held in memory.
const MAX_SIZE: usize = 50 * 1024 * 1024;

/// RFC 5321 §4.5.3.2.7.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A message that arrived.
#[derive(Debug)]
pub struct Arrival {
    /// The gateway's own name, such as `archive`.
    pub gateway: Arc<str>,
    pub address: SocketAddr,
    pub envelope: Envelope,
    pub subject: Option<String>,
    /// Every byte as it was sent, transparency dots removed.
    pub content: Vec<u8>,
    /// Why it came here, as the caller explains it.
    pub why: String,
}

/// Serves until `stop` is cancelled; connections that are open then are closed between two commands.
///
/// `why` is given a reverse-path and says why its mail comes here; `report` is given each message before it is answered.
///
/// # Errors
/// If the listener cannot say where it listens.
pub async fn run(
    name: &str,
    listener: TcpListener,
    why: impl Fn(&str) -> String + Send + Sync + 'static,
    report: impl Fn(Arrival) + Send + Sync + 'static,
    stop: CancellationToken,
) -> io::Result<()> {
    let gateway = Arc::new(Gateway {
        name: name.into(),
        address: listener.local_addr()?,
        why: Box::new(why),
        report: Box::new(report),
        stop: stop.clone(),
    });
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let gateway = gateway.clone();
                // Whether a client leaves in good order is its own affair.
                connections.spawn(async move { Session::new(gateway).serve(stream).await.ok() });
            }
            Err(error) => {
                // Out of file descriptors, mostly: the next attempt would fail at once.
                tracing::warn!(gateway = name, %error, "the demonstration gateway cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

struct Gateway {
    name: Arc<str>,
    address: SocketAddr,
    why: Box<dyn Fn(&str) -> String + Send + Sync>,
    report: Box<dyn Fn(Arrival) + Send + Sync>,
    stop: CancellationToken,
}

/// One connection.
struct Session {
    gateway: Arc<Gateway>,
    requests: RequestReceiver,
    envelope: Option<Envelope>,
    /// While the message is read.
    data: Option<(DataReceiver, Vec<u8>)>,
}

/// What to do after a reply.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
}

impl Session {
    fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, requests: RequestReceiver::default(), envelope: None, data: None }
    }

    async fn serve(mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.write_all(format!("220 {}.demonstration ESMTP\r\n", self.gateway.name).as_bytes()).await?;
        let mut input = vec![0; 64 * 1024];
        let stop = self.gateway.stop.clone();
        loop {
            let read = tokio::select! {
                () = stop.cancelled() => return stream.write_all(b"421 4.3.2 Shutting down\r\n").await,
                read = timeout(COMMAND_TIMEOUT, stream.read(&mut input)) => read??,
            };
            if read == 0 {
                return Ok(());
            }
            let (replies, then) = self.take(&input[..read]);
            stream.write_all(replies.as_bytes()).await?;
            if then == Then::Close {
                return Ok(());
            }
        }
    }

    /// Takes whatever the client sent, in pieces of any size, and gives the replies to it in one piece.
    fn take(&mut self, input: &[u8]) -> (String, Then) {
        let mut replies = String::new();
        let mut rest = input.iter();
        while !rest.as_slice().is_empty() {
            if let Some((receiver, content)) = &mut self.data {
                // Only CRLF.CRLF ends a message (RFC 5321 §4.1.1.4).
                if receiver.ingest(&mut rest, content) {
                    replies += &self.arrived();
                } else if content.len() > MAX_SIZE {
                    replies += &reply(552, (5, 3, 4), "The message is too large for a demonstration.");
                    return (replies, Then::Close);
                }
                continue;
            }
            let mut requests = std::mem::take(&mut self.requests);
            let then = match requests.ingest(&mut rest) {
                Err(Error::NeedsMoreData { .. }) => Then::GoOn,
                request => {
                    let (answer, then) = self.answer(request);
                    replies += &answer;
                    then
                }
            };
            self.requests = requests;
            if then == Then::Close {
                return (replies, Then::Close);
            }
        }
        (replies, Then::GoOn)
    }

    fn answer(&mut self, request: Result<Request<std::borrow::Cow<'_, str>>, Error>) -> (String, Then) {
        let answer = match request {
            Ok(Request::Ehlo { .. }) => {
                self.envelope = None;
                format!(
                    "250-{}.demonstration\r\n250-PIPELINING\r\n250-SIZE {MAX_SIZE}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 \
                     ENHANCEDSTATUSCODES\r\n",
                    self.gateway.name
                )
            }
            Ok(Request::Helo { .. }) => {
                self.envelope = None;
                format!("250 {}.demonstration\r\n", self.gateway.name)
            }
            Ok(Request::Mail { from }) if from.size > MAX_SIZE => {
                reply(552, (5, 3, 4), "The message is too large for a demonstration.")
            }
            Ok(Request::Mail { from }) => {
                self.envelope = Some(Envelope {
                    reverse_path: from.address.into_owned(),
                    forward_paths: Vec::new(),
                    named: None,
                    to_approve: Vec::new(),
                    wishes: Vec::new(),
                    parameters: MailParameters::default(),
                });
                reply(250, (2, 1, 0), "Sender accepted")
            }
            Ok(Request::Rcpt { to }) => match &mut self.envelope {
                Some(envelope) => {
                    envelope.forward_paths.push(to.address.into_owned());
                    reply(250, (2, 1, 5), "Recipient accepted")
                }
                None => reply(503, (5, 5, 1), "Give MAIL first."),
            },
            Ok(Request::Data) => match &self.envelope {
                Some(envelope) if !envelope.forward_paths.is_empty() => {
                    self.data = Some((DataReceiver::new(), Vec::new()));
                    "354 Send the message, then a line with a dot\r\n".to_owned()
                }
                _ => reply(503, (5, 5, 1), "Give MAIL and RCPT first."),
            },
            Ok(Request::Rset) => {
                self.envelope = None;
                reply(250, (2, 0, 0), "Forgotten")
            }
            Ok(Request::Noop { .. }) => reply(250, (2, 0, 0), "OK"),
            Ok(Request::Quit) => return (reply(221, (2, 0, 0), "Goodbye"), Then::Close),
            // What follows cannot be told apart from it any more.
            Err(Error::ResponseTooLong) => return (reply(500, (5, 5, 6), "The line is too long."), Then::Close),
            Ok(_) => reply(502, (5, 5, 1), "A demonstration gateway does not know this command."),
            Err(_) => reply(501, (5, 5, 4), "This is not understood."),
        };
        (answer, Then::GoOn)
    }

    /// At the end of the message: reports it and answers.
    fn arrived(&mut self) -> String {
        let (Some((_, content)), Some(envelope)) = (self.data.take(), self.envelope.take()) else {
            return reply(503, (5, 5, 1), "Give MAIL and RCPT first.");
        };
        let gateway = &self.gateway;
        let subject = MessageParser::default().parse_headers(&content);
        let subject = subject.and_then(|header| header.subject().map(str::to_owned));
        let arrival = Arrival {
            gateway: gateway.name.clone(),
            address: gateway.address,
            subject,
            content,
            why: (gateway.why)(&envelope.reverse_path),
            envelope,
        };
        (gateway.report)(arrival);
        reply(250, (2, 0, 0), &format!("Arrived at the demonstration gateway {}", gateway.name))
    }
}

/// Brings a message to a relay, as the servers of the world bring test messages back.
///
/// # Errors
/// In a sentence, if the relay does not take it.
pub async fn bring_back(arrival: Arrival, relay: SocketAddr) -> anyhow::Result<()> {
    let hop = format!("{}.demonstration", arrival.gateway);
    let mut connection = Connection::connect(relay, TimeLimits::default()).await?;
    connection.reply(COMMAND_TIMEOUT).await?;
    let recipient = arrival.envelope.forward_paths.first().context("it has no recipient")?;
    for command in [
        format!("EHLO {hop}"),
        format!("MAIL FROM:<{}>", arrival.envelope.reverse_path),
        format!("RCPT TO:<{recipient}>"),
        "DATA".to_owned(),
    ] {
        let answer = connection.ask(&command).await?;
        anyhow::ensure!(answer.is_positive() || answer.is_intermediate(), "{command}: {answer}");
    }
    let field = Received {
        helo: "relay.localhost",
        client: arrival.address.ip(),
        by: &hop,
        with: "ESMTP",
        id: "demonstration",
        at: OffsetDateTime::now_utc(),
    };
    let content = [field.to_field().into_bytes(), arrival.content].concat();
    let sent = connection.send(&Source::Content(Content::Memory(content.into()))).await;
    sent.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    connection.answer().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    connection.quit().await;
    Ok(())
}

fn reply(code: u16, (class, subject, detail): (u8, u16, u16), text: &str) -> String {
    Reply::new(code, EnhancedStatus(class, subject, detail), text).to_wire()
}

/// A block for a terminal. What strangers sent is in it, so nothing that a terminal would obey is.
impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = |text: &str| text.chars().filter(|character| !character.is_control()).collect::<String>();
        let mut block = String::new();
        writeln!(
            block,
            "┌ Gateway {} at {} received a message of {} bytes",
            self.gateway,
            self.address,
            self.content.len()
        )?;
        writeln!(block, "│ MAIL FROM  <{}>", printable(&self.envelope.reverse_path))?;
        for forward_path in &self.envelope.forward_paths {
            writeln!(block, "│ RCPT TO    <{}>", printable(forward_path))?;
        }
        writeln!(block, "│ Subject    {}", printable(self.subject.as_deref().unwrap_or("(none)")))?;
        write!(block, "└ Why here   {}", printable(&self.why))?;
        f.write_str(&block)
    }
}
