//! What a crawl concludes and records, and what it writes. Each rule has a test with an app whose
//! groups change between crawls.

use std::ops::Range;

use chrono::NaiveDate;
use chrono_tz::Tz;
use harness::crawl::{Harness, ON_COMMAND, format_time, group_types, outcome, reason_text};
use harness::crawl_tests;
use tim_group_sync::crawl::{CrawlError, CrawlReport, CrawlRequest, Step, WhenBusy};
use tim_group_sync::model::{CrawlStatus, Deletions, Trigger};
use tim_group_sync::policy::Retention;
use tim_group_sync::simulator::{At, Cursor, Fault, Listing, Order, Settings};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    // Changes of groups.
    the_first_list_is_a_baseline_without_events,
    a_type_that_is_configured_later_has_its_own_baseline,
    a_short_first_list_does_not_end_the_baseline,
    a_first_list_with_a_slightly_high_count_ends_the_baseline,
    a_first_list_with_the_total_count_of_the_app_ends_the_baseline,
    a_new_group_appears,
    a_dissolved_group_vanishes_at_once_after_exact_passes,
    a_group_that_returns_has_reappeared_and_keeps_its_first_seen_at,
    an_id_recreated_between_crawls_is_the_same_group,
    a_group_of_another_type_is_retyped_once_in_either_order_of_the_passes,
    a_return_with_another_type_is_one_reappeared_event,
    a_group_that_two_passes_list_keeps_the_type_of_the_first,
    newer_type_names_are_stored_as_the_names_of_the_rest_api,

    // Records of crawls.
    every_crawl_records_the_total_count_of_the_app_even_if_it_fails,
    every_pass_records_the_total_count_of_its_type_and_an_aborted_one_has_no_verdict,
    daily_counts_add_up_the_crawls_of_a_day_in_the_schedules_time_zone,
    a_crawl_is_recorded_with_its_trigger_and_its_requests,
    a_tick_is_crawled_once,
    app_status_has_the_last_crawl_and_the_last_complete_one,
    new_groups_are_visible_during_a_crawl_and_events_and_deletions_at_its_end,

    // Crawls that write nothing.
    an_unchanged_crawl_writes_no_group_and_no_event_but_advances_last_seen_at,
    a_short_pass_that_lists_every_known_group_advances_last_seen_at,
    a_short_pass_that_lacks_a_known_group_does_not_advance_last_seen_at,

    // Lists that change while they are read.
    a_group_that_a_growing_list_lacks_is_missing_first_and_vanishes_when_lacking_again,
    a_group_that_two_moving_lists_lack_has_vanished,
    an_existing_group_skipped_by_a_shifting_list_is_missing_until_it_is_listed_again,
    a_group_that_a_shifting_list_repeats_makes_the_pass_moving,
    new_groups_account_for_a_total_count_above_the_listed_groups,
    a_pass_is_exact_when_all_passes_reach_both_totals_of_the_app,

    // Lists that are too short.
    a_short_pass_marks_nothing_and_reports_the_difference,
    a_short_pass_with_a_small_difference_names_the_setting_that_accepts_it,
    a_missing_group_does_not_vanish_after_a_short_pass,
    after_a_short_pass_the_exact_passes_of_the_crawl_prove_no_more_than_moving_ones,
    max_shortfall_accepts_a_total_that_is_always_too_high,
    a_list_without_a_total_count_proves_nothing,

    // Types that became empty.
    an_emptied_type_is_listed_once_more_and_settled_by_one_crawl,
    a_type_listed_as_empty_only_once_keeps_its_groups,
    a_type_listed_as_empty_twice_with_a_total_count_keeps_its_groups,
    an_emptied_app_with_several_types_is_settled_by_one_crawl,
    an_unfiltered_list_that_is_empty_only_once_deletes_nothing,

    // Groups of types that are not configured.
    the_first_crawl_lists_groups_of_other_types_without_a_type,
    the_first_crawl_learns_the_types_of_groups_listed_only_by_the_unfiltered_pass,
    an_excess_of_the_total_leads_to_an_unfiltered_pass_only_in_two_consecutive_crawls,
    a_type_that_is_learned_later_is_stored_without_an_event,
    an_unfiltered_pass_decides_about_types_that_are_no_longer_configured,
    an_unfiltered_pass_decides_about_rejected_types,
    totals_that_count_fewer_groups_nominate_those_of_types_without_a_pass,
    without_group_types_one_unfiltered_pass_decides_everything,
    stored_types_are_kept_when_no_types_are_configured_any_more,
    exact_typed_passes_that_account_for_an_unchanged_app_decide_about_groups_without_a_type,
    the_apps_total_count_in_every_typed_list_deletes_no_group_without_a_type,

    // Types that the API rejects.
    a_rejected_type_is_skipped_and_its_groups_are_kept,
    a_type_that_is_unknown_to_the_api_is_skipped,
    a_type_that_is_rejected_in_the_middle_fails_the_crawl,
    a_crawl_whose_types_are_all_rejected_fails,

    // Retention.
    old_rows_are_removed_after_the_first_crawl_of_a_day,
    a_group_that_returns_after_its_row_was_removed_is_new,
    a_crawl_that_does_not_reach_its_end_removes_nothing,
    a_cancelled_crawl_does_not_remove_old_rows,

    // Dry runs.
    a_dry_run_before_the_first_crawl_reports_a_baseline,
    a_dry_run_predicts_every_change_and_writes_nothing,
    without_confirmation_a_dry_run_predicts_the_deletions_of_the_lists,
    a_dry_run_predicts_what_the_guard_withholds_and_why,
    a_dry_run_of_a_short_list_predicts_an_incomplete_crawl,
    a_dry_run_holds_the_lease_and_records_the_request_interval,
    a_dry_run_that_fails_reports_the_changes_found_so_far,

    // Confirmation by `get_group_info`.
    candidates_are_asked_about_in_requests_of_fifty_ids_two_of_which_are_controls,
    an_unlisted_group_that_exists_is_kept_as_if_listed,
    a_missing_group_that_a_later_crawl_finds_existing_is_no_longer_missing,
    the_type_of_an_existing_group_is_learned_from_the_answer,
    without_group_types_the_types_in_answers_are_not_stored,
    a_group_without_a_usable_answer_is_missing,
    if_get_group_info_keeps_failing_nothing_is_deleted_and_the_crawl_is_complete,
    if_get_group_info_is_refused_the_deletions_of_the_lists_are_withheld_and_asked_about_later,
    groups_that_the_guard_withholds_are_asked_about_and_marked_confirmed,
    the_code_of_an_answer_is_ignored_if_it_has_entries_for_its_groups,
    a_dry_run_asks_about_candidates_too,
    a_crawl_can_be_cancelled_while_it_asks_about_groups,
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
        harness.crawl().await; // … 24:00
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

async fn a_group_that_a_growing_list_lacks_is_missing_first_and_vanishes_when_lacking_again(
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
fn position_cursor(order: Order) -> Settings {
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

async fn the_first_crawl_lists_groups_of_other_types_without_a_type(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a");
    harness.create("ChatRoom", "x y");
    let report = harness.crawl().await;
    assert_eq!(harness.requests_after(0), ["count", "Public 1", "Private 1", "count", "all 1", "count"]);
    assert_eq!((report.listed, report.total), (3, Some(3)));
    assert_eq!(harness.table().await, ["a Public", "x NULL", "y NULL"]);
    assert_eq!(harness.lines("SELECT DISTINCT in_baseline FROM groups").await, ["1"]);
    assert_eq!(harness.events().await, [""; 0]);
    let unknown = "SELECT live_count, configured FROM type_status WHERE group_type IS NULL";
    assert_eq!(harness.lines(unknown).await, ["2 0"]);
}

async fn the_first_crawl_learns_the_types_of_groups_listed_only_by_the_unfiltered_pass(harness: Harness) {
    harness.create("Public", "a");
    harness.create("ChatRoom", "x y");
    let report = harness.crawl().await;
    let requests = ["count", "Public 1", "Private 1", "count", "all 1", "count", "about 4"];
    assert_eq!(harness.requests_after(0), requests);
    assert_eq!((report.listed, report.first_listed, report.total), (3, 3, Some(3)));
    assert_eq!(harness.table().await, ["a Public", "x ChatRoom", "y ChatRoom"]);
    assert_eq!(harness.lines("SELECT DISTINCT in_baseline FROM groups").await, ["1"]);
    assert_eq!(harness.events().await, [""; 0]);
    let learned = "SELECT live_count, configured FROM type_status WHERE group_type = 'ChatRoom'";
    assert_eq!(harness.lines(learned).await, ["2 0"]);
}

async fn an_excess_of_the_total_leads_to_an_unfiltered_pass_only_in_two_consecutive_crawls(harness: Harness) {
    const TYPED: [&str; 4] = ["count", "Public 1", "Private 1", "count"];
    harness.create("Public", "a");
    harness.crawl().await;
    let crawl = async || {
        let before = harness.requests_so_far();
        harness.crawl().await;
        harness.requests_after(before)
    };
    harness.create("ChatRoom", "x");
    assert_eq!(crawl().await, TYPED);
    harness.dissolve("x");
    assert_eq!(crawl().await, TYPED);
    harness.create("ChatRoom", "y");
    assert_eq!(crawl().await, TYPED);
    assert_eq!(harness.table().await, ["a Public"]);
    let with_unfiltered_pass = [&TYPED[..], &["all 1", "count", "about 3"]].concat();
    assert_eq!(crawl().await, with_unfiltered_pass);
    assert_eq!(harness.table().await, ["a Public", "y ChatRoom"]);
    // A crawl that fails before it compares the totals does not change the result of the
    // comparison.
    harness.fault_from_request(1, Fault::ErrorCode(10003));
    crawl().await;
    harness.api.clear_faults();
    harness.create("ChatRoom", "z");
    assert_eq!(crawl().await, with_unfiltered_pass);
    // The baseline of types without a pass ended with the first unfiltered pass, so z has an event.
    assert_eq!(harness.events().await, ["7 z appeared NULL>ChatRoom"]);
}

async fn a_type_that_is_learned_later_is_stored_without_an_event(mut harness: Harness) {
    harness.create("Public", "a");
    harness.create("ChatRoom", "x");
    harness.crawl().await;
    let first_seen = harness.value("SELECT first_seen_at FROM groups WHERE group_id = 'x'").await;
    harness.group_types = group_types(&["Public", "Private", "ChatRoom"]);
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "x ChatRoom"]);
    assert_eq!(harness.events().await, [""; 0]);
    let x = "SELECT first_seen_at, in_baseline FROM groups WHERE group_id = 'x'";
    assert_eq!(harness.lines(x).await, [format!("{first_seen} 1")]);
}

async fn an_unfiltered_pass_decides_about_types_that_are_no_longer_configured(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.group_types = group_types(&["Public", "ChatRoom"]);
    harness.create("Public", "a");
    harness.create("ChatRoom", "x y");
    harness.crawl().await;
    harness.group_types = group_types(&["Public"]);
    harness.dissolve("x");
    // A crawl without an unfiltered pass concludes nothing about groups of that type.
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "x ChatRoom", "y ChatRoom"]);
    let last_seen = "SELECT last_seen_at FROM groups WHERE group_id = 'y'";
    let before = harness.value(last_seen).await;
    let report = harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "x ChatRoom deleted", "y ChatRoom"]);
    assert!(before < format_time(report.started_at));
    assert_eq!(harness.value(last_seen).await, format_time(report.started_at));
}

async fn an_unfiltered_pass_decides_about_rejected_types(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a");
    harness.create("Private", "b c");
    harness.crawl().await;
    harness.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    harness.dissolve("b");
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "b Private", "c Private"]);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(harness.table().await, ["a Public", "b Private deleted", "c Private"]);
}

async fn totals_that_count_fewer_groups_nominate_those_of_types_without_a_pass(mut harness: Harness) {
    // The API has five groups, and five would be live. So the totals nominate no group of a type
    // without a pass.
    let steady = crawled_without_two_types(&mut harness, |harness| {
        harness.dissolve("a");
        harness.create("Public", "d");
    });
    let asked = steady.await.asked;
    assert_eq!((asked.asked, asked.confirmed), (1, 1));
    let mut harness = harness.fresh().await;
    let shrunk = crawled_without_two_types(&mut harness, |harness| harness.dissolve("b x")).await;
    assert_eq!((outcome(&shrunk).as_str(), shrunk.events.vanished, shrunk.asked.spared), ("complete", 2, 2));
    let expected = ["a Public", "b Private deleted", "c Private", "x ChatRoom deleted", "y ChatRoom"];
    assert_eq!(harness.table().await, expected);
}

/// Makes a second crawl, in which the API rejects one type and another one is no longer configured.
async fn crawled_without_two_types(harness: &mut Harness, before: impl FnOnce(&Harness)) -> CrawlReport {
    harness.group_types = group_types(&["Public", "Private", "ChatRoom"]);
    harness.create("Public", "a");
    harness.create("Private", "b c");
    harness.create("ChatRoom", "x y");
    harness.crawl().await;
    harness.group_types = group_types(&["Public", "Private"]);
    harness.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    before(harness);
    harness.crawl().await
}

async fn without_group_types_one_unfiltered_pass_decides_everything(mut harness: Harness) {
    harness.group_types = Vec::new();
    harness.create("Public", "a b");
    harness.create("ChatRoom", "c d");
    harness.crawl().await;
    assert_eq!(harness.requests_after(0), ["count", "all 1", "all 2", "count"]);
    harness.dissolve("a d");
    harness.create("Community", "e");
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(harness.table().await, ["a NULL deleted", "b NULL", "c NULL", "d NULL deleted", "e NULL"]);
    let expected = ["2 a vanished NULL>NULL", "2 d vanished NULL>NULL", "2 e appeared NULL>NULL"];
    assert_eq!(harness.events().await, expected);
    assert_eq!(harness.value("SELECT count(*) FROM type_counts").await, "0");
}

async fn stored_types_are_kept_when_no_types_are_configured_any_more(mut harness: Harness) {
    harness.create("Public", "a b");
    harness.create("Private", "c");
    harness.crawl().await;
    harness.group_types = Vec::new();
    harness.dissolve("a");
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public deleted", "b Public", "c Private"]);
    harness.create("Private", "a");
    harness.crawl().await;
    // The unfiltered pass shows that the group exists again, but not its type. The old type is
    // kept.
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Private"]);
    assert_eq!(harness.events().await, ["2 a vanished Public>NULL", "3 a reappeared Public>Public"]);
}

async fn exact_typed_passes_that_account_for_an_unchanged_app_decide_about_groups_without_a_type(
    mut harness: Harness,
) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b");
    harness.create("ChatRoom", "x");
    harness.crawl().await;
    harness.dissolve("x");
    harness.create("Public", "c");
    // The list has a new group, which the totals may count instead of x. So the lists do not
    // account for x.
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public", "x NULL"]);
    let report = harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public", "x NULL deleted"]);
    assert_eq!(report.events.vanished, 1);
}

async fn the_apps_total_count_in_every_typed_list_deletes_no_group_without_a_type(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b");
    harness.create("Private", "c");
    harness.create("ChatRoom", "x");
    harness.crawl().await;
    // If these TotalCounts were right, the typed passes would list all groups of the app, so x
    // could not exist.
    harness.max_shortfall = 1.0;
    harness.api.script(At::Type("Public".to_owned()), Fault::AppTotalCount);
    harness.api.script(At::Type("Private".to_owned()), Fault::AppTotalCount);
    for _ in 0..3 {
        assert_eq!(outcome(&harness.crawl().await), "complete");
        assert_eq!(harness.table().await, ["a Public", "b Public", "c Private", "x NULL"]);
    }
}

async fn a_rejected_type_is_skipped_and_its_groups_are_kept(harness: Harness) {
    harness.create("Public", "a b");
    harness.create("Private", "c");
    harness.crawl().await;
    harness.dissolve("b");
    harness.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(harness.table().await, ["a Public", "b Public deleted", "c Private"]);
    let pass = "SELECT verdict FROM type_counts WHERE crawl_id = 2 AND group_type = 'Private'";
    assert_eq!(harness.value(pass).await, "rejected");
    harness.api.clear_faults();
    harness.crawl().await;
    harness.assert_table_matches_api().await;
}

async fn a_type_that_is_unknown_to_the_api_is_skipped(mut harness: Harness) {
    harness.group_types = group_types(&["Live", "Public"]);
    harness.create("Public", "a");
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.create("Live", "x");
    harness.crawl().await;
    assert_eq!(harness.table().await, ["a Public", "x Live"]);
    // The baseline of the type begins with the first list that the API accepts.
    assert_eq!(harness.events().await, [""; 0]);
}

async fn a_type_that_is_rejected_in_the_middle_fails_the_crawl(harness: Harness) {
    harness.create("Public", "a b c d f");
    harness.create("Private", "e");
    harness.crawl().await;
    harness.dissolve("a e");
    // The opening count, a second page, and the first page that is requested again.
    for (request, requests) in [(1, 1), (3, 3), (5, 5)] {
        harness.fault_at_request(request, Fault::ErrorCode(10004));
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), "failed api_error 10004");
        assert_eq!(report.requests, requests);
        assert_eq!(harness.events().await, [""; 0]);
    }
    harness.crawl().await;
    harness.assert_table_matches_api().await;
}

async fn a_crawl_whose_types_are_all_rejected_fails(harness: Harness) {
    harness.create("Public", "a");
    harness.create("Private", "b");
    harness.crawl().await;
    harness.dissolve("a");
    harness.api.script(At::Type("Public".to_owned()), Fault::ErrorCode(10004));
    harness.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "failed rejected_types 10004");
    assert_eq!(
        reason_text(&report),
        "the API rejects every configured group type (Private, Public): the API answered error 10004 \
         (a parameter is not accepted), ErrorInfo \"scripted\": if a group type is rejected, remove it from `group_types` \
         or correct its name; `group_types = []` lists all groups, without \
         their types"
    );
    assert_eq!(harness.table().await, ["a Public", "b Private"]);
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

/// Makes a crawl that may remove events, so that events and rows need not agree afterwards.
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

async fn a_dry_run_before_the_first_crawl_reports_a_baseline(mut harness: Harness) {
    harness.group_types = group_types(&["Public", "Own"]);
    harness.create("Public", "a b");
    harness.create("Own", "c");
    harness.create("ChatRoom", "d");
    let (dry_run, changes) = harness.dry_run().await;
    let expected = [
        "a baseline NULL>Public",
        "b baseline NULL>Public",
        "c baseline NULL>Own",
        "d baseline NULL>ChatRoom",
    ];
    assert_eq!(changes, expected);
    assert_eq!((dry_run.listed, dry_run.total), (4, Some(4)));
    assert_eq!(harness.value("SELECT count(*) FROM app_status").await, "0");
    let report = harness.crawl_after_dry_run().await;
    assert_eq!((report.first_listed, report.crawl.0), (4, 1));
}

async fn a_dry_run_predicts_every_change_and_writes_nothing(harness: Harness) {
    harness.create("Public", "a b c d e f i j k");
    harness.create("Private", "p q");
    harness.crawl().await;
    harness.dissolve("a b");
    harness.crawl().await;
    harness.create("Public", "a new");
    harness.create("Private", "b");
    harness.api.retype("c", "Private");
    harness.dissolve("d p");
    let (_, changes) = harness.dry_run().await;
    let expected = [
        "a reappeared Public>Public",
        "b reappeared Public>Private",
        "c retyped Public>Private",
        "d vanished Public>NULL",
        "new appeared NULL>Public",
        "p vanished Private>NULL",
    ];
    assert_eq!(changes, expected);
    harness.crawl_after_dry_run().await;
    // The list changes while it is read, and the API has no usable answer about one group.
    harness.dissolve("e f");
    harness.api.script(At::Info, Fault::GroupCode("f".to_owned(), 10002));
    harness.during_request(3, |api| api.create("Public", "g"));
    assert_eq!(
        harness.dry_run().await.1,
        ["e vanished Public>NULL", "f missing Public>NULL", "g appeared NULL>Public"]
    );
    harness.during_request(3, |api| api.create("Public", "h"));
    harness.crawl().await;
    harness.create("Public", "f");
    let quiet = harness.dry_run().await;
    assert!(quiet.1.is_empty(), "{quiet:?}");
    harness.crawl_after_dry_run().await;
    harness.assert_table_matches_api().await;
}

async fn without_confirmation_a_dry_run_predicts_the_deletions_of_the_lists(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a b c d e f");
    harness.crawl().await;
    // The list changes while it is read: a group is missing first, and then vanished, or listed
    // again.
    harness.dissolve("e f");
    harness.during_request(3, |api| api.create("Public", "g"));
    assert_eq!(
        harness.dry_run().await.1,
        ["e missing Public>NULL", "f missing Public>NULL", "g appeared NULL>Public"]
    );
    harness.during_request(3, |api| api.create("Public", "h"));
    harness.crawl().await;
    harness.create("Public", "f");
    assert_eq!(harness.dry_run().await.1, ["e vanished Public>NULL"]);
    harness.crawl_after_dry_run().await;
    let quiet = harness.dry_run().await;
    assert!(quiet.1.is_empty(), "{quiet:?}");
    harness.crawl_after_dry_run().await;
    harness.assert_table_matches_api().await;
}

async fn a_dry_run_predicts_what_the_guard_withholds_and_why(mut harness: Harness) {
    harness.deletion.max_fraction = 0.4;
    harness.create("Public", "a b c d");
    harness.create("Private", "p q r");
    harness.crawl().await;
    harness.dissolve("a b c p");
    harness.create("Public", "new");
    let (dry_run, changes) = harness.dry_run().await;
    let withheld = ["a withheld Public>NULL", "b withheld Public>NULL", "c withheld Public>NULL"];
    assert_eq!(changes, [&withheld[..], &["new appeared NULL>Public", "p withheld Private>NULL"]].concat());
    let reason = dry_run.reason.unwrap().text;
    assert!(
        reason.contains("Public would shrink from 4 to 2 live groups")
            // Not "the app": the sum lacks the types that have limits of their own.
            && reason.contains(
                "all types without a max_fraction_by_type together would shrink from 7 to 4 live groups"
            )
            && reason.ends_with("4 deletions would be withheld (4 confirmed by get_group_info)"),
        "{reason}"
    );
    let report = harness.crawl_after_dry_run().await;
    assert_eq!(outcome(&report), "complete guard");
}

async fn a_dry_run_of_a_short_list_predicts_an_incomplete_crawl(harness: Harness) {
    harness.create("Public", "a b c d e");
    harness.crawl().await;
    harness.api.script(At::Page("Public".to_owned(), 1), Fault::EarlyEnd);
    let (dry_run, changes) = harness.dry_run().await;
    assert_eq!((dry_run.status, dry_run.deletions, changes.len()), (CrawlStatus::Incomplete, None, 0));
    assert_eq!(outcome(&harness.crawl_after_dry_run().await), "incomplete short_listing");
}

async fn a_dry_run_holds_the_lease_and_records_the_request_interval(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    let held = harness.api.hold(At::Request(harness.request(2)));
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let meanwhile = async {
        held.reached().await;
        let other = harness.new_crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await;
        assert!(matches!(other, Err(CrawlError::Busy { .. })), "{other:?}");
        held.release();
    };
    let (dry_run, ()) = tokio::join!(crawler.dry_run(WhenBusy::GiveUp, &stop), meanwhile);
    assert_eq!(dry_run.unwrap().status, CrawlStatus::Complete);
    harness.crawl().await;
}

async fn a_dry_run_that_fails_reports_the_changes_found_so_far(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    harness.create("Public", "b");
    harness.dissolve("a");
    harness.fault_from_request(3, Fault::ErrorCode(10003));
    let (dry_run, changes) = harness.dry_run().await;
    assert_eq!((dry_run.status, dry_run.deletions), (CrawlStatus::Failed, None));
    assert_eq!(changes, ["b appeared NULL>Public"]);
    assert_eq!(dry_run.reason.unwrap().error_code, Some(10003));
}

fn create_numbered(harness: &Harness, numbers: Range<u32>) {
    numbers.for_each(|n| harness.api.create("Public", &format!("g{n}")));
}

fn dissolve_numbered(harness: &Harness, numbers: Range<u32>) {
    numbers.for_each(|n| harness.dissolve(&format!("g{n}")));
}

async fn candidates_are_asked_about_in_requests_of_fifty_ids_two_of_which_are_controls(mut harness: Harness) {
    harness.page_limit = 1000;
    create_numbered(&harness, 0..70);
    harness.create("Private", "p q");
    harness.crawl().await;
    dissolve_numbered(&harness, 0..60);
    harness.create("Private", "r");
    let before = harness.requests_so_far();
    let report = harness.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.events.vanished, report.asked.spared), ("complete", 60, 0));
    assert_eq!((report.asked.asked, report.asked.confirmed), (60, 60));
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
        (outcome(&report).as_str(), report.events.vanished, report.asked.spared, report.missing),
        ("complete", 1, 1, 0)
    );
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public deleted"]);
    assert_eq!(harness.events().await, ["2 c vanished Public>NULL"]);
    let seen = "SELECT last_seen_at FROM groups WHERE group_id = 'b'";
    assert_eq!(harness.value(seen).await, format_time(report.started_at));
    assert_eq!(harness.value("SELECT spared FROM crawls WHERE crawl_id = 2").await, "1");
    harness.assert_table_matches_api().await;
    // As long as no list has the group, it is asked about again, after 1, 2, 4 … crawls.
    assert_eq!(harness.crawl().await.asked.spared, 1);
    harness.dissolve("b");
    assert_eq!(harness.crawl().await.asked.asked, 0);
    assert_eq!(harness.table().await[1], "b Public");
    assert_eq!(harness.crawl().await.asked.confirmed, 1);
    assert_eq!(harness.table().await[1], "b Public deleted");
}

async fn a_missing_group_that_a_later_crawl_finds_existing_is_no_longer_missing(harness: Harness) {
    let harness = harness.with_api(position_cursor(Order::OldestFirst)).await;
    harness.create("Public", "a b c d e f g h i");
    harness.crawl().await;
    // Page 1 was a b c. Page 2 begins with the fourth of b c d e f g, and skips d.
    harness.during_request(3, |api| assert!(api.dissolve("a")));
    harness.api.script(At::Info, Fault::GroupCode("d".to_owned(), 10002));
    assert_eq!(harness.crawl().await.asked.unlearned, 1);
    assert_eq!(harness.table().await[3], "d Public missing");
    harness.api.clear_faults();
    // The next list is shifted too and skips f. It also lacks d again.
    harness.api.hide(&["d"]);
    harness.during_request(3, |api| assert!(api.dissolve("b")));
    assert_eq!(harness.crawl().await.asked.spared, 2);
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
    assert_eq!((report.asked.spared, report.events.retyped), (2, 2));
    assert_eq!(harness.table().await, ["a Public", "b Own", "c Private"]);
    assert_eq!(harness.events().await, ["2 a retyped Private>Public", "2 b retyped Private>Own"]);
    // If the answer has no types, the stored types are kept.
    harness.api.script(At::Info, Fault::NoGroupTypes);
    assert_eq!(harness.crawl().await.asked.spared, 2);
    assert_eq!(harness.table().await, ["a Public", "b Own", "c Private"]);
}

async fn without_group_types_the_types_in_answers_are_not_stored(mut harness: Harness) {
    harness.group_types = Vec::new();
    harness.create("Private", "a b c");
    harness.crawl().await;
    harness.api.hide(&["a", "b"]);
    assert_eq!(harness.crawl_after_dry_run().await.asked.spared, 2);
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

async fn if_get_group_info_is_refused_the_deletions_of_the_lists_are_withheld_and_asked_about_later(
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
        // Once the API answers, the held groups are asked about. They may be marked confirmed or
        // released, but not deleted.
        harness.api.clear_faults();
        let before = harness.requests_so_far();
        let report = harness.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.events.vanished), ("complete", 0));
        let mut asking = info_requests(&harness.requests_after(before));
        asking.sort();
        assert_eq!(asking, ["about 3", "about 4"]);
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

async fn groups_that_the_guard_withholds_are_asked_about_and_marked_confirmed(mut harness: Harness) {
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
    assert_eq!((report.asked.confirmed, report.withheld_confirmed), (4, 3));
    let mut asking = info_requests(&harness.requests_after(before));
    asking.sort();
    assert_eq!(asking, ["about 3", "about 5"]);
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
    assert_eq!((outcome(&report).as_str(), report.events.vanished, report.asked.spared), ("complete", 1, 1));
    harness.assert_table_matches_api().await;
}

async fn a_dry_run_asks_about_candidates_too(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.api.retype("b", "Own");
    harness.api.hide(&["b"]);
    harness.dissolve("c");
    let (dry_run, changes) = harness.dry_run().await;
    assert_eq!(
        (dry_run.asked.spared, changes),
        (1, vec!["b retyped Public>Own".to_owned(), "c vanished Public>NULL".to_owned()])
    );
    assert_eq!(harness.crawl_after_dry_run().await.asked.spared, 1);
}

async fn a_crawl_can_be_cancelled_while_it_asks_about_groups(harness: Harness) {
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
