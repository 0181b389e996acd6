//! Audit Log: who changed what and when.
//! The page of the same name in `src/web`.

use outgate::{
    mail::id::{AccountId, QueueId},
    policy::Role,
    store::{
        self,
        gateway::PointerScope,
        message_trace::{Event, Step},
    },
};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{message_trace::write_down, page_of};
use crate::support::{
    Browser, Gateway, Installation, Page, Pages, SmtpClient, Tenant,
    gateway::{At, HAPPENS_WITHIN},
    world::{World, until_live},
};

const LOG: &str = "/acme/administration/audit-log";

struct Scene {
    installation: Installation,
    acme: Tenant,
    ann: AccountId,
    admin: Browser,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let other = installation.organization("other").await;
    installation.set_gateway(&other, &PointerScope::Organization, "canary.other.example").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    admin.submit("/acme/web-mail-cloud/outbound-mail-gateway", &[("outbound_gateway", "a.example.com")]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com:587").await;
    Scene { installation, acme, ann, admin }
}

/// The entries on the page, each as its text.
fn entries(page: &Page) -> Vec<String> {
    page.html
        .split(r#"<p class="deed">"#)
        .skip(1)
        .map(|entry| {
            let entry = entry.split_once("</li>").unwrap().0;
            let text: String =
                entry.split('<').map(|piece| piece.split_once('>').map_or(piece, |(_, text)| text)).collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[sqlx::test]
async fn every_change_stands_in_the_log_the_newest_first_with_who_and_what(db: PgPool) {
    let Scene { admin, .. } = scene(db).await;
    assert_eq!(admin.get("/acme/administration").await.link("Audit Log"), LOG);

    let page = admin.get(LOG).await;

    let shown = entries(&page);
    let begins = [
        "operator set the gateway of ann@acme.example – became→ own.example.com:587 ",
        "administrator@acme.example set the gateway of all users – became→ a.example.com ",
        "operator added the administrator administrator@acme.example – became→ administrator ",
        "operator added the account ann@acme.example – became→ ann ",
        "operator created the organization acme – became→ acme ",
    ];
    assert_eq!(shown.len(), begins.len(), "{shown:#?}");
    for (entry, begin) in shown.iter().zip(begins) {
        assert!(entry.starts_with(begin), "{entry} does not begin with {begin}");
        assert!(entry.contains(" UTC, revision "), "{entry}");
    }
    assert!(!page.html.contains("canary"), "nothing of others");
}

#[sqlx::test]
async fn the_log_is_filtered_by_who_what_whose_and_when(db: PgPool) {
    let Scene { installation, acme, ann, admin } = scene(db).await;
    installation.account(&acme, "anna@acme.example", &[]).await;
    let count = async |query: &str| entries(&admin.get(&format!("{LOG}?{query}")).await).len();
    assert_eq!(count("who=administrator%40acme.example").await, 1);
    assert_eq!(count("who=operator").await, 5);
    assert_eq!(count("what=gateway.set").await, 2);
    assert_eq!(count("subject=ann").await, 3, "what begins so");
    assert_eq!(count("subject=ann%40acme.example").await, 2, "one account");
    assert_eq!(count("subject=ann%40acme.example&what=account.add").await, 1);
    assert_eq!(count("subject=nobody%25_").await, 0);
    assert_eq!(count("from=2999-01-01").await, 0);
    assert_eq!(count("to=2999-01-01&from=2000-01-01").await, 6);
    assert_eq!(count("from=nonsense&before=nonsense&subject=%00").await, 6);

    // A former name leads nowhere else, and what was done under it is still the account's.
    sqlx::query("update mail_account set user_id = 'new@acme.example' where id = $1")
        .bind(ann.0)
        .execute(&installation.owner)
        .await
        .unwrap();
    sqlx::query("insert into mail_address (organization_id, address, account_id) values ($1, 'new@acme.example', $2)")
        .bind(acme.id.0)
        .bind(ann.0)
        .execute(&installation.owner)
        .await
        .unwrap();
    assert_eq!(count("subject=new%40acme.example").await, 2);
}

#[sqlx::test]
async fn a_long_log_has_pages_that_keep_the_filter(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    for index in 0..120 {
        installation.set_gateway(&acme, &PointerScope::Organization, &format!("gw{index}.example.com")).await;
    }
    let first = admin.get(&format!("{LOG}?what=gateway.set")).await;
    assert_eq!(entries(&first).len(), 50);
    let second = admin.get(&first.link("Older")).await;
    let third = admin.get(&second.link("Older")).await;
    assert_eq!((entries(&second).len(), entries(&third).len()), (50, 22));
    let mut all: Vec<String> = [first, second, third].iter().flat_map(entries).collect();
    all.dedup();
    assert_eq!(all.len(), 122);
    let newest = admin.get(&format!("{LOG}?before=5")).await.link("Newest");
    assert_eq!(newest, LOG);
}

#[sqlx::test]
async fn the_log_is_a_file_too_with_its_filter_and_without_formulas(db: PgPool) {
    let Scene { installation, admin, .. } = scene(db).await;
    sqlx::query("update audit_entry set before = '=1+1,\"x\"' where action = 'gateway.set'")
        .execute(&installation.owner)
        .await
        .unwrap();
    let link = admin.get(&format!("{LOG}?what=gateway.set")).await.link("Download CSV");
    let file = admin.get(&link).await;
    assert_eq!(file.headers["content-type"], "text/csv; charset=utf-8");
    assert_eq!(file.headers["content-disposition"], "attachment; filename=\"audit-log-acme.csv\"");
    let lines: Vec<&str> = file.html.lines().collect();
    assert_eq!(lines[0], "when,revision,who,what,subject,before,after,taken_back_by");
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[1].ends_with(",operator,gateway.set,ann@acme.example,\"'=1+1,\"\"x\"\"\",own.example.com:587,"),
        "{}",
        lines[1]
    );
}

#[sqlx::test]
async fn a_long_file_is_whole(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    sqlx::query(
        "with entry as (
             insert into audit_entry (organization_id, change_id, actor, action, subject)
             select $1, gen_random_uuid(), 'operator', 'gateway.set', 'all users' from generate_series(1, 2500)
             returning change_id
         )
         insert into change (organization_id, id, revision)
         select $1, change_id, 1000 + row_number() over () from entry",
    )
    .bind(acme.id.0)
    .execute(&installation.owner)
    .await
    .unwrap();
    let file = admin.get(&format!("{LOG}.csv")).await;
    assert_eq!(file.html.lines().count(), 1 + 5 + 2500);
}

#[sqlx::test]
async fn an_entry_shows_what_it_touched_field_by_field_and_is_taken_back_there(db: PgPool) {
    let Scene { admin, .. } = scene(db).await;
    let list = admin.get(LOG).await;
    let entry = admin.get(&list.link("operator set the gateway of ann@acme.example")).await;
    let text = entry.text();
    for words in [
        "operator set the gateway of ann@acme.example.",
        "Gateway own.example.com:587 added",
        "Account ann@acme.example changed Outbound Gateway – became→ own.example.com:587",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(entry.link("ann@acme.example"), format!("{LOG}?subject=ann%40acme.example"));
    let undo = entry.html.split_once("><p class=\"buttons\"><button>Undo").unwrap().0;
    let undo = undo.rsplit_once("action=\"").unwrap().1.trim_end_matches('"');
    admin.submit(undo, &[]).await;
    let list = admin.get(LOG).await;
    assert!(entries(&list)[0].starts_with("administrator@acme.example took back a change of ann@acme.example"));
    assert!(entries(&list)[1].contains("taken back by administrator@acme.example"), "{:?}", entries(&list)[1]);
    assert!(admin.get(&entry.path).await.text().contains("administrator@acme.example has taken it back."));
}

#[sqlx::test]
async fn a_change_of_where_mail_goes_says_how_mail_has_gone_since(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let world = World::start(&installation).await;
    let (old, new) = (Gateway::start().await, Gateway::start().await);
    installation.set_gateway(&acme, &PointerScope::Organization, &old.address.to_string()).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    world.send("ann@acme.example", "before").await;
    old.received(1).await;

    installation.set_gateway(&acme, &PointerScope::Organization, &new.address.to_string()).await;
    let revision = store::change::current_revision(&installation.owner).await.unwrap();
    until_live(&installation, revision).await;
    let entry = admin.get(LOG).await;
    let entry = entry.html.split(r#"<p class="deed">"#).nth(1).unwrap();
    let entry =
        entry.split(r#"href=""#).find(|link| link.starts_with(LOG) && link[LOG.len()..].starts_with('/')).unwrap();
    let entry = entry.split('"').next().unwrap().to_owned();
    let text = admin.get(&entry).await.text();
    assert!(text.contains("How mail has gone since then By the new way 0 messages"), "{text}");

    for subject in ["one", "two"] {
        world.send("ann@acme.example", subject).await;
    }
    new.says(At::Rcpt, "550 5.1.1 nobody");
    let mut smtp = SmtpClient::greeted(world.submission).await;
    let refused = smtp.submit("ann@acme.example", "bob@elsewhere.example", "Subject: three\r\n\r\nHello.\r\n").await;
    assert!(refused.starts_with("550 "), "{refused}");
    let says = "By the new way 2 messages Still by the old way 0 messages Refused or returned 1 message";
    let said = async {
        while !admin.get(&entry).await.text().contains(says) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(HAPPENS_WITHIN, said).await.expect("it counts them within seconds");
    world.stop().await;
}

#[sqlx::test]
async fn a_change_of_many_accounts_says_how_the_mail_of_these_has_gone_since(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let mut accounts = Vec::new();
    for user in ["ann", "bob", "cy"] {
        accounts.push(installation.account(&acme, &format!("{user}@acme.example"), &[]).await);
    }
    installation.set_gateway(&acme, &PointerScope::Account(accounts[0]), "old.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let ids: Vec<String> = accounts[..2].iter().map(ToString::to_string).collect();
    let mut fields: Vec<(&str, &str)> = ids.iter().map(|id| ("selected", id.as_str())).collect();
    let list = page_of(&acme, "mail-account-manager/selected");
    fields.extend([("action", "set"), ("confirmed", "2"), ("outbound_gateway", "new.example.com")]);
    let saved = admin.submit(&list, &fields).await;
    let (_, change) = saved.path.split_once("change=").expect("a change");
    let old = installation.gateway_of(&acme, "old.example.com").await;
    let new = installation.gateway_of(&acme, "new.example.com").await;
    let entry = format!("{LOG}/{change}");
    let says = async |words: &str| {
        let text = admin.get(&entry).await.text();
        assert!(text.contains(words), "{words} in {text}");
    };
    says("By the new way 0 messages Still by the old way 0 messages").await;

    let now = OffsetDateTime::now_utc();
    let line = |step, account, gateway| Event {
        sender: "ann@acme.example".into(),
        account: Some(account),
        gateway,
        ..Event::new(step, QueueId::new(), now)
    };
    let lines = [
        line(Step::HandedOver, accounts[0], Some(new)),
        line(Step::HandedOver, accounts[0], Some(new)),
        line(Step::Delivered, accounts[1], Some(new)),
        // Each has a former way of its own: bob had none.
        line(Step::HandedOver, accounts[0], Some(old)),
        line(Step::HandedOver, accounts[1], None),
        line(Step::Refused, accounts[1], Some(new)),
        // Somebody else's.
        line(Step::HandedOver, accounts[2], None),
    ];
    write_down(&installation, acme.id, &lines).await;
    says("By the new way 3 messages Still by the old way 2 messages").await;
    says("Refused or returned 1 message").await;
}
