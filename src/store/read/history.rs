//! The recent past of every app, for the dashboard: its last crawls, and its changes since an
//! earlier day. `overview` reads the current state.

use serde::Serialize;

use super::lists::Stamp;
use crate::store::engine::{Store, StoreError, values};

/// The main columns of a crawl.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct RecentCrawl {
    #[serde(skip)]
    pub sdk_app_id: i64,
    pub crawl_id: i64,
    pub started_at: Stamp,
    pub status: String,
    pub deletions: Option<String>,
    pub reason_code: Option<String>,
}

/// How an app changed since the end of an earlier day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx_macros::FromRow)]
pub struct CountChange {
    #[serde(skip)]
    pub sdk_app_id: i64,
    /// The last day with counts that is not later than the requested one.
    pub since: String,
    /// The difference of the live groups. Excludes types whose first list is later than that day,
    /// because a first list is not growth. `None` if no type remains.
    pub live_count: Option<i64>,
    /// The difference of the app's TotalCount. `None` if that day has none.
    pub total_count: Option<i64>,
    /// The number of groups that vanished since the end of that day.
    pub vanished: i64,
}

// `OFFSET` finds the newest crawl that is too old to be returned. CROSS JOIN makes SQLite's planner
// start with the apps instead of reading all crawls.
const SELECT_RECENT_CRAWLS: &str = "
SELECT a.sdk_app_id, c.crawl_id, c.started_at, c.status, c.deletions, c.reason_code
FROM app a CROSS JOIN crawl c
WHERE c.app_id = a.app_id AND c.status <> 'running' AND c.crawl_id > coalesce((
    SELECT k.crawl_id FROM crawl k WHERE k.app_id = a.app_id AND k.status <> 'running'
    ORDER BY k.crawl_id DESC LIMIT 1 OFFSET $1), 0)
ORDER BY a.app_id, c.crawl_id";

const CHANGES_SINCE: &str = "
SELECT b.sdk_app_id, b.since,
       (SELECT CAST(sum(s.live_count - d.live_groups) AS BIGINT)
        FROM daily_count d
        JOIN type_state s ON s.app_id = d.app_id AND s.type_id = d.type_id
        JOIN crawl f ON f.crawl_id = s.baseline_crawl_id
        WHERE d.app_id = b.app_id AND d.day = b.since AND f.day <= b.since) AS live_count,
       (SELECT coalesce(k.total_at_end, k.total_at_start) FROM crawl k
        WHERE k.app_id = b.app_id AND k.total_at_start IS NOT NULL ORDER BY k.crawl_id DESC LIMIT 1)
     - (SELECT coalesce(k.total_at_end, k.total_at_start) FROM crawl k
        WHERE k.app_id = b.app_id AND k.day = b.since AND k.total_at_start IS NOT NULL
        ORDER BY k.crawl_id DESC LIMIT 1) AS total_count,
       (SELECT CAST(coalesce(sum(d.vanished), 0) AS BIGINT) FROM daily_count d
        WHERE d.app_id = b.app_id AND d.day > b.since) AS vanished
FROM (SELECT a.app_id, a.sdk_app_id,
             (SELECT max(d.day) FROM daily_count d WHERE d.app_id = a.app_id AND d.day <= $1) AS since
      FROM app a) AS b
WHERE b.since IS NOT NULL";

impl Store {
    /// Returns the last crawls of every app that have ended, at most `limit` of each, oldest first.
    pub async fn recent_crawls(&self, limit: i64) -> Result<Vec<RecentCrawl>, StoreError> {
        self.fetch_all("list the last crawls of the apps", SELECT_RECENT_CRAWLS, &values![limit]).await
    }

    /// Returns how every app changed since the end of a day. Omits apps that have no counts of that
    /// day or an earlier one.
    pub async fn changes_since(&self, day: &str) -> Result<Vec<CountChange>, StoreError> {
        self.fetch_all("compare the apps with an earlier day", CHANGES_SINCE, &values![day]).await
    }
}
