//! `status` reports a missing service, a hanging service, an overdue crawl and a time in the
//! future.

use std::net::TcpListener;

use harness::cli::CliHarness;

/// Writes a configuration with this address as `metrics.listen`, and an hourly schedule.
fn set_metrics_listen(cli: &CliHarness, address: &str) {
    cli.configure("");
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let changed = config.replace("[metrics]\nlisten = \"\"", &format!("[metrics]\nlisten = \"{address}\""));
    assert_ne!(config, changed);
    std::fs::write(cli.path("config.toml"), changed).unwrap();
}

async fn execute(cli: &CliHarness, sql: &'static str) {
    use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(cli.path("groups.db"));
    let mut connection = options.connect().await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

/// Returns an app that the service has crawled once.
async fn crawled_by_service() -> CliHarness {
    let cli = CliHarness::new().await;
    let service = cli.service().wait_for_log("crawl complete").await;
    assert_eq!(service.stop().await, Some(0));
    cli
}

#[tokio::test(flavor = "multi_thread")]
async fn status_reports_that_no_service_answers() {
    let cli = crawled_by_service().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    set_metrics_listen(&cli, &closed);
    let status = cli.run(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let expected = format!("daemon: no service on this host answers at {closed} (metrics.listen): ");
    assert!(status.stdout.contains(&expected), "{status:?}");
    let json = cli.run(&["status", "--json"]).await;
    assert!(json.stderr.contains(&expected) && json.result()[0]["app"] == "prod", "{json:?}");

    let socket = cli.path("metrics.sock");
    set_metrics_listen(&cli, "unix:metrics.sock");
    let status = cli.run(&["status"]).await;
    let expected = format!("no service on this host answers at unix:{}", socket.display());
    assert!(status.stdout.contains(&expected), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_reports_that_the_service_hangs() {
    let cli = crawled_by_service().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    set_metrics_listen(&cli, &address);
    let status = cli.run(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let expected =
        format!("daemon: the service at {address} (metrics.listen) does not answer within 3s: it hangs");
    assert!(status.stdout.contains(&expected), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_queries_the_service_over_its_unix_socket() {
    let cli = CliHarness::new().await;
    set_metrics_listen(&cli, "unix:metrics.sock");
    let service = cli.service().wait_for_log("crawl complete").await;
    let status = cli.run(&["status"]).await;
    assert!(!status.stdout.contains("daemon:"), "{status:?}");
    assert_eq!(service.stop().await, Some(0));
    assert!(!cli.path("metrics.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn status_reports_since_when_a_crawl_is_overdue() {
    let cli = crawled_by_service().await;
    let status = cli.run(&["status"]).await;
    assert!(!status.stdout.contains("overdue"), "{status:?}");
    execute(
        &cli,
        "UPDATE crawl SET started_at = started_at - 10800000, finished_at = finished_at - 10800000",
    )
    .await;
    let status = cli.run(&["status"]).await;
    assert!(
        status.stdout.contains("  overdue              the crawl of 20")
            && status.stdout.contains("check whether the service runs"),
        "{status:?}"
    );
    let json = cli.run(&["status", "--json"]).await.result();
    assert!(json[0]["overdue_since"].is_string(), "{json}");
    // If only the command has crawled an app, no tick is overdue.
    execute(&cli, "UPDATE crawl SET trigger = 'command'").await;
    let status = cli.run(&["status"]).await;
    assert!(!status.stdout.contains("overdue"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_crawl_in_the_future_does_not_satisfy_max_age() {
    let cli = crawled_by_service().await;
    assert_eq!(cli.run(&["status", "--max-age", "1h"]).await.code, Some(0));
    execute(&cli, "UPDATE crawl SET started_at = started_at + 7200000, finished_at = finished_at + 7200000")
        .await;
    let status = cli.run(&["status", "--max-age", "1h"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(
        status.stderr.contains("no complete crawl within 1h: prod (its time ")
            && status.stderr.contains("is in the future: a clock is or was wrong)"),
        "{status:?}"
    );
}
