//! Decides when to publish the copy of an SQLite database for readers: after crawls, at most once an interval. Crawls neither
//! wait for it nor fail because of it.

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

/// The path of the copy, and the minimum age at which it is replaced.
#[derive(Clone, Debug)]
pub struct Publication {
    pub path: PathBuf,
    pub interval: Duration,
}

/// Starts a task that publishes a copy when the database is open and after crawls, at most once an interval.
pub fn start(publication: Publication, clock: &Clock, health: &Health, lifecycle: &Lifecycle) {
    let stop = lifecycle.stop().soft().clone();
    let (clock, health) = (clock.clone(), health.clone());
    lifecycle.supervise("the published copy", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // `keep` may end early. A supervised task must still run until the stop.
            () = async { publication.keep(&clock, &health).await; pending().await } => {}
        }
    });
}

impl Publication {
    /// Publishes a copy if the interval has passed since the last one, with a tolerance of a tenth of it. Scheduled crawls
    /// start at regular times but take varying time, so that the distance between their ends may be a little shorter.
    pub async fn publish_if_due(&self, store: &Store, clock: &Clock) {
        if self.due_in(clock.now().into()) <= self.interval / 10 {
            self.publish(store).await;
        }
    }

    async fn keep(&self, clock: &Clock, health: &Health) {
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
                info!(%path, bytes = published.bytes, took_ms = published.took.as_millis(), "published a copy of the database");
            }
            Ok(None) => debug!(%path, "another process is publishing a copy of the database"),
            Err(error) => {
                warn!(%path, "cannot publish a copy of the database: {}", with_causes(&error));
            }
        }
    }

    /// Returns the time until the copy may be replaced. A copy with a modification time in the future is replaced at once,
    /// because the clock was set back.
    fn due_in(&self, now: SystemTime) -> Duration {
        let published = std::fs::metadata(&self.path).and_then(|file| file.modified());
        let age = published.ok().and_then(|published| now.duration_since(published).ok());
        age.map_or(Duration::ZERO, |age| self.interval.saturating_sub(age))
    }
}

/// Returns the last crawl of each app.
fn last_crawls(apps: &Apps) -> Vec<Option<CrawlId>> {
    apps.values().map(|app| app.last.as_ref().map(|report| report.crawl)).collect()
}
