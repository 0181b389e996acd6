//! The private keys that a relay opens passwords with. Read again when their file changes; passwords that are
//! sealed with an older key are sealed anew while mail flows.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    secret::{Context, OpenError, Password, PrivateKeys, PublicKey, SealedSecret, key_file},
    store,
};

/// How often the file and the store are looked at.
const EVERY: Duration = Duration::from_secs(30);
/// How many passwords are looked at in one step.
const STEP: i64 = 100;

/// What a relay knows of them. A key that was read once is kept until the relay ends: what it remembers of a
/// gateway may be sealed with it.
#[derive(Debug, Default)]
pub struct SecretKeys {
    file: Option<PathBuf>,
    /// A std lock: held for a look-up only, never across an await.
    keys: RwLock<Arc<PrivateKeys>>,
}

impl SecretKeys {
    /// From `OUTGATE_SECRET_KEY_FILE`; `None`: no password can be opened.
    ///
    /// # Errors
    /// One sentence, if the file cannot be used.
    pub fn from_file(file: Option<PathBuf>) -> anyhow::Result<Self> {
        let keys = file.as_deref().map(key_file::read).transpose()?.unwrap_or_default();
        Ok(Self { file, keys: RwLock::new(Arc::new(keys)) })
    }

    fn keys(&self) -> Arc<PrivateKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn open(&self, secret: &SealedSecret, context: &Context) -> Result<Password, OpenError> {
        self.keys().open(secret, context)
    }

    /// Reads the file again, and adds what is new.
    fn refresh(&self) -> anyhow::Result<Arc<PrivateKeys>> {
        let Some(file) = &self.file else { return Ok(self.keys()) };
        let read = key_file::read(file)?;
        let mut keys = self.keys();
        let new: Vec<_> = read.0.into_iter().filter(|key| keys.0.iter().all(|k| k.public() != key.public())).collect();
        if !new.is_empty() {
            Arc::make_mut(&mut keys).0.extend(new);
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.clone();
        }
        Ok(keys)
    }

    /// Publishes the keys and seals anew what is sealed with older ones, until `stop`.
    pub async fn follow(&self, db: &PgPool, stop: CancellationToken) {
        if self.file.is_none() {
            return;
        }
        loop {
            match stop.run_until_cancelled(self.seal_anew(db)).await {
                None => return,
                Some(Ok(0)) => {}
                Some(Ok(passwords)) => {
                    tracing::info!(passwords, "passwords of gateways are sealed with the newest key")
                }
                Some(Err(error)) => {
                    tracing::warn!(error = format!("{error:#}"), "the secret keys were not looked after")
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// One look at the file and the store. Returns how many passwords were sealed anew.
    pub async fn seal_anew(&self, db: &PgPool) -> anyhow::Result<usize> {
        let keys = self.refresh()?;
        let public: Vec<PublicKey> = keys.0.iter().map(|key| key.public()).collect();
        store::secret_key::publish(db, &public).await?;
        let newest = store::secret_key::newest(&mut *db.acquire().await?).await?;
        let Some(newest) = newest else { return Ok(0) };
        let (mut sealed, mut last) = (0, None);
        loop {
            let outdated = store::secret_key::outdated_across_tenants(db, &newest, last.as_ref(), STEP).await?;
            if outdated.is_empty() {
                return Ok(sealed);
            }
            for outdated in &outdated {
                // What it cannot open, another relay may.
                let Ok(password) = keys.open(&outdated.sealed, &outdated.context) else { continue };
                let anew = newest.seal(&password, &outdated.context)?;
                sealed += usize::from(store::secret_key::replace_across_tenants(db, outdated, &anew).await?);
            }
            last = outdated.into_iter().next_back();
        }
    }
}
