//! Runs every query of the Grafana dashboards on its engine, with variables and macros expanded as
//! Grafana's documentation describes. Checks that the panel can draw the result, and that the
//! dashboards follow Grafana's published schema. Grafana itself is not started.

use std::path::Path;
use std::process::Command;

use chrono::{DateTime, FixedOffset, SecondsFormat, TimeDelta, Utc};
use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::schema::fill_every_column;
use serde_json::Value;
use tim_group_sync::simulator::Fault;

crawl_tests! {
    every_query_of_the_dashboard_returns_rows_that_its_panel_can_draw,
    the_names_of_apps_are_quoted_in_every_query,
    an_app_that_never_had_a_complete_crawl_counts_from_its_first_crawl,
    the_quota_is_compared_with_the_peak_of_the_newest_month,
    the_point_of_a_day_is_on_that_day_from_utc_minus_12_to_utc_plus_11,
    details_that_are_not_kept_leave_their_panel_empty,
}

const POSTGRES: &str = include_str!("../../grafana/dashboards/postgresql.json");
const SQLITE: &str = include_str!("../../grafana/dashboards/sqlite.json");

fn dashboard(engine: Engine) -> Value {
    let text = match engine {
        Engine::Sqlite => SQLITE,
        Engine::Postgres => POSTGRES,
    };
    serde_json::from_str(text).unwrap()
}

/// Expands a query as Grafana does for March 2026 and these apps.
fn expanded(engine: Engine, sql: &str, apps: &[&str]) -> String {
    // `${…:sqlstring}` expands to the quoted values, separated by commas, with quotes doubled.
    let quoted: Vec<String> = apps.iter().map(|app| format!("'{}'", app.replace('\'', "''"))).collect();
    let mut sql = sql.replace("${app:sqlstring}", &quoted.join(","));
    sql = sql.replace("${group_quota:sqlstring}", "'5'");
    match engine {
        Engine::Postgres => {
            let (from, to) = ("'2026-03-01T00:00:00Z'", "'2026-03-31T23:59:59Z'");
            sql = sql.replace("$__timeFrom()", from).replace("$__timeTo()", to);
            while let Some((before, rest)) = sql.split_once("$__timeFilter(") {
                let (column, after) = rest.split_once(')').unwrap();
                sql = format!("{before}{column} BETWEEN {from} AND {to}{after}");
            }
        }
        // In milliseconds.
        Engine::Sqlite => sql = sql.replace("$__from", "1772323200000").replace("$__to", "1775001599000"),
    }
    assert!(!sql.contains('$'), "this query has a variable that the test does not expand: {sql}");
    sql
}

/// Returns the text of a panel's query, and true if it is a time series.
fn query(engine: Engine, target: &Value) -> (&str, bool) {
    match engine {
        Engine::Postgres => (target["rawSql"].as_str().unwrap(), target["format"] == "time_series"),
        Engine::Sqlite => {
            assert_eq!(target["rawQueryText"], target["queryText"]);
            (target["rawQueryText"].as_str().unwrap(), target["queryType"] == "time series")
        }
    }
}

async fn every_query_of_the_dashboard_returns_rows_that_its_panel_can_draw(harness: Harness) {
    let harness = fill_every_column(harness).await;
    let engine = harness.engine;
    let dashboard = dashboard(engine);
    let variable = &dashboard["templating"]["list"][1];
    let apps = harness.lines(&expanded(engine, variable["query"].as_str().unwrap(), &[])).await;
    assert_eq!(apps, ["prod"]);

    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let (sql, of_time) = query(engine, &panel["targets"][0]);
        let sql = expanded(engine, sql, &["prod", "other"]);
        let rows = harness.rows(&sql).await;
        assert!(!rows.is_empty(), "{title} {sql}");
        let is_number = |value: &String| value.parse::<f64>().is_ok();
        if of_time {
            assert_eq!(panel["type"], "timeseries", "{title}");
            assert!(sql.contains("AS \"time\""), "{title}");
            // Grafana needs times in ascending order.
            assert!(rows.iter().all(|row| row[0].starts_with("2026-03-0")), "{title}: {rows:?}");
            assert!(rows.is_sorted_by_key(|row| &row[0]), "{title}: {rows:?}");
            let values = if sql.contains("AS metric") { 2 } else { 1 };
            assert!(rows.iter().flat_map(|row| &row[values..]).all(is_number), "{title}: {rows:?}");
        }
        if panel["type"] == "stat" {
            assert!(rows.len() == 1 && rows[0].len() == 1 && is_number(&rows[0][0]), "{title}: {rows:?}");
        }
        if matches!(engine, Engine::Sqlite) {
            // The SQLite plugin treats a text column as a time only if `timeColumns` names it.
            let time_columns = panel["targets"][0]["timeColumns"].as_array().unwrap();
            let columns = sql.split("FROM").next().unwrap();
            for column in time_columns.iter().map(|value| value.as_str().unwrap()) {
                assert!(columns.contains(column), "{title}: {column}");
            }
            let texts = rows[0].iter().filter(|value| value.len() == 20 && value.ends_with('Z')).count();
            assert_eq!(time_columns.len(), texts, "{title}: {:?}", rows[0]);
        }
    }
}

/// Returns the query of the panel with this title, expanded.
fn query_of(engine: Engine, title: &str) -> String {
    let dashboard = dashboard(engine);
    let mut panels = dashboard["panels"].as_array().unwrap().iter();
    let panel = panels.find(|panel| panel["title"] == title).unwrap_or_else(|| panic!("no panel {title}"));
    expanded(engine, query(engine, &panel["targets"][0]).0, &["prod"])
}

/// Replaces the current time in a query.
fn with_current_time(now: &str, sql: &str) -> String {
    sql.replace("'now'", &format!("'{now}'")).replace("now()", &format!("timestamptz '{now}'"))
}

async fn an_app_that_never_had_a_complete_crawl_counts_from_its_first_crawl(harness: Harness) {
    harness.create("Public", "a");
    for _ in 0..2 {
        harness.fault_at_request(1, Fault::ErrorCode(60021));
        harness.crawl().await;
    }
    let never = harness.lines(&query_of(harness.engine, "Apps without a complete crawl")).await;
    assert_eq!(never, ["1"]);
    let age = query_of(harness.engine, "Oldest last complete crawl");
    let first = harness.lines("SELECT started_at FROM crawls ORDER BY crawl_id LIMIT 1").await;
    let later = first[0].parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(4);
    let later = later.to_rfc3339_opts(SecondsFormat::Secs, true);
    let found = harness.lines(&with_current_time(&later, &age)).await;
    let seconds = found[0].parse::<f64>().unwrap();
    assert!((seconds - 4.0 * 86400.0).abs() <= 1.0, "4 days: {found:?}");

    harness.crawl().await;
    let never = harness.lines(&query_of(harness.engine, "Apps without a complete crawl")).await;
    assert_eq!(never, ["0"]);
    let found = harness.lines(&with_current_time(&later, &age)).await;
    assert!(found[0].parse::<f64>().unwrap() < seconds, "{found:?}");
}

async fn the_quota_is_compared_with_the_peak_of_the_newest_month(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.dissolve("a");
    harness.crawl().await;
    assert_eq!(harness.lines(&query_of(harness.engine, "TotalCount")).await, ["3"]);
    assert_eq!(harness.lines(&query_of(harness.engine, "Peak of the month")).await, ["4"]);
    let share = harness.lines(&query_of(harness.engine, "Share of the quota")).await;
    assert!((share[0].parse::<f64>().unwrap() - 0.8).abs() < 1e-9, "4 of 5: {share:?}");
    // The peak of the next month is lower.
    harness.move_clock_by_hours(31 * 24);
    harness.crawl().await;
    assert_eq!(harness.lines(&query_of(harness.engine, "Peak of the month")).await, ["3"]);
    let without = query_of(harness.engine, "Share of the quota").replace("'5'", "''");
    assert_eq!(harness.rows(&without).await.len(), 1, "an empty quota is no error");
}

async fn the_point_of_a_day_is_on_that_day_from_utc_minus_12_to_utc_plus_11(harness: Harness) {
    let harness = fill_every_column(harness).await;
    let days = harness.lines("SELECT DISTINCT day FROM daily_counts ORDER BY day").await;
    assert!(days.len() > 1, "{days:?}");
    for title in [
        "Appeared and vanished groups per day",
        "Net growth per day",
        "Results of crawls per day",
        "Live groups by type",
        "Live groups and TotalCount",
    ] {
        let sql = query_of(harness.engine, title);
        let mut rows = harness.rows(&sql).await;
        rows.retain(|row| !row[1].ends_with("TotalCount"));
        assert!(!rows.is_empty(), "{title}");
        for row in rows {
            let time = row[0].parse::<DateTime<Utc>>().unwrap();
            for hours in [-12, -8, 0, 8, 11] {
                let zone = FixedOffset::east_opt(hours * 3600).unwrap();
                let shown = time.with_timezone(&zone).date_naive().to_string();
                assert!(days.contains(&shown), "{title} at UTC{hours:+}: {row:?} {days:?}");
            }
        }
        // At noon UTC of today the point would be in the future, outside the range.
        let now = "2026-03-03T01:00:00Z";
        let rows = harness.rows(&with_current_time(now, &sql)).await;
        assert!(rows.iter().all(|row| row[0].as_str() < now), "{title}: {rows:?}");
    }
}

async fn details_that_are_not_kept_leave_their_panel_empty(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    let rows = harness.rows(&query_of(harness.engine, "Details of groups")).await;
    assert!(rows.is_empty(), "{rows:?}");
}

async fn the_names_of_apps_are_quoted_in_every_query(harness: Harness) {
    for panel in dashboard(harness.engine)["panels"].as_array().unwrap() {
        let (sql, _) = query(harness.engine, &panel["targets"][0]);
        assert_eq!(sql.matches("$app").count() + sql.matches("${app}").count(), 0, "{sql}");
        harness.rows(&expanded(harness.engine, sql, &["o'brien"])).await;
    }
}

#[test]
fn both_dashboards_have_the_same_panels_and_name_sources_that_are_provisioned() {
    let titles = |engine| -> Vec<Value> {
        dashboard(engine)["panels"].as_array().unwrap().iter().map(|panel| panel["title"].clone()).collect()
    };
    assert_eq!(titles(Engine::Sqlite), titles(Engine::Postgres));
    let sources = [
        (Engine::Postgres, include_str!("../../grafana/provisioning/datasources/postgresql.yaml")),
        (Engine::Sqlite, include_str!("../../grafana/provisioning/datasources/sqlite.yaml")),
    ];
    for (engine, source) in sources {
        let dashboard = dashboard(engine);
        let kind = dashboard["templating"]["list"][0]["query"].as_str().unwrap();
        assert!(source.contains(&format!("type: {kind}\n")), "{kind}");
        for panel in dashboard["panels"].as_array().unwrap() {
            for source in [&panel["datasource"], &panel["targets"][0]["datasource"]] {
                assert_eq!(source["type"], kind);
                assert_eq!(source["uid"], "${datasource}");
            }
        }
    }
}

#[test]
fn an_import_asks_for_the_data_source_and_a_provisioned_dashboard_needs_no_answer() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let dashboard = dashboard(engine);
        let inputs = dashboard["__inputs"].as_array().unwrap();
        assert_eq!(inputs.len(), 1);
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!((&inputs[0]["type"], &inputs[0]["pluginId"]), (&"datasource".into(), &variable["query"]));
        // Provisioning does not replace inputs. Only the variable has this one, and Grafana
        // replaces the value of a data source variable that names no existing source.
        let named = format!("${{{}}}", inputs[0]["name"].as_str().unwrap());
        assert_eq!(variable["current"], serde_json::json!({ "text": named, "value": named }));
        assert_eq!(dashboard.to_string().matches(&named).count(), 2);
        let required = dashboard["__requires"].as_array().unwrap();
        let is_required = |kind: &Value| required.iter().any(|entry| entry["id"] == *kind);
        assert!(is_required(&variable["query"]));
        assert!(dashboard["panels"].as_array().unwrap().iter().all(|panel| is_required(&panel["type"])));
    }
}

/// Checks a dashboard against a version of Grafana's schema. Returns true if the dashboard
/// conforms, and the output.
fn check_schema(version: &str, dashboard: &Path) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = root.join("target/grafana").join(version);
    assert!(schema.is_dir(), "Grafana's schema {version} is installed by tests/run");
    let output = Command::new(root.join("target/datasette/bin/python"))
        .arg(root.join("tests/outside/grafana_schema.py"))
        .arg(dashboard)
        .env("PYTHONPATH", schema)
        .output()
        .expect("Python is installed by tests/run");
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
#[ignore = "needs Grafana's schema: tests/run"]
fn the_dashboards_follow_the_published_schema_of_grafana() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboards");
    for version in ["10.1.0", "11.6.0"] {
        for name in ["sqlite.json", "postgresql.json"] {
            let (conforms, found) = check_schema(version, &root.join(name));
            assert!(conforms, "{name}, Grafana {version}:\n{found}");
        }
        let mut wrong = dashboard(Engine::Sqlite);
        wrong["panels"][0]["options"]["colourMode"] = "value".into();
        wrong["panels"][1]["gridPos"]["w"] = "6".into();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), wrong.to_string()).unwrap();
        let (conforms, found) = check_schema(version, file.path());
        assert!(!conforms && found.contains("panels[0].options.colourMode"), "{found}");
        assert!(found.contains("panels[1].grid_pos.w"), "{found}");
    }
}

#[test]
fn no_two_panels_overlap_and_none_is_wider_than_the_grid() {
    let dashboard = dashboard(Engine::Sqlite);
    let panels = dashboard["panels"].as_array().unwrap();
    let place = |panel: &Value| ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
    for (number, panel) in panels.iter().enumerate() {
        let [x, y, w, h] = place(panel);
        assert!(x + w <= 24, "{}", panel["title"]);
        for other in &panels[..number] {
            let [ox, oy, ow, oh] = place(other);
            let apart = x + w <= ox || ox + ow <= x || y + h <= oy || oy + oh <= y;
            assert!(apart, "{} and {}", panel["title"], other["title"]);
        }
    }
}
