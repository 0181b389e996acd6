//! Forms and queries as browsers send them. What no form of ours sends (unknown, repeated or
//! missing fields, another content type) is refused with a page and changes nothing.

use std::{collections::HashMap, error::Error, str::FromStr};

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

/// Parts the fields of a form in which something was ticked: the ids that were, one page of them at most, and every
/// other field, which comes once.
pub fn ticked<T: FromStr>(
    fields: Vec<(String, String)>,
    most: usize,
    malformed: impl Fn(&str) -> PageError,
) -> Result<(Vec<T>, HashMap<String, String>), PageError> {
    let (ticks, fields): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(name, _)| name == "selected");
    if ticks.len() > most {
        return Err(malformed("more ticks than a page has"));
    }
    let mut once = HashMap::new();
    for (name, value) in fields {
        if once.insert(name, value).is_some() {
            return Err(malformed("a repeated field"));
        }
    }
    let ids: Result<Vec<T>, _> = ticks.iter().map(|(_, id)| id.parse()).collect();
    Ok((ids.map_err(|_| malformed("a tick of nothing"))?, once))
}
