//! Measures scrapes of `/metrics`, and the dashboard's list of apps in a browser, with 50 apps of
//! six types and a million groups.
//!
//! `cargo bench --bench scrape` prints how long an answer takes, over HTTP, from a daemon with
//! SQLite whose apps are idle; `-- --crawls N` sets the number of crawls of each app before the
//! scrapes. `-- --browser` also prints how long Chromium takes from the answer to the paint of the
//! list; `tests/run` installs Chromium.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for developers that prints figures")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::browser::{Browser, DESKTOP};
use harness::dashboard::Dashboard;
use reqwest::Url;
use tim_group_sync::alarm::Alarm;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlSettings, Crawler};
use tim_group_sync::daemon::{AppPlan, Apps, Daemon, Database, Phase, WorkersError};
use tim_group_sync::lifecycle::{Lifecycle, Signal, Systemd};
use tim_group_sync::metrics::Metrics;
use tim_group_sync::model::{GroupType, ListenAddress, SdkAppId};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::schedule::Schedule;
use tim_group_sync::simulator::{Settings, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseLocation, Store};
use tim_group_sync::tencent::{Client, ClientSettings};
use tim_group_sync::web::{AllowedHosts, Listener, health};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

const APPS: i64 = 50;
const TYPES: [&str; 6] = ["Public", "Private", "ChatRoom", "AVChatRoom", "BChatRoom", "Community"];
const GROUPS_OF_A_TYPE: usize = 3_334;
const CRAWLS: usize = 24;
const SCRAPES: usize = 300;
const PAINTS: usize = 15;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--crawls").skip(1);
    let crawls = arguments.next().map_or(CRAWLS, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&DatabaseLocation::Sqlite(folder.path().join("groups.db"))).await.unwrap();
    store.migrate().await.unwrap();
    let clock = Clock::system();
    let lifecycle = Lifecycle::without_signals();
    let database = watch::Sender::new(Database::Open(store.clone()));
    let mut daemon = Daemon::new(&clock, &lifecycle, Systemd::from_environment(), database.subscribe());
    let metrics = Arc::new(Metrics::new(&clock));
    let mut apis = Vec::new();
    let mut plans = Vec::new();
    for number in 0..APPS {
        let (api, plan) = app(number, &clock, &metrics).await;
        apis.push(api);
        plans.push(plan);
    }
    daemon.apply(plans, |_| Alarm::manual().0);
    let mut apps = daemon.health().apps();
    for crawl in 1..=crawls {
        if crawl > 1 {
            lifecycle.signal(Signal::CrawlNow);
        }
        let all = i64::try_from(crawl).unwrap() * APPS;
        apps.wait_for(|apps| have_crawled(apps, all - APPS)).await.unwrap();
    }

    let listener = Listener::bind("metrics.listen", SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let ListenAddress::Tcp(address) = *listener.address() else { panic!("it was bound to TCP") };
    let (hosts, stop) = (AllowedHosts::of(listener.address(), &[]), lifecycle.stop().soft().clone());
    let pages = health::routes(daemon.health(), Arc::clone(&metrics));
    lifecycle.supervise("the metrics listener", listener.serve(pages, hosts, stop));
    let mut took = Vec::new();
    let mut bytes = 0;
    for _ in 0..SCRAPES {
        let started = Instant::now();
        bytes = scrape(address).await;
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    println!(
        "{APPS} apps of {} types, {} groups, {crawls} crawls each; {SCRAPES} scrapes of {bytes} bytes: median {:.1} ms, \
         99 of 100 within {:.1} ms, longest {:.1} ms",
        TYPES.len(),
        usize::try_from(APPS).unwrap() * TYPES.len() * GROUPS_OF_A_TYPE,
        millis(took[SCRAPES / 2]),
        millis(took[SCRAPES * 99 / 100]),
        millis(took[SCRAPES - 1]),
    );
    if std::env::args().any(|argument| argument == "--browser") {
        let dashboard = Dashboard::for_daemon(&store, daemon.health().apps(), &clock).await;
        print_paints(&dashboard).await;
    }
    lifecycle.signal(Signal::Stop);
    lifecycle.ended(Systemd::from_environment()).await;
}

/// Opens the list of apps in Chromium several times and prints the times until it is painted.
async fn print_paints(dashboard: &Dashboard) {
    let mut browser = Browser::start().await;
    let mut millis = Vec::new();
    for _ in 0..PAINTS {
        browser.open(&dashboard.url(), DESKTOP).await;
        browser.wait_until(&format!("document.querySelectorAll('.apps tbody tr').length === {APPS}")).await;
        millis.push(browser.millis_from_answer_to_paint("/api/apps").await);
    }
    millis.sort_by(f64::total_cmp);
    println!(
        "the list of {APPS} apps, opened {PAINTS} times in Chromium, from the answer to the paint: median {:.0} ms, \
         shortest {:.0} ms, longest {:.0} ms",
        millis[PAINTS / 2],
        millis[0],
        millis[PAINTS - 1],
    );
}

/// Returns true if every app is waiting and its last crawl is later than crawl `before`.
fn have_crawled(apps: &Apps, before: i64) -> bool {
    apps.values().all(|app| {
        matches!(app.phase, Phase::Waiting)
            && app.last_report.as_ref().is_some_and(|report| report.crawl.0 > before)
    })
}

/// Returns the simulated API and the plan of an app.
async fn app(number: i64, clock: &Clock, metrics: &Metrics) -> (Simulator, AppPlan) {
    let sdk_app_id = SdkAppId::new(1_400_000_000 + number).unwrap();
    let api = Simulator::start(Settings { sdk_app_id, ..Settings::default() }).await.unwrap();
    for name in TYPES {
        api.create_many(name, GROUPS_OF_A_TYPE);
    }
    let name = format!("app-{number:02}");
    let simulated = Settings::default();
    let client = ClientSettings {
        sdk_app_id,
        identifier: simulated.identifier,
        secret_key: simulated.secret_key,
        base_url: Url::parse(&api.base_url()).unwrap(),
        region_hint: "china".to_owned(),
        request_timeout: Duration::from_secs(30),
        clock: clock.clone(),
    };
    let settings = CrawlSettings {
        identity: AppIdentity { sdk_app_id, name: name.clone() },
        group_types: TYPES.map(|name| GroupType::new(name).unwrap()).to_vec(),
        page_limit: 10_000,
        request_interval: Duration::ZERO,
        retry: RetryPolicy::lasting(Duration::from_secs(60)),
        deletion: DeletionPolicy::default(),
        details: None,
        timezone: chrono_tz::UTC,
        host: "bench".to_owned(),
    };
    let (clock, observer) = (clock.clone(), metrics.app(&name));
    let plan = AppPlan {
        group_quota: None,
        name,
        sdk_app_id,
        schedule: Schedule::parse("0 * * * *", chrono_tz::UTC).unwrap(),
        catch_up: true,
        workers: Box::new(move |store: &Store| {
            let client =
                Client::new(client.clone()).map_err(|error| WorkersError::Client(error.to_string()))?;
            let crawler = Crawler::new(settings.clone(), client, store.clone(), clock.clone());
            Ok(crawler.with_observer(Arc::clone(&observer)).into())
        }),
    };
    (api, plan)
}

/// Scrapes once over a new connection. Returns the size of the answer.
async fn scrape(address: SocketAddr) -> usize {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.contains("tim_group_sync_database_up 1"),
        "{answer}"
    );
    assert_eq!(answer.matches("state=\"live\"").count(), TYPES.len() * usize::try_from(APPS).unwrap());
    answer.len()
}
