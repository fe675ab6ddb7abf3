//! Runs the Python code of docs/schema.md, with pandas and DuckDB, on a database with a history.
//! Compares the exported files with the views.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::crawl::{Engine, Harness};
use harness::schema::{chapter, fill_every_column};
use harness::store::Location;
use serde_json::{Value, json};

/// Prints the schema and the rows of a Parquet file as JSON.
const READ_PARQUET: &str = "
import json, sys
import pyarrow.parquet

table = pyarrow.parquet.read_table(sys.argv[1])
types = {field.name: str(field.type) for field in table.schema}
times = lambda value: value.strftime('%Y-%m-%dT%H:%M:%SZ')
print(json.dumps({'types': types, 'rows': [list(row.values()) for row in table.to_pylist()]}, default=times))
";

/// The columns of the exported groups.
const GROUPS: &str =
    "SELECT group_id, group_type, in_baseline, first_seen_at, deleted_at FROM groups ORDER BY group_id";

/// The columns of the exported events.
const EVENTS: &str =
    "SELECT event_id, occurred_at, group_id, event, old_type, new_type FROM group_events ORDER BY event_id";

/// Returns the Python blocks of the part of the document that begins with a heading.
fn code_of(chapter_title: &str, heading: &str) -> String {
    let (_, part) = chapter(chapter_title).split_once(&format!("\n{heading}\n")).unwrap();
    let part = part.split("\n### ").next().unwrap();
    let blocks: Vec<&str> =
        part.split("```python\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "{heading} has no code");
    blocks.concat()
}

/// Runs Python code in a folder, with DuckDB's extension for SQLite in place of its download.
fn python(folder: &Path, code: &str, arguments: &[&Path]) -> String {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/warehouse");
    let output = Command::new(installed.join("bin/python"))
        .arg("-c")
        .arg(code)
        .args(arguments)
        .current_dir(folder)
        .env("HOME", installed.join("home"))
        .output()
        .expect("DuckDB and pandas are installed by tests/run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{error}\n{code}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the types of the columns, and the rows.
fn parquet(folder: &Path, file: &Path) -> (Value, Vec<Value>) {
    let mut read: Value = serde_json::from_str(&python(folder, READ_PARQUET, &[file])).unwrap();
    (read["types"].take(), read["rows"].as_array().unwrap().clone())
}

/// Returns the rows of a view as the Parquet file has them. `numbers` and `booleans` are the
/// columns with such values.
async fn expected(harness: &Harness, sql: &str, numbers: &[usize], booleans: &[usize]) -> Vec<Value> {
    let value = |(column, text): (usize, String)| match text.as_str() {
        "NULL" => Value::Null,
        text if numbers.contains(&column) => text.parse::<i64>().unwrap().into(),
        text if booleans.contains(&column) => (text == "1").into(),
        text => text.into(),
    };
    let rows = harness.rows(sql).await.into_iter();
    rows.map(|row| row.into_iter().enumerate().map(value).collect()).collect()
}

async fn publish(harness: &Harness, folder: &Path) {
    harness.store.publish(&folder.join("groups.db")).await.unwrap().unwrap();
}

fn exported_events(folder: &Path) -> (usize, Vec<Value>) {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder.join("events")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut rows: Vec<Value> = Vec::new();
    for file in &files {
        let (types, events) = parquet(folder, file);
        assert_eq!((&types["event_id"], &types["occurred_at"]), (&"int64".into(), &utc()), "{types}");
        rows.extend(events);
    }
    rows.sort_by_key(|row| row[0].as_i64());
    (files.len(), rows)
}

/// Returns the lines of the exported CSV file, without quotes, and in lower case.
fn csv(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("groups.csv")).unwrap();
    text.replace('"', "").to_lowercase().lines().map(str::to_owned).collect()
}

/// Returns the expected lines of the CSV file. `offset` is how the program writes UTC.
fn csv_lines(groups: &[Value], offset: &str) -> Vec<String> {
    let field = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) if text.ends_with('Z') => text.replace('T', " ").replace('Z', offset),
        Value::String(text) => text.to_lowercase(),
        other => other.to_string(),
    };
    let header = "group_id,group_type,in_baseline,first_seen_at,deleted_at".to_owned();
    let line = |row: &Value| row.as_array().unwrap().iter().map(field).collect::<Vec<_>>().join(",");
    [header].into_iter().chain(groups.iter().map(line)).collect()
}

fn utc() -> Value {
    "timestamp[us, tz=UTC]".into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs DuckDB: tests/run"]
async fn duckdb_exports_groups_and_each_event_exactly_once_from_sqlite() {
    let harness = fill_every_column(Harness::on(Engine::Sqlite).await).await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let code = code_of("## Export to a warehouse", "### From SQLite with DuckDB");
    publish(&harness, folder).await;
    python(folder, &code, &[]);
    let (types, rows) = parquet(folder, &folder.join("groups.parquet"));
    assert_eq!(
        types,
        json!({
            "group_id": "string", "group_type": "string", "in_baseline": "bool",
            "first_seen_at": utc(), "deleted_at": utc(),
        })
    );
    let groups = expected(&harness, GROUPS, &[], &[2]).await;
    assert!(groups.iter().any(|row| row[4].is_null()) && groups.iter().any(|row| !row[4].is_null()));
    assert_eq!(rows, groups);
    assert_eq!(csv(folder), csv_lines(&groups, "+00"));

    let first = expected(&harness, EVENTS, &[0], &[]).await;
    assert_eq!(exported_events(folder), (1, first.clone()));
    python(folder, &code, &[]);
    assert_eq!(exported_events(folder), (1, first), "nothing is new");
    harness.create("Public", "later");
    harness.crawl().await;
    publish(&harness, folder).await;
    // An interrupted export leaves this file.
    std::fs::write(folder.join("events/unfinished"), "PAR1").unwrap();
    python(folder, &code, &[]);
    assert_eq!(exported_events(folder), (2, expected(&harness, EVENTS, &[0], &[]).await));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL and pandas: tests/run"]
async fn pandas_exports_groups_from_postgresql() {
    let harness = fill_every_column(Harness::on(Engine::Postgres).await).await;
    let Location::Postgres(database) = &harness.db.location else { panic!("not PostgreSQL") };
    let code = code_of("## Export to a warehouse", "### From PostgreSQL with pandas");
    let documented = "postgresql+psycopg://tim_reader@db.example.com/tim";
    assert!(code.contains(documented));
    let (_, rest) = database.url.split_once("://").unwrap();
    let code = code.replace(documented, &format!("postgresql+psycopg://{rest}"));
    let folder = tempfile::tempdir().unwrap();
    python(folder.path(), &code, &[]);
    let (types, rows) = parquet(folder.path(), &folder.path().join("groups.parquet"));
    assert_eq!((&types["in_baseline"], &types["deleted_at"]), (&"bool".into(), &utc()), "{types}");
    let groups = expected(&harness, GROUPS, &[], &[2]).await;
    assert_eq!(rows, groups);
    assert_eq!(csv(folder.path()), csv_lines(&groups, "+00:00"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs pandas: tests/run"]
async fn pandas_reads_times_days_and_nulls_from_sqlite_and_writes_an_excel_file() {
    let harness = fill_every_column(Harness::on(Engine::Sqlite).await).await;
    let folder = tempfile::tempdir().unwrap();
    publish(&harness, folder.path()).await;
    let chapter = "## Types and times in other tools";
    let read = code_of(chapter, "### pandas");
    let show = "print(days[\"day\"].dtype, events[\"occurred_at\"].dtype, len(events), events[\"beijing\"].iloc[0])\n";
    let code = [read.as_str(), show, code_of(chapter, "### Excel").as_str()].concat();
    let shown = python(folder.path(), &code, &[]);
    let events = harness.lines("SELECT count(*), min(event_id) FROM group_events").await;
    let count = events[0].split(' ').next().unwrap();
    assert!(shown.contains("datetime64[") && shown.contains(", UTC] "), "{shown}");
    assert!(shown.contains(&format!("] {count} 2026-03-01 ")), "{shown}");
    assert!(shown.trim().ends_with("+08:00"), "{shown}");
    assert!(folder.path().join("events.xlsx").exists());
}
