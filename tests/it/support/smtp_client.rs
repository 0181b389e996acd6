//! A mail client that says exactly what a test tells it, and reads whole replies.
//! For what no well-behaved client would say; ordinary mail goes by curl and swaks too.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

const ANSWER_WAIT: Duration = Duration::from_secs(10);

pub struct SmtpClient {
    stream: BufReader<TcpStream>,
}

impl SmtpClient {
    /// Connects, and says nothing.
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(address).await.unwrap()) }
    }

    /// Connects and goes as far as EHLO.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        assert!(client.reply().await.starts_with("220 "));
        assert!(client.say("EHLO client.example").await.starts_with("250-"));
        client
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// Sends one command; the reply to it.
    pub async fn say(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// The next reply, all its lines; empty if the relay has closed.
    pub async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let before = reply.len();
            let read = timeout(ANSWER_WAIT, self.stream.read_line(&mut reply)).await.expect("the relay answers");
            if read.unwrap_or(0) == 0 || reply.as_bytes().get(before + 3) == Some(&b' ') {
                return reply;
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
