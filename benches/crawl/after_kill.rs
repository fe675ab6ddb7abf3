//! Measures how long a service that was killed during a crawl takes to recover, from the start of
//! its new process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use tim_group_sync::simulator::KEY;
use tim_group_sync::store::Store;

use crate::phases::{Api, TYPES, runtime, store_location};
use crate::report::{Databases, Engine};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");
const KILLS: u32 = 5;

/// The times of a recovery, in seconds since the start of the process.
#[derive(Clone, Copy)]
struct Recovery {
    ready: f64,
    crawling: f64,
    complete: f64,
}

/// Kills the service during a crawl, each time a little later, and measures the recovery.
pub(crate) fn after_kill(engines: &[Engine], groups: u64) {
    let api = Api::start(groups, 1);
    println!("\n### After a kill, {groups} groups\n");
    println!("| database | kills | ready, s: median, maximum | crawling, s | crawl complete, s |");
    println!("|---|---|---|---|---|");
    for &engine in engines {
        let databases = Databases::of(engine);
        let database = databases.database("killed");
        let folder = tempfile::tempdir().unwrap();
        configure(folder.path(), &api.urls[0]);
        let mut first = program(folder.path(), &database, "crawl").spawn().unwrap();
        assert!(first.wait().unwrap().success());
        let mut recoveries = Vec::new();
        for kill in 1..=KILLS {
            let mut service = Service::start(folder.path(), &database);
            service.await_log("started");
            std::thread::sleep(Duration::from_millis(60) * kill);
            service.kill();
            recoveries.push(recover(folder.path(), &database));
        }
        let figure = |of: fn(&Recovery) -> f64| {
            let mut figures: Vec<f64> = recoveries.iter().map(of).collect();
            figures.sort_by(f64::total_cmp);
            format!("{:.2}, {:.2}", figures[figures.len() / 2], figures[figures.len() - 1])
        };
        println!(
            "| {} | {KILLS} | {} | {} | {} |",
            databases.title(),
            figure(|recovery| recovery.ready),
            figure(|recovery| recovery.crawling),
            figure(|recovery| recovery.complete)
        );
    }
}

fn recover(folder: &Path, database: &str) -> Recovery {
    let (started, at) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis());
    let mut service = Service::start(folder, database);
    service.await_log("started");
    let ready = started.elapsed().as_secs_f64();
    service.await_log("crawl complete");
    let complete = started.elapsed().as_secs_f64();
    // Stops the service gracefully, so that it releases its lease and the next one can crawl at
    // once.
    kill_process(Pid::from_child(&service.process), Signal::TERM).unwrap();
    service.process.wait().unwrap();
    let first = crawls(database).into_iter().filter(|started_at| *started_at >= at).min();
    let crawling = (first.expect("a crawl was complete") - at) as f64 / 1e3;
    Recovery { ready, crawling, complete }
}

/// Returns the start of each crawl, in milliseconds since 1970.
fn crawls(database: &str) -> Vec<u128> {
    runtime().block_on(async {
        let store = Store::open_to_read(&store_location(database)).await.unwrap();
        let sql = "SELECT CAST(started_at AS TEXT) FROM crawl WHERE reason_code IS NULL";
        let (_, rows) = store.query_as_text(sql).await.unwrap();
        store.close().await;
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    })
}

fn configure(folder: &Path, api: &str) {
    std::fs::write(folder.join("app.key"), KEY).unwrap();
    // A tick each second, so that at every start a missed tick is caught up.
    let config = format!(
        "[schedule]\ncron = \"* * * * * *\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n\
         [apps.bench]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{api}\"\n\
         request_interval = \"0s\"\ngroup_types = {TYPES:?}\n"
    );
    std::fs::write(folder.join("config.toml"), config).unwrap();
}

fn program(folder: &Path, database: &str, subcommand: &str) -> Command {
    let url = if database.contains("://") { database.to_owned() } else { format!("sqlite:{database}") };
    let mut command = Command::new(PROGRAM);
    command.arg(subcommand).env("TIM_GROUP_SYNC_CONFIG", folder.join("config.toml"));
    command.env("TIM_GROUP_SYNC_DATABASE_URL", url).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The service as a process, with its log lines.
struct Service {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Service {
    fn start(folder: &Path, database: &str) -> Self {
        let mut process = program(folder, database, "run").stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, lines }
    }

    fn await_log(&mut self, text: &str) {
        assert!(self.lines.by_ref().map(Result::unwrap).any(|line| line.contains(text)), "{text}");
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
