//! Files in the spool folder that keep what the store does not take just now. They say who writes to whom, so only
//! their owner reads them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::{fcntl::OFlag, unistd::geteuid};

/// Opens one. In a folder of all users somebody else's file, or a link to another one, is not ours.
///
/// # Errors
/// If it cannot be opened, or is somebody else's.
pub fn open(file: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(file)?;
    match file.metadata()?.uid() == geteuid().as_raw() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the journal is somebody else's file")),
    }
}
