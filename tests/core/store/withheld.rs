//! Withheld deletions: held groups, approvals, and the lookup history.

#![deny(dead_code)]

use harness::store::{LeasedApp, TestDatabase, at, day, sdk_app_id};
use harness::store_tests;
use std::collections::BTreeMap;
use tim_group_sync::confirmation::{LookupHistory, LookupRecord};
use tim_group_sync::model::{CrawlId, GroupIds, Verdict};
use tim_group_sync::reconcile::Confirmation;
use tim_group_sync::roll::Mark;
use tim_group_sync::store::{Approval, Closing, CrawlDeletions, CrawlEvents, HistoryChanges, WrittenCounts};

store_tests![
    withheld_deletions_leave_groups_live_missing_and_held_until_approved,
    confirmed_deletions_can_be_approved_alone_and_the_others_stay_withheld,
    a_held_group_that_is_listed_again_is_no_longer_held,
    the_lookup_history_of_groups_is_added_replaced_and_removed,
    held_groups_are_looked_up_again_except_confirmed_and_undone_ones,
];

async fn withheld_deletions_leave_groups_live_missing_and_held_until_approved(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let missing = leased.settle(&[(leased.public, Verdict::Moving)], &["b"]).await;
    leased.close(crawl, at(2, 0), at(2, 1), &missing).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    let mut withheld = leased.settle(&[(leased.public, Verdict::Exact)], &["a", "b"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    let events = leased.close(crawl, at(3, 0), at(3, 2), &withheld).await.unwrap();
    assert_eq!(events, CrawlEvents::default());
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|02:00|NULL|03:00|1|1",
            "b|Public|01:01|01:01|NULL|02:00|1|1",
            "c|Public|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    let shown = format!("SELECT status, deletions, withheld, vanished FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&shown).await, ["complete|withheld|2|0"]);
    let mut marks = Vec::new();
    db.store
        .gather_live(leased.app, || (), |(), _, id, mark| marks.push((id.to_owned(), mark)))
        .await
        .unwrap();
    marks.sort_by(|a, b| a.0.cmp(&b.0));
    let held = Mark { missing: true, held: true };
    assert_eq!(marks, [("a".to_owned(), held), ("b".to_owned(), held), ("c".to_owned(), Mark::default())]);

    let waiting = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    assert_eq!((waiting.withheld, waiting.sdk_app_id()), (2, Some(sdk_app_id())));
    assert_eq!(held_ids(db, &waiting, crawl, Approval::All).await, ["a", "b"]);
    let approve = || db.store.approve(&leased.lease, &waiting, (crawl, Approval::All), at(4, 0), day());
    assert_eq!(approve().await.unwrap(), 2);
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|02:00|04:00|NULL|0|1",
            "b|Public|01:01|01:01|04:00|NULL|0|1",
            "c|Public|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    assert_eq!(db.lines(&shown).await, ["complete|approved|2|2"]);
    assert_eq!(
        leased.events().await,
        [format!("vanished|a|Public|NULL|{crawl}"), format!("vanished|b|Public|NULL|{crawl}")]
    );
    assert_eq!(approve().await.unwrap(), 0);
    assert_eq!(db.lines(&shown).await, ["complete|approved|2|2"]);
}

async fn held_ids(db: &TestDatabase, of: &CrawlDeletions, crawl: CrawlId, which: Approval) -> Vec<String> {
    let groups = db.store.held_groups(of, crawl, which).await.unwrap();
    groups.into_iter().map(|(id, _)| id).collect()
}

async fn confirmed_deletions_can_be_approved_alone_and_the_others_stay_withheld(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &["p", "q", "r"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let mut withheld = leased.settle(&passes, &["a", "b", "p", "q"]).await;
    withheld.withhold(&[leased.public], Confirmation::On, true);
    withheld.withhold(&[leased.private], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 2), &withheld).await.unwrap();
    let shown = format!(
        "SELECT deletions, vanished, withheld, withheld_confirmed, held_count FROM crawls WHERE crawl_id = {crawl}"
    );
    assert_eq!(db.lines(&shown).await, ["withheld|0|4|2|4"]);
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(db.lines(held).await, ["a|1", "b|1", "p|0", "q|0"]);
    let waiting = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    let all = db.store.held_groups(&waiting, crawl, Approval::All).await.unwrap();
    let expected = [("a", true), ("b", true), ("p", false), ("q", false)];
    assert_eq!(all, expected.map(|(id, confirmed)| (id.to_owned(), confirmed)));
    assert_eq!(held_ids(db, &waiting, crawl, Approval::Confirmed).await, ["a", "b"]);

    let approve = async |which| {
        let approved = db.store.approve(&leased.lease, &waiting, (crawl, which), at(3, 0), day()).await;
        db.assert_consistent().await;
        approved.unwrap()
    };
    assert_eq!(approve(Approval::Confirmed).await, 2);
    assert_eq!(db.lines(&shown).await, ["withheld|2|4|2|2"]);
    assert_eq!(db.lines(held).await, ["p|0", "q|0"]);
    assert_eq!(db.lines("SELECT group_id FROM live_groups ORDER BY 1").await, ["c", "p", "q", "r"]);
    assert_eq!(approve(Approval::Confirmed).await, 0);
    assert_eq!(db.lines(&shown).await, ["withheld|2|4|2|2"]);

    // A later crawl marks another group as confirmed.
    let history =
        HistoryChanges { round: 2, confirmed_held: ["p", "c"].into_iter().collect(), ..Default::default() };
    close_with_history(&leased, 4, &history).await;
    assert_eq!(db.lines(held).await, ["p|1", "q|0"]);
    assert_eq!(db.lines(&shown).await, ["withheld|2|4|3|2"]);
    assert_eq!(approve(Approval::Confirmed).await, 1);
    assert_eq!(db.lines(&shown).await, ["withheld|3|4|3|1"]);
    assert_eq!(approve(Approval::All).await, 1);
    assert_eq!(db.lines(&shown).await, ["approved|4|4|3|0"]);
}

/// Makes a complete crawl at this hour that lists every live group that is not held and writes
/// these changes of the lookup history.
async fn close_with_history(leased: &LeasedApp<'_>, hour: u32, history: &HistoryChanges) {
    let crawl = leased.open(at(hour, 0)).await;
    let settlement = leased.settle(&[(leased.public, Verdict::Exact)], &[]).await;
    let closing =
        Closing { history: Some(history), ..leased.closing(crawl, at(hour, 0), at(hour, 2), &settlement) };
    leased.db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    leased.db.assert_consistent().await;
}

async fn the_lookup_history_of_groups_is_added_replaced_and_removed(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c", "d"], &[]).await;
    let history = async || {
        let LookupHistory { round, records } = db.store.history(leased.app).await.unwrap();
        (round, records.into_iter().collect::<BTreeMap<String, LookupRecord>>())
    };
    let of = |groups: &[(&str, LookupRecord)]| {
        groups.iter().map(|(id, record)| ((*id).to_owned(), *record)).collect()
    };
    let records = |groups: &[(&str, LookupRecord)]| {
        let mut records: BTreeMap<LookupRecord, GroupIds> = BTreeMap::new();
        groups.iter().for_each(|(id, record)| records.entry(*record).or_default().push(id));
        records
    };
    assert_eq!(history().await, (1, BTreeMap::new()));
    let (exists, unlearned) =
        (LookupRecord::after_existing(None, 1), LookupRecord::after_unusable_answer(None, 1));
    let kept = [("a", exists), ("b", exists), ("c", unlearned)];
    close_with_history(
        &leased,
        2,
        &HistoryChanges { round: 1, new_records: records(&kept), ..Default::default() },
    )
    .await;
    assert_eq!(history().await, (2, of(&kept)));
    // A failed crawl does not change the history.
    let failed = leased.open(at(3, 0)).await;
    leased.fail(failed, at(3, 0), at(3, 1)).await;
    assert_eq!(history().await, (2, of(&kept)));

    let exists_again = LookupRecord::after_existing(Some(&exists), 2);
    let changes = HistoryChanges {
        round: 2,
        new_records: records(&[("a", exists_again)]),
        remove: ["b", "never looked up"].into_iter().collect(),
        ..Default::default()
    };
    close_with_history(&leased, 4, &changes).await;
    assert_eq!(history().await, (3, of(&[("a", exists_again), ("c", unlearned)])));

    // A deleted group is removed from the history by the next crawl.
    let crawl = leased.open(at(5, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["c"]).await;
    let prune = HistoryChanges { round: 3, prune: true, ..Default::default() };
    let closing = Closing { history: Some(&prune), ..leased.closing(crawl, at(5, 0), at(5, 2), &gone) };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    assert_eq!(history().await, (4, of(&[("a", exists_again)])));
}

async fn held_groups_are_looked_up_again_except_confirmed_and_undone_ones(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c", "d", "e"], &["p", "q"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let undone = leased.settle(&passes, &["d"]).await;
    leased.close(crawl, at(2, 0), at(2, 1), &undone).await.unwrap();
    let deleted = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    db.store.undelete(&leased.lease, &deleted, crawl, at(2, 5), day()).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    let mut withheld = leased.settle(&passes, &["a", "b", "c", "p"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    withheld.withhold(&[leased.private], Confirmation::On, true);
    leased.close(crawl, at(3, 0), at(3, 1), &withheld).await.unwrap();
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(db.lines(held).await, ["a|0", "b|0", "c|0", "d|0", "p|1"]);

    let to_ask = async |round, most| {
        let groups = db.store.held_to_look_up(leased.app, round, most).await.unwrap();
        assert!(groups.iter().all(|(_, type_id)| *type_id == leased.public), "{groups:?}");
        groups.into_iter().map(|(id, _)| id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(to_ask(1, 10).await, "a b c");
    let new_records = BTreeMap::from([
        (LookupRecord::after_unusable_answer(None, 1), ["a"].into_iter().collect()),
        (
            LookupRecord { unusable_streak: 3, round: 1, due_round: 4, ..LookupRecord::default() },
            ["b"].into_iter().collect(),
        ),
    ]);
    close_with_history(&leased, 4, &HistoryChanges { round: 1, new_records, ..Default::default() }).await;
    assert_eq!(to_ask(1, 10).await, "c");
    assert_eq!(to_ask(2, 10).await, "c a", "groups that were never looked up come first");
    assert_eq!(to_ask(4, 10).await, "c a b");
    assert_eq!(to_ask(4, 2).await, "c a");
}

async fn a_held_group_that_is_listed_again_is_no_longer_held(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let mut withheld = leased.settle(&[(leased.public, Verdict::Exact)], &["a", "b"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 1), &withheld).await.unwrap();
    let next = leased.open(at(3, 0)).await;
    assert_eq!(leased.list(next, leased.public, at(3, 1), &["a"]).await, WrittenCounts::default());
    leased.complete(next, at(3, 0), at(3, 2), &[leased.public]).await;
    let shown = "SELECT group_id, held, missing_since FROM groups ORDER BY group_id";
    assert_eq!(db.lines(shown).await, ["a|0|NULL", "b|1|2026-03-01T02:00:00Z"]);
    let waiting = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    assert_eq!(held_ids(db, &waiting, crawl, Approval::All).await, ["b"]);
}
