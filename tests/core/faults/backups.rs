//! Backups and restores during crawls that end or are killed, with open readers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::campaign;
use harness::cli::rows;
use harness::crawl::{Engine, Harness};
use harness::program::{ProgramHarness, wait_for_output};
use harness::store::{Location, TestDatabase};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::At;

/// The number of requests of a crawl in this test: two of the app's total, four pages, and one
/// lookup.
const REQUESTS: u64 = 6;

const ENDED: &str = "SELECT crawl_id FROM crawls WHERE status <> 'running' ORDER BY crawl_id";
const EVENTS: &str = "SELECT event_id, event, group_id, crawl_id FROM group_events ORDER BY event_id";

/// A reader of events. Each poll reads the events after the greatest id so far.
#[derive(Default)]
struct Consumer {
    last: i64,
    read: BTreeMap<i64, Vec<String>>,
}

impl Consumer {
    async fn poll(&mut self, database: &Path) {
        for row in rows(database, EVENTS).await {
            let id = row[0].parse().unwrap();
            if id > self.last {
                self.last = id;
                self.read.insert(id, row[1..].to_vec());
            }
        }
    }

    /// Asserts that the consumer has read every event of the database with its current values.
    async fn assert_all_events_read(&self, database: &Path) {
        for row in rows(database, EVENTS).await {
            let read = self.read.get(&row[0].parse().unwrap());
            assert_eq!(read.map(Vec::as_slice), Some(&row[1..]), "event {}", row[0]);
        }
    }
}

/// Opens a read transaction, whose snapshot does not change.
async fn reader(database: &Path) -> SqliteConnection {
    let mut reader = SqliteConnectOptions::new().filename(database).read_only(true).connect().await.unwrap();
    reader.execute("BEGIN; SELECT count(*) FROM groups").await.unwrap();
    reader
}

struct Campaign {
    program: ProgramHarness,
    database: PathBuf,
    consumer: Consumer,
    created: u64,
}

impl Campaign {
    async fn begin() -> Self {
        let program = ProgramHarness::new(
            Harness::on(Engine::Sqlite).await,
            "group_types = [\"Public\"]\npage_limit = 100\n",
        );
        program.harness.api.create_many("Public", 350);
        let Location::Sqlite(folder) = &program.harness.db.location else { unreachable!("it is on SQLite") };
        let database = folder.path().join("groups.db");
        // From now on only child processes write, as a restore requires.
        program.harness.store.close().await;
        let mut campaign = Self { program, database, consumer: Consumer::default(), created: 0 };
        campaign.crawl().await;
        campaign
    }

    fn churn(&mut self) {
        self.created += 1;
        self.program.harness.api.dissolve_some(1);
        self.program.harness.create("Public", &format!("new-{}", self.created));
    }

    async fn crawl(&mut self) {
        let ended = wait_for_output(self.program.start()).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        self.consumer.poll(&self.database).await;
    }

    /// Backs up while a crawl is held at a request, then kills the crawl or lets it end. Also
    /// returns a reader that has the database open.
    async fn back_up_during_a_crawl(&mut self, round: u64, killed: bool) -> (PathBuf, SqliteConnection) {
        self.churn();
        let request = self.program.harness.request(round % REQUESTS + 1);
        let held = self.program.harness.api.hold(At::Request(request));
        let crawl = self.program.start();
        held.reached().await;
        let reader = reader(&self.database).await;
        let ended_before = rows(&self.database, ENDED).await;
        let backup = self.program.folder.path().join(format!("backup-{round}.db"));
        let mut command = self.program.command(&["backup", backup.to_str().unwrap()]);
        let backing_up = self.program.spawn(&mut command);
        // Half of the backups are made while the crawl writes, the others while it is held.
        let (made, held) = if round.is_multiple_of(2) {
            held.release();
            (wait_for_output(backing_up).await, None)
        } else {
            (wait_for_output(backing_up).await, Some(held))
        };
        assert!(made.status.success(), "{made:?}");
        if killed {
            kill_if_running(crawl);
            drop(held);
        } else {
            drop(held);
            assert_eq!(wait_for_output(crawl).await.status.code(), Some(0));
        }
        self.assert_complete(&backup, &ended_before).await;
        (backup, reader)
    }

    /// Asserts that a file is intact and contains these ended crawls.
    async fn assert_complete(&self, file: &Path, ended: &[Vec<String>]) {
        assert_eq!(rows(file, "PRAGMA integrity_check").await, [["ok"]], "{}", file.display());
        let there = rows(file, ENDED).await;
        assert!(there.starts_with(ended), "{}: {there:?} instead of {ended:?}", file.display());
    }
}

/// Kills a crawl, which may already have ended.
fn kill_if_running(mut crawl: std::process::Child) {
    let _ = crawl.kill();
    crawl.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_and_restores_during_crawls_lose_no_crawl_that_had_ended() {
    let rounds = campaign::number("BACKUPS", 100, 6);
    let mut campaign = Campaign::begin().await;
    for round in 0..rounds {
        let killed = round % 3 != 2;
        let (backup, reader) = campaign.back_up_during_a_crawl(round, killed).await;
        if round % 4 == 1 {
            // The restore loses this crawl. The kept database contains it.
            campaign.churn();
            campaign.crawl().await;
        }
        campaign.consumer.poll(&campaign.database).await;
        let ended = rows(&campaign.database, ENDED).await;

        let restored = campaign.program.run(&["restore", backup.to_str().unwrap()]).await;
        assert_eq!(restored.code, Some(0), "{restored:?}");
        let kept = restored.output.split("kept as ").nth(1).unwrap().lines().next().unwrap().to_owned();
        campaign.assert_complete(kept.as_ref(), &ended).await;
        campaign.assert_complete(&campaign.database, &rows(&backup, ENDED).await).await;
        drop(reader);

        campaign.crawl().await;
        campaign.consumer.assert_all_events_read(&campaign.database).await;
        let harness = &mut campaign.program.harness;
        harness.clock.set(harness.clock.now().max(Clock::system().now()));
        let live = "SELECT count(*) FROM live_groups";
        assert_eq!(rows(&campaign.database, live).await, [[harness.api.truth().len().to_string()]]);
        TestDatabase::at(&campaign.database).await.assert_consistent().await;
        std::fs::remove_file(&backup).unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{kept}{suffix}"));
        }
    }
    println!("{rounds} backups and restores");
}
