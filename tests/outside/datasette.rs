//! Checks that datasette/metadata.json agrees with docs/schema.md and works in Datasette.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::crawl::{Engine, Harness};
use harness::schema::{fill_every_column, views};
use serde_json::Value;
use tim_group_sync::simulator::Settings;

const METADATA: &str = include_str!("../../datasette/metadata.json");

/// Parameters for the canned queries.
const PARAMETERS: &str = "app=prod&group_id=%40TGS%232J4SZEAEL&first_day=2026-03-01&last_day=2026-03-31";

fn metadata() -> Value {
    serde_json::from_str(METADATA).unwrap()
}

/// A running Datasette. Dropping it stops the process.
struct Datasette {
    process: Child,
    url: String,
}

impl Datasette {
    /// Serves a file with the metadata.
    fn start(database: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(root.join("target/datasette/bin/datasette"));
        command.args(["serve", "--host", "127.0.0.1", "--port", "0", "--metadata"]);
        command
            .arg(root.join("datasette/metadata.json"))
            .arg(database)
            .env("HOME", database.parent().unwrap());
        let mut process = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Datasette is installed by tests/run");
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let mut url = None;
        for line in stderr.lines() {
            let line = line.unwrap();
            if let Some((_, address)) = line.split_once("running on ") {
                url = address.split_whitespace().next().map(str::to_owned);
                break;
            }
        }
        Self { process, url: url.expect("Datasette prints its address") }
    }

    async fn get(&self, path: &str) -> String {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await).unwrap()
    }
}

impl Drop for Datasette {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn the_metadata_has_the_documents_descriptions_and_hides_everything_private() {
    let mut described = metadata()["databases"]["groups"]["tables"].take();
    let described = described.as_object_mut().unwrap();
    for view in views() {
        let entry = described.remove(view.name).unwrap_or_else(|| panic!("{} is not described", view.name));
        assert_eq!(entry["description"], view.meaning, "{}", view.name);
        let columns: BTreeMap<&str, &str> =
            view.columns.iter().map(|column| (column.name, column.meaning)).collect();
        assert_eq!(entry["columns"], serde_json::to_value(columns).unwrap(), "{}", view.name);
    }
    let harness = Harness::on(Engine::Sqlite).await;
    let named = async |condition: &str| {
        harness.lines(&format!("SELECT name FROM sqlite_schema WHERE {condition}")).await
    };
    for table in named("type = 'table' AND name NOT LIKE 'sqlite%'").await {
        assert_eq!(described.remove(&table), Some(serde_json::json!({ "hidden": true })), "{table}");
    }
    // The metadata can hide tables in Datasette, but not views. It denies access to the private
    // views instead.
    for view in named("type = 'view' AND name LIKE 'base%'").await {
        assert_eq!(described.remove(&view), Some(serde_json::json!({ "allow": false })), "{view}");
    }
    // SQLite creates its internal tables when it needs them.
    described.retain(|name, _| !name.starts_with("sqlite_"));
    assert!(described.is_empty(), "neither view nor table: {described:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Datasette: tests/run"]
async fn datasette_shows_the_published_copy_with_descriptions_and_runs_every_canned_query() {
    let harness = fill_every_column(Harness::on(Engine::Sqlite).await).await;
    let folder = tempfile::tempdir().unwrap();
    let copy: PathBuf = folder.path().join("groups.db");
    harness.store.publish(&copy).await.unwrap().unwrap();
    let datasette = tokio::task::spawn_blocking(move || Datasette::start(&copy)).await.unwrap();

    let shown = datasette.json("/groups.json").await;
    let names = |list: &Value| -> Vec<String> {
        let names = list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let mut documented: Vec<&str> = views().iter().map(|view| view.name).collect();
    documented.sort_unstable();
    assert_eq!(names(&shown["views"]), documented);
    let tables = shown["tables"].as_array().unwrap();
    assert!(tables.iter().all(|table| table["hidden"] == true), "{tables:?}");

    for view in views() {
        let page = datasette.get(&format!("/groups/{}", view.name)).await;
        for meaning in [view.meaning, view.columns[2].meaning] {
            let shown = meaning.replace('\'', "&#39;");
            assert!(page.contains(&shown), "{} does not show {meaning:?}", view.name);
        }
        let number = Settings::default().sdk_app_id.to_string();
        assert!(page.contains(&number), "{} shows no row", view.name);
    }

    let queries = metadata()["databases"]["groups"]["queries"].take();
    assert_eq!(shown["queries"].as_array().unwrap().len(), queries.as_object().unwrap().len());
    for (name, query) in queries.as_object().unwrap() {
        let answer = datasette.json(&format!("/groups/{name}.json?_shape=array&{PARAMETERS}")).await;
        // The test data ends in March 2026, so queries about today return no rows.
        let of_today = query["sql"].as_str().unwrap().contains("'now'");
        assert!(answer.as_array().is_some_and(|rows| of_today || !rows.is_empty()), "{name}: {answer}");
    }
}
