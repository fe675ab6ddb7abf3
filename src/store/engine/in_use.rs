//! A file lock that shows whether an SQLite file is open for writing. Writers hold it in shared
//! mode, `restore` in exclusive mode.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::lock_file;

/// A held lock. Released when dropped.
#[derive(Debug)]
pub(in crate::store) struct InUseLock {
    file: File,
}

/// Unlocks the file explicitly. Closing it is not enough: a child process that another thread is
/// starting may have inherited the lock, and keeps it until it calls `exec`.
impl Drop for InUseLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl InUseLock {
    /// Takes a shared lock of a database. Fails while it is being restored.
    pub(super) fn lock_shared(database: &Path) -> Result<Self, StoreError> {
        let (file, path) = open_lock_file(database)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::BeingRestored { path: database.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StoreError::Lock { path, source }),
        }
    }

    /// Takes the exclusive lock of a database. Fails while a process has it open for writing.
    pub(in crate::store) fn lock_exclusive(database: &Path) -> Result<Self, StoreError> {
        let (file, path) = open_lock_file(database)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: database.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StoreError::Lock { path, source }),
        }
    }
}

/// Opens the lock file of a database, and returns its path.
fn open_lock_file(database: &Path) -> Result<(File, PathBuf), StoreError> {
    let database = &database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut path = database.as_os_str().to_owned();
    path.push(".in-use.lock");
    let path = PathBuf::from(path);
    match lock_file::open(&path, database) {
        Ok(file) => Ok((file, path)),
        Err(source) => Err(StoreError::Lock { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_that_has_a_second_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("groups.db");
        std::fs::write(folder.path().join("other"), "kept").unwrap();
        std::fs::hard_link(folder.path().join("other"), folder.path().join("groups.db.in-use.lock")).unwrap();
        let refused = InUseLock::lock_shared(&database).unwrap_err();
        assert!(matches!(refused, StoreError::Lock { .. }), "{refused:?}");
    }
}
