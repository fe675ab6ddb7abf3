//! Decides when to publish the copy of an SQLite database for readers: after crawls, at most once
//! per interval. A crawl neither waits for a publication nor fails because of it.

use std::future::pending;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::daemon::{Apps, Health};
use crate::lifecycle::Lifecycle;
use crate::model::{CrawlId, with_causes};
use crate::store::Store;

/// The settings of the published copy.
#[derive(Clone, Debug)]
pub struct Publication {
    pub path: PathBuf,
    /// The minimum time between two publications.
    pub interval: Duration,
}

/// Starts a task that publishes a copy once the database is open and then after crawls, at most
/// once per interval.
pub fn start(publication: Publication, clock: &Clock, health: &Health, lifecycle: &Lifecycle) {
    let stop = lifecycle.stop().soft().clone();
    let (clock, health) = (clock.clone(), health.clone());
    lifecycle.supervise("the published copy", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // `publish_after_crawls` may end early. A supervised task must still run until the
            // stop.
            () = async { publication.publish_after_crawls(&clock, &health).await; pending().await } => {}
        }
    });
}

impl Publication {
    /// Publishes a copy if the interval has passed since the last publication. The tolerance is a
    /// tenth of the interval, because the durations of scheduled crawls vary, and so do the times
    /// between their ends.
    pub async fn publish_if_due(&self, store: &Store, clock: &Clock) {
        if self.due_in(clock.now().into()) <= self.interval / 10 {
            self.publish(store).await;
        }
    }

    async fn publish_after_crawls(&self, clock: &Clock, health: &Health) {
        let mut database = health.database();
        let opened = database.wait_for(|database| database.store().is_some()).await;
        let Some(store) = opened.ok().and_then(|database| database.store().cloned()) else { return };
        let (mut apps, mut published) = (health.apps(), None);
        let mut due = Instant::now() + self.due_in(clock.now().into());
        while apps.wait_for(|apps| published.as_ref() != Some(&last_crawls(apps))).await.is_ok() {
            sleep_until(due).await;
            published = Some(last_crawls(&apps.borrow_and_update()));
            self.publish(&store).await;
            due = Instant::now() + self.interval;
        }
    }

    async fn publish(&self, store: &Store) {
        let path = self.path.display();
        match store.publish(&self.path).await {
            Ok(Some(published)) => {
                info!(
                    %path,
                    bytes = published.bytes,
                    took_ms = published.took.as_millis(),
                    "published a copy of the database"
                );
            }
            Ok(None) => debug!(%path, "another process is publishing a copy of the database"),
            Err(error) => {
                warn!(%path, "cannot publish a copy of the database: {}", with_causes(&error));
            }
        }
    }

    /// Returns the time until the copy may be replaced. It is 0 if the copy's modification time is
    /// in the future, which means that the clock was set back.
    fn due_in(&self, now: SystemTime) -> Duration {
        let published = std::fs::metadata(&self.path).and_then(|file| file.modified());
        let age = published.ok().and_then(|published| now.duration_since(published).ok());
        age.map_or(Duration::ZERO, |age| self.interval.saturating_sub(age))
    }
}

/// Returns the id of each app's last crawl.
fn last_crawls(apps: &Apps) -> Vec<Option<CrawlId>> {
    apps.values().map(|app| app.last.as_ref().map(|report| report.crawl)).collect()
}
