//! Removal of old groups, events and crawls.

#![deny(dead_code)]

use harness::store::{LeasedApp, TestDatabase, at, day};
use harness::store_tests;
use tim_group_sync::model::{CrawlStatus, Verdict};
use tim_group_sync::reconcile::{Confirmation, Settlement};
use tim_group_sync::store::{AgeLimits, Closing, Purged};

use crate::apps::two_apps;
use crate::crawl_end::pass;

store_tests![
    old_deleted_groups_are_removed_in_batches_and_totals_stay_correct,
    old_events_are_removed_and_newer_ones_and_those_of_other_apps_are_kept,
    old_crawls_are_removed_unless_other_rows_refer_to_them,
];

async fn old_deleted_groups_are_removed_in_batches_and_totals_stay_correct(db: &TestDatabase) {
    let [leased, other] = two_apps(db).await;
    let crawl = leased.open(at(3, 0)).await;
    let gone = leased.settle(&[(leased.private, Verdict::Exact)], &["p"]).await;
    leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    // Each transaction is reported, including the last one, which removes nothing.
    for (minute, groups, transactions) in [(2, 0, 1), (3, 12_000, 3)] {
        let limits = AgeLimits { deleted_groups: Some(at(2, minute)), ..AgeLimits::default() };
        let mut reported = 0;
        let purged =
            db.store.purge(&leased.lease, (leased.app, crawl), &limits, || reported += 1).await.unwrap();
        assert_eq!((purged, reported), (Purged { groups, ..Purged::default() }, transactions));
    }
    let left = format!(
        "SELECT group_id, deleted_at FROM group_row WHERE app_id = {} AND deleted_at IS NOT NULL",
        leased.app.0
    );
    assert_eq!(db.lines(&left).await.len(), 1);
    let recorded =
        format!("SELECT purged_groups, purged_events, purged_counts FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&recorded).await, ["12000|0|0"]);
    assert_eq!(db.value("SELECT sum(deleted_count) FROM type_status WHERE app = 'other'").await, "1");
    drop(other);
}

async fn old_events_are_removed_and_newer_ones_and_those_of_other_apps_are_kept(db: &TestDatabase) {
    let [leased, _other] = two_apps(db).await;
    let crawl = leased.open(at(3, 0)).await;
    leased.list(crawl, leased.public, at(3, 1), &["newer"]).await;
    leased.complete(crawl, at(3, 0), at(3, 2), &[leased.public]).await;
    let limits = AgeLimits { events: Some(at(3, 1)), ..AgeLimits::default() };
    let purged = db.store.purge(&leased.lease, (leased.app, crawl), &limits, || ()).await.unwrap();
    assert_eq!(purged, Purged { events: 12_001, ..Purged::default() });
    let left = "SELECT app, group_id FROM group_events ORDER BY app, group_id";
    assert_eq!(
        db.lines(left).await,
        ["other|000001", "other|a", "other|a", "other|b", "other|new", "prod|newer"]
    );
    assert_eq!(
        db.store.purge(&leased.lease, (leased.app, crawl), &limits, || ()).await.unwrap(),
        Purged::default()
    );
    let recorded =
        format!("SELECT purged_groups, purged_events, purged_counts FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&recorded).await, ["0|12001|0"]);
}

async fn old_crawls_are_removed_unless_other_rows_refer_to_them(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &[]).await;
    let passes = [pass(leased.public, Some(Verdict::Exact), &[9], 9)];
    let close = async |hour, status, leftover, settlement: &Settlement| {
        let crawl = leased.open(at(hour, 0)).await;
        let closing = leased.closing(crawl, at(hour, 0), at(hour, 1), settlement);
        let closing = Closing { passes: &passes, status, leftover, ..closing };
        db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
        crawl
    };
    let nothing = Settlement::nothing();
    let exact = [(leased.public, Verdict::Exact)];
    close(2, CrawlStatus::Complete, Some(0), &nothing).await;
    let with_event = close(3, CrawlStatus::Complete, None, &leased.settle(&exact, &["a"]).await).await;
    let mut held = leased.settle(&exact, &["b"]).await;
    held.withhold(&[leased.public], Confirmation::Off, true);
    let holding = close(4, CrawlStatus::Complete, None, &held).await;
    close(5, CrawlStatus::Failed, None, &nothing).await;
    let leftover = close(6, CrawlStatus::Incomplete, Some(3), &nothing).await;
    let incomplete = close(7, CrawlStatus::Incomplete, None, &nothing).await;
    close(8, CrawlStatus::Failed, None, &nothing).await;
    let failed = close(9, CrawlStatus::Failed, None, &nothing).await;
    let complete = close(10, CrawlStatus::Complete, None, &nothing).await;
    let running = leased.open(at(11, 0)).await;
    let before =
        (db.store.crawl_history(leased.app).await.unwrap(), db.store.last_start(leased.app).await.unwrap());
    let days = day().date.succ_opt().unwrap();
    let limits = AgeLimits { counts: Some((at(12, 0), days)), ..AgeLimits::default() };
    let purged = db.store.purge(&leased.lease, (leased.app, running), &limits, || ()).await.unwrap();
    // Removed: three crawls, their passes, the passes of a crawl that is kept for its event, and
    // two types of one day.
    assert_eq!(purged, Purged { counts: 3 + 3 + 1 + 2, ..Purged::default() });
    let first = db.value("SELECT min(crawl_id) FROM crawl").await.parse().unwrap();
    let expected =
        [first, with_event.0, holding.0, leftover.0, incomplete.0, failed.0, complete.0, running.0];
    assert_eq!(db.lines("SELECT crawl_id FROM crawl ORDER BY 1").await, expected.map(|id| id.to_string()));
    let after =
        (db.store.crawl_history(leased.app).await.unwrap(), db.store.last_start(leased.app).await.unwrap());
    assert_eq!(after, before);
    assert!(db.lines("SELECT * FROM daily_counts").await.is_empty());
    leased.fail(running, at(11, 0), at(11, 1)).await;
}
