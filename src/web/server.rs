//! The HTTP server under the pages, with the limits that a listener open to the network needs and
//! `axum::serve` does not set.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{App, Settings, client_address::Peer, going_live, router};
use crate::store::WebStore;

/// For the header of a request to arrive, which is also how long an idle connection is kept.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// In bytes: what of a request is kept until it is taken up; a header may come to twice as much.
const BUFFER_LIMIT: usize = 64 * 1024;
/// Beyond these a client waits until another has gone.
const CONNECTION_LIMIT: usize = 1024;
/// How long requests that are being answered hold up the stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// After an error of the listener, such as no file descriptor left: give it time to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the pages until `stop`, then lets requests that are being answered finish. An error says
/// which setting is wrong.
pub async fn serve(
    settings: Settings,
    store: WebStore,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let app = App::new(settings, store)?;
    tokio::spawn(going_live::run(app.clone(), stop.clone()));
    let pages = router(app);
    let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let connections = GracefulShutdown::new();
    while let Some((stream, peer, place)) = accept(&listener, &places, &stop).await {
        let answering = answer(pages.clone(), stream, peer, connections.watcher());
        tokio::spawn(async move {
            let _held = place;
            answering.await;
        });
    }
    drop(listener);
    if tokio::time::timeout(STOP_DEADLINE, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests were still being answered and were cut off");
    }
    Ok(())
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// The next connection once there is a place for it; `None` when it is time to stop.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>, stop: &CancellationToken) -> Option<Accepted> {
    loop {
        let place = stop.run_until_cancelled(Arc::clone(places).acquire_owned()).await?.ok()?;
        match stop.run_until_cancelled(listener.accept()).await? {
            Ok((stream, peer)) => return Some((stream, peer, place)),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
            }
        }
    }
}

/// Answers the requests of one connection.
async fn answer(pages: Router, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(BUFFER_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away, or was too slow, is its own affair.
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}
