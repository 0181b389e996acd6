//! Passwords that are kept for relays alone. Below everything that knows of gateways.

use std::{fmt, sync::Arc};

/// A password that only a relay can open.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret(Arc<[u8]>);

impl SealedSecret {
    pub fn new(sealed: &[u8]) -> Self {
        Self(sealed.into())
    }

    /// One that was not read from the store, by whom it does not concern: it never opens.
    pub fn withheld() -> Self {
        Self::new(&[])
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSecret(…)")
    }
}
