//! Probe Sender: whom verifications of the organization's gateways come from. A card on Outbound Mail Gateway, and a
//! page of its own for what was mistyped.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    draft::Draft,
    error::{PageError, see_other},
    form::Form,
    link::Link,
    outbound_mail_gateway, page,
    session::InOrganization,
    text_field::{self, TextField},
};
use crate::{
    mail::Mailbox,
    store::{
        self,
        organization::{ProbeSender, Summary},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-mail-gateway/probe-sender";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// The form as it is shown, here and on Outbound Mail Gateway.
#[derive(Debug)]
pub struct ProbeSenderCard {
    pub entry: TextField,
    /// The address that it is shown with, empty for none.
    pub seen: String,
    /// Where it is sent to.
    pub action: String,
    pub may_save: bool,
    /// Whom verifications come from now; `None` as long as there is no mail domain.
    pub now: Option<String>,
}

impl ProbeSenderCard {
    pub fn of(inside: &InOrganization, summary: &Summary) -> Self {
        let seen = summary.probe_sender.as_ref().map(ToString::to_string).unwrap_or_default();
        Self {
            entry: TextField {
                id: "probe_sender",
                label: "Probe Sender",
                hint: "A mail address at one of your mail domains. Leave empty for the postmaster of the shortest of them.",
                direction: "ltr",
                typed: seen.clone(),
                ..TextField::default()
            },
            seen,
            action: here(&inside.access.slug).build(),
            may_save: inside.access.role.may_set_organization_gateway(),
            now: summary.verifies_as.clone(),
        }
    }
}

fn here(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/outbound-mail-gateway/probe-sender"))
}

#[derive(Template)]
#[template(path = "probe_sender.html")]
struct ProbeSenderPage {
    console: Console,
    probe: ProbeSenderCard,
    mistakes: Vec<(&'static str, String)>,
    is_draft: bool,
}

/// What is sent. Nothing else is accepted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeSenderForm {
    probe_sender: String,
    seen: String,
}

impl ProbeSenderForm {
    /// An emptied field leaves the choice to us.
    fn parse(&self) -> Result<Option<Mailbox>, String> {
        if self.probe_sender.trim().is_empty() {
            return Ok(None);
        }
        let sender: Mailbox =
            self.probe_sender.parse().map_err(|mistake: crate::mail::mailbox::MailboxError| mistake.to_string())?;
        // Not every gateway offers SMTPUTF8 (RFC 6531), and this address is there for all of them.
        match sender.local_part().is_ascii() {
            true => Ok(Some(sender)),
            false => Err(format!("“{sender}” is not for every gateway. Use letters from a to z before the @.")),
        }
    }
}

async fn show(State(app): State<App>, inside: InOrganization, draft: Draft) -> Result<Response, PageError> {
    let mut probe = card(&app, &inside).await?;
    let now = probe.seen.clone();
    let is_draft = probe.entry.restore(&draft, draft.field("seen"), &now);
    page(&ProbeSenderPage {
        console: Console::new(&inside, outbound_mail_gateway::LABEL),
        probe,
        mistakes: vec![],
        is_draft,
    })
}

async fn card(app: &App, inside: &InOrganization) -> Result<ProbeSenderCard, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let summary = store::organization::summary(&mut transaction, inside.access.organization()).await?;
    Ok(ProbeSenderCard::of(inside, &summary))
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<ProbeSenderForm>,
) -> Result<Response, PageError> {
    let access = &inside.access;
    if !access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden(
            "Only an Administrator may change whom verifications come from. Ask one of your organization.",
        ));
    }
    let sender = match form.parse() {
        Ok(sender) => sender,
        Err(mistake) => return again(&app, &inside, form, mistake, StatusCode::UNPROCESSABLE_ENTITY).await,
    };
    let transaction = app.store.begin(access).await?;
    let seen = form.seen.trim();
    let back = outbound_mail_gateway::here(&access.slug);
    match store::organization::set_probe_sender(transaction, sender.as_ref(), seen, &access.email).await? {
        ProbeSender::Unchanged => Ok(see_other(&back.with("unchanged", "probe-sender").build())),
        ProbeSender::Changed(committed) => Ok(see_other(&back.with("probe", &committed.id.to_string()).build())),
        ProbeSender::NotOurs(domain) => {
            let mistake = format!(
                "“{}” is not a mail domain of your organization. Use an address at one that is.",
                domain.to_unicode()
            );
            again(&app, &inside, form, mistake, StatusCode::UNPROCESSABLE_ENTITY).await
        }
        ProbeSender::Meanwhile(by) => {
            let by = by.map_or("Somebody else".to_owned(), |by| by.actor);
            let mistake = format!("{by} has changed it meanwhile. Save again to put yours in its place.");
            again(&app, &inside, form, mistake, StatusCode::CONFLICT).await
        }
    }
}

/// With what was typed, and what is wrong with it. In a conflict what is saved now stands beside it.
async fn again(
    app: &App,
    inside: &InOrganization,
    form: ProbeSenderForm,
    mistake: String,
    status: StatusCode,
) -> Result<Response, PageError> {
    let mut probe = card(app, inside).await?;
    match status {
        StatusCode::CONFLICT => probe.entry.theirs = Some(probe.seen.clone()),
        // A save of somebody else is still to be noticed.
        _ => probe.seen = form.seen,
    }
    probe.entry.again(form.probe_sender, mistake);
    let look = ProbeSenderPage {
        console: Console::new(inside, outbound_mail_gateway::LABEL),
        mistakes: text_field::mistakes(&[&probe.entry]),
        probe,
        is_draft: false,
    };
    Ok((status, page(&look)?).into_response())
}
