//! What PostgreSQL does its own way: statements over thousands of ids, bound as one array.
//!
//! Ids are looked up in the index one by one (`OFFSET 0`) and written by the places of their rows (`ctid`). Left to
//! itself the planner joins a chunk of 20,000 ids with a scan of the whole table, so that marking costs by the size of the
//! table: 1.4 s instead of 0.6 s a chunk at two million groups. Only the holder of the app's lease changes these rows, so
//! none moves between being found and being written.

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Row as _, Transaction};

use super::apps::AppId;
use super::engine::{query, query_as, query_scalar};
use super::groups::{Batch, Census, ListedBefore};
pub(super) use super::lease::confirm as confirm_lease;
use super::server::Server;
use crate::confirmation::Asked;
use crate::model::{CrawlId, TypeId};
use crate::roll::Mark;

type Tx<'a> = Transaction<'a, Postgres>;

/// Pages of the table in a chunk: some 45,000 groups, a text of 1 MB.
const CHUNK_PAGES: i64 = 500;
/// Groups of an app that are read as one text: some 4 MB.
const MOST_IN_ONE: i64 = 150_000;
/// Types that have a column of their own in a chunk.
const MOST_TYPES: usize = 64;

const TYPES: &str = "
SELECT type_id, live_count, missing_count, deleted_count FROM type_state
WHERE app_id = $1 AND live_count + deleted_count > 0";
const GROUPS_OF_ALL_APPS: &str =
    "SELECT CAST(coalesce(sum(live_count + deleted_count), 0) AS BIGINT) FROM type_state";
/// The planner takes chunks for a thousand times their work and would compile what runs for milliseconds.
const WITHOUT_JIT: &str = "SET LOCAL jit = off";
const MISSING_GROUPS: &str = "
SELECT type_id, group_id, held_crawl_id IS NOT NULL FROM group_row
WHERE app_id = $1 AND deleted_at IS NULL AND missing_since IS NOT NULL";
const LIVE_ROWS: &str = "SELECT type_id, group_id FROM group_row WHERE app_id = $1 AND deleted_at IS NULL AND missing_since IS NULL";

/// How the live groups of an app are read that are not missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The whole table, in the order of its pages, thousands of ids a row: half the work of a row a group, for the server
    /// and for this program.
    Chunks,
    /// One row for an app that is small.
    AtOnce,
    /// A row a group, for an app that is neither small nor a good part of the table.
    Rows,
}

impl Reading {
    fn of(groups: i64, groups_of_all_apps: i64, types: usize) -> Self {
        match groups {
            _ if types > MOST_TYPES => Self::Rows,
            _ if groups <= MOST_IN_ONE => Self::AtOnce,
            _ if groups >= groups_of_all_apps / 4 => Self::Chunks,
            _ => Self::Rows,
        }
    }
}

/// Live groups that are not missing: a column of lines for each type. What the kept totals say no group is, is not asked
/// of each.
fn live_lines(types: &[i64], reading: Reading, any_deleted: bool, any_missing: bool) -> String {
    let columns: Vec<String> = types
        .iter()
        .map(|type_id| format!("string_agg(group_id, E'\\n') FILTER (WHERE type_id = {type_id})"))
        .collect();
    let mut lines = format!("SELECT {} FROM group_row WHERE ", columns.join(", "));
    lines.push_str(match reading {
        // Adding nothing keeps the planner from looking all groups of the app up in the index for each chunk.
        Reading::Chunks => "ctid >= first.row AND ctid < past.row AND app_id + 0 = $1",
        Reading::AtOnce | Reading::Rows => "app_id = $1",
    });
    if any_deleted {
        lines.push_str(" AND deleted_at IS NULL");
    }
    if any_missing {
        lines.push_str(" AND missing_since IS NULL");
    }
    if reading == Reading::Chunks {
        return format!(
            "SELECT lines.*
             FROM generate_series($2, pg_relation_size('group_row') / CAST(current_setting('block_size') AS BIGINT),
                                  2 * {CHUNK_PAGES}) AS chunk (page),
                  LATERAL (SELECT CAST('(' || page || ',0)' AS tid) AS row) AS first,
                  LATERAL (SELECT CAST('(' || page + {CHUNK_PAGES} || ',0)' AS tid) AS row) AS past,
                  LATERAL ({lines}) AS lines"
        );
    }
    lines
}

/// Hands the live groups of an app to `each`, as they come.
pub(super) async fn live_groups(
    server: &Server,
    app: AppId,
    mut each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), sqlx::Error> {
    let mut tx = server.begin_to_read().await?;
    let totals: Vec<(i64, i64, i64, i64)> = query_as(TYPES).bind(app.0).fetch_all(&mut *tx).await?;
    let of_all_apps: i64 = query_scalar(GROUPS_OF_ALL_APPS).fetch_one(&mut *tx).await?;
    let sum = |of: fn(&(i64, i64, i64, i64)) -> i64| totals.iter().map(of).sum::<i64>();
    let (live, missing, deleted) = (sum(|of| of.1), sum(|of| of.2), sum(|of| of.3));
    if live == 0 {
        return tx.commit().await;
    }
    let types: Vec<i64> = totals.iter().filter(|of| of.1 > 0).map(|of| of.0).collect();
    let reading = Reading::of(live + deleted, of_all_apps, types.len());
    // Nothing but numbers is put into the text.
    let lines = || AssertSqlSafe(live_lines(&types, reading, deleted > 0, missing > 0));
    let mut hand_on = |row: &PgRow| {
        for (column, type_id) in types.iter().enumerate() {
            let ids: Option<&str> = row.try_get(column)?;
            ids.unwrap_or_default().lines().for_each(|id| each(TypeId(*type_id), id, Mark::default()));
        }
        Ok::<_, sqlx::Error>(())
    };
    match reading {
        Reading::Chunks => {
            // While one chunk is handed on, two connections prepare the next ones. Nobody changes these groups
            // meanwhile: the lease is held.
            let mut beside = server.begin_to_read().await?;
            query(WITHOUT_JIT).execute(&mut *tx).await?;
            query(WITHOUT_JIT).execute(&mut *beside).await?;
            let even = query(lines()).bind(app.0).bind(0_i64).fetch(&mut *tx);
            let odd = query(lines()).bind(app.0).bind(CHUNK_PAGES).fetch(&mut *beside);
            let mut chunks = futures_util::stream::select(even, odd);
            while let Some(chunk) = chunks.try_next().await? {
                hand_on(&chunk)?;
            }
            drop(chunks);
            beside.commit().await?;
        }
        Reading::AtOnce => hand_on(&query(lines()).bind(app.0).fetch_one(&mut *tx).await?)?,
        Reading::Rows => {
            let mut rows = query(LIVE_ROWS).bind(app.0).fetch(&mut *tx);
            while let Some(row) = rows.try_next().await? {
                each(TypeId(row.try_get(0)?), row.try_get(1)?, Mark::default());
            }
        }
    }
    if missing > 0 {
        let mut rows = query(MISSING_GROUPS).bind(app.0).fetch(&mut *tx);
        while let Some(row) = rows.try_next().await? {
            each(TypeId(row.try_get(0)?), row.try_get(1)?, Mark { missing: true, held: row.try_get(2)? });
        }
    }
    tx.commit().await
}

const KNOWN: &str = "
SELECT j.id, g.type_id, g.deleted
FROM unnest($2::text[]) AS j (id)
CROSS JOIN LATERAL (SELECT type_id, deleted_at IS NOT NULL AS deleted
                    FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g";

/// Those of these ids that are in the table, with their types and whether they are deleted.
pub(super) async fn known(
    server: &Server,
    app: AppId,
    ids: &Ids<'_>,
) -> Result<Vec<(String, i64, bool)>, sqlx::Error> {
    let mut tx = server.begin_to_read().await?;
    let known = query_as(KNOWN).bind(app.0).bind(ids.0).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(known)
}

const APPEARED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
SELECT $4, $5, $1, j.id, 'a', $2
FROM unnest($3::text[]) AS j (id)
LEFT JOIN LATERAL (SELECT true AS known FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g ON true
WHERE g.known IS NULL";

/// Writes an event for each id that is not in the table yet.
pub(super) async fn record_appeared(
    tx: &mut Tx<'_>,
    batch: &Batch<'_>,
    ids: &Ids<'_>,
) -> Result<u64, sqlx::Error> {
    let done = on_ids(APPEARED, (batch.app, batch.type_id), ids)
        .bind(batch.at_millis())
        .bind(batch.crawl.0)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

macro_rules! insert {
    ($after:literal) => {
        concat!(
            "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
             SELECT $1, j.id, $2, $4, $5, $5 FROM unnest($3::text[]) AS j (id)",
            $after
        )
    };
}
const INSERT: &str = insert!("");
const INSERT_OTHERS: &str = insert!(" ON CONFLICT (app_id, group_id) DO NOTHING");

/// Adds the ids that are not in the table yet and returns how many these were.
///
/// In a baseline all of them should be new, and not to ask about each takes half the server's time: only if one is known
/// all the same, of another type or from an earlier attempt, is the statement taken back and the question asked.
pub(super) async fn insert_unknown(
    tx: &mut Tx<'_>,
    batch: &Batch<'_>,
    ids: &Ids<'_>,
) -> Result<u64, sqlx::Error> {
    let insert =
        |sql| on_ids(sql, (batch.app, batch.type_id), ids).bind(batch.in_baseline).bind(batch.at_millis());
    if batch.in_baseline {
        let mut attempt = tx.begin().await?;
        match insert(INSERT).execute(&mut *attempt).await {
            Ok(done) => {
                attempt.commit().await?;
                return Ok(done.rows_affected());
            }
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => attempt.rollback().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(insert(INSERT_OTHERS).execute(&mut **tx).await?.rows_affected())
}

const CENSUS: &str = "
SELECT g.type_id, g.deleted, g.missing, count(*)
FROM unnest($3::text[]) AS j (id)
CROSS JOIN LATERAL (SELECT type_id, deleted_at IS NOT NULL AS deleted, missing_since IS NOT NULL AS missing
                    FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g
WHERE g.deleted OR g.missing OR ($2 <> 0 AND g.type_id <> $2)
GROUP BY 1, 2, 3";

/// Counts the listed groups that have to change, by what they were before.
pub(super) async fn census(
    tx: &mut Tx<'_>,
    batch: &Batch<'_>,
    ids: &Ids<'_>,
) -> Result<Vec<Census>, sqlx::Error> {
    let rows: Vec<(i64, bool, bool, i64)> =
        query_as(CENSUS).bind(batch.app.0).bind(batch.type_id.0).bind(ids.0).fetch_all(&mut **tx).await?;
    Ok(rows
        .into_iter()
        .map(|(type_id, deleted, missing, groups)| Census {
            before: ListedBefore { type_id: TypeId(type_id), deleted, missing },
            groups,
        })
        .collect())
}

const CHANGE: &str = "
WITH old AS (
    SELECT j.id, g.place, g.type_id, g.deleted_at
    FROM unnest($3::text[]) AS j (id)
    CROSS JOIN LATERAL (SELECT ctid AS place, type_id, deleted_at, missing_since
                        FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g
    WHERE g.deleted_at IS NOT NULL OR g.missing_since IS NOT NULL OR ($2 <> 0 AND g.type_id <> $2)
), changed AS (
    UPDATE group_row g
    SET type_id = CASE WHEN $2 = 0 THEN g.type_id ELSE $2 END,
        deleted_at = NULL, missing_since = NULL, held_crawl_id = NULL, held_as = NULL,
        last_seen_at = greatest(g.first_seen_at, $4)
    WHERE g.ctid = ANY (ARRAY(SELECT old.place FROM old))
)
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type, new_type)
SELECT $4, $5, $1, old.id, CASE WHEN old.deleted_at IS NULL THEN 't' ELSE 'r' END, old.type_id,
       CASE WHEN $2 = 0 THEN old.type_id ELSE $2 END
FROM old
WHERE old.deleted_at IS NOT NULL OR ($2 <> 0 AND old.type_id NOT IN (0, $2))
ORDER BY old.id";

/// Makes listed groups live, of the listed type and not missing, with the events that go with it.
pub(super) async fn change_listed(
    tx: &mut Tx<'_>,
    batch: &Batch<'_>,
    ids: &Ids<'_>,
) -> Result<(), sqlx::Error> {
    on_ids(CHANGE, (batch.app, batch.type_id), ids)
        .bind(batch.at_millis())
        .bind(batch.crawl.0)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// When a live group was last seen: since its type was last concluded, unless it is missing. Not after its deletion, even if
/// a clock was ahead.
const VANISH: &str = "
WITH vanished AS (
    UPDATE group_row g
    SET deleted_at = $4, missing_since = NULL, held_crawl_id = NULL, held_as = NULL,
        last_seen_at = greatest(g.first_seen_at, least($4, CASE WHEN g.missing_since IS NULL THEN greatest(g.last_seen_at,
            (SELECT s.concluded_at FROM type_state s WHERE s.app_id = $1 AND s.type_id = $2)) ELSE g.last_seen_at END))
    WHERE g.ctid = ANY (ARRAY(
        SELECT h.place FROM unnest($3::text[]) AS j (id) CROSS JOIN LATERAL (
            SELECT ctid AS place FROM group_row
            WHERE app_id = $1 AND group_id = j.id AND deleted_at IS NULL AND type_id = $2 OFFSET 0) h))
    RETURNING g.group_id
)
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
SELECT $4, $5, $1, group_id, 'v', $2 FROM vanished ORDER BY group_id";

/// Marks live groups of a type deleted, with their events, and returns how many.
pub(super) async fn mark_vanished(
    tx: &mut Tx<'_>,
    (app, type_id, crawl): (AppId, TypeId, CrawlId),
    at_millis: i64,
    ids: &Ids<'_>,
) -> Result<u64, sqlx::Error> {
    let done = on_ids(VANISH, (app, type_id), ids).bind(at_millis).bind(crawl.0).execute(&mut **tx).await?;
    Ok(done.rows_affected())
}

const MISSING: &str = "
UPDATE group_row g
SET missing_since = $4, last_seen_at = greatest(g.last_seen_at,
        (SELECT s.concluded_at FROM type_state s WHERE s.app_id = $1 AND s.type_id = $2))
WHERE g.ctid = ANY (ARRAY(
    SELECT h.place FROM unnest($3::text[]) AS j (id) CROSS JOIN LATERAL (
        SELECT ctid AS place FROM group_row
        WHERE app_id = $1 AND group_id = j.id AND deleted_at IS NULL AND missing_since IS NULL AND type_id = $2 OFFSET 0) h))";

/// Marks live groups of a type missing and returns how many were not before.
pub(super) async fn mark_missing(
    tx: &mut Tx<'_>,
    (app, type_id): (AppId, TypeId),
    since_millis: i64,
    ids: &Ids<'_>,
) -> Result<u64, sqlx::Error> {
    let done = on_ids(MISSING, (app, type_id), ids).bind(since_millis).execute(&mut **tx).await?;
    Ok(done.rows_affected())
}

const WITHHELD: &str = "
UPDATE group_row g
SET held_crawl_id = $5, held_as = $6, missing_since = coalesce(g.missing_since, $4),
    last_seen_at = CASE WHEN g.missing_since IS NULL THEN greatest(g.last_seen_at,
        (SELECT s.concluded_at FROM type_state s WHERE s.app_id = $1 AND s.type_id = $2)) ELSE g.last_seen_at END
WHERE g.ctid = ANY (ARRAY(
    SELECT h.place FROM unnest($3::text[]) AS j (id) CROSS JOIN LATERAL (
        SELECT ctid AS place FROM group_row
        WHERE app_id = $1 AND group_id = j.id AND deleted_at IS NULL AND held_crawl_id IS NULL AND type_id = $2 OFFSET 0) h))";

/// Marks live groups of a type missing and held, for a person to decide on, and returns how many.
pub(super) async fn mark_withheld(
    tx: &mut Tx<'_>,
    (app, type_id, crawl): (AppId, TypeId, CrawlId),
    (since_millis, held_as): (i64, &'static str),
    ids: &Ids<'_>,
) -> Result<u64, sqlx::Error> {
    let marking = on_ids(WITHHELD, (app, type_id), ids).bind(since_millis).bind(crawl.0).bind(held_as);
    Ok(marking.execute(&mut **tx).await?.rows_affected())
}

const CONFIRM_HELD: &str = "
UPDATE group_row SET held_as = 'c' WHERE app_id = $1 AND group_id = ANY ($2::text[]) AND held_as = 'w'";

/// Marks held groups as confirmed to be gone.
pub(super) async fn confirm_held(tx: &mut Tx<'_>, app: AppId, ids: &Ids<'_>) -> Result<(), sqlx::Error> {
    query(CONFIRM_HELD).bind(app.0).bind(ids.0).execute(&mut **tx).await?;
    Ok(())
}

const KEEP_QUESTION: &str = "
INSERT INTO group_question (app_id, group_id, stood, unlearned, round, again_in)
SELECT $1, j.id, $3, $4, $5, $6 FROM unnest($2::text[]) AS j (id)
ON CONFLICT (app_id, group_id) DO UPDATE SET
    stood = excluded.stood, unlearned = excluded.unlearned, round = excluded.round, again_in = excluded.again_in";

/// Keeps what was learned about groups in doubt.
pub(super) async fn keep_question(
    tx: &mut Tx<'_>,
    app: AppId,
    asked: &Asked,
    ids: &Ids<'_>,
) -> Result<(), sqlx::Error> {
    let keeping = query(KEEP_QUESTION).bind(app.0).bind(ids.0).bind(asked.stood).bind(asked.unlearned);
    keeping.bind(asked.round).bind(asked.again_in).execute(&mut **tx).await?;
    Ok(())
}

const DROP_QUESTIONS: &str = "DELETE FROM group_question WHERE app_id = $1 AND group_id = ANY ($2::text[])";

/// Forgets groups that are in doubt no more.
pub(super) async fn drop_questions(tx: &mut Tx<'_>, app: AppId, ids: &Ids<'_>) -> Result<(), sqlx::Error> {
    query(DROP_QUESTIONS).bind(app.0).bind(ids.0).execute(&mut **tx).await?;
    Ok(())
}

/// A statement about ids of one type of an app: its first three binds, which all of them share.
fn on_ids<'q>(
    sql: &'static str,
    (app, type_id): (AppId, TypeId),
    ids: &Ids<'q>,
) -> Query<'q, Postgres, PgArguments> {
    query(sql).bind(app.0).bind(type_id.0).bind(ids.0)
}

/// A list of ids as this engine binds it.
pub(super) struct Ids<'a>(&'a [&'a str]);

impl<'a> Ids<'a> {
    pub(super) fn of(ids: &'a [&'a str]) -> Self {
        Self(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_read_by_chunks_if_it_is_a_good_part_of_the_table_and_at_once_if_it_is_small() {
        assert_eq!(Reading::of(10_000_000, 10_000_000, 6), Reading::Chunks);
        assert_eq!(Reading::of(1_000_000, 4_000_000, 6), Reading::Chunks);
        assert_eq!(Reading::of(1_000_000, 40_000_000, 6), Reading::Rows);
        assert_eq!(Reading::of(100_000, 5_000_000, 6), Reading::AtOnce);
        assert_eq!(Reading::of(100_000, 100_000, MOST_TYPES + 1), Reading::Rows);
    }
}
