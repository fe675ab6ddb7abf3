//! Errors of the JSON API: an HTTP status, and a sentence in JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::warn;

use crate::model::with_causes;
use crate::store::StoreError;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum RequestError {
    /// A parameter is invalid.
    Malformed(String),
    NotFound(String),
    /// Rows that the request asks for have been removed.
    Gone(String),
    /// The database is not open yet.
    NoDatabase,
    Store(StoreError),
    Timeout,
}

impl From<StoreError> for RequestError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::Malformed(why) => (StatusCode::BAD_REQUEST, why),
            Self::NotFound(why) => (StatusCode::NOT_FOUND, why),
            Self::Gone(why) => (StatusCode::GONE, why),
            Self::NoDatabase => {
                (StatusCode::SERVICE_UNAVAILABLE, "the database is not open yet; see the log".to_owned())
            }
            Self::Store(error) => {
                // The error may contain host and role names, so it is logged and not sent.
                warn!("cannot answer a request of the dashboard: {}", with_causes(&error));
                (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; see the log".to_owned())
            }
            Self::Timeout => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the database takes too long to answer; try again later".to_owned(),
            ),
        };
        let mut response =
            (status, [(CACHE_CONTROL, "no-store")], Json(json!({ "error": why }))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, 5.into());
        }
        response
    }
}
