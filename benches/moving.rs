//! Lists that move while they are read: how often a crawl concludes, how long a real deletion takes to be marked, and
//! how many standing groups are marked by mistake.
//!
//! `cargo bench --bench moving` prints the tables of docs/moving-lists.md. The crawls are the program's own, over HTTP
//! from the simulated API into SQLite; only time is simulated: every request moves the clock on by the API's pace, and
//! with it come the creations and dissolutions that are due. The same seed gives the same figures.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers that prints figures"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlSettings, Crawler, GuardPolicy, Occasion, WhenBusy};
use tim_group_sync::model::{CrawlStatus, GroupType, Trigger};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::simulator::{Call, Cursor, Listing, Order, Settings, SimulatedApp, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseUrl, Store};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

/// What a request takes at the API's pace.
const PACE: TimeDelta = TimeDelta::milliseconds(1050);
const CRAWLS: u32 = 20;

/// An app whose groups come and go.
#[derive(Clone, Copy)]
struct Scenario {
    what: &'static str,
    groups: usize,
    /// Creations, and as many dissolutions, a second.
    rate: f64,
    /// Whether they go on while the lists are read.
    restless: bool,
    types: &'static [(&'static str, f64)],
    /// Between the end of a crawl and the start of the next.
    pause: TimeDelta,
    crawls: u32,
}

const MIXED: &[(&str, f64)] = &[("Public", 0.7), ("Private", 0.25), ("Community", 0.05)];
const MINUTE: TimeDelta = TimeDelta::seconds(60);

const SCENARIOS: [Scenario; 6] = [
    Scenario {
        what: "quiet while it is listed",
        groups: 100_000,
        rate: 0.3,
        restless: false,
        types: MIXED,
        pause: MINUTE,
        crawls: CRAWLS,
    },
    // What comes and goes between two pages cancels out most often at about this rate.
    Scenario {
        what: "0.1 a second",
        groups: 100_000,
        rate: 0.1,
        restless: true,
        types: MIXED,
        pause: MINUTE,
        crawls: 200,
    },
    Scenario {
        what: "0.3 a second",
        groups: 100_000,
        rate: 0.3,
        restless: true,
        types: MIXED,
        pause: MINUTE,
        crawls: CRAWLS,
    },
    Scenario {
        what: "37 a second",
        groups: 100_000,
        rate: 37.0,
        restless: true,
        types: MIXED,
        pause: MINUTE,
        crawls: CRAWLS,
    },
    Scenario {
        what: "3 a second",
        groups: 1_000_000,
        rate: 3.0,
        restless: true,
        types: MIXED,
        pause: MINUTE,
        crawls: CRAWLS,
    },
    Scenario {
        what: "live rooms of 45 minutes",
        groups: 5_000,
        rate: 5_000.0 / (45.0 * 60.0),
        restless: true,
        types: &[("AVChatRoom", 1.0)],
        pause: TimeDelta::seconds(3600),
        crawls: 48,
    },
];

const ORDERS: [(Order, &str); 3] = [
    (Order::OldestFirst, "oldest first"),
    (Order::NewestFirst, "newest first"),
    (Order::Shuffled, "by no age"),
];
/// With whether each group is asked about before it is deleted.
const CURSORS: [(Cursor, bool, &str); 3] = [
    (Cursor::Key, false, "key"),
    (Cursor::Position, false, "position"),
    (Cursor::Position, true, "position, `confirm`"),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    println!(
        "| app | groups | order | cursor | crawls concluded | second looks | marked deleted | of them standing | \
         seconds to be marked, median | at most |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for scenario in SCENARIOS {
        if !wanted.is_empty() && !wanted.iter().any(|part| scenario.what.contains(part.as_str())) {
            continue;
        }
        for (order, order_name) in ORDERS {
            for (cursor, confirm, cursor_name) in CURSORS {
                let listing = Listing { order, cursor };
                let outcome = runtime.block_on(live_through(scenario, listing, confirm));
                println!(
                    "| {} | {} | {order_name} | {cursor_name} | {} of {} | {} | {} | {} | {} | {} |",
                    scenario.what,
                    scenario.groups,
                    outcome.concluded,
                    scenario.crawls,
                    outcome.unfiltered_passes,
                    outcome.marked,
                    outcome.standing,
                    outcome.delay(2),
                    outcome.delay(1),
                );
            }
        }
    }
}

#[derive(Default)]
struct Outcome {
    concluded: u32,
    unfiltered_passes: usize,
    marked: usize,
    /// Marked deleted while they stood.
    standing: usize,
    /// From the dissolution of a known group to its mark.
    delays: Vec<i64>,
}

impl Outcome {
    /// The median with 2, the longest with 1.
    fn delay(&self, part: usize) -> String {
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        delays
            .get((delays.len() / part).saturating_sub(2 - part))
            .map_or_else(|| "-".to_owned(), i64::to_string)
    }
}

/// The app's own time: what is due happens when it moves on.
struct Life {
    clock: Clock,
    rate: f64,
    types: &'static [(&'static str, f64)],
    state: Mutex<LifeState>,
}

struct LifeState {
    /// Events that are due, with the fraction of the next.
    due: f64,
    created: BTreeMap<&'static str, f64>,
    dissolved: BTreeMap<String, DateTime<Utc>>,
}

impl Life {
    /// A minute at a time, so that groups can come and go between two crawls.
    fn pass(&self, app: &SimulatedApp, time: TimeDelta) {
        let mut rest = time;
        while rest > TimeDelta::zero() {
            self.pass_at_once(app, rest.min(MINUTE));
            rest -= MINUTE;
        }
    }

    fn pass_at_once(&self, app: &SimulatedApp, time: TimeDelta) {
        let now = self.clock.now() + time;
        self.clock.set(now);
        let mut state = self.state.lock().unwrap();
        state.due += self.rate * time.as_seconds_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
        let events = state.due as usize;
        state.due -= events as f64;
        if events == 0 {
            return;
        }
        for id in app.dissolve_some(events) {
            state.dissolved.insert(id, now);
        }
        for (name, share) in self.types {
            let owed = state.created.entry(name).or_default();
            *owed += share * events as f64;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
            let whole = *owed as usize;
            *owed -= whole as f64;
            app.create_many(name, whole);
        }
    }
}

async fn live_through(scenario: Scenario, listing: Listing, confirm: bool) -> Outcome {
    let folder = tempfile::Builder::new().prefix("moving-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let clock = Clock::standing_at(DateTime::from_timestamp(1_767_225_600, 0).unwrap());
    let api =
        Simulator::start(Settings { listing, clock: clock.clone(), ..Settings::default() }).await.unwrap();
    for (name, share) in scenario.types {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a small number"
        )]
        api.create_many(name, (share * scenario.groups as f64) as usize);
    }
    let life = Arc::new(Life {
        clock: clock.clone(),
        rate: scenario.rate,
        types: scenario.types,
        state: Mutex::new(LifeState { due: 0.0, created: BTreeMap::new(), dissolved: BTreeMap::new() }),
    });
    let lives = Arc::clone(&life);
    api.on_request(move |app, _| {
        if scenario.restless {
            lives.pass(app, PACE);
        } else {
            lives.clock.set(lives.clock.now() + PACE);
        }
    });

    let database = folder.path().join("groups.db");
    let (store, crawler) = crawler(scenario, confirm, &api, clock.clone(), database).await;
    let mut outcome = Outcome::default();
    for _ in 0..scenario.crawls {
        let before = api.requests().len();
        let occasion = Occasion { trigger: Trigger::Command, due_at: None };
        let report = crawler.crawl(occasion, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
        outcome.concluded += u32::from(report.status == CrawlStatus::Complete);
        let unfiltered = api.requests().into_iter().skip(before);
        let unfiltered = unfiltered.filter(|request| {
            request.call == Call::List && request.group_type.is_none() && request.limit > 1
        });
        outcome.unfiltered_passes += usize::from(unfiltered.count() > 0);
        let truth: BTreeSet<String> = api.truth().into_keys().collect();
        let marked = marked_by(&store, report.crawl.0).await;
        let state = life.state.lock().unwrap();
        for id in marked {
            outcome.marked += 1;
            if truth.contains(&id) {
                outcome.standing += 1;
            } else if let Some(dissolved) = state.dissolved.get(&id) {
                outcome.delays.push((report.finished_at - *dissolved).num_seconds());
            }
        }
        drop(state);
        life.pass(&api, scenario.pause);
    }
    store.close().await;
    outcome
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
        place: String::new(),
        request_timeout: Duration::from_secs(10),
        clock: clock.clone(),
    })
    .unwrap();
    let store = Store::open(&DatabaseUrl::Sqlite(database)).await.unwrap();
    store.migrate().await.unwrap();
    let settings = CrawlSettings {
        identity: AppIdentity { sdk_app_id: simulated.sdk_app_id, name: "moving".to_owned() },
        group_types: scenario.types.iter().map(|(name, _)| GroupType::new(name).unwrap()).collect(),
        page_limit: 10_000,
        request_interval: Duration::ZERO,
        retry: RetryPolicy::lasting(Duration::from_secs(10)),
        max_shortfall: 0.0,
        guard: GuardPolicy {
            max_fraction: 0.2,
            min_groups: 100,
            confirm,
            max_fraction_by_type: BTreeMap::from([(GroupType::new("AVChatRoom").unwrap(), 1.0)]),
            ..GuardPolicy::default()
        },
        timezone: chrono_tz::UTC,
        host: "bench".to_owned(),
    };
    (store.clone(), Crawler::new(settings, client, store, clock))
}

/// The groups that a crawl marked deleted.
async fn marked_by(store: &Store, crawl: i64) -> Vec<String> {
    let (_, rows) =
        store.read("SELECT crawl_id, group_id FROM group_events WHERE event = 'vanished'").await.unwrap();
    let crawl = crawl.to_string();
    rows.into_iter().filter(|row| row[0] == crawl).map(|mut row| row.swap_remove(1)).collect()
}
