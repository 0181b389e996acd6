//! Accounts in from a CSV file and out to one: all rows or none.
//! The store under `outgate accounts`; the command's words are in `command_line`.

use outgate::{
    policy::account_file,
    store::{OrganizationTransaction, account_file::ImportError},
};
use sqlx::PgPool;

use crate::support::{Installation, Tenant};

/// What the command does with a file: how many were added and changed, or all mistakes.
async fn import(installation: &Installation, tenant: &Tenant, file: &str) -> Result<(usize, usize), Vec<String>> {
    let words = |mistakes: Vec<account_file::RowMistake>| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rows = account_file::read(file.as_bytes()).map_err(words)?;
    let transaction = OrganizationTransaction::begin(&installation.owner, tenant.id).await.unwrap();
    match outgate::store::account_file::import(transaction, &rows, "operator").await {
        Ok(imported) => Ok((imported.added, imported.changed)),
        Err(ImportError::Rows(mistakes)) => Err(words(mistakes)),
        Err(ImportError::Store(error)) => panic!("{error}"),
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

#[test]
fn a_cell_that_a_spreadsheet_would_run_is_made_harmless_and_read_back_as_it_was() {
    for formula in ["=1+1", "+1", "-1", "@sum(a1)", "\tx", "\rx"] {
        let cell = account_file::harmless(formula);
        assert!(cell.starts_with('\''));
    }
    assert_eq!(account_file::harmless("Ann"), "Ann");
    let file = format!("user_id,name\nann@acme.example,{}\n", account_file::harmless("=1+1"));
    let rows = account_file::read(file.as_bytes()).unwrap();
    assert_eq!(rows[0].name, account_file::Cell::Set("=1+1".to_owned()));
}
