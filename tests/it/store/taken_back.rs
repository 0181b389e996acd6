//! Whatever pages and commands write is taken back and brought back exactly, with counts and search.
//! Beside `undo`, which writes the items itself.

use std::time::Duration;

use outgate::{
    mail::id::{AccountId, ChangeId},
    store::{
        self, OrganizationTransaction,
        account::{self, AccountError, Edited, NewAccount},
        gateway::{self, PointerScope},
        selected_accounts::{self, Accounts, Order},
        undo::{self, Impossible, Undo, What},
    },
};
use sqlx::PgPool;

use crate::support::{Installation, Tenant};

const BEA: &str = "bea@acme.example";

struct Scene {
    installation: Installation,
    acme: Tenant,
    web: PgPool,
    ann: AccountId,
    bob: AccountId,
}

async fn scene(owner: PgPool) -> Scene {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example", "sales@acme.example"]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "own.example.com").await;
    let web = installation.pool_as("outgate_web").await;
    Scene { installation, acme, web, ann, bob }
}

impl Scene {
    async fn begin(&self) -> OrganizationTransaction {
        OrganizationTransaction::begin(&self.web, self.acme.id).await.unwrap()
    }

    async fn last_change(&self) -> ChangeId {
        let id = sqlx::query_scalar("select id from change order by revision desc limit 1");
        ChangeId(id.fetch_one(&self.installation.owner).await.unwrap())
    }

    async fn undo_last(&self) {
        let undone = undo::undo(self.begin().await, self.last_change().await, BEA).await.unwrap();
        assert!(matches!(undone, Undo::Done(_)), "{undone:?}");
    }

    /// Everything that routes or is listed, as one text.
    async fn state(&self) -> String {
        let statement = "select concat(
            (select jsonb_agg(to_jsonb(organization) order by id) from organization),
            (select jsonb_agg(to_jsonb(mail_domain) order by name) from mail_domain),
            (select jsonb_agg(to_jsonb(mail_account) - 'created_at' order by id) from mail_account),
            (select jsonb_agg(to_jsonb(mail_address) order by address) from mail_address),
            (select jsonb_agg(to_jsonb(mail_account_search) order by account_id) from mail_account_search))";
        sqlx::query_scalar(statement).fetch_one(&self.installation.owner).await.unwrap()
    }

    /// The kept counts and what is searched say what is there.
    async fn counts_hold(&self) {
        let (counted, searched): (bool, bool) = sqlx::query_as(
            "select not exists (
                 select domain, sum(accounts), sum(suspended), sum(with_own_gateway) from account_count group by domain
                 having sum(accounts) <> 0
                 except
                 select domain, count(*), count(*) filter (where status = 'suspended'),
                        count(*) filter (where status = 'active' and outbound_gateway_id is not null)
                 from mail_account group by domain)
             and (select coalesce(sum(accounts), 0) from account_count) = (select count(*) from mail_account),
             not exists (
                 select account.id, account.user_id, lower(account.name) || e'\\n' || string_agg(address, e'\\n' order by address)
                 from mail_account account join mail_address on account_id = account.id group by account.id, account.user_id, account.name
                 except select account_id, user_id, haystack from mail_account_search)
             and (select count(*) from mail_account) = (select count(*) from mail_account_search)",
        )
        .fetch_one(&self.installation.owner)
        .await
        .unwrap();
        assert!(counted, "counts");
        assert!(searched, "search");
    }

    /// Takes the last change back, brings it back, and takes that back.
    async fn there_and_back(&self, before: &str, what: &str) {
        let after = self.state().await;
        assert_ne!(before, after, "{what} changed something");
        for (round, expected) in [before, &after, before, &after].into_iter().enumerate() {
            self.counts_hold().await;
            self.undo_last().await;
            assert_eq!(self.state().await, expected, "{what}, round {round}");
        }
        self.counts_hold().await;
    }

    fn order(&self, accounts: Accounts, expected: i64, address: Option<&str>) -> Order {
        Order {
            accounts,
            change: ChangeId::new(),
            expected,
            address: address.map(|address| address.parse().unwrap()),
            actor: BEA.to_owned(),
            in_words: |count| format!("{count} accounts"),
        }
    }

    async fn select(&self, address: Option<&str>) {
        let order = self.order(Accounts::Ticked(vec![self.ann, self.bob]), 2, address);
        let set = selected_accounts::set(self.begin().await, &order, |_| ()).await.unwrap();
        assert!(matches!(set, selected_accounts::Set::Changed(_)), "{set:?}");
    }
}

fn new(user_id: &str, alias: &str) -> NewAccount {
    NewAccount { user_id: user_id.parse().unwrap(), name: "Dan".to_owned(), aliases: vec![alias.parse().unwrap()] }
}

fn changed(edited: Result<Edited, AccountError>) {
    let edited = edited.unwrap();
    assert!(matches!(edited, Edited::Changed(_)), "{edited:?}");
}

#[sqlx::test]
async fn every_form_of_one_account_is_taken_back_exactly(owner: PgPool) {
    let scene = scene(owner).await;
    let (ann, bob) = (scene.ann, scene.bob);
    let before = scene.state().await;
    let (dan, address) = (new("dan@acme.example", "d@acme.example"), "dan-gw.example.com:587".parse().unwrap());
    let added = account::add_as(scene.begin().await, ChangeId::new(), &dan, Some(&address), BEA).await;
    added.unwrap();
    scene.there_and_back(&before, "add").await;

    for renamed in ["anna@acme.example", "a@acme.example", "ann@acme.example"] {
        let before = scene.state().await;
        changed(account::rename(scene.begin().await, ann, &renamed.parse().unwrap(), None, BEA).await);
        scene.there_and_back(&before, renamed).await;
    }
    let before = scene.state().await;
    changed(account::set_name(scene.begin().await, ann, "Ann Adams", None, BEA).await);
    scene.there_and_back(&before, "name").await;
    for (account, suspended) in [(ann, true), (bob, true), (ann, false)] {
        let before = scene.state().await;
        changed(account::set_status(scene.begin().await, account, suspended, BEA).await);
        scene.there_and_back(&before, "status").await;
    }
    let before = scene.state().await;
    let further = ["news@acme.example".parse().unwrap(), "sales@acme.example".parse().unwrap()];
    changed(account::set_addresses(scene.begin().await, ann, &further, None, BEA).await);
    scene.there_and_back(&before, "addresses").await;
    for account in [ann, bob] {
        let before = scene.state().await;
        changed(account::delete(scene.begin().await, account, None, BEA).await);
        scene.there_and_back(&before, "delete").await;
    }
}

#[sqlx::test]
async fn many_pointers_and_a_requirement_are_taken_back_exactly(owner: PgPool) {
    let scene = scene(owner).await;
    for address in [Some("new.example.com"), Some("own.example.com"), None] {
        let before = scene.state().await;
        scene.select(address).await;
        scene.there_and_back(&before, &format!("{address:?}")).await;
    }
    let before = scene.state().await;
    gateway::set_must_use(scene.begin().await, true, BEA).await.unwrap();
    scene.there_and_back(&before, "requirement").await;
}

#[sqlx::test]
async fn an_import_that_adds_changes_moves_and_removes_is_taken_back_exactly(owner: PgPool) {
    let scene = scene(owner).await;
    scene.installation.account(&scene.acme, "eve@acme.example", &["news@acme.example"]).await;
    // Ann's alias goes to a new account, Eve's to Ann, Ann loses her gateway, Bob gets one and an id, Eve goes.
    let file = "user_id,name,aliases,status,outbound_gateway,external_id\n\
                ann@acme.example,Änn,news@acme.example,suspended,-,\n\
                bob@acme.example,-,,,bob.example.com:2525,e-1\n\
                dan@acme.example,Dan,sales@acme.example;a@acme.example,,own.example.com,e-2\n";
    let before = scene.state().await;
    let staged = scene.installation.import(&scene.acme, file, true, Some(1)).await.unwrap();
    assert_eq!((staged.counts.added, staged.counts.changed, staged.counts.removed), (1, 2, 1));
    scene.there_and_back(&before, "import").await;
}

#[sqlx::test]
async fn two_thousand_imported_and_removed_accounts_come_back_as_one_change(owner: PgPool) {
    let scene = scene(owner).await;
    let mut file = "user_id,name,aliases,outbound_gateway\nann@acme.example,Ann,-,\n".to_owned();
    for user in 0..2_000 {
        file.push_str(&format!(
            "user{user}@acme.example,User {user},u{user}@acme.example,gw{}.example.com\n",
            user % 7
        ));
    }
    let before = scene.state().await;
    scene.installation.import(&scene.acme, &file, true, Some(1)).await.unwrap();
    let after = scene.state().await;
    for expected in [&before, &after, &before] {
        scene.undo_last().await;
        assert!(scene.state().await == *expected);
        scene.counts_hold().await;
    }
}

#[sqlx::test]
async fn an_undo_of_accounts_and_an_import_never_interleave(owner: PgPool) {
    let scene = scene(owner).await;
    changed(account::set_name(scene.begin().await, scene.bob, "Bob", None, BEA).await);
    let change = scene.last_change().await;
    let mut import = scene.begin().await;
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('outgate accounts ' || $1, 0))")
        .bind(scene.acme.id.to_string())
        .execute(&mut *import)
        .await
        .unwrap();
    let mut impatient = scene.begin().await;
    sqlx::query("set local lock_timeout = '200ms'").execute(&mut *impatient).await.unwrap();
    let error = undo::undo(impatient, change, BEA).await.expect_err("it did not wait for the import");
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("55P03"), "{error}");
    drop(import);
    scene.undo_last().await;
}

#[sqlx::test]
async fn a_removed_gateway_comes_back_under_its_id_and_then_what_pointed_at_it(owner: PgPool) {
    let scene = scene(owner).await;
    let scope = PointerScope::Account(scene.ann);
    let own = scene.installation.gateway_of(&scene.acme, "own.example.com").await;
    gateway::set(scene.begin().await, &scope, None, BEA).await.unwrap();
    let emptied = scene.last_change().await;
    let gateways = "select (jsonb_agg(to_jsonb(gateway) - 'created_at'), (select jsonb_agg(to_jsonb(r) - 'created_at')
                    from gateway_revision r))::text from gateway";
    let there: String = sqlx::query_scalar(gateways).fetch_one(&scene.installation.owner).await.unwrap();
    gateway::remove(scene.begin().await, own, BEA).await.unwrap();
    let removed = scene.last_change().await;

    let Undo::InTheWay(obstacles) = undo::undo(scene.begin().await, emptied, BEA).await.unwrap() else { panic!() };
    assert_eq!(obstacles.first[0].what, What::GatewayGone);

    let done = undo::undo(scene.begin().await, removed, BEA).await.unwrap();
    assert!(matches!(done, Undo::Done(_)), "{done:?}");
    let again: String = sqlx::query_scalar(gateways).fetch_one(&scene.installation.owner).await.unwrap();
    assert_eq!(again, there);
    let done = undo::undo(scene.begin().await, emptied, BEA).await.unwrap();
    assert!(matches!(done, Undo::Done(_)), "{done:?}");

    // One that was typed again meanwhile is another gateway.
    gateway::set(scene.begin().await, &scope, None, BEA).await.unwrap();
    gateway::remove(scene.begin().await, own, BEA).await.unwrap();
    let removed = scene.last_change().await;
    scene.installation.set_gateway(&scene.acme, &scope, "own.example.com").await;
    let Undo::InTheWay(obstacles) = undo::undo(scene.begin().await, removed, BEA).await.unwrap() else { panic!() };
    assert_eq!((&obstacles.first[0].what, &*obstacles.first[0].subject), (&What::GatewayThere, "own.example.com"));
    let set = scene.last_change().await;
    let done = undo::undo(scene.begin().await, set, BEA).await.unwrap();
    assert!(matches!(done, Undo::Done(_)), "a gateway that a change made stays: {done:?}");
    assert!(!matches!(
        undo::undo(scene.begin().await, scene.last_change().await, BEA).await.unwrap(),
        Undo::Impossible(Impossible::NotRecorded)
    ));
}

/// Waits until somebody waits for a lock.
async fn until_blocked(owner: &PgPool) {
    let blocked = async {
        let waiting = "select exists (select from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(owner).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), blocked).await.expect("nobody waits for a lock");
}

#[sqlx::test]
async fn who_points_at_a_gateway_that_is_being_removed_makes_it_anew(owner: PgPool) {
    let scene = scene(owner).await;
    let own = scene.installation.gateway_of(&scene.acme, "own.example.com").await;
    gateway::set(scene.begin().await, &PointerScope::Account(scene.ann), None, BEA).await.unwrap();
    let mut removing = scene.begin().await;
    sqlx::query("delete from gateway where id = $1").bind(own.0).execute(&mut *removing).await.unwrap();
    let address = "own.example.com".parse().unwrap();
    let (scope, begun) = (PointerScope::Account(scene.bob), scene.begin().await);
    let (set, ()) = tokio::join!(gateway::set(begun, &scope, Some(&address), BEA), async {
        until_blocked(&scene.installation.owner).await;
        removing.commit().await.unwrap();
    });
    assert!(matches!(set.unwrap(), gateway::Set::Changed(_)));
    assert_ne!(scene.installation.gateway_of(&scene.acme, "own.example.com").await, own);
}

#[sqlx::test]
async fn a_gateway_that_somebody_is_pointing_at_is_not_removed(owner: PgPool) {
    let scene = scene(owner).await;
    let own = scene.installation.gateway_of(&scene.acme, "own.example.com").await;
    gateway::set(scene.begin().await, &PointerScope::Account(scene.ann), None, BEA).await.unwrap();
    let mut pointing = scene.begin().await;
    let point = "update mail_account set outbound_gateway_id = $1 where id = $2";
    sqlx::query(point).bind(own.0).bind(scene.bob.0).execute(&mut *pointing).await.unwrap();
    let begun = scene.begin().await;
    let (removed, ()) = tokio::join!(gateway::remove(begun, own, BEA), async {
        until_blocked(&scene.installation.owner).await;
        pointing.commit().await.unwrap();
    });
    assert!(matches!(removed.unwrap(), gateway::Removed::InUse));
}

#[sqlx::test]
async fn a_new_account_and_a_renamed_one_that_want_the_same_address_are_told_so_and_never_stuck(owner: PgPool) {
    let scene = scene(owner).await;
    for round in 0..40 {
        let wanted = format!("wanted{round}@acme.example");
        let dan = new(&wanted, &format!("w{round}@acme.example"));
        let (one, other) = (scene.begin().await, scene.begin().await);
        let user_id = wanted.parse().unwrap();
        let (added, renamed) =
            tokio::join!(account::add(one, &dan, BEA), account::rename(other, scene.bob, &user_id, None, BEA));
        let taken = [added.err(), renamed.err()].into_iter().flatten().collect::<Vec<_>>();
        assert!(matches!(taken[..], [AccountError::AddressTaken { .. }]), "{taken:?}");
    }
    scene.counts_hold().await;
}

#[sqlx::test]
async fn saves_bulk_changes_imports_and_undos_at_once_all_end_well(owner: PgPool) {
    let scene = scene(owner).await;
    let mut file = "user_id,name\n".to_owned();
    for user in 0..400 {
        file.push_str(&format!("user{user:03}@acme.example,User\n"));
    }
    scene.installation.import(&scene.acme, &file, false, None).await.unwrap();
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("select id from mail_account where name = 'User' order by user_id")
        .fetch_all(&scene.installation.owner)
        .await
        .unwrap();
    let all = || Accounts::Ticked(ids.iter().map(|id| AccountId(*id)).collect());
    let (bulk_a, bulk_b) =
        (scene.order(all(), 400, Some("a.example.com")), scene.order(all(), 400, Some("b.example.com")));
    let bulk = async |order: &Order| {
        selected_accounts::set(scene.begin().await, order, |_| ()).await.unwrap();
    };
    let saves = async |first: usize| {
        for (index, id) in ids.iter().enumerate().skip(first).step_by(16).take(25) {
            let address = format!("{}.example.com", ["a", "b", "c"][index % 3]).parse().unwrap();
            let scope = PointerScope::Account(AccountId(*id));
            gateway::set(scene.begin().await, &scope, Some(&address), BEA).await.unwrap();
            let name = format!("User {index}");
            account::set_name(scene.begin().await, AccountId(*id), &name, None, BEA).await.unwrap();
            let last = scene.last_change().await;
            undo::undo(scene.begin().await, last, BEA).await.unwrap();
        }
    };
    let importing = async {
        for round in 0..3 {
            let file = file.replace(",User", &format!(",Imported {round}"));
            scene.installation.import(&scene.acme, &file, false, None).await.unwrap();
        }
    };
    tokio::join!(saves(3), bulk(&bulk_a), saves(7), bulk(&bulk_b), importing);
    scene.counts_hold().await;
    let twice = selected_accounts::set(scene.begin().await, &bulk_a, |_| ()).await.unwrap();
    assert!(matches!(twice, store::selected_accounts::Set::Before), "{twice:?}");
}
