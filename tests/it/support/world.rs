//! A whole installation on loopback: the pages, a relay and gateways, each on a port of its own,
//! with mail sent by a client that we did not write.

use std::{net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use outgate::{
    mail::{GatewayAddress, id::Revision},
    policy::{gateway_network::AllowedNetworks, routing::PlatformDefault},
    relay::{
        self, Relay,
        demonstration_gateway::{self, Arrival},
        submission::Listener,
    },
    web,
};
use sqlx::PgPool;
use tokio::{
    net::TcpListener,
    process::Command,
    sync::{Mutex, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Installation;

/// How long a message may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway that takes everything and shows it.
#[derive(Clone)]
pub struct Inbox {
    pub address: SocketAddr,
    arrivals: Arc<Mutex<mpsc::UnboundedReceiver<Arrival>>>,
}

impl Inbox {
    /// As an administrator types it.
    pub fn typed(&self) -> String {
        self.address.to_string()
    }

    /// As pages show it.
    pub fn shown(&self) -> String {
        self.address.to_string().parse::<GatewayAddress>().unwrap().with_port_in_words()
    }

    /// The subject of the next message.
    pub async fn next_subject(&self) -> String {
        let mut arrivals = self.arrivals.lock().await;
        let arrival = tokio::time::timeout(PATIENCE, arrivals.recv()).await;
        let arrival = arrival.unwrap_or_else(|_| panic!("nothing arrived at {}", self.address)).unwrap();
        arrival.subject.unwrap_or_default()
    }

    /// The subject of a message that is here already.
    pub async fn subject_at_once(&self) -> Option<String> {
        self.arrivals.lock().await.try_recv().ok().map(|arrival| arrival.subject.unwrap_or_default())
    }

    pub async fn is_empty(&self) -> bool {
        self.arrivals.lock().await.is_empty()
    }
}

pub struct World {
    pub pages: String,
    pub submission: SocketAddr,
    /// Where submission begins with TLS, if there is a certificate.
    pub encrypted: Option<SocketAddr>,
    /// Where mail without a gateway goes.
    pub default: Inbox,
    stop: CancellationToken,
    parts: TaskTracker,
}

impl World {
    pub async fn start(installation: &Installation) -> Self {
        Self::with_relay_on(installation, installation.relay_pool().await).await
    }

    /// The same; the relay finds the store through a pool of the test's.
    pub async fn with_relay_on(installation: &Installation, relay_pool: PgPool) -> Self {
        Self::with_settings(installation, relay_pool, |_| {}).await
    }

    /// The same with other settings of the relay.
    pub async fn with_settings(
        installation: &Installation,
        relay_pool: PgPool,
        adjust: impl FnOnce(&mut relay::Settings),
    ) -> Self {
        let (stop, parts) = (CancellationToken::new(), TaskTracker::new());
        let default = inbox(&parts, &stop).await;
        let platform_default = PlatformDefault::Smarthost(default.typed().parse().unwrap());
        let allowed = AllowedNetworks {
            networks: vec!["127.0.0.0/8".parse().unwrap()],
            listeners: Vec::new(),
            ..Default::default()
        };

        let mut relay_settings = relay::Settings {
            allowed: allowed.clone(),
            ..relay::Settings::new("relay-1", "relay.test", platform_default.clone())
        };
        adjust(&mut relay_settings);
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pages = format!("http://{}", http.local_addr().unwrap());
        let settings = web::Settings {
            public_url: Some(pages.parse().unwrap()),
            trusted_proxies: Vec::new(),
            platform_default,
            allowed_networks: allowed,
            webhook_networks: relay_settings.webhook_networks.clone(),
            list_members: 200,
            return_address: relay_settings.return_address.clone(),
        };
        let store = installation.web_store().await;
        let serving = stop.clone();
        parts.spawn(async move { web::serve(settings, store, http, serving).await.unwrap() });

        let smtp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let submission = smtp.local_addr().unwrap();
        let mut listeners = vec![Listener::from(smtp)];
        let mut encrypted = None;
        if relay_settings.tls.is_some() {
            let smtps = TcpListener::bind("127.0.0.1:0").await.unwrap();
            encrypted = Some(smtps.local_addr().unwrap());
            listeners.push(Listener { socket: smtps, begins_with_tls: true });
        }
        let relay = Relay::new(relay_settings, relay_pool);
        let table = relay.table();
        let relaying = stop.clone();
        parts.spawn(async move { relay.run(listeners, relaying).await.unwrap() });
        tokio::time::timeout(PATIENCE, table.applied().wait_for(Option::is_some)).await.unwrap().unwrap();
        Self { pages, submission, encrypted, default, stop, parts }
    }

    pub async fn gateway(&self) -> Inbox {
        inbox(&self.parts, &self.stop).await
    }

    /// Sends one message with curl; its subject is how it is known again.
    pub async fn send(&self, sender: &str, subject: &str) {
        let message =
            format!("From: {sender}\r\nTo: someone@elsewhere.example\r\nSubject: {subject}\r\n\r\nHello.\r\n");
        let mut curl = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--mail-from", sender, "--mail-rcpt", "someone@elsewhere.example"])
            .args(["--upload-file", "-", &format!("smtp://{}", self.submission)])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = curl.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, message.as_bytes()).await.unwrap();
        drop(stdin);
        assert!(curl.wait().await.unwrap().success(), "curl sent {subject}");
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.parts.close();
        tokio::time::timeout(Duration::from_secs(30), self.parts.wait()).await.unwrap();
    }
}

/// Waits until a page could say that this revision is live.
pub async fn until_live(installation: &Installation, revision: Revision) {
    let confirmed = async {
        loop {
            let live = installation.live(revision).await;
            if live.relays == 1 && live.confirmed == 1 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, confirmed).await.expect("the save is live");
}

async fn inbox(parts: &TaskTracker, stop: &CancellationToken) -> Inbox {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (report, arrivals) = mpsc::unbounded_channel();
    let stop = stop.clone();
    parts.spawn(async move {
        let report = move |arrival| drop(report.send(arrival));
        demonstration_gateway::run("gateway", listener, |_| String::new(), report, stop).await.unwrap();
    });
    Inbox { address, arrivals: Arc::new(Mutex::new(arrivals)) }
}
