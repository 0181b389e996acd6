//! Explain Route.
//! The page of the same name in `src/web`.

use outgate::{policy::Role, store::gateway::PointerScope};
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Installation, Pages, outgate::Outgate};

#[sqlx::test]
async fn the_page_says_what_the_command_says_about_every_sender(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &["a.adams@acme.example"]).await;
    installation.account(&acme, "bob@acme.example", &[]).await;
    let eve = installation.account(&acme, "eve@acme.example", &[]).await;
    installation.set_gateway(&acme, &PointerScope::Account(ann), "dlp.example.com:587").await;
    sqlx::query("update mail_account set status = 'suspended' where id = $1")
        .bind(eve.0)
        .execute(&installation.owner)
        .await
        .unwrap();
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::AdminAssistant).await;
    let page = page_of(&acme, "explain-route");
    let command = Outgate::on(&installation.owner).with("OUTGATE_DEFAULT_ROUTE", "mx");

    for must_use in ["no", "yes"] {
        command.succeeds(&["gateway", "require", "acme", must_use]).await;
        for (sender, words) in [
            ("ann@acme.example", "leaves through dlp.example.com port 587 (revision 1): the own gateway"),
            ("Ann+news@acme.example", "It is an address of ann@acme.example with something added to it."),
            ("prvs=1234=a.adams@acme.example", "It is an address of a.adams@acme.example"),
            (
                "bob@acme.example",
                if must_use == "yes" { "is held: it must" } else { "leaves directly to the servers of" },
            ),
            ("nobody@acme.example", "No account has this address; it follows its domain."),
            ("eve@acme.example", "is refused: the account is suspended."),
        ] {
            let encoded = sender.replace('+', "%2B");
            let shown = admin.get(&format!("{page}?sender={encoded}&recipient=x@elsewhere.example")).await.text();
            assert!(shown.contains(words), "{words} in {shown}");
            let is_refused = words.contains("is refused");
            assert_eq!((shown.contains("would apply"), shown.contains("applies now")), (is_refused, !is_refused));
            let said = command.succeeds(&["route", "explain", sender, "x@elsewhere.example"]).await;
            for sentence in said.lines().filter(|line| !line.starts_with("  ")) {
                assert!(shown.contains(sentence), "{sentence} in {shown}");
            }
        }
    }
}

#[sqlx::test]
async fn a_sender_of_another_organization_is_like_one_of_nobody(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, other) = (installation.organization("acme").await, installation.organization("other").await);
    let theirs = installation.account(&other, "eve@other.example", &[]).await;
    installation.set_gateway(&other, &PointerScope::Account(theirs), "canary.example.com").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let ask = async |sender: &str| {
        let page = admin.get(&page_of(&acme, &format!("explain-route?sender={sender}"))).await;
        page.html.replace(sender, "SENDER")
    };
    assert_eq!(ask("eve@other.example").await, ask("eve@nobody.example").await);
    assert!(ask("eve@other.example").await.contains("not one of your organization"));
}

#[sqlx::test]
async fn what_is_not_a_mail_address_is_said_beside_its_field(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let page = page_of(&acme, "explain-route");
    assert_eq!(admin.get(&page).await.status, StatusCode::OK);
    for (query, words) in [
        ("sender=ann", "“ann” is not a mail address."),
        ("recipient=bob@b.example", "Enter a mail address"),
        ("sender=ann@acme.example&recipient=bob", "“bob” is not a mail address."),
        ("sender=a%00b@acme.example", "is not a mail address."),
    ] {
        let shown = admin.get(&format!("{page}?{query}")).await;
        assert_eq!(shown.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        assert_eq!(shown.text().matches(words).count(), 2, "{words} in {}", shown.text());
    }
}
