//! The built program as people run it: its commands, and `outgate up` with a folder and ports of its
//! own. Nothing of the test's environment reaches it but where programs are.

use std::{
    fs::{self, File},
    io::read_to_string,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long one command may take, a start of PostgreSQL included.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// How long `outgate up` may take until it takes mail, recovery after a crash included.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take to end. The relay alone may let messages in flight take 30 seconds.
const DOWN_WITHIN: Duration = Duration::from_secs(90);

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What the program is told by its environment.
#[derive(Debug, Clone)]
pub struct Outgate {
    environment: Vec<(&'static str, String)>,
    /// What a shell does first that becomes the program: limits for it.
    limits: Vec<String>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    pub output: String,
    pub error: String,
}

impl Outgate {
    pub fn new() -> Self {
        let passed_on = ["PATH", "OUTGATE_PG_BIN"];
        let environment = passed_on.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect();
        // A busy machine makes warnings of slow statements.
        Self { environment, limits: Vec::new() }.with("RUST_LOG", "error")
    }

    /// On the test's own database, as its owner.
    pub fn on(owner: &PgPool) -> Self {
        let options = owner.connect_options();
        let (user, socket) = (options.get_username(), options.get_socket());
        let socket = socket.expect("the tests' cluster listens on a socket").display();
        let database = options.get_database().unwrap();
        Self::new().with("DATABASE_URL", format!("postgres://{user}@localhost/{database}?host={socket}"))
    }

    /// With one more variable, or another value of it.
    pub fn with(self, variable: &'static str, value: impl ToString) -> Self {
        let mut changed = self.without(variable);
        changed.environment.push((variable, value.to_string()));
        changed
    }

    pub fn without(mut self, variable: &str) -> Self {
        self.environment.retain(|(name, _)| *name != variable);
        self
    }

    /// With so many file descriptors and no more.
    pub fn limited_to_files(mut self, files: u32) -> Self {
        self.limits.push(format!("ulimit -n {files}"));
        self
    }

    /// Whose files may have so many KiB: what it writes beyond that fails, for another reason than that there is no room.
    pub fn limited_to_file_size(mut self, kib: u32) -> Self {
        self.limits.push(format!("trap '' XFSZ && ulimit -f {}", kib * 2));
        self
    }

    /// What it is told by one variable.
    pub fn variable(&self, variable: &str) -> &str {
        let told = self.environment.iter().find(|(name, _)| *name == variable);
        &told.unwrap_or_else(|| panic!("{variable} is not set")).1
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_outgate");
        let mut command = match &self.limits[..] {
            [] => Command::new(program),
            limits => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("{} && exec \"$0\" \"$@\"", limits.join(" && ")), program]);
                shell
            }
        };
        command.args(words).env_clear().envs(self.environment.iter().cloned()).kill_on_drop(true);
        command
    }

    pub async fn run(&self, words: &[&str]) -> Ended {
        self.run_with_input(words, "").await
    }

    /// Starts a command whose output is read line by line.
    pub fn begin(&self, words: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }

    pub async fn run_with_input(&self, words: &[&str], input: &str) -> Ended {
        let mut command = self.command(words);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // A command that has no use for its input may end before it is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
        let ended = timeout(COMMAND_WITHIN, child.wait_with_output()).await;
        let ended = ended.unwrap_or_else(|_| panic!("outgate {words:?} does not end")).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { status: ended.status.code(), output: text(ended.stdout), error: text(ended.stderr) }
    }

    /// The output of a command that succeeds.
    pub async fn succeeds(&self, words: &[&str]) -> String {
        let ended = self.run(words).await;
        assert_eq!((ended.status, ended.error.as_str()), (Some(0), ""), "outgate {words:?}: {}", ended.output);
        ended.output
    }
}

impl Ended {
    /// What a command says that fails: one sentence, nothing on standard output, and nothing of the program's insides.
    pub fn refusal(&self) -> &str {
        assert!(matches!(self.status, Some(1 | 2)), "{self:?}");
        assert_eq!(self.output, "", "{self:?}");
        let mut lines = self.error.lines();
        let sentence = lines.next().and_then(|line| line.strip_prefix("outgate: "));
        let sentence = sentence.unwrap_or_else(|| panic!("{self:?}"));
        // Whoever mistyped a command is told where all of them are explained.
        let rest: Vec<&str> =
            lines.filter(|line| !(self.status == Some(2) && line.starts_with("Try: outgate "))).collect();
        assert!(rest.is_empty(), "more than one sentence: {self:?}");
        sentence
    }
}

/// A folder with a private cluster, and ports, for `outgate up` and the commands beside it.
pub struct Machine {
    pub outgate: Outgate,
    pub submission: SocketAddr,
    folder: TempDir,
}

impl Machine {
    /// A new one; mail without a gateway goes to this server.
    pub fn new(default_route: SocketAddr) -> Self {
        let folder = tempfile::Builder::new().prefix("outgate-test-").tempdir_in("/tmp").unwrap();
        let (http, submission) = (unused_address(), unused_address());
        let outgate = Outgate::new()
            .with("OUTGATE_DATA_DIR", folder.path().display())
            .with("OUTGATE_HTTP_LISTEN", http)
            .with("OUTGATE_SMTP_LISTEN", submission)
            .with("OUTGATE_HOSTNAME", "relay.example")
            .with("OUTGATE_DEFAULT_ROUTE", default_route)
            .with("OUTGATE_ALLOWED_GATEWAY_NETWORKS", "127.0.0.0/8");
        Self { outgate, submission, folder }
    }

    /// Starts `outgate up`; returns when it says that it takes mail.
    pub async fn up(&self) -> Running {
        self.up_logging("info").await
    }

    /// The same with another `RUST_LOG`.
    pub async fn up_logging(&self, filter: &str) -> Running {
        let log = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        let stderr = log.reopen().unwrap();
        self.up_with(&self.outgate.clone().with("RUST_LOG", filter), stderr.into(), log).await
    }

    /// The same, but nobody ever reads what it writes to standard error.
    pub async fn up_unread(&self) -> Running {
        self.up_with(&self.outgate, Stdio::piped(), tempfile::NamedTempFile::new_in("/tmp").unwrap()).await
    }

    async fn up_with(&self, outgate: &Outgate, stderr: Stdio, log: tempfile::NamedTempFile) -> Running {
        let mut command = outgate.command(&["up"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Running { child, lines, log };
        let greeted = timeout(UP_WITHIN, running.line_with("Outgate is running.")).await;
        let greeting = greeted.ok().flatten().unwrap_or_else(|| panic!("it does not come up: {}", running.log()));
        assert!(greeting.contains(&self.submission.to_string()), "{greeting}");
        running
    }

    /// Starts another relay on the private cluster, beside `outgate up`; returns when it takes mail.
    pub async fn another_relay(&self) -> RelayProcess {
        let submission = unused_address();
        let outgate = self.outgate.clone().with("OUTGATE_RELAY_NAME", "another").with("RUST_LOG", "info");
        let relay = RelayProcess::spawn(&outgate.with("OUTGATE_SMTP_LISTEN", submission), submission);
        relay.greets("220 ").await;
        relay
    }

    /// Where the pages are.
    pub fn pages(&self) -> SocketAddr {
        self.outgate.variable("OUTGATE_HTTP_LISTEN").parse().unwrap()
    }

    /// What the private cluster's server has written.
    pub fn postgres_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("postgresql.log")).unwrap()
    }

    /// The private cluster's server, as long as there is one.
    pub fn postgres(&self) -> Option<Pid> {
        server(self.folder.path())
    }

    /// The private cluster's database as its owner.
    pub fn owner(&self) -> PgPool {
        let file = fs::read_to_string(self.folder.path().join("postgresql/postmaster.pid")).unwrap_or_default();
        let options = PgConnectOptions::new_without_pgpass()
            .socket(file.lines().nth(4).unwrap_or("/nowhere"))
            .port(5432)
            .username("outgate")
            .database("postgres");
        PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(2)).connect_lazy_with(options)
    }

    /// Kills everything that runs here in the same moment, as when the machine loses its power. Returns what the program
    /// had written to standard error.
    pub async fn kill_everything(&self, running: Running) -> String {
        let postgres = self.postgres().unwrap();
        let log = running.log.reopen().unwrap();
        kill_all(&[vec![running.pid(), postgres], children_of(postgres)].concat(), Some(running)).await;
        read_to_string(log).unwrap()
    }

    /// Kills the private cluster's server.
    pub async fn kill_postgres(&self) {
        let Some(postgres) = self.postgres() else { return };
        kill_server(postgres).await;
    }

    /// Kills the program alone. Returns what it had written to standard error.
    pub async fn kill_relay(&self, running: Running) -> String {
        let log = running.log.reopen().unwrap();
        kill_all(&[running.pid()], Some(running)).await;
        read_to_string(log).unwrap()
    }
}

impl Drop for Machine {
    /// A test that fails leaves no server behind.
    fn drop(&mut self) {
        let Some(postgres) = self.postgres() else { return };
        let _ = kill(postgres, Signal::SIGQUIT);
        let deadline = Instant::now() + GONE_WITHIN;
        while is_alive(postgres) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Returns when they are gone. `running` is the program, where it is one of them.
async fn kill_all(processes: &[Pid], running: Option<Running>) {
    for process in processes {
        let _ = kill(*process, Signal::SIGKILL);
    }
    drop(running);
    let deadline = Instant::now() + GONE_WITHIN;
    while processes.iter().any(|process| is_alive(*process)) {
        assert!(Instant::now() < deadline, "a process outlives SIGKILL");
        tokio::task::yield_now().await;
    }
}

/// A running `outgate up`. Killed when it is dropped.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: tempfile::NamedTempFile,
}

impl Running {
    async fn line_with(&mut self, text: &str) -> Option<String> {
        while let Ok(Some(line)) = self.lines.next_line().await {
            if line.contains(text) {
                return Some(line);
            }
        }
        None
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap())
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// Tells it to stop, and returns at once.
    pub fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    pub async fn ended(mut self) -> ExitStatus {
        let ended = timeout(DOWN_WITHIN, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end: {}", self.log())).unwrap()
    }

    /// The same, and all that it has written to standard error.
    pub async fn ended_saying(mut self) -> String {
        let ended = timeout(DOWN_WITHIN, self.child.wait()).await;
        assert!(ended.is_ok_and(|ended| ended.unwrap().success()), "it does not end well: {}", self.log());
        self.log()
    }

    /// Stops it in good order.
    pub async fn stop(self) {
        self.terminate();
        assert!(self.ended().await.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("outgate up wrote: {}", self.log());
        }
    }
}

/// `outgate relay` on the test's own database. Killed when it is dropped.
pub struct RelayProcess {
    pub submission: SocketAddr,
    child: Child,
    log: tempfile::NamedTempFile,
}

impl RelayProcess {
    /// Starts one under this name; returns when it takes mail. What else it is told is `outgate`'s.
    pub async fn start(owner: &PgPool, name: &str, outgate: impl FnOnce(Outgate) -> Outgate) -> Self {
        let process = Self::starting(owner, name, outgate);
        process.greets("220 ").await;
        process
    }

    /// The same, but returns at once.
    pub fn starting(owner: &PgPool, name: &str, outgate: impl FnOnce(Outgate) -> Outgate) -> Self {
        let store = Outgate::on(owner);
        let as_relay = store.variable("DATABASE_URL").replacen("outgate@", "outgate_relay@", 1);
        let submission = unused_address();
        let told = store
            .with("OUTGATE_RELAY_DATABASE_URL", as_relay)
            .with("OUTGATE_RELAY_NAME", name)
            .with("OUTGATE_HOSTNAME", "relay.example")
            .with("OUTGATE_SMTP_LISTEN", submission)
            .with("OUTGATE_DEFAULT_ROUTE", "mx")
            .with("OUTGATE_ALLOWED_GATEWAY_NETWORKS", "127.0.0.0/8")
            .with("RUST_LOG", "info");
        Self::spawn(&outgate(told), submission)
    }

    fn spawn(outgate: &Outgate, submission: SocketAddr) -> Self {
        let log = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        let mut command = outgate.command(&["relay"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen().unwrap());
        Self { submission, child: command.spawn().unwrap(), log }
    }

    /// Waits until it greets clients so.
    pub async fn greets(&self, start: &str) {
        let greets = async {
            loop {
                let greeting = async {
                    let stream = tokio::net::TcpStream::connect(self.submission).await.ok()?;
                    BufReader::new(stream).lines().next_line().await.ok()?
                };
                if greeting.await.is_some_and(|line| line.starts_with(start)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(UP_WITHIN, greets).await.is_err() {
            panic!("nobody is greeted with {start}: {}", self.log());
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// How many files of a folder it has open, with a name or without.
    pub fn open_files_in(&self, folder: &Path) -> usize {
        let folder = fs::canonicalize(folder).unwrap();
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id().unwrap())).unwrap();
        let opened = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        opened.filter(|file| file.starts_with(&folder)).count()
    }

    pub async fn ended(mut self) -> ExitStatus {
        let ended = timeout(DOWN_WITHIN, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end: {}", self.log())).unwrap()
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("outgate relay wrote: {}", self.log());
        }
    }
}

/// Kills a PostgreSQL server with all its processes.
pub async fn kill_server(postgres: Pid) {
    kill_all(&[vec![postgres], children_of(postgres)].concat(), None).await;
}

/// The server on the cluster of this data directory.
pub fn server(data_dir: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data_dir.join("postgresql/postmaster.pid")).ok()?;
    let pid = Pid::from_raw(file.lines().next()?.parse().ok()?);
    is_alive(pid).then_some(pid)
}

/// Killed ones that nobody has waited for yet do not count.
fn is_alive(process: Pid) -> bool {
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|command_line| !command_line.is_empty())
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |process: &i32| {
        // proc(5): the fourth field, counted from behind the name, which may have blanks.
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().nth(1).map(str::to_owned));
        after_name.flatten() == Some(parent.to_string())
    };
    processes.filter(is_child).map(Pid::from_raw).collect()
}

/// A loopback address at which nothing listens. Its port is below those that the system gives to
/// connections, so that none of them has it when it is needed.
pub fn unused_address() -> SocketAddr {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    loop {
        // Test processes that run side by side begin at different places.
        let own = (std::process::id() % 400) as u16 * 50;
        let port = 10_000 + (own + TRIED.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A file with this content that only the test's own user may read.
pub fn file_with(content: &str) -> (TempDir, PathBuf) {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let path = folder.path().join("accounts.csv");
    let mut file: File = File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    (folder, path)
}
