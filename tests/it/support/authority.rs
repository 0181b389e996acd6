//! Certificates for gateways: an authority of the test's own, and what it signs, right or wrong.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// As an administrator pastes it.
    pub pem: String,
}

/// A certificate and its key.
pub struct Certified {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For a server of this name.
    pub fn certify(&self, name: &str) -> Certified {
        self.certify_until(name, Duration::days(30))
    }

    /// The same, valid for this long from now on; a time that is over if negative.
    pub fn certify_until(&self, name: &str, from_now: Duration) -> Certified {
        let key = KeyPair::generate().unwrap();
        let params = params(name, from_now);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified::of(certificate.der().clone(), &key)
    }
}

impl Certified {
    /// Signed by nobody else.
    pub fn by_itself(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, Duration::days(30)).self_signed(&key).unwrap();
        Self::of(certificate.der().clone(), &key)
    }

    fn of(certificate: CertificateDer<'static>, key: &KeyPair) -> Self {
        Self { certificate, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
    }

    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn params(name: &str, from_now: Duration) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = OffsetDateTime::now_utc() - Duration::days(60);
    params.not_after = OffsetDateTime::now_utc() + from_now;
    params
}
