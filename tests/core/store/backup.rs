//! Backups and restores of an SQLite database.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use harness::cli::rows;
use harness::crawl::{Engine, Harness};
use harness::store::{APP, Location, TestDatabase, sdk_app_id};
use tempfile::TempDir;
use tim_group_sync::clock::Clock;
use tim_group_sync::model::SdkAppId;
use tim_group_sync::simulator::At;
use tim_group_sync::store::{DatabaseLocation, Restored, Store, StoreError};

/// An SQLite database after one crawl, and a folder for backups.
struct BackupHarness {
    harness: Harness,
    folder: TempDir,
}

impl BackupHarness {
    async fn crawled(groups: &str) -> Self {
        let harness = Harness::on(Engine::Sqlite).await;
        harness.create("Public", groups);
        harness.crawl().await;
        Self { harness, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn database(&self) -> PathBuf {
        let Location::Sqlite(folder) = &self.harness.db.location else { unreachable!("it is on SQLite") };
        folder.path().join("groups.db")
    }

    async fn back_up(&self, name: &str) -> PathBuf {
        let file = self.file(name);
        self.harness.store.backup(&file, false).await.unwrap();
        file
    }

    /// Restores a backup, and keeps the replaced database.
    async fn restore_as(&self, database: &Path, backup: &Path) -> Result<Restored, StoreError> {
        restore(database, backup, &[sdk_app_id()], true).await
    }
}

async fn restore(
    database: &Path,
    backup: &Path,
    configured: &[SdkAppId],
    keep: bool,
) -> Result<Restored, StoreError> {
    let now = Clock::system().now();
    Store::restore((backup, File::open(backup).unwrap()), database, configured, keep, now).await
}

async fn live(database: &Path) -> String {
    rows(database, "SELECT group_concat(group_id, ' ') FROM (SELECT group_id FROM live_groups ORDER BY 1)")
        .await[0][0]
        .clone()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_made_during_a_crawl_is_one_complete_file_as_private_as_the_database() {
    let test = BackupHarness::crawled("a b c").await;
    fs::set_permissions(test.database(), fs::Permissions::from_mode(0o640)).unwrap();
    let held = test.harness.api.hold(At::Request(test.harness.request(3)));
    let backing_up = async {
        held.reached().await;
        let backup = test.harness.store.backup(&test.file("backup.db"), false).await.unwrap();
        held.release();
        backup
    };
    let (_, backup) = tokio::join!(test.harness.crawl(), backing_up);
    assert_eq!(names(test.folder.path()), ["backup.db"]);
    let file = fs::metadata(test.file("backup.db")).unwrap();
    assert_eq!((file.len(), file.permissions().mode() & 0o777), (backup.bytes, 0o640));
    assert_eq!(backup.contents.apps[0].sdk_app_id, APP);
    assert_eq!(backup.contents.apps[0].live_groups, 3);
    assert_eq!(backup.contents.last_crawl.unwrap().0.0, 1);
    assert_eq!(live(&test.file("backup.db")).await, "a b c");
    assert_eq!(rows(&test.file("backup.db"), "PRAGMA integrity_check").await, [["ok"]]);
    assert_eq!(rows(&test.file("backup.db"), "PRAGMA journal_mode").await, [["delete"]]);
}

#[tokio::test]
async fn a_backup_replaces_only_an_earlier_backup_and_only_on_demand() {
    let test = BackupHarness::crawled("a").await;
    let backup = test.back_up("backup.db").await;
    let published = test.file("published.db");
    test.harness.store.publish(&published).await.unwrap();
    fs::write(test.file("notes.txt"), "precious").unwrap();
    fs::create_dir(test.file("folder")).unwrap();
    test.harness.create("Public", "b");
    test.harness.crawl().await;

    let kept = fs::read(&backup).unwrap();
    let refused = test.harness.store.backup(&backup, false).await;
    assert!(matches!(refused, Err(StoreError::BackupExists { replace: false, .. })), "{refused:?}");
    assert_eq!(fs::read(&backup).unwrap(), kept);
    for other in [published, test.file("notes.txt"), test.database()] {
        let before = fs::read(&other).unwrap();
        let refused = test.harness.store.backup(&other, true).await;
        assert!(
            matches!(refused, Err(StoreError::BackupExists { replace: true, .. })),
            "{}: {refused:?}",
            other.display()
        );
        assert_eq!(fs::read(&other).unwrap(), before, "{}", other.display());
    }
    test.harness.store.backup(&test.file("folder"), true).await.unwrap_err();
    test.harness.store.backup(&backup, true).await.unwrap();
    assert_eq!(live(&backup).await, "a b");
    assert_eq!(names(test.folder.path()), ["backup.db", "folder", "notes.txt", "published.db"]);
}

#[tokio::test]
async fn a_backup_that_is_being_written_is_not_written_twice() {
    let test = BackupHarness::crawled("a").await;
    let part = File::create(test.file(".backup.db.tim-group-sync-part")).unwrap();
    part.lock().unwrap();
    let busy = test.harness.store.backup(&test.file("backup.db"), false).await.unwrap_err();
    assert!(matches!(busy, StoreError::BackupBusy { .. }) && busy.is_transient(), "{busy}");
    // The partial file of a killed process does not prevent a backup.
    part.set_len(4096).unwrap();
    drop(part);
    test.back_up("backup.db").await;
    assert_eq!(names(test.folder.path()), ["backup.db"]);
}

#[tokio::test]
async fn a_symbolic_link_with_the_name_of_the_partial_backup_is_not_followed() {
    let test = BackupHarness::crawled("a").await;
    fs::write(test.file("precious"), "precious").unwrap();
    std::os::unix::fs::symlink(test.file("precious"), test.file(".backup.db.tim-group-sync-part")).unwrap();
    let refused = test.harness.store.backup(&test.file("backup.db"), false).await;
    assert!(matches!(refused, Err(StoreError::Backup { .. })), "{refused:?}");
    assert_eq!(fs::read_to_string(test.file("precious")).unwrap(), "precious");
}

#[tokio::test]
async fn a_restored_database_is_the_backup_and_the_replaced_one_is_kept() {
    let test = BackupHarness::crawled("a b").await;
    let backup = test.back_up("backup.db").await;
    test.harness.create("Public", "c");
    test.harness.crawl().await;
    test.harness.store.close().await;
    let mode = fs::metadata(test.database()).unwrap().permissions().mode();

    let restored = test.restore_as(&test.database(), &backup).await.unwrap();
    assert_eq!(live(&test.database()).await, "a b");
    assert_eq!(fs::metadata(test.database()).unwrap().permissions().mode(), mode);
    let kept = restored.kept.unwrap();
    assert!(kept.to_str().unwrap().contains("groups.db.replaced-"), "{}", kept.display());
    assert_eq!(live(&kept).await, "a b c");
    // The backup still exists. It can be restored again without keeping the replaced database.
    let again = restore(&test.database(), &backup, &[sdk_app_id()], false).await.unwrap();
    assert_eq!(again.kept, None);
    assert_eq!(live(&test.database()).await, "a b");
}

#[tokio::test]
async fn a_log_that_a_killed_process_left_is_kept_with_its_database_and_not_applied_to_the_backup() {
    let test = BackupHarness::crawled("a b").await;
    let backup = test.back_up("backup.db").await;
    test.harness.create("Public", "c");
    test.harness.crawl().await;
    // A kill leaves the files like this: only the write-ahead log contains the last crawls.
    let folder = test.file("after-kill");
    fs::create_dir(&folder).unwrap();
    let database = folder.join("groups.db");
    for suffix in ["", "-wal", "-shm"] {
        let name = |database: &Path| PathBuf::from(format!("{}{suffix}", database.display()));
        fs::copy(name(&test.database()), name(&database)).unwrap();
    }
    assert!(fs::metadata(folder.join("groups.db-wal")).unwrap().len() > 0);

    let kept = test.restore_as(&database, &backup).await.unwrap().kept.unwrap();
    assert_eq!(live(&database).await, "a b");
    assert_eq!(rows(&database, "PRAGMA integrity_check").await, [["ok"]]);
    assert_eq!(live(&kept).await, "a b c");
}

#[tokio::test]
async fn a_backup_can_be_restored_without_an_existing_database() {
    let test = BackupHarness::crawled("a b").await;
    let backup = test.back_up("backup.db").await;
    let database = test.file("new/folder/groups.db");
    let restored = test.restore_as(&database, &backup).await.unwrap();
    assert_eq!(restored.kept, None);
    assert_eq!(live(&database).await, "a b");
}

#[tokio::test]
async fn nothing_is_restored_while_a_process_has_the_database_open_for_writing() {
    let test = BackupHarness::crawled("a").await;
    let backup = test.back_up("backup.db").await;
    test.harness.create("Public", "b");
    test.harness.crawl().await;
    let refused = test.restore_as(&test.database(), &backup).await.unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }) && refused.is_transient(), "{refused}");
    assert_eq!(live(&test.database()).await, "a b");
    // Readers do not prevent a restore.
    let reader = Store::open_to_read(&DatabaseLocation::Sqlite(test.database())).await.unwrap();
    test.harness.store.close().await;
    test.restore_as(&test.database(), &backup).await.unwrap();
    reader.close().await;
    assert_eq!(live(&test.database()).await, "a");
}

#[tokio::test]
async fn a_file_that_is_no_intact_backup_of_the_configured_apps_replaces_nothing() {
    let test = BackupHarness::crawled("a b").await;
    let backup = test.back_up("backup.db").await;
    test.harness.store.close().await;
    let damaged = test.file("damaged.db");
    let mut bytes = fs::read(&backup).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 5000].fill(0xAA);
    fs::write(&damaged, bytes).unwrap();
    let cut = test.file("cut.db");
    fs::write(&cut, &fs::read(&backup).unwrap()[..5000]).unwrap();
    let text = test.file("text");
    fs::write(&text, "no database").unwrap();
    let empty = test.file("empty");
    fs::write(&empty, "").unwrap();
    let other = test.file("other.db");
    TestDatabase::execute_in_new(&other, "CREATE TABLE precious (x)").await;
    let newer = test.file("newer.db");
    fs::copy(&backup, &newer).unwrap();
    let migration = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES (9001, 'x', TRUE, '', 0)";
    TestDatabase::execute(&DatabaseLocation::Sqlite(newer.clone()), migration).await;
    let half = test.file("half.db");
    fs::copy(&backup, &half).unwrap();
    fs::write(test.file("half.db-wal"), "not applied yet").unwrap();

    let before = fs::read(test.database()).unwrap();
    for (file, why) in [
        (&damaged, "damaged.db"),
        (&cut, "cut.db"),
        (&text, "text"),
        (&empty, "is not a database of this program"),
        (&other, "is not a database of this program"),
        (&newer, "newer version"),
        (&half, "half.db-wal"),
        (&test.database(), "is the database itself"),
    ] {
        let refused = test.restore_as(&test.database(), file).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{}: {refused}", file.display());
        assert_eq!(fs::read(test.database()).unwrap(), before, "{}", file.display());
    }
    let refused = restore(&test.database(), &backup, &[SdkAppId::new(7).unwrap()], true).await.unwrap_err();
    let sentence = "has SDKAppID 1400000000, and the configuration has SDKAppID 7";
    assert!(refused.to_string().contains(sentence), "{refused}");
    let left = names(test.database().parent().unwrap());
    assert!(left.iter().all(|name| !name.contains("part") && !name.contains("replaced")), "{left:?}");
}

#[tokio::test]
async fn ids_of_a_restored_or_copied_file_continue_above_those_that_were_lost() {
    let test = BackupHarness::crawled("a").await;
    let backup = test.back_up("backup.db").await;
    let copied = test.file("copied.db");
    test.harness.create("Public", "b c");
    let lost = test.harness.crawl().await.crawl;
    let greatest = "SELECT max(event_id) FROM group_events";
    let greatest_before: i64 = test.harness.value(greatest).await.parse().unwrap();
    test.harness.store.close().await;
    test.restore_as(&test.database(), &backup).await.unwrap();
    // Ids also continue in a backup that was copied without the program.
    fs::copy(&backup, &copied).unwrap();
    for database in [test.database(), copied] {
        let store = Store::open(&DatabaseLocation::Sqlite(database.clone())).await.unwrap();
        let report = test.harness.crawl_into(&store).await;
        store.close().await;
        assert!(report.crawl > lost, "{} after {lost}", report.crawl);
        let next: i64 =
            rows(&database, "SELECT min(event_id) FROM group_events").await[0][0].parse().unwrap();
        assert!(next > greatest_before, "{next} after {greatest_before}");
    }
}
