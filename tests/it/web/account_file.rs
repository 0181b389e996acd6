//! Import accounts, what it would change, and Export.
//! The page of the same name in `src/web`.

use outgate::policy::Role;
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    import: String,
    list: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "mail-account-manager");
    Scene { installation, acme, pages, admin, import: format!("{list}/import"), list }
}

/// Sends the preview's form as it is shown, with the number that it may ask for.
pub async fn confirm(admin: &Browser, preview: &Page, removals: Option<&str>) -> Page {
    let path = preview.path.split('?').next().unwrap();
    let counts = ["added", "changed", "removed"].map(|name| (name, preview.field(name)));
    let mut fields: Vec<(&str, &str)> = counts.iter().map(|(name, count)| (*name, count.as_str())).collect();
    fields.extend(removals.map(|typed| ("removals", typed)));
    admin.submit(path, &fields).await
}

async fn revision(installation: &Installation) -> i64 {
    sqlx::query_scalar("select revision from installation").fetch_one(&installation.owner).await.unwrap()
}

#[sqlx::test]
async fn a_file_is_looked_at_before_it_is_imported(db: PgPool) {
    let Scene { installation, admin, import, list, .. } = scene(db).await;
    let before = revision(&installation).await;
    let file = "user_id,name,aliases,outbound_gateway\n\
                ann@acme.example,Ann Lee,-,dlp.example.com\n\
                bob@acme.example,,,\n\
                new@acme.example,New,n@acme.example,\n";
    let preview = admin.upload(&import, file.as_bytes(), &[]).await;
    assert_eq!(preview.status, StatusCode::OK, "{}", preview.text());
    let text = preview.text();
    for words in [
        "accounts.csv: 3 rows. Nothing is changed yet.",
        "Added 1 Changed 1 As they are 1 New gateways dlp.example.com",
        "ann@acme.example Name: ann →becomes Ann Lee Addresses: a@acme.example, ann@acme.example →becomes ann@acme.example",
        "Outbound Gateway: none →becomes dlp.example.com",
        "new@acme.example Name: New Addresses: n@acme.example, new@acme.example",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(revision(&installation).await, before, "looking changes nothing");

    let imported = confirm(&admin, &preview, None).await;
    assert!(imported.path.starts_with(&format!("{list}?change=")), "{}", imported.path);
    let words = "Saved. The file is imported: 1 added, 1 changed, 0 removed.";
    assert!(imported.text().contains(words), "{}", imported.text());
    assert_eq!(imported.rows().len(), 3);
    assert_eq!(revision(&installation).await, before + 1, "one change");
    // Sent again, reloaded, or gone back to: it is the same import.
    assert_eq!(confirm(&admin, &preview, None).await.path, imported.path);
    assert_eq!(admin.get(&preview.path).await.path, imported.path);
    assert_eq!(revision(&installation).await, before + 1);
}

#[sqlx::test]
async fn a_file_with_mistakes_is_answered_line_by_line_and_changes_nothing(db: PgPool) {
    let Scene { installation, admin, import, .. } = scene(db).await;
    let before = revision(&installation).await;
    let file = "user_id,name,aliases,outbound_gateway\n\
                nobody,<img src=x onerror=alert(1)>,,\n\
                x@elsewhere.example,,,\n\
                bob@acme.example,,a@acme.example,\n\
                new@acme.example,,,10.0.0.1\n";
    let refused = admin.upload(&import, file.as_bytes(), &[]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let text = refused.text();
    for words in [
        "The file cannot be imported",
        "accounts.csv: 4 mistakes. Nothing was changed.",
        "Line 2: “nobody” is not a mail address.",
        "Line 3: x@elsewhere.example: elsewhere.example is not a mail domain of the organization",
        "Line 4: a@acme.example belongs to ann@acme.example already",
        "Line 5: 10.0.0.1 is a private address.",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!refused.html.contains(">Import</button>"));
    let counts = [("added", "0"), ("changed", "0"), ("removed", "0")];
    assert_eq!(admin.submit(&refused.path, &counts).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let empty = admin.upload(&import, b"", &[]).await;
    assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(empty.text().contains("Choose a CSV file that is not empty."), "{}", empty.text());
    assert_eq!(revision(&installation).await, before);
}

#[sqlx::test]
async fn many_removals_are_only_done_when_their_number_is_typed(db: PgPool) {
    let Scene { installation, admin, import, .. } = scene(db).await;
    let before = revision(&installation).await;
    let preview = admin.upload(&import, b"user_id\nann@acme.example\n", &[("remove_missing", "1")]).await;
    assert!(preview.text().contains("Removed 1 of 2"), "{}", preview.text());
    for typed in [None, Some(""), Some("2"), Some("all")] {
        let refused = confirm(&admin, &preview, typed).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed:?}");
        assert!(refused.text().contains("Type 1 if these accounts are to be removed."), "{}", refused.text());
    }
    assert_eq!(revision(&installation).await, before);
    let imported = confirm(&admin, &preview, Some(" 1 ")).await;
    assert!(imported.text().contains("0 added, 0 changed, 1 removed."), "{}", imported.text());
    assert_eq!(imported.rows().len(), 1);
}

#[sqlx::test]
async fn what_has_changed_since_the_file_was_looked_at_is_shown_again_first(db: PgPool) {
    let Scene { installation, acme, admin, import, .. } = scene(db).await;
    let file = b"user_id,name\nann@acme.example,Ann Lee\nnew@acme.example,New\n";
    let preview = admin.upload(&import, file, &[]).await;
    installation.account(&acme, "new@acme.example", &[]).await;
    let before = revision(&installation).await;
    let again = confirm(&admin, &preview, None).await;
    assert!(again.text().contains("The accounts have changed since you looked."), "{}", again.text());
    assert!(again.text().contains("Added 0 Changed 2"), "{}", again.text());
    assert_eq!(revision(&installation).await, before);
    let imported = confirm(&admin, &again, None).await;
    assert!(imported.text().contains("0 added, 2 changed, 0 removed."), "{}", imported.text());

    // An address that somebody else has taken meanwhile is a mistake by then.
    let preview = admin.upload(&import, b"user_id\nlate@acme.example\n", &[]).await;
    installation.account(&acme, "eve@acme.example", &["late@acme.example"]).await;
    let again = confirm(&admin, &preview, None).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(again.text().contains("late@acme.example belongs to eve@acme.example already"), "{}", again.text());
}

#[sqlx::test]
async fn a_large_file_comes_through_the_door_and_other_forms_stay_small(db: PgPool) {
    let Scene { admin, import, list, .. } = scene(db).await;
    let file = (0..3000).fold("user_id,name\n".to_owned(), |file, row| {
        format!("{file}user{row:04}@acme.example,A name of about thirty letters\n")
    });
    assert!(file.len() > 128 * 1024);
    let preview = admin.upload(&import, file.as_bytes(), &[]).await;
    assert!(preview.text().contains("Added 3,000"), "{}", preview.text());
    let large = "x".repeat(65 * 1024);
    assert_eq!(admin.submit(&format!("{list}/new"), &[("name", &large)]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[sqlx::test]
async fn an_export_is_a_file_that_a_spreadsheet_opens_and_import_reads(db: PgPool) {
    let Scene { installation, acme, pages, admin, import, list } = scene(db).await;
    sqlx::query("update mail_account set name = '=1+1', external_id = '-x' where user_id = 'ann@acme.example'")
        .execute(&installation.owner)
        .await
        .unwrap();
    sqlx::query("update mail_account set name = 'Björn, \"B\"' where user_id = 'bob@acme.example'")
        .execute(&installation.owner)
        .await
        .unwrap();
    let assistant = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let path = format!("{list}/export.csv");
    let exported = assistant.once(assistant.request(Method::GET, &path), &path).await;
    assert_eq!(exported.headers["content-type"], "text/csv; charset=utf-8");
    assert_eq!(exported.headers["content-disposition"], "attachment; filename=\"accounts-acme.csv\"");
    assert_eq!(exported.headers["x-content-type-options"], "nosniff");
    let file = exported.html.trim_start_matches('\u{feff}');
    assert_eq!(
        file,
        "user_id,name,aliases,status,outbound_gateway,external_id\n\
         ann@acme.example,'=1+1,a@acme.example,active,,'-x\n\
         bob@acme.example,\"Björn, \"\"B\"\"\",,active,,\n"
    );
    let preview = admin.upload(&import, exported.html.as_bytes(), &[("remove_missing", "1")]).await;
    assert!(preview.text().contains("Everything is as the file says already."), "{}", preview.text());
}

#[sqlx::test]
async fn who_may_only_read_imports_nothing(db: PgPool) {
    let Scene { installation, acme, pages, admin, import, .. } = scene(db).await;
    let file = b"user_id\nnew@acme.example\n";
    let preview = admin.upload(&import, file, &[]).await;
    let assistant = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let before = revision(&installation).await;
    assert_eq!(assistant.get(&import).await.status, StatusCode::FORBIDDEN);
    assert_eq!(assistant.upload(&import, file, &[]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(assistant.get(&preview.path).await.status, StatusCode::FORBIDDEN);
    assert_eq!(confirm(&assistant, &preview, None).await.status, StatusCode::FORBIDDEN);
    assert_eq!(revision(&installation).await, before);
}

#[sqlx::test]
async fn what_somebody_else_has_saved_since_is_not_overwritten_unseen_though_the_numbers_are_the_same(db: PgPool) {
    let Scene { installation, admin, import, .. } = scene(db).await;
    let preview = admin.upload(&import, b"user_id,name\nann@acme.example,Ann Lee\n", &[]).await;
    let name = "update mail_account set name = 'Ann, saved by another' where user_id = 'ann@acme.example'";
    sqlx::query(name).execute(&installation.owner).await.unwrap();
    let before = revision(&installation).await;
    let again = confirm(&admin, &preview, None).await;
    assert!(again.text().contains("The accounts have changed since you looked."), "{}", again.text());
    assert!(again.text().contains("Ann, saved by another"), "{}", again.text());
    assert_eq!(revision(&installation).await, before);
    let imported = confirm(&admin, &again, None).await;
    assert!(imported.text().contains("0 added, 1 changed, 0 removed."), "{}", imported.text());
}
