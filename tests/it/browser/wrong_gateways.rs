//! What an administrator reads who has a gateway verified: in each of the ways that it may be set up wrong, one sentence of
//! what to do, and what could be better where it is right. With `OUTGATE_TEST_PICTURES` set each page is photographed as well: `target/screenshots`.

use std::{path::PathBuf, time::Duration};

use fantoccini::Locator;
use outgate::{
    mail::id::{ChangeId, GatewayId},
    policy::{
        Role,
        facts::TlsMode,
        gateway_record::GatewayRecord,
        gateway_settings::{Trust, secret_context},
    },
    relay::secret_keys::SecretKeys,
    secret::{Password, key_file},
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        gateway_record::{self, Saved},
    },
};
use sqlx::PgPool;
use tokio::time::timeout;

use crate::{
    relay::verification::{no_mail_server, tls_at_once},
    support::{
        Gateway, Installation, Tenant,
        authority::{Authority, Certified},
        browser::{PASSWORD, PASSWORD_HASH},
        chromium::Chromium,
        exim::Exim,
        gateway::At,
        postfix::Postfix,
        world::World,
    },
};

#[sqlx::test]
async fn each_wrong_gateway_a_postfix_and_an_exim_among_them_gets_its_sentence(owner: PgPool) {
    seen_by(owner, Chromium::start().await, true).await;
}

#[sqlx::test]
async fn without_script_a_wrong_postfix_exim_or_other_gateway_gets_the_same_sentence(owner: PgPool) {
    seen_by(owner, Chromium::start_with_script_switched_off().await, false).await;
}

/// The password of the gateway's record.
const WRONG: &str = "wrong";
/// What the gateway says to it.
const REFUSED: &str = "535 5.7.8 Authentication credentials invalid";

struct Scene {
    installation: Installation,
    acme: Tenant,
}

impl Scene {
    /// A gateway of the organization's with this record.
    async fn gateway(&self, address: &str, change: impl FnOnce(GatewayRecord) -> GatewayRecord) -> GatewayId {
        self.installation.set_gateway(&self.acme, &PointerScope::Organization, address).await;
        let id = self.installation.gateway_of(&self.acme, address).await;
        let web = self.installation.pool_as(store::roles::WEB).await;
        let mut transaction = OrganizationTransaction::begin(&web, self.acme.id).await.unwrap();
        let before = gateway_record::stored(&mut transaction, self.acme.id, id).await.unwrap().unwrap();
        let record = change(before.record.clone());
        if record == before.record {
            return id;
        }
        let sealed = match &record.sign_in_user {
            Some(user) => {
                let key = store::secret_key::newest(&mut transaction).await.unwrap().unwrap();
                let context = secret_context(self.acme.id, id, &record.address, record.tls, user);
                Some(key.seal(&Password::new(WRONG.to_owned()).unwrap(), &context).unwrap())
            }
            None => None,
        };
        let (change, at_once) = (ChangeId::new(), true);
        let edit = gateway_record::Edit { change, record: &record, password: sealed.as_ref(), at_once, actor: "ann" };
        let saved = gateway_record::save(transaction, id, &edit).await;
        assert!(matches!(saved, Ok(Saved::Changed(_))), "{saved:?}");
        id
    }
}

/// Each of the servers, what it is called in the pictures, and the sentence.
struct Wrong {
    called: &'static str,
    gateway: GatewayId,
    sentence: &'static str,
    /// It takes mail all the same.
    accepts: bool,
}

async fn seen_by(owner: PgPool, admin: Chromium, with_script: bool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let key_file = folder.path().join("secret-key");
    key_file::create(&key_file).unwrap();
    let relay = installation.relay_pool().await;
    SecretKeys::from_file(Some(key_file.clone())).unwrap().seal_anew(&relay).await.unwrap();
    let scene = Scene { installation, acme };
    let behind = Gateway::start().await;
    let unencrypted = Exim::relaying_to(behind.address, "").await;
    let stranger = Postfix::relaying_to(behind.address, &["mynetworks = 192.0.2.0/24"]).await;
    let small = Postfix::relaying_to(behind.address, &["message_size_limit = 20000"]).await;
    let right = Postfix::relaying_to(behind.address, &[]).await;
    let (mut scripted, mut all) =
        all_wrong(&scene, [&unencrypted.address, &stranger.address, &small.address].map(ToString::to_string)).await;
    let (others, of_others) = all_others(&scene, &right.address.to_string()).await;
    scripted.extend(others);
    all.extend(of_others);
    let world = World::with_settings(&scene.installation, relay, |settings| {
        settings.secret_key_file = Some(key_file);
    })
    .await;

    admin.client.goto(&format!("{}/acme/web-mail-cloud", world.pages)).await.unwrap();
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;
    admin.find("button", "Sign out").await;
    for wrong in &all {
        // So many are not to be had within a minute.
        let later = "update verification set requested_at = requested_at - interval '1 minute'";
        sqlx::query(later).execute(&scene.installation.owner).await.unwrap();
        admin.client.goto(&format!("{}/acme/web-mail-cloud/gateways/{}", world.pages, wrong.gateway)).await.unwrap();
        admin.click("button", "Verify").await;
        until_said(&admin, if wrong.accepts { "It accepts our mail." } else { "It does not accept our mail yet." })
            .await;
        let advice = admin.client.find_all(Locator::Css(".checks .advice")).await.unwrap();
        let mut sentences = Vec::new();
        for sentence in &advice {
            sentences.push(sentence.text().await.unwrap());
        }
        let said = sentences.iter().filter(|said| said.contains(wrong.sentence)).count();
        assert_eq!(said, 1, "{}: {sentences:?}", wrong.called);
        assert!(wrong.accepts || sentences.len() == 1, "{}: {sentences:?}", wrong.called);
        if wrong.called == "wrong-password" {
            assert!(admin.text().await.contains(REFUSED), "what the server said stands beside it");
        }
        picture(&admin, wrong.called, with_script).await;
    }
    assert!(behind.so_far().is_empty(), "nothing is sent");
    drop(scripted);
    admin.stop().await;
    world.stop().await;
}

/// A server that begins with TLS is known by its silence, so it takes a while.
async fn until_said(admin: &Chromium, words: &str) {
    let said = async {
        while !admin.text().await.contains(words) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if timeout(Duration::from_secs(40), said).await.is_err() {
        panic!("{words} in {}", admin.text().await);
    }
}

async fn picture(admin: &Chromium, called: &str, with_script: bool) {
    if std::env::var_os("OUTGATE_TEST_PICTURES").is_none() {
        return;
    }
    // High enough for every step: what failed stands last.
    let looks: &[(&str, u32, u32, bool)] = match with_script {
        true => &[("desktop-light", 1280, 1300, false), ("phone-dark", 360, 1900, true)],
        false => &[("without-script", 1280, 1300, false)],
    };
    for (look, width, height, dark) in looks {
        admin.appear(*width, *height, *dark).await;
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots").join(look);
        admin.screenshot(&folder.join(format!("wrong-gateway-{called}.png"))).await;
    }
    admin.appear(1280, 900, false).await;
}

/// What else is found at a gateway: servers that are none for mail, refusals, and those that accept us and could be
/// better.
async fn all_others(scene: &Scene, right: &str) -> (Vec<Gateway>, Vec<Wrong>) {
    let (authority, mut scripted, mut all) = (Authority::new(), Vec::new(), Vec::new());
    let same = |record: GatewayRecord| record;
    for (called, says, echoes, sentence) in [
        (
            "web-server",
            "HTTP/1.1 400 Bad Request\r\nServer: secret\r\n\r\n",
            false,
            "is not a mail server: correct the port",
        ),
        ("echo", "secret\r\n", true, "is not a mail server: correct the port"),
        ("silent-port", "", false, "Something answers on port"),
    ] {
        let address = no_mail_server(says, echoes).await.to_string();
        all.push(Wrong { called, gateway: scene.gateway(&address, same).await, sentence, accepts: false });
    }
    for (called, at, line, sentence) in [
        ("sender-refused", At::Mail, "550 5.7.1 not this one", "It refuses the sender"),
        ("recipient-refused", At::Rcpt, "550 5.1.1 no such user", "It refuses the recipient"),
        ("put-off", At::Rcpt, "450 4.2.0 Greylisted", "It puts us off for now: try again in some minutes"),
    ] {
        let gateway = Gateway::start().await;
        gateway.says(at, line);
        let id = scene.gateway(&gateway.address.to_string(), same).await;
        all.push(Wrong { called, gateway: id, sentence, accepts: false });
        scripted.push(gateway);
    }
    let in_clear = "Mail goes to it in clear";
    all.push(Wrong { called: "right", gateway: scene.gateway(right, same).await, sentence: in_clear, accepts: true });
    let certified = authority.certify("gateway.example");
    let trusting = |record: GatewayRecord| GatewayRecord {
        certificate_name: Some("gateway.example".parse().unwrap()),
        trust: Trust::Authority(authority.pem.as_str().into()),
        ..record
    };
    let signing_in = |record: GatewayRecord| GatewayRecord {
        tls: TlsMode::Verified,
        sign_in_user: Some("acme".to_owned()),
        ..trusting(record)
    };
    let gateway = Gateway::start().await;
    gateway.behave(|behaviour| behaviour.tls = Some(certified.acceptor()));
    let id = scene.gateway(&gateway.address.to_string(), trusting).await;
    all.push(Wrong { called: "valid-certificate", gateway: id, sentence: "Its certificate is valid", accepts: true });
    scripted.push(gateway);
    let gateway = Gateway::start().await;
    gateway.offers("AUTH PLAIN");
    gateway.behave(|behaviour| behaviour.tls = Some(certified.acceptor()));
    let id = scene.gateway(&gateway.address.to_string(), signing_in).await;
    let unneeded = "It accepts us without the user name and the password as well.";
    all.push(Wrong { called: "no-sign-in-needed", gateway: id, sentence: unneeded, accepts: true });
    scripted.push(gateway);
    (scripted, all)
}

/// The ten ways, and the servers that have to go on until they were seen. The addresses are those of programs: without
/// TLS, one that does not relay for us, and one that takes small messages only.
async fn all_wrong(scene: &Scene, [unencrypted, stranger, small]: [String; 3]) -> (Vec<Gateway>, Vec<Wrong>) {
    let (authority, mut scripted, mut all) = (Authority::new(), Vec::new(), Vec::new());
    let mut add = |called, gateway, sentence| all.push(Wrong { called, gateway, sentence, accepts: called == "size" });
    let same = |record: GatewayRecord| record;
    let verified = |record: GatewayRecord| GatewayRecord {
        tls: TlsMode::Verified,
        certificate_name: Some("gateway.example".parse().unwrap()),
        ..record
    };
    let trusting = |record: GatewayRecord| GatewayRecord {
        trust: Trust::Authority(authority.pem.as_str().into()),
        ..verified(record)
    };
    let required = |record: GatewayRecord| GatewayRecord { tls: TlsMode::Required, ..record };

    let closed = Gateway::free_address().await.to_string();
    add("closed-port", scene.gateway(&closed, same).await, "is closed: correct the port");
    add(
        "relay-denied",
        scene.gateway(&stranger, same).await,
        "It does not relay for us: let the server relay for 127.0.0.1",
    );
    add("tls-not-offered", scene.gateway(&unencrypted, required).await, "It does not offer TLS (STARTTLS)");
    add("size", scene.gateway(&small, same).await, "It takes messages of up to 20 kB only");
    let implicit = tls_at_once().await.to_string();
    add("implicit-tls", scene.gateway(&implicit, same).await, "speaks TLS from the start, as port 465 does");
    for (called, line, sentence) in [
        ("sign-in-needed", "530 5.7.0 Authentication required", "It wants us to sign in"),
        (
            "tls-required",
            "530 5.7.0 Must issue a STARTTLS command first",
            "It wants TLS first and does not offer it to us",
        ),
    ] {
        let gateway = Gateway::start().await;
        gateway.says(At::Mail, line);
        add(called, scene.gateway(&gateway.address.to_string(), same).await, sentence);
        scripted.push(gateway);
    }
    let day = time::Duration::days(1);
    for (called, certified, trusts, sentence) in [
        (
            "expired-certificate",
            authority.certify_until("gateway.example", -day),
            true,
            "Its certificate has expired on",
        ),
        ("self-signed-certificate", Certified::by_itself("gateway.example"), false, "or this one's fingerprint"),
        ("other-name", authority.certify("other.example"), true, "Its certificate is for another name (other.example)"),
    ] {
        let gateway = Gateway::start().await;
        gateway.behave(|behaviour| behaviour.tls = Some(certified.acceptor()));
        let address = gateway.address.to_string();
        let id = match trusts {
            true => scene.gateway(&address, trusting).await,
            false => scene.gateway(&address, verified).await,
        };
        add(called, id, sentence);
        scripted.push(gateway);
    }
    let gateway = Gateway::start().await;
    let certified = authority.certify("gateway.example");
    gateway.offers("AUTH PLAIN");
    gateway.behave(|behaviour| behaviour.tls = Some(certified.acceptor()));
    gateway.says(At::SignIn, REFUSED);
    let signing_in =
        |record: GatewayRecord| GatewayRecord { sign_in_user: Some("acme".to_owned()), ..trusting(record) };
    let id = scene.gateway(&gateway.address.to_string(), signing_in).await;
    add("wrong-password", id, "It does not take the user name and the password: enter both anew");
    scripted.push(gateway);
    (scripted, all)
}
