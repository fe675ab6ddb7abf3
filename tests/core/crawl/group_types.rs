//! Types without a pass: unfiltered lists, and types that are not configured or that the API
//! rejects.

use harness::crawl::{Harness, format_time, group_types, outcome, reason_text};
use harness::crawl_tests;
use tim_group_sync::crawl::CrawlReport;
use tim_group_sync::simulator::{At, Fault};

crawl_tests! {
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
    a_rejected_type_is_skipped_and_its_groups_are_kept,
    a_type_that_is_unknown_to_the_api_is_skipped,
    a_type_that_is_rejected_in_the_middle_fails_the_crawl,
    a_crawl_whose_types_are_all_rejected_fails,
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
    let lookups = steady.await.lookups;
    assert_eq!((lookups.asked, lookups.confirmed), (1, 1));
    let mut harness = harness.fresh().await;
    let shrunk = crawled_without_two_types(&mut harness, |harness| harness.dissolve("b x")).await;
    assert_eq!(
        (outcome(&shrunk).as_str(), shrunk.events.vanished, shrunk.lookups.spared),
        ("complete", 2, 2)
    );
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
