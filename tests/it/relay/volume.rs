//! How much is sent is counted: each accepted message once, for its organization, domain and account, by all relays
//! together, and nothing is lost that matters. What pages show of it is `web::outbound_volume`.

use std::net::Ipv4Addr;

use nix::sys::signal::Signal;
use outgate::{
    mail::id::{AccountId, RelayId},
    policy::{
        facts::DomainFacts,
        gateway_settings::{GatewaySettings, Returning},
        routing::PlatformDefault,
        volume::{Count, Subject},
    },
    relay::{
        message::{Client, Message},
        volume::{self, Writer},
    },
    store::{self, gateway::PointerScope, volume::Counted},
};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime, macros::datetime};
use uuid::Uuid;

use crate::support::{
    Gateway, Installation, Sending, SmtpClient,
    gateway::{At, Fault},
    outgate::RelayProcess,
    sending::{Options, Pointers},
    store_door::{Fate, StoreDoor},
};

/// A relay that has signed on.
async fn relay(owner: &PgPool) -> RelayId {
    let id = RelayId::new();
    sqlx::query(
        "insert into relay (id, name, started_at, last_seen_at, confirmed_revision) values ($1, $2, now(), now(), 0)",
    )
    .bind(id.0)
    .bind(id.to_string())
    .execute(owner)
    .await
    .unwrap();
    id
}

/// Writes what was counted, as a relay does each second.
async fn write(sending: &Sending) {
    let relay = relay(&sending.owner).await;
    Writer::of(&sending.volume, &sending.meter, &sending.db).write(relay).await.unwrap();
}

/// Kind, subject, messages, recipients and external recipients.
type Row = (String, String, i64, i64, i64);

async fn hours(owner: &PgPool) -> Vec<Row> {
    let rows = "select kind, subject, messages, recipients, external from volume_hour order by kind, subject, hour";
    sqlx::query_as(rows).fetch_all(owner).await.unwrap()
}

fn row(kind: &str, subject: impl ToString, messages: i64, recipients: i64, external: i64) -> Row {
    (kind.to_owned(), subject.to_string(), messages, recipients, external)
}

/// What is expected where all mail is of `ann@acme.example`.
fn all_of(account: AccountId, messages: i64, recipients: i64, external: i64) -> Vec<Row> {
    [("account", account.to_string()), ("domain", "acme.example".to_owned()), ("organization", String::new())]
        .map(|(kind, subject)| row(kind, subject, messages, recipients, external))
        .to_vec()
}

/// A relay whose mail of ann's goes to this gateway.
async fn through(gateway: &Gateway, sending: Sending) -> Sending {
    let all = sending.set_gateway(Some(&gateway.address.to_string()));
    sending.point(Pointers { all, ..Pointers::default() });
    sending
}

#[sqlx::test]
async fn an_accepted_message_counts_once_whether_it_is_handed_over_or_queued(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, Sending::on(owner.clone()).await).await;
    let to = ["ben@acme.example", "bob@elsewhere.example", "cy@elsewhere.example"];

    let reply = sending.transfer.accept(sending.message(&to)).await;
    assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
    write(&sending).await;
    assert_eq!(hours(&owner).await, all_of(sending.account, 1, 3, 2));

    // Nothing more comes of it when it is tried, and tried again, and sent.
    gateway.fails(At::Mail, Fault::Says("451 4.3.0 later".into()));
    let reply = sending.transfer.accept(sending.message(&to)).await;
    assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{reply}");
    sending.step_after(2).await;
    gateway.works_again();
    sending.step_after(30).await;
    assert_eq!(gateway.received(2).await.len(), 2);
    let queued_first = sending.another_with(Options { handover: false, ..sending.options.clone() });
    queued_first.transfer.accept(sending.message(&to)).await;
    queued_first.queue.settled().await;
    assert_eq!(gateway.received(3).await.len(), 3);
    write(&queued_first).await;
    write(&sending).await;
    write(&sending).await;
    assert_eq!(hours(&owner).await, all_of(sending.account, 3, 9, 6));

    // By minute the same.
    let minutes = "select kind, subject, messages, recipients, external from volume_minute order by kind, subject";
    let minutes: Vec<Row> = sqlx::query_as(minutes).fetch_all(&owner).await.unwrap();
    assert_eq!(minutes, all_of(sending.account, 3, 9, 6));
}

#[sqlx::test]
async fn what_is_refused_does_not_count(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, Sending::on(owner.clone()).await).await;
    for (at, said) in [(At::Dot, "554 5.7.1 spam"), (At::Mail, "552 5.3.4 too big"), (At::Dot, "552 5.3.4 too big")] {
        gateway.says(at, said);
        let reply = sending.send().await.to_string();
        assert!(reply.starts_with('5'), "{reply}");
        gateway.works_again();
    }
    let nobodys = Message { sender: "eve@nobody.example".to_owned(), ..sending.message(&["bob@elsewhere.example"]) };
    assert!(sending.transfer.accept(nobodys).await.to_string().starts_with('5'));
    sending.point(Pointers { suspended: true, ..Pointers::default() });
    assert!(sending.send().await.to_string().starts_with('5'));

    write(&sending).await;

    assert!(hours(&owner).await.is_empty());
}

#[sqlx::test]
async fn what_nobody_could_store_does_not_count(owner: PgPool) {
    let door = StoreDoor::before(&owner);
    let sending = Sending::on_pool(owner.clone(), door.pool_as(store::roles::RELAY), Options::default()).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    door.next_commit(Fate::Lost);
    assert!(sending.send().await.to_string().starts_with("451 "));
    write(&sending).await;
    assert!(hours(&owner).await.is_empty());
}

#[sqlx::test]
async fn neither_our_own_reports_nor_what_a_screen_hands_back_count(owner: PgPool) {
    let (screen, smarthost) = (Gateway::start().await, Gateway::start().await);
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    let sending = Sending::with(owner.clone(), Options { default, ..Options::default() }).await;
    let returning_networks = vec!["192.0.2.0/29".parse().unwrap()];
    let settings = GatewaySettings { returning: Returning::Onward, returning_networks, ..GatewaySettings::default() };
    sending.set_gateway_having(&screen.address.to_string(), settings);

    // There and back again.
    sending.send().await;
    let client = Client { address: "192.0.2.7".parse().unwrap(), is_proven: true, first_pass: None };
    let back = Message { client, ..sending.message(&["bob@elsewhere.example"]) };
    assert_eq!(sending.transfer.accept(back.clone()).await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(smarthost.received(1).await.len(), 1);
    write(&sending).await;
    assert_eq!(hours(&owner).await, all_of(sending.account, 1, 1, 1));
    // Whoever is not known to be the screen sends anew, whatever the message says.
    let client =
        Client { address: Ipv4Addr::LOCALHOST.into(), first_pass: Some("x".to_owned()), ..back.client.clone() };
    sending.transfer.accept(Message { client, ..back }).await;

    // One is refused after it was accepted, and its sender gets a report.
    screen.fails(At::Mail, Fault::Says("451 4.3.0 later".into()));
    sending.send().await;
    screen.works_again();
    screen.says(At::Dot, "554 5.7.1 no");
    sending.step_after(30).await;
    sending.step_after(31).await;
    let reports = smarthost.received(2).await;
    assert_eq!(reports[1].reverse_path, "");
    write(&sending).await;
    assert_eq!(hours(&owner).await, all_of(sending.account, 3, 3, 3));
}

#[sqlx::test]
async fn a_sender_that_no_account_has_counts_for_its_domain_and_a_neighbours_domain_is_external(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, Sending::on(owner.clone()).await).await;
    sending.add_neighbour(None).await;
    let organization = sending.organization;
    sending.table.change(|facts| {
        let own = DomainFacts { organization, gateway: None, awaits_gateway: false, inbound_host: None };
        facts.set_domain("xn--bcher-kva.example".parse().unwrap(), Some(own));
    });
    for sender in ["eve@xn--bcher-kva.example", "Eve+2@bücher.example", "ann+tag@acme.example"] {
        let to = ["olga@other.example", "ann@ACME.EXAMPLE", "x@bücher.example", "y@sub.acme.example", "z@example.net"];
        sending.transfer.accept(Message { sender: sender.to_owned(), ..sending.message(&to) }).await;
    }
    write(&sending).await;
    assert_eq!(
        hours(&owner).await,
        [
            row("account", sending.account, 1, 5, 3),
            row("domain", "acme.example", 1, 5, 3),
            row("domain", "xn--bcher-kva.example", 2, 10, 6),
            row("no-account", "xn--bcher-kva.example", 2, 10, 6),
            row("organization", "", 3, 15, 9)
        ]
    );
}

#[sqlx::test]
async fn several_relays_that_write_at_the_same_time_add_up(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let (acme, other) = (installation.organization("acme").await.id, installation.organization("other").await.id);
    let minute = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    let accounts: Vec<AccountId> = (0..20).map(|_| AccountId::new()).collect();
    let mut relays = tokio::task::JoinSet::new();
    for index in 0..4 {
        let (pool, relay) = (installation.relay_pool().await, relay(&owner).await);
        // Each has them in another order.
        let mut rows: Vec<Counted> = [acme, other]
            .into_iter()
            .flat_map(|organization| {
                let subjects = accounts.iter().map(|account| Subject::Account(*account)).chain([Subject::Organization]);
                subjects.map(move |subject| (organization, subject))
            })
            .map(|(organization, subject)| {
                let count = Count { messages: 1, recipients: 2, external: 1 };
                Counted { organization, subject, minute, count }
            })
            .collect();
        rows.rotate_left(index * 10);
        relays.spawn(async move {
            for _ in 0..25 {
                let mut connection = pool.acquire().await.unwrap();
                let added = store::volume::add_across_tenants(&mut connection, relay, Uuid::now_v7(), &rows).await;
                assert!(added.unwrap());
            }
        });
    }
    while let Some(ended) = relays.join_next().await {
        ended.unwrap();
    }
    let rows = hours(&owner).await;
    assert_eq!(rows.len(), 42);
    assert!(rows.iter().all(|row| (row.2, row.3, row.4) == (100, 200, 100)), "{rows:?}");
}

#[sqlx::test]
async fn an_account_that_sends_to_few_is_written_down_when_its_minute_is_over_and_at_once_beside_another_relay(
    owner: PgPool,
) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, Sending::on(owner.clone()).await).await;
    let start = datetime!(2026-11-30 09:00 UTC);
    let own = relay(&owner).await;
    let writer = Writer::of(&sending.volume, &sending.meter, &sending.db);
    let mut writer = writer.looking_each(std::time::Duration::ZERO).letting_wait();
    let many: Vec<String> = (0..60).map(|number| format!("reader{number}@elsewhere.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let send = async |to: &[&str], second: i64| {
        let accepted_at = start + Duration::seconds(second);
        let reply = sending.transfer.accept(Message { accepted_at, ..sending.message(to) }).await;
        assert!(reply.is_positive(), "{reply}");
    };
    let mut turn = async |second: i64| {
        writer.turn_at(own, start + Duration::seconds(second)).await.unwrap();
        let recipients = "select coalesce(sum(recipients), 0)::bigint from volume_hour where kind = $1";
        let counted = async |kind: &str| sqlx::query_scalar(recipients).bind(kind).fetch_one(&owner).await.unwrap();
        let counted: (i64, i64, i64) =
            (counted("organization").await, counted("domain").await, counted("account").await);
        counted
    };
    turn(0).await;
    turn(1).await;

    send(&["bob@elsewhere.example", "cy@elsewhere.example"], 2).await;
    assert_eq!(turn(3).await, (2, 2, 0));
    send(&many[..57], 4).await;
    assert_eq!(turn(5).await, (59, 59, 0));
    send(&["bob@elsewhere.example"], 6).await;
    assert_eq!(turn(7).await, (60, 60, 60), "who sends to many does not wait");
    send(&many[..59], 8).await;
    assert_eq!(turn(9).await, (119, 119, 60), "not as many once more");
    send(&["bob@elsewhere.example"], 10).await;
    assert_eq!(turn(11).await, (120, 120, 120), "as many once more");
    send(&["bob@elsewhere.example"], 58).await;
    assert_eq!(turn(59).await, (121, 121, 120));
    send(&["bob@elsewhere.example"], 61).await;
    assert_eq!(turn(62).await, (122, 122, 121), "of the minute that is over");
    relay(&owner).await;
    assert_eq!(turn(63).await, (122, 122, 122), "another relay has to know it now");
    send(&["bob@elsewhere.example"], 64).await;
    assert_eq!(turn(65).await, (123, 123, 123));
    let minutes = "select array_agg(recipients order by minute) from volume_minute where kind = 'account'";
    assert_eq!(sqlx::query_scalar::<_, Vec<i64>>(minutes).fetch_one(&owner).await.unwrap(), [121, 2]);
}

#[sqlx::test]
async fn what_is_counted_while_the_store_is_away_is_written_once_when_it_is_back(owner: PgPool) {
    let mut door = StoreDoor::before(&owner);
    let gateway = Gateway::start().await;
    let pool = door.pool_as(store::roles::RELAY);
    let sending = through(&gateway, Sending::on_pool(owner.clone(), pool.clone(), Options::default()).await).await;
    let relay = relay(&owner).await;
    let mut writer = Writer::of(&sending.volume, &sending.meter, &pool);

    sending.send().await;
    door.shut().await;
    assert!(writer.write(relay).await.is_err());
    sending.send().await;
    assert!(writer.write(relay).await.is_err());
    assert!(hours(&owner).await.is_empty());
    door.open();
    writer.write(relay).await.unwrap();
    assert_eq!(hours(&owner).await, all_of(sending.account, 2, 2, 2));

    // It has them, and the answer got lost.
    sending.send().await;
    door.next_commit(Fate::AnswerLost);
    assert!(writer.write(relay).await.is_err());
    sending.send().await;
    writer.write(relay).await.unwrap();
    assert_eq!(hours(&owner).await, all_of(sending.account, 4, 4, 4));
    // It never had them.
    sending.send().await;
    door.next_commit(Fate::Lost);
    assert!(writer.write(relay).await.is_err());
    writer.write(relay).await.unwrap();
    assert_eq!(hours(&owner).await, all_of(sending.account, 5, 5, 5));
}

#[sqlx::test]
async fn what_is_counted_while_the_store_is_away_outlives_a_restart_and_counts_once(owner: PgPool) {
    let mut door = StoreDoor::before(&owner);
    let gateway = Gateway::start().await;
    let pool = door.pool_as(store::roles::RELAY);
    let sending = through(&gateway, Sending::on_pool(owner.clone(), pool.clone(), Options::default()).await).await;
    let (relay, folder) = (relay(&owner).await, tempfile::tempdir().unwrap());
    let journal = folder.path().join(format!("outgate-volume-{relay}.journal"));
    let mut writer = Writer::of(&sending.volume, &sending.meter, &pool).keeping(folder.path());
    writer.turn(relay).await.unwrap();

    sending.send().await;
    // The store has it, and its answer got lost.
    door.next_commit(Fate::AnswerLost);
    assert!(writer.turn(relay).await.is_err());
    door.shut().await;
    sending.send().await;
    sending.send().await;
    writer.keep(relay);
    drop(writer);
    let kept = std::fs::read(&journal).unwrap();
    assert_eq!(hours(&owner).await, all_of(sending.account, 1, 1, 1));

    // Killed, and started anew while the store is still away.
    let after = sending.another_with(sending.options.clone());
    let mut writer = Writer::of(&after.volume, &after.meter, &pool).keeping(folder.path());
    assert!(writer.turn(relay).await.is_err());
    assert!(journal.exists());
    door.open();
    writer.turn(relay).await.unwrap();
    assert_eq!(hours(&owner).await, all_of(sending.account, 3, 3, 3));
    assert!(!journal.exists());

    // Killed before it could remove the file, and in the middle of a line.
    std::fs::write(&journal, [&kept[..], b"{\"batch\":"].concat()).unwrap();
    let mut writer = Writer::of(&after.volume, &after.meter, &pool).keeping(folder.path());
    writer.turn(relay).await.unwrap();
    assert_eq!(hours(&owner).await, all_of(sending.account, 3, 3, 3), "nothing counts twice");

    // The same run catches up by itself.
    door.shut().await;
    after.send().await;
    assert!(writer.turn(relay).await.is_err());
    assert!(journal.exists(), "it is not in memory only");
    door.open();
    writer.turn(relay).await.unwrap();
    assert_eq!(hours(&owner).await, all_of(sending.account, 4, 4, 4));
    assert!(!journal.exists());
}

#[sqlx::test]
async fn while_the_store_is_away_the_counts_of_accounts_are_given_up_first(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::with(owner.clone(), Options { volume_rows: 4, ..Options::default() }).await;
    let sending = through(&gateway, sending).await;
    let accounts: Vec<AccountId> = (0..6).map(|_| AccountId::new()).collect();
    for (index, account) in accounts.iter().enumerate() {
        let address = format!("user{index}@acme.example");
        sending.table.change(|facts| facts.set_address(&address, Some(*account)));
        sending.transfer.accept(Message { sender: address, ..sending.message(&["bob@elsewhere.example"]) }).await;
    }
    // Two more minutes, of which only one finds room.
    for minutes in [1, 2] {
        let accepted_at = sending.now + Duration::minutes(minutes);
        sending.transfer.accept(Message { accepted_at, ..sending.message(&["bob@elsewhere.example"]) }).await;
    }
    write(&sending).await;
    let total = |kind: &'static str| {
        let sum =
            sqlx::query_as("select count(*), coalesce(sum(messages), 0)::bigint from volume_minute where kind = $1");
        sum.bind(kind).fetch_one(&owner)
    };
    let (rows, messages): (i64, i64) = total("account").await.unwrap();
    assert_eq!((rows, messages), (4, 4));
    let (rows, messages): (i64, i64) = total("organization").await.unwrap();
    assert_eq!((rows, messages), (2, 7));
    let (rows, messages): (i64, i64) = total("domain").await.unwrap();
    assert_eq!((rows, messages), (2, 7));

    // Once they are written there is room again.
    sending.send().await;
    write(&sending).await;
    let (rows, messages): (i64, i64) = total("account").await.unwrap();
    assert_eq!((rows, messages), (5, 5));
}

#[sqlx::test]
async fn minutes_are_kept_for_a_day_and_hours_for_two_years(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let (acme, pool) = (installation.organization("acme").await, installation.relay_pool().await);
    let relay = relay(&owner).await;
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    let ages = [Duration::ZERO, Duration::hours(23), Duration::hours(25), Duration::days(730), Duration::days(733)];
    let mut rows = ages.map(|age| (Subject::Organization, now - age)).to_vec();
    // More than are removed at once.
    rows.extend((0..1500).map(|_| (Subject::Account(AccountId::new()), now - Duration::days(800))));
    let count = Count { messages: 1, recipients: 1, external: 0 };
    let rows: Vec<Counted> =
        rows.into_iter().map(|(subject, minute)| Counted { organization: acme.id, subject, minute, count }).collect();
    let mut connection = pool.acquire().await.unwrap();
    store::volume::add_across_tenants(&mut connection, relay, Uuid::now_v7(), &rows).await.unwrap();

    let mut rounds = 1;
    while volume::forget(&pool, now).await.unwrap() {
        rounds += 1;
    }

    assert_eq!(rounds, 2);
    let left = |table: &'static str| sqlx::query_scalar::<_, i64>(table).fetch_one(&owner);
    assert_eq!(left("select count(*) from volume_minute").await.unwrap(), 2);
    assert_eq!(left("select count(*) from volume_hour").await.unwrap(), 4);
}

#[sqlx::test]
async fn a_relay_that_is_told_to_stop_loses_no_count(owner: PgPool) {
    let gateway = Gateway::start().await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    for (name, so_far) in [("one", 0), ("two", 20)] {
        let relay = RelayProcess::start(&owner, name, |outgate| outgate).await;
        let mut smtp = SmtpClient::greeted(relay.submission).await;
        for _ in 0..20 {
            let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", "Subject: x\r\n\r\nx").await;
            assert!(reply.starts_with("250 "), "{reply}");
        }
        relay.signal(Signal::SIGTERM);
        assert!(relay.ended().await.success());
        let (sum, all) = (so_far + 20, hours(&owner).await);
        // An hour may have ended meanwhile.
        let messages = |kind: &str| all.iter().filter(|row| row.0 == kind).map(|row| row.2).sum::<i64>();
        assert_eq!(["organization", "domain", "account"].map(messages), [sum; 3]);
        assert!(all.iter().all(|row| row.0 != "account" || row.1 == ann.to_string()), "{all:?}");
    }
}
