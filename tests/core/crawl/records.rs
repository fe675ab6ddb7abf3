//! What a crawl records, when it is visible, and `last_seen_at`.

use chrono_tz::Tz;
use harness::crawl::{Harness, ON_COMMAND, format_time, outcome, reason_text};
use harness::crawl_tests;
use tim_group_sync::crawl::{CrawlError, CrawlRequest, WhenBusy};
use tim_group_sync::model::Trigger;
use tim_group_sync::simulator::{At, Fault};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    every_crawl_records_the_total_count_of_the_app_even_if_it_fails,
    every_pass_records_the_total_count_of_its_type_and_an_aborted_one_has_no_verdict,
    daily_counts_add_up_the_crawls_of_a_day_in_the_schedules_time_zone,
    a_crawl_is_recorded_with_its_trigger_and_its_requests,
    a_tick_is_crawled_once,
    app_status_has_the_last_crawl_and_the_last_complete_one,
    new_groups_are_visible_during_a_crawl_and_events_and_deletions_at_its_end,
    an_unchanged_crawl_writes_no_group_and_no_event_but_advances_last_seen_at,
    a_short_pass_that_lists_every_known_group_advances_last_seen_at,
    a_short_pass_that_lacks_a_known_group_does_not_advance_last_seen_at,
}

async fn every_crawl_records_the_total_count_of_the_app_even_if_it_fails(harness: Harness) {
    harness.create("Public", "a b c d");
    let first = harness.crawl().await;
    harness.create("Private", "e");
    harness.during_request(3, |api| api.create("Private", "f"));
    harness.crawl().await;
    harness.fault_from_request(3, Fault::ErrorCode(10003));
    let failed = harness.crawl().await;
    harness.api.clear_faults();
    harness.fault_from_request(1, Fault::ErrorCode(10003));
    harness.crawl().await;
    let counts =
        "SELECT crawl_id, total_count_at_start, total_count, listed_count FROM app_counts ORDER BY crawl_id";
    assert_eq!(harness.lines(counts).await, ["1 4 4 4", "2 5 6 6", "3 6 6 3", "4 NULL NULL 0"]);
    let recorded =
        harness.lines("SELECT recorded_at FROM app_counts WHERE crawl_id IN (1, 3) ORDER BY 1").await;
    assert_eq!(recorded, [format_time(first.finished_at), format_time(failed.finished_at)]);
}

async fn every_pass_records_the_total_count_of_its_type_and_an_aborted_one_has_no_verdict(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.create("ChatRoom", "x");
    harness.crawl().await;
    harness.during_request(3, |api| api.create("Public", "e"));
    harness.crawl().await;
    harness.fault_from_request(3, Fault::ErrorCode(10003));
    harness.crawl().await;
    let counts =
        "SELECT crawl_id, group_type, total_count, total_count_min, total_count_max, listed_count, verdict
                  FROM type_counts ORDER BY crawl_id, recorded_at";
    // The unfiltered pass of the first crawl has no type, so it has no row.
    let expected = [
        "1 Public 4 4 4 4 exact",
        "1 Private 0 0 0 0 exact",
        "2 Public 5 4 5 5 moving",
        "2 Private 0 0 0 0 exact",
        "3 Public 5 5 5 3 NULL",
    ];
    let counted = harness.lines(counts).await;
    assert_eq!(counted[..4], expected[..4]);
    assert_eq!(counted[counted.len() - 1], expected[4]);
}

async fn daily_counts_add_up_the_crawls_of_a_day_in_the_schedules_time_zone(mut harness: Harness) {
    harness.timezone = Tz::Asia__Shanghai; // UTC+8, so the test starts at 16:00 local time
    harness.create("Public", "a b");
    harness.crawl().await; // 17:00
    harness.create("Public", "c");
    harness.dissolve("a");
    harness.crawl().await; // 18:00
    harness.api.retype("c", "Private");
    harness.crawl().await; // 19:00
    let days = "SELECT day, group_type, live_groups, total_count, appeared, vanished, reappeared, retyped
                FROM daily_counts ORDER BY day, group_type";
    let first_day = ["2026-03-01 Private 1 1 0 0 0 1", "2026-03-01 Public 1 1 1 1 0 0"];
    assert_eq!(harness.lines(days).await, first_day);
    for _ in 0..5 {
        harness.crawl().await; // until 24:00
    }
    harness.create("Public", "a");
    harness.crawl().await;
    let both_days = [&first_day[..], &["2026-03-02 Private 1 1 0 0 0 0", "2026-03-02 Public 2 2 0 0 1 0"]];
    assert_eq!(harness.lines(days).await, both_days.concat());
}

async fn a_crawl_is_recorded_with_its_trigger_and_its_requests(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.fault_at_request(2, Fault::Status(500));
    let report = harness.crawl().await;
    assert_eq!(report.requests, harness.requests_so_far());
    assert_eq!(
        harness.requests_after(0),
        ["count", "Public 1", "Public 1", "Public 2", "Private 1", "count"]
    );
    let row =
        "SELECT app, trigger, due_at, started_at, finished_at, status, requests, groups_listed, withheld,
                      reason_code, error_code, reason, host FROM crawls";
    let (started, finished) = (format_time(report.started_at), format_time(report.finished_at));
    assert_eq!(
        harness.lines(row).await,
        [format!("prod command NULL {started} {finished} complete 6 4 0 NULL NULL NULL test")]
    );
}

async fn a_tick_is_crawled_once(harness: Harness) {
    let request = CrawlRequest { trigger: Trigger::Schedule, due_at: Some(harness.clock.now()) };
    let crawl = async || harness.crawler().crawl(request, WhenBusy::GiveUp, &CancellationToken::new()).await;
    crawl().await.unwrap();
    assert!(matches!(crawl().await, Err(CrawlError::TickAlreadyCrawled { .. })));
    assert_eq!(harness.lines("SELECT trigger, due_at FROM crawls").await, ["schedule 2026-03-01T08:00:00Z"]);
    harness.assert_invariants().await;
}

async fn app_status_has_the_last_crawl_and_the_last_complete_one(harness: Harness) {
    harness.create("Public", "a b");
    let complete = harness.crawl().await;
    harness.fault_from_request(2, Fault::ErrorCode(60021));
    let failed = harness.crawl().await;
    let status =
        "SELECT configured, live_count, last_complete_crawl_at, last_crawl_status, last_crawl_deletions,
                         last_crawl_reason FROM app_status";
    let expected = format!("1 2 {} failed NULL {}", format_time(complete.finished_at), reason_text(&failed));
    assert_eq!(harness.lines(status).await, [expected]);
    let as_of = "SELECT as_of FROM type_status WHERE group_type = 'Public'";
    assert_eq!(harness.value(as_of).await, format_time(complete.started_at));
}

async fn new_groups_are_visible_during_a_crawl_and_events_and_deletions_at_its_end(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("b");
    harness.create("Public", "c");
    harness.prepare_crawl();
    let closing_count = harness.api.hold(At::Request(harness.request(4)));
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let while_it_runs = async {
        closing_count.reached().await;
        assert_eq!(harness.table().await, ["a Public", "b Public", "c Public"]);
        assert_eq!(harness.events().await, [""; 0]);
        assert_eq!(
            harness.lines("SELECT status FROM crawls ORDER BY crawl_id").await,
            ["complete", "running"]
        );
        assert_eq!(harness.value("SELECT count(*) FROM app_counts").await, "1");
        assert_eq!(harness.value("SELECT count(*) FROM type_counts").await, "2");
        closing_count.release();
    };
    let (report, ()) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), while_it_runs);
    assert_eq!(outcome(&report.unwrap()), "complete");
    assert_eq!(harness.table().await, ["a Public", "b Public deleted", "c Public"]);
    assert_eq!(harness.events().await, ["2 b vanished Public>NULL", "2 c appeared NULL>Public"]);
    harness.assert_invariants().await;
}

async fn an_unchanged_crawl_writes_no_group_and_no_event_but_advances_last_seen_at(harness: Harness) {
    harness.api.create_many("Public", 50);
    harness.api.create_many("Private", 50);
    harness.crawl().await;
    let stored = harness.rows("SELECT * FROM group_row ORDER BY group_id").await;
    harness.forbid_changes_to_groups().await;
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(harness.rows("SELECT * FROM group_row ORDER BY group_id").await, stored);
    assert_eq!(
        harness.lines("SELECT DISTINCT last_seen_at FROM groups").await,
        [format_time(report.started_at)]
    );
}

async fn a_short_pass_that_lists_every_known_group_advances_last_seen_at(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.fault_from_request(1, Fault::TotalCount(100));
    harness.create("Public", "c");
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    let seen = "SELECT last_seen_at FROM groups WHERE group_id IN ('a', 'b')";
    assert_eq!(harness.lines(seen).await, vec![format_time(report.started_at); 2]);
    assert_eq!(harness.events().await, ["2 c appeared NULL>Public"]);
}

async fn a_short_pass_that_lacks_a_known_group_does_not_advance_last_seen_at(harness: Harness) {
    harness.create("Public", "a b");
    let first = harness.crawl().await;
    harness.dissolve("b");
    harness.fault_from_request(1, Fault::TotalCount(100));
    harness.crawl().await;
    let seen = harness.rows("SELECT last_seen_at FROM groups").await;
    assert!(seen.iter().all(|row| row[0] < format_time(first.finished_at)), "{seen:?}");
}
