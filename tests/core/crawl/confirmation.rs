//! Confirmation of deletions by `get_group_info`. Whatever the lists say, no existing group is
//! marked deleted, and every dissolved group is marked deleted by the next crawl that may ask about
//! it.
//!
//! After every crawl, [`Harness::assert_invariants`] checks that no group was deleted that existed
//! throughout the crawl.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use harness::campaign;
use harness::crawl::{Harness, group_types, ids, outcome, reason_text};
use harness::crawl_tests;
use harness::log::capture_log;
use harness::program::ProgramHarness;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tim_group_sync::crawl::CrawlReport;
use tim_group_sync::policy::Retention;
use tim_group_sync::simulator::{AbsentCodes, At, Call, Fault, Settings};

crawl_tests! {
    // Wrong or moving lists, and wrong clocks.
    an_app_that_only_grows_loses_nothing,
    an_app_whose_groups_change_at_random_loses_no_existing_group,
    a_list_that_ends_early_with_a_matching_count_deletes_nothing,
    a_group_recreated_with_another_type_between_two_passes_gets_its_new_type,
    lists_of_a_stale_replica_change_no_existing_group,
    dissolved_groups_reported_as_illegal_ids_are_deleted_by_the_next_crawl,
    the_last_groups_of_a_type_that_is_no_longer_configured_vanish,
    every_group_gets_its_type_back_after_the_filter_was_ignored,
    a_new_group_listed_only_by_a_later_unfiltered_pass_gets_an_appeared_event,
    a_crawl_with_a_clock_that_is_a_year_off_fails_and_writes_only_its_record,
    a_clock_a_year_ahead_that_no_date_header_contradicts_does_no_lasting_harm,
    a_failed_crawl_with_a_clock_far_behind_changes_no_daily_counts,
    an_endless_list_is_aborted_and_few_of_its_new_ids_are_written,
    an_endless_unfiltered_list_is_aborted_and_few_of_its_new_ids_are_written,
    ids_that_are_not_valid_text_are_counted_and_skipped,
    the_hint_about_max_shortfall_is_given_for_small_gaps_only,

    // Answers of `get_group_info` that prove nothing.
    contradictory_controls_conclude_nothing_and_the_log_has_both_codes,
    if_the_api_refuses_get_group_info_deletions_are_withheld,
    a_group_for_which_the_api_rejects_the_request_does_not_keep_the_others_undecided,
    a_failed_or_unusable_answer_deletes_nothing,
    answers_in_another_order_are_matched_to_their_groups,
    groups_not_asked_about_because_of_throttling_are_asked_about_later,
    a_single_candidate_reported_as_an_illegal_id_is_held_after_three_crawls_and_backed_off,
    a_listed_control_that_was_dissolved_is_replaced,

    // Which groups are asked about, and when.
    an_existing_group_that_lists_lack_is_asked_about_after_1_2_4_8_16_and_24_crawls,
    an_emptied_app_is_settled_by_one_crawl,
    a_large_loss_is_held_and_later_crawls_confirm_or_release_but_never_delete,
    groups_with_an_undone_deletion_are_not_asked_about,
    an_unchanged_crawl_writes_nothing_and_asks_nothing,

    // Types.
    without_configured_types_no_type_is_stored,
    a_type_learned_for_a_group_without_one_is_stored_without_an_event,
    the_types_in_a_small_app_are_learned_although_no_other_group_can_be_a_control,
    a_group_listed_under_two_types_keeps_its_stored_type,
}

fn numbered(prefix: &str, numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("{prefix}-{n}")).collect::<Vec<_>>().join(" ")
}

/// Returns the counts [asked, confirmed, spared, unlearned, unasked].
fn asked_counts(report: &CrawlReport) -> [u64; 5] {
    let counts = report.asked;
    [counts.asked, counts.confirmed, counts.spared, counts.unlearned, counts.unasked]
}

/// The numbers of ids in the `get_group_info` requests since the first `skip` requests.
fn info_requests(harness: &Harness, skip: u64) -> Vec<usize> {
    let requests = harness.api.requests();
    let info = requests.iter().filter(|request| request.number > skip && request.call == Call::Info);
    info.map(|request| request.groups.len()).collect()
}

async fn deleted(harness: &Harness) -> Vec<String> {
    harness.lines("SELECT group_id FROM groups WHERE deleted_at IS NOT NULL ORDER BY group_id").await
}

/// Returns the ids of the missing groups, each followed by `held` and `confirmed` if it is.
async fn missing(harness: &Harness) -> Vec<String> {
    let sql = "SELECT group_id, CASE WHEN held THEN ' held' ELSE '' END, CASE WHEN confirmed = true THEN ' confirmed' ELSE '' END
               FROM live_groups WHERE missing_since IS NOT NULL ORDER BY group_id";
    harness.rows(sql).await.iter().map(|row| row.concat()).collect()
}

async fn complete(harness: &Harness) -> CrawlReport {
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete", "{}", reason_text(&report));
    report
}

/// Asserts that the live groups have the ids of the API's groups, whatever their types.
async fn assert_live_ids_match_api(harness: &Harness) {
    assert_eq!(ids(&harness.live().await), ids(&harness.api.truth()));
}

async fn an_app_that_only_grows_loses_nothing(harness: Harness) {
    for confirm in [true, false] {
        let mut harness = harness.fresh().await;
        (harness.deletion.confirm, harness.page_limit) = (confirm, 100);
        harness.group_types = group_types(&["Public"]);
        harness.create("Public", &numbered("public", 0..40));
        harness.create("Own", "own-1 own-2 own-3");
        complete(&harness).await;
        for crawl in 1..=2 {
            // The groups are created after the opening count and before the list.
            harness.during_request(2, move |api| {
                (0..5).for_each(|n| api.create("Public", &format!("new-{crawl}-{n}")));
            });
            let report = complete(&harness).await;
            assert_eq!((report.events.vanished, report.withheld), (0, 0), "confirm: {confirm}");
            assert_live_ids_match_api(&harness).await;
        }
    }
}

async fn an_app_whose_groups_change_at_random_loses_no_existing_group(harness: Harness) {
    let crawls = if campaign::is_full() { 25 } else { 8 };
    for confirm in [true, false] {
        let mut rng = StdRng::seed_from_u64(20_261_101);
        let mut harness = harness.fresh().await;
        (harness.deletion.confirm, harness.page_limit) = (confirm, 7);
        harness.group_types = group_types(&["Public"]);
        harness.create("Public", &numbered("public", 0..40));
        harness.create("Own", "own-1 own-2 own-3");
        let mut made = 0;
        for _ in 0..crawls {
            for _ in 0..rng.random_range(0..6) {
                let (create, seed) = (rng.random_bool(0.6), rng.random::<u64>());
                let group_type = if rng.random_bool(0.8) { "Public" } else { "Own" };
                made += 1;
                let change = move |api: &tim_group_sync::simulator::SimulatedApp| {
                    let groups: Vec<String> = api.truth().into_keys().collect();
                    if create {
                        api.create(group_type, &format!("new-{made}"));
                    } else if let Some(id) =
                        groups.get(usize::try_from(seed).unwrap_or(0) % groups.len().max(1))
                    {
                        api.dissolve(id);
                    }
                };
                harness.during_request(rng.random_range(1..12), change);
            }
            let report = harness.crawl().await;
            assert!(report.reason.is_none(), "{}", reason_text(&report));
            harness.clear_faults_and_actions();
        }
        if confirm {
            complete(&harness).await;
            complete(&harness).await;
            assert_live_ids_match_api(&harness).await;
        }
    }
}

async fn a_list_that_ends_early_with_a_matching_count_deletes_nothing(harness: Harness) {
    for confirm in [true, false] {
        for (configured, first_page) in [(&["Public", "Private"][..], 2), (&[], 2)] {
            let mut harness = harness.fresh().await;
            (harness.deletion.confirm, harness.page_limit) = (confirm, 60);
            harness.group_types = group_types(configured);
            harness.create("Public", &numbered("public", 0..80));
            harness.create("Private", &numbered("private", 0..40));
            complete(&harness).await;
            harness.fault_at_request(first_page, Fault::EarlyEnd);
            harness.fault_at_request(first_page, Fault::TotalCount(60));
            let lacking = if configured.is_empty() { 60 } else { 20 };
            let report = complete(&harness).await;
            assert_eq!(report.listed, 120 - lacking);
            let expected = if confirm { (lacking, 0) } else { (0, lacking) };
            assert_eq!((report.asked.spared, report.missing), expected, "{configured:?}");
            assert_eq!(deleted(&harness).await, [""; 0]);
            complete(&harness).await;
            assert_eq!(missing(&harness).await, [""; 0]);

            // Now every page and every TotalCount leave out the same third of the groups.
            harness.page_limit = 7;
            harness.api.script(At::Requests(harness.request(2)..=harness.request(7)), Fault::Partial(3));
            let report = complete(&harness).await;
            assert!(report.listed < 120, "the list was partial");
            assert_eq!(deleted(&harness).await, [""; 0]);
            harness.api.clear_faults();
            complete(&harness).await;
            assert_live_ids_match_api(&harness).await;
            assert_eq!(missing(&harness).await, [""; 0]);
        }
    }
}

async fn a_group_recreated_with_another_type_between_two_passes_gets_its_new_type(harness: Harness) {
    for confirm in [true, false] {
        let mut harness = harness.fresh().await;
        (harness.deletion.confirm, harness.page_limit) = (confirm, 100);
        harness.create("Public", &numbered("public", 0..25));
        harness.create("Private", &numbered("private", 0..25));
        complete(&harness).await;
        // The request for the list of Public has arrived, the one for Private has not.
        harness.during_request(3, |api| api.retype("private-7", "Public"));
        let report = complete(&harness).await;
        assert_eq!((report.listed, report.events.vanished), (49, 0));
        if !confirm {
            complete(&harness).await;
        }
        harness.assert_table_matches_api().await;
        let crawl = if confirm { 2 } else { 3 };
        assert_eq!(harness.events().await, [format!("{crawl} private-7 retyped Private>Public")]);
    }
}

async fn lists_of_a_stale_replica_change_no_existing_group(mut harness: Harness) {
    harness.create("Public", &numbered("public", 0..10));
    harness.create("Private", &numbered("private", 0..10));
    complete(&harness).await;
    harness.api.save_stale_copy();
    harness.dissolve("public-0 private-0");
    harness.create("Public", "public-10 public-11");
    harness.create("Private", "private-10");
    harness.api.retype("public-1", "Private");
    harness.api.retype("private-1", "Public");
    complete(&harness).await;
    harness.assert_table_matches_api().await;
    let truth = harness.api.truth();
    let events_of_existing = async |harness: &Harness| {
        let mut events = harness.rows("SELECT group_id, event, crawl_id FROM group_events").await;
        events.retain(|event| truth.contains_key(&event[0]));
        events
    };
    let before = events_of_existing(&harness).await;

    // All lists are stale in two consecutive crawls, then one request of a crawl, then every second
    // request.
    for _ in 0..2 {
        harness.api.script(At::List, Fault::Stale);
        harness.crawl().await;
        harness.clear_faults_and_actions();
        assert_eq!(events_of_existing(&harness).await, before);
    }
    let pages = 11;
    for page in 1..=pages {
        harness.fault_at_request(page, Fault::Stale);
        harness.crawl().await;
        harness.clear_faults_and_actions();
        assert_eq!(events_of_existing(&harness).await, before, "request {page}");
    }
    for first in 1..=2 {
        (first..=pages).step_by(2).for_each(|page| harness.fault_at_request(page, Fault::Stale));
        harness.crawl().await;
        harness.clear_faults_and_actions();
        assert_eq!(events_of_existing(&harness).await, before);
    }
    complete(&harness).await;
    harness.assert_table_matches_api().await;
    harness.page_limit = 100;
    complete(&harness).await;
    harness.assert_table_matches_api().await;
}

async fn dissolved_groups_reported_as_illegal_ids_are_deleted_by_the_next_crawl(harness: Harness) {
    let usual = AbsentCodes::default();
    for absent in [
        AbsentCodes::all(10015),
        AbsentCodes { default_form: 10015, ..usual },
        AbsentCodes { community: 10015, ..usual },
        AbsentCodes { custom: 10015, ..usual },
    ] {
        let mut harness = harness.fresh().await.with_api(Settings { absent, ..Settings::default() }).await;
        harness.group_types = group_types(&["Public", "Community"]);
        harness.page_limit = 100;
        harness.api.create_many("Public", 50);
        harness.api.create_many("Community", 50);
        complete(&harness).await;
        let gone: BTreeSet<String> = harness.api.dissolve_some(32).into_iter().collect();
        for form in ["@TGS#2", "@TGS#_", "room_"] {
            assert!(gone.iter().any(|id| id.starts_with(form)), "no group of the form {form} was dissolved");
        }
        let report = complete(&harness).await;
        assert_eq!(asked_counts(&report), [32, 32, 0, 0, 0], "{absent:?}");
        assert_eq!(deleted(&harness).await.into_iter().collect::<BTreeSet<_>>(), gone, "{absent:?}");
        harness.assert_table_matches_api().await;
    }
}

async fn the_last_groups_of_a_type_that_is_no_longer_configured_vanish(mut harness: Harness) {
    harness.page_limit = 100;
    harness.group_types = group_types(&["Public", "ChatRoom"]);
    harness.create("Public", &numbered("public", 0..40));
    harness.create("ChatRoom", &numbered("room", 0..5));
    complete(&harness).await;
    harness.group_types = group_types(&["Public"]);
    complete(&harness).await;
    assert_eq!(harness.live().await, harness.api.truth());
    harness.dissolve(&numbered("room", 0..5));
    let report = complete(&harness).await;
    assert_eq!((report.listed, report.events.vanished), (40, 5));
    harness.assert_table_matches_api().await;
}

async fn every_group_gets_its_type_back_after_the_filter_was_ignored(mut harness: Harness) {
    harness.page_limit = 100;
    // The filter is ignored in the first crawl, which stores each group under the type of its list,
    // or in a later crawl.
    for crawls_before in [0, 1] {
        let mut harness = harness.fresh().await;
        harness.page_limit = 100;
        harness.create("Public", "a b");
        harness.create("Private", "c d");
        harness.create("ChatRoom", "e f");
        for _ in 0..crawls_before {
            complete(&harness).await;
        }
        harness.api.script(At::List, Fault::IgnoreGroupType);
        harness.crawl().await;
        harness.api.clear_faults();
        complete(&harness).await;
        harness.assert_table_matches_api().await;
        if crawls_before > 0 {
            assert_eq!(harness.events().await, [""; 0], "no existing group changed its type");
        }
        complete(&harness).await;
        harness.assert_table_matches_api().await;
    }
}

async fn a_new_group_listed_only_by_a_later_unfiltered_pass_gets_an_appeared_event(mut harness: Harness) {
    harness.page_limit = 100;
    harness.create("Public", "a b");
    harness.create("Private", "c");
    harness.create("Own", "own-1 own-2");
    complete(&harness).await;
    assert_eq!(harness.events().await, [""; 0], "the first unfiltered pass is a baseline");
    // These groups are created after the typed lists and before the unfiltered one.
    harness.during_request(4, |api| {
        api.create("Public", "late");
        api.create("Own", "own-3");
        api.create("Strange", "strange");
    });
    complete(&harness).await;
    let appeared =
        ["2 late appeared NULL>Public", "2 own-3 appeared NULL>Own", "2 strange appeared NULL>Strange"];
    assert_eq!(harness.events().await, appeared);
    harness.assert_table_matches_api().await;
    complete(&harness).await;
    assert_eq!(harness.events().await, appeared);
}

/// Returns every row that a crawl may write, except its own record.
async fn rows_beside_crawls(harness: &Harness) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for table in ["group_row", "type_state", "daily_count", "group_event", "group_question", "crawl_change"] {
        rows.extend(harness.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).await);
    }
    rows
}

/// In hours.
const A_YEAR: i32 = 365 * 24;

async fn a_crawl_with_a_clock_that_is_a_year_off_fails_and_writes_only_its_record(harness: Harness) {
    harness.create("Public", "a b c");
    complete(&harness).await;
    harness.dissolve("a");
    harness.create("Public", "d");
    for hours in [A_YEAR, -A_YEAR] {
        let before = rows_beside_crawls(&harness).await;
        // Only the crawler's clock is wrong. The API's `Date` header is right.
        harness.set_clock_by(hours);
        harness.api.set_date_offset(TimeDelta::hours((-hours).into()));
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), "failed clock", "{}", reason_text(&report));
        assert_eq!(rows_beside_crawls(&harness).await, before, "{hours} h");
        harness.set_clock_by(-hours);
        harness.api.set_date_offset(TimeDelta::zero());
    }
    // A skew of half an hour is only reported.
    harness.api.set_date_offset(TimeDelta::minutes(30));
    complete(&harness).await;
    harness.assert_table_matches_api().await;
    let today = harness.clock.now().format("%Y-%m-%d").to_string();
    assert_eq!(harness.lines("SELECT DISTINCT day FROM daily_counts").await, [today]);
}

async fn a_clock_a_year_ahead_that_no_date_header_contradicts_does_no_lasting_harm(mut harness: Harness) {
    harness.retention = Retention { deleted_groups: Some(30), events: Some(30), counts: Some(30) };
    harness.create("Public", "a b c d e");
    complete(&harness).await;
    harness.dissolve("a");
    complete(&harness).await;
    harness.dissolve("b");
    harness.create("Public", "f");
    harness.set_clock_by(A_YEAR);
    harness.api.script(At::Every, Fault::NoDate);
    complete(&harness).await;
    harness.api.clear_faults();
    harness.set_clock_by(-A_YEAR);
    harness.dissolve("c");
    let report = complete(&harness).await;
    harness.set_clock_by(24);
    let next = complete(&harness).await;
    harness.assert_table_matches_api().await;
    assert_eq!(deleted(&harness).await, ["a", "b", "c"], "retention removed nothing too early");
    let format_time = harness::crawl::format_time;
    let c = "SELECT last_seen_at <= deleted_at, deleted_at FROM groups WHERE group_id = 'c'";
    assert_eq!(harness.lines(c).await, [format!("1 {}", format_time(report.finished_at))]);
    let seen = "SELECT DISTINCT last_seen_at FROM live_groups WHERE group_id IN ('d', 'e')";
    assert_eq!(harness.lines(seen).await, [format_time(next.started_at)]);
    let as_of = "SELECT DISTINCT as_of FROM type_status WHERE group_type = 'Public'";
    assert_eq!(harness.lines(as_of).await, [format_time(next.started_at)]);
    let latest = next.finished_at.format("%Y-%m-%d").to_string();
    let later = format!("SELECT count(*) FROM daily_counts WHERE day > '{latest}'");
    assert_eq!(harness.value(&later).await, "0");
    let sums = "SELECT sum(appeared), sum(vanished) FROM daily_counts";
    assert_eq!(harness.lines(sums).await, ["1 3"]);
}

async fn a_failed_crawl_with_a_clock_far_behind_changes_no_daily_counts(harness: Harness) {
    let days = "SELECT day, group_type, live_groups, appeared, vanished FROM daily_counts
                WHERE day > '2026-01-01' ORDER BY day, group_type";
    harness.create("Public", "a b c");
    for new in ["d", "e", "f"] {
        harness.create("Public", new);
        complete(&harness).await;
        harness.set_clock_by(24);
    }
    let before = harness.lines(days).await;
    // No answer has a `Date`, so the crawl does not notice the wrong clock.
    harness.api.script(At::Every, Fault::Status(502));
    harness.set_clock_by(-A_YEAR);
    assert_eq!(outcome(&harness.crawl().await), "failed network");
    assert_eq!(harness.lines(days).await, before);
    harness.api.clear_faults();
    harness.set_clock_by(A_YEAR);
    complete(&harness).await;
    assert!(harness.lines(days).await.starts_with(&before[..4]));
}

async fn an_endless_list_is_aborted_and_few_of_its_new_ids_are_written(harness: Harness) {
    for crawls_before in [0, 1] {
        let mut harness = harness.fresh().await;
        harness.page_limit = 1000;
        harness.create("Public", "a b c d e");
        for _ in 0..crawls_before {
            complete(&harness).await;
        }
        harness.api.script(At::Type("Public".to_owned()), Fault::InventIds);
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), "failed endless_listing", "{}", reason_text(&report));
        // At most 2 × 5 + 10,000 entries are 11 pages. One page more, prefetched pages and the
        // count.
        assert!(report.requests <= 13, "{}", report.requests);
        let live: usize = harness.live().await.len();
        assert!(live <= 5 + 5 + 1000, "{live} groups are live");
        harness.api.clear_faults();
        complete(&harness).await;
        harness.assert_table_matches_api().await;
    }
}

/// The new groups of an unfiltered list are buffered until the end of the crawl, up to a capacity.
/// Groups beyond the capacity are limited like those of any endless list.
async fn an_endless_unfiltered_list_is_aborted_and_few_of_its_new_ids_are_written(mut harness: Harness) {
    harness.page_limit = 10_000;
    harness.api.create_many("Public", 25_000);
    harness.create("Own", "own");
    // The fault begins after the count, three pages of Public, one of Private, and the second
    // count.
    harness.fault_from_request(7, Fault::InventIds);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "failed endless_listing", "{}", reason_text(&report));
    let live: u64 = harness.value("SELECT count(*) FROM live_groups").await.parse().unwrap();
    assert!((25_000..=25_000 + 1_002).contains(&live), "{live} groups are live");
}

async fn ids_that_are_not_valid_text_are_counted_and_skipped(harness: Harness) {
    harness.create("Public", "a b c d e");
    complete(&harness).await;
    harness.dissolve("a");
    harness.api.script(At::List, Fault::BrokenIds);
    let report = complete(&harness).await;
    assert_eq!(report.listed, 4);
    harness.assert_table_matches_api().await;
    let unusable = format!("SELECT sum(unusable) FROM crawl_pass WHERE crawl_id = {}", report.crawl);
    assert_eq!(harness.value(&unusable).await, (3 * 3).to_string(), "two pages of Public and one of Private");
}

async fn the_hint_about_max_shortfall_is_given_for_small_gaps_only(mut harness: Harness) {
    harness.page_limit = 200;
    harness.create("Public", &numbered("public", 0..100));
    complete(&harness).await;
    for (count, hint) in [(103, true), (200, false)] {
        harness.fault_at_request(2, Fault::TotalCount(count));
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), "incomplete short_listing");
        assert_eq!(reason_text(&report).contains("would accept the list"), hint, "{}", reason_text(&report));
    }
}

async fn contradictory_controls_conclude_nothing_and_the_log_has_both_codes(harness: Harness) {
    for (fault, codes) in [
        (Fault::SwappedCodes, "id that cannot exist: 0, listed group: 10010"),
        (Fault::EveryGroup(0), "id that cannot exist: 0, listed group: 0"),
        (Fault::EveryGroup(10010), "id that cannot exist: 10010, listed group: 10010"),
        (Fault::EveryGroup(10015), "id that cannot exist: 10015, listed group: 10015"),
        (Fault::UnknownCodes, "id that cannot exist: 99999, listed group: 99999"),
        (Fault::FewerGroups, "id that cannot exist: none, listed group: 0"),
    ] {
        let harness = harness.fresh().await;
        harness.create("Public", "a b c d e f");
        complete(&harness).await;
        harness.dissolve("b");
        harness.api.script(At::Info, fault.clone());
        let (log, _guard) = capture_log();
        for _ in 0..4 {
            let report = complete(&harness).await;
            assert_eq!(asked_counts(&report), [1, 0, 0, 1, 0], "{fault:?}");
            assert_eq!(missing(&harness).await, ["b"], "{fault:?}: neither deleted nor held");
        }
        let log = log.text();
        let is_logged = log.lines().any(|line| line.contains("unexpected codes") && line.contains(codes));
        assert!(is_logged, "{fault:?}: {log}");
        harness.api.clear_faults();
        complete(&harness).await;
        harness.assert_table_matches_api().await;
    }
}

async fn if_the_api_refuses_get_group_info_deletions_are_withheld(harness: Harness) {
    harness.create("Public", "a b c d e");
    complete(&harness).await;
    harness.dissolve("b");
    harness.api.hide(&["c"]);
    harness.api.script(At::Info, Fault::ErrorCode(10007));
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete confirm_refused 10007", "{}", reason_text(&report));
    assert_eq!((report.withheld, report.withheld_confirmed, report.events.vanished), (2, 0, 0));
    assert_eq!(missing(&harness).await, ["b held", "c held"]);
    complete(&harness).await;
    assert_eq!(missing(&harness).await, ["b held", "c held"]);
    harness.api.clear_faults();
    complete(&harness).await;
    // The dissolved group is confirmed and waits for approval. The existing one is released.
    assert_eq!(missing(&harness).await, ["b held confirmed"]);
    let confirmed = format!("SELECT withheld_confirmed FROM crawls WHERE crawl_id = {}", report.crawl);
    assert_eq!(harness.value(&confirmed).await, "1");
    assert_eq!(harness.approve(report.crawl).await, 1);
    assert_eq!(deleted(&harness).await, ["b"]);
}

async fn a_group_for_which_the_api_rejects_the_request_does_not_keep_the_others_undecided(harness: Harness) {
    for code in [10007, 10004] {
        let harness = harness.fresh().await;
        harness.create("Public", "a b c d e f");
        complete(&harness).await;
        harness.dissolve("b c d e");
        // The request for b c d e, then for b c, then for b.
        harness.api.script(At::InfoRequest(1), Fault::ErrorCode(code));
        harness.api.script(At::InfoRequest(2), Fault::ErrorCode(code));
        harness.api.script(At::InfoRequest(4), Fault::ErrorCode(code));
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), "complete", "{code}: {}", reason_text(&report));
        assert_eq!(deleted(&harness).await, ["c", "d", "e"], "{code}");
        assert_eq!(missing(&harness).await, ["b"], "{code}");
    }
}

async fn a_failed_or_unusable_answer_deletes_nothing(harness: Harness) {
    for fault in [
        Fault::Timeout,
        Fault::Reset,
        Fault::TruncatedBody,
        Fault::NotJson,
        Fault::HtmlWith200,
        Fault::Redirect,
        Fault::Status(500),
        Fault::Status(429),
        Fault::ErrorCode(10002),
        Fault::ErrorCode(60011),
        Fault::ErrorCode(10015),
        Fault::ErrorCode(99999),
        Fault::UnknownCodes,
        Fault::FewerGroups,
        Fault::GroupCode("b".to_owned(), 10002),
    ] {
        let mut harness = harness.fresh().await;
        if fault == Fault::Timeout {
            harness.request_timeout = Duration::from_millis(300);
        }
        harness.create("Public", "a b c d e");
        complete(&harness).await;
        harness.dissolve("b");
        harness.api.script(At::Info, fault.clone());
        let report = complete(&harness).await;
        assert_eq!((report.events.vanished, report.withheld), (0, 0), "{fault:?}");
        assert_eq!(missing(&harness).await, ["b"], "{fault:?}");
        assert_eq!(asked_counts(&report)[1..3], [0, 0], "{fault:?}");
        harness.api.clear_faults();
        complete(&harness).await;
        assert_eq!(deleted(&harness).await, ["b"], "{fault:?}");
    }
    // These faults hit only the first request. The retry, or the delayed answer, succeeds.
    for fault in [Fault::Reset, Fault::TruncatedBody, Fault::Delay(Duration::from_millis(20))] {
        let harness = harness.fresh().await;
        harness.create("Public", "a b c d e");
        complete(&harness).await;
        harness.dissolve("b");
        harness.api.script(At::InfoRequest(1), fault.clone());
        complete(&harness).await;
        assert_eq!(deleted(&harness).await, ["b"], "{fault:?}");
    }
}

async fn answers_in_another_order_are_matched_to_their_groups(harness: Harness) {
    harness.create("Public", "a b c d e f g");
    complete(&harness).await;
    harness.dissolve("b d");
    harness.api.hide(&["c"]);
    harness.api.script(At::Info, Fault::OtherOrder);
    let report = complete(&harness).await;
    assert_eq!(asked_counts(&report), [3, 2, 1, 0, 0]);
    assert_eq!(deleted(&harness).await, ["b", "d"]);
}

async fn groups_not_asked_about_because_of_throttling_are_asked_about_later(harness: Harness) {
    let throttled = Settings { info_per_second: Some(1), ..Settings::default() };
    let mut harness = harness.with_api(throttled).await;
    harness.page_limit = 1000;
    harness.api.create_many("Public", 400);
    complete(&harness).await;
    harness.api.dissolve_some(144);
    let report = complete(&harness).await;
    let [asked, confirmed, .., unasked] = asked_counts(&report);
    assert!(asked == confirmed && unasked >= 48, "{:?}", report.asked);
    assert_eq!((confirmed.cast_signed(), report.missing), (report.events.vanished, unasked));
    let begun = Instant::now();
    while harness.live().await.len() > 256 {
        complete(&harness).await;
        assert!(begun.elapsed() < Duration::from_mins(1), "the rest is never asked about");
    }
    harness.assert_table_matches_api().await;
}

async fn a_single_candidate_reported_as_an_illegal_id_is_held_after_three_crawls_and_backed_off(
    harness: Harness,
) {
    harness.create("Public", "a b c d e");
    complete(&harness).await;
    harness.api.hide(&["b"]);
    harness.api.script(At::Info, Fault::GroupCode("b".to_owned(), 10015));
    for _ in 0..2 {
        let report = complete(&harness).await;
        assert_eq!(asked_counts(&report), [1, 0, 0, 1, 0]);
        assert_eq!(missing(&harness).await, ["b"]);
    }
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete unconfirmable", "{}", reason_text(&report));
    assert_eq!(missing(&harness).await, ["b held"]);
    let mut asked_in = Vec::new();
    for crawl in 1..=16 {
        let before = harness.requests_so_far();
        complete(&harness).await;
        if !info_requests(&harness, before).is_empty() {
            asked_in.push(crawl);
        }
    }
    assert_eq!(asked_in, [1, 3, 7, 15]);
    assert_eq!(missing(&harness).await, ["b held"]);
    assert_eq!(deleted(&harness).await, [""; 0]);
    let program = ProgramHarness::new(harness, "group_types = [\"Public\", \"Private\"]\n");
    let status = program.run(&["status"]).await;
    let lines =
        status.output.lines().filter(|line| line.contains("apply them: tim-group-sync approve --crawl"));
    assert_eq!(lines.count(), 1, "{}", status.output);
}

async fn a_listed_control_that_was_dissolved_is_replaced(harness: Harness) {
    harness.create("Public", "a b c d e f");
    complete(&harness).await;
    harness.dissolve("b");
    let asked_before = harness.requests_so_far();
    harness.api.on_request(|api, request| {
        if request.call == Call::Info && request.nth_of_call <= 2 {
            api.dissolve(request.groups.last().unwrap());
        }
    });
    let report = complete(&harness).await;
    assert_eq!(info_requests(&harness, asked_before), [3, 3, 3], "two controls were replaced");
    assert_eq!((asked_counts(&report), deleted(&harness).await), ([1, 1, 0, 0, 0], vec!["b".to_owned()]));
    complete(&harness).await;
    harness.assert_table_matches_api().await;
}

async fn an_existing_group_that_lists_lack_is_asked_about_after_1_2_4_8_16_and_24_crawls(harness: Harness) {
    harness.create("Public", "a b c d e");
    complete(&harness).await;
    harness.api.hide(&["b"]);
    let mut asked_in = Vec::new();
    for crawl in 1..=57 {
        let before = harness.requests_so_far();
        let report = complete(&harness).await;
        let is_asked = !info_requests(&harness, before).is_empty();
        assert_eq!(report.asked.spared, u64::from(is_asked));
        if is_asked {
            asked_in.push(crawl);
        }
    }
    assert_eq!(asked_in, [1, 2, 4, 8, 16, 32, 56]);
    assert_eq!(missing(&harness).await, [""; 0]);
    // Once a list has the group again, the back-off ends: the next time it is asked about at once.
    harness.api.show_all();
    complete(&harness).await;
    harness.dissolve("b");
    complete(&harness).await;
    harness.assert_table_matches_api().await;
}

async fn an_emptied_app_is_settled_by_one_crawl(harness: Harness) {
    for configured in [&["Public", "Private"][..], &[]] {
        for groups in [1, 12] {
            let mut harness = harness.fresh().await;
            harness.group_types = group_types(configured);
            harness.create("Public", &numbered("public", 0..groups));
            complete(&harness).await;
            harness.dissolve(&numbered("public", 0..groups));
            let report = complete(&harness).await;
            let gone = u64::from(groups);
            assert_eq!(asked_counts(&report), [gone, gone, 0, 0, 0], "{configured:?}");
            harness.assert_table_matches_api().await;
        }
    }
}

async fn a_large_loss_is_held_and_later_crawls_confirm_or_release_but_never_delete(mut harness: Harness) {
    harness.page_limit = 1000;
    (harness.deletion.max_fraction, harness.deletion.min_groups) = (0.2, 100);
    harness.api.create_many("Public", 1200);
    complete(&harness).await;
    let gone = harness.api.dissolve_some(280);
    let existing: Vec<String> = harness.api.truth().into_keys().take(200).collect();
    harness.api.hide(&existing.iter().map(String::as_str).collect::<Vec<_>>());
    // The API answers one request and throttles the others.
    harness.api.script(At::InfoRequests(2..=u64::MAX), Fault::ErrorCode(60011));
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete guard", "{}", reason_text(&report));
    let [_, confirmed, spared, _, unasked] = asked_counts(&report);
    assert_eq!((confirmed + spared, unasked), (48, 480 - 48));
    assert_eq!((report.withheld, report.withheld_confirmed), (480 - spared, confirmed));
    harness.api.clear_faults();
    complete(&harness).await;
    assert_eq!(deleted(&harness).await, [""; 0]);
    let held =
        "SELECT count(*), sum(CASE WHEN confirmed = true THEN 1 ELSE 0 END) FROM live_groups WHERE held";
    assert_eq!(harness.lines(held).await, ["280 280"]);
    complete(&harness).await;
    assert_eq!(harness.lines(held).await, ["280 280"]);
    assert_eq!(harness.approve(report.crawl).await, 280);
    assert_eq!(deleted(&harness).await.into_iter().collect::<BTreeSet<_>>(), gone.into_iter().collect());
    assert_live_ids_match_api(&harness).await;
}

async fn groups_with_an_undone_deletion_are_not_asked_about(harness: Harness) {
    harness.create("Public", "a b c d");
    complete(&harness).await;
    harness.dissolve("b");
    let report = complete(&harness).await;
    assert_eq!(harness.undelete(report.crawl).await, 1);
    let before = harness.requests_so_far();
    for _ in 0..3 {
        complete(&harness).await;
        assert_eq!(missing(&harness).await, ["b held"]);
    }
    assert_eq!(info_requests(&harness, before), [0; 0]);
}

async fn an_unchanged_crawl_writes_nothing_and_asks_nothing(mut harness: Harness) {
    harness.page_limit = 100;
    harness.create("Public", "a b c d e");
    harness.create("Private", "f");
    harness.create("Own", "own");
    complete(&harness).await;
    harness.dissolve("a");
    harness.api.hide(&["b"]);
    for _ in 0..4 {
        complete(&harness).await;
    }
    // The first, second and fourth of these crawls asked about the existing group. The next ones do
    // not.
    for _ in 0..3 {
        let before = harness.requests_so_far();
        harness.forbid_changes_to_groups().await;
        complete(&harness).await;
        harness.allow_changes_to_groups().await;
        assert_eq!(info_requests(&harness, before), [0; 0]);
        let lists = ["count", "Public 1", "Private 1", "count", "all 1", "count"];
        assert_eq!(harness.requests_after(before), lists);
    }
}

async fn without_configured_types_no_type_is_stored(mut harness: Harness) {
    harness.group_types = group_types(&[]);
    harness.create("Public", "a b c");
    harness.create("Private", "d e f");
    complete(&harness).await;
    harness.dissolve("a");
    harness.api.hide(&["b", "d"]);
    harness.create("Own", "own");
    let report = complete(&harness).await;
    assert_eq!(asked_counts(&report), [3, 1, 2, 0, 0]);
    let table = ["a NULL deleted", "b NULL", "c NULL", "d NULL", "e NULL", "f NULL", "own NULL"];
    assert_eq!(harness.table().await, table);
}

async fn a_type_learned_for_a_group_without_one_is_stored_without_an_event(mut harness: Harness) {
    harness.deletion.confirm = false;
    harness.create("Public", "a");
    harness.create("Own", "own");
    complete(&harness).await;
    assert_eq!(harness.table().await, ["a Public", "own NULL"]);
    harness.deletion.confirm = true;
    complete(&harness).await;
    assert_eq!(harness.table().await, ["a Public", "own Own"]);
    assert_eq!(harness.events().await, [""; 0]);
}

async fn the_types_in_a_small_app_are_learned_although_no_other_group_can_be_a_control(harness: Harness) {
    for groups in [1, 5] {
        let mut harness = harness.fresh().await;
        harness.page_limit = 100;
        harness.create("Own", &numbered("own", 0..groups));
        complete(&harness).await;
        harness.assert_table_matches_api().await;
        // Each control that is reported as gone is replaced, until there are no others.
        harness.create("Own", "own-new");
        harness.api.script(At::Info, Fault::EveryGroup(10010));
        complete(&harness).await;
        assert_eq!(harness.live().await["own-new"], "NULL");
        harness.api.clear_faults();
        complete(&harness).await;
        harness.assert_table_matches_api().await;
        assert_eq!(harness.events().await, ["2 own-new appeared NULL>NULL"]);
    }
}

async fn a_group_listed_under_two_types_keeps_its_stored_type(harness: Harness) {
    for (confirm, refused) in [(false, false), (true, false), (true, true)] {
        let mut harness = harness.fresh().await;
        (harness.deletion.confirm, harness.page_limit) = (confirm, 100);
        harness.create("Public", "a b");
        harness.create("Private", "x y");
        harness.create("ChatRoom", "z");
        harness.group_types = group_types(&["Public", "Private", "ChatRoom"]);
        complete(&harness).await;
        harness.group_types = group_types(&["Public", "Private"]);
        // x, a Private group, is listed under Private and Public. z, a ChatRoom, is listed under
        // Public and Private.
        let extra = Fault::ExtraIds(vec!["x".to_owned(), "z".to_owned()]);
        harness.api.script(At::Type("Public".to_owned()), extra);
        harness.api.script(At::Type("Private".to_owned()), Fault::ExtraIds(vec!["z".to_owned()]));
        if refused {
            harness.api.script(At::Info, Fault::ErrorCode(10007));
        }
        for _ in 0..3 {
            complete(&harness).await;
            assert_eq!(harness.live().await, harness.api.truth(), "confirm: {confirm}, refused: {refused}");
        }
        assert_eq!(harness.events().await, [""; 0]);
    }
}
