//! Measures crawls of lists that change while they are read: how often a crawl is complete, how
//! long it takes until a dissolved group is marked deleted, and how many existing groups are marked
//! deleted by mistake.
//!
//! `cargo bench --bench moving` prints the table of docs/moving-lists.md. The crawls are real, over
//! HTTP from the simulated API into SQLite. Only time is simulated: every request advances the
//! clock by the time that the API's limits make it take, and groups are created and dissolved in
//! that time. The seed is fixed.
//!
//! Exits with 1 if an existing group was marked deleted with the default settings although
//! `get_group_info` answered correctly.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers that prints figures"
)]

mod scenarios;
mod simulated_time;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlRequest, CrawlSettings, Crawler, WhenBusy};
use tim_group_sync::model::{CrawlStatus, GroupType, Trigger};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::{At, Cursor, Fault, Order, Settings, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseLocation, Store};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

use crate::scenarios::{SCENARIOS, Scenario, Server, UNCONFIGURED};
use crate::simulated_time::SimulatedTime;

/// One in this number of crawls is answered by a stale replica.
const STALE_EVERY: u32 = 5;

const VANISHED_IN_LAST_CRAWL: &str = "SELECT group_id FROM group_events WHERE event = 'vanished' \
    AND crawl_id = (SELECT max(crawl_id) FROM crawls)";

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    println!(
        "| app | groups | order | cursor | confirm | complete crawls | asked | marked deleted | existing groups marked \
         | late | seconds until marked, median | maximum |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (mut unasked, mut mistakes) = (0, 0);
    for scenario in SCENARIOS {
        if !filters.is_empty() && !filters.iter().any(|part| scenario.name.contains(part.as_str())) {
            continue;
        }
        for listing in scenario.listings {
            for confirm in [true, false] {
                let figures = runtime.block_on(simulate(scenario, *listing, confirm));
                println!("{}", row(scenario, *listing, confirm, &figures));
                unasked += figures.unasked;
                if confirm && scenario.server.is_reliable() {
                    mistakes += figures.existing;
                }
            }
        }
    }
    println!();
    println!("Groups that a crawl had no time to ask about: {unasked}.");
    println!(
        "Existing groups marked deleted with `confirm`, although `get_group_info` answered correctly: {mistakes}."
    );
    if mistakes == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn row(
    Scenario { name, groups, crawls, .. }: Scenario,
    (order, cursor): (Order, Cursor),
    confirm: bool,
    figures: &Figures,
) -> String {
    let order = match order {
        Order::OldestFirst => "oldest first",
        Order::NewestFirst => "newest first",
        Order::Shuffled => "shuffled",
    };
    let cursor = match cursor {
        Cursor::Key => "keyset",
        Cursor::Position => "position",
    };
    let Figures { concluded, asked, marked, existing, late, .. } = figures;
    let confirm = if confirm { "yes" } else { "no" };
    let (median, most) = figures.delays();
    format!(
        "| {name} | {groups} | {order} | {cursor} | {confirm} | {concluded} of {crawls} | {asked} | {marked} | {existing} \
         | {late} | {median} | {most} |"
    )
}

/// The figures of one row of the table.
#[derive(Default)]
struct Figures {
    /// Complete crawls.
    concluded: u32,
    /// The number of groups that were looked up with `get_group_info`.
    asked: u64,
    /// The number of groups that a crawl had no time to look up.
    unasked: u64,
    /// Groups that were marked deleted.
    marked: usize,
    /// Groups that were marked deleted although they existed.
    existing: usize,
    /// Groups that were dissolved before a complete crawl began and were not marked by it.
    late: usize,
    /// Seconds from the dissolution of a known group until it was first marked.
    delays: Vec<i64>,
}

impl Figures {
    /// Returns the median and the longest delay.
    fn delays(&self) -> (String, String) {
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        let show = |delay: Option<&i64>| delay.map_or_else(|| "-".to_owned(), i64::to_string);
        (show(delays.get(delays.len().saturating_sub(1) / 2)), show(delays.last()))
    }
}

async fn simulate(scenario: Scenario, listing: (Order, Cursor), confirm: bool) -> Figures {
    let folder = tempfile::Builder::new().prefix("moving-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let clock = Clock::fixed_at(DateTime::from_timestamp(1_767_225_600, 0).unwrap());
    let settings = Settings { clock: clock.clone(), ..scenario.settings(listing) };
    let api = Simulator::start(settings).await.unwrap();
    for (name, share) in scenario.types {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a small number"
        )]
        api.create_many(name, (share * scenario.groups as f64).round() as usize);
    }
    let simulated_time = Arc::new(SimulatedTime::new(scenario, clock.clone()));
    let hook = Arc::clone(&simulated_time);
    api.on_request(move |app, request| hook.on_request(app, request));

    let database = folder.path().join("groups.db");
    let (store, crawler) = crawler(scenario, confirm, &api, clock, database).await;
    let mut figures = Figures::default();
    // A stale list can make a dissolved group live again, so that it is marked again. Only the
    // first time counts.
    let mut marked_before = HashSet::new();
    let mut last_concluded: Option<DateTime<Utc>> = None;
    for n in 0..scenario.crawls {
        script_replica(scenario.server, &api, n);
        let request = CrawlRequest { trigger: Trigger::Command, due_at: None };
        let report = crawler.crawl(request, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
        let concluded = report.status == CrawlStatus::Complete;
        figures.concluded += u32::from(concluded);
        figures.asked += report.lookups.asked;
        figures.unasked += report.lookups.unasked;
        let marked = ids(&store, VANISHED_IN_LAST_CRAWL).await;
        figures.marked += marked.len();
        simulated_time.with_dissolved(|dissolved| {
            for id in marked {
                let Some(at) = dissolved.get(&id) else {
                    figures.existing += 1;
                    continue;
                };
                if marked_before.insert(id) {
                    figures.delays.push((report.finished_at - *at).num_seconds());
                    figures.late += usize::from(last_concluded.is_some_and(|start| *at < start));
                }
            }
        });
        if concluded {
            last_concluded = Some(report.started_at);
        }
        simulated_time.pause(&api);
    }
    let live = ids(&store, "SELECT group_id FROM live_groups").await;
    simulated_time.with_dissolved(|dissolved| {
        let never_marked = live.iter().filter(|id| !marked_before.contains(*id));
        let due = |at: &DateTime<Utc>| last_concluded.is_some_and(|start| *at < start);
        figures.late += never_marked.filter(|id| dissolved.get(*id).is_some_and(due)).count();
    });
    store.close().await;
    figures
}

/// Scripts the replica's answers for crawl `n`, counted from 0. The replica copies the groups at
/// the start of every fifth crawl, and answers the fourth crawl after that.
fn script_replica(server: Server, api: &Simulator, n: u32) {
    if n.is_multiple_of(STALE_EVERY) {
        api.save_stale_copy();
    }
    let stale = match server {
        Server::StaleLists => At::List,
        Server::StaleInfo => At::Info,
        Server::StaleApi => At::Every,
        _ => return,
    };
    api.clear_faults();
    if n % STALE_EVERY == STALE_EVERY - 1 {
        api.script(stale, Fault::Stale);
    }
}

async fn crawler(
    scenario: Scenario,
    confirm: bool,
    api: &Simulator,
    clock: Clock,
    database: PathBuf,
) -> (Store, Crawler) {
    let simulated = Settings::default();
    let client = Client::new(ClientSettings {
        sdk_app_id: simulated.sdk_app_id,
        identifier: simulated.identifier,
        secret_key: simulated.secret_key,
        base_url: Url::parse(&api.base_url()).unwrap(),
        region_hint: String::new(),
        request_timeout: Duration::from_secs(10),
        clock: clock.clone(),
    })
    .unwrap();
    let store = Store::open(&DatabaseLocation::Sqlite(database)).await.unwrap();
    store.migrate().await.unwrap();
    let configured = scenario.types.iter().map(|(name, _)| *name).filter(|name| *name != UNCONFIGURED);
    let settings = CrawlSettings {
        identity: AppIdentity { sdk_app_id: simulated.sdk_app_id, name: "moving".to_owned() },
        group_types: configured.map(|name| GroupType::new(name).unwrap()).collect(),
        page_limit: 10_000,
        request_interval: Duration::ZERO,
        retry: RetryPolicy::lasting(Duration::from_secs(10)),
        deletion: DeletionPolicy {
            max_fraction: 0.2,
            min_groups: 100,
            confirm,
            max_fraction_by_type: BTreeMap::from([(GroupType::new("AVChatRoom").unwrap(), 1.0)]),
            ..DeletionPolicy::default()
        },
        details: None,
        timezone: chrono_tz::UTC,
        host: "bench".to_owned(),
    };
    (store.clone(), Crawler::new(settings, client, store, clock))
}

/// Returns the first column of a query.
async fn ids(store: &Store, query: &'static str) -> Vec<String> {
    let (_, rows) = store.query_as_text(query).await.unwrap();
    rows.into_iter().map(|mut row| row.swap_remove(0)).collect()
}
