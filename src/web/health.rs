//! The metrics listener: `/healthz` and `/readyz` for supervisors, `/metrics` for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::daemon::{Database, Health};
use crate::escape::one_line;
use crate::metrics::{self, Metrics};
use crate::model::with_causes;
use crate::store::Store;

/// A database that does not answer within this time counts as unreachable.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for which the result of a database check is reused, so that many requests cost one
/// query.
const CHECK_MAX_AGE: Duration = Duration::from_millis(500);

#[derive(Clone)]
struct HealthState {
    health: Health,
    metrics: Arc<Metrics>,
    /// The last database check. The lock lets one request at a time query the database.
    last_check: Arc<Mutex<Option<Check>>>,
}

struct Check {
    at: Instant,
    /// Why the database is not usable, or `None` if it is.
    why_not: Option<String>,
}

/// Returns the routes of the metrics listener.
pub fn routes(health: Health, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(HealthState { health, metrics, last_check: Arc::default() })
}

/// Answers `/readyz`. The first line says whether the daemon is ready. Each further line is a
/// problem that needs attention.
async fn ready(State(state): State<HealthState>) -> impl IntoResponse {
    let database = state.health.database().borrow().clone();
    let (status, first) = match state.why_not_ready(&database).await {
        None => (StatusCode::OK, "ready".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}")),
    };
    // The first line already contains the problem of the database.
    let database_problem = database.problem();
    let problems =
        state.health.problems().into_iter().filter(|problem| Some(problem) != database_problem.as_ref());
    (status, lines([first].into_iter().chain(problems)))
}

impl HealthState {
    /// Returns why the daemon is not ready, or `None` if it is.
    async fn why_not_ready(&self, database: &Database) -> Option<String> {
        let store = match database {
            Database::Open(store) => store,
            Database::Opening => return Some("the database is being opened".to_owned()),
            Database::Unavailable { .. } => return database.problem(),
        };
        let mut last_check = self.last_check.lock().await;
        if let Some(Check { at, why_not }) = &*last_check
            && at.elapsed() < CHECK_MAX_AGE
        {
            return why_not.clone();
        }
        let why_not = check_database(store).await;
        *last_check = Some(Check { at: Instant::now(), why_not: why_not.clone() });
        why_not
    }
}

/// Checks the database. Returns why it is not usable, or `None` if it is.
async fn check_database(store: &Store) -> Option<String> {
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
    lines.map(|line| one_line(&line).into_owned() + "\n").collect()
}

async fn scrape(State(state): State<HealthState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics.page(&state.health).await)
}
