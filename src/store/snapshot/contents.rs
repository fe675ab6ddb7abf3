//! Reads what a copy contains, and checks whether it is intact.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use crate::model::{CrawlId, SdkAppId};
use crate::store::engine::{StoreError, WithAction as _, query_as, query_scalar};
use crate::store::schema::check_sqlite_migrations;

const ACTION: &str = "read what the copy contains";

const CHECK_INTEGRITY: &str = "PRAGMA integrity_check(1)";
const COUNT_RECORD_TABLES: &str = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
const SELECT_APPLIED_MIGRATIONS: &str =
    "SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version";
const SELECT_APPS: &str = "
SELECT a.sdk_app_id, a.name, (SELECT coalesce(sum(s.live_count), 0) FROM type_state s WHERE s.app_id = a.app_id) AS live_groups
FROM app a ORDER BY a.sdk_app_id";
const SELECT_LAST_FINISHED_CRAWL: &str = "
SELECT crawl_id, finished_at FROM crawl WHERE finished_at IS NOT NULL ORDER BY crawl_id DESC LIMIT 1";

/// An app in a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx_macros::FromRow)]
pub struct BackedUpApp {
    pub sdk_app_id: i64,
    pub name: String,
    pub live_groups: i64,
}

/// What a copy contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    pub apps: Vec<BackedUpApp>,
    /// The newest finished crawl, and when it finished.
    pub last_crawl: Option<(CrawlId, DateTime<Utc>)>,
}

impl Contents {
    /// Checks a copy and returns its contents. Fails if the copy is damaged, from a newer version,
    /// or from another program. `path` names it in errors.
    pub(super) async fn read_and_check(copy: &mut SqliteConnection, path: &Path) -> Result<Self, StoreError> {
        let unusable = |why: String| StoreError::UnusableBackup { path: path.to_owned(), why };
        let integrity: String =
            query_scalar(CHECK_INTEGRITY).fetch_one(&mut *copy).await.with_action(ACTION)?;
        if integrity != "ok" {
            return Err(unusable(format!("is damaged ({integrity})")));
        }
        let record_tables: i64 =
            query_scalar(COUNT_RECORD_TABLES).fetch_one(&mut *copy).await.with_action(ACTION)?;
        if record_tables == 0 {
            return Err(unusable("is not a database of this program".to_owned()));
        }
        let applied: Vec<(i64, Vec<u8>)> =
            query_as(SELECT_APPLIED_MIGRATIONS).fetch_all(&mut *copy).await.with_action(ACTION)?;
        check_sqlite_migrations(&applied)?;
        let apps = query_as(SELECT_APPS).fetch_all(&mut *copy).await.with_action(ACTION)?;
        let last_finished: Option<(i64, i64)> =
            query_as(SELECT_LAST_FINISHED_CRAWL).fetch_optional(&mut *copy).await.with_action(ACTION)?;
        let last_crawl = last_finished.and_then(|(crawl, finished_at)| {
            Some((CrawlId(crawl), DateTime::from_timestamp_millis(finished_at)?))
        });
        Ok(Self { apps, last_crawl })
    }

    /// Fails if the copy contains none of the configured apps. `path` names it in the error.
    pub(super) fn require_one_of(&self, configured: &[SdkAppId], path: &Path) -> Result<(), StoreError> {
        if self.apps.iter().any(|app| configured.iter().any(|id| id.get() == app.sdk_app_id)) {
            return Ok(());
        }
        let describe = |ids: Vec<i64>| match &ids[..] {
            [] => "no app".to_owned(),
            ids => format!("SDKAppID {}", ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")),
        };
        let in_copy = describe(self.apps.iter().map(|app| app.sdk_app_id).collect());
        let in_configuration = describe(configured.iter().map(|app| app.get()).collect());
        let why = format!("has {in_copy}, and the configuration has {in_configuration}");
        Err(StoreError::UnusableBackup { path: path.to_owned(), why })
    }
}
