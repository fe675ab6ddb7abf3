//! Dry runs: they predict every change and write nothing.

use harness::crawl::{Harness, ON_COMMAND, group_types, outcome};
use harness::crawl_tests;
use tim_group_sync::crawl::{CrawlError, WhenBusy};
use tim_group_sync::model::CrawlStatus;
use tim_group_sync::simulator::{At, Fault};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    a_dry_run_before_the_first_crawl_reports_a_baseline,
    a_dry_run_predicts_every_change_and_writes_nothing,
    without_confirmation_a_dry_run_predicts_the_deletions_of_the_lists,
    a_dry_run_predicts_what_the_guard_withholds_and_why,
    a_dry_run_of_a_short_list_predicts_an_incomplete_crawl,
    a_dry_run_holds_the_lease_and_records_the_request_interval,
    a_dry_run_that_fails_reports_the_changes_found_so_far,
    a_dry_run_looks_up_candidates_too,
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

async fn a_dry_run_looks_up_candidates_too(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.api.retype("b", "Own");
    harness.api.hide(&["b"]);
    harness.dissolve("c");
    let (dry_run, changes) = harness.dry_run().await;
    assert_eq!(
        (dry_run.lookups.spared, changes),
        (1, vec!["b retyped Public>Own".to_owned(), "c vanished Public>NULL".to_owned()])
    );
    assert_eq!(harness.crawl_after_dry_run().await.lookups.spared, 1);
}
