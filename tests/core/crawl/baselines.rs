//! The first list of a type, which is a baseline without events.

use harness::crawl::{Harness, group_types, outcome};
use harness::crawl_tests;
use tim_group_sync::simulator::{At, Fault};

crawl_tests! {
    the_first_list_is_a_baseline_without_events,
    a_type_that_is_configured_later_has_its_own_baseline,
    a_short_first_list_does_not_end_the_baseline,
    a_first_list_with_a_slightly_high_count_ends_the_baseline,
    a_first_list_with_the_total_count_of_the_app_ends_the_baseline,
}

async fn the_first_list_is_a_baseline_without_events(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.create("Private", "e");
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!((report.listed, report.first_listed, report.total), (5, 5, Some(5)));
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public", "d Public", "e Private"]);
    assert_eq!(harness.events().await, [""; 0]);
    assert_eq!(harness.lines("SELECT DISTINCT in_baseline FROM groups").await, ["1"]);
    assert_eq!(harness.lines("SELECT status, deletions, appeared FROM crawls").await, ["complete none 0"]);
}

async fn a_type_that_is_configured_later_has_its_own_baseline(mut harness: Harness) {
    harness.group_types = group_types(&["Public"]);
    harness.create("Public", "a");
    harness.crawl().await;
    harness.group_types = group_types(&["Public", "Private"]);
    harness.create("Private", "b");
    harness.create("Public", "c");
    harness.crawl().await;
    assert_eq!(harness.events().await, ["2 c appeared NULL>Public"]);
    let baseline = "SELECT group_id, in_baseline FROM groups ORDER BY group_id";
    assert_eq!(harness.lines(baseline).await, ["a 1", "b 1", "c 0"]);
}

async fn a_short_first_list_does_not_end_the_baseline(harness: Harness) {
    harness.create("Public", "a b c d e f");
    harness.create("Private", "p");
    harness.fault_at_request(2, Fault::EarlyEnd);
    // All listed groups are new, and they are half of the TotalCount.
    assert_eq!(outcome(&harness.crawl().await), "incomplete short_listing");
    harness.create("Private", "q");
    assert_eq!(outcome(&harness.crawl().await), "complete");
    assert_eq!(harness.events().await, ["2 q appeared NULL>Private"]);
    let baseline = "SELECT count(*) FROM groups WHERE in_baseline AND group_type = 'Public'";
    assert_eq!(harness.value(baseline).await, "6");
    harness.create("Public", "g");
    harness.crawl().await;
    assert_eq!(harness.events().await[1..], ["3 g appeared NULL>Public"]);
}

async fn a_first_list_with_a_slightly_high_count_ends_the_baseline(mut harness: Harness) {
    harness.page_limit = 50;
    harness.api.create_many("Public", 98);
    harness.api.script(At::Type("Public".to_owned()), Fault::TotalCount(100));
    harness.api.script(At::Type("Private".to_owned()), Fault::TotalCount(0));
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.create("Public", "new");
    assert_eq!(outcome(&harness.crawl().await), "complete");
    assert_eq!(harness.events().await, ["2 new appeared NULL>Public"]);
}

async fn a_first_list_with_the_total_count_of_the_app_ends_the_baseline(harness: Harness) {
    harness.create("Public", "a b c");
    harness.create("Private", "p q");
    harness.api.script(At::Type("Public".to_owned()), Fault::AppTotalCount);
    harness.api.script(At::Type("Private".to_owned()), Fault::AppTotalCount);
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.create("Public", "d");
    harness.crawl().await;
    assert_eq!(harness.events().await, ["2 d appeared NULL>Public"]);
}
