//! What a gateway's record asks for is done, or the mail waits: certificates, signing in, and nothing in clear that
//! should not be.

use std::path::PathBuf;

use outgate::{
    mail::id::GatewayId,
    policy::{
        facts::TlsMode,
        gateway_settings::{GatewaySettings, SignIn, Trust, secret_context},
    },
    secret::{Password, SealedSecret, key_file},
};
use sqlx::PgPool;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::time::timeout;

use crate::support::{
    Gateway, Sending,
    authority::{Authority, Certified},
    gateway::{At, HAPPENS_WITHIN, Received},
    log::Log,
    sending::{Options, names},
};

const NAME: &str = "mail.acme.test";
const PASSWORD: &str = "canary-4711";
/// All that a gateway may see of us before it has shown who it is.
const ONLY_STARTTLS: &str = "EHLO relay.outgate.example\r\nSTARTTLS\r\n";

struct Scene {
    sending: Sending,
    gateway: Gateway,
    id: GatewayId,
    revision: i64,
    keys: PathBuf,
    _folder: TempDir,
}

/// A gateway behind a name, and a relay that has a key.
async fn scene(db: PgPool) -> Scene {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let keys = folder.path().join("secret-key");
    key_file::create(&keys).unwrap();
    let options = Options { names: names(&[(NAME, "127.0.0.1")], &[]), keys: Some(keys.clone()), ..Options::default() };
    let (sending, gateway) = (Sending::with(db, options).await, Gateway::start().await);
    Scene { sending, gateway, id: GatewayId::new(), revision: 0, keys, _folder: folder }
}

impl Scene {
    fn address(&self) -> String {
        format!("{NAME}:{}", self.gateway.address.port())
    }

    /// The record gets another revision that says this.
    fn set(&mut self, tls: TlsMode, settings: GatewaySettings) {
        self.revision += 1;
        self.sending.set_record(self.id, self.revision, &self.address(), tls, settings);
    }

    fn verified_by(&mut self, trust: Trust) {
        self.set(TlsMode::Verified, GatewaySettings { trust, ..GatewaySettings::default() });
    }

    /// The same, signing in with a password that was sealed for `sealed_for`.
    fn signing_in(&mut self, authority: &Authority, user: &str, sealed_for: &str) {
        let address = self.address().parse().unwrap();
        let context = secret_context(self.sending.organization, self.id, &address, TlsMode::Verified, sealed_for);
        let key = key_file::read(&self.keys).unwrap().0.pop().unwrap().public();
        let secret = key.seal(&Password::new(PASSWORD.to_owned()).unwrap(), &context).unwrap();
        self.with_secret(authority, user, secret);
    }

    fn with_secret(&mut self, authority: &Authority, user: &str, secret: SealedSecret) {
        let sign_in = Some(SignIn { user: user.to_owned(), secret });
        let trust = Trust::Authority(authority.pem.as_str().into());
        self.set(TlsMode::Verified, GatewaySettings { trust, sign_in, ..GatewaySettings::default() });
    }

    /// Sends a message; why it waits, or `None` if the gateway has it.
    async fn send(&self) -> Option<String> {
        let before = self.gateway.so_far().len();
        let reply = self.sending.send().await.to_string();
        if reply.starts_with("250 2.0.0 kept") {
            self.gateway.received(before + 1).await;
            return None;
        }
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
        assert_eq!(self.gateway.so_far().len(), before);
        Some(self.sending.waiting().await.pop().unwrap().last_reply.unwrap())
    }

    fn last(&self) -> Received {
        self.gateway.so_far().pop().unwrap()
    }

    fn shows(&self, certified: &Certified) {
        self.gateway.behave(|behaviour| behaviour.tls = Some(certified.acceptor()));
    }

    fn offers(&self, way: &'static str) {
        self.gateway.behave(|behaviour| {
            behaviour.extensions = vec!["PIPELINING", "8BITMIME", way];
            behaviour.sign_in = Some(("acme", PASSWORD));
        });
    }
}

#[sqlx::test]
async fn only_the_certificate_that_the_record_asks_for_is_taken_and_else_nothing_is_said(db: PgPool) {
    let mut scene = scene(db).await;
    let (ours, other) = (Authority::new(), Authority::new());
    let right = ours.certify(NAME);
    let of = |authority: &Authority| Trust::Authority(authority.pem.as_str().into());
    let cases: Vec<(&str, Certified, Trust, bool)> = vec![
        ("right", ours.certify(NAME), of(&ours), true),
        ("expired", ours.certify_until(NAME, -Duration::days(1)), of(&ours), false),
        ("wrong name", ours.certify("other.acme.test"), of(&ours), false),
        ("another authority", other.certify(NAME), of(&ours), false),
        ("signed by itself", Certified::by_itself(NAME), of(&ours), false),
        ("nobody's authority", ours.certify(NAME), Trust::Platform, false),
        ("another certificate", ours.certify(NAME), Trust::Fingerprint(right.fingerprint()), false),
    ];
    for (case, certified, trust, is_taken) in cases {
        scene.shows(&certified);
        scene.verified_by(trust);
        let waits = scene.send().await;
        assert_eq!(waits.is_none(), is_taken, "{case}: {waits:?}");
        if let Some(reason) = waits {
            assert!(reason.contains("the TLS handshake failed"), "{case}: {reason}");
        }
        assert_eq!(scene.gateway.take_clear(), ONLY_STARTTLS, "{case}");
    }

    // A certificate that is pinned may have any name and dates.
    for pinned in [ours.certify_until("other.acme.test", -Duration::days(1)), Certified::by_itself("whatever.test")] {
        scene.shows(&pinned);
        scene.verified_by(Trust::Fingerprint(pinned.fingerprint()));
        assert_eq!(scene.send().await, None);
        assert!(scene.last().encrypted);
    }

    // A name of its own is expected instead of the host's.
    scene.shows(&ours.certify("mx.acme.test"));
    let certificate_name = Some("mx.acme.test".parse().unwrap());
    scene.set(TlsMode::Verified, GatewaySettings { certificate_name, trust: of(&ours), ..GatewaySettings::default() });
    assert_eq!(scene.send().await, None);
}

#[sqlx::test]
async fn it_is_known_when_a_certificate_ends_after_which_mail_would_wait(db: PgPool) {
    let mut scene = scene(db).await;
    let ours = Authority::new();
    let certified = ours.certify_until(NAME, Duration::days(12));
    let known = |scene: &Scene| {
        let seen = scene.sending.handover.health().seen(OffsetDateTime::now_utc(), std::time::Duration::MAX);
        seen.first().unwrap().certificate_ends_at
    };
    scene.shows(&certified);
    scene.verified_by(Trust::Authority(ours.pem.as_str().into()));
    assert_eq!(scene.send().await, None);
    let left = known(&scene).unwrap() - OffsetDateTime::now_utc();
    assert!((left - Duration::days(12)).abs() < Duration::minutes(1), "{left}");

    scene.verified_by(Trust::Fingerprint(certified.fingerprint()));
    assert_eq!((scene.send().await, known(&scene)), (None, None), "a pinned one may have any dates");
    scene.set(TlsMode::Required, GatewaySettings::default());
    assert_eq!((scene.send().await, known(&scene)), (None, None), "nobody verifies it");
}

#[sqlx::test]
async fn encryption_that_was_there_and_is_gone_is_waited_for(db: PgPool) {
    let mut scene = scene(db).await;
    let ours = Authority::new();
    scene.shows(&ours.certify(NAME));
    scene.verified_by(Trust::Authority(ours.pem.as_str().into()));
    assert_eq!(scene.send().await, None);
    // Somebody on the way takes the offer out of the answer to EHLO.
    let certified = ours.certify(NAME);
    scene.gateway.behave(|behaviour| behaviour.tls = None);
    for tls in [TlsMode::Verified, TlsMode::Required] {
        scene.set(tls, GatewaySettings::default());
        scene.gateway.take_clear();
        let reason = scene.send().await.unwrap();
        assert!(reason.contains("TLS is required and not offered"), "{reason}");
        assert_eq!(scene.gateway.take_clear(), "EHLO relay.outgate.example\r\n", "{tls:?}");
    }
    scene.shows(&certified);
    scene.gateway.says(At::StartTls, "454 4.7.0 not now");
    scene.set(TlsMode::Required, GatewaySettings::default());
    assert!(scene.send().await.unwrap().contains("454 4.7.0 not now"));
    assert_eq!(scene.gateway.take_clear(), ONLY_STARTTLS);
}

#[sqlx::test]
async fn a_gateway_is_signed_in_to_behind_its_certificate_and_by_a_way_that_it_offers(db: PgPool) {
    let mut scene = scene(db).await;
    let ours = Authority::new();
    scene.shows(&ours.certify(NAME));
    for way in ["AUTH PLAIN LOGIN", "AUTH LOGIN", "AUTH CRAM-MD5 PLAIN"] {
        scene.offers(way);
        scene.signing_in(&ours, "acme", "acme");
        assert_eq!(scene.send().await, None, "{way}");
        assert_eq!(scene.last().user.as_deref(), Some("acme"), "{way}");
        // The connection that was signed in on is used again, and by this revision only.
        let connections = scene.gateway.connections();
        assert_eq!(scene.send().await, None);
        assert_eq!(scene.gateway.connections(), connections);
    }
    assert_eq!(scene.gateway.connections(), 3);
    assert_eq!(scene.gateway.take_clear(), ONLY_STARTTLS.repeat(3));

    scene.offers("AUTH CRAM-MD5 GSSAPI");
    scene.signing_in(&ours, "acme", "acme");
    let reason = scene.send().await.unwrap();
    assert!(reason.contains("signing in is required, and neither PLAIN nor LOGIN is offered"), "{reason}");

    // Who is not the gateway is not told who we are, whatever it offers in clear.
    scene.offers("AUTH PLAIN");
    scene.gateway.behave(|behaviour| behaviour.tls = None);
    scene.gateway.take_clear();
    scene.signing_in(&ours, "acme", "acme");
    assert!(scene.send().await.unwrap().contains("TLS is required and not offered"));
    assert_eq!(scene.gateway.take_clear(), "EHLO relay.outgate.example\r\n");
    scene.shows(&Certified::by_itself(NAME));
    scene.signing_in(&ours, "acme", "acme");
    assert!(scene.send().await.unwrap().contains("the TLS handshake failed"));
    assert_eq!(scene.gateway.take_clear(), ONLY_STARTTLS);
}

#[sqlx::test]
async fn a_refused_or_unopenable_password_holds_the_mail_and_shows_nothing(db: PgPool) {
    let mut scene = scene(db).await;
    let ours = Authority::new();
    scene.shows(&ours.certify(NAME));
    scene.offers("AUTH PLAIN");
    // The gateway even repeats what it was given.
    let repeated = "AGFjbWUAY2FuYXJ5LTQ3MTE=";
    scene.gateway.says(At::SignIn, &format!("535-5.7.8 not {repeated}\n535-5.7.8 not {PASSWORD}\n535 5.7.8 go away"));
    scene.signing_in(&ours, "acme", "acme");
    let reason = scene.send().await.unwrap();
    assert_eq!(reason, format!("gateway {} said: 535 5.7.8 go away", scene.address()));
    scene.gateway.says(At::SignIn, "454 4.7.0 later");
    scene.signing_in(&ours, "acme", "acme");
    assert!(scene.send().await.unwrap().contains("454 4.7.0 later"));
    scene.gateway.works_again();

    // What was sealed for somebody else, with no key of ours, or not at all, is not even tried.
    let connections = scene.gateway.connections();
    scene.signing_in(&ours, "acme", "somebody else");
    assert!(scene.send().await.unwrap().contains("does not belong to this address, TLS mode and user name"));
    let foreign = outgate::secret::PrivateKey::generate().public();
    let context = outgate::secret::Context::new(&[]);
    let sealed = foreign.seal(&Password::new(PASSWORD.to_owned()).unwrap(), &context).unwrap();
    scene.with_secret(&ours, "acme", sealed);
    assert!(scene.send().await.unwrap().contains("which this relay does not have"));
    scene.with_secret(&ours, "acme", SealedSecret::withheld());
    assert!(scene.send().await.is_some());
    assert_eq!(scene.gateway.connections(), connections);
    let waiting = scene.sending.waiting().await;
    assert_eq!(waiting.len(), 5);
    assert!(waiting.iter().all(|message| message.attempts == 0 && message.state == "waiting"), "{waiting:?}");

    // Put right, all of it goes.
    scene.signing_in(&ours, "acme", "acme");
    assert_eq!(scene.send().await, None);
}

#[sqlx::test]
async fn the_backup_of_a_gateway_that_refuses_our_password_gets_the_mail_and_not_the_password(db: PgPool) {
    let log = Log::capture();
    let mut scene = scene(db).await;
    let (ours, backup) = (Authority::new(), Gateway::start().await);
    scene.shows(&ours.certify(NAME));
    scene.offers("AUTH PLAIN");
    backup.offers("AUTH PLAIN");
    scene.gateway.says(At::SignIn, "535 5.7.8 go away");
    scene.signing_in(&ours, "acme", "acme");
    let (id, backups) = (scene.id, vec![scene.sending.add_gateway(backup.address)]);
    scene.sending.table.change(|facts| {
        let mut gateway = facts.gateway(id).unwrap().as_ref().clone();
        gateway.settings = GatewaySettings { backups, ..gateway.settings.as_ref().clone() }.shared();
        facts.set_gateway(id, Some(gateway));
    });

    assert_eq!(scene.sending.send().await.to_string(), "250 2.0.0 kept as 4711");

    assert_eq!((backup.so_far().len(), scene.gateway.so_far().len()), (1, 0));
    assert!(!backup.take_clear().contains("AUTH"), "whose record has no user is not signed in to");
    let alerts = log.with("alert=\"gateway backup in use\"");
    assert!(alerts.len() == 1 && alerts[0].contains("535 5.7.8 go away"), "{alerts:?}");
    // Back again, it gets its mail.
    scene.gateway.works_again();
    let mut message = scene.sending.message(&["bob@elsewhere.example"]);
    message.accepted_at += Duration::seconds(20);
    scene.sending.transfer.accept(message).await;
    let recovered = timeout(HAPPENS_WITHIN, scene.sending.handover.health().recovery()).await;
    recovered.expect("it is found out");
    assert_eq!(scene.send().await, None);
    assert_eq!((backup.so_far().len(), scene.last().user.as_deref()), (2, Some("acme")));
}

#[sqlx::test]
async fn the_next_connection_goes_on_with_the_tls_session_of_the_last(db: PgPool) {
    let mut scene = scene(db).await;
    let ours = Authority::new();
    scene.shows(&ours.certify(NAME));
    scene.gateway.behave(|behaviour| behaviour.one_message_only = true);
    scene.verified_by(Trust::Authority(ours.pem.as_str().into()));
    for _ in 0..3 {
        assert_eq!(scene.send().await, None);
    }
    assert_eq!((scene.gateway.connections(), scene.gateway.resumed()), (3, 2));
}
