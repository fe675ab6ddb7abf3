//! Opening and closing the database.

use std::fmt;
use std::path::PathBuf;

use tracing::{debug, warn};

use super::connect::PostgresDatabase;
use super::error::StoreError;
use super::limits::Limits;
use super::postgres::{Intent, Server};
use super::sqlite::{Access, SqliteFile};

/// Where the database is: the path of an SQLite file, or the settings of a PostgreSQL connection.
#[derive(Clone)]
pub enum DatabaseLocation {
    Sqlite(PathBuf),
    Postgres(PostgresDatabase),
}

impl fmt::Display for DatabaseLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(database) => database.fmt(f),
        }
    }
}

impl fmt::Debug for DatabaseLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The database of all apps. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    pub(in crate::store) engine: Engine,
}

#[derive(Clone, Debug)]
pub(in crate::store) enum Engine {
    Sqlite(SqliteFile),
    Postgres(Server),
}

impl Engine {
    /// Returns the limits of all waits for a server. They have no effect on an SQLite file.
    pub(in crate::store) fn limits(&self) -> Limits {
        match self {
            Self::Sqlite(_) => Limits::default(),
            Self::Postgres(server) => server.limits(),
        }
    }
}

impl Store {
    /// Opens the database. Creates an SQLite file and its folder if they do not exist.
    /// [`Store::migrate`] creates the tables.
    ///
    /// # Errors
    /// If the file cannot be opened or the server cannot be used.
    pub async fn open(location: &DatabaseLocation) -> Result<Self, StoreError> {
        Self::open_with(location, Access::Create, Intent::Write).await
    }

    /// Opens an existing database for writing.
    ///
    /// # Errors
    /// As [`Store::open`], and if the file does not exist.
    pub async fn open_existing(location: &DatabaseLocation) -> Result<Self, StoreError> {
        Self::open_with(location, Access::Write, Intent::Write).await
    }

    /// Opens an existing database for reading only. An SQLite file is not changed; a PostgreSQL
    /// standby is sufficient.
    ///
    /// # Errors
    /// As [`Store::open_existing`].
    pub async fn open_to_read(location: &DatabaseLocation) -> Result<Self, StoreError> {
        Self::open_with(location, Access::Read, Intent::Read).await
    }

    async fn open_with(
        location: &DatabaseLocation,
        access: Access,
        intent: Intent,
    ) -> Result<Self, StoreError> {
        let engine = match location {
            DatabaseLocation::Sqlite(path) => Engine::Sqlite(SqliteFile::open(path, access).await?),
            DatabaseLocation::Postgres(database) => {
                Engine::Postgres(Server::connect(database, intent).await?)
            }
        };
        Ok(Self { engine })
    }

    /// Returns a store that cannot write to an SQLite file. For PostgreSQL, returns an ordinary
    /// store.
    #[must_use]
    pub fn only_reading(&self) -> Self {
        let engine = match &self.engine {
            Engine::Sqlite(file) => Engine::Sqlite(file.only_reading()),
            // On PostgreSQL, all queries outside of [`Store::write`] run in read-only transactions.
            Engine::Postgres(server) => Engine::Postgres(server.clone()),
        };
        Self { engine }
    }

    /// Closes the idle connections to a server, so that the next transactions connect again with
    /// the current password. Does nothing for SQLite.
    pub async fn close_idle_connections(&self) {
        if let Engine::Postgres(server) = &self.engine {
            server.close_idle_connections().await;
        }
    }

    /// Closes the database. For SQLite, checkpoints the write-ahead log, and leaves one connection
    /// open until the process ends: when the last connection closes, SQLite removes the side files,
    /// which readers need.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(file) => match file.close().await {
                Ok(true) => {}
                Ok(false) => warn!(
                    "a reader has a transaction open, so the newest changes stay in {path}-wal: a \
                     copy of {path} alone lacks them (make copies with `tim-group-sync backup`)",
                    path = file.path.display()
                ),
                Err(error) => debug!("cannot checkpoint the database's write-ahead log: {error}"),
            },
            Engine::Postgres(server) => server.close().await,
        }
    }

    /// Fails if an open SQLite file was moved, deleted or replaced at its path.
    pub fn check_in_place(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => file.check_in_place(),
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// Waits until a query, a transaction or [`Self::check_in_place`] has found that the path no
    /// longer leads to the open SQLite file. Never returns on PostgreSQL.
    pub async fn displaced(&self) {
        match &self.engine {
            Engine::Sqlite(file) => file.displaced().await,
            Engine::Postgres(_) => std::future::pending().await,
        }
    }

    /// Closes an SQLite file that was moved, deleted or replaced, so that the file that is at its
    /// path now can be opened. Fails while no file is at the path, or while a reader uses the old
    /// side files. Idempotent.
    pub async fn abandon(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => file.abandon().await,
            Engine::Postgres(_) => Ok(()),
        }
    }
}
