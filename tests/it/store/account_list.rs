//! What the schema keeps beside the accounts: totals, and what is searched. Both always say what a slow
//! look at all accounts would.

use std::time::Duration;

use outgate::{
    mail::id::AccountId,
    store::{
        self, OrganizationTransaction,
        account_list::{self, PAGE_SIZE, Place, Position, Selection, Show},
        gateway::PointerScope,
    },
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{Installation, Tenant};

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

async fn execute(installation: &Installation, statement: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(statement.into())).execute(&installation.owner).await.unwrap();
}

/// Total, suspended, with a gateway of their own, of their domain, following.
type Totals = (i64, i64, i64, i64, i64);

async fn kept(installation: &Installation, tenant: &Tenant) -> Totals {
    let web = installation.pool_as("outgate_web").await;
    let mut transaction = OrganizationTransaction::begin(&web, tenant.id).await.unwrap();
    let kept = store::organization::summary(&mut transaction, tenant.id).await.unwrap();
    (kept.accounts, kept.suspended, kept.with_own_gateway, kept.with_domain_gateway, kept.following)
}

async fn counted(installation: &Installation, tenant: &Tenant) -> Totals {
    sqlx::query_as(
        "select count(*), count(*) filter (where status = 'suspended'),
                count(*) filter (where status = 'active' and account.outbound_gateway_id is not null),
                count(*) filter (where status = 'active' and account.outbound_gateway_id is null
                                   and domain.outbound_gateway_id is not null),
                count(*) filter (where status = 'active' and account.outbound_gateway_id is null
                                   and domain.outbound_gateway_id is null)
         from mail_account account
         join mail_domain domain on domain.organization_id = account.organization_id and domain.name = account.domain
         where account.organization_id = $1",
    )
    .bind(tenant.id.0)
    .fetch_one(&installation.owner)
    .await
    .unwrap()
}

#[sqlx::test]
async fn the_totals_follow_every_change_of_the_accounts(owner: PgPool) {
    let installation = Installation::on(owner);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    assert_eq!(kept(&installation, &acme).await, (0, 0, 0, 0, 0));
    store::domain::add(&installation.owner, acme.id, &"asia.acme.example".parse().unwrap()).await.unwrap();
    for index in 0..6 {
        installation.account(&acme, &format!("user{index}@acme.example"), &[]).await;
    }
    let ann = installation.account(&acme, "ann@asia.acme.example", &[]).await;
    installation.account(&other, "theirs@other.example", &[]).await;
    let own = PointerScope::Account(ann);
    installation.set_gateway(&acme, &own, "own.example.com").await;
    installation.set_gateway(&acme, &PointerScope::Domain("acme.example".parse().unwrap()), "domain.example.com").await;
    assert_eq!(kept(&installation, &acme).await, (7, 0, 1, 6, 0));

    for statement in [
        "update mail_account set status = 'suspended' where user_id in ('user1@acme.example', 'ann@asia.acme.example')",
        "update mail_account set outbound_gateway_id = (select id from gateway limit 1) where user_id < 'user3' and user_id > 'user'",
        "update mail_account set user_id = 'user2@asia.acme.example' where user_id = 'user2@acme.example'",
        "update mail_account set status = 'active', name = 'x'",
        "delete from mail_account where user_id > 'user4'",
        "update mail_account set outbound_gateway_id = null",
    ] {
        execute(&installation, statement).await;
        assert_eq!(kept(&installation, &acme).await, counted(&installation, &acme).await, "{statement}");
        assert_eq!(kept(&installation, &other).await, counted(&installation, &other).await, "{statement}");
    }
    assert_eq!(kept(&installation, &acme).await.0, 5);
}

#[sqlx::test]
async fn a_change_from_one_gateway_to_another_touches_neither_the_totals_nor_the_search(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let ann = PointerScope::Account(installation.account(&acme, "ann@acme.example", &[]).await);
    installation.set_gateway(&acme, &ann, "one.example.com").await;
    let rows = "select string_agg(xmin::text || ctid, ',') from
                (select xmin, ctid from account_count union all select xmin, ctid from mail_account_search) rows";
    let before: String = sqlx::query_scalar(rows).fetch_one(&installation.owner).await.unwrap();
    installation.set_gateway(&acme, &ann, "two.example.com").await;
    let after: String = sqlx::query_scalar(rows).fetch_one(&installation.owner).await.unwrap();
    assert_eq!(before, after);
}

#[sqlx::test]
async fn a_long_import_makes_no_save_wait_for_the_totals(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let ann = PointerScope::Account(installation.account(&acme, "ann@acme.example", &[]).await);
    installation.account(&acme, "bob@acme.example", &[]).await;
    let mut import = installation.owner.begin().await.unwrap();
    for statement in [
        "update mail_account set status = 'suspended' where user_id = 'bob@acme.example'",
        "insert into mail_account (organization_id, id, user_id) select organization_id, gen_random_uuid(), 'cy@acme.example' from mail_account limit 1",
    ] {
        sqlx::raw_sql(statement).execute(&mut *import).await.unwrap();
    }
    // Would wait for ever if it waited.
    installation.set_gateway(&acme, &ann, "own.example.com").await;
    assert_eq!(kept(&installation, &acme).await, (2, 0, 1, 0, 1));
    import.commit().await.unwrap();
    installation.set_gateway(&acme, &ann, "").await;
    assert_eq!(kept(&installation, &acme).await, (3, 1, 0, 0, 2));
    let parts: i64 =
        sqlx::query_scalar("select count(*) from account_count").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(parts, 1, "what the two left is added up");
}

const NAMES: [&str; 8] =
    ["", "Ann O'Hara", "50% \\ off_\"quoted\"", "Ångström Øre", "ΟΔΥΣΣΕΥΣ", "山田 太郎", "عبد الرحمن", "Zoë 👩‍💻 ß"];
const LOCAL_PARTS: [&str; 6] = ["ann", "bob_50%", "o'hara", "zoe.x", "aa", "b-c+d"];

/// Some hundred accounts with names in many scripts, further addresses, and some that were renamed.
async fn crowd(installation: &Installation, tenant: &Tenant, numbers: &mut Numbers, size: usize) {
    for index in 0..size {
        let local_part = LOCAL_PARTS[numbers.below(LOCAL_PARTS.len())];
        let aliases: Vec<String> =
            (0..numbers.below(3)).map(|alias| format!("alias{alias}.{index}@{}", tenant.domain)).collect();
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        let id = installation.account(tenant, &format!("{local_part}{index}@{}", tenant.domain), &aliases).await;
        let name = format!("{} {}", NAMES[numbers.below(NAMES.len())], numbers.below(100));
        sqlx::query("update mail_account set name = $2 where id = $1")
            .bind(id.0)
            .bind(name)
            .execute(&installation.owner)
            .await
            .unwrap();
        if numbers.below(10) == 0 {
            execute(
                installation,
                format!(
                    "insert into mail_address (organization_id, address, account_id) select organization_id, 'renamed{index}@{0}', id from mail_account where id = '{1}';
                     update mail_account set user_id = 'renamed{index}@{0}' where id = '{1}'",
                    tenant.domain, id
                ),
            )
            .await;
        }
    }
}

/// What a slow look at every account finds: first those whose User ID begins with it.
async fn naively(installation: &Installation, tenant: &Tenant, needle: &str, own: bool) -> Vec<String> {
    sqlx::query_scalar(
        "select user_id from mail_account account
         where organization_id = $1 and (not $3 or outbound_gateway_id is not null)
           and (strpos(lower(name), lower($2)) > 0
                or exists (select from mail_address where account_id = account.id and strpos(address, lower($2)) > 0))
         order by not starts_with(user_id, lower($2)), user_id",
    )
    .bind(tenant.id.0)
    .bind(needle)
    .bind(own)
    .fetch_all(&installation.owner)
    .await
    .unwrap()
}

/// The User IDs on all pages: turned over to the last one, or back from it.
async fn turned_over(web: &PgPool, tenant: &Tenant, needle: &str, show: Show, backwards: bool) -> Vec<String> {
    let mut transaction = OrganizationTransaction::begin(web, tenant.id).await.unwrap();
    let mut seen: Vec<String> = Vec::new();
    let end = "\u{10FFFF}".to_owned();
    let mut from = if backwards { Some(end) } else { None };
    loop {
        let place = Place { user_id: from.as_deref().unwrap_or_default(), name: "" };
        let position = match (&from, backwards) {
            (None, _) => Position::First,
            (_, true) => Position::Before(place),
            (_, false) => Position::After(place),
        };
        let selection = Selection { search: Some(needle), show, position, ..Selection::default() };
        let page = account_list::page(&mut transaction, tenant.id, &selection).await.unwrap();
        let ids: Vec<String> = page.rows.iter().map(|row| row.account.user_id.to_string()).collect();
        let is_more = if backwards { page.has_previous } else { page.has_next };
        if backwards && !is_more {
            // Close to the beginning the first page is shown, with rows that were seen already.
            let new: Vec<String> = ids.into_iter().filter(|id| !seen.contains(id)).collect();
            seen.splice(0..0, new);
            return seen;
        }
        from = if backwards { ids.first().cloned() } else { ids.last().cloned() };
        if backwards {
            drop(seen.splice(0..0, ids))
        } else {
            seen.extend(ids)
        }
        if !is_more {
            return seen;
        }
        assert_eq!(page.rows.len(), PAGE_SIZE);
    }
}

#[sqlx::test]
async fn a_search_finds_exactly_what_a_slow_look_at_every_account_finds(owner: PgPool) {
    let installation = Installation::on(owner);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let mut numbers = Numbers(20261124);
    crowd(&installation, &acme, &mut numbers, 260).await;
    crowd(&installation, &other, &mut numbers, 20).await;
    execute(
        &installation,
        "delete from mail_address where address like 'alias1.1%'; delete from mail_account where user_id like 'aa1%';
         insert into gateway (organization_id, id, address, revision) select id, id, 'own.example.com', 1 from organization;
         insert into gateway_revision (organization_id, gateway_id, revision, address) select id, id, 1, 'own.example.com' from organization;
         update mail_account set outbound_gateway_id = organization_id where ascii(right(split_part(user_id, '@', 1), 1)) % 3 = 0;
         analyze",
    )
    .await;
    let haystacks: Vec<String> =
        sqlx::query_scalar("select lower(name) || E'\\n' || user_id from mail_account order by user_id")
            .fetch_all(&installation.owner)
            .await
            .unwrap();
    let mut needles: Vec<String> = [
        "a",
        "@",
        "%",
        "_",
        "\\",
        "'",
        "\"",
        "山",
        "太郎",
        "👩",
        "ß",
        "ΔΥΣ",
        "الرحمن",
        "acme.example",
        "ALIAS0.",
        "é",
        "qqq",
        " ",
    ]
    .map(str::to_owned)
    .to_vec();
    for _ in 0..60 {
        let text: Vec<char> = haystacks[numbers.below(haystacks.len())].chars().filter(|it| *it != '\n').collect();
        let start = numbers.below(text.len());
        let length = 1 + numbers.below(7);
        needles.push(text[start..].iter().take(length).collect());
    }
    let web = installation.pool_as("outgate_web").await;
    let mut hits = 0;
    for needle in needles {
        for (show, own) in [(Show::All, false), (Show::Own, true)] {
            let expected = naively(&installation, &acme, &needle, own).await;
            hits += expected.len();
            for backwards in [false, true] {
                let found = turned_over(&web, &acme, &needle, show, backwards).await;
                assert_eq!(found, expected, "{needle:?}, {show:?}, backwards: {backwards}");
            }
        }
    }
    assert!(hits > 1000, "the needles find something: {hits}");
}

#[sqlx::test]
async fn the_search_without_a_walk_finds_the_same(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    // So many that a rare one is not among the first that are looked through.
    execute(
        &installation,
        format!(
            "with added as (insert into mail_account (organization_id, id, user_id, name)
                 select '{}', gen_random_uuid(), format('user%s@acme.example', lpad(n::text, 5, '0')),
                        'Name ' || n || ' of the house' from generate_series(1, 9000) n returning *)
             insert into mail_address (organization_id, address, account_id) select organization_id, user_id, id from added",
            acme.id
        ),
    )
    .await;
    let zoe = installation.account(&acme, "zoe@acme.example", &["it's.odd@acme.example"]).await;
    execute(&installation, format!("update mail_account set name = 'Zoë \\ ''Q''' where id = '{zoe}'")).await;
    let web = installation.pool_as("outgate_web").await;
    let short = ["zoë", "ë", "\\", "'q'", "\\ 'Q'", "it's.o", "zo", "8765", "user0876", "nobody", "08", "name 9", "e"];
    // One has it, nobody, a tenth of them, all.
    let long =
        ["E 8765 of the House", "8765 of their house", "5 of the house", "name 1 of the house", "e of the house"];
    for needle in short.into_iter().chain(long) {
        let expected = naively(&installation, &acme, needle, false).await;
        let found = turned_over(&web, &acme, needle, Show::All, false).await;
        assert_eq!(found, expected, "{needle:?}");
    }
}

#[sqlx::test]
async fn nobody_finds_accounts_of_another_organization_by_the_function(owner: PgPool) {
    let installation = Installation::on(owner);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    installation.account(&other, "secret@other.example", &[]).await;
    let web = installation.pool_as("outgate_web").await;
    let relay = installation.relay_pool().await;
    let of_other = format!("'{}', 'secret', 'secret'", other.id);
    // The last two are for pages of the versions before.
    for search in [
        format!("unnest(accounts_found({of_other}, null, '', false, false, 51))"),
        format!("find_accounts({of_other}, '', false, false, 51)"),
        "find_accounts('secret', 'secret', '', false, false, 51)".to_owned(),
    ] {
        let search = || AssertSqlSafe(format!("select count(*) from {search}"));
        for (tenant, found) in [(None, 0_i64), (Some(&acme), 0), (Some(&other), 1)] {
            let mut transaction = web.begin().await.unwrap();
            if let Some(tenant) = tenant {
                sqlx::query("select set_config('outgate.organization', $1, true)")
                    .bind(tenant.id.to_string())
                    .execute(&mut *transaction)
                    .await
                    .unwrap();
            }
            let seen: i64 = sqlx::query_scalar(search()).fetch_one(&mut *transaction).await.unwrap();
            assert_eq!(seen, found, "{}", search().0);
        }
        assert!(sqlx::query(search()).execute(&relay).await.is_err(), "the relay searches for nobody");
    }
}

/// How long the second of two may take to come to the row that the first has locked.
const PATIENCE: Duration = Duration::from_secs(10);

async fn until_somebody_waits(owner: &PgPool) {
    let waiting =
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(owner).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

#[sqlx::test]
async fn two_who_add_addresses_to_one_account_at_once_are_both_found(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let ann: AccountId = installation.account(&acme, "ann@acme.example", &[]).await;
    let add = |address: &str| {
        format!(
            "insert into mail_address (organization_id, address, account_id) values ('{}', '{address}', '{ann}')",
            acme.id
        )
    };
    let mut first = installation.owner.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(add("first@acme.example"))).execute(&mut *first).await.unwrap();
    let second = sqlx::raw_sql(AssertSqlSafe(add("second@acme.example")));
    let (second, ()) = tokio::join!(second.execute(&installation.owner), async {
        tokio::time::timeout(PATIENCE, until_somebody_waits(&installation.owner)).await.expect("the second waits");
        first.commit().await.unwrap();
    });
    second.unwrap();
    let haystack: String =
        sqlx::query_scalar("select haystack from mail_account_search").fetch_one(&installation.owner).await.unwrap();
    assert_eq!(haystack, "ann\nann@acme.example\nfirst@acme.example\nsecond@acme.example");
}
