//! Passwords that are kept for relays alone: sealed with a public key (HPKE, RFC 9180), opened with a private one
//! that only relays have. Below everything that knows of gateways; the file of keys is `key_file`'s.

pub mod key_file;

use std::{fmt, sync::Arc};

use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal,
};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

type Kem = X25519HkdfSha256;
type PrivateBytes = <Kem as hpke::Kem>::PrivateKey;

/// How a sealed secret begins: what follows is the id of the key, what the key was agreed with, and the text.
const VERSION: u8 = 1;
const KEY_ID: usize = 8;
const ENCAPSULATED: usize = 32;
/// Passwords are padded to a multiple of this, so that not even their length is told.
const PADDING: usize = 64;

/// A password while it is used: never shown, wiped afterwards.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes it over; `None` if it is empty or nothing that can be typed: control characters end SMTP's lines.
    pub fn new(typed: String) -> Option<Self> {
        let typed = Zeroizing::new(typed);
        let fits = !typed.is_empty() && typed.len() <= MOST_BYTES && !typed.chars().any(char::is_control);
        fits.then_some(Self(typed))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// The longest password, in bytes.
pub const MOST_BYTES: usize = 512;

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What was typed into a password's field: wiped whatever becomes of the form.
#[derive(Default)]
pub struct TypedPassword(Zeroizing<String>);

impl TypedPassword {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `None` if it cannot be a password.
    pub fn password(&self) -> Option<Password> {
        Password::new(self.0.to_string())
    }
}

impl fmt::Debug for TypedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedPassword(…)")
    }
}

impl<'de> Deserialize<'de> for TypedPassword {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|typed| Self(Zeroizing::new(typed)))
    }
}

/// What a secret is for. It opens for exactly that and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context(Vec<u8>);

impl Context {
    /// Each part counts as a whole: nothing moves from one into the next.
    pub fn new(parts: &[&str]) -> Self {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self(bytes)
    }
}

/// How a key is told from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; KEY_ID]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What seals. Anybody may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    pub fn id(&self) -> KeyId {
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&Sha256::digest(self.0)[..KEY_ID]);
        KeyId(id)
    }

    /// Seals a password, so that only the private key's owner opens it, and only for this.
    ///
    /// # Errors
    /// If the key is none.
    pub fn seal(&self, password: &Password, context: &Context) -> Result<SealedSecret, NotAKey> {
        let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&self.0).map_err(|_| NotAKey)?;
        let bytes = password.reveal().as_bytes();
        let mut text = Zeroizing::new(vec![0; bytes.len().next_multiple_of(PADDING)]);
        text[..bytes.len()].copy_from_slice(bytes);
        let (encapsulated, sealed) =
            single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeS::Base, &key, &context.0, &text, &[])
                .map_err(|_| NotAKey)?;
        let parts = [&[VERSION][..], &self.id().0, &encapsulated.to_bytes(), &sealed];
        Ok(SealedSecret::new(&parts.concat()))
    }
}

/// A public key that is none.
#[derive(Debug, thiserror::Error)]
#[error("the key that passwords are sealed with is not a key")]
pub struct NotAKey;

/// What opens. Wiped when it is dropped.
#[derive(Clone)]
pub struct PrivateKey {
    key: PrivateBytes,
    public: PublicKey,
}

impl PrivateKey {
    pub fn generate() -> Self {
        Self::of(Kem::gen_keypair().0)
    }

    fn of(key: PrivateBytes) -> Self {
        let mut public = [0; 32];
        public.copy_from_slice(&Kem::sk_to_pk(&key).to_bytes());
        Self { key, public: PublicKey(public) }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        PrivateBytes::from_bytes(bytes).ok().map(Self::of)
    }

    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.to_bytes().to_vec())
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.id())
    }
}

/// The keys that a relay has, the newest last.
#[derive(Debug, Clone, Default)]
pub struct PrivateKeys(pub Vec<PrivateKey>);

/// Why a stored password cannot be used, in words for whoever looks why mail waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the relay has no key to open stored passwords: the operator has to set OUTGATE_SECRET_KEY_FILE")]
    NoKeys,
    #[error("the password is sealed with the key {0}, which this relay does not have")]
    UnknownKey(KeyId),
    #[error("the stored password does not belong to this address, TLS mode and user name: enter it again")]
    Refused,
}

impl PrivateKeys {
    /// Opens what was sealed for exactly this.
    pub fn open(&self, secret: &SealedSecret, context: &Context) -> Result<Password, OpenError> {
        if self.0.is_empty() {
            return Err(OpenError::NoKeys);
        }
        let id = secret.key_id().ok_or(OpenError::Refused)?;
        let key = self.0.iter().find(|key| key.public.id() == id).ok_or(OpenError::UnknownKey(id))?;
        let (encapsulated, sealed) = secret.0[1 + KEY_ID..].split_at_checked(ENCAPSULATED).ok_or(OpenError::Refused)?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| OpenError::Refused)?;
        let text = single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &key.key,
            &encapsulated,
            &context.0,
            sealed,
            &[],
        );
        let text = Zeroizing::new(text.map_err(|_| OpenError::Refused)?);
        let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let text = str::from_utf8(&text[..end]).map_err(|_| OpenError::Refused)?;
        Password::new(text.to_owned()).ok_or(OpenError::Refused)
    }
}

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

    /// The key that opens it; `None` if it is nothing that was ever sealed.
    pub fn key_id(&self) -> Option<KeyId> {
        match &self.0[..] {
            [VERSION, rest @ ..] => rest.first_chunk().map(|id| KeyId(*id)),
            _ => None,
        }
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSecret(…)")
    }
}
