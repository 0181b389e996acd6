//! `/` and `/{organization}`: on to where administrators begin.
//! Shows the choice where somebody looks after several organizations.

use askama::Template;
use axum::response::Response;

use super::{
    Route,
    error::{PageError, see_other},
    page,
    session::{InOrganization, SignedIn},
};
use crate::store::tenant::Access;

pub fn routes() -> Vec<Route> {
    vec![Route::get("/", choose), Route::get("/{organization}", enter)]
}

/// The choice, for who looks after several organizations.
#[derive(Template)]
#[template(path = "organizations.html")]
struct Organizations {
    email: String,
    organizations: Vec<Access>,
}

async fn choose(signed_in: SignedIn) -> Result<Response, PageError> {
    match signed_in.organizations.as_slice() {
        [(only, _)] => Ok(see_other(&format!("/{}/administration", only.slug))),
        several => page(&Organizations {
            email: several.first().map(|(access, _)| access.email.clone()).unwrap_or_default(),
            organizations: signed_in.organizations.into_iter().map(|(access, _)| access).collect(),
        }),
    }
}

async fn enter(inside: InOrganization) -> Response {
    see_other(&format!("/{}/administration", inside.access.slug))
}
