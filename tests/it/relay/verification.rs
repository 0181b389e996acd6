//! Verification: what a relay finds out about a gateway, set up right and in every wrong way, and what it says to do.
//! `relay::verification`, without the store.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outgate::{
    mail::id::{GatewayId, OrganizationId, VerificationId},
    policy::{
        facts::{Gateway as Record, RoutingFacts, TlsMode},
        fault::Stage,
        gateway_network::AllowedNetworks,
        gateway_settings::{GatewayLimits, GatewaySettings, Trust},
        routing::PlatformDefault,
        verification::{Outcome, Step},
    },
    relay::{
        handover::{
            connection::TimeLimits,
            dialer::Dialer,
            tls::{Authorities, Tls},
        },
        resolver::{FixedNames, Resolver},
        routing_table::RoutingTable,
        secret_keys::SecretKeys,
        verification::{LIMITS, Verifier, Watched},
    },
    store::verification::Taken,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{
    Gateway,
    authority::{Authority, Certified},
    gateway::{At, Fault},
};

/// What a verification of one gateway found.
pub struct Found {
    pub accepts: bool,
    steps: Vec<Step>,
}

impl Found {
    pub fn last(&self) -> (Stage, &str) {
        let step = self.steps.last().unwrap();
        (step.stage, step.advice.as_deref().unwrap_or_default())
    }

    pub fn all(&self) -> String {
        format!("{:#?}", self.steps)
    }
}

/// Of this address under the name `gateway.example`, with this TLS mode and settings.
pub async fn verify(address: SocketAddr, tls: TlsMode, settings: GatewaySettings) -> Found {
    verify_at(&format!("gateway.example:{}", address.port()), tls, settings).await
}

/// Of a server that is a program of its own and takes its time.
pub async fn verify_program(address: SocketAddr, tls: TlsMode, settings: GatewaySettings) -> Found {
    verify_within(LIMITS, &format!("gateway.example:{}", address.port()), tls, settings).await
}

async fn verify_at(address: &str, tls: TlsMode, settings: GatewaySettings) -> Found {
    // Nothing is waited for that does not come.
    let limits = TimeLimits { command: Duration::from_secs(1), connect: Duration::from_secs(2), ..LIMITS };
    verify_within(limits, address, tls, settings).await
}

async fn verify_within(limits: TimeLimits, address: &str, tls: TlsMode, settings: GatewaySettings) -> Found {
    verify_trusting(&Authorities::default(), limits, address, tls, settings).await
}

async fn verify_trusting(
    authorities: &Authorities,
    limits: TimeLimits,
    address: &str,
    tls: TlsMode,
    settings: GatewaySettings,
) -> Found {
    let (organization, gateway) = (OrganizationId::new(), GatewayId::new());
    let mut facts = RoutingFacts::default();
    let settings = settings.shared();
    let record = Record { organization, id: gateway, revision: 1, address: address.parse().unwrap(), tls, settings };
    facts.set_gateway(gateway, Some(record));
    let addresses = HashMap::from([("gateway.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])]);
    let dialer = Dialer {
        resolver: Resolver::Fixed(FixedNames { addresses, exchanges: HashMap::new() }),
        tls: Tls::trusting(authorities).unwrap(),
        keys: Arc::new(SecretKeys::from_file(None).unwrap()),
        allowed: AllowedNetworks {
            networks: vec!["127.0.0.0/8".parse().unwrap()],
            listeners: Vec::new(),
            ..Default::default()
        },
        hostname: "relay.example".to_owned(),
        limits,
        listeners: Vec::new(),
        known: Default::default(),
    };
    let verifier = Verifier {
        dialer,
        // As many times as long as one answer may take as in production.
        patience: limits.command * 2,
        table: Arc::new(RoutingTable::new(facts, PlatformDefault::Mx)),
        recipient: "postmaster@relay.example".to_owned(),
        relay_name: "one".to_owned(),
        largest: 50 * 1024 * 1024,
        returns: None,
        outbound: Vec::new(),
    };
    let taken = Taken {
        organization,
        id: VerificationId::new(),
        gateway: Some(gateway),
        revision: Some(1),
        is_pending: false,
        address: address.parse().unwrap(),
        sender: "postmaster@acme.example".to_owned(),
        recipient: None,
        test: None,
        link: None,
        by: "ann@acme.example".to_owned(),
        name: "Acme".to_owned(),
    };
    let watched = Watched::default();
    let accepts = verifier.verify(&taken, None, None, &watched).await;
    let found = Found { accepts, steps: watched.steps() };
    let (last, before) = found.steps.split_last().unwrap();
    let expected = if accepts { Outcome::Passed } else { Outcome::Failed };
    assert_eq!(last.outcome, expected, "{}", found.all());
    assert!(before.iter().all(|step| step.outcome == Outcome::Passed), "{}", found.all());
    assert!(accepts || last.advice.is_some(), "{}", found.all());
    found
}

#[tokio::test]
async fn a_gateway_that_accepts_us_passes_every_step_and_gets_no_message() {
    let gateway = Gateway::start().await;
    gateway.offers_tls();
    let found = verify(gateway.address, TlsMode::Required, GatewaySettings::default()).await;
    assert!(found.accepts);
    let stages: Vec<Stage> = found.steps.iter().map(|step| step.stage).collect();
    use Stage::{Connect, Greeting, Hello, LookUp, Mail, Recipient};
    assert_eq!(stages, [LookUp, Connect, Greeting, Hello, Stage::Tls, Mail, Recipient]);
    let all = found.all();
    for words in ["127.0.0.1", "from 127.0.0.1", "TLS 1.3", "certificate for gateway.example, valid until", "250 2.1"] {
        assert!(all.contains(words), "{words} in {all}");
    }
    assert!(gateway.so_far().is_empty());
}

#[tokio::test]
async fn a_gateway_is_verified_whose_authority_the_operator_trusts() {
    let (authority, other) = (Authority::new(), Authority::new());
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.tls = Some(authority.certify("gateway.example").acceptor()));
    let address = format!("gateway.example:{}", gateway.address.port());
    for (trusted, accepts) in [(vec![&other], false), (vec![&other, &authority], true)] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), trusted.iter().map(|one| one.pem.as_str()).collect::<String>()).unwrap();
        let authorities = Authorities::from_file(file.path()).unwrap();
        let settings = GatewaySettings::default();
        let found = verify_trusting(&authorities, LIMITS, &address, TlsMode::Verified, settings).await;
        assert_eq!(found.accepts, accepts, "{}", found.all());
    }
}

#[tokio::test]
async fn what_could_be_better_is_said_of_a_gateway_that_accepts_us() {
    let gateway = Gateway::start().await;
    let found = verify(gateway.address, TlsMode::WhenOffered, GatewaySettings::default()).await;
    assert!(found.accepts && found.all().contains("Mail goes to it in clear"), "{}", found.all());
    assert!(!found.all().contains("messages of up to"), "about as much as we take: {}", found.all());
    gateway.behave(|behaviour| behaviour.extensions = vec!["SIZE 20000"]);
    let found = verify(gateway.address, TlsMode::WhenOffered, GatewaySettings::default()).await;
    let words = "It takes messages of up to 20 kB only, and we take them up to 52 MB";
    assert!(found.accepts && found.all().contains(words), "{}", found.all());
    let limits = GatewayLimits { largest_message: Some(10_000), ..GatewayLimits::default() };
    let settings = GatewaySettings { limits, ..GatewaySettings::default() };
    let found = verify(gateway.address, TlsMode::WhenOffered, settings).await;
    assert!(!found.all().contains("messages of up to"), "the record says it: {}", found.all());
}

#[tokio::test]
async fn that_a_certificate_would_be_verified_is_found_as_the_record_says_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let trusting = |authority: &Authority| GatewaySettings {
        trust: Trust::Authority(authority.pem.as_str().into()),
        ..GatewaySettings::default()
    };
    let certified = authority.certify("gateway.example");
    let pinned = GatewaySettings { trust: Trust::Fingerprint(certified.fingerprint()), ..GatewaySettings::default() };
    let named = GatewaySettings { certificate_name: Some("other.example".parse().unwrap()), ..trusting(&authority) };
    for (tls, settings, would) in [
        (TlsMode::WhenOffered, trusting(&authority), true),
        (TlsMode::WhenOffered, pinned, true),
        (TlsMode::Required, trusting(&authority), true),
        (TlsMode::Verified, trusting(&authority), false),
        (TlsMode::WhenOffered, trusting(&other), false),
        (TlsMode::WhenOffered, named, false),
        (TlsMode::WhenOffered, GatewaySettings::default(), false),
    ] {
        let gateway = Gateway::start().await;
        gateway.behave(|behaviour| behaviour.tls = Some(certified.acceptor()));
        let found = verify(gateway.address, tls, settings).await;
        let steps: Vec<&Step> = found.steps.iter().filter(|step| step.would_verify).collect();
        assert!(found.accepts && steps.len() == usize::from(would), "{tls:?} {}", found.all());
        assert!(steps.iter().all(|step| step.stage == Stage::Tls), "{}", found.all());
        let would_not = found.all().contains("Nobody verifies its certificate as TLS is set, and it would not pass. ");
        assert_eq!(would_not, !would && tls != TlsMode::Verified, "{tls:?} {}", found.all());
        assert_eq!(found.all().contains("Its certificate is valid"), would, "{}", found.all());
    }
}

#[tokio::test]
async fn every_wrong_setup_gets_its_sentence() {
    use Stage::{Connect, Greeting, Hello, LookUp, Mail, Recipient, SignIn};
    let check = |found: &Found, stage: Stage, words: &str| {
        assert!(!found.accepts, "{words}");
        let (at, advice) = found.last();
        assert!(at == stage && advice.contains(words), "{stage:?}, {words}: {}", found.all());
    };
    let plain = GatewaySettings::default;
    let when = TlsMode::WhenOffered;

    let closed = Gateway::free_address().await;
    check(&verify(closed, when, plain()).await, Connect, "is closed");
    check(&verify_at("nobody.example", when, plain()).await, LookUp, "The name nobody.example has no address");
    check(&verify_at("127.0.0.1:22", when, plain()).await, Connect, "Port 22 is not one that gateways may use");
    check(&verify_at("10.0.0.1", when, plain()).await, Connect, "is a private address");

    for (at, line, stage, words) in [
        (At::Greeting, "554 5.7.1 go away", Greeting, "It refuses connections from 127.0.0.1"),
        (At::Ehlo, "421 4.7.0 no", Hello, "It refuses our name relay.example"),
        (At::Mail, "530 5.7.0 Authentication required", Mail, "It wants us to sign in"),
        (At::Mail, "530 5.7.0 Must issue a STARTTLS command first", Mail, "It wants TLS first"),
        (At::Mail, "552 5.3.4 Message size exceeds fixed limit", Mail, "It says that a message is too large"),
        (At::Mail, "550 5.7.1 not you", Mail, "It refuses the sender postmaster@acme.example"),
        (At::Rcpt, "554 5.7.1 Relay access denied", Recipient, "let the server relay for 127.0.0.1"),
        (At::Rcpt, "451 4.7.1 greylisted", Recipient, "exempt 127.0.0.1 from greylisting"),
        (At::Rcpt, "550 5.1.1 nobody", Recipient, "It refuses the recipient postmaster@relay.example"),
    ] {
        let gateway = Gateway::start().await;
        gateway.says(at, line);
        let found = verify(gateway.address, when, plain()).await;
        check(&found, stage, words);
        assert_eq!(found.all().matches(line).count(), 1, "what it said, once: {}", found.all());
    }
    for (at, fault, stage, words) in [
        (At::Greeting, Fault::Closes, Greeting, "let it accept connections from 127.0.0.1"),
        (At::Greeting, Fault::NeverEnds, Greeting, "is not a mail server"),
        (At::Greeting, Fault::Stalls, Greeting, "and never greets, as a mail server does"),
        (At::Mail, Fault::Stalls, Mail, "It stopped answering"),
        (At::Rcpt, Fault::Closes, Recipient, "It closed the connection"),
    ] {
        let gateway = Gateway::start().await;
        gateway.fails(at, fault);
        check(&verify(gateway.address, when, plain()).await, stage, words);
    }

    let gateway = Gateway::start().await;
    check(&verify(gateway.address, TlsMode::Required, plain()).await, Stage::Tls, "does not offer TLS");
    let authority = Authority::new();
    let own =
        || GatewaySettings { trust: Trust::Authority(authority.pem.as_str().into()), ..GatewaySettings::default() };
    let day = time::Duration::days(1);
    for (certified, settings, words) in [
        (Certified::by_itself("gateway.example"), plain(), "or this one's fingerprint"),
        (authority.certify("gateway.example"), plain(), "Nobody who is trusted vouches for its certificate"),
        (authority.certify("other.example"), own(), "for another name (other.example)"),
        (authority.certify("192.0.2.7"), own(), "for another name (192.0.2.7)"),
        (authority.certify("2001:db8::7"), own(), "for another name (2001:db8::7)"),
        (authority.certify_until("gateway.example", -day), own(), "Its certificate has expired on"),
    ] {
        let gateway = Gateway::start().await;
        gateway.behave(|behaviour| behaviour.tls = Some(certified.acceptor()));
        check(&verify(gateway.address, TlsMode::Verified, settings).await, Stage::Tls, words);
    }
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.tls = Some(authority.certify("gateway.example").acceptor()));
    assert!(verify(gateway.address, TlsMode::Verified, own()).await.accepts);
    // A stored password that this relay has no key for.
    let sign_in = outgate::policy::gateway_settings::SignIn {
        user: "acme".to_owned(),
        secret: outgate::secret::SealedSecret::withheld(),
    };
    let found = verify(gateway.address, TlsMode::Verified, GatewaySettings { sign_in: Some(sign_in), ..own() }).await;
    check(&found, SignIn, "OUTGATE_SECRET_KEY_FILE");
}

/// Something that is no mail server: says these bytes to whoever connects, and echoes what it hears if it is to.
pub async fn no_mail_server(says: &'static str, echoes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(says.as_bytes()).await;
                let mut heard = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut heard).await {
                    if echoes {
                        let _ = stream.write_all(&heard[..count]).await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn what_is_no_mail_server_gets_its_sentence_and_nothing_of_it_is_shown() {
    for (says, echoes, words) in [
        ("HTTP/1.1 400 Bad Request\r\nServer: secret\r\n\r\n", false, "is not a mail server"),
        ("SSH-2.0-secret\r\n", false, "is not a mail server"),
        ("secret\r\n", true, "is not a mail server"),
        ("", false, "and never greets"),
    ] {
        let found = verify(no_mail_server(says, echoes).await, TlsMode::WhenOffered, GatewaySettings::default()).await;
        assert!(found.last().1.contains(words) && !found.all().contains("secret"), "{says:?}: {}", found.all());
    }
    let found = verify(tls_at_once().await, TlsMode::WhenOffered, GatewaySettings::default()).await;
    assert!(found.last().1.contains("speaks TLS from the start"), "{}", found.all());
}

/// A mail server that begins with TLS, as port 465 does.
pub async fn tls_at_once() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = Certified::by_itself("gateway.example").acceptor();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"220 gateway.example\r\n").await;
                    let _ = stream.read(&mut [0; 64]).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_takes_its_time_at_every_step_is_not_waited_for_at_each() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answered, answers) =
        (Arc::new(AtomicUsize::new(0)), ["220 tarpit", "250 tarpit", "250 2.1.0 ok", "250 2.1.5 ok"]);
    let answering = Arc::clone(&answered);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            // Nearly as long as one answer may take.
            tokio::time::sleep(Duration::from_millis(800)).await;
            answering.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(format!("{answer}\r\n").as_bytes()).await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let found = verify(address, TlsMode::WhenOffered, GatewaySettings::default()).await;
    let heard = answered.load(Ordering::SeqCst);
    assert!(found.last().1.contains("It stopped answering") && heard < answers.len(), "{heard} {}", found.all());
}

#[tokio::test]
async fn what_a_server_says_is_shown_in_part_when_it_says_very_much() {
    let gateway = Gateway::start().await;
    gateway.says(At::Mail, &format!("550 5.7.1 {}", "long ".repeat(300)));
    let found = verify(gateway.address, TlsMode::WhenOffered, GatewaySettings::default()).await;
    let said = found.steps.last().unwrap().saw.last().unwrap();
    assert!(said.starts_with("550 5.7.1 long") && said.len() == 512, "{said}");
}
