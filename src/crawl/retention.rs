//! Removes what is older than it has to be kept: after a crawl, because then the app's lease is held anyway.

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Crawler;
use crate::model::{CrawlId, with_causes};
use crate::policy::Retention;
use crate::store::{AgeLimits, AppId, Lease, Purged, StoreError};

impl Crawler {
    /// Removes old rows after the day's first crawl that reached its end. What is broken off goes on after the next
    /// day's; a failure is no failure of the crawl, which is recorded by then.
    pub(super) async fn purge(
        &self,
        lease: &Lease,
        (app, crawl): (AppId, CrawlId),
        now: DateTime<Utc>,
        stop: &CancellationToken,
    ) {
        if self.retention == Retention::default() {
            return;
        }
        let purging = lease.keeping(Box::pin(self.purge_once_a_day(lease, (app, crawl), now)));
        let purged = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            purged = purging => purged.flatten(),
        };
        match purged {
            Ok(Purged { groups: 0, events: 0, counts: 0 }) => {}
            Ok(Purged { groups, events, counts }) => {
                info!(crawl_id = crawl.0, groups, events, counts, "removed rows for their age (retention)");
            }
            Err(error) => {
                let why = with_causes(&error);
                warn!(
                    crawl_id = crawl.0,
                    "old rows were not all removed; tomorrow's first crawl goes on: {why}"
                );
            }
        }
    }

    async fn purge_once_a_day(
        &self,
        lease: &Lease,
        (app, crawl): (AppId, CrawlId),
        now: DateTime<Utc>,
    ) -> Result<Purged, StoreError> {
        let day = |at: DateTime<Utc>| at.with_timezone(&self.settings.timezone).date_naive();
        let before = self.store.before(app, crawl).await?;
        if before.ended.map(day) == Some(day(now)) {
            return Ok(Purged::default());
        }
        // A clock that is ahead must not make rows old: time has passed only as far as an earlier complete crawl shows.
        let Some(completed) = before.completed else { return Ok(Purged::default()) };
        let now = now.min(completed + TimeDelta::days(1));
        let before = |days: u32| now - TimeDelta::days(days.into());
        let limits = AgeLimits {
            deleted_groups: self.retention.deleted_groups.map(before),
            events: self.retention.events.map(before),
            counts: self.retention.counts.map(before).map(|before| (before, day(before))),
        };
        // Each batch is a sign of life.
        self.store.purge(lease, (app, crawl), &limits, || self.progress.send_modify(|_| ())).await
    }
}
