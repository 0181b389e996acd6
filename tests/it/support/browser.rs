//! A browser without a screen: it goes through a real listener, signs in at `/sign-in`, keeps its
//! cookie, follows redirects and submits forms.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock, Mutex},
};

use outgate::{
    mail::GatewayAddress,
    policy::{Role, gateway_network::AllowedNetworks, routing::PlatformDefault},
    store::WebStore,
    web::{self, Settings},
};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Installation, Tenant};

/// The password of every administrator in tests.
pub const PASSWORD: &str = "correct horse battery staple";

/// Its hash, made once.
pub static PASSWORD_HASH: LazyLock<String> = LazyLock::new(|| web::password::hash(PASSWORD).unwrap());

/// Settings as a small installation has them: no gateway means directly to the recipients' servers.
pub fn settings() -> Settings {
    Settings {
        public_url: None,
        trusted_proxies: Vec::new(),
        platform_default: PlatformDefault::Mx,
        allowed_networks: AllowedNetworks::default(),
        webhook_networks: Default::default(),
        list_members: 200,
        return_address: None,
    }
}

/// Settings of a platform with a smarthost of its own.
pub fn settings_with_smarthost(address: &str) -> Settings {
    let address: GatewayAddress = address.parse().unwrap();
    Settings { platform_default: PlatformDefault::Smarthost(address), ..settings() }
}

/// The pages, served on a port of their own until this and all its browsers are dropped.
pub struct Pages {
    pub address: SocketAddr,
    stop: Arc<DropGuard>,
}

impl Pages {
    pub async fn of(installation: &Installation) -> Self {
        Self::with(installation.web_store().await, settings()).await
    }

    pub async fn with(store: WebStore, settings: Settings) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(web::serve(settings, store, listener, stop.clone()));
        Self { address, stop: Arc::new(stop.drop_guard()) }
    }

    /// A browser that has not signed in.
    pub fn browser(&self) -> Browser {
        Browser { _served: Some(Arc::clone(&self.stop)), ..Browser::at(self.address) }
    }

    /// A browser in which a new administrator of this organization has signed in.
    pub async fn signed_in(&self, installation: &Installation, tenant: &Tenant, role: Role) -> Browser {
        let email = format!("{}@{}", role, tenant.domain);
        installation.administrator(tenant, &email, &PASSWORD_HASH, role).await;
        let browser = self.browser();
        let page = browser.sign_in(&email, PASSWORD).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.html);
        browser
    }
}

pub struct Browser {
    client: reqwest::Client,
    origin: String,
    cookie: Mutex<Option<String>>,
    /// `None` where somebody else serves the pages.
    _served: Option<Arc<DropGuard>>,
}

/// What a browser shows in the end.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    /// Path and query, after all redirects.
    pub path: String,
    pub headers: header::HeaderMap,
    pub html: String,
}

impl Browser {
    /// One that has not signed in, for pages that are served there.
    pub fn at(address: SocketAddr) -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { client, origin: format!("http://{address}"), cookie: Mutex::new(None), _served: None }
    }

    pub async fn sign_in(&self, email: &str, password: &str) -> Page {
        self.submit("/sign-in", &[("email", email), ("password", password)]).await
    }

    pub async fn get(&self, path: &str) -> Page {
        let first = self.once(self.request(Method::GET, path), path).await;
        self.follow(first).await
    }

    pub async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let first = self.once(self.request(Method::POST, path).form(fields), path).await;
        self.follow(first).await
    }

    /// Sends a file and the other fields of its form.
    pub async fn upload(&self, path: &str, file: &[u8], fields: &[(&str, &str)]) -> Page {
        const BOUNDARY: &str = "----outgate-test";
        let mut body = Vec::new();
        body.extend_from_slice(
            format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"accounts.csv\"\r\n\
                 Content-Type: text/csv\r\n\r\n"
            )
            .as_bytes(),
        );
        body.extend_from_slice(file);
        for (name, value) in fields {
            let part = format!("\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}");
            body.extend_from_slice(part.as_bytes());
        }
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let request = self.request(Method::POST, path).header(header::CONTENT_TYPE, content_type).body(body);
        let first = self.once(request, path).await;
        self.follow(first).await
    }

    /// A request that is still to be changed; send it with [`once`](Self::once).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.client.request(method, format!("{}{path}", self.origin));
        if let Some(cookie) = self.cookie() {
            request = request.header(header::COOKIE, cookie);
        }
        request
    }

    /// One request and its response, redirects not followed.
    pub async fn once(&self, request: RequestBuilder, path: &str) -> Page {
        let response = request.send().await.unwrap();
        for set in response.headers().get_all(header::SET_COOKIE) {
            let (pair, attributes) = set.to_str().unwrap().split_once(';').unwrap();
            let removes = attributes.contains("Max-Age=0");
            *self.cookie.lock().unwrap() = (!removes).then(|| pair.to_owned());
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let html = response.text().await.unwrap();
        keep(path, &html);
        Page { status, path: path.to_owned(), headers, html }
    }

    async fn follow(&self, mut page: Page) -> Page {
        for _ in 0..5 {
            if !page.status.is_redirection() {
                return page;
            }
            let location = page.location().to_owned();
            page = self.once(self.request(Method::GET, &location), &location).await;
        }
        panic!("redirected for ever: {}", page.path);
    }

    /// `name=value` of the session cookie, if there is one.
    pub fn cookie(&self) -> Option<String> {
        self.cookie.lock().unwrap().clone()
    }

    pub fn set_cookie(&self, cookie: Option<String>) {
        *self.cookie.lock().unwrap() = cookie;
    }
}

impl Page {
    pub fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }

    /// What stands between the tags, entities resolved, every run of blanks as one.
    pub fn text(&self) -> String {
        text_of(&self.html)
    }

    /// What stands in the field with this name.
    pub fn field(&self, name: &str) -> String {
        let start = self.html.find(&format!(r#"name="{name}""#)).expect("no such field");
        let value = self.html[start..].split_once(r#"value=""#).expect("the field has no value").1;
        resolve(value.split_once('"').unwrap().0)
    }

    /// The table's rows, each as its text.
    pub fn rows(&self) -> Vec<String> {
        let Some((_, body)) = self.html.split_once("<tbody") else { return Vec::new() };
        let body = body.split_once("</tbody>").unwrap().0;
        body.split("<tr").skip(1).map(|row| text_of(row.split_once('>').unwrap().1)).collect()
    }

    /// Where a link with this text or accessible name leads, in the row that begins with this User ID.
    pub fn rows_link(&self, user_id: &str, name: &str) -> String {
        let row = self
            .html
            .split("<tr")
            .find(|row| text_of(row.split_once('>').map_or("", |row| row.1)).starts_with(user_id));
        let row = row.unwrap_or_else(|| panic!("no row of {user_id} in {}", self.html));
        Self { html: row.to_owned(), headers: self.headers.clone(), path: self.path.clone(), ..*self }.link(name)
    }

    /// What relative links continue: the path up to its last segment.
    fn folder(&self) -> &str {
        let path = self.path.split_once('?').map_or(self.path.as_str(), |(path, _)| path);
        path.rsplit_once('/').map_or("", |(folder, _)| &path[..=folder.len()])
    }

    /// Where the first link with this text or accessible name leads.
    pub fn link(&self, name: &str) -> String {
        let links = self.html.split("<a ").skip(1);
        for link in links {
            let (opening, rest) = link.split_once('>').unwrap();
            let labelled = opening.contains(&format!(r#"aria-label="{name}""#));
            if labelled || text_of(rest.split_once("</a>").unwrap().0) == name {
                let href = resolve(opening.split_once(r#"href=""#).unwrap().1.split_once('"').unwrap().0);
                let is_relative = href.starts_with(|first: char| first.is_ascii_alphanumeric());
                return if is_relative { format!("{}{href}", self.folder()) } else { href };
            }
        }
        panic!("no link {name:?} in {}", self.html);
    }
}

/// Leaves a page where bin/test looks at the markup of all of them: what a browser shows no longer
/// says what was sent.
fn keep(path: &str, html: &str) {
    let Some(folder) = std::env::var_os("OUTGATE_TEST_PAGES") else { return };
    if html.starts_with("<!doctype html>") {
        let mut hasher = DefaultHasher::new();
        html.hash(&mut hasher);
        let page = path.split('?').next().unwrap().rsplit('/').next().unwrap();
        let name = format!("{page:.40}-{:016x}.html", hasher.finish());
        std::fs::write(Path::new(&folder).join(name), html).unwrap();
    }
}

fn text_of(html: &str) -> String {
    let mut text = String::new();
    for piece in html.split('<') {
        text.push_str(piece.split_once('>').map_or(piece, |(_, text)| text));
    }
    resolve(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn resolve(escaped: &str) -> String {
    let mut text = escaped.to_owned();
    for (entity, character) in [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")] {
        text = text.replace(entity, character);
    }
    text
}
