//! The end of a crawl: deleted and missing groups, its status, its reason, and the daily counts.

#![deny(dead_code)]

use chrono::TimeDelta;
use harness::store::{LeasedApp, TestDatabase, at, day};
use harness::store_tests;
use tim_group_sync::model::{Counts, CrawlStatus, LocalDay, TypeId, Verdict};
use tim_group_sync::reconcile::Settlement;
use tim_group_sync::store::{Closing, CrawlEvents, PassRecord, StoreError};

store_tests![
    a_complete_crawl_without_unlisted_groups_deletes_nothing,
    an_exact_absence_deletes_at_once_and_listed_groups_are_seen_by_the_last_concluding_crawl,
    a_group_absent_from_a_moving_list_is_missing_first_and_then_vanished,
    a_missing_group_keeps_its_last_seen_at,
    a_failed_crawl_concludes_nothing_and_records_its_counts_and_reason,
    a_crawl_is_closed_once_and_a_second_end_writes_nothing,
    running_crawls_of_ended_processes_are_closed_by_the_next_crawl,
    a_tick_is_not_crawled_again_unless_its_crawl_failed,
    a_day_adds_up_its_crawls_and_keeps_the_last_total_counts,
    a_day_in_the_future_is_replaced_by_the_newest_crawls_day_and_correct_days_are_kept,
    the_deletions_of_a_crawl_become_visible_at_once,
];

async fn a_complete_crawl_without_unlisted_groups_deletes_nothing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    let crawls = "SELECT status, deletions, requests, groups_listed, started_at, finished_at, reason FROM crawls WHERE crawl_id = ";
    assert_eq!(
        db.lines(&format!("{crawls}{crawl}")).await,
        ["complete|none|4|6|2026-03-01T02:00:00Z|2026-03-01T02:02:00Z|NULL"]
    );
    // Only the groups of the concluded type have a newer `last_seen_at`.
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|02:00|NULL|NULL|0|1", "p|Private|01:01|01:01|NULL|NULL|0|1"]
    );
    let as_of = db.lines("SELECT group_type, as_of FROM type_status ORDER BY group_type").await;
    assert_eq!(as_of, ["Private|2026-03-01T01:00:00Z", "Public|2026-03-01T02:00:00Z"]);
}

async fn an_exact_absence_deletes_at_once_and_listed_groups_are_seen_by_the_last_concluding_crawl(
    db: &TestDatabase,
) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public, leased.private]).await;
    let crawl = leased.open(at(3, 0)).await;
    let gone =
        leased.settle(&[(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)], &["a"]).await;
    let events = leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 1, ..CrawlEvents::default() });
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|02:00|03:02|NULL|0|1",
            "b|Public|01:01|03:00|NULL|NULL|0|1",
            "p|Private|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    assert_eq!(leased.events().await, [format!("vanished|a|Public|NULL|{crawl}")]);
    let crawls = format!("SELECT status, deletions, vanished FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&crawls).await, ["complete|applied|1"]);
    let counts = "SELECT group_type, live_count, deleted_count FROM type_status ORDER BY group_type";
    assert_eq!(db.lines(counts).await, ["Private|1|0", "Public|1|1"]);
}

async fn a_group_absent_from_a_moving_list_is_missing_first_and_then_vanished(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let moving = [(leased.public, Verdict::Moving)];
    let crawl = leased.open(at(2, 0)).await;
    let missing = leased.settle(&moving, &["a"]).await;
    let events = leased.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    assert_eq!(events, CrawlEvents::default());
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|01:01|NULL|02:00|0|1", "b|Public|01:01|02:00|NULL|NULL|0|1"]
    );
    let deletions = format!("SELECT status, deletions FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&deletions).await, ["complete|none"]);
    let crawl = leased.open(at(3, 0)).await;
    let gone = leased.settle(&moving, &["a"]).await;
    let events = leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 1, ..CrawlEvents::default() });
    assert_eq!(leased.groups().await[0], "a|Public|01:01|01:01|03:02|NULL|0|1");
}

async fn a_missing_group_keeps_its_last_seen_at(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    let crawl = leased.open(at(3, 0)).await;
    let missing = leased.settle(&[(leased.public, Verdict::Moving)], &["a"]).await;
    leased.close(crawl, at(3, 0), at(3, 2), &missing).await.unwrap();
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|02:00|NULL|03:00|0|1", "b|Public|01:01|03:00|NULL|NULL|0|1"]
    );
}

async fn a_failed_crawl_concludes_nothing_and_records_its_counts_and_reason(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, leased.public, at(2, 1), &["b"]).await;
    leased.fail(crawl, at(2, 0), at(2, 2)).await;
    let shown = format!(
        "SELECT status, deletions, appeared, reason_code, error_code, reason FROM crawls WHERE crawl_id = {crawl}"
    );
    assert_eq!(db.lines(&shown).await, ["failed|NULL|1|timeout|NULL|no answer within 10s"]);
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|01:01|NULL|NULL|0|1", "b|Public|02:01|02:01|NULL|NULL|0|0"]
    );
    let counts = "SELECT total_count, total_count_at_start, listed_count, recorded_at FROM app_counts ORDER BY crawl_id DESC LIMIT 1";
    assert_eq!(db.lines(counts).await, ["8|7|6|2026-03-01T02:02:00Z"]);
    assert_eq!(
        db.lines("SELECT last_complete_crawl_at, last_crawl_status, last_crawl_reason FROM app_status").await,
        ["2026-03-01T01:02:00Z|failed|no answer within 10s"]
    );
}

async fn a_crawl_is_closed_once_and_a_second_end_writes_nothing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    let everything = || async {
        let mut all = leased.groups().await;
        all.extend(db.lines("SELECT * FROM crawls ORDER BY crawl_id").await);
        all.extend(db.lines("SELECT * FROM type_status ORDER BY group_type").await);
        all.extend(db.lines("SELECT * FROM daily_counts ORDER BY group_type").await);
        all
    };
    let before = everything().await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    for finished_at in [at(2, 2), at(2, 9)] {
        let again = leased.close(crawl, at(2, 0), finished_at, &gone).await;
        assert!(
            matches!(again, Err(StoreError::CrawlAlreadyClosed { crawl: which }) if which == crawl),
            "{again:?}"
        );
    }
    assert_eq!(everything().await, before);
}

async fn running_crawls_of_ended_processes_are_closed_by_the_next_crawl(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let dead = leased.open(at(2, 0)).await;
    leased.list(dead, leased.public, at(2, 1), &["b"]).await;
    let next = leased.open(at(3, 0)).await;
    assert!(next > dead);
    let shown = format!(
        "SELECT status, deletions, appeared, reason_code, reason, finished_at FROM crawls WHERE crawl_id = {dead}"
    );
    assert_eq!(
        db.lines(&shown).await,
        ["failed|NULL|1|process_ended|the process ended before the crawl did|2026-03-01T03:00:00Z"]
    );
    assert_eq!(leased.events().await, [format!("appeared|b|NULL|Public|{dead}")]);
}

async fn a_tick_is_not_crawled_again_unless_its_crawl_failed(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    // After a crawl that failed, the tick is crawled again.
    let crawl = leased.try_open(at(2, 0), Some(at(2, 0))).await.unwrap();
    leased.fail(crawl, at(2, 0), at(2, 1)).await;
    let crawl = leased.try_open(at(2, 2), Some(at(2, 0))).await.unwrap();
    leased.complete(crawl, at(2, 2), at(2, 3), &[]).await;
    assert_eq!(leased.try_open(at(2, 4), Some(at(2, 0))).await, None);
    // Crawls without a tick do not matter.
    for minute in [10, 20] {
        let crawl = leased.open(at(3, minute)).await;
        leased.complete(crawl, at(3, minute), at(3, minute + 1), &[]).await;
    }
    let crawl = leased.open(at(3, 30)).await;
    leased.fail(crawl, at(3, 30), at(3, 31)).await;
    assert_eq!(db.store.last_start(leased.app).await.unwrap(), Some(at(3, 20)));
    let dues = db.lines("SELECT trigger, due_at FROM crawls ORDER BY crawl_id").await;
    assert_eq!(
        dues,
        [
            "schedule|2026-03-01T02:00:00Z",
            "schedule|2026-03-01T02:00:00Z",
            "command|NULL",
            "command|NULL",
            "command|NULL"
        ]
    );
}

pub(crate) fn pass(
    type_id: TypeId,
    verdict: Option<Verdict>,
    total_counts: &[u64],
    distinct: u64,
) -> PassRecord {
    let mut counts = Counts::default();
    total_counts.iter().for_each(|count| counts.add(Some(*count)));
    PassRecord {
        type_id,
        recorded_at: at(2, 1),
        verdict,
        pages: 1,
        counts,
        distinct,
        repeats: 0,
        first_listed: 0,
        unusable: 0,
    }
}

async fn a_day_in_the_future_is_replaced_by_the_newest_crawls_day_and_correct_days_are_kept(
    db: &TestDatabase,
) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let nothing = Settlement::nothing();
    let close = async |hour, days: i64| {
        let crawl = leased.open(at(hour, 0)).await;
        let closing = leased.closing(crawl, at(hour, 0), at(hour, 1), &nothing);
        let closing =
            Closing { day: LocalDay { date: day().date + TimeDelta::days(days), ..day() }, ..closing };
        db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    };
    let days = "SELECT DISTINCT day FROM daily_counts ORDER BY day";
    close(2, 400).await;
    close(3, 1).await;
    assert_eq!(db.lines(days).await, ["2026-03-01", "2026-03-02"]);
    close(4, 2).await;
    close(5, 3).await;
    close(6, -400).await;
    let kept = db.lines(days).await;
    assert_eq!(kept[1..], ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]);
}

async fn a_day_adds_up_its_crawls_and_keeps_the_last_total_counts(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, leased.public, at(2, 1), &["c", "d"]).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    let passes = [pass(leased.public, Some(Verdict::Exact), &[9], 9)];
    let closing = Closing { passes: &passes, ..leased.closing(crawl, at(2, 0), at(2, 2), &gone) };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    leased.list(crawl, leased.private, at(3, 1), &["d"]).await;
    // The pass has no TotalCount, so the earlier one is kept.
    let passes = [pass(leased.public, None, &[], 0)];
    let nothing = Settlement::nothing();
    let closing = Closing {
        passes: &passes,
        status: CrawlStatus::Cancelled,
        ..leased.closing(crawl, at(3, 0), at(3, 2), &nothing)
    };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    let shown = "SELECT day, group_type, live_groups, total_count, appeared, vanished, reappeared, retyped
                 FROM daily_counts ORDER BY group_type";
    assert_eq!(db.lines(shown).await, ["2026-03-01|Private|1|NULL|0|0|0|1", "2026-03-01|Public|2|9|2|1|0|0"]);
}

async fn the_deletions_of_a_crawl_become_visible_at_once(db: &TestDatabase) {
    let ids: Vec<String> = (0..25_000).map(|n| format!("{n:05}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(at(1, 0)).await;
    leased.list_baseline(crawl, leased.public, at(1, 1), &ids).await;
    let gone = leased.settle_all(&[(leased.public, Verdict::Exact)]).await;
    let closing = leased.close(crawl, at(1, 0), at(1, 2), &gone);
    tokio::pin!(closing);
    let shown =
        "SELECT (SELECT count(*) FROM live_groups), (SELECT count(*) FROM group_events), status, vanished,
                        (SELECT live_count FROM app_status) FROM crawls";
    let mut seen = Vec::new();
    loop {
        tokio::select! {
            closed = &mut closing => {
                closed.unwrap();
                break;
            }
            lines = db.lines(shown) => seen.push(lines.join("")),
        }
    }
    seen.push(db.lines(shown).await.join(""));
    seen.dedup();
    assert_eq!(seen.last().unwrap(), "0|25000|complete|25000|0");
    assert!(seen.len() <= 2 && (seen.len() == 1 || seen[0] == "25000|0|running|0|25000"), "{seen:?}");
}
