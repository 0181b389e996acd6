//! How long one organization's clients wait for their answers while another's gateway hangs, or its clients flood the
//! relay. A measurement, run by `benches/neighbours`; that nobody is held up is tested in `room`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::support::{
    Gateway, SmtpClient,
    gateway::{At, Fault},
    ledger::Ledger,
    outgate::{Machine, file_with},
};

const MESSAGES: usize = 1000;
/// The ledger's gateways take only what is numbered.
const MESSAGE: &str = "Subject: token 0\r\n\r\nHello.";
/// Between two messages of the organization that is measured: a load that leaves the machine mostly idle.
const PAUSE: Duration = Duration::from_millis(4);
const HANGING: usize = 500;
const FLOODING: usize = 32;
/// What the relay has when nobody says otherwise.
const HANDOVER_WAIT: Duration = Duration::from_secs(20);
/// One for each round, with a tarpit of its own: after a while it is known, and nobody hangs there any more.
const HANGS: [&str; 3] = ["hangs1@noisy.example", "hangs2@noisy.example", "hangs3@noisy.example"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: benches/neighbours"]
async fn how_long_clients_wait_beside_a_tarpit_and_a_flood() {
    let mut tarpits = Vec::new();
    let mut file = "user_id,name,outbound_gateway\n".to_owned();
    for sender in HANGS {
        let tarpit = Gateway::start().await;
        tarpit.fails(At::Greeting, Fault::Stalls);
        file += &format!("{sender},Hangs,{}\n", tarpit.address);
        tarpits.push(tarpit);
    }
    let takes_all = Ledger::new();
    let machine = Machine::new(takes_all.gateway().await);
    let running = machine.up().await;
    let outgate = &machine.outgate;
    for (slug, gateway) in [("measured", takes_all.gateway().await), ("noisy", takes_all.gateway().await)] {
        let domain = format!("{slug}.example");
        outgate.succeeds(&["organization", "create", slug, "--name", slug, "--domain", &domain]).await;
        // The flood is to be as large as it is, and nobody stopped for it.
        let hour = ["--each", "--window", "hour", "--external", "--unlimited"];
        outgate.succeeds(&[&["limit", "set", slug], &hour[..]].concat()).await;
        outgate.succeeds(&["gateway", "set", slug, &gateway.to_string()]).await;
    }
    let (_folder, accounts) = file_with(&file);
    outgate.succeeds(&["accounts", "import", "noisy", accounts.to_str().unwrap()]).await;
    let mut warm = SmtpClient::greeted(machine.submission).await;
    while !warm.submit("ann@measured.example", "bob@elsewhere.example", MESSAGE).await.starts_with("250 2.0.0 kept") {}

    for (round, (tarpit, sender)) in (1..).zip(tarpits.iter().zip(HANGS)) {
        report(round, "alone", &machine).await;
        let noise = noise(&machine, HANGING, sender);
        tarpit.stalled(1).await;
        report(round, "beside a tarpit", &machine).await;
        quiet(noise).await;
        // What hangs there is queued by now.
        tokio::time::sleep(HANDOVER_WAIT + Duration::from_secs(2)).await;
        report(round, "alone", &machine).await;
        let noise = noise_of_flood(&machine);
        report(round, "beside a flood", &machine).await;
        quiet(noise).await;
    }
    running.stop().await;
}

type Noise = (Arc<AtomicBool>, JoinSet<()>);

/// Clients that send one message after the other.
fn noise(machine: &Machine, clients: usize, sender: &'static str) -> Noise {
    let (over, mut sending) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..clients {
        let (over, submission) = (Arc::clone(&over), machine.submission);
        sending.spawn(async move {
            let mut smtp = SmtpClient::greeted(submission).await;
            while !over.load(Ordering::Relaxed) {
                for command in
                    [format!("MAIL FROM:<{sender}>"), "RCPT TO:<bob@elsewhere.example>".into(), "DATA".into()]
                {
                    smtp.say(&command).await;
                }
                smtp.send(format!("{MESSAGE}\r\n.\r\n").as_bytes()).await;
                smtp.reply_however_late().await;
            }
        });
    }
    (over, sending)
}

fn noise_of_flood(machine: &Machine) -> Noise {
    noise(machine, FLOODING, "floods@noisy.example")
}

async fn quiet((over, mut sending): Noise) {
    over.store(true, Ordering::Relaxed);
    sending.abort_all();
    while sending.join_next().await.is_some() {}
}

/// Sends the measured messages, and says how long their clients waited.
async fn report(round: usize, what: &str, machine: &Machine) {
    let mut smtp = SmtpClient::greeted(machine.submission).await;
    let mut waits = Vec::with_capacity(MESSAGES);
    for _ in 0..MESSAGES {
        let begun = Instant::now();
        let reply = smtp.submit("ann@measured.example", "bob@elsewhere.example", MESSAGE).await;
        waits.push(begun.elapsed());
        assert!(reply.starts_with("250 2.0.0 kept"), "{reply}");
        tokio::time::sleep(PAUSE).await;
    }
    waits.sort();
    let at = |part: f64| waits[(waits.len() as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!("{round}  {what:16} p50 {:6.2} ms  p99 {:6.2} ms  longest {:6.2} ms", at(0.5), at(0.99), at(0.9999));
}
