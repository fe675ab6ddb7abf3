//! How the daemon stands, for those who ask: its listeners, systemd.

use tokio::sync::watch;

use super::database::Database;
use super::status::Apps;

/// A view of the daemon. Clones see the same.
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

    /// The configured apps.
    #[must_use]
    pub fn apps(&self) -> watch::Receiver<Apps> {
        self.apps.clone()
    }

    #[must_use]
    pub fn database(&self) -> watch::Receiver<Database> {
        self.database.clone()
    }

    /// What someone should see to, or wait for, each a sentence.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let database = self.database.borrow().trouble();
        let reload = self.refused_reload.borrow().clone();
        let apps = self.apps.borrow();
        let apps = apps.iter().flat_map(|(app, state)| state.troubles(app));
        database.into_iter().chain(reload).chain(apps).collect()
    }

    /// Waits until something changes; never, once nobody is left to change it.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.apps.changed() => {}
            Ok(()) = self.database.changed() => {}
            Ok(()) = self.refused_reload.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Takes what there is now as seen.
    pub(super) fn mark_seen(&mut self) {
        self.apps.mark_unchanged();
        self.database.mark_unchanged();
        self.refused_reload.mark_unchanged();
    }
}
