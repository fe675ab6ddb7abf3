//! Measures the queries of people, of the dashboard and of the metrics, on a million live groups
//! and a year of hourly crawls. The rows are written by SQL, because a year of crawls would take
//! too long.

use std::time::Instant;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tim_group_sync::store::Store;

use crate::phases::{runtime, store_location};
use crate::report::{Databases, Engine};

const LIVE: u64 = 1_000_000;
const DELETED: u64 = 200_000;
/// One crawl an hour, for a year.
const CRAWLS: u64 = 365 * 24;
const RUNS: usize = 15;
/// The start of the first crawl, 1 March 2025, in unix milliseconds.
const FIRST_CRAWL: u64 = 1_740_787_200_000;

/// The name of each query, its SQL, and its limit in milliseconds.
const QUERIES: [(&str, &str, f64); 12] = [
    ("live groups by type", "SELECT group_type, live_count FROM type_status WHERE app = 'prod'", 100.0),
    ("type_status", "SELECT * FROM type_status", 100.0),
    ("app_status", "SELECT * FROM app_status", 100.0),
    ("daily_counts, a year", "SELECT * FROM daily_counts WHERE app = 'prod' ORDER BY day", 100.0),
    (
        "growth by day, a year",
        "SELECT day, sum(live_groups), sum(appeared), sum(vanished), sum(net_growth) FROM daily_counts GROUP BY day ORDER BY day",
        100.0,
    ),
    ("daily_crawls, a year", "SELECT * FROM daily_crawls WHERE app = 'prod' ORDER BY day", 100.0),
    ("the last 50 crawls", "SELECT * FROM crawls ORDER BY crawl_id DESC LIMIT 50", 100.0),
    ("crawls with held groups", "SELECT * FROM crawls WHERE held_count > 0", 100.0),
    ("the newest 50 events", "SELECT * FROM group_events ORDER BY event_id DESC LIMIT 50", 100.0),
    ("one group", "SELECT * FROM groups WHERE group_id = '@TGS#10999999'", 20.0),
    (
        "history of one group",
        "SELECT * FROM group_events WHERE group_id = '@TGS#10999999' ORDER BY event_id",
        20.0,
    ),
    ("count of live_groups", "SELECT count(*) FROM live_groups", 1000.0),
];

/// A connection that is not of this program's pools, as other programs have.
enum Reader {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Reader {
    async fn connect(engine: Engine, database: &str) -> Self {
        match engine {
            Engine::Sqlite => {
                let options = SqliteConnectOptions::new().filename(database).read_only(true);
                Self::Sqlite(options.connect().await.unwrap())
            }
            Engine::Postgres => {
                let options = database.parse::<PgConnectOptions>().unwrap();
                Self::Postgres(options.options([("search_path", "tim")]).connect().await.unwrap())
            }
        }
    }

    /// Runs a query and fetches all rows. Returns their number.
    async fn run(&mut self, sql: &str) -> usize {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Sqlite(connection) => query.fetch_all(connection).await.unwrap().len(),
            Self::Postgres(connection) => query.fetch_all(connection).await.unwrap().len(),
        }
    }

    async fn close(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

/// Runs all queries. Returns true if none exceeded its limit.
pub(crate) fn run_all(engines: &[Engine]) -> bool {
    let mut in_time = true;
    for &engine in engines {
        let databases = Databases::of(engine);
        let database = databases.database("queries");
        runtime().block_on(async {
            let store = Store::open(&store_location(&database)).await.unwrap();
            store.migrate().await.unwrap();
            fill(engine, &database).await;
            store.close().await;
        });
        // Does the work of PostgreSQL's autovacuum.
        databases.vacuum_and_checkpoint("queries");
        println!("\n### {}\n", databases.title());
        runtime().block_on(async {
            let store = Store::open_to_read(&store_location(&database)).await.unwrap();
            in_time &= run(engine, &database, &store).await;
            store.close().await;
        });
    }
    in_time
}

async fn run(engine: Engine, database: &str, store: &Store) -> bool {
    println!("| query | rows | first ms | median ms | slowest ms | limit ms |\n|---|---|---|---|---|---|");
    let mut in_time = true;
    for (question, sql, limit) in QUERIES {
        let mut reader = Reader::connect(engine, database).await;
        let mut rows = 0;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let began = Instant::now();
            rows = reader.run(sql).await;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        reader.close().await;
        in_time &= row(question, rows, &times, limit);
    }
    for what in ["`status`", "the dashboard and a scrape"] {
        let mut times = Vec::new();
        let mut apps = 0;
        for _ in 0..RUNS {
            let began = Instant::now();
            apps = match what {
                "`status`" => store.app_statuses().await.unwrap().len(),
                _ => store.overview().await.unwrap().len(),
            };
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        in_time &= row(what, apps, &times, 100.0);
    }
    in_time
}

fn row(question: &str, rows: usize, times: &[f64], limit: f64) -> bool {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, median, slowest) = (times[0], sorted[RUNS / 2], sorted[RUNS - 1]);
    let verdict = if slowest <= limit { "" } else { " **exceeded**" };
    println!("| {question} | {rows} | {first:.1} | {median:.1} | {slowest:.1} | {limit:.0}{verdict} |");
    slowest <= limit
}

pub(crate) async fn fill(engine: Engine, database: &str) {
    let (schema, day) = match engine {
        Engine::Sqlite => ("", "strftime('%Y-%m-%d', (MOMENT) / 1000, 'unixepoch')"),
        Engine::Postgres => {
            ("tim_private.", "to_char(to_timestamp((MOMENT) / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')")
        }
    };
    let day = |at: &str| day.replace("MOMENT", at);
    let all = LIVE + DELETED;
    let hour = 3_600_000;
    // The first groups are deleted. Seven in ten groups are of the baseline.
    let appeared = format!("{FIRST_CRAWL} + (i % {CRAWLS}) * {hour}");
    let statements = [
        "INSERT INTO app (app_id, sdk_app_id, name) VALUES (1, 1400000000, 'prod')".to_owned(),
        format!(
            "INSERT INTO group_row (app_id, group_id, type_id, deleted_at, in_baseline, first_seen_at, last_seen_at)
             {numbers} SELECT 1, '@TGS#' || CAST(10000000 + i AS TEXT), 1 + i % 6,
                    CASE WHEN i < {DELETED} THEN {appeared} + {hour} END, i % 10 < 7, {appeared}, {appeared} FROM n",
            numbers = numbers(all)
        ),
        format!(
            "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
             {numbers} SELECT {appeared}, 1 + i % {CRAWLS}, 1, '@TGS#' || CAST(10000000 + i AS TEXT), 'a', 1 + i % 6
             FROM n WHERE i % 10 >= 7",
            numbers = numbers(all)
        ),
        format!(
            "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
             {numbers} SELECT {appeared} + {hour}, 1 + i % {CRAWLS}, 1, '@TGS#' || CAST(10000000 + i AS TEXT), 'v', 1 + i % 6
             FROM n",
            numbers = numbers(DELETED)
        ),
        format!(
            "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type, new_type)
             {numbers} SELECT {FIRST_CRAWL} + i * {hour}, 1 + i, 1, '@TGS#10999999', 't', 1 + i % 2, 2 - i % 2 FROM n",
            numbers = numbers(50)
        ),
        format!(
            "INSERT INTO crawl (crawl_id, app_id, trigger, due_at, started_at, finished_at, status, deletions, requests,
                                total_at_start, total_at_end, leftover, listed_count, host, version, day)
             {numbers} SELECT 1 + i, 1, 'schedule', {at}, {at}, {at} + 110000,
                    CASE WHEN i % 50 = 49 THEN 'failed' ELSE 'complete' END,
                    CASE WHEN i % 50 <> 49 THEN 'applied' END, 104, {LIVE}, {LIVE}, 0, {LIVE}, 'bench', '0', {day} FROM n",
            numbers = numbers(CRAWLS),
            at = format_args!("{FIRST_CRAWL} + i * {hour}"),
            day = day(&format!("{FIRST_CRAWL} + i * {hour}")),
        ),
        format!(
            "INSERT INTO crawl_pass (crawl_id, pass_no, type_id, recorded_at, verdict, pages, total_count, total_lowest,
                                     total_highest, listed_count, repeats, first_listed, unusable)
             {numbers} SELECT 1 + i / 6, i % 6, 1 + i % 6, {FIRST_CRAWL} + i / 6 * {hour}, 'exact', 17, 166666, 166666, 166666,
                    166666, 0, 0, 0 FROM n",
            numbers = numbers(CRAWLS * 6)
        ),
        format!(
            "INSERT INTO daily_count (app_id, day, type_id, live_groups, total_count, appeared, vanished)
             {numbers} SELECT 1, {day}, 1 + i % 6, 166666 + i, 166666 + i, 160, 90 FROM n",
            numbers = numbers(365 * 6),
            day = day(&format!("{FIRST_CRAWL} + i / 6 * 24 * {hour}")),
        ),
        format!(
            "INSERT INTO type_state (app_id, type_id, configured, live_count, deleted_count, baseline_crawl_id,
                                     concluded_crawl_id, concluded_at, total_count)
             SELECT 1, type_id, 1, sum(CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END), count(deleted_at), 1, {CRAWLS},
                    {FIRST_CRAWL} + {CRAWLS} * CAST({hour} AS BIGINT), 166666 FROM group_row GROUP BY type_id"
        ),
    ];
    for statement in statements {
        let mut sql = statement;
        for table in ["app", "group_row", "group_event", "crawl", "crawl_pass", "daily_count", "type_state"] {
            sql = sql.replace(&format!("INTO {table} "), &format!("INTO {schema}{table} "));
        }
        sql = sql.replace("FROM group_row", &format!("FROM {schema}group_row"));
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        match engine {
            Engine::Sqlite => {
                let mut writer = SqliteConnectOptions::new().filename(database).connect().await.unwrap();
                query.execute(&mut writer).await.unwrap();
                writer.close().await.unwrap();
            }
            Engine::Postgres => {
                let mut writer = database.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
                query.execute(&mut writer).await.unwrap();
                writer.close().await.unwrap();
            }
        }
    }
}

/// Returns a common table expression `n (i)` with the numbers from 0 to `count` - 1.
fn numbers(count: u64) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"
    )
}
