//! Confirmation of deletions by `get_group_info`. Whatever the lists say, no existing group is
//! marked deleted, and every dissolved group is marked deleted by the next crawl that may look
//! it up.
//!
//! After every crawl, [`Harness::assert_invariants`] checks that no group was deleted that existed
//! throughout the crawl.

use harness::crawl::{Harness, group_types, ids, outcome, reason_text};
use harness::crawl_tests;
use harness::log::capture_log;
use harness::program::ProgramHarness;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tim_group_sync::crawl::CrawlReport;
use tim_group_sync::simulator::{AbsentCodes, At, Call, Fault, Settings};

crawl_tests! {
    dissolved_groups_reported_as_illegal_ids_are_deleted_by_the_next_crawl,
    contradictory_controls_conclude_nothing_and_the_log_has_both_codes,
    if_the_api_refuses_get_group_info_deletions_are_withheld,
    a_group_for_which_the_api_rejects_the_request_is_isolated_from_the_others,
    a_failed_or_unusable_answer_deletes_nothing,
    answers_in_another_order_are_matched_to_their_groups,
    groups_not_looked_up_because_of_throttling_are_looked_up_later,
    a_single_candidate_reported_as_an_illegal_id_is_held_after_three_crawls_and_backed_off,
    a_listed_control_that_was_dissolved_is_replaced,
    an_existing_group_that_lists_lack_is_looked_up_after_1_2_4_8_16_and_24_crawls,
    an_emptied_app_is_settled_by_one_crawl,
    a_large_loss_is_held_and_later_crawls_confirm_or_release_but_never_delete,
    groups_with_an_undone_deletion_are_not_looked_up,
    an_unchanged_crawl_writes_nothing_and_looks_up_nothing,
}

pub(crate) fn numbered(prefix: &str, numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("{prefix}-{n}")).collect::<Vec<_>>().join(" ")
}

/// Returns the counts [asked, confirmed, spared, unlearned, unasked].
pub(crate) fn lookup_counts(report: &CrawlReport) -> [u64; 5] {
    let counts = report.lookups;
    [counts.asked, counts.confirmed, counts.spared, counts.unlearned, counts.unasked]
}

/// Returns the number of ids in each `get_group_info` request after the first `skip` requests.
pub(crate) fn info_requests(harness: &Harness, skip: u64) -> Vec<usize> {
    let requests = harness.api.requests();
    let info = requests.iter().filter(|request| request.number > skip && request.call == Call::Info);
    info.map(|request| request.groups.len()).collect()
}

pub(crate) async fn deleted(harness: &Harness) -> Vec<String> {
    harness.lines("SELECT group_id FROM groups WHERE deleted_at IS NOT NULL ORDER BY group_id").await
}

/// Returns the ids of the missing groups, each followed by `held` and `confirmed` if it is.
pub(crate) async fn missing(harness: &Harness) -> Vec<String> {
    let sql = "SELECT group_id, CASE WHEN held THEN ' held' ELSE '' END, CASE WHEN confirmed = true THEN ' confirmed' ELSE '' END
               FROM live_groups WHERE missing_since IS NOT NULL ORDER BY group_id";
    harness.rows(sql).await.iter().map(|row| row.concat()).collect()
}

pub(crate) async fn complete(harness: &Harness) -> CrawlReport {
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete", "{}", reason_text(&report));
    report
}

/// Asserts that the live groups have the ids of the API's groups, whatever their types.
pub(crate) async fn assert_live_ids_match_api(harness: &Harness) {
    assert_eq!(ids(&harness.live().await), ids(&harness.api.truth()));
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
        assert_eq!(lookup_counts(&report), [32, 32, 0, 0, 0], "{absent:?}");
        assert_eq!(deleted(&harness).await.into_iter().collect::<BTreeSet<_>>(), gone, "{absent:?}");
        harness.assert_table_matches_api().await;
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
            assert_eq!(lookup_counts(&report), [1, 0, 0, 1, 0], "{fault:?}");
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

async fn a_group_for_which_the_api_rejects_the_request_is_isolated_from_the_others(harness: Harness) {
    for code in [10007, 10004] {
        let harness = harness.fresh().await;
        harness.create("Public", "a b c d e f");
        complete(&harness).await;
        harness.dissolve("b c d e");
        // These are the requests about b c d e, b c, and b.
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
            harness.request_timeout = Duration::from_secs(1);
        }
        harness.create("Public", "a b c d e");
        complete(&harness).await;
        harness.dissolve("b");
        harness.api.script(At::Info, fault.clone());
        let report = complete(&harness).await;
        assert_eq!((report.events.vanished, report.withheld), (0, 0), "{fault:?}");
        assert_eq!(missing(&harness).await, ["b"], "{fault:?}");
        assert_eq!(lookup_counts(&report)[1..3], [0, 0], "{fault:?}");
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
    harness.api.script(At::Info, Fault::ReverseOrder);
    let report = complete(&harness).await;
    assert_eq!(lookup_counts(&report), [3, 2, 1, 0, 0]);
    assert_eq!(deleted(&harness).await, ["b", "d"]);
}

async fn groups_not_looked_up_because_of_throttling_are_looked_up_later(harness: Harness) {
    let throttled = Settings { info_per_second: Some(1), ..Settings::default() };
    let mut harness = harness.with_api(throttled).await;
    harness.page_limit = 1000;
    harness.api.create_many("Public", 400);
    complete(&harness).await;
    harness.api.dissolve_some(144);
    let report = complete(&harness).await;
    let [asked, confirmed, .., unasked] = lookup_counts(&report);
    assert!(asked == confirmed && unasked >= 48, "{:?}", report.lookups);
    assert_eq!((confirmed.cast_signed(), report.missing), (report.events.vanished, unasked));
    let begun = Instant::now();
    while harness.live().await.len() > 256 {
        complete(&harness).await;
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "the remaining groups were not looked up within a minute"
        );
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
        assert_eq!(lookup_counts(&report), [1, 0, 0, 1, 0]);
        assert_eq!(missing(&harness).await, ["b"]);
    }
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete unconfirmable", "{}", reason_text(&report));
    assert_eq!(missing(&harness).await, ["b held"]);
    let mut looked_up_in = Vec::new();
    for crawl in 1..=16 {
        let before = harness.requests_so_far();
        complete(&harness).await;
        if !info_requests(&harness, before).is_empty() {
            looked_up_in.push(crawl);
        }
    }
    assert_eq!(looked_up_in, [1, 3, 7, 15]);
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
    let before = harness.requests_so_far();
    harness.api.on_request(|api, request| {
        if request.call == Call::Info && request.nth_of_call <= 2 {
            api.dissolve(request.groups.last().unwrap());
        }
    });
    let report = complete(&harness).await;
    assert_eq!(info_requests(&harness, before), [3, 3, 3], "two controls were replaced");
    assert_eq!((lookup_counts(&report), deleted(&harness).await), ([1, 1, 0, 0, 0], vec!["b".to_owned()]));
    complete(&harness).await;
    harness.assert_table_matches_api().await;
}

async fn an_existing_group_that_lists_lack_is_looked_up_after_1_2_4_8_16_and_24_crawls(harness: Harness) {
    harness.create("Public", "a b c d e");
    complete(&harness).await;
    harness.api.hide(&["b"]);
    let mut looked_up_in = Vec::new();
    for crawl in 1..=57 {
        let before = harness.requests_so_far();
        let report = complete(&harness).await;
        let is_looked_up = !info_requests(&harness, before).is_empty();
        assert_eq!(report.lookups.spared, u64::from(is_looked_up));
        if is_looked_up {
            looked_up_in.push(crawl);
        }
    }
    assert_eq!(looked_up_in, [1, 2, 4, 8, 16, 32, 56]);
    assert_eq!(missing(&harness).await, [""; 0]);
    // Once a list has the group again, the back-off ends: the next crawl that does not list the
    // group looks it up.
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
            assert_eq!(lookup_counts(&report), [gone, gone, 0, 0, 0], "{configured:?}");
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
    let [_, confirmed, spared, _, unasked] = lookup_counts(&report);
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

async fn groups_with_an_undone_deletion_are_not_looked_up(harness: Harness) {
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

async fn an_unchanged_crawl_writes_nothing_and_looks_up_nothing(mut harness: Harness) {
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
    // The first, second and fourth of these crawls looked up the existing group. The next ones do
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
