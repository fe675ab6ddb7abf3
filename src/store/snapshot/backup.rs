//! Makes a backup of an SQLite database while crawls continue.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::Connection as _;

use super::contents::Contents;
use super::copy::{self, CopyKind};
use super::part::{Replacing, UnfinishedFile};
use super::publish::{may_be_replaced, require_not_the_database};
use crate::store::engine::lock_file::set_owner_like;
use crate::store::engine::{Engine, SqliteFile, Store, StoreError, WithAction as _};

/// The mode of the file until it gets the mode of the database.
const PRIVATE: u32 = 0o600;

#[derive(Clone, Debug)]
pub struct BackupMade {
    pub bytes: u64,
    pub contents: Contents,
}

impl Store {
    /// Writes a snapshot of the database to `to`, checks it, and gives it the mode of the database.
    /// Crawls continue meanwhile. An existing file is replaced only if `replace` is true and the
    /// file is an earlier backup.
    pub async fn backup(&self, to: &Path, replace: bool) -> Result<BackupMade, StoreError> {
        let file = match &self.engine {
            Engine::Sqlite(file) => file,
            Engine::Postgres(server) => return Err(server.database.backup_by_server()),
        };
        let failed = |action| move |source| StoreError::Backup { action, path: to.to_owned(), source };
        require_not_the_database(to, file)?;
        let exists = fs::symlink_metadata(to).is_ok();
        if exists && !(replace && may_be_replaced(to, CopyKind::Backup).map_err(failed("inspect"))?) {
            return Err(StoreError::BackupExists { path: to.to_owned(), replace });
        }
        let part = UnfinishedFile::create(to, PRIVATE).map_err(failed("write"))?;
        let Some(mut part) = part else { return Err(StoreError::BackupBusy { path: to.to_owned() }) };
        let contents = write_backup(&part, file).await?;
        let mode = fs::metadata(&file.path).map_err(failed("set the mode of"))?.permissions().mode();
        part.file()
            .set_permissions(Permissions::from_mode(mode & 0o666))
            .map_err(failed("set the mode of"))?;
        set_owner_like(part.file(), &file.path);
        let replacing = if exists { Replacing::Earlier } else { Replacing::Nothing };
        // Syncing many gigabytes may block for long.
        let moving = tokio::task::spawn_blocking(move || part.move_into_place(replacing));
        let moved = moving.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        Ok(BackupMade { bytes: moved.map_err(failed("move into its place"))?, contents })
    }
}

async fn write_backup(part: &UnfinishedFile, database: &SqliteFile) -> Result<Contents, StoreError> {
    const ACTION: &str = "back the database up";
    copy::copy_into(part, database, ACTION).await?;
    let mut copy = copy::open(part.path(), ACTION).await?;
    let contents = Contents::of(&mut copy, &database.path).await?;
    copy::set_kind(&mut copy, CopyKind::Backup, ACTION).await?;
    copy.close().await.with_action(ACTION)?;
    Ok(contents)
}
