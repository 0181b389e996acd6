//! What Prometheus reads of a running relay: what became of its mail, what waits, and which gateways it talked to.
//! The program as people run it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use outgate::relay::metrics::Metrics;
use sqlx::PgPool;
use tokio::{net::TcpSocket, time::timeout};

use crate::support::{
    Gateway, Sending, SmtpClient,
    gateway::At,
    outgate::{Machine, file_with, unused_address},
};

/// The queue is looked at every five seconds.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// Each number by its name and labels.
async fn numbers(url: &str) -> HashMap<String, f64> {
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
    let numbers: Vec<_> = lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect();
    let count = numbers.len();
    let numbers: HashMap<String, f64> = numbers.into_iter().collect();
    assert_eq!(numbers.len(), count, "each number stands there once: {text}");
    numbers
}

#[tokio::test]
async fn prometheus_reads_what_became_of_mail_and_which_gateways_had_traffic() {
    let (gateway, dead) = (Gateway::start().await, unused_address());
    let mut machine = Machine::new(unused_address());
    let listen = unused_address();
    machine.outgate =
        machine.outgate.clone().with("OUTGATE_METRICS_LISTEN", listen).with("OUTGATE_GATEWAY_RETRY_FIRST", "1s");
    let running = machine.up().await;
    let (_folder, accounts) = file_with(&format!(
        "user_id,name,outbound_gateway\nann@acme.example,Ann,{}\nben@acme.example,Ben,{dead}\ncy@acme.example,Cy,{}\n",
        gateway.address,
        unused_address()
    ));
    let outgate = &machine.outgate;
    outgate.succeeds(&["organization", "create", "acme", "--name", "Acme", "--domain", "acme.example"]).await;
    outgate.succeeds(&["accounts", "import", "acme", accounts.to_str().unwrap()]).await;
    let url = format!("http://{listen}/metrics");
    let routes = async { while numbers(&url).await["outgate_applied_revision"] < 2.0 {} };
    timeout(SHOWN_WITHIN, routes).await.expect("the relay follows");

    let mut smtp = SmtpClient::greeted(machine.submission).await;
    for (sender, code) in [("ann", "250"), ("ann", "250"), ("ben", "250")] {
        let reply =
            smtp.submit(&format!("{sender}@acme.example"), "bob@elsewhere.example", "Subject: x\r\n\r\nx").await;
        assert!(reply.starts_with(code), "{reply}");
    }
    gateway.says(At::Dot, "550 5.7.1 no");
    smtp.submit("ann@acme.example", "bob@elsewhere.example", "Subject: x\r\n\r\nx").await;

    let shown = async { while numbers(&url).await["outgate_queue_messages{state=\"waiting\"}"] < 1.0 {} };
    timeout(SHOWN_WITHIN, shown).await.expect("the queue is looked at");
    let read = numbers(&url).await;
    let named = |name: &str| read.get(&format!("outgate_{name}")).copied();
    assert_eq!(named("messages_handed_over_total"), Some(2.0));
    assert_eq!(named("messages_queued_total"), Some(1.0));
    assert_eq!(named("messages_accepted_total"), Some(3.0));
    assert_eq!(named("messages_refused_total"), Some(1.0));
    assert_eq!(named("messages_deferred_total"), Some(0.0));
    assert_eq!((named("connections"), named("message_memory_bytes")), (Some(1.0), Some(0.0)));
    assert_eq!(
        (named("handover_seconds_count"), named("handover_seconds_bucket{le=\"+Inf\"}")),
        (Some(2.0), Some(2.0))
    );
    assert_eq!((named("commit_seconds_count"), named("delivery_seconds_count")), (Some(1.0), Some(0.0)));
    assert!(named("facts_age_seconds").is_some_and(|age| age < 60.0), "{read:?}");
    assert_eq!((named("messages_delivered_total"), named("messages_returned_total")), (Some(0.0), Some(0.0)));
    assert!(named("queue_oldest_seconds").is_some_and(|age| (0.0..60.0).contains(&age)), "{read:?}");
    assert!(named("queue_bytes").is_some_and(|bytes| bytes > 0.0), "{read:?}");
    assert_eq!(named("volume_not_counted_total"), Some(0.0));
    assert!(named("volume_flush_age_seconds").is_some_and(|age| age < 30.0), "{read:?}");
    // Cy's gateway has had no traffic.
    let of_gateway = |name: &str, address: String| {
        let start = format!("outgate_gateway_{name}{{");
        let end = format!("address=\"{address}\"}}");
        read.iter().find(|(key, _)| key.starts_with(&start) && key.ends_with(&end)).map(|(_, value)| *value)
    };
    assert_eq!(of_gateway("messages_total", gateway.address.to_string()), Some(2.0));
    assert_eq!(of_gateway("failing", gateway.address.to_string()), Some(0.0));
    assert_eq!(of_gateway("failing", dead.to_string()), Some(1.0));
    assert_eq!(read.keys().filter(|key| key.starts_with("outgate_gateway_failing{")).count(), 2);

    assert_eq!(reqwest::get(format!("http://{listen}/")).await.unwrap().status(), 404);

    // What waits leaves once Ben's gateway is there, and is counted apart from what was handed over.
    let back = Gateway::start_on(dead).await;
    let left = async { while numbers(&url).await["outgate_queue_messages{state=\"waiting\"}"] > 0.0 {} };
    timeout(SHOWN_WITHIN, left).await.expect("it leaves");
    assert_eq!(back.received(1).await.len(), 1);
    let read = numbers(&url).await;
    assert_eq!(read["outgate_messages_delivered_total"], 1.0);
    assert_eq!(read["outgate_delivery_seconds_count"], 1.0);
    assert!(read["outgate_delivery_seconds_sum"] > 0.0, "{read:?}");
    assert_eq!((read["outgate_queue_oldest_seconds"], read["outgate_queue_bytes"]), (0.0, 0.0));
    running.stop().await;
}

#[sqlx::test]
async fn a_gateway_is_shown_for_an_hour_after_its_last_mail_and_no_longer(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let metrics = Metrics::new();
    metrics.show_gateways(sending.handover.health());
    let lines = |later: Duration| {
        let text = metrics.text(&sending.table, 0, Instant::now() + later);
        text.lines().filter(|line| line.starts_with("outgate_gateway_")).count()
    };
    assert_eq!(lines(Duration::ZERO), 0, "it had no mail yet");
    assert_eq!(sending.send().await.code, 250);
    const MINUTE: Duration = Duration::from_secs(60);
    assert_eq!([Duration::ZERO, 59 * MINUTE, 61 * MINUTE].map(lines), [3, 3, 0]);
}

#[tokio::test]
async fn prometheus_reads_what_submission_refused_and_why() {
    let mut machine = Machine::new(unused_address());
    let listen = unused_address();
    let outgate = machine.outgate.clone().with("OUTGATE_METRICS_LISTEN", listen);
    machine.outgate = outgate.with("OUTGATE_TRUSTED_NETWORKS", "127.0.0.1/32");
    let running = machine.up().await;
    let outgate = &machine.outgate;
    outgate.succeeds(&["organization", "create", "acme", "--name", "Acme", "--domain", "acme.example"]).await;
    let url = format!("http://{listen}/metrics");
    let routes = async { while numbers(&url).await["outgate_applied_revision"] < 1.0 {} };
    timeout(SHOWN_WITHIN, routes).await.expect("the relay follows");

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut stranger = SmtpClient::over(socket.connect(machine.submission).await.unwrap());
    stranger.reply().await;
    stranger.say("EHLO client.example").await;
    for _ in 0..2 {
        assert!(stranger.say("MAIL FROM:<ann@acme.example>").await.starts_with("550 5.7.1 "));
    }
    let mut smtp = SmtpClient::greeted(machine.submission).await;
    assert!(smtp.say("MAIL FROM:<ann@nowhere.example>").await.starts_with("550 5.7.1 "));
    assert!(smtp.say("MAIL FROM:<ann@acme.example> SIZE=99999999999").await.starts_with("552 5.3.4 "));
    smtp.say("MAIL FROM:<ann@acme.example>").await;
    assert!(smtp.say("RCPT TO:<b\u{f6}b@elsewhere.example>").await.starts_with("55"));
    smtp.say("RSET").await;
    let hops = "Received: from a by b; now\r\n".repeat(51);
    for (content, code) in [("a\nb", "550 5.6.0 "), ("a\rb", "550 5.6.0 "), (hops.as_str(), "554 5.4.6 ")] {
        let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", content).await;
        assert!(reply.starts_with(code), "{reply}");
    }

    let numbers = numbers(&url).await;
    let by_reason: Vec<(&str, f64)> = numbers
        .iter()
        .filter_map(|(name, value)| {
            let label = name.strip_prefix("outgate_submission_refused_total{reason=\"")?;
            Some((label.strip_suffix("\"}").unwrap(), *value))
        })
        .collect();
    let mut by_reason = by_reason;
    by_reason.sort_by_key(|(label, _)| *label);
    let expected = [
        ("content", 2.0),
        ("for-now", 0.0),
        ("loop", 1.0),
        ("recipient", 1.0),
        ("sender", 1.0),
        ("sign-in", 0.0),
        ("size", 1.0),
        ("stranger", 2.0),
    ];
    assert_eq!(by_reason, expected, "each reason stands there, also with nothing to count, and no other");
    assert_eq!(numbers["outgate_messages_refused_total"], 3.0, "those that were read");
    running.stop().await;
}
