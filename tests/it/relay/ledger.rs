//! Nothing is lost: every 250 is counted against every arrival while one of two relays, PostgreSQL or both are killed at
//! random moments, or the other relay is paused for longer than its leases last; under load, with gateways that drop,
//! delay and refuse at random. `benches/ledger` runs many rounds of it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::random;
use sqlx::PgPool;
use tokio::time::timeout;

use crate::support::{
    ledger::{Balance, Ledger},
    outgate::{Machine, RelayProcess, Running, file_with, unused_address},
};

/// In bin/test; `OUTGATE_LEDGER_ROUNDS` says otherwise.
const ROUNDS: usize = 4;
const CLIENTS: usize = 12;
/// Each has a gateway of their own, so that one that fails leaves the others work.
const SENDERS: [&str; 6] =
    ["a@acme.example", "b@acme.example", "c@acme.example", "d@acme.example", "e@acme.example", "f@acme.example"];
/// Whose gateway is never there: their mail makes the relay look at its queue.
const NUDGER: &str = "nudger@acme.example";
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
const FOLLOWS_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Relay,
    Store,
    Both,
    /// The second relay, which goes on after its messages were taken over.
    Paused,
}

/// Rounds are short.
const LEASE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_that_was_promised_nothing_is_lost_when_relay_and_store_are_killed() {
    let rounds = std::env::var("OUTGATE_LEDGER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let ledger = Ledger::new();
    let mut machine = Machine::new(ledger.gateway().await);
    let lease = format!("{}s", LEASE.as_secs());
    machine.outgate = machine.outgate.clone().with("OUTGATE_LEASE", lease).with("OUTGATE_STOP_WITHIN", "15s");
    let mut running = machine.up().await;
    let second = machine.another_relay().await;
    set_up(&machine, &ledger).await;

    let mut balance = Balance::default();
    // What those lives of the first relay that are over had written.
    let mut lives = Vec::new();
    for round in 0..rounds {
        let victim = [Victim::Relay, Victim::Store, Victim::Both, Victim::Paused][round % 4];
        running = play(&machine, &ledger, running, &second, victim, &mut lives).await;
        drain(&machine, round).await;
        balance = ledger.balance();
        if !balance.lost.is_empty() {
            lives.extend([running.log(), second.log()]);
            panic!("round {round}, {victim:?}: {balance:?}\n{}", story(&ledger, &balance.lost, &lives));
        }
        assert_eq!(balance.unexplained, [0u64; 0], "round {round}, {victim:?}: {balance:?}");
        if round % 20 == 19 {
            println!("{} rounds: {}", round + 1, said(&balance));
        }
        // The next life now and then commits everything first.
        machine.outgate = machine.outgate.clone().with("OUTGATE_HANDOVER", if random() { "on" } else { "off" });
    }
    println!("{rounds} rounds: {}", said(&balance));
    assert!(balance.promised > rounds, "there was load: {balance:?}");
    running.stop().await;
    second.signal(Signal::SIGTERM);
    assert!(second.ended().await.success());
}

fn said(balance: &Balance) -> String {
    format!(
        "{} messages promised, {} lost; {} arrived, {} returned; {} duplicates (in flight at a kill: {} of clients \
         alone, dropped after the dot: {})",
        balance.promised,
        balance.lost.len(),
        balance.arrived,
        balance.returned,
        balance.duplicates,
        balance.in_flight_at_kills,
        balance.dropped_after_dot,
    )
}

/// What relays wrote about these messages, and about all that was returned.
fn story(ledger: &Ledger, lost: &[u64], lives: &[String]) -> String {
    let promises: Vec<String> = lost.iter().map(|token| ledger.promise_of(*token)).collect();
    let ids: Vec<&str> = promises.iter().filter_map(|promise| promise.split("queued as ").nth(1)).collect();
    let mut story = format!("promised: {promises:?}\n");
    for (life, log) in lives.iter().enumerate() {
        let is_told = |line: &&str| line.contains(r#""sender":"""#) || ids.iter().any(|id| line.contains(id));
        story.extend(log.lines().filter(is_told).map(|line| format!("life {life}: {line}\n")));
    }
    story
}

async fn set_up(machine: &Machine, ledger: &std::sync::Arc<Ledger>) {
    let mut file = format!("user_id,name,outbound_gateway\n{NUDGER},Nudger,{}\n", unused_address());
    for sender in SENDERS {
        file += &format!("{sender},{sender},{}\n", ledger.gateway().await);
    }
    let (_folder, accounts) = file_with(&file);
    let outgate = &machine.outgate;
    outgate.succeeds(&["organization", "create", "acme", "--name", "Acme", "--domain", "acme.example"]).await;
    outgate.succeeds(&["accounts", "import", "acme", accounts.to_str().unwrap()]).await;
    // Nobody is stopped here for sending much.
    let hour = ["--each", "--window", "hour", "--external", "--unlimited"];
    outgate.succeeds(&[&["limit", "set", "acme"], &hour[..]].concat()).await;
    let followed = async { while outgate.succeeds(&["route", "explain", NUDGER]).await.is_empty() {} };
    timeout(FOLLOWS_WITHIN, followed).await.expect("the accounts are known");
    let live = async {
        let latest: i64 =
            sqlx::query_scalar("select revision from installation").fetch_one(&machine.owner()).await.unwrap();
        let expected = format!("\trevision {latest}\t");
        while outgate.succeeds(&["relay", "list"]).await.matches(&expected).count() < 2 {}
    };
    timeout(FOLLOWS_WITHIN, live).await.expect("both relays follow");
}

/// Load, and somebody is killed in the middle of it. What has ended runs again then.
async fn play(
    machine: &Machine,
    ledger: &std::sync::Arc<Ledger>,
    running: Running,
    second: &RelayProcess,
    victim: Victim,
    lives: &mut Vec<String>,
) -> Running {
    ledger.set_wild(true);
    let mut clients = ledger.open(CLIENTS / 2, machine.submission, &SENDERS);
    clients.extend(ledger.open(CLIENTS / 2, second.submission, &SENDERS));
    // The moment is what is tried out: any will do.
    tokio::time::sleep(Duration::from_millis(100 + random::<u64>() % 500)).await;
    let at = Instant::now();
    let survivor = match victim {
        Victim::Store => {
            machine.kill_postgres().await;
            tokio::time::sleep(Duration::from_millis(random::<u64>() % 300)).await;
            Some(running)
        }
        Victim::Relay => {
            lives.push(machine.kill_relay(running).await);
            None
        }
        Victim::Paused => {
            second.signal(Signal::SIGSTOP);
            ledger.killed(at);
            let before = ledger.balance().promised;
            ledger.until("clients of the first go on", |balance| balance.promised >= before + CLIENTS).await;
            ledger.close();
            tokio::time::sleep(LEASE + Duration::from_millis(random::<u64>() % 2000)).await;
            second.signal(Signal::SIGCONT);
            ledger.killed(at);
            Some(running)
        }
        Victim::Both => {
            lives.push(machine.kill_everything(running).await);
            None
        }
    };
    ledger.close();
    for client in clients {
        client.await.unwrap();
    }
    ledger.set_wild(false);
    match survivor {
        // It goes on with the store that comes back, or has to stop while that is away.
        Some(running) if victim == Victim::Paused || random() => return running,
        Some(running) => {
            running.terminate();
            lives.push(running.ended_saying().await);
        }
        None => {}
    }
    ledger.killed(at);
    machine.up().await
}

/// Waits until the queue is empty; mail that waits for its next attempt gets it at once.
async fn drain(machine: &Machine, round: usize) {
    let emptied = async {
        loop {
            let store = machine.owner();
            match look(&store, machine).await {
                Ok(true) => return,
                // The store is coming back.
                Ok(false) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    if timeout(DRAINED_WITHIN, emptied).await.is_err() {
        let waiting: Vec<(String, Option<String>, bool)> = sqlx::query_as(
            "select state, last_reply, lease_token is not null from queued_message where sender is distinct from $1 limit 5",
        )
        .bind(NUDGER)
        .fetch_all(&machine.owner())
        .await
        .unwrap();
        panic!("round {round}: the queue does not drain: {waiting:?}");
    }
}

async fn look(store: &PgPool, machine: &Machine) -> sqlx::Result<bool> {
    let left: i64 = sqlx::query_scalar("select count(*) from queued_message where sender is distinct from $1")
        .bind(NUDGER)
        .fetch_one(store)
        .await?;
    if left == 0 {
        sqlx::query("delete from queued_message where sender = $1").bind(NUDGER).execute(store).await?;
        return Ok(true);
    }
    let due =
        "update queued_message set next_attempt_at = now() where lease_token is null and sender is distinct from $1";
    sqlx::query(due).bind(NUDGER).execute(store).await?;
    let mut smtp = crate::support::SmtpClient::greeted(machine.submission).await;
    smtp.submit(NUDGER, "bob@elsewhere.example", "Subject: look\r\n\r\nx").await;
    Ok(false)
}
