//! Everything but a page: what went wrong, its status and its words. A mistake in a form is not
//! here; it is data on the form's page. The words become a page in [`layers`](super::layers).

use axum::{
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};

/// Why a request is not answered with a page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Nobody is signed in, or not any more: on to Sign in, and back to `next` from there.
    #[error("not signed in")]
    SignIn { next: String, unsaved: bool },
    /// No such thing in *this* organization; says nothing about any other.
    #[error("not found")]
    NotFound,
    /// The role does not allow it; the sentence says what would.
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("the organization is suspended")]
    OrganizationSuspended,
    /// No form of ours sends this: unknown, repeated or missing fields.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// A status that an extractor gave, without more to say than the status has.
    #[error("refused with {0}")]
    Status(StatusCode),
    /// The store does not answer. Logged once, here; the administrator sees no internals.
    #[error("the store does not answer: {0}")]
    Unavailable(anyhow::Error),
    /// Anything that is our fault. Logged once, here; the administrator sees no internals.
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

/// Words for an error page, which replaces the body of the response that carries them.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    pub title: &'static str,
    pub explanation: &'static str,
}

impl Words {
    /// What to say when there is only a status to go by.
    pub fn for_status(status: StatusCode) -> Self {
        let (title, explanation) = match status {
            StatusCode::NOT_FOUND => (
                "Page not found",
                "There is nothing here, or not for you. Check the address, or go to your organization.",
            ),
            StatusCode::METHOD_NOT_ALLOWED => (
                "That cannot be done here",
                "This address does not take such a request. Go to your organization and begin again from there.",
            ),
            StatusCode::FORBIDDEN => ("Not allowed", "You may not do this. Nothing was changed."),
            StatusCode::REQUEST_TIMEOUT => {
                ("That took too long", "The request did not arrive in time. Nothing was changed. Try again.")
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                ("That is too much", "The form was larger than any of ours can be. Nothing was changed.")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ("That is not a form", "The request was not sent by a form of this site. Nothing was changed.")
            }
            StatusCode::SERVICE_UNAVAILABLE => (
                "Outgate cannot answer right now",
                "Its store does not answer. Mail is not affected. Wait a minute, then load the page again.",
            ),
            status if status.is_client_error() => {
                ("That request makes no sense here", "Nothing was changed. Go back and try again.")
            }
            _ => (
                "Something went wrong",
                "This is our fault, and it was noted. Load the page again; if it stays, tell the operator the number below.",
            ),
        };
        Self { title, explanation }
    }
}

impl PageError {
    fn log(&self) {
        match self {
            Self::Unavailable(error) => tracing::error!(error = format!("{error:#}"), "the store does not answer"),
            Self::Internal(error) => tracing::error!(error = format!("{error:#}"), "a page failed"),
            Self::Malformed(reason) => tracing::info!(reason, "malformed request"),
            _ => {}
        }
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        self.log();
        let by_status = |status| (status, Words::for_status(status));
        let forbidden = |title, explanation| (StatusCode::FORBIDDEN, Words { title, explanation });
        let (status, words) = match self {
            Self::SignIn { next, unsaved } => return super::sign_in::redirect(&next, unsaved),
            Self::NotFound => by_status(StatusCode::NOT_FOUND),
            Self::Forbidden(sentence) => forbidden("Your role does not allow this", sentence),
            Self::OrganizationSuspended => {
                forbidden("This organization is suspended", "Nothing can be seen or changed here. Ask the operator.")
            }
            Self::Malformed(_) => by_status(StatusCode::BAD_REQUEST),
            Self::Status(status) => by_status(status),
            Self::Unavailable(_) => by_status(StatusCode::SERVICE_UNAVAILABLE),
            Self::Internal(_) => by_status(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let mut response = status.into_response();
        response.extensions_mut().insert(words);
        response
    }
}

impl From<sqlx::Error> for PageError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
                Self::Unavailable(error.into())
            }
            // Class 57: the server is starting, stopping or was told to; class 53: it is short of something.
            sqlx::Error::Database(ref of_server)
                if of_server.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("53")) =>
            {
                Self::Unavailable(error.into())
            }
            error => Self::Internal(error.into()),
        }
    }
}

impl From<tower_sessions::session::Error> for PageError {
    /// Only the store can fail a session.
    fn from(error: tower_sessions::session::Error) -> Self {
        Self::Unavailable(anyhow::Error::new(error).context("a session could not be read or written"))
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        Self::Internal(error.into())
    }
}

/// A redirect to a path of ours with the method GET, whatever came before.
pub fn see_other(path: &str) -> Response {
    Redirect::to(path).into_response()
}
