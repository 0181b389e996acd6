//! The procedure with nothing but a keyboard: every place where the focus comes to can be seen.
//! Beside `journey`, which walks it with a mouse.

use fantoccini::key::Key;
use outgate::policy::Role;
use sqlx::PgPool;

use crate::support::{
    Installation,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    world::World,
};

/// Pages have fewer places than this, so a way that takes longer has lost its goal.
const MOST_TABS: usize = 60;

/// What is wrong with a place that has the focus, or nothing: it has to be in view, in front of
/// everything else, and marked by an outline of its own (WCAG 2.2, 2.4.7 and 2.4.11). Of a field of
/// several lines that is the first, where one types: the browser brings it into view. Behind
/// the last place the focus is nowhere before it comes to the first again.
const FOCUS: &str = "
    const wrongWith = place => {
        if (place === document.body) return '';
        const box = place.getClientRects()[0];
        const x = box.left + Math.min(box.width / 2, 20), y = box.top + Math.min(box.height / 2, 20);
        if (x < 0 || y < 0 || x > innerWidth || y > innerHeight) return `out of view at ${x}, ${y}`;
        const front = document.elementFromPoint(x, y);
        if (!place.contains(front)) return `covered by ${front.outerHTML}`;
        const outlined = [getComputedStyle(place), getComputedStyle(place, '::after')]
            .some(style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2);
        return outlined ? '' : 'without an outline';
    };";

/// Gives the focus to one place after the other, and says which cannot have it or do not show it.
const EVERY_PLACE: &str = "
    const places = [...document.querySelectorAll('a[href], button, input, select, textarea, summary')]
        .filter(place => place.checkVisibility() && !place.disabled);
    const wrong = places.map(place => {
        place.focus();
        const why = document.activeElement === place && place.tabIndex === 0 ? wrongWith(place) : 'Tab never comes to it';
        return why && `${place.outerHTML.slice(0, 160)}: ${why}`;
    });
    scrollTo(0, 0);
    return wrong.filter(why => why)";

#[sqlx::test]
async fn a_gateway_is_saved_with_nothing_but_a_keyboard(owner: PgPool) {
    walk(owner, 1280, 900).await;
}

#[sqlx::test]
async fn the_same_on_a_small_screen(owner: PgPool) {
    walk(owner, 320, 480).await;
}

#[sqlx::test]
async fn accounts_are_found_added_and_set_together_with_nothing_but_a_keyboard(owner: PgPool) {
    let (world, admin) = at_sign_in(owner, 1280, 900).await;
    admin.client.goto(&format!("{}/acme/web-mail-cloud/mail-account-manager", world.pages)).await.unwrap();
    tab_to(&admin, "textbox", "Mail address").await;
    admin.press("admin@acme.example").await;
    tab_to(&admin, "textbox", "Password").await;
    admin.press(PASSWORD).await;
    enter(&admin).await;
    admin.find("heading", "Mail Account Manager").await;

    a_searched_one(&admin).await;
    a_new_one(&admin).await;
    two_together(&admin).await;
    admin.stop().await;
    world.stop().await;
}

/// "/", a part of the User ID, the icon, the address, and back.
async fn a_searched_one(admin: &Chromium) {
    admin.press("/").await;
    admin.press("bo").await;
    enter(admin).await;
    admin.wait_for_text("1 found").await;
    tab_to(admin, "link", "Outbound Gateway").await;
    enter(admin).await;
    admin.find("heading", "Outbound Gateway").await;
    tab_to(admin, "textbox", "Outbound Gateway").await;
    admin.press("dlp.acme.example").await;
    enter(admin).await;
    admin.wait_for_text("Saved. Mail from bob@acme.example now leaves through dlp.acme.example port 25.").await;
    to_what_was_before(admin).await;
}

async fn a_new_one(admin: &Chromium) {
    tab_to(admin, "link", "Add account").await;
    enter(admin).await;
    admin.find("heading", "Add account").await;
    tab_to(admin, "textbox", "User ID").await;
    admin.press("dee@acme.example").await;
    tab_to(admin, "button", "Add account").await;
    enter(admin).await;
    admin.wait_for_text("dee@acme.example is added.").await;
}

async fn two_together(admin: &Chromium) {
    tab_to(admin, "link", "Back to the list").await;
    enter(admin).await;
    admin.find("heading", "Mail Account Manager").await;
    for user in ["ann", "cy"] {
        tab_to(admin, "checkbox", &format!("Select {user}@acme.example")).await;
        admin.press(" ").await;
    }
    // The buttons stand before the rows: on, around and past the bar.
    tab_to(admin, "button", "Set gateway").await;
    enter(admin).await;
    admin.find("heading", "Set gateway of 2 accounts").await;
    tab_to(admin, "textbox", "Outbound Gateway").await;
    admin.press("archive.acme.example").await;
    enter(admin).await;
    admin.wait_for_text("Saved. 2 accounts now send through archive.acme.example port 25.").await;
}

async fn walk(owner: PgPool, width: u32, height: u32) {
    let (world, admin) = at_sign_in(owner, width, height).await;
    to_the_table(&admin).await;
    to_a_saved_gateway(&admin).await;
    to_what_was_before(&admin).await;
    // Every other place on the page, until the focus leaves it.
    tab_to(&admin, "button", "Sign out").await;
    admin.stop().await;
    world.stop().await;
}

/// An organization of three users, and its administrator before Sign in.
async fn at_sign_in(owner: PgPool, width: u32, height: u32) -> (World, Chromium) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    for user in ["ann", "bob", "cy"] {
        installation.account(&acme, &format!("{user}@acme.example"), &[]).await;
    }
    installation.administrator(&acme, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    let world = World::start(&installation).await;
    let admin = Chromium::start().await;
    admin.appear(width, height, false).await;
    admin.client.goto(&world.pages).await.unwrap();
    (world, admin)
}

/// From Sign in to the Mail Account Manager.
async fn to_the_table(admin: &Chromium) {
    tab_to(admin, "textbox", "Mail address").await;
    admin.press("admin@acme.example").await;
    tab_to(admin, "textbox", "Password").await;
    admin.press(PASSWORD).await;
    enter(admin).await;
    admin.find("heading", "Manage Organization").await;

    tab_to(admin, "DisclosureTriangle", "Administration").await;
    enter(admin).await;
    tab_to(admin, "link", "Manage Organization").await;
    enter(admin).await;
    // Past the bar and the navigation at once.
    tab_to(admin, "link", "Skip to the page").await;
    enter(admin).await;
    tab_to(admin, "link", "Web Mail Cloud").await;
    enter(admin).await;
    admin.find("heading", "Web Mail Cloud").await;
    tab_to(admin, "link", "Mail Account Manager").await;
    enter(admin).await;
    admin.find("heading", "Mail Account Manager").await;
}

/// From a User ID over a mistake to the status line.
async fn to_a_saved_gateway(admin: &Chromium) {
    tab_to(admin, "checkbox", "Select bob@acme.example").await;
    assert_eq!(tabs_to(admin, "link", "bob@acme.example").await, 1, "the tick, then the User ID");
    assert_eq!(tabs_to(admin, "link", "Outbound Gateway").await, 1, "then the icon");
    enter(admin).await;
    admin.find("heading", "Outbound Gateway").await;
    tab_to(admin, "textbox", "Outbound Gateway").await;
    admin.press("smtp://dlp.acme.example").await;
    enter(admin).await;
    admin.find("alert", "There is a problem").await;
    // What went wrong has the focus, and its link leads into the field.
    tab_to(
        admin,
        "link",
        "“smtp://dlp.acme.example” looks like a web address. Enter only the host name, such as mail.example.com.",
    )
    .await;
    enter(admin).await;
    assert_eq!(admin.focused().await, ("textbox".to_owned(), "Outbound Gateway".to_owned()));
    admin.press(&format!("{}a{}", Key::Control, Key::Null)).await;
    admin.press("dlp.acme.example").await;
    tab_to(admin, "button", "Save").await;
    enter(admin).await;
    admin.wait_for_text("Saved. Mail from bob@acme.example now leaves through dlp.acme.example port 25.").await;
}

/// From the status line and back.
async fn to_what_was_before(admin: &Chromium) {
    tab_to(admin, "link", "Skip to the page").await;
    enter(admin).await;
    tab_to(admin, "button", "Undo").await;
    enter(admin).await;
    admin.wait_for_text("Taken back. bob@acme.example has no gateway of its own any more").await;
}

async fn enter(admin: &Chromium) {
    admin.press(&Key::Enter.to_string()).await;
}

async fn tab_to(admin: &Chromium, role: &str, name: &str) {
    tabs_to(admin, role, name).await;
}

/// How many times Tab was pressed.
async fn tabs_to(admin: &Chromium, role: &str, name: &str) -> usize {
    let mut passed = Vec::new();
    while passed.len() < MOST_TABS {
        let place = press_tab(admin).await;
        if place == (role.to_owned(), name.to_owned()) {
            return passed.len() + 1;
        }
        passed.push(place);
    }
    panic!("Tab never comes to the {role} “{name}”, only to {passed:?}")
}

/// Where the focus went.
async fn press_tab(admin: &Chromium) -> (String, String) {
    admin.press(&Key::Tab.to_string()).await;
    let (role, name) = admin.focused().await;
    let wrong = format!("{FOCUS} return wrongWith(document.activeElement)");
    let wrong = admin.client.execute(&wrong, Vec::new()).await.unwrap();
    assert_eq!(wrong, "", "the focus on the {role} “{name}” of {}", admin.client.current_url().await.unwrap());
    (role, name)
}

/// What is wrong with the places of the page that is shown, for who has nothing but a keyboard.
pub async fn hidden_places(browser: &Chromium) -> serde_json::Value {
    browser.stay_in_front().await;
    // A first key makes the browser show where the focus is from then on.
    browser.press(&Key::Tab.to_string()).await;
    browser.client.execute(&format!("{FOCUS} {EVERY_PLACE}"), Vec::new()).await.unwrap()
}
