//! What one organization, one client or a flood of messages may take of what all share, and what is said when there is
//! no more: memory, room in the queue, room on disk, file descriptors.

use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use outgate::{relay::settings::QueueLimits, store::gateway::PointerScope};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{task::JoinSet, time::timeout};

use crate::support::{
    Gateway, Installation, Sending, SmtpClient,
    gateway::{At, Fault, HAPPENS_WITHIN},
    outgate::{Machine, RelayProcess},
    relay::{Desk, Reception, known_table, queued},
    sending::{Options, Pointers},
};

/// A relay on which one organization may have two messages waiting.
async fn with_room_for_two(owner: PgPool) -> Sending {
    let limits_of_queue = QueueLimits { messages: 2, bytes: 10_000 };
    Sending::with(owner, Options { limits_of_queue, ..Options::default() }).await
}

#[sqlx::test]
async fn an_organization_whose_queue_is_full_is_told_so_while_mail_that_can_leave_leaves(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = with_room_for_two(owner).await;
    let dead = sending.add_gateway(Gateway::free_address().await);
    sending.point(Pointers { all: Some(dead), ..Pointers::default() });
    for _ in 0..2 {
        assert_eq!(sending.send().await.code, 250);
    }

    let full = "452 4.3.1 2 messages of your organization are waiting, and there is no room for more; send it again \
                later, and ask an administrator what they wait for";
    assert_eq!(sending.send().await.to_string(), full);
    // Whatever other relays did is seen with the next look at the whole queue.
    sending.queue.count().await.unwrap();
    assert_eq!(sending.send().await.to_string(), full);
    // Nobody else's mail is concerned.
    sending.add_neighbour(None).await;
    let mut of_other = sending.message(&["bob@elsewhere.example"]);
    of_other.sender = "olga@other.example".to_owned();
    assert_eq!(sending.transfer.accept(of_other).await.code, 250);

    // What its gateways take at once needs no room.
    let works = sending.add_gateway(gateway.address);
    sending.point(Pointers { user: Some(works), all: Some(dead), ..Pointers::default() });
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 kept as"));

    // What has left makes room.
    sending.point(Pointers { all: Some(works), ..Pointers::default() });
    sending.step_after(1).await;
    sending.step_after(2).await;
    assert_eq!(gateway.received(3).await.len(), 3);
    gateway.says(At::Dot, "451 4.3.0 later");
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as"));
}

#[sqlx::test]
async fn the_size_of_waiting_mail_is_limited_too(owner: PgPool) {
    let sending = with_room_for_two(owner).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    let large = || sending.message_with(&["bob@elsewhere.example"], "x".repeat(6_000));

    assert_eq!(sending.transfer.accept(large()).await.code, 250);
    assert_eq!(sending.transfer.accept(large()).await.code, 452);
    assert_eq!(sending.send().await.code, 250);
}

#[sqlx::test]
async fn a_message_that_its_gateway_has_whole_is_kept_even_if_there_is_no_room(owner: PgPool) {
    let gateway = Gateway::start().await;
    gateway.fails(At::Dot, Fault::Stalls);
    let options = Options {
        limits_of_queue: QueueLimits { messages: 0, bytes: 0 },
        handover_wait: Duration::from_millis(100),
        ..Options::default()
    };
    let sending = Sending::with(owner, options).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as"));

    gateway.go_on();
    sending.queue.settled().await;
    assert_eq!((gateway.received(1).await.len(), sending.waiting().await.len()), (1, 0));
}

#[tokio::test]
async fn beyond_the_memory_for_messages_they_are_kept_on_disk_and_arrive_whole() {
    let reception =
        Reception::with(known_table(), |settings| settings.message_memory = 200_000, || async { queued() }).await;
    let mut clients = Vec::new();
    let content = |number: usize| format!("Subject: {number}\r\n\r\n{}", "0123456789abcdef\r\n".repeat(5_000 + number));
    for number in 0..20 {
        let mut client = SmtpClient::greeted(reception.address).await;
        for command in ["MAIL FROM:<ann@acme.example>", "RCPT TO:<bob@far.example>", "DATA"] {
            client.say(command).await;
        }
        // All of them are under way at the same time.
        client.send(content(number).as_bytes()).await;
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.say("\r\n.").await, "250 2.0.0 queued\r\n");
    }

    let accepted = reception.accepted();
    let spooled = accepted.iter().filter(|message| message.spooled).count();
    assert!(spooled >= 10, "{spooled} of 20 messages of 90 KB with 200 KB of memory");
    for message in accepted {
        let text = String::from_utf8(message.content).unwrap();
        let number = text.lines().next().unwrap().strip_prefix("Subject: ").unwrap().parse().unwrap();
        assert_eq!(text, format!("{}\r\n", content(number)), "message {number}");
    }

    // It is all given back.
    let mut client = SmtpClient::greeted(reception.address).await;
    client.submit("ann@acme.example", "bob@far.example", &content(0)).await;
    assert!(!reception.accepted().last().unwrap().spooled);
}

/// A file system of its own for spooled messages; taken away when it is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(size: &str) -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "outgate-test"]).arg(folder.path());
        assert!(mount.status().unwrap().success(), "bin/test leaves this test out where nothing can be mounted");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn large_messages_of_one_organization_leave_as_much_room_as_they_take() {
    let desk = Desk::with_room(1_000_000);
    let begin = |sender: &str| {
        let mut desk = desk();
        desk.feed(b"EHLO client.example\r\n");
        let reply = desk.feed(format!("MAIL FROM:<{sender}>\r\nRCPT TO:<bob@far.example>\r\nDATA\r\n").as_bytes());
        assert!(reply.contains("354 "), "{reply}");
        desk.feed_in_pieces(format!("{}\r\n", "x".repeat(98)).repeat(3_000).as_bytes(), 32_768);
        desk
    };
    let mut flood: Vec<Desk> = (0..6).map(|_| begin("ann@acme.example")).collect();
    let mut other = begin("eve@other.example");

    assert_eq!(other.feed(b".\r\n"), "250 2.0.0 queued\r\n");
    let said: Vec<String> = flood.iter_mut().map(|desk| desk.feed(b".\r\n")).collect();
    let taken = said.iter().filter(|said| said.starts_with("250 ")).count();
    let put_off = said.iter().filter(|said| said.starts_with("452 4.3.1 ")).count();
    assert_eq!((taken, put_off), (3, 3), "{said:?}");

    // What was in flight is done with.
    assert_eq!(begin("ann@acme.example").feed(b".\r\n"), "250 2.0.0 queued\r\n");
}

#[tokio::test]
async fn while_a_mounted_disk_is_full_mail_is_put_off_at_its_first_command_and_taken_again_by_itself() {
    let disk = Disk::of("4m");
    let spool_dir = disk.path().to_owned();
    let adjust = |settings: &mut outgate::relay::settings::Settings| {
        settings.spool_dir = spool_dir;
        settings.limits.least_free_space = 1024 * 1024;
    };
    let reception = Reception::with(known_table(), adjust, || async { queued() }).await;
    let mut client = SmtpClient::greeted(reception.address).await;
    let large = "0123456789abcdef\r\n".repeat(20_000);
    assert_eq!(client.submit("ann@acme.example", "bob@far.example", &large).await, "250 2.0.0 queued\r\n");

    // It fills up while a message is on its way: the message is refused, and the connection goes on.
    let too_large = "0123456789abcdef\r\n".repeat(300_000);
    let reply = client.submit("ann@acme.example", "bob@far.example", &too_large).await;
    assert_eq!(reply, "452 4.3.1 There is no room for the message now, try again later\r\n");

    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![0; 3500 * 1024]).unwrap();
    until(&mut client, "452 4.3.1 There is no room for the message now, try again later\r\n").await;
    std::fs::remove_file(filler).unwrap();
    until(&mut client, "250 2.1.0 Sender accepted\r\n").await;
}

/// Puts the content of waiting mail onto a disk of its own, as PostgreSQL knows one, and back.
struct StoreOn<'a> {
    owner: &'a PgPool,
    name: String,
    /// There until everything is back.
    disk: Option<Disk>,
}

impl<'a> StoreOn<'a> {
    async fn disk(owner: &'a PgPool, disk: Disk) -> Self {
        let name: String = sqlx::query_scalar("select current_database()::text").fetch_one(owner).await.unwrap();
        let data: String = sqlx::query_scalar("show data_directory").fetch_one(owner).await.unwrap();
        let (folder, whose) = (disk.path().join("store"), std::fs::metadata(data).unwrap());
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(disk.path(), Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&folder, Some(whose.uid()), Some(whose.gid())).unwrap();
        let store = Self { owner, name, disk: Some(disk) };
        // From a run that failed.
        store.tell(format!("drop tablespace if exists \"{}\"", store.name)).await;
        store.tell(format!("create tablespace \"{}\" location '{}'", store.name, folder.display())).await;
        store.tell(format!("alter table queued_body set tablespace \"{}\"", store.name)).await;
        store
    }

    async fn tell(&self, statement: String) {
        sqlx::query(AssertSqlSafe(statement)).execute(self.owner).await.unwrap();
    }

    fn path(&self) -> &Path {
        self.disk.as_ref().unwrap().path()
    }

    async fn back(mut self) {
        self.tell("alter table queued_body set tablespace pg_default".to_owned()).await;
        self.tell(format!("drop tablespace \"{}\"", self.name)).await;
        self.disk = None;
    }
}

impl Drop for StoreOn<'_> {
    /// A PostgreSQL that loses a disk makes no checkpoint any more, and everybody's tests fail.
    fn drop(&mut self) {
        std::mem::forget(self.disk.take());
    }
}

#[sqlx::test]
async fn while_a_mounted_disk_of_the_store_is_full_no_mail_is_promised_and_later_it_is_again(owner: PgPool) {
    let sending = Sending::on(owner.clone()).await;
    sending.set_gateway(Some(&Gateway::free_address().await.to_string()));
    let store = StoreOn::disk(&owner, Disk::of("3m")).await;
    let filler = store.path().join("filler");
    std::fs::write(&filler, vec![0; 2 * 1024 * 1024]).unwrap();
    let large = || sending.message_with(&["bob@elsewhere.example"], "0123456789abcdef\r\n".repeat(5_000));

    let mut taken = 0;
    let refused = loop {
        let reply = sending.transfer.accept(large()).await;
        if reply.code != 250 {
            break reply.to_string();
        }
        taken += 1;
        assert!(taken < 20, "a megabyte has no room for twenty messages of 90 kB");
    };
    assert!(taken > 0 && refused.starts_with("451 4.3.0 "), "{taken}, then {refused}");
    // The connections to the store go on, and nothing of it is there.
    assert_eq!(sending.transfer.accept(large()).await.code, 451);
    assert_eq!(sending.waiting().await.len(), taken);

    std::fs::remove_file(filler).unwrap();
    assert_eq!(sending.transfer.accept(large()).await.code, 250);
    assert_eq!(sending.waiting().await.len(), taken + 1);
    store.back().await;
}

/// Begins messages until the reply is this one.
async fn until(client: &mut SmtpClient, reply: &str) {
    let replied = async {
        while client.say("MAIL FROM:<ann@acme.example>").await != reply {
            client.say("RSET").await;
        }
    };
    timeout(HAPPENS_WITHIN, replied).await.unwrap_or_else(|_| panic!("nobody says {reply}"));
}

/// Waits until the relay has so many files of this folder open.
async fn until_open(relay: &RelayProcess, folder: &Path, files: usize) {
    let opened = async {
        while relay.open_files_in(folder) != files {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(HAPPENS_WITHIN, opened).await.unwrap_or_else(|_| panic!("{} are open", relay.open_files_in(folder)));
}

/// Begins a message that is announced as too large to be kept in memory.
async fn begin_large(client: &mut SmtpClient) {
    for command in ["MAIL FROM:<ann@acme.example> SIZE=3000000", "RCPT TO:<bob@elsewhere.example>", "DATA"] {
        client.say(command).await;
    }
}

#[sqlx::test]
async fn a_message_whose_spool_file_cannot_be_written_is_not_taken_and_the_file_is_given_up(owner: PgPool) {
    let gateway = Gateway::start().await;
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let spool = tempfile::tempdir_in("/tmp").unwrap();
    let relay = RelayProcess::start(&owner, "one", |outgate| {
        outgate.with("OUTGATE_SPOOL_DIR", spool.path().display()).limited_to_file_size(1024)
    })
    .await;
    let of_size = |kib: usize| format!("Subject: {kib} KiB\r\n\r\n{}", "0123456789abcd\r\n".repeat(kib * 64));
    let not_kept = "451 4.3.0 The message could not be written to disk here, try again later";
    let mut client = SmtpClient::greeted(relay.submission).await;

    begin_large(&mut client).await;
    client.send(of_size(700).as_bytes()).await;
    until_open(&relay, spool.path(), 1).await;
    // Here writing fails. What is written to the same file after that could be lost all the same, and nothing is.
    client.send(of_size(700).as_bytes()).await;
    until_open(&relay, spool.path(), 0).await;
    client.send(of_size(700).as_bytes()).await;
    let reply = client.say("\r\n.").await;
    assert!(reply.starts_with(not_kept), "{reply}");
    assert_eq!(relay.open_files_in(spool.path()), 0);

    // The next one gets a file of its own, and one that fails with its last piece is not taken either.
    for (size, reply) in [(700, "250 2.0.0 kept as 4711\r\n"), (1030, not_kept)] {
        begin_large(&mut client).await;
        client.send(of_size(size).as_bytes()).await;
        let said = client.say("\r\n.").await;
        assert!(said.starts_with(reply), "{said}");
    }
    let received = gateway.received(1).await;
    assert!(received[0].content.ends_with(format!("{}\r\n", of_size(700)).as_bytes()), "it arrives whole");
    let waiting: i64 = sqlx::query_scalar("select count(*) from queued_message").fetch_one(&owner).await.unwrap();
    assert_eq!((gateway.so_far().len(), waiting, relay.open_files_in(spool.path())), (1, 0, 0));
    relay.signal(Signal::SIGTERM);
    assert!(relay.ended().await.success());
}

#[tokio::test]
async fn out_of_file_descriptors_clients_are_told_to_come_back_and_the_rest_goes_on() {
    let gateway = Gateway::start().await;
    let mut machine = Machine::new(gateway.address);
    machine.outgate = machine.outgate.clone().limited_to_files(160);
    let running = machine.up().await;
    machine.outgate.succeeds(&["organization", "create", "acme", "--name", "Acme", "--domain", "acme.example"]).await;
    let mut clients: Vec<SmtpClient> = Vec::new();
    let turned_away = loop {
        let mut client = SmtpClient::connect(machine.submission).await;
        match client.reply().await {
            greeting if greeting.starts_with("220 ") => clients.push(client),
            other => break other,
        }
        assert!(clients.len() < 160, "there is no end of file descriptors");
    };
    assert_eq!(turned_away, "421 4.7.0 relay.example has too many connections, try again later\r\n");

    // Those that are let in are served, and who comes back is let in once others have left.
    assert!(clients[0].say("EHLO client.example").await.starts_with("250-"));
    clients.truncate(1);
    let again = async {
        loop {
            let mut client = SmtpClient::connect(machine.submission).await;
            if client.reply().await.starts_with("220 ") {
                return client;
            }
        }
    };
    let mut client = timeout(HAPPENS_WITHIN, again).await.expect("there is room again");
    client.say("EHLO client.example").await;
    let sent = async {
        while !client
            .submit("ann@acme.example", "bob@elsewhere.example", "Subject: x\r\n\r\nx")
            .await
            .starts_with("250 ")
        {}
    };
    timeout(HAPPENS_WITHIN, sent).await.expect("mail is taken");
    gateway.received(1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_mail() {
    let gateway = Gateway::start().await;
    let mut machine = Machine::new(gateway.address);
    machine.outgate = machine.outgate.clone().with("RUST_LOG", "debug");
    let running = machine.up_unread().await;
    let operator = machine.outgate.clone().with("RUST_LOG", "error");
    operator.succeeds(&["organization", "create", "acme", "--name", "Acme", "--domain", "acme.example"]).await;
    let submission = machine.submission;
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(async move {
            let mut smtp = SmtpClient::greeted(submission).await;
            for _ in 0..100 {
                let taken = async {
                    let hello = "Subject: hello\r\n\r\nHello.\r\n";
                    while !smtp.submit("ann@acme.example", "bob@elsewhere.example", hello).await.starts_with("250 ") {}
                };
                timeout(HAPPENS_WITHIN, taken).await.expect("mail is taken");
            }
        });
    }
    clients.join_all().await;
    gateway.received(400).await;
    running.stop().await;
}

#[sqlx::test]
async fn five_hundred_messages_that_hang_in_one_organization_hold_up_no_other(owner: PgPool) {
    let (tarpit, works) = (Gateway::start().await, Gateway::start().await);
    tarpit.fails(At::Mail, Fault::Stalls);
    let sending = Arc::new(Sending::on(owner).await);
    sending.set_gateway(Some(&tarpit.address.to_string()));
    sending.add_neighbour(Some(works.address)).await;
    let mut hanging = JoinSet::new();
    for _ in 0..500 {
        let sending = sending.clone();
        hanging.spawn(async move { sending.send().await });
    }
    tarpit.stalled(1).await;

    for count in 1..=20 {
        let mut message = sending.message(&["bob@elsewhere.example"]);
        message.sender = "olga@other.example".to_owned();
        let reply = timeout(HAPPENS_WITHIN, sending.transfer.accept(message)).await.expect("it is answered");
        assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
        assert_eq!(works.so_far().len(), count);
    }
    assert!(works.connections() <= 1, "one warm connection is enough");
    hanging.abort_all();
}
