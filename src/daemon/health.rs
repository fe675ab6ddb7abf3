//! The current state of the daemon, for the HTTP listeners, the systemd status line and the
//! watchdog.

use tokio::sync::watch;
use tokio::time::Instant;

use super::board::{AppState, Apps};
use super::database::{Database, wait_until_open};
use super::watchdog::stalls;
use crate::model::ReasonCode;
use crate::store::Store;

/// Read access to the daemon's state. Clones read the same state.
#[derive(Clone, Debug)]
pub struct Health {
    apps: watch::Receiver<Apps>,
    database: watch::Receiver<Database>,
    refused_reload: watch::Receiver<Option<String>>,
}

impl Health {
    pub(super) fn new(
        apps: watch::Receiver<Apps>,
        database: watch::Receiver<Database>,
        refused_reload: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { apps, database, refused_reload }
    }

    /// Returns the state of every configured app.
    #[must_use]
    pub fn apps(&self) -> watch::Receiver<Apps> {
        self.apps.clone()
    }

    #[must_use]
    pub fn database(&self) -> watch::Receiver<Database> {
        self.database.clone()
    }

    /// Waits until the database is open. Returns `None` if the task that opens it has ended.
    pub async fn wait_for_database(&self) -> Option<Store> {
        wait_until_open(&mut self.database()).await
    }

    /// Returns everything that needs attention, one sentence each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let database = self.database.borrow().problem();
        let reload = self.refused_reload.borrow().clone();
        let apps = self.apps.borrow();
        let stalls = stalls(&apps, Instant::now()).into_iter().map(|stall| stall.to_string());
        let apps = apps.iter().flat_map(|(app, state)| app_problems(app, state));
        database.into_iter().chain(reload).chain(stalls).chain(apps).collect()
    }

    /// Waits for a change. Never returns once all senders are dropped.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.apps.changed() => {}
            Ok(()) = self.database.changed() => {}
            Ok(()) = self.refused_reload.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Marks the current state as seen, so that [`Self::changed`] waits for a later change.
    pub(super) fn mark_seen(&mut self) {
        self.apps.mark_unchanged();
        self.database.mark_unchanged();
        self.refused_reload.mark_unchanged();
    }
}

fn app_problems(app: &str, state: &AppState) -> impl Iterator<Item = String> {
    let key = state.key_problem.as_ref().map(|why| format!("app {app}: the key cannot be used: {why}"));
    let refused = (state.refused && key.is_none()).then(|| {
        let reason = state.last_report.as_ref().and_then(|report| report.reason.as_ref());
        let reason = reason.filter(|reason| reason.code == ReasonCode::Refused);
        let why = reason.map_or_else(String::new, |reason| format!(": {}", reason.text));
        format!("app {app}: the API refuses the credentials{why}")
    });
    let client = state.client_problem.as_ref().map(|why| format!("app {app}: {why}"));
    let database = state.database_problem.as_ref();
    let database = database.map(|why| format!("app {app}: cannot write to the database: {why}"));
    key.into_iter().chain(refused).chain(client).chain(database)
}
