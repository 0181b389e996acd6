//! What an administrator wants of waiting mail, as relays carry it out: another attempt, back to its sender, or away
//! without a word. Written as the pages write it; who asks and how is `web::outbound_queue`'s.

use outgate::{
    mail::id::{QueueId, RelayId},
    store::{
        self, OrganizationTransaction,
        outbound_queue::{Wish, write_wish},
    },
};
use sqlx::PgPool;

use crate::support::{Gateway, Installation, Sending, gateway::At, sending::Pointers};

/// Writes a wish next to everything that waits, as the pages' role.
pub(super) async fn wish(sending: &Sending, wish: Wish) {
    let web = Installation::on(sending.owner.clone()).pool_as(store::roles::WEB).await;
    let mut transaction = OrganizationTransaction::begin(&web, sending.organization).await.unwrap();
    let ids: Vec<uuid::Uuid> =
        sqlx::query_scalar("select id from queued_message").fetch_all(&sending.owner).await.unwrap();
    let ids: Vec<QueueId> = ids.into_iter().map(QueueId).collect();
    let wished = write_wish(&mut transaction, sending.organization, &ids, wish).await.unwrap();
    assert_eq!(wished.written, ids.len() as i64);
    transaction.commit().await.unwrap();
}

/// The same as if it were so many minutes later.
async fn wish_after(sending: &Sending, minutes: i64, what: Wish) {
    wish(sending, what).await;
    let at = sending.now + time::Duration::minutes(minutes);
    sqlx::query("update queued_message set retry_wished_at = $1 where retry_wished_at is not null")
        .bind(at)
        .execute(&sending.owner)
        .await
        .unwrap();
}

async fn is_wished(sending: &Sending) -> bool {
    sqlx::query_scalar("select bool_or(retry_wished_at is not null) from queued_message")
        .fetch_one(&sending.owner)
        .await
        .unwrap()
}

/// One message whose gateway is down, and is next asked after minute 12.
async fn long_failing(db: PgPool) -> (Sending, std::net::SocketAddr) {
    let sending = Sending::on(db).await;
    let address = Gateway::free_address().await;
    sending.set_gateway(Some(&address.to_string()));
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    for minutes in [1, 2, 3, 5, 8] {
        sending.step_after(minutes).await;
    }
    (sending, address)
}

#[sqlx::test]
async fn another_attempt_is_made_at_once_although_the_gateway_is_known_to_fail(db: PgPool) {
    let (sending, address) = long_failing(db).await;
    let gateway = Gateway::start_on(address).await;
    sending.step_after(9).await;
    assert!(gateway.so_far().is_empty(), "nobody asks it by itself yet");
    wish_after(&sending, 9, Wish::Retry).await;
    sending.step_after(9).await;
    assert_eq!(gateway.received(1).await.len(), 1);
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn one_wish_is_one_attempt_and_then_the_usual_pauses_go_on(db: PgPool) {
    let (sending, address) = long_failing(db).await;
    wish_after(&sending, 9, Wish::Retry).await;
    sending.step_after(9).await;
    assert!(!is_wished(&sending).await, "it was tried");
    let gateway = Gateway::start_on(address).await;
    // An older wish than the last attempt does not have it asked again.
    wish_after(&sending, 8, Wish::Retry).await;
    sending.step_after(10).await;
    assert!(gateway.so_far().is_empty());
    assert!(!is_wished(&sending).await);
}

#[sqlx::test]
async fn what_is_returned_while_it_waits_comes_back_with_a_report_that_says_so(db: PgPool) {
    let sending = Sending::on(db).await;
    let gateway = Gateway::start().await;
    gateway.says(At::Rcpt, "451 4.3.0 try later");
    sending.set_gateway(Some(&gateway.address.to_string()));
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    wish(&sending, Wish::Return).await;
    gateway.works_again();
    sending.step_after(1).await;
    let waiting = sending.waiting().await;
    assert_eq!((waiting.len(), &waiting[0].sender), (1, &None), "only the report: {waiting:?}");
    assert!(gateway.so_far().is_empty(), "it is not sent on");
    let body: Vec<u8> = sqlx::query_scalar("select content from queued_body").fetch_one(&sending.owner).await.unwrap();
    let body = String::from_utf8(body).unwrap().replace("=\r\n", "");
    let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in [
        "Action: failed",
        "Status: 5.4.0",
        "An administrator of your organization returned it while it waited.",
        "Why it waited: ",
        "451 4.3.0 try later",
    ] {
        assert!(body.contains(line), "{line} in {body}");
    }
    // The report is mail of the queue too, and nobody is told of it.
    wish(&sending, Wish::Return).await;
    sending.step_after(2).await;
    assert!(sending.waiting().await.is_empty(), "{:?}", sending.waiting().await);
}

#[sqlx::test]
async fn what_is_deleted_is_gone_with_its_body_and_nobody_is_told(db: PgPool) {
    let (sending, address) = long_failing(db).await;
    let gateway = Gateway::start_on(address).await;
    wish(&sending, Wish::Delete).await;
    sending.step_after(9).await;
    assert!(sending.waiting().await.is_empty(), "{:?}", sending.waiting().await);
    let bodies: i64 = sqlx::query_scalar("select count(*) from queued_body").fetch_one(&sending.owner).await.unwrap();
    assert_eq!(bodies, 0);
    assert!(gateway.so_far().is_empty());
}

#[sqlx::test]
async fn a_wish_that_comes_while_a_relay_has_the_message_is_carried_out_when_its_attempt_has_ended(db: PgPool) {
    for what in [Wish::Delete, Wish::Retry] {
        let sending = Sending::on(db.clone()).await;
        let gateway = Gateway::start().await;
        gateway.says(At::Rcpt, "451 4.3.0 try later");
        sending.set_gateway(Some(&gateway.address.to_string()));
        sending.send().await;
        gateway.works_again();
        let (now, until) = (sending.now + time::Duration::minutes(3), sending.now + time::Duration::hours(1));
        let relay = RelayId::new();
        let claimed = sending.claimed_by(relay, 1, now, until).await;
        let claimed = claimed.into_iter().next().unwrap();
        wish(&sending, what).await;
        sending.step_after(4).await;
        assert_eq!(sending.waiting().await.len(), 1, "the lease holds: {what:?}");

        let token = claimed.lease.unwrap().token;
        let mut recorded = claimed.clone();
        recorded.next_attempt_at = sending.now + time::Duration::hours(9);
        assert!(store::queue::record_across_tenants(&sending.db, &recorded, token, claimed.choice).await.unwrap());
        // By another relay, too.
        let another = sending.another();
        another.step_after(4).await;
        assert!(another.waiting().await.is_empty(), "{what:?}: {:?}", another.waiting().await);
        let sent = if what == Wish::Retry { gateway.received(1).await.len() } else { gateway.so_far().len() };
        assert_eq!(sent, usize::from(what == Wish::Retry), "{what:?}");
        sqlx::raw_sql("truncate organization cascade").execute(&db).await.unwrap();
    }
}

#[sqlx::test]
async fn another_attempt_never_sends_held_mail_by_another_route(db: PgPool) {
    let sending = Sending::on(db).await;
    let archive = Gateway::start().await;
    let all = Some(sending.add_gateway(archive.address));
    let own = sending.add_gateway(Gateway::free_address().await);
    sending.point(Pointers { user: Some(own), all, ..Pointers::default() });
    sending.send().await;
    sending.point(Pointers { all, ..Pointers::default() });
    sending.step_after(2).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    wish(&sending, Wish::Retry).await;
    sending.step_after(3).await;
    assert_eq!(sending.waiting().await[0].state, "held");
    assert!(archive.so_far().is_empty());
    assert!(!is_wished(&sending).await, "it was looked at");
}
