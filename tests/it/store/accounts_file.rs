//! Accounts in from a CSV file and out to one: all rows or none.
//! The store under `outgate accounts`; the command's words are in `command_line`.

use outgate::{
    policy::account_file::{AccountFile, Cell, RowMistake, harmless},
    store::account_import::ImportError,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{Installation, Tenant};

/// What the command does with a file: how many were added and changed, or all mistakes.
async fn import(installation: &Installation, tenant: &Tenant, file: &str) -> Result<(i64, i64), Vec<String>> {
    match installation.import(tenant, file, false, None).await {
        Ok(staged) => Ok((staged.counts.added, staged.counts.changed)),
        Err(ImportError::Rows(findings)) => Err(findings.mistakes.iter().map(ToString::to_string).collect()),
        Err(error) => panic!("{error}"),
    }
}

async fn accounts(installation: &Installation) -> Vec<(String, String, String, Option<String>)> {
    sqlx::query_as(
        "select account.user_id, account.name, account.status, gateway.address
         from mail_account account left join gateway on gateway.id = account.outbound_gateway_id order by 1",
    )
    .fetch_all(&installation.owner)
    .await
    .unwrap()
}

#[sqlx::test]
async fn an_absent_column_or_empty_cell_leaves_and_a_hyphen_deletes(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let first = "user_id,name,aliases,status,outbound_gateway,external_id\n\
                 Ann@Acme.Example,Ann Adams,a.adams@acme.example; ann.a@acme.example,,dlp.example.com:587,e-1\n\
                 bob@acme.example,Bob,,suspended,,\n";
    assert_eq!(import(&installation, &acme, first).await, Ok((2, 0)));
    let second = "user_id,name,outbound_gateway\nann@acme.example,,-\nbob@acme.example,Bob Baker,\n";
    assert_eq!(import(&installation, &acme, second).await, Ok((0, 2)));

    assert_eq!(
        accounts(&installation).await,
        [
            ("ann@acme.example".into(), "Ann Adams".into(), "active".into(), None),
            ("bob@acme.example".into(), "Bob Baker".into(), "suspended".into(), None),
        ]
    );
    let addresses: Vec<String> =
        sqlx::query_scalar("select address from mail_address order by 1").fetch_all(&installation.owner).await.unwrap();
    assert_eq!(addresses, ["a.adams@acme.example", "ann.a@acme.example", "ann@acme.example", "bob@acme.example"]);
    assert_eq!(import(&installation, &acme, second).await, Ok((0, 0)), "importing the same again changes nothing");
}

#[sqlx::test]
async fn one_bad_row_and_nothing_is_imported(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.organization("birch").await;
    installation.account(&acme, "ann@acme.example", &["adams@acme.example"]).await;
    let cases = [
        ("name\nAnn\n", "line 1: the header has no column user_id"),
        ("user_id,user_id\n", "line 1: the column user_id stands in the header twice"),
        ("user_id,shoe_size\n", "line 1: “shoe_size” is not a column"),
        ("user_id\nbob@acme.example\nnobody\n", "line 3: “nobody” is not a mail address"),
        ("user_id,name\nbob@acme.example\n", "line 2: this row has 1 cells, the header has 2"),
        ("user_id,status\nbob@acme.example,gone\n", "line 2: “gone” is not a status"),
        ("user_id,outbound_gateway\nbob@acme.example,smtp://x\n", "line 2: “smtp://x” looks like a web address"),
        ("user_id\nbob@acme.example\nBOB@acme.example\n", "line 3: bob@acme.example stands in line 2 already"),
        (
            "user_id\nbob@birch.example\n",
            "line 2: bob@birch.example: birch.example is not a mail domain of the organization",
        ),
        (
            "user_id,aliases\nbob@acme.example,adams@acme.example\n",
            "line 2: adams@acme.example belongs to ann@acme.example already",
        ),
        ("user_id\nadams@acme.example\n", "line 2: adams@acme.example belongs to ann@acme.example already"),
    ];
    for (file, expected) in cases {
        let mistakes = import(&installation, &acme, file).await.unwrap_err();
        assert!(mistakes.iter().any(|mistake| mistake.starts_with(expected)), "{file:?}: {mistakes:?}");
        assert_eq!(accounts(&installation).await.len(), 1, "{file:?} left something behind");
    }
}

#[sqlx::test]
async fn an_alias_moves_from_one_account_of_the_file_to_another(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &["sales@acme.example"]).await;
    let file = "user_id,aliases\nann@acme.example,-\nbob@acme.example,sales@acme.example\n";
    assert_eq!(import(&installation, &acme, file).await, Ok((1, 1)));
}

#[sqlx::test]
async fn two_accounts_of_one_file_may_exchange_their_addresses(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    installation.account(&acme, "ann@acme.example", &["sales@acme.example"]).await;
    installation.account(&acme, "bob@acme.example", &["news@acme.example"]).await;
    let file = "user_id,aliases\nann@acme.example,news@acme.example\nbob@acme.example,sales@acme.example\n";
    assert_eq!(import(&installation, &acme, file).await, Ok((0, 2)));
    let owners: Vec<String> = sqlx::query_scalar(
        "select user_id from mail_address join mail_account on mail_account.id = account_id
         where address in ('news@acme.example', 'sales@acme.example') order by address",
    )
    .fetch_all(&installation.owner)
    .await
    .unwrap();
    assert_eq!(owners, ["ann@acme.example", "bob@acme.example"]);
}

#[sqlx::test]
async fn a_synchronized_file_removes_what_it_does_not_name_but_not_many_unasked(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    for user in 0..40 {
        installation.account(&acme, &format!("user{user:02}@acme.example"), &[]).await;
    }
    let file_of = |users: std::ops::Range<i32>| {
        users.fold("user_id\n".to_owned(), |file, user| format!("{file}user{user:02}@acme.example\n"))
    };
    let refused = installation.import(&acme, &file_of(3..40), true, None).await.unwrap_err();
    assert!(matches!(&refused, ImportError::TooManyRemovals(staged) if staged.counts.removed == 3), "{refused:?}");
    let refused = installation.import(&acme, &file_of(3..40), true, Some(2)).await.unwrap_err();
    assert!(matches!(refused, ImportError::TooManyRemovals(_)));
    assert_eq!(accounts(&installation).await.len(), 40);

    // Two of forty are five in a hundred, which nobody has to be asked about.
    assert_eq!(installation.import(&acme, &file_of(2..40), true, None).await.unwrap().counts.removed, 2);
    assert_eq!(installation.import(&acme, &file_of(3..40), false, None).await.unwrap().counts.removed, 0);
    assert_eq!(installation.import(&acme, &file_of(10..41), true, Some(8)).await.unwrap().counts.removed, 8);
    assert_eq!(accounts(&installation).await.len(), 31);
    // The address of one that is removed is free for another.
    let file = format!("{}new@acme.example,user10@acme.example\n", file_of(11..41).replace('\n', ",\n"));
    let file = file.replacen("user_id,", "user_id,aliases", 1);
    let moved = installation.import(&acme, &file, true, None).await.unwrap();
    assert_eq!((moved.counts.removed, moved.counts.added), (1, 1));
}

/// What the last change says about each account, by User ID.
async fn items(installation: &Installation) -> Vec<(String, Option<Value>, Option<Value>)> {
    sqlx::query_as(
        "select item.subject, item.before, item.after from change_item item
         join change on change.id = item.change_id
         where change.revision = (select revision from installation)
         order by item.subject desc, coalesce(item.after, item.before)::text",
    )
    .fetch_all(&installation.owner)
    .await
    .unwrap()
}

#[sqlx::test]
async fn an_import_is_one_change_that_says_of_every_field_what_was_and_what_is(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let first = "user_id,name,aliases,outbound_gateway\n\
                 ann@acme.example,Ann,a@acme.example,dlp.example.com\n\
                 bob@acme.example,Bob,,\n\
                 eve@acme.example,Eve,,\n";
    import(&installation, &acme, first).await.unwrap();
    let gateway: Value =
        sqlx::query_scalar("select to_jsonb(id) from gateway").fetch_one(&installation.owner).await.unwrap();
    let written = items(&installation).await;
    assert_eq!(written.len(), 4);
    assert_eq!(written[0], ("gateway".into(), None, Some(json!({ "address": "dlp.example.com", "revision": 1 }))));
    assert!(written.contains(&(
        "account".into(),
        None,
        Some(json!({ "user_id": "ann@acme.example", "name": "Ann", "status": "active", "external_id": null,
                     "outbound_gateway": gateway, "addresses": ["a@acme.example", "ann@acme.example"] })),
    )));

    let second = "user_id,name,aliases,status,outbound_gateway\n\
                  ann@acme.example,,-,,-\n\
                  bob@acme.example,,,suspended,dlp.example.com\n";
    installation.import(&acme, second, true, Some(1)).await.unwrap();
    let written = items(&installation).await;
    for item in [
        (
            Some(json!({ "outbound_gateway": gateway, "addresses": ["a@acme.example", "ann@acme.example"] })),
            Some(json!({ "outbound_gateway": null, "addresses": ["ann@acme.example"] })),
        ),
        (
            Some(json!({ "status": "active", "outbound_gateway": null })),
            Some(json!({ "status": "suspended", "outbound_gateway": gateway })),
        ),
        (
            Some(json!({ "user_id": "eve@acme.example", "name": "Eve", "status": "active", "external_id": null,
                         "outbound_gateway": null, "addresses": ["eve@acme.example"] })),
            None,
        ),
    ] {
        assert!(written.contains(&("account".into(), item.0.clone(), item.1.clone())), "{item:?} in {written:?}");
    }
    assert_eq!(written.len(), 3);
    let left: i64 =
        sqlx::query_scalar("select count(*) from account_import_row").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(left, 0, "rows are kept no longer than they are needed");
}

fn mistakes_of(file: &[u8]) -> Vec<String> {
    match AccountFile::open(file) {
        Ok(rows) => rows.filter_map(Result::err).map(|mistake: RowMistake| mistake.to_string()).collect(),
        Err(mistake) => vec![mistake.to_string()],
    }
}

#[test]
fn whatever_a_spreadsheet_saves_is_read_or_answered_with_what_to_do() {
    let sound: [&[u8]; 5] = [
        b"\xef\xbb\xbfuser_id,name\r\nann@acme.example,Ann\r\n",
        b"\xef\xbb\xbf\"user_id\",\"name\"\n\"ann@acme.example\",\"Adams, \"\"Ann\"\"\"\n",
        b"user_id,name\rann@acme.example,Ann\r",
        b"USER_ID , Name\n ann@acme.example , Ann \n,\n\n",
        b"user_id,aliases\nann@acme.example,\"\"\"a; b\"\"@acme.example, c@acme.example\"\n",
    ];
    for file in sound {
        assert_eq!(mistakes_of(file), Vec::<String>::new(), "{}", String::from_utf8_lossy(file));
    }
    let utf_16: Vec<u8> = "user_id\nann@acme.example\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bomb = format!("user_id,name\nann@acme.example,\"{}\n", "x\n".repeat(200_000));
    let long = format!("user_id,name\nann@acme.example,{}\nbob@\n", "x".repeat(300));
    for (file, mistake) in [
        (utf_16.as_slice(), "line 1: this file is UTF-16 text, save it as CSV UTF-8"),
        (&[&[0xff, 0xfe], utf_16.as_slice()].concat(), "line 1: this file is UTF-16 text, save it as CSV UTF-8"),
        (b"PK\x03\x04\x14", "line 1: this file is a workbook, save it as CSV UTF-8"),
        (
            b"user_id;name\nann@acme.example;Ann\n",
            "line 1: the cells are separated by semicolons, separate them by commas",
        ),
        (b"user_id\tname\n", "line 1: the cells are separated by tabs, separate them by commas"),
        (
            b"user_id,name\nann@acme.example,Bj\xf6rn\n",
            "line 2: this row is not UTF-8 text, save the file as CSV UTF-8",
        ),
        (b"user_id,name\nann@acme.example,A\0nn\n", "line 2: a cell contains a line end or another character that"),
        (bomb.as_bytes(), "line 2: the row that begins here is longer than 65536 bytes, a quotation mark is missing"),
        (long.as_bytes(), "line 2: the name is longer than 255 characters"),
        (b"user_id,USER_ID\n", "line 1: the column user_id stands in the header twice"),
        (b"", "line 1: the header has no column user_id"),
    ] {
        let mistakes = mistakes_of(file);
        assert!(mistakes[0].starts_with(mistake), "{mistake}: {mistakes:?}");
    }
}

#[sqlx::test]
async fn of_many_mistakes_the_first_hundred_are_named_and_all_are_counted(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let file = (0..300).fold("user_id\n".to_owned(), |file, row| match row % 2 {
        0 => format!("{file}nobody{row}\n"),
        _ => format!("{file}ann{row}@elsewhere.example\n"),
    });
    let Err(ImportError::Rows(findings)) = installation.import(&acme, &file, false, None).await else { panic!() };
    assert_eq!((findings.mistakes.len(), findings.mistake_count), (100, 300));
    assert_eq!(findings.mistakes.iter().map(|mistake| mistake.line).collect::<Vec<_>>(), (2..102).collect::<Vec<_>>());
}

#[test]
fn a_cell_that_a_spreadsheet_would_run_is_made_harmless_and_read_back_as_it_was() {
    for formula in ["=1+1", "+1", "-1", "@sum(a1)", "\tx", "\rx", "'=1+1", "''=1"] {
        assert!(harmless(formula).starts_with('\''));
    }
    assert_eq!(harmless("Ann"), "Ann");
    assert_eq!(harmless("'Ann'"), "'Ann'");
    for name in ["=1+1", "'=1+1", "''=1+1", "-", "'Ann'"] {
        let file = format!("user_id,name\n{},{}\n", harmless("=ann@acme.example"), harmless(name));
        let row = AccountFile::open(file.as_bytes()).unwrap().next().unwrap().unwrap();
        assert_eq!((row.user_id.to_string(), row.name), ("=ann@acme.example".into(), Cell::Set(name.to_owned())));
    }
}
