//! What the demonstration's own gateways do with mail.
//! The gateways of `outgate up --demo`, which many tests use as inboxes too.

use std::sync::{Arc, Mutex};

use outgate::relay::demonstration_gateway::{self, Arrival};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

struct Demonstration {
    client: TcpStream,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

async fn demonstration() -> Demonstration {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let stop = CancellationToken::new();
    let (report, stopped) = (arrivals.clone(), stop.clone());
    let serving = tokio::spawn(async move {
        let why = |sender: &str| format!("because of {sender}");
        demonstration_gateway::run("archive", listener, why, move |it| report.lock().unwrap().push(it), stopped).await
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    read_until(&mut client, "\r\n").await;
    Demonstration { client, arrivals, stop, serving }
}

async fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(end) {
        let mut piece = [0; 4096];
        let length = client.read(&mut piece).await.unwrap();
        assert_ne!(length, 0, "closed after {read:?}");
        read += std::str::from_utf8(&piece[..length]).unwrap();
    }
    read
}

const CONVERSATION: &str = "EHLO client.example\r\nMAIL FROM:<ann@northwind.example> SIZE=100\r\n\
    RCPT TO:<bob@customer.example>\r\nRCPT TO:<eve@customer.example>\r\nDATA\r\n\
    Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nnot\n.\nthe end\r\n..\r\n.\r\nQUIT\r\n";

#[tokio::test]
async fn a_demonstration_gateway_tells_what_arrived_and_why() {
    let mut demonstration = demonstration().await;

    // Byte by byte, so that every border between two pieces is met.
    for byte in CONVERSATION.as_bytes() {
        demonstration.client.write_all(&[*byte]).await.unwrap();
    }
    let replies = read_until(&mut demonstration.client, "221 2.0.0 Goodbye\r\n").await;

    assert!(replies.contains("250-PIPELINING\r\n"), "{replies}");
    let arrivals = demonstration.arrivals.lock().unwrap();
    let [arrival] = arrivals.as_slice() else { panic!("{arrivals:?}") };
    let block = arrival.to_string();
    let expected = [
        format!("┌ Gateway archive at {} received a message of 58 bytes", arrival.address),
        "│ MAIL FROM  <ann@northwind.example>".to_owned(),
        "│ RCPT TO    <bob@customer.example>".to_owned(),
        "│ RCPT TO    <eve@customer.example>".to_owned(),
        "│ Subject    Grüße".to_owned(),
        "└ Why here   because of ann@northwind.example".to_owned(),
    ];
    assert_eq!(block.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_group_of_commands_and_a_message_in_one_piece_are_answered_in_order() {
    let mut demonstration = demonstration().await;

    demonstration.client.write_all(CONVERSATION.as_bytes()).await.unwrap();
    let replies = read_until(&mut demonstration.client, "221 2.0.0 Goodbye\r\n").await;

    let codes: Vec<&str> = replies.lines().map(|line| &line[..4]).filter(|code| code.ends_with(' ')).collect();
    assert_eq!(codes, ["250 ", "250 ", "250 ", "250 ", "354 ", "250 ", "221 "]);
    assert_eq!(demonstration.arrivals.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_stranger_wrote_does_not_command_the_terminal() {
    let mut demonstration = demonstration().await;

    let conversation = CONVERSATION.replace("=C3=BC=C3=9F", "=1B]0;owned=07");
    demonstration.client.write_all(conversation.as_bytes()).await.unwrap();
    read_until(&mut demonstration.client, "221 2.0.0 Goodbye\r\n").await;

    let block = demonstration.arrivals.lock().unwrap()[0].to_string();
    assert!(block.contains("│ Subject    Gr]0;ownede\n"), "{block:?}");
}

#[tokio::test]
async fn stopping_closes_idle_connections_with_421() {
    let mut demonstration = demonstration().await;

    demonstration.stop.cancel();

    assert_eq!(read_until(&mut demonstration.client, "\r\n").await, "421 4.3.2 Shutting down\r\n");
    demonstration.serving.await.unwrap().unwrap();
}
