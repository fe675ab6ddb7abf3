//! Reads the live groups of an SQLite file.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{Row as _, SqlitePool};

use super::totals::{AppTotals, TypeTotals};
use crate::model::TypeId;
use crate::roll::Mark;
use crate::store::app::AppId;
use crate::store::engine::{SqliteFile, StoreError, WithAction as _, query, query_as, query_scalar};

/// Returns the id of the last group in a chunk of `?3` rows after `?2`.
const SELECT_CHUNK_END: &str = "
SELECT group_id FROM group_row WHERE app_id = ?1 AND group_id > ?2 ORDER BY group_id LIMIT 1 OFFSET ?3 - 1";

/// The number of rows in a chunk.
const CHUNK_ROWS: usize = 10_000;

/// Returns the last ids of the chunks, as they were last computed. Any ids give correct results.
/// These give chunks of similar size.
const SELECT_CHUNK_ENDS: &str = "SELECT chunk_ends FROM app WHERE app_id = ?1";
const UPDATE_CHUNK_ENDS: &str = "UPDATE app SET chunk_ends = ?2 WHERE app_id = ?1";

/// Returns the totals of an app by type, the type with most groups first.
const SELECT_TYPE_TOTALS: &str = "
SELECT type_id, live_count, missing_count, deleted_count FROM type_state
WHERE app_id = ?1 AND live_count + deleted_count > 0 ORDER BY live_count DESC";

/// Builds the query for live groups that are not missing, with ids after `?2` and up to `?3`.
///
/// The result is one text, which is three times as fast as a row per group. Two control characters
/// before each id encode its type; ids contain no control characters. The code comes from a CASE of
/// constants, because a function call per row would double the time.
fn text_query(types: &[i64], totals: AppTotals) -> String {
    let mut code_sql = "CASE type_id".to_owned();
    for type_id in types {
        code_sql.extend([" WHEN ", &type_id.to_string(), " THEN '", &type_code(*type_id), "'"]);
    }
    code_sql.push_str(" END");
    // SQLite sorts a blob after all texts, so `x''` is no limit.
    let mut conditions = "app_id = ?1 AND group_id > ?2 AND group_id <= ifnull(?3, x'')".to_owned();
    conditions.push_str(&totals.conditions());
    // The code of an id is the separator before it. group_concat has no separator before the first
    // id.
    format!(
        "SELECT (SELECT {code_sql} FROM group_row WHERE {conditions} ORDER BY group_id LIMIT 1) || group_concat(group_id, {code_sql})
         FROM group_row WHERE {conditions}"
    )
}

/// The number of control characters that encode a digit of a type: U+0001 to U+001E.
const CODE_BASE: i64 = 30;
/// The number of types that two digits can encode.
const MAX_TYPES: i64 = CODE_BASE * CODE_BASE;

/// Encodes a type as two control characters.
fn type_code(type_id: i64) -> String {
    let digit = |number: i64| char::from(u8::try_from(number % CODE_BASE).unwrap_or(0) + 1);
    [digit(type_id / CODE_BASE), digit(type_id)].iter().collect()
}

/// Decodes a type. The inverse of [`type_code`].
fn type_from_code(code: &[u8]) -> TypeId {
    TypeId((i64::from(code[0]) - 1) * CODE_BASE + i64::from(code[1]) - 1)
}

/// Returns the missing groups, and whether each is held.
const SELECT_MISSING_GROUPS: &str = "
SELECT type_id, group_id, held_crawl_id IS NOT NULL FROM group_row
WHERE app_id = ?1 AND deleted_at IS NULL AND missing_since IS NOT NULL";

/// Calls `for_each` with every live group of an app.
pub(super) async fn live_groups(
    file: &SqliteFile,
    app: AppId,
    for_each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), StoreError> {
    let result = read_live_groups(file, file.readers()?, app, for_each).await;
    // If the path leads to another file now, the pool may have opened a connection to that file.
    file.check_in_place()?;
    result.with_action("read the live groups")
}

async fn read_live_groups(
    file: &SqliteFile,
    pool: &SqlitePool,
    app: AppId,
    mut for_each: impl FnMut(TypeId, &str, Mark),
) -> Result<(), sqlx::Error> {
    let types: Vec<TypeTotals> = query_as(SELECT_TYPE_TOTALS).bind(app.0).fetch_all(pool).await?;
    let totals = AppTotals::add_up(&types);
    if totals.live == 0 {
        return Ok(());
    }
    let types: Vec<i64> = types.iter().map(|totals| totals.type_id).collect();
    if types.iter().any(|type_id| !(0..MAX_TYPES).contains(type_id)) {
        return Err(sqlx::Error::Protocol(format!("more than {MAX_TYPES} group types")));
    }
    let ends = chunk_ends(file, pool, app, usize::try_from(totals.groups()).unwrap_or(0)).await?;
    let sql: Arc<str> = text_query(&types, totals).into();
    let starts = std::iter::once(String::new()).chain(ends.iter().cloned());
    // The last chunk has no end, so that it includes ids after the last stored one.
    let optional_ends = ends.iter().cloned().map(Some).chain([None]);
    let ranges: Vec<(String, Option<String>)> = starts.zip(optional_ends).collect();
    // Two connections read ahead while this program processes a chunk.
    let mut chunks = futures_util::stream::iter(ranges)
        .map(|(after, end)| read_chunk(pool.clone(), Arc::clone(&sql), app, after, end))
        .buffered(2);
    let mut largest_chunk = 0;
    while let Some(chunk) = chunks.try_next().await? {
        largest_chunk = largest_chunk.max(for_each_group(chunk.as_deref(), &mut for_each));
    }
    // Many new groups may have ids in the same chunk.
    let is_a_chunk_too_large = largest_chunk > 4 * CHUNK_ROWS;
    if is_a_chunk_too_large {
        // Makes the next crawl compute the ends again.
        store_ends(file, app, None).await;
    }
    if totals.missing > 0 {
        let mut rows = query(SELECT_MISSING_GROUPS).bind(app.0).fetch(pool);
        while let Some(row) = rows.try_next().await? {
            for_each(TypeId(row.try_get(0)?), row.try_get(1)?, Mark { missing: true, held: row.try_get(2)? });
        }
    }
    Ok(())
}

/// Runs a [`text_query`] for the ids after `after`, up to and including `end`.
async fn read_chunk(
    pool: SqlitePool,
    sql: Arc<str>,
    app: AppId,
    after: String,
    end: Option<String>,
) -> Result<Option<String>, sqlx::Error> {
    // The only variable parts of the statement are numbers and codes of this module.
    query_scalar(sqlx::AssertSqlSafe(&*sql)).bind(app.0).bind(after).bind(end).fetch_one(&pool).await
}

/// Returns the ids that end the chunks of an app with `rows` groups. Returns the stored ids if
/// their number fits, because computing them takes a quarter of the time of reading the groups.
/// Otherwise computes and stores them.
async fn chunk_ends(
    file: &SqliteFile,
    pool: &SqlitePool,
    app: AppId,
    rows: usize,
) -> Result<Vec<String>, sqlx::Error> {
    let stored: Option<String> = query_scalar(SELECT_CHUNK_ENDS).bind(app.0).fetch_one(pool).await?;
    let stored: Vec<String> = stored.iter().flat_map(|ends| ends.lines()).map(str::to_owned).collect();
    let wanted_chunks = rows / CHUNK_ROWS;
    let is_number_suitable = (wanted_chunks / 2..=wanted_chunks * 2).contains(&stored.len());
    if is_number_suitable {
        return Ok(stored);
    }
    let mut ends: Vec<String> = Vec::with_capacity(wanted_chunks);
    loop {
        let after = ends.last().map_or("", String::as_str);
        let rows_in_chunk = i64::try_from(CHUNK_ROWS).unwrap_or(i64::MAX);
        let end: Option<String> = query_scalar(SELECT_CHUNK_END)
            .bind(app.0)
            .bind(after)
            .bind(rows_in_chunk)
            .fetch_optional(pool)
            .await?;
        let Some(end) = end else { break };
        ends.push(end);
    }
    store_ends(file, app, Some(ends.join("\n"))).await;
    Ok(ends)
}

/// Stores the ends of the chunks, or removes them.
async fn store_ends(file: &SqliteFile, app: AppId, ends: Option<String>) {
    // A failure is ignored, because the next crawl computes missing ends again.
    if let Ok(writer) = file.writer() {
        let _ = query(UPDATE_CHUNK_ENDS).bind(app.0).bind(ends).execute(writer).await;
    }
}

/// Calls `for_each` with the groups of a chunk, which is a result of [`text_query`]. Returns their
/// number.
fn for_each_group(chunk: Option<&str>, for_each: &mut impl FnMut(TypeId, &str, Mark)) -> usize {
    let mut remaining_text = chunk.unwrap_or_default();
    let mut groups = 0;
    while let Some((code, tail)) = remaining_text.split_at_checked(2) {
        // The id ends before the code of the next one, or with the text.
        let id_length = tail.bytes().position(|byte| byte < 0x20).unwrap_or(tail.len());
        let (id, next) = tail.split_at(id_length);
        for_each(type_from_code(code.as_bytes()), id, Mark::default());
        groups += 1;
        remaining_text = next;
    }
    groups
}
