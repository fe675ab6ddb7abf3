//! Removes rows: of an app that is forgotten, and those that are older than they need to be kept.
//!
//! A few thousand rows a transaction, so that others can write in between, and each of them leaves the kept totals
//! right. What is broken off goes on where it stopped: removed rows are not found again.

use chrono::{DateTime, NaiveDate, Utc};
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

/// Rows from before these times are removed; `None`: none are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgeLimits {
    /// By the time they were deleted.
    pub deleted_groups: Option<DateTime<Utc>>,
    pub events: Option<DateTime<Utc>>,
    /// Crawls and their passes by the time, counts of days by the day.
    pub counts: Option<(DateTime<Utc>, NaiveDate)>,
}

/// So many rows were removed for their age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub groups: u64,
    pub events: u64,
    /// Crawls, passes and types on a day.
    pub counts: u64,
}

/// When the last crawls before another one ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedBefore {
    /// The last one that reached its end.
    pub ended: Option<DateTime<Utc>>,
    /// The last complete one.
    pub completed: Option<DateTime<Utc>>,
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
const LONG_DELETED: DoomedGroups = doomed_groups!("deleted_at < $3");
const ANY_DELETED: &str = "SELECT count(*) FROM type_state WHERE app_id = $1 AND deleted_count > 0";

// Events come in the order of time, but for clocks that are set back: what these hide is found on a later day.
const NEXT_EVENTS: &str = "
SELECT max(event_id), min(occurred_at) FROM (
    SELECT event_id, occurred_at FROM group_event WHERE event_id > $1 ORDER BY event_id LIMIT 10000) AS stretch";
const OLD_EVENTS: &str =
    "DELETE FROM group_event WHERE app_id = $1 AND event_id > $2 AND event_id <= $3 AND occurred_at < $4";

const OLD_DAYS: &str = "DELETE FROM daily_count WHERE app_id = $1 AND day < $2";
const NEXT_CRAWLS: &str = "
SELECT max(crawl_id) FROM (
    SELECT crawl_id FROM crawl WHERE app_id = $1 AND crawl_id > $2 AND finished_at < $3 ORDER BY crawl_id LIMIT 1000) AS stretch";
/// Old crawls of a stretch, without those that the next crawl, or a person, will ask for.
macro_rules! old_crawls {
    ($statement:literal, $condition:literal) => {
        concat!(
            $statement,
            " WHERE crawl_id IN (
    SELECT c.crawl_id FROM crawl c
    WHERE c.app_id = $1 AND c.crawl_id > $2 AND c.finished_at < $3 AND c.crawl_id <= $4 AND c.crawl_id NOT IN (
        SELECT max(crawl_id) FROM crawl WHERE app_id = $1 GROUP BY status
        UNION ALL SELECT coalesce(max(crawl_id), 0) FROM crawl WHERE app_id = $1 AND leftover IS NOT NULL
        UNION ALL SELECT coalesce(baseline_crawl_id, 0) FROM type_state WHERE app_id = $1
        UNION ALL SELECT coalesce(concluded_crawl_id, 0) FROM type_state WHERE app_id = $1)",
            $condition,
            ")"
        )
    };
}
/// A crawl stays for as long as an event or a held group names it.
macro_rules! old_crawls_that_nothing_names {
    ($statement:literal) => {
        old_crawls!(
            $statement,
            " AND NOT EXISTS (SELECT 1 FROM group_event e WHERE e.crawl_id = c.crawl_id)
        AND NOT EXISTS (SELECT 1 FROM group_row g WHERE g.app_id = $1 AND g.held_crawl_id = c.crawl_id)"
        )
    };
}
/// With whether the rows count as removed ones.
const OLD_CRAWLS: [(&str, bool); 3] = [
    (old_crawls!("DELETE FROM crawl_pass", ""), true),
    (old_crawls_that_nothing_names!("DELETE FROM crawl_change"), false),
    (old_crawls_that_nothing_names!("DELETE FROM crawl"), true),
];
const NOTE: &str = "
UPDATE crawl SET purged_groups = purged_groups + $2, purged_events = purged_events + $3, purged_counts = purged_counts + $4
WHERE crawl_id = $1";
const ENDED_BEFORE: &str = "
SELECT (SELECT e.finished_at FROM crawl e WHERE e.app_id = $1 AND e.crawl_id < $2 AND e.status IN ('complete', 'incomplete')
        ORDER BY e.crawl_id DESC LIMIT 1),
       (SELECT c.finished_at FROM crawl c WHERE c.app_id = $1 AND c.crawl_id < $2 AND c.status = 'complete'
        ORDER BY c.crawl_id DESC LIMIT 1)";

/// Notes in the transaction that removed rows how many these were.
macro_rules! note {
    ($tx:expr, $crawl:expr, $purged:expr, $doing:expr) => {{
        let Purged { groups, events, counts } = $purged;
        if groups + events + counts > 0 {
            query(NOTE)
                .bind($crawl.0)
                .bind(groups.cast_signed())
                .bind(events.cast_signed())
                .bind(counts.cast_signed())
                .execute(&mut *$tx)
                .await
                .attempted($doing)?;
        }
    }};
}

// Crawled again before it is forgotten to the end, an app is like one that was never crawled.
const FORGET_BASELINES: &str = "UPDATE type_state SET baseline_crawl_id = NULL, concluded_crawl_id = NULL, concluded_at = NULL WHERE app_id = $1";
// By their crawls: no index of the events leads with the app.
const FORGET_EVENTS: &str = "
DELETE FROM group_event WHERE event_id IN (
    SELECT e.event_id FROM crawl c CROSS JOIN group_event e
    WHERE c.app_id = $1 AND e.crawl_id = c.crawl_id LIMIT 10000)";
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
const FORGET_APP: [&str; 3] = [
    "DELETE FROM group_question WHERE app_id = $1",
    "DELETE FROM type_state WHERE app_id = $1",
    "DELETE FROM app WHERE app_id = $1",
];

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
        while let Some(walked) = self.remove_groups(lease, app, &ALL_GROUPS, (&after, i64::MAX), None).await?
        {
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
        noted: Option<CrawlId>,
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
            if let Some(crawl) = noted {
                note!(tx, crawl, Purged { groups: removed, ..Purged::default() }, DOING);
            }
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(Some(Walked { to: last, removed }))
        })
    }

    /// When the crawls of an app before this one ended.
    pub async fn before(&self, app: AppId, crawl: CrawlId) -> Result<EndedBefore, StoreError> {
        let (ended, completed): (Option<i64>, Option<i64>) =
            reading!(self, on => query_as(ENDED_BEFORE).bind(app.0).bind(crawl.0).fetch_one(on).await)
                .attempted("read when the app was crawled last")?;
        let time = |millis: Option<i64>| millis.and_then(DateTime::from_timestamp_millis);
        Ok(EndedBefore { ended: time(ended), completed: time(completed) })
    }

    /// Removes the rows of an app that are older than this, and notes on a crawl how many these were. The app's lease
    /// must be held. `each` hears of every batch.
    pub async fn purge(
        &self,
        lease: &Lease,
        (app, crawl): (AppId, CrawlId),
        limits: &AgeLimits,
        mut each: impl FnMut(),
    ) -> Result<Purged, StoreError> {
        let mut purged = Purged::default();
        if let Some(before) = limits.deleted_groups
            && self.has_deleted(app).await?
        {
            let (mut after, before) = (String::new(), before.timestamp_millis());
            while let Some(walked) =
                self.remove_groups(lease, app, &LONG_DELETED, (&after, before), Some(crawl)).await?
            {
                purged.groups += walked.removed;
                after = walked.to;
                each();
            }
        }
        if let Some(before) = limits.events {
            let mut after = 0;
            while let Some(walked) = self.purge_events(lease, (app, crawl), after, before).await? {
                purged.events += walked.removed;
                after = walked.to;
                each();
            }
        }
        if let Some((before, day)) = limits.counts {
            purged.counts += self.purge_days(lease, (app, crawl), day).await?;
            let mut after = 0;
            while let Some(walked) = self.purge_crawls(lease, (app, crawl), after, before).await? {
                purged.counts += walked.removed;
                after = walked.to;
                each();
            }
        }
        Ok(purged)
    }

    async fn has_deleted(&self, app: AppId) -> Result<bool, StoreError> {
        let types: i64 = reading!(self, on => query_scalar(ANY_DELETED).bind(app.0).fetch_one(on).await)
            .attempted("read the kept totals")?;
        Ok(types > 0)
    }

    async fn purge_events(
        &self,
        lease: &Lease,
        (app, crawl): (AppId, CrawlId),
        after: i64,
        before: DateTime<Utc>,
    ) -> Result<Option<Walked<i64>>, StoreError> {
        const DOING: &str = "remove old events";
        let before = before.timestamp_millis();
        writing!(self, DOING, |tx, dialect| {
            let next: (Option<i64>, Option<i64>) =
                query_as(NEXT_EVENTS).bind(after).fetch_one(&mut *tx).await.attempted(DOING)?;
            let (Some(to), Some(oldest)) = next else { return Ok(None) };
            if oldest >= before {
                return Ok(None);
            }
            let deleting = query(OLD_EVENTS).bind(app.0).bind(after).bind(to).bind(before);
            let removed = deleting.execute(&mut *tx).await.attempted(DOING)?.rows_affected();
            note!(tx, crawl, Purged { events: removed, ..Purged::default() }, DOING);
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(Some(Walked { to, removed }))
        })
    }

    async fn purge_days(
        &self,
        lease: &Lease,
        (app, crawl): (AppId, CrawlId),
        day: NaiveDate,
    ) -> Result<u64, StoreError> {
        const DOING: &str = "remove old counts";
        writing!(self, DOING, |tx, dialect| {
            let deleting = query(OLD_DAYS).bind(app.0).bind(day.to_string());
            let counts = deleting.execute(&mut *tx).await.attempted(DOING)?.rows_affected();
            note!(tx, crawl, Purged { counts, ..Purged::default() }, DOING);
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(counts)
        })
    }

    async fn purge_crawls(
        &self,
        lease: &Lease,
        (app, crawl): (AppId, CrawlId),
        after: i64,
        before: DateTime<Utc>,
    ) -> Result<Option<Walked<i64>>, StoreError> {
        const DOING: &str = "remove old crawls";
        let before = before.timestamp_millis();
        writing!(self, DOING, |tx, dialect| {
            let next = query_scalar(NEXT_CRAWLS).bind(app.0).bind(after).bind(before);
            let to: Option<i64> = next.fetch_one(&mut *tx).await.attempted(DOING)?;
            let Some(to) = to else { return Ok(None) };
            let mut removed = 0;
            for (statement, counts) in OLD_CRAWLS {
                let deleting = query(statement).bind(app.0).bind(after).bind(before).bind(to);
                let rows = deleting.execute(&mut *tx).await.attempted(DOING)?.rows_affected();
                removed += if counts { rows } else { 0 };
            }
            note!(tx, crawl, Purged { counts: removed, ..Purged::default() }, DOING);
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(Some(Walked { to, removed }))
        })
    }
}
