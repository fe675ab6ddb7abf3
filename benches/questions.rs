//! Measures the time that `get_group_info` requests about candidates for deletion add to a crawl,
//! with a server that takes 50 ms for each answer.
//!
//! `cargo bench --bench questions` prints the tables of docs/performance.md. The crawls are real,
//! over HTTP from the simulated API into SQLite. List requests are sent without pauses, so that the
//! time of the other requests is visible.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for developers that prints figures")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Url;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlReport, CrawlRequest, CrawlSettings, Crawler, WhenBusy};
use tim_group_sync::model::{GroupType, Trigger};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::{Call, Settings, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseLocation, Store};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

const TYPES: [&str; 2] = ["Public", "Private"];
/// The time that the server takes for an answer of `get_group_info`.
const INFO_DELAY: Duration = Duration::from_millis(50);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        added_by_candidates(100_000, 5_000).await;
        all_deletions_withheld(120_000, 48_000).await;
    });
}

/// An app with its simulated API, its crawler and its database.
struct App {
    api: Simulator,
    crawler: Crawler,
    store: Store,
    _folder: tempfile::TempDir,
}

impl App {
    async fn with(groups: usize, confirm: bool, max_fraction: f64) -> Self {
        let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let simulated = Settings { info_delay: INFO_DELAY, ..Settings::default() };
        let api = Simulator::start(simulated.clone()).await.unwrap();
        TYPES.iter().for_each(|group_type| api.create_many(group_type, groups / TYPES.len()));
        let client = Client::new(ClientSettings {
            sdk_app_id: simulated.sdk_app_id,
            identifier: simulated.identifier,
            secret_key: simulated.secret_key,
            base_url: Url::parse(&api.base_url()).unwrap(),
            region_hint: String::new(),
            request_timeout: Duration::from_secs(10),
            clock: Clock::system(),
        })
        .unwrap();
        let store = Store::open(&DatabaseLocation::Sqlite(folder.path().join("groups.db"))).await.unwrap();
        store.migrate().await.unwrap();
        let settings = CrawlSettings {
            identity: AppIdentity { sdk_app_id: simulated.sdk_app_id, name: "bench".to_owned() },
            group_types: TYPES.iter().map(|name| GroupType::new(name).unwrap()).collect(),
            page_limit: 10_000,
            request_interval: Duration::ZERO,
            retry: RetryPolicy::lasting(Duration::from_secs(10)),
            deletion: DeletionPolicy {
                review: false,
                max_fraction,
                min_groups: 100,
                max_fraction_by_type: BTreeMap::new(),
                max_shortfall: 0.0,
                confirm,
            },
            details: None,
            timezone: chrono_tz::UTC,
            host: "bench".to_owned(),
        };
        let crawler = Crawler::new(settings, client, store.clone(), Clock::system());
        Self { api, crawler, store, _folder: folder }
    }

    /// Crawls the app. Returns the report, the seconds, and the number of `get_group_info`
    /// requests.
    async fn crawl(&self) -> (CrawlReport, f64, usize) {
        let before = self.api.requests().len();
        let started = Instant::now();
        let request = CrawlRequest { trigger: Trigger::Command, due_at: None };
        let report = self.crawler.crawl(request, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let requests = self.api.requests();
        let info_requests = requests[before..].iter().filter(|request| request.call == Call::Info).count();
        (report, seconds, info_requests)
    }
}

/// Measures a crawl after groups were dissolved, with and without `get_group_info`.
async fn added_by_candidates(groups: usize, candidates: usize) {
    println!("\n### {candidates} candidates of {groups} groups, {} ms an answer\n", INFO_DELAY.as_millis());
    println!("| confirm | crawl of {groups} groups | seconds | questions in requests | marked deleted |");
    println!("|---|---|---|---|---|");
    for confirm in [false, true] {
        let app = App::with(groups, confirm, 1.0).await;
        let print = |what: &str, (report, seconds, requests): (CrawlReport, f64, usize)| {
            let vanished = report.events.vanished;
            println!(
                "| {confirm} | {what} | {seconds:.2} | {} in {requests} | {vanished} |",
                report.lookups.asked
            );
        };
        print("first", app.crawl().await);
        print("unchanged", app.crawl().await);
        app.api.dissolve_some(candidates);
        print(&format!("after {candidates} dissolutions"), app.crawl().await);
        print("unchanged", app.crawl().await);
        app.store.close().await;
    }
}

/// Dissolves more groups than the guard permits, and crawls until all of them have been looked up.
async fn all_deletions_withheld(groups: usize, dissolved: usize) {
    println!("\n### {dissolved} of {groups} groups dissolved at once, with the guard's defaults\n");
    println!(
        "| crawl | seconds | requests to get_group_info | withheld by this crawl | held | confirmed | marked deleted |"
    );
    println!("|---|---|---|---|---|---|---|");
    let app = App::with(groups, true, 0.2).await;
    app.crawl().await;
    app.api.dissolve_some(dissolved);
    for crawl in 2.. {
        let (report, seconds, requests) = app.crawl().await;
        let sql =
            "SELECT CAST(count(*) AS TEXT) AS held, CAST(coalesce(sum(confirmed), 0) AS TEXT) AS confirmed
                   FROM live_groups WHERE held";
        let (_, rows) = app.store.query_as_text(sql).await.unwrap();
        let (held, confirmed) = (&rows[0][0], &rows[0][1]);
        let (withheld, vanished) = (report.withheld, report.events.vanished);
        println!("| {crawl} | {seconds:.1} | {requests} | {withheld} | {held} | {confirmed} | {vanished} |");
        if requests == 0 || crawl > 8 {
            break;
        }
    }
    app.store.close().await;
}
