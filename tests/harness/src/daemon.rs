//! The daemon with a clock that the test sets, alarms that the test triggers, and crawls that last
//! as long as the simulator holds a request.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use tempfile::TempDir;
use tim_group_sync::alarm::{Alarm, ManualTrigger};
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlSettings, Crawler};
use tim_group_sync::daemon::{self, AppPlan, AppState, Apps, Database, MakeWorkers, Phase, Workers};
use tim_group_sync::lifecycle::{Ending, Lifecycle, Signal, Systemd};
use tim_group_sync::metrics::Metrics;
use tim_group_sync::model::{GroupType, SdkAppId};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::schedule::Schedule;
use tim_group_sync::simulator::{Settings, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseLocation, Store};
use tim_group_sync::tencent::usersig::SecretKey;
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio::sync::watch;
use tracing::subscriber::DefaultGuard;

/// A simulated API with five groups, a database without crawls, and the log of the current thread.
pub struct DaemonHarness {
    pub api: Simulator,
    pub clock: Clock,
    pub store: Store,
    pub folder: TempDir,
    log: Arc<Mutex<Vec<u8>>>,
    _logging: DefaultGuard,
}

/// The settings of an app.
pub struct AppSpec {
    pub app: &'static str,
    pub sdk_app_id: i64,
    pub cron: &'static str,
    pub catch_up: bool,
    /// True if the app uses a key that the API rejects.
    pub wrong_key: bool,
    pub retry_for: Duration,
    pub group_type: &'static str,
    pub group_quota: Option<u64>,
}

/// An app that is crawled every hour.
pub const PROD: AppSpec = AppSpec {
    app: "prod",
    sdk_app_id: 1_400_000_000,
    cron: "0 * * * *",
    catch_up: false,
    wrong_key: false,
    retry_for: Duration::from_secs(1),
    group_type: "Public",
    group_quota: None,
};

/// A running daemon, observed through one of its apps.
pub struct Daemon {
    pub app: &'static str,
    pub trigger: ManualTrigger,
    pub apps: watch::Receiver<Apps>,
    pub lifecycle: Lifecycle,
    pub handle: Arc<Mutex<daemon::Daemon>>,
}

/// Returns a time on 10 March 2026, the day of these tests.
pub fn at(time: &str) -> DateTime<Utc> {
    format!("2026-03-10T{time}Z").parse().unwrap()
}

pub fn clock_at_08_20() -> Clock {
    Clock::fixed_at(at("08:20:00"))
}

impl DaemonHarness {
    /// Creates a harness whose database has no tables.
    pub async fn without_tables(clock: Clock) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || LogWriter(Arc::clone(&written)))
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        let api = Simulator::start(Settings { clock: clock.clone(), ..Settings::default() }).await.unwrap();
        api.create_many("Public", 5);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseLocation::Sqlite(folder.path().join("groups.db"))).await.unwrap();
        Self { api, clock, store, folder, log, _logging: logging }
    }

    pub async fn new() -> Self {
        let harness = Self::without_tables(clock_at_08_20()).await;
        harness.store.migrate().await.unwrap();
        harness
    }

    pub fn workers(&self, api: &Simulator, spec: &AppSpec) -> MakeWorkers {
        let simulated = Settings::default();
        let sdk_app_id = SdkAppId::new(spec.sdk_app_id).unwrap();
        let client = ClientSettings {
            sdk_app_id,
            identifier: simulated.identifier,
            secret_key: if spec.wrong_key { SecretKey::new(&"f".repeat(64)) } else { simulated.secret_key },
            base_url: Url::parse(&api.base_url()).unwrap(),
            region_hint: "china".to_owned(),
            // Longer than a test holds a request.
            request_timeout: Duration::from_secs(300),
            clock: self.clock.clone(),
        };
        let settings = CrawlSettings {
            identity: AppIdentity { sdk_app_id, name: spec.app.to_owned() },
            group_types: vec![GroupType::new(spec.group_type).unwrap()],
            page_limit: 3,
            request_interval: Duration::ZERO,
            retry: RetryPolicy {
                first_pause: Duration::from_millis(1),
                longest_pause: Duration::from_millis(2),
                retry_for: spec.retry_for,
            },
            deletion: DeletionPolicy::default(),
            details: None,
            timezone: chrono_tz::UTC,
            host: "test".to_owned(),
        };
        let clock = self.clock.clone();
        Box::new(move |store: &Store| {
            let client = Client::new(client.clone()).unwrap();
            Ok(Crawler::new(settings.clone(), client, store.clone(), clock.clone()).into())
        })
    }

    pub fn plan(&self, api: &Simulator, spec: &AppSpec) -> AppPlan {
        AppPlan {
            name: spec.app.to_owned(),
            sdk_app_id: SdkAppId::new(spec.sdk_app_id).unwrap(),
            schedule: Schedule::parse(spec.cron, chrono_tz::UTC).unwrap(),
            catch_up: spec.catch_up,
            group_quota: spec.group_quota,
            workers: self.workers(api, spec),
        }
    }

    /// Starts a daemon with this app.
    pub fn start(&self, spec: &AppSpec) -> Daemon {
        let [daemon] = self.start_all([(spec.app, self.plan(&self.api, spec))]);
        daemon
    }

    /// Starts a daemon with several apps.
    pub fn start_all<const N: usize>(&self, apps: [(&'static str, AppPlan); N]) -> [Daemon; N] {
        let names = apps.each_ref().map(|(app, _)| *app);
        let lifecycle = Lifecycle::without_signals();
        let database = watch::Sender::new(Database::Open(self.store.clone())).subscribe();
        let systemd = Systemd::from_environment();
        let handle = daemon::Daemon::new(&self.clock, &lifecycle, systemd, database);
        let seen = handle.health().apps();
        let handle = Arc::new(Mutex::new(handle));
        let mut triggers = apply(&handle, apps.map(|(_, plan)| plan).into());
        names.map(|app| Daemon {
            app,
            trigger: triggers.remove(app).unwrap(),
            apps: seen.clone(),
            lifecycle: lifecycle.clone(),
            handle: Arc::clone(&handle),
        })
    }

    /// Starts a daemon whose app has been crawled at 08:20 and waits for 09:00.
    pub async fn start_crawled(&self) -> Daemon {
        let mut daemon = self.start(&AppSpec { catch_up: true, ..PROD });
        daemon.wait_for_crawls(1).await;
        daemon
    }

    pub fn set_clock(&self, time: &str) {
        self.clock.set(at(time));
    }

    /// Returns a line for every crawl: trigger, time of its tick, and status; for other apps than
    /// `prod` also the app.
    pub async fn crawls(&self) -> Vec<String> {
        let (_, rows) = self
            .store
            .query_as_text("SELECT trigger, substr(CAST(due_at AS TEXT), 12, 5), status, app FROM crawls ORDER BY crawl_id")
            .await
            .unwrap();
        let line = |row: &Vec<String>| match row[3].as_str() {
            "prod" => row[..3].join(" "),
            _ => row.join(" "),
        };
        rows.iter().map(line).collect()
    }

    pub fn logged(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.log.lock().unwrap()).matches(text).count()
    }
}

/// Replaces the apps of a daemon. Returns the alarm triggers of the new apps.
pub fn apply(handle: &Mutex<daemon::Daemon>, plans: Vec<AppPlan>) -> BTreeMap<String, ManualTrigger> {
    let mut triggers = BTreeMap::new();
    handle.lock().unwrap().apply(plans, |app| {
        let (alarm, trigger) = Alarm::manual();
        triggers.insert(app.to_owned(), trigger);
        alarm
    });
    triggers
}

impl Daemon {
    /// Waits until the state of the app meets a condition. `what` describes it for the error
    /// message.
    pub async fn wait_until(&mut self, what: &str, condition: impl Fn(&AppState) -> bool) {
        let app = self.app;
        let wait = self.apps.wait_for(|apps| apps.get(app).is_some_and(&condition));
        let in_time = tokio::time::timeout(Duration::from_secs(30), wait).await.is_ok();
        assert!(in_time, "timed out waiting for {what}; the state is {:?}", self.apps.borrow().get(app));
    }

    pub async fn wait_for_crawls(&mut self, crawls: i64) {
        self.wait_until(&format!("{crawls} crawls made"), |state| {
            matches!(state.phase, Phase::Waiting)
                && state.last_report.as_ref().is_some_and(|report| report.crawl.0 == crawls)
        })
        .await;
    }

    /// Waits until a crawl of the app has ended with this status.
    pub async fn wait_for_crawl_status(&mut self, status: &str) {
        self.wait_until(&format!("a crawl that is {status}"), |state| {
            matches!(state.phase, Phase::Waiting)
                && state.last_report.as_ref().is_some_and(|report| report.status.as_str() == status)
        })
        .await;
    }

    pub async fn wait_for_next_crawl_at(&mut self, next: &str) {
        self.wait_until(&format!("waiting for {next}"), |state| {
            matches!(state.phase, Phase::Waiting) && state.next_at == Some(at(next))
        })
        .await;
        assert_eq!(self.trigger.due().await, at(next));
    }

    /// Triggers the alarm, and waits until the loop waits again without having crawled.
    pub async fn trigger_without_crawl(&mut self) {
        self.apps.mark_unchanged();
        self.trigger.fire();
        self.apps.changed().await.unwrap();
        self.wait_until("waiting", |state| matches!(state.phase, Phase::Waiting)).await;
    }

    pub fn skipped_ticks(&self) -> u64 {
        self.apps.borrow()[self.app].skipped_ticks
    }

    pub fn refused(&self) -> bool {
        self.apps.borrow()[self.app].refused
    }

    pub async fn stop(self) -> Ending {
        self.lifecycle.signal(Signal::Stop);
        self.lifecycle.ended(Systemd::from_environment()).await
    }
}

impl DaemonHarness {
    /// Starts the simulated API of another app, with two groups.
    pub async fn api_of(&self, spec: &AppSpec) -> Simulator {
        let sdk_app_id = SdkAppId::new(spec.sdk_app_id).unwrap();
        let settings = Settings { sdk_app_id, clock: self.clock.clone(), ..Settings::default() };
        let api = Simulator::start(settings).await.unwrap();
        api.create_many("Public", 2);
        api
    }
}

impl Daemon {
    /// Replaces the daemon's apps by `plans`, which include the new app `new`. Returns the daemon,
    /// observed through the new app.
    pub fn add_app<const N: usize>(&self, plans: [AppPlan; N], new: &'static str) -> Self {
        let mut triggers = apply(&self.handle, plans.into());
        let trigger = triggers.remove(new).unwrap();
        let (apps, lifecycle, handle) = (self.apps.clone(), self.lifecycle.clone(), Arc::clone(&self.handle));
        Self { app: new, trigger, apps, lifecycle, handle }
    }

    /// Replaces the daemon's apps. Fails if one is new.
    pub fn replace_plans<const N: usize>(&self, plans: [AppPlan; N]) {
        assert!(apply(&self.handle, plans.into()).is_empty());
    }

    pub fn problems(&self) -> Vec<String> {
        self.handle.lock().unwrap().health().problems()
    }
}

impl DaemonHarness {
    /// Returns a plan whose crawls are counted in these metrics.
    pub fn counted_plan(&self, spec: &AppSpec, metrics: &Metrics) -> AppPlan {
        let plan = self.plan(&self.api, spec);
        let (make, observer) = (plan.workers, metrics.app(spec.app));
        AppPlan {
            workers: Box::new(move |store| {
                let Workers { crawler, details } = make(store)?;
                Ok(Workers { crawler: crawler.with_observer(Arc::clone(&observer)), details })
            }),
            ..plan
        }
    }
}

struct LogWriter(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
