//! What is written down of every message, and found again: handed over, queued, refused, also while the store is away.
//! What pages make of it is `web::message_trace`'s.

use std::path::PathBuf;

use outgate::{
    mail::{
        id::{GatewayId, OrganizationId, QueueId, RelayId},
        short_id::ShortId,
    },
    policy::routing::Scope,
    relay::{
        submission::Refused,
        trace::{
            MOST_JOURNAL, Trace, Writer,
            upkeep::{Kept, forget},
        },
    },
    store::{
        self, OrganizationTransaction,
        message_trace::{
            ByGateway, Event, Fate, Found, Gap, Position, Sought, Step, Story, Told,
            upkeep::put_together_across_tenants,
        },
    },
};
use sqlx::PgPool;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::support::{
    Gateway, Installation, Sending,
    gateway::At,
    sending::{Options, Pointers},
    store_door::StoreDoor,
};
use crate::web::message_trace::{handed_over, write_down};

/// What pages find, and relays write.
struct Books {
    web: PgPool,
    organization: OrganizationId,
    folder: TempDir,
}

impl Books {
    async fn of(sending: &Sending) -> Self {
        let web = Installation::on(sending.owner.clone()).pool_as("outgate_web").await;
        Self { web, organization: sending.organization, folder: tempfile::tempdir().unwrap() }
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// Has the relay write down what it has gathered, and look for a journal first.
    async fn write_down(&self, sending: &Sending) {
        Writer::new(&sending.queue.trace(), &sending.db, self.journal(), MOST_JOURNAL).step().await;
    }

    async fn look(&self) -> OrganizationTransaction {
        OrganizationTransaction::begin(&self.web, self.organization).await.unwrap()
    }

    async fn search(&self, sought: &Sought) -> Found {
        store::message_trace::search(&mut *self.look().await, self.organization, sought, 50).await.unwrap()
    }

    /// Step, sender and recipients of what is found.
    async fn found(&self, sought: &Sought) -> Vec<String> {
        self.search(sought).await.events.iter().map(in_short).collect()
    }

    async fn story(&self, message: QueueId) -> Story {
        store::message_trace::story(&mut *self.look().await, self.organization, message).await.unwrap()
    }

    async fn gaps(&self) -> Vec<i64> {
        let always = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::now_utc() + Duration::DAY);
        let gaps = store::message_trace::gaps(&mut *self.look().await, self.organization, always).await.unwrap();
        gaps.into_iter().map(|(_, _, lines)| lines).collect()
    }
}

fn in_short(event: &Event<'_>) -> String {
    let recipients: Vec<&str> = event.recipients.iter().map(Told::address).collect();
    format!("{} {} {}", event.step.as_str(), event.sender, recipients.join(" "))
}

fn by_sender(sender: &str) -> Sought {
    Sought { sender: Some(sender.to_owned()), ..Sought::default() }
}

fn by_gateway(gateway: GatewayId) -> Sought {
    Sought { gateway: Some(ByGateway::OneOf(vec![gateway])), ..Sought::default() }
}

fn by_recipient(recipient: &str) -> Sought {
    Sought { recipient: Some(recipient.to_owned()), ..Sought::default() }
}

#[sqlx::test]
async fn a_message_that_was_handed_over_is_found_by_sender_recipient_and_time(db: PgPool) {
    let gateway = Gateway::start().await;
    gateway.offers_tls();
    let sending = Sending::on(db).await;
    let id = sending.set_gateway(Some(&gateway.address.to_string()));
    let books = Books::of(&sending).await;
    let before = OffsetDateTime::now_utc();
    let message = sending.message(&["bob@elsewhere.example", "Bea@Elsewhere.example"]);
    let queue_id = message.id;
    sending.transfer.accept(message).await;
    let after = OffsetDateTime::now_utc();

    assert_eq!(books.found(&Sought::default()).await, [""; 0], "before it is written down");
    books.write_down(&sending).await;

    let expected = ["handed over ann@acme.example bob@elsewhere.example Bea@Elsewhere.example"];
    for sought in [
        Sought::default(),
        by_sender("ann@acme.example"),
        by_sender("@acme.example"),
        by_recipient("bob@elsewhere.example"),
        by_recipient("bea@elsewhere.example"),
        by_recipient("@elsewhere.example"),
        Sought { step: Some(Step::HandedOver), ..by_sender("ann@acme.example") },
        Sought { from: Some(before), to: Some(after), ..Sought::default() },
    ] {
        assert_eq!(books.found(&sought).await, expected, "{sought:?}");
    }
    for sought in [
        by_sender("anne@acme.example"),
        by_sender("bob@elsewhere.example"),
        by_recipient("ann@acme.example"),
        by_recipient("@where.example"),
        Sought { step: Some(Step::Queued), ..Sought::default() },
        Sought { to: Some(before), ..Sought::default() },
        Sought { from: Some(after), ..Sought::default() },
    ] {
        assert_eq!(books.found(&sought).await, [""; 0], "{sought:?}");
    }

    let story = books.story(queue_id).await;
    let [event] = &story.events[..] else { panic!("{story:?}") };
    assert_eq!((event.scope, event.gateway, event.revision), (Some(Scope::Organization), id, Some(1)));
    assert_eq!(event.address.as_deref(), Some(gateway.address.to_string().as_str()));
    assert_eq!((event.server, event.tls.as_deref()), (Some(gateway.address), Some("TLS 1.3")));
    assert_eq!((&*event.reply, event.client), ("250 2.0.0 kept as 4711", Some("127.0.0.1".parse().unwrap())));
    let short: ShortId = ShortId::of(queue_id).to_string().to_uppercase().parse().unwrap();
    let by_short = store::message_trace::by_short_id(&mut *books.look().await, books.organization, short).await;
    assert_eq!(by_short.unwrap(), Some(queue_id));
}

#[sqlx::test]
async fn a_queued_message_has_its_attempts_and_its_end(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let books = Books::of(&sending).await;
    gateway.says(At::Dot, "451 4.3.0 later");
    let message = sending.message(&["bob@elsewhere.example", "bea@elsewhere.example"]);
    let queue_id = message.id;
    sending.transfer.accept(message).await;
    books.write_down(&sending).await;
    let fates =
        async || store::message_trace::fates(&mut *books.look().await, books.organization, &[queue_id]).await.unwrap();
    assert_eq!(fates().await.get(&queue_id), Some(&Fate::Waits));

    sending.step_after(2).await;
    books.write_down(&sending).await;
    gateway.works_again();
    gateway.answers_recipient("bea@elsewhere.example", "550 5.1.1 who?");
    sending.step_after(10).await;
    books.write_down(&sending).await;

    let story = books.story(queue_id).await;
    let steps: Vec<String> = story.events.iter().map(in_short).collect();
    let both = "bob@elsewhere.example bea@elsewhere.example";
    assert_eq!(
        steps,
        [
            format!("queued ann@acme.example {both}"),
            format!("attempt ann@acme.example {both}"),
            "delivered ann@acme.example bob@elsewhere.example".to_owned(),
            "returned ann@acme.example bea@elsewhere.example".to_owned(),
        ]
    );
    let said = format!("gateway {} said: 451 4.3.0 later", gateway.address);
    for event in &story.events[..2] {
        assert_eq!((&*event.reply, event.server, event.tls.as_deref()), (&*said, Some(gateway.address), None));
    }
    assert_eq!(story.events[1].attempts, Some(2));
    assert!(story.events[1].next_attempt.is_some());
    let of_bea = &story.events[3];
    let own = of_bea.recipients[0].own_reply().unwrap_or(&of_bea.reply);
    assert_eq!(own, format!("gateway {} said: 550 5.1.1 who?", gateway.address));
    assert_eq!(fates().await.get(&queue_id), Some(&Fate::Ended(Step::Returned)));
    let returned = Sought { step: Some(Step::Returned), ..by_recipient("bea@elsewhere.example") };
    assert_eq!(books.found(&returned).await, ["returned ann@acme.example bea@elsewhere.example"]);
    assert_eq!(books.found(&by_recipient("bea@elsewhere.example")).await, [steps[0].clone()], "once a message");
}

#[sqlx::test]
async fn mail_of_a_user_is_found_by_the_users_address_and_by_the_one_that_was_given(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let id = sending.add_gateway(gateway.address);
    sending.point(Pointers { all: Some(id), ..Pointers::default() });
    let books = Books::of(&sending).await;
    for fault in [None, Some("451 4.3.0 later"), Some("550 5.7.1 no")] {
        gateway.works_again();
        fault.into_iter().for_each(|line| gateway.says(At::Dot, line));
        let mut message = sending.message(&["bob@elsewhere.example"]);
        message.sender = "Ann+news@acme.example".to_owned();
        message.envelope.reverse_path = message.sender.clone();
        sending.transfer.accept(message).await;
    }
    books.write_down(&sending).await;
    for sender in ["ann@acme.example", "ann+news@acme.example"] {
        let found = books.search(&by_sender(sender)).await.events;
        assert_eq!(found.len(), 3, "{sender}: {found:?}");
        for event in found {
            assert_eq!((&*event.sender, event.account), ("ann@acme.example", Some(sending.account)));
        }
    }
}

#[sqlx::test]
async fn a_refused_message_says_who_refused_it(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    let id = sending.set_gateway(Some(&gateway.address.to_string()));
    let books = Books::of(&sending).await;
    let mut refused = Vec::new();
    for (at, line) in [(At::Dot, "550 5.7.1 no such content"), (At::Rcpt, "550 5.1.1 who?")] {
        gateway.says(at, line);
        let message = sending.message(&["bob@elsewhere.example"]);
        refused.push(message.id);
        sending.transfer.accept(message).await;
    }
    books.write_down(&sending).await;

    for (queue_id, said) in refused.into_iter().zip(["550 5.7.1", "550 5.1.1"]) {
        let story = books.story(queue_id).await;
        let [event] = &story.events[..] else { panic!("{story:?}") };
        assert_eq!((event.step, event.gateway, event.revision), (Step::Refused, id, Some(1)));
        assert_eq!((event.scope, event.server), (Some(Scope::Organization), Some(gateway.address)));
        assert!(event.reply.starts_with(said), "{}", event.reply);
    }
}

#[sqlx::test]
async fn a_message_that_was_refused_at_mail_is_found_too(db: PgPool) {
    let sending = Sending::on(db).await;
    let books = Books::of(&sending).await;
    let refused = Refused {
        organization: books.organization,
        id: QueueId::new(),
        account: None,
        reverse_path: "carl@acme.example".to_owned(),
        recipients: Vec::new(),
        size: 0,
        client: "192.0.2.9".parse().unwrap(),
        reply: "550 5.7.1 The mail account is suspended".to_owned(),
    };
    sending.transfer.refused(&refused);
    books.write_down(&sending).await;
    assert_eq!(books.found(&by_sender("carl@acme.example")).await, ["refused carl@acme.example "]);
    let story = books.story(refused.id).await;
    let event = &story.events[0];
    assert_eq!((&*event.reply, event.client, event.size), (&*refused.reply, Some(refused.client), None));
}

#[sqlx::test]
async fn what_happens_while_the_store_is_away_is_kept_and_caught_up(owner: PgPool) {
    let mut door = StoreDoor::before(&owner);
    let sending = Sending::on_pool(owner, door.pool_as(store::roles::RELAY), Options::default()).await;
    let gateway = Gateway::start().await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let books = Books::of(&sending).await;
    let trace = sending.queue.trace();
    let mut writer = Writer::new(&trace, &sending.db, books.journal(), MOST_JOURNAL);
    let send = async |to: &str| sending.transfer.accept(sending.message(&[to])).await;

    door.shut().await;
    send("first@elsewhere.example").await;
    writer.step().await;
    send("second@elsewhere.example").await;
    writer.step().await;
    assert!(books.journal().exists());
    drop(writer);
    // Another run of the same relay, as after a kill: the first lines are in the journal only.
    let mut writer = Writer::new(&trace, &sending.db, books.journal(), MOST_JOURNAL);
    writer.step().await;
    assert_eq!(books.found(&Sought::default()).await, [""; 0]);

    door.open();
    send("third@elsewhere.example").await;
    writer.step().await;
    let line = |to: &str| format!("handed over ann@acme.example {to}@elsewhere.example");
    assert_eq!(books.found(&Sought::default()).await, ["third", "second", "first"].map(line));
    assert!(!books.journal().exists());
    assert_eq!(books.gaps().await, [0; 0]);

    // Once more, as if the answer had been lost.
    writer.step().await;
    assert_eq!(books.found(&Sought::default()).await.len(), 3);
}

#[sqlx::test]
async fn lines_that_there_was_no_room_for_are_a_gap_with_their_number(owner: PgPool) {
    let mut door = StoreDoor::before(&owner);
    let sending = Sending::on_pool(owner, door.pool_as(store::roles::RELAY), Options::default()).await;
    let books = Books::of(&sending).await;
    let event = || Event::new(Step::HandedOver, QueueId::new(), OffsetDateTime::now_utc());

    // The journal has no room for a second chunk.
    let trace = Trace::new(RelayId::new());
    let mut writer = Writer::new(&trace, &sending.db, books.journal(), 600);
    door.shut().await;
    for lines in [1, 2, 3] {
        (0..lines).for_each(|_| trace.add(books.organization, &event()));
        writer.step().await;
    }
    door.open();
    writer.step().await;
    assert_eq!((books.found(&Sought::default()).await.len(), books.gaps().await), (1, vec![5]));

    // Neither has the memory.
    let trace = Trace::bounded(RelayId::new(), 1);
    let mut writer = Writer::new(&trace, &sending.db, books.journal(), 600);
    (0..3).for_each(|_| trace.add(books.organization, &event()));
    writer.step().await;
    assert_eq!(books.found(&Sought::default()).await.len(), 2);
    let mut gaps = books.gaps().await;
    gaps.sort_unstable();
    assert_eq!(gaps, [2, 5]);
}

#[sqlx::test]
async fn a_journal_that_a_kill_left_half_written_is_read_as_far_as_it_goes(owner: PgPool) {
    let mut door = StoreDoor::before(&owner);
    let sending = Sending::on_pool(owner, door.pool_as(store::roles::RELAY), Options::default()).await;
    let books = Books::of(&sending).await;
    let trace = sending.queue.trace();
    let mut writer = Writer::new(&trace, &sending.db, books.journal(), MOST_JOURNAL);
    door.shut().await;
    for _ in 0..2 {
        trace.add(books.organization, &Event::new(Step::HandedOver, QueueId::new(), OffsetDateTime::now_utc()));
        writer.step().await;
    }
    let file = std::fs::OpenOptions::new().write(true).open(books.journal()).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    // The next run finds the store away, too: what it adds stands behind what is whole.
    let mut writer = Writer::new(&trace, &sending.db, books.journal(), MOST_JOURNAL);
    trace.add(books.organization, &Event::new(Step::HandedOver, QueueId::new(), OffsetDateTime::now_utc()));
    writer.step().await;
    door.open();
    writer.step().await;
    assert_eq!(books.found(&Sought::default()).await.len(), 2);
    assert!(!books.journal().exists());
    assert_eq!(books.gaps().await, [1], "what was half written is missing, and said to be");
}

#[sqlx::test]
async fn another_organization_sees_nothing_of_it(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let books = Books::of(&sending).await;
    let other = Installation::on(sending.owner.clone()).organization("other").await.id;
    let message = sending.message(&["bob@elsewhere.example"]);
    let queue_id = message.id;
    sending.transfer.accept(message).await;
    books.write_down(&sending).await;

    let theirs = Books { organization: other, ..Books::of(&sending).await };
    assert_eq!(theirs.found(&Sought::default()).await, [""; 0]);
    assert_eq!(theirs.found(&by_sender("ann@acme.example")).await, [""; 0]);
    assert_eq!(theirs.story(queue_id).await, Story::default());
    let short = ShortId::of(queue_id);
    let mut transaction = theirs.look().await;
    assert_eq!(store::message_trace::by_short_id(&mut transaction, other, short).await.unwrap(), None);
    // Behind the condition stands row level security.
    assert_eq!(store::message_trace::by_short_id(&mut transaction, books.organization, short).await.unwrap(), None);
}

#[sqlx::test]
async fn pages_of_a_search_follow_each_other_without_a_gap_or_a_repetition(db: PgPool) {
    let sending = Sending::on(db).await;
    let books = Books::of(&sending).await;
    let mut expected = Vec::new();
    // Two relays whose chunks overlap, and a time that many messages share.
    let relays = [Trace::new(RelayId::new()), Trace::new(RelayId::new())];
    let shared = OffsetDateTime::now_utc();
    for round in 0..30 {
        for relay in &relays {
            for _ in 0..3 {
                let at = if round % 3 == 0 { shared } else { OffsetDateTime::now_utc() };
                let message = QueueId::new();
                relay.add(books.organization, &Event::new(Step::HandedOver, message, at));
                expected.push((at.unix_timestamp_nanos() / 1000, message));
            }
        }
        if round % 2 == 0 {
            Writer::new(&relays[round / 2 % 2], &sending.db, books.journal(), MOST_JOURNAL).step().await;
        }
    }
    for relay in &relays {
        Writer::new(relay, &sending.db, books.journal(), MOST_JOURNAL).step().await;
    }
    expected.sort_unstable();
    expected.reverse();

    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let sought = Sought { before, ..Sought::default() };
        let mut transaction = books.look().await;
        let page = store::message_trace::search(&mut transaction, books.organization, &sought, 7).await.unwrap();
        assert!(page.events.len() <= 7 && !page.was_cut_short);
        found.extend(page.events.iter().map(|event| (event.at.unix_timestamp_nanos() / 1000, event.message)));
        before = page.next;
        if before.is_none() {
            break;
        }
        assert_eq!(before, page.events.last().map(|event| Position { at: event.at, message: event.message }));
    }
    assert_eq!(found, expected);
}

/// How many chunks there are.
async fn chunks(sending: &Sending) -> i64 {
    sqlx::query_scalar("select count(*) from message_trace").fetch_one(&sending.owner).await.unwrap()
}

#[sqlx::test]
async fn small_chunks_are_put_together_and_everything_is_found_as_before(db: PgPool) {
    let sending = Sending::on(db).await;
    let books = Books::of(&sending).await;
    let installation = Installation::on(sending.owner.clone());
    let other = installation.organization("other").await.id;
    let now = OffsetDateTime::from_unix_timestamp(1_795_001_400).unwrap();
    let gateway = sending.set_gateway(Some("dlp.example.com")).unwrap();
    // Of an hour that is over, of the one before, of this one, and of this minute.
    for (minutes, lines) in [(70, 12), (130, 1), (10, 3), (0, 2)] {
        for organization in [books.organization, other] {
            for line in 0..lines {
                let at = now - Duration::minutes(minutes) - Duration::seconds(line);
                let line = handed_over(at, "ann@acme.example", &["bob@elsewhere.example"], gateway);
                write_down(&installation, organization, &[line]).await;
            }
        }
    }
    let (all, by_ann) = (Sought::default(), by_sender("ann@acme.example"));
    let before = (books.search(&all).await, books.search(&by_ann).await);
    assert_eq!((before.0.events.len(), chunks(&sending).await), (18, 36));

    let fewer = put_together_across_tenants(&sending.db, now).await.unwrap();

    assert_eq!((fewer, chunks(&sending).await), (22, 14), "what is not over is not worth it yet");
    assert_eq!((books.search(&all).await, books.search(&by_ann).await), before);
    let first = before.0.events.last().unwrap();
    assert_eq!(books.story(first.message).await.events, std::slice::from_ref(first));
    assert_eq!(put_together_across_tenants(&sending.db, now).await.unwrap(), 0);

    let later = now + Duration::hours(2);
    put_together_across_tenants(&sending.db, later).await.unwrap();
    assert_eq!((books.search(&all).await, books.search(&by_ann).await), before);
    assert!(chunks(&sending).await <= 8, "{}", chunks(&sending).await);
}

#[sqlx::test]
async fn details_are_left_out_first_and_the_rest_is_forgotten_in_the_end(db: PgPool) {
    let sending = Sending::on(db).await;
    let books = Books::of(&sending).await;
    let installation = Installation::on(sending.owner.clone());
    let (now, gateway) = (OffsetDateTime::now_utc(), sending.set_gateway(Some("dlp.example.com")).unwrap());
    let mut messages = Vec::new();
    for days in [401, 399, 91, 89] {
        let at = now - Duration::days(days);
        let line = handed_over(at, "ann@acme.example", &["bob@elsewhere.example"], gateway);
        messages.push(line.message);
        write_down(&installation, books.organization, &[line]).await;
        let (organization, id) = (books.organization, uuid::Uuid::now_v7());
        let gap = Gap { organization, id, relay: RelayId::new(), first_at: at, last_at: at, lines: days };
        store::message_trace::insert_gaps_across_tenants(&sending.db, &[gap]).await.unwrap();
    }

    for _ in 0..2 {
        forget(&sending.db, Kept::default(), now).await.unwrap();
    }

    assert_eq!(books.found(&by_recipient("bob@elsewhere.example")).await.len(), 1);
    let found = books.search(&by_sender("ann@acme.example")).await.events;
    assert_eq!(found.iter().map(|event| event.message).collect::<Vec<_>>(), [messages[3], messages[2], messages[1]]);
    for (event, has_details) in found.iter().zip([true, false, false]) {
        let details = (!event.recipients.is_empty(), event.size.is_some(), event.client.is_some());
        assert_eq!(details, (has_details, has_details, has_details));
        assert_eq!((event.gateway, event.revision, event.tls.as_deref()), (Some(gateway), Some(3), Some("TLS 1.3")));
        assert!(event.reply.starts_with("250 ") && event.server.is_some());
    }
    assert_eq!(books.gaps().await, [89, 91, 399]);
}

/// `bin/test many_messages -- --ignored --nocapture`; `OUTGATE_TEST_MESSAGES` says how many.
#[sqlx::test]
#[ignore = "prints how long a search among many messages takes"]
async fn a_search_among_many_messages(db: PgPool) {
    let count: u64 = std::env::var("OUTGATE_TEST_MESSAGES").map_or(1_000_000, |count| count.parse().unwrap());
    let sending = Sending::on(db).await;
    let books = Books::of(&sending).await;
    let gateway = sending.set_gateway(Some("dlp.example.com")).unwrap();
    let trace = Trace::bounded(RelayId::new(), usize::MAX);
    let mut writer = Writer::new(&trace, &sending.db, books.journal(), MOST_JOURNAL);
    let mut adding = std::time::Duration::ZERO;
    for message in 0..count {
        // Ten thousand senders, each with recipients of its own.
        let (sender, recipient) = (message % 9_973, message % 1_299_709);
        let (sender, to) = (format!("user{sender}@acme.example"), format!("someone{recipient}@domain{sender}.example"));
        let event = handed_over(OffsetDateTime::now_utc(), &sender, &[&to], gateway);
        let begun = std::time::Instant::now();
        trace.add(books.organization, &event);
        adding += begun.elapsed();
        if message % 20_000 == 19_999 {
            writer.step().await;
        }
    }
    writer.step().await;
    sqlx::query("vacuum analyze message_trace").execute(&sending.owner).await.unwrap();
    let size: i64 =
        sqlx::query_scalar("select pg_total_relation_size('message_trace')").fetch_one(&sending.owner).await.unwrap();
    println!("{count} messages: {:?} each, {} bytes each", adding / count as u32, size as u64 / count);
    for (what, sought) in [
        ("the newest", Sought::default()),
        ("a sender", by_sender("user4711@acme.example")),
        ("a sender of nothing", by_sender("nobody@acme.example")),
        ("a recipient", by_recipient("someone1@domain1.example")),
        ("refused ones of a sender", Sought { step: Some(Step::Refused), ..by_sender("user4711@acme.example") }),
        ("a domain", by_recipient("@domain4711.example")),
        ("a gateway", by_gateway(gateway)),
        ("a gateway of nothing", by_gateway(GatewayId::new())),
        (
            "a sender by a gateway",
            Sought { gateway: by_gateway(gateway).gateway, ..by_sender("user4711@acme.example") },
        ),
        ("without a gateway", Sought { gateway: Some(ByGateway::Without), ..Sought::default() }),
        ("a scope that decided about none", Sought { scope: Some(Scope::User), ..Sought::default() }),
    ] {
        let begun = std::time::Instant::now();
        let found = books.search(&sought).await;
        println!("{what}: {} in {:?}, cut short: {}", found.events.len(), begun.elapsed(), found.was_cut_short);
    }
}

#[sqlx::test]
async fn a_message_that_came_back_is_joined_to_its_first_pass(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    let books = Books::of(&sending).await;
    let (first, mut second) =
        (sending.message(&["bob@elsewhere.example"]), sending.message(&["bob@elsewhere.example"]));
    let (first_id, second_id) = (first.id, second.id);
    second.client.first_pass = Some(first_id.to_string());
    sending.transfer.accept(first).await;
    sending.transfer.accept(second).await;
    books.write_down(&sending).await;

    assert_eq!(books.story(first_id).await.events[0].first_pass, None);
    assert_eq!(books.story(second_id).await.events[0].first_pass, Some(first_id));
}
