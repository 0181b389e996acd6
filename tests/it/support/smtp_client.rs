//! An SMTP client that says exactly what it is told to, and reads whole replies.
//! For what no well-behaved client would say; ordinary mail goes by curl and swaks too.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const ANSWER_WAIT: Duration = Duration::from_secs(10);

pub struct SmtpClient<S = TcpStream> {
    stream: BufReader<S>,
}

impl SmtpClient {
    /// Connects, and says nothing.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // Small pieces leave at once: else each waits for the answer to the one before.
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Connects and goes as far as EHLO.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        assert!(client.reply().await.starts_with("220 "));
        assert!(client.say("EHLO client.example").await.starts_with("250-"));
        client
    }

    /// Does the handshake that comes after STARTTLS, or first of all.
    pub async fn encrypt(self, tls: &TlsConnector) -> io::Result<SmtpClient<TlsStream<TcpStream>>> {
        let name = "relay.example".try_into().unwrap();
        Ok(SmtpClient::over(tls.connect(name, self.stream.into_inner()).await?))
    }

    /// Connects, begins TLS with STARTTLS and says EHLO again.
    pub async fn encrypted(address: SocketAddr, tls: &TlsConnector) -> SmtpClient<TlsStream<TcpStream>> {
        let mut client = Self::greeted(address).await;
        assert!(client.say("STARTTLS").await.starts_with("220 "));
        let mut client = client.encrypt(tls).await.unwrap();
        assert!(client.say("EHLO client.example").await.ends_with("250 AUTH PLAIN LOGIN\r\n"));
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> SmtpClient<S> {
    /// On a connection that there is already.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
        self.stream.get_mut().flush().await.unwrap();
    }

    /// Sends one command; the reply to it.
    pub async fn say(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Signs in by PLAIN; the reply.
    pub async fn sign_in(&mut self, user_name: &str, secret: &str) -> String {
        use base64::{Engine, prelude::BASE64_STANDARD};
        self.say(&format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0{user_name}\0{secret}")))).await
    }

    /// The next reply, all its lines; empty if the relay has closed.
    pub async fn reply(&mut self) -> String {
        timeout(ANSWER_WAIT, self.reply_whenever()).await.expect("the relay answers")
    }

    /// The same however long it takes.
    pub async fn reply_whenever(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let before = reply.len();
            let read = self.stream.read_line(&mut reply).await;
            if read.unwrap_or(0) == 0 || reply.as_bytes().get(before + 3) == Some(&b' ') {
                return reply;
            }
        }
    }

    /// Sends a byte every ten milliseconds until the relay has had enough; what it then says.
    pub async fn trickle(&mut self) -> String {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            self.send(b"x").await;
            if let Ok(said) = timeout(Duration::ZERO, self.reply_whenever()).await {
                return said;
            }
        }
    }

    /// From MAIL to the dot; the reply to the message, or to the command that was refused.
    pub async fn submit(&mut self, reverse_path: &str, forward_path: &str, content: &str) -> String {
        for command in [format!("MAIL FROM:<{reverse_path}>"), format!("RCPT TO:<{forward_path}>"), "DATA".to_owned()] {
            let reply = self.say(&command).await;
            if !reply.starts_with(['2', '3']) {
                return reply;
            }
        }
        self.send(content.as_bytes()).await;
        self.say("\r\n.").await
    }
}
