//! Mail whose gateway is taken away, and mail that must leave through a gateway and has none: it never goes
//! around; it goes on when there is a gateway again, or as an administrator chooses.

use std::time::Duration;

use outgate::{
    mail::id::{GatewayId, RelayId},
    policy::{
        Role,
        routing::{PlatformDefault, Scope},
        waiting::{Choice, HeldBecause},
    },
    store::{
        self, OrganizationTransaction,
        domain::Removed,
        gateway::PointerScope,
        held_mail::{self, HeldFor},
    },
};
use sqlx::PgPool;
use tokio::{task::JoinSet, time::timeout};

use crate::support::{
    Browser, Gateway, Installation, Page, Pages, Sending, SmtpClient, Tenant,
    gateway::At,
    sending::{Options, Pointers},
    world::{World, until_live},
};

/// How many messages wait for a gateway that is down.
const MANY: usize = 1_000;
/// How long that many may take on a machine that has much else to do.
const ALL_WITHIN: Duration = Duration::from_secs(120);

/// A relay whose default is a smarthost that everything may reach.
async fn with_smarthost(db: PgPool) -> (Sending, Gateway) {
    let smarthost = Gateway::start().await;
    let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
    (Sending::with(db, Options { default, ..Options::default() }).await, smarthost)
}

/// One message that waits for the user's own gateway, which is down, and then has it no more; all users have another.
async fn held_for_users_gateway(db: PgPool) -> (Sending, GatewayId, Gateway, Pointers) {
    let (sending, smarthost) = with_smarthost(db).await;
    let archive = Gateway::start().await;
    let all = Some(sending.add_gateway(archive.address));
    let own = sending.add_gateway(Gateway::free_address().await);
    sending.point(Pointers { user: Some(own), all, ..Pointers::default() });
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    let emptied = Pointers { all, ..Pointers::default() };
    sending.point(emptied);
    sending.step_after(2).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    assert!(archive.so_far().is_empty() && smarthost.so_far().is_empty());
    (sending, own, archive, emptied)
}

/// As an administrator chooses on the page.
async fn choose(sending: &Sending, held_for: HeldFor, choice: Choice) -> Option<i64> {
    let web = Installation::on(sending.owner.clone()).pool_as(store::roles::WEB).await;
    let transaction = OrganizationTransaction::begin(&web, sending.organization).await.unwrap();
    let chosen = held_mail::choose(transaction, held_for, choice, "admin@acme.example").await.unwrap();
    chosen.map(|(messages, _)| messages)
}

fn taken_away(gateway: GatewayId) -> HeldFor {
    HeldFor { because: HeldBecause::GatewayTakenAway, waits_by: Some(Scope::User), waits_for: Some(gateway) }
}

#[sqlx::test]
async fn mail_of_a_user_whose_gateway_was_emptied_is_held_although_the_organization_has_one(db: PgPool) {
    let (sending, _, archive, _) = held_for_users_gateway(db).await;
    let waiting = &sending.waiting().await[0];
    assert_eq!(waiting.last_reply.as_deref(), Some("the gateway that it waited for was taken away"));
    sending.step_after(60 * 24 * 6).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    assert!(archive.so_far().is_empty());
}

#[sqlx::test]
async fn held_mail_leaves_through_the_gateway_that_its_user_is_given_again(db: PgPool) {
    let (sending, _, archive, emptied) = held_for_users_gateway(db).await;
    let new = Gateway::start().await;
    sending.point(Pointers { user: Some(sending.add_gateway(new.address)), ..emptied });
    sending.step_after(3).await;
    assert_eq!(new.received(1).await.len(), 1);
    assert!(archive.so_far().is_empty() && sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn held_mail_that_an_administrator_sends_leaves_by_what_applies_now(db: PgPool) {
    let (sending, own, archive, _) = held_for_users_gateway(db).await;
    assert_eq!(choose(&sending, taken_away(own), Choice::Send).await, Some(1));
    assert_eq!(choose(&sending, taken_away(own), Choice::Send).await, None, "decided once");
    sending.step_after(3).await;
    assert_eq!(archive.received(1).await.len(), 1);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn held_mail_that_an_administrator_returns_comes_back_with_a_notification(db: PgPool) {
    let (sending, own, archive, _) = held_for_users_gateway(db).await;
    choose(&sending, taken_away(own), Choice::Return).await;
    sending.step_after(3).await;
    let waiting = sending.waiting().await;
    assert_eq!((waiting.len(), &waiting[0].sender), (1, &None), "only the notification: {waiting:?}");
    assert!(waiting[0].recipients.contains("ann@acme.example"), "{waiting:?}");
    let body: Vec<u8> = sqlx::query_scalar("select content from queued_body").fetch_one(&sending.owner).await.unwrap();
    let body = String::from_utf8(body).unwrap();
    for line in [
        "Action: failed",
        "Status: 5.4.0",
        "An administrator of your organization returned it while it was held.",
        "Why it was held: The gateway that it waited for was taken away.",
    ] {
        let body = body.replace("=\r\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(body.contains(line), "{line} in {body}");
    }
    assert!(archive.so_far().is_empty());
}

#[sqlx::test]
async fn what_was_sent_by_choice_and_has_to_wait_again_is_never_sent_around_its_new_gateway(db: PgPool) {
    let (sending, smarthost) = with_smarthost(db).await;
    let own = sending.add_gateway(Gateway::free_address().await);
    let all = sending.add_gateway(Gateway::free_address().await);
    sending.point(Pointers { user: Some(own), all: Some(all), ..Pointers::default() });
    sending.send().await;
    sending.point(Pointers { all: Some(all), ..Pointers::default() });
    sending.step_after(2).await;
    choose(&sending, taken_away(own), Choice::Send).await;
    sending.step_after(3).await;
    assert_eq!(sending.waiting().await[0].state, "waiting", "now it waits for the organization's");

    sending.point(Pointers::default());
    sending.step_after(4).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    assert!(smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn a_choice_made_while_a_relay_has_the_message_is_carried_out_afterwards(db: PgPool) {
    let (sending, own, archive, _) = held_for_users_gateway(db).await;
    let (now, until) = (sending.now + time::Duration::days(8), sending.now + time::Duration::days(9));
    let relay = RelayId::new();
    let claimed = sending.claimed_by(relay, 1, now, until).await;
    let claimed = claimed.into_iter().next().unwrap();
    choose(&sending, taken_away(own), Choice::Send).await;
    let someone_else = sending.claimed_by(RelayId::new(), 1, now, until).await;
    assert!(someone_else.is_empty(), "the lease holds");

    let token = claimed.lease.unwrap().token;
    assert!(store::queue::record_across_tenants(&sending.db, &claimed, token, claimed.choice).await.unwrap());
    sending.step_after(3).await;
    assert_eq!(archive.received(1).await.len(), 1);
}

#[sqlx::test]
async fn a_wider_gateway_at_the_same_server_is_the_one_that_mail_waited_for(db: PgPool) {
    let (sending, _smarthost) = with_smarthost(db).await;
    let address = Gateway::free_address().await;
    let own = sending.add_gateway(address);
    sending.point(Pointers { user: Some(own), ..Pointers::default() });
    sending.send().await;
    sending.point(Pointers { all: Some(own), ..Pointers::default() });
    let gateway = Gateway::start_on(address).await;
    sending.step_after(5).await;
    assert_eq!(gateway.received(1).await.len(), 1);
}

#[sqlx::test]
async fn a_choice_made_for_one_pointer_does_not_let_mail_go_when_another_to_the_same_gateway_is_emptied(db: PgPool) {
    let (sending, smarthost) = with_smarthost(db).await;
    let gateway = sending.add_gateway(Gateway::free_address().await);
    sending.point(Pointers { user: Some(gateway), all: Some(gateway), ..Pointers::default() });
    sending.send().await;
    sqlx::query("update queued_message set choice = 'send', next_attempt_at = now() - interval '1 day'")
        .execute(&sending.db)
        .await
        .unwrap();
    sending.point(Pointers { all: Some(gateway), ..Pointers::default() });
    sending.step_after(5).await;
    sending.step_after(60).await;
    assert_eq!(sending.waiting().await[0].state, "waiting", "now it waits by the organization's pointer");

    sending.point(Pointers::default());
    sending.step_after(600).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    assert!(smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn mail_of_a_suspended_account_leaves_when_it_is_active_again_or_an_administrator_sends_it(db: PgPool) {
    let (sending, smarthost) = with_smarthost(db).await;
    let address = Gateway::free_address().await;
    let pointers = Pointers { all: Some(sending.add_gateway(address)), ..Pointers::default() };
    let held_for = HeldFor {
        because: HeldBecause::AccountSuspended,
        waits_by: Some(Scope::Organization),
        waits_for: pointers.all,
    };
    sending.point(pointers);
    sending.send().await;
    sending.point(Pointers { suspended: true, ..pointers });
    sending.step_after(2).await;
    assert_eq!(sending.waiting().await[0].last_reply.as_deref(), Some("the sender's account is suspended"));
    let gateway = Gateway::start_on(address).await;
    sending.point(pointers);
    sending.step_after(5).await;
    assert_eq!(gateway.received(1).await.len(), 1);

    gateway.stop().await;
    sending.send().await;
    sending.point(Pointers { suspended: true, ..pointers });
    sending.step_after(10).await;
    assert_eq!(choose(&sending, held_for, Choice::Send).await, Some(1));
    sending.step_after(12).await;
    let gateway = Gateway::start_on(address).await;
    sending.step_after(30).await;
    assert_eq!(gateway.received(1).await.len(), 1, "the gateway was down at first, and the choice is kept");
    assert!(smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn mail_of_a_removed_account_is_held(db: PgPool) {
    let (sending, smarthost) = with_smarthost(db).await;
    let pointers = Pointers { all: Some(sending.add_gateway(Gateway::free_address().await)), ..Pointers::default() };
    sending.point(pointers);
    sending.send().await;
    sending.table.change(|facts| facts.set_address("ann@acme.example", None));
    sending.step_after(2).await;
    let waiting = &sending.waiting().await[0];
    assert_eq!(waiting.last_reply.as_deref(), Some("the sender's account or address was removed"));
    assert!(smarthost.so_far().is_empty());
}

/// Mail whose account or domain is gone, sent by what applies, which is the organization's gateway; that has put it off.
async fn sent_and_put_off(db: PgPool, gone: HeldBecause) -> (Sending, Gateway, Gateway) {
    let (sending, smarthost) = with_smarthost(db).await;
    let own = sending.add_gateway(Gateway::free_address().await);
    let archive = Gateway::start().await;
    let all = sending.add_gateway(archive.address);
    sending.point(Pointers { user: Some(own), all: Some(all), ..Pointers::default() });
    sending.send().await;
    sending.table.change(|facts| match gone {
        HeldBecause::AccountRemoved => facts.set_address("ann@acme.example", None),
        _ => facts.set_domain("acme.example".parse().unwrap(), None),
    });
    sending.step_after(2).await;
    let held_for = HeldFor { because: gone, waits_by: Some(Scope::User), waits_for: Some(own) };
    assert_eq!(choose(&sending, held_for, Choice::Send).await, Some(1), "{gone}");
    archive.says(At::Rcpt, "450 4.2.0 Greylisted");
    sending.step_after(3).await;
    assert_eq!(sending.waiting().await[0].state, "waiting", "{gone}");
    archive.works_again();
    (sending, archive, smarthost)
}

async fn it_leaves_later(db: PgPool, gone: HeldBecause) {
    let (sending, archive, smarthost) = sent_and_put_off(db, gone).await;
    sending.step_after(60).await;
    assert_eq!(archive.received(1).await.len(), 1);
    assert!(sending.waiting().await.is_empty() && smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn what_is_sent_for_a_removed_account_is_not_held_again_because_a_server_put_it_off(db: PgPool) {
    it_leaves_later(db, HeldBecause::AccountRemoved).await;
}

#[sqlx::test]
async fn what_is_sent_for_a_removed_domain_is_not_held_again_because_a_server_put_it_off(db: PgPool) {
    it_leaves_later(db, HeldBecause::DomainRemoved).await;
}

async fn it_goes_around_nothing(db: PgPool, gone: HeldBecause) {
    let (sending, archive, smarthost) = sent_and_put_off(db, gone).await;
    sending.point(Pointers::default());
    if gone == HeldBecause::DomainRemoved {
        sending.table.change(|facts| facts.set_domain("acme.example".parse().unwrap(), None));
    }
    sending.step_after(60).await;
    assert_eq!(sending.waiting().await[0].last_reply.as_deref(), Some("the gateway that it waited for was taken away"));
    assert!(archive.so_far().is_empty() && smarthost.so_far().is_empty());
}

#[sqlx::test]
async fn what_is_sent_for_a_removed_account_goes_around_nothing_that_is_taken_away_later(db: PgPool) {
    it_goes_around_nothing(db, HeldBecause::AccountRemoved).await;
}

#[sqlx::test]
async fn what_is_sent_for_a_removed_domain_goes_around_nothing_that_is_taken_away_later(db: PgPool) {
    it_goes_around_nothing(db, HeldBecause::DomainRemoved).await;
}

#[sqlx::test]
async fn where_mail_must_leave_through_a_gateway_nothing_goes_by_the_default(db: PgPool) {
    for handover in [true, false] {
        let smarthost = Gateway::start().await;
        let default = PlatformDefault::Smarthost(smarthost.address.to_string().parse().unwrap());
        reset(&db).await;
        let sending = Sending::with(db.clone(), Options { default, handover, ..Options::default() }).await;
        let must = Pointers { must_use_gateway: true, ..Pointers::default() };
        sending.point(must);
        let reply = sending.send().await.to_string();
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
        let mut null = sending.message(&["bob@elsewhere.example"]);
        null.envelope.reverse_path = String::new();
        assert_eq!(sending.transfer.accept(null).await.code, 250);
        for minutes in [0, 60, 60 * 24 * 6] {
            sending.step_after(minutes).await;
        }
        let waiting = sending.waiting().await;
        assert!(waiting.len() == 2 && waiting.iter().all(|row| row.state == "held"), "{waiting:?}");
        let reason = waiting[0].last_reply.as_deref();
        assert_eq!(reason, Some("mail must leave through a gateway, and the sender has none"));
        assert!(smarthost.so_far().is_empty());

        let archive = Gateway::start().await;
        sending.point(Pointers { domain: Some(sending.add_gateway(archive.address)), ..must });
        sending.step_after(60 * 24 * 6 + 1).await;
        assert_eq!(archive.received(2).await.len(), 2, "a gateway that is set later is the one it waited for");
        assert!(smarthost.so_far().is_empty() && sending.waiting().await.is_empty());
    }
}

async fn reset(db: &PgPool) {
    sqlx::raw_sql("truncate organization cascade").execute(db).await.unwrap();
}

#[sqlx::test]
async fn without_the_obligation_what_was_held_for_it_goes_by_the_default(db: PgPool) {
    let (sending, smarthost) = with_smarthost(db).await;
    sending.point(Pointers { must_use_gateway: true, ..Pointers::default() });
    sending.send().await;
    sending.point(Pointers::default());
    sending.step_after(1).await;
    assert_eq!(smarthost.received(1).await.len(), 1);
}

#[sqlx::test]
async fn mail_that_waits_for_the_default_is_held_once_it_must_leave_through_a_gateway(db: PgPool) {
    let default = PlatformDefault::Smarthost(Gateway::free_address().await.to_string().parse().unwrap());
    let sending = Sending::with(db, Options { default, ..Options::default() }).await;
    sending.point(Pointers::default());
    sending.send().await;
    sending.point(Pointers { must_use_gateway: true, ..Pointers::default() });
    sending.step_after(60).await;
    assert_eq!(sending.waiting().await[0].state, "held");
}

/// A whole installation in which very many messages of `ann@acme.example` wait for a gateway that is down, while all
/// users of acme have another one that works.
struct Outage {
    installation: Installation,
    acme: Tenant,
    world: World,
    admin: Browser,
    /// The one that is down.
    gateway: GatewayId,
    /// That of all users.
    archive: Gateway,
}

impl Outage {
    /// `has_account`: Ann has an account with a gateway of its own; else it is the one of her domain.
    async fn begin(owner: PgPool, has_account: bool) -> Self {
        let installation = Installation::on(owner);
        let acme = installation.organization("acme").await;
        let (archive, down) = (Gateway::start().await, Gateway::free_address().await.to_string());
        installation.set_gateway(&acme, &PointerScope::Organization, &archive.address.to_string()).await;
        let scope = match has_account {
            true => PointerScope::Account(installation.account(&acme, "ann@acme.example", &[]).await),
            false => PointerScope::Domain(acme.domain.parse().unwrap()),
        };
        installation.set_gateway(&acme, &scope, &down).await;
        let gateway = installation.gateway_of(&acme, &down).await;
        let world = World::start(&installation).await;
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            clients.spawn(submit_many(world.submission, MANY / 4));
        }
        clients.join_all().await;
        let pages = Pages::of(&installation).await;
        let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
        let outage = Self { installation, acme, world, admin, gateway, archive };
        outage.until(Some(("waiting", None)), MANY).await;
        // The gateway has been down for a while: relays may be newer to a change than to mail of the last seconds, which
        // they hold later.
        let earlier = "update queued_message set accepted_at = accepted_at - interval '10 minutes'";
        sqlx::query(earlier).execute(&outage.installation.owner).await.unwrap();
        outage
    }

    /// Waits until so many of Ann's messages wait and nobody attempts them, or are held for a reason; `None`: are there
    /// at all.
    async fn until(&self, state: Option<(&str, Option<&str>)>, messages: usize) {
        let statement = "select count(*) from queued_message where sender = 'ann@acme.example' and ($1::text is null or
                         state = $1 and held_because is not distinct from $2 and (state = 'held' or lease_token is null))";
        let (state, because) = (state.map(|(state, _)| state), state.and_then(|(_, because)| because));
        let happens = async {
            loop {
                let count = sqlx::query_scalar::<_, i64>(statement).bind(state).bind(because);
                if count.fetch_one(&self.installation.owner).await.unwrap() == messages as i64 {
                    return;
                }
                // Whoever asks all the time keeps the relay from getting there.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(ALL_WITHIN, happens).await.unwrap_or_else(|_| panic!("not {messages} messages are {state:?}"));
    }

    /// Nothing has left, and nothing leaves to whoever listens where the gateway was.
    async fn all_are_held(&self, because: &str) {
        self.until(Some(("held", Some(because))), MANY).await;
        assert_eq!(self.archive.so_far(), []);
        assert!(!self.somebody_got_one().await, "never by the platform's default");
        let page = self.admin.get(&format!("/{}/web-mail-cloud/outbound-mail-gateway", self.acme.slug)).await;
        assert!(page.text().contains("1,000 messages since"), "{}", page.text());
    }

    /// Whether one of the messages has come to where mail without a gateway goes. Notices of ours go there, too.
    async fn somebody_got_one(&self) -> bool {
        while let Some(subject) = self.world.default.subject_at_once().await {
            if subject == "waits" {
                return true;
            }
        }
        false
    }

    /// An administrator decides on the page about all of them.
    async fn decide(&self, because: &str, by: &str, waiting: &str) -> Page {
        let form = format!("/{}/web-mail-cloud/outbound-mail-gateway/held-mail", self.acme.slug);
        let gateway = self.gateway.to_string();
        let group = [("held_because", because), ("waits_by", by), ("waits_for", &gateway), ("waiting", waiting)];
        self.admin.submit(&form, &group).await
    }

    async fn all_leave_by_what_applies(self, because: &str, by: &str) {
        let saved = self.decide(because, by, "send").await;
        assert!(
            saved.text().contains("Saved. 1000 held messages: on the way by what applies now."),
            "{}",
            saved.text()
        );
        let arrived = self.archive.received_within(MANY, ALL_WITHIN).await;
        self.until(None, 0).await;
        assert_eq!((arrived.len(), self.archive.so_far().len()), (MANY, MANY));
        assert!(!self.somebody_got_one().await);
        self.world.stop().await;
    }

    async fn all_return(self, because: &str, by: &str) {
        let saved = self.decide(because, by, "return").await;
        assert!(
            saved.text().contains("Saved. 1000 held messages: on the way back to the senders."),
            "{}",
            saved.text()
        );
        self.until(None, 0).await;
        assert_eq!(self.archive.so_far(), []);
        assert!(!self.somebody_got_one().await, "notifications only");
        self.world.stop().await;
    }
}

async fn submit_many(submission: std::net::SocketAddr, count: usize) {
    let mut smtp = SmtpClient::greeted(submission).await;
    for _ in 0..count {
        let content = "Subject: waits\r\n\r\nThis goes through its gateway or nowhere.\r\n";
        let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", content).await;
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    }
}

#[sqlx::test]
async fn a_thousand_messages_whose_gateways_field_is_emptied_are_held_until_an_administrator_decides(owner: PgPool) {
    let outage = Outage::begin(owner, true).await;
    let account: uuid::Uuid =
        sqlx::query_scalar("select id from mail_account").fetch_one(&outage.installation.owner).await.unwrap();
    let form = format!("/acme/web-mail-cloud/mail-account-manager/{account}/outbound-gateway");
    let question = outage.admin.submit(&form, &[("outbound_gateway", "")]).await;
    assert!(question.text().contains("1,000 messages wait for "), "{}", question.text());
    let fields: Vec<(&str, String)> =
        ["scope", "of", "back", "gateway"].into_iter().map(|name| (name, question.field(name))).collect();
    let mut fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fields.push(("waiting", "keep"));
    outage.admin.submit(question.path.split('?').next().unwrap(), &fields).await;

    outage.all_are_held("gateway-taken-away").await;
    outage.all_leave_by_what_applies("gateway-taken-away", "user").await;
}

#[sqlx::test]
async fn a_thousand_messages_whose_account_is_deleted_are_held_until_an_administrator_decides(owner: PgPool) {
    let outage = Outage::begin(owner, true).await;
    let account: uuid::Uuid =
        sqlx::query_scalar("select id from mail_account").fetch_one(&outage.installation.owner).await.unwrap();
    let form = format!("/acme/web-mail-cloud/mail-account-manager/{account}/delete");
    let deleted = outage.admin.submit(&form, &[("seen", "ann@acme.example")]).await;
    assert!(deleted.text().contains("Saved. ann@acme.example is deleted."), "{}", deleted.text());

    outage.all_are_held("account-removed").await;
    outage.all_return("account-removed", "user").await;
}

/// As the operator does it.
async fn remove_domain(outage: &Outage) {
    let transaction = OrganizationTransaction::begin(&outage.installation.owner, outage.acme.id).await.unwrap();
    let removed = store::domain::remove(transaction, &outage.acme.domain.parse().unwrap(), "operator").await.unwrap();
    assert!(matches!(removed, Removed::Removed(_)), "{removed:?}");
}

#[sqlx::test]
async fn a_thousand_messages_whose_domain_moves_to_another_organization_are_held_and_never_go_its_way(owner: PgPool) {
    let outage = Outage::begin(owner, false).await;
    let theirs = Gateway::start().await;
    let other = outage.installation.organization("other").await;
    let address = theirs.address.to_string();
    outage.installation.set_gateway(&other, &PointerScope::Organization, &address).await;
    remove_domain(&outage).await;
    let domain = outage.acme.domain.parse().unwrap();
    store::domain::add(&outage.installation.owner, other.id, &domain).await.unwrap();

    outage.all_are_held("domain-removed").await;
    // New mail of the domain is the other organization's.
    until_live(&outage.installation, outage.installation.latest_revision().await).await;
    let mut smtp = SmtpClient::greeted(outage.world.submission).await;
    let new = "Subject: new\r\n\r\nHello.";
    assert_eq!(smtp.submit("eve@acme.example", "bob@elsewhere.example", new).await, "250 2.0.0 kept as 4711\r\n");
    outage.all_leave_by_what_applies("domain-removed", "domain").await;
    assert_eq!(theirs.so_far().len(), 1);
    assert_eq!(theirs.so_far()[0].reverse_path, "eve@acme.example");
}

#[sqlx::test]
async fn a_thousand_messages_whose_domain_is_removed_are_held_until_an_administrator_decides(owner: PgPool) {
    let outage = Outage::begin(owner, false).await;
    remove_domain(&outage).await;

    outage.all_are_held("domain-removed").await;
    outage.all_return("domain-removed", "domain").await;
}
