//! Removes rows: of an app that is forgotten.
//!
//! A few thousand rows a transaction, so that others can write in between, and each of them leaves the kept totals
//! right. What is broken off goes on where it stopped: removed rows are not found again.

use serde::Serialize;

use super::apps::AppId;
use super::engine::{Store, query, query_as, query_scalar, reading, writing};
use super::error::{Attempted as _, StoreError};
use super::groups::{Tally, keep_tally};
use super::lease::Lease;
use crate::model::{CrawlId, SdkAppId, TypeId};

/// An app that the database knows.
#[derive(Clone, Debug, sqlx::FromRow)]
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

    /// `None` if the database names an unlawful one.
    #[must_use]
    pub fn sdk_app_id(&self) -> Option<SdkAppId> {
        SdkAppId::new(self.sdk_app_id)
    }
}

/// How many rows there are of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Holdings {
    pub groups: i64,
    pub events: i64,
    pub crawls: i64,
    /// Days with counts.
    pub days: i64,
}

/// Where a walk through a table goes on, and what its last step removed.
struct Walked<T> {
    to: T,
    removed: u64,
}

const APPS_CALLED: &str = "SELECT app_id, sdk_app_id, name FROM app WHERE name = $1 OR CAST(sdk_app_id AS TEXT) = $1 ORDER BY app_id";
const HOLDINGS: &str = "
SELECT (SELECT CAST(coalesce(sum(live_count + deleted_count), 0) AS BIGINT) FROM type_state WHERE app_id = $1) AS groups,
       (SELECT count(*) FROM group_event WHERE app_id = $1) AS events,
       (SELECT count(*) FROM crawl WHERE app_id = $1) AS crawls,
       (SELECT count(DISTINCT day) FROM daily_count WHERE app_id = $1) AS days";

/// The statements that remove groups, 10,000 at a time: where the next of them end, what they are, and that they go.
struct DoomedGroups {
    last: &'static str,
    census: &'static str,
    delete: &'static str,
}

macro_rules! doomed_groups {
    ($condition:literal) => {
        DoomedGroups {
            last: concat!(
                "SELECT max(group_id) FROM (SELECT group_id FROM group_row WHERE app_id = $1 AND group_id > $2 AND ",
                $condition,
                " ORDER BY group_id LIMIT 10000) AS doomed"
            ),
            census: concat!(
                "SELECT type_id, sum(CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END),
                        sum(CASE WHEN missing_since IS NULL THEN 0 ELSE 1 END),
                        sum(CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END)
                 FROM group_row WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND ",
                $condition,
                " GROUP BY type_id"
            ),
            delete: concat!(
                "DELETE FROM group_row WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND ",
                $condition
            ),
        }
    };
}
const ALL_GROUPS: DoomedGroups = doomed_groups!("(deleted_at IS NULL OR deleted_at <= $3)");

// Crawled again before it is forgotten to the end, an app is like one that was never crawled.
const FORGET_BASELINES: &str = "UPDATE type_state SET baseline_crawl_id = NULL, concluded_crawl_id = NULL, concluded_at = NULL WHERE app_id = $1";
const FORGET_EVENTS: &str = "
DELETE FROM group_event WHERE event_id IN (
    SELECT event_id FROM group_event WHERE app_id = $1 ORDER BY group_id LIMIT 10000)";
const FORGET_DAYS: &str = "
DELETE FROM daily_count WHERE app_id = $1 AND day IN (
    SELECT day FROM daily_count WHERE app_id = $1 ORDER BY day LIMIT 10000)";
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
const FORGET_APP: [&str; 2] =
    ["DELETE FROM type_state WHERE app_id = $1", "DELETE FROM app WHERE app_id = $1"];

impl Store {
    /// The apps that have this name, or this SDKAppID, configured or not.
    pub async fn apps_called(&self, name: &str) -> Result<Vec<KnownApp>, StoreError> {
        reading!(self, on => query_as(APPS_CALLED).bind(name).fetch_all(on).await).attempted("look an app up")
    }

    /// How many rows there are of an app.
    pub async fn holdings(&self, app: AppId) -> Result<Holdings, StoreError> {
        reading!(self, on => query_as(HOLDINGS).bind(app.0).fetch_one(on).await)
            .attempted("count the rows of an app")
    }

    /// Removes an app and all its rows; the app itself last, so that what is broken off can be finished. Its lease must
    /// be held. `each` hears of every batch.
    pub async fn forget(
        &self,
        lease: &Lease,
        app: AppId,
        mut each: impl FnMut(u64),
    ) -> Result<(), StoreError> {
        self.remove(lease, app, &[FORGET_BASELINES]).await?;
        for statements in [&[FORGET_EVENTS][..], &[FORGET_DAYS], &FORGET_CRAWLS] {
            loop {
                match self.remove(lease, app, statements).await? {
                    0 => break,
                    removed => each(removed),
                }
            }
        }
        let mut after = String::new();
        while let Some(walked) = self.remove_groups(lease, app, &ALL_GROUPS, (&after, i64::MAX)).await? {
            each(walked.removed);
            after = walked.to;
        }
        self.remove(lease, app, &FORGET_APP).await?;
        Ok(())
    }

    /// Runs statements about an app in one transaction and returns how many rows the last of them changed.
    async fn remove(
        &self,
        lease: &Lease,
        app: AppId,
        statements: &[&'static str],
    ) -> Result<u64, StoreError> {
        const DOING: &str = "remove an app";
        writing!(self, DOING, |tx, dialect| {
            let mut changed = 0;
            for statement in statements {
                let done = query(*statement).bind(app.0).execute(&mut *tx).await.attempted(DOING)?;
                changed = done.rows_affected();
            }
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(changed)
        })
    }

    /// Removes the next groups after one; `None` if there are no more.
    async fn remove_groups(
        &self,
        lease: &Lease,
        app: AppId,
        doomed: &DoomedGroups,
        (after, before): (&str, i64),
    ) -> Result<Option<Walked<String>>, StoreError> {
        const DOING: &str = "remove groups";
        writing!(self, DOING, |tx, dialect| {
            let last: Option<String> = query_scalar(doomed.last)
                .bind(app.0)
                .bind(after)
                .bind(before)
                .fetch_one(&mut *tx)
                .await
                .attempted(DOING)?;
            let Some(last) = last else { return Ok(None) };
            let census: Vec<(i64, i64, i64, i64)> = query_as(doomed.census)
                .bind(app.0)
                .bind(after)
                .bind(before)
                .bind(&last)
                .fetch_all(&mut *tx)
                .await
                .attempted(DOING)?;
            let mut tally = Tally::default();
            for (type_id, live, missing, deleted) in census {
                let delta = tally.deltas.entry(TypeId(type_id)).or_default();
                delta.live -= live;
                delta.missing -= missing;
                delta.deleted -= deleted;
            }
            let deleting = query(doomed.delete).bind(app.0).bind(after).bind(before).bind(&last);
            let removed = deleting.execute(&mut *tx).await.attempted(DOING)?.rows_affected();
            // There are no changes in it, which would be a crawl's.
            keep_tally!(tx, app, CrawlId(0), tally, DOING);
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(Some(Walked { to: last, removed }))
        })
    }
}
