//! Measures the queries of readers, of the dashboard and of the metrics, on a million live groups,
//! a year of hourly crawls and three million events. The rows are written by SQL, because a year of
//! crawls would take too long.

use std::time::Instant;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tim_group_sync::store::Store;

use crate::phases::{runtime, store_location};
use crate::report::{Databases, Engine};

/// The number of groups of the first app.
const GROUPS: u64 = 1_000_000;
const RUNS: usize = 9;

/// Generates the rows: the app 1 with N groups, of which a quarter vanished and returned, and the
/// app 2 with N/10 groups. The text is the SQL of both engines, except for `{numbers N}`.
const ROWS: [&str; 12] = [
    "INSERT INTO app (app_id, sdk_app_id, name, round) VALUES (1, 1400000001, 'prod', 8760), (2, 1400000002, 'test', 8760)",
    "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at, live_since)
     SELECT 1, '@TGS#' || substr(CAST(1000000000 + (n * 7919) % 1000000000 AS TEXT), 2), 1 + n % 6, n % 3 = 0,
            {start} + (n % 8000) * 3600000, {end}, CASE WHEN n % 4 = 0 THEN {start} + (n % 8000 + 500) * 3600000 END
     FROM {numbers groups} AS s",
    "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
     SELECT 2, 'room_' || n, 1 + n % 6, 1 = 1, {start}, {end} FROM {numbers tenth} AS s",
    "INSERT INTO past_span (app_id, group_id, type_id, live_from, live_until, in_baseline)
     SELECT app_id, group_id, type_id, first_seen_at, live_since - 3600000, in_baseline FROM group_row
     WHERE live_since IS NOT NULL",
    "INSERT INTO crawl (crawl_id, app_id, trigger, due_at, started_at, finished_at, status, deletions, requests,
                        total_at_start, total_at_end, listed_count, host, version, group_types, day, timezone)
     SELECT 2 * n + a.app_id, a.app_id, 'schedule', {start} + n * 3600000, {start} + n * 3600000,
            {start} + n * 3600000 + 110000, 'complete', 'none', 110, 1000000 + n, 1000000 + n, 1000000, 'host', '0.1.0',
            'Public', {day n * 3600000}, 'UTC'
     FROM {numbers 8760} AS s CROSS JOIN app a",
    "INSERT INTO crawl_pass (crawl_id, pass_no, type_id, recorded_at, verdict, pages, total_count, total_lowest,
                             total_highest, listed_count, repeats, first_listed, unusable)
     SELECT c.crawl_id, t.type_id - 1, t.type_id, c.started_at, 'exact', 17, 166000, 166000, 166000, 166000, 0, 166000, 0
     FROM crawl c CROSS JOIN group_type t WHERE t.type_id > 0",
    "INSERT INTO daily_count (app_id, day, timezone, type_id, live_groups, total_count, appeared, vanished)
     SELECT a.app_id, {day n * 86400000}, 'UTC', t.type_id, 166000 + n, 166000, 100, 99
     FROM {numbers 365} AS s CROSS JOIN app a CROSS JOIN group_type t WHERE t.type_id > 0",
    "INSERT INTO type_state (app_id, type_id, configured, live_count, total_count, baseline_crawl_id, concluded_crawl_id,
                             concluded_at)
     SELECT g.app_id, g.type_id, 1, count(*), count(*), g.app_id, 2 * 8759 + g.app_id, {end}
     FROM group_row g GROUP BY g.app_id, g.type_id",
    "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
     SELECT first_seen_at, 2 * ((first_seen_at - {start}) / 3600000) + 1, 1, group_id, 'a', type_id
     FROM group_row WHERE app_id = 1 ORDER BY first_seen_at",
    "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
     SELECT live_until, 2 * ((live_until - {start}) / 3600000) + 1, 1, group_id, 'v', type_id FROM past_span ORDER BY live_until",
    "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
     SELECT live_until + 3600000, 2 * ((live_until - {start}) / 3600000 + 1) + 1, 1, group_id, 'r', type_id
     FROM past_span ORDER BY live_until",
    "INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
     SELECT occurred_at, crawl_id, app_id, group_id, 't', new_type FROM group_event",
];

/// The name of each query, its SQL, and its limit in milliseconds on this engine: SQLite,
/// PostgreSQL.
const QUERIES: [(&str, &str, [f64; 2]); 24] = [
    ("live groups by type", "SELECT group_type, live_count FROM type_status WHERE app = 'prod'", [100.0; 2]),
    ("type_status", "SELECT * FROM type_status", [100.0; 2]),
    ("app_status", "SELECT * FROM app_status", [100.0; 2]),
    ("daily_counts, a year", "SELECT * FROM daily_counts WHERE app = 'prod' ORDER BY day", [100.0; 2]),
    (
        "growth by day, a year",
        "SELECT day, sum(live_groups), sum(appeared), sum(vanished), sum(net_growth) FROM daily_counts GROUP BY day ORDER BY day",
        [100.0; 2],
    ),
    ("monthly_counts, a year", "SELECT * FROM monthly_counts WHERE app = 'prod' ORDER BY month", [100.0; 2]),
    ("daily_crawls, a year", "SELECT * FROM daily_crawls WHERE app = 'prod' ORDER BY day", [100.0; 2]),
    ("the last 50 crawls", "SELECT * FROM crawls ORDER BY crawl_id DESC LIMIT 50", [100.0; 2]),
    ("crawls with held groups", "SELECT * FROM crawls WHERE held_count > 0", [100.0; 2]),
    ("app_counts, a year", "SELECT * FROM app_counts WHERE app = 'prod'", [100.0; 2]),
    ("type_counts, a week", "SELECT * FROM type_counts WHERE app = 'prod' ORDER BY crawl_id DESC LIMIT 1008", [100.0; 2]),
    ("the newest 50 events", "SELECT * FROM group_events ORDER BY event_id DESC LIMIT 50", [100.0; 2]),
    (
        "1,000 events after a cursor",
        "SELECT * FROM group_events WHERE sdk_app_id = 1400000001 AND event_id > 1000000 ORDER BY event_id LIMIT 1000",
        [100.0; 2],
    ),
    ("one group", "SELECT * FROM groups WHERE group_id = '@TGS#000007919'", [20.0; 2]),
    (
        "history of one group",
        "SELECT * FROM group_events WHERE group_id = '@TGS#000007919' ORDER BY event_id",
        [20.0; 2],
    ),
    (
        "groups, first page by sdk_app_id",
        "SELECT * FROM groups WHERE sdk_app_id = 1400000001 AND group_id > '' ORDER BY group_id LIMIT 100",
        [20.0, 20.0],
    ),
    (
        "groups, middle page by sdk_app_id",
        "SELECT * FROM groups WHERE sdk_app_id = 1400000001 AND group_id > '@TGS#5' ORDER BY group_id LIMIT 100",
        [20.0, 20.0],
    ),
    (
        "groups, last page by sdk_app_id",
        "SELECT * FROM groups WHERE sdk_app_id = 1400000001 AND group_id > '@TGS#9999' ORDER BY group_id LIMIT 100",
        [20.0, 20.0],
    ),
    (
        "groups, first page by app",
        "SELECT * FROM groups WHERE app = 'prod' AND group_id > '' ORDER BY group_id LIMIT 100",
        [20.0, 20.0],
    ),
    (
        "groups, middle page by app",
        "SELECT * FROM groups WHERE app = 'prod' AND group_id > '@TGS#5' ORDER BY group_id LIMIT 100",
        [20.0, 20.0],
    ),
    (
        "groups, last page by app",
        "SELECT * FROM groups WHERE app = 'prod' AND group_id > '@TGS#9999' ORDER BY group_id LIMIT 100",
        [20.0, 20.0],
    ),
    (
        "count of groups live at a past time",
        "SELECT count(*) FROM group_spans WHERE app = 'prod' AND live_from <= '2026-03-01T00:00:00Z'
         AND (live_until IS NULL OR live_until > '2026-03-01T00:00:00Z')",
        [8000.0, 3000.0],
    ),
    (
        "groups live at a past time",
        "SELECT group_id, group_type FROM group_spans WHERE app = 'prod' AND live_from <= '2026-03-01T00:00:00Z'
         AND (live_until IS NULL OR live_until > '2026-03-01T00:00:00Z')",
        [8000.0, 3000.0],
    ),
    ("count of live_groups", "SELECT count(*) FROM live_groups", [1000.0; 2]),
];

/// A connection outside the program's pools, as other programs have.
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
        // PostgreSQL's autovacuum would do this later.
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
    for (question, sql, limits) in QUERIES {
        let limit = limits[usize::from(engine == Engine::Postgres)];
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

/// Writes all rows.
pub(crate) async fn fill(engine: Engine, database: &str) {
    for statement in ROWS {
        let sql = expand(statement, engine);
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        match engine {
            Engine::Sqlite => {
                let mut writer = SqliteConnectOptions::new().filename(database).connect().await.unwrap();
                query.execute(&mut writer).await.unwrap();
                writer.close().await.unwrap();
            }
            Engine::Postgres => {
                let options = database.parse::<PgConnectOptions>().unwrap();
                let options = options.options([("search_path", "tim_private")]);
                let mut writer = options.connect().await.unwrap();
                query.execute(&mut writer).await.unwrap();
                writer.close().await.unwrap();
            }
        }
    }
}

/// Replaces the parts of a statement that differ by engine.
fn expand(statement: &str, engine: Engine) -> String {
    const START: &str = "1767225600000"; // 2026-01-01
    const END: &str = "1798758000000";
    let mut expanded = statement.replace("{start}", START).replace("{end}", END);
    while let Some(at) = expanded.find('{') {
        let end = at + expanded[at..].find('}').unwrap();
        let (kind, argument) = expanded[at + 1..end].split_once(' ').unwrap();
        let replacement = match (kind, engine == Engine::Sqlite) {
            ("numbers", _) => {
                let number = match argument {
                    "groups" => GROUPS,
                    "tenth" => GROUPS / 10,
                    number => number.parse().unwrap(),
                } - 1;
                if engine == Engine::Sqlite {
                    format!(
                        "(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {number}) SELECT n FROM s)"
                    )
                } else {
                    format!("(SELECT n FROM generate_series(0::bigint, {number}) AS g (n))")
                }
            }
            ("day", true) => format!("strftime('%Y-%m-%d', ({START} + {argument}) / 1000, 'unixepoch')"),
            ("day", false) => {
                format!(
                    "to_char(to_timestamp(({START} + {argument}) / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
                )
            }
            (other, _) => panic!("{other}"),
        };
        expanded.replace_range(at..=end, &replacement);
    }
    expanded
}
