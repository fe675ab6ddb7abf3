//! Runs every query of the Grafana dashboards on its engine, with variables and macros expanded as
//! Grafana's documentation describes. Checks that the panel can draw the result. Grafana itself is
//! not started.

use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::schema::eventful;
use serde_json::Value;

crawl_tests! {
    every_query_of_the_dashboard_returns_rows_that_its_panel_can_draw,
    the_names_of_apps_are_quoted_in_every_query,
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
    assert!(!sql.contains('$'), "this test does not know a variable: {sql}");
    sql
}

/// Returns the text of a panel's query, and true if its rows are points in time.
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
    let harness = eventful(harness).await;
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
