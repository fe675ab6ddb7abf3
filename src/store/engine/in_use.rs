//! A file lock that shows whether an SQLite file is open for writing. Writers hold it in shared
//! mode, `restore` in exclusive mode.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::error::StoreError;

/// A held lock. Released when dropped.
#[derive(Debug)]
pub(in crate::store) struct InUse {
    file: File,
}

/// Unlocks the file explicitly, for the same reason as `FileLock`.
impl Drop for InUse {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl InUse {
    /// Takes a shared lock of a database. Fails while it is being restored.
    pub(super) fn share(database: &Path) -> Result<Self, StoreError> {
        let (file, path) = open(database)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::BeingRestored { path: database.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StoreError::Lock { path, source }),
        }
    }

    /// Takes the exclusive lock of a database. Fails while a process has it open for writing.
    pub(in crate::store) fn alone(database: &Path) -> Result<Self, StoreError> {
        let (file, path) = open(database)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: database.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StoreError::Lock { path, source }),
        }
    }
}

fn open(database: &Path) -> Result<(File, PathBuf), StoreError> {
    let database = &database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut path = database.as_os_str().to_owned();
    path.push(".in-use.lock");
    let path = PathBuf::from(path);
    let lock_error = |source| StoreError::Lock { path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    let file = match options.open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(&options, &path, database),
        file => file,
    };
    Ok((file.map_err(lock_error)?, path))
}

/// Creates the lock file, accessible only to the owner of the database. A lock that other users
/// could take would stop the service.
fn create(options: &OpenOptions, path: &Path, database: &Path) -> std::io::Result<File> {
    let file = match options.clone().create_new(true).mode(0o600).open(path) {
        // Another process has created it meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return options.open(path),
        file => file?,
    };
    if let Ok(database) = std::fs::metadata(database) {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (database.uid(), database.gid()) {
            // Only root can do this. Other users own the file, which is sufficient.
            let _ = fchown(&file, Some(database.uid()), Some(database.gid()));
        }
    }
    Ok(file)
}
