//! Two administrators who edit the same thing: nothing is overwritten unseen.
//! The forms for gateways, at every scope.

use outgate::policy::Role;
use reqwest::StatusCode;
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant, browser};

const FIELD: &str = "outbound_gateway";

/// Two administrators of one organization, and the forms of all users and of one.
async fn scene(db: PgPool) -> (Installation, Tenant, [Browser; 2], [String; 2]) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let ann = installation.account(&acme, "ann@acme.example", &[]).await;
    let pages = Pages::of(&installation).await;
    let ada = pages.signed_in(&installation, &acme, Role::Administrator).await;
    installation.administrator(&acme, "bea@acme.example", &browser::PASSWORD_HASH, Role::Administrator).await;
    let bea = pages.browser();
    bea.sign_in("bea@acme.example", browser::PASSWORD).await;
    let forms = ["outbound-mail-gateway".to_owned(), format!("mail-account-manager/{ann}/outbound-gateway")];
    let forms = forms.map(|form| page_of(&acme, &form));
    (installation, acme, [ada, bea], forms)
}

#[sqlx::test]
async fn the_second_sees_both_values_and_chooses(db: PgPool) {
    let (_, _, [ada, bea], forms) = scene(db).await;
    for form in &forms {
        let seen = ada.get(form).await.field("seen");
        assert_eq!(seen, "");
        bea.submit(form, &[(FIELD, "bea.example.com"), ("seen", "")]).await;

        let page = ada.submit(form, &[(FIELD, "ada.example.com:587"), ("seen", &seen)]).await;

        assert_eq!(page.status, StatusCode::CONFLICT);
        for words in [
            "Somebody else has changed it meanwhile",
            "Yours ada.example.com port 587",
            "Theirs, which holds now bea.example.com port 25",
            "bea@acme.example",
        ] {
            assert!(page.text().contains(words), "{words} in {}", page.text());
        }
        assert_eq!(ada.get(form).await.field(FIELD), "bea.example.com", "nothing was overwritten");

        // Keep theirs.
        let keep = page.link("Keep theirs");
        let keep = if keep == "?" { form } else { &keep };
        assert!(ada.get(keep).await.html.contains("bea.example.com"), "{keep}");
        // Save yours.
        let fields = [(FIELD, page.field(FIELD)), ("seen", page.field("seen"))];
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert!(ada.submit(form, &fields).await.text().contains("Saved."));
        assert_eq!(ada.get(form).await.field(FIELD), "ada.example.com:587");
    }
}

#[sqlx::test]
async fn the_choice_is_asked_again_if_a_third_change_comes_between(db: PgPool) {
    let (_, _, [ada, bea], [form, _]) = scene(db).await;
    bea.submit(&form, &[(FIELD, "b1.example.com"), ("seen", "")]).await;
    let page = ada.submit(&form, &[(FIELD, "ada.example.com"), ("seen", "")]).await;
    bea.submit(&form, &[(FIELD, "b2.example.com"), ("seen", "b1.example.com")]).await;
    let page = ada.submit(&form, &[(FIELD, "ada.example.com"), ("seen", &page.field("seen"))]).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert_eq!(page.field("seen"), "b2.example.com");
}

#[sqlx::test]
async fn one_who_deletes_and_one_who_sets_are_told_too(db: PgPool) {
    let (_, _, [ada, bea], [_, form]) = scene(db).await;
    ada.submit(&form, &[(FIELD, "own.example.com"), ("seen", "")]).await;
    let confirmation = ada.get(&format!("{form}?delete=1")).await;
    assert_eq!(confirmation.field("seen"), "own.example.com", "the confirmation says what it deletes");
    bea.submit(&form, &[(FIELD, "bea.example.com"), ("seen", "own.example.com")]).await;
    let page = ada.submit(&format!("{form}?delete=1"), &[(FIELD, ""), ("seen", "own.example.com")]).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.text().contains("Yours No gateway: delete it"), "{}", page.text());

    bea.submit(&form, &[(FIELD, ""), ("seen", "bea.example.com")]).await;
    let page = ada.submit(&form, &[(FIELD, "a.example.com"), ("seen", "bea.example.com")]).await;
    assert!(page.text().contains("No gateway: it was deleted"), "{}", page.text());
}

#[sqlx::test]
async fn who_changes_their_own_value_or_wants_the_same_is_not_asked(db: PgPool) {
    let (_, _, [ada, bea], [form, _]) = scene(db).await;
    for address in ["a.example.com", "b.example.com", "a.example.com"] {
        let page = ada.submit(&form, &[(FIELD, address), ("seen", "")]).await;
        assert!(page.text().contains("Saved."), "a form that was fetched once and sent again and again");
    }
    let page = bea.submit(&form, &[(FIELD, "A.example.com:25"), ("seen", "")]).await;
    assert!(page.text().contains("Nothing changed."), "{}", page.text());
    // A form that says nothing of what it was shown with.
    assert!(bea.submit(&form, &[(FIELD, "c.example.com")]).await.text().contains("Saved."));
}

#[sqlx::test]
async fn a_mistake_in_between_does_not_forget_what_was_seen(db: PgPool) {
    let (_, _, [ada, bea], [form, _]) = scene(db).await;
    bea.submit(&form, &[(FIELD, "bea.example.com"), ("seen", "")]).await;
    let page = ada.submit(&form, &[(FIELD, "ada_host"), ("seen", "")]).await;
    assert_eq!((page.status, page.field("seen")), (StatusCode::UNPROCESSABLE_ENTITY, String::new()));
    let page = ada.submit(&form, &[(FIELD, "ada.example.com"), ("seen", &page.field("seen"))]).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
}
