//! One connection to another server: bytes out in as few writes as possible, replies in, every wait
//! limited. Knows no message.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use rustls::{ClientConnection, ProtocolVersion, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    reply_reader::{Extensions, complete_reply, take_reply},
    trouble::Trouble,
};
use crate::{mail::Reply, relay::alarm::Alarm};

/// How long to wait for what (RFC 5321 §4.5.3.2).
#[derive(Debug, Clone, Copy)]
pub struct TimeLimits {
    /// Each address of a name.
    pub connect: Duration,
    /// Greeting, EHLO, STARTTLS, MAIL, RCPT: each.
    pub command: Duration,
    pub data: Duration,
    /// Each block of the message.
    pub block: Duration,
    /// The answer to the final dot. Shorter than ten minutes makes duplicates.
    pub dot: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            command: Duration::from_secs(300),
            data: Duration::from_secs(120),
            block: Duration::from_secs(180),
            dot: Duration::from_secs(600),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    server: SocketAddr,
    stream: Stream,
    input: BytesMut,
    /// What is to be written next; kept, so that its memory is used again.
    pub(super) output: Vec<u8>,
    pub(super) extensions: Extensions,
    pub(super) limits: TimeLimits,
    /// A transaction was begun and not ended: RSET comes before the next one.
    pub(super) in_transaction: bool,
    /// How many messages it has carried.
    pub(super) messages: u32,
    /// Not to be used again.
    closing: bool,
    /// For its replies.
    alarm: Alarm,
}

/// The way to a server as it was, for whoever tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Through {
    pub server: SocketAddr,
    /// Such as `TLS 1.3`; `None` in clear.
    pub tls: Option<&'static str>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Trouble> {
        let written = timeout(limit, async {
            match self {
                Self::Plain(stream) => stream.write_all(bytes).await,
                Self::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        });
        Ok(written.await.map_err(|_| Trouble::TimedOut(limit))??)
    }
}

impl Connection {
    pub async fn connect(address: SocketAddr, limits: TimeLimits) -> Result<Self, Trouble> {
        let stream = match timeout(limits.connect, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(Trouble::Connect)?,
            Err(_) => return Err(Trouble::TimedOut(limits.connect)),
        };
        // Everything is written in whole groups: waiting for more only costs time.
        stream.set_nodelay(true).map_err(Trouble::Connect)?;
        let (input, output) = (BytesMut::with_capacity(1024), Vec::with_capacity(1024));
        Ok(Self {
            server: address,
            stream: Stream::Plain(stream),
            input,
            output,
            extensions: Extensions::default(),
            limits,
            in_transaction: false,
            messages: 0,
            closing: false,
            alarm: Alarm::default(),
        })
    }

    /// Goes on encrypted. What came in clear behind the answer to STARTTLS is thrown away: it may be
    /// anyone's (RFC 3207 §5).
    pub async fn encrypt(self, connector: &TlsConnector, name: ServerName<'static>) -> Result<Self, Trouble> {
        let Stream::Plain(stream) = self.stream else { return Ok(self) };
        let limit = self.limits.command;
        let stream = match timeout(limit, connector.connect(name, stream)).await {
            Ok(shaken) => shaken.map_err(Trouble::Handshake)?,
            Err(_) => return Err(Trouble::TimedOut(limit)),
        };
        let (input, extensions) = (BytesMut::with_capacity(1024), Extensions::default());
        Ok(Self { stream: Stream::Tls(Box::new(stream)), input, extensions, ..self })
    }

    /// Writes `output` at once and empties it.
    pub async fn flush(&mut self, limit: Duration) -> Result<(), Trouble> {
        let written = self.stream.write(&self.output, limit).await;
        self.output.clear();
        written
    }

    /// Writes these bytes at once; `output` has to be empty.
    pub async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Trouble> {
        self.stream.write(bytes, limit).await
    }

    /// The next reply. May be dropped while it waits and called again.
    pub async fn reply(&mut self, limit: Duration) -> Result<Reply, Trouble> {
        let length = self.whole_reply(limit).await?;
        take_reply(&mut self.input, length)
    }

    /// The next reply, also as it came: the answer to EHLO has a grammar of its own.
    pub async fn raw_reply(&mut self, limit: Duration) -> Result<(Reply, BytesMut), Trouble> {
        let length = self.whole_reply(limit).await?;
        let mut raw = self.input.split_to(length);
        Ok((take_reply(&mut raw.clone(), length)?, raw.split()))
    }

    /// The largest message that the server says it takes (RFC 1870), in bytes, where it says so.
    pub fn largest_message(&self) -> Option<u64> {
        self.extensions.size.filter(|most| *most > 0)
    }

    async fn whole_reply(&mut self, limit: Duration) -> Result<usize, Trouble> {
        // Replies of a pipelined group often come together.
        if let Some(length) = complete_reply(&self.input)? {
            return Ok(length);
        }
        let read = self.alarm.within(limit, async {
            loop {
                let count = match &mut self.stream {
                    Stream::Plain(stream) => stream.read_buf(&mut self.input).await?,
                    Stream::Tls(stream) => stream.read_buf(&mut self.input).await?,
                };
                if count == 0 {
                    return Err(Trouble::Closed);
                }
                if let Some(length) = complete_reply(&self.input)? {
                    return Ok(length);
                }
            }
        });
        read.await.unwrap_or(Err(Trouble::TimedOut(limit)))
    }

    /// Whether an idle connection still looks open: one look at the socket, no waiting. A server has
    /// nothing to say on its own, except that it closes.
    pub fn looks_alive(&self) -> bool {
        if self.closing || !self.input.is_empty() {
            return false;
        }
        let (stream, encrypted) = match &self.stream {
            Stream::Plain(stream) => (stream, false),
            Stream::Tls(stream) => (stream.get_ref().0, true),
        };
        match try_peek(stream) {
            // TLS has messages of its own, such as session tickets.
            Ok(count) => count > 0 && encrypted,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Where it leads.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Where it comes from, as this machine sees it.
    pub fn local_address(&self) -> Option<SocketAddr> {
        let stream = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        stream.local_addr().ok()
    }

    /// Which server this is, and how it is spoken to.
    pub fn through(&self) -> Through {
        let tls = self.tls_session().map(|session| match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        });
        Through { server: self.server, tls }
    }

    /// What was agreed with the server; `None` in clear.
    pub fn tls_session(&self) -> Option<&ClientConnection> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(stream.get_ref().1),
        }
    }

    /// One command and its answer.
    pub async fn ask(&mut self, command: &str) -> Result<Reply, Trouble> {
        self.output.clear();
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        let limit = self.limits.command;
        self.flush(limit).await?;
        self.reply(limit).await
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Lets nobody use it again.
    pub fn close(&mut self) {
        self.closing = true;
    }

    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Says QUIT and closes without waiting for the answer.
    pub async fn quit(mut self) {
        self.output.clear();
        self.output.extend_from_slice(b"QUIT\r\n");
        // Whoever does not take it has left already.
        let _ = self.flush(Duration::from_secs(1)).await;
    }
}

/// What could be read now, left where it is.
fn try_peek(stream: &TcpStream) -> io::Result<usize> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(stream.peek(&mut [0])).poll(&mut context) {
        Poll::Ready(peeked) => peeked,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
