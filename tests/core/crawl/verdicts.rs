//! What exact, moving and short passes prove about unlisted groups.

use harness::crawl::{Harness, format_time, outcome, reason_text};
use harness::crawl_tests;
use tim_group_sync::simulator::{At, Cursor, Fault, Listing, Order, Settings};

crawl_tests! {
    a_group_that_a_growing_list_lacks_is_missing_and_vanishes_when_the_next_list_lacks_it,
    a_group_that_two_moving_lists_lack_has_vanished,
    an_existing_group_skipped_by_a_shifting_list_is_missing_until_it_is_listed_again,
    a_group_that_a_shifting_list_repeats_makes_the_pass_moving,
    new_groups_account_for_a_total_count_above_the_listed_groups,
    a_pass_is_exact_when_all_passes_reach_both_totals_of_the_app,
    a_short_pass_marks_nothing_and_reports_the_difference,
    a_short_pass_with_a_small_difference_names_the_setting_that_accepts_it,
    a_missing_group_does_not_vanish_after_a_short_pass,
    after_a_short_pass_the_exact_passes_of_the_crawl_prove_no_more_than_moving_ones,
    max_shortfall_accepts_a_total_that_is_always_too_high,
    a_list_without_a_total_count_proves_nothing,
}

async fn a_group_that_a_growing_list_lacks_is_missing_and_vanishes_when_the_next_list_lacks_it(
    mut harness: Harness,
) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d e f");
    harness.crawl().await;
    harness.dissolve("a");
    harness.during_request(3, |api| api.create("Public", "g"));
    let moving = harness.crawl().await;
    assert_eq!(outcome(&moving), "complete");
    assert_eq!((moving.missing, moving.events.vanished), (1, 0));
    assert_eq!(harness.table().await[0], "a Public missing");
    let a = harness
        .rows("SELECT first_seen_at, last_seen_at, missing_since, held FROM groups WHERE group_id = 'a'")
        .await;
    assert_eq!(a[0][1..], [a[0][0].clone(), format_time(moving.started_at), "0".to_owned()]);
    assert_eq!(harness.value("SELECT missing_count FROM app_status").await, "1");
    assert_eq!(harness.value("SELECT deletions FROM crawls WHERE crawl_id = 2").await, "none");
    let quiet = harness.crawl().await;
    assert_eq!(quiet.events.vanished, 1);
    assert_eq!(harness.events().await, ["2 g appeared NULL>Public", "3 a vanished Public>NULL"]);
    harness.assert_table_matches_api().await;
}

async fn a_group_that_two_moving_lists_lack_has_vanished(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d e");
    harness.crawl().await;
    harness.dissolve("a");
    for (id, left) in [("f", "a Public missing"), ("g", "a Public deleted")] {
        harness.during_request(3, |api| api.create("Public", id));
        harness.crawl().await;
        assert_eq!(harness.table().await[0], left);
    }
    let verdicts = "SELECT verdict FROM type_counts WHERE group_type = 'Public' ORDER BY crawl_id";
    assert_eq!(harness.lines(verdicts).await, ["exact", "moving", "moving"]);
}

/// Settings of a list in order of age with position cursors. Dissolving a group that was already
/// listed shifts the list, so that the next page skips a group.
pub(crate) fn position_cursor(order: Order) -> Settings {
    Settings { listing: Listing { order, cursor: Cursor::Position }, ..Settings::default() }
}

async fn an_existing_group_skipped_by_a_shifting_list_is_missing_until_it_is_listed_again(harness: Harness) {
    let mut harness = harness.with_api(position_cursor(Order::OldestFirst)).await;
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d e f g");
    harness.crawl().await;
    harness.during_request(3, |api| assert!(api.dissolve("a")));
    let report = harness.crawl().await;
    // Page 1 was a b c. Page 2 begins with the fourth of b c d e f g, and skips d.
    assert_eq!((report.missing, report.events.vanished), (1, 0));
    assert_eq!(harness.table().await[3], "d Public missing");
    let report = harness.crawl().await;
    assert_eq!(report.events.vanished, 1);
    assert_eq!(harness.events().await, ["3 a vanished Public>NULL"]);
    harness.assert_table_matches_api().await;
}

async fn a_group_that_a_shifting_list_repeats_makes_the_pass_moving(harness: Harness) {
    let mut harness = harness.with_api(position_cursor(Order::NewestFirst)).await;
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d e");
    harness.crawl().await;
    harness.dissolve("c");
    // Page 1 is e d b. Page 2 begins with the fourth of f e d b a, and repeats b.
    harness.during_request(3, |api| api.create("Public", "f"));
    let report = harness.crawl().await;
    assert_eq!((report.listed, report.missing, report.events.vanished), (4, 1, 0));
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public missing", "d Public", "e Public"]);
    harness.crawl().await;
    harness.dissolve("a");
    // A repeated id shows that the list changed, even if its TotalCount is absent.
    harness.fault_at_request(1, Fault::NoTotalCount);
    harness.fault_at_request(2, Fault::DuplicateIds);
    assert_eq!(harness.crawl().await.missing, 1);
    let pass = "SELECT total_count_min, total_count_max, verdict FROM type_counts WHERE crawl_id = 4 AND group_type = 'Public'";
    assert_eq!(harness.lines(pass).await, ["4 4 moving"]);
    harness.crawl().await;
    harness.assert_table_matches_api().await;
}

async fn new_groups_account_for_a_total_count_above_the_listed_groups(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.create("Public", "c d");
    // TotalCount exceeds the listed groups by two, and two listed groups are new.
    harness.fault_from_request(1, Fault::TotalCount(6));
    harness.api.script(At::Type("Private".to_owned()), Fault::TotalCount(0));
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    let verdicts = "SELECT group_type, verdict FROM type_counts WHERE crawl_id = 2 ORDER BY 1";
    assert_eq!(harness.lines(verdicts).await, ["Private exact", "Public moving"]);
}

async fn a_pass_is_exact_when_all_passes_reach_both_totals_of_the_app(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.create("Private", "e f");
    harness.crawl().await;
    harness.dissolve("d e");
    for fault in [Fault::NoTotalCount, Fault::AppTotalCount] {
        harness.api.script(At::Type("Public".to_owned()), fault.clone());
        harness.api.script(At::Type("Private".to_owned()), fault);
    }
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(report.events.vanished, 2);
    harness.assert_table_matches_api().await;
}

async fn a_short_pass_marks_nothing_and_reports_the_difference(harness: Harness) {
    harness.create("Public", "a b c d e f g h");
    harness.crawl().await;
    harness.dissolve("a");
    harness.fault_at_request(2, Fault::EarlyEnd);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert_eq!(
        reason_text(&report),
        "Public listed 3 distinct ids, which is 4 below its TotalCount of 7; allowed: 0 (changes during the crawl and \
         deletion.max_shortfall); no group was marked deleted for its absence from this list"
    );
    assert_eq!((report.missing, report.events.vanished), (0, 0));
    let row = "SELECT status, deletions, reason_code, error_code FROM crawls WHERE crawl_id = 2";
    assert_eq!(harness.lines(row).await, ["incomplete NULL short_listing NULL"]);
    assert_eq!(harness.value("SELECT reason FROM crawls WHERE crawl_id = 2").await, reason_text(&report));
    let verdict = "SELECT verdict FROM type_counts WHERE crawl_id = 2 AND group_type = 'Public'";
    assert_eq!(harness.value(verdict).await, "short");
    harness.crawl().await;
    assert_eq!(harness.events().await, ["3 a vanished Public>NULL"]);
}

async fn a_short_pass_with_a_small_difference_names_the_setting_that_accepts_it(mut harness: Harness) {
    harness.page_limit = 38;
    (0..40).for_each(|n| harness.api.create("Public", &format!("g{n}")));
    harness.crawl().await;
    harness.dissolve("g0");
    harness.fault_at_request(2, Fault::EarlyEnd);
    assert_eq!(
        reason_text(&harness.crawl().await),
        "Public listed 38 distinct ids, which is 1 below its TotalCount of 39; allowed: 0 (changes during the crawl and \
         deletion.max_shortfall); deletion.max_shortfall = 0.0257 would accept the list: set it only if every crawl is \
         short by this much; no group was marked deleted for its absence from this list"
    );
}

async fn a_missing_group_does_not_vanish_after_a_short_pass(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d e f g");
    harness.crawl().await;
    harness.dissolve("g");
    harness.during_request(3, |api| api.create("Public", "h"));
    harness.crawl().await;
    harness.fault_at_request(2, Fault::EarlyEnd);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert_eq!(harness.table().await[6], "g Public missing");
    harness.crawl().await;
    assert_eq!(harness.table().await[6], "g Public deleted");
}

async fn after_a_short_pass_the_exact_passes_of_the_crawl_prove_no_more_than_moving_ones(
    mut harness: Harness,
) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d");
    harness.create("Private", "e f");
    harness.crawl().await;
    harness.dissolve("e");
    harness.fault_at_request(2, Fault::EarlyEnd);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    let verdicts = "SELECT group_type, verdict FROM type_counts WHERE crawl_id = 2 ORDER BY 1";
    assert_eq!(harness.lines(verdicts).await, ["Private exact", "Public short"]);
    assert_eq!(harness.table().await[4], "e Private missing");
    harness.fault_at_request(2, Fault::EarlyEnd);
    harness.crawl().await;
    assert_eq!(harness.table().await[4], "e Private deleted");
}

async fn max_shortfall_accepts_a_total_that_is_always_too_high(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d e f g h");
    harness.crawl().await;
    harness.dissolve("h");
    harness.fault_from_request(1, Fault::TotalCount(8));
    let refused = harness.crawl().await;
    assert!(
        reason_text(&refused).contains("Public listed 7 distinct ids, which is 1 below its TotalCount of 8"),
        "{}",
        reason_text(&refused)
    );
    assert!(
        reason_text(&refused).contains("Private listed 0 distinct ids, which is 8 below its TotalCount of 8")
    );
    harness.api.script(At::Type("Private".to_owned()), Fault::TotalCount(0));
    harness.max_shortfall = 0.124;
    assert_eq!(outcome(&harness.crawl().await), "incomplete short_listing");
    harness.max_shortfall = 0.125;
    assert_eq!(outcome(&harness.crawl().await), "complete");
    assert_eq!(harness.table().await[7], "h Public missing");
    assert_eq!(outcome(&harness.crawl().await), "complete");
    assert_eq!(harness.table().await[7], "h Public deleted");
}

async fn a_list_without_a_total_count_proves_nothing(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("b");
    harness.create("Public", "c");
    harness.fault_from_request(1, Fault::NoTotalCount);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert!(
        reason_text(&report).contains("Public listed 2 distinct ids, but no TotalCount"),
        "{}",
        reason_text(&report)
    );
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public"]);
    let counts = "SELECT total_count_at_start, total_count FROM app_counts WHERE crawl_id = 2";
    assert_eq!(harness.lines(counts).await, ["NULL NULL"]);
}
