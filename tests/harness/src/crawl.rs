//! [`Harness`]: a simulated API, a database, and a crawler between them.
//!
//! The clock advances by an hour before each crawl and by a second with each request, and not
//! otherwise. So every event has a different time that a test can predict. Tests read the database
//! through the public views.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use reqwest::Url;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlReport, CrawlRequest, CrawlSettings, Crawler, DryRun, WhenBusy};
use tim_group_sync::details::{DetailsRefresher, DetailsSettings};
use tim_group_sync::model::{CrawlId, GroupType, LocalDay, SdkAppId, Trigger};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::policy::{DeletionPolicy, DetailsPolicy, Retention};
use tim_group_sync::simulator::{At, Call, Fault, Settings, SimulatedApp, Simulator};
use tim_group_sync::store::{AppIdentity, Approval, CrawlDeletions, Lease, Store};
use tim_group_sync::tencent::usersig::{Claims, UserSig, sign};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

use crate::readers::{EventReader, assert_spans_match_events};
use crate::store::{Location, TestDatabase};

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

pub fn group_types(names: &[&str]) -> Vec<GroupType> {
    names.iter().map(|name| GroupType::new(name).unwrap()).collect()
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
    wrong_deletions: Mutex<u64>,
}

/// State of the simulated API that is tracked or scripted for the current crawl.
#[derive(Default)]
struct ApiState {
    /// Groups that existed at every request since the last crawl began.
    existing: BTreeMap<String, ExistingGroup>,
    /// The revision of the API's groups that `existing` was last compared with, if any.
    compared_revision: Option<u64>,
    actions: Vec<(u64, ScriptedAction)>,
    /// True if the lists are consistently wrong. Without `deletion.confirm` that excuses a wrong
    /// deletion.
    lists_are_wrong: bool,
    /// True if `get_group_info` is consistently wrong. That excuses a wrong deletion.
    info_is_wrong: bool,
}

struct ExistingGroup {
    group_type: String,
    /// True if the group was recreated with another type since then.
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

/// Crawls.
impl Harness {
    /// Returns the crawler. As in the daemon, it is replaced only when its settings change.
    pub fn crawler(&self) -> Arc<Crawler> {
        let settings = format!("{:?} {:?}", self.crawl_settings(), self.signature(0).expose());
        let settings = format!(
            "{settings} {:?} {:?} {} {}",
            self.retention,
            self.request_timeout,
            self.statistics,
            self.api.base_url()
        );
        let mut crawler = lock(&self.crawler);
        match &*crawler {
            Some((made_from, crawler)) if *made_from == settings => Arc::clone(crawler),
            _ => Arc::clone(&crawler.insert((settings, Arc::new(self.new_crawler()))).1),
        }
    }

    /// Returns a new crawler, as in another process.
    pub fn new_crawler(&self) -> Crawler {
        self.crawler_on(&self.store)
    }

    /// Makes one crawl into another database.
    pub async fn crawl_into(&self, store: &Store) -> CrawlReport {
        self.prepare_crawl();
        let crawler = self.crawler_on(store);
        store.migrate().await.unwrap();
        crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap()
    }

    /// Returns a new crawler that writes through this store.
    pub fn crawler_on(&self, store: &Store) -> Crawler {
        Crawler::new(self.crawl_settings(), self.client(), store.clone(), self.clock.clone())
            .with_retention(self.retention)
            .with_statistics(self.statistics)
    }

    /// Returns a new crawler of another app, which has its own API. The other settings are the same.
    pub fn crawler_of(&self, identity: AppIdentity, api: &Simulator, store: &Store) -> Crawler {
        let client = self.client_of(identity.sdk_app_id, api);
        let settings = CrawlSettings { identity, ..self.crawl_settings() };
        Crawler::new(settings, client, store.clone(), self.clock.clone())
    }

    fn client(&self) -> Client {
        self.client_of(self.credentials.sdk_app_id, &self.api)
    }

    fn client_of(&self, sdk_app_id: SdkAppId, api: &Simulator) -> Client {
        let client = Client::new(ClientSettings {
            sdk_app_id,
            identifier: self.credentials.identifier.clone(),
            secret_key: self.credentials.secret_key.clone(),
            base_url: Url::parse(&api.base_url()).unwrap(),
            region_hint: "china; the others are singapore and seoul".to_owned(),
            request_timeout: self.request_timeout,
            clock: self.clock.clone(),
        });
        client.unwrap()
    }

    /// Returns a new refresher of the details, as in another process. Requires `details`.
    pub fn details_refresher(&self) -> DetailsRefresher {
        let settings = DetailsSettings {
            sdk_app_id: self.credentials.sdk_app_id,
            app: "prod".to_owned(),
            host: "test".to_owned(),
            policy: self.details.unwrap(),
            retry: self.retry_policy(),
        };
        DetailsRefresher::new(settings, self.client(), self.store.clone(), self.clock.clone())
    }

    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(2),
            retry_for: self.retry_for,
        }
    }

    fn crawl_settings(&self) -> CrawlSettings {
        CrawlSettings {
            identity: AppIdentity { sdk_app_id: self.credentials.sdk_app_id, name: "prod".to_owned() },
            group_types: self.group_types.clone(),
            page_limit: self.page_limit,
            request_interval: self.request_interval,
            retry: self.retry_policy(),
            deletion: DeletionPolicy { max_shortfall: self.max_shortfall, ..self.deletion.clone() },
            details: self.details,
            timezone: self.timezone,
            host: "test".to_owned(),
        }
    }

    /// Returns the UserSig that the crawler signs at this Unix time.
    pub fn signature(&self, issued_at: i64) -> UserSig {
        let claims = Claims {
            sdk_app_id: self.credentials.sdk_app_id,
            identifier: self.credentials.identifier.clone(),
            issued_at,
            lifetime: Duration::from_hours(24),
        };
        sign(&claims, &self.credentials.secret_key)
    }

    /// Makes one crawl, an hour after the previous one.
    pub async fn crawl(&self) -> CrawlReport {
        self.crawl_until_cancelled(&CancellationToken::new()).await
    }

    /// Makes one crawl, which `stop` cancels.
    pub async fn crawl_until_cancelled(&self, stop: &CancellationToken) -> CrawlReport {
        self.prepare_crawl();
        let report = self.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, stop).await.unwrap();
        self.assert_invariants().await;
        report
    }

    /// Makes a dry run and checks that it writes nothing. Also returns one line for each group, in
    /// the form of [`Harness::events`] without the crawl.
    pub async fn dry_run(&self) -> (DryRun, Vec<String>) {
        let before = self.every_row().await;
        let dry_run = self.crawler().dry_run(WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
        assert_eq!(self.every_row().await, before, "the dry run wrote to the database");
        let mut lines = Vec::new();
        for change in &dry_run.changes {
            let [old, new] =
                [&change.old_type, &change.new_type].map(|name| name.as_deref().unwrap_or("NULL"));
            let line = |id| format!("{id} {} {old}>{new}", change.kind.as_str());
            lines.extend(change.groups.iter().map(line));
        }
        lines.sort_unstable();
        (dry_run, lines)
    }

    /// Makes a dry run and then a crawl. Checks that the crawl makes exactly the changes that the
    /// dry run predicted.
    pub async fn crawl_after_dry_run(&self) -> CrawlReport {
        let (dry_run, predicted) = self.dry_run().await;
        let missing_before = self.missing().await;
        let report = self.crawl().await;
        let events = format!(
            "SELECT group_id, event, old_type, new_type FROM group_events WHERE crawl_id = {}",
            report.crawl
        );
        let mut made: Vec<String> = self
            .rows(&events)
            .await
            .iter()
            .map(|row| format!("{} {} {}>{}", row[0], row[1], row[2], row[3]))
            .collect();
        made.extend(self.missing().await.into_iter().filter(|line| !missing_before.contains(line)));
        made.sort_unstable();
        let events: Vec<&String> = predicted.iter().filter(|line| !line.contains(" baseline ")).collect();
        assert_eq!(events, made.iter().collect::<Vec<_>>());
        assert_eq!(
            (predicted.len() - events.len()) as u64 + report.events.appeared.unsigned_abs(),
            report.first_listed
        );
        assert_eq!(
            (dry_run.status, dry_run.deletions, dry_run.listed),
            (report.status, report.deletions, report.listed)
        );
        assert_eq!(
            dry_run.reason.map(|reason| reason.code),
            report.reason.as_ref().map(|reason| reason.code)
        );
        report
    }

    /// Returns the missing groups in the form of a dry run's changes.
    async fn missing(&self) -> Vec<String> {
        let sql =
            "SELECT group_id, CASE WHEN held THEN 'withheld' ELSE 'missing' END, group_type FROM live_groups
                   WHERE missing_since IS NOT NULL";
        self.rows(sql).await.iter().map(|row| format!("{} {} {}>NULL", row[0], row[1], row[2])).collect()
    }

    /// Returns every row of every table, except `lease` and `storage`.
    async fn every_row(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for table in [
            "app",
            "group_type",
            "group_row",
            "type_state",
            "crawl",
            "crawl_pass",
            "crawl_change",
            "daily_count",
            "group_event",
            "group_question",
            "app_statistic",
            "past_span",
            "group_detail",
            "detail_range",
            "detail_state",
        ] {
            rows.extend(self.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).await);
        }
        rows
    }

    /// Makes one crawl, which is dropped as if killed when the other future completes first.
    pub async fn crawl_killed_by(&self, kill: impl Future<Output = ()>) -> Option<CrawlReport> {
        self.prepare_crawl();
        let (crawler, stop) = (self.crawler(), CancellationToken::new());
        let report = tokio::select! {
            biased;
            () = kill => None,
            report = crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop) => Some(report.unwrap()),
        };
        if report.is_some() {
            self.assert_invariants().await;
        } else {
            self.db.expire_leases().await;
            self.assert_rows_are_consistent().await;
            self.assert_no_existing_group_was_deleted().await;
        }
        report
    }

    /// Makes two crawls, which two replicas begin at the same time.
    pub async fn crawl_by_two_replicas(&self) {
        self.prepare_crawl();
        let (one, other, stop) = (self.crawler(), self.new_crawler(), CancellationToken::new());
        let crawls = tokio::join!(
            one.crawl(ON_COMMAND, WhenBusy::Wait, &stop),
            other.crawl(ON_COMMAND, WhenBusy::Wait, &stop)
        );
        let ids = (crawls.0.unwrap().crawl, crawls.1.unwrap().crawl);
        assert_ne!(ids.0, ids.1);
        self.assert_invariants().await;
    }

    /// Approves the withheld deletions of a crawl. Returns the number of groups.
    pub async fn approve(&self, crawl: CrawlId) -> u64 {
        let (held, lease, now) = self.prepare_settlement(crawl).await;
        let settled =
            self.store.approve(&lease, &held, (crawl, Approval::All), now, self.today()).await.unwrap();
        lease.release_unused().await;
        self.assert_rows_are_consistent().await;
        settled
    }

    /// Undoes the deletions of a crawl. Returns the number of groups.
    pub async fn undelete(&self, crawl: CrawlId) -> u64 {
        let (held, lease, now) = self.prepare_settlement(crawl).await;
        let settled = self.store.undelete(&lease, &held, crawl, now, self.today()).await.unwrap();
        lease.release_unused().await;
        self.assert_rows_are_consistent().await;
        settled
    }

    async fn prepare_settlement(&self, crawl: CrawlId) -> (CrawlDeletions, Lease, DateTime<Utc>) {
        let held = self.store.crawl_deletions(crawl).await.unwrap().unwrap();
        let lease = self.store.try_lease(self.credentials.sdk_app_id).await.unwrap().unwrap();
        (held, lease, self.clock.now())
    }

    fn today(&self) -> LocalDay {
        LocalDay::new(self.clock.now(), self.timezone)
    }

    /// Moves the clock by this many hours, back if the number is negative.
    pub fn set_clock_by(&self, hours: i32) {
        self.latest_time.record(self.clock.now());
        self.clock.set(self.clock.now() + TimeDelta::hours(hours.into()));
        self.latest_time.record(self.clock.now());
    }

    /// Moves the clock during the n-th request from now on.
    pub fn set_clock_during_request(&self, n: u64, hours: i32) {
        let (clock, latest_time) = (self.clock.clone(), self.latest_time.clone());
        self.during_request(n, move |_| {
            latest_time.record(clock.now());
            clock.set(clock.now() + TimeDelta::hours(hours.into()));
            latest_time.record(clock.now());
        });
    }

    /// Advances the clock by an hour and records which groups exist. A test that calls the crawler
    /// itself calls this first.
    pub fn prepare_crawl(&self) {
        self.clock.set(self.clock.now() + Duration::from_hours(1));
        let existing = |group_type| ExistingGroup { group_type, retyped: false };
        let truth = self.api.truth().into_iter();
        let mut api_state = lock(&self.api_state);
        api_state.existing = truth.map(|(id, group_type)| (id, existing(group_type))).collect();
        api_state.compared_revision = None;
    }
}

impl Harness {
    /// Approves all withheld deletions. Fails if one is of an existing group. Returns the number of
    /// groups.
    pub async fn approve_all_withheld(&self) -> u64 {
        let held = self.lines("SELECT group_id FROM live_groups WHERE held ORDER BY group_id").await;
        let truth = self.api.truth();
        assert!(held.iter().all(|id| !truth.contains_key(id)), "an existing group is still held: {held:?}");
        let mut approved = 0;
        for crawl in self.lines("SELECT crawl_id FROM crawls WHERE withheld > 0 ORDER BY crawl_id").await {
            approved += self.approve(CrawlId(crawl.parse().unwrap())).await;
        }
        approved
    }
}

/// The content of the database.
impl Harness {
    /// Runs a query on a read-only connection. Returns every value as text.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.db.rows(sql).await
    }

    /// Runs a query. Returns one line for each row.
    pub async fn lines(&self, sql: &str) -> Vec<String> {
        self.rows(sql).await.iter().map(|row| row.join(" ")).collect()
    }

    /// Runs a query that returns a single value.
    pub async fn value(&self, sql: &str) -> String {
        let mut rows = self.rows(sql).await;
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows.remove(0).remove(0)
    }

    /// Returns every group: id, type, and `deleted` or `missing` if it is.
    pub async fn table(&self) -> Vec<String> {
        let sql = "SELECT group_id, group_type, deleted_at, missing_since FROM groups ORDER BY group_id";
        let line = |row: &Vec<String>| {
            let deleted = if row[2] == "NULL" { "" } else { " deleted" };
            let missing = if row[3] == "NULL" { "" } else { " missing" };
            format!("{} {}{deleted}{missing}", row[0], row[1])
        };
        self.rows(sql).await.iter().map(line).collect()
    }

    /// Returns every event: crawl, group, kind, old and new type.
    pub async fn events(&self) -> Vec<String> {
        let sql = "SELECT crawl_id, group_id, event, old_type, new_type FROM group_events ORDER BY crawl_id, group_id";
        let line = |row: &Vec<String>| format!("{} {} {} {}>{}", row[0], row[1], row[2], row[3], row[4]);
        self.rows(sql).await.iter().map(line).collect()
    }

    pub async fn live(&self) -> BTreeMap<String, String> {
        let rows = self.rows("SELECT group_id, group_type FROM live_groups").await;
        rows.into_iter().map(|mut row| (row.remove(0), row.remove(0))).collect()
    }

    /// Asserts that the live groups and their types equal those of the API, and that none is
    /// missing.
    pub async fn assert_table_matches_api(&self) {
        assert_eq!(self.live().await, self.api.truth());
        assert_eq!(self.value("SELECT missing_count FROM app_status").await, "0");
    }

    /// Adds triggers that refuse to insert or update a group and to insert an event.
    pub async fn forbid_changes_to_groups(&self) {
        let refusal = match self.db.location {
            Location::Sqlite(_) => "BEGIN SELECT RAISE(ABORT, 'a group was written'); END",
            Location::Postgres(_) => {
                let refuse =
                    "CREATE OR REPLACE FUNCTION tim_private.refuse() RETURNS trigger LANGUAGE plpgsql
                              AS $$ BEGIN RAISE EXCEPTION 'a group was written'; END $$";
                self.alter([refuse.to_owned()]).await;
                "FOR EACH ROW EXECUTE FUNCTION tim_private.refuse()"
            }
        };
        let triggers = FORBIDDEN_WRITES.map(|(table, verb)| {
            format!("CREATE TRIGGER no_{verb}_{table} BEFORE {verb} ON {table} {refusal}")
        });
        self.alter(triggers).await;
    }

    pub async fn allow_changes_to_groups(&self) {
        let of = |table| match self.db.location {
            Location::Sqlite(_) => String::new(),
            Location::Postgres(_) => format!(" ON {table}"),
        };
        self.alter(
            FORBIDDEN_WRITES.map(|(table, verb)| format!("DROP TRIGGER no_{verb}_{table}{}", of(table))),
        )
        .await;
    }

    async fn alter(&self, statements: impl IntoIterator<Item = String>) {
        for statement in statements {
            TestDatabase::execute(&self.db.store_location(), &statement).await;
        }
    }
}

const FORBIDDEN_WRITES: [(&str, &str); 3] =
    [("group_row", "INSERT"), ("group_row", "UPDATE"), ("group_event", "INSERT")];

/// Checks of the invariants that hold after every crawl.
impl Harness {
    pub async fn assert_invariants(&self) {
        self.assert_rows_are_consistent().await;
        self.assert_events_match_the_table().await;
        assert_spans_match_events(&self.db).await;
        self.assert_crawls_and_days_add_up().await;
        self.assert_no_existing_group_was_deleted().await;
    }

    /// Asserts the invariants that hold at any time, also during a crawl and after a killed one:
    /// the tables are consistent, the views agree with them, and `first_seen_at` and `in_baseline`
    /// of a group never change.
    pub async fn assert_rows_are_consistent(&self) {
        self.db.assert_consistent().await;
        self.event_reader.read(&self.db).await;
        let (now, was_set_back) = self.latest_time.record(self.clock.now());
        let sql = "SELECT group_id, first_seen_at, CASE WHEN in_baseline THEN 'baseline' ELSE 'new' END, last_seen_at,
                          deleted_at, missing_since, group_type, CASE WHEN held THEN 'held' ELSE '' END FROM groups";
        let mut counted: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let (mut live_total, mut missing_total) = (0, 0);
        for row in self.rows(sql).await {
            let [id, first_seen, baseline, last_seen, deleted, missing, group_type, held] =
                <[String; 8]>::try_from(row).unwrap().map(empty_if_null);
            assert!(first_seen <= last_seen && last_seen <= now, "{id}: {first_seen} {last_seen} {now}");
            assert!(deleted.is_empty() || missing.is_empty(), "{id} is both deleted and missing");
            assert!(held.is_empty() || !missing.is_empty(), "{id} is held and not missing");
            assert!(deleted.is_empty() || deleted <= now, "{id}: {deleted}");
            assert!(
                deleted.is_empty() || was_set_back || last_seen <= deleted,
                "{id}: {last_seen} {deleted}"
            );
            let (live, gone) = counted.entry(group_type).or_default();
            *(if deleted.is_empty() { live } else { gone }) += 1;
            live_total += u64::from(deleted.is_empty());
            missing_total += u64::from(!missing.is_empty());
            let origin = (first_seen, baseline);
            let mut origins = lock(&self.origins);
            let known = origins.entry(id.clone()).or_insert_with(|| origin.clone());
            assert_eq!(*known, origin, "first_seen_at or in_baseline of {id} changed");
        }
        let maintained =
            self.rows("SELECT coalesce(group_type, ''), live_count, deleted_count FROM type_status").await;
        for row in maintained {
            let counted = counted.remove(&row[0]).unwrap_or_default();
            assert_eq!((number(&row[1]), number(&row[2])), counted, "the maintained totals of {:?}", row[0]);
        }
        assert_eq!(counted, BTreeMap::new(), "types without maintained totals");
        let maintained = self.lines("SELECT live_count, missing_count FROM app_status").await;
        let counted = format!("{live_total} {missing_total}");
        assert!(maintained.iter().all(|totals| *totals == counted), "{maintained:?}, counted: {counted}");
    }

    /// Asserts that the events of each group are a valid sequence that ends in the state of its
    /// row.
    async fn assert_events_match_the_table(&self) {
        let sql = "SELECT group_id, event, coalesce(old_type, ''), coalesce(new_type, '') FROM group_events ORDER BY event_id";
        let mut histories: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for mut row in self.rows(sql).await {
            histories.entry(row.remove(0)).or_default().push(row);
        }
        let sql =
            "SELECT group_id, CASE WHEN in_baseline THEN 'baseline' ELSE 'new' END, coalesce(group_type, ''),
                          CASE WHEN deleted_at IS NULL THEN '' ELSE 'deleted' END FROM groups";
        for row in self.rows(sql).await {
            let history = histories.remove(&row[0]).unwrap_or_default();
            // A group of the baseline existed before its first event, with an unknown type.
            let (mut live, mut type_name) = (row[1] == "baseline", String::new());
            let mut has_event = false;
            for step in &history {
                let (event, old, new) = (step[0].as_str(), &step[1], &step[2]);
                let possible = match event {
                    "appeared" => !live && !has_event && row[1] == "new",
                    "vanished" | "retyped" => live,
                    "reappeared" => !live && has_event,
                    "undeleted" => !live && has_event && old == new,
                    _ => false,
                };
                let known = |name: &str| !name.is_empty();
                let fits = event == "appeared" || !known(&type_name) || !known(old) || *old == type_name;
                let changes = event != "retyped" || (known(old) && known(new) && old != new);
                assert!(possible && fits && changes, "the history of {}: {history:?}", row[0]);
                (live, has_event) = (event != "vanished", true);
                type_name.clone_from(if event == "vanished" { old } else { new });
            }
            assert_eq!(live, row[3].is_empty(), "the row of {} contradicts its history: {history:?}", row[0]);
            let type_fits = type_name.is_empty() || type_name == row[2];
            assert!(type_fits, "{} has type {:?}, but its history is {history:?}", row[0], row[2]);
        }
        assert_eq!(histories, BTreeMap::new(), "events of groups that do not exist");
        let twice = "SELECT crawl_id, group_id FROM group_events GROUP BY crawl_id, group_id
                     HAVING sum(CASE WHEN event = 'undeleted' THEN 0 ELSE 1 END)
                            > 1 + sum(CASE WHEN event = 'undeleted' THEN 1 ELSE 0 END)";
        assert_eq!(self.lines(twice).await, [""; 0], "groups with two events of one crawl");
    }

    /// Asserts that no crawl is running, that the counts of every crawl equal its events, and that
    /// the counts of the days equal those of the crawls.
    async fn assert_crawls_and_days_add_up(&self) {
        let today = self.today().date;
        assert_eq!(self.value("SELECT count(*) FROM crawls WHERE status = 'running'").await, "0");
        for event in ["appeared", "vanished", "reappeared", "retyped"] {
            let unequal = format!(
                "SELECT crawl_id, {event} FROM crawls c WHERE {event} <>
                 (SELECT count(*) FROM group_events e WHERE e.crawl_id = c.crawl_id AND e.event = '{event}')"
            );
            assert_eq!(self.lines(&unequal).await, [""; 0], "crawls whose count of {event} groups is wrong");
            let all = self.value(&format!("SELECT count(*) FROM group_events WHERE event = '{event}'")).await;
            let days = self.value(&format!("SELECT coalesce(sum({event}), 0) FROM daily_counts")).await;
            assert_eq!(days, all, "the number of {event} groups of all days");
        }
        let stale = format!(
            "SELECT d.group_type, d.live_groups, s.live_count FROM daily_counts d
             JOIN type_status s ON coalesce(s.group_type, '') = coalesce(d.group_type, '')
             WHERE d.day = '{today}' AND d.live_groups <> s.live_count"
        );
        assert_eq!(self.lines(&stale).await, [""; 0], "today's live_groups differ from type_status");
    }

    /// Asserts that no crawl since the last check marked a group deleted that existed throughout
    /// the crawl.
    ///
    /// With `deletion.confirm` there is one exception: `get_group_info` itself is wrong. Without it
    /// there are three:
    /// - The lists are consistently wrong.
    /// - The group was recreated with another type during the crawl, so it may be in no list.
    /// - The group's type has no pass, and it was stored with another type whose pass does not list
    ///   it.
    async fn assert_no_existing_group_was_deleted(&self) {
        let last: i64 = self.value("SELECT coalesce(max(crawl_id), 0) FROM crawls").await.parse().unwrap();
        let checked = std::mem::replace(&mut *lock(&self.last_checked), last);
        let deleted = self
            .rows(&format!(
                "SELECT group_id, old_type FROM group_events WHERE event = 'vanished' AND crawl_id > {checked}"
            ))
            .await;
        let mut api_state = lock(&self.api_state);
        api_state.retain_existing(&self.api);
        for row in deleted {
            let Some(ExistingGroup { group_type, retyped }) = api_state.existing.get(&row[0]) else {
                continue;
            };
            if api_state.info_is_wrong {
                *lock(&self.wrong_deletions) += 1;
                continue;
            }
            assert!(!self.deletion.confirm, "{} existed throughout and was deleted", row[0]);
            if api_state.lists_are_wrong || *retyped {
                continue;
            }
            let has_a_pass = self.group_types.iter().any(|configured| configured.as_str() == group_type);
            let as_known = row[1] == *group_type || row[1] == "NULL";
            assert!(!has_a_pass && !as_known, "{} existed throughout and was deleted", row[0]);
        }
    }
}

fn empty_if_null(text: String) -> String {
    if text == "NULL" { String::new() } else { text }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
