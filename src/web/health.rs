//! What supervisors and Prometheus ask: whether it lives, whether it can work, and how it stands.

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

/// A database that takes longer to say that it is there is not.
const DATABASE_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Asked {
    health: Health,
    metrics: Arc<Metrics>,
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn pages(health: Health, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Asked { health, metrics })
}

/// Whether it can work is the first line. What else someone should see to comes after it, a line each.
async fn ready(State(asked): State<Asked>) -> impl IntoResponse {
    let database = asked.health.database().borrow().clone();
    let (status, first) = match obstacle(&database).await {
        None => (StatusCode::OK, "ready".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}")),
    };
    let said = database.trouble();
    let troubles = asked.health.troubles().into_iter().filter(|trouble| Some(trouble) != said.as_ref());
    let lines: Vec<String> = [first].into_iter().chain(troubles).collect();
    (status, one_line_each(&lines))
}

/// Why it cannot work.
async fn obstacle(database: &Database) -> Option<String> {
    let store = match database {
        Database::Open(store) => store,
        Database::Opening { .. } => return Some("the database is being opened".to_owned()),
        Database::Away { .. } => return database.trouble(),
    };
    match timeout(DATABASE_WITHIN, store.check_migrated()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(with_causes(&error)),
        Err(_) => {
            let within = humantime::format_duration(DATABASE_WITHIN);
            Some(format!("the database does not answer within {within}"))
        }
    }
}

fn one_line_each(lines: &[String]) -> String {
    lines.iter().map(|line| line.replace(char::is_control, " ") + "\n").collect()
}

async fn scrape(State(asked): State<Asked>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], asked.metrics.page(&asked.health).await)
}
