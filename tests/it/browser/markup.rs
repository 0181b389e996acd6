//! What tenants and strangers type never becomes markup or script, and the pages never need what
//! their own Content-Security-Policy forbids.

use fantoccini::Locator;
use outgate::policy::Role;
use sqlx::PgPool;

use crate::support::{
    Installation,
    browser::{PASSWORD, PASSWORD_HASH},
    chromium::Chromium,
    world::World,
};

/// Each breaks out of another place: text, an attribute, a script, a title, an address, a template.
const POLYGLOTS: [&str; 5] = [
    r#"'"><img src=x onerror=alert(1)><svg onload=alert(1)>"#,
    r#"</title></style></textarea></script><script>alert(1)</script>"#,
    r#"" autofocus onfocus=alert(1) x=""#,
    r#"javascript:/*--></title></style></textarea></script></xmp><svg/onload='+/"/+/onmouseover=1/+/[*/[]/+alert(1)//'>"#,
    "{{7*7}}${alert(1)}<!--",
];

const TABLE: &str = "/acme/web-mail-cloud/mail-account-manager";

#[sqlx::test]
async fn nothing_that_somebody_typed_ever_runs(owner: PgPool) {
    let installation = Installation::on(owner);
    fill(&installation).await;
    let world = World::start(&installation).await;
    let admin = Chromium::start().await;
    admin.watch_for_trespasses().await;
    let go = async |path: &str| {
        admin.client.goto(&format!("{}{path}", world.pages)).await.unwrap();
        nothing_ran(&admin).await;
    };

    go(&format!("/sign-in?next={}", encoded("/\"><script>alert(1)</script>"))).await;
    admin.fill("Mail address", &POLYGLOTS.concat()).await;
    admin.fill("Password", "wrong").await;
    admin.click("button", "Sign in").await;
    admin.find("alert", "There is a problem").await;
    nothing_ran(&admin).await;
    go("/").await;
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;
    admin.find("heading", "Your organizations").await;
    nothing_ran(&admin).await;

    let account = account_of(&installation).await;
    for path in ["/acme/administration", "/acme/web-mail-cloud", TABLE] {
        go(path).await;
    }
    for page in ["", "?delete=1", "/outbound-gateway", "/limits", "/limits?block=1"] {
        go(&format!("{TABLE}/{account}{page}")).await;
    }
    for page in [
        "domain-manager",
        "gateways",
        "distribution-list",
        "distribution-list/new",
        "outbound-volume",
        "limits",
        "relay-credentials",
        "relay-credentials/new",
        "mail-account-manager/new",
        "mail-account-manager/import",
    ] {
        go(&format!("/acme/web-mail-cloud/{page}")).await;
    }
    for polyglot in POLYGLOTS {
        go(&format!("/{}", encoded(polyglot))).await;
        go(&format!("{TABLE}?q={}&after=%22%3E", encoded(polyglot))).await;
        let explained = "/acme/web-mail-cloud/explain-route";
        go(&format!("{explained}?sender={0}&recipient={0}", encoded(polyglot))).await;
        go(&format!("/acme/web-mail-cloud/waiting-mail?scope=organization&back={}", encoded(polyglot))).await;
        go("/acme/web-mail-cloud/outbound-mail-gateway").await;
        admin.fill("Outbound Gateway", polyglot).await;
        admin.click("button", "Save").await;
        admin.find("alert", "There is a problem").await;
        nothing_ran(&admin).await;
    }
    the_watch_is_awake(&admin).await;
    admin.stop().await;
    world.stop().await;
}

#[sqlx::test]
async fn nothing_that_somebody_typed_ever_runs_from_the_history_or_a_file(owner: PgPool) {
    let installation = Installation::on(owner);
    fill(&installation).await;
    let world = World::start(&installation).await;
    let admin = Chromium::start().await;
    admin.watch_for_trespasses().await;
    let go = async |path: &str| admin.client.goto(&format!("{}{path}", world.pages)).await.unwrap();
    let account = account_of(&installation).await;
    go(&format!("/sign-in?next={}", encoded(&format!("{TABLE}/{account}")))).await;
    admin.fill("Mail address", "admin@acme.example").await;
    admin.fill("Password", PASSWORD).await;
    admin.click("button", "Sign in").await;

    for polyglot in POLYGLOTS {
        go(&format!("{TABLE}/{account}")).await;
        admin.fill("Name", polyglot).await;
        admin.click("button", "Save name").await;
        admin.wait_for_text("Saved.").await;
        nothing_ran(&admin).await;
        go("/acme/administration/audit-log").await;
        nothing_ran(&admin).await;
        admin.client.find(Locator::Css(".deed a")).await.unwrap().click().await.unwrap();
        admin.find("heading", "A change").await;
        admin.wait_for_text(&polyglot[..5]).await;
        nothing_ran(&admin).await;
        go(&format!("/acme/administration/audit-log?who={0}&what={0}&subject={0}&from={0}", encoded(polyglot))).await;
        nothing_ran(&admin).await;

        let cell = polyglot.replace('"', "\"\"");
        for file in [
            format!("user_id,name,outbound_gateway\nnew@acme.example,\"{cell}\",\n"),
            format!("user_id,name,outbound_gateway\n\"{cell}\",x,\"{cell}\"\nann@acme.example,x,\"{cell}\"\n"),
            format!("user_id,\"{cell}\"\nann@acme.example,x\n"),
        ] {
            let (_folder, path) = crate::support::outgate::file_with(&file);
            go(&format!("{TABLE}/import")).await;
            let chosen = admin.client.find(Locator::Id("file")).await.unwrap();
            chosen.send_keys(path.to_str().unwrap()).await.unwrap();
            admin.click("button", "See what would change").await;
            admin.wait_for_text("Nothing").await;
            nothing_ran(&admin).await;
        }
    }
    the_watch_is_awake(&admin).await;
    admin.stop().await;
    world.stop().await;
}

/// One of them.
async fn account_of(installation: &Installation) -> String {
    let first = sqlx::query_scalar("select id::text from mail_account order by user_id limit 1");
    first.fetch_one(&installation.owner).await.unwrap()
}

/// What is wrong with the markup of the page that is shown: an id that is there twice, a reference
/// to one that is not there, a field without a label, a place to click inside another, and what a
/// parser leaves where a paragraph was closed early.
const UNSOUND: &str = "
    const all = css => [...document.querySelectorAll(css)], wrong = [];
    const say = (what, node) => wrong.push(`${what}: ${node.outerHTML.slice(0, 160)}`);
    for (const node of all('[id]')) {
        if (document.querySelectorAll('#' + CSS.escape(node.id)).length > 1) say('an id that is there twice', node);
    }
    for (const name of ['for', 'aria-labelledby', 'aria-describedby', 'aria-controls']) {
        for (const node of all(`[${name}]`)) {
            for (const id of node.getAttribute(name).split(/\\s+/)) {
                if (!document.getElementById(id)) say(`${name} names ${id}, which is not there`, node);
            }
        }
    }
    for (const node of all(\"[href^='#']\")) {
        if (!document.getElementById(node.getAttribute('href').slice(1))) say('it leads nowhere', node);
    }
    for (const node of all('input:not([type=hidden]), select, textarea')) {
        if (!node.labels.length && !node.ariaLabel && !node.hasAttribute('aria-labelledby')) say('a field without a label', node);
    }
    for (const node of all('a[href] :is(a, button, input), button :is(a, button, input), label label, form form')) {
        say('a place to click in another', node);
    }
    for (const node of all('p:empty, li:empty, h1:empty, h2:empty, h3:empty')) say('nothing is in it', node);
    for (const list of all('ul, ol')) {
        for (const child of list.children) if (child.localName !== 'li') say('in a list, but no entry', child);
    }
    for (const node of all('main h1, main h2, main h3')) {
        const level = +node.localName[1], above = all('main h1, main h2, main h3');
        const before = above[above.indexOf(node) - 1];
        if (before && level > +before.localName[1] + 1) say('a heading that skips a level', node);
    }
    if (all('h1').length !== 1) wrong.push(`${all('h1').length} first headings`);
    return wrong";

/// What [`UNSOUND`] finds on the page that is shown.
pub async fn unsound(browser: &Chromium) -> serde_json::Value {
    browser.client.execute(UNSOUND, Vec::new()).await.unwrap()
}

/// Two organizations, so that there is a choice, and what was typed wherever it is kept.
async fn fill(installation: &Installation) {
    let acme = installation.organization("acme").await;
    let other = installation.organization("other").await;
    for (index, polyglot) in POLYGLOTS.iter().enumerate() {
        let quoted = polyglot.chars().filter(|typed| !r#""\"#.contains(*typed)).take(60).collect::<String>();
        installation.account(&acme, &format!(r#""{index}{quoted}"@acme.example"#), &[]).await;
    }
    for statement in ["update mail_account set name = $1", "update organization set name = $1"] {
        sqlx::query(statement).bind(POLYGLOTS.concat()).execute(&installation.owner).await.unwrap();
    }
    for tenant in [&acme, &other] {
        installation.administrator(tenant, "admin@acme.example", &PASSWORD_HASH, Role::Administrator).await;
    }
}

/// What the policy forbids is noticed.
async fn the_watch_is_awake(admin: &Chromium) {
    let inline = "const image = document.createElement('img'); image.setAttribute('onerror', 'alert(1)');
         image.src = '/nothing'; document.body.append(image); image.dispatchEvent(new Event('error'))";
    admin.client.execute(inline, Vec::new()).await.unwrap();
    assert!(!admin.trespasses().await.is_empty(), "an inline script is forbidden");
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn nothing_ran(admin: &Chromium) {
    let page = admin.client.current_url().await.unwrap();
    assert_eq!(admin.trespasses().await, Vec::<String>::new(), "on {page}");
    let foreign = "return [...document.querySelectorAll('img, script:not([src]), style, iframe, object, [style]')]
         .concat([...document.querySelectorAll('*')].filter(node => [...node.attributes].some(it => /^on/.test(it.name))))
         .concat([...document.querySelectorAll('a')].filter(link => !/^https?:$/.test(link.protocol)))
         .map(node => node.outerHTML)";
    let foreign = admin.client.execute(foreign, Vec::new()).await.unwrap();
    assert_eq!(foreign, serde_json::json!([]), "on {page}");
    assert_eq!(unsound(admin).await, serde_json::json!([]), "on {page}");
}
