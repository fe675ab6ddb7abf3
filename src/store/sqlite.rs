//! What SQLite does its own way: statements over thousands of ids, bound as one JSON list.
//!
//! The row-at-a-time alternative costs five times as much, because every statement crosses to the driver's thread.

use sqlx::{Sqlite, SqlitePool, Transaction};

use super::apps::AppId;
use super::engine::{query, query_as};
use super::error::StoreError;
use super::groups::{Batch, Census, ListedBefore};
use super::lease::Lease;
use crate::model::{CrawlId, TypeId};
use crate::roll::Mark;

type Tx<'a> = Transaction<'a, Sqlite>;

/// Live groups of an app from `after` on, in order of id: the last id, and a line a group with its type, an `m` if it
/// is missing or an `h` if it is held, a colon and the id. Ids have no line breaks. One aggregated row a thousand
/// times over is three times as fast as a row a group.
const LIVE: &str = "
SELECT max(group_id),
       group_concat(type_id || CASE WHEN missing_since IS NULL THEN ':' WHEN held_crawl_id IS NULL THEN 'm:' ELSE 'h:' END
                            || group_id, char(10))
FROM (SELECT group_id, type_id, missing_since, held_crawl_id FROM group_row
      WHERE app_id = ?1 AND group_id > ?2 AND deleted_at IS NULL ORDER BY group_id LIMIT ?3)";

const LIVE_CHUNK: i64 = 20_000;

/// Hands the live groups of an app to `each`, chunk by chunk.
pub(super) async fn live_groups(
    pool: &SqlitePool,
    app: AppId,
    mut each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), sqlx::Error> {
    let mut after = String::new();
    loop {
        let (last, lines): (Option<String>, Option<String>) =
            query_as(LIVE).bind(app.0).bind(&after).bind(LIVE_CHUNK).fetch_one(pool).await?;
        let (Some(last), Some(lines)) = (last, lines) else { return Ok(()) };
        for line in lines.split('\n') {
            let (head, id) = line.split_once(':').unwrap_or((line, ""));
            let digits = head.trim_end_matches(['m', 'h']);
            let mark = Mark { missing: digits.len() < head.len(), held: head.ends_with('h') };
            // The statement builds the line from an integer column.
            each(TypeId(digits.parse().unwrap_or_default()), id, mark);
        }
        after = last;
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
