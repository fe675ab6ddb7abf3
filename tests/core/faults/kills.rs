//! The program itself in trouble: killed with SIGKILL at every request and inside the transaction that concludes a crawl,
//! given a tenth of a list, with a server that restarts and cuts connections, with a disk that is full, with a file that
//! it may not write.

use std::time::Duration;

use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::program::{
    ONCE_A_YEAR, ProgramHarness, REQUESTS, REQUESTS_WITH_QUESTIONS, Service, end_of, kill,
};
use harness::store::{Location, TestDatabase};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::{At, Fault};

crawl_tests! {
    a_program_killed_at_any_request_is_made_up_for_by_the_next,
    a_program_killed_while_it_concludes_has_concluded_nothing,
    a_service_that_was_killed_crawls_as_soon_as_it_is_started_again,
    a_list_of_a_tenth_of_the_groups_it_counts_deletes_none,
}

async fn a_program_killed_at_any_request_is_made_up_for_by_the_next(harness: Harness) {
    let mut program = ProgramHarness::crawled_once(harness).await;
    for request in 1..=REQUESTS_WITH_QUESTIONS {
        program.churn();
        let held = program.harness.api.hold(At::Request(program.harness.request(request)));
        let child = program.start();
        held.reached().await;
        kill(child);
        drop(held);
        program.recovers().await;
    }
}

/// Killed at its first mark, and when only its last statement is missing. Until then people read the table as it was,
/// without waiting.
async fn a_program_killed_while_it_concludes_has_concluded_nothing(harness: Harness) {
    let mut program = ProgramHarness::crawled_once(harness).await;
    for (table, verb) in [("group_row", "UPDATE"), ("daily_count", "INSERT")] {
        program.churn();
        // By the closing count everything that was listed is written.
        let held = program.harness.api.hold(At::Request(program.harness.request(REQUESTS)));
        let child = program.start();
        held.reached().await;
        let before = program.visible_state().await;
        match &program.harness.db.location {
            Location::Sqlite(folder) => {
                // What the transaction comes to there takes for ever.
                let url = program.harness.db.url();
                let endless = format!(
                    "CREATE VIEW endless AS WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c;
                     CREATE TRIGGER endlessly BEFORE {verb} ON {table} BEGIN SELECT count(*) FROM endless; END"
                );
                TestDatabase::execute(&url, &endless).await;
                drop(held);
                let file = SqliteConnectOptions::new().filename(folder.path().join("groups.db"));
                let mut other = file.busy_timeout(Duration::ZERO).connect().await.unwrap();
                while other.execute("BEGIN IMMEDIATE").await.is_ok() {
                    other.execute("ROLLBACK").await.unwrap();
                    tokio::task::yield_now().await;
                }
                assert_eq!(program.visible_state().await, before);
                kill(child);
                other.close().await.unwrap();
                TestDatabase::execute(&url, "DROP TRIGGER endlessly; DROP VIEW endless").await;
            }
            Location::Postgres(database) => {
                let options = database.url.parse::<PgConnectOptions>().unwrap();
                let mut other: PgConnection = options.connect().await.unwrap();
                let lock = format!("BEGIN; LOCK TABLE tim_private.{table} IN SHARE MODE");
                other.execute(AssertSqlSafe(lock)).await.unwrap();
                drop(held);
                let waiting = format!(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tim_private.{table}'::regclass"
                );
                while program.harness.value(&waiting).await == "0" {
                    tokio::task::yield_now().await;
                }
                assert_eq!(program.visible_state().await, before);
                kill(child);
                other.close().await.unwrap();
            }
        }
        program.recovers().await;
    }
}

/// With nothing to wait for but the lease, which on a server outlives its holder by half a minute and is let run out here.
async fn a_service_that_was_killed_crawls_as_soon_as_it_is_started_again(harness: Harness) {
    let mut program = ProgramHarness::crawled_once(harness).await;
    // Due long before the next tick, which is far off: what it crawls, it catches up.
    let long_ago = "UPDATE crawl SET started_at = 1700000000000, finished_at = 1700000001000";
    TestDatabase::execute(&program.harness.db.url(), long_ago).await;
    program.configure(ONCE_A_YEAR);
    program.churn();
    let held = program.harness.api.hold(At::Request(program.harness.request(3)));
    let killed = Service::start(&program);
    held.reached().await;
    killed.kill();
    drop(held);
    program.churn();
    let mut again = Service::start(&program);
    if let Location::Postgres(_) = program.harness.db.location {
        again = again.says("waiting until it has finished").await;
        program.harness.db.expire_leases().await;
    }
    let again = again.says("crawl complete").await;
    assert_eq!(again.stop().await, Some(0));
    let crawls = "SELECT trigger, CASE WHEN due_at IS NULL THEN 'now' ELSE 'due' END, status, reason_code
                  FROM crawls ORDER BY crawl_id";
    assert_eq!(
        program.harness.lines(crawls).await[1..],
        ["catch_up due failed process_ended", "catch_up due complete NULL"]
    );
    program.harness.assert_table_matches_api().await;
}

/// A script that upserts what is listed and marks the rest deletes ninety thousand groups here, and says that all is well.
async fn a_list_of_a_tenth_of_the_groups_it_counts_deletes_none(harness: Harness) {
    let program = ProgramHarness::new(harness, "page_limit = 10000\ngroup_types = [\"Public\"]\n");
    program.harness.api.create_many("Public", 100_000);
    let whole = program.run(&["crawl"]).await;
    assert_eq!(whole.code, Some(0), "{whole:?}");
    program.harness.api.script(At::Page("Public".to_owned(), 1), Fault::EarlyEnd);
    let tenth = program.run(&["crawl"]).await;
    let sentence = "Public listed 10000 distinct ids, which is 90000 below its TotalCount of 100000";
    assert_eq!(tenth.code, Some(4), "{tenth:?}");
    assert!(tenth.said.contains("incomplete") && tenth.said.contains(sentence), "{tenth:?}");
    let crawl =
        "SELECT status, reason_code, groups_listed, vanished, withheld FROM crawls WHERE crawl_id = 2";
    assert_eq!(program.harness.lines(crawl).await, ["incomplete short_listing 10000 0 0"]);
    let groups = "SELECT count(*), count(deleted_at), count(missing_since) FROM groups";
    assert_eq!(program.harness.lines(groups).await, ["100000 0 0"]);
    let status = program.run(&["status"]).await;
    assert!(status.said.contains("incomplete") && status.said.contains(sentence), "{status:?}");
}

/// What becomes of a SQLite file does not depend on where the file ends that may not grow: files may have so many KiB.
#[tokio::test]
async fn a_program_whose_disk_is_full_loses_nothing_and_goes_on_when_there_is_room() {
    let mut program = ProgramHarness::crawled_once(Harness::on(Engine::Sqlite).await).await;
    let (mut failures, mut room) = (0, 64);
    loop {
        // Enough to outgrow what there is, and something that has to be marked.
        program.churn();
        for n in 0..500 {
            program.harness.create("Public", &format!("room-for-{room}-{n:0>100}"));
        }
        // Each of these files has to fit: the database, its log, and the log's index.
        let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", 2 * room);
        let ended = end_of(program.start_by(&["sh", "-c", &limited, "sh"])).await;
        program.harness.clock.set(program.harness.clock.now().max(Clock::system().now()));
        program.harness.assert_rows_are_consistent().await;
        assert_eq!(program.harness.value("PRAGMA integrity_check").await, "ok", "{room} KiB");
        if ended.status.success() {
            break;
        }
        let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(ended.status.code() == Some(1) && said.contains("is full or broken"), "{room} KiB: {said}");
        (failures, room) = (failures + 1, 2 * room);
        program.crawl_and_assert_table().await;
    }
    assert!(failures > 2, "{failures}");
    program.crawl_and_assert_table().await;
}

#[tokio::test]
async fn a_program_that_may_not_write_its_file_says_so_and_changes_nothing() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let mut program = ProgramHarness::crawled_once(Harness::on(Engine::Sqlite).await).await;
    let Location::Sqlite(folder) = &program.harness.db.location else { unreachable!("it is on SQLite") };
    let folder = folder.path().to_owned();
    let may = |folder_mode, file_mode| {
        for name in ["groups.db", "groups.db-wal", "groups.db-shm"] {
            let file = folder.join(name);
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(file_mode)).unwrap();
        }
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(folder_mode)).unwrap();
    };
    // What is not allowed is allowed to root all the same.
    let is_root = rustix::process::geteuid().is_root();
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if is_root {
        for folder in [&folder, program.folder.path()] {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                chown(path, Some(65534), Some(65534)).unwrap();
            }
            chown(folder, Some(65534), Some(65534)).unwrap();
        }
    }
    let before = program.harness.table().await;
    program.churn();
    may(0o500, 0o400);
    let ended = end_of(program.start_by(if is_root { &as_nobody } else { &[] })).await;
    may(0o700, 0o600);
    let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
    assert!(!ended.status.success() && said.contains("may not be written"), "{:?}: {said}", ended.status);
    assert_eq!(program.harness.table().await, before);
    program.crawl_and_assert_table().await;
}
