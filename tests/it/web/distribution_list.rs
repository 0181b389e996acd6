//! Distribution List: made, edited, filled from a file, large or not, deleted; and an address is an account's or a
//! list's. The pages `distribution_lists` and `distribution_list` in `src/web`.

use outgate::{
    mail::id::{RelayId, Revision},
    policy::Role,
    store::distribution_list::Terms,
};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant};

/// What a form of a list sends, beside what it was shown with.
pub const FIELDS: [(&str, &str); 7] = [
    ("name", "All of us"),
    ("members", "ann@acme.example, zoe@far.example"),
    ("may_send", "inside"),
    ("senders", ""),
    ("approval", "nobody"),
    ("expands", "yes"),
    ("enabled", "yes"),
];

/// The terms of a list with these members.
pub fn of(members: &[&str]) -> Terms {
    let members = members.iter().map(|address| address.parse().unwrap()).collect();
    Terms { name: "a list".to_owned(), expands: true, members, ..Terms::default() }
}

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &["lee@acme.example"]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    Scene { installation, acme, pages, admin }
}

/// Fills a form that was shown, its hidden field included, and sends it.
async fn send(browser: &Browser, path: &str, hidden: (&str, &str), typed: &[(&str, &str)]) -> Page {
    let mut fields: Vec<(&str, &str)> =
        FIELDS.into_iter().filter(|(name, _)| !typed.iter().any(|(typed, _)| typed == name)).collect();
    fields.push(hidden);
    fields.extend(typed.iter().filter(|(_, value)| *value != "off"));
    browser.submit(path, &fields).await
}

async fn make(admin: &Browser, acme: &Tenant, typed: &[(&str, &str)]) -> Page {
    let form = page_of(acme, "distribution-list/new");
    let change = admin.get(&form).await.field("change");
    send(admin, &form, ("change", &change), typed).await
}

/// The path of a page without its query.
fn plain(page: &Page) -> String {
    page.path.split('?').next().unwrap().to_owned()
}

async fn revision(installation: &Installation) -> i64 {
    sqlx::query_scalar("select revision from installation").fetch_one(&installation.owner).await.unwrap()
}

#[sqlx::test]
async fn a_list_is_made_stands_in_the_table_is_edited_and_deleted(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let table = page_of(&acme, "distribution-list");
    let empty = admin.get(&table).await;
    assert!(empty.text().contains("No distribution lists yet"), "{}", empty.text());
    assert_eq!(empty.link("Add Distribution List"), page_of(&acme, "distribution-list/new"));

    let made = make(&admin, &acme, &[("address", "All@acme.example"), ("name", "All <of> us")]).await;
    assert!(made.text().contains("Created. The relay knows all@acme.example now."), "{}", made.text());
    assert!(made.text().contains("all@acme.example: 2 recipients. Anyone inside may send to it."), "{}", made.text());
    let rows = admin.get(&table).await.rows();
    assert_eq!(rows, ["All <of> us all@acme.example 2 members anyone inside enabled"]);
    let cloud = admin.get("/acme/web-mail-cloud").await;
    assert!(cloud.text().contains("Distribution List 1 list, each with its own senders"), "{}", cloud.text());

    let here = plain(&made);
    let typed = [
        ("members", "zoe@far.example\r\nZOE@far.example; ann@acme.example,\r\n bob@far.example"),
        ("may_send", "named"),
        ("senders", "Lee@acme.example"),
        ("enabled", "off"),
    ];
    let saved = send(&admin, &here, ("seen", &made.field("seen")), &typed).await;
    assert!(saved.text().contains("Saved. Mail to all@acme.example goes by what stands here."), "{}", saved.text());
    assert!(saved.text().contains("3 recipients. Disabled: mail to it is refused."), "{}", saved.text());
    assert!(saved.html.contains("zoe@far.example\nann@acme.example\nbob@far.example</textarea>"), "{}", saved.html);
    let entry: (String, String, String) = sqlx::query_as(
        "select action, before, after from audit_entry join change on change.id = change_id order by revision desc limit 1",
    )
    .fetch_one(&installation.owner)
    .await
    .unwrap();
    let (before, after) =
        ("All <of> us: 2 members, anyone inside may send", "All of us: 3 members, named senders may send, disabled");
    assert_eq!(entry, ("list.edit".to_owned(), before.to_owned(), after.to_owned()));
    let log = admin.get("/acme/administration/audit-log").await;
    assert!(log.text().contains("changed the distribution list"), "{}", log.text());

    let question = admin.get(&saved.link("Delete")).await;
    assert!(question.text().contains("Delete this list?"));
    let gone = admin.submit(&format!("{here}/delete"), &[("seen", &question.field("seen"))]).await;
    assert!(gone.text().contains("Deleted. all@acme.example is no distribution list any more."), "{}", gone.text());
    assert!(gone.rows().is_empty());
    assert_eq!(admin.get(&here).await.status, StatusCode::NOT_FOUND);
}

#[sqlx::test]
async fn bad_input_is_said_beside_its_field_and_changes_nothing(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let many = (0..201).map(|number| format!("u{number}@far.example")).collect::<Vec<_>>().join("\n");
    let long = "x".repeat(65);
    let before = revision(&installation).await;
    for (typed, words) in [
        (vec![("address", "")], "Enter the list's mail address"),
        (vec![("address", "all")], "“all” is not a mail address."),
        (vec![("address", "ällé@acme.example")], "Use letters from a to z before the @."),
        (vec![("address", "all@far.example")], "far.example is not a mail domain of your organization."),
        (vec![("address", "all@acme.example"), ("name", " ")], "Enter a name"),
        (vec![("address", "all@acme.example"), ("name", long.as_str())], "at most 64 characters"),
        (
            vec![("address", "all@acme.example"), ("members", "ann@acme.example nobody")],
            "“nobody” is not a mail address.",
        ),
        (vec![("address", "all@acme.example"), ("members", many.as_str())], "These are 201 addresses: at most 200."),
        (vec![("address", "all@acme.example"), ("may_send", "named")], "Name at least one sender."),
        (
            vec![("address", "all@acme.example"), ("senders", "zoe@far.example")],
            "zoe@far.example is not an address at a mail domain of your organization.",
        ),
    ] {
        let again = make(&admin, &acme, &typed).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{words}");
        assert!(
            again.text().contains("There is a problem") && again.text().contains(words),
            "{words}: {}",
            again.text()
        );
        assert!(again.html.contains(r#"aria-invalid="true""#), "{words}");
    }
    assert_eq!(revision(&installation).await, before);
}

#[sqlx::test]
async fn an_address_is_an_accounts_or_a_lists_and_never_both(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    for taken in ["ann@acme.example", "LEE@acme.example"] {
        let again = make(&admin, &acme, &[("address", taken)]).await;
        let words = format!("{} belongs to the account ann@acme.example already.", taken.to_lowercase());
        assert!(again.status == StatusCode::UNPROCESSABLE_ENTITY && again.text().contains(&words), "{}", again.text());
    }
    let made = make(&admin, &acme, &[("address", "all@acme.example")]).await;
    assert!(made.text().contains("Created."), "{}", made.text());
    let again = make(&admin, &acme, &[("address", "all@acme.example")]).await;
    assert!(again.text().contains("belongs to the distribution list All of us already."), "{}", again.text());

    let form = page_of(&acme, "mail-account-manager/new");
    let before = revision(&installation).await;
    for (user_id, addresses) in [("all@acme.example", ""), ("new@acme.example", "all@acme.example")] {
        let change = admin.get(&form).await.field("change");
        let fields = [("user_id", user_id), ("name", ""), ("addresses", addresses), ("outbound_gateway", "")];
        let again = admin.submit(&form, &[&fields[..], &[("change", change.as_str())]].concat()).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(again.text().contains("all@acme.example is the address of a distribution list."), "{}", again.text());
    }
    let import = page_of(&acme, "mail-account-manager/import");
    let preview = admin.upload(&import, b"user_id,aliases\nnew@acme.example,all@acme.example\n", &[]).await;
    assert!(preview.text().contains("all@acme.example is the address of a distribution list"), "{}", preview.text());
    assert_eq!(revision(&installation).await, before);

    // The store holds it too, whoever forgets to ask.
    let account = "insert into mail_address select organization_id, 'all@acme.example', id from mail_account";
    let list = "insert into distribution_list (organization_id, id, address, name, may_send, expands)
                select organization_id, gen_random_uuid(), 'lee@acme.example', 'x', 'inside', true from mail_account";
    for (statement, why) in [
        (
            account.replace("mail_address ", "mail_address (organization_id, address, account_id) "),
            "mail_address_of_list",
        ),
        (list.to_owned(), "distribution_list_address_of_account"),
    ] {
        let refused = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&installation.owner).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().constraint(), Some(why));
    }
}

#[sqlx::test]
async fn an_account_is_not_brought_back_while_a_list_has_its_address(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let ann: uuid::Uuid =
        sqlx::query_scalar("select id from mail_account").fetch_one(&installation.owner).await.unwrap();
    let account = page_of(&acme, &format!("mail-account-manager/{ann}/delete"));
    let deleted = admin.submit(&account, &[("seen", "ann@acme.example")]).await;
    let undo: uuid::Uuid = sqlx::query_scalar("select id from change order by revision desc limit 1")
        .fetch_one(&installation.owner)
        .await
        .unwrap();
    assert!(deleted.text().contains("is deleted"), "{}", deleted.text());
    assert!(make(&admin, &acme, &[("address", "lee@acme.example")]).await.text().contains("Created."));

    let refused = admin.submit(&page_of(&acme, &format!("undo/{undo}")), &[]).await;

    let words = "had the address lee@acme.example, which the distribution list All of us has now";
    assert!(refused.text().contains(words), "{}", refused.text());
    let lists: uuid::Uuid = sqlx::query_scalar("select id from change order by revision desc limit 1")
        .fetch_one(&installation.owner)
        .await
        .unwrap();
    let gone = admin.submit(&page_of(&acme, &format!("undo/{lists}")), &[]).await;
    assert!(gone.text().contains("Taken back. It is as before: lee@acme.example."), "{}", gone.text());
    assert!(gone.rows().is_empty(), "{:?}", gone.rows());
    let back = admin.submit(&page_of(&acme, &format!("undo/{undo}")), &[]).await;
    assert_eq!(back.status, StatusCode::OK, "{}", back.text());
    let accounts = sqlx::query_scalar::<_, i64>("select count(*) from mail_account");
    assert_eq!(accounts.fetch_one(&installation.owner).await.unwrap(), 1);
}

async fn last_change(installation: &Installation) -> uuid::Uuid {
    sqlx::query_scalar("select id from change order by revision desc limit 1")
        .fetch_one(&installation.owner)
        .await
        .unwrap()
}

/// Takes the last change back, as the status line's button does.
async fn undo_last(installation: &Installation, acme: &Tenant, admin: &Browser) -> Page {
    admin.submit(&page_of(acme, &format!("undo/{}", last_change(installation).await)), &[]).await
}

/// Everything that is kept of an organization's lists.
async fn kept(installation: &Installation) -> Vec<String> {
    sqlx::query_scalar(
        "select to_jsonb(list)::text || (select coalesce(jsonb_agg(member.address order by position), '[]')::text
                                         from list_member member where member.list_id = list.id)
                || (select coalesce(jsonb_agg(sender.address order by sender.address), '[]')::text
                    from list_sender sender where sender.list_id = list.id)
         from (select id, address, name, status, may_send, approval, expands, large_allowed from distribution_list) list
         order by address",
    )
    .fetch_all(&installation.owner)
    .await
    .unwrap()
}

#[sqlx::test]
async fn what_was_done_to_a_list_is_taken_back_unless_somebody_has_changed_it_since(db: PgPool) {
    let Scene { installation, acme, admin, pages } = scene(db).await;
    let typed = [("members", "zoe@far.example, ann@acme.example, bob@far.example"), ("senders", "lee@acme.example")];
    let made = make(&admin, &acme, &[&typed[..], &[("address", "all@acme.example")]].concat()).await;
    assert!(made.html.contains("<button>Undo</button>"), "{}", made.text());
    let first = kept(&installation).await;
    let here = plain(&made);
    let other = [
        ("name", "Others"),
        ("members", "eve@far.example, zoe@far.example"),
        ("senders", ""),
        ("approval", "everybody"),
        ("enabled", "off"),
    ];
    let edited = send(&admin, &here, ("seen", &made.field("seen")), &other).await;
    assert!(edited.text().contains("Saved."), "{}", edited.text());
    let second = kept(&installation).await;
    let back = undo_last(&installation, &acme, &admin).await;
    assert!(back.text().contains("Taken back. It is as before: all@acme.example."), "{}", back.text());
    assert_eq!((back.path.starts_with(&here), kept(&installation).await), (true, first.clone()));
    let again = undo_last(&installation, &acme, &admin).await;
    assert!(again.text().contains("Brought back."), "{}", again.text());
    assert_eq!(kept(&installation).await, second);
    undo_last(&installation, &acme, &admin).await;

    let seen = admin.get(&format!("{here}/delete")).await.field("seen");
    admin.submit(&format!("{here}/delete"), &[("seen", &seen)]).await;
    assert!(kept(&installation).await.is_empty());
    let delete = last_change(&installation).await;
    // Its address is an account's meanwhile.
    let account = installation.account(&acme, "all@acme.example", &[]).await;
    let undo = page_of(&acme, &format!("undo/{delete}"));
    let refused = admin.submit(&undo, &[]).await;
    let words = "had the address all@acme.example, which all@acme.example has now";
    assert!(refused.status == StatusCode::CONFLICT && refused.text().contains(words), "{}", refused.text());
    let path = page_of(&acme, &format!("mail-account-manager/{account}/delete"));
    admin.submit(&path, &[("seen", "all@acme.example")]).await;
    assert!(admin.submit(&undo, &[]).await.text().contains("Taken back."));
    assert_eq!(kept(&installation).await, first, "members in their order");

    let seen = admin.get(&here).await.field("seen");
    send(&admin, &here, ("seen", &seen), &[&typed[..], &[("name", "Theirs")]].concat()).await;
    let made_by: uuid::Uuid = sqlx::query_scalar("select change_id from audit_entry where action = 'list.create'")
        .fetch_one(&installation.owner)
        .await
        .unwrap();
    let refused = admin.submit(&page_of(&acme, &format!("undo/{made_by}")), &[]).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
    let large = format!("{}/large-list", page_of(&acme, "distribution-list"));
    admin.submit(&large, &[("large_list", "7"), ("seen", "100")]).await;
    let back = undo_last(&installation, &acme, &admin).await;
    assert!(back.html.contains(r#"value="100""#), "{}", back.html);
    assert!(back.text().contains("Taken back."), "{}", back.text());
    // Nobody but an Administrator.
    let undo = page_of(&acme, &format!("undo/{}", last_change(&installation).await));
    let own = pages.signed_in(&installation, &acme, Role::UserAdministrator).await;
    assert_eq!(own.submit(&undo, &[]).await.status, StatusCode::FORBIDDEN);
}

#[sqlx::test]
async fn a_file_is_looked_at_before_it_is_saved(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let made = make(&admin, &acme, &[("address", "all@acme.example")]).await;
    let import = format!("{}/import", plain(&made));
    let before = revision(&installation).await;
    let file = b"name,address\nZoe,zoe@far.example\nEve,\"eve@far.example\"\nEve,EVE@far.example\n";

    let preview = admin.upload(&import, file, &[]).await;

    let words = "From the file: 1 added (eve@far.example), 1 removed (ann@acme.example). Nothing is saved yet";
    assert!(preview.text().contains(words), "{}", preview.text());
    assert!(preview.html.contains("zoe@far.example\neve@far.example</textarea>"), "{}", preview.html);
    let kept = admin.upload(&import, file, &[("keep", "yes")]).await;
    assert!(kept.text().contains("1 added (eve@far.example), none removed."), "{}", kept.text());
    let large = vec![b'x'; 1024 * 1024 + 1];
    for (file, words) in [
        (&b""[..], "The first line has to name a column address."),
        (&b"address\nzoe@far.example\nzoe\n"[..], "Line 3: “zoe” is not a mail address."),
        (&b"address\n\xff\n"[..], "The file is not in UTF-8."),
        (large.as_slice(), "The file is larger than 1.0 MB."),
    ] {
        let again = admin.upload(&import, file, &[]).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{words}");
        assert!(again.text().contains(words), "{words}: {}", again.text());
    }
    assert_eq!(revision(&installation).await, before, "nothing was saved");

    let members = ("members", "zoe@far.example\neve@far.example");
    let saved = send(&admin, &plain(&made), ("seen", &preview.field("seen")), &[members]).await;
    assert!(saved.text().contains("Saved.") && saved.text().contains("2 recipients"), "{}", saved.text());
}

#[sqlx::test]
async fn a_large_list_is_open_to_more_than_named_senders_only_if_an_administrator_says_so(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let made = make(&admin, &acme, &[("address", "all@acme.example")]).await;
    let table = page_of(&acme, "distribution-list");
    let form = format!("{table}/large-list");
    for typed in ["", "-1", "many", "1000001"] {
        let again = admin.submit(&form, &[("large_list", typed), ("seen", "100")]).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed}");
        assert!(again.text().contains("is not a number of recipients"), "{}", again.text());
    }
    let saved = admin.submit(&form, &[("large_list", "1"), ("seen", "100")]).await;
    assert!(saved.text().contains("Saved. It holds for all distribution lists."), "{}", saved.text());
    assert_eq!(saved.rows(), ["All of us all@acme.example 2 members named senders, as it is large enabled"]);
    // By what a list stands for, and not by what is written down in it.
    let statement = "with made as (insert into distribution_list (organization_id, id, address, name, may_send, expands)
                                   select id, gen_random_uuid(), 'outer@acme.example', 'Outer', 'inside', true from organization
                                   where slug = 'acme' returning *)
                     insert into list_member (organization_id, list_id, address, position)
                     select organization_id, id, 'all@acme.example', 1 from made";
    sqlx::query(statement).execute(&installation.owner).await.unwrap();
    let outer = "Outer outer@acme.example 1 member named senders, as it is large enabled";
    assert!(admin.get(&table).await.rows().contains(&outer.to_owned()), "{:?}", admin.get(&table).await.rows());
    sqlx::query("delete from distribution_list where name = 'Outer'").execute(&installation.owner).await.unwrap();
    let late = admin.submit(&form, &[("large_list", "5"), ("seen", "100")]).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert!(late.text().contains("Saved now: 1"), "{}", late.text());

    let here = plain(&made);
    let page = admin.get(&here).await;
    assert!(page.text().contains("It is large, so only named senders may send to it."), "{}", page.text());
    let seen = page.field("seen");
    let before = revision(&installation).await;
    let again = send(&admin, &here, ("seen", &seen), &[("name", "Everybody")]).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    let words = "This list stands for 2 recipients, and one of more than 1 is large. Choose named senders";
    assert!(again.text().contains(words), "{}", again.text());
    assert_eq!(revision(&installation).await, before);
    let open = send(&admin, &here, ("seen", &seen), &[("name", "Everybody"), ("large_allowed", "yes")]).await;
    assert!(open.text().contains("Saved.") && open.text().contains("Anyone inside may send to it."), "{}", open.text());
}

#[sqlx::test]
async fn what_another_administrator_saved_meanwhile_is_said_beside_the_fields(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let made = make(&admin, &acme, &[("address", "all@acme.example")]).await;
    let (here, seen) = (plain(&made), made.field("seen"));
    let theirs = [("name", "Theirs"), ("may_send", "nobody"), ("enabled", "off")];
    assert!(send(&admin, &here, ("seen", &seen), &theirs).await.text().contains("Saved."));
    let before = revision(&installation).await;

    let late = send(&admin, &here, ("seen", &seen), &[("name", "Mine")]).await;

    assert_eq!(late.status, StatusCode::CONFLICT);
    for words in
        ["Somebody else has changed it meanwhile", "Saved now: Theirs", "Saved now: nobody", "Saved now: disabled"]
    {
        assert!(late.text().contains(words), "{words}: {}", late.text());
    }
    let deleted = admin.submit(&format!("{here}/delete"), &[("seen", &seen)]).await;
    assert_eq!(deleted.status, StatusCode::CONFLICT);
    assert!(deleted.text().contains("It was not deleted: look at it first."), "{}", deleted.text());
    assert_eq!(revision(&installation).await, before);
    let mine = send(&admin, &here, ("seen", &late.field("seen")), &[("name", "Mine")]).await;
    assert!(mine.text().contains("Saved."), "{}", mine.text());
}

#[sqlx::test]
async fn other_roles_read_lists_and_are_offered_no_form(db: PgPool) {
    let Scene { installation, acme, pages, .. } = scene(db).await;
    let (list, _) = installation.list(&acme, "all@acme.example", of(&["zoe@far.example"])).await;
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let table = browser.get(&page_of(&acme, "distribution-list")).await;
        assert_eq!(table.rows().len(), 1, "{role}");
        assert!(!table.html.contains("Add Distribution List") && !table.html.contains("<button>Save"), "{role}");
        let page = browser.get(&page_of(&acme, &format!("distribution-list/{list}"))).await;
        assert!(page.text().contains("zoe@far.example") && !page.html.contains(">Save</button>"), "{role}");
        let question = browser.get(&page_of(&acme, &format!("distribution-list/{list}/delete"))).await;
        assert!(!question.html.contains(">Delete</button>"), "{role}");
        let import = page_of(&acme, &format!("distribution-list/{list}/import"));
        assert_eq!(browser.upload(&import, b"address\n", &[]).await.status, StatusCode::FORBIDDEN, "{role}");
        assert_eq!(browser.get(&page_of(&acme, "distribution-list/new")).await.status, StatusCode::FORBIDDEN, "{role}");
    }
}

#[sqlx::test]
async fn the_table_goes_page_by_page(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    sqlx::query(
        "insert into distribution_list (organization_id, id, address, name, may_send, expands)
         select $1, gen_random_uuid(), 'list-' || to_char(number, 'fm000') || '@acme.example', 'List', 'nobody', true
         from generate_series(1, 120) as number",
    )
    .bind(acme.id.0)
    .execute(&installation.owner)
    .await
    .unwrap();
    let first = admin.get(&page_of(&acme, "distribution-list")).await;
    let second = admin.get(&first.link("Next")).await;
    let third = admin.get(&second.link("Next")).await;
    let back = admin.get(&third.link("Previous")).await;
    assert_eq!([first.rows().len(), second.rows().len(), third.rows().len()], [50, 50, 20]);
    assert!(first.rows()[0].contains("list-001@") && third.rows()[19].contains("list-120@"));
    assert_eq!(back.rows(), second.rows());
    assert!(first.text().contains("120 lists"), "{}", first.text());
}

#[sqlx::test]
async fn explain_route_says_what_becomes_of_a_message_to_a_list(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    installation.list(&acme, "all@acme.example", of(&["zoe@far.example", "eve@far.example"])).await;
    installation.list(&acme, "off@acme.example", Terms { disabled: true, ..of(&["zoe@far.example"]) }).await;
    for (recipient, words) in [
        (
            "all@acme.example",
            "all@acme.example is a distribution list: a message to it goes to 2 recipients in its place.",
        ),
        (
            "off@acme.example",
            "But a message to off@acme.example is refused: the distribution list off@acme.example is disabled",
        ),
    ] {
        let path = page_of(&acme, &format!("explain-route?sender=ann%40acme.example&recipient={recipient}"));
        let page = admin.get(&path).await;
        assert!(page.text().contains(words), "{}", page.text());
    }
}

#[sqlx::test]
async fn whose_messages_need_approval_is_chosen_shown_and_explained(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let form = page_of(&acme, "distribution-list/new");
    assert!(admin.get(&form).await.html.contains(r#"name="approval" value="nobody" checked"#));
    let made = make(&admin, &acme, &[("address", "all@acme.example"), ("approval", "everybody")]).await;
    let words = "Every message needs an Administrator's approval, in the Outbound Queue.";
    assert!(made.text().contains(words), "{}", made.text());
    assert_eq!(made.link("in the Outbound Queue"), page_of(&acme, "outbound-queue?state=held"));
    let table = admin.get(&page_of(&acme, "distribution-list")).await;
    assert_eq!(
        table.rows(),
        ["All of us all@acme.example 2 members anyone inside everybody's messages need approval enabled"]
    );
    let asked = "explain-route?sender=ann@acme.example&recipient=all@acme.example";
    let explained = admin.get(&page_of(&acme, asked)).await.text();
    let words = "a message to it goes to 2 recipients in its place, once an administrator has approved it.";
    assert!(explained.contains(words), "{explained}");

    let here = plain(&made);
    let named = [("senders", "lee@acme.example"), ("approval", "others")];
    let saved = send(&admin, &here, ("seen", &made.field("seen")), &named).await;
    let words = "Messages of all but named senders need an Administrator's approval, in the Outbound Queue.";
    assert!(saved.text().contains("Saved.") && saved.text().contains(words), "{}", saved.text());
    let explained = admin.get(&page_of(&acme, asked)).await.text();
    assert!(explained.contains("2 recipients in its place. "), "ann is named by another address: {explained}");
    let log = admin.get("/acme/administration/audit-log").await;
    let words = "2 members, anyone inside may send, messages of all but named senders need approval";
    assert!(log.text().contains(words), "{}", log.text());

    let pointless = [("may_send", "named"), ("senders", "lee@acme.example"), ("approval", "others")];
    let again = send(&admin, &here, ("seen", &saved.field("seen")), &pointless).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    let words = "Only named senders may send, and none of them would need approval. Choose another.";
    assert_eq!(again.text().matches(words).count(), 2, "in the summary and beside it: {}", again.text());
    // What somebody else has chosen meanwhile stands beside it.
    let late = send(&admin, &here, ("seen", &made.field("seen")), &[("approval", "everybody")]).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert!(late.text().contains("Saved now: messages of all but named senders"), "{}", late.text());
    assert_eq!(revision(&installation).await, installation.latest_revision().await.0);
}

#[sqlx::test]
async fn no_list_needs_approval_while_a_relay_of_the_former_version_would_let_its_mail_through(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let former = "insert into relay (id, name, started_at, last_seen_at, confirmed_revision)
                  values (gen_random_uuid(), 'old', now(), now(), 1000000)";
    sqlx::query(former).execute(&installation.owner).await.unwrap();
    let words = "The relay old is of a former version, which would let such messages through.";
    let typed = [("address", "all@acme.example"), ("approval", "everybody")];
    let again = make(&admin, &acme, &typed).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(again.text().contains(words), "{}", again.text());
    let made = make(&admin, &acme, &[("address", "all@acme.example")]).await;
    assert!(made.text().contains("Created."), "{}", made.text());
    let (here, seen) = (plain(&made), made.field("seen"));
    let again = send(&admin, &here, ("seen", &seen), &[("approval", "others")]).await;
    assert!(again.status == StatusCode::UNPROCESSABLE_ENTITY && again.text().contains(words), "{}", again.text());

    // Updated, it signs on anew; and a former one that takes its name again shows.
    let relays = installation.pool_as("outgate_relay").await;
    let sign_on = async || outgate::store::relay::sign_on(&relays, "old", RelayId::new(), Revision(1_000_000)).await;
    sign_on().await.unwrap();
    let saved = send(&admin, &here, ("seen", &seen), &[("approval", "others")]).await;
    assert!(saved.text().contains("Saved."), "{}", saved.text());
    sqlx::query("update relay set started_at = clock_timestamp()").execute(&installation.owner).await.unwrap();
    let seen = saved.field("seen");
    let again = send(&admin, &here, ("seen", &seen), &[("approval", "everybody")]).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", again.text());
    sqlx::query("update relay set signed_off_at = now()").execute(&installation.owner).await.unwrap();
    assert!(send(&admin, &here, ("seen", &seen), &[("approval", "everybody")]).await.text().contains("Saved."));
}
