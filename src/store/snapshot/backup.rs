//! Makes a backup of an SQLite database while crawls continue.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::Connection as _;

use super::contents::Contents;
use super::copy::{self, CopyKind};
use super::publish::{may_be_replaced, path_of_the_database};
use super::unfinished::{Replacing, UnfinishedFile};
use crate::store::engine::lock_file::set_owner_like;
use crate::store::engine::{Engine, SqliteFile, Store, StoreError, WithAction as _};

/// The permissions of the file until it gets the permissions of the database.
const INITIAL_MODE: u32 = 0o600;

/// A completed backup.
#[derive(Clone, Debug)]
pub struct BackupMade {
    /// The size of the file.
    pub bytes: u64,
    pub contents: Contents,
}

impl Store {
    /// Writes a snapshot of the database to `to`, checks it, and gives it the permissions of the
    /// database. Crawls continue meanwhile. An existing file is replaced only if `replace` is true
    /// and the file is an earlier backup.
    pub async fn backup(&self, to: &Path, replace: bool) -> Result<BackupMade, StoreError> {
        let file = match &self.engine {
            Engine::Sqlite(file) => file,
            Engine::Postgres(server) => return Err(server.database.backup_by_server()),
        };
        let backup_error = |action| move |source| StoreError::Backup { action, path: to.to_owned(), source };
        if let Some(path) = path_of_the_database(to, file).map_err(backup_error("write"))? {
            return Err(StoreError::BackupExists { path, replace: true });
        }
        let exists = fs::symlink_metadata(to).is_ok();
        // Without `replace` the file is not even inspected.
        let is_replaceable =
            !exists || (replace && may_be_replaced(to, CopyKind::Backup).map_err(backup_error("inspect"))?);
        if !is_replaceable {
            return Err(StoreError::BackupExists { path: to.to_owned(), replace });
        }
        let unfinished = UnfinishedFile::create(to, INITIAL_MODE).map_err(backup_error("write"))?;
        let Some(mut unfinished) = unfinished else {
            return Err(StoreError::BackupBusy { path: to.to_owned() });
        };
        let contents = write_backup(&unfinished, file).await?;
        let mode = fs::metadata(&file.path).map_err(backup_error("set the mode of"))?.permissions().mode();
        unfinished
            .file()
            .set_permissions(Permissions::from_mode(mode & 0o666))
            .map_err(backup_error("set the mode of"))?;
        set_owner_like(unfinished.file(), &file.path);
        let replacing = if exists { Replacing::Existing } else { Replacing::Nothing };
        // Syncing a large file blocks the thread.
        let move_task = tokio::task::spawn_blocking(move || unfinished.move_into_place(replacing));
        let moved = move_task.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        Ok(BackupMade { bytes: moved.map_err(backup_error("move into its place"))?, contents })
    }
}

async fn write_backup(unfinished: &UnfinishedFile, database: &SqliteFile) -> Result<Contents, StoreError> {
    const ACTION: &str = "back the database up";
    copy::copy_into(unfinished, database, ACTION).await?;
    let mut copy = copy::open(unfinished.path(), ACTION).await?;
    let contents = Contents::read_and_check(&mut copy, &database.path).await?;
    copy::set_kind(&mut copy, CopyKind::Backup, ACTION).await?;
    copy.close().await.with_action(ACTION)?;
    Ok(contents)
}
