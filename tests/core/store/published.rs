//! The published copy of an SQLite database, which is read-only and replaced atomically.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use harness::crawl::{Engine, Harness};
use harness::program::Service;
use harness::store::TestDatabase;
use rustix::process::Signal;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::{At, KEY, Settings, Simulator};
use tim_group_sync::store::{DatabaseLocation, Store, StoreError};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");
const COUNT: &str = "SELECT count(*) FROM live_groups";

async fn harness() -> Harness {
    Harness::on(Engine::Sqlite).await
}

async fn count(connection: &mut SqliteConnection) -> i64 {
    sqlx::raw_sql(COUNT).fetch_one(connection).await.unwrap().get(0)
}

async fn open(copy: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(copy).read_only(true).connect().await.unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn a_copy_is_a_single_file_that_needs_only_read_permission() {
    let harness = harness().await;
    harness.create("Public", "a b c");
    harness.crawl().await;
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("for/readers");
    let copy = folder.join("groups.db");
    let published = harness.store.publish(&copy).await.unwrap().unwrap();
    assert_eq!(published.bytes, fs::metadata(&copy).unwrap().len());
    assert_eq!(names(&folder), ["groups.db"]);

    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    chmod(outside.path(), 0o755);
    chmod(&copy, 0o444);
    chmod(&folder, 0o555);
    let mut shell = if fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "sqlite3"]);
        command
    } else {
        Command::new("sqlite3")
    };
    let query = shell.arg(&copy).arg(format!("PRAGMA journal_mode; PRAGMA integrity_check; {COUNT};"));
    let answer = query.output().expect("the sqlite3 shell is installed by tests/run");
    chmod(&folder, 0o755);
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), "delete\nok\n3\n", "{:?}", answer.stderr);
    assert_eq!(names(&folder), ["groups.db"]);
}

#[tokio::test]
async fn open_readers_keep_the_old_copy_and_new_readers_get_the_new_one() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("groups.db");
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.store.publish(&copy).await.unwrap().unwrap();
    let mut old = open(&copy).await;
    assert_eq!(count(&mut old).await, 3);
    harness.create("Public", "d");
    harness.crawl().await;
    harness.store.publish(&copy).await.unwrap().unwrap();
    assert_eq!(count(&mut old).await, 3);
    assert_eq!(count(&mut open(&copy).await).await, 4);
    assert_eq!(names(folder.path()), ["groups.db"]);
}

#[tokio::test]
async fn a_copy_made_during_a_crawl_is_consistent_and_does_not_block_it() {
    let harness = harness().await;
    harness.create("Public", "a b c");
    harness.crawl().await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("groups.db");
    let held = harness.api.hold(At::Request(harness.request(3)));
    let publishing = async {
        held.reached().await;
        harness.store.publish(&copy).await.unwrap().unwrap();
        held.release();
    };
    let (report, ()) = tokio::join!(harness.crawl(), publishing);
    let mut copy = open(&copy).await;
    assert_eq!(count(&mut copy).await, 3);
    let newest = sqlx::raw_sql("SELECT crawl_id, status FROM crawls ORDER BY crawl_id DESC LIMIT 1");
    let newest = newest.fetch_one(&mut copy).await.unwrap();
    assert_eq!(newest.get::<i64, _>(0).to_string(), report.crawl.to_string());
    assert_eq!(newest.get::<&str, _>(1), "running");
}

#[tokio::test]
async fn a_file_that_is_not_a_copy_is_never_replaced() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.db");
    let mut connection =
        SqliteConnectOptions::new().filename(&other).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE precious (x)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let notes = folder.path().join("notes.txt");
    fs::write(&notes, "precious").unwrap();
    // A published copy that a program has opened as its database.
    let database = folder.path().join("restored.db");
    harness.store.publish(&database).await.unwrap().unwrap();
    let restored = Store::open(&DatabaseLocation::Sqlite(database.clone())).await.unwrap();
    std::os::unix::fs::symlink(&database, folder.path().join("alias.db")).unwrap();

    for (store, path) in [
        (&harness.store, other),
        (&harness.store, notes),
        (&restored, database),
        (&restored, folder.path().join("alias.db")),
    ] {
        let before = fs::read(&path).unwrap();
        let refused = store.publish(&path).await;
        assert!(matches!(refused, Err(StoreError::NotACopy { .. })), "{}: {refused:?}", path.display());
        assert_eq!(fs::read(&path).unwrap(), before, "{}", path.display());
    }
}

#[tokio::test]
async fn the_temporary_file_of_an_aborted_copy_is_replaced_by_the_next_copy() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("groups.db");
    fs::write(folder.path().join(".groups.db.tim-group-sync-part"), "half").unwrap();
    // A user's file with a similar name.
    fs::write(folder.path().join("groups.db.part"), "precious").unwrap();
    harness.store.publish(&copy).await.unwrap().unwrap();
    assert_eq!(names(folder.path()), ["groups.db", "groups.db.part"]);
    assert_eq!(fs::read_to_string(folder.path().join("groups.db.part")).unwrap(), "precious");
    assert_eq!(count(&mut open(&copy).await).await, 0);
}

#[tokio::test]
async fn a_database_with_the_name_of_the_temporary_file_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join(".copy.db.tim-group-sync-part");
    let store = Store::open(&DatabaseLocation::Sqlite(database.clone())).await.unwrap();
    store.migrate().await.unwrap();
    let refused = store.publish(&folder.path().join("copy.db")).await;
    assert!(matches!(refused, Err(StoreError::NotACopy { .. })), "{refused:?}");
    assert!(database.exists());
    store.close().await;
}

#[tokio::test]
async fn if_a_copy_fails_the_earlier_one_is_kept() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("groups.db");
    harness.store.publish(&copy).await.unwrap().unwrap();
    let before = fs::read(&copy).unwrap();
    // A folder with the name of the temporary file prevents the copy.
    fs::create_dir(folder.path().join(".groups.db.tim-group-sync-part")).unwrap();
    let refused = harness.store.publish(&copy).await.unwrap_err();
    assert!(matches!(refused, StoreError::Publish { .. }), "{refused}");
    assert_eq!(fs::read(&copy).unwrap(), before);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_postgresql_database_cannot_be_published() {
    let db = TestDatabase::postgres().await;
    let folder = tempfile::tempdir().unwrap();
    let refused = db.store.publish(&folder.path().join("groups.db")).await;
    assert!(matches!(refused, Err(StoreError::PublishNeedsSqlite)), "{refused:?}");
    assert_eq!(names(folder.path()), [""; 0]);
}

/// A folder with a configuration that publishes copies.
struct PublishingProgram {
    api: Simulator,
    folder: tempfile::TempDir,
}

impl PublishingProgram {
    /// `copy` is the path of the copy.
    async fn new(copy: &str) -> Self {
        let program = Self {
            api: Simulator::start(Settings::default()).await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(program.path("app.key"), KEY).unwrap();
        fs::set_permissions(program.path("app.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let config = format!(
            "[database]\nurl = \"sqlite:groups.db\"\npublish = \"{copy}\"\npublish_interval = \"1h\"\n\
             [apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\n\
             request_interval = \"0s\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n",
            program.api.base_url()
        );
        fs::write(program.path("config.toml"), config).unwrap();
        program
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn service(&self) -> Service {
        let mut command = Command::new(PROGRAM);
        command.arg("run").env_clear().env("TIM_GROUP_SYNC_CONFIG", self.path("config.toml"));
        Service::spawn(command)
    }

    async fn crawl(&self) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("crawl").env_clear().env("TIM_GROUP_SYNC_CONFIG", self.path("config.toml"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_publishes_after_a_crawl_if_the_last_copy_is_older_than_the_interval() {
    let program = PublishingProgram::new("public/groups.db").await;
    let copy = program.path("public/groups.db");
    program.api.create_many("Public", 10);
    program.crawl().await;
    // The copy is younger than the interval, so the next crawl does not replace it.
    program.api.create_many("Public", 10);
    let service = program.service().wait_for_log("started").await;
    service.signal(Signal::USR1);
    assert_eq!(service.wait_for_log("crawl complete").await.stop().await, Some(0));
    assert_eq!(count(&mut open(&copy).await).await, 10);

    set_age(&copy, Duration::from_mins(61));
    let service = program.service().wait_for_log("published a copy of the database").await;
    assert_eq!(count(&mut open(&copy).await).await, 20);
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(names(copy.parent().unwrap()), ["groups.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_copy_is_made_when_the_first_crawl_ends() {
    let program = PublishingProgram::new("public/groups.db").await;
    let copy = program.path("public/groups.db");
    program.api.create_many("Public", 10);
    let held = program.api.hold(At::Request(2));
    let service = program.service().wait_for_log("started").await;
    held.reached().await;
    assert!(!copy.exists());
    held.release();
    let service = service.wait_for_log("published a copy of the database").await;
    assert_eq!(count(&mut open(&copy).await).await, 10);
    assert_eq!(service.stop().await, Some(0));
}

fn set_age(copy: &Path, age: Duration) {
    let file = fs::File::options().append(true).open(copy).unwrap();
    file.set_modified((Clock::system().now() - age).into()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crawl_command_publishes_a_copy_unless_the_last_one_is_younger_than_the_interval() {
    let program = PublishingProgram::new("public/groups.db").await;
    let copy = program.path("public/groups.db");
    for (age, groups) in
        [(None, 10), (Some(Duration::from_mins(30)), 10), (Some(Duration::from_mins(61)), 30)]
    {
        if let Some(age) = age {
            set_age(&copy, age);
        }
        program.api.create_many("Public", 10);
        let ended = program.crawl().await;
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(count(&mut open(&copy).await).await, groups, "a copy of age {age:?}");
    }
    assert_eq!(names(copy.parent().unwrap()), ["groups.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_is_complete_even_if_its_copy_cannot_be_written() {
    let program = PublishingProgram::new("app.key/groups.db").await;
    let ended = program.crawl().await;
    assert!(ended.status.success(), "{ended:?}");
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.contains("cannot publish a copy of the database"), "{stderr}");
    assert!(stderr.contains("app.key/groups.db"), "{stderr}");
}
