//! Publishes a copy of the SQLite file. Its readers need read access to that one file only.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::Connection as _;

use super::copy::{self, CopyKind};
use super::unfinished::{Replacing, UnfinishedFile, folder_of, is_same_file, unfinished_path};
use crate::store::engine::lock_file::set_owner_like;
use crate::store::engine::{Engine, SqliteFile, Store, StoreError, WithAction as _};

/// The permissions of a new copy. The umask applies, as for files that SQLite creates.
const MODE: u32 = 0o644;

/// A published copy.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The size of the file.
    pub bytes: u64,
    pub took: Duration,
}

impl Store {
    /// Writes a snapshot of the database to `to`, and replaces an earlier copy with a rename. A
    /// reader that has the earlier copy open continues to read it. Returns `None` if another
    /// process is making a copy.
    pub async fn publish(&self, to: &Path) -> Result<Option<Published>, StoreError> {
        let Engine::Sqlite(file) = &self.engine else { return Err(StoreError::PublishNeedsSqlite) };
        let publish_error = |action, source| StoreError::Publish { action, path: to.to_owned(), source };
        fs::create_dir_all(folder_of(to)).map_err(|source| publish_error("make the folder of", source))?;
        let occupied =
            path_of_the_database(to, file).map_err(|source| publish_error("inspect the path of", source))?;
        if let Some(path) = occupied {
            return Err(StoreError::NotACopy { path });
        }
        if !may_be_replaced(to, CopyKind::Published).map_err(|source| publish_error("inspect", source))? {
            return Err(StoreError::NotACopy { path: to.to_owned() });
        }
        let started = Instant::now();
        let unfinished = UnfinishedFile::create(to, MODE).map_err(|source| publish_error("write", source))?;
        let Some(mut unfinished) = unfinished else { return Ok(None) };
        write_copy(&unfinished, file).await?;
        set_owner_like(unfinished.file(), &file.path);
        // Syncing a large file blocks the thread.
        let move_task = tokio::task::spawn_blocking(move || unfinished.move_into_place(Replacing::Existing));
        let moved = move_task.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let bytes = moved.map_err(|source| publish_error("move into its place", source))?;
        Ok(Some(Published { bytes, took: started.elapsed() }))
    }
}

async fn write_copy(unfinished: &UnfinishedFile, database: &SqliteFile) -> Result<(), StoreError> {
    const ACTION: &str = "copy the database";
    copy::copy_into(unfinished, database, ACTION).await?;
    let mut copy = copy::open(unfinished.path(), ACTION).await?;
    copy::set_kind(&mut copy, CopyKind::Published, ACTION).await?;
    copy.close().await.with_action(ACTION)
}

/// Returns `to`, or the path of its unfinished file, if a copy there would overwrite the database.
pub(super) fn path_of_the_database(to: &Path, database: &SqliteFile) -> io::Result<Option<PathBuf>> {
    let metadata = fs::metadata(&database.path)?;
    for path in [to.to_owned(), unfinished_path(to)] {
        if is_same_file(&path, &metadata)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Returns true if no file exists at `to`, or if it is a copy of this kind.
pub(super) fn may_be_replaced(to: &Path, kind: CopyKind) -> io::Result<bool> {
    let mut header = Vec::new();
    match File::open(to) {
        Ok(file) => file.take(100).read_to_end(&mut header)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    Ok(kind.matches_header(&header))
}
