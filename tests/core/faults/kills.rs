//! Failures of the process and its database: SIGKILL at every request and inside the transaction
//! that closes a crawl, a list with a tenth of the groups, a full disk, and a file without write
//! permission.

use std::time::Duration;

use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::program::{
    ONCE_A_YEAR, ProgramHarness, REQUESTS, REQUESTS_WITH_CANDIDATES, Service, kill, wait_for_output,
};
use harness::store::{Location, TestDatabase};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::{At, Fault};

crawl_tests! {
    the_next_crawl_recovers_from_a_program_killed_at_any_request,
    a_program_killed_in_the_closing_transaction_has_deleted_nothing,
    a_killed_service_crawls_as_soon_as_it_is_started_again,
    a_list_with_a_tenth_of_its_total_count_deletes_nothing,
}

async fn the_next_crawl_recovers_from_a_program_killed_at_any_request(harness: Harness) {
    let mut program = ProgramHarness::crawled_once(harness).await;
    for request in 1..=REQUESTS_WITH_CANDIDATES {
        program.churn();
        let held = program.harness.api.hold(At::Request(program.harness.request(request)));
        let child = program.start();
        held.reached().await;
        kill(child);
        drop(held);
        program.assert_recovery().await;
    }
}

/// Kills the process before the first group is marked deleted, and before the last statement of the
/// closing transaction. Until then readers see the table as it was and do not block.
async fn a_program_killed_in_the_closing_transaction_has_deleted_nothing(harness: Harness) {
    let mut program = ProgramHarness::crawled_once(harness).await;
    for (table, verb) in [("group_row", "UPDATE"), ("daily_count", "INSERT")] {
        program.churn();
        // Before the closing count, every listed group has been written.
        let held = program.harness.api.hold(At::Request(program.harness.request(REQUESTS)));
        let child = program.start();
        held.reached().await;
        let before = program.visible_state().await;
        match &program.harness.db.location {
            Location::Sqlite(folder) => {
                // The trigger makes the next such statement of the transaction run forever.
                let url = program.harness.db.store_location();
                let endless = format!(
                    "CREATE VIEW endless AS WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c;
                     CREATE TRIGGER wait_forever BEFORE {verb} ON {table} BEGIN SELECT count(*) FROM endless; END"
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
                TestDatabase::execute(&url, "DROP TRIGGER wait_forever; DROP VIEW endless").await;
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
        program.assert_recovery().await;
    }
}

/// On PostgreSQL the lease outlives the killed process by up to 30 seconds. The test expires it.
async fn a_killed_service_crawls_as_soon_as_it_is_started_again(harness: Harness) {
    let mut program = ProgramHarness::crawled_once(harness).await;
    // The service's next tick is far off, but the tick before it is overdue, so each start catches
    // it up.
    let long_ago = "UPDATE crawl SET started_at = 1700000000000, finished_at = 1700000001000";
    TestDatabase::execute(&program.harness.db.store_location(), long_ago).await;
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
        again = again.wait_for_log("waiting until it has finished").await;
        program.harness.db.expire_leases().await;
    }
    let again = again.wait_for_log("crawl complete").await;
    assert_eq!(again.stop().await, Some(0));
    let crawls = "SELECT trigger, CASE WHEN due_at IS NULL THEN 'now' ELSE 'due' END, status, reason_code
                  FROM crawls ORDER BY crawl_id";
    assert_eq!(
        program.harness.lines(crawls).await[1..],
        ["catch_up due failed process_ended", "catch_up due complete NULL"]
    );
    program.harness.assert_table_matches_api().await;
}

/// A script that upserts listed groups and marks all others deleted would delete 90,000 groups
/// here.
async fn a_list_with_a_tenth_of_its_total_count_deletes_nothing(harness: Harness) {
    let program = ProgramHarness::new(harness, "page_limit = 10000\ngroup_types = [\"Public\"]\n");
    program.harness.api.create_many("Public", 100_000);
    let complete = program.run(&["crawl"]).await;
    assert_eq!(complete.code, Some(0), "{complete:?}");
    program.harness.api.script(At::Page("Public".to_owned(), 1), Fault::EarlyEnd);
    let short = program.run(&["crawl"]).await;
    let sentence = "Public listed 10000 distinct ids, which is 90000 below its TotalCount of 100000";
    assert_eq!(short.code, Some(4), "{short:?}");
    assert!(short.output.contains("incomplete") && short.output.contains(sentence), "{short:?}");
    let crawl =
        "SELECT status, reason_code, groups_listed, vanished, withheld FROM crawls WHERE crawl_id = 2";
    assert_eq!(program.harness.lines(crawl).await, ["incomplete short_listing 10000 0 0"]);
    let groups = "SELECT count(*), count(deleted_at), count(missing_since) FROM groups";
    assert_eq!(program.harness.lines(groups).await, ["100000 0 0"]);
    let status = program.run(&["status"]).await;
    assert!(status.output.contains("incomplete") && status.output.contains(sentence), "{status:?}");
}

/// Simulates a full disk by a limit on the size of files. The limit is doubled until the crawl
/// succeeds.
#[tokio::test]
async fn a_full_disk_loses_no_data_and_the_next_crawl_with_enough_space_succeeds() {
    let mut program = ProgramHarness::crawled_once(Harness::on(Engine::Sqlite).await).await;
    program.set_page_limit(500);
    let (mut failures, mut room) = (0, 64);
    loop {
        // The new groups need more space than there is, and two groups must be marked deleted.
        program.churn();
        for n in 0..500 {
            program.harness.create("Public", &format!("room-for-{room}-{n:0>100}"));
        }
        // The limit applies to each of the database file, its write-ahead log and the log's index.
        // `ulimit -f` counts blocks of 512 bytes.
        let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", 2 * room);
        let ended = wait_for_output(program.start_with(&["sh", "-c", &limited, "sh"])).await;
        program.harness.clock.set(program.harness.clock.now().max(Clock::system().now()));
        program.harness.assert_rows_are_consistent().await;
        assert_eq!(program.harness.value("PRAGMA integrity_check").await, "ok", "{room} KiB");
        if ended.status.success() {
            break;
        }
        let output = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(
            ended.status.code() == Some(1) && output.contains("is full or broken"),
            "{room} KiB: {output}"
        );
        (failures, room) = (failures + 1, 2 * room);
        program.crawl_and_assert_table().await;
    }
    assert!(failures > 2, "{failures}");
    program.crawl_and_assert_table().await;
}

#[tokio::test]
async fn a_program_without_write_permission_reports_it_and_changes_nothing() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let mut program = ProgramHarness::crawled_once(Harness::on(Engine::Sqlite).await).await;
    let Location::Sqlite(folder) = &program.harness.db.location else { unreachable!("it is on SQLite") };
    let folder = folder.path().to_owned();
    let set_modes = |folder_mode, file_mode| {
        for name in ["groups.db", "groups.db-wal", "groups.db-shm"] {
            let file = folder.join(name);
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(file_mode)).unwrap();
        }
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(folder_mode)).unwrap();
    };
    // File permissions do not bind root, so as root the program runs as another user.
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
    set_modes(0o500, 0o400);
    let ended = wait_for_output(program.start_with(if is_root { &as_nobody } else { &[] })).await;
    set_modes(0o700, 0o600);
    let output = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
    assert!(
        !ended.status.success() && output.contains("may not write the database"),
        "{:?}: {output}",
        ended.status
    );
    assert_eq!(program.harness.table().await, before);
    program.crawl_and_assert_table().await;
}
