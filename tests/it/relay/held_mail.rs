//! Mail whose gateway is taken away, and mail that must leave through a gateway and has none: it never goes
//! around; it goes on when there is a gateway again, or as an administrator chooses.

use outgate::{
    mail::id::{GatewayId, RelayId},
    policy::{
        routing::{PlatformDefault, Scope},
        waiting::{Choice, HeldBecause},
    },
    store::{
        self, OrganizationTransaction,
        held_mail::{self, HeldFor},
    },
};
use sqlx::PgPool;

use crate::support::{
    Gateway, Installation, Sending,
    sending::{Options, Pointers},
};

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
    let claimed = store::queue::claim_due_across_tenants(
        &sending.db,
        relay,
        1,
        &store::queue::PassedOver::default(),
        now,
        until,
        true,
    )
    .await
    .unwrap();
    let claimed = claimed.into_iter().next().unwrap();
    choose(&sending, taken_away(own), Choice::Send).await;
    let someone_else = store::queue::claim_due_across_tenants(
        &sending.db,
        RelayId::new(),
        1,
        &store::queue::PassedOver::default(),
        now,
        until,
        true,
    )
    .await;
    assert!(someone_else.unwrap().is_empty(), "the lease holds");

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
