//! A real Postfix as gateway, run from the package that `bin/test` has unpacked, and its load
//! generator as client. Nothing is installed and no user made: it runs as users that every Debian has.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, User},
};
use tempfile::TempDir;

use super::outgate::unused_address;

/// How long Postfix may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Who owns its queue. Postfix demands one that is nobody else's and not `nobody`, and a group apart.
const OWNER: &str = "daemon";
const GROUP: &str = "mail";

/// What a server that relays needs of `master.cf`; nothing runs in a chroot.
const SERVICES: &str = "\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000 1 tlsmgr
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// Runs until it is dropped.
pub struct Postfix {
    pub address: SocketAddr,
    folder: TempDir,
    master: Child,
}

impl Postfix {
    /// One that passes everything on to `next`, with further lines of `main.cf`.
    pub async fn relaying_to(next: SocketAddr, settings: &[&str]) -> Self {
        let (folder, address) = (spool(), unused_address());
        let services = format!("{address} inet n - n - 100 smtpd\n{SERVICES}");
        fs::write(folder.path().join("etc/master.cf"), services).unwrap();
        let main = format!("{}{}\n", settings_of(folder.path(), next), settings.join("\n"));
        fs::write(folder.path().join("etc/main.cf"), main).unwrap();
        let output = fs::File::create(folder.path().join("output")).unwrap();
        let mut command = program("usr/lib/postfix/sbin/master");
        // In the foreground, and with a process group of its own, which ends as one.
        command.arg("-d").arg("-c").arg(folder.path().join("etc")).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut postfix = Self { address, folder, master: command.spawn().unwrap() };
        postfix.listens().await;
        postfix
    }

    async fn listens(&mut self) {
        let deadline = Instant::now() + LISTENS_WITHIN;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = self.master.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "Postfix does not listen: {ended:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it has written.
    pub fn log(&self) -> String {
        ["output", "log"].map(|file| fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()).concat()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.master.id().try_into().unwrap());
        let _ = kill(group, Signal::SIGTERM);
        let deadline = Instant::now() + ENDS_WITHIN;
        while matches!(self.master.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.master.wait();
        if std::thread::panicking() {
            eprintln!("Postfix wrote: {}", self.log());
        }
    }
}

/// Its folders, as the installation of the package would make them.
fn spool() -> TempDir {
    let owner = User::from_name(OWNER).unwrap().unwrap();
    let folder = tempfile::Builder::new().prefix("outgate-test-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["etc", "spool", "spool/pid"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let queues = ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop"];
    let owned = queues.into_iter().chain(["private", "public", "saved", "trace"]).map(|name| format!("spool/{name}"));
    for name in owned.chain(["data".to_owned()]) {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        nix::unistd::chown(&path, Some(owner.uid), None).unwrap();
    }
    folder
}

fn settings_of(folder: &Path, next: SocketAddr) -> String {
    let (folder, root) = (folder.display(), root());
    let root = root.display();
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
command_directory = {root}/usr/sbin
daemon_directory = {root}/usr/lib/postfix/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {folder}/etc
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
import_environment = MAIL_CONFIG LD_LIBRARY_PATH={libraries}
mail_owner = {OWNER}
setgid_group = {GROUP}
myhostname = archive.example
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
alias_maps =
local_recipient_maps =
local_header_rewrite_clients =
mynetworks = 127.0.0.0/8
relayhost = [{ip}]:{port}
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
in_flow_delay = 0
",
        libraries = libraries().to_str().unwrap(),
        ip = next.ip(),
        port = next.port(),
    )
}

/// One of the package's programs, which finds its libraries beside it.
pub fn program(path: &str) -> Command {
    let mut command = Command::new(root().join(path));
    command.env("LD_LIBRARY_PATH", libraries());
    command
}

fn root() -> PathBuf {
    let root = std::env::var_os("OUTGATE_TEST_POSTFIX");
    PathBuf::from(root.expect("OUTGATE_TEST_POSTFIX names the folder of an unpacked Postfix; bin/test makes it"))
}

/// Its own libraries, and those that the machine lacks.
fn libraries() -> OsString {
    let mut folders = vec![root().join("usr/lib/postfix")];
    for parent in ["usr/lib", "lib"] {
        let Ok(entries) = fs::read_dir(root().join(parent)) else { continue };
        let paths = entries.map(|entry| entry.unwrap().path());
        folders.extend(paths.filter(|path| path.to_str().is_some_and(|path| path.ends_with("-linux-gnu"))));
    }
    std::env::join_paths(folders).unwrap()
}
