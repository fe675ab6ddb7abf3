//! Undoing the deletions of a crawl.

#![deny(dead_code)]

use harness::store::{LeasedApp, TestDatabase, at, day};
use harness::store_tests;
use tim_group_sync::model::Verdict;
use tim_group_sync::reconcile::Confirmation;
use tim_group_sync::store::{Approval, CrawlEvents, WrittenCounts};

store_tests![
    undelete_restores_only_groups_that_were_not_changed_since,
    an_approved_deletion_is_undone_and_approved_again,
    an_undeleted_group_that_is_listed_later_does_not_reappear,
    undoing_deletions_of_groups_that_were_listed_again_changes_nothing,
];

async fn undelete_restores_only_groups_that_were_not_changed_since(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c", "d"], &["p"]).await;
    let first = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let gone = leased.settle(&passes, &["a", "b", "p"]).await;
    leased.close(first, at(2, 0), at(2, 2), &gone).await.unwrap();
    // One group returns and is deleted again by another crawl, so undoing the first crawl does not
    // restore it.
    let second = leased.open(at(3, 0)).await;
    leased.list(second, leased.public, at(3, 1), &["b"]).await;
    leased.complete(second, at(3, 0), at(3, 2), &[leased.public]).await;
    let third = leased.open(at(4, 0)).await;
    let gone = leased.settle(&passes, &["b", "c"]).await;
    leased.close(third, at(4, 0), at(4, 2), &gone).await.unwrap();

    let crawl = db.store.crawl_deletions(first).await.unwrap().unwrap();
    assert_eq!((crawl.vanished, crawl.undeleted), (3, 0));
    assert_eq!(db.store.deleted_groups(&crawl, first).await.unwrap(), ["a", "p"]);
    let undelete = || db.store.undelete(&leased.lease, &crawl, first, at(5, 0), day());
    assert_eq!(undelete().await.unwrap(), 2);
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|01:01|NULL|02:00|1|1",
            "b|Public|01:01|03:01|04:02|NULL|0|1",
            "c|Public|01:01|03:00|04:02|NULL|0|1",
            "d|Public|01:01|04:00|NULL|NULL|0|1",
            "p|Private|01:01|01:01|NULL|02:00|1|1"
        ]
    );
    let events = leased.events().await;
    assert_eq!(
        events[events.len() - 2..],
        [format!("undeleted|a|Public|Public|{first}"), format!("undeleted|p|Private|Private|{first}")]
    );
    let shown =
        format!("SELECT deletions, vanished, withheld, undeleted FROM crawls WHERE crawl_id = {first}");
    assert_eq!(db.lines(&shown).await, ["withheld|3|2|2"]);
    let days = "SELECT group_type, live_groups, vanished FROM daily_counts ORDER BY group_type";
    assert_eq!(db.lines(days).await, ["Private|1|1", "Public|2|4"]);
    assert_eq!(undelete().await.unwrap(), 0);
    assert_eq!(db.lines(&shown).await, ["withheld|3|2|2"]);
    // The lists of the next crawl lack these groups. The crawl does not change them, and `approve`
    // deletes them again.
    let next = leased.open(at(6, 0)).await;
    let absent = leased.settle(&passes, &["a", "p"]).await;
    assert_eq!(leased.close(next, at(6, 0), at(6, 2), &absent).await.unwrap(), CrawlEvents::default());
    let crawl = db.store.crawl_deletions(first).await.unwrap().unwrap();
    assert_eq!(
        db.store.approve(&leased.lease, &crawl, (first, Approval::All), at(7, 0), day()).await.unwrap(),
        2
    );
    assert_eq!(db.lines(&shown).await, ["approved|5|2|2"]);
    assert_eq!(db.lines("SELECT group_id FROM live_groups").await, ["d"]);
}

async fn an_approved_deletion_is_undone_and_approved_again(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let mut gone = leased.settle(&passes, &["a", "b", "p"]).await;
    gone.withhold(&[leased.public], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let held = async || db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    let shown =
        format!("SELECT deletions, vanished, withheld, undeleted FROM crawls WHERE crawl_id = {crawl}");
    // A group that was deleted at once is withheld after the deletion is undone.
    let undone = db.store.undelete(&leased.lease, &held().await, crawl, at(3, 0), day()).await.unwrap();
    assert_eq!((undone, db.lines(&shown).await.remove(0)), (1, "withheld|1|3|1".to_owned()));
    db.assert_consistent().await;
    for (minute, vanished, undeleted) in [(0, 4, 4), (10, 7, 7)] {
        let approved = db
            .store
            .approve(&leased.lease, &held().await, (crawl, Approval::All), at(4, minute), day())
            .await;
        assert_eq!(approved.unwrap(), 3);
        db.assert_consistent().await;
        let undone = db.store.undelete(&leased.lease, &held().await, crawl, at(4, minute + 5), day()).await;
        assert_eq!(undone.unwrap(), 3);
        db.assert_consistent().await;
        assert_eq!(db.lines(&shown).await, [format!("withheld|{vanished}|3|{undeleted}")]);
    }
    assert_eq!(db.value("SELECT count(*) FROM live_groups WHERE held").await, "3");
}

async fn an_undeleted_group_that_is_listed_later_does_not_reappear(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    db.store.undelete(&leased.lease, &held, crawl, at(3, 0), day()).await.unwrap();
    let next = leased.open(at(4, 0)).await;
    assert_eq!(leased.list(next, leased.public, at(4, 1), &["a"]).await, WrittenCounts::default());
    leased.complete(next, at(4, 0), at(4, 2), &[leased.public]).await;
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|04:01|NULL|NULL|0|1", "b|Public|01:01|04:00|NULL|NULL|0|1"]
    );
}

async fn undoing_deletions_of_groups_that_were_listed_again_changes_nothing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let next = leased.open(at(3, 0)).await;
    leased.list(next, leased.public, at(3, 1), &["a"]).await;
    leased.complete(next, at(3, 0), at(3, 2), &[leased.public]).await;
    let everything = async || {
        let mut all = leased.groups().await;
        for table in ["crawl", "group_event", "daily_count", "type_state"] {
            all.extend(db.lines(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).await);
        }
        all
    };
    let before = everything().await;
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    assert_eq!(db.store.undelete(&leased.lease, &held, crawl, at(4, 0), day()).await.unwrap(), 0);
    assert_eq!(everything().await, before);
}
