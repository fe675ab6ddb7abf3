//! Groups in doubt that were asked about, from one crawl to the next.

use std::collections::BTreeMap;

use super::apps::AppId;
use super::engine::{Store, query_as, query_scalar, reading};
use super::error::{Attempted as _, StoreError};
use crate::confirmation::{Asked, History};
use crate::model::{GroupIds, TypeId};

/// `group_row.held_as` of a group whose deletion was withheld.
pub(super) const HELD: &str = "w";
/// The same, and the API has confirmed that it is gone.
pub(super) const HELD_CONFIRMED: &str = "c";

/// How the history of questions changes at a crawl's end.
#[derive(Clone, Debug, Default)]
pub struct HistoryChanges {
    /// The round of the crawl.
    pub round: i64,
    pub set: BTreeMap<Asked, GroupIds>,
    /// Groups that are in doubt no more.
    pub remove: GroupIds,
    /// There may be groups in it that are no longer live.
    pub prune: bool,
    /// Held groups of which the API said that they are gone.
    pub confirmed_held: GroupIds,
}

const ROUND: &str = "SELECT round FROM app WHERE app_id = $1";
const QUESTIONS: &str = "
SELECT group_id, stood, unlearned, round, again_in FROM group_question WHERE app_id = $1";
// Groups whose deletion a person undid are left alone.
const HELD_TO_ASK: &str = "
SELECT g.group_id, g.type_id FROM group_row g
LEFT JOIN group_question q ON q.app_id = g.app_id AND q.group_id = g.group_id
WHERE g.app_id = $1 AND g.held_crawl_id IS NOT NULL AND g.held_as = 'w' AND coalesce(q.again_in, 0) <= $2
ORDER BY coalesce(q.round, 0), g.group_id LIMIT $3";
pub(super) const COUNT_CONFIRMED: &str = "
UPDATE crawl SET withheld_confirmed = (
    SELECT count(*) FROM group_row g
    WHERE g.app_id = $1 AND g.held_crawl_id = crawl.crawl_id AND g.held_as = 'c')
WHERE crawl_id IN (SELECT held_crawl_id FROM group_row WHERE app_id = $1 AND held_crawl_id IS NOT NULL)";
pub(super) const PRUNE: &str = "
DELETE FROM group_question WHERE app_id = $1 AND NOT EXISTS (
    SELECT 1 FROM group_row g
    WHERE g.app_id = group_question.app_id AND g.group_id = group_question.group_id AND g.deleted_at IS NULL)";
pub(super) const NEXT_ROUND: &str = "UPDATE app SET round = $2 WHERE app_id = $1 AND round < $2";

impl Store {
    /// What earlier crawls of an app asked about, and the round of the next one.
    pub async fn history(&self, app: AppId) -> Result<History, StoreError> {
        const DOING: &str = "read which groups are in doubt";
        let round: Option<i64> =
            reading!(self, on => query_scalar(ROUND).bind(app.0).fetch_optional(on).await)
                .attempted(DOING)?;
        let rows: Vec<(String, i64, i64, i64, i64)> =
            reading!(self, on => query_as(QUESTIONS).bind(app.0).fetch_all(on).await).attempted(DOING)?;
        let asked = rows
            .into_iter()
            .map(|(id, stood, unlearned, round, again_in)| (id, Asked { stood, unlearned, round, again_in }));
        Ok(History { round: round.unwrap_or(0) + 1, asked: asked.collect() })
    }

    /// Held groups that may be asked about in this round, longest unasked first: with their types.
    pub async fn held_to_ask(
        &self,
        app: AppId,
        round: i64,
        most: usize,
    ) -> Result<Vec<(String, TypeId)>, StoreError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let read = |(id, type_id): (String, i64)| (id, TypeId(type_id));
        let rows: Vec<(String, i64)> =
            reading!(self, on => query_as(HELD_TO_ASK).bind(app.0).bind(round).bind(most).fetch_all(on).await)
                .attempted("read which held groups to ask about")?;
        Ok(rows.into_iter().map(read).collect())
    }
}

/// Writes the changes of the history in the transaction that concludes a crawl.
macro_rules! keep_history {
    ($tx:expr, $dialect:ident, $app:expr, $history:expr, $doing:expr) => {
        for chunk in $history.confirmed_held.sorted_chunks(IDS_PER_STATEMENT) {
            let ids = $dialect::Ids::of(&chunk);
            $dialect::confirm_held(&mut $tx, $app, &ids).await.attempted($doing)?;
        }
        if !$history.confirmed_held.is_empty() {
            let counting = query(crate::store::questions::COUNT_CONFIRMED).bind($app.0);
            counting.execute(&mut *$tx).await.attempted($doing)?;
        }
        for (asked, ids) in &$history.set {
            for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
                let ids = $dialect::Ids::of(&chunk);
                $dialect::keep_question(&mut $tx, $app, asked, &ids).await.attempted($doing)?;
            }
        }
        for chunk in $history.remove.sorted_chunks(IDS_PER_STATEMENT) {
            let ids = $dialect::Ids::of(&chunk);
            $dialect::drop_questions(&mut $tx, $app, &ids).await.attempted($doing)?;
        }
        if $history.prune {
            query(crate::store::questions::PRUNE).bind($app.0).execute(&mut *$tx).await.attempted($doing)?;
        }
        let counting = query(crate::store::questions::NEXT_ROUND).bind($app.0).bind($history.round);
        counting.execute(&mut *$tx).await.attempted($doing)?;
    };
}
pub(super) use keep_history;
