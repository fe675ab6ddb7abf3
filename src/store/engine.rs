//! The two engines, and the macros through which every statement runs on either.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::database::HasStatementCache;
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Database, FromRow, SqlSafeStr};
use tracing::debug;

use super::error::StoreError;
use super::server::{Intent, PostgresDatabase, Server};

/// Where the tables are.
#[derive(Clone)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    Postgres(PostgresDatabase),
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(database) => database.fmt(f),
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
    Postgres(Server),
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
    /// Whether `writer` may write.
    writes: bool,
}

/// A statement, as all of the store's are made: not kept prepared by the server, because the next transaction may meet
/// another server behind a pooler. Inside a transaction preparing anew is safe, and costs less than its network way.
pub(super) fn query<DB: Database + HasStatementCache>(
    sql: impl SqlSafeStr,
) -> Query<'static, DB, DB::Arguments> {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes statements")]
    sqlx::query(sql).persistent(false)
}

/// A statement whose rows become values of a type.
pub(super) fn query_as<DB: Database + HasStatementCache, O: for<'r> FromRow<'r, DB::Row>>(
    sql: impl SqlSafeStr,
) -> QueryAs<'static, DB, O, DB::Arguments> {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes statements")]
    sqlx::query_as(sql).persistent(false)
}

/// A statement whose rows have one column.
pub(super) fn query_scalar<DB: Database + HasStatementCache, O>(
    sql: impl SqlSafeStr,
) -> QueryScalar<'static, DB, O, DB::Arguments>
where
    (O,): for<'r> FromRow<'r, DB::Row>,
{
    #[expect(clippy::disallowed_methods, reason = "the one place that makes statements")]
    sqlx::query_scalar(sql).persistent(false)
}

/// Runs an expression that reads through `$on`, once, and gives its `Result<_, sqlx::Error>`. On PostgreSQL it may be
/// evaluated again after a failure that passes.
macro_rules! reading {
    ($store:expr, $on:ident => $run:expr) => {
        match &$store.engine {
            crate::store::engine::Engine::Sqlite(file) => {
                let $on = &file.readers;
                $run
            }
            crate::store::engine::Engine::Postgres(server) => {
                let mut retries = crate::store::server::Retries::default();
                loop {
                    let outcome: Result<_, sqlx::Error> = Box::pin(async {
                        let mut transaction = server.begin_to_read().await?;
                        let $on = &mut *transaction;
                        let outcome: Result<_, sqlx::Error> = $run;
                        let outcome = outcome?;
                        transaction.commit().await?;
                        Ok(outcome)
                    })
                    .await;
                    match outcome {
                        Err(error) if retries.again(&error).await => {}
                        outcome => break outcome,
                    }
                }
            }
        }
    };
}
pub(super) use reading;

/// Runs a block in a transaction that writes, and commits it. In the block, `$tx` is the transaction and `$dialect`
/// the module with the engine's own statements.
///
/// On PostgreSQL the block may run several times: the transaction of an earlier time was taken back, or, if the
/// connection broke during its commit, perhaps was not. So a block starts from values of its own, and doing it twice
/// must come to the same as doing it once.
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
                let outcome: Result<_, crate::store::error::StoreError> = $run;
                let outcome = outcome?;
                crate::store::error::Attempted::attempted($tx.commit().await, $doing)?;
                Ok(outcome)
            }
            crate::store::engine::Engine::Postgres(server) => {
                #[allow(unused_imports, clippy::allow_attributes, reason = "few blocks have statements of the engine's own")]
                use crate::store::postgres as $dialect;
                let mut retries = crate::store::server::Retries::default();
                loop {
                    let outcome: Result<_, crate::store::error::StoreError> = Box::pin(async {
                        let mut $tx =
                            crate::store::error::Attempted::attempted(server.begin().await, $doing)?;
                        let outcome: Result<_, crate::store::error::StoreError> = $run;
                        let outcome = outcome?;
                        crate::store::error::Attempted::attempted($tx.commit().await, $doing)?;
                        Ok(outcome)
                    })
                    .await;
                    match outcome {
                        Err(crate::store::error::StoreError::Query { source, .. })
                            if retries.again(&source).await => {}
                        outcome => break outcome,
                    }
                }
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
            DatabaseUrl::Postgres(database) => Self::open_postgres(database, Intent::Write).await,
        }
    }

    /// Opens a database that must exist.
    pub async fn open_existing(url: &DatabaseUrl) -> Result<Self, StoreError> {
        match url {
            DatabaseUrl::Sqlite(path) => Self::open_sqlite(path, Access::Write).await,
            DatabaseUrl::Postgres(database) => Self::open_postgres(database, Intent::Write).await,
        }
    }

    /// Opens a database that must exist, to read it and nothing else: an SQLite file is not touched, and a replica
    /// will do.
    pub async fn open_to_read(url: &DatabaseUrl) -> Result<Self, StoreError> {
        match url {
            DatabaseUrl::Sqlite(path) => Self::open_sqlite(path, Access::Read).await,
            DatabaseUrl::Postgres(database) => Self::open_postgres(database, Intent::Read).await,
        }
    }

    async fn open_postgres(database: &PostgresDatabase, intent: Intent) -> Result<Self, StoreError> {
        Ok(Self { engine: Engine::Postgres(Server::connect(database, intent).await?) })
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
            Access::Write | Access::Create => {
                options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
            }
        };
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // As long as this connection is open, so are the side files, without which others cannot read.
            .idle_timeout(None)
            .max_lifetime(None)
            // Many apps at once queue for it.
            .acquire_timeout(Duration::from_secs(600))
            // A full disk makes SQLite itself take the transaction back, after which the driver's count of open
            // transactions stays wrong: no further one could begin.
            .after_release(|connection, _| {
                Box::pin(async {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(options.clone())
            .await
            .map_err(open_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(
                options.create_if_missing(false).read_only(true).pragma("cache_size", "-2048"),
            );
        Ok(Self {
            engine: Engine::Sqlite(SqliteFile {
                path: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
                writer,
                readers,
                writes: access != Access::Read,
            }),
        })
    }

    /// The same database for someone who only reads: an SQLite file cannot be written through it.
    #[must_use]
    pub fn only_reading(&self) -> Self {
        let engine = match &self.engine {
            Engine::Sqlite(file) => {
                Engine::Sqlite(SqliteFile { writer: file.readers.clone(), writes: false, ..file.clone() })
            }
            // Reads have transactions of their own there, which cannot write.
            Engine::Postgres(server) => Engine::Postgres(server.clone()),
        };
        Self { engine }
    }

    /// Gives all connections back, and leaves an SQLite file as others can read it.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(file) => {
                // Readers first: only the last connection can put the file away.
                file.readers.close().await;
                if file.writes
                    && let Err(error) = file.put_away().await
                {
                    debug!("the database stays in WAL mode: {error}");
                }
                file.writer.close().await;
            }
            Engine::Postgres(server) => server.close().await,
        }
    }
}

impl SqliteFile {
    /// Takes the file out of WAL mode. In it a file can be opened only with its side files, which SQLite removes with the
    /// last connection: after that, someone who may read the file but not write to its folder could not open it any more.
    /// While someone else has the file open it cannot leave the mode, and then the side files stay: they serve as well.
    async fn put_away(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.writer.acquire().await?;
        // No statistics are left for the planner (`PRAGMA optimize`): it answers every documented question well without
        // them, and for the newest events worse with them, because it reads the events of the only app and sorts.
        // Whoever reads now is not waited for.
        query("PRAGMA busy_timeout = 0").execute(&mut *connection).await?;
        query("PRAGMA journal_mode = DELETE").execute(&mut *connection).await?;
        Ok(())
    }
}

/// A file next to the database, named after it.
pub(super) fn beside(database: &Path, what: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}
