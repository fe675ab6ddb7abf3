//! What is not counted but looked up for each scrape: made anew each time, so that an app that is gone is gone.

use chrono::{DateTime, Utc};
use prometheus::IntGaugeVec;
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;

use super::{counter, gauge};
use crate::daemon::Apps;
use crate::store::{AppOverview, Crawl, Stamp};

/// More ticks without a complete crawl are not told apart: it takes time to count them.
const TICKS_AT_MOST: usize = 100;

/// What this process knows.
pub(super) fn of_process(apps: &Apps, read: Option<&[AppOverview]>, now: DateTime<Utc>) -> Vec<MetricFamily> {
    let next = of_app(
        "next_crawl_timestamp_seconds",
        "When the next crawl begins, in unix seconds, as far as it is known now.",
    );
    let refused = of_app("app_refused", "1 if the API refuses the credentials, or there are none; else 0.");
    let skipped = counter(
        "skipped_ticks_total",
        "Ticks of the schedule that passed without a crawl of their own.",
        &[],
    );
    let quota = of_app("group_quota", "The number of groups that the app may have (group_quota).");
    let progress = of_app(
        "crawl_progress_timestamp_seconds",
        "When this process last made progress with the app, in unix seconds: with its crawl, or by waiting for one that is not due.",
    );
    for (app, state) in apps {
        progress.with_label_values(&[app]).set((now - state.since_progress()).timestamp());
        if let Some(groups) = state.group_quota {
            quota.with_label_values(&[app]).set(i64::try_from(groups).unwrap_or(i64::MAX));
        }
        if let Some(at) = state.next_at {
            next.with_label_values(&[app]).set(at.timestamp());
        }
        let elsewhere = read.unwrap_or_default().iter().any(|read| read.app == *app && read.is_refused());
        refused.with_label_values(&[app]).set(i64::from(state.refused || elsewhere));
        skipped.with_label_values(&[app]).inc_by(state.skipped_ticks);
    }
    [next.collect(), refused.collect(), skipped.collect(), progress.collect(), quota.collect()].concat()
}

/// What the database knows.
pub(super) fn of_database(read: &[AppOverview], apps: &Apps, now: DateTime<Utc>) -> Vec<MetricFamily> {
    let groups = gauge(
        "groups",
        "Groups. Missing ones are live too: they were not listed lately, but that proves nothing yet.",
        &["im_app", "group_type", "state"],
    );
    let api_groups = gauge(
        "api_groups",
        "The API's latest TotalCount; group_type all is the whole app.",
        &["im_app", "group_type"],
    );
    let peak = of_app(
        "month_peak_groups",
        "The greatest TotalCount of the whole app that a crawl of this month has seen.",
    );
    let held = of_app("held_groups", "Groups whose deletion was withheld or undone: they wait for approve.");
    let unasked = of_app(
        "unasked_groups",
        "Groups that the last crawl that reached its end left to a later one to ask about (deletion.confirm).",
    );
    let skew = of_app(
        "clock_skew_seconds",
        "By how many seconds the clock of the last crawl's machine was ahead of the API's.",
    );
    let complete = of_app(
        "last_complete_crawl_timestamp_seconds",
        "When the last complete crawl ended, in unix seconds; 0 if there was none.",
    );
    let ticks = of_app(
        "ticks_since_complete_crawl",
        "Ticks of the schedule since the last complete crawl began, or the first one of all; counted to 100.",
    );
    let running = of_app("crawl_running", "1 while a crawl runs, in whichever process; else 0.");
    for read in read {
        let app = read.app.as_str();
        // A type that was configured once and has no group left has no gauge.
        for kind in
            read.types.iter().filter(|kind| kind.configured || kind.live_count + kind.deleted_count > 0)
        {
            let group_type = kind.group_type.as_deref().unwrap_or("unknown");
            let count = |state, count| groups.with_label_values(&[app, group_type, state]).set(count);
            count("live", kind.live_count);
            count("missing", kind.missing_count);
            count("deleted", kind.deleted_count);
            if let Some(count) = kind.total_count {
                api_groups.with_label_values(&[app, group_type]).set(count);
            }
        }
        if let Some(count) = read.total_count {
            api_groups.with_label_values(&[app, "all"]).set(count);
        }
        if let Some(count) = read.month_peak {
            peak.with_label_values(&[app]).set(count);
        }
        held.with_label_values(&[app]).set(read.held_groups());
        unasked.with_label_values(&[app]).set(read.unasked.unwrap_or(0));
        if let Some(seconds) = read.last_crawl.as_ref().and_then(|crawl| crawl.clock_skew) {
            skew.with_label_values(&[app]).set(seconds);
        }
        let complete_crawl = read.last_complete_crawl.as_ref();
        let finished_at = complete_crawl.and_then(Crawl::finished).map_or(0, |at| at.timestamp());
        complete.with_label_values(&[app]).set(finished_at);
        let since = complete_crawl.map(|crawl| crawl.started_at).or(read.first_crawl_started_at);
        if let (Some(since), Some(state)) = (since.and_then(Stamp::time), apps.get(app)) {
            let passed = state.schedule.passed(since, now, TICKS_AT_MOST);
            ticks.with_label_values(&[app]).set(i64::try_from(passed).unwrap_or(i64::MAX));
        }
        running.with_label_values(&[app]).set(i64::from(read.running_crawl.is_some()));
    }
    [groups, api_groups, peak, held, unasked, skew, complete, ticks, running]
        .iter()
        .flat_map(IntGaugeVec::collect)
        .collect()
}

fn of_app(name: &str, help: &str) -> IntGaugeVec {
    gauge(name, help, &["im_app"])
}
