//! How much room there is for large messages, looked at once a second, so that no message has to be refused that was
//! read already. Taken up again by itself once there is room.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::sys::statvfs::statvfs;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Files that the spool's file system has to have left, for large messages to be taken.
const LEAST_FREE_FILES: u64 = 100;

/// Looks at once, then goes on doing so until the handle is dropped. `room` gets the bytes beyond those that have to
/// stay free.
pub async fn watch(spool_dir: &Path, least_free_space: u64, room: Arc<AtomicU64>) -> AbortOnDropHandle<()> {
    let spool_dir = spool_dir.to_owned();
    look(&spool_dir, least_free_space, &room).await;
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            look(&spool_dir, least_free_space, &room).await;
        }
    }))
}

async fn look(spool_dir: &Path, least_free_space: u64, room: &AtomicU64) {
    let folder = spool_dir.to_owned();
    // A file system may take its time.
    let seen = tokio::task::spawn_blocking(move || usable(&folder, least_free_space)).await;
    let seen = seen.unwrap_or(Err(nix::Error::EIO));
    let before = room.swap(seen.unwrap_or_default(), Ordering::Relaxed);
    let spool_dir = spool_dir.display();
    match (before, seen) {
        (0, Ok(1..)) => tracing::info!(%spool_dir, "there is room for large messages"),
        (1.., Ok(0)) => tracing::error!(%spool_dir, "the spool is full, large messages are put off"),
        (1.., Err(error)) => {
            tracing::error!(%spool_dir, %error, "the spool cannot be used, large messages are put off")
        }
        _ => {}
    }
}

fn usable(folder: &Path, least_free_space: u64) -> nix::Result<u64> {
    let free = statvfs(folder)?;
    // Some file systems count no files at all.
    let has_files = free.files() == 0 || free.files_available() >= LEAST_FREE_FILES;
    let bytes = free.blocks_available() * free.fragment_size();
    Ok(if has_files { bytes.saturating_sub(least_free_space) } else { 0 })
}
