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
use crate::store::{DatabaseLocation, Store};

/// The settings of the published copy.
#[derive(Clone, Debug)]
pub struct Publication {
    pub path: PathBuf,
    /// The minimum time between two publications.
    pub interval: Duration,
}

/// Starts a task that publishes a copy once the database is open and then after crawls, at most
/// once per interval. After an app's first crawl it does not wait for the interval, because the
/// earlier copy lacks that app.
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

/// When the next copy has to be published.
enum Urgency {
    /// After a crawl has reached its end. Until then a copy would be empty, and readers would keep
    /// the empty copy for an interval.
    NotYet,
    /// When the interval has passed.
    WhenDue,
    /// Now: the copy lacks an app, or there is no copy.
    AtOnce,
}

impl Publication {
    /// Publishes a copy if the interval has passed since the last publication, with a tolerance of
    /// a tenth of the interval: the time between the ends of scheduled crawls varies.
    pub async fn publish_if_due(&self, store: &Store, clock: &Clock) {
        let is_due = match self.urgency(store).await {
            Urgency::NotYet => false,
            Urgency::WhenDue => self.due_in(clock.now().into()) <= self.interval / 10,
            Urgency::AtOnce => true,
        };
        if is_due {
            self.publish(store).await;
        }
    }

    async fn publish_after_crawls(&self, clock: &Clock, health: &Health) {
        let mut apps = health.apps();
        let mut due = Instant::now() + self.due_in(clock.now().into());
        let mut seen = None;
        while apps.wait_for(|apps| seen.as_ref() != Some(&last_crawls(apps))).await.is_ok() {
            let latest = last_crawls(&apps.borrow_and_update());
            let Some(store) = health.wait_for_database().await else { return };
            match self.urgency(&store).await {
                Urgency::NotYet => {
                    seen = Some(latest);
                    continue;
                }
                Urgency::WhenDue => tokio::select! {
                    () = sleep_until(due) => {}
                    // It may be the first crawl of another app.
                    Ok(_) = apps.wait_for(|apps| last_crawls(apps) != latest) => continue,
                },
                Urgency::AtOnce => {}
            }
            seen = Some(last_crawls(&apps.borrow_and_update()));
            let Some(store) = health.wait_for_database().await else { return };
            self.publish(&store).await;
            due = Instant::now() + self.interval;
        }
    }

    async fn urgency(&self, store: &Store) -> Urgency {
        match store.apps_crawled().await {
            Ok(0) => Urgency::NotYet,
            Ok(crawled) => match self.apps_in_copy().await {
                Some(in_copy) if in_copy >= crawled => Urgency::WhenDue,
                _ => Urgency::AtOnce,
            },
            Err(error) => {
                debug!(path = %self.path.display(), "cannot publish a copy of the database: {}", with_causes(&error));
                Urgency::WhenDue
            }
        }
    }

    /// Returns how many apps of the copy have a crawl that reached its end. Returns `None` if there
    /// is no copy.
    async fn apps_in_copy(&self) -> Option<i64> {
        let copy = Store::open_to_read(&DatabaseLocation::Sqlite(self.path.clone())).await.ok()?;
        let crawled = copy.apps_crawled().await;
        copy.close().await;
        crawled.ok()
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
    apps.values().map(|app| app.last_report.as_ref().map(|report| report.crawl)).collect()
}
