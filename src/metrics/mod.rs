//! What is counted and shown for Prometheus: one page of text.
//!
//! Counters are of this process and begin at 0 for every app when it starts. Gauges of the apps come from the database, so
//! that all replicas show the same. Without the database the page has the rest, and says so.

mod gauges;
mod process;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
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
use crate::store::{AppOverview, Store, StoreError};
use crate::tencent::ApiError;
use crate::tencent::error::{THROTTLING, meaning};

/// What the page's text is to be called in an answer.
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

/// A scrape goes without the database's numbers when they are not there by then. Prometheus gives a scrape ten seconds.
const DATABASE_WITHIN: Duration = Duration::from_secs(4);

/// A page of 10,000 ids takes a second or so; an answer may take up to a minute.
const REQUEST_SECONDS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// A request a second: up to 10,000 groups, up to 36 million.
const CRAWL_SECONDS: [f64; 11] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];

/// How a crawl that is over may have ended.
const STATUSES: [CrawlStatus; 4] =
    [CrawlStatus::Complete, CrawlStatus::Incomplete, CrawlStatus::Failed, CrawlStatus::Cancelled];
const EVENTS: [&str; 4] = ["appeared", "vanished", "reappeared", "retyped"];
const ANSWERS: [&str; 3] = ["gone", "stands", "unlearned"];
const OUTCOMES: [RequestOutcome; 4] =
    [RequestOutcome::Ok, RequestOutcome::Retried, RequestOutcome::Throttled, RequestOutcome::Failed];

/// The counters of this process, and how to show everything.
#[derive(Debug)]
pub struct Metrics {
    clock: Clock,
    started_at: DateTime<Utc>,
    registry: Registry,
    counters: Counters,
    /// One scrape reads the database at a time: it is there for the crawls.
    reading: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Counters {
    crawls: IntCounterVec,
    crawl_duration: HistogramVec,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    events: IntCounterVec,
    asked: IntCounterVec,
}

impl Metrics {
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let registry = Registry::new();
        let counters = Counters {
            crawls: registered(&registry, counter("crawls_total", "Crawls that ended, by how.", &["status"])),
            crawl_duration: registered(
                &registry,
                histogram("crawl_duration_seconds", "How long crawls took.", &CRAWL_SECONDS),
            ),
            requests: registered(
                &registry,
                counter(
                    "api_requests_total",
                    "Requests to the API, by what became of them and by the API's error code or a word for another failure.",
                    &["outcome", "error_code"],
                ),
            ),
            request_duration: registered(
                &registry,
                histogram(
                    "api_request_duration_seconds",
                    "How long the API took to answer or to fail.",
                    &REQUEST_SECONDS,
                ),
            ),
            asked: registered(
                &registry,
                counter(
                    "asked_groups_total",
                    "Groups that the lists lacked and get_group_info was asked about, by what it answered.",
                    &["answer"],
                ),
            ),
            events: registered(
                &registry,
                counter("group_events_total", "What crawls found to have become of groups.", &["event"]),
            ),
        };
        let build = gauge("build_info", "Always 1; says which version runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registered(&registry, build);
        Self { clock: clock.clone(), started_at: clock.now(), registry, counters, reading: Mutex::default() }
    }

    /// Counts the crawls of an app: every counter of it stands at 0 from now on, or where it was.
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
            counters.requests.with_label_values(&[name, word_for(outcome), ""]);
        }
        // An alert sees a counter rise, not begin: the first throttled request is to be seen.
        for code in THROTTLING {
            counters.requests.with_label_values(&[
                name,
                word_for(RequestOutcome::Throttled),
                &code.to_string(),
            ]);
        }
        counters.crawl_duration.with_label_values(&[name]);
        counters.request_duration.with_label_values(&[name]);
        Arc::new(OfApp { app: name.to_owned(), counters: counters.clone() })
    }

    /// The page, as it is now.
    pub async fn page(&self, health: &Health) -> String {
        let store = health.database().borrow().store().cloned();
        let read = match store {
            Some(store) => self.read(&store, health).await,
            None => None,
        };
        let up = gauge("database_up", "1 if this scrape could read the database, else 0.", &[]);
        up.with_label_values::<&str>(&[]).set(i64::from(read.is_some()));
        let apps = health.apps();
        let mut families = self.registry.gather();
        families.extend(up.collect());
        families.extend(gauges::of_process(&apps.borrow(), read.as_deref(), self.clock.now()));
        if let Some(read) = &read {
            families.extend(gauges::of_database(read, &apps.borrow(), self.clock.now()));
        }
        families.extend(process::families(self.started_at));
        encode(families)
    }

    /// What the database says of the apps, if it does so in time.
    async fn read(&self, store: &Store, health: &Health) -> Option<Vec<AppOverview>> {
        let read = async {
            let _turn = self.reading.lock().await;
            let mut apps = store.overview().await?;
            apps.retain(|app| app.configured);
            let here = crawled_here(&health.apps().borrow());
            close_what_was_left_open(store, &mut apps, &here).await?;
            Ok::<_, StoreError>(apps)
        };
        match timeout(DATABASE_WITHIN, read).await {
            Ok(Ok(apps)) => Some(apps),
            Ok(Err(error)) => {
                debug!("a scrape goes without the database: {}", with_causes(&error));
                None
            }
            Err(_) => {
                debug!("a scrape goes without the database, which does not answer in time");
                None
            }
        }
    }
}

/// The apps that this process crawls at present.
fn crawled_here(apps: &Apps) -> BTreeSet<String> {
    let crawling = apps.iter().filter(|(_, state)| matches!(state.phase, Phase::Crawling { .. }));
    crawling.map(|(app, _)| app.clone()).collect()
}

/// Clears the running crawl of apps whose process was killed: the crawl is still open, but nobody holds the lease.
async fn close_what_was_left_open(
    store: &Store,
    apps: &mut [AppOverview],
    here: &BTreeSet<String>,
) -> Result<(), StoreError> {
    let elsewhere = |app: &AppOverview| app.running_crawl.is_some() && !here.contains(&app.app);
    let id = |app: &AppOverview| SdkAppId::new(app.sdk_app_id);
    let ids: Vec<SdkAppId> = apps.iter().filter(|app| elsewhere(app)).filter_map(id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let leased = store.leased(&ids).await?;
    for app in apps.iter_mut().filter(|app| elsewhere(app)) {
        if !id(app).is_some_and(|id| leased.contains(&id)) {
            app.running_crawl = None;
        }
    }
    Ok(())
}

/// Counts for one app.
#[derive(Debug)]
struct OfApp {
    app: String,
    counters: Counters,
}

impl Observer for OfApp {
    fn answered(&self, took: Duration) {
        self.counters.request_duration.with_label_values(&[&self.app]).observe(took.as_secs_f64());
    }

    fn request(&self, outcome: RequestOutcome, error: Option<&ApiError>) {
        let code = error.map(code_of).unwrap_or_default();
        self.counters.requests.with_label_values(&[self.app.as_str(), word_for(outcome), &code]).inc();
    }

    fn crawl(&self, report: &CrawlReport) {
        let Counters { crawls, crawl_duration, events, asked, .. } = &self.counters;
        crawls.with_label_values(&[self.app.as_str(), report.status.as_str()]).inc();
        let took = (report.finished_at - report.started_at).to_std().unwrap_or_default();
        crawl_duration.with_label_values(&[&self.app]).observe(took.as_secs_f64());
        let answers = [report.asked.confirmed, report.asked.spared, report.asked.unlearned];
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

fn word_for(outcome: RequestOutcome) -> &'static str {
    match outcome {
        RequestOutcome::Ok => "ok",
        RequestOutcome::Retried => "retried",
        RequestOutcome::Throttled => "throttled",
        RequestOutcome::Failed => "failed",
    }
}

/// A failure in a word, of which there are not many, whatever the API answers.
fn code_of(error: &ApiError) -> String {
    match error {
        ApiError::Answered { code, .. } if meaning(*code).is_some() => code.to_string(),
        ApiError::Answered { .. } => "other".to_owned(),
        ApiError::Status { status: 429 } => "http_429".to_owned(),
        ApiError::Status { status: 400..500 } => "http_4xx".to_owned(),
        ApiError::Status { status: 500.. } => "http_5xx".to_owned(),
        ApiError::Status { .. } => "http_other".to_owned(),
        ApiError::Timeout { .. }
        | ApiError::Connect { .. }
        | ApiError::Untrusted { .. }
        | ApiError::Broken { .. }
        | ApiError::TooLarge { .. }
        | ApiError::Malformed { .. } => error.reason_code().as_str().to_owned(),
    }
}

/// Metrics of an app have its name first.
fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(named(name, help), &[&["im_app"], labels].concat()).expect("the names are lawful")
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts { common_opts: named(name, help), buckets: buckets.to_vec() };
    HistogramVec::new(opts, &["im_app"]).expect("the names are lawful and the buckets rise")
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(named(name, help), labels).expect("the names are lawful")
}

fn named(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("tim_group_sync")
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

fn encode(families: Vec<MetricFamily>) -> String {
    let mut families: Vec<MetricFamily> =
        families.into_iter().filter(|family| !family.get_metric().is_empty()).collect();
    families.sort_by(|one, other| one.name().cmp(other.name()));
    TextEncoder::new().encode_to_string(&families).expect("families with a name and a metric are text")
}
