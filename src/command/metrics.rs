//! The relay's numbers for Prometheus, on a listener of their own: whoever may read them need not reach the pages.
//! What they are is `relay::metrics`'.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use outgate::relay::{metrics::METRICS, routing_table::RoutingTable};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// The text format of Prometheus.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// How long a reader may take to ask, and after how long without a question it is left.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the listener, where one is wanted.
pub async fn bind(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    listener.map(Some).with_context(|| format!("OUTGATE_METRICS_LISTEN: cannot listen on {address}"))
}

/// Serves `/metrics` until the handle is dropped.
pub fn serve(listener: Option<TcpListener>, table: Arc<RoutingTable>) -> Option<AbortOnDropHandle<()>> {
    let listener = listener?;
    let serving = async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let table = Arc::clone(&table);
            let service = service_fn(move |request| {
                let response = answer(&request, &table);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    };
    Some(AbortOnDropHandle::new(tokio::spawn(serving)))
}

fn answer(request: &Request<Incoming>, table: &RoutingTable) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        let mut response = Response::new(Full::from("The numbers are at /metrics.\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let text = METRICS.text(table, OffsetDateTime::now_utc().unix_timestamp(), Instant::now());
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}
