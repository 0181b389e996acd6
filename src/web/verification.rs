//! Verification: whether a gateway accepts our mail, as each relay finds it out, step by step.
//! Asked from `gateway`; the relay's part is `relay::verification`.

use askama::Template;
use axum::{
    extract::{FromRequestParts, RawPathParams, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    form::Form,
    gateway, gateways,
    link::Link,
    page,
    session::InOrganization,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{GatewayAddress, id::VerificationId},
    policy::verification::{self, Outcome, Step},
    store::{
        self,
        tenant::Access,
        verification::{Answer, Asked, Verification, Wanted},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/verifications/{verification}";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::get("/{organization}/web-mail-cloud/gateways/{gateway}/verify", ask_first),
        Route::post("/{organization}/web-mail-cloud/gateways/{gateway}/verify", ask),
    ]
}

/// The page of what was found.
pub fn link(slug: &str, verification: VerificationId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/verifications/{verification}"))
}

/// Begins to verify a gateway that was just set, unless it was verified already. Who saved does not wait for it.
pub fn begin(app: &App, access: &Access, address: &GatewayAddress) {
    let (app, access, address) = (app.clone(), access.clone(), address.clone());
    tokio::spawn(async move {
        let asked = async {
            let mut transaction = app.store.begin(&access).await?;
            let organization = access.organization();
            store::verification::ask_unless_checked(&mut transaction, organization, &address, &access.email).await?;
            transaction.commit().await
        };
        if let Err(error) = asked.await {
            tracing::warn!(%error, gateway = %address, "a gateway that was set is not verified");
        }
    });
}

/// The verification that the path names.
struct Named(VerificationId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| PageError::NotFound)?;
        let named = params.iter().find(|(name, _)| *name == "verification").and_then(|(_, id)| id.parse().ok());
        named.map(Self).ok_or(PageError::NotFound)
    }
}

#[derive(Template)]
#[template(path = "verification.html")]
struct VerificationPage {
    console: Console,
    address: ShownAddress,
    asked: Verification,
    at: String,
    /// Of the gateway, where it is saved.
    revision: Option<String>,
    relays: Vec<ShownAnswer>,
    /// The gateway's page, where it is saved.
    gateway: Option<String>,
    list: String,
    may_ask: bool,
}

/// What one relay found.
struct ShownAnswer {
    relay: String,
    verdict: &'static str,
    accepts: Option<bool>,
    steps: Vec<ShownStep>,
}

struct ShownStep {
    title: &'static str,
    class: &'static str,
    outcome: &'static str,
    took: String,
    saw: Vec<String>,
    advice: Option<String>,
}

impl From<&Answer> for ShownAnswer {
    fn from(answer: &Answer) -> Self {
        Self {
            relay: answer.relay.clone(),
            verdict: match answer.accepts {
                Some(true) => "It accepts our mail",
                Some(false) => "It does not accept our mail",
                None => "Under way",
            },
            accepts: answer.accepts,
            steps: answer.steps.iter().map(ShownStep::from).collect(),
        }
    }
}

impl From<&Step> for ShownStep {
    fn from(step: &Step) -> Self {
        let (outcome, class) = match step.outcome {
            Outcome::UnderWay => ("under way", "is-under-way"),
            Outcome::Passed => ("passed", "is-passed"),
            Outcome::Failed => ("failed", "is-failed"),
        };
        Self {
            title: verification::title(step.stage),
            class,
            outcome,
            took: match step.took {
                milliseconds @ ..1000 => format!("{milliseconds} ms"),
                milliseconds => format!("{:.1} s", f64::from(milliseconds) / 1000.0),
            },
            saw: step.saw.clone(),
            advice: step.advice.clone(),
        }
    }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(verification): Named,
) -> Result<Response, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::verification::by_id(&mut transaction, organization, verification).await?;
    drop(transaction);
    let asked = found.ok_or(PageError::NotFound)?;
    let slug = &inside.access.slug;
    page(&VerificationPage {
        console: Console::new(&inside, gateways::LABEL),
        address: (&asked.address).into(),
        at: wording::moment(asked.at),
        revision: asked.revision.map(wording::number),
        relays: asked.answers.iter().map(ShownAnswer::from).collect(),
        gateway: asked.gateway.map(|id| gateway::link(slug, id).build()),
        list: gateways::link(slug).build(),
        may_ask: inside.access.role.may_set_account_gateway(),
        asked,
    })
}

/// The button stands on the gateway's page.
async fn ask_first(
    State(app): State<App>,
    inside: InOrganization,
    gateway::Named(id): gateway::Named,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::gateway::overview(&mut transaction, inside.access.organization(), Some(id)).await?.pop();
    found.ok_or(PageError::NotFound)?;
    Ok(see_other(&gateway::link(&inside.access.slug, id).build()))
}

/// Nothing is sent: what is verified stands in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyForm {}

async fn ask(
    State(app): State<App>,
    inside: InOrganization,
    gateway::Named(id): gateway::Named,
    Form(VerifyForm {}): Form<VerifyForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_account_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator or a User Administrator may verify a gateway. Ask one of your organization.",
        ));
    }
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::gateway::overview(&mut transaction, organization, Some(id)).await?.pop();
    let found = found.ok_or(PageError::NotFound)?;
    let email = &inside.access.email;
    let wanted = Wanted { gateway: Some(id), address: &found.address, sender: None, recipient: None, by: email };
    match store::verification::ask(&mut transaction, organization, &wanted).await? {
        Asked::Asked(verification) => {
            transaction.commit().await?;
            Ok(see_other(&link(&inside.access.slug, verification).build()))
        }
        Asked::NotFound => Err(PageError::NotFound),
        Asked::TooMany => {
            drop(transaction);
            let look = gateway::look(&app, &inside, id).await?.with_verifications_under_way();
            Ok((StatusCode::TOO_MANY_REQUESTS, page(&look)?).into_response())
        }
    }
}
