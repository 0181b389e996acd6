//! Mail to distribution lists: who may send to one, whom it goes to, and what stays as it was sent. From the store to
//! the wire.

use outgate::{
    mail::{Mailbox, id::QueueId},
    policy::distribution_list::{Approval, MaySend},
    store::{
        self, OrganizationTransaction,
        distribution_list::{Edited, Terms},
        gateway::PointerScope,
        outbound_queue::Wish,
    },
};
use sqlx::PgPool;

use crate::support::{
    Gateway, Installation, SmtpClient, Tenant,
    world::{World, until_live},
};

struct Scene {
    installation: Installation,
    acme: Tenant,
    gateway: Gateway,
}

/// The organization acme with a gateway; its lists come before the relay starts.
async fn scene(owner: PgPool) -> Scene {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &["ann.lee@acme.example"]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    let gateway = Gateway::start().await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    Scene { installation, acme, gateway }
}

fn addresses(all: &[&str]) -> Vec<Mailbox> {
    all.iter().map(|address| address.parse().unwrap()).collect()
}

/// A list that everybody inside may send to.
fn of(members: &[&str]) -> Terms {
    Terms { name: "a list".to_owned(), expands: true, members: addresses(members), ..Terms::default() }
}

/// What RCPT answers.
async fn asked(world: &World, sender: &str, recipient: &str) -> String {
    let mut client = SmtpClient::greeted(world.submission).await;
    assert!(client.say(&format!("MAIL FROM:<{sender}>")).await.starts_with("250 "));
    client.say(&format!("RCPT TO:<{recipient}>")).await
}

async fn send(world: &World, sender: &str, recipients: &[&str]) -> String {
    let mut client = SmtpClient::greeted(world.submission).await;
    assert!(client.say(&format!("MAIL FROM:<{sender}>")).await.starts_with("250 "));
    for recipient in recipients {
        let reply = client.say(&format!("RCPT TO:{recipient}")).await;
        assert!(reply.starts_with("250 "), "{recipient}: {reply}");
    }
    assert!(client.say("DATA").await.starts_with("354 "));
    client.send(b"From: ann@acme.example\r\nTo: all@acme.example\r\n\r\nHello.").await;
    client.say("\r\n.").await
}

#[sqlx::test]
async fn a_message_to_a_list_goes_to_each_member_once_and_is_not_touched(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    gateway.offers("DSN");
    let team = ["bob@acme.example", "all@acme.example", "ann@acme.example", "eve@far.example"];
    installation.list(&acme, "team@acme.example", of(&team)).await;
    let all = ["ann@acme.example", "team@acme.example", "zoe@far.example", "dan@far.example"];
    installation.list(&acme, "all@acme.example", of(&all)).await;
    let world = World::start(&installation).await;

    let named = ["<Dan@far.example>", "<ALL@Acme.example> NOTIFY=FAILURE ORCPT=rfc822;all@acme.example"];
    let reply = send(&world, "ann.lee@acme.example", &named).await;

    assert!(reply.starts_with("250 "), "{reply}");
    let received = gateway.received(1).await.remove(0);
    assert_eq!(received.reverse_path, "ann.lee@acme.example");
    let expected = ["Dan@far.example", "ann@acme.example", "bob@acme.example", "eve@far.example", "zoe@far.example"];
    assert_eq!(received.recipients, expected, "whom the client named stays as named, the rest is in order");
    let wishes = "NOTIFY=FAILURE ORCPT=rfc822;all@acme.example";
    assert_eq!(
        received.wishes.iter().map(|said| said.trim()).collect::<Vec<_>>(),
        ["", wishes, wishes, wishes, wishes]
    );
    let content = String::from_utf8(received.content).unwrap();
    let (own, rest) = content.split_once("From: ").unwrap();
    assert!(own.starts_with("Received: ") && !own.contains("all@acme.example"), "{own}");
    assert_eq!(rest, "ann@acme.example\r\nTo: all@acme.example\r\n\r\nHello.\r\n");
    world.stop().await;

    // A list counts as one recipient, and its members outside as external ones.
    let counted = "select messages, recipients, external from volume_hour where kind = 'organization'";
    let counted: (i64, i64, i64) = sqlx::query_as(counted).fetch_one(&installation.owner).await.unwrap();
    assert_eq!(counted, (1, 2, 3));
}

#[sqlx::test]
async fn who_may_not_send_to_a_list_is_told_so_and_who_may(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    let named = Terms { may_send: MaySend::Named, senders: addresses(&["ann@acme.example"]), ..of(&["x@far.example"]) };
    installation.list(&acme, "named@acme.example", named.clone()).await;
    let members = Terms { may_send: MaySend::Members, ..of(&["nobody@acme.example", "bob@acme.example"]) };
    installation.list(&acme, "members@acme.example", members).await;
    let nobody = Terms { may_send: MaySend::Nobody, ..of(&["part@far.example"]) };
    installation.list(&acme, "nobody@acme.example", nobody).await;
    installation.list(&acme, "off@acme.example", Terms { disabled: true, ..of(&["x@far.example"]) }).await;
    installation.list(&acme, "empty@acme.example", of(&["empty@acme.example"])).await;
    installation.list(&acme, "outer@acme.example", of(&["named@acme.example", "nobody@acme.example"])).await;
    let world = World::start(&installation).await;
    let (ann, bob) = ("ann.lee@acme.example", "bob+x@acme.example");
    let ask = "; ask an administrator of your organization";
    for (sender, list, answer) in [
        (ann, "named@acme.example", None),
        (
            bob,
            "Named+tag@acme.example",
            Some("550 5.7.1 Only the senders named for it may send to the distribution list named@acme.example"),
        ),
        (bob, "members@acme.example", None),
        (
            ann,
            "members@acme.example",
            Some("550 5.7.1 Only its members may send to the distribution list members@acme.example"),
        ),
        (
            ann,
            "nobody@acme.example",
            Some("550 5.7.1 Nobody may send to the distribution list nobody@acme.example itself"),
        ),
        (ann, "off@acme.example", Some("550 5.2.1 The distribution list off@acme.example is disabled")),
        (ann, "empty@acme.example", Some("550 5.2.4 The distribution list empty@acme.example has no members")),
        (ann, "outer@acme.example", None),
        (
            bob,
            "outer@acme.example",
            Some(
                "550 5.7.1 outer@acme.example has another list in it: only the senders named for it may send to the \
                 distribution list named@acme.example",
            ),
        ),
        // An address that no account has is inside all the same.
        ("printer@acme.example", "outer@far.example", None),
    ] {
        let reply = asked(&world, sender, list).await;
        match answer {
            None => assert!(reply.starts_with("250 "), "{sender} to {list}: {reply}"),
            Some(words) => {
                let said = reply.split(" (id ").next().unwrap_or_default().trim_end();
                assert!(said.starts_with(&format!("{words}{ask}")), "{sender} to {list}: {reply}");
            }
        }
    }
    assert!(send(&world, ann, &["<outer@acme.example>"]).await.starts_with("250 "));
    assert_eq!(gateway.received(1).await[0].recipients, ["x@far.example", "part@far.example"]);

    // A report's sender is known from its header.
    let reply = send(&world, "", &["<named@acme.example>"]).await;
    assert!(
        reply.starts_with("550 5.7.1 The distribution list named@acme.example takes no mail with a null"),
        "{reply}"
    );
    assert_eq!(gateway.so_far().len(), 1);
    world.stop().await;
}

#[sqlx::test]
async fn a_list_that_is_only_checked_goes_on_under_its_own_address(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    let passed_on = Terms {
        may_send: MaySend::Named,
        senders: addresses(&["ann@acme.example"]),
        expands: false,
        ..of(&["x@far.example"])
    };
    installation.list(&acme, "raw@acme.example", passed_on).await;
    let world = World::start(&installation).await;

    assert!(asked(&world, "bob@acme.example", "raw@acme.example").await.starts_with("550 5.7.1 "));
    assert!(send(&world, "ann@acme.example", &["<Raw@acme.example>", "<Raw@acme.example>"]).await.starts_with("250 "));

    assert_eq!(gateway.received(1).await[0].recipients, ["Raw@acme.example", "Raw@acme.example"]);
    world.stop().await;
}

#[sqlx::test]
async fn a_large_list_takes_mail_of_named_senders_unless_an_administrator_said_otherwise(owner: PgPool) {
    let Scene { installation, acme, gateway: _gateway } = scene(owner).await;
    let senders = addresses(&["ann@acme.example"]);
    let of_three = Terms { senders, ..of(&["a@far.example", "b@far.example", "c@far.example"]) };
    installation.list(&acme, "large@acme.example", of_three.clone()).await;
    // By what it stands for, not by what is written down.
    installation.list(&acme, "outer@acme.example", Terms { senders: Vec::new(), ..of(&["large@acme.example"]) }).await;
    let open = Terms { large_allowed: true, ..of_three };
    let (_, made) = installation.list(&acme, "open@acme.example", open).await;
    let world = World::start(&installation).await;
    until_live(&installation, made).await;
    assert!(asked(&world, "bob@acme.example", "large@acme.example").await.starts_with("250 "));

    let transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let set = store::distribution_list::set_large(transaction, 2, 100, "operator").await.unwrap();
    let store::distribution_list::Large::Changed(committed) = set else { panic!("{set:?}") };
    until_live(&installation, committed.revision).await;

    for (sender, list, words) in [
        (
            "bob@acme.example",
            "large@acme.example",
            "550 5.7.1 The distribution list large@acme.example is large: only the senders named for it may send to it",
        ),
        ("ann@acme.example", "large@acme.example", "250 "),
        ("ann@acme.example", "outer@acme.example", "550 5.7.1 The distribution list outer@acme.example is large"),
        ("bob@acme.example", "open@acme.example", "250 "),
    ] {
        let reply = asked(&world, sender, list).await;
        assert!(reply.starts_with(words), "{sender} to {list}: {reply}");
    }
    world.stop().await;
}

#[sqlx::test]
async fn lists_of_one_message_stand_for_no_more_recipients_than_one_list_may(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    for list in ["first", "second"] {
        let members: Vec<String> = (0..1200).map(|place| format!("{list}-{place}@far.example")).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let terms = Terms { large_allowed: true, ..of(&members) };
        installation.list(&acme, &format!("{list}@acme.example"), terms).await;
    }
    let world = World::start(&installation).await;
    let mut client = SmtpClient::greeted(world.submission).await;
    assert!(client.say("MAIL FROM:<ann@acme.example>").await.starts_with("250 "));
    assert!(client.say("RCPT TO:<first@acme.example>").await.starts_with("250 "));
    let reply = client.say("RCPT TO:<second@acme.example>").await;
    assert!(reply.starts_with("452 4.5.3 "), "for now, so that it is sent once more for that one: {reply}");
    assert!(client.say("RCPT TO:<bob@far.example>").await.starts_with("250 "), "for one there is room");
    assert!(client.say("DATA").await.starts_with("354 "));
    client.send(b"From: ann@acme.example\r\n\r\nHello.").await;
    assert!(client.say("\r\n.").await.starts_with("250 "));
    assert_eq!(gateway.received(1).await[0].recipients.len(), 1201);
    world.stop().await;
}

#[sqlx::test]
async fn a_list_of_another_organization_is_an_address_like_any_other(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    let birch = installation.organization("birch").await;
    installation.list(&birch, "all@birch.example", Terms { disabled: true, ..of(&["secret@birch.example"]) }).await;
    // Nor does a list become part of another organization's.
    installation.list(&acme, "all@acme.example", of(&["all@birch.example"])).await;
    let world = World::start(&installation).await;

    let recipients = ["<all@birch.example>", "<all@acme.example>"];
    assert!(send(&world, "ann@acme.example", &recipients).await.starts_with("250 "));
    assert!(send(&world, "", &["<all@birch.example>"]).await.starts_with("250 "), "a report of ann's");

    let received = gateway.received(2).await;
    assert_eq!([&received[0].recipients, &received[1].recipients], [&["all@birch.example"], &["all@birch.example"]]);
    world.stop().await;
}

#[sqlx::test]
async fn a_change_of_a_list_counts_as_soon_as_it_is_live_even_between_rcpt_and_data(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    let (id, made) = installation.list(&acme, "all@acme.example", of(&["a@far.example"])).await;
    let world = World::start(&installation).await;
    until_live(&installation, made).await;
    let transaction = || async { OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap() };
    let edit = async |before: &Terms, after: &Terms| {
        let edited = store::distribution_list::edit(transaction().await, id, after, &before.seen(), "operator").await;
        let Edited::Changed(committed) = edited.unwrap() else { panic!("nothing was changed") };
        until_live(&installation, committed.revision).await;
    };
    let first = of(&["a@far.example"]);
    let second = of(&["b@far.example", "a@far.example"]);
    edit(&first, &second).await;
    assert!(send(&world, "ann@acme.example", &["<all@acme.example>"]).await.starts_with("250 "));
    assert_eq!(gateway.received(1).await[0].recipients, ["b@far.example", "a@far.example"]);

    let mut client = SmtpClient::greeted(world.submission).await;
    client.say("MAIL FROM:<ann@acme.example>").await;
    assert!(client.say("RCPT TO:<all@acme.example>").await.starts_with("250 "));
    let disabled = Terms { disabled: true, ..second.clone() };
    edit(&second, &disabled).await;
    assert!(client.say("DATA").await.starts_with("550 5.2.1 "));
    assert!(client.say("RCPT TO:<bob@far.example>").await.starts_with("503 "), "the message was given up");

    let deleted =
        store::distribution_list::delete(transaction().await, id, &disabled.seen(), "operator").await.unwrap();
    let Edited::Changed(committed) = deleted else { panic!("{deleted:?}") };
    until_live(&installation, committed.revision).await;
    assert!(send(&world, "ann@acme.example", &["<all@acme.example>"]).await.starts_with("250 "));
    assert_eq!(gateway.received(2).await[1].recipients, ["all@acme.example"]);
    world.stop().await;
}

/// Lets everything go that waits for a decision, as the page does.
async fn release(installation: &Installation, acme: &Tenant) {
    let ids: Vec<uuid::Uuid> =
        sqlx::query_scalar("select id from queued_message").fetch_all(&installation.owner).await.unwrap();
    let ids: Vec<QueueId> = ids.into_iter().map(QueueId).collect();
    let mut transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    store::outbound_queue::write_wish(&mut transaction, acme.id, &ids, Wish::Release).await.unwrap();
    transaction.commit().await.unwrap();
}

#[sqlx::test]
async fn a_message_that_needs_approval_waits_whole_and_goes_to_who_was_on_the_list_when_it_came(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    let terms = Terms { approval: Approval::Everybody, ..of(&["a@far.example", "b@far.example"]) };
    let (id, made) = installation.list(&acme, "all@acme.example", terms.clone()).await;
    let world = World::start(&installation).await;
    until_live(&installation, made).await;

    let reply = send(&world, "bob@acme.example", &["<carl@far.example>", "<all@acme.example>"]).await;

    let words = "held until an administrator approves it: a message to the distribution list all@acme.example needs \
                 approval; all its recipients wait [";
    assert!(reply.starts_with("250 2.0.0 queued as ") && reply.contains(words), "{reply}");
    // The list is changed and deleted, and the relay starts anew.
    let begin = || async { OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap() };
    let open = Terms { approval: Approval::Nobody, ..of(&["c@far.example"]) };
    let edited = store::distribution_list::edit(begin().await, id, &open, &terms.seen(), "operator").await.unwrap();
    let Edited::Changed(committed) = edited else { panic!("{edited:?}") };
    until_live(&installation, committed.revision).await;
    assert!(send(&world, "ann@acme.example", &["<all@acme.example>"]).await.starts_with("250 2.0.0 kept as"));
    let deleted = store::distribution_list::delete(begin().await, id, &open.seen(), "operator").await.unwrap();
    let Edited::Changed(committed) = deleted else { panic!("{deleted:?}") };
    until_live(&installation, committed.revision).await;
    world.stop().await;
    let world = World::start(&installation).await;
    until_live(&installation, committed.revision).await;
    let held: Vec<String> =
        sqlx::query_scalar("select held_because from queued_message").fetch_all(&installation.owner).await.unwrap();
    assert_eq!(held, ["needs-approval"]);
    assert_eq!(gateway.so_far().len(), 1, "what came while it needed none");

    release(&installation, &acme).await;
    // Somebody sends, so that the queue looks.
    until_live(&installation, installation.list(&acme, "other@acme.example", of(&["x@far.example"])).await.1).await;
    let received = gateway.received(2).await;
    assert_eq!(received[1].recipients, ["carl@far.example", "a@far.example", "b@far.example"]);
    world.stop().await;
}

#[sqlx::test]
async fn who_is_named_for_a_list_and_reports_need_no_approval_and_a_list_in_it_may(owner: PgPool) {
    let Scene { installation, acme, gateway } = scene(owner).await;
    let senders = addresses(&["ann@acme.example"]);
    let inner = Terms { approval: Approval::Others, senders: senders.clone(), ..of(&["a@far.example"]) };
    installation.list(&acme, "inner@acme.example", inner).await;
    installation.list(&acme, "outer@acme.example", of(&["inner@acme.example", "b@far.example"])).await;
    let checked = Terms { approval: Approval::Others, senders, expands: false, ..of(&["a@far.example"]) };
    let (_, made) = installation.list(&acme, "raw@acme.example", checked).await;
    let world = World::start(&installation).await;
    until_live(&installation, made).await;
    for list in ["inner", "outer", "raw"] {
        let reply = send(&world, "ann.lee@acme.example", &[&format!("<{list}@acme.example>")]).await;
        assert!(reply.starts_with("250 2.0.0 kept as"), "{list}: {reply}");
    }
    let sent = gateway.received(3).await;
    assert_eq!(sent[2].recipients, ["raw@acme.example"]);
    for (list, named) in [("inner", "inner"), ("outer", "inner"), ("raw", "raw"), ("Raw+tag", "raw")] {
        let reply = send(&world, "bob@acme.example", &[&format!("<{list}@acme.example>")]).await;
        let words = format!("a message to the distribution list {named}@acme.example needs approval [");
        assert!(reply.contains(&words), "{list}: {reply}");
    }
    let both = ["<inner@acme.example>", "<raw@acme.example>"];
    let reply = send(&world, "bob@acme.example", &both).await;
    assert!(reply.contains("inner@acme.example and another one needs approval; all its recipients wait ["), "{reply}");
    assert!(send(&world, "", &["<inner@acme.example>"]).await.starts_with("550 5.7.1 "), "a report is refused as ever");
    let held = "select count(*) from queued_message where held_because = 'needs-approval'";
    let held: i64 = sqlx::query_scalar(held).fetch_one(&installation.owner).await.unwrap();
    assert_eq!((held, gateway.so_far().len()), (5, 3));
    world.stop().await;
}
