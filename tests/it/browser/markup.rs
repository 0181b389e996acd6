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

    for path in ["/acme/administration", "/acme/web-mail-cloud", TABLE] {
        go(path).await;
    }
    admin.client.find(Locator::Css("[aria-label='Outbound Gateway']")).await.unwrap().click().await.unwrap();
    admin.find("heading", "Outbound Gateway").await;
    nothing_ran(&admin).await;
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
}
