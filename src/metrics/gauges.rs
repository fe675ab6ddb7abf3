//! Metrics that are computed for each scrape. They are built from scratch each time, so that apps
//! that were removed from the configuration disappear.

use chrono::{DateTime, Utc};
use prometheus::IntGaugeVec;
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;

use super::{counter, gauge};
use crate::daemon::{Apps, is_refused};
use crate::store::{AppOverview, Crawl, TypeOverview};

/// Returns each app's metrics that do not require the database. `overviews` are the apps from the
/// database, if it could be read.
pub(super) fn of_process(
    apps: &Apps,
    overviews: Option<&[AppOverview]>,
    now: DateTime<Utc>,
) -> Vec<MetricFamily> {
    let next = app_gauge(
        "next_crawl_timestamp_seconds",
        "When this process crawls the app next, in unix seconds. Absent if that is not known.",
    );
    let refused = app_gauge(
        "app_refused",
        "1 if the API refuses the credentials, or the key cannot be read, 0 otherwise.",
    );
    let skipped =
        counter("skipped_ticks_total", "Ticks of the schedule for which no crawl was started.", &[]);
    let quota = app_gauge("group_quota", "The number of groups that the app may have (group_quota).");
    let progress = app_gauge(
        "crawl_progress_timestamp_seconds",
        "When this process last made progress with the app, in unix seconds. Waiting for a crawl \
         that is not due counts as progress.",
    );
    for (app, state) in apps {
        progress.with_label_values(&[app]).set((now - state.since_progress()).timestamp());
        if let Some(groups) = state.group_quota {
            quota.with_label_values(&[app]).set(i64::try_from(groups).unwrap_or(i64::MAX));
        }
        if let Some(at) = state.next_crawl_at(now) {
            next.with_label_values(&[app]).set(at.timestamp());
        }
        let in_database = overviews.unwrap_or_default().iter().find(|overview| overview.app == *app);
        refused.with_label_values(&[app]).set(i64::from(is_refused(in_database, Some(state))));
        skipped.with_label_values(&[app]).inc_by(state.skipped_ticks);
    }
    [next.collect(), refused.collect(), skipped.collect(), progress.collect(), quota.collect()].concat()
}

/// Returns each app's metrics from the database.
pub(super) fn of_database(overviews: &[AppOverview], apps: &Apps, now: DateTime<Utc>) -> Vec<MetricFamily> {
    let groups = gauge(
        "groups",
        "Groups by type and state. Missing groups are included in live ones.",
        &["im_app", "group_type", "state"],
    );
    let api_groups = gauge(
        "api_groups",
        "The API's latest TotalCount of a group type, or of the entire app with group_type all.",
        &["im_app", "group_type"],
    );
    let peak = app_gauge(
        "month_peak_groups",
        "The greatest TotalCount of the entire app in the crawls of this month.",
    );
    let details = app_gauge(
        "details_fresh_groups",
        "Live groups whose details are not older than details.refresh, at the last count.",
    );
    let held =
        app_gauge("held_groups", "Groups whose deletion was withheld or undone. They wait for approval.");
    let unasked = app_gauge(
        "unasked_groups",
        "Candidates for deletion that the last crawl that reached its end did not look up \
         (deletion.confirm).",
    );
    let skew = app_gauge(
        "clock_skew_seconds",
        "Seconds by which the clock of the last crawl's machine was ahead of the API's; negative \
         if it was behind.",
    );
    let complete = app_gauge(
        "last_complete_crawl_timestamp_seconds",
        "When the last complete crawl ended, in unix seconds, or 0 if there was none.",
    );
    let ticks = app_gauge(
        "ticks_since_complete_crawl",
        "Ticks of the schedule since the last complete crawl began, or else since the first crawl; \
         at most 100.",
    );
    let running = app_gauge("crawl_running", "1 while any process crawls the app, 0 otherwise.");
    for overview in overviews {
        let app = overview.app.as_str();
        set_counts_by_type(overview, &groups, &api_groups);
        if let Some(count) = overview.total_count {
            api_groups.with_label_values(&[app, "all"]).set(count);
        }
        if let Some(count) = overview.month_peak {
            peak.with_label_values(&[app]).set(count);
        }
        if let Some(of_groups) = overview.details {
            details.with_label_values(&[app]).set(of_groups.fresh_groups);
        }
        held.with_label_values(&[app]).set(overview.held_groups());
        unasked.with_label_values(&[app]).set(overview.unasked.unwrap_or(0));
        if let Some(seconds) = overview.last_crawl.as_ref().and_then(|crawl| crawl.clock_skew) {
            skew.with_label_values(&[app]).set(seconds);
        }
        let complete_crawl = overview.last_complete_crawl.as_ref();
        let finished_at = complete_crawl.and_then(Crawl::finished).map_or(0, |at| at.timestamp());
        complete.with_label_values(&[app]).set(finished_at);
        if let Some(passed) = apps.get(app).and_then(|state| state.ticks_since_complete_crawl(overview, now))
        {
            ticks.with_label_values(&[app]).set(i64::try_from(passed).unwrap_or(i64::MAX));
        }
        running.with_label_values(&[app]).set(i64::from(overview.running_crawl.is_some()));
    }
    [groups, api_groups, peak, details, held, unasked, skew, complete, ticks, running]
        .iter()
        .flat_map(IntGaugeVec::collect)
        .collect()
}

/// Sets the counts of each group type of an app. Leaves out types that are no longer configured and
/// have no groups.
fn set_counts_by_type(overview: &AppOverview, groups: &IntGaugeVec, api_groups: &IntGaugeVec) {
    let app = overview.app.as_str();
    let is_shown =
        |of_type: &&TypeOverview| of_type.configured || of_type.live_count + of_type.deleted_count > 0;
    for of_type in overview.types.iter().filter(is_shown) {
        let group_type = of_type.group_type.as_deref().unwrap_or("unknown");
        let count = |state, count| groups.with_label_values(&[app, group_type, state]).set(count);
        count("live", of_type.live_count);
        count("missing", of_type.missing_count);
        count("deleted", of_type.deleted_count);
        if let Some(count) = of_type.total_count {
            api_groups.with_label_values(&[app, group_type]).set(count);
        }
    }
}

/// Creates a gauge with the label `im_app`.
fn app_gauge(name: &str, help: &str) -> IntGaugeVec {
    gauge(name, help, &["im_app"])
}
