//! Opens a crawl: records its start.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::model::{CrawlId, GroupType, LocalDay, Trigger};
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// A crawl that is about to start.
#[derive(Clone, Debug)]
pub struct NewCrawl {
    pub app: AppId,
    pub trigger: Trigger,
    /// The tick for which the crawl starts, if the schedule started it.
    pub due_at: Option<DateTime<Utc>>,
    pub started_at: DateTime<Utc>,
    pub host: String,
    /// The configured types. Empty if one unfiltered pass lists all types.
    pub group_types: Vec<GroupType>,
}

/// Returns no row if a crawl for the same scheduled time exists that is running, complete or
/// incomplete. Other conflicts are errors, for example an id that exists because the sequence is
/// behind the ids in the table.
const OPEN: &str = "
INSERT INTO crawl (app_id, trigger, due_at, started_at, status, host, version, group_types)
VALUES ($1, $2, $3, $4, 'running', $5, $6, $7)
ON CONFLICT (app_id, due_at) WHERE status IN ('running', 'complete', 'incomplete') DO NOTHING
RETURNING crawl_id";

impl Store {
    /// Records the start of a crawl. First closes the app's crawls that killed processes left open,
    /// and adds their events to the counts of `day`.
    /// Returns `None` if a crawl for the same scheduled time exists that is running, complete or
    /// incomplete.
    pub async fn open_crawl(
        &self,
        lease: &Lease,
        new_crawl: &NewCrawl,
        day: LocalDay,
    ) -> Result<Option<CrawlId>, StoreError> {
        const ACTION: &str = "record the start of a crawl";
        self.prepare_for_events(lease, new_crawl.app, new_crawl.started_at, day).await?;
        let mut write = self.write(ACTION, Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let opened = insert_crawl(&mut tx, new_crawl).await;
            if let Some(done) = write.end(tx, opened).await {
                if let Ok(Some(crawl)) = &done {
                    lease.record_opened(*crawl);
                }
                return done;
            }
        }
    }
}

async fn insert_crawl(tx: &mut Tx, new_crawl: &NewCrawl) -> Result<Option<CrawlId>, StoreError> {
    let group_types: BTreeSet<&str> = new_crawl.group_types.iter().map(GroupType::as_str).collect();
    let group_types = Vec::from_iter(group_types).join(",");
    let values = values![
        new_crawl.app.0,
        new_crawl.trigger.as_str(),
        new_crawl.due_at.map(|due_at| due_at.timestamp_millis()),
        new_crawl.started_at.timestamp_millis(),
        &new_crawl.host,
        env!("CARGO_PKG_VERSION"),
        &group_types,
    ];
    let crawl: Option<(i64,)> = tx.fetch_optional(OPEN, &values).await?;
    Ok(crawl.map(|(crawl,)| CrawlId(crawl)))
}
