//! An account that suddenly writes to many whom it never wrote to before is noticed. Whom an account knows is
//! `policy::correspondents`'s; limits of other kinds are in `relay::sending_limits`.

use outgate::{
    mail::id::RelayId,
    policy::{
        Role,
        correspondents::{Print, Written},
        limit::{Action, Kind, Limit, SetAt, Whose, Window},
        volume::Unit,
    },
    relay::{
        correspondents::{self, Keeper},
        volume::Writer,
    },
    store,
};
use sqlx::PgPool;
use time::Duration;

use super::sending_limits::{self, told};
use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault},
};

const STRANGERS: Kind = Kind { whose: Whose::Each, window: Window::FirstTime, unit: Unit::External };
const TAKEN: &str = "250 2.0.0 kept as 4711";

/// A relay whose mail of ann's goes to this gateway, in an organization in which it is known for long to whom everybody
/// writes, and in which nobody writes to more than 20 strangers in a day.
async fn through(gateway: &Gateway, owner: PgPool, action: Action) -> Sending {
    let sending = sending_limits::through(gateway, owner.clone()).await;
    sending.set_limits(|limits| {
        let limit = Limit { most: Some(20), action };
        limits.set.entry(SetAt::Organization).or_default().insert(STRANGERS, limit);
    });
    let (admin, role) = ("admin@acme.example".parse().unwrap(), Role::Administrator);
    store::administrator::create(&owner, &admin, "not a hash", sending.organization, role).await.unwrap();
    known_since(&sending, 30).await;
    sending
}

/// To whom the organization's accounts write is known since so many days.
async fn known_since(sending: &Sending, days: i32) {
    sqlx::query("update organization set correspondents_known_from = now() + make_interval(days => 14 - $1)")
        .bind(days)
        .execute(&sending.owner)
        .await
        .unwrap();
}

fn address(place: usize) -> String {
    format!("r{place}@elsewhere.example")
}

/// Ann has written to these so many days ago.
async fn knows(sending: &Sending, whom: std::ops::Range<usize>, days: i64) {
    let at = sending.now - Duration::days(days);
    let written = whom.map(|place| Written::new(Print::of(sending.account, &address(place)), at)).collect();
    let new = [((sending.organization, sending.account), written)];
    let mut connection = sending.db.acquire().await.unwrap();
    store::correspondents::add_across_tenants(&mut connection, &new, at).await.unwrap();
}

/// What ann's client hears of a message to these.
async fn send_to(sending: &Sending, whom: std::ops::Range<usize>) -> String {
    let to: Vec<String> = whom.map(address).collect();
    let mut message = sending.message(&to.iter().map(String::as_str).collect::<Vec<_>>());
    message.accepted_at = sending.now;
    sending.transfer.accept(message).await.to_string()
}

/// How many ann is known to have written to.
async fn known(sending: &Sending) -> usize {
    let mut connection = sending.db.acquire().await.unwrap();
    let found = store::correspondents::of_account(&mut connection, sending.organization, sending.account).await;
    found.unwrap().0.len()
}

/// What relays do every second.
async fn look_up(sending: &Sending) {
    Keeper::of(&sending.meter, &sending.db).turn(sending.now).await.unwrap();
}

async fn write_all(sending: &Sending) {
    Keeper::of(&sending.meter, &sending.db).write_all(sending.now).await.unwrap();
}

async fn notices(sending: &Sending) -> usize {
    sending.queue.tell_of_limits(&sending.meter, sending.now).await.unwrap()
}

#[sqlx::test]
async fn who_writes_to_many_strangers_is_noticed_and_nothing_is_delayed(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner, Action::Alert).await;
    knows(&sending, 0..60, 40).await;
    assert_eq!(send_to(&sending, 0..60).await, TAKEN);
    assert_eq!(send_to(&sending, 50..80).await, TAKEN);
    look_up(&sending).await;
    // Sixty of those who are known, and twenty strangers, twice.
    assert_eq!(send_to(&sending, 40..80).await, TAKEN);
    assert_eq!(notices(&sending).await, 0);
    assert_eq!(send_to(&sending, 80..81).await, TAKEN);
    assert_eq!(notices(&sending).await, 1);
    // Without the line ends that quoted-printable puts in.
    let told = told(&sending).await.remove(0).replace("=\r\n", "");
    assert!(told.contains("Subject: ann@acme.example writes to very many for the first time"), "{told}");
    let words = "21 external recipients that it never wrote to before, in a day; at most 20 are allowed";
    assert!(told.contains(words), "{told}");
    assert!(told.contains("Who has taken an account over writes to strangers"), "{told}");
    assert_eq!(gateway.received(4).await.len(), 4);
}

#[sqlx::test]
async fn one_message_to_very_many_strangers_is_noticed_when_nothing_comes_after_it(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner, Action::Alert).await;
    assert_eq!(send_to(&sending, 0..21).await, TAKEN);
    assert_eq!(notices(&sending).await, 0);
    look_up(&sending).await;
    assert_eq!(notices(&sending).await, 1);
}

#[sqlx::test]
async fn mail_to_those_an_account_knows_goes_where_mail_to_strangers_is_held(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner, Action::Hold).await;
    knows(&sending, 0..10, 40).await;
    assert_eq!(send_to(&sending, 10..30).await, TAKEN);
    look_up(&sending).await;
    let reply = send_to(&sending, 30..31).await;
    assert!(reply.contains("held until an administrator releases it: 21 external recipients that it never"), "{reply}");
    assert_eq!(send_to(&sending, 0..30).await, TAKEN, "all of them are known");
    assert_eq!(sending.waiting().await.len(), 1);
}

#[sqlx::test]
async fn whom_a_message_goes_to_that_was_under_way_when_it_was_looked_up_is_known(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner, Action::Hold).await;
    assert_eq!(send_to(&sending, 0..15).await, TAKEN);
    gateway.fails(At::Dot, Fault::Stalls);
    let looking = async {
        gateway.stalled(1).await;
        look_up(&sending).await;
        gateway.works_again();
        gateway.go_on();
    };
    let (reply, ()) = tokio::join!(send_to(&sending, 15..20), looking);
    assert_eq!(reply, TAKEN);
    let reply = send_to(&sending, 20..21).await;
    assert!(reply.contains("held until an administrator releases it: 21 external recipients that it never"), "{reply}");
}

#[sqlx::test]
async fn what_is_not_sent_after_all_makes_nobody_known(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner, Action::Defer).await;
    assert_eq!(send_to(&sending, 0..15).await, TAKEN);
    look_up(&sending).await;
    gateway.says(At::Dot, "554 5.6.0 no");
    assert!(send_to(&sending, 15..20).await.starts_with("554 "));
    gateway.works_again();
    look_up(&sending).await;
    assert_eq!(send_to(&sending, 20..25).await, TAKEN);
    let reply = send_to(&sending, 25..26).await;
    assert!(reply.starts_with("451 4.7.1 21 external recipients that it never wrote to before, in a day"), "{reply}");
    assert!(reply.contains("; sending resumes at "), "{reply}");
}

#[sqlx::test]
async fn relays_know_together_to_whom_an_account_has_written_and_a_restart_forgets_nothing(owner: PgPool) {
    let gateway = Gateway::start().await;
    let one = through(&gateway, owner.clone(), Action::Defer).await;
    let other = Sending { account: one.account, now: one.now, ..one.another() };
    let ids = [RelayId::new(), RelayId::new()];
    for id in ids {
        sending_limits::relay(&owner, id).await;
    }
    assert_eq!(send_to(&one, 0..15).await, TAKEN);
    write_all(&one).await;
    Writer::of(&one.volume, &one.meter, &one.db).turn(ids[0]).await.unwrap();
    Writer::of(&other.volume, &other.meter, &other.db).turn(ids[1]).await.unwrap();
    assert_eq!(send_to(&other, 10..20).await, TAKEN);
    look_up(&other).await;
    let reply = send_to(&other, 20..21).await;
    assert!(reply.starts_with("451 4.7.1 21 external recipients that it never wrote to before"), "{reply}");
    // The first hears of the other's when it writes down its own next.
    assert_eq!(send_to(&one, 15..16).await, TAKEN);
    look_up(&one).await;
    let reply = send_to(&one, 20..21).await;
    assert!(reply.starts_with("451 4.7.1 21 external recipients that it never wrote to before"), "{reply}");
}

#[sqlx::test]
async fn nobody_is_judged_before_it_is_known_for_two_weeks_to_whom_he_writes(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone(), Action::Defer).await;
    known_since(&sending, 13).await;
    assert_eq!(send_to(&sending, 0..40).await, TAKEN);
    look_up(&sending).await;
    assert_eq!(send_to(&sending, 40..80).await, TAKEN);
    // Of the organization it is known, and the account is new.
    known_since(&sending, 30).await;
    let ann = "insert into mail_account (organization_id, id, user_id, created_at)
               values ($1, $2, 'ann@acme.example', now() - make_interval(days => 13))";
    sqlx::query(ann).bind(sending.organization.0).bind(sending.account.0).execute(&owner).await.unwrap();
    look_up(&sending).await;
    assert_eq!(send_to(&sending, 80..90).await, TAKEN);
    sqlx::query("update mail_account set created_at = now() - make_interval(days => 15)")
        .execute(&owner)
        .await
        .unwrap();
    look_up(&sending).await;
    let reply = send_to(&sending, 90..91).await;
    assert!(reply.starts_with("451 4.7.1 91 external recipients that it never wrote to before"), "{reply}");
    assert_eq!(notices(&sending).await, 1);
}

#[sqlx::test]
async fn of_accounts_that_write_to_few_nothing_is_looked_up_and_all_is_written_down(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone(), Action::Alert).await;
    let mut to = sending.message(&["Bob@Elsewhere.example", "bob@elsewhere.example", "ben@acme.example"]);
    to.accepted_at = sending.now;
    assert_eq!(sending.transfer.accept(to).await.to_string(), TAKEN);
    look_up(&sending).await;
    let count = "select count(*) from correspondents";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&owner).await.unwrap(), 0);
    write_all(&sending).await;
    assert_eq!(known(&sending).await, 1, "one outside, however it is spelt");
    // The same again says nothing new.
    let before = "select xmin::text from correspondents";
    let version: String = sqlx::query_scalar(before).fetch_one(&owner).await.unwrap();
    let mut again = sending.message(&["bob@elsewhere.example"]);
    again.accepted_at = sending.now + Duration::days(3);
    assert_eq!(sending.transfer.accept(again).await.to_string(), TAKEN);
    write_all(&sending).await;
    assert_eq!(sqlx::query_scalar::<_, String>(before).fetch_one(&owner).await.unwrap(), version);
}

#[sqlx::test]
async fn what_an_account_wrote_to_three_months_ago_is_forgotten(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone(), Action::Alert).await;
    knows(&sending, 0..10, 98).await;
    assert_eq!(known(&sending).await, 10);
    knows(&sending, 10..15, 0).await;
    assert_eq!(known(&sending).await, 5, "an account that still writes forgets when it does");
    assert!(!correspondents::forget(&sending.db, sending.now + Duration::days(96)).await.unwrap());
    assert_eq!(known(&sending).await, 5);
    assert!(!correspondents::forget(&sending.db, sending.now + Duration::days(99)).await.unwrap());
    assert_eq!(known(&sending).await, 0);
}
