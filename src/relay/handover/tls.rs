//! TLS towards other servers: one configuration that takes any certificate, one that verifies against the roots that
//! browsers trust, and one for each gateway whose record names its own authority or certificate.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, WantsVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{peer::Peer, trouble::Trouble};
use crate::{
    mail::{
        GatewayHost,
        id::{GatewayId, OrganizationId},
    },
    policy::{
        facts::{Gateway, TlsMode},
        gateway_settings::Trust,
    },
};

/// Gateways with the revision that the connector is of.
type OwnTrust = HashMap<(OrganizationId, GatewayId), (i64, TlsConnector)>;

/// What connections are encrypted with. Each configuration keeps the sessions of its servers, so that the next
/// connection to one costs less.
#[derive(Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    any: TlsConnector,
    verified: TlsConnector,
    /// Of the revision of each gateway that has a trust of its own.
    own: Arc<Mutex<OwnTrust>>,
}

/// Whom an operator trusts besides those that browsers trust.
#[derive(Debug, Clone, Default)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

/// Why a file of authorities is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("{0} cannot be read: {1}")]
    File(PathBuf, #[source] std::io::Error),
    #[error("{0} has no certificate in PEM format")]
    None(PathBuf),
    #[error("certificate {1} in {0} is not an authority's: {2}")]
    Certificate(PathBuf, usize, Error),
}

impl Authorities {
    /// From a file of certificates in PEM format.
    pub fn from_file(file: &Path) -> Result<Self, AuthoritiesError> {
        let pem = std::fs::read(file).map_err(|error| AuthoritiesError::File(file.to_owned(), error))?;
        let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| AuthoritiesError::None(file.to_owned()))?;
        if found.is_empty() {
            return Err(AuthoritiesError::None(file.to_owned()));
        }
        let mut roots = RootCertStore::empty();
        for (number, certificate) in (1..).zip(&found) {
            let added = roots.add(certificate.clone());
            added.map_err(|error| AuthoritiesError::Certificate(file.to_owned(), number, error))?;
        }
        Ok(Self(found.into()))
    }
}

impl Tls {
    /// Verifies against the roots that browsers trust, and these.
    pub fn trusting(authorities: &Authorities) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for authority in &*authorities.0 {
            roots.add(authority.clone())?;
        }
        let verified = builder(&provider)?.with_root_certificates(Arc::new(roots)).with_no_client_auth();
        let any = pinned(&provider, None)?;
        Ok(Self { any: any.into(), verified: Arc::new(verified).into(), own: Arc::default(), provider })
    }

    /// What a connection to this server is encrypted with.
    pub fn connector(&self, peer: &Peer) -> Result<TlsConnector, Trouble> {
        match (peer.tls, peer.record.as_deref()) {
            (TlsMode::WhenOffered | TlsMode::Required, _) => Ok(self.any.clone()),
            (TlsMode::Verified, Some(gateway)) if gateway.settings.trust != Trust::Platform => self.own(gateway),
            (TlsMode::Verified, _) => Ok(self.verified.clone()),
        }
    }

    fn own(&self, gateway: &Gateway) -> Result<TlsConnector, Trouble> {
        let key = (gateway.organization, gateway.id);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connector)) = own.get(&key).filter(|(revision, _)| *revision == gateway.revision) {
            return Ok(connector.clone());
        }
        let connector: TlsConnector = match &gateway.settings.trust {
            Trust::Platform => return Ok(self.verified.clone()),
            Trust::Authority(authority) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
                    let certificate = certificate.map_err(|_| Trouble::Authority)?;
                    roots.add(certificate).map_err(|_| Trouble::Authority)?;
                }
                let config = builder(&self.provider).map_err(|_| Trouble::Authority)?;
                Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into()
            }
            Trust::Fingerprint(fingerprint) => {
                pinned(&self.provider, Some(*fingerprint)).map_err(|_| Trouble::Authority)?.into()
            }
        };
        own.insert(key, (gateway.revision, connector.clone()));
        Ok(connector)
    }
}

/// Until when the certificate is valid that a session was begun with, where mail stops when it is not any more: it is
/// verified, and not by its fingerprint, which says nothing of dates.
pub fn certificate_ends_at(session: &ClientConnection, peer: &Peer) -> Option<OffsetDateTime> {
    let trust = peer.record.as_deref().map(|gateway| &gateway.settings.trust);
    if peer.tls != TlsMode::Verified || matches!(trust, Some(Trust::Fingerprint(_))) {
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(session.peer_certificates()?.first()?).ok()?;
    valid_until(&certificate)
}

/// The end of a certificate's validity.
pub fn valid_until(certificate: &X509Certificate<'_>) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()
}

/// The name to expect in the certificate: what the record says, else the host.
pub fn expected_name(peer: &Peer) -> Result<ServerName<'static>, Trouble> {
    let named = peer.record.as_deref().and_then(|gateway| gateway.settings.certificate_name.as_ref());
    match (named, peer.address.host()) {
        (Some(name), _) | (None, GatewayHost::Name(name)) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|error| Trouble::Handshake(std::io::Error::other(error))),
        (None, GatewayHost::Ip(ip)) => Ok(ServerName::from(*ip)),
    }
}

fn builder(provider: &Arc<CryptoProvider>) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()
}

fn pinned(provider: &Arc<CryptoProvider>, fingerprint: Option<[u8; 32]>) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Arc::new(ByFingerprint { fingerprint, provider: provider.clone() });
    Ok(Arc::new(builder(provider)?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// Takes the one certificate with this fingerprint, whatever name and dates are in it. Without a fingerprint it
/// encrypts against listeners without asking who the server is (RFC 7435): most gateways inside a company have a
/// certificate that nobody else knows.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.fingerprint {
            Some(fingerprint) if Sha256::digest(certificate)[..] != fingerprint => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
