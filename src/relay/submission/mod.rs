//! Receiving: listens for clients, reads what they submit (RFC 5321), and asks for each message
//! what becomes of it. Routing, hand-over and queue are behind [`Accept`].

pub mod command;
mod connection;
pub mod data;
mod desk;
pub mod null_sender;
pub mod proxy;
mod recipients;
mod replies;
pub mod session;
pub mod sign_in;
mod spool_room;
pub mod tls;

use std::{
    collections::HashMap,
    fs::File,
    future::Future,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use futures_util::FutureExt;
use ipnet::IpNet;
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use self::{connection::Surroundings, desk::Desks, proxy::Origin, session::Session, sign_in::SignIns};
use super::{
    memory::Memory,
    message::Message,
    metrics::METRICS,
    routing_table::RoutingTable,
    settings::Settings,
    test_message::{ReturnTokens, Returned},
};
use crate::{mail::Reply, policy::sign_in_limit::one_client};

pub use self::session::{Refused, Terms};

/// What becomes of a message that was read whole; its reply goes to the client as it is.
pub type Accept = Arc<dyn Fn(Message) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// Who is told of messages that were refused before that.
pub type OnRefusal = Arc<dyn Fn(Refused) + Send + Sync>;

/// What becomes of a test message that has come back; its reply goes to who has brought it.
pub type TakeBack = Arc<dyn Fn(Returned) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// Where test messages come back to, and who takes them in.
#[derive(Clone)]
pub struct Returns {
    pub tokens: Arc<ReturnTokens>,
    pub take: TakeBack,
}

/// What becomes of what clients bring.
pub struct Takers {
    pub accept: Accept,
    /// Without it refusals are said and not told of.
    pub refused: Option<OnRefusal>,
    /// Without it nothing comes back.
    pub returns: Option<Returns>,
}

/// How many connections the system keeps for us while we are busy.
const BACKLOG: u32 = 1024;
/// How long to wait when the system has no connections left to give.
const OUT_OF_CONNECTIONS: Duration = Duration::from_millis(50);
/// How long a connection that is one too many is told so.
const TURNING_AWAY: Duration = Duration::from_secs(1);

/// Where clients connect.
#[derive(Debug)]
pub struct Listener {
    pub socket: TcpListener,
    /// Whether connections begin with TLS (RFC 8314 §3.3).
    pub begins_with_tls: bool,
}

impl Listener {
    /// Words for a client that is not let in. Who expects TLS would take them for a broken handshake.
    fn in_clear(&self, words: String) -> String {
        if self.begins_with_tls { String::new() } else { words }
    }
}

impl From<TcpListener> for Listener {
    /// In the clear at first.
    fn from(socket: TcpListener) -> Self {
        Self { socket, begins_with_tls: false }
    }
}

/// Opens the listeners that the settings name. The error says which one could not be opened.
pub fn bind(settings: &Settings) -> io::Result<Vec<Listener>> {
    let open = |setting: &str, addresses: &[SocketAddr], begins_with_tls| {
        let sockets = addresses.iter().map(|&address| {
            bind_one(address).map_err(|error| io::Error::new(error.kind(), format!("{setting}: {error}")))
        });
        sockets.map(|socket| Ok(Listener { socket: socket?, begins_with_tls })).collect::<io::Result<Vec<_>>>()
    };
    let mut listeners = open("OUTGATE_SMTP_LISTEN", &settings.smtp_listen, false)?;
    listeners.extend(open("OUTGATE_SMTPS_LISTEN", &settings.smtps_listen, true)?);
    Ok(listeners)
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
    listeners: impl IntoIterator<Item = impl Into<Listener>>,
    settings: &Settings,
    table: Arc<RoutingTable>,
    takers: Takers,
    sign_ins: Arc<SignIns>,
    stop: CancellationToken,
) {
    let give_up = CancellationToken::new();
    let spool_room = Arc::new(AtomicU64::new(u64::MAX));
    let least_free_space = settings.limits.least_free_space;
    let _watching = spool_room::watch(&settings.spool_dir, least_free_space, Arc::clone(&spool_room)).await;
    let desks = Arc::new(Desks::default());
    let _serving = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&desks).serve()));
    let reception = Arc::new(Reception {
        terms: Arc::new(Terms {
            hostname: settings.hostname.clone(),
            links: settings.links.clone(),
            trusted_networks: settings.trusted_networks.clone(),
            max_message_size: settings.max_message_size,
            table,
            memory: Memory::of(settings.message_memory),
            spool_room: Arc::clone(&spool_room),
            encrypts: settings.tls.is_some(),
            sign_ins,
            connections_of_organization: settings.limits.connections_of_organization,
            connections: settings.limits.connections,
            returns: takers.returns.as_ref().map(|returns| Arc::clone(&returns.tokens)),
        }),
        surroundings: Arc::new(Surroundings {
            takers,
            links: settings.links.clone(),
            limits: settings.limits.clone(),
            spool_dir: settings.spool_dir.clone(),
            tls: settings.tls.clone(),
            desks,
            stop: stop.clone(),
            give_up: give_up.clone(),
        }),
        connected: Mutex::default(),
        proxies: settings.proxy_networks.clone(),
        unnamed: Arc::new(Semaphore::new(settings.limits.connections)),
        clients: TaskTracker::new(),
    });
    let accepting = TaskTracker::new();
    for listener in listeners {
        accepting.spawn(Arc::clone(&reception).accept_clients(listener.into(), stop.clone()));
    }
    accepting.close();
    accepting.wait().await;
    reception.clients.close();
    if timeout(settings.finishing_of_clients(), reception.clients.wait()).await.is_err() {
        give_up.cancel();
        // They now only say their last words.
        let _ = timeout(TURNING_AWAY * 2, reception.clients.wait()).await;
    }
}

struct Reception {
    terms: Arc<Terms>,
    surroundings: Arc<Surroundings>,
    /// A std lock: held for a count, never across an await.
    connected: Mutex<Connected>,
    /// Whose PROXY headers are read.
    proxies: Vec<IpNet>,
    /// Room for connections from proxies whose header has not come yet.
    unnamed: Arc<Semaphore>,
    clients: TaskTracker,
}

/// Connections that are open.
#[derive(Debug, Default)]
struct Connected {
    total: usize,
    /// Those of them that are in no trusted network and have not signed in.
    strangers: usize,
    /// By client, without those that have signed in.
    by_client: HashMap<IpAddr, usize>,
}

/// Whose connection it is, as far as is known.
#[derive(Debug, Clone, Copy)]
struct Client {
    address: IpAddr,
    /// A proxy did not say whose it is: nobody trusted.
    is_unnamed: bool,
}

impl Reception {
    async fn accept_clients(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        // A file descriptor that is kept for telling a client that there are no more.
        let mut spare = File::open("/dev/null").ok();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let peer = peer.ip().to_canonical();
                    match self.proxies.iter().any(|network| network.contains(&peer)) {
                        true => Arc::clone(&self).ask_proxy(stream, peer, listener.begins_with_tls),
                        false => {
                            let client = Client { address: peer, is_unnamed: false };
                            Arc::clone(&self).let_in(stream, client, listener.begins_with_tls);
                        }
                    }
                }
                // Out of file descriptors, or the client is gone already. Trying at once would only spin.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    drop(spare.take());
                    if let Ok(Ok((stream, _))) = timeout(OUT_OF_CONNECTIONS, listener.socket.accept()).await {
                        METRICS.turned_away.add(1);
                        let too_many = replies::too_many_connections(&self.terms.hostname).to_wire();
                        turn_away(stream, listener.in_clear(too_many)).await;
                    }
                    tokio::time::sleep(OUT_OF_CONNECTIONS).await;
                    spare = File::open("/dev/null").ok();
                }
            }
        }
        // Who is at the door already is told to come back, rather than cut off.
        while let Some(Ok((stream, _))) = listener.socket.accept().now_or_never() {
            let stopping = replies::stopping(&self.terms.hostname).to_wire();
            self.clients.spawn(turn_away(stream, listener.in_clear(stopping)));
        }
    }

    /// Lets somebody in whom a proxy names. One that names nobody, not even that it does not, is refused.
    fn ask_proxy(self: Arc<Self>, mut stream: TcpStream, proxy: IpAddr, begins_with_tls: bool) {
        let Ok(room) = Arc::clone(&self.unnamed).try_acquire_owned() else { return };
        let reception = Arc::clone(&self);
        self.clients.spawn(async move {
            let header = timeout(reception.surroundings.limits.handshake, proxy::read_header(&mut stream));
            let Some(header) = reception.surroundings.stop.run_until_cancelled(header).await else { return };
            drop(room);
            let client = match header {
                Ok(Ok(Origin::Client(address))) => Client { address, is_unnamed: false },
                Ok(Ok(Origin::Unnamed)) => Client { address: proxy, is_unnamed: true },
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(%proxy, "a connection from a listed proxy has no PROXY header");
                    let words = if begins_with_tls { String::new() } else { replies::proxy_header_missing().to_wire() };
                    return turn_away(stream, words).await;
                }
            };
            reception.let_in(stream, client, begins_with_tls);
        });
    }

    fn let_in(self: Arc<Self>, stream: TcpStream, client: Client, begins_with_tls: bool) {
        let clients = self.clients.clone();
        let Some(place) = Place::take(&self, client) else {
            METRICS.turned_away.add(1);
            let too_many = replies::too_many_connections(&self.terms.hostname).to_wire();
            // Who expects TLS would take words in the clear for a broken handshake.
            clients.spawn(turn_away(stream, if begins_with_tls { String::new() } else { too_many }));
            return;
        };
        // Replies are small and waited for: they must not wait for company.
        let _ = stream.set_nodelay(true);
        let mut session = match client.is_unnamed {
            true => Session::for_unnamed(Arc::clone(&self.terms), client.address),
            false => Session::new(Arc::clone(&self.terms), client.address),
        };
        let surroundings = Arc::clone(&self.surroundings);
        if surroundings.takers.refused.is_some() {
            session = session.noting_refusals();
        }
        if begins_with_tls {
            session.greet();
            clients.spawn(connection::serve_encrypted(stream, session, place, surroundings));
            return;
        }
        match talks_already(&stream) {
            true => session.refuse_early_talker(),
            false => session.greet(),
        }
        clients.spawn(connection::serve(stream, session, place, surroundings));
    }
}

/// One of the connections that may be open at a time.
struct Place {
    reception: Arc<Reception>,
    /// The client that it counts for; none once it has signed in.
    client: Option<IpAddr>,
    is_stranger: bool,
}

impl Place {
    fn take(reception: &Arc<Reception>, client: Client) -> Option<Self> {
        let limits = &reception.surroundings.limits;
        let is_stranger = !reception.terms.trusts(client.address) || client.is_unnamed;
        let client = one_client(client.address);
        let mut connected = reception.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let left = limits.connections.saturating_sub(connected.total);
        let mine = connected.by_client.get(&client).copied().unwrap_or_default();
        let is_let_in = match is_stranger {
            // Among them are those who are about to sign in: whoever has signed in already takes nothing of it.
            true => connected.strangers < limits.connections / 2 && mine < limits.connections_of_other_client,
            // As many are left for others.
            false => mine < limits.connections_of_trusted_client.min(left),
        };
        if left == 0 || !is_let_in {
            return None;
        }
        connected.total += 1;
        connected.strangers += usize::from(is_stranger);
        METRICS.clients.add(1);
        connected.by_client.insert(client, mine + 1);
        Some(Self { reception: Arc::clone(reception), client: Some(client), is_stranger })
    }

    /// Whether nobody knows yet whose connection it is.
    fn is_strangers(&self) -> bool {
        self.is_stranger && self.client.is_some()
    }

    /// The client has signed in: its organization answers for the connection, and not its address, behind which
    /// there may be many.
    fn leave_to_others(&mut self) {
        if let Some(client) = self.client.take() {
            let mut connected = self.reception.connected.lock().unwrap_or_else(PoisonError::into_inner);
            connected.leave(client, self.is_stranger);
        }
    }
}

impl Connected {
    fn leave(&mut self, client: IpAddr, is_stranger: bool) {
        self.strangers -= usize::from(is_stranger);
        if let Some(mine) = self.by_client.get_mut(&client) {
            *mine -= 1;
            if *mine == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = self.reception.connected.lock().unwrap_or_else(PoisonError::into_inner);
        METRICS.clients.add(-1);
        connected.total -= 1;
        if let Some(client) = self.client {
            connected.leave(client, self.is_stranger);
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
