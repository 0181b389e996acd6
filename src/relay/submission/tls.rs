//! TLS towards clients: one certificate for STARTTLS and for the port that begins with TLS. A certificate
//! that is renewed on disk counts from the next handshake on.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// What clients' connections are encrypted with, from two files in PEM format.
#[derive(Debug)]
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    /// A std lock: held while two files are looked at, never across an await.
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files as they were read last, usable or not.
    stamp: Stamp,
}

/// What changes when a file is written anew or replaced.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

/// Why there is no TLS. Says which file is wrong, and nothing of what is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate {0} cannot be used: {1}")]
    Certificate(PathBuf, String),
    #[error("the key {0} cannot be used: {1}")]
    Key(PathBuf, String),
    #[error("the certificate {0} and the key {1} do not go together: {2}")]
    Pair(PathBuf, PathBuf, String),
}

impl ServerTls {
    /// Reads both files: a chain of certificates, ours first, and its private key.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let stamp = stamp(certificate, key);
        let current = Mutex::new(Current { config: read(certificate, key)?, stamp });
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current })
    }

    /// For one handshake, with the certificate that is on disk now. One that cannot be used is reported once,
    /// and the former goes on.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.certificate, &self.key);
        if stamp != current.stamp {
            current.stamp = stamp;
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    current.config = config;
                    tracing::info!(certificate = %self.certificate.display(), "the renewed certificate is in use");
                }
                // Of two files that are replaced one after the other the first comes by here too.
                Err(error) => tracing::error!(%error, "the former certificate stays in use"),
            }
        }
        Arc::clone(&current.config).into()
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|path| {
        let file = fs::metadata(path).ok()?;
        Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    })
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let of_certificate = |error: String| TlsError::Certificate(certificate.to_owned(), error);
    let chain = fs::read(certificate).map_err(|error| of_certificate(in_words(&error)))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|_| of_certificate("it is not in PEM format".to_owned()))?;
    if chain.is_empty() {
        return Err(of_certificate("there is none in the file".to_owned()));
    }
    let of_key = |error: String| TlsError::Key(key.to_owned(), error);
    let private = fs::read(key).map_err(|error| of_key(in_words(&error)))?;
    let private = PrivateKeyDer::from_pem_slice(&private)
        .map_err(|_| of_key("there is no private key in PEM format in the file".to_owned()))?;
    // TLS 1.3 and 1.2 are all that the library has.
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map(Arc::new)
        .map_err(|error| TlsError::Pair(certificate.to_owned(), key.to_owned(), error.to_string()))
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "the user that the relay runs as may not read it".to_owned(),
        _ => error.to_string(),
    }
}
