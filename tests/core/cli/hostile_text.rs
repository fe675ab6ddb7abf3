//! Unsafe characters in group ids, reasons, host names and errors. They break lines, move the
//! cursor of a terminal, reverse the direction of text or are invisible. Every command and log line
//! escapes them, and JSON values stay the same.

use std::process::Stdio;
use std::time::Duration;

use harness::cli::{CliHarness, CommandOutput, get, start_with_metrics};
use harness::program::Service;
use tim_group_sync::simulator::{At, Fault};
use tokio::time::timeout;

/// Group ids with unsafe characters. An id may contain any character except control characters.
const IDS: [&str; 4] = ["a\u{202e}b", "c\u{200b}d", "e\u{2028}<3>f", "g\u{feff}h\u{e0041}"];
/// A reason and host name with unsafe characters, control characters included.
const REASON: &str = "no\n<3>forged: all is well\r\u{1b}[2J\u{9b}31m\u{202e}\u{7}";

fn is_safe(text: &str) -> bool {
    let is_hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}');
    !text.chars().any(|c| (c.is_control() && c != '\n') || is_hidden(c))
}

/// Runs a command. Checks that its output has no unsafe characters, and no line with a forged
/// priority prefix.
async fn run_safely(cli: &CliHarness, arguments: &[&str]) -> CommandOutput {
    let ended = cli.run(arguments).await;
    assert!(
        is_safe(&ended.stdout) && is_safe(&ended.stderr),
        "{arguments:?} {:?} {:?}",
        ended.stdout,
        ended.stderr
    );
    let printed = format!("{}{}", ended.stdout, ended.stderr);
    assert!(!printed.lines().any(|line| line.starts_with("<3>")), "{arguments:?} {printed:?}");
    ended
}

async fn execute(cli: &CliHarness, sql: String) {
    use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(cli.path("groups.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Returns an app with the groups of `IDS`, whose deletion a crawl has withheld. `REASON` is the
/// reason and the host of all crawls.
async fn app_with_unsafe_text() -> CliHarness {
    let cli = CliHarness::new().await;
    cli.configure("[apps.prod.deletion]\nmax_fraction = 0.1\nmin_groups = 0\n");
    IDS.iter().for_each(|id| cli.api.create("Public", id));
    cli.api.create_many("Public", 4);
    assert_eq!(run_safely(&cli, &["crawl"]).await.code, Some(0));
    assert!(IDS.iter().all(|id| cli.api.dissolve(id)));
    assert_eq!(run_safely(&cli, &["crawl"]).await.code, Some(3));
    let reason = REASON.replace('\'', "''");
    execute(&cli, format!("UPDATE crawl SET reason = '{reason}', host = '{reason}'")).await;
    cli
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_prints_unsafe_text_without_escapes() {
    let cli = app_with_unsafe_text().await;
    for arguments in [
        &["status"][..],
        &["check"],
        &["crawl", "--dry-run"],
        &["approve", "--crawl", "2", "--dry-run"],
        &["approve", "--crawl", "2"],
        &["events", "--app", "prod"],
        &["undelete", "--crawl", "2", "--dry-run"],
        &["undelete", "--crawl", "2"],
        &["crawl"],
        &["forget", "--app", REASON],
        &["crawl", "--app", REASON],
        &["usersig", "--app", REASON],
        &["--config", REASON, "status"],
    ] {
        run_safely(&cli, arguments).await;
    }
    let listed = run_safely(&cli, &["crawl", "--dry-run"]).await;
    assert!(listed.stdout.contains("groups listed"), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_shown_with_escapes_and_is_exact_in_json() {
    let cli = app_with_unsafe_text().await;
    let listed = run_safely(&cli, &["approve", "--crawl", "2", "--dry-run"]).await;
    let expected = ["a\\u{202e}b", "c\\u{200b}d", "e\\u{2028}<3>f", "g\\u{feff}h\\u{e0041}"];
    assert_eq!(listed.stdout.lines().collect::<Vec<_>>(), expected);
    let listed = run_safely(&cli, &["approve", "--crawl", "2", "--dry-run", "--json"]).await;
    assert_eq!(listed.result()["group_ids"], serde_json::json!(IDS));
    let shown = run_safely(&cli, &["status", "--json"]).await;
    assert_eq!(shown.result()[0]["last_crawl"]["reason"], REASON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_new_ids_with_escapes() {
    let cli = CliHarness::new().await;
    cli.api.create("Public", "plain");
    run_safely(&cli, &["crawl"]).await;
    IDS.iter().for_each(|id| cli.api.create("Public", id));
    let shown = run_safely(&cli, &["crawl", "--dry-run"]).await;
    assert!(shown.stdout.contains("prod: appeared a\\u{202e}b (Public)\n"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_with_unsafe_text_is_one_line() {
    let cli = CliHarness::new().await;
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let path = "sqlite:no\\n<3>such\\u202Efolder/\\u001B[2J/groups.db";
    std::fs::write(cli.path("config.toml"), config.replace("sqlite:groups.db", path)).unwrap();
    std::fs::write(cli.path("no\n<3>such\u{202e}folder"), "a file").unwrap();
    for arguments in [&["crawl"][..], &["check"], &["status"], &["check", "--show-config"]] {
        run_safely(&cli, arguments).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_log_format_keeps_an_event_on_one_line() {
    for format in ["text", "json"] {
        let cli = CliHarness::new().await;
        let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
        let path = "sqlite:no\\n<3>such\\u202Efolder/groups.db";
        let config = config.replace("sqlite:groups.db", path);
        std::fs::write(cli.path("config.toml"), format!("{config}[log]\nformat = \"{format}\"\n")).unwrap();
        std::fs::write(cli.path("no\n<3>such\u{202e}folder"), "a file").unwrap();
        let service = Service::spawn(cli.command(&["run"])).wait_for_log("waiting for the database").await;
        let log = service.log().to_owned();
        assert_eq!(service.stop().await, Some(0));
        assert!(is_safe(&log) && !log.lines().any(|line| line.starts_with("<3>")), "{log:?}");
        let line = log.lines().find(|line| line.contains("waiting for the database")).unwrap();
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["message"].as_str().unwrap().contains("no\\n<3>such\\u{202e}folder"), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_error_with_unsafe_text_is_one_line() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    cli.api.script(At::Every, Fault::NextIs(REASON.to_owned()));
    run_safely(&cli, &["crawl"]).await;
    run_safely(&cli, &["status"]).await;
    run_safely(&cli, &["check"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_shows_a_problem_with_unsafe_text_on_one_line() {
    let cli = CliHarness::new().await;
    cli.serve_metrics();
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    std::fs::write(
        cli.path("config.toml"),
        config.replace("sqlite:groups.db", "sqlite:no\\n<3>such/groups.db"),
    )
    .unwrap();
    std::fs::write(cli.path("no\n<3>such"), "a file").unwrap();
    let mut command = cli.command(&["run"]);
    command.stdout(Stdio::null());
    let (service, address) = start_with_metrics(command).await;
    // The attempt to open the database may end before the listener is logged, or after it.
    let first_problem = async {
        loop {
            let (status, _, page) = get(&address, "/readyz").await;
            if page.contains("such") {
                return (status, page);
            }
        }
    };
    let (status, page) = timeout(Duration::from_secs(20), first_problem).await.unwrap();
    assert!(
        status.starts_with("503") && page.lines().count() == 1 && page.contains("no\\n<3>such"),
        "{page:?}"
    );
    assert_eq!(service.stop().await, Some(0));
}
