//! What an operator reads in the log about one message: each step with the same fields, and nothing of its content.
//! The lines as they are on standard error.

use std::{
    io,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault},
};

/// Everything that was logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Begins; ends with the guard.
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
        (log, tracing::subscriber::set_default(subscriber.with_max_level(tracing::Level::INFO).finish()))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines about messages since the last time.
    fn take(&self) -> Vec<Value> {
        let text = self.text();
        self.0.lock().unwrap().clear();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == "outgate::message").collect()
    }

    /// The only line since the last time.
    fn take_one(&self) -> Value {
        let lines = self.take();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines.into_iter().next().unwrap()
    }
}

/// The fields of a line that are the same each time, without the two that tell the time.
fn story(line: &Value, fields: &[&str]) -> String {
    for field in ["received", "waited_ms"] {
        assert!(!line[field].is_null(), "{field} is missing: {line}");
    }
    let value = |field: &&str| format!("{field}={}", line[*field].to_string().replace('"', ""));
    fields.iter().map(value).collect::<Vec<_>>().join(" ")
}

const EVERY: [&str; 11] =
    ["message", "sender", "recipients", "to", "client", "scope", "gateway", "revision", "server", "tls", "reply"];

#[sqlx::test]
async fn the_log_tells_the_whole_story_of_a_message_and_nothing_of_its_content(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let address = gateway.address;
    let (log, _guard) = Log::begin();
    let to = ["bob@elsewhere.example", "bea@elsewhere.example"];
    let secret = || sending.message_with(&to, "Subject: secret plan\r\n\r\nTell nobody.\r\n");

    let message = secret();
    let (queue_id, size) = (message.id.to_string(), message.content.size());
    sending.transfer.accept(message).await;
    let line = log.take_one();
    assert_eq!(
        story(&line, &EVERY),
        format!(
            "message=handed over sender=ann@acme.example recipients=2 to=bob@elsewhere.example, bea@elsewhere.example \
             client=127.0.0.1 scope=organization gateway={address} revision=1 server={address} tls=none \
             reply=250 2.0.0 kept as 4711"
        )
    );
    assert_eq!((&line["queue_id"], &line["size"]), (&Value::from(queue_id), &Value::from(size)));
    assert_eq!(line["organization"], sending.organization.to_string());

    gateway.says(At::Dot, "550 5.7.1 no such content");
    sending.transfer.accept(secret()).await;
    let refused = format!("550 5.7.1 gateway {address} said: no such content");
    let fields = ["message", "sender", "recipients", "client", "reply"];
    let line = story(&log.take_one(), &fields);
    assert_eq!(line, format!("message=refused sender=ann@acme.example recipients=2 client=127.0.0.1 reply={refused}"));

    gateway.says(At::Dot, "451 4.3.0 later");
    sending.transfer.accept(secret()).await;
    let said = format!("gateway {address} said: 451 4.3.0 later");
    assert_eq!(
        story(&log.take_one(), &EVERY),
        format!(
            "message=queued sender=ann@acme.example recipients=2 to=bob@elsewhere.example, bea@elsewhere.example \
             client=127.0.0.1 scope=organization gateway={address} revision=1 server={address} tls=none reply={said}"
        )
    );

    sending.step_after(2).await;
    let line = log.take_one();
    assert_eq!(
        story(&line, &["message", "recipients", "scope", "gateway", "revision", "attempts", "reply"]),
        format!("message=attempt recipients=2 scope=organization gateway={address} revision=1 attempts=2 reply={said}")
    );
    assert!(line["next_attempt"].is_string(), "{line}");

    gateway.works_again();
    gateway.answers_recipient("bea@elsewhere.example", "550 5.1.1 who?");
    sending.step_after(10).await;
    let lines: Vec<_> = log.take().iter().map(|line| story(line, &["message", "to", "gateway"])).collect();
    assert_eq!(
        lines[..2],
        [
            format!("message=delivered to=bob@elsewhere.example gateway={address}"),
            format!("message=returned to=bea@elsewhere.example gateway={address}")
        ]
    );

    // Where nobody answers, the reason is ours.
    gateway.fails(At::Greeting, Fault::Closes);
    sending.handover.pool().close().await;
    sending.transfer.accept(secret()).await;
    let line = log.take_one();
    assert_eq!(
        story(&line, &["message", "server", "reply"]),
        format!("message=queued server=null reply=gateway {address}: the connection was closed")
    );
    let all = log.text();
    assert!(!all.contains("secret") && !all.contains("nobody"), "{all}");
}

#[sqlx::test]
async fn a_line_names_ten_recipients_and_counts_the_rest_and_says_how_the_last_hop_was_encrypted(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.offers_tls();
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let (log, _guard) = Log::begin();
    let to: Vec<String> = (1..=13).map(|number| format!("r{number}@elsewhere.example")).collect();
    let named = to[..10].join(", ");
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    for (recipients, words) in [(&to[..10], named.clone()), (&to[..], format!("{named} and 3 more"))] {
        sending.transfer.accept(sending.message(recipients)).await;
        let line = log.take_one();
        assert_eq!((&line["recipients"], &line["to"]), (&Value::from(recipients.len()), &Value::from(words)));
        assert_eq!((&line["server"], &line["tls"]), (&Value::from(gateway.address.to_string()), &"TLS 1.3".into()));
    }
}

#[sqlx::test]
async fn a_line_about_a_message_that_came_back_names_its_first_pass_whatever_becomes_of_it(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let (log, _guard) = Log::begin();
    let first = sending.message(&["bob@elsewhere.example"]);
    let id = first.id.to_string();
    sending.transfer.accept(first).await;
    let line = log.take_one();
    assert_eq!((&line["queue_id"], &line["first_pass"]), (&Value::from(id.as_str()), &Value::Null));

    for (says, step) in [(None, "handed over"), (Some("451 4.3.0 later"), "queued"), (Some("550 5.7.1 no"), "refused")]
    {
        if let Some(says) = says {
            gateway.says(At::Dot, says);
        }
        let mut second = sending.message(&["bob@elsewhere.example"]);
        second.client.first_pass = Some(id.clone());
        sending.transfer.accept(second).await;
        let line = log.take_one();
        assert_eq!((&line["message"], &line["first_pass"]), (&Value::from(step), &Value::from(id.as_str())));
    }
}
