//! What clients meet on the wire: limits, large messages, stopping.
//! The words of a session are asked for in `submission_dialogs`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outgate::{
    mail::{EnhancedStatus, Reply, id::QueueId, short_id::ShortId},
    policy::routing::PlatformDefault,
    relay::{routing_table::RoutingTable, submission},
};
use tokio::{io::AsyncReadExt, net::TcpSocket, sync::Semaphore};

use crate::support::{
    SmtpClient,
    relay::{Reception, known_facts, known_table, queued},
};

#[tokio::test]
async fn a_submitted_message_is_accepted_as_it_was_sent() {
    let reception = Reception::start().await;
    let mut client = SmtpClient::greeted(reception.address).await;

    let reply = client.submit("ann@acme.example", "bob@far.example", "Subject: x\r\n\r\n..text").await;

    assert_eq!(reply, "250 2.0.0 queued\r\n");
    let accepted = reception.accepted();
    assert_eq!(accepted[0].content, b"Subject: x\r\n\r\n.text\r\n");
    assert!(
        accepted[0]
            .received
            .starts_with("Received: from client.example ([127.0.0.1])\r\n\tby relay.example with ESMTP id ")
    );
    drop(client);
    reception.stop().await;
}

#[tokio::test]
async fn a_large_message_is_spooled_and_complete() {
    let reception = Reception::start().await;
    let mut client = SmtpClient::greeted(reception.address).await;
    let content: String = (0..100_000).map(|line| format!("{line} of a large message\r\n")).collect();

    for _ in 0..2 {
        let reply = client.submit("ann@acme.example", "bob@far.example", content.trim_end()).await;
        assert_eq!(reply, "250 2.0.0 queued\r\n");
    }

    let accepted = reception.accepted();
    assert_eq!(accepted.len(), 2);
    for message in accepted {
        assert!(message.spooled);
        assert_eq!(String::from_utf8(message.content).unwrap(), content);
    }
    assert_eq!(client.submit("ann@acme.example", "bob@far.example", "small").await, "250 2.0.0 queued\r\n");
    let of_a_megabyte = "0123456789abcdef\r\n".repeat(60_000);
    assert_eq!(client.submit("ann@acme.example", "bob@far.example", &of_a_megabyte).await, "250 2.0.0 queued\r\n");
    let in_memory: Vec<bool> = reception.accepted()[2..].iter().map(|message| !message.spooled).collect();
    assert_eq!(in_memory, [true, true]);
    drop(client);
    reception.stop().await;
}

#[tokio::test]
async fn a_large_message_that_finds_no_room_is_refused_for_now() {
    let gone = tempfile::tempdir().unwrap();
    let spool_dir = gone.path().join("gone");
    let reception =
        Reception::with(known_table(), |settings| settings.spool_dir = spool_dir, || async { queued() }).await;
    let mut client = SmtpClient::greeted(reception.address).await;

    let no_room = "452 4.3.1 There is no room for the message now, try again later\r\n";
    assert_eq!(client.say("MAIL FROM:<ann@acme.example>").await, no_room);
    assert_eq!(client.say("MAIL FROM:<ann@acme.example> SIZE=600000").await, no_room);

    // What is announced as small needs no room; if it is large after all, it is refused in step.
    for (content, reply) in [("small".to_owned(), "250 2.0.0 queued\r\n"), ("text\r\n".repeat(400_000), no_room)] {
        for command in ["MAIL FROM:<ann@acme.example> SIZE=5", "RCPT TO:<bob@far.example>", "DATA"] {
            client.say(command).await;
        }
        client.send(content.as_bytes()).await;
        assert_eq!(client.say("\r\n.").await, reply);
    }
}

#[tokio::test]
async fn a_message_that_the_spool_cannot_take_is_told_of_under_the_id_in_the_reply() {
    let gone = tempfile::tempdir().unwrap();
    let spool_dir = gone.path().join("gone");
    let (told, refusals) = std::sync::mpsc::channel();
    let refused: submission::OnRefusal = Arc::new(move |refused| told.send(refused).unwrap());
    let settings = |settings: &mut outgate::relay::settings::Settings| settings.spool_dir = spool_dir;
    let reception = Reception::telling(known_table(), settings, || async { queued() }, Some(refused)).await;
    let mut client = SmtpClient::greeted(reception.address).await;
    for command in ["MAIL FROM:<ann@acme.example> SIZE=5", "RCPT TO:<bob@far.example>", "DATA"] {
        client.say(command).await;
    }
    client.send("text\r\n".repeat(400_000).as_bytes()).await;
    let reply = client.say("\r\n.").await;
    let refused = refusals.try_recv().unwrap();
    assert_eq!(reply, format!("{} [{}]\r\n", refused.reply, ShortId::of(refused.id)));
    assert!(reply.starts_with("452 4.3.1 There is no room") && refused.recipients == ["bob@far.example"], "{reply}");
}

#[tokio::test]
async fn strangers_leave_room_for_trusted_clients() {
    let few = |settings: &mut outgate::relay::settings::Settings| {
        settings.trusted_networks = vec!["127.0.0.1/32".parse().unwrap()];
        settings.limits.connections = 6;
    };
    let reception = Reception::with(known_table(), few, || async { queued() }).await;
    let from = async |client: String| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{client}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(reception.address).await.unwrap();
        let mut code = [0; 3];
        stream.read_exact(&mut code).await.unwrap();
        (String::from_utf8(code.to_vec()).unwrap(), stream)
    };
    let mut strangers = Vec::new();
    for last in 2..=9 {
        strangers.push(from(format!("127.0.0.{last}")).await);
    }
    let answers: Vec<&str> = strangers.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(answers, ["220", "220", "220", "421", "421", "421", "421", "421"]);

    assert_eq!(from("127.0.0.1".to_owned()).await.0, "220");
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_is_sent_away() {
    let soon = |settings: &mut outgate::relay::settings::Settings| {
        settings.limits.idle = Duration::from_millis(50);
    };
    let reception = Reception::with(known_table(), soon, || async { queued() }).await;
    let mut client = SmtpClient::greeted(reception.address).await;

    assert_eq!(client.reply().await, "421 4.4.2 relay.example has waited too long and closes the connection\r\n");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn a_client_that_sends_a_byte_now_and_then_has_an_end_too() {
    let soon = |settings: &mut outgate::relay::settings::Settings| {
        settings.limits.transaction = Duration::from_millis(100);
    };
    let reception = Reception::with(known_table(), soon, || async { queued() }).await;
    let mut client = SmtpClient::greeted(reception.address).await;
    client.say("MAIL FROM:<ann@acme.example>").await;
    client.say("RCPT TO:<bob@far.example>").await;
    client.say("DATA").await;

    client.send(b"x").await;
    assert_eq!(client.reply().await, "421 4.4.2 relay.example has waited too long and closes the connection\r\n");
    assert!(reception.accepted().is_empty());
}

#[tokio::test]
async fn a_client_address_has_so_many_connections_and_no_more() {
    let two = |settings: &mut outgate::relay::settings::Settings| {
        settings.limits.connections_of_trusted_client = 2;
    };
    let reception = Reception::with(known_table(), two, || async { queued() }).await;
    let _first = SmtpClient::greeted(reception.address).await;
    let mut second = SmtpClient::greeted(reception.address).await;

    let mut third = SmtpClient::connect(reception.address).await;
    assert_eq!(third.reply().await, "421 4.7.0 relay.example has too many connections, try again later\r\n");
    assert_eq!(third.reply().await, "");

    assert!(second.say("QUIT").await.starts_with("221 "));
    assert_eq!(second.reply().await, "");
    drop(second);
    let mut again = SmtpClient::connect(reception.address).await;
    while again.reply().await.starts_with("421") {
        again = SmtpClient::connect(reception.address).await;
    }
}

#[tokio::test]
async fn who_talks_before_the_greeting_is_refused() {
    let reception = Reception::with(known_table(), |_| {}, || async { queued() }).await;
    // The runtime of this test has one thread: the connection is not accepted before the bytes are there.
    let stream = std::net::TcpStream::connect(reception.address).unwrap();
    std::io::Write::write_all(&mut &stream, b"EHLO client.example\r\n").unwrap();

    let said = tokio::task::spawn_blocking(move || std::io::read_to_string(stream).unwrap()).await.unwrap();
    assert_eq!(said, "554 5.5.0 Wait for the reply before sending more\r\n");
}

#[tokio::test]
async fn a_relay_that_has_not_reached_the_store_yet_asks_to_come_back() {
    let table = Arc::new(RoutingTable::following(PlatformDefault::Mx, Duration::from_secs(60)));
    let reception = Reception::with(table, |_| {}, || async { queued() }).await;
    let mut client = SmtpClient::connect(reception.address).await;

    assert!(client.reply().await.starts_with("421 4.3.2 relay.example has just started "));
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn mail_is_not_routed_on_facts_that_are_too_old() {
    let table = Arc::new(RoutingTable::following(PlatformDefault::Mx, Duration::from_secs(60)));
    table.change(|facts| *facts = known_facts());
    let heard_at = std::time::Instant::now() - Duration::from_secs(61);
    table.mark_current(outgate::mail::id::Revision(1), heard_at);
    let reception = Reception::with(Arc::clone(&table), |_| {}, || async { queued() }).await;
    let mut client = SmtpClient::greeted(reception.address).await;

    let stale = "451 4.3.0 The store has been out of reach for too long to route mail, try again later\r\n";
    assert_eq!(client.say("MAIL FROM:<ann@acme.example>").await, stale);

    table.mark_current(outgate::mail::id::Revision(1), std::time::Instant::now());
    assert_eq!(client.submit("ann@acme.example", "bob@far.example", "x").await, "250 2.0.0 queued\r\n");
}

#[tokio::test]
async fn a_relay_that_stops_finishes_what_is_in_flight() {
    let answers = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&answers);
    let reception = Reception::with(
        known_table(),
        |_| {},
        move || {
            let permits = Arc::clone(&permits);
            async move {
                permits.acquire().await.unwrap().forget();
                queued()
            }
        },
    )
    .await;
    let mut idle = SmtpClient::greeted(reception.address).await;
    let mut begun = SmtpClient::greeted(reception.address).await;
    begun.say("MAIL FROM:<ann@acme.example>").await;
    let mut sending = after_354(reception.address).await;
    sending.send(b"half").await;
    let mut waiting = after_354(reception.address).await;
    waiting.send(b"whole\r\n.\r\n").await;
    until_accepted(&reception, 1).await;

    reception.stop.cancel();

    let stopping = "421 4.3.2 relay.example is stopping, try again in a moment\r\n";
    assert_eq!(idle.reply().await, stopping);
    assert_eq!(begun.reply().await, stopping);
    sending.send(b" and half\r\n.\r\n").await;
    until_accepted(&reception, 2).await;
    answers.add_permits(2);
    for mut client in [sending, waiting] {
        assert_eq!(client.reply().await, "250 2.0.0 queued\r\n");
        assert_eq!(client.reply().await, stopping);
    }
    assert_eq!(reception.accepted()[1].content, b"half and half\r\n");
    drop((idle, begun));
    reception.stop().await;
}

async fn after_354(address: SocketAddr) -> SmtpClient {
    let mut client = SmtpClient::greeted(address).await;
    for command in ["MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@far.example>", "DATA"] {
        client.say(command).await;
    }
    client
}

async fn until_accepted(reception: &Reception, count: usize) {
    let accepted = async {
        while reception.accepted().len() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), accepted).await.expect("the message is read");
}

#[tokio::test]
async fn a_relay_that_stops_does_not_wait_for_ever() {
    let soon = |settings: &mut outgate::relay::settings::Settings| {
        settings.limits.stopping = Duration::from_millis(50);
    };
    let reception = Reception::with(known_table(), soon, std::future::pending).await;
    let mut client = after_354(reception.address).await;
    client.send(b"whole\r\n.\r\n").await;
    until_accepted(&reception, 1).await;

    reception.stop().await;

    assert!(client.reply().await.starts_with("451 4.3.2 The relay is stopping "));
}

#[tokio::test]
async fn a_message_that_is_not_taken_ends_with_the_id_under_which_it_is_traced() {
    let refusal =
        || Reply::new(550, EnhancedStatus(5, 7, 1), format!("gateway mail.example.com said: {}", "no".repeat(300)));
    let reception = Reception::with(known_table(), |_| {}, move || async move { refusal() }).await;
    let mut client = SmtpClient::greeted(reception.address).await;

    let reply = client.submit("ann@acme.example", "bob@far.example", "Subject: x\r\n\r\n").await;

    assert!(reply.starts_with("550 5.7.1 gateway mail.example.com said: nono") && reply.len() <= 512, "{reply}");
    let id = reply.trim_end().rsplit_once(" [").unwrap().1.strip_suffix(']').unwrap();
    let short: ShortId = id.parse().unwrap();
    let accepted = reception.accepted();
    let (_, long) = accepted[0].received.split_once(" id ").unwrap();
    let long: QueueId = long.split(';').next().unwrap().trim().parse().unwrap();
    assert_eq!(short, ShortId::of(long));
    drop(client);
    reception.stop().await;
}
