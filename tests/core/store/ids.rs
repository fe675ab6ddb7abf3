//! Readers follow the events of an app by their ids. So ids must grow, also across killed crawls,
//! approvals and restored databases.

use harness::store::{APP, LeasedApp, Location, TestDatabase, at, day};
use harness::store_tests;
use tim_group_sync::model::Verdict;
use tim_group_sync::reconcile::Confirmation;
use tim_group_sync::store::Approval;

store_tests! {
    approve_closes_a_crawl_that_was_left_open_before_it_writes,
    undelete_closes_a_crawl_that_was_left_open_before_it_writes,
    ids_of_a_new_database_begin_at_one_and_have_no_gap,
    ids_of_a_restored_database_continue_above_all_assigned_ids,
    a_crawl_on_the_same_storage_does_not_record_it_again,
}

/// A reader of events. Each poll reads the events after the greatest id so far.
struct Consumer<'a> {
    db: &'a TestDatabase,
    last: i64,
    read: Vec<String>,
}

impl<'a> Consumer<'a> {
    fn of(db: &'a TestDatabase) -> Self {
        Self { db, last: 0, read: Vec::new() }
    }

    async fn poll(&mut self) {
        let sql = format!(
            "SELECT event_id, event, group_id FROM group_events WHERE sdk_app_id = {APP} AND event_id > {}
             ORDER BY event_id",
            self.last
        );
        for row in self.db.rows(&sql).await {
            self.last = row[0].parse().unwrap();
            self.read.push(row[1..].join(" "));
        }
    }
}

/// Writes the rows of a crawl whose process is killed before its end.
async fn killed_crawl(leased: &LeasedApp<'_>, hour: u32, ids: &[&str]) {
    let killed = leased.open(at(hour, 0)).await;
    leased.list(killed, leased.public, at(hour, 1), ids).await;
}

async fn approve_closes_a_crawl_that_was_left_open_before_it_writes(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let mut consumer = Consumer::of(db);
    let crawl = leased.open(at(2, 0)).await;
    let mut withheld = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 1), &withheld).await.unwrap();
    killed_crawl(&leased, 3, &["new"]).await;
    consumer.poll().await;
    assert_eq!(consumer.read, [""; 0]);
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    db.store.approve(&leased.lease, &held, (crawl, Approval::All), at(4, 0), day()).await.unwrap();
    consumer.poll().await;
    leased.open(at(5, 0)).await;
    consumer.poll().await;
    assert_eq!(consumer.read, ["appeared new", "vanished a"]);
    let closed = "SELECT status, reason_code FROM crawls ORDER BY crawl_id DESC LIMIT 1 OFFSET 1";
    assert_eq!(db.lines(closed).await, ["failed|process_ended"]);
}

async fn undelete_closes_a_crawl_that_was_left_open_before_it_writes(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let mut consumer = Consumer::of(db);
    let crawl = leased.open(at(2, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    leased.close(crawl, at(2, 0), at(2, 1), &gone).await.unwrap();
    killed_crawl(&leased, 3, &["new"]).await;
    consumer.poll().await;
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    db.store.undelete(&leased.lease, &held, crawl, at(4, 0), day()).await.unwrap();
    consumer.poll().await;
    leased.open(at(5, 0)).await;
    consumer.poll().await;
    assert_eq!(consumer.read, ["vanished a", "appeared new", "undeleted a"]);
}

async fn ids_of_a_new_database_begin_at_one_and_have_no_gap(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    killed_crawl(&leased, 2, &["b", "c"]).await;
    leased.open(at(3, 0)).await;
    assert_eq!(db.lines("SELECT crawl_id FROM crawl ORDER BY 1").await, ["1", "2", "3"]);
    assert_eq!(db.lines("SELECT event_id FROM group_event ORDER BY 1").await, ["1", "2"]);
}

/// Changes the database to a restored backup: it has the rows and the sequences of an earlier time,
/// and the identity of another storage.
async fn simulate_restore(db: &TestDatabase, crawl: i64, event: i64) {
    let rows = format!(
        "DELETE FROM group_event WHERE event_id > {event}; DELETE FROM crawl WHERE crawl_id > {crawl};
         DELETE FROM group_row WHERE group_id IN ('lost', 'lost too'); DELETE FROM crawl_change WHERE crawl_id > {crawl};
         UPDATE type_state SET live_count = (SELECT count(*) FROM group_row g
             WHERE g.app_id = type_state.app_id AND g.type_id = type_state.type_id);
         UPDATE daily_count SET appeared = 0; UPDATE storage SET identity = 'elsewhere';"
    );
    let identities = match db.location {
        Location::Sqlite(_) => format!(
            "UPDATE sqlite_sequence SET seq = {crawl} WHERE name = 'crawl';
             UPDATE sqlite_sequence SET seq = {event} WHERE name = 'group_event';"
        ),
        Location::Postgres(_) => format!(
            "SELECT setval('crawl_crawl_id_seq', {crawl}), setval('group_event_event_id_seq', {});",
            event.max(1)
        ),
    };
    TestDatabase::execute(&db.store_location(), &(rows + &identities)).await;
}

async fn ids_of_a_restored_database_continue_above_all_assigned_ids(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let mut consumer = Consumer::of(db);
    for round in 1..=2 {
        let lost = leased.open(at(2 * round, 0)).await;
        leased.list(lost, leased.public, at(2 * round, 1), &["lost", "lost too"]).await;
        leased.complete(lost, at(2 * round, 0), at(2 * round, 2), &[leased.public]).await;
        consumer.poll().await;
        simulate_restore(db, 1, 0).await;
        let next = leased.open(at(2 * round + 1, 0)).await;
        assert!(next > lost, "{next} after {lost}");
        leased.list(next, leased.public, at(2 * round + 1, 1), &["lost"]).await;
        leased.complete(next, at(2 * round + 1, 0), at(2 * round + 1, 2), &[leased.public]).await;
        consumer.poll().await;
        // JavaScript represents such an id exactly.
        assert!(consumer.last < 1 << 53, "{}", consumer.last);
        simulate_restore(db, 1, 0).await;
    }
    let each_round = ["appeared lost", "appeared lost too", "appeared lost"];
    assert_eq!(consumer.read, [each_round, each_round].concat());
}

async fn a_crawl_on_the_same_storage_does_not_record_it_again(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let recorded = match db.location {
        Location::Sqlite(_) => "SELECT identity FROM storage",
        Location::Postgres(_) => "SELECT identity, written_by, CAST(xmin AS TEXT) FROM storage",
    };
    let before = db.lines(recorded).await;
    assert_eq!(before.len(), 1);
    killed_crawl(&leased, 2, &["b"]).await;
    leased.open(at(3, 0)).await;
    assert_eq!(db.lines(recorded).await, before);
}
