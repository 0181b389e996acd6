//! A door between a relay and its PostgreSQL that a test can shut: for the relay it is as if
//! PostgreSQL had been stopped. It can also lose a COMMIT or the answer to it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub struct StoreDoor {
    folder: Arc<tempfile::TempDir>,
    socket: PathBuf,
    options: PgConnectOptions,
    open: CancellationToken,
    connections: TaskTracker,
    at_commit: Arc<AtCommit>,
}

/// What becomes of the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives, and the connection breaks.
    Lost,
    /// It is done, and the connection breaks before anybody hears of it.
    AnswerLost,
    /// It is done, and the answer waits for [`StoreDoor::go_on`].
    AnswerLate,
}

#[derive(Debug)]
struct AtCommit {
    /// A std lock: held for taking only.
    next: Mutex<Option<Fate>>,
    /// One permit for each COMMIT that has met its fate.
    met: Semaphore,
    go_on: Semaphore,
}

impl StoreDoor {
    /// Open, in front of the server that `owner` is connected to.
    pub fn before(owner: &PgPool) -> Self {
        let options = (*owner.connect_options()).clone();
        let folder = options.get_socket().expect("the tests' cluster listens on a socket").clone();
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        let mut door = Self {
            folder: Arc::new(tempfile::tempdir_in("/tmp").unwrap()),
            socket,
            options,
            open: CancellationToken::new(),
            connections: TaskTracker::new(),
            at_commit: Arc::new(AtCommit { next: Mutex::default(), met: Semaphore::new(0), go_on: Semaphore::new(0) }),
        };
        door.open();
        door
    }

    /// Connects through the door.
    pub fn pool_as(&self, role: &str) -> PgPool {
        let options = self.options.clone().socket(self.folder.path()).port(5432).username(role);
        PgPoolOptions::new().max_connections(10).connect_lazy_with(options)
    }

    /// Decides about the next COMMIT.
    pub fn next_commit(&self, fate: Fate) {
        *self.at_commit.next.lock().unwrap() = Some(fate);
    }

    /// Waits until that COMMIT has come.
    pub async fn met(&self) {
        self.at_commit.met.acquire().await.unwrap().forget();
    }

    /// Lets a late answer pass.
    pub fn go_on(&self) {
        self.at_commit.go_on.add_permits(1);
    }

    pub fn open(&mut self) {
        self.open = CancellationToken::new();
        let path = self.folder.path().join(".s.PGSQL.5432");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let (open, socket, connections) = (self.open.clone(), self.socket.clone(), self.connections.clone());
        let at_commit = Arc::clone(&self.at_commit);
        self.connections.spawn(async move {
            while let Some(Ok((relay, _))) = open.run_until_cancelled(listener.accept()).await {
                let (open, socket, at_commit) = (open.clone(), socket.clone(), Arc::clone(&at_commit));
                connections.spawn(async move {
                    let Ok(store) = UnixStream::connect(socket).await else { return };
                    let _ = open.run_until_cancelled(pass(relay, store, &at_commit)).await;
                });
            }
        });
    }

    /// Ends all connections and lets no new one in.
    pub async fn shut(&self) {
        self.open.cancel();
        self.connections.close();
        self.connections.wait().await;
        self.connections.reopen();
        let _ = std::fs::remove_file(self.folder.path().join(".s.PGSQL.5432"));
    }
}

/// Passes everything on until either side closes or a COMMIT meets its fate.
async fn pass(mut relay: UnixStream, mut store: UnixStream, at_commit: &AtCommit) -> io::Result<()> {
    let (mut asked, mut said) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut writes = Vec::new();
    loop {
        tokio::select! {
            read = relay.read(&mut asked) => match read? {
                0 => return Ok(()),
                read => {
                    let asked = &asked[..read];
                    let has = |sought: &[u8]| asked.windows(sought.len()).any(|bytes| bytes == sought);
                    if asked[0] == b'P' && has(b"insert into queued_message") {
                        writes = statement_name(&asked[PREFIX..]);
                    }
                    // The values of the statement that writes messages, a transaction of its own; or a simple query,
                    // whose text ends with a zero, behind a message of several pieces.
                    let is_write = asked[0] == b'B' && !writes.is_empty() && has(&writes);
                    let is_commit = is_write || has(b"COMMIT\0");
                    let fate = if is_commit { at_commit.next.lock().unwrap().take() } else { None };
                    if fate != Some(Fate::Lost) {
                        store.write_all(asked).await?;
                    }
                    if let Some(fate) = fate {
                        let answer = if fate == Fate::Lost { 0 } else { store.read(&mut said).await? };
                        at_commit.met.add_permits(1);
                        if fate != Fate::AnswerLate {
                            return Ok(());
                        }
                        at_commit.go_on.acquire().await.unwrap().forget();
                        relay.write_all(&said[..answer]).await?;
                    }
                }
            },
            read = store.read(&mut said) => match read? {
                0 => return Ok(()),
                read => relay.write_all(&said[..read]).await?,
            },
        }
    }
}

/// A message's type and length.
const PREFIX: usize = 5;

/// The name with the zero that ends it.
fn statement_name(rest: &[u8]) -> Vec<u8> {
    rest.split_inclusive(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}
