//! The lookup history (the table `group_question`): which groups earlier crawls looked up with
//! `get_group_info`, and in which round to look them up again. Rounds count the app's crawls that
//! reached their end.

use std::collections::BTreeMap;

use crate::confirmation::{LookupHistory, LookupRecord};
use crate::model::{GroupIds, TypeId};
use crate::store::app::AppId;
use crate::store::bulk;
use crate::store::engine::{Store, StoreError, Tx, values};

/// The maximum number of ids in one statement.
const IDS_PER_STATEMENT: usize = 20_000;

/// `group_row.held_as` of a group whose deletion was withheld.
pub(super) const HELD: &str = "w";
/// `group_row.held_as` of a group whose deletion was withheld, and of which the API has confirmed
/// that it is gone.
pub(super) const HELD_CONFIRMED: &str = "c";

/// The changes to the lookup history at the end of a crawl.
#[derive(Clone, Debug, Default)]
pub struct HistoryChanges {
    /// The round of the crawl.
    pub round: i64,
    /// The new records, each with the groups that have this record.
    pub new_records: BTreeMap<LookupRecord, GroupIds>,
    /// Groups that need no lookup any more.
    pub remove: GroupIds,
    /// Whether to remove the groups that are no longer live from the history.
    pub prune: bool,
    /// Held groups that the API has confirmed to be gone.
    pub confirmed_held: GroupIds,
}

const LAST_ROUND: &str = "SELECT round FROM app WHERE app_id = $1";
const LOOKUP_RECORDS: &str = "
SELECT group_id, stood, unlearned, round, again_in FROM group_question WHERE app_id = $1";
// Excludes groups whose deletion a person undid.
const HELD_TO_LOOK_UP: &str = "
SELECT g.group_id, g.type_id FROM group_row g
LEFT JOIN group_question q ON q.app_id = g.app_id AND q.group_id = g.group_id
WHERE g.app_id = $1 AND g.held_crawl_id IS NOT NULL AND g.held_as = 'w' AND coalesce(q.again_in, 0) <= $2
ORDER BY coalesce(q.round, 0), g.group_id LIMIT $3";
const PRUNE: &str = "
DELETE FROM group_question WHERE app_id = $1 AND NOT EXISTS (
    SELECT 1 FROM group_row g
    WHERE g.app_id = group_question.app_id AND g.group_id = group_question.group_id AND g.deleted_at IS NULL)";
const SET_ROUND: &str = "UPDATE app SET round = $2 WHERE app_id = $1 AND round < $2";

impl Store {
    /// Returns the lookup history of an app, and the round of the next crawl.
    pub async fn history(&self, app: AppId) -> Result<LookupHistory, StoreError> {
        const ACTION: &str = "read the lookup history";
        let last_round: Option<(i64,)> = self.fetch_optional(ACTION, LAST_ROUND, &values![app.0]).await?;
        let rows: Vec<(String, i64, i64, i64, i64)> =
            self.fetch_all(ACTION, LOOKUP_RECORDS, &values![app.0]).await?;
        let records = rows.into_iter().map(|(id, existing_streak, unusable_streak, round, due_round)| {
            (id, LookupRecord { existing_streak, unusable_streak, round, due_round })
        });
        Ok(LookupHistory { round: last_round.map_or(0, |(round,)| round) + 1, records: records.collect() })
    }

    /// Returns at most `limit` held groups that may be looked up in this round, with their types.
    /// Groups whose last lookup is oldest come first.
    pub async fn held_to_look_up(
        &self,
        app: AppId,
        round: i64,
        limit: usize,
    ) -> Result<Vec<(String, TypeId)>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(String, i64)> = self
            .fetch_all("read which held groups to look up", HELD_TO_LOOK_UP, &values![app.0, round, limit])
            .await?;
        Ok(rows.into_iter().map(|(id, type_id)| (id, TypeId(type_id))).collect())
    }
}

/// Writes the changes to the lookup history, in the transaction that closes a crawl.
pub(super) async fn write_history(
    tx: &mut Tx,
    app: AppId,
    history: &HistoryChanges,
) -> Result<(), StoreError> {
    for chunk in history.confirmed_held.sorted_chunks(IDS_PER_STATEMENT) {
        bulk::confirm_held(tx, app, &chunk).await?;
    }
    for (record, ids) in &history.new_records {
        for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
            bulk::save_lookup_history(tx, app, record, &chunk).await?;
        }
    }
    for chunk in history.remove.sorted_chunks(IDS_PER_STATEMENT) {
        bulk::remove_lookup_history(tx, app, &chunk).await?;
    }
    if history.prune {
        tx.execute(PRUNE, &values![app.0]).await?;
    }
    tx.execute(SET_ROUND, &values![app.0, history.round]).await?;
    Ok(())
}
