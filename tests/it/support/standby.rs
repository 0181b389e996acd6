//! A PostgreSQL with a standby that has every commit before it is answered, and one address that leads to whichever of
//! the two is to be used, as a virtual address or a proxy does.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::unistd::{User, chown, geteuid};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::outgate::{Outgate, kill_server, server};

const ATTACHED_WITHIN: Duration = Duration::from_secs(30);

/// Both servers end when it is dropped.
pub struct Replicated {
    folder: TempDir,
    /// What the servers run as; `None`: as this process does.
    user: Option<User>,
}

impl Replicated {
    /// Both run, the address leads to the primary, and everything is migrated.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("outgate-test-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let named = |name| User::from_name(name).unwrap();
        // PostgreSQL refuses to run as root.
        let user = geteuid().is_root().then(|| named("postgres").or_else(|| named("nobody")).unwrap());
        let store = Self { folder, user };
        for name in ["address", "primary", "standby"] {
            fs::create_dir(store.path(name)).unwrap();
            chown(&store.path(name), store.user.as_ref().map(|user| user.uid), None).unwrap();
        }
        let data = store.data("primary");
        let made = ["-D", &data, "-U", "outgate", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
        store.run("initdb", &made);
        store.start_server("primary", "");
        store.lead_to("primary");
        Outgate::on(&store.owner()).succeeds(&["migrate"]).await;

        store.run("pg_ctl", &["stop", "-w", "-D", &data]);
        store.run_program(Path::new("/bin/cp"), &["-a", &data, &store.data("standby")]);
        fs::write(store.path("standby/postgresql/standby.signal"), "").unwrap();
        store.start_server("primary", "-c synchronous_standby_names=*");
        let primary = store.path("primary");
        store.start_server("standby", &format!("-c primary_conninfo='user=outgate host={}'", primary.display()));
        store.attached().await;
        store
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self, name: &str) -> String {
        self.path(name).join("postgresql").to_str().unwrap().to_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let programs = std::env::var_os("OUTGATE_PG_BIN").expect("OUTGATE_PG_BIN says where PostgreSQL's programs are");
        self.run_program(&Path::new(&programs).join(program), arguments);
    }

    fn run_program(&self, program: &Path, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        // What pg_ctl starts would hold a pipe open.
        let said = self.path("said");
        let output = fs::File::create(&said).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let status = command.status().unwrap();
        assert!(status.success(), "{program:?} {arguments:?}: {}", fs::read_to_string(said).unwrap());
    }

    fn start_server(&self, name: &str, settings: &str) {
        let folder = self.path(name);
        let folder = folder.display();
        let settings =
            format!("-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c jit=off {settings}");
        let log = format!("{folder}/log");
        self.run("pg_ctl", &["start", "-w", "-D", &self.data(name), "-l", &log, "-o", &settings]);
    }

    /// Leads the address to this server.
    fn lead_to(&self, name: &str) {
        let new = self.path("address/new");
        symlink(self.path(name).join(SOCKET), &new).unwrap();
        fs::rename(new, self.path("address").join(SOCKET)).unwrap();
    }

    /// Waits until no commit is answered before the standby has it.
    async fn attached(&self) {
        let owner = self.owner();
        let attached = async {
            let state = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            while sqlx::query_scalar::<_, i64>(state).fetch_one(&owner).await.unwrap() == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(ATTACHED_WITHIN, attached).await.expect("the standby follows the primary");
    }

    /// As the owner, by the address.
    pub fn owner(&self) -> PgPool {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(self.path("address"))
            .port(5432)
            .username("outgate")
            .database("postgres");
        PgPoolOptions::new().max_connections(5).connect_lazy_with(options)
    }

    /// The primary is killed, the standby takes over, and the address leads to it.
    pub async fn fail_over(&self) {
        kill_server(server(&self.path("primary")).expect("the primary runs")).await;
        self.run("pg_ctl", &["promote", "-w", "-D", &self.data("standby")]);
        self.lead_to("standby");
    }
}

const SOCKET: &str = ".s.PGSQL.5432";

impl Drop for Replicated {
    fn drop(&mut self) {
        for name in ["standby", "primary"] {
            if server(&self.path(name)).is_some() && !std::thread::panicking() {
                self.run("pg_ctl", &["stop", "-w", "-m", "immediate", "-D", &self.data(name)]);
            } else if let Some(server) = server(&self.path(name)) {
                let _ = nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGQUIT);
            }
        }
    }
}
