//! What SQLite does its own way: statements over thousands of ids, bound as one JSON list.
//!
//! The row-at-a-time alternative costs five times as much, because every statement crosses to the driver's thread.

use futures_util::TryStreamExt as _;
use sqlx::{Row as _, Sqlite, SqlitePool, Transaction};

use super::apps::AppId;
use super::engine::{query, query_as, query_scalar};
use super::error::StoreError;
use super::groups::{Batch, Census, ListedBefore};
use super::lease::Lease;
use crate::model::{CrawlId, TypeId};
use crate::roll::Mark;

type Tx<'a> = Transaction<'a, Sqlite>;

/// The id of the group that ends a chunk of `?3` rows after `?2`.
const CHUNK_END: &str = "
SELECT group_id FROM group_row WHERE app_id = ?1 AND group_id > ?2 ORDER BY group_id LIMIT 1 OFFSET ?3 - 1";

/// Rows in a chunk.
const CHUNK: i64 = 10_000;

/// The types of an app's live groups, the most frequent first.
const LIVE_TYPES: &str = "
SELECT type_id FROM type_state WHERE app_id = ?1 AND live_count > 0 ORDER BY live_count DESC";

/// The live groups that are not missing, with ids after `?2` up to `?3`, as one text: before each id two control
/// characters that stand for its type. Ids have none, and one long text is three times as fast as a row a group. The
/// separator comes from constants, because a function called for each row would double the time.
fn live_text(types: &[i64]) -> String {
    let mut code = "CASE type_id".to_owned();
    for type_id in types {
        code.extend([" WHEN ", &type_id.to_string(), " THEN '", &type_code(*type_id), "'"]);
    }
    code.push_str(" END");
    let range = "app_id = ?1 AND group_id > ?2 AND group_id <= ifnull(?3, x'') AND deleted_at IS NULL AND missing_since IS NULL";
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

const MISSING_COUNT: &str =
    "SELECT CAST(coalesce(sum(missing_count), 0) AS BIGINT) FROM type_state WHERE app_id = ?1";

/// Hands every live group of an app to `each`.
pub(super) async fn live_groups(
    pool: &SqlitePool,
    app: AppId,
    mut each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), sqlx::Error> {
    let types: Vec<i64> = query_scalar(LIVE_TYPES).bind(app.0).fetch_all(pool).await?;
    if types.is_empty() {
        return Ok(());
    }
    if types.iter().any(|type_id| !(0..MOST_TYPES).contains(type_id)) {
        return Err(sqlx::Error::Protocol(format!("more than {MOST_TYPES} group types")));
    }
    let sql = live_text(&types);
    let read = async |after: &str, end: Option<&str>| -> Result<Option<String>, sqlx::Error> {
        // Nothing but numbers from the database was put into the text.
        let sql = sqlx::AssertSqlSafe(sql.as_str());
        query_scalar(sql).bind(app.0).bind(after).bind(end).fetch_one(pool).await
    };
    let find_end = async |after: Option<&str>| -> Result<Option<String>, sqlx::Error> {
        let Some(after) = after else { return Ok(None) };
        query_scalar(CHUNK_END).bind(app.0).bind(after).bind(CHUNK).fetch_optional(pool).await
    };
    let mut end = find_end(Some("")).await?;
    let mut next_end = find_end(end.as_deref()).await?;
    let mut chunk = read("", end.as_deref()).await?;
    while let Some(after) = end {
        // At a time, on connections of their own: reading the next chunk, finding the end of the one after it, and
        // handing on the one in hand.
        let (next_chunk, end_after_next, ()) = tokio::join!(
            biased;
            read(&after, next_end.as_deref()),
            find_end(next_end.as_deref()),
            async { hand_on(chunk.as_deref(), &mut each) }
        );
        (chunk, end, next_end) = (next_chunk?, next_end, end_after_next?);
    }
    hand_on(chunk.as_deref(), &mut each);
    let missing: i64 = query_scalar(MISSING_COUNT).bind(app.0).fetch_one(pool).await?;
    if missing > 0 {
        let mut rows = query(MISSING_GROUPS).bind(app.0).fetch(pool);
        while let Some(row) = rows.try_next().await? {
            each(TypeId(row.try_get(0)?), row.try_get(1)?, Mark { missing: true, held: row.try_get(2)? });
        }
    }
    Ok(())
}

fn hand_on(chunk: Option<&str>, each: &mut impl FnMut(TypeId, &str, Mark)) {
    let Some(chunk) = chunk else { return };
    let mut rest = chunk;
    while let Some((code, tail)) = rest.split_at_checked(2) {
        let length = tail.bytes().position(|byte| byte < 0x20).unwrap_or(tail.len());
        let (id, next) = tail.split_at(length);
        each(type_of_code(code.as_bytes()), id, Mark::default());
        rest = next;
    }
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
    let done = query(APPEARED)
        .bind(batch.app.0)
        .bind(batch.type_id.0)
        .bind(&ids.0)
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
    let done = query(INSERT)
        .bind(batch.app.0)
        .bind(batch.type_id.0)
        .bind(&ids.0)
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
    deleted_at = NULL, missing_since = NULL, held_crawl_id = NULL, last_seen_at = max(last_seen_at, ?4)
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND (deleted_at IS NOT NULL OR missing_since IS NOT NULL OR (?2 <> 0 AND type_id <> ?2))";

/// Makes listed groups live, of the listed type and not missing, with the events that go with it. Events first: they
/// need the old values.
pub(super) async fn change_listed(tx: &mut Tx<'_>, batch: &Batch<'_>, ids: &Ids) -> Result<(), sqlx::Error> {
    query(CHANGED)
        .bind(batch.app.0)
        .bind(batch.type_id.0)
        .bind(&ids.0)
        .bind(batch.at_millis())
        .bind(batch.crawl.0)
        .execute(&mut **tx)
        .await?;
    query(CHANGE)
        .bind(batch.app.0)
        .bind(batch.type_id.0)
        .bind(&ids.0)
        .bind(batch.at_millis())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

const VANISHED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
SELECT ?4, ?5, ?1, g.group_id, 'v', g.type_id
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NULL AND g.type_id = ?2";

/// When a live group was last seen: since its type was last concluded, unless it is missing.
const DELETE: &str = "
UPDATE group_row
SET deleted_at = ?4, missing_since = NULL, held_crawl_id = NULL,
    last_seen_at = CASE WHEN missing_since IS NULL THEN max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0)) ELSE last_seen_at END
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3)) AND deleted_at IS NULL AND type_id = ?2";

/// Marks live groups of a type deleted, with their events, and returns how many.
pub(super) async fn mark_vanished(
    tx: &mut Tx<'_>,
    (app, type_id, crawl): (AppId, TypeId, CrawlId),
    at_millis: i64,
    ids: &Ids,
) -> Result<u64, sqlx::Error> {
    query(VANISHED)
        .bind(app.0)
        .bind(type_id.0)
        .bind(&ids.0)
        .bind(at_millis)
        .bind(crawl.0)
        .execute(&mut **tx)
        .await?;
    let done =
        query(DELETE).bind(app.0).bind(type_id.0).bind(&ids.0).bind(at_millis).execute(&mut **tx).await?;
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
    let done =
        query(MISSING).bind(app.0).bind(type_id.0).bind(&ids.0).bind(since_millis).execute(&mut **tx).await?;
    Ok(done.rows_affected())
}

const WITHHELD: &str = "
UPDATE group_row
SET held_crawl_id = ?5, missing_since = ifnull(missing_since, ?4),
    last_seen_at = CASE WHEN missing_since IS NULL THEN max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0)) ELSE last_seen_at END
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND deleted_at IS NULL AND held_crawl_id IS NULL AND type_id = ?2";

/// Marks live groups of a type missing and held, for a person to decide on, and returns how many.
pub(super) async fn mark_withheld(
    tx: &mut Tx<'_>,
    (app, type_id, crawl): (AppId, TypeId, CrawlId),
    since_millis: i64,
    ids: &Ids,
) -> Result<u64, sqlx::Error> {
    let done = query(WITHHELD)
        .bind(app.0)
        .bind(type_id.0)
        .bind(&ids.0)
        .bind(since_millis)
        .bind(crawl.0)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

/// Nothing to do: a file's lock cannot be lost.
#[expect(clippy::unused_async, reason = "PostgreSQL's has to ask")]
pub(super) async fn confirm_lease(_: &mut Tx<'_>, _: &Lease) -> Result<(), StoreError> {
    Ok(())
}

/// A list of ids as this engine binds it.
pub(super) struct Ids(String);

impl Ids {
    pub(super) fn of(ids: &[&str]) -> Self {
        Self(serde_json::to_string(ids).expect("strings always serialise"))
    }
}
