//! Route Report: the page and the file that say of each account's messages how many left through a gateway.
//! The page of `route_report` in `src/web`; what it reads is written as relays write it.

use outgate::{
    mail::id::{AccountId, QueueId, RelayId},
    policy::Role,
    store::{
        self,
        message_trace::{Event, Gap, Step, Told},
    },
};
use reqwest::StatusCode;
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{message_trace::write_down, page_of};
use crate::support::{Browser, Installation, Page, Pages, Queued, Tenant};

const GATEWAY: &str = "dlp.example.com:587";
const ELSEWHERE: &str = "mx.example.net:25";

struct Scene {
    installation: Installation,
    acme: Tenant,
    admin: Browser,
    ann: AccountId,
    bob: AccountId,
    page: String,
    now: OffsetDateTime,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    installation.account(&acme, "carl@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let page = page_of(&acme, "message-trace/report");
    Scene { installation, acme, admin, ann, bob, page, now: OffsetDateTime::now_utc() }
}

impl Scene {
    /// The day so many days before today.
    fn day(&self, before: i64) -> String {
        (self.now.date() - Duration::days(before)).to_string()
    }

    /// One file is made at a time, and other tests of this process make theirs.
    /// Whatever reports other organizations have made meanwhile.
    async fn file(&self, fields: &str) -> Page {
        self.admin.get(&format!("{}.csv?{fields}", self.page)).await
    }

    /// The rows for this many days up to today: the account and its numbers.
    async fn rows(&self, more: &str) -> Vec<String> {
        let (from, to) = (self.day(10), self.day(0));
        let page = self.file(&format!("gateway={GATEWAY}&from={from}&to={to}{more}")).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.html);
        let mut lines = page.html.lines();
        let header = "account,first_day,last_day,gateway,messages,through_gateway,elsewhere,not_left,unknown";
        assert_eq!(lines.next(), Some(header));
        let asked = format!(",{from},{to},{GATEWAY},");
        lines.map(|line| line.replace(&asked, ": ")).collect()
    }

    /// What the page shows for these accounts, typed and in a file, and this many days up to today.
    async fn shown(&self, accounts: &str, file: &[u8]) -> Page {
        let (from, to) = (self.day(10), self.day(0));
        let fields = [("gateway", GATEWAY), ("from", from.as_str()), ("to", to.as_str()), ("accounts", accounts)];
        self.admin.upload(&self.page, file, &fields).await
    }

    /// A relay had no room for them while the store was away.
    async fn loses_seven_lines(&self) {
        let gap = Gap {
            organization: self.acme.id,
            id: Uuid::now_v7(),
            relay: RelayId::new(),
            first_at: self.at(9),
            last_at: self.at(8),
            lines: 7,
        };
        store::message_trace::insert_gaps_across_tenants(&self.installation.owner, &[gap]).await.unwrap();
    }

    fn at(&self, hours_ago: i64) -> OffsetDateTime {
        self.now - Duration::hours(hours_ago)
    }

    async fn write(&self, events: &[Event<'_>]) {
        write_down(&self.installation, self.acme.id, events).await;
    }
}

/// A line about a message of this account.
fn line(step: Step, message: QueueId, at: OffsetDateTime, account: AccountId, address: &'static str) -> Event<'static> {
    Event {
        sender: "ann@acme.example".into(),
        account: Some(account),
        address: (!address.is_empty()).then(|| address.into()),
        ..Event::new(step, message, at)
    }
}

#[sqlx::test]
async fn every_account_has_its_messages_by_where_they_left(db: PgPool) {
    let scene = scene(db).await;
    let (ann, bob, new) = (scene.ann, scene.bob, QueueId::new);
    let gone = AccountId::new();
    let (delivered, returned, both, lost) = (new(), new(), new(), new());
    let waiting = scene.installation.queued(&scene.acme, Queued::default()).await;
    let (partly, partly_back) = (new(), new());
    let has_left = vec![Told::Apart("x@example.net".into(), "250 ok".into()), Told::Alike("y@example.net".into())];
    scene
        .write(&[
            line(Step::HandedOver, new(), scene.at(30), ann, GATEWAY),
            line(Step::HandedOver, new(), scene.at(29), ann, GATEWAY),
            line(Step::HandedOver, new(), scene.at(28), ann, ELSEWHERE),
            line(Step::Refused, new(), scene.at(27), ann, ""),
            line(Step::Queued, delivered, scene.at(26), ann, GATEWAY),
            line(Step::Attempt, delivered, scene.at(25), ann, ELSEWHERE),
            line(Step::Delivered, delivered, scene.at(24), ann, GATEWAY),
            line(Step::Queued, returned, scene.at(23), ann, GATEWAY),
            line(Step::Returned, returned, scene.at(22), ann, GATEWAY),
            line(Step::Queued, both, scene.at(21), bob, GATEWAY),
            line(Step::Delivered, both, scene.at(20), bob, GATEWAY),
            line(Step::Delivered, both, scene.at(19), bob, ELSEWHERE),
            line(Step::Queued, lost, scene.at(18), bob, GATEWAY),
            line(Step::Queued, waiting, scene.at(17), bob, GATEWAY),
            Event { recipients: has_left, ..line(Step::Queued, partly, scene.at(16), bob, GATEWAY) },
            line(Step::Returned, partly, scene.at(15), bob, GATEWAY),
            line(Step::HandedOver, new(), scene.at(14), gone, ELSEWHERE),
            Event { account: None, ..line(Step::HandedOver, new(), scene.at(13), gone, GATEWAY) },
            // A report of our own is nobody's mail.
            Event { sender: "".into(), account: None, ..line(Step::Queued, partly_back, scene.at(12), ann, "") },
            line(Step::HandedOver, new(), scene.at(24 * 40), ann, GATEWAY),
        ])
        .await;
    assert_eq!(
        scene.rows("").await,
        [
            "ann@acme.example: 6,3,1,2,0",
            "bob@acme.example: 4,1,1,1,1",
            "carl@acme.example: 0,0,0,0,0",
            &format!("(deleted account) {gone}: 1,0,1,0,0"),
            "(senders without an account): 1,1,0,0,0",
        ]
    );
    scene.loses_seven_lines().await;
    let last = scene.rows("").await.pop().unwrap();
    assert_eq!(last, "(lines that were lost while the store was away): 7,0,0,0,7");
    let named = scene.rows("&accounts=a@acme.example,+bob@acme.example%0D%0Anobody@acme.example").await;
    let [first, second, third, lost] = &named[..] else { panic!("{named:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("a@acme.example: 6,3,1,2,0", "bob@acme.example: 4,1,1,1,1"));
    assert_eq!((third.as_str(), lost), ("(no account) nobody@acme.example: 0,0,0,0,0", &last));
}

#[sqlx::test]
async fn what_was_queued_in_the_period_is_followed_to_its_end_after_it(db: PgPool) {
    let scene = scene(db).await;
    let (first, second) = (QueueId::new(), QueueId::new());
    scene
        .write(&[
            line(Step::Queued, first, scene.at(24 * 20), scene.ann, GATEWAY),
            line(Step::Queued, second, scene.at(24 * 20), scene.ann, GATEWAY),
            line(Step::Delivered, first, scene.at(24 * 16), scene.ann, GATEWAY),
            line(Step::GivenUp, second, scene.at(24 * 15), scene.ann, GATEWAY),
        ])
        .await;
    let days = format!("from={}&to={}", scene.day(21), scene.day(19));
    let page = scene.file(&format!("gateway={GATEWAY}&{days}&accounts=ann@acme.example")).await;
    assert!(page.html.contains(",2,1,0,1,0"), "{}", page.html);
    let later = format!("from={}&to={}", scene.day(17), scene.day(1));
    let page = scene.file(&format!("gateway={GATEWAY}&{later}&accounts=ann@acme.example")).await;
    assert!(page.html.contains(",0,0,0,0,0"), "each message is of the day on which it came: {}", page.html);
}

#[sqlx::test]
async fn the_form_offers_the_organizations_gateway_and_says_what_it_cannot_read(db: PgPool) {
    let scene = scene(db).await;
    let form = scene.admin.get(&scene.page).await;
    assert_eq!((form.field("from"), form.field("to")), (scene.day(30), scene.day(0)));
    for (fields, mistake) in [
        ("gateway=&from=2026-01-01&to=2026-01-02", "Enter"),
        ("gateway=x.example&from=yesterday&to=2026-01-02", "Type a day such as 2026-11-24."),
        ("gateway=x.example&from=2026-01-03&to=2026-01-02", "This is before the first day"),
        ("gateway=x.example&from=2026-01-01&to=2026-04-03", "A report is of at most 92 days"),
        ("gateway=x.example&from=2026-01-01&to=2026-01-02&accounts=ann", "“ann”"),
    ] {
        let page = scene.file(fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields}");
        assert!(page.text().contains(mistake), "{fields}: {}", page.text());
    }
    let whole = scene.file("gateway=x.example&from=2026-01-01&to=2026-04-02").await;
    assert_eq!(whole.status, StatusCode::OK);
}

#[sqlx::test]
async fn another_organizations_mail_and_accounts_are_in_no_report(db: PgPool) {
    let scene = scene(db).await;
    let other = scene.installation.organization("other").await;
    let dora = scene.installation.account(&other, "dora@other.example", &[]).await;
    let handed_over = line(Step::HandedOver, QueueId::new(), scene.at(5), dora, GATEWAY);
    write_down(&scene.installation, other.id, &[handed_over]).await;
    assert!(scene.rows("").await.iter().all(|row| row.ends_with("@acme.example: 0,0,0,0,0")));
    assert_eq!(scene.rows("&accounts=dora@other.example").await, ["(no account) dora@other.example: 0,0,0,0,0"]);
    let page = scene.shown("", b"").await;
    assert!(page.text().contains("No messages in this time.") && !page.text().contains("dora"), "{}", page.text());
    let page = scene.shown("dora@other.example", b"").await;
    assert_eq!(of_accounts(&page), ["(no account) dora@other.example 0 0 0 0"]);
}

/// The rows by account on the page.
fn of_accounts(page: &Page) -> Vec<String> {
    let (_, table) = page.html.split_once("By account").unwrap_or_else(|| panic!("no accounts: {}", page.html));
    Page { html: table.to_owned(), headers: page.headers.clone(), path: page.path.clone(), ..*page }.rows()
}

#[sqlx::test]
async fn the_page_shows_what_became_of_all_messages_and_of_each_account(db: PgPool) {
    let scene = scene(db).await;
    let (ann, bob, gone, new) = (scene.ann, scene.bob, AccountId::new(), QueueId::new);
    let form = scene.admin.get(&scene.page).await;
    let action = format!(r#"method="post" enctype="multipart/form-data" action="{}""#, scene.page);
    assert!(form.html.contains(&action) && !form.html.contains("By account"), "{}", form.html);
    let page = scene.shown("", b"").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.html);
    assert!(page.text().contains("No messages in this time."), "{}", page.text());

    let through = |account| line(Step::HandedOver, new(), scene.at(30), account, GATEWAY);
    scene.write(&[through(ann), through(ann), through(ann), line(Step::Refused, new(), scene.at(20), ann, "")]).await;
    let page = scene.shown("", b"").await;
    assert!(page.text().contains("4 messages. Everything that left went through it."), "{}", page.text());
    assert_eq!(of_accounts(&page), ["ann@acme.example 3 0 1 0"]);
    scene.write(&[line(Step::Queued, new(), scene.at(18), bob, GATEWAY)]).await;
    let page = scene.shown("", b"").await;
    let words = "5 messages. None is known to have left elsewhere; of 1 it is not known.";
    assert!(page.text().contains(words), "{}", page.text());

    scene
        .write(&[
            line(Step::HandedOver, new(), scene.at(14), gone, ELSEWHERE),
            line(Step::HandedOver, new(), scene.at(14), bob, ELSEWHERE),
            line(Step::HandedOver, new(), scene.at(14), bob, ELSEWHERE),
            Event { account: None, ..through(ann) },
        ])
        .await;
    let page = scene.shown("", b"").await;
    assert!(page.text().contains("9 messages. 3 messages left elsewhere."), "{}", page.text());
    assert_eq!(
        page.rows(),
        [
            "Through it to every recipient who got it 4",
            "Elsewhere at least for some recipient 3",
            "Not left it waits, was refused, returned or deleted 1",
            "Unknown what became of it is not written down 1",
        ]
    );
    let rows = [
        "bob@acme.example 0 2 0 1".to_owned(),
        format!("(deleted account) {gone} 0 1 0 0"),
        "ann@acme.example 3 0 1 0".to_owned(),
        "(senders without an account) 1 0 0 0".to_owned(),
    ];
    assert_eq!(of_accounts(&page), rows);
    assert_eq!((page.field("gateway"), page.field("from")), (GATEWAY.to_owned(), scene.day(10)));
    let found = scene.admin.get(&page.link("bob@acme.example")).await;
    assert!(found.text().contains("Only of the account bob@acme.example"), "{}", found.text());

    // An account that is named by two of its addresses counts once, and those of a file stand in the form afterwards.
    let page = scene.shown("ann@acme.example", b"user_id\na@acme.example\ncarl@acme.example\n").await;
    assert!(page.text().contains("4 messages. Everything that left went through it."), "{}", page.text());
    let rows = ["a@acme.example 3 0 1 0", "ann@acme.example 3 0 1 0", "carl@acme.example 0 0 0 0"];
    assert_eq!(of_accounts(&page), rows);
    let field = ">\nann@acme.example\na@acme.example\ncarl@acme.example</textarea>";
    assert!(page.html.contains(field), "{}", page.html);
    let page = scene.shown("nobody", b"").await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(page.text().contains("“nobody”") && !page.html.contains("By account"), "{}", page.text());
}

#[sqlx::test]
async fn of_many_accounts_the_page_shows_the_first_fifty_and_all_in_the_totals(db: PgPool) {
    let scene = scene(db).await;
    let mut events = Vec::new();
    for number in 0..55 {
        let account = scene.installation.account(&scene.acme, &format!("user{number:02}@acme.example"), &[]).await;
        let address = if number == 54 { ELSEWHERE } else { GATEWAY };
        events.push(line(Step::HandedOver, QueueId::new(), scene.at(5), account, address));
    }
    scene.write(&events).await;
    scene.loses_seven_lines().await;
    let page = scene.shown("", b"").await;
    let begins = format!("Nothing is written down of your organization's mail before {}.", scene.at(5).date());
    assert!(page.text().contains(&begins), "{}", page.text());
    let rows = of_accounts(&page);
    assert_eq!((rows.len(), rows[0].as_str()), (51, "user54@acme.example 0 1 0 0"));
    assert_eq!(rows[50], "(lines that were lost while the store was away) 0 0 0 7");
    assert!(page.text().contains("62 messages. 1 message left elsewhere."), "{}", page.text());
    let words = "Most elsewhere first; 5 others stand in the file. Accounts that sent nothing stand in the file only.";
    assert!(page.text().contains(words), "{}", page.text());
}

#[sqlx::test]
async fn the_accounts_of_a_file_are_reported_on_each_in_its_row(db: PgPool) {
    let scene = scene(db).await;
    scene.write(&[line(Step::HandedOver, QueueId::new(), scene.at(5), scene.ann, GATEWAY)]).await;
    let (form, path) = (scene.admin.get(&scene.page).await, format!("{}.csv", scene.page));
    assert!(form.html.contains(&format!(r#"formaction="{path}""#)), "{}", form.html);
    let (from, to) = (scene.day(10), scene.day(0));
    let fields = |accounts: &'static str| {
        [("gateway", GATEWAY), ("from", from.as_str()), ("to", to.as_str()), ("accounts", accounts)]
    };
    let many: String = (0..2_500).map(|number| format!("user{number}@acme.example,User {number}\n")).collect();
    let file = format!("\u{feff}user_id,name\nANN@acme.example,Ann\nbob@acme.example,Bob\n\n{many}");
    let page = scene.admin.upload(&path, file.as_bytes(), &fields("carl@acme.example")).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.html);
    let rows: Vec<&str> = page.html.lines().skip(1).collect();
    assert_eq!(rows.len(), 2_503);
    let expected = [
        format!("carl@acme.example,{from},{to},{GATEWAY},0,0,0,0,0"),
        format!("ann@acme.example,{from},{to},{GATEWAY},1,1,0,0,0"),
        format!("bob@acme.example,{from},{to},{GATEWAY},0,0,0,0,0"),
    ];
    assert_eq!(rows[..3], expected);
    assert!(rows[3].starts_with("(no account) user0@acme.example,"), "{}", rows[3]);

    // Without a file and a name it is about all.
    let page = scene.admin.upload(&path, b"", &fields("")).await;
    assert_eq!((page.status, page.html.lines().count()), (StatusCode::OK, 4), "{}", page.html);

    let too_many: String = (0..10_001).map(|number| format!("user{number}@acme.example\n")).collect();
    let too_large = vec![b'\n'; 2_000_001];
    for (file, words) in [
        (&b"user_id\nann@acme.example\nbob\n"[..], "Line 3: \u{201c}bob\u{201d} is not a mail address."),
        (b"ann@acme.example\n\nbob@\n", "Line 3: "),
        (b"user_id\n", "The file has no addresses in it."),
        (b"\xff\xfe", "The file is not in UTF-8."),
        (too_many.as_bytes(), "These are too many addresses: at most 10,000."),
        (&too_large, "The file is larger than 2.0 MB."),
    ] {
        let page = scene.admin.upload(&path, file, &fields("carl@acme.example")).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{words}");
        assert_eq!(page.text().matches(words).count(), 2, "{words} in {}", page.text());
        assert!(page.html.contains(">\ncarl@acme.example</textarea>"), "{}", page.html);
        assert_eq!(page.field("from"), from);
    }
}
