//! Who is asking: sessions, and the extractors that let a request in. A page that takes
//! [`InOrganization`] can only be reached by somebody with a role in the organization of its path.

use std::collections::HashMap;

use async_trait::async_trait;
use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::{Method, header, request::Parts},
};
use serde_json::Value;
use tower_sessions::{
    Expiry, Session, SessionManagerLayer, SessionStore,
    cookie::SameSite,
    session::{Id, Record},
    session_store,
};

use super::{App, error::PageError};
use crate::{
    mail::id::AdministratorId,
    store::{
        WebStore,
        session::{Failing, SessionId},
        tenant::Access,
    },
};

/// The prefix makes browsers insist on `Secure`, on the whole site as path, and on no domain.
pub const COOKIE: &str = "__Host-outgate";

const ADMINISTRATOR: &str = "administrator";

/// The session layer: a cookie that ends with the browser; how long the session lasts is the store's to say.
pub fn layer(store: WebStore) -> SessionManagerLayer<Sessions> {
    SessionManagerLayer::new(Sessions { store })
        .with_name(COOKIE)
        .with_secure(true)
        .with_http_only(true)
        .with_same_site(SameSite::Lax)
        .with_path("/")
        .with_expiry(Expiry::OnSessionEnd)
}

/// Makes the session this administrator's. It gets a new id, so that nobody who planted or saw the
/// old one is signed in too.
pub async fn sign_in(session: &Session, administrator: AdministratorId) -> Result<(), PageError> {
    session.clear().await;
    session.cycle_id().await?;
    session.insert(ADMINISTRATOR, administrator).await?;
    Ok(())
}

/// Who is signed in, whether or not there is still something to see.
pub async fn administrator(session: &Session) -> Result<Option<AdministratorId>, PageError> {
    Ok(session.get(ADMINISTRATOR).await?)
}

/// The session layer's way to the store.
#[derive(Debug, Clone)]
pub struct Sessions {
    store: WebStore,
}

#[async_trait]
impl SessionStore for Sessions {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let (administrator, data) = contents(record)?;
        while !self.store.create_session(stored(record.id), administrator, &data).await.map_err(backend)? {
            record.id = Id::default();
        }
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let (administrator, data) = contents(record)?;
        self.store.save_session(stored(record.id), administrator, &data).await.map_err(backend)
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let Some(data) = self.store.load_session(stored(*id)).await.map_err(backend)? else { return Ok(None) };
        let data: HashMap<String, Value> =
            serde_json::from_value(data).map_err(|error| session_store::Error::Decode(error.to_string()))?;
        // The end of a session is the store's to say; this field is never read.
        Ok(Some(Record { id: *id, data, expiry_date: time::OffsetDateTime::UNIX_EPOCH }))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.store.delete_session(stored(*id)).await.map_err(backend)
    }
}

fn stored(id: Id) -> SessionId {
    SessionId(id.0.to_le_bytes())
}

fn contents(record: &Record) -> session_store::Result<(Option<AdministratorId>, Value)> {
    let encode = |error: serde_json::Error| session_store::Error::Encode(error.to_string());
    let administrator =
        record.data.get(ADMINISTRATOR).cloned().map(serde_json::from_value).transpose().map_err(encode)?;
    Ok((administrator, serde_json::to_value(&record.data).map_err(encode)?))
}

fn backend(error: sqlx::Error) -> session_store::Error {
    session_store::Error::Backend(error.to_string())
}

/// Somebody who is signed in, with every organization that they may see: at least one.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Each with those of its gateways that fail.
    pub organizations: Vec<(Access, Option<Failing>)>,
}

impl FromRequestParts<App> for SignedIn {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, PageError> {
        if let Some(id) = cookie(parts) {
            let organizations = app.store.signed_in(stored(id)).await?;
            if !organizations.is_empty() {
                return Ok(Self { organizations });
            }
        }
        // Suspended, or without a role anywhere: the session is over at once.
        let session = session_of(parts)?;
        if administrator(&session).await?.is_some() {
            session.flush().await?;
        }
        Err(PageError::SignIn { next: next_page(parts), unsaved: parts.method == Method::POST })
    }
}

/// The session that the browser's cookie names. Read here for the way that every page takes; the
/// session layer looks at it only where a session begins, changes or ends.
fn cookie(parts: &Parts) -> Option<Id> {
    let cookies = parts.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut named = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    named.find(|(name, _)| *name == COOKIE).and_then(|(_, value)| value.parse().ok())
}

/// Somebody with a role in the organization that the path begins with.
#[derive(Debug, Clone)]
pub struct InOrganization {
    pub access: Access,
    /// How many organizations this administrator may see.
    pub organizations: usize,
    /// The gateways that fail, if administrators were told of any.
    pub failing: Option<Failing>,
}

impl FromRequestParts<App> for InOrganization {
    type Rejection = PageError;

    /// An organization that exists and one that does not are the same to who may see neither.
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, PageError> {
        let signed_in = SignedIn::from_request_parts(parts, app).await?;
        let params = RawPathParams::from_request_parts(parts, app).await.map_err(|_| PageError::NotFound)?;
        let slug = params.iter().find(|(name, _)| *name == "organization").map(|(_, slug)| slug);
        let organizations = signed_in.organizations.len();
        let access = signed_in.organizations.into_iter().find(|(access, _)| Some(access.slug.as_str()) == slug);
        match access {
            None => Err(PageError::NotFound),
            Some((access, _)) if access.suspended => Err(PageError::OrganizationSuspended),
            Some((access, failing)) => Ok(Self { access, organizations, failing }),
        }
    }
}

fn session_of(parts: &Parts) -> Result<Session, PageError> {
    parts.extensions.get::<Session>().cloned().ok_or_else(|| anyhow::anyhow!("there is no session layer").into())
}

/// Where to go on after signing in: every page that takes a POST is shown by a GET of the same path.
fn next_page(parts: &Parts) -> String {
    parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
}
