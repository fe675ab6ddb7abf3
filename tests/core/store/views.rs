//! The columns and the content of the views, and the state of earlier crawls.

#![deny(dead_code)]

use harness::store::{LeasedApp, TestDatabase, at};
use harness::store_tests;
use tim_group_sync::model::{CrawlStatus, ReasonCode, TypeId, Verdict};
use tim_group_sync::reconcile::Settlement;
use tim_group_sync::roll::Mark;
use tim_group_sync::store::{Closing, CrawlHistory, Reason};

use crate::crawl_end::pass;

store_tests![
    passes_are_visible_in_the_counts_once_the_crawl_has_ended,
    the_state_of_earlier_crawls_is_read_from_those_that_reached_their_end,
    events_of_a_running_crawl_are_not_visible,
    every_live_group_is_read_once_with_its_type_and_marks,
    views_have_exactly_these_columns_in_this_order,
    the_overview_has_counts_and_crawls,
];

async fn passes_are_visible_in_the_counts_once_the_crawl_has_ended(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(at(2, 0)).await;
    let shown =
        "SELECT group_type, total_count, total_count_min, total_count_max, listed_count, verdict, recorded_at
                 FROM type_counts ORDER BY group_type";
    assert!(db.lines(shown).await.is_empty());
    assert!(db.lines("SELECT * FROM app_counts").await.is_empty());
    let passes = [
        pass(leased.public, Some(Verdict::Moving), &[7, 9, 8], 9),
        pass(leased.private, Some(Verdict::Rejected), &[], 0),
        pass(TypeId::UNKNOWN, Some(Verdict::Exact), &[20], 20),
    ];
    let nothing = Settlement::nothing();
    let closing = Closing {
        passes: &passes,
        total_at_end: None,
        total_at_start: Some(u64::MAX),
        ..leased.closing(crawl, at(2, 0), at(2, 2), &nothing)
    };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    assert_eq!(
        db.lines(shown).await,
        [
            "Private|NULL|NULL|NULL|0|rejected|2026-03-01T02:01:00Z",
            "Public|8|7|9|9|moving|2026-03-01T02:01:00Z"
        ]
    );
    // A TotalCount that exceeds the range of the column is stored as the largest value.
    assert_eq!(db.value("SELECT total_count FROM app_counts").await, i64::MAX.to_string());
}

async fn the_state_of_earlier_crawls_is_read_from_those_that_reached_their_end(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    assert_eq!(db.store.crawl_history(leased.app).await.unwrap(), CrawlHistory::default());
    assert_eq!(db.store.last_start(leased.app).await.unwrap(), None);
    let close = async |hour, status, leftover| {
        let crawl = leased.open(at(hour, 0)).await;
        let nothing = Settlement::nothing();
        let closing =
            Closing { status, leftover, ..leased.closing(crawl, at(hour, 0), at(hour, 1), &nothing) };
        db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
        db.store.crawl_history(leased.app).await.unwrap()
    };
    let past = |crawled_before, had_leftover| CrawlHistory {
        crawled_before,
        had_leftover,
        needs_unfiltered_pass: false,
    };
    assert_eq!(close(2, CrawlStatus::Failed, None).await, past(false, false));
    assert_eq!(close(3, CrawlStatus::Incomplete, Some(3)).await, past(true, true));
    assert_eq!(close(4, CrawlStatus::Failed, None).await, past(true, true));
    assert_eq!(close(5, CrawlStatus::Complete, Some(0)).await, past(true, false));
}

async fn events_of_a_running_crawl_are_not_visible(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &[], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, leased.public, at(2, 1), &["a"]).await;
    assert!(leased.events().await.is_empty());
    assert_eq!(db.lines("SELECT group_id FROM live_groups").await, ["a"]);
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    assert_eq!(leased.events().await.len(), 1);
}

async fn every_live_group_is_read_once_with_its_type_and_marks(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &["p", "q"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Moving), (leased.private, Verdict::Moving)];
    let missing = leased.settle(&passes, &["b", "q"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    leased.list(crawl, leased.private, at(3, 1), &["q"]).await;
    let gone = leased.settle(&[(leased.private, Verdict::Exact)], &["p"]).await;
    leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    let mut read = Vec::new();
    let reading = db.store.gather_live(
        leased.app,
        || (),
        |(), type_id, id, mark| read.push((id.to_owned(), type_id, mark)),
    );
    reading.await.unwrap();
    read.sort_by(|a, b| a.0.cmp(&b.0));
    let plain = Mark::default();
    assert_eq!(
        read,
        [
            ("a".to_owned(), leased.public, plain),
            ("b".to_owned(), leased.public, Mark { missing: true, held: false }),
            ("c".to_owned(), leased.public, plain),
            ("q".to_owned(), leased.private, plain),
        ]
    );
}

async fn views_have_exactly_these_columns_in_this_order(db: &TestDatabase) {
    let groups =
        "group_id group_type first_seen_at in_baseline last_seen_at deleted_at missing_since held confirmed";
    for (view, columns) in [
        ("groups", groups),
        ("live_groups", groups),
        ("group_events", "event_id occurred_at group_id event old_type new_type crawl_id"),
        ("app_counts", "recorded_at total_count total_count_at_start listed_count crawl_id"),
        (
            "type_counts",
            "recorded_at group_type total_count total_count_min total_count_max listed_count verdict crawl_id",
        ),
        (
            "daily_counts",
            "day group_type live_groups total_count appeared vanished reappeared retyped live_before net_growth \
             timezone complete_crawls",
        ),
        (
            "crawls",
            "crawl_id trigger due_at started_at finished_at status deletions requests groups_listed appeared vanished \
             reappeared retyped withheld reason_code error_code reason host version undeleted spared purged_groups \
             purged_events purged_counts day duration_seconds held_count asked confirmed unlearned unasked \
             withheld_confirmed",
        ),
        (
            "app_status",
            "configured live_count missing_count last_complete_crawl_at last_crawl_status last_crawl_deletions \
             last_crawl_reason last_crawl_at running_since total_count held_count details_count oldest_details_at",
        ),
        (
            "type_status",
            "group_type sdk_name name_zh live_count deleted_count as_of configured missing_count total_count",
        ),
        ("group_lifetimes", "group_id group_type first_seen_at deleted_at lifetime_seconds"),
        (
            "daily_crawls",
            "day crawls complete incomplete failed cancelled success_rate requests total_seconds longest_seconds \
             timezone complete_crawls",
        ),
        ("group_spans", "group_id group_type live_from live_until in_baseline complete_from"),
        (
            "group_details",
            "group_id name owner created_at last_message_at info_changed_at member_count max_member_count \
             introduction as_of",
        ),
        (
            "monthly_counts",
            "month timezone group_type peak_total_count peak_at last_total_count average_total_count snapshots net_growth",
        ),
        (
            "app_statistics",
            "day groups groups_created groups_dissolved groups_active callbacks_sent callbacks_answered live_groups fetched_at",
        ),
    ] {
        let expected: Vec<&str> = ["sdk_app_id", "app"].into_iter().chain(columns.split(' ')).collect();
        assert_eq!(db.columns(view).await, expected, "{view}");
    }
}

async fn the_overview_has_counts_and_crawls(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let nothing = Settlement::nothing();
    let reason = Reason {
        code: ReasonCode::ShortListing,
        error_code: Some(10006),
        text: "Public listed 1 of 2".to_owned(),
    };
    let closing = Closing {
        status: CrawlStatus::Incomplete,
        reason: Some(reason),
        ..leased.closing(crawl, at(2, 0), at(2, 2), &nothing)
    };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    let running = leased.open(at(3, 0)).await;
    let statuses = db.store.app_statuses().await.unwrap();
    let [status] = &statuses[..] else { panic!("{statuses:?}") };
    assert_eq!((status.app.as_str(), status.configured), ("prod", true));
    let types: Vec<_> = status
        .types
        .iter()
        .map(|row| &row.of_type)
        .map(|of_type| (of_type.group_type.as_deref(), of_type.live_count, of_type.configured))
        .collect();
    assert_eq!(types, [(Some("Public"), 2, true), (Some("Private"), 1, true)]);
    assert_eq!(status.last_complete_crawl.as_ref().unwrap().finished(), Some(at(1, 2)));
    let last = status.last_crawl.as_ref().unwrap();
    assert_eq!((last.crawl_id, last.status.as_str(), last.error_code), (crawl.0, "incomplete", Some(10006)));
    assert_eq!(status.running_crawl.as_ref().unwrap().crawl_id, running.0);
}
