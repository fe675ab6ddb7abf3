//! Deletes rows of groups, up to 10,000 in each transaction, so that other writers do not wait
//! long. Each transaction updates the stored totals. After an interruption, the next call deletes
//! the remaining rows.

use super::tally::{Tally, stored_groups};
use crate::model::TypeId;
use crate::store::app::AppId;
use crate::store::engine::{StoreError, Tx, values};

/// The result of one batch: the last key of the batch, after which the next one starts, and the
/// number of removed rows.
pub(super) struct BatchDone<T> {
    pub(super) last: T,
    pub(super) removed: u64,
}

/// The statements that remove groups, 10,000 at a time.
pub(super) struct PurgeStatements {
    /// Finds the last id of the next batch.
    last: &'static str,
    /// Counts the batch by type and state.
    count: &'static str,
    delete_past_spans: &'static str,
    delete_details: &'static str,
    delete: &'static str,
}

macro_rules! purge_statements {
    ($condition:literal) => {
        PurgeStatements {
            last: concat!(
                "SELECT max(group_id) FROM (SELECT group_id FROM group_row WHERE app_id = $1 AND group_id > $2 AND ",
                $condition,
                " ORDER BY group_id LIMIT 10000) AS batch"
            ),
            count: concat!(
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
            delete: concat!(
                "DELETE FROM group_row WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND ",
                $condition
            ),
        }
    };
}
/// Removes all groups of an app, if `$3` is `i64::MAX`. The condition uses `$3` so that both sets of
/// statements bind the same values.
pub(super) const ALL_GROUPS: PurgeStatements = purge_statements!("(deleted_at IS NULL OR deleted_at <= $3)");
/// Removes the groups that were marked deleted before `$3`.
pub(super) const LONG_DELETED: PurgeStatements = purge_statements!("deleted_at < $3");

/// Removes the next batch of groups, whose ids come after `after`. `before` is the value `$3` of the
/// statements. Returns `None` if there are no more groups.
pub(super) async fn remove_groups(
    tx: &mut Tx,
    app: AppId,
    statements: &PurgeStatements,
    (after, before): (&str, i64),
) -> Result<Option<BatchDone<String>>, StoreError> {
    // The search for the next batch may read all groups of the app. Reading takes a fraction of the
    // time of writing.
    let groups = stored_groups(tx, app).await?;
    tx.expect_rows(groups / 20).await?;
    let (last,): (Option<String>,) = tx.fetch_one(statements.last, &values![app.0, after, before]).await?;
    let Some(last) = last else { return Ok(None) };
    let batch = values![app.0, after, before, &last];
    let counts: Vec<(i64, i64, i64, i64)> = tx.fetch_all(statements.count, &batch).await?;
    let mut tally = Tally::default();
    for (type_id, live, missing, deleted) in counts {
        let totals = tally.totals(TypeId(type_id));
        totals.live -= live;
        totals.missing -= missing;
        totals.deleted -= deleted;
    }
    tx.execute(statements.delete_past_spans, &batch).await?;
    tx.execute(statements.delete_details, &batch).await?;
    let removed = tx.execute(statements.delete, &batch).await?;
    tally.write_totals(tx, app).await?;
    Ok(Some(BatchDone { last, removed }))
}
