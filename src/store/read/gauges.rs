//! What a scrape reads: kept totals and newest crawls of all apps, in two statements, however many apps and groups there are.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::model::{ReasonCode, SdkAppId};
use crate::store::engine::{Store, StoreError};

/// One configured app, for whoever watches it by numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppGauges {
    pub app: String,
    /// The number of the app, if the database has a lawful one.
    pub sdk_app_id: Option<SdkAppId>,
    pub types: Vec<TypeGauges>,
    /// The API's TotalCount of the whole app, by the last crawl that reached its end.
    pub api_groups: Option<i64>,
    pub first_crawl_started_at: Option<DateTime<Utc>>,
    pub last_complete_started_at: Option<DateTime<Utc>>,
    pub last_complete_finished_at: Option<DateTime<Utc>>,
    /// The newest crawl has not ended, or its process ended without a word.
    pub left_open: bool,
    /// The last crawl that ended did so because the API refuses the credentials.
    pub refused: bool,
    /// Groups whose deletion was withheld or undone, and that were not listed since.
    pub held: i64,
    /// Groups that the last crawl that reached its end left to a later one to ask about.
    pub unasked: Option<i64>,
    /// By how many seconds the clock of the newest crawl's machine was ahead of the API's.
    pub clock_skew: Option<i64>,
}

/// One group type of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeGauges {
    /// `None`: groups whose type is not known.
    pub group_type: Option<String>,
    /// Live groups, missing ones included.
    pub live: i64,
    pub missing: i64,
    pub deleted: i64,
    /// The API's TotalCount of the type, by the last crawl that reached its end.
    pub api_groups: Option<i64>,
}

/// The newest crawl of an app, of those with one of these statuses.
macro_rules! newest_crawl {
    ($condition:literal) => {
        concat!(
            "(SELECT k.crawl_id FROM crawl k WHERE k.app_id = a.app_id",
            $condition,
            " ORDER BY k.crawl_id DESC LIMIT 1)"
        )
    };
}

// Held groups are missing: where none is missing, nobody looks for them.
const APPS: &str = concat!(
    "
SELECT a.app_id, a.sdk_app_id, a.name AS app, coalesce(e.total_at_end, e.total_at_start) AS api_groups,
       (SELECT k.started_at FROM crawl k WHERE k.app_id = a.app_id ORDER BY k.crawl_id LIMIT 1) AS first_started_at,
       c.started_at AS complete_started_at, c.finished_at AS complete_finished_at,
       n.status AS newest_status, l.reason_code AS last_reason, e.unasked, l.clock_skew,
       CASE WHEN EXISTS (SELECT 1 FROM type_state s WHERE s.app_id = a.app_id AND s.missing_count > 0)
            THEN (SELECT count(*) FROM group_row g WHERE g.app_id = a.app_id AND g.held_crawl_id IS NOT NULL)
            ELSE 0 END AS held
FROM app a
LEFT JOIN crawl n ON n.crawl_id = ",
    newest_crawl!(""),
    "
LEFT JOIN crawl l ON l.crawl_id = ",
    newest_crawl!(" AND k.status <> 'running'"),
    "
LEFT JOIN crawl e ON e.crawl_id = ",
    newest_crawl!(" AND k.status IN ('complete', 'incomplete')"),
    "
LEFT JOIN crawl c ON c.crawl_id = ",
    newest_crawl!(" AND k.status = 'complete'"),
    "
WHERE a.configured = 1 ORDER BY a.name"
);
const TYPES: &str = concat!(
    "
SELECT a.app_id, t.name AS group_type, s.live_count AS live, s.missing_count AS missing, s.deleted_count AS deleted,
       p.total_count AS api_groups
FROM app a
JOIN type_state s ON s.app_id = a.app_id
JOIN group_type t ON t.type_id = s.type_id
LEFT JOIN crawl_pass p ON p.type_id = s.type_id AND p.type_id <> 0 AND p.crawl_id = ",
    newest_crawl!(" AND k.status IN ('complete', 'incomplete')"),
    "
WHERE a.configured = 1 AND (s.configured = 1 OR s.live_count + s.deleted_count > 0)
ORDER BY t.type_id"
);

#[derive(sqlx::FromRow)]
struct AppRow {
    app_id: i64,
    sdk_app_id: i64,
    app: String,
    api_groups: Option<i64>,
    first_started_at: Option<i64>,
    complete_started_at: Option<i64>,
    complete_finished_at: Option<i64>,
    newest_status: Option<String>,
    last_reason: Option<String>,
    held: i64,
    unasked: Option<i64>,
    clock_skew: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct TypeRow {
    app_id: i64,
    group_type: Option<String>,
    live: i64,
    missing: i64,
    deleted: i64,
    api_groups: Option<i64>,
}

impl Store {
    /// How all configured apps stand, by name.
    pub async fn gauges(&self) -> Result<Vec<AppGauges>, StoreError> {
        const DOING: &str = "read the numbers of the apps";
        let apps: Vec<AppRow> = self.fetch_all(DOING, APPS, &[]).await?;
        let type_rows: Vec<TypeRow> = self.fetch_all(DOING, TYPES, &[]).await?;
        let mut types: BTreeMap<i64, Vec<TypeGauges>> = BTreeMap::new();
        for TypeRow { app_id, group_type, live, missing, deleted, api_groups } in type_rows {
            let of_app = types.entry(app_id).or_default();
            of_app.push(TypeGauges { group_type, live, missing, deleted, api_groups });
        }
        let time = |millis: Option<i64>| millis.and_then(DateTime::from_timestamp_millis);
        Ok(apps
            .into_iter()
            .map(|row| AppGauges {
                types: types.remove(&row.app_id).unwrap_or_default(),
                app: row.app,
                sdk_app_id: SdkAppId::new(row.sdk_app_id),
                api_groups: row.api_groups,
                first_crawl_started_at: time(row.first_started_at),
                last_complete_started_at: time(row.complete_started_at),
                last_complete_finished_at: time(row.complete_finished_at),
                left_open: row.newest_status.as_deref() == Some("running"),
                refused: row.last_reason.as_deref() == Some(ReasonCode::Refused.as_str()),
                held: row.held,
                unasked: row.unasked,
                clock_skew: row.clock_skew,
            })
            .collect())
    }
}
