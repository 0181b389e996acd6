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
        "checkbox" => "input[type=checkbox]",
        "DisclosureTriangle" => "summary",
        "heading" => "h1, h2, h3, [role=heading]",
        "link" => "a, [role=link]",
        "main" => "main, [role=main]",
        "rowheader" => "th, [role=rowheader]",
        "textbox" => "input, textarea, [role=textbox]",
        _ => "*",
    }
}

pub struct Chromium {
    pub client: Client,
    driver: Child,
}

impl Chromium {
    /// A window of 1280 by 900, in the light.
    pub async fn start() -> Self {
        Self::with_script(true).await
    }

    pub async fn start_with_script_switched_off() -> Self {
        Self::with_script(false).await
    }

    async fn with_script(script: bool) -> Self {
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
            .capabilities(capabilities(script))
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { client, driver }
    }

    /// Shows the page as a window of this size does, to a reader of light or dark pages. Nothing
    /// moves meanwhile, and what is open or has the focus stays as it is.
    pub async fn appear(&self, width: u32, height: u32, dark: bool) {
        let narrow = width < 500;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": if narrow { 2 } else { 1 }, "mobile": narrow });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Has every page from now on keep what its Content-Security-Policy forbade, and every alert,
    /// for [`trespasses`](Self::trespasses).
    pub async fn watch_for_trespasses(&self) {
        let source = "window.trespasses = [];
             addEventListener('securitypolicyviolation', event => trespasses.push(
                 `${event.effectiveDirective} forbade ${event.blockedURI} ${event.sample} ${event.sourceFile}`));
             addEventListener('error', event => trespasses.push(`error: ${event.message}`));
             for (const name of ['alert', 'confirm', 'prompt']) window[name] = words => trespasses.push(`${name}(${words})`);";
        self.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await;
    }

    /// What ran, or tried to, on this page and should not have.
    pub async fn trespasses(&self) -> Vec<String> {
        let kept = self.client.execute("return window.trespasses", Vec::new()).await.unwrap();
        serde_json::from_value(kept).expect("watch_for_trespasses comes before the page")
    }

    async fn devtools(&self, command: &'static str, parameters: Value) {
        self.client.issue_cmd(DevTools { command, parameters }).await.unwrap();
    }

    /// Has the page show the focus as if its window were in front, whatever the look it takes on.
    pub async fn stay_in_front(&self) {
        self.devtools("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await;
    }

    /// Presses a key of [`fantoccini::key`] or types a text, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        self.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Role and name of what has the focus.
    pub async fn focused(&self) -> (String, String) {
        let seen = self.seen(self.client.active_element().await.unwrap()).await.unwrap();
        (seen.role, seen.name)
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

/// A command of the Chrome DevTools Protocol, for what WebDriver has no word for.
#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let body = json!({ "cmd": self.command, "params": self.parameters });
        (http::Method::POST, Some(body.to_string()))
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

fn capabilities(script: bool) -> serde_json::Map<String, Value> {
    let arguments = [
        "--headless=new",
        "--no-sandbox", // As root there is no other way.
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        "--window-size=1280,900",
    ];
    let mut options = json!({ "args": arguments });
    if let Ok(binary) = std::env::var("OUTGATE_TEST_CHROMIUM") {
        options["binary"] = json!(binary);
    }
    if !script {
        options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
    }
    let capabilities = json!({ "goog:chromeOptions": options });
    capabilities.as_object().unwrap().clone()
}
