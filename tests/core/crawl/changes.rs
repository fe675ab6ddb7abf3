//! Groups that appear, vanish, return, or change their type.

use harness::crawl::{Harness, format_time, group_types, outcome};
use harness::crawl_tests;
use tim_group_sync::simulator::{At, Fault};

crawl_tests! {
    a_new_group_appears,
    a_dissolved_group_vanishes_at_once_after_exact_passes,
    a_group_that_returns_has_reappeared_and_keeps_its_first_seen_at,
    an_id_recreated_between_crawls_is_the_same_group,
    a_group_of_another_type_is_retyped_once_in_either_order_of_the_passes,
    a_return_with_another_type_is_one_reappeared_event,
    a_group_that_two_passes_list_keeps_the_type_of_the_first,
    newer_type_names_are_stored_as_the_names_of_the_rest_api,
}

async fn a_new_group_appears(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    harness.create("Private", "b");
    let second = harness.crawl().await;
    assert_eq!(harness.events().await, ["2 b appeared NULL>Private"]);
    assert_eq!(second.events.appeared, 1);
    let b = harness.rows("SELECT first_seen_at, in_baseline FROM groups WHERE group_id = 'b'").await;
    assert!(format_time(second.started_at) < b[0][0] && b[0][0] < format_time(second.finished_at), "{b:?}");
    assert_eq!(b[0][1], "0");
    assert_eq!(harness.value("SELECT occurred_at FROM group_events").await, b[0][0]);
}

async fn a_dissolved_group_vanishes_at_once_after_exact_passes(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    let last_listed = harness.crawl().await;
    harness.dissolve("b");
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(harness.table().await, ["a Public", "b Public deleted"]);
    assert_eq!(harness.events().await, ["3 b vanished Public>NULL"]);
    assert_eq!(harness.lines("SELECT group_id FROM live_groups").await, ["a"]);
    let gone = harness.rows("SELECT last_seen_at, deleted_at FROM groups WHERE group_id = 'b'").await;
    assert_eq!(gone[0], [format_time(last_listed.started_at), format_time(report.finished_at)]);
    assert_eq!(harness.value("SELECT deletions FROM crawls WHERE crawl_id = 3").await, "applied");
}

async fn a_group_that_returns_has_reappeared_and_keeps_its_first_seen_at(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    let first_seen = harness.value("SELECT first_seen_at FROM groups WHERE group_id = 'b'").await;
    harness.dissolve("b");
    harness.crawl().await;
    harness.create("Public", "b");
    let report = harness.crawl().await;
    assert_eq!((report.events.appeared, report.events.reappeared, report.first_listed), (0, 1, 0));
    assert_eq!(harness.table().await, ["a Public", "b Public"]);
    assert_eq!(harness.events().await, ["2 b vanished Public>NULL", "3 b reappeared Public>Public"]);
    assert_eq!(harness.value("SELECT first_seen_at FROM groups WHERE group_id = 'b'").await, first_seen);
}

async fn an_id_recreated_between_crawls_is_the_same_group(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    let before = harness.rows("SELECT group_id, first_seen_at, in_baseline FROM groups ORDER BY 1").await;
    harness.dissolve("a");
    harness.create("Public", "a");
    harness.crawl().await;
    assert_eq!(harness.events().await, [""; 0]);
    assert_eq!(
        harness.rows("SELECT group_id, first_seen_at, in_baseline FROM groups ORDER BY 1").await,
        before
    );
}

async fn a_group_of_another_type_is_retyped_once_in_either_order_of_the_passes(harness: Harness) {
    for order in [["Public", "Private"], ["Private", "Public"]] {
        let mut harness = harness.fresh().await;
        harness.group_types = group_types(&order);
        harness.create("Public", "a b");
        harness.create("Private", "c");
        harness.crawl().await;
        harness.api.retype("a", "Private");
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), "complete");
        assert_eq!(harness.table().await, ["a Private", "b Public", "c Private"]);
        assert_eq!(harness.events().await, ["2 a retyped Public>Private"]);
    }
}

async fn a_return_with_another_type_is_one_reappeared_event(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("a");
    harness.crawl().await;
    harness.create("Private", "a");
    let report = harness.crawl().await;
    assert_eq!((report.events.reappeared, report.events.retyped), (1, 0));
    assert_eq!(harness.events().await, ["2 a vanished Public>NULL", "3 a reappeared Public>Private"]);
    assert_eq!(harness.table().await, ["a Private", "b Public"]);
}

async fn a_group_that_two_passes_list_keeps_the_type_of_the_first(harness: Harness) {
    harness.create("Public", "a b");
    harness.create("Private", "c");
    harness.crawl().await;
    harness
        .api
        .script(At::Type("Private".to_owned()), Fault::ExtraIds(vec!["a".to_owned(), "new".to_owned()]));
    harness.api.script(At::Type("Public".to_owned()), Fault::ExtraIds(vec!["new".to_owned()]));
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Private", "new Public"]);
    assert_eq!(harness.events().await, ["2 new appeared NULL>Public"]);
}

async fn newer_type_names_are_stored_as_the_names_of_the_rest_api(mut harness: Harness) {
    harness.group_types = group_types(&["Work", "Meeting"]);
    harness.create("Work", "a");
    harness.create("Meeting", "b");
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Private", "b ChatRoom"]);
    let names =
        "SELECT group_type, sdk_name, live_count FROM type_status WHERE live_count > 0 ORDER BY group_type";
    assert_eq!(harness.lines(names).await, ["ChatRoom Meeting 1", "Private Work 1"]);
}
