//! Message Trace, and the story of one message.
//! The pages of `message_trace` and `traced_message` in `src/web`.

use std::borrow::Cow;

use outgate::{
    mail::{
        id::{GatewayId, OrganizationId, QueueId, RelayId},
        short_id::ShortId,
    },
    policy::{Role, routing::Scope},
    store::{
        self,
        gateway::PointerScope,
        message_trace::{Event, Gap, Gathering, Step, Told},
    },
};
use reqwest::StatusCode;
use sqlx::PgPool;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::page_of;
use crate::support::{Browser, Installation, Page, Pages, Tenant};

/// Writes lines down as a relay does.
pub async fn write_down(installation: &Installation, organization: OrganizationId, events: &[Event<'_>]) {
    for event in events {
        let mut lines = Gathering::default();
        lines.add(event);
        // At the time of the line, as by a relay that writes at once.
        let id = id_at(event.at + Duration::MILLISECOND);
        let chunk = lines.close(organization, RelayId::new(), id).unwrap();
        store::message_trace::insert_across_tenants(&installation.owner, &[chunk]).await.unwrap();
    }
}

/// An id that was made then.
fn id_at(at: OffsetDateTime) -> Uuid {
    let milliseconds = (at.unix_timestamp_nanos() / 1_000_000) as u64;
    let chance = *Uuid::now_v7().as_bytes();
    uuid::Builder::from_unix_timestamp_millis(milliseconds, (&chance[6..]).try_into().unwrap()).into_uuid()
}

/// A message that this gateway took at once.
pub fn handed_over<'a>(at: OffsetDateTime, sender: &'a str, to: &[&'a str], gateway: GatewayId) -> Event<'a> {
    Event {
        sender: Cow::Borrowed(sender),
        recipients: to.iter().map(|to| Told::Alike(Cow::Borrowed(*to))).collect(),
        size: Some(1240),
        client: Some("192.0.2.9".parse().unwrap()),
        scope: Some(Scope::Organization),
        gateway: Some(gateway),
        revision: Some(3),
        address: Some("dlp.example.com:587".into()),
        server: Some("198.51.100.7:587".parse().unwrap()),
        tls: Some("TLS 1.3".into()),
        reply: "250 2.0.0 kept as <b>4711</b>".into(),
        ..Event::new(Step::HandedOver, QueueId(id_at(at)), at)
    }
}

struct Scene {
    installation: Installation,
    acme: Tenant,
    pages: Pages,
    admin: Browser,
    gateway: GatewayId,
    page: String,
    now: OffsetDateTime,
}

async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    installation.set_gateway(&acme, &PointerScope::Organization, "dlp.example.com:587").await;
    let gateway = installation.gateway_of(&acme, "dlp.example.com:587").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let page = page_of(&acme, "message-trace");
    Scene { installation, acme, pages, admin, gateway, page, now: OffsetDateTime::now_utc() }
}

/// The messages on the page, each as its text.
fn messages(page: &Page) -> Vec<String> {
    let items = page.html.split(r#"<p class="deed">"#).skip(1);
    let text = |item: &str| {
        let html = format!("<p>{}", item.split_once("</li>").unwrap().0);
        Page { html, headers: page.headers.clone(), path: page.path.clone(), status: page.status }.text()
    };
    items.map(text).collect()
}

#[sqlx::test]
async fn messages_are_found_by_sender_recipient_time_and_state(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let overview = admin.get(&format!("/{}/web-mail-cloud", acme.slug)).await;
    assert_eq!(overview.link("Message Trace"), page);
    let empty = admin.get(&page).await.text();
    assert!(empty.contains("No messages yet"), "{empty}");

    let ann = handed_over(now - Duration::HOUR, "ann@acme.example", &["bob@elsewhere.example"], gateway);
    let bea = handed_over(
        now,
        "bea@acme.example",
        &["bob@elsewhere.example", "c@xn--mnchen-3ya.example", "d@x.example", "e@x.example"],
        gateway,
    );
    let refused =
        Event { step: Step::Refused, reply: "550 5.7.1 no".into(), message: QueueId(id_at(ann.at)), ..ann.clone() };
    write_down(&installation, acme.id, &[refused, ann, bea]).await;

    let shown = admin.get(&page).await;
    let all = messages(&shown);
    assert_eq!(all.len(), 3, "{}", shown.html);
    assert!(
        all[0].starts_with(
            "bea@acme.example to bob@elsewhere.example, c@münchen.example and 2 others handed over at once \
             dlp.example.com port 587 250 2.0.0 kept as <b>4711</b> "
        ) && all[0].ends_with(" UTC"),
        "{}",
        all[0]
    );
    let count = async |query: &str| messages(&admin.get(&format!("{page}?{query}")).await).len();
    assert_eq!(count("sender=Ann%40acme.example").await, 2);
    assert_eq!(count("sender=acme.example").await, 3);
    assert_eq!(count("sender=%40acme.example&state=refused").await, 1);
    assert_eq!(count("recipient=c%40m%C3%BCnchen.example").await, 1);
    assert_eq!(count("recipient=ann%40acme.example").await, 0);
    assert_eq!(count("recipient=bob%40elsewhere.example&sender=bea%40acme.example").await, 1);
    let minute = |at: OffsetDateTime| at.format(&Rfc3339).unwrap()[..16].to_owned();
    assert_eq!(count(&format!("from={}", minute(now))).await, 1);
    assert_eq!(count(&format!("to={}", minute(now - Duration::HOUR))).await, 2, "the whole minute");
    assert_eq!(count("from=2000-01-01&to=2999-12-31").await, 3);
    assert_eq!(count("state=nonsense&before=nonsense").await, 3);
    let none = admin.get(&format!("{page}?sender=nobody%40acme.example")).await;
    assert!(none.text().contains("No message is like that"), "{}", none.text());
    assert_eq!(none.link("Show everything"), page);
}

#[sqlx::test]
async fn what_cannot_be_searched_for_is_said_beside_the_field(db: PgPool) {
    let Scene { admin, page, .. } = scene(db).await;
    for (query, field, words) in [
        ("sender=%2Fetc", "sender", "“/etc” is neither a mail address nor a domain."),
        ("recipient=a%40%40b", "recipient", "is not a mail address"),
        ("from=yesterday", "from", "Type a day and a time in UTC, such as 2026-11-24T09:30."),
        ("from=2026-11-24&to=2026-11-23", "to", "This is before the beginning"),
        ("id=4711", "id", "No message of your organization has this id."),
    ] {
        let shown = admin.get(&format!("{page}?{query}")).await;
        assert_eq!(shown.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        assert!(shown.text().contains(words), "{words} in {}", shown.text());
        assert!(shown.html.contains(&format!(r#"aria-describedby="{field}-mistake""#)), "{}", shown.html);
    }
}

#[sqlx::test]
async fn a_long_list_has_pages_that_keep_the_search(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let events: Vec<Event<'_>> = (0..120)
        .map(|second| handed_over(now - Duration::seconds(second), "ann@acme.example", &["b@x.example"], gateway))
        .collect();
    write_down(&installation, acme.id, &events).await;
    write_down(&installation, acme.id, &[handed_over(now, "bea@acme.example", &["b@x.example"], gateway)]).await;

    let first = admin.get(&format!("{page}?sender=ann%40acme.example")).await;
    let second = admin.get(&first.link("Older")).await;
    let third = admin.get(&second.link("Older")).await;
    let links: Vec<String> = [&first, &second, &third]
        .iter()
        .flat_map(|page| page.html.split("/message-trace/").skip(1).filter(|rest| !rest.starts_with("report")))
        .map(|rest| rest[..36].to_owned())
        .collect();
    let expected: Vec<String> = events.iter().map(|event| event.message.to_string()).collect();
    assert_eq!(links, expected);
    assert!(!third.html.contains(">Older</a>"));
    assert_eq!(third.link("Newest"), format!("{page}?sender=ann%40acme.example"));
}

#[sqlx::test]
async fn a_message_tells_its_story_from_acceptance_to_the_end(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let to = ["bob@elsewhere.example", "bea@elsewhere.example"];
    let queued = Event {
        step: Step::Queued,
        account: Some(ann),
        reverse_path: Some("bounces+1@acme.example".into()),
        reply: "gateway dlp.example.com:587 said: 451 later".into(),
        ..handed_over(now - Duration::HOUR, "ann@acme.example", &to, gateway)
    };
    let attempt = Event {
        step: Step::Attempt,
        at: queued.at + Duration::MINUTE,
        attempts: Some(2),
        next_attempt: Some(now),
        tls: None,
        ..queued.clone()
    };
    let refused = Told::Apart(to[1].into(), "550 5.1.1 who?".into());
    let delivered = Event {
        step: Step::Delivered,
        at: now,
        recipients: vec![Told::Alike(to[0].into())],
        reply: "250 ok".into(),
        ..queued.clone()
    };
    let returned = Event { step: Step::Returned, recipients: vec![refused], ..delivered.clone() };
    let message = queued.message;
    write_down(&installation, acme.id, &[queued, attempt, delivered, returned]).await;

    let list = admin.get(&page).await;
    assert_eq!(messages(&list).len(), 1, "each message once");
    assert!(messages(&list)[0].contains(" returned to the sender "), "{:?}", messages(&list));
    let short = ShortId::of(message).to_string();
    let story = admin.get(&list.link("ann@acme.example to bob@elsewhere.example, bea@elsewhere.example")).await;
    assert_eq!(story.path, format!("{page}/{message}"));
    let text = story.text();
    for words in [
        format!("Message {short} From ann@acme.example to bob@elsewhere.example, bea@elsewhere.example."),
        "Reverse-path bounces+1@acme.example".to_owned(),
        "Size 1,240 bytes".to_owned(),
        "Submitted by 192.0.2.9".to_owned(),
        "Where dlp.example.com port 587 revision 3 Decided by the organization's gateway Server 198.51.100.7 port 587, \
         TLS 1.3 Reply or reason gateway dlp.example.com:587 said: 451 later"
            .to_owned(),
        "Server 198.51.100.7 port 587, not encrypted".to_owned(),
        "Attempts so far 2, the next one at ".to_owned(),
        "Recipients bob@elsewhere.example".to_owned(),
        "Recipients bea@elsewhere.example: 550 5.1.1 who?".to_owned(),
    ] {
        assert!(text.contains(&words), "{words} in {text}");
    }
    let places: Vec<usize> = ["queued", "tried again in vain", "delivered from the queue", "returned to the sender"]
        .iter()
        .map(|words| text.find(&format!("{words} ")).unwrap_or_else(|| panic!("{words} in {text}")))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(story.link("ann@acme.example"), page_of(&acme, &format!("mail-account-manager/{ann}")));
    assert_eq!(admin.get(&format!("{page}?id={}", short.to_uppercase())).await.path, story.path);
    assert_eq!(admin.get(&format!("{page}?id={message}")).await.path, story.path);
}

#[sqlx::test]
async fn mail_that_still_waits_says_so(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    installation.message(&acme, None, Some("organization"), Some(gateway), None).await;
    let queued = Event { step: Step::Queued, ..handed_over(now, "ann@acme.example", &["b@x.example"], gateway) };
    sqlx::query("update queued_message set id = $1").bind(queued.message.0).execute(&installation.owner).await.unwrap();
    let message = queued.message;
    write_down(&installation, acme.id, &[queued]).await;
    assert!(messages(&admin.get(&page).await)[0].contains(" waits in the queue "));
    assert!(admin.get(&format!("{page}/{message}")).await.text().contains("It waits now."));
    let queued = admin.get(&admin.get(&format!("{page}/{message}")).await.link("See it in the Outbound Queue")).await;
    assert_eq!(queued.link("What happened to it so far"), format!("{page}/{message}"));
}

#[sqlx::test]
async fn what_is_missing_is_said_where_it_is_missing(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let gap = Gap {
        organization: acme.id,
        id: Uuid::now_v7(),
        relay: RelayId::new(),
        first_at: now - Duration::HOUR,
        last_at: now - Duration::MINUTE,
        lines: 1240,
    };
    store::message_trace::insert_gaps_across_tenants(&installation.owner, &[gap]).await.unwrap();
    let event = handed_over(now - Duration::HOUR, "ann@acme.example", &["b@x.example"], gateway);
    let message = event.message;
    write_down(&installation, acme.id, &[event]).await;
    let words = "Something is missing: 1,240 lines between ";
    assert!(admin.get(&page).await.text().contains(words));
    assert!(admin.get(&format!("{page}/{message}")).await.text().contains(words));
    let before = (now - Duration::days(2)).format(&Rfc3339).unwrap()[..10].to_owned();
    assert!(!admin.get(&format!("{page}?to={before}")).await.text().contains(words));
}

#[sqlx::test]
async fn a_short_id_leads_members_of_the_organization_to_the_message_and_nobody_else(db: PgPool) {
    let Scene { installation, acme, pages, admin, gateway, page, now } = scene(db).await;
    let other = installation.organization("other").await;
    let event = handed_over(now, "ann@acme.example", &["b@x.example"], gateway);
    let message = event.message;
    write_down(&installation, acme.id, &[event]).await;
    let short = format!("/message/{}", ShortId::of(message));

    assert_eq!(admin.get(&short).await.path, format!("{page}/{message}"));
    let stranger = pages.signed_in(&installation, &other, Role::Administrator).await;
    for path in [&short, &format!("/message/{}", ShortId::of(QueueId::new())), "/message/nonsense"] {
        assert_eq!(stranger.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let nobody = pages.browser().get(&short).await;
    assert!(nobody.path.starts_with("/sign-in?next="), "{}", nobody.path);
}

#[sqlx::test]
async fn of_what_was_refused_before_a_route_was_asked_for_none_is_named(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let asked_for = handed_over(now, "ann@acme.example", &["all@acme.example"], gateway);
    let before =
        Event { scope: None, gateway: None, revision: None, address: None, server: None, tls: None, ..asked_for };
    let refused = Event { step: Step::Refused, reply: "550 5.7.1 not to this list".into(), ..before.clone() };
    let waits = Event { step: Step::Queued, message: QueueId(id_at(now - Duration::MINUTE)), ..before };
    let (refused_id, waits_id) = (refused.message, waits.message);
    write_down(&installation, acme.id, &[refused, waits]).await;
    let story = admin.get(&format!("{page}/{refused_id}")).await.text();
    assert!(story.contains("550 5.7.1 not to this list") && !story.contains("Decided by"), "{story}");
    let story = admin.get(&format!("{page}/{waits_id}")).await.text();
    assert!(story.contains("Decided by the platform's default"), "{story}");
}

#[sqlx::test]
async fn a_message_that_came_back_leads_to_its_first_pass(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let other = installation.organization("other").await;
    let to = ["bob@elsewhere.example"];
    let first = handed_over(now - Duration::MINUTE, "ann@acme.example", &to, gateway);
    let theirs = handed_over(now - Duration::HOUR, "olga@other.example", &to, gateway);
    let again =
        |at, first_pass| Event { first_pass: Some(first_pass), ..handed_over(at, "ann@acme.example", &to, gateway) };
    let second = again(now - Duration::SECOND, first.message);
    // Anybody can write such a field: it leads nowhere in another organization.
    let pretended = again(now, theirs.message);
    let (first_id, second_id, pretended_id, theirs_id) =
        (first.message, second.message, pretended.message, theirs.message);
    write_down(&installation, other.id, &[theirs]).await;
    write_down(&installation, acme.id, &[first, second, pretended]).await;

    let short = ShortId::of(first_id).to_string();
    let story = admin.get(&format!("{page}/{second_id}")).await;
    assert!(story.text().contains(&format!("Was here before as message {short}")), "{}", story.text());
    let led = admin.get(&story.link(&format!("message {short}"))).await;
    assert_eq!(led.path, format!("{page}/{first_id}"));
    assert!(!led.text().contains("Was here before"), "{}", led.text());

    let story = admin.get(&format!("{page}/{pretended_id}")).await;
    let words = format!("Was here before as message {}, of which nothing is kept", ShortId::of(theirs_id));
    assert!(story.text().contains(&words), "{}", story.text());
    assert!(!story.html.contains(&format!("message-trace/{theirs_id}")));
}

#[sqlx::test]
async fn messages_are_found_by_their_gateway_and_by_the_scope_that_decided(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let scope = PointerScope::Domain(acme.domain.parse().unwrap());
    installation.set_gateway(&acme, &scope, "archive.example.com").await;
    let archive = installation.gateway_of(&acme, "archive.example.com").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let to = &["bob@elsewhere.example"];
    let of_all = handed_over(now - Duration::minutes(4), "bea@acme.example", to, gateway);
    let of_domain = Event {
        scope: Some(Scope::Domain),
        ..handed_over(now - Duration::minutes(3), "bea@acme.example", to, gateway)
    };
    let of_ann = Event {
        scope: Some(Scope::User),
        account: Some(ann),
        ..handed_over(now - Duration::minutes(2), "ann@acme.example", to, archive)
    };
    let without = Event {
        gateway: None,
        scope: None,
        address: Some("mx.elsewhere.example:25".into()),
        ..handed_over(now - Duration::minutes(1), "bea@acme.example", to, gateway)
    };
    // A report of our own goes no tenant's way.
    let report = Event { sender: "".into(), ..Event { message: QueueId(id_at(now)), ..without.clone() } };
    write_down(&installation, acme.id, &[of_all, of_domain, of_ann, without, report]).await;

    let found = async |query: &str| {
        let shown = admin.get(&format!("{page}?{query}")).await;
        let count = messages(&shown).len();
        // A relay of the former version does not write down which gateways are in a chunk.
        sqlx::query("update message_trace set ways = null").execute(&installation.owner).await.unwrap();
        assert_eq!(messages(&admin.get(&format!("{page}?{query}")).await).len(), count, "{query}");
        count
    };
    for (query, count) in [
        ("", 5),
        ("gateway=dlp.example.com%3A587", 2),
        ("gateway=dlp.example.com%3A587&scope=organization", 1),
        ("gateway=archive.example.com", 1),
        ("gateway=archive.example.com&sender=bea%40acme.example", 0),
        ("gateway=none", 1),
        ("scope=platform", 1),
        ("scope=domain", 1),
        (&format!("account={ann}"), 1),
    ] {
        assert_eq!(found(query).await, count, "{query}");
    }
    let shown = admin.get(&format!("{page}?account={ann}&gateway=archive.example.com&scope=user")).await;
    assert!(shown.text().contains("Only of the account ann@acme.example."), "{}", shown.text());
    let sent = (shown.field("gateway"), shown.field("account"));
    assert_eq!(sent, ("archive.example.com".to_owned(), ann.to_string()), "what the form sends again");
    assert!(shown.html.contains(r#"<option value="user" selected>"#), "{}", shown.html);
    assert!(shown.html.contains(r#"<option value="dlp.example.com:587">"#), "{}", shown.html);

    for (typed, words) in [
        ("mail_host", "is not a host name"),
        ("gone.example.com", "No gateway of your organization has or had the address gone.example.com port 25."),
    ] {
        let shown = admin.get(&format!("{page}?gateway={typed}")).await;
        assert_eq!(shown.status, StatusCode::UNPROCESSABLE_ENTITY, "{typed}");
        assert_eq!(shown.text().matches(words).count(), 2, "{words} in {}", shown.text());
    }
    // What it was called before leads to its mail as well.
    sqlx::query("update gateway_revision set address = 'former.example.com' where gateway_id = $1")
        .bind(archive.0)
        .execute(&installation.owner)
        .await
        .unwrap();
    assert_eq!(found("gateway=former.example.com").await, 1);
}

#[sqlx::test]
async fn a_chunk_is_passed_over_that_has_nothing_of_the_gateway(db: PgPool) {
    let Scene { installation, acme, admin, gateway, page, now, .. } = scene(db).await;
    let sent = handed_over(now, "bea@acme.example", &["bob@elsewhere.example"], gateway);
    write_down(&installation, acme.id, &[sent]).await;
    let ways = "select ways from message_trace";
    let ways: Vec<Uuid> = sqlx::query_scalar(ways).fetch_one(&installation.owner).await.unwrap();
    assert_eq!(ways, [gateway.0]);
    let count = async || messages(&admin.get(&format!("{page}?gateway=dlp.example.com%3A587")).await).len();
    assert_eq!(count().await, 1);
    // Not read at all, whatever stands in it.
    sqlx::query("update message_trace set ways = array[gen_random_uuid()]").execute(&installation.owner).await.unwrap();
    assert_eq!(count().await, 0);
}
