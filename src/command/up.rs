//! `outgate up`: the store, the pages and a relay in one process, for a first look and for small
//! installations. The parts meet in the store only, as if they ran apart.

use std::{io::Write, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use outgate::{
    config::{PlatformSettings, RelaySettings, StoreSettings, WebSettings},
    mail::{DomainName, envelope::domain_of, id::Revision},
    policy::{explanation::Told, routing::PlatformDefault},
    relay::{Relay, demonstration_gateway, routing_table::RoutingTable},
    secret::key_file,
    store::{self, WebStore},
    web,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    demo::{self, Gateways},
    serve::{self, relay_settings, web_settings},
    store::Store,
};

/// How often the private cluster is looked at.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Up {
    /// With a sample organization and local gateways that print what they receive
    #[arg(long)]
    demo: bool,
    /// The demonstration administrator's password [default: generated and printed]
    #[arg(long, env = "OUTGATE_DEMO_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    demo_password: Option<String>,
    #[command(flatten)]
    platform: PlatformSettings,
    #[command(flatten)]
    web: WebSettings,
    #[command(flatten)]
    relay: RelaySettings,
}

/// Runs until Ctrl-C. The private PostgreSQL is stopped last, when nobody needs it any more.
pub fn run(mut up: Up, store: StoreSettings) -> anyhow::Result<()> {
    let gateways = up.demo.then(|| demo_gateways(&mut up)).transpose()?;
    let secret_key_file = up.relay.keys.file(&store)?;
    let store = Store::find(store)?;
    // The relay's own user makes it.
    if up.relay.keys.secret_key_file.is_none() {
        key_file::ensure_there(&secret_key_file)?;
    }
    up.relay.keys.secret_key_file = Some(secret_key_file);
    let ended = super::runtime()?.block_on(run_on(&store, up, gateways));
    store.leave()?;
    ended
}

/// Where the demonstration's servers listen; mail without a gateway goes to one of them.
fn demo_gateways(up: &mut Up) -> anyhow::Result<Gateways> {
    let submission = up.relay.smtp_listen.0.first().context("OUTGATE_SMTP_LISTEN is empty")?;
    let gateways = Gateways::beside(*submission)?;
    up.platform.default_route.get_or_insert(PlatformDefault::Smarthost(demo::as_gateway(gateways.world)));
    up.platform.return_address.get_or_insert(demo::RETURN_ADDRESS.parse()?);
    if up.relay.hostname().is_err() {
        up.relay.hostname = Some("relay.localhost".parse()?);
    }
    Ok(gateways)
}

async fn run_on(store: &Store, up: Up, gateways: Option<Gateways>) -> anyhow::Result<()> {
    let stop = serve::until_told();
    // Everything that can be refused is asked for before anything is started.
    let mut pages = web_settings(&up.platform, &up.web)?;
    let mut relay = relay_settings(&up.platform, &up.relay)?;
    if let Some(gateways) = gateways {
        let own = [gateways.archive, gateways.screen, gateways.world];
        pages.allowed_networks.listeners.extend(own);
        relay.allowed.listeners.extend(own);
    }
    let http = serve::bind(&up.web).await?;
    let metrics = super::metrics::bind(up.relay.metrics_listen).await?;
    let smtp = serve::bind_submission(&relay)?;
    let demo_listeners = match gateways {
        Some(gateways) => Some(bind_demo(gateways).await?),
        None => None,
    };

    let owner = store.owner_before_migration().await?;
    store::roles::migrate(&owner).await?;
    let password = match gateways {
        Some(gateways) => demo::seed(&owner, gateways, up.demo_password.as_deref()).await?,
        None => None,
    };
    let revision = store::change::current_revision(&owner).await?;
    owner.close().await;

    let (web_pool, relay_pool) = (store.web().await?, store.relay()?);
    let relay = Relay::new(relay, relay_pool.clone());
    let table = relay.table();
    let _metrics = super::metrics::serve(metrics, relay.table());
    let parts = TaskTracker::new();
    if let Some(listeners) = demo_listeners {
        let submission = up.relay.smtp_listen.0[0];
        let returns = up.platform.return_address.as_ref().map(|address| (address.domain(), submission));
        run_demo(listeners, &table, returns, &parts, &stop);
    }
    let welcome = greet(&up, gateways, password.as_deref(), table, revision);
    // Mail in flight may need the store to the last.
    let finished = CancellationToken::new();
    let (mail, served, watched, ()) = tokio::join!(
        async {
            let ended = stopping_all(&stop, relay.run(smtp, stop.clone())).await;
            finished.cancel();
            ended
        },
        stopping_all(&stop, web::serve(pages, WebStore::new(web_pool.clone()), http, stop.clone())),
        stopping_all(&stop, watch(store, finished.clone())),
        async {
            stop.run_until_cancelled(welcome).await;
        },
    );
    parts.close();
    parts.wait().await;
    web_pool.close().await;
    serve::close(&relay_pool).await;
    mail.and(served).and(watched)
}

/// One part that fails ends the others in good order; `up` is all of them or nothing.
async fn stopping_all(stop: &CancellationToken, part: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let ended = part.await;
    stop.cancel();
    ended
}

async fn watch(store: &Store, stop: CancellationToken) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(WATCH)).await.is_some() {
        let Some(cluster) = store.private() else { continue };
        match tokio::task::block_in_place(|| cluster.ensure_running()) {
            Ok(true) => tracing::warn!("the private PostgreSQL had ended and was started again"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = format!("{error:#}"), "the private PostgreSQL does not start"),
        }
    }
    Ok(())
}

/// Says where to sign in once mail is taken.
async fn greet(
    up: &Up,
    gateways: Option<Gateways>,
    password: Option<&str>,
    table: Arc<RoutingTable>,
    revision: Revision,
) {
    let mut applied = table.applied();
    if applied.wait_for(|applied| applied.is_some_and(|applied| applied >= revision)).await.is_err() {
        return;
    }
    let pages = up.web.public_url(&up.platform);
    let submission = up.relay.smtp_listen.0[0];
    match gateways {
        Some(gateways) => print(&demo::welcome(pages.as_str(), password, submission, gateways)),
        None => {
            print(&format_args!("\nOutgate is running. Sign in at {pages}/sign-in, submit mail at {submission}.\n"))
        }
    }
}

/// A line for whoever looks at standard output. That nobody does any more is no reason to end.
fn print(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

type DemoListeners = [(&'static str, TcpListener); 3];

async fn bind_demo(gateways: Gateways) -> anyhow::Result<DemoListeners> {
    let bind = async |name: &'static str, address: SocketAddr| {
        let listener = TcpListener::bind(address).await;
        listener.map(|listener| (name, listener)).with_context(|| {
            format!("cannot listen on {address} for the demonstration: set OUTGATE_SMTP_LISTEN to another port")
        })
    };
    Ok([
        bind("archive", gateways.archive).await?,
        bind("screen", gateways.screen).await?,
        bind("world", gateways.world).await?,
    ])
}

/// What is for the domain that test messages come back to is brought to the relay there, as the world would.
fn run_demo(
    listeners: DemoListeners,
    table: &Arc<RoutingTable>,
    returns: Option<(&DomainName, SocketAddr)>,
    parts: &TaskTracker,
    stop: &CancellationToken,
) {
    for (name, listener) in listeners {
        let (table, stop, returning) = (Arc::clone(table), stop.clone(), parts.clone());
        let returns = returns.map(|(domain, relay)| (domain.to_string(), relay));
        let why = move |sender: &str| table.explain(sender).sentence(None, Told::Operator);
        let report = move |arrival: demonstration_gateway::Arrival| {
            print(&arrival);
            let of = arrival.envelope.forward_paths.first().and_then(|forward_path| domain_of(forward_path));
            if let Some((_, relay)) = returns.as_ref().filter(|(domain, _)| of == Some(domain.as_str())) {
                let relay = *relay;
                returning.spawn(async move {
                    if let Err(error) = demonstration_gateway::bring_back(arrival, relay).await {
                        tracing::warn!(%error, name, "a test message was not brought back");
                    }
                });
            }
        };
        parts.spawn(async move {
            if let Err(error) = demonstration_gateway::run(name, listener, why, report, stop).await {
                tracing::error!(%error, name, "a demonstration gateway ended");
            }
        });
    }
}
