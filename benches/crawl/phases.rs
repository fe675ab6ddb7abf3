//! The processes of a benchmark run. Each does one task, measures itself and prints its
//! measurements.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use reqwest::Url;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlRequest, CrawlSettings, Crawler, WhenBusy};
use tim_group_sync::model::{CrawlStatus, GroupType, SdkAppId, Trigger};
use tim_group_sync::pace::{Pacer, RetryBudget, RetryPolicy};
use tim_group_sync::pages::{Caller, InfoSettings, Paginator};
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::{Settings, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseLocation, PostgresDatabase, Store};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

use crate::figures::{Figures, Stopwatch};
use crate::{PACE, by_hand};

pub(crate) const TYPES: [&str; 3] = ["Public", "Private", "Community"];

/// The task of a process.
pub(crate) enum Role<'a> {
    Simulator { groups: usize, apps: usize },
    Floor { api: &'a str },
    Crawl { apis: Vec<&'a str>, database: &'a str, request_interval: Duration },
    Upsert { api: &'a str, database: &'a str },
    Bulk { api: &'a str, database: &'a str, sorted: bool },
}

impl<'a> Role<'a> {
    pub(crate) fn parse(arguments: &[&'a str]) -> Self {
        match *arguments {
            ["simulator", groups, apps] => {
                Self::Simulator { groups: groups.parse().unwrap(), apps: apps.parse().unwrap() }
            }
            ["floor", api] => Self::Floor { api },
            ["crawl", apis, database] => {
                Self::Crawl { apis: apis.split(',').collect(), database, request_interval: Duration::ZERO }
            }
            ["paced", api, database] => Self::Crawl { apis: vec![api], database, request_interval: PACE },
            ["upsert", api, database] => Self::Upsert { api, database },
            ["bulk", order, api, database] => Self::Bulk { api, database, sorted: order == "sorted" },
            _ => panic!("no such role: {arguments:?}"),
        }
    }

    pub(crate) fn run(self) {
        runtime().block_on(async {
            match self {
                Self::Simulator { groups, apps } => simulate(groups, apps).await,
                Self::Floor { api } => floor(api).await,
                Self::Crawl { apis, database, request_interval } => {
                    crawl(&apis, database, request_interval).await;
                }
                Self::Upsert { api, database } => by_hand::upsert(api, database).await,
                Self::Bulk { api, database, sorted } => by_hand::bulk(api, database, sorted).await,
            }
        });
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Runs a task in a process of this program, and returns its measurements.
pub(crate) fn phase(arguments: &[&str]) -> Figures {
    measured(Command::new(std::env::current_exe().unwrap()).arg("role").args(arguments))
}

pub(crate) fn measured(command: &mut Command) -> Figures {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The simulated API in a separate process. Each of its URLs serves one app.
pub(crate) struct Api {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
    pub(crate) urls: Vec<String>,
}

impl Api {
    pub(crate) fn start(groups: u64, apps: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["role", "simulator", &groups.to_string(), &apps.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut urls = String::new();
        answers.read_line(&mut urls).unwrap();
        let urls = urls.trim().split(',').map(str::to_owned).collect();
        Self { process, commands, answers, urls }
    }

    /// Dissolves `groups` groups of each app, and creates the same number.
    pub(crate) fn churn(&mut self, groups: u64) {
        writeln!(self.commands, "{groups}").unwrap();
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

fn sdk_app_id(number: usize) -> SdkAppId {
    SdkAppId::new(1_400_000_000 + i64::try_from(number).unwrap()).unwrap()
}

async fn simulate(groups: usize, apps: usize) {
    let mut served = Vec::new();
    for number in 0..apps {
        let settings = Settings { sdk_app_id: sdk_app_id(number), ..Settings::default() };
        let app = Simulator::start(settings).await.unwrap();
        app.create_many(TYPES[0], groups - groups / 4 - groups / 20);
        app.create_many(TYPES[1], groups / 4);
        app.create_many(TYPES[2], groups / 20);
        served.push(app);
    }
    let urls: Vec<String> = served.iter().map(|app| app.base_url().clone()).collect();
    println!("{}", urls.join(","));
    let commands = tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines() {
            let groups: usize = line.unwrap().parse().unwrap();
            for app in &served {
                app.dissolve_some(groups);
                app.create_many(TYPES[0], groups);
            }
            println!("done");
        }
    });
    commands.await.unwrap();
}

pub(crate) fn client(api: &str, number: usize) -> Client {
    let simulated = Settings::default();
    Client::new(ClientSettings {
        sdk_app_id: sdk_app_id(number),
        identifier: simulated.identifier,
        secret_key: simulated.secret_key,
        base_url: Url::parse(api).unwrap(),
        region_hint: String::new(),
        request_timeout: Duration::from_secs(10),
        clock: Clock::system(),
    })
    .unwrap()
}

/// Fetches and parses every page, and calls `each` with the type and the ids. Returns the number of
/// requests.
pub(crate) async fn fetch_all(api: &str, mut each: impl AsyncFnMut(&'static str, Vec<&str>)) -> u64 {
    let client = client(api, 0);
    let pacer = Pacer::new(Duration::ZERO, tokio::time::Instant::now());
    let retries = RetryBudget::new(RetryPolicy::lasting(Duration::from_secs(10)));
    let mut caller = Caller::new(&client, &pacer, retries, InfoSettings::default(), |_| ());
    for name in TYPES {
        let mut pages = Paginator::of(GroupType::new(name), 10_000, None);
        loop {
            let step = pages.fetch_next(&mut caller).await.unwrap();
            each(name, step.page.ids.iter().collect()).await;
            if step.end.is_some() {
                break;
            }
        }
    }
    caller.requests()
}

/// Fetches and parses every page, and discards the ids.
async fn floor(api: &str) {
    let watch = Stopwatch::start();
    let mut groups = 0;
    let requests = fetch_all(api, async |_, ids| groups += ids.len() as u64).await;
    watch.print(groups, requests);
}

pub(crate) fn store_location(database: &str) -> DatabaseLocation {
    if database.starts_with("postgres://") {
        DatabaseLocation::Postgres(PostgresDatabase::new(database).unwrap())
    } else {
        DatabaseLocation::Sqlite(Path::new(database).to_owned())
    }
}

/// Crawls all apps at the same time.
async fn crawl(apis: &[&str], database: &str, request_interval: Duration) {
    let store = Store::open(&store_location(database)).await.unwrap();
    store.migrate().await.unwrap();
    let crawlers = apis.iter().enumerate().map(|(number, api)| {
        let settings = CrawlSettings {
            identity: AppIdentity { sdk_app_id: sdk_app_id(number), name: format!("bench-{number}") },
            group_types: TYPES.map(|name| GroupType::new(name).unwrap()).to_vec(),
            page_limit: 10_000,
            request_interval,
            retry: RetryPolicy::lasting(Duration::from_secs(10)),
            deletion: DeletionPolicy { max_fraction: 1.0, ..DeletionPolicy::default() },
            details: None,
            timezone: chrono_tz::UTC,
            host: "bench".to_owned(),
        };
        Crawler::new(settings, client(api, number), store.clone(), Clock::system())
    });
    let crawlers: Vec<Crawler> = crawlers.collect();
    let watch = Stopwatch::start();
    let mut crawls = tokio::task::JoinSet::new();
    for crawler in crawlers {
        crawls.spawn(async move {
            let request = CrawlRequest { trigger: Trigger::Command, due_at: None };
            let report = crawler.crawl(request, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
            assert_eq!(report.status, CrawlStatus::Complete, "{report:?}");
            report
        });
    }
    let reports = crawls.join_all().await;
    watch.print(
        reports.iter().map(|report| report.listed).sum(),
        reports.iter().map(|report| report.requests).sum(),
    );
    store.close().await;
}
