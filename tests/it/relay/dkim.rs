//! A signature of a library that checks every byte is still good after the journey.
//! Handed over and out of the queue.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, sync::Arc, time::Instant};

use mail_auth::{
    AuthenticatedMessage, DkimResult, MX, MessageAuthenticator, Parameters, RecordSet, ResolverCache, Txt,
    common::{crypto::Ed25519Key, headers::HeaderWriter, parse::TxtRecordParser, verify::DomainKey},
    dkim::{Canonicalization, DkimSigner},
};
use outgate::store::gateway::PointerScope;
use sqlx::PgPool;

use crate::support::{Gateway, Installation, Sending, SmtpClient, sending::Options, world::World};

/// The key of RFC 8463, appendix A.2.
const SEED: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5,
    0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];
const PUBLIC_KEY: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1, 0x72,
    0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];
const RECORD: &[u8] = b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// What the DNS would answer.
struct Known<V>(HashMap<Box<str>, V>);

impl<K, V: Clone> ResolverCache<K, V> for Known<V> {
    fn get<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.values().next().cloned()
    }

    fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        None
    }

    fn insert(&self, _: K, _: V, _: Instant) {}
}

/// Everything that servers like to tidy up, and nothing that the strictest way to sign forgives.
fn signed_message() -> String {
    let message = "From: \"Adams, Ann\" <ann@acme.example>\r\nTo:bob@elsewhere.example,\r\n   undisclosed:;\r\n\
                   Subject:   blanks   and\ttabs   \r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\
                   Message-ID: <1@acme.example>\r\n\r\n.a dot\r\n..two\r\n\r\nblanks at the end   \r\nGr\u{fc}\u{df}e\r\n\r\n";
    let key = Ed25519Key::from_seed_and_public_key(&SEED, &PUBLIC_KEY).unwrap();
    let signature = DkimSigner::from_key(key)
        .domain("acme.example")
        .selector("mail")
        .headers(["From", "To", "Subject", "Date", "Message-ID"])
        .header_canonicalization(Canonicalization::Simple)
        .body_canonicalization(Canonicalization::Simple)
        .sign(message.as_bytes())
        .unwrap();
    signature.to_header() + message
}

async fn is_verified(content: &[u8]) -> bool {
    let key = Txt::DomainKey(Arc::new(DomainKey::parse(RECORD).unwrap()));
    let txt = Known(HashMap::from([("mail._domainkey.acme.example.".into(), key)]));
    let message = AuthenticatedMessage::parse(content).unwrap();
    let parameters = Parameters {
        params: &message,
        cache_txt: Some(&txt),
        cache_mx: None::<&Known<RecordSet<MX>>>,
        cache_ptr: None::<&Known<RecordSet<Box<str>>>>,
        cache_ipv4: None::<&Known<RecordSet<std::net::Ipv4Addr>>>,
        cache_ipv6: None::<&Known<RecordSet<std::net::Ipv6Addr>>>,
    };
    let authenticator = MessageAuthenticator::new_system_conf().unwrap();
    let verified = authenticator.verify_dkim(parameters).await;
    verified.len() == 1 && *verified[0].result() == DkimResult::Pass
}

async fn assert_verified(content: Vec<u8>) {
    assert!(is_verified(&content).await, "{}", String::from_utf8_lossy(&content));
    // One blank less would be noticed.
    let changed = String::from_utf8(content).unwrap().replace("blanks at the end   ", "blanks at the end  ");
    assert!(!is_verified(changed.as_bytes()).await);
}

#[sqlx::test]
async fn a_dkim_signature_is_good_after_the_hand_over(owner: PgPool) {
    let gateway = Gateway::start().await;
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, &gateway.address.to_string()).await;
    let world = World::start(&installation).await;
    let message = signed_message();
    let stuffed = message.strip_suffix("\r\n").unwrap().replace("\r\n.", "\r\n..");
    let mut smtp = SmtpClient::greeted(world.submission).await;

    let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", &stuffed).await;

    assert!(reply.starts_with("250 2.0.0 kept as"), "{reply}");
    let received = gateway.received(1).await.remove(0);
    assert!(received.content.starts_with(b"Received: from client.example "));
    assert_verified(received.content).await;
    world.stop().await;
}

#[sqlx::test]
async fn a_dkim_signature_is_good_when_the_message_comes_out_of_the_queue(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::with(owner, Options { handover: false, ..Options::default() }).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    let message = sending.message_with(&["bob@elsewhere.example"], signed_message());
    assert!(sending.transfer.accept(message).await.to_string().starts_with("250 2.0.0 queued as"));

    assert_verified(gateway.received(1).await.remove(0).content).await;
}
