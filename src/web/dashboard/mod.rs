//! The dashboard: a page to look at, and the JSON behind it, both only to be read.
//!
//! The page is plain HTML, CSS and JavaScript modules that are part of the program; it asks nobody but this listener.
//! Every answer is bounded: lists are paged by a key, few queries run at once, and none is waited for for long.

mod api;
mod apps;
mod page;
mod parameters;
mod refusal;

use std::sync::Arc;
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
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use self::refusal::Refusal;
use crate::daemon::{Apps, Database};
use crate::store::Store;

/// A crawl needs connections too: those who look on share this many, and queue for them.
const QUERIES_AT_ONCE: usize = 3;
/// From the request to the answer, waiting for a connection included.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Only what this listener serves, nothing inline, no frames, and no text that becomes HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Where the figures come from.
#[derive(Clone, Debug)]
struct Sources {
    database: watch::Receiver<Database>,
    /// How the apps stand in this process.
    daemon: watch::Receiver<Apps>,
    queries: Arc<Semaphore>,
}

impl Sources {
    /// The database, for reading alone.
    fn store(&self) -> Result<Store, Refusal> {
        self.database.borrow().store().map(Store::only_reading).ok_or(Refusal::NoDatabase)
    }
}

/// The page and its JSON.
pub fn pages(database: watch::Receiver<Database>, daemon: watch::Receiver<Apps>) -> Router {
    let queries = Arc::new(Semaphore::new(QUERIES_AT_ONCE));
    let sources = Sources { database, daemon, queries };
    let figures = Router::new()
        .route("/apps", get(api::apps))
        .route("/apps/{sdk_app_id}", get(api::app))
        .route("/apps/{sdk_app_id}/crawls", get(api::crawls))
        .route("/apps/{sdk_app_id}/app_counts", get(api::app_counts))
        .route("/apps/{sdk_app_id}/type_counts", get(api::type_counts))
        .route("/apps/{sdk_app_id}/daily_counts", get(api::daily_counts))
        .route("/apps/{sdk_app_id}/group_events", get(api::group_events))
        .route("/apps/{sdk_app_id}/groups", get(api::groups))
        .route("/apps/{sdk_app_id}/group", get(api::group))
        .fallback(async || Refusal::NotFound("there is no such list; docs/api.md has them".to_owned()))
        .route_layer(from_fn_with_state(sources.clone(), within_bounds))
        .with_state(sources);
    Router::new()
        .nest("/api", figures)
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .layer(from_fn(revalidated))
        .layer(from_fn(with_headers))
}

/// Lets few queries run at once, and gives up on slow ones.
async fn within_bounds(State(sources): State<Sources>, request: Request, next: Next) -> Response {
    let answering = async {
        let _turn = sources.queries.acquire().await;
        next.run(request).await
    };
    timeout(ANSWER_WITHIN, answering).await.unwrap_or_else(|_| Refusal::Slow.into_response())
}

/// Lets browsers keep an answer and ask whether it has changed.
async fn revalidated(request: Request, next: Next) -> Response {
    let known = request.headers().get(IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // All bodies here are whole in memory already.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let tag = tag_of(&body);
    head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let unchanged = known.is_some_and(|known| is_among(&tag, &known));
    head.headers.insert(ETAG, tag);
    if unchanged {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::from(body))
}

fn tag_of(body: &[u8]) -> HeaderValue {
    let hash = Sha256::digest(body);
    let half = hash.first_chunk().copied().map(u128::from_be_bytes).unwrap_or_default();
    HeaderValue::from_str(&format!("\"{half:032x}\""))
        .expect("quotes and hexadecimal digits are visible ASCII")
}

/// Whether a tag is one of those that a browser knows, whatever a proxy between has made of it.
fn is_among(tag: &HeaderValue, known: &HeaderValue) -> bool {
    let tag = tag.to_str().unwrap_or_default();
    let known = known.to_str().unwrap_or_default();
    known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
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
