//! Explain Route.
//! The page of the same name in `src/web`.

use outgate::{
    mail::id::{AccountId, GatewayId, RelayId, Revision},
    policy::Role,
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        gateway_health::{Encryption, Seen},
        relay::SetUp,
    },
};
use reqwest::StatusCode;
use sqlx::{PgPool, Postgres, postgres::PgArguments, query::Query};
use time::OffsetDateTime;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant, outgate::Outgate};

#[sqlx::test]
async fn the_page_says_what_the_command_says_about_every_sender(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a.adams@acme.example"]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    let eve = installation.account(&acme, "eve@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp.example.com:587").await;
    sqlx::query("update mail_account set status = 'suspended' where id = $1")
        .bind(eve.0)
        .execute(&installation.owner)
        .await
        .unwrap();
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let page = page_of(&acme, "explain-route");
    let command = Outgate::on(&installation.owner).with("OUTGATE_DEFAULT_ROUTE", "mx");

    for must_use in ["no", "yes"] {
        command.succeeds(&["gateway", "require", "acme", must_use]).await;
        for (sender, words) in [
            ("ann@acme.example", "leaves through dlp.example.com port 587 (revision 1): the own gateway"),
            ("Ann+news@acme.example", "It is an address of ann@acme.example with something added to it."),
            ("prvs=1234=a.adams@acme.example", "It is an address of a.adams@acme.example"),
            (
                "bob@acme.example",
                if must_use == "yes" { "is held: it must" } else { "leaves directly to the servers of" },
            ),
            ("nobody@acme.example", "No account has this address; it follows its domain."),
            ("eve@acme.example", "is refused: the account is suspended."),
        ] {
            let encoded = sender.replace('+', "%2B");
            let shown = admin.get(&format!("{page}?sender={encoded}&recipient=x@elsewhere.example")).await.text();
            assert!(shown.contains(words), "{words} in {shown}");
            let is_refused = words.contains("is refused");
            assert_eq!((shown.contains("would apply"), shown.contains("applies now")), (is_refused, !is_refused));
            let said = command.succeeds(&["route", "explain", sender, "x@elsewhere.example"]).await;
            for sentence in said.lines().filter(|line| !line.starts_with("  ")) {
                assert!(shown.contains(sentence), "{sentence} in {shown}");
            }
        }
    }
}

#[sqlx::test]
async fn a_sender_of_another_organization_is_like_one_of_nobody(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let theirs = installation.account(&other, "eve@other.example", &[]).await;
    installation.set_gateway(&other, &PointerScope::Account(theirs), "canary.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let ask = async |sender: &str| {
        let page = admin.get(&page_of(&acme, &format!("explain-route?sender={sender}"))).await;
        page.html.replace(sender, "SENDER")
    };
    assert_eq!(ask("eve@other.example").await, ask("eve@nobody.example").await);
    assert!(ask("eve@other.example").await.contains("not one of your organization"));
}

#[sqlx::test]
async fn what_is_not_a_mail_address_is_said_beside_its_field(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, "explain-route");
    assert_eq!(admin.get(&page).await.status, StatusCode::OK);
    for (query, words) in [
        ("sender=ann", "“ann” is not a mail address."),
        ("recipient=bob@b.example", "Enter a mail address"),
        ("sender=ann@acme.example&recipient=bob", "“bob” is not a mail address."),
        ("sender=a%00b@acme.example", "is not a mail address."),
    ] {
        let shown = admin.get(&format!("{page}?{query}")).await;
        assert_eq!(shown.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        assert_eq!(shown.text().matches(words).count(), 2, "{words} in {}", shown.text());
    }
}

struct Present {
    installation: Installation,
    acme: Tenant,
    ann: AccountId,
    gateway: GatewayId,
    admin: Browser,
    relays: PgPool,
    command: Outgate,
}

impl Present {
    async fn of(db: PgPool) -> Self {
        let installation = Installation::on(db);
        let acme = installation.organization("acme").await;
        let ann = installation.account(&acme, "ann@acme.example", &[]).await;
        installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
        let gateway = installation.gateway_of(&acme, "archive.example.com").await;
        let pages = Pages::of(&installation).await;
        let admin = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
        let (relays, command) = (installation.relay_pool().await, Outgate::on(&installation.owner));
        let command = command.with("OUTGATE_DEFAULT_ROUTE", "mx");
        Self { installation, acme, ann, gateway, admin, relays, command }
    }

    /// As a relay does that starts.
    async fn sign_on(&self, name: &str, hands_over: bool) -> RelayId {
        let id = store::relay::sign_on(&self.relays, name, RelayId::new(), Revision(0)).await.unwrap().id;
        let set_up = SetUp { outbound_addresses: vec![], addresses_are_set: false, hands_over };
        store::relay::tell_set_up(&self.relays, id, &set_up).await.unwrap();
        id
    }

    async fn execute(&self, statement: Query<'static, Postgres, PgArguments>) {
        statement.execute(&self.installation.owner).await.unwrap();
    }

    /// Ann's one limit.
    async fn limit(&self, window: &'static str, most: i64, action: &'static str) {
        self.execute(sqlx::query("delete from sending_limit")).await;
        let limit = sqlx::query(
            "insert into sending_limit (organization_id, kind, subject, whose, time_window, unit, most, action)
             values ($1, 'account', $2, 'each', $3, 'recipients', $4, $5)",
        );
        self.execute(limit.bind(self.acme.id).bind(self.ann.to_string()).bind(window).bind(most).bind(action)).await;
    }

    /// What page and command say about mail to `recipient`: the same.
    async fn says(&self, sender: &str, recipient: &str, words: &str) {
        let page = format!("explain-route?sender={sender}&recipient={recipient}");
        let shown = self.admin.get(&page_of(&self.acme, &page)).await.text();
        assert!(shown.contains(words), "{words} in {shown}");
        let recipient = (!recipient.is_empty()).then_some(recipient);
        let said = self.command.succeeds(&[&["route", "explain", sender][..], recipient.as_slice()].concat()).await;
        assert!(said.contains(words), "{words} in {said}");
        for line in said.lines().filter(|line| !line.starts_with("  ")) {
            assert!(shown.contains(line), "{line} in {shown}");
        }
    }

    async fn of_ann(&self, words: &str) {
        self.says("ann@acme.example", "x@elsewhere.example", words).await;
    }
}

#[sqlx::test]
async fn page_and_command_say_how_the_gateway_does_and_whether_a_message_would_go_there_at_once(db: PgPool) {
    let present = Present::of(db).await;
    present.of_ann("No relay is at work: a message now would find nobody to take it.").await;
    present.of_ann("No mail since its last change").await;
    present.of_ann("Not checked since the last change").await;

    let relay = present.sign_on("one", true).await;
    present.of_ann("A message now would go to the gateway at once.").await;
    present.sign_on("two", false).await;
    let words =
        "A message now would go to the gateway at once, but from two to the queue first, as the operator has set it.";
    present.of_ann(words).await;
    present.sign_on("one", false).await;
    present.of_ann("A message now would go to the queue first, as the operator has set it, and from there to").await;

    let since = OffsetDateTime::now_utc();
    let seen = Seen {
        organization: present.acme.id,
        gateway: present.gateway,
        revision: 1,
        last_accepted_at: None,
        last_failure: Some((since, "it said: 451 4.3.2 not now".to_owned())),
        failing_since: Some(since),
        backup: None,
        certificate_ends_at: None,
        last_reached_at: None,
        throughput: None,
        encryption: Encryption::default(),
    };
    store::gateway_health::record_across_tenants(&present.relays, relay, std::slice::from_ref(&seen)).await.unwrap();
    present.of_ann("A message now would wait in the queue until the gateway takes mail again.").await;
    present.of_ann("it said: 451 4.3.2 not now").await;
    present.of_ann("Failing since ").await;
    let scope = PointerScope::Domain(present.acme.domain.parse().unwrap());
    present.installation.set_gateway(&present.acme, &scope, "spare.example.com").await;
    let spare = present.installation.gateway_of(&present.acme, "spare.example.com").await;
    let cleared = OrganizationTransaction::begin(&present.installation.owner, present.acme.id).await.unwrap();
    store::gateway::set(cleared, &scope, None, "operator").await.unwrap();
    let by_backup = Seen { backup: Some(spare), ..seen };
    store::gateway_health::record_across_tenants(&present.relays, relay, &[by_backup]).await.unwrap();
    present.of_ann("A message now would go to the backup spare.example.com port 25.").await;

    present.execute(sqlx::query("update organization set outbound_gateway_id = null")).await;
    present.of_ann("A message now would go to the queue, and from there to the recipients' servers.").await;
}

#[sqlx::test]
async fn page_and_command_say_what_the_senders_own_sending_does_to_a_message(db: PgPool) {
    let present = Present::of(db).await;
    present.sign_on("one", true).await;
    let (acme, ann) = (present.acme.id, present.ann);
    present.limit("hour", 20, "alert").await;
    let counted = sqlx::query(
        "insert into volume_minute (organization_id, kind, subject, minute, messages, recipients, external)
         values ($1, 'account', $2, date_trunc('minute', now()) - interval '5 minutes', 20, 20, 20)",
    );
    present.execute(counted.bind(acme).bind(ann.to_string())).await;
    present.of_ann("A message now would go to the gateway at once.").await;
    let counted = "21 recipients in an hour, at most 20 are allowed";
    for (action, words) in [
        ("delay", "A message now would wait in the queue until about"),
        ("hold", "A message now would be held until an administrator releases it: "),
        ("defer", "A message now would stay with its client (451): "),
        ("refuse", "A message now would be refused: "),
    ] {
        present.limit("hour", 20, action).await;
        present.of_ann(words).await;
        present.of_ann(counted).await;
    }
    present.limit("hour", 3, "refuse").await;
    present.of_ann("and beyond 5 times as many nothing is accepted.").await;
    present.limit("approval", 50, "hold").await;
    present.of_ann("A message to more than 50 recipients waits until an administrator approves it.").await;
    present.of_ann("A message now would go to the gateway at once.").await;

    present.execute(sqlx::query("delete from sending_limit")).await;
    let throttle = sqlx::query(
        "insert into throttle (organization_id, kind, subject, time_window, unit, most, since, turn_at)
         values ($1, 'account', $2, 'hour', 'recipients', 20, now(), now() + interval '2 hours')",
    );
    present.execute(throttle.bind(acme).bind(ann.to_string())).await;
    present.of_ann("The sender is slowed down: a message now would wait behind what waits for a limit").await;

    let blocked = sqlx::query(
        "insert into sender_control (organization_id, account_id, service, blocked) values ($1, $2, false, true)",
    );
    present.execute(blocked.bind(acme).bind(ann)).await;
    present.of_ann("A message now would be refused: an administrator has blocked this sender.").await;
    let list = "staff@acme.example";
    let open_to_insiders = sqlx::query(
        "insert into distribution_list (organization_id, id, address, name, may_send, expands)
         values ($1, gen_random_uuid(), $2, 'Staff', 'inside', true)",
    );
    present.execute(open_to_insiders.bind(acme).bind(list)).await;
    present.says("bob@acme.example", list, "But a message to staff@acme.example is refused").await;
}
