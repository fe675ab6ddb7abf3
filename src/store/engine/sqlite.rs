//! Opens and closes an SQLite file.
//!
//! The file is always in WAL mode. A reader needs the -wal and -shm files, and can create them only
//! with write access to the folder. SQLite removes them when the last connection that can write is
//! closed. So [`SqliteFile::close`] leaves one connection open until the process ends, and the side
//! files remain, as after a kill.

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
use sqlx::{ConnectOptions as _, Connection as _, Sqlite};
use tokio::time::Instant;
use tracing::log::LevelFilter;

use super::error::StoreError;
use super::in_use::InUseLock;
use super::open_file::OpenFile;
use super::statement::{query, query_as};

/// How long a transaction waits for the writers of this process and of others.
pub(super) const WRITER_TIMEOUT: Duration = Duration::from_secs(600);
/// How long SQLite itself waits for the lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long opening waits for another process that creates the file or switches it to WAL mode.
/// SQLite itself does not wait for that.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to open the file.
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// The pause between two checks whether the writing connection is idle.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a checkpoint waits for readers and other writers.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long closing waits for a running transaction.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long abandoning a displaced file waits for a running transaction, whose commit will fail.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of reading connections.
const READERS: u32 = 4;
/// How long a reading connection may be idle before it is closed.
const READER_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The page cache of a reading connection. A negative number is a size in KiB.
const READER_CACHE: &str = "-2048";
/// The page cache of the writing connection. Pages are accessed in order, so a larger cache uses
/// memory without being faster.
const WRITER_CACHE: &str = "-8192";

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// For writing. Creates the file if it does not exist.
    Create,
    Write,
    Read,
}

/// An open SQLite file. SQLite allows one writer at a time, so one connection writes and the others
/// only read.
#[derive(Clone, Debug)]
pub(in crate::store) struct SqliteFile {
    /// The path without symbolic links.
    pub(in crate::store) path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    /// False if the file was opened for reading only. Then `writer` cannot write.
    is_writable: bool,
    /// Held while the file is open for writing.
    in_use_lock: Arc<Mutex<Option<InUseLock>>>,
    open_file: OpenFile,
}

impl SqliteFile {
    pub(super) async fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        let location = || format!("sqlite:{}", path.display());
        if access == Access::Create {
            create_folder(path)?;
        } else if !path.exists() {
            return Err(StoreError::Absent { at: location() });
        }
        let in_use_lock = match access {
            Access::Read => Ok(None),
            Access::Write | Access::Create => InUseLock::lock_shared(path).map(Some),
        };
        // While `restore` replaces the file, no new file may be created.
        if let Err(error @ StoreError::BeingRestored { .. }) = in_use_lock {
            return Err(error);
        }
        if access == Access::Create {
            create_file(path)?;
        }
        let open_file =
            OpenFile::at(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let path = open_file.resolved_path().to_owned();
        let options = connect_options(&path, access);
        let writer = connect_writer(&options, &open_file)
            .await
            .map_err(|source| StoreError::Open { at: location(), source })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .idle_timeout(READER_IDLE_TIMEOUT)
            .acquire_slow_level(LevelFilter::Off)
            .connect_lazy_with(options.read_only(true).pragma("cache_size", READER_CACHE));
        // Other errors of the lock are returned only now. If the lock file cannot be used, opening
        // the database usually fails as well, with an error that says more.
        let in_use_lock = Arc::new(Mutex::new(in_use_lock?));
        let is_writable = access != Access::Read;
        let file = Self { path, writer, readers, is_writable, in_use_lock, open_file };
        // The file may have been replaced since its id was read.
        file.check_in_place()?;
        Ok(file)
    }

    /// Returns the inode number and the creation time of the file, which distinguish the file from
    /// a copy.
    pub(in crate::store) fn identity(&self) -> Result<String, StoreError> {
        let open_error = |source| {
            let at = format!("sqlite:{}", self.path.display());
            StoreError::Open { at, source: sqlx::Error::Io(source) }
        };
        let file = std::fs::metadata(&self.path).map_err(open_error)?;
        // Some file systems do not record the creation time.
        let created = file.created().ok().and_then(|created| created.duration_since(UNIX_EPOCH).ok());
        Ok(format!("{}/{}", file.ino(), created.unwrap_or_default().as_nanos()))
    }

    /// Returns a handle of the same file that cannot write.
    pub(super) fn only_reading(&self) -> Self {
        Self { writer: self.readers.clone(), is_writable: false, ..self.clone() }
    }

    /// Fails if the path no longer leads to the open file. After a failure all later calls fail.
    pub(in crate::store) fn check_in_place(&self) -> Result<(), StoreError> {
        self.open_file.check_in_place()
    }

    /// Returns the pool of the writing connection. Fails like [`Self::check_in_place`].
    pub(in crate::store) fn writer(&self) -> Result<&SqlitePool, StoreError> {
        self.check_in_place()?;
        Ok(&self.writer)
    }

    /// Returns the pool of the reading connections. Fails like [`Self::check_in_place`].
    pub(in crate::store) fn readers(&self) -> Result<&SqlitePool, StoreError> {
        self.check_in_place()?;
        Ok(&self.readers)
    }

    /// Waits until [`Self::check_in_place`] has failed.
    pub(super) async fn displaced(&self) {
        self.open_file.displaced().await;
    }

    /// Closes the file: checkpoints the write-ahead log, and leaves the writing connection open
    /// until the process ends. Returns false if the newest changes stay in the -wal file, because a
    /// reader has a transaction open.
    pub(super) async fn close(&self) -> Result<bool, sqlx::Error> {
        self.readers.close().await;
        if !self.is_writable || self.writer.is_closed() {
            return Ok(true);
        }
        let stays_open = self.open_file.mark_left_open();
        if stays_open {
            // A pool closes its connections when its last clone is dropped. A leaked clone keeps
            // the connection open even if the caller cancels this function during the wait below.
            std::mem::forget(self.writer.clone());
        }
        let Some(mut writer) = self.idle_writer(CLOSE_TIMEOUT).await else { return Ok(true) };
        let checkpointed = checkpoint(&mut writer).await;
        self.retire_writer(writer, stays_open).await;
        self.release_in_use_lock();
        checkpointed
    }

    /// Releases the in-use lock, although a connection may stay open: it is not used any more.
    fn release_in_use_lock(&self) {
        self.in_use_lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Closes a displaced file: checkpoints its write-ahead log, and removes the side files that it
    /// left at the path, so that SQLite does not use them with the new file there. Fails if a
    /// reader uses the side files, or if no file is at the path. Idempotent.
    pub(super) async fn abandon(&self) -> Result<(), StoreError> {
        self.readers.close().await;
        if self.is_writable && !self.writer.is_closed() {
            let side_files_in_use = || StoreError::SideFilesInUse { path: self.path.clone() };
            if let Some(mut writer) = self.idle_writer(ABANDON_TIMEOUT).await {
                // An error is ignored, because the file is not used any more.
                let is_checkpointed = checkpoint(&mut writer).await.unwrap_or(true);
                if !is_checkpointed {
                    return Err(side_files_in_use());
                }
                self.retire_writer(writer, self.open_file.mark_left_open()).await;
            } else if self.writer.size() > 0 {
                // A transaction of this process did not end in time.
                return Err(side_files_in_use());
            }
        }
        self.release_in_use_lock();
        self.open_file.remove_side_files()
    }

    /// Waits until no transaction uses the writing connection, and returns it. Returns `None` if no
    /// connection is open, or if a transaction still uses it after `timeout`. Never opens a
    /// connection, because the path may lead to another file.
    async fn idle_writer(&self, timeout: Duration) -> Option<PoolConnection<Sqlite>> {
        let polling = async {
            loop {
                match self.writer.try_acquire() {
                    // A connection is open, and a transaction uses it.
                    None if self.writer.size() > 0 => tokio::time::sleep(IDLE_POLL_INTERVAL).await,
                    writer => return writer,
                }
            }
        };
        tokio::time::timeout(timeout, polling).await.ok().flatten()
    }

    /// Closes the writing pool and its connection. With `stays_open`, leaves the connection open
    /// until the process ends: when the last connection closes, SQLite removes the side files at
    /// the path. Readers need these files. If the file was displaced, they belong to another file.
    async fn retire_writer(&self, writer: PoolConnection<Sqlite>, stays_open: bool) {
        // The pool counts as closed from this call on, so that nobody takes the connection.
        let closing = self.writer.close();
        if stays_open {
            std::mem::forget(writer.detach());
        } else {
            drop(writer);
        }
        closing.await;
    }
}

/// Opens the connection that writes. Waits while another process creates the file.
async fn connect_writer(
    options: &SqliteConnectOptions,
    open_file: &OpenFile,
) -> Result<SqlitePool, sqlx::Error> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    loop {
        let open_file = open_file.clone();
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // While this connection is open, the -wal and -shm files exist. Other users cannot read
            // without them.
            .idle_timeout(None)
            .max_lifetime(None)
            // The writes of many apps may wait for this connection.
            .acquire_timeout(WRITER_TIMEOUT)
            .acquire_slow_level(LevelFilter::Off)
            .after_connect(move |_, _| {
                // Connecting reads the file, for which SQLite creates missing side files.
                open_file.record_side_files();
                Box::pin(async { Ok(()) })
            })
            // When the disk is full, SQLite rolls the transaction back itself. Then the driver's
            // count of open transactions is wrong, and no further one could begin, so the
            // connection is closed.
            .after_release(|connection, _| {
                Box::pin(async {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(options.clone())
            .await;
        match pool {
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Returns true if another process has the file locked: `SQLITE_BUSY` and its extended codes.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// Checkpoints the write-ahead log and truncates it. Returns false if a reader prevented that.
async fn checkpoint(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let busy_timeout = format!("PRAGMA busy_timeout = {}", CHECKPOINT_TIMEOUT.as_millis());
    query(sqlx::AssertSqlSafe(busy_timeout)).execute(&mut *connection).await?;
    let (_busy, frames_in_log, frames_moved): (i64, i64, i64) =
        query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await?;
    // The connection may stay open without being used again, and should not keep its page cache.
    query("PRAGMA shrink_memory").execute(connection).await?;
    // If all frames were moved to the database file, the busy flag does not matter: another process
    // writes or checkpoints, and truncates the log later.
    Ok(frames_in_log == frames_moved)
}

/// Creates the folder of a file if it does not exist. A new folder is accessible only to its owner.
fn create_folder(path: &Path) -> Result<(), StoreError> {
    let folder = folder_of(path);
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.map_err(|source| StoreError::Folder { path: folder.to_owned(), source })
}

/// Creates the file if it does not exist. A new file is accessible only to its owner. If the
/// folder is readable for the group and closed to others, the group may also read the file.
fn create_file(path: &Path) -> Result<(), StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    let folder_mode = std::fs::metadata(folder_of(path)).map_err(file_error)?.mode();
    let group_may_read_folder = folder_mode & 0o050 == 0o050;
    let others_may_access_folder = folder_mode & 0o007 != 0;
    let mode = if group_may_read_folder && !others_may_access_folder { 0o640 } else { 0o600 };
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
        // If the file was deleted, SQLite must not create an empty one.
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("cache_size", WRITER_CACHE)
        .pragma("trusted_schema", "OFF")
        // The driver would log a warning for each statement that takes over a second, such as a
        // checkpoint of a large log. Operators cannot act on such a warning.
        .disable_statement_logging();
    match access {
        // A command that only reads sorts little, and may lack a folder for temporary files.
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

/// Returns the folder for SQLite's temporary files as an SQL literal: the folder of the database.
/// Returns `None` if that is not writable. A statement that changes many rows writes the previous
/// version of each page to a temporary file. Memory would not suffice for that, and SQLite's
/// default folders may be read-only, or small and in memory.
///
/// The setting applies to the entire process. If SQLite cannot write to the folder, it uses the
/// first usable default folder.
fn temporary_folder(path: &Path) -> Option<String> {
    use rustix::fs::{Access, access};
    let folder = path.parent()?;
    access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).ok()?;
    Some(format!("'{}'", folder.to_str()?.replace('\'', "''")))
}

/// Returns the path of a file beside the database, named `<database>.<suffix>`.
pub(in crate::store) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}
