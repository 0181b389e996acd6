//! A door between a relay and its PostgreSQL that a test can shut: for the relay it is as if
//! PostgreSQL had been stopped.

use std::{path::PathBuf, sync::Arc};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub struct StoreDoor {
    folder: Arc<tempfile::TempDir>,
    socket: PathBuf,
    options: PgConnectOptions,
    open: CancellationToken,
    connections: TaskTracker,
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
        };
        door.open();
        door
    }

    /// Connects through the door.
    pub fn pool_as(&self, role: &str) -> PgPool {
        let options = self.options.clone().socket(self.folder.path()).port(5432).username(role);
        PgPoolOptions::new().max_connections(10).connect_lazy_with(options)
    }

    pub fn open(&mut self) {
        self.open = CancellationToken::new();
        let path = self.folder.path().join(".s.PGSQL.5432");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let (open, socket, connections) = (self.open.clone(), self.socket.clone(), self.connections.clone());
        self.connections.spawn(async move {
            while let Some(Ok((mut inside, _))) = open.run_until_cancelled(listener.accept()).await {
                let (open, socket) = (open.clone(), socket.clone());
                connections.spawn(async move {
                    let Ok(mut outside) = UnixStream::connect(socket).await else { return };
                    let _ = open.run_until_cancelled(tokio::io::copy_bidirectional(&mut inside, &mut outside)).await;
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
