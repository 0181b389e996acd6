//! The PostgreSQL that Outgate runs for itself. Its users are processes, so these tests start some: this test binary
//! itself, as [`a_process_that_uses_the_cluster`].

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outgate::{
    private_postgres::{DATABASE, OWNER, PrivateCluster, become_service_user},
    store,
};
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tempfile::TempDir;

/// Names the data directory to the process that uses it.
const DATA_DIR: &str = "OUTGATE_TEST_CLUSTER";

/// How long a server may take to be gone after it was killed.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// Not a test: what the other processes run. They say where the socket is, and leave when their input ends.
#[test]
fn a_process_that_uses_the_cluster() {
    let Some(data_dir) = std::env::var_os(DATA_DIR).map(PathBuf::from) else { return };
    let started = become_service_user(&data_dir).and_then(|()| PrivateCluster::start(&data_dir, None));
    match started {
        Ok(cluster) => {
            println!("\nsocket {}", cluster.socket_folder().display());
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            cluster.stop().unwrap();
        }
        Err(error) => println!("\nerror {error:#}"),
    }
}

/// One of the processes that use a cluster.
struct User {
    child: Child,
    input: Option<ChildStdin>,
    socket: PathBuf,
}

fn spawn(data_dir: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["private_postgres::a_process_that_uses_the_cluster", "--exact", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

impl User {
    /// Returns once the cluster is up.
    fn of(data_dir: &Path) -> Self {
        let (mut child, mut lines) = spawn(data_dir);
        let socket = loop {
            let line = lines.next().expect("the process ended").unwrap();
            assert!(!line.starts_with("error "), "{line}");
            if let Some(socket) = line.strip_prefix("socket ") {
                break socket.into();
            }
        };
        let input = child.stdin.take();
        // Read to the end, or the process could not write its last lines.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, input, socket }
    }

    fn leave(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn options(&self, role: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.socket).username(role).database(DATABASE)
    }
}

/// What a start answers that cannot succeed.
fn refusal(data_dir: &Path) -> String {
    let (mut child, lines) = spawn(data_dir);
    let answer = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("error ").map(str::to_owned)).last();
    child.wait().unwrap();
    answer.expect("it started")
}

/// An empty folder that whatever user runs the server can reach.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("outgate-test-").tempdir_in("/tmp").unwrap()
}

/// The server's process id, as long as there is one.
fn server(data_dir: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data_dir.join("postgresql/postmaster.pid")).ok()?;
    Some(Pid::from_raw(file.lines().next()?.parse().unwrap()))
}

fn kill_server(data_dir: &Path) {
    let server = server(data_dir).unwrap();
    kill(server, Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + GONE_TIMEOUT;
    while fs::read(format!("/proc/{server}/cmdline")).is_ok_and(|command_line| !command_line.is_empty()) {
        assert!(Instant::now() < deadline, "PostgreSQL outlives SIGKILL");
        std::thread::yield_now();
    }
}

#[test]
fn the_first_process_starts_the_cluster_and_the_last_stops_it() {
    let data_dir = folder();

    let first = User::of(data_dir.path());
    let started = server(data_dir.path());
    let second = User::of(data_dir.path());
    first.leave();

    assert!(started.is_some());
    assert_eq!(server(data_dir.path()), started);
    second.leave();
    assert_eq!(server(data_dir.path()), None);
}

#[test]
fn several_first_starts_at_once_make_one_cluster() {
    let data_dir = folder();

    let users: Vec<User> = std::thread::scope(|scope| {
        [(); 4].map(|()| scope.spawn(|| User::of(data_dir.path()))).map(|it| it.join().unwrap())
    })
    .into();

    assert!(users.iter().all(|user| user.socket == users[0].socket));
    users.into_iter().for_each(User::leave);
    assert_eq!(server(data_dir.path()), None);
}

#[test]
fn a_server_whose_process_was_killed_serves_the_next_one() {
    let data_dir = folder();
    let killed = User::of(data_dir.path());
    let started = server(data_dir.path());

    killed.kill();
    let next = User::of(data_dir.path());

    assert_eq!(server(data_dir.path()), started);
    next.leave();
    assert_eq!(server(data_dir.path()), None);
}

#[tokio::test]
async fn after_everything_was_killed_the_data_is_still_there() {
    let data_dir = folder();
    let killed = User::of(data_dir.path());
    let owner = PgPoolOptions::new().connect_with(killed.options(OWNER)).await.unwrap();
    store::roles::migrate(&owner).await.unwrap();
    store::organization::create(&owner, &"acme".parse().unwrap(), "Acme", &[]).await.unwrap();
    owner.close().await;

    kill_server(data_dir.path());
    killed.kill();
    let next = User::of(data_dir.path());

    for (role, organizations) in [(OWNER, 1_i64), (store::roles::RELAY, 1), (store::roles::WEB, 0)] {
        let mut connection = PgConnection::connect_with(&next.options(role)).await.unwrap();
        let found: i64 =
            sqlx::query_scalar("select count(*) from organization").fetch_one(&mut connection).await.unwrap();
        assert_eq!(found, organizations, "{role}");
    }
    next.leave();
}

#[test]
fn a_process_id_that_another_program_has_by_now_does_not_keep_the_cluster_down() {
    let data_dir = folder();
    let killed = User::of(data_dir.path());
    kill_server(data_dir.path());
    killed.kill();

    // The id of a process that lives and is not PostgreSQL, in both of the server's lock files. As root
    // another user's process would do no harm, so it has to be one of that user's.
    let owner = fs::metadata(data_dir.path()).unwrap();
    let mut other = {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sleep");
        command.arg("600").current_dir("/");
        if nix::unistd::geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command.spawn().unwrap()
    };
    for file in ["postgresql/postmaster.pid", "socket/.s.PGSQL.5432.lock"] {
        let file = data_dir.path().join(file);
        let content = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{}\n{}", other.id(), content.split_once('\n').unwrap().1)).unwrap();
    }

    User::of(data_dir.path()).leave();

    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn nobody_else_reaches_the_cluster() {
    let data_dir = folder();
    let user = User::of(data_dir.path());

    let socket_folder = fs::metadata(&user.socket).unwrap();
    assert_eq!(socket_folder.mode() & 0o777, 0o700);
    assert_eq!(socket_folder.uid(), fs::metadata(data_dir.path()).unwrap().uid());
    let mut connection = PgConnection::connect_with(&user.options(OWNER)).await.unwrap();
    let listens: String = sqlx::query_scalar("show listen_addresses").fetch_one(&mut connection).await.unwrap();
    assert_eq!(listens, "", "it listens on TCP");
    let rules: Vec<String> = sqlx::query_scalar("select type || ' ' || auth_method from pg_hba_file_rules")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(rules, ["local peer"]);
    user.leave();
}

#[test]
fn a_path_too_long_for_a_socket_is_no_hindrance() {
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data_dir = folder.path().join("a".repeat(60)).join("b c").join("d".repeat(60));

    let one = User::of(&data_dir);
    let other = User::of(&data_dir);

    assert!(one.socket.as_os_str().len() < 90, "{}", one.socket.display());
    assert_eq!(one.socket, other.socket);
    let socket = one.socket.clone();
    one.leave();
    other.leave();
    fs::remove_dir_all(socket).unwrap();
}

#[test]
fn a_cluster_of_another_version_is_left_alone_and_named() {
    let data_dir = folder();
    User::of(data_dir.path()).leave();
    let version = data_dir.path().join("postgresql/PG_VERSION");
    fs::write(&version, "9\n").unwrap();

    let answer = refusal(data_dir.path());

    assert!(answer.contains("OUTGATE_PG_BIN"), "{answer}");
    assert!(answer.contains('9'), "{answer}");
    assert_eq!(fs::read_to_string(&version).unwrap(), "9\n");
}

#[test]
fn a_data_directory_that_cannot_be_made_is_answered_in_one_sentence() {
    let answer = refusal(Path::new("/proc/outgate"));

    assert!(answer.starts_with("cannot make the folder /proc/outgate: "), "{answer}");
    assert!(!answer.contains('\n'), "{answer}");
}
