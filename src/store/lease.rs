//! One crawl of an app at a time, across all processes that share the database.
//!
//! SQLite: an exclusive lock on a file beside the database, which the operating system gives back when a process ends,
//! however it ends. The file says when the next request may be sent, so that the call rate holds over a hand-over.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::engine::{Engine, Store, beside};
use super::error::StoreError;
use crate::model::SdkAppId;

const POLL: Duration = Duration::from_millis(200);

/// The right to crawl an app. Given up when dropped; [`Lease::release`] also leaves word for the next holder.
#[derive(Debug)]
pub struct Lease {
    lock: FileLock,
    not_before: Option<DateTime<Utc>>,
}

impl Lease {
    /// When the last holder's call rate allows the next request.
    #[must_use]
    pub fn not_before(&self) -> Option<DateTime<Utc>> {
        self.not_before
    }

    /// Gives the lease up; nobody may send a request before this time.
    pub fn release(mut self, next_request_at: DateTime<Utc>) {
        // Without this note the next holder may be throttled once, which its retry mends.
        let _ = self.lock.write(&next_request_at.timestamp_millis().to_string());
    }
}

impl Store {
    /// Takes the lease of an app, or `None` if another process, or another task of this one, holds it.
    #[expect(clippy::unused_async, reason = "PostgreSQL has to ask its server")]
    pub async fn try_lease(&self, app: SdkAppId) -> Result<Option<Lease>, StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => {
                let path = beside(&file.path, &format!("app-{app}.lock"));
                let Some(mut lock) = FileLock::try_take(&path, &file.path)? else { return Ok(None) };
                let not_before = lock.read().trim().parse().ok().and_then(DateTime::from_timestamp_millis);
                Ok(Some(Lease { lock, not_before }))
            }
        }
    }

    /// Whether someone holds the lease of an app right now.
    #[expect(clippy::unused_async, reason = "PostgreSQL has to ask its server")]
    pub async fn is_leased(&self, app: SdkAppId) -> bool {
        match &self.engine {
            Engine::Sqlite(file) => {
                let lock = File::open(beside(&file.path, &format!("app-{app}.lock")));
                lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
            }
        }
    }

    /// Takes the lease of an app, waiting for it. `on_wait` is called once, before the first wait.
    pub async fn lease(&self, app: SdkAppId, on_wait: impl FnOnce()) -> Result<Lease, StoreError> {
        if let Some(lease) = self.try_lease(app).await? {
            return Ok(lease);
        }
        on_wait();
        loop {
            tokio::time::sleep(POLL).await;
            if let Some(lease) = self.try_lease(app).await? {
                return Ok(lease);
            }
        }
    }
}

/// An exclusive lock on a file, as long as this lives.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// `None` if another process, or another part of this one, has it.
    pub(super) fn try_take(path: &Path, database: &Path) -> Result<Option<Self>, StoreError> {
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

    pub(super) async fn take(path: &Path, database: &Path) -> Result<Self, StoreError> {
        loop {
            if let Some(lock) = Self::try_take(path, database)? {
                return Ok(lock);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn read(&mut self) -> String {
        let mut text = String::new();
        // An unreadable note is like none.
        let _ = (&self.file).take(64).read_to_string(&mut text);
        text
    }

    fn write(&mut self, text: &str) -> Result<(), StoreError> {
        self.file
            .rewind()
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .map_err(|source| StoreError::Lock { path: self.path.clone(), source })
    }
}

/// Gives a file to the owner of the database: what root makes beside it, the service could not open.
fn share_owner(file: &File, database: &Path) {
    let (Ok(database), Ok(own)) = (std::fs::metadata(database), file.metadata()) else { return };
    if (own.uid(), own.gid()) != (database.uid(), database.gid()) {
        // Only root may; for others the file is their own, and that is as good.
        let _ = fchown(file, Some(database.uid()), Some(database.gid()));
    }
}
