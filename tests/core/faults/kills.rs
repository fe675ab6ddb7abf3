//! The program itself in trouble: killed with SIGKILL at every request and inside the transaction that concludes a crawl,
//! given a tenth of a list, with a server that restarts and cuts connections, with a disk that is full, with a file that
//! it may not write.

use std::time::Duration;

use harness::crawl::{Engine, World};
use harness::on_every_engine;
use harness::program::{Installed, ONCE_A_YEAR, REQUESTS, REQUESTS_WITH_QUESTIONS, Service, end_of, kill};
use harness::store::{Bench, Place};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::{At, Fault};

on_every_engine! {
    a_program_killed_at_any_request_is_made_up_for_by_the_next,
    a_program_killed_while_it_concludes_has_concluded_nothing,
    a_service_that_was_killed_crawls_as_soon_as_it_is_started_again,
    a_list_of_a_tenth_of_the_groups_it_counts_deletes_none,
}

async fn a_program_killed_at_any_request_is_made_up_for_by_the_next(world: World) {
    let mut installed = Installed::crawled_once(world).await;
    for request in 1..=REQUESTS_WITH_QUESTIONS {
        installed.churn();
        let held = installed.world.api.hold(At::Request(installed.world.request(request)));
        let child = installed.start();
        held.reached().await;
        kill(child);
        drop(held);
        installed.is_made_up_for().await;
    }
}

/// Killed at its first mark, and when only its last statement is missing. Until then people read the table as it was,
/// without waiting.
async fn a_program_killed_while_it_concludes_has_concluded_nothing(world: World) {
    let mut installed = Installed::crawled_once(world).await;
    for (table, verb) in [("group_row", "UPDATE"), ("daily_count", "INSERT")] {
        installed.churn();
        // By the closing count everything that was listed is written.
        let held = installed.world.api.hold(At::Request(installed.world.request(REQUESTS)));
        let child = installed.start();
        held.reached().await;
        let before = installed.as_people_see_it().await;
        match &installed.world.bench.place {
            Place::Sqlite(folder) => {
                // What the transaction comes to there takes for ever.
                let url = installed.world.bench.url();
                let endless = format!(
                    "CREATE VIEW endless AS WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c;
                     CREATE TRIGGER endlessly BEFORE {verb} ON {table} BEGIN SELECT count(*) FROM endless; END"
                );
                Bench::execute(&url, &endless).await;
                drop(held);
                let file = SqliteConnectOptions::new().filename(folder.path().join("groups.db"));
                let mut other = file.busy_timeout(Duration::ZERO).connect().await.unwrap();
                while other.execute("BEGIN IMMEDIATE").await.is_ok() {
                    other.execute("ROLLBACK").await.unwrap();
                    tokio::task::yield_now().await;
                }
                assert_eq!(installed.as_people_see_it().await, before);
                kill(child);
                other.close().await.unwrap();
                Bench::execute(&url, "DROP TRIGGER endlessly; DROP VIEW endless").await;
            }
            Place::Postgres(database) => {
                let options = database.url.parse::<PgConnectOptions>().unwrap();
                let mut other: PgConnection = options.connect().await.unwrap();
                let lock = format!("BEGIN; LOCK TABLE tim_private.{table} IN SHARE MODE");
                other.execute(AssertSqlSafe(lock)).await.unwrap();
                drop(held);
                let waiting = format!(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tim_private.{table}'::regclass"
                );
                while installed.world.value(&waiting).await == "0" {
                    tokio::task::yield_now().await;
                }
                assert_eq!(installed.as_people_see_it().await, before);
                kill(child);
                other.close().await.unwrap();
            }
        }
        installed.is_made_up_for().await;
    }
}

/// With nothing to wait for but the lease, which on a server outlives its holder by half a minute and is let run out here.
async fn a_service_that_was_killed_crawls_as_soon_as_it_is_started_again(world: World) {
    let mut installed = Installed::crawled_once(world).await;
    // Due long before the next tick, which is far off: what it crawls, it catches up.
    let long_ago = "UPDATE crawl SET started_at = 1700000000000, finished_at = 1700000001000";
    Bench::execute(&installed.world.bench.url(), long_ago).await;
    installed.configure(ONCE_A_YEAR);
    installed.churn();
    let held = installed.world.api.hold(At::Request(installed.world.request(3)));
    let killed = Service::start(&installed);
    held.reached().await;
    killed.kill();
    drop(held);
    installed.churn();
    let mut again = Service::start(&installed);
    if let Place::Postgres(_) = installed.world.bench.place {
        again = again.says("waiting for it to finish").await;
        installed.world.bench.let_leases_run_out().await;
    }
    let again = again.says("crawl complete").await;
    assert_eq!(again.stop().await, Some(0));
    let crawls = "SELECT trigger, CASE WHEN due_at IS NULL THEN 'now' ELSE 'due' END, status, reason_code
                  FROM crawls ORDER BY crawl_id";
    assert_eq!(
        installed.world.lines(crawls).await[1..],
        ["catch_up due failed process_ended", "catch_up due complete NULL"]
    );
    installed.world.assert_table_is_the_truth().await;
}

/// A script that upserts what is listed and marks the rest deletes ninety thousand groups here, and says that all is well.
async fn a_list_of_a_tenth_of_the_groups_it_counts_deletes_none(world: World) {
    let installed = Installed::new(world, "page_limit = 10000\ngroup_types = [\"Public\"]\n");
    installed.world.api.create_many("Public", 100_000);
    let whole = installed.run(&["crawl"]).await;
    assert_eq!(whole.code, Some(0), "{whole:?}");
    installed.world.api.script(At::Page("Public".to_owned(), 1), Fault::EarlyEnd);
    let tenth = installed.run(&["crawl"]).await;
    let sentence = "Public listed 10000 different ids of a TotalCount of 100000, 90000 fewer";
    assert_eq!(tenth.code, Some(4), "{tenth:?}");
    assert!(tenth.said.contains("incomplete") && tenth.said.contains(sentence), "{tenth:?}");
    let crawl =
        "SELECT status, reason_code, groups_listed, vanished, withheld FROM crawls WHERE crawl_id = 2";
    assert_eq!(installed.world.lines(crawl).await, ["incomplete short_listing 10000 0 0"]);
    let groups = "SELECT count(*), count(deleted_at), count(missing_since) FROM groups";
    assert_eq!(installed.world.lines(groups).await, ["100000 0 0"]);
    let status = installed.run(&["status"]).await;
    assert!(status.said.contains("incomplete") && status.said.contains(sentence), "{status:?}");
}

/// What becomes of a SQLite file does not depend on where the file ends that may not grow: files may have so many KiB.
#[tokio::test]
async fn a_program_whose_disk_is_full_loses_nothing_and_goes_on_when_there_is_room() {
    let mut installed = Installed::crawled_once(World::on(Engine::Sqlite).await).await;
    let (mut failures, mut room) = (0, 64);
    loop {
        // Enough to outgrow what there is, and something that has to be marked.
        installed.churn();
        for n in 0..500 {
            installed.world.create("Public", &format!("room-for-{room}-{n:0>100}"));
        }
        // Each of these files has to fit: the database, its log, and the log's index.
        let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", 2 * room);
        let ended = end_of(installed.start_by(&["sh", "-c", &limited, "sh"])).await;
        installed.world.clock.set(installed.world.clock.now().max(Clock::system().now()));
        installed.world.assert_rows_are_sound().await;
        assert_eq!(installed.world.value("PRAGMA integrity_check").await, "ok", "{room} KiB");
        if ended.status.success() {
            break;
        }
        let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(ended.status.code() == Some(1) && said.contains("is full or broken"), "{room} KiB: {said}");
        (failures, room) = (failures + 1, 2 * room);
        installed.crawl_to_the_truth().await;
    }
    assert!(failures > 2, "{failures}");
    installed.crawl_to_the_truth().await;
}

#[tokio::test]
async fn a_program_that_may_not_write_its_file_says_so_and_changes_nothing() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let mut installed = Installed::crawled_once(World::on(Engine::Sqlite).await).await;
    let Place::Sqlite(folder) = &installed.world.bench.place else { unreachable!("it is on SQLite") };
    let folder = folder.path().to_owned();
    let may = |folder_mode, file_mode| {
        let file = folder.join("groups.db");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(file_mode)).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(folder_mode)).unwrap();
    };
    // What is not allowed is allowed to root all the same.
    let is_root = rustix::process::geteuid().is_root();
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if is_root {
        for folder in [&folder, installed.folder.path()] {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                chown(path, Some(65534), Some(65534)).unwrap();
            }
            chown(folder, Some(65534), Some(65534)).unwrap();
        }
    }
    let before = installed.world.table().await;
    installed.churn();
    may(0o500, 0o400);
    let ended = end_of(installed.start_by(if is_root { &as_nobody } else { &[] })).await;
    may(0o700, 0o600);
    let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
    assert!(!ended.status.success() && said.contains("may not be written"), "{:?}: {said}", ended.status);
    assert_eq!(installed.world.table().await, before);
    installed.crawl_to_the_truth().await;
}
