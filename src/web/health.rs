//! `/healthz` and `/readyz`: for whoever keeps the program running, not for administrators.
//! Outside of sessions and organizations.

use axum::extract::State;

use super::{App, Route, error::PageError};

pub fn routes() -> Vec<Route> {
    vec![Route::get("/healthz", async || "ok\n"), Route::get("/readyz", readyz)]
}

/// 200 if pages can be answered, 503 if the store does not answer.
async fn readyz(State(app): State<App>) -> Result<&'static str, PageError> {
    app.store.ping().await?;
    Ok("ok\n")
}
