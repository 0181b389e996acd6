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
tlsmgr unix - - n 1000? 1 tlsmgr
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
        Self::start(spool(), next, settings.join("\n")).await
    }

    /// The same for whoever signs in as this user.
    pub async fn relaying_for((user, password): (&str, &str), next: SocketAddr, settings: &[&str]) -> Self {
        let folder = spool();
        let asking = ask_for_password(folder.path(), user, password);
        Self::start(folder, next, asking + &settings.join("\n")).await
    }

    async fn start(folder: TempDir, next: SocketAddr, settings: String) -> Self {
        let address = unused_address();
        let services = format!("{address} inet n - n - 100 smtpd\n{SERVICES}");
        fs::write(folder.path().join("etc/master.cf"), services).unwrap();
        let main = format!("{}{}\n", settings_of(folder.path(), next), settings);
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

/// Lets one user in who has this password, and nobody else: by Cyrus SASL, whose settings Debian's Postfix looks for
/// beside its own, and a file of passwords. Returns what `main.cf` says about it.
fn ask_for_password(folder: &Path, user: &str, password: &str) -> String {
    let sasl = folder.join("etc/sasl");
    fs::create_dir(&sasl).unwrap();
    let passwords = sasl.join("passwords");
    let said = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {}\n",
        passwords.display()
    );
    fs::write(sasl.join("smtpd.conf"), said).unwrap();
    let mut command = Command::new(sasl_root().join("usr/sbin/saslpasswd2"));
    let libraries = std::env::join_paths(library_folders(&sasl_root())).unwrap();
    command.env("LD_LIBRARY_PATH", libraries).env("SASL_PATH", sasl_plugins());
    command.args(["-p", "-c", "-u", "archive.example", "-f"]).arg(&passwords).arg(user);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "saslpasswd2 makes a file of passwords");
    let owner = User::from_name(OWNER).unwrap().unwrap();
    nix::unistd::chown(&passwords, Some(owner.uid), None).unwrap();
    format!(
        "smtpd_sasl_auth_enable = yes
smtpd_sasl_authenticated_header = yes
smtpd_sasl_local_domain = archive.example
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_tls_auth_only = yes
import_environment = {} SASL_PATH={}
",
        environment(),
        sasl_plugins().display()
    )
}

fn sasl_root() -> PathBuf {
    let root = std::env::var_os("OUTGATE_TEST_SASL");
    PathBuf::from(root.expect("OUTGATE_TEST_SASL names the folder of an unpacked Cyrus SASL; bin/test makes it"))
}

fn sasl_plugins() -> PathBuf {
    let mut folders = library_folders(&sasl_root()).into_iter().map(|folder| folder.join("sasl2"));
    folders.find(|folder| folder.join("libsasldb.so").exists()).expect("Cyrus SASL has its plugins")
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
import_environment = {environment}
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
        environment = environment(),
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

/// What its daemons get of the environment.
fn environment() -> String {
    format!("MAIL_CONFIG LD_LIBRARY_PATH={}", libraries().to_str().unwrap())
}

/// Its own libraries, and those that the machine lacks.
fn libraries() -> OsString {
    let own = std::iter::once(root().join("usr/lib/postfix"));
    std::env::join_paths(own.chain(library_folders(&root()))).unwrap()
}

/// Where a package has its libraries that was unpacked here.
fn library_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for parent in ["usr/lib", "lib"] {
        let Ok(entries) = fs::read_dir(root.join(parent)) else { continue };
        let paths = entries.map(|entry| entry.unwrap().path());
        folders.extend(paths.filter(|path| path.to_str().is_some_and(|path| path.ends_with("-linux-gnu"))));
    }
    folders
}
