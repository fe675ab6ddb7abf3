//! How the program ends: by signals at any time, when its terminal closes, and when its start is
//! refused.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::cli::{CliHarness, CommandOutput, rows};
use harness::program::{Service, program};
use rustix::process::{Pid, Signal, kill_process};
use tim_group_sync::simulator::{At, KEY};

fn send(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}

async fn code_of(mut process: Child) -> Option<i32> {
    tokio::task::spawn_blocking(move || process.wait().unwrap().code()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_of_a_stopped_crawl_has_the_code_of_the_signal() {
    let cli = CliHarness::new().await;
    let held = cli.api.hold(At::Request(2));
    let mut command = cli.command(&["crawl", "--json"]);
    let crawl = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    held.reached().await;
    send(&crawl, Signal::TERM);
    let output = tokio::task::spawn_blocking(move || crawl.wait_with_output().unwrap()).await.unwrap();
    let ended = CommandOutput::from(output);
    assert_eq!(ended.code, Some(143));
    assert_eq!(ended.result()[0]["status"], "cancelled");
}

/// Waits until a process handles all of these signals.
fn wait_for_handlers(process: &Child, signals: &[Signal]) {
    let wanted = signals.iter().fold(0u64, |mask, signal| mask | (1 << (signal.as_raw() - 1)));
    let status = format!("/proc/{}/status", process.id());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        if u64::from_str_radix(caught.trim(), 16).unwrap() & wanted == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "the handlers were never installed: {text}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_the_first_milliseconds_does_not_kill_the_service() {
    let cli = CliHarness::new().await;
    for early in [Signal::HUP, Signal::USR1, Signal::XFSZ, Signal::TERM] {
        let process = cli.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_handlers(&process, &[Signal::HUP, Signal::USR1, Signal::XFSZ, Signal::TERM]);
        send(&process, early);
        let service = Service::from_process(process);
        let code = if early == Signal::TERM {
            service.wait_for_exit().await
        } else {
            service.wait_for_log("\"message\":\"started\"").await.stop().await
        };
        assert_eq!(code, Some(0), "{early:?}");
    }
}

fn read_line_starting_with(process: &mut Child, start: &str) -> String {
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    lines.map(Result::unwrap).find(|line| line.starts_with(start)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulator_and_the_demo_stop_when_their_terminal_closes() {
    let cli = CliHarness::new().await;
    for (arguments, ready) in [
        (&["simulate", "--listen", "127.0.0.1:0"][..], "simulated API"),
        (&["demo", "--groups", "100", "--serve", "--listen", "127.0.0.1:0"][..], "The dashboard is at"),
    ] {
        let mut process = cli.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        read_line_starting_with(&mut process, ready);
        send(&process, Signal::HUP);
        assert_eq!(code_of(process).await, Some(0), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulator_started_with_nohup_keeps_running_when_its_terminal_closes() {
    let cli = CliHarness::new().await;
    let mut command = Command::new("sh");
    command.current_dir(cli.folder.path()).stdout(Stdio::piped());
    command.args(["-c", r#"trap "" HUP; exec "$0" simulate --listen 127.0.0.1:0"#, program()]);
    let mut process = command.spawn().unwrap();
    let line = read_line_starting_with(&mut process, "simulated API");
    let address = line.split_once("http://").unwrap().1.trim_end_matches('/').to_owned();
    send(&process, Signal::HUP);
    // Signals are handled in order. If the process still accepts connections and SIGTERM stops it,
    // SIGHUP had no effect.
    tokio::net::TcpStream::connect(&address).await.unwrap();
    send(&process, Signal::TERM);
    assert_eq!(code_of(process).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_refuses_a_pipe_in_place_of_a_file_at_once() {
    let cli = CliHarness::new().await;
    let pipe = cli.path("pipe").display().to_string();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let key = cli.path("app.key");
    std::fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink(&pipe, &key).unwrap();
    let new = cli.path("new/config.toml").display().to_string();
    for arguments in [
        &["run"][..],
        &["crawl"],
        &["check"],
        &["usersig", "--app", "prod"],
        &["simulate", "--secret-key-file", &pipe],
        &["init", "--config", &new, "--sdk-app-id", "1", "--region", "china", "--secret-key-file", &pipe],
        &["--config", &pipe, "status"],
    ] {
        let ended = cli.run(arguments).await;
        assert_eq!(ended.code, Some(78), "{arguments:?} {ended:?}");
        let printed = format!("{}{}", ended.stdout, ended.stderr);
        assert!(printed.contains("it is a pipe, not a regular file"), "{arguments:?} {ended:?}");
    }
}

/// Runs the service with a file as stderr, and with a `JOURNAL_STREAM` that identifies this file as
/// the journal. Returns the exit code and the lines of the file.
async fn run_in_journal(cli: &CliHarness) -> (Option<i32>, Vec<String>) {
    let journal = File::create(cli.path("journal")).unwrap();
    let metadata = journal.metadata().unwrap();
    let mut command = cli.command(&["run"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    let process = command.stderr(journal).spawn().unwrap();
    let code = code_of(process).await;
    let text = std::fs::read_to_string(cli.path("journal")).unwrap();
    (code, text.lines().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_logs_only_its_reason_at_error_priority() {
    let refused = async |cli: &CliHarness, reason: &str| {
        let (code, lines) = run_in_journal(cli).await;
        assert_eq!(code, Some(78), "{lines:?}");
        assert!(lines.len() == 1 && lines[0].starts_with("<3>") && lines[0].contains(reason), "{lines:?}");
    };
    let cli = CliHarness::new().await;
    std::fs::remove_file(cli.path("app.key")).unwrap();
    refused(&cli, "app.key").await;

    cli.write_key(KEY);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let listening = format!("[metrics]\nlisten = \"{port}\"");
    std::fs::write(cli.path("config.toml"), config.replace("[metrics]\nlisten = \"\"", &listening)).unwrap();
    refused(&cli, "another program listens there").await;

    cli.configure("");
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9001, 'x', TRUE, '', 0)";
    execute(&cli, newer).await;
    refused(&cli, "newer version of this program").await;
    assert_eq!(rows(&cli.path("groups.db"), "SELECT count(*) FROM crawl").await, [["1"]]);

    // Each configuration problem has its own line.
    cli.configure("page_limit = 0\nregoin = \"china\"\n");
    let (code, lines) = run_in_journal(&cli).await;
    assert_eq!((code, lines.len()), (Some(78), 2), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("<3>")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usage_error_has_error_priority_in_the_journal() {
    let cli = CliHarness::new().await;
    let journal = File::create(cli.path("journal")).unwrap();
    let metadata = journal.metadata().unwrap();
    let mut command = cli.command(&["run", "--wrong"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    assert_eq!(code_of(command.stderr(journal).spawn().unwrap()).await, Some(2));
    let text = std::fs::read_to_string(cli.path("journal")).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("<3>error: unexpected argument '--wrong'"), "{text}");
    assert!(lines.all(|line| line.starts_with("<3>")), "{text}");
}

/// Executes a statement on the database from outside the program.
async fn execute(cli: &CliHarness, sql: &'static str) {
    use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(cli.path("groups.db"));
    let mut connection = options.connect().await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}
