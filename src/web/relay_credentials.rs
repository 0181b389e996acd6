//! Relay Credentials: what mail servers and devices sign in with to submit the organization's mail. The list, and
//! the form that makes one; one of them is `relay_credential`'s.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tower_sessions::Session;

use super::{
    App, Route,
    console::Console,
    draft::Draft,
    error::{PageError, see_other},
    form::Form,
    link::Link,
    page, relay_credential,
    session::InOrganization,
    status,
    text_field::{self, TextField},
    wording,
};
use crate::{
    mail::{
        DomainName,
        id::{ChangeId, CredentialId},
    },
    policy::relay_credential::{self as policy, Limits, SecretHash},
    store::{
        self,
        relay_credential::{Credential, MOST_VALID, Made, NewCredential, Terms},
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Relay Credentials";

const PATH: &str = "/{organization}/web-mail-cloud/relay-credentials";
const NEW_PATH: &str = "/{organization}/web-mail-cloud/relay-credentials/new";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::get(NEW_PATH, show_new), Route::post(NEW_PATH, create)]
}

/// The list.
pub fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/relay-credentials"))
}

/// What is said to who may only look.
pub(super) const READ_ONLY: &str =
    "Only an Administrator may make, limit and revoke relay credentials. Ask one of your organization.";

#[derive(Template)]
#[template(path = "relay_credentials.html")]
struct RelayCredentials {
    console: Console,
    rows: Vec<Row>,
    /// Where a new one is made, for who may.
    new: Option<String>,
}

/// One credential as it stands in the table.
struct Row {
    name: String,
    user_name: String,
    page: String,
    revoked: bool,
    last_use: Option<String>,
    limits: String,
}

async fn show(State(app): State<App>, inside: InOrganization) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let credentials = store::relay_credential::list(&mut transaction, inside.access.organization(), true).await?;
    drop(transaction);
    let slug = &inside.access.slug;
    page(&RelayCredentials {
        console: Console::new(&inside, LABEL),
        rows: credentials.into_iter().map(|credential| row(slug, credential)).collect(),
        new: inside.access.role.may_manage_relay_credentials().then(|| format!("{}/new", link(slug).build())),
    })
}

fn row(slug: &str, credential: Credential) -> Row {
    Row {
        page: relay_credential::link(slug, credential.id).build(),
        limits: credential.terms.limits_in_words(),
        name: credential.terms.name,
        user_name: credential.user_name,
        revoked: credential.revoked,
        last_use: credential.last_used_at.map(wording::moment),
    }
}

/// The fields of a credential's terms.
pub(super) struct TermsFields {
    pub name: TextField,
    pub senders: TextField,
    pub networks: TextField,
    pub messages_per_minute: TextField,
    pub allow_bare_line_feeds: bool,
}

/// What was typed into them.
pub(super) struct Typed<'a> {
    pub name: &'a str,
    pub senders: &'a str,
    pub networks: &'a str,
    pub messages_per_minute: &'a str,
    pub allow_bare_line_feeds: bool,
}

impl TermsFields {
    pub fn of(terms: &Terms) -> Self {
        let limits = &terms.limits;
        let addresses = limits.addresses.iter().map(wording::user_id);
        let senders: Vec<String> = addresses.chain(limits.domains.iter().map(DomainName::to_unicode)).collect();
        let networks: Vec<String> = limits.networks.iter().map(ToString::to_string).collect();
        let field = |id, label, hint, lines, direction, typed| TextField {
            id,
            label,
            hint,
            lines,
            direction,
            typed,
            ..TextField::default()
        };
        Self {
            name: field(
                "name",
                "Name",
                "What it is for, such as Mail server in Lisbon.",
                1,
                "auto",
                terms.name.clone(),
            ),
            senders: field(
                "senders",
                "May send from",
                "Mail addresses and mail domains of your organization, one per line. Empty: all of them.",
                senders.len().clamp(3, 12),
                "ltr",
                senders.join("\n"),
            ),
            networks: field(
                "networks",
                "May be used from",
                "Addresses and networks, one per line, such as 192.0.2.0/24. Empty: everywhere.",
                networks.len().clamp(2, 12),
                "ltr",
                networks.join("\n"),
            ),
            messages_per_minute: field(
                "messages_per_minute",
                "Messages a minute",
                "More than so many have to wait for the next minute; each relay counts for itself. Empty: no limit.",
                1,
                "ltr",
                limits.messages_per_minute.map(|rate| rate.to_string()).unwrap_or_default(),
            ),
            allow_bare_line_feeds: limits.allow_bare_line_feeds,
        }
    }

    /// With what was typed before the session ended. Returns whether there was something.
    pub fn restore(&mut self, draft: &Draft, now: &Self) -> bool {
        let mut is_draft = false;
        for (field, now) in [
            (&mut self.name, &now.name),
            (&mut self.senders, &now.senders),
            (&mut self.networks, &now.networks),
            (&mut self.messages_per_minute, &now.messages_per_minute),
        ] {
            is_draft |= field.restore(draft, None, &now.typed);
        }
        if is_draft {
            self.allow_bare_line_feeds = draft.field("allow_bare_line_feeds").is_some();
        }
        is_draft
    }

    /// The terms that were typed, or `None` with the fields' mistakes. All fields keep what was typed.
    pub fn take(&mut self, typed: &Typed<'_>, own_domains: &[DomainName]) -> Option<Terms> {
        let name = kept(&mut self.name, typed.name, policy::name);
        let senders = kept(&mut self.senders, typed.senders, |typed| {
            let (addresses, domains) = policy::senders(typed)?;
            let of_addresses = addresses.iter().map(|address| address.domain());
            match of_addresses.chain(&domains).find(|domain| !own_domains.contains(domain)) {
                Some(foreign) => Err(format!("{} is not a mail domain of your organization.", foreign.to_unicode())),
                None => Ok((addresses, domains)),
            }
        });
        let networks = kept(&mut self.networks, typed.networks, policy::networks);
        let messages_per_minute =
            kept(&mut self.messages_per_minute, typed.messages_per_minute, policy::messages_per_minute);
        self.allow_bare_line_feeds = typed.allow_bare_line_feeds;
        let (addresses, domains) = senders?;
        let limits = Limits {
            addresses,
            domains,
            networks: networks?,
            messages_per_minute: messages_per_minute?,
            allow_bare_line_feeds: typed.allow_bare_line_feeds,
        };
        Some(Terms { name: name?, limits })
    }

    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        text_field::mistakes(&[&self.name, &self.senders, &self.networks, &self.messages_per_minute])
    }
}

/// What a field says; the field keeps what was typed, and why that cannot be.
fn kept<T>(field: &mut TextField, typed: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    field.typed = typed.to_owned();
    parse(typed).map_err(|mistake| field.mistake = Some(mistake)).ok()
}

/// The organization's mail domains.
pub(super) async fn own_domains(app: &App, inside: &InOrganization) -> Result<Vec<DomainName>, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let domains = store::domain::list(&mut transaction, inside.access.organization()).await?;
    Ok(domains.into_iter().map(|domain| domain.name).collect())
}

#[derive(Template)]
#[template(path = "new_relay_credential.html")]
struct NewRelayCredential {
    console: Console,
    list: String,
    /// Of the change that the form becomes, so that sent twice it makes one credential.
    change: ChangeId,
    nonce: String,
    mistakes: Vec<(&'static str, String)>,
    fields: TermsFields,
    is_draft: bool,
}

fn look(inside: &InOrganization, change: ChangeId, nonce: String) -> NewRelayCredential {
    NewRelayCredential {
        console: Console::new(inside, LABEL),
        list: link(&inside.access.slug).build(),
        change,
        nonce,
        mistakes: Vec::new(),
        fields: TermsFields::of(&Terms::default()),
        is_draft: false,
    }
}

async fn show_new(inside: InOrganization, draft: Draft) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let nonce: u128 = rand::random();
    let mut look = look(&inside, ChangeId::new(), format!("{nonce:032x}"));
    look.is_draft = look.fields.restore(&draft, &TermsFields::of(&Terms::default()));
    page(&look)
}

pub(super) fn may_manage(inside: &InOrganization) -> Result<(), PageError> {
    match inside.access.role.may_manage_relay_credentials() {
        true => Ok(()),
        false => Err(PageError::Forbidden(READ_ONLY)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewForm {
    name: String,
    senders: String,
    networks: String,
    messages_per_minute: String,
    allow_bare_line_feeds: Option<String>,
    change: String,
    nonce: String,
}

async fn create(
    State(app): State<App>,
    inside: InOrganization,
    session: Session,
    Form(form): Form<NewForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let change: ChangeId =
        form.change.parse().map_err(|_| PageError::Malformed("change is not the id of a change".to_owned()))?;
    if form.nonce.len() != 32 || !form.nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(PageError::Malformed("nonce is not one of ours".to_owned()));
    }
    let mut look = look(&inside, change, form.nonce.clone());
    let typed = Typed {
        name: &form.name,
        senders: &form.senders,
        networks: &form.networks,
        messages_per_minute: &form.messages_per_minute,
        allow_bare_line_feeds: form.allow_bare_line_feeds.is_some(),
    };
    let Some(terms) = look.fields.take(&typed, &own_domains(&app, &inside).await?) else { return again(look) };
    let fresh = Fresh { id: CredentialId(change.0), nonce: form.nonce };
    let secret = fresh.secret(&session)?;
    let user_name = policy::user_name(&inside.access.slug, &rand::random());
    let new = NewCredential { id: fresh.id, user_name, secret: SecretHash::of(&secret), terms };
    let transaction = app.store.begin(&inside.access).await?;
    match store::relay_credential::create(transaction, &new, &inside.access.email).await? {
        Made::Made(committed) => status::wait_until_live(&app, &inside.access, committed.revision).await,
        // The same form, sent twice: what the first did is the answer to both.
        Made::Already => {}
        Made::TooMany => {
            look.fields.name.mistake = Some(format!(
                "Your organization has {MOST_VALID} valid relay credentials, which is the most. Revoke one first."
            ));
            return again(look);
        }
    }
    let shown_at = relay_credential::link(&inside.access.slug, fresh.id).with("change", &change.to_string());
    session.insert(KEY, fresh).await?;
    Ok(see_other(&shown_at.build()))
}

fn again(mut look: NewRelayCredential) -> Result<Response, PageError> {
    look.mistakes = look.fields.mistakes();
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
}

const KEY: &str = "relay_credential";

/// A credential whose secret was not shown yet. The secret is made from the form's number and the session's id:
/// the browser has the latter and the store only its hash, so that neither alone can make it again.
#[derive(Debug, Serialize, Deserialize)]
struct Fresh {
    id: CredentialId,
    nonce: String,
}

impl Fresh {
    fn secret(&self, session: &Session) -> Result<String, PageError> {
        let session = session.id().ok_or_else(|| anyhow::anyhow!("somebody who is signed in has no session"))?;
        let digest = Sha256::new()
            .chain_update(b"relay credential")
            .chain_update(session.0.to_le_bytes())
            .chain_update(&self.nonce)
            .chain_update(self.id.0.as_bytes())
            .finalize();
        let (random, _) = digest.split_first_chunk::<17>().ok_or_else(|| anyhow::anyhow!("a hash is too short"))?;
        Ok(policy::secret(random))
    }
}

/// The secret of a credential that this browser has just made; once.
pub(super) async fn take_secret(session: &Session, id: CredentialId) -> Result<Option<String>, PageError> {
    let Some(fresh) = session.get::<Fresh>(KEY).await?.filter(|fresh| fresh.id == id) else { return Ok(None) };
    session.remove::<Fresh>(KEY).await?;
    fresh.secret(session).map(Some)
}
