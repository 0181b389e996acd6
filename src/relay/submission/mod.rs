//! Receiving: listens for clients, reads what they submit (RFC 5321), and asks for each message
//! what becomes of it. Routing, hand-over and queue are behind [`Accept`].

pub mod command;
mod connection;
pub mod data;
pub mod null_sender;
mod replies;
pub mod session;

use std::{
    collections::HashMap,
    future::Future,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{connection::Surroundings, session::Session};
use super::{message::Message, routing_table::RoutingTable, settings::Settings};
use crate::mail::Reply;

pub use self::session::Terms;

/// What becomes of a message that was read whole; its reply goes to the client as it is.
pub type Accept = Arc<dyn Fn(Message) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// How many connections the system keeps for us while we are busy.
const BACKLOG: u32 = 1024;
/// How long to wait when the system has no connections left to give.
const OUT_OF_CONNECTIONS: Duration = Duration::from_millis(50);
/// How long a connection that is one too many is told so.
const TURNING_AWAY: Duration = Duration::from_secs(1);

/// Opens the listeners that the settings name. The error says which one could not be opened.
pub fn bind(settings: &Settings) -> io::Result<Vec<TcpListener>> {
    settings.smtp_listen.iter().map(|&address| bind_one(address)).collect()
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A relay that was killed can come back while its old connections still fade.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Serves clients until `stop`. Then nobody new is let in, idle clients are told to come back, and
/// returns when the last message in flight has its answer or the limit for that is over.
pub async fn listen(
    listeners: Vec<TcpListener>,
    settings: &Settings,
    table: Arc<RoutingTable>,
    accept: Accept,
    stop: CancellationToken,
) {
    let give_up = CancellationToken::new();
    let reception = Arc::new(Reception {
        terms: Arc::new(Terms {
            hostname: settings.hostname.clone(),
            trusted_networks: settings.trusted_networks.clone(),
            max_message_size: settings.max_message_size,
            table,
        }),
        surroundings: Arc::new(Surroundings {
            accept,
            limits: settings.limits.clone(),
            spool_dir: settings.spool_dir.clone(),
            stop: stop.clone(),
            give_up: give_up.clone(),
        }),
        connected: Mutex::default(),
        clients: TaskTracker::new(),
    });
    let accepting = TaskTracker::new();
    for listener in listeners {
        accepting.spawn(Arc::clone(&reception).accept_clients(listener, stop.clone()));
    }
    accepting.close();
    accepting.wait().await;
    reception.clients.close();
    if timeout(settings.limits.stopping, reception.clients.wait()).await.is_err() {
        give_up.cancel();
        // They now only say their last words.
        let _ = timeout(TURNING_AWAY * 2, reception.clients.wait()).await;
    }
}

struct Reception {
    terms: Arc<Terms>,
    surroundings: Arc<Surroundings>,
    /// Connections by client address. A std lock: held for a count, never across an await.
    connected: Mutex<HashMap<IpAddr, usize>>,
    clients: TaskTracker,
}

impl Reception {
    async fn accept_clients(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => Arc::clone(&self).let_in(stream, peer.ip().to_canonical()),
                // Out of file descriptors, or the client is gone already. Trying at once would only spin.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(OUT_OF_CONNECTIONS).await;
                }
            }
        }
    }

    fn let_in(self: Arc<Self>, stream: TcpStream, client: IpAddr) {
        let clients = self.clients.clone();
        let Some(place) = Place::take(&self, client) else {
            let too_many = replies::too_many_connections(&self.terms.hostname).to_wire();
            clients.spawn(turn_away(stream, too_many));
            return;
        };
        // Replies are small and waited for: they must not wait for company.
        let _ = stream.set_nodelay(true);
        let mut session = Session::new(Arc::clone(&self.terms), client);
        match talks_already(&stream) {
            true => session.refuse_early_talker(),
            false => session.greet(),
        }
        let surroundings = Arc::clone(&self.surroundings);
        clients.spawn(async move {
            connection::serve(stream, session, surroundings).await;
            drop(place);
        });
    }
}

/// One of the connections that may be open at a time.
struct Place {
    reception: Arc<Reception>,
    client: IpAddr,
}

impl Place {
    fn take(reception: &Arc<Reception>, client: IpAddr) -> Option<Self> {
        let limits = &reception.surroundings.limits;
        // Strangers leave half of all connections to those who are let send.
        let (of_all, of_client) = match reception.terms.trusts(client) {
            true => (limits.connections, limits.connections_of_trusted_client),
            false => (limits.connections / 2, limits.connections_of_other_client),
        };
        let mut connected = reception.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = connected.values().sum();
        let mine = connected.entry(client).or_default();
        if total >= of_all || *mine >= of_client {
            if *mine == 0 {
                connected.remove(&client);
            }
            return None;
        }
        *mine += 1;
        Some(Self { reception: Arc::clone(reception), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = self.reception.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = connected.get_mut(&self.client) {
            *mine -= 1;
            if *mine == 0 {
                connected.remove(&self.client);
            }
        }
    }
}

async fn turn_away(mut stream: TcpStream, words: String) {
    let _ = timeout(TURNING_AWAY, async {
        stream.write_all(words.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

/// Whether the client has sent something before it was greeted (RFC 5321 §3.1 forbids it). Only
/// what has arrived by now is seen: nobody honest waits for this.
fn talks_already(stream: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    SockRef::from(stream).peek(&mut byte).is_ok_and(|read| read > 0)
}
