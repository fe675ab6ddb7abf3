//! Limits of the system: a log that is not read or cannot be written, and a maximum size of files.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, PipeReader, PipeWriter, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::cli::{CliHarness, CommandOutput};
use harness::program::program;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tim_group_sync::simulator::{At, Fault};

/// Maximum time of a stop: five seconds, and 200 ms for a busy machine.
const FIVE_SECONDS: Duration = Duration::from_millis(5_200);

async fn crawl_with_stderr(cli: &CliHarness, stderr: impl Into<Stdio>) -> CommandOutput {
    let mut command = cli.command(&["crawl"]);
    // Lines of every level, so that many of them are lost.
    command.env("TIM_GROUP_SYNC_LOG", "trace").stderr(stderr);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    CommandOutput::from(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_goes_on_if_its_log_cannot_be_written() {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_five_seconds_at_most_while_nobody_reads_the_log() {
    for (command, code) in [("crawl", 143), ("run", 1)] {
        let cli = CliHarness::new().await;
        cli.api.create_many("Public", 30);
        let (_reader, full) = full_pipe();
        let mut command = cli.command(&[command]);
        command.env("TIM_GROUP_SYNC_LOG", "trace").stdout(Stdio::null()).stderr(full);
        let mut process = command.spawn().unwrap();
        let pid = Pid::from_child(&process);
        wait_until_a_thread_writes(process.id());
        let asked = Instant::now();
        kill_process(pid, Signal::TERM).unwrap();
        let ended = tokio::task::spawn_blocking(move || process.wait().unwrap().code()).await.unwrap();
        assert_eq!(ended, Some(code));
        assert!(asked.elapsed() < FIVE_SECONDS, "{:?}", asked.elapsed());
    }
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
async fn a_log_at_the_limit_of_the_size_of_files_does_not_end_a_crawl() {
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
async fn a_database_at_the_limit_of_the_size_of_files_is_a_failure_that_says_so() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    let ended = with_file_size_limit(&cli, 8, "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the disk of the database's file is full or broken"), "{ended:?}");
}
