//! Removes rows that are older than the configured ages.

use chrono::{DateTime, NaiveDate, Utc};

use super::purge::{self, BatchDone, LONG_DELETED};
use crate::model::CrawlId;
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// The times before which rows are removed. `None` keeps all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgeLimits {
    /// Compared with the time when a group was marked deleted.
    pub deleted_groups: Option<DateTime<Utc>>,
    /// Compared with the time of the event.
    pub events: Option<DateTime<Utc>>,
    /// The time applies to crawls and their passes. The day is the first one whose daily counts and
    /// statistics are kept.
    pub counts: Option<(DateTime<Utc>, NaiveDate)>,
}

/// The numbers of removed rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub groups: u64,
    pub events: u64,
    /// Rows of crawls, passes, daily counts and statistics of the API.
    pub counts: u64,
}

const COUNT_TYPES_WITH_DELETED: &str =
    "SELECT count(*) FROM type_state WHERE app_id = $1 AND deleted_count > 0";

/// Returns the last id and the oldest time of the next 10,000 events of all apps. The search ends
/// at the first batch without an old event. Ids are in the order of time, except where a clock was
/// set back: an old event in a later batch is removed on a later day.
const NEXT_EVENTS: &str = "
SELECT max(event_id), min(occurred_at) FROM (
    SELECT event_id, occurred_at FROM group_event WHERE event_id > $1 ORDER BY event_id LIMIT 10000) AS stretch";
const REMOVE_OLD_EVENTS: &str =
    "DELETE FROM group_event WHERE app_id = $1 AND event_id > $2 AND event_id <= $3 AND occurred_at < $4";

/// Records the time before which deleted groups are no longer in the table.
const SET_GROUPS_FROM: &str = "
UPDATE app SET groups_from = $2 WHERE app_id = $1 AND (groups_from IS NULL OR groups_from < $2)";
const LAST_OLD_EVENT: &str = "
SELECT max(event_id) FROM group_event WHERE app_id = $1 AND event_id > $2 AND event_id <= $3 AND occurred_at < $4";
const SET_LAST_REMOVED_EVENT: &str = "
UPDATE app SET last_removed_event = $2 WHERE app_id = $1 AND last_removed_event < $2";

const REMOVE_OLD_DAYS: &str = "DELETE FROM daily_count WHERE app_id = $1 AND day < $2";
const REMOVE_OLD_STATISTICS: &str = "DELETE FROM app_statistic WHERE app_id = $1 AND day < $2";
/// Returns the last id of the next 1,000 old crawls.
const NEXT_CRAWLS: &str = "
SELECT max(crawl_id) FROM (
    SELECT crawl_id FROM crawl WHERE app_id = $1 AND crawl_id > $2 AND finished_at < $3 ORDER BY crawl_id LIMIT 1000) AS stretch";
/// Builds a statement on the old crawls of a batch, except those that the next crawl or
/// `app_status` needs.
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
/// Like `old_crawls`, but also excludes crawls that an event or a held group references.
macro_rules! old_unreferenced_crawls {
    ($statement:literal) => {
        old_crawls!(
            $statement,
            " AND NOT EXISTS (SELECT 1 FROM group_event e WHERE e.crawl_id = c.crawl_id)
        AND NOT EXISTS (SELECT 1 FROM group_row g WHERE g.app_id = $1 AND g.held_crawl_id = c.crawl_id)"
        )
    };
}
/// The statements that remove a batch of crawls. The flag of each says whether its rows are
/// included in [`Purged::counts`].
const REMOVE_OLD_CRAWLS: [(&str, bool); 3] = [
    (old_crawls!("DELETE FROM crawl_pass", ""), true),
    (old_unreferenced_crawls!("DELETE FROM crawl_change"), false),
    (old_unreferenced_crawls!("DELETE FROM crawl"), true),
];
const RECORD_PURGED: &str = "
UPDATE crawl SET purged_groups = purged_groups + $2, purged_events = purged_events + $3, purged_counts = purged_counts + $4
WHERE crawl_id = $1";

impl Store {
    /// Removes the rows of an app that are older than these limits, in batches. Records their
    /// numbers with the crawl. `on_transaction` is called after each transaction, also after one
    /// that removed nothing, because each may have waited minutes for other writers.
    pub async fn purge(
        &self,
        lease: &Lease,
        (app, crawl): (AppId, CrawlId),
        limits: &AgeLimits,
        mut on_transaction: impl FnMut(),
    ) -> Result<Purged, StoreError> {
        let mut purged = Purged::default();
        let scope = PurgeScope { app, crawl };
        if let Some(removed_before) = limits.deleted_groups
            && self.has_deleted_groups(app).await?
        {
            let mut after_id = String::new();
            loop {
                let batch = self.purge_groups(lease, scope, &after_id, removed_before).await?;
                on_transaction();
                let Some(batch) = batch else { break };
                purged.groups += batch.removed;
                after_id = batch.last_id;
            }
        }
        if let Some(removed_before) = limits.events {
            let mut after_id = 0;
            loop {
                let batch = self.purge_events(lease, scope, after_id, removed_before).await?;
                on_transaction();
                let Some(batch) = batch else { break };
                purged.events += batch.removed;
                after_id = batch.last_id;
            }
        }
        if let Some((removed_before, first_kept_day)) = limits.counts {
            purged.counts += self.purge_days(lease, scope, first_kept_day).await?;
            on_transaction();
            let mut after_id = 0;
            loop {
                let batch = self.purge_crawls(lease, scope, after_id, removed_before).await?;
                on_transaction();
                let Some(batch) = batch else { break };
                purged.counts += batch.removed;
                after_id = batch.last_id;
            }
        }
        Ok(purged)
    }

    async fn has_deleted_groups(&self, app: AppId) -> Result<bool, StoreError> {
        let (types,): (i64,) = self
            .fetch_one("read the totals of the group types", COUNT_TYPES_WITH_DELETED, &values![app.0])
            .await?;
        Ok(types > 0)
    }

    async fn purge_groups(
        &self,
        lease: &Lease,
        scope: PurgeScope,
        after_id: &str,
        removed_before: DateTime<Utc>,
    ) -> Result<Option<BatchDone<String>>, StoreError> {
        let mut write = self.write("remove groups", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let purged = scope.purge_groups(&mut tx, after_id, removed_before.timestamp_millis()).await;
            if let Some(done) = write.end(tx, purged).await {
                return done;
            }
        }
    }

    async fn purge_events(
        &self,
        lease: &Lease,
        scope: PurgeScope,
        after_id: i64,
        removed_before: DateTime<Utc>,
    ) -> Result<Option<BatchDone<i64>>, StoreError> {
        let mut write = self.write("remove old events", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let purged = scope.purge_events(&mut tx, after_id, removed_before.timestamp_millis()).await;
            if let Some(done) = write.end(tx, purged).await {
                return done;
            }
        }
    }

    async fn purge_days(
        &self,
        lease: &Lease,
        scope: PurgeScope,
        first_kept_day: NaiveDate,
    ) -> Result<u64, StoreError> {
        let mut write = self.write("remove old counts", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let purged = scope.purge_days(&mut tx, first_kept_day).await;
            if let Some(done) = write.end(tx, purged).await {
                return done;
            }
        }
    }

    async fn purge_crawls(
        &self,
        lease: &Lease,
        scope: PurgeScope,
        after_id: i64,
        removed_before: DateTime<Utc>,
    ) -> Result<Option<BatchDone<i64>>, StoreError> {
        let mut write = self.write("remove old crawls", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let purged = scope.purge_crawls(&mut tx, after_id, removed_before.timestamp_millis()).await;
            if let Some(done) = write.end(tx, purged).await {
                return done;
            }
        }
    }
}

/// The app whose rows are removed, and the crawl that records their numbers.
#[derive(Clone, Copy)]
struct PurgeScope {
    app: AppId,
    crawl: CrawlId,
}

impl PurgeScope {
    async fn purge_groups(
        self,
        tx: &mut Tx,
        after_id: &str,
        removed_before: i64,
    ) -> Result<Option<BatchDone<String>>, StoreError> {
        let batch = purge::remove_groups(tx, self.app, &LONG_DELETED, (after_id, removed_before)).await?;
        let groups = batch.as_ref().map_or(0, |batch| batch.removed);
        if groups > 0 {
            tx.execute(SET_GROUPS_FROM, &values![self.app.0, removed_before]).await?;
        }
        self.add_to_crawl(tx, Purged { groups, ..Purged::default() }).await?;
        Ok(batch)
    }

    async fn purge_events(
        self,
        tx: &mut Tx,
        after_id: i64,
        removed_before: i64,
    ) -> Result<Option<BatchDone<i64>>, StoreError> {
        let next_batch: (Option<i64>, Option<i64>) = tx.fetch_one(NEXT_EVENTS, &values![after_id]).await?;
        let (Some(last_id), Some(oldest)) = next_batch else { return Ok(None) };
        if oldest >= removed_before {
            return Ok(None);
        }
        let range = values![self.app.0, after_id, last_id, removed_before];
        let (last_removed,): (Option<i64>,) = tx.fetch_one(LAST_OLD_EVENT, &range).await?;
        let mut removed = 0;
        if let Some(last_removed) = last_removed {
            removed = tx.execute(REMOVE_OLD_EVENTS, &range).await?;
            tx.execute(SET_LAST_REMOVED_EVENT, &values![self.app.0, last_removed]).await?;
        }
        self.add_to_crawl(tx, Purged { events: removed, ..Purged::default() }).await?;
        Ok(Some(BatchDone { last_id, removed }))
    }

    async fn purge_days(self, tx: &mut Tx, first_kept_day: NaiveDate) -> Result<u64, StoreError> {
        let day = first_kept_day.to_string();
        let mut counts = tx.execute(REMOVE_OLD_DAYS, &values![self.app.0, &day]).await?;
        counts += tx.execute(REMOVE_OLD_STATISTICS, &values![self.app.0, &day]).await?;
        self.add_to_crawl(tx, Purged { counts, ..Purged::default() }).await?;
        Ok(counts)
    }

    async fn purge_crawls(
        self,
        tx: &mut Tx,
        after_id: i64,
        removed_before: i64,
    ) -> Result<Option<BatchDone<i64>>, StoreError> {
        let (last_id,): (Option<i64>,) =
            tx.fetch_one(NEXT_CRAWLS, &values![self.app.0, after_id, removed_before]).await?;
        let Some(last_id) = last_id else { return Ok(None) };
        let mut removed = 0;
        for (statement, is_counted) in REMOVE_OLD_CRAWLS {
            let rows = tx.execute(statement, &values![self.app.0, after_id, removed_before, last_id]).await?;
            removed += if is_counted { rows } else { 0 };
        }
        self.add_to_crawl(tx, Purged { counts: removed, ..Purged::default() }).await?;
        Ok(Some(BatchDone { last_id, removed }))
    }

    /// Adds the numbers of removed rows to the record of the crawl.
    async fn add_to_crawl(self, tx: &mut Tx, purged: Purged) -> Result<(), StoreError> {
        let Purged { groups, events, counts } = purged;
        if groups + events + counts > 0 {
            let numbers = [groups, events, counts].map(u64::cast_signed);
            let values = values![self.crawl.0, numbers[0], numbers[1], numbers[2]];
            tx.execute(RECORD_PURGED, &values).await?;
        }
        Ok(())
    }
}
