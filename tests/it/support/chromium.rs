//! A real Chromium, driven the way a person finds things: by role and name as assistive
//! technology computes them, never by markup.

use std::{process::Stdio, time::Duration};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element, error::CmdError, wd::WebDriverCompatibleCommand};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// How long a page may take to show what is expected of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can have a role, so that not every element of a page has to be asked for its own.
fn candidates(role: &str) -> &'static str {
    match role {
        "alert" => "[role=alert]",
        "button" => "button, input[type=submit], [role=button]",
        "DisclosureTriangle" => "summary",
        "heading" => "h1, h2, h3, [role=heading]",
        "link" => "a, [role=link]",
        "main" => "main, [role=main]",
        "rowheader" => "th, [role=rowheader]",
        "textbox" => "input, textarea, [role=textbox]",
        _ => "*",
    }
}

/// How a browser is to be.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    pub script: bool,
}

pub const DESKTOP: Look = Look { width: 1280, height: 900, dark: false, script: true };

pub struct Chromium {
    pub client: Client,
    driver: Child,
}

impl Chromium {
    pub async fn start(look: Look) -> Self {
        let driver_program = std::env::var("OUTGATE_TEST_CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        let mut driver = Command::new(&driver_program)
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{driver_program} does not start ({error}); bin/test installs it"));
        let port = port_of(&mut driver).await;
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities(look))
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { client, driver }
    }

    pub async fn stop(self) {
        self.client.clone().close().await.unwrap();
    }

    /// The one element with this role and name; waits for it, and says what there was if it does not come.
    pub async fn find(&self, role: &str, name: &str) -> Element {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let seen = self.all(candidates(role)).await;
            let found: Vec<&Seen> = seen.iter().filter(|seen| seen.role == role && seen.name == name).collect();
            match found.as_slice() {
                [one] => return one.element.clone(),
                _ if tokio::time::Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
                found => panic!(
                    "{} elements are a {role} named “{name}” on {}; there is: {}",
                    found.len(),
                    self.client.current_url().await.unwrap(),
                    seen.iter().map(|seen| format!("{} “{}”", seen.role, seen.name)).collect::<Vec<_>>().join(", "),
                ),
            }
        }
    }

    /// The same within another element, such as a row of a table.
    pub async fn find_in(&self, within: &Element, role: &str, name: &str) -> Element {
        let mut names = Vec::new();
        for element in within.find_all(Locator::Css(candidates(role))).await.unwrap() {
            let seen = self.seen(element).await.unwrap();
            if seen.role == role && seen.name == name {
                return seen.element;
            }
            names.push(format!("{} “{}”", seen.role, seen.name));
        }
        panic!("no {role} named “{name}” in it; there is: {}", names.join(", "));
    }

    /// The link with this name in the page's main part, where a navigation has one too.
    pub async fn click_in_main(&self, name: &str) {
        let main = self.find("main", "").await;
        self.find_in(&main, "link", name).await.click().await.unwrap();
    }

    /// The row of a table whose header is this.
    pub async fn row_with(&self, header: &str) -> Element {
        for row in self.client.find_all(Locator::Css("tr")).await.unwrap() {
            for cell in row.find_all(Locator::Css(candidates("rowheader"))).await.unwrap() {
                let seen = self.seen(cell).await.unwrap();
                if seen.role == "rowheader" && seen.name == header {
                    return row;
                }
            }
        }
        panic!("no row is headed {header}; the page says: {}", self.text().await)
    }

    pub async fn click(&self, role: &str, name: &str) {
        self.find(role, name).await.click().await.unwrap();
    }

    /// Types into a text field after emptying it.
    pub async fn fill(&self, name: &str, text: &str) {
        let field = self.find("textbox", name).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Waits until the page's main part says this.
    pub async fn wait_for_text(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let shown = self.text().await;
            if shown.contains(text) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "the page does not say “{text}”, it says: {shown}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn text(&self) -> String {
        let Ok(body) = self.client.find(Locator::Css("body")).await else { return String::new() };
        body.text().await.unwrap_or_default()
    }

    pub async fn screenshot(&self, path: &std::path::Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, self.client.screenshot().await.unwrap()).unwrap();
    }

    async fn all(&self, css: &str) -> Vec<Seen> {
        let mut all = Vec::new();
        for element in self.client.find_all(Locator::Css(css)).await.unwrap() {
            // A page may be replaced while it is read: what is gone is not on it.
            if let Ok(seen) = self.seen(element).await {
                all.push(seen);
            }
        }
        all
    }

    async fn seen(&self, element: Element) -> Result<Seen, CmdError> {
        let id = element.element_id();
        let computed = async |what: &'static str| {
            let value = self.client.issue_cmd(Computed { element: id.to_string(), what }).await?;
            Ok::<String, CmdError>(value.as_str().unwrap_or_default().trim().to_owned())
        };
        Ok(Seen { role: computed("computedrole").await?, name: computed("computedlabel").await?, element })
    }
}

/// Also when a test fails: the driver alone would leave its browser behind.
impl Drop for Chromium {
    fn drop(&mut self) {
        if let Some(group) = self.driver.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

struct Seen {
    role: String,
    name: String,
    element: Element,
}

/// The accessibility end points of WebDriver (W3C WebDriver §12.4.9 and §12.4.10).
#[derive(Debug)]
struct Computed {
    element: String,
    what: &'static str,
}

impl WebDriverCompatibleCommand for Computed {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/element/{}/{}", session.unwrap_or_default(), self.element, self.what))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::GET, None)
    }
}

async fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return port.trim_end_matches('.').parse().unwrap();
        }
    }
    panic!("chromedriver ended before it listened");
}

fn capabilities(look: Look) -> serde_json::Map<String, Value> {
    let mut arguments = vec![
        "--headless=new".to_owned(),
        "--no-sandbox".to_owned(), // As root there is no other way.
        "--disable-dev-shm-usage".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-background-networking".to_owned(),
        "--disable-component-update".to_owned(),
        "--disable-sync".to_owned(),
        "--no-first-run".to_owned(),
        "--hide-scrollbars".to_owned(),
        format!("--window-size={},{}", look.width, look.height),
    ];
    if look.dark {
        arguments.push("--force-dark-mode".to_owned());
        arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
    }
    let mut options = json!({ "args": arguments });
    if let Ok(binary) = std::env::var("OUTGATE_TEST_CHROMIUM") {
        options["binary"] = json!(binary);
    }
    if !look.script {
        options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
    }
    // Narrower than a desktop window can be: the page is laid out as on a phone.
    if look.width < 500 {
        options["mobileEmulation"] = json!({ "deviceMetrics": { "width": look.width, "height": look.height, "pixelRatio": 2.0, "touch": true } });
    }
    let capabilities = json!({ "goog:chromeOptions": options });
    capabilities.as_object().unwrap().clone()
}
