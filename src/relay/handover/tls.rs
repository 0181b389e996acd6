//! TLS towards other servers: one configuration that takes any certificate, one that verifies.
//! Used by the dialer when a gateway's mode or offer asks for it.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;

use crate::policy::facts::TlsMode;

/// What connections are encrypted with.
#[derive(Clone)]
pub struct Tls {
    any: TlsConnector,
    verified: TlsConnector,
}

impl Tls {
    /// Verifies against the roots that browsers trust.
    pub fn new() -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let any = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
            .with_no_client_auth();
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let verified = builder()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { any: Arc::new(any).into(), verified: Arc::new(verified).into() })
    }

    pub fn connector(&self, mode: TlsMode) -> &TlsConnector {
        match mode {
            TlsMode::WhenOffered | TlsMode::Required => &self.any,
            TlsMode::Verified => &self.verified,
        }
    }
}

/// Encrypts against listeners without asking who the server is (RFC 7435): most gateways inside a
/// company have a certificate that nobody else knows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
