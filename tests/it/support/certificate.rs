//! A certificate of the test's own, on disk as the operator has it, and clients that trust it.
//! For submission over TLS, with our client and with others'.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use outgate::relay::submission::tls::ServerTls;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

pub struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// For `relay.example` and 127.0.0.1.
    pub fn new() -> Self {
        let certificate = Self { folder: tempfile::tempdir_in("/tmp").unwrap() };
        certificate.renew();
        certificate
    }

    /// Another certificate with another key, in the same files.
    pub fn renew(&self) {
        let names = ["relay.example".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        self.write("key.pem", made.signing_key.serialize_pem().as_bytes());
        self.write("certificate.pem", made.cert.pem().as_bytes());
    }

    /// Replaces one of the files, as what renews certificates does: the new one takes the old one's name.
    pub fn write(&self, file: &str, content: &[u8]) {
        let new = self.folder.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.folder.path().join(file)).unwrap();
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    pub fn server(&self) -> Arc<ServerTls> {
        Arc::new(ServerTls::load(&self.file(), &self.key()).unwrap())
    }

    /// A client that trusts the certificate that is on disk now, and no other.
    pub fn client(&self) -> TlsConnector {
        client_trusting(&self.file())
    }
}

fn client_trusting(file: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into()
}
