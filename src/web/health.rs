//! The metrics listener: `/healthz` and `/readyz` for supervisors, `/metrics` for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::time::timeout;

use crate::daemon::{Database, Health};
use crate::metrics::{self, Metrics};
use crate::model::with_causes;

/// A database that does not answer within this time counts as unreachable.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct HealthState {
    health: Health,
    metrics: Arc<Metrics>,
}

/// Returns the routes of the metrics listener.
pub fn pages(health: Health, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(HealthState { health, metrics })
}

/// Answers whether the daemon can work in the first line, followed by everything that needs attention, a line each.
async fn ready(State(state): State<HealthState>) -> impl IntoResponse {
    let database = state.health.database().borrow().clone();
    let (status, first) = match why_not_ready(&database).await {
        None => (StatusCode::OK, "ready".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}")),
    };
    // The first line has the problem of the database already.
    let in_first_line = database.problem();
    let problems =
        state.health.problems().into_iter().filter(|problem| Some(problem) != in_first_line.as_ref());
    (status, lines([first].into_iter().chain(problems)))
}

/// Returns why the daemon cannot work, or `None` if it can.
async fn why_not_ready(database: &Database) -> Option<String> {
    let store = match database {
        Database::Open(store) => store,
        Database::Opening => return Some("the database is being opened".to_owned()),
        Database::Away { .. } => return database.problem(),
    };
    match timeout(DATABASE_TIMEOUT, store.check_migrated()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(with_causes(&error)),
        Err(_) => {
            let within = humantime::format_duration(DATABASE_TIMEOUT);
            Some(format!("the database does not answer within {within}"))
        }
    }
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line.replace(char::is_control, " ") + "\n").collect()
}

async fn scrape(State(state): State<HealthState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics.page(&state.health).await)
}
