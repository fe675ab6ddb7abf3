//! Reads rows of the public views, one app and one page at a time. Crawls, counts and events are
//! newest first, and groups are in the order of their ids. The fields are named like the columns of
//! the views.
//!
//! The rows come from the base views, whose times have the same format on both engines. All lists
//! use keyset pagination, so that the thousandth page costs as much as the first.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use crate::model::SdkAppId;
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, values};

/// A time in unix milliseconds, as the tables store it. It is serialised in the format of SQLite's
/// views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx_macros::Type)]
#[sqlx(transparent)]
pub struct Stamp(pub i64);

impl Stamp {
    /// Returns the time, or `None` if the number is out of range.
    #[must_use]
    pub fn time(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.0)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.time() {
            Some(_) => serializer.collect_str(self),
            None => serializer.serialize_none(),
        }
    }
}

/// Formats the time as the views of SQLite do. A number that is out of range is empty.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.time().map_or(Ok(()), |time| time.format("%Y-%m-%dT%H:%M:%SZ").fmt(f))
    }
}

/// A crawl: the view `crawls`.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct Crawl {
    pub crawl_id: i64,
    pub trigger: String,
    pub due_at: Option<Stamp>,
    pub started_at: Stamp,
    pub finished_at: Option<Stamp>,
    pub status: String,
    pub deletions: Option<String>,
    pub requests: i64,
    pub groups_listed: i64,
    pub appeared: i64,
    pub vanished: i64,
    pub reappeared: i64,
    pub retyped: i64,
    pub withheld: i64,
    pub reason_code: Option<String>,
    pub error_code: Option<i64>,
    pub reason: Option<String>,
    pub host: String,
    pub version: String,
    pub undeleted: i64,
    pub spared: i64,
    pub purged_groups: i64,
    pub purged_events: i64,
    pub purged_counts: i64,
    pub day: Option<String>,
    pub duration_seconds: Option<f64>,
    pub held_count: i64,
    pub asked: i64,
    pub confirmed: i64,
    pub unlearned: i64,
    pub unasked: i64,
    pub withheld_confirmed: i64,
    #[serde(skip)]
    pub clock_skew: Option<i64>,
}

impl Crawl {
    /// Returns when the crawl ended, or `None` if it is running.
    #[must_use]
    pub fn finished(&self) -> Option<DateTime<Utc>> {
        self.finished_at.and_then(Stamp::time)
    }
}

/// TotalCount of the app: the view `app_counts`.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct AppCount {
    pub recorded_at: Option<Stamp>,
    pub total_count: Option<i64>,
    pub total_count_at_start: Option<i64>,
    pub listed_count: i64,
    pub crawl_id: i64,
}

/// TotalCount of one type: the view `type_counts`.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct TypeCount {
    pub recorded_at: Stamp,
    pub group_type: Option<String>,
    pub total_count: Option<i64>,
    pub total_count_min: Option<i64>,
    pub total_count_max: Option<i64>,
    pub listed_count: i64,
    pub verdict: Option<String>,
    pub crawl_id: i64,
}

/// One type on one day: the view `daily_counts`.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct DailyCount {
    pub day: String,
    pub group_type: Option<String>,
    pub live_groups: i64,
    pub total_count: Option<i64>,
    pub appeared: i64,
    pub vanished: i64,
    pub reappeared: i64,
    pub retyped: i64,
    pub live_before: Option<i64>,
    pub net_growth: Option<i64>,
    pub timezone: String,
    pub complete_crawls: i64,
}

/// A change of a group: the view `group_events`.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct GroupEvent {
    pub event_id: i64,
    pub occurred_at: Stamp,
    pub group_id: String,
    pub event: String,
    pub old_type: Option<String>,
    pub new_type: Option<String>,
    pub crawl_id: i64,
}

/// A group: the view `groups`.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct Group {
    pub group_id: String,
    pub group_type: Option<String>,
    pub first_seen_at: Stamp,
    pub in_baseline: bool,
    pub last_seen_at: Stamp,
    pub deleted_at: Option<Stamp>,
    pub missing_since: Option<Stamp>,
    pub held: bool,
    pub confirmed: bool,
}

const APP_NAME: &str = "SELECT app_id, name FROM app WHERE sdk_app_id = $1";
const CRAWLS: &str =
    "SELECT * FROM base_crawls WHERE app_id = $1 AND crawl_id < $2 ORDER BY crawl_id DESC LIMIT $3";
const APP_COUNTS: &str =
    "SELECT * FROM base_app_counts WHERE app_id = $1 AND crawl_id < $2 ORDER BY crawl_id DESC LIMIT $3";
const ENDED_CRAWLS: &str = "
SELECT crawl_id FROM crawl WHERE app_id = $1 AND crawl_id < $2 AND status <> 'running' ORDER BY crawl_id DESC LIMIT $3";
const TYPE_COUNTS: &str = "
SELECT * FROM base_type_counts WHERE app_id = $1 AND crawl_id BETWEEN $2 AND $3 ORDER BY crawl_id DESC, pass_no";
const DAYS: &str =
    "SELECT DISTINCT day FROM daily_count WHERE app_id = $1 AND day < $2 ORDER BY day DESC LIMIT $3";
const DAILY_COUNTS: &str = "
SELECT * FROM base_daily_counts WHERE app_id = $1 AND day BETWEEN $2 AND $3 ORDER BY day DESC, type_id";
const EVENTS: &str = "
SELECT * FROM base_group_events WHERE app_id = $1 AND event_id < $2 ORDER BY event_id DESC LIMIT $3";
const EVENTS_OF_GROUP: &str = "
SELECT * FROM base_group_events
WHERE app_id = $1 AND event_id < $2 AND group_id = $4 ORDER BY event_id DESC LIMIT $3";
const GROUP: &str = "SELECT * FROM base_groups WHERE app_id = $1 AND group_id = $2";
const GROUPS_BETWEEN: &str = "
SELECT * FROM base_groups
WHERE app_id = $1 AND group_id >= $2 AND group_id < $3 ORDER BY group_id LIMIT $4";
const HELD_GROUPS: &str = "
SELECT b.* FROM group_row g JOIN base_groups b ON b.app_id = g.app_id AND b.group_id = g.group_id
WHERE g.app_id = $1 AND g.held_crawl_id = $2 AND g.group_id > $3 ORDER BY g.group_id LIMIT $4";
const COUNT_GROUPS_BETWEEN: &str = "
SELECT count(*) FROM (
    SELECT 1 FROM group_row WHERE app_id = $1 AND group_id >= $2 AND group_id < $3 LIMIT $4) AS found";

/// Which page of a list to return: at most `limit` rows whose key is below `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysetPage {
    pub before: i64,
    pub limit: i64,
}

impl Store {
    /// Returns the key and the name of an app, if it is registered.
    pub async fn find_app_and_name(&self, app: SdkAppId) -> Result<Option<(AppId, String)>, StoreError> {
        let found: Option<(i64, String)> =
            self.fetch_optional("look up an app", APP_NAME, &values![app.get()]).await?;
        Ok(found.map(|(app_id, name)| (AppId(app_id), name)))
    }

    /// Returns a page of an app's crawls.
    pub async fn crawls(&self, app: AppId, page: KeysetPage) -> Result<Vec<Crawl>, StoreError> {
        let KeysetPage { before, limit } = page;
        self.fetch_all("list crawls", CRAWLS, &values![app.0, before, limit]).await
    }

    /// Returns a page of the TotalCounts of an app, one per crawl.
    pub async fn app_counts(&self, app: AppId, page: KeysetPage) -> Result<Vec<AppCount>, StoreError> {
        let KeysetPage { before, limit } = page;
        self.fetch_all("list an app's counts", APP_COUNTS, &values![app.0, before, limit]).await
    }

    /// Returns the TotalCounts of an app's types in a page of crawls. Also returns the oldest of
    /// these crawls, from which the next page continues, or `None` on the last page.
    pub async fn type_counts(
        &self,
        app: AppId,
        page: KeysetPage,
    ) -> Result<(Vec<TypeCount>, Option<i64>), StoreError> {
        const ACTION: &str = "list the counts of an app's types";
        let KeysetPage { before, limit } = page;
        let crawls: Vec<(i64,)> =
            self.fetch_all(ACTION, ENDED_CRAWLS, &values![app.0, before, limit]).await?;
        let (Some((newest,)), Some((oldest,))) = (crawls.first().copied(), crawls.last().copied()) else {
            return Ok((Vec::new(), None));
        };
        let counts = self.fetch_all(ACTION, TYPE_COUNTS, &values![app.0, oldest, newest]).await?;
        let is_full_page = i64::try_from(crawls.len()).is_ok_and(|found| found == limit);
        Ok((counts, is_full_page.then_some(oldest)))
    }

    /// Returns the counts of the newest `days` days before `before`. Days without counts are not
    /// included. Also returns the oldest of these days, if earlier days may exist.
    pub async fn daily_counts(
        &self,
        app: AppId,
        before: &str,
        days: i64,
    ) -> Result<(Vec<DailyCount>, Option<String>), StoreError> {
        const ACTION: &str = "list an app's days";
        let found_days: Vec<(String,)> = self.fetch_all(ACTION, DAYS, &values![app.0, before, days]).await?;
        let (Some((newest,)), Some((oldest,))) = (found_days.first(), found_days.last()) else {
            return Ok((Vec::new(), None));
        };
        let counts = self.fetch_all(ACTION, DAILY_COUNTS, &values![app.0, oldest, newest]).await?;
        let is_full_page = i64::try_from(found_days.len()).is_ok_and(|found| found == days);
        Ok((counts, is_full_page.then(|| oldest.clone())))
    }

    /// Returns a page of the events of an app's groups, or of one group.
    pub async fn group_events(
        &self,
        app: AppId,
        group_id: Option<&str>,
        page: KeysetPage,
    ) -> Result<Vec<GroupEvent>, StoreError> {
        const ACTION: &str = "list events";
        let KeysetPage { before, limit } = page;
        match group_id {
            None => self.fetch_all(ACTION, EVENTS, &values![app.0, before, limit]).await,
            Some(group_id) => {
                self.fetch_all(ACTION, EVENTS_OF_GROUP, &values![app.0, before, limit, group_id]).await
            }
        }
    }

    /// Returns a group by its id.
    pub async fn group(&self, app: AppId, group_id: &str) -> Result<Option<Group>, StoreError> {
        self.fetch_optional("look up a group", GROUP, &values![app.0, group_id]).await
    }

    /// Returns the groups whose ids have a prefix and come after `after`, in byte order.
    pub async fn groups_with_prefix(
        &self,
        app: AppId,
        prefix: &str,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Group>, StoreError> {
        let (start, end) = (start_of_page(prefix, after), end_of_prefix(prefix));
        self.fetch_all("search for groups", GROUPS_BETWEEN, &values![app.0, &start, &end, limit]).await
    }

    /// Returns the number of groups whose ids have a prefix and come after `after`, at most
    /// `at_most`.
    pub async fn count_groups_with_prefix(
        &self,
        app: AppId,
        prefix: &str,
        after: &str,
        at_most: i64,
    ) -> Result<i64, StoreError> {
        let (start, end) = (start_of_page(prefix, after), end_of_prefix(prefix));
        let values = values![app.0, &start, &end, at_most];
        let (count,) = self.fetch_one("count groups", COUNT_GROUPS_BETWEEN, &values).await?;
        Ok(count)
    }

    /// Returns the groups whose deletion a crawl withheld and that are still held, with ids after
    /// `after`, in byte order.
    pub async fn groups_held_by(
        &self,
        app: AppId,
        crawl_id: i64,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Group>, StoreError> {
        self.fetch_all("list held groups", HELD_GROUPS, &values![app.0, crawl_id, after, limit]).await
    }
}

/// Returns the lower bound (inclusive) of the ids that have this prefix and come after `after`. No
/// id has a control character, so no id is between `after` and `after` followed by U+0001.
///
/// The two conditions are combined into one bound, because SQLite would use only one of two lower
/// bounds to search the index.
fn start_of_page(prefix: &str, after: &str) -> String {
    if after < prefix { prefix.to_owned() } else { format!("{after}\u{1}") }
}

/// Returns the upper bound (exclusive) of the ids that have this prefix. Both engines compare ids
/// by their bytes, which is also the order of their characters.
fn end_of_prefix(prefix: &str) -> String {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        if let Some(next) = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32) {
            end.push(next);
            return end.into_iter().collect();
        }
    }
    // The prefix is empty or has only the greatest character. This text of 256 bytes is greater
    // than all stored ids, which have at most 255 bytes.
    char::MAX.to_string().repeat(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_starts_at_the_prefix_or_after_the_last_id() {
        for (prefix, after, start) in
            [("", "", "\u{1}"), ("b", "", "b"), ("b", "a", "b"), ("b", "b", "b\u{1}"), ("b", "b1", "b1\u{1}")]
        {
            assert_eq!(start_of_page(prefix, after), start, "{prefix:?} {after:?}");
        }
        assert!("b1" < "b1\u{1}" && "b1\u{1}" < "b1 ");
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_texts_with_it() {
        for (prefix, end) in [("a", "b"), ("@TGS#1", "@TGS#2"), ("群", "羥"), ("\u{d7ff}", "\u{e000}")] {
            assert_eq!(end_of_prefix(prefix), end);
        }
        assert_eq!(end_of_prefix("a\u{10ffff}"), "b");
        assert_eq!(end_of_prefix("a\u{7f}"), "a\u{80}");
        for unbounded in ["", "\u{10ffff}"] {
            assert!(end_of_prefix(unbounded).as_bytes() > "\u{10ffff}".repeat(63).as_bytes());
        }
    }
}
