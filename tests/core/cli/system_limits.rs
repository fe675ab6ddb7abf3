//! Limits of the system: a log that cannot be written, and a maximum size of files.

use std::fs::{File, OpenOptions};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::cli::{CliHarness, CommandOutput};
use harness::program::program;
use tim_group_sync::simulator::{At, Fault};

async fn crawl_with_stderr(cli: &CliHarness, stderr: impl Into<Stdio>) -> CommandOutput {
    let mut command = cli.command(&["crawl"]);
    // Lines of every level, so that many of them are lost.
    command.env("TIM_GROUP_SYNC_LOG", "trace").stderr(stderr);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    CommandOutput::from(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_continues_if_its_log_cannot_be_written() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    // Long enough for lines about the progress, which are written every 200 ms at most.
    cli.api.script(At::Type("Public".to_owned()), Fault::Delay(Duration::from_millis(500)));
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let ended = crawl_with_stderr(&cli, closed).await;
    assert!(ended.code == Some(0) && ended.stdout.contains("30 groups listed"), "{ended:?}");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = crawl_with_stderr(&cli, full).await;
    assert!(ended.code == Some(0) && ended.stdout.contains("30 groups listed"), "{ended:?}");
    assert_eq!(cli.query("SELECT count(*), min(status) FROM crawls").await, "2 complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_keeps_its_exit_code_without_stderr() {
    let cli = CliHarness::new().await;
    for (arguments, code) in [
        (&["crawl", "--app", "unknown"][..], 2),
        (&["approve", "--crawl", "7"][..], 75),
        (&["status"][..], 75),
        (&["check"][..], 0),
        (&["usersig", "--app", "prod"][..], 0),
    ] {
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = cli.command(arguments);
        command.stderr(closed);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

/// Runs a command in a shell that limits the size of files to this number of blocks.
async fn with_file_size_limit(cli: &CliHarness, blocks: u32, redirection: &str) -> CommandOutput {
    let mut command = Command::new("sh");
    let script = format!(r#"ulimit -f {blocks}; exec "$0" crawl {redirection}"#);
    command.args(["-c", &script, program()]).current_dir(cli.folder.path()).env_clear();
    command.env("TIM_GROUP_SYNC_CONFIG", cli.path("config.toml")).env("TIM_GROUP_SYNC_LOG", "trace");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    CommandOutput::from(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_at_the_file_size_limit_does_not_end_a_crawl() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    let log = OpenOptions::new().create(true).append(true).open(cli.path("log")).unwrap();
    // Exceeds the limit, which is 8 MiB at most.
    log.set_len(16 << 20).unwrap();
    let ended = with_file_size_limit(&cli, 8192, "2>>log").await;
    assert!(ended.code == Some(0) && ended.stdout.contains("30 groups listed"), "{ended:?}");
    assert_eq!(log.metadata().unwrap().len(), 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_at_the_file_size_limit_fails_the_command_with_the_reason() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    let ended = with_file_size_limit(&cli, 8, "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the disk of the database's file is full or broken"), "{ended:?}");
}
