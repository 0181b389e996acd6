//! Mail Account Manager.
//! The page of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    admin: Browser,
    path: String,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let path = page_of(&acme, "mail-account-manager");
    Scene { installation, acme, admin, path }
}

#[sqlx::test]
async fn every_row_says_where_the_mail_leaves_and_which_scope_says_so(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    outgate::store::domain::add(&installation.owner, acme.id, &"asia.acme.example".parse().unwrap()).await.unwrap();
    installation.account(&acme, "chen@asia.acme.example", &[]).await;
    let rows = admin.get(&path).await.rows();
    assert_eq!(rows[0], "ann@acme.example ann Directly to recipients' servers platform Active");

    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp.example.com:587").await;
    installation.set_gateway(&acme, &PointerScope::Domain("asia.acme.example".parse().unwrap()), "192.0.2.25").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    sqlx::query("update mail_account set status = 'suspended' where user_id = 'bob@acme.example'")
        .execute(&installation.owner)
        .await
        .unwrap();

    let page = admin.get(&path).await;
    assert_eq!(
        page.rows(),
        [
            "ann@acme.example ann dlp.example.com port 587 own Active",
            "bob@acme.example bob archive.example.com port 25 organization Suspended",
            "chen@asia.acme.example chen 192.0.2.25 port 25 domain Active",
        ]
    );
    for part in [r#"<th scope="row""#, "<caption", r#"aria-label="Outbound Gateway" aria-describedby="user-"#] {
        assert!(page.html.contains(part), "{part} in {}", page.html);
    }
    for heading in ["Outbound Gateway", "Status", "Action"] {
        assert!(page.html.contains(&format!(">{heading}</th>")), "{heading}");
    }
    for sorted_by in ["User ID", "Name"] {
        page.link(sorted_by);
    }
    assert_eq!(page.html.matches(r#"aria-label="Delete own gateway""#).count(), 1, "only ann has one to delete");
}

#[sqlx::test]
async fn selecting_a_user_id_leads_to_the_account_and_back_to_the_marked_row(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    let mut ids = Vec::new();
    for user in ["ann", "bob", "cy"] {
        ids.push(installation.account(&acme, &format!("{user}@acme.example"), &[]).await);
    }
    installation.set_gateway(&acme, &PointerScope::Account(ids[1]), "dlp.example.com").await;
    let page = admin.get(&path).await;
    assert!(!page.html.contains("class=\"marked\""));
    assert_eq!(page.link("bob@acme.example"), format!("{path}/{}", ids[1]));
    for place in ["?q=acme", "?show=own", "?sort=-user-id", "?sort=-name&after=cy%40acme.example&name=cy"] {
        let page = admin.get(&format!("{path}{place}")).await;
        assert_eq!(page.link("bob@acme.example"), format!("{path}/{}{place}", ids[1]), "the place goes along");
        let form = page.rows_link("bob@acme.example", "Outbound Gateway");
        assert_eq!(form, format!("{path}/{}/outbound-gateway{place}", ids[1]));
        let saved = admin.submit(&form, &[("outbound_gateway", "mail.example.com")]).await;
        assert!(saved.path.starts_with(&format!("{path}{place}&selected={}", ids[1])), "{}", saved.path);
        let marked = saved.html.split_once("class=\"marked\"").expect("a marked row").1;
        assert!(marked.split_once("</tr>").unwrap().0.contains("bob@acme.example"), "{marked}");
        installation.set_gateway(&acme, &PointerScope::Account(ids[1]), "dlp.example.com").await;
    }
}

#[sqlx::test]
async fn a_search_finds_the_beginning_or_a_part_of_user_id_name_or_address(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    outgate::store::domain::add(&installation.owner, acme.id, &"bücher.example".parse().unwrap()).await.unwrap();
    installation.account(&acme, "ann@acme.example", &["annika@acme.example"]).await;
    installation.account(&acme, "bob_50%@acme.example", &[]).await;
    installation.account(&acme, "cy@bücher.example", &[]).await;
    for statement in [
        "update mail_account set name = 'Ångström, Ann' where user_id = 'ann@acme.example'",
        "update mail_account set name = 'İpek ΟΔΥΣΣΕΥΣ' where user_id = 'cy@xn--bcher-kva.example'",
    ] {
        sqlx::query(statement).execute(&installation.owner).await.unwrap();
    }

    for (typed, found) in [
        ("ann", vec!["ann@acme.example"]),
        ("ANNIKA@", vec!["ann@acme.example"]),
        ("strÖm", vec!["ann@acme.example"]),
        ("İpek", vec!["cy@bücher.example"]),
        ("ΔΥΣΣΕΥΣ", vec!["cy@bücher.example"]),
        ("  acme.example ", vec!["ann@acme.example", "bob_50%@acme.example"]),
        ("%", vec!["bob_50%@acme.example"]),
        ("_", vec!["bob_50%@acme.example"]),
        ("\\", vec![]),
        ("'; drop table mail_account; --", vec![]),
        ("bücher.example", vec!["cy@bücher.example"]),
        ("CY@Bücher.example", vec!["cy@bücher.example"]),
        ("a\0n\nn", vec!["ann@acme.example"]),
        ("nobody", vec![]),
    ] {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("q", typed).finish();
        let page = admin.get(&format!("{path}?{query}")).await;
        assert_eq!(page.status, 200, "{typed:?}");
        let rows = page.rows();
        let ids: Vec<&str> = rows.iter().map(|row| row.split(' ').next().unwrap()).collect();
        assert_eq!(ids, found, "{typed:?}");
        if found.is_empty() {
            assert!(page.text().contains("Check the spelling, or search for a part of it."), "{}", page.text());
        } else {
            assert!(page.text().contains(&format!(" {} found", found.len())), "{}", page.text());
        }
    }
}

#[sqlx::test]
async fn a_hundred_and_twenty_accounts_are_turned_over_page_by_page_and_back(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    crowd(&installation, &acme, 120).await;

    let first = admin.get(&path).await;
    assert!(first.text().contains("120 accounts Previous Next"), "{}", first.text());
    assert!(!first.html.contains("rel=\"prev\""));
    let second = admin.get(&first.link("Next")).await;
    assert!(second.text().contains("120 accounts Previous Next"), "{}", second.text());
    let third = admin.get(&second.link("Next")).await;
    assert!(third.text().contains("120 accounts Previous Next"), "{}", third.text());
    assert!(!third.html.contains("rel=\"next\""));

    let seen: Vec<String> = [&first, &second, &third].iter().flat_map(|page| page.rows()).collect();
    let mut expected = seen.clone();
    expected.sort();
    expected.dedup();
    assert_eq!((seen.len(), &seen), (120, &expected), "every account once, in order");
    assert_eq!(admin.get(&third.link("Previous")).await.rows(), second.rows());
    assert_eq!(admin.get(&second.link("Previous")).await.rows(), first.rows());

    let found = admin.get(&format!("{path}?q=user-0")).await;
    assert!(found.text().contains("More than 50 found"), "{}", found.text());
    let found = admin.get(&found.link("Next")).await;
    assert!(
        found.rows().len() == 49 && found.text().contains("More than 50 found"),
        "the search goes along: {}",
        found.text()
    );
    assert_eq!(admin.get(&format!("{path}?before=user-010@acme.example")).await.rows(), first.rows());
}

#[sqlx::test]
async fn empty_lists_explain_the_next_step(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    let text = admin.get(&path).await.text();
    assert!(text.contains("No mail accounts yet"), "{text}");
    assert!(text.contains("Add an account, or import all of them from a file."), "{text}");

    installation.account(&acme, "ann@acme.example", &[]).await;
    let page = admin.get(&format!("{path}?after=zzz")).await;
    assert_eq!(page.link("Go to the first page"), path);
    let page = admin.get(&format!("{path}?q=ann&after=zzz")).await;
    assert_eq!(page.link("Go to the first page"), format!("{path}?q=ann"), "the search goes along");
    let page = admin.get(&format!("{path}?q=%3Cscript%3E")).await;
    assert!(page.text().contains("No account has “<script>” in its User ID, name or addresses"), "{}", page.text());
    assert!(!page.html.contains("<script>"), "{}", page.html);
}

#[sqlx::test]
async fn nothing_that_a_tenant_typed_becomes_markup(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    let polyglot = r#"'"><img src=x onerror=alert(1)>{{7*7}}</title></script>"#;
    installation.account(&acme, r#""<b>'"@acme.example"#, &[]).await;
    sqlx::query("update mail_account set name = $1").bind(polyglot).execute(&installation.owner).await.unwrap();
    sqlx::query("update organization set name = $1").bind(polyglot).execute(&installation.owner).await.unwrap();
    let form = admin.get(&path).await.link("Outbound Gateway");
    for path in [
        path.clone(),
        form,
        "/acme/administration".to_owned(),
        "/acme/web-mail-cloud".to_owned(),
        page_of(&acme, "outbound-mail-gateway"),
    ] {
        let page = admin.get(&path).await;
        assert_eq!(page.status, 200, "{path}");
        for markup in ["<img", "<b>", "'\"><", "</script>{"] {
            assert!(!page.html.contains(markup), "{markup} on {path}: {}", page.html);
        }
        assert!(page.text().contains(polyglot), "shown as it was typed: {}", page.text());
    }
}

/// Accounts `user-001` and so on, faster than one by one.
async fn crowd(installation: &Installation, tenant: &Tenant, count: i32) {
    sqlx::query(
        "with added as (
             insert into mail_account (organization_id, id, user_id, name)
             select $1, gen_random_uuid(), format('user-%s@%s', lpad(n::text, 3, '0'), $2), '' from generate_series(1, $3) n
             returning organization_id, id, user_id)
         insert into mail_address (organization_id, address, account_id) select organization_id, user_id, id from added",
    )
    .bind(tenant.id.0)
    .bind(&tenant.domain)
    .bind(count)
    .execute(&installation.owner)
    .await
    .unwrap();
}
