//! A real Exim as gateway, run from the packages that `bin/test` has unpacked. Nothing is installed and no user made:
//! a library that answers for the user database shows it one.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User},
};
use tempfile::TempDir;

use super::outgate::unused_address;

/// How long Exim may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// Whom it runs as: a user that every Debian has, under the name that the package was built with.
const RUNS_AS: &str = "daemon";
const NAME: &str = "Debian-exim";

/// Runs until it is dropped.
pub struct Exim {
    pub address: SocketAddr,
    folder: TempDir,
    daemon: Child,
}

impl Exim {
    /// One that passes everything on to `next`, with further main settings, one a line.
    pub async fn relaying_to(next: SocketAddr, settings: &str) -> Self {
        Self::start(folder(), next, settings, "").await
    }

    /// The same for who speaks TLS with it, to whom it shows this certificate (PEM), with its key.
    pub async fn relaying_over_tls(next: SocketAddr, (certificate, key): (&str, &str)) -> Self {
        let folder = folder();
        let settings = with_certificate(&folder, certificate, key) + "acl_smtp_mail = over_tls\n";
        Self::start(folder, next, &settings, "").await
    }

    /// The same for who signs in as this user.
    pub async fn relaying_for(
        (user, password): (&str, &str),
        next: SocketAddr,
        (certificate, key): (&str, &str),
    ) -> Self {
        let folder = folder();
        let settings = with_certificate(&folder, certificate, key) + "acl_smtp_mail = signed_in\n";
        let condition = |given: &str, secret: &str| {
            format!("${{if and{{{{eq{{{given}}}{{{user}}}}}{{eq{{{secret}}}{{{password}}}}}}}}}")
        };
        let authenticators = [
            ("plain", "PLAIN", ":", "$auth2", "$auth3"),
            ("login", "LOGIN", "<| Username: | Password:", "$auth1", "$auth2"),
        ]
        .map(|(name, public, prompts, given, secret)| {
            format!(
                "{name}:\n  driver = plaintext\n  public_name = {public}\n  server_prompts = {prompts}\n  \
                 server_condition = {}\n  server_set_id = {given}\n  \
                 server_advertise_condition = ${{if def:tls_in_cipher}}\n",
                condition(given, secret)
            )
        });
        Self::start(folder, next, &settings, &authenticators.concat()).await
    }

    async fn start(folder: TempDir, next: SocketAddr, settings: &str, authenticators: &str) -> Self {
        let accepts = if settings.contains("acl_smtp_rcpt") { "" } else { "acl_smtp_rcpt = accept\n" };
        let hosts = if settings.contains("tls_certificate") { "*" } else { "" };
        let settings = format!("tls_advertise_hosts = {hosts}\n{accepts}{settings}");
        let address = unused_address();
        let config = folder.path().join("exim.conf");
        fs::write(&config, configuration(&folder, address, next, &settings) + authenticators).unwrap();
        let output = fs::File::create(folder.path().join("output")).unwrap();
        let mut command = Command::new(folder.path().join("exim"));
        // In the foreground, and with a process group of its own, which ends as one.
        command.arg("-C").arg(&config).args(["-bdf"]).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut exim = Self { address, folder, daemon: command.spawn().unwrap() };
        exim.listens().await;
        exim
    }

    async fn listens(&mut self) {
        let deadline = Instant::now() + LISTENS_WITHIN;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = self.daemon.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "Exim does not listen: {ended:?} {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it has written.
    pub fn log(&self) -> String {
        let files = ["output", "mainlog", "paniclog", "rejectlog"];
        files.map(|file| fs::read_to_string(self.folder.path().join("log").join(file)).unwrap_or_default()).concat()
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.daemon.id().try_into().unwrap());
        let _ = killpg(group, Signal::SIGTERM);
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            eprintln!("Exim wrote: {}", self.log());
        }
    }
}

/// Its folders, a user database that knows it, and a program that starts it with both.
fn folder() -> TempDir {
    let user = User::from_name(RUNS_AS).unwrap().unwrap();
    let folder = tempfile::Builder::new().prefix("outgate-test-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["spool", "log"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        nix::unistd::chown(&folder.path().join(name), Some(user.uid), Some(user.gid)).unwrap();
    }
    let (uid, gid) = (user.uid, user.gid);
    let users = format!("root:x:0:0::/:/bin/sh\n{NAME}:x:{uid}:{gid}::/:/bin/sh\nmail:x:8:8::/:/bin/sh\n");
    fs::write(folder.path().join("users"), users).unwrap();
    fs::write(folder.path().join("groups"), format!("root:x:0:\n{NAME}:x:{gid}:\nmail:x:8:\n")).unwrap();
    let (libraries, folder_path) = (libraries(), folder.path().display());
    let start = format!(
        "#!/bin/sh\nexport LD_LIBRARY_PATH={libraries} LD_PRELOAD=libnss_wrapper.so\n\
         export NSS_WRAPPER_PASSWD={folder_path}/users NSS_WRAPPER_GROUP={folder_path}/groups\n\
         exec {} \"$@\"\n",
        root().join("usr/sbin/exim4").display(),
        libraries = libraries.display(),
    );
    let program = folder.path().join("exim");
    fs::write(&program, start).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// What the main settings say of a certificate that it can read.
fn with_certificate(folder: &TempDir, certificate: &str, key: &str) -> String {
    let user = User::from_name(RUNS_AS).unwrap().unwrap();
    let files = [("certificate.pem", certificate), ("key.pem", key)].map(|(name, content)| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        nix::unistd::chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        path.display().to_string()
    });
    let [certificate, key] = files;
    format!("tls_certificate = {certificate}\ntls_privatekey = {key}\n")
}

fn configuration(folder: &TempDir, address: SocketAddr, next: SocketAddr, settings: &str) -> String {
    format!(
        "exim_path = {folder}/exim
deliver_drop_privilege = true
keep_environment =
primary_hostname = router.example
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/log/pid
daemon_smtp_ports = {port}
local_interfaces = {ip}
host_lookup =
rfc1413_hosts =
acl_smtp_data = accept
{settings}
begin acl
over_tls:
  accept encrypted = *
  deny message = 530 5.7.0 TLS first
signed_in:
  accept authenticated = *
  deny message = 530 5.7.0 Sign in first
begin routers
next:
  driver = manualroute
  route_list = * {next_ip}
  transport = next
  self = send
begin transports
next:
  driver = smtp
  port = {next_port}
  allow_localhost
begin retry
* * F,1h,1s
begin authenticators
",
        folder = folder.path().display(),
        ip = address.ip(),
        port = address.port(),
        next_ip = next.ip(),
        next_port = next.port(),
    )
}

fn root() -> PathBuf {
    let root = std::env::var_os("OUTGATE_TEST_EXIM");
    PathBuf::from(root.expect("OUTGATE_TEST_EXIM names the folder of an unpacked Exim; bin/test makes it"))
}

/// Its own libraries, and those that the machine lacks.
fn libraries() -> PathBuf {
    let entries = fs::read_dir(root().join("usr/lib")).unwrap().map(|entry| entry.unwrap().path());
    let own = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with("-linux-gnu"));
    entries.into_iter().find(own).expect("the package has libraries")
}
