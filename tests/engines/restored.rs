//! PostgreSQL databases that were dumped and restored by the commands of docs/operations.md, and
//! databases whose sequences were not restored.

use std::process::Command;

use harness::crawl::{Engine, Harness};
use harness::postgres::{PostgresServer, server_program};
use harness::store::{LeasedApp, Location, TestDatabase, at};
use tim_group_sync::model::CrawlId;
use tim_group_sync::store::Store;

/// A reader of events. Each poll reads the events after the greatest id so far.
#[derive(Default)]
struct Consumer {
    last: i64,
    read: Vec<String>,
}

impl Consumer {
    async fn poll(&mut self, db: &TestDatabase) {
        let sql = format!(
            "SELECT event_id, event, group_id FROM group_events WHERE event_id > {} ORDER BY event_id",
            self.last
        );
        for row in db.rows(&sql).await {
            self.last = row[0].parse().unwrap();
            self.read.push(row[1..].join(" "));
        }
    }
}

/// Runs one of the server's programs. Returns false if this server has none.
fn run(program: &str, arguments: &[&str]) -> bool {
    let Some(program) = server_program(program) else {
        harness::skip(&format!("{program} of a named server is not known"));
        return false;
    };
    let done = Command::new(program).args(arguments).env_clear().output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    true
}

/// Lists a new group in its own crawl. Returns the crawl.
async fn crawl_new(leased: &LeasedApp<'_>, hour: u32, id: &str) -> CrawlId {
    let crawl = leased.open(at(hour, 0)).await;
    leased.list(crawl, leased.public, at(hour, 1), &[id]).await;
    leased.complete(crawl, at(hour, 0), at(hour, 2), &[leased.public]).await;
    crawl
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn ids_continue_above_the_lost_ones_after_a_restore_in_place_and_into_another_database() {
    let db = TestDatabase::postgres().await;
    let Location::Postgres(database) = &db.location else { unreachable!() };
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("tim.dump");
    let dump = dump.to_str().unwrap();
    let to_file = format!("--file={dump}");
    let mut consumer = Consumer::default();

    let leased = LeasedApp::after_baseline(&db, &["a"], &[]).await;
    let kept = crawl_new(&leased, 2, "kept").await;
    consumer.poll(&db).await;
    let dumping = ["--format=custom", "--schema=tim", "--schema=tim_private", &to_file, &database.url];
    if !run("pg_dump", &dumping) {
        return;
    }
    let lost = crawl_new(&leased, 3, "lost").await;
    consumer.poll(&db).await;
    leased.lease.release_unused().await;
    db.store.close().await;

    let into = |url: &str| format!("--dbname={url}");
    let in_place = ["--clean", "--if-exists", "--single-transaction", &into(&database.url), dump];
    assert!(run("pg_restore", &in_place));
    let elsewhere = db.empty_like().await;
    let Location::Postgres(other) = &elsewhere.location else { unreachable!() };
    assert!(run("pg_restore", &["--single-transaction", &into(&other.url), dump]));
    for db in
        [TestDatabase::on_postgres(PostgresServer::shared().await.existing(&database.name)).await, elsewhere]
    {
        assert_eq!(db.value("SELECT max(crawl_id) FROM crawls").await, kept.to_string());
        db.store.migrate().await.unwrap();
        db.expire_leases().await;
        let leased = LeasedApp::on(&db).await;
        let next = crawl_new(&leased, 4, "next").await;
        assert!(next > lost, "{next} after {lost}");
        let mut consumer = Consumer { last: consumer.last, read: Vec::new() };
        consumer.poll(&db).await;
        assert_eq!(consumer.read, ["appeared next"]);
        db.assert_consistent().await;
    }
}

/// Logical replication, or a restore of the tables' data alone, leaves sequences behind their rows.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn sequences_that_are_behind_their_rows_are_moved_past_them_at_the_start() {
    let harness = Harness::on(Engine::Postgres).await;
    harness.create("Public", "a");
    harness.crawl().await;
    harness.create("Public", "b c");
    let last = harness.crawl().await.crawl;
    let behind = "SELECT setval('app_app_id_seq', 1, false), setval('crawl_crawl_id_seq', 1, false),
                         setval('group_event_event_id_seq', 1, false), setval('group_type_type_id_seq', 7, false)";
    TestDatabase::execute(&harness.db.store_location(), behind).await;
    let store = Store::open(&harness.db.store_location()).await.unwrap();
    store.move_ids_past_rows().await.unwrap();
    harness.create("Public", "d");
    let next = harness.crawl_into(&store).await;
    assert_eq!(next.crawl.0, last.0 + 1);
    assert_eq!(harness.value("SELECT max(event_id) FROM group_events").await, "3");
    // No sequence is behind any more, so this changes nothing.
    let sequences = "SELECT last_value FROM tim_private.crawl_crawl_id_seq";
    let before = harness.value(sequences).await;
    store.move_ids_past_rows().await.unwrap();
    assert_eq!(harness.value(sequences).await, before);
    store.close().await;
}
