//! The HTTP server of the simulator: routes, hooks, holds, and faults of the transport.
//!
//! The simulator parses requests with its own types, not with the client's, because tests would not
//! detect a mistake in shared types.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, DATE, LOCATION};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};

use super::app::SimulatedApp;
use super::authentication::authenticate;
use super::connection::SendLimit;
use super::fault::Fault;
use super::info::InfoBody;
use super::list::ListBody;
use super::refusal::{Refusal, json};
use super::request::{Call, SeenRequest};
use super::statistics::StatisticsBody;
use crate::tencent::info::GROUP_INFO_PATH;
use crate::tencent::statistics::STATISTICS_PATH;
use crate::tencent::wire::LIST_GROUPS_PATH;

/// Slightly more than the size of an answer's head in bytes.
const HEAD_BYTES: usize = 128;
/// The size of an oversized body in bytes. It exceeds any reasonable limit.
const OVERSIZED_BYTES: usize = 64 << 20;

pub(super) fn router(app: Arc<SimulatedApp>) -> Router {
    let wrong_method =
        || async { Refusal(60002, "HTTP parse error: the API takes POST only").into_response() };
    let wrong_path = || async { Refusal(60009, "no such resource, check the URL").into_response() };
    Router::new()
        .route(LIST_GROUPS_PATH, post(list_groups).fallback(wrong_method))
        .route(GROUP_INFO_PATH, post(group_info).fallback(wrong_method))
        .route(STATISTICS_PATH, post(statistics).fallback(wrong_method))
        .fallback(wrong_path)
        .layer(map_response_with_state(Arc::clone(&app), set_date))
        .with_state(app)
}

/// An extension of responses that get no `Date` header.
#[derive(Clone)]
struct WithoutDate;

async fn set_date(State(app): State<Arc<SimulatedApp>>, mut response: Response) -> Response {
    if response.extensions().get::<WithoutDate>().is_none() {
        let date = app.date().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let date = HeaderValue::try_from(date).expect("a formatted date is ASCII");
        response.headers_mut().insert(DATE, date);
    }
    response
}

async fn list_groups(
    State(app): State<Arc<SimulatedApp>>,
    Extension(limit): Extension<SendLimit>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let (request, body) = app.receive_list(authenticate(&app.settings, &uri), &body);
    respond(&app, &limit, &uri, (request, body.map(Operation::List))).await
}

async fn group_info(
    State(app): State<Arc<SimulatedApp>>,
    Extension(limit): Extension<SendLimit>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let (request, body) = app.receive_info(authenticate(&app.settings, &uri), &body);
    respond(&app, &limit, &uri, (request, body.map(Operation::Info))).await
}

async fn statistics(
    State(app): State<Arc<SimulatedApp>>,
    Extension(limit): Extension<SendLimit>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let (request, body) = app.receive_statistics(authenticate(&app.settings, &uri), &body);
    respond(&app, &limit, &uri, (request, body.map(Operation::Statistics))).await
}

enum Operation {
    List(ListBody),
    Info(InfoBody),
    Statistics(StatisticsBody),
}

/// A logged request with its operation, or why it is refused.
type Received = (SeenRequest, Result<Operation, Refusal>);

async fn respond(app: &SimulatedApp, limit: &SendLimit, uri: &Uri, received: Received) -> Response {
    tokio::select! {
        response = answer(app, limit, uri, received) => response,
        () = app.stopped.cancelled() => reset(limit),
    }
}

async fn answer(app: &SimulatedApp, limit: &SendLimit, uri: &Uri, received: Received) -> Response {
    app.call_hooks(&received.0);
    for gate in app.gates(&received.0) {
        gate.pass().await;
    }
    if received.0.call == Call::Info && !app.settings.info_delay.is_zero() {
        tokio::time::sleep(app.settings.info_delay).await;
    }
    let faults = app.faults(&received.0);
    let without_date = faults.contains(&Fault::NoDate);
    let mut response = answer_with_faults(app, limit, uri, received, faults).await;
    if without_date {
        response.extensions_mut().insert(WithoutDate);
    }
    response
}

async fn answer_with_faults(
    app: &SimulatedApp,
    limit: &SendLimit,
    uri: &Uri,
    (request, mut operation): Received,
    faults: Vec<Fault>,
) -> Response {
    let mut truncated = false;
    let mut faults_of_body = Vec::new();
    for fault in faults {
        match fault {
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Timeout => std::future::pending().await,
            Fault::Reset => return reset(limit),
            Fault::TruncatedBody => truncated = true,
            Fault::ErrorCode(code) => operation = Err(Refusal(code, "scripted")),
            fault => match replacement(&fault, uri) {
                Some(response) => return response,
                None => faults_of_body.push(fault),
            },
        }
    }
    let result = operation.and_then(|operation| match operation {
        Operation::List(body) => app.list(request.number, &body, &faults_of_body),
        Operation::Info(body) => Ok(app.group_info(&body, &faults_of_body)),
        Operation::Statistics(body) => Ok(app.statistics(&body, &faults_of_body)),
    });
    let (code, body) = match result {
        Ok(body) => (0, body),
        Err(refusal) => (refusal.0, refusal.body()),
    };
    app.log_answer(request.number, code);
    if truncated {
        limit.set(HEAD_BYTES + body.len() / 2);
    }
    json(body)
}

/// Returns the response that a fault sends in place of the API's answer.
fn replacement(fault: &Fault, uri: &Uri) -> Option<Response> {
    let html = [(CONTENT_TYPE, "text/html")];
    match fault {
        Fault::Status(status) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some((status, html, "<html><body>scripted</body></html>").into_response())
        }
        Fault::NotJson => Some("{\"ActionStatus\":\"OK\",\"ErrorCode\":0,\"GroupIdList\":[{".into_response()),
        Fault::Body(body) => Some(json(body.clone().into_bytes())),
        Fault::HtmlWith200 => Some((html, "<html><body>Please log in</body></html>").into_response()),
        Fault::OversizedBody => {
            let body = Body::from(vec![0; OVERSIZED_BYTES]).into_data_stream();
            Some(Body::from_stream(body).into_response())
        }
        Fault::Redirect => {
            let location = [(LOCATION, uri.to_string())];
            Some((StatusCode::TEMPORARY_REDIRECT, location).into_response())
        }
        _ => None,
    }
}

/// Resets the connection. The returned response is never sent; it only satisfies the signature of
/// handlers.
fn reset(limit: &SendLimit) -> Response {
    limit.set(0);
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}
