//! Prepares an app for new events. Every writer does this first under its lease.

use chrono::{DateTime, Utc};

use super::close::{Closing, Reason};
use crate::model::{CrawlId, CrawlStatus, LocalDay, ReasonCode};
use crate::reconcile::Settlement;
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, values};
use crate::store::lease::Lease;

const RUNNING_CRAWLS: &str =
    "SELECT crawl_id, started_at FROM crawl WHERE app_id = $1 AND status = 'running' ORDER BY crawl_id";

impl Store {
    /// Prepares the database for new events of an app: continues the ids if the storage has
    /// changed, and closes as failed the crawls that killed processes left open. Events become
    /// visible when their crawl is closed, in the order of their ids. So the events of an open
    /// crawl must become visible before later events are written.
    pub(super) async fn prepare_for_events(
        &self,
        lease: &Lease,
        app: AppId,
        at: DateTime<Utc>,
        day: LocalDay,
    ) -> Result<(), StoreError> {
        self.continue_ids(lease, at).await?;
        let running: Vec<(i64, i64)> =
            self.fetch_all("look for crawls that were left open", RUNNING_CRAWLS, &values![app.0]).await?;
        for (crawl, started_at) in running {
            let started_at = DateTime::from_timestamp_millis(started_at).unwrap_or(at);
            let settlement = Settlement::nothing();
            let closing = closing_of_orphan((CrawlId(crawl), app), (started_at, at), day, &settlement);
            self.close_crawl(lease, &closing, |_| ()).await?;
        }
        Ok(())
    }
}

/// Returns the data to close a crawl whose process was killed.
fn closing_of_orphan(
    (crawl, app): (CrawlId, AppId),
    (started_at, finished_at): (DateTime<Utc>, DateTime<Utc>),
    day: LocalDay,
    settlement: &Settlement,
) -> Closing<'_> {
    Closing {
        crawl,
        app,
        started_at,
        finished_at,
        day,
        status: CrawlStatus::Failed,
        reason: Some(Reason {
            code: ReasonCode::ProcessEnded,
            error_code: None,
            text: "the process ended before the crawl did".to_owned(),
        }),
        requests: 0,
        total_at_start: None,
        total_at_end: None,
        leftover: None,
        next_needs_unfiltered_pass: false,
        listed: 0,
        clock_skew: None,
        passes: &[],
        settlement,
        history: None,
    }
}
