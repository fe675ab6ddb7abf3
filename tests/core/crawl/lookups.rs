//! Requests about candidates and groups of uncertain type, and what follows from their answers.

use harness::crawl::{Harness, format_time, outcome, reason_text};
use harness::crawl_tests;
use std::ops::Range;
use tim_group_sync::model::Deletions;
use tim_group_sync::simulator::{At, Fault, Order};
use tokio_util::sync::CancellationToken;

use crate::verdicts::position_cursor;

crawl_tests! {
    candidates_are_looked_up_in_requests_of_fifty_ids_two_of_which_are_controls,
    an_unlisted_group_that_exists_is_kept_as_if_listed,
    a_missing_group_that_a_later_crawl_finds_existing_is_no_longer_missing,
    the_type_of_an_existing_group_is_learned_from_the_answer,
    without_group_types_the_types_in_answers_are_not_stored,
    a_group_without_a_usable_answer_is_missing,
    if_get_group_info_keeps_failing_nothing_is_deleted_and_the_crawl_is_complete,
    if_get_group_info_is_refused_the_deletions_of_the_lists_are_withheld_and_looked_up_later,
    groups_that_the_guard_withholds_are_looked_up_and_marked_confirmed,
    the_code_of_an_answer_is_ignored_if_it_has_entries_for_its_groups,
    a_crawl_can_be_cancelled_while_it_looks_up_groups,
}

fn create_numbered(harness: &Harness, numbers: Range<u32>) {
    numbers.for_each(|n| harness.api.create("Public", &format!("g{n}")));
}

fn dissolve_numbered(harness: &Harness, numbers: Range<u32>) {
    numbers.for_each(|n| harness.dissolve(&format!("g{n}")));
}

async fn candidates_are_looked_up_in_requests_of_fifty_ids_two_of_which_are_controls(mut harness: Harness) {
    harness.page_limit = 1000;
    create_numbered(&harness, 0..70);
    harness.create("Private", "p q");
    harness.crawl().await;
    dissolve_numbered(&harness, 0..60);
    harness.create("Private", "r");
    let before = harness.requests_so_far();
    let report = harness.crawl().await;
    assert_eq!(
        (outcome(&report).as_str(), report.events.vanished, report.lookups.spared),
        ("complete", 60, 0)
    );
    assert_eq!((report.lookups.asked, report.lookups.confirmed), (60, 60));
    let mut requests = harness.requests_after(before);
    // Both `get_group_info` requests are in flight at the same time, so their order is arbitrary.
    requests[4..].sort();
    assert_eq!(requests, ["count", "Public 1", "Private 1", "count", "about 14", "about 50"]);
    assert_eq!(report.requests, 6);
    harness.assert_table_matches_api().await;
    let before = harness.requests_so_far();
    harness.crawl().await;
    assert_eq!(harness.requests_after(before).len(), 4);
}

async fn an_unlisted_group_that_exists_is_kept_as_if_listed(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.api.hide(&["b"]);
    harness.dissolve("c");
    let report = harness.crawl().await;
    assert_eq!(
        (outcome(&report).as_str(), report.events.vanished, report.lookups.spared, report.missing),
        ("complete", 1, 1, 0)
    );
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public deleted"]);
    assert_eq!(harness.events().await, ["2 c vanished Public>NULL"]);
    let seen = "SELECT last_seen_at FROM groups WHERE group_id = 'b'";
    assert_eq!(harness.value(seen).await, format_time(report.started_at));
    assert_eq!(harness.value("SELECT spared FROM crawls WHERE crawl_id = 2").await, "1");
    harness.assert_table_matches_api().await;
    // As long as no list has the group, it is looked up again, after 1, 2, 4 … crawls.
    assert_eq!(harness.crawl().await.lookups.spared, 1);
    harness.dissolve("b");
    assert_eq!(harness.crawl().await.lookups.asked, 0);
    assert_eq!(harness.table().await[1], "b Public");
    assert_eq!(harness.crawl().await.lookups.confirmed, 1);
    assert_eq!(harness.table().await[1], "b Public deleted");
}

async fn a_missing_group_that_a_later_crawl_finds_existing_is_no_longer_missing(harness: Harness) {
    let harness = harness.with_api(position_cursor(Order::OldestFirst)).await;
    harness.create("Public", "a b c d e f g h i");
    harness.crawl().await;
    // Page 1 was a b c. Page 2 begins with the fourth of b c d e f g, and skips d.
    harness.during_request(3, |api| assert!(api.dissolve("a")));
    harness.api.script(At::Info, Fault::GroupCode("d".to_owned(), 10002));
    assert_eq!(harness.crawl().await.lookups.unlearned, 1);
    assert_eq!(harness.table().await[3], "d Public missing");
    harness.api.clear_faults();
    // The next list is shifted too and skips f. It also lacks d again.
    harness.api.hide(&["d"]);
    harness.during_request(3, |api| assert!(api.dissolve("b")));
    assert_eq!(harness.crawl().await.lookups.spared, 2);
    assert_eq!(harness.table().await[3], "d Public");
    assert_eq!(harness.lines("SELECT event FROM group_events WHERE group_id = 'd'").await, [""; 0]);
}

async fn the_type_of_an_existing_group_is_learned_from_the_answer(harness: Harness) {
    harness.create("Private", "a b c");
    harness.crawl().await;
    // One type that is not the stored one, and one that is neither configured nor known.
    harness.api.retype("a", "Public");
    harness.api.retype("b", "Own");
    harness.api.hide(&["a", "b"]);
    let report = harness.crawl_after_dry_run().await;
    assert_eq!((report.lookups.spared, report.events.retyped), (2, 2));
    assert_eq!(harness.table().await, ["a Public", "b Own", "c Private"]);
    assert_eq!(harness.events().await, ["2 a retyped Private>Public", "2 b retyped Private>Own"]);
    // If the answer has no types, the stored types are kept.
    harness.api.script(At::Info, Fault::NoGroupTypes);
    assert_eq!(harness.crawl().await.lookups.spared, 2);
    assert_eq!(harness.table().await, ["a Public", "b Own", "c Private"]);
}

async fn without_group_types_the_types_in_answers_are_not_stored(mut harness: Harness) {
    harness.group_types = Vec::new();
    harness.create("Private", "a b c");
    harness.crawl().await;
    harness.api.hide(&["a", "b"]);
    assert_eq!(harness.crawl_after_dry_run().await.lookups.spared, 2);
    assert_eq!(harness.table().await, ["a NULL", "b NULL", "c NULL"]);
    assert_eq!(harness.events().await, [""; 0]);
}

async fn a_group_without_a_usable_answer_is_missing(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.dissolve("b c d");
    // The codes of an internal error and of an illegal id do not prove that a group is gone.
    harness.api.script(At::Info, Fault::GroupCode("b".to_owned(), 10002));
    harness.api.script(At::Info, Fault::GroupCode("c".to_owned(), 10015));
    let report = harness.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.events.vanished, report.missing), ("complete", 1, 2));
    assert_eq!(
        harness.table().await,
        ["a Public", "b Public missing", "c Public missing", "d Public deleted"]
    );
    let since = harness.lines("SELECT missing_since FROM live_groups WHERE group_id <> 'a'").await;
    let report = harness.crawl().await;
    assert_eq!((report.events.vanished, report.missing), (0, 0));
    assert_eq!(harness.lines("SELECT missing_since FROM live_groups WHERE group_id <> 'a'").await, since);
    harness.api.clear_faults();
    assert_eq!(harness.crawl().await.events.vanished, 2);
    harness.assert_table_matches_api().await;
}

async fn if_get_group_info_keeps_failing_nothing_is_deleted_and_the_crawl_is_complete(mut harness: Harness) {
    harness.page_limit = 1000;
    create_numbered(&harness, 0..70);
    harness.crawl().await;
    dissolve_numbered(&harness, 0..60);
    for fault in [Fault::Status(500), Fault::NotJson, Fault::ErrorCode(10004)] {
        harness.api.script(At::Info, fault);
        let report = harness.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.events.vanished), ("complete", 0));
        assert_eq!(harness.value("SELECT missing_count FROM app_status").await, "60");
        harness.api.clear_faults();
    }
    // Answers that arrived before the failure are used.
    harness.fault_from_request(6, Fault::Reset);
    let answered = harness.crawl().await.events.vanished;
    assert!([12, 48].contains(&answered), "{answered}");
    harness.api.clear_faults();
    assert_eq!(harness.crawl().await.events.vanished, 60 - answered);
    harness.assert_table_matches_api().await;
}

async fn if_get_group_info_is_refused_the_deletions_of_the_lists_are_withheld_and_looked_up_later(
    harness: Harness,
) {
    for code in [10007, 60010, 10026] {
        let harness = harness.fresh().await;
        harness.create("Public", "a b c d");
        harness.create("Private", "p");
        harness.crawl().await;
        harness.dissolve("b p");
        harness.api.hide(&["c"]);
        harness.api.script(At::Info, Fault::ErrorCode(code));
        let report = harness.crawl_after_dry_run().await;
        assert_eq!(outcome(&report), format!("complete confirm_refused {code}"));
        assert!(
            reason_text(&report).contains("the API refuses get_group_info")
                && reason_text(&report).contains("approve --crawl 2")
        );
        assert_eq!((report.withheld, report.withheld_confirmed), (3, 0));
        assert_eq!(report.deletions, Some(Deletions::Withheld));
        let expected = ["a Public", "b Public missing", "c Public missing", "d Public", "p Private missing"];
        assert_eq!(harness.table().await, expected);
        // Once the API answers, the held groups are looked up. They may be marked confirmed or
        // released, but not deleted.
        harness.api.clear_faults();
        let before = harness.requests_so_far();
        let report = harness.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.events.vanished), ("complete", 0));
        let mut requests = info_requests(&harness.requests_after(before));
        requests.sort();
        assert_eq!(requests, ["about 3", "about 4"]);
        let held =
            "SELECT group_id, confirmed, missing_since IS NULL FROM live_groups WHERE held ORDER BY group_id";
        assert_eq!(harness.lines(held).await, ["b 1 0", "p 1 0"]);
        // The existing group was released.
        assert_eq!(harness.table().await[2], "c Public");
        assert_eq!(harness.value("SELECT withheld_confirmed FROM crawls WHERE crawl_id = 2").await, "2");
        harness.api.show_all();
        let before = harness.requests_so_far();
        harness.crawl().await;
        assert_eq!(info_requests(&harness.requests_after(before)), [""; 0]);
    }
}

/// Returns the `get_group_info` requests.
fn info_requests(requests: &[String]) -> Vec<String> {
    requests.iter().filter(|request| request.starts_with("about")).cloned().collect()
}

async fn groups_that_the_guard_withholds_are_looked_up_and_marked_confirmed(mut harness: Harness) {
    harness.deletion.max_fraction = 0.5;
    harness.create("Public", "a b c d");
    harness.create("Private", "p q r s t u v");
    harness.crawl().await;
    harness.dissolve("a b c p");
    let before = harness.requests_so_far();
    let report = harness.crawl().await;
    assert_eq!(
        (outcome(&report).as_str(), report.withheld, report.events.vanished),
        ("complete guard", 3, 1)
    );
    assert_eq!((report.lookups.confirmed, report.withheld_confirmed), (4, 3));
    let mut requests = info_requests(&harness.requests_after(before));
    requests.sort();
    assert_eq!(requests, ["about 3", "about 5"]);
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(harness.lines(held).await, ["a 1", "b 1", "c 1"]);
}

async fn the_code_of_an_answer_is_ignored_if_it_has_entries_for_its_groups(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.dissolve("b");
    harness.api.hide(&["c"]);
    harness.api.script(At::Info, Fault::CodeBesideGroups(10007));
    let report = harness.crawl().await;
    assert_eq!(
        (outcome(&report).as_str(), report.events.vanished, report.lookups.spared),
        ("complete", 1, 1)
    );
    harness.assert_table_matches_api().await;
}

async fn a_crawl_can_be_cancelled_while_it_looks_up_groups(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("b");
    let held = harness.api.hold(At::Info);
    let stop = CancellationToken::new();
    let stopping = async {
        held.reached().await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(harness.crawl_until_cancelled(&stop), stopping);
    assert_eq!(outcome(&report), "cancelled cancelled");
    assert_eq!(harness.table().await, ["a Public", "b Public"]);
}
