//! The dashboard: a read-only web page and its JSON API.
//!
//! The page is plain HTML, CSS and JavaScript modules that are compiled into the program. It
//! requests nothing from other hosts. The cost of answers is bounded: lists use keyset pagination,
//! few requests query the database at a time, and each answer has a timeout.

mod api;
mod apps;
mod error;
mod page;
mod parameters;
mod sources;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::timeout;

use self::error::RequestError;
use self::sources::Sources;
use crate::clock::Clock;
use crate::daemon::{Apps, Database};

/// Timeout of an answer of the JSON API, including the wait for a connection to the database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// The content security policy. It allows only files of this listener: no inline code, no frames,
/// and no conversion of text to HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Returns the routes of the dashboard.
pub fn routes(database: watch::Receiver<Database>, apps: watch::Receiver<Apps>, clock: Clock) -> Router {
    let sources = Sources::new(database, apps, clock);
    let api = Router::new()
        .route("/apps", get(api::apps))
        .route("/apps/{sdk_app_id}", get(api::app))
        .route("/apps/{sdk_app_id}/crawls", get(api::crawls))
        .route("/apps/{sdk_app_id}/app_counts", get(api::app_counts))
        .route("/apps/{sdk_app_id}/type_counts", get(api::type_counts))
        .route("/apps/{sdk_app_id}/daily_counts", get(api::daily_counts))
        .route("/apps/{sdk_app_id}/group_events", get(api::group_events))
        .route("/apps/{sdk_app_id}/events", get(api::events))
        .route("/apps/{sdk_app_id}/groups", get(api::groups))
        .route("/apps/{sdk_app_id}/group", get(api::group))
        .fallback(async || RequestError::NotFound("there is no such list; see docs/api.md".to_owned()))
        .route_layer(from_fn_with_state(sources.clone(), with_query_limits))
        .with_state(sources);
    Router::new()
        .nest("/api", api)
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .layer(from_fn(with_etag))
        .layer(from_fn(with_headers))
}

/// Limits the number of requests that query the database at a time, and the time of an answer.
async fn with_query_limits(State(sources): State<Sources>, request: Request, next: Next) -> Response {
    let answering = async {
        let _permit = sources.query_permits.acquire().await;
        next.run(request).await
    };
    timeout(ANSWER_TIMEOUT, answering).await.unwrap_or_else(|_| RequestError::Timeout.into_response())
}

/// Adds an ETag to an answer. Replaces the answer by status 304 if the client sent the same ETag.
async fn with_etag(request: Request, next: Next) -> Response {
    let known = request.headers().get(IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // All bodies are already in memory, so reading them cannot fail or take long.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let etag = etag_of(&body);
    head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let unchanged = known.is_some_and(|known| contains_etag(&known, &etag));
    head.headers.insert(ETAG, etag);
    if unchanged {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::from(body))
}

fn etag_of(body: &[u8]) -> HeaderValue {
    let hash = Sha256::digest(body);
    let half = hash.first_chunk().copied().map(u128::from_be_bytes).unwrap_or_default();
    HeaderValue::from_str(&format!("\"{half:032x}\""))
        .expect("quotes and hexadecimal digits are visible ASCII")
}

/// Returns true if an `If-None-Match` header contains an ETag, or its weak form, into which proxies
/// may change it.
fn contains_etag(known: &HeaderValue, etag: &HeaderValue) -> bool {
    let etag = etag.to_str().unwrap_or_default();
    let known = known.to_str().unwrap_or_default();
    known.split(',').any(|known| known.trim().trim_start_matches("W/") == etag)
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("same-origin"));
    }
    response
}
