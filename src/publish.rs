//! When the copy for readers without write rights is made: after crawls, seldom enough to cost little, and never so that
//! a crawl waits for it or fails with it.

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

/// Where the copy is, and how old it has to be to be replaced.
#[derive(Clone, Debug)]
pub struct Publication {
    pub path: PathBuf,
    pub interval: Duration,
}

/// Starts a task that publishes a copy once the database is there and after crawls, but never sooner than the interval after
/// the one before.
pub fn start(publication: Publication, clock: &Clock, health: &Health, lifecycle: &Lifecycle) {
    let stop = lifecycle.stop().soft().clone();
    let (clock, health) = (clock.clone(), health.clone());
    lifecycle.supervise("the published copy", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // There may be nothing left to show: then there is only the stop to wait for.
            () = async { publication.keep(&clock, &health).await; pending().await } => {}
        }
    });
}

impl Publication {
    /// Publishes a copy unless the one that is there is young. One that is due in a tenth of the interval is due: a
    /// crawl that is started by the clock does not end by it.
    pub async fn publish_if_due(&self, store: &Store, clock: &Clock) {
        if self.due_in(clock.now().into()) <= self.interval / 10 {
            self.publish(store).await;
        }
    }

    async fn keep(&self, clock: &Clock, health: &Health) {
        let mut database = health.database();
        let opened = database.wait_for(|database| database.store().is_some()).await;
        let Some(store) = opened.ok().and_then(|database| database.store().cloned()) else { return };
        let (mut apps, mut shown) = (health.apps(), None);
        let mut due = Instant::now() + self.due_in(clock.now().into());
        while apps.wait_for(|apps| shown.as_ref() != Some(&newest(apps))).await.is_ok() {
            sleep_until(due).await;
            shown = Some(newest(&apps.borrow_and_update()));
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

    /// How long the copy that is there may stay. One from a time to come tells of a clock that was set back.
    fn due_in(&self, now: SystemTime) -> Duration {
        let published = std::fs::metadata(&self.path).and_then(|file| file.modified());
        let age = published.ok().and_then(|published| now.duration_since(published).ok());
        age.map_or(Duration::ZERO, |age| self.interval.saturating_sub(age))
    }
}

/// The last crawl of each app, as far as there is one.
fn newest(apps: &Apps) -> Vec<Option<CrawlId>> {
    apps.values().map(|app| app.last.as_ref().map(|report| report.crawl)).collect()
}
