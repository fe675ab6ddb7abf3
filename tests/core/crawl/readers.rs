//! Views and the change feed for readers: past states, months with their peaks, and every event
//! exactly once.

use std::collections::BTreeSet;

use chrono_tz::Tz;
use harness::crawl::{Harness, ON_COMMAND, format_time, outcome};
use harness::crawl_tests;
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::policy::Retention;
use tim_group_sync::simulator::Fault;
use tim_group_sync::store::{AppId, EventsAfter};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    each_uninterrupted_lifetime_with_one_type_is_a_span,
    an_undone_deletion_does_not_interrupt_a_span,
    the_groups_that_were_live_at_a_time_are_found_by_one_condition,
    spans_have_the_time_from_which_they_are_complete,
    a_month_has_its_peak_its_last_count_and_its_growth,
    months_follow_the_time_zone_of_the_schedule,
    a_quiet_day_differs_from_a_day_without_a_complete_crawl,
    the_change_feed_continues_after_any_cursor,
    a_cursor_before_the_removed_events_is_an_error_with_the_oldest_remaining_event,
}

const SPANS: &str = "SELECT group_id, group_type, CASE WHEN in_baseline THEN 'baseline' ELSE 'new' END
    FROM group_spans ORDER BY group_id, live_from";

async fn each_uninterrupted_lifetime_with_one_type_is_a_span(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await; // 9:00
    harness.dissolve("a");
    harness.crawl().await; // 10:00
    harness.create("Public", "a c");
    harness.crawl().await; // 11:00
    harness.api.retype("b", "Private");
    harness.crawl().await; // 12:00
    harness.dissolve("a");
    harness.crawl().await; // 13:00
    assert_eq!(
        harness.lines(SPANS).await,
        ["a Public baseline", "a Public new", "b Public baseline", "b Private new", "c Public new"]
    );
    let open = "SELECT group_id, group_type FROM group_spans WHERE live_until IS NULL ORDER BY 1";
    assert_eq!(harness.lines(open).await, ["b Private", "c Public"]);
    let seamless = "SELECT count(*) FROM group_spans a JOIN group_spans b
        ON a.group_id = b.group_id AND a.live_until = b.live_from WHERE a.group_id = 'b'";
    assert_eq!(harness.value(seamless).await, "1");
}

async fn an_undone_deletion_does_not_interrupt_a_span(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("a");
    let deleting = harness.crawl().await;
    harness.undelete(deleting.crawl).await;
    let spans = "SELECT group_id, live_until FROM group_spans ORDER BY group_id";
    assert_eq!(harness.lines(spans).await, ["a NULL", "b NULL"]);
}

async fn the_groups_that_were_live_at_a_time_are_found_by_one_condition(harness: Harness) {
    harness.create("Public", "a b");
    let first = harness.crawl().await;
    harness.dissolve("a");
    let second = harness.crawl().await;
    harness.create("Public", "a");
    harness.crawl().await;
    let at = |time: &str| {
        format!(
            "SELECT group_id FROM group_spans
             WHERE live_from <= '{time}' AND (live_until IS NULL OR live_until > '{time}') ORDER BY group_id"
        )
    };
    assert_eq!(harness.lines(&at(&format_time(first.finished_at))).await, ["a", "b"]);
    assert_eq!(
        harness.lines(&at(&format_time(second.finished_at))).await,
        ["b"],
        "groups.first_seen_at alone would name a too"
    );
    assert_eq!(harness.lines(&at("2026-12-31T00:00:00Z")).await, ["a", "b"]);
}

async fn spans_have_the_time_from_which_they_are_complete(mut harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("b");
    harness.crawl().await;
    harness.create("Public", "b");
    harness.crawl().await;
    harness.dissolve("b");
    harness.crawl().await;
    assert_eq!(harness.lines("SELECT DISTINCT complete_from FROM group_spans").await, ["NULL"]);
    for day in 2..=4 {
        harness.clock.set(format!("2026-03-0{day}T09:30:00Z").parse().unwrap());
        harness.crawl().await;
    }
    harness.retention = Retention { deleted_groups: Some(1), ..Retention::default() };
    harness.clock.set("2026-03-05T09:30:00Z".parse().unwrap());
    let report = harness.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await;
    assert_eq!(outcome(&report.unwrap()), "complete");
    let spans = "SELECT group_id, substr(CAST(complete_from AS TEXT), 1, 10) FROM group_spans";
    assert_eq!(harness.lines(spans).await, ["a 2026-03-04"], "both spans of b are removed with its row");
}

const MONTHS: &str =
    "SELECT month, timezone, group_type, peak_total_count, last_total_count, snapshots, net_growth
    FROM monthly_counts ORDER BY month, group_type";

async fn a_month_has_its_peak_its_last_count_and_its_growth(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.create("Public", "c d e");
    let peak = harness.crawl().await;
    harness.dissolve("a b c");
    harness.crawl().await;
    harness.move_clock_by_hours(31 * 24);
    harness.create("Private", "p");
    harness.crawl().await;
    let months = harness.lines(MONTHS).await;
    assert_eq!(
        months,
        [
            "2026-03 UTC Private 0 0 3 0",
            "2026-03 UTC Public 5 2 3 0",
            "2026-03 UTC all 5 2 3 0",
            "2026-04 UTC Private 1 1 1 1",
            "2026-04 UTC Public 2 2 1 0",
            "2026-04 UTC all 3 3 1 1",
        ]
    );
    let peaks = "SELECT peak_at, CAST(average_total_count AS BIGINT) FROM monthly_counts WHERE group_type = 'all' AND month = '2026-03'";
    let row = harness.rows(peaks).await.remove(0);
    assert!(row[0] >= format_time(peak.started_at) && row[0] <= format_time(peak.finished_at));
    assert_eq!(row[1], "3", "the average of 2, 5 and 2");
}

async fn months_follow_the_time_zone_of_the_schedule(mut harness: Harness) {
    harness.timezone = Tz::Asia__Shanghai;
    harness.create("Public", "a");
    harness.clock.set("2026-03-31T17:00:00Z".parse().unwrap()); // 1 April in Shanghai
    harness.crawl().await;
    let months = "SELECT DISTINCT month, timezone FROM monthly_counts";
    assert_eq!(harness.lines(months).await, ["2026-04 Asia/Shanghai"]);
    let days = "SELECT DISTINCT day, timezone FROM daily_counts";
    assert_eq!(harness.lines(days).await, ["2026-04-01 Asia/Shanghai"]);
    let days = "SELECT day, timezone, complete_crawls FROM daily_crawls";
    assert_eq!(harness.lines(days).await, ["2026-04-01 Asia/Shanghai 1"]);
}

async fn a_quiet_day_differs_from_a_day_without_a_complete_crawl(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.fault_at_request(1, Fault::ErrorCode(60021));
    harness.crawl().await;
    let days = "SELECT DISTINCT day, complete_crawls FROM daily_counts ORDER BY day";
    assert_eq!(harness.lines(days).await, ["2026-03-01 2", "2026-03-02 0"]);
}

async fn app(harness: &Harness) -> AppId {
    harness.store.find_app_and_name(harness.credentials.sdk_app_id).await.unwrap().unwrap().0
}

async fn the_change_feed_continues_after_any_cursor(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.dissolve("a b");
    harness.crawl().await;
    harness.create("Public", "a d");
    harness.crawl().await;
    let app = app(&harness).await;
    let mut seen = Vec::new();
    loop {
        let after = seen.last().copied().unwrap_or(0);
        let EventsAfter::Events(events) = harness.store.events_after(app, after, 1).await.unwrap() else {
            panic!("nothing was removed")
        };
        let Some(event) = events.first() else { break };
        seen.push(event.event_id);
    }
    let all = harness.lines("SELECT event_id FROM group_events ORDER BY event_id").await;
    assert_eq!(seen.iter().map(ToString::to_string).collect::<Vec<_>>(), all);
    assert_eq!((seen.len(), BTreeSet::from_iter(&seen).len()), (4, 4));
}

async fn a_cursor_before_the_removed_events_is_an_error_with_the_oldest_remaining_event(
    mut harness: Harness,
) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.dissolve("a");
    harness.crawl().await;
    harness.dissolve("b");
    harness.crawl().await;
    let app = app(&harness).await;
    let ids = harness.lines("SELECT event_id FROM group_events ORDER BY event_id").await;
    let ids: Vec<i64> = ids.iter().map(|id| id.parse().unwrap()).collect();
    for day in 2..=4 {
        harness.clock.set(format!("2026-03-0{day}T09:30:00Z").parse().unwrap());
        harness.crawl().await;
    }
    harness.create("Public", "d");
    harness.crawl().await;
    harness.retention = Retention { events: Some(1), ..Retention::default() };
    harness.clock.set("2026-03-05T09:30:00Z".parse().unwrap());
    harness.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
    let remaining: i64 = harness.value("SELECT event_id FROM group_events").await.parse().unwrap();
    match harness.store.events_after(app, ids[0], 10).await.unwrap() {
        EventsAfter::Removed { continue_after } => assert_eq!(continue_after, remaining - 1),
        EventsAfter::Events(events) => panic!("{events:?}"),
    }
    for complete in [0, ids[1], remaining - 1] {
        match harness.store.events_after(app, complete, 10).await.unwrap() {
            EventsAfter::Events(events) => assert_eq!(events.len(), 1, "after {complete}"),
            EventsAfter::Removed { .. } => panic!("after {complete} nothing was removed"),
        }
    }
}
