//! Compares docs/schema.md with the database of each engine: it lists every view and column, in
//! order, with its type and meaning. Every query in the document runs and returns rows.

use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::schema::{View, chapter, fill_every_column, views};
use harness::store::{Location, TestDatabase};
use harness::store_tests;

store_tests! {
    the_document_lists_exactly_the_views_and_columns_of_the_database,
    on_sqlite_every_column_of_a_view_has_a_declared_type,
}

crawl_tests! {
    the_values_of_a_column_have_the_documented_type,
    every_query_of_the_document_returns_rows,
    the_queries_for_churn_lifetimes_and_health_return_the_right_figures,
    on_sqlite_times_must_be_compared_with_strftime_not_datetime,
}

/// Returns the document's statements for an engine, each with its question.
fn questions(engine: Engine) -> Vec<(&'static str, &'static str)> {
    let text = chapter("## Questions and their queries");
    let mut statements = Vec::new();
    let mut question = "";
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 0 {
            question = part.trim().lines().next_back().filter(|line| !line.is_empty()).unwrap_or(question);
            continue;
        }
        let (info, block) = part.split_once('\n').unwrap();
        let applies = match info {
            "sql" => true,
            "sql sqlite" => matches!(engine, Engine::Sqlite),
            "sql postgres" => matches!(engine, Engine::Postgres),
            other => panic!("a block for {other:?}"),
        };
        let block = block.split_inclusive(";\n").map(str::trim).filter(|_| applies);
        statements.extend(block.map(|statement| (question, statement)));
    }
    statements
}

async fn the_document_lists_exactly_the_views_and_columns_of_the_database(db: &TestDatabase) {
    let sql = match &db.location {
        Location::Sqlite(_) => {
            "SELECT name FROM sqlite_schema WHERE type = 'view' AND name NOT LIKE 'base%' ORDER BY 1"
        }
        Location::Postgres(_) => {
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'tim' ORDER BY 1"
        }
    };
    let mut documented: Vec<&str> = views().iter().map(|view| view.name).collect();
    documented.sort_unstable();
    assert_eq!(db.lines(sql).await, documented);

    for view in views() {
        let names: Vec<&str> = view.columns.iter().map(|column| column.name).collect();
        assert_eq!(db.columns(view.name).await, names, "{}", view.name);
        if let Location::Postgres(_) = db.location {
            assert_comments_match_the_document(db, &view).await;
        }
    }
}

/// SQLite 3.42 and newer report the type of a `CAST`, as `INT` for integers. Tools that reflect a
/// view read it.
async fn on_sqlite_every_column_of_a_view_has_a_declared_type(db: &TestDatabase) {
    let Location::Sqlite(_) = db.location else { return };
    for view in views() {
        let declared =
            db.rows(&format!("SELECT name, type FROM pragma_table_info('{}') ORDER BY cid", view.name)).await;
        for (row, column) in declared.iter().zip(&view.columns) {
            let types: &[&str] = match column.kind {
                "time" | "day" | "text" => &["TEXT"],
                "boolean" | "integer" => &["INTEGER", "INT"],
                "number" => &["REAL"],
                other => panic!("the document has no type {other}"),
            };
            assert!(types.contains(&row[1].as_str()), "{}.{} has type {:?}", view.name, row[0], row[1]);
        }
    }
}

async fn assert_comments_match_the_document(db: &TestDatabase, view: &View) {
    let relation = format!("'tim.{}'::regclass", view.name);
    let meaning = db.value(&format!("SELECT obj_description({relation}, 'pg_class')")).await;
    assert_eq!(meaning, view.meaning, "{}", view.name);
    let sql = format!(
        "SELECT attname::text, format_type(atttypid, atttypmod), col_description(attrelid, attnum) FROM pg_attribute
         WHERE attrelid = {relation} AND attnum > 0 ORDER BY attnum"
    );
    for (row, column) in db.rows(&sql).await.iter().zip(&view.columns) {
        let kind = match column.kind {
            "time" => "timestamp with time zone",
            "day" => "date",
            "boolean" => "boolean",
            "integer" => "bigint",
            "number" => "double precision",
            "text" => "text",
            other => panic!("the document has no type {other}"),
        };
        assert_eq!(row[1..], [kind, column.meaning], "{}.{}", view.name, column.name);
    }
}

async fn the_values_of_a_column_have_the_documented_type(harness: Harness) {
    let harness = fill_every_column(harness).await;
    for view in views() {
        for column in &view.columns {
            let known = format!("FROM {} WHERE {} IS NOT NULL", view.name, column.name);
            let never = matches!(
                (view.name, column.name),
                ("live_groups", "deleted_at")
                    | ("app_status", "running_since")
                    | ("group_spans", "complete_from")
            );
            let count = harness.value(&format!("SELECT count(*) {known}")).await;
            assert_eq!(count == "0", never, "{}.{} has {count} values", view.name, column.name);
            if matches!(harness.engine, Engine::Sqlite) {
                let (type_of, like) = match column.kind {
                    "time" => {
                        ("text", "20[0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z")
                    }
                    "day" => ("text", "20[0-9][0-9]-[0-1][0-9]-[0-3][0-9]"),
                    "boolean" => ("integer", "[01]"),
                    "integer" => ("integer", "*"),
                    "number" => ("real", "*"),
                    "text" => ("text", "*"),
                    other => panic!("the document has no type {other}"),
                };
                let others = format!(
                    "SELECT typeof({name}), {name} {known} AND NOT (typeof({name}) = '{type_of}' AND {name} GLOB '{like}')",
                    name = column.name
                );
                assert_eq!(harness.lines(&others).await, [""; 0], "{}.{}", view.name, column.name);
            }
        }
    }
}

async fn every_query_of_the_document_returns_rows(harness: Harness) {
    let harness = fill_every_column(harness).await;
    let queries = questions(harness.engine);
    assert!(queries.len() > 15, "{queries:?}");
    for (question, sql) in queries {
        let found = harness.rows(sql).await;
        // The test data ends in March 2026, so queries about today return no rows.
        let of_today = sql.contains("'now'") || sql.contains("now()") || sql.contains("current_date");
        assert!(of_today || !found.is_empty(), "{question} {sql}");
        assert!(
            found.iter().flatten().any(|value| value != "NULL") || of_today,
            "{question} {sql}: {found:?}"
        );
    }
}

/// Returns some columns of the results of the queries under a question.
async fn answers<const N: usize>(harness: &Harness, question: &str, columns: [usize; N]) -> Vec<Vec<String>> {
    let mut answers = Vec::new();
    for (_, sql) in questions(harness.engine).into_iter().filter(|(heading, _)| heading.starts_with(question))
    {
        let rows = harness.rows(sql).await;
        let line = |row: Vec<String>| columns.map(|at| row.get(at).map_or("", |value| value)).join(" ");
        answers.push(rows.into_iter().map(line).collect());
    }
    assert!(!answers.is_empty(), "the document has no question {question}");
    answers
}

async fn the_queries_for_churn_lifetimes_and_health_return_the_right_figures(harness: Harness) {
    let harness = fill_every_column(harness).await;
    // Churn is three of the five groups that are left on each day.
    let churn = answers(&harness, "How much churn did each type have?", [0, 1, 2, 3, 4]).await;
    assert_eq!(churn[0], ["Private 1 0 1 0.0", "Public 2 3 0 60.0"]);

    // The age of the other group depends on today's date.
    let ages = answers(&harness, "How old are the live groups?", [0, 1]).await.remove(0);
    assert!(ages.len() == 2 && ages[0].ends_with(" 1"), "{ages:?}");
    assert_eq!(ages[1], "6 of a baseline 5");

    let health =
        answers(&harness, "Do the crawls succeed, and how long do they take?", [0, 1, 2, 3, 4]).await;
    assert_eq!(health[0], ["2026-03-02 3 2 0 1", "2026-03-01 3 3 0 0"]);
    assert!(health[1].len() == 1 && health[1][0].starts_with("0.8333"), "{health:?}");
    let crawls = answers(&harness, "Do the crawls succeed, and how long do they take?", [3, 4, 5]).await;
    assert_eq!(crawls[2], ["complete withheld review", "failed NULL refused"]);
}

async fn on_sqlite_times_must_be_compared_with_strftime_not_datetime(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    harness.create("Public", "b");
    let day = harness.crawl().await.started_at.format("%Y-%m-%d").to_string();
    let since = |time: &str| format!("SELECT count(*) FROM group_events WHERE occurred_at >= {time}");
    let last_minute = format!("'{day} 23:59:00'");
    let correct = match harness.engine {
        Engine::Sqlite => {
            // All of the day before that minute wrongly counts as later.
            assert_eq!(harness.value(&since(&format!("datetime({last_minute})"))).await, "1");
            format!("strftime('%Y-%m-%dT%H:%M:%SZ', {last_minute})")
        }
        Engine::Postgres => format!("timestamptz {last_minute}"),
    };
    assert_eq!(harness.value(&since(&correct)).await, "0");
}
