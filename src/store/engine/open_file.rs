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

/// The files to which a connection stays open until the process ends. Each needs only one.
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
    name: PathBuf,
    /// The path without symbolic links. The side files are beside it.
    path: PathBuf,
    id: FileId,
    /// The side files of the writing connection.
    side_files: Arc<Mutex<Vec<(PathBuf, FileId)>>>,
    /// Cancelled when `name` was found to lead to another file or to none.
    displaced: CancellationToken,
}

impl OpenFile {
    pub(super) fn at(name: &Path) -> io::Result<Self> {
        let (name, path) = (std::path::absolute(name)?, name.canonicalize()?);
        let id = metadata(&path)?.into();
        Ok(Self { name, path, id, side_files: Arc::default(), displaced: CancellationToken::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Records the existing side files.
    pub(super) fn record_side_files(&self) {
        let names = ["-wal", "-shm"].map(|suffix| self.side_file(suffix));
        let found = names.into_iter().filter_map(|name| Some((metadata(&name).ok()?.into(), name)));
        let found = found.map(|(id, name)| (name, id)).collect();
        *self.side_files.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn side_file(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Fails if the name leads to no file or to another file. Then all later calls fail, too: if
    /// the file is back, other processes may have written to it or its side files meanwhile.
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        let found = self.id_at_name();
        if !self.displaced.is_cancelled() && found.as_ref().is_ok_and(|found| *found == self.id) {
            return Ok(());
        }
        self.displaced.cancel();
        found?;
        Err(StoreError::Displaced { path: self.name.clone() })
    }

    /// Returns true on the first call for this file in this process. That caller leaves a
    /// connection open until the process ends.
    pub(super) fn mark_left_open(&self) -> bool {
        LEFT_OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id)
    }

    /// Waits until the name is found to lead to another file or to none.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }

    /// If the name leads to another file, removes the recorded side files, unless their names lead
    /// to other files now. The write-ahead log must be empty. Fails if the name leads to no file.
    pub(super) fn remove_side_files(&self) -> Result<(), StoreError> {
        if self.id_at_name()? == self.id {
            return Ok(());
        }
        for (name, id) in std::mem::take(&mut *self.side_files.lock().unwrap_or_else(PoisonError::into_inner))
        {
            if metadata(&name).is_ok_and(|found| FileId::from(found) == id) {
                match remove_file(&name) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        return Err(StoreError::Missing { path: name, source });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Returns the id of the file to which the name leads.
    fn id_at_name(&self) -> Result<FileId, StoreError> {
        let missing = |source| StoreError::Missing { path: self.name.clone(), source };
        metadata(&self.name).map(FileId::from).map_err(missing)
    }
}
