//! Undo, from the status line of a save and as a page of its own.
//! The page of the same name in `src/web`; what an undo restores is tried in `store/undo`.

use outgate::{mail::id::AccountId, policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant, browser};

const FIELD: &str = "outbound_gateway";

struct Scene {
    installation: Installation,
    acme: Tenant,
    ann: AccountId,
    pages: Pages,
    admin: Browser,
    of_all: String,
    of_ann: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let of_all = page_of(&acme, "outbound-mail-gateway");
    let of_ann = page_of(&acme, &format!("mail-account-manager/{ann}/outbound-gateway"));
    Scene { installation, acme, ann, pages, admin, of_all, of_ann }
}

/// Where the status line's button sends its form.
fn undo(page: &Page) -> String {
    let (before, _) = page.html.split_once("><button>Undo</button>").expect("no Undo on the page");
    let action = before.rsplit_once(r#"action=""#).unwrap().1;
    action.split_once('"').unwrap().0.replace("&#38;", "&")
}

#[sqlx::test]
async fn a_save_is_taken_back_from_its_status_line_and_so_is_that(db: PgPool) {
    let Scene { admin, of_all, .. } = scene(db).await;
    let saved = admin.submit(&of_all, &[(FIELD, "a.example.com")]).await;

    let page = admin.submit(&undo(&saved), &[]).await;
    assert!(page.path.starts_with(&format!("{of_all}?change=")), "{}", page.path);
    assert_eq!(page.field(FIELD), "");
    let words = "Taken back. No gateway. 1 account now sends directly to recipients' servers.";
    assert!(page.text().contains(words), "{}", page.text());
    let left = admin.get(&page.link("What left in between")).await;
    assert_eq!(left.status, StatusCode::OK);
    assert!(left.path.contains("/message-trace?from=2"), "{}", left.path);
    assert!(left.path.ends_with("&gateway=a.example.com&scope=organization"), "{}", left.path);
    assert!(left.text().contains("No message is like that"), "{}", left.text());

    let page = admin.submit(&undo(&page), &[]).await;
    assert_eq!(page.field(FIELD), "a.example.com");
    let words = "Brought back. 1 account now sends through a.example.com port 25.";
    assert!(page.text().contains(words), "{}", page.text());
}

#[sqlx::test]
async fn after_the_undo_of_one_users_gateway_the_same_search_shows_the_marked_row(db: PgPool) {
    let Scene { installation, acme, ann, admin, of_ann, .. } = scene(db).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;
    let saved = admin.submit(&format!("{of_ann}?q=an%26n"), &[(FIELD, "")]).await;
    let saved = if saved.html.contains("Undo") { saved } else { admin.submit(&of_ann, &[(FIELD, "")]).await };

    let page = admin.submit(&undo(&saved), &[]).await;

    assert!(page.path.contains("?q=an%26n&selected="), "{}", page.path);
    let words = "Taken back. Mail from ann@acme.example now leaves through own.example.com port 25.";
    assert!(page.text().contains(words), "{}", page.text());
}

#[sqlx::test]
async fn a_form_that_is_sent_twice_takes_back_once_and_leads_to_the_same(db: PgPool) {
    let Scene { installation, admin, of_all, .. } = scene(db).await;
    let saved = admin.submit(&of_all, &[(FIELD, "a.example.com")]).await;
    let button = undo(&saved);
    let (first, second) = tokio::join!(admin.submit(&button, &[]), admin.submit(&button, &[]));
    assert_eq!((first.status, &first.path), (StatusCode::OK, &second.path));
    let undone: i64 = sqlx::query_scalar("select count(*) from change where undoes is not null")
        .fetch_one(&installation.owner)
        .await
        .unwrap();
    assert_eq!(undone, 1);
}

#[sqlx::test]
async fn what_another_administrator_has_taken_back_or_changed_since_is_named(db: PgPool) {
    let Scene { installation, acme, pages, admin, of_all, .. } = scene(db).await;
    installation.administrator(&acme, "bea@acme.example", &browser::PASSWORD_HASH, Role::Administrator).await;
    let bea = pages.browser();
    bea.sign_in("bea@acme.example", browser::PASSWORD).await;
    let saved = admin.submit(&of_all, &[(FIELD, "a.example.com")]).await;
    let button = undo(&saved);

    bea.submit(&of_all, &[(FIELD, "b.example.com")]).await;
    let page = admin.submit(&button, &[]).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    for words in
        ["Something newer stands in the way, so nothing was changed", "all users: changed since, by bea@acme.example,"]
    {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert_eq!(admin.get(&of_all).await.field(FIELD), "b.example.com");

    bea.submit(&of_all, &[(FIELD, "a.example.com")]).await;
    bea.submit(&button, &[]).await;
    let page = admin.submit(&button, &[]).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.text().contains("It was taken back already By bea@acme.example,"), "{}", page.text());
}

#[sqlx::test]
async fn the_page_asks_first_and_shows_what_was_before_and_after(db: PgPool) {
    let Scene { admin, of_all, .. } = scene(db).await;
    admin.submit(&of_all, &[(FIELD, "a.example.com")]).await;
    let saved = admin.submit(&of_all, &[(FIELD, "b.example.com")]).await;
    let button = undo(&saved);
    let page = admin.get(&button).await;
    for words in
        ["administrator@acme.example set the gateway of all users.", "Before a.example.com", "After b.example.com"]
    {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert_eq!(admin.get(&of_all).await.field(FIELD), "b.example.com", "asking changes nothing");
    admin.submit(&button, &[]).await;
    assert_eq!(admin.get(&of_all).await.field(FIELD), "a.example.com");
    assert!(admin.get(&button).await.text().contains("It was taken back already"));
}

#[sqlx::test]
async fn who_may_not_set_it_may_not_take_it_back(db: PgPool) {
    let Scene { installation, acme, ann, pages, admin, of_all, of_ann } = scene(db).await;
    let all = undo(&admin.submit(&of_all, &[(FIELD, "a.example.com")]).await);
    let one = undo(&admin.submit(&of_ann, &[(FIELD, "own.example.com")]).await);
    for (role, may_all, may_one) in [(Role::AdminAssistant, false, false), (Role::UserAdministrator, false, true)] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        for (undo, may) in [(&all, may_all), (&one, may_one)] {
            assert_eq!(browser.get(undo).await.html.contains(">Undo</button>"), may, "{role} {undo}");
            let status = browser.submit(undo, &[]).await.status;
            assert_eq!(status, if may { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{role} {undo}");
        }
    }
    installation.set_gateway(&acme, &PointerScope::Account(ann), "other.example.com").await;
}

#[sqlx::test]
async fn a_large_change_is_taken_back_behind_a_page_of_its_own(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let mut file = "user_id,name\n".to_owned();
    for index in 0..1200 {
        file.push_str(&format!("user{index}@acme.example,User\n"));
    }
    installation.import(&acme, &file, false, None).await.unwrap();
    let last = sqlx::query_scalar("select id from change order by revision desc limit 1");
    let imported: uuid::Uuid = last.fetch_one(&installation.owner).await.unwrap();
    let button = page_of(&acme, &format!("undo/{imported}"));

    let mut page = admin.submit(&button, &[]).await;
    while page.path.contains("/progress/") {
        page = admin.get(&page.path).await;
    }

    assert!(page.path.contains("/mail-account-manager?change="), "{}", page.path);
    assert!(page.text().contains("Taken back. 1,200 accounts are as they were before."), "{}", page.text());
    assert_eq!(admin.get(&page_of(&acme, "mail-account-manager")).await.rows().len(), 1);
}

#[sqlx::test]
async fn the_undo_of_an_account_leads_to_its_page_or_to_the_list_if_it_is_gone(db: PgPool) {
    let Scene { acme, ann, admin, .. } = scene(db).await;
    let of_ann = page_of(&acme, &format!("mail-account-manager/{ann}"));
    let saved = admin.submit(&format!("{of_ann}/name?sort=name"), &[("name", "Ann"), ("seen", "ann")]).await;
    let page = admin.submit(&undo(&saved), &[]).await;
    assert!(page.path.starts_with(&format!("{of_ann}?sort=name&change=")), "{}", page.path);
    assert!(page.text().contains("Taken back. The account is as it was before."), "{}", page.text());
    let page = admin.submit(&undo(&page), &[]).await;
    assert!(page.text().contains("Brought back. The account is as the change had left it."), "{}", page.text());

    let deleted = admin.submit(&format!("{of_ann}/delete"), &[("seen", "ann@acme.example")]).await;
    let page = admin.submit(&undo(&deleted), &[]).await;
    assert!(page.path.starts_with(&format!("{of_ann}?change=")), "{}", page.path);
    let page = admin.submit(&undo(&page), &[]).await;
    assert!(page.path.starts_with(&page_of(&acme, "mail-account-manager?change=")), "{}", page.path);
    let words = "Brought back. ann@acme.example is not an account any more.";
    assert!(page.text().contains(words), "{}", page.text());
    assert!(page.html.contains(">Undo</button>"));
}

#[sqlx::test]
async fn the_undo_of_many_accounts_and_of_a_requirement_is_reported_where_it_was_saved(db: PgPool) {
    let Scene { acme, ann, admin, of_all, .. } = scene(db).await;
    let ann = ann.to_string();
    let fields = [("action", "set"), ("selected", ann.as_str()), ("confirmed", "1"), (FIELD, "own.example.com")];
    let saved = admin.submit(&page_of(&acme, "mail-account-manager/selected"), &fields).await;
    let page = admin.submit(&undo(&saved), &[]).await;
    assert!(page.text().contains("Taken back. ann@acme.example has no gateway of its own"), "{}", page.text());

    let required = format!("{of_all}/must-use-gateway");
    let saved = admin.submit(&required, &[("must_use_gateway", "1"), ("seen", "no")]).await;
    let page = admin.submit(&undo(&saved), &[]).await;
    assert!(page.path.starts_with(&format!("{of_all}?required=")), "{}", page.path);
    assert!(page.text().contains("Taken back. Mail without a gateway leaves"), "{}", page.text());

    let senders = format!("{of_all}/unknown-senders");
    let saved = admin.submit(&senders, &[("refuse_unknown_senders", "1"), ("seen", "no")]).await;
    let page = admin.submit(&undo(&saved), &[]).await;
    assert!(page.path.starts_with(&format!("{of_all}?senders=")), "{}", page.path);
    assert!(page.text().contains("Taken back. Mail from an address that no account has follows"), "{}", page.text());
}

#[sqlx::test]
async fn a_removed_gateway_is_there_again_and_the_list_says_so(db: PgPool) {
    let Scene { installation, acme, admin, of_all, .. } = scene(db).await;
    admin.submit(&of_all, &[(FIELD, "a.example.com")]).await;
    admin.submit(&of_all, &[(FIELD, "b.example.com")]).await;
    let unused = installation.gateway_of(&acme, "a.example.com").await;
    let removed = admin.submit(&page_of(&acme, &format!("gateways/{unused}")), &[]).await;
    let page = admin.submit(&undo(&removed), &[]).await;
    assert!(page.path.starts_with(&page_of(&acme, "gateways?removed=")), "{}", page.path);
    assert!(page.text().contains("Taken back. The gateway a.example.com port 25 is there again."), "{}", page.text());
    assert_eq!(installation.gateway_of(&acme, "a.example.com").await, unused);
}

#[sqlx::test]
async fn after_an_undo_the_mail_is_listed_that_the_change_had_decided_about_and_no_other(db: PgPool) {
    let Scene { installation, acme, ann, admin, of_all, of_ann, .. } = scene(db).await;
    let of_domain = page_of(&acme, "domain-manager/acme.example/outbound-gateway");
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "all.example.com").await;
    for (form, typed, query) in [
        (&of_ann, "new.example.com", format!("&gateway=new.example.com&scope=user&account={ann}")),
        (&of_ann, "", format!("&account={ann}")),
        (&of_domain, "d.example.com:587", "&sender=acme.example&gateway=d.example.com%3A587&scope=domain".to_owned()),
        (&of_all, "", "&gateway=none".to_owned()),
    ] {
        let saved = admin.submit(form, &[(FIELD, typed)]).await;
        let change = uuid_in(&undo(&saved));
        let page = admin.submit(&undo(&saved), &[]).await;
        let link = page.link("What left in between");
        let (_, rest) = link.split_once("&to=").expect("a time");
        assert!(rest.ends_with(&query) && rest.len() == "2026-11-30T06%3A00%3A00".len() + query.len(), "{link}");
        assert_eq!(admin.get(&link).await.status, StatusCode::OK, "{link}");

        // The log's entry of what took it back leads there, too.
        let entry = admin.get(&format!("/acme/administration/audit-log/{change}")).await;
        let back = admin.get(&entry.link("See that change")).await;
        assert_eq!(back.link("What left in between"), link);
    }
}

/// The id at the end of a path.
fn uuid_in(path: &str) -> String {
    let path = path.split('?').next().unwrap();
    path.rsplit('/').next().unwrap().to_owned()
}
