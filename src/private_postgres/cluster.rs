//! The private cluster as processes of Outgate share it: whoever comes first starts it, whoever
//! leaves last stops it. Above the server that it runs; used by `main`.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use nix::unistd::{User, geteuid};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{Binaries, server::Server, service_user::make_private_folder};

/// The role that owns everything in the private cluster: its superuser.
pub const OWNER: &str = "outgate";
/// The one database in it: what `initdb` makes.
pub const DATABASE: &str = "postgres";

/// The longest folder for a socket: the whole path ends at 107 bytes (103 on some systems), of which
/// PostgreSQL needs 14 for `/.s.PGSQL.5432`.
const LONGEST_SOCKET_FOLDER: usize = 103 - 14;

/// A running PostgreSQL that stays for as long as this value lives, or longer if another process uses it too.
///
/// The data directory holds `postgresql/` (the cluster), `postgresql.log`, `socket/` and two locks:
/// `turn.lock`, held while starting or stopping, and `users.lock`, shared by all that use the
/// server. Locks end with their process, however it ends; the server goes on and is found by the next.
#[derive(Debug)]
pub struct PrivateCluster {
    server: Server,
    turn: PathBuf,
    /// `None` once it was left.
    users: Option<File>,
}

impl PrivateCluster {
    /// Starts or joins the cluster in `data_dir`, which is made if it is new. `binaries` is `OUTGATE_PG_BIN`.
    /// Blocks for about a second, two at the first start.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub fn start(data_dir: &Path, binaries: Option<&Path>) -> anyhow::Result<Self> {
        ensure!(!geteuid().is_root(), "PostgreSQL refuses to run as root.");
        let user = User::from_uid(geteuid())?
            .ok_or_else(|| anyhow!("The user id {} has no entry in passwd: PostgreSQL cannot run as it.", geteuid()))?;
        make_private_folder(data_dir)?;
        let data_dir =
            fs::canonicalize(data_dir).with_context(|| format!("cannot enter the folder {}", data_dir.display()))?;
        ensure!(
            fs::metadata(&data_dir)?.uid() == geteuid().as_raw(),
            "The data directory {} belongs to another user: run as that user or as root, or set OUTGATE_DATA_DIR.",
            data_dir.display()
        );
        ensure!(
            data_dir.to_str().is_some_and(|path| !path.contains(['"', '$', '`', '\\', '\n'])),
            "The data directory {} has a character in its path that PostgreSQL's own scripts cannot bear: choose another.",
            data_dir.display()
        );
        let folder = data_dir.join("postgresql");
        let cluster = Self {
            server: Server {
                binaries: Binaries::find(binaries, Server::made_by(&folder)?)?,
                socket_folder: socket_folder(&data_dir)?,
                log: data_dir.join("postgresql.log"),
                user: user.name,
                folder,
            },
            turn: data_dir.join("turn.lock"),
            users: None,
        };
        cluster.join(&data_dir.join("users.lock"))
    }

    fn join(mut self, users: &Path) -> anyhow::Result<Self> {
        let turn = self.take_turn()?;
        let users = open_lock(users)?;
        // At once: who takes it for itself alone holds the turn.
        users.lock_shared().context("cannot lock the data directory")?;
        self.users = Some(users);
        self.server.initialize(&turn)?;
        self.server.bring_up(&turn)?;
        Ok(self)
    }

    /// How to connect as one of its roles: [`OWNER`], or those of [`store::roles`](crate::store::roles)
    /// once they are provisioned.
    pub fn connect_options(&self, role: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.server.socket_folder)
            .port(5432)
            .username(role)
            .database(DATABASE)
            .ssl_mode(PgSslMode::Disable)
    }

    /// Where `psql -h` finds it.
    pub fn socket_folder(&self) -> &Path {
        &self.server.socket_folder
    }

    /// Starts the server again if it is not there any more. Returns whether it had to.
    /// A look at a file as long as it runs; blocks like [`start`](Self::start) otherwise.
    pub fn ensure_running(&self) -> anyhow::Result<bool> {
        if self.server.is_ready() {
            return Ok(false);
        }
        let turn = self.take_turn()?;
        if self.server.is_ready() {
            return Ok(false);
        }
        self.server.bring_up(&turn)?;
        Ok(true)
    }

    /// Stops the server unless another process uses it. To be called when the last connection is
    /// closed. Dropping the value does the same, but cannot say what went wrong.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.leave()
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        let Some(users) = self.users.take() else { return Ok(()) };
        let turn = self.take_turn()?;
        users.unlock()?;
        match users.try_lock() {
            Ok(()) => self.server.stop(&turn),
            Err(_) => Ok(()),
        }
    }

    fn take_turn(&self) -> anyhow::Result<File> {
        let turn = open_lock(&self.turn)?;
        turn.lock().context("cannot lock the data directory")?;
        Ok(turn)
    }
}

impl Drop for PrivateCluster {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            tracing::error!(error = format!("{error:#}"), "the private PostgreSQL was not stopped");
        }
    }
}

fn open_lock(file: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot write in the data directory: {}", file.display()))
}

/// `socket/` in the data directory; if that is too long for a socket, or has characters that would have to be
/// quoted in PostgreSQL's list of folders, one in /tmp that every process derives from the same data directory.
fn socket_folder(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let inside = data_dir.join("socket");
    let path = inside.as_os_str().as_encoded_bytes();
    let plain = path.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte));
    let folder = if plain && path.len() <= LONGEST_SOCKET_FOLDER {
        inside
    } else {
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        PathBuf::from(format!("/tmp/outgate-{name}"))
    };
    let made = fs::DirBuilder::new().mode(0o700).create(&folder);
    // In /tmp somebody else may have been first: it has to be a folder, ours, and ours alone.
    let found = fs::symlink_metadata(&folder)
        .map_err(|error| anyhow!("cannot make the folder {}: {}", folder.display(), made.err().unwrap_or(error)))?;
    ensure!(
        found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0,
        "The folder {} is not this user's alone, so no socket can be put there: remove it.",
        folder.display()
    );
    Ok(folder)
}
