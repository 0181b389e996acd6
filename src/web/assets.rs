//! The files beside the pages, compiled into the program. A file's address carries a hash of its
//! content, so that a browser may keep it for ever and still never uses an old one.

use std::sync::LazyLock;

use axum::{
    extract::RawQuery,
    http::header,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::Route;

/// One file.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    content: &'static str,
}

const STYLES: Asset = Asset {
    path: "/static/outgate.css",
    content_type: "text/css; charset=utf-8",
    content: include_str!("../../static/outgate.css"),
};

const SCRIPT: Asset = Asset {
    path: "/static/outgate.js",
    content_type: "text/javascript; charset=utf-8",
    content: include_str!("../../static/outgate.js"),
};

const ICON: Asset =
    Asset { path: "/static/icon.svg", content_type: "image/svg+xml", content: include_str!("../../static/icon.svg") };

static STYLES_HASH: LazyLock<String> = LazyLock::new(|| STYLES.hash());
static SCRIPT_HASH: LazyLock<String> = LazyLock::new(|| SCRIPT.hash());
static ICON_HASH: LazyLock<String> = LazyLock::new(|| ICON.hash());

impl Asset {
    fn hash(&self) -> String {
        Sha256::digest(self.content).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The file, to be kept for a year if it was asked for by its hash.
    fn answer(&self, hash: &str, asked: Option<&str>) -> Response {
        let caching = if asked == Some(hash) { "public, max-age=31536000, immutable" } else { "no-cache" };
        ([(header::CONTENT_TYPE, self.content_type), (header::CACHE_CONTROL, caching)], self.content).into_response()
    }
}

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(STYLES.path, async |RawQuery(asked): RawQuery| STYLES.answer(&STYLES_HASH, asked.as_deref())),
        Route::get(SCRIPT.path, async |RawQuery(asked): RawQuery| SCRIPT.answer(&SCRIPT_HASH, asked.as_deref())),
        Route::get(ICON.path, async |RawQuery(asked): RawQuery| ICON.answer(&ICON_HASH, asked.as_deref())),
    ]
}

/// The address of the style sheet, for templates.
pub fn styles_url() -> String {
    format!("{}?{}", STYLES.path, *STYLES_HASH)
}

/// The address of the script, for templates.
pub fn script_url() -> String {
    format!("{}?{}", SCRIPT.path, *SCRIPT_HASH)
}

/// The address of the icon, for templates.
pub fn icon_url() -> String {
    format!("{}?{}", ICON.path, *ICON_HASH)
}
