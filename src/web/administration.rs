//! Manage Organization: the organization at a glance, and the way to what can be set.
//! The first page of the menu Administration.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    App, Route,
    console::Console,
    error::PageError,
    page,
    session::InOrganization,
    wording::{self, ShownRoute},
};
use crate::store::{self, organization::Summary};

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/administration", show)]
}

#[derive(Template)]
#[template(path = "administration.html")]
struct Administration {
    console: Console,
    summary: Summary,
    route: ShownRoute,
    /// The first few, in their own script.
    domains: Vec<String>,
    more_domains: usize,
}

/// How many mail domains are named before the rest are only counted.
const NAMED_DOMAINS: usize = 5;

async fn show(State(app): State<App>, inside: InOrganization) -> Result<Response, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let summary = store::organization::summary(&mut transaction, organization).await?;
    let domains = store::domain::list(&mut transaction, organization).await?;
    drop(transaction);
    page(&Administration {
        console: Console::new(&inside, "Manage Organization"),
        route: ShownRoute::of(summary.gateways(), &app.settings.platform_default),
        more_domains: domains.len().saturating_sub(NAMED_DOMAINS),
        domains: domains.iter().take(NAMED_DOMAINS).map(|domain| domain.name.to_unicode()).collect(),
        summary,
    })
}
