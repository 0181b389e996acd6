//! curl as client: what the first message is sent with.
//! Named for the program, so that `bin/test` can leave them out where it is missing.

use std::process::Stdio;

use outgate::store::gateway::PointerScope;
use sqlx::PgPool;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::{Gateway, Installation, world::World};

/// Sends with curl; its exit status, and what it says.
async fn curl(world: &World, sender: &str, message: &[u8]) -> (Option<i32>, String) {
    let mut command = Command::new("curl");
    command.args(["-sS", "-v", "--max-time", "20", "--mail-from", sender, "--upload-file", "-"]);
    command.args(["--mail-rcpt", "bob@elsewhere.example", "--mail-rcpt", "carl@elsewhere.example"]);
    command.arg(format!("smtp://{}/client.example", world.submission));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("curl runs; bin/test installs it");
    let mut stdin = child.stdin.take().unwrap();
    let message = message.to_vec();
    // Read as it goes out, and not at all if the envelope is refused.
    tokio::spawn(async move { stdin.write_all(&message).await });
    let ended = child.wait_with_output().await.unwrap();
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[sqlx::test]
async fn large_messages_arrive_as_they_were_sent(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let world = World::start(&installation).await;
    let header = "From: ann@acme.example\r\nSubject: by curl\r\n\r\n";
    let plain: String = (0..10_000).map(|line| format!("line. {line}\r\n\r\n")).collect();
    let dots = |lines| (0..lines).map(|line| format!(".{line}\r\n..\r\n\r\nline {line}\r\n")).collect::<String>();
    // One that is kept on disk, some in memory: with dots everywhere, in one line near the end, and without any.
    let one_dot = format!("{plain}.\r\n.one\r\n{}", "x\r\n".repeat(20_000));
    for (number, body) in [dots(100_000), dots(10_000), one_dot, plain].iter().enumerate() {
        let message = format!("{header}{body}").into_bytes();

        let (status, said) = curl(&world, "ann@acme.example", &message).await;

        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("< 250 2.0.0 kept as 4711"), "the gateway's own words: {said}");
        let received = gateway.received(number + 1).await.remove(number);
        assert_eq!(received.recipients, ["bob@elsewhere.example", "carl@elsewhere.example"]);
        assert!(received.content.ends_with(&message), "{} bytes of {}", received.content.len(), message.len());
        let trace = String::from_utf8_lossy(&received.content[..received.content.len() - message.len()]).into_owned();
        let is_ours = trace.starts_with("Received: from client.example ") && trace.matches("Received:").count() == 1;
        assert!(is_ours, "{trace}");
    }
    world.stop().await;
}

#[sqlx::test]
async fn a_message_of_a_stranger_is_refused_in_words_that_curl_shows(owner: PgPool) {
    let installation = Installation::on(owner);
    let world = World::start(&installation).await;

    let (status, said) = curl(&world, "eve@elsewhere.example", b"Subject: x\r\n\r\nx\r\n").await;

    assert_ne!(status, Some(0), "{said}");
    assert!(said.contains("< 550 5.7.1 "), "{said}");
    assert!(world.default.is_empty().await);
    world.stop().await;
}
