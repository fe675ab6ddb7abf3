//! The current state of the apps: the read model of the database, combined with the state in this
//! process.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::Serialize;

use super::error::RequestError;
use super::sources::Sources;
use crate::crawl::{Progress, Step};
use crate::daemon::{AppState, Condition, Phase, is_refused};
use crate::model::SdkAppId;
use crate::store::{
    AppOverview, CountChange, Crawl, DetailsOverview, HeldDeletions, RecentCrawl, Stamp, Store, TypeOverview,
};

/// The number of recent crawls of each app: a day, if the app is crawled every hour.
const RECENT_CRAWLS: i64 = 24;

/// One app: the columns of the view `app_status`, and further fields that the page shows.
#[derive(Debug, Default, Serialize)]
pub(super) struct AppSummary {
    /// `None` if the app is configured, but not in the database yet.
    pub(super) sdk_app_id: Option<i64>,
    app: String,
    configured: bool,
    live_count: i64,
    missing_count: i64,
    last_complete_crawl_at: Option<Stamp>,
    last_crawl_status: Option<String>,
    last_crawl_deletions: Option<String>,
    last_crawl_reason: Option<String>,
    last_crawl_at: Option<Stamp>,
    running_since: Option<Stamp>,
    total_count: Option<i64>,
    held_count: i64,
    deleted_count: i64,
    last_crawl: Option<Crawl>,
    running_crawl: Option<RunningCrawl>,
    withheld: Vec<HeldDeletions>,
    next_crawl_at: Option<Stamp>,
    /// Whether the API refuses the app's credentials.
    refused: bool,
    /// Why the key cannot be read.
    key_trouble: Option<String>,
    /// Why this process cannot write to the database.
    database_trouble: Option<String>,
    condition: Condition,
    needs_attention: bool,
    ticks_since_complete_crawl: Option<u64>,
    /// The due time of a crawl that this process has not started.
    overdue_since: Option<Stamp>,
    month_peak_groups: Option<i64>,
    group_quota: Option<u64>,
    /// The change since the end of the day before the newest crawl.
    change_since_yesterday: Option<CountChange>,
    /// The change since the end of the day a week before the newest crawl.
    change_since_last_week: Option<CountChange>,
    /// The last crawls that have ended, oldest first.
    recent_crawls: Vec<RecentCrawl>,
    /// `None` if no details of the app's groups are kept.
    details: Option<DetailsOverview>,
}

/// A running crawl. The progress is known only for crawls of this process.
#[derive(Debug, Default, Serialize)]
struct RunningCrawl {
    crawl_id: Option<i64>,
    started_at: Option<Stamp>,
    trigger: Option<String>,
    host: Option<String>,
    /// Whether this process makes the crawl.
    here: bool,
    step: Option<&'static str>,
    group_type: Option<String>,
    type_listed_count: Option<u64>,
    type_total_count: Option<u64>,
    listed_count: Option<u64>,
    total_count: Option<u64>,
    requests: Option<u64>,
    /// Why the crawl pauses before a retry.
    pausing: Option<String>,
    /// Consecutive attempts at a request that failed.
    failed_attempts: Option<u32>,
    /// Why the last of them failed.
    last_failure: Option<String>,
}

/// Returns every app that is configured or in the database, with its group types, ordered by name.
pub(super) async fn all(sources: &Sources) -> Result<Vec<(AppSummary, Vec<TypeOverview>)>, RequestError> {
    let store = sources.store()?;
    let known = store.overview().await?;
    let mut history = RecentHistory::read(&store, &known).await?;
    // Read after the database, so that no crawl ended after `now`.
    let (mut states, now) = (sources.apps.borrow().clone(), sources.clock.now());
    let mut apps = Vec::with_capacity(known.len());
    for overview in known {
        // A configured app may have the name of an app that is no longer configured.
        let state = if overview.configured { states.remove(&overview.app) } else { None };
        let running_crawl = running_crawl(&store, &overview, state.as_ref()).await?;
        let (mut app, types) = AppSummary::of(Some(overview), state, now);
        app.running_crawl = running_crawl;
        history.add_to(&mut app);
        apps.push((app, types));
    }
    for (name, state) in states {
        let running_crawl = crawl_of_this_process(None, &state);
        let (app, types) = AppSummary::of(None, Some(state), now);
        apps.push((AppSummary { app: name, configured: true, running_crawl, ..app }, types));
    }
    apps.sort_by(|(a, _), (b, _)| (&a.app, a.sdk_app_id).cmp(&(&b.app, b.sdk_app_id)));
    Ok(apps)
}

/// The recent crawls and changes of the apps, by SDKAppID.
struct RecentHistory {
    crawls: BTreeMap<i64, Vec<RecentCrawl>>,
    changes_since_yesterday: BTreeMap<i64, CountChange>,
    changes_since_last_week: BTreeMap<i64, CountChange>,
}

impl RecentHistory {
    async fn read(store: &Store, known: &[AppOverview]) -> Result<Self, RequestError> {
        let mut crawls: BTreeMap<i64, Vec<RecentCrawl>> = BTreeMap::new();
        for crawl in store.recent_crawls(RECENT_CRAWLS).await? {
            crawls.entry(crawl.sdk_app_id).or_default().push(crawl);
        }
        Ok(Self {
            crawls,
            changes_since_yesterday: changes_since(store, known, Days::new(1)).await?,
            changes_since_last_week: changes_since(store, known, Days::new(7)).await?,
        })
    }

    fn add_to(&mut self, app: &mut AppSummary) {
        let Some(id) = app.sdk_app_id else { return };
        app.recent_crawls = self.crawls.remove(&id).unwrap_or_default();
        app.change_since_yesterday = self.changes_since_yesterday.remove(&id);
        app.change_since_last_week = self.changes_since_last_week.remove(&id);
    }
}

/// Returns how each app changed since the end of the day that is `days` before its newest crawl.
async fn changes_since(
    store: &Store,
    known: &[AppOverview],
    days: Days,
) -> Result<BTreeMap<i64, CountChange>, RequestError> {
    // Most apps have the same newest day, so there are few queries.
    let mut apps_of_day: BTreeMap<NaiveDate, BTreeSet<i64>> = BTreeMap::new();
    for app in known {
        let newest =
            app.last_crawl.as_ref().and_then(|crawl| crawl.day.as_deref()?.parse::<NaiveDate>().ok());
        if let Some(earlier) = newest.and_then(|newest| newest.checked_sub_days(days)) {
            apps_of_day.entry(earlier).or_default().insert(app.sdk_app_id);
        }
    }
    let mut changes = BTreeMap::new();
    for (day, apps) in apps_of_day {
        let of_day = store.changes_since(&day.format("%Y-%m-%d").to_string()).await?;
        let of_day = of_day.into_iter().filter(|change| apps.contains(&change.sdk_app_id));
        changes.extend(of_day.map(|change| (change.sdk_app_id, change)));
    }
    Ok(changes)
}

impl AppSummary {
    /// Returns the state of an app, from the database and from this process.
    fn of(
        overview: Option<AppOverview>,
        state: Option<AppState>,
        now: DateTime<Utc>,
    ) -> (Self, Vec<TypeOverview>) {
        let condition = Condition::of(overview.as_ref(), state.as_ref(), now);
        let refused = is_refused(overview.as_ref(), state.as_ref());
        let ticks = match (&overview, &state) {
            (Some(overview), Some(state)) => state.ticks_since_complete_crawl(overview, now),
            _ => None,
        };
        let (mut app, types) = overview.map(of_database).unwrap_or_default();
        app.condition = condition;
        app.needs_attention = condition.needs_attention();
        app.refused = refused;
        app.ticks_since_complete_crawl = ticks;
        if let Some(state) = state {
            app.next_crawl_at = state.next_crawl_at(now).map(stamp);
            app.overdue_since = state.overdue_since(now).map(stamp);
            app.group_quota = state.group_quota;
            app.key_trouble = state.key_problem;
            app.database_trouble = state.database_problem;
        }
        (app, types)
    }
}

fn of_database(overview: AppOverview) -> (AppSummary, Vec<TypeOverview>) {
    let AppOverview { types, last_crawl, held, .. } = overview;
    let app = AppSummary {
        sdk_app_id: Some(overview.sdk_app_id),
        app: overview.app,
        configured: overview.configured,
        live_count: types.iter().map(|of_type| of_type.live_count).sum(),
        missing_count: types.iter().map(|of_type| of_type.missing_count).sum(),
        deleted_count: types.iter().map(|of_type| of_type.deleted_count).sum(),
        last_complete_crawl_at: overview.last_complete_crawl.and_then(|crawl| crawl.finished_at),
        last_crawl_status: last_crawl.as_ref().map(|crawl| crawl.status.clone()),
        last_crawl_deletions: last_crawl.as_ref().and_then(|crawl| crawl.deletions.clone()),
        last_crawl_reason: last_crawl.as_ref().and_then(|crawl| crawl.reason.clone()),
        last_crawl_at: last_crawl.as_ref().and_then(|crawl| crawl.finished_at),
        running_since: overview.running_crawl.map(|crawl| crawl.started_at),
        total_count: overview.total_count,
        month_peak_groups: overview.month_peak,
        details: overview.details,
        last_crawl,
        held_count: held.iter().map(|held| held.held_count).sum(),
        withheld: held,
        ..AppSummary::default()
    };
    (app, types)
}

/// Returns the running crawl of an app, in this process or in another process that holds the lease.
async fn running_crawl(
    store: &Store,
    app: &AppOverview,
    state: Option<&AppState>,
) -> Result<Option<RunningCrawl>, RequestError> {
    let row = app.running_crawl.as_ref();
    let own = state.and_then(|state| crawl_of_this_process(row, state));
    if own.as_ref().is_some_and(|crawl| crawl.here) {
        return Ok(own);
    }
    let (Some(row), Some(sdk_app_id)) = (row, SdkAppId::new(app.sdk_app_id)) else { return Ok(own) };
    // If no process holds the lease, the row is from a process that was killed.
    let is_held = store.lease_holder(sdk_app_id).await?.is_some();
    Ok(is_held.then(|| of_row(row)).or(own))
}

/// Returns the crawl of an app that this process makes, or for which it waits for the lease.
fn crawl_of_this_process(row: Option<&Crawl>, state: &AppState) -> Option<RunningCrawl> {
    let Phase::Crawling { since, progress } = &state.phase else { return None };
    let Progress { step, total, listed, requests, waiting, failed_attempts, last_failure } = progress;
    if *step == Step::WaitingForLease {
        let waits = RunningCrawl {
            started_at: Some(stamp(*since)),
            step: Some("waiting_for_lease"),
            ..RunningCrawl::default()
        };
        return Some(waits);
    }
    let mut crawl = row.map_or_else(RunningCrawl::default, of_row);
    crawl.here = true;
    crawl.started_at = crawl.started_at.or(Some(stamp(*since)));
    crawl.listed_count = Some(*listed);
    crawl.total_count = *total;
    crawl.requests = Some(*requests);
    crawl.failed_attempts = Some(*failed_attempts);
    crawl.last_failure.clone_from(last_failure);
    crawl.pausing = waiting.as_ref().map(|waiting| waiting.why.clone());
    crawl.step = Some(match step {
        Step::Idle | Step::WaitingForLease | Step::Starting => "starting",
        Step::Listing { .. } => "listing",
        Step::Checking => "checking",
        Step::LookingUp { .. } => "asking",
        Step::Concluding { .. } => "concluding",
    });
    if let Step::Listing { group_type, listed, total } = step {
        crawl.group_type = group_type.as_ref().map(|group_type| group_type.as_str().to_owned());
        crawl.type_listed_count = Some(*listed);
        crawl.type_total_count = *total;
    }
    Some(crawl)
}

fn of_row(row: &Crawl) -> RunningCrawl {
    RunningCrawl {
        crawl_id: Some(row.crawl_id),
        started_at: Some(row.started_at),
        trigger: Some(row.trigger.clone()),
        host: Some(row.host.clone()),
        ..RunningCrawl::default()
    }
}

fn stamp(time: DateTime<Utc>) -> Stamp {
    Stamp(time.timestamp_millis())
}
