//! The gateway of many users at once.
//! The page of the same name in `src/web`, from the ticks in the list to its status line.

use outgate::{
    mail::id::AccountId,
    policy::Role,
    store::{self, OrganizationTransaction, gateway::PointerScope},
};
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    /// ann, bob, cy and dora; cy has a gateway of her own.
    accounts: Vec<AccountId>,
    pages: Pages,
    admin: Browser,
    list: String,
    path: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let mut accounts = Vec::new();
    for user in ["ann", "bob", "cy", "dora"] {
        accounts.push(installation.account(&acme, &format!("{user}@acme.example"), &[]).await);
    }
    installation.set_gateway(&acme, &PointerScope::Account(accounts[2]), "old.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "mail-account-manager");
    let path = format!("{list}/selected");
    Scene { installation, acme, accounts, pages, admin, list, path }
}

impl Scene {
    async fn post(&self, fields: &[(&str, &str)]) -> Page {
        self.admin.submit(&self.path, fields).await
    }

    /// The same with these accounts ticked.
    async fn post_ticked(&self, ticked: &[AccountId], fields: &[(&str, &str)]) -> Page {
        let ticked: Vec<String> = ticked.iter().map(ToString::to_string).collect();
        let mut all: Vec<(&str, &str)> = ticked.iter().map(|id| ("selected", id.as_str())).collect();
        all.extend(fields);
        self.post(&all).await
    }

    /// User IDs with a gateway of their own, and which.
    async fn own(&self) -> Vec<(String, String)> {
        sqlx::query_as(
            "select split_part(user_id, '@', 1), gateway.address from mail_account
             join gateway on gateway.organization_id = mail_account.organization_id and gateway.id = outbound_gateway_id
             order by 1",
        )
        .fetch_all(&self.installation.owner)
        .await
        .unwrap()
    }

    async fn revision(&self) -> i64 {
        sqlx::query_scalar("select revision from installation").fetch_one(&self.installation.owner).await.unwrap()
    }
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(user, gateway)| ((*user).to_owned(), (*gateway).to_owned())).collect()
}

#[sqlx::test]
async fn the_gateway_of_ticked_accounts_is_set_after_a_confirmation_as_one_change(db: PgPool) {
    let scene = scene(db).await;
    let (before, chosen) = (scene.revision().await, &scene.accounts[1..3]);

    let asked = scene.post_ticked(chosen, &[("action", "set"), ("q", "acme")]).await;
    assert!(asked.text().contains("Set gateway of 2 accounts"), "{}", asked.text());
    assert!(asked.text().contains("1 of them has a gateway of its own, which this one replaces."), "{}", asked.text());
    assert_eq!(asked.field("confirmed"), "2");
    assert_eq!(scene.revision().await, before, "nothing is changed yet");

    let confirmed = [("action", "set"), ("q", "acme"), ("confirmed", "2"), ("outbound_gateway", "DLP.example.com:587")];
    let saved = scene.post_ticked(chosen, &confirmed).await;
    assert!(saved.path.starts_with(&format!("{}?q=acme&change=", scene.list)), "{}", saved.path);
    let said = "Saved. 2 accounts now send through dlp.example.com port 587. No relay is running";
    assert!(saved.text().contains(said), "{}", saved.text());
    assert_eq!(scene.own().await, pairs(&[("bob", "dlp.example.com:587"), ("cy", "dlp.example.com:587")]));
    assert_eq!(scene.revision().await, before + 1, "one change");

    let again = scene.post_ticked(chosen, &confirmed).await;
    assert!(again.text().contains("Nothing changed. All of these accounts were so already."), "{}", again.text());
    assert_eq!(scene.revision().await, before + 1, "sent twice, done once");
}

#[sqlx::test]
async fn a_change_of_many_accounts_can_be_taken_back_from_its_items(db: PgPool) {
    let scene = scene(db).await;
    let confirmed = [("action", "set"), ("all", "1"), ("confirmed", "4"), ("outbound_gateway", "new.example.com")];
    scene.post(&confirmed).await;
    let items: Vec<(i32, String, String, serde_json::Value, serde_json::Value)> = sqlx::query_as(
        "select item.position, item.subject, item.subject_key, coalesce(item.before, 'null'), item.after
         from change_item item join audit_entry entry using (organization_id, change_id)
         where entry.action = 'gateway.set' and entry.subject = '4 accounts' and entry.after = 'new.example.com'
           and entry.actor = 'administrator@acme.example'
         order by position",
    )
    .fetch_all(&scene.installation.owner)
    .await
    .unwrap();
    let gateway: Vec<(String, uuid::Uuid)> = sqlx::query_as("select address, id from gateway order by address")
        .fetch_all(&scene.installation.owner)
        .await
        .unwrap();
    assert_eq!((items.len(), items[0].1.as_str()), (5, "gateway"), "{items:?}");
    for (position, (index, subject, key, before, after)) in items.iter().enumerate().skip(1) {
        assert_eq!((*index, subject.as_str()), (position as i32 + 1, "account"));
        let cy = *key == scene.accounts[2].to_string();
        let had = if cy { serde_json::json!(gateway[1].1) } else { serde_json::Value::Null };
        assert_eq!(*before, serde_json::json!({ "outbound_gateway": had }));
        assert_eq!(*after, serde_json::json!({ "outbound_gateway": gateway[0].1 }));
    }
}

#[sqlx::test]
async fn all_that_match_means_every_page_of_the_search_and_the_filter(db: PgPool) {
    let scene = scene(db).await;
    let page = scene.admin.get(&scene.list).await;
    assert!(page.text().contains("All 4 accounts"), "{}", page.text());
    let asked = scene.post(&[("action", "delete"), ("all", "1")]).await;
    assert!(asked.text().contains("Delete gateway of 4 accounts"), "{}", asked.text());
    assert!(asked.text().contains("1 of them has a gateway of its own. Without it"), "{}", asked.text());
    let asked = scene.post(&[("action", "set"), ("all", "1"), ("q", "O")]).await;
    assert!(asked.text().contains("Set gateway of 2 accounts"), "bob and dora: {}", asked.text());
    let asked = scene.post(&[("action", "set"), ("all", "1"), ("show", "attention")]).await;
    assert!(asked.text().contains("No account is selected"), "{}", asked.text());

    let confirmed = [("action", "delete"), ("all", "1"), ("show", "own"), ("confirmed", "1")];
    let saved = scene.post(&confirmed).await;
    assert!(saved.text().contains("Saved. 1 account has no gateway of its own any more."), "{}", saved.text());
    assert_eq!(scene.own().await, pairs(&[]));
}

#[sqlx::test]
async fn another_number_of_accounts_than_was_confirmed_is_asked_about_again(db: PgPool) {
    let scene = scene(db).await;
    let before = scene.revision().await;
    let confirmed = [("action", "set"), ("all", "1"), ("confirmed", "3"), ("outbound_gateway", "new.example.com")];
    let page = scene.post(&confirmed).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.text().contains("3 accounts were meant when you were asked, 4 are now."), "{}", page.text());
    assert_eq!(page.field("confirmed"), "4");
    assert_eq!(page.field("outbound_gateway"), "new.example.com", "what was typed stays");
    assert_eq!(scene.revision().await, before);

    // Also where the number changes between the question and the work.
    let order = store::selected_accounts::Order {
        accounts: store::selected_accounts::Accounts::Ticked(scene.accounts.clone()),
        change: outgate::mail::id::ChangeId::new(),
        expected: 5,
        address: None,
        actor: "ann@acme.example".to_owned(),
        in_words: |count| format!("{count}"),
    };
    let transaction = OrganizationTransaction::begin(&scene.installation.owner, scene.acme.id).await.unwrap();
    let done = store::selected_accounts::set(transaction, &order, |_| ()).await.unwrap();
    assert!(matches!(done, store::selected_accounts::Set::OtherNumber(4)), "{done:?}");
    assert_eq!(scene.revision().await, before);
}

#[sqlx::test]
async fn a_mistyped_an_empty_and_a_private_address_are_refused_as_everywhere(db: PgPool) {
    let scene = scene(db).await;
    let before = scene.revision().await;
    for (typed, why) in [
        ("mail_host", "is not a host name"),
        ("", "Enter"),
        ("10.0.0.1", "10.0.0.1"),
        ("smtp://mail.example.com", "looks like a web address"),
    ] {
        let fields = [("action", "set"), ("confirmed", "2"), ("outbound_gateway", typed)];
        let page = scene.post_ticked(&scene.accounts[..2], &fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed:?}");
        assert!(page.text().contains("There is a problem") && page.text().contains(why), "{typed:?}: {}", page.text());
        assert!(page.html.contains("<title>Error: Set gateway of 2 accounts"), "{}", page.html);
        assert_eq!(page.field("outbound_gateway"), typed);
    }
    assert_eq!(scene.revision().await, before);
}

#[sqlx::test]
async fn a_gateway_of_the_organization_is_one_click_away(db: PgPool) {
    let scene = scene(db).await;
    let page = scene.post_ticked(&scene.accounts[..2], &[("action", "set")]).await;
    assert!(page.html.contains(r#"<button name="gateway" value="old.example.com">"#), "{}", page.html);
    let page = scene.post_ticked(&scene.accounts[..2], &[("action", "set"), ("gateway", "old.example.com")]).await;
    assert_eq!(page.field("outbound_gateway"), "old.example.com");
    let page = scene.post_ticked(&scene.accounts[..2], &[("action", "set"), ("gateway", "evil.example.com")]).await;
    assert_eq!(page.field("outbound_gateway"), "", "only what is offered");
}

#[sqlx::test]
async fn nothing_ticked_and_ticks_of_another_organization_select_nothing(db: PgPool) {
    let scene = scene(db).await;
    let other = scene.installation.organization("other").await;
    let theirs = scene.installation.account(&other, "secret@other.example", &[]).await;
    let before = scene.revision().await;
    for ticked in [vec![], vec![theirs], vec![AccountId::new()]] {
        for action in ["set", "delete"] {
            let fields = [("action", action), ("confirmed", "1"), ("outbound_gateway", "evil.example.com")];
            let page = scene.post_ticked(&ticked, &fields).await;
            assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
            assert!(page.text().contains("No account is selected"), "{}", page.text());
        }
    }
    let page = scene.post_ticked(&[theirs, scene.accounts[0]], &[("action", "set")]).await;
    assert!(page.text().contains("Set gateway of 1 account"), "theirs does not count: {}", page.text());
    assert_eq!(scene.revision().await, before);
    let page = scene.admin.get(&scene.path).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, scene.list.as_str()), "there is nothing to open");
}

#[sqlx::test]
async fn what_no_form_of_ours_sends_is_refused(db: PgPool) {
    let scene = scene(db).await;
    let ann = scene.accounts[0].to_string();
    let many: Vec<(&str, &str)> = std::iter::repeat_n(("selected", ann.as_str()), 51).collect();
    let with_set = |fields: &[(&'static str, &'static str)]| [&[("action", "set")], fields].concat();
    for fields in [
        vec![],
        vec![("action", "suspend")],
        with_set(&[("action", "set")]),
        with_set(&[("q", "a"), ("q", "b")]),
        with_set(&[("selected", "nobody")]),
        with_set(&[("confirmed", "many")]),
        with_set(&[("organization_id", "1")]),
        [&[("action", "set")], many.as_slice()].concat(),
    ] {
        let page = scene.post(&fields).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{fields:?}");
    }
}

#[sqlx::test]
async fn only_who_may_set_a_users_gateway_selects_accounts(db: PgPool) {
    let scene = scene(db).await;
    for (role, may) in [(Role::UserAdministrator, true), (Role::AdminAssistant, false)] {
        let browser = scene.pages.signed_in(&scene.installation, &scene.acme, role).await;
        let list = browser.get(&scene.list).await;
        assert_eq!(list.html.contains("type=\"checkbox\""), may, "{role}");
        assert_eq!(list.html.contains(">Set gateway</button>"), may, "{role}");
        let before = scene.revision().await;
        let address = format!("{role}.example.com");
        let fields = [("action", "set"), ("all", "1"), ("confirmed", "4"), ("outbound_gateway", address.as_str())];
        let page = browser.submit(&scene.path, &fields).await;
        assert_eq!(page.status, if may { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{role}");
        assert_eq!(scene.revision().await != before, may, "{role}");
    }
}

#[sqlx::test]
async fn a_status_line_that_another_change_made_untrue_says_so(db: PgPool) {
    let scene = scene(db).await;
    let fields = [("action", "set"), ("all", "1"), ("confirmed", "4"), ("outbound_gateway", "new.example.com")];
    let saved = scene.post(&fields).await;
    assert!(scene.admin.get(&saved.path).await.text().contains("Saved. 4 accounts now send"), "loading it again");
    let bob = PointerScope::Account(scene.accounts[1]);
    scene.installation.set_gateway(&scene.acme, &bob, "other.example.com").await;
    let text = scene.admin.get(&saved.path).await.text();
    assert!(text.contains("Some of these accounts were changed again since"), "{text}");
}

#[sqlx::test]
async fn a_session_that_ended_changes_nothing_and_leads_back_to_the_list(db: PgPool) {
    let scene = scene(db).await;
    let before = scene.revision().await;
    sqlx::query("delete from session").execute(&scene.installation.owner).await.unwrap();
    let fields = [("action", "set"), ("all", "1"), ("confirmed", "4"), ("outbound_gateway", "new.example.com")];
    let page = scene.post(&fields).await;
    assert!(page.text().contains("You had been signed out, so nothing was saved."), "{}", page.text());
    let page = scene.admin.once(scene.admin.request(Method::GET, &scene.path), &scene.path).await;
    assert!(page.status.is_redirection());
    assert_eq!(scene.revision().await, before);
}
