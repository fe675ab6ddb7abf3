//! The programs that a crawl is compared with: a simple script that upserts every group, and the
//! database's own bulk load.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use crate::figures::Stopwatch;
use crate::phases::fetch_all;

/// Upserts into PostgreSQL with one statement per row, as `executemany` of the usual drivers does,
/// and one transaction per page. benches/upsert.py is the same for SQLite.
pub(crate) async fn upsert(api: &str, database: &str) {
    let mut connection: PgConnection = database.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    connection
        .execute(
            "CREATE TABLE IF NOT EXISTS groups (group_id text PRIMARY KEY, group_type text,
                                                first_seen timestamptz, last_seen timestamptz, deleted_at timestamptz)",
        )
        .await
        .unwrap();
    let watch = Stopwatch::start();
    let started = now();
    let mut groups = 0;
    let requests = fetch_all(api, async |group_type, ids| {
        groups += ids.len() as u64;
        let seen = now();
        let mut page = connection.begin().await.unwrap();
        for id in ids {
            sqlx::query(
                "INSERT INTO groups VALUES ($1, $2, to_timestamp($3), to_timestamp($3), NULL)
                 ON CONFLICT (group_id) DO UPDATE SET group_type = excluded.group_type,
                     last_seen = excluded.last_seen, deleted_at = NULL",
            )
            .bind(id)
            .bind(group_type)
            .bind(seen)
            .execute(&mut *page)
            .await
            .unwrap();
        }
        page.commit().await.unwrap();
    })
    .await;
    sqlx::query(
        "UPDATE groups SET deleted_at = now() WHERE last_seen < to_timestamp($1) AND deleted_at IS NULL",
    )
    .bind(started)
    .execute(&mut connection)
    .await
    .unwrap();
    watch.print(groups, requests);
    connection.close().await.unwrap();
}

/// Fetches all groups and loads them in one transaction into a table like the program's own,
/// including its primary key. PostgreSQL loads with COPY, SQLite by inserting a sorted list.
pub(crate) async fn bulk(api: &str, database: &str, sorted: bool) {
    if database.starts_with("postgres://") {
        copy(api, database, sorted).await;
    } else {
        assert!(sorted, "SQLite's bulk load is sorted");
        insert_sorted(api, Path::new(database)).await;
    }
}

async fn copy(api: &str, database: &str, sorted: bool) {
    let mut connection: PgConnection = database.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    connection
        .execute(
            r#"CREATE TABLE group_row (app_id bigint NOT NULL, type_id bigint NOT NULL, first_seen_at bigint NOT NULL,
                   last_seen_at bigint NOT NULL, deleted_at bigint, missing_since bigint, held_crawl_id bigint,
                   in_baseline boolean NOT NULL, group_id text COLLATE "C" NOT NULL, PRIMARY KEY (app_id, group_id))"#,
        )
        .await
        .unwrap();
    let watch = Stopwatch::start();
    let at = now();
    let line = |group_type: &str, id: &str| {
        let type_id = group_type.len();
        format!("1\t{type_id}\t{at:.0}\t{at:.0}\t\\N\t\\N\t\\N\tt\t{id}\n")
    };
    let mut collected: Vec<(String, &'static str)> = Vec::new();
    let mut groups = 0;
    let mut copying = connection.copy_in_raw("COPY group_row FROM STDIN").await.unwrap();
    let requests = fetch_all(api, async |group_type, ids| {
        groups += ids.len() as u64;
        if sorted {
            collected.extend(ids.iter().map(|id| ((*id).to_owned(), group_type)));
        } else {
            let lines: String = ids.iter().map(|id| line(group_type, id)).collect();
            copying.send(lines.as_bytes()).await.unwrap();
        }
    })
    .await;
    collected.sort_unstable();
    for page in collected.chunks(10_000) {
        let lines: String = page.iter().map(|(id, group_type)| line(group_type, id)).collect();
        copying.send(lines.as_bytes()).await.unwrap();
    }
    copying.finish().await.unwrap();
    watch.print(groups, requests);
    connection.close().await.unwrap();
}

async fn insert_sorted(api: &str, database: &Path) {
    let options = SqliteConnectOptions::new().filename(database).create_if_missing(true);
    let mut connection: SqliteConnection =
        options.journal_mode(SqliteJournalMode::Wal).connect().await.unwrap();
    connection
        .execute(
            "CREATE TABLE group_row (app_id INTEGER NOT NULL, group_id TEXT NOT NULL, type_id INTEGER NOT NULL,
                 deleted_at INTEGER, missing_since INTEGER, held_crawl_id INTEGER, in_baseline INTEGER NOT NULL,
                 first_seen_at INTEGER NOT NULL, last_seen_at INTEGER NOT NULL,
                 PRIMARY KEY (app_id, group_id)) STRICT, WITHOUT ROWID",
        )
        .await
        .unwrap();
    let watch = Stopwatch::start();
    #[expect(clippy::cast_possible_truncation, reason = "a time")]
    let at = now() as i64;
    let mut collected: Vec<(String, usize)> = Vec::new();
    let requests = fetch_all(api, async |group_type, ids| {
        collected.extend(ids.iter().map(|id| ((*id).to_owned(), group_type.len())));
    })
    .await;
    collected.sort_unstable();
    let mut tx = connection.begin().await.unwrap();
    for page in collected.chunks(10_000) {
        sqlx::query(
            "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
             SELECT 1, value ->> 0, value ->> 1, 1, ?1, ?1 FROM json_each(?2)",
        )
        .bind(at)
        .bind(serde_json::to_string(page).unwrap())
        .execute(&mut *tx)
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    watch.print(collected.len() as u64, requests);
    connection.close().await.unwrap();
}

/// Returns the time in seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}
