//! A gateway that was saved and goes live when it has passed its verification: from the save to the mail.
//! The page of the same name in `src/web`, and the task beside the pages.

use std::time::Duration;

use outgate::{
    mail::id::{GatewayId, RelayId, Revision},
    policy::{
        Role,
        fault::Stage,
        verification::{Outcome, Step},
    },
    store::{
        self, WebStore,
        gateway_health::{Encryption, Seen},
    },
};
use reqwest::StatusCode;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::page_of;
use crate::support::{
    Browser, Gateway, Installation, Page, Pages, SmtpClient, Tenant,
    browser::{PASSWORD, PASSWORD_HASH},
    gateway::{At, Fault, HAPPENS_WITHIN},
    outgate::Outgate,
    world::{World, until_live},
};

const FIELD: &str = "outbound_gateway";
pub(super) const ADMIN: &str = "administrator@acme.example";

/// Looks until the page says so.
pub(super) async fn until(browser: &Browser, path: &str, words: &str) -> Page {
    let mut text = String::new();
    let says_so = async {
        loop {
            let page = browser.get(path).await;
            if page.text().contains(words) {
                return page;
            }
            text = page.text();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match timeout(HAPPENS_WITHIN, says_so).await {
        Ok(page) => page,
        Err(_) => panic!("{words} in {text}"),
    }
}

/// Where the status line's button sends its form.
pub(super) fn undo(page: &Page) -> String {
    let (before, _) = page.html.split_once("><button>Undo</button>").expect("no Undo on the page");
    let action = before.rsplit_once(r#"action=""#).unwrap().1;
    action.split_once('"').unwrap().0.replace("&#38;", "&")
}

/// As pages show it.
pub(super) fn shown(gateway: &Gateway) -> String {
    format!("{} port {}", gateway.address.ip(), gateway.address.port())
}

/// What was done to the pointers of the organization, the latest last.
pub(super) async fn done(installation: &Installation) -> Vec<(String, String)> {
    sqlx::query_as(
        "select audit.action, audit.actor from change join audit_entry audit on audit.change_id = change.id
         where audit.action like 'gateway.%' or audit.action like 'change.%' order by change.revision",
    )
    .fetch_all(&installation.owner)
    .await
    .unwrap()
}

/// Pages, a relay and an administrator, whose gateways are on this machine.
pub(super) struct Living {
    pub installation: Installation,
    pub acme: Tenant,
    pub world: World,
    pub admin: Browser,
    /// The form of all users.
    pub page: String,
}

pub(super) async fn living(db: PgPool) -> Living {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    installation.administrator(&acme, ADMIN, &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    let admin = Browser::at(world.pages.trim_start_matches("http://").parse().unwrap());
    admin.sign_in(ADMIN, PASSWORD).await;
    let page = page_of(&acme, "outbound-mail-gateway");
    Living { installation, acme, world, admin, page }
}

impl Living {
    /// A message of the account's, by the routes as they stand in the store.
    pub async fn mail(&self, subject: &str) {
        until_live(&self.installation, self.installation.latest_revision().await).await;
        let mut smtp = SmtpClient::greeted(self.world.submission).await;
        let content = format!("Subject: {subject}\r\n\r\nHello.\r\n");
        let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", &content).await;
        assert!(reply.starts_with("250"), "{reply}");
    }

    /// A gateway that is live and has taken mail, as everybody can see.
    pub async fn that_works(&self) -> Gateway {
        let gateway = Gateway::start().await;
        let saved = self.admin.submit(&self.page, &[(FIELD, &gateway.address.to_string())]).await;
        let words = format!("Saved. 1 account now sends through {}.", shown(&gateway));
        assert!(saved.text().contains(&words), "the first is live at once: {}", saved.text());
        self.mail("first").await;
        gateway.received(1).await;
        until(&self.admin, &self.page, "Last accepted mail").await;
        gateway
    }
}

#[sqlx::test]
async fn what_replaces_a_gateway_that_works_goes_live_by_itself_once_it_has_passed(db: PgPool) {
    let living = living(db).await;
    let Living { installation, acme, admin, page, .. } = &living;
    let (old, new) = (living.that_works().await, Gateway::start().await);
    new.fails(At::Rcpt, Fault::Stalls);

    let saved = admin.submit(page, &[(FIELD, &new.address.to_string())]).await;
    let words = format!(
        "Saved. {} is being checked. Until it has passed, mail keeps leaving through {}.",
        shown(&new),
        shown(&old)
    );
    assert!(saved.text().contains(&words), "{words} in {}", saved.text());
    assert_eq!((saved.field(FIELD), saved.field("seen")), (new.address.to_string(), new.address.to_string()));
    for button in ["Use it anyway", "Give it up"] {
        assert!(saved.html.contains(&format!(">{button}</button>")), "{button}");
    }
    new.stalled(1).await;
    living.mail("meanwhile").await;
    old.received(2).await;
    assert!(new.so_far().is_empty());
    // What waits for the old one takes the new way then.
    old.says(At::Mail, "550 5.7.1 Not any more");
    living.mail("kept").await;
    let cloud = admin.get(&format!("/{}/web-mail-cloud", acme.slug)).await.text();
    assert!(cloud.contains(&format!("{} is being checked", shown(&new))), "{cloud}");
    assert!(admin.get(&page_of(acme, "gateways")).await.text().contains("all users once it is verified"));
    let note = format!("{} is to be the gateway of all users once it has passed its verification", shown(&new));
    let explained = admin.get(&page_of(acme, "explain-route?sender=ann@acme.example")).await.text();
    assert!(explained.contains(&note) && explained.contains(&format!("leaves through {}", shown(&old))), "{explained}");
    let command = Outgate::on(&installation.owner).with("OUTGATE_DEFAULT_ROUTE", "mx");
    let said = command.succeeds(&["route", "explain", "ann@acme.example"]).await;
    assert!(said.contains(&note), "{said}");

    new.works_again();
    new.go_on();
    let words = format!("Saved. 1 account now sends through {}. Live on 1 of 1 relays.", shown(&new));
    let live = until(admin, &saved.path, &words).await;
    assert!(live.text().contains("It has passed its verification."), "{}", live.text());
    assert!(!live.text().contains("is not live yet"), "{}", live.text());
    living.mail("afterwards").await;
    let arrived = new.received(2).await;
    let has = |subject: &str| arrived.iter().any(|one| String::from_utf8_lossy(&one.content).contains(subject));
    assert!(has("Subject: kept") && has("Subject: afterwards"), "{arrived:?}");
    assert_eq!(old.so_far().len(), 2);
    old.works_again();
    let on_behalf = format!("Outgate for {ADMIN}");
    let expected = [("gateway.set", ADMIN), ("gateway.pending", ADMIN), ("gateway.live", &on_behalf)];
    assert_eq!(done(installation).await, expected.map(|(action, actor)| (action.to_owned(), actor.to_owned())));

    let back = admin.submit(&undo(&live), &[]).await;
    let words = format!("Taken back. 1 account now sends through {}.", shown(&old));
    assert!(back.text().contains(&words), "{}", back.text());
    store::pending_gateway::look(&installation.web_store().await).await.unwrap();
    living.mail("as before").await;
    old.received(3).await;
    assert_eq!((new.so_far().len(), back.field(FIELD)), (2, old.address.to_string()));
    living.world.stop().await;
}

#[sqlx::test]
async fn what_is_refused_leaves_the_old_route_and_is_used_anyway_or_fixed_and_checked_again(db: PgPool) {
    let living = living(db).await;
    let Living { admin, page, acme, .. } = &living;
    let (old, new) = (living.that_works().await, Gateway::start().await);
    new.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let saved = admin.submit(page, &[(FIELD, &new.address.to_string())]).await;
    let found = until(admin, &saved.path, "It has not passed its check").await;
    for words in [
        format!(
            "{} has not passed its check. Until it has passed, mail keeps leaving through {}.",
            shown(&new),
            shown(&old)
        ),
        "Recipient: It does not relay for us: let the server relay for 127.0.0.1".to_owned(),
        "Check again".to_owned(),
    ] {
        assert!(found.text().contains(&words), "{words} in {}", found.text());
    }
    living.mail("stays").await;
    old.received(2).await;

    let form = page_of(acme, "pending-gateway");
    let (of, gateway) = (found.field("of"), found.field("gateway"));
    let fields = [("of", of.as_str()), ("gateway", gateway.as_str()), ("action", "use")];
    let used = admin.submit(&form, &fields).await;
    let words = format!("Saved. 1 account now sends through {}. Live on 1 of 1 relays.", shown(&new));
    assert!(used.text().contains(&words), "{}", used.text());
    let twice = admin.submit(&form, &fields).await;
    assert!(
        twice.text().contains("Nothing changed. It is not waiting for its verification any more."),
        "{}",
        twice.text()
    );
    new.works_again();
    living.mail("anyway").await;
    new.received(1).await;
    assert_eq!(done(&living.installation).await.last().unwrap(), &("gateway.use-anyway".to_owned(), ADMIN.to_owned()));

    // Put right at the server and checked again, the next one goes live.
    let third = Gateway::start().await;
    third.says(At::Rcpt, "554 5.7.1 Relay access denied");
    until(admin, page, "Last accepted mail").await;
    let saved = admin.submit(page, &[(FIELD, &third.address.to_string())]).await;
    let found = until(admin, &saved.path, "It has not passed its check").await;
    third.works_again();
    let checked = admin.submit(&page_of(acme, &format!("gateways/{}/verify", found.field("gateway"))), &[]).await;
    assert!(checked.path.contains("/verifications/"), "{}", checked.path);
    until(admin, &saved.path, "It has passed its verification.").await;
    living.world.stop().await;
}

#[sqlx::test]
async fn where_everything_is_verified_mail_waits_for_the_first_gateway_and_leaves_by_itself(db: PgPool) {
    let living = living(db).await;
    let Living { admin, page, acme, .. } = &living;
    let choice = page_of(acme, "outbound-mail-gateway/verify-before-live");
    let chosen = admin.submit(&choice, &[("verify_before_live", "always"), ("seen", "replacing")]).await;
    assert!(chosen.text().contains("Saved. Every gateway of all users or a mail domain goes live when it has passed."));
    let new = Gateway::start().await;
    new.fails(At::Rcpt, Fault::Stalls);
    let saved = admin.submit(page, &[(FIELD, &new.address.to_string())]).await;
    let words = format!(
        "{} is being checked. Until it has passed, mail without another gateway waits. Live on 1 of 1 relays.",
        shown(&new)
    );
    assert!(saved.text().contains(&words), "{}", saved.text());
    new.stalled(1).await;
    living.mail("waits").await;
    let held = until(admin, page, "1 message since").await.text();
    assert!(held.contains("The gateway of all users has not passed its verification yet."), "{held}");
    let explained = admin.get(&page_of(acme, "explain-route?sender=ann@acme.example")).await.text();
    let words = "Mail from ann@acme.example is held: the gateway of all users has not passed its verification yet.";
    assert!(explained.contains(words), "{explained}");
    let verified = "until the new gateway has passed its verification";
    for (page, words) in [
        ("outbound-mail-gateway", format!("Mail is held {verified}. Held mail")),
        ("outbound-mail-gateway", format!("1 account has no gateway: mail is held {verified}")),
        ("mail-account-manager", format!("Held {verified} organization")),
        ("mail-account-manager?show=attention", "1 message held, Waits for the new gateway".to_owned()),
        ("domain-manager", format!("Held {verified} organization")),
        ("outbound-queue", format!("No gateway yet Held {verified}")),
        ("outbound-queue", "When the new gateway has passed".to_owned()),
        ("explain-route?sender=ann@acme.example", format!("none yet, so mail is held {verified} applies now")),
    ] {
        let text = admin.get(&page_of(acme, page)).await.text();
        assert!(text.contains(&words), "{page}: {words} in {text}");
    }
    let cloud = admin.get(&format!("/{}/web-mail-cloud", acme.slug)).await.text();
    assert!(cloud.contains(&format!("None. Mail is held {verified}. {} is being checked", shown(&new))), "{cloud}");
    assert!(!cloud.contains("your decision"), "it leaves by itself: {cloud}");
    let glance = admin.get(&format!("/{}/administration", acme.slug)).await.text();
    assert!(glance.contains(&format!("Held {verified}")), "{glance}");
    let command = Outgate::on(&living.installation.owner).with("OUTGATE_DEFAULT_ROUTE", "mx");
    let said = command.succeeds(&["route", "explain", "ann@acme.example"]).await;
    assert!(said.contains(&format!("none yet, so mail is held {verified} (applies)")), "{said}");
    assert!(living.world.default.is_empty().await && new.so_far().is_empty());

    new.works_again();
    new.go_on();
    until(admin, &saved.path, "It has passed its verification.").await;
    new.received(1).await;
    assert!(living.world.default.is_empty().await);

    // A mail domain without one of its own has the organization's until its own has passed.
    let of_domain = Gateway::start().await;
    of_domain.says(At::Mail, "550 5.7.1 not you");
    let form = page_of(acme, "domain-manager/acme.example/outbound-gateway");
    let saved = admin.submit(&form, &[(FIELD, &of_domain.address.to_string())]).await;
    let found = until(admin, &saved.path, "has not passed its check").await;
    assert!(found.text().contains("Until it has passed, mail goes on as it does now."), "{}", found.text());
    assert_eq!(found.link("What to do"), form);
    assert!(found.rows()[0].contains(&format!("{} has not passed its check", shown(&of_domain))), "{:?}", found.rows());
    living.mail("as now").await;
    new.received(2).await;
    let page = admin.get(&form).await;
    let fields = [("of", page.field("of")), ("gateway", page.field("gateway"))];
    let fields = [(fields[0].0, &*fields[0].1), (fields[1].0, &*fields[1].1), ("action", "give-up")];
    let given_up = admin.submit(&page_of(acme, "pending-gateway"), &fields).await;
    assert!(given_up.text().contains("Given up.") && !given_up.rows()[0].contains("check"), "{}", given_up.text());
    assert_eq!(admin.get(&form).await.field(FIELD), "");
    living.world.stop().await;
}

#[sqlx::test]
async fn where_a_domain_waits_for_its_own_gateway_its_pages_say_so_and_others_do_not(db: PgPool) {
    let living = living(db).await;
    let Living { admin, acme, installation, .. } = &living;
    store::domain::add(&installation.owner, acme.id, &"other.example".parse().unwrap()).await.unwrap();
    installation.account(acme, "olga@other.example", &[]).await;
    let required = page_of(acme, "outbound-mail-gateway/must-use-gateway");
    admin.submit(&required, &[("must_use_gateway", "1"), ("seen", "no")]).await;
    let choice = page_of(acme, "outbound-mail-gateway/verify-before-live");
    admin.submit(&choice, &[("verify_before_live", "always"), ("seen", "replacing")]).await;
    let new = Gateway::start().await;
    new.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let form = page_of(acme, "domain-manager/acme.example/outbound-gateway");
    admin.submit(&form, &[(FIELD, &new.address.to_string())]).await;
    living.mail("waits").await;
    until(admin, &page_of(acme, "outbound-queue"), "Held until the new gateway has passed its verification").await;
    for page in ["mail-account-manager?show=attention", "domain-manager"] {
        let rows = admin.get(&page_of(acme, page)).await.rows();
        let [first, second] = &rows[..] else { panic!("{rows:?}") };
        assert!(first.contains("Held until the new gateway has passed its verification"), "{page}: {first}");
        assert!(second.contains("Held until a gateway is set"), "{page}: {second}");
    }
    let cloud = admin.get(&format!("/{}/web-mail-cloud", acme.slug)).await.text();
    assert!(!cloud.contains("your decision") && cloud.contains("Mail is held until a gateway is set"), "{cloud}");
    let held = admin.get(&page_of(acme, "outbound-mail-gateway")).await.text();
    let leaves = "and the sender has none. Mail of acme.example leaves by itself when the new gateway there has passed";
    assert!(held.contains(leaves), "{held}");
    let why = "the gateway of the mail domain acme.example has not passed its verification yet.";
    for (sender, why) in [("ann@acme.example", why), ("olga@other.example", "it must leave through a gateway")] {
        let explained = admin.get(&page_of(acme, &format!("explain-route?sender={sender}"))).await.text();
        assert!(explained.contains(&format!("Mail from {sender} is held: {why}")), "{explained}");
    }
    let owner = &installation.owner;
    let reason: String =
        sqlx::query_scalar("select last_reply from queued_message").fetch_one(owner).await.expect("one message");
    assert_eq!(reason, "the sender's new gateway has not passed its verification yet");
    living.world.stop().await;
}

/// Pages and a relay that the test plays.
struct Played {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    store: WebStore,
    relays: PgPool,
    relay: RelayId,
    page: String,
}

async fn played(db: PgPool) -> Played {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    let relays = installation.relay_pool().await;
    let relay = store::relay::sign_on(&relays, "one", RelayId::new(), Revision(0)).await.unwrap().id;
    // It has everything that is saved at once.
    sqlx::query("update relay set confirmed_revision = 1000000").execute(&installation.owner).await.unwrap();
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let (store, page) = (installation.web_store().await, page_of(&acme, "outbound-mail-gateway"));
    Played { installation, acme, pages, admin, store, relays, relay, page }
}

impl Played {
    async fn save(&self, address: &str) -> Page {
        self.admin.submit(&self.page, &[(FIELD, address)]).await
    }

    /// How mail says that a gateway does.
    async fn seen(&self, address: &str, took_mail: bool, is_failing: bool) {
        let now = OffsetDateTime::now_utc();
        let seen = Seen {
            organization: self.acme.id,
            gateway: self.installation.gateway_of(&self.acme, address).await,
            revision: 1,
            last_accepted_at: took_mail.then_some(now),
            last_failure: is_failing.then(|| (now, "it said no".to_owned())),
            failing_since: is_failing.then_some(now),
            backup: None,
            certificate_ends_at: None,
            last_reached_at: None,
            throughput: None,
            encryption: Encryption::default(),
        };
        store::gateway_health::record_across_tenants(&self.relays, self.relay, &[seen]).await.unwrap();
    }

    /// The first gateway, which works.
    async fn with_old(db: PgPool) -> Self {
        let played = played(db).await;
        played.save("old.example.com").await;
        played.seen("old.example.com", true, false).await;
        played.verifies().await;
        played
    }

    async fn look(&self) -> bool {
        store::pending_gateway::look(&self.store).await.unwrap()
    }

    /// Everything that is asked is answered like this; returns how much it was.
    async fn answers(&self, accepts: bool) -> usize {
        let taken = store::verification::take_across_tenants(&self.relays, self.relay, "one").await.unwrap();
        let outcome = if accepts { Outcome::Passed } else { Outcome::Failed };
        let advice = (!accepts).then(|| "Let us in.".to_owned());
        let step = Step { stage: Stage::Mail, outcome, took: 1, saw: vec![], advice, would_verify: false, from: None };
        for taken in &taken {
            let steps = std::slice::from_ref(&step);
            store::verification::report_across_tenants(&self.relays, self.relay, taken, steps, Some(accepts))
                .await
                .unwrap();
        }
        taken.len()
    }

    /// What is asked by now, or in a moment, is found to accept our mail.
    async fn verifies(&self) {
        let answered = async {
            while self.answers(true).await == 0 {
                self.look().await;
            }
        };
        timeout(HAPPENS_WITHIN, answered).await.expect("something is asked");
    }

    /// What is live and what is pending for all users.
    async fn pointers(&self) -> (Option<String>, Option<String>) {
        sqlx::query_as(
            "select (select address from gateway where id = outbound_gateway_id),
                    (select address from gateway where id = pending_gateway_id) from organization",
        )
        .fetch_one(&self.installation.owner)
        .await
        .unwrap()
    }

    async fn assert_pointers(&self, live: &str, pending: &str) {
        let address = |address: &str| (!address.is_empty()).then(|| address.to_owned());
        assert_eq!(self.pointers().await, (address(live), address(pending)));
    }

    async fn id(&self, address: &str) -> GatewayId {
        self.installation.gateway_of(&self.acme, address).await
    }
}

#[sqlx::test]
async fn only_what_replaces_a_gateway_that_works_waits_and_the_page_says_why_not(db: PgPool) {
    let played = played(db).await;
    let first = played.save("a.example.com").await;
    assert!(first.text().contains("Saved. 1 account now sends through a.example.com port 25."), "{}", first.text());
    assert!(!first.text().contains("at once:"), "{}", first.text());
    let untried = played.save("b.example.com").await;
    let words = "now sends through b.example.com port 25. Live on 1 of 1 relays. It is live at once: nothing has shown that the former one works.";
    assert!(untried.text().contains(words), "{}", untried.text());
    played.seen("b.example.com", true, true).await;
    let failing = played.save("c.example.com").await;
    let words = "It is live at once, since the former one does not take mail.";
    assert!(failing.text().contains(words), "{}", failing.text());

    // A verification that has passed shows that it works, without any mail.
    played
        .admin
        .submit(&page_of(&played.acme, &format!("gateways/{}/verify", played.id("c.example.com").await)), &[])
        .await;
    assert!(played.answers(true).await > 0);
    let waits = played.save("d.example.com").await;
    assert!(waits.text().contains("d.example.com port 25 is being checked."), "{}", waits.text());
    played.assert_pointers("c.example.com", "d.example.com").await;

    // What was verified a moment ago from the form does not have to pass again.
    played.admin.submit(&played.page, &[(FIELD, "e.example.com"), ("verify", "1")]).await;
    played.answers(true).await;
    let passed = played.save("e.example.com").await;
    assert!(passed.text().contains("It has passed its verification."), "{}", passed.text());
    played.assert_pointers("e.example.com", "").await;

    played.seen("e.example.com", true, false).await;
    let choice = page_of(&played.acme, "outbound-mail-gateway/verify-before-live");
    let chosen = played.admin.submit(&choice, &[("verify_before_live", "never"), ("seen", "replacing")]).await;
    assert!(chosen.text().contains("Saved. A gateway that is saved is live at once."), "{}", chosen.text());
    played.save("f.example.com").await;
    played.assert_pointers("f.example.com", "").await;
    let back = played.admin.submit(&undo(&chosen), &[]).await;
    assert!(back.text().contains("Taken back. A gateway that replaces one which works"), "{}", back.text());
}

#[sqlx::test]
async fn where_no_relay_answers_the_old_route_stays_and_the_page_says_so(db: PgPool) {
    let played = Played::with_old(db).await;
    store::relay::sign_off(&played.relays, played.relay).await.unwrap();
    let saved = played.save("new.example.com").await;
    assert!(saved.text().contains("new.example.com port 25 is being checked."), "{}", saved.text());
    played.look().await;
    for earlier in [
        "update organization set pending_since = now() - interval '1 hour'",
        "update verification set requested_at = requested_at - interval '1 minute'",
    ] {
        sqlx::query(earlier).execute(&played.installation.owner).await.unwrap();
    }
    let shown = played.admin.get(&saved.path).await.text();
    for words in ["No relay has answered. Ask the operator whether one runs.", "Check again", "Use it anyway"] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    assert!(!played.look().await, "nothing more is to be expected");
    played.assert_pointers("old.example.com", "new.example.com").await;

    // A relay that comes is asked, and then it goes live.
    let fresh = RelayId::new();
    store::relay::sign_on(&played.relays, "two", fresh, Revision(1_000_000)).await.unwrap();
    let played = Played { relay: fresh, ..played };
    assert!(played.look().await);
    played.verifies().await;
    played.look().await;
    played.assert_pointers("new.example.com", "").await;
}

#[sqlx::test]
async fn a_record_that_is_edited_meanwhile_has_to_pass_as_it_is_now(db: PgPool) {
    let played = Played::with_old(db).await;
    played.save("new.example.com").await;
    played.look().await;
    let early = store::verification::take_across_tenants(&played.relays, played.relay, "one").await.unwrap();
    assert_eq!(early.len(), 1);
    let mut record: Vec<(&str, &str)> = super::gateway_record::FIELDS
        .map(|(name, value)| (name, if name == "address" { "new.example.com" } else { value }))
        .into();
    record.extend([("seen", "1"), ("change", "0199f3a0-0000-7000-8000-000000000001")]);
    let path = page_of(&played.acme, &format!("gateways/{}/record", played.id("new.example.com").await));
    let edited = played.admin.submit(&path, &record).await;
    assert!(edited.text().contains("leaves by revision 2 of its record"), "{}", edited.text());
    store::verification::report_across_tenants(&played.relays, played.relay, &early[0], &[], Some(true)).await.unwrap();
    assert!(played.look().await, "it is being verified as it is now");
    played.assert_pointers("old.example.com", "new.example.com").await;
    played.verifies().await;
    played.look().await;
    played.assert_pointers("new.example.com", "").await;
}

#[sqlx::test]
async fn of_several_processes_that_see_it_pass_one_makes_it_live(db: PgPool) {
    let played = Played::with_old(db).await;
    played.save("new.example.com").await;
    let other = Pages::of(&played.installation).await;
    let stores = [played.installation.web_store().await, played.installation.web_store().await];
    played.verifies().await;
    let looks = [0, 1, 0, 1].map(|store| store::pending_gateway::look(&stores[store]));
    for looked in futures_of(looks).await {
        looked.unwrap();
    }
    played.assert_pointers("new.example.com", "").await;
    let live = done(&played.installation).await.into_iter().filter(|(action, _)| action == "gateway.live").count();
    assert_eq!(live, 1);
    drop(other);
}

/// All at once.
async fn futures_of<F: Future>(futures: [F; 4]) -> [F::Output; 4] {
    let [a, b, c, d] = futures;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    [a, b, c, d]
}

#[sqlx::test]
async fn what_is_pending_is_taken_back_replaced_given_up_or_emptied(db: PgPool) {
    let played = Played::with_old(db).await;
    let saved = played.save("new.example.com").await;
    let back = played.admin.submit(&undo(&saved), &[]).await;
    assert!(back.text().contains("Taken back."), "{}", back.text());
    played.assert_pointers("old.example.com", "").await;
    let verify = page_of(&played.acme, &format!("gateways/{}/verify", played.id("new.example.com").await));
    played.admin.submit(&verify, &[]).await;
    assert!(played.answers(true).await > 0);
    played.look().await;
    played.assert_pointers("old.example.com", "").await;

    let again = played.admin.submit(&undo(&back), &[]).await;
    assert!(again.text().contains("Brought back. new.example.com port 25 is being checked."), "{}", again.text());
    played.assert_pointers("old.example.com", "new.example.com").await;
    let other = played.save("other.example.com").await;
    played.assert_pointers("old.example.com", "other.example.com").await;
    let same = played.save("other.example.com").await;
    assert!(same.text().contains("Nothing changed. other.example.com port 25 is being checked."), "{}", same.text());
    let live = played.save("old.example.com").await;
    assert!(live.text().contains("Given up."), "{}", live.text());
    played.assert_pointers("old.example.com", "").await;
    let superseded = played.admin.get(&other.path).await;
    assert!(superseded.text().contains("It was changed again since"), "{}", superseded.text());

    played.save("other.example.com").await;
    played.save("").await;
    played.assert_pointers("", "").await;

    // The former version of the program moves the pointer alone.
    played.save("old.example.com").await;
    played.seen("old.example.com", true, false).await;
    played.save("other.example.com").await;
    played.assert_pointers("old.example.com", "other.example.com").await;
    sqlx::query(
        "update organization set outbound_gateway_id = (select id from gateway where address = 'new.example.com')",
    )
    .execute(&played.installation.owner)
    .await
    .unwrap();
    played.assert_pointers("new.example.com", "").await;
}

#[sqlx::test]
async fn after_it_went_live_the_save_cannot_be_taken_back_and_the_change_that_made_it_live_can(db: PgPool) {
    let played = Played::with_old(db).await;
    let saved = played.save("new.example.com").await;
    let too_late = undo(&saved);
    played.verifies().await;
    let live = until(&played.admin, &saved.path, "It has passed its verification.").await;
    let refused = played.admin.submit(&too_late, &[]).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let words = format!("all users: changed since, by Outgate for {ADMIN}");
    assert!(refused.text().contains(&words), "{}", refused.text());
    // One's own form, shown before it went live, is no conflict with oneself.
    let form = [(FIELD, "third.example.com"), ("seen", "old.example.com")];
    assert_eq!(played.admin.submit(&played.page, &form).await.status, StatusCode::OK);
    let gone = played.admin.submit(&undo(&live), &[]).await;
    assert_eq!(gone.status, StatusCode::OK, "what is pending by now is another thing: {}", gone.text());
    played.assert_pointers("old.example.com", "").await;
    let log = played.admin.get("/acme/administration/audit-log").await.text();
    assert!(log.contains("made live, since it has passed its verification, the gateway of"), "{log}");
}

#[sqlx::test]
async fn other_roles_see_what_is_pending_and_other_organizations_nothing(db: PgPool) {
    let played = Played::with_old(db).await;
    played.save("new.example.com").await;
    let gateway = played.id("new.example.com").await.to_string();
    let form = page_of(&played.acme, "pending-gateway");
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = played.pages.signed_in(&played.installation, &played.acme, role).await;
        let shown = browser.get(&played.page).await;
        assert!(shown.text().contains("new.example.com port 25 is not live yet"), "{role} {}", shown.text());
        assert!(!shown.html.contains(">Use it anyway<") && shown.html.contains("value=\"always\" disabled"), "{role}");
        for action in ["use", "give-up"] {
            let sent = browser.submit(&form, &[("of", "all"), ("gateway", &gateway), ("action", action)]).await;
            assert_eq!(sent.status, StatusCode::FORBIDDEN, "{role}");
        }
    }
    let rival = played.installation.organization("rival").await;
    let before = played.installation.everything_of(&played.acme).await;
    let theirs = played.pages.signed_in(&played.installation, &rival, Role::Administrator).await;
    for of in ["all", "acme.example", "rival.example"] {
        let fields = [("of", of), ("gateway", gateway.as_str()), ("action", "use")];
        let sent = theirs.submit(&page_of(&rival, "pending-gateway"), &fields).await;
        assert!(!sent.html.contains("new.example.com"), "{}", sent.text());
    }
    for page in ["outbound-mail-gateway", "domain-manager", "gateways", "explain-route?sender=x@rival.example"] {
        assert!(!theirs.get(&page_of(&rival, page)).await.html.contains("new.example.com"), "{page}");
    }
    assert_eq!(played.installation.everything_of(&played.acme).await, before);
    for (of, action) in [("all", "burn"), ("not a domain", "use")] {
        let fields = [("of", of), ("gateway", gateway.as_str()), ("action", action)];
        assert!(played.admin.submit(&form, &fields).await.status.is_client_error(), "{of} {action}");
    }
}

#[sqlx::test]
async fn the_command_is_live_at_once_unless_it_is_told_to_go_the_way_of_the_pages(db: PgPool) {
    let played = Played::with_old(db).await;
    let command = Outgate::on(&played.installation.owner).with("OUTGATE_DEFAULT_ROUTE", "mx");
    let said = command.succeeds(&["gateway", "set", "acme", "new.example.com", "--when-verified"]).await;
    let words = "new.example.com port 25 is being checked. Until it has passed, mail of all users leaves as before.";
    assert!(said.starts_with(words), "{said}");
    played.assert_pointers("old.example.com", "new.example.com").await;
    let said = command.succeeds(&["gateway", "set", "acme", "new.example.com", "--when-verified"]).await;
    assert!(said.contains("goes live when it has passed its verification"), "{said}");
    let said = command.succeeds(&["gateway", "set", "acme", "third.example.com"]).await;
    assert!(said.starts_with("Mail of all users now leaves through third.example.com port 25."), "{said}");
    played.assert_pointers("third.example.com", "").await;
    let said = command.succeeds(&["gateway", "verify-before-live", "acme", "always"]).await;
    assert!(said.starts_with("Of acme, every gateway of all users or a mail domain has to pass"), "{said}");
    let said = command.succeeds(&["gateway", "set", "acme", "fourth.example.com", "--when-verified"]).await;
    assert!(said.contains("fourth.example.com port 25 is being checked."), "{said}");
}
