//! Every query of the Grafana dashboards runs on its engine, with what Grafana puts in expanded as its documentation says,
//! and gives what its panel can draw. No Grafana is started.

use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::schema::eventful;
use serde_json::Value;

crawl_tests! {
    every_query_of_the_dashboard_runs_and_gives_what_its_panel_draws,
    an_apps_name_is_quoted_before_it_gets_into_a_query,
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

/// A query as Grafana sends it for March 2026 and these apps.
fn expanded(engine: Engine, sql: &str, apps: &[&str]) -> String {
    // `${…:sqlstring}`: quoted, with quotes doubled, a comma between several.
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
        // Milliseconds.
        Engine::Sqlite => sql = sql.replace("$__from", "1772323200000").replace("$__to", "1775001599000"),
    }
    assert!(!sql.contains('$'), "unknown to this test: {sql}");
    sql
}

/// The text of a panel's query, and whether its rows are points in time.
fn query(engine: Engine, target: &Value) -> (&str, bool) {
    match engine {
        Engine::Postgres => (target["rawSql"].as_str().unwrap(), target["format"] == "time_series"),
        Engine::Sqlite => {
            assert_eq!(target["rawQueryText"], target["queryText"]);
            (target["rawQueryText"].as_str().unwrap(), target["queryType"] == "time series")
        }
    }
}

async fn every_query_of_the_dashboard_runs_and_gives_what_its_panel_draws(harness: Harness) {
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
            // Grafana reads times as either engine has them, in ascending order.
            assert!(rows.iter().all(|row| row[0].starts_with("2026-03-0")), "{title}: {rows:?}");
            assert!(rows.is_sorted_by_key(|row| &row[0]), "{title}: {rows:?}");
            let values = if sql.contains("AS metric") { 2 } else { 1 };
            assert!(rows.iter().flat_map(|row| &row[values..]).all(is_number), "{title}: {rows:?}");
        }
        if panel["type"] == "stat" {
            assert!(rows.len() == 1 && rows[0].len() == 1 && is_number(&rows[0][0]), "{title}: {rows:?}");
        }
        if matches!(engine, Engine::Sqlite) {
            // The plugin takes a text for a time where it is told to.
            let told = panel["targets"][0]["timeColumns"].as_array().unwrap();
            let columns = sql.split("FROM").next().unwrap();
            for told in told.iter().map(|column| column.as_str().unwrap()) {
                assert!(columns.contains(told), "{title}: {told}");
            }
            let texts = rows[0].iter().filter(|value| value.len() == 20 && value.ends_with('Z')).count();
            assert_eq!(told.len(), texts, "{title}: {:?}", rows[0]);
        }
    }
}

async fn an_apps_name_is_quoted_before_it_gets_into_a_query(harness: Harness) {
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
