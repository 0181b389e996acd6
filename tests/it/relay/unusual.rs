//! Who sends far more than usual at that time of the week is noticed, slowed down and told why. What is usual is
//! `policy::usual`'s; limits of other kinds are in `relay::sending_limits`.

use outgate::{
    mail::id::RelayId,
    policy::{
        Role,
        limit::{Action, Kind, Limit, SetAt, Whose, Window},
        volume::{Subject, Unit},
    },
    relay::volume::Writer,
    store,
};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};

use super::sending_limits::{self, told};
use crate::support::{Gateway, Sending};

const UNUSUAL: Kind = Kind { whose: Whose::Each, window: Window::Usual, unit: Unit::Recipients };

/// A relay whose mail of ann's goes to this gateway, in an organization in which 30 recipients an hour are never unusual.
async fn through(gateway: &Gateway, owner: PgPool) -> Sending {
    let sending = sending_limits::through(gateway, owner).await;
    sending.set_limits(|limits| {
        let limit = Limit { most: Some(30), action: Action::Delay };
        limits.set.entry(SetAt::Organization).or_default().insert(UNUSUAL, limit);
    });
    sending
}

/// Notes that so many recipients were sent to at this hour of the week in each of these weeks.
async fn sent_each_week(sending: &Sending, subject: &Subject, weeks: impl IntoIterator<Item = i64>, recipients: i64) {
    let (kind, subject) = match subject {
        Subject::Account(account) => ("account", account.to_string()),
        _ => ("organization", String::new()),
    };
    for week in weeks {
        sqlx::query(
            "insert into volume_hour (organization_id, kind, subject, hour, messages, recipients, external)
             values ($1, $2, $3, date_trunc('hour', $4::timestamptz, 'UTC'), 1, $5, 0)",
        )
        .bind(sending.organization.0)
        .bind(kind)
        .bind(&subject)
        .bind(sending.now - Duration::weeks(week))
        .bind(recipients)
        .execute(&sending.owner)
        .await
        .unwrap();
    }
}

/// What relays do every second: this one looks up what those usually send who send much.
async fn look_up(sending: &Sending) {
    let id = RelayId::new();
    sending_limits::relay(&sending.owner, id).await;
    Writer::of(&sending.volume, &sending.meter, &sending.db).turn(id).await.unwrap();
}

/// What ann's client hears of a message to so many.
async fn send_to(sending: &Sending, recipients: usize) -> String {
    let to: Vec<String> = (0..recipients).map(|place| format!("r{place}@elsewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let mut message = sending.message(&to);
    message.accepted_at = sending.now;
    sending.transfer.accept(message).await.to_string()
}

const TAKEN: &str = "250 2.0.0 kept as 4711";

#[sqlx::test]
async fn who_sends_four_times_the_usual_of_that_hour_is_slowed_down_and_told_why(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    let ann = Subject::Account(sending.account);
    sent_each_week(&sending, &ann, 1..=4, 20).await;
    assert_eq!(send_to(&sending, 20).await, TAKEN);
    look_up(&sending).await;
    // Above what is never unusual, and not above four times the usual.
    assert_eq!(send_to(&sending, 60).await, TAKEN);
    let reply = send_to(&sending, 6).await;
    let since = sending.now - Duration::HOUR;
    let words = format!(
        "; 86 recipients since {:02}:{:02} UTC, usually at most 20 in an hour at this time; it leaves at ",
        since.hour(),
        since.minute()
    );
    assert!(reply.starts_with("250 2.0.0 queued as ") && reply.contains(&words), "{reply}");
    // At the pace of eighty an hour.
    sending.queue.step(sending.now + Duration::seconds(269)).await.unwrap();
    assert_eq!(sending.waiting().await.len(), 1);
    sending.queue.step(sending.now + Duration::seconds(270)).await.unwrap();
    assert_eq!(gateway.received(3).await.len(), 3);
}

#[sqlx::test]
async fn nothing_is_unusual_of_whom_nothing_is_usual_yet(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner).await;
    sent_each_week(&sending, &Subject::Account(sending.account), [1], 5).await;
    assert_eq!(send_to(&sending, 25).await, TAKEN);
    look_up(&sending).await;
    assert_eq!(send_to(&sending, 100).await, TAKEN);
}

#[sqlx::test]
async fn what_was_sent_at_other_hours_of_the_week_is_not_usual_at_this_one(owner: PgPool) {
    let gateway = Gateway::start().await;
    let mut sending = through(&gateway, owner).await;
    let ann = Subject::Account(sending.account);
    let now = sending.now;
    sending.now = now - Duration::hours(12);
    sent_each_week(&sending, &ann, 1..=4, 500).await;
    sending.now = now;
    // Two fifths of what is never unusual at other hours.
    assert_eq!(send_to(&sending, 12).await, TAKEN);
    look_up(&sending).await;
    let reply = send_to(&sending, 1).await;
    assert!(
        reply.contains("13 recipients since ") && reply.contains(", usually none in an hour at this time"),
        "{reply}"
    );
}

#[sqlx::test]
async fn what_a_sender_sends_at_this_time_on_its_busiest_day_is_usual_on_the_others_too(owner: PgPool) {
    let gateway = Gateway::start().await;
    let mut sending = through(&gateway, owner).await;
    let ann = Subject::Account(sending.account);
    sent_each_week(&sending, &ann, 1..=4, 10).await;
    let now = sending.now;
    sending.now = now + Duration::DAY * 2;
    sent_each_week(&sending, &ann, 1..=4, 20).await;
    sending.now = now;
    assert_eq!(send_to(&sending, 20).await, TAKEN);
    look_up(&sending).await;
    assert_eq!(send_to(&sending, 60).await, TAKEN);
    let reply = send_to(&sending, 1).await;
    assert!(reply.contains("; 81 recipients since "), "{reply}");
    assert!(reply.contains(", usually at most 20 in an hour at this time; it leaves at "), "{reply}");
}

/// Ann usually sends twenty at this hour, has sent as many as are not unusual, and there is somebody to be told.
async fn at_the_limit(gateway: &Gateway, owner: PgPool) -> Sending {
    let sending = through(gateway, owner.clone()).await;
    let (admin, role) = ("admin@acme.example".parse().unwrap(), Role::Administrator);
    store::administrator::create(&owner, &admin, "not a hash", sending.organization, role).await.unwrap();
    sent_each_week(&sending, &Subject::Account(sending.account), 1..=4, 20).await;
    assert_eq!(send_to(&sending, 20).await, TAKEN);
    look_up(&sending).await;
    assert_eq!(send_to(&sending, 60).await, TAKEN);
    sending
}

async fn notices(sending: &Sending) -> usize {
    sending.queue.tell_of_limits(&sending.meter, sending.now).await.unwrap()
}

#[sqlx::test]
async fn administrators_are_told_of_unusual_mail_once_it_waits_for_ten_minutes(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = at_the_limit(&gateway, owner).await;
    // At the pace of eighty an hour it is gone in nine minutes and three quarters.
    assert!(send_to(&sending, 13).await.starts_with("250 2.0.0 queued as "));
    assert_eq!(notices(&sending).await, 0);
    assert!(send_to(&sending, 1).await.starts_with("250 2.0.0 queued as "));
    assert_eq!(notices(&sending).await, 1);
    let told = told(&sending).await.remove(0).replace("=\r\n", "");
    assert!(told.contains("Subject: ann@acme.example sends much more than usual"), "{told}");
    assert!(told.contains("94 recipients since "), "{told}");
}

#[sqlx::test]
async fn who_sends_a_little_more_than_is_usual_for_ten_minutes_is_told_of(owner: PgPool) {
    let gateway = Gateway::start().await;
    let mut sending = at_the_limit(&gateway, owner).await;
    let begun = sending.now;
    for minute in [0, 3, 6, 9] {
        sending.now = begun + Duration::minutes(minute);
        assert!(send_to(&sending, 1).await.starts_with("250 2.0.0 queued as "));
        assert_eq!(notices(&sending).await, 0, "{minute}");
    }
    sending.now = begun + Duration::minutes(10);
    assert!(send_to(&sending, 1).await.starts_with("250 2.0.0 queued as "));
    assert_eq!(notices(&sending).await, 1);
}

#[sqlx::test]
async fn a_hundred_recipients_beyond_what_is_usual_are_told_of_at_once(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = at_the_limit(&gateway, owner).await;
    sending.set_limits(|limits| {
        let (limit, unlimited) =
            (Limit { most: Some(1000), action: Action::Delay }, Limit { most: None, action: Action::Alert });
        let set = limits.set.entry(SetAt::Organization).or_default();
        set.extend(outgate::policy::limit::platform(Whose::Each, 1).map(|(kind, _)| (kind, unlimited)));
        set.insert(UNUSUAL, limit);
    });
    assert_eq!(send_to(&sending, 920).await, TAKEN);
    assert!(send_to(&sending, 99).await.starts_with("250 2.0.0 queued as "));
    assert_eq!(notices(&sending).await, 0);
    assert!(send_to(&sending, 1).await.starts_with("250 2.0.0 queued as "));
    assert_eq!(notices(&sending).await, 1);
}

#[sqlx::test]
async fn whose_unusual_mail_was_over_begins_anew(owner: PgPool) {
    let gateway = Gateway::start().await;
    let mut sending = at_the_limit(&gateway, owner).await;
    let (begun, ann) = (sending.now, Subject::Account(sending.account));
    assert!(send_to(&sending, 1).await.starts_with("250 2.0.0 queued as "));
    sending.now = begun + Duration::HOUR;
    sent_each_week(&sending, &ann, 1..=4, 20).await;
    // By then the first eighty do not count any more, and what comes after is not unusual but at last.
    sending.now = begun + Duration::minutes(66);
    send_to(&sending, 20).await;
    look_up(&sending).await;
    send_to(&sending, 60).await;
    send_to(&sending, 5).await;
    assert_eq!(notices(&sending).await, 0);
}

#[sqlx::test]
async fn of_unusual_mail_that_does_not_wait_administrators_are_told_at_once(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = at_the_limit(&gateway, owner).await;
    sending.set_limits(|limits| {
        let limit = Limit { most: Some(30), action: Action::Alert };
        limits.set.entry(SetAt::Organization).or_default().insert(UNUSUAL, limit);
    });
    assert_eq!(send_to(&sending, 1).await, TAKEN);
    assert_eq!(notices(&sending).await, 1);
}

#[sqlx::test]
async fn administrators_are_told_that_all_together_send_much_more_than_usual_and_nobody_waits(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = through(&gateway, owner.clone()).await;
    let (admin, role) = ("admin@acme.example".parse().unwrap(), Role::Administrator);
    store::administrator::create(&owner, &admin, "not a hash", sending.organization, role).await.unwrap();
    sent_each_week(&sending, &Subject::Organization, 1..=4, 800).await;
    sending.set_limits(|limits| {
        let unlimited = Limit { most: None, action: Action::Alert };
        limits.set.entry(SetAt::Organization).or_default().insert(UNUSUAL, unlimited);
        limits.default_acts_from = OffsetDateTime::UNIX_EPOCH;
        for (kind, _) in outgate::policy::limit::platform(Whose::Each, 1) {
            limits.set.entry(SetAt::Organization).or_default().insert(kind, unlimited);
        }
    });
    assert_eq!(send_to(&sending, 800).await, TAKEN);
    look_up(&sending).await;
    assert_eq!(send_to(&sending, 800).await, TAKEN, "1,600 are twice the usual");
    assert_eq!(sending.queue.tell_of_limits(&sending.meter, sending.now).await.unwrap(), 0);
    assert_eq!(send_to(&sending, 1).await, TAKEN);
    assert_eq!(sending.queue.tell_of_limits(&sending.meter, sending.now).await.unwrap(), 1);
    // Without the line ends that quoted-printable puts in.
    let told = told(&sending).await.remove(0).replace("=\r\n", "");
    let subject = "Subject: All of the organization together sends much more than usual";
    assert!(told.contains(subject), "{told}");
    assert!(told.contains("1601 recipients of the organization since "), "{told}");
    assert!(told.contains("usually at most 800 in an hour at this time"), "{told}");
}

/// Everything else is allowed, and 1,000 recipients a day as the platform has it.
async fn by_the_day(gateway: &Gateway, owner: PgPool) -> Sending {
    let sending = sending_limits::through(gateway, owner).await;
    sending.set_limits(|limits| {
        limits.default_acts_from = OffsetDateTime::UNIX_EPOCH;
        let unlimited = Limit { most: None, action: Action::Alert };
        let others = outgate::policy::limit::platform(Whose::Each, 1).filter(|(kind, _)| kind.window != Window::Day);
        limits.set.entry(SetAt::Organization).or_default().extend(others.map(|(kind, _)| (kind, unlimited)));
    });
    sending
}

/// One relay that writes down what it has counted, and looks up what those usually send who send much.
async fn writer(sending: &Sending) -> (Writer<'_>, RelayId) {
    let id = RelayId::new();
    sending_limits::relay(&sending.owner, id).await;
    (Writer::of(&sending.volume, &sending.meter, &sending.db), id)
}

#[sqlx::test]
async fn the_platforms_figure_of_a_day_is_raised_for_who_usually_sends_as_much(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = by_the_day(&gateway, owner).await;
    sent_each_week(&sending, &Subject::Account(sending.account), 1..=3, 450).await;
    sent_each_week(&sending, &Subject::Account(sending.account), [4], 90_000).await;
    let (mut writer, id) = writer(&sending).await;
    for _ in 0..3 {
        assert_eq!(send_to(&sending, 600).await, TAKEN);
        writer.turn(id).await.unwrap();
    }
    let reply = send_to(&sending, 1).await;
    let words = "1801 recipients in a day, at most 1800 are allowed: it usually sends up to 450 a day";
    assert!(reply.contains(words), "{reply}");
}

#[sqlx::test]
async fn a_figure_is_not_raised_for_who_has_sent_as_much_in_two_weeks_of_four(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = by_the_day(&gateway, owner).await;
    let ann = Subject::Account(sending.account);
    sent_each_week(&sending, &ann, [1, 2], 5000).await;
    sent_each_week(&sending, &ann, [3, 4], 250).await;
    let (mut writer, id) = writer(&sending).await;
    for _ in 0..2 {
        assert_eq!(send_to(&sending, 500).await, TAKEN);
        writer.turn(id).await.unwrap();
    }
    let reply = send_to(&sending, 1).await;
    assert!(reply.contains("1001 recipients in a day, at most 1000 are allowed ["), "{reply}");
}

#[sqlx::test]
async fn a_figure_that_somebody_has_set_is_not_raised(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = by_the_day(&gateway, owner).await;
    sent_each_week(&sending, &Subject::Account(sending.account), 1..=4, 5000).await;
    sending.set_limits(|limits| {
        let day = Kind { whose: Whose::Each, window: Window::Day, unit: Unit::Recipients };
        let limit = Limit { most: Some(1000), action: Action::Defer };
        limits.set.entry(SetAt::Organization).or_default().insert(day, limit);
    });
    let (mut writer, id) = writer(&sending).await;
    for _ in 0..2 {
        assert_eq!(send_to(&sending, 500).await, TAKEN);
        writer.turn(id).await.unwrap();
    }
    let reply = send_to(&sending, 1).await;
    assert!(reply.starts_with("451 4.7.1 1001 recipients in a day, at most 1000 are allowed;"), "{reply}");
}

#[sqlx::test]
async fn however_much_is_usual_the_platforms_figure_is_raised_to_three_times_itself_at_most(owner: PgPool) {
    let gateway = Gateway::start().await;
    let sending = by_the_day(&gateway, owner).await;
    sent_each_week(&sending, &Subject::Account(sending.account), 1..=4, 50_000).await;
    let (mut writer, id) = writer(&sending).await;
    for recipients in [600, 2400] {
        assert_eq!(send_to(&sending, recipients).await, TAKEN);
        writer.turn(id).await.unwrap();
    }
    let reply = send_to(&sending, 1).await;
    let words = "3001 recipients in a day, at most 3000 are allowed: it usually sends up to 50,000 a day";
    assert!(reply.contains(words), "{reply}");
}
