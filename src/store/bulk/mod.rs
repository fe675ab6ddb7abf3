//! The statements on thousands of group ids at once. Each has one text in `sqlite` and one in
//! `postgres`, under the same name.

mod postgres;
mod sqlite;

use chrono::{DateTime, Utc};

use super::app::AppId;
use super::engine::{Row, Statement, Store, StoreError, Tx, values};
use crate::confirmation::LookupRecord;
use crate::model::{CrawlId, GroupIds, TypeId};
use crate::reconcile::GroupBefore;

/// Listed groups of one type whose rows must change. Such a group is new, deleted, missing, or
/// stored with another type.
#[derive(Debug)]
pub struct ListedBatch<'a> {
    pub app: AppId,
    pub crawl: CrawlId,
    /// [`TypeId::UNKNOWN`] for the unfiltered pass, which does not change known types.
    pub type_id: TypeId,
    /// True until the baseline of this type has ended. New groups of a baseline have no `appeared`
    /// events.
    pub in_baseline: bool,
    /// When the groups were listed.
    pub at: DateTime<Utc>,
    /// The ids, without duplicates.
    pub ids: &'a GroupIds,
}

/// The listed groups whose rows must change and that had the same previous state.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangedGroups {
    pub(super) before: GroupBefore,
    pub(super) was_missing: bool,
    pub(super) group_count: i64,
}

/// The app, the type and the crawl for which groups are marked deleted, missing or held.
#[derive(Clone, Copy, Debug)]
pub(super) struct MarkScope {
    pub(super) app: AppId,
    pub(super) type_id: TypeId,
    pub(super) crawl: CrawlId,
}

/// Returns the ids that are in the table, each with its type and whether the group is deleted.
pub(super) async fn look_up(
    store: &Store,
    app: AppId,
    ids: &[&str],
) -> Result<Vec<(String, i64, bool)>, StoreError> {
    const LOOK_UP: Statement = Statement::PerEngine { sqlite: sqlite::LOOK_UP, postgres: postgres::LOOK_UP };
    store.fetch_all("look groups up", LOOK_UP, &values![app.0, ids]).await
}

/// Records an `appeared` event for each id that is not in the table yet. Returns the number of
/// events.
pub(super) async fn record_appeared(
    tx: &mut Tx,
    batch: &ListedBatch<'_>,
    ids: &[&str],
) -> Result<u64, StoreError> {
    const RECORD: Statement =
        Statement::PerEngine { sqlite: sqlite::RECORD_APPEARED, postgres: postgres::RECORD_APPEARED };
    let ListedBatch { app, crawl, type_id, at, .. } = batch;
    tx.execute(RECORD, &values![app.0, type_id.0, ids, at.timestamp_millis(), crawl.0]).await
}

/// Inserts the ids that are not in the table yet. Returns the number of inserted rows.
pub(super) async fn insert_unknown(
    tx: &mut Tx,
    batch: &ListedBatch<'_>,
    ids: &[&str],
) -> Result<u64, StoreError> {
    const INSERT: Statement =
        Statement::PerEngine { sqlite: sqlite::INSERT_UNKNOWN, postgres: postgres::INSERT_UNKNOWN };
    let ListedBatch { app, type_id, in_baseline, at, .. } = batch;
    let values = values![app.0, type_id.0, ids, *in_baseline, at.timestamp_millis()];
    // In a baseline all ids should be new. INSERT_ALL takes the server half the time of INSERT, but
    // fails if one of the ids exists. So it is tried first.
    if *in_baseline && tx.is_postgres() {
        tx.execute("SAVEPOINT insert_all", &[]).await?;
        match tx.execute(postgres::INSERT_ALL, &values).await {
            Ok(inserted) => {
                tx.execute("RELEASE SAVEPOINT insert_all", &[]).await?;
                return Ok(inserted);
            }
            Err(error) if error.is_unique_violation() => {
                tx.execute("ROLLBACK TO SAVEPOINT insert_all", &[]).await?;
            }
            Err(error) => return Err(error),
        }
    }
    tx.execute(INSERT, &values).await
}

/// Counts the listed groups that must change, by their previous state.
pub(super) async fn count_changed(
    tx: &mut Tx,
    batch: &ListedBatch<'_>,
    ids: &[&str],
) -> Result<Vec<ChangedGroups>, StoreError> {
    const COUNT: Statement =
        Statement::PerEngine { sqlite: sqlite::COUNT_CHANGED, postgres: postgres::COUNT_CHANGED };
    let rows: Vec<(i64, bool, bool, i64)> =
        tx.fetch_all(COUNT, &values![batch.app.0, batch.type_id.0, ids]).await?;
    let changed = |(type_id, deleted, was_missing, group_count)| ChangedGroups {
        before: GroupBefore { type_id: TypeId(type_id), deleted },
        was_missing,
        group_count,
    };
    Ok(rows.into_iter().map(changed).collect())
}

/// Marks listed groups live, sets their type, and clears their missing marks. Records the events,
/// and the past span of each group that reappears or changes its type.
pub(super) async fn change_listed(
    tx: &mut Tx,
    batch: &ListedBatch<'_>,
    ids: &[&str],
) -> Result<(), StoreError> {
    let ListedBatch { app, crawl, type_id, at, .. } = batch;
    let at = at.timestamp_millis();
    let values_with_crawl = values![app.0, type_id.0, ids, at, crawl.0];
    if tx.is_postgres() {
        tx.execute(postgres::CHANGE_LISTED, &values_with_crawl).await?;
    } else {
        tx.execute(sqlite::RECORD_CHANGED, &values_with_crawl).await?;
        tx.execute(sqlite::RECORD_PAST_SPANS, &values![app.0, type_id.0, ids, at]).await?;
        tx.execute(sqlite::CHANGE_LISTED, &values![app.0, type_id.0, ids, at]).await?;
    }
    Ok(())
}

/// Marks live groups of a type deleted, and records the events. Returns the number of marked
/// groups.
pub(super) async fn mark_vanished(
    tx: &mut Tx,
    MarkScope { app, type_id, crawl }: MarkScope,
    deleted_at_millis: i64,
    ids: &[&str],
) -> Result<u64, StoreError> {
    let values_with_crawl = values![app.0, type_id.0, ids, deleted_at_millis, crawl.0];
    if tx.is_postgres() {
        return tx.execute(postgres::MARK_VANISHED, &values_with_crawl).await;
    }
    tx.execute(sqlite::RECORD_VANISHED, &values_with_crawl).await?;
    tx.execute(sqlite::MARK_VANISHED, &values![app.0, type_id.0, ids, deleted_at_millis]).await
}

/// Marks live groups of a type missing. Returns the number of groups that were not missing before.
pub(super) async fn mark_missing(
    tx: &mut Tx,
    MarkScope { app, type_id, .. }: MarkScope,
    since_millis: i64,
    ids: &[&str],
) -> Result<u64, StoreError> {
    const MARK: Statement =
        Statement::PerEngine { sqlite: sqlite::MARK_MISSING, postgres: postgres::MARK_MISSING };
    tx.execute(MARK, &values![app.0, type_id.0, ids, since_millis]).await
}

/// Marks live groups of a type missing and held. `held_as` is the value for that column. Returns
/// the number of marked groups.
pub(super) async fn mark_withheld(
    tx: &mut Tx,
    MarkScope { app, type_id, crawl }: MarkScope,
    (since_millis, held_as): (i64, &str),
    ids: &[&str],
) -> Result<u64, StoreError> {
    const MARK: Statement =
        Statement::PerEngine { sqlite: sqlite::MARK_WITHHELD, postgres: postgres::MARK_WITHHELD };
    tx.execute(MARK, &values![app.0, type_id.0, ids, since_millis, crawl.0, held_as]).await
}

/// Marks held groups as confirmed. Adds their number to the record of the crawl that withheld them.
pub(super) async fn confirm_held(tx: &mut Tx, app: AppId, ids: &[&str]) -> Result<(), StoreError> {
    // COUNT runs first, because it counts only groups that are not confirmed yet.
    const COUNT: Statement = Statement::PerEngine {
        sqlite: sqlite::COUNT_NEWLY_CONFIRMED,
        postgres: postgres::COUNT_NEWLY_CONFIRMED,
    };
    const CONFIRM: Statement =
        Statement::PerEngine { sqlite: sqlite::CONFIRM_HELD, postgres: postgres::CONFIRM_HELD };
    for statement in [COUNT, CONFIRM] {
        tx.execute(statement, &values![app.0, ids]).await?;
    }
    Ok(())
}

/// Returns the stored details of the groups with these ids.
pub(super) async fn stored_details<R: Row>(
    tx: &mut Tx,
    app: AppId,
    ids: &[&str],
) -> Result<Vec<R>, StoreError> {
    const STORED: Statement =
        Statement::PerEngine { sqlite: sqlite::STORED_DETAILS, postgres: postgres::STORED_DETAILS };
    tx.fetch_all(STORED, &values![app.0, ids]).await
}

/// Inserts or replaces rows of details. `rows` is a JSON array. Ignores ids that are not in the
/// table of groups. Returns the number of written rows.
pub(super) async fn save_details(tx: &mut Tx, app: AppId, rows: &str) -> Result<u64, StoreError> {
    const SAVE: Statement =
        Statement::PerEngine { sqlite: sqlite::SAVE_DETAILS, postgres: postgres::SAVE_DETAILS };
    tx.execute(SAVE, &values![app.0, rows]).await
}

/// Stores the same lookup record for the groups with these ids.
pub(super) async fn save_lookup_history(
    tx: &mut Tx,
    app: AppId,
    record: &LookupRecord,
    ids: &[&str],
) -> Result<(), StoreError> {
    const SAVE: Statement =
        Statement::PerEngine { sqlite: sqlite::SAVE_LOOKUP_HISTORY, postgres: postgres::SAVE_LOOKUP_HISTORY };
    let LookupRecord { existing_streak, unusable_streak, round, due_round } = *record;
    tx.execute(SAVE, &values![app.0, ids, existing_streak, unusable_streak, round, due_round]).await?;
    Ok(())
}

/// Removes the lookup records of the groups with these ids.
pub(super) async fn remove_lookup_history(tx: &mut Tx, app: AppId, ids: &[&str]) -> Result<(), StoreError> {
    const REMOVE: Statement = Statement::PerEngine {
        sqlite: sqlite::REMOVE_LOOKUP_HISTORY,
        postgres: postgres::REMOVE_LOOKUP_HISTORY,
    };
    tx.execute(REMOVE, &values![app.0, ids]).await?;
    Ok(())
}
