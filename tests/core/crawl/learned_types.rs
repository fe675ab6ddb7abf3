//! Groups of uncertain type, and the types that answers of `get_group_info` give them.

use harness::crawl::{Harness, group_types};
use harness::crawl_tests;
use tim_group_sync::simulator::{At, Fault};

use crate::confirmation::{complete, lookup_counts, numbered};

crawl_tests! {
    the_last_groups_of_a_type_that_is_no_longer_configured_vanish,
    every_group_gets_its_type_back_after_the_filter_was_ignored,
    a_new_group_listed_only_by_a_later_unfiltered_pass_gets_an_appeared_event,
    without_configured_types_no_type_is_stored,
    a_type_learned_for_a_group_without_one_is_stored_without_an_event,
    the_types_in_a_small_app_are_learned_although_no_other_group_can_be_a_control,
    a_group_listed_under_two_types_keeps_its_stored_type,
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
    // The API ignores the filter in the first crawl, which stores each group under the type of its
    // list, or in a later crawl.
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

async fn without_configured_types_no_type_is_stored(mut harness: Harness) {
    harness.group_types = group_types(&[]);
    harness.create("Public", "a b c");
    harness.create("Private", "d e f");
    complete(&harness).await;
    harness.dissolve("a");
    harness.api.hide(&["b", "d"]);
    harness.create("Own", "own");
    let report = complete(&harness).await;
    assert_eq!(lookup_counts(&report), [3, 1, 2, 0, 0]);
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
