//! What a path names besides the organization: one gateway, account, list or message, by its id.
//! The extractor of the pages of one thing.

use std::str::FromStr;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};

use super::error::PageError;

/// The one thing that the path names. One that cannot be is not found, like one that is not there.
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Named<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| PageError::NotFound)?;
        let named = params.iter().find(|(name, _)| *name != "organization");
        named.and_then(|(_, named)| named.parse().ok()).map(Self).ok_or(PageError::NotFound)
    }
}
