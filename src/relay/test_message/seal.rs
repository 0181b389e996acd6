//! The DKIM signature of a test message (RFC 6376), with a key of its own that stands in the store instead of the DNS:
//! it shows whether the signatures of an organization's mail would survive the way.

use std::{borrow::Borrow, hash::Hash, sync::Arc, time::Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use mail_auth::{
    AuthenticatedMessage, DkimResult, Error, MX, MessageAuthenticator, Parameters, RecordSet, ResolverCache, Txt,
    common::{crypto::Ed25519Key, headers::HeaderWriter, parse::TxtRecordParser, verify::DomainKey},
    dkim::{Canonicalization, DkimError, DkimSigner},
};

use crate::{mail::test_message::SIGNED, policy::arrival::Signature};

/// Under which name the key would stand in the DNS.
const SELECTOR: &str = "outgate-test";

/// The message with a signature in front, and the public key to it. In the form that nearly everybody signs in:
/// blanks may change on the way, words may not.
pub fn sign(message: &[u8], domain: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let key = Ed25519Key::from_pkcs8_der(&Ed25519Key::generate_pkcs8().ok()?).ok()?;
    let public = key.public_key();
    let signature = DkimSigner::from_key(key)
        .domain(domain)
        .selector(SELECTOR)
        .headers(SIGNED)
        .header_canonicalization(Canonicalization::Relaxed)
        .body_canonicalization(Canonicalization::Relaxed)
        .sign(message)
        .ok()?;
    let mut signed = signature.to_header().into_bytes();
    signed.extend_from_slice(message);
    Some((signed, public))
}

/// What has become of the signature.
pub async fn look(content: &[u8], domain: &str, public_key: &[u8], authenticator: &MessageAuthenticator) -> Signature {
    let record = format!("v=DKIM1; k=ed25519; p={}", BASE64_STANDARD.encode(public_key));
    let (Some(mut message), Ok(key)) =
        (AuthenticatedMessage::parse(content), DomainKey::parse(record.as_bytes()).map(Arc::new))
    else {
        return Signature::Removed;
    };
    // A gateway may have added its own, which need the DNS and say nothing about the way.
    message.dkim_headers.retain(|header| {
        let signature = &header.header;
        signature.s.eq_ignore_ascii_case(SELECTOR) && signature.d.eq_ignore_ascii_case(domain)
    });
    message.dkim_headers.truncate(1);
    message.errors.clear();
    if message.dkim_headers.is_empty() {
        return Signature::Removed;
    }
    let known = Known(Txt::DomainKey(key));
    let parameters = Parameters {
        params: &message,
        cache_txt: Some(&known),
        cache_mx: None::<&Nothing<RecordSet<MX>>>,
        cache_ptr: None::<&Nothing<RecordSet<Box<str>>>>,
        cache_ipv4: None::<&Nothing<RecordSet<std::net::Ipv4Addr>>>,
        cache_ipv6: None::<&Nothing<RecordSet<std::net::Ipv6Addr>>>,
    };
    let found = authenticator.verify_dkim(parameters).await;
    match found.first().map(|found| found.result()) {
        Some(DkimResult::Pass) => Signature::Good,
        Some(DkimResult::Neutral(Error::Dkim(DkimError::FailedBodyHashMatch))) => Signature::BodyChanged,
        Some(_) => Signature::HeaderChanged,
        None => Signature::Removed,
    }
}

/// What the DNS would answer, whatever is asked: nothing else is.
struct Known(Txt);

impl<K> ResolverCache<K, Txt> for Known {
    fn get<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
    where
        K: Borrow<Q>,
    {
        Some(self.0.clone())
    }

    fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
    where
        K: Borrow<Q>,
    {
        None
    }

    fn insert(&self, _: K, _: Txt, _: Instant) {}
}

/// Nothing is known of what a signature does not need.
struct Nothing<V>(std::marker::PhantomData<V>);

impl<K, V> ResolverCache<K, V> for Nothing<V> {
    fn get<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        None
    }

    fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        None
    }

    fn insert(&self, _: K, _: V, _: Instant) {}
}

#[cfg(test)]
mod tests {
    use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};

    use super::*;

    const MESSAGE: &str = "From: Outgate test <postmaster@acme.example>\r\nTo: <return@probe.example>\r\n\
                           Subject: Test message\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\
                           Message-ID: <1@relay.example>\r\n\r\nThis is a test message.\r\nNobody has to answer it.\r\n";

    async fn signature_after(change: impl Fn(String) -> String) -> Signature {
        let (signed, key) = sign(MESSAGE.as_bytes(), "acme.example").expect("a signature");
        let content = change(String::from_utf8(signed).expect("text"));
        let authenticator =
            MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default()).expect("a resolver");
        look(content.as_bytes(), "acme.example", &key, &authenticator).await
    }

    #[tokio::test]
    async fn what_was_changed_on_the_way_is_told_apart() {
        let untouched = |message: String| format!("Received: from a by b; never\r\n{message}");
        assert_eq!(signature_after(untouched).await, Signature::Good);
        let folded = |message: String| {
            message.replace("Subject: Test", "Subject:\r\n  Test").replace("answer it.", "answer it.  ")
        };
        assert_eq!(signature_after(folded).await, Signature::Good, "blanks may change");
        let footer = |message: String| message + "-- \r\nScanned.\r\n";
        assert_eq!(signature_after(footer).await, Signature::BodyChanged);
        let subject = |message: String| message.replace("Subject: Test", "Subject: [external] Test");
        assert_eq!(signature_after(subject).await, Signature::HeaderChanged);
        let removed =
            |message: String| message.split_once("From: ").map(|(_, rest)| format!("From: {rest}")).unwrap_or_default();
        assert_eq!(signature_after(removed).await, Signature::Removed);
        let others = |message: String| message.replace("s=outgate-test", "s=gateway");
        assert_eq!(signature_after(others).await, Signature::Removed);
        assert_eq!(signature_after(|_| String::new()).await, Signature::Removed);
    }
}
