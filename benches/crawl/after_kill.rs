//! What a service that was killed in the middle of a crawl takes to be back, from the start of its process on.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use tim_group_sync::simulator::KEY;
use tim_group_sync::store::Store;

use crate::phases::{Api, TYPES, database_url, runtime};
use crate::report::{Engine, Home};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");
const KILLS: u32 = 5;

/// Seconds since the process was started.
#[derive(Clone, Copy)]
struct Back {
    ready: f64,
    crawling: f64,
    complete: f64,
}

/// Kills the service some way into a crawl, each time a little further, and starts it again.
pub(crate) fn after_kill(engines: &[Engine], groups: u64) {
    let api = Api::start(groups, 1);
    println!("\n### After a kill, {groups} groups\n");
    println!("| database | kills | ready, s: median, most | crawling, s | crawl complete, s |");
    println!("|---|---|---|---|---|");
    for &engine in engines {
        let home = Home::of(engine);
        let database = home.database("killed");
        let folder = tempfile::tempdir().unwrap();
        configure(folder.path(), &api.urls[0]);
        let mut first = program(folder.path(), &database, "crawl").spawn().unwrap();
        assert!(first.wait().unwrap().success());
        let mut backs = Vec::new();
        for kill in 1..=KILLS {
            let mut service = Service::start(folder.path(), &database);
            service.says("started");
            std::thread::sleep(Duration::from_millis(60) * kill);
            service.kill();
            backs.push(come_back(folder.path(), &database));
        }
        let figure = |of: fn(&Back) -> f64| {
            let mut figures: Vec<f64> = backs.iter().map(of).collect();
            figures.sort_by(f64::total_cmp);
            format!("{:.2}, {:.2}", figures[figures.len() / 2], figures[figures.len() - 1])
        };
        println!(
            "| {} | {KILLS} | {} | {} | {} |",
            home.title(),
            figure(|back| back.ready),
            figure(|back| back.crawling),
            figure(|back| back.complete)
        );
    }
}

fn come_back(folder: &Path, database: &str) -> Back {
    let (started, at) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis());
    let mut service = Service::start(folder, database);
    service.says("started");
    let ready = started.elapsed().as_secs_f64();
    service.says("crawl complete");
    let complete = started.elapsed().as_secs_f64();
    // With its lease given back, for the next one to be in a crawl at once.
    kill_process(Pid::from_child(&service.process), Signal::TERM).unwrap();
    service.process.wait().unwrap();
    let first = crawls(database).into_iter().filter(|started_at| *started_at >= at).min();
    let crawling = (first.expect("a crawl was complete") - at) as f64 / 1e3;
    Back { ready, crawling, complete }
}

/// When each crawl started, in milliseconds since 1970.
fn crawls(database: &str) -> Vec<u128> {
    runtime().block_on(async {
        let store = Store::open_to_read(&database_url(database)).await.unwrap();
        let sql = "SELECT CAST(started_at AS TEXT) FROM crawl WHERE reason_code IS NULL";
        let (_, rows) = store.read(sql).await.unwrap();
        store.close().await;
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    })
}

fn configure(folder: &Path, api: &str) {
    std::fs::write(folder.join("app.key"), KEY).unwrap();
    // A tick each second, so that one is missed at every start.
    let config = format!(
        "[schedule]\ncron = \"* * * * * *\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n\
         [apps.bench]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{api}\"\n\
         request_interval = \"0s\"\ngroup_types = {TYPES:?}\n"
    );
    std::fs::write(folder.join("config.toml"), config).unwrap();
}

fn program(folder: &Path, database: &str, verb: &str) -> Command {
    let url = if database.contains("://") { database.to_owned() } else { format!("sqlite:{database}") };
    let mut command = Command::new(PROGRAM);
    command.arg(verb).env("TIM_GROUP_SYNC_CONFIG", folder.join("config.toml"));
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

    fn says(&mut self, text: &str) {
        assert!(self.lines.by_ref().map(Result::unwrap).any(|line| line.contains(text)), "{text}");
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
