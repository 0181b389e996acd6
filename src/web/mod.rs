//! Front door 1: the administrators' pages. One file a page; this one puts them together. Knows
//! nothing of the relay: they meet in the store.

pub mod account_file;
pub mod administration;
pub mod assets;
pub mod audit_log;
pub mod choice;
pub mod client_address;
pub mod console;
pub mod csv_file;
pub mod distribution_list;
pub mod distribution_lists;
pub mod domain_manager;
pub mod domain_outbound_gateway;
pub mod draft;
pub mod error;
pub mod explain_route;
pub mod form;
pub mod gateway;
pub mod gateway_form;
pub mod gateway_record;
pub mod gateway_state;
pub mod gateways;
pub mod going_live;
pub mod health;
pub mod held_mail;
pub mod home;
pub mod inbound_host;
pub mod job;
pub mod layers;
pub mod limit_form;
mod limit_table;
pub mod limits;
pub mod link;
pub mod mail_account;
pub mod mail_account_manager;
pub mod message_trace;
pub mod must_use_gateway;
pub mod named;
pub mod new_account;
pub mod notices;
pub mod outbound_gateway;
pub mod outbound_mail_gateway;
pub mod outbound_queue;
pub mod outbound_volume;
pub mod password;
pub mod pending_gateway;
mod pending_record;
pub mod probe_sender;
pub mod queued_message;
pub mod relay_credential;
pub mod relay_credentials;
pub mod route_report;
pub mod route_steps;
mod route_totals;
pub mod selected_accounts;
pub mod selected_messages;
pub mod selected_senders;
pub mod sender_control;
pub mod server;
pub mod session;
pub mod sign_in;
pub mod status;
pub mod test_message;
pub mod text_field;
pub mod traced_message;
pub mod undo;
pub mod unknown_senders;
pub mod verification;
pub mod verify_before_live;
mod volume_chart;
pub mod waiting_mail;
pub mod web_mail_cloud;
pub mod wording;

use std::sync::Arc;

use anyhow::Context;
use axum::{
    Router,
    handler::Handler,
    http::{Method, Uri},
    response::{Html, IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use ipnet::IpNet;
use tower_http::csrf::CsrfLayer;

pub use server::serve;

use self::{error::PageError, password::Verifier};
use crate::{
    mail::ReturnAddress,
    policy::{gateway_network::AllowedNetworks, routing::PlatformDefault},
    store::WebStore,
};

/// What the operator set that pages depend on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `OUTGATE_PUBLIC_URL`: under which browsers reach the pages, where that is not what they listen on.
    pub public_url: Option<Uri>,
    /// `OUTGATE_TRUSTED_PROXIES`: whose word counts for a client's address.
    pub trusted_proxies: Vec<IpNet>,
    /// `OUTGATE_DEFAULT_ROUTE`: where mail without a gateway goes.
    pub platform_default: PlatformDefault,
    /// Addresses that are not public and that a gateway may have all the same.
    pub allowed_networks: AllowedNetworks,
    /// The same for webhooks: a gateway's network takes mail, and need not take web requests of tenants.
    pub webhook_networks: AllowedNetworks,
    /// `OUTGATE_LIST_MEMBERS`: how many members a distribution list has at most.
    pub list_members: usize,
    /// `OUTGATE_RETURN_ADDRESS`: where test messages come back to.
    pub return_address: Option<ReturnAddress>,
}

/// What every page has at hand.
#[derive(Debug, Clone)]
pub struct App {
    pub store: WebStore,
    pub settings: Arc<Settings>,
    pub passwords: Verifier,
    /// Looks after gateways that go live when they are verified.
    pub going_live: going_live::Bell,
    /// Refuses what another site makes a browser send.
    csrf: CsrfLayer,
}

impl App {
    /// An error says in one sentence which setting is wrong.
    pub fn new(settings: Settings, store: WebStore) -> anyhow::Result<Self> {
        let mut csrf = CsrfLayer::new();
        if let Some(url) = &settings.public_url {
            let origin = origin(url).with_context(|| format!("“{url}” is not the address of a web site"))?;
            csrf = csrf.add_trusted_origin(origin)?;
        }
        let (passwords, going_live) = (Verifier::new()?, going_live::Bell::default());
        Ok(Self { store, settings: Arc::new(settings), passwords, going_live, csrf })
    }

    /// Whether browsers come by https and may be told to insist on it.
    fn is_https(&self) -> bool {
        self.settings.public_url.as_ref().is_some_and(|url| url.scheme_str() == Some("https"))
    }
}

/// What a browser sends as `Origin` (RFC 6454 §6.2): small letters, no default port.
fn origin(url: &Uri) -> Option<String> {
    let scheme = url.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let host = url.host()?.to_ascii_lowercase();
    match url.port_u16() {
        Some(port) if (scheme, port) != ("http", 80) && (scheme, port) != ("https", 443) => {
            Some(format!("{scheme}://{host}:{port}"))
        }
        _ => Some(format!("{scheme}://{host}")),
    }
}

/// One method of one path. Kept as a list, so that tests can go through all of them.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    handler: MethodRouter<App>,
    /// Whether it takes whole files.
    takes_file: bool,
}

impl Route {
    fn get<T: 'static>(path: &'static str, handler: impl Handler<T, App>) -> Self {
        Self { method: Method::GET, path, handler: get(handler), takes_file: false }
    }

    fn post<T: 'static>(path: &'static str, handler: impl Handler<T, App>) -> Self {
        Self { method: Method::POST, path, handler: post(handler), takes_file: false }
    }

    /// One that takes a whole file instead of a form.
    fn upload<T: 'static>(path: &'static str, handler: impl Handler<T, App>) -> Self {
        Self { takes_file: true, ..Self::post(path, handler) }
    }
}

/// Every path that is answered, and by which method.
pub fn routes() -> Vec<Route> {
    [
        home::routes(),
        sign_in::routes(),
        administration::routes(),
        web_mail_cloud::routes(),
        outbound_mail_gateway::routes(),
        mail_account_manager::routes(),
        selected_accounts::routes(),
        new_account::routes(),
        account_file::routes(),
        mail_account::routes(),
        outbound_gateway::routes(),
        must_use_gateway::routes(),
        verify_before_live::routes(),
        pending_gateway::routes(),
        pending_record::routes(),
        unknown_senders::routes(),
        probe_sender::routes(),
        held_mail::routes(),
        waiting_mail::routes(),
        domain_manager::routes(),
        domain_outbound_gateway::routes(),
        inbound_host::routes(),
        gateways::routes(),
        gateway::routes(),
        gateway_record::routes(),
        verification::routes(),
        test_message::routes(),
        outbound_queue::routes(),
        selected_messages::routes(),
        queued_message::routes(),
        distribution_lists::routes(),
        distribution_list::routes(),
        outbound_volume::routes(),
        selected_senders::routes(),
        limits::routes(),
        notices::routes(),
        sender_control::routes(),
        relay_credentials::routes(),
        route_report::routes(),
        relay_credential::routes(),
        explain_route::routes(),
        message_trace::routes(),
        traced_message::routes(),
        job::routes(),
        undo::routes(),
        audit_log::routes(),
        assets::routes(),
        health::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// All pages behind all layers.
pub fn router(app: App) -> Router {
    let of = |routes: Vec<Route>| {
        routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler))
    };
    let (files, pages): (Vec<Route>, Vec<Route>) = routes().into_iter().partition(|route| route.takes_file);
    let pages = of(pages).fallback(async || PageError::NotFound).with_state(app.clone());
    layers::wrap(pages, of(files).with_state(app.clone()), &app)
}

/// A page from its template.
fn page(template: &impl askama::Template) -> Result<Response, PageError> {
    Ok(Html(template.render()?).into_response())
}
