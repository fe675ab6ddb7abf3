//! Opening an SQLite file.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::error::StoreError;
use super::in_use::InUse;
use super::statement::query;

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
    pub(in crate::store) writer: SqlitePool,
    pub(in crate::store) readers: SqlitePool,
    /// Whether `writer` may write.
    writes: bool,
    /// Held while the file is open for writing.
    in_use: Arc<Mutex<Option<InUse>>>,
}

impl SqliteFile {
    pub(super) async fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        let at = || format!("sqlite:{}", path.display());
        if access != Access::Create && !path.exists() {
            return Err(StoreError::Absent { at: at() });
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
            && access == Access::Create
        {
            std::fs::create_dir_all(folder)
                .map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
        }
        let in_use = match access {
            Access::Read => Ok(None),
            Access::Write | Access::Create => InUse::share(path).map(Some),
        };
        if let Err(error @ StoreError::BeingRestored { .. }) = in_use {
            return Err(error);
        }
        let options = connect_options(path, access);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // While this connection is open, so are the -wal and -shm files, without which other users cannot read.
            .idle_timeout(None)
            .max_lifetime(None)
            // Many apps at once queue for it.
            .acquire_timeout(Duration::from_secs(600))
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
            .connect_lazy_with(
                options.create_if_missing(false).read_only(true).pragma("cache_size", "-2048"),
            );
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // If the lock file could not be used, the database usually cannot either, and its error says more.
        let in_use = Arc::new(Mutex::new(in_use?));
        Ok(Self { path, writer, readers, writes: access != Access::Read, in_use })
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

    /// Closes the connections, after taking the file out of WAL mode.
    pub(super) async fn close(&self) -> Result<(), sqlx::Error> {
        // Readers first: only the last connection can leave WAL mode.
        self.readers.close().await;
        let left = if self.writes { self.leave_wal_mode().await } else { Ok(()) };
        self.writer.close().await;
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).take();
        left
    }

    /// Takes the file out of WAL mode. In WAL mode a file can be opened only together with its -wal and -shm files, which
    /// SQLite removes with the last connection. A user with read access to the file, but no write access to its folder,
    /// could not open it afterwards. While another process has the file open this fails, and the side files stay.
    async fn leave_wal_mode(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.writer.acquire().await?;
        // No `PRAGMA optimize`: the planner answers every documented question well without statistics, and the query for
        // the newest events worse with them, because it then sorts all events of an app.
        query("PRAGMA busy_timeout = 0").execute(&mut *connection).await?;
        query("PRAGMA journal_mode = DELETE").execute(&mut *connection).await?;
        Ok(())
    }
}

fn connect_options(path: &Path, access: Access) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(access == Access::Create)
        .busy_timeout(Duration::from_secs(10))
        .foreign_keys(true)
        // In KiB. Pages are touched in order: a larger cache makes the process bigger and nothing faster.
        .pragma("cache_size", "-8192")
        .pragma("trusted_schema", "OFF");
    match access {
        Access::Read => options.read_only(true),
        Access::Write | Access::Create => {
            options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
        }
    }
}

/// Returns the path of a file next to the database, named after it.
pub(in crate::store) fn beside(database: &Path, what: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}
