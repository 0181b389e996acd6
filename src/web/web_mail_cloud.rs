//! Web Mail Cloud: the pages about mail, each with its present state.
//! Between Manage Organization and the pages that it lists.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    App, Route,
    console::Console,
    error::PageError,
    page,
    session::InOrganization,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::store::{self, organization::Summary};

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud", show)]
}

#[derive(Template)]
#[template(path = "web_mail_cloud.html")]
struct WebMailCloud {
    console: Console,
    summary: Summary,
    /// The organization's own gateway, where it has one.
    gateway: Option<ShownAddress>,
    route: ShownRoute,
}

async fn show(State(app): State<App>, inside: InOrganization) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let summary = store::organization::summary(&mut transaction, inside.access.organization()).await?;
    drop(transaction);
    page(&WebMailCloud {
        console: Console::new(&inside, "Web Mail Cloud"),
        route: ShownRoute::of(summary.gateways(), &app.settings.platform_default),
        gateway: summary.gateway.as_ref().map(ShownAddress::from),
        summary,
    })
}
