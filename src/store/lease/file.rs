//! The lease of an SQLite database: an exclusive lock on a file beside it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::engine::StoreError;

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Returns true if a process has the file locked.
pub(super) fn is_locked(path: &Path) -> Result<bool, StoreError> {
    let lock_error = |source| StoreError::Lock { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(lock_error)?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(lock_error(source)),
    }
}

/// An exclusive lock on a file, released when dropped.
#[derive(Debug)]
pub(in crate::store) struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Locks a file, which is created if it does not exist. `None` if another process, or another task of this one, has it
    /// locked.
    pub(in crate::store) fn try_take(path: &Path, database: &Path) -> Result<Option<Self>, StoreError> {
        let lock_error = |source| StoreError::Lock { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(lock_error)?;
        share_owner(&file, database);
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file, path: path.to_owned() })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(lock_error(source)),
        }
    }

    /// Locks a file, waiting for it.
    pub(in crate::store) async fn take(path: &Path, database: &Path) -> Result<Self, StoreError> {
        loop {
            if let Some(lock) = Self::try_take(path, database)? {
                return Ok(lock);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the text in the file, or an empty text if it cannot be read.
    pub(super) fn read(&mut self) -> String {
        let mut text = String::new();
        let _ = (&self.file).take(64).read_to_string(&mut text);
        text
    }

    pub(super) fn write(&mut self, text: &str) -> Result<(), StoreError> {
        self.file
            .rewind()
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .map_err(|source| StoreError::Lock { path: self.path.clone(), source })
    }
}

/// Gives a file to the owner of the database. The service could not open what root creates beside it.
pub(in crate::store) fn share_owner(file: &File, database: &Path) {
    let (Ok(database), Ok(own)) = (std::fs::metadata(database), file.metadata()) else { return };
    if (own.uid(), own.gid()) != (database.uid(), database.gid()) {
        // Only root may. Other users own the file, which is enough.
        let _ = fchown(file, Some(database.uid()), Some(database.gid()));
    }
}
