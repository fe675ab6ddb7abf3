//! The read model of the apps' state, which `status`, the dashboard, its JSON and the metrics use.
//!
//! Four statements read it, for any number of apps. Each reads stored totals or an index, because
//! an open dashboard polls every few seconds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::lists::{Crawl, Stamp};
use crate::model::ReasonCode;
use crate::store::engine::{Store, StoreError};

/// The state of one app.
#[derive(Clone, Debug)]
pub struct AppOverview {
    pub(super) app_id: i64,
    pub app: String,
    pub sdk_app_id: i64,
    pub configured: bool,
    pub types: Vec<TypeOverview>,
    /// The newest crawl that ended.
    pub last_crawl: Option<Crawl>,
    pub last_complete_crawl: Option<Crawl>,
    /// The newest crawl, if that has not ended.
    pub running_crawl: Option<Crawl>,
    /// The API's latest TotalCount of the entire app.
    pub total_count: Option<i64>,
    /// The greatest TotalCount of the app in the month of the newest crawl.
    pub month_peak: Option<i64>,
    /// The held deletions, newest crawl first. They stay held until the API lists the groups again
    /// or a person decides.
    pub held: Vec<HeldDeletions>,
    pub first_crawl_started_at: Option<Stamp>,
    /// The number of candidates for deletion that the last crawl that reached its end did not look
    /// up: its budget was spent, or the API throttled or refused the call. A later crawl has to look
    /// them up. `None` if no crawl has reached its end.
    pub unasked: Option<i64>,
    /// `None` if no details of the app's groups are kept.
    pub details: Option<DetailsOverview>,
}

/// The details of an app's live groups, at the time of the last count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DetailsOverview {
    /// The number of groups with details.
    pub groups: i64,
    /// The number of groups whose details are not older than `details.refresh`.
    pub fresh_groups: i64,
    /// The time of the oldest details.
    pub oldest_as_of: Option<Stamp>,
    pub counted_at: Stamp,
}

impl AppOverview {
    /// Returns true if the last finished crawl failed because the API refused the credentials.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let reason = self.last_crawl.as_ref().and_then(|crawl| crawl.reason_code.as_deref());
        reason == Some(ReasonCode::Refused.as_str())
    }

    /// Returns the number of held groups.
    #[must_use]
    pub fn held_groups(&self) -> i64 {
        self.held.iter().map(|held| held.held_count).sum()
    }
}

/// One type of an app: the view `type_status`.
#[derive(Clone, Debug, Serialize, sqlx_macros::FromRow)]
pub struct TypeOverview {
    #[serde(skip)]
    app_id: i64,
    pub group_type: Option<String>,
    pub sdk_name: Option<String>,
    pub name_zh: Option<String>,
    pub live_count: i64,
    pub missing_count: i64,
    pub deleted_count: i64,
    pub as_of: Option<Stamp>,
    pub configured: bool,
    pub total_count: Option<i64>,
}

/// The deletions of one crawl that were withheld or undone and are still held.
#[derive(Clone, Debug, Serialize)]
pub struct HeldDeletions {
    #[serde(skip)]
    app_id: i64,
    pub crawl_id: i64,
    pub finished_at: Option<Stamp>,
    /// The number of groups that are still held.
    pub held_count: i64,
    /// The number of held groups that the API has confirmed to be gone.
    pub confirmed_count: i64,
    /// The number of held groups whose deletion a person undid.
    #[serde(skip)]
    pub undone_count: i64,
    /// The number of deletions that the crawl withheld. After an undo, the number of the crawl's
    /// groups that were held then.
    pub withheld: i64,
    /// The number of the crawl's deletions that were undone.
    pub undeleted: i64,
    pub reason_code: Option<String>,
    pub reason: Option<String>,
    /// The held groups by type, in the order of the app's types.
    pub types: Vec<HeldType>,
}

/// The held groups of one crawl and one type.
#[derive(Clone, Debug, Serialize)]
pub struct HeldType {
    pub group_type: Option<String>,
    pub sdk_name: Option<String>,
    pub name_zh: Option<String>,
    pub held_count: i64,
    /// All live groups of the type, including missing and held ones.
    pub live_count: i64,
}

const SELECT_APPS: &str = "SELECT * FROM base_app_status ORDER BY app, sdk_app_id";
const SELECT_TYPES: &str = "SELECT * FROM base_type_status ORDER BY app_id, type_id";
/// Returns the newest crawl of each app, its newest crawl that ended, and its newest complete
/// crawl.
const SELECT_CRAWLS: &str = "
SELECT c.* FROM base_app_status s
JOIN base_crawls c ON c.crawl_id IN (s.last_complete_crawl_id, s.last_crawl_id, s.newest_crawl_id)";
/// Returns the held groups of each crawl by type, one crawl after the other.
const SELECT_HELD: &str = "
SELECT h.app_id, h.held_crawl_id AS crawl_id, c.finished_at, c.withheld, c.undeleted, c.reason_code, c.reason,
       t.name AS group_type, t.sdk_name, t.name_zh, s.live_count, h.held_count, h.confirmed_count, h.undone_count
FROM (SELECT g.app_id, g.held_crawl_id, g.type_id, count(*) AS held_count,
             CAST(sum(CASE WHEN g.held_as = 'c' THEN 1 ELSE 0 END) AS BIGINT) AS confirmed_count,
             CAST(sum(CASE WHEN g.held_as = 'u' THEN 1 ELSE 0 END) AS BIGINT) AS undone_count
      FROM group_row g
      WHERE g.held_crawl_id IS NOT NULL GROUP BY g.app_id, g.held_crawl_id, g.type_id) AS h
JOIN crawl c ON c.crawl_id = h.held_crawl_id
JOIN group_type t ON t.type_id = h.type_id
JOIN type_state s ON s.app_id = h.app_id AND s.type_id = h.type_id
ORDER BY h.held_crawl_id DESC, h.type_id";

/// The held groups of one crawl and one type, with the columns of the crawl.
#[derive(sqlx_macros::FromRow)]
struct HeldRow {
    app_id: i64,
    crawl_id: i64,
    finished_at: Option<Stamp>,
    withheld: i64,
    undeleted: i64,
    reason_code: Option<String>,
    reason: Option<String>,
    group_type: Option<String>,
    sdk_name: Option<String>,
    name_zh: Option<String>,
    live_count: i64,
    held_count: i64,
    confirmed_count: i64,
    undone_count: i64,
}

/// Adds up the rows of each crawl. Expects the rows to be sorted by crawl.
fn held_by_crawl(rows: Vec<HeldRow>) -> Vec<HeldDeletions> {
    let mut held: Vec<HeldDeletions> = Vec::new();
    for row in rows {
        let held_type = HeldType {
            group_type: row.group_type,
            sdk_name: row.sdk_name,
            name_zh: row.name_zh,
            held_count: row.held_count,
            live_count: row.live_count,
        };
        match held.last_mut().filter(|last| last.crawl_id == row.crawl_id) {
            Some(last) => {
                last.held_count += row.held_count;
                last.confirmed_count += row.confirmed_count;
                last.undone_count += row.undone_count;
                last.types.push(held_type);
            }
            None => held.push(HeldDeletions {
                app_id: row.app_id,
                crawl_id: row.crawl_id,
                finished_at: row.finished_at,
                held_count: row.held_count,
                confirmed_count: row.confirmed_count,
                undone_count: row.undone_count,
                withheld: row.withheld,
                undeleted: row.undeleted,
                reason_code: row.reason_code,
                reason: row.reason,
                types: vec![held_type],
            }),
        }
    }
    held
}

/// A row of the view `base_app_status`.
#[derive(sqlx_macros::FromRow)]
struct AppRow {
    app_id: i64,
    sdk_app_id: i64,
    app: String,
    configured: bool,
    last_complete_crawl_id: Option<i64>,
    last_crawl_id: Option<i64>,
    newest_crawl_id: Option<i64>,
    first_crawl_started_at: Option<Stamp>,
    unasked: Option<i64>,
    total_count: Option<i64>,
    month_peak: Option<i64>,
    details_known: Option<i64>,
    details_fresh: Option<i64>,
    details_oldest: Option<Stamp>,
    details_counted_at: Option<Stamp>,
}

impl AppRow {
    fn details(&self) -> Option<DetailsOverview> {
        Some(DetailsOverview {
            groups: self.details_known?,
            fresh_groups: self.details_fresh?,
            oldest_as_of: self.details_oldest,
            counted_at: self.details_counted_at?,
        })
    }
}

impl Store {
    /// Returns the state of every app in the database, ordered by name.
    pub async fn overview(&self) -> Result<Vec<AppOverview>, StoreError> {
        const ACTION: &str = "read the state of the apps";
        let apps: Vec<AppRow> = self.fetch_all(ACTION, SELECT_APPS, &[]).await?;
        let types: Vec<TypeOverview> = self.fetch_all(ACTION, SELECT_TYPES, &[]).await?;
        let crawls: Vec<Crawl> = self.fetch_all(ACTION, SELECT_CRAWLS, &[]).await?;
        let crawls: BTreeMap<i64, Crawl> = crawls.into_iter().map(|crawl| (crawl.crawl_id, crawl)).collect();
        // A held group is missing. If no group is missing, the table of groups is not read.
        let held = if types.iter().any(|group_type| group_type.missing_count > 0) {
            held_by_crawl(self.fetch_all(ACTION, SELECT_HELD, &[]).await?)
        } else {
            Vec::new()
        };
        let mut types_of_app: BTreeMap<i64, Vec<TypeOverview>> = BTreeMap::new();
        for group_type in types {
            types_of_app.entry(group_type.app_id).or_default().push(group_type);
        }
        let crawl = |id: Option<i64>| id.and_then(|id| crawls.get(&id)).cloned();
        let overview = |row: AppRow| AppOverview {
            types: types_of_app.remove(&row.app_id).unwrap_or_default(),
            last_crawl: crawl(row.last_crawl_id),
            last_complete_crawl: crawl(row.last_complete_crawl_id),
            running_crawl: crawl(row.newest_crawl_id).filter(|crawl| crawl.finished_at.is_none()),
            held: held.iter().filter(|held| held.app_id == row.app_id).cloned().collect(),
            details: row.details(),
            app_id: row.app_id,
            app: row.app,
            sdk_app_id: row.sdk_app_id,
            configured: row.configured,
            first_crawl_started_at: row.first_crawl_started_at,
            unasked: row.unasked,
            total_count: row.total_count,
            month_peak: row.month_peak,
        };
        Ok(apps.into_iter().map(overview).collect())
    }
}
