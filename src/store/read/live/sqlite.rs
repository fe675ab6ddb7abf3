//! Reads the live groups of an SQLite file.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{Row as _, SqlitePool};

use crate::model::TypeId;
use crate::roll::Mark;
use crate::store::app::AppId;
use crate::store::engine::{SqliteFile, StoreError, WithAction as _, query, query_as, query_scalar};

/// Returns the id of the last group in a chunk of `?3` rows after `?2`.
const CHUNK_END: &str = "
SELECT group_id FROM group_row WHERE app_id = ?1 AND group_id > ?2 ORDER BY group_id LIMIT 1 OFFSET ?3 - 1";

/// The number of rows in a chunk.
const CHUNK: usize = 10_000;

/// Returns the ends of the chunks, as they were computed last. Any ends give correct results; these
/// give chunks of similar size.
const STORED_ENDS: &str = "SELECT chunk_ends FROM app WHERE app_id = ?1";
const STORE_ENDS: &str = "UPDATE app SET chunk_ends = ?2 WHERE app_id = ?1";

/// Returns the totals of an app by type, the type with most groups first.
const TYPES: &str = "
SELECT type_id, live_count, missing_count, deleted_count FROM type_state
WHERE app_id = ?1 AND live_count + deleted_count > 0 ORDER BY live_count DESC";

/// Builds the query for live groups that are not missing, with ids after `?2` and up to `?3`.
///
/// The result is one text, which is three times as fast as a row per group. Two control characters
/// before each id encode its type; ids contain no control characters. The code comes from a CASE of
/// constants, because a function call per row would double the time. A condition is omitted if the
/// stored totals show that every group fulfils it.
fn text_query(types: &[i64], any_deleted: bool, any_missing: bool) -> String {
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
    // group_concat omits the first separator.
    format!(
        "SELECT (SELECT {code} FROM group_row WHERE {range} ORDER BY group_id LIMIT 1) || group_concat(group_id, {code})
         FROM group_row WHERE {range}"
    )
}

/// The number of types that two characters can encode.
const MAX_TYPES: i64 = 30 * 30;

/// Encodes a type as two characters from U+0001 to U+001E.
fn type_code(type_id: i64) -> String {
    let digit = |number: i64| char::from(u8::try_from(number % 30).unwrap_or(0) + 1);
    [digit(type_id / 30), digit(type_id)].iter().collect()
}

fn type_from_code(code: &[u8]) -> TypeId {
    TypeId((i64::from(code[0]) - 1) * 30 + i64::from(code[1]) - 1)
}

const MISSING_GROUPS: &str = "
SELECT type_id, group_id, held_crawl_id IS NOT NULL FROM group_row
WHERE app_id = ?1 AND deleted_at IS NULL AND missing_since IS NOT NULL";

/// Calls `each` with every live group of an app.
pub(super) async fn live_groups(
    file: &SqliteFile,
    app: AppId,
    each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), StoreError> {
    let read = read_live_groups(file, file.readers()?, app, each).await;
    // If the path leads to another file now, a new connection of the pool may have read that file.
    file.check_in_place()?;
    read.with_action("read the live groups")
}

async fn read_live_groups(
    file: &SqliteFile,
    pool: &SqlitePool,
    app: AppId,
    mut each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), sqlx::Error> {
    let types: Vec<(i64, i64, i64, i64)> = query_as(TYPES).bind(app.0).fetch_all(pool).await?;
    let sum = |of: fn(&(i64, i64, i64, i64)) -> i64| types.iter().map(of).sum::<i64>();
    let (live, missing, deleted) = (sum(|total| total.1), sum(|total| total.2), sum(|total| total.3));
    if live == 0 {
        return Ok(());
    }
    let types: Vec<i64> = types.iter().map(|total| total.0).collect();
    if types.iter().any(|type_id| !(0..MAX_TYPES).contains(type_id)) {
        return Err(sqlx::Error::Protocol(format!("more than {MAX_TYPES} group types")));
    }
    let ends = chunk_ends(file, pool, app, usize::try_from(live + deleted).unwrap_or(0)).await?;
    let sql: Arc<str> = text_query(&types, deleted > 0, missing > 0).into();
    let starts = std::iter::once(String::new()).chain(ends.iter().cloned());
    let until = ends.iter().cloned().map(Some).chain([None]);
    let ranges: Vec<(String, Option<String>)> = starts.zip(until).collect();
    // Two connections read ahead while a chunk is processed.
    let mut chunks = futures_util::stream::iter(ranges)
        .map(|(after, end)| read_chunk(pool.clone(), Arc::clone(&sql), app, after, end))
        .buffered(2);
    let mut largest = 0;
    while let Some(chunk) = chunks.try_next().await? {
        largest = largest.max(for_each_group(chunk.as_deref(), &mut each));
    }
    if largest > 4 * CHUNK {
        // Many new groups are in one range. The next crawl computes the ends again.
        store_ends(file, app, None).await;
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
    // The statement contains only numbers and codes that this module made.
    query_scalar(sqlx::AssertSqlSafe(&*sql)).bind(app.0).bind(after).bind(end).fetch_one(&pool).await
}

/// Returns ids that divide an app's `rows` groups into chunks. These are the stored ones, unless
/// their number no longer fits: computing them takes a quarter of the time of reading the groups.
async fn chunk_ends(
    file: &SqliteFile,
    pool: &SqlitePool,
    app: AppId,
    rows: usize,
) -> Result<Vec<String>, sqlx::Error> {
    let known: Option<String> = query_scalar(STORED_ENDS).bind(app.0).fetch_one(pool).await?;
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
            query_scalar(CHUNK_END).bind(app.0).bind(after).bind(chunk).fetch_optional(pool).await?;
        let Some(end) = end else { break };
        ends.push(end);
    }
    store_ends(file, app, Some(ends.join("\n"))).await;
    Ok(ends)
}

async fn store_ends(file: &SqliteFile, app: AppId, ends: Option<String>) {
    // A failure is ignored: without stored ends the next crawl computes them again.
    if let Ok(writer) = file.writer() {
        let _ = query(STORE_ENDS).bind(app.0).bind(ends).execute(writer).await;
    }
}

/// Calls `each` with the groups of a chunk. Returns their number.
fn for_each_group(chunk: Option<&str>, each: &mut impl FnMut(TypeId, &str, Mark)) -> usize {
    let mut rest = chunk.unwrap_or_default();
    let mut groups = 0;
    while let Some((code, tail)) = rest.split_at_checked(2) {
        let length = tail.bytes().position(|byte| byte < 0x20).unwrap_or(tail.len());
        let (id, next) = tail.split_at(length);
        each(type_from_code(code.as_bytes()), id, Mark::default());
        groups += 1;
        rest = next;
    }
    groups
}
