//! The time that a stop takes while another program or the API does not answer.
//!
//! These tests are a separate target. Cargo runs targets one after another, so tests of other
//! topics do not delay them. They delay each other little, because they mostly wait.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::io::{ErrorKind, PipeReader, PipeWriter, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::cli::CliHarness;
use harness::daemon::{AppSpec, DaemonHarness, PROD};
use harness::postgres::PostgresServer;
use harness::program::Service;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tim_group_sync::lifecycle::Ending;
use tim_group_sync::simulator::At;

/// The documented limit of five seconds, and 200 ms until the parent sees the end of the process.
const MAX_STOP: Duration = Duration::from_millis(5_200);

/// Sends a signal to a process, and asserts its exit code and the time until its end.
async fn assert_ends_in_time(process: Service, signal: Signal, code: i32) {
    let signalled = Instant::now();
    process.signal(signal);
    assert_eq!(process.wait_for_exit().await, Some(code));
    assert!(signalled.elapsed() < MAX_STOP, "{:?}", signalled.elapsed());
}

/// Returns the status and the reason of each crawl.
async fn crawls(cli: &CliHarness) -> String {
    cli.query("SELECT status, reason_code FROM crawls").await
}

/// Returns a full pipe.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    loop {
        match writer.write(&[b'x'; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Waits until a thread of a process blocks on a write to a full pipe.
fn wait_until_a_thread_writes(process: u32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let waits_for = |thread: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(thread.unwrap().path().join("wchan")).unwrap_or_default()
        };
        if threads.map(waits_for).any(|what| what.contains("pipe_write")) {
            return;
        }
        assert!(Instant::now() < deadline, "no thread writes to its log");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_at_most_five_seconds_while_the_log_pipe_is_full() {
    let stops = async |command: &str, code: i32| {
        let cli = CliHarness::new().await;
        cli.api.create_many("Public", 30);
        let (_reader, full) = full_pipe();
        let mut command = cli.command(&[command]);
        command.env("TIM_GROUP_SYNC_LOG", "trace").stdout(Stdio::null()).stderr(full);
        let mut process = command.spawn().unwrap();
        let pid = Pid::from_child(&process);
        wait_until_a_thread_writes(process.id());
        let signalled = Instant::now();
        kill_process(pid, Signal::TERM).unwrap();
        let ended = tokio::task::spawn_blocking(move || process.wait().unwrap().code()).await.unwrap();
        assert_eq!(ended, Some(code));
        assert!(signalled.elapsed() < MAX_STOP, "{:?}", signalled.elapsed());
    };
    tokio::join!(stops("crawl", 143), stops("run", 1));
}

/// Starts a server that accepts connections and never answers. Returns it and its PostgreSQL URL.
async fn silent_server() -> (tokio::net::TcpListener, String) {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://tim@{}/tim?sslmode=disable", server.local_addr().unwrap());
    (server, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_that_a_signal_stops_is_recorded_as_cancelled_and_exits_as_shells_report_it() {
    let stops = async |signal: Signal, code: i32| {
        let cli = CliHarness::new().await;
        let held = cli.api.hold(At::Request(2));
        let crawl = Service::spawn(cli.command(&["crawl"]));
        held.reached().await;
        assert_ends_in_time(crawl, signal, code).await;
        assert_eq!(crawls(&cli).await, "cancelled cancelled");
    };
    tokio::join!(stops(Signal::INT, 130), stops(Signal::TERM, 143), stops(Signal::HUP, 129));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_at_most_five_seconds_while_a_server_does_not_answer() {
    for (command, code) in [("crawl", 143), ("run", 0)] {
        let cli = CliHarness::new().await;
        let (server, url) = silent_server().await;
        let mut command = cli.command(&[command]);
        command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
        let process = Service::spawn(command);
        let (_connection, _) = server.accept().await.unwrap();
        assert_ends_in_time(process, Signal::TERM, code).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_at_most_five_seconds_while_the_api_does_not_answer() {
    let cli = CliHarness::new().await;
    let held = cli.api.hold(At::Every);
    let daemon = cli.service();
    held.reached().await;
    assert_ends_in_time(daemon, Signal::TERM, 0).await;
    assert_eq!(crawls(&cli).await, "cancelled cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_at_most_five_seconds_while_another_process_writes_to_the_file() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let held = cli.api.hold(At::Request(2));
    let daemon = cli.service();
    held.reached().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(cli.path("groups.db"));
    let mut writer = options.connect().await.unwrap();
    writer.execute("BEGIN IMMEDIATE").await.unwrap();
    held.release();
    assert_ends_in_time(daemon, Signal::TERM, 0).await;
    writer.execute("ROLLBACK").await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(cli.query("SELECT status, (SELECT count(*) FROM groups) FROM crawls").await, "running 0");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_stop_takes_at_most_five_seconds_while_waiting_for_a_lock_on_the_server() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let server = PostgresServer::shared().await;
    let database = server.database().await;
    let held = cli.api.hold(At::Request(2));
    let mut command = cli.command(&["run"]);
    command.env("TIM_GROUP_SYNC_DATABASE_URL", &database.url);
    let daemon = Service::spawn(command);
    held.reached().await;
    let options: sqlx::postgres::PgConnectOptions = database.url.parse().unwrap();
    let mut locker = options.connect().await.unwrap();
    locker.execute("BEGIN; LOCK TABLE tim_private.group_row IN ACCESS EXCLUSIVE MODE").await.unwrap();
    held.release();
    assert_ends_in_time(daemon, Signal::TERM, 0).await;
    locker.execute("ROLLBACK").await.unwrap();
    locker.close().await.unwrap();
}

#[tokio::test]
async fn a_request_without_an_answer_is_aborted_two_seconds_after_the_stop_and_no_other_is_sent() {
    let harness = DaemonHarness::new().await;
    let held = harness.api.hold(At::Request(3));
    let daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    held.reached().await;
    let signalled = Instant::now();
    assert_eq!(daemon.stop().await, Ending::Requested);
    let took = signalled.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!(harness.crawls().await, ["catch_up 08:00 cancelled"]);
    assert_eq!(harness.api.requests().len(), 3);
}
