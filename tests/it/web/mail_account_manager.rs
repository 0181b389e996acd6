//! Mail Account Manager.
//! The page of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant};

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
            "ann@acme.example ann dlp.example.com port 587 own Not checked since its change No mail yet Active",
            "bob@acme.example bob archive.example.com port 25 organization Not checked since its change No mail yet Suspended",
            "chen@asia.acme.example chen 192.0.2.25 port 25 domain Not checked since its change No mail yet Active",
        ]
    );
    for part in [r#"<th scope="row""#, "<caption", r#"aria-label="Outbound Gateway" aria-describedby="u1""#] {
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

/// The User IDs on the page, without their domain.
fn users(page: &Page) -> Vec<String> {
    page.rows().iter().map(|row| row.split('@').next().unwrap().to_owned()).collect()
}

#[sqlx::test]
async fn the_list_is_sorted_by_user_id_or_name_up_and_down_on_every_page(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    crowd(&installation, &acme, 120).await;
    sqlx::query("update mail_account set name = case when user_id < 'user-08' then 'Same' else 'b' || user_id end")
        .execute(&installation.owner)
        .await
        .unwrap();
    let up: Vec<String> = (1..=120).map(|n| format!("user-{n:03}")).collect();
    let by_name: Vec<String> = (80..=120).chain(1..=79).map(|n| format!("user-{n:03}")).collect();
    let down = |of: &[String]| of.iter().rev().cloned().collect::<Vec<_>>();
    for (sort, expected) in
        [("", up.clone()), ("-user-id", down(&up)), ("name", by_name.clone()), ("-name", down(&by_name))]
    {
        let first = admin.get(&format!("{path}?sort={sort}")).await;
        let second = admin.get(&first.link("Next")).await;
        let third = admin.get(&second.link("Next")).await;
        let seen: Vec<String> = [&first, &second, &third].into_iter().flat_map(users).collect();
        assert_eq!(seen, expected, "{sort}");
        assert!(!first.html.contains("rel=\"prev\"") && !third.html.contains("rel=\"next\""), "{sort}");
        assert_eq!(users(&admin.get(&third.link("Previous")).await), users(&second), "{sort}");
        let again = admin.get(&second.link("Previous")).await;
        assert_eq!(users(&again), users(&first), "{sort}");
        assert!(!again.html.contains("rel=\"prev\""), "{sort}");
    }
}

#[sqlx::test]
async fn only_the_heading_that_is_sorted_by_says_so_and_leads_the_other_way(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    installation.account(&acme, "ann@acme.example", &[]).await;
    for (sort, user_id, name, sorted) in [
        ("", "?sort=-user-id", "?sort=name", r#"of-id" aria-sort="ascending""#),
        ("?sort=-user-id", "", "?sort=name", r#"of-id" aria-sort="descending""#),
        ("?sort=name", "", "?sort=-name", r#"of-name" aria-sort="ascending""#),
        ("?sort=-name", "", "?sort=name", r#"of-name" aria-sort="descending""#),
        ("?sort=nonsense", "?sort=-user-id", "?sort=name", r#"of-id" aria-sort="ascending""#),
    ] {
        let page = admin.get(&format!("{path}{sort}")).await;
        assert_eq!(page.link("User ID"), format!("{path}{user_id}"), "{sort}");
        assert_eq!(page.link("Name"), format!("{path}{name}"), "{sort}");
        assert!(page.html.contains(sorted), "{sort}: {}", page.html);
        assert_eq!(page.html.matches("aria-sort").count(), 1, "{sort}");
    }
    for place in ["?q=ann", "?show=attention&sort=name"] {
        let page = admin.get(&format!("{path}{place}")).await;
        let offers = page.html.contains("aria-sort") || page.html.contains(">Name</a>");
        assert!(!offers, "what is found has an order of its own: {}", page.html);
    }
}

#[sqlx::test]
async fn a_search_lists_first_whose_user_id_begins_with_it(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    installation.account(&acme, "alf@acme.example", &["bo.alf@acme.example"]).await;
    for user in ["bo", "bob", "jumbo", "xavier"] {
        installation.account(&acme, &format!("{user}@acme.example"), &[]).await;
    }
    assert_eq!(users(&admin.get(&format!("{path}?q=BO")).await), ["bo", "bob", "alf", "jumbo"]);
}

#[sqlx::test]
async fn filters_show_own_gateways_and_what_needs_attention_also_within_a_search(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    let mut ids = Vec::new();
    for user in ["ann", "bob", "cy", "dora", "eve"] {
        ids.push(
            installation.account(&acme, &format!("{user}@acme.example"), &[&format!("{user}.x@acme.example")]).await,
        );
    }
    installation.set_gateway(&acme, &PointerScope::Account(ids[0]), "own.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Account(ids[3]), "own.example.com").await;
    let get = async |query: &str| admin.get(&format!("{path}?{query}")).await;
    assert_eq!(users(&get("show=own").await), ["ann", "dora"]);
    assert_eq!(users(&get("show=own&sort=-name").await), ["dora", "ann"]);
    assert_eq!(users(&get("show=own&q=do").await), ["dora"]);
    let page = get("show=own").await;
    assert!(page.html.contains(r#"show=own" aria-current="true">Own gateway</a>"#), "{}", page.html);
    assert!(page.text().contains("2 found"), "{}", page.text());
    assert!(page.html.contains(r#"<input type="hidden" name="show" value="own">"#), "a search stays in the filter");
    assert_eq!(page.link("Needs attention"), format!("{path}?show=attention"));
    let page = get("show=attention").await;
    assert!(page.text().contains("No account needs attention"), "{}", page.text());
    assert!(get("show=own&q=bob").await.text().contains("and a gateway of its own"));

    for (state, sender, reply) in [
        ("held", "bob@acme.example", None),
        ("waiting", "cy.x@acme.example", Some("451 later")),
        ("waiting", "cy@acme.example", Some("451 later")),
        ("waiting", "eve@acme.example", None),
        ("answer_awaited", "eve@acme.example", Some("451 later")),
    ] {
        message(&installation, &acme, state, sender, reply).await;
    }
    assert_eq!(
        get("show=attention").await.rows(),
        [
            "bob@acme.example bob Directly to recipients' servers platform 1 message held",
            "cy@acme.example cy Directly to recipients' servers platform 2 messages wait",
        ],
    );
    assert_eq!(users(&get("show=attention&q=cy").await), ["cy"]);

    sqlx::raw_sql(
        "update organization set must_use_gateway = true;
         update mail_account set status = 'suspended' where user_id = 'bob@acme.example'",
    )
    .execute(&installation.owner)
    .await
    .unwrap();
    let page = get("show=attention").await;
    assert_eq!(users(&page), ["bob", "cy", "eve"], "ann and dora have a gateway");
    assert!(page.rows()[0].ends_with("Suspended, 1 message held"), "{:?}", page.rows());
    assert!(page.rows()[1].ends_with("2 messages wait, Needs a gateway"), "{:?}", page.rows());
    assert!(page.rows()[2].ends_with("Needs a gateway"), "{:?}", page.rows());
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    assert_eq!(users(&get("show=attention").await), ["bob", "cy"], "now a gateway applies");
}

/// A message in the queue.
async fn message(installation: &Installation, tenant: &Tenant, state: &str, sender: &str, reply: Option<&str>) {
    sqlx::query(
        "insert into queued_message (organization_id, id, state, sender, reverse_path, recipients, parameters, size,
                                     last_reply, accepted_at, next_attempt_at, expires_at)
         values ($1, gen_random_uuid(), $2, $3, $3, '[]', '[]', 1, $4, now(), now(), now())",
    )
    .bind(tenant.id.0)
    .bind(state)
    .bind(sender)
    .bind(reply)
    .execute(&installation.owner)
    .await
    .unwrap();
}

#[sqlx::test]
async fn turning_over_is_right_at_both_ends_wherever_the_page_begins(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    crowd(&installation, &acme, 100).await;
    for query in ["", "q=user-", "q=acme", "show=own", "sort=name"] {
        sqlx::raw_sql(
            "insert into gateway (organization_id, id, address, revision) select id, id, 'own.example.com', 1 from organization on conflict do nothing;
             insert into gateway_revision (organization_id, gateway_id, revision, address) select id, id, 1, 'own.example.com' from organization on conflict do nothing;
             update mail_account set outbound_gateway_id = organization_id",
        )
        .execute(&installation.owner)
        .await
        .unwrap();
        let ends = async |place: &str| {
            let page = admin.get(&format!("{path}?{query}&{place}")).await;
            (page.rows().len(), page.html.contains("rel=\"prev\""), page.html.contains("rel=\"next\""))
        };
        assert_eq!(ends("").await, (50, false, true), "{query}");
        assert_eq!(ends("after=user-050%40acme.example").await, (50, true, false), "{query}: exactly two pages");
        assert_eq!(ends("after=user-099%40acme.example").await, (1, true, false), "{query}");
        assert_eq!(ends("after=user-000%40acme.example").await, (50, false, true), "{query}: nothing stands before it");
        assert_eq!(ends("before=user-051%40acme.example").await, (50, false, true), "{query}");
        assert_eq!(ends("before=user-101%40acme.example").await, (50, true, false), "{query}");
        assert_eq!(ends("before=user-003%40acme.example").await, (50, false, true), "{query}: the first page");
        assert_eq!(ends("after=user-100%40acme.example").await.0, 0, "{query}");
    }
}

#[sqlx::test]
async fn a_full_page_stays_small(db: PgPool) {
    let Scene { installation, acme, admin, path } = scene(db).await;
    crowd(&installation, &acme, 60).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com").await;
    let page = admin.get(&path).await;
    let elements = page.html.matches('<').count() - page.html.matches("</").count();
    assert!(elements <= 1500, "{elements} elements");
    let sent = admin.request(reqwest::Method::GET, &path).header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(sent.headers()["content-encoding"], "gzip");
    let sent = sent.bytes().await.unwrap().len();
    assert!(sent <= 40_000, "{sent} bytes");
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
