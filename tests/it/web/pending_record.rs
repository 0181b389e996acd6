//! A change of the record of a gateway that works: it goes live when the gateway has passed as the change has it.
//! The page of the same name in `src/web`, the gateway's page, and the task beside the pages.

use outgate::policy::Role;
use reqwest::StatusCode;
use sqlx::PgPool;

use super::{
    gateway_record::FIELDS,
    page_of,
    pending_gateway::{ADMIN, Living, done, living, shown, undo, until},
};
use crate::support::{
    Browser, Gateway, Page,
    browser::{PASSWORD, PASSWORD_HASH},
    gateway::{At, Fault},
    outgate::Outgate,
};

/// The page of the one gateway that the organization has at this address.
async fn page_of_gateway(living: &Living, gateway: &Gateway) -> String {
    let id = living.installation.gateway_of(&living.acme, &gateway.address.to_string()).await;
    page_of(&living.acme, &format!("gateways/{id}"))
}

/// Sends the record's form as its page shows it, with these fields otherwise.
async fn save(browser: &Browser, page: &str, fields: &[(&str, &str)]) -> Page {
    let shown = browser.get(page).await;
    let (address, seen, change) = (shown.field("address"), shown.field("seen"), shown.field("change"));
    let own = [
        ("address", address.as_str()),
        ("seen", &seen),
        ("change", &change),
        ("tls", "when-offered"),
        ("connections", "50"),
    ];
    let of = |name| fields.iter().chain(&own).find(|(field, _)| *field == name).map(|(_, value)| *value);
    let fields: Vec<_> = FIELDS
        .iter()
        .chain(&[("seen", ""), ("change", "")])
        .map(|(name, value)| (*name, of(*name).unwrap_or(value)))
        .collect();
    browser.submit(&format!("{page}/record"), &fields).await
}

async fn decide(browser: &Browser, page: &str, action: &str) -> Page {
    let revision = browser.get(page).await.field("revision");
    browser.submit(&format!("{page}/pending-record"), &[("revision", &revision), ("action", action)]).await
}

#[sqlx::test]
async fn another_address_in_the_record_is_used_once_the_gateway_has_passed_there(db: PgPool) {
    let living = living(db).await;
    let Living { installation, acme, admin, .. } = &living;
    let (old, new) = (living.that_works().await, Gateway::start().await);
    let page = page_of_gateway(&living, &old).await;
    new.fails(At::Rcpt, Fault::Stalls);

    let saved = save(admin, &page, &[("address", &new.address.to_string())]).await;
    for words in [
        "Saved. It goes live when the gateway has passed its check; until then mail goes as before.",
        "A change is not live yet",
        "It is being checked.",
        &format!("mail keeps leaving by revision 1, through {}.", shown(&old)),
    ] {
        assert!(saved.text().contains(words), "{words} in {}", saved.text());
    }
    assert_eq!(saved.field("address"), new.address.to_string(), "the form has what is to be");
    new.stalled(1).await;
    living.mail("meanwhile").await;
    old.received(2).await;
    assert!(new.so_far().is_empty(), "nothing goes there that has not passed");
    let list = admin.get(&page_of(acme, "gateways")).await.text();
    assert!(list.contains("A change of it is being checked") && list.contains(&shown(&old)), "{list}");
    let again = save(admin, &page, &[]).await;
    assert!(again.text().contains("Nothing changed. The record said so already."), "{}", again.text());

    new.works_again();
    new.go_on();
    let words = format!("Saved. Mail for {} leaves by revision 2 of its record. Live on 1 of 1 relays.", shown(&new));
    let live = until(admin, &saved.path, &words).await;
    assert!(!live.text().contains("A change is not live yet"), "{}", live.text());
    living.mail("afterwards").await;
    assert!(String::from_utf8_lossy(&new.received(1).await[0].content).contains("afterwards"));
    let on_behalf = format!("Outgate for {ADMIN}");
    let expected = [("gateway.set", ADMIN), ("gateway.edit-pending", ADMIN), ("gateway.edit-live", &on_behalf)];
    assert_eq!(done(installation).await, expected.map(|(action, actor)| (action.to_owned(), actor.to_owned())));
    let log = admin.get(&format!("/{}/administration/audit-log", acme.slug)).await.text();
    for words in ["changed, to go live once verified, the gateway", "since it has passed its verification, a change"] {
        assert!(log.contains(words), "{words} in {log}");
    }

    let back = admin.submit(&undo(&live), &[]).await;
    assert!(back.text().contains("Taken back."), "{}", back.text());
    living.mail("as before").await;
    old.received(3).await;
    living.world.stop().await;
}

#[sqlx::test]
async fn a_change_that_is_refused_is_checked_again_used_anyway_or_given_up(db: PgPool) {
    let living = living(db).await;
    let Living { acme, admin, .. } = &living;
    let (old, new) = (living.that_works().await, Gateway::start().await);
    let page = page_of_gateway(&living, &old).await;
    new.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let saved = save(admin, &page, &[("address", &new.address.to_string())]).await;
    let found = until(admin, &saved.path, "It has not passed its check").await;
    let advice = "Recipient: It does not relay for us: let the server relay for 127.0.0.1";
    assert!(found.text().contains(advice), "{}", found.text());
    let list = admin.get(&page_of(acme, "gateways")).await.text();
    assert!(list.contains("A change of it has not passed its check"), "{list}");
    living.mail("stays").await;
    old.received(2).await;

    // Nobody else decides, and not about what is not pending.
    let (email, role) = ("assistant@acme.example", Role::AdminAssistant);
    living.installation.administrator(acme, email, &PASSWORD_HASH, role).await;
    let assistant = Browser::at(living.world.pages.trim_start_matches("http://").parse().unwrap());
    assistant.sign_in(email, PASSWORD).await;
    let revision = found.field("revision");
    let form = format!("{page}/pending-record");
    let fields = [("revision", revision.as_str()), ("action", "use")];
    assert_eq!(assistant.submit(&form, &fields).await.status, StatusCode::FORBIDDEN);
    let other = admin.submit(&form, &[("revision", "7"), ("action", "use")]).await;
    assert!(other.text().contains("Nothing changed. It is not waiting for its verification any more."));

    let given_up = decide(admin, &page, "give-up").await;
    assert!(given_up.text().contains("Given up. The record says what is live."), "{}", given_up.text());
    assert_eq!(given_up.field("address"), old.address.to_string());
    assert!(!given_up.text().contains("A change is not live yet"), "{}", given_up.text());

    // Typed back by hand is given up, too.
    save(admin, &page, &[("address", &new.address.to_string())]).await;
    let back = save(admin, &page, &[("address", &old.address.to_string())]).await;
    assert!(back.text().contains("Given up. The record says what is live."), "{}", back.text());

    let saved = save(admin, &page, &[("address", &new.address.to_string())]).await;
    until(admin, &saved.path, "It has not passed its check").await;
    let used = decide(admin, &page, "use").await;
    let words = format!("Saved. Mail for {} leaves by revision", shown(&new));
    assert!(used.text().contains(&words), "{}", used.text());
    new.works_again();
    living.mail("anyway").await;
    new.received(1).await;

    // Put right at the server and checked again.
    until(admin, &page, "Last accepted mail").await;
    let third = Gateway::start().await;
    third.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let saved = save(admin, &page, &[("address", &third.address.to_string())]).await;
    until(admin, &saved.path, "It has not passed its check").await;
    third.works_again();
    decide(admin, &page, "verify").await;
    until(admin, &saved.path, &format!("Saved. Mail for {} leaves by revision", shown(&third))).await;
    living.mail("third").await;
    third.received(1).await;
    living.world.stop().await;
}

#[sqlx::test]
async fn the_page_of_an_earlier_save_says_what_became_of_that_one(db: PgPool) {
    let living = living(db).await;
    let admin = &living.admin;
    let (old, bad, good) = (living.that_works().await, Gateway::start().await, Gateway::start().await);
    bad.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let page = page_of_gateway(&living, &old).await;
    let given_up = save(admin, &page, &[("address", &bad.address.to_string())]).await;
    decide(admin, &page, "give-up").await;
    let superseded = save(admin, &page, &[("address", &bad.address.to_string())]).await;
    let live = save(admin, &page, &[("address", &good.address.to_string())]).await;
    until(admin, &live.path, &format!("Saved. Mail for {} leaves by revision", shown(&good))).await;
    for (save, words) in [
        (&given_up, "Given up. The record says what is live."),
        (&superseded, "Saved. It was changed again since: this page shows what applies now."),
    ] {
        let text = admin.get(&save.path).await.text();
        assert!(text.contains(words) && !text.contains("Saved. Mail for"), "{words} in {text}");
    }

    living.mail("it works").await;
    good.received(1).await;
    until(admin, &page, "Last accepted mail").await;
    let used = save(admin, &page, &[("address", &bad.address.to_string())]).await;
    assert!(used.text().contains("A change is not live yet"), "{}", used.text());
    decide(admin, &page, "use").await;
    let text = admin.get(&used.path).await.text();
    assert!(text.contains(&format!("Saved. Mail for {} leaves by revision", shown(&bad))), "{text}");
    living.world.stop().await;
}

#[sqlx::test]
async fn what_changes_nothing_at_the_gateway_or_is_of_one_that_fails_is_live_at_once(db: PgPool) {
    let living = living(db).await;
    let Living { acme, admin, .. } = &living;
    let (old, new) = (living.that_works().await, Gateway::start().await);
    let page = page_of_gateway(&living, &old).await;
    let saved = save(admin, &page, &[("connections", "7")]).await;
    let words = format!("Saved. Mail for {} leaves by revision 2 of its record.", shown(&old));
    assert!(saved.text().contains(&words), "{}", saved.text());

    // With a revision that nobody has tried there is nothing to be lost.
    new.says(At::Rcpt, "554 5.7.1 Relay access denied");
    living.mail("tries it").await;
    old.received(2).await;
    until(admin, &page, "Last accepted mail").await;
    let choice = page_of(acme, "outbound-mail-gateway/verify-before-live");
    admin.submit(&choice, &[("verify_before_live", "never"), ("seen", "replacing")]).await;
    let saved = save(admin, &page, &[("address", &new.address.to_string())]).await;
    let words = format!("Saved. Mail for {} leaves by revision 3 of its record.", shown(&new));
    assert!(saved.text().contains(&words), "the organization does not want it: {}", saved.text());
    admin.submit(&choice, &[("verify_before_live", "replacing"), ("seen", "never")]).await;
    new.says(At::Mail, "550 5.7.1 not you");
    living.mail("waits").await;
    until(admin, &page, "Failing since").await;
    let saved = save(admin, &page, &[("address", &old.address.to_string())]).await;
    let words = format!("Saved. Mail for {} leaves by revision 4 of its record.", shown(&old));
    assert!(saved.text().contains(&words), "it takes no mail: {}", saved.text());
    old.received(3).await;
    living.world.stop().await;
}

#[sqlx::test]
async fn the_command_edits_as_the_page_does_if_it_is_to_and_has_what_it_sets_verified(db: PgPool) {
    let living = living(db).await;
    let Living { installation, admin, acme, .. } = &living;
    let old = living.that_works().await;
    let page = page_of_gateway(&living, &old).await;
    let command = Outgate::on(&installation.owner).with("OUTGATE_ALLOWED_GATEWAY_NETWORKS", "127.0.0.0/8");
    let new = Gateway::start().await;
    new.fails(At::Rcpt, Fault::Stalls);
    let (from, to) = (old.address.to_string(), new.address.to_string());
    let said = command.succeeds(&["gateway", "edit", "acme", &from, "--new-address", &to, "--when-verified"]).await;
    assert!(said.contains("It goes live when the gateway has passed its verification; until then mail goes"), "{said}");
    new.stalled(1).await;
    let said = command.succeeds(&["gateway", "show", "acme", &from]).await;
    assert!(said.contains(&format!("Revision 2 of {}", shown(&new))) && said.contains("until then revision 1 holds"));
    new.works_again();
    new.go_on();
    until(admin, &page, "No mail since its last change").await;
    living.mail("new way").await;
    new.received(1).await;

    let own = Gateway::start().await;
    own.says(At::Rcpt, "554 5.7.1 Relay access denied");
    let said =
        command.succeeds(&["gateway", "set", "acme", "--user", "ann@acme.example", &own.address.to_string()]).await;
    assert!(said.contains("now leaves through"), "{said}");
    let page = page_of_gateway(&living, &own).await;
    until(admin, &page, "revision 1: it does not accept our mail").await;
    let list = admin.get(&page_of(acme, "mail-account-manager")).await.text();
    assert!(list.contains("Check failed"), "{list}");
    living.world.stop().await;
}
