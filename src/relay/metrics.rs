//! What a relay counts, as Prometheus reads it: plain atomic numbers, so that counting costs a message nanoseconds
//! and no name is looked up on its way. `main` serves the text.

use std::{
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    handover::health::{Health, Traffic},
    routing_table::RoutingTable,
};

/// What this process has counted. One for all of it, as there is one listener that shows it.
pub static METRICS: Metrics = Metrics::new();

/// Every number has its meaning beside its name, in [`Metrics::text`].
#[derive(Debug)]
pub struct Metrics {
    pub handed_over: Counter,
    pub queued: Counter,
    pub refused: Counter,
    pub deferred: Counter,
    /// By [`RefusedFor`].
    refused_by_submission: [Counter; RefusedFor::LABELS.len()],
    pub delayed_by_limits: Counter,
    pub held_by_limits: Counter,
    pub held_for_approval: Counter,
    pub refused_by_limits: Counter,
    pub delivered: Counter,
    pub attempts_deferred: Counter,
    pub returned: Counter,
    pub trace_lines_lost: Counter,
    pub clients: Gauge,
    pub turned_away: Counter,
    pub in_memory: Gauge,
    pub waiting: Gauge,
    pub held: Gauge,
    pub queue_bytes: Gauge,
    /// In seconds since 1970; 0 if nothing waits.
    pub oldest_accepted_at: Gauge,
    pub volume_not_counted: Counter,
    /// In seconds since 1970; 0 before the first time.
    pub volume_written_at: Gauge,
    pub handover: Histogram<12>,
    pub commit: Histogram<12>,
    pub delivery: Histogram<12>,
    /// Whose traffic is shown by gateway.
    gateways: Mutex<Weak<Health>>,
}

/// Why submission takes something no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedFor {
    /// Who is neither trusted nor has signed in.
    Stranger,
    /// A sign-in that failed.
    SignIn,
    /// The sender is unknown, suspended, or not one whom this client may send for.
    Sender,
    /// The recipient's list does not take mail of this sender, or it is no recipient at all.
    Recipient,
    Size,
    /// What stands in the message: a bare LF or CR, or NUL.
    Content,
    /// It has passed too many servers, or this relay too often.
    Loop,
    /// The client is to come back later.
    ForNow,
}

impl RefusedFor {
    /// Each with its label, in the order of the counters.
    const LABELS: [&str; 8] = ["stranger", "sign-in", "sender", "recipient", "size", "content", "loop", "for-now"];
}

/// From a gateway nearby to the longest that a client waits, in microseconds.
const WHILE_THE_CLIENT_WAITS: [u64; 12] =
    [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 20_000_000, 60_000_000];
/// From a queue that is only passed through to the end of a message's lifetime.
const IN_THE_QUEUE: [u64; 12] = [
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    3_600_000_000,
    14_400_000_000,
    86_400_000_000,
    259_200_000_000,
    432_000_000_000,
];

impl Metrics {
    /// Nothing is counted yet.
    #[expect(clippy::new_without_default, reason = "there is one, and tests' own")]
    pub const fn new() -> Self {
        Self {
            handed_over: Counter::new(),
            queued: Counter::new(),
            refused: Counter::new(),
            deferred: Counter::new(),
            refused_by_submission: [const { Counter::new() }; RefusedFor::LABELS.len()],
            delayed_by_limits: Counter::new(),
            held_by_limits: Counter::new(),
            held_for_approval: Counter::new(),
            refused_by_limits: Counter::new(),
            delivered: Counter::new(),
            attempts_deferred: Counter::new(),
            returned: Counter::new(),
            trace_lines_lost: Counter::new(),
            clients: Gauge::new(),
            turned_away: Counter::new(),
            in_memory: Gauge::new(),
            waiting: Gauge::new(),
            held: Gauge::new(),
            queue_bytes: Gauge::new(),
            oldest_accepted_at: Gauge::new(),
            volume_not_counted: Counter::new(),
            volume_written_at: Gauge::new(),
            handover: Histogram::new(WHILE_THE_CLIENT_WAITS),
            commit: Histogram::new(WHILE_THE_CLIENT_WAITS),
            delivery: Histogram::new(IN_THE_QUEUE),
            gateways: Mutex::new(Weak::new()),
        }
    }

    /// Counts what submission has refused by itself.
    pub fn refused_by_submission(&self, why: RefusedFor) {
        self.refused_by_submission[why as usize].add(1);
    }

    /// Shows the traffic of these gateways.
    pub fn show_gateways(&self, health: &Arc<Health>) {
        *self.gateways.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(health);
    }

    /// Everything in the text format of Prometheus, 0.0.4, at `now`. `seconds` is the same since 1970.
    pub fn text(&self, table: &RoutingTable, seconds: i64, now: Instant) -> String {
        let mut text = Text(String::with_capacity(8 * 1024));
        let accepted = self.handed_over.get() + self.queued.get();
        text.counter("messages_accepted", "Messages answered 250: handed over or queued", accepted);
        text.counter(
            "messages_handed_over",
            "Messages taken by their gateway while the client waited",
            self.handed_over.get(),
        );
        text.counter("messages_queued", "Messages committed to the queue", self.queued.get());
        text.counter("messages_refused", "Messages answered 5yz after they were read", self.refused.get());
        text.counter("messages_deferred", "Messages answered 4yz after they were read", self.deferred.get());
        text.head(
            "submission_refused_total",
            "Commands and messages that were not even passed on, by reason",
            "counter",
        );
        for (label, counter) in RefusedFor::LABELS.iter().zip(&self.refused_by_submission) {
            let _ = writeln!(text.0, "outgate_submission_refused_total{{reason=\"{label}\"}} {}", counter.get());
        }
        text.counter("messages_delayed_by_limits", "Messages that wait for their turn", self.delayed_by_limits.get());
        text.counter("messages_held_by_limits", "Messages beyond a limit that are held", self.held_by_limits.get());
        text.counter("messages_held_for_approval", "Messages that need approval", self.held_for_approval.get());
        text.counter(
            "messages_refused_by_limits",
            "Messages beyond a limit that were not taken",
            self.refused_by_limits.get(),
        );
        text.counter(
            "messages_delivered",
            "Attempts from the queue that delivered a message to at least one recipient",
            self.delivered.get(),
        );
        text.counter(
            "attempts_deferred",
            "Attempts from the queue after which the message goes on waiting",
            self.attempts_deferred.get(),
        );
        text.counter("messages_returned", "Notifications to senders of mail that was given up", self.returned.get());
        text.counter(
            "trace_lines_lost",
            "Lines on what happened to messages that could not be kept while the store was away",
            self.trace_lines_lost.get(),
        );
        text.counter("connections_turned_away", "Clients that were told to come back later", self.turned_away.get());
        text.gauge("connections", "Clients that are connected", self.clients.get());
        text.gauge("message_memory_bytes", "Memory that messages in flight take", self.in_memory.get());
        text.0.push_str("# HELP outgate_queue_messages Messages in the queue of all relays, by state\n# TYPE outgate_queue_messages gauge\n");
        for (state, messages) in [("waiting", &self.waiting), ("held", &self.held)] {
            let _ = writeln!(text.0, "outgate_queue_messages{{state=\"{state}\"}} {}", messages.get());
        }
        text.gauge("queue_bytes", "Size of all messages in the queue", self.queue_bytes.get());
        let oldest = self.oldest_accepted_at.get();
        let age = if oldest == 0 { 0 } else { (seconds - oldest).max(0) };
        text.gauge("queue_oldest_seconds", "Age of the oldest message in the queue", age);
        text.counter(
            "volume_not_counted",
            "Messages that are not in the volume of their account, or of anybody, since the store was away for too long",
            self.volume_not_counted.get(),
        );
        let written_at = self.volume_written_at.get();
        let age = if written_at == 0 { 0 } else { (seconds - written_at).max(0) };
        text.gauge("volume_flush_age_seconds", "Since when the store has all that was counted of volume", age);
        let applied = table.applied().borrow().map_or(0, |revision| revision.0);
        text.gauge("applied_revision", "Revision of the routing facts in memory", applied);
        let age = table.age(now).as_secs().try_into().unwrap_or(i64::MAX);
        text.gauge("facts_age_seconds", "Since when the store was last heard to have nothing newer", age);
        text.histogram("handover_seconds", "From a message read whole to its gateway's 250", &self.handover);
        text.histogram("commit_seconds", "What a client waits for a message to be committed", &self.commit);
        text.histogram("delivery_seconds", "From acceptance to delivery from the queue", &self.delivery);
        let gateways = self.gateways.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        text.gateways(&gateways.map(|health| health.traffic(now)).unwrap_or_default());
        text.0
    }
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP outgate_{name} {help}\n# TYPE outgate_{name} {kind}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(&format!("{name}_total"), help, "counter");
        let _ = writeln!(self.0, "outgate_{name}_total {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "outgate_{name} {value}");
    }

    fn histogram<const N: usize>(&mut self, name: &str, help: &str, histogram: &Histogram<N>) {
        self.head(name, help, "histogram");
        let mut so_far = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            so_far += count.get();
            let _ = writeln!(self.0, "outgate_{name}_bucket{{le=\"{}\"}} {so_far}", seconds(*bound));
        }
        let count = so_far + histogram.beyond.get();
        let _ = writeln!(self.0, "outgate_{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(self.0, "outgate_{name}_sum {}\noutgate_{name}_count {count}", seconds(histogram.sum.get()));
    }

    /// Only ids and an address stand in labels, so nothing has to be escaped.
    fn gateways(&mut self, gateways: &[Traffic]) {
        type Value = fn(&Traffic) -> u64;
        let families: [(&str, &str, &str, Value); 3] = [
            ("gateway_messages_total", "Messages that a gateway took", "counter", |gateway| gateway.accepted),
            ("gateway_failures_total", "Times that a gateway could not take mail", "counter", |gateway| {
                gateway.failures
            }),
            ("gateway_failing", "Whether a gateway is failing", "gauge", |gateway| gateway.is_failing.into()),
        ];
        for (name, help, kind, value) in families {
            self.head(name, help, kind);
            for gateway in gateways {
                let Traffic { organization, gateway: id, revision, address, .. } = gateway;
                let labels = format!(
                    "organization=\"{organization}\",gateway=\"{id}\",revision=\"{revision}\",address=\"{address}\""
                );
                let _ = writeln!(self.0, "outgate_{name}{{{labels}}} {}", value(gateway));
            }
        }
    }
}

fn seconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

/// Goes up only.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much there is now.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, value: i64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something took how long; bounds in microseconds.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: [u64; N],
    counts: [Counter; N],
    beyond: Counter,
    sum: Counter,
}

impl<const N: usize> Histogram<N> {
    const fn new(bounds: [u64; N]) -> Self {
        Self { bounds, counts: [const { Counter::new() }; N], beyond: Counter::new(), sum: Counter::new() }
    }

    pub fn observe(&self, took: Duration) {
        let took = took.as_micros().try_into().unwrap_or(u64::MAX);
        let bucket = self.bounds.iter().position(|bound| took <= *bound);
        bucket.map_or(&self.beyond, |bucket| &self.counts[bucket]).add(1);
        self.sum.add(took);
    }
}
