//! [`Harness`]: a simulated API, a database, and a crawler between them.
//!
//! The clock advances only by an hour before each crawl and by a second with each request. So every
//! event has a different time that a test can predict. Tests read the database through the public
//! views.

mod content;
mod crawling;
mod invariants;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlReport, CrawlRequest, Crawler};
use tim_group_sync::model::{GroupType, Trigger};
use tim_group_sync::policy::{DeletionPolicy, DetailsPolicy, Retention};
use tim_group_sync::simulator::{At, Call, Fault, Settings, SimulatedApp, Simulator};
use tim_group_sync::store::Store;

use crate::readers::EventReader;
use crate::store::TestDatabase;
pub use crate::store::group_types;

/// The databases that every end-to-end test runs on.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// Declares end-to-end tests for both engines. Each is an `async fn(Harness)`. Plain `cargo test`
/// ignores the tests on PostgreSQL.
#[macro_export]
macro_rules! crawl_tests {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::crawl::Harness::on($crate::crawl::Engine::Sqlite).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            #[ignore = "needs PostgreSQL: tests/run"]
            async fn $test() {
                super::$test($crate::crawl::Harness::on($crate::crawl::Engine::Postgres).await).await;
            })+
        }
    };
}

/// A crawl requested by a command.
pub const ON_COMMAND: CrawlRequest = CrawlRequest { trigger: Trigger::Command, due_at: None };

/// Formats a time as the views do.
pub fn format_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns the status of a crawl, followed by its reason code and the API's error code, if there
/// are any.
pub fn outcome(report: &CrawlReport) -> String {
    let mut line = report.status.to_string();
    if let Some(reason) = &report.reason {
        line = format!("{line} {}", reason.code);
        if let Some(code) = reason.error_code {
            line = format!("{line} {code}");
        }
    }
    line
}

/// Returns the text of a crawl's reason, or an empty string if it has none.
pub fn reason_text(report: &CrawlReport) -> &str {
    report.reason.as_ref().map_or("", |reason| reason.text.as_str())
}

/// Returns the ids of groups without their types.
pub fn ids(groups: &BTreeMap<String, String>) -> BTreeSet<String> {
    groups.keys().cloned().collect()
}

/// One app with its simulated API, its own database, and the settings of its crawls.
pub struct Harness {
    pub api: Simulator,
    pub store: Store,
    pub clock: Clock,
    /// The SDKAppID, identifier and key that the crawler uses.
    pub credentials: Settings,
    pub group_types: Vec<GroupType>,
    pub page_limit: u32,
    pub max_shortfall: f64,
    /// The limits of the guard allow all deletions by default.
    pub deletion: DeletionPolicy,
    pub details: Option<DetailsPolicy>,
    pub timezone: Tz,
    pub retention: Retention,
    pub statistics: bool,
    pub request_interval: Duration,
    pub request_timeout: Duration,
    pub retry_for: Duration,
    pub engine: Engine,
    pub db: TestDatabase,
    api_state: Arc<Mutex<ApiState>>,
    /// The current crawler and the settings it was created from.
    crawler: Mutex<Option<(String, Arc<Crawler>)>>,
    /// `first_seen_at` and `in_baseline` of every group that a check has read. Neither may change.
    origins: Mutex<BTreeMap<String, (String, String)>>,
    event_reader: EventReader,
    latest_time: LatestTime,
    /// The last crawl whose deletions were compared with the API.
    last_checked: Mutex<i64>,
    /// The number of existing groups that were marked deleted because `get_group_info` was wrong.
    wrong_deletions: Mutex<u64>,
}

/// State of the simulated API that is tracked or scripted for the current crawl.
#[derive(Default)]
struct ApiState {
    /// Groups that existed at every request since the last crawl began.
    existing: BTreeMap<String, ExistingGroup>,
    /// The revision of the API's groups that `existing` was last compared with, if any.
    compared_revision: Option<u64>,
    /// Actions, each with the number of the request during which it runs.
    actions: Vec<(u64, ScriptedAction)>,
    /// True if the lists are consistently wrong. Without `deletion.confirm`, wrong deletions are
    /// then expected.
    lists_are_wrong: bool,
    /// True if `get_group_info` is consistently wrong. Wrong deletions are then expected.
    info_is_wrong: bool,
}

struct ExistingGroup {
    group_type: String,
    /// True if the group was recreated with another type since the crawl began.
    retyped: bool,
}

/// The latest time of the clock, and whether the clock was ever set back.
#[derive(Clone, Default)]
struct LatestTime(Arc<Mutex<(DateTime<Utc>, bool)>>);

impl LatestTime {
    /// Records the time. Returns the latest time, and whether the clock was ever set back.
    fn record(&self, now: DateTime<Utc>) -> (String, bool) {
        let mut latest_time = lock(&self.0);
        latest_time.1 |= now < latest_time.0;
        latest_time.0 = latest_time.0.max(now);
        (format_time(latest_time.0), latest_time.1)
    }
}

type ScriptedAction = Box<dyn FnOnce(&SimulatedApp) + Send>;

impl Harness {
    /// Returns a harness on a new database of this engine.
    pub async fn on(engine: Engine) -> Self {
        let db = match engine {
            Engine::Sqlite => TestDatabase::sqlite().await,
            Engine::Postgres => TestDatabase::postgres().await,
        };
        Self::with_database(db, engine).await
    }

    /// Returns a harness on this database.
    pub async fn with_database(db: TestDatabase, engine: Engine) -> Self {
        let clock = Clock::fixed_at("2026-03-01T08:00:00Z".parse().unwrap());
        let settings = Settings { clock: clock.clone(), ..Settings::default() };
        let harness = Self {
            api: Simulator::start(settings.clone()).await.unwrap(),
            store: db.store.clone(),
            clock,
            credentials: settings,
            group_types: group_types(&["Public", "Private"]),
            page_limit: 3,
            max_shortfall: 0.0,
            deletion: DeletionPolicy { max_fraction: 1.0, ..DeletionPolicy::default() },
            details: None,
            timezone: Tz::UTC,
            retention: Retention::default(),
            statistics: false,
            request_interval: Duration::ZERO,
            request_timeout: Duration::from_secs(10),
            retry_for: Duration::from_millis(50),
            engine,
            db,
            api_state: Arc::default(),
            crawler: Mutex::default(),
            origins: Mutex::default(),
            event_reader: EventReader::default(),
            latest_time: LatestTime::default(),
            last_checked: Mutex::default(),
            wrong_deletions: Mutex::default(),
        };
        harness.install_request_hook();
        harness
    }

    /// Returns a new harness on the same engine, with an empty database and default settings.
    pub async fn fresh(&self) -> Self {
        Self::on(self.engine).await
    }

    /// Replaces the API by a new one without groups.
    pub async fn with_api(mut self, settings: Settings) -> Self {
        self.api = Simulator::start(Settings { clock: self.clock.clone(), ..settings }).await.unwrap();
        self.install_request_hook();
        self
    }

    /// Makes each request advance the clock by a second, and run the actions that are due.
    fn install_request_hook(&self) {
        let (api_state, clock) = (Arc::clone(&self.api_state), self.clock.clone());
        lock(&api_state).compared_revision = None;
        self.api.on_request(move |api, request| {
            clock.set(clock.now() + Duration::from_secs(1));
            let due: Vec<ScriptedAction> = {
                let mut api_state = lock(&api_state);
                api_state.retain_existing(api);
                let due = api_state.actions.extract_if(.., |(number, _)| *number == request.number);
                due.map(|(_, action)| action).collect()
            };
            for action in due {
                action(api);
            }
        });
    }
}

impl ApiState {
    /// Removes groups from `existing` that no longer exist.
    fn retain_existing(&mut self, api: &SimulatedApp) {
        // Read first: a change between the two reads is compared again at the next request.
        let revision = Some(api.revision());
        if std::mem::replace(&mut self.compared_revision, revision) == revision {
            return;
        }
        let truth = api.truth();
        self.existing.retain(|id, existing| {
            let group_type = truth.get(id);
            existing.retyped |= group_type.is_some_and(|group_type| *group_type != existing.group_type);
            group_type.is_some()
        });
    }
}

/// Changes and faults of the API.
impl Harness {
    /// Creates groups with these ids, which are separated by spaces.
    pub fn create(&self, group_type: &str, ids: &str) {
        ids.split(' ').for_each(|id| self.api.create(group_type, id));
    }

    /// Dissolves groups. Fails the test if one does not exist.
    pub fn dissolve(&self, ids: &str) {
        ids.split(' ').for_each(|id| assert!(self.api.dissolve(id), "{id} does not exist"));
    }

    /// Returns the number of the n-th request from now on, counted from 1.
    pub fn request(&self, n: u64) -> u64 {
        self.requests_so_far() + n
    }

    /// Allows crawls without `deletion.confirm` to delete existing groups from now on, because the
    /// lists are wrong.
    pub fn expect_deletions_by_wrong_lists(&self) {
        lock(&self.api_state).lists_are_wrong = true;
    }

    /// Allows crawls to delete existing groups from now on, because `get_group_info` is stale or
    /// wrong.
    pub fn expect_deletions_by_wrong_info(&self) {
        lock(&self.api_state).info_is_wrong = true;
    }

    /// Returns the number of existing groups that were marked deleted because `get_group_info` was
    /// wrong.
    pub fn wrong_deletions(&self) -> u64 {
        *lock(&self.wrong_deletions)
    }

    pub fn requests_so_far(&self) -> u64 {
        self.api.requests().last().map_or(0, |request| request.number)
    }

    /// Runs an action after the n-th request from now on has arrived and before it is answered.
    pub fn during_request(&self, n: u64, action: impl FnOnce(&SimulatedApp) + Send + 'static) {
        lock(&self.api_state).actions.push((self.request(n), Box::new(action)));
    }

    /// Removes all faults, and all actions whose requests were not made.
    pub fn clear_faults_and_actions(&self) {
        lock(&self.api_state).actions.clear();
        self.api.clear_faults();
    }

    /// Scripts a fault for the n-th request from now on.
    pub fn fault_at_request(&self, n: u64, fault: Fault) {
        self.api.script(At::Request(self.request(n)), fault);
    }

    /// Scripts a fault for several requests, counted from now on.
    pub fn fault_at_requests(&self, numbers: RangeInclusive<u64>, fault: Fault) {
        self.api.script(At::Requests(self.request(*numbers.start())..=self.request(*numbers.end())), fault);
    }

    /// Scripts a fault for the n-th request from now on and all later ones.
    pub fn fault_from_request(&self, n: u64, fault: Fault) {
        self.api.script(At::Requests(self.request(n)..=u64::MAX), fault);
    }

    /// Returns the requests after number `skip`: type and page of a list, `count` for the app's
    /// total, `about n` for a `get_group_info` request with n ids, `statistics` for `getappinfo`.
    pub fn requests_after(&self, skip: u64) -> Vec<String> {
        let requests = self.api.requests();
        let since = requests.iter().filter(|request| request.number > skip);
        since
            .map(|request| match &request.group_type {
                _ if request.call == Call::Info => format!("about {}", request.groups.len()),
                _ if request.call == Call::Statistics => "statistics".to_owned(),
                Some(group_type) => format!("{group_type} {}", request.page),
                None if request.limit == 1 => "count".to_owned(),
                None => format!("all {}", request.page),
            })
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
