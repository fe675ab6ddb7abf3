//! How fast a crawl is, what it writes and what it needs, beside the floor and a script that people write by hand.
//!
//! `cargo bench --bench crawl` runs 100,000 and 1,000,000 groups; `-- --groups 10000000` any other number. Every phase
//! and the simulated API are processes of their own; each measures itself through /proc. Nothing is paced.
//!
//! `-- --paced` crawls 1,000,000 groups twice at the real pace, some four minutes, and compares the time with the pace's.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a program for developers that prints figures"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Url;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlSettings, Crawler, GuardPolicy, Occasion, WhenBusy};
use tim_group_sync::model::{CrawlStatus, GroupType, Trigger};
use tim_group_sync::pace::{Pacer, Patience, RetryPolicy};
use tim_group_sync::pages::{Caller, Pages};
use tim_group_sync::simulator::{KEY, Settings, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseUrl, Store};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

const TYPES: [&str; 3] = ["Public", "Private", "Community"];
const REPEATS: usize = 9;
/// The default `request_interval`.
const PACE: Duration = Duration::from_millis(1050);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["role", "simulator", groups] => runtime().block_on(simulate(groups.parse().unwrap())),
        ["role", "floor", url] => runtime().block_on(floor(url)),
        ["role", "crawl", url, database] => {
            runtime().block_on(crawl(url, Path::new(database), Duration::ZERO));
        }
        ["role", "paced", url, database] => runtime().block_on(crawl(url, Path::new(database), PACE)),
        ["--paced"] => compare_with_pace(1_000_000),
        ["--groups", groups] => compare(groups.parse().unwrap()),
        [] => [100_000, 1_000_000].into_iter().for_each(compare),
        _ => eprintln!("usage: cargo bench --bench crawl [-- --groups N | --paced]"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// What a phase measured of itself.
#[derive(Clone, Copy, serde::Deserialize, serde::Serialize)]
struct Figures {
    groups: u64,
    #[serde(default)]
    requests: u64,
    wall: f64,
    cpu: f64,
    written: u64,
    rss: u64,
}

impl Figures {
    fn print_own(groups: u64, requests: u64, wall: Duration) {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let after_name: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: f64 = after_name[11].parse::<f64>().unwrap() + after_name[12].parse::<f64>().unwrap();
        let field = |file: &str, name: &str| -> u64 {
            let text = std::fs::read_to_string(file).unwrap();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let figures = Self {
            groups,
            requests,
            wall: wall.as_secs_f64(),
            // Linux counts in hundredths of a second for every process.
            cpu: ticks / 100.0,
            written: field("/proc/self/io", "write_bytes"),
            rss: field("/proc/self/status", "VmHWM") * 1024,
        };
        println!("{}", serde_json::to_string(&figures).unwrap());
    }

    fn row(&self, what: &str) {
        println!(
            "| {what} | {:.0} | {:.2} | {:.2} | {:.2} | {:.1} |",
            self.groups as f64 / self.wall,
            self.wall,
            self.cpu,
            self.written as f64 / 1e6,
            self.rss as f64 / 1e6,
        );
    }
}

struct Api {
    process: Child,
    verbs: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
    url: String,
}

impl Api {
    fn start(groups: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["role", "simulator", &groups.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let verbs = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut url = String::new();
        answers.read_line(&mut url).unwrap();
        Self { process, verbs, answers, url: url.trim().to_owned() }
    }

    fn churn(&mut self, groups: u64) {
        writeln!(self.verbs, "{groups}").unwrap();
        let mut done = String::new();
        self.answers.read_line(&mut done).unwrap();
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn simulate(groups: usize) {
    let api = Simulator::start(Settings::default()).await.unwrap();
    api.create_many(TYPES[0], groups - groups / 4 - groups / 20);
    api.create_many(TYPES[1], groups / 4);
    api.create_many(TYPES[2], groups / 20);
    println!("{}", api.base_url());
    let verbs = tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines() {
            let groups: usize = line.unwrap().parse().unwrap();
            api.dissolve_some(groups);
            api.create_many(TYPES[0], groups);
            println!("done");
        }
    });
    verbs.await.unwrap();
}

fn client(url: &str) -> Client {
    let simulated = Settings::default();
    Client::new(ClientSettings {
        sdk_app_id: simulated.sdk_app_id,
        identifier: simulated.identifier,
        secret_key: simulated.secret_key,
        base_url: Url::parse(url).unwrap(),
        place: String::new(),
        request_timeout: Duration::from_secs(10),
        clock: Clock::system(),
    })
    .unwrap()
}

/// Fetches and parses every page and keeps nothing.
async fn floor(url: &str) {
    let client = client(url);
    let pacer = Pacer::new(Duration::ZERO, tokio::time::Instant::now());
    let patience = Patience::new(RetryPolicy::lasting(Duration::from_secs(10)));
    let mut caller = Caller::new(&client, &pacer, patience, |_| ());
    let started = Instant::now();
    let mut groups = 0;
    for name in TYPES {
        let mut pages = Pages::of(GroupType::new(name), 10_000);
        loop {
            let turned = pages.turn(&mut caller).await.unwrap();
            groups += turned.page.ids.iter().filter(|id| !id.is_empty()).count() as u64;
            if turned.end.is_some() {
                break;
            }
        }
    }
    Figures::print_own(groups, caller.requests(), started.elapsed());
}

async fn crawl(url: &str, database: &Path, request_interval: Duration) {
    let store = Store::open(&DatabaseUrl::Sqlite(database.to_owned())).await.unwrap();
    store.migrate().await.unwrap();
    let settings = CrawlSettings {
        identity: AppIdentity { sdk_app_id: Settings::default().sdk_app_id, name: "bench".to_owned() },
        group_types: TYPES.map(|name| GroupType::new(name).unwrap()).to_vec(),
        page_limit: 10_000,
        request_interval,
        retry: RetryPolicy::lasting(Duration::from_secs(10)),
        max_shortfall: 0.0,
        guard: GuardPolicy { max_fraction: 1.0, ..GuardPolicy::default() },
        timezone: chrono_tz::UTC,
        host: "bench".to_owned(),
    };
    let crawler = Crawler::new(settings, client(url), store.clone(), Clock::system());
    let occasion = Occasion { trigger: Trigger::Command, due_at: None };
    let started = Instant::now();
    let report = crawler.crawl(occasion, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
    let wall = started.elapsed();
    assert_eq!(report.status, CrawlStatus::Complete, "{report:?}");
    store.close().await;
    Figures::print_own(report.listed, report.requests, wall);
}

fn phase(arguments: &[&str]) -> Figures {
    measured(Command::new(std::env::current_exe().unwrap()).arg("role").args(arguments))
}

fn measured(command: &mut Command) -> Figures {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn median(mut runs: Vec<Figures>) -> Figures {
    runs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    runs[runs.len() / 2]
}

fn compare(groups: u64) {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let database: PathBuf = folder.path().join("groups.db");
    let database = database.to_str().unwrap();
    let by_hand = folder.path().join("by-hand.db");
    let mut api = Api::start(groups);
    let url = api.url.clone();
    println!("\n### {groups} groups\n");
    println!("| phase | groups/s | wall s | CPU s | MB written | peak RSS MB |");
    println!("|---|---|---|---|---|---|");
    let first = phase(&["crawl", &url, database]);
    // In turn, so that a machine whose speed drifts is fair to both.
    let pairs: Vec<(Figures, Figures)> =
        (0..REPEATS).map(|_| (phase(&["floor", &url]), phase(&["crawl", &url, database]))).collect();
    let floor = median(pairs.iter().map(|pair| pair.0).collect());
    let unchanged = median(pairs.iter().map(|pair| pair.1).collect());
    floor.row("floor: fetch and parse, keep nothing");
    first.row("first load");
    unchanged.row("unchanged");
    let script = || {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/upsert.py");
        measured(Command::new("python3").arg(program).args([&url, KEY]).arg(&by_hand).args(TYPES))
    };
    script().row("upsert by hand, first load");
    let upsert = script();
    upsert.row("upsert by hand, unchanged");
    api.churn(groups / 100);
    phase(&["crawl", &url, database]).row("1 % churn");
    println!();
    let mut ratios: Vec<f64> = pairs.iter().map(|(floor, unchanged)| floor.wall / unchanged.wall).collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "- unchanged reaches {:.2} of the floor's groups/s (median of {REPEATS} pairs, {:.2} to {:.2})",
        ratios[REPEATS / 2],
        ratios[0],
        ratios[REPEATS - 1]
    );
    println!("- unchanged needs {:.2} of the hand-written upsert's CPU seconds", unchanged.cpu / upsert.cpu);
    println!("- table: {:.1} MB", std::fs::metadata(database).unwrap().len() as f64 / 1e6);
}

fn compare_with_pace(groups: u64) {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let database: PathBuf = folder.path().join("groups.db");
    let api = Api::start(groups);
    println!("\n### {groups} groups at the real pace\n");
    println!("| phase | requests | wall s | 1.02 × (requests − 1) × interval + 2 s |");
    println!("|---|---|---|---|");
    for what in ["first load", "unchanged"] {
        let figures = phase(&["paced", &api.url, database.to_str().unwrap()]);
        let allowed = 1.02 * (figures.requests - 1) as f64 * PACE.as_secs_f64() + 2.0;
        println!("| {what} | {} | {:.2} | {allowed:.2} |", figures.requests, figures.wall);
    }
}
