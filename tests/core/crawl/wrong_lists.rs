//! Lists that are wrong or never end. No existing group is marked deleted, whatever they say.

use harness::campaign;
use harness::crawl::{Harness, group_types, outcome, reason_text};
use harness::crawl_tests;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tim_group_sync::simulator::{At, Fault};

use crate::confirmation::{assert_live_ids_match_api, complete, deleted, missing, numbered};

crawl_tests! {
    an_app_that_only_grows_loses_nothing,
    an_app_whose_groups_change_at_random_loses_no_existing_group,
    a_list_that_ends_early_with_a_matching_count_deletes_nothing,
    a_group_recreated_with_another_type_between_two_passes_gets_its_new_type,
    lists_of_a_stale_replica_change_no_existing_group,
    an_endless_list_is_aborted_and_few_of_its_new_ids_are_written,
    an_endless_unfiltered_list_is_aborted_and_few_of_its_new_ids_are_written,
    ids_that_are_not_valid_text_are_counted_and_skipped,
    the_hint_about_max_shortfall_is_given_for_small_gaps_only,
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
            assert_eq!((report.lookups.spared, report.missing), expected, "{configured:?}");
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
