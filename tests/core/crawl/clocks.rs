//! Crawls with a wrong clock.

use chrono::TimeDelta;
use harness::crawl::{Harness, outcome, reason_text};
use harness::crawl_tests;
use tim_group_sync::policy::Retention;
use tim_group_sync::simulator::{At, Fault};

use crate::confirmation::{complete, deleted};

crawl_tests! {
    a_crawl_with_a_clock_that_is_a_year_off_fails_and_writes_only_its_record,
    the_effects_of_an_undetected_clock_a_year_ahead_end_with_the_next_crawls,
    a_type_that_later_crawls_do_not_conclude_keeps_no_time_of_a_clock_a_year_ahead,
    a_failed_crawl_with_a_clock_far_behind_changes_no_daily_counts,
}

/// Returns all rows that a crawl may write, except its own record in `crawl`.
async fn rows_except_crawl_records(harness: &Harness) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for table in ["group_row", "type_state", "daily_count", "group_event", "group_question", "crawl_change"] {
        rows.extend(harness.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).await);
    }
    rows
}

const YEAR_IN_HOURS: i32 = 365 * 24;

async fn a_crawl_with_a_clock_that_is_a_year_off_fails_and_writes_only_its_record(harness: Harness) {
    harness.create("Public", "a b c");
    complete(&harness).await;
    harness.dissolve("a");
    harness.create("Public", "d");
    for hours in [YEAR_IN_HOURS, -YEAR_IN_HOURS] {
        let before = rows_except_crawl_records(&harness).await;
        // Only the crawler's clock is wrong. The API's `Date` header is right.
        harness.move_clock_by_hours(hours);
        harness.api.set_date_offset(TimeDelta::hours((-hours).into()));
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), "failed clock", "{}", reason_text(&report));
        assert_eq!(rows_except_crawl_records(&harness).await, before, "{hours} h");
        harness.move_clock_by_hours(-hours);
        harness.api.set_date_offset(TimeDelta::zero());
    }
    // A skew of half an hour is only reported.
    harness.api.set_date_offset(TimeDelta::minutes(30));
    complete(&harness).await;
    harness.assert_table_matches_api().await;
    let today = harness.clock.now().format("%Y-%m-%d").to_string();
    assert_eq!(harness.lines("SELECT DISTINCT day FROM daily_counts").await, [today]);
}

async fn the_effects_of_an_undetected_clock_a_year_ahead_end_with_the_next_crawls(mut harness: Harness) {
    harness.retention = Retention { deleted_groups: Some(30), events: Some(30), counts: Some(30) };
    harness.create("Public", "a b c d e");
    complete(&harness).await;
    harness.dissolve("a");
    complete(&harness).await;
    harness.dissolve("b");
    harness.create("Public", "f");
    harness.move_clock_by_hours(YEAR_IN_HOURS);
    harness.api.script(At::Every, Fault::NoDate);
    complete(&harness).await;
    harness.api.clear_faults();
    harness.move_clock_by_hours(-YEAR_IN_HOURS);
    harness.dissolve("c");
    let report = complete(&harness).await;
    harness.move_clock_by_hours(24);
    let next = complete(&harness).await;
    harness.assert_table_matches_api().await;
    assert_eq!(deleted(&harness).await, ["a", "b", "c"], "retention must not remove rows too early");
    let format_time = harness::crawl::format_time;
    let c = "SELECT last_seen_at <= deleted_at, deleted_at FROM groups WHERE group_id = 'c'";
    assert_eq!(harness.lines(c).await, [format!("1 {}", format_time(report.finished_at))]);
    let seen = "SELECT DISTINCT last_seen_at FROM live_groups WHERE group_id IN ('d', 'e')";
    assert_eq!(harness.lines(seen).await, [format_time(next.started_at)]);
    let as_of = "SELECT DISTINCT as_of FROM type_status WHERE group_type = 'Public'";
    assert_eq!(harness.lines(as_of).await, [format_time(next.started_at)]);
    let latest = next.finished_at.format("%Y-%m-%d").to_string();
    let later = format!("SELECT count(*) FROM daily_counts WHERE day > '{latest}'");
    assert_eq!(harness.value(&later).await, "0");
    let sums = "SELECT sum(appeared), sum(vanished) FROM daily_counts";
    assert_eq!(harness.lines(sums).await, ["1 3"]);
}

async fn a_type_that_later_crawls_do_not_conclude_keeps_no_time_of_a_clock_a_year_ahead(harness: Harness) {
    harness.create("Public", "a");
    harness.create("Private", "b");
    complete(&harness).await;
    harness.move_clock_by_hours(YEAR_IN_HOURS);
    harness.api.script(At::Every, Fault::NoDate);
    complete(&harness).await;
    harness.api.clear_faults();
    harness.move_clock_by_hours(-YEAR_IN_HOURS + 1);
    // The API rejects the type, so no crawl concludes it.
    harness.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    let report = complete(&harness).await;
    let started_at = harness::crawl::format_time(report.started_at);
    let as_of = "SELECT as_of FROM type_status WHERE group_type IN ('Public', 'Private')";
    assert_eq!(harness.lines(as_of).await, [started_at.clone(), started_at.clone()]);
    let seen = "SELECT last_seen_at FROM live_groups ORDER BY group_id";
    assert_eq!(harness.lines(seen).await, [started_at.clone(), started_at]);
}

async fn a_failed_crawl_with_a_clock_far_behind_changes_no_daily_counts(harness: Harness) {
    let days = "SELECT day, group_type, live_groups, appeared, vanished FROM daily_counts
                WHERE day > '2026-01-01' ORDER BY day, group_type";
    harness.create("Public", "a b c");
    for new in ["d", "e", "f"] {
        harness.create("Public", new);
        complete(&harness).await;
        harness.move_clock_by_hours(24);
    }
    let before = harness.lines(days).await;
    // No answer has a `Date`, so the crawl does not notice the wrong clock.
    harness.api.script(At::Every, Fault::Status(502));
    harness.move_clock_by_hours(-YEAR_IN_HOURS);
    assert_eq!(outcome(&harness.crawl().await), "failed network");
    assert_eq!(harness.lines(days).await, before);
    harness.api.clear_faults();
    harness.move_clock_by_hours(YEAR_IN_HOURS);
    complete(&harness).await;
    assert!(harness.lines(days).await.starts_with(&before[..4]));
}
