//! Detects whether the path of an open SQLite file still leads to that file.

use std::collections::BTreeSet;
use std::fs::{Metadata, metadata, remove_file};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::error::StoreError;

/// The device number and the inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(u64, u64);

/// The files for which this process leaves a connection open until it ends, so that SQLite does not
/// remove their side files. One connection per file is enough.
static LEFT_OPEN: Mutex<BTreeSet<FileId>> = Mutex::new(BTreeSet::new());

impl From<Metadata> for FileId {
    fn from(file: Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

/// An open file and its path. Clones share the result of the checks.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    /// The path by which the file was opened. It may be a symbolic link.
    opened_path: PathBuf,
    /// The path without symbolic links. The side files are beside it.
    resolved_path: PathBuf,
    id: FileId,
    /// The side files of the writing connection.
    side_files: Arc<Mutex<Vec<(PathBuf, FileId)>>>,
    /// Cancelled when `opened_path` was found to lead to another file or to none.
    displaced: CancellationToken,
}

impl OpenFile {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let (opened_path, resolved_path) = (std::path::absolute(path)?, path.canonicalize()?);
        let id = metadata(&resolved_path)?.into();
        Ok(Self {
            opened_path,
            resolved_path,
            id,
            side_files: Arc::default(),
            displaced: CancellationToken::new(),
        })
    }

    pub(super) fn resolved_path(&self) -> &Path {
        &self.resolved_path
    }

    /// Records the existing side files.
    pub(super) fn record_side_files(&self) {
        let paths = ["-wal", "-shm"].map(|suffix| self.side_file(suffix));
        let with_id = |path: PathBuf| metadata(&path).ok().map(|file| (path, file.into()));
        let existing = paths.into_iter().filter_map(with_id).collect();
        *self.side_files.lock().unwrap_or_else(PoisonError::into_inner) = existing;
    }

    fn side_file(&self, suffix: &str) -> PathBuf {
        let mut path = self.resolved_path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    /// Fails if the path leads to no file or to another file. After a failure all later calls fail
    /// as well, even if the file is back: other processes may have written to it or its side files
    /// meanwhile.
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        let current_id = self.id_at_path();
        if !self.displaced.is_cancelled() && current_id.as_ref().is_ok_and(|id| *id == self.id) {
            return Ok(());
        }
        self.displaced.cancel();
        // Without a file at the path, the error is `Missing`.
        current_id?;
        Err(StoreError::Displaced { path: self.opened_path.clone() })
    }

    /// Returns true on the first call for this file in this process. Then the caller must leave a
    /// connection open until the process ends.
    pub(super) fn mark_left_open(&self) -> bool {
        LEFT_OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id)
    }

    /// Waits until [`Self::check_in_place`] has failed.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }

    /// Removes the side files that a displaced file left at the path, so that SQLite does not apply
    /// them to the new file at the path. The write-ahead log must be empty. Does nothing if the
    /// path still leads to the open file. Fails if no file is at the path.
    pub(super) fn remove_side_files(&self) -> Result<(), StoreError> {
        if self.id_at_path()? == self.id {
            return Ok(());
        }
        for (path, id) in std::mem::take(&mut *self.side_files.lock().unwrap_or_else(PoisonError::into_inner))
        {
            // The new file may already have side files of its own.
            let is_left_over = metadata(&path).is_ok_and(|found| FileId::from(found) == id);
            if is_left_over {
                match remove_file(&path) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        return Err(StoreError::Remove { path, source });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Returns the id of the file that is at the path now.
    fn id_at_path(&self) -> Result<FileId, StoreError> {
        let missing = |source| StoreError::Missing { path: self.opened_path.clone(), source };
        metadata(&self.opened_path).map(FileId::from).map_err(missing)
    }
}
