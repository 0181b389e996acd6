//! Nothing that is secret is shown: a journey with a canary in every password and in all mail, while everything that
//! can be logged is. No line of a log, no page and no number has one of them.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::time::timeout;

use crate::{
    support::{
        Browser, Certificate, Gateway, SmtpClient,
        authority::Certified,
        gateway::{At, HAPPENS_WITHIN},
        outgate::{Machine, unused_address},
    },
    web::gateway_record::FIELDS,
};

const OF_ADMINISTRATOR: &str = "canary of the administrator";
const OF_GATEWAY: &str = "canary-of-the-gateway";
/// Typed wrong, where the right one would do.
const MISTYPED: &str = "canary-mistyped";
const IN_MAIL: &str = "Subject: canary plan\r\n\r\nThe canary flies at dawn.\r\n";
/// Every secret that people choose here has the word in it; this is how it may be spelled.
const SPELLINGS: [&str; 4] = ["canary", "63616e617279", "99, 97, 110, 97, 114, 121", "\\x63\\x61\\x6e"];
/// As many pages as can be there.
const MOST_PAGES: usize = 200;

/// What was seen, by where it was.
#[derive(Default)]
struct Seen(Vec<(String, String)>);

impl Seen {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn has_none_of(&self, secrets: &[String]) {
        let secrets: Vec<String> =
            SPELLINGS.into_iter().chain(secrets.iter().map(String::as_str)).map(str::to_lowercase).collect();
        for (place, text) in &self.0 {
            for line in text.lines() {
                let lower = line.to_lowercase();
                let shown = secrets.iter().find(|secret| lower.contains(*secret));
                assert_eq!(shown, None, "stands in {place}: {line}");
            }
        }
    }
}

/// What signs in by PLAIN.
fn plain(user: &str, password: &str) -> String {
    BASE64_STANDARD.encode(format!("\0{user}\0{password}"))
}

/// Runs a command of the operator's that logs everything, with a password on its standard input.
async fn operate(machine: &Machine, seen: &mut Seen, words: &[&str], password: &str) {
    let ended = machine.outgate.clone().with("RUST_LOG", "trace").run_with_input(words, password).await;
    assert_eq!(ended.status, Some(0), "{}", ended.error);
    seen.add(format!("outgate {}", words[0]), ended.output + &ended.error);
}

/// Every page that links lead to.
async fn look_around(browser: &Browser, seen: &mut Seen) {
    let mut known = BTreeSet::from(["/acme/administration".to_owned()]);
    let mut next: Vec<String> = known.iter().cloned().collect();
    while let Some(path) = next.pop() {
        let page = browser.get(&path).await;
        for link in page.html.split("href=\"/acme").skip(1).filter_map(|rest| rest.split('"').next()) {
            let link = format!("/acme{}", link.replace("&#38;", "&").replace("&amp;", "&"));
            if known.len() < MOST_PAGES && known.insert(link.clone()) {
                next.push(link);
            }
        }
        seen.add(path, page.html);
    }
    assert!(known.len() > 15, "links lead further: {known:?}");
}

/// Saves the gateway's form with a password to sign in with. The first time it is filled in wrong.
async fn save_password(browser: &Browser, seen: &mut Seen, gateway: &Gateway, certified: &Certified, password: &str) {
    let list = browser.get("/acme/web-mail-cloud/gateways").await;
    let page = list.link(&format!("127.0.0.1 port {}", gateway.address.port()));
    let fingerprint: String = certified.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    let address = gateway.address.to_string();
    for connections in ["very many", "5"] {
        let shown = browser.get(&page).await;
        let (shown_as, change) = (shown.field("seen"), shown.field("change"));
        let own = [
            ("address", address.as_str()),
            ("tls", "verified"),
            ("trust", "fingerprint"),
            ("fingerprint", &fingerprint),
            ("sign_in_user", "acme"),
            ("password", password),
            ("connections", connections),
        ];
        let of = |name: &str| own.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
        let hidden = [("seen", shown_as.as_str()), ("change", change.as_str())];
        let fields: Vec<_> =
            FIELDS.iter().chain(&hidden).map(|(name, value)| (*name, of(name).unwrap_or(value))).collect();
        let saved = browser.submit(&format!("{page}/record"), &fields).await;
        assert_eq!(saved.text().contains("Saved."), connections == "5", "{}", saved.text());
        seen.add("the gateway's form", saved.html);
    }
}

#[tokio::test]
async fn no_log_page_or_metric_shows_a_password_a_cookie_or_what_a_message_says() {
    let (certificate, certified) = (Certificate::new(), Certified::by_itself("gateway.example"));
    let (gateway, metrics) = (Gateway::start().await, unused_address());
    gateway.behave(|behaviour| {
        behaviour.tls = Some(certified.acceptor());
        behaviour.extensions = vec!["PIPELINING", "AUTH PLAIN"];
        behaviour.sign_in = Some(("acme", OF_GATEWAY));
    });
    let mut machine = Machine::new(unused_address());
    machine.outgate = machine
        .outgate
        .clone()
        .with("OUTGATE_SMTP_CERTIFICATE_FILE", certificate.file().display())
        .with("OUTGATE_SMTP_KEY_FILE", certificate.key().display())
        .with("OUTGATE_METRICS_LISTEN", metrics);
    let running = machine.up_logging("trace").await;
    let (outgate, mut seen) = (&machine.outgate, Seen::default());
    outgate.succeeds(&["organization", "create", "acme", "--name", "Acme", "--domain", "acme.example"]).await;
    let create = ["administrator", "create", "ann@acme.example", "--organization", "acme"];
    let role = ["--role", "administrator", "--password-stdin"];
    operate(&machine, &mut seen, &[&create[..], &role].concat(), &format!("{OF_ADMINISTRATOR}\n")).await;
    outgate.succeeds(&["gateway", "set", "acme", &gateway.address.to_string()]).await;
    let made = outgate.succeeds(&["credential", "create", "acme", "--name", "Printers"]).await;
    let told = |label: &str| made.split_once(label).unwrap().1.lines().next().unwrap().trim().to_owned();
    let (user_name, of_credential) = (told("User name:"), told("Password:"));

    // At the pages: a password mistyped and one that is right.
    let browser = Browser::at(machine.pages());
    let refused = browser.sign_in("ann@acme.example", MISTYPED).await;
    assert_eq!((refused.path.as_str(), browser.cookie()), ("/sign-in", None), "{}", refused.html);
    seen.add("the sign-in page", refused.html);
    browser.sign_in("ann@acme.example", OF_ADMINISTRATOR).await;
    let cookie = browser.cookie().expect("signed in").split_once('=').unwrap().1.to_owned();
    save_password(&browser, &mut seen, &gateway, &certified, MISTYPED).await;

    // At the relay: the same, and a message for a gateway that refuses the password and repeats it.
    gateway.says(At::SignIn, &format!("535-5.7.8 not {}\n535 5.7.8 go away", plain("acme", MISTYPED)));
    let tls = certificate.client();
    let mut client = SmtpClient::encrypted(machine.submission, &tls).await;
    assert!(client.sign_in(&user_name, MISTYPED).await.starts_with("535 "));
    let mut client = SmtpClient::encrypted(machine.submission, &tls).await;
    let signed_in = async { while !client.sign_in(&user_name, &of_credential).await.starts_with("235 ") {} };
    timeout(HAPPENS_WITHIN, signed_in).await.expect("the credential is known");
    let queued = client.submit("ann@acme.example", "bob@elsewhere.example", IN_MAIL).await;
    assert!(queued.starts_with("250 2.0.0 queued as "), "{queued}");
    look_around(&browser, &mut seen).await;

    // Put right, both messages arrive, one of them from the queue.
    gateway.works_again();
    save_password(&browser, &mut seen, &gateway, &certified, OF_GATEWAY).await;
    gateway.received(1).await;
    assert!(client.submit("ann@acme.example", "bob@elsewhere.example", IN_MAIL).await.starts_with("250 "));
    let received = gateway.received(2).await;
    assert!(received.iter().all(|message| message.user.as_deref() == Some("acme")));
    look_around(&browser, &mut seen).await;
    let numbers = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
    assert!(numbers.contains("outgate_"), "{numbers}");
    seen.add("the metrics", numbers);

    running.terminate();
    let log = running.ended_saying().await;
    assert!(log.contains("\"TRACE\"") && log.contains("handed over"), "everything is logged");
    seen.add("the log", log);
    seen.add("PostgreSQL's log", machine.postgres_log());
    seen.has_none_of(&[
        cookie,
        of_credential.clone(),
        plain(&user_name, &of_credential),
        plain(&user_name, MISTYPED),
        plain("acme", OF_GATEWAY),
        plain("acme", MISTYPED),
    ]);
}
