//! The lease of an SQLite database: an exclusive lock on a file beside it.

use std::fs::{File, Metadata, OpenOptions, TryLockError, read_to_string, symlink_metadata};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{major, minor};
use tracing::warn;

use crate::store::engine::StoreError;
use crate::store::engine::lock_file::{self, NO_FOLLOW};

/// The pause between two attempts to take a lock.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The number of pauses after which a wait is logged: 1 s. Processes that start together wait for
/// each other for less.
const WAITS_UNTIL_LOGGED: u32 = 5;
/// The maximum number of attempts to lock a file that is removed between opening and locking.
const MAX_OPEN_ATTEMPTS: u32 = 5;
/// The maximum number of attempts to lock a file that other processes examine with [`is_locked`].
const MAX_LOCK_ATTEMPTS: u32 = 100;
/// The pause between two of these attempts. [`is_locked`] has the file locked for microseconds.
const LOCK_RETRY_PAUSE: Duration = Duration::from_micros(200);

/// Returns whether a process has the file locked exclusively. Returns `None` if this user may not
/// open the file. Takes a shared lock for a moment.
pub(super) fn is_locked(path: &Path) -> Result<Option<bool>, StoreError> {
    let lock_error = |source| StoreError::Lock { path: path.to_owned(), source };
    let file = match OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(false)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        file => file.map_err(lock_error)?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(false)),
        Err(TryLockError::WouldBlock) => Ok(Some(true)),
        Err(TryLockError::Error(source)) => Err(lock_error(source)),
    }
}

/// Describes the process that has the file locked: "process 1234 (tim-group-sync)". Returns
/// "another process" if the system does not reveal the process, for example in a container.
pub(super) fn describe_holder(path: &Path) -> String {
    let description = symlink_metadata(path).ok().and_then(|file| {
        let locks = read_to_string("/proc/locks").ok()?;
        let pid = pid_of_holder(&locks, &file)?;
        let name = read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("process {pid} ({})", name.trim_end()))
    });
    description.unwrap_or_else(|| "another process".to_owned())
}

/// Returns the id of the process that has a file locked. `locks` is the text of `/proc/locks`. Its
/// lines end with process id, file (device and inode), start and end: `1: FLOCK  ADVISORY  WRITE
/// 1234 08:01:5678 0 EOF`.
fn pid_of_holder<'a>(locks: &'a str, file: &Metadata) -> Option<&'a str> {
    let id = format!("{:02x}:{:02x}:{}", major(file.dev()), minor(file.dev()), file.ino());
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, pid, locked, ..] if locked == id => Some(pid),
        _ => None,
    })
}

/// Locks a file exclusively. Returns false if another process has it locked exclusively. Waits for
/// processes that only examine the file with [`is_locked`]. Otherwise a `status` command could make
/// a crawl believe that another process crawls the app.
fn lock_exclusively(file: &File) -> Result<bool, std::io::Error> {
    for _ in 0..MAX_LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(source),
        }
        match file.try_lock_shared() {
            // No process has it locked exclusively: it is examined, or was just unlocked.
            Ok(()) => file.unlock()?,
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(source)) => return Err(source),
        }
        std::thread::sleep(LOCK_RETRY_PAUSE);
    }
    Ok(false)
}

/// An exclusive lock on a file, released when dropped.
#[derive(Debug)]
pub(in crate::store) struct FileLock {
    file: File,
    path: PathBuf,
}

/// Unlocks the file explicitly. Closing it is not enough: a child process that another thread is
/// starting has inherited the lock and keeps it until it calls `exec`.
impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl FileLock {
    /// Locks a file. If the file does not exist, creates it with the owner of `database`. Returns
    /// `None` if another process, or another task of this process, has the file locked.
    pub(in crate::store) fn try_take(path: &Path, database: &Path) -> Result<Option<Self>, StoreError> {
        let lock_error = |source| StoreError::Lock { path: path.to_owned(), source };
        for _ in 0..MAX_OPEN_ATTEMPTS {
            let file = lock_file::open(path, database).map_err(lock_error)?;
            if !lock_exclusively(&file).map_err(lock_error)? {
                return Ok(None);
            }
            let lock = Self { file, path: path.to_owned() };
            if lock.check_in_place().is_ok() {
                return Ok(Some(lock));
            }
        }
        Err(StoreError::LockRemoved { path: path.to_owned() })
    }

    /// Locks a file, and waits while another process has it locked. Logs a longer wait. `activity`
    /// says in the log what the other process does, for example "upgrades the tables".
    pub(in crate::store) async fn take(
        path: &Path,
        database: &Path,
        activity: &str,
    ) -> Result<Self, StoreError> {
        let mut waits = 0;
        loop {
            if let Some(lock) = Self::try_take(path, database)? {
                return Ok(lock);
            }
            waits += 1;
            if waits == WAITS_UNTIL_LOGGED {
                warn!(
                    "waiting for {}, which {activity} and has locked {}",
                    describe_holder(path),
                    path.display()
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Fails if the path no longer leads to the locked file. Another process could then lock a new
    /// file at the path.
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        let (Ok(at_path), Ok(locked)) = (symlink_metadata(&self.path), self.file.metadata()) else {
            return Err(StoreError::LockRemoved { path: self.path.clone() });
        };
        if (at_path.dev(), at_path.ino()) == (locked.dev(), locked.ino()) {
            Ok(())
        } else {
            Err(StoreError::LockRemoved { path: self.path.clone() })
        }
    }

    /// Returns the first 64 bytes of the file as text, or an empty text if the file cannot be read.
    pub(super) fn read(&mut self) -> String {
        let mut text = String::new();
        let _ = (&self.file).take(64).read_to_string(&mut text);
        text
    }

    /// Replaces the content of the file.
    pub(super) fn write(&mut self, text: &str) -> Result<(), StoreError> {
        self.file
            .rewind()
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .map_err(|source| StoreError::Lock { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = FileLock::try_take(&path, &path).unwrap().unwrap();
        let metadata = lock.file.metadata().unwrap();
        let device = format!("{:02x}:{:02x}", major(metadata.dev()), minor(metadata.dev()));
        let locks = format!(
            "1: POSIX  ADVISORY  READ 11 {device}:{ino} 128 128\n2: FLOCK  ADVISORY  WRITE 22 ff:ff:{ino} 0 EOF\n\
             3: FLOCK  ADVISORY  WRITE 33 {device}:{ino} 0 EOF\n",
            ino = metadata.ino()
        );
        assert_eq!(pid_of_holder(&locks, &metadata), Some("33"));
        assert_eq!(pid_of_holder("", &metadata), None);
    }

    #[test]
    fn a_lock_can_be_taken_while_another_process_examines_it() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        drop(FileLock::try_take(&path, &path).unwrap());
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    is_locked(&path).unwrap();
                }
            });
            let refused = (0..2000).filter(|_| FileLock::try_take(&path, &path).unwrap().is_none()).count();
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(refused, 0);
        });
        let _held = FileLock::try_take(&path, &path).unwrap().unwrap();
        assert!(FileLock::try_take(&path, &path).unwrap().is_none());
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_no_longer_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = FileLock::try_take(&path, &path).unwrap().unwrap();
        assert!(lock.check_in_place().is_ok());
        assert!(FileLock::try_take(&path, &path).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(lock.check_in_place().is_err());
        let other = FileLock::try_take(&path, &path).unwrap().unwrap();
        assert!(lock.check_in_place().is_err() && other.check_in_place().is_ok());
    }
}
