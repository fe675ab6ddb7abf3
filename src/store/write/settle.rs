//! Applies withheld deletions, and undoes the deletions of a crawl. Neither calls the API.

use chrono::{DateTime, Utc};

use super::tally::Tally;
use crate::model::{CrawlId, LocalDay, SdkAppId, TypeId};
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// Which of a crawl's withheld deletions a person approves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    All,
    /// Only the deletions of groups that the API has confirmed to be gone.
    Confirmed,
}

impl Approval {
    /// Returns the value of `$3` in the statements of `held_groups!`.
    fn only_confirmed(self) -> i64 {
        i64::from(self == Self::Confirmed)
    }
}

/// A crawl and its deletions.
#[derive(Clone, Debug, sqlx_macros::FromRow)]
pub struct CrawlDeletions {
    app_id: i64,
    sdk_app_id: i64,
    pub app: String,
    pub status: String,
    /// What happened to the deletions, as in the view `crawls`.
    pub deletions: Option<String>,
    /// The number of deletions that the crawl withheld. After an undo, the number of the crawl's
    /// groups that were held then.
    pub withheld: i64,
    /// The number of groups that were marked deleted, by the crawl or by a later approval.
    pub vanished: i64,
    /// The number of deletions that were undone.
    pub undeleted: i64,
    started_at: i64,
}

impl CrawlDeletions {
    /// Returns the SDKAppID of the crawled app, or `None` if the number in the database is not
    /// valid.
    #[must_use]
    pub fn sdk_app_id(&self) -> Option<SdkAppId> {
        SdkAppId::new(self.sdk_app_id)
    }
}

const SELECT_CRAWL: &str = "
SELECT c.app_id, a.sdk_app_id, a.name AS app, c.status, c.deletions, c.withheld, c.vanished, c.undeleted, c.started_at
FROM crawl c JOIN app a ON a.app_id = c.app_id WHERE c.crawl_id = $1";
/// Builds a statement on the held groups of a crawl. The parameter `$3` selects among them: 0 for
/// all, 1 for those that the API has confirmed to be gone. `$after` follows the condition.
macro_rules! held_groups {
    ($statement:literal, $after:literal) => {
        concat!(
            $statement,
            " WHERE app_id = $1 AND held_crawl_id = $2 AND deleted_at IS NULL AND ($3 = 0 OR held_as = 'c')",
            $after
        )
    };
}
const HELD_GROUPS: &str = held_groups!("SELECT group_id, held_as = 'c' FROM group_row", " ORDER BY group_id");
const HELD_BY_TYPE: &str = held_groups!("SELECT type_id, count(*) FROM group_row", " GROUP BY type_id");
const RECORD_VANISHED: &str = held_groups!(
    "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
SELECT $4, $2, app_id, group_id, 'v', type_id FROM group_row",
    ""
);
const MARK_DELETED: &str = held_groups!(
    "UPDATE group_row SET deleted_at = $4, missing_since = NULL, held_crawl_id = NULL, held_as = NULL",
    ""
);
/// Adds the approved deletions to the record of the crawl. The crawl becomes `approved` only when
/// none of its groups is held any more.
const RECORD_APPROVAL: &str = "
UPDATE crawl SET vanished = vanished + $2,
    deletions = CASE WHEN deletions IS NULL OR EXISTS (
        SELECT 1 FROM group_row g WHERE g.app_id = crawl.app_id AND g.held_crawl_id = $1) THEN deletions ELSE 'approved' END
WHERE crawl_id = $1";

/// Builds a query for the groups whose last event is their deletion by this crawl.
macro_rules! deleted_by_crawl {
    ($select:literal, $after:literal) => {
        concat!(
            "SELECT ",
            $select,
            " FROM group_event e JOIN group_row g ON g.app_id = e.app_id AND g.group_id = e.group_id
WHERE e.crawl_id = $2 AND e.app_id = $1 AND e.kind = 'v' AND g.deleted_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM group_event l WHERE l.app_id = e.app_id AND l.group_id = e.group_id AND l.event_id > e.event_id)",
            $after
        )
    };
}
const DELETED_GROUPS: &str = deleted_by_crawl!("g.group_id", " ORDER BY g.group_id");
const DELETED_BY_TYPE: &str = deleted_by_crawl!("g.type_id, count(*)", " GROUP BY g.type_id");
const MARK_LIVE: &str = concat!(
    "UPDATE group_row SET deleted_at = NULL, missing_since = $3, held_crawl_id = $2, held_as = 'u' WHERE app_id = $1 AND group_id IN (",
    deleted_by_crawl!("g.group_id", ""),
    ")"
);
/// Records an event for each group that [`MARK_LIVE`] made live: the held groups of the crawl whose
/// last event is a deletion. The other held groups of the crawl were never marked deleted.
const RECORD_UNDELETED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type, new_type)
SELECT $3, $2, g.app_id, g.group_id, 'u', g.type_id, g.type_id FROM group_row g
WHERE g.app_id = $1 AND g.held_crawl_id = $2 AND 'v' = (
    SELECT l.kind FROM group_event l WHERE l.app_id = g.app_id AND l.group_id = g.group_id ORDER BY l.event_id DESC LIMIT 1)
ORDER BY g.group_id";
const RECORD_UNDO: &str = "
UPDATE crawl SET undeleted = undeleted + $3,
    deletions = CASE WHEN deletions IS NULL THEN NULL ELSE 'withheld' END,
    withheld = (SELECT count(*) FROM group_row WHERE app_id = $1 AND held_crawl_id = $2)
WHERE crawl_id = $2 AND $3 > 0";

/// Adds approved deletions to the counts of the day, and sets the day's live groups. An undo adds
/// 0, so it only sets the live groups.
const ADD_CHANGES_TO_DAY: &str = "
INSERT INTO daily_count (app_id, day, timezone, type_id, live_groups, vanished)
SELECT s.app_id, $2, $5, s.type_id, s.live_count, $4 FROM type_state s WHERE s.app_id = $1 AND s.type_id = $3
ON CONFLICT (app_id, day, type_id) DO UPDATE SET
    timezone = excluded.timezone, live_groups = excluded.live_groups, vanished = daily_count.vanished + excluded.vanished";

impl Store {
    /// Returns a crawl with the state of its deletions.
    pub async fn crawl_deletions(&self, crawl: CrawlId) -> Result<Option<CrawlDeletions>, StoreError> {
        self.fetch_optional("look up a crawl", SELECT_CRAWL, &values![crawl.0]).await
    }

    /// Returns the groups whose deletion a crawl withheld and that are still held. The flag of each
    /// group says whether the group is confirmed.
    pub async fn held_groups(
        &self,
        deletions: &CrawlDeletions,
        crawl: CrawlId,
        approval: Approval,
    ) -> Result<Vec<(String, bool)>, StoreError> {
        let values = values![deletions.app_id, crawl.0, approval.only_confirmed()];
        let rows: Vec<(String, Option<bool>)> =
            self.fetch_all("list the withheld deletions", HELD_GROUPS, &values).await?;
        Ok(rows.into_iter().map(|(id, confirmed)| (id, confirmed.unwrap_or(false))).collect())
    }

    /// Marks the groups deleted whose deletion a crawl withheld and that are still held. Returns
    /// their number. If a killed process left a crawl open, closes that crawl first. Requires the
    /// lease, because a running crawl has these groups in memory as live.
    pub async fn approve(
        &self,
        lease: &Lease,
        deletions: &CrawlDeletions,
        (crawl, approval): (CrawlId, Approval),
        at: DateTime<Utc>,
        day: LocalDay,
    ) -> Result<u64, StoreError> {
        self.prepare_for_events(lease, AppId(deletions.app_id), at, day).await?;
        let mut write = self.write("apply the withheld deletions", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let approved = approve(&mut tx, AppId(deletions.app_id), (crawl, approval), at, day).await;
            if let Some(done) = write.end(tx, approved).await {
                return done;
            }
        }
    }

    /// Returns the groups that a crawl marked deleted and that have not changed since.
    pub async fn deleted_groups(
        &self,
        deletions: &CrawlDeletions,
        crawl: CrawlId,
    ) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String,)> = self
            .fetch_all("list what a crawl deleted", DELETED_GROUPS, &values![deletions.app_id, crawl.0])
            .await?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Makes the groups live again that a crawl marked deleted and that have not changed since.
    /// Returns their number. The groups become missing and held, as if the crawl had withheld their
    /// deletion. If a killed process left a crawl open, closes that crawl first.
    pub async fn undelete(
        &self,
        lease: &Lease,
        deletions: &CrawlDeletions,
        crawl: CrawlId,
        at: DateTime<Utc>,
        day: LocalDay,
    ) -> Result<u64, StoreError> {
        self.prepare_for_events(lease, AppId(deletions.app_id), at, day).await?;
        let mut write = self.write("undo the deletions of a crawl", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let undone = undelete(&mut tx, deletions, crawl, at, day).await;
            if let Some(done) = write.end(tx, undone).await {
                return done;
            }
        }
    }
}

async fn approve(
    tx: &mut Tx,
    app: AppId,
    (crawl, approval): (CrawlId, Approval),
    at: DateTime<Utc>,
    day: LocalDay,
) -> Result<u64, StoreError> {
    let only_confirmed = approval.only_confirmed();
    let by_type: Vec<(i64, i64)> =
        tx.fetch_all(HELD_BY_TYPE, &values![app.0, crawl.0, only_confirmed]).await?;
    let mut tally = Tally::default();
    let mut approved = 0;
    for (type_id, groups) in by_type {
        let totals = tally.totals(TypeId(type_id));
        totals.live -= groups;
        totals.missing -= groups;
        totals.deleted += groups;
        tally.events(TypeId(type_id)).vanished += groups;
        approved += groups;
    }
    tx.expect_rows(approved.cast_unsigned()).await?;
    for statement in [RECORD_VANISHED, MARK_DELETED] {
        tx.execute(statement, &values![app.0, crawl.0, only_confirmed, at.timestamp_millis()]).await?;
    }
    tally.write(tx, app, crawl).await?;
    tx.execute(RECORD_APPROVAL, &values![crawl.0, approved]).await?;
    let date = day.date.to_string();
    for (type_id, events) in &tally.events {
        let values = values![app.0, &date, type_id.0, events.vanished, day.timezone];
        tx.execute(ADD_CHANGES_TO_DAY, &values).await?;
    }
    Ok(approved.cast_unsigned())
}

async fn undelete(
    tx: &mut Tx,
    deletions: &CrawlDeletions,
    crawl: CrawlId,
    at: DateTime<Utc>,
    day: LocalDay,
) -> Result<u64, StoreError> {
    let app = AppId(deletions.app_id);
    tx.expect_rows(deletions.vanished.cast_unsigned()).await?;
    let by_type: Vec<(i64, i64)> = tx.fetch_all(DELETED_BY_TYPE, &values![app.0, crawl.0]).await?;
    let mut tally = Tally::default();
    let mut undone = 0;
    for (type_id, groups) in by_type {
        let totals = tally.totals(TypeId(type_id));
        totals.live += groups;
        totals.missing += groups;
        totals.deleted -= groups;
        undone += groups;
    }
    // Each statement has the app, the crawl and one number of its own.
    for (statement, number) in
        [(MARK_LIVE, deletions.started_at), (RECORD_UNDELETED, at.timestamp_millis()), (RECORD_UNDO, undone)]
    {
        tx.execute(statement, &values![app.0, crawl.0, number]).await?;
    }
    tally.write(tx, app, crawl).await?;
    let date = day.date.to_string();
    for type_id in tally.totals.keys() {
        tx.execute(ADD_CHANGES_TO_DAY, &values![app.0, &date, type_id.0, 0, day.timezone]).await?;
    }
    Ok(undone.cast_unsigned())
}
