//! One PostgreSQL server on its data folder: made, started, observed, stopped. Under
//! [`PrivateCluster`](super::PrivateCluster), which decides when.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{self, Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

use super::{Binaries, cluster::OWNER};
use crate::store::roles;

/// How long a start may take, recovery after a crash included.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What a log file may hold before the next start puts it aside.
const LOG_LIMIT: u64 = 10 * 1024 * 1024;

/// Where its files are and what it is run with.
#[derive(Debug)]
pub struct Server {
    pub binaries: Binaries,
    /// PostgreSQL's own data directory.
    pub folder: PathBuf,
    /// Of mode 0700; short enough for a socket's path.
    pub socket_folder: PathBuf,
    pub log: PathBuf,
    /// The operating system's name of the user that runs this process and the server.
    pub user: String,
}

/// What `postmaster.pid` says.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Stopped,
    /// It was killed, and its process id belongs to another program by now.
    StoppedAndMistakable,
    StartingOrStopping,
    Ready,
}

impl Server {
    /// The major version that made the cluster in `folder`, if there is one.
    pub fn made_by(folder: &Path) -> anyhow::Result<Option<u32>> {
        let file = folder.join("PG_VERSION");
        match fs::read_to_string(&file) {
            Ok(version) => version.trim().parse().map(Some).with_context(|| format!("{} is damaged", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(anyhow!("cannot read {}: {error}", file.display())),
        }
    }

    /// Makes the cluster where there is none yet. It gets its final name last, so that a start which is
    /// killed half-way leaves nothing that looks finished.
    pub fn initialize(&self, turn: &File) -> anyhow::Result<()> {
        if Self::made_by(&self.folder)?.is_some() {
            return Ok(());
        }
        let unfinished = self.folder.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
        }
        self.initdb(&unfinished, turn)?;
        fs::rename(&unfinished, &self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        if let Some(parent) = self.folder.parent() {
            File::open(parent).and_then(|parent| parent.sync_all())?;
        }
        Ok(())
    }

    fn initdb(&self, folder: &Path, turn: &File) -> anyhow::Result<()> {
        // Not every C library knows C.UTF-8, by which letters beyond ASCII have upper and lower case.
        for locale in ["C.UTF-8", "C"] {
            let output = self
                .command("initdb", turn)?
                .args(["--username", OWNER, "--encoding=UTF8", "--auth=peer", "--data-checksums", "--no-instructions"])
                .args(["--locale", locale, "--pgdata"])
                .arg(folder)
                .output()
                .context("cannot run initdb")?;
            if output.status.success() {
                return Ok(());
            }
            let reason = String::from_utf8_lossy(&output.stderr);
            if locale == "C" || !reason.contains("invalid locale name") {
                bail!("PostgreSQL's initdb failed: {}.", error_line(&reason));
            }
        }
        Ok(())
    }

    /// Returns once the server takes connections, started here or found running. Whoever calls holds
    /// the cluster's turn, so nobody else of ours starts or stops it meanwhile.
    pub fn bring_up(&self, turn: &File) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match self.state()? {
                State::Ready => return Ok(()),
                // One that a killed process left behind may still be recovering or going down.
                State::StartingOrStopping if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
                State::StartingOrStopping => {
                    bail!(
                        "PostgreSQL did not get ready within {} seconds: see {}.",
                        START_TIMEOUT.as_secs(),
                        self.log.display()
                    )
                }
                State::Stopped => return self.launch(turn),
                State::StoppedAndMistakable => {
                    self.disown_process_id()?;
                    return self.launch(turn);
                }
            }
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state(), Ok(State::Ready))
    }

    fn state(&self) -> anyhow::Result<State> {
        let file = self.pid_file();
        let content = match fs::read_to_string(&file) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Stopped),
            Err(error) => bail!("cannot read {}: {error}", file.display()),
        };
        let mut lines = content.lines();
        // Empty for the moment in which the server is writing it.
        let Some(pid) = lines.next().and_then(|line| line.parse().ok()) else {
            return Ok(State::StartingOrStopping);
        };
        match kill(Pid::from_raw(pid), None) {
            Ok(()) => {}
            // EPERM: another user's process, which is not our server.
            Err(Errno::ESRCH | Errno::EPERM) => return Ok(State::Stopped),
            Err(error) => bail!("cannot see whether PostgreSQL runs: {error}"),
        }
        if self.is_another_program(pid) {
            return Ok(State::StoppedAndMistakable);
        }
        // The eighth line is its status.
        Ok(if lines.nth(6).map(str::trim) == Some("ready") { State::Ready } else { State::StartingOrStopping })
    }

    /// Whether the process is surely not a server on this folder. Where the system cannot tell, it may be.
    fn is_another_program(&self, pid: i32) -> bool {
        let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let folder = self.folder.as_os_str().as_encoded_bytes();
        !command_line.split(|byte| *byte == 0).any(|argument| argument == folder)
    }

    /// PostgreSQL would refuse to start while a process with the id of its killed predecessor lives,
    /// whatever that process is. Our own id it takes for its grandparent's, so that its other checks
    /// (for server processes that are still attached to the shared memory) remain.
    fn disown_process_id(&self) -> anyhow::Result<()> {
        let file = self.pid_file();
        let content = fs::read_to_string(&file)?;
        let rest = content.split_once('\n').map_or("", |(_, rest)| rest);
        fs::write(&file, format!("{}\n{rest}", process::id()))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("postmaster.pid")
    }

    fn launch(&self, turn: &File) -> anyhow::Result<()> {
        self.write_access_rules()?;
        self.remove_socket_lock()?;
        self.put_large_log_aside()?;
        let output = self
            .command("pg_ctl", turn)?
            .args(["start", "--silent", "--wait", "--timeout"])
            .arg(START_TIMEOUT.as_secs().to_string())
            .arg("--pgdata")
            .arg(&self.folder)
            .arg("--log")
            .arg(&self.log)
            .arg("--options")
            .arg(self.options())
            .output()
            .context("cannot run pg_ctl")?;
        if output.status.success() {
            return Ok(());
        }
        bail!("PostgreSQL did not start: {} (see {}).", self.reason(&output), self.log.display())
    }

    /// For the shell through which `pg_ctl` runs the server. The folder has no character that a shell
    /// would see something in: [`PrivateCluster`](super::PrivateCluster) saw to that.
    fn options(&self) -> String {
        let socket_folder = format!("unix_socket_directories={}", self.socket_folder.display());
        let settings = [
            "listen_addresses=",
            "port=5432",
            &socket_folder,
            "unix_socket_permissions=0700",
            "max_connections=200",
            // What is answered with 250 is on the disk.
            "fsync=on",
            "full_page_writes=on",
            "synchronous_commit=on",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_checkpoints=off",
            // Every statement here is short; compiling one would take longer than running it.
            "jit=off",
        ];
        settings.map(|setting| format!("-c \"{setting}\"")).join(" ")
    }

    /// The kernel says who is at the other end of a socket: only the user that runs the server, and
    /// root, may be one of its roles. Written anew at each start: the folder may have been given to another.
    fn write_access_rules(&self) -> anyhow::Result<()> {
        let write = |name: &str, content: String| {
            let file = self.folder.join(name);
            fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))
        };
        let mapped = |user: &str| [OWNER, roles::WEB, roles::RELAY].map(|role| format!("outgate \"{user}\" {role}\n"));
        write("pg_hba.conf", "local all all peer map=outgate\n".to_owned())?;
        write("pg_ident.conf", mapped(&self.user).concat() + &mapped("root").concat())
    }

    /// A killed server's lock on its socket names a process id too, which may be another program's by now. The folder
    /// is ours alone and no server of ours runs.
    fn remove_socket_lock(&self) -> anyhow::Result<()> {
        let lock = self.socket_folder.join(".s.PGSQL.5432.lock");
        match fs::remove_file(&lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                bail!("cannot remove {}: {error}", lock.display())
            }
            _ => Ok(()),
        }
    }

    fn put_large_log_aside(&self) -> anyhow::Result<()> {
        match fs::metadata(&self.log) {
            Ok(log) if log.len() > LOG_LIMIT => Ok(fs::rename(&self.log, self.log.with_extension("log.old"))?),
            _ => Ok(()),
        }
    }

    /// Lets running statements be cancelled and everything be written; returns when it is down.
    pub fn stop(&self, turn: &File) -> anyhow::Result<()> {
        if matches!(self.state()?, State::Stopped | State::StoppedAndMistakable) {
            return Ok(());
        }
        let output = self
            .command("pg_ctl", turn)?
            .args(["stop", "--silent", "--wait", "--mode=fast", "--timeout=120", "--pgdata"])
            .arg(&self.folder)
            .output()
            .context("cannot run pg_ctl")?;
        ensure!(output.status.success(), "PostgreSQL did not stop: {}.", self.reason(&output));
        Ok(())
    }

    /// The most telling line: the server's last fatal one, else what the program itself said.
    fn reason(&self, output: &Output) -> String {
        let log = tail(&self.log).unwrap_or_default();
        let fatal = log.lines().rev().find_map(|line| line.split_once("FATAL:"));
        match fatal {
            Some((_, fatal)) => fatal.trim().to_owned(),
            None => error_line(&String::from_utf8_lossy(&output.stderr)).to_owned(),
        }
    }

    /// A program of PostgreSQL, in a folder that its user can enter, undisturbed by settings meant for
    /// other servers (`PGPORT`, `PGDATA`, …).
    ///
    /// Its standard input is the turn's lock: if this process is killed, the turn ends with that
    /// program, and whoever comes next waits for it instead of working against it.
    fn command(&self, program: &str, turn: &File) -> anyhow::Result<Command> {
        let mut command = Command::new(self.binaries.program(program));
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").stdin(turn.try_clone()?);
        if let Some(parent) = self.folder.parent() {
            command.current_dir(parent);
        }
        Ok(command)
    }
}

/// The last 4 KiB.
fn tail(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The line that says what went wrong, without what a program says about tidying up after it.
fn error_line(text: &str) -> &str {
    let mut lines = text.trim_end().lines();
    let last = lines.clone().next_back().unwrap_or("it gave no reason");
    let line = lines.find_map(|line| line.split_once("error: ")).map_or(last, |(_, error)| error);
    line.trim().trim_end_matches('.')
}
