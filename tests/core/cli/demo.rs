//! `demo`, the queries of README.md on its database, and a port that is in use.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use harness::cli::{CliHarness, get, rows};
use harness::store::TestDatabase;

/// The width of the narrowest usual terminal.
const COLUMNS: usize = 80;

/// Returns the statements of the blocks of SQL in a page, without their comments.
fn statements(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sql\n"));
    let code = |line: &&str| !line.starts_with("--");
    let blocks = blocks.map(|block| block.lines().filter(code).collect::<Vec<_>>().join("\n"));
    let statements = blocks.collect::<String>();
    statements.split(';').map(str::trim).filter(|sql| !sql.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_of_the_readmes_return_rows_on_the_demos_database() {
    let cli = CliHarness::new().await;
    // With the default number of groups, because the ids depend on it.
    let demo = cli.run(&["demo"]).await;
    assert_eq!(demo.code, Some(0), "{demo:?}");
    for page in ["README.md", "README.zh-CN.md"] {
        let statements = statements(page);
        assert_eq!(statements.len(), 4, "{page}");
        for sql in statements {
            assert!(sql.lines().all(|line| line.chars().count() <= COLUMNS), "{sql}");
            let found = rows(&cli.path("tim-group-sync-demo.db"), &sql).await;
            assert!(!found.is_empty(), "{page}: {sql}");
        }
    }
    for line in demo.stdout.lines() {
        let is_table = line.starts_with(['┌', '│', '╞', '└']);
        let is_sql = ["SELECT", "FROM", "JOIN", "    "].iter().any(|start| line.starts_with(start));
        assert!(!(is_table || is_sql) || line.chars().count() <= COLUMNS, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_demo_does_not_touch_the_database_of_a_running_one() {
    let cli = CliHarness::new().await;
    let arguments = ["demo", "--groups", "100", "--serve", "--listen", "127.0.0.1:0"];
    let mut running = cli.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("The dashboard is at ")).unwrap();
    let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).unwrap().0;
    let second = cli.run(&["demo", "--groups", "100"]).await;
    assert!(second.code == Some(75) && second.stderr.contains("another demo is using"), "{second:?}");
    let (_, _, answer) = get(address, "/api/apps").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&answer).unwrap()["apps"][0]["app"], "demo");
    running.kill().unwrap();
    running.wait().unwrap();
    let next = cli.run(&["demo", "--groups", "100"]).await;
    assert_eq!(next.code, Some(0), "{next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_was_killed_in_its_first_moments_can_be_run_again() {
    let demo = ["demo", "--groups", "100", "--database", "sqlite:groups.db"];
    let record = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT)";
    let tables = include_str!("../../../migrations/sqlite/0001_tables.sql");
    let first_migration = format!("{record}; {tables}");
    // Runs the demo on a file in which a killed demo has executed these statements.
    let again = async |state: &str, sql: &str| {
        let cli = CliHarness::new().await;
        TestDatabase::execute_in_new(&cli.path("groups.db"), sql).await;
        let ended = cli.run(&demo).await;
        assert_eq!(ended.code, Some(0), "{state}: {ended:?}");
    };
    let migrated = async || {
        let cli = CliHarness::new().await;
        assert_eq!(cli.run(&["migrate"]).await.code, Some(0));
        let ended = cli.run(&demo).await;
        assert_eq!(ended.code, Some(0), "before the first crawl: {ended:?}");
    };
    // A demo takes five seconds, because it waits between its requests.
    tokio::join!(
        again("before the tables", ""),
        again("in a migration", record),
        again("between the migrations", &first_migration),
        migrated(),
    );

    let cli = CliHarness::new().await;
    TestDatabase::execute_in_new(&cli.path("groups.db"), "CREATE TABLE mine (x INT)").await;
    let refused = cli.run(&demo).await;
    assert!(
        refused.code == Some(1) && refused.stderr.contains("is not the database of an earlier demo"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_port_is_taken_logs_one_line() {
    let cli = CliHarness::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    for section in ["metrics", "dashboard"] {
        let section = format!("[{section}]\nlisten = \"");
        std::fs::write(cli.path("config.toml"), config.replace(&section, &format!("{section}{address}")))
            .unwrap();
        let refused = cli.run(&["run"]).await;
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(78), 1), "{refused:?}");
        assert_eq!(refused.stderr.matches("Address already in use").count(), 1, "{refused:?}");
    }
    let refused = cli.run(&["demo", "--serve", "--listen", &address.to_string()]).await;
    assert!(refused.stderr.contains("or set another port"), "{refused:?}");
    assert!(!refused.stderr.contains("no listener"), "{refused:?}");
}
