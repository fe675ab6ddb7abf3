//! What `status`, `demo` and a starting service read: a few rows from the kept totals, never a scan.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use sqlx::{Column as _, Row as _};

use super::engine::{Store, query_as, reading};
use super::error::{Attempted as _, StoreError};
use crate::model::SdkAppId;

/// One app, as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct AppStatus {
    pub app: String,
    pub sdk_app_id: i64,
    pub configured: bool,
    pub types: Vec<TypeStatus>,
    /// The newest complete crawl.
    pub last_complete_crawl: Option<CrawlRow>,
    /// The newest crawl that ended.
    pub last_crawl: Option<CrawlRow>,
    /// A crawl that has not ended.
    pub running_crawl: Option<CrawlRow>,
    /// The crawls of which groups are held, the newest first.
    pub withheld: Vec<Withheld>,
    /// What each host's crawls are for, if they do not agree: then some types are crawled only by turns. Empty if they
    /// agree.
    pub differing_group_types: Vec<HostTypes>,
}

impl AppStatus {
    /// An app that the database has not heard of.
    #[must_use]
    pub fn never_crawled(name: &str, sdk_app_id: SdkAppId) -> Self {
        Self {
            app: name.to_owned(),
            sdk_app_id: sdk_app_id.get(),
            configured: true,
            types: Vec::new(),
            last_complete_crawl: None,
            last_crawl: None,
            running_crawl: None,
            withheld: Vec::new(),
            differing_group_types: Vec::new(),
        }
    }
}

/// A crawl whose deletions wait for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Withheld {
    pub crawl_id: i64,
    /// The groups of it that wait still.
    pub groups: i64,
}

/// The group types of a host's newest crawl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostTypes {
    pub host: String,
    /// None: one pass over everything.
    pub group_types: Vec<String>,
}

/// One group type of an app.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct TypeStatus {
    /// `None`: groups whose type is not known.
    pub group_type: Option<String>,
    pub configured: i64,
    /// Live groups, missing ones included.
    pub live: i64,
    pub missing: i64,
    pub deleted: i64,
}

/// One crawl.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct CrawlRow {
    pub crawl_id: i64,
    pub trigger: String,
    #[serde(serialize_with = "as_time")]
    pub started_at: i64,
    #[serde(serialize_with = "as_optional_time")]
    pub finished_at: Option<i64>,
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
}

impl CrawlRow {
    /// When it ended, if it has.
    #[must_use]
    pub fn finished(&self) -> Option<DateTime<Utc>> {
        self.finished_at.and_then(DateTime::from_timestamp_millis)
    }

    #[must_use]
    pub fn started(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.started_at)
    }
}

const APPS: &str = "SELECT app_id, sdk_app_id, name, configured FROM app ORDER BY name";
const TYPES: &str = "
SELECT t.name AS group_type, s.configured, s.live_count AS live, s.missing_count AS missing, s.deleted_count AS deleted
FROM type_state s JOIN group_type t ON t.type_id = s.type_id
WHERE s.app_id = $1 ORDER BY t.type_id";

macro_rules! crawl_where {
    ($condition:literal) => {
        concat!(
            "SELECT crawl_id, trigger, started_at, finished_at, status, deletions, requests, listed_count AS groups_listed,
                    appeared, vanished, reappeared, retyped, withheld, reason_code, error_code, reason, host
             FROM crawl WHERE app_id = $1 AND ",
            $condition,
            " ORDER BY crawl_id DESC LIMIT 1"
        )
    };
}
const LAST_COMPLETE: &str = crawl_where!("status = 'complete'");
const LAST_ENDED: &str = crawl_where!("status <> 'running'");
const RUNNING: &str = crawl_where!("status = 'running'");
const WITHHELD: &str = "
SELECT held_crawl_id AS crawl_id, count(*) AS groups FROM group_row
WHERE app_id = $1 AND held_crawl_id IS NOT NULL GROUP BY held_crawl_id ORDER BY held_crawl_id DESC";
// Few enough that a host whose configuration was mended, or that is gone, is soon not spoken of any more.
const LATELY_CRAWLED: &str = "
SELECT host, group_types FROM (
    SELECT crawl_id, host, group_types FROM crawl WHERE app_id = $1 ORDER BY crawl_id DESC LIMIT 20
) AS newest ORDER BY crawl_id";

impl Store {
    /// Runs a query that only reads and returns its columns' names and its rows as text, NULL as the empty text.
    pub async fn read(&self, sql: &'static str) -> Result<(Vec<String>, Vec<Vec<String>>), StoreError> {
        const DOING: &str = "run a query";
        let read = reading!(self, on => async {
            let rows = sqlx::raw_sql(sql).fetch_all(on).await?;
            let header = rows.first().map(|row| row.columns().iter().map(|column| column.name().to_owned()).collect());
            let mut texts = Vec::with_capacity(rows.len());
            for row in &rows {
                let mut cells = Vec::with_capacity(row.len());
                for index in 0..row.len() {
                    let cell: Option<String> = row.try_get_unchecked(index)?;
                    cells.push(cell.unwrap_or_default());
                }
                texts.push(cells);
            }
            Ok((header.unwrap_or_default(), texts))
        }
        .await);
        read.attempted(DOING)
    }

    /// Every app the database knows, configured or not, by name.
    pub async fn app_statuses(&self) -> Result<Vec<AppStatus>, StoreError> {
        const DOING: &str = "read the apps' status";
        let apps: Vec<(i64, i64, String, i64)> =
            reading!(self, on => query_as(APPS).fetch_all(on).await).attempted(DOING)?;
        let mut statuses = Vec::with_capacity(apps.len());
        for (app_id, sdk_app_id, app, configured) in apps {
            let types =
                reading!(self, on => query_as(TYPES).bind(app_id).fetch_all(on).await).attempted(DOING)?;
            let mut crawls = Vec::with_capacity(3);
            for statement in [LAST_COMPLETE, LAST_ENDED, RUNNING] {
                let crawl: Option<CrawlRow> =
                    reading!(self, on => query_as(statement).bind(app_id).fetch_optional(on).await)
                        .attempted(DOING)?;
                crawls.push(crawl);
            }
            let [last_complete_crawl, last_crawl, running_crawl] =
                <[Option<CrawlRow>; 3]>::try_from(crawls).unwrap_or_default();
            let withheld =
                reading!(self, on => query_as(WITHHELD).bind(app_id).fetch_all(on).await).attempted(DOING)?;
            let lately: Vec<(String, Option<String>)> =
                reading!(self, on => query_as(LATELY_CRAWLED).bind(app_id).fetch_all(on).await)
                    .attempted(DOING)?;
            statuses.push(AppStatus {
                app,
                sdk_app_id,
                configured: configured != 0,
                types,
                last_complete_crawl,
                last_crawl,
                running_crawl,
                withheld,
                differing_group_types: differing(lately),
            });
        }
        Ok(statuses)
    }
}

/// By host, what its newest crawl was for, unless that was the same for all. Oldest crawls first.
fn differing(crawls: Vec<(String, Option<String>)>) -> Vec<HostTypes> {
    let newest: BTreeMap<String, Option<String>> = crawls.into_iter().collect();
    let known = newest.into_iter().filter_map(|(host, group_types)| Some((host, group_types?)));
    let known: Vec<(String, String)> = known.collect();
    if known.iter().map(|(_, group_types)| group_types).collect::<BTreeSet<_>>().len() < 2 {
        return Vec::new();
    }
    let names = |list: String| list.split_terminator(',').map(str::to_owned).collect();
    known.into_iter().map(|(host, list)| HostTypes { host, group_types: names(list) }).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn as_time<S: Serializer>(millis: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    DateTime::from_timestamp_millis(*millis).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn as_optional_time<S: Serializer>(millis: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    millis.and_then(DateTime::from_timestamp_millis).serialize(serializer)
}
