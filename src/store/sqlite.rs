//! What SQLite does its own way: statements over thousands of ids, bound as one JSON list.
//!
//! The row-at-a-time alternative costs five times as much, because every statement crosses to the driver's thread.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite, SqlitePool, Transaction};

use super::apps::AppId;
use super::engine::{SqliteFile, query, query_as, query_scalar};
use super::error::StoreError;
use super::groups::{Batch, Census, ListedBefore};
use super::lease::Lease;
use crate::confirmation::Asked;
use crate::model::{CrawlId, TypeId};
use crate::roll::Mark;

type Tx<'a> = Transaction<'a, Sqlite>;

/// The id of the group that ends a chunk of `?3` rows after `?2`.
const CHUNK_END: &str = "
SELECT group_id FROM group_row WHERE app_id = ?1 AND group_id > ?2 ORDER BY group_id LIMIT 1 OFFSET ?3 - 1";

/// Rows in a chunk.
const CHUNK: usize = 10_000;

/// Where chunks ended when they were counted last. Any ends make a whole; these make chunks of about the same size.
const KNOWN_ENDS: &str = "SELECT chunk_ends FROM app WHERE app_id = ?1";
const KEEP_ENDS: &str = "UPDATE app SET chunk_ends = ?2 WHERE app_id = ?1";

/// What an app has of each type, the most frequent first.
const TYPES: &str = "
SELECT type_id, live_count, missing_count, deleted_count FROM type_state
WHERE app_id = ?1 AND live_count + deleted_count > 0 ORDER BY live_count DESC";

/// The live groups that are not missing, with ids after `?2` up to `?3`, as one text: before each id two control
/// characters that stand for its type. Ids have none, and one long text is three times as fast as a row a group. The
/// separator comes from constants, because a function called for each row would double the time; and what the kept
/// totals say no group is, is not asked of each.
fn live_text(types: &[i64], any_deleted: bool, any_missing: bool) -> String {
    let mut code = "CASE type_id".to_owned();
    for type_id in types {
        code.extend([" WHEN ", &type_id.to_string(), " THEN '", &type_code(*type_id), "'"]);
    }
    code.push_str(" END");
    let mut range = "app_id = ?1 AND group_id > ?2 AND group_id <= ifnull(?3, x'')".to_owned();
    if any_deleted {
        range.push_str(" AND deleted_at IS NULL");
    }
    if any_missing {
        range.push_str(" AND missing_since IS NULL");
    }
    // group_concat leaves the first separator out.
    format!(
        "SELECT (SELECT {code} FROM group_row WHERE {range} ORDER BY group_id LIMIT 1) || group_concat(group_id, {code})
         FROM group_row WHERE {range}"
    )
}

/// As many as two characters can stand for.
const MOST_TYPES: i64 = 30 * 30;

/// Two characters from U+0001 to U+001E.
fn type_code(type_id: i64) -> String {
    let digit = |number: i64| char::from(u8::try_from(number % 30).unwrap_or(0) + 1);
    [digit(type_id / 30), digit(type_id)].iter().collect()
}

fn type_of_code(code: &[u8]) -> TypeId {
    TypeId((i64::from(code[0]) - 1) * 30 + i64::from(code[1]) - 1)
}

const MISSING_GROUPS: &str = "
SELECT type_id, group_id, held_crawl_id IS NOT NULL FROM group_row
WHERE app_id = ?1 AND deleted_at IS NULL AND missing_since IS NOT NULL";

/// Hands every live group of an app to `each`.
pub(super) async fn live_groups(
    file: &SqliteFile,
    app: AppId,
    mut each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), sqlx::Error> {
    let pool = &file.readers;
    let types: Vec<(i64, i64, i64, i64)> = query_as(TYPES).bind(app.0).fetch_all(pool).await?;
    let sum = |of: fn(&(i64, i64, i64, i64)) -> i64| types.iter().map(of).sum::<i64>();
    let (live, missing, deleted) = (sum(|of| of.1), sum(|of| of.2), sum(|of| of.3));
    if live == 0 {
        return Ok(());
    }
    let types: Vec<i64> = types.iter().map(|of| of.0).collect();
    if types.iter().any(|type_id| !(0..MOST_TYPES).contains(type_id)) {
        return Err(sqlx::Error::Protocol(format!("more than {MOST_TYPES} group types")));
    }
    let ends = chunk_ends(file, app, usize::try_from(live + deleted).unwrap_or(0)).await?;
    let sql: Arc<str> = live_text(&types, deleted > 0, missing > 0).into();
    let starts = std::iter::once(String::new()).chain(ends.iter().cloned());
    let until = ends.iter().cloned().map(Some).chain([None]);
    let ranges: Vec<(String, Option<String>)> = starts.zip(until).collect();
    // Two chunks are read, on connections of their own, while the one before them is handed on.
    let mut chunks = futures_util::stream::iter(ranges)
        .map(|(after, end)| read_chunk(pool.clone(), Arc::clone(&sql), app, after, end))
        .buffered(2);
    let mut largest = 0;
    while let Some(chunk) = chunks.try_next().await? {
        largest = largest.max(hand_on(chunk.as_deref(), &mut each));
    }
    if largest > 4 * CHUNK {
        // Groups have come mostly in one place; the next time the ends are counted anew.
        keep_ends(file, app, None).await;
    }
    if missing > 0 {
        let mut rows = query(MISSING_GROUPS).bind(app.0).fetch(pool);
        while let Some(row) = rows.try_next().await? {
            each(TypeId(row.try_get(0)?), row.try_get(1)?, Mark { missing: true, held: row.try_get(2)? });
        }
    }
    Ok(())
}

async fn read_chunk(
    pool: SqlitePool,
    sql: Arc<str>,
    app: AppId,
    after: String,
    end: Option<String>,
) -> Result<Option<String>, sqlx::Error> {
    // Nothing but numbers from the database was put into the text.
    query_scalar(sqlx::AssertSqlSafe(&*sql)).bind(app.0).bind(after).bind(end).fetch_one(&pool).await
}

/// Ids that cut an app's `rows` groups into chunks: those known from an earlier time, unless their number no longer fits.
/// Counting anew costs a quarter of the time that reading takes.
async fn chunk_ends(file: &SqliteFile, app: AppId, rows: usize) -> Result<Vec<String>, sqlx::Error> {
    let known: Option<String> = query_scalar(KNOWN_ENDS).bind(app.0).fetch_one(&file.readers).await?;
    let known: Vec<String> = known.iter().flat_map(|ends| ends.lines()).map(str::to_owned).collect();
    let wanted = rows / CHUNK;
    if (wanted / 2..=wanted * 2).contains(&known.len()) {
        return Ok(known);
    }
    let mut ends: Vec<String> = Vec::with_capacity(wanted);
    loop {
        let after = ends.last().map_or("", String::as_str);
        let chunk = i64::try_from(CHUNK).unwrap_or(i64::MAX);
        let end: Option<String> =
            query_scalar(CHUNK_END).bind(app.0).bind(after).bind(chunk).fetch_optional(&file.readers).await?;
        let Some(end) = end else { break };
        ends.push(end);
    }
    keep_ends(file, app, Some(ends.join("\n"))).await;
    Ok(ends)
}

async fn keep_ends(file: &SqliteFile, app: AppId, ends: Option<String>) {
    // They save time and nothing else: without them the next crawl counts again.
    let _ = query(KEEP_ENDS).bind(app.0).bind(ends).execute(&file.writer).await;
}

/// Hands a chunk's groups on and counts them.
fn hand_on(chunk: Option<&str>, each: &mut impl FnMut(TypeId, &str, Mark)) -> usize {
    let mut rest = chunk.unwrap_or_default();
    let mut groups = 0;
    while let Some((code, tail)) = rest.split_at_checked(2) {
        let length = tail.bytes().position(|byte| byte < 0x20).unwrap_or(tail.len());
        let (id, next) = tail.split_at(length);
        each(type_of_code(code.as_bytes()), id, Mark::default());
        groups += 1;
        rest = next;
    }
    groups
}

const KNOWN: &str = "
SELECT g.group_id, g.type_id, g.deleted_at IS NOT NULL
FROM json_each(?2) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value";

/// Those of these ids that are in the table, with their types and whether they are deleted.
pub(super) async fn known(
    file: &SqliteFile,
    app: AppId,
    ids: &Ids,
) -> Result<Vec<(String, i64, bool)>, sqlx::Error> {
    query_as(KNOWN).bind(app.0).bind(&ids.0).fetch_all(&file.readers).await
}

const APPEARED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
SELECT ?4, ?5, ?1, j.value, 'a', ?2 FROM json_each(?3) j
WHERE NOT EXISTS (SELECT 1 FROM group_row g WHERE g.app_id = ?1 AND g.group_id = j.value)";

/// Writes an event for each id that is not in the table yet.
pub(super) async fn record_appeared(
    tx: &mut Tx<'_>,
    batch: &Batch<'_>,
    ids: &Ids,
) -> Result<u64, sqlx::Error> {
    let done = on_ids(APPEARED, (batch.app, batch.type_id), ids)
        .bind(batch.at_millis())
        .bind(batch.crawl.0)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

const INSERT: &str = "
INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
SELECT ?1, j.value, ?2, ?4, ?5, ?5 FROM json_each(?3) j WHERE true
ON CONFLICT (app_id, group_id) DO NOTHING";

/// Adds the ids that are not in the table yet and returns how many these were.
pub(super) async fn insert_unknown(
    tx: &mut Tx<'_>,
    batch: &Batch<'_>,
    ids: &Ids,
) -> Result<u64, sqlx::Error> {
    let done = on_ids(INSERT, (batch.app, batch.type_id), ids)
        .bind(batch.in_baseline)
        .bind(batch.at_millis())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

const CENSUS: &str = "
SELECT g.type_id, g.deleted_at IS NOT NULL, g.missing_since IS NOT NULL, count(*)
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NOT NULL OR g.missing_since IS NOT NULL OR (?2 <> 0 AND g.type_id <> ?2)
GROUP BY 1, 2, 3";

/// Counts the listed groups that have to change, by what they were before.
pub(super) async fn census(
    tx: &mut Tx<'_>,
    batch: &Batch<'_>,
    ids: &Ids,
) -> Result<Vec<Census>, sqlx::Error> {
    let rows: Vec<(i64, bool, bool, i64)> =
        query_as(CENSUS).bind(batch.app.0).bind(batch.type_id.0).bind(&ids.0).fetch_all(&mut **tx).await?;
    Ok(rows
        .into_iter()
        .map(|(type_id, deleted, missing, groups)| Census {
            before: ListedBefore { type_id: TypeId(type_id), deleted, missing },
            groups,
        })
        .collect())
}

const CHANGED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type, new_type)
SELECT ?4, ?5, ?1, g.group_id, CASE WHEN g.deleted_at IS NULL THEN 't' ELSE 'r' END, g.type_id,
       CASE WHEN ?2 = 0 THEN g.type_id ELSE ?2 END
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NOT NULL OR (?2 <> 0 AND g.type_id NOT IN (0, ?2))";

const CHANGE: &str = "
UPDATE group_row
SET type_id = CASE WHEN ?2 = 0 THEN type_id ELSE ?2 END,
    deleted_at = NULL, missing_since = NULL, held_crawl_id = NULL, held_as = NULL, last_seen_at = max(first_seen_at, ?4)
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND (deleted_at IS NOT NULL OR missing_since IS NOT NULL OR (?2 <> 0 AND type_id <> ?2))";

/// Makes listed groups live, of the listed type and not missing, with the events that go with it. Events first: they
/// need the old values.
pub(super) async fn change_listed(tx: &mut Tx<'_>, batch: &Batch<'_>, ids: &Ids) -> Result<(), sqlx::Error> {
    on_ids(CHANGED, (batch.app, batch.type_id), ids)
        .bind(batch.at_millis())
        .bind(batch.crawl.0)
        .execute(&mut **tx)
        .await?;
    on_ids(CHANGE, (batch.app, batch.type_id), ids).bind(batch.at_millis()).execute(&mut **tx).await?;
    Ok(())
}

const VANISHED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
SELECT ?4, ?5, ?1, g.group_id, 'v', g.type_id
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NULL AND g.type_id = ?2";

/// When a live group was last seen: since its type was last concluded, unless it is missing. Not after its deletion, even if
/// a clock was ahead.
const DELETE: &str = "
UPDATE group_row
SET deleted_at = ?4, missing_since = NULL, held_crawl_id = NULL, held_as = NULL,
    last_seen_at = max(first_seen_at, min(?4, CASE WHEN missing_since IS NULL THEN max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0)) ELSE last_seen_at END))
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3)) AND deleted_at IS NULL AND type_id = ?2";

/// Marks live groups of a type deleted, with their events, and returns how many.
pub(super) async fn mark_vanished(
    tx: &mut Tx<'_>,
    (app, type_id, crawl): (AppId, TypeId, CrawlId),
    at_millis: i64,
    ids: &Ids,
) -> Result<u64, sqlx::Error> {
    on_ids(VANISHED, (app, type_id), ids).bind(at_millis).bind(crawl.0).execute(&mut **tx).await?;
    let done = on_ids(DELETE, (app, type_id), ids).bind(at_millis).execute(&mut **tx).await?;
    Ok(done.rows_affected())
}

const MISSING: &str = "
UPDATE group_row
SET missing_since = ?4, last_seen_at = max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0))
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND deleted_at IS NULL AND missing_since IS NULL AND type_id = ?2";

/// Marks live groups of a type missing and returns how many were not before.
pub(super) async fn mark_missing(
    tx: &mut Tx<'_>,
    (app, type_id): (AppId, TypeId),
    since_millis: i64,
    ids: &Ids,
) -> Result<u64, sqlx::Error> {
    let done = on_ids(MISSING, (app, type_id), ids).bind(since_millis).execute(&mut **tx).await?;
    Ok(done.rows_affected())
}

const WITHHELD: &str = "
UPDATE group_row
SET held_crawl_id = ?5, held_as = ?6, missing_since = ifnull(missing_since, ?4),
    last_seen_at = CASE WHEN missing_since IS NULL THEN max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0)) ELSE last_seen_at END
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND deleted_at IS NULL AND held_crawl_id IS NULL AND type_id = ?2";

/// Marks live groups of a type missing and held, for a person to decide on, and returns how many.
pub(super) async fn mark_withheld(
    tx: &mut Tx<'_>,
    (app, type_id, crawl): (AppId, TypeId, CrawlId),
    (since_millis, held_as): (i64, &'static str),
    ids: &Ids,
) -> Result<u64, sqlx::Error> {
    let marking = on_ids(WITHHELD, (app, type_id), ids).bind(since_millis).bind(crawl.0).bind(held_as);
    Ok(marking.execute(&mut **tx).await?.rows_affected())
}

// Counted before they are marked: of what a crawl withheld, some may be settled by now.
const COUNT_CONFIRMED: &str = "
UPDATE crawl SET withheld_confirmed = withheld_confirmed + newly.confirmed
FROM (SELECT held_crawl_id, count(*) AS confirmed FROM group_row
      WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?2)) AND held_as = 'w' GROUP BY held_crawl_id) newly
WHERE crawl.crawl_id = newly.held_crawl_id";
const CONFIRM_HELD: &str = "
UPDATE group_row SET held_as = 'c'
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?2)) AND held_as = 'w'";

/// Marks held groups as confirmed to be gone, and adds them to the counts of the crawls that withheld them.
pub(super) async fn confirm_held(tx: &mut Tx<'_>, app: AppId, ids: &Ids) -> Result<(), sqlx::Error> {
    for statement in [COUNT_CONFIRMED, CONFIRM_HELD] {
        query(statement).bind(app.0).bind(&ids.0).execute(&mut **tx).await?;
    }
    Ok(())
}

const KEEP_QUESTION: &str = "
INSERT INTO group_question (app_id, group_id, stood, unlearned, round, again_in)
SELECT ?1, j.value, ?3, ?4, ?5, ?6 FROM json_each(?2) j WHERE true
ON CONFLICT (app_id, group_id) DO UPDATE SET
    stood = excluded.stood, unlearned = excluded.unlearned, round = excluded.round, again_in = excluded.again_in";

/// Keeps what was learned about groups in doubt.
pub(super) async fn keep_question(
    tx: &mut Tx<'_>,
    app: AppId,
    asked: &Asked,
    ids: &Ids,
) -> Result<(), sqlx::Error> {
    let keeping = query(KEEP_QUESTION).bind(app.0).bind(&ids.0).bind(asked.stood).bind(asked.unlearned);
    keeping.bind(asked.round).bind(asked.again_in).execute(&mut **tx).await?;
    Ok(())
}

const DROP_QUESTIONS: &str = "
DELETE FROM group_question WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?2))";

/// Forgets groups that are in doubt no more.
pub(super) async fn drop_questions(tx: &mut Tx<'_>, app: AppId, ids: &Ids) -> Result<(), sqlx::Error> {
    query(DROP_QUESTIONS).bind(app.0).bind(&ids.0).execute(&mut **tx).await?;
    Ok(())
}

/// Nothing to do: a file's lock cannot be lost.
#[expect(clippy::unused_async, reason = "PostgreSQL's has to ask")]
pub(super) async fn confirm_lease(_: &mut Tx<'_>, _: &Lease) -> Result<(), StoreError> {
    Ok(())
}

/// A statement about ids of one type of an app: its first three binds, which all of them share.
fn on_ids<'q>(
    sql: &'static str,
    (app, type_id): (AppId, TypeId),
    ids: &'q Ids,
) -> Query<'q, Sqlite, SqliteArguments> {
    query(sql).bind(app.0).bind(type_id.0).bind(&ids.0)
}

/// A list of ids as this engine binds it.
pub(super) struct Ids(String);

impl Ids {
    pub(super) fn of(ids: &[&str]) -> Self {
        Self(serde_json::to_string(ids).expect("strings always serialise"))
    }
}
