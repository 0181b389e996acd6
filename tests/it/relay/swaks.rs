//! swaks as client: what administrators of mail servers try a relay with.
//! Named for the program, so that `bin/test` can leave them out where it is missing.

use std::process::Stdio;

use outgate::store::gateway::PointerScope;
use sqlx::PgPool;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::{Gateway, Installation, world::World};

/// Runs swaks with PIPELINING; whether it was content, and the whole dialog as it shows it.
async fn swaks(world: &World, sender: &str, recipients: &str, message: &str) -> (bool, String) {
    let mut command = Command::new("swaks");
    command.args(["--server", &world.submission.ip().to_string(), "--port", &world.submission.port().to_string()]);
    command.args(["--pipeline", "--ehlo", "client.example", "--from", sender, "--to", recipients, "--data", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("swaks runs; bin/test installs it");
    child.stdin.take().unwrap().write_all(message.as_bytes()).await.unwrap();
    let ended = child.wait_with_output().await.unwrap();
    let dialog = [ended.stdout, ended.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (ended.status.success(), dialog)
}

#[sqlx::test]
async fn a_pipelined_message_arrives_as_it_was_sent(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let world = World::start(&installation).await;
    // swaks adds the last line end.
    let message = "From: ann@acme.example\nSubject: by swaks\n\n.a dot\n..two\n.\n\nthe end";

    let (content, dialog) =
        swaks(&world, "ann@acme.example", "bob@elsewhere.example,carl@elsewhere.example", message).await;

    assert!(content && dialog.contains("<-  250-PIPELINING"), "{dialog}");
    assert!(dialog.contains("<-  250 2.0.0 kept as 4711"), "the gateway's own words: {dialog}");
    let received = gateway.received(1).await.remove(0);
    assert_eq!(received.recipients, ["bob@elsewhere.example", "carl@elsewhere.example"]);
    let arrived = String::from_utf8(received.content).unwrap();
    assert!(arrived.ends_with(&format!("{}\r\n", message.replace('\n', "\r\n"))), "{arrived}");
    world.stop().await;
}

#[sqlx::test]
async fn a_pipelined_message_of_a_stranger_is_refused_in_words_that_swaks_shows(owner: PgPool) {
    let installation = Installation::on(owner);
    let world = World::start(&installation).await;

    let (content, dialog) = swaks(&world, "eve@elsewhere.example", "bob@elsewhere.example", "Subject: x\n\nx\n").await;

    assert!(!content, "{dialog}");
    assert!(dialog.contains("<** 550 5.7.1 "), "{dialog}");
    assert!(dialog.contains("<-  221 "), "the dialog stays in step to its end: {dialog}");
    assert!(world.default.is_empty().await);
    world.stop().await;
}
