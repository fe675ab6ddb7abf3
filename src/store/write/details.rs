//! Stores the details of groups, such as name and owner. Most groups are refreshed in ranges: all
//! live groups whose ids lie between two ids. One row records when a range was refreshed, so the
//! row of a group is rewritten only if a detail has changed.
//!
//! One process at a time refreshes the details of an app. A process claims them by storing its
//! name, and each transaction that stores details renews the claim. A claim expires after
//! [`CLAIM_SECONDS`], by the clock of the database server, or for SQLite by the clock of this
//! machine.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::model::GroupDetails;
use crate::store::app::AppId;
use crate::store::bulk;
use crate::store::engine::{Statement, Store, StoreError, Tx, values};
use crate::store::lease::Lease;
use crate::store::read::DueDetails;

/// The time after which an unrenewed claim expires.
const CLAIM_SECONDS: i64 = 60;
/// The maximum difference, in milliseconds, between the refresh times of consecutive ranges that
/// are merged into one.
const MERGE_MILLIS: i64 = 60_000;

/// The name with which a process claims details. Each process has another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetailsHolder(pub String);

/// The API's answers about groups whose details were due.
#[derive(Debug)]
pub struct AnsweredDetails {
    pub due: DueDetails,
    /// When the first request was sent.
    pub at: DateTime<Utc>,
    /// The ids of the groups with their details. `None` if there was no usable answer.
    pub answers: Vec<(String, Option<GroupDetails>)>,
}

/// A row of the table `group_detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx_macros::FromRow)]
struct DetailRow {
    group_id: String,
    name: Option<String>,
    owner: Option<String>,
    introduction: Option<String>,
    created_at: Option<i64>,
    last_message_at: Option<i64>,
    info_changed_at: Option<i64>,
    member_count: Option<i64>,
    max_member_count: Option<i64>,
    /// 0 if the last request had no usable answer about the group.
    is_answered: i64,
    /// When the details were requested. Read from the column `as_of` of the view
    /// `base_group_details`, which has the time of the group's range if that is later.
    #[sqlx(rename = "as_of")]
    fetched_at: i64,
}

/// Builds a statement that contains the current time in unix milliseconds between `$before` and
/// `$after`.
macro_rules! per_engine_time {
    ($before:literal, $after:literal) => {
        Statement::PerEngine {
            sqlite: concat!($before, "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", $after),
            postgres: concat!(
                $before,
                "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)",
                $after
            ),
        }
    };
}

/// Claims the details in one of three cases:
///
/// - This process has claimed them already.
/// - The claim of another process has expired.
/// - The claim expires later than a new claim would. Then the clock was fast when the claim was
///   made.
const CLAIM: Statement = per_engine_time!(
    "WITH clock AS (SELECT ",
    " AS now)
UPDATE detail_state SET holder = $2, held_until = (SELECT now FROM clock) + $3
WHERE app_id = $1 AND (holder = $2 OR held_until <= (SELECT now FROM clock) OR held_until > (SELECT now FROM clock) + $3)"
);
/// Creates the state of an app. `last_event_id` starts at the newest event: the first range
/// requests the details of all groups, so earlier events need not be read. SQLite requires `WHERE
/// true` to parse `ON CONFLICT` after a SELECT.
const CREATE_STATE: &str = "
INSERT INTO detail_state (app_id, holder, held_until, last_event_id)
SELECT $1, $2, 0, coalesce((SELECT max(event_id) FROM group_event WHERE app_id = $1), 0) WHERE true
ON CONFLICT (app_id) DO NOTHING";
/// Adds the first range, which has all ids and was never refreshed. A range has the ids after its
/// `after_id`, up to and including the `after_id` of the next range.
const CREATE_RANGE: &str = "
INSERT INTO detail_range (app_id, after_id, refreshed_at) VALUES ($1, '', 0)
ON CONFLICT (app_id, after_id) DO NOTHING";
const COUNT_STATES: &str = "SELECT count(*) FROM detail_state WHERE app_id = $1";
const SET_LAST_EVENT: &str =
    "UPDATE detail_state SET last_event_id = $2 WHERE app_id = $1 AND last_event_id < $2";

/// Returns the last range that starts before the id `$2`.
const RANGE_BEFORE: &str = "
SELECT after_id, refreshed_at FROM detail_range
WHERE app_id = $1 AND after_id < $2 ORDER BY after_id DESC LIMIT 1";
/// Returns the time of the last range that starts before or at the id `$2`.
const RANGE_AT: &str = "
SELECT refreshed_at FROM detail_range
WHERE app_id = $1 AND after_id <= $2 ORDER BY after_id DESC LIMIT 1";
/// Removes the ranges that start at an id from `$2` to `$3`, both included.
const REMOVE_RANGES: &str = "
DELETE FROM detail_range WHERE app_id = $1 AND after_id >= $2 AND after_id <= $3";
const REMOVE_LAST_RANGES: &str = "DELETE FROM detail_range WHERE app_id = $1 AND after_id >= $2";
const ADD_RANGE: &str = "INSERT INTO detail_range (app_id, after_id, refreshed_at) VALUES ($1, $2, $3)";

const COUNT_DETAILS: &str = "
SELECT count(*), count(*) FILTER (WHERE as_of >= $2), min(as_of)
FROM base_group_details WHERE app_id = $1 AND deleted_at IS NULL";
const SAVE_COUNT: &str = "
UPDATE detail_state SET known_count = $2, fresh_count = $3, oldest_as_of = $4, counted_at = $5 WHERE app_id = $1";

const REMOVE_DETAILS: &str = "
DELETE FROM group_detail WHERE app_id = $1 AND group_id IN (
    SELECT group_id FROM group_detail WHERE app_id = $1 ORDER BY group_id LIMIT 10000)";
const REMOVE_STATE: [&str; 2] =
    ["DELETE FROM detail_range WHERE app_id = $1", "DELETE FROM detail_state WHERE app_id = $1"];

impl Store {
    /// Claims the details of an app for this process, or renews its claim. Returns false if another
    /// process has claimed them.
    pub async fn claim_details(&self, app: AppId, holder: &DetailsHolder) -> Result<bool, StoreError> {
        let mut write = self.write("claim the details of an app", None);
        loop {
            let mut tx = write.begin().await?;
            let claimed = create_state_and_claim(&mut tx, app, holder).await;
            if let Some(done) = write.end(tx, claimed).await {
                return done;
            }
        }
    }

    /// Stores answers, records that their groups are no longer due, and renews the claim.
    /// Returns the number of written rows of details, or `None` if another process has claimed the
    /// details meanwhile.
    pub async fn write_details(
        &self,
        app: AppId,
        holder: &DetailsHolder,
        answered: &AnsweredDetails,
    ) -> Result<Option<u64>, StoreError> {
        let mut write = self.write("store details of groups", None);
        loop {
            let mut tx = write.begin().await?;
            let written = write_answers(&mut tx, app, holder, answered).await;
            if let Some(done) = write.end(tx, written).await {
                return done;
            }
        }
    }

    /// Stores details that a crawl received at `at`. Returns the number of written rows.
    pub async fn write_details_of_crawl(
        &self,
        lease: &Lease,
        app: AppId,
        at: DateTime<Utc>,
        details: &[(String, GroupDetails)],
    ) -> Result<u64, StoreError> {
        let answers = details.iter().map(|(id, details)| (id.as_str(), Some(details)));
        let answers: HashMap<&str, Option<&GroupDetails>> = answers.collect();
        let mut write = self.write("store details of groups", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let written = write_rows(&mut tx, app, at, &answers, Completeness::SomeGroups).await;
            if let Some(done) = write.end(tx, written).await {
                return done;
            }
        }
    }

    /// Counts the live groups with details, and those whose details were requested at `since` or
    /// later. Stores the counts, because counting reads all details of the app.
    pub async fn count_details(
        &self,
        app: AppId,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        const ACTION: &str = "count the details of groups";
        let (known, fresh, oldest): (i64, i64, Option<i64>) =
            self.fetch_one(ACTION, COUNT_DETAILS, &values![app.0, since.timestamp_millis()]).await?;
        let mut write = self.write(ACTION, None);
        loop {
            let mut tx = write.begin().await?;
            let counts = values![app.0, known, fresh, oldest, now.timestamp_millis()];
            let saved = tx.execute(SAVE_COUNT, &counts).await.map(|_| ());
            if let Some(done) = write.end(tx, saved).await {
                return done;
            }
        }
    }

    /// Returns whether details of the app's groups may be stored: from the first claim until all
    /// details were removed.
    pub async fn has_details(&self, app: AppId) -> Result<bool, StoreError> {
        let (states,): (i64,) =
            self.fetch_one("look for stored details", COUNT_STATES, &values![app.0]).await?;
        Ok(states > 0)
    }

    /// Removes all details of an app, in batches. Returns their number. `on_batch` is called after
    /// each batch.
    pub async fn remove_details(
        &self,
        lease: &Lease,
        app: AppId,
        mut on_batch: impl FnMut(),
    ) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let removed = self.remove_some_details(lease, app).await?;
            total += removed;
            on_batch();
            if removed == 0 {
                return Ok(total);
            }
        }
    }

    async fn remove_some_details(&self, lease: &Lease, app: AppId) -> Result<u64, StoreError> {
        let mut write = self.write("remove the details of groups", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let removed = remove_batch(&mut tx, app).await;
            if let Some(done) = write.end(tx, removed).await {
                return done;
            }
        }
    }
}

/// Removes a batch of details. If no details are left, removes the state and the ranges, so that a
/// later claim starts from scratch.
async fn remove_batch(tx: &mut Tx, app: AppId) -> Result<u64, StoreError> {
    let removed = tx.execute(REMOVE_DETAILS, &values![app.0]).await?;
    if removed == 0 {
        for statement in REMOVE_STATE {
            tx.execute(statement, &values![app.0]).await?;
        }
    }
    Ok(removed)
}

/// Creates the state of the app unless it exists, and claims the details.
async fn create_state_and_claim(tx: &mut Tx, app: AppId, holder: &DetailsHolder) -> Result<bool, StoreError> {
    tx.execute(CREATE_STATE, &values![app.0, &holder.0]).await?;
    tx.execute(CREATE_RANGE, &values![app.0]).await?;
    claim(tx, app, holder).await
}

/// Claims the details, or renews the claim. Returns false if another process has claimed them.
async fn claim(tx: &mut Tx, app: AppId, holder: &DetailsHolder) -> Result<bool, StoreError> {
    let values = values![app.0, &holder.0, CLAIM_SECONDS * 1000];
    Ok(tx.execute(CLAIM, &values).await? > 0)
}

async fn write_answers(
    tx: &mut Tx,
    app: AppId,
    holder: &DetailsHolder,
    AnsweredDetails { due, at, answers }: &AnsweredDetails,
) -> Result<Option<u64>, StoreError> {
    if !claim(tx, app, holder).await? {
        return Ok(None);
    }
    let answers: HashMap<&str, Option<&GroupDetails>> =
        answers.iter().map(|(id, details)| (id.as_str(), details.as_ref())).collect();
    let completeness = match due {
        DueDetails::Range { .. } => Completeness::Range,
        _ => Completeness::SomeGroups,
    };
    let written = write_rows(tx, app, *at, &answers, completeness).await?;
    match due {
        DueDetails::New { last_event, .. } => {
            tx.execute(SET_LAST_EVENT, &values![app.0, *last_event]).await?;
        }
        DueDetails::Range { after, to, .. } => {
            record_refreshed_range(tx, app, (after, to.as_deref()), at.timestamp_millis()).await?;
        }
        DueDetails::NotStarted | DueDetails::Nothing { .. } => {}
    }
    Ok(Some(written))
}

/// Whether the answered groups are all live groups of a range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completeness {
    /// All. The row of the range records when their details were requested, so rows whose details
    /// did not change are not written.
    Range,
    /// Some groups. Unchanged rows are written as well, because their `fetched_at` changes.
    SomeGroups,
}

/// Writes the rows of the answers. Returns the number of written rows.
async fn write_rows(
    tx: &mut Tx,
    app: AppId,
    at: DateTime<Utc>,
    answers: &HashMap<&str, Option<&GroupDetails>>,
    completeness: Completeness,
) -> Result<u64, StoreError> {
    let mut ids: Vec<&str> = answers.keys().copied().collect();
    ids.sort_unstable();
    let stored: Vec<DetailRow> = bulk::stored_details(tx, app, &ids).await?;
    let stored: HashMap<&str, &DetailRow> = stored.iter().map(|row| (row.group_id.as_str(), row)).collect();
    let to_write: Vec<DetailRow> = ids
        .iter()
        .filter_map(|id| {
            let stored = stored.get(id).copied();
            match answers.get(id).copied().flatten() {
                Some(details) => {
                    let row = DetailRow::new(id, details, at.timestamp_millis());
                    let is_unchanged = stored.is_some_and(|stored| row.has_same_details(stored));
                    let is_skipped = is_unchanged && completeness == Completeness::Range;
                    if is_skipped { None } else { Some(row) }
                }
                // Without a usable answer, the stored details are kept and marked as unanswered.
                None => stored.filter(|row| row.is_answered == 1).map(DetailRow::as_unanswered),
            }
        })
        .collect();
    if to_write.is_empty() {
        return Ok(0);
    }
    let rows = serde_json::to_string(&to_write).expect("texts and numbers always serialise");
    bulk::save_details(tx, app, &rows).await
}

/// Records that the details of the range from `after` (excluded) to `to` (included) were requested
/// at `at_millis`. The range replaces the parts of stored ranges that it overlaps.
async fn record_refreshed_range(
    tx: &mut Tx,
    app: AppId,
    (after, to): (&str, Option<&str>),
    at_millis: i64,
) -> Result<(), StoreError> {
    let preceding: Option<(String, i64)> = tx.fetch_optional(RANGE_BEFORE, &values![app.0, after]).await?;
    // If the preceding range was refreshed at about the same time, it is extended and keeps its
    // own, earlier time. Otherwise a new range is added below.
    let extends_preceding = preceding
        .is_some_and(|(_, refreshed_at)| (at_millis - MERGE_MILLIS..=at_millis).contains(&refreshed_at));
    match to {
        Some(to) => {
            // The ids after `to` keep the time of the range that contained them.
            let containing: Option<(i64,)> = tx.fetch_optional(RANGE_AT, &values![app.0, to]).await?;
            let (rest_refreshed_at,) = containing.unwrap_or_default();
            tx.execute(REMOVE_RANGES, &values![app.0, after, to]).await?;
            tx.execute(ADD_RANGE, &values![app.0, to, rest_refreshed_at]).await?;
        }
        None => {
            tx.execute(REMOVE_LAST_RANGES, &values![app.0, after]).await?;
        }
    }
    if !extends_preceding {
        tx.execute(ADD_RANGE, &values![app.0, after, at_millis]).await?;
    }
    Ok(())
}

impl DetailRow {
    fn new(id: &str, details: &GroupDetails, at_millis: i64) -> Self {
        let GroupDetails {
            name,
            owner,
            introduction,
            created_at,
            last_message_at,
            info_changed_at,
            member_count,
            max_member_count,
        } = details.clone();
        Self {
            group_id: id.to_owned(),
            name,
            owner,
            introduction,
            created_at,
            last_message_at,
            info_changed_at,
            member_count,
            max_member_count,
            is_answered: 1,
            fetched_at: at_millis,
        }
    }

    /// Compares all fields except the time.
    fn has_same_details(&self, stored: &Self) -> bool {
        *self == Self { fetched_at: self.fetched_at, ..stored.clone() }
    }

    /// Returns the row after a request without a usable answer. It keeps the details and their
    /// time.
    fn as_unanswered(&self) -> Self {
        Self { is_answered: 0, ..self.clone() }
    }
}
