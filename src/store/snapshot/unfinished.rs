//! A file that has a temporary name until it is complete.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// An open and locked file beside its target, empty at first. Removed when dropped, unless it was
/// moved to its target.
#[derive(Debug)]
pub(in crate::store) struct UnfinishedFile {
    file: File,
    /// The temporary path.
    path: PathBuf,
    target: PathBuf,
    /// Whether the file was moved to its target.
    was_moved: bool,
}

/// Whether a file that exists at the target may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Replacing {
    /// No: moving fails if a file exists.
    Nothing,
    /// Yes: the caller has checked the existing file.
    Existing,
}

impl UnfinishedFile {
    /// Creates the unfinished file of `target`, or truncates the one that a killed process left.
    /// Returns `None` if another process is writing it. A new file has the permissions `mode`
    /// without those that the umask excludes.
    pub(in crate::store) fn create(target: &Path, mode: u32) -> io::Result<Option<Self>> {
        let path = unfinished_path(target);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            // A symbolic link at the path is not followed.
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Another process may have moved the file to its target before this process locked it.
        if !is_same_file(&path, &file.metadata()?)? {
            return Ok(None);
        }
        file.set_len(0)?;
        Ok(Some(Self { file, path, target: target.to_owned(), was_moved: false }))
    }

    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Syncs the file and moves it to its target. Returns its size in bytes.
    pub(in crate::store) fn move_into_place(&mut self, replacing: Replacing) -> io::Result<u64> {
        self.file.sync_all()?;
        let bytes = self.file.metadata()?.len();
        match replacing {
            Replacing::Existing => fs::rename(&self.path, &self.target)?,
            Replacing::Nothing => {
                // Unlike a rename, this fails if the target exists.
                fs::hard_link(&self.path, &self.target)?;
                fs::remove_file(&self.path)?;
            }
        }
        self.was_moved = true;
        File::open(folder_of(&self.target))?.sync_all()?;
        Ok(bytes)
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if !self.was_moved {
            for suffix in ["", "-journal", "-wal", "-shm"] {
                let _ = fs::remove_file(with_suffix(&self.path, suffix));
            }
        }
    }
}

/// Returns the path of the unfinished file of `target`. A file that exists at this path is
/// overwritten, so its name is one that users do not choose.
pub(super) fn unfinished_path(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".tim-group-sync-part");
    target.with_file_name(name)
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path with a suffix, such as `-wal` for a side file of SQLite.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns true if the file at `path` exists and is the file of `other`.
pub(super) fn is_same_file(path: &Path, other: &fs::Metadata) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(file) => Ok((file.dev(), file.ino()) == (other.dev(), other.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
