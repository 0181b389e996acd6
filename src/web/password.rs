//! Administrators' passwords: hashed with argon2id off the async threads, never so many at once that
//! no core is left for the pages. Used by sign-in, and by the operator's commands for a new hash.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::{
        PasswordHasher,
        phc::{Output, PasswordHash},
    },
};
use tokio::sync::{Semaphore, oneshot};

/// In bytes. More is refused before any work is done for it.
pub const MAXIMUM_LENGTH: usize = 1024;

/// How long a sign-in waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many sign-ins wait for each core that checks them, and are checked there, before further ones are turned away
/// at once.
const WAITING_PER_CORE: usize = 32;

/// Of how many sign-ins at once the working memory is kept.
const KEPT: usize = 2;

/// How far everything else comes before the check of a password where there are not enough cores for both: pages
/// stay as fast as they are while very many sign in. On Linux this is a thread's own, in nice(2)'s measure.
const NICENESS: i32 = 10;

/// Why a password was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("the password is longer than {MAXIMUM_LENGTH} bytes")]
    TooLong,
    #[error("the password could not be hashed: {0}")]
    Hash(argon2::password_hash::Error),
}

/// A salted argon2id hash in PHC format, with 19 MiB, two passes and one lane (the OWASP figures,
/// which are the defaults of the crate). Takes some 50 ms of one core: not for async threads.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if password.len() > MAXIMUM_LENGTH {
        return Err(PasswordError::TooLong);
    }
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(PasswordError::Hash)
}

/// Whether the hash was made from this password. Takes as long as [`hash`]; `false` for a hash
/// that cannot be read.
pub fn verify(password: &str, hash: &str) -> bool {
    verify_in(&mut Vec::new(), password, hash)
}

/// The same, in memory that is there already.
fn verify_in(memory: &mut Vec<Block>, password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else { return false };
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from);
    let algorithm = Algorithm::try_from(hash.algorithm.as_str());
    let (Ok(algorithm), Ok(version), Ok(params)) = (algorithm, version, Params::try_from(&hash)) else { return false };
    memory.resize(params.block_count(), Block::new());
    let mut computed = vec![0; expected.len()];
    let done = Argon2::new(algorithm, version, params).hash_password_into_with_memory(
        password.as_bytes(),
        salt,
        &mut computed,
        &mut memory[..],
    );
    // Outputs compare in constant time.
    done.is_ok() && Output::new(&computed).is_ok_and(|computed| computed == *expected)
}

fn lock(memory: &Mutex<Vec<Vec<Block>>>) -> MutexGuard<'_, Vec<Vec<Block>>> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Too many sign-ins at once; nothing was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Where sign-ins wait for a core.
#[derive(Debug, Clone)]
pub struct Verifier {
    cores: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// What a password is checked against when nobody has the address, so that the answer takes as long.
    nobodys: Arc<str>,
    /// Working memory, 19 MiB apiece, kept for the next sign-in: what is given back to the allocator and
    /// taken again stays with it in growing pieces.
    memory: Arc<Mutex<Vec<Vec<Block>>>>,
}

impl Verifier {
    /// One check per core at a time, but for one core, which stays for the pages: a thread that computes, however
    /// little urgent, is put aside for others only after a while.
    pub fn new() -> Result<Self, PasswordError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_cores(cores.saturating_sub(1).max(1))
    }

    /// `cores` checks at a time.
    pub fn with_cores(cores: usize) -> Result<Self, PasswordError> {
        Ok(Self {
            cores: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(cores * WAITING_PER_CORE)),
            nobodys: hash("nobody's password")?.into(),
            memory: Arc::default(),
        })
    }

    /// Whether `hash` was made from this password. Without a hash the same work is done, and the answer is no.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Busy> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Busy)?;
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.cores).acquire_owned()).await;
        let Ok(Ok(core)) = turn else { return Err(Busy) };
        let (nobodys, kept) = (Arc::clone(&self.nobodys), Arc::clone(&self.memory));
        let (answer, checked) = oneshot::channel();
        // The permits go along: work goes on although the client may have gone. On a thread of its own, which can be
        // made less urgent than all others and never has to be made as urgent again, for which one may lack the right.
        let checking = std::thread::Builder::new().name("password".to_owned()).spawn(move || {
            let _held = (place, core);
            // Elsewhere than on Linux it would be the whole process.
            if cfg!(target_os = "linux")
                && let Err(error) = rustix::process::setpriority_process(None, NICENESS)
            {
                tracing::debug!(%error, "checking a password as urgently as everything else");
            }
            let mut memory = lock(&kept).pop().unwrap_or_default();
            let right = verify_in(&mut memory, &password, hash.as_deref().unwrap_or(&nobodys));
            // What is kept tells nothing of the password.
            memory.fill(Block::new());
            let mut kept = lock(&kept);
            if kept.len() < KEPT {
                kept.push(memory);
            }
            // Whoever asked may have gone.
            let _ = answer.send(right && hash.is_some());
        });
        checking.map_err(|_| Busy)?;
        checked.await.map_err(|_| Busy)
    }
}
