//! The endpoints `/metrics`, `/healthz` and `/readyz` of the daemon, tested with Prometheus and
//! promtool, and the alert rules.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use chrono::TimeDelta;
use harness::cli::{CliHarness, get, start_with_metrics};
use harness::crawl::Harness;
use harness::crawl_tests;
use harness::daemon::{AppSpec, DaemonHarness, PROD, clock_at_08_20};
use harness::program::Service;
use rustix::process::Signal;
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::metrics::Metrics;
use tim_group_sync::simulator::{At, Fault};

/// All metrics. Alerts and dashboards depend on these names.
const METRICS: [&str; 31] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
    "tim_group_sync_api_groups",
    "tim_group_sync_api_request_duration_seconds",
    "tim_group_sync_api_requests_total",
    "tim_group_sync_app_refused",
    "tim_group_sync_asked_groups_total",
    "tim_group_sync_build_info",
    "tim_group_sync_clock_skew_seconds",
    "tim_group_sync_crawl_duration_seconds",
    "tim_group_sync_crawl_progress_timestamp_seconds",
    "tim_group_sync_crawl_running",
    "tim_group_sync_crawls_total",
    "tim_group_sync_database_up",
    "tim_group_sync_details_fresh_groups",
    "tim_group_sync_group_events_total",
    "tim_group_sync_group_quota",
    "tim_group_sync_groups",
    "tim_group_sync_held_groups",
    "tim_group_sync_last_complete_crawl_timestamp_seconds",
    "tim_group_sync_month_peak_groups",
    "tim_group_sync_next_crawl_timestamp_seconds",
    "tim_group_sync_notifications_total",
    "tim_group_sync_skipped_ticks_total",
    "tim_group_sync_ticks_since_complete_crawl",
    "tim_group_sync_unasked_groups",
];

/// Returns a command that runs a program of Prometheus, which tests/run unpacks.
fn program(name: &str) -> Command {
    let own = std::env::var_os("PROMETHEUS_BIN").map(PathBuf::from);
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/prometheus/usr/bin");
    let folders = own.into_iter().chain(["/usr/bin".into(), "/usr/local/bin".into(), unpacked]);
    let program = folders.map(|folder| folder.join(name)).find(|program| program.exists());
    Command::new(program.expect("no Prometheus; tests/run unpacks one"))
}

/// Runs promtool with this standard input, and returns its output.
async fn promtool(arguments: &'static [&'static str], input: String) -> String {
    use std::io::Write as _;
    let run = move || {
        let mut command = program("promtool");
        command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        let mut promtool =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{printed}");
        printed
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Returns the value of a series of a page.
fn value<'a>(page: &'a str, series: &str) -> Option<&'a str> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

/// Returns the values of these series, given without the common prefix of all names.
fn values(page: &str, series: &[&str]) -> Vec<String> {
    let of = |name: &&str| value(page, &format!("tim_group_sync_{name}")).unwrap_or("none").to_owned();
    series.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: tests/run"]
async fn the_metrics_page_has_every_metric_and_promtool_accepts_it() {
    let cli = CliHarness::new().await;
    cli.serve_metrics();
    let mut config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    config.push_str("\ngroup_quota = 100\n[details]\n");
    std::fs::write(cli.path("config.toml"), config).unwrap();
    cli.api.create_many("Public", 3);
    let (daemon, address) = start_with_metrics(cli.command(&["run"])).await;
    let daemon = daemon.wait_for_log("crawl complete").await;
    // The details are counted after the crawl.
    let counted = async {
        loop {
            let answer = get(&address, "/metrics").await;
            if answer.2.contains("details_fresh_groups") {
                return answer;
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), counted).await;
    let (status, head, page) = in_time.expect("the details are counted");
    assert_eq!(status, "200 OK");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(promtool(&["check", "metrics"], page.clone()).await, "");
    let mut names: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    names.sort_unstable();
    assert_eq!(names, METRICS);
    assert_eq!(get(&address, "/healthz").await.2, "alive\n");
    assert_eq!(get(&address, "/readyz").await.2, "ready\n");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: tests/run"]
async fn prometheus_scrapes_the_daemon_and_loads_the_alert_rules() {
    let cli = CliHarness::new().await;
    cli.serve_metrics();
    cli.api.create_many("Public", 3);
    let (daemon, address) = start_with_metrics(cli.command(&["run"])).await;
    let daemon = daemon.wait_for_log("crawl complete").await;

    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus/alerts.yml");
    let configuration = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
         rule_files: [\"{}\"]\n\
         scrape_configs:\n  - job_name: tim-group-sync\n    static_configs: [{{ targets: [\"{address}\"] }}]\n",
        rules.display()
    );
    std::fs::write(cli.path("prometheus.yml"), configuration).unwrap();
    let mut command = program("prometheus");
    command.current_dir(cli.folder.path()).args([
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--web.listen-address=127.0.0.1:0",
    ]);
    // Prometheus logs to stderr, like the daemon.
    let (prometheus, line) = Service::spawn(command).wait_for_log_line("Listening on").await;
    let prometheus = prometheus.wait_for_log("Server is ready to receive web requests").await;
    let prometheus_address = line.rsplit_once("address=").unwrap().1.trim().to_owned();
    let wait_for_answer = async |path: &str, expected: &str| {
        let polling = async {
            while !get(&prometheus_address, path).await.2.contains(expected) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), polling).await.is_ok();
        assert!(in_time, "{path} does not contain {expected}: {}", get(&prometheus_address, path).await.2);
    };
    let live = "/api/v1/query?query=max%20by%20(im_app)%20(tim_group_sync_groups%7Bgroup_type%3D%22Public%22%2Cstate%3D%22live%22%7D)";
    wait_for_answer(live, "\"metric\":{\"im_app\":\"prod\"},").await;
    wait_for_answer(live, ",\"3\"]").await;
    wait_for_answer("/api/v1/rules", "\"name\":\"TimGroupSyncNoCompleteCrawl\"").await;
    wait_for_answer("/api/v1/rules", "\"health\":\"ok\"").await;
    let (_, _, rules) = get(&prometheus_address, "/api/v1/rules").await;
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");

    assert_eq!(prometheus.stop().await, Some(0));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: tests/run"]
async fn each_alert_fires_exactly_when_it_should() {
    let rules = promtool(&["check", "rules", "prometheus/alerts.yml"], String::new()).await;
    assert!(rules.contains("SUCCESS: 10 rules found"), "{rules}");
    promtool(&["test", "rules", "prometheus/alerts.test.yml"], String::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_reported_and_ends_the_start() {
    let cli = CliHarness::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    cli.serve_metrics();
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    std::fs::write(cli.path("config.toml"), config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")))
        .unwrap();
    let ended = cli.run(&["run"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.stderr.contains(&format!("cannot listen on 127.0.0.1:{port} (metrics.listen): "))
            && ended.stderr.contains("another program listens there"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: tests/run"]
async fn a_daemon_without_its_database_is_alive_and_not_ready_and_gives_the_reason() {
    let cli = CliHarness::new().await;
    cli.serve_metrics();
    // The port is bound but not listening, so no other process can take it and connections are
    // refused.
    let unused_port = tokio::net::TcpSocket::new_v4().unwrap();
    unused_port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = unused_port.local_addr().unwrap().port();
    let mut command = cli.command(&["run"]);
    let url = format!("postgres://tim@127.0.0.1:{port}/tim?sslmode=disable");
    command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
    let (daemon, address) = start_with_metrics(command).await;
    let daemon = daemon.wait_for_log("started").await;
    assert_eq!(get(&address, "/healthz").await.0, "200 OK");
    let (status, _, why) = get(&address, "/readyz").await;
    assert_eq!(status, "503 Service Unavailable");
    assert!(why.starts_with("not ready: waiting for the database: ") && why.lines().count() == 1, "{why}");
    let (status, _, page) = get(&address, "/metrics").await;
    assert_eq!(status, "200 OK");
    let shown = ["database_up", "crawls_total{im_app=\"prod\",status=\"complete\"}", "groups"];
    assert_eq!(values(&page, &shown), ["0", "0", "none"]);
    assert_eq!(promtool(&["check", "metrics"], page).await, "");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_of_a_running_daemon_are_shown_by_status() {
    let cli = CliHarness::new().await;
    cli.serve_metrics();
    cli.api.create_many("Public", 3);
    let (daemon, address) = start_with_metrics(cli.command(&["run"])).await;
    let daemon = daemon.wait_for_log("crawl complete").await;
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    std::fs::write(cli.path("config.toml"), config.replace("127.0.0.1:0", &address)).unwrap();
    let status = cli.run(&["status"]).await;
    assert!(status.code == Some(0) && !status.stdout.contains("daemon:"), "{status:?}");
    std::fs::remove_file(cli.path("app.key")).unwrap();
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("the app's key cannot be used").await;
    let status = cli.run(&["status"]).await;
    assert!(status.stdout.contains("daemon: app prod: the key cannot be used: "), "{status:?}");
    assert_eq!(get(&address, "/readyz").await.0, "200 OK", "the other apps are still crawled");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_the_metrics_and_status_show_the_same_next_crawl_of_a_refused_app() {
    let cli = CliHarness::new().await;
    cli.write_key(&"f".repeat(64));
    cli.serve_metrics();
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let config = config.replace("[dashboard]\nlisten = \"\"", "[dashboard]\nlisten = \"127.0.0.1:0\"");
    std::fs::write(cli.path("config.toml"), format!("[schedule]\ncron = \"0 0 1 1 *\"\n{config}")).unwrap();
    let (daemon, metrics) = start_with_metrics(cli.command(&["run"])).await;
    let (daemon, line) = daemon.wait_for_log_line("serving the dashboard").await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let dashboard = line["address"].as_str().unwrap();
    let daemon = daemon.wait_for_log("retry scheduled").await;
    let retry = loop {
        let apps: serde_json::Value = serde_json::from_str(&get(dashboard, "/api/apps").await.2).unwrap();
        let next = apps["apps"][0]["next_crawl_at"].as_str().map(str::to_owned);
        // The page shows the next tick until the loop waits for its next attempt.
        match next.filter(|next| !next.ends_with("-01-01T00:00:00Z")) {
            Some(retry) => break retry,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let status = cli.run(&["status", "--json"]).await;
    assert_eq!(status.result()[0]["next_crawl_at"], retry.as_str(), "{status:?}");
    let seconds = retry.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
    let page = get(&metrics, "/metrics").await.2;
    let shown = format!("tim_group_sync_next_crawl_timestamp_seconds{{im_app=\"prod\"}} {seconds}\n");
    assert!(page.contains(&shown), "{retry}: {page}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_is_logged_in_one_line_with_its_counts_and_an_api_error_with_its_code_and_text() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    cli.api.script(At::Request(2), Fault::ErrorCode(10018));
    let (daemon, smaller) = cli.service().wait_for_log_line("requesting fewer groups per page").await;
    let (daemon, crawled) = daemon.wait_for_log_line("crawl complete").await;
    cli.api.script(At::Request(cli.api.requests().len() as u64 + 1), Fault::ErrorCode(60021));
    daemon.signal(Signal::USR1);
    let (daemon, failed) = daemon.wait_for_log_line("crawl failed").await;
    assert_eq!(daemon.stop().await, Some(0));
    for (line, level, code) in [(smaller, "WARN", 10018), (failed, "ERROR", 60021)] {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let logged = (&line["level"], &line["span"]["app"], &line["error_code"]);
        assert_eq!(logged, (&level.into(), &"prod".into(), &code.into()), "{line}");
        assert!(line["message"].as_str().unwrap().contains("ErrorInfo \"scripted\""), "{line}");
    }
    let crawled: serde_json::Value = serde_json::from_str(&crawled).unwrap();
    let counts = [
        "listed",
        "total",
        "first_listed",
        "appeared",
        "vanished",
        "reappeared",
        "retyped",
        "missing",
        "withheld",
        "asked",
        "confirmed",
        "spared",
        "unlearned",
        "unasked",
        "requests",
    ];
    assert_eq!(
        (&crawled["level"], &crawled["span"]["app"], &crawled["crawl_id"]),
        (&"INFO".into(), &"prod".into(), &1.into())
    );
    assert!(counts.iter().all(|count| crawled[count].is_number()), "{crawled}");
    assert_eq!((&crawled["listed"], &crawled["total"]), (&3.into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_for_the_journal_have_a_priority_and_no_time() {
    use std::os::unix::fs::MetadataExt as _;
    let cli = CliHarness::new().await;
    cli.api.script(At::Request(2), Fault::ErrorCode(10018));
    let log = std::fs::File::create(cli.path("journal")).unwrap();
    let metadata = log.metadata().unwrap();
    let mut command = cli.command(&["crawl"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino())).stderr(log);
    let status = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let log = std::fs::read_to_string(cli.path("journal")).unwrap();
    // stderr also has the progress messages of the command.
    let line = log.lines().find(|line| line.contains("requesting fewer groups per page")).unwrap();
    assert!(line.starts_with("<4> WARN ") && line.contains("app=\"prod\""), "{log}");
}

#[tokio::test]
async fn counters_of_crawls_and_requests_start_at_zero() {
    let harness = DaemonHarness::new().await;
    let metrics = Metrics::new(&harness.clock);
    let mut daemon = {
        let [daemon] = harness.start_all([("prod", harness.counted_plan(&PROD, &metrics))]);
        daemon
    };
    daemon.wait_for_next_crawl_at("09:00:00").await;
    let health = daemon.handle.lock().unwrap().health();
    let series = [
        "crawls_total{im_app=\"prod\",status=\"complete\"}",
        "crawls_total{im_app=\"prod\",status=\"failed\"}",
        "crawl_duration_seconds_count{im_app=\"prod\"}",
        "api_requests_total{error_code=\"\",im_app=\"prod\",outcome=\"ok\"}",
        "api_requests_total{error_code=\"60011\",im_app=\"prod\",outcome=\"throttled\"}",
        "api_requests_total{error_code=\"10002\",im_app=\"prod\",outcome=\"retried\"}",
        "api_request_duration_seconds_count{im_app=\"prod\"}",
        "group_events_total{event=\"appeared\",im_app=\"prod\"}",
        "group_events_total{event=\"vanished\",im_app=\"prod\"}",
        "next_crawl_timestamp_seconds{im_app=\"prod\"}",
        "skipped_ticks_total{im_app=\"prod\"}",
    ];
    let nine = "1773133200";
    let page = metrics.page(&health).await;
    assert_eq!(values(&page, &series), ["0", "0", "0", "0", "0", "none", "0", "0", "0", nine, "0"]);

    harness.api.script(At::Request(2), Fault::ErrorCode(60011));
    harness.api.script(At::Request(3), Fault::ErrorCode(10002));
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(1).await;
    harness.api.create_many("Public", 2);
    harness.set_clock("12:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    daemon.wait_for_next_crawl_at("13:00:00").await;
    let page = metrics.page(&health).await;
    let one_pm = "1773147600";
    // Requests: two pages and two counts, then three pages and two counts.
    assert_eq!(values(&page, &series), ["2", "0", "2", "9", "1", "1", "11", "2", "0", one_pm, "2"]);
}

#[tokio::test]
async fn answers_of_get_group_info_are_counted_and_the_clock_skew_is_measured() {
    let harness = DaemonHarness::new().await;
    ["gone", "hidden", "illegal"].iter().for_each(|id| harness.api.create("Public", id));
    let metrics = Metrics::new(&harness.clock);
    let [mut daemon] = harness.start_all([("prod", harness.counted_plan(&PROD, &metrics))]);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    let health = daemon.handle.lock().unwrap().health();
    let series = [
        "asked_groups_total{answer=\"gone\",im_app=\"prod\"}",
        "asked_groups_total{answer=\"stands\",im_app=\"prod\"}",
        "asked_groups_total{answer=\"unlearned\",im_app=\"prod\"}",
        "unasked_groups{im_app=\"prod\"}",
        "clock_skew_seconds{im_app=\"prod\"}",
    ];
    assert_eq!(values(&metrics.page(&health).await, &series), ["0", "0", "0", "0", "none"]);
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(1).await;
    assert_eq!(values(&metrics.page(&health).await, &series), ["0", "0", "0", "0", "0"]);

    harness.api.hide(&["hidden"]);
    ["gone", "illegal"].iter().for_each(|id| assert!(harness.api.dissolve(id)));
    harness.api.script(At::Info, Fault::GroupCode("illegal".to_owned(), 10015));
    harness.api.set_date_offset(TimeDelta::minutes(-10));
    harness.set_clock("10:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    assert_eq!(values(&metrics.page(&health).await, &series), ["1", "1", "1", "0", "600"]);
    harness.api.clear_faults();
    harness.api.script(At::Info, Fault::ErrorCode(60011));
    harness.api.set_date_offset(TimeDelta::zero());
    harness.set_clock("11:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(3).await;
    // Only the existing group is asked about. The guard holds the other two, so they are no longer
    // candidates.
    assert_eq!(values(&metrics.page(&health).await, &series), ["1", "1", "1", "1", "0"]);
}

#[tokio::test]
async fn the_quota_and_the_peak_of_the_month_are_in_the_metrics() {
    let harness = DaemonHarness::new().await; // with five groups
    let metrics = Metrics::new(&harness.clock);
    let spec = AppSpec { group_quota: Some(100), ..PROD };
    let [mut daemon] = harness.start_all([("prod", harness.counted_plan(&spec, &metrics))]);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    let health = daemon.handle.lock().unwrap().health();
    let series = ["group_quota{im_app=\"prod\"}", "month_peak_groups{im_app=\"prod\"}"];
    assert_eq!(values(&metrics.page(&health).await, &series), ["100", "none"]);
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(1).await;
    harness.api.dissolve_some(3);
    harness.set_clock("10:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    assert_eq!(values(&metrics.page(&health).await, &series), ["100", "5"]);
}

#[tokio::test]
async fn refused_credentials_and_skipped_ticks_are_in_the_metrics() {
    let harness = DaemonHarness::new().await;
    let metrics = Metrics::new(&harness.clock);
    let spec = AppSpec { wrong_key: true, catch_up: true, ..PROD };
    let [mut daemon] = harness.start_all([("prod", harness.counted_plan(&spec, &metrics))]);
    daemon.wait_for_crawl_status("failed").await;
    let health = daemon.handle.lock().unwrap().health();
    let series = [
        "app_refused{im_app=\"prod\"}",
        "ticks_since_complete_crawl{im_app=\"prod\"}",
        "last_complete_crawl_timestamp_seconds{im_app=\"prod\"}",
        "crawls_total{im_app=\"prod\",status=\"failed\"}",
        "database_up",
    ];
    assert_eq!(values(&metrics.page(&health).await, &series), ["1", "0", "0", "1", "1"]);
    harness.set_clock("11:00:00");
    assert_eq!(values(&metrics.page(&health).await, &series), ["1", "3", "0", "1", "1"]);
}

#[tokio::test]
async fn all_series_of_a_removed_app_leave_the_page() {
    let harness = DaemonHarness::new().await;
    let metrics = Metrics::new(&harness.clock);
    let spec = AppSpec { catch_up: true, ..PROD };
    let [mut daemon] = harness.start_all([("prod", harness.counted_plan(&spec, &metrics))]);
    daemon.wait_for_crawls(1).await;
    let health = daemon.handle.lock().unwrap().health();
    let live = "groups{group_type=\"Public\",im_app=\"prod\",state=\"live\"}";
    let series =
        [live, "skipped_ticks_total{im_app=\"prod\"}", "crawls_total{im_app=\"prod\",status=\"complete\"}"];
    assert_eq!(values(&metrics.page(&health).await, &series), ["5", "0", "1"]);
    harness::daemon::apply(&daemon.handle, Vec::new());
    daemon.apps.wait_for(std::collections::BTreeMap::is_empty).await.unwrap();
    // The daemon records configured apps in a separate task.
    while harness.store.overview().await.unwrap().iter().any(|app| app.configured) {
        tokio::task::yield_now().await;
    }
    assert_eq!(values(&metrics.page(&health).await, &series), ["none", "none", "none"]);
    let page = metrics.page(&health).await;
    assert!(!page.contains("im_app=\"prod\""), "{page}");
}

#[tokio::test]
async fn without_tables_the_page_lacks_the_gauges_that_are_read_from_them() {
    let harness = DaemonHarness::without_tables(clock_at_08_20()).await;
    let metrics = Metrics::new(&harness.clock);
    let [daemon] = harness.start_all([("prod", harness.counted_plan(&PROD, &metrics))]);
    let health = daemon.handle.lock().unwrap().health();
    let page = metrics.page(&health).await;
    assert_eq!(values(&page, &["database_up", "build_info{version=\"0.1.0\"}"]), ["0", "1"]);
}

async fn the_gauges_count_live_missing_and_deleted_groups(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.create("Private", "e");
    harness.crawl().await;
    harness.dissolve("a");
    harness.crawl().await;
    let apps = harness.store.overview().await.unwrap();
    let [app] = &apps[..] else { panic!("{apps:?}") };
    let counts = |name: &str| {
        let kind = app.types.iter().find(|kind| kind.group_type.as_deref() == Some(name)).unwrap();
        (kind.live_count, kind.missing_count, kind.deleted_count, kind.total_count)
    };
    assert_eq!((counts("Public"), counts("Private")), ((3, 0, 1, Some(3)), (1, 0, 0, Some(1))));
    assert_eq!((app.total_count, app.held_groups(), app.is_refused()), (Some(4), 0, false));
    assert!(app.running_crawl.is_none());
    let complete = app.last_complete_crawl.as_ref().unwrap();
    let finished = harness.value("SELECT max(finished_at) FROM crawls").await;
    assert_eq!(complete.finished().map(harness::crawl::format_time), Some(finished));
}

async fn groups_with_a_withheld_deletion_are_counted_as_held_and_missing(mut harness: Harness) {
    harness.deletion.review = true;
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.dissolve("a b");
    let withheld = harness.crawl().await;
    let held = async || {
        let app = harness.store.overview().await.unwrap().remove(0);
        let public = app.types.iter().find(|kind| kind.group_type.as_deref() == Some("Public")).unwrap();
        (app.held_groups(), public.live_count, public.missing_count)
    };
    assert_eq!(held().await, (2, 4, 2));
    harness.approve(withheld.crawl).await;
    assert_eq!(held().await, (0, 2, 0));
}

async fn a_crawl_is_shown_as_running_while_its_lease_is_held(harness: Harness) {
    harness.create("Public", "a");
    let app = harness.credentials.sdk_app_id;
    let held = harness.api.hold(At::Request(harness.requests_so_far() + 2));
    let (crawler, stop) = (harness.new_crawler(), tokio_util::sync::CancellationToken::new());
    let crawling = tokio::spawn(async move {
        crawler.crawl(harness::crawl::ON_COMMAND, WhenBusy::GiveUp, &stop).await.unwrap()
    });
    held.reached().await;
    assert!(harness.store.overview().await.unwrap()[0].running_crawl.is_some());
    assert_eq!(harness.store.leased_apps(&[app]).await.unwrap(), [app]);
    crawling.abort();
    crawling.await.unwrap_err();
    held.release();
    harness.db.expire_leases().await;
    assert!(harness.store.overview().await.unwrap()[0].running_crawl.is_some(), "the crawl is still open");
    assert_eq!(harness.store.leased_apps(&[app]).await.unwrap(), []);
}

crawl_tests! {
    the_gauges_count_live_missing_and_deleted_groups,
    groups_with_a_withheld_deletion_are_counted_as_held_and_missing,
    a_crawl_is_shown_as_running_while_its_lease_is_held,
}
