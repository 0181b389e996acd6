//! The operator's commands and what they answer, of the built program; and that the pages, the relay
//! and the command line give the same answer about a sender.

use std::net::TcpListener;

use outgate::{
    mail::{GatewayAddress, id::OrganizationId},
    policy::gateway_network::AllowedNetworks,
    store::gateway::PointerScope,
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{
    Installation, SmtpClient, Tenant,
    outgate::{Outgate, file_with, unused_address},
    world::{World, until_live},
};

/// Every row of every table, except what running relays and browsers write.
async fn everything(owner: &PgPool) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables
         where table_schema = 'public' and table_type = 'BASE TABLE' and table_name not in ('relay', 'session')",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    assert!(tables.len() > 10);
    let mut rows = Vec::new();
    for table in tables {
        let statement = format!("select '{table} ' || to_jsonb(t)::text from {table} t order by 1");
        rows.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(statement)).fetch_all(owner).await.unwrap());
    }
    rows
}

/// Two organizations, one user each, and an administrator.
async fn populated(owner: &PgPool) -> Outgate {
    let installation = Installation::on(owner.clone());
    let acme = installation.organization("acme").await;
    let birch = installation.organization("birch").await;
    installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    installation.account(&birch, "bea@birch.example", &[]).await;
    installation.administrator(&acme, "admin@acme.example", "unusable", outgate::policy::Role::Administrator).await;
    Outgate::on(owner).with("OUTGATE_DEFAULT_ROUTE", "mx")
}

#[sqlx::test]
async fn a_mistake_in_a_command_is_answered_in_one_sentence_and_changes_nothing(owner: PgPool) {
    let outgate = populated(&owner).await;
    let before = everything(&owner).await;
    let create = ["organization", "create"];
    let administrator = ["administrator", "create", "new@acme.example", "--password-stdin", "--organization"];
    let long_enough = "correct horse battery\n";
    for (command, more, input, sentence) in [
        (
            &create[..],
            &["acme", "--name", "A", "--domain", "new.example"][..],
            "",
            "organization “acme” exists already",
        ),
        (
            &create,
            &["new", "--name", "New", "--domain", "acme.example"],
            "",
            "acme.example belongs to an organization already",
        ),
        (&create, &["Not A Slug", "--name", "New", "--domain", "new.example"], "", "“Not A Slug” is not a slug"),
        (&create, &["static", "--name", "New", "--domain", "new.example"], "", "“static” is reserved"),
        (&create, &["new", "--name", " ", "--domain", "new.example"], "", "--name must say"),
        (&create, &["new", "--name", "New", "--domain", "new_example"], "", "--domain: "),
        (&create, &["new", "--name", "New"], "", "--domain <DOMAINS>"),
        (&["domain", "add"], &["nobody", "new.example"], "", "there is no organization “nobody”"),
        (&["domain", "add"], &["acme", "birch.example"], "", "birch.example belongs to an organization already"),
        (&["domain", "remove"], &["acme", "birch.example"], "", "acme has no mail domain birch.example"),
        (
            &["domain", "remove"],
            &["acme", "acme.example"],
            "",
            "accounts and distribution lists have 2 addresses of acme.example: delete them",
        ),
        (
            &["domain", "remove"],
            &["birch", "birch.example"],
            "",
            "an account or a distribution list has an address of birch.example",
        ),
        (&["organization", "suspend"], &["nobody"], "", "there is no organization “nobody”"),
        (&["organization", "show"], &["nobody"], "", "there is no organization “nobody”"),
        (&["organization", "allow-network"], &["nobody", "10.0.0.0/8"], "", "there is no organization “nobody”"),
        (
            &["organization", "allow-network"],
            &["acme", "10.0.0.0/33"],
            "",
            "“10.0.0.0/33” is not a network: write it as",
        ),
        (
            &["organization", "allow-network"],
            &["acme", "office"],
            "",
            "“office” is not a network: write it as 10.0.0.0/8.",
        ),
        (
            &["organization", "allow-network"],
            &["acme", "169.254.169.254"],
            "",
            "169.254.169.254 belongs to a cloud platform's own services",
        ),
        (
            &["organization", "allow-network"],
            &["acme", "10.0.0.0/8", "--remove"],
            "",
            "acme has no private network 10.0.0.0/8 of its own",
        ),
        (&["administrator", "suspend"], &["nobody@acme.example"], "", "there is no administrator nobody@acme.example"),
        (&["gateway", "verify"], &["acme"], "", "no gateway applies there: name an address"),
        (&administrator, &["nobody", "--role", "administrator"], long_enough, "there is no organization “nobody”"),
        (&administrator, &["acme", "--role", "king"], long_enough, "--role: “king” is not a role"),
        (&administrator, &["acme", "--role", "administrator"], "short\n", "at least 12 characters"),
        (&administrator, &["acme", "--role", "administrator"], "correct horse\nbattery\n", "more than one line"),
        (
            &["administrator", "set-password", "nobody@acme.example", "--password-stdin"],
            &[],
            long_enough,
            "there is no administrator nobody@acme.example",
        ),
        (
            &["administrator", "set-password", "admin@acme.example", "--password-stdin"],
            &[],
            "",
            "at least 12 characters",
        ),
        (&["accounts", "export", "nobody"], &[], "", "there is no organization “nobody”"),
        (&["accounts", "import", "acme", "/nowhere/accounts.csv"], &[], "", "/nowhere/accounts.csv cannot be opened: "),
        (&["domain", "set"], &["acme", "birch.example", "--inbound-host", "-"], "", "acme has no mail domain birch"),
        (&["domain", "set"], &["acme", "acme.example", "--inbound-host", "a b"], "", "Or write -."),
        (&["domain", "set"], &["acme", "acme.example", "--inbound-host", "10.0.0.1"], "", "10.0.0.1 is a private"),
        (&["accounts", "add", "acme", "ann@elsewhere.example"], &[], "", "elsewhere.example is not a mail domain"),
        (&["accounts", "add", "acme", "bea@birch.example"], &[], "", "birch.example is not a mail domain"),
        (&["accounts", "add", "acme", "a@acme.example"], &[], "", "a@acme.example belongs to ann@acme.example already"),
        (&["accounts", "add", "acme", "ann"], &[], "", "<USER_ID>: “ann” is not a mail address"),
        (
            &["accounts", "add", "acme", "new@acme.example", "--alias", "ann@acme.example"],
            &[],
            "",
            "ann@acme.example belongs to",
        ),
        (
            &["accounts", "add", "acme", "new@acme.example", "--outbound-gateway", "10.0.0.1"],
            &[],
            "",
            "10.0.0.1 is a private",
        ),
        (
            &["accounts", "rename", "acme", "bea@birch.example", "new@acme.example"],
            &[],
            "",
            "acme has no account bea@birch.example",
        ),
        (
            &["accounts", "rename", "acme", "ann@acme.example", "ann@birch.example"],
            &[],
            "",
            "birch.example is not a mail domain",
        ),
        (&["accounts", "suspend", "acme", "nobody@acme.example"], &[], "", "acme has no account nobody@acme.example"),
        (&["accounts", "delete", "acme", "a@acme.example"], &[], "", "this is a further address of ann@acme.example"),
        (&["accounts", "import", "acme", "/dev/null", "--allow-removals", "3"], &[], "", "--sync"),
        (&["sender", "block", "acme"], &["nobody@acme.example"], "", "nobody@acme.example"),
        (&["sender", "exempt", "acme"], &["ann@acme.example", "2020-01-01"], "", "Choose a day that is not over yet."),
        (&["sender", "exempt", "acme"], &["ann@acme.example", "soon"], "", "Enter a day as year, month and day"),
        (&["limit", "show", "nobody"], &[], "", "there is no organization “nobody”"),
        (&["limit", "show", "acme"], &["--domain", "birch.example"], "", "acme has no mail domain birch.example"),
        (&["limit", "set", "acme", "--window", "hour"], &["--messages", "5"], "", "--each, --service or --total"),
        (
            &["limit", "set", "acme", "--window", "week"],
            &["--each", "--messages", "5"],
            "",
            "minute, hour, usual, day, first-time, approval, message",
        ),
        (&["limit", "set", "acme", "--window", "hour"], &["--each", "--messages", "0"], "", "1..=100000000"),
        (&["limit", "set", "acme", "--window", "message"], &["--total", "--recipients", "5"], "", "nobody's total"),
        (&["limit", "set", "--window", "hour"], &["--each", "--messages", "5"], "", "<SLUG>"),
        (&["limit", "set", "acme", "--platform"], &["--window", "hour", "--each", "--messages", "5"], "", "--platform"),
        (&["limit", "set", "--platform"], &["--window", "hour", "--messages", "5"], "", "--each, --service or --total"),
        (
            &["limit", "set", "--platform", "--window", "message"],
            &["--total", "--recipients", "5"],
            "",
            "nobody's total",
        ),
        (&["limit", "delete", "--platform", "--window", "hour"], &["--messages"], "", "--each, --service or --total"),
        (
            &["limit", "set", "acme", "--window", "first-time"],
            &["--each", "--recipients", "5"],
            "",
            "--window first-time limits --external of each account",
        ),
        (
            &["limit", "set", "acme", "--window", "first-time"],
            &["--each", "--external", "5000"],
            "",
            "--window first-time goes up to 4999",
        ),
        (
            &["limit", "set", "acme", "--window", "approval"],
            &["--each", "--recipients", "5", "--action", "refuse"],
            "",
            "waits for approval",
        ),
        (&["limit", "set", "acme", "--window", "hour"], &["--each", "--messages"], "", "--messages wants a number"),
        (
            &["limit", "set", "acme", "--window", "hour"],
            &["--each", "--messages", "5", "--unlimited"],
            "",
            "with a number or with --unlimited",
        ),
        (&["limit", "set", "acme", "--window", "hour"], &["--each", "--unlimited"], "", "say what is counted"),
        (
            &["limit", "set", "acme", "--window", "hour"],
            &["--total", "--messages", "5", "--user", "ann@acme.example"],
            "",
            "--user goes without --service and --total",
        ),
        (
            &["limit", "set", "acme", "--window", "hour"],
            &["--each", "--messages", "5", "--domain", "birch.example"],
            "",
            "acme has no mail domain birch.example",
        ),
        (
            &["limit", "set", "acme", "--window", "hour"],
            &["--messages", "5", "--user", "bea@birch.example"],
            "",
            "acme has no account bea@birch.example",
        ),
        (&["gateway", "set", "nobody", "mail.example.com"], &[], "", "there is no organization “nobody”"),
        (&["gateway", "set", "acme", "smtp://mail.example.com"], &[], "", "<ADDRESS>: "),
        (&["gateway", "set", "acme", "127.0.0.1:2525"], &[], "", "127.0.0.1 is an address of this machine itself"),
        (&["gateway", "set", "acme", "169.254.169.254"], &[], "", "169.254.169.254"),
        (
            &["gateway", "set", "acme", "mail.example.com", "--domain", "birch.example"],
            &[],
            "",
            "acme has no birch.example",
        ),
        (
            &["gateway", "set", "acme", "mail.example.com", "--user", "bea@birch.example"],
            &[],
            "",
            "acme has no account bea@birch.example",
        ),
        (
            &["gateway", "delete", "acme", "--user", "nobody@acme.example"],
            &[],
            "",
            "acme has no account nobody@acme.example",
        ),
        (
            &["gateway", "delete", "acme", "--user", "a@acme.example", "--domain", "acme.example"],
            &[],
            "",
            "cannot be used with",
        ),
        (&["route", "explain", "ann"], &[], "", "“ann” is not a mail address"),
        (&["route", "explain", "ann@acme.example", "bob"], &[], "", "“bob” is not a mail address"),
        (&["relay", "forget", "nobody"], &[], "", "there is no relay “nobody”"),
        (&["postbox"], &[], "", "unrecognized subcommand 'postbox'"),
    ] {
        let words = [command, more].concat();
        let ended = outgate.run_with_input(&words, input).await;
        assert!(ended.refusal().contains(sentence), "outgate {words:?}: {ended:?}");
    }
    assert_eq!(everything(&owner).await, before);
}

#[sqlx::test]
async fn a_file_with_mistakes_is_answered_with_each_of_them_and_changes_nothing(owner: PgPool) {
    let outgate = populated(&owner).await;
    let before = everything(&owner).await;
    for (file, mistakes) in [
        ("", "line 1: the header has no column user_id"),
        ("user_id,nome\nnew@acme.example,New\n", "line 1: “nome” is not a column"),
        ("user_id,name\nnew@acme.example\n", "line 2: this row has 1 cells, the header has 2"),
        ("user_id\nnew@acme.example\nnew@\n", "line 3: “new@” is not a mail address"),
        ("user_id\nnew@acme.example\nNEW@acme.example\n", "line 3: new@acme.example stands in line 2 already"),
        (
            "user_id\nnew@acme.example\nnew@birch.example\n",
            "line 3: new@birch.example: birch.example is not a mail domain",
        ),
        (
            "user_id,aliases\nnew@acme.example,a@acme.example\n",
            "line 2: a@acme.example belongs to ann@acme.example already",
        ),
        ("user_id,status\nnew@acme.example,away\n", "line 2: “away” is not a status"),
        ("user_id,outbound_gateway\nnew@acme.example,10.1.2.3\n", "line 2: 10.1.2.3"),
        ("user_id,outbound_gateway\nnew@acme.example,a b\n", "line 2: "),
    ] {
        let (_folder, path) = file_with(file);
        let ended = outgate.run(&["accounts", "import", "acme", path.to_str().unwrap()]).await;
        let expected = format!("outgate: nothing was imported\n  {mistakes}");
        assert!(ended.status == Some(1) && ended.error.starts_with(&expected), "{file:?}: {ended:?}");
        assert_eq!(ended.output, "", "{file:?}");
    }
    assert_eq!(everything(&owner).await, before);
}

#[sqlx::test]
async fn accounts_are_managed_one_by_one(owner: PgPool) {
    let outgate = populated(&owner).await;
    let run = async |words: &[&str]| {
        let said = outgate.succeeds(&[&["accounts"], words].concat()).await;
        said.split(" Revision").next().unwrap().trim_end().to_owned()
    };
    let add = [
        "add",
        "acme",
        "Bob@acme.example",
        "--name",
        "Bob B",
        "--alias",
        "b@acme.example",
        "--alias",
        "bb@acme.example",
    ];
    assert_eq!(
        run(&[&add[..], &["--outbound-gateway", "dlp.example.com"]].concat()).await,
        "bob@acme.example is added."
    );
    let renamed = "bob@acme.example is now robert@acme.example, and stays as a further address.";
    assert_eq!(run(&["rename", "acme", "bob@acme.example", "robert@acme.example"]).await, renamed);
    let suspend = ["suspend", "acme", "robert@acme.example"];
    assert_eq!(run(&suspend).await, "robert@acme.example is suspended: its mail is refused.");
    assert_eq!(run(&suspend).await, "Nothing changed: it was so already.");
    let exported = outgate.succeeds(&["accounts", "export", "acme"]).await;
    let row = "robert@acme.example,Bob B,b@acme.example bb@acme.example bob@acme.example,suspended,dlp.example.com,\n";
    assert!(exported.ends_with(row), "{exported}");
    assert_eq!(run(&["activate", "acme", "bob@acme.example"]).await, "bob@acme.example is active: it may send mail.");
    let deleted = "robert@acme.example is deleted. Mail from its addresses follows their domain.";
    assert_eq!(run(&["delete", "acme", "robert@acme.example"]).await, deleted);
    assert!(!outgate.succeeds(&["accounts", "export", "acme"]).await.contains("bob@"));
}

#[sqlx::test]
async fn a_synchronized_import_is_tried_out_and_removes_no_more_than_was_said(owner: PgPool) {
    let outgate = populated(&owner).await;
    let before = everything(&owner).await;
    let (_folder, path) = file_with("user_id,outbound_gateway\nnew@acme.example,dlp.example.com\n");
    let import = ["accounts", "import", "acme", path.to_str().unwrap(), "--sync"];
    let tried = outgate.succeeds(&[&import[..], &["--dry-run"]].concat()).await;
    assert_eq!(
        tried,
        "Nothing was changed. The import would come to: 1 account added, 0 changed, 1 removed, 0 as they were.\n\
         New gateway: dlp.example.com\n"
    );
    let refused = outgate.run(&import).await;
    let sentence = "nothing was imported: 1 of 1 accounts would be removed, say --allow-removals 1 if they are meant";
    assert_eq!(refused.refusal(), sentence);
    assert_eq!(outgate.run(&[&import[..], &["--allow-removals", "0"]].concat()).await.refusal(), sentence);
    assert_eq!(everything(&owner).await, before);
    let imported = outgate.succeeds(&[&import[..], &["--allow-removals", "1"]].concat()).await;
    assert_eq!(imported, "1 account added, 0 changed, 1 removed, 0 as they were.\n");
}

#[sqlx::test]
async fn an_export_is_what_import_reads(owner: PgPool) {
    let outgate = populated(&owner).await.with("OUTGATE_ALLOWED_GATEWAY_NETWORKS", "10.0.0.0/8");
    let import = async |content: &str| {
        let (_folder, path) = file_with(content);
        outgate.succeeds(&["accounts", "import", "acme", path.to_str().unwrap()]).await
    };
    let first = "user_id,name,aliases,status,outbound_gateway,external_id\n\
                 =sum@acme.example,=1+1,,active,,-\n\
                 ann@acme.example,\"Adams, \"\"Ann\"\"\",a@acme.example ann.adams@acme.example,active,10.0.0.9:2525,E-1\n\
                 björn@acme.example,Björn Ångström,,suspended,mail.example.com:587,@7\n";
    assert_eq!(import(first).await, "2 accounts added, 1 changed, 0 as they were.\n");
    let exported = outgate.succeeds(&["accounts", "export", "acme"]).await;

    assert_eq!(import(&exported).await, "0 accounts added, 0 changed, 3 as they were.\n");
    let other = "user_id,name,aliases,status,outbound_gateway,external_id\n\
                 =sum@acme.example,Sum,,,,\n\
                 ann@acme.example,-,-,suspended,-,-\n\
                 björn@acme.example,B,,active,10.0.0.8,E-2\n";
    assert_eq!(import(other).await, "0 accounts added, 3 changed, 0 as they were.\n");
    assert_ne!(outgate.succeeds(&["accounts", "export", "acme"]).await, exported);
    assert_eq!(import(&exported).await, "0 accounts added, 3 changed, 0 as they were.\n");
    assert_eq!(outgate.succeeds(&["accounts", "export", "acme"]).await, exported);
    // What a spreadsheet would run as a formula is text in it.
    for cell in ["\n'=sum@acme.example,", ",'=1+1,", ",'@7\n"] {
        assert!(exported.contains(cell), "{exported}");
    }
}

#[sqlx::test]
async fn the_operator_says_that_mail_must_leave_through_a_gateway_and_what_becomes_of_waiting_mail(owner: PgPool) {
    let outgate = populated(&owner).await;
    let require = ["gateway", "require", "acme"];
    let said = outgate.succeeds(&[&require[..], &["yes"]].concat()).await;
    assert!(said.starts_with("Mail of acme must now leave through a gateway. Revision "), "{said}");
    assert_eq!(outgate.succeeds(&[&require[..], &["yes"]].concat()).await, "Nothing changed: it was so already.\n");
    let explained = outgate.succeeds(&["route", "explain", "ann@acme.example"]).await;
    assert!(
        explained.starts_with("Mail from ann@acme.example is held: it must leave through a gateway"),
        "{explained}"
    );
    let said = outgate.succeeds(&[&require[..], &["no"]].concat()).await;
    assert!(said.starts_with("Mail of acme may now leave without a gateway. Revision "), "{said}");

    let installation = Installation::on(owner.clone());
    let id = sqlx::query_scalar("select id from organization where slug = 'acme'").fetch_one(&owner).await.unwrap();
    let acme = Tenant { id: OrganizationId(id), slug: "acme".to_owned(), domain: "acme.example".to_owned() };
    outgate.succeeds(&["gateway", "set", "acme", "mail.example.com"]).await;
    installation.waiting_message(&acme, None, "organization", "mail.example.com").await;
    outgate.succeeds(&["gateway", "delete", "acme"]).await;
    assert_eq!(installation.choices().await, [(None, false)], "it goes on waiting");
    outgate.succeeds(&["gateway", "set", "acme", "mail.example.com"]).await;
    outgate.succeeds(&["gateway", "delete", "acme", "--waiting", "return"]).await;
    assert_eq!(installation.choices().await, [(Some("return".to_owned()), true)]);
}

#[sqlx::test]
async fn the_operator_changes_the_record_of_a_gateway_and_the_keys_of_passwords(owner: PgPool) {
    let outgate = populated(&owner).await;
    outgate.succeeds(&["gateway", "set", "acme", "mail.example.com"]).await;
    let edit = ["gateway", "edit", "acme", "mail.example.com"];
    let said = outgate.succeeds(&[&edit[..], &["--tls", "required", "--connections", "7"]].concat()).await;
    let words = "Changed from TLS when offered, 50 connections to TLS required, 7 connections. Revision ";
    assert!(said.starts_with(words), "{said}");
    let shown = outgate.succeeds(&["gateway", "show", "acme", "mail.example.com"]).await;
    assert!(shown.starts_with("Revision 2 of mail.example.com port 25:\n- TLS required\n"), "{shown}");
    for (more, sentence) in [
        (&["--connections", "70"][..], "connections: Enter a number of connections from 1 to 50."),
        (&["--user", "acme", "--tls", "verified"], "the password is needed again, with --password-stdin"),
        (&["--backups", "other.example.com"], "acme has no other gateway other.example.com port 25"),
        (&["--authority", "/no/such/file"], "cannot read /no/such/file"),
    ] {
        let refused = outgate.run(&[&edit[..], more].concat()).await;
        assert!(refused.refusal().starts_with(sentence), "{}", refused.error);
    }
    let password = [&edit[..], &["--user", "acme", "--tls", "verified", "--password-stdin"]].concat();
    let refused = outgate.run_with_input(&password, "canary-4711\n").await;
    assert!(refused.refusal().starts_with("no relay can keep passwords yet"), "{}", refused.error);
    Installation::on(owner.clone()).secret_key().await;
    let done = outgate.run_with_input(&password, "canary-4711\n").await;
    assert!(done.output.contains("signing in as acme, a new password"), "{done:?}");
    let stored = everything(&owner).await;
    assert!(stored.iter().all(|row| !row.contains("canary-4711") && !row.contains("63616e6172792d34373131")));

    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let outgate = outgate.with("OUTGATE_SECRET_KEY_FILE", folder.path().join("key").display());
    let said = outgate.succeeds(&["secret-key", "create"]).await;
    let first = said.split(" key ").nth(1).and_then(|rest| rest.split('.').next()).unwrap().to_owned();
    assert!(outgate.run(&["secret-key", "remove", &first]).await.refusal().contains("seals new passwords"));
    outgate.succeeds(&["secret-key", "rotate"]).await;
    let removed = outgate.succeeds(&["secret-key", "remove", &first]).await;
    assert!(removed.ends_with(&format!("has the key {first} no more.\n")), "{removed}");
    let listed = outgate.succeeds(&["secret-key", "list"]).await;
    assert!(listed.contains("\t1 passwords\tknown since "), "{listed}");
}

#[sqlx::test]
async fn the_operator_says_what_a_sender_is_and_exempts_and_blocks_it(owner: PgPool) {
    let outgate = populated(&owner).await;
    let ann = |words: &[&'static str]| [&["sender"], &words[..1], &["acme", "ann@acme.example"], &words[1..]].concat();
    let control = async || {
        let rows = "select service, exempt_until is not null, blocked from sender_control";
        sqlx::query_as::<_, (bool, bool, bool)>(rows).fetch_one(&owner).await.unwrap()
    };
    assert!(outgate.succeeds(&ann(&["service", "yes"])).await.starts_with("Saved. Revision "));
    assert_eq!(outgate.succeeds(&ann(&["service", "yes"])).await, "It is so already.\n");
    let day = (time::OffsetDateTime::now_utc() + time::Duration::days(30)).date().to_string();
    outgate.succeeds(&[&ann(&["exempt"])[..], &[day.as_str()]].concat()).await;
    outgate.succeeds(&ann(&["block"])).await;
    assert_eq!(control().await, (true, true, true));
    for words in [&["service", "no"][..], &["exempt"], &["unblock"]] {
        outgate.succeeds(&ann(words)).await;
    }
    assert_eq!(control().await, (false, false, false));
    assert_eq!(outgate.succeeds(&ann(&["let-go"])).await, "Nothing of it waits for a limit.\n");
}

#[sqlx::test]
async fn the_inbound_host_of_a_domain_is_set_and_deleted(owner: PgPool) {
    let outgate = populated(&owner).await;
    let set = ["domain", "set", "acme", "acme.example", "--inbound-host"];
    let said = outgate.succeeds(&[&set[..], &["mx.acme.example:2525"]].concat()).await;
    assert!(said.starts_with("Mail to acme.example now goes to mx.acme.example port 2525. Revision "), "{said}");
    let again = outgate.succeeds(&[&set[..], &["mx.acme.example:2525"]].concat()).await;
    assert_eq!(again, "Nothing changed: it was so already.\n");
    let said = outgate.succeeds(&[&set[..], &["-"]].concat()).await;
    assert!(said.starts_with("Mail to acme.example now goes to the servers that its MX records name."), "{said}");
}

#[sqlx::test]
async fn a_mail_domain_is_removed_once_no_account_has_an_address_there(owner: PgPool) {
    let outgate = populated(&owner).await;
    outgate.succeeds(&["domain", "add", "acme", "second.example"]).await;
    let removed = outgate.succeeds(&["domain", "remove", "acme", "second.example"]).await;
    assert!(removed.starts_with("second.example is no mail domain of acme any more. Revision "), "{removed}");
    let explained = outgate.succeeds(&["route", "explain", "x@second.example"]).await;
    assert!(explained.contains("is refused: no organization has this domain."), "{explained}");
    outgate.succeeds(&["domain", "add", "birch", "second.example"]).await;
}

#[sqlx::test]
async fn an_organization_and_an_administrator_are_suspended_and_go_on(owner: PgPool) {
    let outgate = populated(&owner).await;
    let explain = ["route", "explain", "ann@acme.example"];
    let suspended = outgate.succeeds(&["organization", "suspend", "acme"]).await;
    assert!(suspended.starts_with("acme is suspended: its mail is refused, what waits is held"), "{suspended}");
    assert!(outgate.succeeds(&explain).await.contains("is refused: the organization is suspended."));
    assert!(outgate.succeeds(&["route", "explain", "bea@birch.example"]).await.contains("leaves directly"));
    assert!(outgate.succeeds(&["organization", "suspend", "acme"]).await.starts_with("Nothing changed"));
    let goes_on = outgate.succeeds(&["organization", "resume", "acme"]).await;
    assert!(goes_on.starts_with("acme goes on, and so does mail"), "{goes_on}");
    assert!(outgate.succeeds(&explain).await.contains("leaves directly"));

    for (verb, words, status) in [
        ("suspend", "signs in no more, and all their sessions have ended.", "suspended"),
        ("suspend", "Nothing changed", "suspended"),
        ("resume", "may sign in again.", "active"),
    ] {
        let said = outgate.succeeds(&["administrator", verb, "admin@acme.example"]).await;
        assert!(said.contains(words), "{verb}: {said}");
        let now: String = sqlx::query_scalar("select status from administrator").fetch_one(&owner).await.unwrap();
        assert_eq!(now, status, "{verb}");
    }
    let actions = "select array_agg(action order by revision) from audit_entry join change on change.id = change_id where action ~ '(suspend|resume)$'";
    let actions: Vec<String> = sqlx::query_scalar(actions).fetch_one(&owner).await.unwrap();
    assert_eq!(
        actions,
        ["organization.suspend", "organization.resume", "administrator.suspend", "administrator.resume"]
    );
}

#[sqlx::test]
async fn a_private_network_is_opened_to_one_organization_while_its_relay_runs_and_taken_back(owner: PgPool) {
    let outgate = populated(&owner).await;
    let installation = Installation::on(owner.clone());
    let closed = |settings: &mut outgate::relay::Settings| settings.allowed = AllowedNetworks::default();
    let world = World::with_settings(&installation, installation.relay_pool().await, closed).await;
    let inbox = world.gateway().await;
    let (address, (_folder, file)) = (inbox.typed(), file_with(&accounts_through(&inbox.typed())));
    let live = async || until_live(&installation, installation.latest_revision().await).await;
    // Every command that takes the address of a gateway or of an inbound host.
    let refused = async |slug: &str, domain: &str| {
        let (new, file) = (format!("new@{domain}"), file.to_str().unwrap());
        for command in [
            &["gateway", "set", slug, &address][..],
            &["gateway", "set", slug, "--domain", domain, &address],
            &["gateway", "set", slug, "--when-verified", &address],
            &["gateway", "edit", slug, "mail.example.com", "--new-address", &address],
            &["accounts", "add", slug, &new, "--outbound-gateway", &address],
            &["accounts", "import", slug, file],
            &["domain", "set", slug, domain, "--inbound-host", &address],
        ] {
            let ended = outgate.run(command).await;
            assert_ne!(ended.status, Some(0), "{command:?}");
            let said = format!("{}{}", ended.output, ended.error);
            assert!(said.contains("127.0.0.1 is an address of this machine itself"), "{command:?}: {said}");
        }
    };
    for slug in ["acme", "birch"] {
        outgate.succeeds(&["gateway", "set", slug, "mail.example.com"]).await;
    }
    refused("acme", "acme.example").await;
    refused("birch", "birch.example").await;

    let allow = ["organization", "allow-network", "acme", "127.0.0.1/8"];
    let said = outgate.succeeds(&allow).await;
    assert!(said.starts_with("Gateways of acme may now be in 127.0.0.0/8. Mail that waits"), "{said}");
    assert_eq!(outgate.succeeds(&allow).await, "Nothing changed: it was so already.\n");
    assert_eq!(
        outgate.succeeds(&["organization", "show", "acme"]).await,
        "acme (acme) is active.\nMail domains: acme.example\nPrivate networks of its own: 127.0.0.0/8\n"
    );
    let shown = outgate.succeeds(&["organization", "show", "birch"]).await;
    assert!(shown.ends_with("Private networks of its own: none\n"), "{shown}");
    refused("birch", "birch.example").await;
    for command in [
        &["domain", "set", "acme", "acme.example", "--inbound-host", &address][..],
        &["accounts", "add", "acme", "new@acme.example", "--outbound-gateway", &address],
        &["accounts", "import", "acme", file.to_str().unwrap()],
        &["gateway", "set", "acme", &address],
        &["gateway", "edit", "acme", &address, "--connections", "7"],
    ] {
        outgate.succeeds(command).await;
    }
    live().await;
    let verified = outgate.succeeds(&["gateway", "verify", "acme"]).await;
    assert!(verified.contains(" accepts our mail."), "{verified}");
    let elsewhere = outgate.run(&["gateway", "verify", "birch", &address]).await;
    assert!(elsewhere.output.contains("127.0.0.1 is an address of this machine itself"), "{elsewhere:?}");
    let (mut smtp, content) = (SmtpClient::greeted(world.submission).await, "Subject: inside\r\n\r\nHello.\r\n");
    let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", content).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(inbox.next_subject().await, "inside");

    let said = outgate.succeeds(&[&allow[..], &["--remove"]].concat()).await;
    assert!(said.starts_with("Gateways of acme may no longer be in 127.0.0.0/8"), "{said}");
    live().await;
    let verified = outgate.run(&["gateway", "verify", "acme"]).await;
    assert!(verified.output.contains("127.0.0.1 is an address of this machine itself"), "{verified:?}");
    let reply = smtp.submit("ann@acme.example", "bob@elsewhere.example", content).await;
    assert!(reply.starts_with("250 2.0.0 queued"), "the connection was warm, and is not used: {reply}");
    assert!(inbox.is_empty().await);
    let edited = outgate.run(&["gateway", "edit", "acme", &address, "--connections", "8"]).await;
    assert!(edited.refusal().contains("127.0.0.1 is an address of this machine itself"), "{edited:?}");

    let entries =
        "select array_agg(action || ' ' || coalesce(before, '-') || ' ' || coalesce(after, '-') order by revision)
                   from audit_entry join change on change.id = change_id where action like 'network.%'";
    let entries: Vec<String> = sqlx::query_scalar(entries).fetch_one(&owner).await.unwrap();
    assert_eq!(entries, ["network.allow - 127.0.0.0/8", "network.remove 127.0.0.0/8 -"]);
    world.stop().await;
}

/// A file of one account with a gateway of its own.
fn accounts_through(address: &str) -> String {
    format!("user_id,name,outbound_gateway\nnew2@acme.example,New,{address}\n")
}

#[sqlx::test]
async fn relays_are_listed_until_they_are_forgotten(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let outgate = Outgate::on(&owner);
    assert_eq!(outgate.succeeds(&["relay", "list"]).await, "No relay has signed on yet.\n");

    let world = World::start(&installation).await;
    let running = outgate.succeeds(&["relay", "list"]).await;
    assert!(running.starts_with("relay-1\trevision 0\tlast seen "), "{running}");
    world.stop().await;
    let stopped = outgate.succeeds(&["relay", "list"]).await;
    assert!(stopped.starts_with("relay-1\trevision 0\tsigned off "), "{stopped}");

    assert_eq!(outgate.succeeds(&["relay", "forget", "relay-1"]).await, "relay-1 is forgotten.\n");
    assert_eq!(outgate.succeeds(&["relay", "list"]).await, "No relay has signed on yet.\n");
}

/// A gateway as explanations name it.
fn in_words(address: &str) -> String {
    address.parse::<GatewayAddress>().unwrap().with_port_in_words()
}

#[sqlx::test]
async fn explanations_are_what_the_relay_does(owner: PgPool) {
    let installation = Installation::on(owner.clone());
    let (acme, birch) = (installation.organization("acme").await, installation.organization("birch").await);
    let closed = installation.organization("closed").await;
    sqlx::query("insert into mail_domain (organization_id, name) values ($1, 'branch.example')")
        .bind(acme.id.0)
        .execute(&owner)
        .await
        .unwrap();
    let ann = installation.account(&acme, "ann@acme.example", &["a.adams@acme.example"]).await;
    for user in ["bob@acme.example", "dan@branch.example", "carl@acme.example"] {
        installation.account(&acme, user, &[]).await;
    }
    installation.account(&birch, "bea@birch.example", &[]).await;
    installation.account(&closed, "eve@closed.example", &[]).await;
    for statement in [
        "update mail_account set status = 'suspended' where user_id = 'carl@acme.example'",
        "update organization set status = 'suspended' where slug = 'closed'",
    ] {
        sqlx::query(statement).execute(&owner).await.unwrap();
    }
    let world = World::start(&installation).await;
    let outgate = Outgate::on(&owner).with("OUTGATE_DEFAULT_ROUTE", world.default.typed());
    let (of_ann, of_branch, of_acme) = (world.gateway().await, world.gateway().await, world.gateway().await);
    installation.set_gateway(&acme, &PointerScope::Account(ann), &of_ann.typed()).await;
    let branch = PointerScope::Domain("branch.example".parse().unwrap());
    installation.set_gateway(&acme, &branch, &of_branch.typed()).await;
    installation.set_gateway(&acme, &PointerScope::Organization, &of_acme.typed()).await;
    until_live(&installation, installation.latest_revision().await).await;

    for (sender, inbox, why) in [
        ("ann@acme.example", &of_ann, "the own gateway of ann@acme.example."),
        ("A.Adams@ACME.example", &of_ann, "the own gateway of a.adams@acme.example."),
        ("ann+news@acme.example", &of_ann, "the own gateway of ann@acme.example."),
        ("dan@branch.example", &of_branch, "the gateway of the mail domain branch.example."),
        ("nobody@branch.example", &of_branch, "No account has this address; it follows its domain."),
        ("bob@acme.example", &of_acme, "the organization's gateway for all users."),
        ("bea@birch.example", &world.default, "the platform's default, since no gateway is set."),
    ] {
        let explained = outgate.succeeds(&["route", "explain", sender]).await;
        assert!(
            explained.starts_with(&format!("Mail from {sender} leaves through {}", in_words(&inbox.typed()))),
            "{explained}"
        );
        assert!(explained.lines().take(2).any(|line| line.ends_with(why)), "{explained}");
        assert_eq!(explained.matches("(applies)").count(), 1, "{explained}");
        let subject = format!("from {sender}");
        let content = format!("Subject: {subject}\r\n\r\nHello.\r\n");
        let reply = SmtpClient::greeted(world.submission).await.submit(sender, "x@elsewhere.example", &content).await;
        assert!(reply.starts_with("250 2.0.0 Arrived"), "{sender}: {reply}");
        assert_eq!(inbox.subject_at_once().await, Some(subject));
    }
    for (sender, why) in [
        ("eve@elsewhere.example", "no organization has this domain."),
        ("eve@closed.example", "the organization is suspended."),
        ("carl@acme.example", "the account is suspended."),
    ] {
        let explained = outgate.succeeds(&["route", "explain", sender]).await;
        assert_eq!(explained.lines().next(), Some(&*format!("Mail from {sender} is refused: {why}")));
        let reply = SmtpClient::greeted(world.submission).await.submit(sender, "x@elsewhere.example", "").await;
        assert!(reply.starts_with("550 5.7.1 "), "{sender}: {reply}");
    }
    world.stop().await;
}

/// Settings with which `outgate up` could run on the test's database.
fn complete(owner: &PgPool) -> Outgate {
    let on_database = Outgate::on(owner);
    let as_owner = on_database.variable("DATABASE_URL").to_owned();
    let as_role = |role: &str| as_owner.replacen("//outgate@", &format!("//{role}@"), 1);
    on_database
        .with("OUTGATE_WEB_DATABASE_URL", as_role("outgate_web"))
        .with("OUTGATE_RELAY_DATABASE_URL", as_role("outgate_relay"))
        .with("OUTGATE_DEFAULT_ROUTE", "mx")
        .with("OUTGATE_HTTP_LISTEN", unused_address())
        .with("OUTGATE_SMTP_LISTEN", unused_address())
        .with("OUTGATE_HOSTNAME", "relay.example")
}

#[sqlx::test]
async fn a_wrong_setting_stops_the_start_with_one_sentence_that_names_it(owner: PgPool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let elsewhere = "postgres://outgate@localhost/postgres?host=/nowhere";
    for (setting, value, sentence) in [
        ("DATABASE_URL", "mysql://root:secret@db/x", "DATABASE_URL: this is not the URL"),
        ("DATABASE_URL", elsewhere, "the store does not answer at DATABASE_URL: "),
        ("OUTGATE_WEB_DATABASE_URL", elsewhere, "the store does not answer at OUTGATE_WEB_DATABASE_URL: "),
        ("OUTGATE_DEFAULT_ROUTE", "a b", "OUTGATE_DEFAULT_ROUTE: "),
        ("OUTGATE_HANDOVER_WAIT", "0", "OUTGATE_HANDOVER_WAIT: “0” is not a length of time"),
        ("OUTGATE_HOSTNAME", "relay_1", "OUTGATE_HOSTNAME: "),
        ("OUTGATE_HTTP_LISTEN", "8080", "OUTGATE_HTTP_LISTEN: “8080” is not an address to listen on"),
        ("OUTGATE_HTTP_LISTEN", &taken, "OUTGATE_HTTP_LISTEN: cannot listen on "),
        ("OUTGATE_SMTP_LISTEN", &taken, "OUTGATE_SMTP_LISTEN: cannot listen on "),
        ("OUTGATE_SMTPS_LISTEN", "127.0.0.1:0", "OUTGATE_SMTPS_LISTEN is set, and there is no certificate: "),
        (
            "OUTGATE_SMTP_CERTIFICATE_FILE",
            "/nowhere.pem",
            "OUTGATE_SMTP_CERTIFICATE_FILE is set: set OUTGATE_SMTP_KEY_FILE",
        ),
        ("OUTGATE_SMTP_KEY_FILE", "/nowhere.pem", "OUTGATE_SMTP_KEY_FILE is set: set OUTGATE_SMTP_CERTIFICATE_FILE"),
        ("OUTGATE_GATEWAY_AUTHORITIES", "/nowhere.pem", "OUTGATE_GATEWAY_AUTHORITIES: /nowhere.pem cannot be read: "),
        (
            "OUTGATE_GATEWAY_AUTHORITIES",
            "/dev/null",
            "OUTGATE_GATEWAY_AUTHORITIES: /dev/null has no certificate in PEM",
        ),
        ("OUTGATE_PUBLIC_URL", "outgate.example", "OUTGATE_PUBLIC_URL: “outgate.example” is not the URL of a server"),
        ("OUTGATE_TRUSTED_NETWORKS", "all", "OUTGATE_TRUSTED_NETWORKS: “all” is not a network"),
        ("RUST_LOG", "outgate=loud", "RUST_LOG is “outgate=loud”, which is not a filter"),
    ] {
        let ended = complete(&owner).with(setting, value).run(&["up"]).await;
        assert!(ended.refusal().starts_with(sentence), "{setting}={value}: {ended:?}");
        assert!(!ended.error.contains("secret"), "{ended:?}");
    }
    let certificate = complete(&owner).with("OUTGATE_SMTP_KEY_FILE", "/nowhere/key.pem");
    let ended = certificate.with("OUTGATE_SMTP_CERTIFICATE_FILE", "/nowhere/chain.pem").run(&["up"]).await;
    let sentence = "OUTGATE_SMTP_CERTIFICATE_FILE and OUTGATE_SMTP_KEY_FILE: the certificate /nowhere/chain.pem cannot be used: there is no such file";
    assert!(ended.refusal().starts_with(sentence), "{ended:?}");
    for missing in ["OUTGATE_DEFAULT_ROUTE", "OUTGATE_WEB_DATABASE_URL", "OUTGATE_RELAY_DATABASE_URL"] {
        let ended = complete(&owner).without(missing).run(&["up"]).await;
        assert!(ended.refusal().starts_with(&format!("{missing} is not set: ")), "{ended:?}");
    }
    for (setting, value, sentence) in [
        ("OUTGATE_DATA_DIR", "/proc/outgate", "cannot make the folder /proc/outgate: "),
        ("OUTGATE_DATA_DIR", "", "OUTGATE_DATA_DIR: it is empty"),
        ("OUTGATE_PG_BIN", "/nowhere", "OUTGATE_PG_BIN is /nowhere, but there is no initdb in it"),
    ] {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let outgate = complete(&owner).with("OUTGATE_DATA_DIR", folder.path().display()).with(setting, value);
        let of_database = ["DATABASE_URL", "OUTGATE_WEB_DATABASE_URL", "OUTGATE_RELAY_DATABASE_URL"];
        let ended = of_database.into_iter().fold(outgate, Outgate::without).run(&["up"]).await;
        assert!(ended.refusal().starts_with(sentence), "{setting}={value}: {ended:?}");
    }
}

#[sqlx::test]
async fn a_relay_credential_is_made_listed_and_revoked(owner: PgPool) {
    let outgate = populated(&owner).await;
    let create = ["credential", "create", "acme", "--name", "Printer", "--address", "Ann@acme.example"];
    let made = outgate.succeeds(&[&create[..], &["--network", "192.0.2.0/24", "--per-minute", "60"]].concat()).await;
    let after = |label: &str| made.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim().to_owned();
    let (user_name, password) = (after("User name:"), after("Password:"));
    assert!(user_name.starts_with("acme-") && password.len() == 26, "{made}");
    assert!(!everything(&owner).await.iter().any(|row| row.contains(&password)), "only its hash is kept");

    let listed = outgate.succeeds(&["credential", "list", "acme"]).await;
    let expected = "\tvalid\tnever used\tPrinter\tann@acme.example, from 192.0.2.0/24, 60 a minute\n";
    assert_eq!(listed, format!("{user_name}{expected}"));
    assert_eq!(outgate.succeeds(&["credential", "list", "birch"]).await, "");

    let revoked = outgate.succeeds(&["credential", "revoke", "acme", &user_name]).await;
    assert!(revoked.starts_with(&format!("{user_name} is revoked. Revision ")), "{revoked}");
    assert!(outgate.succeeds(&["credential", "revoke", "acme", &user_name]).await.starts_with("Nothing changed"));
    assert!(outgate.succeeds(&["credential", "list", "acme"]).await.contains("\trevoked\t"));

    let before = everything(&owner).await;
    for (command, sentence) in [
        (vec!["credential", "revoke", "birch", &user_name], format!("birch has no relay credential {user_name}")),
        (vec!["credential", "create", "nobody", "--name", "x"], "there is no organization “nobody”".to_owned()),
        (vec!["credential", "create", "acme", "--name", " "], "Enter a name".to_owned()),
        (vec!["credential", "create", "acme", "--name", "x", "--network", "all"], "“all” is not a network".to_owned()),
        (
            vec!["credential", "create", "acme", "--name", "x", "--domain", "birch.example"],
            "birch.example is not a mail domain of acme".to_owned(),
        ),
    ] {
        let ended = outgate.run(&command).await;
        assert!(ended.refusal().contains(&sentence), "{command:?}: {ended:?}");
    }
    assert_eq!(everything(&owner).await, before);
}
