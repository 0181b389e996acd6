//! `outgate web` and `outgate relay`: one front door each, until Ctrl-C or SIGTERM.
//! Turns settings into what `web` and `relay` are started with; `up` uses the same.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use outgate::{
    config::{PlatformSettings, RelaySettings, WebSettings},
    mail::short_id::MessageLinks,
    policy::gateway_network::AllowedNetworks,
    relay::{
        self, Relay, handover::tls::Authorities, settings::QueueLimits, submission::tls::ServerTls, trace::upkeep::Kept,
    },
    store::WebStore,
    web,
};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::store::Store;

/// How long connections to the store may take to be closed.
const CLOSING: Duration = Duration::from_secs(1);

pub async fn web(store: &Store, platform: &PlatformSettings, settings: &WebSettings) -> anyhow::Result<()> {
    let listener = bind(settings).await?;
    let pool = store.web().await?;
    let settings = web_settings(platform, settings)?;
    tracing::info!(listen = %listener.local_addr()?, "the pages are served");
    web::serve(settings, WebStore::new(pool.clone()), listener, until_told()).await?;
    pool.close().await;
    Ok(())
}

pub async fn relay(store: &Store, platform: &PlatformSettings, settings: &RelaySettings) -> anyhow::Result<()> {
    let metrics = super::metrics::bind(settings.metrics_listen).await?;
    let settings = relay_settings(platform, settings)?;
    let listeners = bind_submission(&settings)?;
    let pool = store.relay()?;
    let relay = Relay::new(settings, pool.clone());
    let _metrics = super::metrics::serve(metrics, relay.table());
    relay.run(listeners, until_told()).await?;
    close(&pool).await;
    Ok(())
}

/// What is still under way then has been given back, and is not waited for.
pub async fn close(pool: &PgPool) {
    let _ = tokio::time::timeout(CLOSING, pool.close()).await;
}

/// Opens the pages' listener.
pub async fn bind(settings: &WebSettings) -> anyhow::Result<TcpListener> {
    TcpListener::bind(settings.http_listen)
        .await
        .with_context(|| format!("OUTGATE_HTTP_LISTEN: cannot listen on {}", settings.http_listen))
}

/// Opens the relay's listeners.
pub fn bind_submission(settings: &relay::Settings) -> anyhow::Result<Vec<relay::submission::Listener>> {
    Ok(relay::submission::bind(settings)?)
}

pub fn web_settings(platform: &PlatformSettings, settings: &WebSettings) -> anyhow::Result<web::Settings> {
    Ok(web::Settings {
        public_url: Some(settings.public_url(platform).as_str().parse()?),
        trusted_proxies: settings.trusted_proxies.0.clone(),
        platform_default: platform.required_default_route()?,
        allowed_networks: super::allowed(platform),
        webhook_networks: webhook_networks(platform),
        list_members: settings.list_members.into(),
        return_address: platform.return_address.clone(),
    })
}

pub fn relay_settings(platform: &PlatformSettings, settings: &RelaySettings) -> anyhow::Result<relay::Settings> {
    let hostname = settings.hostname()?;
    let defaults =
        relay::Settings::new(settings.relay_name(&hostname), hostname.to_string(), platform.required_default_route()?);
    Ok(relay::Settings {
        secret_key_file: settings.keys.secret_key_file.clone(),
        smtp_listen: settings.smtp_listen.0.clone(),
        smtps_listen: settings.smtps_listen.0.clone(),
        tls: tls(settings)?,
        proxy_networks: settings.proxy_networks.0.clone(),
        trusted_networks: settings.trusted_networks.0.clone(),
        handover: settings.handover,
        handover_wait: settings.handover_wait,
        allowed: super::allowed(platform),
        max_staleness: settings.max_staleness,
        probe_recipient: settings
            .probe_recipient
            .as_ref()
            .map_or_else(|| defaults.probe_recipient.clone(), ToString::to_string),
        authorities: authorities(settings)?,
        return_address: platform.return_address.clone(),
        webhook_networks: webhook_networks(platform),
        links: platform.public_url.as_ref().map(|url| MessageLinks::to(url.as_str())).unwrap_or_default(),
        outbound_addresses: settings.outbound_addresses.0.clone(),
        probe_gateways: settings.probe_gateways.0,
        queue_limits: QueueLimits { messages: settings.queue_messages, bytes: settings.queue_bytes },
        message_memory: settings.message_memory.try_into().unwrap_or(usize::MAX),
        spool_dir: settings.spool_dir.clone().unwrap_or_else(std::env::temp_dir),
        lease: settings.lease,
        stop_within: settings.stop_within,
        schedule: settings.schedule()?,
        back_off: settings.back_off()?,
        trace_kept: Kept { decisions: settings.trace_kept, details: settings.trace_details_kept },
        ..defaults
    })
}

fn webhook_networks(platform: &PlatformSettings) -> AllowedNetworks {
    AllowedNetworks { networks: platform.allowed_webhook_networks.0.clone(), ..AllowedNetworks::default() }
}

/// Whom the operator trusts, read once at the start.
fn authorities(settings: &RelaySettings) -> anyhow::Result<Authorities> {
    let file = settings.gateway_authorities.as_ref();
    let read = file.map(|file| Authorities::from_file(file)).transpose();
    Ok(read.context("OUTGATE_GATEWAY_AUTHORITIES")?.unwrap_or_default())
}

/// What clients' connections are encrypted with, if the operator has a certificate.
fn tls(settings: &RelaySettings) -> anyhow::Result<Option<Arc<ServerTls>>> {
    match (&settings.smtp_certificate_file, &settings.smtp_key_file) {
        (Some(certificate), Some(key)) => {
            let tls =
                ServerTls::load(certificate, key).context("OUTGATE_SMTP_CERTIFICATE_FILE and OUTGATE_SMTP_KEY_FILE")?;
            Ok(Some(Arc::new(tls)))
        }
        (None, None) if settings.smtps_listen.0.is_empty() => Ok(None),
        (None, None) => anyhow::bail!(
            "OUTGATE_SMTPS_LISTEN is set, and there is no certificate: set OUTGATE_SMTP_CERTIFICATE_FILE and OUTGATE_SMTP_KEY_FILE too."
        ),
        (Some(_), None) => {
            anyhow::bail!("OUTGATE_SMTP_CERTIFICATE_FILE is set: set OUTGATE_SMTP_KEY_FILE to its private key too.")
        }
        (None, Some(_)) => {
            anyhow::bail!("OUTGATE_SMTP_KEY_FILE is set: set OUTGATE_SMTP_CERTIFICATE_FILE to its certificate too.")
        }
    }
}

/// Cancelled by the first Ctrl-C or SIGTERM; a second Ctrl-C ends the process at once.
pub fn until_told() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        let terminate = async {
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(mut signal) => drop(signal.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = terminate => {}
        }
        tracing::info!("stopping: mail in flight finishes");
        told.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    stop
}
