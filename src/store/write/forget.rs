//! Removes an app with all its rows.

use serde::Serialize;

use super::purge::{self, ALL_GROUPS, BatchDone};
use crate::model::SdkAppId;
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// An app in the database.
#[derive(Clone, Debug, sqlx_macros::FromRow)]
pub struct KnownApp {
    app_id: i64,
    sdk_app_id: i64,
    pub name: String,
}

impl KnownApp {
    #[must_use]
    pub fn id(&self) -> AppId {
        AppId(self.app_id)
    }

    /// Returns the SDKAppID, or `None` if the number in the database is not valid.
    #[must_use]
    pub fn sdk_app_id(&self) -> Option<SdkAppId> {
        SdkAppId::new(self.sdk_app_id)
    }
}

/// The number of rows of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx_macros::FromRow)]
pub struct RowCounts {
    pub groups: i64,
    pub events: i64,
    pub crawls: i64,
    /// The number of days with counts.
    pub days: i64,
}

const FIND_APPS: &str = "SELECT app_id, sdk_app_id, name FROM app WHERE name = $1 OR CAST(sdk_app_id AS TEXT) = $1 ORDER BY app_id";
const ROW_COUNTS: &str = "
SELECT (SELECT CAST(coalesce(sum(live_count + deleted_count), 0) AS BIGINT) FROM type_state WHERE app_id = $1) AS groups,
       (SELECT count(*) FROM group_event WHERE app_id = $1) AS events,
       (SELECT count(*) FROM crawl WHERE app_id = $1) AS crawls,
       (SELECT count(DISTINCT day) FROM daily_count WHERE app_id = $1) AS days";

// Runs first: if the removal is interrupted and the app is crawled again, the app must count as
// never crawled, so that its groups are a baseline.
const FORGET_BASELINES: &str = "UPDATE type_state SET baseline_crawl_id = NULL, concluded_crawl_id = NULL, concluded_at = NULL WHERE app_id = $1";
// Deletes by crawl, so that each batch reads one range of an index.
const FORGET_EVENTS: &str = "
DELETE FROM group_event WHERE event_id IN (
    SELECT e.event_id FROM crawl c CROSS JOIN group_event e
    WHERE c.app_id = $1 AND e.crawl_id = c.crawl_id LIMIT 10000)";
const FORGET_DAYS: &str = "
DELETE FROM daily_count WHERE app_id = $1 AND day IN (
    SELECT day FROM daily_count WHERE app_id = $1 ORDER BY day LIMIT 10000)";
/// Builds a statement on the oldest 1,000 crawls of an app.
macro_rules! first_crawls {
    ($statement:literal) => {
        concat!(
            $statement,
            " WHERE crawl_id IN (SELECT crawl_id FROM crawl WHERE app_id = $1 ORDER BY crawl_id LIMIT 1000)"
        )
    };
}
const FORGET_CRAWLS: [&str; 3] = [
    first_crawls!("DELETE FROM crawl_pass"),
    first_crawls!("DELETE FROM crawl_change"),
    first_crawls!("DELETE FROM crawl"),
];
const FORGET_APP: [&str; 7] = [
    "DELETE FROM detail_range WHERE app_id = $1",
    "DELETE FROM detail_state WHERE app_id = $1",
    "DELETE FROM notification WHERE sdk_app_id = (SELECT sdk_app_id FROM app WHERE app_id = $1)",
    "DELETE FROM app_statistic WHERE app_id = $1",
    "DELETE FROM group_question WHERE app_id = $1",
    "DELETE FROM type_state WHERE app_id = $1",
    "DELETE FROM app WHERE app_id = $1",
];

impl Store {
    /// Returns the apps whose name or SDKAppID is `name_or_id`, configured or not.
    pub async fn find_apps(&self, name_or_id: &str) -> Result<Vec<KnownApp>, StoreError> {
        self.fetch_all("look up an app", FIND_APPS, &values![name_or_id]).await
    }

    /// Counts the rows of an app.
    pub async fn row_counts(&self, app: AppId) -> Result<RowCounts, StoreError> {
        self.fetch_one("count the rows of an app", ROW_COUNTS, &values![app.0]).await
    }

    /// Removes an app with all its rows, in batches. The app's own row is removed last, so that an
    /// interrupted removal can be repeated. `on_batch` receives the number of rows of each batch.
    pub async fn forget(
        &self,
        lease: &Lease,
        app: AppId,
        mut on_batch: impl FnMut(u64),
    ) -> Result<(), StoreError> {
        self.execute_in_transaction(lease, app, &[FORGET_BASELINES]).await?;
        for statements in [&[FORGET_EVENTS][..], &[FORGET_DAYS], &FORGET_CRAWLS] {
            loop {
                match self.execute_in_transaction(lease, app, statements).await? {
                    0 => break,
                    removed => on_batch(removed),
                }
            }
        }
        let mut after_id = String::new();
        while let Some(BatchDone { last_id, removed }) =
            self.remove_next_groups(lease, app, &after_id).await?
        {
            on_batch(removed);
            after_id = last_id;
        }
        self.execute_in_transaction(lease, app, &FORGET_APP).await?;
        Ok(())
    }

    /// Runs statements for an app in one transaction. Returns the number of rows that the last one
    /// changed.
    async fn execute_in_transaction(
        &self,
        lease: &Lease,
        app: AppId,
        statements: &[&'static str],
    ) -> Result<u64, StoreError> {
        let mut write = self.write("remove an app", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let removed = execute_all(&mut tx, app, statements).await;
            if let Some(done) = write.end(tx, removed).await {
                return done;
            }
        }
    }

    async fn remove_next_groups(
        &self,
        lease: &Lease,
        app: AppId,
        after_id: &str,
    ) -> Result<Option<BatchDone<String>>, StoreError> {
        let mut write = self.write("remove groups", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let removed = purge::remove_groups(&mut tx, app, &ALL_GROUPS, (after_id, i64::MAX)).await;
            if let Some(done) = write.end(tx, removed).await {
                return done;
            }
        }
    }
}

async fn execute_all(tx: &mut Tx, app: AppId, statements: &[&'static str]) -> Result<u64, StoreError> {
    let mut changed = 0;
    for statement in statements {
        changed = tx.execute(*statement, &values![app.0]).await?;
    }
    Ok(changed)
}
