//! Types and apps that are listed as empty.

use harness::crawl::{Harness, outcome, reason_text};
use harness::crawl_tests;
use tim_group_sync::simulator::{At, Fault};

crawl_tests! {
    an_emptied_type_is_listed_once_more_and_settled_by_one_crawl,
    a_type_listed_as_empty_only_once_keeps_its_groups,
    a_type_listed_as_empty_twice_with_a_total_count_keeps_its_groups,
    an_emptied_app_with_several_types_is_settled_by_one_crawl,
    an_unfiltered_list_that_is_empty_only_once_deletes_nothing,
}

async fn an_emptied_type_is_listed_once_more_and_settled_by_one_crawl(harness: Harness) {
    harness.create("Public", "a b");
    harness.create("Private", "c d");
    harness.crawl().await;
    harness.dissolve("c d");
    let before = harness.requests_so_far();
    let report = harness.crawl().await;
    assert_eq!(
        harness.requests_after(before),
        ["count", "Public 1", "Private 1", "Private 1", "count", "about 4"]
    );
    assert_eq!(outcome(&report), "complete");
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Private deleted", "d Private deleted"]);
    let before = harness.requests_so_far();
    harness.crawl().await;
    assert_eq!(harness.requests_after(before), ["count", "Public 1", "Private 1", "count"]);
}

async fn a_type_listed_as_empty_only_once_keeps_its_groups(harness: Harness) {
    harness.create("Public", "a b");
    harness.create("Private", "c d");
    harness.crawl().await;
    harness.fault_at_request(3, Fault::EmptyList);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert!(
        reason_text(&report).contains("Private listed no ids, which a second request"),
        "{}",
        reason_text(&report)
    );
    harness.assert_table_matches_api().await;
}

async fn a_type_listed_as_empty_twice_with_a_total_count_keeps_its_groups(harness: Harness) {
    harness.create("Public", "a b");
    harness.create("Private", "c d");
    harness.crawl().await;
    harness.api.script(At::Type("Private".to_owned()), Fault::EmptyList);
    // The second answer has a TotalCount above 0.
    harness.fault_at_request(4, Fault::TotalCount(2));
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    harness.assert_table_matches_api().await;
}

async fn an_emptied_app_with_several_types_is_settled_by_one_crawl(harness: Harness) {
    harness.create("Public", "a b");
    harness.create("Private", "c");
    harness.crawl().await;
    harness.dissolve("a b c");
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(report.events.vanished, 3);
    harness.assert_table_matches_api().await;
}

async fn an_unfiltered_list_that_is_empty_only_once_deletes_nothing(mut harness: Harness) {
    harness.group_types = Vec::new();
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.fault_at_request(2, Fault::EmptyList);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert!(
        reason_text(&report).starts_with("the unfiltered list listed no ids"),
        "{}",
        reason_text(&report)
    );
    assert_eq!(harness.table().await, ["a NULL", "b NULL"]);
}
