//! Forms and queries as browsers send them. What no form of ours sends (unknown, repeated or
//! missing fields, another content type) is refused with a page and changes nothing.

use std::error::Error;

use axum::{
    extract::{FromRequest, FromRequestParts, Request, rejection::FormRejection},
    http::{StatusCode, request::Parts},
    response::IntoResponse,
};
use serde::de::DeserializeOwned;
use tower_http::timeout::TimeoutError;

use super::error::PageError;

/// The fields of a posted form.
#[derive(Debug)]
pub struct Form<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, state: &S) -> Result<Self, PageError> {
        match axum::Form::<T>::from_request(request, state).await {
            Ok(axum::Form(fields)) => Ok(Self(fields)),
            Err(
                rejection @ (FormRejection::FailedToDeserializeForm(_) | FormRejection::FailedToDeserializeFormBody(_)),
            ) => Err(PageError::Malformed(rejection.to_string())),
            Err(rejection) if came_too_slowly(&rejection) => Err(PageError::Status(StatusCode::REQUEST_TIMEOUT)),
            Err(rejection) => Err(PageError::Status(rejection.into_response().status())),
        }
    }
}

/// Whether the deadline for the body is what cut it off.
pub(super) fn came_too_slowly(error: &(dyn Error + 'static)) -> bool {
    error.is::<TimeoutError>() || error.source().is_some_and(came_too_slowly)
}

/// The fields of a page's query.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(fields)) => Ok(Self(fields)),
            Err(rejection) => Err(PageError::Malformed(rejection.to_string())),
        }
    }
}
