//! The connection pools, and the two macros through which every statement runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::error::StoreError;
use super::lease::FileLock;

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Where the tables are.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The database of all apps. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) engine: Engine,
}

#[derive(Clone, Debug)]
pub(super) enum Engine {
    Sqlite(SqliteFile),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Create,
    Write,
    Read,
}

/// SQLite has one writer at a time, so there is one connection that writes, and others that cannot.
#[derive(Clone, Debug)]
pub(super) struct SqliteFile {
    pub(super) path: PathBuf,
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
}

/// Runs an expression on a pool that reads.
macro_rules! reading {
    ($store:expr, $pool:ident => $run:expr) => {
        match &$store.engine {
            crate::store::engine::Engine::Sqlite(file) => {
                let $pool = &file.readers;
                $run
            }
        }
    };
}
pub(super) use reading;

/// Runs a block in a transaction that writes, and commits it. In the block, `$tx` is the transaction and `$dialect`
/// the module with the engine's own statements.
macro_rules! writing {
    ($store:expr, $doing:expr, |$tx:ident, $dialect:ident| $run:block) => {
        match &$store.engine {
            crate::store::engine::Engine::Sqlite(file) => {
                #[allow(unused_imports, clippy::allow_attributes, reason = "few blocks have statements of the engine's own")]
                use crate::store::sqlite as $dialect;
                // A deferred transaction that reads first and writes then fails at once when another one wrote.
                let mut $tx = crate::store::error::Attempted::attempted(
                    file.writer.begin_with("BEGIN IMMEDIATE").await,
                    $doing,
                )?;
                let outcome = $run;
                crate::store::error::Attempted::attempted($tx.commit().await, $doing)?;
                outcome
            }
        }
    };
}
pub(super) use writing;

impl Store {
    /// Opens the database, creating an SQLite file and its folder if need be. Tables are made by [`Store::migrate`].
    pub async fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        match url {
            DatabaseUrl::Sqlite(path) => {
                if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                    std::fs::create_dir_all(folder)
                        .map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
                }
                Self::open_sqlite(path, Access::Create).await
            }
        }
    }

    /// Opens a database that must exist.
    pub async fn open_existing(url: &DatabaseUrl) -> Result<Self, StoreError> {
        match url {
            DatabaseUrl::Sqlite(path) => Self::open_sqlite(path, Access::Write).await,
        }
    }

    /// Opens a database that must exist, to read it and nothing else: the file is not touched.
    pub async fn open_to_read(url: &DatabaseUrl) -> Result<Self, StoreError> {
        match url {
            DatabaseUrl::Sqlite(path) => Self::open_sqlite(path, Access::Read).await,
        }
    }

    async fn open_sqlite(path: &Path, access: Access) -> Result<Self, StoreError> {
        let at = || DatabaseUrl::Sqlite(path.to_owned()).to_string();
        if access != Access::Create && !path.exists() {
            return Err(StoreError::Absent { at: at() });
        }
        let open_error = |source| StoreError::Open { at: at(), source };
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(access == Access::Create)
            .busy_timeout(Duration::from_secs(10))
            .foreign_keys(true)
            // In KiB. A larger cache makes nothing faster, because each page is touched in order, but the process bigger.
            .pragma("cache_size", "-8192")
            .pragma("trusted_schema", "OFF");
        options = match access {
            Access::Read => options.read_only(true),
            Access::Write | Access::Create => options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .optimize_on_close(true, 400),
        };
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // As long as this connection is open, so are the side files, without which others cannot read.
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await
            .map_err(open_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(
                options.create_if_missing(false).read_only(true).pragma("cache_size", "-2048"),
            );
        Ok(Self { engine: Engine::Sqlite(SqliteFile { path: path.to_owned(), writer, readers }) })
    }

    /// Brings the tables up to date; does nothing if they are.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => {
                // SQLite has no lock for this, and two programs may start at once on an empty file.
                let _lock = FileLock::take(&beside(&file.path, "migrate.lock"), &file.path).await?;
                SQLITE_MIGRATIONS.run(&file.writer).await.map_err(|error| match error {
                    MigrateError::VersionMissing(version) => StoreError::Newer { version },
                    error => StoreError::Migrate { source: Box::new(error) },
                })
            }
        }
    }

    /// Whether all tables are there, none newer than this program knows.
    pub async fn check_migrated(&self) -> Result<(), StoreError> {
        const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version";
        let known = SQLITE_MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        let applied: Vec<i64> = match reading!(self, pool => sqlx::query_scalar(APPLIED).fetch_all(pool).await)
        {
            Ok(applied) => applied,
            Err(sqlx::Error::Database(_)) => return Err(StoreError::NotMigrated),
            Err(source) => {
                return Err(StoreError::Query { doing: "read which migrations were applied", source });
            }
        };
        match applied.last() {
            Some(&version) if version > known => Err(StoreError::Newer { version }),
            Some(&version) if version == known => Ok(()),
            _ => Err(StoreError::NotMigrated),
        }
    }

    /// The SQL of all migrations, for a database administrator who applies them by hand.
    #[must_use]
    pub fn migration_sql(url: &DatabaseUrl) -> String {
        let migrations = match url {
            DatabaseUrl::Sqlite(_) => &SQLITE_MIGRATIONS,
        };
        let mut sql = String::new();
        for migration in migrations.iter() {
            let (version, description) = (migration.version, &migration.description);
            sql.extend([&format!("-- {version:04} {description}\n"), migration.sql.as_str(), "\n"]);
        }
        sql
    }

    /// Gives all connections back.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(file) => {
                // Readers first: the writer removes the side files only as the last one.
                file.readers.close().await;
                file.writer.close().await;
            }
        }
    }
}

/// A file next to the database, named after it.
pub(super) fn beside(database: &Path, what: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}
