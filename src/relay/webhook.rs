//! Tells webhooks what there is to tell: one POST a notice, signed, to an address that is checked when it is connected
//! to. Beside the mail; what is not taken is tried again for two days.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use super::resolver::Resolver;
use crate::{
    mail::{GatewayHost, id::OrganizationId},
    policy::{
        gateway_network::AllowedNetworks,
        webhook::{self, WebhookUrl},
    },
    store::{self, webhook::Due},
};

/// How often it is looked whether something is due.
const EVERY: Duration = Duration::from_secs(2);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection to one address may take.
const CONNECTING: Duration = Duration::from_secs(5);
/// How long all of an attempt may take.
const ATTEMPT: Duration = Duration::from_secs(15);
/// Attempts at a time: of each organization one, so that one whose receiver hangs holds up nobody else.
const AT_A_TIME: usize = 64;
/// After so long another relay takes up what this one has taken.
const LEASE: time::Duration = time::Duration::minutes(2);

/// Posts notices.
pub struct Webhooks {
    db: PgPool,
    resolver: Resolver,
    allowed: AllowedNetworks,
    tls: TlsConnector,
    attempts: TaskTracker,
    /// Organizations whose notices are being posted. A std lock: held for a moment.
    under_way: Mutex<HashSet<OrganizationId>>,
}

/// Why a notice was not taken, in words for an administrator.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    LookUp(#[from] super::resolver::LookUpError),
    #[error("the name leads to no address that may be connected to")]
    Forbidden,
    #[error("the connection failed: {0}")]
    Connect(std::io::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("no answer within {} seconds", ATTEMPT.as_secs())]
    TimedOut,
    #[error("what answers is no web server: {0}")]
    NotHttp(String),
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl Webhooks {
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(db: PgPool, resolver: Resolver, allowed: AllowedNetworks) -> Result<Arc<Self>, rustls::Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (attempts, under_way) = (TaskTracker::new(), Mutex::default());
        Ok(Arc::new(Self { db, resolver, allowed, tls: Arc::new(config).into(), attempts, under_way }))
    }

    /// Until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
            let beginning = Arc::clone(&self).begin(OffsetDateTime::now_utc());
            if let Some(Err(error)) = stop.run_until_cancelled(beginning).await {
                tracing::warn!(%error, "webhooks could not be told");
            }
        }
    }

    /// Tells what is due at `now`, and waits for what comes of it. Returns how many notices were tried.
    pub async fn step(self: Arc<Self>, now: OffsetDateTime) -> store::Result<usize> {
        let tried = Arc::clone(&self).begin(now).await;
        self.attempts.close();
        self.attempts.wait().await;
        self.attempts.reopen();
        tried
    }

    /// Begins to tell what is due at `now`, as far as there is room for it.
    async fn begin(self: Arc<Self>, now: OffsetDateTime) -> store::Result<usize> {
        let under_way: Vec<OrganizationId> = self.under_way().iter().copied().collect();
        let most = AT_A_TIME.saturating_sub(under_way.len()) as i64;
        let taking = store::webhook::take_across_tenants(&self.db, now, LEASE, &under_way, most);
        let due = timeout(PATIENCE, taking).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        let tried = due.len();
        for due in due {
            let webhooks = Arc::clone(&self);
            self.under_way().insert(due.organization);
            self.attempts.spawn(async move {
                webhooks.attempt(&due, now).await;
                webhooks.under_way().remove(&due.organization);
            });
        }
        let forgetting = store::webhook::forget_unwanted_across_tenants(&self.db);
        timeout(PATIENCE, forgetting).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(tried)
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<OrganizationId>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self, due: &Due, now: OffsetDateTime) {
        let answered = timeout(ATTEMPT, self.post(due, now)).await.unwrap_or(Err(Trouble::TimedOut));
        let (taken, outcome, again) = match &answered {
            Ok(status) => (true, format!("taken: {status}"), None),
            // It says that it does not want to be told any more.
            Err(trouble @ Trouble::Status(StatusCode::GONE)) => (false, trouble.to_string(), None),
            Err(trouble) => {
                let attempts = u32::try_from(due.attempts).unwrap_or(u32::MAX);
                (false, trouble.to_string(), webhook::again(due.noted_at, attempts, now))
            }
        };
        let noting = async {
            let mut db = self.db.acquire().await?;
            store::webhook::attempted_across_tenants(&mut db, due, taken, &outcome, again).await
        };
        // It is tried again, then: whoever receives it knows it by its id.
        if !matches!(timeout(PATIENCE, noting).await, Ok(Ok(()))) {
            tracing::warn!(organization = %due.organization, "what came of a notice to a webhook could not be noted");
        }
    }

    async fn post(&self, due: &Due, now: OffsetDateTime) -> Result<StatusCode, Trouble> {
        let url = &due.webhook.url;
        let stream = self.connect(due).await?;
        let response = match url.encrypted {
            true => {
                let name = match url.server.host() {
                    GatewayHost::Name(name) => {
                        ServerName::try_from(name.to_string()).map_err(|_| Trouble::Forbidden)?
                    }
                    GatewayHost::Ip(ip) => ServerName::from(*ip),
                };
                let stream = self.tls.connect(name, stream).await.map_err(Trouble::Handshake)?;
                ask(stream, request(due, now)?).await?
            }
            false => ask(stream, request(due, now)?).await?,
        };
        // Nothing of what it says is read or shown: it may be anybody's. Nor is it followed elsewhere.
        match response.status() {
            status if status.is_success() => Ok(status),
            status => Err(Trouble::Status(status)),
        }
    }

    /// To one of the addresses that were looked up just now: a name cannot lead elsewhere between check and use.
    async fn connect(&self, due: &Due) -> Result<TcpStream, Trouble> {
        let server = &due.webhook.url.server;
        let found: Vec<IpAddr> = match server.host() {
            GatewayHost::Ip(ip) => vec![*ip],
            GatewayHost::Name(name) => self.resolver.addresses(name.as_str()).await?,
        };
        let mut trouble = Trouble::Forbidden;
        for ip in found.into_iter().filter(|ip| due.webhook.url.may_connect(*ip, &self.allowed)) {
            match timeout(CONNECTING, TcpStream::connect(SocketAddr::new(ip, server.port()))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => trouble = Trouble::Connect(error),
                Err(_) => trouble = Trouble::Connect(std::io::ErrorKind::TimedOut.into()),
            }
        }
        Err(trouble)
    }
}

fn request(due: &Due, now: OffsetDateTime) -> Result<Request<Full<bytes::Bytes>>, Trouble> {
    let (id, timestamp) = (due.id.to_string(), now.unix_timestamp());
    let signature = due.webhook.secret.signature(&id, timestamp, &due.body);
    Request::post(due.webhook.url.path.as_str())
        .header(header::HOST, host(&due.webhook.url))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "Outgate")
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp.to_string())
        .header("webhook-signature", signature)
        .body(Full::from(due.body.clone()))
        .map_err(|error| Trouble::NotHttp(error.to_string()))
}

/// RFC 9110 §7.2: with the port, unless it is the usual one.
fn host(url: &WebhookUrl) -> String {
    let host = match url.server.host() {
        GatewayHost::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    };
    match (url.encrypted, url.server.port()) {
        (true, 443) | (false, 80) => host,
        (_, port) => format!("{host}:{port}"),
    }
}

/// One request on a connection of its own, which ends with the answer.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<bytes::Bytes>>,
) -> Result<Response<Incoming>, Trouble> {
    let not_http = |error: hyper::Error| Trouble::NotHttp(error.to_string());
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    // Beside the answer: a server may close as soon as it has given it.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    sender.send_request(request).await.map_err(not_http)
}
