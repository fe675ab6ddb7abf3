//! Reads the live groups of a PostgreSQL database.

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::totals::{AppTotals, TypeTotals};
use crate::model::TypeId;
use crate::roll::Mark;
use crate::store::app::AppId;
use crate::store::engine::{Server, query, query_as};

/// The number of table pages in a chunk: about 45,000 groups, which give 1 MB of text.
const CHUNK_PAGES: i64 = 500;
/// The maximum number of groups that are read in one result row: about 4 MB of text.
const MAX_GROUPS_IN_ONE_ROW: i64 = 150_000;
/// The maximum number of types for which [`ids_query`] builds one column each.
const MAX_TYPES: usize = 64;

const SELECT_TYPE_TOTALS: &str = "
SELECT type_id, live_count, missing_count, deleted_count FROM type_state
WHERE app_id = $1 AND live_count + deleted_count > 0";
const COUNT_GROUPS_OF_ALL_APPS: &str =
    "SELECT CAST(coalesce(sum(live_count + deleted_count), 0) AS BIGINT) FROM type_state";
/// Prevents just-in-time compilation. The planner overestimates the rows of a chunk a thousandfold,
/// so it would compile a statement that runs for milliseconds.
const WITHOUT_JIT: &str = "SET LOCAL jit = off";
/// Returns the missing groups, and whether each is held.
const SELECT_MISSING_GROUPS: &str = "
SELECT type_id, group_id, held_crawl_id IS NOT NULL FROM group_row
WHERE app_id = $1 AND deleted_at IS NULL AND missing_since IS NOT NULL";
/// Returns the live groups that are not missing, one per row.
const SELECT_LIVE_GROUPS: &str = "SELECT type_id, group_id FROM group_row WHERE app_id = $1 AND deleted_at IS NULL AND missing_since IS NULL";

/// How the live groups that are not missing are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadMethod {
    /// Reads the entire table in the order of its pages, with thousands of ids per result row.
    /// Takes half the time of one row per group, on the server and in this program.
    Chunks,
    /// Reads one result row. For a small app.
    OneRow,
    /// Reads one result row per group. For an app that is neither small nor a large part of the
    /// table.
    Rows,
}

impl ReadMethod {
    /// Chooses the method for an app with this number of groups and types.
    fn choose(groups: i64, groups_of_all_apps: i64, types: usize) -> Self {
        match groups {
            _ if types > MAX_TYPES => Self::Rows,
            _ if groups <= MAX_GROUPS_IN_ONE_ROW => Self::OneRow,
            _ if groups >= groups_of_all_apps / 4 => Self::Chunks,
            _ => Self::Rows,
        }
    }
}

/// Builds the query for live groups that are not missing. Each type has a column with its ids, one
/// per line.
fn ids_query(types: &[i64], method: ReadMethod, totals: AppTotals) -> String {
    let columns: Vec<String> = types
        .iter()
        .map(|type_id| format!("string_agg(group_id, E'\\n') FILTER (WHERE type_id = {type_id})"))
        .collect();
    let mut select = format!("SELECT {} FROM group_row WHERE ", columns.join(", "));
    select.push_str(match method {
        // `+ 0` prevents the planner from using the index, in which it would look up all groups of
        // the app for each chunk.
        ReadMethod::Chunks => "ctid >= first.row AND ctid < past.row AND app_id + 0 = $1",
        ReadMethod::OneRow | ReadMethod::Rows => "app_id = $1",
    });
    select.push_str(&totals.conditions());
    if method == ReadMethod::Chunks {
        return format!(
            "SELECT lines.*
             FROM generate_series($2, pg_relation_size('group_row') / CAST(current_setting('block_size') AS BIGINT),
                                  2 * {CHUNK_PAGES}) AS chunk (page),
                  LATERAL (SELECT CAST('(' || page || ',0)' AS tid) AS row) AS first,
                  LATERAL (SELECT CAST('(' || page + {CHUNK_PAGES} || ',0)' AS tid) AS row) AS past,
                  LATERAL ({select}) AS lines"
        );
    }
    select
}

/// Calls `for_each` with every live group of an app.
pub(super) async fn live_groups(
    server: &Server,
    app: AppId,
    mut for_each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), sqlx::Error> {
    let mut tx = server.begin_read_only().await?;
    let types: Vec<TypeTotals> = tx.fetch_all(query_as(SELECT_TYPE_TOTALS).bind(app.0), 0).await?;
    let (groups_of_all_apps,): (i64,) = tx.fetch_one(query_as(COUNT_GROUPS_OF_ALL_APPS)).await?;
    let totals = AppTotals::add_up(&types);
    if totals.live == 0 {
        return tx.commit().await;
    }
    // The server's limit covers the entire statement, which returns all groups.
    tx.expect_rows(totals.groups().cast_unsigned()).await?;
    let live_types = types.iter().filter(|totals| totals.live_count > 0);
    let types: Vec<i64> = live_types.map(|totals| totals.type_id).collect();
    let method = ReadMethod::choose(totals.groups(), groups_of_all_apps, types.len());
    // The only variable parts of the text are numbers.
    let ids_sql = || AssertSqlSafe(ids_query(&types, method, totals));
    let mut pass_on_row = |row: &PgRow| {
        for (column, type_id) in types.iter().enumerate() {
            let ids: Option<&str> = row.try_get(column)?;
            ids.unwrap_or_default().lines().for_each(|id| for_each(TypeId(*type_id), id, Mark::default()));
        }
        Ok::<_, sqlx::Error>(())
    };
    match method {
        ReadMethod::Chunks => {
            // Two connections read ahead while this program processes a chunk. Each reads every
            // second chunk. They have different snapshots, but the app's lease is held, so no other
            // process changes the groups between the snapshots.
            let mut second_tx = server.begin_read_only().await?;
            second_tx.expect_rows(totals.groups().cast_unsigned()).await?;
            tx.execute(query(WITHOUT_JIT), 0).await?;
            second_tx.execute(query(WITHOUT_JIT), 0).await?;
            let even_chunks = tx.fetch(query(ids_sql()).bind(app.0).bind(0_i64), 0);
            let odd_chunks = second_tx.fetch(query(ids_sql()).bind(app.0).bind(CHUNK_PAGES), 0);
            let mut chunks = futures_util::stream::select(even_chunks, odd_chunks);
            while let Some(chunk) = chunks.try_next().await? {
                pass_on_row(&chunk)?;
            }
            drop(chunks);
            second_tx.commit().await?;
        }
        ReadMethod::OneRow => {
            let mut rows = tx.fetch(query(ids_sql()).bind(app.0), 0);
            while let Some(row) = rows.try_next().await? {
                pass_on_row(&row)?;
            }
        }
        ReadMethod::Rows => {
            let mut rows = tx.fetch(query(SELECT_LIVE_GROUPS).bind(app.0), 0);
            while let Some(row) = rows.try_next().await? {
                for_each(TypeId(row.try_get(0)?), row.try_get(1)?, Mark::default());
            }
        }
    }
    if totals.missing > 0 {
        let mut rows = tx.fetch(query(SELECT_MISSING_GROUPS).bind(app.0), groups_of_all_apps.cast_unsigned());
        while let Some(row) = rows.try_next().await? {
            for_each(TypeId(row.try_get(0)?), row.try_get(1)?, Mark { missing: true, held: row.try_get(2)? });
        }
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_read_in_chunks_if_it_is_a_large_part_of_the_table_and_in_one_row_if_it_is_small() {
        assert_eq!(ReadMethod::choose(10_000_000, 10_000_000, 6), ReadMethod::Chunks);
        assert_eq!(ReadMethod::choose(1_000_000, 4_000_000, 6), ReadMethod::Chunks);
        assert_eq!(ReadMethod::choose(1_000_000, 40_000_000, 6), ReadMethod::Rows);
        assert_eq!(ReadMethod::choose(100_000, 5_000_000, 6), ReadMethod::OneRow);
        assert_eq!(ReadMethod::choose(100_000, 100_000, MAX_TYPES + 1), ReadMethod::Rows);
    }
}
