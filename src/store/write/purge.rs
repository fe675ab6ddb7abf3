//! Deletes rows of groups, up to 10,000 in each transaction, so that other writers do not wait
//! long. Each transaction updates the stored totals. After an interruption, the next call deletes
//! the remaining rows.

use super::tally::{Tally, stored_groups};
use crate::model::TypeId;
use crate::store::app::AppId;
use crate::store::engine::{StoreError, Tx, values};

/// The result of one batch.
pub(super) struct BatchDone<T> {
    /// The last id of the batch. The next batch starts after this id.
    pub(super) last_id: T,
    /// The number of removed rows.
    pub(super) removed: u64,
}

/// The statements that remove groups, 10,000 at a time.
pub(super) struct PurgeStatements {
    /// Finds the last id of the next batch.
    find_last_id: &'static str,
    /// Counts the live, missing and deleted groups of the batch by type.
    count_by_type: &'static str,
    delete_past_spans: &'static str,
    delete_details: &'static str,
    delete_groups: &'static str,
}

/// Builds the statements for groups that fulfil a condition. Parameters: `$1` the app, `$2` the
/// last id of the previous batch, `$3` a time, `$4` the last id of this batch.
macro_rules! purge_statements {
    ($condition:literal) => {
        PurgeStatements {
            find_last_id: concat!(
                "SELECT max(group_id) FROM (SELECT group_id FROM group_row WHERE app_id = $1 AND group_id > $2 AND ",
                $condition,
                " ORDER BY group_id LIMIT 10000) AS batch"
            ),
            count_by_type: concat!(
                "SELECT type_id, sum(CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END),
                        sum(CASE WHEN missing_since IS NULL THEN 0 ELSE 1 END),
                        sum(CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END)
                 FROM group_row WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND ",
                $condition,
                " GROUP BY type_id"
            ),
            delete_past_spans: concat!(
                "DELETE FROM past_span WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND group_id IN (
                     SELECT group_id FROM group_row WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND ",
                $condition,
                ")"
            ),
            delete_details: concat!(
                "DELETE FROM group_detail WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND group_id IN (
                     SELECT group_id FROM group_row WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND ",
                $condition,
                ")"
            ),
            delete_groups: concat!(
                "DELETE FROM group_row WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND ",
                $condition
            ),
        }
    };
}
/// Removes all groups of an app. `$3` must be `i64::MAX`. The condition uses `$3` only because both
/// sets of statements bind the same values.
pub(super) const ALL_GROUPS: PurgeStatements = purge_statements!("(deleted_at IS NULL OR deleted_at <= $3)");
/// Removes the groups that were marked deleted before `$3`.
pub(super) const LONG_DELETED: PurgeStatements = purge_statements!("deleted_at < $3");

/// Removes the next batch of groups, whose ids come after `after_id`. `removed_before` is the value
/// of `$3` in the statements. Returns `None` if no groups are left.
pub(super) async fn remove_groups(
    tx: &mut Tx,
    app: AppId,
    statements: &PurgeStatements,
    (after_id, removed_before): (&str, i64),
) -> Result<Option<BatchDone<String>>, StoreError> {
    // The search for the next batch may read all groups of the app. Reading a row takes at most a
    // twentieth of the time of writing it.
    let groups = stored_groups(tx, app).await?;
    tx.expect_rows(groups / 20).await?;
    let (last_id,): (Option<String>,) =
        tx.fetch_one(statements.find_last_id, &values![app.0, after_id, removed_before]).await?;
    let Some(last_id) = last_id else { return Ok(None) };
    let batch = values![app.0, after_id, removed_before, &last_id];
    let counts: Vec<(i64, i64, i64, i64)> = tx.fetch_all(statements.count_by_type, &batch).await?;
    let mut tally = Tally::default();
    for (type_id, live, missing, deleted) in counts {
        let totals = tally.totals(TypeId(type_id));
        totals.live -= live;
        totals.missing -= missing;
        totals.deleted -= deleted;
    }
    tx.execute(statements.delete_past_spans, &batch).await?;
    tx.execute(statements.delete_details, &batch).await?;
    let removed = tx.execute(statements.delete_groups, &batch).await?;
    tally.write_totals(tx, app).await?;
    Ok(Some(BatchDone { last_id, removed }))
}
