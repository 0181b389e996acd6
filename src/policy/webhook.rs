//! A webhook: where an organization's notices go besides by mail, what stands in them, and how whoever receives them
//! knows that they are ours. Signed as the Standard Webhooks specification (1.0.0) has it; pure.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::Uri;
use serde::Serialize;
use sha2::Sha256;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::gateway_network::{self, AllowedNetworks};
use crate::mail::{GatewayAddress, GatewayHost};

/// The address of a webhook: `https://hooks.example.com/outgate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    written: String,
    /// Host and port.
    pub server: GatewayAddress,
    pub encrypted: bool,
    /// With the query.
    pub path: String,
}

/// The longest address, in bytes.
const LONGEST: usize = 500;

/// Why something is not the address of a webhook, in words for who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookUrlError {
    #[error("“{0}” is not a web address. Use one such as https://hooks.example.com/outgate.")]
    Malformed(String),
    #[error("The address has a user name in it. Leave it out: notices are signed.")]
    UserName,
    #[error("The address is too long: at most {LONGEST} characters.")]
    TooLong,
    #[error("The address begins with http: use https, so that nobody reads notices on their way.")]
    InClear,
    #[error("Port {0} is not one of a web server: use 443, or one from 1024 on.")]
    Port(u16),
    #[error("{0}")]
    Forbidden(#[from] gateway_network::Refusal),
}

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let typed = typed.trim();
        let malformed = || WebhookUrlError::Malformed(typed.chars().take(100).collect());
        if typed.len() > LONGEST {
            return Err(WebhookUrlError::TooLong);
        }
        let uri: Uri = typed.parse().map_err(|_| malformed())?;
        let encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(malformed()),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        if authority.as_str().contains('@') {
            return Err(WebhookUrlError::UserName);
        }
        let usual = if encrypted { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        // Whoever may enter a webhook cannot make us talk to another kind of server.
        if port != usual && port < 1024 {
            return Err(WebhookUrlError::Port(port));
        }
        let host: GatewayAddress = authority.host().parse().map_err(|_| malformed())?;
        let server = GatewayAddress::new(host.host().clone(), port);
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { written: typed.to_owned(), server, encrypted, path })
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl WebhookUrl {
    /// Whether it may be saved: a number is checked now, a name on every address that it resolves to when a relay
    /// connects. In clear only where the operator has opened the network.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, allowed: &AllowedNetworks) -> Result<(), WebhookUrlError> {
        match self.server.host() {
            GatewayHost::Ip(ip) => {
                gateway_network::check(*ip, self.server.port(), allowed)?;
                if self.may_connect(*ip, allowed) { Ok(()) } else { Err(WebhookUrlError::InClear) }
            }
            GatewayHost::Name(_) if self.encrypted => Ok(()),
            GatewayHost::Name(_) => Err(WebhookUrlError::InClear),
        }
    }

    /// Whether a relay may connect to this address for it.
    pub fn may_connect(&self, ip: std::net::IpAddr, allowed: &AllowedNetworks) -> bool {
        let is_allowed = gateway_network::check(ip, self.server.port(), allowed).is_ok();
        is_allowed && (self.encrypted || !gateway_network::is_public(ip))
    }
}

/// What notices of one organization are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(pub [u8; 32]);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

impl WebhookSecret {
    /// As libraries for receivers take it.
    pub fn in_words(&self) -> String {
        format!("whsec_{}", BASE64_STANDARD.encode(self.0))
    }

    /// The same read again.
    pub fn from_words(words: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(words.strip_prefix("whsec_")?).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The header field `webhook-signature`, of a notice that is sent at `timestamp` (seconds since 1970).
    pub fn signature(&self, id: &str, timestamp: i64, body: &str) -> String {
        // RFC 2104 §2: shorter keys are filled up with zeros.
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookNotice {
    pub kind: Kind,
    pub at: OffsetDateTime,
    /// The organization's slug.
    pub organization: String,
    /// The gateway, or who sends much.
    pub subject: String,
    /// In a sentence.
    pub text: String,
}

/// What a notice is about. Receivers tell them apart by their names, which never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    GatewayFailing,
    GatewayWell,
    CertificateEnding,
    /// It was to go live and has not passed its verification.
    GatewayNotPassed,
    /// It has stopped offering TLS.
    GatewayInClear,
    GatewayEncrypted,
    LimitNear,
    LimitBeyond,
    SenderStopped,
    /// Mail waits for an administrator's approval.
    ApprovalWanted,
    /// Asked for on the page.
    Test,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GatewayFailing => "gateway.failing",
            Self::GatewayWell => "gateway.well",
            Self::CertificateEnding => "gateway.certificate-ending",
            Self::GatewayNotPassed => "gateway.not-passed",
            Self::GatewayInClear => "gateway.in-clear",
            Self::GatewayEncrypted => "gateway.encrypted",
            Self::LimitNear => "limit.near",
            Self::LimitBeyond => "limit.beyond",
            Self::SenderStopped => "limit.stopped",
            Self::ApprovalWanted => "approval.wanted",
            Self::Test => "test",
        }
    }
}

impl WebhookNotice {
    /// The body, as it is signed and sent.
    pub fn body(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: &'a str,
            timestamp: String,
            data: Data<'a>,
        }
        #[derive(Serialize)]
        struct Data<'a> {
            organization: &'a str,
            subject: &'a str,
            text: &'a str,
        }
        let timestamp = self.at.format(&Rfc3339).unwrap_or_default();
        let data = Data { organization: &self.organization, subject: &self.subject, text: &self.text };
        // Strings alone always have a form in JSON.
        serde_json::to_string(&Body { r#type: self.kind.as_str(), timestamp, data }).unwrap_or_default()
    }
}

/// Between the first attempt and the second; twice as long each time after that.
const FIRST_PAUSE: Duration = Duration::seconds(30);
const LONGEST_PAUSE: Duration = Duration::hours(6);
/// After so long it is given up: who was away for longer has been told by mail.
const GIVEN_UP: Duration = Duration::days(2);

/// When a notice is tried again that has failed for the `attempts`th time; `None`: not any more.
pub fn again(noted_at: OffsetDateTime, attempts: u32, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let pause = FIRST_PAUSE.saturating_mul(1_i32.checked_shl(attempts.saturating_sub(1).min(20)).unwrap_or(i32::MAX));
    let next = now + pause.min(LONGEST_PAUSE);
    (next - noted_at < GIVEN_UP).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(typed: &str) -> Result<WebhookUrl, WebhookUrlError> {
        typed.parse()
    }

    #[test]
    fn an_address_is_taken_as_it_is_typed_and_understood() {
        for (typed, host, port, path, encrypted) in [
            ("https://hooks.example.com/outgate?x=1", "hooks.example.com", 443, "/outgate?x=1", true),
            (" https://hooks.example.com:8443 ", "hooks.example.com", 8443, "/", true),
            ("http://10.0.0.7/x", "10.0.0.7", 80, "/x", false),
            ("https://[2001:db8::7]:8443/x", "[2001:db8::7]", 8443, "/x", true),
        ] {
            let url = url(typed).expect(typed);
            let host: GatewayAddress = format!("{host}:{port}").parse().expect("an address");
            assert_eq!((&url.server, url.path.as_str(), url.encrypted), (&host, path, encrypted), "{typed}");
            assert_eq!(url.to_string(), typed.trim());
        }
        let long = format!("https://x.example/{}", "x".repeat(500));
        for typed in [
            "",
            "hooks.example.com",
            "ftp://x.example/",
            "https://",
            "https:///x",
            "https://mail_host/",
            "javascript:x",
            &long,
        ] {
            assert!(url(typed).is_err(), "{typed}");
        }
        assert_eq!(url("https://x.example:25/"), Err(WebhookUrlError::Port(25)));
        assert_eq!(url("https://ann:secret@x.example/"), Err(WebhookUrlError::UserName));
    }

    #[test]
    fn nothing_goes_in_clear_and_nothing_into_the_platforms_network_that_was_not_opened() {
        let closed = AllowedNetworks::default();
        let open = AllowedNetworks { networks: vec!["10.0.0.0/8".parse().expect("a network")], ..closed.clone() };
        let check = |typed: &str, allowed: &AllowedNetworks| url(typed).expect(typed).check(allowed);
        assert_eq!(check("https://hooks.example.com/", &closed), Ok(()));
        assert_eq!(check("http://hooks.example.com/", &open), Err(WebhookUrlError::InClear));
        assert!(matches!(check("https://10.0.0.7/", &closed), Err(WebhookUrlError::Forbidden(_))));
        assert!(matches!(check("https://[::ffff:10.0.0.7]/", &closed), Err(WebhookUrlError::Forbidden(_))));
        assert!(matches!(check("http://169.254.169.254/", &open), Err(WebhookUrlError::Forbidden(_))));
        assert_eq!((check("https://10.0.0.7/", &open), check("http://10.0.0.7/", &open)), (Ok(()), Ok(())));
        assert_eq!(check("http://9.9.9.9/", &open), Err(WebhookUrlError::InClear));
        let name = url("https://hooks.example.com/").expect("an address");
        assert!(!name.may_connect("10.0.0.7".parse().expect("an address"), &closed), "whatever a name leads to");
    }

    #[test]
    fn a_signature_is_what_the_specification_says() {
        // Its example, with our key: computed with OpenSSL.
        let secret = WebhookSecret(*b"0123456789abcdef0123456789abcdef");
        assert_eq!(secret.in_words(), "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
        assert_eq!(WebhookSecret::from_words(&secret.in_words()), Some(secret.clone()));
        assert_eq!(WebhookSecret::from_words("whsec_MDEy"), None);
        let signature = secret.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,hK4CWvngkaAwjY1pABLuUbOIkEJjW9tAapq1no4ojG0=");
    }

    #[test]
    fn a_notice_has_a_type_a_time_and_what_happened() {
        let notice = WebhookNotice {
            kind: Kind::GatewayFailing,
            at: OffsetDateTime::UNIX_EPOCH,
            organization: "acme".to_owned(),
            subject: "archive.example.com".to_owned(),
            text: "It says “no”.".to_owned(),
        };
        let expected = r#"{"type":"gateway.failing","timestamp":"1970-01-01T00:00:00Z","data":{"organization":"acme","subject":"archive.example.com","text":"It says “no”."}}"#;
        assert_eq!(notice.body(), expected);
    }

    #[test]
    fn pauses_double_to_six_hours_and_end_after_two_days() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let (mut now, mut attempts, mut pauses) = (start, 0, Vec::new());
        loop {
            attempts += 1;
            let Some(next) = again(start, attempts, now) else { break };
            pauses.push((next - now).whole_seconds());
            now = next;
        }
        assert_eq!(pauses[..4], [30, 60, 120, 240]);
        assert_eq!(pauses.iter().max(), Some(&21_600));
        assert!(now - start < GIVEN_UP && attempts < 25, "{attempts}");
        assert!(again(start, u32::MAX, start).is_some());
    }
}
