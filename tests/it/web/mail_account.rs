//! The page of one account.
//! The page of the same name in `src/web`.

use outgate::{mail::id::AccountId, policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    ann: AccountId,
    admin: Browser,
    list: String,
    page: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "mail-account-manager");
    let page = format!("{list}/{ann}");
    Scene { installation, acme, pages, ann, admin, list, page }
}

async fn revision(installation: &Installation) -> i64 {
    sqlx::query_scalar("select revision from installation").fetch_one(&installation.owner).await.unwrap()
}

/// `before` and `after` of the last change's items.
async fn last_items(installation: &Installation) -> Vec<String> {
    sqlx::query_scalar(
        "select concat(item.before, ' -> ', item.after) from change_item item join change on change.id = item.change_id
         where change.revision = (select revision from installation) order by item.position",
    )
    .fetch_all(&installation.owner)
    .await
    .unwrap()
}

#[sqlx::test]
async fn the_page_says_what_the_account_is_and_which_gateway_applies_and_why(db: PgPool) {
    let Scene { installation, acme, admin, page, list, .. } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let shown = admin.get(&format!("{page}?q=ann")).await;
    let text = shown.text();
    for words in [
        "User ID ann@acme.example Name ann Further addresses a@acme.example Status Active",
        "User none Domain acme.example none Organization archive.example.com port 25 applies now",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(shown.link("Outbound Gateway"), format!("{page}/outbound-gateway?q=ann"));
    let back = shown.link("Back to the list");
    assert!(back.starts_with(&format!("{list}?q=ann&selected=")), "{back}");
    assert!(admin.get(&back).await.html.contains("class=\"marked\""));
}

#[sqlx::test]
async fn a_name_is_saved_and_the_page_says_so(db: PgPool) {
    let Scene { installation, admin, page, .. } = scene(db).await;
    let saved = admin.submit(&format!("{page}/name?q=a"), &[("name", " Ann Lee "), ("seen", "ann")]).await;
    assert!(saved.path.starts_with(&format!("{page}?q=a&change=")), "{}", saved.path);
    assert!(saved.text().contains("Saved. The name of ann@acme.example is now Ann Lee."), "{}", saved.text());
    assert_eq!(last_items(&installation).await, [r#"{"name": "ann"} -> {"name": "Ann Lee"}"#]);

    let before = revision(&installation).await;
    let again = admin.submit(&format!("{page}/name"), &[("name", "Ann Lee"), ("seen", "ann")]).await;
    assert!(again.text().contains("Nothing changed."), "sent twice, it is done once: {}", again.text());
    for typed in ["x".repeat(256), "a\u{7}b".to_owned()] {
        let refused = admin.submit(&format!("{page}/name"), &[("name", &typed), ("seen", "Ann Lee")]).await;
        assert_eq!((refused.status, refused.field("name")), (StatusCode::UNPROCESSABLE_ENTITY, typed));
        assert!(refused.text().contains("There is a problem") && refused.html.contains("<title>Error: "));
    }
    assert_eq!(revision(&installation).await, before);
}

#[sqlx::test]
async fn a_renamed_account_keeps_its_old_address_its_gateway_and_its_page(db: PgPool) {
    let Scene { installation, acme, admin, ann, page, .. } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;
    let form = format!("{page}/user-id");
    let saved = admin.submit(&form, &[("user_id", "Ann.Lee@ACME.example"), ("seen", "ann@acme.example")]).await;
    let text = saved.text();
    for words in [
        "Saved. ann@acme.example is now ann.lee@acme.example. The old address stays as a further address.",
        "Further addresses a@acme.example ann@acme.example",
        "User own.example.com port 25 applies now",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(saved.path.starts_with(&page), "{}", saved.path);
    let [item] = &last_items(&installation).await[..] else { panic!() };
    for part in [
        r#""addresses": ["a@acme.example", "ann@acme.example"]"#,
        r#""addresses": ["a@acme.example", "ann.lee@acme.example", "ann@acme.example"]"#,
        r#""user_id": "ann.lee@acme.example""#,
    ] {
        assert!(item.contains(part), "{part} in {item}");
    }
    // To one of its own further addresses: which addresses it has does not change.
    admin.submit(&form, &[("user_id", "a@acme.example"), ("seen", "ann.lee@acme.example")]).await;
    let expected = r#"{"user_id": "ann.lee@acme.example"} -> {"user_id": "a@acme.example"}"#;
    assert_eq!(last_items(&installation).await, [expected]);
}

#[sqlx::test]
async fn an_address_that_cannot_be_given_is_answered_beside_the_field_and_changes_nothing(db: PgPool) {
    let Scene { installation, admin, page, .. } = scene(db).await;
    let other = installation.organization("other").await;
    installation.account(&other, "taken@other.example", &[]).await;
    let before = revision(&installation).await;
    let foreign = "other.example is not a mail domain of your organization.";
    for (form, field, typed, mistake) in [
        ("user-id", "user_id", "", "Enter a mail address"),
        ("user-id", "user_id", "ann", "“ann” is not a mail address"),
        ("user-id", "user_id", "bob@acme.example", "bob@acme.example belongs to bob@acme.example already."),
        ("user-id", "user_id", "taken@other.example", foreign),
        ("user-id", "user_id", "free@other.example", foreign),
        ("user-id", "user_id", "free@nowhere.example", "nowhere.example is not a mail domain of your organization."),
        ("addresses", "addresses", "x@acme.example\nBOB@acme.example", "bob@acme.example belongs to bob@acme.example"),
        ("addresses", "addresses", "x@acme.example, taken@other.example", foreign),
        ("addresses", "addresses", "x y@acme.example", "“x” is not a mail address"),
    ] {
        let seen = if field == "user_id" { "ann@acme.example" } else { "a@acme.example" };
        let refused = admin.submit(&format!("{page}/{form}"), &[(field, typed), ("seen", seen)]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed}");
        let text = refused.text();
        assert_eq!(text.matches(mistake).count(), 2, "at the top and beside the field: {mistake} in {text}");
        let typed = typed.lines().next().unwrap_or_default().to_owned();
        assert!(refused.html.contains(&typed), "what was typed is kept: {typed}");
    }
    assert_eq!(revision(&installation).await, before);
}

#[sqlx::test]
async fn further_addresses_are_given_and_taken_one_a_line(db: PgPool) {
    let Scene { installation, admin, page, .. } = scene(db).await;
    let typed = "ann.lee@acme.example\r\n\"o d d\"@acme.example\r\nANN@acme.example\r\n";
    let saved = admin.submit(&format!("{page}/addresses"), &[("addresses", typed), ("seen", "a@acme.example")]).await;
    assert!(saved.text().contains("Saved. The further addresses of ann@acme.example are changed."), "{}", saved.text());
    assert_eq!(
        last_items(&installation).await,
        [concat!(
            r#"{"addresses": ["a@acme.example", "ann@acme.example"]} -> "#,
            r#"{"addresses": ["\"o d d\"@acme.example", "ann.lee@acme.example", "ann@acme.example"]}"#
        )]
    );
    let seen = "\"o d d\"@acme.example ann.lee@acme.example";
    let saved = admin.submit(&format!("{page}/addresses"), &[("addresses", ""), ("seen", seen)]).await;
    assert!(saved.text().contains("Saved. ann@acme.example has no further addresses any more."), "{}", saved.text());
}

#[sqlx::test]
async fn an_account_is_suspended_and_made_active_again(db: PgPool) {
    let Scene { admin, page, .. } = scene(db).await;
    let saved = admin.submit(&format!("{page}/status"), &[("status", "suspended")]).await;
    assert!(saved.text().contains("Saved. ann@acme.example is suspended: its mail is refused."), "{}", saved.text());
    assert!(saved.html.contains(">Activate</button>"));
    let route = "None while the account is suspended. Otherwise: User none Domain acme.example none Organization none \
                 Platform directly to recipients' servers would apply";
    assert!(saved.text().contains(route), "{}", saved.text());
    let again = admin.submit(&format!("{page}/status"), &[("status", "suspended")]).await;
    assert!(again.text().contains("Nothing changed."), "{}", again.text());
    let saved = admin.submit(&format!("{page}/status"), &[("status", "active")]).await;
    assert!(saved.text().contains("Saved. ann@acme.example is active: it may send mail."), "{}", saved.text());
}

#[sqlx::test]
async fn deleting_an_account_asks_first_and_leads_back_to_the_list(db: PgPool) {
    let Scene { installation, admin, list, page, .. } = scene(db).await;
    let question = admin.get(&format!("{page}?q=acme")).await.link("Delete");
    let asked = admin.get(&question).await;
    assert!(asked.text().contains("Delete this account?"), "{}", asked.text());
    assert!(asked.text().contains("is deleted with its 2 addresses"), "{}", asked.text());
    let form = format!("{page}/delete?q=acme&delete=1");
    let deleted = admin.submit(&form, &[("seen", "ann@acme.example")]).await;
    assert!(deleted.path.starts_with(&format!("{list}?q=acme&change=")), "{}", deleted.path);
    let text = deleted.text();
    assert!(
        text.contains("Saved. ann@acme.example is deleted. Mail from its addresses follows their domain."),
        "{text}"
    );
    assert_eq!(deleted.rows().len(), 1);
    assert_eq!(
        last_items(&installation).await,
        [concat!(
            r#"{"name": "ann", "status": "active", "user_id": "ann@acme.example", "#,
            r#""addresses": ["a@acme.example", "ann@acme.example"], "external_id": null, "outbound_gateway": null} -> "#
        )]
    );
    let (subject, before): (String, String) =
        sqlx::query_as("select subject, before from audit_entry where action = 'account.delete'")
            .fetch_one(&installation.owner)
            .await
            .unwrap();
    assert_eq!((subject.as_str(), before.as_str()), ("ann@acme.example", "ann, a@acme.example, active"));
    assert_eq!(admin.get(&page).await.status, StatusCode::NOT_FOUND);
    let again = admin.submit(&form, &[("seen", "ann@acme.example")]).await;
    assert!(again.text().contains("ann@acme.example is deleted."), "sent twice, it is one deletion: {}", again.text());
}

#[sqlx::test]
async fn two_who_change_the_same_thing_see_each_others_value_before_one_replaces_it(db: PgPool) {
    let Scene { installation, admin, page, .. } = scene(db).await;
    admin.submit(&format!("{page}/name"), &[("name", "Theirs <b>"), ("seen", "ann")]).await;
    let rename = [("user_id", "theirs@acme.example"), ("seen", "ann@acme.example")];
    admin.submit(&format!("{page}/user-id"), &rename).await;
    admin
        .submit(
            &format!("{page}/addresses"),
            &[("addresses", "theirs2@acme.example"), ("seen", "a@acme.example ann@acme.example")],
        )
        .await;
    let before = revision(&installation).await;
    for (form, field, seen, theirs) in [
        ("name", "name", "ann", "Theirs <b>"),
        ("user-id", "user_id", "ann@acme.example", "theirs@acme.example"),
        ("addresses", "addresses", "a@acme.example", "theirs2@acme.example"),
    ] {
        let conflict = admin.submit(&format!("{page}/{form}"), &[(field, "mine@acme.example"), ("seen", seen)]).await;
        assert_eq!(conflict.status, StatusCode::CONFLICT, "{form}");
        let text = conflict.text();
        assert!(text.contains(&format!("Saved now: {theirs}")), "{theirs} in {text}");
        assert!(text.contains("Save again to replace theirs by yours."), "{text}");
        assert!(conflict.html.contains("mine@acme.example"), "what was typed stands in the field");
    }
    assert_eq!(revision(&installation).await, before, "nothing is overwritten unseen");
    // The form of the conflict carries what it showed.
    let mine = [("name", "Mine"), ("seen", "Theirs <b>")];
    assert!(admin.submit(&format!("{page}/name"), &mine).await.text().contains("is now Mine."));
    let conflict = admin.submit(&format!("{page}/delete"), &[("seen", "ann@acme.example")]).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    assert!(conflict.text().contains("The account's User ID is theirs@acme.example now."), "{}", conflict.text());
}

#[sqlx::test]
async fn who_may_only_read_sees_everything_and_changes_nothing(db: PgPool) {
    let Scene { installation, acme, pages, page, .. } = scene(db).await;
    let assistant = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let before = revision(&installation).await;
    for path in [page.clone(), format!("{page}?delete=1")] {
        let shown = assistant.get(&path).await;
        assert!(shown.text().contains("a@acme.example") && shown.text().contains("Your role reads only."));
        let main = shown.html.split_once("<main").unwrap().1;
        assert!(!main.contains("<form") && !main.contains(">Delete<"), "{main}");
    }
    for (form, fields) in [
        ("name", vec![("name", "x"), ("seen", "ann")]),
        ("user-id", vec![("user_id", "x@acme.example"), ("seen", "ann@acme.example")]),
        ("addresses", vec![("addresses", ""), ("seen", "a@acme.example")]),
        ("status", vec![("status", "suspended")]),
        ("delete", vec![("seen", "ann@acme.example")]),
    ] {
        assert_eq!(assistant.submit(&format!("{page}/{form}"), &fields).await.status, StatusCode::FORBIDDEN, "{form}");
    }
    assert_eq!(revision(&installation).await, before);
}

#[sqlx::test]
async fn a_form_whose_session_ended_leads_back_to_the_account(db: PgPool) {
    let Scene { admin, page, .. } = scene(db).await;
    for form in ["name", "user-id", "addresses", "status", "delete"] {
        let shown = admin.get(&format!("{page}/{form}?q=ann")).await;
        assert_eq!((shown.status, shown.path), (StatusCode::OK, format!("{page}?q=ann")));
    }
}
