//! Answers that report an error.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// A documented error code (document 269/1671) and its `ErrorInfo`. The HTTP status of the answer
/// is 200.
#[derive(Clone, Copy)]
pub(super) struct Refusal(pub(super) i64, pub(super) &'static str);

impl Refusal {
    pub(super) fn body(self) -> Vec<u8> {
        let Self(code, info) = self;
        serde_json::json!({ "ActionStatus": "FAIL", "ErrorCode": code, "ErrorInfo": info })
            .to_string()
            .into_bytes()
    }

    pub(super) fn into_response(self) -> Response {
        json(self.body())
    }
}

pub(super) fn json(body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Parses the body of a request. The error has the API's code for a malformed body.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Refusal(10004, "a field is not of the documented type"),
        _ => Refusal(60003, "the request is not JSON"),
    })
}
