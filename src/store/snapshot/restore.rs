//! Replaces an SQLite database with a backup.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use sqlx::Connection as _;

use super::contents::Contents;
use super::copy::{self, CopyKind};
use super::part::{Replacing, UnfinishedFile, folder_of, is_same_file, with_suffix};
use crate::model::SdkAppId;
use crate::store::engine::lock_file::set_owner_like;
use crate::store::engine::{DatabaseLocation, InUseLock, Store, StoreError, WithAction as _};

/// The mode of the database if there was none before. The umask applies, as for files that SQLite
/// creates.
const MODE: u32 = 0o644;
/// The suffixes of SQLite's side files, except -shm, which SQLite can rebuild.
const SIDE_FILES: [&str; 2] = ["-wal", "-journal"];

#[derive(Clone, Debug)]
pub struct Restored {
    pub bytes: u64,
    pub contents: Contents,
    /// The new path of the replaced database, if it was kept.
    pub kept: Option<PathBuf>,
}

impl Store {
    /// Replaces a database with a backup, which is open as `from`. Checks the backup first: it must
    /// be intact, not from a newer version, and contain one of the configured apps. Fails while
    /// another process has the database open for writing. With `keep`, the replaced database and
    /// its side files are renamed. The new name contains the time `at`.
    pub async fn restore(
        (backup, from): (&Path, File),
        database: &Path,
        configured: &[SdkAppId],
        keep: bool,
        at: DateTime<Utc>,
    ) -> Result<Restored, StoreError> {
        let failed = |action| move |source| StoreError::Backup { action, path: backup.to_owned(), source };
        let database = &database.canonicalize().unwrap_or_else(|_| database.to_owned());
        fs::create_dir_all(folder_of(database))
            .map_err(|source| StoreError::Folder { path: folder_of(database).to_owned(), source })?;
        let in_use = InUseLock::lock_exclusive(database)?;
        check_file(backup, &from, database)?;
        let part = UnfinishedFile::create(database, MODE).map_err(failed("put in place"))?;
        let Some(part) = part else { return Err(StoreError::InUse { path: database.clone() }) };
        let copying = tokio::task::spawn_blocking(move || copy_bytes(from, part));
        let copied = copying.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let mut part = copied.map_err(failed("copy"))?;
        let contents = check(&part, backup, configured).await?;
        if let Ok(replaced) = fs::metadata(database) {
            let mode = Permissions::from_mode(replaced.permissions().mode() & 0o777);
            part.file().set_permissions(mode).map_err(failed("set the mode of"))?;
        }
        set_owner_like(part.file(), if database.exists() { database } else { folder_of(database) });
        let kept =
            prepare_replacement(database, keep, at).map_err(failed("replace the existing files with"))?;
        let bytes = part.move_into_place(Replacing::Earlier).map_err(failed("put in place"))?;
        drop(in_use);
        // Creates the side files that readers need. If this fails, the next writer creates them.
        if let Ok(store) = Self::open_existing(&DatabaseLocation::Sqlite(database.clone())).await {
            store.close().await;
        }
        Ok(Restored { bytes, contents, kept })
    }
}

/// Fails if a file is not a complete database by itself.
fn check_file(backup: &Path, from: &File, database: &Path) -> Result<(), StoreError> {
    let unusable = |why: &str| StoreError::UnusableBackup { path: backup.to_owned(), why: why.to_owned() };
    let failed = |source| StoreError::Backup { action: "inspect", path: backup.to_owned(), source };
    let from = from.metadata().map_err(failed)?;
    if !from.is_file() {
        return Err(unusable("is not a regular file"));
    }
    if is_same_file(database, &from).map_err(failed)? {
        return Err(unusable("is the database itself"));
    }
    for side_file in SIDE_FILES {
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

fn copy_bytes(mut from: File, part: UnfinishedFile) -> io::Result<UnfinishedFile> {
    from.rewind()?;
    io::copy(&mut from, &mut part.file())?;
    Ok(part)
}

/// Checks the copy of a backup, and makes it a database that the program uses.
async fn check(
    part: &UnfinishedFile,
    backup: &Path,
    configured: &[SdkAppId],
) -> Result<Contents, StoreError> {
    const ACTION: &str = "check the backup";
    let unusable = |why: String| StoreError::UnusableBackup { path: backup.to_owned(), why };
    let mut copy = match copy::open(part.path(), ACTION).await {
        Err(StoreError::Query { source: sqlx::Error::Database(error), .. }) => {
            return Err(unusable(format!("is no intact SQLite database ({error})")));
        }
        copy => copy?,
    };
    let contents = Contents::of(&mut copy, backup).await?;
    contents.require_one_of(configured, backup)?;
    copy::set_kind(&mut copy, CopyKind::Database, ACTION).await?;
    copy.close().await.with_action(ACTION)?;
    Ok(contents)
}

/// Removes the side files of the replaced database, because SQLite would apply them to the backup.
/// With `keep`, gives the database a second name, which is returned, and renames its side files to
/// match.
fn prepare_replacement(database: &Path, keep: bool, at: DateTime<Utc>) -> io::Result<Option<PathBuf>> {
    let mut kept = None;
    if keep && database.exists() {
        let name = unused_name(database, at);
        // The database also keeps its first name until the backup replaces it.
        fs::hard_link(database, &name)?;
        kept = Some(name);
    }
    for side_file in SIDE_FILES {
        let path = with_suffix(database, side_file);
        let done = match &kept {
            Some(name) => fs::rename(&path, with_suffix(name, side_file)),
            None => fs::remove_file(&path),
        };
        ignore_absence(done)?;
    }
    ignore_absence(fs::remove_file(with_suffix(database, "-shm")))?;
    Ok(kept)
}

fn unused_name(database: &Path, at: DateTime<Utc>) -> PathBuf {
    let first = with_suffix(database, &format!(".replaced-{}", at.format("%Y%m%dT%H%M%SZ")));
    let mut name = first.clone();
    for number in 2.. {
        if !name.exists() {
            break;
        }
        name = with_suffix(&first, &format!("-{number}"));
    }
    name
}

fn ignore_absence(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
