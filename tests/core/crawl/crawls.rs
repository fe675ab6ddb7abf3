//! What a crawl concludes: the rules of 'A crawl', each as a story of an app whose groups come and go.

use std::ops::Range;

use chrono::NaiveDate;
use chrono_tz::Tz;
use harness::crawl::{ON_COMMAND, World, group_types, outcome, stamp, why};
use harness::on_every_engine;
use tim_group_sync::crawl::{CrawlError, CrawlReport, CrawlRequest, Step, WhenBusy};
use tim_group_sync::model::{CrawlStatus, Deletions, Trigger};
use tim_group_sync::policy::Retention;
use tim_group_sync::simulator::{At, Cursor, Fault, Listing, Order, Settings};
use tokio_util::sync::CancellationToken;

on_every_engine! {
    // What happens to a group.
    the_first_list_is_a_baseline_of_groups_without_events,
    a_type_that_is_configured_later_has_its_own_baseline,
    a_first_list_that_breaks_off_is_no_baseline,
    a_first_list_whose_count_is_a_little_too_high_is_one,
    a_first_list_that_counts_the_whole_app_is_one,
    a_new_group_appears,
    a_group_that_is_gone_vanishes_at_once_from_an_app_that_stands_still,
    a_group_that_returns_has_reappeared_and_is_as_old_as_before,
    an_id_that_is_recreated_between_crawls_is_the_same_group,
    a_group_of_another_type_is_retyped_once_in_either_order_of_the_passes,
    a_return_under_another_type_is_one_reappearance,
    a_group_that_two_passes_list_keeps_the_type_of_the_first,
    the_newer_names_of_types_are_those_of_the_rest_api,

    // What is recorded.
    every_crawl_counts_the_app_a_failed_one_too,
    every_pass_counts_its_type_and_one_that_broke_off_has_no_verdict,
    a_day_adds_its_crawls_up_and_ends_at_midnight_of_the_schedules_zone,
    a_crawl_is_recorded_with_what_it_was_for_and_what_it_took,
    a_tick_of_the_schedule_is_served_once,
    status_tells_the_last_crawl_and_the_last_complete_one,
    events_and_deletions_show_when_the_crawl_has_ended_and_new_groups_before,

    // What is not written.
    an_unchanged_crawl_writes_no_group_and_no_event_and_yet_sees_every_group,
    a_short_pass_that_leaves_no_known_group_unlisted_has_seen_them_too,
    a_short_pass_that_leaves_a_known_group_unlisted_has_seen_none,

    // Lists that move.
    a_group_that_a_growing_list_misses_is_missing_first_and_vanishes_when_missed_again,
    a_group_that_two_moving_lists_miss_has_vanished,
    a_standing_group_skipped_by_a_shifting_list_is_missing_until_it_is_listed_again,
    a_group_that_a_shifting_list_repeats_makes_the_pass_moving,
    groups_listed_for_the_first_time_explain_a_count_they_do_not_reach,
    a_pass_is_exact_when_all_passes_reach_both_totals_of_the_app,

    // Lists that are too short.
    a_short_pass_marks_nothing_and_says_by_how_much_it_falls_short,
    a_short_pass_names_the_setting_that_would_accept_a_small_gap,
    a_missing_group_does_not_vanish_by_a_short_pass,
    one_short_pass_weakens_the_exact_ones_beside_it,
    max_shortfall_accepts_a_total_that_is_always_too_high,
    a_list_without_any_total_count_proves_nothing,

    // Types that were emptied.
    a_type_that_was_emptied_is_asked_once_more_and_settled_by_one_crawl,
    a_type_that_is_empty_only_once_keeps_its_groups,
    a_type_that_is_empty_twice_but_counts_groups_keeps_them,
    an_app_that_was_emptied_is_settled_by_one_crawl,
    an_unfiltered_list_that_is_empty_only_once_keeps_its_groups,

    // Groups of other types.
    the_first_crawl_lists_groups_of_other_types_without_a_type,
    the_first_crawl_learns_the_types_of_groups_that_only_the_unfiltered_pass_lists,
    a_passing_difference_does_not_call_for_an_unfiltered_pass_and_two_running_do,
    a_type_that_is_learned_later_is_no_event,
    an_unfiltered_pass_speaks_for_types_that_are_no_longer_configured,
    an_unfiltered_pass_speaks_for_rejected_types,
    totals_that_count_fewer_groups_nominate_those_of_types_without_a_pass,
    without_group_types_one_unfiltered_pass_decides_everything,
    types_that_are_known_stay_when_no_types_are_configured_any_more,
    exact_typed_passes_that_account_for_a_quiet_app_settle_groups_without_a_type,
    a_server_that_states_the_apps_total_for_every_type_deletes_no_group_without_a_type,

    // Types that the API rejects.
    a_rejected_type_is_skipped_and_its_groups_stay,
    a_type_the_api_has_never_heard_of_is_skipped,
    a_type_that_is_rejected_in_the_middle_fails_the_crawl,
    a_crawl_whose_types_are_all_rejected_fails,

    // What is removed for its age.
    old_rows_are_removed_after_the_first_crawl_of_a_day,
    a_group_that_returns_after_it_was_removed_is_a_new_one,
    a_crawl_that_does_not_reach_its_end_removes_nothing,
    whoever_stops_the_program_does_not_wait_for_old_rows,

    // What is only foretold.
    a_dry_run_of_an_app_that_was_never_crawled_makes_everything_a_baseline,
    a_dry_run_foretells_every_change_and_writes_nothing,
    a_dry_run_foretells_what_lists_alone_conclude,
    a_dry_run_foretells_what_the_guard_withholds_and_why,
    a_dry_run_of_a_short_list_foretells_an_incomplete_crawl,
    a_dry_run_holds_the_lease_and_leaves_word_of_the_pace,
    a_dry_run_that_fails_says_what_it_saw_until_then,

    // What is asked about before it is deleted.
    candidates_are_asked_about_in_requests_of_fifty_ids_two_of_which_are_controls,
    a_group_that_no_list_has_and_that_stands_is_kept_as_if_listed,
    a_missing_group_that_a_later_crawl_finds_standing_is_missing_no_more,
    the_true_type_of_a_standing_group_is_learned_from_the_answer,
    without_group_types_the_types_told_are_not_kept,
    a_group_about_which_nothing_is_learned_is_missing,
    when_asking_fails_for_good_nothing_is_deleted_and_the_crawl_is_complete,
    without_permission_to_ask_what_lists_alone_would_delete_is_withheld_and_asked_about_later,
    what_the_guard_withholds_is_asked_about_and_marked_confirmed,
    the_code_of_a_whole_answer_means_nothing_beside_its_groups,
    a_dry_run_asks_too,
    a_crawl_is_stopped_while_it_asks,
}

async fn the_first_list_is_a_baseline_of_groups_without_events(world: World) {
    world.create("Public", "a b c d");
    world.create("Private", "e");
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!((report.listed, report.first_listed, report.total), (5, 5, Some(5)));
    assert_eq!(world.table().await, ["a Public", "b Public", "c Public", "d Public", "e Private"]);
    assert_eq!(world.events().await, [""; 0]);
    assert_eq!(world.lines("SELECT DISTINCT in_baseline FROM groups").await, ["1"]);
    assert_eq!(world.lines("SELECT status, deletions, appeared FROM crawls").await, ["complete none 0"]);
}

async fn a_type_that_is_configured_later_has_its_own_baseline(mut world: World) {
    world.group_types = group_types(&["Public"]);
    world.create("Public", "a");
    world.crawl().await;
    world.group_types = group_types(&["Public", "Private"]);
    world.create("Private", "b");
    world.create("Public", "c");
    world.crawl().await;
    assert_eq!(world.events().await, ["2 c appeared NULL>Public"]);
    let baseline = "SELECT group_id, in_baseline FROM groups ORDER BY group_id";
    assert_eq!(world.lines(baseline).await, ["a 1", "b 1", "c 0"]);
}

async fn a_first_list_that_breaks_off_is_no_baseline(world: World) {
    world.create("Public", "a b c d e f");
    world.create("Private", "p");
    world.fault_at_request(2, Fault::EarlyEnd);
    // All that it has is new, and is half of what it counts.
    assert_eq!(outcome(&world.crawl().await), "incomplete short_listing");
    world.create("Private", "q");
    assert_eq!(outcome(&world.crawl().await), "complete");
    assert_eq!(world.events().await, ["2 q appeared NULL>Private"]);
    let baseline = "SELECT count(*) FROM groups WHERE in_baseline AND group_type = 'Public'";
    assert_eq!(world.value(baseline).await, "6");
    world.create("Public", "g");
    world.crawl().await;
    assert_eq!(world.events().await[1..], ["3 g appeared NULL>Public"]);
}

async fn a_first_list_whose_count_is_a_little_too_high_is_one(mut world: World) {
    world.page_limit = 50;
    world.api.create_many("Public", 98);
    world.api.script(At::Type("Public".to_owned()), Fault::TotalCount(100));
    world.api.script(At::Type("Private".to_owned()), Fault::TotalCount(0));
    assert_eq!(outcome(&world.crawl().await), "complete");
    world.create("Public", "new");
    assert_eq!(outcome(&world.crawl().await), "complete");
    assert_eq!(world.events().await, ["2 new appeared NULL>Public"]);
}

async fn a_first_list_that_counts_the_whole_app_is_one(world: World) {
    world.create("Public", "a b c");
    world.create("Private", "p q");
    world.api.script(At::Type("Public".to_owned()), Fault::AppTotalCount);
    world.api.script(At::Type("Private".to_owned()), Fault::AppTotalCount);
    assert_eq!(outcome(&world.crawl().await), "complete");
    world.create("Public", "d");
    world.crawl().await;
    assert_eq!(world.events().await, ["2 d appeared NULL>Public"]);
}

async fn a_new_group_appears(world: World) {
    world.create("Public", "a");
    world.crawl().await;
    world.create("Private", "b");
    let second = world.crawl().await;
    assert_eq!(world.events().await, ["2 b appeared NULL>Private"]);
    assert_eq!(second.events.appeared, 1);
    let b = world.rows("SELECT first_seen_at, in_baseline FROM groups WHERE group_id = 'b'").await;
    assert!(stamp(second.started_at) < b[0][0] && b[0][0] < stamp(second.finished_at), "{b:?}");
    assert_eq!(b[0][1], "0");
    assert_eq!(world.value("SELECT occurred_at FROM group_events").await, b[0][0]);
}

async fn a_group_that_is_gone_vanishes_at_once_from_an_app_that_stands_still(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    let last_listed = world.crawl().await;
    world.dissolve("b");
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(world.table().await, ["a Public", "b Public deleted"]);
    assert_eq!(world.events().await, ["3 b vanished Public>NULL"]);
    assert_eq!(world.lines("SELECT group_id FROM live_groups").await, ["a"]);
    let gone = world.rows("SELECT last_seen_at, deleted_at FROM groups WHERE group_id = 'b'").await;
    assert_eq!(gone[0], [stamp(last_listed.started_at), stamp(report.finished_at)]);
    assert_eq!(world.value("SELECT deletions FROM crawls WHERE crawl_id = 3").await, "applied");
}

async fn a_group_that_returns_has_reappeared_and_is_as_old_as_before(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    let first_seen = world.value("SELECT first_seen_at FROM groups WHERE group_id = 'b'").await;
    world.dissolve("b");
    world.crawl().await;
    world.create("Public", "b");
    let report = world.crawl().await;
    assert_eq!((report.events.appeared, report.events.reappeared, report.first_listed), (0, 1, 0));
    assert_eq!(world.table().await, ["a Public", "b Public"]);
    assert_eq!(world.events().await, ["2 b vanished Public>NULL", "3 b reappeared Public>Public"]);
    assert_eq!(world.value("SELECT first_seen_at FROM groups WHERE group_id = 'b'").await, first_seen);
}

async fn an_id_that_is_recreated_between_crawls_is_the_same_group(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    let before = world.rows("SELECT group_id, first_seen_at, in_baseline FROM groups ORDER BY 1").await;
    world.dissolve("a");
    world.create("Public", "a");
    world.crawl().await;
    assert_eq!(world.events().await, [""; 0]);
    assert_eq!(
        world.rows("SELECT group_id, first_seen_at, in_baseline FROM groups ORDER BY 1").await,
        before
    );
}

async fn a_group_of_another_type_is_retyped_once_in_either_order_of_the_passes(world: World) {
    for order in [["Public", "Private"], ["Private", "Public"]] {
        let mut world = world.afresh().await;
        world.group_types = group_types(&order);
        world.create("Public", "a b");
        world.create("Private", "c");
        world.crawl().await;
        world.api.retype("a", "Private");
        let report = world.crawl().await;
        assert_eq!(outcome(&report), "complete");
        assert_eq!(world.table().await, ["a Private", "b Public", "c Private"]);
        assert_eq!(world.events().await, ["2 a retyped Public>Private"]);
    }
}

async fn a_return_under_another_type_is_one_reappearance(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.dissolve("a");
    world.crawl().await;
    world.create("Private", "a");
    let report = world.crawl().await;
    assert_eq!((report.events.reappeared, report.events.retyped), (1, 0));
    assert_eq!(world.events().await, ["2 a vanished Public>NULL", "3 a reappeared Public>Private"]);
    assert_eq!(world.table().await, ["a Private", "b Public"]);
}

async fn a_group_that_two_passes_list_keeps_the_type_of_the_first(world: World) {
    world.create("Public", "a b");
    world.create("Private", "c");
    world.crawl().await;
    world.api.script(At::Type("Private".to_owned()), Fault::ExtraIds(vec!["a".to_owned(), "new".to_owned()]));
    world.api.script(At::Type("Public".to_owned()), Fault::ExtraIds(vec!["new".to_owned()]));
    world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "b Public", "c Private", "new Public"]);
    assert_eq!(world.events().await, ["2 new appeared NULL>Public"]);
}

async fn the_newer_names_of_types_are_those_of_the_rest_api(mut world: World) {
    world.group_types = group_types(&["Work", "Meeting"]);
    world.create("Work", "a");
    world.create("Meeting", "b");
    world.crawl().await;
    assert_eq!(world.table().await, ["a Private", "b ChatRoom"]);
    let names =
        "SELECT group_type, sdk_name, live_count FROM type_status WHERE live_count > 0 ORDER BY group_type";
    assert_eq!(world.lines(names).await, ["ChatRoom Meeting 1", "Private Work 1"]);
}

async fn every_crawl_counts_the_app_a_failed_one_too(world: World) {
    world.create("Public", "a b c d");
    let first = world.crawl().await;
    world.create("Private", "e");
    world.during_request(3, |api| api.create("Private", "f"));
    world.crawl().await;
    world.fault_from_request(3, Fault::ErrorCode(10003));
    let failed = world.crawl().await;
    world.api.heal();
    world.fault_from_request(1, Fault::ErrorCode(10003));
    world.crawl().await;
    let counts =
        "SELECT crawl_id, total_count_at_start, total_count, listed_count FROM app_counts ORDER BY crawl_id";
    assert_eq!(world.lines(counts).await, ["1 4 4 4", "2 5 6 6", "3 6 6 3", "4 NULL NULL 0"]);
    let recorded =
        world.lines("SELECT recorded_at FROM app_counts WHERE crawl_id IN (1, 3) ORDER BY 1").await;
    assert_eq!(recorded, [stamp(first.finished_at), stamp(failed.finished_at)]);
}

async fn every_pass_counts_its_type_and_one_that_broke_off_has_no_verdict(world: World) {
    world.create("Public", "a b c d");
    world.create("ChatRoom", "x");
    world.crawl().await;
    world.during_request(3, |api| api.create("Public", "e"));
    world.crawl().await;
    world.fault_from_request(3, Fault::ErrorCode(10003));
    world.crawl().await;
    let counts =
        "SELECT crawl_id, group_type, total_count, total_count_min, total_count_max, listed_count, verdict
                  FROM type_counts ORDER BY crawl_id, recorded_at";
    // The unfiltered pass of the first crawl has no row: it is of no type.
    let expected = [
        "1 Public 4 4 4 4 exact",
        "1 Private 0 0 0 0 exact",
        "2 Public 5 4 5 5 moving",
        "2 Private 0 0 0 0 exact",
        "3 Public 5 5 5 3 NULL",
    ];
    let counted = world.lines(counts).await;
    assert_eq!(counted[..4], expected[..4]);
    assert_eq!(counted[counted.len() - 1], expected[4]);
}

async fn a_day_adds_its_crawls_up_and_ends_at_midnight_of_the_schedules_zone(mut world: World) {
    world.timezone = Tz::Asia__Shanghai; // eight hours ahead: the test starts there at 16:00
    world.create("Public", "a b");
    world.crawl().await; // 17:00
    world.create("Public", "c");
    world.dissolve("a");
    world.crawl().await; // 18:00
    world.api.retype("c", "Private");
    world.crawl().await; // 19:00
    let days = "SELECT day, group_type, live_groups, total_count, appeared, vanished, reappeared, retyped
                FROM daily_counts ORDER BY day, group_type";
    let first_day = ["2026-03-01 Private 1 1 0 0 0 1", "2026-03-01 Public 1 1 1 1 0 0"];
    assert_eq!(world.lines(days).await, first_day);
    for _ in 0..5 {
        world.crawl().await; // … 24:00
    }
    world.create("Public", "a");
    world.crawl().await;
    let both_days = [&first_day[..], &["2026-03-02 Private 1 1 0 0 0 0", "2026-03-02 Public 2 2 0 0 1 0"]];
    assert_eq!(world.lines(days).await, both_days.concat());
}

async fn a_crawl_is_recorded_with_what_it_was_for_and_what_it_took(world: World) {
    world.create("Public", "a b c d");
    world.fault_at_request(2, Fault::Status(500));
    let report = world.crawl().await;
    assert_eq!(report.requests, world.requests_so_far());
    assert_eq!(world.requests_after(0), ["count", "Public 1", "Public 1", "Public 2", "Private 1", "count"]);
    let row =
        "SELECT app, trigger, due_at, started_at, finished_at, status, requests, groups_listed, withheld,
                      reason_code, error_code, reason, host FROM crawls";
    let (started, finished) = (stamp(report.started_at), stamp(report.finished_at));
    assert_eq!(
        world.lines(row).await,
        [format!("prod command NULL {started} {finished} complete 6 4 0 NULL NULL NULL test")]
    );
}

async fn a_tick_of_the_schedule_is_served_once(world: World) {
    let occasion = CrawlRequest { trigger: Trigger::Schedule, due_at: Some(world.clock.now()) };
    let crawl = async || world.crawler().crawl(occasion, WhenBusy::GiveUp, &CancellationToken::new()).await;
    crawl().await.unwrap();
    assert!(matches!(crawl().await, Err(CrawlError::Served { .. })));
    assert_eq!(world.lines("SELECT trigger, due_at FROM crawls").await, ["schedule 2026-03-01T08:00:00Z"]);
    world.assert_invariants().await;
}

async fn status_tells_the_last_crawl_and_the_last_complete_one(world: World) {
    world.create("Public", "a b");
    let complete = world.crawl().await;
    world.fault_from_request(2, Fault::ErrorCode(60021));
    let failed = world.crawl().await;
    let status =
        "SELECT configured, live_count, last_complete_crawl_at, last_crawl_status, last_crawl_deletions,
                         last_crawl_reason FROM app_status";
    let expected = format!("1 2 {} failed NULL {}", stamp(complete.finished_at), why(&failed));
    assert_eq!(world.lines(status).await, [expected]);
    let as_of = "SELECT as_of FROM type_status WHERE group_type = 'Public'";
    assert_eq!(world.value(as_of).await, stamp(complete.started_at));
}

async fn events_and_deletions_show_when_the_crawl_has_ended_and_new_groups_before(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.dissolve("b");
    world.create("Public", "c");
    world.begin_watching();
    let closing_count = world.api.hold(At::Request(world.request(4)));
    let (crawler, stop) = (world.crawler(), CancellationToken::new());
    let while_it_runs = async {
        closing_count.reached().await;
        assert_eq!(world.table().await, ["a Public", "b Public", "c Public"]);
        assert_eq!(world.events().await, [""; 0]);
        assert_eq!(world.lines("SELECT status FROM crawls ORDER BY crawl_id").await, ["complete", "running"]);
        assert_eq!(world.value("SELECT count(*) FROM app_counts").await, "1");
        assert_eq!(world.value("SELECT count(*) FROM type_counts").await, "2");
        closing_count.release();
    };
    let (report, ()) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), while_it_runs);
    assert_eq!(outcome(&report.unwrap()), "complete");
    assert_eq!(world.table().await, ["a Public", "b Public deleted", "c Public"]);
    assert_eq!(world.events().await, ["2 b vanished Public>NULL", "2 c appeared NULL>Public"]);
    world.assert_invariants().await;
}

async fn an_unchanged_crawl_writes_no_group_and_no_event_and_yet_sees_every_group(world: World) {
    world.api.create_many("Public", 50);
    world.api.create_many("Private", 50);
    world.crawl().await;
    let stored = world.rows("SELECT * FROM group_row ORDER BY group_id").await;
    world.forbid_changes_to_groups().await;
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(world.rows("SELECT * FROM group_row ORDER BY group_id").await, stored);
    assert_eq!(world.lines("SELECT DISTINCT last_seen_at FROM groups").await, [stamp(report.started_at)]);
}

async fn a_short_pass_that_leaves_no_known_group_unlisted_has_seen_them_too(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.fault_from_request(1, Fault::TotalCount(100));
    world.create("Public", "c");
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    let seen = "SELECT last_seen_at FROM groups WHERE group_id IN ('a', 'b')";
    assert_eq!(world.lines(seen).await, vec![stamp(report.started_at); 2]);
    assert_eq!(world.events().await, ["2 c appeared NULL>Public"]);
}

async fn a_short_pass_that_leaves_a_known_group_unlisted_has_seen_none(world: World) {
    world.create("Public", "a b");
    let first = world.crawl().await;
    world.dissolve("b");
    world.fault_from_request(1, Fault::TotalCount(100));
    world.crawl().await;
    let seen = world.rows("SELECT last_seen_at FROM groups").await;
    assert!(seen.iter().all(|row| row[0] < stamp(first.finished_at)), "{seen:?}");
}

async fn a_group_that_a_growing_list_misses_is_missing_first_and_vanishes_when_missed_again(
    mut world: World,
) {
    world.guard.confirm = false;
    world.create("Public", "a b c d e f");
    world.crawl().await;
    world.dissolve("a");
    world.during_request(3, |api| api.create("Public", "g"));
    let moving = world.crawl().await;
    assert_eq!(outcome(&moving), "complete");
    assert_eq!((moving.missing, moving.events.vanished), (1, 0));
    assert_eq!(world.table().await[0], "a Public missing");
    let a = world
        .rows("SELECT first_seen_at, last_seen_at, missing_since, held FROM groups WHERE group_id = 'a'")
        .await;
    assert_eq!(a[0][1..], [a[0][0].clone(), stamp(moving.started_at), "0".to_owned()]);
    assert_eq!(world.value("SELECT missing_count FROM app_status").await, "1");
    assert_eq!(world.value("SELECT deletions FROM crawls WHERE crawl_id = 2").await, "none");
    let quiet = world.crawl().await;
    assert_eq!(quiet.events.vanished, 1);
    assert_eq!(world.events().await, ["2 g appeared NULL>Public", "3 a vanished Public>NULL"]);
    world.assert_table_is_the_truth().await;
}

async fn a_group_that_two_moving_lists_miss_has_vanished(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a b c d e");
    world.crawl().await;
    world.dissolve("a");
    for (id, left) in [("f", "a Public missing"), ("g", "a Public deleted")] {
        world.during_request(3, |api| api.create("Public", id));
        world.crawl().await;
        assert_eq!(world.table().await[0], left);
    }
    let verdicts = "SELECT verdict FROM type_counts WHERE group_type = 'Public' ORDER BY crawl_id";
    assert_eq!(world.lines(verdicts).await, ["exact", "moving", "moving"]);
}

/// Oldest first, by an index: what is dissolved before it shifts the list forward under the cursor.
fn shifting(order: Order) -> Settings {
    Settings { listing: Listing { order, cursor: Cursor::Position }, ..Settings::default() }
}

async fn a_standing_group_skipped_by_a_shifting_list_is_missing_until_it_is_listed_again(world: World) {
    let mut world = world.with_api(shifting(Order::OldestFirst)).await;
    world.guard.confirm = false;
    world.create("Public", "a b c d e f g");
    world.crawl().await;
    world.during_request(3, |api| assert!(api.dissolve("a")));
    let report = world.crawl().await;
    // Page 1 was a b c, and page 2 begins at the fourth of b c d e f g.
    assert_eq!((report.missing, report.events.vanished), (1, 0));
    assert_eq!(world.table().await[3], "d Public missing");
    let report = world.crawl().await;
    assert_eq!(report.events.vanished, 1);
    assert_eq!(world.events().await, ["3 a vanished Public>NULL"]);
    world.assert_table_is_the_truth().await;
}

async fn a_group_that_a_shifting_list_repeats_makes_the_pass_moving(world: World) {
    let mut world = world.with_api(shifting(Order::NewestFirst)).await;
    world.guard.confirm = false;
    world.create("Public", "a b c d e");
    world.crawl().await;
    world.dissolve("c");
    // Page 1 is e d b, and page 2 begins at the fourth of f e d b a.
    world.during_request(3, |api| api.create("Public", "f"));
    let report = world.crawl().await;
    assert_eq!((report.listed, report.missing, report.events.vanished), (4, 1, 0));
    assert_eq!(world.table().await, ["a Public", "b Public", "c Public missing", "d Public", "e Public"]);
    world.crawl().await;
    world.dissolve("a");
    // A repeated id tells that the list moved, even where the count stands still.
    world.fault_at_request(1, Fault::NoTotalCount);
    world.fault_at_request(2, Fault::DuplicateIds);
    assert_eq!(world.crawl().await.missing, 1);
    let pass = "SELECT total_count_min, total_count_max, verdict FROM type_counts WHERE crawl_id = 4 AND group_type = 'Public'";
    assert_eq!(world.lines(pass).await, ["4 4 moving"]);
    world.crawl().await;
    world.assert_table_is_the_truth().await;
}

async fn groups_listed_for_the_first_time_explain_a_count_they_do_not_reach(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.create("Public", "c d");
    // Two of six are not listed, and two were never listed before.
    world.fault_from_request(1, Fault::TotalCount(6));
    world.api.script(At::Type("Private".to_owned()), Fault::TotalCount(0));
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    let verdicts = "SELECT group_type, verdict FROM type_counts WHERE crawl_id = 2 ORDER BY 1";
    assert_eq!(world.lines(verdicts).await, ["Private exact", "Public moving"]);
}

async fn a_pass_is_exact_when_all_passes_reach_both_totals_of_the_app(world: World) {
    world.create("Public", "a b c d");
    world.create("Private", "e f");
    world.crawl().await;
    world.dissolve("d e");
    for fault in [Fault::NoTotalCount, Fault::AppTotalCount] {
        world.api.script(At::Type("Public".to_owned()), fault.clone());
        world.api.script(At::Type("Private".to_owned()), fault);
    }
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(report.events.vanished, 2);
    world.assert_table_is_the_truth().await;
}

async fn a_short_pass_marks_nothing_and_says_by_how_much_it_falls_short(world: World) {
    world.create("Public", "a b c d e f g h");
    world.crawl().await;
    world.dissolve("a");
    world.fault_at_request(2, Fault::EarlyEnd);
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert_eq!(
        why(&report),
        "Public listed 3 different ids of a TotalCount of 7, 4 fewer, where 0 are explained by changes during the crawl; \
         nothing of it was marked deleted"
    );
    assert_eq!((report.missing, report.events.vanished), (0, 0));
    let row = "SELECT status, deletions, reason_code, error_code FROM crawls WHERE crawl_id = 2";
    assert_eq!(world.lines(row).await, ["incomplete NULL short_listing NULL"]);
    assert_eq!(world.value("SELECT reason FROM crawls WHERE crawl_id = 2").await, why(&report));
    let verdict = "SELECT verdict FROM type_counts WHERE crawl_id = 2 AND group_type = 'Public'";
    assert_eq!(world.value(verdict).await, "short");
    world.crawl().await;
    assert_eq!(world.events().await, ["3 a vanished Public>NULL"]);
}

async fn a_short_pass_names_the_setting_that_would_accept_a_small_gap(mut world: World) {
    world.page_limit = 38;
    (0..40).for_each(|n| world.api.create("Public", &format!("g{n}")));
    world.crawl().await;
    world.dissolve("g0");
    world.fault_at_request(2, Fault::EarlyEnd);
    assert_eq!(
        why(&world.crawl().await),
        "Public listed 38 different ids of a TotalCount of 39, 1 fewer, where 0 are explained by changes during the crawl \
         (deletion.max_shortfall = 0.0257 would accept it: set it only if every crawl is short by this much); nothing of it was marked deleted"
    );
}

async fn a_missing_group_does_not_vanish_by_a_short_pass(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a b c d e f g");
    world.crawl().await;
    world.dissolve("g");
    world.during_request(3, |api| api.create("Public", "h"));
    world.crawl().await;
    world.fault_at_request(2, Fault::EarlyEnd);
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert_eq!(world.table().await[6], "g Public missing");
    world.crawl().await;
    assert_eq!(world.table().await[6], "g Public deleted");
}

async fn one_short_pass_weakens_the_exact_ones_beside_it(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a b c d");
    world.create("Private", "e f");
    world.crawl().await;
    world.dissolve("e");
    world.fault_at_request(2, Fault::EarlyEnd);
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    let verdicts = "SELECT group_type, verdict FROM type_counts WHERE crawl_id = 2 ORDER BY 1";
    assert_eq!(world.lines(verdicts).await, ["Private exact", "Public short"]);
    assert_eq!(world.table().await[4], "e Private missing");
    world.fault_at_request(2, Fault::EarlyEnd);
    world.crawl().await;
    assert_eq!(world.table().await[4], "e Private deleted");
}

async fn max_shortfall_accepts_a_total_that_is_always_too_high(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a b c d e f g h");
    world.crawl().await;
    world.dissolve("h");
    world.fault_from_request(1, Fault::TotalCount(8));
    let refused = world.crawl().await;
    assert!(
        why(&refused).contains("Public listed 7 different ids of a TotalCount of 8"),
        "{}",
        why(&refused)
    );
    assert!(why(&refused).contains("Private listed 0 different ids of a TotalCount of 8"));
    world.api.script(At::Type("Private".to_owned()), Fault::TotalCount(0));
    world.max_shortfall = 0.124;
    assert_eq!(outcome(&world.crawl().await), "incomplete short_listing");
    world.max_shortfall = 0.125;
    assert_eq!(outcome(&world.crawl().await), "complete");
    assert_eq!(world.table().await[7], "h Public missing");
    assert_eq!(outcome(&world.crawl().await), "complete");
    assert_eq!(world.table().await[7], "h Public deleted");
}

async fn a_list_without_any_total_count_proves_nothing(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.dissolve("b");
    world.create("Public", "c");
    world.fault_from_request(1, Fault::NoTotalCount);
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert!(
        why(&report).contains("Public listed 2 different ids without any TotalCount"),
        "{}",
        why(&report)
    );
    assert_eq!(world.table().await, ["a Public", "b Public", "c Public"]);
    let counts = "SELECT total_count_at_start, total_count FROM app_counts WHERE crawl_id = 2";
    assert_eq!(world.lines(counts).await, ["NULL NULL"]);
}

async fn a_type_that_was_emptied_is_asked_once_more_and_settled_by_one_crawl(world: World) {
    world.create("Public", "a b");
    world.create("Private", "c d");
    world.crawl().await;
    world.dissolve("c d");
    let before = world.requests_so_far();
    let report = world.crawl().await;
    assert_eq!(
        world.requests_after(before),
        ["count", "Public 1", "Private 1", "Private 1", "count", "about 4"]
    );
    assert_eq!(outcome(&report), "complete");
    assert_eq!(world.table().await, ["a Public", "b Public", "c Private deleted", "d Private deleted"]);
    let before = world.requests_so_far();
    world.crawl().await;
    assert_eq!(world.requests_after(before), ["count", "Public 1", "Private 1", "count"]);
}

async fn a_type_that_is_empty_only_once_keeps_its_groups(world: World) {
    world.create("Public", "a b");
    world.create("Private", "c d");
    world.crawl().await;
    world.fault_at_request(3, Fault::EmptyList);
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert!(why(&report).contains("Private listed nothing, and when asked again"), "{}", why(&report));
    world.assert_table_is_the_truth().await;
}

async fn a_type_that_is_empty_twice_but_counts_groups_keeps_them(world: World) {
    world.create("Public", "a b");
    world.create("Private", "c d");
    world.crawl().await;
    world.api.script(At::Type("Private".to_owned()), Fault::EmptyList);
    // The second time with a count.
    world.fault_at_request(4, Fault::TotalCount(2));
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    world.assert_table_is_the_truth().await;
}

async fn an_app_that_was_emptied_is_settled_by_one_crawl(world: World) {
    world.create("Public", "a b");
    world.create("Private", "c");
    world.crawl().await;
    world.dissolve("a b c");
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(report.events.vanished, 3);
    world.assert_table_is_the_truth().await;
}

async fn an_unfiltered_list_that_is_empty_only_once_keeps_its_groups(mut world: World) {
    world.group_types = Vec::new();
    world.create("Public", "a b");
    world.crawl().await;
    world.fault_at_request(2, Fault::EmptyList);
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert!(why(&report).starts_with("the unfiltered list listed nothing"), "{}", why(&report));
    assert_eq!(world.table().await, ["a NULL", "b NULL"]);
}

async fn the_first_crawl_lists_groups_of_other_types_without_a_type(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a");
    world.create("ChatRoom", "x y");
    let report = world.crawl().await;
    assert_eq!(world.requests_after(0), ["count", "Public 1", "Private 1", "count", "all 1", "count"]);
    assert_eq!((report.listed, report.total), (3, Some(3)));
    assert_eq!(world.table().await, ["a Public", "x NULL", "y NULL"]);
    assert_eq!(world.lines("SELECT DISTINCT in_baseline FROM groups").await, ["1"]);
    assert_eq!(world.events().await, [""; 0]);
    let unknown = "SELECT live_count, configured FROM type_status WHERE group_type IS NULL";
    assert_eq!(world.lines(unknown).await, ["2 0"]);
}

async fn the_first_crawl_learns_the_types_of_groups_that_only_the_unfiltered_pass_lists(world: World) {
    world.create("Public", "a");
    world.create("ChatRoom", "x y");
    let report = world.crawl().await;
    let requests = ["count", "Public 1", "Private 1", "count", "all 1", "count", "about 4"];
    assert_eq!(world.requests_after(0), requests);
    assert_eq!((report.listed, report.first_listed, report.total), (3, 3, Some(3)));
    assert_eq!(world.table().await, ["a Public", "x ChatRoom", "y ChatRoom"]);
    assert_eq!(world.lines("SELECT DISTINCT in_baseline FROM groups").await, ["1"]);
    assert_eq!(world.events().await, [""; 0]);
    let learned = "SELECT live_count, configured FROM type_status WHERE group_type = 'ChatRoom'";
    assert_eq!(world.lines(learned).await, ["2 0"]);
}

async fn a_passing_difference_does_not_call_for_an_unfiltered_pass_and_two_running_do(world: World) {
    const TYPED: [&str; 4] = ["count", "Public 1", "Private 1", "count"];
    world.create("Public", "a");
    world.crawl().await;
    let crawl = async || {
        let before = world.requests_so_far();
        world.crawl().await;
        world.requests_after(before)
    };
    world.create("ChatRoom", "x");
    assert_eq!(crawl().await, TYPED);
    world.dissolve("x");
    assert_eq!(crawl().await, TYPED);
    world.create("ChatRoom", "y");
    assert_eq!(crawl().await, TYPED);
    assert_eq!(world.table().await, ["a Public"]);
    let with_unfiltered_pass = [&TYPED[..], &["all 1", "count", "about 3"]].concat();
    assert_eq!(crawl().await, with_unfiltered_pass);
    assert_eq!(world.table().await, ["a Public", "y ChatRoom"]);
    // A crawl that failed before it could compare changes nothing about that.
    world.fault_from_request(1, Fault::ErrorCode(10003));
    crawl().await;
    world.api.heal();
    world.create("ChatRoom", "z");
    assert_eq!(crawl().await, with_unfiltered_pass);
    // The baseline of types without a pass ended with the first unfiltered pass.
    assert_eq!(world.events().await, ["7 z appeared NULL>ChatRoom"]);
}

async fn a_type_that_is_learned_later_is_no_event(mut world: World) {
    world.create("Public", "a");
    world.create("ChatRoom", "x");
    world.crawl().await;
    let first_seen = world.value("SELECT first_seen_at FROM groups WHERE group_id = 'x'").await;
    world.group_types = group_types(&["Public", "Private", "ChatRoom"]);
    world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "x ChatRoom"]);
    assert_eq!(world.events().await, [""; 0]);
    let x = "SELECT first_seen_at, in_baseline FROM groups WHERE group_id = 'x'";
    assert_eq!(world.lines(x).await, [format!("{first_seen} 1")]);
}

async fn an_unfiltered_pass_speaks_for_types_that_are_no_longer_configured(mut world: World) {
    world.guard.confirm = false;
    world.group_types = group_types(&["Public", "ChatRoom"]);
    world.create("Public", "a");
    world.create("ChatRoom", "x y");
    world.crawl().await;
    world.group_types = group_types(&["Public"]);
    world.dissolve("x");
    // One crawl without an unfiltered pass says nothing of that type.
    world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "x ChatRoom", "y ChatRoom"]);
    let last_seen = "SELECT last_seen_at FROM groups WHERE group_id = 'y'";
    let before = world.value(last_seen).await;
    let report = world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "x ChatRoom deleted", "y ChatRoom"]);
    assert!(before < stamp(report.started_at));
    assert_eq!(world.value(last_seen).await, stamp(report.started_at));
}

async fn an_unfiltered_pass_speaks_for_rejected_types(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a");
    world.create("Private", "b c");
    world.crawl().await;
    world.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    world.dissolve("b");
    world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "b Private", "c Private"]);
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(world.table().await, ["a Public", "b Private deleted", "c Private"]);
}

async fn totals_that_count_fewer_groups_nominate_those_of_types_without_a_pass(mut world: World) {
    // Five groups in all, and five would be left: nothing says that a group without a pass is gone.
    let steady = crawled_without_two_types(&mut world, |world| {
        world.dissolve("a");
        world.create("Public", "d");
    });
    let asked = steady.await.asked;
    assert_eq!((asked.asked, asked.confirmed), (1, 1));
    let mut world = world.afresh().await;
    let shrunk = crawled_without_two_types(&mut world, |world| world.dissolve("b x")).await;
    assert_eq!((outcome(&shrunk).as_str(), shrunk.events.vanished, shrunk.asked.spared), ("complete", 2, 2));
    let expected = ["a Public", "b Private deleted", "c Private", "x ChatRoom deleted", "y ChatRoom"];
    assert_eq!(world.table().await, expected);
}

/// A second crawl in which one type is rejected and one is no longer configured.
async fn crawled_without_two_types(world: &mut World, before: impl FnOnce(&World)) -> CrawlReport {
    world.group_types = group_types(&["Public", "Private", "ChatRoom"]);
    world.create("Public", "a");
    world.create("Private", "b c");
    world.create("ChatRoom", "x y");
    world.crawl().await;
    world.group_types = group_types(&["Public", "Private"]);
    world.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    before(world);
    world.crawl().await
}

async fn without_group_types_one_unfiltered_pass_decides_everything(mut world: World) {
    world.group_types = Vec::new();
    world.create("Public", "a b");
    world.create("ChatRoom", "c d");
    world.crawl().await;
    assert_eq!(world.requests_after(0), ["count", "all 1", "all 2", "count"]);
    world.dissolve("a d");
    world.create("Community", "e");
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(world.table().await, ["a NULL deleted", "b NULL", "c NULL", "d NULL deleted", "e NULL"]);
    let expected = ["2 a vanished NULL>NULL", "2 d vanished NULL>NULL", "2 e appeared NULL>NULL"];
    assert_eq!(world.events().await, expected);
    assert_eq!(world.value("SELECT count(*) FROM type_counts").await, "0");
}

async fn types_that_are_known_stay_when_no_types_are_configured_any_more(mut world: World) {
    world.create("Public", "a b");
    world.create("Private", "c");
    world.crawl().await;
    world.group_types = Vec::new();
    world.dissolve("a");
    world.crawl().await;
    assert_eq!(world.table().await, ["a Public deleted", "b Public", "c Private"]);
    world.create("Private", "a");
    world.crawl().await;
    // The unfiltered pass says that it is back, and not as what.
    assert_eq!(world.table().await, ["a Public", "b Public", "c Private"]);
    assert_eq!(world.events().await, ["2 a vanished Public>NULL", "3 a reappeared Public>Public"]);
}

async fn exact_typed_passes_that_account_for_a_quiet_app_settle_groups_without_a_type(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a b");
    world.create("ChatRoom", "x");
    world.crawl().await;
    world.dissolve("x");
    world.create("Public", "c");
    // A list with something new accounts for no other group: the new one may stand in the totals for it.
    world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "b Public", "c Public", "x NULL"]);
    let report = world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "b Public", "c Public", "x NULL deleted"]);
    assert_eq!(report.events.vanished, 1);
}

async fn a_server_that_states_the_apps_total_for_every_type_deletes_no_group_without_a_type(
    mut world: World,
) {
    world.guard.confirm = false;
    world.create("Public", "a b");
    world.create("Private", "c");
    world.create("ChatRoom", "x");
    world.crawl().await;
    // Taken at their word, two typed passes claim eight groups of an app of four, and so there would be no others.
    world.max_shortfall = 1.0;
    world.api.script(At::Type("Public".to_owned()), Fault::AppTotalCount);
    world.api.script(At::Type("Private".to_owned()), Fault::AppTotalCount);
    for _ in 0..3 {
        assert_eq!(outcome(&world.crawl().await), "complete");
        assert_eq!(world.table().await, ["a Public", "b Public", "c Private", "x NULL"]);
    }
}

async fn a_rejected_type_is_skipped_and_its_groups_stay(world: World) {
    world.create("Public", "a b");
    world.create("Private", "c");
    world.crawl().await;
    world.dissolve("b");
    world.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "complete");
    assert_eq!(world.table().await, ["a Public", "b Public deleted", "c Private"]);
    let pass = "SELECT verdict FROM type_counts WHERE crawl_id = 2 AND group_type = 'Private'";
    assert_eq!(world.value(pass).await, "rejected");
    world.api.heal();
    world.crawl().await;
    world.assert_table_is_the_truth().await;
}

async fn a_type_the_api_has_never_heard_of_is_skipped(mut world: World) {
    world.group_types = group_types(&["Live", "Public"]);
    world.create("Public", "a");
    assert_eq!(outcome(&world.crawl().await), "complete");
    world.create("Live", "x");
    world.crawl().await;
    assert_eq!(world.table().await, ["a Public", "x Live"]);
    // Its baseline begins with the first list that the API gave of it.
    assert_eq!(world.events().await, [""; 0]);
}

async fn a_type_that_is_rejected_in_the_middle_fails_the_crawl(world: World) {
    world.create("Public", "a b c d f");
    world.create("Private", "e");
    world.crawl().await;
    world.dissolve("a e");
    // The opening count, a page that is not the first, and a page that is asked for once more.
    for (request, requests) in [(1, 1), (3, 3), (5, 5)] {
        world.fault_at_request(request, Fault::ErrorCode(10004));
        let report = world.crawl().await;
        assert_eq!(outcome(&report), "failed api_error 10004");
        assert_eq!(report.requests, requests);
        assert_eq!(world.events().await, [""; 0]);
    }
    world.crawl().await;
    world.assert_table_is_the_truth().await;
}

async fn a_crawl_whose_types_are_all_rejected_fails(world: World) {
    world.create("Public", "a");
    world.create("Private", "b");
    world.crawl().await;
    world.dissolve("a");
    world.api.script(At::Type("Public".to_owned()), Fault::ErrorCode(10004));
    world.api.script(At::Type("Private".to_owned()), Fault::ErrorCode(10004));
    let report = world.crawl().await;
    assert_eq!(outcome(&report), "failed rejected_types 10004");
    assert_eq!(
        why(&report),
        "the API rejects every configured group type (Private, Public): the API answered error 10004 \
         (a parameter is not accepted), ErrorInfo \"scripted\": if a group type is rejected, remove it from `group_types` \
         or correct its name; `group_types = []` lists without types"
    );
    assert_eq!(world.table().await, ["a Public", "b Private"]);
}

/// A complete crawl at half past ten on every day after the last crawl and before this one, so that these days count as
/// passed.
async fn crawl_daily_until(world: &World, day: &str) {
    let day: NaiveDate = day.parse().unwrap();
    let mut next = world.clock.now().date_naive().succ_opt().unwrap();
    while next < day {
        world.clock.set(next.and_hms_opt(9, 30, 0).unwrap().and_utc());
        assert_eq!(outcome(&world.crawl().await), "complete");
        next = next.succ_opt().unwrap();
    }
}

/// A crawl after which the events need not tell the whole table.
async fn crawl_and_purge(world: &World) -> CrawlReport {
    world.begin_watching();
    let report = world.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await;
    world.bench.assert_consistent().await;
    report.unwrap()
}

async fn old_rows_are_removed_after_the_first_crawl_of_a_day(mut world: World) {
    world.create("Public", "a b c d");
    world.crawl().await; // 9:00
    world.dissolve("b");
    world.crawl().await; // 10:00
    world.dissolve("c");
    world.crawl().await; // 11:00
    crawl_daily_until(&world, "2026-03-11").await;
    world.retention = Retention { deleted_groups: Some(10), events: Some(10), counts: Some(10) };
    let purged =
        "SELECT purged_groups, purged_events, purged_counts FROM crawls ORDER BY crawl_id DESC LIMIT 1";
    world.clock.set("2026-03-11T09:30:00Z".parse().unwrap());
    assert_eq!(outcome(&crawl_and_purge(&world).await), "complete");
    // The second crawl with its two passes. The first is the baseline's, the third has the event of c.
    assert_eq!(world.lines(purged).await, ["1 1 3"]);
    assert_eq!(world.table().await, ["a Public", "c Public deleted", "d Public"]);
    assert_eq!(world.events().await, ["3 c vanished Public>NULL"]);
    crawl_and_purge(&world).await; // 11:30
    assert_eq!(world.lines(purged).await, ["0 0 0"]);
    world.clock.set("2026-03-12T08:00:00Z".parse().unwrap());
    crawl_and_purge(&world).await;
    // The third crawl, two passes, and two types of one day.
    assert_eq!(world.lines(purged).await, ["1 1 5"]);
    assert_eq!(world.table().await, ["a Public", "d Public"]);
    assert_eq!(
        world.lines("SELECT crawl_id FROM crawls ORDER BY 1").await,
        ["1", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]
    );
    let days = "SELECT count(DISTINCT day), min(day), max(day) FROM daily_counts";
    assert_eq!(world.lines(days).await, ["11 2026-03-02 2026-03-12"]);
    world.assert_table_is_the_truth().await;
}

async fn a_group_that_returns_after_it_was_removed_is_a_new_one(mut world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.dissolve("b");
    world.crawl().await;
    crawl_daily_until(&world, "2026-03-03").await;
    world.retention = Retention { deleted_groups: Some(1), ..Retention::default() };
    world.clock.set("2026-03-03T08:00:00Z".parse().unwrap());
    crawl_and_purge(&world).await;
    world.create("Public", "b");
    let report = crawl_and_purge(&world).await;
    assert_eq!((report.events.appeared, report.events.reappeared, report.first_listed), (1, 0, 1));
    let seen =
        "SELECT in_baseline FROM groups WHERE group_id = 'b' AND first_seen_at > '2026-03-03T00:00:00Z'";
    assert_eq!(world.lines(seen).await, ["0"]);
    assert_eq!(world.events().await, ["2 b vanished Public>NULL", "5 b appeared NULL>Public"]);
}

async fn a_crawl_that_does_not_reach_its_end_removes_nothing(mut world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.dissolve("b");
    world.crawl().await;
    crawl_daily_until(&world, "2026-03-09").await;
    world.retention = Retention { deleted_groups: Some(1), events: Some(1), counts: Some(1) };
    world.clock.set("2026-03-09T08:00:00Z".parse().unwrap());
    world.fault_from_request(3, Fault::ErrorCode(10003));
    assert_eq!(outcome(&crawl_and_purge(&world).await), "failed api_error 10003");
    assert_eq!(world.table().await, ["a Public", "b Public deleted"]);
    world.api.heal();
    // A short one has reached it.
    world.fault_from_request(1, Fault::TotalCount(100));
    assert_eq!(outcome(&crawl_and_purge(&world).await), "incomplete short_listing");
    assert_eq!(world.table().await, ["a Public"]);
}

async fn whoever_stops_the_program_does_not_wait_for_old_rows(mut world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.dissolve("b");
    world.crawl().await;
    crawl_daily_until(&world, "2026-03-09").await;
    world.retention = Retention { deleted_groups: Some(1), events: Some(1), counts: Some(1) };
    world.clock.set("2026-03-09T08:00:00Z".parse().unwrap());
    world.begin_watching();
    let (crawler, stop) = (world.crawler(), CancellationToken::new());
    let mut progress = crawler.progress();
    let stopping = async {
        // Too late for the crawl itself.
        progress.wait_for(|progress| matches!(progress.step, Step::Concluding { .. })).await.unwrap();
        stop.cancel();
    };
    let (report, ()) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), stopping);
    assert_eq!(outcome(&report.unwrap()), "complete");
    assert_eq!(world.table().await, ["a Public", "b Public deleted"]);
}

async fn a_dry_run_of_an_app_that_was_never_crawled_makes_everything_a_baseline(mut world: World) {
    world.group_types = group_types(&["Public", "Own"]);
    world.create("Public", "a b");
    world.create("Own", "c");
    world.create("ChatRoom", "d");
    let (dry_run, said) = world.foretell().await;
    let expected = [
        "a baseline NULL>Public",
        "b baseline NULL>Public",
        "c baseline NULL>Own",
        "d baseline NULL>ChatRoom",
    ];
    assert_eq!(said, expected);
    assert_eq!((dry_run.listed, dry_run.total), (4, Some(4)));
    assert_eq!(world.value("SELECT count(*) FROM app_status").await, "0");
    let report = world.foretold_crawl().await;
    assert_eq!((report.first_listed, report.crawl.0), (4, 1));
}

async fn a_dry_run_foretells_every_change_and_writes_nothing(world: World) {
    world.create("Public", "a b c d e f i j k");
    world.create("Private", "p q");
    world.crawl().await;
    world.dissolve("a b");
    world.crawl().await;
    world.create("Public", "a new");
    world.create("Private", "b");
    world.api.retype("c", "Private");
    world.dissolve("d p");
    let (_, said) = world.foretell().await;
    let expected = [
        "a reappeared Public>Public",
        "b reappeared Public>Private",
        "c retyped Public>Private",
        "d vanished Public>NULL",
        "new appeared NULL>Public",
        "p vanished Private>NULL",
    ];
    assert_eq!(said, expected);
    world.foretold_crawl().await;
    // A list that moves, and a group about which nothing is learned.
    world.dissolve("e f");
    world.api.script(At::Info, Fault::GroupCode("f".to_owned(), 10002));
    world.during_request(3, |api| api.create("Public", "g"));
    assert_eq!(
        world.foretell().await.1,
        ["e vanished Public>NULL", "f missing Public>NULL", "g appeared NULL>Public"]
    );
    world.during_request(3, |api| api.create("Public", "h"));
    world.crawl().await;
    world.create("Public", "f");
    let quiet = world.foretell().await;
    assert!(quiet.1.is_empty(), "{quiet:?}");
    world.foretold_crawl().await;
    world.assert_table_is_the_truth().await;
}

async fn a_dry_run_foretells_what_lists_alone_conclude(mut world: World) {
    world.guard.confirm = false;
    world.create("Public", "a b c d e f");
    world.crawl().await;
    // A list that moves: missing first, then gone, or back.
    world.dissolve("e f");
    world.during_request(3, |api| api.create("Public", "g"));
    assert_eq!(
        world.foretell().await.1,
        ["e missing Public>NULL", "f missing Public>NULL", "g appeared NULL>Public"]
    );
    world.during_request(3, |api| api.create("Public", "h"));
    world.crawl().await;
    world.create("Public", "f");
    assert_eq!(world.foretell().await.1, ["e vanished Public>NULL"]);
    world.foretold_crawl().await;
    let quiet = world.foretell().await;
    assert!(quiet.1.is_empty(), "{quiet:?}");
    world.foretold_crawl().await;
    world.assert_table_is_the_truth().await;
}

async fn a_dry_run_foretells_what_the_guard_withholds_and_why(mut world: World) {
    world.guard.max_fraction = 0.4;
    world.create("Public", "a b c d");
    world.create("Private", "p q r");
    world.crawl().await;
    world.dissolve("a b c p");
    world.create("Public", "new");
    let (dry_run, said) = world.foretell().await;
    let withheld = ["a withheld Public>NULL", "b withheld Public>NULL", "c withheld Public>NULL"];
    assert_eq!(said, [&withheld[..], &["new appeared NULL>Public", "p withheld Private>NULL"]].concat());
    let reason = dry_run.reason.unwrap().text;
    assert!(
        reason.contains("Public would shrink from 4 to 2 live groups")
            && reason.ends_with("4 deletions would be withheld (4 confirmed by get_group_info)"),
        "{reason}"
    );
    let report = world.foretold_crawl().await;
    assert_eq!(outcome(&report), "complete guard");
}

async fn a_dry_run_of_a_short_list_foretells_an_incomplete_crawl(world: World) {
    world.create("Public", "a b c d e");
    world.crawl().await;
    world.api.script(At::Page("Public".to_owned(), 1), Fault::EarlyEnd);
    let (dry_run, said) = world.foretell().await;
    assert_eq!((dry_run.status, dry_run.deletions, said.len()), (CrawlStatus::Incomplete, None, 0));
    assert_eq!(outcome(&world.foretold_crawl().await), "incomplete short_listing");
}

async fn a_dry_run_holds_the_lease_and_leaves_word_of_the_pace(world: World) {
    world.create("Public", "a");
    world.crawl().await;
    let held = world.api.hold(At::Request(world.request(2)));
    let (crawler, stop) = (world.crawler(), CancellationToken::new());
    let meanwhile = async {
        held.reached().await;
        let other = world.another_crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await;
        assert!(matches!(other, Err(CrawlError::Busy { .. })), "{other:?}");
        held.release();
    };
    let (dry_run, ()) = tokio::join!(crawler.dry_run(WhenBusy::GiveUp, &stop), meanwhile);
    assert_eq!(dry_run.unwrap().status, CrawlStatus::Complete);
    world.crawl().await;
}

async fn a_dry_run_that_fails_says_what_it_saw_until_then(world: World) {
    world.create("Public", "a");
    world.crawl().await;
    world.create("Public", "b");
    world.dissolve("a");
    world.fault_from_request(3, Fault::ErrorCode(10003));
    let (dry_run, said) = world.foretell().await;
    assert_eq!((dry_run.status, dry_run.deletions), (CrawlStatus::Failed, None));
    assert_eq!(said, ["b appeared NULL>Public"]);
    assert_eq!(dry_run.reason.unwrap().error_code, Some(10003));
}

fn create_numbered(world: &World, numbers: Range<u32>) {
    numbers.for_each(|n| world.api.create("Public", &format!("g{n}")));
}

fn dissolve_numbered(world: &World, numbers: Range<u32>) {
    numbers.for_each(|n| world.dissolve(&format!("g{n}")));
}

async fn candidates_are_asked_about_in_requests_of_fifty_ids_two_of_which_are_controls(mut world: World) {
    world.page_limit = 1000;
    create_numbered(&world, 0..70);
    world.create("Private", "p q");
    world.crawl().await;
    dissolve_numbered(&world, 0..60);
    world.create("Private", "r");
    let before = world.requests_so_far();
    let report = world.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.events.vanished, report.asked.spared), ("complete", 60, 0));
    assert_eq!((report.asked.asked, report.asked.confirmed), (60, 60));
    let mut requests = world.requests_after(before);
    // Both are under way at the same time.
    requests[4..].sort();
    assert_eq!(requests, ["count", "Public 1", "Private 1", "count", "about 14", "about 50"]);
    assert_eq!(report.requests, 6);
    world.assert_table_is_the_truth().await;
    let before = world.requests_so_far();
    world.crawl().await;
    assert_eq!(world.requests_after(before).len(), 4);
}

async fn a_group_that_no_list_has_and_that_stands_is_kept_as_if_listed(world: World) {
    world.create("Public", "a b c");
    world.crawl().await;
    world.api.hide(&["b"]);
    world.dissolve("c");
    let report = world.crawl().await;
    assert_eq!(
        (outcome(&report).as_str(), report.events.vanished, report.asked.spared, report.missing),
        ("complete", 1, 1, 0)
    );
    assert_eq!(world.table().await, ["a Public", "b Public", "c Public deleted"]);
    assert_eq!(world.events().await, ["2 c vanished Public>NULL"]);
    let seen = "SELECT last_seen_at FROM groups WHERE group_id = 'b'";
    assert_eq!(world.value(seen).await, stamp(report.started_at));
    assert_eq!(world.value("SELECT spared FROM crawls WHERE crawl_id = 2").await, "1");
    world.assert_table_is_the_truth().await;
    // It is asked about again for as long as no list has it: after one crawl, after two, after four.
    assert_eq!(world.crawl().await.asked.spared, 1);
    world.dissolve("b");
    assert_eq!(world.crawl().await.asked.asked, 0);
    assert_eq!(world.table().await[1], "b Public");
    assert_eq!(world.crawl().await.asked.confirmed, 1);
    assert_eq!(world.table().await[1], "b Public deleted");
}

async fn a_missing_group_that_a_later_crawl_finds_standing_is_missing_no_more(world: World) {
    let world = world.with_api(shifting(Order::OldestFirst)).await;
    world.create("Public", "a b c d e f g h i");
    world.crawl().await;
    // Page 1 was a b c, and page 2 begins at the fourth of b c d e …
    world.during_request(3, |api| assert!(api.dissolve("a")));
    world.api.script(At::Info, Fault::GroupCode("d".to_owned(), 10002));
    assert_eq!(world.crawl().await.asked.unlearned, 1);
    assert_eq!(world.table().await[3], "d Public missing");
    world.api.heal();
    // The next list moves too, skips f, and happens to lack d again.
    world.api.hide(&["d"]);
    world.during_request(3, |api| assert!(api.dissolve("b")));
    assert_eq!(world.crawl().await.asked.spared, 2);
    assert_eq!(world.table().await[3], "d Public");
    assert_eq!(world.lines("SELECT event FROM group_events WHERE group_id = 'd'").await, [""; 0]);
}

async fn the_true_type_of_a_standing_group_is_learned_from_the_answer(world: World) {
    world.create("Private", "a b c");
    world.crawl().await;
    // Another type than the one that is known, and one that no configuration and no crawl has named.
    world.api.retype("a", "Public");
    world.api.retype("b", "Own");
    world.api.hide(&["a", "b"]);
    let report = world.foretold_crawl().await;
    assert_eq!((report.asked.spared, report.events.retyped), (2, 2));
    assert_eq!(world.table().await, ["a Public", "b Own", "c Private"]);
    assert_eq!(world.events().await, ["2 a retyped Private>Public", "2 b retyped Private>Own"]);
    // An answer without types keeps the known ones.
    world.api.script(At::Info, Fault::NoGroupTypes);
    assert_eq!(world.crawl().await.asked.spared, 2);
    assert_eq!(world.table().await, ["a Public", "b Own", "c Private"]);
}

async fn without_group_types_the_types_told_are_not_kept(mut world: World) {
    world.group_types = Vec::new();
    world.create("Private", "a b c");
    world.crawl().await;
    world.api.hide(&["a", "b"]);
    assert_eq!(world.foretold_crawl().await.asked.spared, 2);
    assert_eq!(world.table().await, ["a NULL", "b NULL", "c NULL"]);
    assert_eq!(world.events().await, [""; 0]);
}

async fn a_group_about_which_nothing_is_learned_is_missing(world: World) {
    world.create("Public", "a b c d");
    world.crawl().await;
    world.dissolve("b c d");
    // An internal error, and an id that is called illegal: neither says that the group is gone.
    world.api.script(At::Info, Fault::GroupCode("b".to_owned(), 10002));
    world.api.script(At::Info, Fault::GroupCode("c".to_owned(), 10015));
    let report = world.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.events.vanished, report.missing), ("complete", 1, 2));
    assert_eq!(world.table().await, ["a Public", "b Public missing", "c Public missing", "d Public deleted"]);
    let since = world.lines("SELECT missing_since FROM live_groups WHERE group_id <> 'a'").await;
    let report = world.crawl().await;
    assert_eq!((report.events.vanished, report.missing), (0, 0));
    assert_eq!(world.lines("SELECT missing_since FROM live_groups WHERE group_id <> 'a'").await, since);
    world.api.heal();
    assert_eq!(world.crawl().await.events.vanished, 2);
    world.assert_table_is_the_truth().await;
}

async fn when_asking_fails_for_good_nothing_is_deleted_and_the_crawl_is_complete(mut world: World) {
    world.page_limit = 1000;
    create_numbered(&world, 0..70);
    world.crawl().await;
    dissolve_numbered(&world, 0..60);
    for fault in [Fault::Status(500), Fault::NotJson, Fault::ErrorCode(10004)] {
        world.api.script(At::Info, fault);
        let report = world.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.events.vanished), ("complete", 0));
        assert_eq!(world.value("SELECT missing_count FROM app_status").await, "60");
        world.api.heal();
    }
    // What was told before it failed holds.
    world.fault_from_request(6, Fault::Reset);
    let told = world.crawl().await.events.vanished;
    assert!([12, 48].contains(&told), "{told}");
    world.api.heal();
    assert_eq!(world.crawl().await.events.vanished, 60 - told);
    world.assert_table_is_the_truth().await;
}

async fn without_permission_to_ask_what_lists_alone_would_delete_is_withheld_and_asked_about_later(
    world: World,
) {
    for code in [10007, 60010, 10026] {
        let world = world.afresh().await;
        world.create("Public", "a b c d");
        world.create("Private", "p");
        world.crawl().await;
        world.dissolve("b p");
        world.api.hide(&["c"]);
        world.api.script(At::Info, Fault::ErrorCode(code));
        let report = world.foretold_crawl().await;
        assert_eq!(outcome(&report), format!("complete confirm_refused {code}"));
        assert!(
            why(&report).contains("get_group_info may not be asked")
                && why(&report).contains("approve --crawl 2")
        );
        assert_eq!((report.withheld, report.withheld_confirmed), (3, 0));
        assert_eq!(report.deletions, Some(Deletions::Withheld));
        let expected = ["a Public", "b Public missing", "c Public missing", "d Public", "p Private missing"];
        assert_eq!(world.table().await, expected);
        // Once it is permitted, the held groups are asked about: to mark them confirmed, never to delete them.
        world.api.heal();
        let before = world.requests_so_far();
        let report = world.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.events.vanished), ("complete", 0));
        let mut asking = about(&world.requests_after(before));
        asking.sort();
        assert_eq!(asking, ["about 3", "about 4"]);
        let held =
            "SELECT group_id, confirmed, missing_since IS NULL FROM live_groups WHERE held ORDER BY group_id";
        assert_eq!(world.lines(held).await, ["b 1 0", "p 1 0"]);
        // The one that stands was released.
        assert_eq!(world.table().await[2], "c Public");
        assert_eq!(world.value("SELECT withheld_confirmed FROM crawls WHERE crawl_id = 2").await, "2");
        world.api.show_all();
        let before = world.requests_so_far();
        world.crawl().await;
        assert_eq!(about(&world.requests_after(before)), [""; 0]);
    }
}

/// The requests that ask about groups.
fn about(requests: &[String]) -> Vec<String> {
    requests.iter().filter(|request| request.starts_with("about")).cloned().collect()
}

async fn what_the_guard_withholds_is_asked_about_and_marked_confirmed(mut world: World) {
    world.guard.max_fraction = 0.5;
    world.create("Public", "a b c d");
    world.create("Private", "p q r s t u v");
    world.crawl().await;
    world.dissolve("a b c p");
    let before = world.requests_so_far();
    let report = world.crawl().await;
    assert_eq!(
        (outcome(&report).as_str(), report.withheld, report.events.vanished),
        ("complete guard", 3, 1)
    );
    assert_eq!((report.asked.confirmed, report.withheld_confirmed), (4, 3));
    let mut asking = about(&world.requests_after(before));
    asking.sort();
    assert_eq!(asking, ["about 3", "about 5"]);
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(world.lines(held).await, ["a 1", "b 1", "c 1"]);
}

async fn the_code_of_a_whole_answer_means_nothing_beside_its_groups(world: World) {
    world.create("Public", "a b c");
    world.crawl().await;
    world.dissolve("b");
    world.api.hide(&["c"]);
    world.api.script(At::Info, Fault::CodeBesideGroups(10007));
    let report = world.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.events.vanished, report.asked.spared), ("complete", 1, 1));
    world.assert_table_is_the_truth().await;
}

async fn a_dry_run_asks_too(world: World) {
    world.create("Public", "a b c");
    world.crawl().await;
    world.api.retype("b", "Own");
    world.api.hide(&["b"]);
    world.dissolve("c");
    let (dry_run, said) = world.foretell().await;
    assert_eq!(
        (dry_run.asked.spared, said),
        (1, vec!["b retyped Public>Own".to_owned(), "c vanished Public>NULL".to_owned()])
    );
    assert_eq!(world.foretold_crawl().await.asked.spared, 1);
}

async fn a_crawl_is_stopped_while_it_asks(world: World) {
    world.create("Public", "a b");
    world.crawl().await;
    world.dissolve("b");
    let held = world.api.hold(At::Info);
    let stop = CancellationToken::new();
    let stopping = async {
        held.reached().await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(world.crawl_unless(&stop), stopping);
    assert_eq!(outcome(&report), "cancelled cancelled");
    assert_eq!(world.table().await, ["a Public", "b Public"]);
}
