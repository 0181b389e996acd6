//! Every change can be taken back, unless something newer stands in the way.
//! Items are written here as the table at `store::change::ChangeItem` has them.

use outgate::{
    mail::id::{AccountId, ChangeId},
    policy::{
        limit::{Action, Kind, Limit, SenderControl, SetAt, Whose, Window},
        volume::Unit,
    },
    store::{
        OrganizationTransaction,
        change::{AuditEntry, ChangeItem, Subject},
        gateway::PointerScope,
        limit::{self, Set},
        undo::{self, Impossible, Undo, What},
    },
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use time::{Duration, OffsetDateTime, Time};

use crate::support::{Installation, Tenant, following::Following};

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
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    let bob = installation.account(&acme, "bob@acme.example", &[]).await;
    let web = installation.pool_as("outgate_web").await;
    Scene { installation, acme, web, ann, bob }
}

impl Scene {
    async fn begin(&self) -> OrganizationTransaction {
        OrganizationTransaction::begin(&self.web, self.acme.id).await.unwrap()
    }

    /// The last change of any organization.
    async fn last_change(&self) -> ChangeId {
        let id = sqlx::query_scalar("select id from change order by revision desc limit 1");
        ChangeId(id.fetch_one(&self.installation.owner).await.unwrap())
    }

    async fn undo(&self, change: ChangeId) -> Undo {
        undo::undo(self.begin().await, change, "cy@acme.example").await.unwrap()
    }

    async fn undo_last(&self) -> ChangeId {
        match self.undo(self.last_change().await).await {
            Undo::Done(committed) => committed.id,
            other => panic!("{other:?}"),
        }
    }

    /// Does what the statements say, as one change with these items.
    async fn change(&self, action: &'static str, statements: &[String], items: &[ChangeItem]) -> ChangeId {
        let mut transaction = self.begin().await;
        for statement in statements {
            sqlx::query(AssertSqlSafe(statement.as_str())).execute(&mut *transaction).await.unwrap();
        }
        let audit = AuditEntry {
            actor: "bea@acme.example".to_owned(),
            action,
            subject: "something".to_owned(),
            before: None,
            after: None,
        };
        transaction.commit_change(items, audit).await.unwrap().id
    }

    /// All that an undo may change, as one text.
    async fn state(&self) -> String {
        let statement = "select concat(
            (select jsonb_agg(jsonb_build_array(outbound_gateway_id, must_use_gateway, refuse_unknown_senders,
                                                         probe_sender) order by id) from organization),
            (select jsonb_agg(jsonb_build_array(name, outbound_gateway_id) order by name) from mail_domain),
            (select jsonb_agg(to_jsonb(mail_account) - 'created_at' order by id) from mail_account),
            (select jsonb_agg(jsonb_build_array(address, account_id) order by address) from mail_address))";
        sqlx::query_scalar(statement).fetch_one(&self.installation.owner).await.unwrap()
    }

    /// Takes the change back, and that again, and looks whether everything is as it was each time.
    async fn there_and_back(&self, before: &str) {
        let change = self.last_change().await;
        let after = self.state().await;
        assert_ne!(before, after, "the change changed something");
        let undone = self.undo_last().await;
        assert_eq!(self.state().await, before, "taken back");
        let redone = self.undo_last().await;
        assert_eq!(self.state().await, after, "and brought back");
        self.undo_last().await;
        assert_eq!(self.state().await, before, "and taken back again");
        assert!(
            matches!(self.undo(change).await, Undo::Already(by) if by.change == undone && by.by == "cy@acme.example")
        );
        assert!(matches!(self.undo(undone).await, Undo::Already(by) if by.change == redone));
    }
}

fn account(key: AccountId, before: Option<Value>, after: Option<Value>) -> ChangeItem {
    ChangeItem { subject: Subject::Account, key: key.to_string(), before, after }
}

fn whole(user_id: &str, name: &str, addresses: &[&str]) -> Value {
    json!({ "user_id": user_id, "name": name, "status": "active", "external_id": null, "outbound_gateway": null,
            "addresses": addresses })
}

#[sqlx::test]
async fn a_gateway_that_was_set_or_deleted_at_any_scope_is_as_before(owner: PgPool) {
    let scene = scene(owner).await;
    let domain = PointerScope::Domain(scene.acme.domain.parse().unwrap());
    for scope in [PointerScope::Organization, domain, PointerScope::Account(scene.ann)] {
        for address in ["a.example.com", "b.example.com", ""] {
            let before = scene.state().await;
            scene.installation.set_gateway(&scene.acme, &scope, address).await;
            scene.there_and_back(&before).await;
            scene.installation.set_gateway(&scene.acme, &scope, address).await;
        }
    }
    let (actions, befores): (Vec<String>, Vec<Option<String>>) = sqlx::query_as::<_, (String, Option<String>)>(
        "select action, audit_entry.before from audit_entry join change on change.id = change_id
         where action like 'change.%' order by revision limit 3",
    )
    .fetch_all(&scene.installation.owner)
    .await
    .unwrap()
    .into_iter()
    .unzip();
    assert_eq!(actions, ["change.undo", "change.redo", "change.undo"]);
    assert_eq!(befores, [Some("a.example.com".to_owned()), None, Some("a.example.com".to_owned())]);
}

#[sqlx::test]
async fn that_mail_must_leave_through_a_gateway_is_taken_back_without_touching_the_gateway(owner: PgPool) {
    let scene = scene(owner).await;
    let before = scene.state().await;
    let item = ChangeItem {
        subject: Subject::Organization,
        key: scene.acme.id.to_string(),
        before: Some(json!({ "must_use_gateway": false })),
        after: Some(json!({ "must_use_gateway": true })),
    };
    let statement = "update organization set must_use_gateway = true".to_owned();
    scene.change("organization.must-use-gateway", &[statement], &[item]).await;
    scene.there_and_back(&before).await;

    let redo = scene.undo_last().await;
    scene.installation.set_gateway(&scene.acme, &PointerScope::Organization, "a.example.com").await;
    assert!(matches!(scene.undo(redo).await, Undo::Done(_)), "another field of the same thing stands in nobody's way");
}

#[sqlx::test]
async fn an_account_that_was_added_is_gone_again(owner: PgPool) {
    let scene = scene(owner).await;
    let before = scene.state().await;
    scene.installation.account(&scene.acme, "dan@acme.example", &["d@acme.example"]).await;
    scene.there_and_back(&before).await;
}

#[sqlx::test]
async fn an_account_that_was_deleted_is_there_again_under_its_former_id(owner: PgPool) {
    let scene = scene(owner).await;
    scene.installation.set_gateway(&scene.acme, &PointerScope::Account(scene.ann), "own.example.com").await;
    let gateway: uuid::Uuid =
        sqlx::query_scalar("select id from gateway").fetch_one(&scene.installation.owner).await.unwrap();
    let before = scene.state().await;
    let mut ann = whole("ann@acme.example", "ann", &["a@acme.example", "ann@acme.example"]);
    ann["outbound_gateway"] = json!(gateway);
    let statement = format!("delete from mail_account where id = '{}'", scene.ann);
    scene.change("account.delete", &[statement], &[account(scene.ann, Some(ann), None)]).await;
    scene.there_and_back(&before).await;
}

#[sqlx::test]
async fn a_renamed_account_and_an_address_that_moved_are_as_before_and_relays_know_it(owner: PgPool) {
    let scene = scene(owner).await;
    let relay = Following::start(&scene.installation, "relay-1").await;
    relay.until_live(&scene.installation).await;
    let before = scene.state().await;
    // Ann and Bob swap their User IDs, and Bob gets Ann's alias.
    let (ann, bob) = (scene.ann, scene.bob);
    let statements = [
        format!("delete from mail_address where account_id in ('{ann}', '{bob}')"),
        format!("update mail_account set user_id = 'free@acme.example' where id = '{ann}'"),
        format!("update mail_account set user_id = 'ann@acme.example' where id = '{bob}'"),
        format!("update mail_account set user_id = 'bob@acme.example', name = 'Bob' where id = '{ann}'"),
        format!(
            "insert into mail_address (organization_id, address, account_id) values
             ('{org}', 'bob@acme.example', '{ann}'), ('{org}', 'ann@acme.example', '{bob}'), ('{org}', 'a@acme.example', '{bob}')",
            org = scene.acme.id
        ),
    ];
    let items = [
        account(
            ann,
            Some(
                json!({ "user_id": "ann@acme.example", "name": "ann", "addresses": ["a@acme.example", "ann@acme.example"] }),
            ),
            Some(json!({ "user_id": "bob@acme.example", "name": "Bob", "addresses": ["bob@acme.example"] })),
        ),
        account(
            bob,
            Some(json!({ "user_id": "bob@acme.example", "addresses": ["bob@acme.example"] })),
            Some(json!({ "user_id": "ann@acme.example", "addresses": ["a@acme.example", "ann@acme.example"] })),
        ),
    ];
    scene.change("account.rename", &statements, &items).await;
    scene.there_and_back(&before).await;
    scene.undo_last().await;
    relay.until_live(&scene.installation).await;
    scene.undo_last().await;
    scene.installation.set_gateway(&scene.acme, &PointerScope::Account(ann), "own.example.com").await;
    relay.until_live(&scene.installation).await;
    for (sender, own) in [("a@acme.example", true), ("ann@acme.example", true), ("bob@acme.example", false)] {
        let decision = format!("{:?}", relay.table.decide(sender));
        assert_eq!(decision.contains("own.example.com") || decision.contains("User"), own, "{sender}: {decision}");
    }
    relay.stop().await;
}

#[sqlx::test]
async fn a_change_of_ten_thousand_accounts_is_one_undo(owner: PgPool) {
    let scene = scene(owner).await;
    let statement = format!(
        "insert into mail_account (organization_id, id, user_id)
         select '{org}', gen_random_uuid(), 'user' || n || '@acme.example' from generate_series(1, 10000) n",
        org = scene.acme.id
    );
    sqlx::query(AssertSqlSafe(statement)).execute(&scene.installation.owner).await.unwrap();
    sqlx::query(
        "insert into mail_address (organization_id, address, account_id)
                 select organization_id, user_id, id from mail_account where user_id like 'user%'",
    )
    .execute(&scene.installation.owner)
    .await
    .unwrap();
    let ids: Vec<(uuid::Uuid, String)> =
        sqlx::query_as("select id, user_id from mail_account where user_id like 'user%'")
            .fetch_all(&scene.installation.owner)
            .await
            .unwrap();
    // Suspended, renamed and with another address: everything that an undo has a statement for.
    let items: Vec<ChangeItem> = ids
        .iter()
        .map(|(id, user_id)| {
            let fields =
                |status, user_id: &str| Some(json!({ "status": status, "user_id": user_id, "addresses": [user_id] }));
            account(AccountId(*id), fields("active", user_id), fields("suspended", &format!("x{user_id}")))
        })
        .collect();
    let before = scene.state().await;
    let statements = [
        "delete from mail_address where address like 'user%'".to_owned(),
        "update mail_account set status = 'suspended', user_id = 'x' || user_id where user_id like 'user%'".to_owned(),
        "insert into mail_address (organization_id, address, account_id)
         select organization_id, user_id, id from mail_account where user_id like 'xuser%'"
            .to_owned(),
    ];
    let change = scene.change("accounts.suspend", &statements, &items).await;
    let mut transaction = scene.begin().await;
    let entry = undo::entry(&mut transaction, scene.acme.id, change).await.unwrap().unwrap();
    assert_eq!((entry.extent.things, entry.extent.sole), (10_000, None));
    let undone = scene.undo_last().await;
    assert_eq!(scene.state().await, before);
    let items: i64 = sqlx::query_scalar("select count(*) from change_item where change_id = $1")
        .bind(undone.0)
        .fetch_one(&scene.installation.owner)
        .await
        .unwrap();
    assert_eq!(items, 10_000);
}

#[sqlx::test]
async fn what_was_changed_since_is_not_overwritten_and_the_answer_names_who_and_what(owner: PgPool) {
    let scene = scene(owner).await;
    let scope = PointerScope::Account(scene.ann);
    scene.installation.set_gateway(&scene.acme, &scope, "a.example.com").await;
    let change = scene.last_change().await;
    scene.installation.set_gateway(&scene.acme, &scope, "b.example.com").await;
    let newer = scene.last_change().await;
    let before = scene.state().await;

    let Undo::InTheWay(obstacles) = scene.undo(change).await else { panic!("it was overwritten") };

    assert_eq!((obstacles.count, obstacles.first.len()), (1, 1));
    let obstacle = &obstacles.first[0];
    assert_eq!((obstacle.subject.as_str(), &obstacle.what), ("ann@acme.example", &What::Changed));
    let since = obstacle.since.as_ref().unwrap();
    assert_eq!((since.actor.as_str(), since.change), ("operator", newer));
    assert_eq!(scene.state().await, before);

    // Once that is taken back nothing stands in the way any more.
    scene.undo(newer).await;
    assert!(matches!(scene.undo(change).await, Undo::Done(_)));
}

#[sqlx::test]
async fn an_added_account_that_has_changed_since_is_not_deleted(owner: PgPool) {
    let scene = scene(owner).await;
    let dan = scene.installation.account(&scene.acme, "dan@acme.example", &[]).await;
    let added = scene.last_change().await;
    scene.installation.set_gateway(&scene.acme, &PointerScope::Account(dan), "own.example.com").await;
    let before = scene.state().await;
    let Undo::InTheWay(obstacles) = scene.undo(added).await else { panic!("it was deleted") };
    assert_eq!(obstacles.first[0].what, What::Changed);
    assert_eq!(scene.state().await, before);
}

#[sqlx::test]
async fn a_deleted_account_does_not_take_its_address_from_who_has_it_now(owner: PgPool) {
    let scene = scene(owner).await;
    let delete = format!("delete from mail_account where id = '{}'", scene.ann);
    let ann = whole("ann@acme.example", "ann", &["a@acme.example", "ann@acme.example"]);
    let deleted = scene.change("account.delete", &[delete], &[account(scene.ann, Some(ann), None)]).await;
    scene.installation.account(&scene.acme, "dan@acme.example", &["a@acme.example"]).await;
    let before = scene.state().await;

    let Undo::InTheWay(obstacles) = scene.undo(deleted).await else { panic!("it was taken away") };

    let taken = What::AddressTaken { address: "a@acme.example".into(), by: "dan@acme.example".into() };
    assert_eq!((&obstacles.first[0].subject[..], &obstacles.first[0].what), ("ann@acme.example", &taken));
    assert_eq!(obstacles.first[0].since.as_ref().unwrap().actor, "operator");
    assert_eq!(scene.state().await, before);
}

#[sqlx::test]
async fn of_two_who_take_back_the_same_change_at_once_one_does_and_the_other_is_told(owner: PgPool) {
    let scene = scene(owner).await;
    for round in 0..10 {
        let address = format!("gw{round}.example.com");
        scene.installation.set_gateway(&scene.acme, &PointerScope::Organization, &address).await;
        let change = scene.last_change().await;
        let (one, other) = (scene.begin().await, scene.begin().await);
        let (one, other) =
            tokio::join!(undo::undo(one, change, "ann@acme.example"), undo::undo(other, change, "bob@acme.example"));
        let mut done = 0;
        for undo in [one.unwrap(), other.unwrap()] {
            match undo {
                Undo::Done(_) => done += 1,
                Undo::Already(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(done, 1);
    }
}

#[sqlx::test]
async fn what_the_operator_added_and_what_was_never_written_down_cannot_be_taken_back(owner: PgPool) {
    let scene = scene(owner).await;
    let changes: Vec<uuid::Uuid> = sqlx::query_scalar("select id from change where revision = 1")
        .fetch_all(&scene.installation.owner)
        .await
        .unwrap();
    assert!(matches!(scene.undo(ChangeId(changes[0])).await, Undo::Impossible(Impossible::OfOperator)));
    outgate::store::domain::add(&scene.installation.owner, scene.acme.id, &"more.example".parse().unwrap())
        .await
        .unwrap();
    assert!(matches!(scene.undo(scene.last_change().await).await, Undo::Impossible(Impossible::OfOperator)));
    let nothing = scene.change("administrator.create", &[], &[]).await;
    assert!(matches!(scene.undo(nothing).await, Undo::Impossible(Impossible::NothingToRestore)));
    let vague = account(scene.ann, Some(json!({ "addresses": [] })), Some(json!({ "imported": "changed" })));
    let vague = scene.change("accounts.import", &[], &[vague]).await;
    assert!(matches!(scene.undo(vague).await, Undo::Impossible(Impossible::NotRecorded)));
    let birch = scene.installation.organization("birch").await;
    scene.installation.set_gateway(&birch, &PointerScope::Organization, "b.example.com").await;
    assert!(matches!(scene.undo(scene.last_change().await).await, Undo::NotFound), "another organization's");
}

const AN_HOUR: Kind = Kind { whose: Whose::Each, window: Window::Hour, unit: Unit::External };

fn at_most(most: u32, action: Action) -> Option<Limit> {
    Some(Limit { most: Some(most), action })
}

impl Scene {
    async fn limit(&self, at: &SetAt, kind: Kind, limit: Option<Limit>, actor: &str) -> ChangeId {
        match limit::set(self.begin().await, at, kind, limit, actor).await.unwrap() {
            Set::Changed(committed) => committed.id,
            other => panic!("{other:?}"),
        }
    }

    async fn control(
        &self,
        account: AccountId,
        action: &'static str,
        set: impl FnOnce(&mut SenderControl),
    ) -> ChangeId {
        match limit::set_control(self.begin().await, account, action, set, "al@acme.example").await.unwrap() {
            Set::Changed(committed) => committed.id,
            other => panic!("{other:?}"),
        }
    }

    /// The limit that is set there, as a relay that follows knows it.
    async fn set_at(&self, following: &Following, at: &SetAt, kind: Kind) -> Option<Limit> {
        following.until_live(&self.installation).await;
        let limits = following.table.limits(self.acme.id).unwrap();
        limits.set.get(at).and_then(|limits| limits.get(&kind)).copied()
    }

    async fn sender(&self, following: &Following, account: AccountId) -> SenderControl {
        following.until_live(&self.installation).await;
        following.table.limits(self.acme.id).unwrap().sender(Some(account))
    }
}

#[sqlx::test]
async fn a_limit_that_was_set_changed_or_deleted_at_any_scope_is_as_before_and_relays_know_it(owner: PgPool) {
    let scene = scene(owner).await;
    let following = Following::start(&scene.installation, "one").await;
    let total = Kind { whose: Whose::Total, window: Window::Day, unit: Unit::Messages };
    let (first, second) = (at_most(500, Action::Delay), at_most(20, Action::Refuse));
    let unlimited = Some(Limit { most: None, action: Action::Delay });
    for (at, kind) in [
        (SetAt::Organization, AN_HOUR),
        (SetAt::Organization, total),
        (SetAt::Domain("acme.example".parse().unwrap()), total),
        (SetAt::Account(scene.ann), AN_HOUR),
    ] {
        for (before, after) in [(None, first), (first, second), (second, unlimited), (unlimited, None)] {
            scene.limit(&at, kind, after, "al@acme.example").await;
            assert_eq!(scene.set_at(&following, &at, kind).await, after, "{at:?}");
            let undone = scene.undo_last().await;
            assert_eq!(scene.set_at(&following, &at, kind).await, before, "{at:?}: {after:?}");
            // And back.
            assert!(matches!(scene.undo(undone).await, Undo::Done(_)));
            assert_eq!(scene.set_at(&following, &at, kind).await, after, "{at:?}: {after:?}");
        }
    }
    following.stop.cancel();
}

#[sqlx::test]
async fn what_was_said_of_a_sender_is_as_before(owner: PgPool) {
    let scene = scene(owner).await;
    let following = Following::start(&scene.installation, "one").await;
    let until = (OffsetDateTime::now_utc() + Duration::days(3)).replace_time(Time::MIDNIGHT);
    scene.control(scene.ann, "sender.class", |control| control.is_service = true).await;
    let exempt = scene.control(scene.ann, "sender.exempt", |control| control.exempt_until = Some(until)).await;
    let as_said = SenderControl { is_service: true, exempt_until: Some(until), is_blocked: false };
    let block = scene.control(scene.ann, "sender.block", |control| control.is_blocked = true).await;
    assert!(matches!(scene.undo(exempt).await, Undo::InTheWay(_)), "the block came after it");
    assert!(matches!(scene.undo(block).await, Undo::Done(_)));
    assert_eq!(scene.sender(&following, scene.ann).await, as_said);
    assert!(matches!(scene.undo(exempt).await, Undo::Done(_)));
    assert_eq!(scene.sender(&following, scene.ann).await, SenderControl { exempt_until: None, ..as_said });
    following.stop.cancel();
}

#[sqlx::test]
async fn a_limit_that_somebody_has_set_since_is_not_overwritten_and_another_is_in_nobodys_way(owner: PgPool) {
    let scene = scene(owner).await;
    let following = Following::start(&scene.installation, "one").await;
    let at = SetAt::Account(scene.ann);
    let set = scene.limit(&at, AN_HOUR, at_most(500, Action::Delay), "al@acme.example").await;
    // Of another window, of another account, of the organization; and a gateway.
    let a_day = Kind { window: Window::Day, ..AN_HOUR };
    scene.limit(&at, a_day, at_most(9, Action::Hold), "bea@acme.example").await;
    scene.limit(&SetAt::Account(scene.bob), AN_HOUR, at_most(9, Action::Hold), "bea@acme.example").await;
    scene.limit(&SetAt::Organization, AN_HOUR, at_most(9, Action::Hold), "bea@acme.example").await;
    scene.installation.set_gateway(&scene.acme, &PointerScope::Organization, "a.example.com").await;
    let theirs = at_most(40, Action::Refuse);
    scene.limit(&at, AN_HOUR, theirs, "cara@acme.example").await;
    scene.limit(&SetAt::Organization, a_day, at_most(9, Action::Hold), "bea@acme.example").await;
    match scene.undo(set).await {
        Undo::InTheWay(obstacles) => {
            assert_eq!((obstacles.count, obstacles.first[0].subject.as_str()), (1, "ann@acme.example"));
            assert_eq!(obstacles.first[0].what, What::Changed);
            assert_eq!(obstacles.first[0].since.as_ref().unwrap().actor, "cara@acme.example");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(scene.set_at(&following, &at, AN_HOUR).await, theirs);
    scene.limit(&at, AN_HOUR, at_most(500, Action::Delay), "cara@acme.example").await;
    assert!(matches!(scene.undo(set).await, Undo::Done(_)), "it is as the change left it again");
    assert_eq!(scene.set_at(&following, &at, AN_HOUR).await, None);
    assert_eq!(scene.set_at(&following, &at, a_day).await, at_most(9, Action::Hold), "the others stay");
    // What the former version wrote down is not enough.
    let words = json!({ "limit": "at most 5 messages in an hour", "of": "all users" });
    let key = scene.acme.id.to_string();
    let item = ChangeItem { subject: Subject::Organization, key, before: Some(words.clone()), after: Some(words) };
    let former = scene.change("limit.set", &[], &[item]).await;
    assert!(matches!(scene.undo(former).await, Undo::Impossible(Impossible::NotRecorded)));
    following.stop.cancel();
}
