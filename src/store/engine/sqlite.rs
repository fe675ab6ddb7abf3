//! Opening and leaving an SQLite file.
//!
//! The file is in WAL mode for ever. A reader needs its -wal and -shm files, and can create them only with write access to
//! the folder. SQLite removes them when the last connection that can write is closed. So the program never closes its last
//! connection: [`SqliteFile::close`] leaves one open until the process ends, and the side files stay, as after a kill.

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection as _, Sqlite};

use super::error::StoreError;
use super::in_use::InUse;
use super::open_file::OpenFile;
use super::statement::{query, query_as};

/// How long the last checkpoint waits for readers and other writers.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the end waits for a transaction under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a displaced file waits for a transaction under way. Its commit will fail.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Create,
    Write,
    Read,
}

/// An open SQLite file. SQLite allows one writer at a time: one connection writes, the others only read.
#[derive(Clone, Debug)]
pub(in crate::store) struct SqliteFile {
    pub(in crate::store) path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    /// Whether `writer` may write.
    writes: bool,
    /// Held while the file is open for writing.
    in_use: Arc<Mutex<Option<InUse>>>,
    open: OpenFile,
}

impl SqliteFile {
    pub(super) async fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        let at = || format!("sqlite:{}", path.display());
        if access == Access::Create {
            create_folder(path)?;
        } else if !path.exists() {
            return Err(StoreError::Absent { at: at() });
        }
        let in_use = match access {
            Access::Read => Ok(None),
            Access::Write | Access::Create => InUse::share(path).map(Some),
        };
        if let Err(error @ StoreError::BeingRestored { .. }) = in_use {
            return Err(error);
        }
        if access == Access::Create {
            create_file(path)?;
        }
        let open = OpenFile::at(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let path = open.path().to_owned();
        let options = connect_options(&path, access);
        let side_files = open.clone();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // While this connection is open, so are the -wal and -shm files, without which other users cannot read.
            .idle_timeout(None)
            .max_lifetime(None)
            // Many apps at once queue for it.
            .acquire_timeout(Duration::from_secs(600))
            .after_connect(move |_, _| {
                side_files.record_side_files();
                Box::pin(async { Ok(()) })
            })
            // When the disk is full SQLite rolls the transaction back by itself. The driver's count of open transactions
            // is wrong from then on, and no further transaction could begin.
            .after_release(|connection, _| {
                Box::pin(async {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(options.clone())
            .await
            .map_err(|source| StoreError::Open { at: at(), source })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(options.read_only(true).pragma("cache_size", "-2048"));
        // If the lock file could not be used, the database usually cannot either, and its error says more.
        let in_use = Arc::new(Mutex::new(in_use?));
        let file = Self { path, writer, readers, writes: access != Access::Read, open, in_use };
        // The path may have been given to another file after it was looked at.
        file.check_in_place()?;
        Ok(file)
    }

    /// Returns what distinguishes the file from a copy of it: its inode and the time of its creation.
    pub(in crate::store) fn identity(&self) -> Result<String, StoreError> {
        let open_error = |source| {
            let at = format!("sqlite:{}", self.path.display());
            StoreError::Open { at, source: sqlx::Error::Io(source) }
        };
        let file = std::fs::metadata(&self.path).map_err(open_error)?;
        // Not every file system records the creation.
        let created = file.created().ok().and_then(|created| created.duration_since(UNIX_EPOCH).ok());
        Ok(format!("{}/{}", file.ino(), created.unwrap_or_default().as_nanos()))
    }

    pub(super) fn only_reading(&self) -> Self {
        Self { writer: self.readers.clone(), writes: false, ..self.clone() }
    }

    /// Fails if the path does not lead to the open file any more, and for ever after that.
    pub(in crate::store) fn check_in_place(&self) -> Result<(), StoreError> {
        self.open.check_in_place()
    }

    /// The connection that writes, if the path still leads to the open file.
    pub(in crate::store) fn writer(&self) -> Result<&SqlitePool, StoreError> {
        self.check_in_place()?;
        Ok(&self.writer)
    }

    /// The connections that only read, if the path still leads to the open file.
    pub(in crate::store) fn readers(&self) -> Result<&SqlitePool, StoreError> {
        self.check_in_place()?;
        Ok(&self.readers)
    }

    /// Waits until the path is found to lead elsewhere.
    pub(super) async fn displaced(&self) {
        self.open.displaced().await;
    }

    /// Ends the use of the file: moves the log into it, and leaves the connection that writes open until the process ends.
    /// Returns false if a reader with an open transaction keeps the newest changes in the -wal file.
    pub(super) async fn close(&self) -> Result<bool, sqlx::Error> {
        self.readers.close().await;
        if !self.writes || self.writer.is_closed() {
            return Ok(true);
        }
        let stays_open = self.open.is_first_left_open();
        if stays_open {
            // Also if the caller gives up waiting.
            std::mem::forget(self.writer.clone());
        }
        let Some(mut writer) = self.idle_writer(CLOSE_TIMEOUT).await else { return Ok(true) };
        let checkpointed = checkpoint(&mut writer).await;
        self.leave(writer, stays_open).await;
        self.end_use();
        checkpointed
    }

    /// Releases the lock that tells that the file is open for writing. What stays open is not used any more.
    fn end_use(&self) {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ends the use of a displaced file: moves the log into the file, wherever it is now, and removes the side files that it
    /// left beside the path, so that they are not taken for those of the next file. Fails if a reader prevents that, and while
    /// the path leads to no file. Idempotent.
    pub(super) async fn abandon(&self) -> Result<(), StoreError> {
        self.readers.close().await;
        if self.writes && !self.writer.is_closed() {
            let in_use = || StoreError::SideFilesInUse { path: self.path.clone() };
            if let Some(mut writer) = self.idle_writer(ABANDON_TIMEOUT).await {
                // A failure is that of a file that no longer matters.
                if !checkpoint(&mut writer).await.unwrap_or(true) {
                    return Err(in_use());
                }
                self.leave(writer, self.open.is_first_left_open()).await;
            } else if self.writer.size() > 0 {
                return Err(in_use());
            }
        }
        self.end_use();
        self.open.remove_side_files()
    }

    /// Returns the connection that writes once no transaction uses it. `None` if there is none, or if it stays in use. Never
    /// opens one, because the path may lead to another file now.
    async fn idle_writer(&self, timeout: Duration) -> Option<PoolConnection<Sqlite>> {
        let polling = async {
            loop {
                match self.writer.try_acquire() {
                    None if self.writer.size() > 0 => tokio::time::sleep(Duration::from_millis(20)).await,
                    writer => return writer,
                }
            }
        };
        tokio::time::timeout(timeout, polling).await.ok().flatten()
    }

    /// Ends the use of the connection that writes. The first one of a file is never closed. SQLite removes the side files when
    /// the last connection is closed: those of a file in its place, which readers need, or, if the file was displaced, those
    /// of another file.
    async fn leave(&self, writer: PoolConnection<Sqlite>, stays_open: bool) {
        let closing = self.writer.close();
        if stays_open {
            std::mem::forget(writer.detach());
        } else {
            drop(writer);
        }
        closing.await;
    }
}

/// Moves the log into the file and empties it. Returns false if a reader prevented that.
async fn checkpoint(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let busy_timeout = format!("PRAGMA busy_timeout = {}", CHECKPOINT_TIMEOUT.as_millis());
    query(sqlx::AssertSqlSafe(busy_timeout)).execute(&mut *connection).await?;
    let (_busy, in_log, moved): (i64, i64, i64) =
        query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await?;
    // The connection stays open and is not used again.
    query("PRAGMA shrink_memory").execute(connection).await?;
    // Busy with everything moved: another process writes or makes the checkpoint, and empties the log later.
    Ok(in_log == moved)
}

/// Creates the folder of a file if it does not exist. A new folder is its owner's alone.
fn create_folder(path: &Path) -> Result<(), StoreError> {
    let folder = folder_of(path);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| StoreError::Folder { path: folder.to_owned(), source })
}

/// Creates the file if it does not exist. A new file is its owner's alone, except in a folder that its group may read and
/// others may not: then the group is meant to read the file.
fn create_file(path: &Path) -> Result<(), StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    let granted = std::fs::metadata(folder_of(path)).map_err(file_error)?.mode();
    let mode = if granted & 0o057 == 0o050 { 0o640 } else { 0o600 };
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Err(source) if source.kind() != ErrorKind::AlreadyExists => Err(file_error(source)),
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn connect_options(path: &Path, access: Access) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        // A file that is gone is never replaced by an empty one.
        .create_if_missing(false)
        .busy_timeout(Duration::from_secs(10))
        .foreign_keys(true)
        // In KiB. Pages are touched in order: a larger cache makes the process bigger and nothing faster.
        .pragma("cache_size", "-8192")
        .pragma("trusted_schema", "OFF");
    match access {
        // Such a command sorts little, and may lack a folder for temporary files.
        Access::Read => options.read_only(true).pragma("temp_store", "MEMORY"),
        Access::Write | Access::Create => {
            let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
            match temporary_folder(path) {
                Some(folder) => options.pragma("temp_store_directory", folder),
                None => options,
            }
        }
    }
}

/// Returns the folder of the file, as an SQL text, for temporary files. In memory they would be unbounded: a statement that
/// changes many rows keeps the previous version of each page. The usual folders may be read-only, or small and in memory.
///
/// The setting holds for the process. If the folder cannot be written, SQLite takes the first usable one of its own list.
fn temporary_folder(path: &Path) -> Option<String> {
    use rustix::fs::{Access, access};
    let folder = path.parent()?;
    access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).ok()?;
    Some(format!("'{}'", folder.to_str()?.replace('\'', "''")))
}

/// Returns the path of a file next to the database, named after it.
pub(in crate::store) fn beside(database: &Path, what: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}
