//! Replaces an SQLite database with a backup.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use sqlx::Connection as _;

use super::contents::Contents;
use super::copy::{self, CopyKind};
use super::unfinished::{Replacing, UnfinishedFile, folder_of, is_same_file, with_suffix};
use crate::model::SdkAppId;
use crate::store::engine::lock_file::set_owner_like;
use crate::store::engine::{DatabaseLocation, InUseLock, Store, StoreError, WithAction as _};

/// The permissions of the database if there was none before. The umask applies, as for files that
/// SQLite creates.
const NEW_FILE_MODE: u32 = 0o644;
/// The suffixes of the side files that contain data. SQLite can rebuild the third one, -shm.
const DATA_SIDE_FILES: [&str; 2] = ["-wal", "-journal"];

/// The result of a restoration.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The size of the restored database.
    pub bytes: u64,
    pub contents: Contents,
    /// The new path of the replaced database, if it was kept.
    pub kept: Option<PathBuf>,
}

impl Store {
    /// Replaces a database with a backup. `backup_file` is the open backup, and `backup` its path.
    /// Checks the backup first: it must be intact, not from a newer version, and contain one of the
    /// configured apps. Fails while another process has the database open for writing. With `keep`,
    /// the replaced database and its side files are renamed. The new name contains the time `at`.
    pub async fn restore(
        (backup, backup_file): (&Path, File),
        database: &Path,
        configured: &[SdkAppId],
        keep: bool,
        at: DateTime<Utc>,
    ) -> Result<Restored, StoreError> {
        let backup_error =
            |action| move |source| StoreError::Backup { action, path: backup.to_owned(), source };
        let database = &database.canonicalize().unwrap_or_else(|_| database.to_owned());
        fs::create_dir_all(folder_of(database))
            .map_err(|source| StoreError::Folder { path: folder_of(database).to_owned(), source })?;
        let in_use_lock = InUseLock::lock_exclusive(database)?;
        check_backup_file(backup, &backup_file, database)?;
        let unfinished =
            UnfinishedFile::create(database, NEW_FILE_MODE).map_err(backup_error("put in place"))?;
        let Some(unfinished) = unfinished else { return Err(StoreError::InUse { path: database.clone() }) };
        let copy_task = tokio::task::spawn_blocking(move || copy_bytes(backup_file, unfinished));
        let copied = copy_task.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let mut unfinished = copied.map_err(backup_error("copy"))?;
        let contents = check_copy(&unfinished, backup, configured).await?;
        if let Ok(replaced) = fs::metadata(database) {
            let mode = Permissions::from_mode(replaced.permissions().mode() & 0o777);
            unfinished.file().set_permissions(mode).map_err(backup_error("set the mode of"))?;
        }
        // A new database gets the owner of its folder.
        set_owner_like(unfinished.file(), if database.exists() { database } else { folder_of(database) });
        let kept_as = prepare_replacement(database, keep, at)
            .map_err(backup_error("replace the existing files with"))?;
        let bytes = unfinished.move_into_place(Replacing::Existing).map_err(backup_error("put in place"))?;
        drop(in_use_lock);
        // Opening creates the side files that readers need. A failure is ignored, because the next
        // writer creates them, too.
        if let Ok(store) = Self::open_existing(&DatabaseLocation::Sqlite(database.clone())).await {
            store.close().await;
        }
        Ok(Restored { bytes, contents, kept: kept_as })
    }
}

/// Fails if the backup is not a complete database by itself, or is the database itself.
fn check_backup_file(backup: &Path, backup_file: &File, database: &Path) -> Result<(), StoreError> {
    let unusable = |why: &str| StoreError::UnusableBackup { path: backup.to_owned(), why: why.to_owned() };
    let inspect_error = |source| StoreError::Backup { action: "inspect", path: backup.to_owned(), source };
    let metadata = backup_file.metadata().map_err(inspect_error)?;
    if !metadata.is_file() {
        return Err(unusable("is not a regular file"));
    }
    if is_same_file(database, &metadata).map_err(inspect_error)? {
        return Err(unusable("is the database itself"));
    }
    for side_file in DATA_SIDE_FILES {
        if fs::metadata(with_suffix(backup, side_file)).is_ok_and(|file| file.len() > 0) {
            return Err(unusable(&format!(
                "lacks the changes in {}, so it is only a part of a database; combine both into \
                 one file with `sqlite3 {} \"VACUUM INTO 'whole.db'\"`",
                with_suffix(backup, side_file).display(),
                backup.display(),
            )));
        }
    }
    Ok(())
}

/// Copies the backup into the unfinished file.
fn copy_bytes(mut backup_file: File, unfinished: UnfinishedFile) -> io::Result<UnfinishedFile> {
    backup_file.rewind()?;
    io::copy(&mut backup_file, &mut unfinished.file())?;
    Ok(unfinished)
}

/// Checks the copy of a backup, and sets its kind to a database that the program uses.
async fn check_copy(
    unfinished: &UnfinishedFile,
    backup: &Path,
    configured: &[SdkAppId],
) -> Result<Contents, StoreError> {
    const ACTION: &str = "check the backup";
    let unusable = |why: String| StoreError::UnusableBackup { path: backup.to_owned(), why };
    let mut copy = match copy::open(unfinished.path(), ACTION).await {
        Err(StoreError::Query { source: sqlx::Error::Database(error), .. }) => {
            return Err(unusable(format!("is no intact SQLite database ({error})")));
        }
        copy => copy?,
    };
    let contents = Contents::read_and_check(&mut copy, backup).await?;
    contents.require_one_of(configured, backup)?;
    copy::set_kind(&mut copy, CopyKind::Database, ACTION).await?;
    copy.close().await.with_action(ACTION)?;
    Ok(contents)
}

/// Removes the side files of the database that will be replaced, because SQLite would apply them to
/// the backup. With `keep`, gives the database a second name instead, renames its side files to
/// match, and returns the name.
fn prepare_replacement(database: &Path, keep: bool, at: DateTime<Utc>) -> io::Result<Option<PathBuf>> {
    let mut kept_as = None;
    if keep && database.exists() {
        let name = unused_name(database, at);
        // A rename would leave no database at the path until the backup is moved there.
        fs::hard_link(database, &name)?;
        kept_as = Some(name);
    }
    for side_file in DATA_SIDE_FILES {
        let path = with_suffix(database, side_file);
        let moved_away = match &kept_as {
            Some(name) => fs::rename(&path, with_suffix(name, side_file)),
            None => fs::remove_file(&path),
        };
        ignore_absence(moved_away)?;
    }
    ignore_absence(fs::remove_file(with_suffix(database, "-shm")))?;
    Ok(kept_as)
}

/// Returns a path beside the database at which no file exists.
fn unused_name(database: &Path, at: DateTime<Utc>) -> PathBuf {
    let base = with_suffix(database, &format!(".replaced-{}", at.format("%Y%m%dT%H%M%SZ")));
    let mut name = base.clone();
    for number in 2.. {
        if !name.exists() {
            break;
        }
        name = with_suffix(&base, &format!("-{number}"));
    }
    name
}

/// Turns the error that a file does not exist into success.
fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
