//! `outgate up` from its first start to its end, however it ends: on a private cluster in a new
//! folder, set up by the operator's commands, with mail underway.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use nix::{sys::signal::kill, unistd::Pid};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::support::{
    Gateway, SmtpClient,
    gateway::{At, Fault},
    outgate::{Machine, file_with, unused_address},
};

/// How long a saved change may take to be live, as the command line sees it.
const LIVE_WITHIN: Duration = Duration::from_secs(20);

/// How long a stopping relay may go on taking connections.
const DOORS_SHUT_WITHIN: Duration = Duration::from_secs(10);

/// How long a thousand messages may take on a machine that has much else to do: usually three seconds.
const ALL_ARRIVE_WITHIN: Duration = Duration::from_secs(60);

const MESSAGES: usize = 1000;
const CLIENTS: usize = 10;

/// The organization acme with two users; Ben has a gateway of his own.
async fn set_up(machine: &Machine, gateway: SocketAddr, of_ben: SocketAddr) {
    let outgate = &machine.outgate;
    let (_folder, accounts) =
        file_with(&format!("user_id,name,outbound_gateway\nann@acme.example,Ann,\nben@acme.example,Ben,{of_ben}\n"));
    outgate.succeeds(&["organization", "create", "acme", "--name", "Acme", "--domain", "acme.example"]).await;
    let imported = outgate.succeeds(&["accounts", "import", "acme", accounts.to_str().unwrap()]).await;
    assert_eq!(imported, "2 accounts added, 0 changed, 0 as they were.\n");
    let saved = outgate.succeeds(&["gateway", "set", "acme", &gateway.to_string()]).await;
    let revision = saved.trim_end().trim_end_matches('.').rsplit_once("Revision ").unwrap().1;
    let live = format!("relay.example\trevision {revision}\t");
    let confirmed = async { while !outgate.succeeds(&["relay", "list"]).await.starts_with(&live) {} };
    timeout(LIVE_WITHIN, confirmed).await.expect("the relay follows what was saved");
}

/// Submits messages numbered `of client`, `of client + CLIENTS`, …; every one is answered with 250.
async fn submit(submission: SocketAddr, client: usize) {
    let mut smtp = SmtpClient::greeted(submission).await;
    for number in (client..MESSAGES).step_by(CLIENTS) {
        let content = format!("Subject: {number}\r\n\r\nThis must not be lost.\r\n");
        let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", &content).await;
        assert!(reply.starts_with("250 2.0.0 queued as "), "{number}: {reply}");
    }
}

fn subject(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let line = text.lines().find_map(|line| line.strip_prefix("Subject: "));
    line.unwrap().to_owned()
}

#[tokio::test]
async fn a_thousand_messages_for_a_dead_gateway_survive_the_sudden_end_of_everything() {
    let gateway = unused_address();
    let machine = Machine::new(unused_address());
    let running = machine.up().await;
    set_up(&machine, gateway, gateway).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(submit(machine.submission, client));
    }
    clients.join_all().await;

    machine.kill_everything(running).await;
    assert_eq!(machine.postgres(), None);
    let gateway = Gateway::start_on(gateway).await;
    let running = machine.up().await;

    let mut times = HashMap::new();
    for message in &gateway.received_within(MESSAGES, ALL_ARRIVE_WITHIN).await {
        *times.entry(subject(&message.content)).or_insert(0) += 1;
    }
    for number in 0..MESSAGES {
        // Once: nothing was underway when it all ended.
        assert_eq!(times.get(&number.to_string()), Some(&1), "message {number}");
    }
    running.stop().await;
    assert_eq!(machine.postgres(), None);
}

/// Waits until nobody new is let in.
async fn doors_are_shut(submission: SocketAddr) {
    let refused = async { while TcpStream::connect(submission).await.is_ok() {} };
    timeout(DOORS_SHUT_WITHIN, refused).await.expect("a stopping relay lets nobody new in");
}

fn is_running(process: Pid) -> bool {
    kill(process, None).is_ok()
}

#[tokio::test]
async fn when_told_to_stop_it_finishes_the_mail_in_flight_and_stops_postgresql_last() {
    let (gateway, of_ben) = (Gateway::start().await, Gateway::start().await);
    let machine = Machine::new(unused_address());
    let running = machine.up().await;
    set_up(&machine, gateway.address, of_ben.address).await;
    gateway.fails(At::Dot, Fault::Stalls);
    of_ben.fails(At::Greeting, Fault::Stalls);
    let send = |sender: &'static str, submission| {
        tokio::spawn(async move {
            let mut smtp = SmtpClient::greeted(submission).await;
            smtp.submit(sender, "bob@elsewhere.example", "Subject: in flight\r\n\r\nHello.\r\n").await
        })
    };
    let (from_ann, from_ben) =
        (send("ann@acme.example", machine.submission), send("ben@acme.example", machine.submission));
    gateway.stalled(1).await;
    of_ben.stalled(1).await;
    let postgres = machine.postgres().unwrap();

    running.terminate();
    doors_are_shut(machine.submission).await;
    assert!(is_running(postgres), "a message in flight may still need the store");
    gateway.go_on();
    // Ben's gateway goes away without an answer: his message has to be stored now.
    let address = of_ben.stop().await;

    assert_eq!(from_ann.await.unwrap(), "250 2.0.0 kept as 4711\r\n");
    let reply = from_ben.await.unwrap();
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    assert!(running.ended().await.success());
    assert_eq!(machine.postgres(), None);
    assert_eq!(gateway.received(1).await.len(), 1);

    let of_ben = Gateway::start_on(address).await;
    let running = machine.up().await;
    assert_eq!(subject(&of_ben.received(1).await[0].content), "in flight");
    running.stop().await;
    assert_eq!((gateway.so_far().len(), of_ben.so_far().len()), (1, 1));
}
