//! What there is to say of a gateway's certificate: names, issuer, dates, and what is wrong with it.
//! Read for people; what verifies certificates is rustls, in `handover::tls`.

use std::{io, net::IpAddr};

use rustls::{CertificateError, ClientConnection, pki_types::CertificateDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    policy::{gateway_record::hex, verification::CertificateFault},
    relay::handover::{connection::Connection, tls::valid_until},
};

/// A certificate as people know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub names: Vec<String>,
    pub issuer: String,
    pub expires_at: Option<OffsetDateTime>,
    /// SHA-256, as `openssl x509 -fingerprint` writes it.
    pub fingerprint: String,
}

/// How many names are kept: some certificates have hundreds.
const MOST_NAMES: usize = 5;

impl Certificate {
    /// The server's own.
    pub fn of(session: &ClientConnection) -> Option<Self> {
        Self::read(session.peer_certificates()?.first()?)
    }

    fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(certificate).ok()?;
        let alternatives = read.subject_alternative_name().ok().flatten();
        let mut names: Vec<String> =
            alternatives.iter().flat_map(|names| &names.value.general_names).filter_map(name).collect();
        if names.is_empty() {
            names.extend(read.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(printable)));
        }
        names.truncate(MOST_NAMES);
        Some(Self {
            names,
            issuer: printable(&read.issuer().to_string()),
            expires_at: valid_until(&read),
            fingerprint: hex(&Sha256::digest(certificate)),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(printable(name)),
        // RFC 5280 §4.2.1.6: four octets, or sixteen.
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// A server chooses what stands in its certificate: nothing that moves a cursor, and not much of it.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// What was wrong with a certificate that ended a handshake.
pub fn error_of(error: &io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}

/// The same with what the certificate says of itself.
pub fn fault(error: &CertificateError, certificate: Option<&Certificate>) -> CertificateFault {
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateFault::OtherName(certificate.map(|certificate| certificate.names.clone()).unwrap_or_default())
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateFault::Expired(certificate.and_then(|certificate| certificate.expires_at))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => CertificateFault::NotYetValid,
        CertificateError::UnknownIssuer | CertificateError::ApplicationVerificationFailure => match certificate {
            Some(Certificate { issuer, fingerprint, .. }) => {
                CertificateFault::Unknown { issuer: issuer.clone(), fingerprint: fingerprint.clone() }
            }
            None => CertificateFault::Other("nobody who is trusted vouches for it".to_owned()),
        },
        // A self-signed certificate that says it is an authority, among others.
        other => match certificate {
            Some(Certificate { issuer, fingerprint, .. }) if matches!(other, CertificateError::Other(_)) => {
                CertificateFault::Unknown { issuer: issuer.clone(), fingerprint: fingerprint.clone() }
            }
            _ => CertificateFault::Other(other.to_string()),
        },
    }
}

/// What to show of an encrypted connection.
pub fn seen(connection: &Connection) -> Vec<String> {
    let Some(session) = connection.tls_session() else { return Vec::new() };
    let mut saw = Vec::new();
    let version = session.protocol_version().and_then(|version| version.as_str());
    saw.extend(version.map(|version| version.replace("TLSv1_", "TLS 1.")));
    if let Some(certificate) = Certificate::of(session) {
        let expires = certificate.expires_at.map(|at| format!(", valid until {}", at.date())).unwrap_or_default();
        saw.push(format!("certificate for {}{expires}", certificate.names.join(", ")));
        saw.push(format!("issued by {}", certificate.issuer));
    }
    saw
}
