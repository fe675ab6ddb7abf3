//! All apps at a glance, for a page that asks every other second: a handful of statements however many apps there are,
//! each answered from kept totals or an index.

use std::collections::BTreeMap;

use serde::Serialize;

use super::lists::{Crawl, Stamp, crawl_columns};
use crate::store::engine::{Store, StoreError};

/// One app as the database knows it.
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
    /// The newest crawl, if it has not ended.
    pub running_crawl: Option<Crawl>,
    /// The API's latest TotalCount of the whole app.
    pub total_count: Option<i64>,
    /// What waits for someone's decision, newest first.
    pub held: Vec<HeldDeletions>,
}

/// One type of an app: the view `type_status`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
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

/// The deletions of one crawl that were withheld, or undone, and that nothing has settled since.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct HeldDeletions {
    #[serde(skip)]
    app_id: i64,
    pub crawl_id: i64,
    pub finished_at: Option<Stamp>,
    /// Groups that still wait.
    pub held_count: i64,
    /// How many of these the API has confirmed to be gone.
    pub confirmed_count: i64,
    /// How many deletions the crawl withheld.
    pub withheld: i64,
    /// How many of its deletions were undone.
    pub undeleted: i64,
    pub reason_code: Option<String>,
    pub reason: Option<String>,
}

const APPS: &str = "
SELECT a.app_id, a.sdk_app_id, a.name, a.configured <> 0 AS configured,
       (SELECT coalesce(k.total_at_end, k.total_at_start) FROM crawl k
        WHERE k.app_id = a.app_id AND k.total_at_start IS NOT NULL ORDER BY k.crawl_id DESC LIMIT 1) AS total_count
FROM app a ORDER BY a.name, a.sdk_app_id";
const TYPES: &str = "
SELECT s.app_id, t.name AS group_type, t.sdk_name, t.name_zh, s.live_count, s.missing_count, s.deleted_count,
       s.concluded_at AS as_of, s.configured <> 0 AS configured,
       CASE WHEN s.configured = 1 THEN s.total_count END AS total_count
FROM type_state s JOIN group_type t ON t.type_id = s.type_id ORDER BY s.app_id, s.type_id";

/// The newest crawl of each app that is like this.
macro_rules! newest_crawls {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            crawl_columns!(),
            " FROM app a JOIN crawl c ON c.crawl_id = (
                SELECT k.crawl_id FROM crawl k WHERE k.app_id = a.app_id",
            $condition,
            " ORDER BY k.crawl_id DESC LIMIT 1)"
        )
    };
}
const NEWEST: &str = newest_crawls!("");
const NEWEST_ENDED: &str = newest_crawls!(" AND k.status <> 'running'");
const NEWEST_COMPLETE: &str = newest_crawls!(" AND k.status = 'complete'");
// Held groups are missing ones, so that the big table is not asked where nothing is missing.
const HELD: &str = "
SELECT h.app_id, h.held_crawl_id AS crawl_id, c.finished_at, h.held_count, h.confirmed_count, c.withheld, c.undeleted, c.reason_code, c.reason
FROM (SELECT g.app_id, g.held_crawl_id, count(*) AS held_count,
             CAST(sum(CASE WHEN g.held_as = 'c' THEN 1 ELSE 0 END) AS BIGINT) AS confirmed_count
      FROM group_row g
      WHERE g.held_crawl_id IS NOT NULL GROUP BY g.app_id, g.held_crawl_id) AS h
JOIN crawl c ON c.crawl_id = h.held_crawl_id
ORDER BY h.held_crawl_id DESC";

impl Store {
    /// Every app that the database knows, by name.
    pub async fn overview(&self) -> Result<Vec<AppOverview>, StoreError> {
        const DOING: &str = "read how the apps stand";
        let apps: Vec<(i64, i64, String, bool, Option<i64>)> = self.fetch_all(DOING, APPS, &[]).await?;
        let types: Vec<TypeOverview> = self.fetch_all(DOING, TYPES, &[]).await?;
        let mut newest = Vec::with_capacity(3);
        for statement in [NEWEST, NEWEST_ENDED, NEWEST_COMPLETE] {
            let crawls: Vec<Crawl> = self.fetch_all(DOING, statement, &[]).await?;
            newest.push(crawls.into_iter().map(|crawl| (crawl.app_id, crawl)).collect());
        }
        let [mut any, mut ended, mut complete] =
            <[BTreeMap<i64, Crawl>; 3]>::try_from(newest).unwrap_or_default();
        let held: Vec<HeldDeletions> = if types.iter().any(|of_type| of_type.missing_count > 0) {
            self.fetch_all(DOING, HELD, &[]).await?
        } else {
            Vec::new()
        };
        let mut types_of: BTreeMap<i64, Vec<TypeOverview>> = BTreeMap::new();
        for of_type in types {
            types_of.entry(of_type.app_id).or_default().push(of_type);
        }
        let overview = |(app_id, sdk_app_id, app, configured, total_count)| AppOverview {
            app_id,
            app,
            sdk_app_id,
            configured,
            total_count,
            types: types_of.remove(&app_id).unwrap_or_default(),
            last_crawl: ended.remove(&app_id),
            last_complete_crawl: complete.remove(&app_id),
            running_crawl: any.remove(&app_id).filter(|crawl| crawl.finished_at.is_none()),
            held: held.iter().filter(|held| held.app_id == app_id).cloned().collect(),
        };
        Ok(apps.into_iter().map(overview).collect())
    }
}
