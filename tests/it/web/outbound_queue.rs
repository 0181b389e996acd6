//! Outbound Queue: what waits and why, page by page, and what an administrator wants of it.
//! From the list over the confirmation to what is written next to the messages; relays' part is `relay::outbound_queue`.

use outgate::{
    mail::id::{AccountId, GatewayId, QueueId},
    policy::{Role, waiting::HeldBecause},
    store::gateway::PointerScope,
};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Queued, Tenant};

const REPLY: &str = "gateway archive.example.com said: 451 4.3.0 try <again> later";

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    ann: AccountId,
    archive: GatewayId,
    list: String,
}

/// An organization whose mail goes to an archive, and nothing that waits.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a@acme.example"]).await;
    installation.set_gateway(&acme, &PointerScope::Organization, "archive.example.com:587").await;
    let archive = installation.gateway_of(&acme, "archive.example.com:587").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let list = page_of(&acme, "outbound-queue");
    Scene { installation, acme, pages, admin, ann, archive, list }
}

/// What is written next to a message: the choice, whether nobody is told, whether another attempt is wanted, and
/// whether it is due.
type Written = (Option<String>, Option<bool>, bool, bool);

impl Scene {
    /// A message that waits for the archive.
    fn for_archive<'a>(&self) -> Queued<'a> {
        let (by, gateway) = (Some("organization"), Some(self.archive));
        Queued { by, gateway, account: Some(self.ann), attempts: 3, last_reply: Some(REPLY), ..Queued::default() }
    }

    async fn add(&self, message: Queued<'_>) -> QueueId {
        self.installation.queued(&self.acme, message).await
    }

    /// One of each kind, in this order.
    async fn one_of_each(&self) -> [QueueId; 5] {
        let to = &["bob@elsewhere.example", "Cy@Other.example", "dora@elsewhere.example"];
        [
            self.add(Queued { to, ..self.for_archive() }).await,
            self.add(Queued {
                sender: Some("eve@acme.example"),
                state: "held",
                by: Some("user"),
                held_because: Some("gateway-taken-away"),
                ..self.for_archive()
            })
            .await,
            self.add(Queued { leased: true, ..Queued::default() }).await,
            self.add(Queued { state: "answer_awaited", leased: true, ..self.for_archive() }).await,
            self.add(Queued { sender: None, to: &["ann@acme.example"], ..Queued::default() }).await,
        ]
    }

    /// Asks for something, and confirms it as it is asked back.
    async fn ask(&self, browser: &Browser, fields: &[(&str, &str)]) -> Page {
        browser.submit(&format!("{}/selected", self.list), fields).await
    }

    async fn confirm(&self, question: &Page) -> Page {
        let fields = fields_of(question);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut page = self.ask(&self.admin, &fields).await;
        while page.path.contains("/progress/") {
            assert!(!page.text().contains("It was not finished"), "{}", page.text());
            page = self.admin.get(&page.path).await;
        }
        page
    }

    async fn written(&self, id: QueueId) -> Written {
        sqlx::query_as(
            "select choice, without_report, retry_wished_at is not null, next_attempt_at <= now()
             from queued_message where id = $1",
        )
        .bind(id.0)
        .fetch_one(&self.installation.owner)
        .await
        .unwrap()
    }

    /// Action, subject, which messages, and what became of it, the oldest first.
    async fn audit(&self) -> Vec<(String, String, String, String)> {
        sqlx::query_as(
            "select action, subject, before, after from audit_entry join change on change.id = change_id
             where action like 'queue.%' order by revision",
        )
        .fetch_all(&self.installation.owner)
        .await
        .unwrap()
    }
}

/// The hidden fields of the form that a confirmation is.
fn fields_of(page: &Page) -> Vec<(String, String)> {
    let form = page.html.split("<form class=\"card gateway-form\"").nth(1).expect("a form").split("</form>").next();
    let hidden = form.unwrap().split(r#"<input type="hidden" name=""#).skip(1);
    hidden
        .map(|field| {
            let (name, rest) = field.split_once('"').unwrap();
            let value = rest.split_once(r#"value=""#).unwrap().1.split_once('"').unwrap().0;
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

const NOTHING: Written = (None, None, false, false);

#[sqlx::test]
async fn the_page_says_what_waits_for_what_and_why_and_when_it_is_tried_again(db: PgPool) {
    let scene = scene(db).await;
    let empty = scene.admin.get(&scene.list).await.text();
    assert!(empty.contains("No mail waits"), "{empty}");
    scene.one_of_each().await;
    let page = scene.admin.get(&scene.list).await;
    let rows = page.rows();
    for (row, words) in rows.iter().zip([
        &[
            "ann@acme.example",
            "bob@elsewhere.example and 2 more",
            "12 kB",
            "archive.example.com port 587",
            "Waiting after 3 attempts",
            REPLY,
            "returns",
        ][..],
        &["eve@acme.example", "Held: the gateway that it waited for was taken away", "When it is decided"],
        &["Being tried now", "Recipients' own servers", "Now"],
        &["Answer awaited", "Once the server has answered"],
        &["Delivery report", "ann@acme.example", "Waiting"],
    ]) {
        for words in words {
            assert!(row.contains(words), "{words} in {row}");
        }
    }
    assert_eq!(rows.len(), 5, "the longest waiting first");
    assert!(page.text().contains("5 messages"), "{}", page.text());
    let overview = scene.admin.get(&format!("/{}/web-mail-cloud", scene.acme.slug)).await.text();
    assert!(overview.contains("Outbound Queue 5 messages, 1 of them held"), "{overview}");
}

#[sqlx::test]
async fn the_pages_are_of_fifty_and_stay_where_they_are_when_mail_leaves(db: PgPool) {
    let scene = scene(db).await;
    let mut ids = Vec::new();
    for index in 0..120 {
        let sender = format!("user{index:03}@acme.example");
        ids.push(scene.add(Queued { sender: Some(&sender), ..Queued::default() }).await);
    }
    let first_of = |page: &Page| page.rows().first().map(|row| row[row.find("user").unwrap()..][..7].to_owned());
    let first = scene.admin.get(&scene.list).await;
    assert_eq!((first.rows().len(), first_of(&first).as_deref()), (50, Some("user000")));
    assert!(first.text().contains("120 messages"), "{}", first.text());
    let gone = "delete from queued_message where id = any ($1)";
    sqlx::query(gone)
        .bind(ids[40..50].iter().map(|id| id.0).collect::<Vec<_>>())
        .execute(&scene.installation.owner)
        .await
        .unwrap();
    let second = scene.admin.get(&first.link("Next")).await;
    assert_eq!((second.rows().len(), first_of(&second).as_deref()), (50, Some("user050")));
    let third = scene.admin.get(&second.link("Next")).await;
    assert_eq!((third.rows().len(), first_of(&third).as_deref()), (20, Some("user100")));
    let back = scene.admin.get(&third.link("Previous")).await;
    assert_eq!(back.rows(), second.rows());
    sqlx::query("delete from queued_message").execute(&scene.installation.owner).await.unwrap();
    let nothing = scene.admin.get(&second.link("Next")).await.text();
    assert!(nothing.contains("Nothing waits on this page any more"), "{nothing}");
}

#[sqlx::test]
async fn the_list_is_filtered_by_sender_recipient_gateway_and_state(db: PgPool) {
    let scene = scene(db).await;
    scene.one_of_each().await;
    let archive = scene.archive.to_string();
    for (query, expected) in [
        ("sender=EVE@".to_owned(), 1),
        ("sender=acme.example".to_owned(), 4),
        ("recipient=cy@other".to_owned(), 1),
        ("recipient=elsewhere".to_owned(), 4),
        (format!("gateway={archive}"), 3),
        ("gateway=none".to_owned(), 2),
        ("state=waiting".to_owned(), 2),
        ("state=held".to_owned(), 1),
        ("state=answer-awaited".to_owned(), 1),
        ("state=being-tried".to_owned(), 1),
        (format!("gateway={archive}&state=waiting&recipient=dora&sender=ann"), 1),
        ("sender=%25".to_owned(), 0),
        ("gateway=nonsense&state=nonsense&after=nonsense".to_owned(), 5),
    ] {
        let page = scene.admin.get(&format!("{}?{query}", scene.list)).await;
        assert_eq!(page.rows().len(), expected, "{query}: {:?}", page.rows());
        assert!(page.html.contains("archive.example.com port 587</option>"), "{query}: it is offered");
    }
    let none = scene.admin.get(&format!("{}?sender=nobody", scene.list)).await.text();
    assert!(none.contains("No waiting message is like that"), "{none}");
    // A recipient who has it already is not waited for.
    sqlx::query("update queued_message set recipients = jsonb_set(recipients, '{0,state}', '\"delivered\"')")
        .execute(&scene.installation.owner)
        .await
        .unwrap();
    let page = scene.admin.get(&format!("{}?recipient=bob@", scene.list)).await;
    assert!(page.rows().is_empty(), "{:?}", page.rows());
}

#[sqlx::test]
async fn one_message_shows_what_became_of_each_recipient(db: PgPool) {
    let scene = scene(db).await;
    let [message, ..] = scene.one_of_each().await;
    sqlx::query(
        r#"update queued_message set recipients =
           '[{"to": "bob@elsewhere.example", "state": "delivered", "reply": "250 thanks"},
             {"to": "cy@other.example", "state": "refused", "reply": "550 5.1.1 nobody <here>"},
             {"to": "dora@elsewhere.example", "state": "waiting", "reply": "451 later"}]' where id = $1"#,
    )
    .bind(message.0)
    .execute(&scene.installation.owner)
    .await
    .unwrap();
    let list = scene.admin.get(&format!("{}?sender=ann", scene.list)).await;
    let page = scene.admin.get(&list.rows_link("ann@acme.example", &list_link(&list))).await;
    for words in [
        "bob@elsewhere.example Has it 250 thanks",
        "cy@other.example Refused; the sender was told 550 5.1.1 nobody <here>",
        "dora@elsewhere.example Waiting 451 later",
        REPLY,
        "Retry now Return (sends a report) Delete (no report)",
        &message.to_string(),
    ] {
        assert!(page.text().contains(words), "{words} in {}", page.text());
    }
    assert_eq!(page.link("Outbound Queue"), page_of(&scene.acme, "outbound-queue"), "in the navigation");
    assert!(page.html.contains(&format!(r#"href="{}?sender=ann""#, scene.list)), "and back to the part of the list");
    let assistant = scene.pages.signed_in(&scene.installation, &scene.acme, Role::AdminAssistant).await;
    let read_only = assistant.get(&page.path).await;
    assert!(!read_only.html.contains("Retry now") && read_only.text().contains("451 later"));
}

/// The whole text of the first row's link.
fn list_link(list: &Page) -> String {
    let link = list.html.split(r#"<a id="m1""#).nth(1).unwrap();
    let link = link.split_once('>').unwrap().1.split_once("</a>").unwrap().0;
    let mut text = String::new();
    for piece in link.split('<') {
        text.push_str(piece.split_once('>').map_or(piece, |(_, text)| text));
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[sqlx::test]
async fn one_message_is_retried_returned_or_deleted_after_it_was_asked_again(db: PgPool) {
    let scene = scene(db).await;
    for (wish, label, words, expected) in [
        ("retry", "Retry 1 message now?", "1 waiting message: 1 due now.", (None, None, true, true)),
        (
            "return",
            "Return 1 message to the senders?",
            "1 waiting message: 1 on the way back with a report.",
            (Some("return".to_owned()), None, false, true),
        ),
        (
            "delete",
            "Delete 1 message?",
            "1 waiting message: 1 deleted without a report.",
            // A relay of the former version returns it: it does not send it on.
            (Some("return".to_owned()), Some(true), false, true),
        ),
    ] {
        let message = scene.add(scene.for_archive()).await;
        let other = scene.add(scene.for_archive()).await;
        let id = message.to_string();
        let question = scene.ask(&scene.admin, &[("action", wish), ("selected", &id)]).await;
        assert!(question.text().contains(label), "{}", question.text());
        assert_eq!(scene.written(message).await, NOTHING, "nothing is done yet");

        let done = scene.confirm(&question).await;
        assert!(done.text().contains(words), "{}", done.text());
        assert_eq!(scene.written(message).await, expected, "{wish}");
        assert_eq!(scene.written(other).await, NOTHING, "{wish}");
        let entries = scene.audit().await;
        let (action, subject, which, _) = entries.last().unwrap();
        assert_eq!((action.as_str(), subject.as_str(), which), (&*format!("queue.{wish}"), "1 waiting message", &id));
        let again = scene.confirm(&question).await;
        assert!(again.text().contains(words), "{}", again.text());
        assert_eq!(scene.audit().await.len(), entries.len(), "sent twice it is one");
    }
    let log = scene.admin.get("/acme/administration/audit-log").await.text();
    for words in
        ["had tried at once 1 waiting", "returned to the senders 1 waiting", "deleted without a report 1 waiting"]
    {
        assert!(log.contains(words), "{words} in {log}");
    }
}

#[sqlx::test]
async fn what_waits_for_an_administrator_is_released_and_nothing_else(db: PgPool) {
    let scene = scene(db).await;
    let (waiting, unapproved) = (scene.add(scene.for_archive()).await, scene.add(scene.for_archive()).await);
    sqlx::query(
        "update queued_message set state = 'held', held_because = 'needs-approval', last_reply = $2 where id = $1",
    )
    .bind(unapproved.0)
    .bind(HeldBecause::NeedsApproval.words())
    .execute(&scene.installation.owner)
    .await
    .unwrap();
    let list = scene.admin.get(&scene.list).await;
    assert!(list.text().contains("Held: no administrator has approved it yet"), "{}", list.text());
    let said =
        "held until an administrator approves it: a message to the distribution list all@acme.example needs approval";
    sqlx::query("update queued_message set last_reply = $2 where id = $1")
        .bind(unapproved.0)
        .bind(said)
        .execute(&scene.installation.owner)
        .await
        .unwrap();
    let list = scene.admin.get(&scene.list).await;
    assert!(list.text().contains(&format!("H{}", &said[1..])), "for which list: {}", list.text());
    for (message, is_there) in [(unapproved, true), (waiting, false)] {
        let page = scene.admin.get(&format!("{}/{message}", scene.list)).await;
        assert_eq!(page.html.contains(r#"value="release""#), is_there, "{}", page.text());
    }
    let question = scene.ask(&scene.admin, &[("action", "release"), ("all", "1")]).await;
    assert!(question.text().contains("Release 2 messages?"), "{}", question.text());
    let done = scene.confirm(&question).await;
    let words = "Release. 2 waiting messages: 1 released; 1 did not wait for it.";
    assert!(done.text().contains(words), "{}", done.text());
    assert_eq!(scene.written(unapproved).await, (Some("send".to_owned()), None, false, true));
    assert_eq!(scene.written(waiting).await, NOTHING);
    assert!(scene.admin.get("/acme/administration/audit-log").await.text().contains("released 2 waiting messages"));
}

#[sqlx::test]
async fn what_waits_for_a_limit_says_when_it_leaves_and_not_when_its_sender_is_told(db: PgPool) {
    let scene = scene(db).await;
    let message = scene.add(scene.for_archive()).await;
    sqlx::query(
        "update queued_message set throttled_until = '2999-05-06T07:08:00Z', next_attempt_at = '2999-01-02T03:04:00Z',
                                   attempts = 0 where id = $1",
    )
    .bind(message.0)
    .execute(&scene.installation.owner)
    .await
    .unwrap();
    let list = scene.admin.get(&scene.list).await.text();
    assert!(list.contains("6 May 2999") && !list.contains("2 January 2999"), "{list}");
    sqlx::query("update queued_message set choice = 'send'").execute(&scene.installation.owner).await.unwrap();
    let list = scene.admin.get(&scene.list).await.text();
    assert!(!list.contains("6 May 2999") && list.contains("2 January 2999"), "{list}");
}

#[sqlx::test]
async fn all_that_match_are_those_that_were_there_when_it_was_asked(db: PgPool) {
    let scene = scene(db).await;
    let [waiting, held, tried, awaited, report] = scene.one_of_each().await;
    let question = scene.ask(&scene.admin, &[("action", "delete"), ("all", "1"), ("sender", "acme.example")]).await;
    for words in [
        "Delete 4 messages?",
        "All that match: the sender has “acme.example”. What comes in from now on is not meant.",
        "1 of them is being tried at this moment.",
        "1 of them was sent whole to a server that has not answered yet, and may arrive all the same.",
    ] {
        assert!(question.text().contains(words), "{words} in {}", question.text());
    }
    let later = scene.add(scene.for_archive()).await;
    sqlx::query("delete from queued_message where id = $1")
        .bind(held.0)
        .execute(&scene.installation.owner)
        .await
        .unwrap();

    let done = scene.confirm(&question).await;
    let words = "Delete. 4 waiting messages: 3 deleted without a report, 2 of them when the attempt that is under way \
                 has ended; 1 had left meanwhile.";
    assert!(done.text().contains(words), "{}", done.text());
    assert!(done.path.contains("sender=acme.example"), "{}", done.path);
    let delete = (Some("return".to_owned()), Some(true), false);
    let (choice, quiet, retry) = delete.clone();
    assert_eq!(scene.written(waiting).await, (choice, quiet, retry, true));
    for leased in [tried, awaited] {
        let (choice, quiet, retry) = delete.clone();
        assert_eq!(scene.written(leased).await, (choice, quiet, retry, false), "a lease is the relay's");
    }
    for other in [later, report] {
        assert_eq!(scene.written(other).await, NOTHING);
    }
    let entries = scene.audit().await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(entries[0].2, "all that match: the sender has “acme.example”");
}

#[sqlx::test]
async fn a_report_is_deleted_where_others_return_and_held_mail_stays_held(db: PgPool) {
    let scene = scene(db).await;
    let [_, held, .., report] = scene.one_of_each().await;
    let (held_id, report_id) = (held.to_string(), report.to_string());
    let ticked = [("selected", held_id.as_str()), ("selected", report_id.as_str())];
    let retry = scene.ask(&scene.admin, &[&[("action", "retry")], &ticked[..]].concat()).await;
    let words = "1 of them is held, and stays so unless what that was for is over.";
    assert!(retry.text().contains(words), "{}", retry.text());
    scene.confirm(&retry).await;
    assert_eq!(scene.written(held).await, (None, None, true, true), "nothing is chosen by it");
    let question = scene.ask(&scene.admin, &[&[("action", "return")], &ticked[..]].concat()).await;
    assert!(question.text().contains("1 of them is a report itself: nobody can be told"), "{}", question.text());
    scene.confirm(&question).await;
    let (choice, quiet, ..) = scene.written(report).await;
    assert_eq!((choice.as_deref(), quiet), (Some("return"), Some(true)));
    let (choice, quiet, ..) = scene.written(held).await;
    assert_eq!((choice.as_deref(), quiet), (Some("return"), None));
    let page = scene.admin.get(&scene.list).await;
    assert!(page.rows()[1].contains("to be returned") && page.rows()[4].contains("to be deleted"), "{:?}", page.rows());
}

#[sqlx::test]
async fn what_has_left_meanwhile_is_nothing_to_do_and_nothing_selected_is_said(db: PgPool) {
    let scene = scene(db).await;
    let message = scene.add(scene.for_archive()).await.to_string();
    let question = scene.ask(&scene.admin, &[("action", "retry"), ("selected", &message)]).await;
    sqlx::query("delete from queued_message").execute(&scene.installation.owner).await.unwrap();
    let done = scene.confirm(&question).await;
    assert!(done.text().contains("Nothing changed. All of these messages have left meanwhile."), "{}", done.text());
    assert!(scene.audit().await.is_empty());
    for fields in [&[("action", "retry")][..], &[("action", "return"), ("all", "1")]] {
        let page = scene.ask(&scene.admin, fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(page.text().contains("No message is selected"), "{}", page.text());
    }
    for fields in [
        &[("action", "burn")][..],
        &[("action", "retry"), ("selected", "nonsense")],
        &[("action", "retry"), ("all", "1"), ("organization", "other")],
        &[("action", "retry"), ("all", "1"), ("all", "1")],
        &[("action", "retry"), ("all", "1"), ("confirmed", "many"), ("last", &message)],
    ] {
        assert_eq!(scene.ask(&scene.admin, fields).await.status, StatusCode::BAD_REQUEST, "{fields:?}");
    }
}

#[sqlx::test]
async fn only_an_administrator_decides_and_everybody_reads(db: PgPool) {
    let scene = scene(db).await;
    let message = scene.add(scene.for_archive()).await;
    let id = message.to_string();
    for role in [Role::UserAdministrator, Role::AdminAssistant] {
        let browser = scene.pages.signed_in(&scene.installation, &scene.acme, role).await;
        let page = browser.get(&scene.list).await;
        assert!(page.rows()[0].contains(REPLY), "{role}: {:?}", page.rows());
        assert!(!page.html.contains("Retry now"), "{role}");
        let refused = scene.ask(&browser, &[("action", "retry"), ("selected", &id)]).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{role}");
    }
    assert_eq!(scene.written(message).await, NOTHING);
}

#[sqlx::test]
async fn thousands_are_done_in_batches_and_a_relay_that_is_writing_holds_none_of_them_up(db: PgPool) {
    let scene = scene(db).await;
    sqlx::query(
        "insert into queued_message (organization_id, id, state, sender, reverse_path, recipients, parameters, size,
                                     accepted_at, next_attempt_at, expires_at, waits_for, waits_by)
         select $1, gen_random_uuid(), 'waiting', 'ann@acme.example', 'ann@acme.example',
                '[{\"to\": \"bob@elsewhere.example\", \"state\": \"waiting\"}]', '{}', 100, now(), now() + interval '1 hour',
                now() + interval '5 days', $2, 'organization'
         from generate_series(1, 2500)",
    )
    .bind(scene.acme.id.0)
    .bind(scene.archive.0)
    .execute(&scene.installation.owner)
    .await
    .unwrap();
    let question = scene.ask(&scene.admin, &[("action", "retry"), ("all", "1")]).await;
    assert!(question.text().contains("Retry 2,500 messages now?"), "{}", question.text());

    let mut relay = scene.installation.owner.begin().await.unwrap();
    sqlx::query(
        "update queued_message set attempts = 1 where id in (select id from queued_message order by id limit 3)",
    )
    .execute(&mut *relay)
    .await
    .unwrap();
    let until_only_those_are_left = async {
        loop {
            let left: i64 = sqlx::query_scalar("select count(*) from queued_message where retry_wished_at is null")
                .fetch_one(&scene.installation.owner)
                .await
                .unwrap();
            if left == 3 {
                return relay.commit().await.unwrap();
            }
        }
    };
    let (done, ()) = tokio::join!(scene.confirm(&question), until_only_those_are_left);
    assert!(done.text().contains("Retry. 2,500 waiting messages: 2,500 due now."), "{}", done.text());
    let became: Vec<(String, String)> =
        scene.audit().await.into_iter().map(|(_, subject, _, after)| (subject, after)).collect();
    let entry = |after: &str| ("2,500 waiting messages".to_owned(), after.to_owned());
    assert_eq!(became, [entry("begun"), entry("2,500 due now")]);
}

#[sqlx::test]
async fn a_gateway_form_says_how_many_waiting_messages_take_the_new_way(db: PgPool) {
    let scene = scene(db).await;
    let bob = scene.installation.account(&scene.acme, "bob@acme.example", &[]).await;
    scene.installation.set_gateway(&scene.acme, &PointerScope::Account(bob), "own.example.com").await;
    let own = scene.installation.gateway_of(&scene.acme, "own.example.com").await;
    for _ in 0..2 {
        scene.add(scene.for_archive()).await;
        scene.add(Queued { last_reply: Some(REPLY), account: Some(scene.ann), ..Queued::default() }).await;
    }
    let of_bob = || Queued {
        sender: Some("bob@acme.example"),
        account: Some(bob),
        by: Some("user"),
        gateway: Some(own),
        last_reply: Some(REPLY),
        ..Queued::default()
    };
    scene.add(of_bob()).await;
    // It was handed back by a gateway: it never goes to one again. And a report follows nobody's pointer.
    scene
        .add(Queued { by: Some("platform"), last_reply: Some(REPLY), account: Some(scene.ann), ..Queued::default() })
        .await;
    scene.add(Queued { sender: None, ..Queued::default() }).await;
    let account = |id: AccountId| page_of(&scene.acme, &format!("mail-account-manager/{id}/outbound-gateway"));
    let domain = page_of(&scene.acme, "domain-manager/acme.example/outbound-gateway");
    for (form, address, before, after) in [
        (page_of(&scene.acme, "outbound-mail-gateway"), "new.example.com", 4, 4),
        // Two of these go to it already.
        (page_of(&scene.acme, "outbound-mail-gateway"), "archive.example.com:587", 4, 2),
        (domain, "domain.example.com", 4, 4),
        (account(scene.ann), "ann.example.com", 4, 4),
        (account(bob), "bob.example.com", 1, 1),
    ] {
        let shown = scene.admin.get(&form).await;
        let messages = if before == 1 { "1 waiting message" } else { &format!("{before} waiting messages") };
        assert!(shown.text().contains(&format!("{messages} will take the way that you save.")), "{}", shown.text());
        let saved = scene.admin.submit(&form, &[("outbound_gateway", address)]).await;
        let words = match after {
            1 => "1 waiting message now goes this way.".to_owned(),
            _ => format!("{after} waiting messages now go this way."),
        };
        assert!(saved.text().contains(&words), "{form}: {words} in {}", saved.text());
    }
    let path = page_of(&scene.acme, &format!("gateways/{}", scene.archive));
    let gateway = scene.admin.get(&path).await;
    assert_eq!(gateway.link("2 messages"), format!("{}?gateway={}", scene.list, scene.archive));
    let mut record: Vec<(&str, &str)> = super::gateway_record::FIELDS.to_vec();
    record.extend([("seen", "1"), ("change", "0199f3a0-0000-7000-8000-000000000001")]);
    let saved = scene.admin.submit(&format!("{path}/record"), &record).await;
    assert!(saved.text().contains("2 waiting messages now go this way."), "{}", saved.text());
}
