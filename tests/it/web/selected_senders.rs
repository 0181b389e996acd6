//! What an administrator wants of senders that were ticked in Outbound Volume, and what that page says of those who are
//! slowed down, held or were noticed. What relays make of it is `relay::sending_limits`'.

use outgate::{mail::id::AccountId, policy::Role};
use reqwest::StatusCode;
use sqlx::{PgPool, Postgres, postgres::PgArguments, query::Query};

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Queued, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    ann: AccountId,
    ben: AccountId,
    volume: String,
    selected: String,
}

/// Ann and ben are slowed down by limits of their own, and all of the organization by another: three messages of ann's,
/// one of ben's and two of others wait.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let ben = installation.account(&acme, "ben@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let (volume, selected) = (page_of(&acme, "outbound-volume"), page_of(&acme, "outbound-volume/selected"));
    let scene = Scene { installation, acme, pages, admin, ann, ben, volume, selected };
    for account in [Some(ann), Some(ann), Some(ann), Some(ben), None, None] {
        scene.installation.queued(&scene.acme, Queued { account, ..Queued::default() }).await;
    }
    scene.execute(sqlx::query("update queued_message set throttled_until = now() + interval '2 hours'")).await;
    for (kind, subject) in [("account", ann.to_string()), ("account", ben.to_string()), ("organization", String::new())]
    {
        let throttle = sqlx::query(
            "insert into throttle (organization_id, kind, subject, time_window, unit, most, since, turn_at)
             values ($1, $2, $3, 'hour', 'external', 1500, now(), now() + interval '2 hours')",
        );
        scene.execute(throttle.bind(scene.acme.id).bind(kind).bind(subject)).await;
    }
    scene
}

impl Scene {
    async fn execute(&self, statement: Query<'static, Postgres, PgArguments>) {
        statement.execute(&self.installation.owner).await.unwrap();
    }

    async fn count(&self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(&self.installation.owner).await.unwrap()
    }

    async fn waiting(&self) -> i64 {
        self.count("select count(*) from queued_message where throttled_until is not null").await
    }

    fn tick(&self, account: AccountId) -> String {
        format!("account:{account}")
    }

    async fn ask(&self, browser: &Browser, action: &str, ticks: &[String], confirmed: bool) -> Page {
        let mut fields = vec![("action", action)];
        fields.extend(ticks.iter().map(|tick| ("selected", tick.as_str())));
        fields.extend(confirmed.then_some(("confirmed", "1")));
        browser.submit(&self.selected, &fields).await
    }
}

#[sqlx::test]
async fn what_waits_of_several_is_sent_after_a_question_with_the_number(db: PgPool) {
    let scene = scene(db).await;
    let both = [scene.tick(scene.ann), scene.tick(scene.ben)];
    let question = scene.ask(&scene.admin, "let-go", &both, false).await;
    assert_eq!(question.status, StatusCode::OK);
    assert!(question.text().contains("Send 4 messages of 2 senders now"), "{}", question.text());
    assert!(question.text().contains("ann@acme.example 3 messages wait"), "{}", question.text());
    assert_eq!(scene.waiting().await, 6, "nothing is done yet");

    let done = scene.ask(&scene.admin, "let-go", &both, true).await;
    let said = "Sent now. ann@acme.example, ben@acme.example: 4 messages waited for a limit. They leave at once.";
    assert!(done.text().contains(said), "{}", done.text());
    assert_eq!((scene.waiting().await, scene.count("select count(*) from throttle").await), (2, 1));
    let again = scene.ask(&scene.admin, "let-go", &both, true).await;
    assert!(again.text().contains("Nothing of what was ticked waits for a limit any more."), "{}", again.text());
    assert_eq!(scene.count("select count(*) from audit_entry where action = 'limit.let-go'").await, 1);
}

#[sqlx::test]
async fn what_waits_for_the_organizations_own_limit_is_sent_and_not_what_waits_for_a_senders(db: PgPool) {
    let scene = scene(db).await;
    let page = scene.admin.get(&scene.volume).await;
    assert!(page.text().contains("All of the organization together Limit 1,500 external"), "{}", page.text());
    let all = ["organization:".to_owned()];
    let question = scene.ask(&scene.admin, "let-go", &all, false).await;
    assert!(question.text().contains("Send 2 messages of 1 sender now"), "{}", question.text());
    let done = scene.ask(&scene.admin, "let-go", &all, true).await;
    assert!(done.text().contains("all users: 2 messages waited for a limit"), "{}", done.text());
    assert_eq!(scene.waiting().await, 4);
    assert_eq!(scene.count("select count(*) from throttle where kind = 'organization'").await, 0);
}

#[sqlx::test]
async fn who_is_kept_slowed_down_is_so_with_a_name_and_a_time_and_without_a_question(db: PgPool) {
    let scene = scene(db).await;
    let page = scene.admin.get(&scene.volume).await;
    assert_eq!(page.html.matches(">Keep throttling</button>").count(), 3, "{}", page.html);
    let kept = scene.ask(&scene.admin, "keep", &[scene.tick(scene.ann)], false).await;
    let said =
        "Kept. ann@acme.example: what is beyond the limit goes on leaving at its pace. You are not told of it again";
    assert!(kept.text().contains(said), "{}", kept.text());
    assert!(kept.text().contains("Kept so by administrator@acme.example, "), "{}", kept.text());
    assert_eq!(kept.html.matches(">Keep throttling</button>").count(), 2, "{}", kept.html);
    assert_eq!(
        (scene.waiting().await, scene.count("select count(*) from throttle where kept_by is not null").await),
        (6, 1)
    );
    let again = scene.ask(&scene.admin, "keep", &[scene.tick(scene.ann)], false).await;
    assert!(again.text().contains("Nothing changed."), "{}", again.text());
    let log = scene.admin.get("/acme/administration/audit-log").await;
    assert!(log.text().contains("kept slowed down ann@acme.example"), "{}", log.text());
}

#[sqlx::test]
async fn several_are_blocked_as_one_change_that_has_an_undo(db: PgPool) {
    let scene = scene(db).await;
    let ticks = [scene.tick(scene.ann), scene.tick(scene.ben), "organization:".to_owned()];
    let question = scene.ask(&scene.admin, "block", &ticks, false).await;
    assert!(question.text().contains("Block 2 senders"), "{}", question.text());
    assert!(question.text().contains("1 other that was ticked is left as it is"), "{}", question.text());
    let blocked = scene.ask(&scene.admin, "block", &ticks, true).await;
    let said = "Blocked. New mail of ann@acme.example, ben@acme.example is refused";
    assert!(blocked.text().contains(said), "{}", blocked.text());
    assert_eq!(scene.count("select count(*) from sender_control where blocked").await, 2);
    assert_eq!(scene.count("select count(*) from audit_entry where action = 'sender.block'").await, 1);
    let again = scene.ask(&scene.admin, "block", &ticks, true).await;
    assert!(again.text().contains("Nothing changed."), "{}", again.text());

    let undo = blocked.html.split(r#"action="/acme/web-mail-cloud/undo/"#).nth(1).unwrap().split('"').next().unwrap();
    let undone = scene.admin.submit(&page_of(&scene.acme, &format!("undo/{undo}")), &[]).await;
    assert!(undone.status.is_success(), "{}", undone.text());
    assert_eq!(scene.count("select count(*) from sender_control where blocked").await, 0);
}

#[sqlx::test]
async fn who_is_held_for_a_limit_and_who_was_noticed_is_named_with_the_reason(db: PgPool) {
    let scene = scene(db).await;
    let text = scene.admin.get(&scene.volume).await.text();
    assert!(!text.contains("Held for a limit") && !text.contains("Noticed"), "{text}");
    let why = "held until an administrator releases it: 1,412 recipients in a day, at most 1,000 are allowed";
    for _ in 0..2 {
        let held =
            Queued { account: Some(scene.ann), state: "held", held_because: Some("over-limit"), ..Queued::default() };
        scene.installation.queued(&scene.acme, Queued { last_reply: Some(why), ..held }).await;
    }
    let elsewhere = Queued { state: "held", held_because: Some("gateway-taken-away"), ..Queued::default() };
    scene.installation.queued(&scene.acme, elsewhere).await;
    let notice = sqlx::query(
        "insert into limit_notice (organization_id, kind, subject, level, noticed_at, said_at, counted, happens)
         values ($1, 'account', $2, 'stopped', now(), now(), '412 recipients since 14:00 UTC, usually at most 60',
                 'Nothing new is accepted.')",
    );
    scene.execute(notice.bind(scene.acme.id).bind(scene.ann.to_string())).await;
    let old = sqlx::query(
        "insert into limit_notice (organization_id, kind, subject, level, noticed_at, said_at, counted)
         values ($1, 'organization', '', 'near', now(), now() - interval '25 hours', 'of yesterday')",
    );
    scene.execute(old.bind(scene.acme.id)).await;

    let page = scene.admin.get(&scene.volume).await;
    let text = page.text();
    let held = "Held for a limit This mail leaves only when it is released. It returns to its sender seven days after it \
                came. ann@acme.example Why 1,412 recipients in a day, at most 1,000 are allowed Since";
    assert!(text.contains(held) && text.contains("Held 2 messages"), "{text}");
    assert!(text.contains("ann@acme.example Stopped 412 recipients since 14:00 UTC, usually at most 60."), "{text}");
    assert!(text.contains("Nothing new is accepted.") && !text.contains("of yesterday"), "{text}");
    let queue = scene.admin.get(&page.link("Release or return …")).await;
    assert_eq!((queue.field("sender"), queue.rows().len()), ("ann@acme.example".to_owned(), 3), "{:?}", queue.rows());
    let of_ben = scene.admin.get(&format!("{}?account={}", scene.volume, scene.ben)).await.text();
    assert!(!of_ben.contains("Held for a limit") && !of_ben.contains("Noticed"), "{of_ben}");
}

#[sqlx::test]
async fn each_role_decides_about_what_it_may_and_nobody_about_another_organizations(db: PgPool) {
    let scene = scene(db).await;
    let other = scene.installation.organization("other").await;
    let theirs = scene.installation.account(&other, "secret@other.example", &[]).await;
    for action in ["let-go", "keep", "block"] {
        let page = scene.ask(&scene.admin, action, &[scene.tick(theirs)], true).await;
        assert!(page.status.is_client_error(), "{action}: {}", page.status);
        assert!(!page.text().contains("secret"), "{}", page.text());
    }
    let user_administrator = scene.pages.signed_in(&scene.installation, &scene.acme, Role::UserAdministrator).await;
    let assistant = scene.pages.signed_in(&scene.installation, &scene.acme, Role::AdminAssistant).await;
    let ann = [scene.tick(scene.ann)];
    for (browser, ticks, may) in [
        (&user_administrator, &ann[..], true),
        (&user_administrator, &["organization:".to_owned()][..], false),
        (&user_administrator, &["domain:acme.example".to_owned()][..], false),
        (&assistant, &ann[..], false),
    ] {
        let page = scene.ask(browser, "keep", ticks, false).await;
        assert_eq!(page.status == StatusCode::FORBIDDEN, !may, "{ticks:?}: {}", page.text());
    }
    let page = assistant.get(&scene.volume).await;
    assert!(page.text().contains("Slowed down") && !page.html.contains(r#"name="selected""#), "{}", page.html);
    let page = user_administrator.get(&scene.volume).await;
    assert!(!page.html.contains(r#"value="organization:""#), "{}", page.html);

    for ticks in [vec![], vec!["account:x".to_owned()], vec!["nobody".to_owned()]] {
        let page = scene.ask(&scene.admin, "let-go", &ticks, true).await;
        assert!(page.status.is_client_error(), "{ticks:?}: {}", page.status);
    }
    let nothing = scene.ask(&scene.admin, "let-go", &[], false).await;
    assert!(nothing.text().contains("Tick senders in the lists first."), "{}", nothing.text());
    assert_eq!(scene.waiting().await, 6);
}
