//! `OUTGATE_SECRET_KEY_FILE`: the private keys, one a line, the newest last. Made and changed by the operator's
//! commands, read by relays; nobody else may read it.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, anyhow, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{KeyId, PrivateKey, PrivateKeys};

const HEAD: &str = "# Keys of Outgate's relays, which open the passwords of gateways. The last one seals new passwords.\n\
                    # Whoever has this file and the store can read them: keep a copy as you keep passwords.\n";

/// Reads the keys.
///
/// # Errors
/// One sentence, if others than its owner may read it, or if it is no such file.
pub fn read(path: &Path) -> anyhow::Result<PrivateKeys> {
    let shown = path.display();
    let file =
        fs::metadata(path).map_err(|error| anyhow!("OUTGATE_SECRET_KEY_FILE: {shown} cannot be read: {error}."))?;
    ensure!(file.is_file(), "OUTGATE_SECRET_KEY_FILE: {shown} is not a file.");
    ensure!(
        file.mode() & 0o077 == 0,
        "OUTGATE_SECRET_KEY_FILE: others than its owner may read {shown}: run chmod 600 {shown}."
    );
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| anyhow!("OUTGATE_SECRET_KEY_FILE: {shown} cannot be read: {error}."))?;
    let text = Zeroizing::new(text);
    let mut keys = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let bytes = BASE64_STANDARD.decode(line).map(Zeroizing::new).ok();
        let key = bytes.and_then(|bytes| PrivateKey::from_bytes(&bytes));
        keys.push(key.with_context(|| format!("OUTGATE_SECRET_KEY_FILE: a line of {shown} is not a key."))?);
    }
    ensure!(!keys.is_empty(), "OUTGATE_SECRET_KEY_FILE: there is no key in {shown}.");
    Ok(PrivateKeys(keys))
}

/// Makes a file with one new key.
///
/// # Errors
/// One sentence, if there is a file already or it cannot be written.
pub fn create(path: &Path) -> anyhow::Result<KeyId> {
    let key = PrivateKey::generate();
    let id = key.public().id();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already: its keys may be in use.", path.display())
        }
        made => made.with_context(|| format!("cannot write {}", path.display()))?,
    };
    write(file, &PrivateKeys(vec![key])).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(id)
}

/// Makes the file if it is not there yet. Of several at once one does.
///
/// # Errors
/// If it cannot be written.
pub fn ensure_there(path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    match create(path) {
        Err(_) if path.exists() => Ok(()),
        made => made.map(drop),
    }
}

/// Adds a new key, which seals from now on.
pub fn rotate(path: &Path) -> anyhow::Result<KeyId> {
    let mut keys = read(path)?;
    let key = PrivateKey::generate();
    let id = key.public().id();
    keys.0.push(key);
    replace(path, &keys)?;
    Ok(id)
}

/// A key that may be removed: not the newest, which seals.
pub fn removable(path: &Path, id: &str) -> anyhow::Result<KeyId> {
    let keys = read(path)?;
    let Some(place) = keys.0.iter().position(|key| key.public().id().to_string() == id) else {
        bail!("there is no key {id} in {}", path.display());
    };
    ensure!(
        place + 1 < keys.0.len(),
        "the key {id} seals new passwords: add a newer one first, with secret-key rotate"
    );
    Ok(keys.0[place].public().id())
}

/// Removes a key.
pub fn remove(path: &Path, id: &KeyId) -> anyhow::Result<()> {
    let mut keys = read(path)?;
    keys.0.retain(|key| key.public().id() != *id);
    replace(path, &keys)
}

/// Whoever reads the file meanwhile sees the old or the new one, whole.
fn replace(path: &Path, keys: &PrivateKeys) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Made readable for its owner alone.
    let file =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    write(file.as_file().try_clone()?, keys)?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn write(mut file: File, keys: &PrivateKeys) -> std::io::Result<()> {
    let mut text = Zeroizing::new(HEAD.to_owned());
    for key in &keys.0 {
        text.push_str(&Zeroizing::new(BASE64_STANDARD.encode(key.to_bytes().as_slice())));
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
