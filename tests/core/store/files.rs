//! The files of an SQLite database: permissions, symbolic and hard links, locks, and side files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use harness::log::capture_log;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tempfile::TempDir;
use tim_group_sync::model::SdkAppId;
use tim_group_sync::store::{AppIdentity, DatabaseLocation, Store, StoreError};

fn app() -> SdkAppId {
    SdkAppId::new(1_400_000_000).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn open(file: &Path) -> Store {
    let store = Store::open(&DatabaseLocation::Sqlite(file.to_owned())).await.unwrap();
    store.migrate().await.unwrap();
    store
}

/// Creates a database in a folder of this mode.
async fn database_in(folder_mode: u32) -> (TempDir, PathBuf, Store) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(folder_mode)).unwrap();
    let file = folder.path().join("groups.db");
    let store = open(&file).await;
    (folder, file, store)
}

#[tokio::test]
async fn only_the_owner_has_access_to_a_new_folder_and_new_files() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("new/data");
    let store = open(&folder.join("groups.db")).await;
    let _lease = store.try_lease(app()).await.unwrap().unwrap();
    assert_eq!((mode(&outside.path().join("new")), mode(&folder)), (0o700, 0o700));
    for name in ["groups.db", "groups.db-wal", "groups.db-shm", "groups.db.migrate.lock"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&folder.join(format!("groups.db.app-{}.lock", app()))), 0o600);
}

#[tokio::test]
async fn in_a_folder_for_one_group_the_group_may_read_a_new_database_and_lock_nothing() {
    let (_folder, file, store) = database_in(0o750).await;
    let _lease = store.try_lease(app()).await.unwrap().unwrap();
    assert_eq!(mode(&file), 0o640);
    assert_eq!(mode(&file.with_file_name("groups.db-wal")), 0o640);
    assert_eq!(mode(&file.with_file_name(format!("groups.db.app-{}.lock", app()))), 0o600);
    for open_to_all in [0o755, 0o777] {
        let (_folder, file, _store) = database_in(open_to_all).await;
        assert_eq!(mode(&file), 0o600, "in a folder of {open_to_all:o}");
    }
}

#[tokio::test]
async fn a_lock_file_is_never_followed_to_another_file() {
    let (folder, file, store) = database_in(0o700).await;
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).unwrap();
    let before = fs::metadata(&victim).unwrap();
    let lock = file.with_file_name(format!("groups.db.app-{}.lock", app()));
    let links: [fn(&Path, &Path) -> std::io::Result<()>; 2] =
        [|victim, lock| symlink(victim, lock), |victim, lock| fs::hard_link(victim, lock)];
    for create_link in links {
        create_link(&victim, &lock).unwrap();
        let refused = store.try_lease(app()).await;
        assert!(matches!(refused, Err(StoreError::Lock { .. })), "{refused:?}");
        assert_eq!(
            store.leased_apps(&[app()]).await.unwrap(),
            if lock.is_symlink() { vec![app()] } else { vec![] }
        );
        fs::remove_file(&lock).unwrap();
    }
    let after = fs::metadata(&victim).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
}

#[tokio::test]
async fn waiting_for_a_lock_is_logged_with_the_lock_file_and_its_holder() {
    let (_folder, file, store) = database_in(0o700).await;
    let lock = file.with_file_name("groups.db.migrate.lock");
    let held = fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let (log, _logging) = capture_log();
    let migrating = store.migrate();
    let releasing = async {
        while !log.text().contains("waiting for ") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        drop(held);
    };
    let (migrated, ()) = tokio::join!(migrating, releasing);
    migrated.unwrap();
    let line = log.text();
    assert!(line.contains(&format!("and has locked {}", lock.display())), "{line}");
    let described = store.describe_holder(app());
    assert!(described.contains("groups.db.app-1400000000.lock"), "{described}");
}

#[tokio::test]
async fn closing_warns_if_a_reader_prevents_the_truncation_of_the_wal() {
    let (_folder, file, store) = database_in(0o700).await;
    let mut reader = SqliteConnectOptions::new().filename(&file).read_only(true).connect().await.unwrap();
    reader.execute("BEGIN; SELECT count(*) FROM crawls").await.unwrap();
    let lease = store.try_lease(app()).await.unwrap().unwrap();
    let group_type = tim_group_sync::model::GroupType::new("Other").unwrap();
    store.register_type(&lease, &group_type).await.unwrap();
    let (log, _logging) = capture_log();
    store.close().await;
    assert!(log.text().contains("groups.db-wal: a copy of "), "{}", log.text());
    reader.close().await.unwrap();

    let store = open(&file).await;
    store.close().await;
    assert_eq!(fs::metadata(file.with_file_name("groups.db-wal")).unwrap().len(), 0);
}

/// A backup may have been copied next to the -wal file of the previous database.
#[tokio::test]
async fn the_error_of_a_damaged_file_mentions_a_wal_file_of_another_database() {
    let (_folder, file, store) = database_in(0o700).await;
    store.close().await;
    fs::write(&file, b"SQLite format 3\0 and nothing of what follows").unwrap();
    let damaged = match Store::open(&DatabaseLocation::Sqlite(file)).await {
        Ok(store) => store.migrate().await.unwrap_err(),
        Err(error) => error,
    };
    let text = damaged.to_string();
    assert!(text.contains("beside the -wal file of another one") && text.contains("restore"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_a_new_database_waits_for_another_process_that_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("groups.db");
    // Another process has created the file and reads it before it has switched it to WAL mode.
    let mut other =
        SqliteConnectOptions::new().filename(&file).create_if_missing(true).connect().await.unwrap();
    other.execute("CREATE TABLE t (a)").await.unwrap();
    other.execute("BEGIN; SELECT * FROM t").await.unwrap();
    let location = DatabaseLocation::Sqlite(file);
    let mut opening = Box::pin(Store::open(&location));
    let waited = tokio::time::timeout(std::time::Duration::from_millis(200), &mut opening).await;
    assert!(waited.is_err(), "{waited:?}");
    other.execute("COMMIT").await.unwrap();
    opening.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits 11 seconds: tests/run"]
async fn a_write_waits_for_another_process_that_writes_for_more_than_ten_seconds() {
    let (_folder, file, store) = database_in(0o700).await;
    let options = SqliteConnectOptions::new().filename(&file);
    let mut other = options.connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let identity = AppIdentity { sdk_app_id: app(), name: "prod".to_owned() };
    let mut writing = Box::pin(store.register_app(&identity, &[]));
    let waited = tokio::time::timeout(std::time::Duration::from_secs(11), &mut writing).await;
    assert!(waited.is_err(), "{waited:?}");
    other.execute("COMMIT").await.unwrap();
    writing.await.unwrap();
}
