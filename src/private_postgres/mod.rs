//! A PostgreSQL of our own for whoever has set no `DATABASE_URL`: its programs are found, a cluster is
//! made in the data directory, and every process of Outgate that needs it shares it. Used by `main` only.
//!
//! The cluster listens on a Unix socket in a folder of mode 0700, never on TCP: only the user it
//! runs as and root reach it, and PostgreSQL itself asks the kernel once more who is connecting
//! (`peer`). PostgreSQL refuses to run as root, so a process started by root first becomes an
//! unprivileged user ([`become_service_user`]), before it starts any thread.

mod binaries;
mod cluster;
mod server;
mod service_user;

pub use binaries::Binaries;
pub use cluster::{DATABASE, OWNER, PrivateCluster};
pub use service_user::become_service_user;
