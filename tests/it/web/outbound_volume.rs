//! Outbound Volume: how much is sent, when and by whom, in three units and two periods.
//! That relays count right is `relay::volume`'s.

use outgate::{
    mail::id::AccountId,
    policy::{
        Role,
        volume::{Subject, hour_of},
    },
};
use reqwest::StatusCode;
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant, outgate::Outgate};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    ann: AccountId,
    ben: AccountId,
    page: String,
    now: OffsetDateTime,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let ben = installation.account(&acme, "ben@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, "outbound-volume");
    Scene { installation, acme, pages, admin, ann, ben, page, now: OffsetDateTime::now_utc() }
}

impl Scene {
    /// Of ann, so long ago.
    async fn ann_sent(&self, ago: Duration, count: (i64, i64, i64)) {
        let subjects = [Subject::Account(self.ann), self.domain()];
        self.installation.sent(&self.acme, self.now - ago, &subjects, count).await;
    }

    async fn ben_sent(&self, ago: Duration, count: (i64, i64, i64)) {
        let subjects = [Subject::Account(self.ben), self.domain()];
        self.installation.sent(&self.acme, self.now - ago, &subjects, count).await;
    }

    fn domain(&self) -> Subject {
        Subject::Domain(self.acme.domain.parse().unwrap())
    }

    /// What was sent today already lies behind it.
    fn yesterday(&self) -> Duration {
        self.now - self.now.replace_time(time::Time::MIDNIGHT) + Duration::HOUR
    }

    async fn text(&self, query: &str) -> String {
        let page = self.admin.get(&format!("{}{query}", self.page)).await;
        assert_eq!(page.status, StatusCode::OK);
        page.text()
    }
}

#[sqlx::test]
async fn where_nothing_was_sent_the_page_says_so(db: PgPool) {
    let scene = scene(db).await;
    let text = scene.text("").await;
    assert!(text.contains("No mail was accepted today Show the last four weeks"), "{text}");
    let page = scene.admin.get(&scene.page).await;
    let four_weeks = scene.admin.get(&page.link("Show the last four weeks")).await;
    assert!(four_weeks.text().contains("No mail was accepted in the last four weeks"), "{}", four_weeks.text());
    assert!(!four_weeks.html.contains(r#"role="img""#));
    assert!(four_weeks.rows().is_empty());

    let console = scene.admin.get("/acme/web-mail-cloud").await;
    assert!(console.text().contains("Outbound Volume 0 messages today"), "{}", console.text());
    let of_ann = scene.text(&format!("?account={}", scene.ann)).await;
    assert!(of_ann.contains("Of ann@acme.example") && of_ann.contains("No mail was accepted today"), "{of_ann}");
}

#[sqlx::test]
async fn the_chart_shows_what_is_usual_and_which_limits_hold(db: PgPool) {
    let scene = scene(db).await;
    scene.ann_sent(Duration::ZERO, (1, 400, 400)).await;
    let external = format!("{}?account={}&unit=external", scene.page, scene.ann);
    let page = scene.admin.get(&external).await;
    assert!(page.text().contains("What is usual is shown here once mail was sent for two weeks."), "{}", page.text());
    assert!(page.text().contains("Limit: 500 external recipients in an hour, set by platform"), "{}", page.text());
    assert_eq!((page.html.matches("chart-limit").count(), page.html.matches("chart-usual").count()), (2, 0));

    for (weeks, recipients) in [(1, 200), (2, 9000), (3, 120), (4, 100)] {
        scene.ann_sent(Duration::weeks(weeks), (1, recipients, recipients)).await;
    }
    let page = scene.admin.get(&external).await;
    assert!(page.text().contains("Usual at most, by the four weeks before"), "{}", page.text());
    let now = format!("{:02}:001400400200", hour_of(scene.now).hour());
    assert!(page.rows().contains(&now), "the second highest is usual: {:?}", page.rows());
    // The scale reaches to the limit of 500: 600, and 200 of that are a third.
    assert!(page.html.contains("V667H") || page.html.contains(" 667H"), "{}", page.html);
    let whole = scene.admin.get(&format!("{}?unit=external&period=four-weeks", scene.page)).await;
    assert!(whole.text().contains("Limit: 10,320 external recipients in a day, set by platform"), "{}", whole.text());
    assert!(!whole.text().contains("in an hour"), "{}", whole.text());
    let ben = scene.admin.get(&format!("{}?account={}", scene.page, scene.ben)).await;
    assert!(!ben.html.contains("chart-usual"), "nothing of ann's: {}", ben.html);
}

#[sqlx::test]
async fn the_day_is_shown_by_hour_and_four_weeks_by_day_in_every_unit(db: PgPool) {
    let scene = scene(db).await;
    scene.ann_sent(Duration::ZERO, (1200, 1300, 900)).await;
    scene.ben_sent(Duration::ZERO, (34, 34, 34)).await;
    scene.ann_sent(scene.yesterday(), (10, 100, 2000)).await;
    scene.ann_sent(scene.yesterday() + Duration::days(27), (5, 5, 5)).await;

    let today = scene.admin.get(&scene.page).await;
    assert!(today.text().contains("1,234 messages, 1,334 recipients, 934 external recipients"), "{}", today.text());
    let hour = hour_of(scene.now);
    let rows = today.rows();
    assert_eq!(rows.len(), usize::from(hour.hour()) + 1, "the hours so far: {rows:?}");
    // Of this hour nothing is usual: what came four weeks ago came at another.
    assert_eq!(*rows.last().unwrap(), format!("{:02}:001,2341,3349340", hour.hour()));
    let bar = format!("<title>{:02}:00 UTC: 1,234 messages</title>", hour.hour());
    assert!(today.html.contains(&bar), "{}", today.html);
    assert_eq!(today.html.matches("<rect ").count(), 1);
    let label = format!(r#"aria-label="Chart: messages by hour. Most: 1,234 messages, {:02}:00 UTC."#, hour.hour());
    assert!(today.html.contains(&label), "{}", today.html);
    assert!(!today.html.contains("style="), "the policy forbids it");

    let weeks = scene.admin.get(&format!("{}?period=four-weeks&unit=external", scene.page)).await;
    let text = weeks.text();
    assert!(text.contains("1,244 messages, 1,434 recipients, 2,934 external recipients"), "{text}");
    assert!(text.contains("External recipients by day, "), "{text}");
    let rows = weeks.rows();
    assert_eq!(rows.len(), 28);
    assert!(rows[27].ends_with("1,2341,3349340"), "{rows:?}");
    assert!(rows[26].ends_with("101002,0000"), "{rows:?}");
    assert!(weeks.html.contains(": 2,000 external recipients</title>"), "{}", weeks.html);
    assert_eq!(weeks.html.matches("<rect ").count(), 2);
    // A unit or a period that is none is the first one.
    let odd = scene.admin.get(&format!("{}?period=%00&unit=bytes", scene.page)).await;
    assert_eq!(odd.text(), today.text());

    let console = scene.admin.get("/acme/web-mail-cloud").await;
    assert!(console.text().contains("Outbound Volume 1,234 messages today"), "{}", console.text());
}

#[sqlx::test]
async fn who_sent_most_comes_first_in_the_chosen_unit_and_leads_to_the_account(db: PgPool) {
    let scene = scene(db).await;
    scene.ann_sent(Duration::ZERO, (2, 50, 0)).await;
    scene.ben_sent(Duration::ZERO, (7, 7, 7)).await;
    let unknown: outgate::mail::DomainName = "bücher.example".parse().unwrap();
    let subjects = [Subject::NoAccount(unknown.clone()), Subject::Domain(unknown)];
    scene.installation.sent(&scene.acme, scene.now, &subjects, (3, 3, 3)).await;
    let gone = AccountId::new();
    scene.installation.sent(&scene.acme, scene.now, &[Subject::Account(gone)], (4, 4, 1)).await;

    let text = scene.text("").await;
    let senders = format!(
        "ben@acme.example7 {gone} account that was deleted4 bücher.example senders that no account has3 ann@acme.example2"
    );
    assert!(text.contains(&senders), "{text}");
    assert!(text.contains("acme.example9 bücher.example no longer your organization's3"), "{text}");
    let text = scene.text("?unit=recipients").await;
    assert!(text.contains("SenderRecipients ann@acme.example50 ben@acme.example7"), "{text}");
    assert!(text.contains("acme.example57"), "{text}");
    // Who has none of the unit is not there.
    let page = scene.admin.get(&format!("{}?unit=external", scene.page)).await;
    assert!(!page.text().contains("ann@acme.example"), "{}", page.text());

    let account = scene.admin.get(&page.link("ben@acme.example")).await;
    assert!(account.path.ends_with(&format!("/mail-account-manager/{}", scene.ben)), "{}", account.path);
    let domain = scene.admin.get(&page.link("acme.example")).await;
    assert!(domain.text().contains("Of acme.example"), "{}", domain.text());
    assert!(domain.text().contains("9 messages, 57 recipients, 7 external recipients"), "{}", domain.text());
    assert_eq!(scene.admin.get(&domain.link("Show the whole organization")).await.text(), page.text());
}

#[sqlx::test]
async fn no_more_than_twenty_senders_are_shown(db: PgPool) {
    let scene = scene(db).await;
    let accounts: Vec<Subject> = (0..25).map(|_| Subject::Account(AccountId::new())).collect();
    scene.installation.sent(&scene.acme, scene.now, &accounts, (1, 1, 1)).await;
    assert_eq!(scene.text("").await.matches("account that was deleted").count(), 20);
}

#[sqlx::test]
async fn the_account_s_page_says_its_volume_and_leads_to_its_chart(db: PgPool) {
    let scene = scene(db).await;
    scene.ann_sent(Duration::ZERO, (1, 2, 1)).await;
    scene.ann_sent(scene.yesterday(), (1000, 1000, 1000)).await;
    scene.ben_sent(Duration::ZERO, (5, 5, 5)).await;

    let account = scene.admin.get(&page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann))).await;
    let said = "Today (UTC) 1 message, 2 recipients, 1 external recipient \
                On a usual day 1,000 messages, 1,000 recipients, 1,000 external recipients \
                Last four weeks 1,001 messages, 1,002 recipients, 1,001 external recipients";
    assert!(account.text().contains(said), "{}", account.text());
    // The first is that of the navigation.
    let link = format!("{}?account={}", scene.page, scene.ann);
    assert!(account.html.contains(&format!(r#"href="{link}""#)), "{}", account.html);
    let chart = scene.admin.get(&link).await;
    assert!(chart.text().contains("Of ann@acme.example"), "{}", chart.text());
    assert!(chart.text().contains("1 message, 2 recipients, 1 external recipient"), "{}", chart.text());
    assert!(!chart.text().contains("ben@acme.example"), "{}", chart.text());
    // The form keeps the account.
    assert_eq!(chart.field("account"), scene.ann.to_string());
    let weeks = scene.admin.get(&format!("{link}&period=four-weeks&unit=messages")).await;
    assert!(weeks.text().contains("1,001 messages, 1,002 recipients"), "{}", weeks.text());
}

#[sqlx::test]
async fn the_account_s_page_shows_its_day_by_hour_against_its_usual_and_its_limits(db: PgPool) {
    let scene = scene(db).await;
    let path = page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann));
    assert!(!scene.admin.get(&path).await.html.contains(r#"role="img""#), "it sent nothing of late");
    scene.ann_sent(Duration::ZERO, (2, 300, 300)).await;
    let page = scene.admin.get(&path).await;
    assert!(page.text().contains("What is usual is shown here once mail was sent for two weeks."), "{}", page.text());
    for (weeks, recipients) in [(1, 90), (2, 9000), (3, 80), (4, 70)] {
        scene.ann_sent(Duration::weeks(weeks), (1, recipients, recipients)).await;
    }
    scene.ben_sent(Duration::ZERO, (7, 7000, 7000)).await;
    let page = scene.admin.get(&path).await;
    for words in [
        "Today by hour, in recipients",
        "Usual at most, by the four weeks before",
        "Limit: 4 times the usual, or 250 recipients, in an hour, set by platform",
    ] {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert!(!page.text().contains("7,000"), "nothing of ben's: {}", page.text());
    let now = format!("{:02}:00230030090", hour_of(scene.now).hour());
    assert!(page.rows().contains(&now), "{:?}", page.rows());
    // Usual, what is beyond it, and their two signs in the key; the limit that hour is four times 90.
    assert_eq!((page.html.matches("chart-usual").count(), page.html.matches("chart-limit").count()), (2, 2));
    assert!(page.html.contains("V100H") || page.html.contains(" 100H"), "360 of 400: {}", page.html);
    assert!(page.html.contains("at the end how many recipients are usual at most"), "{}", page.html);
}

#[sqlx::test]
async fn what_an_account_sent_is_its_own_again_when_its_deletion_is_taken_back(db: PgPool) {
    let scene = scene(db).await;
    scene.ann_sent(Duration::ZERO, (3, 3, 3)).await;
    let page = page_of(&scene.acme, &format!("mail-account-manager/{}", scene.ann));
    let deleted = scene.admin.submit(&format!("{page}/delete"), &[("seen", "ann@acme.example")]).await;
    assert!(deleted.text().contains("is deleted"), "{}", deleted.text());
    let text = scene.text("").await;
    assert!(text.contains("3 messages") && text.contains("account that was deleted3"), "{text}");
    assert!(!text.contains("ann@acme.example"), "{text}");
    let gone = scene.admin.get(&format!("{}?account={}", scene.page, scene.ann)).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);

    let change: Uuid = sqlx::query_scalar("select id from change order by revision desc limit 1")
        .fetch_one(&scene.installation.owner)
        .await
        .unwrap();
    scene.admin.submit(&page_of(&scene.acme, &format!("undo/{change}")), &[]).await;
    assert!(scene.text("").await.contains("ann@acme.example3"));
}

#[sqlx::test]
async fn another_organization_sees_nothing_of_it_and_every_role_reads(db: PgPool) {
    let scene = scene(db).await;
    let other = scene.installation.organization("other").await;
    let theirs = scene.installation.account(&other, "secret@other.example", &[]).await;
    let domain = Subject::Domain(other.domain.parse().unwrap());
    scene.installation.sent(&other, scene.now, &[Subject::Account(theirs), domain], (4711, 4711, 4711)).await;
    scene.ann_sent(Duration::ZERO, (1, 1, 1)).await;

    for query in ["", "?period=four-weeks", "?unit=recipients"] {
        let text = scene.text(query).await;
        assert!(!text.contains("4,711") && !text.contains("secret"), "{text}");
    }
    for query in [
        format!("?account={theirs}"),
        "?domain=other.example".to_owned(),
        "?account=x".to_owned(),
        "?domain=%00".to_owned(),
    ] {
        let page = scene.admin.get(&format!("{}{query}", scene.page)).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{query}");
    }
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = scene.pages.signed_in(&scene.installation, &scene.acme, role).await;
        assert!(browser.get(&scene.page).await.text().contains("1 message, 1 recipient, 1 external recipient"));
    }
    let them = scene.pages.signed_in(&scene.installation, &other, Role::AdminAssistant).await;
    let text = them.get(&page_of(&other, "outbound-volume")).await.text();
    assert!(text.contains("4,711 messages") && !text.contains("ann@"), "{text}");
}

#[sqlx::test]
async fn the_command_prints_the_same_figures(db: PgPool) {
    let scene = scene(db).await;
    scene.ann_sent(Duration::ZERO, (1200, 1300, 900)).await;
    scene.ben_sent(scene.yesterday(), (34, 34, 34)).await;
    let outgate = Outgate::on(&scene.installation.owner);

    let all = outgate.succeeds(&["volume", "show", "acme"]).await;
    let expected = format!(
        "Today: 1,200 messages, 1,300 recipients, 900 external recipients\n  {:02}:00 UTC  1,200 messages, 1,300 recipients, \
         900 external recipients\nLast four weeks: 1,234 messages, 1,334 recipients, 934 external recipients\n",
        scene.now.hour()
    );
    assert!(all.starts_with(&expected), "{all}");
    let yesterday = (scene.now - scene.yesterday()).date();
    assert!(all.contains(&format!("  {yesterday}  34 messages, 34 recipients, 34 external recipients\n")), "{all}");
    let of_ben = outgate.succeeds(&["volume", "show", "acme", "--user", "ben@acme.example"]).await;
    assert!(of_ben.starts_with("Today: 0 messages, 0 recipients, 0 external recipients\nLast four weeks: 34 messages"));
    let of_domain = outgate.succeeds(&["volume", "show", "acme", "--domain", "acme.example"]).await;
    assert_eq!(of_domain, all);
    for (whose, sentence) in [
        (["--user", "eve@acme.example"], "acme has no account eve@acme.example"),
        (["--domain", "other.example"], "acme has no mail domain other.example"),
    ] {
        let ended = outgate.run(&[&["volume", "show", "acme"][..], &whose].concat()).await;
        assert_ne!(ended.status, Some(0));
        assert!(ended.error.contains(sentence), "{}", ended.error);
    }
}
