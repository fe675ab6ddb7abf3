//! The removal of old rows after a crawl.

use chrono::NaiveDate;
use harness::crawl::{Harness, ON_COMMAND, outcome};
use harness::crawl_tests;
use tim_group_sync::crawl::{CrawlReport, Step, WhenBusy};
use tim_group_sync::policy::Retention;
use tim_group_sync::simulator::Fault;
use tokio_util::sync::CancellationToken;

crawl_tests! {
    old_rows_are_removed_after_the_first_crawl_of_a_day,
    a_group_that_returns_after_its_row_was_removed_is_new,
    a_crawl_that_does_not_reach_its_end_removes_nothing,
    a_cancelled_crawl_does_not_remove_old_rows,
}

/// Makes a complete crawl at 10:30 on every day after the last crawl and before `day`, because
/// retention counts only days with a crawl.
async fn crawl_daily_until(harness: &Harness, day: &str) {
    let day: NaiveDate = day.parse().unwrap();
    let mut next = harness.clock.now().date_naive().succ_opt().unwrap();
    while next < day {
        harness.clock.set(next.and_hms_opt(9, 30, 0).unwrap().and_utc());
        assert_eq!(outcome(&harness.crawl().await), "complete");
        next = next.succ_opt().unwrap();
    }
}

/// Makes a crawl that may remove events. Afterwards the events need not agree with the rows, so
/// only the consistency of the rows is asserted.
async fn crawl_and_purge(harness: &Harness) -> CrawlReport {
    harness.prepare_crawl();
    let report = harness.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await;
    harness.db.assert_consistent().await;
    report.unwrap()
}

async fn old_rows_are_removed_after_the_first_crawl_of_a_day(mut harness: Harness) {
    harness.create("Public", "a b c d");
    harness.crawl().await; // 9:00
    harness.dissolve("b");
    harness.crawl().await; // 10:00
    harness.dissolve("c");
    harness.crawl().await; // 11:00
    crawl_daily_until(&harness, "2026-03-11").await;
    harness.retention = Retention { deleted_groups: Some(10), events: Some(10), counts: Some(10) };
    let purged =
        "SELECT purged_groups, purged_events, purged_counts FROM crawls ORDER BY crawl_id DESC LIMIT 1";
    harness.clock.set("2026-03-11T09:30:00Z".parse().unwrap());
    assert_eq!(outcome(&crawl_and_purge(&harness).await), "complete");
    // Removed: the second crawl and its two passes. The first crawl is needed for the baseline, the
    // third for the event of c.
    assert_eq!(harness.lines(purged).await, ["1 1 3"]);
    assert_eq!(harness.table().await, ["a Public", "c Public deleted", "d Public"]);
    assert_eq!(harness.events().await, ["3 c vanished Public>NULL"]);
    crawl_and_purge(&harness).await; // 11:30
    assert_eq!(harness.lines(purged).await, ["0 0 0"]);
    harness.clock.set("2026-03-12T08:00:00Z".parse().unwrap());
    crawl_and_purge(&harness).await;
    // Removed: the third crawl, its two passes, and the daily counts of two types.
    assert_eq!(harness.lines(purged).await, ["1 1 5"]);
    assert_eq!(harness.table().await, ["a Public", "d Public"]);
    assert_eq!(
        harness.lines("SELECT crawl_id FROM crawls ORDER BY 1").await,
        ["1", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]
    );
    let days = "SELECT count(DISTINCT day), min(day), max(day) FROM daily_counts";
    assert_eq!(harness.lines(days).await, ["11 2026-03-02 2026-03-12"]);
    harness.assert_table_matches_api().await;
}

async fn a_group_that_returns_after_its_row_was_removed_is_new(mut harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("b");
    harness.crawl().await;
    crawl_daily_until(&harness, "2026-03-03").await;
    harness.retention = Retention { deleted_groups: Some(1), ..Retention::default() };
    harness.clock.set("2026-03-03T08:00:00Z".parse().unwrap());
    crawl_and_purge(&harness).await;
    harness.create("Public", "b");
    let report = crawl_and_purge(&harness).await;
    assert_eq!((report.events.appeared, report.events.reappeared, report.first_listed), (1, 0, 1));
    let seen =
        "SELECT in_baseline FROM groups WHERE group_id = 'b' AND first_seen_at > '2026-03-03T00:00:00Z'";
    assert_eq!(harness.lines(seen).await, ["0"]);
    assert_eq!(harness.events().await, ["2 b vanished Public>NULL", "5 b appeared NULL>Public"]);
}

async fn a_crawl_that_does_not_reach_its_end_removes_nothing(mut harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("b");
    harness.crawl().await;
    crawl_daily_until(&harness, "2026-03-09").await;
    harness.retention = Retention { deleted_groups: Some(1), events: Some(1), counts: Some(1) };
    harness.clock.set("2026-03-09T08:00:00Z".parse().unwrap());
    harness.fault_from_request(3, Fault::ErrorCode(10003));
    assert_eq!(outcome(&crawl_and_purge(&harness).await), "failed api_error 10003");
    assert_eq!(harness.table().await, ["a Public", "b Public deleted"]);
    harness.api.clear_faults();
    // A crawl with a short list reaches its end, and removes old rows.
    harness.fault_from_request(1, Fault::TotalCount(100));
    assert_eq!(outcome(&crawl_and_purge(&harness).await), "incomplete short_listing");
    assert_eq!(harness.table().await, ["a Public"]);
}

async fn a_cancelled_crawl_does_not_remove_old_rows(mut harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("b");
    harness.crawl().await;
    crawl_daily_until(&harness, "2026-03-09").await;
    harness.retention = Retention { deleted_groups: Some(1), events: Some(1), counts: Some(1) };
    harness.clock.set("2026-03-09T08:00:00Z".parse().unwrap());
    harness.prepare_crawl();
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let mut progress = crawler.progress();
    let stopping = async {
        // At this step the crawl can no longer be cancelled.
        progress.wait_for(|progress| matches!(progress.step, Step::Concluding { .. })).await.unwrap();
        stop.cancel();
    };
    let (report, ()) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), stopping);
    assert_eq!(outcome(&report.unwrap()), "complete");
    assert_eq!(harness.table().await, ["a Public", "b Public deleted"]);
}
