//! The unprivileged user that everything runs as where root starts it: PostgreSQL refuses to run as
//! root, and neither the pages nor the relay need it. Called by `main` before any thread exists.

use std::{ffi::CString, fs, os::unix::fs::DirBuilderExt, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, anyhow, bail, ensure};
use nix::unistd::{Uid, User, chown, geteuid, initgroups, setgid, setuid};

/// Who may become it, where the data directory does not say.
const CANDIDATES: [&str; 3] = ["outgate", "postgres", "nobody"];

/// Where this process runs as root: gives it away for good, to the owner of the data directory if
/// there is one already, otherwise to the user `outgate`, `postgres` or `nobody`, whichever exists,
/// who then gets a new data directory. As any other user: only sees that the data directory exists.
///
/// To be called first thing, since a thread that already runs would be missed, and a listener on a
/// port below 1024 or a file that only root may read can be opened before but not after.
///
/// # Errors
/// One sentence, if there is no such user or the directory cannot be its own.
pub fn become_service_user(data_dir: &Path) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return make_private_folder(data_dir);
    }
    let user = service_user(data_dir)?;
    make_private_folder(data_dir)?;
    give_to(data_dir, &user)?;
    let name = CString::new(user.name.as_str())?;
    initgroups(&name, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .with_context(|| format!("cannot change from root to the user {}", user.name))?;
    fs::read_dir(data_dir).map(drop).map_err(|error| {
        anyhow!(
            "The user {}, which PostgreSQL runs as because it refuses to run as root, cannot enter the data directory \
             {} ({error}): set OUTGATE_DATA_DIR to a folder that every user can reach, such as /var/lib/outgate.",
            user.name,
            data_dir.display(),
        )
    })
}

/// Makes a folder that only its owner can enter; an existing one stays as it is.
pub(super) fn make_private_folder(folder: &Path) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let cannot = || format!("cannot make the folder {}", folder.display());
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).with_context(cannot)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(_) if folder.is_dir() => Ok(()),
        made => made.with_context(cannot),
    }
}

fn service_user(data_dir: &Path) -> anyhow::Result<User> {
    let owner = fs::metadata(data_dir).map(|folder| Uid::from_raw(folder.uid())).ok().filter(|owner| !owner.is_root());
    if let Some(owner) = owner {
        return User::from_uid(owner)?.ok_or_else(|| {
            anyhow!(
                "The data directory {} belongs to the user id {owner}, which has no entry in passwd: PostgreSQL cannot run \
                 as it.",
                data_dir.display()
            )
        });
    }
    for name in CANDIDATES {
        if let Some(user) = User::from_name(name)? {
            return Ok(user);
        }
    }
    bail!("PostgreSQL refuses to run as root, and there is no user outgate, postgres or nobody to run it as: make one.")
}

/// Gives a new data directory to the service user. One with something in it is not taken from root:
/// it was hardly meant (`OUTGATE_DATA_DIR=/etc`).
fn give_to(data_dir: &Path, user: &User) -> anyhow::Result<()> {
    let cannot = || format!("cannot give {} to the user {}", data_dir.display(), user.name);
    if fs::metadata(data_dir).with_context(cannot)?.uid() == user.uid.as_raw() {
        return Ok(());
    }
    ensure!(
        fs::read_dir(data_dir).with_context(cannot)?.next().is_none(),
        "The data directory {path} belongs to root and is not empty, and PostgreSQL refuses to run as root: choose \
         another, or give it away with “chown {name} {path}”.",
        path = data_dir.display(),
        name = user.name,
    );
    chown(data_dir, Some(user.uid), Some(user.gid)).with_context(cannot)
}
