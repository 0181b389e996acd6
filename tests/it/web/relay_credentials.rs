//! Relay Credentials: made with a secret that is shown once, limited, revoked, and all of it taken back.
//! The pages `relay_credentials` and `relay_credential` in `src/web`.

use outgate::policy::{
    Role,
    relay_credential::{Limits, SecretHash},
};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    Scene { installation, acme, pages, admin }
}

/// The fields of a form as it was shown, with a name and limits typed into it.
fn filled<'a>(shown: &Page, hidden: &[&'a str], typed: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
    let mut fields: Vec<(&str, String)> = hidden.iter().map(|name| (*name, shown.field(name))).collect();
    for name in ["name", "senders", "networks", "messages_per_minute"] {
        let value = typed.iter().find(|(field, _)| *field == name).map_or("", |(_, value)| value);
        fields.push((name, value.to_owned()));
    }
    fields.extend(
        typed
            .iter()
            .filter(|(name, _)| *name == "allow_bare_line_feeds")
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    fields
}

async fn submit(browser: &Browser, path: &str, fields: &[(&str, String)]) -> Page {
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    browser.submit(path, &fields).await
}

/// The password that a page shows.
fn secret(page: &Page) -> Option<String> {
    let (_, rest) = page.html.split_once(r#"id="secret">"#)?;
    Some(rest.split_once('<').unwrap().0.to_owned())
}

#[sqlx::test]
async fn a_new_credential_shows_its_password_once_and_keeps_only_its_hash(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let list = page_of(&acme, "relay-credentials");
    let empty = admin.get(&list).await;
    assert!(empty.text().contains("No relay credentials yet"), "{}", empty.text());
    let form = empty.link("New relay credential");
    let fields = filled(
        &admin.get(&form).await,
        &["change", "nonce"],
        &[
            ("name", " Server <in> Lisbon "),
            ("senders", "Ann@ACME.example\nacme.example"),
            ("messages_per_minute", "60"),
        ],
    );

    let made = submit(&admin, &form, &fields).await;

    assert!(made.text().contains("Created."), "{}", made.text());
    assert!(made.text().contains("Server <in> Lisbon"), "{}", made.text());
    let shown = secret(&made).expect("the password");
    assert_eq!(shown.len(), 26);
    let hash: Vec<u8> =
        sqlx::query_scalar("select secret_hash from relay_credential").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(hash, SecretHash::of(&shown).0);
    assert_eq!(secret(&admin.get(&made.path).await), None, "loaded again, it is gone");

    // Sent twice, as by a double click: one credential, and the second answer shows the same.
    let again = submit(&admin, &form, &fields).await;
    assert_eq!(secret(&again).as_deref(), Some(shown.as_str()));
    assert_eq!(admin.get(&list).await.rows().len(), 1);
    let sessions: Vec<String> =
        sqlx::query_scalar("select data::text from session").fetch_all(&installation.owner).await.unwrap();
    let kept = [installation.everything_of(&acme).await, sessions].concat();
    assert!(!kept.iter().any(|row| row.contains(&shown)), "nowhere in the store");

    let user_name: String =
        sqlx::query_scalar("select user_name from relay_credential").fetch_one(&installation.owner).await.unwrap();
    let rows = admin.get(&list).await.rows();
    assert_eq!(
        rows,
        [format!("Server <in> Lisbon {user_name} never used ann@acme.example, acme.example, 60 a minute")]
    );
    let cloud = admin.get("/acme/web-mail-cloud").await;
    assert!(cloud.text().contains("Relay Credentials 1 valid credential, never used"), "{}", cloud.text());
}

#[sqlx::test]
async fn another_browser_that_sends_the_same_form_is_not_shown_the_password(db: PgPool) {
    let Scene { installation, acme, pages, admin } = scene(db).await;
    let form = page_of(&acme, "relay-credentials/new");
    let fields = filled(&admin.get(&form).await, &["change", "nonce"], &[("name", "a server")]);
    let made = submit(&admin, &form, &fields).await;
    assert!(secret(&made).is_some());
    let other = pages.browser();
    installation
        .administrator(&acme, "other@acme.example", &crate::support::browser::PASSWORD_HASH, Role::Administrator)
        .await;
    other.sign_in("other@acme.example", crate::support::browser::PASSWORD).await;

    let theirs = submit(&other, &form, &fields).await;

    assert_eq!((theirs.status, secret(&theirs)), (StatusCode::OK, None));
}

#[sqlx::test]
async fn what_is_mistyped_is_said_beside_its_field_and_nothing_is_made(db: PgPool) {
    let Scene { acme, admin, .. } = scene(db).await;
    let form = page_of(&acme, "relay-credentials/new");
    let shown = admin.get(&form).await;
    for (typed, words) in [
        (vec![("name", " ")], "Enter a name"),
        (
            vec![("name", "x"), ("senders", "ann@other.example")],
            "other.example is not a mail domain of your organization.",
        ),
        (vec![("name", "x"), ("senders", "acme.example b_c.example")], "is not a domain name"),
        (vec![("name", "x"), ("networks", "192.0.2.0/99")], "“192.0.2.0/99” is not a network"),
        (vec![("name", "x"), ("messages_per_minute", "0")], "“0” is not a number of messages"),
    ] {
        let again = submit(&admin, &form, &filled(&shown, &["change", "nonce"], &typed)).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed:?}");
        assert_eq!(again.text().matches(words).count(), 2, "beside the field and at the top: {}", again.text());
        assert!(again.html.contains(r#"aria-invalid="true""#));
    }
    assert!(admin.get(&page_of(&acme, "relay-credentials")).await.rows().is_empty());
}

#[sqlx::test]
async fn limits_are_changed_revoking_asks_first_and_undo_brings_each_back(db: PgPool) {
    let Scene { installation, acme, admin, .. } = scene(db).await;
    let (id, user_name, _) = installation.credential(&acme, Limits::default()).await;
    let path = page_of(&acme, &format!("relay-credentials/{id}"));
    let before = admin.get(&path).await;
    let typed = [("name", "Printer"), ("networks", "192.0.2.7"), ("allow_bare_line_feeds", "yes")];

    let saved = submit(&admin, &path, &filled(&before, &["seen"], &typed)).await;
    assert!(saved.text().contains(&format!("Saved. {user_name} may send within its limits.")), "{}", saved.text());
    assert!(saved.html.contains("192.0.2.7/32</textarea>") && saved.html.contains(r#"value="yes" checked"#));

    // Whoever still looks at the former terms does not undo it unseen.
    let stale = submit(&admin, &path, &filled(&before, &["seen"], &[("name", "Scanner")])).await;
    assert_eq!(stale.status, StatusCode::CONFLICT);
    assert!(stale.text().contains("Somebody else has changed it meanwhile"), "{}", stale.text());
    assert_eq!(stale.field("name"), "Scanner");

    let asked = admin.get(&saved.link("Revoke")).await;
    assert!(asked.text().contains("Revoke this credential?"), "{}", asked.text());
    let revoked = admin.submit(&format!("{path}/revoke"), &[]).await;
    assert!(revoked.text().contains(&format!("Revoked. {user_name} is refused from now on.")), "{}", revoked.text());
    assert!(!revoked.html.contains(">Save</button>"));

    for (change, words) in [(&revoked, "Taken back."), (&saved, "Taken back.")] {
        let (_, change) = change.path.split_once("change=").unwrap();
        let undone = admin.submit(&page_of(&acme, &format!("undo/{change}")), &[]).await;
        assert!(undone.text().contains(words), "{}", undone.text());
        assert!(undone.path.starts_with(&path), "{}", undone.path);
    }
    let now = admin.get(&path).await;
    assert_eq!((now.field("name"), now.field("seen")), ("a server".to_owned(), before.field("seen")));
    let log = admin.get("/acme/administration/audit-log").await;
    for words in ["made the relay credential", "limited the relay credential", "revoked the relay credential"] {
        assert!(log.text().contains(&format!("{words} {user_name}")), "{words}: {}", log.text());
    }
    let entry =
        admin.get(&format!("/acme/administration/audit-log/{}", saved.path.split_once("change=").unwrap().1)).await;
    assert!(entry.text().contains(&user_name) && entry.text().contains("Networks"), "{}", entry.text());
    assert!(!entry.html.contains("secret"), "{}", entry.html);
}

#[sqlx::test]
async fn who_is_no_administrator_sees_them_and_changes_nothing(db: PgPool) {
    let Scene { installation, acme, pages, .. } = scene(db).await;
    let (id, user_name, _) = installation.credential(&acme, Limits::default()).await;
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = pages.signed_in(&installation, &acme, role).await;
        let list = browser.get(&page_of(&acme, "relay-credentials")).await;
        assert!(list.text().contains(&user_name) && !list.html.contains("New relay credential"), "{role}");
        let page = browser.get(&page_of(&acme, &format!("relay-credentials/{id}"))).await;
        assert!(page.text().contains(&user_name) && !page.html.contains("<button>Save"), "{role}");
        for path in ["relay-credentials/new".to_owned(), format!("undo/{id}")] {
            let answered = match path.as_str() {
                "relay-credentials/new" => browser.get(&page_of(&acme, &path)).await,
                _ => browser.submit(&page_of(&acme, &path), &[]).await,
            };
            assert_eq!(answered.status, StatusCode::FORBIDDEN, "{role} {path}");
        }
    }
}
