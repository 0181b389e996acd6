//! Limits: how much may be sent, at three scopes, and what is said of single senders. What relays make of it is
//! `relay::limits`'.

use outgate::{
    mail::id::AccountId,
    policy::{
        Role,
        correspondents::{Print, Written},
        volume::Subject,
    },
    store,
};
use reqwest::StatusCode;
use sqlx::{AssertSqlSafe, PgPool};
use time::{Date, Duration, OffsetDateTime};

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Queued, Tenant, following::Following, outgate::Outgate};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    ann: AccountId,
    ben: AccountId,
    of_all: String,
    of_domain: String,
    of_ann: String,
    now: OffsetDateTime,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    let ben = installation.account(&acme, "ben@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    Scene {
        of_all: page_of(&acme, "limits"),
        of_domain: page_of(&acme, "domain-manager/acme.example/limits"),
        of_ann: page_of(&acme, &format!("mail-account-manager/{ann}/limits")),
        installation,
        acme,
        pages,
        admin,
        ann,
        ben,
        now: OffsetDateTime::now_utc(),
    }
}

/// What the form that sets a limit was shown with; it is the last of its page.
fn seen(page: &Page) -> String {
    let (_, seen) = page.html.rsplit_once(r#"name="seen" value=""#).expect("no form");
    seen.split_once('"').unwrap().0.to_owned()
}

impl Scene {
    async fn page(&self, path: &str) -> Page {
        let page = self.admin.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        page
    }

    async fn text(&self, path: &str) -> String {
        self.page(path).await.text()
    }

    /// Saves a limit by the form: whose, window, unit, how many, action.
    async fn save(&self, path: &str, limit: [&str; 5]) -> Page {
        let seen = seen(&self.admin.get(path).await);
        let [whose, window, unit, most, action] = limit;
        let fields = [("whose", whose), ("window", window), ("unit", unit), ("most", most), ("action", action)];
        self.admin.submit(path, &[&fields[..], &[("seen", seen.as_str())]].concat()).await
    }

    async fn sent(&self, account: AccountId, ago: Duration, (messages, recipients, external): (i64, i64, i64)) {
        let subjects = [Subject::Account(account), Subject::Domain(self.acme.domain.parse().unwrap())];
        let count = (messages, recipients, external);
        self.installation.sent(&self.acme, self.now - ago, &subjects, count).await;
    }

    /// An account has written to so many for the first time, so long ago.
    async fn wrote_to(&self, tenant: &Tenant, account: AccountId, ago: Duration, many: usize) {
        let at = self.now - ago;
        let print = |place| Print::of(account, &format!("r{place}-{ago}@elsewhere.example"));
        let written = (0..many).map(|place| Written::new(print(place), at)).collect();
        let mut connection = self.installation.owner.acquire().await.unwrap();
        store::correspondents::add_across_tenants(&mut connection, &[((tenant.id, account), written)], at)
            .await
            .unwrap();
    }

    async fn execute(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement)).execute(&self.installation.owner).await.unwrap();
    }

    async fn revision(&self) -> i64 {
        sqlx::query_scalar("select revision from installation").fetch_one(&self.installation.owner).await.unwrap()
    }
}

/// The text of one table with its heading.
fn section(page: &Page, title: &str) -> String {
    let sections = page.html.split(r#"<section class="card limits-of""#).skip(1);
    let texts = sections.map(|section| {
        let html = section.split("</section>").next().unwrap().to_owned();
        Page { status: page.status, path: page.path.clone(), headers: page.headers.clone(), html }.text()
    });
    let texts: Vec<String> = texts.collect();
    texts.iter().find(|text| text.starts_with(title)).unwrap_or_else(|| panic!("no {title} in {texts:?}")).clone()
}

#[sqlx::test]
async fn the_platform_s_figures_hold_at_first_and_only_alert_while_the_organization_is_new(db: PgPool) {
    let scene = scene(db).await;
    let page = scene.page(&scene.of_all).await;
    assert!(page.text().contains("Your organization is new here: until"), "{}", page.text());
    let each = section(&page, "Each account");
    assert!(each.contains("60 recipients in a minute an alert only, later delayed"), "{each}");
    assert!(each.contains("an alert only, later delayed the platform Set here"), "{each}");
    assert!(each.contains("1,000 recipients in a day an alert only, later held"), "{each}");

    scene.execute("update organization set limits_act_from = now()").await;
    let page = scene.page(&scene.of_all).await;
    assert!(!page.text().contains("is new here"), "{}", page.text());
    let each = section(&page, "Each account");
    for row in [
        "60 recipients in a minute delayed the platform",
        "500 external recipients in an hour delayed the platform",
        "4 times what is usual, or 250 recipients in an hour delayed the platform",
        "1,000 recipients in a day held the platform",
        "200 external recipients that it never wrote to before in a day an alert only the platform",
    ] {
        assert!(each.contains(row), "{row}: {each}");
    }
    let service = section(&page, "Each service account");
    assert!(service.contains("10,000 recipients in a day held the platform"), "{service}");
    let all = section(&page, "All of the organization together");
    assert!(all.contains("10,320 external recipients in a day held the platform"), "two accounts: {all}");
    assert!(all.contains("2 times what is usual, or 1,000 recipients in an hour an alert only"), "{all}");
    let console = scene.text("/acme/web-mail-cloud").await;
    assert!(console.contains("Limits The platform's figures hold"), "{console}");
}

#[sqlx::test]
async fn the_nearest_scope_that_has_set_a_limit_decides_and_each_page_says_which_one_that_is(db: PgPool) {
    let scene = scene(db).await;
    let saved = scene.save(&scene.of_all, ["each", "hour", "recipients", "5,000", "defer"]).await;
    let text = saved.text();
    let said =
        "Saved. all users, each account: at most 5,000 recipients in an hour, beyond it defer. No relay is running";
    assert!(text.contains(said), "{text}");
    let each = section(&saved, "Each account");
    assert!(each.contains("5,000 recipients in an hour put off (451) here Change Delete"), "{each}");
    let each = section(&scene.page(&scene.of_domain).await, "Each account of acme.example");
    assert!(each.contains("5,000 recipients in an hour put off (451) the organization Set here"), "{each}");

    scene.save(&scene.of_domain, ["each", "hour", "recipients", "700", "hold"]).await;
    let page = scene.page(&scene.of_ann).await;
    let own = section(&page, "This account");
    assert!(own.contains("700 recipients in an hour held acme.example Set here"), "{own}");
    assert_eq!(page.rows_link("700 recipients", "acme.example"), scene.of_domain);

    // Without a number nothing of wider scopes holds any more.
    let seen = seen(&page);
    let fields = [("whose", "each"), ("window", "hour"), ("unit", "recipients"), ("most", ""), ("unlimited", "1")];
    let fields = [&fields[..], &[("action", "delay"), ("seen", seen.as_str())]].concat();
    let saved = scene.admin.submit(&scene.of_ann, &fields).await;
    let said = "Saved. ann@acme.example: any number of recipients in an hour.";
    assert!(saved.text().contains(said), "{}", saved.text());
    let own = section(&saved, "This account");
    assert!(own.contains("any number of recipients in an hour nothing is here"), "{own}");
    let of_ben = page_of(&scene.acme, &format!("mail-account-manager/{}/limits", scene.ben));
    let own = section(&scene.page(&of_ben).await, "This account");
    assert!(own.contains("700 recipients in an hour held acme.example"), "{own}");

    // All that differs from the organization's own is found from its page.
    let text = scene.text(&scene.of_all).await;
    assert!(text.contains("acme.example1 limit of its own"), "{text}");
    assert!(text.contains("ann@acme.example1 limit of its own"), "{text}");
    let account = scene.text(&page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann))).await;
    assert!(account.contains("any number of recipients in an hour (set for this account)"), "{account}");
    let console = scene.text("/acme/web-mail-cloud").await;
    assert!(console.contains("Limits 3 limits of your own"), "{console}");
}

#[sqlx::test]
async fn limits_of_each_and_of_all_together_never_stand_in_one_table(db: PgPool) {
    let scene = scene(db).await;
    scene.save(&scene.of_all, ["each", "day", "messages", "11", "refuse"]).await;
    scene.save(&scene.of_all, ["service", "day", "messages", "22", "refuse"]).await;
    scene.save(&scene.of_all, ["total", "day", "messages", "33", "refuse"]).await;
    scene.save(&scene.of_domain, ["total", "day", "messages", "44", "refuse"]).await;
    let page = scene.page(&scene.of_domain).await;
    for (title, own) in [
        ("Each account of acme.example", "11 messages in a day"),
        ("Each service account of acme.example", "22 messages in a day"),
        ("All of acme.example together", "44 messages in a day"),
        ("All of the organization together", "33 messages in a day"),
    ] {
        let section = section(&page, title);
        assert!(section.contains(own), "{title}: {section}");
        assert_eq!(section.matches("messages in a day").count(), 1, "{title}: {section}");
    }
    // The organization's total is changed on its own page.
    assert!(!section(&page, "All of the organization together").contains("Change"), "{}", page.text());
    let of_ann = scene.page(&scene.of_ann).await;
    assert!(section(&of_ann, "All of acme.example together").contains("44 messages in a day"), "{}", of_ann.text());
    assert!(!of_ann.text().contains("22 messages"), "an ordinary account: {}", of_ann.text());
}

#[sqlx::test]
async fn a_limit_is_changed_and_deleted_from_its_row_and_what_a_wider_scope_says_holds_again(db: PgPool) {
    let scene = scene(db).await;
    scene.save(&scene.of_all, ["each", "hour", "external", "70", "hold"]).await;
    let page = scene.admin.get(&scene.of_all).await;
    let change = scene.admin.get(page.rows_link("70 external", "Change").split('#').next().unwrap()).await;
    assert_eq!(change.field("most"), "70");
    for chosen in [r#"value="each" selected"#, r#"value="external" selected"#, r#"value="hour" selected"#] {
        assert!(change.html.contains(chosen), "{}", change.html);
    }
    assert!(change.html.contains(r#"value="hold" selected"#), "{}", change.html);

    let delete = format!("{}/delete", scene.of_all);
    let row = "at most 70 external recipients in an hour, beyond it hold";
    let fields = |seen| [("whose", "each"), ("window", "hour"), ("unit", "external"), ("seen", seen)];
    let before = scene.revision().await;
    let other = scene.admin.submit(&delete, &fields("at most 71 external recipients in an hour, beyond it hold")).await;
    assert_eq!((other.status, scene.revision().await), (StatusCode::CONFLICT, before));
    let deleted = scene.admin.submit(&delete, &fields(row)).await;
    let text = deleted.text();
    assert!(text.contains(&format!("Deleted. all users, each account: no longer {row}.")), "{text}");
    assert!(section(&deleted, "Each account").contains("500 external recipients in an hour"), "{text}");
    let again = scene.admin.submit(&delete, &fields(row)).await;
    assert!(again.text().contains("Nothing changed."), "{}", again.text());
}

#[sqlx::test]
async fn check_says_what_a_limit_would_have_done_and_saves_nothing(db: PgPool) {
    let scene = scene(db).await;
    scene.sent(scene.ann, Duration::days(3), (60, 120, 0)).await;
    scene.sent(scene.ann, Duration::days(5), (200, 200, 200)).await;
    scene.sent(scene.ben, Duration::days(5), (101, 101, 1)).await;
    scene.sent(scene.ben, Duration::days(31), (9999, 9999, 9999)).await;
    let before = scene.revision().await;
    let check = |path: &str, fields: &str| format!("{path}?check=1&{fields}");

    let page =
        scene.admin.get(&check(&scene.of_all, "whose=each&window=hour&unit=recipients&most=100&action=delay")).await;
    let text = page.text();
    let said = "In the last 30 days 2 accounts would have exceeded this limit, in 3 hours altogether: \
                111 messages would have been delayed. Nothing is saved yet.";
    assert!(text.contains(said), "{text}");
    assert!(text.contains("ann@acme.example2110 ben@acme.example11"), "{text}");
    assert_eq!(page.field("most"), "100", "the form is filled in");
    assert!(page.html.contains(r#"value="delay" selected"#), "{}", page.html);
    let by_day = check(&scene.of_all, "whose=each&window=day&unit=messages&most=150&action=refuse");
    let said = "1 account would have exceeded this limit, on 1 day: 50 messages would have been refused (550).";
    assert!(scene.text(&by_day).await.contains(said), "{}", scene.text(&by_day).await);
    let total = check(&scene.of_all, "whose=total&window=hour&unit=messages&most=300&action=hold");
    let said = "the organization would have exceeded this limit, in 1 hour: 1 message would have been held.";
    assert!(scene.text(&total).await.contains(said), "{}", scene.text(&total).await);
    let own = check(&scene.of_ann, "whose=each&window=hour&unit=external&most=150&action=alert");
    let said = "the account would have exceeded this limit, in 1 hour: 50 messages would have raised an alert";
    assert!(scene.text(&own).await.contains(said), "{}", scene.text(&own).await);
    let none = check(&scene.of_all, "whose=each&window=hour&unit=messages&most=5000&action=alert");
    assert!(scene.text(&none).await.contains("In the last 30 days nobody sent more than this limit allows."));
    let minute = check(&scene.of_all, "whose=each&window=minute&unit=messages&most=50&action=alert");
    let text = scene.text(&minute).await;
    assert!(text.contains("In the last 24 hours nobody sent more") && text.contains("the last day says"), "{text}");
    let unlimited = check(&scene.of_all, "whose=each&window=hour&unit=messages&most=&unlimited=1&action=alert");
    assert!(scene.text(&unlimited).await.contains("Any number is allowed: nothing would have been beyond it."));
    assert_eq!(scene.revision().await, before);
}

#[sqlx::test]
async fn a_limit_by_what_is_usual_is_tried_with_the_weeks_before_set_and_inherited(db: PgPool) {
    let scene = scene(db).await;
    for weeks in 2..=6 {
        scene.sent(scene.ann, Duration::weeks(weeks), (10, 20, 0)).await;
        scene.sent(scene.ben, Duration::weeks(weeks), (100, 100, 0)).await;
    }
    // Ann sends six times the usual, Ben twice.
    scene.sent(scene.ann, Duration::weeks(1), (60, 120, 0)).await;
    scene.sent(scene.ben, Duration::weeks(1), (200, 200, 0)).await;
    let fields = "check=1&whose=each&window=usual&unit=recipients&most=40&action=delay";
    let text = scene.text(&format!("{}?{fields}", scene.of_all)).await;
    let said =
        "In the last 30 days 1 account would have exceeded this limit, in 1 hour: 20 messages would have been delayed.";
    assert!(text.contains(said), "{text}");
    assert!(text.contains("ann@acme.example120 "), "{text}");
    assert!(text.contains("each compared with the same hours of the four weeks before it"), "{text}");

    let saved = scene.save(&scene.of_domain, ["each", "usual", "recipients", "40", "hold"]).await;
    let said = "at most 4 times the usual recipients in an hour or 40, beyond it hold";
    assert!(saved.text().contains(said), "{}", saved.text());
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    assert!(own.contains("4 times what is usual, or 40 recipients in an hour held acme.example"), "{own}");
    let outgate = Outgate::on(&scene.installation.owner);
    let window = ["--each", "--window", "usual", "--recipients", "--unlimited"];
    let set = outgate.succeeds(&[&["limit", "set", "acme", "--domain", "acme.example"][..], &window].concat()).await;
    assert!(set.starts_with("The limit is set: any number of recipients in an hour, however unusual."), "{set}");
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    assert!(own.contains("any number of recipients, however unusual in an hour nothing is acme.example"), "{own}");
}

#[sqlx::test]
async fn one_message_is_limited_twice_refused_beyond_one_bound_and_to_be_approved_beyond_another(db: PgPool) {
    let scene = scene(db).await;
    scene.execute("update organization set limits_act_from = now()").await;
    let each = section(&scene.page(&scene.of_all).await, "Each account");
    assert!(each.contains("500 recipients in one message refused (550) the platform"), "{each}");
    // What happens goes by the window, whatever is chosen beside it.
    let saved = scene.save(&scene.of_all, ["each", "approval", "recipients", "100", "alert"]).await;
    assert!(saved.text().contains("at most 100 recipients in one message without approval"), "{}", saved.text());
    scene.save(&scene.of_ann, ["each", "message", "external", "50", "delay"]).await;
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    assert!(own.contains("100 recipients in one message held for approval the organization"), "{own}");
    assert!(own.contains("50 external recipients in one message refused (550) here"), "{own}");

    let before = scene.revision().await;
    for [whose, window, unit] in [["total", "message", "recipients"], ["each", "approval", "messages"]] {
        let refused = scene.save(&scene.of_all, [whose, window, unit, "5", "hold"]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        let words = "For one message, limit the recipients or external recipients of each account.";
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    assert_eq!(scene.revision().await, before);
    let check = "check=1&whose=each&window=message&unit=recipients&most=5&action=refuse";
    let text = scene.text(&format!("{}?{check}", scene.of_all)).await;
    assert!(text.contains("To how many each message went is not counted, so this cannot be tried."), "{text}");

    let outgate = Outgate::on(&scene.installation.owner);
    let said = outgate.succeeds(&["limit", "set", "acme", "--each", "--window", "message", "--recipients", "80"]).await;
    assert!(said.starts_with("The limit is set: at most 80 recipients in one message, beyond it refuse."), "{said}");
}

#[sqlx::test]
async fn how_many_strangers_an_account_may_write_to_is_set_inherited_and_shown(db: PgPool) {
    let scene = scene(db).await;
    let saved = scene.save(&scene.of_all, ["each", "first-time", "external", "50", "hold"]).await;
    let said = "at most 50 external recipients never written to before in a day, beyond it hold";
    assert!(saved.text().contains(said), "{}", saved.text());
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    let row = "50 external recipients that it never wrote to before in a day held the organization";
    assert!(own.contains(row), "{own}");
    let outgate = Outgate::on(&scene.installation.owner);
    let window = ["--user", "ann@acme.example", "--window", "first-time", "--external"];
    let set = outgate.succeeds(&[&["limit", "set", "acme"][..], &window, &["70"]].concat()).await;
    let said = "The limit is set: at most 70 external recipients never written to before in a day, beyond it alert.";
    assert!(set.starts_with(said), "{set}");
    let set = outgate.succeeds(&[&["limit", "set", "acme"][..], &window, &["--unlimited"]].concat()).await;
    assert!(set.contains("any number of external recipients never written to before in a day"), "{set}");
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    assert!(
        own.contains("any number of external recipients that it never wrote to before in a day nothing is here"),
        "{own}"
    );

    let before = scene.revision().await;
    for [whose, unit, most, words] in [
        ["total", "external", "5", "limit the external recipients of each account"],
        ["each", "recipients", "5", "limit the external recipients of each account"],
        ["each", "external", "5000", "Enter a whole number from 1 to 4,999"],
    ] {
        let refused = scene.save(&scene.of_all, [whose, "first-time", unit, most, "alert"]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    assert_eq!(scene.revision().await, before);
}

#[sqlx::test]
async fn how_many_strangers_an_account_may_write_to_is_tried_with_whom_it_wrote_to_before(db: PgPool) {
    let scene = scene(db).await;
    scene.execute("update organization set correspondents_known_from = now() - make_interval(days => 60)").await;
    scene.execute("update mail_account set created_at = now() - make_interval(days => 90)").await;
    for (account, days, many) in [(scene.ann, 3, 40), (scene.ann, 5, 25), (scene.ben, 3, 20), (scene.ben, 40, 90)] {
        scene.wrote_to(&scene.acme, account, Duration::days(days), many).await;
    }
    let fields = "check=1&whose=each&window=first-time&unit=external&most=20&action=hold";
    let text = scene.text(&format!("{}?{fields}", scene.of_all)).await;
    let said = "In the last 30 days 1 account would have exceeded this limit, on 2 days: 25 recipients beyond it would have been held.";
    assert!(text.contains(said), "{text}");
    assert!(text.contains("ann@acme.example225"), "{text}");
    let text = scene.text(&format!("{}?{fields}", scene.of_ann)).await;
    assert!(text.contains("In the last 30 days the account would have exceeded this limit, on 2 days"), "{text}");
    // What is set for an account itself is not changed by it.
    scene.save(&scene.of_ann, ["each", "first-time", "external", "500", "alert"]).await;
    let text = scene.text(&format!("{}?{fields}", scene.of_all)).await;
    assert!(text.contains("In the last 30 days nobody sent more than this limit allows."), "{text}");
}

#[sqlx::test]
async fn the_account_s_page_says_to_how_many_strangers_it_has_written_and_no_other_organization_sees_it(db: PgPool) {
    let scene = scene(db).await;
    let other = scene.installation.organization("other").await;
    for (tenant, many) in [(&scene.acme, 3), (&other, 8)] {
        scene.wrote_to(tenant, scene.ann, Duration::HOUR, many).await;
    }
    let text = scene.text(&page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann))).await;
    let said = "For the first time 3 external recipients in the last 24 hours that it had not written to in 90 days";
    assert!(text.contains(said), "{text}");
}

#[sqlx::test]
async fn a_figure_of_the_platform_that_is_raised_for_an_account_says_why_wherever_it_is_shown(db: PgPool) {
    let scene = scene(db).await;
    scene.execute("update organization set limits_act_from = now()").await;
    for weeks in 1..=4 {
        scene.sent(scene.ann, Duration::weeks(weeks), (450, 450, 450)).await;
    }
    let why = "raised from 1,000: it usually sends up to 450 a day";
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    assert!(own.contains(&format!("1,800 recipients in a day held the platform {why}")), "{own}");
    let text = scene.text(&page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann))).await;
    assert!(text.contains(&format!("1,800 recipients in a day, beyond it held (the platform, {why})")), "{text}");
    let chart = format!("outbound-volume?account={}&unit=recipients&period=four-weeks", scene.ann);
    let text = scene.text(&page_of(&scene.acme, &chart)).await;
    let line = "1,800 recipients in a day, set by platform, raised: it usually sends up to 450 a day";
    assert!(text.contains(line), "{text}");
    let outgate = Outgate::on(&scene.installation.owner);
    let shown = outgate.succeeds(&["limit", "show", "acme", "--user", "ann@acme.example"]).await;
    let line = "at most 1,800 recipients in a day, beyond it hold, set by platform, raised from 1000: it usually sends up to 450";
    assert!(shown.contains(line), "{shown}");
    // Ben sends little, and nobody's figures change for the organization.
    for of in [&scene.of_all, &page_of(&scene.acme, &format!("mail-account-manager/{}/limits", scene.ben))] {
        let page = scene.page(of).await;
        assert!(page.text().contains("1,000 recipients in a day held the platform"), "{}", page.text());
        assert!(!page.text().contains("raised from"), "{}", page.text());
    }
}

#[sqlx::test]
async fn a_limit_is_tried_with_those_only_for_whom_it_would_hold(db: PgPool) {
    let scene = scene(db).await;
    let other = scene.installation.organization("other").await;
    let theirs = scene.installation.account(&other, "secret@other.example", &[]).await;
    scene.installation.sent(&other, scene.now, &[Subject::Account(theirs)], (4711, 4711, 4711)).await;
    scene.sent(scene.ann, Duration::DAY, (100, 100, 100)).await;
    scene.sent(scene.ben, Duration::DAY, (80, 80, 80)).await;
    let unknown = Subject::NoAccount(scene.acme.domain.parse().unwrap());
    scene.installation.sent(&scene.acme, scene.now, &[unknown], (90, 90, 90)).await;
    let each = format!("{}?check=1&whose=each&window=day&unit=messages&most=10&action=hold", scene.of_all);
    let service = format!("{}?check=1&whose=service&window=day&unit=messages&most=10&action=hold", scene.of_all);
    assert!(scene.text(&each).await.contains("2 accounts would have"), "{}", scene.text(&each).await);
    let text = scene.text(&service).await;
    assert!(text.contains("1 sender would have exceeded this limit, on 1 day: 80 messages"), "{text}");
    assert!(text.contains("senders of acme.example that no account has"), "{text}");

    // A service account, and one with a limit of the kind itself.
    scene.admin.submit(&format!("{}/service-account", scene.of_ann), &[("service", "1"), ("seen", "no")]).await;
    let text = scene.text(&each).await;
    assert!(
        text.contains("1 account would have exceeded this limit, on 1 day: 70 messages would have been held"),
        "{text}"
    );
    assert!(scene.text(&service).await.contains("2 senders would have"), "{}", scene.text(&service).await);
    let of_ben = page_of(&scene.acme, &format!("mail-account-manager/{}/limits", scene.ben));
    scene.save(&of_ben, ["each", "day", "messages", "5000", "hold"]).await;
    assert!(scene.text(&each).await.contains("nobody sent more than this limit allows"), "{}", scene.text(&each).await);
}

#[sqlx::test]
async fn a_mistaken_number_is_answered_beside_the_field_and_changes_nothing(db: PgPool) {
    let scene = scene(db).await;
    let before = scene.revision().await;
    for typed in ["", "0", "-1", "1.5", "many", "100000001"] {
        for path in [&scene.of_all, &scene.of_domain, &scene.of_ann] {
            let saved = scene.save(path, ["each", "day", "external", typed, "refuse"]).await;
            assert_eq!(saved.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed}");
            let text = saved.text();
            let mistake = "Enter a whole number from 1 to 100,000,000, or choose Unlimited.";
            assert_eq!(text.matches(mistake).count(), 2, "{text}");
            assert_eq!(saved.field("most"), typed, "what was typed is kept");
            assert!(saved.html.contains(r#"value="refuse" selected"#) && saved.html.contains("<title>Error: "));
        }
    }
    let checked =
        scene.admin.get(&format!("{}?check=1&whose=each&window=day&unit=messages&most=x", scene.of_all)).await;
    assert_eq!(checked.status, StatusCode::UNPROCESSABLE_ENTITY);
    for (path, whose, window) in
        [(&scene.of_ann, "total", "day"), (&scene.of_ann, "service", "day"), (&scene.of_all, "each", "week")]
    {
        let saved = scene.save(path, [whose, window, "messages", "5", "hold"]).await;
        assert_eq!(saved.status, StatusCode::BAD_REQUEST, "no form has that");
    }
    assert_eq!(scene.revision().await, before);
}

#[sqlx::test]
async fn what_was_changed_meanwhile_is_not_replaced_unseen(db: PgPool) {
    let scene = scene(db).await;
    let seen_before = seen(&scene.admin.get(&scene.of_all).await);
    scene.save(&scene.of_all, ["each", "hour", "messages", "100", "hold"]).await;
    let before = scene.revision().await;
    let fields = [("whose", "each"), ("window", "hour"), ("unit", "messages"), ("most", "900"), ("action", "delay")];
    let fields = [&fields[..], &[("seen", seen_before.as_str())]].concat();
    let late = scene.admin.submit(&scene.of_all, &fields).await;
    assert_eq!((late.status, scene.revision().await), (StatusCode::CONFLICT, before));
    let text = late.text();
    assert!(text.contains("The limits were changed meanwhile"), "{text}");
    assert!(text.contains("100 messages in an hour held here"), "{text}");
    assert_eq!(late.field("most"), "900");
    let seen_now = seen(&late);
    let again = [&fields[..5], &[("seen", seen_now.as_str())]].concat();
    let saved = scene.admin.submit(&scene.of_all, &again).await.text();
    assert!(saved.contains("900 messages in an hour delayed here"), "{saved}");
}

#[sqlx::test]
async fn a_service_account_has_the_figures_of_those_and_is_found(db: PgPool) {
    let scene = scene(db).await;
    scene.execute("update organization set limits_act_from = now()").await;
    let path = format!("{}/service-account", scene.of_ann);
    let saved = scene.admin.submit(&path, &[("service", "1"), ("seen", "no")]).await;
    assert!(saved.text().contains("Saved. ann@acme.example: service account."), "{}", saved.text());
    let own = section(&saved, "This account, a service account");
    assert!(own.contains("10,000 recipients in a day held the platform"), "{own}");
    assert!(!own.contains("500 external"), "{own}");
    let all = scene.text(&scene.of_all).await;
    assert!(all.contains("ann@acme.exampleservice account"), "{all}");
    // Who did not touch the box changes nothing.
    let untouched = scene.admin.submit(&path, &[("seen", "no")]).await.text();
    assert!(untouched.contains("Nothing changed.") && untouched.contains("Class Service account"), "{untouched}");
    let back = scene.admin.submit(&path, &[("seen", "yes")]).await.text();
    assert!(back.contains("Class Ordinary account"), "{back}");
}

#[sqlx::test]
async fn a_sender_is_exempt_until_the_end_of_a_day(db: PgPool) {
    let scene = scene(db).await;
    let path = format!("{}/exempt", scene.of_ann);
    let today = scene.now.date();
    let saved = scene.admin.submit(&path, &[("until", &today.to_string()), ("seen", "")]).await;
    let midnight = today.next_day().unwrap();
    let until = format!(
        "Until {} {} {}, 00:00 UTC no limit of its own holds",
        midnight.day(),
        midnight.month(),
        midnight.year()
    );
    assert!(saved.text().contains(&until), "{}", saved.text());
    assert_eq!(saved.field("until"), today.to_string());
    let account = scene.text(&page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann))).await;
    assert!(account.contains("until then none of these holds"), "{account}");
    let before = scene.revision().await;
    let day = |date: Date| date.to_string();
    for (typed, mistake) in [
        (day(today.previous_day().unwrap()), "Choose a day that is not over yet."),
        (day(today + Duration::days(400)), "Choose a day within a year. For longer, set limits of its own."),
        ("tomorrow".to_owned(), "Enter a day as year, month and day: 2027-01-31."),
        ("9999-12-31".to_owned(), "Choose a day within a year."),
    ] {
        let refused = scene.admin.submit(&path, &[("until", &typed), ("seen", &today.to_string())]).await;
        assert_eq!((refused.status, refused.field("until")), (StatusCode::UNPROCESSABLE_ENTITY, typed));
        assert_eq!(refused.text().matches(mistake).count(), 2, "{}", refused.text());
    }
    assert_eq!(scene.revision().await, before);
    let ended = scene.admin.submit(&path, &[("until", ""), ("seen", &today.to_string())]).await;
    assert!(ended.text().contains("Exempt No") && ended.field("until").is_empty(), "{}", ended.text());
}

#[sqlx::test]
async fn a_sender_is_blocked_after_a_question_and_the_page_leads_to_what_it_sent(db: PgPool) {
    let scene = scene(db).await;
    let page = scene.admin.get(&scene.of_ann).await;
    assert!(page.text().contains("Sending Allowed"), "{}", page.text());
    let question = scene.admin.get(&page.link("Block sender")).await;
    assert!(
        question.text().contains("Block this sender? New mail of ann@acme.example is refused"),
        "{}",
        question.text()
    );
    let path = format!("{}/block", scene.of_ann);
    let blocked = scene.admin.submit(&path, &[("blocked", "yes")]).await;
    let text = blocked.text();
    assert!(text.contains("Blocked. New mail of ann@acme.example is refused, and what waits is held"), "{text}");
    assert!(text.contains("Sending Blocked: its mail is refused"), "{text}");
    let trace = scene.admin.get(&blocked.link("a@acme.example")).await;
    assert!(trace.path.contains("message-trace?sender=a%40acme.example&from=20"), "{}", trace.path);
    assert_eq!((trace.status, trace.field("sender")), (StatusCode::OK, "a@acme.example".to_owned()));
    let account = scene.text(&page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann))).await;
    assert!(account.contains("Blocked: new mail is refused."), "{account}");
    assert!(scene.text(&scene.of_all).await.contains("ann@acme.exampleblocked"));
    assert!(scene.text("/acme/web-mail-cloud").await.contains("1 sender is blocked"));
    let twice = scene.admin.submit(&path, &[("blocked", "yes")]).await;
    assert!(twice.text().contains("Nothing changed."), "{}", twice.text());

    let again = scene.admin.submit(&path, &[("blocked", "no")]).await;
    assert!(again.text().contains("ann@acme.example may send again."), "{}", again.text());
    let log = scene.text("/acme/administration/audit-log").await;
    assert!(log.contains("blocked ann@acme.example") && log.contains("let send again ann@acme.example"), "{log}");
}

#[sqlx::test]
async fn each_role_changes_what_it_may_and_reads_the_rest(db: PgPool) {
    let scene = scene(db).await;
    for (role, may_all, may_ann) in [
        (Role::Administrator, true, true),
        (Role::UserAdministrator, false, true),
        (Role::AdminAssistant, false, false),
    ] {
        let browser = match role {
            Role::Administrator => &scene.admin,
            _ => &scene.pages.signed_in(&scene.installation, &scene.acme, role).await,
        };
        for (path, may) in [(&scene.of_all, may_all), (&scene.of_domain, may_all), (&scene.of_ann, may_ann)] {
            let page = browser.get(path).await;
            assert_eq!(page.status, StatusCode::OK, "{role} {path}");
            assert_eq!(page.html.contains(">Save</button>"), may, "{role} {path}");
            assert_eq!(page.html.contains("Set here"), may, "{role} {path}");
            let reason =
                if path == &scene.of_ann { "Your role reads only." } else { "Only an Administrator may limit" };
            assert_eq!(page.text().contains(reason), !may, "{role} {path}: {}", page.text());
        }
        assert_eq!(browser.get(&scene.of_ann).await.html.contains("Block sender"), may_ann, "{role}");
        assert!(
            !browser.get(&format!("{}?block=1", scene.of_ann)).await.html.contains(">Block sender</button>") || may_ann
        );
    }
}

#[sqlx::test]
async fn who_is_slowed_down_is_named_and_what_waits_is_sent_now(db: PgPool) {
    let scene = scene(db).await;
    let volume = page_of(&scene.acme, "outbound-volume");
    assert!(!scene.text(&volume).await.contains("Slowed down"));
    for _ in 0..3 {
        scene.installation.queued(&scene.acme, Queued { account: Some(scene.ann), ..Queued::default() }).await;
    }
    scene.execute("update queued_message set throttled_until = now() + interval '2 hours'").await;
    let subject = scene.ann;
    scene
        .execute(&format!(
            "insert into throttle (organization_id, kind, subject, time_window, unit, most, since, turn_at)
             select id, 'account', '{subject}', 'hour', 'external', 1500, now(), now() + interval '2 hours'
             from organization where slug = 'acme'"
        ))
        .await;
    scene
        .execute(
            "insert into throttle (organization_id, kind, subject, time_window, unit, most, since, turn_at)
             select id, 'organization', '', 'day', 'messages', 7, now(), now() + interval '1 hour'
             from organization where slug = 'acme'",
        )
        .await;
    let page = scene.admin.get(&volume).await;
    let text = page.text();
    let said = "ann@acme.example Limit 1,500 external recipients in an hour Since";
    assert!(text.contains(said) && text.contains("Waiting 3 messages The last leaves"), "{text}");
    assert!(text.contains("All of the organization together Limit 7 messages in a day"), "{text}");
    assert_eq!(page.html.matches("Send waiting mail now").count(), 2, "{}", page.html);
    assert_eq!(page.link("ann@acme.example"), scene.of_ann);
    let queue = scene.admin.get(&page.link("3 messages")).await;
    assert_eq!(queue.field("sender"), "ann@acme.example");
    let of_ben = scene.text(&format!("{volume}?account={}", scene.ben)).await;
    assert!(!of_ben.contains("Slowed down"), "{of_ben}");
    assert!(scene.text("/acme/web-mail-cloud").await.contains("2 senders are slowed down"));

    let path = format!("{}/let-go", scene.of_ann);
    let let_go = scene.admin.submit(&path, &[]).await;
    let text = let_go.text();
    assert!(text.contains("Sent now. ann@acme.example: 3 messages waited for a limit. They leave at once."), "{text}");
    assert!(!text.contains("1,500 external"), "{text}");
    let due: i64 = sqlx::query_scalar(
        "select count(*) from queued_message where throttled_until is null and next_attempt_at <= now()",
    )
    .fetch_one(&scene.installation.owner)
    .await
    .unwrap();
    assert_eq!(due, 3);
    let before = scene.revision().await;
    let twice = scene.admin.submit(&path, &[]).await.text();
    assert!(twice.contains("Nothing of this sender waits for a limit any more."), "{twice}");
    assert_eq!(scene.revision().await, before);
}

#[sqlx::test]
async fn the_account_s_page_says_what_is_usual_for_it(db: PgPool) {
    let scene = scene(db).await;
    let page = page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann));
    assert!(scene.text(&page).await.contains("On a usual day not known yet"));
    for (days, messages) in [(1, 10), (2, 12), (3, 900)] {
        scene.sent(scene.ann, Duration::days(days), (messages, messages, 0)).await;
    }
    let text = scene.text(&page).await;
    assert!(text.contains("On a usual day 12 messages, 12 recipients, 0 external recipients"), "{text}");
}

#[sqlx::test]
async fn the_command_sets_what_the_page_shows_and_shows_what_the_page_sets(db: PgPool) {
    let scene = scene(db).await;
    scene.execute("update organization set limits_act_from = now()").await;
    let outgate = Outgate::on(&scene.installation.owner);
    let set = async |words: &[&str]| outgate.succeeds(&[&["limit", "set", "acme"][..], words].concat()).await;

    let said = set(&["--each", "--window", "hour", "--recipients", "1500", "--action", "refuse"]).await;
    assert!(
        said.starts_with("The limit is set: at most 1,500 recipients in an hour, beyond it refuse. Revision"),
        "{said}"
    );
    let each = section(&scene.page(&scene.of_all).await, "Each account");
    assert!(each.contains("1,500 recipients in an hour refused (550) here"), "{each}");
    set(&["--service", "--window", "day", "--messages", "9"]).await;
    set(&["--domain", "acme.example", "--total", "--window", "day", "--external", "800", "--action", "alert"]).await;
    set(&["--user", "ann@acme.example", "--window", "minute", "--recipients", "--unlimited"]).await;
    let again =
        set(&["--user", "ann@acme.example", "--each", "--window", "minute", "--recipients", "--unlimited"]).await;
    assert_eq!(again, "Nothing changed: it was so already.\n");

    let all = outgate.succeeds(&["limit", "show", "acme"]).await;
    let expected = "Each account:\n  at most 60 recipients in a minute, beyond it delay, set by platform\n  \
                    at most 1,500 recipients in an hour, beyond it refuse, set by organization\n  \
                    at most 500 external recipients in an hour, beyond it delay, set by platform\n  \
                    at most 4 times the usual recipients in an hour or 250, beyond it delay, set by platform\n  \
                    at most 1,000 recipients in a day, beyond it hold, set by platform\n  \
                    at most 200 external recipients never written to before in a day, beyond it alert, set by platform\n  \
                    at most 500 recipients in one message, beyond it refuse, set by platform\nEach service account:\n  \
                    at most 200 recipients in a minute, beyond it delay, set by platform\n  \
                    at most 4 times the usual recipients in an hour or 1,000, beyond it delay, set by platform\n  \
                    at most 9 messages in a day, beyond it hold, set by organization\n  \
                    at most 10,000 recipients in a day, beyond it hold, set by platform\n\
                    All of the organization together:\n  \
                    at most 2 times the usual recipients in an hour or 1,000, beyond it alert, set by platform\n  \
                    at most 10,320 external recipients in a day, beyond it hold, set by platform\n";
    assert_eq!(all, expected);
    let of_ann = outgate.succeeds(&["limit", "show", "acme", "--user", "a@acme.example"]).await;
    let expected =
        "The account:\n  any number of recipients in a minute, set by user\n  at most 1,500 recipients in an hour";
    assert!(of_ann.starts_with(expected), "{of_ann}");
    let total =
        "All of acme.example together:\n  at most 800 external recipients in a day, beyond it alert, set by domain";
    assert!(of_ann.contains(total), "{of_ann}");
    scene.execute("update organization set limits_act_from = now() + interval '3 days'").await;
    let new = outgate.succeeds(&["limit", "show", "acme", "--domain", "acme.example"]).await;
    assert!(new.starts_with("Until ") && new.contains("the platform's limits only alert"), "{new}");
    assert!(new.contains("at most 60 recipients in a minute, beyond it alert, set by platform"), "{new}");

    let deleted = outgate
        .succeeds(&["limit", "delete", "acme", "--user", "ann@acme.example", "--window", "minute", "--recipients"])
        .await;
    assert!(deleted.starts_with("The limit is deleted. Revision"), "{deleted}");
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    assert!(own.contains("60 recipients in a minute"), "{own}");
}

#[sqlx::test]
async fn a_limit_and_a_block_are_taken_back_from_the_status_line_and_from_the_log(db: PgPool) {
    let scene = scene(db).await;
    let saved = scene.save(&scene.of_ann, ["each", "hour", "recipients", "1,500", "refuse"]).await;
    assert!(saved.html.contains("<button>Undo</button>"), "{}", saved.text());
    let undo = saved.html.split(r#"action="/acme/web-mail-cloud/undo/"#).nth(1).unwrap().split('"').next().unwrap();
    let entry = scene.admin.get(&format!("/acme/administration/audit-log/{undo}")).await.text();
    let words = "Limits ann@acme.example";
    assert!(
        entry.contains(words) && entry.contains("at most 1,500 recipients in an hour, beyond it refuse"),
        "{entry}"
    );
    let undo = page_of(&scene.acme, &format!("undo/{undo}"));

    // Who reads only is not offered it, and does not get it.
    let assistant = scene.pages.signed_in(&scene.installation, &scene.acme, Role::AdminAssistant).await;
    assert_eq!(assistant.submit(&undo, &[]).await.status, StatusCode::FORBIDDEN);
    let own = scene.pages.signed_in(&scene.installation, &scene.acme, Role::UserAdministrator).await;
    let back = own.submit(&undo, &[]).await;
    let words = "Taken back. ann@acme.example: what a wider scope says holds again.";
    assert!(back.text().contains(words) && back.path.starts_with(&scene.of_ann), "{} {}", back.path, back.text());
    let table = section(&back, "This account");
    assert!(!table.contains("1,500"), "{table}");

    let of_all = scene.save(&scene.of_all, ["each", "hour", "recipients", "700", "refuse"]).await;
    let undo = of_all.html.split(r#"action="/acme/web-mail-cloud/undo/"#).nth(1).unwrap().split('"').next().unwrap();
    let undo = page_of(&scene.acme, &format!("undo/{undo}"));
    assert_eq!(own.submit(&undo, &[]).await.status, StatusCode::FORBIDDEN, "the organization's is an Administrator's");
    scene.save(&scene.of_all, ["each", "hour", "recipients", "800", "refuse"]).await;
    let late = scene.admin.submit(&undo, &[]).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert!(late.text().contains("all users") && late.text().contains("changed since"), "{}", late.text());

    let block = scene.admin.submit(&format!("{}/block", scene.of_ann), &[("blocked", "yes")]).await;
    assert!(block.text().contains("Blocked."), "{}", block.text());
    let undo = block.html.split(r#"action="/acme/web-mail-cloud/undo/"#).nth(1).unwrap().split('"').next().unwrap();
    let back = scene.admin.submit(&page_of(&scene.acme, &format!("undo/{undo}")), &[]).await;
    assert!(back.text().contains("Taken back. ann@acme.example: ordinary account."), "{}", back.text());
    assert!(back.text().contains("Sending Allowed"), "{}", back.text());
}

#[sqlx::test]
async fn the_operator_s_own_figures_hold_where_nobody_has_set_another_and_pages_say_whose_they_are(db: PgPool) {
    let scene = scene(db).await;
    let following = Following::start(&scene.installation, "one").await;
    let outgate = Outgate::on(&scene.installation.owner);
    let set = async |words: &[&str]| outgate.succeeds(&[&["limit", "set", "--platform"][..], words].concat()).await;
    let said = set(&["--each", "--window", "hour", "--external", "90", "--action", "refuse"]).await;
    assert!(said.starts_with("The platform's limit is set: at most 90 external recipients in an hour"), "{said}");
    set(&["--each", "--window", "minute", "--recipients", "--unlimited"]).await;
    set(&["--each", "--window", "day", "--messages", "70"]).await;
    set(&["--total", "--window", "day", "--external", "12345"]).await;
    let again = set(&["--total", "--window", "day", "--external", "12345"]).await;
    assert_eq!(again, "Nothing changed: it was so already.\n");

    let each = section(&scene.page(&scene.of_all).await, "Each account");
    assert!(each.contains("90 external recipients in an hour an alert only, later refused (550)"), "{each}");
    scene.execute("update organization set limits_act_from = now()").await;
    let page = scene.page(&scene.of_all).await;
    let each = section(&page, "Each account");
    for row in [
        "any number of recipients in a minute nothing is the platform's operator",
        "90 external recipients in an hour refused (550) the platform's operator",
        "70 messages in a day held the platform's operator",
        "1,000 recipients in a day held the platform",
    ] {
        assert!(each.contains(row), "{row}: {each}");
    }
    let total = section(&page, "All of the organization together");
    assert!(total.contains("12,345 external recipients in a day held the platform's operator"), "{total}");
    let account = scene.text(&page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann))).await;
    let words = "90 external recipients in an hour, beyond it refused (550) (the platform's operator)";
    assert!(account.contains(words), "{account}");
    scene.save(&scene.of_ann, ["each", "hour", "external", "80", "delay"]).await;
    let own = section(&scene.page(&scene.of_ann).await, "This account");
    assert!(own.contains("80 external recipients in an hour delayed here"), "{own}");

    let shown = outgate.succeeds(&["limit", "show", "--platform"]).await;
    assert!(
        shown.starts_with("Each account:\n  any number of recipients in a minute, set by the operator\n"),
        "{shown}"
    );
    assert!(shown.contains("  at most 1,000 recipients in a day, beyond it hold, built in\n"), "{shown}");
    assert!(!shown.contains("500 external"), "{shown}");
    let of_acme = outgate.succeeds(&["limit", "show", "acme"]).await;
    let words =
        "at most 90 external recipients in an hour, beyond it refuse, set by the operator for every organization";
    assert!(of_acme.contains(words), "{of_acme}");

    // Relays hear of it without a start, and of its end; an organization that is made later knows it, too.
    following.until_live(&scene.installation).await;
    let known = |organization| following.table.limits(organization).unwrap().platform.len();
    assert_eq!(known(scene.acme.id), 4);
    let birch = scene.installation.organization("birch").await;
    following.until_live(&scene.installation).await;
    assert_eq!(known(birch.id), 4);
    let deleted = ["limit", "delete", "--platform", "--each", "--window", "day", "--messages"];
    let said = outgate.succeeds(&deleted).await;
    assert!(said.starts_with("The platform's limit is deleted: what is built in holds. Revision"), "{said}");
    following.until_live(&scene.installation).await;
    assert_eq!((known(scene.acme.id), known(birch.id)), (3, 3));
    following.stop.cancel();
}
