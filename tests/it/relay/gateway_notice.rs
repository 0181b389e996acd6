//! Administrators hear once that a gateway does not take mail, and once that it does again.
//! The queue is given the time; what relays have seen is written as they write it.

use outgate::{
    mail::id::{ChangeId, GatewayId, RelayId, Revision},
    policy::{
        Role,
        facts::TlsMode,
        fault::Stage,
        gateway_record::GatewayRecord,
        gateway_settings::GatewaySettings,
        routing::PlatformDefault,
        verification::{Outcome, Step},
    },
    relay::{
        gateway_health::{Written, record},
        message::Message,
    },
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        gateway_health::{Encryption, Seen},
        gateway_record::Edit,
        pending_gateway::Saved,
        verification::{Asked, Wanted},
    },
};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};

use crate::support::{Gateway, Installation, Sending, Tenant, gateway::Received, sending::Options};

fn text_of(notice: &Received) -> String {
    let text = String::from_utf8_lossy(&notice.content).replace("=\r\n", "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[sqlx::test]
async fn in_an_outage_each_administrator_gets_one_message_and_one_when_it_is_over(db: PgPool) {
    let inbound = Gateway::start().await;
    let installation = Installation::on(db.clone());
    let works = installation.organization("works").await;
    for (email, role) in [
        ("bea@works.example", Role::Administrator),
        ("cy@works.example", Role::Administrator),
        ("dan@works.example", Role::UserAdministrator),
    ] {
        installation.administrator(&works, email, "not a hash", role).await;
    }
    let suspended = "update administrator set status = 'suspended' where email = 'cy@works.example'";
    sqlx::query(suspended).execute(&installation.owner).await.unwrap();
    installation.set_gateway(&works, &PointerScope::Organization, "archive.example.com:587").await;
    let gateway = installation.gateway_of(&works, "archive.example.com:587").await;
    let default = PlatformDefault::Smarthost(inbound.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    let one = store::relay::sign_on(&sending.db, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    let now = OffsetDateTime::now_utc();
    let see = async |failing_since: Option<OffsetDateTime>, accepted: Option<OffsetDateTime>| {
        let seen = Seen {
            organization: works.id,
            gateway,
            revision: 1,
            last_accepted_at: accepted,
            last_failure: failing_since.map(|since| (since, "gateway said: 554 5.7.1 go away".to_owned())),
            failing_since,
            backup: None,
            certificate_ends_at: None,
            last_reached_at: None,
            throughput: None,
            encryption: Encryption::default(),
        };
        store::gateway_health::record_across_tenants(&sending.db, one, &[seen]).await.unwrap();
    };
    let tell = async |minutes: i64| sending.queue.tell_of_gateways(now + Duration::minutes(minutes)).await.unwrap();

    let webhook = "insert into webhook (organization_id, url, secret) values ($1, 'https://x.example/', sha256('x'))";
    sqlx::query(webhook).bind(works.id.0).execute(&installation.owner).await.unwrap();
    see(Some(now), None).await;
    assert_eq!(tell(0).await, 0, "it may be over in a moment");
    assert_eq!(tell(2).await, 1, "the one active Administrator");
    assert_eq!(
        (tell(3).await, sending.another().queue.tell_of_gateways(now + Duration::minutes(3)).await.unwrap()),
        (0, 0)
    );
    sending.queue.step(now + Duration::minutes(4)).await.unwrap();
    let notice = inbound.received(1).await.remove(0);
    assert_eq!(
        (notice.reverse_path.as_str(), notice.recipients.as_slice()),
        ("", &["bea@works.example".to_owned()][..])
    );
    let text = text_of(&notice);
    for words in [
        "Subject: Gateway archive.example.com:587 does not take mail",
        "The outbound gateway archive.example.com port 587 of",
        "has not taken mail since",
        "gateway said: 554 5.7.1 go away",
        "Mail for it waits and is not lost. It is not sent another way.",
        "Auto-Submitted: auto-generated",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }

    see(None, None).await;
    assert_eq!(tell(5).await, 0, "nobody has seen it take mail");
    see(None, Some(now + Duration::minutes(6))).await;
    assert_eq!((tell(7).await, tell(8).await), (1, 0));
    sending.queue.step(now + Duration::minutes(9)).await.unwrap();
    let text = text_of(&inbound.received(2).await[1]);
    assert!(text.contains("takes mail again. What has waited for it is on its way."), "{text}");

    see(Some(now + Duration::minutes(10)), None).await;
    assert_eq!(tell(12).await, 1, "the next outage is another one");
    // It is put aside, so that nobody sees it take mail.
    see(None, None).await;
    assert_eq!((tell(60).await, tell(80).await), (0, 0));
    see(Some(now + Duration::minutes(90)), None).await;
    assert_eq!((tell(92).await, tell(200).await), (1, 0), "that it is out of order when it is used again is told");
    let told: Vec<(String, String)> = sqlx::query_as("select kind, body from webhook_notice order by id")
        .fetch_all(&installation.owner)
        .await
        .unwrap();
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        ["gateway.failing", "gateway.well", "gateway.failing", "gateway.failing"],
        "and the webhook as often"
    );
    assert!(told[0].1.contains("does not take mail: gateway said: 554 5.7.1 go away. Mail for it waits"), "{told:?}");
}

#[sqlx::test]
async fn a_fall_to_a_backup_is_told_though_the_outage_is_known_and_well_is_what_has_lasted_for_a_minute(db: PgPool) {
    let inbound = Gateway::start().await;
    let installation = Installation::on(db.clone());
    let works = installation.organization("works").await;
    installation.administrator(&works, "bea@works.example", "not a hash", Role::Administrator).await;
    let domain = PointerScope::Domain("works.example".parse().unwrap());
    installation.set_gateway(&works, &domain, "backup.example.com").await;
    installation.set_gateway(&works, &PointerScope::Organization, "archive.example.com:587").await;
    let gateway = installation.gateway_of(&works, "archive.example.com:587").await;
    let backup = installation.gateway_of(&works, "backup.example.com").await;
    let default = PlatformDefault::Smarthost(inbound.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    let mut relays = Vec::new();
    for name in ["one", "two"] {
        relays.push(store::relay::sign_on(&sending.db, name, RelayId::new(), Revision(0)).await.unwrap().id);
    }
    let now = OffsetDateTime::now_utc();
    let at = |seconds: i64| now + Duration::seconds(seconds);
    let see = async |relay: usize, failed: i64, fails: bool, backup: Option<GatewayId>, accepted: Option<i64>| {
        let seen = Seen {
            organization: works.id,
            gateway,
            revision: 1,
            last_accepted_at: accepted.map(at),
            last_failure: Some((at(failed), "the connection failed".to_owned())),
            failing_since: fails.then_some(now),
            backup,
            certificate_ends_at: None,
            last_reached_at: None,
            throughput: None,
            encryption: Encryption::default(),
        };
        store::gateway_health::record_across_tenants(&sending.db, relays[relay], &[seen]).await.unwrap();
    };
    let tell = async |seconds: i64| sending.queue.tell_of_gateways(at(seconds)).await.unwrap();
    see(0, 0, true, None, None).await;
    see(1, 0, true, None, None).await;
    assert_eq!((tell(90).await, tell(100).await), (1, 0));
    see(0, 100, true, Some(backup), None).await;
    assert_eq!((tell(110).await, tell(120).await), (1, 0), "mail leaves another way now");
    see(1, 120, true, Some(backup), None).await;
    assert_eq!(tell(130).await, 0, "by the other relay, too");
    sending.queue.step(at(140)).await.unwrap();
    let text = inbound.received(2).await.iter().map(text_of).collect::<String>();
    assert!(text.contains("Mail goes to its backup backup.example.com port 25 meanwhile"), "{text}");

    for relay in [0, 1] {
        see(relay, 200, false, None, Some(210)).await;
    }
    assert_eq!(tell(220).await, 0, "it may be a moment");
    assert_eq!((tell(270).await, tell(280).await), (1, 0));
}

#[sqlx::test]
async fn a_certificate_that_ends_is_told_thirty_days_before_seven_and_one(db: PgPool) {
    let inbound = Gateway::start().await;
    let installation = Installation::on(db.clone());
    let works = installation.organization("works").await;
    installation.administrator(&works, "bea@works.example", "not a hash", Role::Administrator).await;
    installation.set_gateway(&works, &PointerScope::Organization, "archive.example.com:587").await;
    let gateway = installation.gateway_of(&works, "archive.example.com:587").await;
    let default = PlatformDefault::Smarthost(inbound.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    let one = store::relay::sign_on(&sending.db, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    let now = OffsetDateTime::now_utc();
    let shows = async |days: i64, ends_at: Option<OffsetDateTime>| {
        let seen = Seen {
            organization: works.id,
            gateway,
            revision: 1,
            last_accepted_at: Some(now + Duration::days(days)),
            last_failure: None,
            failing_since: None,
            backup: None,
            certificate_ends_at: ends_at,
            last_reached_at: None,
            throughput: None,
            encryption: Encryption::default(),
        };
        store::gateway_health::record_across_tenants(&sending.db, one, &[seen]).await.unwrap();
    };
    let tell = async |days: i64| sending.queue.tell_of_gateways(now + Duration::days(days)).await.unwrap();

    let ends_at = now + Duration::days(40);
    let mut told = Vec::new();
    for day in 0..40 {
        shows(day, Some(ends_at)).await;
        let times = (tell(day).await, tell(day).await, sending.another().queue.tell_of_gateways(now).await.unwrap());
        told.extend((times != (0, 0, 0)).then_some((40 - day, times)));
        sending.queue.step(now + Duration::days(day)).await.unwrap();
    }
    assert_eq!(told, [(30, (1, 0, 0)), (7, (1, 0, 0)), (1, (1, 0, 0))]);
    let text = text_of(&inbound.received(1).await[0]);
    for words in [
        "Subject: The certificate of gateway archive.example.com:587 is about to end",
        "The certificate of the outbound gateway archive.example.com port 587 of",
        "from then on mail waits. What to do: renew the certificate at the gateway.",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }

    let renewed = now + Duration::days(100);
    shows(39, Some(renewed)).await;
    assert_eq!(tell(39).await, 0, "it was renewed");
    shows(60, Some(renewed)).await;
    assert_eq!(tell(75).await, 0, "no mail goes there any more");
    shows(75, Some(renewed)).await;
    assert_eq!((tell(75).await, tell(76).await), (1, 0), "the new one ends as well");
    shows(98, None).await;
    assert_eq!(tell(99).await, 0, "nobody verifies it any more");
}

/// An organization whose gateways all have to pass first, and a relay that the test plays.
struct Pending {
    installation: Installation,
    works: Tenant,
    sending: Sending,
    one: RelayId,
    now: OffsetDateTime,
}

impl Pending {
    async fn begin(&self) -> OrganizationTransaction {
        OrganizationTransaction::begin(&self.installation.owner, self.works.id).await.unwrap()
    }

    async fn save(&self, scope: &PointerScope, address: &str) {
        let address = address.parse().unwrap();
        let saved = store::pending_gateway::set(self.begin().await, scope, Some(&address), "bea").await.unwrap();
        assert!(matches!(saved, Saved::Pending(_)), "{saved:?}");
    }

    async fn give_up(&self, scope: &PointerScope, address: &str) {
        let gateway = self.installation.gateway_of(&self.works, address).await;
        store::pending_gateway::give_up(self.begin().await, scope, gateway, "bea").await.unwrap();
    }

    /// Another address in the record of a gateway.
    async fn edit(&self, address: &str, to: &str) {
        let gateway = self.installation.gateway_of(&self.works, address).await;
        let mut transaction = self.begin().await;
        let stored = store::gateway_record::stored(&mut transaction, self.works.id, gateway).await.unwrap().unwrap();
        let record = GatewayRecord { address: to.parse().unwrap(), ..stored.record };
        let (change, actor) = (ChangeId::new(), "bea");
        let edit = Edit { change, record: &record, password: None, at_once: false, actor };
        let saved = store::gateway_record::save(transaction, gateway, &edit).await.unwrap();
        assert!(matches!(saved, store::gateway_record::Saved::Pending(_)), "{saved:?}");
    }

    /// A verification of it that ends like this.
    async fn verified(&self, address: &str, accepts: bool) {
        self.verify(address, address, accepts).await;
    }

    /// The same as its record is to be, if that is another address.
    async fn verify(&self, address: &str, to: &str, accepts: bool) {
        let gateway = self.installation.gateway_of(&self.works, address).await;
        let (to_be, mut transaction) = (to.parse().unwrap(), self.begin().await);
        let wanted = Wanted { is_pending: address != to, ..Wanted::of(Some(gateway), &to_be, "bea") };
        let asked = store::verification::ask(&mut transaction, self.works.id, &wanted).await.unwrap();
        assert!(matches!(asked, Asked::Asked(_)), "{asked:?}");
        transaction.commit().await.unwrap();
        let step = |stage, outcome, advice: Option<&str>| Step {
            stage,
            outcome,
            took: 1,
            saw: vec![],
            advice: advice.map(str::to_owned),
            would_verify: false,
            from: None,
        };
        let mut steps = vec![step(Stage::Connect, Outcome::Passed, None)];
        steps.extend((!accepts).then(|| step(Stage::Recipient, Outcome::Failed, Some("It does not relay for us."))));
        for taken in store::verification::take_across_tenants(&self.sending.db, self.one, "one").await.unwrap() {
            let db = &self.sending.db;
            store::verification::report_across_tenants(db, self.one, &taken, &steps, Some(accepts)).await.unwrap();
        }
    }

    /// What is told so many seconds from the beginning of the test, and that nothing is told twice.
    async fn tell(&self, seconds: i64) -> usize {
        let at = self.now + Duration::seconds(seconds);
        let told = self.sending.queue.tell_of_gateways(at).await.unwrap();
        assert_eq!(self.sending.another().queue.tell_of_gateways(at).await.unwrap(), 0);
        self.sending.queue.step(at).await.unwrap();
        told
    }
}

#[sqlx::test]
async fn a_gateway_that_does_not_pass_and_go_live_is_told_once_for_each_change(db: PgPool) {
    let inbound = Gateway::start().await;
    let installation = Installation::on(db.clone());
    let works = installation.organization("works").await;
    installation.administrator(&works, "bea@works.example", "not a hash", Role::Administrator).await;
    for statement in [
        "update organization set verify_before_live = 'always'",
        "insert into webhook (organization_id, url, secret) select id, 'https://x.example/', sha256('x') from organization",
    ] {
        sqlx::query(statement).execute(&installation.owner).await.unwrap();
    }
    let default = PlatformDefault::Smarthost(inbound.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    let one = store::relay::sign_on(&sending.db, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    let pending = Pending { installation, works, sending, one, now: OffsetDateTime::now_utc() };
    let (all, domain) = (PointerScope::Organization, PointerScope::Domain("works.example".parse().unwrap()));

    pending.save(&all, "new.example.com:587").await;
    pending.verified("new.example.com:587", false).await;
    assert_eq!(pending.tell(30).await, 0, "who has saved it sees it on the page");
    assert_eq!(pending.tell(90).await, 1);
    let text = text_of(&inbound.received(1).await[0]);
    for words in [
        "Subject: Gateway new.example.com:587 has not passed its verification",
        "new.example.com port 587, which is to be the outbound gateway of all users of",
        "is not live. Recipient: It does not relay for us.",
        "Mail without another gateway waits meanwhile and is not lost.",
        "Web Mail Cloud > Outbound Mail Gateway, and press Check again",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    pending.verified("new.example.com:587", false).await;
    assert_eq!(pending.tell(180).await, 0, "a further attempt is no news");

    // Given up before anybody was told, or between the look and the note.
    pending.give_up(&all, "new.example.com:587").await;
    pending.save(&all, "new.example.com:587").await;
    pending.verified("new.example.com:587", false).await;
    let db = &pending.sending.db;
    let late = pending.now + Duration::seconds(600);
    let found = store::gateway_notice::not_passed_across_tenants(db, late).await.unwrap();
    assert_eq!(found.len(), 1, "it was saved anew");
    pending.give_up(&all, "new.example.com:587").await;
    assert!(!store::gateway_notice::note_across_tenants(db, &found[0], late).await.unwrap());
    assert_eq!(pending.tell(180).await, 0, "nobody wants it any more");

    // Of a mail domain beside one that is live.
    pending.installation.set_gateway(&pending.works, &domain, "old.example.com").await;
    pending.save(&domain, "own.example.com").await;
    pending.verified("own.example.com", true).await;
    assert_eq!(pending.tell(180).await, 0, "it has passed");
    pending.verified("own.example.com", false).await;
    assert_eq!(pending.tell(180).await, 1);
    let text = text_of(&inbound.received(2).await[1]);
    for words in [
        "the outbound gateway of the mail domain works.example of",
        "Mail keeps leaving through old.example.com port 25 meanwhile.",
        "Web Mail Cloud > Domain Manager, and there the domain's Outbound Gateway, and press Check again",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let told: Vec<(String, String)> = sqlx::query_as("select kind, body from webhook_notice order by id")
        .fetch_all(&pending.installation.owner)
        .await
        .unwrap();
    assert!(told.len() == 2 && told.iter().all(|(kind, _)| kind == "gateway.not-passed"), "{told:?}");
    let sentence = "own.example.com port 25, which is to be the outbound gateway of the mail domain works.example, has not passed \
                    its verification. Recipient: It does not relay for us. Mail keeps leaving through old.example.com";
    assert!(told[1].1.contains(sentence), "{told:?}");

    // A change of the record of one that is live.
    pending.edit("old.example.com", "moved.example.com").await;
    pending.verify("old.example.com", "moved.example.com", false).await;
    assert_eq!((pending.tell(30).await, pending.tell(180).await, pending.tell(190).await), (0, 1, 0));
    let text = text_of(&inbound.received(3).await[2]);
    for words in [
        "Subject: Gateway moved.example.com has not passed its verification",
        "moved.example.com port 25 as a change of the record of an outbound gateway of",
        "Mail keeps leaving through old.example.com port 25 meanwhile.",
        "Web Mail Cloud > Gateways, and there the gateway, and press Check again",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }

    // No relay answers.
    pending.save(&all, "new.example.com:587").await;
    assert_eq!(pending.tell(15 * 60 + 30).await, 0, "verifications take their time");
    assert_eq!(pending.tell(16 * 60 + 30).await, 1);
    let text = text_of(&inbound.received(4).await[3]);
    let words = "is not live. No answer: not every relay has found out yet whether it accepts our mail.";
    assert!(text.contains(words), "{text}");
}

#[sqlx::test]
async fn that_a_gateway_stops_offering_tls_is_told_once_and_once_that_it_offers_it_again(db: PgPool) {
    let (inbound, gateway) = (Gateway::start().await, Gateway::start().await);
    let installation = Installation::on(db.clone());
    let default = PlatformDefault::Smarthost(inbound.address.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    let acme = Tenant { id: sending.organization, slug: "acme".to_owned(), domain: "acme.example".to_owned() };
    installation.administrator(&acme, "bea@acme.example", "not a hash", Role::Administrator).await;
    let address = gateway.address.to_string();
    installation.set_gateway(&acme, &PointerScope::Organization, &address).await;
    let id = installation.gateway_of(&acme, &address).await;
    let webhook = "insert into webhook (organization_id, url, secret) values ($1, 'https://x.example/', sha256('x'))";
    sqlx::query(webhook).bind(acme.id.0).execute(&installation.owner).await.unwrap();
    let relay = store::relay::sign_on(&sending.db, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    sending.set_record(id, 1, &address, TlsMode::WhenOffered, GatewaySettings::default());
    // What a relay sees by a new connection so much later, and tells.
    let sees = async |of: &Sending, minutes: i64, told: usize| {
        let now = of.now + Duration::minutes(minutes);
        of.handover.pool().close().await;
        let message = Message { accepted_at: now, ..of.message(&["bob@elsewhere.example"]) };
        assert_eq!(of.transfer.accept(message).await.to_string(), "250 2.0.0 kept as 4711");
        let (health, mut written) = (of.handover.health(), Written::default());
        record(&of.db, relay, health, &mut written, now, std::time::Duration::MAX).await.unwrap();
        assert_eq!(of.queue.tell_of_gateways(now).await.unwrap(), told, "after {minutes} minutes");
        of.queue.step(now).await.unwrap();
    };
    let offers = |offers: bool| match offers {
        true => gateway.offers_tls(),
        false => gateway.behave(|behaviour| behaviour.tls = None),
    };

    offers(false);
    for minutes in [0, 5] {
        sees(&sending, minutes, 0).await;
    }
    offers(true);
    sees(&sending, 10, 0).await;
    offers(false);
    sees(&sending, 20, 0).await;
    sees(&sending, 22, 1).await;
    sees(&sending, 23, 0).await;
    let text = text_of(&inbound.received(1).await[0]);
    for words in [
        &format!("Subject: Gateway {address} has stopped offering TLS"),
        "has not been encrypted since",
        "choose TLS required on the gateway's page",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    // A relay that starts anew remembers nothing by itself.
    let anew = sending.another();
    sees(&anew, 30, 0).await;
    sees(&anew, 33, 0).await;
    offers(true);
    sees(&anew, 40, 1).await;
    sees(&anew, 45, 0).await;
    let text = text_of(&inbound.received(2).await[1]);
    assert!(text.contains("is encrypted again."), "{text}");

    // Again it begins while a relay is away: what was encrypted before its start still counts.
    offers(false);
    let third = sending.another();
    sees(&third, 50, 0).await;
    sees(&third, 55, 1).await;
    let kinds: Vec<String> =
        sqlx::query_scalar("select kind from webhook_notice order by id").fetch_all(&installation.owner).await.unwrap();
    assert_eq!(kinds, ["gateway.in-clear", "gateway.encrypted", "gateway.in-clear"], "and the webhook as often");
}

#[sqlx::test]
async fn a_gateway_that_one_relay_still_speaks_to_encrypted_has_not_stopped_offering_tls(db: PgPool) {
    let sending = Sending::on(db.clone()).await;
    let installation = Installation::on(db);
    let works = installation.organization("works").await;
    installation.administrator(&works, "bea@works.example", "not a hash", Role::Administrator).await;
    installation.set_gateway(&works, &PointerScope::Organization, "archive.example.com:587").await;
    let gateway = installation.gateway_of(&works, "archive.example.com:587").await;
    let now = OffsetDateTime::now_utc();
    let at = |minutes: i64| Some(now + Duration::minutes(minutes));
    let mut relays = Vec::new();
    for name in ["one", "two"] {
        relays.push(store::relay::sign_on(&sending.db, name, RelayId::new(), Revision(0)).await.unwrap().id);
    }
    let see = async |relay: usize, encrypted_at, clear_since| {
        let seen = Seen {
            organization: works.id,
            gateway,
            revision: 1,
            last_accepted_at: None,
            last_failure: None,
            failing_since: None,
            backup: None,
            certificate_ends_at: None,
            last_reached_at: None,
            throughput: None,
            encryption: Encryption { encrypted_at, clear_since },
        };
        store::gateway_health::record_across_tenants(&sending.db, relays[relay], &[seen]).await.unwrap();
    };
    let shown = async || {
        let mut db = installation.owner.acquire().await.unwrap();
        store::gateway_health::of(&mut db, works.id, Some(gateway)).await.unwrap()[0].in_clear_since.is_some()
    };
    let tell = async |minutes: i64| sending.queue.tell_of_gateways(now + Duration::minutes(minutes)).await.unwrap();

    see(0, at(0), None).await;
    see(1, at(0), at(10)).await;
    see(0, at(15), None).await;
    assert_eq!((tell(20).await, shown().await), (0, false), "the handshake fails from one of them only");
    see(0, at(15), at(21)).await;
    assert_eq!((tell(25).await, shown().await), (1, true));
    // The other one has had nothing to do with it since.
    see(1, at(30), None).await;
    assert_eq!((tell(31).await, shown().await), (1, false));
}
