//! Reads what a crawl needs before it starts: the app, the types with their totals, and earlier
//! crawls.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};

use crate::model::{CrawlId, SdkAppId, TypeId};
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, values};

/// The stored state of one group type of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx_macros::FromRow)]
pub struct TypeState {
    type_id: i64,
    live_count: i64,
    baseline_crawl_id: Option<i64>,
}

impl TypeState {
    /// Returns the state of a type that is not stored yet.
    #[must_use]
    pub fn unstored(type_id: TypeId) -> Self {
        Self { type_id: type_id.0, live_count: 0, baseline_crawl_id: None }
    }

    /// Returns the state with more live groups.
    #[must_use]
    pub fn with_more(self, live_groups: i64) -> Self {
        Self { live_count: self.live_count + live_groups, ..self }
    }

    #[must_use]
    pub fn type_id(&self) -> TypeId {
        TypeId(self.type_id)
    }

    /// Returns the number of live groups, including missing ones.
    #[must_use]
    pub fn live(&self) -> u64 {
        u64::try_from(self.live_count).unwrap_or(0)
    }

    /// Returns true if the baseline of this type has ended: an earlier list of it was nearly
    /// complete or accepted.
    #[must_use]
    pub fn is_past_baseline(&self) -> bool {
        self.baseline_crawl_id.is_some()
    }
}

/// The results of earlier crawls of an app that determine which passes the next crawl makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrawlHistory {
    /// Whether an earlier crawl of the app reached its end.
    pub crawled_before: bool,
    /// Whether the last crawl that computed `leftover` found groups beyond those of the configured
    /// types.
    pub had_leftover: bool,
    /// Whether the last crawl that reached its end requires that the next one makes an unfiltered
    /// pass.
    pub needs_unfiltered_pass: bool,
}

/// When the last crawls before a given crawl ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastEnds {
    /// The end of the last crawl that was complete or incomplete.
    pub ended: Option<DateTime<Utc>>,
    /// The end of the last complete crawl.
    pub completed: Option<DateTime<Utc>>,
}

/// Which of the API's statistics of an app are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStatistics {
    /// When statistics were last fetched successfully.
    pub last_fetch: Option<DateTime<Utc>>,
    /// Whether a given day is stored.
    pub has_day: bool,
}

const APP_ID: &str = "SELECT app_id FROM app WHERE sdk_app_id = $1";
const TYPE_NAMES: &str = "SELECT type_id, name FROM group_type WHERE name IS NOT NULL";
const TYPE_STATES: &str = "SELECT type_id, live_count, baseline_crawl_id FROM type_state WHERE app_id = $1";
const LAST_ENDED_CRAWL: &str = "
SELECT started_at, unfiltered_next FROM crawl
WHERE app_id = $1 AND status IN ('complete', 'incomplete') ORDER BY crawl_id DESC LIMIT 1";
const LAST_LEFTOVER: &str = "
SELECT leftover FROM crawl WHERE app_id = $1 AND leftover IS NOT NULL ORDER BY crawl_id DESC LIMIT 1";
const LAST_ENDS_BEFORE: &str = "
SELECT (SELECT e.finished_at FROM crawl e WHERE e.app_id = $1 AND e.crawl_id < $2 AND e.status IN ('complete', 'incomplete')
        ORDER BY e.crawl_id DESC LIMIT 1),
       (SELECT c.finished_at FROM crawl c WHERE c.app_id = $1 AND c.crawl_id < $2 AND c.status = 'complete'
        ORDER BY c.crawl_id DESC LIMIT 1)";
const STORED_STATISTICS: &str = "
SELECT a.statistics_at, (SELECT count(*) FROM app_statistic s WHERE s.app_id = a.app_id AND s.day = $2)
FROM app a WHERE a.app_id = $1";

impl Store {
    /// Returns the key of an app, if it is registered.
    pub async fn find_app(&self, app: SdkAppId) -> Result<Option<AppId>, StoreError> {
        let row: Option<(i64,)> = self.fetch_optional("look up an app", APP_ID, &values![app.get()]).await?;
        Ok(row.map(|(app_id,)| AppId(app_id)))
    }

    /// Returns the names of all registered group types.
    pub async fn type_names(&self) -> Result<BTreeMap<TypeId, String>, StoreError> {
        let names: Vec<(i64, String)> = self.fetch_all("read the group types", TYPE_NAMES, &[]).await?;
        Ok(names.into_iter().map(|(type_id, name)| (TypeId(type_id), name)).collect())
    }

    /// Returns the state of each type of an app.
    pub async fn type_states(&self, app: AppId) -> Result<Vec<TypeState>, StoreError> {
        self.fetch_all("read the totals of the group types", TYPE_STATES, &values![app.0]).await
    }

    /// Returns the results of earlier crawls that the next crawl of the app needs.
    pub async fn crawl_history(&self, app: AppId) -> Result<CrawlHistory, StoreError> {
        const ACTION: &str = "read the app's earlier crawls";
        let last_ended: Option<(i64, i64)> =
            self.fetch_optional(ACTION, LAST_ENDED_CRAWL, &values![app.0]).await?;
        let leftover: Option<(i64,)> = self.fetch_optional(ACTION, LAST_LEFTOVER, &values![app.0]).await?;
        Ok(CrawlHistory {
            crawled_before: last_ended.is_some(),
            had_leftover: leftover.is_some_and(|(groups,)| groups > 0),
            needs_unfiltered_pass: last_ended
                .is_some_and(|(_, needs_unfiltered_pass)| needs_unfiltered_pass > 0),
        })
    }

    /// Returns the start of the app's last crawl that reached its end.
    pub async fn last_start(&self, app: AppId) -> Result<Option<DateTime<Utc>>, StoreError> {
        const ACTION: &str = "read when the app was crawled last";
        let last_ended: Option<(i64, i64)> =
            self.fetch_optional(ACTION, LAST_ENDED_CRAWL, &values![app.0]).await?;
        Ok(last_ended.and_then(|(started_at, _)| DateTime::from_timestamp_millis(started_at)))
    }

    /// Returns the ends of the app's last crawls before `crawl`.
    pub async fn last_ends_before(&self, app: AppId, crawl: CrawlId) -> Result<LastEnds, StoreError> {
        const ACTION: &str = "read when the app was crawled last";
        let (ended, completed): (Option<i64>, Option<i64>) =
            self.fetch_one(ACTION, LAST_ENDS_BEFORE, &values![app.0, crawl.0]).await?;
        let time = |millis: Option<i64>| millis.and_then(DateTime::from_timestamp_millis);
        Ok(LastEnds { ended: time(ended), completed: time(completed) })
    }

    /// Returns when the statistics of an app were last fetched, and whether those of `day` are
    /// stored.
    pub async fn stored_statistics(
        &self,
        app: AppId,
        day: NaiveDate,
    ) -> Result<StoredStatistics, StoreError> {
        const ACTION: &str = "read when the app's statistics were fetched";
        let day = day.to_string();
        let (last_fetch, days): (Option<i64>, i64) =
            self.fetch_one(ACTION, STORED_STATISTICS, &values![app.0, &day]).await?;
        Ok(StoredStatistics {
            last_fetch: last_fetch.and_then(DateTime::from_timestamp_millis),
            has_day: days > 0,
        })
    }
}
