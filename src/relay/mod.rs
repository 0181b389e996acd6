//! Front door 2: takes submitted mail, and hands it over to the gateway that its sender's
//! administrators chose, or queues it. Knows nothing of pages.

pub mod alarm;
pub mod correspondents;
pub mod demonstration_gateway;
pub mod follow;
pub mod gateway_health;
pub mod gateway_probe;
pub mod handover;
pub mod journal_file;
pub mod limits;
pub mod memory;
pub mod message;
pub mod message_log;
pub mod meter;
pub mod metrics;
pub mod notification;
pub mod outbound_address;
pub mod queue;
pub mod resolver;
pub mod routing_table;
pub mod secret_keys;
pub mod settings;
pub mod sign_in_records;
pub mod submission;
pub mod test_message;
pub mod trace;
pub mod transfer;
pub mod verification;
pub mod volume;
pub mod webhook;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::PgPool;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{
    follow::KnownAs,
    handover::{Handover, dialer::Dialer, second_look::SecondLook, tls::Tls},
    message::Message,
    meter::Meter,
    metrics::METRICS,
    queue::{Queue, QueueSettings},
    resolver::Resolver,
    routing_table::RoutingTable,
    secret_keys::SecretKeys,
    submission::{Accept, Listener, OnRefusal, Returns, TakeBack, Takers, sign_in::SignIns},
    test_message::{Arrivals, Pasted, ReturnTokens},
    transfer::{Transfer, TransferSettings},
    verification::Verifier,
    volume::Volume,
    webhook::Webhooks,
};
use crate::mail::{EnhancedStatus, Reply, id::RelayId};

pub use self::settings::Settings;

/// How long a message waits for a relay that has just started.
const STARTING: Duration = Duration::from_secs(10);

/// A relay worker: everything between a client's connection and a gateway's answer.
pub struct Relay {
    settings: Settings,
    pool: PgPool,
    table: Arc<RoutingTable>,
    volume: Arc<Volume>,
    meter: Arc<Meter>,
}

impl Relay {
    /// Nothing runs yet. The pool connects as the relay's role.
    pub fn new(settings: Settings, pool: PgPool) -> Self {
        let table = Arc::new(RoutingTable::following(settings.default.clone(), settings.max_staleness));
        Self { settings, pool, table, volume: Arc::default(), meter: Arc::default() }
    }

    /// The routing facts that this relay acts on.
    pub fn table(&self) -> Arc<RoutingTable> {
        Arc::clone(&self.table)
    }

    /// Runs until `stop`: then no new mail is taken, mail in flight finishes, leases are given back,
    /// and the relay signs off, in this order and within [`Settings::stop_within`]. Starts without the store, too: mail is answered 421 until it is there.
    ///
    /// # Errors
    /// If another relay of the same name is running, the store may lose what it has committed, or TLS or DNS cannot be set up.
    pub async fn run(
        self,
        listeners: impl IntoIterator<Item = impl Into<Listener>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let keys = Arc::new(SecretKeys::from_file(self.settings.secret_key_file.clone())?);
        let listeners: Vec<Listener> = listeners.into_iter().map(Into::into).collect();
        let own = listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect();
        let dialer = self.dialer(&keys, own)?;
        let returns = self.settings.return_address.clone().map(|address| Arc::new(ReturnTokens::of(address)));
        let verifier = Verifier {
            dialer: Dialer { limits: verification::LIMITS, ..self.dialer(&keys, dialer.listeners.clone())? },
            patience: verification::PATIENCE,
            table: self.table(),
            recipient: self.settings.probe_recipient.clone(),
            relay_name: self.settings.name.clone(),
            largest: self.settings.max_message_size,
            returns: returns.clone(),
            outbound: self.settings.outbound_addresses.clone(),
        };
        let second_look = SecondLook { pool: self.pool.clone(), recipient: self.settings.probe_recipient.clone() };
        let handover = Arc::new(Handover::new(dialer, self.settings.back_off).looking_again(second_look));
        let (health, probed) = (Arc::clone(handover.health()), Arc::clone(&handover));
        METRICS.show_gateways(&health);
        let (signed_on, id) = watch::channel(None);
        let known_as = id.clone();
        let (begun, transfer) = watch::channel(None);
        let (received, follow_stop) = (CancellationToken::new(), CancellationToken::new());
        // The follower ends last; if it ends early, nothing may go on under this name or on this store.
        let following = async {
            let ended = follow::run(self.known_as(), &self.pool, &self.table, &signed_on, follow_stop.clone()).await;
            stop.cancel();
            ended
        };
        let receiving = async {
            self.receive(listeners, transfer, returns.clone(), &stop).await;
            received.cancel();
        };
        let delivering = async {
            self.deliver(id, handover, &begun, &stop, received.clone()).await;
            follow_stop.cancel();
        };
        let sealing = keys.follow(&self.pool, follow_stop.clone());
        let telling = gateway_health::run(&self.pool, health, known_as.clone(), follow_stop.clone());
        let counting = self.count(known_as.clone(), received.clone());
        let keeping = correspondents::run(&self.meter, &self.pool, received.clone());
        let verifying = verifier.run(&self.pool, known_as, follow_stop.clone());
        let asking = self.asking()?;
        let beside = self.beside(asking, probed, returns.as_deref(), &follow_stop);
        let tidying = trace::upkeep::run(&self.pool, self.settings.trace_kept, follow_stop.clone());
        let (followed, ..) = tokio::join!(
            following, receiving, delivering, sealing, telling, counting, keeping, verifying, tidying, beside
        );
        Ok(followed?)
    }

    /// Counts what is sent until `received`.
    async fn count(&self, known_as: watch::Receiver<Option<RelayId>>, received: CancellationToken) {
        let writer = volume::Writer::of(&self.volume, &self.meter, &self.pool);
        let writer = writer.letting_wait().keeping(&self.settings.spool_dir);
        volume::run(writer, known_as, received).await;
    }

    /// As what it signs on.
    fn known_as(&self) -> KnownAs<'_> {
        let Settings { name, outbound_addresses, handover, .. } = &self.settings;
        KnownAs { name, outbound: outbound_addresses, hands_over: *handover }
    }

    /// Takes mail in until `stop`, and what is under way then.
    async fn receive(
        &self,
        listeners: Vec<Listener>,
        transfer: watch::Receiver<Option<Arc<Transfer>>>,
        returns: Option<Arc<ReturnTokens>>,
        stop: &CancellationToken,
    ) {
        let returns = returns.and_then(|tokens| self.returns(tokens, stop));
        let takers = Takers { refused: Some(note_refusals(transfer.clone())), accept: accept(transfer), returns };
        let (sign_ins, records_stop) = (Arc::new(SignIns::default()), CancellationToken::new());
        let listening = async {
            let (table, sign_ins) = (self.table(), Arc::clone(&sign_ins));
            submission::listen(listeners, &self.settings, table, takers, sign_ins, stop.clone()).await;
            records_stop.cancel();
        };
        let recording = async {
            // Where nobody can sign in there is nothing to be written down.
            if self.settings.tls.is_some() {
                sign_in_records::run(&self.pool, &sign_ins, records_stop.clone()).await;
            }
        };
        tokio::join!(listening, recording);
    }

    /// What no mail waits for: webhooks are told, gateways without mail are probed, the key of test messages is read, and
    /// the DNS is asked about those in mailboxes.
    async fn beside(
        &self,
        (webhooks, pasted): (Arc<Webhooks>, Arc<Pasted>),
        handover: Arc<Handover>,
        returns: Option<&ReturnTokens>,
        stop: &CancellationToken,
    ) {
        let loading = async {
            if let Some(returns) = returns {
                returns.load(&self.pool, stop.clone()).await;
            }
        };
        let probing = async {
            if let Some(quiet) = self.settings.probe_gateways {
                gateway_probe::run(handover, self.table(), quiet, stop.clone()).await;
            }
        };
        tokio::join!(webhooks.run(stop.clone()), pasted.run(stop.clone()), probing, loading);
    }

    /// What tells webhooks, and what asks the DNS about test messages in mailboxes.
    fn asking(&self) -> anyhow::Result<(Arc<Webhooks>, Arc<Pasted>)> {
        let resolver = || Resolver::from_system().context("the machine's DNS settings cannot be read");
        let networks = self.settings.webhook_networks.clone();
        let webhooks = Webhooks::new(self.pool.clone(), resolver()?, networks)?;
        Ok((webhooks, Pasted::new(self.pool.clone(), resolver()?)))
    }

    /// Who takes test messages in.
    fn returns(&self, tokens: Arc<ReturnTokens>, stop: &CancellationToken) -> Option<Returns> {
        let resolver =
            Resolver::from_system().inspect_err(|error| tracing::error!(%error, "test messages do not come back"));
        let arrivals = Arrivals::new(self.pool.clone(), resolver.ok()?, stop.clone());
        let take: TakeBack = Arc::new(move |returned| Box::pin(Arc::clone(&arrivals).take(returned)));
        Some(Returns { tokens, take })
    }

    /// What makes connections: one for mail, and one for who asks whether mail would be accepted.
    fn dialer(&self, keys: &Arc<SecretKeys>, listeners: Vec<SocketAddr>) -> anyhow::Result<Dialer> {
        Ok(Dialer {
            resolver: Resolver::from_system().context("the machine's DNS settings cannot be read")?,
            tls: Tls::trusting(&self.settings.authorities)?,
            keys: Arc::clone(keys),
            allowed: self.settings.allowed.clone(),
            hostname: self.settings.hostname.clone(),
            limits: handover::connection::TimeLimits::default(),
            listeners,
            known: handover::dialer::Known::default(),
        })
    }

    /// Waits for the relay to sign on and to know the facts, then works on the queue: takes messages from it until
    /// `stop`, and puts messages into it until all are `received`.
    async fn deliver(
        &self,
        mut id: watch::Receiver<Option<RelayId>>,
        handover: Arc<Handover>,
        begun: &watch::Sender<Option<Arc<Transfer>>>,
        stop: &CancellationToken,
        received: CancellationToken,
    ) {
        let signed_on = async {
            let relay = id.wait_for(Option::is_some).await.ok().and_then(|id| *id);
            // Signing on comes before loading. Without facts every sender would be unknown, and mail
            // that waits would be held for it.
            self.table.applied().wait_for(Option::is_some).await.ok()?;
            relay
        };
        let Some(Some(relay)) = stop.run_until_cancelled(signed_on).await else { return };
        let settings = QueueSettings {
            relay,
            hostname: self.settings.hostname.clone(),
            links: self.settings.links.clone(),
            default: self.settings.default.clone(),
            mx_port: crate::mail::gateway_address::SMTP_PORT,
            lease: self.settings.lease,
            limits: self.settings.queue_limits,
            schedule: self.settings.schedule,
        };
        let queue = Queue::new(self.pool.clone(), settings, self.table(), Arc::clone(&handover));
        let journal = self.settings.spool_dir.join(format!("outgate-trace-{relay}.journal"));
        let (trace, done) = (queue.trace(), CancellationToken::new());
        let writing = trace::Writer::new(&trace, &self.pool, journal, trace::MOST_JOURNAL).run(done.clone());
        let working = async {
            queue.take_up(stop).await;
            let transfer_settings =
                TransferSettings { handover: self.settings.handover, handover_wait: self.settings.handover_wait };
            let counting = (Arc::clone(&self.volume), Arc::clone(&self.meter));
            let transfer = Transfer::new(self.table(), handover, queue.clone(), counting, transfer_settings);
            begun.send_replace(Some(Arc::new(transfer)));
            tokio::join!(
                queue.run_until(stop, received, self.settings.finishing()),
                queue.keep_telling_of_limits(&self.meter, stop.clone())
            );
            done.cancel();
        };
        tokio::join!(writing, working);
    }
}

/// What submission tells of messages that it has refused itself.
fn note_refusals(transfer: watch::Receiver<Option<Arc<Transfer>>>) -> OnRefusal {
    Arc::new(move |refused| {
        if let Some(transfer) = &*transfer.borrow() {
            transfer.refused(&refused);
        }
    })
}

/// What submission hands messages to. Clients are let in as soon as the facts are known; the queue is there a moment later.
fn accept(transfer: watch::Receiver<Option<Arc<Transfer>>>) -> Accept {
    Arc::new(move |message: Message| {
        let begun = transfer.borrow().clone();
        match begun {
            Some(transfer) => Box::pin(async move { transfer.accept(message).await }),
            None => Box::pin(accept_once_begun(transfer.clone(), message)),
        }
    })
}

async fn accept_once_begun(mut transfer: watch::Receiver<Option<Arc<Transfer>>>, message: Message) -> Reply {
    let begun = async { transfer.wait_for(Option::is_some).await.ok().and_then(|transfer| transfer.clone()) };
    match timeout(STARTING, begun).await {
        Ok(Some(transfer)) => transfer.accept(message).await,
        Ok(None) | Err(_) => Reply::new(451, EnhancedStatus(4, 3, 2), "the relay is still starting, try again"),
    }
}
