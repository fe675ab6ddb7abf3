//! The metrics for Prometheus, in its text format.
//!
//! Counters belong to this process. They start at 0 when the process starts. Gauges of the apps are
//! read from the database for each scrape, so that they are equal in all processes. If the database
//! cannot be read, the answer contains only the process's own metrics, and `database_up` is 0.

mod gauges;
mod process;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder,
};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::debug;

use crate::clock::Clock;
use crate::crawl::{CrawlReport, Observer, RequestOutcome};
use crate::daemon::{Apps, Health, Phase};
use crate::model::{CrawlStatus, SdkAppId, with_causes};
use crate::notify;
use crate::store::{AppOverview, Store, StoreError};
use crate::tencent::ApiError;
use crate::tencent::error::{THROTTLING, meaning};

const VALID_NAMES: &str = "names of metrics and labels are valid";

/// The `Content-Type` of the answer to a scrape.
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

/// The time limit for reading the database in a scrape. After it, the answer omits the gauges of
/// the database. Prometheus' own limit for a scrape is 10 seconds by default.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(4);

/// The histogram buckets of request durations, in seconds. A full page takes about 1 s, and the
/// largest `request_timeout` is 60 s.
const REQUEST_SECONDS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// The histogram buckets of crawl durations, in seconds. At one request of 10,000 groups a second,
/// a crawl of 3600 s lists up to 36 million groups.
const CRAWL_SECONDS: [f64; 11] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];

/// The final statuses of a crawl.
const STATUSES: [CrawlStatus; 4] =
    [CrawlStatus::Complete, CrawlStatus::Incomplete, CrawlStatus::Failed, CrawlStatus::Cancelled];
/// The values of the label `event`.
const EVENTS: [&str; 4] = ["appeared", "vanished", "reappeared", "retyped"];
/// The values of the label `answer`.
const ANSWERS: [&str; 3] = ["gone", "stands", "unlearned"];
/// The outcomes whose names are the values of the label `outcome`.
const OUTCOMES: [RequestOutcome; 4] =
    [RequestOutcome::Ok, RequestOutcome::Retried, RequestOutcome::Throttled, RequestOutcome::Failed];

/// The metrics of this process. [`Metrics::page`] answers a scrape.
#[derive(Debug)]
pub struct Metrics {
    clock: Clock,
    started_at: DateTime<Utc>,
    registry: Registry,
    counters: Counters,
    /// Held while a scrape reads the database, so that scrapes together use at most one connection.
    /// The other connections are for the crawls.
    read_lock: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Counters {
    crawls: IntCounterVec,
    crawl_duration: HistogramVec,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    events: IntCounterVec,
    asked: IntCounterVec,
    notifications: IntCounterVec,
}

impl Metrics {
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let registry = Registry::new();
        let counters = Counters {
            crawls: registered(
                &registry,
                counter("crawls_total", "Finished crawls, by status.", &["status"]),
            ),
            crawl_duration: registered(
                &registry,
                histogram("crawl_duration_seconds", "Durations of crawls, in seconds.", &CRAWL_SECONDS),
            ),
            requests: registered(
                &registry,
                counter(
                    "api_requests_total",
                    "Attempts at API requests, by outcome and by the API's error code or the kind \
                     of failure.",
                    &["outcome", "error_code"],
                ),
            ),
            request_duration: registered(
                &registry,
                histogram(
                    "api_request_duration_seconds",
                    "Durations of attempts at API requests, in seconds.",
                    &REQUEST_SECONDS,
                ),
            ),
            asked: registered(
                &registry,
                counter(
                    "asked_groups_total",
                    "Candidates for deletion that get_group_info was asked about, by answer.",
                    &["answer"],
                ),
            ),
            notifications: registered(&registry, notifications()),
            events: registered(
                &registry,
                counter("group_events_total", "Group events recorded by crawls, by event.", &["event"]),
            ),
        };
        let build = gauge("build_info", "Always 1. The label is the version of the program.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registered(&registry, build);
        Self {
            clock: clock.clone(),
            started_at: clock.now(),
            registry,
            counters,
            read_lock: Mutex::default(),
        }
    }

    /// Returns the observer that counts the crawls and requests of an app. Creates the app's
    /// counters at 0 unless they exist.
    #[must_use]
    pub fn app(&self, name: &str) -> Arc<dyn Observer> {
        let counters = &self.counters;
        for status in STATUSES {
            counters.crawls.with_label_values(&[name, status.as_str()]);
        }
        for event in EVENTS {
            counters.events.with_label_values(&[name, event]);
        }
        for answer in ANSWERS {
            counters.asked.with_label_values(&[name, answer]);
        }
        for outcome in OUTCOMES {
            counters.requests.with_label_values(&[name, outcome_label(outcome), ""]);
        }
        // `increase()` ignores the first sample of a series. These series start at 0, so that
        // alerts count the first throttled request too.
        for code in THROTTLING {
            counters.requests.with_label_values(&[
                name,
                outcome_label(RequestOutcome::Throttled),
                &code.to_string(),
            ]);
        }
        counters.crawl_duration.with_label_values(&[name]);
        counters.request_duration.with_label_values(&[name]);
        Arc::new(AppObserver { app: name.to_owned(), counters: counters.clone() })
    }

    /// Returns the answer to a scrape.
    pub async fn page(&self, health: &Health) -> String {
        let store = health.database().borrow().store().cloned();
        let read = match store {
            Some(store) => self.read(&store, health).await,
            None => None,
        };
        let up = gauge("database_up", "1 if this scrape could read the database, 0 otherwise.", &[]);
        up.with_label_values::<&str>(&[]).set(i64::from(read.is_some()));
        let apps = health.apps();
        let mut families = self.registry.gather();
        families.iter_mut().for_each(|family| drop_removed_apps(family, &apps.borrow()));
        families.extend(up.collect());
        families.extend(gauges::of_process(&apps.borrow(), read.as_deref(), self.clock.now()));
        if let Some(read) = &read {
            families.extend(gauges::of_database(read, &apps.borrow(), self.clock.now()));
        }
        families.extend(process::families(self.started_at));
        encode(families)
    }

    /// Reads the overview of all configured apps. Returns `None` after an error or a timeout.
    async fn read(&self, store: &Store, health: &Health) -> Option<Vec<AppOverview>> {
        let read = async {
            let _guard = self.read_lock.lock().await;
            let mut apps = store.overview().await?;
            apps.retain(|app| app.configured);
            let own = crawled_by_this_process(&health.apps().borrow());
            clear_abandoned_crawls(store, &mut apps, &own).await?;
            Ok::<_, StoreError>(apps)
        };
        match timeout(DATABASE_TIMEOUT, read).await {
            Ok(Ok(apps)) => Some(apps),
            Ok(Err(error)) => {
                debug!("scrape without the gauges of the database: {}", with_causes(&error));
                None
            }
            Err(_) => {
                debug!(
                    "scrape without the gauges of the database: no answer within {} s",
                    DATABASE_TIMEOUT.as_secs()
                );
                None
            }
        }
    }
}

/// Drops the series of apps that a reload has removed. Their counters stay in the registry: the
/// crawl of a removed app may still be ending, and an app that is added again continues to count.
fn drop_removed_apps(family: &mut MetricFamily, apps: &Apps) {
    let is_kept = |metric: &Metric| {
        metric.get_label().iter().all(|label| label.name() != "im_app" || apps.contains_key(label.value()))
    };
    family.mut_metric().retain(is_kept);
}

/// Returns the names of the apps that this process is crawling.
fn crawled_by_this_process(apps: &Apps) -> BTreeSet<String> {
    let crawling = apps.iter().filter(|(_, state)| matches!(state.phase, Phase::Crawling { .. }));
    crawling.map(|(app, _)| app.clone()).collect()
}

/// Clears `running_crawl` of apps whose crawl is open in the database although no process holds the
/// lease, because the crawling process was killed. `own` are the apps that this process is
/// crawling.
async fn clear_abandoned_crawls(
    store: &Store,
    apps: &mut [AppOverview],
    own: &BTreeSet<String>,
) -> Result<(), StoreError> {
    let elsewhere = |app: &AppOverview| app.running_crawl.is_some() && !own.contains(&app.app);
    let id = |app: &AppOverview| SdkAppId::new(app.sdk_app_id);
    let ids: Vec<SdkAppId> = apps.iter().filter(|app| elsewhere(app)).filter_map(id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let leased = store.leased_apps(&ids).await?;
    for app in apps.iter_mut().filter(|app| elsewhere(app)) {
        if !id(app).is_some_and(|id| leased.contains(&id)) {
            app.running_crawl = None;
        }
    }
    Ok(())
}

impl notify::Observer for Metrics {
    fn on_notification(&self, event: notify::Event, outcome: notify::Outcome) {
        self.counters.notifications.with_label_values(&[event.as_str(), outcome.as_str()]).inc();
    }
}

/// Counts the crawls and requests of one app.
#[derive(Debug)]
struct AppObserver {
    app: String,
    counters: Counters,
}

impl Observer for AppObserver {
    fn on_attempt_finished(&self, took: Duration) {
        self.counters.request_duration.with_label_values(&[&self.app]).observe(took.as_secs_f64());
    }

    fn on_attempt_classified(&self, outcome: RequestOutcome, error: Option<&ApiError>) {
        let code = error.map(error_code_label).unwrap_or_default();
        self.counters.requests.with_label_values(&[self.app.as_str(), outcome_label(outcome), &code]).inc();
    }

    fn on_crawl_recorded(&self, report: &CrawlReport) {
        let Counters { crawls, crawl_duration, events, asked, .. } = &self.counters;
        crawls.with_label_values(&[self.app.as_str(), report.status.as_str()]).inc();
        let took = (report.finished_at - report.started_at).to_std().unwrap_or_default();
        crawl_duration.with_label_values(&[&self.app]).observe(took.as_secs_f64());
        let answers = [report.lookups.confirmed, report.lookups.spared, report.lookups.unlearned];
        for (answer, groups) in ANSWERS.into_iter().zip(answers) {
            asked.with_label_values(&[self.app.as_str(), answer]).inc_by(groups);
        }
        let counts = &report.events;
        for (event, count) in
            EVENTS.into_iter().zip([counts.appeared, counts.vanished, counts.reappeared, counts.retyped])
        {
            events
                .with_label_values(&[self.app.as_str(), event])
                .inc_by(u64::try_from(count).unwrap_or_default());
        }
    }
}

fn outcome_label(outcome: RequestOutcome) -> &'static str {
    match outcome {
        RequestOutcome::Ok => "ok",
        RequestOutcome::Retried => "retried",
        RequestOutcome::Throttled => "throttled",
        RequestOutcome::Failed => "failed",
    }
}

/// Returns the value of the label `error_code`. Undocumented codes become `other`, which bounds the
/// cardinality of the label.
fn error_code_label(error: &ApiError) -> String {
    match error {
        ApiError::Answered { code, .. } if meaning(*code).is_some() => code.to_string(),
        ApiError::Answered { .. } => "other".to_owned(),
        ApiError::Status { status: 429, .. } => "http_429".to_owned(),
        ApiError::Status { status: 400..500, .. } => "http_4xx".to_owned(),
        ApiError::Status { status: 500.., .. } => "http_5xx".to_owned(),
        ApiError::Status { .. } => "http_other".to_owned(),
        ApiError::Timeout { .. }
        | ApiError::Connect { .. }
        | ApiError::Untrusted { .. }
        | ApiError::Broken { .. }
        | ApiError::TooLarge { .. }
        | ApiError::Malformed { .. } => error.reason_code().as_str().to_owned(),
    }
}

/// Creates the counter of notifications, with all series at 0.
fn notifications() -> IntCounterVec {
    let opts = opts(
        "notifications_total",
        "Attempts to send notifications of this process, by event and by outcome. Dropped ones were given up \
         without a last attempt.",
    );
    let counter = IntCounterVec::new(opts, &["event", "outcome"]).expect(VALID_NAMES);
    for event in notify::Event::CONDITIONS {
        for outcome in notify::Outcome::ALL {
            counter.with_label_values(&[event.as_str(), outcome.as_str()]);
        }
    }
    counter
}

/// Creates a counter with the label `im_app`, followed by `labels`.
fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(opts(name, help), &[&["im_app"], labels].concat()).expect(VALID_NAMES)
}

/// Creates a histogram with the label `im_app`.
fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts { common_opts: opts(name, help), buckets: buckets.to_vec() };
    HistogramVec::new(opts, &["im_app"]).expect("names are valid, and buckets ascend")
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(opts(name, help), labels).expect(VALID_NAMES)
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("tim_group_sync")
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("each metric is registered once");
    metric
}

fn encode(families: Vec<MetricFamily>) -> String {
    let mut families: Vec<MetricFamily> =
        families.into_iter().filter(|family| !family.get_metric().is_empty()).collect();
    families.sort_by(|one, other| one.name().cmp(other.name()));
    TextEncoder::new().encode_to_string(&families).expect("families with names and metrics can be encoded")
}
