//! Lines that are longer than standards allow travel as they are, whoever is to take them.
//! From a client's socket to a gateway's, handed over and out of the queue.

use outgate::store::gateway::PointerScope;
use sqlx::PgPool;

use crate::support::{Gateway, Installation, SmtpClient, gateway::Received, world::World};

/// A line of 2,000 bytes, one of 10 MiB, and dots where they can go wrong.
fn content() -> String {
    let (long, huge) = ("x".repeat(2_000), "0123456789abcdef".repeat(10 * 1024 * 1024 / 16));
    format!("Subject: long lines\r\n\r\n.{long}\r\n{huge}\r\n.\r\n{long}.\r\nend\r\n")
}

fn arrived_as_sent(received: &Received, content: &str) {
    let arrived = &received.content;
    let sent = arrived.len().checked_sub(content.len()).map(|start| &arrived[start..]);
    assert!(sent == Some(content.as_bytes()), "{} bytes arrived of {}", arrived.len(), content.len());
    let trace = String::from_utf8_lossy(&arrived[..arrived.len() - content.len()]);
    assert!(trace.starts_with("Received: from client.example ") && trace.lines().count() == 3, "{trace}");
}

#[sqlx::test]
async fn a_line_of_two_thousand_bytes_and_one_of_ten_mebibytes_arrive_as_they_were_sent(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    for handover in [true, false] {
        let relay = installation.relay_pool().await;
        let world = World::with_settings(&installation, relay, |settings| settings.handover = handover).await;
        let (content, before) = (content(), gateway.so_far().len());
        let stuffed = content.strip_suffix("\r\n").unwrap().replace("\r\n.", "\r\n..");
        let mut smtp = SmtpClient::greeted(world.submission).await;
        let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", &stuffed).await;
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        arrived_as_sent(gateway.received(before + 1).await.last().unwrap(), &content);
        world.stop().await;
    }
}
